//! Whole jobs under a seeded simulation: any interleaving, operators that fail, storage that fails,
//! processes that are killed. What is committed in the end equals a reference that knows nothing of
//! all this.
//!
//! `HIGHWATER_SEED=n` runs one seed, `HIGHWATER_SEEDS=n` runs so many.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

// Beside the tests, for a `native.rs` among them would be a test of its own.
#[path = "native/jobs.rs"]
mod native;

use std::collections::BTreeMap;
use std::env;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use checkpoint::storage::faults::{Extent, Fault, Step};
use checkpoint::storage::{FaultyStorage, Listing, MemoryStorage, ObjectWriter, Storage};
use checkpoint::store::{CheckpointStore, Options as StoreOptions};
use checkpoint::{Completed, Error};
use dataflow::alignment::Mode;
use runtime::coordinator::Settings;
use runtime::error::Class;
use runtime::simulation::{Random, Simulation, VirtualClock};
use runtime::{Job, JobEvent, Options, Outcome};

use native::{Collect, Flow, KEYS, Sum, fixed, graph_with, records};

/// How many seeds are tried if nobody says otherwise.
const SEEDS: u64 = 1_000;

/// From this process on nothing fails any more, so that every job comes to its end.
const HEALTHY_PROCESS: u32 = 4;

/// A mistake that is planted, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// The sink commits at the barrier.
    CommitsEarly,
    /// Records behind a barrier get into its snapshot.
    LetsRecordsThrough,
    /// Metadata is durable before the data it refers to.
    MetadataFirst,
}

/// What happened in a simulation.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    checkpoints: u64,
    checkpoints_failed: u64,
    restarts: u64,
    storage_faults: usize,
    operator_faults: u32,
    crashes: u64,
    resumed: u64,
    traces: Vec<u64>,
}

/// What a job over so many numbers commits.
fn reference(count: u64) -> Vec<(String, String)> {
    let mut sums: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut records: Vec<_> = (0..count)
        .map(|value| {
            let (sum, number) = sums.entry(value % KEYS).or_default();
            (*sum, *number) = (*sum + value, *number + 1);
            ((value % KEYS).to_string(), format!("{sum} {number}"))
        })
        .collect();
    records.sort();
    records
}

/// The newest checkpoint of all processes so far. Numbers go on from one to the next.
fn newest(storage: &Arc<dyn Storage>) -> Result<Option<Completed>, Error> {
    let mut found: Option<(u64, String)> = None;
    for job in storage.list("")?.directories {
        for directory in storage.list(&job)?.directories {
            let number = directory.rsplit("/chk-").next();
            let Some(id) = number.and_then(|id| id.parse().ok()) else {
                continue;
            };
            let metadata = format!("{directory}/_metadata");
            let objects = storage.list(&directory)?.objects;
            let complete = objects.iter().any(|object| object.name == metadata);
            if complete && found.as_ref().is_none_or(|(newest, _)| *newest < id) {
                found = Some((id, directory));
            }
        }
    }
    found
        .map(|(_, directory)| Completed::open(Arc::clone(storage), &directory))
        .transpose()
}

/// Fails now and then, and may crash.
fn storage_plan(random: &mut Random) -> impl Fn(&Step) -> Fault + Send + Sync + use<> {
    let every = [0, 15, 40][random.below(3) as usize];
    let random = Mutex::new(Random::new(random.next_u64()));
    move |_| {
        let mut random = random.lock().unwrap();
        if every == 0 || !random.one_in(every) {
            return Fault::None;
        }
        let extent = [Extent::Nothing, Extent::All][random.below(2) as usize];
        match random.one_in(4) {
            true => Fault::Crash(extent),
            false => Fault::Fail(extent),
        }
    }
}

