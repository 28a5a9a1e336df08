//! Objects in anything that the `object_store` crate reaches.
//!
//! The crate is asynchronous, our callers are threads that may wait: an [`Executor`] is between them.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload,
};

use super::cloud::Endpoint;
use super::executor::{Executor, Running};
use super::{Listing, Object, ObjectWriter, Reading, Storage};
use crate::names;
use crate::{Error, Result};

/// Bytes in one part of an upload. S3 wants 5 MiB or more; a writer holds two of them.
const PART_BYTES: usize = 8 << 20;

/// A [`Storage`] over an [`ObjectStore`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ObjectStorage {
    store: Arc<dyn ObjectStore>,
    executor: Arc<Executor>,
    /// What stands before a name in messages, with its trailing slash.
    base: Arc<str>,
    staging: Arc<Staging>,
    endpoint: Option<Endpoint>,
}

impl ObjectStorage {
    /// A storage over `store`; `base` is what a user would write before an object's name.
    ///
    /// # Errors
    /// [`Error::Storage`] if no thread can be started.
    pub fn new(store: Arc<dyn ObjectStore>, base: &str) -> Result<Self> {
        let executor = Executor::new(None).map_err(|source| Error::Storage {
            action: "starting threads for",
            object: base.to_owned(),
            source: source.into(),
        })?;
        Ok(Self::with(store, base, executor, None))
    }

    /// As [`ObjectStorage::new`], for what is reached over a network at `endpoint`.
    pub(super) fn with(
        store: Arc<dyn ObjectStore>,
        base: &str,
        executor: Executor,
        endpoint: Option<Endpoint>,
    ) -> Self {
        Self {
            store,
            executor: Arc::new(executor),
            base: format!("{}/", base.trim_end_matches('/')).into(),
            staging: Arc::new(Staging::new()),
            endpoint,
        }
    }

    pub(super) fn executor(&self) -> &Executor {
        &self.executor
    }

    pub(super) fn path(&self, name: &str) -> Result<Path> {
        // Not `Path::from`, which would encode what it does not like: a name is stored as it is.
        Path::parse(name).map_err(|source| Error::Storage {
            action: "naming",
            object: self.location(name),
            source: source.into(),
        })
    }

    fn start_read(&self, name: &str, range: Range<u64>) -> Result<Running<Bytes>> {
        let path = self.path(name)?;
        let store = Arc::clone(&self.store);
        let read = async move {
            let options = GetOptions {
                range: (!range.is_empty()).then(|| GetRange::Bounded(range.clone())),
                head: range.is_empty(),
                ..GetOptions::default()
            };
            let failure = match store.get_opts(&path, options).await {
                Ok(_) if range.is_empty() => return Ok(Bytes::new()),
                Ok(found) => return found.bytes().await,
                Err(failure) => failure,
            };
            // Stores differ in how they refuse a range past the end, so ask where that is.
            match store.head(&path).await {
                Ok(found) if found.size <= range.start => Ok(Bytes::new()),
                Ok(_) | Err(_) => Err(failure),
            }
        };
        Ok(self.executor.start(read))
    }

    pub(super) fn failed(
        &self,
        action: &'static str,
        name: &str,
        source: object_store::Error,
    ) -> Error {
        let object = self.location(name);
        if let Some(endpoint) = &self.endpoint {
            let object = object.trim_end_matches('/').to_owned();
            return endpoint.failed(action, object, &source);
        }
        match source {
            object_store::Error::NotFound { .. } => {
                Error::NotFound(format!("{object} does not exist"))
            }
            object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. } => Error::AlreadyExists { object },
            // The generic error only repeats its source with the store's name before it.
            object_store::Error::Generic { source, .. } => Error::Storage {
                action,
                object,
                source,
            },
            source => Error::Storage {
                action,
                object,
                source: source.into(),
            },
        }
    }
}

