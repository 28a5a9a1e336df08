//! Scratch files for cold state: on a local disk, in a directory of one subtask of one attempt.
//!
//! Nothing refers to them and nobody else reads them, so nothing is synced, and a crash leaves what
//! the next start removes: a directory is locked as long as its process lives, and one that nobody
//! holds is a dead process's.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use dataflow::state::{ColdFile, ColdStorage};

/// What the names of our directories begin with.
const PREFIX: &str = "highwater-";

/// A directory of our own, removed when the last file in it goes.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

/// The scratch files of a subtask.
#[derive(Debug)]
pub(crate) struct Scratch {
    directory: Arc<Directory>,
    /// Number of the next file.
    next: u64,
}

#[derive(Debug)]
struct ScratchFile {
    path: PathBuf,
    file: File,
    _directory: Arc<Directory>,
}

/// An error with what was done where, and what to do about it.
fn failed(action: &str, path: &Path, error: &io::Error) -> io::Error {
    let message = format!(
        "{action} {} failed ({error}); what does not fit `limits.state-memory` goes to `job.scratch-dir`, which must be a local disk with room for it",
        path.display()
    );
    io::Error::new(error.kind(), message)
}

impl Scratch {
    /// A new directory below `parent`, which is made if need be. Removes those that dead processes
    /// have left there.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn create(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent).map_err(|error| failed("making", parent, &error))?;
        sweep(parent);
        let mut number = 0_u64;
        loop {
            let path = parent.join(format!("{PREFIX}{}-{number}", process::id()));
            if let Some(directory) = Directory::create(&path)? {
                return Ok(Self {
                    directory: Arc::new(directory),
                    next: 0,
                });
            }
            number += 1;
        }
    }
}

impl Directory {
    /// Makes and locks it; `None` if there is one of this name, or somebody takes ours for left over.
    fn create(path: &Path) -> io::Result<Option<Self>> {
        // State may be anybody's secret.
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(failed("making", path, &error)),
        }
        let lock = match File::open(path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("opening", path, &error)),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed("locking", path, &error)),
        }
        let same = |ours: fs::Metadata, there: fs::Metadata| {
            (ours.dev(), ours.ino()) == (there.dev(), there.ino())
        };
        let is_there = match (lock.metadata(), fs::metadata(path)) {
            (Ok(ours), Ok(there)) => same(ours, there),
            _ => false,
        };
        Ok(is_there.then(|| Self {
            path: path.to_owned(),
            _lock: lock,
        }))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            let path = self.path.display();
            tracing::warn!("scratch files are left behind in {path}: {error}");
        }
    }
}

/// Removes directories that nobody holds. What cannot be removed is another user's, or will be found
/// again the next time.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // Not through a symbolic link.
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let Ok(directory) = File::open(&path) else {
            continue;
        };
        if directory.try_lock().is_ok() && fs::remove_dir_all(&path).is_ok() {
            let path = path.display();
            tracing::info!("removed {path}, which a killed run had left behind");
        }
    }
}

impl ColdStorage for Scratch {
    fn create(&mut self) -> io::Result<Arc<dyn ColdFile>> {
        let path = self.directory.path.join(self.next.to_string());
        self.next += 1;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed("making", &path, &error))?;
        Ok(Arc::new(ScratchFile {
            path,
            file,
            _directory: Arc::clone(&self.directory),
        }))
    }
}

impl ColdFile for ScratchFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|error| failed("writing", &self.path, &error))
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let read = self.file.read_exact_at(bytes, offset);
        read.map_err(|error| failed("reading", &self.path, &error))
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        // What is left goes with the directory.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parent: &Path) -> Vec<String> {
        let entries = fs::read_dir(parent).unwrap().map(Result::unwrap);
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_go_with_their_last_reference_and_the_directory_with_the_last_file() {
        let parent = tempfile::tempdir().unwrap();
        let below = parent.path().join("a/b");
        let mut scratch = Scratch::create(&below).unwrap();
        let [first, second] = [(); 2].map(|()| scratch.create().unwrap());
        first.write_at(0, b"some").unwrap();
        first.write_at(4, b" bytes").unwrap();
        let mut read = [0; 5];
        first.read_at(5, &mut read).unwrap();
        assert_eq!(&read, b"bytes");
        let error = first.read_at(6, &mut read).unwrap_err();
        assert!(error.to_string().contains("`job.scratch-dir`"), "{error}");
        let own = below.join(&names(&below)[0]);
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
        assert_eq!(names(&own), ["0", "1"]);
        drop(first);
        assert_eq!(names(&own), ["1"]);
        drop(scratch);
        assert_eq!(names(&own), ["1"]);
        drop(second);
        assert_eq!(names(&below), [""; 0]);
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path();
        for left in ["highwater-1-0", "highwater-1-1/deeper", "others"] {
            fs::create_dir_all(path.join(left)).unwrap();
        }
        fs::write(path.join("highwater-1-0/7"), b"cold").unwrap();
        fs::write(path.join("highwater-file"), b"not a directory").unwrap();
        std::os::unix::fs::symlink(path.join("others"), path.join("highwater-link")).unwrap();
        let alive = Scratch::create(path).unwrap();
        let another = Scratch::create(path).unwrap();
        let own = |number| format!("highwater-{}-{number}", process::id());
        let mut expected = vec![own(0), own(1)];
        expected.extend(["highwater-file", "highwater-link", "others"].map(str::to_owned));
        expected.sort();
        assert_eq!(names(path), expected);
        drop((alive, another));
        assert_eq!(names(path), ["highwater-file", "highwater-link", "others"]);
    }

    #[test]
    fn a_place_that_cannot_be_used_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = Scratch::create(&file).unwrap_err().to_string();
        assert!(error.contains(&*file.to_string_lossy()), "{error}");
    }
}
