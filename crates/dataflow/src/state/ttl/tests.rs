//! State whose entries expire against a naive model: maps in which each entry has its expiry.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::element::CheckpointId;
use crate::key::{self, KeyGroups};
use crate::state::codec::{BlockKind, BlockReader, BlockWriter};
use crate::state::cold::memory::MemoryStorage;
use crate::state::{Origin, OriginState, Resolved, SealedState, StateDescriptor, StateKind};

type Bytes = Vec<u8>;

const VALUES: u32 = 0;
const OTHERS: u32 = 1;
const MAPS: u32 = 2;
const LISTS: u32 = 3;
const NAMES: [&str; 4] = ["values", "others", "maps", "lists"];
const KINDS: [StateKind; 4] = [
    StateKind::Value,
    StateKind::Value,
    StateKind::Map,
    StateKind::List,
];

type Ttls = [Option<Ttl>; 4];

fn groups() -> KeyGroups {
    KeyGroups::new(8).unwrap()
}

fn new_state(ttls: Ttls, budget: Option<u64>) -> KeyedState {
    let descriptors = (0..4).map(|state| StateDescriptor {
        name: NAMES[state].into(),
        kind: KINDS[state],
        schema: "bytes".into(),
        schema_version: 1,
        ttl: ttls[state],
    });
    let mut state = KeyedState::new(descriptors.collect(), groups().range_of(0, 1), groups());
    if let Some(bytes) = budget {
        state.set_memory_budget(bytes, Box::new(MemoryStorage(Arc::default())));
    }
    state
}

fn ttl(millis: u64, refresh: Refresh, time: TtlTime) -> Option<Ttl> {
    Some(Ttl {
        millis,
        refresh,
        time,
    })
}

fn hour(time: TtlTime) -> Ttls {
    [ttl(3_600_000, Refresh::Write, time); 4]
}

fn numbers(state: &mut KeyedState, keys: &[Bytes]) -> Vec<u32> {
    let cells: Cells = keys.iter().map(Vec::as_slice).collect();
    let hashes: Vec<u64> = keys.iter().map(|key| key::hash(key)).collect();
    let mut resolved = Resolved::default();
    state
        .resolve(cells.as_ref(), &hashes, &mut resolved)
        .unwrap();
    resolved.numbers
}

fn cells<'a>(cells: impl IntoIterator<Item = &'a Bytes>) -> Cells {
    cells.into_iter().map(Vec::as_slice).collect()
}

/// What a state holds: by state, key, and field (or place in the list).
type Seen = BTreeMap<(u32, Bytes, Bytes), Bytes>;

/// A value and when it expires; `None`: never.
type Dated = (Bytes, Option<i64>);

#[derive(Clone, Debug, Default)]
struct Model {
    /// Values and map entries, of which the former have the field that is empty.
    entries: BTreeMap<(u32, Bytes, Bytes), Dated>,
    lists: BTreeMap<Bytes, Vec<Dated>>,
}

impl Model {
    fn seen(&self, ttls: Ttls, times: Times) -> Seen {
        let is_seen = |state: u32, (_, expiry): &Dated| {
            expiry.is_none_or(|expiry| expiry > now(ttls, state, times))
        };
        let entries = self.entries.iter();
        let mut seen: Seen = entries
            .filter(|((state, ..), dated)| is_seen(*state, dated))
            .map(|(place, (value, _))| (place.clone(), value.clone()))
            .collect();
        for (key, list) in &self.lists {
            let elements = list.iter().filter(|element| is_seen(LISTS, element));
            for (index, (value, _)) in (0..).zip(elements) {
                let place = u64::to_be_bytes(index).to_vec();
                seen.insert((LISTS, key.clone(), place), value.clone());
            }
        }
        seen
    }

    /// Without what has expired.
    fn alive(mut self, ttls: Ttls, times: Times) -> Self {
        let is_alive = |state: u32, expiry: Option<i64>| {
            expiry.is_none_or(|expiry| expiry > now(ttls, state, times))
        };
        self.entries
            .retain(|(state, ..), (_, expiry)| is_alive(*state, *expiry));
        for list in self.lists.values_mut() {
            list.retain(|(_, expiry)| is_alive(LISTS, *expiry));
        }
        self.lists.retain(|_, list| !list.is_empty());
        self
    }

