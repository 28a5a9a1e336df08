//! A checkpoint that is being written.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dataflow::CheckpointId;
use dataflow::state::{SealedState, SegmentStats};

use super::assemble::{Assembled, assemble};
use super::cleaner::Deletion;
use super::segment::{Body, SegmentWriter, Written};
use super::{Inner, Options};
use crate::completed::{Completed, Contents};
use crate::metadata::{self, METADATA_BYTES_MAX, Metadata};
use crate::names;
use crate::storage::ObjectWriter;
use crate::{Error, Result};

/// A checkpoint that is being written. Dropped without `complete`, it is discarded.
#[derive(Debug)]
pub struct Pending {
    store: Arc<Inner>,
    id: CheckpointId,
    /// Set once, by whoever completes or discards it. From then on nothing is written any more.
    closed: AtomicBool,
    /// The data files that (perhaps) exist by this checkpoint's doing.
    files: Mutex<Vec<String>>,
    bytes_written: AtomicU64,
}

impl Pending {
    pub(super) fn new(store: Arc<Inner>, id: CheckpointId) -> Self {
        Self {
            store,
            id,
            closed: AtomicBool::new(false),
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
                Ok(SegmentStats::default())
            });
        }
        self.write_with(operator, subtask, state.base(), state.size_hint(), |to| {
            state.write(to)
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
    /// subtask, what `write` gave); `complete` fills in `segments` (chaining a delta behind the
    /// segments of its base), entries and bytes. Then subsumes what is older than `retained`.
    ///
    /// A delta may be based on any checkpoint of this run that completed since this one began, or was
    /// one of the newest two then.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if something stands at the place of `_metadata` (it is untouched),
    /// [`Error::Incompatible`] if what is passed does not belong together or a newer checkpoint is
    /// complete, [`Error::Storage`] if it
    /// could not be written. The checkpoint is discarded then.
    pub fn complete(
        self: Arc<Self>,
        metadata: Metadata,
        written: Vec<(usize, u32, Written)>,
    ) -> Result<Completed> {
        self.close()?;
        match self.commit(metadata, written) {
            Ok(completed) => {
                let deletions = self.store.retained().complete(completed.clone());
                self.store.clean(deletions);
                // What was written but not passed on, such as one of two writes of a subtask.
                let used = completed.files();
                let unused = self
                    .files()
                    .drain(..)
                    .filter(|file| !used.contains(file))
                    .collect();
                self.store.clean([Deletion {
                    objects: unused,
                    directories: Vec::new(),
                }]);
                Ok(completed)
            }
            Err(error) => {
                let leftover = self.leftover();
                self.store.clean([leftover]);
                self.forget();
                Err(error)
            }
        }
    }

    /// Removes what was written. Also done on drop, as far as it can be. Threads that are still in
    /// [`Pending::write`] get an error and remove what they wrote themselves.
    ///
    /// # Errors
    /// The first [`Error::Storage`]; the rest is removed all the same.
    pub fn discard(self: Arc<Self>) -> Result<()> {
        if self.close().is_err() {
            return Ok(());
        }
        let outcome = self.leftover().run(&*self.store.storage);
        self.forget();
        outcome
    }

    /// Puts pack and metadata, in this order.
    fn commit(&self, metadata: Metadata, written: Vec<(usize, u32, Written)>) -> Result<Completed> {
        let store = &*self.store;
        let storage = &store.storage;
        let directory = store.job.checkpoint(self.id.0);
        let base = |id: u64| store.retained().base(id);
        let Assembled {
            metadata,
            inline,
            pack,
            totals,
        } = assemble(self.id, metadata, written, store, &directory, &base)?;
        if let Some((name, parts)) = pack {
            let bytes: usize = parts.iter().map(Bytes::len).sum();
            self.record(&name, storage.put_new(&name, parts))?;
            self.bytes_written
                .fetch_add(bytes as u64, Ordering::Relaxed);
        }
        // Everything that the metadata references is durable. A crash here leaves orphans.
        let name = names::metadata(&directory);
        let (encoded, inline) = metadata::encode(&metadata, &inline, &storage.location(&name))?;
        self.put_metadata(&name, &encoded)?;
        // From here on the checkpoint exists, whatever happens to this process.
        let metadata_bytes = encoded.len() as u64;
        Ok(Completed::new(Contents {
            storage: Arc::clone(storage),
            directory,
            metadata,
            inline,
            metadata_bytes,
            bytes_written: self.bytes_written.load(Ordering::Relaxed) + metadata_bytes,
            lasting: !store.volatile,
            totals,
        }))
    }

    fn put_metadata(&self, name: &str, encoded: &Bytes) -> Result<()> {
        let storage = &*self.store.storage;
        let Err(error) = storage.put_new(name, vec![encoded.clone()]) else {
            return Ok(());
        };
        if matches!(error, Error::AlreadyExists { .. }) {
            // A client that tries again by itself may have met its own first try.
            return match storage.read(name, 0..METADATA_BYTES_MAX) {
                Ok(found) if found == *encoded => Ok(()),
                _ => Err(error),
            };
        }
        // It may exist all the same (the link was made, the flush failed). It must not outlive the
        // data that will be removed now; if nobody can tell, the data stays, as an orphan at worst.
        let absent = match storage.read(name, 0..METADATA_BYTES_MAX) {
            Err(Error::NotFound(_)) => true,
            Ok(found) if found == *encoded => storage.delete(name).is_ok(),
            // Somebody else's: it does not reference our data.
            Ok(_) => true,
            Err(_) => false,
        };
        if !absent {
            self.files().clear();
        }
        Err(error)
    }

    pub(super) fn options(&self) -> &Options {
        &self.store.options
    }

    /// The most bytes that a segment may have.
    pub(super) fn state_size_max(&self) -> Option<u64> {
        self.store
            .volatile
            .then_some(self.store.options.max_state_size)
    }

    /// Starts a data file with a name of its own.
    pub(super) fn create(&self) -> Result<(String, Box<dyn ObjectWriter>)> {
        let name = self.store.name_data(self.id.0);
        let writer = self.store.storage.create(&name)?;
        Ok((name, writer))
    }

    /// Makes a data file exist by `finish`, and remembers it. Removes it again if the checkpoint was
    /// closed meanwhile, for nobody else would.
    pub(super) fn publish(&self, name: &str, finish: impl FnOnce() -> Result<()>) -> Result<()> {
        self.check_open()?;
        self.record(name, finish())?;
        self.check_open().inspect_err(|_| {
            // Nobody will pass it on, and whoever closed the checkpoint may not have known of it.
            self.files().retain(|file| file != name);
            self.store.clean([Deletion {
                objects: vec![name.to_owned()],
                directories: Vec::new(),
            }]);
        })
    }

    /// Remembers a file that was put, unless it is surely not ours.
    fn record(&self, name: &str, put: Result<()>) -> Result<()> {
        if !matches!(put, Err(Error::AlreadyExists { .. })) {
            self.files().push(name.to_owned());
        }
        put
    }

    pub(super) fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(self.closed_error()),
        }
    }

    fn close(&self) -> Result<()> {
        match self.closed.swap(true, Ordering::SeqCst) {
            false => Ok(()),
            true => Err(self.closed_error()),
        }
    }

    fn closed_error(&self) -> Error {
        Error::Storage {
            action: "writing",
            object: self.store.metadata_location(self.id.0),
            source: "the checkpoint was completed or discarded already".into(),
        }
    }

    fn files(&self) -> MutexGuard<'_, Vec<String>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the files that are to be removed.
    fn leftover(&self) -> Deletion {
        Deletion {
            objects: std::mem::take(&mut *self.files()),
            // Made with the first file in it, or with the metadata.
            directories: vec![self.store.job.checkpoint(self.id.0)],
        }
    }

    /// Ends what the store remembers of it.
    fn forget(&self) {
        let deletions = self.store.retained().end(self.id.0);
        self.store.clean(deletions);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.close().is_ok() {
            let leftover = self.leftover();
            self.store.clean([leftover]);
            self.forget();
        }
    }
}
