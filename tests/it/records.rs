//! How input is written: packed, as JSON lines, with event time. Conformance 164.

use crate::guests;
use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::Scene;

#[test]
fn files_packed_by_zstd_are_read_like_plain_ones() {
    let scene = Scene::new();
    let text = oracle::verses(4000);
    let (first, second) = text.split_at(text[..text.len() / 2].rfind('\n').expect("lines") + 1);
    let packed = |text: &str| zstd::encode_all(text.as_bytes(), 3).expect("memory takes all");
    // Frames follow each other, as in a file that was appended to.
    let (middle, rest) = second.split_at(second.find('\n').expect("lines") + 1);
    scene.write("input/a.txt.zst", packed(first));
    scene.write("input/b.txt.zst", [packed(middle), packed(rest)].concat());
    let job = jobs::word_count("zstd").replace("input/*.txt", "input/*.zst");
    scene.write("job.toml", job.replace("\"30ms\"", "\"5ms\""));
    // Interrupted in a packed file, it is resumed in it.
    let mut running = host::start(scene.path(), &["run", "job.toml", "-p", "2"]);
    running.checkpoint();
    drop(running.kill());
    host::run(scene.path(), &["run", "job.toml", "-p", "2", "--resume"]).with_code(0);
    let expected = oracle::count_words(&text);
    assert_same_lines(&scene.output("out"), &expected, "words of packed files");
}

#[test]
fn a_file_packed_by_zstd_that_is_cut_off_is_named() {
    let scene = Scene::new();
    let packed = zstd::encode_all(oracle::verses(4000).as_bytes(), 3).expect("memory");
    scene.write("input/a.txt.zst", &packed[..packed.len() / 2]);
    let job = jobs::word_count("cut").replace("input/*.txt", "input/*.zst");
    scene.write("job.toml", job.replace(jobs::RESTART, guests::NO_RESTART));
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(1)
        .saying(&["input/a.txt.zst"])
        .without_panic();
}

/// A job whose records become their event times: of JSON lines or CSV, read as `source` says.
fn timed(file: &str, content: &str, source: &str) -> Scene {
    let scene = Scene::new();
    scene.write(&format!("input/{file}"), content);
    let source = format!(
        "[[source]]\nid = \"events\"\nconnector = \"file\"\npath = \"input/{file}\"\n{source}\n\n"
    );
    let job = jobs::head("timed", "1h").replace(jobs::RESTART, guests::NO_RESTART)
        + &source
        + &jobs::operator("times", "faulty", "events", "misdeed = \"event-time\"")
        + jobs::files("out", "times", "out", "lines").trim_end()
        + "\nwith-key = true\n";
    scene.write("job.toml", job);
    scene
}

/// The event times that an operator sees, by key.
fn times(file: &str, content: &str, source: &str) -> Vec<String> {
    let scene = timed(file, content, source);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let mut lines = scene.output("out");
    // The record itself follows its time.
    let is_time = |line: &String| {
        let time = line.rsplit('\t').next().unwrap_or_default();
        time == "none" || time.parse::<i64>().is_ok()
    };
    lines.retain(is_time);
    lines
}

