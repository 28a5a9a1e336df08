//! Time as a lease needs it, by the clock of the job.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use operator::clock::Clock;

/// A clock by which a lease is renewed and watched.
#[derive(Clone, Debug)]
pub struct LeaseTime(pub Arc<dyn Clock>);

impl checkpoint::lease::Time for LeaseTime {
    fn now_ms(&self) -> i64 {
        self.0.now_ms()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock's way to wait")]
    fn wait_ms(&self, ms: u64) {
        thread::sleep(Duration::from_millis(ms));
    }
}