    /// With the times to live of another job, which restores it.
    fn converted(mut self, old: Ttls, new: Ttls, times: Times) -> Self {
        let convert = |state: u32, expiry: &mut Option<i64>| {
            let (old, new) = (old[state as usize], new[state as usize]);
            *expiry = match (old, new) {
                (_, None) => None,
                (Some(old), Some(new)) if old.time == new.time => *expiry,
                (_, Some(new)) => Some(times.of(new.time) + new.millis as i64),
            };
        };
        for ((state, ..), (_, expiry)) in &mut self.entries {
            convert(*state, expiry);
        }
        for (_, expiry) in self.lists.values_mut().flatten() {
            convert(LISTS, expiry);
        }
        self
    }

    /// Entries of each state, and the bytes of its keys and entries.
    fn held(&self) -> Vec<(u64, u64)> {
        let mut held = vec![(0, 0); 4];
        let mut keys = std::collections::BTreeSet::new();
        for ((state, key, field), (value, _)) in &self.entries {
            let held = &mut held[*state as usize];
            held.0 += 1;
            held.1 += (field.len() + value.len()) as u64;
            if *state != MAPS || keys.insert((*state, key)) {
                held.1 += key.len() as u64;
            }
        }
        for (key, list) in &self.lists {
            let bytes = list.iter().map(|(value, _)| value.len()).sum::<usize>();
            held[LISTS as usize].0 += list.len() as u64;
            held[LISTS as usize].1 += (key.len() + bytes) as u64;
        }
        held
    }
}

fn now(ttls: Ttls, state: u32, times: Times) -> i64 {
    ttls[state as usize].map_or(i64::MIN, |ttl| times.of(ttl.time))
}

#[derive(Clone, Debug)]
enum Op {
    Clock(i64),
    Watermark(i64),
    Store(u32, Vec<(Bytes, Bytes)>),
    Put(u32, Bytes, Bytes),
    MapStore(Vec<(Bytes, Bytes, Bytes)>),
    Append(Vec<(Bytes, Bytes)>),
    Clear(u32, Bytes),
    MapRemove(Bytes, Bytes),
    Load(u32, Vec<Bytes>),
    Get(u32, Bytes),
    MapLoad(Vec<(Bytes, Bytes)>),
    MapScan(Bytes),
    ListLoad(Bytes),
    Commit,
    Rollback,
    /// A checkpoint, as a delta if it can be; says whether it completes.
    Checkpoint(bool),
    Savepoint,
    /// Goes on from the last complete checkpoint, with other times to live, after so long; a clock may have
    /// gone back.
    Restart(Ttls, i64, i64),
}

fn a_ttl() -> impl Strategy<Value = Option<Ttl>> {
    let refresh = prop::sample::select(vec![Refresh::Write, Refresh::Read]);
    let time = prop::sample::select(vec![TtlTime::Processing, TtlTime::Event]);
    let some = (1..40_u64, refresh, time).prop_map(|(millis, refresh, time)| Ttl {
        millis,
        refresh,
        time,
    });
    prop_oneof![1 => Just(None), 5 => some.prop_map(Some)]
}

fn ttls() -> impl Strategy<Value = Ttls> {
    [a_ttl(), a_ttl(), a_ttl(), a_ttl()]
}

fn a_key() -> impl Strategy<Value = Bytes> {
    (0..12_u8, prop::sample::select(vec![1, 2, 20_usize])).prop_map(|(fill, len)| vec![fill; len])
}

fn a_value() -> impl Strategy<Value = Bytes> {
    let len = prop_oneof![8 => 0..12_usize, 3 => 12..100_usize, 1 => 3000..5000_usize];
    (len, any::<u8>()).prop_map(|(len, fill)| vec![fill; len])
}

fn a_field() -> impl Strategy<Value = Bytes> {
    (0..5_u8).prop_map(|field| vec![b'f', field])
}

