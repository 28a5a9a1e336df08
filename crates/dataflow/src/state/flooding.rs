//! Keys that somebody chose so that their hashes are the same: what a state holds is right, and takes no
//! more work than with other keys. Work is counted, never timed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cold::memory::{MemoryStorage, Watch};
use super::{KeyedState, Resolved, StateDescriptor, StateKind};
use crate::cells::Cells;
use crate::element::CheckpointId;
use crate::key::{self, KeyGroups};

const BATCH: usize = 500;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys with one hash: their first word takes the first product of XXH3 to zero, whatever the second.
pub(super) fn colliding(number: u64) -> Vec<u8> {
    let mut key = vec![b'-'; 32];
    key[..8].copy_from_slice(&[0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe]);
    key[8..16].copy_from_slice(&number.to_le_bytes());
    key
}

/// Keys of which always eight have one hash: too few to make their table keyed.
fn grouped(number: u64) -> Vec<u8> {
    let mut key = colliding(number);
    key[16..24].copy_from_slice(&(number / 8).to_le_bytes());
    key
}

/// Keys of the same length with other hashes.
fn ordinary(number: u64) -> Vec<u8> {
    let mut key = colliding(number);
    key[0] = b'+';
    key
}

fn new_state() -> KeyedState {
    let descriptor = StateDescriptor {
        name: "values".into(),
        kind: StateKind::Value,
        schema: "bytes".into(),
        schema_version: 1,
        ttl: None,
    };
    let groups = KeyGroups::new(8).unwrap();
    KeyedState::new(vec![descriptor], groups.range_of(0, 1), groups)
}

/// One call: the keys have the values that the model says, and get others.
fn update(state: &mut KeyedState, keys: &[Vec<u8>], model: &mut Model) {
    let cells: Cells = keys.iter().map(Vec::as_slice).collect();
    let hashes: Vec<u64> = cells.iter().map(key::hash).collect();
    let mut resolved = Resolved::default();
    state
        .resolve(cells.as_ref(), &hashes, &mut resolved)
        .unwrap();
    let (mut found, mut absent) = (Cells::new(), Vec::new());
    state.load(0, None, &mut found, &mut absent).unwrap();
    let mut values = Cells::new();
    for (number, key) in (0..).zip(resolved.keys.iter()) {
        let expected = model.get(key).map_or(&[][..], Vec::as_slice);
        assert_eq!(found.get(number), expected);
        let value = [expected, b"+"].concat();
        values.push(&value);
        model.insert(key.to_vec(), value);
    }
    let numbers: Vec<u32> = (0..resolved.keys.len() as u32).collect();
    state.store(0, &numbers, values.as_ref()).unwrap();
    state.commit();
}

/// Gives this many keys values, a batch at a time.
fn fill(state: &mut KeyedState, count: u64, key_of: fn(u64) -> Vec<u8>, model: &mut Model) {
    let keys: Vec<Vec<u8>> = (0..count).map(key_of).collect();
    for batch in keys.chunks(BATCH) {
        update(state, batch, model);
    }
}

/// How many others are compared before a key is found, at most.
fn compared_max(state: &KeyedState, model: &Model) -> usize {
    let compared = model.keys().map(|key| {
        let place = state.keys.place(key::hash(key), || key);
        let mut compared = 0;
        let found = state.keys.index.find(place, |slot| {
            compared += 1;
            state.rows.key(slot, &state.heap) == key
        });
        assert!(found.is_some());
        compared
    });
    compared.max().unwrap()
}

fn segment(state: &mut KeyedState, id: u64, base: Option<u64>) -> Vec<u8> {
    let mut segment = Vec::new();
    let sealed = state.snapshot(CheckpointId(id), base.map(CheckpointId));
    sealed.write(&mut segment).unwrap();
    state.checkpoint_complete(CheckpointId(id));
    segment
}

#[test]
fn the_keys_have_one_hash() {
    assert_eq!(key::hash(&colliding(1)), key::hash(&colliding(2)));
    assert_eq!(key::hash(&grouped(8)), key::hash(&grouped(15)));
    assert_ne!(key::hash(&grouped(7)), key::hash(&grouped(8)));
    assert_ne!(key::hash(&ordinary(1)), key::hash(&ordinary(2)));
}

#[test]
fn c163_colliding_keys_are_found_as_fast_as_others_also_when_they_are_restored() {
    const KEYS: u64 = 20_000;
    let (mut state, mut model) = (new_state(), Model::new());
    fill(&mut state, KEYS, colliding, &mut model);
    fill(&mut state, KEYS, colliding, &mut model);
    fill(&mut state, KEYS, ordinary, &mut model);
    assert!(compared_max(&state, &model) <= 12);

    // Nothing of the secret is in what is written.
    let (mut other, mut again) = (new_state(), Model::new());
    fill(&mut other, KEYS, colliding, &mut again);
    fill(&mut other, KEYS, colliding, &mut again);
    fill(&mut other, KEYS, ordinary, &mut again);
    let full = segment(&mut state, 1, None);
    assert!(full == segment(&mut other, 1, None));

    // A delta that takes some away.
    for number in 0..KEYS / 2 {
        state.delete(0, &colliding(number)).unwrap();
        model.remove(&colliding(number));
        state.commit();
    }
    let delta = segment(&mut state, 2, Some(1));
    assert!(delta.len() < full.len());
    let mut restored = new_state();
    restored.restore(&mut full.as_slice()).unwrap();
    assert!(compared_max(&restored, &again) <= 12);
    restored.restore(&mut delta.as_slice()).unwrap();
    assert!(compared_max(&restored, &model) <= 12);
    assert!(restored.walk().eq(state.walk()));
    fill(&mut restored, KEYS, colliding, &mut model);
}