#[test]
fn event_times_come_from_a_field_of_json_lines_or_a_column_of_csv() {
    let lines = "\
{\"id\":\"a\",\"at\":\"2013-01-01T10:00:00Z\"}
{\"at\":\"2013-01-01T12:00:00.250+02:00\",\"more\":{\"at\":1},\"id\":\"b\"}
{\"id\":\"c\",\"at\":\"1969-12-31T23:59:59.999Z\"}
";
    let source = "format = \"json-lines\"\nkey = \"id\"\ntimestamp = { field = \"at\" }";
    let expected = ["a\t1357034400000", "b\t1357034400250", "c\t-1"];
    assert_eq!(times("events.jsonl", lines, source), expected);

    let numbers = "{\"id\":\"a\",\"at\":1357034400}\n{\"id\":\"b\",\"at\":0.5}\n";
    let source = "format = \"json-lines\"\nkey = \"id\"\ntimestamp = { field = \"at\", format = \"unix-s\" }";
    let expected = ["a\t1357034400000", "b\t500"];
    assert_eq!(times("events.jsonl", numbers, source), expected);

    let rows = "id,at\na,2013-01-01 10:00\n\"b\",\"2013-01-01 00:00\"\n";
    let source = "format = \"csv\"\nkey = \"id\"\ntimestamp = { field = \"at\", format = \"%Y-%m-%d %H:%M\" }";
    let expected = ["a\t1357034400000", "b\t1356998400000"];
    assert_eq!(times("events.csv", rows, source), expected);

    let source = "format = \"csv\"\nkey = \"id\"";
    assert_eq!(times("events.csv", rows, source), ["a\tnone", "b\tnone"]);
}

/// Runs a job over input with something wrong in its second record; the job fails.
fn fails(file: &str, content: &str, source: &str) -> Ended {
    let ended = host::run(timed(file, content, source).path(), &["run", "job.toml"]);
    ended.with_code(1).without_panic()
}

#[test]
fn an_event_time_that_cannot_be_read_is_named_by_file_and_line() {
    let source = "format = \"json-lines\"\nkey = \"id\"\ntimestamp = { field = \"at\" }";
    let good = "{\"id\":\"a\",\"at\":\"2013-01-01T10:00:00Z\"}\n";
    for (second, what) in [
        ("{\"id\":\"b\",\"at\":\"yesterday\"}\n", "yesterday"),
        ("{\"id\":\"b\"}\n", "at"),
        ("{\"id\":\"b\",\"at\":null}\n", "at"),
        ("{\"id\":\"b\",\"at\":[1]}\n", "at"),
        (
            "{\"id\":\"b\",\"at\":\"2013-13-01T10:00:00Z\"}\n",
            "2013-13-01",
        ),
        ("{\"id\":\"b\",\"at\":\n", "JSON"),
    ] {
        fails("events.jsonl", &format!("{good}{second}"), source).saying(&[
            "input/events.jsonl",
            "line 2",
            what,
        ]);
    }
    let source =
        "format = \"csv\"\nkey = \"id\"\ntimestamp = { field = \"at\", format = \"unix-ms\" }";
    for at in ["", "x", "99999999999999999999"] {
        fails("events.csv", &format!("id,at\na,{at}\n"), source).saying(&[
            "input/events.csv",
            "line 2",
            "at",
        ]);
    }
}

/// What a job says when its operator, next to the source, refuses the record `bad`.
fn refused(files: &[(&str, &str)], source: &str) -> String {
    let scene = Scene::new();
    for (file, content) in files {
        scene.write(&format!("input/{file}"), content);
    }
    let source = format!(
        "[[source]]\nid = \"events\"\nconnector = \"file\"\npath = \"input\"\n{source}\n\n"
    );
    let job = jobs::head("refused", "1h").replace(jobs::RESTART, guests::NO_RESTART)
        + &source
        + &jobs::operator(
            "picky",
            "faulty",
            "events",
            "misdeed = \"error\", on = \"bad\"",
        )
        + &jobs::files("out", "picky", "out", "lines");
    scene.write("job.toml", job);
    let ended = host::run(scene.path(), &["run", "job.toml"])
        .with_code(1)
        .without_panic();
    ended.stderr.clone()
}

/// Where the operator is fed by a source in the same subtask, its bad record is found in the input.
#[test]
fn a_record_that_an_operator_refuses_is_named_by_file_and_line() {
    let good: String = (0..1500).map(|n| format!("{n}\n")).collect();
    let bad = format!("{good}bad\n{good}");
    let lines = "format = \"lines\"\nkey = \"line\"";
    let said = refused(
        &[("a.txt", &good), ("b.txt", &bad), ("c.txt", &good)],
        lines,
    );
    assert!(
        said.contains(
            "at record 3000 of input 0, line 1501 of `input/b.txt` (key \"bad\", value \"bad\")"
        ),
        "{said}"
    );
    let rows = "format = \"csv\"\nkey = \"k\"";
    let said = refused(&[("a.csv", "k\nx\nbad\ny\n")], rows);
    assert!(
        said.contains(", line 3 of `input/a.csv` (key \"bad\""),
        "{said}"
    );
    // A field over several lines: lines are not records any more.
    let said = refused(&[("a.csv", "k\n\"x\ny\"\nbad\ny\n")], rows);
    assert!(
        said.contains(", record 2 of `input/a.csv` (key \"bad\""),
        "{said}"
    );
}
