//! What the tests of connectors share: contexts and a way to take records one by one.

use dataflow::Batch;
use dataflow::batch::NO_TIMESTAMP;
use operator::source::{Part, Waker};
use operator::{JobIdentity, Source, SourceStatus, SubtaskContext};

/// A record as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) key: Option<String>,
    pub(crate) value: String,
    pub(crate) timestamp: i64,
}

/// The job of [`context`].
pub(crate) fn job() -> JobIdentity {
    job_named("job-0a1b2c3d")
}

/// A job of this id, without a directory of its own.
pub(crate) fn job_named(id: &str) -> JobIdentity {
    JobIdentity {
        id: id.to_owned(),
        directory: String::new(),
    }
}

pub(crate) fn context(subtask: u32, parallelism: u32) -> SubtaskContext {
    SubtaskContext {
        operator: "tested".to_owned(),
        subtask,
        parallelism,
        job: job(),
        run: "0a1b2c3d".to_owned(),
        generation: 0,
        attempt: 0,
        waker: Waker::new(|| {}),
    }
}

fn text(cell: &[u8]) -> String {
    cell.iter().map(|byte| char::from(*byte)).collect()
}

/// The records of a batch, their bytes as the characters of the same numbers.
pub(crate) fn records(batch: &Batch) -> Vec<Record> {
    let record = |index: usize| Record {
        key: batch.is_keyed().then(|| text(batch.keys.get(index))),
        value: text(batch.values.get(index)),
        timestamp: batch.timestamps.get(index).copied().unwrap_or(NO_TIMESTAMP),
    };
    (0..batch.len()).map(record).collect()
}

/// Takes one record by polling with a batch that has room for one. `None` at the end.
pub(crate) fn take_one(source: &mut dyn Source, keyed: bool) -> Result<Option<Record>, String> {
    loop {
        let mut batch = Batch::default();
        for _ in 1..Batch::TARGET_RECORDS {
            batch.push(keyed.then_some(b"".as_slice()), b"", NO_TIMESTAMP);
        }
        let before = batch.len();
        let status = source
            .poll(&mut batch)
            .map_err(|error| format!("{error:?}"))?;
        match records(&batch).split_off(before).pop() {
            Some(record) => return Ok(Some(record)),
            None if status == SourceStatus::Ended => return Ok(None),
            None => {}
        }
    }
}

/// Takes all records that are left.
pub(crate) fn take_all(source: &mut dyn Source) -> Result<Vec<Record>, String> {
    let mut all = Vec::new();
    loop {
        let mut batch = Batch::default();
        let result = source.poll(&mut batch);
        all.extend(records(&batch));
        match result {
            Ok(SourceStatus::Ended) => return Ok(all),
            Ok(_) => {}
            Err(error) => return Err(error_chain(&*error)),
        }
    }
}

/// An error with its causes, as the host prints it.
pub(crate) fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Parts as they come back from a checkpoint.
pub(crate) fn through_json(parts: &[Part]) -> Vec<Part> {
    serde_json::from_str(&serde_json::to_string(parts).unwrap()).unwrap()
}

pub(crate) use formats::testing::Random;
