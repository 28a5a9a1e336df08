//! Reading cold keys back.

use std::io;

use super::super::bytes::Bytes;
use super::super::codec::Entry;
use super::super::heap::Heap;
use super::super::index::NO_SLOT;
use super::super::keys::Keys;
use super::super::rows::{Cell, Rows};
use super::super::table::Store;
use super::super::{KeyedState, RestoreError, StateError};
use super::keys::Lookup;
use super::record::Record;
use super::{Cold, damaged, failed};
use crate::cells::CellsRef;
use crate::key;

/// A cold key that may be one that is looked for.
struct Candidate<'k> {
    number: u32,
    place: (u32, u32),
    hash: u64,
    key: &'k [u8],
    /// For which of the keys that are looked for it is.
    wanted: u32,
}

impl KeyedState {
    /// Reads the keys of a batch back that have no slot, and sets their slots.
    pub(in super::super) fn recall_missing(
        &mut self,
        keys: CellsRef<'_>,
        hashes: &[u64],
    ) -> Result<(), StateError> {
        if self.keys.cold.len() == 0 {
            return Ok(());
        }
        let records = self.distinct.first();
        let wanted = (0..).zip(&self.slots).zip(records);
        let wanted = wanted.filter(|((_, slot), _)| **slot == NO_SLOT);
        let wanted: Vec<(u32, u64, &[u8])> = wanted
            .map(|((number, _), record)| {
                let record = *record as usize;
                (number, hashes[record], keys.get(record))
            })
            .collect();
        let slots = self.recall(wanted.into_iter())?;
        for (number, slot) in slots {
            self.slots[number as usize] = slot;
        }
        Ok(())
    }

    /// Reads a key back if it is cold.
    pub(in super::super) fn recall_key(
        &mut self,
        hash: u64,
        key: &[u8],
    ) -> Result<Option<u32>, StateError> {
        let found = self.recall(std::iter::once((0, hash, key)))?;
        Ok(found.first().map(|(_, slot)| *slot))
    }

    /// Reads the keys of entries back, with their hashes, that are cold.
    pub(in super::super) fn recall_entries(
        &mut self,
        entries: &[Entry<'_>],
        hashes: &[u64],
    ) -> Result<(), RestoreError> {
        if self.keys.cold.len() > 0 {
            let wanted = entries.iter().zip(hashes);
            self.recall(wanted.map(|(entry, hash)| (0, *hash, entry.key)))
                .map_err(RestoreError::Cold)?;
        }
        Ok(())
    }

    /// Reads keys back that are cold, of some with their hashes, each with a number. Returns the slots
    /// of those, with their numbers.
    pub(in super::super) fn recall<'k>(
        &mut self,
        wanted: impl Iterator<Item = (u32, u64, &'k [u8])>,
    ) -> Result<Vec<(u32, u32)>, StateError> {
        let Some(mut cold) = self.cold.take() else {
            return Ok(Vec::new());
        };
        let recalled = self.recall_from(&mut cold, wanted);
        self.cold = Some(cold);
        recalled.map_err(|error| failed(&error))
    }

    pub(super) fn recall_from<'k>(
        &mut self,
        cold: &mut Cold,
        wanted: impl Iterator<Item = (u32, u64, &'k [u8])>,
    ) -> io::Result<Vec<(u32, u32)>> {
        let mut candidates = Vec::new();
        for (wanted, hash, key) in wanted {
            self.keys.each_cold(hash, key, |number, place| {
                candidates.push(Candidate {
                    number,
                    place,
                    hash,
                    key,
                    wanted,
                });
            });
        }
        // A key may be asked for twice; and one record may be looked for by two keys, of which it is at
        // most one's.
        candidates.sort_unstable_by_key(|candidate| (candidate.place.0, candidate.key));
        candidates.dedup_by_key(|candidate| (candidate.number, candidate.key));
        let places: Vec<(u32, u32)> = candidates.iter().map(|it| it.place).collect();
        let mut slots = Vec::with_capacity(candidates.len());
        let log = &cold.log;
        let read = log.read(&places, |at, bytes| {
            let Candidate {
                number, hash, key, ..
            } = candidates[at];
            let record = Record::read(bytes).ok_or_else(|| {
                let file = log.place_of(places[at].0);
                file.map_or_else(|| damaged(&places[at]), |file| damaged(file))
            })?;
            if record.key == key {
                slots.push((at, self.put_back(hash, number, record)));
            } else {
                // Another key with nearly the same hash. It is not to be read again in vain.
                self.keys
                    .place_cold(number, record.key, &self.rows, &self.heap);
            }
            Ok(())
        });
        // Also if it fails: those before have slots.
        let mut found = Vec::with_capacity(slots.len());
        for (at, slot) in slots {
            let Candidate {
                number,
                place: (address, units),
                wanted,
                ..
            } = candidates[at];
            cold.log.kill(address, units);
            cold.recalled.push((number, slot));
            cold.stats.recalled += 1;
            found.push((wanted, slot));
        }
        read.map(|()| found)
    }

    /// Gives a cold key a slot, with what its record says.
    fn put_back(&mut self, hash: u64, number: u32, record: Record<'_>) -> u32 {
        let (rows, heap) = (&mut self.rows, &mut self.heap);
        let slot = self.keys.recall(hash, number, record.key, rows, heap);
        self.grow_tables();
        for held in record.held() {
            let table = self.tables.get_mut(held.state as usize);
            if let Some(Store::Values(values)) = table.map(|table| &mut table.store) {
                let cell = Cell {
                    version: held.version,
                    value: Bytes::new(held.value, &mut self.heap),
                };
                values.put(slot, cell, &mut self.rows);
            }
        }
        slot
    }
}

impl Keys {
    /// Where a cold key may be found: in its place, and in a keyed table also in that by its hash, if it
    /// became cold before the table was keyed.
    fn cold_places(&self, hash: u64, key: &[u8]) -> impl Iterator<Item = u64> + use<> {
        let place = self.place(hash, || key);
        [place]
            .into_iter()
            .chain(Some(hash).filter(|hash| *hash != place))
    }

