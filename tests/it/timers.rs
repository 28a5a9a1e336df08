//! Timers through the host: in which order they fire, that each fires once whatever happens to the process, and
//! what a restore makes of them. Conformance 43, 48, 65, 66, 72, 78.
//!
//! Method: the plugin `alarm` sets timers as the lines of a file say and reports what fires; a generator beside
//! the file keeps the job going for as long as a test needs it. What must fire is computed from the lines.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::host::{self, Completion, Running};
use crate::jobs;
use crate::kills::{Moments, Toll, storm};
use crate::oracle::assert_same_lines;
use crate::reader;
use crate::scene::Scene;

/// Records of the generator that end a job at once.
const AT_ONCE: u32 = 1_000_000;
/// Records a second that keep a job going.
const SLOWLY: u32 = 50;
/// How many records the generator has in all.
const TICKS: u32 = 10_000;

/// The lines of the file: a key and its command.
type Commands = Vec<(String, String)>;

/// A job that does what the commands say, with this parallelism and this many ticks a second.
fn job(parallelism: u32, ticks: u32, more: &str) -> String {
    let sources = format!(
        "\
[[source]]
id = \"records\"
connector = \"file\"
path = \"input/*.csv\"
format = \"csv\"
key = \"key\"

[[source]]
id = \"ticks\"
connector = \"generator\"
keys = 5
count = {TICKS}
rate = {ticks}

"
    );
    let alarm = jobs::operator_with(
        "alarm",
        "alarm",
        "",
        "ticks = true",
        &format!("parallelism = {parallelism}\n{more}"),
    );
    // Enough are kept for one to be looked at in peace.
    jobs::head("alarms", "30ms").replace("[checkpoint]\n", "[checkpoint]\nretained = 50\n")
        + &sources
        + &jobs::operator("commands", "select", "records", "columns = [\"command\"]")
        + &alarm.replace("input = \"\"", "inputs = [\"commands\", \"ticks\"]")
        + &jobs::files("fired", "alarm", "out", "csv")
        + &jobs::files("watermarks", "alarm.watermarks", "watermarks", "lines")
}

fn scene(commands: &Commands) -> Scene {
    let scene = Scene::new();
    let mut input = "key,command\n".to_owned();
    for (key, command) in commands {
        input += &format!("{key},{command}\n");
    }
    scene.write("input/commands.csv", input);
    scene
}

/// Starts the job, from the newest checkpoint if there is one.
fn start(scene: &Scene, parallelism: u32, ticks: u32, more: &str) -> Running {
    scene.write("job.toml", job(parallelism, ticks, more));
    host::start(scene.path(), &["run", "--resume", "job.toml"])
}

/// How many timers a checkpoint holds; `None` if a newer one has taken its place already.
fn timers_in(scene: &Scene, checkpoint: &Completion) -> Option<u64> {
    let show = ["checkpoints", "show", "--json", &checkpoint.path];
    let shown = host::run(scene.path(), &show);
    if !Path::new(&checkpoint.path).exists() {
        return None;
    }
    let shown = shown.with_code(0);
    let shown: Value = serde_json::from_str(&shown.stdout).expect("it prints JSON");
    let operators = shown["operators"].as_array().expect("a list of operators");
    let states = operators
        .iter()
        .filter_map(|operator| operator["states"].as_array())
        .flatten();
    let timers = states
        .filter(|state| state["kind"] == "timers")
        .map(|state| state["entries"].as_u64().expect("a number"));
    Some(timers.sum())
}

/// Waits for a checkpoint that holds this many timers.
fn checkpoint_with(scene: &Scene, running: &mut Running, timers: u64) -> Completion {
    loop {
        let said = running.checkpoints(1);
        // To look takes longer than an interval where the machine is busy: those that were said are looked at as
        // they come, and not one after the other.
        let checkpoint = scene.newest_checkpoint("alarms").unwrap_or(said);
        if timers_in(scene, &checkpoint) == Some(timers) {
            return checkpoint;
        }
    }
}

/// The reader that was written from the document says the same of the newest checkpoint.
fn compare_with_reader(scene: &Scene) {
    let newest = scene.newest_checkpoint("alarms").expect("a checkpoint");
    let metadata = Path::new(&newest.path);
    reader::agree(scene, metadata.parent().expect("it is in a directory"));
}

