//! Operators that let a test look, wait or weigh, and a source of records that each have their own key.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataflow::state::Resolved;
use dataflow::{Batch, Cells, CheckpointId};
use operator::source::{Part, SourceStatus};
use operator::{
    BoxError, Call, Failure, Operator, OperatorFactory, Source, SourceFactory, SubtaskContext,
};
use serde_json::json;

type OnBatch = dyn Fn(&Batch) + Send + Sync;
type OnEnd = dyn Fn(u32) + Send + Sync;
type OnComplete = dyn Fn(&SubtaskContext, CheckpointId) + Send + Sync;

/// Passes records on, and calls the test at every batch, every end of an input and every completed
/// checkpoint.
#[derive(Clone)]
pub(crate) struct Hook {
    pub(crate) on_batch: Arc<OnBatch>,
    pub(crate) on_end: Arc<OnEnd>,
    pub(crate) on_complete: Arc<OnComplete>,
}

impl Hook {
    pub(crate) fn on_batch(hook: impl Fn(&Batch) + Send + Sync + 'static) -> Self {
        Self {
            on_batch: Arc::new(hook),
            on_end: Arc::new(|_| {}),
            on_complete: Arc::new(|_, _| {}),
        }
    }

    pub(crate) fn on_end(hook: impl Fn(u32) + Send + Sync + 'static) -> Self {
        Self {
            on_end: Arc::new(hook),
            ..Self::on_batch(|_| {})
        }
    }

    pub(crate) fn on_complete(
        hook: impl Fn(&SubtaskContext, CheckpointId) + Send + Sync + 'static,
    ) -> Self {
        Self {
            on_complete: Arc::new(hook),
            ..Self::on_batch(|_| {})
        }
    }
}

impl OperatorFactory for Hook {
    fn create(&self, context: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        Ok(Box::new(HookSubtask {
            hook: self.clone(),
            context: context.clone(),
        }))
    }
}

struct HookSubtask {
    hook: Hook,
    context: SubtaskContext,
}

impl Operator for HookSubtask {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        _: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        (self.hook.on_batch)(batch);
        let (keys, values) = (batch.keys.as_ref(), batch.values.as_ref());
        call.output
            .emit(0, keys, values, &batch.timestamps)
            .unwrap();
        Ok(())
    }

    fn end_of_input(&mut self, input: u32, _: &mut Call) -> Result<(), Failure> {
        (self.hook.on_end)(input);
        Ok(())
    }

    fn checkpoint_complete(&mut self, id: CheckpointId) -> Result<(), Failure> {
        (self.hook.on_complete)(&self.context, id);
        Ok(())
    }
}

/// Keeps as many bytes per key as the value of its last record says, and emits nothing.
pub(crate) struct Ballast(pub(crate) fn(u64) -> usize);

impl OperatorFactory for Ballast {
    fn create(&self, _: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        Ok(Box::new(Ballast(self.0)))
    }
}

impl Operator for Ballast {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        for (record, number) in keys.numbers.iter().enumerate() {
            let value = std::str::from_utf8(batch.values.get(record)).unwrap();
            let bytes = vec![7; (self.0)(value.parse().unwrap())];
            let cells: Cells = [bytes.as_slice()].into_iter().collect();
            call.state.store(0, &[*number], cells.as_ref()).unwrap();
        }
        Ok(())
    }
}

/// Record `i` of `count` has the key `<name>-<i>` and the value `i`: one at a time, with a pause after
/// each that is over at once.
pub(crate) struct Distinct {
    pub(crate) name: &'static str,
    pub(crate) count: u64,
    /// How many were read, over all starts.
    pub(crate) read: Arc<AtomicU64>,
}

struct DistinctSubtask {
    name: &'static str,
    count: u64,
    next: u64,
    read: Arc<AtomicU64>,
}

impl SourceFactory for Distinct {
    fn create(
        &self,
        _: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Source>, BoxError> {
        let next = restored.map_or(0, |parts| parts[0]["next"].as_u64().unwrap());
        Ok(Box::new(DistinctSubtask {
            name: self.name,
            count: self.count,
            next,
            read: Arc::clone(&self.read),
        }))
    }

    fn describe_position(&self, restored: &[Part]) -> String {
        format!("at {restored:?}")
    }
}

impl Source for DistinctSubtask {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        if self.next == self.count {
            return Ok(SourceStatus::Ended);
        }
        let key = format!("{}-{}", self.name, self.next);
        let value = self.next.to_string();
        let timestamp = dataflow::batch::NO_TIMESTAMP;
        batch.push(Some(key.as_bytes()), value.as_bytes(), timestamp);
        self.next += 1;
        self.read.fetch_add(1, Ordering::SeqCst);
        Ok(SourceStatus::Idle { until: Some(0) })
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        Ok(vec![json!({"next": self.next})])
    }
}
