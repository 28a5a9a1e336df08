//! Objects as files beneath a directory.
//!
//! The bytes go through `object_store` (a file is staged beside its place, flushed, linked to its
//! name if that is free, and the directory is flushed); what only a file system has, directories and
//! the left-overs of a crash in them, is handled here.
//!
//! Symbolic links beneath the root are never followed: what they lead to is not in the checkpoint
//! directory, and whoever put one there may have meant anything. They are listed, so that nobody takes
//! what has their name for missing, and every call that comes to one fails and names it. The root itself
//! is what its user named, links or not. Each call looks at every component before it goes on, so
//! who can change the directory between the look and the use could still lead it elsewhere; who can do
//! that could as well change the checkpoints.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use object_store::local::LocalFileSystem;

use super::{Guard, Listing, Object, ObjectStorage, ObjectWriter, Reading, Storage};
use crate::{Error, Result};

/// A [`Storage`] in a directory of a file system that has hard links.
#[derive(Clone, Debug)]
pub struct FileStorage {
    root: PathBuf,
    objects: ObjectStorage,
}

impl FileStorage {
    /// A storage in the existing directory `root`, an absolute path.
    ///
    /// # Errors
    /// [`Error::Storage`] if the directory cannot be used.
    pub fn open(root: &Path) -> Result<Self> {
        let files = LocalFileSystem::new_with_prefix(root)
            .map_err(|source| Error::Storage {
                action: "opening",
                object: root.display().to_string(),
                source: source.into(),
            })?
            .with_fsync(true);
        Ok(Self {
            root: root.to_owned(),
            objects: ObjectStorage::new(Arc::new(files), &root.display().to_string())?,
        })
    }

    /// As [`FileStorage::open`], but makes the directory if need be.
    ///
    /// # Errors
    /// [`Error::Storage`] if the directory cannot be made or used.
    pub fn create(root: &Path) -> Result<Self> {
        create_directories(root)?;
        Self::open(root)
    }

    /// The path of a name, on which there is no symbolic link beneath the root.
    fn path(&self, name: &str) -> Result<PathBuf> {
        let relative = Path::new(name);
        if relative
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            return self.without_links(relative);
        }
        Err(Error::Storage {
            action: "naming",
            object: self.location(name),
            source: "a name must not lead out of its directory".into(),
        })
    }
}

impl FileStorage {
    fn without_links(&self, relative: &Path) -> Result<PathBuf> {
        let mut path = self.root.clone();
        let mut parts = relative.components();
        for part in parts.by_ref() {
            path.push(part);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_symlink() => {
                    return Err(Error::Corrupt {
                        object: path.display().to_string(),
                        what:
                            "it is a symbolic link, and none is followed in a checkpoint directory"
                                .to_owned(),
                    });
                }
                Ok(_) => {}
                // Where nothing is, nothing leads elsewhere; what else may be wrong with it is found
                // when it is used.
                Err(_) => break,
            }
        }
        path.extend(parts);
        Ok(path)
    }
}

