//! Windows through the host: the plugin `window`, over files whose records are out of order.
//!
//! Goal: every window gives its result once, with all its records, whatever happens to the process; late records are
//! counted or kept; what is closed leaves nothing behind. Method: random records of some keys, whose windows a
//! few lines here compute from all records at once; a generator beside the file keeps the job going for as long as a
//! test needs it. Conformance 67, 69, 70, 78.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use serde_json::Value;

use crate::host::{self, Completion, Ended, Running};
use crate::jobs;
use crate::oracle::assert_same_lines;
use crate::scene::Scene;

/// Records of the generator that end a job at once.
const AT_ONCE: u32 = 1_000_000;
/// Records a second that keep a job going.
const SLOWLY: u32 = 50;
/// How many records the generator has in all.
const TICKS: u32 = 10_000;

/// Random records of this many keys: key and event time.
fn records(count: usize, keys: u64) -> Vec<(String, i64)> {
    let mut state = 11_u64;
    let mut below = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 33) % bound) as i64
    };
    (0..count as i64)
        // Up to ten minutes out of order, over two hours and a half.
        .map(|number| {
            let time = number * 9_000_000 / count as i64 + below(600_000);
            (format!("r{}", below(keys)), 1_700_000_000_000 + time)
        })
        .collect()
}

fn scene(records: &[(String, i64)]) -> Scene {
    let scene = Scene::new();
    let mut input = "key,time,number\n".to_owned();
    for (number, (key, time)) in records.iter().enumerate() {
        input += &format!("{key},{time},{number}\n");
    }
    scene.write("input/records.csv", input);
    scene
}

/// A job of windows over the records. It goes on for as long as ticks come, this many a second.
fn job(parallelism: u32, ticks: u32, config: &str) -> String {
    let generator = format!(
        "[[source]]\nid = \"ticks\"\nconnector = \"generator\"\ncount = {TICKS}\nrate = {ticks}\n\n"
    );
    let more = format!("parallelism = {parallelism}\n");
    jobs::head("windows", "30ms")
        // None of them is late.
        + &jobs::timed_rows("out-of-orderness = \"10min\", interval = \"1ms\"")
        + &generator
        + &jobs::operator_with("windows", "window", "records", config, &more)
        + &jobs::files("results", "windows", "out", "csv")
        + &jobs::discard("nowhere", "ticks")
}

fn start(scene: &Scene, job: &str) -> Running {
    scene.write("job.toml", job);
    host::start(scene.path(), &["run", "--resume", "job.toml"])
}

/// The results, without headers.
fn results(scene: &Scene) -> Vec<String> {
    let mut lines = scene.output("out");
    lines.retain(|line| line.starts_with('r'));
    lines
}

/// The results of one subtask in the order in which it gave them, without headers.
fn in_order(scene: &Scene) -> Vec<String> {
    let files = fs::read_dir(scene.at("out")).expect("there is output");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let texts = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "csv"))
        .map(|path| fs::read_to_string(path).expect("a file of text"));
    texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.starts_with('r'))
        .collect()
}

/// How many entries of state and timers the operator has in a checkpoint.
fn entries_in(scene: &Scene, checkpoint: &Completion) -> u64 {
    let show = ["checkpoints", "show", "--json", &checkpoint.path];
    let shown = host::run(scene.path(), &show).with_code(0);
    let shown: Value = serde_json::from_str(&shown.stdout).expect("it prints JSON");
    let operators = shown["operators"].as_array().expect("a list of operators");
    let states = operators
        .iter()
        .filter(|operator| operator["id"] == "windows")
        .flat_map(|operator| operator["states"].as_array().into_iter().flatten());
    states
        .map(|state| state["entries"].as_u64().expect("a number"))
        .sum()
}

/// The sessions of each key, as lines of results that count records.
fn sessions(records: &[(String, i64)], gap: i64) -> Vec<String> {
    let mut times: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for (key, time) in records {
        times.entry(key).or_default().push(*time);
    }
    let mut lines = Vec::new();
    for (key, mut times) in times {
        times.sort_unstable();
        let mut first = 0;
        for next in 1..=times.len() {
            let last = times[next - 1];
            if next == times.len() || times[next] > last + gap {
                lines.push(format!(
                    "{key},{},{},{}",
                    times[first],
                    last + gap,
                    next - first
                ));
                first = next;
            }
        }
    }
    lines.sort();
    lines
}

