//! Keeps the lease of a job's directory, for as long as the job needs it.
//!
//! A thread renews it a third of its timeout apart. What the storage fails at is tried again until the
//! lease is stale, and then goes on being tried: nothing completes meanwhile, and if no other host has
//! taken the directory, all is as before. Another thread watches it, because a storage that hangs fails at nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use checkpoint::lease::Lease;

use crate::error::{Error, causes};
use crate::spawn;

/// Whether it is time to renew is checked every timeout / LOOKS, and as often whether a look is over.
const LOOKS: u32 = 12;

/// Renews a lease until it is dropped.
pub struct Keeper {
    /// Dropped, it ends the threads.
    stop: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Keeper {
    /// Begins to renew a lease.
    ///
    /// # Errors
    /// No thread can be had for it.
    pub fn start(lease: Arc<Lease>) -> Result<Self, Error> {
        let timeout = Duration::from_millis(lease.terms().timeout_ms);
        let pause = (timeout / LOOKS).max(Duration::from_millis(1));
        let (stop, stopped) = mpsc::channel();
        let (looks, looked) = mpsc::channel();
        let renewing = spawn::background("lease", move || renew(&lease, pause, &stopped, &looks))?;
        let watching = spawn::background("lease-watch", move || watch(timeout, pause, &looked))?;
        Ok(Self {
            stop: Some(stop),
            threads: vec![renewing, watching],
        })
    }
}

/// Renews the lease, and sends `true` before each look at it and `false` after it.
fn renew(lease: &Lease, pause: Duration, stopped: &Receiver<()>, looks: &Sender<bool>) {
    let mut warned = false;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        // Nobody listens if the other thread panicked, which would only warn.
        let _ = looks.send(true);
        let kept = lease.keep();
        let _ = looks.send(false);
        match kept {
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
}

/// Warns of a look that takes longer than the lease lasts, until nobody looks any more.
fn watch(timeout: Duration, pause: Duration, looked: &Receiver<bool>) {
    while let Ok(began) = looked.recv() {
        if began && is_silent(pause, looked) {
            tracing::warn!(
                "the lease of the job directory cannot be renewed: its storage has not answered for {timeout:?}; no \
                 checkpoint completes until it does"
            );
            if looked.recv().is_ok() {
                tracing::warn!("the storage of the job directory answers again");
            }
        }
    }
}

/// Waits until the look is over. `true` if it is not after as many pauses as the lease lasts: counted, because this
/// process may have stood still as well, and then it is not the storage that is silent.
fn is_silent(pause: Duration, looked: &Receiver<bool>) -> bool {
    (0..LOOKS).all(|_| looked.recv_timeout(pause) == Err(RecvTimeoutError::Timeout))
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            // One only warns; if the other panicked, the lease goes stale, as it should.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}