/// Those of maps and lists come so often.
fn an_op(maps: u32) -> impl Strategy<Value = Op> {
    prop_oneof![
        64 => (0..12_i64).prop_map(Op::Clock),
        64 => (0..12_i64).prop_map(Op::Watermark),
        48 => (0..2_u32, vec((a_key(), a_value()), 0..8)).prop_map(|(state, entries)| Op::Store(state, entries)),
        16 => (0..2_u32, a_key(), a_value()).prop_map(|(state, key, value)| Op::Put(state, key, value)),
        5 * maps => vec((a_key(), a_field(), a_value()), 0..8).prop_map(Op::MapStore),
        5 * maps => vec((a_key(), a_value()), 0..8).prop_map(Op::Append),
        16 => (0..4_u32, a_key()).prop_map(|(state, key)| Op::Clear(state, key)),
        maps => (a_key(), a_field()).prop_map(|(key, field)| Op::MapRemove(key, field)),
        32 => (0..2_u32, vec(a_key(), 0..8)).prop_map(|(state, keys)| Op::Load(state, keys)),
        16 => (0..2_u32, a_key()).prop_map(|(state, key)| Op::Get(state, key)),
        3 * maps => vec((a_key(), a_field()), 0..8).prop_map(Op::MapLoad),
        2 * maps => a_key().prop_map(Op::MapScan),
        3 * maps => a_key().prop_map(Op::ListLoad),
        80 => Just(Op::Commit),
        16 => Just(Op::Rollback),
        40 => prop::bool::weighted(0.8).prop_map(Op::Checkpoint),
        16 => Just(Op::Savepoint),
        16 => (ttls(), -30..30_i64, 0..10_i64).prop_map(|(ttls, clock, watermark)| Op::Restart(ttls, clock, watermark)),
    ]
}

/// A segment with what is said of it.
type Chain = Vec<(Origin, Bytes)>;

struct Run {
    ttls: Ttls,
    times: Times,
    state: KeyedState,
    budget: Option<u64>,
    model: Model,
    committed: Model,
    next: u64,
    /// The last complete checkpoint: its segments, what it holds, and when it was taken.
    complete: Option<(CheckpointId, Chain, Model, Times)>,
    /// Whether it is of this instance.
    is_own: bool,
}

impl Run {
    fn new(ttls: Ttls, budget: Option<u64>) -> Self {
        let times = Times {
            processing: 1_000_000,
            watermark: 5_000,
        };
        let mut state = new_state(ttls, budget);
        state.set_now(times.processing);
        state.set_watermark(times.watermark);
        Self {
            ttls,
            times,
            state,
            budget,
            model: Model::default(),
            committed: Model::default(),
            next: 1,
            complete: None,
            is_own: false,
        }
    }

    fn expiry(&self, state: u32) -> Option<i64> {
        let ttl = self.ttls[state as usize]?;
        Some(self.times.of(ttl.time) + ttl.millis as i64)
    }

