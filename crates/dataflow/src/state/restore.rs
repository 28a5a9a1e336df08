//! Reading segments back.
//!
//! Most of what there is to read is a full segment, and in it the first value state, by which keys come
//! into being. They are given slots as they come, without a look at the index; they are added to it
//! many at a time, one of its tables after the other, so that each is in the cache meanwhile.

use std::io;

use super::change::Tally;
use super::codec::{Block, BlockKind, BlockReader, Entry};
use super::header::{FIELD_TWICE, Header, KEY_TWICE, NO_TIMER, Origin, is_timers};
use super::index::{Index, SHARDS};
use super::migrate::Older;
use super::table::Store;
use super::timers::{Timers, is_timer};
use super::ttl::{Conversion, Converted, TOO_SHORT};
use super::{KeyedState, RestoreError, RestoreStats, StateKind, Times, Upgrade};
use crate::key::{self, KeyGroupRange};

/// For how many keys room is made at once because a segment says that it has that many; for more only
/// when some have come, for this many times as many. Tests have fewer keys.
const RESERVE_MAX: usize = if cfg!(test) { 64 } else { 1 << 20 };
const RESERVE_TIMES: usize = 16;

/// How many keys may wait to be added to the index, beyond those of a block. They take 16 MiB: a little
/// less than a power of two for each table, so that its list needs no more.
const UNINDEXED_MAX: usize = if cfg!(test) { 100 } else { 15 << 16 };

/// How many entries are looked up at a time.
const AT_ONCE: usize = 256;

/// A state in a segment's header.
struct Stored {
    name: String,
    /// Its number here, if it is declared.
    declared: Option<usize>,
    /// Entries that were dropped because it is not.
    dropped: u64,
    /// What becomes of its values, if they have an expiry or get one.
    conversion: Option<Conversion>,
    /// The version under which its values were written, if they are rewritten.
    older: Option<u32>,
}

/// The keys that a segment says it has.
struct Expected {
    /// Keys before the first one of the segment.
    before: usize,
    /// How many of the segment's are ours, by what it says.
    keys: usize,
    /// For how many of them room has been made.
    room: usize,
}

/// Keys that have slots and are not in the index yet.
struct Unindexed {
    /// Hash and slot, for each table of the index.
    shards: Vec<Vec<(u64, u32)>>,
    len: usize,
    /// The state whose values bring them; `None` before the first, or if none may any more.
    state: Option<u32>,
    /// Whether a block may bring some, for nothing came before.
    may_begin: bool,
}

impl Unindexed {
    /// None. Only in a full segment keys are all new.
    fn new(full: bool) -> Self {
        Self {
            shards: vec![Vec::new(); SHARDS],
            len: 0,
            state: None,
            may_begin: full,
        }
    }

    /// Whether the keys of `block`, of a declared state, are new, each of them.
    fn takes(&mut self, block: Block) -> bool {
        let values = block.kind == BlockKind::Values;
        if std::mem::take(&mut self.may_begin) && values {
            self.state = Some(block.state);
        }
        self.state = self.state.filter(|state| values && *state == block.state);
        self.state.is_some()
    }

    #[inline]
    fn push(&mut self, hash: u64, slot: u32) {
        self.shards[Index::shard_of(hash)].push((hash, slot));
        self.len += 1;
    }
}

impl KeyedState {
    /// Reads a segment that [`super::SealedState::write`] wrote, keeping what belongs to this
    /// subtask's key groups. The segments of a chain are read in order, the full one first. States
    /// are matched by name; entries of states that are not declared any more are counted and
    /// dropped. Only before the first access; what is restored counts as committed.
    ///
    /// # Errors
    /// The segment cannot be read, is not what was written, or a state has another kind. Part of it
    /// may have been restored then: this state must not be used.
    pub fn restore(&mut self, segment: &mut dyn io::Read) -> Result<RestoreStats, RestoreError> {
        self.restore_from(segment, None, None)
    }

    /// As [`KeyedState::restore`], for a segment of which it is known where it comes from.
    ///
    /// # Errors
    /// As [`KeyedState::restore`]; also if the segment says something else of itself.
    pub fn restore_as(
        &mut self,
        segment: &mut dyn io::Read,
        origin: &Origin,
    ) -> Result<RestoreStats, RestoreError> {
        self.restore_from(segment, Some(origin), None)
    }

