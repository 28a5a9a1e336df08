//! Entries that expire, through the host. Conformance 49, 74.
//!
//! Method: the plugin `history` counts the records of a key and keeps a value, a list and a map of them; what it
//! emits says whether they were there. Records are fed on stdin. Time passes by itself: a test feeds the next record
//! when a checkpoint, exported, no longer has what it waits for. Watermarks advance by what is fed.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::host::{self, Completion, Running};
use crate::jobs;
use crate::oracle::assert_same_lines;
use crate::scene::Scene;

/// States of the plugin `history`.
const STATES: [&str; 3] = ["seen", "recent", "journal"];

/// A TTL that expires while a test waits.
const SHORT: &str = "ttl = \"700ms\"";

/// A job that counts what comes on stdin, with these settings for each of its states.
fn job(source: &str, ttl: &str) -> String {
    let source = format!(
        "\
[[source]]
id = \"lines\"
connector = \"stdin\"
format = \"csv\"
key = \"key\"
{source}

"
    );
    let states = STATES.map(|state| match ttl {
        "" => String::new(),
        ttl => format!("state.{state} = {{ {ttl} }}\n"),
    });
    let config = "recent = 100, journal = 100";
    jobs::head("forgetful", "30ms")
        + &source
        + &jobs::operator_with("history", "history", "lines", config, &states.concat())
        + &jobs::files("out", "history", "out", "csv")
}

/// Starts the job, from the newest checkpoint if there is one.
fn start(scene: &Scene, job: &str, options: &[&str]) -> Running {
    scene.write("job.toml", job);
    let always = ["run", "--resume", "job.toml"];
    let arguments = [always.as_slice(), options].concat();
    let mut running = host::start_with_input(scene.path(), &arguments, Stdio::piped());
    running.feed("key,text,at");
    running
}

/// Ends it at a checkpoint.
fn suspend(running: Running) {
    running.signal("TERM");
    running.wait().without_panic();
}

/// What a checkpoint holds, as it is exported.
fn exported(scene: &Scene, checkpoint: &Completion) -> Vec<Value> {
    let export = ["checkpoints", "export", &checkpoint.path];
    let exported = host::run(scene.path(), &export).with_code(0).stdout;
    let entries = exported.lines();
    entries
        .map(|line| serde_json::from_str(line).expect("it prints JSON"))
        .collect()
}

fn states_of(entries: &[Value], key: &str) -> Vec<String> {
    let of_key = entries.iter().filter(|entry| entry["key"] == key);
    let mut states: Vec<String> = of_key
        .map(|entry| entry["state"].as_str().expect("a name").to_owned())
        .collect();
    states.sort();
    states.dedup();
    states
}

/// Waits for a checkpoint that has entries of a key in this many states.
fn checkpoint_with(
    scene: &Scene,
    running: &mut Running,
    key: &str,
    states: usize,
) -> (Completion, Vec<Value>) {
    loop {
        let checkpoint = running.checkpoints(1);
        // The checkpoints before the newest are deleted, perhaps before they can be looked at.
        let newest = scene.newest_checkpoint("forgetful");
        let checkpoint = newest.unwrap_or(checkpoint);
        let export = ["checkpoints", "export", &checkpoint.path];
        let ended = host::run(scene.path(), &export);
        if !ended.status.success() {
            continue;
        }
        let entries: Vec<Value> = ended
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("it prints JSON"))
            .collect();
        if states_of(&entries, key).len() == states {
            return (checkpoint, entries);
        }
    }
}

/// Feeds a record, and waits until a checkpoint covers this many lines of output.
fn feed_until(scene: &Scene, running: &mut Running, line: &str, lines: usize) {
    running.feed(line);
    running.wait_until("output", || scene.output("out").len() >= lines);
}

