//! What programs read: with `--json`, one JSON object a line on stdout for every event.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::control;
use crate::failures;
use crate::gate::{Gate, HELD};
use crate::guests;
use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle;
use crate::plugins;
use crate::scene::{Scene, all_files};

/// The events of a run, in order. Every line of stdout must be one.
fn events(ended: &Ended) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    for line in ended.stdout.lines() {
        let event: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("`{line}` is not JSON: {error}"));
        let name = event["event"]
            .as_str()
            .unwrap_or_else(|| panic!("`{line}` does not name its event"))
            .to_owned();
        events.push((name, event));
    }
    events
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_run_tells_its_life_as_json_lines() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    scene.write("job.toml", jobs::word_count("events"));
    let mut running = host::start(scene.path(), &["run", "job.toml", "--json"]);
    running.checkpoints(2);
    let first = events(&running.kill().expect("killed in the middle"));
    let first = names(&first);
    assert_eq!(first.first(), Some(&"started"));
    assert!(first.contains(&"checkpoint-completed"), "{first:?}");

    let second = events(
        &host::run(scene.path(), &["run", "job.toml", "--json", "-s", "latest"]).with_code(0),
    );
    let second = names(&second);
    assert!(second.contains(&"restored"), "{second:?}");
    assert_eq!(second.last(), Some(&"finished"));
}

#[test]
fn restarts_and_the_failure_are_events() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(500));
    let job = guests::word_count_with_a_trap(&scene, "events-failed", guests::Trap::Always);
    scene.write("job.toml", job);
    let ended = host::run(scene.path(), &["run", "job.toml", "--json"]).with_code(1);
    let told = events(&ended);
    let told = names(&told);
    assert_eq!(
        told.iter().filter(|name| **name == "restarted").count(),
        3,
        "{told:?}"
    );
    assert_eq!(told.last(), Some(&"failed"));
}

/// What an event has: the kinds of the value at each path, `?` where it may be missing. `*` is any name, `[]`
/// any item of a list.
type Fields = BTreeSet<String>;

/// The tables of docs/events.md: programs rely on them. A field that is missing, new, or of another type is a
/// change of the contract, and belongs in the change log.
fn documented() -> BTreeMap<String, Fields> {
    let page = fs::read_to_string(plugins::root().join("docs/events.md")).expect("the page");
    let mut events: BTreeMap<String, Fields> = BTreeMap::new();
    let mut last = None;
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            last = heading
                .strip_prefix('`')
                .and_then(|it| it.strip_suffix('`'));
            events.extend(last.map(|name| (name.to_owned(), Fields::new())));
        }
        let row = line
            .strip_prefix("| `")
            .and_then(|row| row.split_once("` | "));
        if let (Some(event), Some((field, rest))) = (last, row) {
            let kinds = rest.split_once(" | ").expect("three columns").0;
            let fields = events.get_mut(event).expect("its heading came first");
            assert!(fields.insert(format!("{field} {kinds}")), "{field} twice");
        }
    }
    events
}

/// What values of events were.
#[derive(Default)]
struct Seen {
    /// How many objects there were at a path, the event itself at the empty one.
    objects: BTreeMap<String, usize>,
    /// How many objects had a field, and the kinds of what was in it, by its path.
    fields: BTreeMap<String, (usize, BTreeSet<&'static str>)>,
}

impl Seen {
    fn value(&mut self, path: &str, value: &Value) -> &'static str {
        match value {
            Value::Object(fields) => {
                *self.objects.entry(path.to_owned()).or_default() += 1;
                // Operators and their metrics have names of their own.
                let is_named = path == "metrics" || path == "metrics.*";
                for (name, value) in fields {
                    let name = if is_named { "*" } else { name };
                    let dot = if path.is_empty() { "" } else { "." };
                    let path = format!("{path}{dot}{name}");
                    let kind = self.value(&path, value);
                    let (count, kinds) = self.fields.entry(path).or_default();
                    *count += 1;
                    kinds.insert(kind);
                }
                "object"
            }
            Value::Array(items) => {
                for item in items {
                    let kind = self.value(&format!("{path}[]"), item);
                    assert_eq!(kind, "object", "{path} has items without names");
                }
                "list"
            }
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "text",
        }
    }

