//! A job's checkpoints: begin, write, complete, discard, subsume, delete.
//!
//! Invariants:
//! 1. Data first, metadata last: `_metadata` is put when everything it references is durable. Its put
//!    is the one commit point; a crash before it leaves orphans, never a checkpoint.
//! 2. Nothing is overwritten. Names are never used twice, and `_metadata` is put only if absent.
//! 3. Only what this run wrote or claimed is ever deleted. Of a checkpoint `_metadata` goes first, and
//!    nothing of it as long as it may still stand, so that what is believed is whole; a shared file
//!    goes when no completed checkpoint references it and no pending one still can.
//! 4. Who owns the job directory by a lease confirms it after the put of `_metadata`, before the
//!    checkpoint counts, and before anything is deleted: what a host does that has lost the directory
//!    without knowing it is never believed, and takes nothing away.
//! 5. A savepoint is nobody's but its user's: it is written elsewhere, and neither holds back nor deletes
//!    anything of a checkpoint.
//! 6. Deleting never fails and never delays a checkpoint: it is done after it, and what could not be
//!    deleted is a warning.

mod assemble;
mod cleaner;
mod pending;
mod retention;
mod savepoint;
mod segment;
mod slots;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dataflow::CheckpointId;

use crate::claim::{Claim, Extent, Leftovers};
use crate::lease::{Ended, Ending, Held, Lease, Terms};
use crate::metadata::Codec;
use crate::names::{self, JobDirectory};
use crate::savepoint::SavepointTarget;
use crate::storage::{MemoryStorage, Permissions, Storage};
use crate::used::{Used, used};
use crate::{Error, Result, location};

pub use crate::completed::Completed;
pub use cleaner::Backlog;
pub use pending::Pending;
pub use segment::Written;

use cleaner::{Cleaner, Deletion};
use retention::Retained;
use savepoint::Savepoint;
use slots::Slots;

/// What `checkpoint.dir` is called in messages.
const DIRECTORY: &str = "checkpoint directory";

/// Where and how a job keeps its checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// States of at most this many bytes go into `_metadata`, uncompressed: fewer objects, but each
    /// checkpoint writes them again.
    pub inline_threshold: u64,
    /// Memory storage only: the most bytes that one subtask's state may have, before compression.
    pub max_state_size: u64,
    /// How many completed checkpoints to keep; at least one is kept.
    pub retained: usize,
    /// Whether checkpoints may be written as deltas on earlier ones. Data goes to `shared/` then,
    /// otherwise to the directory of its checkpoint.
    pub incremental: bool,
    /// How state files are compressed.
    pub compression: Compression,
    /// How long a checkpoint may take as a whole. Where storage is reached over a network, a call
    /// gives up after half of it, so that the checkpoint can still say why it failed.
    pub timeout: Duration,
    /// Who may read and write the files, where checkpoints are files.
    pub permissions: Permissions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            inline_threshold: 20 << 10,
            max_state_size: 5 << 20,
            retained: 1,
            incremental: true,
            compression: Compression::None,
            timeout: Duration::from_secs(600),
            permissions: Permissions::Private,
        }
    }
}

/// How state files are compressed. It says how new ones are written; all are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// By LZ4: fast.
    Lz4,
    /// By Zstandard: smaller.
    Zstd,
}

impl Compression {
    fn codec(self) -> Option<Codec> {
        match self {
            Self::None => None,
            Self::Lz4 => Some(Codec::Lz4),
            Self::Zstd => Some(Codec::Zstd),
        }
    }
}

/// The checkpoints of one run of a job. Cheap to clone; used from several threads. When the last
/// clone (and the last [`Pending`]) is dropped, it waits for what is still to be deleted.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    storage: Arc<dyn Storage>,
    job: JobDirectory,
    options: Options,
    /// Memory storage: paths mean nothing outside of this process, and states are limited.
    volatile: bool,
    /// Distinguishes the files of this run from those of earlier ones in the same job directory.
    run: u64,
    /// The highest checkpoint number that earlier runs used in the job directory.
    used_id: u64,
    /// Whether the storage shows directories.
    has_directories: bool,
    /// How many data files this run has named.
    files_named: AtomicU64,
    retained: Mutex<Retained>,
    slots: Mutex<Slots>,
    cleaner: Cleaner,
    /// Declared after the cleaner, which is dropped before it: nothing is deleted once it is given up.
    lease: Option<Arc<Lease>>,
}

