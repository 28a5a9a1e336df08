//! Objects as files in HDFS.
//!
//! - A file is written under a staged name, flushed to disk by every DataNode that has it, closed, and renamed
//!   to its name on condition that this is free (`rename2` without `overwrite`). The NameNode does that in one
//!   step, so of several who make an object exactly one succeeds. There is no other condition to build on: a
//!   file that exists is never replaced.
//! - A rename whose answer got lost is decided by a look: if the staged file is gone and its length, owner and
//!   time are at the name, it was ours.
//! - What a killed process leaves has a staged name that garbage collection knows.
//! - Every call ends: what is tried again in a call has limits, below that of a checkpoint. A connection that
//!   does not answer is not used again.
//! - What a server says is checked as far as something follows from it: names in a directory, lengths of what
//!   is read.

mod failure;
mod server;
mod writer;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use hdfs_native::client::FileStatus;
use hdfs_native::{Client, HdfsError, WriteOptions};

use super::cloud::Limits;
use super::executor::{Executor, Running};
use super::object::Staging;
use super::put::Put;
use super::remote::Remote;
use super::{Listing, Object, ObjectWriter, Permissions, Reading, Storage};
use crate::names;
use crate::{Error, Result};

use failure::Failure;
use server::Server;
use writer::Writer;

/// The most files and directories that one directory may have. They are held in memory: some hundred bytes
/// each.
const LISTED_MAX: usize = 1_000_000;

/// How often a directory is made that a file is to be in. The cleaner removes the empty ones that earlier
/// runs have left, maybe this one, just now.
const DIRECTORY_TRIES: u32 = 16;

/// How often a rename is sent at most, where it is open what became of it.
const RENAMES_MAX: usize = 4;

/// A [`Storage`] in a directory of HDFS. Cheap to clone.
#[derive(Clone)]
pub struct HdfsStorage {
    server: Arc<Server>,
    executor: Arc<Executor>,
    /// What stands before a name in messages, with its trailing slash.
    base: Arc<str>,
    /// What stands before a name in HDFS: an absolute path with a slash at its end.
    root: Arc<str>,
    /// `None`: as the directory has it that something is made in.
    permissions: Option<Permissions>,
    staging: Arc<Staging>,
}

impl fmt::Debug for HdfsStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HdfsStorage").field(&self.base).finish()
    }
}

impl HdfsStorage {
    /// The directory that `remote` names, as the user that `HADOOP_USER_NAME` among the environment's `variables`
    /// names or who runs the process. No call takes longer than half of `patience`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if the URL or the variables do not make sense, [`Error::Storage`] if no thread
    /// can be started.
    pub fn open(
        remote: &Remote,
        patience: Duration,
        variables: &[(String, String)],
    ) -> Result<Self> {
        let limits = Limits::within(patience);
        let unusable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Storage {
            action: "starting threads for",
            object: remote.to_string(),
            source,
        };
        let executor =
            Executor::new(Some(limits.call)).map_err(|source| unusable(source.into()))?;
        let handle = executor
            .handle()
            .ok_or_else(|| unusable("there is no runtime".into()))?;
        let root = match remote.key() {
            "" => "/".to_owned(),
            key => format!("/{key}/"),
        };
        Ok(Self {
            server: Arc::new(Server::new(remote, &limits, variables, handle.clone())?),
            executor: Arc::new(executor),
            base: format!("{remote}/").into(),
            root: root.into(),
            permissions: None,
            staging: Arc::new(Staging::new()),
        })
    }

    /// As [`HdfsStorage::open`], for writing: makes the directory if need be, and makes sure that it may be written and
    /// that a name that is taken stays taken. What is made beneath it has these `permissions`.
    ///
    /// # Errors
    /// As [`HdfsStorage::open`]; [`Error::Incompatible`] if it does not hold what it must, [`Error::Storage`] if it
    /// cannot be reached or refuses.
    pub fn create(
        remote: &Remote,
        patience: Duration,
        variables: &[(String, String)],
        permissions: Permissions,
    ) -> Result<Self> {
        if remote.key().is_empty() {
            return Err(Error::Incompatible(format!(
                "{remote} is the root of HDFS, name a directory in it ({} is expected)",
                remote.scheme().example()
            )));
        }
        let storage = Self {
            permissions: Some(permissions),
            ..Self::open(remote, patience, variables)?
        };
        storage.probe(remote)?;
        Ok(storage)
    }

