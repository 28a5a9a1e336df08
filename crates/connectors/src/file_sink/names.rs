//! The names of a file sink's files. What is written here is all that [`withdraw`](super::published)
//! knows of a file, so a name says whose output it is, and no name is used twice.
//!
//! | what | name |
//! |---|---|
//! | published | `part-<run>-c000017-g2-a0-s0003-000004.csv` |
//! | staged | `a0-s0003-000004.csv.pending`, in the place of its job and generation |
//! | note that it is published | `<run>-g2-a0-s0003-c000017-000005` |
//!
//! In their order: the run's token, the checkpoint, the generation, the attempt, the subtask, and the
//! number of the file among those of this subtask and attempt, from 0. The checkpoint stands first so
//! that the files of a run, sorted by name, come in the order of their checkpoints. Numbers have the
//! zeros that sorting needs, and more digits where they are needed.
//!
//! Invariant: a name is read only if it is written exactly so. What differs by a zero is not ours.

use std::fmt;

/// What ends the name of a file that is not published.
const PENDING: &str = ".pending";

/// The most characters of a run's token.
const RUN_LENGTH_MAX: usize = 32;

/// Who writes: a subtask in one attempt of one process. Its files are numbered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Writer {
    /// The run's token.
    pub(crate) run: String,
    /// The run's generation of the job directory; 0 if there is none.
    pub(crate) generation: u64,
    /// The attempt within the process.
    pub(crate) attempt: u32,
    /// The subtask.
    pub(crate) subtask: u32,
}

/// The name of a published file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartName {
    /// Who wrote it.
    pub(crate) writer: Writer,
    /// The checkpoint that holds it.
    pub(crate) checkpoint: u64,
    /// Its number among the files of its writer.
    pub(crate) counter: u64,
    /// By its format.
    pub(crate) extension: String,
}

/// The name of a file that is not published yet, within its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StagedName {
    pub(crate) attempt: u32,
    pub(crate) subtask: u32,
    pub(crate) counter: u64,
    pub(crate) extension: String,
}

/// The name of a note: its writer's files with numbers below `files` are published, or are being
/// published, and those are all files of checkpoints up to `checkpoint`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NoteName {
    pub(crate) writer: Writer,
    pub(crate) checkpoint: u64,
    pub(crate) files: u64,
}

/// The name of a file that a version published which did not know runs and checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OldName {
    /// The hex digits that stand for the job.
    pub(crate) job: String,
    subtask: u32,
    counter: u64,
    extension: String,
}

/// Whether this is a token that can be part of a name.
pub(crate) fn is_run(run: &str) -> bool {
    (1..=RUN_LENGTH_MAX).contains(&run.len()) && run.bytes().all(is_plain)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_extension(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_plain)
}

/// The name, if it is one that was written so.
fn exactly<T: fmt::Display>(name: T, written: &str) -> Option<T> {
    (name.to_string() == written).then_some(name)
}

/// The fields of `text`, if there are exactly `N`.
fn fields<const N: usize>(text: &str) -> Option<[&str; N]> {
    let mut fields = text.split('-');
    let found: Vec<&str> = fields.by_ref().take(N).collect();
    fields.next().is_none().then_some(())?;
    found.try_into().ok()
}

fn number<T: std::str::FromStr>(field: &str, letter: &str) -> Option<T> {
    field.strip_prefix(letter)?.parse().ok()
}

impl PartName {
    /// Reads the name of a published file. `None`: it is not one.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (stem, extension) = name.rsplit_once('.')?;
        let [part, run, checkpoint, generation, attempt, subtask, counter] = fields(stem)?;
        let parsed = Self {
            writer: Writer {
                run: run.to_owned(),
                generation: number(generation, "g")?,
                attempt: number(attempt, "a")?,
                subtask: number(subtask, "s")?,
            },
            checkpoint: number(checkpoint, "c")?,
            counter: counter.parse().ok()?,
            extension: extension.to_owned(),
        };
        let is_part = part == "part" && is_run(run) && is_extension(extension);
        exactly(parsed, name).filter(|_| is_part)
    }

    /// The name of a file by its number and any checkpoint: what a person can look for.
    pub(crate) fn pattern(writer: &Writer, counter: u64) -> String {
        let Writer { run, .. } = writer;
        format!("part-{run}-c*-{writer}-{counter:06}.*")
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            generation,
            attempt,
            subtask,
            ..
        } = self;
        write!(f, "g{generation}-a{attempt}-s{subtask:04}")
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            writer,
            checkpoint,
            counter,
            extension,
        } = self;
        let run = &writer.run;
        write!(
            f,
            "part-{run}-c{checkpoint:06}-{writer}-{counter:06}.{extension}"
        )
    }
}

impl StagedName {
    /// Reads the name of a staged file. `None`: it is not one.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (stem, extension) = name.strip_suffix(PENDING)?.rsplit_once('.')?;
        let [attempt, subtask, counter] = fields(stem)?;
        let parsed = Self {
            attempt: number(attempt, "a")?,
            subtask: number(subtask, "s")?,
            counter: counter.parse().ok()?,
            extension: extension.to_owned(),
        };
        exactly(parsed, name).filter(|_| is_extension(extension))
    }
}

impl fmt::Display for StagedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attempt,
            subtask,
            counter,
            extension,
        } = self;
        write!(
            f,
            "a{attempt}-s{subtask:04}-{counter:06}.{extension}{PENDING}"
        )
    }
}

