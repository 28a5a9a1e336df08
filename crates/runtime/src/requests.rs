//! What has been asked of a running job.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// How a job may be asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Cancel,
    Suspend,
}

/// What has been asked of a running job. Kept beside the event queue, so that asking never waits and
/// no request is lost between two attempts.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    stop: Mutex<Option<Stop>>,
    checkpoint: AtomicBool,
}

impl Requests {
    pub(crate) fn request_stop(&self, stop: Stop) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
    }

    pub(crate) fn request_checkpoint(&self) {
        self.checkpoint.store(true, Ordering::Release);
    }

    pub(crate) fn stop(&self) -> Option<Stop> {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_checkpoint(&self) -> bool {
        self.checkpoint.swap(false, Ordering::AcqRel)
    }
}
