//! Looking at what a run has published, and taking it back.
//!
//! The names say whose a file is and which checkpoint holds it, so no checkpoint is read for that. Only
//! files whose names are exactly those of this run are touched.
//!
//! A file that a consumer has moved away cannot be withdrawn. That one is missing shows in the numbers
//! of its writer's files, up to the last one, which the notes of the job know.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use formats::RecordFormat;
use operator::{Origin, Published, Withdrawn};

use super::durable;
use super::names::{self, NoteName, OldName, PartName, Writer};
use super::notes::Notes;
use super::prepared::PreparedFile;
use super::staging;

/// How much of a file is read at once.
const BLOCK: usize = 256 << 10;
/// How much is read to count records.
const COUNTED_BYTES: u64 = 1 << 30;

/// What a run has published for checkpoints after this one. `header` is what its CSV files may begin
/// with.
pub(crate) fn after(
    root: &Path,
    origin: &Origin,
    after: u64,
    header: &[u8],
) -> anyhow::Result<Published> {
    if origin.run.is_empty() {
        // Names of older versions do not say which checkpoint holds a file.
        let files = old_files(root, origin)?.len() as u64;
        return Ok(Published {
            files,
            more_records: files > 0,
            ..Published::default()
        });
    }
    let mut published = Published::default();
    let mut left = COUNTED_BYTES;
    for name in files_after(root, origin, after)? {
        published.files += 1;
        let path = root.join(name.to_string());
        if fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            // Something else has the name now: what was published is not read through it.
            published.more_records = true;
            continue;
        }
        match count(&path, &name.extension, header, &mut left) {
            Ok(counted) => {
                published.records += counted.records;
                published.more_records |= !counted.whole;
            }
            // A consumer has just taken it.
            Err(error) if is_not_found(&error) => published.files -= 1,
            Err(error) => return Err(error),
        }
    }
    // What a consumer has moved away was published all the same.
    let noted = Notes::of_job(root, &origin.job).read()?;
    let missing = Writers::of(root, origin, after, &noted)?.missing_files();
    published.files = published.files.saturating_add(missing);
    published.more_records |= missing > 0;
    Ok(published)
}

/// The most names of a directory that are looked at to count files of other runs.
const NAMES_LOOKED_AT: usize = 100_000;

/// How many files of other runs the directory has, of any version and any job.
pub(crate) fn of_other_runs(root: &Path, run: &str) -> anyhow::Result<Published> {
    let reading = || format!("reading the directory `{}`", root.display());
    let names = match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Published::default()),
        names => names.with_context(reading)?,
    };
    let mut published = Published::default();
    for (index, entry) in names.enumerate() {
        if index == NAMES_LOOKED_AT {
            published.more_files = true;
            break;
        }
        let name = entry.with_context(reading)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_others = match PartName::parse(name) {
            Some(part) => part.writer.run != run,
            None => OldName::parse(name).is_some(),
        };
        published.files += u64::from(is_others);
    }
    Ok(published)
}

/// Removes what a run has published for checkpoints after this one, and what earlier generations of
/// the job have staged, except `kept`: what this checkpoint has prepared. `None`: that is not known, and
/// all that is staged stays.
///
/// A crash leaves a part of it; the next call goes on, and names what this one had removed as missing
/// as well: rather too many than one too few. Once it is done the notes say so, and another call finds
/// nothing.
pub(crate) fn withdraw(
    root: &Path,
    origin: &Origin,
    after: u64,
    kept: Option<&[PreparedFile]>,
) -> anyhow::Result<Withdrawn> {
    let mut withdrawn = Withdrawn::default();
    if !root.is_dir() {
        return Ok(withdrawn);
    }
    if origin.run.is_empty() {
        let old = old_files(root, origin)?;
        if let Some(first) = old.first() {
            bail!(
                "{} files in `{}`, `{first}` among them, were written by a version that did not note \
                 checkpoints in their names: remove those that were published after checkpoint {after}",
                old.len(),
                root.display()
            );
        }
    }
    // A run that was taken for dead and is only paused could publish more as soon as we are done.
    let _locks = staging::lock_all(root, &origin.job)?;
    // Its lock may not be seen: hosts that share a file system need not share its locks. What it would
    // publish goes first, so that either its rename finds nothing, or what it has renamed is found below.
    if let Some(kept) = kept {
        staging::give_up(root, &origin.job, origin.generation, kept)?;
    }
    let notes = Notes::of_job(root, &origin.job);
    let noted = notes.read()?;
    let writers = Writers::of(root, origin, after, &noted)?;
    withdrawn.missing = writers.missing();
    for name in files_after(root, origin, after)? {
        let path = root.join(name.to_string());
        if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            // Not what was published, so not ours to remove.
            withdrawn.missing.push(name.to_string());
            continue;
        }
        durable::remove_file(&path)?;
        withdrawn.files += 1;
    }
    durable::sync_directory(root)?;
    writers.forget(&notes, &noted, after)?;
    Ok(withdrawn)
}