    /// As [`KeyedState::restore_as`], with states that are dropped, or whose values are rewritten.
    ///
    /// # Errors
    /// As [`KeyedState::restore_as`]; also if values cannot be rewritten.
    pub fn restore_upgraded(
        &mut self,
        segment: &mut dyn io::Read,
        origin: &Origin,
        upgrade: &mut dyn Upgrade,
    ) -> Result<RestoreStats, RestoreError> {
        self.restore_from(segment, Some(origin), Some(upgrade))
    }

    fn restore_from(
        &mut self,
        segment: &mut dyn io::Read,
        origin: Option<&Origin>,
        mut upgrade: Option<&mut dyn Upgrade>,
    ) -> Result<RestoreStats, RestoreError> {
        self.commit();
        self.forget_bases();
        let mut reader = BlockReader::new(segment)?;
        let header = Header::read(&mut reader)?;
        if let Some(origin) = origin {
            origin
                .check(&header)
                .map_err(|what| reader.corrupt(&what))?;
        }
        let mut blocks = header.blocks();
        let taken = origin.map_or_else(Times::default, |origin| origin.taken);
        // The clock may have gone back since, or be that of another machine.
        self.set_now(taken.processing);
        let mut stored = self.declared(&reader, &header, taken, upgrade.as_deref())?;
        let mut expected = self.expected(&header, origin);
        // Keys that are not in the index cannot become cold, and values that are rewritten come the other way.
        let as_they_are = stored.iter().all(|state| state.older.is_none());
        let mut unindexed = Unindexed::new(header.full && self.cold.is_none() && as_they_are);
        let mut stats = RestoreStats::default();
        while let Some(block) = reader.next()? {
            blocks.admit(block).map_err(|what| reader.corrupt(what))?;
            let state = &stored[block.state as usize];
            if let Some(table) = state.declared.filter(|_| unindexed.takes(block)) {
                let conversion = state.conversion;
                let place = (table, conversion);
                stats.entries +=
                    self.restore_new(&mut reader, block, place, header.range, &mut unindexed)?;
                if unindexed.len >= UNINDEXED_MAX {
                    self.index_all(&mut reader, &mut unindexed, &mut expected)?;
                }
            } else {
                self.index_all(&mut reader, &mut unindexed, &mut expected)?;
                self.make_room(&mut expected, 0);
                let stored = &mut stored[block.state as usize];
                let upgrade = upgrade.as_deref_mut();
                self.restore_block(&mut reader, block, &header, stored, upgrade, &mut stats)?;
            }
        }
        self.index_all(&mut reader, &mut unindexed, &mut expected)?;
        self.sort_maps(&reader)?;
        self.committed = self.stats;
        let dropped = stored
            .into_iter()
            .filter(|state| state.declared.is_none() && state.dropped > 0);
        stats.dropped = dropped.map(|state| (state.name, state.dropped)).collect();
        Ok(stats)
    }

    /// Makes room for the keys that are expected, as far as what has come gives reason to.
    /// How many of those that have come are not in the index yet.
    fn make_room(&mut self, expected: &mut Expected, unindexed: usize) {
        let come = self.keys.all().saturating_sub(expected.before);
        if expected.room < expected.keys && come >= expected.room - expected.room / 64 {
            expected.room = expected.keys.min((RESERVE_TIMES * come).max(RESERVE_MAX));
            let indexed = come.saturating_sub(unindexed);
            let additional = expected.room.saturating_sub(indexed);
            self.keys.reserve(additional, &self.rows, &self.heap);
        }
    }

    /// Adds the keys to the index that are not in it yet.
    fn index_all(
        &mut self,
        reader: &mut BlockReader<'_>,
        unindexed: &mut Unindexed,
        expected: &mut Expected,
    ) -> Result<(), RestoreError> {
        if unindexed.len == 0 {
            return Ok(());
        }
        self.make_room(expected, unindexed.len);
        let Self {
            keys, rows, heap, ..
        } = self;
        let mut once = true;
        for (shard, new) in unindexed.shards.iter_mut().enumerate() {
            once &= keys.index_all(shard, new, rows, heap);
            new.clear();
        }
        unindexed.len = 0;
        match once {
            true => Ok(()),
            false => Err(reader.corrupt(KEY_TWICE)),
        }
    }

