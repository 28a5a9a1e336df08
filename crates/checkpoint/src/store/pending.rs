//! A checkpoint that is being written.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dataflow::CheckpointId;
use dataflow::operator_state::{Author, SealedOperatorState};
use dataflow::state::{SealedState, SegmentStats};

use super::assemble::{Assembled, assemble, mismatch};
use super::cleaner::Deletion;
use super::savepoint::Savepoint;
use super::segment::{Body, Files, SegmentWriter, What, Written};
use super::slots::Slot;
use super::{Inner, Options};
use crate::completed::{Completed, Contents};
use crate::metadata::{self, Kind, METADATA_BYTES_MAX, Metadata};
use crate::names;
use crate::storage::{ObjectWriter, Storage};
use crate::{Error, Result};

/// A checkpoint or savepoint that is being written. Dropped without `complete`, it is discarded.
#[derive(Debug)]
pub struct Pending {
    pub(super) store: Arc<Inner>,
    pub(super) id: CheckpointId,
    /// Where it is, if it is a savepoint.
    savepoint: Option<Savepoint>,
    phase: Mutex<Phase>,
    /// The data files that (perhaps) exist by this checkpoint's doing.
    files: Mutex<Vec<String>>,
    bytes_written: AtomicU64,
}

/// How far a pending checkpoint is. Every change is made under its lock, so that the thread that gives it up and
/// the one that completes it agree on which of them came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Parts of it are written.
    Open,
    /// Given up before its metadata was begun: what was written is still to be removed.
    GivenUp,
    /// The metadata is being written.
    Completing,
    /// Given up while its metadata was being written: should that succeed, it exists, but is not
    /// announced, and the next one takes its place.
    Revoked,
    /// It is complete, or what was written is removed.
    Over,
}