/// The names of a run's files, of whatever kind the files are now.
fn files_of(root: &Path, origin: &Origin) -> anyhow::Result<BTreeSet<PartName>> {
    let names = durable::names_in(root)?;
    let names = names.iter().filter_map(|name| PartName::parse(name));
    Ok(names
        .filter(|name| is_of(&name.writer, name.checkpoint, origin))
        .collect())
}

/// Whether it is output of this run from before the question came up: a process that was stopped for
/// long must not touch what its successors have published since.
fn is_of(writer: &Writer, checkpoint: u64, origin: &Origin) -> bool {
    writer.run == origin.run && checkpoint <= origin.through
}

fn files_after(root: &Path, origin: &Origin, after: u64) -> anyhow::Result<Vec<PartName>> {
    let mut files: Vec<PartName> = files_of(root, origin)?
        .into_iter()
        .filter(|name| name.checkpoint > after)
        .collect();
    files.sort_by_key(|name| (name.checkpoint, name.writer.clone(), name.counter));
    Ok(files)
}

/// The files of a job that an older version has published.
fn old_files(root: &Path, origin: &Origin) -> anyhow::Result<Vec<String>> {
    let job = names::old_job(&origin.job.id);
    let mut names = durable::names_in(root)?;
    names.retain(|name| OldName::parse(name).is_some_and(|old| old.job == job));
    names.sort();
    Ok(names)
}

/// The numbers of each writer's files after a checkpoint.
struct Writers(BTreeMap<Writer, Numbers>);

#[derive(Default)]
struct Numbers {
    /// Those that exist.
    there: BTreeSet<u64>,
    /// The first one after the checkpoint, if it is known.
    first: Option<u64>,
    /// One more than the last.
    end: u64,
}

impl Writers {
    fn of(root: &Path, origin: &Origin, after: u64, noted: &[NoteName]) -> anyhow::Result<Self> {
        let mut writers: BTreeMap<Writer, Numbers> = BTreeMap::new();
        let at_least = |first: &mut Option<u64>, number: u64| {
            *first = Some(first.unwrap_or(0).max(number));
        };
        for name in files_of(root, origin)? {
            let numbers = writers.entry(name.writer).or_default();
            if name.checkpoint > after {
                numbers.there.insert(name.counter);
                numbers.end = numbers.end.max(name.counter.saturating_add(1));
            } else {
                at_least(&mut numbers.first, name.counter.saturating_add(1));
            }
        }
        for note in noted
            .iter()
            .filter(|note| is_of(&note.writer, note.checkpoint, origin))
        {
            let numbers = writers.entry(note.writer.clone()).or_default();
            if note.checkpoint > after {
                numbers.end = numbers.end.max(note.files);
            } else {
                at_least(&mut numbers.first, note.files);
            }
        }
        Ok(Self(writers))
    }

    /// How many files were published after the checkpoint and do not exist.
    fn missing_files(&self) -> u64 {
        let of_writer = |numbers: &Numbers| {
            let first = numbers.first.unwrap_or(0);
            let there = numbers.there.iter().filter(|number| **number >= first);
            numbers
                .end
                .saturating_sub(first)
                .saturating_sub(there.count() as u64)
        };
        self.0.values().map(of_writer).sum()
    }

