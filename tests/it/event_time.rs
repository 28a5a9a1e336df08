//! Event time at sources, through the host: what the watermark is, who holds it, and who is held. Conformance 62,
//! 63, 64, 76, 77.
//!
//! Method: the plugin `alarm` reports each watermark that it reaches, and for a record `see TEXT` the watermark that the
//! record met. What must be there is computed from the input. Where one input has to be silent it is standard
//! input, which the test feeds and ends.

use std::fs;
use std::process::Stdio;

use crate::host::{self, Running};
use crate::jobs;
use crate::scene::{self, Scene};

const DAY: i64 = 86_400_000;

/// A source of files `input/<name>*.csv` with the columns `time`, `key` and `command`.
fn files(name: &str, watermark: &str) -> String {
    format!(
        "\
[[source]]
id = \"{name}\"
connector = \"file\"
path = \"input/{name}*.csv\"
format = \"csv\"
key = \"key\"
timestamp = {{ field = \"time\", format = \"unix-ms\" }}
{watermark}

"
    )
}

/// Standard input, of lines `see SECONDS`, which are time and command in one: what comes by a pipe declares no columns
/// to choose from.
fn stdin(watermark: &str) -> String {
    format!(
        "\
[[source]]
id = \"stdin\"
connector = \"stdin\"
format = \"csv\"
key = \"command\"
timestamp = {{ field = \"command\", format = \"see %s\" }}
{watermark}

"
    )
}

/// A job in which an alarm with parallelism 1 hears commands. What comes from `ticks` it reads and forgets.
fn job(sources: &str, commands: &str, ticks: Option<&str>) -> String {
    let config = ticks.map_or("", |_| "ticks = true");
    let inputs: String = [Some(commands), ticks]
        .into_iter()
        .flatten()
        .map(|input| format!("\"{input}\","))
        .collect();
    let alarm = jobs::operator_with("alarm", "alarm", "", config, "parallelism = 1\n");
    jobs::head("times", "30ms")
        + sources
        + &alarm.replace("input = \"\"", &format!("inputs = [{inputs}]"))
        + &jobs::files("seen", "alarm", "out", "csv")
        + &jobs::files("watermarks", "alarm.watermarks", "watermarks", "lines")
}

/// A job whose commands are in files.
fn job_of_files(watermark: &str) -> String {
    let columns = "columns = [\"command\"]";
    let commands = jobs::operator("commands", "select", "r", columns);
    job(&(files("r", watermark) + &commands), "commands", None)
}

/// A file of records that report what they met.
fn write(scene: &Scene, name: &str, times: &[i64]) {
    let rows = times.iter().map(|time| format!("{time},k,see {time}\n"));
    let text = "time,key,command\n".to_owned() + &rows.collect::<String>();
    scene.write(&format!("input/{name}.csv"), text);
}

/// The lines of an output in the order in which they were written.
fn in_order(scene: &Scene, output: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for file in scene::visible_files(&scene.at(output)) {
        let text = fs::read_to_string(file).expect("output is text");
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}

fn watermarks(scene: &Scene) -> Vec<i64> {
    let lines = in_order(scene, "watermarks");
    let numbers = lines.iter().map(|line| line.parse().expect("a number"));
    numbers.collect()
}

/// What records saw: their texts, and the watermarks that they met.
fn seen(scene: &Scene) -> Vec<(String, i64)> {
    let lines = in_order(scene, "out");
    let fields = lines.iter().map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        (fields[3].to_owned(), fields[5].parse().expect("a number"))
    });
    fields.collect()
}

/// Times that go up by a second each, but every other one comes 4 seconds late.
fn jittered(from: i64, count: i64) -> Vec<i64> {
    let time = |index: i64| from + index * 1000 - (index % 2) * 4000;
    (0..count).map(time).collect()
}

#[test]
fn c62_the_watermark_is_the_highest_time_less_the_bound_and_no_file_is_late() {
    let scene = Scene::new();
    // The later one is read first.
    let (late, early) = (jittered(9 * DAY, 3000), jittered(2 * DAY, 6000));
    write(&scene, "r-1", &late);
    write(&scene, "r-2", &early);
    let watermark = "watermark = { out-of-orderness = \"5s\", interval = \"1ms\" }";
    scene.write("job.toml", job_of_files(watermark));
    host::run(scene.path(), &["run", "job.toml", "-p", "1"]).with_code(0);
    let seen = seen(&scene);
    assert_eq!(seen.len(), late.len() + early.len());
    for (time, met) in &seen {
        let time: i64 = time.parse().expect("a number");
        assert!(time > *met, "{time} is late at {met}");
    }
    let reached = watermarks(&scene);
    assert!(reached.is_sorted(), "{reached:?}");
    // Held by the file that is not begun while the other one is read, then by what is read of it, then the end.
    assert_eq!(reached[0], early[0] - 5_001);
    assert_eq!(reached.last(), Some(&i64::MAX));
    let highest: Vec<i64> = early
        .iter()
        .scan(i64::MIN, |highest, time| {
            *highest = (*highest).max(*time);
            Some(*highest - 5_001)
        })
        .collect();
    let of_early = &reached[..reached.len() - 1];
    assert!(of_early.len() > 1, "{reached:?}");
    for watermark in of_early {
        assert!(highest.contains(watermark), "{watermark} of {reached:?}");
    }
}

fn running(scene: &Scene) -> Running {
    host::start_with_input(
        scene.path(),
        &["run", "job.toml", "-p", "1"],
        Stdio::piped(),
    )
}

#[test]
fn c63_a_silent_source_holds_nobody_and_what_it_says_afterwards_is_late() {
    let scene = Scene::new();
    let ticks = "\
[[source]]
id = \"ticks\"
connector = \"generator\"
keys = 5
rate = 100
timestamp = { start = \"2026-01-01T00:00:00Z\", interval = \"1s\" }
watermark = { out-of-orderness = \"0s\", interval = \"1ms\" }

";
    let start = 1_767_225_600_000_i64;
    let watermark =
        "watermark = { out-of-orderness = \"5s\", idle = \"50ms\", interval = \"1ms\" }";
    let job = job(&(stdin(watermark) + ticks), "stdin", Some("ticks"));
    scene.write("job.toml", job);
    let mut running = running(&scene);
    running.feed("command");
    running.feed(&format!("see {}", start / 1000));
    running.wait_until("watermark of those who go on", || {
        watermarks(&scene).iter().any(|it| *it > start + 10_000)
    });
    let again = (start / 1000 + 1).to_string();
    running.feed(&format!("see {again}"));
    running.wait_until("record that was silent for long", || {
        seen(&scene).iter().any(|(text, _)| *text == again)
    });
    running.end_input();
    assert!(running.kill().is_some(), "it was killed");
    let seen = seen(&scene);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].1 < start, "{seen:?}");
    assert!(seen[1].1 > start + 10_000, "it is late: {seen:?}");
    let reached = watermarks(&scene);
    assert!(reached.is_sorted(), "{reached:?}");
}

#[test]
fn c64_an_input_that_has_ended_holds_nobody_and_does_not_end_the_others() {
    let scene = Scene::new();
    write(&scene, "r-1", &[1000, 2000]);
    let watermark =
        "watermark = { out-of-orderness = \"5s\", idle = \"50ms\", interval = \"1ms\" }";
    let of_files = "watermark = { out-of-orderness = \"5s\" }";
    let sources = files("r", of_files) + &stdin(watermark);
    scene.write("job.toml", job(&sources, "stdin", Some("r")));
    let mut running = running(&scene);
    running.feed("command");
    running.feed("see 100");
    // The files have ended, so the watermark is that of standard input alone, also while it is silent.
    running.wait_until("watermark of the one that is left", || {
        watermarks(&scene).contains(&94_999)
    });
    running.feed("see 300");
    running.wait_until("watermark after the silence", || {
        watermarks(&scene).contains(&294_999)
    });
    running.feed("see 299");
    running.end_input();
    running.wait().with_code(0);
    let reached = watermarks(&scene);
    assert_eq!(reached[reached.len() - 3..], [94_999, 294_999, i64::MAX]);
    let seen = seen(&scene);
    let texts: Vec<&str> = seen.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts, ["100", "300", "299"]);
    assert!(seen[0].1 < 94_999, "{seen:?}");
    assert_eq!((seen[1].1, seen[2].1), (94_999, 294_999));
}

#[test]
fn c64_every_source_ends_with_the_highest_watermark_also_without_the_key() {
    let scene = Scene::new();
    write(&scene, "r-1", &[1000]);
    scene.write("job.toml", job_of_files(""));
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    assert_eq!(watermarks(&scene), [i64::MAX]);
}

#[test]
fn c76_a_record_without_an_event_time_that_can_be_used_is_named_by_file_and_line() {
    let cases = [
        (
            "{\"k\":1,\"time\":5}\n{\"k\":2}\n",
            "line 2: has no field `time`",
        ),
        (
            "{\"time\":5}\n\n{\"time\":\"soon\"}\n",
            "line 3: field `time` `soon` is not an event time in the format unix-ms",
        ),
        (
            // The year 292,000,000.
            "{\"time\":9214646400000000000}\n",
            "line 1: field `time` `9214646400000000000` is beyond the range of event times, the years 0000 to 9999",
        ),
    ];
    for (text, expected) in cases {
        for watermark in ["", "watermark = { out-of-orderness = \"5s\" }"] {
            let scene = Scene::new();
            scene.write("input/r-1.csv", "{\"time\":5}\n");
            scene.write("input/r-2.csv", text);
            let source = files("r", watermark)
                .replace("format = \"csv\"", "format = \"json-lines\"")
                .replace("key = \"key\"\n", "");
            let job = jobs::head("times", "1h") + &source + &jobs::discard("nothing", "r");
            scene.write("job.toml", job);
            let ended = host::run(scene.path(), &["run", "job.toml", "-p", "1"]).with_code(1);
            ended
                .saying(&["source `r`", &format!("file `input/r-2.csv`, {expected}")])
                .without_panic();
        }
    }
}

#[test]
fn c76_what_is_wrong_with_watermarks_is_said_before_the_start_all_at_once() {
    let scene = Scene::new();
    write(&scene, "r-1", &[1000]);
    let wrong = files(
        "r",
        "watermark = { idle = \"1s\", interval = \"-1s\", max-drift = \"100years\", bound = 3 }",
    );
    let unstamped = "[[source]]\nid = \"made\"\nconnector = \"generator\"\ncount = 1\nwatermark = { \
                     out-of-orderness = \"0s\", idle = \"1s\" }\n\n";
    let piped = stdin("watermark = { out-of-orderness = \"0s\", max-drift = \"1s\" }");
    let job = jobs::head("times", "1h") + &wrong + unstamped + &piped;
    let job = job + &jobs::discard("one", "r") + &jobs::discard("two", "made");
    scene.write("job.toml", job + &jobs::discard("three", "stdin"));
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(2)
        .saying(&[
            "source.r.watermark.idle: has no meaning here: files are read to their ends without a pause",
            "source.r.watermark.interval: `-1s` is not a duration",
            "source.r.watermark.max-drift: `100years` is too long: at most 3660 days",
            "source.r.watermark.bound: unknown key",
            "source.r.watermark.out-of-orderness: is required",
            "source.made.watermark: the records have no event times",
            "source.made.watermark.idle: has no meaning here: without `rate` the generator never pauses",
            "source.stdin.watermark.max-drift: has no meaning here: standard input is one split",
        ])
        .without_panic();
    assert!(!scene.at("checkpoints").exists());
}

#[test]
fn c77_a_file_that_runs_ahead_is_paused_and_nothing_stalls_at_an_end() {
    // A record a second each; the third one begins later, and ends last.
    let seconds = |from: i64, to: i64| -> Vec<i64> { (from..to).map(|it| it * 1000).collect() };
    let all = [seconds(0, 9_000), seconds(0, 5_000), seconds(4_000, 20_000)];
    let records: usize = all.iter().map(Vec::len).sum();
    for parallelism in ["1", "2", "5"] {
        let scene = Scene::new();
        for (number, times) in all.iter().enumerate() {
            write(&scene, &format!("r-{number}"), times);
        }
        let watermark = "watermark = { out-of-orderness = \"0s\", max-drift = \"1min\" }";
        scene.write("job.toml", job_of_files(watermark));
        let run = ["run", "job.toml", "-p", parallelism];
        host::run(scene.path(), &run).with_code(0);
        let seen = seen(&scene);
        assert_eq!(seen.len(), records, "at parallelism {parallelism}");
        assert!(
            seen.iter()
                .all(|(time, met)| time.parse::<i64>().unwrap() > *met)
        );
        if parallelism != "1" {
            // Between subtasks records are on their way, so their order says nothing.
            continue;
        }
        let times = seen.iter().map(|(time, _)| time.parse::<i64>().unwrap());
        let mut highest = i64::MIN;
        let furthest_behind = times.map(|time| {
            highest = highest.max(time);
            highest - time
        });
        // A minute, and what one batch holds: it is not looked at in between.
        let most = 60_000 + 1024 * 1000;
        assert!(furthest_behind.max() <= Some(most));
    }
}
