//! What checkpoints there are beneath a directory, whole or not.
//!
//! For people and tools that look around: one bad entry never hides the others. Nothing of a job is
//! needed, and no data file is read.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::completed::Completed;
use crate::lease;
use crate::location::{Found, Location};
use crate::metadata::{Kind, is_void};
use crate::names;
use crate::storage::Storage;
use crate::{Error, Result};

/// A directory that is a checkpoint or savepoint, or looks like one.
#[derive(Clone, Debug)]
pub struct CatalogEntry {
    /// Its path or URL.
    pub path: String,
    /// The name of the directory that it is in, a job's id as a rule.
    pub job: String,
    /// Its own name, such as `chk-12`.
    pub name: String,
    /// When its metadata was written as the storage tells, in milliseconds since the epoch; 0 if
    /// there is none or the storage does not tell.
    pub modified_at: i64,
    /// What it is.
    pub status: Status,
}

/// What an [`CatalogEntry`] is.
#[derive(Clone, Debug)]
pub enum Status {
    /// Its metadata exists and is right. Its data files were not looked at.
    Complete(Completed),
    /// It has no metadata: it is being written, or never was completed, or is being deleted.
    Incomplete,
    /// A marker has the name of its metadata: it never completed, and never will.
    Void,
    /// Its metadata is not what was written.
    Corrupt(String),
    /// A later version of the format wrote it.
    FutureFormat(String),
    /// Its metadata exists and is right, but it does not count: it was written by a host that did not
    /// own the job directory any more, or it was given up. Nothing follows from it.
    Fenced(String),
    /// It could not be read.
    Unreadable(String),
}

impl Status {
    /// One word for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Complete(_) => "complete",
            Self::Incomplete => "incomplete",
            Self::Void => "void",
            Self::Corrupt(_) => "corrupt",
            Self::FutureFormat(_) => "future format",
            Self::Fenced(_) => "fenced",
            Self::Unreadable(_) => "unreadable",
        }
    }

    /// Why it is not complete, where there is more to say.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Complete(_) | Self::Incomplete | Self::Void => None,
            Self::Corrupt(why)
            | Self::FutureFormat(why)
            | Self::Fenced(why)
            | Self::Unreadable(why) => Some(why),
        }
    }
}

impl CatalogEntry {
    /// The checkpoint, if it is complete.
    #[must_use]
    pub fn completed(&self) -> Option<&Completed> {
        match &self.status {
            Status::Complete(completed) => Some(completed),
            _ => None,
        }
    }

    /// The number in its name, or in its metadata.
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        let metadata = self.completed().map(|completed| completed.metadata().id);
        names::checkpoint_id(&self.name).or(metadata)
    }

    /// When it completed, as far as it is known: milliseconds since the epoch.
    #[must_use]
    pub fn completed_at(&self) -> i64 {
        self.completed().map_or(self.modified_at, completed_at)
    }
}

/// When a checkpoint completed.
pub(crate) fn completed_at(checkpoint: &Completed) -> i64 {
    let metadata = checkpoint.metadata();
    let duration = i64::try_from(metadata.duration_ms).unwrap_or(i64::MAX);
    metadata.triggered_at.saturating_add(duration)
}

/// Lists what is at or beneath `place`, a path or URL: the directory of all jobs, one job's, a
/// checkpoint's, or its `_metadata`. Sorted by job, then by number, savepoints last.
///
/// # Errors
/// [`Error::NotFound`] if there is nothing at that place, [`Error::Incompatible`] if it is no place
/// that can be reached, [`Error::Storage`] if it cannot be read at all.
pub fn list(place: &str) -> Result<Vec<CatalogEntry>> {
    let place = Location::parse(place, "directory")?;
    match place.look()? {
        Found::Nothing => Err(Error::NotFound(format!("{place} does not exist"))),
        Found::File => listed(&place.directory_of_metadata().map_err(Error::NotFound)?),
        Found::Directory => listed(&place),
    }
}

/// As [`list_directory`], with the directories that cannot be looked into: they may hold checkpoints, and must not
/// pass for empty.
fn listed(place: &Location) -> Result<Vec<CatalogEntry>> {
    let mut entries = list_directory(place)?;
    let (storage, name) = place.open_directory()?;
    for child in storage.list(&name)?.directories {
        // A checkpoint may have anything of its owner's in it.
        let is_known = |name: &str| entries.iter().any(|it| it.path == storage.location(name));
        if !is_known(&name)
            && !is_known(&child)
            && !names::is_inside_job(names::leaf(&child))
            && let Err(error) = storage.list(&child)
        {
            let status = Status::Unreadable(match error {
                // A link, which may lead to a job's directory and is not followed.
                Error::Corrupt { object, what } => format!("{object}: {what}"),
                error => describe(&error),
            });
            entries.push(new_entry(&storage, &child, 0, status));
        }
    }
    entries.sort_by(order);
    Ok(entries)
}

