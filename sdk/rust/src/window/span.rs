//! Which window a result is of.

use crate::call::NO_TIMESTAMP;
use crate::row::{Row, RowWriter};

/// Why a window gives a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Firing {
    /// Before its end; see [`Window::early_every`](crate::Window::early_every).
    Early,
    /// At its end: for a window of time, the watermark has reached it.
    OnTime,
    /// After its end, because late records came within the allowed lateness: the result again, with them.
    Late,
}

/// A window: from [`Span::start`] on, before [`Span::end`], in milliseconds since 1970-01-01 UTC. Emitted, it is
/// two fields.
///
/// A session ends one gap after its last record. Windows of a number of records and the global window span from
/// their first record to one millisecond after their last, by event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    start: i64,
    end: i64,
    firing: Firing,
}

impl Span {
    pub(crate) fn new(start: i64, end: i64, firing: Firing) -> Self {
        Self { start, end, firing }
    }

    /// From the first to the last of records that may have no event time.
    pub(crate) fn of_records(first: i64, last: i64, firing: Firing) -> Self {
        let end = if last == NO_TIMESTAMP {
            NO_TIMESTAMP
        } else {
            last.saturating_add(1)
        };
        Self::new(first, end, firing)
    }

    /// The first millisecond of the window.
    #[must_use]
    #[inline]
    pub fn start(self) -> i64 {
        self.start
    }

    /// The first millisecond after the window.
    #[must_use]
    #[inline]
    pub fn end(self) -> i64 {
        self.end
    }

    /// Why there is a result.
    #[must_use]
    pub fn firing(self) -> Firing {
        self.firing
    }

    /// The event time of what the window emits: its last millisecond.
    pub(crate) fn timestamp(self) -> i64 {
        if self.end == NO_TIMESTAMP {
            NO_TIMESTAMP
        } else {
            self.end - 1
        }
    }
}

impl Row for Span {
    fn write(&self, row: &mut RowWriter<'_>) {
        self.start.write(row);
        self.end.write(row);
    }
}
