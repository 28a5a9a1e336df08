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
use crate::operator::{Attention, Failure, FailureKind};

/// A batch that failed, on its way through an operator part by part.
///
/// What fails has been done for nothing, and costs an instance: as much as a hundred calls that succeed. So records
/// that nothing is known of are tried in runs that are short where bad records are many; and a run that has failed is
/// not halved, but processed in many small pieces, until one of them fails.
#[derive(Debug)]
pub struct Isolation {
    input: u32,
    batch: Batch,
    /// What is still to be processed; the next part is the last.
    parts: Vec<Part>,
    /// The most records of a run.
    run_max: usize,
    /// How often a record is tried alone.
    tries: u32,
}

/// Shorter runs save nothing: a call has its price.
const RUN_MIN: usize = 8;

/// After a run that has succeeded the next is longer by this part of it, after one that has failed half as long. So one
/// of four fails: what comes before a bad record in its run is processed twice, which costs more than a few more calls.
const GROWTH: usize = 4;

/// In how many pieces records are processed, one of which has made them fail.
const PIECES: usize = 100;

#[derive(Clone, Debug)]
enum Part {
    /// Records of which nothing is known: tried in runs.
    Unknown(Range<usize>),
    /// Records before the one that has failed: tried together.
    Before(Range<usize>),
    /// Records one of which has made them fail together: tried in pieces of `piece` records.
    Failed { records: Range<usize>, piece: usize },
    /// A record alone, in fresh instances.
    Alone(usize),
}

