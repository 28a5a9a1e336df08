//! Deletes behind the checkpoints' back.
//!
//! One thread, started when there is first something to delete, and joined when the store goes. The
//! queue is bounded: if a storage hangs for long, further deletions are given up with a warning, and
//! what they would have deleted is left to garbage collection.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::storage::Storage;
use crate::{Error, Result};

const QUEUE_MAX: usize = 1024;
const WARNINGS_MAX: usize = 100;

/// Objects that are to go, in this order, then directories, if nothing is left in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Deletion {
    pub(super) objects: Vec<String>,
    pub(super) directories: Vec<String>,
}

impl Deletion {
    /// Deletes all that can be deleted; the first error is returned. A first object that cannot be
    /// deleted keeps the rest, if it is what makes the rest believed.
    pub(super) fn run(&self, storage: &dyn Storage) -> Result<()> {
        let mut outcome = Ok(());
        for object in &self.objects {
            let deleted = storage.delete(object);
            if deleted.is_err() && crate::names::leaf(object) == crate::names::METADATA {
                return deleted;
            }
            outcome = outcome.and(deleted);
        }
        for directory in &self.directories {
            outcome = outcome.and(storage.remove_directory(directory));
        }
        outcome
    }
}

#[derive(Debug)]
pub(super) struct Cleaner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    storage: Arc<dyn Storage>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Deletion>,
    /// Whether the thread is at one now.
    busy: bool,
    closed: bool,
    warnings: VecDeque<String>,
}

impl State {
    fn warn(&mut self, warning: String) {
        if self.warnings.len() == WARNINGS_MAX {
            self.warnings.pop_front();
        }
        self.warnings.push_back(warning);
    }
}

impl Cleaner {
    pub(super) fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            shared: Arc::new(Shared {
                storage,
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
            thread: Mutex::new(None),
        }
    }

    /// Has it deleted, some time.
    pub(super) fn submit(&self, deletion: Deletion) {
        if deletion.objects.is_empty() && deletion.directories.is_empty() {
            return;
        }
        let started = self.start();
        let mut state = self.shared.state();
        let refused = match started {
            Err(error) => Some(format!("no thread could be started: {error}")),
            Ok(()) if state.queue.len() >= QUEUE_MAX => Some("the storage is too slow".to_owned()),
            Ok(()) => None,
        };
        match refused {
            Some(why) => {
                let count = deletion.objects.len();
                state.warn(format!("{count} files were not deleted: {why}"));
            }
            None => {
                state.queue.push_back(deletion);
                self.shared.changed.notify_all();
            }
        }
    }

    /// Something else could not be deleted.
    pub(super) fn warn(&self, error: &Error) {
        self.shared.state().warn(describe(error));
    }

    pub(super) fn take_warnings(&self) -> Vec<String> {
        self.shared.state().warnings.drain(..).collect()
    }

    /// Waits until there is nothing to delete.
    pub(super) fn wait(&self) {
        let mut state = self.shared.state();
        while state.busy || !state.queue.is_empty() {
            state = self.shared.wait(state);
        }
    }

    fn start(&self) -> std::io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let builder = thread::Builder::new().name("checkpoint-cleaner".to_owned());
            *thread = Some(builder.spawn(move || shared.work())?);
        }
        Ok(())
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // It cannot have anything to say that matters now.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: ends when it was closed and everything is deleted.
    fn work(&self) {
        let mut state = self.state();
        loop {
            match state.queue.pop_front() {
                Some(deletion) => {
                    state.busy = true;
                    drop(state);
                    // A panic in a storage must not leave those who wait for us waiting.
                    let run = AssertUnwindSafe(|| deletion.run(&*self.storage));
                    let outcome = panic::catch_unwind(run);
                    state = self.state();
                    state.busy = false;
                    match outcome {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => state.warn(describe(&error)),
                        Err(_) => state.warn("the storage panicked while deleting".to_owned()),
                    }
                    self.changed.notify_all();
                }
                None if state.closed => return,
                None => state = self.wait(state),
            }
        }
    }
}

/// An error and its source on one line: a warning has no chain to be printed.
fn describe(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
