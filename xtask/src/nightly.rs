//! `cargo xtask nightly`: what the test command does a tenth of, in full. For a machine that has nothing
//! else to do for some hours.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::process::Command;
use std::time::Instant;

use crate::build::{self, cargo, run};
use crate::{Result, chores, fuzz, mutants, soak, story};

/// Seeds of each simulation.
const SEEDS: u64 = 20_000;
/// Kills of each of the six jobs: more than 2,000 together.
const KILLS: u64 = 340;
/// Kills of an owner whose standby takes over, with checkpoints in files, in S3, in Azure and in HDFS.
const STANDBY_KILLS: u64 = 50;
/// Requests to a job under load, each of them after some milliseconds.
const REQUESTS: u64 = 200;
/// Calls of a guest that passes anything.
const CALLS: u64 = 10_000_000;
/// Components with changed bytes, and as many that are made at random.
const COMPONENTS: u64 = 20_000;
/// Minutes of fuzzing for each target.
const FUZZ: u32 = 60;
/// Minutes of soak.
const MINUTES: u32 = 60;
/// Seeds above this are never drawn, so that a seed is easy to read and to write down.
const FIRST_SEED_MAX: u64 = 1 << 40;

/// Runs it. A failure ends it and says how to replay what failed.
pub(crate) fn nightly() -> Result<()> {
    let started = Instant::now();
    let first = first_seed()?;
    build::plugins()?;
    chores::tools()?;
    build::host()?;

    story::step("state and checkpoints: properties with as many cases as a release build tries");
    run(test(&["--package", "dataflow", "--package", "checkpoint"]))?;

    story::step(&format!(
        "simulations: {} seeds each, from HIGHWATER_FIRST_SEED={first}",
        story::number(SEEDS)
    ));
    let simulations: [&[&str]; 2] = [
        &["--package", "runtime", "--test", "simulation", "every_seed"],
        &["--package", "connectors", "--lib", "simulated::every_seed"],
    ];
    for simulation in simulations {
        let mut seeds = test(simulation);
        seeds.env("HIGHWATER_FIRST_SEED", first.to_string());
        seeds.env("HIGHWATER_SEEDS", SEEDS.to_string());
        run(seeds)?;
    }

    story::step("whatever a guest passes, components with changed bytes, and those made at random");
    let mut calls = test(&["--package", "wasm", "--lib", "c61_whatever_a_guest_passes"]);
    calls.env("HIGHWATER_CALLS", CALLS.to_string());
    run(calls)?;
    let mut components = test(&["--package", "host", "--test", "it", "loading::"]);
    components.env("HIGHWATER_FIRST_SEED", first.to_string());
    components.env("HIGHWATER_COMPONENTS", COMPONENTS.to_string());
    run(components)?;

    fuzz::fuzz(&["--minutes".to_owned(), FUZZ.to_string()])?;

    story::step(&format!("storms: {KILLS} kills of each job"));
    let mut kills = test(&["--package", "host", "--test", "it", "kills::"]);
    kills.env("HIGHWATER_KILLS", KILLS.to_string());
    run(kills)?;

    story::step(&format!(
        "standbys: {STANDBY_KILLS} kills of an owner, in files, S3, Azure and HDFS each"
    ));
    let mut standbys = test(&["--package", "host", "--test", "it", "standby::"]);
    standbys.env("HIGHWATER_STANDBY_KILLS", STANDBY_KILLS.to_string());
    run(standbys)?;

    story::step(&format!("requests: {REQUESTS} to jobs under load"));
    let mut requests = test(&["--package", "host", "--test", "it", "control_storm::"]);
    requests.env("HIGHWATER_REQUESTS", REQUESTS.to_string());
    run(requests)?;

    story::step("all mutants, each of which a test finds");
    mutants::mutants(&["--all".to_owned()])?;

    soak::soak(&["--minutes".to_owned(), MINUTES.to_string()])?;

    story::done(&format!(
        "the night is over, in {}",
        story::duration(started.elapsed())
    ));
    Ok(())
}

/// A command that runs tests in release mode.
fn test(which: &[&str]) -> Command {
    cargo(".", &[&["test", "--release"], which].concat())
}

/// The one that was asked for, or a new one every night.
fn first_seed() -> Result<u64> {
    match std::env::var("HIGHWATER_FIRST_SEED") {
        Ok(seed) => seed
            .parse()
            .map_err(|_| format!("HIGHWATER_FIRST_SEED={seed} is no whole number").into()),
        Err(_) => Ok(RandomState::new().hash_one("nightly") % FIRST_SEED_MAX),
    }
}
