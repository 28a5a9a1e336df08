use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::cells::Cells;
use crate::element::CheckpointId;
use crate::key::{self, KeyGroupRange, KeyGroups};
use crate::state::SealedState;

/// Domain, time, key, tag.
type Model = BTreeSet<(TimeDomain, i64, Vec<u8>, u32)>;

fn groups() -> KeyGroups {
    KeyGroups::new(8).unwrap()
}

fn empty(start: u32, end: u32) -> KeyedState {
    let mut states = vec![StateDescriptor {
        name: "values".into(),
        kind: StateKind::Value,
        schema: "bytes".into(),
        schema_version: 1,
        ttl: None,
    }];
    states.extend(timer_states());
    KeyedState::new(states, KeyGroupRange { start, end }, groups())
}

fn key(number: u8) -> Vec<u8> {
    format!("key {number}").into_bytes()
}

fn resolve(state: &mut KeyedState, keys: &[Vec<u8>]) -> Resolved {
    let hashes: Vec<u64> = keys.iter().map(|key| key::hash(key)).collect();
    let cells: Cells = keys.iter().map(Vec::as_slice).collect();
    let mut resolved = Resolved::default();
    state
        .resolve(cells.as_ref(), &hashes, &mut resolved)
        .unwrap();
    resolved
}

/// Takes all that is due and puts it into the order of the model. Checks the promises about order.
fn fire(state: &mut KeyedState, domain: TimeDomain, now: i64, count: usize) -> Model {
    let (mut all, mut fired) = (Model::new(), Fired::default());
    let mut before = i64::MIN;
    loop {
        state.take_timers(domain, now, count, &mut fired).unwrap();
        if fired.is_empty() {
            state.commit();
            return all;
        }
        assert!(fired.len() <= count);
        assert_eq!(fired.keys.keys.len(), fired.len());
        let keys: BTreeSet<&[u8]> = fired.keys.keys.iter().collect();
        assert_eq!(keys.len(), fired.len(), "a key comes once in a batch");
        for (index, key) in fired.keys.keys.iter().enumerate() {
            let (time, tag) = (fired.times[index], fired.tags[index]);
            assert!(before <= time && time <= now);
            before = time;
            assert!(all.insert((domain, time, key.to_vec(), tag)));
        }
        state.commit();
    }
}

fn due(model: &mut Model, domain: TimeDomain, now: i64) -> Model {
    let due = |it: &(TimeDomain, i64, Vec<u8>, u32)| it.0 == domain && it.1 <= now;
    let fired = model.iter().filter(|it| due(it)).cloned().collect();
    model.retain(|it| !due(it));
    fired
}

#[derive(Clone, Debug)]
enum Op {
    Register(Vec<(u8, i64, u32)>, bool),
    Delete(Vec<(u8, i64, u32)>, bool),
    Fire(i64, usize),
    /// Takes a batch, registers some of its keys again, and fails.
    FailWhileFiring(i64),
    Fail(Vec<(u8, i64, u32)>),
    Value(u8),
    Snapshot,
    Restore(u32),
}

fn timers() -> impl Strategy<Value = Vec<(u8, i64, u32)>> {
    // Many of about the same time, and some that are far from each other.
    let time = prop_oneof![
        3 => -3..20_i64,
        1 => -300..300_i64,
        1 => prop_oneof![Just(i64::MIN), Just(i64::MAX)],
    ];
    prop::collection::vec((0..12_u8, time, 0..3_u32), 1..12)
}

fn until() -> impl Strategy<Value = i64> {
    prop_oneof![3 => -5..22_i64, 1 => -300..300_i64]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (timers(), any::<bool>()).prop_map(|(it, event)| Op::Register(it, event)),
        2 => (timers(), any::<bool>()).prop_map(|(it, event)| Op::Delete(it, event)),
        2 => (until(), 1..6_usize).prop_map(|(now, count)| Op::Fire(now, count)),
        1 => until().prop_map(Op::FailWhileFiring),
        1 => timers().prop_map(Op::Fail),
        1 => (0..12_u8).prop_map(Op::Value),
        2 => Just(Op::Snapshot),
        1 => (1..4_u32).prop_map(Op::Restore),
    ]
}

