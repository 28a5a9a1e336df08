//! One job directory, several hosts. Conformance 17.
//!
//! The job takes some seconds by the rate of its source, so that there is time to come in between; what it
//! must commit is what the same job commits at full speed, alone.

use std::fs;
use std::path::PathBuf;

use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::assert_same_lines;
use crate::scene::{Scene, all_files, contents};

/// Longer than any test is let run: nobody is waited for in it.
const NEVER: &str = "checkpoint.lease-timeout=1h";

/// Numbers, each of them in the output at once and counted at the end.
fn job(name: &str, rate: &str) -> String {
    jobs::head(name, "30ms").replace("name = ", "id = \"owned\"\nname = ")
        + &jobs::ENDLESS.replace("rate = 2000", &format!("count = 20000\n{rate}"))
        + &jobs::count("numbers")
        + &jobs::files("totals", "count", "out", "csv")
        + &jobs::keys("seen", "numbers", "seen")
}

fn scene(name: &str) -> Scene {
    let scene = Scene::new();
    scene.write("job.toml", job(name, "rate = 4000"));
    scene
}

/// What an undisturbed run commits.
fn expected(name: &str) -> [Vec<String>; 2] {
    let scene = Scene::new();
    scene.write("job.toml", job(name, ""));
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    output(&scene)
}

fn output(scene: &Scene) -> [Vec<String>; 2] {
    [scene.output("out"), scene.output("seen")]
}

fn assert_output(scene: &Scene, name: &str, what: &str) {
    for (found, expected) in output(scene).iter().zip(&expected(name)) {
        assert_same_lines(found, expected, what);
    }
}

/// Nobody has the lease of the directory, and nobody seems to.
fn assert_given_up(scene: &Scene) {
    let directory = scene.at("checkpoints/owned");
    let lease = all_files(&directory.join("_lease"));
    let read = |path: &PathBuf| fs::read_to_string(path).expect("an entry is text");
    let newest = lease.iter().max_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.parse::<u64>().unwrap_or(0)
    });
    let newest = newest.map(read).unwrap_or_default();
    assert!(newest.contains("\"released\":true"), "{newest}");
    assert_eq!(lease.len(), 2, "neither locks nor older entries: {lease:?}");
}

/// No host has left output that it did not commit.
fn assert_no_staging(scene: &Scene) {
    for output in ["out", "seen"] {
        let place = scene.at(output).join(".highwater");
        assert!(!place.exists(), "{:?}", all_files(&place));
    }
}

fn ids(ended: &Ended) -> Vec<u64> {
    let completions = ended.completions();
    completions.iter().map(|completion| completion.id).collect()
}

#[test]
fn c17_c87_a_second_host_is_refused_however_it_is_started_and_touches_nothing() {
    let scene = scene("c17-second");
    let arguments = ["run", "job.toml", "-D", NEVER];
    let mut first = host::start(scene.path(), &arguments);
    first.checkpoints(2);
    // While it stands still, whatever changes is not its doing.
    first.stand_still();
    let before = contents(&scene.at("checkpoints"));
    // The newest: an older one may have been about to be deleted.
    let metadata = before.keys().rfind(|path| path.ends_with("_metadata"));
    let metadata = metadata.expect("one is complete").display().to_string();
    for resume in [
        &[][..],
        &["--resume"],
        &["-s", "latest"],
        &["-s", &metadata],
        &["-s", &metadata, "--rewind", "withdraw"],
        &["--fresh"],
    ] {
        host::run(scene.path(), &[&arguments[..], resume].concat())
            .with_code(2)
            .saying(&["is held by process", "hint: stop it first"])
            .without_panic();
    }
    let after = contents(&scene.at("checkpoints"));
    assert!(before == after, "the directory is as it was");
    assert!(before.keys().any(|path| path.ends_with("_metadata")));
    first.signal("CONT");
    first.wait().with_code(0);
    assert_output(&scene, "c17-second", "output of the first host");
    assert_given_up(&scene);
}

#[test]
fn c17_the_place_of_a_killed_host_is_taken_at_once() {
    let scene = scene("c17-killed");
    let arguments = ["run", "job.toml", "--resume", "-D", NEVER];
    let mut generations = Vec::new();
    for _ in 0..3 {
        let mut host = host::start(scene.path(), &arguments);
        let last = host.checkpoints(1);
        let shown = host::run(scene.path(), &["checkpoints", "show", &last.path, "--json"]);
        let shown: serde_json::Value =
            serde_json::from_str(&shown.with_code(0).stdout).expect("metadata as JSON");
        generations.push(shown["generation"].as_u64().expect("a number"));
        host.kill().expect("killed in the middle");
        let lease = all_files(&scene.at("checkpoints/owned/_lease"));
        assert!(!lease.is_empty(), "it had no time to give up the lease");
    }
    host::run(scene.path(), &arguments).with_code(0);
    assert_output(&scene, "c17-killed", "output after three kills");
    assert!(
        generations.is_sorted_by(|one, next| one < next),
        "{generations:?}"
    );
    assert_given_up(&scene);
    assert_no_staging(&scene);
}

