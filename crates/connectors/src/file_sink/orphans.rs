//! Output that a checkpoint has prepared for sinks which the job no longer has: their state may be given
//! up, but their records are part of what the checkpoint covers, so nobody would write them again.
//!
//! It is looked for in the directories of sinks that are new in the job (a sink that was renamed keeps its
//! path), and in the one that the checkpoint names. What is staged is published where it is. A checkpoint
//! may come from anywhere and must not choose whose files are published: in a directory that only it names,
//! files are those of this run, by their names.
//!
//! Names say nothing of the sink, so all sinks of a job have files of the same names, and sinks that get the
//! same records have the same files. Hence:
//!
//! - the directory of a sink that the job still has is no candidate, nor is one that the checkpoint names
//!   for another sink: what it holds is that sink's;
//! - a directory is that of one sink that is gone, and of no second one;
//! - what is not as the checkpoint says is another sink's if all is found in another directory, and an
//!   error if it is not.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use operator::source::Part;

use super::prepared::{self, Fate, PreparedFile};

/// A sink that the job no longer has.
#[derive(Debug)]
pub struct Gone {
    /// What the checkpoint has prepared for it.
    files: Vec<PreparedFile>,
    /// Where the checkpoint says that it published.
    recorded: Option<PathBuf>,
}

impl Gone {
    /// Reads the parts of a sink. `None`: it was not a file sink.
    ///
    /// # Errors
    /// Some of it cannot be read: it is damaged, or of another version.
    pub fn read(parts: &[Part], recorded: Option<&Path>) -> Option<anyhow::Result<Self>> {
        parts.iter().any(prepared::is_file).then(|| {
            let files: anyhow::Result<_> = parts.iter().map(PreparedFile::read).collect();
            Ok(Self {
                files: files.context(
                    "what the checkpoint says of it is damaged, or of another version: resume with the \
                     version that took the checkpoint, or from another checkpoint",
                )?,
                recorded: recorded.map(Path::to_owned),
            })
        })
    }
}

/// The directories that are known.
#[derive(Debug, Default)]
pub struct Places {
    /// Of the job's sinks that are not in the checkpoint.
    pub new: Vec<PathBuf>,
    /// Of the job's other sinks.
    pub kept: Vec<PathBuf>,
    /// Those that the checkpoint names for its sinks.
    pub recorded: Vec<PathBuf>,
}

/// What became of the output of one sink.
#[derive(Debug, Default)]
pub struct Orphans {
    /// All of it.
    pub all: Amount,
    /// What waits to be published.
    pub staged: Amount,
    /// What another run publishes, whose checkpoint this is.
    pub others: Amount,
    /// What is not where it was looked for, and nothing says that it was published.
    pub missing: Amount,
    /// Where it was looked for and, if anything of it exists, found. `None`: no directory is known.
    pub root: Option<PathBuf>,
    /// Whether this is the directory that the checkpoint names.
    pub is_recorded: bool,
    /// What is to be published.
    files: Vec<PreparedFile>,
}

/// How much output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Files.
    pub files: u64,
    /// Records in them.
    pub records: u64,
}

impl Amount {
    /// What is left without `other`.
    pub fn minus(self, other: Self) -> Self {
        Self {
            files: self.files.saturating_sub(other.files),
            records: self.records.saturating_sub(other.records),
        }
    }

    fn add(&mut self, file: &PreparedFile) {
        self.files += 1;
        self.records = self.records.saturating_add(file.records);
    }
}

/// Looks for the output of all sinks that are gone, without changing anything. The results are in the order
/// of `gone`.
///
/// # Errors
/// Of a sink: a file exists, but is not what the checkpoint says, or cannot be looked at, and not all of
/// the sink's output is elsewhere.
pub fn find(gone: &[Gone], places: &Places, run: &str) -> Vec<anyhow::Result<Orphans>> {
    let mut looks: Vec<Look> = gone
        .iter()
        .enumerate()
        .flat_map(|(sink, gone)| Look::all(sink, gone, places, run))
        .collect();
    looks.sort_by_cached_key(|look| Reverse(look.rank()));
    let mut found: Vec<Option<Look>> = gone.iter().map(|_| None).collect();
    let mut taken = Vec::new();
    for look in looks {
        if found[look.sink].is_none() && !taken.contains(&look.directory) {
            taken.push(look.directory.clone());
            let sink = look.sink;
            found[sink] = Some(look);
        }
    }
    let results = found.into_iter().zip(gone);
    results
        .map(|(look, gone)| look.map_or_else(|| Ok(nowhere(gone)), Look::result))
        .collect()
}

