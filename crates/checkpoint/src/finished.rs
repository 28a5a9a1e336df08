//! The mark that a job has finished.
//!
//! A run that was killed leaves its checkpoints. If the run that was resumed from them finishes, they
//! are older than the end of the job: to go back to one of them would repeat output that is already
//! there. So a run that finishes while checkpoints of earlier runs of its job stand beside it leaves a
//! small object `_finished` in its own directory, *before* its own checkpoints are deleted, and
//! `latest` finds that there is nothing to resume. A crash before the mark leaves the job's last
//! checkpoint, which resumes to the same end; a crash behind it leaves the mark.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::catalog;
use crate::names::{self, JobDirectory};
use crate::storage::Storage;

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

/// Leaves the mark in a job's directory if `latest` could otherwise go back to a checkpoint that is
/// none of `kept`: of an earlier run, under whatever id, or one of this run that could not be deleted.
/// Removes the marks of earlier runs that it takes the place of.
///
/// # Errors
/// [`crate::Error::Storage`]; the mark may or may not be there.
pub(crate) fn mark(
    storage: &Arc<dyn Storage>,
    job: &JobDirectory,
    kept: &[u64],
    mark: &Mark,
) -> Result<()> {
    let earlier = catalog::entries(storage, "")?.into_iter().any(|entry| {
        let same = |name: &str| name == mark.job_name;
        let is_kept = entry.job == job.name() && entry.id().is_some_and(|id| kept.contains(&id));
        !is_kept
            && entry
                .completed()
                .is_some_and(|it| same(&it.metadata().job_name))
    });
    let superseded: Vec<String> = marks(storage, "")?
        .into_iter()
        .filter(|(_, other)| other.job_name == mark.job_name)
        .map(|(name, _)| name)
        .collect();
    if earlier {
        let name = names::finished(job.name());
        // Of a run with the same id before this one: it says less than the new one.
        storage.delete(&name)?;
        let text = serde_json::to_vec(mark).expect("a mark is two plain fields");
        storage.put_new(&name, vec![Bytes::from(text)])?;
    }
    for name in superseded {
        if name != names::finished(job.name()) {
            storage.delete(&name)?;
            storage.remove_directory(names::parent(&name))?;
        }
    }
    Ok(())
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
fn marks(storage: &Arc<dyn Storage>, directory: &str) -> Result<Vec<(String, Mark)>> {
    let jobs = storage.list(directory)?.directories;
    let read = |job: String| {
        let name = names::finished(&job);
        let bytes = storage.read(&name, 0..BYTES_MAX).ok()?;
        Some((name, serde_json::from_slice(&bytes).ok()?))
    };
    Ok(jobs.into_iter().filter_map(read).collect())
}