    /// As in the tables.
    fn fields(&self) -> Fields {
        let row = |(path, (count, kinds)): (&String, &(usize, BTreeSet<&str>))| {
            let of = path.rsplit_once('.').map_or("", |(of, _)| of);
            let mark = if *count < self.objects[of] { "?" } else { "" };
            // What is there at last, null.
            let kinds: Vec<&str> = kinds.iter().rev().copied().collect();
            format!("{path}{mark} {}", kinds.join(" or "))
        };
        self.fields.iter().map(row).collect()
    }
}

/// A job whose metrics go to a collector that does not exist.
fn events_of_metrics_that_are_sent() -> Vec<Value> {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 1, "txt");
    scene.write("job.toml", jobs::word_count("sent"));
    let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned();
    let variables = [(endpoint, "http://127.0.0.1:9".to_owned())];
    let arguments = ["run", "job.toml", "--json"];
    let running = host::start_with_variables(scene.path(), &arguments, &variables);
    let ended = running.wait().with_code(0);
    events(&ended).into_iter().map(|(_, event)| event).collect()
}

#[test]
fn every_event_has_the_fields_that_are_documented() {
    let mut events = Vec::new();
    events.extend(events_of_a_kill_a_trap_and_an_end());
    events.extend(events_of_failures());
    events.extend(events_in_memory());
    events.extend(events_of_a_state_that_is_dropped());
    events.extend(events_of_a_state_that_is_migrated());
    events.extend(events_of_bad_records());
    events.extend(events_of_standbys());
    events.extend(events_of_savepoints_and_stops());
    events.extend(events_of_metrics_that_are_sent());
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for event in &events {
        let name = event["event"].as_str().expect("a name").to_owned();
        seen.entry(name).or_default().value("", event);
    }
    let found: BTreeMap<String, Fields> = seen
        .iter()
        .map(|(name, seen)| (name.clone(), seen.fields()))
        .collect();
    let mut documented = documented();
    // Whether a checkpoint here waits for nobody in particular depends on how fast the machine is.
    for field in ["slowest.operator text", "slowest.subtask number"] {
        let of_failures = documented
            .entry("checkpoint-failed".to_owned())
            .or_default();
        let or_null = format!("{field} or null");
        assert!(of_failures.contains(&or_null), "{field}");
        if !found["checkpoint-failed"].contains(&or_null) {
            of_failures.remove(&or_null);
            of_failures.insert(field.to_owned());
        }
    }
    for (name, fields) in &found {
        let of_page = documented
            .get(name)
            .unwrap_or_else(|| panic!("`{name}` is not documented"));
        let missing: Vec<&String> = fields.difference(of_page).collect();
        let never: Vec<&String> = of_page.difference(fields).collect();
        assert!(
            missing.is_empty() && never.is_empty(),
            "event `{name}` has {missing:#?}, which docs/events.md lacks, and has not {never:#?}"
        );
    }
    assert!(
        documented.keys().eq(found.keys()),
        "events that never come are documented"
    );
    let outcomes: BTreeSet<&str> = events
        .iter()
        .filter_map(|event| event["outcome"].as_str())
        .collect();
    let all = ["cancelled", "drained", "finished", "stopped", "suspended"];
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), all);
}

/// A word count without repetitions that is killed, resumed, fails once, is warned of, and finishes.
fn events_of_a_kill_a_trap_and_an_end() -> Vec<Value> {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    let job = guests::word_count_with_a_trap(&scene, "contract", guests::Trap::Once);
    // It has a metric, and is fed beside the counter.
    let dedupe =
        jobs::operator("dedupe", "dedupe", "split", "") + &jobs::discard("nowhere", "dedupe");
    scene.write("job.toml", job + &dedupe);
    let trusted = ["-D", "operator.count.limits.trusted=true"];
    let run = [&["run", "job.toml", "--json"], &trusted[..]].concat();
    let mut running = host::start(scene.path(), &run);
    running.checkpoints(2);
    let killed = running.kill().expect("killed in the middle");
    // Not finished, but suspended and then resumed.
    let mut running = host::start(scene.path(), &[&run[..], &["--resume"]].concat());
    running.event("checkpoint-completed");
    running.signal("TERM");
    let suspended = running.wait().with_code(0);
    guests::forget_the_trap(&scene);
    let finished = host::run(scene.path(), &[&run[..], &["--resume"]].concat()).with_code(0);
    let again = host::run(scene.path(), &[&run[..], &["--resume"]].concat()).with_code(0);
    let all = [killed, suspended, finished, again].map(|ended| ended.events());
    let restarts = all[2].iter().filter(|event| event["event"] == "restarted");
    assert_eq!(restarts.count(), 1, "{:#?}", all[2]);
    assert_eq!(all[3].len(), 2, "it had finished: {:#?}", all[3]);
    all.concat()
}

