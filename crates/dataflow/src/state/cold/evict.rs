//! Making keys cold: those that were not used since a hand, which goes round over the slots, came by
//! the last time.

use std::io;

use super::super::heap::Heap;
use super::super::index::Index;
use super::super::keys::Keys;
use super::super::rows::{Cell, Row, Rows, SLOTS};
use super::super::table::{Store, Table};
use super::super::{KeyedState, StateError};
use super::record::{RECORD_MAX, UNIT, Writer};
use super::{Cold, failed};

/// How many keys become cold at a time, so that their buckets of the index are fetched together.
const AT_ONCE: usize = 256;
/// How many slots one call looks at, at most. What is too much then goes in the next ones.
const STEPS_MAX: usize = 1 << 17;
/// How many calls do not look for victims after two rounds of the hand that found none.
const REST: u32 = if cfg!(test) { 2 } else { 64 };
/// So much of the budget is for rows and values in any case, if the index takes more than the rest,
/// or maps and lists do.
const KEPT: u64 = 8;

impl KeyedState {
    /// Moves what was not used for longest to the cold storage, until the rest fits the budget.
    /// Nothing happens without one, or while there are changes that are not committed.
    pub(in super::super) fn evict(&mut self) -> Result<(), StateError> {
        if self.open {
            return Ok(());
        }
        let Some(mut cold) = self.cold.take() else {
            return Ok(());
        };
        let evicted = self.evict_to(&mut cold);
        self.cold = Some(cold);
        evicted.map_err(|error| failed(&error))
    }

    fn evict_to(&mut self, cold: &mut Cold) -> io::Result<()> {
        cold.end_call(&mut self.keys);
        if self.sweep.is_needed() {
            self.expire_cold(cold)?;
        }
        self.clean(cold)?;
        if cold.rest > 0 {
            cold.rest -= 1;
            return Ok(());
        }
        let mut over = self.memory(cold).saturating_sub(cold.budget) as i64;
        if over <= 0 {
            return Ok(());
        }
        let row = row_bytes(&self.tables);
        let values = self.tables.iter().filter_map(|table| match table.store {
            Store::Values(_) => Some(table.counters.bytes),
            _ => None,
        });
        let kept = row as u64 + values.sum::<u64>() / self.stats.keys.max(1);
        let (mut steps, mut victims) = (STEPS_MAX, Vec::with_capacity(AT_ONCE));
        while over > 0 && self.keys.len() as u64 * kept > cold.budget / KEPT {
            let wanted = (over as usize).div_ceil(row).min(AT_ONCE);
            self.find_victims(cold, wanted, &mut steps, &mut victims);
            if victims.is_empty() {
                break;
            }
            let touched = victims.iter().map(|(_, hash)| self.keys.touch(*hash));
            std::hint::black_box(touched.fold(0, |all, some| all ^ some));
            for &(slot, hash) in &victims {
                over -= self.evict_slot(cold, slot, hash)? as i64;
                if over <= 0 {
                    break;
                }
            }
        }
        if cold.in_vain > 2 * self.rows.chunks() * SLOTS {
            cold.in_vain = 0;
            cold.rest = REST;
        }
        Ok(())
    }

    /// The next slots, with the hashes of their keys, that were not used since the hand came by.
    fn find_victims(
        &self,
        cold: &mut Cold,
        wanted: usize,
        steps: &mut usize,
        victims: &mut Vec<(u32, u64)>,
    ) {
        victims.clear();
        let end = (self.rows.chunks() * SLOTS) as u32;
        // Once round finds those not used, a second time all others.
        *steps = (*steps).min(2 * end as usize);
        while *steps > 0 && victims.len() < wanted {
            *steps -= 1;
            cold.in_vain += 1;
            if cold.hand >= end {
                cold.hand = 0;
                if !victims.is_empty() {
                    // None may be found twice.
                    break;
                }
            }
            let slot = cold.hand;
            cold.hand += 1;
            if cold.take_used(slot) {
                continue;
            }
            if self.may_be_cold(slot) {
                let hash = crate::key::hash(self.rows.key(slot, &self.heap));
                victims.push((slot, hash));
                cold.in_vain = 0;
            }
        }
    }

