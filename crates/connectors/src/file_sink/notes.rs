//! What a job notes of what it publishes: empty files whose [names](super::names) say which files are
//! published, also when a consumer has moved them away.

use std::fs;
use std::path::{Path, PathBuf};

use operator::JobIdentity;

use super::durable::{is_own_directory, names_in, remove_file};
use super::names::{self, NoteName, PartName};
use super::place::StagingDirectory;

/// How many checkpoints back notes are kept. A checkpoint older than that can still be restored unless
/// a consumer has moved its output away.
const NOTED_CHECKPOINTS: u64 = 256;

/// What a job has noted of its published files.
#[derive(Debug)]
pub(crate) struct Notes {
    directory: PathBuf,
}

impl Notes {
    /// Those of the job that a staging place is of, by the place's name.
    pub(crate) fn of(root: &Path, place: &str) -> Self {
        Self {
            directory: root.join(StagingDirectory::notes_of(place)),
        }
    }

    /// Those of a job.
    pub(crate) fn of_job(root: &Path, job: &JobIdentity) -> Self {
        Self::of(root, &StagingDirectory::new(job, 0).path())
    }

    /// Whether a file of this checkpoint is noted.
    ///
    /// # Errors
    /// The notes cannot be read.
    pub(crate) fn cover(&self, file: &str, checkpoint: u64) -> anyhow::Result<bool> {
        let Some(part) = PartName::parse(file) else {
            return Ok(self.names()?.iter().any(|name| name == file));
        };
        let covers = |note: &NoteName| {
            note.writer == part.writer && note.checkpoint >= checkpoint && note.files > part.counter
        };
        Ok(self.read()?.iter().any(covers))
    }

    /// All that can be read.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(crate) fn read(&self) -> anyhow::Result<Vec<NoteName>> {
        let names = self.names()?;
        Ok(names
            .iter()
            .filter_map(|name| NoteName::parse(name))
            .collect())
    }

    fn names(&self) -> anyhow::Result<Vec<String>> {
        if !is_own_directory(&self.directory)? {
            return Ok(Vec::new());
        }
        names_in(&self.directory)
    }

    /// Where a note is.
    pub(crate) fn path_of(&self, note: &NoteName) -> PathBuf {
        self.directory.join(note.to_string())
    }

    /// Removes those that only a checkpoint could need that is much older than the newest one, but for
    /// what the files that are named `restored` may need.
    pub(crate) fn prune<'a>(&self, restored: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
        let notes = self.read()?;
        let newest = notes.iter().map(|note| note.checkpoint).max().unwrap_or(0);
        let parts: Vec<PartName> = restored.filter_map(PartName::parse).collect();
        let is_needed = |note: &NoteName| parts.iter().any(|part| part.writer == note.writer);
        for note in notes.iter().filter(|note| !is_needed(note)) {
            if is_outdated(note.checkpoint, newest) {
                remove_file(&self.path_of(note))?;
            }
        }
        Ok(())
    }

    /// Removes those that are to go, `None` for those of an older version, and the directory if it is
    /// empty then.
    pub(crate) fn remove(&self, goes: impl Fn(Option<&NoteName>) -> bool) -> anyhow::Result<()> {
        for name in self.names()? {
            let note = NoteName::parse(&name);
            if (note.is_some() || names::is_published(&name)) && goes(note.as_ref()) {
                remove_file(&self.directory.join(name))?;
            }
        }
        // It stays if something is in it.
        let _stays = fs::remove_dir(&self.directory);
        if let Some(parent) = self.directory.parent() {
            let _stays = fs::remove_dir(parent);
        }
        Ok(())
    }
}

/// Whether a note of this checkpoint is of no use any more when the newest is of that one.
pub(crate) fn is_outdated(checkpoint: u64, newest: u64) -> bool {
    checkpoint.saturating_add(NOTED_CHECKPOINTS) < newest
}
