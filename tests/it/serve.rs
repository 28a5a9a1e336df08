//! Several jobs in one host. Conformance 88.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::control::{ask, ask_json, start};
use crate::guests;
use crate::host::{self, Running};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::Scene;

/// Waits until a job is in a state, as `host status` tells it.
fn wait_for(scene: &Scene, running: &mut Running, job: &str, state: &str) -> Value {
    let status = || {
        let asked = ask(scene, &["status", job, "--json"]);
        serde_json::from_str::<Value>(&asked.stdout).unwrap_or_default()
    };
    running.wait_until(&format!("{job} {state}"), || status()["state"] == state);
    status()
}

/// A job in `jobs/` that counts without end, with its checkpoints beside that directory.
fn job(name: &str, interval: &str) -> String {
    jobs::counting(name, interval).replace("\"checkpoints\"", "\"../checkpoints\"")
}

/// Waits until the job `one` is suspended and goes on where it was.
fn is_handed_on(running: &mut Running) {
    running
        .line_with("[one] job suspended")
        .expect("it is suspended");
    running
        .line_with("[one] restoring from checkpoint")
        .expect("it goes on");
}

/// How many good jobs there are.
const GOOD: usize = 18;

#[test]
fn c88_one_that_fails_for_ever_and_one_that_hogs_leave_the_others_alone() {
    let scene = Scene::new();
    scene.input(oracle::verses(2000).as_bytes(), 3, "txt");
    let mut arguments = vec!["serve".to_owned(), "jobs".to_owned(), "--json".to_owned()];
    let job = |name: &str| {
        let job = jobs::word_count(name);
        job.replace("path = \"out\"", &format!("path = \"../out/{name}\""))
            .replace("\"input/", "\"../input/")
            .replace("dir = \"checkpoints\"", "dir = \"../checkpoints\"")
    };
    for number in 0..GOOD {
        let name = format!("good-{number}");
        scene.write(&format!("jobs/{name}.toml"), job(&name));
    }
    let bad = |name: &str, misdeed: &str| {
        let operator = jobs::operator("faulty", "faulty", "split", misdeed);
        let job = job(name).replace("input = \"split\"", "input = \"faulty\"");
        let job = job.replace("attempts = 3", "attempts = 1000000");
        let job = job.replace("delay = \"10ms\"", "delay = \"500ms\"");
        scene.write(&format!("jobs/{name}.toml"), job + &operator);
    };
    bad("traps", "misdeed = \"trap\", on = \"the\"");
    bad("hogs", "misdeed = \"loop\", on = \"the\"");
    let mut running = start(
        &scene,
        &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    arguments.clear();
    let expected = oracle::word_count(&scene.at("input"));
    let mut finished = 0;
    while finished < GOOD {
        let event = running.event("finished");
        let job = event["job"].as_str().expect("it has the job's id");
        assert!(job.starts_with("good-"), "{event}");
        assert_eq!(event["outcome"], "finished");
        finished += 1;
    }
    for number in 0..GOOD {
        let name = format!("good-{number}");
        assert_same_lines(&scene.output(&format!("out/{name}")), &expected, &name);
    }
    let status = ask_json(&scene, &["status", "traps"]);
    assert!(status["restarts"].as_u64() > Some(0), "{status}");
    assert_eq!(ask_json(&scene, &["cancel", "traps"])["ended"], "cancelled");
    assert_ne!(ask_json(&scene, &["status", "hogs"])["state"], "finished");
    let hosts = ask_json(&scene, &["list"]);
    assert_eq!(hosts[0]["jobs"].as_array().map(Vec::len), Some(GOOD + 2));
    running.signal("TERM");
    let ended = running.wait().with_code(0);
    let events = ended.events();
    for job in ["good-0", "traps", "hogs"] {
        let mut of_job = events.iter().filter(|event| event["job"] == job);
        assert!(of_job.any(|event| event["event"] == "finished"), "{job}");
    }
}

#[test]
fn c88_a_directory_of_job_files_is_watched() {
    let scene = Scene::new();
    fs::create_dir_all(scene.at("jobs")).expect("a directory");
    let mut running = start(&scene, &["serve", "jobs"]);
    // A new file starts a job.
    scene.write("jobs/one.toml", job("one", "20ms"));
    running
        .line_with("[one] job `one` started")
        .expect("it starts");
    running
        .line_with("[one] checkpoint 2 completed")
        .expect("it goes on");
    let before = wait_for(&scene, &mut running, "one", "running");
    // One that is wrong is reported, and changes nothing for the others.
    scene.write("jobs/two.toml", "nonsense");
    running.line_with("two.toml: error").expect("it is refused");
    // The same job in another file.
    scene.write("jobs/three.toml", job("one", "20ms"));
    let refused = running.line_with("job `one` is run already, by ");
    assert!(refused.expect("a refusal").contains("one.toml"));
    // A changed one is checked first.
    scene.write("jobs/one.toml", "nonsense");
    running
        .line_with("one.toml: the changed job file is not used")
        .expect("it is refused");
    let status = wait_for(&scene, &mut running, "one", "running");
    assert_eq!(status["started-at"], before["started-at"]);
    let other = job("one", "20ms").replace("id = \"count\"", "id = \"other\"");
    scene.write(
        "jobs/one.toml",
        other.replace("input = \"count\"", "input = \"other\""),
    );
    running
        .line_with("the job does not fit checkpoint")
        .expect("it does not fit");
    let status = wait_for(&scene, &mut running, "one", "running");
    assert_eq!(status["started-at"], before["started-at"]);
    // One that fits takes over where the other was suspended.
    scene.write("jobs/one.toml", job("one", "30ms"));
    is_handed_on(&mut running);
    let status = wait_for(&scene, &mut running, "one", "running");
    assert_eq!(status["interval-ms"], 30);
    // One that is gone is suspended, and the other file with the same job takes it over.
    fs::remove_file(scene.at("jobs/one.toml")).expect("it can be removed");
    is_handed_on(&mut running);
    wait_for(&scene, &mut running, "one", "running");
    fs::remove_file(scene.at("jobs/three.toml")).expect("it can be removed");
    running
        .line_with("[one] job suspended")
        .expect("it is suspended");
    wait_for(&scene, &mut running, "one", "suspended");
    scene.write("jobs/one.toml", job("one", "20ms"));
    running
        .line_with("[one] restoring from checkpoint")
        .expect("it goes on");
    running.signal("INT");
    running
        .line_with("suspending all jobs")
        .expect("it says so");
    running.wait().with_code(0);
}

#[test]
fn c88_a_job_goes_on_when_its_file_is_renamed() {
    let scene = Scene::new();
    fs::create_dir_all(scene.at("jobs")).expect("a directory");
    scene.write("jobs/one.toml", job("one", "20ms"));
    let mut running = start(&scene, &["serve", "jobs"]);
    for (from, to) in [("one", "two"), ("two", "three"), ("three", "one")] {
        running.line_with("[one] checkpoint").expect("it runs");
        let at = |name: &str| scene.at(&format!("jobs/{name}.toml"));
        fs::rename(at(from), at(to)).expect("it can be renamed");
        is_handed_on(&mut running);
        wait_for(&scene, &mut running, "one", "running");
    }
    running.signal("TERM");
    let ended = running.wait().with_code(0);
    assert!(!ended.stderr.contains("is run already"), "{}", ended.stderr);
}

#[test]
fn c88_jobs_go_on_when_their_files_exchange_their_names() {
    let scene = Scene::new();
    fs::create_dir_all(scene.at("jobs")).expect("a directory");
    for name in ["one", "two"] {
        let job = job(name, "20ms");
        scene.write(&format!("jobs/{name}.toml"), job);
    }
    let at = |name: &str| scene.at(&format!("jobs/{name}.toml"));
    let mut running = start(&scene, &["serve", "jobs"]);
    // What goes where, at once as far as the host can see, or not.
    let moves: [&[(&str, &str)]; 4] = [
        &[("one", ".x"), ("two", "one"), (".x", "two")],
        &[("one", "three"), ("two", "one")],
        &[("three", "two")],
        &[("two", "four"), ("one", "two"), ("four", "one")],
    ];
    let restored = |running: &Running, job: &str| {
        running.said(|line| line.contains(&format!("[{job}] restoring from checkpoint")))
    };
    let mut files = BTreeMap::from([("one", "one"), ("two", "two")]);
    for moves in moves {
        for job in ["one", "two"] {
            wait_for(&scene, &mut running, job, "running");
            running
                .line_with(&format!("[{job}] checkpoint"))
                .expect("it goes on");
        }
        let before = files.clone();
        for (from, to) in moves {
            fs::rename(at(from), at(to)).expect("it can be renamed");
            let job = files.remove(from).expect("a file with a job");
            files.insert(to, job);
        }
        let moved = files
            .iter()
            .filter(|(file, job)| before.get(*file) != Some(job));
        let moved: Vec<(&str, usize)> = moved
            .map(|(_, job)| (*job, restored(&running, job)))
            .collect();
        while moved
            .iter()
            .any(|(job, times)| restored(&running, job) == *times)
        {
            running
                .line_with("restoring from checkpoint")
                .expect("what was moved goes on");
        }
    }
    for name in ["one", "two"] {
        wait_for(&scene, &mut running, name, "running");
    }
    running.signal("TERM");
    running.wait().with_code(0).without_panic();
}

#[test]
fn c88_a_job_that_was_cancelled_is_not_begun_again_by_a_change_of_its_file() {
    let scene = Scene::new();
    fs::create_dir_all(scene.at("jobs")).expect("a directory");
    scene.write("jobs/one.toml", job("one", "20ms"));
    let mut running = start(&scene, &["serve", "jobs"]);
    running
        .line_with("[one] checkpoint 2 completed")
        .expect("it runs");
    assert_eq!(ask_json(&scene, &["cancel", "one"])["ended"], "cancelled");
    for interval in ["30ms", "40ms"] {
        scene.write("jobs/one.toml", job("one", interval));
        running
            .line_with("`host run --fresh` starts again with nothing")
            .expect("its checkpoints are gone, and how it begins again is said");
    }
    running.signal("TERM");
    let ended = running.wait().with_code(0);
    assert_eq!(
        ended.stderr.matches("one.toml: error").count(),
        2,
        "{}",
        ended.stderr
    );
    assert!(
        !ended.stderr.contains("goes on as it was"),
        "{}",
        ended.stderr
    );
    assert_eq!(
        ended.stderr.matches("[one] job `one` started").count(),
        1,
        "{}",
        ended.stderr
    );
}

#[test]
fn c88_files_end_with_their_jobs_and_the_worst_code() {
    let (scene, faulty) = guests::misdeed("misdeed = \"trap\"", "");
    scene.write("faulty.toml", faulty);
    scene.write("good.toml", jobs::word_count("good"));
    let ended = ask(&scene, &["serve", "good.toml", "faulty.toml"]).with_code(1);
    let ended = ended.saying(&["[good] job finished", "faulty.toml: error"]);
    drop(ended);
    let expected = oracle::word_count(&scene.at("input"));
    let mut lines = scene.output("out");
    lines.retain(|line| line.contains(','));
    assert_same_lines(&lines, &expected, "the good one's output");
    // It has finished: there is nothing to be done again.
    ask(&scene, &["serve", "good.toml"]).with_code(0);
    assert_eq!(lines, {
        let mut lines = scene.output("out");
        lines.retain(|line| line.contains(','));
        lines
    });
    ask(&scene, &["serve", "missing.toml"])
        .with_code(2)
        .saying(&["missing.toml"]);
}

#[test]
fn c88_two_hosts_that_serve_one_job() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("both", "20ms"));
    let mut first = start(&scene, &["serve", "job.toml"]);
    first
        .line_with("[both] checkpoint 1 completed")
        .expect("it runs");
    let second = host::run(scene.path(), &["serve", "job.toml"]).with_code(2);
    second.saying(&["job.toml: error", "both"]);
    first
        .line_with("[both] checkpoint")
        .expect("it is not disturbed");
    first.signal("TERM");
    first.wait().with_code(0);
}