    /// Whether there is a key in `slot`, of which values are held and nothing else, and not too much.
    fn may_be_cold(&self, slot: u32) -> bool {
        let key = &self.rows.get(slot).key;
        if key.is_absent() {
            return false;
        }
        let (mut bytes, mut held) = (64 + key.len(), false);
        for table in &self.tables {
            match &table.store {
                Store::Values(values) => {
                    if let Some(value) = values.get(slot, &self.rows, &self.heap) {
                        bytes += value.len() + 24;
                        held = true;
                    }
                }
                _ if table.is_absent(slot, &self.rows) => {}
                _ => return false,
            }
        }
        held && bytes <= RECORD_MAX
    }

    /// Makes the key in `slot` cold. Returns how much memory that frees.
    fn evict_slot(&mut self, cold: &mut Cold, slot: u32, hash: u64) -> io::Result<usize> {
        let Self {
            keys,
            rows,
            heap,
            tables,
            ..
        } = self;
        let mut record = Writer::begin(&mut cold.buffer, rows.key(slot, heap));
        let mut newest = 0;
        for (number, table) in (0..).zip(tables.iter()) {
            let Store::Values(values) = &table.store else {
                continue;
            };
            let Cell { version, value } = values.cell(slot, rows);
            if let Some(value) = value.get(heap) {
                record.value(number, *version, value);
                newest = newest.max(u32::from_le_bytes(*version));
            }
        }
        record.finish();
        let address = cold.log.append(&cold.buffer, newest)?;
        let units = (cold.buffer.len() / UNIT) as u32;
        let mut freed = row_bytes(tables) + rows.get(slot).key.heap_bytes();
        if !keys.evict(hash, slot, (address, units), rows, heap) {
            cold.log.kill(address, units);
            return Err(io::Error::other(
                "one subtask has too many cold keys; give the operator a higher parallelism",
            ));
        }
        for table in tables.iter_mut() {
            if let Store::Values(values) = &mut table.store {
                let value = values.take(slot, rows).value;
                freed += value.heap_bytes();
                value.release(heap);
            }
        }
        cold.stats.evicted += 1;
        Ok(freed)
    }

    /// Bytes of memory that count against the budget.
    pub(super) fn memory(&self, cold: &Cold) -> u64 {
        let rows = (self.keys.len() * row_bytes(&self.tables)) as u64;
        let log = cold.log.memory() + (cold.used.len() * 8) as u64;
        rows + self.heap.bytes() + self.keys.bytes() + log
    }
}

/// Bytes of memory that a slot takes.
fn row_bytes(tables: &[Table]) -> usize {
    let columns = tables.iter().map(|table| match &table.store {
        Store::Values(values) => values.column_bytes(),
        _ => 0,
    });
    size_of::<Row>() + columns.sum::<usize>()
}

impl Keys {
    /// Takes the slot from a key, whose record is at an address and has this many units. Returns
    /// whether that was possible.
    fn evict(
        &mut self,
        hash: u64,
        slot: u32,
        (address, units): (u32, u32),
        rows: &mut Rows,
        heap: &mut Heap,
    ) -> bool {
        let mut place = self.place(hash, || rows.key(slot, heap));
        // Cold keys in one place would all have to be read to find one of them. By chance there are none.
        let (index, cold) = (&self.index, &self.cold);
        if !index.is_keyed(hash)
            && index
                .find(place, |other| cold.may_be(other, place))
                .is_some()
        {
            let (index, place_of) = self.with_places(rows, heap);
            index.key_shard(Index::shard_of(hash), place_of);
            place = self.place(hash, || rows.key(slot, heap));
        }
        let Some(number) = self.cold.insert(place, address, units) else {
            return false;
        };
        self.index.replace(place, slot, number);
        self.vacate(slot, rows, heap);
        true
    }

    /// Bytes of memory that index and cold keys take.
    fn bytes(&self) -> u64 {
        self.index.bytes() + self.cold.bytes()
    }
}
