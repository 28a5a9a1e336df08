//! What compression costs and saves: a full checkpoint of a million keys, written to files and restored,
//! without compression and with each codec in turn.
//!
//! `cargo run --release -p checkpoint --example compression [keys]` prints, for keys that are text, for keys
//! that are random, and for values of 100 bytes of text, what is stored, and what writing and restoring
//! take in processor time (where the system tells it, so that a busy machine does little harm): the
//! median of some rounds, all settings in turn within a round.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "examples print and measure"
)]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use checkpoint::metadata::{Kind, Metadata, Operator, Role, State, Subtask};
use checkpoint::store::{CheckpointStore, Completed, Compression, Options};
use dataflow::state::{KeyedState, StateDescriptor, StateKind};
use dataflow::{CheckpointId, KeyGroupRange, KeyGroups};

type BoxError = Box<dyn std::error::Error>;

const ROUNDS: usize = 5;

const SETTINGS: [(&str, Compression); 3] = [
    ("none", Compression::None),
    ("lz4", Compression::Lz4),
    ("zstd", Compression::Zstd),
];

/// Makes the key or value of a number.
type Column = fn(u64) -> Vec<u8>;

/// Numbers without pattern: the end of SplitMix64.
fn mixed(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn text_key(number: u64) -> Vec<u8> {
    format!("user-{:011}", mixed(number) % 100_000_000_000).into_bytes()
}

fn random_key(number: u64) -> Vec<u8> {
    [mixed(number), mixed(number ^ 0x5555)]
        .map(u64::to_le_bytes)
        .concat()
}

fn count(number: u64) -> Vec<u8> {
    (mixed(number) % 10_000).to_le_bytes().to_vec()
}

fn record(number: u64) -> Vec<u8> {
    let (a, b) = (mixed(number), mixed(number + 1));
    format!(
        "{{\"user\":{:08},\"carrier\":\"UA\",\"origin\":\"EWR\",\"delay\":{:4},\"seen\":\"2013-01-{:02}T{:02}:00\",\"total\":{:8}}}",
        a % 100_000_000,
        b % 1000,
        a % 28 + 1,
        b % 24,
        (a ^ b) % 1_000_000
    )
    .into_bytes()
}

fn state() -> Result<KeyedState, BoxError> {
    let count = StateDescriptor {
        name: "count".to_owned(),
        kind: StateKind::Value,
        schema: "bytes".to_owned(),
        schema_version: 1,
        ttl: None,
    };
    let groups = KeyGroups::new(128).ok_or("128 is a number of key groups")?;
    let range = KeyGroupRange { start: 0, end: 128 };
    Ok(KeyedState::new(vec![count], range, groups))
}

fn main() -> Result<(), BoxError> {
    let keys: u64 = match std::env::args().nth(1) {
        Some(keys) => keys.parse()?,
        None => 1_000_000,
    };
    println!("| state, {keys} keys | compression | stored | write | restore |");
    println!("|---|---|---|---|---|");
    let shapes: [(&str, Column, Column); 3] = [
        ("text keys of 16 bytes, counts of 8", text_key, count),
        ("random keys of 16 bytes, counts of 8", random_key, count),
        ("text keys of 16 bytes, JSON of 100", text_key, record),
    ];
    for (shape, key, value) in shapes {
        let mut full = state()?;
        for number in 0..keys {
            full.put(0, &key(number), &value(number))?;
        }
        full.commit();
        let mut results = SETTINGS.map(|_| Vec::new());
        let mut id = 0;
        for _ in 0..ROUNDS {
            for ((_, compression), results) in SETTINGS.iter().zip(&mut results) {
                id += 1;
                results.push(measure(&mut full, id, *compression)?);
            }
        }
        for ((name, _), mut results) in SETTINGS.into_iter().zip(results) {
            let mut median = |of: fn(&(u64, u128, u128)) -> u128| {
                results.sort_by_key(of);
                of(&results[ROUNDS / 2])
            };
            println!(
                "| {shape} | {name} | {:.1} MB | {} ms | {} ms |",
                median(|result| result.0.into()) as f64 / 1e6,
                median(|result| result.1),
                median(|result| result.2)
            );
        }
    }
    Ok(())
}

/// The processor time of all threads so far; the time since `start` where the system does not tell.
fn used(start: Instant) -> Duration {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return start.elapsed();
    };
    let of_thread = |thread: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    Duration::from_nanos(threads.flatten().filter_map(of_thread).sum())
}

/// Stored bytes, milliseconds to write, milliseconds to restore.
fn measure(
    full: &mut KeyedState,
    id: u64,
    compression: Compression,
) -> Result<(u64, u128, u128), BoxError> {
    let directory = tempfile::tempdir()?;
    let dir = directory.path().to_str().ok_or("a path that is text")?;
    let options = Options {
        compression,
        ..Options::default()
    };
    let store = CheckpointStore::open(dir, "job", options)?;
    let sealed = full.snapshot(CheckpointId(id), None);
    let start = Instant::now();
    let before = used(start);
    let pending = store.begin(CheckpointId(id))?;
    let written = pending.write("count", 0, &sealed)?;
    let completed = pending.complete(metadata(id), vec![(0, 0, written)])?;
    let write = (used(start) - before).as_millis();
    full.checkpoint_complete(CheckpointId(id));
    let before = used(start);
    restore(&completed)?;
    Ok((
        completed.bytes_written(),
        write,
        (used(start) - before).as_millis(),
    ))
}

fn restore(completed: &Completed) -> Result<(), BoxError> {
    let mut restored = state()?;
    for (_, _, segment) in completed.segments() {
        restored.restore(&mut completed.read(segment)?)?;
    }
    Ok(())
}

fn metadata(id: u64) -> Metadata {
    Metadata {
        writer: env!("CARGO_PKG_VERSION").to_owned(),
        job_name: "compression".to_owned(),
        job_id: "job".to_owned(),
        run: None,
        generation: 0,
        holder: None,
        id,
        previous: None,
        kind: Kind::Checkpoint,
        drained: false,
        triggered_at: 0,
        duration_ms: 0,
        key_groups: 128,
        key_hash: "xxh3-64".to_owned(),
        operators: vec![Operator {
            id: "count".to_owned(),
            role: Role::Operator,
            parallelism: 1,
            labels: BTreeMap::new(),
            operator_states: Vec::new(),
            states: vec![State {
                name: "count".to_owned(),
                kind: "value".to_owned(),
                schema: "bytes".to_owned(),
                schema_version: 1,
                ttl_ms: None,
                ttl_refresh: None,
                ttl_time: None,
                entries: 0,
                bytes: 0,
            }],
            subtasks: vec![Subtask::default()],
        }],
    }
}
