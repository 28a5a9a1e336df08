//! Keyed state: what an operator remembers per key, for the key groups of one subtask.
//!
//! One table of keys gives each key a slot, a dense number, with a row for the key and for what the
//! first value state holds for it; each other state of the operator has its own store, indexed by
//! slot. Everything is stored in chunks of about 16 KiB, which are sealed all at once by a snapshot and
//! copied on write after it. Every entry knows the interval between snapshots in which it was
//! written last, so that a snapshot can write only what is newer than its base; what was
//! removed is kept in a log until a newer base is complete.
//!
//! Changes are made in place at once. What was there before is logged until [`KeyedState::commit`],
//! or put back by [`KeyedState::rollback`].
//!
//! In reading order: `chunks` (copy on write), `heap` and `bytes` (short and long strings), `rows`,
//! `index` and `keys`, `resolve`; `values`, `maps` with `fields`, `lists`; `table` (one state,
//! whichever its kind), `removals`, `access`; `snapshot`, `codec` (the segment format) with `varint`,
//! `restore`, `walk`; `cold` (what does not fit a budget of memory), `ttl` (entries that expire).

mod access;
mod bytes;
mod change;
mod chunks;
mod codec;
mod cold;
mod fields;
#[cfg(test)]
mod flooding;
mod header;
mod heap;
mod index;
mod keys;
mod lists;
mod maps;
mod migrate;
mod removals;
mod resolve;
mod restore;
mod rows;
mod scan;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod ttl;
mod timers;
mod values;
mod varint;
mod walk;

use std::io;
use std::sync::Arc;

use crate::cells::Cells;
use crate::element::CheckpointId;
use crate::key::{KeyGroupRange, KeyGroups};

pub use cold::{ColdFile, ColdStats, ColdStorage};
pub use header::{Origin, OriginState, check_segment};
pub use migrate::Upgrade;
pub use snapshot::SealedState;
pub use timers::{Fired, TimeDomain, timer_of_field, timer_states};
pub use ttl::{Refresh, Times, Ttl, TtlTime};
pub use walk::Walked;

use change::Tally;
use cold::Cold;
use heap::Heap;
use keys::Keys;
use removals::Removals;
use rows::Rows;
use table::{Before, Table};
use timers::InBatch;
use ttl::Sweep;

/// A state that an operator declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDescriptor {
    /// Unique within the operator; addresses the state in checkpoints.
    pub name: String,
    /// Its shape.
    pub kind: StateKind,
    /// Names the encoding of its values (opaque to the host, compared at restore).
    pub schema: String,
    /// Version of that encoding.
    pub schema_version: u32,
    /// How long its entries live; `None`: until they are removed.
    pub ttl: Option<Ttl>,
}

/// The shape of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateKind {
    /// One value per key.
    Value,
    /// Entries (field, value) per key, ordered by field.
    Map,
    /// Elements per key, in the order in which they were appended.
    List,
    /// Timers per key; see [`timer_states`].
    Timers,
}

impl StateKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Value, Self::Map, Self::List, Self::Timers];

    /// What it is called in checkpoints and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Map => "map",
            Self::List => "list",
            Self::Timers => "timers",
        }
    }
}

/// The keys of a batch, each distinct key once.
///
/// Record `i` has the key `keys[numbers[i]]`. Empty if keys were not resolved, because the operator has
/// no keyed state: then the keys, if there are any, are those of the batch, one per record.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// The distinct keys, in the order of their first record.
    pub keys: Cells,
    /// The number of each record's key.
    pub numbers: Vec<u32>,
}

/// Why a state access was refused. Nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// No state has this number.
    #[error("there is no state {state}, the operator has {count}")]
    NoState {
        /// The number asked for.
        state: u32,
        /// How many states there are.
        count: u32,
    },
    /// The state is of another kind.
    #[error("state `{name}` is a {actual:?} state")]
    WrongKind {
        /// The state's name.
        name: String,
        /// What it is.
        actual: StateKind,
    },
    /// The batch has fewer distinct keys.
    #[error("there is no key {number}, the batch has {count}")]
    NoKey {
        /// The number asked for.
        number: u32,
        /// How many keys the batch has.
        count: u32,
    },
    /// The key belongs to another subtask.
    #[error("the key belongs to key group {group}, this subtask has {start}..{end}", start = range.start, end = range.end)]
    NotOwned {
        /// The key's group.
        group: u32,
        /// The groups that are here.
        range: KeyGroupRange,
    },
    /// Columns of different lengths.
    #[error("{numbers} keys, but {others} {column}")]
    Uneven {
        /// Number of keys.
        numbers: usize,
        /// Length of the other column.
        others: usize,
        /// Name of the other column.
        column: &'static str,
    },
    /// The operator has not said that it uses timers.
    #[error("the operator does not declare that it uses timers (`uses-timers` of its description)")]
    NoTimers,
    /// One value, or what one access returns, is too large.
    #[error("one access is limited to {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The state would grow past its limit.
    #[error("state is limited to {limit} bytes")]
    Limit {
        /// The limit in bytes.
        limit: u64,
    },
    /// Cold state could not be written, or read back.
    #[error("cold state: {reason}")]
    Cold {
        /// What happened, and where.
        reason: String,
    },
}

