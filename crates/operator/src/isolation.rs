//! Bad records: the rest of a batch that fails is processed without them.
//!
//! A batch that fails is divided, and its parts are processed from left to right, each in a call of its own
//! that takes effect when it succeeds: so all other records are processed exactly once and in order. A record
//! is to blame only if it fails alone in a fresh instance, as often as it is tried. A batch whose parts
//! all succeed blames nobody: it was chance, or a limit of a call that the whole batch has reached.

use std::ops::Range;

use dataflow::Batch;
use dataflow::state::{Fired, TimeDomain};

use crate::blame::Position;
use crate::instance::{OperatorInstance, TIMERS_MAX, Unprocessed};
use crate::operator::{Failure, FailureKind};

/// A batch that failed, on its way through an operator part by part.
#[derive(Debug)]
pub struct Isolation {
    input: u32,
    batch: Batch,
    /// What is still to be processed; the next part is the last.
    parts: Vec<Part>,
    /// How often a record is tried alone.
    tries: u32,
}

#[derive(Clone, Debug)]
enum Part {
    /// Records together.
    Run(Range<usize>),
    /// A record alone, in fresh instances.
    Alone(usize),
}

/// What became of a part.
#[derive(Debug)]
pub enum Isolated {
    /// It was processed. Its output is there to be taken.
    Processed,
    /// A record was not processed, and never will be. It had no effect.
    Blamed(Box<BadRecord>),
}

/// A record that is to blame.
#[derive(Debug)]
pub struct BadRecord {
    /// Why, the last time that it was tried.
    pub failure: Failure,
    /// Its number, as in [`Position::Record`].
    pub number: u64,
    /// The operator's input.
    pub input: u32,
    /// The record alone.
    pub record: Batch,
}

/// Whether a record may be to blame for a failure. Otherwise it is about the operator, its configuration or the
/// host, and another record would fail alike.
#[must_use]
pub fn may_blame_a_record(kind: FailureKind) -> bool {
    match kind {
        FailureKind::Trap
        | FailureKind::Returned
        | FailureKind::TimeLimit
        | FailureKind::MemoryLimit
        | FailureKind::Protocol => true,
        FailureKind::StateLimit | FailureKind::Disk | FailureKind::Config => false,
    }
}

/// Whether what has failed has reached a limit of memory: a part of it may not.
#[must_use]
pub fn is_memory_limit(error: &Unprocessed) -> bool {
    matches!(error, Unprocessed::Failed { failure, .. } if failure.kind == FailureKind::MemoryLimit)
}

/// Takes an error apart: a failure of which a record may be the reason; the error itself if none may be.
fn failure_of(error: Unprocessed) -> Result<Failure, Unprocessed> {
    match error {
        Unprocessed::Failed { failure, .. } if may_blame_a_record(failure.kind) => Ok(*failure),
        other => Err(other),
    }
}

impl Isolation {
    /// For a batch that has failed on `input` with this error. A record is tried `tries` times alone, at least
    /// once.
    ///
    /// # Errors
    /// The error, if no record can be to blame for it.
    pub fn new(
        input: u32,
        batch: Batch,
        error: Unprocessed,
        tries: u32,
    ) -> Result<Self, Unprocessed> {
        let failure = failure_of(error)?;
        let all = 0..batch.len();
        let mut isolation = Self {
            input,
            batch,
            parts: Vec::new(),
            tries: tries.max(1),
        };
        isolation.divide(all, &failure);
        Ok(isolation)
    }

    /// Notes the parts of a run that has failed: around the record that the operator names, or halves.
    fn divide(&mut self, run: Range<usize>, failure: &Failure) {
        let Range { start, end } = run;
        let mut push = |part: Range<usize>| {
            if !part.is_empty() {
                self.parts.push(Part::Run(part));
            }
        };
        match failure.record.map(|record| start + record) {
            _ if end - start <= 1 => self.parts.push(Part::Alone(start)),
            Some(named) if named < end => {
                push(named + 1..end);
                self.parts.push(Part::Alone(named));
                if named > start {
                    self.parts.push(Part::Run(start..named));
                }
            }
            _ => {
                let middle = start + (end - start) / 2;
                push(middle..end);
                push(start..middle);
            }
        }
    }

    /// Processes the next part; `now` as for [`OperatorInstance::process`]. `None` when all is done.
    ///
    /// # Errors
    /// No record is to blame: the job fails.
    pub fn next(
        &mut self,
        instance: &mut OperatorInstance,
        now: i64,
    ) -> Result<Option<Isolated>, Unprocessed> {
        instance.set_quiet(true);
        let next = self.next_part(instance, now);
        instance.set_quiet(false);
        next
    }