#[test]
fn c17_a_host_that_is_stopped_loses_its_place_and_knows_it_when_it_goes_on() {
    let scene = scene("c17-stopped");
    let arguments = [
        "run",
        "job.toml",
        "--resume",
        "-D",
        "checkpoint.lease-timeout=500ms",
    ];
    let mut first = host::start(scene.path(), &arguments);
    first.checkpoints(2);
    first.stand_still();
    // Refused as long as the first one seems to be alive.
    let (mut second, restored) = loop {
        let mut second = host::start(scene.path(), &arguments);
        if let Some(line) = second.line_with("restoring from checkpoint ") {
            let id = line.split("from checkpoint ").nth(1).unwrap_or_default();
            let digits: String = id.chars().take_while(char::is_ascii_digit).collect();
            break (second, digits.parse::<u64>().expect("a number"));
        }
        second.wait().with_code(2).saying(&["is held by process"]);
    };
    second.checkpoints(2);
    first.signal("CONT");
    let first = first
        .wait()
        .with_code(1)
        .saying(&["another has taken its place", "has taken it over"])
        .without_panic();
    assert!(
        !first.stderr.contains("restart 1"),
        "{}",
        first.transcript()
    );
    let list = host::run(scene.path(), &["checkpoints", "list", "checkpoints"]).with_code(0);
    let second = second.wait().with_code(0);
    let (before, behind) = (ids(&first), ids(&second));
    assert!(
        before.iter().all(|id| *id <= restored) && behind.iter().all(|id| *id > restored),
        "{before:?}, restored {restored}, {behind:?}\n{}",
        list.transcript()
    );
    assert_output(&scene, "c17-stopped", "output of two hosts");
    assert_given_up(&scene);
    assert_no_staging(&scene);
}

#[test]
fn c144_a_resume_that_had_to_wait_looks_for_checkpoints_when_it_is_its_turn() {
    // Each try may find the first host alive again before it is killed: then the second is refused.
    for _ in 0..20 {
        let scene = scene("c144");
        let slow = [
            "run",
            "job.toml",
            "--resume",
            "-D",
            "checkpoint.interval=1h",
        ];
        let lease = ["-D", "checkpoint.lease-timeout=3s"];
        let arguments = [&slow[..], &lease].concat();
        let mut first = host::start(scene.path(), &arguments);
        first.line_with("started, id").expect("it starts");
        first.stand_still();
        // Refused until it has been silent for long enough, then waiting.
        let mut second = loop {
            let mut second = host::start(scene.path(), &arguments);
            if second.line_with("waiting 3s for a renewal").is_some() {
                break second;
            }
            second.wait().with_code(2).saying(&["is held by process"]);
        };
        assert!(
            all_files(&scene.at("checkpoints"))
                .iter()
                .all(|it| !it.ends_with("_metadata"))
        );
        first.signal("CONT");
        first.signal("USR1");
        let completed = first.checkpoint();
        first.kill();
        match second.line_with("restoring from checkpoint ") {
            Some(line) => {
                let id = completed.expect("the first host completed one").id;
                assert!(line.contains(&format!("checkpoint {id}:")), "{line}");
                second.kill();
                return;
            }
            None => drop(second.wait().with_code(2)),
        }
    }
    panic!("the second host was refused each time");
}

#[test]
fn c142_a_fenced_owner_that_is_cancelled_touches_nothing_of_its_successor() {
    let scene = scene("c142");
    let arguments = [
        "run",
        "job.toml",
        "--resume",
        "-D",
        "checkpoint.lease-timeout=500ms",
    ];
    let mut first = host::start(scene.path(), &arguments);
    first.checkpoints(2);
    first.stand_still();
    let mut second = loop {
        let mut second = host::start(scene.path(), &arguments);
        if second.line_with("restoring from checkpoint ").is_some() {
            break second;
        }
        second.wait().with_code(2).saying(&["is held by process"]);
    };
    // What it completes has output that is prepared, and perhaps not committed yet.
    second.checkpoints(2);
    second.kill().expect("killed in the middle");
    let metadata = |path: &PathBuf| path.ends_with("_metadata");
    let files = || all_files(&scene.at("checkpoints")).into_iter();
    let newest = files().filter(metadata).max().expect("one is complete");
    first.signal("INT");
    first.signal("CONT");
    let first = first.wait().without_panic();
    assert!(
        newest.is_file(),
        "its successor's checkpoint is gone:\n{}",
        first.transcript()
    );
    host::run(scene.path(), &arguments).with_code(0);
    assert_output(&scene, "c142", "output after a fenced owner was cancelled");
}
