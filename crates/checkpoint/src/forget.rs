//! Removing a job's directory wholly: its checkpoints, and what is on record of its runs.
//!
//! Nothing else ever removes the record: it keeps numbers from restarting, and a job that has finished
//! from being run again by a supervisor. So this is what a user asks for, by name, when the job is of no
//! interest any more.

use std::sync::Arc;

use crate::gc::is_job;
use crate::lease::{Lease, Terms};
use crate::location::{Found, Location};
use crate::names;
use crate::references::References;
use crate::storage::{Listing, Storage};
use crate::{Error, Result};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The job directory.
    pub path: String,
    /// How many files.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Removes the job directory at `place`, a path or URL. Metadata goes first, the record last: after a
/// crash in the middle the same call removes the rest.
///
/// # Errors
/// [`Error::NotFound`] or [`Error::Incompatible`] if there is no job directory at that place, if there is
/// something in it that is not a checkpoint's, or if a checkpoint elsewhere needs a file in it: nothing
/// is changed then. [`Error::Held`] if a host owns it. [`Error::Storage`] if something could not be
/// removed.
pub fn forget(place: &str, terms: &Terms) -> Result<Report> {
    let place = Location::parse(place, "job directory")?;
    if place.look()? != Found::Directory {
        return Err(Error::NotFound(format!("{place} is not a directory")));
    }
    let (storage, job) = place.open_directory()?;
    if job.is_empty() || !is_job(&*storage, &job)? {
        return Err(Error::NotFound(format!(
            "{place} is not a job directory (one that holds chk-…, shared and _lease)"
        )));
    }
    let lease = Lease::take(Arc::clone(&storage), &job, terms.clone())?;
    let contents = Contents::read(&storage, &job)?;
    contents.check(&storage, &job)?;
    let mut report = Report {
        path: storage.location(&job),
        ..Report::default()
    };
    for (name, bytes) in &contents.objects {
        lease.keep()?;
        storage.delete(name)?;
        report.files += 1;
        report.bytes = report.bytes.saturating_add(*bytes);
    }
    for directory in &contents.directories {
        storage.remove_directory(directory)?;
    }
    lease.forget()?;
    Ok(report)
}

/// What is in a job directory, but for its lease.
#[derive(Debug, Default)]
struct Contents {
    /// Names and sizes, metadata first.
    objects: Vec<(String, u64)>,
    directories: Vec<String>,
    /// What is not ours.
    strange: Vec<String>,
}

impl Contents {
    fn read(storage: &Arc<dyn Storage>, job: &str) -> Result<Self> {
        let mut contents = Self::default();
        let top = storage.list(job)?;
        let mark = names::finished(job);
        let (ours, strange): (Vec<_>, Vec<_>) = top
            .objects
            .into_iter()
            .partition(|object| object.name == mark || names::is_left_over(&object.name));
        contents
            .objects
            .extend(ours.into_iter().map(|object| (object.name, object.size)));
        contents
            .strange
            .extend(strange.into_iter().map(|object| object.name));
        for directory in top.directories {
            if directory == names::lease(job) {
                continue;
            }
            if !names::is_inside_job(names::leaf(&directory)) {
                contents.strange.push(directory);
                continue;
            }
            let inside = storage.list(&directory)?;
            contents.add(&directory, inside);
        }
        // A crash in between must leave no checkpoint that is believed and not whole.
        let is_metadata = |name: &str| names::leaf(name) == names::METADATA;
        contents
            .objects
            .sort_by_key(|(name, _)| (!is_metadata(name), name.clone()));
        Ok(contents)
    }

    fn add(&mut self, directory: &str, inside: Listing) {
        self.directories.push(directory.to_owned());
        self.strange.extend(inside.directories);
        for object in inside.objects {
            let leaf = names::leaf(&object.name);
            let ours = leaf == names::METADATA
                || names::data_run(leaf).is_some()
                || names::is_left_over(leaf);
            match ours {
                true => self.objects.push((object.name, object.size)),
                false => self.strange.push(object.name),
            }
        }
    }

    /// Refuses if something would be lost that is not this job's.
    fn check(&self, storage: &Arc<dyn Storage>, job: &str) -> Result<()> {
        if let Some(strange) = self.strange.first() {
            return Err(Error::Incompatible(format!(
                "{} is not part of a checkpoint: move it away first",
                storage.location(strange)
            )));
        }
        let references = References::read_others(storage, names::parent(job), job)?;
        let needed = self
            .objects
            .iter()
            .find(|(name, _)| references.contains(name));
        match needed {
            None => Ok(()),
            Some((name, _)) => Err(Error::Incompatible(format!(
                "a checkpoint of another job needs {}",
                storage.location(name)
            ))),
        }
    }
}
