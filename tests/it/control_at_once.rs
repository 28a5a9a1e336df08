//! A running job is asked for something at an unlucky moment: it stands still, stops already, restarts, or its
//! storage hangs or is full. Conformance 81, 83, 84.
//!
//! Method: what must be under way is held there, by a gate in the job, a signal or a server that does not answer, so
//! that the moment is the same on every machine. Whatever is asked ends, with one clear message, and the job writes
//! what it writes alone.

use std::fs;
use std::io::Write;

use serde_json::Value;

use crate::control::{RECORDS, ask, ask_json, scene, start, undisturbed, variables};
use crate::failures::{on_a_small_disk_with_variables, seen_by};
use crate::gate::{Gate, HELD};
use crate::guests;
use crate::host;
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::Scene;
use crate::servers::{Kind, Server};

/// A job whose lines wait at a gate, and are in `out` when they have passed it.
fn gated(scene: &Scene, gate: &Gate) {
    scene.write("input/some.txt", format!("V:1 a b\nV:2 {HELD}\nV:3 c a\n"));
    let job = jobs::head("gated", "1h")
        + jobs::VERSES
        + &jobs::split()
        + &gate.operator("gate", "split")
        + &jobs::keys("words", "gate", "out");
    scene.write("job.toml", job);
}

/// How often each word is in the output of that job.
const GATED: [&str; 4] = ["a,2", "b,1", "c,1", "held,1"];

fn state(scene: &Scene, job: &str) -> String {
    let status = ask_json(scene, &["status", job]);
    status["state"].as_str().expect("a word").to_owned()
}

#[test]
fn c83_a_host_that_is_paused_is_not_said_to_have_no_job() {
    let scene = scene("paused");
    let mut running = start(&scene, &["run", "job.toml"]);
    running.checkpoints(1);
    running.while_stopped(|| {
        for asked in [
            &["status", "paused"][..],
            &["savepoint", "paused", "sp"],
            &["stop", "paused"],
        ] {
            let ended = ask(&scene, asked).with_code(1);
            ended.saying(&[
                "it is unknown whether there is a job `paused`",
                "does not answer",
            ]);
        }
        let listed = ask_json(&scene, &["list"]);
        assert_eq!(listed[0]["process"], running.id());
        assert_eq!(listed[0]["jobs"], Value::Array(Vec::new()));
        assert!(listed[0]["error"]["message"].is_string(), "{listed}");
    });
    assert_eq!(state(&scene, "paused"), "running");
    running.wait().with_code(0);
    assert!(!scene.at("sp").exists(), "nothing was begun");
    assert_same_lines(&scene.output("out"), &undisturbed(&scene), "output");
}

#[test]
fn c83_what_was_begun_before_a_pause_is_done_after_it() {
    let scene = Scene::new();
    let gate = Gate::new(&scene);
    gated(&scene, &gate);
    let mut running = start(&scene, &["run", "job.toml"]);
    gate.holds(&mut running);
    let asked = ["savepoint", "gated", "sp", "--request-id", "one"];
    let begun = ask(&scene, &[&asked[..], &["--detach"]].concat());
    begun.with_code(0);
    running.while_stopped(|| {
        // Who loses patience takes nothing along.
        start(&scene, &asked).kill();
    });
    let waiting = start(&scene, &asked);
    gate.open();
    running.wait().with_code(0);
    // The job may be over before the savepoint: then that is said.
    let ended = waiting.wait();
    match ended.status.code() {
        Some(0) => {
            let path = ended.stdout.lines().next().expect("a path");
            host::run(scene.path(), &["checkpoints", "verify", path]).with_code(0);
        }
        _ => _ = ended.with_code(1).without_panic(),
    }
    assert_eq!(oracle::count_keys(&scene.at("out")), GATED);
}

#[test]
fn c81_of_two_that_stop_a_job_at_once_nobody_is_misled() {
    let scene = scene("twice");
    let mut running = start(&scene, &["run", "job.toml", "--json"]);
    running.event("checkpoint-completed");
    let both = [(); 2].map(|()| start(&scene, &["stop", "twice"]));
    let both = both.map(host::Running::wait);
    let ended = running.wait().with_code(0);
    assert_eq!(
        ended.events().last().expect("an event")["outcome"],
        "stopped"
    );
    let mut stopped = 0;
    for asked in both {
        match asked.status.code() {
            Some(0) => stopped += 1,
            Some(1) => _ = asked.saying(&["ended"]),
            // It stops, it has stopped, or it is not there any more.
            _ => _ = asked.with_code(2).without_panic(),
        }
    }
    assert_eq!(stopped, 1);
    assert!(scene.output("out").len() < RECORDS as usize);
    host::run(scene.path(), &["run", "job.toml", "--resume"]).with_code(0);
    assert_same_lines(&scene.output("out"), &undisturbed(&scene), "output");
}