    /// What the model says that is at a place; reading it extends its life.
    fn read(&mut self, place: (u32, Bytes, Bytes)) -> Option<Bytes> {
        let state = place.0;
        let (expiry, now) = (self.expiry(state), now(self.ttls, state, self.times));
        let (value, old) = self.model.entries.get_mut(&place)?;
        if old.is_some_and(|old| old <= now) {
            return None;
        }
        if self.ttls[state as usize].is_some_and(|ttl| ttl.refresh == Refresh::Read) {
            *old = (*old).max(expiry);
        }
        Some(value.clone())
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Clock(by) => {
                self.times.processing += by;
                self.state.set_now(self.times.processing);
            }
            Op::Watermark(by) => {
                self.times.watermark += by;
                self.state.set_watermark(self.times.watermark);
            }
            Op::Store(state, entries) => {
                let (keys, values): (Vec<Bytes>, Vec<Bytes>) = entries.iter().cloned().unzip();
                let numbers = numbers(&mut self.state, &keys);
                self.state
                    .store(state, &numbers, cells(&values).as_ref())
                    .unwrap();
                for (key, value) in entries {
                    self.wrote(state, key, Bytes::new(), value);
                }
            }
            Op::Put(state, key, value) => {
                self.state.put(state, &key, &value).unwrap();
                self.wrote(state, key, Bytes::new(), value);
            }
            Op::MapStore(entries) => {
                let keys: Vec<Bytes> = entries.iter().map(|(key, ..)| key.clone()).collect();
                let fields = cells(entries.iter().map(|(_, field, _)| field));
                let values = cells(entries.iter().map(|(.., value)| value));
                let numbers = numbers(&mut self.state, &keys);
                self.state
                    .map_store(MAPS, &numbers, fields.as_ref(), values.as_ref())
                    .unwrap();
                for (key, field, value) in entries {
                    self.wrote(MAPS, key, field, value);
                }
            }
            Op::Append(entries) => {
                let (keys, elements): (Vec<Bytes>, Vec<Bytes>) = entries.iter().cloned().unzip();
                let numbers = numbers(&mut self.state, &keys);
                self.state
                    .list_append(LISTS, &numbers, cells(&elements).as_ref())
                    .unwrap();
                let expiry = self.expiry(LISTS);
                for (key, element) in entries {
                    let list = self.model.lists.entry(key).or_default();
                    list.push((element, expiry));
                }
            }
            Op::Clear(state, key) => {
                self.state.delete(state, &key).unwrap();
                self.model
                    .entries
                    .retain(|(of, at, _), _| (*of, at) != (state, &key));
                if state == LISTS {
                    self.model.lists.remove(&key);
                }
            }
            Op::MapRemove(key, field) => {
                let numbers = numbers(&mut self.state, std::slice::from_ref(&key));
                self.state
                    .map_remove(MAPS, &numbers, cells([&field]).as_ref())
                    .unwrap();
                self.model.entries.remove(&(MAPS, key, field));
            }
            Op::Commit => {
                self.state.commit();
                self.committed = self.model.clone();
            }
            Op::Rollback => {
                self.state.rollback();
                self.model = self.committed.clone();
            }
            Op::Checkpoint(completes) => self.checkpoint(completes),
            Op::Savepoint => {
                self.apply(Op::Commit);
                let id = CheckpointId(self.next);
                self.next += 1;
                let sealed = self.state.savepoint(id);
                let chain = self.written(&sealed, id, Vec::new());
                self.check_chain(&chain, self.ttls, (7, 3));
            }
            Op::Restart(ttls, clock, watermark) => self.restart(ttls, clock, watermark),
            read => self.look(read),
        }
    }

    fn wrote(&mut self, state: u32, key: Bytes, field: Bytes, value: Bytes) {
        let expiry = self.expiry(state);
        self.model
            .entries
            .insert((state, key, field), (value, expiry));
    }

    fn look(&mut self, op: Op) {
        match op {
            Op::Load(state, keys) => {
                let numbers = numbers(&mut self.state, &keys);
                let (mut values, mut absent) = (Cells::new(), Vec::new());
                self.state
                    .load(state, Some(&numbers), &mut values, &mut absent)
                    .unwrap();
                for (at, key) in keys.into_iter().enumerate() {
                    let expected = self.read((state, key, Bytes::new()));
                    let found = (!absent.contains(&(at as u32))).then(|| values.get(at).to_vec());
                    assert_eq!(found, expected);
                }
            }
            Op::Get(state, key) => {
                let found = self.state.get(state, &key).unwrap().map(<[u8]>::to_vec);
                assert_eq!(found, self.read((state, key, Bytes::new())));
            }
            Op::MapLoad(places) => {
                let (keys, fields): (Vec<Bytes>, Vec<Bytes>) = places.iter().cloned().unzip();
                let numbers = numbers(&mut self.state, &keys);
                let (mut values, mut absent) = (Cells::new(), Vec::new());
                let fields = cells(&fields);
                self.state
                    .map_load(MAPS, &numbers, fields.as_ref(), &mut values, &mut absent)
                    .unwrap();
                for (at, (key, field)) in places.into_iter().enumerate() {
                    let expected = self.read((MAPS, key, field));
                    let found = (!absent.contains(&(at as u32))).then(|| values.get(at).to_vec());
                    assert_eq!(found, expected);
                }
            }
            Op::MapScan(key) => {
                let number = numbers(&mut self.state, std::slice::from_ref(&key))[0];
                let (mut fields, mut values) = (Cells::new(), Cells::new());
                let more = self
                    .state
                    .map_scan(MAPS, number, b"", false, None, 3, &mut fields, &mut values)
                    .unwrap();
                let all: Vec<Bytes> = (0..5).map(|field| vec![b'f', field]).collect();
                let seen = self.model.seen(self.ttls, self.times);
                let expected: Vec<Bytes> = all
                    .into_iter()
                    .filter(|field| seen.contains_key(&(MAPS, key.clone(), field.clone())))
                    .collect();
                assert_eq!(more, expected.len() > 3);
                assert_eq!(fields, cells(expected.iter().take(3)));
                for (field, value) in expected.into_iter().take(3).zip(values.iter()) {
                    assert_eq!(self.read((MAPS, key.clone(), field)).unwrap(), value);
                }
            }
            Op::ListLoad(key) => {
                let number = numbers(&mut self.state, std::slice::from_ref(&key))[0];
                let mut elements = Cells::new();
                self.state.list_load(LISTS, number, &mut elements).unwrap();
                let (expiry, now) = (self.expiry(LISTS), now(self.ttls, LISTS, self.times));
                let extends =
                    self.ttls[LISTS as usize].is_some_and(|ttl| ttl.refresh == Refresh::Read);
                let mut expected = Vec::new();
                for (value, old) in self.model.lists.get_mut(&key).into_iter().flatten() {
                    if old.is_none_or(|old| old > now) {
                        expected.push(value.clone());
                        if extends {
                            *old = (*old).max(expiry);
                        }
                    }
                }
                assert_eq!(elements, cells(&expected));
            }
            other => unreachable!("{other:?} is no look"),
        }
    }

    fn checkpoint(&mut self, completes: bool) {
        self.apply(Op::Commit);
        let id = CheckpointId(self.next);
        self.next += 1;
        let base = self.complete.as_ref().filter(|_| self.is_own);
        let base = base.map(|(id, ..)| *id);
        let sealed = self.state.snapshot(id, base);
        let before = match (&self.complete, sealed.base()) {
            (Some((_, chain, ..)), Some(_)) => chain.clone(),
            _ => Vec::new(),
        };
        let chain = self.written(&sealed, id, before);
        drop(sealed);
        self.check_chain(&chain, self.ttls, (5, 2));
        if completes {
            self.state.checkpoint_complete(id);
            let model = self.model.clone().alive(self.ttls, self.times);
            self.complete = Some((id, chain, model, self.times));
            self.is_own = true;
        }
    }

    /// The segments of a checkpoint, after those of its base.
    fn written(&self, sealed: &SealedState, id: CheckpointId, before: Chain) -> Chain {
        let mut segment = Vec::new();
        let written = sealed.write(&mut segment).unwrap();
        assert!(written.bytes <= sealed.size_hint());
        let alive = self.model.clone().alive(self.ttls, self.times);
        if sealed.base().is_none() {
            // What has expired is not in it, wherever its readers stand.
            for (state, held) in alive.held().iter().enumerate() {
                if state as u32 != MAPS {
                    assert_eq!(written.states[state], *held, "{}", NAMES[state]);
                }
                if self.ttls[state].is_some() {
                    assert_eq!(written.held[state], *held);
                }
            }
        }
        let mut chain = before;
        let origin = Origin {
            checkpoint: id,
            after: chain.last().map(|(origin, _)| origin.checkpoint),
            delta: sealed.base().is_some(),
            key_groups: groups(),
            range: groups().range_of(0, 1),
            states: (0..4)
                .map(|state| OriginState {
                    name: NAMES[state].into(),
                    kind: KINDS[state],
                    expires_by: self.ttls[state].map(|ttl| ttl.time),
                })
                .collect(),
            bytes: segment.len() as u64,
            taken: self.times,
        };
        crate::state::check_segment(&mut segment.as_slice(), &origin).unwrap();
        if !sealed.is_empty() {
            chain.push((origin, segment));
        }
        for (origin, _) in &mut chain {
            origin.taken = self.times;
        }
        chain
    }

    /// A chain restored shows what the model does, also later.
    fn check_chain(&self, chain: &Chain, ttls: Ttls, (clock, watermark): (i64, i64)) {
        let mut state = restored(chain, ttls, self.budget, self.times);
        assert_eq!(walked(&state), self.model.seen(ttls, self.times));
        state.set_now(self.times.processing + clock);
        state.set_watermark(self.times.watermark + watermark);
        let later = Times {
            processing: self.times.processing + clock,
            watermark: self.times.watermark + watermark,
        };
        assert_eq!(walked(&state), self.model.seen(ttls, later));
    }

    fn restart(&mut self, ttls: Ttls, clock: i64, watermark: i64) {
        let Some((_, chain, model, taken)) = self.complete.clone() else {
            return;
        };
        self.times = Times {
            // The clock of the machine, or the checkpoint's if it has gone back.
            processing: (self.times.processing + clock).max(taken.processing),
            watermark: taken.watermark,
        };
        let model = model.converted(self.ttls, ttls, self.times);
        self.state = restored(&chain, ttls, self.budget, self.times);
        self.is_own = false;
        self.times.watermark += watermark;
        self.state.set_watermark(self.times.watermark);
        self.ttls = ttls;
        self.model = model;
        self.committed = self.model.clone();
        // Its segments stay as they are until there is another checkpoint.
        self.complete = None;
    }

    fn check(&self) {
        assert_eq!(walked(&self.state), self.model.seen(self.ttls, self.times));
    }
}

