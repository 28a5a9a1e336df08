//! Cold state: keys that were not used for long lie on a local disk, so that the others fit a budget
//! of memory.
//!
//! A cold key has no slot. It has a number in [`ColdKeys`], by which the index finds it, and a record
//! in the [`log::Log`], which holds all that its states hold. `evict` makes keys cold, between calls;
//! `recall` brings them back when they are looked up. Neither changes what the state holds: versions
//! go along, a rollback has nothing to do with them. A snapshot seals the log beside the rows; every
//! key is in one of the two.
//!
//! Only keys of which nothing but value states hold something become cold.
//!
//! In reading order: `record` (its bytes), `keys`, `log`, `sealed`, `evict`, `recall`, `clean`, `expire`,
//! `scan`.

mod clean;
mod evict;
mod expire;
pub(super) mod keys;
mod log;
mod piece;
#[cfg(test)]
pub(super) mod memory;
mod recall;
mod record;
mod scan;
mod sealed;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;

use super::index::NO_SLOT;
use super::keys::Keys;
use super::{KeyedState, StateError};
use clean::Cleaning;
use log::Log;

pub(super) use keys::FIRST_COLD;
pub(super) use sealed::SealedLog;

/// Where cold state lies: scratch files of one subtask, which nobody else reads and no checkpoint
/// refers to.
pub trait ColdStorage: fmt::Debug + Send {
    /// Begins a file.
    ///
    /// # Errors
    /// It cannot be made. The message names the place.
    fn create(&mut self) -> io::Result<Arc<dyn ColdFile>>;
}

/// A scratch file. It is removed when the last reference to it goes.
pub trait ColdFile: fmt::Debug + Send + Sync {
    /// Writes at an offset, which is the end of the file.
    ///
    /// # Errors
    /// It cannot be written. The message names the file.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills `bytes` from an offset.
    ///
    /// # Errors
    /// It cannot be read, or ends before. The message names the file.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// What there is of cold state, and what it has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColdStats {
    /// Keys that are cold.
    pub keys: u64,
    /// Bytes of their records, on disk or about to be written.
    pub bytes: u64,
    /// Bytes of records that are not needed any more, but in files that still are.
    pub dead: u64,
    /// Keys that became cold, since the start.
    pub evicted: u64,
    /// Keys that were read back, since the start.
    pub recalled: u64,
    /// Bytes of live records that were moved because their file was more than half dead.
    pub cleaned: u64,
    /// Bytes of memory that count against the budget.
    pub memory: u64,
}

/// What a state with a budget of memory has beside its rows.
#[derive(Debug)]
pub(super) struct Cold {
    budget: u64,
    log: Log,
    /// By slot, whether it was used since the hand came by.
    used: Vec<u64>,
    /// The slot at which evicting goes on.
    hand: u32,
    /// How many slots it has passed since it found a victim.
    in_vain: usize,
    /// Cold keys that were read back since the last call ended, by the slots that they got: a walk
    /// of all keys must not meet them twice.
    recalled: Vec<(u32, u32)>,
    cleaning: Option<Cleaning>,
    /// For how many calls no victims are looked for.
    rest: u32,
    /// Bytes appended to the log when the last call ended.
    appended: u64,
    stats: ColdStats,
    /// How many of the keys that were read back are reported.
    told: u64,
    /// A record on its way.
    buffer: Vec<u8>,
}

impl Cold {
    /// Notes that a slot was used.
    #[inline]
    fn touch(&mut self, slot: u32) {
        let word = (slot / 64) as usize;
        if word >= self.used.len() {
            self.used.resize(word + 1, 0);
        }
        self.used[word] |= 1 << (slot % 64);
    }

    /// Whether a slot was used since it was asked the last time.
    fn take_used(&mut self, slot: u32) -> bool {
        let Some(word) = self.used.get_mut((slot / 64) as usize) else {
            return false;
        };
        let bit = 1 << (slot % 64);
        let used = *word & bit != 0;
        *word &= !bit;
        used
    }

    /// A call has ended: the numbers of keys that were read back in it may be given to others.
    pub(super) fn end_call(&mut self, keys: &mut Keys) {
        for (number, _) in self.recalled.drain(..) {
            keys.cold.release(number);
        }
    }

    /// What was read back since the last call ended: numbers and slots.
    fn recalled(&self) -> &[(u32, u32)] {
        &self.recalled
    }

    /// The log as it is now.
    pub(super) fn seal(&self) -> SealedLog {
        self.log.seal()
    }
}

/// An error of the storage.
fn failed(error: &io::Error) -> StateError {
    StateError::Cold {
        reason: error.to_string(),
    }
}

/// What was read is not what was written.
fn damaged(place: &dyn fmt::Debug) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a record of cold state in {place:?} does not match its checksum"),
    )
}

impl KeyedState {
    /// Limits the memory that keys and values take (with the index, and at most a batch more) to
    /// about `bytes`: what was not used for longest moves to `storage`. Keys of which a map or list
    /// state holds something stay in memory, whatever that takes, and about 20 bytes of each cold
    /// key. Only before the first access.
    pub fn set_memory_budget(&mut self, bytes: u64, storage: Box<dyn ColdStorage>) {
        self.cold = Some(Box::new(Cold {
            budget: bytes,
            log: Log::new(storage),
            used: Vec::new(),
            hand: 0,
            in_vain: 0,
            recalled: Vec::new(),
            cleaning: None,
            rest: 0,
            appended: 0,
            stats: ColdStats::default(),
            told: 0,
            buffer: Vec::new(),
        }));
    }

    /// What there is of cold state; `None` without a budget.
    #[must_use]
    pub fn cold_stats(&self) -> Option<ColdStats> {
        let cold = self.cold.as_ref()?;
        let (bytes, dead) = cold.log.bytes();
        Some(ColdStats {
            keys: self.keys.cold.len() as u64,
            bytes,
            dead,
            memory: self.memory(cold),
            ..cold.stats
        })
    }

    /// How many keys were read back since this was asked the last time.
    pub fn take_recalled(&mut self) -> u64 {
        self.cold.as_mut().map_or(0, |cold| {
            let told = std::mem::replace(&mut cold.told, cold.stats.recalled);
            cold.stats.recalled - told
        })
    }

    /// Notes that the keys of a batch that were found in memory were used. Those that come into memory
    /// with it were not: only what is used again before the hand comes by is worth keeping, or keys
    /// that come once push out those that come often.
    pub(super) fn touch_found(&mut self) {
        if let Some(cold) = &mut self.cold {
            let found = self.slots.iter().filter(|slot| **slot != NO_SLOT);
            found.for_each(|slot| cold.touch(*slot));
        }
    }

    /// As [`KeyedState::touch_found`], of one key.
    pub(super) fn touch_slot(&mut self, slot: u32) {
        if let Some(cold) = &mut self.cold {
            cold.touch(slot);
        }
    }
}