#[test]
fn c74_values_entries_and_elements_expire_and_are_in_no_full_checkpoint_any_more() {
    let scene = Scene::new();
    let options = ["-D", "checkpoint.incremental=false"];
    let mut running = start(&scene, &job("", SHORT), &options);
    feed_until(&scene, &mut running, "a,1,0", 1);
    feed_until(&scene, &mut running, "b,1,0", 2);
    checkpoint_with(&scene, &mut running, "a", 0);
    checkpoint_with(&scene, &mut running, "b", 0);
    // Not only left out by who exports them: they are not there.
    running.while_stopped(|| {
        let newest = scene.newest_checkpoint("forgetful").expect("a checkpoint");
        let show = ["checkpoints", "show", "--json", &newest.path];
        let shown = host::run(scene.path(), &show).with_code(0);
        let shown: Value = serde_json::from_str(&shown.stdout).expect("it prints JSON");
        let operators = shown["operators"].as_array().expect("operators");
        let history = operators.iter().find(|it| it["id"] == "history");
        let states = history.expect("an operator")["states"].as_array().cloned();
        for state in states.expect("states") {
            assert_eq!(state["entries"], 0, "{state}");
            assert_eq!(state["ttl-ms"], 700, "{state}");
        }
    });
    // A write over what is gone begins from nothing.
    feed_until(&scene, &mut running, "a,2,0", 3);
    suspend(running);
    let expected = ["a,1", "a,1", "b,1"].map(str::to_owned);
    assert_same_lines(
        &scene.output("out"),
        &expected,
        "records since the last forgetting",
    );
}

#[test]
fn c49_what_has_expired_does_not_come_back_with_a_restore() {
    let scene = Scene::new();
    let mut running = start(&scene, &job("", SHORT), &[]);
    feed_until(&scene, &mut running, "a,1,0", 1);
    // It is in the base of all checkpoints that follow: nothing else is ever written.
    checkpoint_with(&scene, &mut running, "a", 0);
    running.kill();
    for parallelism in ["2", "1"] {
        let resume = ["-p", parallelism];
        let mut running = start(&scene, &job("", SHORT), &resume);
        let before = scene.output("out").len();
        let (_, entries) = checkpoint_with(&scene, &mut running, "a", 0);
        assert!(entries.is_empty(), "{entries:?}");
        feed_until(&scene, &mut running, "a,again,0", before + 1);
        checkpoint_with(&scene, &mut running, "a", 0);
        suspend(running);
    }
    let expected = ["a,1"; 3].map(str::to_owned);
    assert_same_lines(&scene.output("out"), &expected, "each began from nothing");
}

#[test]
fn c74_a_ttl_is_switched_on_and_off_and_changed_over_restores() {
    let scene = Scene::new();
    let runs = [
        // What was there before there was a TTL lives on from the restore.
        ("", 1, ""),
        ("ttl = \"2h\"", 2, "entries live 2h from the last write"),
        // It stays as it was.
        (
            "ttl = \"3h\", refresh = \"read\"",
            3,
            "entries live 3h from the last write or read",
        ),
        ("ttl = \"off\"", 4, ""),
        ("ttl = \"1h\", time = \"event\"", 5, "by the watermark"),
        // What is there keeps the expiry that it has, or gets a new one.
        ("", 6, ""),
    ];
    for (ttl, count, said) in runs {
        let mut running = start(&scene, &job("", ttl), &[]);
        feed_until(&scene, &mut running, "a,x,0", count);
        suspend(running);
        let newest = scene.newest_checkpoint("forgetful").expect("a checkpoint");
        let entries = exported(&scene, &newest);
        let seen = entries.iter().find(|entry| entry["state"] == "seen");
        assert_eq!(seen.expect("a value")["value"], count, "with `{ttl}`");
        let show = ["checkpoints", "show", &newest.path];
        let shown = host::run(scene.path(), &show).with_code(0).stdout;
        assert!(shown.contains(said), "with `{ttl}`:\n{shown}");
        assert_eq!(shown.contains("entries live"), !said.is_empty(), "{shown}");
    }
    let expected: Vec<String> = (1..=6).map(|count| format!("a,{count}")).collect();
    assert_same_lines(&scene.output("out"), &expected, "one count throughout");
    // A shorter one holds for what is written from now on.
    let mut running = start(&scene, &job("", "ttl = \"1ms\""), &[]);
    checkpoint_with(&scene, &mut running, "a", 0);
    feed_until(&scene, &mut running, "a,x,0", 7);
    suspend(running);
    assert_eq!(scene.output("out").last().map(String::as_str), Some("a,6"));
    assert_eq!(
        scene
            .output("out")
            .iter()
            .filter(|line| *line == "a,1")
            .count(),
        2
    );
}

