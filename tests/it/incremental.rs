//! Checkpoints that hold what changed since the one before. Conformance 46, 47.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::Value;

use crate::host;
use crate::jobs;
use crate::oracle::assert_same_lines;
use crate::scene::{Scene, all_files};

/// What the metadata of a checkpoint says.
fn shown(scene: &Scene, path: &str) -> Value {
    let shown = host::run(scene.path(), &["checkpoints", "show", path, "--json"]).with_code(0);
    serde_json::from_str(&shown.stdout).expect("JSON")
}

/// The segments of a checkpoint.
fn segments(scene: &Scene, path: &str) -> Vec<Value> {
    let list = |value: &Value, field: &str| value[field].as_array().expect("a list").clone();
    list(&shown(scene, path), "operators")
        .iter()
        .flat_map(|operator| list(operator, "subtasks"))
        .flat_map(|subtask| list(&subtask, "segments"))
        .collect()
}

/// The bytes of state that a checkpoint refers to.
fn referenced(segments: &[Value]) -> u64 {
    let lengths = segments.iter().map(|segment| segment["length"].as_u64());
    lengths.map(|length| length.expect("a length")).sum()
}

/// The completed checkpoints of a job, oldest first, by their directories.
fn completed(scene: &Scene, job: &str) -> Vec<(u64, String)> {
    let place = format!("checkpoints/{job}");
    let list = host::run(scene.path(), &["checkpoints", "list", &place, "--json"]).with_code(0);
    let list: Value = serde_json::from_str(&list.stdout).expect("JSON");
    let complete = list.as_array().expect("a list").iter();
    let complete = complete.filter(|entry| entry["status"] == "complete");
    let mut found: Vec<(u64, String)> = complete
        .map(|entry| {
            let path = entry["path"].as_str().expect("a path").to_owned();
            (entry["id"].as_u64().expect("a number"), path)
        })
        .collect();
    found.sort();
    found
}

/// How many keys the job of [`chain`] has, and how often each comes.
const KEYS: u64 = 500;
const EACH: u64 = 80;
/// How many checkpoints are retained.
const CHAIN: usize = 20;

/// A job that counts records which are the same in every run.
fn chain() -> String {
    let numbers = format!(
        "[[source]]\nid = \"numbers\"\nconnector = \"generator\"\nkeys = {KEYS}\n\
         distribution = \"sequential\"\nrate = 8000\ncount = {}\n\n",
        KEYS * EACH
    );
    jobs::head("chain", "20ms")
        + &numbers
        + &jobs::count("numbers")
        + &jobs::files("totals", "count", "out", "csv")
}

#[test]
fn c46_each_of_twenty_retained_incremental_checkpoints_restores() {
    let scene = Scene::new();
    scene.write("job.toml", chain());
    let settings = [
        "-D",
        "checkpoint.inline-threshold=0B",
        "-D",
        "checkpoint.retained=20",
    ];
    let run = [&["run", "job.toml", "-p", "2"], &settings[..]].concat();
    let mut running = host::start(scene.path(), &run);
    running.checkpoints(CHAIN + 4);
    running.signal("TERM");
    running.wait().with_code(0);
    let chain = completed(&scene, "chain");
    assert_eq!(chain.len(), CHAIN, "{chain:?}");
    host::run(scene.path(), &["checkpoints", "verify", "checkpoints"]).with_code(0);

    let mut expected: Vec<String> = (0..KEYS).map(|key| format!("k{key:03},{EACH}")).collect();
    expected.sort();
    let (mut longest, mut bases) = (0, BTreeSet::new());
    for (id, path) in &chain {
        let segments = segments(&scene, path);
        let deltas = segments.iter().filter(|segment| segment["delta"] == true);
        longest = longest.max(deltas.count());
        bases.extend(
            segments
                .iter()
                .filter_map(|segment| segment["written-by"].as_u64()),
        );
        let (job, output) = (
            format!("job.id=from-{id}"),
            format!("sink.totals.path=out-{id}"),
        );
        let restore = ["run", "job.toml", "-s", path, "-D", &job, "-D", &output];
        // Without its pace, and with no checkpoint but the last.
        let fast = [
            "-D",
            "source.numbers.rate=10000000",
            "-D",
            "checkpoint.interval=1h",
        ];
        host::run(scene.path(), &[&restore[..], &fast].concat())
            .with_code(0)
            .saying(&[&format!("restoring from checkpoint {id}")]);
        assert_same_lines(&scene.output(&format!("out-{id}")), &expected, path);
    }
    assert!(longest > 2, "no checkpoint stands on several deltas");
    assert!(
        bases.len() > CHAIN / 2,
        "they share what they stand on: {bases:?}"
    );
}

/// What `docs/checkpoint-format.md` promises of what a checkpoint refers to: at most six times the live state
/// and 1 MiB for each subtask.
fn allowed(live: u64, subtasks: u64) -> u64 {
    6 * live + subtasks * (1 << 20)
}

