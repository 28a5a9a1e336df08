//! What lets time pass in a harness.

use super::Harness;
use crate::bindings::highwater::operator::types::TimeDomain as WitDomain;
use crate::cells::Cells;
use crate::error::{Error, Result};
use crate::operator::Operator;
use crate::timer::TimeDomain;

/// Calls for one watermark after which the harness takes it that timers register each other without end.
const CALLS_MAX: usize = 100_000;

/// A timer that has not fired; see [`Harness::timers`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingTimer {
    /// What its time is measured in.
    pub domain: TimeDomain,
    /// When it fires, in milliseconds since 1970-01-01 UTC.
    pub time: i64,
    /// Its key.
    pub key: String,
    /// The number it was registered with.
    pub tag: u32,
}

impl<T: Operator> Harness<T> {
    /// Advances the watermark: fires the timers up to it in order of time, then tells the operator. A
    /// watermark that is not higher than the one before changes nothing.
    ///
    /// Timers fire as a host fires them: at most 1024 in a call, each key once in a call, and those that are
    /// registered meanwhile at or below the watermark too. If a call fails, what the calls before it did stays.
    pub fn set_watermark(&mut self, watermark: i64) -> Result<()> {
        let before = self.host.current_watermark();
        if watermark <= before {
            return Ok(());
        }
        self.host.set_watermark(watermark);
        let result = self.fire(WitDomain::EventTime, watermark).and_then(|()| {
            self.host.begin(Cells::empty());
            let result = self.instance.on_watermark(watermark);
            self.end(result)
        });
        if result.is_err() {
            self.host.set_watermark(before);
        }
        result
    }

    /// Sets the clock, in milliseconds since 1970-01-01 UTC, and fires the timers of processing time up to
    /// then. A timer registered for a time that has passed fires the next time.
    pub fn set_time(&mut self, milliseconds: i64) -> Result<()> {
        self.host.set_processing_time(milliseconds);
        self.fire(WitDomain::ProcessingTime, milliseconds)
    }

    /// Starts a new instance, and drops the timers of processing time that fell due while the job was down.
    #[cfg(test)]
    pub(crate) fn restart_without_overdue_timers(&mut self) -> Result<()> {
        self.host.skip_overdue_timers();
        self.restart()
    }

    fn fire(&mut self, domain: WitDomain, time: i64) -> Result<()> {
        for _ in 0..CALLS_MAX {
            let Some(fired) = self.host.begin_timers(domain, time) else {
                return Ok(());
            };
            let result = self.instance.on_timers(fired);
            self.end(result)?;
        }
        Err(Error::new(format_args!(
            "timers were fired in {CALLS_MAX} calls and there are still some at or below {time}: each \
             registers another one"
        )))
    }

    /// The timers that have not fired, those of event time first, in order of time.
    #[must_use]
    pub fn timers(&self) -> Vec<PendingTimer> {
        let pending = self.host.pending_timers().into_iter();
        pending
            .map(|timer| PendingTimer {
                domain: TimeDomain::from_wit(timer.domain),
                time: timer.time,
                key: String::from_utf8_lossy(&timer.key).into_owned(),
                tag: timer.tag,
            })
            .collect()
    }

    /// How many entries the operator's states hold, together with its timers: what a checkpoint would hold. 0
    /// says that nothing was forgotten.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.host.entries() + self.host.pending_timers().len()
    }
}
