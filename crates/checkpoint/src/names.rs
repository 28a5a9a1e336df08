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
//! <any of these>.part-<token>-<n>          a stream that was never finished (an orphan)
//! <any of these>#<n>                       a file that was never finished (an orphan)
//! ```
//! `R` numbers the runs that wrote into the job directory, `I` the files of a run, so a name is
//! never used twice.

use crate::{Error, Result};

/// Name of the file that makes a directory a checkpoint.
pub(crate) const METADATA: &str = "_metadata";

/// Name of the mark by which a version before runs said that a job has finished.
const FINISHED: &str = "_finished";

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

/// Longest job id, in bytes: file systems take 255 for a component.
const JOB_ID_BYTES_MAX: usize = 200;

/// How far a reference may lead up: to the job directory, and to the directory of all jobs (a
/// checkpoint that was claimed by a job with another id).
const REFERENCE_UP_MAX: usize = 2;

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
    rest.split_once('-')?.0.parse().ok()
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

/// A number without sign and leading zeros.
fn canonical(digits: &str) -> Option<u64> {
    let number: u64 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

/// Whether a directory is one that every job directory has, used or not.
pub(crate) fn is_frame(leaf: &str) -> bool {
    leaf == SHARED || leaf == TASKOWNED || leaf == LEASE
}

/// Whether a directory is the one in which nothing is ever deleted.
pub(crate) fn is_taskowned(leaf: &str) -> bool {
    leaf == TASKOWNED
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

/// The object that metadata in `directory` means by `reference`. What is wrong with it, otherwise:
/// it comes from a file.
pub(crate) fn resolve(directory: &str, reference: &str) -> Result<String, &'static str> {
    let mut parts: Vec<&str> = directory
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    let mut down = reference.split('/').peekable();
    let mut up = 0;
    while down.next_if_eq(&"..").is_some() {
        up += 1;
        if up > REFERENCE_UP_MAX || parts.pop().is_none() {
            return Err("it leads out of the checkpoint directory");
        }
    }
    for part in down {
        if part.is_empty() || part == "." || part == ".." || part.contains(['\0', '\\']) {
            return Err("it is not a plain relative path");
        }
        parts.push(part);
    }
    Ok(parts.join("/"))
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
        assert_eq!(checkpoint_id("chk-18446744073709551615"), Some(u64::MAX));
        for leaf in [
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
            ("job/chk-5", "job/shared/x", "../shared/x"),
            ("job/chk-5", "job/chk-5/x", "x"),
            ("job/chk-5", "old/shared/x", "../../old/shared/x"),
            ("savepoint-a", "savepoint-a/x", "x"),
            ("", "x", "x"),
        ] {
            let found = reference(directory, object);
            assert_eq!(found, expected);
            assert_eq!(resolve(directory, &found).as_deref(), Ok(object));
        }
    }

    #[test]
    fn references_that_lead_out_are_refused() {
        for reference in [
            "../../../x",
            "/etc/passwd",
            "a/../b",
            "",
            "a//b",
            "./x",
            "../..",
            "x/",
        ] {
            let resolved = resolve("root/job/chk-5", reference);
            assert!(resolved.is_err() || reference == "../..", "{reference}");
        }
        assert!(resolve("chk-5", "../../x").is_err());
    }
}