/// Why a checkpoint is not complete.
pub(super) enum Outcome {
    /// It does not exist, and never will.
    Failed(Error),
    /// It may exist.
    Unknown(Box<Slot>, Error),
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Pending {
    pub(super) fn new(store: Arc<Inner>, id: CheckpointId, savepoint: Option<Savepoint>) -> Self {
        Self {
            store,
            id,
            savepoint,
            phase: Mutex::new(Phase::Open),
            files: Mutex::default(),
            bytes_written: AtomicU64::new(0),
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> CheckpointId {
        self.id
    }

    /// Writes a subtask's sealed state. Called from several threads at once; blocks for as long as
    /// the storage takes. Small ones stay in memory until `complete` packs them.
    ///
    /// # Errors
    /// [`Error::TooLarge`] in memory storage, found while writing. [`Error::Storage`] if it could not
    /// be written, or the checkpoint was discarded meanwhile.
    pub fn write(&self, operator: &str, subtask: u32, state: &SealedState) -> Result<Written> {
        if state.is_empty() {
            return self.write_with(operator, subtask, state.base(), 0, |_| {
                Ok(SegmentStats {
                    held: state.held(),
                    ..SegmentStats::default()
                })
            });
        }
        let (base, size_hint) = (state.base(), state.size_hint());
        let written = self.write_with(operator, subtask, base, size_hint, |to| state.write(to));
        written.map_err(|error| match error {
            Error::TooLarge {
                operator,
                subtask,
                size,
                limit,
                ..
            } => Error::TooLarge {
                states: state
                    .states()
                    .iter()
                    .map(|state| format!("`{}` ", state.name))
                    .collect(),
                operator,
                subtask,
                size,
                limit,
            },
            error => error,
        })
    }

    /// Writes a subtask's operator state, as [`Pending::write`] does its keyed state.
    ///
    /// # Errors
    /// As [`Pending::write`].
    pub fn write_operator_state(
        &self,
        operator: &str,
        (subtask, parallelism): (u32, u32),
        state: &SealedOperatorState,
    ) -> Result<Written> {
        let author = Author {
            checkpoint: self.id,
            subtask,
            parallelism,
        };
        let written = self.write_with(operator, subtask, None, state.size_hint(), |to| {
            to.write_all(&state.encode(author))?;
            Ok(SegmentStats {
                held: state.held(),
                ..SegmentStats::default()
            })
        })?;
        Ok(Written {
            what: What::OperatorState,
            ..written
        })
    }

    /// As [`Pending::write`], with any encoder of a segment.
    pub(crate) fn write_with(
        &self,
        operator: &str,
        subtask: u32,
        base: Option<CheckpointId>,
        size_hint: u64,
        encode: impl FnOnce(&mut dyn io::Write) -> io::Result<SegmentStats>,
    ) -> Result<Written> {
        self.check_open()?;
        if let (Some(base), Some(_)) = (base, &self.savepoint) {
            let what = format!("a delta on {base}, but a savepoint has all its state");
            return Err(mismatch(self.id, what));
        }
        let mut writer = SegmentWriter::new(self, operator, subtask, size_hint);
        let encoded = encode(&mut writer);
        let written = writer.finish(base, encoded)?;
        if let Body::File(_) = written.body {
            self.bytes_written
                .fetch_add(written.length, Ordering::Relaxed);
        }
        Ok(written)
    }

    /// Writes `_metadata`: **the** commit point. `written` has (index into `metadata.operators`,
    /// subtask, what `write` gave); `complete` fills in `segments` (chaining a delta to the
    /// segments of its base), entries and bytes. Then subsumes what is older than `retained`.
    ///
    /// A delta may be based on any checkpoint of this run that completed since this one began, or was
    /// one of the newest two then.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if something has the name of `_metadata` (it is untouched),
    /// [`Error::NotFound`] if what deltas build on is gone from the storage,
    /// [`Error::Incompatible`] if what is passed does not belong together or a newer checkpoint is
    /// complete, [`Error::Storage`] if it
    /// could not be written: the checkpoint is discarded then, unless it may exist (see
    /// [`CheckpointStore::close_slots`](super::CheckpointStore::close_slots)). [`Error::Fenced`] if the
    /// job directory is another's: then nothing is deleted, and what was written is never believed.
    /// A savepoint that fails is removed in any case; if that fails too, the error says where it may exist.
    pub fn complete(
        self: Arc<Self>,
        metadata: Metadata,
        written: Vec<(usize, u32, Written)>,
    ) -> Result<Completed> {
        match self.enter(&[Phase::Open, Phase::GivenUp], Phase::Completing) {
            Some(Phase::Open) => {}
            Some(_) => {
                // Given up while this waited for its turn.
                self.finish();
                self.clean_up();
                return Err(self.closed_error());
            }
            None => return Err(self.closed_error()),
        }
        let committed = self.commit(metadata, written);
        // Here it is decided, once: announced, or given up before.
        let revoked = self.finish() == Phase::Revoked;
        if let Some(savepoint) = &self.savepoint {
            return self.end_savepoint(savepoint, committed, revoked);
        }
        match committed {
            Ok(slot) if revoked => {
                // It exists, and a restart may find it. So it must stay whole, until a newer one
                // takes its place.
                self.leave_open(slot);
                Err(self.closed_error())
            }
            Ok(slot) => Ok(self.announce(slot.checkpoint)),
            Err(Outcome::Unknown(slot, error)) => {
                self.leave_open(*slot);
                Err(error)
            }
            Err(Outcome::Failed(error)) => {
                self.clean_up();
                Err(error)
            }
        }
    }

    /// It is complete: older ones go, and what was written and not used.
    fn announce(&self, completed: Completed) -> Completed {
        let id = self.id.0;
        self.store.note_completed(id);
        // Whether they exist or not, this one has taken their place.
        for slot in self.store.slots().take_before(id) {
            self.store.drop_slot(slot);
        }
        let deletions = self.store.retained().complete(completed.clone());
        self.store.clean(deletions);
        // What was written but not passed on, such as one of two writes of a subtask.
        let used = completed.files();
        let unused = self
            .files()
            .drain(..)
            .filter(|file| !used.contains(file))
            .collect();
        self.store.clean([Deletion::Files {
            objects: unused,
            directories: Vec::new(),
        }]);
        completed
    }

    /// It may exist, or does exist, though it counts as failed: nothing of it is removed until its slot
    /// is closed or a newer one has taken its place.
    fn leave_open(&self, slot: Slot) {
        let id = self.id.0;
        let newer = self.store.retained().latest();
        if newer.is_some_and(|newer| newer.metadata().id > id) {
            self.store.drop_slot(slot);
            self.forget();
        } else {
            let checkpoint = slot.checkpoint.clone();
            self.store.slots().insert(slot);
            let deletions = self.store.retained().leave_open(checkpoint);
            self.store.clean(deletions);
        }
        self.files().clear();
    }

    /// Gives the checkpoint up: it is never announced, and no output is committed in its name. Returns
    /// at once, also while [`Pending::complete`] waits for a storage that does not answer: should the
    /// metadata come into being after all, it stays, whole, until a newer checkpoint takes its place; a
    /// restart may go on from it, because it is as consistent as any other.
    ///
    /// Returns whether it is given up; `false` if it was complete, or had failed, before.
    pub fn give_up(&self) -> bool {
        let mut phase = self.phase();
        *phase = match *phase {
            Phase::Open => Phase::GivenUp,
            Phase::Completing => Phase::Revoked,
            Phase::Over => return false,
            given_up => given_up,
        };
        true
    }

    /// Removes what was written. Also done on drop, as far as it can be. Threads that are still in
    /// [`Pending::write`] get an error and remove what they wrote themselves.
    ///
    /// # Errors
    /// The first [`Error::Storage`]; the rest is removed all the same.
    pub fn discard(self: Arc<Self>) -> Result<()> {
        if self
            .enter(&[Phase::Open, Phase::GivenUp], Phase::Over)
            .is_none()
        {
            return Ok(());
        }
        if let Some(savepoint) = &self.savepoint {
            return self.remove_savepoint(savepoint);
        }
        let outcome = self.store.cleaner.run(&self.leftover());
        self.forget();
        outcome
    }

    /// Puts pack and metadata, in this order.
    fn commit(
        &self,
        metadata: Metadata,
        written: Vec<(usize, u32, Written)>,
    ) -> std::result::Result<Slot, Outcome> {
        let store = &*self.store;
        let slot = self.put_data(metadata, written)?;
        let name = names::metadata(&slot.checkpoint.contents().directory);
        if let Some(lease) = &store.lease {
            // Without this a host that has been stopped for long would leave what is not believed.
            match &self.savepoint {
                None => lease.keep(),
                Some(_) => Savepoint::put_number_on_record(lease),
            }
            .map_err(Outcome::Failed)?;
        }
        if *self.phase() == Phase::Revoked {
            return Err(Outcome::Failed(self.closed_error()));
        }
        let slot = self.put_metadata(&name, slot)?;
        // If the job directory was ours until here, who takes it finds the checkpoint; if not, nobody
        // believes it. Who cannot tell leaves it as it is, whole, and does not go by it.
        match store.confirm() {
            // From here on the checkpoint exists, whatever happens to this process.
            Ok(()) => Ok(slot),
            Err(error @ Error::Fenced { .. }) if self.savepoint.is_none() => {
                // Its successor may need what it does not know to be ours.
                self.files().clear();
                Err(Outcome::Failed(error))
            }
            Err(error) => Err(Outcome::Unknown(Box::new(slot), error)),
        }
    }

    /// Puts all that the metadata references, and encodes the metadata.
    fn put_data(
        &self,
        mut metadata: Metadata,
        written: Vec<(usize, u32, Written)>,
    ) -> Result<Slot> {
        let store = &*self.store;
        let storage = self.storage();
        let directory = self.directory();
        match &self.savepoint {
            None => self.check_job(&written)?,
            Some(_) => metadata.kind = Kind::Savepoint,
        }
        let base = |id: u64| store.retained().base(id);
        if let Some(lease) = &store.lease {
            metadata.generation = lease.generation();
            metadata.holder = Some(lease.token().to_owned());
        }
        let Assembled {
            metadata,
            inline,
            pack,
        } = assemble(
            self.id,
            metadata,
            written,
            &store.options,
            (&directory, self.name_data()),
            &base,
        )?;
        if let Some((name, parts)) = pack {
            let bytes: usize = parts.iter().map(Bytes::len).sum();
            self.record(&name, storage.put_new(&name, parts))?;
            self.bytes_written
                .fetch_add(bytes as u64, Ordering::Relaxed);
        }
        // Everything that the metadata references is durable. A crash here leaves orphans.
        let name = names::metadata(&directory);
        let (encoded, inline) = metadata::encode(&metadata, &inline, &storage.location(&name))?;
        let metadata_bytes = encoded.len() as u64;
        let checkpoint = Completed::new(Contents {
            storage: Arc::clone(storage),
            directory,
            metadata,
            inline,
            metadata_bytes,
            bytes_written: self.bytes_written.load(Ordering::Relaxed) + metadata_bytes,
            lasting: !store.volatile || self.savepoint.is_some(),
            changes: crate::Changes::default(),
        });
        Ok(Slot {
            encoded,
            checkpoint,
        })
    }

    /// Checks that a checkpoint can be put into the job's directory and be its newest one.
    fn check_job(&self, written: &[(usize, u32, Written)]) -> Result<()> {
        let store = &*self.store;
        store.check_in_place()?;
        // A job's checkpoints complete in order: what a newer one subsumed is not brought back.
        let latest = store.retained().latest();
        if let Some(newer) = latest.filter(|latest| latest.metadata().id > self.id.0) {
            let newer = newer.metadata().id;
            let what = format!("checkpoint {newer} was completed before it");
            return Err(mismatch(self.id, what));
        }
        match written.iter().any(|(_, _, written)| written.base.is_some()) {
            true => self.check_base(),
            false => Ok(()),
        }
    }

    /// What deltas build on must still be there: somebody may have removed the directory, and with an
    /// object storage, or where directories are made again as they are needed, nothing else would
    /// tell. The newest checkpoint stands for all of them.
    fn check_base(&self) -> Result<()> {
        let Some(latest) = self.store.retained().latest() else {
            return Ok(());
        };
        let name = names::metadata(&latest.contents().directory);
        // One that was claimed may lie elsewhere.
        let storage = &latest.contents().storage;
        match storage.read(&name, 0..1) {
            Ok(_) => Ok(()),
            Err(Error::NotFound(_)) => {
                // Another host may own the directory by now, and have subsumed it.
                if let Err(fenced @ Error::Fenced { .. }) = self.store.confirm() {
                    return Err(fenced);
                }
                Err(Error::NotFound(format!(
                    "checkpoint {}, on which this one builds, is gone from the storage: {}",
                    latest.metadata().id,
                    storage.location(&name)
                )))
            }
            Err(error) => Err(error),
        }
    }

    fn put_metadata(&self, name: &str, slot: Slot) -> std::result::Result<Slot, Outcome> {
        let storage = &**self.storage();
        let Err(error) = storage.put_new(name, vec![slot.encoded.clone()]) else {
            return Ok(slot);
        };
        let found = storage.read(name, 0..METADATA_BYTES_MAX);
        if matches!(error, Error::AlreadyExists { .. }) {
            // A client that tries again by itself may have met its own first try.
            return match found {
                Ok(found) if found == slot.encoded => Ok(slot),
                Err(Error::Storage { .. }) => Err(Outcome::Unknown(Box::new(slot), error)),
                _ => Err(Outcome::Failed(error)),
            };
        }
        match found {
            // Somebody else's: ours cannot come.
            Ok(found) if found != slot.encoded => Err(Outcome::Failed(error)),
            Err(Error::NotFound(_)) if !storage.may_land_late() => Err(Outcome::Failed(error)),
            // It may exist all the same (the answer was lost; the link was made and the flush failed),
            // or come into being later.
            _ => Err(Outcome::Unknown(Box::new(slot), error)),
        }
    }

    /// Remembers a file that was put, unless it is surely not ours.
    fn record(&self, name: &str, put: Result<()>) -> Result<()> {
        if !matches!(put, Err(Error::AlreadyExists { .. })) {
            self.files().push(name.to_owned());
        }
        put
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes to a phase from one of these; returns from which, or `None` if it is in another.
    fn enter(&self, from: &[Phase], to: Phase) -> Option<Phase> {
        let mut phase = self.phase();
        from.contains(&phase)
            .then(|| std::mem::replace(&mut *phase, to))
    }

    /// It is decided; returns from which phase.
    fn finish(&self) -> Phase {
        std::mem::replace(&mut *self.phase(), Phase::Over)
    }

    pub(super) fn closed_error(&self) -> Error {
        let what = match &self.savepoint {
            None => "checkpoint",
            Some(_) => "savepoint",
        };
        Error::Storage {
            action: "writing",
            object: self.storage().location(&names::metadata(&self.directory())),
            source: format!("the {what} was completed or discarded already").into(),
        }
    }

    /// Where it is written.
    fn storage(&self) -> &Arc<dyn Storage> {
        match &self.savepoint {
            None => &self.store.storage,
            Some(savepoint) => savepoint.storage(),
        }
    }

    /// The directory of its metadata.
    fn directory(&self) -> String {
        match &self.savepoint {
            None => self.store.job.checkpoint(self.id.0),
            Some(savepoint) => savepoint.directory().to_owned(),
        }
    }

    /// A new name for one of its data files.
    fn name_data(&self) -> String {
        match &self.savepoint {
            None => self.store.name_data(self.id.0),
            Some(savepoint) => self.store.name_data_in(savepoint.directory(), self.id.0),
        }
    }

    pub(super) fn files(&self) -> MutexGuard<'_, Vec<String>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the files that are to be removed.
    fn leftover(&self) -> Deletion {
        Deletion::Files {
            objects: std::mem::take(&mut *self.files()),
            // Made with the first file in it, or with the metadata.
            directories: vec![self.store.job.checkpoint(self.id.0)],
        }
    }

    /// Removes what was written, in the background, and ends what the store remembers of it.
    pub(super) fn clean_up(&self) {
        if let Some(savepoint) = &self.savepoint {
            if let Err(error) = self.remove_savepoint(savepoint) {
                self.store.cleaner.warn(&error);
            }
            return;
        }
        let leftover = self.leftover();
        self.store.clean([leftover]);
        self.forget();
    }

    /// Ends what the store remembers of it.
    fn forget(&self) {
        let deletions = self.store.retained().end(self.id.0);
        self.store.clean(deletions);
    }
}

impl Files for Pending {
    fn id(&self) -> CheckpointId {
        self.id
    }

    fn options(&self) -> &Options {
        &self.store.options
    }

    fn state_size_max(&self) -> Option<u64> {
        // It bounds what is kept in the memory of this process: no savepoint is.
        (self.store.volatile && self.savepoint.is_none())
            .then_some(self.store.options.max_state_size)
    }

    fn check_open(&self) -> Result<()> {
        match *self.phase() {
            Phase::Open => Ok(()),
            _ => Err(self.closed_error()),
        }
    }

    fn create(&self) -> Result<(String, Box<dyn ObjectWriter>)> {
        if self.savepoint.is_none() {
            self.store.check_in_place()?;
        }
        let name = self.name_data();
        let writer = self.storage().create(&name)?;
        Ok((name, writer))
    }

    fn publish(&self, name: &str, file: Box<dyn ObjectWriter>) -> Result<()> {
        self.check_open()?;
        self.record(name, file.finish())?;
        self.check_open().inspect_err(|_| {
            // Nobody will pass it on, and the thread that closed the checkpoint may not have known of it.
            self.files().retain(|file| file != name);
            if let Some(savepoint) = &self.savepoint {
                if let Err(error) = savepoint.remove(&[name.to_owned()]) {
                    self.store.cleaner.warn(&error);
                }
                return;
            }
            self.store.clean([Deletion::Files {
                objects: vec![name.to_owned()],
                directories: Vec::new(),
            }]);
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self
            .enter(&[Phase::Open, Phase::GivenUp], Phase::Over)
            .is_some()
        {
            self.clean_up();
        }
    }
}
