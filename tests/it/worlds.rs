//! Components of every version of the contract. Conformance 25, 51.
//!
//! Method: the counter that was built with the last SDK of version 0.1 counts the words of a text, is killed in the
//! middle and resumed, and then gives way to the counter of today, which goes on from its state.

use std::path::{Path, PathBuf};

use crate::host::{self, Running};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::plugins;
use crate::scene::Scene;

/// The counter of version 0.1.
fn old_counter() -> PathBuf {
    plugins::root().join("tests/fixtures/world-0.1/count.wasm")
}

/// How often the text is counted, so that it takes a while.
const COPIES: usize = 8;

/// The job of `jobs::word_count`, with this counter.
fn job(counter: &Path) -> String {
    jobs::word_count("worlds").replace(
        &plugins::component("count").display().to_string(),
        &counter.display().to_string(),
    )
}

fn start(scene: &Scene, more: &[&str]) -> Running {
    host::start(scene.path(), &[&["run", "job.toml"], more].concat())
}

/// Kills a run after its second checkpoint, in the middle.
fn kill(mut running: Running) {
    running.checkpoints(2);
    let killed = running
        .kill()
        .expect("it died of the signal and did not end before");
    assert!(
        !killed.stderr.contains("job finished"),
        "{}",
        killed.transcript()
    );
}

#[test]
fn c51_an_operator_goes_on_from_the_state_of_the_one_built_for_the_version_before() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), COPIES, "txt");
    scene.write("job.toml", job(&old_counter()));
    kill(start(&scene, &[]));
    kill(start(&scene, &["--resume"]));
    scene.write("job.toml", job(&plugins::component("count")));
    let resumed = start(&scene, &["--resume"]).wait().with_code(0);
    resumed.saying(&["restoring from checkpoint", "component"]);
    let one = Scene::new();
    one.input(&oracle::bible(), 1, "txt");
    let expected = oracle::word_count(&one.at("input"));
    let expected = expected.iter().map(|line| {
        let (word, count) = line.split_once(',').expect("a word and its count");
        let count: usize = count.parse().expect("a number");
        format!("{word},{}", count * COPIES)
    });
    let mut expected: Vec<String> = expected.collect();
    expected.sort();
    assert_same_lines(&scene.output("out"), &expected, "0.1, then 0.2");
}

#[test]
fn c25_a_component_of_version_0_1_is_checked_and_runs_to_its_end() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 1, "txt");
    scene.write("job.toml", job(&old_counter()));
    host::run(scene.path(), &["check", "job.toml"]).with_code(0);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let expected = oracle::word_count(&scene.at("input"));
    assert_same_lines(&scene.output("out"), &expected, "0.1");
}

/// Rows with columns of kinds, some of them equal.
const ROWS: &str = "\
[[source]]
id = \"rows\"
connector = \"file\"
path = \"input/*.csv\"
format = \"csv\"
key = [\"town\"]

";

#[test]
fn what_passes_records_on_declares_the_columns_that_come() {
    let scene = Scene::new();
    scene.write(
        "input/a.csv",
        "town,people,day\nUlm,1,x\nUlm,1,x\nBonn,2,y\n",
    );
    let filter = jobs::operator("first", "dedupe", "rows", "identity = [\"people\"]");
    let select = jobs::operator(
        "chosen",
        "select",
        "first",
        "columns = [\"day\", \"people\"]",
    );
    let job = jobs::head("columns", "30ms")
        + ROWS
        + &filter
        + &select
        + &jobs::files("out", "chosen", "out", "json-lines");
    scene.write("job.toml", &job);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let found = scene.output("out");
    assert_eq!(
        found,
        [
            "{\"town\":\"Bonn\",\"day\":\"y\",\"people\":\"2\"}",
            "{\"town\":\"Ulm\",\"day\":\"x\",\"people\":\"1\"}"
        ]
    );
    // A column that is not there is found by a check, after an operator that passes on what it gets.
    scene.write("job.toml", job.replace("\"day\", ", "\"dya\", "));
    host::run(scene.path(), &["check", "job.toml"])
        .with_code(2)
        .saying(&["`first` has no column `dya`", "operator.chosen.config"]);
}
