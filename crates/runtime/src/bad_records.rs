//! Records and timers that an operator cannot process, and lines that a source cannot read: left out, counted, and
//! handed to a sink of dead letters.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use dataflow::Batch;
use dataflow::batch::NO_TIMESTAMP;
use dataflow::state::TimeDomain;
use operator::capsule::{self, Capsule, Subject};
use operator::isolation::{self, BadRecord, BadTimer, Firing, Isolated, Isolation};
use operator::source::Unreadable;
use operator::{BoxError, Permanent, Unprocessed};

use crate::error::Error;
use crate::subtask::{Body, Subtask};

/// What becomes of records and timers of an operator that are to blame for a failure, and of what a source cannot read
/// as a record: they are left out.
#[derive(Debug, Default)]
pub struct BadRecords {
    /// How often one is tried alone before it is to blame, at least once.
    pub tries: u32,
    /// How many there may be.
    pub limit: Option<RateLimit>,
    /// Whether each becomes a dead letter. The operator has a port for them then, the last one.
    pub has_dead_letters: bool,
    /// What a capsule says of the operator.
    pub subject: Subject,
    /// What feeds each of its inputs.
    pub upstream: Vec<Vec<String>>,
}

/// How many of something there may be in a time, over all subtasks of a job. A restart counts from 0, because records come
/// again.
#[derive(Debug)]
pub struct RateLimit {
    count: u32,
    period_ms: i64,
    /// As the user has written it.
    text: String,
    /// The attempt, and when the last of them were in it, at most `count`.
    times: Mutex<(u32, VecDeque<i64>)>,
}

impl RateLimit {
    /// The most that a limit may allow: as many times are kept.
    pub const COUNT_MAX: u32 = 1_000_000;

    /// At most `count` (and never more than [`RateLimit::COUNT_MAX`]) in any `period_ms` milliseconds; `text` is how
    /// the user has written that.
    #[must_use]
    pub fn new(count: u32, period_ms: i64, text: String) -> Self {
        Self {
            count: count.min(Self::COUNT_MAX),
            period_ms,
            text,
            times: Mutex::default(),
        }
    }

    /// Counts one more of an attempt, at `now`. Returns whether that is within the limit.
    fn allows(&self, attempt: u32, now: i64) -> bool {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, times) = &mut *times;
        if *of != attempt {
            *of = attempt;
            times.clear();
        }
        let since = now.saturating_sub(self.period_ms);
        while times.front().is_some_and(|time| *time <= since) {
            times.pop_front();
        }
        if times.len() >= self.count as usize {
            return false;
        }
        times.push_back(now);
        true
    }
}

impl Subtask {
    /// Processes a batch that has failed, without the records that are to blame. Where the job is to fail because of
    /// them, only one that has reached a limit of memory is processed in parts, because these may be within it; and
    /// only after a restart, so that a limit that is reached is known of.
    #[cold]
    pub(crate) fn isolate(
        &mut self,
        member: usize,
        input: u32,
        batch: Batch,
        error: Unprocessed,
    ) -> Result<(), Error> {
        let policy = self.members[member].bad_records.clone();
        let may_be_too_much =
            batch.len() > 1 && self.was_restarted() && isolation::is_memory_limit(&error);
        if policy.is_none() && !may_be_too_much {
            return Err(self.unprocessed(member, error));
        }
        let tries = policy.as_ref().map_or(1, |policy| policy.tries);
        let isolation = Isolation::new(input, batch, error, tries);
        let mut isolation = isolation.map_err(|error| self.unprocessed(member, error))?;
        let mut blames_nobody = true;
        loop {
            let now = self.clock.now_ms();
            let Body::Operator(instance) = &mut self.members[member].body else {
                unreachable!("an operator has failed")
            };
            let next = isolation.next(instance, now);
            match next.map_err(|error| self.unprocessed(member, error))? {
                None => break,
                Some(Isolated::Processed) => self.emit_output(member)?,
                Some(Isolated::Blamed(bad)) => {
                    let Some(policy) = &policy else {
                        let position = bad.position();
                        return Err(self.operator_failed(member, bad.failure, position));
                    };
                    blames_nobody = false;
                    self.leave_out_record(member, policy, &bad)?;
                }
            }
        }
        if blames_nobody {
            self.events.count_recovered(self.members[member].node);
        }
        Ok(())
    }

    /// Whether the job was started again in this process.
    fn was_restarted(&self) -> bool {
        self.events.attempt > 0
    }

    fn leave_out_record(
        &mut self,
        member: usize,
        policy: &BadRecords,
        bad: &BadRecord,
    ) -> Result<(), Error> {
        let id = Arc::clone(&self.members[member].id);
        if policy.has_dead_letters {
            let position = capsule::Position {
                origin: self.origin(&id, bad.number),
                input: Some(bad.input),
                upstream: upstream(policy, bad.input),
            };
            let Body::Operator(instance) = &mut self.members[member].body else {
                unreachable!("an operator has failed")
            };
            let capsule = Capsule::of_record(&policy.subject, self.index, bad, position, instance);
            let capsule =
                capsule.map_err(|error| self.unprocessed(member, Unprocessed::State(error)))?;
            let timestamp = bad.record.timestamps.first().copied();
            self.emit_capsule(member, &capsule, timestamp.unwrap_or(NO_TIMESTAMP))?;
        }
        let words = || format!("{}{}", bad.failure, bad.position());
        self.count_bad(member, policy, words, || {
            self.operator_failed(member, bad.failure.clone(), bad.position())
        })
    }

