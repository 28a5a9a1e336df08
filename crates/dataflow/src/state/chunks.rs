//! A list of chunks that is sealed in constant time and copied on write.
//!
//! Sealing moves the whole list into an [`Arc`] and leaves empty places. A change finds its
//! place empty and copies the chunk first; a read finds it empty and looks into the sealed layers.
//! So as long as nothing is sealed, access costs one pointer and no atomic operation. When the
//! sealed list has been dropped elsewhere, its chunks are taken back, a few at a time.
//!
//! Invariant: every index below `len` has a chunk in `own` or in a layer; the newest one counts.

use std::fmt;
use std::sync::Arc;

/// From this many layers on, sealing first takes back what it can.
const LAYERS_MAX: usize = 3;

/// The chunks, `C` being the pointer to one (a box). A sealed list is one with layers alone.
pub(super) struct Chunks<C> {
    own: Vec<Option<C>>,
    /// Sealed lists that somebody may still be reading, the newest last.
    layers: Vec<Arc<Vec<Option<C>>>>,
    /// Up to where the newest layer has been taken back.
    taken_back: usize,
    /// Chunks that were replaced, to be used for the next copies: memory that we have already, and
    /// freeing thousands of them would make the allocator busy at some later moment. As many are
    /// kept as there were copies between two snapshots.
    spare: Vec<C>,
    /// What layers that had to go at once have left: chunks that were replaced. Of a list that goes on,
    /// as many as may become spare; the others are freed with a sealed list, by the thread that drops it.
    left: Vec<Option<C>>,
    /// Copies since the last snapshot.
    copies: usize,
    /// Copies between the last two.
    copies_before: usize,
    /// The list of a layer that was taken back, for the next one.
    spare_list: Vec<Option<C>>,
}

impl<C> Default for Chunks<C> {
    fn default() -> Self {
        Self {
            own: Vec::new(),
            layers: Vec::new(),
            taken_back: 0,
            spare: Vec::new(),
            left: Vec::new(),
            copies: 0,
            copies_before: 0,
            spare_list: Vec::new(),
        }
    }
}

impl<C> fmt::Debug for Chunks<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunks({} in {} layers)", self.len(), self.layers.len())
    }
}

impl<C> Chunks<C> {
    /// How many chunks there are.
    pub(super) fn len(&self) -> usize {
        self.layers
            .iter()
            .fold(self.own.len(), |len, layer| len.max(layer.len()))
    }

    /// Appends a chunk.
    pub(super) fn push(&mut self, chunk: C) {
        self.own.push(Some(chunk));
    }

    /// Chunk `index`; panics when there is none.
    #[inline]
    pub(super) fn get(&self, index: usize) -> &C {
        match self.own.get(index) {
            Some(Some(chunk)) => chunk,
            _ => self.get_sealed(index),
        }
    }

    #[inline(never)]
    fn get_sealed(&self, index: usize) -> &C {
        self.layers
            .iter()
            .rev()
            .find_map(|layer| layer.get(index)?.as_ref())
            .expect("a chunk that was pushed is in some layer")
    }
}

impl<C: Clone> Chunks<C> {
    /// Chunk `index` for a change, copied before if it is sealed; panics when there is none.
    #[inline]
    pub(super) fn get_mut(&mut self, index: usize) -> &mut C {
        if self.own[index].is_none() {
            self.own[index] = Some(self.copy_sealed(index));
        }
        self.own[index].as_mut().expect("filled just now")
    }

    #[cold]
    #[inline(never)]
    fn copy_sealed(&mut self, index: usize) -> C {
        // Nobody reads the newest layer any more: its chunk is ours to take.
        if let Some(layer) = self.layers.last_mut()
            && let Some(layer) = Arc::get_mut(layer)
            && let Some(chunk) = layer.get_mut(index).and_then(Option::take)
        {
            return chunk;
        }
        self.copies += 1;
        let spare = self.spare.pop();
        match spare.or_else(|| pop_chunk(&mut self.left)) {
            Some(mut chunk) => {
                chunk.clone_from(self.get_sealed(index));
                chunk
            }
            None => self.get_sealed(index).clone(),
        }
    }