#[test]
fn slots_are_the_same_whatever_the_secret() {
    let [one, two] = [(), ()].map(|()| {
        let mut state = new_state();
        fill(&mut state, 5000, colliding, &mut Model::new());
        let slots: Vec<Option<u32>> = (0..5000)
            .map(|number| {
                let (keys, rows, heap) = (&mut state.keys, &state.rows, &state.heap);
                let key = colliding(number);
                keys.find(key::hash(&key), &key, rows, heap)
            })
            .collect();
        slots
    });
    assert!(one == two && one.iter().all(Option::is_some));
}

#[test]
fn colliding_keys_that_are_cold_cost_few_more_reads_than_others() {
    const KEYS: u64 = 2000;
    let read = |key_of: fn(u64) -> Vec<u8>| {
        let watch = Arc::<Watch>::default();
        let (mut state, mut model) = (new_state(), Model::new());
        state.set_memory_budget(50_000, Box::new(MemoryStorage(Arc::clone(&watch))));
        fill(&mut state, KEYS, key_of, &mut model);
        assert!(state.cold_stats().unwrap().keys > KEYS / 2);
        let before = watch.read_bytes.load(Ordering::Relaxed);
        // A key at a time, from all over the log.
        for number in 0..KEYS {
            update(&mut state, &[key_of(number * 7 % KEYS)], &mut model);
        }
        assert!(state.cold_stats().unwrap().recalled > KEYS / 2);
        watch.read_bytes.load(Ordering::Relaxed) - before
    };
    let others = read(ordinary);
    for colliding in [read(colliding), read(grouped)] {
        assert!(
            colliding < 2 * others,
            "{colliding} bytes, of others {others}"
        );
    }
}

#[test]
fn a_cold_key_is_read_in_vain_once_at_most_for_keys_that_collide_with_it() {
    const KEYS: u64 = 3000;
    let watch = Arc::<Watch>::default();
    let (mut state, mut model) = (new_state(), Model::new());
    state.set_memory_budget(100_000, Box::new(MemoryStorage(Arc::clone(&watch))));
    update(&mut state, &[colliding(0)], &mut model);
    fill(&mut state, KEYS, ordinary, &mut model);
    assert!(state.cold_stats().unwrap().keys > 0);
    assert!(!state.keys.index.is_keyed(key::hash(&colliding(0))));
    let (reads, recalled) = (
        watch.reads.load(Ordering::Relaxed),
        state.cold_stats().unwrap().recalled,
    );
    for number in 1..KEYS {
        update(&mut state, &[colliding(number)], &mut model);
    }
    assert!(state.keys.index.is_keyed(key::hash(&colliding(0))));
    assert_eq!(state.cold_stats().unwrap().recalled, recalled);
    let reads = watch.reads.load(Ordering::Relaxed) - reads;
    // Until there are enough that their table is keyed, and what cleaning reads.
    assert!(reads < KEYS / 10, "{reads} reads");
    // It is still there.
    update(&mut state, &[colliding(0)], &mut model);
    fill(&mut state, KEYS, ordinary, &mut model);
}

#[test]
fn keys_that_became_cold_before_their_table_was_keyed_are_found() {
    const KEYS: u64 = 4000;
    let (mut state, mut model) = (new_state(), Model::new());
    state.set_memory_budget(50_000, Box::new(MemoryStorage(Arc::default())));
    fill(&mut state, KEYS, ordinary, &mut model);
    assert!(!state.keys.index.any_keyed());
    let cold = state.cold_stats().unwrap().keys;
    assert!(cold > KEYS / 2);
    // All tables at once, as if somebody had attacked each of them.
    for shard in 0..super::index::SHARDS {
        let (index, place_of) = state.keys.with_places(&state.rows, &state.heap);
        index.key_shard(shard, place_of);
    }
    assert!(state.keys.index.is_keyed(0));
    assert_eq!(state.cold_stats().unwrap().keys, cold);
    // Found, made cold again, found again, and cleaned meanwhile.
    for _ in 0..3 {
        fill(&mut state, KEYS, ordinary, &mut model);
    }
    assert!(state.cold_stats().unwrap().cleaned > 0);
    let mut restored = new_state();
    let full = segment(&mut state, 1, None);
    restored.restore(&mut full.as_slice()).unwrap();
    fill(&mut restored, KEYS, ordinary, &mut model);
    assert_eq!(restored.stats().keys, KEYS);
}
