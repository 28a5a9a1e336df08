//! One state of an operator: its store, what was removed from it, and how much it holds.

use super::change::{Change, Tally};
use super::heap::Heap;
use super::lists::Lists;
use super::maps::Maps;
use super::removals::{Mark, Removals};
use super::rows::Rows;
use super::timers::Timers;
use super::values::Values;
use super::{StateDescriptor, StateKind, Stats, Ttl};

/// One declared state.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) store: Store,
    /// With one, each stored value begins with its expiry.
    pub(super) ttl: Option<Ttl>,
    /// What was removed in this interval, if there is a snapshot that may become a base.
    pub(super) removals: Removals,
    pub(super) counters: Counters,
    /// Counters and extent of the removals at the last commit.
    committed: (Counters, Mark),
}

/// The entries of a state, by kind.
#[derive(Debug)]
pub(super) enum Store {
    Values(Values),
    Maps(Maps),
    Lists(Lists),
    Timers(Timers),
}

/// How much a state holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// Values, map entries or list elements.
    pub(super) entries: u64,
    /// Their bytes (and those of fields), without keys.
    pub(super) bytes: u64,
    /// Bytes of the keys that have some.
    pub(super) key_bytes: u64,
    /// The interval in which something was changed last.
    pub(super) changed: u32,
    /// At most how many bytes a delta of all writes since the start would have.
    pub(super) written: u64,
}

/// What there was before one access: what it takes to undo it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    undo: usize,
    removals: Mark,
    counters: Counters,
    pub(super) stats: Stats,
}

/// Does the same with the store of whichever kind; with the maps of timers as with any.
macro_rules! each_kind {
    ($store:expr, $inner:ident => $body:expr) => {
        match $store {
            Store::Values($inner) => $body,
            Store::Maps($inner) | Store::Timers(Timers { maps: $inner, .. }) => $body,
            Store::Lists($inner) => $body,
        }
    };
}

impl Table {
    /// An empty state; `in_rows`: its values are stored in the rows.
    pub(super) fn new(state: &StateDescriptor, in_rows: bool) -> Self {
        let store = match state.kind {
            StateKind::Value => Store::Values(Values::new(in_rows)),
            StateKind::Map => Store::Maps(Maps::default()),
            StateKind::List => Store::Lists(Lists::default()),
            StateKind::Timers => Store::Timers(Timers::default()),
        };
        Self {
            store,
            ttl: state.ttl,
            removals: Removals::default(),
            counters: Counters::default(),
            committed: Default::default(),
        }
    }

    /// The timers that it holds. It must be a table of timers.
    pub(super) fn timers(&mut self) -> &mut Timers {
        self.timers_and_removals().0
    }

    /// The same with what was removed from it.
    pub(super) fn timers_and_removals(&mut self) -> (&mut Timers, &mut Removals) {
        match &mut self.store {
            Store::Timers(timers) => (timers, &mut self.removals),
            _ => unreachable!("it is a table of timers"),
        }
    }

    /// Makes places for another chunk of slots.
    pub(super) fn grow(&mut self) {
        each_kind!(&mut self.store, store => store.grow());
    }

    /// Whether the state holds nothing for the key in `slot`.
    pub(super) fn is_absent(&self, slot: u32, rows: &Rows) -> bool {
        match &self.store {
            Store::Values(values) => values.is_absent(slot, rows),
            Store::Maps(maps) | Store::Timers(Timers { maps, .. }) => maps.is_absent(slot),
            Store::Lists(lists) => lists.is_absent(slot),
        }
    }

    /// Whether the state holds something for the key in `slot`. Between accesses only: memory is not looked at for a
    /// state that holds nothing at all.
    pub(super) fn holds(&self, slot: u32, rows: &Rows) -> bool {
        self.counters.entries > 0 && !self.is_absent(slot, rows)
    }