impl Storage for ObjectStorage {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        let staged = self.staging.name(name);
        let path = self.path(&staged)?;
        let store = Arc::clone(&self.store);
        let upload = self
            .executor
            .run(async move { store.put_multipart(&path).await })
            .map_err(|source| self.failed("creating", name, source))?;
        Ok(Box::new(StreamWriter {
            storage: self.clone(),
            name: name.to_owned(),
            staged,
            upload: Some(upload),
            buffer: Vec::new(),
            in_flight: None,
        }))
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        let path = self.path(name)?;
        let store = Arc::clone(&self.store);
        let payload = PutPayload::from_iter(parts);
        let options = PutOptions::from(PutMode::Create);
        self.executor
            .run(async move { store.put_opts(&path, payload, options).await })
            .map_err(|source| self.failed("writing", name, source))?;
        Ok(())
    }

    fn read(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let running = self.start_read(name, range)?;
        running
            .wait()
            .map_err(|source| self.failed("reading", name, source))
    }

    fn begin_read(&self, name: &str, range: Range<u64>) -> Result<Option<Reading>> {
        let running = self.start_read(name, range)?;
        let (storage, name) = (self.clone(), name.to_owned());
        Ok(Some(Reading::new(move || {
            running
                .wait()
                .map_err(|source| storage.failed("reading", &name, source))
        })))
    }

    fn list(&self, directory: &str) -> Result<Listing> {
        let prefix = match directory {
            "" => None,
            directory => Some(self.path(directory)?),
        };
        let store = Arc::clone(&self.store);
        let found = self
            .executor
            .run(async move { store.list_with_delimiter(prefix.as_ref()).await })
            .map_err(|source| self.failed("listing", directory, source))?;
        let mut listing = Listing {
            directories: found
                .common_prefixes
                .into_iter()
                .map(String::from)
                .collect(),
            objects: found
                .objects
                .into_iter()
                .map(|object| Object {
                    name: object.location.into(),
                    size: object.size,
                    modified_at: object.last_modified.timestamp_millis(),
                })
                .collect(),
        };
        listing.directories.sort();
        listing.objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        let store = Arc::clone(&self.store);
        match self.executor.run(async move { store.delete(&path).await }) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failed("deleting", name, source)),
        }
    }

    fn make_directory(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    fn remove_directory(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    fn location(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }
}

/// An upload under a staging name, copied to its own name if that is free when it is finished:
/// uploads overwrite, copies need not.
#[derive(Debug)]
struct StreamWriter {
    storage: ObjectStorage,
    name: String,
    staged: String,
    upload: Option<Box<dyn MultipartUpload>>,
    buffer: Vec<u8>,
    /// One part is on its way while the next one is filled.
    in_flight: Option<Running<()>>,
}

impl StreamWriter {
    fn settle(&mut self) -> Result<()> {
        match self.in_flight.take() {
            Some(running) => running
                .wait()
                .map_err(|source| self.storage.failed("writing", &self.name, source)),
            None => Ok(()),
        }
    }

    fn send_part(&mut self) -> Result<()> {
        self.settle()?;
        let part = std::mem::take(&mut self.buffer);
        if let Some(upload) = &mut self.upload {
            let sending = upload.put_part(part.into());
            self.in_flight = Some(self.storage.executor.start(sending));
        }
        Ok(())
    }
}

impl ObjectWriter for StreamWriter {
    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve_exact(PART_BYTES);
            }
            let taken = bytes.len().min(PART_BYTES - self.buffer.len());
            let (head, tail) = bytes.split_at(taken);
            self.buffer.extend_from_slice(head);
            bytes = tail;
            if self.buffer.len() == PART_BYTES {
                self.send_part()?;
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        // Also when it is empty: some stores refuse an upload without parts.
        self.send_part()?;
        self.settle()?;
        let from = self.storage.path(&self.staged)?;
        let to = self.storage.path(&self.name)?;
        let store = Arc::clone(&self.storage.store);
        // Leaves the writer: it must not be aborted once it may be complete.
        let Some(mut upload) = self.upload.take() else {
            return Ok(());
        };
        let publish = async move {
            // A crash before this leaves an unfinished upload, one after it a staged object, one
            // after the copy both. None of them is referenced from anywhere.
            let published = match upload.complete().await {
                Ok(_) => store.copy_if_not_exists(&from, &to).await,
                Err(failure) => Err(failure),
            };
            // The staged object has served whatever came of it; if it stays, it is an orphan that
            // garbage collection knows by its name.
            drop(store.delete(&from).await);
            published
        };
        self.storage
            .executor
            .run(publish)
            .map_err(|source| self.storage.failed("writing", &self.name, source))
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if let Some(running) = self.in_flight.take() {
            // The part must not be written any more when the upload goes away.
            drop(running.wait());
        }
        if let Some(mut upload) = self.upload.take() {
            // Best effort, as the contract says; there is nobody to tell.
            drop(
                self.storage
                    .executor
                    .run(async move { upload.abort().await }),
            );
        }
    }
}

/// Makes names for what is not finished. They differ between writers, also in other processes that
/// (wrongly) use the same directory, or one could publish what the other wrote. They are never
/// recorded, so chance does no harm to reproducibility here.
#[derive(Debug)]
pub(super) struct Staging {
    token: u64,
    counter: AtomicU64,
}

impl Staging {
    pub(super) fn new() -> Self {
        Self {
            token: RandomState::new().hash_one(std::process::id()),
            counter: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self, name: &str) -> String {
        names::staged(
            name,
            self.token,
            self.counter.fetch_add(1, Ordering::Relaxed),
        )
    }

    /// A number that no other writer has, in all likelihood.
    #[cfg(feature = "hdfs")]
    pub(super) fn number(&self) -> u64 {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        self.token.wrapping_add(counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::contract;
    use object_store::memory::InMemory;
    use tokio::runtime::Builder;

    #[test]
    fn an_object_store_keeps_the_contract() {
        contract::check(&|| {
            Arc::new(ObjectStorage::new(Arc::new(InMemory::new()), "test://bucket").unwrap())
        });
    }

    #[test]
    fn a_storage_can_be_used_and_dropped_inside_an_async_runtime() {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let storage = ObjectStorage::new(Arc::new(InMemory::new()), "test://bucket").unwrap();
            storage
                .put_new("a/b", vec![Bytes::from_static(b"x")])
                .unwrap();
            assert_eq!(storage.read("a/b", 0..10).unwrap(), "x");
        });
    }

    #[test]
    fn an_error_names_the_whole_place() {
        let storage = ObjectStorage::new(Arc::new(InMemory::new()), "test://bucket/").unwrap();
        let error = storage.read("a/b", 0..1).unwrap_err();
        assert_eq!(error.to_string(), "test://bucket/a/b does not exist");
    }
}
