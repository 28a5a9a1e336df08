//! Keeps the lease of a job's directory, for as long as the job needs it.
//!
//! A thread renews it a third of its timeout apart. What the storage fails at is tried again until the
//! lease is stale, and then goes on being tried: nothing completes meanwhile, and if no other host has
//! taken the directory, all is as before.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use checkpoint::lease::Lease;

use crate::error::{Error, causes};
use crate::spawn;

/// Whether it is time to renew is checked every timeout / LOOKS.
const LOOKS: u64 = 12;

/// Renews a lease until it is dropped.
pub struct Keeper {
    /// Dropped, it ends the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Begins to renew a lease.
    ///
    /// # Errors
    /// No thread can be had for it.
    pub fn start(lease: Arc<Lease>) -> Result<Self, Error> {
        let (stop, stopped) = mpsc::channel();
        let pause = Duration::from_millis((lease.terms().timeout_ms / LOOKS).max(1));
        let thread = spawn::background("lease", move || {
            let mut warned = false;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                match lease.keep() {
                    Ok(()) => warned = false,
                    // Every caller that asks the lease learns of it, and those whom it concerns are notified.
                    Err(checkpoint::Error::Fenced { .. }) => return,
                    Err(error) if !warned => {
                        warned = true;
                        let error = causes(&error);
                        tracing::warn!("the lease of the job directory cannot be renewed: {error}");
                    }
                    Err(_) => {}
                }
            }
        })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only renews; if it panicked, the lease goes stale, as it should.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}