/// The most bytes of keys and values that pass in one access; the next would overflow a column.
const ACCESS_MAX: usize = 1 << 30;

/// How many chunks of each list a commit takes back from a snapshot that has been written.
const TAKE_BACK: usize = 64;

/// Slots that may be empty are looked through by `commit`, and not by the next `resolve`, from here.
const IDLE_MAX: usize = 4096;

/// Removals are kept for deltas up to this many bytes, or the size of the state if that is more.
/// Beyond, a full snapshot is the smaller one.
const REMOVALS_BYTES: u64 = 1 << 20;

/// An operator's state for a range of key groups. All access is from one thread.
///
/// The default is one without any state, which owns the one key group there is.
#[derive(Debug)]
pub struct KeyedState {
    descriptors: Arc<[StateDescriptor]>,
    range: KeyGroupRange,
    key_groups: KeyGroups,
    limit: Option<u64>,
    access_max: usize,
    keys: Keys,
    rows: Rows,
    heap: Heap,
    /// One per descriptor.
    tables: Vec<Table>,
    /// The tables of the timers, by domain, which are the last; `None` if there are none.
    timers: Option<[u32; 2]>,
    /// Scratch memory: the slots in a batch of timers.
    in_batch: InBatch,
    /// Scratch memory: the timers that come next.
    due_next: Vec<timers::Due>,
    /// For how many chunks of slots the tables have places.
    chunks: usize,
    /// The slots of the resolved keys.
    slots: Vec<u32>,
    distinct: resolve::Distinct,
    /// Scratch memory: the places of a batch's keys in the index, where they are not their hashes.
    places: Vec<u64>,
    /// Slots that may hold nothing: those made for keys that were looked for, and those emptied.
    idle: Vec<u32>,
    stats: Stats,
    /// `stats` at the last commit.
    committed: Stats,
    /// Whether there are changes that are neither committed nor rolled back.
    open: bool,
    /// Number of the interval between snapshots, from 1. What was restored has 0.
    version: u32,
    /// The snapshots that may serve as base, the oldest first.
    seals: Vec<Seal>,
    /// What was removed in earlier intervals, since the oldest of `seals`, by state.
    removed: Vec<(u32, Arc<[Removals]>)>,
    /// Whether chunks may be in sealed lists.
    sealed: bool,
    /// What does not fit a budget of memory, if there is one.
    cold: Option<Box<Cold>>,
    /// The clocks by which entries expire.
    times: Times,
    sweep: Sweep,
}

/// A snapshot that was taken.
#[derive(Clone, Copy, Debug)]
struct Seal {
    id: CheckpointId,
    /// The interval that it ended.
    version: u32,
    /// Sum of the tables' `written` then.
    written: u64,
}

impl Default for KeyedState {
    fn default() -> Self {
        let one = KeyGroups::new(1).expect("one is a number of key groups");
        Self::new(Vec::new(), KeyGroupRange { start: 0, end: 1 }, one)
    }
}

impl KeyedState {
    /// Empty state with the given states, in the order by which calls number them. Those of timers, if the
    /// operator has them, come last; see [`timer_states`].
    #[must_use]
    pub fn new(states: Vec<StateDescriptor>, range: KeyGroupRange, key_groups: KeyGroups) -> Self {
        let first = states
            .iter()
            .position(|state| state.kind == StateKind::Value);
        let table =
            |(index, state): (usize, &StateDescriptor)| Table::new(state, Some(index) == first);
        let declared = states
            .iter()
            .filter(|state| state.kind != StateKind::Timers);
        let declared = declared.count() as u32;
        let has_timers = states.len() as u32 == declared + 2;
        let tables: Vec<Table> = states.iter().enumerate().map(table).collect();
        Self {
            sweep: Sweep::new(&tables),
            times: Times::default(),
            tables,
            timers: has_timers.then_some([declared, declared + 1]),
            in_batch: InBatch::default(),
            due_next: Vec::new(),
            descriptors: states.into(),
            chunks: 0,
            range,
            key_groups,
            limit: None,
            access_max: ACCESS_MAX,
            keys: Keys::default(),
            rows: Rows::default(),
            heap: Heap::default(),
            slots: Vec::new(),
            distinct: resolve::Distinct::default(),
            places: Vec::new(),
            idle: Vec::new(),
            stats: Stats::default(),
            committed: Stats::default(),
            open: false,
            version: 1,
            seals: Vec::new(),
            removed: Vec::new(),
            sealed: false,
            cold: None,
        }
    }

