//! What the runtime asks of an operator.
//!
//! The one inversion of the design: the runtime calls this trait, the host implements it with a
//! Wasm component, benchmarks and simulations implement it natively.
//!
//! A call is a transaction. What it emitted and changed takes effect when it returns `Ok`; when it
//! fails the runtime takes all of it back.

use std::time::Duration;

use dataflow::operator_state::OperatorState;
use dataflow::state::{Fired, KeyedState, Resolved};
use dataflow::{Batch, Cells, CheckpointId};

use crate::output::{EmitError, Output};
use crate::{BoxError, SubtaskContext};

/// One subtask's instance of an operator. Lives on one thread. What it does not say, it does nothing
/// about; one that hands on to another (a guest, a probe) has to say all.
pub trait Operator: Send {
    /// Handles a batch that arrived on `input`.
    ///
    /// # Errors
    /// Why the batch could not be handled. The operator must be usable afterwards: the runtime may
    /// call it again with parts of the batch to find the record that is to blame.
    fn process(
        &mut self,
        input: u32,
        batch: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure>;

    /// Handles timers that are due: no two of one key, in the order of their times. Event-time timers fire
    /// after the records that came before the watermark, which [`Call::watermark`] is now, and before
    /// [`Operator::on_watermark`].
    ///
    /// # Errors
    /// As [`Operator::process`].
    fn on_timers(&mut self, fired: &Fired, call: &mut Call) -> Result<(), Failure> {
        let _ = (fired, call);
        Ok(())
    }

    /// The watermark has reached [`Call::watermark`], and all timers up to it have fired.
    ///
    /// # Errors
    /// As [`Operator::process`].
    fn on_watermark(&mut self, call: &mut Call) -> Result<(), Failure> {
        let _ = call;
        Ok(())
    }

    /// No record comes on `input` any more. Called once per input.
    ///
    /// # Errors
    /// As [`Operator::process`].
    fn end_of_input(&mut self, input: u32, call: &mut Call) -> Result<(), Failure> {
        let _ = (input, call);
        Ok(())
    }

    /// Checkpoint `id`, which holds the state of this operator, is complete. Called once for each, in
    /// order, and again of the one that is restored, before any record: a process may be killed
    /// between completing a checkpoint and telling.
    ///
    /// # Errors
    /// As [`Operator::process`].
    fn checkpoint_complete(&mut self, id: CheckpointId) -> Result<(), Failure> {
        let _ = id;
        Ok(())
    }

    /// Rewrites values of a state, by its number, that were written under an older version of its schema: one for
    /// each, in their order. Called while state is restored, before anything else.
    ///
    /// # Errors
    /// Why they cannot be rewritten. The job does not start then.
    fn migrate(&mut self, state: u32, from_version: u32, values: &Cells) -> Result<Cells, Failure> {
        let _ = (state, values);
        Err(Failure::cannot_migrate(from_version))
    }

    /// Makes it ready for the next call: with `fresh` as if it had just been created, with nothing in its memory that an
    /// earlier call has left there. What it has in its state stays.
    ///
    /// # Errors
    /// Why it cannot be created again.
    fn make_ready(&mut self, fresh: bool) -> Result<(), Failure> {
        let _ = fresh;
        Ok(())
    }

    /// Whether a fresh instance does with the same call and state what another fresh one has done, unless it reached a
    /// limit: because nothing of the world outside reaches it.
    fn is_repeatable(&self) -> bool {
        false
    }

    /// What its calls have cost since it was made; `None` if that is not measured.
    fn usage(&self) -> Option<Usage> {
        None
    }

    /// The job ends in order; nothing is called afterwards. Not called when it fails.
    ///
    /// # Errors
    /// As [`Operator::process`].
    fn close(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// What the calls of an operator have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many there were.
    pub calls: u64,
    /// How long they took together, with what they have asked the host to do.
    pub time: Duration,
    /// Bytes of memory that it holds now.
    pub memory: u64,
}

/// Makes the operator's instances, one per subtask, at the start and again at every restart.
pub trait OperatorFactory: Send + Sync {
    /// Makes the instance for a subtask. `restored` says whether its state comes from a checkpoint.
    ///
    /// # Errors
    /// Why the operator cannot start.
    fn create(
        &self,
        context: &SubtaskContext,
        restored: bool,
    ) -> Result<Box<dyn Operator>, Failure>;

    /// As [`Operator::migrate`], on an instance that is made for it and dropped: to find out before the job starts
    /// whether it can. `parallelism` is that of the operator.
    ///
    /// # Errors
    /// Why it cannot.
    fn try_migrate(
        &self,
        parallelism: u32,
        state: u32,
        from_version: u32,
        values: &Cells,
    ) -> Result<Cells, Failure> {
        let _ = (parallelism, state, values);
        Err(Failure::cannot_migrate(from_version))
    }
}

/// What an operator may touch during a call.
#[derive(Debug, Default)]
pub struct Call {
    /// The operator's keyed state, for the key groups of its subtask. Bulk access is by the numbers
    /// of the batch that the call is about.
    pub state: KeyedState,
    /// What its subtask holds whatever the keys of its records.
    pub operator_state: OperatorState,
    /// Where output goes.
    pub output: Output,
    /// Wall-clock time in milliseconds since the epoch, read once per call: the clock that an
    /// operator should use.
    pub processing_time: i64,
    /// The call only looks for the record that made a batch fail; whatever it does is taken back, and
    /// what it says has been said.
    pub probing: bool,
    /// How much of what the operator says is of use.
    pub attention: Attention,
    /// The highest watermark that has arrived on all inputs; `i64::MIN` for none.
    pub watermark: i64,
}

/// How much of what an operator says in a call is of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attention {
    /// All of it.
    #[default]
    Full,
    /// The call repeats a part of one that has failed. What the operator logs is dropped, because it was logged or is
    /// of no use; if it fails, it does so for a known reason.
    Explained,
    /// The same, and nobody reads where in its code it fails: a failure needs no backtrace.
    Repeated,
}

impl Call {
    /// A call begins at a wall-clock time, in milliseconds since the epoch.
    pub(crate) fn begin(&mut self, now: i64) {
        self.processing_time = now;
        self.state.set_now(now);
    }

