//! A list of chunks that is sealed in constant time and copied on write.
//!
//! Sealing moves the whole list into an [`Arc`] and leaves empty places behind. A change finds its
//! place empty and copies the chunk first; a read finds it empty and looks into the sealed layers.
//! So as long as nothing is sealed, access costs one pointer and no atomic operation. When the
//! sealed list has been dropped elsewhere, its chunks are taken back, a few at a time.
//!
//! Invariant: every index below `len` has a chunk in `own` or in a layer; the newest one counts.

use std::fmt;
use std::sync::Arc;

/// From so many layers on, sealing first takes back what it can.
const LAYERS_MAX: usize = 3;

/// The chunks, `C` being the pointer to one (a box). A sealed list is one with layers alone.
pub(super) struct Chunks<C> {
    own: Vec<Option<C>>,
    /// Sealed lists that somebody may still be reading, the newest last.
    layers: Vec<Arc<Vec<Option<C>>>>,
    /// Up to where the newest layer has been taken back.
    taken_back: usize,
    /// Chunks that were replaced, to be used for the next copies: memory that is there already, and
    /// freeing thousands of them would make the allocator busy at some later moment. As many are
    /// kept as there were copies between two snapshots.
    spare: Vec<C>,
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
        match self.spare.pop() {
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
        if self.layers.len() >= LAYERS_MAX {
            self.take_back(usize::MAX);
        }
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
            ..Self::default()
        }
    }

    /// Frees the spare chunks, for those that hold more than their own memory.
    pub(super) fn free_spare(&mut self) {
        self.spare.clear();
    }

    /// Takes back at most `budget` chunks of sealed lists that nobody reads any more. Returns
    /// whether nothing is sealed afterwards.
    pub(super) fn take_back(&mut self, mut budget: usize) -> bool {
        let spare_max = self.copies.max(self.copies_before);
        let needless = self.spare.len().saturating_sub(spare_max).min(budget);
        self.spare.truncate(self.spare.len() - needless);
        while let Some(layer) = self.layers.last_mut() {
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

/// A chunk of `N` cells on the heap.
pub(super) fn filled<T: Copy + fmt::Debug, const N: usize>(cell: T) -> Box<[T; N]> {
    vec![cell; N]
        .into_boxed_slice()
        .try_into()
        .expect("the slice has N cells")
}

#[cfg(test)]
mod tests {
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
}