fn restored(chain: &Chain, ttls: Ttls, budget: Option<u64>, times: Times) -> KeyedState {
    let mut state = new_state(ttls, budget);
    state.set_now(times.processing);
    for (origin, segment) in chain {
        state.restore_as(&mut segment.as_slice(), origin).unwrap();
    }
    state.set_watermark(times.watermark);
    state
}

/// What a state shows, without a read that would extend the life of something.
fn walked(state: &KeyedState) -> Seen {
    let mut seen = Seen::new();
    for state_number in [VALUES, OTHERS] {
        let (mut keys, mut values, mut cursor) = (Cells::new(), Cells::new(), Some(0));
        while let Some(at) = cursor {
            cursor = state
                .scan(state_number, at, 5, &mut keys, &mut values)
                .unwrap();
        }
        for (key, value) in keys.iter().zip(values.iter()) {
            let place = (state_number, key.to_vec(), Bytes::new());
            assert_eq!(seen.insert(place, value.to_vec()), None);
        }
    }
    for entry in state.walk().filter(|entry| entry.state >= MAPS) {
        let index = entry.index.map(|index| index.to_be_bytes().to_vec());
        let field = entry
            .field
            .map(<[u8]>::to_vec)
            .or(index)
            .unwrap_or_default();
        let place = (entry.state, entry.key.to_vec(), field);
        assert_eq!(seen.insert(place, entry.value.to_vec()), None);
    }
    seen
}

