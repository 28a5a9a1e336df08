//! The state against a naive model of it: maps that are copied whole.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::cold::memory::{MemoryStorage, Watch};
use super::*;
use crate::cells::CellsRef;
use crate::key;

const VALUES: u32 = 0;
const OTHERS: u32 = 1;
const MAPS: u32 = 2;
const LISTS: u32 = 3;

type Bytes = Vec<u8>;

fn descriptor(name: &str, kind: StateKind) -> StateDescriptor {
    StateDescriptor {
        name: name.into(),
        kind,
        schema: "bytes".into(),
        schema_version: 1,
        ttl: None,
    }
}

fn descriptors() -> Vec<StateDescriptor> {
    use StateKind::{List, Map, Value};
    [
        ("values", Value),
        ("others", Value),
        ("maps", Map),
        ("lists", List),
    ]
    .map(|(name, kind)| descriptor(name, kind))
    .into()
}

fn groups() -> KeyGroups {
    KeyGroups::new(8).unwrap()
}

fn whole_range() -> KeyGroupRange {
    groups().range_of(0, 1)
}

fn new_state() -> KeyedState {
    KeyedState::new(descriptors(), whole_range(), groups())
}

fn resolve(state: &mut KeyedState, keys: &[Bytes]) -> Resolved {
    let keys: Cells = keys.iter().map(Vec::as_slice).collect();
    let hashes: Vec<u64> = keys.iter().map(key::hash).collect();
    let mut resolved = Resolved::default();
    state
        .resolve(keys.as_ref(), &hashes, &mut resolved)
        .unwrap();
    resolved
}

fn cells(cells: &[Bytes]) -> Cells {
    cells.iter().map(Vec::as_slice).collect()
}

/// What a state should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    values: [BTreeMap<Bytes, Bytes>; 2],
    maps: BTreeMap<Bytes, BTreeMap<Bytes, Bytes>>,
    lists: BTreeMap<Bytes, Vec<Bytes>>,
}

impl Model {
    fn clear(&mut self, state: u32, key: &Bytes) {
        match state {
            MAPS => drop(self.maps.remove(key)),
            LISTS => drop(self.lists.remove(key)),
            _ => drop(self.values[state as usize].remove(key)),
        }
    }

    fn stats(&self) -> Stats {
        let mut keys: Vec<&Bytes> = self.values.iter().flat_map(BTreeMap::keys).collect();
        keys.extend(self.maps.keys().chain(self.lists.keys()));
        keys.sort();
        keys.dedup();
        let values: usize = self
            .values
            .iter()
            .flat_map(BTreeMap::values)
            .map(Vec::len)
            .sum();
        let maps: usize = self
            .maps
            .values()
            .flatten()
            .map(|(field, value)| field.len() + value.len())
            .sum();
        let lists: usize = self.lists.values().flatten().map(Vec::len).sum();
        let bytes = keys.iter().map(|key| key.len()).sum::<usize>() + values + maps + lists;
        Stats {
            keys: keys.len() as u64,
            bytes: bytes as u64,
        }
    }

    /// Entries of each state, and the bytes of its keys and entries.
    fn held(&self) -> Vec<(u64, u64)> {
        let bytes = |all: &[&[&Bytes]]| {
            let bytes = all
                .iter()
                .copied()
                .flatten()
                .map(|bytes| bytes.len() as u64);
            bytes.sum()
        };
        let mut held = Vec::new();
        for values in &self.values {
            let keys: Vec<&Bytes> = values.keys().chain(values.values()).collect();
            held.push((values.len() as u64, bytes(&[&keys])));
        }
        let entries: Vec<(&Bytes, &Bytes)> = self.maps.values().flatten().collect();
        let (fields, values): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        let keys: Vec<&Bytes> = self.maps.keys().collect();
        held.push((fields.len() as u64, bytes(&[&keys, &fields, &values])));
        let elements: Vec<&Bytes> = self.lists.values().flatten().collect();
        let keys: Vec<&Bytes> = self.lists.keys().collect();
        held.push((elements.len() as u64, bytes(&[&keys, &elements])));
        held
    }

    /// What `state` holds for `keys`.
    fn read(state: &mut KeyedState, keys: &[Bytes]) -> Self {
        let mut model = Self::default();
        let resolved = resolve(state, keys);
        for (number, key) in (0..).zip(resolved.keys.iter()) {
            for index in [VALUES, OTHERS] {
                let (mut values, mut absent) = (Cells::new(), Vec::new());
                state
                    .load(index, Some(&[number]), &mut values, &mut absent)
                    .unwrap();
                assert_eq!(
                    state.get(index, key).unwrap(),
                    absent.is_empty().then(|| values.get(0))
                );
                if absent.is_empty() {
                    model.values[index as usize].insert(key.into(), values.get(0).into());
                }
            }
            let (mut fields, mut values) = (Cells::new(), Cells::new());
            // In two parts, each in pages: what comes before a field, and the rest.
            let middle = b"b".to_vec();
            for (first, end) in [
                (Bytes::default(), Some(&middle[..])),
                (middle.clone(), None),
            ] {
                let (mut from, mut exclusive) = (first, false);
                while state
                    .map_scan(
                        MAPS,
                        number,
                        &from,
                        exclusive,
                        end,
                        2,
                        &mut fields,
                        &mut values,
                    )
                    .unwrap()
                {
                    from = fields.iter().last().unwrap().to_vec();
                    exclusive = true;
                    assert!(end.is_none_or(|end| &from[..] < end));
                }
            }
            assert!(fields.iter().is_sorted());
            if !fields.is_empty() {
                let map = fields
                    .iter()
                    .zip(values.iter())
                    .map(|(field, value)| (field.into(), value.into()))
                    .collect();
                model.maps.insert(key.into(), map);
            }
            let mut elements = Cells::new();
            state.list_load(LISTS, number, &mut elements).unwrap();
            if !elements.is_empty() {
                model
                    .lists
                    .insert(key.into(), elements.iter().map(<[u8]>::to_vec).collect());
            }
        }
        model
    }
}

