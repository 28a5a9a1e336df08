//! How long an operator's steps take, and the longest of them after each snapshot.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dataflow::state::{Fired, Resolved};
use dataflow::{Batch, Cells, CheckpointId};
use operator::source::Part;
use operator::{BoxError, Call, Failure, Operator, OperatorFactory, Sink, SubtaskContext, Usage};
use runtime::JobGraph;
use runtime::graph::NodeKind;

use super::{Seen, Sinks, add};

/// The steps of a subtask between two of its snapshots.
#[derive(Debug, Default)]
pub(crate) struct Between {
    /// How long each took, in microseconds.
    pub(crate) steps_us: Vec<f32>,
}

impl Between {
    pub(crate) fn longest(&self) -> f64 {
        f64::from(self.steps_us.iter().copied().fold(0.0, f32::max))
    }
}

/// Times the steps of the one operator, from its call until the sink after it, in the same subtask, has
/// taken what came of it: what the guest does, what is stored, the state's commit. Of a job with
/// parallelism 1.
pub(crate) fn steps(graph: &mut JobGraph) -> Seen<Between> {
    let seen: Seen<Between> = Seen::default();
    let step = Arc::new(Mutex::new(Stepping::default()));
    for node in &mut graph.nodes {
        match &mut node.kind {
            NodeKind::Operator(operator) => {
                operator.factory = Arc::new(Beginnings {
                    inner: Arc::clone(&operator.factory),
                    step: Arc::clone(&step),
                });
            }
            NodeKind::Sink(factory) => {
                let (seen, step) = (Arc::clone(&seen), Arc::clone(&step));
                *factory = Arc::new(Sinks(Box::new(move || {
                    Box::new(Ends {
                        step: Arc::clone(&step),
                        seen: Arc::clone(&seen),
                    })
                })));
            }
            NodeKind::Source(_) => {}
        }
    }
    seen
}

/// The step in progress, and those since the last snapshot. Locked by one thread only.
#[derive(Debug, Default)]
struct Stepping {
    began: Option<Instant>,
    between: Between,
}

struct Beginnings {
    inner: Arc<dyn OperatorFactory>,
    step: Arc<Mutex<Stepping>>,
}

impl OperatorFactory for Beginnings {
    fn create(
        &self,
        context: &SubtaskContext,
        restored: bool,
    ) -> Result<Box<dyn Operator>, Failure> {
        Ok(Box::new(Begins {
            inner: self.inner.create(context, restored)?,
            step: Arc::clone(&self.step),
        }))
    }
}

struct Begins {
    inner: Box<dyn Operator>,
    step: Arc<Mutex<Stepping>>,
}

#[deny(clippy::missing_trait_methods)]
impl Operator for Begins {
    fn process(
        &mut self,
        input: u32,
        batch: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        step.began = Some(Instant::now());
        drop(step);
        self.inner.process(input, batch, keys, call)
    }

    fn on_timers(&mut self, fired: &Fired, call: &mut Call) -> Result<(), Failure> {
        self.inner.on_timers(fired, call)
    }

    fn on_watermark(&mut self, call: &mut Call) -> Result<(), Failure> {
        self.inner.on_watermark(call)
    }

    fn end_of_input(&mut self, input: u32, call: &mut Call) -> Result<(), Failure> {
        self.inner.end_of_input(input, call)
    }

    fn checkpoint_complete(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.inner.checkpoint_complete(id)
    }

    fn migrate(&mut self, state: u32, from_version: u32, values: &Cells) -> Result<Cells, Failure> {
        self.inner.migrate(state, from_version, values)
    }

    fn make_ready(&mut self, fresh: bool) -> Result<(), Failure> {
        self.inner.make_ready(fresh)
    }

    fn is_repeatable(&self) -> bool {
        self.inner.is_repeatable()
    }

    fn usage(&self) -> Option<Usage> {
        self.inner.usage()
    }

    fn close(&mut self) -> Result<(), Failure> {
        self.inner.close()
    }
}

struct Ends {
    step: Arc<Mutex<Stepping>>,
    seen: Seen<Between>,
}

impl Sink for Ends {
    fn write(&mut self, _: &Batch) -> Result<(), BoxError> {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(began) = step.began.take() {
            let took = began.elapsed().as_secs_f32() * 1e6;
            step.between.steps_us.push(took);
        }
        Ok(())
    }

    fn prepare(&mut self, _: CheckpointId) -> Result<Vec<Part>, BoxError> {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let between = std::mem::take(&mut step.between);
        drop(step);
        add(&self.seen, [between]);
        Ok(Vec::new())
    }

    fn commit(&mut self, _: CheckpointId) -> Result<(), BoxError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}
