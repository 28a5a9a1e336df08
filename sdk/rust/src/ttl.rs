//! How long entries of state live.

use std::time::Duration;

use crate::bindings::exports::highwater::operator::guest as wit;
use crate::timer::TimeDomain;

/// How long the entries of a state live; see [`OpenContext::ttl`](crate::OpenContext::ttl).
///
/// An entry that has expired is gone for everybody who reads, at once; the host removes it when it comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    lives: Duration,
    reads: bool,
    time: TimeDomain,
}

impl Ttl {
    /// For so long after the last write, by the clock of the machine. At least a millisecond; what is finer is
    /// cut off.
    #[must_use]
    pub fn of(lives: Duration) -> Self {
        Self {
            lives,
            reads: false,
            time: TimeDomain::ProcessingTime,
        }
    }

    /// Counts from the last write or read. Then each read is a write: it goes into the next incremental checkpoint,
    /// and reading a list writes all of it. A walk over all keys is no such read.
    #[must_use]
    pub fn refreshed_by_reads(self) -> Self {
        Self {
            reads: true,
            ..self
        }
    }

    /// Goes by the watermark, not by the clock: the same input expires the same entries however fast it is read.
    /// What is written at a watermark lives until it has advanced by so much; what is written before the first one
    /// counts from a later one.
    #[must_use]
    pub fn in_event_time(self) -> Self {
        Self {
            time: TimeDomain::EventTime,
            ..self
        }
    }

    pub(crate) fn to_wit(self) -> wit::Ttl {
        wit::Ttl {
            millis: self.lives.as_millis().try_into().unwrap_or(u64::MAX),
            refresh: match self.reads {
                false => wit::TtlRefresh::Write,
                true => wit::TtlRefresh::Read,
            },
            time: self.time.to_wit(),
        }
    }
}

impl From<Duration> for Ttl {
    fn from(lives: Duration) -> Self {
        Self::of(lives)
    }
}
