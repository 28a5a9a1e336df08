//! The benchmark's operators written natively, for the same runtime: what Wasm is compared with.

mod keyed;
mod stateless;
mod text;

use std::sync::Arc;

use operator::{BoxError, Failure, FailureKind, Operator, OperatorFactory, SubtaskContext};

use crate::case::Workload;

/// Makes an operator for each subtask.
struct Factory(fn() -> Box<dyn Operator>);

impl OperatorFactory for Factory {
    fn create(&self, _: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        Ok((self.0)())
    }
}

/// The twin of the operator with this id in the job of `workload`.
pub(crate) fn twin(workload: Workload, operator: &str) -> Arc<dyn OperatorFactory> {
    let make: fn() -> Box<dyn Operator> = match (workload, operator) {
        (Workload::Map, _) => || Box::new(stateless::Map::default()),
        (Workload::Filter, _) => || Box::new(stateless::Filter::default()),
        (Workload::Words, "split") => || Box::new(text::Split::default()),
        (Workload::Count | Workload::CountZipf | Workload::Words, _) => {
            || Box::new(keyed::Count::default())
        }
        (Workload::Read, _) => || Box::new(keyed::Read::default()),
        (Workload::Update100 | Workload::UpdateHot | Workload::UpdateCold, _) => {
            || Box::new(keyed::Update::new(100))
        }
        (Workload::Update1k, _) => || Box::new(keyed::Update::new(1024)),
        (Workload::Flights, _) => || Box::new(text::Flights::default()),
    };
    Arc::new(Factory(make))
}

fn failed(error: impl Into<BoxError>) -> Failure {
    Failure::new(FailureKind::Protocol, error.into().to_string())
}
