//! What keyed state costs: a count per key of 16 bytes, in batches of 1,024 records, as an operator
//! does it (look the batch's keys up, load, add, store, commit).
//!
//! `cargo run --release --example keyed_count [keys | keysxbytes …]` (`1000000x100`: values of 100
//! bytes instead of 8) prints nanoseconds per record, step by step,
//! for keys that are spread evenly and by Zipf's law; the same with a snapshot being written beside
//! it, each of which finds every key changed; the pause to take one; how fast segments are encoded
//! and restored; and what a key takes in memory. The same count with two bare hash tables, and a bare
//! reading of the segment into one, are there to compare with: the machine may be busy, ratios last.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "examples print and measure"
)]

use std::io;
use std::thread;
use std::time::Instant;

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
    /// Zeros after each count, which make larger values of it.
    padding: Vec<u8>,
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

/// The steps of a batch, in order.
const STAGES: [&str; 5] = ["resolve", "load", "count", "store", "commit"];

/// Counts one batch, the way an operator does. Says how long each step took.
fn count(state: &mut KeyedState, batch: &Batch, columns: &mut Columns) -> [f64; 5] {
    let mut marks = [Instant::now(); 6];
    state
        .resolve(batch.keys.as_ref(), &batch.hashes, &mut columns.resolved)
        .expect("the keys are owned");
    marks[1] = Instant::now();
    let distinct = columns.resolved.keys.len();
    columns.values.clear();
    columns.absent.clear();
    state
        .load(0, None, &mut columns.values, &mut columns.absent)
        .expect("the state is declared");
    marks[2] = Instant::now();
    columns.counts.clear();
    columns.counts.extend(columns.values.iter().map(|value| {
        value
            .first_chunk()
            .map_or(0, |count| u64::from_le_bytes(*count))
    }));
    for number in &columns.resolved.numbers {
        columns.counts[*number as usize] += 1;
    }
    columns.updated.clear();
    if columns.padding.is_empty() {
        let counts = columns.counts.iter();
        counts.for_each(|count| columns.updated.push(&count.to_le_bytes()));
    } else {
        for count in &columns.counts {
            columns.updated.push_with(|value| {
                value.extend_from_slice(&count.to_le_bytes());
                value.extend_from_slice(&columns.padding);
            });
        }
    }
    columns.numbers.clear();
    columns.numbers.extend(0..distinct as u32);
    marks[3] = Instant::now();
    state
        .store(0, &columns.numbers, columns.updated.as_ref())
        .expect("the state is declared");
    marks[4] = Instant::now();
    state.commit();
    marks[5] = Instant::now();
    std::array::from_fn(|stage| (marks[stage + 1] - marks[stage]).as_nanos() as f64)
}

/// Nanoseconds that this thread has run for.
fn cpu_time(origin: Instant) -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let time = stat.and_then(|stat| stat.split(' ').next()?.parse().ok());
    time.unwrap_or_else(|| origin.elapsed().as_nanos() as f64)
}

/// Nanoseconds per record that a quarter of the batches do not exceed: those which the rest of the
/// machine left alone.
fn quartile(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 4] / BATCH as f64
}

/// What there is to compare with: one lookup per record in a table of inline keys and counts.
#[derive(Default)]
struct Inline(HashTable<([u8; 16], u64)>);

