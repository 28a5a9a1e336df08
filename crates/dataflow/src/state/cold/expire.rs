//! Removing what has expired of cold keys, some records at a time.
//!
//! As the sweep of what is in memory: as many records as values were written, and a few more. A key of which
//! something has expired is read back, so that it is removed as a call removes it.

use std::io;

use super::super::KeyedState;
use super::keys::Lookup;
use super::record::Record;
use super::{Cold, FIRST_COLD, damaged};
use crate::key;

impl KeyedState {
    /// Looks at the next records, and removes what has expired. Between calls.
    pub(super) fn expire_cold(&mut self, cold: &mut Cold) -> io::Result<()> {
        let used = self.keys.cold.used();
        let numbers = match self.keys.cold.len() {
            0 => return Ok(()),
            _ => self.sweep.next_cold(used),
        };
        let mut places = Vec::with_capacity(numbers.len());
        for number in numbers {
            if let Lookup::Record { address, units } = self.keys.cold.place(FIRST_COLD + number) {
                places.push((address, units));
            }
        }
        places.sort_unstable();
        let mut keys: Vec<(u64, Vec<u8>)> = Vec::new();
        cold.log.read(&places, |at, bytes| {
            let record = Record::read(bytes).ok_or_else(|| damaged(&places[at]))?;
            if record
                .held()
                .any(|held| self.is_due(held.state, held.value))
            {
                keys.push((key::hash(record.key), record.key.to_vec()));
            }
            Ok(())
        })?;
        if keys.is_empty() {
            return Ok(());
        }
        let wanted = keys.iter().map(|(hash, key)| (0, *hash, key.as_slice()));
        let slots = self.recall_from(cold, wanted)?;
        self.sweep_slots(slots.iter().map(|(_, slot)| *slot));
        self.commit_changes();
        cold.end_call(&mut self.keys);
        Ok(())
    }
}