#[derive(Clone, Debug)]
enum Op {
    Store(u32, Vec<(Bytes, Bytes)>),
    Clear(u32, Vec<Bytes>),
    Put(u32, Bytes, Bytes),
    Delete(u32, Bytes),
    MapStore(Vec<(Bytes, Bytes, Bytes)>),
    MapRemove(Vec<(Bytes, Bytes)>),
    Append(Vec<(Bytes, Bytes)>),
    Look(Vec<Bytes>),
    Get(u32, Bytes),
    /// Walks all keys, with a look at one between two pages.
    Scan(u32, u32, Bytes),
    Commit,
    Rollback,
    Snapshot,
    Savepoint,
    /// Writes the oldest savepoint that is not written.
    WriteSavepoint,
    /// Writes the oldest snapshot that is not written; says whether its checkpoint completes.
    Write(bool),
}

/// Every way in which a string can lie: in place, in blocks, as a blob.
fn string() -> impl Strategy<Value = Bytes> {
    let len = prop_oneof![8 => 0..20_usize, 3 => 20..200_usize, 1 => 3000..9000_usize];
    (len, any::<u8>()).prop_map(|(len, fill)| {
        (0..len)
            .map(|at| fill.wrapping_add((at / 7) as u8))
            .collect()
    })
}

fn all_keys() -> Vec<Bytes> {
    let lens = [0, 1, 2, 7, 8, 9, 15, 16, 17, 18, 30, 64, 65, 300, 5000];
    let keys = lens
        .iter()
        .flat_map(|len| [3, 200].map(|fill| vec![fill; *len]));
    let mut keys: Vec<Bytes> = keys
        .chain((0..10_u8).flat_map(|index| [vec![index], vec![b'k', index]]))
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

fn a_key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(all_keys())
}

fn a_field() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        (0..6_usize).prop_map(|len| vec![b'f'; len * 5]),
        any::<[u8; 1]>().prop_map(Vec::from),
    ]
}

/// Operations as they come where there are value states only.
fn a_value_op() -> impl Strategy<Value = Op> {
    use prop::collection::vec;
    prop_oneof![
        8 => (0..2_u32, vec((a_key(), string()), 0..12)).prop_map(|(state, entries)| Op::Store(state, entries)),
        2 => (0..2_u32, vec(a_key(), 0..6)).prop_map(|(state, keys)| Op::Clear(state, keys)),
        2 => (0..2_u32, a_key(), string()).prop_map(|(state, key, value)| Op::Put(state, key, value)),
        2 => (0..2_u32, a_key()).prop_map(|(state, key)| Op::Delete(state, key)),
        3 => vec(a_key(), 0..10).prop_map(Op::Look),
        3 => (0..2_u32, a_key()).prop_map(|(state, key)| Op::Get(state, key)),
        1 => (0..2_u32, 1..20_u32, a_key()).prop_map(|(state, limit, key)| Op::Scan(state, limit, key)),
        8 => Just(Op::Commit),
        2 => Just(Op::Rollback),
        3 => Just(Op::Snapshot),
        3 => any::<bool>().prop_map(Op::Write),
        2 => Just(Op::Savepoint),
        2 => Just(Op::WriteSavepoint),
    ]
}

fn an_op() -> impl Strategy<Value = Op> {
    use prop::collection::vec;
    prop_oneof![
        6 => (0..2_u32, vec((a_key(), string()), 0..12)).prop_map(|(state, entries)| Op::Store(state, entries)),
        3 => (0..4_u32, vec(a_key(), 0..6)).prop_map(|(state, keys)| Op::Clear(state, keys)),
        2 => (0..2_u32, a_key(), string()).prop_map(|(state, key, value)| Op::Put(state, key, value)),
        2 => (0..4_u32, a_key()).prop_map(|(state, key)| Op::Delete(state, key)),
        4 => vec((a_key(), a_field(), string()), 0..12).prop_map(Op::MapStore),
        3 => vec((a_key(), a_field()), 0..8).prop_map(Op::MapRemove),
        5 => vec((a_key(), string()), 0..12).prop_map(Op::Append),
        1 => vec(a_key(), 0..40).prop_map(Op::Look),
        1 => (0..2_u32, a_key()).prop_map(|(state, key)| Op::Get(state, key)),
        1 => (0..2_u32, 1..20_u32, a_key()).prop_map(|(state, limit, key)| Op::Scan(state, limit, key)),
        6 => Just(Op::Commit),
        3 => Just(Op::Rollback),
        3 => Just(Op::Snapshot),
        3 => any::<bool>().prop_map(Op::Write),
        2 => Just(Op::Savepoint),
        2 => Just(Op::WriteSavepoint),
    ]
}

/// A state, its model, and the snapshots taken of it.
struct Run {
    state: KeyedState,
    model: Model,
    committed: Model,
    /// Snapshots that are not written: what they should hold, and the chain in front of them.
    sealed: VecDeque<(CheckpointId, SealedState, Model)>,
    /// Savepoints that are not written, and what they should hold.
    savepoints: VecDeque<(SealedState, Model)>,
    /// Chains of segments that were written, by checkpoint.
    chains: BTreeMap<CheckpointId, Vec<Bytes>>,
    completed: Option<CheckpointId>,
    next: u64,
    /// The budget of memory, and the storage for what does not fit it.
    budget: Option<u64>,
    watch: Arc<Watch>,
}

impl Run {
    fn new() -> Self {
        Self::with_budget(None)
    }

    fn with_budget(budget: Option<u64>) -> Self {
        let watch = Arc::<Watch>::default();
        Self {
            state: within(budget, &watch, whole_range()),
            budget,
            watch,
            model: Model::default(),
            committed: Model::default(),
            sealed: VecDeque::new(),
            savepoints: VecDeque::new(),
            chains: BTreeMap::new(),
            completed: None,
            next: 1,
        }
    }

