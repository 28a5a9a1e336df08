//! What a read extends.

use super::super::change::Tally;
use super::super::heap::Heap;
use super::super::rows::Rows;
use super::super::table::{Store, Table};
use super::super::{ACCESS_MAX, KeyedState, StateError};
use super::{NO_TIME, Refresh, Ttl, UNDATED, View, push_dated, split};
use crate::cells::CellsRef;

impl KeyedState {
    /// When what a read of a state sees expires from now on, if reading extends it.
    fn extends(&self, state: u32) -> Option<i64> {
        let ttl = self.ttl(state).filter(|ttl| ttl.refresh == Refresh::Read)?;
        let now = Some(self.times.of(ttl.time)).filter(|now| *now != NO_TIME)?;
        Some(ttl.expiry(now))
    }

    /// The values in these slots were read.
    pub(in super::super) fn were_read(
        &mut self,
        state: u32,
        slots: &[u32],
    ) -> Result<(), StateError> {
        let Some(expiry) = self.extends(state) else {
            return Ok(());
        };
        let view = self.view(state);
        self.alter(state, |change| {
            let Change { table, rows, .. } = change;
            let Store::Values(values) = &table.store else {
                return Ok(());
            };
            let stale = slots.iter().copied().filter(|slot| {
                let stored = values.get(*slot, rows, change.heap);
                stored.is_some_and(|stored| is_stale(stored, view, expiry))
            });
            for slot in stale.collect::<Vec<_>>() {
                change.set_value(slot, expiry);
            }
            Ok(())
        })
    }

    /// Entries of maps were read: of the key `numbers[i]` that at `fields[i]`.
    pub(in super::super) fn entries_were_read(
        &mut self,
        state: u32,
        numbers: &[u32],
        fields: CellsRef<'_>,
    ) -> Result<(), StateError> {
        let Some(expiry) = self.extends(state) else {
            return Ok(());
        };
        let view = self.view(state);
        let slots: Vec<u32> = numbers
            .iter()
            .map(|number| self.slots[*number as usize])
            .collect();
        self.alter(state, |change| {
            for (slot, field) in slots.iter().copied().zip(fields.into_cells()) {
                let Store::Maps(maps) = &change.table.store else {
                    continue;
                };
                let stored = maps.get(slot, field, change.heap);
                if stored.is_some_and(|stored| is_stale(stored, view, expiry)) {
                    change.set_entry(slot, field, expiry);
                }
            }
            Ok(())
        })
    }

    /// The list of a key was read.
    pub(in super::super) fn list_was_read(
        &mut self,
        state: u32,
        number: u32,
    ) -> Result<(), StateError> {
        let Some(expiry) = self.extends(state) else {
            return Ok(());
        };
        let (view, slot) = (self.view(state), self.slots[number as usize]);
        self.alter(state, |change| {
            let Store::Lists(lists) = &change.table.store else {
                return Ok(());
            };
            let any_stale = lists
                .get(slot, change.heap)
                .any(|stored| is_stale(stored, view, expiry));
            if any_stale {
                change.set_list(slot, view, |found| match found {
                    UNDATED => expiry,
                    found => found.max(expiry),
                })?;
            }
            Ok(())
        })
    }

    /// Makes changes to a state that are an access of their own.
    pub(super) fn alter(
        &mut self,
        state: u32,
        change: impl FnOnce(&mut Change<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let before = self.before(state);
        let logged = !self.seals.is_empty();
        let Self {
            tables, rows, heap, ..
        } = self;
        let mut altering = Change {
            table: &mut tables[state as usize],
            rows,
            heap,
            version: self.version,
            logged,
            tally: Tally::default(),
            scratch: Vec::new(),
        };
        let done = change(&mut altering);
        let Change { tally, .. } = altering;
        if let Err(error) = done {
            self.tables[state as usize].rollback_to(before, &mut self.rows, &mut self.heap);
            return Err(error);
        }
        if tally.written.0 == 0 && tally.entries == 0 {
            return Ok(());
        }
        self.open = true;
        self.finish(state, before, tally)
    }
}

/// Whether a stored value is seen, and would expire later than it does if it were written now.
fn is_stale(stored: &[u8], view: View, expiry: i64) -> bool {
    // One that was written before there was a time gets one.
    let sooner = |(found, _): (i64, &[u8])| found < expiry || found == UNDATED;
    !view.has_expired(stored) && split(stored).is_some_and(sooner)
}

/// Changes to one state.
pub(super) struct Change<'a> {
    pub(super) table: &'a mut Table,
    pub(super) rows: &'a mut Rows,
    pub(super) heap: &'a mut Heap,
    version: u32,
    /// Whether removals are logged.
    logged: bool,
    tally: Tally,
    /// A value on its way.
    scratch: Vec<u8>,
}

