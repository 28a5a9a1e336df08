//! What the SDK's harness gives for a list of records is what a job gives: authors of operators test with the
//! one and run the other. Those of `crates/wasm` compare call by call (`crates/wasm/src/tests/harness.rs`).

use std::hash::{BuildHasher, RandomState};

use highwater::testing::Harness;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use serde_json::Value;

use crate::guests::NO_RESTART;
use crate::host;
use crate::jobs;
use crate::scene::Scene;
use crate::scripts::{ALL, FAILING, KEYS, Script, record};

/// How many records are drawn.
const RECORDS: usize = 3000;

/// A job that runs the operator over these records.
fn job(scene: &Scene, records: &[(&str, String)]) -> String {
    let mut input = "key,command\n".to_owned();
    for (key, command) in records {
        let key = if key.is_empty() { "\"\"" } else { key };
        input += &format!("{key},{command}\n");
    }
    scene.write("input/records.csv", input);
    let select = jobs::operator("commands", "select", "records", "columns = [\"command\"]");
    let rejected = jobs::files("rejected", "script.rejected", "rejected", "lines");
    let job = jobs::head("script", "20ms")
        + &jobs::keyed_rows("")
        + &select
        + &jobs::operator("script", "script", "commands", "")
        + &jobs::files("out", "script", "out", "csv")
        + &rejected;
    job.replace(jobs::RESTART, NO_RESTART)
}

#[test]
fn a_job_gives_what_the_harness_of_the_sdk_gives() {
    let seed = match std::env::var("HIGHWATER_SEED") {
        Ok(seed) => seed.parse().expect("HIGHWATER_SEED is a whole number"),
        Err(_) => RandomState::new().hash_one("harness"),
    };
    println!("replay with HIGHWATER_SEED={seed}");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut records: Vec<(&str, String)> = (0..RECORDS).map(|_| record(&mut random)).collect();
    let all = KEYS
        .iter()
        .flat_map(|key| ALL.map(|command| (*key, command.to_owned())));
    records.extend(all);
    let mut native = Harness::<Script>::open().expect("it opens");
    native.process(&records).expect("each command succeeds");
    native.end_of_input(0).expect("it succeeds");
    let (mut out, mut rejected): (Vec<_>, Vec<_>) = native
        .take()
        .into_iter()
        .partition(|emitted| emitted.output == "out");
    let lines = |emitted: &mut Vec<highwater::testing::Emitted>| -> Vec<String> {
        let line = |emitted: highwater::testing::Emitted| match emitted.key {
            Some(key) => format!("{key},{}", emitted.value),
            None => emitted.value,
        };
        let mut lines: Vec<String> = emitted.drain(..).map(line).collect();
        lines.sort();
        lines
    };
    let scene = Scene::new();
    scene.write("job.toml", job(&scene, &records));
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    assert_eq!(scene.output("out"), lines(&mut out));
    assert_eq!(scene.output("rejected"), lines(&mut rejected));
}

#[test]
fn a_job_fails_with_the_error_that_the_harness_of_the_sdk_has() {
    for command in FAILING {
        let records = [("a", "add 1".to_owned()), ("b", command.to_owned())];
        let mut native = Harness::<Script>::open().expect("it opens");
        let error = native.process(&records).expect_err(command);
        let scene = Scene::new();
        scene.write("job.toml", job(&scene, &records));
        let ended = host::run(scene.path(), &["run", "job.toml", "--json"]).with_code(1);
        let events = ended.events();
        let failed = events.last().expect("it says how it ended");
        assert_eq!(failed["event"], Value::from("failed"));
        let said = failed["error"].as_str().expect("a reason");
        assert!(
            said.contains(error.message()),
            "{command}: `{said}`, not `{error}`"
        );
        assert!(scene.output("out").is_empty(), "nothing is published");
    }
}