/// A subtask for each part of the key groups.
struct Job {
    parts: Vec<KeyedState>,
    model: Model,
    /// The model at the last snapshot, and the segments of each subtask since its last full one.
    taken: Option<(Model, Vec<Vec<Vec<u8>>>)>,
    next: u64,
}

fn domain(event: bool) -> TimeDomain {
    match event {
        true => TimeDomain::Event,
        false => TimeDomain::Processing,
    }
}

impl Job {
    fn new() -> Self {
        Self {
            parts: vec![empty(0, 8)],
            model: Model::new(),
            taken: None,
            next: 1,
        }
    }

    fn part(&mut self, key: &[u8]) -> usize {
        let group = groups().group_of(key::hash(key));
        let owns = |state: &KeyedState| state.range.contains(group);
        self.parts.iter().position(owns).unwrap()
    }

    /// One call for each subtask that some of the timers belong to.
    fn change(&mut self, timers: &[(u8, i64, u32)], domain: TimeDomain, register: bool) {
        for part in 0..self.parts.len() {
            let mine: Vec<_> = timers
                .iter()
                .filter(|(number, ..)| self.part(&key(*number)) == part)
                .copied()
                .collect();
            let keys: Vec<Vec<u8>> = mine.iter().map(|(number, ..)| key(*number)).collect();
            let state = &mut self.parts[part];
            let numbers = resolve(state, &keys).numbers;
            let times: Vec<i64> = mine.iter().map(|it| it.1).collect();
            let tags: Vec<u32> = mine.iter().map(|it| it.2).collect();
            match register {
                true => state.register_timers(domain, &numbers, &times, &tags),
                false => state.delete_timers(domain, &numbers, &times, &tags),
            }
            .unwrap();
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Register(timers, event) => {
                self.change(&timers, domain(event), true);
                self.parts.iter_mut().for_each(KeyedState::commit);
                let timers = timers.into_iter();
                self.model.extend(
                    timers.map(|(number, time, tag)| (domain(event), time, key(number), tag)),
                );
            }
            Op::Delete(timers, event) => {
                self.change(&timers, domain(event), false);
                self.parts.iter_mut().for_each(KeyedState::commit);
                for (number, time, tag) in timers {
                    self.model.remove(&(domain(event), time, key(number), tag));
                }
            }
            Op::Fail(timers) => {
                let (some, others) = timers.split_at(timers.len() / 2);
                self.change(others, TimeDomain::Event, false);
                self.change(some, TimeDomain::Event, true);
                self.parts.iter_mut().for_each(KeyedState::rollback);
            }
            Op::Fire(now, count) => {
                for domain in TimeDomain::ALL {
                    let parts = self.parts.iter_mut();
                    let fired: Vec<Model> =
                        parts.map(|part| fire(part, domain, now, count)).collect();
                    let sum: usize = fired.iter().map(Model::len).sum();
                    let fired: Model = fired.into_iter().flatten().collect();
                    assert_eq!(sum, fired.len());
                    assert_eq!(fired, due(&mut self.model, domain, now));
                }
            }
            Op::FailWhileFiring(now) => {
                for part in &mut self.parts {
                    let mut fired = Fired::default();
                    part.take_timers(TimeDomain::Event, now, 3, &mut fired)
                        .unwrap();
                    let numbers = &fired.keys.numbers;
                    let again = fired.times.iter().map(|time| time.saturating_add(1));
                    let again: Vec<i64> = again.collect();
                    part.register_timers(TimeDomain::Event, numbers, &again, &fired.tags)
                        .unwrap();
                    part.rollback();
                }
            }
            Op::Value(number) => {
                let part = self.part(&key(number));
                self.parts[part].put(0, &key(number), b"value").unwrap();
                self.parts[part].commit();
            }
            Op::Snapshot => self.snapshot(),
            Op::Restore(parts) => self.restore(parts),
        }
        for domain in TimeDomain::ALL {
            let timers = self.model.iter().filter(|it| it.0 == domain);
            let state = 1 + domain as usize;
            let held = self
                .parts
                .iter()
                .map(|part| part.tables[state].counters.entries);
            assert_eq!(held.sum::<u64>(), timers.count() as u64);
        }
    }