    /// Sorts the fields of maps that have come unsorted.
    fn sort_maps(&mut self, reader: &BlockReader<'_>) -> Result<(), RestoreError> {
        let Self { tables, heap, .. } = self;
        let once = tables.iter_mut().all(|table| match &mut table.store {
            Store::Maps(maps) | Store::Timers(Timers { maps, .. }) => maps.sort(heap),
            _ => true,
        });
        match once {
            true => Ok(()),
            false => Err(reader.corrupt(FIELD_TWICE)),
        }
    }

    /// The states of a segment, and which of them are declared.
    fn declared(
        &self,
        reader: &BlockReader<'_>,
        header: &Header,
        taken: Times,
        upgrade: Option<&dyn Upgrade>,
    ) -> Result<Vec<Stored>, RestoreError> {
        if header.key_groups != self.key_groups {
            return Err(reader.corrupt("the segment has another number of key groups"));
        }
        let stored = header.states.iter().map(|state| {
            let is_dropped = upgrade.is_some_and(|upgrade| upgrade.drops(&state.name));
            let declared = self
                .descriptors
                .iter()
                .position(|descriptor| descriptor.name == state.name && !is_dropped);
            let now = declared.map(|index| self.descriptors[index].kind);
            match now {
                Some(now) if now != state.kind => Err(RestoreError::KindChanged {
                    name: state.name.clone(),
                    was: state.kind,
                    now,
                }),
                _ => Ok(Stored {
                    name: state.name.clone(),
                    declared,
                    dropped: 0,
                    conversion: declared
                        .and_then(|table| self.conversion(table, state.expires_by, taken)),
                    older: upgrade
                        .filter(|_| declared.is_some())
                        .and_then(|upgrade| upgrade.older(&state.name)),
                }),
            }
        });
        stored.collect()
    }

    /// For how many keys room is to be made, by what the segment says.
    fn expected(&self, header: &Header, origin: Option<&Origin>) -> Expected {
        let values = header
            .states
            .iter()
            .filter(|state| state.kind == StateKind::Value);
        let keys = values.map(|state| state.entries).max().unwrap_or(0);
        // No more than it has bytes for: a length and one byte, and the same of the value.
        let fit = origin.map_or(u64::MAX, |origin| origin.bytes / 2);
        // Of those, as many as key groups are ours, as it has every reason to be.
        let KeyGroupRange { start, end } = header.range;
        let ours = end
            .min(self.range.end)
            .saturating_sub(start.max(self.range.start));
        let share = f64::from(ours) / f64::from(end.saturating_sub(start).max(1));
        Expected {
            before: self.keys.all(),
            keys: (keys.min(fit) as f64 * share) as usize,
            room: 0,
        }
    }

    /// Reads values of keys that are all new. Returns how many there are that belong here.
    fn restore_new(
        &mut self,
        reader: &mut BlockReader<'_>,
        block: Block,
        (table, conversion): (usize, Option<Conversion>),
        written: KeyGroupRange,
        unindexed: &mut Unindexed,
    ) -> Result<u64, RestoreError> {
        let mut entries = reader.entries(block)?;
        let mut some = Vec::with_capacity(AT_ONCE);
        let (mut restored, mut scratch) = (0, Vec::new());
        loop {
            entries.read(AT_ONCE, &mut some)?;
            if some.is_empty() {
                return Ok(restored);
            }
            let mut tally = Tally::default();
            for entry in &some {
                let hash = key::hash(entry.key);
                let group = self.key_groups.group_of(hash);
                if !written.contains(group) {
                    return Err(entries.misplaced(group, written));
                }
                if !self.range.contains(group) {
                    continue;
                }
                let entry = match convert(conversion, block.kind, *entry, &mut scratch) {
                    Some(Converted::Entry(entry)) => entry,
                    Some(Converted::Expired) => continue,
                    None => return Err(entries.corrupt(TOO_SHORT)),
                };
                let slot = self
                    .keys
                    .insert_unindexed(entry.key, &mut self.rows, &mut self.heap);
                self.grow_tables();
                unindexed.push(hash, slot);
                self.restore_in_slot(table, block.kind, slot, entry, &mut tally);
                restored += 1;
            }
            self.finish_restored(table, tally);
        }
    }

