//! Objects in the memory of this process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use super::{Listing, Object, ObjectWriter, Storage};
use crate::{Error, Result};

/// Objects that live as long as the storage (or a clone of it) does. Has no directories of its own:
/// they are what the names say.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl MemoryStorage {
    /// An empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        // The map is whole between any two statements, so a panic elsewhere does not spoil it.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, name: &str, bytes: Bytes) -> Result<()> {
        match self.objects().entry(name.to_owned()) {
            Entry::Occupied(_) => Err(Error::AlreadyExists {
                object: self.location(name),
            }),
            Entry::Vacant(vacant) => {
                vacant.insert(bytes);
                Ok(())
            }
        }
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names only: the contents are somebody's state.
        f.debug_set().entries(self.objects().keys()).finish()
    }
}

impl Storage for MemoryStorage {
    fn may_land_late(&self) -> bool {
        false
    }

    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(MemoryWriter {
            storage: self.clone(),
            name: name.to_owned(),
            bytes: BytesMut::new(),
        }))
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        // One part is kept as it is: the caller goes on reading from the same memory.
        let whole = match <[Bytes; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => parts.concat().into(),
        };
        self.insert(name, whole)
    }

    fn read(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let objects = self.objects();
        let bytes = objects
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("{} does not exist", self.location(name))))?;
        let clamp = |at: u64| usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
        let (start, end) = (clamp(range.start), clamp(range.end));
        Ok(bytes.slice(start..end.max(start)))
    }

    fn list(&self, directory: &str) -> Result<Listing> {
        let prefix = match directory {
            "" => String::new(),
            directory => format!("{directory}/"),
        };
        let mut listing = Listing::default();
        let objects = self.objects();
        let beneath = objects
            .range(prefix.clone()..)
            .take_while(|(name, _)| name.starts_with(&prefix));
        for (name, bytes) in beneath {
            match name[prefix.len()..].split_once('/') {
                Some((child, _)) => {
                    let child = format!("{prefix}{child}");
                    if listing.directories.last() != Some(&child) {
                        listing.directories.push(child);
                    }
                }
                None => listing.objects.push(Object {
                    name: name.clone(),
                    size: bytes.len() as u64,
                    modified_at: 0,
                }),
            }
        }
        // Names between two of one directory may sort among them (`a.b` before `a/b`).
        listing.directories.sort();
        listing.directories.dedup();
        Ok(listing)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.objects().remove(name);
        Ok(())
    }

    fn make_directory(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    fn remove_directory(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    fn location(&self, name: &str) -> String {
        format!("memory:{name}")
    }
}

struct MemoryWriter {
    storage: MemoryStorage,
    name: String,
    bytes: BytesMut,
}

impl fmt::Debug for MemoryWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryWriter")
            .field("name", &self.name)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl ObjectWriter for MemoryWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.storage.insert(&self.name, self.bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::contract;

    #[test]
    fn memory_storage_keeps_the_contract() {
        contract::check(&|| Arc::new(MemoryStorage::new()));
    }
}
