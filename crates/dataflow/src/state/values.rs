//! Value states: one cell per slot, in the key's row for the first of them.

use super::bytes::Bytes;
use super::change::{Change, Tally};
use super::chunks::{Chunks, filled};
use super::heap::Heap;
use super::rows::{Cell, Rows, SLOTS, place};
use crate::cells::Cells;

/// Bytes of a cache line.
const LINE: usize = 64;
/// How many cache lines of a value are fetched early.
const LINES_TOUCHED: usize = 4;

/// A cell that is not in a row: so that it never lies across two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
struct Alone(Cell);

/// Fetches a value, of a large one as much as it takes for the processor to see where it goes on.
/// What is returned means nothing.
#[inline]
fn touch(value: &Bytes<10>, heap: &Heap) -> u8 {
    if !value.is_long() {
        return 0;
    }
    let value = value.get(heap).unwrap_or_default();
    let lines = value.iter().step_by(LINE).take(LINES_TOUCHED);
    lines.chain(value.last()).fold(0, |all, byte| all ^ byte)
}

/// The values of one state.
#[derive(Debug)]
pub(super) struct Values {
    /// The cells; `None`: they are in the rows.
    column: Option<Chunks<Box<[Alone; SLOTS]>>>,
    /// Per chunk, the interval in which it was changed last.
    changed: Vec<u32>,
    /// Cells as they were before the changes of this transaction, the oldest first.
    undo: Vec<(u32, Cell)>,
    /// What this transaction has replaced on the heap.
    replaced: Vec<Bytes<10>>,
    /// Whether there has been a value on the heap.
    long: bool,
}

impl Values {
    /// No values, which will be stored in the rows or in a column of their own.
    pub(super) fn new(in_rows: bool) -> Self {
        Self {
            column: (!in_rows).then(Chunks::default),
            changed: Vec::new(),
            undo: Vec::new(),
            replaced: Vec::new(),
            long: false,
        }
    }

    /// Makes cells for another chunk of slots.
    pub(super) fn grow(&mut self) {
        if let Some(column) = &mut self.column {
            column.push(filled(Alone(Cell::ABSENT)));
        }
        self.changed.push(0);
    }

    #[inline]
    pub(super) fn cell<'a>(&'a self, slot: u32, rows: &'a Rows) -> &'a Cell {
        match &self.column {
            None => &rows.get(slot).cell,
            Some(column) => {
                let (chunk, cell) = place(slot);
                &column.get(chunk)[cell].0
            }
        }
    }

    #[inline]
    fn cell_mut<'a>(&'a mut self, slot: u32, rows: &'a mut Rows) -> &'a mut Cell {
        match &mut self.column {
            None => &mut rows.get_mut(slot).cell,
            Some(column) => {
                let (chunk, cell) = place(slot);
                &mut column.get_mut(chunk)[cell].0
            }
        }
    }