    /// Ends a call that has come to `done`: what it has changed and emitted takes effect if that is ok and what it
    /// has emitted can be settled, and is taken back otherwise. See [`Output::settle`].
    pub(crate) fn end(
        &mut self,
        done: Result<(), Failure>,
        resolved: &Resolved,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let ended = done.and_then(|()| self.settle(resolved, batch));
        match ended {
            Ok(()) => self.commit(),
            Err(_) => self.take_back(),
        }
        ended
    }

    /// Makes what was changed final.
    pub(crate) fn commit(&mut self) {
        self.state.commit();
        self.operator_state.commit();
    }

    /// Takes what was changed and emitted back.
    pub(crate) fn take_back(&mut self) {
        self.state.rollback();
        self.operator_state.rollback();
        self.output.clear();
    }

    fn settle(&mut self, resolved: &Resolved, batch: &mut Batch) -> Result<(), Failure> {
        self.output.settle(resolved, batch).map_err(|error| {
            let kind = match error {
                EmitError::TooMuch { .. } => FailureKind::MemoryLimit,
                _ => FailureKind::Protocol,
            };
            Failure::new(kind, error.to_string())
        })
    }
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// What happened, in one line.
    pub message: String,
    /// The guest's backtrace, innermost frame first, where there is one.
    pub backtrace: Option<String>,
    /// The index in the batch of the record that the operator was at, where it says so.
    pub record: Option<usize>,
    /// The key of the operator in the job file that it is about, where `kind` does not say it.
    pub key: Option<&'static str>,
}

/// Kinds of [`Failure`], cut by what the runtime does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The guest trapped (a panic, an unreachable instruction, a bad memory access).
    Trap,
    /// The operator returned an error.
    Returned,
    /// The call took longer than its limit.
    TimeLimit,
    /// The operator wanted more memory than its limit.
    MemoryLimit,
    /// Keyed state grew past its limit.
    StateLimit,
    /// Keyed state on disk could not be written, or read back.
    Disk,
    /// The operator passed something that does not fit: lengths, numbers, an unknown state.
    Protocol,
    /// The configuration or the restored state cannot be used; trying again will not help.
    Config,
}

impl Failure {
    /// That of an operator that knows nothing of older versions.
    fn cannot_migrate(from_version: u32) -> Self {
        let message = format!("the operator cannot read values of version {from_version}");
        Self::new(FailureKind::Config, message)
    }

    /// A failure without backtrace or record.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            backtrace: None,
            record: None,
            key: None,
        }
    }
}

impl From<BoxError> for Failure {
    fn from(error: BoxError) -> Self {
        Self::new(FailureKind::Returned, error.to_string())
    }
}
