//! From what the user types behind `-s` to a checkpoint.
//!
//! The newest checkpoint counts, even if it is damaged: to step back silently would replay what the
//! world has seen. [`locate`] refuses then, [`locate_fallback`] steps back and says from what.

use crate::catalog::{self, Entry, Status};
use crate::finished;
use crate::names;
use crate::place::{Found, Place};
use crate::verify::verify;
use crate::{Completed, Error, Result};

/// The word for the newest completed checkpoint of a job.
const LATEST: &str = "latest";

/// How many candidates a message names.
const CANDIDATES_NAMED: usize = 3;

/// A checkpoint that was found and whose metadata was read and verified.
#[derive(Debug)]
pub struct Located {
    /// The checkpoint.
    pub checkpoint: Completed,
}

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

/// Finds the checkpoint that `spec` names: a `_metadata` file, a `chk-N` or savepoint directory, a
/// job directory (newest completed), or `latest` (newest completed of `job_name` under `dir`).
///
/// # Errors
/// [`Error::Finished`] if `latest` is asked for and the job has finished since its newest checkpoint;
/// [`Error::NotFound`] if there is none (the message names the nearest that do exist),
/// [`Error::Incompatible`] if the place or the format is none that can be read, [`Error::Corrupt`] if
/// the one that counts is damaged, [`Error::Storage`] if it could not be read.
pub fn locate(spec: &str, dir: Option<&str>, job_name: &str) -> Result<Located> {
    let candidates = Target::parse(spec, dir)?.candidates(job_name)?;
    // Newest first, so this one counts.
    let newest = candidates.found.into_iter().next();
    let newest = newest.ok_or(candidates.otherwise)?;
    Ok(Located {
        checkpoint: usable(newest)?,
    })
}

