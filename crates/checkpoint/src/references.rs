//! Who needs a data file: what all checkpoints beneath one directory of jobs reference.
//!
//! A checkpoint that cannot be read may need anything that was there when it was written. It can only
//! reference files of its own number or smaller, so the others may still go.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::Result;
use crate::catalog::{self, CatalogEntry, Status};
use crate::names;
use crate::storage::Storage;

/// What the checkpoints beneath a directory reference.
#[derive(Debug, Default)]
pub(crate) struct References {
    files: BTreeSet<String>,
    unreadable: Vec<Unreadable>,
}

/// A checkpoint (or a directory that may hold some) that does not tell what it references.
#[derive(Clone, Debug)]
pub(crate) struct Unreadable {
    /// Its path or URL.
    pub(crate) path: String,
    /// Why it cannot be read.
    pub(crate) why: String,
    /// Its number, if it has one.
    id: Option<u64>,
}

impl References {
    /// Reads all metadata in the job directories and savepoints beneath `root`.
    ///
    /// # Errors
    /// [`crate::Error::Storage`] if `root` cannot be listed.
    pub(crate) fn read(storage: &Arc<dyn Storage>, root: &str) -> Result<Self> {
        Self::read_others(storage, root, "")
    }

    /// As [`References::read`], without those in the job directory `job`.
    ///
    /// # Errors
    /// As [`References::read`].
    pub(crate) fn read_others(storage: &Arc<dyn Storage>, root: &str, job: &str) -> Result<Self> {
        let mut references = Self::default();
        for child in storage.list(root)?.directories {
            if child == job {
                continue;
            }
            // What cannot be listed may hold checkpoints.
            match catalog::entries(storage, &child) {
                Ok(entries) => entries.into_iter().for_each(|entry| references.add(entry)),
                Err(error) => references.unreadable.push(Unreadable {
                    path: storage.location(&child),
                    why: catalog::describe(&error),
                    id: None,
                }),
            }
        }
        Ok(references)
    }

    fn add(&mut self, entry: CatalogEntry) {
        let id = names::checkpoint_id(&entry.name);
        match entry.status {
            Status::Complete(completed) => self.files.extend(completed.files()),
            Status::Incomplete | Status::Void | Status::Fenced(_) => {}
            Status::Corrupt(why) | Status::FutureFormat(why) | Status::Unreadable(why) => {
                self.unreadable.push(Unreadable {
                    path: entry.path,
                    why,
                    id,
                });
            }
        }
    }

    /// Whether a checkpoint says that it needs a file.
    pub(crate) fn contains(&self, file: &str) -> bool {
        self.files.contains(file)
    }

    /// A checkpoint that does not say what it needs, and may need this file.
    pub(crate) fn may_be_needed_by(&self, file: &str) -> Option<&Unreadable> {
        let written_for = names::data_checkpoint(file);
        self.unreadable.iter().find(|unreadable| {
            // Numbers grow also from one job directory to the next.
            let older = written_for.zip(unreadable.id).is_some_and(|(n, id)| n > id);
            !older
        })
    }
}