impl Inline {
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

/// And the same in two passes, with the entries in an arena: places for the whole batch, then counts.
#[derive(Default)]
struct Arena {
    table: HashTable<u32>,
    entries: Vec<([u8; 16], u64)>,
    places: Vec<u32>,
}

impl Arena {
    fn count(&mut self, batch: &Batch) {
        self.places.clear();
        for (key, &hash) in batch.keys.iter().zip(&batch.hashes) {
            let key: [u8; 16] = key.try_into().expect("keys have 16 bytes");
            let Self { table, entries, .. } = self;
            let found = table.entry(
                hash,
                |at| entries[*at as usize].0 == key,
                |at| key::hash(&entries[*at as usize].0),
            );
            let at = *found.or_insert(entries.len() as u32).get();
            if at as usize == entries.len() {
                entries.push((key, 0));
            }
            self.places.push(at);
        }
        for at in &self.places {
            self.entries[*at as usize].1 += 1;
        }
    }
}

/// Bytes of this process in memory; 0 where the system does not say.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|pages| pages.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// Takes what is written and only checks that it was handed over.
struct Sink(u64);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes in the background; returns CPU nanoseconds and bytes.
fn write_in_background(sealed: SealedState) -> thread::JoinHandle<(f64, u64)> {
    thread::spawn(move || {
        let origin = Instant::now();
        let start = cpu_time(origin);
        let mut sink = Sink(0);
        sealed
            .write(&mut sink)
            .expect("nothing can go wrong with a sink");
        drop(sealed);
        (cpu_time(origin) - start, sink.0)
    })
}

fn stages_of(batches: &[Batch], mut count: impl FnMut(&Batch) -> [f64; 5]) -> String {
    let times: Vec<[f64; 5]> = batches.iter().map(&mut count).collect();
    let all = quartile(times.iter().map(|stages| stages.iter().sum()).collect());
    let each = (0..5).map(|stage| {
        let time = quartile(times.iter().map(|stages| stages[stage]).collect());
        format!("{} {time:.1}", STAGES[stage])
    });
    format!("{all:6.1} ({})", each.collect::<Vec<_>>().join(", "))
}

fn elapsed(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_nanos() as f64
}

fn measure(keys: u64, width: usize) {
    let origin = Instant::now();
    let groups = KeyGroups::default_for(1);
    let descriptor = StateDescriptor {
        name: "count".into(),
        kind: StateKind::Value,
        schema: "u64".into(),
        schema_version: 1,
        ttl: None,
    };
    let new = || KeyedState::new(vec![descriptor.clone()], groups.range_of(0, 1), groups);
    let mut state = new();
    let mut columns = Columns {
        padding: vec![0; width - 8],
        ..Columns::default()
    };
    let mut random = keys;
    let count_of_batches = (2 * keys as usize / BATCH).clamp(2000, 6000);
    let uniform: Vec<Batch> = (0..count_of_batches)
        .map(|_| batch((0..BATCH).map(|_| next(&mut random) % keys)))
        .collect();
    // Zipf with exponent 1: the logarithm of the rank is evenly spread.
    let mut rank = || {
        let even = (next(&mut random) >> 11) as f64 / (1_u64 << 53) as f64;
        let rank = (even * (keys as f64).ln()).exp() as u64;
        (rank.min(keys - 1)).wrapping_mul(0x9e37_79b9) % keys
    };
    let zipf: Vec<Batch> = (0..count_of_batches)
        .map(|_| batch((0..BATCH).map(|_| rank())))
        .collect();

    let before = resident();
    let (mut filling, mut longest) = (0.0, 0.0_f64);
    let all: Vec<u64> = (0..keys).collect();
    let scratch = resident() - before;
    for part in all.chunks(BATCH) {
        let batch = batch(part.iter().copied());
        let start = cpu_time(origin);
        let wall: f64 = count(&mut state, &batch, &mut columns).iter().sum();
        filling += cpu_time(origin) - start;
        longest = longest.max(wall);
    }
    let per_key = (resident() - before - scratch) as f64 / keys as f64;
    println!(
        "{keys} keys, values of {width} bytes: filled at {:.0} ns/record (longest batch {:.2} ms), {per_key:.1} bytes/key in memory",
        filling / keys as f64,
        longest / 1e6
    );

    println!(
        "  uniform {}",
        stages_of(&uniform, |batch| count(&mut state, batch, &mut columns))
    );
    println!(
        "  zipf    {}",
        stages_of(&zipf, |batch| count(&mut state, batch, &mut columns))
    );
    let (mut inline, mut arena) = (Inline::default(), Arena::default());
    all.chunks(BATCH)
        .for_each(|part| inline.count(&batch(part.iter().copied())));
    all.chunks(BATCH)
        .for_each(|part| arena.count(&batch(part.iter().copied())));
    for (name, batches) in [("uniform", &uniform), ("zipf", &zipf)] {
        let each = |count: &mut dyn FnMut(&Batch)| {
            quartile(
                batches
                    .iter()
                    .map(|batch| elapsed(|| count(batch)))
                    .collect(),
            )
        };
        println!(
            "  bare hash tables, {name}: inline {:.1}, arena {:.1}",
            each(&mut |batch| inline.count(batch)),
            each(&mut |batch| arena.count(batch)),
        );
    }
    drop((inline, arena));

    let start = cpu_time(origin);
    for batch in &uniform {
        count(&mut state, batch, &mut columns);
    }
    let alone = cpu_time(origin) - start;
    // Most keys change between two snapshots, as far as there are batches for it.
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
        let (mut times, mut open) = (Vec::new(), 0);
        let start = cpu_time(origin);
        for batch in &uniform {
            if !writer.is_finished() {
                open += 1;
            }
            times.push(count(&mut state, batch, &mut columns).iter().sum::<f64>());
        }
        let more = cpu_time(origin) - start - alone;
        let (took, bytes) = writer.join().expect("the writer does not panic");
        times.sort_by(f64::total_cmp);
        let percentile = |at: usize| times[times.len() * at / 1000] / 1e6;
        state.checkpoint_complete(CheckpointId(id));
        println!(
            "  snapshot ({kind}): pause {pause:?}; {:.1} MB in {:.1} ms of the writer's CPU ({:.2} GB/s), {open} batches meanwhile; copying and taking back cost {:.1} ms of CPU; batches p50 {:.2}, p99 {:.2}, p99.9 {:.2} ms",
            bytes as f64 / 1e6,
            took / 1e6,
            bytes as f64 / took,
            more / 1e6,
            percentile(500),
            percentile(990),
            percentile(999),
        );
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
    let restored = (cpu_time(origin) - start) / 1e6;
    assert_eq!(state.stats(), stats);
    let more = resident().saturating_sub(before) as f64 / keys as f64;
    drop(state);
    println!(
        "  full segment {:.1} MB ({:.3} of the bytes changed) to memory in {wrote:.0} ms, restored in {restored:.0} ms ({more:.1} bytes/key more in memory)",
        segment.len() as f64 / 1e6,
        segment.len() as f64 / stats.bytes as f64,
    );
    if width == 8 {
        let start = cpu_time(origin);
        let table = read_bare(&segment, keys as usize);
        let bare = (cpu_time(origin) - start) / 1e6;
        assert_eq!(table.len() as u64, keys);
        println!("  read into a bare hash table in {bare:.0} ms");
    }
}

/// Reads the entries of a full segment of 16-byte keys and 8-byte values into a hash table, with
/// nothing checked but the bytes.
fn read_bare(segment: &[u8], keys: usize) -> HashTable<([u8; 16], u64)> {
    let mut table = HashTable::with_capacity(keys);
    let mut rest = &segment[12..];
    while let Some((frame, behind)) = rest.split_first_chunk::<8>() {
        let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        let payload;
        (payload, rest) = behind.split_at(len);
        std::hint::black_box(crc32c::crc32c(payload));
        if payload[0] == 2 {
            for entry in payload[9..].chunks_exact(26) {
                let key: [u8; 16] = entry[1..17].try_into().expect("16 bytes");
                let value = u64::from_le_bytes(entry[18..].try_into().expect("8 bytes"));
                table.insert_unique(key::hash(&key), (key, value), |entry| key::hash(&entry.0));
            }
        }
    }
    table
}

fn main() {
    let wanted: Vec<(u64, usize)> = std::env::args()
        .skip(1)
        .filter_map(|argument| {
            let (keys, width) = argument.split_once('x').unwrap_or((&argument, "8"));
            Some((keys.parse().ok()?, width.parse().ok()?))
        })
        .filter(|(keys, width)| *keys > 0 && *width >= 8)
        .collect();
    let wanted = if wanted.is_empty() {
        [1000, 100_000, 1_000_000, 10_000_000]
            .map(|keys| (keys, 8))
            .into()
    } else {
        wanted
    };
    wanted
        .into_iter()
        .for_each(|(keys, width)| measure(keys, width));
}