    fn restore_block(
        &mut self,
        reader: &mut BlockReader<'_>,
        block: Block,
        header: &Header,
        state: &mut Stored,
        mut upgrade: Option<&mut (dyn Upgrade + '_)>,
        stats: &mut RestoreStats,
    ) -> Result<(), RestoreError> {
        let written = header.range;
        let removal = matches!(
            block.kind,
            BlockKind::RemovedKeys | BlockKind::RemovedFields
        );
        let mut entries = reader.entries(block)?;
        let (mut some, mut hashes) = (Vec::with_capacity(AT_ONCE), Vec::with_capacity(AT_ONCE));
        let mut scratch = Vec::new();
        loop {
            entries.read(AT_ONCE, &mut some)?;
            if some.is_empty() {
                break;
            }
            // What belongs to other subtasks of this job is left out. What the subtask that wrote the segment
            // cannot have owned is refused: no checksum sees a mistake of the writer, or another hash of keys.
            let mut misplaced = None;
            some.retain(|entry| {
                let hash = key::hash(entry.key);
                let group = self.key_groups.group_of(hash);
                if !written.contains(group) {
                    misplaced = Some(group);
                }
                let owned = self.range.contains(group);
                if owned {
                    hashes.push(hash);
                }
                owned
            });
            if let Some(group) = misplaced {
                return Err(entries.misplaced(group, written));
            }
            // Nothing is done with the guesses: they fetch memory for many keys at a time.
            std::hint::black_box(
                hashes
                    .iter()
                    .fold(0, |all, hash| all ^ self.keys.guess(*hash)),
            );
            // An earlier block may have brought such a key, and made it cold at its end.
            self.recall_entries(&some, &hashes)?;
            if is_timers(header, block)
                && !some.iter().all(|entry| is_timer(entry.field, entry.value))
            {
                return Err(entries.corrupt(NO_TIMER));
            }
            let migrated = match (state.declared, state.older, upgrade.as_deref_mut()) {
                (Some(table), Some(from), Some(upgrade)) if !removal => {
                    let older = Older {
                        name: &state.name,
                        table: table as u32,
                        from,
                        is_dated: self.tables[table].ttl.is_some(),
                    };
                    let converted = older.values(block.kind, &some, state.conversion);
                    let converted = converted.ok_or_else(|| entries.corrupt(TOO_SHORT))?;
                    Some(older.migrate(converted, upgrade)?)
                }
                _ => None,
            };
            let mut tally = Tally::default();
            let mut once = true;
            for (position, (entry, hash)) in some.iter().zip(hashes.drain(..)).enumerate() {
                let count = |entry: &Entry<'_>| match block.kind {
                    BlockKind::ListElements => entry.count,
                    _ => u64::from(!removal),
                };
                let Some(table) = state.declared else {
                    state.dropped += count(entry);
                    continue;
                };
                let full = header.full;
                let converted = match &migrated {
                    None => convert(state.conversion, block.kind, *entry, &mut scratch),
                    Some(migrated) => {
                        Some(migrated.entry(position, block.kind, *entry, &mut scratch))
                    }
                };
                let (kind, entry) = match converted {
                    Some(Converted::Entry(entry)) => {
                        stats.entries += count(&entry);
                        (block.kind, entry)
                    }
                    Some(Converted::Expired) if full => continue,
                    Some(Converted::Expired) => (removal_of(block.kind), *entry),
                    None => return Err(entries.corrupt(TOO_SHORT)),
                };
                once &= self.restore_entry(table, kind, full, hash, entry, &mut tally);
            }
            if !once {
                return Err(entries.corrupt(FIELD_TWICE));
            }
            // A few entries at a time, so that what it takes to undo them stays small.
            if let Some(table) = state.declared {
                self.finish_restored(table, tally);
            }
        }
        if self.idle.len() > super::IDLE_MAX {
            self.release_idle();
        }
        self.evict().map_err(RestoreError::Cold)
    }

    fn finish_restored(&mut self, table: usize, tally: Tally) {
        // Without the limit, which is for what calls add: the job file may have a lower one by now than the one
        // under which the state grew, and that must not keep it from being restored.
        let before = self.before(table as u32);
        let limit = self.limit.take();
        self.finish(table as u32, before, tally)
            .expect("there is no limit");
        self.limit = limit;
        // What was restored is older than any snapshot of this instance.
        self.tables[table].counters.changed = 0;
        self.tables[table].commit(&mut self.heap);
    }

