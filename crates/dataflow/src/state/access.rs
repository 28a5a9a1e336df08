//! Access by key number and by key.

use super::change::Tally;
use super::lists::Lists;
use super::maps::Maps;
use super::scan::PAGE_BYTES;
use super::table::Store;
use super::values::Values;
use super::{ACCESS_MAX, KeyedState, StateError, StateKind};
use crate::cells::{Cells, CellsRef};
use crate::key;

/// The most cells of a column that one access fills, if it may have that many bytes.
fn cells_max(access_max: usize) -> usize {
    access_max / 8
}

pub(super) fn check_even(
    numbers: &[u32],
    others: usize,
    column: &'static str,
) -> Result<(), StateError> {
    if numbers.len() == others {
        return Ok(());
    }
    Err(StateError::Uneven {
        numbers: numbers.len(),
        others,
        column,
    })
}

/// A column to which values are appended, all or none.
struct Output<'a> {
    values: &'a mut Cells,
    absent: Option<&'a mut Vec<u32>>,
    before: (usize, usize),
    bytes_max: usize,
}

impl<'a> Output<'a> {
    fn new(values: &'a mut Cells, absent: Option<&'a mut Vec<u32>>, bytes_max: usize) -> Self {
        let before = (
            values.len(),
            absent.as_ref().map_or(0, |absent| absent.len()),
        );
        Self {
            values,
            absent,
            before,
            bytes_max,
        }
    }

    #[inline]
    fn push(&mut self, position: usize, value: Option<&[u8]>) -> Result<(), StateError> {
        let value = value.unwrap_or_else(|| {
            if let Some(absent) = &mut self.absent {
                absent.push(position as u32);
            }
            &[]
        });
        if self.values.byte_len() + value.len() > self.bytes_max
            || self.values.len() > cells_max(self.bytes_max)
        {
            self.values.truncate(self.before.0);
            if let Some(absent) = &mut self.absent {
                absent.truncate(self.before.1);
            }
            return Err(StateError::TooLarge {
                limit: self.bytes_max,
            });
        }
        self.values.push(value);
        Ok(())
    }
}

impl KeyedState {
    pub(super) fn store_of(&self, state: u32) -> Result<&Store, StateError> {
        // Timers have accesses of their own.
        let tables = match self.timers {
            Some([first, _]) => &self.tables[..first as usize],
            None => &self.tables,
        };
        let count = tables.len() as u32;
        tables
            .get(state as usize)
            .map(|table| &table.store)
            .ok_or(StateError::NoState { state, count })
    }

    fn wrong_kind(&self, state: u32, actual: StateKind) -> StateError {
        StateError::WrongKind {
            name: self.descriptors[state as usize].name.clone(),
            actual,
        }
    }

    fn values(&self, state: u32) -> Result<&Values, StateError> {
        match self.store_of(state)? {
            Store::Values(values) => Ok(values),
            other => Err(self.wrong_kind(state, other.kind())),
        }
    }

    fn maps(&self, state: u32) -> Result<&Maps, StateError> {
        match self.store_of(state)? {
            Store::Maps(maps) => Ok(maps),
            other => Err(self.wrong_kind(state, other.kind())),
        }
    }

    fn lists(&self, state: u32) -> Result<&Lists, StateError> {
        match self.store_of(state)? {
            Store::Lists(lists) => Ok(lists),
            other => Err(self.wrong_kind(state, other.kind())),
        }
    }

    pub(super) fn check_numbers(&self, numbers: &[u32]) -> Result<(), StateError> {
        let count = self.slots.len() as u32;
        match numbers.iter().copied().max() {
            Some(number) if number >= count => Err(StateError::NoKey { number, count }),
            _ => Ok(()),
        }
    }

