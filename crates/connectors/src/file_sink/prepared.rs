//! A file between its barrier and its publication, as a checkpoint records it.
//!
//! Invariants: nothing is published that is not what the checkpoint says, by length and checksum; a
//! published name is never written over; that a file is published is noted, durably, before it gets
//! its name. So at a restore:
//!
//! | staged | published | noted | what happened | what is done |
//! |---|---|---|---|---|
//! | yes | no | – | killed before the rename, or in the middle of a commit | it is published |
//! | no | yes | – | it was published | nothing |
//! | no | no | yes | it was published, and a consumer has moved it away or deleted it | a warning |
//! | no | no | no | it was never published, and somebody has removed it: it is lost | an error |
//! | no | no | no | it is the output of another run, from whose checkpoint this one starts | a note |
//! | yes | yes | – | a power loss has kept both names of one rename | the staged name is removed |
//!
//! Only a process or machine that dies between the note and the rename, and then a person who removes
//! the staged file by hand, make the third line out of the fourth.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use operator::source::Part;
use operator::text::{counted, size};
use serde::{Deserialize, Serialize};

use super::durable;
use super::names::{NoteName, PartName};
use super::notes::Notes;
use super::place::{self, StagingDirectory};
use super::{names, trouble};

/// How much of a file is read at once.
const BLOCK: usize = 256 << 10;

/// A file that is prepared and not committed, as a checkpoint records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreparedFile {
    /// Where it is staged, relative to the sink's directory.
    pub(crate) staging: String,
    /// Its name in the sink's directory once it is committed.
    pub(crate) file: String,
    /// Its length.
    pub(crate) bytes: u64,
    /// CRC-32C of its content. The first version did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) crc32c: Option<u32>,
    /// Records in it.
    pub(crate) records: u64,
    /// The checkpoint that prepared it.
    pub(crate) checkpoint: u64,
    /// The file as this process has left it; not in a checkpoint.
    #[serde(skip)]
    pub(crate) written: Option<Written>,
}

/// What tells a file that nobody has touched since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

impl Written {
    /// As it is now.
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// What there is of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Staged,
    Published,
    /// It was published, and does not exist any more.
    Taken,
    /// It is another run's, which publishes it where that run writes.
    Others,
}

/// What became of a prepared file of a sink that the job does not have any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It waits to be published.
    Staged,
    /// It was published.
    Published,
    /// It is another run's, which publishes it where that run writes.
    Others,
    /// It does not exist, and nothing says that it was published.
    Missing,
}

/// Whether a part of a checkpoint is a file sink's, of any version and however damaged.
pub(crate) fn is_file(part: &serde_json::Value) -> bool {
    part.get("staging").is_some()
}

impl PreparedFile {
    /// Reads a part of a checkpoint. What a checkpoint says may be anything: the paths are checked to be
    /// those of a file sink's own files, within its directory.
    ///
    /// # Errors
    /// It is not a file sink's, or leads elsewhere.
    pub(crate) fn read(part: &serde_json::Value) -> anyhow::Result<Self> {
        let file = Self::deserialize(part).with_context(|| {
            format!("the snapshot has a part that is not a file sink's: {part}")
        })?;
        let parts: Vec<&str> = file.staging.split('/').collect();
        let is_staging = match parts[..] {
            [first, place, leaf] => {
                first == place::STAGING
                    && !matches!(place, "" | "." | "..")
                    && names::is_staged(leaf)
            }
            _ => false,
        };
        if !is_staging || !names::is_published(&file.file) {
            bail!("the snapshot has a part that leads out of the sink's directory: {part}");
        }
        Ok(file)
    }

    /// The place that it is staged in, relative to the sink's directory, and its name there.
    pub(crate) fn place(&self) -> (&str, &str) {
        self.staging.rsplit_once('/').unwrap_or_default()
    }

    fn staged_at(&self, root: &Path) -> PathBuf {
        root.join(&self.staging)
    }

    fn published_at(&self, root: &Path) -> PathBuf {
        root.join(&self.file)
    }

    /// Whether it can be published, or was, without changing anything. `run` is the run that would.
    ///
    /// # Errors
    /// It is lost, or is another file than the checkpoint says.
    pub(crate) fn check(&self, root: &Path, run: &str) -> anyhow::Result<()> {
        let (staged, published) = (self.staged_at(root), self.published_at(root));
        match (look(&staged)?, look(&published)?) {
            (_, Some(metadata)) => self.compare(&published, &metadata),
            (Some(metadata), None) => self.compare(&staged, &metadata),
            (None, None) => self.find(root, run).map(|_| ()),
        }
    }

