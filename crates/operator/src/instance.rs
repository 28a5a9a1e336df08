//! One operator with its state: a call and what becomes of it.

use dataflow::state::{KeyedState, Resolved, StateError};
use dataflow::{Batch, CheckpointId};

use crate::blame::{self, Position};
use crate::operator::{Call, Failure, Operator};
use crate::output::Output;

/// An operator of one subtask with its keyed state. Each call is a transaction: what it changed and emitted
/// takes effect when it returns ok, and is taken back otherwise.
pub struct OperatorInstance {
    operator: Box<dyn Operator>,
    call: Call,
    /// The keys of the batch that is being processed, as numbers.
    resolved: Resolved,
    /// Whether it has keyed state.
    keyed: bool,
    /// Records that were processed since the instance was made.
    received: u64,
}

/// Why a batch was not processed. Nothing that the call did has taken effect.
#[derive(Debug)]
pub enum Unprocessed {
    /// The operator has keyed state, and the records have no keys.
    Unkeyed,
    /// A key does not belong to the state of this subtask, or the state could not be read.
    State(StateError),
    /// The operator failed.
    Failed {
        /// Why.
        failure: Box<Failure>,
        /// Which record is to blame, if that was found.
        position: Position,
    },
}

impl OperatorInstance {
    /// An operator with state of its own and this many outputs. `keyed` says whether it has keyed state:
    /// `state` is not used otherwise.
    #[must_use]
    pub fn new(operator: Box<dyn Operator>, state: KeyedState, keyed: bool, outputs: u32) -> Self {
        Self {
            operator,
            call: Call {
                state,
                output: Output::new(outputs),
                watermark: i64::MIN,
                ..Call::default()
            },
            resolved: Resolved::default(),
            keyed,
            received: 0,
        }
    }

    /// Processes a batch that arrived on `input`; `now` is the wall-clock time in milliseconds since the
    /// epoch. What was emitted is then to be had from [`OperatorInstance::take_output`].
    ///
    /// # Errors
    /// Why it could not be processed; the record to blame was searched for.
    pub fn process(&mut self, input: u32, batch: &mut Batch, now: i64) -> Result<(), Unprocessed> {
        let Self {
            operator,
            call,
            resolved,
            ..
        } = self;
        call.processing_time = now;
        if self.keyed {
            if !batch.is_keyed() {
                return Err(Unprocessed::Unkeyed);
            }
            batch.compute_hashes();
            call.state
                .resolve(batch.keys.as_ref(), &batch.hashes, resolved)
                .map_err(Unprocessed::State)?;
        } else {
            resolved.numbers.clear();
            resolved.keys.clear();
        }
        // Settling may take the batch's keys along.
        let records = batch.len() as u64;
        let done = operator.process(input, batch, resolved, call);
        match done.and_then(|()| call.settle(resolved, batch)) {
            Ok(()) => call.state.commit(),
            Err(failure) => {
                self.take_back();
                let position = blame::locate(
                    self.operator.as_mut(),
                    &mut self.call,
                    &failure,
                    input,
                    batch,
                    self.received,
                );
                let failure = Box::new(failure);
                return Err(Unprocessed::Failed { failure, position });
            }
        }
        self.received += records;
        Ok(())
    }

    /// No record comes on `input` any more.
    ///
    /// # Errors
    /// Why the operator failed; what it did was taken back.
    pub fn end_of_input(&mut self, input: u32, now: i64) -> Result<(), Failure> {
        let call = &mut self.call;
        call.processing_time = now;
        let done = self.operator.end_of_input(input, call);
        match done.and_then(|()| call.settle(&Resolved::default(), &mut Batch::default())) {
            Ok(()) => {
                call.state.commit();
                Ok(())
            }
            Err(failure) => {
                self.take_back();
                Err(failure)
            }
        }
    }

    fn take_back(&mut self) {
        self.call.state.rollback();
        self.call.output.clear();
    }

    /// Takes what calls have emitted on a port; `None` if nothing. `spare` gives an empty batch to go on
    /// with.
    pub fn take_output(&mut self, port: usize, spare: impl FnOnce() -> Batch) -> Option<Batch> {
        self.call.output.take(port, spare)
    }

    /// The watermark that calls see from now on, in milliseconds since the epoch.
    pub fn set_watermark(&mut self, watermark: i64) {
        self.call.watermark = watermark;
    }

    /// Its keyed state; `None` if it has none.
    pub fn state(&mut self) -> Option<&mut KeyedState> {
        self.keyed.then_some(&mut self.call.state)
    }

    /// Checkpoint `id`, which holds the state, is complete.
    ///
    /// # Errors
    /// As [`Operator::checkpoint_complete`].
    pub fn checkpoint_complete(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.call.state.checkpoint_complete(id);
        self.operator.checkpoint_complete(id)
    }

    /// The job ends in order.
    ///
    /// # Errors
    /// As [`Operator::close`].
    pub fn close(&mut self) -> Result<(), Failure> {
        self.operator.close()
    }
}