impl Change<'_> {
    fn wrote(&mut self) {
        self.tally.written.0 += 1;
        self.tally.written.1 += self.scratch.len() as u64;
    }

    /// Writes the value in a slot again, with another expiry.
    pub(super) fn set_value(&mut self, slot: u32, expiry: i64) {
        let Store::Values(values) = &mut self.table.store else {
            return;
        };
        let stored = values.get(slot, self.rows, self.heap);
        let Some((_, value)) = stored.and_then(split) else {
            return;
        };
        self.scratch.clear();
        push_dated(&mut self.scratch, expiry, value);
        let change = values.set(
            slot,
            Some(&self.scratch),
            self.version,
            self.rows,
            self.heap,
        );
        self.tally.add(slot, change);
        self.wrote();
    }

    /// Writes a map entry again, with another expiry.
    pub(super) fn set_entry(&mut self, slot: u32, field: &[u8], expiry: i64) {
        let Store::Maps(maps) = &mut self.table.store else {
            return;
        };
        let Some((_, value)) = maps.get(slot, field, self.heap).and_then(split) else {
            return;
        };
        self.scratch.clear();
        push_dated(&mut self.scratch, expiry, value);
        let (change, _) = maps.set(slot, field, &self.scratch, self.version, self.heap);
        self.tally.add(slot, change);
        self.tally.written.1 += field.len() as u64;
        self.wrote();
    }

    /// Writes a list again: its elements that are seen, each with the expiry that is made of its own.
    pub(super) fn set_list(
        &mut self,
        slot: u32,
        view: View,
        expiry: impl Fn(i64) -> i64,
    ) -> Result<(), StateError> {
        let Store::Lists(lists) = &mut self.table.store else {
            return Ok(());
        };
        let mut kept = crate::cells::Cells::new();
        for stored in lists.get(slot, self.heap) {
            if let Some((found, value)) = split(stored).filter(|_| !view.has_expired(stored)) {
                kept.push_with(|to| push_dated(to, expiry(found), value));
            }
        }
        let (cleared, mut change) = lists.clear(slot, usize::MAX, self.version, self.heap);
        self.tally.entries -= cleared as i64;
        if kept.is_empty() {
            self.vanished(slot, change.vanished);
        }
        change.vanished &= kept.is_empty();
        self.tally.add(slot, change);
        for element in kept.iter() {
            let appended = lists_of(self.table).append(slot, element, self.version, self.heap);
            let Some(change) = appended else {
                return Err(StateError::TooLarge { limit: ACCESS_MAX });
            };
            self.tally.entries += 1;
            self.tally.bytes += change.bytes;
            self.tally.written.0 += 1;
            self.tally.written.1 += element.len() as u64;
        }
        Ok(())
    }

    /// Removes the value in a slot.
    pub(super) fn remove_value(&mut self, slot: u32) {
        let (entries, change) =
            self.table
                .clear(slot, usize::MAX, self.version, self.rows, self.heap);
        self.tally.entries -= entries as i64;
        self.tally.add(slot, change);
        self.vanished(slot, change.vanished);
    }

    /// Removes a map entry.
    pub(super) fn remove_entry(&mut self, slot: u32, field: &[u8]) {
        let Store::Maps(maps) = &mut self.table.store else {
            return;
        };
        let Some(change) = maps.remove(slot, field, self.version, self.heap) else {
            return;
        };
        self.tally.entries -= 1;
        self.tally.add(slot, change);
        if self.logged {
            let key = self.rows.key(slot, self.heap);
            self.table.removals.fields.push(key);
            self.table.removals.fields.push(field);
            self.tally.removed = true;
        }
    }

    /// Logs that a state holds nothing any more for the key in a slot.
    fn vanished(&mut self, slot: u32, vanished: bool) {
        if self.logged && vanished {
            let key = self.rows.key(slot, self.heap);
            self.table.removals.keys.push(key);
            self.tally.removed = true;
        }
    }
}

/// The lists of a table that has some.
fn lists_of(table: &mut Table) -> &mut super::super::lists::Lists {
    match &mut table.store {
        Store::Lists(lists) => lists,
        _ => unreachable!("it was a list state"),
    }
}

/// How an entry that was written before there was a time is given one.
pub(super) fn dating(ttl: Ttl, now: i64) -> impl Fn(i64) -> i64 {
    move |found| match found {
        UNDATED => ttl.expiry(now),
        found => found,
    }
}
