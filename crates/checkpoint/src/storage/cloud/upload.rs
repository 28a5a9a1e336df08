//! A large object, in parts that are sent while the next ones are made.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{
    Error as StoreError, MultipartUpload, ObjectStoreExt, PutMultipartOptions, PutPayload,
};
use tokio::sync::Mutex;

use super::{CloudStorage, Connection, Maker, endpoint};
use crate::storage::executor::Running;
use crate::storage::put::{Part, Put};
use crate::storage::{ObjectWriter, Storage};
use crate::{Error, Result};

/// Bytes in one part. S3 wants at least 5 MiB, some storages want them all equal.
const PART_BYTES: usize = 8 << 20;

/// Parts that are on their way at once. With the one that is being filled they are what a writer holds.
const PARTS_IN_FLIGHT_MAX: usize = 4;

/// Parts of one object: more S3 does not take.
const PARTS_MAX: usize = 10_000;

/// Writes an object. What fits one part is put at the end, by one request.
#[derive(Debug)]
pub(super) struct Upload {
    storage: CloudStorage,
    name: String,
    path: Path,
    /// Where the upload goes: to the same place, or where that cannot be had on condition, beside it.
    staged: Path,
    token: String,
    part: Part,
    started: Option<Started>,
}

/// An upload in parts.
#[derive(Debug)]
struct Started {
    upload: Box<dyn MultipartUpload>,
    in_flight: VecDeque<Running<()>>,
    parts: usize,
}

impl Upload {
    pub(super) fn new(storage: CloudStorage, name: &str) -> Result<Self> {
        let token = storage.tokens.next();
        let path = storage.path(name)?;
        let staged = match storage.connection.endpoint.provider.completes_on_condition {
            true => path.clone(),
            false => storage.path(&storage.staging.name(name))?,
        };
        Ok(Self {
            path,
            staged,
            token,
            name: name.to_owned(),
            storage,
            part: Part::new(PART_BYTES),
            started: None,
        })
    }

    fn failed(&self, source: StoreError) -> Error {
        self.storage.objects.failed("writing", &self.name, source)
    }

    fn send_part(&mut self) -> Result<()> {
        let part = self.part.take();
        let mut started = match self.started.take() {
            Some(started) => started,
            None => self.start()?,
        };
        let sent = self.send(&mut started, part);
        // Also if it failed: the upload is to be aborted.
        self.started = Some(started);
        sent
    }

    fn start(&self) -> Result<Started> {
        let connection = Arc::clone(&self.storage.connection);
        let path = self.staged.clone();
        let options = PutMultipartOptions {
            attributes: connection.attributes(&self.token),
            ..PutMultipartOptions::default()
        };
        let start = async move { connection.client.put_multipart_opts(&path, options).await };
        let upload = self.storage.objects.executor().run(start);
        Ok(Started {
            upload: upload.map_err(|error| self.failed(error))?,
            in_flight: VecDeque::new(),
            parts: 0,
        })
    }

    fn send(&self, started: &mut Started, part: Vec<u8>) -> Result<()> {
        while started.in_flight.len() >= PARTS_IN_FLIGHT_MAX {
            self.settle_oldest(started)?;
        }
        if started.parts >= PARTS_MAX {
            return Err(Error::Storage {
                action: "writing",
                object: self.storage.location(&self.name),
                source: format!(
                    "it has more than {} GiB; more subtasks share the state",
                    (PART_BYTES * PARTS_MAX) >> 30
                )
                .into(),
            });
        }
        started.parts += 1;
        let part = started.upload.put_part(PutPayload::from(part));
        let sending = self.storage.objects.executor().start(part);
        started.in_flight.push_back(sending);
        Ok(())
    }

    /// Waits for the part that was sent first.
    fn settle_oldest(&self, started: &mut Started) -> Result<()> {
        if let Some(oldest) = started.in_flight.pop_front() {
            oldest.wait().map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        let Some(mut started) = self.started.take() else {
            return Ok(());
        };
        let mut outcome = Ok(());
        while outcome.is_ok() && !started.in_flight.is_empty() {
            outcome = self.settle_oldest(&mut started);
        }
        self.started = Some(started);
        outcome
    }
}

impl ObjectWriter for Upload {
    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.part.is_full() {
                // Only now, when there is more: a single part needs no upload.
                self.send_part()?;
            }
            self.part.fill(&mut bytes);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        if self.started.is_none() {
            let whole = self.part.take();
            return self.storage.put_new(&self.name, vec![whole.into()]);
        }
        self.send_part()?;
        self.settle()?;
        let Some(Started { upload, .. }) = self.started.take() else {
            return Ok(());
        };
        let publish = Publish {
            connection: Arc::clone(&self.storage.connection),
            path: self.path.clone(),
            staged: self.staged.clone(),
            token: self.token.clone(),
        };
        let upload = Arc::new(Mutex::new(upload));
        let completed = Arc::clone(&upload);
        // A crash before this leaves an unfinished upload, which is no object and goes by the bucket's
        // rules; one after it the object, or a staged one, which nothing references.
        let complete = async move { publish.complete(&mut **completed.lock().await).await };
        let put = self.storage.objects.executor().run(complete);
        let finished = put
            .map_err(|error| self.failed(error))
            .and_then(|put| put.done(|| self.storage.location(&self.name)));
        if finished.is_err() {
            // If it was completed after all, this does nothing.
            abort(
                &self.storage,
                async move { upload.lock().await.abort().await },
            );
        }
        finished
    }
}

/// Best effort, as the contract says; there is nobody to tell.
fn abort(
    storage: &CloudStorage,
    abort: impl Future<Output = object_store::Result<()>> + Send + 'static,
) {
    drop(storage.objects.executor().run(abort));
}

/// Makes an object of an upload.
struct Publish {
    connection: Arc<Connection>,
    path: Path,
    staged: Path,
    token: String,
}

impl Publish {
    /// Makes an object of the parts, if there is none of its name.
    async fn complete(&self, upload: &mut dyn MultipartUpload) -> object_store::Result<Put> {
        let connection = &*self.connection;
        // Some storages know the condition of a put, but not that of a completion: against them, this is
        // as good as it gets.
        if !matches!(connection.maker(&self.path).await?, Maker::Nobody) {
            return Ok(Put::Taken);
        }
        let published = match connection.endpoint.provider.completes_on_condition {
            true => upload.complete().await.map(drop),
            false => self.copy(upload).await,
        };
        match published {
            Ok(()) => Ok(Put::Done),
            // Sent again because its answer was lost, it meets the object, or misses the upload.
            Err(error) if endpoint::is_condition(&error) || is_missing(&error) => {
                match connection.maker(&self.path).await? {
                    Maker::Token(found) if found == self.token => Ok(Put::Done),
                    Maker::Nobody => Err(error),
                    Maker::Token(_) | Maker::Other => Ok(Put::Taken),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Completes the upload beside its place, and copies it there on condition.
    async fn copy(&self, upload: &mut dyn MultipartUpload) -> object_store::Result<()> {
        let client = &self.connection.client;
        upload.complete().await?;
        let copied = client.copy_if_not_exists(&self.staged, &self.path).await;
        // It has served whatever came of it; if it stays, it is an orphan that garbage collection knows by
        // its name.
        drop(client.delete(&self.staged).await);
        copied
    }
}

fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. })
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut started) = self.started.take() else {
            return;
        };
        for running in started.in_flight {
            // A part must not arrive when the upload is gone: it would stay, and cost.
            drop(running.wait());
        }
        abort(&self.storage, async move { started.upload.abort().await });
    }
}
