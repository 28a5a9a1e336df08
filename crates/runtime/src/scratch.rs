//! Scratch files for cold state: on a local disk, in a directory of one subtask of one attempt.
//!
//! Nothing refers to them and nobody else reads them, so nothing is synced, and a crash leaves what
//! the next start removes: a directory is locked as long as its process lives, and one that nobody
//! holds is a dead process's.
//!
//! All of them are in one place of the user's within `job.scratch-dir`, which bears a marker and which
//! nobody else can write. So nothing is ever removed that is not ours, whatever it is called.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use dataflow::state::{ColdFile, ColdStorage};

/// What the name of a user's place begins with; the user's number follows.
const PLACE: &str = "highwater-scratch-";

/// The file by which a place is known as one.
const MARKER: &str = "this-is-scratch-of-highwater";

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
        let place = place(parent)?;
        sweep(&place);
        let mut number = 0_u64;
        loop {
            let path = place.join(format!("{}-{number}", process::id()));
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
            tracing::warn!("scratch files are left in {path}: {error}");
        }
    }
}

/// The user's place below `parent`, made if need be.
///
/// # Errors
/// It cannot be made, or what has its name is not ours: another user's, a link, open to others, or
/// without the marker.
fn place(parent: &Path) -> io::Result<PathBuf> {
    let user = fs::metadata("/proc/self")
        .map_err(|error| failed("finding the user in", Path::new("/proc/self"), &error))?
        .uid();
    let place = parent.join(format!("{PLACE}{user}"));
    let marker = place.join(MARKER);
    match DirBuilder::new().mode(0o700).create(&place) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(failed("making", &place, &error));
        }
        _ => {}
    }
    let look = |path: &Path| {
        fs::symlink_metadata(path).map_err(|error| failed("looking at", path, &error))
    };
    let found = look(&place)?;
    let ours = found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0;
    let marked = || fs::symlink_metadata(&marker).is_ok_and(|marker| marker.is_file());
    // Made a moment ago, by us or by another process that may have been killed since.
    if ours && !marked() && is_empty(&place) {
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&marker)
        {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(failed("making", &marker, &error));
            }
            _ => {}
        }
    }
    match ours && marked() {
        true => Ok(place),
        false => {
            let why = "it is not a private directory of this user that was made for this";
            Err(failed("using", &place, &io::Error::other(why)))
        }
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// Whether a name is one that [`Scratch::create`] gives: two numbers.
fn is_ours(name: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    name.split_once('-')
        .is_some_and(|(process, number)| digits(process) && digits(number))
}

/// Removes directories in our place that nobody holds. What cannot be removed will be found again the
/// next time.
fn sweep(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(is_ours);
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
            tracing::info!("removed {path}, left by a killed run");
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
        let place = place(&below).unwrap();
        let own = place.join(&names(&place)[0]);
        for private in [&place, &own] {
            assert_eq!(fs::metadata(private).unwrap().mode() & 0o777, 0o700);
        }
        assert_eq!(names(&own), ["0", "1"]);
        drop(first);
        assert_eq!(names(&own), ["1"]);
        drop(scratch);
        assert_eq!(names(&own), ["1"]);
        drop(second);
        assert_eq!(names(&place), [MARKER]);
    }

    #[test]
    fn c159_what_a_killed_run_left_is_removed_and_nothing_else_whatever_it_is_called() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path();
        // Nothing of it is in our place.
        for foreign in ["highwater-backup", "highwater-1-0", "1-0"] {
            fs::create_dir_all(path.join(foreign)).unwrap();
            fs::write(path.join(foreign).join("precious"), b"data").unwrap();
        }
        let place = place(path).unwrap();
        for left in ["1-0", "1-1/deeper", "1-x", "notes"] {
            fs::create_dir_all(place.join(left)).unwrap();
        }
        fs::write(place.join("1-0/7"), b"cold").unwrap();
        fs::write(place.join("2-0"), b"not a directory").unwrap();
        std::os::unix::fs::symlink(path.join("highwater-backup"), place.join("3-0")).unwrap();
        let alive = Scratch::create(path).unwrap();
        let another = Scratch::create(path).unwrap();
        let own = |number| format!("{}-{number}", process::id());
        let kept = ["2-0", "3-0", "1-x", "notes", MARKER].map(str::to_owned);
        let mut expected = kept.to_vec();
        expected.extend([own(0), own(1)]);
        expected.sort();
        assert_eq!(names(&place), expected);
        for foreign in ["highwater-backup", "highwater-1-0", "1-0"] {
            assert!(path.join(foreign).join("precious").is_file(), "{foreign}");
        }
        drop((alive, another));
    }

    #[test]
    fn c159_a_place_that_is_not_ours_is_refused() {
        let name = |parent: &Path| {
            let user = fs::metadata("/proc/self").unwrap().uid();
            parent.join(format!("{PLACE}{user}"))
        };
        let refused = |parent: &Path| Scratch::create(parent).unwrap_err().to_string();
        // A link, a directory with things in it and no marker, one that others may write.
        let parent = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), name(parent.path())).unwrap();
        assert!(refused(parent.path()).contains("not a private directory"));
        let parent = tempfile::tempdir().unwrap();
        DirBuilder::new()
            .mode(0o700)
            .create(name(parent.path()))
            .unwrap();
        fs::create_dir(name(parent.path()).join("7-7")).unwrap();
        assert!(refused(parent.path()).contains("not a private directory"));
        assert!(name(parent.path()).join("7-7").is_dir());
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(name(parent.path())).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(name(parent.path()), open).unwrap();
        assert!(refused(parent.path()).contains("not a private directory"));
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