/// As [`list`], for a directory that exists.
pub(crate) fn list_directory(place: &Location) -> Result<Vec<CatalogEntry>> {
    let (storage, name) = place.open_directory()?;
    let mut entries = entries(&storage, &name)?;
    entries.sort_by(order);
    Ok(entries)
}

fn order(a: &CatalogEntry, b: &CatalogEntry) -> Ordering {
    let key = |entry: &CatalogEntry| {
        let number = names::checkpoint_id(&entry.name);
        (
            entry.job.clone(),
            number.is_none(),
            number,
            entry.name.clone(),
        )
    };
    key(a).cmp(&key(b))
}

/// What is at or beneath a directory of a storage.
pub(crate) fn entries(storage: &Arc<dyn Storage>, directory: &str) -> Result<Vec<CatalogEntry>> {
    let mut entries = whole_or_not(storage, directory)?;
    // Of each directory of a job, what its lease says of the checkpoints in it.
    let mut standings = BTreeMap::new();
    for entry in &mut entries {
        let Status::Complete(completed) = &entry.status else {
            continue;
        };
        // Whoever owns the directory that a savepoint was moved to, it is its user's.
        if completed.metadata().kind == Kind::Savepoint {
            continue;
        }
        let job = names::parent(&completed.contents().directory).to_owned();
        let standing = standings
            .entry(job)
            .or_insert_with_key(|job| lease::standing(&**storage, job));
        let unbelieved = match standing {
            Ok(standing) => standing
                .check(completed.metadata())
                .err()
                .map(Status::Fenced),
            Err(error) => Some(Status::Unreadable(describe(error))),
        };
        if let Some(status) = unbelieved {
            entry.status = status;
        }
    }
    Ok(entries)
}

fn whole_or_not(storage: &Arc<dyn Storage>, directory: &str) -> Result<Vec<CatalogEntry>> {
    if let Some(entry) = entry(storage, directory) {
        return Ok(vec![entry]);
    }
    let mut entries = Vec::new();
    for child in storage.list(directory)?.directories {
        if let Some(entry) = entry(storage, &child) {
            entries.push(entry);
        } else if !names::is_inside_job(names::leaf(&child)) {
            // A directory that cannot be read has nothing to show, and must not hide the others.
            let grandchildren = storage.list(&child).unwrap_or_default().directories;
            entries.extend(grandchildren.iter().filter_map(|name| entry(storage, name)));
        }
    }
    Ok(entries)
}

/// What a directory is, if it is a checkpoint or savepoint or looks like one.
pub(crate) fn entry(storage: &Arc<dyn Storage>, directory: &str) -> Option<CatalogEntry> {
    let name = names::leaf(directory);
    let is_named_like_one = names::checkpoint_id(name).is_some() || names::is_savepoint(name);
    let metadata = names::metadata(directory);
    let listing = match storage.list(directory) {
        Ok(listing) => listing,
        Err(_) if !is_named_like_one => return None,
        Err(error) => {
            let status = match error {
                Error::Corrupt { object, what } => Status::Corrupt(format!("{object}: {what}")),
                error => Status::Unreadable(describe(&error)),
            };
            return Some(new_entry(storage, directory, 0, status));
        }
    };
    // A job may be called as savepoints are.
    let looks_like_one = is_named_like_one
        && !listing
            .directories
            .iter()
            .any(|name| names::is_inside_job(names::leaf(name)));
    let found = listing
        .objects
        .iter()
        .find(|object| object.name == metadata);
    let Some(found) = found else {
        return looks_like_one.then(|| new_entry(storage, directory, 0, Status::Incomplete));
    };
    let status = match Completed::open(Arc::clone(storage), directory) {
        Ok(completed) => Status::Complete(completed),
        Err(Error::Corrupt { what, .. }) => Status::Corrupt(what),
        Err(Error::Incompatible(why)) => Status::FutureFormat(why),
        Err(Error::NotFound(_)) => match storage.read(&metadata, 0..16) {
            Ok(bytes) if is_void(&bytes) => Status::Void,
            _ => Status::Incomplete,
        },
        Err(error) => Status::Unreadable(describe(&error)),
    };
    Some(new_entry(storage, directory, found.modified_at, status))
}

fn new_entry(
    storage: &Arc<dyn Storage>,
    directory: &str,
    modified_at: i64,
    status: Status,
) -> CatalogEntry {
    CatalogEntry {
        path: storage.location(directory),
        job: names::leaf(names::parent(directory)).to_owned(),
        name: names::leaf(directory).to_owned(),
        modified_at,
        status,
    }
}

pub(crate) fn describe(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Whether an entry is (or, if it cannot be read, is called like) a checkpoint of the runtime, not a
/// user's savepoint.
pub(crate) fn is_checkpoint(entry: &CatalogEntry) -> bool {
    match entry.completed() {
        Some(completed) => completed.metadata().kind == Kind::Checkpoint,
        None => names::checkpoint_id(&entry.name).is_some(),
    }
}

#[cfg(test)]
mod tests;
