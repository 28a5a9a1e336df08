//! Value states: one cell per slot.

use super::bytes::Bytes;
use super::chunks::{Chunks, filled};
use super::heap::Heap;
use super::keys::{SLOTS, place};
use super::table::Change;

/// What a value state holds for a key.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// The interval between snapshots in which it was written last. As bytes, so that the cell has
    /// 16 of them and never lies across two cache lines.
    version: [u8; 4],
    value: Bytes<11>,
}

const ABSENT: Cell = Cell {
    version: [0; 4],
    value: Bytes::ABSENT,
};

/// The values of one state.
#[derive(Debug, Default)]
pub(super) struct Values {
    chunks: Chunks<Box<[Cell; SLOTS]>>,
    /// Per chunk, the interval in which it was changed last.
    changed: Vec<u32>,
    /// Cells as they were before the changes of this transaction, the oldest first.
    undo: Vec<(u32, Cell)>,
    /// What this transaction has replaced on the heap.
    replaced: Vec<Bytes<11>>,
}

impl Values {
    /// Makes cells for another chunk of slots.
    pub(super) fn grow(&mut self) {
        self.chunks.push(filled(ABSENT));
        self.changed.push(0);
    }

    #[inline]
    pub(super) fn get<'a>(&'a self, slot: u32, heap: &'a Heap) -> Option<&'a [u8]> {
        let (chunk, cell) = place(slot);
        self.chunks.get(chunk)[cell].value.get(heap)
    }

    /// Length of the value in `slot`; 0 if absent.
    #[inline]
    pub(super) fn len_of(&self, slot: u32) -> usize {
        let (chunk, cell) = place(slot);
        self.chunks.get(chunk)[cell].value.len()
    }

    pub(super) fn is_absent(&self, slot: u32) -> bool {
        let (chunk, cell) = place(slot);
        self.chunks.get(chunk)[cell].value.is_absent()
    }

    /// Sets or removes the value in `slot`.
    #[inline]
    pub(super) fn set(
        &mut self,
        slot: u32,
        value: Option<&[u8]>,
        version: u32,
        heap: &mut Heap,
    ) -> Change {
        let new = value.map_or(Bytes::ABSENT, |value| Bytes::new(value, heap));
        let (chunk, cell) = place(slot);
        let changed = &mut self.changed[chunk];
        if *changed != version {
            *changed = version;
        }
        let cell = &mut self.chunks.get_mut(chunk)[cell];
        let old = std::mem::replace(
            cell,
            Cell {
                version: version.to_le_bytes(),
                value: new,
            },
        );
        self.undo.push((slot, old));
        if old.value.is_long() {
            self.replaced.push(old.value);
        }
        Change {
            appeared: old.value.is_absent() && !new.is_absent(),
            vanished: new.is_absent() && !old.value.is_absent(),
            bytes: new.len() as i64 - old.value.len() as i64,
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
    pub(super) fn rollback(&mut self, mark: usize, heap: &mut Heap) {
        for (slot, old) in self.undo.drain(mark..).rev() {
            let (chunk, cell) = place(slot);
            let cell = &mut self.chunks.get_mut(chunk)[cell];
            cell.value.release(heap);
            *cell = old;
            if old.value.is_long() {
                self.replaced.pop();
            }
        }
    }

    pub(super) fn seal(&mut self) -> Self {
        Self {
            chunks: self.chunks.seal(),
            changed: self.changed.clone(),
            ..Self::default()
        }
    }

    pub(super) fn take_back(&mut self, budget: usize) -> bool {
        self.chunks.take_back(budget)
    }

    /// The values that were written after interval `base` (all, if `None`), by slot.
    pub(super) fn since<'a>(
        &'a self,
        base: Option<u32>,
        heap: &'a Heap,
    ) -> impl Iterator<Item = (u32, &'a [u8])> {
        let newer = move |version: u32| base.is_none_or(|base| version > base);
        let chunks = self
            .changed
            .iter()
            .enumerate()
            .filter(move |(_, changed)| newer(**changed));
        chunks.flat_map(move |(chunk, _)| {
            let slots = chunk * SLOTS..;
            let cells = slots.zip(self.chunks.get(chunk).iter());
            cells.filter_map(move |(slot, cell)| {
                let value = cell.value.get(heap)?;
                newer(u32::from_le_bytes(cell.version)).then_some((slot as u32, value))
            })
        })
    }
}