impl NoteName {
    /// Reads the name of a note. `None`: it is not one.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let [run, generation, attempt, subtask, checkpoint, files] = fields(name)?;
        let parsed = Self {
            writer: Writer {
                run: run.to_owned(),
                generation: number(generation, "g")?,
                attempt: number(attempt, "a")?,
                subtask: number(subtask, "s")?,
            },
            checkpoint: number(checkpoint, "c")?,
            files: files.parse().ok()?,
        };
        exactly(parsed, name).filter(|_| is_run(run))
    }
}

impl fmt::Display for NoteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            writer,
            checkpoint,
            files,
        } = self;
        let run = &writer.run;
        write!(f, "{run}-{writer}-c{checkpoint:06}-{files:06}")
    }
}

impl OldName {
    /// Reads the name of a file of an older version. `None`: it is not one.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (stem, extension) = name.rsplit_once('.')?;
        let [part, job, subtask, counter] = fields(stem)?;
        let parsed = Self {
            job: job.to_owned(),
            subtask: subtask.parse().ok()?,
            counter: counter.parse().ok()?,
            extension: extension.to_owned(),
        };
        let is_job = job.len() == 8 && job.bytes().all(|byte| byte.is_ascii_hexdigit());
        exactly(parsed, name).filter(|_| part == "part" && is_job && is_extension(extension))
    }
}

impl fmt::Display for OldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            job,
            subtask,
            counter,
            extension,
        } = self;
        write!(f, "part-{job}-{subtask}-{counter:06}.{extension}")
    }
}

/// Whether a staged file may be called so: by this version, or by one that put the final name before
/// the ending.
pub(crate) fn is_staged(name: &str) -> bool {
    let old = || name.strip_suffix(PENDING).and_then(OldName::parse);
    StagedName::parse(name).is_some() || old().is_some()
}

/// Whether a published file may be called so, by this version or an older one.
pub(crate) fn is_published(name: &str) -> bool {
    PartName::parse(name).is_some() || OldName::parse(name).is_some()
}

/// What an older version wrote for a job: the hex digits at the end of its id, or of a hash of it when
/// it has none.
pub(crate) fn old_job(job_id: &str) -> String {
    match job_id.rsplit_once('-') {
        Some((_, hex)) if hex.len() == 8 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            hex.to_owned()
        }
        _ => format!("{:08x}", dataflow::key::hash(job_id.as_bytes()) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(checkpoint: u64, counter: u64) -> PartName {
        PartName {
            writer: Writer {
                run: "0a1b2c3d".to_owned(),
                generation: 2,
                attempt: 0,
                subtask: 3,
            },
            checkpoint,
            counter,
            extension: "csv".to_owned(),
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let name = "part-0a1b2c3d-c000017-g2-a0-s0003-000004.csv";
        assert_eq!(part(17, 4).to_string(), name);
        assert_eq!(PartName::parse(name), Some(part(17, 4)));
        let large = part(u64::MAX, u64::MAX);
        assert_eq!(PartName::parse(&large.to_string()), Some(large));
        let staged = "a1-s0003-000004.csv.pending";
        assert_eq!(StagedName::parse(staged).unwrap().to_string(), staged);
        let note = "0a1b2c3d-g2-a0-s0003-c000017-000005";
        assert_eq!(NoteName::parse(note).unwrap().to_string(), note);
        let old = "part-0a1b2c3d-0-000000.csv";
        assert_eq!(OldName::parse(old).unwrap().to_string(), old);
        assert!(is_published(name) && is_published(old));
        assert!(is_staged(staged) && is_staged(&format!("{old}.pending")));
    }

    #[test]
    fn what_differs_by_a_letter_is_not_ours() {
        for name in [
            "part-0a1b2c3d-c17-g2-a0-s0003-000004.csv",
            "part-0a1b2c3d-c0000017-g2-a0-s0003-000004.csv",
            "part-0a1b2c3d-c000017-g02-a0-s0003-000004.csv",
            "part-0a1b2c3d-c+00017-g2-a0-s0003-000004.csv",
            "part-0a1b2c3d-c000017-g2-a0-s0003-000004.csv.gz",
            "part-0a1b2c3d-c000017-g2-a0-s0003-000004",
            "part-0a1b2c3d-c000017-g2-a0-s0003-000004-1.csv",
            "part-0A1b2c3d-c000017-g2-a0-s0003-000004.csv",
            "part--c000017-g2-a0-s0003-000004.csv",
            "Part-0a1b2c3d-c000017-g2-a0-s0003-000004.csv",
            "part-0a1b2c3d-c000017-g2-a0-s0003-000004.c v",
            "part-0a1b2c3d-c99999999999999999999-g2-a0-s0003-000004.csv",
            "my part-0a1b2c3d-c000017-g2-a0-s0003-000004.csv",
        ] {
            assert_eq!(PartName::parse(name), None, "{name}");
            assert!(!is_published(name), "{name}");
        }
        for name in [
            "a1-s3-000004.csv.pending",
            "a1-s0003-000004.csv",
            "x.pending",
        ] {
            assert!(!is_staged(name), "{name}");
        }
        assert!(!is_run("") && !is_run("a-b") && !is_run(&"a".repeat(33)));
    }

    #[test]
    fn names_sort_in_the_order_of_checkpoints() {
        let mut names =
            [part(100, 0), part(17, 12), part(9, 3), part(17, 2)].map(|n| n.to_string());
        names.sort();
        let order = [part(9, 3), part(17, 2), part(17, 12), part(100, 0)];
        assert_eq!(names, order.map(|name| name.to_string()));
    }

    #[test]
    fn older_versions_named_jobs_by_eight_digits() {
        assert_eq!(old_job("count-words-0a1b2c3d"), "0a1b2c3d");
        let named = old_job("my-job");
        assert!(named.len() == 8 && named.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(named, old_job("my-jobs"));
    }
}
