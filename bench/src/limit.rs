//! What could be reached at best: bare loops, on one thread, without a job around them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dataflow::state::{KeyedState, Resolved, StateDescriptor, StateKind};
use dataflow::{Cells, KeyGroupRange, KeyGroups, key};
use hashbrown::HashTable;

use crate::case::{Case, Workload};
use crate::measured::Measured;
use crate::process;

/// Records per batch, as in a job.
const BATCH: usize = dataflow::Batch::TARGET_RECORDS;

/// Batches made beforehand; enough that they do not all stay in the cache.
const BATCHES: usize = 512;

struct Made {
    keys: Cells,
    hashes: Vec<u64>,
    values: Cells,
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Key `number` as the generator makes it: 16 bytes.
fn push_key(keys: &mut Cells, number: u64) {
    keys.push_with(|bytes| {
        use std::io::Write;
        // Writing to a vector cannot fail.
        let _ = write!(bytes, "k{number:015}");
    });
}

fn make(case: &Case, random: &mut u64, value: &[u8]) -> Made {
    let mut made = Made {
        keys: Cells::new(),
        hashes: Vec::new(),
        values: Cells::new(),
    };
    for _ in 0..BATCH {
        let drawn = (next(random) >> 11) as f64 / (1u64 << 53) as f64;
        let number = match case.workload {
            // Zipf with exponent 1, near enough: the logarithm of the rank is uniform.
            Workload::CountZipf => ((case.keys as f64).powf(drawn) - 1.0) as u64,
            // Of 90 % of the draws the first tenth of the keys, of the rest the others.
            Workload::UpdateHot => {
                let (drawn, from, share) = match drawn < 0.9 {
                    true => (drawn / 0.9, 0.0, 0.1),
                    false => ((drawn - 0.9) / 0.1, 0.1, 0.9),
                };
                ((from + drawn * share) * case.keys as f64) as u64
            }
            _ => (drawn * case.keys as f64) as u64,
        };
        push_key(&mut made.keys, number);
        made.values.push(value);
    }
    made.hashes.extend(made.keys.iter().map(key::hash));
    made
}

/// The same work per record as the operator of `case` does, and nothing else.
pub(crate) fn run(case: &Case, seconds: f64) -> Result<Measured> {
    let size = match case.workload {
        Workload::Map | Workload::Filter => return stateless(case, seconds),
        Workload::Update100 | Workload::UpdateHot => 100,
        Workload::Update1k => 1024,
        _ => 8,
    };
    let groups = KeyGroups::default_for(1);
    let descriptor = StateDescriptor {
        name: "value".into(),
        kind: StateKind::Value,
        schema: String::new(),
        schema_version: 1,
        ttl: None,
    };
    let range = KeyGroupRange {
        start: 0,
        end: groups.count(),
    };
    let mut state = KeyedState::new(vec![descriptor], range, groups);
    let mut random = 0;
    let batches: Vec<Made> = (0..BATCHES)
        .map(|_| make(case, &mut random, b"01234567"))
        .collect();
    let reads = case.workload == Workload::Read;
    let mut columns = Columns::default();
    let fill = (case.keys as usize).div_ceil(BATCH);
    let mut number = 0;
    for _ in 0..fill {
        let mut keys = Cells::new();
        (number..(number + BATCH as u64).min(case.keys)).for_each(|key| push_key(&mut keys, key));
        number += BATCH as u64;
        let hashes: Vec<u64> = keys.iter().map(key::hash).collect();
        columns.update(&mut state, &keys, &hashes, size, false)?;
    }
    timed(seconds, |index| {
        let batch = &batches[index % BATCHES];
        columns.update(&mut state, &batch.keys, &batch.hashes, size, reads)
    })
}

#[derive(Default)]
struct Columns {
    resolved: Resolved,
    values: Cells,
    absent: Vec<u32>,
    counts: Vec<u64>,
    numbers: Vec<u32>,
    updated: Cells,
}

impl Columns {
    fn update(
        &mut self,
        state: &mut KeyedState,
        keys: &Cells,
        hashes: &[u64],
        size: usize,
        reads: bool,
    ) -> Result<()> {
        state.resolve(keys.as_ref(), hashes, &mut self.resolved)?;
        self.values.clear();
        self.absent.clear();
        state.load(0, None, &mut self.values, &mut self.absent)?;
        self.counts.clear();
        self.counts.extend(self.values.iter().map(|value| {
            let head: Option<[u8; 8]> = value.get(..8).and_then(|head| head.try_into().ok());
            head.map_or(0, u64::from_le_bytes)
        }));
        for number in &self.resolved.numbers {
            self.counts[*number as usize] += 1;
        }
        if !reads {
            self.updated.clear();
            for count in &self.counts {
                self.updated.push_with(|bytes| {
                    let start = bytes.len();
                    bytes.extend_from_slice(&count.to_le_bytes());
                    bytes.resize(start + size, b'x');
                });
            }
            self.numbers.clear();
            self.numbers.extend(0..self.counts.len() as u32);
            state.store(0, &self.numbers, self.updated.as_ref())?;
        }
        std::hint::black_box(&self.counts);
        state.commit();
        Ok(())
    }
}

fn stateless(case: &Case, seconds: f64) -> Result<Measured> {
    let mut random = 0;
    let value = [b'v'; 100];
    let one = Case {
        keys: 1,
        ..case.clone()
    };
    let batches: Vec<Made> = (0..BATCHES)
        .map(|_| make(&one, &mut random, &value))
        .collect();
    let mut out = Cells::new();
    let adds = case.workload == Workload::Map;
    timed(seconds, |index| {
        out.clear();
        for value in batches[index % BATCHES].values.iter() {
            if adds {
                out.push_with(|bytes| {
                    bytes.extend_from_slice(value);
                    bytes.extend_from_slice(b",1");
                });
            } else if value.last().is_some_and(|byte| byte % 2 == 0) {
                out.push(value);
            }
        }
        std::hint::black_box(&out);
        Ok(())
    })
}

fn timed(seconds: f64, mut batch: impl FnMut(usize) -> Result<()>) -> Result<Measured> {
    // Once through, so that every cache has what it can.
    for index in 0..BATCHES {
        batch(index)?;
    }
    let (start, cpu) = (Instant::now(), process::cpu()?);
    let mut count = 0;
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        for _ in 0..64 {
            batch(count)?;
            count += 1;
        }
    }
    let wall = start.elapsed();
    Ok(Measured {
        records: (count * BATCH) as u64,
        wall_s: wall.as_secs_f64(),
        cpu_s: (process::cpu()? - cpu).as_secs_f64(),
        ..Measured::default()
    })
}

/// Reads all files below `dir` and builds a hash table of as many keys of 16 and values of 8 bytes.
pub(crate) fn restore(case: &Case, dir: &Path) -> Result<Measured> {
    let (start, cpu) = (Instant::now(), process::cpu()?);
    let mut bytes = 0;
    let mut directories = vec![dir.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory)
            .with_context(|| format!("reading {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                bytes += std::hint::black_box(std::fs::read(&path)?).len();
            }
        }
    }
    std::hint::black_box(bytes);
    let mut table: HashTable<([u8; 16], u64)> = HashTable::with_capacity(case.keys as usize);
    for number in 0..case.keys {
        let mut state = number;
        let key = u128::from(number) | u128::from(next(&mut state)) << 64;
        let key = key.to_le_bytes();
        let hash = |key: &[u8; 16]| key::hash(key);
        table.insert_unique(hash(&key), (key, number), |entry| hash(&entry.0));
    }
    std::hint::black_box(&table);
    Ok(Measured {
        wall_s: start.elapsed().as_secs_f64(),
        restore_s: start.elapsed().as_secs_f64(),
        cpu_s: (process::cpu()? - cpu).as_secs_f64(),
        ..Measured::default()
    })
}