    fn columns<const N: usize>(
        &mut self,
        keys: Vec<Bytes>,
        others: [Vec<Bytes>; N],
    ) -> (Vec<u32>, [Cells; N]) {
        let resolved = resolve(&mut self.state, &keys);
        (resolved.numbers, others.map(|column| cells(&column)))
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Store(state, entries) => {
                let (keys, values): (Vec<_>, Vec<_>) = entries.iter().cloned().unzip();
                let (numbers, [values]) = self.columns(keys, [values]);
                self.state.store(state, &numbers, values.as_ref()).unwrap();
                self.model.values[state as usize].extend(entries);
            }
            Op::Clear(state, keys) => {
                let (numbers, []) = self.columns(keys.clone(), []);
                let mut left = numbers.as_slice();
                while !left.is_empty() {
                    let done = self.state.clear_some(state, left, 3).unwrap();
                    left = &left[done..];
                }
                keys.iter().for_each(|key| self.model.clear(state, key));
            }
            Op::Put(state, key, value) => {
                self.state.put(state, &key, &value).unwrap();
                self.model.values[state as usize].insert(key, value);
            }
            Op::Delete(state, key) => {
                while !self.state.delete_some(state, &key, 3).unwrap() {}
                self.model.clear(state, &key);
            }
            Op::MapStore(entries) => {
                let column = |of: fn(&(Bytes, Bytes, Bytes)) -> &Bytes| {
                    entries.iter().map(|entry| of(entry).clone()).collect()
                };
                let (numbers, [fields, values]) = self.columns(
                    column(|entry| &entry.0),
                    [column(|entry| &entry.1), column(|entry| &entry.2)],
                );
                self.state
                    .map_store(MAPS, &numbers, fields.as_ref(), values.as_ref())
                    .unwrap();
                for (key, field, value) in entries {
                    self.model.maps.entry(key).or_default().insert(field, value);
                }
                let (mut loaded, mut absent) = (Cells::new(), Vec::new());
                self.state
                    .map_load(MAPS, &numbers, fields.as_ref(), &mut loaded, &mut absent)
                    .unwrap();
                assert!(absent.is_empty());
            }
            Op::MapRemove(entries) => {
                let (keys, fields): (Vec<_>, Vec<_>) = entries.iter().cloned().unzip();
                let (numbers, [fields]) = self.columns(keys, [fields]);
                self.state
                    .map_remove(MAPS, &numbers, fields.as_ref())
                    .unwrap();
                for (key, field) in &entries {
                    if let Some(map) = self.model.maps.get_mut(key) {
                        map.remove(field);
                        if map.is_empty() {
                            self.model.maps.remove(key);
                        }
                    }
                }
            }
            Op::Append(entries) => {
                let (keys, elements): (Vec<_>, Vec<_>) = entries.iter().cloned().unzip();
                let (numbers, [elements]) = self.columns(keys, [elements]);
                self.state
                    .list_append(LISTS, &numbers, elements.as_ref())
                    .unwrap();
                entries.into_iter().for_each(|(key, element)| {
                    self.model.lists.entry(key).or_default().push(element)
                });
            }
            Op::Look(keys) => {
                resolve(&mut self.state, &keys);
            }
            Op::Get(state, key) => {
                let expected = self.model.values[state as usize].get(&key);
                let found = self.state.get(state, &key).unwrap();
                assert_eq!(found, expected.map(Vec::as_slice));
            }
            Op::Scan(state, limit, between) => {
                let (mut keys, mut values, mut cursor) = (Cells::new(), Cells::new(), Some(0));
                while let Some(at) = cursor {
                    let before = keys.len();
                    let page = self.state.scan(state, at, limit, &mut keys, &mut values);
                    cursor = page.unwrap();
                    assert!(keys.len() - before <= limit as usize);
                    self.state.get(state, &between).unwrap();
                }
                let found = keys.iter().zip(values.iter());
                let found: BTreeMap<Bytes, Bytes> =
                    found.map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
                assert_eq!(keys.len(), found.len(), "each key once");
                assert_eq!(found, self.model.values[state as usize]);
            }
            Op::Commit => {
                self.state.commit();
                self.committed = self.model.clone();
            }
            Op::Rollback => {
                self.state.rollback();
                self.model = self.committed.clone();
                self.check();
            }
            Op::Snapshot => {
                self.apply(Op::Commit);
                let id = CheckpointId(self.next);
                self.next += 1;
                let sealed = self.state.snapshot(id, self.completed);
                assert!(sealed.base().is_none() || sealed.base() == self.completed);
                self.sealed.push_back((id, sealed, self.model.clone()));
            }
            Op::Write(completes) => self.write(completes),
            Op::Savepoint => {
                self.apply(Op::Commit);
                let id = CheckpointId(self.next);
                self.next += 1;
                let sealed = self.state.savepoint(id);
                assert_eq!(sealed.base(), None);
                self.savepoints.push_back((sealed, self.model.clone()));
            }
            Op::WriteSavepoint => self.write_savepoint(),
        }
        assert_eq!(self.state.stats(), self.model.stats());
    }

    fn write(&mut self, completes: bool) {
        let Some((id, sealed, model)) = self.sealed.pop_front() else {
            return;
        };
        let mut segment = Vec::new();
        let written = sealed.write(&mut segment).unwrap();
        assert_eq!(written.bytes, segment.len() as u64);
        assert!(
            written.bytes <= sealed.size_hint(),
            "{} > {}",
            written.bytes,
            sealed.size_hint()
        );
        let mut chain = sealed
            .base()
            .map_or(Vec::new(), |base| self.chains[&base].clone());
        if sealed.is_empty() {
            assert!(written.states.iter().all(|(entries, _)| *entries == 0));
        } else {
            chain.push(segment);
        }
        drop(sealed);

        let mut restored = restore_within(self.budget, &chain, whole_range());
        assert_eq!(Model::read(&mut restored, &all_keys()), model);
        assert_eq!(restored.stats(), model.stats());
        assert_eq!(written.held, model.held());
        if completes {
            self.chains.insert(id, chain);
            self.state.checkpoint_complete(id);
            self.completed = Some(id);
        }
    }

    /// A savepoint holds all by itself, and no checkpoint hears of it.
    fn write_savepoint(&mut self) {
        let Some((sealed, model)) = self.savepoints.pop_front() else {
            return;
        };
        let mut segment = Vec::new();
        let written = sealed.write(&mut segment).unwrap();
        assert!(written.bytes <= sealed.size_hint());
        assert_eq!(written.held, model.held());
        drop(sealed);
        let mut restored = restore_within(self.budget, &[segment], whole_range());
        assert_eq!(Model::read(&mut restored, &all_keys()), model);
        assert_eq!(restored.stats(), model.stats());
    }

    fn check(&mut self) {
        assert_eq!(Model::read(&mut self.state, &all_keys()), self.model);
    }
}

