//! Garbage collection: what crashes left in job directories, found and removed.
//!
//! Garbage is what no completed checkpoint can need: checkpoints without metadata, files that were
//! never finished, data files that nobody references, markers of checkpoints that never completed.
//! What there is is listed *before* it is asked who needs it, so a checkpoint that completes
//! meanwhile keeps its files. Nothing that is removed is reachable, so a crash at any step leaves
//! every checkpoint as it was, and the next collection finds the rest.
//!
//! A checkpoint whose metadata cannot be read keeps all data files that it may reference. Files that
//! do not bear one of our names are never touched, nor is `taskowned/`, nor a savepoint. Of a savepoint
//! that a crash left without metadata our files go, once the newest of them is old enough: a job that is
//! still writing it has no lease that tells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::catalog::{self, Status};
use crate::lease::{Lease, Terms};
use crate::location::{Found, Location};
use crate::names;
use crate::references::References;
use crate::storage::{Listing, Object, Storage};
use crate::{Error, Result};

/// What may be collected.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Only objects that were made before this moment, in milliseconds since the epoch.
    pub before: i64,
    /// Whether to tell only, and remove nothing.
    pub dry_run: bool,
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was removed, or would be.
    pub removed: Vec<Removed>,
    /// What looks like garbage and may be needed all the same.
    pub kept: Vec<Kept>,
    /// Garbage that is too young to be sure of.
    pub recent: u64,
}

/// An object or directory that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Its path or URL.
    pub path: String,
    /// Its size; 0 for a directory.
    pub bytes: u64,
    /// What it is.
    pub what: Kind,
    /// Why it could not be removed.
    pub error: Option<String>,
}

/// Something that stays because it may be needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its path or URL.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Who may need it.
    pub why: String,
}

/// What a piece of garbage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a checkpoint that has no metadata.
    HalfWritten,
    /// Of a savepoint that has no metadata.
    HalfWrittenSavepoint,
    /// Metadata that does not count: of a host that had lost the directory, or given up.
    Fenced,
    /// A file that was never finished.
    LeftOver,
    /// A data file that no checkpoint references.
    Unreferenced,
    /// A mark by which a version before this one said that a job has finished.
    Superseded,
    /// A marker that a checkpoint can never exist.
    Void,
    /// A directory with nothing in it.
    Empty,
}

impl Kind {
    /// A few words for it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::HalfWritten => "half-written checkpoint",
            Self::HalfWrittenSavepoint => "half-written savepoint",
            Self::Fenced => "fenced checkpoint",
            Self::LeftOver => "unfinished file",
            Self::Unreferenced => "unreferenced data",
            Self::Superseded => "superseded mark",
            Self::Void => "void marker",
            Self::Empty => "empty directory",
        }
    }
}

/// Collects the garbage in a job directory, or in all job directories of a checkpoint directory and all
/// savepoints that are directly in it. What
/// a running job is about to reference is referenced by nobody yet: so each is taken on `terms` while
/// its garbage is removed, and one in which a host is at work is passed over and among those that are
/// kept. Without terms nobody is asked, and the jobs must not be running.
///
/// # Errors
/// [`Error::NotFound`] and [`Error::Incompatible`] if `place` is no directory that can be reached,
/// [`Error::Storage`] if it cannot be listed. What cannot be removed is in the report.
pub fn collect(place: &str, options: Options, terms: Option<&Terms>) -> Result<Report> {
    let place = Location::parse(place, "directory")?;
    let why = match place.look()? {
        Found::Directory => {
            let Places {
                storage,
                jobs,
                savepoints,
            } = places(&place)?;
            let mut report = collect_jobs(&storage, &jobs, options, terms)?;
            for savepoint in &savepoints {
                collect_savepoint(&storage, savepoint, options, &mut report)?;
            }
            return Ok(report);
        }
        Found::File => "is not a directory",
        Found::Nothing => "does not exist",
    };
    Err(Error::NotFound(format!("{place} {why}")))
}

