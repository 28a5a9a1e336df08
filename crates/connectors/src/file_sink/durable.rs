//! Directories and names that survive a power loss.
//!
//! A new name is durable when the directory that has it is flushed, a new directory when that with its
//! name in it is. So every directory from the root of the file system down to where a sink writes is
//! flushed once before anything in it is announced, also those that were there already: an earlier run
//! may have made them and been killed before it flushed them. Flushing one that has not changed costs
//! nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use checkpoint::storage::Permissions;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::trouble;

/// Makes a directory and all directories above it, and flushes each of them. Returns whether it was there
/// already.
///
/// # Errors
/// One cannot be made or flushed.
pub(crate) fn make_directories(path: &Path) -> anyhow::Result<bool> {
    let path = std::path::absolute(path)
        .with_context(|| format!("cannot find the directory of `{}`", path.display()))?;
    let mut existed = true;
    let above: Vec<&Path> = path.ancestors().collect();
    for directory in above.into_iter().rev() {
        if !directory.is_dir() {
            match fs::create_dir(directory) {
                Ok(()) => existed = false,
                // By another subtask or run, just now.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot create `{}`", directory.display()));
                }
            }
        }
        match sync_directory(directory) {
            // Another's, which we may not list; nor have we made anything in it.
            Err(_) if existed && directory != path => {}
            synced => synced?,
        }
        if !existed && let Some(parent) = directory.parent() {
            sync_directory(parent)?;
        }
    }
    Ok(existed)
}

/// Makes the directory for what is staged, with these permissions, and flushes it and the one it is in. One
/// that exists becomes private, if it is to be.
///
/// # Errors
/// It cannot be made or flushed, is something else than a directory, or is to be private and belongs to
/// another user.
pub(crate) fn make_staging(path: &Path, permissions: Permissions) -> anyhow::Result<()> {
    make_directory_with(path, permissions.of_directories())?;
    if permissions != Permissions::Private {
        return Ok(());
    }
    let metadata = fs::symlink_metadata(path);
    let metadata = metadata.with_context(|| format!("cannot look at `{}`", path.display()))?;
    let is_of_another = || {
        trouble::permanent(format!(
            "`{}` belongs to another user, so output that is staged in it would not be private: give \
             the sink a `path` of its own, or set `checkpoint.permissions` to \"group\" or \"umask\"",
            path.display()
        ))
    };
    if metadata.mode() & 0o077 != 0 {
        let private = fs::Permissions::from_mode(metadata.mode() & 0o7700);
        match fs::set_permissions(path, private) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(is_of_another());
            }
            changed => changed
                .with_context(|| format!("cannot change permissions of `{}`", path.display()))?,
        }
    }
    // Root may do all that in the directory of somebody else.
    match geteuid().is_root() && metadata.uid() != owner_in(path)? {
        true => Err(is_of_another()),
        false => Ok(()),
    }
}

/// A name for a file that is made only to see whether it can be. No other job of this process has it at the same
/// time, and no other process of this machine.
pub(crate) fn probe_name() -> String {
    static PROBES: AtomicU64 = AtomicU64::new(0);
    let number = PROBES.fetch_add(1, Ordering::Relaxed);
    format!(".highwater-probe-{}-{number}", std::process::id())
}

/// The owner that the file system gives to what is ours in a directory, whatever number that is: over a
/// network root may be somebody else.
fn owner_in(directory: &Path) -> anyhow::Result<u32> {
    let probe = directory.join(probe_name());
    let failed = || format!("cannot write to `{}`", directory.display());
    // Of a process that had this number and was killed.
    remove_file(&probe)?;
    let made = File::create_new(&probe).with_context(failed)?;
    let owner = made.metadata().with_context(failed)?.uid();
    remove_file(&probe)?;
    Ok(owner)
}

/// Makes a directory in one that exists, for those who may use that one, and flushes both. A symbolic
/// link in its place is refused.
///
/// # Errors
/// It cannot be made or flushed, or is something else than a directory.
pub(crate) fn make_directory(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().and_then(|parent| fs::metadata(parent).ok());
    make_directory_with(path, parent.map_or(0o700, |parent| parent.mode() & 0o777))
}

fn make_directory_with(path: &Path, mode: u32) -> anyhow::Result<()> {
    if !is_own_directory(path)? {
        match DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot create `{}`", path.display()));
            }
            _ => {}
        }
    }
    sync_directory(path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Opens one of our files, which somebody else may have replaced by anything: no link is followed, and a
/// pipe keeps nobody waiting. `options` say for what.
///
/// # Errors
/// It cannot be opened, or is no file.
pub(crate) fn open_own_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = options.custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a file")),
    }
}

/// Whether there is a directory of this name. One that a link leads to is not taken for ours: what is
/// written and removed in it would be somewhere else.
///
/// # Errors
/// It is a symbolic link or a file, or cannot be looked at.
pub(crate) fn is_own_directory(path: &Path) -> anyhow::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(true),
        Ok(metadata) if metadata.is_symlink() => Err(trouble::permanent(format!(
            "`{}` is a symbolic link, and output is staged in a directory of its own only: remove \
             the link",
            path.display()
        ))),
        Ok(_) => Err(trouble::permanent(format!(
            "`{}` is not a directory, but output is staged in a directory of this name: move it away, and \
             resume",
            path.display()
        ))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot look at `{}`", path.display())),
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The directory cannot be synced.
pub(crate) fn sync_directory(path: &Path) -> anyhow::Result<()> {
    // The parent of a relative name of one part.
    let directory = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let sync = || -> io::Result<()> { File::open(directory)?.sync_all() };
    sync().with_context(|| format!("cannot sync the directory `{}`", directory.display()))
}

/// Gives a file a name that is free, in one step: it has the old name or the new one. The directories
/// are still to be synced.
///
/// # Errors
/// The name is taken (`AlreadyExists`), the file does not exist, and whatever else may be.
pub(crate) fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(renamed) = rename_if_free(from, to) {
        return renamed;
    }
    // A link and a removal would be two steps: killed between them, a file that a consumer has taken
    // meanwhile is published again. Looking first leaves a moment in which another might take the name,
    // but nobody else makes such names.
    match fs::symlink_metadata(to) {
        Ok(_) => Err(ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => fs::rename(from, to),
        Err(error) => Err(error),
    }
}

/// The same by the one call that does it. `None` where the system has no such call, or the file system
/// does not know it (NFS, some in user space).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn rename_if_free(from: &Path, to: &Path) -> Option<io::Result<()>> {
    use nix::errno::Errno;
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::ENOTSUP) => None,
        renamed => Some(renamed.map_err(io::Error::from)),
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn rename_if_free(_from: &Path, _to: &Path) -> Option<io::Result<()>> {
    None
}

/// The names in a directory. None if there is no directory.
///
/// # Errors
/// It cannot be listed.
pub(crate) fn names_in(directory: &Path) -> anyhow::Result<Vec<String>> {
    let failed = || format!("cannot list `{}`", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not text is none of ours.
        names.extend(entry.with_context(failed)?.file_name().into_string());
    }
    Ok(names)
}

/// Removes a file that may have been removed before.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn remove_file(path: &PathBuf) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}
