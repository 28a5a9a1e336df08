//! A job goes on after its operators changed: states of older versions, of other kinds, gone and new; operators under
//! other ids. Conformance 50, 89, 90.
//!
//! Method: the plugin `tally` counts in every kind of state under the version that it is told, and fails as soon as
//! two of its states disagree. It is killed under one version and resumed under another, and its output compared with
//! that of a run that was not disturbed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::assert_same_lines;
use crate::scene::{Scene, contents};

/// How many records there are.
const RECORDS: u64 = 5000;

const STATES: [&str; 4] = ["value", "map", "list", "elements"];

/// The job with an operator `id` of the plugin `tally`.
fn job(id: &str, config: &str, checkpoint: &str) -> String {
    let source = format!(
        "[[source]]\nid = \"numbers\"\nconnector = \"generator\"\ncount = {RECORDS}\nrate = 2000\nkeys = 100\nseed = 7\n\n"
    );
    let interval = "interval = \"30ms\"\n";
    jobs::head("upgrade", "30ms").replace(interval, &format!("{interval}{checkpoint}"))
        + &source
        + &jobs::operator(id, "tally", "numbers", config)
        + &jobs::files("totals", id, "out", "csv")
}

/// A job that was killed after some checkpoints.
fn killed(config: &str, checkpoint: &str) -> Scene {
    let scene = Scene::new();
    scene.write("job.toml", job("tally", config, checkpoint));
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(3);
    running.kill().expect("it was killed in its work");
    scene
}

/// The totals of keys, and the sum of what the lists of subtasks hold.
fn totals(scene: &Scene) -> (Vec<String>, u64) {
    let (lists, keys): (Vec<String>, Vec<String>) = scene
        .output("out")
        .into_iter()
        .partition(|row| row.starts_with("elements,"));
    let elements = lists.iter().filter_map(|row| row.split(',').nth(1));
    let elements = elements.filter_map(|number| number.parse::<u64>().ok());
    (keys, elements.sum())
}

/// What a run that nobody disturbed gives.
fn expected() -> Vec<String> {
    let scene = Scene::new();
    scene.write("job.toml", job("tally", "version = 2", ""));
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let (keys, elements) = totals(&scene);
    assert_eq!((keys.len(), elements), (100, RECORDS));
    keys
}

/// The verdict for each state of a report.
fn verdicts(report: &Value) -> BTreeMap<String, String> {
    let entries = report["report"].as_array().expect("a list").iter();
    let of = |entry: &Value| {
        let text = |name: &str| entry[name].as_str().map(str::to_owned);
        Some((text("state")?, text("verdict")?))
    };
    entries.filter_map(of).collect()
}

fn all(verdict: &str) -> BTreeMap<String, String> {
    let states = STATES.iter();
    states
        .map(|state| ((*state).to_owned(), verdict.to_owned()))
        .collect()
}

/// The report of a run, which has to come before the job starts.
fn restored(ended: &Ended) -> Value {
    let events = ended.events();
    let place = |name: &str| events.iter().position(|event| event["event"] == name);
    let (restored, started) = (place("restored"), place("started"));
    assert!(
        restored < started && restored.is_some(),
        "{}",
        ended.transcript()
    );
    events[restored.expect("it is there")].clone()
}

/// Everything in the scene but the lease of the job's directory, which a start that is refused has taken.
fn data(scene: &Scene) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = contents(scene.path());
    all.retain(|path, _| !path.to_string_lossy().contains("/_lease"));
    all
}

#[test]
fn c50_c89_values_of_an_older_version_are_migrated_in_every_kind_of_state() {
    let expected = expected();
    for checkpoint in ["", "incremental = true\n"] {
        let scene = killed("version = 1, timers = true", checkpoint);
        let newer = job("tally", "version = 2, timers = true", checkpoint);
        scene.write("job.toml", newer);
        // At another parallelism, and killed again under the new version.
        let resume = ["run", "job.toml", "--resume", "--json", "-p", "2"];
        let mut running = host::start(scene.path(), &resume);
        let report = running.event("restored");
        let mut migrated = all("state-migrated");
        migrated.insert("timers/event-time".into(), "state-same".into());
        migrated.insert("timers/processing-time".into(), "state-same".into());
        assert_eq!(verdicts(&report), migrated, "{report}");
        let entries = report["report"].as_array().expect("a list");
        let value = entries.iter().find(|entry| entry["state"] == "value");
        let value = value.expect("a verdict for it");
        assert_eq!(
            (&value["from-version"], &value["to-version"]),
            (&1.into(), &2.into())
        );
        running.event("checkpoint-completed");
        running.kill().expect("it was killed in its work");
        // From now on there is nothing to be migrated.
        let ended = host::run(scene.path(), &["run", "job.toml", "--resume", "--json"]);
        let ended = ended.with_code(0);
        let mut same = all("state-same");
        same.insert("timers/event-time".into(), "state-same".into());
        same.insert("timers/processing-time".into(), "state-same".into());
        assert_eq!(verdicts(&restored(&ended)), same);
        let (keys, elements) = totals(&scene);
        assert_same_lines(&keys, &expected, "totals after an upgrade");
        assert_eq!(elements, RECORDS, "elements of the operator's own list");
    }
}

