//! What keyed state costs: a count per key of 16 bytes, in batches of 1,024 records, as an operator
//! does it (look the batch's keys up, load, add, store, commit).
//!
//! `cargo run --release --example keyed_count [keys …]` prints nanoseconds per record (of CPU time
//! where the system tells it, so that a busy machine does little harm) with and without a snapshot
//! being written, the pause to take one, and what a key takes in memory. The same count with a bare
//! hash table of inline keys and counts, one lookup per record, is there to compare with.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use dataflow::state::{KeyedState, Resolved, SealedState, StateDescriptor, StateKind};
use hashbrown::HashTable;

use dataflow::{Cells, CheckpointId, KeyGroups, key};

const BATCH: usize = 1024;

/// A batch whose keys were hashed on the way here.
struct Batch {
    keys: Cells,
    hashes: Vec<u64>,
}

/// Columns that are reused from batch to batch.
#[derive(Default)]
struct Columns {
    resolved: Resolved,
    numbers: Vec<u32>,
    values: Cells,
    counts: Vec<u64>,
    absent: Vec<u32>,
    updated: Cells,
}

/// SplitMix64: the example needs numbers without pattern, not good ones.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*random ^ (*random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn batch(of: impl Iterator<Item = u64>) -> Batch {
    let mut keys = Cells::new();
    for number in of {
        let mut mixed = number;
        keys.push(&[number.to_le_bytes(), next(&mut mixed).to_le_bytes()].concat());
    }
    let hashes = keys.iter().map(key::hash).collect();
    Batch { keys, hashes }
}

/// Counts one batch, the way an operator does.
fn count(state: &mut KeyedState, batch: &Batch, columns: &mut Columns) {
    state
        .resolve(batch.keys.as_ref(), &batch.hashes, &mut columns.resolved)
        .expect("the keys are owned");
    let distinct = columns.resolved.keys.len();
    columns.values.clear();
    columns.absent.clear();
    state
        .load(0, None, &mut columns.values, &mut columns.absent)
        .expect("the state is declared");
    columns.counts.clear();
    columns.counts.extend(
        columns
            .values
            .iter()
            .map(|value| value.try_into().map_or(0, u64::from_le_bytes)),
    );
    for number in &columns.resolved.numbers {
        columns.counts[*number as usize] += 1;
    }
    columns.updated.clear();
    columns
        .counts
        .iter()
        .for_each(|count| columns.updated.push(&count.to_le_bytes()));
    columns.numbers.clear();
    columns.numbers.extend(0..distinct as u32);
    state
        .store(0, &columns.numbers, columns.updated.as_ref())
        .expect("the state is declared");
    state.commit();
}

/// Nanoseconds that this thread has run for.
fn cpu_time(origin: Instant) -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let time = stat.and_then(|stat| stat.split(' ').next()?.parse().ok());
    time.unwrap_or_else(|| origin.elapsed().as_nanos() as f64)
}

/// Nanoseconds per record.
fn timed(batches: &[Batch], origin: Instant, count: impl FnMut(&Batch)) -> f64 {
    let start = cpu_time(origin);
    batches.iter().for_each(count);
    (cpu_time(origin) - start) / (batches.len() * BATCH) as f64
}

fn median(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    format!(
        "{:.1} ns/record (median {:.1})",
        times[0],
        times[times.len() / 2]
    )
}

/// What there is to compare with.
#[derive(Default)]
struct Bare(HashTable<([u8; 16], u64)>);

impl Bare {
    fn count(&mut self, batch: &Batch) {
        for (key, &hash) in batch.keys.iter().zip(&batch.hashes) {
            let key: [u8; 16] = key.try_into().expect("keys have 16 bytes");
            let found = self
                .0
                .entry(hash, |entry| entry.0 == key, |entry| key::hash(&entry.0));
            found.or_insert((key, 0)).into_mut().1 += 1;
        }
    }
}

/// Bytes of this process in memory; 0 where the system does not say.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|pages| pages.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

fn write_in_background(sealed: SealedState) -> thread::JoinHandle<(Duration, u64)> {
    thread::spawn(move || {
        let start = Instant::now();
        let written = sealed
            .write(&mut io::sink())
            .expect("nothing can go wrong with a sink");
        (start.elapsed(), written.bytes)
    })
}