/// There is no directory for it.
fn nowhere(gone: &Gone) -> Orphans {
    let mut orphans = Orphans::default();
    gone.files.iter().for_each(|file| orphans.all.add(file));
    orphans.missing = orphans.all;
    orphans
}

/// A directory, looked at for one sink.
struct Look {
    /// Its number among those that are gone.
    sink: usize,
    /// The directory, however it was written.
    directory: PathBuf,
    /// Whether a sink that is new in the job writes there.
    is_new: bool,
    /// Names at the end of its path that it has in common with the one that the checkpoint names: a
    /// directory that was moved or copied with all that is around it keeps them.
    alike: usize,
    /// How many files exist.
    found: u64,
    orphans: Orphans,
    /// The first file that is not as the checkpoint says.
    error: Option<anyhow::Error>,
}

impl Look {
    /// Looks at all directories that may be this sink's.
    fn all(sink: usize, gone: &Gone, places: &Places, run: &str) -> Vec<Self> {
        let known = |places: &[PathBuf], wanted: &Path| {
            places.iter().any(|place| identity(place) == *wanted)
        };
        let recorded = gone.recorded.as_deref().map(identity);
        let mut looks: Vec<Self> = Vec::new();
        for place in places.new.iter().chain(&gone.recorded) {
            let directory = identity(place);
            let is_recorded = recorded.as_ref() == Some(&directory);
            let is_anothers = !is_recorded && known(&places.recorded, &directory);
            if is_anothers || looks.iter().any(|look| look.directory == directory) {
                continue;
            }
            let is_new = known(&places.new, &directory);
            let is_own = is_new || known(&places.kept, &directory);
            let mut look = Self {
                sink,
                is_new,
                alike: alike(place, gone.recorded.as_deref()),
                found: 0,
                orphans: Orphans {
                    root: Some(place.clone()),
                    is_recorded,
                    ..Orphans::default()
                },
                error: None,
                directory,
            };
            for file in &gone.files {
                look.at(file, place, is_own, run);
            }
            looks.push(look);
        }
        looks
    }

    fn at(&mut self, file: &PreparedFile, root: &Path, is_own: bool, run: &str) {
        let orphans = &mut self.orphans;
        orphans.all.add(file);
        match file.fate(root, run) {
            Ok(Fate::Staged) if is_own || file.is_of(run) => {
                self.found += 1;
                orphans.staged.add(file);
                orphans.files.push(file.clone());
            }
            Ok(Fate::Published) => self.found += 1,
            Ok(Fate::Staged | Fate::Others) => orphans.others.add(file),
            Ok(Fate::Missing) => orphans.missing.add(file),
            Err(error) => {
                orphans.missing.add(file);
                self.error.get_or_insert(error);
            }
        }
    }

    /// The highest is the sink's. All that is found decides; then what is there and is not right, so that it
    /// is named; then the directory that output goes to from now on.
    fn rank(&self) -> (bool, u64, bool, bool, usize, u64) {
        let is_complete = self.found == self.orphans.all.files;
        let is_wrong = self.error.is_some();
        let staged = self.orphans.staged.files;
        (
            is_complete,
            self.found,
            is_wrong,
            self.is_new,
            self.alike,
            staged,
        )
    }

    fn result(self) -> anyhow::Result<Orphans> {
        self.error.map_or(Ok(self.orphans), Err)
    }
}

/// A directory, however it is written. One that does not exist is as it is written.
fn identity(place: &Path) -> PathBuf {
    fs::canonicalize(place).unwrap_or_else(|_| place.to_owned())
}

/// Whether a sink that publishes in `place`, and had `own` at the checkpoint, looks into what was the directory
/// `other` of another sink: it is that one, or the ends of their paths say so where all directories were moved.
#[must_use]
pub fn is_of_another(place: &Path, own: &Path, other: &Path) -> bool {
    let now = identity(place);
    now != identity(own)
        && (now == identity(other) || alike(place, Some(other)) > alike(place, Some(own)))
}

/// How many names at the ends of two paths are the same.
fn alike(place: &Path, recorded: Option<&Path>) -> usize {
    let recorded = recorded.unwrap_or(Path::new("")).components().rev();
    let pairs = place.components().rev().zip(recorded);
    pairs.take_while(|(one, other)| one == other).count()
}

