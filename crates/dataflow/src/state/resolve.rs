//! Looking up the keys of a batch.
//!
//! In passes over the whole batch, each with little to do per key, so that the processor waits for
//! the memory of many keys at a time: first the records are reduced to distinct keys (in the cache,
//! by a table as large as the batch), then the index is asked for each one's slot, then the keys
//! there are compared, then the missing ones get slots.

use super::cold::FIRST_COLD;
use super::index::NO_SLOT;
use super::{KeyedState, Resolved, StateError};
use crate::cells::CellsRef;
use crate::key::SecretHash;

/// Up to this many keys, rows and index stay in the cache, and fetching them early gains nothing.
const FITS_CACHE: usize = 1 << 14;

/// How many places that others have taken a record may have to pass, on average over its batch. An even
/// hash needs a sixth of one.
const PASSED_AVERAGE_MAX: usize = 8;

/// Scratch memory: which of a batch's keys are the same.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    /// Open addressing by hash: in the low bits the number of a distinct key plus one, above them some of
    /// its hash; or 0.
    places: Vec<u32>,
    /// By number: index of the first record.
    first: Vec<u32>,
    /// How many taken places were passed in the last batch.
    passed: usize,
    /// Distinguishes keys where their hashes do not.
    secret: SecretHash,
}

impl Distinct {
    /// By number: index of the first record.
    pub(super) fn first(&self) -> &[u32] {
        &self.first
    }

    /// Numbers the keys in the order of their first record.
    fn number(&mut self, keys: CellsRef<'_>, hashes: &[u64], numbers: &mut Vec<u32>) {
        let crowded = !self.number_by_hash(hashes, numbers);
        // Keys of which no other has the same bits of hash are different.
        let repeated = self.first.len() < hashes.len();
        let is_first = |(record, number): (usize, &u32)| {
            let first = self.first[*number as usize] as usize;
            keys.same(first, record)
        };
        if crowded || repeated && !numbers.iter().enumerate().all(is_first) {
            self.number_by_key(keys, numbers);
        }
    }

    /// Numbers the keys as if those with the same bits of hash were the same, which is wrong at times.
    /// Returns whether it came to an end: where hashes crowd it takes too long.
    fn number_by_hash(&mut self, hashes: &[u64], numbers: &mut Vec<u32>) -> bool {
        // A quarter full at most, so that the first look is mostly the last.
        let size = (4 * hashes.len()).next_power_of_two();
        self.places.clear();
        self.places.resize(size, 0);
        self.first.clear();
        self.first.resize(hashes.len(), 0);
        numbers.clear();
        numbers.resize(hashes.len(), 0);
        let (places, first) = (self.places.as_mut_slice(), self.first.as_mut_slice());
        let number_bits = size.trailing_zeros().min(31);
        let (mask, number_mask) = (size - 1, (1_u32 << number_bits) - 1);
        let mut count = 0_u32;
        let mut passed = 0;
        for (record, (number, hash)) in (0..).zip(numbers.iter_mut().zip(hashes)) {
            // The upper half: the low bits have little variety within a range of key groups.
            let mut place = (hash >> 32) as usize & mask;
            let tag = (*hash as u32) << number_bits;
            let mut taken = places[place];
            // Neither free nor with this tag. A product, so that it is one question with one answer.
            while u64::from((taken ^ tag) >> number_bits) * u64::from(taken) != 0 {
                passed += 1;
                if passed > PASSED_AVERAGE_MAX * hashes.len() {
                    self.passed = passed;
                    return false;
                }
                place = (place + 1) & mask;
                taken = places[place];
            }
            // Whether a key is new cannot be foretold where keys repeat, so no branch asks.
            let new = u32::from(taken == 0);
            let known = (taken & number_mask).wrapping_sub(1) & new.wrapping_sub(1);
            *number = count & new.wrapping_neg() | known;
            places[place] = tag | (*number + 1);
            first[count as usize] = record;
            count += new;
        }
        self.first.truncate(count as usize);
        self.passed = passed;
        true
    }

    /// Numbers the keys by comparing them, where hashes do not tell them apart: by chance, or because
    /// somebody chose the keys. So they are looked for by the secret hash.
    #[cold]
    fn number_by_key(&mut self, keys: CellsRef<'_>, numbers: &mut Vec<u32>) {
        let mask = self.places.len() - 1;
        self.places.fill(0);
        self.first.clear();
        numbers.clear();
        for record in 0..keys.len() {
            let mut place = self.secret.hash(keys.get(record)) as usize & mask;
            let number = loop {
                match self.places[place] {
                    0 => {
                        self.first.push(record as u32);
                        self.places[place] = self.first.len() as u32;
                        break self.first.len() as u32 - 1;
                    }
                    taken => {
                        let other = self.first[taken as usize - 1] as usize;
                        if keys.same(other, record) {
                            break taken - 1;
                        }
                    }
                }
                self.passed += 1;
                place = (place + 1) & mask;
            };
            numbers.push(number);
        }
    }
}

