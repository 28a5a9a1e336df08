//! The log that a lease is: numbered entries, of which the one with the highest number counts.

use super::entry::{BYTES_MAX, LeaseEntry, Unreadable};
use crate::storage::Storage;
use crate::{Error, Result, names};

/// How often a log that changes while it is read is read again.
const READS_MAX: usize = 100;

/// The log as it was found.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The highest number; 0 if there is no entry.
    pub(super) top: u64,
    /// The newest entry that can be read: the one at the top, if that is not damaged.
    pub(super) last: Option<LeaseEntry>,
    /// The numbers of all entries, ascending.
    pub(super) numbers: Vec<u64>,
    /// The names of all else in the lease's directory.
    pub(super) others: Vec<String>,
}

/// What is found under a number.
#[derive(Debug)]
pub(super) enum Found {
    LeaseEntry(Box<LeaseEntry>),
    Damaged,
    Absent,
}

impl Found {
    pub(super) fn is_of(&self, token: &str) -> bool {
        matches!(self, Self::LeaseEntry(entry) if entry.token == token)
    }
}

impl Log {
    /// Reads the log of a job directory.
    pub(super) fn read(storage: &dyn Storage, job: &str) -> Result<Self> {
        for _ in 0..READS_MAX {
            let log = Self::list(storage, job)?;
            if let Some(log) = log.read_last(storage, job)? {
                return Ok(log);
            }
        }
        Err(Error::Storage {
            action: "reading",
            object: storage.location(&names::lease(job)),
            source: "it changes faster than it can be read".into(),
        })
    }

    /// As [`Log::read`], without the entries' contents.
    pub(super) fn list(storage: &dyn Storage, job: &str) -> Result<Self> {
        let mut log = Self::default();
        for object in storage.list(&names::lease(job))?.objects {
            match names::lease_sequence(&object.name) {
                Some(number) => log.numbers.push(number),
                None => log.others.push(object.name),
            }
        }
        log.numbers.sort_unstable();
        log.top = log.numbers.last().copied().unwrap_or(0);
        Ok(log)
    }

    /// `None`: an entry went away meanwhile, so there are newer ones.
    fn read_last(mut self, storage: &dyn Storage, job: &str) -> Result<Option<Self>> {
        for number in self.numbers.iter().rev() {
            match read_entry(storage, job, *number)? {
                Found::LeaseEntry(entry) => {
                    self.last = Some(*entry);
                    break;
                }
                Found::Damaged => {}
                Found::Absent => return Ok(None),
            }
        }
        Ok(Some(self))
    }

    /// The newest entry, if it can be read.
    pub(super) fn newest(&self) -> Option<&LeaseEntry> {
        self.last
            .as_ref()
            .filter(|entry| entry.sequence == self.top)
    }
}

/// Reads an entry by its number.
pub(super) fn read_entry(storage: &dyn Storage, job: &str, sequence: u64) -> Result<Found> {
    let name = names::lease_entry(job, sequence);
    let bytes = match storage.read(&name, 0..BYTES_MAX + 1) {
        Ok(bytes) => bytes,
        Err(Error::NotFound(_)) => return Ok(Found::Absent),
        Err(error) => return Err(error),
    };
    match LeaseEntry::decode(&bytes, sequence) {
        Ok(entry) => Ok(Found::LeaseEntry(Box::new(entry))),
        Err(Unreadable::Damaged) => Ok(Found::Damaged),
        Err(Unreadable::Later(format)) => Err(Error::Incompatible(format!(
            "{} has lease format {format}, this program knows {} and before: use the program that wrote it",
            storage.location(&name),
            LeaseEntry::FORMAT
        ))),
    }
}