    /// What became of it, without changing anything. `run` is the run that asks.
    ///
    /// # Errors
    /// It is another file than the checkpoint says, or cannot be looked at.
    pub(crate) fn fate(&self, root: &Path, run: &str) -> anyhow::Result<Fate> {
        let (staged, published) = (self.staged_at(root), self.published_at(root));
        match (look(&staged)?, look(&published)?) {
            (_, Some(metadata)) => {
                self.compare(&published, &metadata)?;
                Ok(Fate::Published)
            }
            (Some(metadata), None) => {
                self.compare(&staged, &metadata)?;
                Ok(Fate::Staged)
            }
            (None, None) if self.is_of_another(run) => Ok(Fate::Others),
            (None, None) => {
                let notes = Notes::of(root, self.place().0);
                Ok(match notes.cover(&self.file, self.checkpoint)? {
                    true => Fate::Published,
                    false => Fate::Missing,
                })
            }
        }
    }

    /// Whether its name says that this run wrote it.
    pub(crate) fn is_of(&self, run: &str) -> bool {
        PartName::parse(&self.file).is_some_and(|part| part.writer.run == run)
    }

    /// Whether it is the output of another run than this one.
    fn is_of_another(&self, run: &str) -> bool {
        PartName::parse(&self.file).is_some_and(|part| part.writer.run != run)
    }

    /// What there is of it. What is staged or published is compared with what the checkpoint says.
    fn find(&self, root: &Path, run: &str) -> anyhow::Result<Found> {
        let (staged, published) = (self.staged_at(root), self.published_at(root));
        match (look(&staged)?, look(&published)?) {
            (Some(metadata), None) => {
                self.compare(&staged, &metadata)?;
                Ok(Found::Staged)
            }
            (None, Some(metadata)) => {
                self.compare(&published, &metadata)?;
                Ok(Found::Published)
            }
            (Some(other), Some(metadata)) => {
                self.compare(&published, &metadata)?;
                if self.compare(&staged, &other).is_ok() {
                    durable::remove_file(&staged)?;
                }
                Ok(Found::Published)
            }
            (None, None) if self.is_of_another(run) => Ok(Found::Others),
            (None, None) => {
                let notes = Notes::of(root, self.place().0);
                if notes.cover(&self.file, self.checkpoint)? {
                    return Ok(Found::Taken);
                }
                Err(trouble::permanent(format!(
                    "output of checkpoint {} is missing in `{}`: neither `{}` nor `{}` exists ({}), \
                     and no note says that it was published; if `path` of the sink was changed, change it \
                     back, else put one of them back",
                    self.checkpoint,
                    root.display(),
                    self.file,
                    self.staging,
                    counted(self.records, "record"),
                )))
            }
        }
    }

    /// Compares a file with what the checkpoint says of it.
    fn compare(&self, path: &Path, metadata: &fs::Metadata) -> anyhow::Result<()> {
        let differs = |what: String| {
            trouble::permanent(format!(
                "`{}` is not what checkpoint {} has prepared: {what}; it is left as it is; put the \
                 right file in its place",
                path.display(),
                self.checkpoint,
            ))
        };
        if !metadata.is_file() {
            return Err(differs("it is not a file".to_owned()));
        }
        if metadata.len() != self.bytes {
            let length = metadata.len();
            return Err(differs(format!(
                "it has {length} bytes, {} were prepared",
                self.bytes
            )));
        }
        // This process has written it, and computed the checksum of what it wrote: the same file that
        // was not changed since has the same content.
        if self.written == Some(Written::of(metadata)) {
            return Ok(());
        }
        let Some(expected) = self.crc32c else {
            return Ok(());
        };
        let found = checksum(path)?;
        if found != expected {
            return Err(differs(format!(
                "its CRC-32C is {found:08x}, that of what was prepared {expected:08x}"
            )));
        }
        Ok(())
    }
}

