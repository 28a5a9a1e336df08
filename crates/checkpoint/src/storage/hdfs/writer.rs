//! Writes one file piece by piece.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hdfs_native::file::FileWriter;
use tokio::sync::Mutex;

use super::{Failure, HdfsStorage, create, publish};
use crate::storage::executor::Running;
use crate::storage::put::{Part, Put};
use crate::storage::{ObjectWriter, Storage as _};
use crate::{Error, Result};

/// How much of a file is gathered before it is sent. A writer holds two of them, and what DataNodes have not
/// confirmed.
const PART_BYTES: usize = 4 << 20;

/// A file under a staged name, which gets its own when it is finished.
pub(super) struct Writer {
    storage: HdfsStorage,
    name: String,
    path: String,
    staged: String,
    /// There until it is finished.
    file: Arc<Mutex<Option<FileWriter>>>,
    part: Part,
    /// One part is on its way while the next one is filled.
    in_flight: Option<Running<(), Failure>>,
    is_finished: bool,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Writer").field(&self.staged).finish()
    }
}

impl Writer {
    pub(super) fn start(storage: &HdfsStorage, name: &str) -> Result<Self> {
        let path = storage.path(name)?;
        let staged = storage.path(&storage.staging.name(name))?;
        let permissions = storage.permissions;
        let created = {
            let staged = staged.clone();
            storage.run(|client| async move { create(&client, &staged, permissions).await })
        };
        let file = created.map_err(|failure| storage.failed("creating", name, failure))?;
        Ok(Self {
            storage: storage.clone(),
            name: name.to_owned(),
            path,
            staged,
            file: Arc::new(Mutex::new(Some(file))),
            part: Part::new(PART_BYTES),
            in_flight: None,
            is_finished: false,
        })
    }

    fn failed(&self, failure: Failure) -> Error {
        self.storage.failed("writing", &self.name, failure)
    }

    fn settle(&mut self) -> Result<()> {
        match self.in_flight.take() {
            Some(running) => running.wait().map_err(|failure| self.failed(failure)),
            None => Ok(()),
        }
    }

    fn send_part(&mut self) -> Result<()> {
        self.settle()?;
        let part = Bytes::from(self.part.take());
        let file = Arc::clone(&self.file);
        let sending = async move {
            match &mut *file.lock().await {
                Some(file) => Ok(file.write_bytes(part).await.map(drop)?),
                None => Err(Failure::other("it was finished before")),
            }
        };
        self.in_flight = Some(self.storage.executor.start(sending));
        Ok(())
    }
}

impl ObjectWriter for Writer {
    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            self.part.fill(&mut bytes);
            if self.part.is_full() {
                self.send_part()?;
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.send_part()?;
        self.settle()?;
        let (file, staged, path) = (
            Arc::clone(&self.file),
            self.staged.clone(),
            self.path.clone(),
        );
        let published = self.storage.run(|client| async move {
            match file.lock().await.take() {
                Some(file) => publish(&client, file, &staged, &path).await,
                None => Err(Failure::other("it was finished before")),
            }
        });
        // Its name is taken or in doubt; what is staged is deleted by the drop, if anything is.
        self.is_finished = matches!(published, Ok(Put::Done) | Err(Failure::Silence(_)));
        published
            .map_err(|failure| self.failed(failure))?
            .done(|| self.storage.location(&self.name))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(running) = self.in_flight.take() {
            // The part must not be written any more when the file goes away.
            drop(running.wait());
        }
        if !self.is_finished {
            self.storage.discard(std::mem::take(&mut self.staged));
        }
    }
}
