//! List states: per slot a chain of blocks on the heap.
//!
//! Elements lie one after the other, each after its length (a varint). A short list has one block,
//! which moves to one of twice the size when it is full; from 4 KiB on, full blocks stay where they
//! are and a new one is chained in front of them. Appending writes after what the cell says is
//! used, so that an older cell, in a sealed list or restored by a rollback, still sees its elements.
//!
//! Block: previous block (length and number, zero if none), bytes used in the previous block, index
//! of its own first element: four little-endian `u32`. Then the elements.

use super::change::Change;
use super::chunks::{Chunks, filled};
use super::heap::{BLOCK_MAX, Heap, Span, block_size};
use super::rows::{SLOTS, place};
use super::varint;

const HEADER: usize = 16;

/// What a list state holds for a key.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// The interval between snapshots in which an element was appended last.
    version: u32,
    /// The one in which one was appended last before that.
    previous: u32,
    /// How many elements there are; none: no list.
    count: u32,
    /// How many there were when `version` began.
    mark: u32,
    /// The newest block, with its whole size as length.
    tail: Span,
    /// Bytes used in it.
    used: u32,
}

const ABSENT: Cell = Cell {
    version: 0,
    previous: 0,
    count: 0,
    mark: 0,
    tail: NO_BLOCK,
    used: 0,
};
const NO_BLOCK: Span = Span { len: 0, block: 0 };

#[derive(Debug)]
struct Undo {
    slot: u32,
    old: Cell,
    /// The block that the change has made.
    made: Option<Span>,
    /// What is not needed any more once the change is final.
    garbage: Garbage,
}

#[derive(Debug)]
enum Garbage {
    None,
    /// A block that has been moved.
    Block(Span),
    /// The chain of the old cell, up to a block that stays.
    Chain {
        kept: Span,
    },
}

/// The lists of one state.
#[derive(Debug, Default)]
pub(super) struct Lists {
    chunks: Chunks<Box<[Cell; SLOTS]>>,
    /// Per chunk, the interval in which it was changed last.
    changed: Vec<u32>,
    /// The newest interval after which a list of that interval was appended to in another one.
    extended: u32,
    undo: Vec<Undo>,
}

/// Some elements of a list that follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elements<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = varint::read(self.bytes)?;
        let (element, rest) = rest.split_at_checked(len as usize)?;
        self.bytes = rest;
        Some(element)
    }
}

struct Header {
    previous: Span,
    previous_used: u32,
    first: u32,
}

fn header(block: &[u8]) -> Header {
    let word =
        |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    Header {
        previous: Span {
            len: word(0),
            block: word(4),
        },
        previous_used: word(8),
        first: word(12),
    }
}

fn write_header(header: &Header) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    let words = [
        header.previous.len,
        header.previous.block,
        header.previous_used,
        header.first,
    ];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

impl Lists {
    /// Makes cells for another chunk of slots.
    pub(super) fn grow(&mut self) {
        self.chunks.push(filled(ABSENT));
        self.changed.push(0);
    }

    fn cell(&self, slot: u32) -> &Cell {
        let (chunk, cell) = place(slot);
        &self.chunks.get(chunk)[cell]
    }

    fn set_cell(&mut self, slot: u32, new: Cell, version: u32) {
        let (chunk, cell) = place(slot);
        self.changed[chunk] = self.changed[chunk].max(version);
        self.chunks.get_mut(chunk)[cell] = new;
    }

    pub(super) fn is_absent(&self, slot: u32) -> bool {
        self.cell(slot).count == 0
    }

