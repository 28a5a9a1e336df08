//! What a job directory holds of the run that it belongs to.
//!
//! Not every checkpoint in a job directory counts: a finished run may have left some on purpose, a
//! fresh start or a rewind gives some up before they are deleted, and a host that had lost the
//! directory may have put one all the same. Among those that count the number decides which is newest.

use std::sync::Arc;

use crate::catalog::{self, CatalogEntry, Status};
use crate::lease::{self, Lease, Run};
use crate::location::real;
use crate::names;
use crate::storage::Storage;
use crate::verify::verify;
use crate::{Completed, Error, Result};

/// The newest good checkpoint, and what was newer and is not good.
#[derive(Debug)]
pub struct Fallback {
    /// The checkpoint. All of its state was read and verified.
    pub checkpoint: Completed,
    /// What would have come before it, newest first.
    pub rejected: Vec<Rejected>,
}

/// A checkpoint that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its path or URL.
    pub path: String,
    /// Why not.
    pub why: String,
}

/// The checkpoints of a run, and what the lease has on record of it.
#[derive(Debug)]
pub struct History {
    /// The run; `None` if none has begun, or nothing is on record.
    pub run: Option<Run>,
    /// Checkpoints that were completed, good or damaged, newest first.
    entries: Vec<CatalogEntry>,
    location: String,
}

impl History {
    /// Reads what is in the directory that the lease is of.
    ///
    /// # Errors
    /// [`Error::Storage`] if it cannot be read.
    pub fn of(lease: &Lease) -> Result<Self> {
        let (storage, job) = lease.place();
        Self::with_run(storage, job, lease.run())
    }

    /// Reads what is in a job directory that may be another's.
    ///
    /// # Errors
    /// [`Error::Storage`] if it cannot be read.
    pub(crate) fn read(storage: &Arc<dyn Storage>, job: &str) -> Result<Self> {
        let standing = lease::standing(&**storage, job)?;
        Self::with_run(storage, job, standing.run)
    }

    fn with_run(storage: &Arc<dyn Storage>, job: &str, run: Option<Run>) -> Result<Self> {
        let since = run.as_ref().map_or(0, |run| run.since);
        let mut entries = catalog::entries(storage, job)?;
        entries.retain(|entry| {
            let number = names::checkpoint_id(&entry.name);
            // Not those of its children: a directory of jobs has no newest.
            let is_here = entry.path == storage.location(&names::join(job, &entry.name));
            is_here && entry.was_completed() && number.is_some_and(|id| id > since)
        });
        entries.sort_by_key(|entry| std::cmp::Reverse(names::checkpoint_id(&entry.name)));
        Ok(Self {
            run,
            entries,
            location: storage.location(job),
        })
    }

    /// Whether there is any checkpoint.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The path of the newest checkpoint, good or damaged.
    #[must_use]
    pub fn newest_path(&self) -> Option<&str> {
        self.entries.first().map(|entry| entry.path.as_str())
    }

    /// The number of the newest checkpoint, good or damaged; 0 if there is none.
    #[must_use]
    pub fn newest_id(&self) -> u64 {
        self.entries.first().and_then(CatalogEntry::id).unwrap_or(0)
    }

    /// Up to which checkpoint output may have been published; 0 if none.
    #[must_use]
    pub fn published_through(&self) -> u64 {
        let on_record = self.run.as_ref().map_or(0, |run| run.completed);
        self.newest_id().max(on_record)
    }

    /// Whether this checkpoint is one of them, in its place in the job directory.
    #[must_use]
    pub fn contains(&self, checkpoint: &Completed) -> bool {
        let contents = checkpoint.contents();
        let location = real(&contents.storage.location(&contents.directory));
        self.entries
            .iter()
            .any(|entry| real(&entry.path) == location)
    }

    /// How many of its checkpoints have a higher number than this one.
    #[must_use]
    pub fn newer_than(&self, id: u64) -> usize {
        let newer = self.entries.iter().filter(|entry| entry.id() > Some(id));
        newer.count()
    }

    /// The newest checkpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, [`Error::Corrupt`] or [`Error::Incompatible`] if it cannot
    /// be used: to step back in silence would repeat what was published.
    pub fn newest(&self) -> Result<Completed> {
        match self.entries.first() {
            Some(entry) => entry.clone().usable(),
            None => Err(self.nothing()),
        }
    }

    /// The checkpoint with this number.
    ///
    /// # Errors
    /// As [`History::newest`].
    pub fn checkpoint(&self, id: u64) -> Result<Completed> {
        match self.entries.iter().find(|entry| entry.id() == Some(id)) {
            Some(entry) => entry.clone().usable(),
            None => Err(self.nothing()),
        }
    }

    /// The newest checkpoint that is good to its last byte, and what was newer and is not. All state is
    /// read to know.
    ///
    /// # Errors
    /// As [`History::newest`]; if nothing is good, the error is that of the newest.
    pub fn newest_good(&self) -> Result<Fallback> {
        newest_good(self.entries.clone())?.ok_or_else(|| self.nothing())
    }

    pub(crate) fn into_entries(self) -> Vec<CatalogEntry> {
        self.entries
    }

    fn nothing(&self) -> Error {
        Error::NotFound(format!("no completed checkpoint in {}", self.location))
    }
}

/// The first of these that is good to its last byte; `None` if there are none at all.
///
/// # Errors
/// That of the first, if none is good.
pub(crate) fn newest_good(entries: Vec<CatalogEntry>) -> Result<Option<Fallback>> {
    let mut rejected = Vec::new();
    let mut first_error = None;
    for entry in entries {
        let path = entry.path.clone();
        let error = match entry.usable() {
            Ok(checkpoint) => match verify(&checkpoint).problems.into_iter().next() {
                None => {
                    return Ok(Some(Fallback {
                        checkpoint,
                        rejected,
                    }));
                }
                Some(problem) => Error::Corrupt {
                    object: problem.object,
                    what: problem.what,
                },
            },
            Err(error) => error,
        };
        rejected.push(Rejected {
            path,
            why: error.to_string(),
        });
        first_error.get_or_insert(error);
    }
    first_error.map_or(Ok(None), Err)
}

impl CatalogEntry {
    /// Whether it was complete once, good or damaged now, and nothing says that it does not count.
    pub(crate) fn was_completed(&self) -> bool {
        let never = matches!(
            self.status,
            Status::Incomplete | Status::Void | Status::Fenced(_)
        );
        !never && catalog::is_checkpoint(self)
    }

    /// The checkpoint, or why there is none.
    pub(crate) fn usable(self) -> Result<Completed> {
        let object = format!("{}/{}", self.path, names::METADATA);
        match self.status {
            Status::Complete(completed) => Ok(completed),
            Status::Corrupt(what) => Err(Error::Corrupt { object, what }),
            Status::FutureFormat(why) => Err(Error::Incompatible(why)),
            Status::Fenced(why) => Err(Error::Incompatible(format!(
                "{object} is not a checkpoint of its job: {why}"
            ))),
            Status::Incomplete => Err(Error::NotFound(format!("{object} does not exist"))),
            Status::Void => Err(Error::NotFound(format!(
                "{object} is void: the checkpoint never completed"
            ))),
            Status::Unreadable(why) => Err(Error::Storage {
                action: "reading",
                object,
                source: why.into(),
            }),
        }
    }
}
