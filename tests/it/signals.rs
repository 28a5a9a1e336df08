//! A job that is stopped at an unlucky moment: twice, before its first checkpoint, while it waits to be
//! started again. Conformance 35.

use std::path::PathBuf;
use std::process::Stdio;

use crate::gate::{Gate, HELD};
use crate::guests;
use crate::host::{self, Running};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{Scene, all_files};

/// Lines of standard input counted into files, behind a gate. No checkpoint is taken by itself.
fn gated(scene: &Scene) -> Gate<'_> {
    let gate = Gate::new(scene);
    let source =
        "[[source]]\nid = \"lines\"\nconnector = \"stdin\"\nformat = \"lines\"\nkey = \"line\"\n\n";
    let job = jobs::head("gated", "1h").replace("[job]\n", "[job]\nid = \"gated\"\n")
        + source
        + &gate.operator("gate", "lines")
        + &jobs::count("gate")
        + &jobs::files("totals", "count", "out", "csv");
    scene.write("job.toml", job);
    gate
}

fn start(scene: &Scene, more: &[&str]) -> Running {
    let arguments = [&["run", "job.toml"], more].concat();
    host::start_with_input(scene.path(), &arguments, Stdio::piped())
}

#[test]
fn c35_a_second_signal_ends_a_job_that_cannot_stop_and_costs_nothing() {
    for (signal, says, code) in [("TERM", "suspending", 143), ("INT", "cancelling", 130)] {
        let scene = Scene::new();
        let gate = gated(&scene);
        let keep = ["-D", "checkpoint.retention=retain-on-cancellation"];
        let mut running = start(&scene, &keep);
        running.feed("before");
        // The line may come after the barrier, then the next checkpoint has it.
        let newest = || {
            scene
                .newest_checkpoint("gated")
                .map_or(0, |newest| newest.id)
        };
        running.line_with("started").expect("it starts");
        running.signal("USR1");
        running.wait_until("checkpoint", || newest() >= 1);
        running.feed(HELD);
        gate.holds(&mut running);
        // It stops at the end of a call, and this one does not end.
        running.signal(signal);
        running.line_with(says).expect("it says so");
        running.signal(signal);
        let ended = running.wait().with_code(code);
        assert!(
            !ended.stderr.contains("job suspended"),
            "{}",
            ended.transcript()
        );
        assert!(
            !ended.stderr.contains("job cancelled"),
            "{}",
            ended.transcript()
        );
        let newest = newest();
        gate.open();
        let mut running = start(&scene, &["--resume"]);
        running
            .line_with(&format!("restoring from checkpoint {newest}:"))
            .expect("it goes on from the newest");
        running.feed("after");
        running.end_input();
        running.wait().with_code(0);
        let output = scene.output("out");
        assert!(output.contains(&"after,1".to_owned()), "{output:?}");
    }
}

#[test]
fn c35_a_job_that_is_stopped_before_its_first_checkpoint_says_so_and_begins_again() {
    for (signal, says) in [
        ("TERM", "there is no checkpoint to resume from"),
        ("HUP", "there is no checkpoint to resume from"),
        ("INT", "job cancelled"),
    ] {
        let scene = Scene::new();
        gated(&scene);
        let mut running = start(&scene, &[]);
        running.line_with("started").expect("it starts");
        running.feed("before");
        running.signal(signal);
        let ended = running.wait().with_code(0).saying(&[says]);
        assert!(!ended.stderr.contains("resume with"), "{}", ended.stderr);
        let files = all_files(&scene.at("checkpoints"));
        let is_metadata = |file: &PathBuf| file.ends_with("_metadata");
        assert!(!files.iter().any(is_metadata), "{files:?}");
        assert!(scene.output("out").is_empty(), "its input has not ended");
        // Its successor finds nothing in its way.
        let mut running = start(&scene, &["--resume"]);
        running.feed("after");
        running.end_input();
        let ended = running.wait().with_code(0);
        assert!(!ended.stderr.contains("restoring"), "{}", ended.stderr);
        assert_eq!(scene.output("out"), ["after,1"]);
    }
}

#[test]
fn c35_a_job_that_waits_to_be_started_again_is_stopped_at_once() {
    for signal in ["TERM", "INT"] {
        let scene = Scene::new();
        scene.input(&oracle::bible(), 12, "txt");
        let job = guests::word_count_with_a_trap(&scene, "waiting", guests::Trap::Once);
        scene.write(
            "job.toml",
            job.replace("delay = \"10ms\"", "delay = \"1h\""),
        );
        let keep = ["-D", "checkpoint.retention=retain-on-cancellation"];
        let mut running = host::start(scene.path(), &[&["run", "job.toml"], &keep[..]].concat());
        running
            .line_with("restart 1 from checkpoint")
            .expect("it failed");
        running.signal(signal);
        let outcome = match signal {
            "TERM" => "job suspended",
            _ => "job cancelled",
        };
        running
            .wait()
            .with_code(0)
            .saying(&[outcome, "resume with: "]);
        host::run(scene.path(), &["run", "job.toml", "--resume"])
            .with_code(0)
            .saying(&["restoring from checkpoint"]);
        let expected = oracle::word_count(&scene.at("input"));
        assert_same_lines(&scene.output("out"), &expected, outcome);
    }
}