    /// Removes what the state holds for the key in `slot`: at least `at_least` entries and not many more, or
    /// all there are. Returns how many.
    pub(super) fn clear(
        &mut self,
        slot: u32,
        at_least: usize,
        version: u32,
        rows: &mut Rows,
        heap: &mut Heap,
    ) -> (u64, Change) {
        if self.is_absent(slot, rows) {
            return (0, Change::default());
        }
        match &mut self.store {
            Store::Values(values) => (1, values.set(slot, None, version, rows, heap)),
            Store::Maps(maps) | Store::Timers(Timers { maps, .. }) => {
                maps.clear(slot, at_least, version)
            }
            Store::Lists(lists) => lists.clear(slot, at_least, version, heap),
        }
    }

    /// Accounts for an access, by which the keys that have something grew by `key_bytes`.
    pub(super) fn add(&mut self, tally: &Tally, key_bytes: i64, version: u32, key_len_max: usize) {
        let counters = &mut self.counters;
        counters.entries = counters.entries.wrapping_add_signed(tally.entries);
        counters.bytes = counters.bytes.wrapping_add_signed(tally.bytes);
        counters.key_bytes = counters.key_bytes.wrapping_add_signed(key_bytes);
        counters.changed = version;
        counters.written +=
            tally.written.1 + tally.written.0 * super::codec::entry_overhead(key_len_max);
    }

    pub(super) fn before(&self, stats: Stats) -> Before {
        let undo = each_kind!(&self.store, store => store.mark());
        Before {
            undo,
            removals: self.removals.mark(),
            counters: self.counters,
            stats,
        }
    }

    pub(super) fn rollback_to(&mut self, before: Before, rows: &mut Rows, heap: &mut Heap) {
        self.store.rollback(before.undo, rows, heap);
        self.removals.truncate(before.removals);
        self.counters = before.counters;
    }

    pub(super) fn commit(&mut self, heap: &mut Heap) {
        match &mut self.store {
            Store::Values(values) => values.commit(heap),
            Store::Maps(maps) => maps.commit(heap),
            Store::Lists(lists) => lists.commit(heap),
            Store::Timers(timers) => timers.commit(self.counters.entries, heap),
        }
        self.committed = (self.counters, self.removals.mark());
    }

    pub(super) fn rollback(&mut self, rows: &mut Rows, heap: &mut Heap) {
        self.store.rollback(0, rows, heap);
        if let Store::Timers(timers) = &mut self.store {
            timers.put_back();
        }
        let mark;
        (self.counters, mark) = self.committed;
        self.removals.truncate(mark);
    }

    /// What was removed in this interval, which ends, or does not matter any more.
    pub(super) fn take_removals(&mut self) -> Removals {
        self.committed.1 = Mark::default();
        std::mem::take(&mut self.removals)
    }

    pub(super) fn take_back(&mut self, budget: usize) -> bool {
        each_kind!(&mut self.store, store => store.take_back(budget))
    }
}

impl Store {
    /// Takes back what was changed since `mark`.
    fn rollback(&mut self, mark: usize, rows: &mut Rows, heap: &mut Heap) {
        match self {
            Self::Values(values) => values.rollback(mark, rows, heap),
            Self::Maps(maps) | Self::Timers(Timers { maps, .. }) => maps.rollback(mark, heap),
            Self::Lists(lists) => lists.rollback(mark, heap),
        }
    }

    /// The store as it is now, to be read with `since` only.
    pub(super) fn seal(&mut self) -> Self {
        match self {
            Self::Values(values) => Self::Values(values.seal()),
            Self::Maps(maps) => Self::Maps(maps.seal()),
            Self::Lists(lists) => Self::Lists(lists.seal()),
            Self::Timers(timers) => Self::Timers(timers.seal()),
        }
    }

    pub(super) fn kind(&self) -> StateKind {
        match self {
            Self::Values(_) => StateKind::Value,
            Self::Maps(_) => StateKind::Map,
            Self::Lists(_) => StateKind::List,
            Self::Timers(_) => StateKind::Timers,
        }
    }
}
