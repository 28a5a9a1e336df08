//! Objects as files beneath a directory.
//!
//! A file is staged beside its place, flushed, linked to its name if that is free, and the directory is
//! flushed. Reads go through `object_store`; its writes do not say who may read what they make. What only a
//! file system has, directories and the left-overs of a crash in them, is handled here as well.
//!
//! What is made beneath the root is its owner's alone unless the user says otherwise ([`Permissions`]):
//! state may be secret. The umask counts where it is stricter. The root is made as the umask
//! says, because the user has named it and may have more in it.
//!
//! Symbolic links beneath the root are never followed: what they lead to is not in the checkpoint
//! directory, and nobody knows what a link in it is for. They are listed, so that nobody takes
//! what has their name for missing, and every call that comes to one fails and names it. The root itself
//! is what its user named, links or not. Each call looks at every component before it goes on, so
//! who can change the directory between the look and the use could still lead it elsewhere; who can do
//! that could as well change the checkpoints. Neither is anything read that is no file: a pipe would keep its
//! reader for ever.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use object_store::local::LocalFileSystem;

use super::object::Staging;
use super::{Guard, Listing, Object, ObjectStorage, ObjectWriter, Reading, Storage};
use crate::{Error, Result, names};

/// How often a directory is made that a file is to be in. The cleaner removes the empty ones that earlier
/// runs have left, maybe this one, just now.
const DIRECTORY_TRIES: u32 = 16;

/// How much of a file is gathered before it is written.
const BLOCK: usize = 1 << 20;

/// Who may read and write what a [`FileStorage`] makes, as far as the umask allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permissions {
    /// Its owner alone: directories 0700, files 0600. Directories that exist become private, and one
    /// that belongs to somebody else is refused.
    #[default]
    Private,
    /// Its owner and its group: 0770 and 0660.
    Group,
    /// Those whom the umask lets: 0777 and 0666.
    Umask,
}

impl Permissions {
    /// The permissions of a directory, before the umask.
    #[must_use]
    pub fn of_directories(self) -> u32 {
        match self {
            Self::Private => 0o700,
            Self::Group => 0o770,
            Self::Umask => 0o777,
        }
    }
}

/// A [`Storage`] in a directory of a file system that has hard links.
#[derive(Clone, Debug)]
pub struct FileStorage {
    root: PathBuf,
    objects: ObjectStorage,
    /// `None`: as the directory has it that something is made in. So who only tidies up in the directory
    /// of a job shuts nobody out.
    permissions: Option<Permissions>,
    staging: Arc<Staging>,
}

impl FileStorage {
    /// A storage in the existing directory `root`, an absolute path. What is made in it may be read and
    /// written by those who may read and write the directory that it is made in.
    ///
    /// # Errors
    /// [`Error::Storage`] if the directory cannot be used.
    pub fn open(root: &Path) -> Result<Self> {
        let files = LocalFileSystem::new_with_prefix(root).map_err(|source| Error::Storage {
            action: "opening",
            object: root.display().to_string(),
            source: source.into(),
        })?;
        Ok(Self {
            root: root.to_owned(),
            objects: ObjectStorage::new(Arc::new(files), &root.display().to_string())?,
            permissions: None,
            staging: Arc::new(Staging::new()),
        })
    }