impl KeyedState {
    /// Looks up the keys of a batch, once: fills `resolved` and keeps the places of its keys for the
    /// accesses by number that follow, until the next `resolve`. `hashes` are [`crate::key::hash`].
    ///
    /// # Errors
    /// There are not as many hashes as keys, a key belongs to another subtask, or cold state cannot be
    /// written or read. No key is resolved then.
    pub fn resolve(
        &mut self,
        keys: CellsRef<'_>,
        hashes: &[u64],
        resolved: &mut Resolved,
    ) -> Result<(), StateError> {
        // First, because the slots of the batch before must not be kept for its sake any more.
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
        // Here and nowhere else within a call: before a slot of this batch is known, so that none of them goes
        // to another key until the next batch.
        self.evict()?;
        self.distinct.number(keys, hashes, &mut resolved.numbers);

        let Self {
            distinct,
            slots,
            keys: table,
            rows,
            heap,
            places,
            ..
        } = self;
        let first = distinct.first.iter().map(|record| *record as usize);
        // A table that was keyed places its slots by a secret hash, which is computed here for the keys in it.
        // Without such a table, which is the rule, the question is asked once a batch.
        let guessed_by = if table.index.any_keyed() {
            places.clear();
            places.extend_from_slice(hashes);
            for record in first.clone() {
                places[record] = table.place(hashes[record], || keys.get(record));
            }
            places.as_slice()
        } else {
            hashes
        };
        // Nothing is done with what the first two passes find.
        if table.len() > FITS_CACHE {
            let touched = first.clone().map(|record| table.touch(guessed_by[record]));
            std::hint::black_box(touched.fold(0, |all, some| all ^ some));
        }
        slots.extend(first.clone().map(|record| table.guess(guessed_by[record])));
        if table.len() > FITS_CACHE {
            let touched = slots.iter().filter(|slot| **slot < FIRST_COLD);
            let touched = touched.map(|slot| rows.get(*slot).cell.version[0]);
            std::hint::black_box(touched.fold(0, |all, some| all ^ some));
        }
        // Now that the lines are in the cache: is the guess the key? A wrong guess (another key with the same
        // byte of hash, or a bucket that was full) costs a whole search, and so does a new key.
        let mut missing = false;
        for (slot, record) in slots.iter_mut().zip(first) {
            let key = keys.get(record);
            if !table.is(*slot, key, rows, heap) {
                *slot = table
                    .find(hashes[record], key, rows, heap)
                    .unwrap_or(NO_SLOT);
                missing |= *slot == NO_SLOT;
            }
        }
        if distinct.first.len() == keys.len() {
            resolved.keys.extend(keys);
        } else {
            resolved.keys.extend_picked(keys, &distinct.first);
        }
        self.touch_found();
        // A key that is here is owned; so only the missing ones have to be looked at.
        if missing {
            let mut new = self
                .slots
                .iter()
                .zip(&self.distinct.first)
                .filter(|(slot, _)| **slot == NO_SLOT);
            let checked =
                new.try_for_each(|(_, record)| self.check_owned(hashes[*record as usize]));
            if let Err(error) = checked.and_then(|()| self.recall_missing(keys, hashes)) {
                // No number may lead to a slot: some of them would lead to none, or to that of a batch before.
                self.slots.clear();
                resolved.keys.clear();
                resolved.numbers.clear();
                return Err(error);
            }
            // Only after all checks, so that a batch that is refused leaves no keys without values.
            for number in 0..self.slots.len() {
                if self.slots[number] == NO_SLOT {
                    let record = self.distinct.first[number] as usize;
                    self.slots[number] = self.insert_key(hashes[record], keys.get(record));
                }
            }
        }
        Ok(())
    }

    /// The call that follows is about no keys: accesses by number fail until the next [`KeyedState::resolve`].
    pub fn resolve_none(&mut self) {
        self.slots.clear();
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
        self.grow_tables();
        slot
    }

    /// Makes places in the tables for all slots that there are.
    pub(super) fn grow_tables(&mut self) {
        let chunks = self.rows.chunks();
        while self.chunks < chunks {
            self.tables.iter_mut().for_each(super::table::Table::grow);
            self.chunks += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::flooding::colliding;
    use super::*;
    use crate::Cells;

    #[test]
    fn keys_are_numbered_in_the_order_of_their_first_record_whatever_their_hashes() {
        let keys: Cells = (0..3000_u32)
            .map(|record| record * record % 977)
            .map(|key| format!("key {key}"))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_bytes)
            .collect();
        let mut seen = std::collections::HashMap::new();
        let expected: Vec<u32> = keys
            .iter()
            .map(|key| {
                let next = seen.len() as u32;
                *seen.entry(key).or_insert(next)
            })
            .collect();
        // Right ones, all the same, in groups of four, and different ones that all want one place.
        let hash = |key: &[u8]| crate::key::hash(key);
        let of: [fn(u64) -> u64; 4] = [
            |hash| hash,
            |_| 0,
            |hash| hash << 2 >> 60 << 30,
            |hash| hash & u64::from(u32::MAX),
        ];
        for of in of {
            let hashes: Vec<u64> = keys.iter().map(|key| of(hash(key))).collect();
            let (mut distinct, mut numbers) = (Distinct::default(), vec![9; 7]);
            distinct.number(keys.as_ref(), &hashes, &mut numbers);
            assert_eq!(numbers, expected);
            // What was passed before it was given up, and after that.
            assert!(distinct.passed <= (PASSED_AVERAGE_MAX + 1) * keys.len());
            assert_eq!(distinct.first.len(), seen.len());
            for (number, first) in distinct.first.iter().enumerate() {
                assert_eq!(expected[*first as usize], number as u32);
                assert!(
                    expected[..*first as usize]
                        .iter()
                        .all(|other| *other < number as u32)
                );
            }
        }
        let mut distinct = Distinct::default();
        // Of these the hashes are really the same.
        let keys: Vec<Vec<u8>> = (0..3000).map(colliding).collect();
        let keys: Cells = keys.iter().map(Vec::as_slice).collect();
        let hashes: Vec<u64> = keys.iter().map(crate::key::hash).collect();
        let mut numbers = Vec::new();
        distinct.number(keys.as_ref(), &hashes, &mut numbers);
        assert!(numbers.into_iter().eq(0..3000));
        assert!(distinct.passed <= (PASSED_AVERAGE_MAX + 1) * keys.len());
        distinct.number(CellsRef::EMPTY, &[], &mut Vec::new());
        assert!(distinct.first.is_empty());
    }
}
