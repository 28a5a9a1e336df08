//! State of subtasks, whatever the keys: lists that are dealt again, and maps that are the same everywhere.
//! Conformance 43, 73.
//!
//! Method: the plugin `shares` puts each line on the lists of one subtask and counts it on all. It is killed at one
//! parallelism and resumed at another, three times, and what it holds in the end is compared with the input.

use std::collections::{BTreeMap, BTreeSet};

use crate::host;
use crate::jobs;
use crate::oracle::assert_same_lines;
use crate::scene::Scene;

/// How many lines there are, of which every tenth begins with the same word as another.
const LINES: usize = 4000;

/// A job whose every line goes to all subtasks, slowly enough to be killed.
pub(crate) fn job() -> String {
    let source = format!(
        "[[source]]\nid = \"lines\"\nconnector = \"generator\"\ncount = {LINES}\nrate = 1500\nkeys = 3000\nseed = 7\n\n"
    );
    jobs::head("shares", "30ms")
        + &source
        + &jobs::operator_with("shares", "shares", "lines", "", "partition = \"broadcast\"")
        + &jobs::files("out", "shares", "out", "csv")
}

/// Runs the job until it has completed some checkpoints, and kills it.
fn killed(scene: &Scene, more: &[&str]) {
    let mut running = host::start(scene.path(), &[&["run", "job.toml"], more].concat());
    running.checkpoints(3);
    let killed = running
        .kill()
        .expect("it died of the signal and did not end before");
    assert!(!killed.stderr.contains("differ"), "{}", killed.transcript());
}

/// The rows of the output that begin with this word, without it: subtask and the rest.
fn rows(scene: &Scene, first: &str) -> Vec<(String, String)> {
    let output = scene.output("out");
    let rows = output.iter().filter_map(|row| {
        let (kind, rest) = row.split_once(',')?;
        let (subtask, rest) = rest.split_once(',')?;
        (kind == first).then(|| (subtask.to_owned(), rest.to_owned()))
    });
    rows.collect()
}

/// The elements of a list on all subtasks, sorted.
fn elements(scene: &Scene, list: &str) -> Vec<String> {
    let mut elements: Vec<String> = rows(scene, list)
        .into_iter()
        .map(|(_, word)| word)
        .collect();
    elements.sort();
    elements
}

#[test]
fn c43_c73_lists_are_dealt_again_and_what_is_broadcast_is_equal_everywhere() {
    let undisturbed = Scene::new();
    undisturbed.write("job.toml", job());
    host::run(undisturbed.path(), &["run", "job.toml", "-p", "1"]).with_code(0);
    let expected = elements(&undisturbed, "split");
    assert_eq!(expected.len(), LINES, "each line is on one list");

    let scene = Scene::new();
    scene.write("job.toml", job());
    killed(&scene, &["-p", "1"]);
    killed(&scene, &["--resume", "-p", "2"]);
    killed(&scene, &["--resume", "-p", "4"]);
    // What the checkpoint holds is what the last run starts with.
    let newest = scene.newest_checkpoint("shares").expect("a checkpoint");
    let all = ["checkpoints", "export", &newest.path];
    let exported = host::run(scene.path(), &all).with_code(0).stdout;
    let of = |state: &str| {
        let state = format!("\"state\":\"{state}\"");
        exported
            .lines()
            .filter(|line| line.contains(&state))
            .count()
    };
    assert_eq!(of("split"), of("union"));
    host::run(scene.path(), &["checkpoints", "verify", &newest.path]).with_code(0);
    let shown = host::run(scene.path(), &["checkpoints", "show", &newest.path]);
    let shown = shown.with_code(0).stdout;
    for state in [
        "`split` (operator-split",
        "`union` (operator-union",
        "`counts` (broadcast",
    ] {
        assert!(shown.contains(state), "{shown}");
    }
    let resumed = host::run(scene.path(), &["run", "job.toml", "--resume", "-p", "3"]);
    let resumed = resumed.with_code(0);
    assert!(
        !resumed.stderr.contains("differ"),
        "{}",
        resumed.transcript()
    );

    for list in ["split", "union"] {
        assert_same_lines(&elements(&scene, list), &expected, list);
    }
    // Everybody got the whole list of all.
    let last: BTreeMap<String, String> = rows(&scene, "restored").into_iter().collect();
    assert_eq!(
        last.len(),
        4,
        "four subtasks at most were restored: {last:?}"
    );
    let whole: BTreeSet<&String> = ["0", "1", "2"].iter().map(|it| &last[*it]).collect();
    assert_eq!(whole, BTreeSet::from([&of("union").to_string()]));
    // Everybody has the same counts, which are those of one subtask that saw everything.
    let counts = |scene: &Scene| {
        let mut by_subtask: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (subtask, row) in rows(scene, "counts") {
            by_subtask.entry(subtask).or_default().push(row);
        }
        by_subtask
    };
    let alone = counts(&undisturbed)
        .remove("0")
        .expect("there is one subtask");
    let found = counts(&scene);
    assert_eq!(found.len(), 3);
    for (subtask, counts) in found {
        assert_same_lines(&counts, &alone, &format!("counts of subtask {subtask}"));
    }
}