impl Storage for FileStorage {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        self.path(name)?;
        self.objects.create(name)
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        self.path(name)?;
        self.objects.put_new(name, parts)
    }

    fn may_land_late(&self) -> bool {
        // A call that has returned is over.
        false
    }

    fn read(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let path = self.path(name)?;
        self.objects.read(name, range).map_err(|error| {
            // Something else stands where its directory would be: so there is no such object, and it is
            // no trouble that passes.
            let looked = fs::symlink_metadata(&path).map_err(|source| source.kind());
            match (&error, looked) {
                (Error::Storage { .. }, Err(ErrorKind::NotADirectory)) => {
                    Error::NotFound(format!("{} does not exist", path.display()))
                }
                _ => error,
            }
        })
    }

    fn begin_read(&self, name: &str, range: Range<u64>) -> Result<Option<Reading>> {
        self.path(name)?;
        self.objects.begin_read(name, range)
    }

    fn list(&self, directory: &str) -> Result<Listing> {
        let path = self.path(directory)?;
        let failed = |source| failed("listing", &path, source);
        let mut listing = Listing::default();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(source)
                if matches!(
                    source.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory
                ) =>
            {
                return Ok(listing);
            }
            Err(source) => return Err(failed(source)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // Names that are not Unicode are not ours, and an entry that is gone by now does not count.
            let (Some(leaf), Ok(metadata)) = (
                entry.file_name().to_str().map(str::to_owned),
                entry.metadata(),
            ) else {
                continue;
            };
            // A link stands where what it leads to would stand, so that who looks for that comes to it.
            let is_directory = match metadata.is_symlink() {
                true => fs::metadata(entry.path()).is_ok_and(|found| found.is_dir()),
                false => metadata.is_dir(),
            };
            let name = match directory {
                "" => leaf,
                directory => format!("{directory}/{leaf}"),
            };
            if is_directory {
                listing.directories.push(name);
            } else {
                let modified = metadata.modified().ok();
                let age = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                listing.objects.push(Object {
                    name,
                    size: metadata.len(),
                    modified_at: age.map_or(0, |age| i64::try_from(age.as_millis()).unwrap_or(0)),
                });
            }
        }
        listing.directories.sort();
        listing.objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(failed("deleting", &path, source));
            }
            _ => {}
        }
        // What is deleted next may be what this one refers to: after a power loss it must not be there
        // without that. If the file was gone already, whoever removed it may not have got so far.
        let directory = path.parent().unwrap_or(&self.root);
        match flush_directory(directory) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(failed("flushing", directory, source))
            }
            _ => Ok(()),
        }
    }

    fn make_directory(&self, name: &str) -> Result<()> {
        create_directories(&self.path(name)?)
    }

    fn settle(&self, directory: &str) -> Result<()> {
        let path = self.path(directory)?;
        for directory in path.ancestors().take(2) {
            match flush_directory(directory) {
                // Somebody else's, that we may only look into: what is there was not left by a run of
                // ours.
                Err(source)
                    if matches!(
                        source.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                    ) => {}
                flushed => flushed.map_err(|source| failed("flushing", directory, source))?,
            }
        }
        Ok(())
    }

    fn remove_directory(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        match fs::remove_dir(&path) {
            Err(source)
                if !matches!(
                    source.kind(),
                    ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Err(failed("deleting", &path, source))
            }
            _ => Ok(()),
        }
    }

    fn lock(&self, name: &str) -> Result<Option<Guard>> {
        let path = self.path(name)?;
        let failed = |source| failed("locking", &path, source);
        if let Some(directory) = path.parent() {
            create_directories(directory)?;
        }
        let made = File::create_new(&path).map_err(failed)?;
        // Open for reading only, so that the file system can still be made read-only; over a network
        // only a file that is open for writing can be locked.
        let file = File::open(&path).map_err(failed)?;
        for file in [file, made] {
            if file.try_lock().is_ok() {
                return Ok(Some(Guard(file)));
            }
        }
        // A file system without locks: what cannot be locked must not be taken for a file whose
        // holder is gone.
        fs::remove_file(&path).map_err(failed)?;
        Ok(None)
    }

    fn is_locked(&self, name: &str) -> Result<Option<bool>> {
        let path = self.path(name)?;
        let locked = File::open(&path).map(|file| file.try_lock_shared());
        // Shared, so that two who look do not take each other for the holder.
        match locked {
            Ok(Ok(())) => Ok(Some(false)),
            Ok(Err(TryLockError::WouldBlock)) => Ok(Some(true)),
            Ok(Err(TryLockError::Error(_))) => Ok(None),
            Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("looking at", &path, source)),
        }
    }

    fn location(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Storage {
        action,
        object: path.display().to_string(),
        source: source.into(),
    }
}

/// Makes a directory and those above it, and flushes all directories above it.
///
/// Those that were there as well: a process that was killed right after it had made them has not
/// flushed them, and a power loss would take away all that is put in them.
fn create_directories(path: &Path) -> Result<()> {
    let missing = path.ancestors().take_while(|above| !above.exists()).count();
    fs::create_dir_all(path).map_err(|source| failed("creating", path, source))?;
    for (depth, above) in path.ancestors().skip(1).enumerate() {
        match flush_directory(above) {
            Err(source) if depth < missing => return Err(failed("flushing", above, source)),
            // Not ours to read, so none of our runs has made what is in it.
            Err(_) => break,
            Ok(()) => {}
        }
    }
    Ok(())
}