    /// Puts a small object twice under a new name, and reads it. The second time it must be refused.
    fn probe(&self, remote: &Remote) -> Result<()> {
        const CONTENT: &[u8] = b"probe";
        let root = self.root.trim_end_matches('/').to_owned();
        let opening = |failure| self.failed("opening", "", failure);
        // The user has named it and may have more in it, so it is as Hadoop's own programs make one.
        self.run(|client| async move { Ok(client.mkdirs(&root, 0o755, true).await?) })
            .map_err(opening)?;
        let name = names::probe(&format!("{:016x}-0", self.staging.number()));
        // A crash from here on leaves a small object that nothing looks at.
        let outcomes = [(); 2].map(|()| self.put(&name, vec![Bytes::from_static(CONTENT)]));
        let read = self.read(&name, 0..1 << 10);
        let deleted = self.delete(&name);
        for (outcome, expected) in outcomes.into_iter().zip([Put::Done, Put::Taken]) {
            if outcome.map_err(opening)? != expected {
                return Err(Error::Incompatible(format!(
                    "{remote} is in a file system that renames over what exists: two hosts could overwrite each other's checkpoints, so it cannot be used"
                )));
            }
        }
        if read? != CONTENT {
            return Err(Error::Incompatible(format!(
                "{remote} is in a file system that does not return what was written, so it cannot be used"
            )));
        }
        deleted
    }

    /// The path of a name in HDFS.
    fn path(&self, name: &str) -> Result<String> {
        let odd = |part: &str| matches!(part, "" | "." | "..") || part.contains(':');
        if !name.is_empty() && name.split('/').any(odd) {
            return Err(Error::Storage {
                action: "naming",
                object: self.location(name),
                source:
                    "HDFS takes no colon in a name, and no component that is empty, `.` or `..`"
                        .into(),
            });
        }
        let path = format!("{}{name}", self.root);
        Ok(match path.trim_end_matches('/') {
            "" => "/".to_owned(),
            path => path.to_owned(),
        })
    }

    /// Starts a call.
    fn start<T: Send + 'static, F>(&self, call: impl FnOnce(Client) -> F) -> Running<T, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        match self.server.client() {
            Ok(client) => self.executor.start(call(client)),
            Err(failure) => self.executor.start(async move { Err(failure) }),
        }
    }

    /// Makes a call and waits for it.
    fn run<T: Send + 'static, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.start(call).wait()
    }

    fn failed(&self, action: &'static str, name: &str, failure: Failure) -> Error {
        let object = self.location(name).trim_end_matches('/').to_owned();
        self.server.failed(action, object, failure)
    }

    fn start_read(&self, name: &str, range: Range<u64>) -> Result<Running<Bytes, Failure>> {
        let path = self.path(name)?;
        Ok(self.start(|client| async move { read(&client, &path, range).await }))
    }

    /// The permissions of what is made in a directory, as those of a directory.
    async fn mode_in(client: &Client, directory: &str, permissions: Option<Permissions>) -> u32 {
        match permissions {
            Some(Permissions::Private) => 0o700,
            Some(Permissions::Group) => 0o770,
            // A NameNode takes them as they are, so this is Hadoop's usual umask.
            Some(Permissions::Umask) => 0o755,
            None => match client.get_file_info(directory).await {
                Ok(found) => u32::from(found.permission) & 0o777,
                Err(_) => 0o700,
            },
        }
    }

    fn put(&self, name: &str, parts: Vec<Bytes>) -> Result<Put, Failure> {
        // The path was made of the name before, so it is good.
        let path = self.path(name).map_err(Failure::other)?;
        // Not `Staging::name`: this is how an entry of a lease that was never finished is called.
        let staged = format!("{path}#{}", self.staging.number());
        let permissions = self.permissions;
        let put = {
            let staged = staged.clone();
            self.run(|client| async move {
                let mut file = create(&client, &staged, permissions).await?;
                for part in parts {
                    file.write_bytes(part).await?;
                }
                publish(&client, file, &staged, &path).await
            })
        };
        // A server that does not answer would not answer to this either; then it is left to garbage
        // collection, as is what is left of a process that is killed.
        if !matches!(put, Ok(Put::Done) | Err(Failure::Silence(_))) {
            self.discard(staged);
        }
        put
    }

    /// Deletes what was staged. Best effort; there is nobody to tell.
    fn discard(&self, staged: String) {
        drop(self.run(|client| async move { Ok(client.delete(&staged, false).await?) }));
    }
}

