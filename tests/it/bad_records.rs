//! Records that an operator cannot process: left out or handed to a sink, and all others processed exactly once.
//! Conformance 60, 91, 92, 93.
//!
//! Method: the plugin `faulty` fails at each record with one key, in the way that the job file says; a file has
//! some of them among many others. What must be written is the file without those, and these in the sink of dead
//! letters.

use std::fmt::Write;

use serde_json::Value;

use crate::host::{self, Ended};
use crate::jobs;
use crate::plugins;
use crate::scene::Scene;

/// Records of the input.
const RECORDS: u32 = 6000;

/// One of this many is bad.
const BAD: u32 = 100;

/// Lines of an operator: what fails goes to the sink of dead letters.
const TO_LETTERS: &str = "on-error = \"dead-letter\"\ndead-letter = \"letters\"\n";

/// That sink.
const LETTERS: &str = "[[sink]]\nid = \"letters\"\nconnector = \"file\"\npath = \"letters\"\nformat = \"json-lines\"\n";

/// A scene whose input has bad records, each of them another one.
fn scene(records: u32, bad: u32) -> Scene {
    let scene = Scene::new();
    let mut input = "key,number\n".to_owned();
    for number in 0..records {
        let key = if number % bad == bad / 2 {
            "bad"
        } else {
            "good"
        };
        writeln!(input, "{key},{number}").expect("a string takes all");
    }
    scene.write("input/records.csv", input);
    scene
}

/// The job of most tests: `more` are lines of the operator.
fn job(misdeed: &str, more: &str) -> String {
    let config = format!("misdeed = \"{misdeed}\", on = \"bad\"");
    jobs::head("tolerant", "20ms")
        + &jobs::keyed_rows("")
        + &jobs::operator_with("faulty", "faulty", "records", &config, more)
        + &jobs::files("out", "faulty", "out", "lines")
}

/// The same with a sink of dead letters.
fn with_letters(misdeed: &str, more: &str) -> String {
    let more = format!("{TO_LETTERS}{more}");
    job(misdeed, &more) + LETTERS
}

fn run(scene: &Scene, job: &str) -> Ended {
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"])
}

