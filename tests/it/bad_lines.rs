//! Lines and rows that a source cannot read as records: left out or handed to a sink, and all others read exactly
//! once. Conformance 76, 91, 93.
//!
//! Method: files have some such lines, of every kind, among many good ones, and each has its number in it. What
//! must be written are the good ones, and capsules with the bad ones and their places.

use std::collections::BTreeMap;
use std::process::Stdio;

use operator::capsule::Bytes;
use serde_json::Value;

use crate::host;
use crate::jobs;
use crate::scene::Scene;

/// Lines of each file.
const LINES: u32 = 6000;
/// One of this many is no record.
const BAD: u32 = 100;

/// A line: a record, unless it is one of the bad ones.
fn line(file: u32, number: u32) -> Vec<u8> {
    let time = 1_000_000 + i64::from(number);
    let good = format!("{{\"file\":{file},\"number\":{number},\"at\":{time}}}");
    if number % BAD != BAD / 2 {
        return good.into_bytes();
    }
    match number / BAD % 5 {
        0 => format!("{{\"file\":{file},\"number\":{number},").into_bytes(),
        1 => format!("{{\"file\":{file},\"number\":{number}}}").into_bytes(),
        2 => format!("{{\"file\":{file},\"number\":{number},\"at\":\"soon\"}}").into_bytes(),
        3 => [good.as_bytes(), b"\xff\x1b[2J"].concat(),
        // Longer than a record may be.
        _ => format!("{good}{}", " ".repeat(3000)).into_bytes(),
    }
}

/// What is wrong with it.
const WRONG: [&str; 5] = [
    "is not JSON",
    "has no field `at`",
    "field `at` `soon` is not an event time",
    "is not UTF-8",
    "a record is longer than",
];

fn letters_sink() -> &'static str {
    "[[sink]]\nid = \"letters\"\nconnector = \"file\"\npath = \"letters\"\nformat = \"json-lines\"\n\n"
}

fn source(connector: &str, more: &str) -> String {
    format!(
        "[[source]]\nid = \"lines\"\nconnector = \"{connector}\"\non-error = \"dead-letter\"\ndead-letter = \"letters\"\n{more}\n"
    )
}

/// Copies JSON lines.
fn job(more: &str) -> String {
    let source = source(
        "file",
        &format!(
            "path = \"input/*.json\"\nformat = \"json-lines\"\nmax-record-size = \"2KiB\"\n\
             timestamp = {{ field = \"at\", format = \"unix-ms\" }}\nwatermark = {{ out-of-orderness = \"1s\" }}\n{more}"
        ),
    );
    jobs::head("reader", "20ms").replace(
        "[checkpoint]\n",
        "[checkpoint]\nretention = \"retain-on-cancellation\"\n",
    ) + &source
        + &jobs::files("out", "lines", "out", "json-lines")
        + letters_sink()
}

fn write(scene: &Scene, files: u32) {
    for file in 0..files {
        let lines: Vec<Vec<u8>> = (0..LINES).map(|number| line(file, number)).collect();
        scene.write(&format!("input/{file}.json"), lines.join(&b'\n'));
    }
}

fn capsules(scene: &Scene) -> Vec<Value> {
    let letters = scene.output("letters");
    let capsules = letters.iter().map(|line| serde_json::from_str(line));
    capsules
        .collect::<Result<_, _>>()
        .expect("a capsule is JSON")
}

/// Bytes of a capsule.
fn bytes(value: &Value) -> Vec<u8> {
    let bytes: Bytes = serde_json::from_value(value.clone()).expect("text or base64");
    bytes.0
}

fn check(scene: &Scene, files: u32) {
    let all = || (0..files).flat_map(|file| (0..LINES).map(move |number| (file, number)));
    let is_bad = |number: u32| number % BAD == BAD / 2;
    let good = all().filter(|(_, number)| !is_bad(*number));
    let good =
        good.map(|(file, number)| String::from_utf8(line(file, number)).expect("it is text"));
    let mut good: Vec<String> = good.collect();
    good.sort();
    let written = scene.output("out");
    assert_eq!(written.len(), good.len());
    assert!(written == good, "the good lines are not those");
    let bad = all().filter(|(_, number)| is_bad(*number));
    let mut bad: BTreeMap<Vec<u8>, u32> = bad
        .map(|(file, number)| (line(file, number), number))
        .collect();
    for capsule in capsules(scene) {
        let number = bad.remove(&bytes(&capsule["value"]));
        let number = number.unwrap_or_else(|| panic!("twice, or not of the input: {capsule}"));
        assert_eq!(capsule["kind"], "line");
        assert_eq!(capsule["operator"], "lines");
        assert_eq!(capsule["error"]["kind"], "unreadable");
        let message = capsule["error"]["message"].as_str().unwrap_or_default();
        let wrong = WRONG[(number / BAD % 5) as usize];
        assert!(message.starts_with(wrong), "{capsule}");
        let origin = capsule["position"]["origin"].as_str().unwrap_or_default();
        let is_line = origin.starts_with(&format!("line {} of `input/", number + 1));
        // Another subtask counts the lines before a part of a file.
        assert!(is_line || origin.starts_with("line at byte "), "{capsule}");
        assert_eq!(capsule.get("truncated"), None);
    }
    assert!(bad.is_empty(), "{} are no dead letters", bad.len());
}