    /// Returns whether the entry fits a full segment, which has each once.
    #[inline]
    fn restore_entry(
        &mut self,
        table: usize,
        kind: BlockKind,
        full: bool,
        hash: u64,
        entry: Entry<'_>,
        tally: &mut Tally,
    ) -> bool {
        let slot = match self.keys.find(hash, entry.key, &self.rows, &self.heap) {
            Some(slot) => slot,
            // It may have come and gone since the base.
            None if matches!(kind, BlockKind::RemovedKeys | BlockKind::RemovedFields) => {
                return true;
            }
            None if kind == BlockKind::Values => self.insert_key_to_fill(hash, entry.key),
            None => self.insert_key(hash, entry.key),
        };
        if full
            && kind == BlockKind::MapEntries
            && let Store::Maps(maps) | Store::Timers(Timers { maps, .. }) =
                &mut self.tables[table].store
        {
            let change = maps.restore(slot, entry.field, entry.value, &mut self.heap);
            tally.entries += 1;
            change.map(|change| tally.add(slot, change)).is_some()
        } else {
            self.restore_in_slot(table, kind, slot, entry, tally);
            true
        }
    }

    #[inline]
    fn restore_in_slot(
        &mut self,
        table: usize,
        kind: BlockKind,
        slot: u32,
        entry: Entry<'_>,
        tally: &mut Tally,
    ) {
        let Self {
            tables, rows, heap, ..
        } = self;
        let table = &mut tables[table];
        if kind == BlockKind::RemovedKeys || entry.starts {
            let (entries, change) = table.clear(slot, usize::MAX, 0, rows, heap);
            tally.entries -= entries as i64;
            tally.add(slot, change);
        }
        match (&mut table.store, kind) {
            (Store::Values(values), BlockKind::Values) => {
                let change = values.set(slot, Some(entry.value), 0, rows, heap);
                tally.entries += i64::from(change.appeared);
                tally.add(slot, change);
            }
            (Store::Maps(maps) | Store::Timers(Timers { maps, .. }), BlockKind::MapEntries) => {
                let (change, new) = maps.set(slot, entry.field, entry.value, 0, heap);
                tally.entries += i64::from(new);
                tally.add(slot, change);
            }
            (Store::Maps(maps) | Store::Timers(Timers { maps, .. }), BlockKind::RemovedFields) => {
                if let Some(change) = maps.remove(slot, entry.field, 0, heap) {
                    tally.entries -= 1;
                    tally.add(slot, change);
                }
            }
            (Store::Lists(lists), BlockKind::ListElements) => {
                let mut elements = entry.elements;
                for _ in 0..entry.count {
                    let Some(element) = elements.string() else {
                        break;
                    };
                    let Some(change) = lists.append(slot, element, 0, heap) else {
                        break;
                    };
                    tally.entries += 1;
                    tally.add(slot, change);
                }
            }
            // Nothing else is left: the block fits the state's kind.
            _ => {}
        }
    }
}

/// What becomes of an entry; `None` if it is malformed.
#[inline]
fn convert<'e>(
    conversion: Option<Conversion>,
    kind: BlockKind,
    entry: Entry<'e>,
    scratch: &'e mut Vec<u8>,
) -> Option<Converted<'e>> {
    match conversion {
        None => Some(Converted::Entry(entry)),
        Some(conversion) => conversion.entry(kind, entry, scratch),
    }
}

