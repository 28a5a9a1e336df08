//! State that was sealed at a barrier, and how it is written as a segment.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::codec::{self, BlockKind, BlockWriter, string_len};
use super::cold::{Cold, SealedLog};
use super::heap::Heap;
use super::removals::{Encoded, Removals};
use super::rows::Rows;
use super::table::{Counters, Store};
use super::timers::Timers;
use super::ttl::{PREFIX, View};
use super::{KeyedState, Seal, SegmentStats, StateDescriptor, Times, varint};
use crate::element::CheckpointId;
use crate::key::{KEY_HASH_NAME, KeyGroupRange, KeyGroups};

/// Elements of a list are written in runs of about this many bytes, so that no block has to be larger
/// than an element.
const RUN_BYTES: usize = 64 << 10;

/// State sealed at a barrier, to be written from another thread.
///
/// While it lives, the owner of the state copies every chunk before its first change: drop it soon.
pub struct SealedState {
    id: CheckpointId,
    base: Option<Seal>,
    descriptors: Arc<[StateDescriptor]>,
    range: KeyGroupRange,
    key_groups: KeyGroups,
    rows: Rows,
    heap: Heap,
    stores: Vec<(Store, Counters)>,
    /// What was removed since the base, interval by interval.
    removed: Vec<Arc<[Removals]>>,
    size_hint: u64,
    cold: Option<SealedLog>,
    times: Times,
}

impl fmt::Debug for SealedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters: Vec<&Counters> = self.stores.iter().map(|(_, counters)| counters).collect();
        f.debug_struct("SealedState")
            .field("id", &self.id)
            .field("base", &self.base())
            .field("states", &counters)
            .finish()
    }
}

impl SealedState {
    /// Seals `state`. With a `base` it has begun a new interval already.
    pub(super) fn new(state: &mut KeyedState, id: CheckpointId, base: Option<Seal>) -> Self {
        let removed: Vec<Arc<[Removals]>> = match base {
            Some(base) => {
                let newer = state
                    .removed
                    .iter()
                    .filter(|(version, _)| *version > base.version);
                newer.map(|(_, removals)| Arc::clone(removals)).collect()
            }
            None => Vec::new(),
        };
        let counters = state.tables.iter().map(|table| table.counters);
        let overhead = codec::entry_overhead(state.keys.len_max());
        let all_of = |counters: Counters| counters.bytes + counters.entries * overhead;
        let full: u64 = counters.clone().map(all_of).sum();
        let content = match base {
            Some(base) => {
                let written = counters.map(|counters| counters.written).sum::<u64>() - base.written;
                // What was not written since, but goes along: the elements of lists that are replaced.
                let whole = state.tables.iter().filter(|table| match &table.store {
                    Store::Lists(lists) => lists.may_replace(base.version),
                    _ => false,
                });
                let replaced: u64 = whole.map(|table| all_of(table.counters)).sum();
                let removals: u64 = removed
                    .iter()
                    .flat_map(|removals| removals.iter())
                    .map(Removals::bytes)
                    .sum();
                full.min(written + replaced) + removals
            }
            None => full,
        };
        let names: usize = state
            .descriptors
            .iter()
            .map(|state| state.name.len() + 24)
            .sum();
        Self {
            id,
            base,
            descriptors: Arc::clone(&state.descriptors),
            range: state.range,
            key_groups: state.key_groups,
            rows: state.rows.seal(),
            heap: state.heap.seal(),
            stores: state
                .tables
                .iter_mut()
                .map(|table| (table.store.seal(), table.counters))
                .collect(),
            removed,
            cold: state.cold.as_deref().map(Cold::seal),
            times: state.times,
            // Frames of blocks, header and end.
            size_hint: content + content / 8192 + names as u64 + 256,
        }
    }