impl CheckpointStore {
    /// Checkpoints in the memory of this process (Flink's JobManagerCheckpointStorage).
    #[must_use]
    pub fn memory(options: Options) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let job = JobDirectory::in_memory();
        Self::new(storage, job, options, true, None, Used::default())
    }

    /// Takes the lease of `<dir>/<job-id>/`: this process owns the directory from now on. `dir` is a path,
    /// a `file://` or an `s3://` URL as the user gave it, made absolute. `watch` is called if the end of
    /// a holder has to be waited for.
    ///
    /// # Errors
    /// As [`CheckpointStore::open`] and [`Lease::take`].
    pub fn take_lease(
        dir: &str,
        job_id: &str,
        patience: Duration,
        permissions: Permissions,
        terms: Terms,
        watch: &mut dyn FnMut(&Held),
    ) -> Result<Arc<Lease>> {
        // The id first: a refusal should not leave a directory behind.
        let job = JobDirectory::new(job_id)?;
        let storage = location::create_root(dir, DIRECTORY, patience, permissions)?;
        Ok(Arc::new(Lease::take_watching(
            storage,
            job.name(),
            terms,
            watch,
        )?))
    }

    /// The storage of all job directories in `dir`, to be written, as [`CheckpointStore::take_lease`] opens it.
    ///
    /// # Errors
    /// As [`CheckpointStore::open`].
    pub fn storage(
        dir: &str,
        patience: Duration,
        permissions: Permissions,
    ) -> Result<Arc<dyn Storage>> {
        location::create_root(dir, DIRECTORY, patience, permissions)
    }

    /// Checkpoints in a job directory whose lease was taken; makes `shared/` and `taskowned/`. What
    /// earlier runs left there stays untouched.
    ///
    /// # Errors
    /// As [`CheckpointStore::open`].
    pub fn with_lease(lease: Arc<Lease>, options: Options) -> Result<Self> {
        let (storage, job) = lease.place();
        let (storage, job) = (Arc::clone(storage), JobDirectory::new(job)?);
        Self::with_job(storage, job, options, Some(lease))
    }

    /// Checkpoints in `<dir>/<job-id>/`, a directory that nobody else can have: no lease is taken.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if `dir` or `job_id` cannot be used at all, [`Error::Storage`] if the
    /// directories cannot be made or the storage cannot be reached.
    pub fn open(dir: &str, job_id: &str, options: Options) -> Result<Self> {
        // The id first: a refusal should not leave a directory behind.
        let job = JobDirectory::new(job_id)?;
        Self::with_job(
            location::create_root(dir, DIRECTORY, options.timeout, options.permissions)?,
            job,
            options,
            None,
        )
    }

    /// As [`CheckpointStore::open`], in any storage.
    ///
    /// # Errors
    /// As [`CheckpointStore::open`].
    pub fn with_storage(storage: Arc<dyn Storage>, job_id: &str, options: Options) -> Result<Self> {
        Self::with_job(storage, JobDirectory::new(job_id)?, options, None)
    }

    fn with_job(
        storage: Arc<dyn Storage>,
        job: JobDirectory,
        options: Options,
        lease: Option<Arc<Lease>>,
    ) -> Result<Self> {
        storage.make_directory(&job.shared())?;
        storage.make_directory(&job.taskowned())?;
        let used = used(&*storage, job.name())?;
        Ok(Self::new(storage, job, options, false, lease, used))
    }

    fn new(
        storage: Arc<dyn Storage>,
        job: JobDirectory,
        options: Options,
        volatile: bool,
        lease: Option<Arc<Lease>>,
        used: Used,
    ) -> Self {
        let used_id = lease.as_ref().map_or(used.id, |lease| lease.highest());
        let run = match &lease {
            Some(lease) => lease.generation(),
            None => used.generation + 1,
        };
        let retained = Retained::new(options.retained, options.incremental, job.name(), run);
        Self {
            inner: Arc::new(Inner {
                cleaner: Cleaner::new(Arc::clone(&storage), lease.clone()),
                storage,
                job,
                options,
                volatile,
                run,
                used_id,
                has_directories: used.has_directories,
                files_named: AtomicU64::new(0),
                retained: Mutex::new(retained),
                slots: Mutex::default(),
                lease,
            }),
        }
    }

    /// Takes over the checkpoint that the job starts from, and what `extent` says of its
    /// surroundings: they are this run's from now on, the newest of what it has, and go when they are
    /// subsumed. To be called before the first [`CheckpointStore::begin`]. Checkpoints in memory
    /// replace nothing that is to outlive the process, so a store of them claims nothing.
    ///
    /// # Errors
    /// [`Error::Storage`] if it is unknown what is to be taken over, [`Error::Held`] if it is in
    /// a job directory in which another host is at work.
    pub fn claim(&self, checkpoint: &Completed, extent: Extent) -> Result<()> {
        let inner = &self.inner;
        if !inner.volatile {
            let used = (inner.run, inner.used_id);
            let (storage, own) = (&inner.storage, inner.job.name());
            let lease = inner.lease.as_deref();
            let claim = Claim::new(checkpoint, extent, storage, own, lease, used)?;
            inner.retained().claim(claim);
        }
        Ok(())
    }

    /// Takes over what earlier processes left in the job directory and no checkpoint needs, though
    /// there is no checkpoint there to start from: it goes when the first one of this run is complete.
    pub fn take_over(&self) {
        if !self.inner.volatile {
            self.inner.retained().take_over(self.inner.remains());
        }
    }

    /// Removes at once what earlier processes left in the job directory and no checkpoint needs, such
    /// as the checkpoints after the one that the job is rewound to.
    ///
    /// # Errors
    /// [`Error::Storage`] if it is unknown what exists, or something could not be removed;
    /// [`Error::Fenced`] if the job directory is another's.
    pub fn remove_remains(&self) -> Result<()> {
        self.inner.confirm()?;
        self.inner.remains().remove()
    }

    /// The lease by which the job directory is owned, if it is.
    #[must_use]
    pub fn lease(&self) -> Option<&Arc<Lease>> {
        self.inner.lease.as_ref()
    }

    /// Whether it was found out that another host owns the job directory now. Asks nobody.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub fn check_owned(&self) -> Result<()> {
        self.inner.lease.as_ref().map_or(Ok(()), |it| it.check())
    }

    /// As [`CheckpointStore::check_owned`], but asks the storage. That the storage does not answer says
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub fn confirm_owned(&self) -> Result<()> {
        match self.inner.confirm() {
            Err(error @ Error::Fenced { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// The number of this run's taking of the job directory; 0 if it is not owned by a lease.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner
            .lease
            .as_ref()
            .map_or(0, |lease| lease.generation())
    }

    /// What tells the job directory from all others, see [`Lease::directory`]; empty if it is not owned by
    /// a lease.
    #[must_use]
    pub fn directory(&self) -> &str {
        self.inner
            .lease
            .as_ref()
            .map_or("", |lease| lease.directory())
    }

    /// Starts writing checkpoint `id`.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if this run has or writes a checkpoint with this id.
    pub fn begin(&self, id: CheckpointId) -> Result<Arc<Pending>> {
        if !self.inner.retained().begin(id.0) {
            return Err(Error::AlreadyExists {
                object: self.inner.metadata_location(id.0),
            });
        }
        if let Some(lease) = &self.inner.lease {
            lease.note_begun(id.0);
        }
        Ok(Arc::new(Pending::new(Arc::clone(&self.inner), id, None)))
    }

    /// Starts writing a savepoint with number `id` of the job's sequence, in a new directory of `target`.
    /// It is written as a checkpoint is, full ([`KeyedState::savepoint`]), and differs in this:
    ///
    /// - It is no business of this store: it does not count as completed, subsumes nothing, is not
    ///   deleted, and no delta is ever based on it. Several may be pending, beside checkpoints; they
    ///   complete in any order.
    /// - If it fails or is given up, what was written of it is removed by the thread that finds out, which
    ///   may have to wait for the storage.
    /// - The job's storage may be memory. Then `max_state_size` does not count, because it bounds
    ///   what checkpoints take of this process's memory, and a savepoint takes none.
    ///
    /// [`KeyedState::savepoint`]: dataflow::state::KeyedState::savepoint
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if this run has or writes a checkpoint with this id.
    pub fn begin_savepoint(
        &self,
        id: CheckpointId,
        target: &SavepointTarget,
    ) -> Result<Arc<Pending>> {
        if self.inner.retained().knows(id.0) {
            return Err(Error::AlreadyExists {
                object: self.inner.metadata_location(id.0),
            });
        }
        if let Some(lease) = &self.inner.lease {
            lease.note_begun(id.0);
        }
        let savepoint = Some(Savepoint::new(target));
        Ok(Arc::new(Pending::new(
            Arc::clone(&self.inner),
            id,
            savepoint,
        )))
    }

    /// The newest completed checkpoint of this run.
    #[must_use]
    pub fn latest(&self) -> Option<Completed> {
        self.inner.retained().latest()
    }

    /// The completed checkpoints of this run that are kept, oldest first.
    #[must_use]
    pub fn completed(&self) -> Vec<Completed> {
        self.inner.retained().completed()
    }

    /// What could not be deleted since the last call, a line each; garbage collection will find it.
    /// The oldest are forgotten when there are very many.
    #[must_use]
    pub fn take_warnings(&self) -> Vec<String> {
        self.inner.cleaner.take_warnings()
    }

    /// How much is to be deleted.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        self.inner.cleaner.backlog()
    }

    /// Waits until everything that was subsumed so far is deleted, or has become a warning.
    pub fn wait_for_cleaning(&self) {
        self.inner.cleaner.wait();
    }

    /// The highest number of a checkpoint, complete or not, that earlier runs left in this job's
    /// directory; 0 if there is none. Numbers are never used twice, so this run's begin after it.
    #[must_use]
    pub fn used_id(&self) -> u64 {
        self.inner.used_id
    }

    /// Whether checkpoints are kept in the memory of this process only.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        self.inner.volatile
    }

    /// Puts on record how the run ends and, unless its checkpoints are to be kept, that they are given
    /// up; then deletes them. The record comes first, in one conditional put: should another host have
    /// taken the job directory, it fails and nothing is deleted; should this process be killed after
    /// it, nobody resumes from what was to be deleted. `now` is in milliseconds since the epoch.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the job directory is another's, [`Error::Storage`] if the end could not be
    /// put on record (then nothing is deleted), or something could not be deleted.
    pub fn end(&self, how: Ending, keep: bool, now: i64) -> Result<()> {
        let inner = &self.inner;
        if keep {
            // What exists is kept like what was announced, and named as the newest. If that is unknown,
            // the next start finds it.
            if let Err(error @ Error::Fenced { .. }) = inner.close_slots() {
                return Err(error);
            }
        }
        // What was subsumed should be gone by now.
        inner.cleaner.wait();
        if let Some(lease) = &inner.lease {
            let highest = lease.highest();
            lease.record(|run| {
                if let Some(run) = run {
                    run.ended = Some(Ended { how, at: now });
                    if !keep {
                        run.discard_through(highest);
                    }
                }
            })?;
        }
        match keep {
            true => Ok(()),
            false => self.delete_all(),
        }
    }

    /// Closes the slots of checkpoints whose metadata was put with an unknown outcome: each of them
    /// exists now, and is the newest completed one, or can never exist. To be called before the job is
    /// restarted in this process, when none of its threads writes any more.
    ///
    /// # Errors
    /// [`Error::Storage`] if the storage does not answer: call it again. [`Error::Fenced`] if the job
    /// directory is another's.
    pub fn close_slots(&self) -> Result<()> {
        self.inner.close_slots()
    }

    /// Deletes every checkpoint of this run and what it claimed, and the directories that are empty
    /// then; what the lease has on record stays. Pending checkpoints are to be discarded before.
    ///
    /// # Errors
    /// The first [`Error::Storage`]; all else that no checkpoint refers to is deleted all the same.
    /// [`Error::Fenced`] if the job directory is another's: then nothing is deleted.
    pub fn delete_all(&self) -> Result<()> {
        let inner = &self.inner;
        inner.cleaner.wait();
        inner.confirm()?;
        // What may exist is deleted like what does.
        for slot in inner.slots().take_all() {
            inner.retained().complete(slot.checkpoint);
        }
        let deletions = inner.retained().delete_all();
        let mut outcome = Ok(());
        for deletion in deletions {
            outcome = outcome.and(inner.cleaner.run(&deletion));
        }
        for directory in [inner.job.shared(), inner.job.taskowned()] {
            outcome = outcome.and(inner.storage.remove_directory(&directory));
        }
        // The last thing in the directory, if nothing else is left there.
        if let Some(lease) = &inner.lease {
            lease.release();
        }
        outcome.and(inner.storage.remove_directory(inner.job.name()))
    }
}