    /// Seals the list: what is returned does not change any more.
    pub(super) fn seal(&mut self) -> Self {
        // What has not been taken back yet may stay where it is, so that the pause is short, but not
        // pile up.
        let left = match self.layers.len() >= LAYERS_MAX {
            true => self.merge(),
            false => Vec::new(),
        };
        if self.own.is_empty() {
            return Self::default();
        }
        self.copies_before = std::mem::take(&mut self.copies);
        let mut empty = std::mem::take(&mut self.spare_list);
        empty.resize_with(self.own.len(), || None);
        let sealed = std::mem::replace(&mut self.own, empty);
        self.layers.push(Arc::new(sealed));
        self.taken_back = 0;
        Self {
            layers: self.layers.clone(),
            left,
            ..Self::default()
        }
    }

    /// Takes back what counts of all sealed lists that nobody reads any more. Returns the chunks that
    /// are not needed, for somebody who has the time: moving the pointers of many thousands takes
    /// microseconds, freeing as many chunks takes longer than a pause may.
    fn merge(&mut self) -> Vec<Option<C>> {
        let mut replaced = std::mem::take(&mut self.left);
        // From the newest layer down, and no further than one that is still read: a chunk of an older layer
        // in `own` would hide the newer one.
        while let Some(layer) = self.layers.last_mut().and_then(Arc::get_mut) {
            for (chunk, own) in layer.iter_mut().zip(&mut self.own) {
                if own.is_none() {
                    std::mem::swap(own, chunk);
                }
            }
            let list = self.layers.pop().and_then(Arc::into_inner);
            self.spare_list = list.unwrap_or_default();
            replaced.append(&mut self.spare_list);
            self.taken_back = 0;
        }
        let wanted = self.spare_max().saturating_sub(self.spare.len());
        self.left = replaced.split_off(replaced.len().saturating_sub(wanted));
        replaced
    }

    /// How many spare chunks are worth keeping.
    fn spare_max(&self) -> usize {
        self.copies.max(self.copies_before)
    }

    /// Frees the spare chunks, for those that hold more than their own memory.
    pub(super) fn free_spare(&mut self) {
        self.spare.clear();
    }

    /// Takes back at most `budget` chunks of sealed lists that nobody reads any more. Returns
    /// whether nothing is sealed afterwards.
    pub(super) fn take_back(&mut self, mut budget: usize) -> bool {
        let spare_max = self.spare_max();
        // Freeing counts against the budget as well: it costs more than taking back, and the next batch waits.
        let needless = self.spare.len().saturating_sub(spare_max).min(budget);
        self.spare.truncate(self.spare.len() - needless);
        let left = self.left.len().saturating_sub(budget);
        budget -= self.left.len() - left;
        let wanted = spare_max.saturating_sub(self.spare.len());
        let replaced = self.left.drain(left..).flatten();
        // What is not wanted is freed with the rest of the drained.
        self.spare.extend(replaced.take(wanted));
        if !self.left.is_empty() {
            return false;
        }
        while let Some(layer) = self.layers.last_mut() {
            // As in `merge`: older layers wait for the newest one.
            let Some(layer) = Arc::get_mut(layer) else {
                return false;
            };
            for (chunk, own) in layer.iter_mut().zip(&mut self.own).skip(self.taken_back) {
                if budget == 0 {
                    return false;
                }
                budget -= 1;
                self.taken_back += 1;
                if own.is_none() {
                    *own = chunk.take();
                } else if self.spare.len() < spare_max {
                    self.spare.extend(chunk.take());
                } else {
                    // Freed here and not with the layer, so that the cost is spread as well.
                    *chunk = None;
                }
            }
            let list = self.layers.pop().and_then(Arc::into_inner);
            self.spare_list = list.unwrap_or_default();
            self.taken_back = 0;
        }
        true
    }
}

