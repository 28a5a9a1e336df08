//! State whose entries expire.
//!
//! Each value, map entry and list element of a state with a TTL is stored after the time at which it expires: 8
//! bytes, a little-endian `i64` of milliseconds. All that stores, seals, writes, restores and evicts takes them
//! for a part of the value. Only what reads for somebody else looks through a [`View`], which hides them, and
//! what has expired.
//!
//! What has expired is removed when it is overwritten, when a sweep reaches it (a few entries with each commit),
//! and when a full snapshot is written, which leaves it out.
//!
//! Times never go back here: neither with a clock that does, nor below those of the checkpoint that was
//! restored. So what nobody could see any more is never seen again.
//!
//! In reading order: this, `refresh`, `sweep`, `convert` (what is restored).

mod convert;
mod refresh;
mod sweep;
#[cfg(test)]
mod tests;

pub(super) use convert::{Conversion, Converted, TOO_SHORT, has_expiries};
pub(super) use sweep::Sweep;

use super::KeyedState;
use crate::cells::{Cells, CellsRef};
use crate::watermark::NO_WATERMARK;

/// How long the entries of a state live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// For how many milliseconds.
    pub millis: u64,
    /// From when on.
    pub refresh: Refresh,
    /// By which clock.
    pub time: TtlTime,
}

/// What an entry's time to live counts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refresh {
    /// Its last write.
    #[default]
    Write,
    /// Its last write or read.
    Read,
}

/// The clock by which entries expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TtlTime {
    /// That of the machine.
    #[default]
    Processing,
    /// The operator's watermark.
    Event,
}

/// What the clocks show by which entries expire, in milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// That of the machine; the smallest number: nobody has said.
    pub processing: i64,
    /// The watermark; the smallest number: there was none.
    pub watermark: i64,
}

/// No time: none is known, so nothing can have expired.
const NO_TIME: i64 = NO_WATERMARK;

/// The watermark after all input. It is not a time: what a state holds then has not expired because of it.
const END: i64 = i64::MAX;

/// Expires never: what was written before there was a time. The sweep gives it one when there is.
const UNDATED: i64 = i64::MAX;

/// Bytes of the time before a value.
pub(super) const PREFIX: usize = 8;

impl Default for Times {
    fn default() -> Self {
        Self {
            processing: NO_TIME,
            watermark: NO_TIME,
        }
    }
}

impl Times {
    fn advance(&mut self, other: Self) {
        self.processing = self.processing.max(other.processing);
        if other.watermark != END {
            self.watermark = self.watermark.max(other.watermark);
        }
    }

    fn of(self, time: TtlTime) -> i64 {
        match time {
            TtlTime::Processing => self.processing,
            TtlTime::Event if self.watermark == END => NO_TIME,
            TtlTime::Event => self.watermark,
        }
    }
}

impl Ttl {
    /// When what is written (or read) at a time expires.
    fn expiry(self, now: i64) -> i64 {
        if now == NO_TIME {
            return UNDATED;
        }
        now.saturating_add_unsigned(self.millis).min(UNDATED - 1)
    }
}

/// Takes a stored value apart; `None` if it is too short to have an expiry.
fn split(stored: &[u8]) -> Option<(i64, &[u8])> {
    let (expiry, value) = stored.split_first_chunk::<PREFIX>()?;
    Some((i64::from_le_bytes(*expiry), value))
}

fn push_dated(to: &mut Vec<u8>, expiry: i64, value: &[u8]) {
    to.extend_from_slice(&expiry.to_le_bytes());
    to.extend_from_slice(value);
}

/// What readers of a state see of what is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// The time now, if it has a TTL.
    now: Option<i64>,
}

impl View {
    /// Of a state with this TTL, if it has one.
    pub(super) fn new(ttl: Option<Ttl>, times: Times) -> Self {
        Self {
            now: ttl.map(|ttl| times.of(ttl.time)),
        }
    }

    /// Whether it hides what has expired.
    #[inline]
    pub(super) fn hides(self) -> bool {
        self.now.is_some()
    }

    /// The value; `None` if it has expired.
    #[inline]
    pub(super) fn see(self, stored: &[u8]) -> Option<&[u8]> {
        match self.now {
            None => Some(stored),
            Some(now) => split(stored).and_then(|(expiry, value)| (expiry > now).then_some(value)),
        }
    }

    /// Whether a stored value has expired.
    #[inline]
    pub(super) fn has_expired(self, stored: &[u8]) -> bool {
        self.now.is_some() && self.see(stored).is_none()
    }
}

impl KeyedState {
    /// The clock shows `now`, in milliseconds since the epoch: the time at which entries expire, or from which
    /// they live on. A time before one that was said already changes nothing.
    pub fn set_now(&mut self, now: i64) {
        self.times.processing = self.times.processing.max(now);
    }

    /// The operator's watermark, as [`KeyedState::set_now`]. That of the end of all input changes nothing.
    pub fn set_watermark(&mut self, watermark: i64) {
        self.times.advance(Times {
            watermark,
            ..Times::default()
        });
    }

    /// The highest watermark that was set, without that of the end of all input; `None` if there was none.
    #[must_use]
    pub fn event_time(&self) -> Option<i64> {
        Some(self.times.watermark).filter(|time| *time != NO_TIME)
    }

    /// What a state's readers see. It must be one that there is.
    #[inline]
    pub(super) fn view(&self, state: u32) -> View {
        View::new(self.ttl(state), self.times)
    }

    #[inline]
    pub(super) fn ttl(&self, state: u32) -> Option<Ttl> {
        self.tables[state as usize].ttl
    }

    /// A value as a state with a TTL stores it.
    #[cold]
    pub(super) fn dated_one(&mut self, ttl: Ttl, value: &[u8]) -> Vec<u8> {
        self.sweep.written(1);
        let mut dated = Vec::with_capacity(value.len() + PREFIX);
        push_dated(&mut dated, ttl.expiry(self.times.of(ttl.time)), value);
        dated
    }

    /// Values as a state with a TTL stores them.
    #[cold]
    #[inline(never)]
    pub(super) fn dated(&mut self, ttl: Ttl, values: CellsRef<'_>) -> Cells {
        let expiry = ttl.expiry(self.times.of(ttl.time));
        self.sweep.written(values.len());
        let bytes = values.byte_len() + values.len() * PREFIX;
        let mut dated = Cells::with_capacity(values.len(), bytes);
        for value in values.into_cells() {
            dated.push_with(|to| push_dated(to, expiry, value));
        }
        dated
    }
}