/// Where garbage is looked for.
struct Places {
    storage: Arc<dyn Storage>,
    jobs: Vec<String>,
    /// Directories that are called as savepoints are.
    savepoints: Vec<String>,
}

/// The job directories and savepoints that `place` names: itself, or those in it.
fn places(place: &Location) -> Result<Places> {
    let (storage, name) = place.open_directory()?;
    let mut places = Places {
        storage,
        jobs: Vec::new(),
        savepoints: Vec::new(),
    };
    let storage = Arc::clone(&places.storage);
    if is_job(&*storage, &name)? {
        places.jobs.push(name);
        return Ok(places);
    }
    if names::is_savepoint(names::leaf(&name)) {
        places.savepoints.push(name);
        return Ok(places);
    }
    for child in storage.list(&name)?.directories {
        // One that cannot be listed is reported by the search for references.
        if is_job(&*storage, &child).unwrap_or(false) {
            places.jobs.push(child);
        } else if names::is_savepoint(names::leaf(&child)) {
            places.savepoints.push(child);
        }
    }
    Ok(places)
}

/// Collects what a crash left of a savepoint. One that has metadata is its user's, whatever state it is in.
fn collect_savepoint(
    storage: &Arc<dyn Storage>,
    directory: &str,
    options: Options,
    report: &mut Report,
) -> Result<()> {
    // One that cannot be read is nobody's garbage, and must not hide the others.
    let Some(entry) = catalog::entry(storage, directory) else {
        return Ok(());
    };
    if !matches!(entry.status, Status::Incomplete | Status::Void) {
        return Ok(());
    }
    let metadata = names::metadata(directory);
    let listing = storage.list(directory)?;
    let count = listing.objects.len();
    let ours: Vec<(Object, Kind)> = listing
        .objects
        .into_iter()
        .filter_map(|object| {
            let kind = match object.name == metadata {
                true => Kind::Void,
                false => {
                    kind_in(&object.name, directory, true).map(|_| Kind::HalfWrittenSavepoint)?
                }
            };
            Some((object, kind))
        })
        .collect();
    // While it is written nothing tells but the age of what was written last.
    if ours
        .iter()
        .any(|(object, _)| object.modified_at >= options.before)
    {
        report.recent += ours.len() as u64;
        return Ok(());
    }
    let is_ours_alone = ours.len() == count && listing.directories.is_empty();
    let garbage = Garbage {
        // An empty directory may have been made just now, and nobody knows when.
        directories: match is_ours_alone && !ours.is_empty() {
            true => vec![directory.to_owned()],
            false => Vec::new(),
        },
        objects: ours,
        ..Garbage::default()
    };
    report.removed.extend(match options.dry_run {
        true => garbage.told(storage),
        false => garbage.remove(storage, None),
    });
    Ok(())
}

/// Whether a directory has what only job directories have.
pub(crate) fn is_job(storage: &dyn Storage, directory: &str) -> Result<bool> {
    let listing = storage.list(directory)?;
    let inside = |name: &String| names::is_inside_job(names::leaf(name));
    let finished = names::finished(directory);
    let marked = listing.objects.iter().any(|object| object.name == finished);
    Ok(marked || listing.directories.iter().any(inside))
}

/// As [`collect`], in any storage.
pub(crate) fn collect_jobs(
    storage: &Arc<dyn Storage>,
    jobs: &[String],
    options: Options,
    terms: Option<&Terms>,
) -> Result<Report> {
    let mut report = Report::default();
    for job in jobs {
        let search = Search {
            storage,
            job,
            may_go: &|object| object.modified_at < options.before,
            protected: &BTreeSet::new(),
        };
        let mut garbage = search.garbage()?;
        // Only who has something to remove takes the directory, and looks again when it has it.
        let mut lease = None;
        if let Some(terms) = terms.filter(|_| !options.dry_run && !garbage.is_empty()) {
            match Lease::take(Arc::clone(storage), job, terms.clone()) {
                Ok(taken) => lease = Some(taken),
                Err(Error::Held(held)) => {
                    report.kept.push(Kept {
                        path: storage.location(job),
                        bytes: 0,
                        why: held.to_string(),
                    });
                    continue;
                }
                Err(error) => return Err(error),
            }
            garbage = search.garbage()?;
        }
        report.recent += garbage.recent;
        report.kept.extend(garbage.kept.iter().cloned());
        report.removed.extend(match options.dry_run {
            true => garbage.told(storage),
            false => garbage.remove(storage, lease.as_ref()),
        });
    }
    Ok(report)
}