    /// Whether there is nothing to write (no entry; for a delta also no removal).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stores.iter().all(|(_, counters)| match self.base {
            Some(base) => counters.changed <= base.version,
            None => counters.entries == 0,
        })
    }

    /// The states that are in it.
    #[must_use]
    pub fn states(&self) -> &[StateDescriptor] {
        &self.descriptors
    }

    /// The checkpoint on which this is a delta; `None` if it is full.
    #[must_use]
    pub fn base(&self) -> Option<CheckpointId> {
        self.base.map(|base| base.id)
    }

    /// Per state, in declaration order: how many entries (or elements) it held, and the bytes of their
    /// keys and values. Each key counts once for each state. What has expired counts until it is removed.
    #[must_use]
    pub fn held(&self) -> Vec<(u64, u64)> {
        let counters = self.stores.iter().map(|(_, counters)| counters);
        counters
            .zip(self.descriptors.iter())
            .map(|(counters, state)| {
                let prefixes = prefix_of(state) * counters.entries;
                let bytes = (counters.bytes - prefixes) + counters.key_bytes;
                (counters.entries, bytes)
            })
            .collect()
    }

    /// About how many bytes [`SealedState::write`] will write, at most.
    #[must_use]
    pub fn size_hint(&self) -> u64 {
        self.size_hint
    }

    /// Writes the segment: blocks of at most 1 MiB, each with its length and CRC-32C. May be called
    /// again, with the same result.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut dyn io::Write) -> io::Result<SegmentStats> {
        let mut writer = BlockWriter::new(to)?;
        writer.block(BlockKind::Header, &self.header())?;
        let mut states = Vec::with_capacity(self.stores.len());
        let mut held = self.held();
        for (index, (store, _)) in (0..).zip(&self.stores) {
            let state = &self.descriptors[index as usize];
            let mut part = Part {
                writer: &mut writer,
                sealed: self,
                index,
                // What a delta left out might have another value in its base.
                view: View::new(state.ttl.filter(|_| self.base.is_none()), self.times),
                prefix: prefix_of(state) as usize,
                noted: Vec::new(),
                again: 0,
                entries: 0,
                bytes: 0,
            };
            part.removals()?;
            part.store(store)?;
            // What has expired is not in a full segment, and does not count any more.
            if part.view.hides() {
                held[index as usize] = (part.entries, part.bytes - part.again);
            }
            states.push((part.entries, part.bytes));
        }
        Ok(SegmentStats {
            bytes: writer.finish()?,
            states,
            held,
        })
    }

    fn header(&self) -> Vec<u8> {
        let mut header = vec![u8::from(self.base.is_some())];
        let base = self.base.map_or(0, |base| base.id.0);
        header.extend_from_slice(&self.id.0.to_le_bytes());
        header.extend_from_slice(&base.to_le_bytes());
        for number in [self.key_groups.count(), self.range.start, self.range.end] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        let push_varint = |header: &mut Vec<u8>, value: u64| {
            let (bytes, len) = varint::encode(value);
            header.extend_from_slice(&bytes[..len]);
        };
        let push_string = |header: &mut Vec<u8>, string: &str| {
            push_varint(header, string.len() as u64);
            header.extend_from_slice(string.as_bytes());
        };
        push_string(&mut header, KEY_HASH_NAME);
        push_varint(&mut header, self.stores.len() as u64);
        for (descriptor, (_, counters)) in self.descriptors.iter().zip(&self.stores) {
            push_string(&mut header, &descriptor.name);
            let expires_by = descriptor.ttl.map(|ttl| ttl.time);
            header.push(codec::state_byte(descriptor.kind, expires_by));
            push_varint(
                &mut header,
                if self.base.is_some() {
                    0
                } else {
                    counters.entries
                },
            );
        }
        header
    }
}

/// Bytes of each stored value of a state that are its expiry.
fn prefix_of(state: &StateDescriptor) -> u64 {
    state.ttl.map_or(0, |_| PREFIX as u64)
}

/// One state on its way into a segment.
struct Part<'w, 'a> {
    writer: &'w mut BlockWriter<'a>,
    sealed: &'w SealedState,
    index: u32,
    /// What is written.
    view: View,
    /// Bytes of a value that its readers do not see.
    prefix: usize,
    /// By slot, whether map entries of its key were written, if some may have expired.
    noted: Vec<u64>,
    /// Bytes of keys that were written again.
    again: u64,
    entries: u64,
    bytes: u64,
}

impl Part<'_, '_> {
    fn removals(&mut self) -> io::Result<()> {
        let sealed = self.sealed;
        for removals in &sealed.removed {
            let removals = &removals[self.index as usize];
            self.strings(BlockKind::RemovedKeys, &removals.keys, 1)?;
        }
        for removals in &sealed.removed {
            let removals = &removals[self.index as usize];
            self.strings(BlockKind::RemovedFields, &removals.fields, 2)?;
        }
        Ok(())
    }

