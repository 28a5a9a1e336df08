//! The names of all stored objects, built and read here and nowhere else.
//!
//! ```text
//! <job-id>/chk-<N>/_metadata               exists: checkpoint N is complete
//! <job-id>/chk-<N>/r<R>-c<N>-<I>.state     data that only checkpoint N references
//! <job-id>/shared/r<R>-c<N>-<I>.state      data that several checkpoints may reference
//! <job-id>/taskowned/                      what is never deleted
//! <job-id>/_finished                       left by a version before runs: garbage
//! _probe-<token>                           the storage is being tried out, gone at once
//! <job-id>/_lease/<S>                      who owns the job directory: the newest entry says
//! <job-id>/_lease/<token>.lock             locked for as long as its holder's process lives
//! savepoint-<job-id>-<token>/_metadata     in a directory of the user's: exists, so it is complete
//! savepoint-<job-id>-<token>/r<R>-c<N>-<I>.state  its data
//! <any of these>.part-<token>-<n>          a stream that was never finished (an orphan)
//! <any of these>#<n>                       a file that was never finished (an orphan)
//! ```
//! `R` numbers the runs that wrote into the job directory, `I` the files of a run, so a name is
//! never used twice.

use std::hash::{BuildHasher, RandomState};

use crate::{Error, Result};

/// Name of the file that makes a directory a checkpoint.
pub(crate) const METADATA: &str = "_metadata";

/// Name of the mark by which a version before runs said that a job has finished.
pub(crate) const FINISHED: &str = "_finished";

/// Directory of the lease.
const LEASE: &str = "_lease";

/// Ends the names of the files that holders of a lease keep locked.
const LOCK_SUFFIX: &str = ".lock";

const CHECKPOINT_PREFIX: &str = "chk-";
const SAVEPOINT_PREFIX: &str = "savepoint-";
const SHARED: &str = "shared";
const TASKOWNED: &str = "taskowned";
const DATA_SUFFIX: &str = ".state";
const STAGED_INFIX: &str = ".part-";

/// The highest number that a checkpoint, a run or a file can have: there is always a next one.
pub(crate) const NUMBER_MAX: u64 = i64::MAX as u64;

/// Longest job id, in bytes: file systems take 255 for a component.
const JOB_ID_BYTES_MAX: usize = 200;

/// The names in one job's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobDirectory(String);

impl JobDirectory {
    /// The directory of the job with this id.
    pub(crate) fn new(job_id: &str) -> Result<Self> {
        let reason = if job_id.is_empty() {
            "is empty"
        } else if job_id.len() > JOB_ID_BYTES_MAX {
            "is longer than 200 bytes"
        } else if job_id.starts_with('.') {
            "begins with a dot"
        } else if let Some(_bad) = job_id
            .chars()
            .find(|&c| c.is_control() || "/\\#?".contains(c))
        {
            "has a character that cannot be part of a directory's name"
        } else if is_inside_job(job_id) {
            "is the name of a directory inside a job's directory"
        } else {
            return Ok(Self(job_id.to_owned()));
        };
        Err(Error::Incompatible(format!("job id `{job_id}` {reason}")))
    }

    /// The directory of a job whose checkpoints never leave this process.
    pub(crate) fn in_memory() -> Self {
        Self("job".to_owned())
    }

    /// The directory itself.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// What several checkpoints may reference.
    pub(crate) fn shared(&self) -> String {
        shared(&self.0)
    }

    /// What is never deleted.
    pub(crate) fn taskowned(&self) -> String {
        taskowned(&self.0)
    }

    /// What only checkpoint `id` references, and its metadata.
    pub(crate) fn checkpoint(&self, id: u64) -> String {
        join(&self.0, &format!("{CHECKPOINT_PREFIX}{id}"))
    }
}

/// What several checkpoints of a job may reference.
pub(crate) fn shared(job: &str) -> String {
    join(job, SHARED)
}

/// What is never deleted in a job's directory.
pub(crate) fn taskowned(job: &str) -> String {
    join(job, TASKOWNED)
}

/// Where the lease of a job's directory is.
pub(crate) fn lease(job: &str) -> String {
    join(job, LEASE)
}

/// An entry of the lease of a job's directory.
pub(crate) fn lease_entry(job: &str, sequence: u64) -> String {
    join(&lease(job), &sequence.to_string())
}

/// The number of an entry of a lease, by its name.
pub(crate) fn lease_sequence(name: &str) -> Option<u64> {
    canonical(leaf(name))
}

/// What the holder of a lease keeps locked.
pub(crate) fn lease_lock(job: &str, token: &str) -> String {
    join(&lease(job), &format!("{token}{LOCK_SUFFIX}"))
}

