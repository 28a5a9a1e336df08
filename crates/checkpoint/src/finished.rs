//! The mark that a job has finished.
//!
//! A job that has finished and finds nothing to resume when it is started again would repeat all its
//! output; if it finds an older checkpoint, that of a run that was killed, it would repeat a part. So
//! a run that finishes puts a small object `_finished` into its directory *before* its checkpoints
//! are deleted, and `latest` finds that there is nothing to resume. A crash before the mark leaves
//! the job's last checkpoint, which resumes to the same end; a crash behind it leaves the mark.
//!
//! When all is done and told, the mark goes as the very last step, if it has nothing to hide, and
//! with it the directory: whoever starts a job by hand has seen it finish. A run that was started
//! with `--resume` leaves it: its supervisor may be told nothing but that the process is gone.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::catalog;
use crate::lease::Lease;
use crate::names::{self, JobDirectory};
use crate::storage::Storage;
use crate::{Error, Result};

/// The longest mark that is read: nobody writes a longer one.
const BYTES_MAX: u64 = 64 << 10;

/// What a mark says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Mark {
    /// The job's name.
    pub(crate) job_name: String,
    /// When it finished, in milliseconds since the epoch.
    pub(crate) finished_at: i64,
}

/// Leaves the mark in a job's directory, always or (`kept`) if `latest` could otherwise go back to a
/// checkpoint that is none of those that are kept: of an earlier run, under whatever id, or one of
/// this run that could not be deleted. Removes the marks of earlier runs that it takes the place of.
///
/// # Errors
/// [`crate::Error::Storage`]; the mark may or may not be there.
pub(crate) fn mark(
    storage: &Arc<dyn Storage>,
    job: &JobDirectory,
    lease: Option<&Lease>,
    kept: Option<&[u64]>,
    mark: &Mark,
) -> Result<()> {
    let needed = match kept {
        None => true,
        Some(kept) => hides(storage, job, kept, &mark.job_name)?,
    };
    let superseded: Vec<String> = marks(storage, "")?
        .into_iter()
        .filter(|(_, other)| other.job_name == mark.job_name)
        .map(|(name, _)| name)
        .collect();
    if needed {
        let name = names::finished(job.name());
        // Of a run with the same id before this one: it says less than the new one.
        storage.delete(&name)?;
        let text = serde_json::to_vec(mark).expect("a mark is two plain fields");
        storage.put_new(&name, vec![Bytes::from(text)])?;
    }
    for name in superseded {
        if name != names::finished(job.name()) {
            remove(storage, &name, lease)?;
        }
    }
    Ok(())
}

/// Whether there are checkpoints of the job that are none of `kept`.
fn hides(
    storage: &Arc<dyn Storage>,
    job: &JobDirectory,
    kept: &[u64],
    job_name: &str,
) -> Result<bool> {
    Ok(catalog::entries(storage, "")?.into_iter().any(|entry| {
        let is_kept = entry.job == job.name() && entry.id().is_some_and(|id| kept.contains(&id));
        let of_the_job = entry
            .completed()
            .is_some_and(|it| it.metadata().job_name == job_name);
        !is_kept && of_the_job
    }))
}

/// Removes all marks of the job, unless there are checkpoints that they hide.
///
/// # Errors
/// [`crate::Error::Storage`]; marks may be there still.
pub(crate) fn unmark(
    storage: &Arc<dyn Storage>,
    job: &JobDirectory,
    lease: Option<&Lease>,
    job_name: &str,
) -> Result<()> {
    if hides(storage, job, &[], job_name)? {
        return Ok(());
    }
    for (name, mark) in marks(storage, "")? {
        if mark.job_name != job_name {
            continue;
        }
        if names::parent(&name) == job.name() {
            // Our own, or it was until a moment ago.
            storage.delete(&name)?;
            storage.remove_directory(job.name())?;
        } else {
            remove(storage, &name, lease)?;
        }
    }
    Ok(())
}

/// Removes a mark, and the directory that it is in if it is the last thing there.
fn remove(storage: &Arc<dyn Storage>, mark: &str, lease: Option<&Lease>) -> Result<()> {
    let job = names::parent(mark);
    // Owned as our own directory is, while something in it is deleted.
    let owned = lease.map(|own| Lease::take(Arc::clone(storage), job, own.terms().clone()));
    match owned.transpose() {
        // Another run is at work there again: what is in it is its own business.
        Err(Error::Held(_)) => return Ok(()),
        owned => {
            let owned = owned?;
            storage.delete(mark)?;
            drop(owned);
        }
    }
    storage.remove_directory(job)
}

/// When the job with this name finished last, as far as marks beneath `directory` tell.
///
/// # Errors
/// [`crate::Error::Storage`] if the directory cannot be read.
pub(crate) fn newest(
    storage: &Arc<dyn Storage>,
    directory: &str,
    job_name: &str,
) -> Result<Option<i64>> {
    let marks = marks(storage, directory)?.into_iter();
    let own = marks.filter(|(_, mark)| mark.job_name == job_name);
    Ok(own.map(|(_, mark)| mark.finished_at).max())
}

/// All marks in the job directories beneath `directory`. What cannot be read is no mark: at worst
/// `latest` goes back to where it would have gone without it.
pub(crate) fn marks(storage: &Arc<dyn Storage>, directory: &str) -> Result<Vec<(String, Mark)>> {
    let jobs = storage.list(directory)?.directories;
    let read = |job: String| {
        let name = names::finished(&job);
        let bytes = storage.read(&name, 0..BYTES_MAX).ok()?;
        Some((name, serde_json::from_slice(&bytes).ok()?))
    };
    Ok(jobs.into_iter().filter_map(read).collect())
}
