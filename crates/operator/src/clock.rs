//! The one module that reads clocks.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that never goes back.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Milliseconds since 1970-01-01 UTC.
    fn now_ms(&self) -> i64;

    /// The same in microseconds, for measuring; as fine as the clock is.
    fn now_us(&self) -> i64 {
        self.now_ms().saturating_mul(1000)
    }
}

/// The machine's clock: its wall time when the process began to look at it, and from there on the
/// monotonic clock, so that a wall clock that is set back moves no deadline.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
    start_ms: i64,
}

impl SystemClock {
    /// Starts from the wall time as it is now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self {
            start: Instant::now(),
            start_ms: since_epoch.as_millis() as i64,
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        self.start_ms + self.start.elapsed().as_millis() as i64
    }

    fn now_us(&self) -> i64 {
        self.start_ms.saturating_mul(1000) + self.start.elapsed().as_micros() as i64
    }
}
