//! The stdout sink: records as text on standard output.
//!
//! When the job takes checkpoints, output is held back until the checkpoint that covers it is
//! complete, and travels in the checkpoint meanwhile. So within one process every record is written
//! once, restarts included. A pipe cannot be asked what it has got: a new process that resumes a
//! checkpoint writes that checkpoint's output again, because it may not have been written before the
//! crash. `delivery = "immediate"` writes at once, and again what is replayed after a failure.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dataflow::port::Port;
use dataflow::{Batch, CheckpointId};
use formats::RecordFormat;
use formats::encoder::{Encoder, EncoderOptions};
use job_file::options::Options;
use job_file::problem::Problem;
use operator::source::Part;
use operator::text::counted;
use operator::{BoxError, Permanent, Sink, SinkFactory, SubtaskContext};
use serde::{Deserialize, Serialize};

use super::connector::{PreparedSink, SinkConnector, SinkContext, read_and_prepare};
use super::parts::of_another_connector;

/// The most bytes that a subtask holds back: they travel in the checkpoint.
const MAX_HELD: usize = 16 << 20;

/// The connector `stdout`.
pub(crate) const CONNECTOR: SinkConnector = SinkConnector {
    name: "stdout",
    prepare,
};

fn prepare(options: Options, context: &SinkContext<'_>) -> Result<PreparedSink, Vec<Problem>> {
    read_and_prepare(options, |options: &StdoutOptions| {
        let mut factory = options.prepare(context.input_ports, context.has_checkpoints)?;
        if context.has_rows_of_sources {
            factory.trust_rows();
        }
        Ok(PreparedSink {
            factory: Arc::new(factory),
            writes: None,
            options: Options::effective(options),
        })
    })
}

/// Options of the connector `stdout`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct StdoutOptions {
    /// How records are written.
    pub(crate) format: Option<RecordFormat>,
    /// CSV: whether the names of the columns come first.
    pub(crate) header: bool,
    /// Lines: whether the key and a tab stand before the value.
    pub(crate) with_key: bool,
    /// When output is written. Unset: when its checkpoint completes if there are checkpoints, else at
    /// once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivery: Option<Delivery>,
}

/// When output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Delivery {
    /// When its checkpoint completes.
    ExactlyOnce,
    /// At once.
    Immediate,
}

impl StdoutOptions {
    /// Checks the options and the ports. `has_checkpoints` says whether the job takes checkpoints
    /// while it runs.
    ///
    /// # Errors
    /// Everything that keeps the sink from starting.
    pub(crate) fn prepare(
        &self,
        ports: &[Port],
        has_checkpoints: bool,
    ) -> Result<StdoutFactory, Vec<Problem>> {
        let options = EncoderOptions {
            format: self.format,
            header: self.header,
            with_key: self.with_key,
        };
        let encoder = Encoder::new(&options, ports)?;
        let default = if has_checkpoints {
            Delivery::ExactlyOnce
        } else {
            Delivery::Immediate
        };
        let delivery = self.delivery.unwrap_or(default);
        Ok(StdoutFactory::new(
            encoder,
            delivery,
            Box::new(io::stdout()),
        ))
    }
}

/// Makes stdout sinks that share one standard output.
pub(crate) struct StdoutFactory {
    encoder: Arc<Encoder>,
    delivery: Delivery,
    output: Arc<Mutex<Output>>,
}

/// Where the lines of all subtasks come together.
struct Output {
    writer: Box<dyn Write + Send>,
    header_written: bool,
    /// The latest checkpoint of each subtask whose output was written by this process.
    committed: Vec<u64>,
}

/// What a subtask has prepared, as a checkpoint records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prepared {
    subtask: u32,
    checkpoint: u64,
    records: u64,
    #[serde(flatten)]
    text: Text,
}

/// Bytes in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Text {
    /// As they are, if they are UTF-8.
    Text(String),
    /// Each byte as the character of its number.
    Latin1(String),
}

impl Text {
    fn new(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Latin1(
                error
                    .as_bytes()
                    .iter()
                    .map(|byte| char::from(*byte))
                    .collect(),
            ),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::Latin1(text) => text.chars().map(|c| c as u8).collect(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) | Self::Latin1(text) => text.len(),
        }
    }
}

impl Output {
    fn write(&mut self, header: &[u8], text: &[u8]) -> Result<(), BoxError> {
        let mut write = || -> io::Result<()> {
            if !self.header_written {
                self.writer.write_all(header)?;
            }
            self.writer.write_all(text)?;
            self.writer.flush()
        };
        write().map_err(cannot_write)?;
        self.header_written = true;
        Ok(())
    }

    fn committed(&mut self, subtask: u32) -> &mut u64 {
        let index = subtask as usize;
        if self.committed.len() <= index {
            self.committed.resize(index + 1, 0);
        }
        &mut self.committed[index]
    }

    /// Writes what was prepared, unless this process has done so.
    fn commit(&mut self, header: &[u8], prepared: &Prepared) -> Result<(), BoxError> {
        if prepared.checkpoint > *self.committed(prepared.subtask) {
            self.write(header, &prepared.text.bytes())?;
            *self.committed(prepared.subtask) = prepared.checkpoint;
        }
        Ok(())
    }
}

