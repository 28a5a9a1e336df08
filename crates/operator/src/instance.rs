//! One operator with its state: a call and what becomes of it.

use dataflow::operator_state::OperatorState;
use dataflow::state::{Fired, KeyedState, Resolved, StateError, TimeDomain};
use dataflow::{Batch, CheckpointId};

use crate::blame::{self, Position};
use crate::operator::{Attention, Call, Failure, Operator, Usage};
use crate::output::Output;

/// An operator of one subtask with its keyed state. Each call is a transaction: what it changed and emitted
/// takes effect when it returns ok, and is taken back otherwise.
pub struct OperatorInstance {
    operator: Box<dyn Operator>,
    call: Call,
    /// The keys of the batch that is being processed, as numbers.
    resolved: Resolved,
    /// The timers that fire.
    fired: Fired,
    /// Whether it has keyed state.
    keyed: bool,
    /// Records that were processed since the instance was made.
    received: u64,
}

/// The most timers of one call.
pub const TIMERS_MAX: usize = 1024;

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
            fired: Fired::default(),
            keyed,
            received: 0,
        }
    }

    /// The same with this operator state.
    #[must_use]
    pub fn with_operator_state(mut self, state: OperatorState) -> Self {
        self.call.operator_state = state;
        self
    }

    /// Processes a batch that arrived on `input`; `now` is the wall-clock time in milliseconds since the
    /// epoch. What was emitted is then to be had from [`OperatorInstance::take_output`].
    ///
    /// # Errors
    /// Why it could not be processed; the record to blame was searched for.
    pub fn process(&mut self, input: u32, batch: &mut Batch, now: i64) -> Result<(), Unprocessed> {
        let mut error = self.try_process(input, batch, now);
        if let Err(Unprocessed::Failed { failure, position }) = &mut error {
            let (operator, call) = (self.operator.as_mut(), &mut self.call);
            *position = blame::locate(operator, call, failure, input, batch, self.received);
        }
        error
    }

    /// The same; no record to blame is searched for.
    ///
    /// # Errors
    /// Why it could not be processed.
    pub fn try_process(
        &mut self,
        input: u32,
        batch: &mut Batch,
        now: i64,
    ) -> Result<(), Unprocessed> {
        let Self {
            operator,
            call,
            resolved,
            ..
        } = self;
        call.begin(now);
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
        if let Err(failure) = call.end(done, resolved, batch) {
            let position = Position::Batch {
                first: self.received,
                records: batch.len(),
            };
            let failure = Box::new(failure);
            return Err(Unprocessed::Failed { failure, position });
        }
        self.received += records;
        Ok(())
    }

    /// Records that came are not processed. Returns the number of the first.
    pub(crate) fn pass_over(&mut self, records: u64) -> u64 {
        let number = self.received;
        self.received += records;
        number
    }

    /// How much of what the operator says in the calls that follow is of use.
    pub(crate) fn set_attention(&mut self, attention: Attention) {
        self.call.attention = attention;
    }

    /// See [`Operator::is_repeatable`].
    pub(crate) fn is_repeatable(&self) -> bool {
        self.operator.is_repeatable()
    }

    /// Makes the operator ready for a call, such that what fails while an instance is made is not taken for a failure
    /// of the call. With `fresh` the instance is a new one.
    ///
    /// # Errors
    /// Why it could not be made.
    pub fn make_ready(&mut self, fresh: bool) -> Result<(), Unprocessed> {
        let ready = self.operator.make_ready(fresh);
        ready.map_err(|failure| Unprocessed::Failed {
            failure: Box::new(failure),
            position: Position::None,
        })
    }

    /// Lets timers fire that are due at `until`: one call of at most [`TIMERS_MAX`]. Returns how many they
    /// were; 0 if none is due. The operator must have timers.
    ///
    /// # Errors
    /// Why the operator failed; the timer to blame was searched for, and all of them are as they were.
    pub fn fire(&mut self, domain: TimeDomain, until: i64, now: i64) -> Result<usize, Unprocessed> {
        let mut fired = self.try_fire(domain, until, TIMERS_MAX, now);
        if let Err(Unprocessed::Failed { failure, position }) = &mut fired {
            let (operator, call) = (self.operator.as_mut(), &mut self.call);
            *position = blame::locate_timer(operator, call, failure, until, &self.fired);
        }
        fired
    }

    /// The same with at most `most` timers; none to blame is searched for.
    ///
    /// # Errors
    /// Why the operator failed; all timers are as they were.
    pub fn try_fire(
        &mut self,
        domain: TimeDomain,
        until: i64,
        most: usize,
        now: i64,
    ) -> Result<usize, Unprocessed> {
        let Self {
            operator,
            call,
            fired,
            ..
        } = self;
        call.begin(now);
        call.state
            .take_timers(domain, until, most, fired)
            .map_err(Unprocessed::State)?;
        if fired.is_empty() {
            call.commit();
            return Ok(0);
        }
        let done = operator.on_timers(fired, call);
        if let Err(failure) = call.end(done, &fired.keys, &mut Batch::default()) {
            let position = Position::timers(fired);
            let failure = Box::new(failure);
            return Err(Unprocessed::Failed { failure, position });
        }
        Ok(fired.len())
    }

    /// How many timers the last call of timers was about.
    pub(crate) fn fired_last(&self) -> usize {
        self.fired.len()
    }

    /// Removes the timer that fires next, without firing it, and returns it.
    pub(crate) fn remove_next_timer(
        &mut self,
        domain: TimeDomain,
        until: i64,
        now: i64,
    ) -> Result<Fired, Unprocessed> {
        let Self { call, fired, .. } = self;
        call.begin(now);
        call.state
            .take_timers(domain, until, 1, fired)
            .map_err(Unprocessed::State)?;
        call.commit();
        Ok(fired.clone())
    }

    /// When the next processing-time timer is due, or a time before that; `None` if there is none.
    pub fn next_due(&mut self) -> Option<i64> {
        self.call.state.next_timer(TimeDomain::Processing)
    }

    /// The watermark that was set has been reached, and all timers up to it have fired.
    ///
    /// # Errors
    /// Why the operator failed; what it did was taken back.
    pub fn on_watermark(&mut self, now: i64) -> Result<(), Failure> {
        self.transact(now, |operator, call| operator.on_watermark(call))
    }

    /// No record comes on `input` any more.
    ///
    /// # Errors
    /// Why the operator failed; what it did was taken back.
    pub fn end_of_input(&mut self, input: u32, now: i64) -> Result<(), Failure> {
        self.transact(now, |operator, call| operator.end_of_input(input, call))
    }

    /// A call that is about no records.
    fn transact(
        &mut self,
        now: i64,
        run: impl FnOnce(&mut dyn Operator, &mut Call) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let call = &mut self.call;
        call.begin(now);
        call.state.resolve_none();
        let done = run(self.operator.as_mut(), call);
        call.end(done, &Resolved::default(), &mut Batch::default())
    }

    /// Takes what calls have emitted on a port; `None` if nothing. `spare` gives an empty batch to go on
    /// with.
    pub fn take_output(&mut self, port: usize, spare: impl FnOnce() -> Batch) -> Option<Batch> {
        self.call.output.take(port, spare)
    }

    /// The watermark that calls see from now on, in milliseconds since the epoch.
    pub fn set_watermark(&mut self, watermark: i64) {
        self.call.watermark = watermark;
        self.call.state.set_watermark(watermark);
    }

    /// The highest watermark that it has reached; `i64::MIN` for none.
    #[must_use]
    pub fn watermark(&self) -> i64 {
        self.call.watermark
    }

    /// Whether it has timers.
    #[must_use]
    pub fn has_timers(&self) -> bool {
        self.call.state.has_timers()
    }

    /// How many timers of both domains it has.
    #[must_use]
    pub fn timers(&self) -> u64 {
        self.call.state.timers_held()
    }

    /// Its keyed state; `None` if it has none.
    pub fn state(&mut self) -> Option<&mut KeyedState> {
        self.keyed.then_some(&mut self.call.state)
    }

    /// Its operator state; `None` if it has none.
    pub fn operator_state(&self) -> Option<&OperatorState> {
        Some(&self.call.operator_state).filter(|state| !state.is_none())
    }

    /// Checkpoint `id`, which holds the state, is complete.
    ///
    /// # Errors
    /// As [`Operator::checkpoint_complete`].
    pub fn checkpoint_complete(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.call.state.checkpoint_complete(id);
        self.operator.checkpoint_complete(id)
    }

    /// See [`Operator::usage`].
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.operator.usage()
    }

    /// The job ends in order.
    ///
    /// # Errors
    /// As [`Operator::close`].
    pub fn close(&mut self) -> Result<(), Failure> {
        self.operator.close()
    }
}