    /// Limits the bytes of keys and values held.
    pub fn set_limit(&mut self, bytes: Option<u64>) {
        self.limit = bytes;
    }

    /// Limits the bytes that one access returns, in addition to the most that a column holds: what asks for
    /// more could not keep it.
    pub fn set_access_limit(&mut self, bytes: u64) {
        self.access_max = usize::try_from(bytes).unwrap_or(ACCESS_MAX).min(ACCESS_MAX);
    }

    /// The declared states.
    #[must_use]
    pub fn states(&self) -> &[StateDescriptor] {
        &self.descriptors
    }

    /// Keys that have a value in some state, and bytes of keys and values.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Makes the changes since the last commit or rollback final.
    pub fn commit(&mut self) {
        if self.sweep.is_needed() {
            self.sweep();
        }
        self.commit_changes();
        if let Some(cold) = &mut self.cold {
            cold.end_call(&mut self.keys);
        }
        if self.idle.len() > self.slots.len() + IDLE_MAX {
            self.release_idle();
        }
        if self.sealed {
            self.take_back(TAKE_BACK);
        }
    }

    #[inline]
    fn commit_changes(&mut self) {
        if self.open {
            self.open = false;
            self.committed = self.stats;
            self.tables
                .iter_mut()
                .for_each(|table| table.commit(&mut self.heap));
        }
    }

    /// Takes the changes since the last commit or rollback back.
    pub fn rollback(&mut self) {
        if self.open {
            self.open = false;
            self.stats = self.committed;
            for table in &mut self.tables {
                table.rollback(&mut self.rows, &mut self.heap);
            }
        }
    }

    /// Takes back chunks of snapshots that have been written.
    fn take_back(&mut self, budget: usize) {
        let done = self.rows.take_back(budget);
        let done = self.heap.take_back(budget) && done;
        self.sealed = !self
            .tables
            .iter_mut()
            .fold(done, |done, table| table.take_back(budget) && done);
    }

    /// Frees the slots of keys for which no state holds anything, but those of the resolved keys.
    /// Only while nothing is open: a rollback may fill a slot again.
    fn release_idle(&mut self) {
        if self.open || self.idle.is_empty() {
            return;
        }
        let mut resolved = self.slots.clone();
        resolved.sort_unstable();
        let mut idle = std::mem::take(&mut self.idle);
        idle.retain(|slot| {
            let mut tables = self.tables.iter();
            if tables.any(|table| table.holds(*slot, &self.rows)) {
                return false;
            }
            if resolved.binary_search(slot).is_ok() {
                return true;
            }
            self.keys.release(*slot, &mut self.rows, &mut self.heap);
            false
        });
        self.idle = idle;
    }

    /// Seals the state as it is, in constant time, while updates go on after it. With a `base` (a
    /// completed checkpoint of this instance) only what changed since then is written; all of it, if
    /// that is not known any more. Only between calls (everything committed).
    pub fn snapshot(&mut self, id: CheckpointId, base: Option<CheckpointId>) -> SealedState {
        assert!(!self.open, "a snapshot is taken between calls");
        let base = base.and_then(|base| self.seals.iter().find(|seal| seal.id == base).copied());
        let ended = self.version;
        self.version += 1;
        let written = self.tables.iter().map(|table| table.counters.written).sum();
        self.seals.push(Seal {
            id,
            version: ended,
            written,
        });
        let removed: Vec<Removals> = self.tables.iter_mut().map(Table::take_removals).collect();
        if removed.iter().any(|removals| !removals.is_empty()) {
            self.removed.push((ended, removed.into()));
        }
        self.sealed = true;
        SealedState::new(self, id, base)
    }

