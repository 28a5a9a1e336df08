//! From what the user types after `-s` to a checkpoint.
//!
//! The newest checkpoint counts, even if it is damaged: to step back in silence would repeat what the
//! world has seen. [`locate`] refuses then, [`locate_fallback`] steps back and says from what.

use std::collections::BTreeSet;

use crate::catalog::{self, CatalogEntry};
use crate::history::{Fallback, History, newest_good};
use crate::lease::Run;
use crate::location::{Found, Location};
use crate::names;
use crate::{Completed, Error, Result};

/// The word for the newest completed checkpoint of a job.
pub const LATEST: &str = "latest";

/// How many candidates a message names.
const CANDIDATES_NAMED: usize = 3;

/// A checkpoint that was found and whose metadata was read and verified.
#[derive(Debug)]
pub struct Located {
    /// The checkpoint.
    pub checkpoint: Completed,
}

/// Finds the checkpoint that `spec` names: a `_metadata` file, a `chk-N` or savepoint directory, a
/// job directory (newest completed), or `latest` (newest completed in `<dir>/<job_id>`).
///
/// # Errors
/// [`Error::Finished`] if `latest` is asked for and the job has finished;
/// [`Error::NotFound`] if there is none (the message names the nearest that do exist),
/// [`Error::Incompatible`] if the place or the format is none that can be read, [`Error::Corrupt`] if
/// the one that counts is damaged, [`Error::Storage`] if it could not be read.
pub fn locate(spec: &str, dir: Option<&str>, job_id: &str) -> Result<Located> {
    let candidates = Target::parse(spec, dir, job_id)?.candidates()?;
    // Newest first, so this one counts.
    let newest = candidates.found.into_iter().next();
    let newest = newest.ok_or(candidates.otherwise)?;
    Ok(Located {
        checkpoint: newest.usable()?,
    })
}

/// As [`locate`], but steps back to the newest checkpoint that is good to its last byte, in the same
/// job directory. All state is read to know.
///
/// # Errors
/// As [`locate`]; if nothing is good, the error is that of the newest.
pub fn locate_fallback(spec: &str, dir: Option<&str>, job_id: &str) -> Result<Fallback> {
    let mut candidates = Target::parse(spec, dir, job_id)?.candidates()?;
    candidates.found.append(&mut candidates.older);
    newest_good(candidates.found)?.ok_or(candidates.otherwise)
}

/// What `spec` asks for.
#[derive(Debug)]
enum Target {
    /// The checkpoint in this directory, or all in this directory.
    Directory(Location),
    /// The newest of the job with this id beneath this directory.
    Latest(Location, String),
}

/// What may be meant, newest first.
struct Candidates {
    found: Vec<CatalogEntry>,
    /// What is older than these, if one is to step back.
    older: Vec<CatalogEntry>,
    /// The error if there is nothing.
    otherwise: Error,
}

impl Target {
    fn parse(spec: &str, dir: Option<&str>, job_id: &str) -> Result<Self> {
        if spec == LATEST {
            let dir = dir.ok_or_else(|| {
                Error::Incompatible(
                    "`latest` needs `checkpoint.dir`: it is looked for there".to_owned(),
                )
            })?;
            let place = Location::parse(dir, "checkpoint directory")?;
            return Ok(Self::Latest(place, job_id.to_owned()));
        }
        let place = Location::parse(spec, "checkpoint path")?;
        match place.look()? {
            Found::Directory => Ok(Self::Directory(place)),
            Found::Nothing => Err(Error::NotFound(format!(
                "{place} does not exist{}",
                nearest(&place)
            ))),
            Found::File => match place.directory_of_metadata() {
                Ok(directory) => Ok(Self::Directory(directory)),
                Err(why) => Err(Error::NotFound(why + &nearest(&place))),
            },
        }
    }

    fn candidates(&self) -> Result<Candidates> {
        match self {
            Self::Directory(place) => match place.join(names::METADATA).look()? {
                Found::Nothing => in_directory(place),
                Found::File | Found::Directory => one(place),
            },
            Self::Latest(place, job_id) => latest(place, job_id),
        }
    }
}