/// An empty state, with a budget of memory if there is one.
fn within(budget: Option<u64>, watch: &Arc<Watch>, range: KeyGroupRange) -> KeyedState {
    let mut state = KeyedState::new(descriptors(), range, groups());
    if let Some(bytes) = budget {
        state.set_memory_budget(bytes, Box::new(MemoryStorage(Arc::clone(watch))));
    }
    state
}

fn restore(chain: &[Bytes], range: KeyGroupRange) -> KeyedState {
    restore_within(None, chain, range)
}

fn restore_within(budget: Option<u64>, chain: &[Bytes], range: KeyGroupRange) -> KeyedState {
    let mut state = within(budget, &Arc::default(), range);
    for segment in chain {
        let stats = state.restore(&mut segment.as_slice()).unwrap();
        assert_eq!(stats.dropped, []);
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 48 } else { 2000 }))]

    #[test]
    fn c80_state_is_what_the_model_says_and_snapshots_and_savepoints_are_what_it_was(ops in prop::collection::vec(an_op(), 0..120)) {
        live_through(ops, None);
    }

    #[test]
    fn c80_so_it_is_when_most_of_it_is_cold(
        ops in prop::collection::vec(prop_oneof![9 => a_value_op(), 1 => an_op()], 0..160),
        budget in prop::sample::select(vec![0, 2000, 20_000]),
    ) {
        live_through(ops, Some(budget));
    }

    #[test]
    fn key_groups_are_split_and_merged_at_any_parallelism(
        entries in prop::collection::vec((0..400_u16, string()), 0..200),
        changed in prop::collection::vec(0..400_u16, 0..50),
        old in 1..5_u32,
        new in 1..5_u32,
    ) {
        let mut chains = Vec::new();
        let mut model = Model::default();
        for subtask in 0..old {
            let range = groups().range_of(subtask, old);
            let mut state = KeyedState::new(descriptors(), range, groups());
            let keys = |numbers: Vec<u16>| -> Vec<Bytes> {
                let keys = numbers.into_iter().map(|number| number.to_le_bytes().to_vec());
                keys.filter(|key| range.contains(groups().group_of(key::hash(key)))).collect()
            };
            for (key, value) in &entries {
                for key in keys(vec![*key]) {
                    state.put(VALUES, &key, value).unwrap();
                    let resolved = resolve(&mut state, std::slice::from_ref(&key));
                    let (key_cell, value_cell) = (cells(std::slice::from_ref(&key)), cells(std::slice::from_ref(value)));
                    state.map_store(MAPS, &resolved.numbers, value_cell.as_ref(), key_cell.as_ref()).unwrap();
                    state.list_append(LISTS, &resolved.numbers, value_cell.as_ref()).unwrap();
                    model.values[0].insert(key.clone(), value.clone());
                    model.maps.entry(key.clone()).or_default().insert(value.clone(), key.clone());
                    model.lists.entry(key).or_default().push(value.clone());
                }
            }
            state.commit();
            let mut chain = vec![Vec::new(), Vec::new()];
            state.snapshot(CheckpointId(1), None).write(&mut chain[0]).unwrap();
            state.checkpoint_complete(CheckpointId(1));
            for key in keys(changed.clone()) {
                for index in [VALUES, MAPS, LISTS] {
                    state.delete(index, &key).unwrap();
                    model.clear(index, &key);
                }
                state.put(OTHERS, &key, b"changed").unwrap();
                model.values[1].insert(key, b"changed".into());
            }
            state.commit();
            let delta = state.snapshot(CheckpointId(2), Some(CheckpointId(1)));
            prop_assert_eq!(delta.base(), Some(CheckpointId(1)));
            delta.write(&mut chain[1]).unwrap();
            chains.extend(chain);
        }
        let (mut values, mut stats) = (Model::default(), Stats::default());
        for subtask in 0..new {
            let range = groups().range_of(subtask, new);
            let mut state = restore(&chains, range);
            let keys: Vec<Bytes> = (0..400_u16).map(|number| number.to_le_bytes().to_vec())
                .filter(|key| range.contains(groups().group_of(key::hash(key)))).collect();
            let part = Model::read(&mut state, &keys);
            prop_assert_eq!(part.stats(), state.stats());
            for index in 0..2 {
                values.values[index].extend(part.values[index].clone());
            }
            values.maps.extend(part.maps);
            values.lists.extend(part.lists);
            stats.keys += state.stats().keys;
            stats.bytes += state.stats().bytes;
        }
        prop_assert_eq!(stats, model.stats());
        prop_assert_eq!(values, model);
    }
}