impl Storage for HdfsStorage {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(Writer::start(self, name)?))
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        self.path(name)?;
        self.put(name, parts)
            .map_err(|failure| self.failed("writing", name, failure))?
            .done(|| self.location(name))
    }

    fn read(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let running = self.start_read(name, range)?;
        running
            .wait()
            .map_err(|failure| self.failed("reading", name, failure))
    }

    fn begin_read(&self, name: &str, range: Range<u64>) -> Result<Option<Reading>> {
        let running = self.start_read(name, range)?;
        let (storage, name) = (self.clone(), name.to_owned());
        Ok(Some(Reading::new(move || {
            running
                .wait()
                .map_err(|failure| storage.failed("reading", &name, failure))
        })))
    }

    fn list(&self, directory: &str) -> Result<Listing> {
        let path = self.path(directory)?;
        let found = self
            .run(|client| async move { list(&client, &path).await })
            .map_err(|failure| self.failed("listing", directory, failure))?;
        let mut listing = Listing::default();
        for entry in found {
            let name = names::join(directory, &entry.leaf);
            match entry.file {
                None => listing.directories.push(name),
                Some((size, modified_at)) => listing.objects.push(Object {
                    name,
                    size,
                    modified_at,
                }),
            }
        }
        listing.directories.sort();
        listing.objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        // Whether there was one makes no difference.
        self.run(|client| async move { Ok(client.delete(&path, false).await?) })
            .map(drop)
            .or_else(|failure| match failure.is_missing() {
                true => Ok(()),
                false => Err(self.failed("deleting", name, failure)),
            })
    }

    fn make_directory(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        let (permissions, root) = (self.permissions, self.path("")?);
        self.run(|client| async move {
            let mode = Self::mode_in(&client, &root, permissions).await;
            Ok(client.mkdirs(&path, mode, true).await?)
        })
        .map_err(|failure| self.failed("making", name, failure))
    }

    fn remove_directory(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        self.run(|client| async move {
            match client.get_file_info(&path).await {
                Ok(found) if found.isdir => {}
                // A file would be deleted as well.
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            client.delete(&path, false).await?;
            Ok(())
        })
        .or_else(
            |failure| match failure.is_missing() || failure.is_not_empty() {
                true => Ok(()),
                false => Err(self.failed("removing", name, failure)),
            },
        )
    }

    fn location(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }
}

/// A new file, and the directory that it is in if there is none.
async fn create(
    client: &Client,
    staged: &str,
    permissions: Option<Permissions>,
) -> Result<hdfs_native::file::FileWriter, Failure> {
    let directory = match names::parent(staged) {
        "" => "/",
        directory => directory,
    };
    let mut tries = 0;
    loop {
        let mode = HdfsStorage::mode_in(client, directory, permissions).await;
        let options = WriteOptions::default()
            .overwrite(false)
            .create_parent(false)
            .permission(mode & 0o666);
        match client.create(staged, options).await.map_err(Failure::from) {
            Err(failure) if failure.is_missing() && tries < DIRECTORY_TRIES => {
                tries += 1;
                client.mkdirs(directory, mode, true).await?;
            }
            created => return created,
        }
    }
}

