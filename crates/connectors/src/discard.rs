//! The discard sink: takes records and drops them, for benchmarks and for operators whose only effect
//! is their state.

use std::sync::Arc;

use dataflow::{Batch, CheckpointId};
use job_file::options::Options;
use job_file::problem::Problem;
use operator::source::Part;
use operator::{BoxError, Delivery, Sink, SinkFactory, SubtaskContext};
use serde::{Deserialize, Serialize};

use super::connector::{PreparedSink, SinkConnector, SinkContext, read_and_prepare};
use super::parts::of_another_connector;

/// The connector `discard`.
pub(crate) const CONNECTOR: SinkConnector = SinkConnector {
    name: "discard",
    prepare,
};

fn prepare(options: Options, _: &SinkContext<'_>) -> Result<PreparedSink, Vec<Problem>> {
    read_and_prepare(options, |options: &DiscardOptions| {
        Ok(PreparedSink {
            factory: Arc::new(DiscardFactory),
            writes: None,
            options: Options::effective(options),
        })
    })
}

/// Options of the connector `discard`: there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DiscardOptions {}

/// Makes discard sinks.
pub(crate) struct DiscardFactory;

impl SinkFactory for DiscardFactory {
    fn delivery(&self) -> Delivery {
        Delivery::Nothing
    }

    fn check_restored(&self, _run: &str, parts: &[Part]) -> Result<(), BoxError> {
        // Nothing is ever prepared here.
        match parts.is_empty() {
            true => Ok(()),
            false => Err(of_another_connector(parts).into()),
        }
    }

    fn create(
        &self,
        context: &SubtaskContext,
        _restored: Option<&[Part]>,
    ) -> Result<Box<dyn Sink>, BoxError> {
        Ok(Box::new(DiscardSink {
            name: format!("{}/{}", context.operator, context.subtask),
            records: 0,
            bytes: 0,
        }))
    }
}

/// Counts what it drops.
struct DiscardSink {
    name: String,
    records: u64,
    bytes: u64,
}

impl Sink for DiscardSink {
    fn write(&mut self, batch: &Batch) -> Result<(), BoxError> {
        self.records += batch.len() as u64;
        self.bytes += batch.byte_len() as u64;
        Ok(())
    }

    fn prepare(&mut self, _id: CheckpointId) -> Result<Vec<Part>, BoxError> {
        Ok(Vec::new())
    }

    fn commit(&mut self, _id: CheckpointId) -> Result<(), BoxError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), BoxError> {
        tracing::info!(sink = %self.name, records = self.records, bytes = self.bytes, "discarded");
        Ok(())
    }
}
