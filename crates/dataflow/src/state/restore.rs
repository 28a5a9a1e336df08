//! Reading segments back.

use std::io;

use super::codec::{self, Block, BlockKind, BlockReader, Cursor, Entry};
use super::table::{Store, Tally};
use super::{KeyedState, RestoreError, RestoreStats, StateKind};
use crate::key::{self, KeyGroupRange};

/// For how many keys room is made at once because a segment says that it has so many; for more only
/// when as many have come. Tests have fewer keys.
const RESERVE_MAX: usize = if cfg!(test) { 64 } else { 1 << 22 };

/// How many entries are looked up at a time.
const AT_ONCE: usize = 256;

/// A state in a segment's header.
struct Stored {
    name: String,
    /// None that is known.
    kind: Option<StateKind>,
    /// About how many entries follow.
    entries: u64,
    /// Its number here, if it is declared.
    declared: Option<usize>,
    /// Entries that were dropped because it is not.
    dropped: u64,
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

/// What a segment says about itself and is needed here.
struct Header {
    key_groups: u32,
    range: KeyGroupRange,
    hash: String,
    states: Vec<Stored>,
}

/// `None` if the bytes end too early.
fn parse_header(cursor: &mut Cursor<'_>) -> Option<Header> {
    let _delta = cursor.byte()?;
    let (_checkpoint, _base) = (cursor.u64()?, cursor.u64()?);
    let key_groups = cursor.u32()?;
    let (start, end) = (cursor.u32()?, cursor.u32()?);
    // Names are compared only, so that what is not UTF-8 is just a name that nobody declares.
    let text = |string: &[u8]| String::from_utf8_lossy(string).into_owned();
    let hash = text(cursor.string()?);
    let count = cursor.varint()?;
    let mut states = Vec::new();
    for _ in 0..count {
        let name = text(cursor.string()?);
        let kind = codec::kind_from_byte(cursor.byte()?);
        let entries = cursor.varint()?;
        states.push(Stored {
            name,
            kind,
            entries,
            declared: None,
            dropped: 0,
        });
    }
    Some(Header {
        key_groups,
        range: KeyGroupRange { start, end },
        hash,
        states,
    })
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
        self.commit();
        self.forget_bases();
        let mut reader = BlockReader::new(segment)?;
        let (mut stored, mut expected) = self.read_header(&mut reader)?;
        let mut stats = RestoreStats::default();
        while let Some(block) = reader.next()? {
            self.make_room(&mut expected);
            self.restore_block(&mut reader, block, &mut stored, &mut stats)?;
        }
        self.committed = self.stats;
        let dropped = stored
            .into_iter()
            .filter(|state| state.declared.is_none() && state.dropped > 0);
        stats.dropped = dropped.map(|state| (state.name, state.dropped)).collect();
        Ok(stats)
    }

    /// Makes room for the keys that are expected, as far as what has come gives reason to.
    fn make_room(&mut self, expected: &mut Expected) {
        let come = self.keys.len().saturating_sub(expected.before);
        if expected.room < expected.keys && come >= expected.room - expected.room / 64 {
            expected.room = expected.keys.min((4 * come).max(RESERVE_MAX));
            let additional = expected.room.saturating_sub(come);
            self.keys.reserve(additional, &self.rows, &self.heap);
        }
    }

    fn read_header(
        &self,
        reader: &mut BlockReader<'_>,
    ) -> Result<(Vec<Stored>, Expected), RestoreError> {
        match reader.next()? {
            Some(Block {
                kind: BlockKind::Header,
                ..
            }) => {}
            _ => return Err(reader.corrupt("the segment has no header")),
        }
        reader.complete(|mut cursor| parse_header(&mut cursor).is_some())?;
        let Some(header) = parse_header(&mut reader.rest()) else {
            return Err(reader.corrupt("the header is cut short"));
        };
        if header.hash != key::KEY_HASH_NAME || header.key_groups != self.key_groups.count() {
            return Err(reader.corrupt("the segment has another key hash or number of key groups"));
        }
        let mut stored = header.states;
        for state in &mut stored {
            state.declared = self
                .descriptors
                .iter()
                .position(|descriptor| descriptor.name == state.name);
            if let Some(index) = state.declared {
                let now = self.descriptors[index].kind;
                let Some(was) = state.kind else {
                    return Err(
                        reader.corrupt(&format!("state `{}` is of no known kind", state.name))
                    );
                };
                if now != was {
                    return Err(RestoreError::KindChanged {
                        name: state.name.clone(),
                        was,
                        now,
                    });
                }
            }
        }
        let keys = stored
            .iter()
            .filter(|state| state.kind == Some(StateKind::Value))
            .map(|state| state.entries)
            .max();
        // Of those, as many as key groups are ours, as it has every reason to be.
        let Header {
            range: KeyGroupRange { start, end },
            ..
        } = header;
        let ours = end
            .min(self.range.end)
            .saturating_sub(start.max(self.range.start));
        let share = f64::from(ours) / f64::from(end.saturating_sub(start).max(1));
        let expected = Expected {
            before: self.keys.len(),
            keys: (keys.unwrap_or(0) as f64 * share) as usize,
            room: 0,
        };
        Ok((stored, expected))
    }