/// As [`locate`], but steps back to the newest checkpoint that is good to its last byte: in the same
/// job directory, or, for `latest`, in all of the job's. All state is read to know.
///
/// # Errors
/// As [`locate`]; if nothing is good, the error is that of the newest.
pub fn locate_fallback(spec: &str, dir: Option<&str>, job_name: &str) -> Result<Fallback> {
    let mut candidates = Target::parse(spec, dir)?.candidates(job_name)?;
    candidates.found.append(&mut candidates.older);
    let mut rejected = Vec::new();
    let mut first_error = None;
    for entry in candidates.found {
        let path = entry.path.clone();
        let error = match usable(entry) {
            Ok(checkpoint) => match verify(&checkpoint).problems.into_iter().next() {
                None => {
                    return Ok(Fallback {
                        checkpoint,
                        rejected,
                    });
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
    Err(first_error.unwrap_or(candidates.otherwise))
}

/// What `spec` asks for.
#[derive(Debug)]
enum Target {
    /// The checkpoint in this directory, or all in this directory.
    Directory(Place),
    /// The newest of the job beneath this directory.
    Latest(Place),
}

/// What may be meant, newest first.
struct Candidates {
    found: Vec<Entry>,
    /// What is behind these, if one is to step back.
    older: Vec<Entry>,
    /// The error if there is nothing.
    otherwise: Error,
}

impl Target {
    fn parse(spec: &str, dir: Option<&str>) -> Result<Self> {
        if spec == LATEST {
            let dir = dir.ok_or_else(|| {
                Error::Incompatible(
                    "`latest` needs `checkpoint.dir`, for it is looked for there".to_owned(),
                )
            })?;
            return Ok(Self::Latest(Place::parse(dir, "checkpoint directory")?));
        }
        let place = Place::parse(spec, "checkpoint path")?;
        match place.look()? {
            Found::Directory => Ok(Self::Directory(place)),
            Found::Nothing => Err(Error::NotFound(format!(
                "{place} does not exist{}",
                nearest(&place)
            ))),
            Found::File if place.leaf() == Some(names::METADATA) => {
                Ok(Self::Directory(place.parent().unwrap_or(place)))
            }
            Found::File => Err(Error::NotFound(format!(
                "{place} is not checkpoint metadata (a file called {} is expected, or a directory){}",
                names::METADATA,
                nearest(&place)
            ))),
        }
    }

    fn candidates(&self, job_name: &str) -> Result<Candidates> {
        match self {
            Self::Directory(place) => match place.join(names::METADATA).look()? {
                Found::Nothing => in_directory(place),
                Found::File | Found::Directory => one(place),
            },
            Self::Latest(place) => latest(place, job_name),
        }
    }
}

/// A checkpoint's own directory.
fn one(place: &Place) -> Result<Candidates> {
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
    let before = own.map(|own| (own.id(), own.completed_at()));
    let mut older: Vec<Entry> = siblings
        .into_iter()
        .filter(|entry| Some(&entry.name) != own_name.as_ref() && catalog::is_checkpoint(entry))
        .filter(|entry| Some(&entry.job) == own.map(|own| &own.job))
        .filter(|entry| before.is_some_and(|(id, _)| entry.id() < id))
        .collect();
    newest_first(&mut older);
    Ok(Candidates {
        found,
        older,
        otherwise: nothing_in(place),
    })
}

/// A job's directory.
fn in_directory(place: &Place) -> Result<Candidates> {
    let entries = catalog::list_directory(place)?;
    let real = place.real().unwrap_or_else(|| place.clone());
    // Not those of its children: a directory of jobs has no newest, `latest` is for that.
    let mut found: Vec<Entry> = entries
        .into_iter()
        .filter(|entry| entry.path == real.join(&entry.name).to_string())
        .filter(catalog::is_checkpoint)
        .collect();
    newest_first(&mut found);
    Ok(Candidates {
        found,
        older: Vec::new(),
        otherwise: nothing_in(place),
    })
}

/// Everything of one job, whatever its ids were.
fn latest(place: &Place, job_name: &str) -> Result<Candidates> {
    let exists = place.look()? != Found::Nothing;
    let entries = match exists {
        true => catalog::list_directory(place)?,
        false => Vec::new(),
    };
    let checkpoints = || entries.iter().filter(|entry| catalog::is_checkpoint(entry));
    let job_of = |entry: &Entry| -> Option<String> {
        entry
            .completed()
            .map(|completed| completed.metadata().job_name.clone())
    };
    // A damaged one does not say whose it is; its neighbours do, or else the directory's name.
    let owner = |entry: &Entry| -> Option<String> {
        let mut neighbours = checkpoints().filter(|other| other.job == entry.job);
        job_of(entry).or_else(|| neighbours.find_map(job_of))
    };
    let belongs = |entry: &Entry| match owner(entry) {
        Some(name) => name == job_name,
        None => {
            let rest = entry.job.strip_prefix(job_name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        }
    };
    let mut found: Vec<Entry> = checkpoints()
        .filter(|entry| belongs(entry))
        .cloned()
        .collect();
    newest_first(&mut found);
    if exists {
        let (storage, name) = place.open_directory()?;
        let finished_at = finished::newest(&storage, &name, job_name)?;
        let newest = found.first().map(Entry::completed_at);
        if finished_at.is_some_and(|at| newest.is_none_or(|newest| newest <= at)) {
            return Err(Error::Finished {
                job_name: job_name.to_owned(),
            });
        }
    }
    // Where nothing is this job's for sure, what is damaged may be: to find nothing here would let a job
    // that resumes by itself begin anew, and repeat its output.
    let mut damaged = checkpoints()
        .filter(|entry| !matches!(entry.status, Status::Incomplete | Status::Fenced(_)));
    let unknown = damaged.find(|entry| owner(entry).is_none());
    if found.is_empty()
        && let Some(damaged) = unknown
    {
        return Err(usable(damaged.clone())
            .err()
            .unwrap_or_else(|| nothing_in(place)));
    }
    let others: std::collections::BTreeSet<String> = checkpoints().filter_map(job_of).collect();
    let mut message = format!("there is no completed checkpoint of job `{job_name}` in {place}");
    if !others.is_empty() {
        let others: Vec<String> = others.iter().map(|job| format!("`{job}`")).collect();
        message = format!("{message} (there are some of {})", others.join(", "));
    }
    Ok(Candidates {
        found,
        older: Vec::new(),
        otherwise: Error::NotFound(message),
    })
}

/// Sorts by completion, then by number, newest first, and leaves out what never completed or is not
/// to be believed.
///
/// Hosts whose clocks differ may have written one directory after the other. A damaged checkpoint does
/// not say when it completed, and a copied file is younger than it looks. So among those of one
/// directory the number decides: none is taken for older than a good one with a smaller number.
fn newest_first(entries: &mut Vec<Entry>) {
    entries.retain(|entry| !matches!(entry.status, Status::Incomplete | Status::Fenced(_)));
    let time = |entry: &Entry| -> i64 {
        let readable = |other: &&Entry| other.completed().is_some() && other.job == entry.job;
        let neighbours = || entries.iter().filter(readable);
        let before = neighbours().filter(|other| other.id() < entry.id());
        if entry.completed().is_some() {
            let before = before.map(Entry::completed_at).max();
            return entry.completed_at().max(before.unwrap_or(i64::MIN));
        }
        let behind = neighbours().filter(|other| other.id() > entry.id());
        match (
            before.map(Entry::completed_at).max(),
            behind.map(Entry::completed_at).min(),
        ) {
            // Bounded by what is known of its neighbours.
            (Some(before), Some(behind)) => entry.modified_at.min(behind).max(before),
            (Some(before), None) => entry.modified_at.max(before),
            (None, Some(behind)) => entry.modified_at.min(behind),
            (None, None) => entry.modified_at,
        }
    };
    let mut keyed: Vec<(i64, Option<u64>, Entry)> = entries
        .iter()
        .map(|entry| (time(entry), entry.id(), entry.clone()))
        .collect();
    keyed.sort_by(|a, b| (b.0, b.1, &b.2.path).cmp(&(a.0, a.1, &a.2.path)));
    *entries = keyed.into_iter().map(|(_, _, entry)| entry).collect();
}

/// The checkpoint of an entry, or why there is none.
fn usable(entry: Entry) -> Result<Completed> {
    let object = format!("{}/{}", entry.path, names::METADATA);
    match entry.status {
        Status::Complete(completed) => Ok(completed),
        Status::Corrupt(what) => Err(Error::Corrupt { object, what }),
        Status::FutureFormat(why) => Err(Error::Incompatible(why)),
        Status::Fenced(why) => Err(Error::Incompatible(format!(
            "{object} is not a checkpoint of its job: {why}"
        ))),
        Status::Incomplete => Err(Error::NotFound(format!("{object} does not exist"))),
        Status::Unreadable(why) => Err(Error::Storage {
            action: "reading",
            object,
            source: why.into(),
        }),
    }
}

fn nothing_in(place: &Place) -> Error {
    Error::NotFound(format!(
        "there is no completed checkpoint in {place}{}",
        nearest(place)
    ))
}

/// The newest few checkpoints in the vicinity of a place, as the tail of a message.
fn nearest(place: &Place) -> String {
    // The directory itself, its parent, its grandparent: further away nothing is near, and the root
    // of a file system or bucket is large.
    let above = std::iter::successors(Some(place.clone()), Place::parent);
    let vicinity = above
        .take(3)
        .filter(|above| above.parent().is_some())
        .filter(|above| above.look().is_ok_and(|found| found == Found::Directory));
    for above in vicinity {
        let mut entries = catalog::list_directory(&above).unwrap_or_default();
        entries.retain(|entry| entry.completed().is_some());
        newest_first(&mut entries);
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