/// Runs a job to its end, process after process. An error is a difference.
fn simulate(seed: u64, mistake: Mistake) -> Result<Tally, String> {
    let mut random = Random::new(seed);
    let count = 200 + random.below(600);
    let mode = match mistake {
        Mistake::LetsRecordsThrough => Mode::AtLeastOnce,
        _ => Mode::ExactlyOnce,
    };
    let disk: Arc<dyn Storage> = match mistake {
        Mistake::MetadataFirst => Arc::new(MetadataFirst::default()),
        _ => Arc::new(MemoryStorage::new()),
    };
    let clock = VirtualClock::at(1_700_000_000_000);
    let committed = native::Committed::default();
    let mut tally = Tally::default();
    for process in 0.. {
        let healthy = process >= HEALTHY_PROCESS;
        let plan = storage_plan(&mut random);
        let storage = FaultyStorage::new(Arc::clone(&disk), move |step| match healthy {
            true => Fault::None,
            false => plan(step),
        });
        let restore = newest(&disk).map_err(|error| format!("{error:?}"))?;
        tally.resumed += u64::from(restore.is_some());
        let failures = random.below(3) as u32 * u32::from(!healthy);
        let left = Arc::new(AtomicU32::new(failures));
        let sum = Sum {
            fail_at: Some((random.below(count), Arc::clone(&left))),
        };
        let sink = Collect {
            committed: Arc::clone(&committed),
            process: Some(storage.clone()),
            commits_early: mistake == Mistake::CommitsEarly,
        };
        let parallelism = [1 + random.below(3) as u32, 1 + random.below(3) as u32];
        let flow = [Flow::Free, Flow::Trickle][random.below(2) as usize].clone();
        let graph = graph_with(count, flow, parallelism, sum, Arc::new(sink));
        let id = format!("sums-{process}");
        let store_options = StoreOptions {
            inline_threshold: [0, 200][random.below(2) as usize],
            retained: 1 + random.below(2) as usize,
            ..StoreOptions::default()
        };
        let options = Options {
            name: "sums".into(),
            id: id.clone(),
            checkpoint: Settings {
                // Without any, nothing but records moves anybody.
                interval_ms: (!random.one_in(6)).then(|| 1 + random.below(12)),
                min_pause_ms: random.below(3),
                max_concurrent: 1 + random.below(2) as u32,
                tolerable_failures: random.below(3) as u32,
                timeout_ms: 5 + random.below(200),
            },
            mode,
            incremental: random.one_in(2),
            restart: fixed(3),
        };
        let mut simulation = Simulation::new(
            Random::new(random.next_u64()),
            clock.clone(),
            storage.clone(),
        );
        if random.one_in(2) && !healthy {
            simulation = simulation.crash_after(random.below(400));
        }
        let store = CheckpointStore::with_storage(Arc::new(storage.clone()), &id, store_options);
        let outcome = store.ok().map(|store| {
            let job = Job::new(graph, options, store, restore, Arc::new(clock.clone()));
            simulation.run(&job, |event| match event {
                JobEvent::CheckpointCompleted { .. } => tally.checkpoints += 1,
                JobEvent::CheckpointFailed { .. } => tally.checkpoints_failed += 1,
                JobEvent::Restarting { .. } => tally.restarts += 1,
                _ => {}
            })
        });
        tally.storage_faults += storage.faults().len();
        tally.operator_faults += failures - left.load(Ordering::SeqCst);
        tally.traces.push(simulation.trace());
        match outcome {
            Some(Outcome::Finished) => break,
            Some(Outcome::Suspended) => tally.crashes += 1,
            None
            | Some(Outcome::Failed {
                class: Class::Retry,
                ..
            }) if !healthy => {}
            other => return Err(format!("process {process} ended with {other:?}")),
        }
    }
    let (found, expected) = (records(&committed), reference(count));
    if found == expected {
        return Ok(tally);
    }
    let only = |these: &[(String, String)], those: &[(String, String)]| {
        let only = these.iter().filter(|record| !those.contains(record));
        only.take(3).cloned().collect::<Vec<_>>()
    };
    Err(format!(
        "{} records are committed, {} are expected; none but committed: {:?}; missing: {:?}; {tally:?}",
        found.len(),
        expected.len(),
        only(&found, &expected),
        only(&expected, &found),
    ))
}

/// As [`simulate`]; a panic is a difference too.
fn try_seed(seed: u64, mistake: Mistake) -> Result<Tally, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| simulate(seed, mistake)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref().map(|text: &&str| (*text).to_owned()));
        Err(text.unwrap_or_else(|| "a panic".to_owned()))
    })
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

fn seeds() -> Range<u64> {
    match number("HIGHWATER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HIGHWATER_SEEDS").unwrap_or(SEEDS),
    }
}

