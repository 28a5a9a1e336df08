//! Reading every byte of a checkpoint, and saying all that is wrong with it.

use std::collections::BTreeSet;
use std::io;

use crate::{Completed, Error};

/// What verifying a checkpoint found. Its metadata was verified when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments that were read.
    pub segments: u64,
    /// Data files that they are in.
    pub files: u64,
    /// Stored bytes of segments that were read and found right.
    pub bytes: u64,
    /// Everything that is wrong, in the order of the metadata.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

/// One thing that is wrong with a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub object: String,
    /// What is wrong with it, with the offset range.
    pub what: String,
    /// Whose state it is: operator id and subtask.
    pub owner: (String, u32),
}

/// Reads all state of a checkpoint. Never fails: what cannot be read is a problem in the report.
#[must_use]
pub fn verify(checkpoint: &Completed) -> Report {
    let mut report = Report::default();
    let mut files = BTreeSet::new();
    for (operator, subtask, segment) in checkpoint.segments() {
        report.segments += 1;
        files.extend(&segment.file);
        let read = checkpoint
            .read(segment)
            .and_then(|mut reader| io::copy(&mut reader, &mut io::sink()).map_err(from_io));
        match read {
            Ok(_raw) => report.bytes += segment.length,
            Err(error) => {
                let (object, what) = match error {
                    Error::Corrupt { object, what } => (object, what),
                    error => {
                        let source = std::error::Error::source(&error)
                            .map(|source| format!(": {source}"))
                            .unwrap_or_default();
                        (
                            checkpoint.segment_location(segment),
                            format!("{error}{source}"),
                        )
                    }
                };
                report.problems.push(Problem {
                    object,
                    what,
                    owner: (operator.id.clone(), subtask),
                });
            }
        }
    }
    report.files = files.len() as u64;
    report
}

/// The error that a segment's reader wrapped.
fn from_io(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::Storage {
            action: "reading",
            object: "a segment".to_owned(),
            source: error.into(),
        },
    }
}
