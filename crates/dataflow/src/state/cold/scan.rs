//! Walking the cold keys, a page at a time.
//!
//! Nothing becomes cold during a call. A key that is read back meanwhile keeps its place in the walk:
//! it comes where its record would have, and its slot is passed over.

use super::super::scan::PAGE_BYTES;
use super::super::table::Store;
use super::super::{KeyedState, StateError};
use super::keys::Lookup;
use super::record::Record;
use super::{Cold, FIRST_COLD, damaged, failed};
use crate::cells::Cells;

/// How many records are read at a time: with all of the largest size no more than a page.
const AT_ONCE: u32 = 256;

impl KeyedState {
    /// The part of [`KeyedState::scan`] that is about cold keys. Returns where the next page begins.
    pub(in super::super) fn scan_cold(
        &self,
        state: u32,
        mut cursor: u32,
        limit: u32,
        keys: &mut Cells,
        values: &mut Cells,
    ) -> Result<u64, StateError> {
        let view = self.view(state);
        let before = (keys.len(), keys.byte_len() + values.byte_len());
        while cursor < self.keys.cold.used()
            && keys.len() - before.0 < limit as usize
            && keys.byte_len() + values.byte_len() - before.1 < PAGE_BYTES
        {
            let left = limit - (keys.len() - before.0) as u32;
            let end = cursor.saturating_add(left.min(AT_ONCE));
            let end = end.min(self.keys.cold.used());
            let mut places = Vec::new();
            for number in cursor..end {
                match self.keys.cold.place(FIRST_COLD + number) {
                    Lookup::Vacant => {}
                    Lookup::Record { address, units } => places.push((address, units)),
                    Lookup::Recalled(slot) => {
                        if let Some(Store::Values(store)) =
                            self.tables.get(state as usize).map(|table| &table.store)
                            && let Some(stored) = store.get(slot, &self.rows, &self.heap)
                            && let Some(value) = view.see(stored)
                        {
                            keys.push(self.rows.key(slot, &self.heap));
                            values.push(value);
                        }
                    }
                }
            }
            cursor = end;
            let Some(cold) = &self.cold else {
                continue;
            };
            places.sort_unstable();
            let read = cold.log.read(&places, |at, bytes| {
                let record = Record::read(bytes).ok_or_else(|| damaged(&places[at]))?;
                let held = record.held().find(|held| held.state == state);
                if let Some(value) = held.and_then(|held| view.see(held.value)) {
                    keys.push(record.key);
                    values.push(value);
                }
                Ok(())
            });
            read.map_err(|error| failed(&error))?;
        }
        Ok(u64::from(cursor))
    }

    /// The slots, in order, of keys that come with the cold ones.
    pub(in super::super) fn slots_scanned_cold(&self) -> Vec<u32> {
        let recalled = self.cold.as_deref().map_or([].as_slice(), Cold::recalled);
        let mut slots: Vec<u32> = recalled.iter().map(|(_, slot)| *slot).collect();
        slots.sort_unstable();
        slots
    }
}