    /// A storage in the directory `root`, which is made if need be, with these permissions for what is
    /// made in it.
    ///
    /// # Errors
    /// [`Error::Storage`] if the directory cannot be made or used.
    pub fn create(root: &Path, permissions: Permissions) -> Result<Self> {
        create_directories(root, Permissions::Umask.of_directories())?;
        Ok(Self {
            permissions: Some(permissions),
            ..Self::open(root)?
        })
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
    /// The permissions of a new directory; without a `x` those of a new file.
    fn mode_in(&self, directory: &Path) -> u32 {
        match self.permissions {
            Some(permissions) => permissions.of_directories(),
            None if directory == self.root => Permissions::Private.of_directories(),
            None => fs::metadata(directory).map_or(0o700, |metadata| metadata.mode() & 0o777),
        }
    }

    /// Makes directories beneath the root.
    fn create_directories(&self, path: &Path) -> Result<()> {
        create_directories(path, self.mode_above(path))
    }

    /// The permissions of directories that are missing on the way to a file or directory.
    fn mode_above(&self, path: &Path) -> u32 {
        let existing = path.ancestors().find(|above| above.exists());
        self.mode_in(existing.unwrap_or(&self.root))
    }

    /// A new file beside the place that it is to have.
    fn create_staged(&self, path: &Path) -> Result<(File, PathBuf)> {
        let mut number = 1_u64;
        loop {
            let mut staged = path.as_os_str().to_owned();
            staged.push(format!("#{number}"));
            let staged = PathBuf::from(staged);
            match self.create_file(&staged) {
                Ok(file) => return Ok((file, staged)),
                // Of another writer, or of one that was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(failed("creating", path, source)),
            }
        }
    }

    /// A new file, and the directory that it is in if there is none.
    fn create_file(&self, path: &Path) -> io::Result<File> {
        let create = |directory: &Path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(self.mode_in(directory) & 0o666)
                .open(path)
        };
        let directory = path.parent().unwrap_or(&self.root);
        let (mut tries, mut missing) = (0, 0);
        loop {
            match create(directory) {
                Err(error) if error.kind() == ErrorKind::NotFound && tries < DIRECTORY_TRIES => {
                    tries += 1;
                    missing = missing.max(missing_above(directory));
                    match make_directories(directory, self.mode_above(directory)) {
                        // It goes while it is made.
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        made => made?,
                    }
                }
                // With something in it it stays, and may be flushed.
                Ok(file) if tries > 0 => {
                    flush_above(directory, missing)?;
                    return Ok(file);
                }
                created => return created,
            }
        }
    }

    /// Makes what exists of a directory beneath the root private, if it is to be.
    fn make_private(&self, path: &Path) -> Result<()> {
        if self.permissions != Some(Permissions::Private) {
            return Ok(());
        }
        let beneath = |above: &&Path| above.starts_with(&self.root) && **above != *self.root;
        for directory in path.ancestors().take_while(beneath) {
            let metadata = match fs::symlink_metadata(directory) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata.map_err(|source| failed("looking at", directory, source))?,
            };
            let is_of_another = || {
                Error::Incompatible(format!(
                    "{} belongs to another user, so what is in it would not be private: give \
                 `checkpoint.dir` another place, or set `checkpoint.permissions` to \"group\" or \"umask\"",
                    directory.display()
                ))
            };
            let mode = metadata.mode() & 0o7777;
            if mode & 0o077 != 0 {
                let private = fs::Permissions::from_mode(mode & !0o077);
                match fs::set_permissions(directory, private) {
                    // Refused to all but the owner; but a file system that is immutable or knows no
                    // permissions refuses the owner as well.
                    Err(error)
                        if error.kind() == ErrorKind::PermissionDenied
                            && own_number().is_none_or(|own| own != metadata.uid()) =>
                    {
                        return Err(is_of_another());
                    }
                    changed => changed.map_err(|source| {
                        failed("changing the permissions of", directory, source)
                    })?,
                }
            }
            // Root may do all that in the directory of somebody else. What we make has the owner that
            // this file system gives to what is ours, whatever number that is. If a crash leaves it,
            // garbage collection knows it by its name.
            let (probe, path) = self.create_staged(&directory.join(names::FINISHED))?;
            let owner = probe.metadata().map(|probe| probe.uid());
            match fs::remove_file(&path) {
                // Another host has tidied up.
                Err(source) if source.kind() == ErrorKind::NotFound => {}
                removed => removed.map_err(|source| failed("deleting", &path, source))?,
            }
            if owner.map_err(|source| failed("looking at", &path, source))? != metadata.uid() {
                return Err(is_of_another());
            }
        }
        Ok(())
    }

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
                Ok(found) if !found.is_file() && !found.is_dir() => {
                    return Err(Error::Corrupt {
                        object: path.display().to_string(),
                        what: "it is a pipe, a socket or a device, and not a file".to_owned(),
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
        let path = self.path(name)?;
        let staged = self.path(&self.staging.name(name))?;
        let file = self.create_file(&staged);
        Ok(Box::new(FileWriter {
            file: file.map_err(|source| failed("creating", &path, source))?,
            path,
            staged: Some(staged),
            buffer: Vec::new(),
            torn: false,
        }))
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        let path = self.path(name)?;
        let (file, staged) = self.create_staged(&path)?;
        let mut writer = FileWriter {
            file,
            path,
            staged: Some(staged),
            buffer: Vec::new(),
            torn: false,
        };
        for part in parts {
            writer.write(&part)?;
        }
        writer.publish()
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
            // Names that are not Unicode are not ours.
            let Some(leaf) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // What is gone by now does not count.
                Err(source) if source.kind() == ErrorKind::NotFound => continue,
                // Who may read the names and no more must not take the directory for empty.
                Err(source) => return Err(failed(source)),
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
        // without that. If the file was gone already, the process that removed it may not have flushed yet.
        let directory = path.parent().unwrap_or(&self.root);
        match flush_directory(directory) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(failed("flushing", directory, source))
            }
            _ => Ok(()),
        }
    }

    fn make_directory(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        // Before something is made in it, and what is made is private from the beginning.
        self.make_private(&path)?;
        self.create_directories(&path)
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
            self.create_directories(directory)?;
        }
        let made = self.create_file(&path).map_err(failed)?;
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