    /// Appends an element. `None`, and nothing is changed, if there are too many.
    pub(super) fn append(
        &mut self,
        slot: u32,
        element: &[u8],
        version: u32,
        heap: &mut Heap,
    ) -> Option<Change> {
        let old = *self.cell(slot);
        let mut new = old;
        new.count = old.count.checked_add(1)?;
        if old.version != version || old.count == 0 {
            // A list that was cleared starts empty: all it has then is new.
            (new.previous, new.mark) = if old.count == 0 {
                (0, 0)
            } else {
                (old.version, old.count)
            };
            self.extended = self.extended.max(new.previous);
            new.version = version;
        }
        let need = varint::len(element.len() as u64) + element.len();
        let mut undo = Undo {
            slot,
            old,
            made: None,
            garbage: Garbage::None,
        };

        let used = old.used as usize;
        // What is longer than a block is a blob, which sealed lists share: nothing is written into it.
        let fits = old.count > 0
            && (old.tail.len as usize) <= BLOCK_MAX
            && used + need <= old.tail.len as usize;
        let movable =
            old.count > 0 && used + need <= BLOCK_MAX && (old.tail.len as usize) <= BLOCK_MAX / 2;
        if fits {
            // In place, though a snapshot or a rollback may hold the old cell: it reads no further than its
            // own `used`.
            write_element(&mut heap.block_mut(old.tail)[used..used + need], element);
            new.used += need as u32;
        } else if movable {
            // Twice the size, so that all moves together copy no more than was appended. The old block goes at
            // commit, because until then a rollback may need it.
            let wanted = (used + need).max(2 * old.tail.len as usize);
            let span = heap.allocate(block_size(wanted));
            // By way of the stack: both blocks belong to the heap, which can be borrowed once.
            let mut bytes = [0; BLOCK_MAX];
            bytes[..used].copy_from_slice(&heap.get(old.tail)[..used]);
            write_element(&mut bytes[used..used + need], element);
            heap.block_mut(span)[..used + need].copy_from_slice(&bytes[..used + need]);
            (new.tail, new.used) = (span, (used + need) as u32);
            (undo.made, undo.garbage) = (Some(span), Garbage::Block(old.tail));
        } else {
            let previous = if old.count == 0 { NO_BLOCK } else { old.tail };
            let header = write_header(&Header {
                previous,
                previous_used: old.used,
                first: old.count,
            });
            let size = HEADER + need;
            let span = if size > BLOCK_MAX {
                let mut bytes = vec![0; size];
                bytes[..HEADER].copy_from_slice(&header);
                write_element(&mut bytes[HEADER..], element);
                heap.insert(&bytes)
            } else {
                // The first block is as small as can be, those after the first 4 KiB are large.
                let span = heap.allocate(if old.count == 0 {
                    block_size(size)
                } else {
                    BLOCK_MAX
                });
                let block = heap.block_mut(span);
                block[..HEADER].copy_from_slice(&header);
                write_element(&mut block[HEADER..size], element);
                span
            };
            (new.tail, new.used) = (span, size as u32);
            undo.made = Some(span);
        }
        self.set_cell(slot, new, version);
        self.undo.push(undo);
        Some(Change {
            appeared: old.count == 0,
            vanished: false,
            bytes: element.len() as i64,
        })
    }

    /// Removes elements of the list in `slot`, from the end: at least `at_least` and not many more, or all
    /// there are. Returns how many. A list of which some are left must not be sealed.
    pub(super) fn clear(
        &mut self,
        slot: u32,
        at_least: usize,
        version: u32,
        heap: &Heap,
    ) -> (u64, Change) {
        // Block by block, because only a block's header says what is before it: this may remove up to a
        // block more than was asked for.
        let old = *self.cell(slot);
        let mut left = old;
        let mut bytes = 0;
        while left.count > 0 && ((old.count - left.count) as usize) < at_least {
            let block = heap.get(left.tail);
            let header = header(block);
            let elements = Elements {
                bytes: &block[HEADER..left.used as usize],
            };
            bytes += elements.map(<[u8]>::len).sum::<usize>();
            (left.count, left.tail, left.used) =
                (header.first, header.previous, header.previous_used);
        }
        let count = old.count - left.count;
        if count == 0 {
            return (0, Change::default());
        }
        let vanished = left.count == 0;
        // What a delta takes for old cannot be more than is left.
        left.mark = left.mark.min(left.count);
        self.set_cell(slot, if vanished { ABSENT } else { left }, version);
        self.undo.push(Undo {
            slot,
            old,
            made: None,
            garbage: Garbage::Chain { kept: left.tail },
        });
        (
            u64::from(count),
            Change {
                appeared: false,
                vanished,
                bytes: -(bytes as i64),
            },
        )
    }

    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    pub(super) fn commit(&mut self, heap: &mut Heap) {
        for undo in self.undo.drain(..) {
            match undo.garbage {
                Garbage::None => {}
                Garbage::Block(span) => heap.release(span),
                Garbage::Chain { kept } => {
                    let mut next = undo.old.tail;
                    while next != kept {
                        let span = next;
                        next = header(heap.get(span)).previous;
                        heap.release(span);
                    }
                }
            }
        }
    }