    fn next_part(
        &mut self,
        instance: &mut OperatorInstance,
        now: i64,
    ) -> Result<Option<Isolated>, Unprocessed> {
        while let Some(part) = self.parts.pop() {
            match part {
                Part::Alone(record) => return self.alone(instance, record, now).map(Some),
                Part::Run(run) => {
                    instance.make_ready(false)?;
                    let mut part = self.batch.slice(run.clone());
                    match instance.try_process(self.input, &mut part, now) {
                        Ok(()) => return Ok(Some(Isolated::Processed)),
                        Err(error) => self.divide(run, &failure_of(error)?),
                    }
                }
            }
        }
        Ok(None)
    }

    fn alone(
        &self,
        instance: &mut OperatorInstance,
        record: usize,
        now: i64,
    ) -> Result<Isolated, Unprocessed> {
        let record = self.batch.slice(record..record + 1);
        let failure = alone(instance, self.tries, |instance| {
            instance.try_process(self.input, &mut record.clone(), now)
        })?;
        let Some(failure) = failure else {
            return Ok(Isolated::Processed);
        };
        let number = instance.pass_over(1);
        Ok(Isolated::Blamed(Box::new(BadRecord {
            failure,
            number,
            input: self.input,
            record,
        })))
    }
}

/// Tries something in fresh instances until it succeeds, at most `tries` times. Returns the last failure if it
/// never does.
fn alone(
    instance: &mut OperatorInstance,
    tries: u32,
    mut run: impl FnMut(&mut OperatorInstance) -> Result<(), Unprocessed>,
) -> Result<Option<Failure>, Unprocessed> {
    let mut last = None;
    for _ in 0..tries {
        instance.make_ready(true)?;
        match run(instance) {
            Ok(()) => return Ok(None),
            Err(error) => last = Some(failure_of(error)?),
        }
    }
    Ok(last)
}

/// What became of timers that were due.
#[derive(Debug)]
pub enum Firing {
    /// So many have fired, in one call; 0 if none was due.
    Fired(usize),
    /// One did not fire, and never will. It is removed, and had no effect.
    Blamed(Box<BadTimer>),
}

/// A timer that is to blame.
#[derive(Debug)]
pub struct BadTimer {
    /// Why, the last time that it was tried.
    pub failure: Failure,
    /// The timer alone.
    pub timer: Fired,
}

/// As [`OperatorInstance::fire`] for an operator whose bad timers are left out: fewer fire after a failure, down to
/// one alone.
///
/// # Errors
/// No timer is to blame: the job fails.
pub fn fire(
    instance: &mut OperatorInstance,
    domain: TimeDomain,
    until: i64,
    now: i64,
    tries: u32,
) -> Result<Firing, Unprocessed> {
    instance.make_ready(false)?;
    let first = instance.try_fire(domain, until, TIMERS_MAX, now);
    let failure = match first {
        Ok(fired) => return Ok(Firing::Fired(fired)),
        Err(error) => failure_of(error)?,
    };
    instance.set_quiet(true);
    let firing = fire_fewer(instance, (domain, until, now), failure, tries);
    instance.set_quiet(false);
    firing
}

/// After a call of timers that has failed.
fn fire_fewer(
    instance: &mut OperatorInstance,
    (domain, until, now): (TimeDomain, i64, i64),
    mut failure: Failure,
    tries: u32,
) -> Result<Firing, Unprocessed> {
    loop {
        let failed = instance.fired_last();
        let most = match failure.record {
            _ if failed <= 1 => break,
            Some(named) if named < failed => named.max(1),
            _ => failed / 2,
        };
        instance.make_ready(false)?;
        match instance.try_fire(domain, until, most, now) {
            Ok(fired) => return Ok(Firing::Fired(fired)),
            Err(error) => failure = failure_of(error)?,
        }
    }
    let mut fired = 0;
    let failure = alone(instance, tries.max(1), |instance| {
        fired = instance.try_fire(domain, until, 1, now)?;
        Ok(())
    })?;
    match failure {
        None => Ok(Firing::Fired(fired)),
        Some(failure) => {
            let timer = instance.remove_next_timer(domain, until, now)?;
            Ok(Firing::Blamed(Box::new(BadTimer { failure, timer })))
        }
    }
}

impl BadRecord {
    /// Where it is, as messages give it.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::record(self.number, self.input, &self.record, 0)
    }
}

impl BadTimer {
    /// Which it is, as messages give it.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::timer(&self.timer, 0)
    }
}