/// Many timers of some keys, some of which are set twice or cancelled, and what must fire.
fn many() -> (Commands, Vec<String>) {
    let (mut commands, mut fired) = (Commands::new(), BTreeSet::new());
    let mut state = 7_u64;
    let mut below = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % bound
    };
    for _ in 0..3000 {
        let (key, time, tag) = (format!("k{}", below(200)), below(5000), below(3));
        if below(5) == 0 {
            commands.push((key.clone(), format!("cancel {time} {tag}")));
            fired.remove(&(key, time, tag));
        } else {
            commands.push((key.clone(), format!("at {time} {tag}")));
            fired.insert((key, time, tag));
        }
    }
    let end = i64::MAX;
    let line = |(key, time, tag)| format!("{key},fired,event,{time},{tag},{end}");
    (commands, fired.into_iter().map(line).collect())
}

#[test]
fn c65_timers_fire_in_the_order_of_time_each_once() {
    let (commands, mut expected) = many();
    let scene = scene(&commands);
    start(&scene, 1, AT_ONCE, "").wait().with_code(0);
    let mut lines = Vec::new();
    for file in crate::scene::visible_files(&scene.at("out")) {
        let text = std::fs::read_to_string(file).expect("output is text");
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.retain(|line| line.contains(",fired,"));
    let time = |line: &String| {
        line.split(',')
            .nth(3)
            .map(|time| time.parse::<u64>().unwrap())
    };
    assert!(lines.iter().map(time).is_sorted(), "not in order of time");
    lines.sort();
    expected.sort();
    assert_same_lines(&lines, &expected, "the timers that fired");
    let watermarks = scene.output("watermarks");
    assert_eq!(watermarks, [i64::MAX.to_string()], "{watermarks:?}");
}

#[test]
fn c43_c66_timers_survive_kills_and_rescaling_and_each_fires_once() {
    let (commands, mut expected) = many();
    let timers = expected.len() as u64;
    let scene = scene(&commands);
    for parallelism in [1, 2, 4, 3] {
        let mut running = start(&scene, parallelism, SLOWLY, "");
        checkpoint_with(&scene, &mut running, timers);
        // One more, so that what was restored is written again.
        running.checkpoints(1);
        assert!(running.kill().is_some(), "it was killed");
        compare_with_reader(&scene);
    }
    start(&scene, 2, AT_ONCE, "").wait().with_code(0);
    let mut fired = scene.output("out");
    fired.retain(|line| line.contains(",fired,"));
    expected.sort();
    assert_same_lines(&fired, &expected, "the timers that fired");
}

#[test]
fn c65_a_timer_that_fails_is_named() {
    let commands: Commands = [("a", "at 5 1"), ("b", "fail 7"), ("c", "at 9 1")]
        .map(|(key, command)| (key.to_owned(), command.to_owned()))
        .into();
    let scene = scene(&commands);
    let ended = start(&scene, 1, AT_ONCE, "").wait().with_code(1);
    ended.saying(&[
        "operator `alarm`",
        "at the event-time timer of 7 ms (key \"b\", tag 4294967295)",
        "the alarm fails as it was asked to",
    ]);
    let fired = scene.output("out");
    assert!(
        fired.is_empty(),
        "what fired with it is taken back: {fired:?}"
    );
}

/// How many lines are read while the job is killed again and again.
const LINES: u64 = 150_000;
/// How often it is killed.
const KILLS: u64 = 12;

#[test]
fn c66_timers_fire_once_each_however_often_the_process_is_killed() {
    let (mut input, mut expected) = ("key,time,command\n".to_owned(), BTreeSet::new());
    let mut moments = Moments::new();
    for line in 0..LINES {
        let (key, tag) = (moments.below(500), moments.below(2));
        // Out of order within the bound, and due a little later or much later.
        let now = line + moments.below(5);
        let due = now + 1 + moments.below(if line % 100 == 0 { LINES } else { 300 });
        writeln!(input, "k{key},{now},at {due} {tag}").expect("a string takes all");
        expected.insert(format!("k{key},fired,event,{due},{tag}"));
    }
    let expected: Vec<String> = expected.into_iter().collect();
    let job = jobs::head("alarms", "25ms")
        + &jobs::timed_rows("out-of-orderness = \"5ms\", interval = \"1ms\"")
        + &jobs::operator("commands", "select", "records", "columns = [\"command\"]")
        + &jobs::operator("alarm", "alarm", "commands", "")
        + &jobs::files("fired", "alarm", "out", "csv");
    let mut toll = Toll::default();
    while toll.kills < KILLS {
        let scene = Scene::new();
        scene.write("input/commands.csv", &input);
        scene.write("job.toml", &job);
        storm(&scene, "2", &mut moments, KILLS, &mut toll);
        // Which watermark let it fire depends on the moment.
        let mut fired = scene.output("out");
        for line in &mut fired {
            line.truncate(line.rfind(',').expect("fields"));
        }
        fired.sort();
        assert_same_lines(&fired, &expected, "the timers that fired");
    }
    println!("{} kills, {} of resumed runs", toll.kills, toll.resumed);
}

#[test]
fn c78_timers_are_shown_exported_and_compared() {
    let commands: Commands = [("a", "at 1700000000000 7"), ("b", "at -5 0")]
        .map(|(key, command)| (key.to_owned(), command.to_owned()))
        .into();
    let scene = scene(&commands);
    let mut running = start(&scene, 1, SLOWLY, "");
    checkpoint_with(&scene, &mut running, 2);
    assert!(running.kill().is_some(), "it was killed");
    let checkpoint = scene.newest_checkpoint("alarms").expect("a checkpoint");
    let show = host::run(scene.path(), &["checkpoints", "show", &checkpoint.path]).with_code(0);
    let expected = [
        "  timers/event-time: 2 timers, 26 B",
        "  timers/processing-time: 0 timers, 0 B",
    ];
    for line in expected {
        assert!(show.stdout.lines().any(|it| it == line), "{}", show.stdout);
    }
    let export = ["checkpoints", "export", "--state", "timers/event-time"];
    let export = host::run(scene.path(), &[&export[..], &[&checkpoint.path]].concat());
    let export = export.with_code(0).stdout;
    for entry in [
        r#""kind":"timers","key":"a","field":[1700000000000,7],"value":null"#,
        r#""kind":"timers","key":"b","field":[-5,0],"value":null"#,
    ] {
        assert!(export.contains(entry), "{export}");
    }
}

#[test]
fn c72_timers_of_processing_time_fire_while_the_job_runs() {
    let commands = vec![("a".to_owned(), "in 40 3".to_owned())];
    let scene = scene(&commands);
    let mut running = start(&scene, 1, SLOWLY, "");
    running.wait_until("the timer fires", || {
        let lines = scene.output("out");
        lines
            .iter()
            .any(|line| line.starts_with("a,fired,processing,"))
    });
    assert!(running.kill().is_some(), "it was killed");
    // Deltas without the timer.
    compare_with_reader(&scene);
    start(&scene, 1, AT_ONCE, "").wait().with_code(0);
    let lines = scene.output("out");
    let fired = lines.iter().filter(|line| line.contains(",fired,"));
    assert_eq!(fired.count(), 1, "{lines:?}");
}

/// A job that was killed while it had a timer of processing time, which is overdue now.
fn overdue() -> Scene {
    // How long it takes until the timer is in a checkpoint is the machine's to say.
    let mut ms = 1500;
    loop {
        let scene = scene(&vec![("a".to_owned(), format!("in {ms} 3"))]);
        let mut running = start(&scene, 1, SLOWLY, "");
        running.wait_until("a checkpoint holds the timer, or it has fired", || {
            let newest = scene.newest_checkpoint("alarms");
            newest.is_some_and(|it| timers_in(&scene, &it) == Some(1))
                || !scene.output("out").is_empty()
        });
        assert!(running.kill().is_some(), "it was killed");
        let newest = scene.newest_checkpoint("alarms").expect("a checkpoint");
        if timers_in(&scene, &newest) == Some(1) {
            // No process runs that could say when the timer is overdue: only the clock does.
            thread::sleep(Duration::from_millis(ms));
            return scene;
        }
        ms *= 2;
    }
}

#[test]
fn c48_c72_overdue_timers_fire_once_at_a_restore_or_are_skipped() {
    for (more, fires) in [
        ("", 1),
        ("timers = { overdue = \"fire\" }", 1),
        ("timers = { overdue = \"skip\" }", 0),
    ] {
        let scene = overdue();
        let mut running = start(&scene, 1, SLOWLY, more);
        checkpoint_with(&scene, &mut running, 0);
        assert!(running.kill().is_some(), "it was killed");
        let ended = start(&scene, 1, AT_ONCE, more).wait().with_code(0);
        let lines = scene.output("out");
        let fired = lines.iter().filter(|line| line.contains(",fired,"));
        assert_eq!(fired.count(), fires, "{lines:?}\n{}", ended.transcript());
    }
}