    /// Appends one cell per key number (all keys of the batch in order, if `None`) to `values`; the
    /// positions in `numbers` without a value go to `absent` (their cells are empty).
    ///
    /// # Errors
    /// No such state, key or kind, or the values would be too large; then nothing is appended.
    pub fn load(
        &mut self,
        state: u32,
        numbers: Option<&[u32]>,
        values: &mut Cells,
        absent: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        let store = self.values(state)?;
        if self.ttl(state).is_some() {
            return self.load_seen(state, numbers, values, absent);
        }
        match numbers {
            None => self.load_slots(store, self.slots.iter().copied(), values, absent),
            Some(numbers) => {
                self.check_numbers(numbers)?;
                let slots = numbers.iter().map(|number| self.slots[*number as usize]);
                self.load_slots(store, slots, values, absent)
            }
        }
    }

    /// [`KeyedState::load`] of a state with a TTL.
    #[cold]
    fn load_seen(
        &mut self,
        state: u32,
        numbers: Option<&[u32]>,
        values: &mut Cells,
        absent: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        let slots: Vec<u32> = match numbers {
            None => self.slots.clone(),
            Some(numbers) => {
                self.check_numbers(numbers)?;
                let slots = numbers.iter().map(|number| self.slots[*number as usize]);
                slots.collect()
            }
        };
        let (store, view) = (self.values(state)?, self.view(state));
        store.touch(slots.iter().copied(), &self.rows, &self.heap);
        let mut output = Output::new(values, Some(absent), self.access_max);
        for (position, slot) in slots.iter().enumerate() {
            let stored = store.get(*slot, &self.rows, &self.heap);
            output.push(position, stored.and_then(|stored| view.see(stored)))?;
        }
        self.were_read(state, &slots)
    }

    fn load_slots(
        &self,
        store: &Values,
        slots: impl ExactSizeIterator<Item = u32> + Clone,
        values: &mut Cells,
        absent: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        store.touch(slots.clone(), &self.rows, &self.heap);
        let cells_max = cells_max(self.access_max);
        if slots.len() <= cells_max - values.len().min(cells_max)
            && values.byte_len() <= self.access_max
            && store.load_short(slots.clone(), &self.rows, values, absent)
        {
            return Ok(());
        }
        let mut output = Output::new(values, Some(absent), self.access_max);
        slots.enumerate().try_for_each(|(position, slot)| {
            output.push(position, store.get(slot, &self.rows, &self.heap))
        })
    }

    /// Sets the values of keys by number.
    ///
    /// # Errors
    /// No such state, key or kind, columns of different length, or the state would grow past its
    /// limit.
    pub fn store(
        &mut self,
        state: u32,
        numbers: &[u32],
        values: CellsRef<'_>,
    ) -> Result<(), StateError> {
        self.values(state)?;
        check_even(numbers, values.len(), "values")?;
        self.check_numbers(numbers)?;
        let dated = self.ttl(state).map(|ttl| self.dated(ttl, values));
        let values = dated.as_ref().map_or(values, Cells::as_ref);
        let before = self.before(state);
        let Self {
            tables,
            rows,
            heap,
            slots,
            ..
        } = self;
        let Store::Values(store) = &mut tables[state as usize].store else {
            unreachable!("checked above")
        };
        let mut tally = Tally::default();
        let slots = numbers.iter().map(|number| slots[*number as usize]);
        let entries = slots.zip(values.into_cells());
        store.set_all(entries, self.version, rows, heap, &mut tally);
        tally.entries = tally.appeared.len() as i64;
        tally.written = (numbers.len() as u64, values.byte_len() as u64);
        self.open = true;
        self.finish(state, before, tally)
    }

    /// Removes what a state (of any kind) holds for keys by number.
    ///
    /// # Errors
    /// No such state or key.
    pub fn clear(&mut self, state: u32, numbers: &[u32]) -> Result<(), StateError> {
        self.clear_some(state, numbers, usize::MAX).map(drop)
    }

    /// As [`KeyedState::clear`], but ends when at least `at_least` entries are removed: a key's map or list
    /// may have millions. Returns how many of the keys are done with; if it is not all, the next of them
    /// may have lost a part, and clearing has to go on, or be rolled back, before a snapshot.
    ///
    /// # Errors
    /// As [`KeyedState::clear`].
    pub fn clear_some(
        &mut self,
        state: u32,
        numbers: &[u32],
        at_least: usize,
    ) -> Result<usize, StateError> {
        self.store_of(state)?;
        self.check_numbers(numbers)?;
        let slots: Vec<u32> = numbers
            .iter()
            .map(|number| self.slots[*number as usize])
            .collect();
        self.clear_slots(state, &slots, at_least)
    }