/// Whether a file in a lease's directory is one that a lease makes besides its entries: a lock, or an entry
/// that was never finished.
pub(crate) fn is_of_lease(name: &str) -> bool {
    let leaf = leaf(name);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let lock = leaf.strip_suffix(LOCK_SUFFIX);
    let is_lock = lock.is_some_and(|token| {
        token.len() == 16 && token.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    let unfinished = leaf.split_once('#');
    is_lock || unfinished.is_some_and(|(entry, number)| digits(entry) && digits(number))
}

/// Whether a file in a lease's directory is one that a holder keeps locked.
pub(crate) fn is_lease_lock(name: &str) -> bool {
    name.ends_with(LOCK_SUFFIX)
}

/// The metadata in a checkpoint's or savepoint's directory.
pub(crate) fn metadata(directory: &str) -> String {
    join(directory, METADATA)
}

/// The mark by which a version before runs said that the job with this directory has finished.
pub(crate) fn finished(job: &str) -> String {
    join(job, FINISHED)
}

/// The `index`-th data file that run `run` writes, for checkpoint `id`.
pub(crate) fn data(directory: &str, run: u64, id: u64, index: u64) -> String {
    join(directory, &format!("r{run}-c{id}-{index}{DATA_SUFFIX}"))
}

/// The run that wrote a data file (also one that was never finished), by its name.
pub(crate) fn data_run(name: &str) -> Option<u64> {
    let rest = leaf(name).strip_prefix('r')?;
    if !rest.contains(DATA_SUFFIX) {
        return None;
    }
    let run = rest.split_once('-')?.0.parse().ok()?;
    (run <= NUMBER_MAX).then_some(run)
}

/// The checkpoint that a data file was written for, by its name (also of one that was never finished).
pub(crate) fn data_checkpoint(name: &str) -> Option<u64> {
    data_run(name)?;
    let (_, rest) = leaf(name).split_once("-c")?;
    rest.split_once('-')?.0.parse().ok()
}

/// Whether a name is one that writers use before an object is finished.
pub(crate) fn is_left_over(name: &str) -> bool {
    let leaf = leaf(name);
    let numbered = leaf.rsplit_once('#').is_some_and(|(_, number)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    let ours = |start: &str| start == METADATA || start == FINISHED || data_run(start).is_some();
    let start = leaf.split(['#']).next().unwrap_or(leaf);
    ours(start) && (numbered || leaf.contains(STAGED_INFIX))
}

/// Where a stream is written before it gets its name.
pub(crate) fn staged(name: &str, token: u64, counter: u64) -> String {
    format!("{name}{STAGED_INFIX}{token:016x}-{counter}")
}

/// What is put to see what a storage does.
pub(crate) fn probe(token: &str) -> String {
    format!("_probe-{token}")
}

/// The number in `chk-N`.
pub(crate) fn checkpoint_id(leaf: &str) -> Option<u64> {
    canonical(leaf.strip_prefix(CHECKPOINT_PREFIX)?)
}

/// A number without sign and leading zeros, of at most [`NUMBER_MAX`].
fn canonical(digits: &str) -> Option<u64> {
    let number: u64 = digits.parse().ok()?;
    (number <= NUMBER_MAX && number.to_string() == digits).then_some(number)
}

/// Whether a directory is one that every job directory has, used or not.
pub(crate) fn is_frame(leaf: &str) -> bool {
    leaf == SHARED || leaf == TASKOWNED || leaf == LEASE
}

/// Whether a directory is the one in which nothing is ever deleted.
pub(crate) fn is_taskowned(leaf: &str) -> bool {
    leaf == TASKOWNED
}

/// The directory of a savepoint of the job with this id.
pub(crate) fn savepoint(job_id: &str, token: &str) -> String {
    format!("{SAVEPOINT_PREFIX}{job_id}-{token}")
}

/// A token that makes a name unlike all others.
pub(crate) fn token() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// Whether a directory is called as savepoints are.
pub(crate) fn is_savepoint(leaf: &str) -> bool {
    leaf.starts_with(SAVEPOINT_PREFIX)
}

/// Whether a directory is one of those that only job directories have.
pub(crate) fn is_inside_job(leaf: &str) -> bool {
    [SHARED, TASKOWNED, LEASE].contains(&leaf) || checkpoint_id(leaf).is_some()
}

/// The last component of a name.
pub(crate) fn leaf(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, leaf)| leaf)
}

/// The directory that a name is in (`""` is the top).
pub(crate) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A name in a directory.
pub(crate) fn join(directory: &str, leaf: &str) -> String {
    match directory {
        "" => leaf.to_owned(),
        directory => format!("{directory}/{leaf}"),
    }
}

/// The reference by which metadata in `directory` names `object`.
pub(crate) fn reference(directory: &str, object: &str) -> String {
    let from: Vec<&str> = directory
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    let to: Vec<&str> = object.split('/').collect();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let mut parts = vec![".."; from.len() - common];
    parts.extend(&to[common..]);
    parts.join("/")
}

/// The checkpoint that a finished data file was written for: its name is `r<R>-c<N>-<I>.state` and
/// nothing else.
fn finished_data(leaf: &str) -> Option<u64> {
    let numbers = leaf.strip_prefix('r')?.strip_suffix(DATA_SUFFIX)?;
    let (run, rest) = numbers.split_once("-c")?;
    let (checkpoint, index) = rest.split_once('-')?;
    canonical(run)?;
    canonical(index)?;
    canonical(checkpoint)
}

/// Where a reference of metadata leads: one of the three forms that [`reference`] makes, and no other.
/// It comes from a file, and what it names is read and later deleted; so it can only ever name a data
/// file beside the metadata, or one in the `shared/` of its job or of another beneath the same
/// directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reference<'a> {
    /// `x`: beside the metadata.
    Own(&'a str),
    /// `../shared/x`: of the same job.
    Shared(&'a str),
    /// `../../<job>/shared/x`: of another job.
    Other {
        /// Its directory.
        job: &'a str,
        /// The file.
        leaf: &'a str,
    },
}

impl<'a> Reference<'a> {
    /// Reads a reference. What is wrong with it, otherwise.
    pub(crate) fn parse(reference: &'a str) -> Result<Self, &'static str> {
        let parts: Vec<&str> = reference.split('/').collect();
        let found = match parts[..] {
            [leaf] => Self::Own(leaf),
            ["..", SHARED, leaf] => Self::Shared(leaf),
            ["..", "..", job, SHARED, leaf] if JobDirectory::new(job).is_ok() => {
                Self::Other { job, leaf }
            }
            _ => return Err("a checkpoint's data cannot be there"),
        };
        match found.checkpoint() {
            Some(_) => Ok(found),
            None => Err("that is not the name of a data file"),
        }
    }

    fn leaf(&self) -> &'a str {
        match self {
            Self::Own(leaf) | Self::Shared(leaf) | Self::Other { leaf, .. } => leaf,
        }
    }

    /// The checkpoint that the file was written for.
    pub(crate) fn checkpoint(&self) -> Option<u64> {
        finished_data(self.leaf())
    }
}

/// The object that metadata in `directory` means by `reference`. What is wrong with it, otherwise:
/// it comes from a file.
pub(crate) fn resolve(directory: &str, reference: &str) -> Result<String, &'static str> {
    let up = |directory: &str| match directory {
        "" => Err("that leads out of the storage"),
        directory => Ok(parent(directory).to_owned()),
    };
    Ok(match Reference::parse(reference)? {
        Reference::Own(leaf) => join(directory, leaf),
        Reference::Shared(leaf) => join(&shared(&up(directory)?), leaf),
        Reference::Other { job, leaf } => {
            let jobs = up(&up(directory)?)?;
            join(&shared(&join(&jobs, job)), leaf)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_directory_has_the_names_that_flink_gives_them() {
        let job = JobDirectory::new("wordcount-0123abcd").unwrap();
        assert_eq!(job.shared(), "wordcount-0123abcd/shared");
        assert_eq!(job.taskowned(), "wordcount-0123abcd/taskowned");
        assert_eq!(
            metadata(&job.checkpoint(7)),
            "wordcount-0123abcd/chk-7/_metadata"
        );
    }

    #[test]
    fn a_job_id_cannot_lead_elsewhere() {
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "a\nb",
            "a#1",
            "shared",
            "_lease",
            "chk-1",
            &"x".repeat(201),
        ] {
            assert!(JobDirectory::new(id).is_err(), "{id}");
        }
        for id in ["a", "wörter 2", "a.b_c-d~e", "chk-", "chk-x"] {
            assert!(JobDirectory::new(id).is_ok(), "{id}");
        }
    }

    #[test]
    fn only_canonical_numbers_are_checkpoint_ids() {
        assert_eq!(checkpoint_id("chk-0"), Some(0));
        assert_eq!(checkpoint_id("chk-9223372036854775807"), Some(NUMBER_MAX));
        for leaf in [
            "chk-9223372036854775808",
            "chk-18446744073709551615",
            "chk-",
            "chk-01",
            "chk-+1",
            "chk--1",
            "chk-1 ",
            "chk-18446744073709551616",
            "x",
        ] {
            assert_eq!(checkpoint_id(leaf), None, "{leaf}");
        }
    }

    #[test]
    fn data_files_tell_their_run() {
        let name = data("job/shared", 3, 12, 5);
        assert_eq!(name, "job/shared/r3-c12-5.state");
        assert_eq!(data_run(&name), Some(3));
        assert_eq!(data_run(&staged(&name, 9, 1)), Some(3));
        assert_eq!(data_run(&format!("{name}#1")), Some(3));
        for name in [
            "readme",
            "r-c1-1.state",
            "rx-c1-1.state",
            "r3.state",
            "r3-c1-1.txt",
        ] {
            assert_eq!(data_run(name), None, "{name}");
        }
    }

    #[test]
    fn data_files_tell_their_checkpoint_and_whether_they_are_finished() {
        let name = data("job/shared", 3, 12, 5);
        assert_eq!(data_checkpoint(&name), Some(12));
        assert_eq!(data_checkpoint(&staged(&name, 9, 1)), Some(12));
        assert!(!is_left_over(&name) && !is_left_over("job/chk-1/_metadata"));
        for name in [
            staged(&name, 9, 1),
            format!("{}#7", staged(&name, 9, 1)),
            format!("{name}#1"),
            "job/chk-1/_metadata#12".to_owned(),
            "job/_finished#1".to_owned(),
        ] {
            assert!(is_left_over(&name), "{name}");
        }
        for name in [
            "job/shared/notes#1",
            "job/shared/a.part-b",
            "job/_metadata#x",
        ] {
            assert!(!is_left_over(name), "{name}");
            assert_eq!(data_checkpoint(name), None, "{name}");
        }
    }

    #[test]
    fn references_lead_back_to_their_object() {
        for (directory, object, expected) in [
            (
                "job/chk-5",
                "job/shared/r1-c5-0.state",
                "../shared/r1-c5-0.state",
            ),
            ("job/chk-5", "job/chk-5/r1-c5-0.state", "r1-c5-0.state"),
            (
                "job/chk-5",
                "old/shared/r9-c4-17.state",
                "../../old/shared/r9-c4-17.state",
            ),
            (
                "all/job/keep-me",
                "all/old/shared/r9-c4-17.state",
                "../../old/shared/r9-c4-17.state",
            ),
            ("savepoint-a", "savepoint-a/r1-c5-0.state", "r1-c5-0.state"),
            ("", "r1-c5-0.state", "r1-c5-0.state"),
        ] {
            let found = reference(directory, object);
            assert_eq!(found, expected);
            assert_eq!(resolve(directory, &found).as_deref(), Ok(object));
            assert_eq!(
                Reference::parse(&found).unwrap().checkpoint(),
                data_checkpoint(object)
            );
        }
    }

    #[test]
    fn c145_a_reference_names_a_data_file_in_one_of_three_places_or_is_refused() {
        for reference in [
            "",
            ".",
            "..",
            "/",
            "_metadata",
            "_finished",
            "notes.txt",
            "/etc/passwd",
            "/r1-c1-0.state",
            "./r1-c1-0.state",
            "r1-c1-0.state/",
            "x/r1-c1-0.state",
            "link/id_rsa",
            "../r1-c1-0.state",
            "../chk-4/r1-c1-0.state",
            "../chk-4/_metadata",
            "../_lease/1",
            "../shared/_metadata",
            "../shared/notes.txt",
            "../shared/../r1-c1-0.state",
            "../shared//r1-c1-0.state",
            "../shared/x/r1-c1-0.state",
            "../taskowned/r1-c1-0.state",
            "../../r1-c1-0.state",
            "../../thesis/final.odt",
            "../../other/chk-3/_metadata",
            "../../other/chk-3/r1-c1-0.state",
            "../../other/_finished",
            "../../../shared/r1-c1-0.state",
            "../../../other/shared/r1-c1-0.state",
            "../../../../etc/shared/r1-c1-0.state",
            "../.././shared/r1-c1-0.state",
            "../../../shared/r1-c1-0.state",
            "../../shared/shared/r1-c1-0.state",
            "../../chk-1/shared/r1-c1-0.state",
            "../../.ssh/shared/r1-c1-0.state",
            "../../a\\b/shared/r1-c1-0.state",
            "..\\shared\\r1-c1-0.state",
            "../../a\0/shared/r1-c1-0.state",
            "r1-c1-0.state\0",
            "r1-c1-0.state#1",
            "r1-c1-0.state.part-0000000000000001-1",
            "r01-c1-0.state",
            "r1-c01-0.state",
            "r1-c1-00.state",
            "r1-c1-0-0.state",
            "r+1-c1-0.state",
            "r1-c18446744073709551616-0.state",
            "R1-c1-0.state",
            "a#1",
        ] {
            assert!(Reference::parse(reference).is_err(), "{reference}");
            assert!(resolve("root/job/chk-5", reference).is_err(), "{reference}");
        }
        // Good where there is a directory above, refused where there is none.
        assert!(resolve("", "../shared/r1-c1-0.state").is_err());
        assert!(resolve("chk-5", "../../old/shared/r1-c1-0.state").is_err());
        assert_eq!(
            resolve("chk-5", "../shared/r1-c1-0.state").as_deref(),
            Ok("shared/r1-c1-0.state")
        );
    }
}