#[test]
fn c70_sessions_merge_and_fire_once_whatever_happens() {
    let records = records(400_000, 4000);
    let scene = scene(&records);
    let config = "window = \"session\", gap = \"2min\", aggregates = [\"count\"]";
    let expected = sessions(&records, 120_000);
    assert!(
        expected.len() > 20_000,
        "there are {} sessions",
        expected.len()
    );
    for parallelism in [1, 2, 4, 3] {
        let mut running = start(&scene, &job(parallelism, SLOWLY, config));
        running.checkpoints(1);
        assert!(running.kill().is_some(), "it was killed");
    }
    start(&scene, &job(2, AT_ONCE, config)).wait().with_code(0);
    assert_same_lines(&results(&scene), &expected, "sessions");
}

#[test]
fn c69_closed_windows_leave_no_state_and_no_timers() {
    let records = records(200_000, 40);
    for config in [
        "window = \"tumbling\", size = \"5min\", early-every = \"1h\"",
        "window = \"sliding\", size = \"20min\", slide = \"1min\"",
        "window = \"cumulative\", size = \"1h\", step = \"5min\", allowed-lateness = \"10min\"",
        "window = \"session\", gap = \"90s\", allowed-lateness = \"1h\", early-every = \"1h\"",
    ] {
        let scene = scene(&records);
        let config = format!("{config}, aggregates = [\"count\"]");
        let mut running = start(&scene, &job(2, SLOWLY, &config));
        // Windows hold something while they are open, and nothing once the records have ended.
        let (mut most, mut newest) = (0, u64::MAX);
        while newest > 0 || results(&scene).is_empty() {
            running.checkpoints(1);
            newest = running.while_stopped(|| {
                let checkpoint = scene.newest_checkpoint("windows");
                entries_in(&scene, &checkpoint.expect("a checkpoint"))
            });
            most = most.max(newest);
        }
        assert!(most > 0, "no checkpoint was taken in between: {config}");
        assert!(running.kill().is_some(), "it was killed");
    }
}

#[test]
fn many_windows_of_a_key_that_end_at_once_take_few_calls() {
    // A batch of timers has each key once. So one result a call would give those of two keys in turn.
    const WINDOWS: i64 = 5000;
    let records: Vec<_> = (0..WINDOWS)
        .flat_map(|minute| ["r1", "r2"].map(|key| (key.to_owned(), minute * 60_000)))
        .collect();
    for (config, each) in [
        ("window = \"tumbling\", size = \"1min\"", 1),
        (
            "window = \"sliding\", size = \"10min\", slide = \"1min\"",
            10,
        ),
        ("window = \"session\", gap = \"30s\"", 1),
        (
            "window = \"tumbling\", size = \"1min\", allowed-lateness = \"1h\"",
            1,
        ),
    ] {
        let scene = scene(&records);
        let config = format!("{config}, aggregates = [\"count\"]");
        let job = job(1, AT_ONCE, &config).replace("10min\", interval", "10000h\", interval");
        start(&scene, &job).wait().with_code(0);
        let lines = in_order(&scene);
        let windows = usize::try_from(WINDOWS + each - 1).expect("a small number");
        assert_eq!(lines.len(), 2 * windows, "{config}");
        let mut ends: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        let mut turns = 0;
        let mut before = "";
        for line in &lines {
            let fields: Vec<&str> = line.split(',').collect();
            let end = fields[2].parse().expect("a time");
            ends.entry(fields[0]).or_default().push(end);
            turns += usize::from(fields[0] != before);
            before = fields[0];
        }
        assert!(ends.values().all(|ends| ends.is_sorted()), "{config}");
        assert!(turns < 300, "the keys took {turns} turns: {config}");
    }
}

