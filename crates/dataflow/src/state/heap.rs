//! Byte strings that are too long to be stored in a cell.
//!
//! Blocks of 31 sizes, four to a doubling, from 16 bytes to 4 KiB, in chunks of about 16 KiB that are
//! copied on write; anything longer is a blob of its own, which is shared and never changed. A block
//! that holds a string is not changed either (lists, which append, are the exception and only write
//! after what others can see): a new value gets a new block and the old one is released at commit.

use std::sync::Arc;

use super::chunks::Chunks;

/// The most bytes of a block; what is longer is a blob.
pub(super) const BLOCK_MAX: usize = 4096;
const CLASSES: usize = 31;
const CHUNK_BYTES: usize = 16 << 10;
const BLOBS: usize = 64;

/// Where a byte string lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Its length; decides the size of its block.
    pub(super) len: u32,
    /// Which of the blocks of that size, or which blob.
    pub(super) block: u32,
}

/// `None`: vacant.
type Blob = Option<Arc<[u8]>>;

/// The heap of a [`super::KeyedState`], for keys and values alike.
#[derive(Debug)]
pub(super) struct Heap {
    classes: Box<[Class]>,
    blobs: Chunks<Box<[Blob; BLOBS]>>,
    blobs_used: u32,
    blobs_free: Vec<u32>,
    blobs_bytes: u64,
}

#[derive(Debug)]
struct Class {
    size: usize,
    /// Binary logarithm of the number of blocks in a chunk.
    shift: u32,
    chunks: Chunks<Box<[u8]>>,
    used: u32,
    free: Vec<u32>,
}

/// The number of the smallest block size that holds `len` bytes.
#[inline]
fn class_of(len: usize) -> usize {
    if len <= 64 {
        return len.max(16).div_ceil(8) - 2;
    }
    let last = len - 1;
    let doubling = last.ilog2() as usize;
    7 + (doubling - 6) * 4 + ((last >> (doubling - 2)) & 3)
}

const fn size_of_class(class: usize) -> usize {
    if class < 7 {
        return (class + 2) * 8;
    }
    let doubling = 6 + (class - 7) / 4;
    (1 << doubling) + (((class - 7) % 4 + 1) << (doubling - 2))
}

/// The size of the block that holds `len` bytes (at most [`BLOCK_MAX`]).
pub(super) fn block_size(len: usize) -> usize {
    size_of_class(class_of(len))
}

impl Default for Heap {
    fn default() -> Self {
        let class = |class| {
            let size = size_of_class(class);
            Class {
                size,
                shift: (CHUNK_BYTES / size).ilog2(),
                chunks: Chunks::default(),
                used: 0,
                free: Vec::new(),
            }
        };
        Self {
            classes: (0..CLASSES).map(class).collect(),
            blobs: Chunks::default(),
            blobs_used: 0,
            blobs_free: Vec::new(),
            blobs_bytes: 0,
        }
    }
}

impl Class {
    fn allocate(&mut self) -> u32 {
        if let Some(block) = self.free.pop() {
            return block;
        }
        let block = self.used;
        self.used = block
            .checked_add(1)
            .expect("memory ends before block numbers do");
        if (block >> self.shift) as usize == self.chunks.len() {
            self.chunks
                .push(vec![0; self.size << self.shift].into_boxed_slice());
        }
        block
    }

    #[inline]
    fn place(&self, block: u32) -> (usize, usize) {
        (
            (block >> self.shift) as usize,
            (block as usize & ((1 << self.shift) - 1)) * self.size,
        )
    }
}

impl Heap {
    /// Keeps a copy of `bytes`.
    pub(super) fn insert(&mut self, bytes: &[u8]) -> Span {
        let len = u32::try_from(bytes.len()).expect("accesses are limited to less than 4 GiB");
        if bytes.len() > BLOCK_MAX {
            return self.insert_blob(len, bytes.into());
        }
        let span = self.allocate(bytes.len());
        self.block_mut(span)[..bytes.len()].copy_from_slice(bytes);
        span
    }

    /// A block of `len` bytes (at most [`BLOCK_MAX`]) with any content.
    pub(super) fn allocate(&mut self, len: usize) -> Span {
        Span {
            len: len as u32,
            block: self.classes[class_of(len)].allocate(),
        }
    }

    fn insert_blob(&mut self, len: u32, blob: Arc<[u8]>) -> Span {
        let block = self.blobs_free.pop().unwrap_or_else(|| {
            let block = self.blobs_used;
            self.blobs_used += 1;
            if block as usize / BLOBS == self.blobs.len() {
                self.blobs.push(Box::new([const { None }; BLOBS]));
            }
            block
        });
        self.blobs_bytes += u64::from(len);
        self.blobs.get_mut(block as usize / BLOBS)[block as usize % BLOBS] = Some(blob);
        Span { len, block }
    }