#[test]
fn c76_c91_lines_that_are_no_records_are_dead_letters_and_all_others_are_read_once() {
    let scene = Scene::new();
    write(&scene, 3);
    scene.write("job.toml", job(""));
    let ended = host::run(scene.path(), &["run", "job.toml", "-p", "2"]).with_code(0);
    ended.saying(&["`lines`: 180 bad records left out"]);
    check(&scene, 3);
    // Nobody can try them again, which is said.
    scene.write("letters.json", scene.output("letters").join("\n"));
    let replayed = host::run(scene.path(), &["replay", "letters.json"]).with_code(2);
    let said = "not tried: it is a line that source `lines` could not read";
    assert_eq!(replayed.stdout.matches(said).count(), 180);
}

#[test]
fn c91_a_source_that_leaves_lines_out_survives_kills() {
    let scene = Scene::new();
    write(&scene, 12);
    scene.write("job.toml", job(""));
    let mut kills = 0;
    for _ in 0..4 {
        let mut running = host::start(scene.path(), &["run", "--resume", "job.toml"]);
        running.checkpoint();
        kills += u32::from(running.kill().is_some());
    }
    assert!(kills > 0, "it was never killed");
    host::run(scene.path(), &["run", "--resume", "job.toml"]).with_code(0);
    check(&scene, 12);
}

#[test]
fn c91_a_row_that_is_none_is_left_out_as_a_whole() {
    let scene = Scene::new();
    let rows =
        "a,1\nshort\n\"b\",2\n\"many\nlines\",3,\"too\r\nmany\"\nc,3\r\nx,\"open\nd,4\ne,5\n";
    scene.write("input/a.csv", format!("name,number\n{rows}"));
    let text = "path = \"input/*.csv\"\nformat = \"csv\"\n";
    let job = jobs::head("rows", "1h")
        + &source("file", text)
        + &jobs::files("out", "lines", "out", "csv")
        + letters_sink();
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let mut written = scene.output("out");
    written.retain(|line| line != "name,number");
    assert_eq!(written, ["a,1", "b,2", "c,3", "d,4", "e,5"]);
    let mut found: Vec<_> = capsules(&scene)
        .iter()
        .map(|capsule| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (
                text(&capsule["position"]["origin"]),
                text(&capsule["value"]),
                text(&capsule["error"]["message"]),
            )
        })
        .collect();
    found.sort();
    let shown: Vec<_> = found
        .iter()
        .map(|(origin, value, message)| (origin.as_str(), value.as_str(), message.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            (
                "line 3 of `input/a.csv`",
                "short",
                "has 1 field, but the header names 2"
            ),
            (
                "line 5 of `input/a.csv`",
                "\"many\nlines\",3,\"too\r\nmany\"",
                "has 3 fields, but the header names 2"
            ),
            (
                "line 9 of `input/a.csv`",
                "x,\"open",
                "a quoted field is never closed"
            ),
        ]
    );
}

#[test]
fn c91_lines_of_a_pipe_are_skipped_however_they_come() {
    let scene = Scene::new();
    let text = "on-error = \"skip\"\nformat = \"json-lines\"\nmax-record-size = \"2KiB\"\n";
    let job = jobs::head("pipe", "20ms")
        + &format!("[[source]]\nid = \"lines\"\nconnector = \"stdin\"\n{text}\n")
        + &jobs::files("out", "lines", "out", "json-lines");
    scene.write("job.toml", job);
    let mut running = host::start_with_input(scene.path(), &["run", "job.toml"], Stdio::piped());
    running.feed("{\"number\":1}");
    running.feed("{\"number\":");
    // Its end does not come for a while.
    running.feed_text(&format!("{{\"number\":2}}{}", "x".repeat(200_000)));
    running.checkpoint();
    running.feed_text(&"y".repeat(200_000));
    running.feed("");
    running.feed("{\"number\":3}");
    running.feed("]");
    running.end_input();
    running
        .wait()
        .with_code(0)
        .saying(&["`lines`: 3 bad records left out"]);
    assert_eq!(scene.output("out"), ["{\"number\":1}", "{\"number\":3}"]);
}

#[test]
fn c93_more_lines_than_the_limit_allows_fail_the_job_until_it_is_raised() {
    let scene = Scene::new();
    write(&scene, 1);
    scene.write("job.toml", job("on-error-limit = \"20/h\"\n"));
    let run = ["run", "job.toml", "-p", "1"];
    let ended = host::run(scene.path(), &run).with_code(1);
    assert!(
        !ended.stderr.contains("restart 1"),
        "{}",
        ended.transcript()
    );
    ended.without_panic().saying(&[
        "more bad records than on-error-limit = \"20/h\" allows",
        "source `lines`",
        "line 2051 of `input/0.json`",
    ]);
    let raised = ["-D", "source.lines.on-error-limit=60/h", "--resume"];
    host::run(scene.path(), &[&run[..], &raised].concat()).with_code(0);
    check(&scene, 1);
}

#[test]
fn c91_a_source_that_reads_no_text_has_no_bad_lines() {
    let scene = Scene::new();
    let source = "[[source]]\nid = \"numbers\"\nconnector = \"generator\"\ncount = 3\non-error = \"skip\"\nretries = 2\n\n";
    let job = jobs::head("numbers", "1h") + source + &jobs::discard("nothing", "numbers");
    scene.write("job.toml", job);
    host::run(scene.path(), &["check", "job.toml"])
        .with_code(2)
        .saying(&["source.numbers.retries: unknown key"]);
    let job = std::fs::read_to_string(scene.at("job.toml"))
        .expect("it was written")
        .replace("retries = 2\n", "");
    scene.write("job.toml", job);
    host::run(scene.path(), &["check", "job.toml"])
        .with_code(2)
        .saying(&["source.numbers.on-error: `generator` makes no records that it cannot read"]);
}