    /// What was published after the checkpoint and does not exist, as patterns of names.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (writer, numbers) in &self.0 {
            let first = numbers.first.unwrap_or(0);
            let mut next = first;
            for there in numbers.there.iter().copied().chain([numbers.end]) {
                match there.saturating_sub(next) {
                    0 => {}
                    1 => missing.push(PartName::pattern(writer, next)),
                    _ => missing.push(format!(
                        "{} to {}",
                        PartName::pattern(writer, next),
                        PartName::pattern(writer, there - 1)
                    )),
                }
                next = next.max(there.saturating_add(1));
            }
        }
        missing
    }

    /// Has the notes say that nothing is published after the checkpoint.
    fn forget(&self, notes: &Notes, noted: &[NoteName], after: u64) -> anyhow::Result<()> {
        let outdated = noted
            .iter()
            .filter(|note| note.checkpoint > after && self.0.contains_key(&note.writer));
        let mut directory = None;
        for note in outdated {
            let path = notes.path_of(note);
            let first = self.0.get(&note.writer).and_then(|numbers| numbers.first);
            let kept = NoteName {
                writer: note.writer.clone(),
                checkpoint: after,
                // What is not known to be after it counts as before: a restore may ask for it.
                files: first.unwrap_or(note.files),
            };
            let kept = notes.path_of(&kept);
            fs::rename(&path, &kept)
                .with_context(|| format!("cannot rename `{}`", path.display()))?;
            directory = kept.parent().map(Path::to_owned);
        }
        directory.map_or(Ok(()), |directory| durable::sync_directory(&directory))
    }
}

struct Counted {
    records: u64,
    /// Whether the file was read to its end.
    whole: bool,
}

/// Counts the records of a file, as long as `left` bytes may be read.
fn count(path: &Path, extension: &str, header: &[u8], left: &mut u64) -> anyhow::Result<Counted> {
    let failed = || format!("cannot read `{}`", path.display());
    let mut file = durable::open_own_file(path, File::options().read(true)).with_context(failed)?;
    let mut block = vec![0; BLOCK];
    let mut beginning = Vec::new();
    let mut lines = Lines {
        is_csv: extension == RecordFormat::Csv.extension(),
        ..Lines::default()
    };
    let whole = loop {
        if *left == 0 {
            break false;
        }
        match file.read(&mut block) {
            Ok(0) => break true,
            Ok(length) => {
                *left = left.saturating_sub(length as u64);
                let text = &block[..length];
                let room = header.len().saturating_sub(beginning.len());
                beginning.extend_from_slice(&text[..room.min(length)]);
                lines.take(text);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(failed),
        }
    };
    let has_header = lines.is_csv && !header.is_empty() && beginning == header;
    Ok(Counted {
        records: lines.ended.saturating_sub(u64::from(has_header)),
        whole,
    })
}

/// Counts lines; of CSV rows, whose quoted fields may have line breaks.
#[derive(Default)]
struct Lines {
    is_csv: bool,
    is_quoted: bool,
    ended: u64,
}

impl Lines {
    fn take(&mut self, text: &[u8]) {
        if !self.is_csv {
            self.ended += memchr::memchr_iter(b'\n', text).count() as u64;
            return;
        }
        // A quote within a quoted field is doubled, and so changes nothing.
        for at in memchr::memchr2_iter(b'\n', b'"', text) {
            match text[at] {
                b'"' => self.is_quoted = !self.is_quoted,
                _ => self.ended += u64::from(!self.is_quoted),
            }
        }
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of a file of this text, if this many bytes may be read.
    fn counted(extension: &str, text: &str, mut left: u64) -> (u64, bool) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, text).unwrap();
        let counted = count(&path, extension, b"k,v\n", &mut left).unwrap();
        (counted.records, counted.whole)
    }

    #[test]
    fn records_are_counted_by_the_rules_of_their_format() {
        let all = u64::MAX;
        assert_eq!(counted("txt", "a\n\"b\nc\n", all), (3, true));
        assert_eq!(counted("jsonl", "{\"a\":\"\\\"\"}\n{}\n", all), (2, true));
        assert_eq!(counted("csv", "k,v\nk,a\nk,b\n", all), (2, true));
        assert_eq!(counted("csv", "k,w\nk,a\n", all), (2, true));
        let quoted = "k,\"a\nb\"\nk,\"a \"\"\n\"\" b\"\n\"\"\n";
        assert_eq!(counted("csv", quoted, all), (3, true));
        assert_eq!(counted("csv", "", all), (0, true));
    }

    #[test]
    fn counting_ends_at_some_length() {
        let text = "a\n".repeat(BLOCK);
        let (records, whole) = counted("txt", &text, BLOCK as u64);
        assert_eq!((records, whole), (BLOCK as u64 / 2, false));
    }
}