#[test]
fn c50_c89_c90_what_does_not_fit_is_refused_in_one_report_and_nothing_changes() {
    let scene = killed("version = 2, timers = true", "");
    let output = scene.output("out");
    for (config, reasons, same) in [
        // Newer, and the operator does not know the version that is there.
        (
            "version = 3, timers = true",
            "the operator cannot migrate it: version 2 of `value` is not known to version 3",
            true,
        ),
        (
            "version = 1, timers = true",
            "version 1, which is older",
            true,
        ),
        (
            "version = 2, renamed = true, timers = true",
            "value state of `number` version 2 and is declared as value state of `figure`",
            true,
        ),
        (
            "version = 2, as-list = true, timers = true",
            "value state of `number` version 2 and is declared as list state of `number`",
            true,
        ),
        (
            "version = 2, as-list = true",
            "operator `tally` does not declare state `timers/event-time` any more",
            false,
        ),
    ] {
        scene.write("job.toml", job("tally", config, ""));
        let everything = contents(scene.path());
        let checked = host::run(scene.path(), &["check", "--from", "latest", "job.toml"]);
        let checked = checked.with_code(2).saying(&[reasons]).without_panic();
        assert_eq!(
            contents(scene.path()),
            everything,
            "a check changes something"
        );
        let json = ["check", "--from", "latest", "--json", "job.toml"];
        let json = host::run(scene.path(), &json).with_code(2);
        let report: Value = serde_json::from_str(json.stdout.trim()).expect("it prints JSON");
        assert_eq!(report["starts"], false);
        let verdicts = verdicts(&report);
        for state in STATES {
            assert_eq!(verdicts[state], "state-refused", "{report}");
            // The words have each of them too.
            assert!(
                checked.stderr.contains(&format!("`{state}`")),
                "{state}: {}",
                checked.transcript()
            );
        }
        let timers = ["state-refused", "state-same"][usize::from(same)];
        assert_eq!(verdicts["timers/event-time"], timers, "{report}");
        let before = data(&scene);
        host::run(scene.path(), &["run", "job.toml", "--resume"])
            .with_code(2)
            .saying(&[reasons, "`verses`".replace("verses", "numbers").as_str()])
            .without_panic();
        assert_eq!(
            data(&scene),
            before,
            "a start that is refused changes something"
        );
    }
    assert_eq!(scene.output("out"), output, "nothing was processed");
}

#[test]
fn c89_states_are_dropped_by_their_names_and_the_others_stay() {
    let scene = killed("version = 1", "");
    // Every state of another version than it is known under.
    scene.write("job.toml", job("tally", "version = 3, more = true", ""));
    let run = ["run", "job.toml", "--resume", "--json"];
    let allowed = [&run[..], &["-n"]].concat();
    host::run(scene.path(), &allowed).with_code(2).saying(&[
        "`value`",
        "`elements`",
        "--drop-state",
    ]);
    let three: Vec<String> = ["value", "map", "list"]
        .iter()
        .flat_map(|state| ["--drop-state".to_owned(), format!("tally/{state}")])
        .collect();
    let three: Vec<&str> = three.iter().map(String::as_str).collect();
    // The one that is left is still refused, and it alone.
    let refused = host::run(scene.path(), &[&run[..], &three].concat()).with_code(2);
    refused.saying(&["state `elements` of operator `tally` was"]);
    let four = [&three[..], &["--drop-state", "tally/elements"]].concat();
    let ended = host::run(scene.path(), &[&run[..], &four].concat()).with_code(0);
    let mut verdict = all("state-dropped");
    verdict.insert("more".into(), "state-new".into());
    assert_eq!(verdicts(&restored(&ended)), verdict);
    let (keys, elements) = totals(&scene);
    let counted = keys.iter().filter_map(|row| row.split(',').nth(1));
    let counted: u64 = counted
        .filter_map(|number| number.parse::<u64>().ok())
        .sum();
    assert!(0 < counted && counted < RECORDS, "{counted} counted afresh");
    assert_eq!(counted, elements, "both began with nothing");
}

