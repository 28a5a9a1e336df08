//! Map states: entries in an arena, and per slot the order of its fields.
//!
//! The arena is sealed with the state. The order is not: the writer has no use for it, and a restore
//! builds it again.

use std::cmp::Ordering;

use super::bytes::Bytes;
use super::change::Change;
use super::chunks::{Chunks, filled};
use super::fields::{Cursor, Fields};
use super::heap::Heap;
use super::rows::{SLOTS, place};

/// Entries per chunk: 20 KiB.
const ENTRIES: usize = 512;
/// The most places for what takes changes back that are kept from call to call: 256 KiB.
const UNDO_KEPT: usize = 8192;
/// Owner of what is no entry.
const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    owner: u32,
    /// The interval between snapshots in which it was written last.
    version: u32,
    field: Bytes<15>,
    value: Bytes<15>,
}

const VACANT: Entry = Entry {
    owner: NOBODY,
    version: 0,
    field: Bytes::ABSENT,
    value: Bytes::ABSENT,
};

#[derive(Debug)]
enum Undo {
    Inserted(u32),
    Replaced {
        entry: u32,
        version: u32,
        value: Bytes<15>,
    },
    Removed {
        entry: u32,
        owner: u32,
    },
    Cleared {
        owner: u32,
        fields: Fields,
    },
}

/// The maps of one state.
#[derive(Debug, Default)]
pub(super) struct Maps {
    chunks: Chunks<Box<[Entry; ENTRIES]>>,
    /// Per chunk, the interval in which it was changed last.
    changed: Vec<u32>,
    used: u32,
    free: Vec<u32>,
    /// By slot, in chunks too: one long list would be copied when it grows.
    fields: Vec<Box<[Fields]>>,
    /// Slots whose fields a restore has to sort.
    unsorted: Vec<u32>,
    undo: Vec<Undo>,
}

fn place_of(entry: u32) -> (usize, usize) {
    (entry as usize / ENTRIES, entry as usize % ENTRIES)
}

/// Reads values that mean nothing here, so that what they stand in comes from memory.
#[inline]
fn fetch(values: impl Iterator<Item = u32>) {
    std::hint::black_box(values.fold(0, |all, some| all ^ some));
}

impl Maps {
    /// Makes places for another chunk of slots.
    pub(super) fn grow(&mut self) {
        self.fields.push(vec![Fields::None; SLOTS].into());
    }

    pub(super) fn is_absent(&self, slot: u32) -> bool {
        self.fields(slot).is_empty()
    }

    fn fields(&self, slot: u32) -> &Fields {
        let (chunk, cell) = place(slot);
        &self.fields[chunk][cell]
    }

    fn fields_mut(&mut self, slot: u32) -> &mut Fields {
        let (chunk, cell) = place(slot);
        &mut self.fields[chunk][cell]
    }

    fn entry(&self, entry: u32) -> &Entry {
        let (chunk, cell) = place_of(entry);
        &self.chunks.get(chunk)[cell]
    }

    fn entry_mut(&mut self, entry: u32, version: u32) -> &mut Entry {
        let (chunk, cell) = place_of(entry);
        self.changed[chunk] = self.changed[chunk].max(version);
        &mut self.chunks.get_mut(chunk)[cell]
    }

    fn find(&self, slot: u32, field: &[u8], heap: &Heap) -> (Option<u32>, Cursor) {
        self.fields(slot).find(self.compare(field, heap))
    }

