//! The time that a call sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

/// What a monotonic clock shows at least, in nanoseconds: to Go's runtime 0 is a broken clock.
pub(super) const MONOTONIC_START: u64 = 1_000_000_000;

/// A clock that stands still during a call and never goes back: replaying a record gives the guest
/// the time that the runtime gave it.
#[derive(Debug, Default)]
pub(super) struct CallClock {
    now_ms: AtomicI64,
}

impl CallClock {
    /// Sets the time, in milliseconds since 1970.
    pub(super) fn set(&self, now_ms: i64) {
        self.now_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// The time, in milliseconds since 1970.
    pub(super) fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::Relaxed)
    }
}

/// A [`CallClock`] as WASI sees it.
pub(super) struct FrozenClock(pub(super) Arc<CallClock>);

impl HostWallClock for FrozenClock {
    fn resolution(&self) -> std::time::Duration {
        std::time::Duration::from_millis(1)
    }

    fn now(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.now_ms().unsigned_abs())
    }
}

impl HostMonotonicClock for FrozenClock {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        let since_1970 = self.0.now_ms().unsigned_abs().saturating_mul(1_000_000);
        since_1970.saturating_add(MONOTONIC_START)
    }
}