#[test]
fn c89_one_state_of_an_operator_that_is_gone_is_dropped_by_its_name() {
    let scene = killed("version = 1", "");
    let pass = jobs::head("upgrade", "30ms")
        + &jobs::ENDLESS.replace("rate = 2000", &format!("count = {RECORDS}\nrate = 2000"))
        + &jobs::files("totals", "numbers", "out", "csv");
    scene.write("job.toml", pass);
    let check = ["check", "--from", "latest", "job.toml"];
    host::run(scene.path(), &check)
        .with_code(2)
        .saying(&["operator `tally` is not in the job"]);
    let names = STATES.map(|state| format!("tally/{state}"));
    let options = names
        .iter()
        .flat_map(|name| ["--drop-state", name.as_str()]);
    let all: Vec<&str> = check.into_iter().chain(options).collect();
    let checked = host::run(scene.path(), &all).with_code(0);
    assert!(
        checked.stdout.contains("`tally` is not in the job"),
        "{}",
        checked.transcript()
    );
    host::run(scene.path(), &all[..all.len() - 2])
        .with_code(2)
        .saying(&["operator `tally` is not in the job"]);
}

#[test]
fn c89_an_operator_under_another_id_goes_on_with_its_state() {
    let expected = expected();
    let scene = killed("version = 1, timers = true", "");
    scene.write("job.toml", job("count", "version = 2, timers = true", ""));
    host::run(scene.path(), &["run", "job.toml", "--resume"])
        .with_code(2)
        .saying(&["`--map-operator tally=count`"]);
    let run = ["run", "job.toml", "--resume", "--json", "-p", "2"];
    let mapped = [&run[..], &["--map-operator", "tally=count"]].concat();
    // Killed before it has a checkpoint of its own: nothing has changed, so the same is to be said again.
    let rare = [&mapped[..], &["-D", "checkpoint.interval=1h"]].concat();
    let mut running = host::start(scene.path(), &rare);
    running.event("started");
    running.kill().expect("it was killed in its work");
    host::run(scene.path(), &run).with_code(2);
    let ended = host::run(scene.path(), &mapped).with_code(0);
    let report = restored(&ended);
    let mut migrated = all("state-migrated");
    migrated.insert("timers/event-time".into(), "state-same".into());
    migrated.insert("timers/processing-time".into(), "state-same".into());
    assert_eq!(verdicts(&report), migrated, "{report}");
    let (keys, elements) = totals(&scene);
    assert_same_lines(&keys, &expected, "totals under another id");
    assert_eq!(elements, RECORDS);
}

#[test]
fn c89_a_trap_before_the_first_new_checkpoint_restores_under_the_other_id_again() {
    let scene = Scene::new();
    let markers = scene.write("markers/here", "");
    let markers = markers.parent().expect("it is in a directory");
    let grants = format!(
        "grants = {{ dirs = [{{ host = {markers:?}, guest = \"/markers\", write = true }}] }}"
    );
    let with_pass = |id: &str, version: &str, misdeed: &str| {
        let pass = jobs::operator_with("pass", "faulty", "numbers", misdeed, &grants);
        let job = job(id, version, "");
        let (head, operator) = job.split_at(job.find("[[operator]]").expect("an operator"));
        let operator = operator.replace("input = \"numbers\"", "input = \"pass\"");
        format!("{head}{pass}{operator}")
    };
    let old = with_pass("tally", "version = 1", "misdeed = \"none\"");
    scene.write("job.toml", old);
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(3);
    running.kill().expect("it was killed in its work");
    let traps = "misdeed = \"trap\", once = \"/markers/trapped\"";
    scene.write("job.toml", with_pass("count", "version = 2", traps));
    let run = [
        "run",
        "job.toml",
        "--resume",
        "--map-operator",
        "tally=count",
    ];
    let rare = [&run[..], &["-D", "checkpoint.interval=1h"]].concat();
    host::run(scene.path(), &rare)
        .with_code(0)
        .saying(&["restart 1 from checkpoint"]);
    assert!(scene.at("markers/trapped").is_file(), "it trapped");
    let (keys, elements) = totals(&scene);
    assert_same_lines(&keys, &expected(), "totals after a trap");
    assert_eq!(elements, RECORDS);
}

