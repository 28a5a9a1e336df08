//! The keys, each in a slot: a dense number by which all states of an operator find what they hold.
//!
//! The key bytes are sealed with the state; the index is not, it is built anew by a restore.

use super::bytes::Bytes;
use super::chunks::{Chunks, filled};
use super::heap::Heap;
use super::index::{Index, NO_SLOT};

/// Slots per chunk, here and in every column that is indexed by slot.
pub(super) const SLOTS: usize = 1 << SLOT_BITS;
pub(super) const SLOT_BITS: u32 = 10;

/// A key in its slot, or what one is compared with.
type Key = Bytes<16>;

/// All keys, including those that no state holds anything for at the moment.
#[derive(Debug, Default)]
pub(super) struct Keys {
    chunks: Chunks<Box<[Key; SLOTS]>>,
    used: u32,
    free: Vec<u32>,
    index: Index,
    /// The longest key there has been.
    len_max: usize,
}

#[inline]
pub(super) fn place(slot: u32) -> (usize, usize) {
    ((slot >> SLOT_BITS) as usize, slot as usize % SLOTS)
}

impl Keys {
    #[inline]
    fn cell(&self, slot: u32) -> &Key {
        let (chunk, cell) = place(slot);
        &self.chunks.get(chunk)[cell]
    }

    /// The key in `slot`, if there is one.
    #[inline]
    pub(super) fn get<'a>(&'a self, slot: u32, heap: &'a Heap) -> Option<&'a [u8]> {
        self.cell(slot).get(heap)
    }

    /// Length of the key in `slot`.
    pub(super) fn len_of(&self, slot: u32) -> usize {
        self.cell(slot).len()
    }

    /// The slot that `key` most likely has, if any; a look at the index only.
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> u32 {
        self.index.guess(hash)
    }

    /// Whether `key` has the slot that was guessed.
    #[inline]
    pub(super) fn is(&self, guess: u32, key: &[u8], heap: &Heap) -> bool {
        if guess == NO_SLOT {
            return false;
        }
        match Key::inline(key) {
            Some(key) => self.cell(guess).same_inline(&key),
            None => self.get(guess, heap) == Some(key),
        }
    }

    /// The slot of `key`.
    pub(super) fn find(&self, hash: u64, key: &[u8], heap: &Heap) -> Option<u32> {
        match Key::inline(key) {
            Some(key) => self
                .index
                .find(hash, |slot| self.cell(slot).same_inline(&key)),
            None => self
                .index
                .find(hash, |slot| self.get(slot, heap) == Some(key)),
        }
    }

    /// Gives `key`, which has none, a slot.
    pub(super) fn insert(&mut self, hash: u64, key: &[u8], heap: &mut Heap) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = self.used;
            self.used = slot
                .checked_add(1)
                .expect("memory ends before slot numbers do");
            if place(slot).0 == self.chunks.len() {
                self.chunks.push(filled(Key::ABSENT));
            }
            slot
        });
        self.len_max = self.len_max.max(key.len());
        let (chunk, cell) = place(slot);
        self.chunks.get_mut(chunk)[cell] = Key::new(key, heap);
        let Self { index, chunks, .. } = self;
        index.insert(hash, slot, |slot| hash_of(chunks, slot, heap));
        slot
    }

    /// Takes the slot from its key; nothing happens if it has none.
    pub(super) fn release(&mut self, slot: u32, heap: &mut Heap) {
        let Some(key) = self.get(slot, heap) else {
            return;
        };
        self.index.remove(crate::key::hash(key), slot);
        let (chunk, cell) = place(slot);
        let cell = &mut self.chunks.get_mut(chunk)[cell];
        let key = std::mem::replace(cell, Key::ABSENT);
        key.release(heap);
        self.free.push(slot);
    }

    /// Makes room in the index for `additional` keys.
    pub(super) fn reserve(&mut self, additional: usize, heap: &Heap) {
        let Self { index, chunks, .. } = self;
        index.reserve(additional, |slot| hash_of(chunks, slot, heap));
    }

    /// How many keys have slots.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// How many chunks of slots there are.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The longest key there has been.
    pub(super) fn len_max(&self) -> usize {
        self.len_max
    }

    /// The keys as they are now, to be read by slot only.
    pub(super) fn seal(&mut self) -> Self {
        Self {
            chunks: self.chunks.seal(),
            used: self.used,
            len_max: self.len_max,
            ..Self::default()
        }
    }

    /// As [`Chunks::take_back`].
    pub(super) fn take_back(&mut self, budget: usize) -> bool {
        self.chunks.take_back(budget)
    }
}

/// The hash of the key in `slot`, for an index that grows: not kept, for it is read there in order
/// of no use to it and computing it costs less than the memory.
fn hash_of(chunks: &Chunks<Box<[Key; SLOTS]>>, slot: u32, heap: &Heap) -> u64 {
    let (chunk, cell) = place(slot);
    crate::key::hash(chunks.get(chunk)[cell].get(heap).unwrap_or_default())
}