    fn restore_block(
        &mut self,
        reader: &mut BlockReader<'_>,
        block: Block,
        stored: &mut [Stored],
        stats: &mut RestoreStats,
    ) -> Result<(), RestoreError> {
        let Some(state) = stored.get_mut(block.state as usize) else {
            return Err(reader.corrupt("a block of a state that the header does not have"));
        };
        let fits = match block.kind {
            BlockKind::Values => state.kind == Some(StateKind::Value),
            BlockKind::MapEntries | BlockKind::RemovedFields => state.kind == Some(StateKind::Map),
            BlockKind::ListElements => state.kind == Some(StateKind::List),
            _ => true,
        };
        if !fits {
            return Err(reader.corrupt("a block of another kind than its state"));
        }
        let removal = matches!(
            block.kind,
            BlockKind::RemovedKeys | BlockKind::RemovedFields
        );
        let mut entries = reader.entries(block)?;
        let (mut some, mut hashes) = (Vec::with_capacity(AT_ONCE), Vec::with_capacity(AT_ONCE));
        loop {
            entries.read(AT_ONCE, &mut some)?;
            if some.is_empty() {
                break;
            }
            some.retain(|entry| {
                let hash = key::hash(entry.key);
                let owned = self.range.contains(self.key_groups.group_of(hash));
                if owned {
                    hashes.push(hash);
                }
                owned
            });
            // Nothing is done with the guesses: they fetch memory for many keys at a time.
            std::hint::black_box(
                hashes
                    .iter()
                    .fold(0, |all, hash| all ^ self.keys.guess(*hash)),
            );
            let mut tally = Tally::default();
            for (entry, hash) in some.iter().zip(hashes.drain(..)) {
                let count = if block.kind == BlockKind::ListElements {
                    entry.count
                } else {
                    u64::from(!removal)
                };
                match state.declared {
                    Some(table) => {
                        stats.entries += count;
                        self.restore_entry(table, block.kind, hash, *entry, &mut tally);
                    }
                    None => state.dropped += count,
                }
            }
            // A few entries at a time, so that what it takes to undo them stays small.
            if let Some(table) = state.declared {
                self.finish_restored(table, tally);
            }
        }
        if self.idle.len() > super::IDLE_MAX {
            self.release_idle();
        }
        Ok(())
    }

    fn finish_restored(&mut self, table: usize, tally: Tally) {
        let before = self.savepoint(table as u32);
        let limit = self.limit.take();
        self.finish(table as u32, before, tally)
            .expect("there is no limit");
        self.limit = limit;
        // What was restored is older than any snapshot of this instance.
        self.tables[table].counters.changed = 0;
        self.tables[table].commit(&mut self.heap);
    }

    #[inline]
    fn restore_entry(
        &mut self,
        table: usize,
        kind: BlockKind,
        hash: u64,
        entry: Entry<'_>,
        tally: &mut Tally,
    ) {
        let slot = match self.keys.find(hash, entry.key, &self.rows, &self.heap) {
            Some(slot) => slot,
            None if matches!(kind, BlockKind::RemovedKeys | BlockKind::RemovedFields) => return,
            None if kind == BlockKind::Values => self.insert_key_to_fill(hash, entry.key),
            None => self.insert_key(hash, entry.key),
        };
        let Self {
            tables, rows, heap, ..
        } = self;
        let table = &mut tables[table];
        if kind == BlockKind::RemovedKeys || entry.starts {
            let (entries, change) = table.clear(slot, 0, rows, heap);
            tally.entries -= entries as i64;
            tally.add(slot, change);
        }
        match (&mut table.store, kind) {
            (Store::Values(values), BlockKind::Values) => {
                let change = values.set(slot, Some(entry.value), 0, rows, heap);
                tally.entries += i64::from(change.appeared);
                tally.add(slot, change);
            }
            (Store::Maps(maps), BlockKind::MapEntries) => {
                let (change, new) = maps.set(slot, entry.field, entry.value, 0, heap);
                tally.entries += i64::from(new);
                tally.add(slot, change);
            }
            (Store::Maps(maps), BlockKind::RemovedFields) => {
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