/// Does what `ops` say, compares with the model all along, and looks that nothing is left behind.
fn live_through(ops: Vec<Op>, budget: Option<u64>) {
    let mut run = Run::with_budget(budget);
    ops.into_iter().for_each(|op| run.apply(op));
    run.check();
    run.apply(Op::Snapshot);
    while !run.sealed.is_empty() {
        run.write(true);
    }
    while !run.savepoints.is_empty() {
        run.write_savepoint();
    }
    // Nothing is left behind once everything is deleted.
    for state in 0..4 {
        run.apply(Op::Clear(state, all_keys()));
    }
    run.apply(Op::Commit);
    run.apply(Op::Look(vec![]));
    assert_eq!(run.state.keys.all(), 0);
    assert_eq!(run.state.heap.live(), 0);
    run.state.take_back(usize::MAX);
    assert!(!run.state.sealed);
    if let Some(stats) = run.state.cold_stats() {
        assert_eq!((stats.keys, stats.bytes), (0, 0));
    }
    let watch = Arc::clone(&run.watch);
    drop(run);
    assert_eq!(watch.files.load(Ordering::Relaxed), 0, "files are removed");
}

/// A small chain with something of every kind.
fn small_chain() -> Vec<Bytes> {
    let mut run = Run::new();
    run.apply(Op::Store(
        VALUES,
        (0..5).map(|index| (vec![index], vec![index; 8])).collect(),
    ));
    run.apply(Op::MapStore(vec![
        (vec![1], vec![1], vec![1]),
        (vec![1], vec![2], vec![2]),
    ]));
    run.apply(Op::Append(vec![(vec![2], vec![1]), (vec![2], vec![2])]));
    run.apply(Op::Snapshot);
    run.write(true);
    run.apply(Op::Clear(VALUES, vec![vec![3]]));
    run.apply(Op::MapRemove(vec![(vec![1], vec![2])]));
    run.apply(Op::Append(vec![(vec![2], vec![3])]));
    run.apply(Op::Snapshot);
    run.write(true);
    let chain = run.chains[&CheckpointId(2)].clone();
    assert_eq!(chain.len(), 2);
    chain
}

#[test]
fn every_flipped_bit_is_found() {
    let chain = small_chain();
    for (index, segment) in chain.iter().enumerate() {
        for at in 0..segment.len() {
            for bit in 0..8 {
                let mut chain = chain.clone();
                chain[index][at] ^= 1 << bit;
                let mut state = new_state();
                let result = chain
                    .iter()
                    .try_for_each(|segment| state.restore(&mut segment.as_slice()).map(drop));
                assert!(
                    matches!(result, Err(RestoreError::Corrupt { .. })),
                    "bit {bit} of byte {at} of segment {index}"
                );
            }
        }
    }
}

#[test]
fn every_truncation_and_every_addition_is_found() {
    for segment in small_chain() {
        for len in 0..segment.len() {
            let result = new_state().restore(&mut &segment[..len]);
            assert!(
                matches!(result, Err(RestoreError::Corrupt { .. })),
                "{len} bytes"
            );
        }
        let more = [segment.as_slice(), &[0]].concat();
        assert!(matches!(
            new_state().restore(&mut more.as_slice()),
            Err(RestoreError::Corrupt { .. })
        ));
    }
}

#[test]
fn blocks_cannot_change_places() {
    let mut state = new_state();
    for index in 0..60_u32 {
        state
            .put(VALUES, &index.to_le_bytes(), &vec![1; 100_000])
            .unwrap();
    }
    state.commit();
    let mut segment = Vec::new();
    state
        .snapshot(CheckpointId(1), None)
        .write(&mut segment)
        .unwrap();
    let mut blocks = Vec::new();
    let mut rest = &segment[12..];
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        assert!(len <= 1 << 20);
        let block;
        (block, rest) = rest.split_at(len + 8);
        blocks.push(block);
    }
    assert!(blocks.len() > 7);
    assert_eq!(
        new_state()
            .restore(&mut segment.as_slice())
            .unwrap()
            .entries,
        60
    );
    for (left, right) in [(1, 2), (2, 5)] {
        let mut blocks = blocks.clone();
        blocks.swap(left, right);
        let swapped = [&segment[..12], &blocks.concat()].concat();
        assert!(matches!(
            new_state().restore(&mut swapped.as_slice()),
            Err(RestoreError::Corrupt { .. })
        ));
    }
}

#[test]
fn entries_larger_than_a_block_come_back() {
    let large = |fill: u8| -> Bytes {
        (0..3_500_000_u32)
            .map(|at| fill.wrapping_add((at / 5000) as u8))
            .collect()
    };
    let key: Bytes = large(1)[..1_200_000].into();
    let mut state = new_state();
    let resolved = resolve(&mut state, &[key.clone(), b"small".to_vec()]);
    assert_eq!(resolved.numbers, [0, 1]);
    state
        .store(VALUES, &[0, 1], cells(&[large(2), b"x".to_vec()]).as_ref())
        .unwrap();
    state
        .map_store(
            MAPS,
            &[0, 1],
            cells(&[large(3), large(4)]).as_ref(),
            cells(&[large(5), large(6)]).as_ref(),
        )
        .unwrap();
    let elements: Vec<Bytes> = (0..1000_u32)
        .map(|index| {
            if index % 300 == 0 {
                large(7)
            } else {
                index.to_le_bytes().into()
            }
        })
        .collect();
    state
        .list_append(LISTS, &[1; 1000], cells(&elements).as_ref())
        .unwrap();
    state.commit();
    let mut segment = Vec::new();
    let sealed = state.snapshot(CheckpointId(1), None);
    sealed.write(&mut segment).unwrap();
    assert!(segment.len() as u64 <= sealed.size_hint());
    let mut restored = restore(&[segment], whole_range());
    let keys = [key, b"small".to_vec()];
    assert_eq!(
        Model::read(&mut restored, &keys),
        Model::read(&mut state, &keys)
    );
    assert_eq!(restored.stats(), state.stats());
}