/// A job with checkpoints that expire, that cannot be written, and that fails with a checkpoint that is kept.
fn events_of_failures() -> Vec<Value> {
    let scene = Scene::new();
    let gate = Gate::new(&scene);
    let lines =
        "[[source]]\nid = \"lines\"\nconnector = \"stdin\"\nformat = \"lines\"\nkey = \"line\"\n\n";
    let trap = "misdeed = \"trap\", on = \"abracadabra\"";
    let job = jobs::head("failures", "100ms").replace("[job]\n", "[job]\nid = \"failures\"\n")
        + lines
        + &gate.operator("gate", "lines")
        + &jobs::operator("faulty", "faulty", "gate", trap)
        + &jobs::operator("dedupe", "dedupe", "faulty", "")
        + &jobs::discard("nowhere", "dedupe");
    scene.write("job.toml", job.replace(jobs::RESTART, guests::NO_RESTART));
    let options = [
        ["-D", "checkpoint.timeout=200ms"],
        ["-D", "checkpoint.tolerable-failures=1000"],
        ["-D", "checkpoint.retention=delete-on-cancellation"],
    ];
    let run = [&["run", "job.toml", "--json"], options.concat().as_slice()].concat();
    let mut running = host::start_with_input(scene.path(), &run, Stdio::piped());
    running.event("checkpoint-completed");
    running.feed(HELD);
    gate.holds(&mut running);
    while running.event("checkpoint-failed")["kind"] != "expired" {}
    gate.open();
    running.event("checkpoint-completed");
    failures::obstruct(&running, &scene.at("checkpoints/failures"), &[0]);
    while running.event("checkpoint-failed")["kind"] != "metadata-failed" {}
    running.event("checkpoint-completed");
    running.feed("abracadabra");
    running.wait().with_code(1).events()
}

/// A job whose checkpoints are in memory, cancelled; and one without any, which fails.
fn events_in_memory() -> Vec<Value> {
    let scene = Scene::new();
    let memory = |job: String| job.replace("dir = \"checkpoints\"\n", "");
    scene.write("job.toml", memory(jobs::counting("memory", "20ms")));
    let mut running = host::start(scene.path(), &["run", "job.toml", "--json"]);
    running.event("checkpoint-completed");
    running.signal("INT");
    let cancelled = running.wait().with_code(0);

    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(20));
    let job = guests::word_count_with_a_trap(&scene, "memory", guests::Trap::Always);
    let job = memory(job).replace("interval = \"30ms\"\n", "");
    scene.write("job.toml", job.replace("attempts = 3", "attempts = 1"));
    let failed = host::run(scene.path(), &["run", "job.toml", "--json"]).with_code(1);
    [cancelled.events(), failed.events()].concat()
}

/// A savepoint that is complete and one that expires, a job that is stopped and one that is drained, and one of several
/// jobs that does not start.
fn events_of_savepoints_and_stops() -> Vec<Value> {
    let mut events = Vec::new();
    for (name, drain) in [("stops", None), ("drains", Some("--drain"))] {
        let scene = Scene::new();
        scene.write("job.toml", jobs::counting(name, "1h"));
        let rest = ["--http", "127.0.0.1:0"];
        let arguments = [&["run", "job.toml", "--json"][..], &rest].concat();
        let mut running = control::start(&scene, &arguments);
        running.event("started");
        control::ask(&scene, &["savepoint", name, "sp"]).with_code(0);
        let stop: Vec<&str> = ["stop", name].into_iter().chain(drain).collect();
        control::ask(&scene, &stop).with_code(0);
        events.extend(running.wait().with_code(0).events());
    }
    let scene = Scene::new();
    scene.write("input/some.txt", format!("V:1 {HELD}\n"));
    let gate = Gate::new(&scene);
    let job = jobs::head("expires", "1h")
        + jobs::VERSES
        + &jobs::split()
        + &gate.operator("gate", "split")
        + &jobs::keys("words", "gate", "out");
    scene.write("job.toml", job);
    let run = ["run", "job.toml", "--json", "-D", "checkpoint.timeout=1s"];
    let mut running = control::start(&scene, &run);
    gate.holds(&mut running);
    let asked = control::ask(&scene, &["savepoint", "expires", "sp"]).with_code(1);
    asked.saying(&["expired after 1000 ms"]);
    gate.open();
    events.extend(running.wait().with_code(0).events());

    scene.write("wrong.toml", "nonsense");
    let served = control::ask(&scene, &["serve", "wrong.toml", "--json"]).with_code(2);
    events.extend(served.events());
    events
}

