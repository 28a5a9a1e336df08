//! Deletes in the background.
//!
//! One thread, started when there is first something to delete, and joined when the store goes. The
//! queue is bounded: if a storage hangs for long, further deletions are given up with a warning, and
//! what they would have deleted is left to garbage collection.
//!
//! A checkpoint whose metadata could not be deleted may be believed by a later restore. It *stands*:
//! it keeps all that it references, and is tried again before the next deletion.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::claim::{self, Leftovers};
use crate::completed::Completed;
use crate::lease::Lease;
use crate::names;
use crate::references::References;
use crate::storage::Storage;
use crate::{Error, Result};

const QUEUE_MAX: usize = 1024;
const WARNINGS_MAX: usize = 100;

/// How many checkpoints may stand. If there are more, no shared file is deleted any more.
const STANDING_MAX: usize = 256;

/// Something that is to go.
#[derive(Clone, Debug)]
pub(super) enum Deletion {
    /// A checkpoint: the metadata first, then what only it references, then its directory.
    Checkpoint(Completed),
    /// Files that this run wrote and references no more, then directories, if nothing is left in
    /// them.
    Files {
        objects: Vec<String>,
        directories: Vec<String>,
    },
    /// Files of others that were claimed and that this run references no more. Checkpoints of others
    /// may: they are asked. Then the job directories that nothing is left in.
    Claimed {
        storage: Arc<dyn Storage>,
        files: Vec<String>,
        jobs: BTreeSet<String>,
    },
    /// What dead runs left in directories that this run took over.
    Leftovers(Leftovers),
}

impl Deletion {
    fn is_empty(&self) -> bool {
        match self {
            Self::Files {
                objects,
                directories,
            } => objects.is_empty() && directories.is_empty(),
            _ => false,
        }
    }
}

/// Deletes, and knows what could not be deleted.
#[derive(Debug)]
pub(super) struct Deleter {
    storage: Arc<dyn Storage>,
    lease: Option<Arc<Lease>>,
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    checkpoints: VecDeque<Completed>,
    /// Files that would be gone already if none of these referenced them.
    files: BTreeSet<String>,
    /// Some checkpoints were forgotten.
    overflown: bool,
}

impl Deleter {
    /// Deletes all that can be deleted; the first error is returned. Nothing is deleted in a job
    /// directory that is not ours any more.
    pub(super) fn run(&self, deletion: &Deletion) -> Result<()> {
        self.lease.as_ref().map_or(Ok(()), |lease| lease.keep())?;
        self.try_again();
        match deletion {
            Deletion::Checkpoint(checkpoint) => self.checkpoint(checkpoint),
            Deletion::Files {
                objects,
                directories,
            } => {
                let mut outcome = Ok(());
                for object in objects.iter().filter(|file| !self.keep(file)) {
                    outcome = outcome.and(self.storage.delete(object));
                }
                for directory in directories {
                    outcome = outcome.and(self.storage.remove_directory(directory));
                }
                outcome
            }
            Deletion::Claimed {
                storage,
                files,
                jobs,
            } => {
                let of_files = files.iter().map(|file| names::parent(names::parent(file)));
                let of_jobs = jobs.iter().map(String::as_str);
                let all: BTreeSet<&str> = of_files.chain(of_jobs).collect();
                let owned: Result<Vec<Option<Lease>>> =
                    all.into_iter().map(|job| self.own(storage, job)).collect();
                let _owned = owned?;
                claimed(storage, files, jobs)
            }
            Deletion::Leftovers(remains) => remains.remove(),
        }
    }

    /// Takes the job directory of something that was claimed, for as long as it takes to delete it;
    /// `None` if it is our own, or nobody owns directories here.
    fn own(&self, storage: &Arc<dyn Storage>, job: &str) -> Result<Option<Lease>> {
        let Some(lease) = &self.lease else {
            return Ok(None);
        };
        let (own_storage, own_job) = lease.place();
        if Arc::ptr_eq(own_storage, storage) && own_job == job {
            return Ok(None);
        }
        Lease::take(Arc::clone(storage), job, lease.terms().clone()).map(Some)
    }

    /// A crash before the metadata is gone leaves a whole checkpoint; after it, orphans.
    fn checkpoint(&self, checkpoint: &Completed) -> Result<()> {
        let contents = checkpoint.contents();
        let (storage, directory) = (&contents.storage, &contents.directory);
        let in_job_directory = names::checkpoint_id(names::leaf(directory)).is_some();
        let owned = match in_job_directory {
            true => self.own(storage, names::parent(directory)),
            false => Ok(None),
        };
        let deleted = owned.and_then(|owned| {
            // By the storage, not by the clock: this process may have been stopped for long, and who
            // took the directory meanwhile may have been rewound to this very checkpoint.
            self.lease.as_ref().map_or(Ok(()), |it| it.confirm())?;
            storage.delete(&names::metadata(directory))?;
            Ok(owned)
        });
        let _owned = match deleted {
            Ok(owned) => owned,
            Err(error) => {
                self.keep_standing(checkpoint.clone());
                return Err(error);
            }
        };
        let mut outcome = Ok(());
        for file in checkpoint.files() {
            if names::parent(&file) == directory {
                outcome = outcome.and(storage.delete(&file));
            }
        }
        outcome.and(storage.remove_directory(directory))
    }