/// A job of windows of ten minutes over standard input, in which nothing may be out of order.
fn from_stdin(config: &str) -> String {
    let source = "\
[[source]]
id = \"records\"
connector = \"stdin\"
format = \"csv\"
key = \"key\"
timestamp = { field = \"time\", format = \"unix-ms\" }
watermark = { out-of-orderness = \"0s\", interval = \"1ms\" }

";
    let config = format!(
        "window = \"tumbling\", size = \"10min\", aggregates = [\"count\"], firing = true, {config}"
    );
    jobs::head("windows", "30ms")
        + source
        + &jobs::operator("windows", "window", "records", &config)
        + &jobs::files("results", "windows", "out", "csv")
}

fn feed(running: &mut Running, minute: i64, number: u32) {
    running.feed(&format!("r,{},{number}", minute * 60_000));
}

/// Feeds a record of minute 1 and one of minute 20, and waits for the result of the first window.
fn begin(scene: &Scene, job: &str) -> Running {
    scene.write("job.toml", job);
    let arguments = ["run", "--json", "job.toml"];
    let mut running = host::start_with_input(scene.path(), &arguments, Stdio::piped());
    running.feed("key,time,number");
    feed(&mut running, 1, 1);
    feed(&mut running, 20, 2);
    wait_for(scene, &mut running, "out", "r,0,600000,1,on-time");
    running
}

fn wait_for(scene: &Scene, running: &mut Running, directory: &str, line: &str) {
    running.wait_until(line, || {
        scene.output(directory).iter().any(|found| found == line)
    });
}

/// What the metric says at the end.
fn late_records(ended: &Ended) -> f64 {
    let finished = ended.events().pop().expect("events");
    let late = &finished["metrics"]["windows"]["late-records"];
    late["value"].as_f64().expect("a number")
}

#[test]
fn c67_an_output_for_late_records_that_nothing_reads_is_warned_of() {
    let scene = Scene::new();
    scene.write("job.toml", from_stdin("late = \"output\""));
    let warning =
        "warning: operator.windows, output `late`: nothing reads it, so its records are dropped";
    for command in ["check", "run"] {
        let ended = host::run(scene.path(), &[command, "job.toml"]).with_code(0);
        ended.saying(&[warning, "input = \"windows.late\""]);
    }
    scene.write("job.toml", from_stdin("late = \"drop\""));
    let ended = host::run(scene.path(), &["check", "job.toml"]).with_code(0);
    assert!(!ended.stderr.contains("warning"), "{}", ended.transcript());
}

#[test]
fn c67_late_records_are_counted_or_go_to_their_output() {
    let scene = Scene::new();
    let mut running = begin(&scene, &from_stdin("late = \"drop\""));
    for late in [3, 4, 5] {
        feed(&mut running, 2, late);
    }
    running.end_input();
    let ended = running.wait().with_code(0);
    assert_eq!(late_records(&ended), 3.0, "{}", ended.transcript());
    assert_eq!(
        results(&scene),
        ["r,0,600000,1,on-time", "r,1200000,1800000,1,on-time"]
    );

    let scene = Scene::new();
    let job = from_stdin("late = \"output\"") + &jobs::files("late", "windows.late", "late", "csv");
    let mut running = begin(&scene, &job);
    feed(&mut running, 2, 3);
    running.end_input();
    running.wait().with_code(0);
    let late = scene.output("late");
    assert!(
        late.iter().any(|line| line.ends_with("120000,3")),
        "{late:?}"
    );
    assert_eq!(results(&scene).len(), 2);
}

#[test]
fn c67_within_the_allowed_lateness_results_come_again() {
    let scene = Scene::new();
    let mut running = begin(&scene, &from_stdin("allowed-lateness = \"15min\""));
    feed(&mut running, 9, 3);
    // The next watermark takes the result along.
    feed(&mut running, 21, 4);
    wait_for(&scene, &mut running, "out", "r,0,600000,2,late");
    // And this one closes the window.
    feed(&mut running, 30, 5);
    wait_for(&scene, &mut running, "out", "r,1200000,1800000,2,on-time");
    feed(&mut running, 9, 6);
    running.end_input();
    let ended = running.wait().with_code(0);
    assert_eq!(late_records(&ended), 1.0, "{}", ended.transcript());
    assert_eq!(
        results(&scene),
        [
            "r,0,600000,1,on-time",
            "r,0,600000,2,late",
            "r,1200000,1800000,2,on-time",
            "r,1800000,2400000,1,on-time"
        ]
    );
}

#[test]
fn c78_what_windows_hold_is_exported_as_what_it_is() {
    let scene = Scene::new();
    let job = from_stdin("late = \"drop\"");
    scene.write("job.toml", job);
    let arguments = ["run", "--json", "job.toml"];
    let mut running = host::start_with_input(scene.path(), &arguments, Stdio::piped());
    running.feed("key,time,number");
    feed(&mut running, 21, 1);
    feed(&mut running, 22, 2);
    let value =
        r#"{"first":1200000,"more":null,"aggregate":{"all":1,"count":{"kind":0,"kept":2}}}"#;
    let expected = format!(r#""state":"windows","kind":"value","key":"r","value":[{value}]}}"#);
    loop {
        running.checkpoints(1);
        let shown = running.while_stopped(|| {
            let checkpoint = scene.newest_checkpoint("windows").expect("a checkpoint");
            let export = ["checkpoints", "export", &checkpoint.path];
            host::run(scene.path(), &export).with_code(0)
        });
        if shown.stdout.contains(&expected) {
            break;
        }
        // Both records will be in one, some time.
        assert!(!shown.stdout.contains("\"kept\":2"), "{}", shown.stdout);
    }
    running.end_input();
    running.wait().with_code(0);
}
