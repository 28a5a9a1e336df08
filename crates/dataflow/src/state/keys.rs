//! The keys, each in a slot: a dense number by which all states of an operator find what they hold.
//!
//! The rows with the key bytes are sealed with the state; the index is not, it is built again by a
//! restore.

use super::cold::keys::{ColdKeys, FIRST_COLD};
use super::heap::Heap;
use super::index::{Index, keyed_place};
use super::rows::{Key, Rows, place};
use crate::key::{self, SecretHash};

/// All keys, including those that no state holds anything for at the moment.
#[derive(Debug, Default)]
pub(super) struct Keys {
    used: u32,
    free: Vec<u32>,
    pub(super) index: Index,
    /// Places keys in those tables of the index where their hashes crowd.
    secret: SecretHash,
    /// Those without a slot, because what is held for them lies on a disk.
    pub(super) cold: ColdKeys,
    /// The longest key there has been.
    len_max: usize,
}

impl Keys {
    /// The place of a key in the index.
    #[inline]
    pub(super) fn place<'k>(&self, hash: u64, key: impl FnOnce() -> &'k [u8]) -> u64 {
        if self.index.is_keyed(hash) {
            keyed_place(hash, self.secret.hash(key()))
        } else {
            hash
        }
    }

    /// Fetches what [`Keys::guess`] will look at.
    #[inline]
    pub(super) fn touch(&self, place: u64) -> u32 {
        self.index.touch(place)
    }

    /// The slot that a key most likely has, if any; a look at the index only.
    #[inline]
    pub(super) fn guess(&self, place: u64) -> u32 {
        self.index.guess(place)
    }

    /// Whether `key` has the slot that was guessed.
    #[inline]
    pub(super) fn is(&self, guess: u32, key: &[u8], rows: &Rows, heap: &Heap) -> bool {
        // No slot, or the number of a cold key.
        if guess >= FIRST_COLD {
            return false;
        }
        let found = &rows.get(guess).key;
        match Key::inline(key) {
            Some(key) => found.same_inline(&key),
            None => found.get(heap) == Some(key),
        }
    }

    /// The slot of `key`.
    pub(super) fn find(&mut self, hash: u64, key: &[u8], rows: &Rows, heap: &Heap) -> Option<u32> {
        let place = self.place(hash, || key);
        let found = match Key::inline(key) {
            Some(key) => self.index.look_up(place, |slot| {
                slot < FIRST_COLD && rows.get(slot).key.same_inline(&key)
            }),
            None => self.index.look_up(place, |slot| {
                slot < FIRST_COLD && rows.get(slot).key.get(heap) == Some(key)
            }),
        };
        self.relieve(rows, heap);
        found
    }

    /// After a search: places the keys of its table by the secret hash, if it met too many.
    #[inline]
    fn relieve(&mut self, rows: &Rows, heap: &Heap) {
        let (index, places) = self.with_places(rows, heap);
        index.relieve(places);
    }

    /// The index, and what it asks for when it places slots again.
    pub(super) fn with_places<'k>(
        &'k mut self,
        rows: &'k Rows,
        heap: &'k Heap,
    ) -> (&'k mut Index, impl Fn(u32, bool) -> u64 + 'k) {
        let Self {
            index,
            secret,
            cold,
            ..
        } = self;
        let (secret, cold) = (&*secret, &*cold);
        // Hashes are not kept, because computing one costs less than the memory; except of cold keys,
        // each of which stays in the place where it became cold.
        let place_of = move |slot, keyed| {
            if slot >= FIRST_COLD {
                return cold.place_in_index(slot);
            }
            let key = rows.key(slot, heap);
            let hash = key::hash(key);
            match keyed {
                true => keyed_place(hash, secret.hash(key)),
                false => hash,
            }
        };
        (index, place_of)
    }

    /// Gives `key`, which has none, a slot.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        key: &[u8],
        rows: &mut Rows,
        heap: &mut Heap,
    ) -> u32 {
        let slot = self.insert_unindexed(key, rows, heap);
        let place = self.place(hash, || key);
        let (index, place_of) = self.with_places(rows, heap);
        index.insert(place, slot, place_of);
        slot
    }

    /// Gives `key` a slot, where it is not found before the index knows of it.
    pub(super) fn insert_unindexed(&mut self, key: &[u8], rows: &mut Rows, heap: &mut Heap) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = self.used;
            self.used = slot + 1;
            assert!(slot < FIRST_COLD, "memory ends before slot numbers do");
            if place(slot).0 == rows.chunks() {
                rows.grow();
            }
            slot
        });
        self.len_max = self.len_max.max(key.len());
        rows.get_mut(slot).key = Key::new(key, heap);
        slot
    }

    /// Lets keys be found that were given slots without it: those of one shard of the index. Returns
    /// whether each of them was there once only.
    pub(super) fn index_all(
        &mut self,
        shard: usize,
        new: &[(u64, u32)],
        rows: &Rows,
        heap: &Heap,
    ) -> bool {
        self.index.touch_shard(shard);
        let mut once = true;
        for (hash, slot) in new {
            let key = || rows.key(*slot, heap);
            // Few others share what the index knows of a hash, so few keys are looked at.
            let same = |other| other < FIRST_COLD && rows.key(other, heap) == key();
            let place = self.place(*hash, key);
            once &= self.index.look_up(place, same).is_none();
            self.relieve(rows, heap);
            let place = self.place(*hash, key);
            let (index, place_of) = self.with_places(rows, heap);
            index.insert(place, *slot, place_of);
        }
        once
    }

    /// Takes the slot from its key; nothing happens if it has none.
    pub(super) fn release(&mut self, slot: u32, rows: &mut Rows, heap: &mut Heap) {
        if rows.get(slot).key.is_absent() {
            return;
        }
        let key = rows.key(slot, heap);
        let place = self.place(key::hash(key), || key);
        self.index.remove(place, slot);
        self.vacate(slot, rows, heap);
    }

    /// Takes the slot from its key, of which the index knows nothing any more.
    pub(super) fn vacate(&mut self, slot: u32, rows: &mut Rows, heap: &mut Heap) {
        let key = std::mem::replace(&mut rows.get_mut(slot).key, Key::ABSENT);
        key.release(heap);
        self.free.push(slot);
    }

    /// Makes room in the index for `additional` keys.
    pub(super) fn reserve(&mut self, additional: usize, rows: &Rows, heap: &Heap) {
        let (index, place_of) = self.with_places(rows, heap);
        index.reserve(additional, place_of);
    }

    /// How many keys have slots.
    pub(super) fn len(&self) -> usize {
        self.used as usize - self.free.len()
    }

    /// How many keys there are, with the cold ones.
    pub(super) fn all(&self) -> usize {
        self.len() + self.cold.len()
    }

    /// The longest key there has been.
    pub(super) fn len_max(&self) -> usize {
        self.len_max
    }
}