/// What is looked for in a job directory.
pub(crate) struct Search<'a> {
    /// Where it is.
    pub(crate) storage: &'a Arc<dyn Storage>,
    /// The job directory.
    pub(crate) job: &'a str,
    /// What may be taken for garbage at all.
    pub(crate) may_go: &'a dyn Fn(&Object) -> bool,
    /// What is needed though no metadata says so.
    pub(crate) protected: &'a BTreeSet<String>,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    objects: Vec<(Object, Kind)>,
    /// Of checkpoints without metadata, then those of the job if nothing is left in it.
    directories: Vec<String>,
    kept: Vec<Kept>,
    recent: u64,
}

impl Search<'_> {
    /// Lists what exists, then who needs it.
    ///
    /// # Errors
    /// [`Error::Storage`] if a directory of the job cannot be listed.
    pub(crate) fn garbage(&self) -> Result<Garbage> {
        let storage = &**self.storage;
        let listing = storage.list(self.job)?;
        let lease = names::lease(self.job);
        let Contents {
            objects,
            half_written,
            only_known_directories,
        } = self.objects(&listing, &lease)?;
        let references = References::read(self.storage, names::parent(self.job))?;
        let mut garbage = Garbage::default();
        let mut directories = half_written.clone();
        let mut stays = false;
        let mut stay = |object: &Object, directories: &mut Vec<String>| {
            stays = true;
            directories.retain(|name| name != names::parent(&object.name));
        };
        for (object, kind) in objects {
            let kind = kind.filter(|_| {
                !references.contains(&object.name) && !self.protected.contains(&object.name)
            });
            let Some(kind) = kind else {
                stay(&object, &mut directories);
                continue;
            };
            if !(self.may_go)(&object) {
                stay(&object, &mut directories);
                garbage.recent += 1;
                continue;
            }
            let is_data = names::data_run(&object.name).is_some();
            let needed_by = references
                .may_be_needed_by(&object.name)
                .filter(|_| is_data && !names::is_left_over(&object.name));
            if let Some(unreadable) = needed_by {
                stay(&object, &mut directories);
                let (path, why) = (&unreadable.path, &unreadable.why);
                garbage.kept.push(Kept {
                    path: storage.location(&object.name),
                    bytes: object.size,
                    why: format!("{path} cannot be read and may need it: {why}"),
                });
                continue;
            }
            garbage.objects.push((object, kind));
        }
        let complete = listing
            .directories
            .iter()
            .filter(|name| names::checkpoint_id(names::leaf(name)).is_some())
            .any(|name| !half_written.contains(name));
        if !stays && !complete && only_known_directories {
            let inside = listing.directories.iter();
            directories.extend(
                inside
                    .filter(|name| {
                        names::checkpoint_id(names::leaf(name)).is_none() && **name != lease
                    })
                    .cloned(),
            );
            // Once a run has begun, its lease stays: see `forget`.
            if !listing.directories.contains(&lease) {
                directories.push(self.job.to_owned());
            }
        }
        garbage.directories = directories;
        Ok(garbage)
    }

    /// Every object of the job but the lease's, each with what it may be if nobody needs it.
    fn objects(&self, listing: &Listing, lease: &str) -> Result<Contents> {
        let storage = &**self.storage;
        let mut found = Contents {
            objects: Vec::new(),
            half_written: Vec::new(),
            only_known_directories: true,
        };
        // What does not count: the metadata goes first, as of any other.
        let without_effect: BTreeMap<String, Kind> = catalog::entries(self.storage, self.job)?
            .into_iter()
            .filter_map(|entry| {
                let kind = match entry.status {
                    Status::Fenced(_) => Kind::Fenced,
                    Status::Void => Kind::Void,
                    _ => return None,
                };
                Some((names::join(self.job, &entry.name), kind))
            })
            .collect();
        for directory in listing.directories.iter().filter(|name| **name != lease) {
            let objects = storage.list(directory)?;
            let leaf = names::leaf(directory);
            found.only_known_directories &=
                names::is_inside_job(leaf) && objects.directories.is_empty();
            let is_checkpoint = names::checkpoint_id(leaf).is_some();
            let metadata = names::metadata(directory);
            let without_effect = without_effect.get(directory).copied();
            let half_written = is_checkpoint
                && (without_effect.is_some()
                    || !objects.objects.iter().any(|object| object.name == metadata));
            if half_written && objects.directories.is_empty() {
                found.half_written.push(directory.clone());
            }
            for object in objects.objects {
                if let Some(kind) = without_effect.filter(|_| object.name == metadata) {
                    found.objects.insert(0, (object, Some(kind)));
                    continue;
                }
                let kind = kind_in(&object.name, directory, half_written);
                found.objects.push((object, kind));
            }
        }
        let mark = names::finished(self.job);
        for object in &listing.objects {
            let kind = match names::is_left_over(&object.name) {
                true => Some(Kind::LeftOver),
                false if object.name == mark => Some(Kind::Superseded),
                false => None,
            };
            found.objects.push((object.clone(), kind));
        }
        Ok(found)
    }
}