#[test]
fn what_is_sealed_is_written_by_another_thread_while_updates_go_on() {
    let mut state = new_state();
    let keys: Vec<Bytes> = (0..20_000_u32)
        .map(|index| index.to_le_bytes().to_vec())
        .collect();
    let write = |state: &mut KeyedState, round: u32, keys: &[Bytes]| {
        for batch in keys.chunks(1000) {
            let resolved = resolve(state, batch);
            let values: Vec<Bytes> = batch
                .iter()
                .map(|key| [key.as_slice(), &vec![round as u8; 4 + round as usize * 9]].concat())
                .collect();
            state
                .store(VALUES, &resolved.numbers, cells(&values).as_ref())
                .unwrap();
            state.commit();
        }
    };
    let mut chain: Vec<Bytes> = Vec::new();
    for round in 0..6_u32 {
        // Each round changes a part, deletes a part and adds one.
        let (from, to) = (round as usize * 1000, 8000 + round as usize * 2000);
        write(&mut state, round, &keys[from..to]);
        for key in keys[..from].iter().rev().take(500) {
            state.delete(VALUES, key).unwrap();
        }
        state.commit();
        let expected = Model::read(&mut state, &keys);
        let sealed = state.snapshot(
            CheckpointId(u64::from(round)),
            round
                .checked_sub(1)
                .map(|base| CheckpointId(u64::from(base))),
        );
        let writer = std::thread::spawn(move || {
            let mut segment = Vec::new();
            sealed.write(&mut segment).unwrap();
            segment
        });
        write(&mut state, 50, &keys);
        keys.iter()
            .for_each(|key| state.delete(VALUES, key).unwrap());
        state.rollback();
        chain.push(writer.join().unwrap());
        state.checkpoint_complete(CheckpointId(u64::from(round)));
        let mut restored = restore(&chain, whole_range());
        assert_eq!(Model::read(&mut restored, &keys), expected);
        // Back to what was sealed, so that the next round's delta is about the round.
        let values = &expected.values[0];
        for key in &keys {
            match values.get(key) {
                Some(value) => state.put(VALUES, key, value).unwrap(),
                None => state.delete(VALUES, key).unwrap(),
            }
        }
        state.commit();
    }
}

#[test]
fn a_map_of_many_fields_is_cleared_in_portions_and_restored_in_order() {
    let keys = [b"many".to_vec(), b"few".to_vec(), b"list".to_vec()];
    // In no order, as hashes come.
    let fields: Vec<Bytes> = (0..5000_u32)
        .map(|number| number.wrapping_mul(0x9e37_79b1).to_le_bytes().into())
        .collect();
    let mut state = new_state();
    let numbers = resolve(&mut state, &keys).numbers;
    for (at, some) in fields.chunks(700).enumerate() {
        let mut of = vec![numbers[0]; some.len()];
        of[at] = numbers[1];
        let column = cells(some);
        state
            .map_store(MAPS, &of, column.as_ref(), column.as_ref())
            .unwrap();
        let of = vec![numbers[2]; some.len()];
        state.list_append(LISTS, &of, column.as_ref()).unwrap();
    }
    state.commit();
    let whole = Model::read(&mut state, &keys);
    assert_eq!(whole.maps.values().map(BTreeMap::len).sum::<usize>(), 5000);
    assert_eq!(whole.lists[&keys[2]].len(), 5000);
    let sealed = state.snapshot(CheckpointId(1), None);
    let mut segment = Vec::new();
    sealed.write(&mut segment).unwrap();
    state.checkpoint_complete(CheckpointId(1));
    let mut restored = restore(&[segment.clone()], whole_range());
    assert_eq!(Model::read(&mut restored, &keys), whole);
    // It goes on as any map does.
    let numbers = resolve(&mut restored, &keys).numbers;
    let column = cells(&[fields[3].clone()]);
    restored
        .map_remove(MAPS, &numbers[..1], column.as_ref())
        .unwrap();
    restored.commit();
    let mut expected = whole.clone();
    expected
        .maps
        .get_mut(&keys[0])
        .and_then(|map| map.remove(&fields[3]))
        .unwrap();
    assert_eq!(Model::read(&mut restored, &keys), expected);

    for (of, index, entries) in [(MAPS, 0, 5000), (LISTS, 2, 5000)] {
        let numbers = resolve(&mut state, &keys).numbers;
        let before = state.stats();
        let number = [numbers[index]];
        let mut portions = 0;
        while state.clear_some(of, &number, 1000).unwrap() == 0 {
            portions += 1;
            assert!(portions < entries / 1000 + 1, "{of}");
        }
        assert!(portions >= 2, "{of}");
        state.rollback();
        assert_eq!(state.stats(), before);
        assert_eq!(Model::read(&mut state, &keys), whole);
        // What was begun is taken back, too.
        let numbers = resolve(&mut state, &keys).numbers;
        let number = [numbers[index]];
        assert_eq!(state.clear_some(of, &number, 1000), Ok(0));
        state.rollback();
        assert_eq!(state.stats(), before);
        assert_eq!(Model::read(&mut state, &keys), whole);
    }
    let mut expected = whole.clone();
    while !state.delete_some(MAPS, &keys[0], 1000).unwrap() {}
    while !state.delete_some(LISTS, &keys[2], 1000).unwrap() {}
    expected.clear(MAPS, &keys[0]);
    expected.clear(LISTS, &keys[2]);
    state.commit();
    assert_eq!(Model::read(&mut state, &keys), expected);
    let sealed = state.snapshot(CheckpointId(2), Some(CheckpointId(1)));
    let mut delta = Vec::new();
    sealed.write(&mut delta).unwrap();
    assert!(delta.len() < 1000, "{}", delta.len());
    let mut restored = restore(&[segment, delta], whole_range());
    assert_eq!(Model::read(&mut restored, &keys), expected);
}