#[test]
fn every_seed_commits_what_the_reference_says() {
    let mut all = Tally::default();
    let seeds = seeds();
    for seed in seeds.clone() {
        let tally = try_seed(seed, Mistake::None).unwrap_or_else(|difference| {
            panic!(
                "{difference}\nseed {seed}: replay with\n    \
                 HIGHWATER_SEED={seed} cargo test -p runtime --test simulation"
            )
        });
        all.checkpoints += tally.checkpoints;
        all.checkpoints_failed += tally.checkpoints_failed;
        all.restarts += tally.restarts;
        all.storage_faults += tally.storage_faults;
        all.operator_faults += tally.operator_faults;
        all.crashes += tally.crashes;
        all.resumed += tally.resumed;
    }
    println!("{all:?}");
    // The faults have really happened, each kind many times.
    let seeds = seeds.end - seeds.start;
    if seeds >= SEEDS {
        assert!(all.checkpoints > seeds, "{all:?}");
        assert!(all.checkpoints_failed > seeds / 10, "{all:?}");
        assert!(all.restarts > seeds / 10, "{all:?}");
        assert!(all.storage_faults as u64 > seeds / 10, "{all:?}");
        assert!(u64::from(all.operator_faults) > seeds / 10, "{all:?}");
        assert!(all.crashes > seeds / 10, "{all:?}");
        assert!(all.resumed > seeds / 10, "{all:?}");
    }
}

#[test]
fn a_seed_does_the_same_each_time() {
    for seed in 0..10 {
        let first = simulate(seed, Mistake::None).unwrap();
        assert_eq!(simulate(seed, Mistake::None).unwrap(), first, "seed {seed}");
    }
}

/// What the first seed that finds a mistake says about it.
fn found(mistake: Mistake) -> String {
    let difference = |seed| try_seed(seed, mistake).err();
    let first = (0..SEEDS).find_map(|seed| difference(seed).map(|what| (seed, what)));
    let (seed, what) = first.unwrap_or_else(|| panic!("no seed finds {mistake:?}"));
    println!("{mistake:?} is found by seed {seed}: {what}");
    what
}

#[test]
fn a_sink_that_commits_on_the_barrier_is_found() {
    let what = found(Mistake::CommitsEarly);
    assert!(what.contains("records are committed"), "{what}");
}

#[test]
fn an_alignment_that_lets_records_through_is_found() {
    let what = found(Mistake::LetsRecordsThrough);
    assert!(what.contains("records are committed"), "{what}");
}

#[test]
fn metadata_that_is_durable_before_its_data_is_found() {
    let what = found(Mistake::MetadataFirst);
    assert!(what.contains("class: Corrupt"), "{what}");
}

/// Keeps data to itself until the next object is put: what is put first is durable last, as if
/// metadata were written before data. Whoever lists the top, a new process, finds what is durable.
#[derive(Debug, Default)]
struct MetadataFirst {
    durable: MemoryStorage,
    late: Mutex<Option<(String, Bytes)>>,
}

#[deny(clippy::missing_trait_methods)]
impl Storage for MetadataFirst {
    fn create(&self, name: &str) -> checkpoint::Result<Box<dyn ObjectWriter>> {
        self.durable.create(name)
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> checkpoint::Result<()> {
        let is_data = name.ends_with(".state");
        let late = match is_data {
            true => Some((name.to_owned(), Bytes::from(parts.concat()))),
            false => None,
        };
        if !is_data {
            self.durable.put_new(name, parts)?;
            // Still late: a crash between the two.
            return Ok(());
        }
        let earlier = std::mem::replace(&mut *self.late.lock().unwrap(), late);
        match earlier {
            Some((name, bytes)) => self.durable.put_new(&name, vec![bytes]),
            None => Ok(()),
        }
    }

    fn read(&self, name: &str, range: Range<u64>) -> checkpoint::Result<Bytes> {
        let late = self.late.lock().unwrap();
        match &*late {
            Some((at, bytes)) if at == name => {
                let end = (range.end as usize).min(bytes.len());
                Ok(bytes.slice((range.start as usize).min(end)..end))
            }
            _ => self.durable.read(name, range),
        }
    }

    fn list(&self, directory: &str) -> checkpoint::Result<Listing> {
        if directory.is_empty() {
            self.late.lock().unwrap().take();
        }
        self.durable.list(directory)
    }

    fn delete(&self, name: &str) -> checkpoint::Result<()> {
        self.durable.delete(name)
    }

    fn make_directory(&self, name: &str) -> checkpoint::Result<()> {
        self.durable.make_directory(name)
    }

    fn remove_directory(&self, name: &str) -> checkpoint::Result<()> {
        self.durable.remove_directory(name)
    }

    fn location(&self, name: &str) -> String {
        self.durable.location(name)
    }
}