fn measure(keys: u64) {
    let origin = Instant::now();
    let rounds = if keys > 2_000_000 { 4 } else { 9 };
    let groups = KeyGroups::default_for(1);
    let descriptor = StateDescriptor {
        name: "count".into(),
        kind: StateKind::Value,
        schema: "u64".into(),
        schema_version: 1,
        ttl_ms: None,
    };
    let new = || KeyedState::new(vec![descriptor.clone()], groups.range_of(0, 1), groups);
    let mut state = new();
    let mut columns = Columns::default();
    let mut random = keys;
    let batches: Vec<Batch> = (0..(keys as usize / BATCH).clamp(1000, 3000))
        .map(|_| batch((0..BATCH).map(|_| next(&mut random) % keys)))
        .collect();

    let before = resident();
    let (mut filling, mut longest) = (0.0, Duration::ZERO);
    let all: Vec<u64> = (0..keys).collect();
    let scratch = resident() - before;
    for part in all.chunks(BATCH) {
        let batch = batch(part.iter().copied());
        let start = Instant::now();
        filling += timed(std::slice::from_ref(&batch), origin, |batch| {
            count(&mut state, batch, &mut columns)
        });
        longest = longest.max(start.elapsed());
    }
    let per_key = (resident() - before - scratch) as f64 / keys as f64;
    println!(
        "{keys} keys: filled at {:.0} ns/record (longest batch {:.2} ms), {per_key:.1} bytes/key in memory",
        filling * BATCH as f64 / keys as f64,
        longest.as_secs_f64() * 1e3
    );

    let mut bare = Bare::default();
    all.chunks(BATCH)
        .for_each(|part| bare.count(&batch(part.iter().copied())));
    let (mut plain, mut compared) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        plain.push(timed(&batches, origin, |batch| {
            count(&mut state, batch, &mut columns)
        }));
        compared.push(timed(&batches, origin, |batch| bare.count(batch)));
    }
    drop(bare);
    println!(
        "  plain: {}; bare hash table: {}",
        median(plain),
        median(compared)
    );

    for id in 1..=4 {
        let start = Instant::now();
        let sealed = state.snapshot(
            CheckpointId(id),
            CheckpointId(id).0.checked_sub(1).map(CheckpointId),
        );
        let pause = start.elapsed();
        let kind = if sealed.base().is_some() {
            "delta"
        } else {
            "full"
        };
        let writer = write_in_background(sealed);
        let start = cpu_time(origin);
        let (mut records, mut longest) = (0, Duration::ZERO);
        let mut cycle = batches.iter().cycle();
        while !writer.is_finished() {
            let batch = cycle.next().expect("there are batches");
            let start = Instant::now();
            count(&mut state, batch, &mut columns);
            longest = longest.max(start.elapsed());
            records += BATCH;
        }
        let during = (cpu_time(origin) - start) / records.max(1) as f64;
        let (took, bytes) = writer.join().expect("the writer does not panic");
        state.checkpoint_complete(CheckpointId(id));
        println!(
            "  snapshot ({kind}): pause {pause:?}, {:.1} MB written in {took:.1?}, meanwhile {during:.1} ns/record, longest batch {longest:?}",
            bytes as f64 / 1e6
        );
        let after = timed(&batches[..batches.len() / 8], origin, |batch| {
            count(&mut state, batch, &mut columns)
        });
        println!("    afterwards {after:.1} ns/record");
    }

    let mut segment = Vec::new();
    let start = cpu_time(origin);
    state
        .snapshot(CheckpointId(9), None)
        .write(&mut segment)
        .expect("memory can be written to");
    let wrote = (cpu_time(origin) - start) / 1e6;
    let stats = state.stats();
    drop(state);
    let before = resident();
    let mut state = new();
    let start = cpu_time(origin);
    state
        .restore(&mut segment.as_slice())
        .expect("it was just written");
    assert_eq!(state.stats(), stats);
    println!(
        "  full segment {:.1} MB to memory in {wrote:.0} ms, restored in {:.0} ms ({:.1} bytes/key more in memory)",
        segment.len() as f64 / 1e6,
        (cpu_time(origin) - start) / 1e6,
        resident().saturating_sub(before) as f64 / keys as f64
    );
}

fn main() {
    let wanted: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|keys| keys.parse().ok())
        .collect();
    let wanted = if wanted.is_empty() {
        vec![1000, 1_000_000, 10_000_000]
    } else {
        wanted
    };
    wanted.into_iter().for_each(measure);
}