fn live_through(ttls: Ttls, ops: Vec<Op>, budget: Option<u64>) {
    let mut run = Run::new(ttls, budget);
    for op in ops {
        run.apply(op);
        run.check();
    }
    // What nobody touches goes away by itself.
    run.apply(Op::Commit);
    run.apply(Op::Clock(100));
    run.apply(Op::Watermark(100));
    for _ in 0..4000 {
        run.state.commit();
        if budget.is_some() {
            // Cold keys are swept between calls.
            numbers(&mut run.state, &[]);
        }
    }
    let left = run.model.clone().alive(run.ttls, run.times);
    run.check();
    let stored = run.state.snapshot(CheckpointId(run.next), None).held();
    assert_eq!(stored, left.held(), "what is stored is what is alive");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 96 } else { 3000 }))]

    #[test]
    fn c74_what_is_seen_is_what_the_model_says(ttls in ttls(), ops in vec(an_op(8), 0..120)) {
        live_through(ttls, ops, None);
    }

    #[test]
    fn c74_so_it_is_when_most_of_it_is_cold(
        ttls in ttls(),
        ops in vec(an_op(1), 0..120),
        budget in prop::sample::select(vec![0, 2000]),
    ) {
        live_through(ttls, ops, Some(budget));
    }
}

fn segment(state: &mut KeyedState, id: u64, base: Option<u64>) -> Bytes {
    let mut segment = Vec::new();
    let sealed = state.snapshot(CheckpointId(id), base.map(CheckpointId));
    sealed.write(&mut segment).unwrap();
    state.checkpoint_complete(CheckpointId(id));
    segment
}

fn origin(segment: &[u8], id: u64, ttls: Ttls, taken: Times) -> Origin {
    let states = (0..4).map(|state| OriginState {
        name: NAMES[state].into(),
        kind: KINDS[state],
        expires_by: ttls[state].map(|ttl| ttl.time),
    });
    Origin {
        checkpoint: CheckpointId(id),
        after: None,
        delta: false,
        key_groups: groups(),
        range: groups().range_of(0, 1),
        states: states.collect(),
        bytes: segment.len() as u64,
        taken,
    }
}

/// Something of every kind for one key.
fn fill(state: &mut KeyedState, key: &[u8]) {
    let numbers = numbers(state, &[key.to_vec()]);
    let cells = cells([&key.to_vec()]);
    state.store(VALUES, &numbers, cells.as_ref()).unwrap();
    state
        .map_store(MAPS, &numbers, cells.as_ref(), cells.as_ref())
        .unwrap();
    state.list_append(LISTS, &numbers, cells.as_ref()).unwrap();
    state.commit();
}

