//! What is promised of cold state beside that it is what it was, which the property tests look at.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::memory::{MemoryStorage, Watch};
use super::piece::PIECE;
use super::*;
use crate::cells::Cells;
use crate::element::CheckpointId;
use crate::key::{self, KeyGroups};
use crate::state::{Resolved, StateDescriptor, StateKind};

/// Bytes of a value.
const LEN: usize = 100;

fn new_state(budget: u64, watch: &Arc<Watch>) -> KeyedState {
    let descriptor = StateDescriptor {
        name: "values".into(),
        kind: StateKind::Value,
        schema: "bytes".into(),
        schema_version: 1,
        ttl: None,
    };
    let groups = KeyGroups::new(8).unwrap();
    let mut state = KeyedState::new(vec![descriptor], groups.range_of(0, 1), groups);
    state.set_memory_budget(budget, Box::new(MemoryStorage(Arc::clone(watch))));
    state
}

fn key_of(number: u64) -> Vec<u8> {
    format!("key {number:012}").into_bytes()
}

fn value_of(number: u64, round: u64) -> Vec<u8> {
    (number ^ round << 32).to_le_bytes().repeat(LEN / 8 + 1)[..LEN].to_vec()
}

/// Checks that the keys have their values of the round before (any value in round 0), and gives them
/// those of this round.
fn update(state: &mut KeyedState, numbers: &[u64], rounds: &mut [u64]) -> Result<(), StateError> {
    let keys: Vec<Vec<u8>> = numbers.iter().map(|number| key_of(*number)).collect();
    let keys: Cells = keys.iter().map(Vec::as_slice).collect();
    let hashes: Vec<u64> = keys.iter().map(key::hash).collect();
    let mut resolved = Resolved::default();
    state.resolve(keys.as_ref(), &hashes, &mut resolved)?;
    let (mut found, mut absent) = (Cells::new(), Vec::new());
    state.load(0, None, &mut found, &mut absent)?;
    let (mut distinct, mut values) = (Vec::new(), Cells::new());
    for (&number, &of) in numbers.iter().zip(&resolved.numbers) {
        let round = &mut rounds[number as usize];
        if distinct.contains(&of) {
            continue;
        }
        if *round > 0 {
            assert_eq!(found.get(of as usize), value_of(number, *round));
        }
        *round += 1;
        distinct.push(of);
        values.push(&value_of(number, *round));
    }
    state.store(0, &distinct, values.as_ref())?;
    state.commit();
    Ok(())
}

/// SplitMix64.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*random ^ (*random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// All keys once, in batches.
fn fill(state: &mut KeyedState, rounds: &mut [u64]) {
    let all: Vec<u64> = (0..rounds.len() as u64).collect();
    for batch in all.chunks(100) {
        update(state, batch, rounds).unwrap();
    }
}