#[test]
fn c89_options_that_name_nothing_or_contradict_each_other_are_refused() {
    let scene = killed("version = 1", "");
    let before = data(&scene);
    let resume: &[&str] = &["--resume"];
    for (start, options, says) in [
        (
            resume,
            "--drop-state taly/value",
            "the checkpoint has no operator `taly`; did you mean `tally`?",
        ),
        (
            resume,
            "--drop-state tally/valeu",
            "has no state `valeu` in the checkpoint; did you mean `value`?",
        ),
        (
            resume,
            "--drop-state numbers/value",
            "`numbers` has no state in the checkpoint",
        ),
        (
            resume,
            "--map-operator taly=tally",
            "the checkpoint has no `taly`; did you mean `tally`?",
        ),
        (
            resume,
            "--map-operator tally=total",
            "the job has no `total`; did you mean `totals`?",
        ),
        (
            resume,
            "--map-operator numbers=tally --map-operator tally=tally",
            "no effect",
        ),
        (
            resume,
            "--map-operator numbers=tally",
            "the checkpoint has a `tally` of its own, and two cannot become one",
        ),
        (
            resume,
            "--map-operator tally=totals --map-operator numbers=totals",
            "another one is mapped to `totals`, and two cannot become one",
        ),
        (
            resume,
            "--map-operator tally=totals --map-operator tally=numbers",
            "`tally` is mapped twice",
        ),
        (
            &[],
            "--drop-state tally/value",
            "--drop-state has an effect only on a start from a checkpoint",
        ),
        (
            &[],
            "--map-operator tally=count",
            "--map-operator has an effect only on a start from a checkpoint",
        ),
        (
            resume,
            "--drop-state tally",
            "a slash and the name of a state",
        ),
        (
            resume,
            "--map-operator tally",
            "the id in the job are expected",
        ),
    ] {
        let options: Vec<&str> = options.split(' ').collect();
        let run = [&["run", "job.toml"], start, &options].concat();
        host::run(scene.path(), &run)
            .with_code(2)
            .saying(&[says])
            .without_panic();
        assert_eq!(data(&scene), before, "{run:?} changes something");
    }
    let check = ["check", "job.toml", "--drop-state", "tally/value"];
    host::run(scene.path(), &check)
        .with_code(2)
        .saying(&["add `--from CHECKPOINT`"]);
    // A job that has no checkpoint has nothing that could be dropped.
    let fresh = Scene::new();
    fresh.write("job.toml", job("tally", "version = 1", ""));
    let run = ["run", "job.toml", "--resume", "--drop-state", "tally/value"];
    host::run(fresh.path(), &run)
        .with_code(2)
        .saying(&["--drop-state has no effect"]);
}

#[test]
fn c90_a_check_says_what_a_start_would_do_while_the_job_runs_and_changes_nothing() {
    let scene = killed("version = 1", "");
    let newest = scene.newest_checkpoint("upgrade").expect("a checkpoint");
    scene.write("new.toml", job("tally", "version = 2, more = true", ""));
    let check = ["check", "--from", &newest.path, "new.toml"];
    let before = contents(scene.path());
    let checked = host::run(scene.path(), &check).with_code(0);
    for line in [
        "the job would start from checkpoint",
        "`numbers`: ",
        "`tally` state `value` is migrated from version 1 to 2: ",
        "`tally` state `more` is new and starts empty",
        "`totals` ",
    ] {
        assert!(
            checked.stdout.contains(line),
            "{line}: {}",
            checked.transcript()
        );
    }
    let json = [&check[..], &["--json", "--drop-state", "tally/list"]].concat();
    let json = host::run(scene.path(), &json).with_code(0);
    let report: Value = serde_json::from_str(json.stdout.trim()).expect("it prints JSON");
    assert_eq!(report["starts"], true);
    assert_eq!(report["checkpoint"], newest.id);
    let mut migrated = all("state-migrated");
    migrated.insert("more".into(), "state-new".into());
    migrated.insert("list".into(), "state-dropped".into());
    assert_eq!(verdicts(&report), migrated);
    let ids = report["report"].as_array().expect("a list").iter();
    let ids: BTreeSet<&str> = ids.filter_map(|it| it["operator"].as_str()).collect();
    assert_eq!(ids, BTreeSet::from(["numbers", "tally", "totals"]));
    assert_eq!(contents(scene.path()), before, "a check changes something");
    // The owner of the directory is not asked, and is not disturbed.
    let resume = [
        "run",
        "job.toml",
        "--resume",
        "-D",
        "checkpoint.interval=1h",
    ];
    let mut running = host::start(scene.path(), &resume);
    running.is_at_work();
    host::run(scene.path(), &check).with_code(0);
    host::run(scene.path(), &["check", "--from", "latest", "new.toml"]).with_code(0);
    running.wait().with_code(0);
}