#[cfg(unix)]
fn flush_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Elsewhere directories cannot be opened, nor need they be.
#[cfg(not(unix))]
fn flush_directory(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::contract;
    use std::sync::Mutex;

    #[test]
    fn file_storage_keeps_the_contract() {
        let directories = Mutex::new(Vec::new());
        contract::check(&|| {
            let directory = tempfile::tempdir().unwrap();
            let storage = FileStorage::open(directory.path()).unwrap();
            directories.lock().unwrap().push(directory);
            Arc::new(storage)
        });
    }

    #[test]
    fn directories_come_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FileStorage::create(&directory.path().join("a/b")).unwrap();
        storage.make_directory("job/shared").unwrap();
        storage.make_directory("job/shared").unwrap();
        assert!(directory.path().join("a/b/job/shared").is_dir());
        assert_eq!(storage.list("").unwrap().directories, ["job"]);
        storage.remove_directory("job").unwrap();
        assert!(directory.path().join("a/b/job").is_dir(), "it is not empty");
        storage.remove_directory("job/shared").unwrap();
        storage.remove_directory("job").unwrap();
        assert!(!directory.path().join("a/b/job").exists());
        storage.remove_directory("job").unwrap();
    }

    #[test]
    fn left_overs_of_a_crash_are_listed_and_deletable() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(directory.path()).unwrap();
        fs::create_dir(directory.path().join("chk-1")).unwrap();
        fs::write(directory.path().join("chk-1/_metadata#1"), "torn").unwrap();
        let objects = storage.list("chk-1").unwrap().objects;
        assert_eq!(objects.len(), 1);
        storage.delete(&objects[0].name).unwrap();
        assert_eq!(storage.list("chk-1").unwrap(), Listing::default());
    }

    #[test]
    fn names_cannot_lead_out_of_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(directory.path()).unwrap();
        for name in ["../x", "a/../../x", "/etc/passwd"] {
            assert!(storage.delete(name).is_err(), "{name}");
            assert!(
                storage.read(name, 0..1).is_err() || name.starts_with('/'),
                "{name}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn c145_symbolic_links_are_listed_and_never_followed() {
        use std::os::unix::fs::symlink;

        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("directory")).unwrap();
        for file in ["file", "directory/file"] {
            fs::write(outside.path().join(file), "canary").unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        // The root may be reached by one.
        let real = directory.path().join("real");
        fs::create_dir_all(real.join("job")).unwrap();
        let root = directory.path().join("root");
        symlink(&real, &root).unwrap();
        let storage = FileStorage::open(&root).unwrap();
        for (link, target) in [
            ("linked", "directory"),
            ("job/chk-1", "directory"),
            ("job/file", "file"),
            ("job/nowhere", "nothing"),
        ] {
            symlink(outside.path().join(target), real.join(link)).unwrap();
        }
        let listing = storage.list("job").unwrap();
        assert_eq!(listing.directories, ["job/chk-1"]);
        let objects = listing.objects.iter().map(|it| it.name.as_str());
        assert_eq!(objects.collect::<Vec<_>>(), ["job/file", "job/nowhere"]);
        for name in [
            "job/file",
            "job/nowhere",
            "job/chk-1",
            "job/chk-1/file",
            "job/chk-1/new/file",
            "linked/file",
        ] {
            let refused = |result: Result<()>| match result {
                Err(Error::Corrupt { what, .. }) => assert!(what.contains("symbolic link")),
                other => panic!("{name}: {other:?}"),
            };
            refused(storage.read(name, 0..9).map(drop));
            refused(storage.begin_read(name, 0..9).map(drop));
            refused(storage.list(name).map(drop));
            refused(storage.put_new(name, vec![Bytes::from_static(b"x")]));
            refused(storage.create(name).map(drop));
            refused(storage.delete(name));
            refused(storage.make_directory(name));
            refused(storage.remove_directory(name));
            refused(storage.lock(name).map(drop));
            refused(storage.is_locked(name).map(drop));
        }
        for file in ["file", "directory/file"] {
            let found = fs::read_to_string(outside.path().join(file)).unwrap();
            assert_eq!(found, "canary");
        }
        let left = fs::read_dir(outside.path().join("directory")).unwrap();
        assert_eq!(left.count(), 1, "nothing came to be outside");
    }

    #[test]
    fn a_lock_lasts_as_long_as_its_guard() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(directory.path()).unwrap();
        assert_eq!(storage.is_locked("d/a.lock").unwrap(), None);
        let guard = storage.lock("d/a.lock").unwrap();
        assert!(guard.is_some(), "locks are supported");
        assert_eq!(storage.is_locked("d/a.lock").unwrap(), Some(true));
        assert!(storage.lock("d/a.lock").is_err(), "the name is taken");
        drop(guard);
        assert_eq!(storage.is_locked("d/a.lock").unwrap(), Some(false));
        storage.delete("d/a.lock").unwrap();
        assert_eq!(storage.is_locked("d/a.lock").unwrap(), None);
    }

    #[test]
    fn names_with_odd_characters_are_stored_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(directory.path()).unwrap();
        let name = "my job #1 ~100%ä/chk-1/_metadata";
        storage
            .put_new(name, vec![Bytes::from_static(b"x")])
            .unwrap();
        assert!(directory.path().join(name).is_file());
        assert_eq!(storage.read(name, 0..9).unwrap(), "x");
    }
}