#[test]
fn what_was_written_before_the_first_watermark_lives_on_from_a_later_one() {
    let ttls = hour(TtlTime::Event);
    let mut state = new_state(ttls, None);
    state.set_now(1_000);
    fill(&mut state, b"early");
    (0..1000).for_each(|_| state.commit());
    assert_eq!(
        walked(&state).len(),
        3,
        "without a watermark nothing expires"
    );
    let before = segment(&mut state, 1, None);

    state.set_watermark(10_000_000);
    (0..1000).for_each(|_| state.commit());
    assert_eq!(walked(&state).len(), 3);
    state.set_watermark(10_000_000 + 3_599_999);
    assert_eq!(walked(&state).len(), 3);
    state.set_watermark(10_000_000 + 3_600_000);
    assert_eq!(walked(&state).len(), 0);

    // A checkpoint from before there was one: as if it had been written when there was.
    let mut restored = new_state(ttls, None);
    let origin = origin(&before, 1, ttls, Times::default());
    restored
        .restore_as(&mut before.as_slice(), &origin)
        .unwrap();
    restored.set_watermark(20_000_000);
    (0..1000).for_each(|_| restored.commit());
    restored.set_watermark(20_000_000 + 3_599_999);
    assert_eq!(walked(&restored).len(), 3);
    restored.set_watermark(20_000_000 + 3_600_000);
    assert_eq!(walked(&restored).len(), 0);
}

#[test]
fn the_end_of_all_input_is_no_time_at_which_entries_expire() {
    let ttls = hour(TtlTime::Event);
    let mut state = new_state(ttls, None);
    state.set_watermark(1_000);
    fill(&mut state, b"first");
    state.set_watermark(i64::MAX);
    fill(&mut state, b"last");
    (0..1000).for_each(|_| state.commit());
    assert_eq!(walked(&state).len(), 6);
    let last = segment(&mut state, 1, None);
    let taken = Times {
        processing: 5,
        watermark: i64::MAX,
    };
    let mut restored = new_state(ttls, None);
    restored
        .restore_as(&mut last.as_slice(), &origin(&last, 1, ttls, taken))
        .unwrap();
    assert_eq!(walked(&restored).len(), 6);
    restored.set_watermark(1_000 + 3_600_000);
    assert_eq!(walked(&restored).len(), 0);
}

#[test]
fn c49_what_has_expired_never_comes_back_though_a_clock_does() {
    let ttls = hour(TtlTime::Processing);
    let mut state = new_state(ttls, None);
    state.set_now(1_000);
    fill(&mut state, b"old");
    let full = segment(&mut state, 1, None);
    state.set_now(3_000_000);
    fill(&mut state, b"new");
    // The delta does not have the old key, its base does.
    let delta = segment(&mut state, 2, Some(1));
    let taken = Times {
        processing: 3_700_000,
        ..Times::default()
    };
    let first = origin(&full, 1, ttls, taken);
    let second = Origin {
        checkpoint: CheckpointId(2),
        after: Some(CheckpointId(1)),
        delta: true,
        ..first.clone()
    };
    // The clock of the other machine shows an earlier time than that at which the checkpoint was taken.
    let mut restored = new_state(ttls, None);
    restored.set_now(2_000);
    restored.restore_as(&mut full.as_slice(), &first).unwrap();
    restored.restore_as(&mut delta.as_slice(), &second).unwrap();
    let keys = |state: &KeyedState| -> Vec<Bytes> {
        walked(state).into_keys().map(|(_, key, _)| key).collect()
    };
    assert_eq!(keys(&restored), vec![b"new".to_vec(); 3]);
    restored.set_now(3_000);
    assert_eq!(restored.get(VALUES, b"old").unwrap(), None);
    // Time stands still there until the clock shows more.
    fill(&mut restored, b"late");
    restored.set_now(3_700_000 + 3_599_999);
    assert_eq!(keys(&restored), vec![b"late".to_vec(); 3]);
    restored.set_now(3_700_000 + 3_600_000);
    assert!(keys(&restored).is_empty());
}