/// What removes an entry of this kind.
fn removal_of(kind: BlockKind) -> BlockKind {
    match kind {
        BlockKind::MapEntries => BlockKind::RemovedFields,
        _ => BlockKind::RemovedKeys,
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::BlockWriter;
    use super::*;
    use crate::cells::Cells;
    use crate::element::CheckpointId;
    use crate::key::KeyGroups;
    use crate::state::{Resolved, StateDescriptor};

    const KEYS: u32 = 1000;

    fn groups() -> KeyGroups {
        KeyGroups::new(8).unwrap()
    }

    fn state(names: &[(&str, StateKind)], range: KeyGroupRange) -> KeyedState {
        let descriptor = |(name, kind): &(&str, StateKind)| StateDescriptor {
            name: (*name).into(),
            kind: *kind,
            schema: "bytes".into(),
            schema_version: 1,
            ttl: None,
        };
        KeyedState::new(names.iter().map(descriptor).collect(), range, groups())
    }

    const STATES: [(&str, StateKind); 3] = [
        ("first", StateKind::Value),
        ("second", StateKind::Value),
        ("third", StateKind::Map),
    ];

    /// Keys of which some have a value of the first state, some one of the second, some map entries.
    fn filled() -> KeyedState {
        let mut state = state(&STATES, groups().range_of(0, 1));
        for number in 0..KEYS {
            let key = format!("key {number}").into_bytes();
            if number % 5 > 0 {
                state.put(0, &key, &number.to_le_bytes()).unwrap();
            }
            if number % 3 > 0 {
                state.put(1, &key, &[b'x'; 40]).unwrap();
            }
            if number % 4 == 0 {
                let mut keys = Cells::new();
                keys.push(&key);
                let mut resolved = Resolved::default();
                let hashes = [key::hash(&key)];
                state
                    .resolve(keys.as_ref(), &hashes, &mut resolved)
                    .unwrap();
                state
                    .map_store(2, &[0], keys.as_ref(), keys.as_ref())
                    .unwrap();
            }
            state.commit();
        }
        state
    }

    fn segment(state: &mut KeyedState) -> Vec<u8> {
        let mut segment = Vec::new();
        let sealed = state.snapshot(CheckpointId(1), None);
        sealed.write(&mut segment).unwrap();
        segment
    }

    fn assert_same(restored: &mut KeyedState, expected: &mut KeyedState) {
        assert!(restored.walk().eq(expected.walk()));
        assert_eq!(restored.stats(), expected.stats());
        // The walk goes by slots, an access by the index.
        let keys: Vec<Vec<u8>> = expected.walk().map(|entry| entry.key.to_vec()).collect();
        for key in keys {
            assert_eq!(restored.get(0, &key), expected.get(0, &key));
        }
        assert_eq!(restored.keys.len() as u64, expected.stats().keys);
    }

    #[test]
    fn keys_are_found_however_many_had_to_wait_for_the_index() {
        const { assert!(KEYS as usize > 5 * UNINDEXED_MAX) };
        let mut whole = filled();
        let whole_segment = segment(&mut whole);
        let mut restored = state(&STATES, groups().range_of(0, 1));
        restored.restore(&mut whole_segment.as_slice()).unwrap();
        assert_same(&mut restored, &mut whole);
        // Divided among two, and put together again.
        let halves = [0, 1].map(|index| {
            let mut half = state(&STATES, groups().range_of(index, 2));
            half.restore(&mut whole_segment.as_slice()).unwrap();
            segment(&mut half)
        });
        let mut merged = state(&STATES, groups().range_of(0, 1));
        for half in &halves {
            merged.restore(&mut half.as_slice()).unwrap();
        }
        assert_same(&mut merged, &mut whole);
    }

    #[test]
    fn the_first_state_that_is_still_declared_brings_the_keys() {
        let mut whole = filled();
        let segment = segment(&mut whole);
        let mut restored = state(&STATES[1..], groups().range_of(0, 1));
        let stats = restored.restore(&mut segment.as_slice()).unwrap();
        assert_eq!(stats.dropped, [("first".to_owned(), 800)]);
        let values = |state: &KeyedState, number: u32| {
            let entries = state.walk().filter(|entry| entry.state == number);
            let entries = entries.map(|entry| (entry.key.to_vec(), entry.value.to_vec()));
            entries.collect::<Vec<_>>()
        };
        assert_eq!(values(&restored, 0), values(&whole, 1));
        assert_eq!(values(&restored, 1), values(&whole, 2));
    }

    /// Drops the first state and appends a byte to the values of the others; loses a value if it is to.
    struct Appending {
        loses: bool,
    }

    impl Upgrade for Appending {
        fn drops(&self, state: &str) -> bool {
            state == "first"
        }

        fn older(&self, state: &str) -> Option<u32> {
            (state != "first").then_some(1)
        }

        fn migrate(
            &mut self,
            state: u32,
            from: u32,
            values: &Cells,
        ) -> Result<Cells, Box<dyn std::error::Error + Send + Sync>> {
            assert!(state > 0 && from == 1, "{state} from {from}");
            let lost = usize::from(self.loses);
            let mut new = Cells::new();
            for value in values.iter().skip(lost) {
                new.push(&[value, b"!"].concat());
            }
            Ok(new)
        }
    }

    #[test]
    fn c50_values_are_rewritten_and_states_dropped_while_they_are_restored() {
        let mut whole = filled();
        let segment = segment(&mut whole);
        let mut restored = state(&STATES, groups().range_of(0, 1));
        let mut appending = Appending { loses: false };
        let stats = restored
            .restore_from(&mut segment.as_slice(), None, Some(&mut appending))
            .unwrap();
        assert_eq!(stats.dropped, [("first".to_owned(), 800)]);
        let entries = |state: &KeyedState, more: &[u8]| {
            let entries = state.walk().filter(|entry| entry.state > 0);
            let entries = entries.map(|entry| {
                let field = entry.field.map(<[u8]>::to_vec);
                let value = [entry.value, more].concat();
                (entry.key.to_vec(), entry.state, field, value)
            });
            entries.collect::<Vec<_>>()
        };
        assert_eq!(entries(&restored, b""), entries(&whole, b"!"));
        assert_eq!(restored.walk().filter(|entry| entry.state == 0).count(), 0);
        // Who loses a value is refused.
        let mut restored = state(&STATES, groups().range_of(0, 1));
        let mut losing = Appending { loses: true };
        let refused = restored.restore_from(&mut segment.as_slice(), None, Some(&mut losing));
        assert!(
            matches!(&refused, Err(RestoreError::Migrate { name, from: 1, .. }) if name == "second"),
            "{refused:?}"
        );
    }

    #[test]
    fn c50_what_is_rewritten_expires_as_it_would_have() {
        let mut whole = filled();
        let segment = segment(&mut whole);
        let mut descriptors = whole.states().to_vec();
        descriptors[1].ttl = Some(crate::state::Ttl {
            millis: 1000,
            refresh: crate::state::Refresh::Write,
            time: crate::state::TtlTime::Processing,
        });
        let mut restored = KeyedState::new(descriptors, groups().range_of(0, 1), groups());
        restored.set_now(5000);
        let mut appending = Appending { loses: false };
        restored
            .restore_from(&mut segment.as_slice(), None, Some(&mut appending))
            .unwrap();
        let (key, value) = {
            let mut seconds = whole.walk().filter(|entry| entry.state == 1);
            let entry = seconds.next().unwrap();
            (entry.key.to_vec(), [entry.value, b"!"].concat())
        };
        assert_eq!(restored.get(1, &key), Ok(Some(&value[..])));
        restored.set_now(6000);
        assert_eq!(restored.get(1, &key), Ok(None));
    }

    #[test]
    fn a_key_that_comes_twice_is_found() {
        let header = {
            let empty = segment(&mut state(&STATES[..1], groups().range_of(0, 1)));
            let mut bytes = empty.as_slice();
            let mut reader = BlockReader::new(&mut bytes).unwrap();
            reader.next().unwrap();
            reader.rest().0.to_vec()
        };
        let written = |keys: &[&[u8]]| {
            let mut segment = Vec::new();
            let mut writer = BlockWriter::new(&mut segment).unwrap();
            writer.block(BlockKind::Header, &header).unwrap();
            for key in keys {
                let entry = [*key, b"value"];
                writer.strings(BlockKind::Values, 0, entry).unwrap();
            }
            writer.finish().unwrap();
            segment
        };
        let restore = |segments: &[Vec<u8>]| {
            let mut restored = state(&STATES[..1], groups().range_of(0, 1));
            let mut segments = segments.iter();
            segments.try_for_each(|segment| restored.restore(&mut segment.as_slice()).map(drop))
        };
        let once = written(&[b"a", b"b"]);
        restore(std::slice::from_ref(&once)).unwrap();
        for segments in [
            vec![written(&[b"a", b"b", b"a"])],
            vec![once, written(&[b"b"])],
        ] {
            match restore(&segments) {
                Err(RestoreError::Corrupt { what, .. }) => {
                    assert!(what.contains("a key comes twice"), "{what}");
                }
                other => panic!("expected damage, got {other:?}"),
            }
        }
    }
}