/// The number of the user that this process acts as, where the system shows it.
fn own_number() -> Option<u32> {
    fs::metadata("/proc/self").ok().map(|this| this.uid())
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Storage {
        action,
        object: path.display().to_string(),
        source: source.into(),
    }
}

/// Writes one file under a name beside its own, and gives it its name when it is whole and durable. A crash
/// before that leaves the file under the other name, or under both: nothing refers to that one, and garbage
/// collection knows it.
#[derive(Debug)]
struct FileWriter {
    file: File,
    path: PathBuf,
    /// `None` once it has gone.
    staged: Option<PathBuf>,
    buffer: Vec<u8>,
    /// A write has failed, so what is staged may have a hole.
    torn: bool,
}

impl FileWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        self.torn |= written.is_err();
        written.map_err(|source| failed("writing", &self.path, source))
    }

    fn flush(&mut self) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let written = self.write(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
        written
    }

    fn publish(mut self) -> Result<()> {
        let failed = |source| failed("writing", &self.path, source);
        if self.torn {
            return Err(failed(io::Error::other(
                "an earlier write to it has failed",
            )));
        }
        self.file.sync_all().map_err(failed)?;
        let Some(staged) = &self.staged else {
            return Ok(());
        };
        match fs::hard_link(staged, &self.path) {
            // Over a network a request whose answer was lost is repeated, and finds what it has made.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && self.is_linked() => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists {
                    object: self.path.display().to_string(),
                });
            }
            linked => linked.map_err(failed)?,
        }
        // Before the name is reported it survives a loss of power.
        if let Some(directory) = self.path.parent() {
            flush_directory(directory).map_err(failed)?;
        }
        self.remove_staged();
        Ok(())
    }

    /// Whether what has the name is this file.
    fn is_linked(&self) -> bool {
        match (self.file.metadata(), fs::symlink_metadata(&self.path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    /// Best effort: what stays is known by its name.
    fn remove_staged(&mut self) {
        if let Some(staged) = self.staged.take() {
            let _stays = fs::remove_file(staged);
        }
    }
}

impl ObjectWriter for FileWriter {
    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve_exact(BLOCK);
            }
            if self.buffer.is_empty() && bytes.len() >= BLOCK {
                return self.write(bytes);
            }
            let taken = bytes.len().min(BLOCK - self.buffer.len());
            let (head, tail) = bytes.split_at(taken);
            self.buffer.extend_from_slice(head);
            bytes = tail;
            if self.buffer.len() == BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.flush()?;
        self.publish()
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        self.remove_staged();
    }
}

