//! `checkpoint.mode` and `min-pause` do what they say. Conformance 18, 19, 26.
//!
//! Method: a counter reads two inputs, one of which stops at a gate. So the barrier of a checkpoint comes by
//! the one and not by the other, for as long as the test wants.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::gate::{Gate, HELD};
use crate::host::{self, Running};
use crate::hostile::Envelope;
use crate::jobs;
use crate::scene::Scene;

/// Records of the input that does not stop.
const RECORDS: u64 = 2000;

/// Two inputs of one counter: `free`, of which every record is also shown as it comes, and `held`.
fn uneven(gate: &Gate) -> String {
    let sources = format!(
        "[[source]]\nid = \"free\"\nconnector = \"generator\"\ncount = {RECORDS}\nrate = 1000\nkeys = 10\n\n\
         [[source]]\nid = \"held\"\nconnector = \"stdin\"\nformat = \"lines\"\nkey = \"line\"\n\n"
    );
    // On threads of its own, or the gate would stop it altogether.
    let tally = jobs::operator_with(
        "tally",
        "count",
        "pass",
        "emit = \"every-update\"",
        "parallelism = 2",
    )
    .replace("input = \"pass\"", "inputs = [\"pass\", \"gate\"]");
    let shown = |id: &str, input: &str, format: &str| {
        format!(
            "[[sink]]\nid = \"{id}\"\nconnector = \"stdout\"\ninput = \"{input}\"\n{format}\ndelivery = \"immediate\"\n\n"
        )
    };
    jobs::head("uneven", "1h").replace("[job]\n", "[job]\nid = \"uneven\"\n")
        + &sources
        + &jobs::pass("pass", "free")
        + &gate.operator("gate", "held")
        + &tally
        + &shown("seen", "pass", "format = \"lines\"\nwith-key = true")
        + &shown("counted", "tally", "format = \"csv\"")
}

/// What metadata says.
fn metadata(scene: &Scene, id: &str, number: u64) -> Value {
    let path = scene.at(&format!("checkpoints/{id}/chk-{number}/_metadata"));
    Envelope::read(&path).body
}

/// Up to which record the generator had got at a checkpoint.
fn position(body: &Value) -> u64 {
    let operators = body["operators"].as_array().expect("a list");
    let free = operators.iter().find(|operator| operator["id"] == "free");
    let parts = free.expect("it is in the job")["subtasks"][0]["parts"].clone();
    let splits = parts[0]["splits"].as_array().expect("a list").clone();
    let records = splits
        .iter()
        .map(|split| split[1].as_u64().expect("a number"));
    records.sum()
}

/// The counts in a checkpoint, by key.
fn counts(scene: &Scene, checkpoint: &Path) -> BTreeMap<String, u64> {
    let checkpoint = checkpoint.display().to_string();
    let exported = host::run(scene.path(), &["checkpoints", "export", &checkpoint]);
    let exported = exported.with_code(0).stdout;
    let entries = exported.lines().map(|line| {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        let count = match &entry["value"] {
            Value::String(hex) => {
                let digits = hex.trim_start_matches("0x");
                u64::from_str_radix(digits, 16)
                    .expect("hexadecimal")
                    .swap_bytes()
            }
            number => number.as_u64().expect("a number"),
        };
        (entry["key"].as_str().expect("a text").to_owned(), count)
    });
    entries.collect()
}

/// What a checkpoint held that was taken while one input stood still, and the counts at the end, after a kill.
struct Taken {
    position: u64,
    counted: u64,
    at_the_end: BTreeMap<String, u64>,
}

/// Takes a checkpoint while one input stands still; `meanwhile` happens before that goes on.
fn taken_while_one_input_is_held(mode: &str, meanwhile: impl Fn(&mut Running)) -> Taken {
    let scene = Scene::new();
    let gate = Gate::new(&scene);
    scene.write("job.toml", uneven(&gate));
    let mode = format!("checkpoint.mode={mode}");
    let run = ["run", "job.toml", "-D", &mode];
    let mut running = host::start_with_input(scene.path(), &run, Stdio::piped());
    running.feed(HELD);
    gate.holds(&mut running);
    running.line_with("k").expect("records of the other come");
    running.signal("USR1");
    meanwhile(&mut running);
    gate.open();
    assert_eq!(running.checkpoints(1).id, 1);
    running.kill().expect("its input has no end");
    let position = position(&metadata(&scene, "uneven", 1));
    let counted = counts(&scene, &scene.at("checkpoints/uneven/chk-1"));
    let keep = ["--resume", "-D", "checkpoint.retain-on-finish=true"];
    host::run(scene.path(), &[&run[..], &keep].concat()).with_code(0);
    let last = scene.newest_checkpoint("uneven").expect("it is kept").path;
    Taken {
        position,
        counted: counted.values().sum(),
        at_the_end: counts(&scene, Path::new(&last)),
    }
}

#[test]
fn c18_at_least_once_waits_for_no_barrier_and_loses_nothing_but_exactly_once_does() {
    let exactly = taken_while_one_input_is_held("exactly-once", |running| {
        // The generator has got further: what follows waits before the counter.
        running.line_with("\t").expect("the generator goes on");
    });
    // The one record at the gate came before the barrier.
    assert_eq!(exactly.counted, exactly.position + 1);
    assert_eq!(exactly.at_the_end.values().sum::<u64>(), RECORDS + 1);

    let at_least = taken_while_one_input_is_held("at-least-once", |running| {
        let is_count = |line: &str| line.starts_with('k') && line.contains(',');
        while running.said(is_count) < RECORDS as usize {
            running.line_with(",").expect("it goes on counting");
        }
    });
    // All was counted while the barrier of the other input was missing.
    assert_eq!(at_least.counted, RECORDS + 1);
    assert!(
        at_least.position < RECORDS,
        "nothing came after the barrier"
    );
    let twice = RECORDS - at_least.position;
    assert_eq!(
        at_least.at_the_end.values().sum::<u64>(),
        RECORDS + 1 + twice
    );
    for (key, count) in &exactly.at_the_end {
        assert!(
            at_least.at_the_end[key] >= *count,
            "records of {key} are lost"
        );
    }
}

/// A job whose periodic checkpoints end with its input.
fn generated(scene: &Scene) {
    let source = "[[source]]\nid = \"numbers\"\nconnector = \"generator\"\ncount = 1000\nrate = 2000\nkeys = 10\n\n";
    let job = jobs::head("pause", "10ms") + source + &jobs::count("numbers");
    scene.write("job.toml", job + &jobs::discard("nowhere", "count"));
}

#[test]
fn c19_after_a_checkpoint_the_next_periodic_one_waits_for_the_least_pause() {
    let ids = |pause: &str| -> Vec<u64> {
        let scene = Scene::new();
        generated(&scene);
        let pause = format!("checkpoint.min-pause={pause}");
        let ended = host::run(scene.path(), &["run", "job.toml", "-D", &pause]).with_code(0);
        ended.completions().iter().map(|done| done.id).collect()
    };
    // The first, and the last, which finishes the job.
    assert_eq!(ids("1h"), [1, 2]);
    assert!(ids("0s").len() > 2);
}
