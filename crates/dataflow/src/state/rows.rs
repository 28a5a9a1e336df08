//! The rows: in each slot a key and, beside it, what the first value state holds for it.
//!
//! They lie together because they are needed together: a row has 32 bytes and never lies across two
//! cache lines, so that finding a key has fetched its value too.

use super::bytes::Bytes;
use super::chunks::{Chunks, filled};
use super::heap::Heap;

/// Slots per chunk, here and in every column that is indexed by slot.
pub(super) const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 9;

/// A key in its slot, or what one is compared with.
pub(super) type Key = Bytes<16>;

/// What a value state holds for a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    /// The interval between snapshots in which it was written last. As bytes, so that the cell has
    /// no alignment and a row no gaps.
    pub(super) version: [u8; 4],
    pub(super) value: Bytes<10>,
}

impl Cell {
    pub(super) const ABSENT: Self = Self {
        version: [0; 4],
        value: Bytes::ABSENT,
    };
}

#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) cell: Cell,
}

const VACANT: Row = Row {
    key: Key::ABSENT,
    cell: Cell::ABSENT,
};

const _: () = assert!(size_of::<Row>() == 32, "a row is half a cache line");

/// All rows.
#[derive(Debug, Default)]
pub(super) struct Rows {
    chunks: Chunks<Box<[Row; SLOTS]>>,
}

/// Which chunk a slot is in, and where there.
#[inline]
pub(super) fn place(slot: u32) -> (usize, usize) {
    ((slot >> SLOT_BITS) as usize, slot as usize % SLOTS)
}

impl Rows {
    /// Makes rows for another chunk of slots.
    pub(super) fn grow(&mut self) {
        self.chunks.push(filled(VACANT));
    }

    /// How many chunks of slots there are.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The rows of a chunk of slots.
    pub(super) fn chunk(&self, chunk: usize) -> &[Row; SLOTS] {
        self.chunks.get(chunk)
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> &Row {
        let (chunk, row) = place(slot);
        &self.chunks.get(chunk)[row]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Row {
        let (chunk, row) = place(slot);
        &mut self.chunks.get_mut(chunk)[row]
    }

    /// The key in `slot`; empty if there is none.
    #[inline]
    pub(super) fn key<'a>(&'a self, slot: u32, heap: &'a Heap) -> &'a [u8] {
        self.get(slot).key.get(heap).unwrap_or_default()
    }

    /// The rows as they are now.
    pub(super) fn seal(&mut self) -> Self {
        Self {
            chunks: self.chunks.seal(),
        }
    }

    /// As [`Chunks::take_back`].
    pub(super) fn take_back(&mut self, budget: usize) -> bool {
        self.chunks.take_back(budget)
    }
}