/// Ten deltas, each on the one before, with savepoints between or without: the segments.
fn deltas(with_savepoints: bool) -> Vec<Bytes> {
    let mut state = new_state();
    let mut segments = Vec::new();
    let append = |state: &mut KeyedState, round: u64| {
        resolve(state, &[b"list".to_vec()]);
        let element = round.to_le_bytes().to_vec();
        state
            .list_append(LISTS, &[0], cells(&[element]).as_ref())
            .unwrap();
    };
    for round in 0..10_u64 {
        for key in 0..100_u32 {
            let key = (key + 37 * round as u32).to_le_bytes();
            state.put(VALUES, &key, &round.to_le_bytes()).unwrap();
        }
        append(&mut state, round);
        state.commit();
        if with_savepoints {
            let sealed = state.savepoint(CheckpointId(1000 + round));
            sealed.write(&mut io::sink()).unwrap();
            // That it is complete is no business of the state.
            state.checkpoint_complete(CheckpointId(1000 + round));
        }
        // Of a list only what was appended since the base is in the delta, on both sides of the savepoint.
        append(&mut state, round);
        // What is removed after the savepoint and what was removed before it are both in the delta.
        for key in 0..10_u32 {
            let key = (key * 5 + 36 * round as u32).to_le_bytes();
            while !state.delete_some(VALUES, &key, 3).unwrap() {}
            state.commit();
            if with_savepoints {
                drop(state.savepoint(CheckpointId(2000 + round)));
            }
        }
        state.commit();
        let base = (round > 0).then_some(CheckpointId(round));
        let sealed = state.snapshot(CheckpointId(round + 1), base);
        assert_eq!(sealed.base(), base);
        let mut segment = Vec::new();
        sealed.write(&mut segment).unwrap();
        segments.push(segment);
        state.checkpoint_complete(CheckpointId(round + 1));
    }
    segments
}

#[test]
fn c80_deltas_are_byte_for_byte_what_they_are_without_savepoints() {
    assert!(deltas(true) == deltas(false));
}

#[test]
fn a_delta_holds_what_changed_and_no_more() {
    let mut state = new_state();
    for index in 0..3000_u32 {
        state.put(VALUES, &index.to_le_bytes(), &[1; 8]).unwrap();
    }
    let resolved = resolve(&mut state, &[b"list".to_vec()]);
    state
        .list_append(LISTS, &[0; 500], cells(&vec![vec![7; 20]; 500]).as_ref())
        .unwrap();
    assert_eq!(resolved.keys.len(), 1);
    state.commit();
    let full = state.snapshot(CheckpointId(1), None);
    assert_eq!(
        full.write(&mut Vec::new()).unwrap().states,
        [(3000, 36_000), (0, 0), (0, 0), (500, 10_004)]
    );
    drop(full);
    state.checkpoint_complete(CheckpointId(1));

    assert!(
        state
            .snapshot(CheckpointId(2), Some(CheckpointId(1)))
            .is_empty()
    );
    state.put(VALUES, &5_u32.to_le_bytes(), &[2; 8]).unwrap();
    state.rollback();
    assert!(
        state
            .snapshot(CheckpointId(3), Some(CheckpointId(1)))
            .is_empty()
    );
    state.put(VALUES, &5_u32.to_le_bytes(), &[2; 8]).unwrap();
    resolve(&mut state, &[b"list".to_vec()]);
    state
        .list_append(LISTS, &[0], cells(&[vec![8; 20]]).as_ref())
        .unwrap();
    state.commit();
    // On 1, though 2 and 3 were taken since: they are not complete.
    let delta = state.snapshot(CheckpointId(4), Some(CheckpointId(1)));
    assert!(!delta.is_empty());
    assert!(delta.size_hint() < 1000);
    assert_eq!(
        delta.write(&mut Vec::new()).unwrap().states,
        [(1, 12), (0, 0), (0, 0), (1, 24)]
    );
    state.checkpoint_complete(CheckpointId(4));
    // 1 is no base any more.
    assert_eq!(
        state
            .snapshot(CheckpointId(5), Some(CheckpointId(1)))
            .base(),
        None
    );
    assert_eq!(
        state
            .snapshot(CheckpointId(6), Some(CheckpointId(4)))
            .base(),
        Some(CheckpointId(4))
    );
}

#[test]
fn the_size_of_a_delta_counts_a_list_that_it_replaces() {
    let mut state = new_state();
    let append = |state: &mut KeyedState, element: &[u8]| {
        resolve(state, &[b"list".to_vec()]);
        state
            .list_append(LISTS, &[0], cells(&[element.to_vec()]).as_ref())
            .unwrap();
        state.commit();
    };
    append(&mut state, &[7; 3000]);
    drop(state.snapshot(CheckpointId(1), None));
    state.checkpoint_complete(CheckpointId(1));
    append(&mut state, b"");
    // It is never complete. So the next one, on 1, holds the list whole.
    drop(state.snapshot(CheckpointId(2), Some(CheckpointId(1))));
    append(&mut state, b"");
    let delta = state.snapshot(CheckpointId(3), Some(CheckpointId(1)));
    let written = delta.write(&mut Vec::new()).unwrap();
    assert!(written.bytes > 3000);
    assert!(written.bytes <= delta.size_hint());
}

#[test]
fn removals_that_outgrow_the_state_make_the_next_snapshot_full() {
    let mut state = new_state();
    drop(state.snapshot(CheckpointId(1), None));
    state.checkpoint_complete(CheckpointId(1));
    for index in 0..30_000_u32 {
        let key = index.to_le_bytes().repeat(10);
        state.put(VALUES, &key, b"short-lived").unwrap();
        state.delete(VALUES, &key).unwrap();
        state.commit();
    }
    assert!(state.tables[0].removals.bytes() <= REMOVALS_BYTES);
    assert!(state.keys.len() <= IDLE_MAX + 1);
    assert_eq!(
        state
            .snapshot(CheckpointId(2), Some(CheckpointId(1)))
            .base(),
        None
    );
}