    /// The bytes at `span`.
    #[inline]
    pub(super) fn get(&self, span: Span) -> &[u8] {
        let len = span.len as usize;
        if len > BLOCK_MAX {
            let blobs = self.blobs.get(span.block as usize / BLOBS);
            return blobs[span.block as usize % BLOBS]
                .as_deref()
                .unwrap_or_default();
        }
        let class = &self.classes[class_of(len)];
        let (chunk, start) = class.place(span.block);
        &class.chunks.get(chunk)[start..start + len]
    }

    /// The block at `span`, which must not be a blob, for a change.
    pub(super) fn block_mut(&mut self, span: Span) -> &mut [u8] {
        let class = &mut self.classes[class_of(span.len as usize)];
        let (chunk, start) = class.place(span.block);
        &mut class.chunks.get_mut(chunk)[start..start + class.size]
    }

    /// Gives the place at `span` up.
    pub(super) fn release(&mut self, span: Span) {
        if span.len as usize > BLOCK_MAX {
            self.blobs.get_mut(span.block as usize / BLOBS)[span.block as usize % BLOBS] = None;
            self.blobs_free.push(span.block);
            self.blobs_bytes -= u64::from(span.len);
        } else {
            self.classes[class_of(span.len as usize)]
                .free
                .push(span.block);
        }
    }

    /// A heap to read from, as this one is now.
    pub(super) fn seal(&mut self) -> Self {
        let seal = |class: &mut Class| Class {
            size: class.size,
            shift: class.shift,
            chunks: class.chunks.seal(),
            used: class.used,
            free: Vec::new(),
        };
        Self {
            classes: self.classes.iter_mut().map(seal).collect(),
            blobs: self.blobs.seal(),
            blobs_used: self.blobs_used,
            blobs_free: Vec::new(),
            blobs_bytes: self.blobs_bytes,
        }
    }

    /// As [`Chunks::take_back`], for each of its lists.
    pub(super) fn take_back(&mut self, budget: usize) -> bool {
        let blobs = self.blobs.take_back(budget);
        self.blobs.free_spare();
        self.classes
            .iter_mut()
            .fold(blobs, |done, class| class.chunks.take_back(budget) && done)
    }

    /// Bytes of blocks and blobs that hold something.
    pub(super) fn bytes(&self) -> u64 {
        let blocks = self.classes.iter().map(|class| {
            let live = class.used as usize - class.free.len();
            (live * class.size) as u64
        });
        blocks.sum::<u64>() + self.blobs_bytes
    }

    /// Blocks and blobs that hold something.
    #[cfg(test)]
    pub(super) fn live(&self) -> usize {
        let blocks = self
            .classes
            .iter()
            .map(|class| class.used as usize - class.free.len());
        blocks.sum::<usize>() + self.blobs_used as usize - self.blobs_free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::bytes::Bytes;
    use super::*;

    #[test]
    fn every_length_gets_the_smallest_block_that_holds_it() {
        for len in 0..=BLOCK_MAX {
            let class = class_of(len);
            assert!(size_of_class(class) >= len, "{len}");
            assert!(class == 0 || size_of_class(class - 1) < len, "{len}");
        }
        assert_eq!(class_of(BLOCK_MAX), CLASSES - 1);
        assert_eq!(size_of_class(CLASSES - 1), BLOCK_MAX);
    }

    #[test]
    fn strings_of_all_lengths_come_back_and_their_places_are_reused() {
        let mut heap = Heap::default();
        for _ in 0..3 {
            let strings: Vec<Vec<u8>> = (0..6000)
                .step_by(37)
                .map(|len| vec![len as u8; len])
                .collect();
            let kept: Vec<Bytes<11>> = strings
                .iter()
                .map(|string| Bytes::new(string, &mut heap))
                .collect();
            let sealed = heap.seal();
            for (string, bytes) in strings.iter().zip(&kept) {
                assert_eq!(bytes.get(&heap), Some(string.as_slice()));
                assert_eq!(bytes.len(), string.len());
            }
            kept.iter().for_each(|bytes| bytes.release(&mut heap));
            Bytes::<11>::new(&[1; 5000], &mut heap).release(&mut heap);
            for (string, bytes) in strings.iter().zip(&kept) {
                assert_eq!(bytes.get(&sealed), Some(string.as_slice()));
            }
            assert_eq!(heap.live(), 0);
        }
        assert!(heap.take_back(usize::MAX));
    }
}
