//! Objects in a bucket of S3 (or of anything that speaks its protocol), in a container of Azure, or in a bucket
//! of Google.
//!
//! What these have in common is here; the rest goes through [`ObjectStorage`].
//!
//! - An object comes into being by one conditional request (`If-None-Match: *`): a `PUT`, or for what
//!   is larger than a part the completion of an upload in parts. So there is no staged object, and
//!   nothing has to be copied; except with Google, where such a completion knows no condition.
//! - Every object carries a token of the put that made it, as user metadata. A request whose answer got
//!   lost is sent again, and may meet what it made itself: that is recognised by the token, not by the
//!   bytes, which a rival may have put as well.
//! - Every call ends: requests and what is tried again in a call have limits, below that of a
//!   checkpoint.
//! - A storage that ignores conditions would let two hosts overwrite each other. It is found out when a
//!   directory is opened for writing, and refused.

mod aws;
#[cfg(feature = "azure")]
mod azure;
mod conditional;
mod endpoint;
#[cfg(feature = "gcs")]
mod google;
mod listing;
mod upload;
mod weakened;

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    Attribute, Attributes, Error as StoreError, GetOptions, ObjectStore, PutMode, PutOptions,
    PutPayload,
};

use super::executor::Executor;
use super::object::Staging;
use super::put::Put;
use super::remote::{Remote, Scheme};
use super::{Listing, ObjectStorage, ObjectWriter, Reading, Storage};
use crate::names;
use crate::{Error, Result};

pub(super) use endpoint::Endpoint;
pub(super) use endpoint::Limits;
#[cfg(feature = "hdfs")]
pub(super) use endpoint::shortened;
pub use weakened::{Weakened, weakened};

use upload::Upload;

/// How often a conditional put is sent at most, where it is open what became of it.
const PUTS_MAX: usize = 4;

/// What a client can do.
trait Client: ObjectStore + PaginatedListStore {}

impl<T: ObjectStore + PaginatedListStore> Client for T {}

/// A [`Storage`] in a bucket or container. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CloudStorage {
    objects: ObjectStorage,
    connection: Arc<Connection>,
    /// What stands before every name in the bucket: nothing, or a directory.
    prefix: String,
    tokens: Arc<Tokens>,
    staging: Arc<Staging>,
}

/// Reaches a bucket. Storages of one process share it, and with it what it keeps open.
#[derive(Debug)]
struct Connection {
    client: Arc<dyn Client>,
    endpoint: Endpoint,
}

/// What a connection was made from.
#[derive(PartialEq, Eq)]
struct Origin {
    root: Remote,
    patience: Duration,
    variables: Vec<(String, String)>,
}

/// The connections that live.
static CONNECTIONS: Mutex<Vec<(Origin, Weak<Connection>)>> = Mutex::new(Vec::new());

impl Connection {
    /// One that lives already, or a new one.
    fn open(
        remote: &Remote,
        patience: Duration,
        limits: &Limits,
        variables: &[(String, String)],
    ) -> Result<Arc<Self>> {
        let origin = Origin {
            root: remote.root(),
            patience,
            variables: variables.to_vec(),
        };
        let mut connections = CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|(_, connection)| connection.strong_count() > 0);
        let mut known = connections.iter().filter(|(known, _)| *known == origin);
        if let Some(connection) = known.find_map(|(_, connection)| connection.upgrade()) {
            return Ok(connection);
        }
        let (client, endpoint) = match remote.scheme() {
            Scheme::S3 => aws::connect(remote, limits, variables)?,
            #[cfg(feature = "azure")]
            Scheme::Azure => azure::connect(remote, limits, variables)?,
            #[cfg(feature = "gcs")]
            Scheme::Google => google::connect(remote, limits, variables)?,
            // `Remote::open` has sent it elsewhere, or refused it.
            _ => {
                return Err(Error::Incompatible(format!(
                    "{remote} is not in a bucket that this program reaches"
                )));
            }
        };
        let connection = Arc::new(Self { client, endpoint });
        connections.push((origin, Arc::downgrade(&connection)));
        Ok(connection)
    }
}