    fn clear_slots(
        &mut self,
        state: u32,
        slots: &[u32],
        at_least: usize,
    ) -> Result<usize, StateError> {
        let before = self.before(state);
        let logged = !self.seals.is_empty();
        let Self {
            tables,
            heap,
            rows,
            version,
            ..
        } = self;
        let table = &mut tables[state as usize];
        let mut tally = Tally::default();
        let (mut done, mut left) = (0, at_least.max(1));
        for &slot in slots {
            if left == 0 {
                break;
            }
            let (entries, change) = table.clear(slot, left, *version, rows, heap);
            left = left.saturating_sub(entries as usize);
            tally.entries -= entries as i64;
            tally.add(slot, change);
            if logged && change.vanished {
                table.removals.keys.push(rows.key(slot, heap));
                tally.removed = true;
            }
            if entries == 0 || change.vanished {
                done += 1;
            }
        }
        self.open = true;
        self.finish(state, before, tally).map(|()| done)
    }

    /// The slot of a key of this subtask, if it has one, or is read back into one.
    fn slot(&mut self, key: &[u8]) -> Result<Option<u32>, StateError> {
        let hash = key::hash(key);
        self.check_owned(hash)?;
        match self.keys.find(hash, key, &self.rows, &self.heap) {
            Some(slot) => {
                self.touch_slot(slot);
                Ok(Some(slot))
            }
            None => self.recall_key(hash, key),
        }
    }

    /// The value of any key of this subtask.
    ///
    /// # Errors
    /// No such state or kind, the key belongs to another subtask, or it is cold and cannot be read.
    pub fn get(&mut self, state: u32, key: &[u8]) -> Result<Option<&[u8]>, StateError> {
        self.values(state)?;
        let slot = self.slot(key)?;
        if let Some(slot) = slot.filter(|_| self.ttl(state).is_some()) {
            self.were_read(state, &[slot])?;
        }
        let (store, view) = (self.values(state)?, self.view(state));
        let stored = slot.and_then(|slot| store.get(slot, &self.rows, &self.heap));
        Ok(stored.and_then(|stored| view.see(stored)))
    }

    /// Sets the value of any key of this subtask.
    ///
    /// # Errors
    /// No such state or kind, the key belongs to another subtask, it is cold and cannot be read, or the
    /// state would grow past its limit.
    pub fn put(&mut self, state: u32, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.values(state)?;
        if key.len() > ACCESS_MAX || value.len() > ACCESS_MAX {
            return Err(StateError::TooLarge { limit: ACCESS_MAX });
        }
        let slot = match self.slot(key)? {
            Some(slot) => slot,
            None => self.insert_key(key::hash(key), key),
        };
        let dated = self.ttl(state).map(|ttl| self.dated_one(ttl, value));
        let value = dated.as_deref().unwrap_or(value);
        let before = self.before(state);
        let Self {
            tables, rows, heap, ..
        } = self;
        let Store::Values(store) = &mut tables[state as usize].store else {
            unreachable!("checked above")
        };
        let mut tally = Tally::default();
        tally.add(slot, store.set(slot, Some(value), self.version, rows, heap));
        tally.entries = tally.appeared.len() as i64;
        tally.written = (1, value.len() as u64);
        self.open = true;
        self.finish(state, before, tally)
    }

    /// Removes what a state (of any kind) holds for any key of this subtask.
    ///
    /// # Errors
    /// No such state, the key belongs to another subtask, or it is cold and cannot be read.
    pub fn delete(&mut self, state: u32, key: &[u8]) -> Result<(), StateError> {
        self.delete_some(state, key, usize::MAX).map(drop)
    }