#[test]
fn memory_and_disk_stay_bounded_and_what_is_used_often_stays_in_memory() {
    const KEYS: u64 = 20_000;
    let watch = Arc::<Watch>::default();
    // All in memory would be some 180 bytes a key.
    let budget = KEYS * 60;
    let mut state = new_state(budget, &watch);
    let mut rounds = vec![0; KEYS as usize];
    fill(&mut state, &mut rounds);
    let mut random = 1;
    let mut batch = |state: &mut KeyedState| {
        let numbers: Vec<u64> = (0..100)
            .map(|_| match next(&mut random) % 10 {
                0 => next(&mut random) % KEYS,
                _ => next(&mut random) % (KEYS / 10),
            })
            .collect();
        update(state, &numbers, &mut rounds).unwrap();
    };
    (0..1000).for_each(|_| batch(&mut state));
    let warm = state.cold_stats().unwrap();
    for _ in 0..1000 {
        batch(&mut state);
        let stats = state.cold_stats().unwrap();
        let brought = 100 * 200;
        assert!(stats.memory <= budget + brought, "{stats:?}");
        let bytes = watch.bytes.load(Ordering::Relaxed);
        assert!(
            bytes <= 2 * stats.bytes + 8 * PIECE as u64,
            "{bytes} bytes on disk, {stats:?}"
        );
    }
    let stats = state.cold_stats().unwrap();
    let missed = stats.recalled - warm.recalled;
    // One access in ten goes to any key, of which most are cold: more than these would mean that hot
    // keys are evicted.
    assert!((1000..9000).contains(&missed), "{missed} of 100,000");
    assert!(stats.keys > KEYS / 2 && stats.cleaned > 0, "{stats:?}");
    assert_eq!(stats.evicted - stats.recalled, stats.keys);
    assert_eq!(state.stats().keys, KEYS);
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_lost() {
    let watch = Arc::<Watch>::default();
    let mut state = new_state(100_000, &watch);
    let mut rounds = vec![0; 3000];
    fill(&mut state, &mut rounds);
    assert!(state.cold_stats().unwrap().keys > 1000);
    watch.full.store(true, Ordering::Relaxed);
    let all: Vec<u64> = (0..3000).collect();
    let failed = all
        .chunks(100)
        .find_map(|batch| update(&mut state, batch, &mut rounds).err());
    let full = StateError::Cold {
        reason: "memory is full".into(),
    };
    assert_eq!(failed, Some(full));
    // A look-up by key evicts nothing.
    for (number, round) in (0..).zip(&rounds) {
        let value = state.get(0, &key_of(number)).unwrap();
        assert_eq!(value, Some(value_of(number, *round).as_slice()));
    }
    watch.full.store(false, Ordering::Relaxed);
    fill(&mut state, &mut rounds);
    fill(&mut state, &mut rounds);
}

#[test]
fn what_was_damaged_on_disk_is_found() {
    let watch = Arc::<Watch>::default();
    let mut state = new_state(0, &watch);
    let mut rounds = vec![0; 2000];
    fill(&mut state, &mut rounds);
    watch.damaged.store(true, Ordering::Relaxed);
    let is_damage = |error: &StateError| {
        let StateError::Cold { reason } = error else {
            return false;
        };
        reason.contains("does not match its checksum")
    };
    let error = update(&mut state, &[0, 1, 2], &mut rounds).unwrap_err();
    assert!(is_damage(&error), "{error}");
    assert!(is_damage(&state.get(0, &key_of(7)).unwrap_err()));
    let scan = |state: &KeyedState| state.scan(0, 0, 9, &mut Cells::new(), &mut Cells::new());
    assert!(is_damage(&scan(&state).unwrap_err()));
    let sealed = state.snapshot(CheckpointId(1), None);
    let error = sealed.write(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_snapshot_keeps_the_files_it_needs() {
    let watch = Arc::<Watch>::default();
    let mut state = new_state(0, &watch);
    let mut rounds = vec![0; 2000];
    fill(&mut state, &mut rounds);
    let sealed = state.snapshot(CheckpointId(1), None);
    let (then, files) = (rounds.clone(), watch.files.load(Ordering::Relaxed));
    // All that was cold is replaced meanwhile, several times.
    let changes = std::thread::spawn(move || {
        for _ in 0..5 {
            fill(&mut state, &mut rounds);
        }
        state
    });
    let mut segment = Vec::new();
    let written = sealed.write(&mut segment).unwrap();
    let state = changes.join().unwrap();
    assert_eq!(written.states, [(2000, 2000 * (16 + LEN as u64))]);
    let after = Arc::<Watch>::default();
    let mut restored = new_state(50_000, &after);
    restored.restore(&mut segment.as_slice()).unwrap();
    for (number, round) in (0..).zip(&then) {
        let value = restored.get(0, &key_of(number)).unwrap();
        assert_eq!(value, Some(value_of(number, *round).as_slice()));
    }
    let kept = watch.files.load(Ordering::Relaxed);
    assert!(kept > files, "{kept} files, and {files} before");
    drop(sealed);
    assert!(watch.files.load(Ordering::Relaxed) < kept);
    drop(state);
    assert_eq!(watch.files.load(Ordering::Relaxed), 0);
}

/// Looks a key up, in a call of its own.
fn look(state: &mut KeyedState, number: u64) {
    let mut resolved = Resolved::default();
    let key = key_of(number);
    let (keys, hashes) = (Cells::from_iter([key.as_slice()]), [key::hash(&key)]);
    state
        .resolve(keys.as_ref(), &hashes, &mut resolved)
        .unwrap();
    state.commit();
}

#[test]
fn a_delta_has_what_was_changed_and_came_back_to_where_nothing_was() {
    let mut state = new_state(400_000, &Arc::default());
    let mut rounds = vec![0; 6000];
    fill(&mut state, &mut rounds);
    drop(state.snapshot(CheckpointId(0), None));
    state.checkpoint_complete(CheckpointId(0));
    for round in 1..9 {
        let changed: Vec<u64> = (round * 600..round * 600 + 10).collect();
        update(&mut state, &changed, &mut rounds).unwrap();
        (0..6000)
            .filter(|number| !changed.contains(number))
            .for_each(|number| look(&mut state, number));
        let before = state.cold_stats().unwrap().recalled;
        changed.iter().for_each(|number| look(&mut state, *number));
        assert_eq!(state.cold_stats().unwrap().recalled - before, 10);
        let delta = state.snapshot(CheckpointId(round), Some(CheckpointId(round - 1)));
        let written = delta.write(&mut Vec::new()).unwrap();
        assert_eq!(written.states[0].0, 10);
        drop(delta);
        state.checkpoint_complete(CheckpointId(round));
    }
}

#[test]
fn a_delta_has_each_changed_entry_once_wherever_it_lies() {
    let watch = Arc::<Watch>::default();
    let mut state = new_state(60_000, &watch);
    let mut rounds = vec![0; 3000];
    fill(&mut state, &mut rounds);
    let mut chain = vec![Vec::new()];
    let full = state.snapshot(CheckpointId(1), None);
    full.write(&mut chain[0]).unwrap();
    drop(full);
    state.checkpoint_complete(CheckpointId(1));
    // Nothing changes by being read.
    (0..3000).for_each(|number| look(&mut state, number));
    let nothing = state.snapshot(CheckpointId(2), Some(CheckpointId(1)));
    assert!(nothing.is_empty());
    assert_eq!(nothing.write(&mut Vec::new()).unwrap().states, [(0, 0)]);
    drop(nothing);
    let changed: Vec<u64> = (0..3000).step_by(3).collect();
    for _ in 0..3 {
        for batch in changed.chunks(100) {
            update(&mut state, batch, &mut rounds).unwrap();
        }
    }
    assert!(state.cold_stats().unwrap().keys > 2000);
    let reads = watch.reads.load(Ordering::Relaxed);
    let delta = state.snapshot(CheckpointId(3), Some(CheckpointId(1)));
    chain.push(Vec::new());
    let written = delta.write(&mut chain[1]).unwrap();
    assert_eq!(written.states, [(1000, 1000 * (16 + LEN as u64))]);
    // Only pieces in which something new may be.
    let pieces = 4 * (3 * 1000 * 160 / PIECE as u64 + 1);
    let reads = watch.reads.load(Ordering::Relaxed) - reads;
    assert!(reads < pieces, "{reads} of {pieces}");
    drop(delta);
    let mut restored = new_state(60_000, &Arc::default());
    for segment in &chain {
        restored.restore(&mut segment.as_slice()).unwrap();
    }
    let stats = restored.cold_stats().unwrap();
    // What a block held may still be in memory.
    assert!(stats.keys > 0 && stats.memory < 250_000, "{stats:?}");
    fill(&mut restored, &mut rounds);
}

#[test]
fn keys_of_which_the_index_knows_the_same_hash_both_come_back() {
    // Found by trying: bits 16 to 63 of their hashes are the same.
    let keys = ["key 12209632", "key 53171896"].map(str::as_bytes);
    assert_eq!(key::hash(keys[0]) >> 16, key::hash(keys[1]) >> 16);
    let mut state = new_state(0, &Arc::default());
    let call = |state: &mut KeyedState, keys: &[&[u8]], store: bool| {
        let keys: Cells = keys.iter().copied().collect();
        let hashes: Vec<u64> = keys.iter().map(key::hash).collect();
        let mut resolved = Resolved::default();
        state
            .resolve(keys.as_ref(), &hashes, &mut resolved)
            .unwrap();
        let (mut found, mut absent) = (Cells::new(), Vec::new());
        state.load(0, None, &mut found, &mut absent).unwrap();
        if store {
            let numbers: Vec<u32> = (0..resolved.keys.len() as u32).collect();
            state.store(0, &numbers, resolved.keys.as_ref()).unwrap();
        }
        state.commit();
        found
    };
    call(&mut state, &keys, true);
    for order in [[keys[0], keys[1]], [keys[1], keys[0]]] {
        // Others come, and go as well.
        for round in 0..20 {
            let other = format!("other {round}");
            call(&mut state, &[other.as_bytes()], true);
        }
        assert!(state.cold_stats().unwrap().keys >= 2);
        let recalled = state.cold_stats().unwrap().recalled;
        let found = call(&mut state, &order, false);
        assert_eq!(found, order.into_iter().collect::<Cells>());
        assert_eq!(state.cold_stats().unwrap().recalled, recalled + 2);
    }
}