    /// Seals all of the state as it is, in constant time, for savepoint `id`. No delta is ever based on
    /// it, and the next snapshot holds what it would hold without this one: the interval goes on, and
    /// what was removed in it stays on record. Only between calls (everything committed).
    pub fn savepoint(&mut self, id: CheckpointId) -> SealedState {
        assert!(!self.open, "a savepoint is taken between calls");
        self.sealed = true;
        SealedState::new(self, id, None)
    }

    /// Checkpoint `id` is complete: it may serve as base, older ones will not.
    pub fn checkpoint_complete(&mut self, id: CheckpointId) {
        if let Some(seal) = self.seals.iter().find(|seal| seal.id == id).copied() {
            self.seals.retain(|other| other.version >= seal.version);
            self.removed.retain(|(version, _)| *version > seal.version);
        }
    }

    /// What there is of a state before an access.
    fn before(&self, state: u32) -> Before {
        self.tables[state as usize].before(self.stats)
    }

    /// Accounts for what an access changed since `before`, or takes it back if it passes the limit.
    fn finish(&mut self, state: u32, before: Before, tally: Tally) -> Result<(), StateError> {
        let Self {
            tables,
            keys,
            rows,
            stats,
            idle,
            ..
        } = self;
        let others_hold = |slot| {
            tables
                .iter()
                .enumerate()
                .any(|(index, table)| index != state as usize && table.holds(slot, rows))
        };
        stats.bytes = stats.bytes.wrapping_add_signed(tally.bytes);
        let mut key_bytes = 0;
        for slot in tally.appeared.iter().copied() {
            let len = rows.get(slot).key.len();
            key_bytes += len as i64;
            if !others_hold(slot) {
                stats.keys += 1;
                stats.bytes += len as u64;
            }
        }
        for slot in tally.vanished.iter().copied() {
            let len = rows.get(slot).key.len();
            key_bytes -= len as i64;
            if !others_hold(slot) {
                stats.keys -= 1;
                stats.bytes -= len as u64;
                idle.push(slot);
            }
        }
        tables[state as usize].add(&tally, key_bytes, self.version, keys.len_max());

        if let Some(limit) = self.limit
            && self.stats.bytes > limit
            && self.stats.bytes > before.stats.bytes
        {
            self.stats = before.stats;
            self.tables[state as usize].rollback_to(before, &mut self.rows, &mut self.heap);
            return Err(StateError::Limit { limit });
        }
        if tally.removed {
            self.bound_removals();
        }
        Ok(())
    }

    /// Forgets all bases when what was removed since takes more memory than it is worth.
    fn bound_removals(&mut self) {
        let current: u64 = self.tables.iter().map(|table| table.removals.bytes()).sum();
        let earlier = self
            .removed
            .iter()
            .flat_map(|(_, removals)| removals.iter());
        if current + earlier.map(Removals::bytes).sum::<u64>()
            > self.stats.bytes.max(REMOVALS_BYTES)
        {
            self.forget_bases();
        }
    }

    /// Makes the next snapshot a full one.
    fn forget_bases(&mut self) {
        self.seals.clear();
        self.removed.clear();
        self.tables
            .iter_mut()
            .for_each(|table| drop(table.take_removals()));
    }
}

/// What a [`KeyedState`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Distinct keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// What a written segment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentStats {
    /// Bytes written.
    pub bytes: u64,
    /// Per state, in declaration order: entries (or elements) and bytes of their keys and values.
    pub states: Vec<(u64, u64)>,
    /// The same of all that the state held, of which a delta has only what changed. Each key counts
    /// once for each state.
    pub held: Vec<(u64, u64)>,
}

/// What a restored segment held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreStats {
    /// Entries kept.
    pub entries: u64,
    /// States in the segment that are not declared, with the entries dropped.
    pub dropped: Vec<(String, u64)>,
}

/// Why a segment could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It could not be read.
    #[error("reading the segment failed")]
    Io(#[from] io::Error),
    /// Its bytes are not what was written.
    #[error("{what} at byte {offset}")]
    Corrupt {
        /// What is wrong.
        what: String,
        /// Where in the segment.
        offset: u64,
    },
    /// A state has another kind now.
    #[error("state `{name}` was a {was:?} state and is now a {now:?} state")]
    KindChanged {
        /// The state's name.
        name: String,
        /// Kind in the segment.
        was: StateKind,
        /// Kind declared.
        now: StateKind,
    },
    /// What does not fit in memory could not be written, or read back.
    #[error(transparent)]
    Cold(StateError),
    /// Values that were written under an older version of their schema could not be rewritten.
    #[error("state `{name}`: its values of version {from} could not be migrated")]
    Migrate {
        /// The state's name.
        name: String,
        /// The version.
        from: u32,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