    /// As [`KeyedState::delete`], but ends when at least `at_least` entries are removed. Returns whether all
    /// are; if not, deleting has to go on, or be rolled back, before a snapshot.
    ///
    /// # Errors
    /// As [`KeyedState::delete`].
    pub fn delete_some(
        &mut self,
        state: u32,
        key: &[u8],
        at_least: usize,
    ) -> Result<bool, StateError> {
        self.store_of(state)?;
        match self.slot(key)? {
            Some(slot) => Ok(self.clear_slots(state, &[slot], at_least)? == 1),
            None => Ok(true),
        }
    }

    /// Map state: entry `i` is (key `numbers[i]`, `fields[i]`). As [`KeyedState::load`].
    ///
    /// # Errors
    /// As [`KeyedState::load`], and columns of different length.
    pub fn map_load(
        &mut self,
        state: u32,
        numbers: &[u32],
        fields: CellsRef<'_>,
        values: &mut Cells,
        absent: &mut Vec<u32>,
    ) -> Result<(), StateError> {
        let (store, view) = (self.maps(state)?, self.view(state));
        check_even(numbers, fields.len(), "fields")?;
        self.check_numbers(numbers)?;
        let mut output = Output::new(values, Some(absent), self.access_max);
        numbers
            .iter()
            .zip(fields.into_cells())
            .enumerate()
            .try_for_each(|(position, (number, field))| {
                let stored = store.get(self.slots[*number as usize], field, &self.heap);
                output.push(position, stored.and_then(|stored| view.see(stored)))
            })?;
        self.entries_were_read(state, numbers, fields)
    }

    /// Sets map entries.
    ///
    /// # Errors
    /// As [`KeyedState::store`].
    pub fn map_store(
        &mut self,
        state: u32,
        numbers: &[u32],
        fields: CellsRef<'_>,
        values: CellsRef<'_>,
    ) -> Result<(), StateError> {
        self.maps(state)?;
        check_even(numbers, fields.len(), "fields")?;
        check_even(numbers, values.len(), "values")?;
        self.check_numbers(numbers)?;
        let dated = self.ttl(state).map(|ttl| self.dated(ttl, values));
        let values = dated.as_ref().map_or(values, Cells::as_ref);
        let before = self.before(state);
        let Self {
            tables,
            heap,
            slots,
            ..
        } = self;
        let table = &mut tables[state as usize];
        let Store::Maps(store) = &mut table.store else {
            unreachable!("checked above")
        };
        let mut tally = Tally::default();
        for ((number, field), value) in numbers
            .iter()
            .zip(fields.into_cells())
            .zip(values.into_cells())
        {
            let slot = slots[*number as usize];
            let (change, new) = store.set(slot, field, value, self.version, heap);
            tally.entries += i64::from(new);
            tally.add(slot, change);
        }
        tally.written = (
            numbers.len() as u64,
            (fields.byte_len() + values.byte_len()) as u64,
        );
        self.open = true;
        self.finish(state, before, tally)
    }

    /// Removes map entries.
    ///
    /// # Errors
    /// No such state, key or kind, or columns of different length.
    pub fn map_remove(
        &mut self,
        state: u32,
        numbers: &[u32],
        fields: CellsRef<'_>,
    ) -> Result<(), StateError> {
        self.maps(state)?;
        check_even(numbers, fields.len(), "fields")?;
        self.check_numbers(numbers)?;
        let before = self.before(state);
        let logged = !self.seals.is_empty();
        let Self {
            tables,
            rows,
            heap,
            slots,
            ..
        } = self;
        let table = &mut tables[state as usize];
        let Store::Maps(store) = &mut table.store else {
            unreachable!("checked above")
        };
        let mut tally = Tally::default();
        for (number, field) in numbers.iter().zip(fields.into_cells()) {
            let slot = slots[*number as usize];
            let Some(change) = store.remove(slot, field, self.version, heap) else {
                continue;
            };
            tally.entries -= 1;
            tally.add(slot, change);
            if logged {
                table.removals.fields.push(rows.key(slot, heap));
                table.removals.fields.push(field);
                tally.removed = true;
            }
        }
        self.open = true;
        self.finish(state, before, tally)
    }