#[test]
fn c49_what_had_expired_by_one_watermark_stays_away_under_a_lower_one() {
    // Two subtasks, of which one has a much lower watermark: merged they go on from that one.
    let ttls = hour(TtlTime::Event);
    let mut merged = new_state(ttls, None);
    let mut ahead = 0;
    for (subtask, watermark) in [(0, 1_000), (1, 9_000_000)] {
        let range = groups().range_of(subtask, 2);
        let mut state = KeyedState::new(merged.states().to_vec(), range, groups());
        state.set_watermark(1_000);
        for key in (0..40_u8).filter(|key| range.contains(groups().group_of(key::hash(&[*key])))) {
            fill(&mut state, &[key]);
            ahead += usize::from(subtask == 0);
        }
        let full = segment(&mut state, 1, None);
        let taken = Times {
            processing: 5,
            watermark,
        };
        let mut origin = origin(&full, 1, ttls, taken);
        origin.range = range;
        merged.restore_as(&mut full.as_slice(), &origin).unwrap();
    }
    merged.set_watermark(1_000);
    assert!(ahead > 5);
    assert_eq!(walked(&merged).len(), 3 * ahead);
}

#[test]
fn a_segment_and_its_metadata_agree_on_what_expires() {
    let none = [None; 4];
    let by_clock = hour(TtlTime::Processing);
    let mut state = new_state(by_clock, None);
    fill(&mut state, b"key");
    let written = segment(&mut state, 1, None);
    for (ttls, expected) in [
        (
            none,
            "entries of state `values` expire by the clock in the segment and do not expire in the metadata",
        ),
        (
            hour(TtlTime::Event),
            "entries of state `values` expire by the clock in the segment and expire by the watermark in the metadata",
        ),
    ] {
        let origin = origin(&written, 1, ttls, Times::default());
        let errors = [
            crate::state::check_segment(&mut written.as_slice(), &origin).err(),
            new_state(ttls, None)
                .restore_as(&mut written.as_slice(), &origin)
                .err(),
        ];
        for error in errors {
            let message = error.unwrap().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}

#[test]
fn c146_a_value_without_room_for_its_expiry_is_damage() {
    // As a program with an error would write it: the header says that values have one, and one is too short.
    let by_clock = hour(TtlTime::Processing);
    for (kind, strings) in [
        (0, &[&b"key"[..], b"1234567"][..]),
        (2, &[b"key", b"field", b""]),
    ] {
        let header = {
            let written = segment(&mut new_state(by_clock, None), 1, None);
            let mut bytes = written.as_slice();
            let mut reader = BlockReader::new(&mut bytes).unwrap();
            reader.next().unwrap();
            reader.rest().0.to_vec()
        };
        let mut written = Vec::new();
        let mut writer = BlockWriter::new(&mut written).unwrap();
        writer.block(BlockKind::Header, &header).unwrap();
        match strings {
            [key, value] => writer.strings(BlockKind::Values, kind, [*key, *value]),
            [key, field, value] => {
                writer.strings(BlockKind::MapEntries, kind, [*key, *field, *value])
            }
            _ => unreachable!(),
        }
        .unwrap();
        writer.finish().unwrap();
        let origin = origin(&written, 1, by_clock, Times::default());
        let errors = [
            crate::state::check_segment(&mut written.as_slice(), &origin).err(),
            new_state(by_clock, None)
                .restore_as(&mut written.as_slice(), &origin)
                .err(),
        ];
        for error in errors {
            let message = error.unwrap().to_string();
            assert!(message.contains(TOO_SHORT), "{message}");
        }
    }
}

#[test]
fn a_sweep_looks_at_a_part_of_a_list_state_and_makes_up_for_a_long_list() {
    let ttls = hour(TtlTime::Processing);
    let mut state = new_state(ttls, None);
    state.set_now(1_000);
    for key in 0..20_u8 {
        let numbers = numbers(&mut state, &vec![vec![key]; 50]);
        let elements: Vec<Bytes> = (0..50).map(|element| vec![element]).collect();
        state
            .list_append(LISTS, &numbers, cells(&elements).as_ref())
            .unwrap();
        state.commit();
    }
    state.set_now(4_000_000);
    let mut before = state.stats().keys;
    assert_eq!(before, 20);
    let mut commits = 0;
    while state.stats().keys > 0 {
        state.commit();
        commits += 1;
        assert!(before - state.stats().keys <= 1, "one long list at a time");
        before = state.stats().keys;
        assert!(commits < 100_000, "it ends");
    }
    assert!(commits > 20 * 50 / 8, "{commits} commits");
}