    /// Notes that the metadata of a checkpoint that was to go may still be there.
    fn keep_standing(&self, checkpoint: Completed) {
        let mut standing = self.standing();
        if standing.checkpoints.len() == STANDING_MAX {
            standing.overflown = true;
        } else {
            standing.checkpoints.push_back(checkpoint);
        }
    }

    /// Those that stand are tried again, until one cannot be deleted.
    fn try_again(&self) {
        loop {
            let Some(checkpoint) = self.standing().checkpoints.pop_front() else {
                return;
            };
            let before = self.standing().checkpoints.len();
            // The first failure was reported.
            let _told = self.checkpoint(&checkpoint);
            if self.standing().checkpoints.len() > before {
                return;
            }
            let free: BTreeSet<String> = {
                let mut standing = self.standing();
                let needed: BTreeSet<String> = standing
                    .checkpoints
                    .iter()
                    .flat_map(Completed::files)
                    .collect();
                let held = std::mem::take(&mut standing.files);
                let (kept, free) = held.into_iter().partition(|file| needed.contains(file));
                standing.files = kept;
                free
            };
            for file in free {
                // An orphan at worst.
                let _told = self.storage.delete(&file);
            }
        }
    }

    /// Whether a checkpoint that stands references a file, which is remembered then.
    fn keep(&self, file: &str) -> bool {
        let mut standing = self.standing();
        let needed = |checkpoint: &Completed| checkpoint.files().contains(file);
        if standing.overflown {
            return true;
        }
        let needed = standing.checkpoints.iter().any(needed);
        if needed {
            standing.files.insert(file.to_owned());
        }
        needed
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes those of the files that no checkpoint in their storage needs, then the jobs' directories
/// as far as nothing is left in them.
fn claimed(storage: &Arc<dyn Storage>, files: &[String], jobs: &BTreeSet<String>) -> Result<()> {
    let mut outcome = Ok(());
    // Files of one claim lie beneath one directory of jobs.
    let roots: BTreeSet<&str> = files
        .iter()
        .map(|file| names::parent(names::parent(names::parent(file))))
        .collect();
    for root in roots {
        let references = References::read(storage, root)?;
        let of_root = files
            .iter()
            .filter(|file| names::parent(names::parent(names::parent(file))) == root);
        for file in of_root {
            if !references.contains(file) && references.may_be_needed_by(file).is_none() {
                outcome = outcome.and(storage.delete(file));
            }
        }
    }
    for job in jobs {
        outcome = outcome.and(claim::remove_if_empty(&**storage, job));
    }
    outcome
}

/// How many deletions wait for the storage or are in progress. Keeps nothing of the store alive.
#[derive(Clone, Debug, Default)]
pub struct Backlog(Arc<AtomicU64>);

impl Backlog {
    /// Their number now.
    #[must_use]
    pub fn deletions(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct Cleaner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    deleter: Deleter,
    backlog: Backlog,
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
    pub(super) fn new(storage: Arc<dyn Storage>, lease: Option<Arc<Lease>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                deleter: Deleter {
                    storage,
                    lease,
                    standing: Mutex::default(),
                },
                backlog: Backlog::default(),
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
            thread: Mutex::new(None),
        }
    }

    /// Has it deleted, some time.
    pub(super) fn submit(&self, deletion: Deletion) {
        if deletion.is_empty() {
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
                let what = match deletion {
                    Deletion::Checkpoint(checkpoint) => {
                        let id = checkpoint.metadata().id;
                        self.shared.deleter.keep_standing(checkpoint);
                        format!("checkpoint {id} was")
                    }
                    Deletion::Files { objects, .. } => format!("{} files were", objects.len()),
                    Deletion::Claimed { .. } => "claimed files were".to_owned(),
                    Deletion::Leftovers(_) => "what earlier runs left was".to_owned(),
                };
                state.warn(format!("{what} not deleted: {why}"));
            }
            None => {
                self.shared.backlog.0.fetch_add(1, Ordering::Relaxed);
                state.queue.push_back(deletion);
                self.shared.changed.notify_all();
            }
        }
    }

    /// Notes what could not be deleted elsewhere.
    pub(super) fn warn(&self, error: &Error) {
        self.shared.state().warn(describe(error));
    }

    pub(super) fn take_warnings(&self) -> Vec<String> {
        self.shared.state().warnings.drain(..).collect()
    }

    pub(super) fn backlog(&self) -> Backlog {
        self.shared.backlog.clone()
    }

    /// Deletes now, on this thread. A caller that submitted something waits for it first.
    pub(super) fn run(&self, deletion: &Deletion) -> Result<()> {
        self.shared.deleter.run(deletion)
    }

    /// Waits until there is nothing to delete.
    pub(super) fn wait(&self) {
        let mut state = self.shared.state();
        while state.busy || !state.queue.is_empty() {
            state = self.shared.wait(state);
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "it deletes what is old beside the job, and its failures are warnings"
    )]
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
                    let run = AssertUnwindSafe(|| self.deleter.run(&deletion));
                    let outcome = panic::catch_unwind(run);
                    state = self.state();
                    state.busy = false;
                    self.backlog.0.fetch_sub(1, Ordering::Relaxed);
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