#[test]
fn c74_entries_expire_with_the_watermark() {
    let source = "timestamp = { field = \"at\", format = \"unix-ms\" }\n\
                  watermark = { out-of-orderness = \"0s\", interval = \"10ms\" }";
    // The clock does not come by this in a test.
    let ttl = "ttl = \"1000d\", time = \"event\"";
    let scene = Scene::new();
    let mut running = start(&scene, &job(source, ttl), &[]);
    feed_until(&scene, &mut running, "t,0,1000", 1);
    feed_until(&scene, &mut running, "a,0,2000", 2);
    feed_until(&scene, &mut running, "a,0,3000", 3);
    let day = Duration::from_secs(86_400).as_millis();
    // Records carry the watermark further and further: until it is that of the key which has been given a time.
    let mut fed = 3;
    for days in (0..).step_by(400) {
        fed += 1;
        let at = 4000 + days * day;
        feed_until(&scene, &mut running, &format!("t,0,{at}"), fed);
        let (_, entries) = checkpoint_with(&scene, &mut running, "t", 3);
        let states = states_of(&entries, "a");
        if states.is_empty() {
            assert!(days > 800, "it has not lived for 1000 days: {days}");
            break;
        }
        assert!(days < 20_000, "it lives on: {states:?}");
    }
    feed_until(&scene, &mut running, "a,0,4000", fed + 1);
    suspend(running);
    let output = scene.output("out");
    let of_a: Vec<&String> = output
        .iter()
        .filter(|line| line.starts_with("a,"))
        .collect();
    assert_eq!(of_a, ["a,1", "a,1", "a,2"]);
}

#[test]
fn c49_what_has_expired_with_the_watermark_is_not_in_the_last_checkpoint() {
    let source = "timestamp = { field = \"at\", format = \"unix-ms\" }\n\
                  watermark = { out-of-orderness = \"0s\", interval = \"10ms\" }";
    let scene = Scene::new();
    let kept = ["-D", "checkpoint.retain-on-finish=true"];
    let job = job(source, "ttl = \"1s\", time = \"event\"");
    let mut running = start(&scene, &job, &kept);
    for key in 0..2000 {
        running.feed(&format!("k{key},0,1000"));
    }
    // They are in a checkpoint, so that the last one holds only what has changed.
    running.wait_until("output", || scene.output("out").len() >= 2000);
    feed_until(&scene, &mut running, "t,0,5000", 2001);
    feed_until(&scene, &mut running, "t,0,5001", 2002);
    running.end_input();
    running.wait().with_code(0);
    let last = scene.newest_checkpoint("forgetful").expect("it is kept");
    let entries = exported(&scene, &last);
    assert_eq!(states_of(&entries, "t").len(), 3);
    let others: Vec<&Value> = entries.iter().filter(|it| it["key"] != "t").collect();
    assert!(
        others.is_empty(),
        "{} came back: {}",
        others.len(),
        others[0]
    );
}

#[test]
fn c154_what_is_said_of_a_state_that_there_is_not_is_refused() {
    let scene = Scene::new();
    let job = job("", SHORT).replace("state.seen", "state.sean");
    scene.write("job.toml", job);
    for command in ["check", "run"] {
        host::run(scene.path(), &[command, "job.toml"])
            .with_code(2)
            .saying(&[
                "operator.history.state.sean: the component has no keyed state of this name",
                "it declares `seen`, `recent`, `journal`",
            ])
            .without_panic();
    }
}