/// The last chunk in `list`, which is cut after it.
fn pop_chunk<C>(list: &mut Vec<Option<C>>) -> Option<C> {
    while let Some(place) = list.pop() {
        if place.is_some() {
            return place;
        }
    }
    None
}

/// A chunk of `N` cells on the heap.
pub(super) fn filled<T: Copy + fmt::Debug, const N: usize>(cell: T) -> Box<[T; N]> {
    vec![cell; N]
        .into_boxed_slice()
        .try_into()
        .expect("the slice has N cells")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    fn contents(chunks: &Chunks<Box<u32>>) -> Vec<u32> {
        (0..chunks.len()).map(|index| **chunks.get(index)).collect()
    }

    #[test]
    fn sealed_lists_keep_their_contents_while_the_owner_goes_on() {
        let mut chunks = Chunks::default();
        (0..3).for_each(|value| chunks.push(Box::new(value)));
        let first = chunks.seal();
        **chunks.get_mut(1) = 11;
        chunks.push(Box::new(3));
        let second = chunks.seal();
        **chunks.get_mut(1) = 21;
        **chunks.get_mut(3) = 23;
        assert_eq!(contents(&first), [0, 1, 2]);
        assert_eq!(contents(&second), [0, 11, 2, 3]);
        assert_eq!(contents(&chunks), [0, 21, 2, 23]);

        assert!(!chunks.take_back(100));
        drop(second);
        // The first is still read, so its layer stays.
        assert!(!chunks.take_back(100));
        assert_eq!(contents(&first), [0, 1, 2]);
        assert_eq!(contents(&chunks), [0, 21, 2, 23]);
        drop(first);
        assert!(!chunks.take_back(2));
        **chunks.get_mut(2) = 32;
        assert_eq!(contents(&chunks), [0, 21, 32, 23]);
        assert!(chunks.take_back(100));
        assert_eq!(contents(&chunks), [0, 21, 32, 23]);
        assert!(chunks.layers.is_empty());
    }

    /// A chunk that counts how many have been freed.
    #[derive(Clone)]
    struct Counted {
        value: u32,
        freed: Rc<Cell<usize>>,
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.freed.set(self.freed.get() + 1);
        }
    }

    #[test]
    fn what_piled_up_is_freed_with_a_sealed_list_and_not_by_sealing() {
        const CHUNKS: usize = 50;
        let freed = Rc::new(Cell::new(0));
        let mut chunks = Chunks::default();
        for value in 0..CHUNKS as u32 {
            let freed = Rc::clone(&freed);
            chunks.push(Box::new(Counted { value, freed }));
        }
        let values = |chunks: &Chunks<Box<Counted>>| -> Vec<u32> {
            (0..CHUNKS).map(|index| chunks.get(index).value).collect()
        };
        let mut expected = values(&chunks);
        // Nothing is ever taken back in between, as if checkpoints followed on each other at once.
        for round in 0..20 {
            let before = freed.get();
            let sealed = chunks.seal();
            assert_eq!(freed.get(), before, "round {round}");
            assert_eq!(values(&sealed), expected);
            let then = expected.clone();
            // Most of them are replaced, others each time.
            for index in (0..CHUNKS).filter(|index| index % 5 != round % 5) {
                chunks.get_mut(index).value += 1000;
                expected[index] += 1000;
            }
            assert_eq!(values(&sealed), then);
            assert_eq!(values(&chunks), expected);
            drop(sealed);
            let held = |list: &Vec<Option<Box<Counted>>>| list.iter().flatten().count();
            let layers: usize = chunks.layers.iter().map(|layer| held(layer)).sum();
            assert!(chunks.layers.len() <= LAYERS_MAX);
            let all = held(&chunks.own) + layers + chunks.spare.len() + held(&chunks.left);
            assert!(all <= (LAYERS_MAX + 2) * CHUNKS, "{all} in round {round}");
        }
        while !chunks.take_back(7) {}
        assert_eq!(values(&chunks), expected);
        assert!(chunks.left.is_empty());
        assert!(chunks.spare.len() <= CHUNKS);
    }
}