    /// What the source could not read becomes a dead letter, if it is to.
    pub(crate) fn leave_out_unreadable(&mut self) -> Result<(), Error> {
        let head = &mut self.members[0];
        let (Body::Source(source), Some(policy)) = (&mut head.body, &head.bad_records) else {
            return Ok(());
        };
        match source.take_unreadable() {
            Some(unreadable) => {
                let policy = Arc::clone(policy);
                self.leave_out_line(&policy, &unreadable)
            }
            None => Ok(()),
        }
    }

    #[cold]
    fn leave_out_line(
        &mut self,
        policy: &BadRecords,
        unreadable: &Unreadable,
    ) -> Result<(), Error> {
        if policy.has_dead_letters {
            let capsule = Capsule::of_line(&policy.subject, self.index, unreadable);
            self.emit_capsule(0, &capsule, NO_TIMESTAMP)?;
        }
        let words = || format!("{}: {}", unreadable.origin, unreadable.message);
        self.count_bad(0, policy, words, || {
            let error = BoxError::from(Permanent::new(words()));
            self.connector(0, "reading", error)
        })
    }

    /// Lets timers of a member fire, in one call. Returns how many have fired or were left out. As for batches, fewer
    /// fire after a failure.
    pub(crate) fn fire_some(
        &mut self,
        member: usize,
        domain: TimeDomain,
        until: i64,
        now: i64,
    ) -> Result<usize, Error> {
        let was_restarted = self.was_restarted();
        let entry = &mut self.members[member];
        let Body::Operator(instance) = &mut entry.body else {
            return Ok(0);
        };
        let policy = entry.bad_records.clone();
        let firing = match &policy {
            Some(policy) => isolation::fire(instance, domain, until, now, policy.tries),
            None => match instance.fire(domain, until, now) {
                Err(error) if was_restarted && isolation::is_memory_limit(&error) => {
                    isolation::fire(instance, domain, until, now, 1)
                }
                fired => fired.map(Firing::Fired),
            },
        };
        match (
            firing.map_err(|error| self.unprocessed(member, error))?,
            policy,
        ) {
            (Firing::Fired(count), _) => Ok(count),
            (Firing::Blamed(bad), Some(policy)) => {
                self.leave_out_timer(member, &policy, &bad).map(|()| 1)
            }
            (Firing::Blamed(bad), None) => {
                let position = bad.position();
                Err(self.operator_failed(member, bad.failure, position))
            }
        }
    }

    fn leave_out_timer(
        &mut self,
        member: usize,
        policy: &BadRecords,
        bad: &BadTimer,
    ) -> Result<(), Error> {
        if policy.has_dead_letters {
            let Body::Operator(instance) = &mut self.members[member].body else {
                unreachable!("an operator has failed")
            };
            let capsule = Capsule::of_timer(&policy.subject, self.index, bad, instance);
            let capsule =
                capsule.map_err(|error| self.unprocessed(member, Unprocessed::State(error)))?;
            self.emit_capsule(member, &capsule, NO_TIMESTAMP)?;
        }
        let words = || format!("{}{}", bad.failure, bad.position());
        self.count_bad(member, policy, words, || {
            self.operator_failed(member, bad.failure.clone(), bad.position())
        })
    }

    fn emit_capsule(
        &mut self,
        member: usize,
        capsule: &Capsule,
        timestamp: i64,
    ) -> Result<(), Error> {
        let mut batch = self.spares.take();
        batch.push(None, capsule.to_json().as_bytes(), timestamp);
        let port = self.members[member].outputs.len() - 1;
        self.emit(member, port, batch)
    }

    /// Counts one that was left out. Logs its `words` for the first, the second, the fourth and so on. `error` is what
    /// it would have made the job fail with.
    fn count_bad(
        &self,
        member: usize,
        policy: &BadRecords,
        words: impl Fn() -> String,
        error: impl FnOnce() -> Error,
    ) -> Result<(), Error> {
        let node = &self.members[member];
        let number = self.events.count_blamed(node.node) + 1;
        if number.is_power_of_two() {
            let what = match policy.has_dead_letters {
                true => "is a dead letter",
                false => "is skipped",
            };
            let words = operator::text::line(&words()).into_owned();
            tracing::warn!(
                node = node.id.as_ref(),
                subtask = self.index,
                bad_records = number,
                "a bad record {what}: {words}"
            );
        }
        match &policy.limit {
            Some(limit) if !limit.allows(self.events.attempt, self.clock.now_ms()) => {
                Err(Error::TooManyBadRecords {
                    limit: limit.text.clone(),
                    last: Box::new(error()),
                })
            }
            _ => Ok(()),
        }
    }
}

fn upstream(policy: &BadRecords, input: u32) -> Vec<String> {
    let of_input = policy.upstream.get(input as usize);
    of_input.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_those_of_the_last_period() {
        let limit = RateLimit::new(2, 1000, "2/s".into());
        let allowed = [0, 999, 999, 1000, 1500, 1999].map(|now| limit.allows(0, now));
        assert_eq!(allowed, [true, true, false, true, false, true]);
        let again = [1, 2, 3].map(|now| limit.allows(1, now));
        assert_eq!(again, [true, true, false]);
    }
}
