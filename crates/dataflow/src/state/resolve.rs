//! Looking up the keys of a batch.
//!
//! In passes over the whole batch, each with little to do per key, so that the processor waits for
//! the memory of many keys at a time: first the records are reduced to distinct keys (in the cache,
//! by a table as large as the batch), then the index is asked for each one's slot, then the keys
//! there are compared, then the missing ones get slots.

use super::index::NO_SLOT;
use super::{KeyedState, Resolved, StateError};
use crate::cells::CellsRef;

/// Up to so many keys, rows and index stay in the cache, and fetching them early gains nothing.
const FITS_CACHE: usize = 1 << 14;

/// Scratch memory: which of a batch's keys are the same.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    /// Open addressing by hash: the hash's low half, then the number of a distinct key plus one; or 0.
    places: Vec<u64>,
    /// By number: index of the first record.
    first: Vec<u32>,
}

impl Distinct {
    /// Numbers the keys in the order of their first record.
    fn number(&mut self, keys: CellsRef<'_>, hashes: &[u64], numbers: &mut Vec<u32>) {
        let size = (2 * hashes.len()).next_power_of_two();
        self.places.clear();
        self.places.resize(size, 0);
        let places = self.places.as_mut_slice();
        let mask = places.len() - 1;
        let first = &mut self.first;
        first.clear();
        first.reserve(hashes.len());
        numbers.clear();
        numbers.extend(hashes.iter().enumerate().map(|(record, &hash)| {
            // The upper half: the low bits have little variety within a range of key groups.
            let mut place = (hash >> 32) as usize;
            loop {
                place &= mask;
                let taken = places[place];
                if taken == 0 {
                    first.push(record as u32);
                    let count = first.len() as u32;
                    places[place] = hash << 32 | u64::from(count);
                    return count - 1;
                }
                if (taken >> 32) as u32 == hash as u32 {
                    let number = taken as u32 - 1;
                    let other = first[number as usize] as usize;
                    if same(keys.get(other), keys.get(record)) {
                        return number;
                    }
                }
                place += 1;
            }
        }));
    }
}

/// Whether two keys are equal; those of 16 bytes without a call.
#[inline]
fn same(left: &[u8], right: &[u8]) -> bool {
    match (<&[u8; 16]>::try_from(left), <&[u8; 16]>::try_from(right)) {
        (Ok(left), Ok(right)) => left == right,
        _ => left == right,
    }
}

impl KeyedState {
    /// Looks up the keys of a batch, once: fills `resolved` and keeps the places of its keys for the
    /// accesses by number that follow, until the next `resolve`. `hashes` are [`crate::key::hash`].
    ///
    /// # Errors
    /// There are not as many hashes as keys, or a key belongs to another subtask. No key is resolved
    /// then.
    pub fn resolve(
        &mut self,
        keys: CellsRef<'_>,
        hashes: &[u64],
        resolved: &mut Resolved,
    ) -> Result<(), StateError> {
        self.slots.clear();
        self.release_idle();
        resolved.keys.clear();
        resolved.numbers.clear();
        if hashes.len() != keys.len() {
            return Err(StateError::Uneven {
                numbers: keys.len(),
                others: hashes.len(),
                column: "hashes",
            });
        }
        self.distinct.number(keys, hashes, &mut resolved.numbers);

        let Self {
            distinct,
            slots,
            keys: table,
            rows,
            heap,
            ..
        } = self;
        let first = distinct.first.iter().map(|record| *record as usize);
        // Nothing is done with what the first two passes find.
        if table.len() > FITS_CACHE {
            let touched = first.clone().map(|record| table.touch(hashes[record]));
            std::hint::black_box(touched.fold(0, |all, some| all ^ some));
        }
        slots.extend(first.clone().map(|record| table.guess(hashes[record])));
        if table.len() > FITS_CACHE {
            let touched = slots.iter().filter(|slot| **slot != NO_SLOT);
            let touched = touched.map(|slot| rows.get(*slot).cell.version[0]);
            std::hint::black_box(touched.fold(0, |all, some| all ^ some));
        }
        let mut missing = false;
        for (slot, record) in slots.iter_mut().zip(first) {
            let key = keys.get(record);
            if !table.is(*slot, key, rows, heap) {
                *slot = table
                    .find(hashes[record], key, rows, heap)
                    .unwrap_or(NO_SLOT);
                missing |= *slot == NO_SLOT;
            }
            resolved.keys.push(key);
        }
        // A key that is here is owned; so only the missing ones have to be looked at.
        if missing {
            let mut new = self
                .slots
                .iter()
                .zip(&self.distinct.first)
                .filter(|(slot, _)| **slot == NO_SLOT);
            if let Err(error) =
                new.try_for_each(|(_, record)| self.check_owned(hashes[*record as usize]))
            {
                self.slots.clear();
                resolved.keys.clear();
                resolved.numbers.clear();
                return Err(error);
            }
            for number in 0..self.slots.len() {
                if self.slots[number] == NO_SLOT {
                    let record = self.distinct.first[number] as usize;
                    self.slots[number] = self.insert_key(hashes[record], keys.get(record));
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_owned(&self, hash: u64) -> Result<(), StateError> {
        let group = self.key_groups.group_of(hash);
        if self.range.contains(group) {
            Ok(())
        } else {
            Err(StateError::NotOwned {
                group,
                range: self.range,
            })
        }
    }

    /// Gives a key that has none a slot; it is taken back if nothing gets stored there.
    pub(super) fn insert_key(&mut self, hash: u64, key: &[u8]) -> u32 {
        let slot = self.insert_key_to_fill(hash, key);
        self.idle.push(slot);
        slot
    }

    /// Gives a key that has none a slot, in which something will be stored.
    pub(super) fn insert_key_to_fill(&mut self, hash: u64, key: &[u8]) -> u32 {
        let slot = self.keys.insert(hash, key, &mut self.rows, &mut self.heap);
        let chunks = self.rows.chunks();
        while self.chunks < chunks {
            self.tables.iter_mut().for_each(super::table::Table::grow);
            self.chunks += 1;
        }
        slot
    }
}