impl CloudStorage {
    /// The directory that `remote` names, with credentials and endpoint from those of `variables` whose
    /// names begin with `AWS_`, `AZURE_` or `GOOGLE_` ([`environment`], as a rule). No call takes longer than half of
    /// `patience`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if the variables do not make sense, [`Error::Storage`] if no thread can
    /// be started.
    pub fn open(
        remote: &Remote,
        patience: Duration,
        variables: &[(String, String)],
    ) -> Result<Self> {
        let limits = Limits::within(patience);
        let connection = Connection::open(remote, patience, &limits, variables)?;
        let executor = Executor::new(Some(limits.call)).map_err(|source| Error::Storage {
            action: "starting threads for",
            object: remote.to_string(),
            source: source.into(),
        })?;
        let prefix = Path::parse(remote.key()).map_err(|error| {
            Error::Incompatible(format!("{remote} cannot be a directory: {error}"))
        })?;
        let client: Arc<dyn ObjectStore> = Arc::clone(&connection.client) as _;
        let store = PrefixStore::new(client, prefix);
        Ok(Self {
            objects: ObjectStorage::with(
                Arc::new(store),
                &remote.to_string(),
                executor,
                Some(connection.endpoint.clone()),
            ),
            connection,
            prefix: remote.key().to_owned(),
            tokens: Arc::new(Tokens::new()),
            staging: Arc::new(Staging::new()),
        })
    }

    /// As [`CloudStorage::open`], for writing: makes sure that the bucket exists, that it may be written,
    /// and that it honours conditions.
    ///
    /// # Errors
    /// As [`CloudStorage::open`]; [`Error::Incompatible`] if the storage ignores conditions or does not
    /// know them, [`Error::Storage`] if it cannot be reached or refuses.
    pub fn create(
        remote: &Remote,
        patience: Duration,
        variables: &[(String, String)],
    ) -> Result<Self> {
        let storage = Self::open(remote, patience, variables)?;
        storage.probe(remote)?;
        Ok(storage)
    }

    /// Puts a small object twice under a new name. The second time it must be refused.
    fn probe(&self, remote: &Remote) -> Result<()> {
        let name = names::probe(&self.tokens.next());
        // A crash from here on leaves an empty object that nothing looks at.
        let outcomes = [(); 2].map(|()| self.put_if_absent(&name, PutPayload::new()));
        let deleted = self.delete(&name);
        for (outcome, expected) in outcomes.into_iter().zip([Put::Done, Put::Taken]) {
            match outcome {
                Ok(put) if put == expected => {}
                Ok(_) => {
                    return Err(Error::Incompatible(format!(
                        "{remote} is in a storage that ignores conditional writes (If-None-Match): two hosts could overwrite each other's checkpoints, so it cannot be used"
                    )));
                }
                Err(error) if endpoint::is_unknown_to_it(&error) => {
                    return Err(Error::Incompatible(format!(
                        "{remote} is in a storage without conditional writes (If-None-Match): two hosts could overwrite each other's checkpoints, so it cannot be used"
                    )));
                }
                Err(error) => return Err(self.objects.failed("opening", "", error)),
            }
        }
        deleted
    }

    /// The place of an object in the bucket.
    fn path(&self, name: &str) -> Result<Path> {
        self.objects.path(&names::join(&self.prefix, name))
    }

    fn put_if_absent(&self, name: &str, payload: PutPayload) -> object_store::Result<Put> {
        let path = Path::parse(names::join(&self.prefix, name))?;
        let connection = Arc::clone(&self.connection);
        let token = self.tokens.next();
        self.objects
            .executor()
            .run(async move { put_if_absent(&connection, &path, payload, &token).await })
    }
}