impl Orphans {
    /// Publishes what is staged. May be done again.
    ///
    /// # Errors
    /// A file is lost or is another than the checkpoint says, or something cannot be written.
    pub fn publish(&self, run: &str) -> anyhow::Result<()> {
        let Some(root) = &self.root else {
            return Ok(());
        };
        let staged: Vec<&PreparedFile> = self.files.iter().collect();
        prepared::publish(root, &staged, run).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tempfile::TempDir;

    const STAGED: &str = ".highwater/job.g1/a0-s0000-000000.txt.pending";
    const PUBLISHED: &str = "part-0a1b2c3d-c000001-g1-a0-s0000-000000.txt";
    const RUN: &str = "0a1b2c3d";

    fn part(text: &str) -> Value {
        json!({
            "staging": STAGED, "file": PUBLISHED, "bytes": text.len(),
            "crc32c": crc32c::crc32c(text.as_bytes()), "records": 1, "checkpoint": 1,
        })
    }

    fn gone(text: &str, recorded: &Path) -> Gone {
        Gone::read(&[part(text)], Some(recorded)).unwrap().unwrap()
    }

    /// A sink's directory with one file in it.
    fn directory(above: &TempDir, name: &str, file: &str, text: &str) -> PathBuf {
        let root = above.path().join(name);
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        root
    }

    fn places(new: &[&PathBuf], recorded: &[&Path]) -> Places {
        Places {
            new: new.iter().map(|place| (*place).clone()).collect(),
            recorded: recorded.iter().map(|place| (*place).to_owned()).collect(),
            ..Places::default()
        }
    }

    #[test]
    fn a_part_that_cannot_be_read_is_no_reason_to_drop_the_others() {
        let mut later = part("x");
        later["added-later"] = json!(1);
        for parts in [vec![part("x"), later.clone()], vec![later]] {
            let error = Gone::read(&parts, None).unwrap().unwrap_err();
            assert!(format!("{error:#}").contains("added-later"), "{error:#}");
        }
        let stdout = json!({"subtask": 0, "checkpoint": 1, "records": 1, "text": "x"});
        assert!(Gone::read(&[stdout], None).is_none());
    }

    #[test]
    fn a_directory_that_the_checkpoint_names_for_another_sink_is_that_ones() {
        let above = TempDir::new().unwrap();
        // `c` was written by a sink that has prepared nothing and has another name now.
        let a = directory(&above, "a", STAGED, "x");
        let c = directory(&above, "c", PUBLISHED, "x");
        let elsewhere = above.path().join("elsewhere");
        let places = places(&[&c, &elsewhere], &[&a, &c]);
        let found = find(&[gone("x", &a)], &places, RUN).remove(0).unwrap();
        assert_eq!(found.root, Some(a));
        assert!(found.is_recorded);
        assert_eq!(found.staged.files, 1);
    }

    #[test]
    fn of_directories_that_were_moved_the_one_with_the_old_name_is_a_sinks() {
        let above = TempDir::new().unwrap();
        let a = directory(&above, "a", STAGED, "x");
        let c = directory(&above, "c", PUBLISHED, "x");
        for new in [[&a, &c], [&c, &a]] {
            let gone = [gone("x", Path::new("/gone/a"))];
            let found = find(&gone, &places(&new, &[]), RUN).remove(0).unwrap();
            assert_eq!((found.root.as_ref(), found.staged.files), (Some(&a), 1));
            assert!(!found.is_recorded);
        }
    }

    #[test]
    fn what_is_not_right_is_an_error_unless_all_is_elsewhere() {
        let above = TempDir::new().unwrap();
        let wrong = directory(&above, "wrong", STAGED, "y");
        let empty = above.path().join("empty");
        let gone = [gone("x", &wrong)];
        let nowhere = places(&[&empty], &[&wrong]);
        let error = find(&gone, &nowhere, RUN).remove(0).unwrap_err();
        assert!(format!("{error:#}").contains("CRC-32C"), "{error:#}");
        let right = directory(&above, "right", STAGED, "x");
        let both = places(&[&empty, &right], &[&wrong]);
        let found = find(&gone, &both, RUN).remove(0).unwrap();
        assert_eq!((found.root, found.staged.files), (Some(right), 1));
    }

    #[test]
    fn one_directory_is_not_taken_for_two_sinks() {
        let above = TempDir::new().unwrap();
        let b = directory(&above, "b", PUBLISHED, "x");
        let stale = Path::new("/gone/a");
        let gone = [gone("x", stale), gone("x", Path::new("/gone/b"))];
        let found = find(&gone, &places(&[&b], &[]), RUN);
        let missing: Vec<u64> = found
            .iter()
            .map(|found| found.as_ref().unwrap().missing.files)
            .collect();
        assert_eq!(missing, [1, 0]);
    }

    #[test]
    fn what_only_the_checkpoint_names_is_published_for_its_own_run() {
        let above = TempDir::new().unwrap();
        let a = directory(&above, "a", STAGED, "x");
        for (run, staged) in [(RUN, 1), ("ffffffff", 0)] {
            let found = find(&[gone("x", &a)], &places(&[], &[&a]), run).remove(0);
            assert_eq!(found.unwrap().staged.files, staged, "{run}");
        }
    }
}