    #[inline]
    pub(super) fn get<'a>(&'a self, slot: u32, rows: &'a Rows, heap: &'a Heap) -> Option<&'a [u8]> {
        self.cell(slot, rows).value.get(heap)
    }

    /// Fetches what [`Values::get`] will look at in many slots, whose keys were just looked up: all
    /// at a time, for each is a wait of its own otherwise.
    pub(super) fn touch(&self, slots: impl Iterator<Item = u32>, rows: &Rows, heap: &Heap) {
        if self.long {
            let touched = slots.map(|slot| touch(&self.cell(slot, rows).value, heap));
            std::hint::black_box(touched.fold(0, |all, some| all ^ some));
        } else if self.column.is_some() {
            let version = |slot| self.cell(slot, rows).version[0];
            std::hint::black_box(slots.fold(0, |all, slot| all ^ version(slot)));
        }
    }

    /// Appends the values in many slots, an empty cell for none, if all are so short that they are in
    /// place; the positions of those that have no value go to `absent`. Returns whether it did.
    pub(super) fn load_short(
        &self,
        slots: impl ExactSizeIterator<Item = u32>,
        rows: &Rows,
        values: &mut Cells,
        absent: &mut Vec<u32>,
    ) -> bool {
        if self.long {
            return false;
        }
        let cells = slots.enumerate().map(|(position, slot)| {
            let value = self.cell(slot, rows).value;
            if value.is_absent() {
                absent.push(position as u32);
            }
            value.in_place()
        });
        values.extend_short(cells);
        true
    }

    /// Bytes of memory that a slot takes beside its row.
    pub(super) fn column_bytes(&self) -> usize {
        self.column.as_ref().map_or(0, |_| size_of::<Alone>())
    }

    /// Puts a cell into `slot`, which holds nothing: not a change that could be taken back.
    pub(super) fn put(&mut self, slot: u32, cell: Cell, rows: &mut Rows) {
        let changed = &mut self.changed[place(slot).0];
        *changed = (*changed).max(u32::from_le_bytes(cell.version));
        self.long |= cell.value.is_long();
        *self.cell_mut(slot, rows) = cell;
    }

    /// Takes the cell out of `slot`, as [`Values::put`] puts it in.
    pub(super) fn take(&mut self, slot: u32, rows: &mut Rows) -> Cell {
        std::mem::replace(self.cell_mut(slot, rows), Cell::ABSENT)
    }

    #[inline]
    pub(super) fn is_absent(&self, slot: u32, rows: &Rows) -> bool {
        self.cell(slot, rows).value.is_absent()
    }

    /// Sets the values in many slots, whose keys were just looked up.
    pub(super) fn set_all<'v>(
        &mut self,
        entries: impl ExactSizeIterator<Item = (u32, &'v [u8])>,
        version: u32,
        rows: &mut Rows,
        heap: &mut Heap,
        tally: &mut Tally,
    ) {
        self.undo.reserve(entries.len());
        for (slot, value) in entries {
            tally.add(slot, self.set(slot, Some(value), version, rows, heap));
        }
    }

    /// Sets or removes the value in `slot`.
    #[expect(
        clippy::inline_always,
        reason = "a call per record costs 3 % of a keyed count, and the compiler decides now so, now so"
    )]
    #[inline(always)]
    pub(super) fn set(
        &mut self,
        slot: u32,
        value: Option<&[u8]>,
        version: u32,
        rows: &mut Rows,
        heap: &mut Heap,
    ) -> Change {
        let new = value.map_or(Bytes::ABSENT, |value| Bytes::new(value, heap));
        let changed = &mut self.changed[place(slot).0];
        if *changed != version {
            *changed = version;
        }
        let old = std::mem::replace(
            self.cell_mut(slot, rows),
            Cell {
                version: version.to_le_bytes(),
                value: new,
            },
        );
        self.undo.push((slot, old));
        if old.value.is_long() || new.is_long() {
            return self.set_long(old.value, new);
        }
        Change {
            appeared: old.value.is_absent() && !new.is_absent(),
            vanished: new.is_absent() && !old.value.is_absent(),
            bytes: new.len() as i64 - old.value.len() as i64,
        }
    }

    /// The rest of `set` if one of the two lies on the heap.
    fn set_long(&mut self, old: Bytes<10>, new: Bytes<10>) -> Change {
        self.long = true;
        if old.is_long() {
            self.replaced.push(old);
        }
        Change {
            appeared: old.is_absent(),
            vanished: new.is_absent(),
            bytes: new.len() as i64 - old.len() as i64,
        }
    }

    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    pub(super) fn commit(&mut self, heap: &mut Heap) {
        self.undo.clear();
        self.replaced.drain(..).for_each(|old| old.release(heap));
    }

    /// Takes back what was changed since `mark`.
    pub(super) fn rollback(&mut self, mark: usize, rows: &mut Rows, heap: &mut Heap) {
        for (slot, old) in self.undo.split_off(mark).into_iter().rev() {
            let new = std::mem::replace(self.cell_mut(slot, rows), old);
            new.value.release(heap);
            if old.value.is_long() {
                self.replaced.pop();
            }
        }
    }

    pub(super) fn seal(&mut self) -> Self {
        Self {
            column: self.column.as_mut().map(Chunks::seal),
            changed: self.changed.clone(),
            long: self.long,
            ..Self::new(false)
        }
    }

    pub(super) fn take_back(&mut self, budget: usize) -> bool {
        let column = self.column.as_mut();
        column.is_none_or(|column| column.take_back(budget))
    }

    /// Calls `write` with key and value of each entry that was written after interval `base` (all, if
    /// `None`).
    pub(super) fn since<E>(
        &self,
        base: Option<u32>,
        rows: &Rows,
        heap: &Heap,
        mut write: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let newer = |version: u32| base.is_none_or(|base| version > base);
        for (chunk, _) in self
            .changed
            .iter()
            .enumerate()
            .filter(|(_, changed)| newer(**changed))
        {
            let column = self.column.as_ref().map(|column| column.get(chunk));
            let cells = rows.chunk(chunk).iter().enumerate().map(|(at, row)| {
                let cell = column.map_or(&row.cell, |column| &column[at].0);
                (row, cell)
            });
            let mut cells = cells.filter(|(_, cell)| newer(u32::from_le_bytes(cell.version)));
            if self.long {
                // The blocks of neighbours lie anywhere, so they are fetched many at a time here too.
                let touched = cells.clone().map(|(_, cell)| touch(&cell.value, heap));
                std::hint::black_box(touched.fold(0, |all, some| all ^ some));
            }
            cells.try_for_each(|(row, cell)| match cell.value.get(heap) {
                Some(value) => write(row.key.get(heap).unwrap_or_default(), value),
                None => Ok(()),
            })?;
        }
        Ok(())
    }
}