/// What is in the directory of a job.
struct Contents {
    /// Metadata that does not count comes first.
    objects: Vec<(Object, Option<Kind>)>,
    /// Directories of checkpoints that do not count or have no metadata.
    half_written: Vec<String>,
    /// Whether all directories are such as a job has.
    only_known_directories: bool,
}

/// What an object in a directory of a job may be, if nobody needs it.
fn kind_in(name: &str, directory: &str, half_written: bool) -> Option<Kind> {
    let data = names::data_run(name).is_some();
    let left_over = names::is_left_over(name);
    match (half_written, data, left_over) {
        // What the coordinator never deletes is never garbage.
        _ if names::is_taskowned(names::leaf(directory)) => None,
        (true, true, _) | (true, _, true) => Some(Kind::HalfWritten),
        (false, _, true) => Some(Kind::LeftOver),
        (false, true, false) => Some(Kind::Unreferenced),
        _ => None,
    }
}

impl Garbage {
    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.directories.is_empty()
    }

    /// Leaves the directories that every job directory has.
    pub(crate) fn keep_frame(&mut self) {
        self.directories
            .retain(|name| names::checkpoint_id(names::leaf(name)).is_some());
    }

    fn told(self, storage: &Arc<dyn Storage>) -> Vec<Removed> {
        let removed = |name: &str, bytes, what| Removed {
            path: storage.location(name),
            bytes,
            what,
            error: None,
        };
        let objects = self.objects.iter();
        objects
            .map(|(object, kind)| removed(&object.name, object.size, *kind))
            .chain(
                self.directories
                    .iter()
                    .map(|name| removed(name, 0, Kind::Empty)),
            )
            .collect()
    }

    /// Removes it: objects first, then directories, as far as they are empty by then.
    /// Nothing more if the lease is lost.
    pub(crate) fn remove(self, storage: &Arc<dyn Storage>, lease: Option<&Lease>) -> Vec<Removed> {
        let keep = || lease.map_or(Ok(()), Lease::keep);
        let outcomes: Vec<Result<()>> = self
            .objects
            .iter()
            .map(|(object, _)| keep().and_then(|()| storage.delete(&object.name)))
            .chain(
                self.directories
                    .iter()
                    .map(|name| keep().and_then(|()| storage.remove_directory(name))),
            )
            .collect();
        let mut removed = self.told(storage);
        for (removed, outcome) in removed.iter_mut().zip(outcomes) {
            removed.error = outcome.err().map(|error| catalog::describe(&error));
        }
        removed
    }
}

#[cfg(test)]
mod tests;