    /// Takes back what was changed since `mark`.
    pub(super) fn rollback(&mut self, mark: usize, heap: &mut Heap) {
        for undo in self.undo.split_off(mark).into_iter().rev() {
            if let Some(span) = undo.made {
                heap.release(span);
            }
            self.set_cell(undo.slot, undo.old, 0);
        }
    }

    /// The elements from index `from` on, block by block.
    fn runs<'a>(&self, cell: &Cell, from: u32, heap: &'a Heap) -> Vec<Elements<'a>> {
        let mut runs = Vec::new();
        let (mut span, mut used) = (cell.tail, cell.used);
        while span != NO_BLOCK {
            let block = heap.get(span);
            let header = header(block);
            let mut elements = Elements {
                bytes: &block[HEADER..used as usize],
            };
            if header.first < from {
                elements
                    .by_ref()
                    .take((from - header.first) as usize)
                    .for_each(drop);
            }
            runs.push(elements);
            if header.first <= from {
                break;
            }
            (span, used) = (header.previous, header.previous_used);
        }
        runs.reverse();
        runs
    }

    /// The elements of the list in `slot`.
    pub(super) fn get<'a>(
        &self,
        slot: u32,
        heap: &'a Heap,
    ) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.runs(self.cell(slot), 0, heap).into_iter().flatten()
    }

    pub(super) fn seal(&mut self) -> Self {
        Self {
            chunks: self.chunks.seal(),
            changed: self.changed.clone(),
            extended: self.extended,
            undo: Vec::new(),
        }
    }

    pub(super) fn take_back(&mut self, budget: usize) -> bool {
        self.chunks.take_back(budget)
    }

    /// Whether lists may be written whole to a delta on interval `base`, with elements that are older than it.
    pub(super) fn may_replace(&self, base: u32) -> bool {
        self.extended > base
    }

    /// The lists that were appended to after interval `base` (all, if `None`): slot, whether the
    /// elements replace the list or go on with it, and the elements.
    pub(super) fn since<'a>(
        &'a self,
        base: Option<u32>,
        heap: &'a Heap,
    ) -> impl Iterator<Item = (u32, bool, impl Iterator<Item = &'a [u8]>)> {
        let newer = move |version: u32| base.is_none_or(|base| version > base);
        let chunks = self
            .changed
            .iter()
            .enumerate()
            .filter(move |(_, changed)| newer(**changed));
        chunks.flat_map(move |(chunk, _)| {
            let slots = chunk * SLOTS..;
            slots
                .zip(self.chunks.get(chunk).iter())
                .filter_map(move |(slot, cell)| {
                    if cell.count == 0 || !newer(cell.version) {
                        return None;
                    }
                    // Which elements are newer is known for the last interval that brought some. Where
                    // the base is older than that (a checkpoint between was aborted), the whole list is
                    // written instead.
                    let goes_on = base.is_some_and(|base| cell.mark > 0 && cell.previous <= base);
                    let from = if goes_on { cell.mark } else { 0 };
                    Some((
                        slot as u32,
                        !goes_on,
                        self.runs(cell, from, heap).into_iter().flatten(),
                    ))
                })
        })
    }
}

fn write_element(mut place: &mut [u8], element: &[u8]) {
    let (prefix, len) = varint::encode(element.len() as u64);
    place[..len].copy_from_slice(&prefix[..len]);
    place = &mut place[len..];
    place.copy_from_slice(element);
}
