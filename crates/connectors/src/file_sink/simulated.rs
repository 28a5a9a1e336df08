//! Whole jobs under a seeded simulation, on several hosts, with the real file sink on a real disk: what
//! is visible in the end equals a reference.
//!
//! `HIGHWATER_SEED=n` runs one seed, `HIGHWATER_SEEDS=n` runs n of them; else the first seeds and some new ones.

#![allow(
    clippy::unwrap_used,
    clippy::duplicate_mod,
    unreachable_pub,
    reason = "a test may panic, and shares its jobs with those of the runtime"
)]

#[path = "../../../../crates/runtime/tests/native/baton.rs"]
mod baton;
#[path = "../../../../crates/runtime/tests/native/feeds.rs"]
mod feeds;
#[path = "../../../../crates/runtime/tests/native/hosts.rs"]
mod hosts;
#[path = "../../../../crates/runtime/tests/native/judge.rs"]
mod judge;
#[path = "../../../../crates/runtime/tests/native/jobs.rs"]
mod native;
#[path = "../../../../crates/runtime/tests/native/reference.rs"]
mod reference;
#[path = "../../../../crates/runtime/tests/native/seeds.rs"]
mod seeds;
#[path = "../../../../crates/runtime/tests/native/shapes.rs"]
mod shapes;
#[path = "../../../../crates/runtime/tests/native/sinks.rs"]
mod sinks;
#[path = "../../../../crates/runtime/tests/native/steps.rs"]
mod steps;
#[path = "../../../../crates/runtime/tests/native/stored.rs"]
mod stored;
#[path = "../../../../crates/runtime/tests/native/trouble.rs"]
mod trouble;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use checkpoint::storage::FaultyStorage;
use checkpoint::storage::Permissions;
use dataflow::port::{Column, ColumnKind, Format, Port};
use job_file::options::read_right;
use operator::SinkFactory;
use tempfile::TempDir;

use self::hosts::{Mistake, Outputs, Tally, simulate};
use self::native::Committed;
use self::seeds::{new_seeds, seeds, try_seeds};
use super::FileSinkOptions;

/// How many seeds are tried if nobody says otherwise.
const SEEDS: u64 = 100;

/// Outputs of file sinks, each in a directory of its own.
struct Files {
    directory: TempDir,
    sinks: Vec<String>,
}

impl Files {
    fn new(sinks: &[String]) -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            sinks: sinks.to_vec(),
        }
    }

    fn root(&self, sink: &str) -> PathBuf {
        self.directory.path().join(sink)
    }
}

impl Outputs for Files {
    fn sink(&self, id: &str, _: &FaultyStorage) -> Arc<dyn SinkFactory> {
        let column = |name: &str| Column {
            name: name.to_owned(),
            kind: ColumnKind::Text,
        };
        let port = Port {
            name: "out".to_owned(),
            keyed: true,
            key_columns: vec![column("k")],
            format: Format::Row(vec![column("v")]),
        };
        let text = format!("path = \"{id}\"\nformat = \"csv\"\nroll-size = \"200 B\"");
        let options: FileSinkOptions = read_right(&text);
        Arc::new(
            options
                .prepare(self.directory.path(), &[port], Permissions::Private)
                .unwrap(),
        )
    }

    fn committed(&self, id: &str) -> Committed {
        let mut all = BTreeMap::new();
        let entries = fs::read_dir(self.root(id)).into_iter().flatten();
        for entry in entries.map(Result::unwrap) {
            if entry.path().is_file() {
                let text = fs::read_to_string(entry.path()).unwrap();
                let record = |line: &str| {
                    let (key, value) = line.split_once(',').unwrap();
                    (key.to_owned(), value.to_owned())
                };
                let name = entry.file_name().into_string().unwrap();
                all.insert(name, text.lines().map(record).collect());
            }
        }
        Arc::new(Mutex::new(all))
    }

    fn staged(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for sink in &self.sinks {
            let pattern = self.root(sink).join(".highwater/*/*.pending");
            for path in glob::glob(pattern.to_str().unwrap()).unwrap() {
                let name = path.unwrap().to_str().unwrap().to_owned();
                let place = name.rsplit('/').nth(1).unwrap();
                let generation = place.rsplit_once(".g").unwrap().1.parse().unwrap();
                all.insert(name, generation);
            }
        }
        all
    }

    fn clear(&self) {
        for sink in &self.sinks {
            drop(fs::remove_dir_all(self.root(sink)));
        }
    }
}

fn try_all(seeds: Range<u64>, mistake: Mistake) -> Result<Tally, (u64, String)> {
    let files = |sinks: &[String]| -> Arc<dyn Outputs> { Arc::new(Files::new(sinks)) };
    try_seeds(seeds, |seed| simulate(seed, mistake, files), Tally::add)
}

/// No seed finds a difference.
fn none_differs(seeds: Range<u64>) -> Tally {
    let all = try_all(seeds, Mistake::None).unwrap_or_else(|(seed, difference)| {
        panic!(
            "{difference}\nseed {seed}: replay with\n    HIGHWATER_SEED={seed} cargo test --release \
             -p host --lib simulated::every_seed"
        )
    });
    println!("{all:?}");
    all
}

#[test]
fn every_seed_publishes_what_the_reference_says() {
    none_differs(new_seeds(SEEDS));
    let all = none_differs(seeds(SEEDS));
    assert!(all.woken > 0 && all.landed > 0, "{all:?}");
}

/// Some seed of the normal run finds a mistake.
fn is_found(mistake: Mistake) {
    let Err((seed, what)) = try_all(0..SEEDS, mistake) else {
        panic!("no seed finds {mistake:?}")
    };
    println!("{mistake:?} is found by seed {seed}: {what}");
}

#[test]
fn a_look_where_storage_is_late_is_found() {
    is_found(Mistake::TrustsTheLook);
}

#[test]
fn an_end_that_abandons_what_successors_have_staged_is_found() {
    is_found(Mistake::AbandonsSuccessors);
}
