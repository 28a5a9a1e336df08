//! Timers in memory, and the clocks that let them fire.

use std::collections::{BTreeSet, HashSet};

use super::Host;
use crate::bindings::highwater::operator::types::{Fired, TimeDomain};
use crate::call::NO_TIMESTAMP;
use crate::cells::Cells;

/// The most timers that fire in one call.
const FIRED_MAX: usize = 1024;

/// A timer. They are ordered by time within a domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pending {
    pub(crate) domain: TimeDomain,
    pub(crate) time: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) tag: u32,
}

#[derive(Debug)]
pub(super) struct Timers {
    pending: BTreeSet<Pending>,
    /// What the current call changed, and whether it was there before.
    undo: Vec<(Pending, bool)>,
    watermark: i64,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            pending: BTreeSet::new(),
            undo: Vec::new(),
            watermark: NO_TIMESTAMP,
        }
    }
}

impl Timers {
    fn set(&mut self, timer: Pending, there: bool) {
        let before = if there {
            !self.pending.insert(timer.clone())
        } else {
            self.pending.remove(&timer)
        };
        self.undo.push((timer, before));
    }

    pub(super) fn commit(&mut self) {
        self.undo.clear();
    }

    pub(super) fn rollback(&mut self) {
        for (timer, before) in self.undo.drain(..).rev() {
            if before {
                self.pending.insert(timer);
            } else {
                self.pending.remove(&timer);
            }
        }
    }
}

/// What harnesses do with it.
impl Host {
    /// Takes the next timers up to `time`, in order of time, as many as there are until a key would come twice: a
    /// call about them begins. They come back if it fails.
    pub(crate) fn begin_timers(&self, domain: TimeDomain, time: i64) -> Option<Fired> {
        let mut fired = Fired {
            domain,
            keys: Cells::empty(),
            key_numbers: Vec::new(),
            times: Vec::new(),
            tags: Vec::new(),
        };
        let mut timers = self.0.timers.borrow_mut();
        let mut seen = HashSet::new();
        let due = timers.pending.iter().filter(|timer| timer.domain == domain);
        let mut taken = Vec::new();
        let mut until = time;
        for timer in due {
            if taken.len() == FIRED_MAX || timer.time > until {
                break;
            }
            // The key's next timer waits, because this one may register one before it, or delete it; and so does
            // what is later than that one.
            if !seen.insert(timer.key.clone()) {
                until = timer.time;
                continue;
            }
            fired.key_numbers.push(fired.keys.count() as u32);
            fired.keys.push(&timer.key);
            fired.times.push(timer.time);
            fired.tags.push(timer.tag);
            taken.push(timer.clone());
        }
        for timer in taken {
            timers.set(timer, false);
        }
        drop(timers);
        if fired.times.is_empty() {
            return None;
        }
        self.begin(fired.keys.clone());
        Some(fired)
    }

    pub(crate) fn set_watermark(&self, watermark: i64) {
        self.0.timers.borrow_mut().watermark = watermark;
        self.set_event_time(watermark);
    }

    /// Drops the timers of processing time up to now, as a host does at a restore if it is to skip what is overdue.
    #[cfg(test)]
    pub(crate) fn skip_overdue_timers(&self) {
        let now = self.processing_time();
        let mut timers = self.0.timers.borrow_mut();
        let is_overdue =
            |timer: &Pending| timer.domain == TimeDomain::ProcessingTime && timer.time <= now;
        timers.pending.retain(|timer| !is_overdue(timer));
    }

    /// All timers that have not fired, those of event time first.
    pub(crate) fn pending_timers(&self) -> Vec<Pending> {
        self.0.timers.borrow().pending.iter().cloned().collect()
    }
}

/// What operators call.
impl Host {
    fn set_timers(
        &self,
        domain: TimeDomain,
        (keys, times, tags): (&[u32], &[i64], &[u32]),
        there: bool,
    ) {
        assert!(
            keys.len() == times.len() && keys.len() == tags.len(),
            "one time and tag per key"
        );
        for ((&key, &time), &tag) in keys.iter().zip(times).zip(tags) {
            let key = self.key(key);
            let timer = Pending {
                domain,
                time,
                key,
                tag,
            };
            self.0.timers.borrow_mut().set(timer, there);
        }
    }

    pub(crate) fn register_timers(
        &self,
        domain: TimeDomain,
        keys: &[u32],
        times: &[i64],
        tags: &[u32],
    ) {
        self.set_timers(domain, (keys, times, tags), true);
    }

    pub(crate) fn delete_timers(
        &self,
        domain: TimeDomain,
        keys: &[u32],
        times: &[i64],
        tags: &[u32],
    ) {
        self.set_timers(domain, (keys, times, tags), false);
    }

    pub(crate) fn current_watermark(&self) -> i64 {
        self.0.timers.borrow().watermark
    }
}