    fn snapshot(&mut self) {
        let id = CheckpointId(self.next);
        self.next += 1;
        let known = self.taken.take().map(|(_, segments)| segments);
        let mut known = known.unwrap_or_else(|| vec![Vec::new(); self.parts.len()]);
        for (part, segments) in self.parts.iter_mut().zip(&mut known) {
            let base = part.seals.last().map(|seal| seal.id);
            let sealed: SealedState = part.snapshot(id, base);
            if sealed.base().is_none() {
                segments.clear();
            }
            let mut segment = Vec::new();
            sealed.write(&mut segment).unwrap();
            segments.push(segment);
            part.checkpoint_complete(id);
        }
        self.taken = Some((self.model.clone(), known));
    }

    /// Goes back to the last snapshot, at another parallelism.
    fn restore(&mut self, parts: u32) {
        let Some((model, segments)) = &self.taken else {
            return;
        };
        let restored = (0..parts).map(|part| {
            let range = groups().range_of(part, parts);
            let mut state = empty(range.start, range.end);
            for segment in segments.iter().flatten() {
                state.restore(&mut segment.as_slice()).unwrap();
            }
            state
        });
        self.parts = restored.collect();
        self.model = model.clone();
        self.taken = None;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn timers_are_what_a_set_ordered_by_time_would_be(ops in prop::collection::vec(op(), 1..60)) {
        let mut job = Job::new();
        ops.into_iter().for_each(|op| job.apply(op));
        // All fire at the end, each once, and nothing is left.
        job.apply(Op::Fire(i64::MAX, 7));
        prop_assert!(job.model.is_empty());
        for part in &job.parts {
            prop_assert_eq!(part.tables[1].counters.entries + part.tables[2].counters.entries, 0);
        }
    }

    #[test]
    fn the_order_of_fields_is_that_of_time_and_tag(one: (i64, u32), other: (i64, u32)) {
        prop_assert_eq!(field(one.0, one.1).cmp(&field(other.0, other.1)), one.cmp(&other));
        prop_assert_eq!(timer_of_field(&field(one.0, one.1)), Some(one));
    }
}

#[test]
fn one_that_is_registered_while_firing_fires_in_its_turn() {
    let mut state = empty(0, 8);
    let numbers = resolve(&mut state, &[key(1), key(2)]).numbers;
    state
        .register_timers(TimeDomain::Event, &numbers, &[10, 30], &[0, 0])
        .unwrap();
    state.commit();
    let (mut order, mut fired) = (Vec::new(), Fired::default());
    loop {
        state
            .take_timers(TimeDomain::Event, 30, 1, &mut fired)
            .unwrap();
        let Some(time) = fired.times.first().copied() else {
            break;
        };
        order.push((time, fired.keys.keys.get(0).to_vec()));
        if time == 10 {
            state
                .register_timers(TimeDomain::Event, &[0], &[20], &[0])
                .unwrap();
        }
        state.commit();
    }
    assert_eq!(order, [(10, key(1)), (20, key(1)), (30, key(2))]);
}

#[test]
fn those_of_one_time_fire_as_they_came_and_those_of_a_key_by_their_tags() {
    let mut state = empty(0, 8);
    let numbers = resolve(&mut state, &[key(2), key(1), key(2), key(3)]).numbers;
    state
        .register_timers(TimeDomain::Event, &numbers, &[5; 4], &[7, 7, 3, 7])
        .unwrap();
    state.commit();
    let (mut batches, mut fired) = (Vec::new(), Fired::default());
    for _ in 0..2 {
        state
            .take_timers(TimeDomain::Event, 5, 9, &mut fired)
            .unwrap();
        let keys = fired.keys.keys.iter().map(<[u8]>::to_vec);
        batches.push(keys.zip(fired.tags.iter().copied()).collect::<Vec<_>>());
        state.commit();
    }
    let first = [(key(2), 3), (key(1), 7), (key(3), 7)];
    assert_eq!(batches, [first.to_vec(), vec![(key(2), 7)]]);
}

#[test]
fn a_call_looks_at_few_timers_that_have_to_wait_for_the_next() {
    let mut state = empty(0, 8);
    let numbers = resolve(&mut state, &[key(1), key(2)]).numbers;
    let many = 3 * WAITING_MAX as u32;
    for tag in 0..many {
        state
            .register_timers(TimeDomain::Event, &numbers[..1], &[7], &[tag])
            .unwrap();
    }
    state
        .register_timers(TimeDomain::Event, &numbers[1..], &[7], &[many])
        .unwrap();
    state.commit();
    let (mut order, mut fired) = (Vec::new(), Fired::default());
    for _ in 0..many {
        state
            .take_timers(TimeDomain::Event, 7, 1024, &mut fired)
            .unwrap();
        order.push(fired.tags.clone());
        state.commit();
    }
    // As long as more of the first key are before it than a call looks at, that of the second one waits, too.
    let with_second = 2 * WAITING_MAX as u32 + 1;
    for (tag, tags) in (0..many).zip(order) {
        let expected = match tag == with_second - 1 {
            true => vec![tag, many],
            false => vec![tag],
        };
        assert_eq!(tags, expected);
    }
    assert_eq!(state.timers_held(), 0);
}

#[test]
fn timers_that_are_moved_again_and_again_leave_little_behind() {
    let mut state = empty(0, 8);
    for time in 0..50_000_i64 {
        let numbers = resolve(&mut state, &[key(1)]).numbers;
        state
            .delete_timers(TimeDomain::Event, &numbers, &[time], &[0])
            .unwrap();
        state
            .register_timers(TimeDomain::Event, &numbers, &[time + 1], &[0])
            .unwrap();
        state.commit();
    }
    let timers = state.tables[1].timers();
    assert!(timers.queue.len < 2 * STALE_MAX, "{}", timers.queue.len);
    assert!(state.next_timer(TimeDomain::Event).is_some());
}

#[test]
fn what_is_gone_within_an_interval_is_in_no_delta() {
    let mut state = empty(0, 8);
    let numbers = resolve(&mut state, &[key(1)]).numbers;
    state.put(0, &key(1), b"kept").unwrap();
    state
        .register_timers(TimeDomain::Event, &numbers, &[1], &[0])
        .unwrap();
    state.commit();
    state.snapshot(CheckpointId(1), None);
    state.checkpoint_complete(CheckpointId(1));
    resolve(&mut state, &[key(1)]);
    state
        .register_timers(TimeDomain::Event, &numbers, &[2], &[0])
        .unwrap();
    state.commit();
    let mut fired = Fired::default();
    for _ in 0..2 {
        state
            .take_timers(TimeDomain::Event, 2, 9, &mut fired)
            .unwrap();
        state.commit();
    }
    // The removal of the first timer only.
    let bytes = state.tables[1].removals.bytes();
    assert_eq!(bytes as usize, 1 + key(1).len() + 1 + FIELD);
}

#[test]
fn accesses_to_states_do_not_reach_timers() {
    let mut state = empty(0, 8);
    resolve(&mut state, &[key(1)]);
    let no_state = StateError::NoState { state: 1, count: 1 };
    assert_eq!(state.clear(1, &[0]), Err(no_state.clone()));
    assert_eq!(state.delete(1, &key(1)), Err(no_state.clone()));
    let scanned = state.scan(1, 0, 10, &mut Cells::new(), &mut Cells::new());
    assert_eq!(scanned, Err(no_state));
    let mut without = KeyedState::new(Vec::new(), KeyGroupRange { start: 0, end: 8 }, groups());
    assert_eq!(without.next_timer(TimeDomain::Event), None);
    assert_eq!(
        without.register_timers(TimeDomain::Event, &[], &[], &[]),
        Err(StateError::NoTimers)
    );
}

#[test]
fn what_is_skipped_is_gone_and_a_snapshot_may_follow() {
    let mut state = empty(0, 8);
    let keys = [key(1)];
    resolve(&mut state, &keys);
    state
        .register_timers(TimeDomain::Processing, &[0, 0], &[5, 9], &[0, 0])
        .unwrap();
    state.commit();
    assert_eq!(state.skip_timers(TimeDomain::Processing, 5), Ok(1));
    state.snapshot(CheckpointId(1), None);
    // Also if there is nothing to skip.
    assert_eq!(state.skip_timers(TimeDomain::Processing, 5), Ok(0));
    state.snapshot(CheckpointId(2), None);
    assert_eq!(state.timers_held(), 1);
}