/// Makes a directory and those above it with these permissions, as far as the umask allows, and flushes
/// all directories above it.
///
/// Those that were there as well: a process that was killed right after it had made them has not
/// flushed them, and a power loss would take away all that is put in them.
fn create_directories(path: &Path, mode: u32) -> Result<()> {
    let missing = missing_above(path);
    make_directories(path, mode).map_err(|source| failed("creating", path, source))?;
    flush_above(path, missing).map_err(|source| failed("flushing", path, source))
}

fn make_directories(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// How many directories are missing up to this one.
fn missing_above(path: &Path) -> usize {
    path.ancestors().take_while(|above| !above.exists()).count()
}

/// Makes the names of a directory, and of those above it, durable; `missing` of them are new.
fn flush_above(path: &Path, missing: usize) -> io::Result<()> {
    for (depth, above) in path.ancestors().skip(1).enumerate() {
        match flush_directory(above) {
            Err(source) if depth < missing => return Err(source),
            // Not ours to read, so none of our runs has made what is in it.
            Err(_) => break,
            Ok(()) => {}
        }
    }
    Ok(())
}

fn flush_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::contract;
    use std::sync::Mutex;

    #[test]
    fn a_directory_that_goes_while_a_file_is_made_in_it_is_made_again() {
        use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
        let directory = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(directory.path()).unwrap();
        let (stop, left) = (AtomicBool::new(false), AtomicU32::new(0));
        let removed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            // As often as there may be hosts that tidy up.
            let remover = scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    if left.load(Ordering::SeqCst) > 0
                        && fs::remove_dir(directory.path().join("chk-1")).is_ok()
                    {
                        left.fetch_sub(1, Ordering::SeqCst);
                        removed.fetch_add(1, Ordering::SeqCst);
                    }
                    std::thread::yield_now();
                }
            });
            // On a busy machine the other thread does not come in between for a while.
            let enough = |round| round >= 200 && removed.load(Ordering::SeqCst) > 0;
            let rounds = (0..200_000).take_while(|round| !enough(*round));
            let put = rounds.into_iter().try_for_each(|_| {
                left.store(3, Ordering::SeqCst);
                storage.put_new("chk-1/_metadata", vec![Bytes::from_static(b"x")])?;
                left.store(0, Ordering::SeqCst);
                storage.delete("chk-1/_metadata")?;
                storage.remove_directory("chk-1")
            });
            stop.store(true, Ordering::SeqCst);
            put.unwrap();
            remover.join().unwrap();
        });
        assert!(removed.into_inner() > 0);
    }

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
        let storage =
            FileStorage::create(&directory.path().join("a/b"), Permissions::Private).unwrap();
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

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    /// Every file and directory beneath one.
    fn beneath(directory: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(beneath(&path));
            }
            found.push(path);
        }
        found
    }

    fn write_all_kinds(storage: &FileStorage) {
        storage.make_directory("job/shared").unwrap();
        storage
            .put_new("job/chk-1/_metadata", vec![Bytes::from_static(b"x")])
            .unwrap();
        let mut writer = storage.create("job/shared/r1-c1-0.state").unwrap();
        writer.append(&vec![7; 3 * BLOCK + 5]).unwrap();
        writer.finish().unwrap();
        drop(storage.lock("job/_lease/0000000000000000.lock").unwrap());
        // One that is being written.
        std::mem::forget(storage.create("job/shared/r1-c1-1.state").unwrap());
    }

    #[test]
    fn c165_what_is_made_is_private_unless_the_user_says_otherwise() {
        let plain = tempfile::tempdir().unwrap();
        fs::create_dir(plain.path().join("d")).unwrap();
        let umask = 0o777 & !mode(&plain.path().join("d"));
        for (permissions, bits) in [
            (Permissions::Private, 0o700),
            (Permissions::Group, 0o770),
            (Permissions::Umask, 0o777),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().join("above/root");
            write_all_kinds(&FileStorage::create(&root, permissions).unwrap());
            let found = beneath(&root);
            assert_eq!(found.len(), 8, "{found:?}");
            for path in found {
                let expected = match path.is_dir() {
                    true => bits & !umask,
                    false => bits & 0o666 & !umask,
                };
                assert_eq!(mode(&path), expected, "{permissions:?}: {}", path.display());
            }
            // What the user has named.
            assert_eq!(mode(&root), 0o777 & !umask);
            assert_eq!(mode(&directory.path().join("above")), 0o777 & !umask);
        }
    }

    #[test]
    fn c165_a_job_directory_of_an_earlier_version_becomes_private_and_others_stay() {
        for (permissions, expected) in [
            (Permissions::Private, 0o700),
            (Permissions::Group, 0o755),
            (Permissions::Umask, 0o755),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path();
            for name in ["job/shared", "other"] {
                fs::create_dir_all(root.join(name)).unwrap();
            }
            for name in ["job/shared", "job", "other"] {
                let open = fs::Permissions::from_mode(0o755);
                fs::set_permissions(root.join(name), open).unwrap();
            }
            let storage = FileStorage::create(root, permissions).unwrap();
            storage.make_directory("job/shared").unwrap();
            storage.make_directory("job/taskowned").unwrap();
            assert_eq!(mode(&root.join("job")), expected);
            assert_eq!(mode(&root.join("job/shared")), expected);
            assert_eq!(mode(&root.join("other")), 0o755);
            assert_eq!(beneath(&root.join("job")).len(), 2, "no probe is left");
        }
    }

    #[test]
    fn c165_who_only_tidies_up_shuts_nobody_out() {
        for bits in [0o700, 0o770, 0o750] {
            let directory = tempfile::tempdir().unwrap();
            let job = directory.path().join("job");
            fs::create_dir(&job).unwrap();
            fs::set_permissions(&job, fs::Permissions::from_mode(bits)).unwrap();
            let storage = FileStorage::open(directory.path()).unwrap();
            storage
                .put_new("job/_lease/5", vec![Bytes::from_static(b"x")])
                .unwrap();
            let plain = tempfile::tempdir().unwrap();
            fs::create_dir(plain.path().join("d")).unwrap();
            let umask = 0o777 & !mode(&plain.path().join("d"));
            assert_eq!(mode(&job), bits);
            assert_eq!(mode(&job.join("_lease")), bits & !umask);
            assert_eq!(mode(&job.join("_lease/5")), bits & 0o666 & !umask);
        }
    }

    #[test]
    fn c159_a_pipe_in_place_of_an_object_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(directory.path()).unwrap();
        fs::create_dir(directory.path().join("chk-1")).unwrap();
        let pipe = directory.path().join("chk-1/_metadata");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let name = "chk-1/_metadata";
        let refused = |result: Result<()>| match result {
            Err(Error::Corrupt { what, .. }) => assert!(what.contains("pipe"), "{what}"),
            other => panic!("{other:?}"),
        };
        // Opening it would wait until somebody writes to it.
        refused(storage.read(name, 0..9).map(drop));
        refused(storage.begin_read(name, 0..9).map(drop));
        refused(storage.is_locked(name).map(drop));
        refused(storage.delete(name));
        assert!(fs::symlink_metadata(&pipe).is_ok());
    }

    #[test]
    fn what_is_not_finished_leaves_nothing_and_takes_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(directory.path()).unwrap();
        let mut writer = storage.create("a").unwrap();
        writer.append(b"x").unwrap();
        drop(writer);
        assert_eq!(storage.list("").unwrap(), Listing::default());
        let [mut first, mut second] = [(); 2].map(|()| storage.create("a").unwrap());
        first.append(b"first").unwrap();
        second.append(b"second").unwrap();
        first.finish().unwrap();
        assert!(matches!(second.finish(), Err(Error::AlreadyExists { .. })));
        let put = storage.put_new("a", vec![Bytes::from_static(b"third")]);
        assert!(matches!(put, Err(Error::AlreadyExists { .. })));
        assert_eq!(storage.read("a", 0..9).unwrap(), "first");
        assert_eq!(storage.list("").unwrap().objects.len(), 1);
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
