//! The staging place of a file sink: where output lies between being written and being committed.
//!
//! Below the sink's directory: `.highwater/<job id>/<final name>.pending`, and a file `lock` that a
//! running sink holds, so that no other run removes what it has prepared. A run that owns its job
//! directory has a place of its own, `.highwater/<job id>.g<generation>`: a run that was taken for
//! dead and is not may go on writing for a moment, and must not be in the way.
//!
//! Invariants: a pending file is removed only under the lock of its directory and only when no
//! restored part names it; a final name is never written over.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// The directory within the sink's directory that holds all staging places.
const STAGING: &str = ".highwater";
const PENDING: &str = ".pending";
const LOCK: &str = "lock";
/// Before the generation in a place's name; not to be found in a job's.
const GENERATION: &str = ".g";

/// A file that is prepared and not committed, as a checkpoint records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreparedFile {
    /// Where it lies, relative to the sink's directory.
    pub(crate) staging: String,
    /// Its name in the sink's directory once it is committed.
    pub(crate) file: String,
    /// Its length.
    pub(crate) bytes: u64,
    /// Records in it.
    pub(crate) records: u64,
    /// The checkpoint that prepared it.
    pub(crate) checkpoint: u64,
}

/// A staging place, locked while this lives.
#[derive(Debug)]
pub(crate) struct Staging {
    /// The sink's directory.
    root: PathBuf,
    /// The staging place's name relative to it.
    name: String,
    /// What the names of the same job's other places are made of.
    job: String,
    generation: u64,
    /// `None` where the file system knows no locks.
    lock: Option<File>,
}

impl PreparedFile {
    /// Reads a part of a checkpoint. Its paths are checked to stay within the sink's directory.
    ///
    /// # Errors
    /// It is not a file sink's, or leads elsewhere.
    pub(crate) fn read(part: &serde_json::Value) -> anyhow::Result<Self> {
        let file = Self::deserialize(part).with_context(|| {
            format!("the snapshot has a part that is not a file sink's: {part}")
        })?;
        let is_plain = |path: &str, parts: usize| {
            let mut components = Path::new(path).components();
            components.clone().count() == parts
                && components.all(|part| matches!(part, Component::Normal(_)))
        };
        if !is_plain(&file.file, 1)
            || !is_plain(&file.staging, 3)
            || !file.staging.starts_with(STAGING)
        {
            bail!("the snapshot has a part that leads out of the sink's directory: {part}");
        }
        Ok(file)
    }

    /// Makes the file visible, unless that was done before. The directory is still to be synced.
    ///
    /// A crash before the rename leaves the file in staging, where the next restore finds it; one
    /// behind it leaves the final name, which the next restore takes for done.
    ///
    /// # Errors
    /// It is in neither place, or its name is taken by another file.
    pub(crate) fn commit(&self, root: &Path) -> anyhow::Result<()> {
        let (from, to) = (root.join(&self.staging), root.join(&self.file));
        match (exists(&from)?, exists(&to)?) {
            (true, false) => match fs::rename(&from, &to) {
                // By the run before this one, which was taken for dead and was just at it.
                Err(error) if error.kind() == ErrorKind::NotFound && exists(&to)? => Ok(()),
                renamed => renamed.with_context(|| {
                    format!("cannot rename `{}` to `{}`", from.display(), to.display())
                }),
            },
            (false, true) => Ok(()),
            (true, true) => bail!(
                "cannot commit `{}`: `{}` exists already",
                from.display(),
                to.display()
            ),
            (false, false) => bail!(
                "prepared output of checkpoint {} is missing: neither `{}` nor `{}` exists ({} records)",
                self.checkpoint,
                from.display(),
                to.display(),
                self.records
            ),
        }
    }

    /// The staging place that the file is in.
    fn place(&self) -> &str {
        self.staging.rsplit_once('/').map_or("", |(place, _)| place)
    }
}

fn exists(path: &Path) -> anyhow::Result<bool> {
    path.try_exists()
        .with_context(|| format!("cannot look at `{}`", path.display()))
}

