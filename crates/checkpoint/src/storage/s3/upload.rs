//! A large object, in parts that are sent while the next ones are made.

use std::collections::VecDeque;
use std::sync::Arc;

use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error as StoreError, MultipartId, PutMultipartOptions, PutPayload};

use super::{Connection, Maker, Put, S3Storage, attributes, endpoint, maker};
use crate::storage::executor::Running;
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
    storage: S3Storage,
    name: String,
    path: Path,
    token: String,
    buffer: Vec<u8>,
    started: Option<Started>,
}

/// An upload in parts.
#[derive(Debug)]
struct Started {
    id: MultipartId,
    in_flight: VecDeque<Running<PartId>>,
    sent: Vec<PartId>,
}

impl Upload {
    pub(super) fn new(storage: S3Storage, name: &str) -> Result<Self> {
        Ok(Self {
            path: storage.path(name)?,
            token: storage.tokens.next(),
            name: name.to_owned(),
            storage,
            buffer: Vec::new(),
            started: None,
        })
    }

    fn failed(&self, source: StoreError) -> Error {
        self.storage.objects.failed("writing", &self.name, source)
    }

    fn send_part(&mut self) -> Result<()> {
        let part = std::mem::take(&mut self.buffer);
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
        let client = Arc::clone(&self.storage.connection.client);
        let (path, attributes) = (self.path.clone(), attributes(&self.token));
        let create = async move {
            let options = PutMultipartOptions {
                attributes,
                ..PutMultipartOptions::default()
            };
            client.create_multipart_opts(&path, options).await
        };
        let id = self.storage.objects.executor().run(create);
        Ok(Started {
            id: id.map_err(|error| self.failed(error))?,
            in_flight: VecDeque::new(),
            sent: Vec::new(),
        })
    }

    fn send(&self, started: &mut Started, part: Vec<u8>) -> Result<()> {
        while started.in_flight.len() >= PARTS_IN_FLIGHT_MAX {
            self.settle_oldest(started)?;
        }
        let index = started.sent.len() + started.in_flight.len();
        if index >= PARTS_MAX {
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
        let client = Arc::clone(&self.storage.connection.client);
        let (path, id) = (self.path.clone(), started.id.clone());
        let send = async move {
            let payload = PutPayload::from(part);
            client.put_part(&path, &id, index, payload).await
        };
        let sending = self.storage.objects.executor().start(send);
        started.in_flight.push_back(sending);
        Ok(())
    }

    /// Waits for the part that was sent first.
    fn settle_oldest(&self, started: &mut Started) -> Result<()> {
        if let Some(oldest) = started.in_flight.pop_front() {
            let part = oldest.wait().map_err(|error| self.failed(error))?;
            started.sent.push(part);
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
            if self.buffer.len() == PART_BYTES {
                // Only now, when there is more: a single part needs no upload.
                self.send_part()?;
            }
            if self.buffer.capacity() < PART_BYTES {
                self.buffer.reserve_exact(PART_BYTES - self.buffer.len());
            }
            let taken = bytes.len().min(PART_BYTES - self.buffer.len());
            let (head, tail) = bytes.split_at(taken);
            self.buffer.extend_from_slice(head);
            bytes = tail;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        if self.started.is_none() {
            let whole = std::mem::take(&mut self.buffer);
            return self.storage.put_new(&self.name, vec![whole.into()]);
        }
        self.send_part()?;
        self.settle()?;
        let Some(Started { id, sent, .. }) = &mut self.started else {
            return Ok(());
        };
        let connection = Arc::clone(&self.storage.connection);
        let (path, id, parts) = (self.path.clone(), id.clone(), std::mem::take(sent));
        let token = self.token.clone();
        // A crash before this leaves an unfinished upload, which is no object and goes by the bucket's
        // rules; one after it the object, which nothing references.
        let complete = async move { complete(&connection, &path, &id, parts, &token).await };
        match self.storage.objects.executor().run(complete) {
            Ok(Put::Done) => {
                self.started = None;
                Ok(())
            }
            // The upload is aborted with the drop. If it was completed after all, that does nothing.
            Ok(Put::Taken) => Err(Error::AlreadyExists {
                object: self.storage.location(&self.name),
            }),
            Err(error) => Err(self.failed(error)),
        }
    }
}

/// Makes an object of the parts, if there is none of its name.
async fn complete(
    connection: &Connection,
    path: &Path,
    id: &MultipartId,
    parts: Vec<PartId>,
    token: &str,
) -> object_store::Result<Put> {
    // Some storages know the condition of a put, but not that of a completion: against them, this is
    // as good as it gets.
    if !matches!(maker(&connection.client, path).await?, Maker::Nobody) {
        return Ok(Put::Taken);
    }
    match connection
        .committer
        .complete_multipart(path, id, parts)
        .await
    {
        Ok(_) => Ok(Put::Done),
        // Sent again because its answer was lost, it meets the object, or misses the upload.
        Err(error) if endpoint::is_condition(&error) || is_missing(&error) => {
            match maker(&connection.client, path).await? {
                Maker::Token(found) if found == token => Ok(Put::Done),
                Maker::Nobody => Err(error),
                Maker::Token(_) | Maker::Other => Ok(Put::Taken),
            }
        }
        Err(error) => Err(error),
    }
}

fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. })
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(started) = self.started.take() else {
            return;
        };
        for running in started.in_flight {
            // A part must not arrive when the upload is gone: it would stay, and cost.
            drop(running.wait());
        }
        let client = Arc::clone(&self.storage.connection.client);
        let path = self.path.clone();
        // Best effort, as the contract says; there is nobody to tell.
        drop(
            self.storage
                .objects
                .executor()
                .run(async move { client.abort_multipart(&path, &started.id).await }),
        );
    }
}