/// Numbers of the records that were written, and of those in capsules.
fn numbers(lines: &[String], bad: bool) -> Vec<u32> {
    let numbers = lines.iter().filter_map(|line| {
        let value = match bad {
            true => capsule(line)["value"].as_str()?.to_owned(),
            false => line.clone(),
        };
        let digits: String = value.chars().filter(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

fn capsule(line: &str) -> Value {
    serde_json::from_str(line).expect("a capsule is JSON")
}

/// Checks that all good records were written once each, and none of the bad ones.
fn check_good(scene: &Scene, records: u32, bad: u32) {
    let good: Vec<u32> = (0..records).filter(|it| it % bad != bad / 2).collect();
    assert_eq!(numbers(&scene.output("out"), false), good);
}

/// The same, and that each bad one is a dead letter once.
fn check(scene: &Scene, records: u32, bad: u32) -> Vec<Value> {
    check_good(scene, records, bad);
    let letters = scene.output("letters");
    let expected: Vec<u32> = (0..records).filter(|it| it % bad == bad / 2).collect();
    assert_eq!(numbers(&letters, true), expected);
    letters.iter().map(|line| capsule(line)).collect()
}

#[test]
fn c60_c91_bad_records_are_dead_letters_and_all_others_are_processed_once() {
    // Those that reach a limit take its time, so there are few of them.
    let limit = "retries = 1\nlimits = { call-time = \"100ms\" }\n";
    let memory = "limits = { memory = \"16MiB\" }\n";
    for (misdeed, more, (records, bad), kind) in [
        ("trap", "", (RECORDS, BAD), "trap"),
        ("error", "", (RECORDS, BAD), "returned"),
        ("bad-output", "", (RECORDS, BAD), "protocol"),
        ("loop", limit, (40, 20), "time-limit"),
        ("memory", memory, (100, 50), "memory-limit"),
    ] {
        let scene = scene(records, bad);
        let ended = run(&scene, &with_letters(misdeed, more)).with_code(0);
        let count = records / bad;
        let said = format!("`faulty`: {count} bad record");
        ended.saying(&[&said]);
        for capsule in check(&scene, records, bad) {
            assert_eq!(capsule["kind"], "record");
            assert_eq!(capsule["operator"], "faulty");
            assert_eq!(
                capsule["key"].as_str().map(str::trim_ascii),
                capsule["key"].as_str()
            );
            assert_eq!(capsule["error"]["kind"], kind, "{misdeed}: {capsule}");
            assert_eq!(
                capsule["position"]["upstream"],
                serde_json::json!(["records"])
            );
            // Where it was read: the line after the header.
            let number: u32 = numbers(&[capsule.to_string()], true)[0];
            let line = format!("line {} of ", number + 2);
            let origin = capsule["position"]["origin"].as_str().unwrap_or_default();
            assert!(origin.starts_with(&line), "{capsule}");
            let digest = capsule["component"].as_str().unwrap_or_default();
            assert!(digest.starts_with("sha256:"), "{capsule}");
        }
    }
}

#[test]
fn c91_skipped_records_leave_nothing_behind() {
    let scene = scene(RECORDS, BAD);
    let ended = run(&scene, &job("trap", "on-error = \"skip\"\n")).with_code(0);
    ended.saying(&["`faulty`: 60 bad records left out"]);
    check_good(&scene, RECORDS, BAD);
}

#[test]
fn c60_a_job_that_goes_on_after_bad_records_survives_kills() {
    let scene = scene(20 * RECORDS, BAD);
    scene.write("job.toml", with_letters("error", "retries = 1\n"));
    let mut kills = 0;
    for _ in 0..4 {
        let mut running = host::start(scene.path(), &["run", "--resume", "job.toml"]);
        running.checkpoint();
        kills += u32::from(running.kill().is_some());
    }
    assert!(kills > 0, "it was never killed");
    host::run(scene.path(), &["run", "--resume", "job.toml"]).with_code(0);
    check(&scene, 20 * RECORDS, BAD);
}

#[test]
fn c60_a_failure_by_chance_blames_no_record() {
    let scene = scene(RECORDS, BAD);
    // Only until the file is there, which the first to fail makes.
    scene.write("markers/.keep", "");
    let markers = scene.at("markers");
    let more = format!(
        "grants = {{ dirs = [{{ host = {markers:?}, guest = \"/markers\", write = true }}] }}\n"
    );
    let job = with_letters("trap", &more);
    let job = job.replace("on = \"bad\"", "on = \"bad\", once = \"/markers/failed\"");
    run(&scene, &job)
        .with_code(0)
        .saying(&["`faulty`: 0 bad records left out; 1 failed together and succeeded apart"]);
    assert!(scene.at("markers/failed").exists(), "it did not fail");
    assert_eq!(scene.output("letters"), Vec::<String>::new());
    assert_eq!(
        numbers(&scene.output("out"), false),
        (0..RECORDS).collect::<Vec<_>>()
    );
}

#[test]
fn c91_a_timer_that_fails_is_a_dead_letter() {
    let scene = Scene::new();
    scene.write(
        "input/commands.csv",
        "key,command\na,at 5 1\nb,fail 7\nc,at 9 1\nb,at 20 2\n",
    );
    let job = jobs::head("alarms", "20ms")
        + &jobs::keyed_rows("")
        + &jobs::operator("commands", "select", "records", "columns = [\"command\"]")
        + &jobs::operator_with("alarm", "alarm", "commands", "", TO_LETTERS)
        + &jobs::files("out", "alarm", "out", "csv")
        + LETTERS;
    run(&scene, &job).with_code(0);
    let fired = scene.output("out");
    let fired: Vec<&String> = fired.iter().filter(|line| line.contains("fired")).collect();
    assert_eq!(fired.len(), 3, "{fired:?}");
    let [letter] = &scene.output("letters")[..] else {
        panic!("one timer fails: {:?}", scene.output("letters"));
    };
    let capsule = capsule(letter);
    assert_eq!(capsule["kind"], "timer");
    let timer = serde_json::json!({"domain": "event-time", "time": 7, "tag": u32::MAX});
    assert_eq!(capsule["timer"], timer);
    let letter = scene.at("letter.json");
    scene.write("letter.json", capsule.to_string());
    host::run(scene.path(), &["replay", &letter.display().to_string()]).with_code(1);
}

/// The results of windows of 20 records of each of two keys, the first of which has this text.
fn windows(window: &str, text: &str) -> (Vec<String>, Vec<String>) {
    let scene = Scene::new();
    let mut input = "key,time,text\n".to_owned();
    for number in 0..20 {
        let time = number * 10 + 5;
        let text = if number == 0 { text } else { "short" };
        writeln!(input, "a,{time},{text}\nb,{time},other").expect("a string takes all");
    }
    scene.write("input/records.csv", input);
    let config = format!("{window}, aggregates = [\"count\", \"first(text)\"]");
    let more = format!("{TO_LETTERS}limits = {{ call-writes = \"100KB\" }}\n");
    let job = jobs::head("windows", "20ms")
        + &jobs::timed_rows("out-of-orderness = \"1s\"")
        + &jobs::operator_with("windows", "window", "records", &config, &more)
        + &jobs::files("out", "windows", "out", "csv")
        + LETTERS;
    run(&scene, &job).with_code(0);
    (scene.output("out"), scene.output("letters"))
}

#[test]
fn c91_a_window_that_fails_takes_no_other_of_its_key_along() {
    // In CSV it takes twice the bytes, which are more than a call may write.
    let long = format!("\"{}\"", "\"\"".repeat(60_000));
    for (window, bad) in [
        ("window = \"tumbling\", size = \"10ms\"", 1),
        ("window = \"sliding\", size = \"40ms\", slide = \"10ms\"", 4),
        (
            "window = \"cumulative\", size = \"40ms\", step = \"10ms\"",
            4,
        ),
        ("window = \"session\", gap = \"5ms\"", 1),
    ] {
        let (all, letters) = windows(window, "marked");
        assert_eq!(letters.len(), 0);
        let (left, letters) = windows(window, &long);
        let without = all.into_iter().filter(|line| !line.contains("marked"));
        assert_eq!(left, without.collect::<Vec<_>>(), "{window}");
        assert_eq!(letters.len(), bad, "{window}");
    }
}

#[test]
fn c92_a_capsule_fails_again_with_the_same_error_until_the_operator_is_mended() {
    let scene = scene(400, BAD);
    for misdeed in ["trap", "error", "bad-output"] {
        run(&scene, &with_letters(misdeed, "")).with_code(0);
        scene.write("letters.json", scene.output("letters").join("\n"));
        let again = host::run(scene.path(), &["replay", "letters.json"]).with_code(1);
        let lines = again.stdout.lines();
        let same = lines
            .filter(|line| line.contains("fails with the same error"))
            .count();
        assert_eq!(same, 4, "{}", again.transcript());
        // What it did not do before.
        let mended = "operator.faulty.config.misdeed=\"none\"";
        let mended = ["replay", "letters.json", "--line", "2", "-D", mended];
        let mended = host::run(scene.path(), &mended).with_code(0);
        let texts = ["does not fail any more: `faulty` emitted 1 record", "250"];
        for text in texts {
            assert!(mended.stdout.contains(text), "{}", mended.transcript());
        }
        for directory in ["out", "letters", "checkpoints"] {
            std::fs::remove_dir_all(scene.at(directory)).expect("it was written");
        }
    }
    let component = plugins::component("count").display().to_string();
    let other = ["replay", "letters.json", "--component", &component];
    // Its configuration does not suit it, which is said at the place in the job file.
    host::run(scene.path(), &other)
        .with_code(2)
        .saying(&["operator.faulty.config"]);
    scene.write("letters.json", "{\"capsule\": 1}");
    host::run(scene.path(), &["replay", "letters.json"])
        .with_code(2)
        .saying(&["letters.json:1 is not a capsule"]);
}

#[test]
fn c93_more_bad_records_than_the_limit_fail_the_job_which_is_not_restarted() {
    let scene = scene(RECORDS, BAD);
    // It may have published something before it fails.
    let kept = "[checkpoint]\nretention = \"retain-on-cancellation\"\n";
    let job = with_letters("error", "on-error-limit = \"20/h\"\n");
    let job = job.replace("[checkpoint]\n", kept);
    let ended = run(&scene, &job).with_code(1);
    ended.without_panic().saying(&[
        "more bad records than on-error-limit = \"20/h\" allows",
        "line 2052 of",
    ]);
    let restarts = |ended: &Ended| ended.stderr.contains("restart 1 from");
    let ended = host::run(scene.path(), &["run", "--resume", "job.toml"]);
    assert!(!restarts(&ended), "{}", ended.transcript());
    // The limit is as high as their number.
    let raised = [
        "run",
        "--resume",
        "job.toml",
        "-D",
        "operator.faulty.on-error-limit=60/h",
    ];
    host::run(scene.path(), &raised).with_code(0);
    check(&scene, RECORDS, BAD);
}

#[test]
fn records_that_are_too_much_together_are_processed_apart() {
    let scene = scene(64, 32);
    // Each record writes far less than a call may, and all of them far more.
    let more = "limits = { call-writes = \"1MiB\" }\n";
    let job = job("emit-numbered", more).replace("on = \"bad\"", "count = 400");
    run(&scene, &job)
        .with_code(0)
        .saying(&["`faulty`: 0 bad records left out; 1 failed together and succeeded apart"]);
    let numbers = numbers(&scene.output("out"), false);
    assert!(
        (0..64).all(|number| numbers.contains(&number)),
        "{numbers:?}"
    );
}
