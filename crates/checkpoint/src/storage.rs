//! Where bytes are kept: one small blocking trait, and the storages that implement it.
//!
//! A storage holds immutable objects under names of `/`-separated components. Nothing is ever
//! overwritten: an object comes into being whole or not at all, and a name that is taken stays
//! taken. Everything else (what a checkpoint is, what may be deleted) is decided above this trait,
//! so that a decorator can count, tear or fail every durable step: `FaultyStorage`, of the feature `testing`.
//! There `contract::check` holds what the prose below promises, for every implementation.

#[cfg(feature = "testing")]
pub mod contract;
mod cloud;
mod executor;
#[cfg(feature = "testing")]
pub mod faults;
mod file;
#[cfg(feature = "hdfs")]
mod hdfs;
mod memory;
mod object;
mod put;
mod remote;
#[cfg(test)]
#[path = "../../../tests/it/servers.rs"]
mod servers;

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use crate::Result;

pub use cloud::{CloudStorage, Weakened, environment, weakened};
#[cfg(feature = "testing")]
pub use faults::FaultyStorage;
pub use file::{FileStorage, Permissions};
#[cfg(feature = "hdfs")]
pub use hdfs::HdfsStorage;
pub use memory::MemoryStorage;
pub use object::ObjectStorage;
pub use remote::{Remote, Scheme};

/// A place for immutable objects. Every call blocks until the storage has answered; all of them may
/// be called from any thread, also from one that belongs to an async runtime, though an async worker
/// is held up meanwhile.
///
/// Names are relative, of one or more non-empty components, none of them `.` or `..`.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Starts a new object of any size, to be written piece by piece. It is neither visible under
    /// its name nor durable before [`ObjectWriter::finish`].
    ///
    /// # Errors
    /// [`crate::Error::Storage`] if it cannot be started.
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>>;

    /// Puts a small object, made of `parts` in order, if nothing has its name. When this returns ok,
    /// the object and its directory entry survive a loss of power. Of several callers with one
    /// name exactly one succeeds.
    ///
    /// # Errors
    /// [`crate::Error::AlreadyExists`] if the name is taken; what has it is untouched.
    /// [`crate::Error::Storage`] otherwise; the object may or may not exist then.
    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<()>;

    /// Whether a put that was answered by an error may still take effect later, as over a network. Where
    /// it may not, a look tells for sure.
    fn may_land_late(&self) -> bool {
        true
    }

    /// Reads a range of an object: exactly that range, or what there is of it if the object ends
    /// before. So fewer bytes than asked for mean the end.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] if there is no such object, [`crate::Error::Storage`] if it cannot
    /// be read.
    fn read(&self, name: &str, range: Range<u64>) -> Result<Bytes>;

    /// Begins what [`Storage::read`] does, and goes on with it while the caller does something else.
    /// `None` where that cannot be had: then there is nothing but to `read`.
    ///
    /// # Errors
    /// As [`Storage::read`], as far as they are known at once.
    fn begin_read(&self, name: &str, range: Range<u64>) -> Result<Option<Reading>> {
        let _ = (name, range);
        Ok(None)
    }

    /// What is directly in a directory (`""` is the top), each sorted by name; nothing if there is
    /// no such directory. Left-overs of writers that never finished may appear as objects under
    /// names of their own.
    ///
    /// # Errors
    /// [`crate::Error::Storage`] if the directory cannot be read.
    fn list(&self, directory: &str) -> Result<Listing>;

    /// Deletes an object; ok if there is none.
    ///
    /// # Errors
    /// [`crate::Error::Storage`] if the object may still be there.
    fn delete(&self, name: &str) -> Result<()>;

    /// Makes a directory and those above it, durably, where the storage has directories at all; ok
    /// if it exists.
    ///
    /// # Errors
    /// [`crate::Error::Storage`] if it cannot be made.
    fn make_directory(&self, name: &str) -> Result<()>;

    /// Makes durable what is in a directory, and the directory itself, no matter which process has put it there: one
    /// that was killed right after it had given an object its name may have left that to nobody.
    ///
    /// # Errors
    /// [`crate::Error::Storage`] if that failed.
    fn settle(&self, directory: &str) -> Result<()> {
        let _ = directory;
        Ok(())
    }

    /// Removes a directory if it exists and is empty; otherwise does nothing.
    ///
    /// # Errors
    /// [`crate::Error::Storage`] if it is empty and cannot be removed.
    fn remove_directory(&self, name: &str) -> Result<()>;

    /// Makes a file of this name, beside the objects, and locks it until the guard is dropped or the
    /// process is gone, however it goes. `None` where there are no such locks. The file is deleted
    /// as an object is.
    ///
    /// # Errors
    /// [`crate::Error::Storage`] if it exists or cannot be made.
    fn lock(&self, name: &str) -> Result<Option<Guard>> {
        let _ = name;
        Ok(None)
    }

    /// Whether somebody has locked this file. `None` if nobody can tell: there is no such file, or
    /// there are no locks.
    ///
    /// # Errors
    /// [`crate::Error::Storage`] if the file cannot be looked at.
    fn is_locked(&self, name: &str) -> Result<Option<bool>> {
        let _ = name;
        Ok(None)
    }

    /// An object's full path or URL, as a user would name it.
    fn location(&self, name: &str) -> String;
}

/// A read that was begun; see [`Storage::begin_read`]. Dropped, nobody waits for it.
pub struct Reading(Box<dyn FnOnce() -> Result<Bytes> + Send>);

impl Reading {
    /// One that `wait` waits for.
    pub fn new(wait: impl FnOnce() -> Result<Bytes> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// Waits for what was read.
    ///
    /// # Errors
    /// As [`Storage::read`].
    pub fn wait(self) -> Result<Bytes> {
        (self.0)()
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}

/// Keeps a file locked; see [`Storage::lock`].
#[derive(Debug)]
pub struct Guard(#[expect(dead_code, reason = "what counts is when it is dropped")] std::fs::File);

/// Writes one new object. Dropped without [`ObjectWriter::finish`], the object never appears, and
/// what was written is removed as far as it can be.
pub trait ObjectWriter: Send + fmt::Debug {
    /// Appends bytes. Memory stays bounded: it waits when the storage is slower than the caller.
    ///
    /// # Errors
    /// [`crate::Error::Storage`]; the writer is of no use then.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Makes the object visible and durable, whole.
    ///
    /// # Errors
    /// [`crate::Error::AlreadyExists`] if the name was taken meanwhile; what has it is
    /// untouched. [`crate::Error::Storage`] otherwise.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// What is directly in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Full names of the directories, sorted.
    pub directories: Vec<String>,
    /// The objects, sorted by name.
    pub objects: Vec<Object>,
}

/// An object in a [`Listing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its full name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was made, as the storage tells: milliseconds since the epoch, 0 if it does not.
    pub modified_at: i64,
}
