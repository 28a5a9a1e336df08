//! The staging place of a file sink: where output is between being written and being committed.
//!
//! Below the sink's directory:
//!
//! - `.highwater/<job>.g<generation>/`: the staged files of one run, and a file `lock` that it holds
//!   while it lives, so that no other run removes what it has prepared. A run that was taken for dead
//!   and is not may go on writing for a moment, and must not be in the way of its successor, which has
//!   another generation. Without a job directory there is no generation in the name.
//! - `.highwater/<job>.published/`: empty files whose names [note](super::notes) what the job has
//!   published.
//!
//! `<job>` is the job's id, a point, and the token of the job's directory: generations are numbers of one
//! directory, so those of two jobs that have one id and two directories say nothing of each other. There is
//! no token if there is no directory or an older version made it.
//!
//! Invariants: a staged file is removed only under the lock of its place and only when no restored part
//! names it; a place of a later generation, or of another job, is not touched; no symbolic link is
//! followed; nothing is removed whose name is not exactly one of ours.
//!
//! Each directory is looked at before it is used. Who may write to the sink's directory could put a link in
//! its place between the look and the use, and so have files of exactly our names removed elsewhere: but
//! to that person the output itself is open. `.highwater` is private, so nobody else comes between.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use checkpoint::storage::Permissions;
use operator::JobIdentity;

use super::durable::{self, is_own_directory, names_in, remove_file, sync_directory};
use super::names;
use super::notes::Notes;
use super::place::{STAGING, StagingDirectory, directory_name};
use super::prepared::PreparedFile;

const LOCK: &str = "lock";

/// A staging place, locked while this lives.
#[derive(Debug)]
pub(crate) struct Staging {
    /// The sink's directory.
    root: PathBuf,
    place: StagingDirectory,
    /// `None` where the file system knows no locks.
    lock: Option<File>,
}

impl Staging {
    /// Makes the staging place of a run of a job and takes its lock. The sink's directory exists.
    ///
    /// # Errors
    /// The directory cannot be written or is a symbolic link, or another sink holds the lock.
    pub(crate) fn open(
        root: &Path,
        job: &JobIdentity,
        generation: u64,
        permissions: Permissions,
    ) -> anyhow::Result<Self> {
        let place = StagingDirectory::new(job, generation);
        durable::make_staging(&root.join(STAGING), permissions)?;
        let notes = root.join(StagingDirectory::notes_of(&place.path()));
        if is_own_directory(&notes)? {
            // Made by a run that may have been killed before it was durable.
            durable::make_directory(&notes)?;
        }
        let directory = root.join(place.path());
        durable::make_directory(&directory)?;
        let Locked::Yes(lock) = try_lock(&directory)? else {
            bail!(
                "`{}` is written by another sink or another run of job `{}`: give each a path of its own",
                root.display(),
                job.id
            )
        };
        Ok(Self {
            root: root.to_owned(),
            place,
            lock,
        })
    }

    /// Whether it is still there.
    pub(crate) fn is_there(&self) -> bool {
        let lock = self.root.join(self.place.path()).join(LOCK);
        fs::symlink_metadata(lock).is_ok_and(|lock| lock.is_file())
    }

    /// Removes what earlier attempts left in this place and what earlier runs of the job left in theirs:
    /// all that is not in `restored`. Must not run while a sink writes here.
    ///
    /// # Errors
    /// A directory cannot be read or a file not be removed.
    pub(crate) fn clean(&self, restored: &[PreparedFile]) -> anyhow::Result<()> {
        let keep: HashSet<&str> = restored.iter().map(|file| file.staging.as_str()).collect();
        let place = self.place.path();
        if is_own_directory(&self.root.join(&place))? {
            remove_staged(&self.root, &place, &keep)?;
        }
        self.clean_earlier_places(&keep)?;
        Notes::of(&self.root, &place).prune(restored.iter().map(|file| file.file.as_str()))
    }

    fn clean_earlier_places(&self, keep: &HashSet<&str>) -> anyhow::Result<()> {
        for place in StagingDirectory::all_named(&self.root, self.place.job.clone())? {
            if place.generation < self.place.generation {
                // A run that holds the lock lives, though it does not own the job directory any more.
                // What it leaves is removed at the end of this one, or by the next.
                clear(&self.root, &place.path(), keep)?;
            }
        }
        Ok(())
    }

    /// Where a file is until it is committed, relative to the sink's directory.
    pub(crate) fn path_of(&self, leaf: &str) -> String {
        format!("{}/{leaf}", self.place.path())
    }

    /// Makes the names of new staged files durable.
    ///
    /// # Errors
    /// The directory cannot be synced.
    pub(crate) fn sync(&self) -> anyhow::Result<()> {
        sync_directory(&self.root.join(self.place.path()))
    }