/// One that takes over and one that is asked to end, and one that finds the owner's lease damaged.
fn events_of_standbys() -> Vec<Value> {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("standby", "30ms"));
    let lease = ["-D", "checkpoint.lease-timeout=1h"];
    let run = [&["run", "job.toml", "--json"], &lease[..]].concat();
    let mut owner = host::start(scene.path(), &run);
    owner.checkpoints(1);
    let standby = [&run[..], &["--standby"]].concat();
    let mut first = host::start(scene.path(), &standby);
    first.event("waiting");
    owner.kill().expect("killed in the middle");
    first.event("took-over");
    first.checkpoints(1);
    // Its lease cannot be read while it stands still.
    first.stand_still();
    let lease = scene.at("checkpoints/standby/_lease");
    let entries = all_files(&lease).into_iter();
    let entries = entries.filter(|path| path.extension().is_none());
    let number = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.parse::<u64>().unwrap_or(0)
    };
    let newest = entries.max_by_key(number).expect("an entry");
    fs::write(newest, "not what was written").expect("a file can be written");
    let mut second = host::start(scene.path(), &standby);
    second.event("waiting");
    second.signal("TERM");
    let second = second.wait().with_code(0);
    let first = first.kill().expect("killed in the middle");
    [first.events(), second.events()].concat()
}

/// A job that starts from the checkpoint of one whose operator was older.
fn events_of_a_state_that_is_migrated() -> Vec<Value> {
    let scene = Scene::new();
    let source =
        "[[source]]\nid = \"numbers\"\nconnector = \"generator\"\ncount = 20\nkeys = 3\n\n";
    let job = |name: &str, version: u32| {
        let config = format!("version = {version}");
        jobs::head(name, "1h")
            + source
            + &jobs::operator("tally", "tally", "numbers", &config)
            + &jobs::discard("nowhere", "tally")
    };
    scene.write("old.toml", job("old", 1));
    scene.write("new.toml", job("new", 2));
    let keep = ["-D", "checkpoint.retain-on-finish=true"];
    host::run(scene.path(), &[&["run", "old.toml"], &keep[..]].concat()).with_code(0);
    let from = scene.newest_checkpoint("old").expect("it is kept").path;
    let run = ["run", "new.toml", "--json", "-s", &from];
    host::run(scene.path(), &run).with_code(0).events()
}

/// A job that leaves bad records out, and one that has too many of them.
fn events_of_bad_records() -> Vec<Value> {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(3));
    let skip = "on-error = \"skip\"\nretries = 1\n";
    let job = jobs::head("skips", "1h")
        + jobs::VERSES
        + &jobs::split()
        + &jobs::operator_with("faulty", "faulty", "split", "misdeed = \"error\"", skip)
        + &jobs::discard("nowhere", "faulty");
    scene.write("job.toml", job);
    let run = ["run", "job.toml", "--json"];
    let finished = host::run(scene.path(), &run).with_code(0);
    let limit = [
        "-D",
        "job.id=other",
        "-D",
        "operator.faulty.on-error-limit=1/h",
    ];
    let failed = host::run(scene.path(), &[&run[..], &limit].concat()).with_code(1);
    [finished.events(), failed.events()].concat()
}

/// A job that starts from the checkpoint of one that has a state more.
fn events_of_a_state_that_is_dropped() -> Vec<Value> {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(20));
    let job = jobs::head("holds", "1h")
        + jobs::VERSES
        + &jobs::split()
        + &jobs::operator("holds", "faulty", "split", "misdeed = \"hold\"")
        + &jobs::discard("nowhere", "holds");
    scene.write("job.toml", &job);
    let keep = ["-D", "checkpoint.retain-on-finish=true"];
    host::run(scene.path(), &[&["run", "job.toml"], &keep[..]].concat()).with_code(0);
    let from = scene.newest_checkpoint("holds").expect("it is kept").path;
    scene.write(
        "less.toml",
        job.replace("hold\"", "none\"")
            .replace("\"holds\"\n\n[ch", "\"less\"\n\n[ch"),
    );
    let run = [
        "run",
        "less.toml",
        "--json",
        "-s",
        &from,
        "--allow-non-restored-state",
    ];
    let ended = host::run(scene.path(), &run).with_code(0);
    assert!(
        ended.stdout.contains("state-dropped"),
        "{}",
        ended.transcript()
    );
    ended.events()
}