    /// Appends at most `limit` entries of a key's map in field order, from `from` on (after it, if
    /// `exclusive`), up to `end` and without it. Returns whether there are more. A page of very large entries ends early.
    ///
    /// # Errors
    /// No such state, key or kind, or an entry that is too large; then nothing is appended.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are the columns and bounds of one call"
    )]
    pub fn map_scan(
        &mut self,
        state: u32,
        number: u32,
        from: &[u8],
        exclusive: bool,
        end: Option<&[u8]>,
        limit: u32,
        fields: &mut Cells,
        values: &mut Cells,
    ) -> Result<bool, StateError> {
        let (store, view) = (self.maps(state)?, self.view(state));
        self.check_numbers(&[number])?;
        let before = (fields.len(), values.len());
        let mut entries = store
            .scan(self.slots[number as usize], from, &self.heap)
            .skip_while(|(field, _)| exclusive && *field == from)
            .take_while(|(field, _)| end.is_none_or(|end| *field < end))
            .filter_map(|(field, stored)| Some((field, view.see(stored)?)))
            .peekable();
        let (mut count, mut bytes, mut more) = (0, 0, false);
        while count < limit
            && bytes < PAGE_BYTES
            && let Some((field, value)) = entries.next()
        {
            let too_large =
                |cells: &Cells, cell: &[u8]| cells.byte_len() + cell.len() > self.access_max;
            if too_large(fields, field) || too_large(values, value) {
                if count > 0 {
                    more = true;
                    break;
                }
                fields.truncate(before.0);
                values.truncate(before.1);
                return Err(StateError::TooLarge {
                    limit: self.access_max,
                });
            }
            fields.push(field);
            values.push(value);
            count += 1;
            bytes += field.len() + value.len();
        }
        let more = more || entries.peek().is_some();
        drop(entries);
        if self.ttl(state).is_some() {
            let mut offsets = Vec::new();
            let read = fields.as_ref().part(before.0..fields.len(), &mut offsets);
            self.entries_were_read(state, &vec![number; count as usize], read)?;
        }
        Ok(more)
    }

    /// List state: appends element `i` to the list of key `numbers[i]`.
    ///
    /// # Errors
    /// As [`KeyedState::store`].
    pub fn list_append(
        &mut self,
        state: u32,
        numbers: &[u32],
        elements: CellsRef<'_>,
    ) -> Result<(), StateError> {
        self.lists(state)?;
        check_even(numbers, elements.len(), "elements")?;
        self.check_numbers(numbers)?;
        let dated = self.ttl(state).map(|ttl| self.dated(ttl, elements));
        let elements = dated.as_ref().map_or(elements, Cells::as_ref);
        let before = self.before(state);
        let Self {
            tables,
            rows,
            heap,
            slots,
            ..
        } = self;
        let Store::Lists(store) = &mut tables[state as usize].store else {
            unreachable!("checked above")
        };
        let mut tally = Tally {
            entries: numbers.len() as i64,
            ..Tally::default()
        };
        for (number, element) in numbers.iter().zip(elements.into_cells()) {
            let slot = slots[*number as usize];
            let Some(change) = store.append(slot, element, self.version, heap) else {
                tables[state as usize].rollback_to(before, rows, heap);
                return Err(StateError::TooLarge { limit: ACCESS_MAX });
            };
            tally.add(slot, change);
        }
        tally.written = (numbers.len() as u64, elements.byte_len() as u64);
        self.open = true;
        self.finish(state, before, tally)
    }

    /// List state: appends the elements of a key's list to `elements`.
    ///
    /// # Errors
    /// No such state, key or kind, or the list is too large; then nothing is appended.
    pub fn list_load(
        &mut self,
        state: u32,
        number: u32,
        elements: &mut Cells,
    ) -> Result<(), StateError> {
        let (store, view) = (self.lists(state)?, self.view(state));
        self.check_numbers(&[number])?;
        let mut output = Output::new(elements, None, self.access_max);
        let list = store.get(self.slots[number as usize], &self.heap);
        let mut list = list.filter_map(|stored| view.see(stored));
        list.try_for_each(|element| output.push(0, Some(element)))?;
        drop(list);
        self.list_was_read(state, number)
    }
}