#[test]
fn c46_stored_bytes_stay_within_the_documented_factor_of_the_live_state() {
    const SUBTASKS: u64 = 2;
    let scene = Scene::new();
    // Each checkpoint finds a large part of the state changed; all of it has about 2 MB.
    let numbers = jobs::ENDLESS.replace("rate = 2000\n", "").replace(
        "keys = 100\n",
        "keys = 50000\nkey-size = 24\ndistribution = \"sequential\"\n",
    );
    scene.write(
        "job.toml",
        jobs::counting("factor", "50ms").replace(jobs::ENDLESS, &numbers),
    );
    let start = |job: &str, incremental: &str| {
        let (job, incremental) = (
            format!("job.id={job}"),
            format!("checkpoint.incremental={incremental}"),
        );
        let run = ["run", "job.toml", "--json", "-p", "2", "-D", &job];
        let settings = [
            "checkpoint.inline-threshold=0B",
            "checkpoint.retained=5",
            &incremental,
        ];
        let settings: Vec<&str> = settings.iter().flat_map(|it| ["-D", *it]).collect();
        host::start(scene.path(), &[&run[..], &settings].concat())
    };
    let suspend = |running: host::Running| {
        running.signal("TERM");
        running.wait().with_code(0);
    };
    // All keys have come when a checkpoint has them.
    let newest = |job: &str| completed(&scene, job).pop().expect("some are kept").1;
    let entries = |path: &str| shown(&scene, path)["operators"][1]["states"][0]["entries"].as_u64();
    let mut running = start("full", "false");
    running.checkpoints(1);
    while running.while_stopped(|| entries(&newest("full"))) < Some(50_000) {
        running.checkpoints(1);
    }
    suspend(running);
    let full = newest("full");
    let live = referenced(&segments(&scene, &full));
    assert!(live > 1 << 20, "{live} bytes are too few to tell");

    // So much is written that a chain without end would be too long.
    let mut running = start("deltas", "true");
    let mut written = 0;
    while written < 2 * allowed(live, SUBTASKS) {
        let completed = running.event("checkpoint-completed");
        written += completed["bytes"].as_u64().expect("a number");
    }
    suspend(running);
    let kept = completed(&scene, "deltas");
    let mut deltas = 0;
    for (id, path) in &kept {
        let segments = segments(&scene, path);
        deltas += segments
            .iter()
            .filter(|segment| segment["delta"] == true)
            .count();
        let bytes = referenced(&segments);
        assert!(
            bytes <= allowed(live, SUBTASKS),
            "checkpoint {id} refers to {bytes} bytes for {live}"
        );
    }
    assert!(deltas > 0, "none of them is incremental");
    let sizes = all_files(&scene.at("checkpoints/deltas")).into_iter();
    let sizes = sizes.map(|file| file.metadata().expect("it is there").len());
    let stored: u64 = sizes.sum();
    let checkpoints = kept.len() as u64 + 1;
    assert!(
        stored <= checkpoints * allowed(live, SUBTASKS),
        "{stored} bytes are stored in {checkpoints} checkpoints of {live}"
    );
}

/// Value, map and list state of records that are read from stdin, with checkpoints when the test asks for them.
fn fed(scene: &Scene, job: &str, parallelism: &str, incremental: &str) -> Vec<Value> {
    let lines = "\
[[source]]
id = \"lines\"
connector = \"stdin\"
format = \"json-lines\"
key = \"k\"

";
    let config = "recent = 4, journal = 3, forget-after = 6";
    let text = jobs::head("fed", "1h")
        + lines
        + &jobs::operator("history", "history", "lines", config)
        + &jobs::files("seen", "history", "out", "csv");
    scene.write("job.toml", text);
    let settings = [
        format!("job.id={job}"),
        format!("sink.seen.path=out-{job}"),
        format!("checkpoint.incremental={incremental}"),
        "checkpoint.retain-on-finish=true".to_owned(),
        "checkpoint.inline-threshold=0B".to_owned(),
    ];
    let mut arguments = vec!["run", "job.toml", "-p", parallelism];
    arguments.extend(settings.iter().flat_map(|setting| ["-D", setting.as_str()]));
    let mut running = host::start_with_input(scene.path(), &arguments, Stdio::piped());
    running.line_with("started").expect("it starts");
    let feed = |running: &mut host::Running, key: u32, value: u32| {
        running.feed(&format!("{{\"k\":\"k{key}\",\"v\":{value}}}"));
    };
    // All keys at first, then some of them, of which the last are forgotten: what a checkpoint in between has
    // differs from run to run, what the last one has does not.
    for key in 0..400 {
        feed(&mut running, key, 0);
    }
    for value in 1..=6 {
        running.signal("USR1");
        running.checkpoints(1);
        for key in (0..40).filter(|key| key % 3 > 0 || value < 5) {
            feed(&mut running, key, value);
        }
    }
    running.end_input();
    let last = running.wait().with_code(0).completions().pop();
    segments(scene, &last.expect("the last one").path)
}

#[test]
fn c47_a_full_and_an_incremental_checkpoint_of_value_map_and_list_state_are_exported_alike() {
    let scene = Scene::new();
    let full = fed(&scene, "full", "1", "false");
    assert!(
        full.iter().all(|segment| segment["delta"] == false),
        "{full:?}"
    );
    let export = |job: &str| {
        let place = format!("checkpoints/{job}");
        host::run(scene.path(), &["checkpoints", "export", &place])
            .with_code(0)
            .stdout
    };
    let expected = export("full");
    for kind in ["value", "map", "list"] {
        assert!(
            expected.contains(&format!("\"kind\":\"{kind}\"")),
            "no {kind}"
        );
    }
    let keys: BTreeSet<String> = expected
        .lines()
        .map(|line| {
            let entry: Value = serde_json::from_str(line).expect("JSON");
            entry["key"].to_string()
        })
        .collect();
    assert!(
        (360..400).contains(&keys.len()),
        "some were forgotten: {}",
        keys.len()
    );
    for parallelism in ["1", "3"] {
        let job = format!("deltas-{parallelism}");
        let deltas = fed(&scene, &job, parallelism, "true");
        let count = deltas
            .iter()
            .filter(|segment| segment["delta"] == true)
            .count();
        assert!(count > 1, "it stands on no deltas: {deltas:?}");
        assert!(
            export(&job) == expected,
            "the exports differ at parallelism {parallelism}"
        );
        assert_same_lines(
            &scene.output(&format!("out-{job}")),
            &scene.output("out-full"),
            "output",
        );
    }
}