/// A program that has stopped reading does not begin again, so the job is not restarted for it.
fn cannot_write(error: io::Error) -> BoxError {
    if error.kind() != io::ErrorKind::BrokenPipe {
        return format!("cannot write to standard output: {error}").into();
    }
    let message = "the program that read standard output has ended; resume with one that reads to the \
                   end, or write to files with the connector `file`";
    Permanent::because(message, error).into()
}

fn lock(output: &Mutex<Output>) -> MutexGuard<'_, Output> {
    // Whatever a subtask wrote before it panicked is on its way; the next line begins a new one.
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StdoutFactory {
    /// See [`Encoder::trust_rows`].
    pub(crate) fn trust_rows(&mut self) {
        Arc::make_mut(&mut self.encoder).trust_rows();
    }

    fn new(encoder: Encoder, delivery: Delivery, writer: Box<dyn Write + Send>) -> Self {
        let output = Output {
            writer,
            header_written: false,
            committed: Vec::new(),
        };
        Self {
            encoder: Arc::new(encoder),
            delivery,
            output: Arc::new(Mutex::new(output)),
        }
    }
}

impl SinkFactory for StdoutFactory {
    fn delivery(&self) -> operator::Delivery {
        operator::Delivery::AtLeastOnce
    }

    fn check_restored(&self, _run: &str, parts: &[Part]) -> Result<(), BoxError> {
        match parts.iter().all(|part| Prepared::deserialize(part).is_ok()) {
            true => Ok(()),
            false => Err(of_another_connector(parts).into()),
        }
    }

    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Sink>, BoxError> {
        let parts = restored.unwrap_or_default().iter().enumerate();
        let mine = parts.filter(|(index, _)| {
            *index as u64 % u64::from(context.parallelism) == u64::from(context.subtask)
        });
        for (_, part) in mine {
            let prepared = Prepared::deserialize(part).map_err(|error| {
                format!("the snapshot has a part that is not that of stdout: {part}: {error}")
            })?;
            if prepared.subtask >= dataflow::KeyGroups::MAX {
                return Err(
                    format!("the snapshot has a part of an impossible subtask: {part}").into(),
                );
            }
            lock(&self.output).commit(self.encoder.header(), &prepared)?;
        }
        Ok(Box::new(StdoutSink {
            subtask: context.subtask,
            encoder: Arc::clone(&self.encoder),
            delivery: self.delivery,
            output: Arc::clone(&self.output),
            text: Vec::new(),
            records: 0,
            taken: 0,
            prepared: Vec::new(),
        }))
    }
}

/// One subtask's output.
struct StdoutSink {
    subtask: u32,
    encoder: Arc<Encoder>,
    delivery: Delivery,
    output: Arc<Mutex<Output>>,
    /// Encoded, neither written nor part of a checkpoint.
    text: Vec<u8>,
    /// Records in it.
    records: u64,
    /// Records taken by this instance, for messages.
    taken: u64,
    /// Part of a checkpoint, not yet written.
    prepared: Vec<Prepared>,
}

impl Sink for StdoutSink {
    fn write(&mut self, batch: &Batch) -> Result<(), BoxError> {
        let fits = self.encoder.fits(batch);
        for index in 0..batch.len() {
            self.encoder
                .encode(batch, index, fits, &mut self.text)
                .map_err(|message| {
                    // The record would come again, and be the same.
                    Permanent::new(format!(
                        "cannot write record {} of this attempt: {message}",
                        self.taken + 1
                    ))
                })?;
            self.taken += 1;
        }
        self.records += batch.len() as u64;
        if self.delivery == Delivery::Immediate {
            if !batch.is_empty() {
                lock(&self.output).write(self.encoder.header(), &self.text)?;
            }
            self.text.clear();
            self.records = 0;
            return Ok(());
        }
        let held: usize = self
            .prepared
            .iter()
            .map(|prepared| prepared.text.len())
            .sum();
        if held + self.text.len() > MAX_HELD {
            return Err(format!(
                "more than {} MiB of output wait for a checkpoint: take checkpoints more often, set \
                 `delivery = \"immediate\"`, or use the connector `file`",
                MAX_HELD >> 20
            )
            .into());
        }
        Ok(())
    }

    fn prepare(&mut self, id: CheckpointId) -> Result<Vec<Part>, BoxError> {
        if !self.text.is_empty() {
            let text = Text::new(std::mem::take(&mut self.text));
            let records = std::mem::take(&mut self.records);
            self.prepared.push(Prepared {
                subtask: self.subtask,
                checkpoint: id.0,
                records,
                text,
            });
        }
        Ok(self
            .prepared
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<_, _>>()?)
    }

    fn commit(&mut self, id: CheckpointId) -> Result<(), BoxError> {
        let mut output = lock(&self.output);
        for prepared in self
            .prepared
            .iter()
            .filter(|prepared| prepared.checkpoint <= id.0)
        {
            output.commit(self.encoder.header(), prepared)?;
        }
        drop(output);
        self.prepared.retain(|prepared| prepared.checkpoint > id.0);
        Ok(())
    }

    fn close(&mut self) -> Result<(), BoxError> {
        let records = self.records
            + self
                .prepared
                .iter()
                .map(|prepared| prepared.records)
                .sum::<u64>();
        if records > 0 {
            return Err(format!(
                "the sink ends with output for standard output that was never committed: {}",
                counted(records, "record")
            )
            .into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