impl Storage for CloudStorage {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(Upload::new(self.clone(), name)?))
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        self.put_if_absent(name, PutPayload::from_iter(parts))
            .map_err(|error| self.objects.failed("writing", name, error))?
            .done(|| self.location(name))
    }

    fn read(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.objects.read(name, range)
    }

    fn begin_read(&self, name: &str, range: Range<u64>) -> Result<Option<Reading>> {
        self.objects.begin_read(name, range)
    }

    fn list(&self, directory: &str) -> Result<Listing> {
        let beneath = |directory: &str| match directory {
            "" => String::new(),
            directory => format!("{directory}/"),
        };
        let connection = Arc::clone(&self.connection);
        let (key, prefix) = (
            beneath(self.path(directory)?.as_ref()),
            beneath(&self.prefix),
        );
        self.objects
            .executor()
            .run(async move { listing::list(&*connection.client, &key, &prefix).await })
            .map_err(|source| self.objects.failed("listing", directory, source))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.objects.delete(name)
    }

    /// There are no directories, only names.
    fn make_directory(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    fn remove_directory(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    fn location(&self, name: &str) -> String {
        self.objects.location(name)
    }
}

/// The variables of this process's environment, as far as they are text.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

impl Connection {
    /// The user metadata that holds the token of a put.
    fn attribute(&self) -> Attribute {
        Attribute::Metadata(self.endpoint.provider.token.into())
    }

    fn attributes(&self, token: &str) -> Attributes {
        Attributes::from_iter([(self.attribute(), token.to_owned())])
    }

    /// Who made the object that exists.
    async fn maker(&self, path: &Path) -> object_store::Result<Maker> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match self.client.get_opts(path, options).await {
            Ok(found) => Ok(found
                .attributes
                .get(&self.attribute())
                .map_or(Maker::Other, |token| Maker::Token(token.to_string()))),
            Err(StoreError::NotFound { .. }) => Ok(Maker::Nobody),
            Err(error) => Err(error),
        }
    }
}

/// Puts an object if there is none. Sent again where the answer was lost or undecided, until it is
/// known who made the object that exists.
async fn put_if_absent(
    connection: &Connection,
    path: &Path,
    payload: PutPayload,
    token: &str,
) -> object_store::Result<Put> {
    let mut last = None;
    for _ in 0..PUTS_MAX {
        let options = PutOptions {
            mode: PutMode::Create,
            attributes: connection.attributes(token),
            ..PutOptions::default()
        };
        match connection
            .client
            .put_opts(path, payload.clone(), options)
            .await
        {
            Ok(_) => return Ok(Put::Done),
            Err(error) if endpoint::is_condition(&error) => match connection.maker(path).await? {
                Maker::Nobody => last = Some(error),
                Maker::Other => return Ok(Put::Taken),
                Maker::Token(found) if found == token => return Ok(Put::Done),
                Maker::Token(_) => return Ok(Put::Taken),
            },
            // It may have been made: sent again, it meets itself.
            Err(error) if endpoint::is_lost(&error) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or(StoreError::NotImplemented {
        operation: "a put that is never sent".to_owned(),
        implementer: "CloudStorage".to_owned(),
    }))
}

/// Who made the object that exists.
enum Maker {
    Nobody,
    Token(String),
    /// Another program, or the storage does not keep user metadata.
    Other,
}

/// Makes tokens that no other put has, in this process or another. They decide nothing but whose an
/// object is, so chance does no harm to reproducibility here.
#[derive(Debug)]
struct Tokens {
    process: u64,
    counter: AtomicU64,
}

impl Tokens {
    fn new() -> Self {
        Self {
            process: RandomState::new().hash_one(std::process::id()),
            counter: AtomicU64::new(0),
        }
    }

    fn next(&self) -> String {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{counter}", self.process)
    }
}

#[cfg(test)]
mod tests;
