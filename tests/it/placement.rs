//! Where state lies: in the metadata itself, or in a file. Conformance 5, 6.

use std::path::PathBuf;

use serde_json::Value;

use crate::host;
use crate::jobs;
use crate::oracle;
use crate::scene::{Scene, all_files};

/// What a finished job leaves: its files, and what its last checkpoint says of an operator.
fn left_by(threshold: &str, operator: &str) -> (Vec<PathBuf>, Value) {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(300));
    // No word is that long: `idle` never gets a record.
    let idle = jobs::operator("barren", "split", "verses", "min-length = 1000")
        + &jobs::operator("idle", "count", "barren", "emit = \"final\"")
        + &jobs::discard("nowhere", "idle");
    scene.write(
        "job.toml",
        jobs::word_count("placement").replace("\"30ms\"", "\"1h\"") + &idle,
    );
    let threshold = format!("checkpoint.inline-threshold={threshold}");
    let options = ["-D", &threshold, "-D", "checkpoint.retain-on-finish=true"];
    let ended = host::run(
        scene.path(),
        &[["run", "job.toml"].as_slice(), &options].concat(),
    );
    let last = ended
        .with_code(0)
        .completions()
        .pop()
        .expect("a checkpoint at the end");
    let show = host::run(scene.path(), &["checkpoints", "show", &last.path, "--json"]).with_code(0);
    let shown: Value = serde_json::from_str(&show.stdout).expect("JSON");
    let operators = shown["operators"].as_array().expect("a list");
    let found = operators.iter().find(|found| found["id"] == operator);
    let found = found.expect("it is in the job")["subtasks"][0].clone();
    let stored = all_files(&scene.at("checkpoints")).into_iter();
    (
        stored
            .filter(|file| !file.to_string_lossy().contains("/_lease/"))
            .collect(),
        found,
    )
}

#[test]
fn c05_state_of_exactly_the_threshold_is_inline_and_one_byte_more_a_file() {
    let (_, count) = left_by("1MiB", "count");
    let length = count["segments"][0]["length"]
        .as_u64()
        .expect("it has state");
    assert!(length > 1000, "{count}");
    let (files, _) = left_by(&format!("{length}B"), "count");
    assert_eq!(files.len(), 1, "nothing but the metadata: {files:?}");
    // The threshold is one less, so the state one more.
    let (files, _) = left_by(&format!("{}B", length - 1), "count");
    assert_eq!(files.len(), 2, "the metadata and one data file: {files:?}");
}

#[test]
fn c06_for_an_operator_that_never_wrote_state_nothing_is_stored() {
    let (files, idle) = left_by("0B", "idle");
    assert_eq!(idle["segments"], Value::Array(Vec::new()), "{idle}");
    assert_eq!(
        files.len(),
        2,
        "the metadata and what `count` has: {files:?}"
    );
}