/// What a sink has prepared, in words. `None` if it is not a file sink's.
pub(crate) fn describe_prepared(parts: &[Part]) -> Option<String> {
    let files: Vec<PreparedFile> = parts
        .iter()
        .map(|part| PreparedFile::read(part).ok())
        .collect::<Option<_>>()?;
    let sum = |of: fn(&PreparedFile) -> u64| files.iter().map(of).fold(0, u64::saturating_add);
    Some(format!(
        "{} with {}, {}",
        counted(files.len() as u64, "file"),
        counted(sum(|file| file.records), "record"),
        size(sum(|file| file.bytes))
    ))
}

/// Publishes files, each unless that was done before, and makes their names durable. Returns those that
/// were published once and do not exist any more.
///
/// # Errors
/// A file is lost or is another than the checkpoint says, or something cannot be written.
pub(crate) fn publish(
    root: &Path,
    files: &[&PreparedFile],
    run: &str,
) -> anyhow::Result<Published> {
    let mut done = Published::default();
    let mut staged = Vec::new();
    if files.is_empty() {
        return Ok(done);
    }
    durable::is_own_directory(&root.join(place::STAGING))?;
    for file in files {
        durable::is_own_directory(&root.join(file.place().0))?;
        match file.find(root, run)? {
            Found::Staged => staged.push(*file),
            Found::Published => {}
            Found::Others => done.others.push(file.file.clone()),
            Found::Taken => done.taken.push(file.file.clone()),
        }
    }
    // A crash before the notes are durable leaves the files staged; one between them and the renames
    // leaves them staged and noted, and they are published then.
    done.notes = note(root, &staged)?;
    for file in staged {
        let (from, to) = (file.staged_at(root), file.published_at(root));
        match durable::rename_to_free(&from, &to) {
            Ok(()) => {}
            // By the run before this one, which was taken for dead and was just at it.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists)
                    && file.find(root, run)? != Found::Staged => {}
            Err(error) => {
                let (from, to) = (from.display(), to.display());
                return Err(anyhow!(error).context(format!("cannot rename `{from}` to `{to}`")));
            }
        }
    }
    // Until here a power loss may undo the renames; the restore does them again.
    durable::sync_directory(root)?;
    Ok(done)
}

/// What [`publish`] has done.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Files that were published before and do not exist any more.
    pub(crate) taken: Vec<String>,
    /// Files of another run that are not here.
    pub(crate) others: Vec<String>,
    /// The notes that it made.
    pub(crate) notes: Vec<(PathBuf, NoteName)>,
}

/// Notes that files are being published.
fn note(root: &Path, files: &[&PreparedFile]) -> anyhow::Result<Vec<(PathBuf, NoteName)>> {
    let mut notes: BTreeMap<(String, String), Option<NoteName>> = BTreeMap::new();
    for file in files {
        let place = StagingDirectory::notes_of(file.place().0);
        let Some(part) = PartName::parse(&file.file) else {
            // A file of an older version is noted by its name.
            notes.insert((place, file.file.clone()), None);
            continue;
        };
        let key = (place, format!("{}-{}", part.writer.run, part.writer));
        let note = notes.entry(key).or_default();
        let (checkpoint, files) = note
            .as_ref()
            .map_or((0, 0), |note| (note.checkpoint, note.files));
        *note = Some(NoteName {
            writer: part.writer,
            checkpoint: checkpoint.max(file.checkpoint),
            files: files.max(part.counter.saturating_add(1)),
        });
    }
    let mut made = Vec::new();
    let mut directories = BTreeSet::new();
    for ((place, key), note) in notes {
        let directory = root.join(&place);
        if !durable::is_own_directory(&directory)? {
            durable::make_directory(&directory)?;
        }
        directories.insert(place);
        let name = note.as_ref().map_or(key, ToString::to_string);
        let path = directory.join(name);
        durable::open_own_file(&path, File::options().create(true).append(true))
            .with_context(|| format!("cannot create `{}`", path.display()))?;
        made.extend(note.map(|note| (path, note)));
    }
    for directory in directories {
        durable::sync_directory(&root.join(directory))?;
    }
    Ok(made)
}

fn look(path: &Path) -> anyhow::Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look at `{}`", path.display())),
    }
}

fn checksum(path: &Path) -> anyhow::Result<u32> {
    let failed = || format!("cannot read `{}`", path.display());
    let mut file = durable::open_own_file(path, File::options().read(true)).with_context(failed)?;
    let mut block = vec![0; BLOCK];
    let mut checksum = 0;
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(checksum),
            Ok(length) => checksum = crc32c::crc32c_append(checksum, &block[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(failed),
        }
    }
}