    /// Removes the other staging places that `restored` names, if nothing is in them any more.
    pub(crate) fn remove_other_places(&self, restored: &[PreparedFile]) {
        let own = self.place.path();
        let places: HashSet<&str> = restored.iter().map(|file| file.place().0).collect();
        for place in places.into_iter().filter(|place| **place != *own) {
            let directory = self.root.join(place);
            if matches!(is_own_directory(&directory), Ok(true))
                && matches!(try_lock(&directory), Ok(Locked::Yes(_)))
            {
                remove_if_empty(&directory);
            }
        }
    }

    /// Whether it is a staging place of this job.
    pub(crate) fn is_of(&self, job: &JobIdentity) -> bool {
        self.place.job == directory_name(job)
    }

    /// Removes the staging place if nothing is in it, and what earlier runs of the job have written
    /// since this one began, if they are gone by now.
    pub(crate) fn remove(self) {
        // What a checkpoint had of theirs is committed. That something stays is no harm.
        let _stays = self.clean_earlier_places(&HashSet::new());
        remove_if_empty(&self.root.join(self.place.path()));
        drop(self.lock);
    }
}

/// Removes the staging places of a job, up to this generation, that will never commit what is in them,
/// and its notes. One that a sink holds is left to it.
///
/// # Errors
/// A directory cannot be read or a file not be removed.
pub(crate) fn abandon(root: &Path, job: &JobIdentity, generation: u64) -> anyhow::Result<()> {
    for place in StagingDirectory::all_of(root, job)? {
        if place.generation <= generation {
            clear(root, &place.path(), &HashSet::new())?;
        }
    }
    let notes = Notes::of_job(root, job);
    notes.remove(|note| note.is_none_or(|note| note.writer.generation <= generation))
}

/// Removes what generations of a job before this one have staged, except `kept`. The caller holds the
/// locks of their places.
///
/// # Errors
/// A directory cannot be read or a file not be removed.
pub(crate) fn give_up(
    root: &Path,
    job: &JobIdentity,
    generation: u64,
    kept: &[PreparedFile],
) -> anyhow::Result<()> {
    let keep: HashSet<&str> = kept.iter().map(|file| file.staging.as_str()).collect();
    for place in StagingDirectory::all_of(root, job)? {
        let directory = root.join(place.path());
        if place.generation < generation && is_own_directory(&directory)? {
            remove_staged(root, &place.path(), &keep)?;
            sync_directory(&directory)?;
        }
    }
    Ok(())
}

/// Takes the locks of all staging places of a job, so that none of its runs publishes while they are held.
///
/// # Errors
/// A run of the job lives.
pub(crate) fn lock_all(root: &Path, job: &JobIdentity) -> anyhow::Result<Vec<File>> {
    let mut locks = Vec::new();
    for place in StagingDirectory::all_of(root, job)? {
        let directory = root.join(place.path());
        if !is_own_directory(&directory)? {
            continue;
        }
        match try_lock(&directory)? {
            Locked::Yes(lock) => locks.extend(lock),
            Locked::ByAnother => bail!(
                "another run of job `{}` still writes to `{}`, or is paused: end it, and start \
                 this one again",
                job.id,
                root.display()
            ),
        }
    }
    Ok(locks)
}

/// Removes all staged files of a place but those to keep, and the place if it is empty then, unless a
/// sink holds it.
fn clear(root: &Path, place: &str, keep: &HashSet<&str>) -> anyhow::Result<()> {
    let directory = root.join(place);
    // Another run may have removed it just now.
    if is_own_directory(&directory)?
        && let Locked::Yes(_lock) = try_lock(&directory)?
    {
        remove_staged(root, place, keep)?;
        remove_if_empty(&directory);
    }
    Ok(())
}

enum Locked {
    Yes(Option<File>),
    ByAnother,
}

fn try_lock(directory: &Path) -> anyhow::Result<Locked> {
    let path = directory.join(LOCK);
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    let file = durable::open_own_file(&path, &mut options)
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Locked::Yes(Some(file))),
        Err(TryLockError::WouldBlock) => Ok(Locked::ByAnother),
        // A file system without locks: then nothing is known, and output still works.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
            Ok(Locked::Yes(None))
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock `{}`", path.display()))
        }
    }
}

fn remove_staged(root: &Path, place: &str, keep: &HashSet<&str>) -> anyhow::Result<()> {
    let names = names_in(&root.join(place))?;
    for name in names.iter().filter(|name| names::is_staged(name)) {
        let path = format!("{place}/{name}");
        if !keep.contains(path.as_str()) {
            remove_file(&root.join(path))?;
        }
    }
    Ok(())
}

/// Removes a staging place that nothing but the lock is in. That it stays is no harm.
fn remove_if_empty(directory: &Path) {
    let Ok(names) = names_in(directory) else {
        return;
    };
    if names.iter().all(|name| name == LOCK) {
        let _stays = fs::remove_file(directory.join(LOCK));
        let _stays = fs::remove_dir(directory);
        if let Some(parent) = directory.parent() {
            let _stays = fs::remove_dir(parent);
        }
    }
}
