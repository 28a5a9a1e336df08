//! Savepoints: what a user takes, keeps, moves and removes.
//!
//! A savepoint is a directory of its own, `savepoint-<job-id>-<token>/`, in any storage. It has all that
//! it needs in it. The job that took it forgets it at once: it counts for nothing that the job does, and
//! only its user removes it, by [`dispose`].

mod dispose;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::gc::is_job;
use crate::location::{self, Location};
use crate::names::{self, JobDirectory};
use crate::storage::{Permissions, Storage};
use crate::{Error, Result};

#[cfg(test)]
pub(crate) use dispose::dispose_in;
pub use dispose::{Disposed, dispose};

/// What the directory is called in messages.
const DIRECTORY: &str = "savepoint directory";

/// Where a job's savepoints go: a directory that its user has named, and that was found to be writable.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct SavepointTarget {
    storage: Arc<dyn Storage>,
    job_id: String,
}

impl SavepointTarget {
    /// The directory `dir`, a path, a `file://` or an `s3://` URL, for savepoints of the job with this id. It
    /// is made if need be, and something is written in it and removed again: so what cannot be
    /// written is found before anything of a savepoint begins. Over a network no call takes
    /// longer than half of `patience`.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if `dir` or `job_id` cannot be used at all, [`Error::Storage`] if the
    /// directory cannot be made or written.
    pub fn open(
        dir: &str,
        job_id: &str,
        patience: Duration,
        permissions: Permissions,
    ) -> Result<Self> {
        // The id first: a refusal makes no directory.
        JobDirectory::new(job_id)?;
        let is_remote = location::is_remote(dir);
        if !is_remote {
            refuse_inside_of_a_job(dir)?;
        }
        let storage = location::create_root(dir, DIRECTORY, patience, permissions)?;
        // Only a bucket that can be reached is looked at, and opening one makes no directory.
        if is_remote {
            refuse_inside_of_a_job(dir)?;
        }
        let target = Self::with_storage(storage, job_id)?;
        target.probe()?;
        Ok(target)
    }

    /// As [`SavepointTarget::open`], in any storage. Nothing is tried out.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if `job_id` cannot be used.
    pub fn with_storage(storage: Arc<dyn Storage>, job_id: &str) -> Result<Self> {
        Ok(Self {
            storage,
            job_id: JobDirectory::new(job_id)?.name().to_owned(),
        })
    }

    /// Its path or URL.
    #[must_use]
    pub fn location(&self) -> String {
        self.storage.location("")
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub(crate) fn job_id(&self) -> &str {
        &self.job_id
    }

    /// Writes something and removes it.
    fn probe(&self) -> Result<()> {
        let name = names::probe(&names::token());
        // A crash from here on leaves a small object that nothing looks at.
        self.storage.put_new(&name, vec![Bytes::new()])?;
        self.storage.delete(&name)
    }
}

/// A savepoint in the directory of a job would go with it, or keep it from going: refused.
fn refuse_inside_of_a_job(dir: &str) -> Result<()> {
    let place = Location::parse(dir, DIRECTORY)?;
    let above = std::iter::successors(Some(place.clone()), Location::parent);
    // The job's directory, one in it, and a checkpoint's in that.
    for above in above.take(3).filter(|above| above.parent().is_some()) {
        let Some(Ok((storage, name))) = above.real().map(|real| real.open_directory()) else {
            continue;
        };
        let has_lease = || {
            let listing = storage.list(&name)?;
            Ok::<_, Error>(listing.directories.contains(&names::lease(&name)))
        };
        if is_job(&*storage, &name).unwrap_or(false) && has_lease().unwrap_or(false) {
            return Err(Error::Incompatible(format!(
                "{DIRECTORY} `{}` is in the directory of a job, {above}: a savepoint belongs to its user, name another directory",
                location::shown(dir)
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