#[test]
fn growth_past_the_limit_is_refused_and_changes_nothing() {
    let mut state = new_state();
    state.set_limit(Some(100));
    state.put(VALUES, b"key", &[1; 90]).unwrap();
    state.commit();
    let limit = Err(StateError::Limit { limit: 100 });
    assert_eq!(state.put(VALUES, b"key", &[2; 98]), limit);
    assert_eq!(state.put(OTHERS, b"other", b"12345"), limit);
    let resolved = resolve(&mut state, &[b"key".to_vec(), b"k2".to_vec()]);
    assert_eq!(
        state.store(
            VALUES,
            &resolved.numbers,
            cells(&[vec![3; 9], vec![3; 90]]).as_ref()
        ),
        limit
    );
    assert_eq!(
        state.list_append(LISTS, &[0, 0], cells(&[vec![3; 4], vec![3; 4]]).as_ref()),
        limit
    );
    assert_eq!(
        state.map_store(
            MAPS,
            &[0],
            cells(&[vec![3; 4]]).as_ref(),
            cells(&[vec![3; 4]]).as_ref()
        ),
        limit
    );
    assert_eq!(state.stats(), Stats { keys: 1, bytes: 93 });
    assert_eq!(state.get(VALUES, b"key"), Ok(Some([1; 90].as_slice())));
    state
        .store(
            VALUES,
            &resolved.numbers,
            cells(&[vec![3; 9], vec![3; 86]]).as_ref(),
        )
        .unwrap();
    // Above a limit that was lowered, what does not grow is still allowed.
    state.set_limit(Some(10));
    state.put(VALUES, b"k2", &[4; 80]).unwrap();
    state.delete(VALUES, b"key").unwrap();
    state.rollback();
    assert_eq!(state.stats(), Stats { keys: 1, bytes: 93 });
}

#[test]
fn accesses_that_do_not_fit_are_refused() {
    let mut state = KeyedState::new(descriptors(), groups().range_of(0, 2), groups());
    let mine = (0..)
        .map(|index: u32| index.to_le_bytes())
        .find(|key| groups().group_of(key::hash(key)) < 4)
        .unwrap();
    let other = (0..)
        .map(|index: u32| index.to_le_bytes())
        .find(|key| groups().group_of(key::hash(key)) == 6)
        .unwrap();
    let not_owned = StateError::NotOwned {
        group: 6,
        range: groups().range_of(0, 2),
    };
    assert_eq!(state.get(VALUES, &other), Err(not_owned.clone()));
    assert_eq!(state.put(VALUES, &other, b""), Err(not_owned.clone()));
    assert_eq!(state.delete(VALUES, &other), Err(not_owned.clone()));
    let keys = cells(&[mine.into(), other.into()]);
    let hashes: Vec<u64> = keys.iter().map(key::hash).collect();
    let mut resolved = Resolved::default();
    assert_eq!(
        state.resolve(keys.as_ref(), &hashes, &mut resolved),
        Err(not_owned)
    );
    assert!(
        state
            .resolve(keys.as_ref(), &hashes[..1], &mut resolved)
            .is_err()
    );
    assert_eq!(
        state.clear(VALUES, &[0]),
        Err(StateError::NoKey {
            number: 0,
            count: 0
        })
    );

    resolve(&mut state, &[mine.to_vec()]);
    let one = cells(&[b"x".to_vec()]);
    let one = one.as_ref();
    assert_eq!(
        state.store(4, &[0], one),
        Err(StateError::NoState { state: 4, count: 4 })
    );
    let wrong = |name: &str, actual| StateError::WrongKind {
        name: name.into(),
        actual,
    };
    assert_eq!(
        state.store(MAPS, &[0], one),
        Err(wrong("maps", StateKind::Map))
    );
    assert_eq!(
        state.list_append(VALUES, &[0], one),
        Err(wrong("values", StateKind::Value))
    );
    assert_eq!(
        state.map_remove(LISTS, &[0], one),
        Err(wrong("lists", StateKind::List))
    );
    assert_eq!(
        state.store(VALUES, &[1], one),
        Err(StateError::NoKey {
            number: 1,
            count: 1
        })
    );
    assert_eq!(
        state.store(VALUES, &[0, 0], one),
        Err(StateError::Uneven {
            numbers: 2,
            others: 1,
            column: "values"
        })
    );
    assert_eq!(
        state.map_store(MAPS, &[0], one, CellsRef::EMPTY),
        Err(StateError::Uneven {
            numbers: 1,
            others: 0,
            column: "values"
        })
    );
    assert_eq!(state.stats(), Stats::default());
}

#[test]
fn numbers_stay_valid_across_commits_and_rollbacks() {
    let mut state = new_state();
    resolve(&mut state, &[b"a".to_vec(), b"b".to_vec()]);
    state.rollback();
    for round in 0..3_u8 {
        state
            .store(VALUES, &[1], cells(&[vec![round]]).as_ref())
            .unwrap();
        state.commit();
        state.clear(VALUES, &[1]).unwrap();
        state.commit();
        for index in 0..2 * IDLE_MAX as u32 {
            state.put(VALUES, &index.to_le_bytes(), b"").unwrap();
            state.delete(VALUES, &index.to_le_bytes()).unwrap();
        }
        state.commit();
    }
    state
        .store(
            VALUES,
            &[0, 1],
            cells(&[b"1".to_vec(), b"2".to_vec()]).as_ref(),
        )
        .unwrap();
    state.commit();
    assert_eq!(state.get(VALUES, b"b"), Ok(Some(b"2".as_slice())));
    resolve(&mut state, &[]);
    assert_eq!(state.keys.len(), 2);
}

#[test]
fn states_are_matched_by_name() {
    let chain = small_chain();
    let declared = vec![
        descriptor("lists", StateKind::List),
        descriptor("new", StateKind::Value),
        descriptor("values", StateKind::Value),
    ];
    let mut state = KeyedState::new(declared, whole_range(), groups());
    let stats = state.restore(&mut chain[0].as_slice()).unwrap();
    assert_eq!(
        stats,
        RestoreStats {
            entries: 7,
            dropped: vec![("maps".into(), 2)]
        }
    );
    assert_eq!(state.get(2, &[4]), Ok(Some([4; 8].as_slice())));

    let mut state = KeyedState::new(
        vec![descriptor("maps", StateKind::List)],
        whole_range(),
        groups(),
    );
    let error = state.restore(&mut chain[0].as_slice()).unwrap_err();
    assert!(matches!(
        error,
        RestoreError::KindChanged {
            was: StateKind::Map,
            now: StateKind::List,
            ..
        }
    ));
}