    /// Writes entries of this many strings each.
    fn strings(&mut self, kind: BlockKind, strings: &Encoded, each: usize) -> io::Result<()> {
        let mut strings = strings.iter();
        loop {
            let entry: Vec<&[u8]> = strings.by_ref().take(each).collect();
            if entry.is_empty() {
                return Ok(());
            }
            self.writer.entry(
                kind,
                self.index,
                entry.iter().map(|string| string_len(string)).sum(),
            )?;
            entry
                .into_iter()
                .try_for_each(|string| self.writer.string(string))?;
        }
    }

    fn store(&mut self, store: &Store) -> io::Result<()> {
        let SealedState {
            rows, heap, base, ..
        } = self.sealed;
        let base = base.map(|base| base.version);
        // An entry's slot has a key as long as the entry exists.
        let key_of = |slot: u32| rows.key(slot, heap);
        match store {
            Store::Values(values) => {
                values.since(base, rows, heap, |key, value| {
                    if self.view.has_expired(value) {
                        return Ok(());
                    }
                    self.writer
                        .strings(BlockKind::Values, self.index, [key, value])?;
                    self.count(1, key.len() + value.len());
                    Ok::<(), io::Error>(())
                })?;
                let Some(cold) = &self.sealed.cold else {
                    return Ok(());
                };
                cold.since(self.index, base, |key, value| {
                    if self.view.has_expired(value) {
                        return Ok(());
                    }
                    self.writer
                        .strings(BlockKind::Values, self.index, [key, value])?;
                    self.count(1, key.len() + value.len());
                    Ok(())
                })?;
            }
            Store::Maps(maps) | Store::Timers(Timers { maps, .. }) => {
                for (slot, field, value) in maps.since(base, heap) {
                    if self.view.has_expired(value) {
                        continue;
                    }
                    let key = key_of(slot);
                    self.note_key(slot, key);
                    let strings = [key, field, value];
                    self.writer
                        .strings(BlockKind::MapEntries, self.index, strings)?;
                    self.count(1, key.len() + field.len() + value.len());
                }
            }
            Store::Lists(lists) => {
                for (slot, starts, elements) in lists.since(base, heap) {
                    self.list(key_of(slot), starts, elements)?;
                }
            }
        }
        Ok(())
    }

    fn list<'e>(
        &mut self,
        key: &[u8],
        mut starts: bool,
        elements: impl Iterator<Item = &'e [u8]>,
    ) -> io::Result<()> {
        let view = self.view;
        let alive = move |element: &&[u8]| !view.has_expired(element);
        let mut elements = elements.filter(alive).peekable();
        if elements.peek().is_none() {
            return Ok(());
        }
        let mut run = Vec::new();
        self.bytes += key.len() as u64;
        while elements.peek().is_some() {
            run.clear();
            let mut len = 0;
            while let Some(element) =
                elements.next_if(|element| run.is_empty() || len + element.len() < RUN_BYTES)
            {
                len += string_len(element);
                run.push(element);
            }
            let count = run.len() as u64;
            let len = string_len(key) + 1 + varint::len(count) + len;
            self.writer
                .entry(BlockKind::ListElements, self.index, len)?;
            self.writer.string(key)?;
            self.writer.raw(&[u8::from(starts)])?;
            self.writer.varint(count)?;
            for element in &run {
                self.writer.string(element)?;
                self.count(1, element.len());
            }
            starts = false;
        }
        Ok(())
    }

    /// Notes a key of which map entries are written. It counts once in what is held.
    fn note_key(&mut self, slot: u32, key: &[u8]) {
        if !self.view.hides() {
            return;
        }
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        if word >= self.noted.len() {
            self.noted.resize(word + 1, 0);
        }
        if self.noted[word] & bit != 0 {
            self.again += key.len() as u64;
        }
        self.noted[word] |= bit;
    }

    fn count(&mut self, entries: u64, bytes: usize) {
        self.entries += entries;
        self.bytes += bytes as u64 - entries * self.prefix as u64;
    }
}