#[test]
fn c83_a_cancel_ends_a_job_that_is_being_stopped() {
    let scene = Scene::new();
    let gate = Gate::new(&scene);
    gated(&scene, &gate);
    let mut running = start(&scene, &["run", "job.toml", "--json"]);
    gate.holds(&mut running);
    let stop = ["stop", "gated", "--savepoint-path", "sp", "--detach"];
    ask(&scene, &stop).with_code(0);
    let waiting = start(&scene, &["cancel", "gated"]);
    gate.open();
    waiting.wait().with_code(0);
    let ended = running.wait().with_code(0);
    let events = ended.events();
    assert_eq!(
        events.last().expect("an event")["outcome"],
        "cancelled",
        "{}",
        ended.transcript()
    );
}

#[test]
fn c81_a_stop_does_not_wait_for_a_savepoint_to_a_storage_that_hangs() {
    let server = Server::start(Kind::Moto);
    let scene = scene("hanging");
    let variables = [variables(&scene), server.variables()].concat();
    let run = ["run", "job.toml", "--json"];
    let mut running = host::start_with_variables(scene.path(), &run, &variables);
    running.event("checkpoint-completed");
    let savepoint = ["savepoint", "hanging", "s3://checkpoints/sp"];
    ask(&scene, &savepoint).with_code(0);
    server.freeze();
    ask(&scene, &[&savepoint[..], &["--detach"]].concat()).with_code(0);
    let stopped = ask_json(&scene, &["stop", "hanging"]);
    assert_eq!(stopped["ended"], "stopped");
    let ended = running.wait().with_code(0);
    assert_eq!(
        ended.events().last().expect("an event")["outcome"],
        "stopped"
    );
    server.thaw();
    host::run(scene.path(), &["run", "job.toml", "--resume"]).with_code(0);
    assert_same_lines(&scene.output("out"), &undisturbed(&scene), "output");
}

#[test]
fn c84_a_rescale_while_a_checkpoint_is_in_progress() {
    let scene = Scene::new();
    let gate = Gate::new(&scene);
    gated(&scene, &gate);
    // What passes after the gate, so that it is not over at once.
    scene.write("input/more.txt", oracle::verses(20_000));
    let mut running = start(&scene, &["run", "job.toml", "--json"]);
    gate.holds(&mut running);
    let checkpoint = ["checkpoint", "gated", "--request-id", "one"];
    ask(&scene, &[&checkpoint[..], &["--detach"]].concat()).with_code(0);
    let rescale = ["rescale", "gated", "-p", "3", "--request-id", "two"];
    ask(&scene, &[&rescale[..], &["--detach"]].concat()).with_code(0);
    let both = [start(&scene, &checkpoint), start(&scene, &rescale)];
    gate.open();
    for (asked, name) in both.into_iter().zip(["checkpoint", "rescale"]) {
        asked.wait().with_code(0);
        println!("{name} was done");
    }
    running.wait().with_code(0);
    let found = oracle::count_keys(&scene.at("out"));
    let expected = oracle::word_count(&scene.at("input"));
    assert_same_lines(&found, &expected, "words");
}

#[test]
fn c83_status_answers_while_a_job_restarts() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(50));
    let job = guests::word_count_with_a_trap(&scene, "restarting", guests::Trap::Always)
        .replace("attempts = 3", "attempts = 60")
        .replace("delay = \"10ms\"", "delay = \"20ms\"");
    scene.write("job.toml", job);
    let mut running = start(&scene, &["run", "job.toml"]);
    running.line_with("restart 1 from").expect("it fails");
    let mut answers = 0;
    loop {
        let ended = ask(&scene, &["status", "restarting", "--json"]);
        if ended.status.code() != Some(0) {
            // It has failed at last.
            ended.without_panic();
            break;
        }
        let status: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        if status["state"] == "failed" {
            break;
        }
        answers += 1;
    }
    assert!(answers > 0);
    println!("{answers} answers");
    running.wait().with_code(1).saying(&["restart 60 from"]);
}

#[test]
fn c81_a_savepoint_to_a_full_disk_fails_and_so_does_a_stop_with_one() {
    let scene = scene("full");
    let run = ["run", "job.toml", "--json"];
    let variables = variables(&scene);
    let mut running = on_a_small_disk_with_variables(&scene, "sp", &run, &variables);
    running.event("checkpoint-completed");
    let disk = seen_by(&running, &scene.at("sp"));
    let filler = disk.join("filler");
    let mut file = fs::File::create(&filler).expect("a file can be made");
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let full = ["No space left on device", "sp/savepoint-full-"];
    ask(&scene, &["savepoint", "full", "sp"])
        .with_code(1)
        .saying(&full);
    ask(&scene, &["stop", "full", "--savepoint-path", "sp"])
        .with_code(1)
        .saying(&full);
    assert_eq!(state(&scene, "full"), "running");
    running.event("checkpoint-completed");
    let left = fs::read_dir(&disk).expect("the disk").count();
    assert_eq!(left, 1, "nothing is left of what failed");
    fs::remove_file(&filler).expect("a file can be removed");
    ask(&scene, &["savepoint", "full", "sp"]).with_code(0);
    running.wait().with_code(0);
    assert_same_lines(&scene.output("out"), &undisturbed(&scene), "output");
}