impl Inner {
    fn retained(&self) -> MutexGuard<'_, Retained> {
        // Its changes are single statements, so a panic elsewhere does not spoil it.
        self.retained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_completed(&self, id: u64) {
        if let Some(lease) = &self.lease {
            lease.note_completed(id);
        }
    }

    /// Checks that the job directory is still there, where the storage has directories: a file put into
    /// one that was moved away, or whose disk is not mounted any more, would silently begin another that
    /// has nothing of what deltas build on.
    fn check_in_place(&self) -> Result<()> {
        if !self.has_directories {
            return Ok(());
        }
        // Made when the job began, and never again: files that are put make only their own directory.
        let listing = self.storage.list(self.job.name())?;
        if listing.directories.contains(&self.job.taskowned()) {
            return Ok(());
        }
        Err(Error::Storage {
            action: "writing into",
            object: self.storage.location(self.job.name()),
            source: "the job's directory was moved or deleted while the job is running".into(),
        })
    }

    /// A new name for a data file of checkpoint `id`.
    fn name_data(&self, id: u64) -> String {
        let directory = match self.options.incremental {
            true => self.job.shared(),
            false => self.job.checkpoint(id),
        };
        self.name_data_in(&directory, id)
    }

    /// A new name for a data file of checkpoint `id` in a directory.
    fn name_data_in(&self, directory: &str, id: u64) -> String {
        let index = self.files_named.fetch_add(1, Ordering::Relaxed);
        names::data(directory, self.run, id, index)
    }

    fn metadata_location(&self, id: u64) -> String {
        self.storage
            .location(&names::metadata(&self.job.checkpoint(id)))
    }

    fn remains(&self) -> Leftovers {
        Leftovers::of_own(&self.storage, self.job.name(), (self.run, self.used_id))
    }

    /// Asks the storage whether the job directory is still ours.
    fn confirm(&self) -> Result<()> {
        self.lease.as_ref().map_or(Ok(()), |it| it.confirm())
    }

    fn clean(&self, deletions: impl IntoIterator<Item = Deletion>) {
        for deletion in deletions {
            self.cleaner.submit(deletion);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What was kept only as a base for deltas has no reader any more. The cleaner is dropped
        // next, which waits for it.
        let unpinned = self
            .retained
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .unpin_all();
        self.clean(unpinned);
    }
}

#[cfg(test)]
mod tests;