/// Flushes what was written, closes it and gives it its name if that is free.
async fn publish(
    client: &Client,
    mut file: hdfs_native::file::FileWriter,
    staged: &str,
    path: &str,
) -> Result<Put, Failure> {
    // A crash before the rename leaves the staged file, which nothing references; one after it the object,
    // of which every block is on the disks of those that hold it.
    file.hsync().await?;
    file.close().await?;
    let made = client.get_file_info(staged).await?;
    let mut last = None;
    for _ in 0..RENAMES_MAX {
        let failure = match client.rename(staged, path, false).await {
            Ok(()) => return Ok(Put::Done),
            Err(HdfsError::AlreadyExists(_)) if last.is_none() => return Ok(Put::Taken),
            Err(error) => Failure::from(error),
        };
        let is_lost = failure.is_lost();
        match status(client, path).await? {
            Some(found) => {
                // The same length, owner and millisecond could be a rival's; that our file is gone as well
                // could not, unless somebody has collected it at that very moment.
                let is_ours = found.length == made.length
                    && found.owner == made.owner
                    && found.modification_time == made.modification_time;
                return match is_ours && status(client, staged).await?.is_none() {
                    true => Ok(Put::Done),
                    false => Ok(Put::Taken),
                };
            }
            None if is_lost => last = Some(failure),
            None => return Err(failure),
        }
    }
    Err(last.unwrap_or_else(|| Failure::other("a rename that is never sent")))
}

/// What is at a path, if anything is.
async fn status(client: &Client, path: &str) -> Result<Option<FileStatus>, Failure> {
    match client.get_file_info(path).await.map_err(Failure::from) {
        Ok(found) => Ok(Some(found)),
        Err(failure) if failure.is_missing() => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn read(client: &Client, path: &str, range: Range<u64>) -> Result<Bytes, Failure> {
    if range.is_empty() {
        return match client.get_file_info(path).await? {
            found if found.isdir => Err(HdfsError::FileNotFound(path.to_owned()).into()),
            _ => Ok(Bytes::new()),
        };
    }
    let file = client.read(path).await?;
    let clamped = |place: u64| usize::try_from(place).map_or(usize::MAX, |it| it);
    let start = clamped(range.start).min(file.file_length());
    let length = clamped(range.end).min(file.file_length()) - start;
    // What a server says about a length takes memory only as the bytes arrive.
    let mut bytes = BytesMut::new();
    let mut pieces = std::pin::pin!(file.read_range_stream(start, length));
    while bytes.len() < length {
        match pieces.next().await.transpose()? {
            Some(piece) => bytes.extend_from_slice(&piece),
            // Fewer bytes would be taken for the end of the file.
            None => {
                return Err(Failure::other(format!(
                    "{} of {length} bytes were returned",
                    bytes.len()
                )));
            }
        }
    }
    bytes.truncate(length);
    Ok(bytes.freeze())
}

/// What is in a directory.
struct Entry {
    leaf: String,
    /// Size and time, if it is a file.
    file: Option<(u64, i64)>,
}

async fn list(client: &Client, path: &str) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    let pages = client.list_status_iter(path, false);
    loop {
        let found = match pages.next().await {
            None => return Ok(entries),
            Some(found) => found.map_err(Failure::from),
        };
        let found = match found {
            Ok(found) => found,
            // Also if it goes while it is listed.
            Err(failure) if failure.is_missing() => return Ok(Vec::new()),
            Err(failure) => return Err(failure),
        };
        if found.path == path {
            // A file is listed as itself.
            continue;
        }
        if entries.len() >= LISTED_MAX {
            return Err(Failure::other(format!(
                "it has more than {LISTED_MAX} files"
            )));
        }
        let beneath = match path {
            "/" => Some(path),
            path => found.path.strip_prefix(path).and(Some(path)),
        };
        let leaf = beneath
            .and_then(|above| found.path.strip_prefix(above))
            .map(|leaf| leaf.trim_start_matches('/'))
            .filter(|leaf| !matches!(*leaf, "" | "." | "..") && !leaf.contains('/'));
        let Some(leaf) = leaf else {
            return Err(Failure::other(format!(
                "the answer names `{}`, which is not in it",
                found.path.escape_debug()
            )));
        };
        entries.push(Entry {
            leaf: leaf.to_owned(),
            file: (!found.isdir).then(|| {
                let modified_at = i64::try_from(found.modification_time).unwrap_or(0);
                (found.length as u64, modified_at)
            }),
        });
    }
}

#[cfg(test)]
mod tests;