    /// Calls `found` with number, address and units of each cold key that may be this one.
    fn each_cold(&self, hash: u64, key: &[u8], mut found: impl FnMut(u32, (u32, u32))) {
        for place in self.cold_places(hash, key) {
            self.index.find(place, |number| {
                if self.cold.may_be(number, place)
                    && let Lookup::Record { address, units } = self.cold.place(number)
                {
                    found(number, (address, units));
                }
                false
            });
        }
    }

    /// The number of a cold key whose record is at an address.
    pub(super) fn cold_at(&self, key: &[u8], address: u32) -> Option<u32> {
        self.cold_places(key::hash(key), key).find_map(|place| {
            self.index.find(place, |number| {
                self.cold.may_be(number, place)
                    && matches!(self.cold.place(number), Lookup::Record { address: at, .. } if at == address)
            })
        })
    }

    /// Puts a cold key, which has been read, where it belongs in the index, if its table was keyed after
    /// it had become cold.
    fn place_cold(&mut self, number: u32, key: &[u8], rows: &Rows, heap: &Heap) {
        let place = self.place(key::hash(key), || key);
        // It may have a slot by now.
        if self.cold.may_be(number, place)
            || !matches!(self.cold.place(number), Lookup::Record { .. })
        {
            return;
        }
        self.index.remove(self.cold.place_in_index(number), number);
        self.cold.place_again(number, place);
        let (index, place_of) = self.with_places(rows, heap);
        index.insert(place, number, place_of);
    }

    /// Gives a cold key a slot.
    fn recall(
        &mut self,
        hash: u64,
        number: u32,
        key: &[u8],
        rows: &mut Rows,
        heap: &mut Heap,
    ) -> u32 {
        let slot = self.insert_unindexed(key, rows, heap);
        let place = self.place(hash, || key);
        if self.cold.may_be(number, place) {
            self.index.replace(place, number, slot);
        } else {
            self.index.remove(self.cold.place_in_index(number), number);
            let (index, place_of) = self.with_places(rows, heap);
            index.insert(place, slot, place_of);
        }
        self.cold.recall(number, slot);
        slot
    }
}