/// A checkpoint's own directory.
fn one(place: &Location) -> Result<Candidates> {
    let found = catalog::list_directory(place)?;
    let own = found.first();
    let own_name = own.map(|entry| entry.name.clone());
    // What to step back to: what its job completed before it.
    let siblings = match (place.real(), own) {
        (Some(real), Some(own)) if catalog::is_checkpoint(own) => real
            .parent()
            .map(|parent| catalog::list_directory(&parent))
            .transpose()?
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    let before = own.map(CatalogEntry::id);
    let mut older: Vec<CatalogEntry> = siblings
        .into_iter()
        .filter(|entry| Some(&entry.name) != own_name.as_ref() && entry.was_completed())
        .filter(|entry| Some(&entry.job) == own.map(|own| &own.job))
        .filter(|entry| before.is_some_and(|id| entry.id() < id))
        .collect();
    older.sort_by_key(|entry| std::cmp::Reverse(entry.id()));
    Ok(Candidates {
        found,
        older,
        otherwise: nothing_in(place),
    })
}

/// A job's directory.
fn in_directory(place: &Location) -> Result<Candidates> {
    let (storage, name) = place.open_directory()?;
    Ok(Candidates {
        found: History::read(&storage, &name)?.into_entries(),
        older: Vec::new(),
        otherwise: nothing_in(place),
    })
}

/// The run of the job with this id.
fn latest(place: &Location, job_id: &str) -> Result<Candidates> {
    let otherwise = |others: String| {
        Error::NotFound(format!(
            "no completed checkpoint of job `{job_id}` in {place}{others}"
        ))
    };
    let job = place.join(job_id);
    if job.look()? == Found::Nothing {
        return Ok(Candidates {
            found: Vec::new(),
            older: Vec::new(),
            otherwise: otherwise(others_in(place, job_id)),
        });
    }
    let (storage, name) = job.open_directory()?;
    let history = History::read(&storage, &name)?;
    if history.run.as_ref().is_some_and(Run::has_finished) {
        return Err(Error::Finished {
            job_id: job_id.to_owned(),
        });
    }
    Ok(Candidates {
        found: history.into_entries(),
        older: Vec::new(),
        otherwise: otherwise(others_in(place, job_id)),
    })
}

/// The job directories with checkpoints beside a job's own, as the tail of a message.
pub(crate) fn others_in(place: &Location, job_id: &str) -> String {
    let entries = catalog::list_directory(place).unwrap_or_default();
    let others: BTreeSet<&str> = entries
        .iter()
        .filter(|entry| entry.was_completed() && entry.job != job_id)
        .map(|entry| entry.job.as_str())
        .collect();
    if others.is_empty() {
        return String::new();
    }
    let named: Vec<String> = others
        .iter()
        .take(CANDIDATES_NAMED)
        .map(|job| format!("`{job}`"))
        .collect();
    let more = match others.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(" (there are some in {}{more})", named.join(", "))
}

fn nothing_in(place: &Location) -> Error {
    Error::NotFound(format!(
        "no completed checkpoint in {place}{}",
        nearest(place)
    ))
}

/// The newest few checkpoints in the vicinity of a place, as the tail of a message.
fn nearest(place: &Location) -> String {
    // The directory itself, its parent, its grandparent: further away nothing is near, and the root
    // of a file system or bucket is large.
    let above = std::iter::successors(Some(place.clone()), Location::parent);
    let vicinity = above
        .take(3)
        .filter(|above| above.parent().is_some())
        .filter(|above| above.look().is_ok_and(|found| found == Found::Directory));
    for above in vicinity {
        let mut entries = catalog::list_directory(&above).unwrap_or_default();
        entries.retain(|entry| entry.completed().is_some());
        entries.sort_by_key(|entry| std::cmp::Reverse((entry.completed_at(), entry.id())));
        if !entries.is_empty() {
            let paths: Vec<&str> = entries
                .iter()
                .take(CANDIDATES_NAMED)
                .map(|entry| entry.path.as_str())
                .collect();
            return format!("; the nearest that do exist: {}", paths.join(", "));
        }
    }
    String::new()
}

#[cfg(test)]
mod tests;