    /// Compares the field of an entry with this one.
    fn compare<'a>(&'a self, field: &'a [u8], heap: &'a Heap) -> impl Fn(u32) -> Ordering + 'a {
        move |entry| {
            let other = self.entry(entry).field.get(heap).unwrap_or_default();
            other.cmp(field)
        }
    }

    /// Fetches what [`Maps::add`] will look at in many slots: all at a time, for each is a wait of its own
    /// otherwise.
    pub(super) fn touch(&self, slots: impl ExactSizeIterator<Item = u32> + Clone) {
        let free = self.free.iter().rev().take(slots.len());
        fetch(free.map(|entry| self.entry(*entry).version));
        fetch(
            slots
                .clone()
                .map(|slot| self.fields(slot).is_empty().into()),
        );
        fetch(slots.clone().filter_map(|slot| self.fields(slot).last()));
        let last = slots.filter_map(|slot| self.fields(slot).last());
        fetch(last.map(|entry| self.entry(entry).version));
    }

    /// The same for [`Maps::take_entry`]: slots, and the numbers of entries.
    pub(super) fn touch_entries(&self, entries: impl Iterator<Item = (u32, u32)> + Clone) {
        let both = entries.clone().map(|(slot, entry)| {
            u32::from(self.fields(slot).is_empty()) ^ self.entry(entry).version
        });
        fetch(both);
        let first = entries.map(|(slot, _)| self.fields(slot).first_piece().first());
        fetch(first.map(|first| first.copied().unwrap_or_default()));
    }

    /// The value at `field` of the key in `slot`.
    pub(super) fn get<'a>(&'a self, slot: u32, field: &[u8], heap: &'a Heap) -> Option<&'a [u8]> {
        self.entry(self.find(slot, field, heap).0?).value.get(heap)
    }

    /// The entries of the key in `slot` from field `from` on, in order.
    pub(super) fn scan<'a>(
        &'a self,
        slot: u32,
        from: &[u8],
        heap: &'a Heap,
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let (_, place) = self.find(slot, from, heap);
        self.fields(slot).from(place).filter_map(|entry| {
            let entry = self.entry(entry);
            Some((entry.field.get(heap)?, entry.value.get(heap)?))
        })
    }

    /// Sets the value at a field. Also returns whether the entry is new.
    pub(super) fn set(
        &mut self,
        slot: u32,
        field: &[u8],
        value: &[u8],
        version: u32,
        heap: &mut Heap,
    ) -> (Change, bool) {
        let (found, place) = self.find(slot, field, heap);
        let value = Bytes::new(value, heap);
        if let Some(number) = found {
            let entry = self.entry_mut(number, version);
            let old = (entry.version, entry.value);
            (entry.version, entry.value) = (version, value);
            self.undo.push(Undo::Replaced {
                entry: number,
                version: old.0,
                value: old.1,
            });
            return (
                Change {
                    bytes: value.len() as i64 - old.1.len() as i64,
                    ..Change::default()
                },
                false,
            );
        }
        let new = Entry {
            owner: slot,
            version,
            field: Bytes::new(field, heap),
            value,
        };
        let (change, _) = self.insert(place, new);
        (change, true)
    }

    /// Adds an entry without a value, unless there is one at the field: returns `None` then. Else also returns its
    /// number. Fast where the field comes after the others of the key.
    pub(super) fn add(
        &mut self,
        slot: u32,
        field: &[u8],
        version: u32,
        heap: &mut Heap,
    ) -> Option<(Change, u32)> {
        let found = self.fields(slot).find_from_end(self.compare(field, heap));
        let (None, place) = found else {
            return None;
        };
        let new = Entry {
            owner: slot,
            version,
            field: Bytes::new(field, heap),
            value: Bytes::new(&[], heap),
        };
        Some(self.insert(place, new))
    }

    /// Adds an entry at the place that its field has. Also returns its number.
    fn insert(&mut self, place: Cursor, new: Entry) -> (Change, u32) {
        let change = Change {
            appeared: self.fields(new.owner).is_empty(),
            vanished: false,
            bytes: (new.field.len() + new.value.len()) as i64,
        };
        let number = self.place_entry(new);
        self.fields_mut(new.owner).insert(place, number);
        self.undo.push(Undo::Inserted(number));
        (change, number)
    }

    /// Puts a new entry into the arena.
    fn place_entry(&mut self, entry: Entry) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            let number = self.used;
            self.used = number
                .checked_add(1)
                .expect("memory ends before entry numbers do");
            if place_of(number).0 == self.chunks.len() {
                self.chunks.push(filled(VACANT));
                self.changed.push(0);
            }
            number
        });
        *self.entry_mut(number, entry.version) = entry;
        number
    }

    /// Adds an entry of a full segment, which has each field of a key once. [`Maps::sort`] has to follow.
    /// `None` if the field is seen to come a second time.
    pub(super) fn restore(
        &mut self,
        slot: u32,
        field: &[u8],
        value: &[u8],
        heap: &mut Heap,
    ) -> Option<Change> {
        if !self.fields(slot).is_long() {
            let (change, new) = self.set(slot, field, value, 0, heap);
            return new.then_some(change);
        }
        let number = self.place_entry(Entry {
            owner: slot,
            version: 0,
            field: Bytes::new(field, heap),
            value: Bytes::new(value, heap),
        });
        if self.fields_mut(slot).push(number) {
            self.unsorted.push(slot);
        }
        Some(Change {
            bytes: (field.len() + value.len()) as i64,
            ..Change::default()
        })
    }

    /// Sorts what [`Maps::restore`] has added. Returns whether each field came once.
    pub(super) fn sort(&mut self, heap: &Heap) -> bool {
        let mut distinct = true;
        for slot in std::mem::take(&mut self.unsorted) {
            let mut fields = std::mem::take(self.fields_mut(slot));
            let field = |entry| self.entry(entry).field.get(heap).unwrap_or_default();
            let prefix = |entry| {
                let mut prefix = [0; 8];
                let field = field(entry);
                let len = field.len().min(prefix.len());
                prefix[..len].copy_from_slice(&field[..len]);
                u64::from_be_bytes(prefix)
            };
            distinct &= fields.sort(prefix, |one, other| field(one).cmp(field(other)));
            *self.fields_mut(slot) = fields;
        }
        distinct
    }

    /// Removes the entry at a field. `None` if there is none.
    pub(super) fn remove(
        &mut self,
        slot: u32,
        field: &[u8],
        version: u32,
        heap: &Heap,
    ) -> Option<Change> {
        let (change, _) = self.take(slot, field, version, heap)?;
        Some(change)
    }

    /// The same; also returns the interval in which the entry was written last.
    pub(super) fn take(
        &mut self,
        slot: u32,
        field: &[u8],
        version: u32,
        heap: &Heap,
    ) -> Option<(Change, u32)> {
        let (found, place) = self.find(slot, field, heap);
        Some(self.take_at(found?, place, version))
    }

    /// Whether entry `number` is that of the key in `slot` at `field`.
    pub(super) fn is_at(&self, number: u32, slot: u32, field: &[u8], heap: &Heap) -> bool {
        let entry = self.entry(number);
        entry.owner == slot && entry.field.get(heap) == Some(field)
    }

    /// Removes an entry of some key. Also returns the interval in which it was written last. Fast where it is one of
    /// the first of the key.
    pub(super) fn take_entry(&mut self, number: u32, version: u32, heap: &Heap) -> (Change, u32) {
        let Entry { owner, field, .. } = *self.entry(number);
        let near_start = self.fields(owner).place_near_start(number);
        let place = near_start.unwrap_or_else(|| {
            let (_, place) = self.find(owner, field.get(heap).unwrap_or_default(), heap);
            place
        });
        self.take_at(number, place, version)
    }

    fn take_at(&mut self, number: u32, place: Cursor, version: u32) -> (Change, u32) {
        let entry = self.entry_mut(number, version);
        let slot = std::mem::replace(&mut entry.owner, NOBODY);
        let bytes = (entry.field.len() + entry.value.len()) as i64;
        let written = entry.version;
        self.fields_mut(slot).remove(place);
        self.undo.push(Undo::Removed {
            entry: number,
            owner: slot,
        });
        let change = Change {
            appeared: false,
            vanished: self.fields(slot).is_empty(),
            bytes: -bytes,
        };
        (change, written)
    }

    /// Removes entries of the key in `slot`, from the end: at least `at_least` and not many more, or all
    /// there are. Returns how many.
    pub(super) fn clear(&mut self, slot: u32, at_least: usize, version: u32) -> (u64, Change) {
        let fields = self.fields_mut(slot).split_end(at_least);
        let (mut count, mut change) = (
            0,
            Change {
                vanished: !fields.is_empty() && self.fields(slot).is_empty(),
                ..Change::default()
            },
        );
        for number in fields.iter() {
            let entry = self.entry_mut(number, version);
            entry.owner = NOBODY;
            change.bytes -= (entry.field.len() + entry.value.len()) as i64;
            count += 1;
        }
        if !fields.is_empty() {
            self.undo.push(Undo::Cleared {
                owner: slot,
                fields,
            });
        }
        (count, change)
    }

    /// How many places for entries there are.
    pub(super) fn places(&self) -> usize {
        self.used as usize
    }

    /// The entries in some places: slot, field and value.
    pub(super) fn at<'a>(
        &'a self,
        places: std::ops::Range<u32>,
        heap: &'a Heap,
    ) -> impl Iterator<Item = (u32, &'a [u8], &'a [u8])> {
        places.filter_map(move |place| {
            let entry = self.entry(place);
            let held = entry.owner != NOBODY;
            held.then_some((entry.owner, entry.field.get(heap)?, entry.value.get(heap)?))
        })
    }

    /// All entries: their numbers, slots and fields.
    pub(super) fn fields_by_entry<'a>(
        &'a self,
        heap: &'a Heap,
    ) -> impl Iterator<Item = (u32, u32, &'a [u8])> {
        (0..self.used).filter_map(move |number| {
            let entry = self.entry(number);
            let held = entry.owner != NOBODY;
            held.then_some((number, entry.owner, entry.field.get(heap)?))
        })
    }

    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    pub(super) fn commit(&mut self, heap: &mut Heap) {
        let mut undo = std::mem::take(&mut self.undo);
        for undo in undo.drain(..) {
            match undo {
                Undo::Inserted(_) => {}
                Undo::Replaced { value, .. } => value.release(heap),
                Undo::Removed { entry, .. } => self.vacate(entry, heap),
                Undo::Cleared { fields, .. } => {
                    fields.iter().for_each(|entry| self.vacate(entry, heap))
                }
            }
        }
        // The next call does not have to make room again, unless this one was out of the ordinary.
        if undo.capacity() <= UNDO_KEPT {
            self.undo = undo;
        }
    }

    fn vacate(&mut self, number: u32, heap: &mut Heap) {
        let entry = std::mem::replace(self.entry_mut(number, 0), VACANT);
        entry.field.release(heap);
        entry.value.release(heap);
        self.free.push(number);
    }

    /// Takes back what was changed since `mark`.
    pub(super) fn rollback(&mut self, mark: usize, heap: &mut Heap) {
        for undo in self.undo.split_off(mark).into_iter().rev() {
            match undo {
                Undo::Inserted(number) => {
                    let Entry { owner, field, .. } = *self.entry(number);
                    let (_, place) = self.find(owner, field.get(heap).unwrap_or_default(), heap);
                    self.fields_mut(owner).remove(place);
                    self.vacate(number, heap);
                }
                Undo::Replaced {
                    entry,
                    version,
                    value,
                } => {
                    let entry = self.entry_mut(entry, 0);
                    let new = std::mem::replace(&mut entry.value, value);
                    entry.version = version;
                    new.release(heap);
                }
                Undo::Removed {
                    entry: number,
                    owner,
                } => {
                    let field = self.entry(number).field;
                    let (_, place) = self.find(owner, field.get(heap).unwrap_or_default(), heap);
                    self.fields_mut(owner).insert(place, number);
                    self.entry_mut(number, 0).owner = owner;
                }
                Undo::Cleared { owner, fields } => {
                    fields
                        .iter()
                        .for_each(|number| self.entry_mut(number, 0).owner = owner);
                    self.fields_mut(owner).join_end(fields);
                }
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

    /// The entries that were written after interval `base` (all, if `None`): slot, field and value.
    pub(super) fn since<'a>(
        &'a self,
        base: Option<u32>,
        heap: &'a Heap,
    ) -> impl Iterator<Item = (u32, &'a [u8], &'a [u8])> {
        let newer = move |version: u32| base.is_none_or(|base| version > base);
        let chunks = self
            .changed
            .iter()
            .enumerate()
            .filter(move |(_, changed)| newer(**changed));
        chunks
            .flat_map(move |(chunk, _)| self.chunks.get(chunk).iter())
            .filter_map(move |entry| {
                let wanted = entry.owner != NOBODY && newer(entry.version);
                wanted.then_some((entry.owner, entry.field.get(heap)?, entry.value.get(heap)?))
            })
    }
}
