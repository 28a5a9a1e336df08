//! Output that a checkpoint has prepared for a sink which the job no longer has: its state may be given
//! up, but its records are part of what the checkpoint covers, so nobody would write them again.
//!
//! It is looked for in the directories that are known: those of the job's file sinks of today (a sink
//! that was renamed keeps its path), and the one that the checkpoint names. What is staged is published
//! where it is. A checkpoint may come from anywhere and must not choose whose files are published: in a
//! directory that only it names, files are those of this run, by their names.

use std::path::{Path, PathBuf};

use operator::source::Part;

use super::prepared::{self, Fate, PreparedFile};

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
    /// Where it was looked for and, if anything of it is there, found. `None`: no directory is known.
    pub root: Option<PathBuf>,
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

/// Looks for the prepared output in `parts`, without changing anything: in the directories of the job's
/// sinks, and in the one that the checkpoint names. `None`: it is not a file sink's.
///
/// # Errors
/// A file is there, but is not what the checkpoint says, or cannot be looked at.
pub fn find(
    parts: &[Part],
    own: &[PathBuf],
    recorded: Option<&Path>,
    run: &str,
) -> Option<anyhow::Result<Orphans>> {
    let files: Option<Vec<PreparedFile>> = parts
        .iter()
        .map(|part| PreparedFile::read(part).ok())
        .collect();
    Some(look(&files?, own, recorded, run))
}

fn look(
    files: &[PreparedFile],
    own: &[PathBuf],
    recorded: Option<&Path>,
    run: &str,
) -> anyhow::Result<Orphans> {
    let mut best: Option<(u64, Orphans)> = None;
    let roots = own.iter().map(PathBuf::as_path).chain(recorded);
    for root in roots {
        let is_own = own.iter().any(|own| own == root);
        let mut orphans = Orphans {
            root: Some(root.to_owned()),
            ..Orphans::default()
        };
        for file in files {
            orphans.all.add(file);
            match file.fate(root, run)? {
                Fate::Staged if is_own || file.is_of(run) => {
                    orphans.staged.add(file);
                    orphans.files.push(file.clone());
                }
                Fate::Published => {}
                Fate::Staged | Fate::Others => orphans.others.add(file),
                Fate::Missing => orphans.missing.add(file),
            }
        }
        let found = orphans.all.files - orphans.others.files - orphans.missing.files;
        if best.as_ref().is_none_or(|(most, _)| found >= *most) {
            best = Some((found, orphans));
        }
    }
    Ok(match best {
        Some((_, orphans)) => orphans,
        None => {
            let mut orphans = Orphans::default();
            files.iter().for_each(|file| orphans.all.add(file));
            orphans.missing = orphans.all;
            orphans
        }
    })
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