impl Part {
    /// Records one of which has made them fail together.
    fn divided(records: Range<usize>) -> Self {
        let piece = records.len().div_ceil(PIECES);
        Self::Failed { records, piece }
    }
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
            run_max: usize::MAX,
            tries: tries.max(1),
        };
        isolation.failed(all, &failure);
        Ok(isolation)
    }

    /// Notes the parts of records that have failed together: around the one that the operator names, if it does.
    fn failed(&mut self, run: Range<usize>, failure: &Failure) {
        let Range { start, end } = run;
        match failure.record.map(|record| start + record) {
            Some(named) if named < end => {
                self.push_unknown(named + 1..end);
                self.parts.push(Part::Alone(named));
                if start < named {
                    self.parts.push(Part::Before(start..named));
                }
            }
            _ => self.parts.push(Part::divided(start..end)),
        }
    }

    /// Notes records of which nothing is known, together with those that follow.
    fn push_unknown(&mut self, records: Range<usize>) {
        match self.parts.last_mut() {
            Some(Part::Unknown(next)) if next.start == records.end => next.start = records.start,
            _ if records.is_empty() => {}
            _ => self.parts.push(Part::Unknown(records)),
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
        instance.set_attention(Attention::Repeated);
        let next = self.next_part(instance, now);
        instance.set_attention(Attention::Full);
        next
    }

    fn next_part(
        &mut self,
        instance: &mut OperatorInstance,
        now: i64,
    ) -> Result<Option<Isolated>, Unprocessed> {
        while let Some(part) = self.parts.pop() {
            match part {
                Part::Alone(record) => {
                    if self.run_max == usize::MAX {
                        // The first: bad ones may be as far from each other.
                        self.run_max = record.max(RUN_MIN);
                    }
                    return self.alone(instance, record, now).map(Some);
                }
                Part::Unknown(records) => {
                    let end = records.start + records.len().min(self.run_max);
                    self.push_unknown(end..records.end);
                    let run = records.start..end;
                    match self.run(instance, run.clone(), now)? {
                        None => {
                            self.run_max = self.run_max.saturating_add(self.run_max / GROWTH);
                            return Ok(Some(Isolated::Processed));
                        }
                        Some(failure) => {
                            self.run_max = (run.len() / 2).max(RUN_MIN);
                            self.failed(run, &failure);
                        }
                    }
                }
                Part::Before(run) => match self.run(instance, run.clone(), now)? {
                    None => return Ok(Some(Isolated::Processed)),
                    Some(failure) => self.failed(run, &failure),
                },
                Part::Failed { records, .. } if records.len() <= 1 => {
                    self.parts.push(Part::Alone(records.start));
                }
                // All pieces before it have succeeded: it need not be tried to know that it fails.
                Part::Failed { records, piece } if records.len() <= piece => {
                    self.parts.push(Part::divided(records));
                }
                Part::Failed { records, piece } => {
                    let tried = records.start..records.start + piece;
                    let rest = tried.end..records.end;
                    match self.run(instance, tried.clone(), now)? {
                        None => {
                            self.parts.push(Part::Failed {
                                records: rest,
                                piece,
                            });
                            return Ok(Some(Isolated::Processed));
                        }
                        Some(failure) => {
                            self.push_unknown(rest);
                            self.failed(tried, &failure);
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    /// Processes records together. Returns why they have failed, if a record may be the reason.
    fn run(
        &self,
        instance: &mut OperatorInstance,
        run: Range<usize>,
        now: i64,
    ) -> Result<Option<Failure>, Unprocessed> {
        instance.make_ready(false)?;
        let mut part = self.batch.slice(run);
        match instance.try_process(self.input, &mut part, now) {
            Ok(()) => Ok(None),
            Err(error) => failure_of(error).map(Some),
        }
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

/// Tries something in fresh instances until it succeeds, at most `tries` times; once, where it would do the same the next
/// time. Returns the last failure if it never succeeds.
fn alone(
    instance: &mut OperatorInstance,
    tries: u32,
    mut run: impl FnMut(&mut OperatorInstance) -> Result<(), Unprocessed>,
) -> Result<Option<Failure>, Unprocessed> {
    let mut last = None;
    let is_repeatable = instance.is_repeatable();
    for left in (0..tries).rev() {
        instance.make_ready(true)?;
        instance.set_attention(match left == 0 || is_repeatable {
            true => Attention::Explained,
            false => Attention::Repeated,
        });
        let tried = run(instance);
        instance.set_attention(Attention::Repeated);
        match tried {
            Ok(()) => return Ok(None),
            Err(error) => {
                let failure = failure_of(error)?;
                let is_known = matches!(failure.kind, FailureKind::Trap | FailureKind::Returned);
                last = Some(failure);
                if is_repeatable && is_known {
                    break;
                }
            }
        }
    }
    Ok(last)
}

/// What became of timers that were due.
#[derive(Debug)]
pub enum Firing {
    /// How many have fired, in one call; 0 if none was due.
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
    instance.set_attention(Attention::Repeated);
    let firing = fire_fewer(instance, (domain, until, now), failure, tries);
    instance.set_attention(Attention::Full);
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use dataflow::Cells;
    use dataflow::batch::NO_TIMESTAMP;
    use dataflow::state::{KeyedState, Resolved};

    use super::*;
    use crate::operator::{Call, Operator};

    /// A call.
    #[derive(Clone, Copy)]
    struct Called {
        records: usize,
        /// Whether the instance was fresh.
        is_fresh: bool,
        failed: bool,
    }

    type Calls = Vec<Called>;

    fn lock(calls: &Mutex<Calls>) -> MutexGuard<'_, Calls> {
        calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a record is bad.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Bad {
        Not,
        /// The operator returns an error and names it.
        Named,
        /// It traps.
        Trapping,
        /// It fails only together with others.
        Together,
        /// It fails the first time, and not in a fresh instance.
        Once,
    }

    /// Copies records, each of which is two bytes: its number.
    struct Copies {
        bad: Vec<Bad>,
        calls: Arc<Mutex<Calls>>,
        is_fresh: bool,
        is_repeatable: bool,
    }

    impl Operator for Copies {
        fn process(
            &mut self,
            _: u32,
            batch: &Batch,
            _: &Resolved,
            call: &mut Call,
        ) -> Result<(), Failure> {
            let is_fresh = std::mem::replace(&mut self.is_fresh, false);
            lock(&self.calls).push(Called {
                records: batch.len(),
                is_fresh,
                failed: true,
            });
            for index in 0..batch.len() {
                let value = batch.values.get(index);
                let number = usize::from(u16::from_be_bytes([value[0], value[1]]));
                let fails = match self.bad[number] {
                    Bad::Not => false,
                    Bad::Named | Bad::Trapping => true,
                    Bad::Together => batch.len() > 1,
                    Bad::Once => !(is_fresh && batch.len() == 1),
                };
                if fails {
                    let mut failure = Failure::new(FailureKind::Trap, "it is bad");
                    if self.bad[number] == Bad::Named {
                        failure.kind = FailureKind::Returned;
                        failure.record = Some(index);
                    }
                    return Err(failure);
                }
                let (none, one) = (Cells::new(), std::iter::once(value).collect::<Cells>());
                call.output
                    .emit(0, none.as_ref(), one.as_ref(), &[])
                    .expect("it is within all limits");
            }
            if let Some(call) = lock(&self.calls).last_mut() {
                call.failed = false;
            }
            Ok(())
        }

        fn make_ready(&mut self, fresh: bool) -> Result<(), Failure> {
            self.is_fresh |= fresh;
            Ok(())
        }

        fn is_repeatable(&self) -> bool {
            self.is_repeatable
        }
    }

    fn below(seed: &mut u64, bound: u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed % bound
    }

    /// Processes a batch in which some records are bad. Returns those that were emitted, those that were blamed, and
    /// the calls.
    fn isolate(bad: &[Bad], tries: u32, is_repeatable: bool) -> (Vec<usize>, Vec<usize>, Calls) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let operator = Box::new(Copies {
            bad: bad.to_vec(),
            calls: Arc::clone(&calls),
            is_fresh: false,
            is_repeatable,
        });
        let mut instance = OperatorInstance::new(operator, KeyedState::default(), false, 1);
        let mut batch = Batch::default();
        for number in 0..bad.len() as u16 {
            batch.push(None, &number.to_be_bytes(), NO_TIMESTAMP);
        }
        let (mut emitted, mut blamed) = (Vec::new(), Vec::new());
        let error = instance.try_process(0, &mut batch.clone(), 0);
        let error = error.expect_err("some are bad");
        let mut isolation = Isolation::new(0, batch, error, tries).expect("one may be to blame");
        let number = |value: &[u8]| usize::from(u16::from_be_bytes([value[0], value[1]]));
        while let Some(part) = isolation.next(&mut instance, 0).expect("no state fails") {
            match part {
                Isolated::Processed => {
                    let output = instance.take_output(0, Batch::default);
                    let output = output.expect("each part emits something");
                    emitted.extend((0..output.len()).map(|it| number(output.values.get(it))));
                }
                Isolated::Blamed(bad) => {
                    assert_eq!(bad.number as usize, number(bad.record.values.get(0)));
                    blamed.push(number(bad.record.values.get(0)));
                }
            }
        }
        (emitted, blamed, std::mem::take(&mut lock(&calls)))
    }

    #[test]
    fn c91_all_but_the_bad_ones_are_processed_once_and_in_order() {
        for seed in 1..=500_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let len = 1 + below(&mut random, 300) as usize;
            let every = 1 + below(&mut random, 60);
            let kinds = [Bad::Named, Bad::Trapping, Bad::Together, Bad::Once];
            let mut bad: Vec<Bad> = (0..len)
                .map(|_| match below(&mut random, every) {
                    0 => kinds[below(&mut random, 4) as usize],
                    _ => Bad::Not,
                })
                .collect();
            if bad.iter().all(|it| matches!(it, Bad::Not)) || len == 1 {
                bad[len / 2] = Bad::Trapping;
            }
            let tries = 1 + below(&mut random, 3) as u32;
            let is_repeatable = seed % 2 == 0;
            let (emitted, blamed, calls) = isolate(&bad, tries, is_repeatable);
            let numbers = |is_bad: bool| -> Vec<usize> {
                let fails = |bad: Bad| matches!(bad, Bad::Named | Bad::Trapping);
                (0..len).filter(|it| fails(bad[*it]) == is_bad).collect()
            };
            assert_eq!(blamed, numbers(true), "seed {seed}");
            assert_eq!(emitted, numbers(false), "seed {seed}");
            let fresh = calls
                .iter()
                .filter(|call| call.is_fresh && call.records == 1);
            // What would be the same the next time is not tried again.
            let tries = if is_repeatable { 1 } else { tries as usize };
            assert!(fresh.clone().count() >= blamed.len() * tries, "seed {seed}");
            let others = bad
                .iter()
                .filter(|it| matches!(it, Bad::Together | Bad::Once));
            let most = (blamed.len() + others.count()) * tries;
            assert!(fresh.count() <= most, "seed {seed}");
        }
    }

    #[test]
    fn c91_one_bad_record_of_a_hundred_fails_a_few_times_and_few_records_come_twice() {
        for (kind, failed_max, calls_max) in [(Bad::Named, 3, 12), (Bad::Trapping, 3, 100)] {
            let bad: Vec<Bad> = (0..1000)
                .map(|number| match number % 100 {
                    50 => kind,
                    _ => Bad::Not,
                })
                .collect();
            let (_, blamed, calls) = isolate(&bad, 1, false);
            assert_eq!(blamed.len(), 10);
            let failed = calls.iter().filter(|call| call.failed).count();
            // The whole batch beside those of each.
            assert!(failed <= 10 * failed_max + 1, "{kind:?}: {failed} failed");
            assert!(calls.len() <= 10 * calls_max, "{kind:?}: {}", calls.len());
            let records: usize = calls.iter().map(|call| call.records).sum();
            assert!(records <= 4500, "{kind:?}: {records}");
        }
    }
}