impl Staging {
    /// Makes the staging place of a run of a job and takes its lock.
    ///
    /// # Errors
    /// The directory cannot be written, or another sink holds the lock.
    pub(crate) fn open(root: &Path, job_id: &str, generation: u64) -> anyhow::Result<Self> {
        let job = directory_name(job_id);
        let name = match generation {
            0 => format!("{STAGING}/{job}"),
            generation => format!("{STAGING}/{job}{GENERATION}{generation}"),
        };
        let directory = root.join(&name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create `{}`", directory.display()))?;
        let lock = match try_lock(&directory)? {
            Locked::Yes(lock) => lock,
            Locked::ByAnother => bail!(
                "`{}` is written by another sink or another run of job `{job_id}`: give each a path of its own",
                root.display()
            ),
        };
        Ok(Self {
            root: root.to_owned(),
            name,
            job,
            generation,
            lock,
        })
    }

    /// Removes what earlier attempts left in this place, in those of earlier runs and in those that
    /// `restored` names: all that is not in `restored`. Must not run while a sink writes here.
    ///
    /// # Errors
    /// A directory cannot be read or a file not be removed.
    pub(crate) fn clean(&self, restored: &[PreparedFile]) -> anyhow::Result<()> {
        let keep: HashSet<PathBuf> = restored
            .iter()
            .map(|file| self.root.join(&file.staging))
            .collect();
        remove_pending(&self.root.join(&self.name), &keep)?;
        self.clean_other_places(restored, &keep)
    }

    fn clean_other_places(
        &self,
        restored: &[PreparedFile],
        keep: &HashSet<PathBuf>,
    ) -> anyhow::Result<()> {
        for place in self.other_places(restored) {
            // The job that wrote it may be running still, if this one was started from a savepoint
            // of it: then its files are its own business.
            if place.is_dir()
                && let Locked::Yes(_lock) = try_lock(&place)?
            {
                remove_pending(&place, keep)?;
                remove_if_empty(&place);
            }
        }
        Ok(())
    }

    /// Where a file lies until it is committed, relative to the sink's directory.
    pub(crate) fn path_of(&self, file: &str) -> String {
        format!("{}/{file}{PENDING}", self.name)
    }

    /// Makes the names of new pending files durable.
    ///
    /// # Errors
    /// The directory cannot be synced.
    pub(crate) fn sync(&self) -> anyhow::Result<()> {
        sync_directory(&self.root.join(&self.name))
    }

    /// Removes the other staging places that `restored` names, once nothing is in them.
    pub(crate) fn remove_other_places(&self, restored: &[PreparedFile]) {
        for place in self.other_places(restored) {
            if place.is_dir() && matches!(try_lock(&place), Ok(Locked::Yes(_))) {
                remove_if_empty(&place);
            }
        }
    }

    /// Whether it is a staging place of this job.
    pub(crate) fn is_of(&self, job_id: &str) -> bool {
        self.job == directory_name(job_id)
    }

    /// Removes the staging place if nothing is in it, and what earlier runs of the job have written
    /// since this one began, if they are gone by now.
    pub(crate) fn remove(self) {
        // What a checkpoint had of theirs is committed. That something stays is no harm.
        let _stays = self.clean_other_places(&[], &HashSet::new());
        remove_if_empty(&self.root.join(&self.name));
        drop(self.lock);
    }

    /// The staging places of other jobs that `restored` names, and of earlier runs of this one.
    fn other_places(&self, restored: &[PreparedFile]) -> HashSet<PathBuf> {
        let named = restored.iter().map(|file| file.place().to_owned());
        // A later run than this one is none of our business.
        let of_job = places_of(&self.root, &self.job)
            .into_iter()
            .filter(|(generation, _)| *generation < self.generation)
            .map(|(_, place)| place);
        let others = named.chain(of_job).filter(|place| *place != self.name);
        others.map(|place| self.root.join(place)).collect()
    }
}

/// The staging places of all runs of a job, by its directory's name, with their generations. What
/// cannot be listed is left for the next start to clean up.
fn places_of(root: &Path, job: &str) -> Vec<(u64, String)> {
    let entries = fs::read_dir(root.join(STAGING)).into_iter().flatten();
    entries
        .filter_map(|entry| {
            let leaf = entry.ok()?.file_name().into_string().ok()?;
            let generation: u64 = match leaf.strip_prefix(job)? {
                "" => 0,
                rest => rest.strip_prefix(GENERATION)?.parse().ok()?,
            };
            Some((generation, format!("{STAGING}/{leaf}")))
        })
        .collect()
}

/// Removes the staging places of a job, up to this generation, that will never commit what is in them.
/// One that a sink holds is left to it.
///
/// # Errors
/// A directory cannot be read or a file not be removed.
pub(crate) fn abandon(root: &Path, job_id: &str, generation: u64) -> anyhow::Result<()> {
    let places = places_of(root, &directory_name(job_id)).into_iter();
    for (_, place) in places.filter(|(of, _)| *of <= generation) {
        let directory = root.join(place);
        if let Locked::Yes(_lock) = try_lock(&directory)? {
            remove_pending(&directory, &HashSet::new())?;
            remove_if_empty(&directory);
        }
    }
    Ok(())
}

enum Locked {
    Yes(Option<File>),
    ByAnother,
}

fn try_lock(directory: &Path) -> anyhow::Result<Locked> {
    let path = directory.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.with_context(|| format!("cannot write `{}`", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Locked::Yes(Some(file))),
        Err(TryLockError::WouldBlock) => Ok(Locked::ByAnother),
        // A file system without locks: then nothing can be told, and output still works.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
            Ok(Locked::Yes(None))
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock `{}`", path.display()))
        }
    }
}

fn remove_pending(directory: &Path, keep: &HashSet<PathBuf>) -> anyhow::Result<()> {
    let failed = || format!("cannot clean up `{}`", directory.display());
    for entry in fs::read_dir(directory).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let is_pending = path.to_str().is_some_and(|path| path.ends_with(PENDING));
        if is_pending && !keep.contains(&path) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot remove `{}`", path.display()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes a staging place that nothing but the lock is in. That it stays is no harm.
fn remove_if_empty(directory: &Path) {
    let Ok(mut entries) = fs::read_dir(directory) else {
        return;
    };
    if entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK)) {
        let _stays = fs::remove_file(directory.join(LOCK));
        let _stays = fs::remove_dir(directory);
        if let Some(parent) = directory.parent() {
            let _stays = fs::remove_dir(parent);
        }
    }
}

/// A job id as the name of a directory.
fn directory_name(job_id: &str) -> String {
    let plain = |c: char| {
        if c.is_alphanumeric() || matches!(c, '-' | '_') {
            c
        } else {
            '_'
        }
    };
    job_id.chars().map(plain).collect()
}

/// What stands for a job in the names of its files: the hex digits at the end of its id, or of a hash
/// of it when it has none.
pub(crate) fn short_job_id(job_id: &str) -> String {
    match job_id.rsplit_once('-') {
        Some((_, hex)) if hex.len() == 8 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            hex.to_owned()
        }
        _ => format!("{:08x}", dataflow::key::hash(job_id.as_bytes()) as u32),
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The directory cannot be synced.
pub(crate) fn sync_directory(path: &Path) -> anyhow::Result<()> {
    let sync = || -> io::Result<()> { File::open(path)?.sync_all() };
    sync().with_context(|| format!("cannot sync the directory `{}`", path.display()))
}
