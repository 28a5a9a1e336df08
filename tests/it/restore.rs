//! From which checkpoint a job restores, and into what. Conformance 37–39, 42–44, 51.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::guests;
use crate::host;
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::plugins;
use crate::scene::Scene;

/// A scene with enough text to be interrupted in the middle.
fn much_text() -> Scene {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 16, "txt");
    scene
}

/// Runs a job until it has completed that many checkpoints, then kills it.
fn interrupted(scene: &Scene, arguments: &[&str], checkpoints: usize) {
    let mut running = host::start(scene.path(), arguments);
    running.checkpoints(checkpoints);
    running.kill().expect("killed in the middle");
}

/// Checks the totals in `out/` against awk's.
fn assert_totals(scene: &Scene, what: &str) {
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        what,
    );
}

#[test]
fn c37_every_way_to_name_a_checkpoint_finds_it() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(300));
    scene.write("job.toml", jobs::word_count("c37"));
    host::run(
        scene.path(),
        &[
            "run",
            "job.toml",
            "-D",
            "job.id=c37-job",
            "-D",
            "checkpoint.retain-on-finish=true",
        ],
    )
    .with_code(0);
    let output = scene.output("out");
    let job = scene.at("checkpoints/c37-job");
    let chk = fs::read_dir(&job)
        .expect("the job's directory")
        .flatten()
        .map(|entry| entry.path());
    let chk = chk
        .into_iter()
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("chk-"))
        })
        .expect("a checkpoint is retained");
    let relative = chk
        .strip_prefix(scene.path())
        .expect("it is in the scene")
        .display()
        .to_string();
    let ways = [
        chk.join("_metadata").display().to_string(),
        chk.display().to_string(),
        format!("{}/", chk.display()),
        format!("file://{}", chk.display()),
        job.display().to_string(),
        relative,
    ];
    for (number, way) in ways.iter().enumerate() {
        // Under another id each, so that what is named stays as it is.
        let id = format!("job.id=way-{number}");
        host::run(scene.path(), &["run", "job.toml", "-s", way, "-D", &id])
            .with_code(0)
            .saying(&["restoring from checkpoint"]);
        assert_same_lines(
            &scene.output("out"),
            &output,
            "a job restored at its end adds nothing",
        );
    }
}

/// The numbers of the completed checkpoints in a job's directory, oldest first.
fn completed(scene: &Scene, job: &str) -> Vec<u64> {
    let entries = fs::read_dir(scene.at("checkpoints").join(job)).expect("the job's directory");
    let complete = entries
        .flatten()
        .filter(|entry| entry.path().join("_metadata").is_file());
    let number = |name: &str| name.strip_prefix("chk-")?.parse().ok();
    let mut numbers: Vec<u64> = complete
        .filter_map(|entry| number(&entry.file_name().to_string_lossy()))
        .collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn c37_each_way_to_name_a_checkpoint_starts_from_that_one() {
    let scene = much_text();
    scene.write("job.toml", jobs::word_count("c37-each"));
    fs::create_dir_all(scene.at("elsewhere")).expect("a directory can be made");
    // Another job in the same place, with higher numbers.
    let run = |job: &str, checkpoints: usize| {
        let (id, output) = (
            format!("job.id={job}"),
            format!("sink.totals.path=out-{job}"),
        );
        let arguments = [
            "run",
            "job.toml",
            "-D",
            "checkpoint.retained=3",
            "-D",
            &id,
            "-D",
            &output,
        ];
        let mut running = host::start(scene.path(), &arguments);
        running.checkpoints(checkpoints);
        running.signal("TERM");
        running.wait().with_code(0);
        completed(&scene, job)
    };
    let kept = run("one", 4);
    let others = run("other", 8);
    let [_, middle, newest] = kept[..] else {
        panic!("three are retained: {kept:?}")
    };
    assert!(
        others.iter().all(|id| !kept.contains(id)),
        "{kept:?} {others:?}"
    );
    let root = scene.at("checkpoints").display().to_string();
    let ways = [
        (format!("{root}/one/chk-{middle}/_metadata"), middle),
        (format!("{root}/one/chk-{middle}"), middle),
        (format!("{root}/one/chk-{middle}///"), middle),
        (format!("file://{root}/one/chk-{middle}"), middle),
        (format!("file://{root}/one/chk-{middle}/_metadata"), middle),
        (format!("../checkpoints/one/chk-{middle}/"), middle),
        (
            format!("./../checkpoints/other/../one/chk-{middle}"),
            middle,
        ),
        (format!("{root}/one"), newest),
        (format!("file://{root}/one/"), newest),
        ("../checkpoints/one/".to_owned(), newest),
    ];
    let restored = |spec: &str, id: &str| -> (u64, String) {
        let (id, output) = (format!("job.id={id}"), format!("sink.totals.path=out-{id}"));
        let arguments = [
            "run",
            "../job.toml",
            "--json",
            "-s",
            spec,
            "-D",
            &id,
            "-D",
            &output,
        ];
        let mut running = host::start(&scene.at("elsewhere"), &arguments);
        let restored = running.event("restored");
        running.kill().expect("there is input for longer");
        let path = restored["path"]
            .as_str()
            .expect("it is in a file")
            .to_owned();
        (restored["checkpoint"].as_u64().expect("a number"), path)
    };
    for (number, (way, expected)) in ways.iter().enumerate() {
        let (id, path) = restored(way, &format!("way-{number}"));
        assert_eq!(id, *expected, "{way}");
        let place = format!("/checkpoints/one/chk-{expected}/_metadata");
        assert!(path.ends_with(&place), "{way}: {path}");
    }
    // The newest of the job's own, not of the other one.
    assert_eq!(restored("latest", "one").0, newest);
}

#[test]
fn c37_latest_is_the_newest_of_the_job_and_never_what_a_finished_one_kept() {
    let scene = much_text();
    scene.write("job.toml", jobs::word_count("c37-latest"));
    let keep = ["-D", "checkpoint.retain-on-finish=true"];
    interrupted(&scene, &["run", "job.toml"], 2);
    let newest = scene.newest_checkpoint("c37-latest");
    let newest = newest.expect("two were completed").id;
    let latest = [&["run", "job.toml", "-s", "latest"][..], &keep].concat();
    host::run(scene.path(), &latest)
        .with_code(0)
        .saying(&[&format!("restoring from checkpoint {newest}:")]);
    assert_totals(&scene, "output after latest");
    let kept = crate::scene::all_files(&scene.at("checkpoints"));
    assert!(
        kept.iter().any(|file| file.ends_with("_metadata")),
        "{kept:?}"
    );
    host::run(scene.path(), &latest)
        .with_code(0)
        .saying(&["has finished already"]);
    assert_totals(&scene, "output after the end");
}

#[test]
fn c37_a_place_without_a_checkpoint_is_refused() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(10));
    scene.write("job.toml", jobs::word_count("c37"));
    scene.write("empty/readme", "no checkpoint here");
    for way in [
        "",
        "missing/chk-7",
        "empty",
        "gopher://example.com/chk-1",
        "latest",
    ] {
        host::run(scene.path(), &["run", "job.toml", "-s", way])
            .with_code(2)
            .without_panic();
    }
    assert!(scene.output("out").is_empty(), "nothing was processed");
}

#[test]
fn c38_after_a_restore_the_numbers_go_on_in_the_same_job_directory() {
    let scene = much_text();
    scene.write("job.toml", jobs::word_count("c38"));
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(3);
    running.signal("TERM");
    let ended = running.wait().with_code(0);
    let last = ended.completions().pop().expect("three were completed");
    let mut running = host::start(scene.path(), &["run", "job.toml", "-s", &last.path]);
    let next = running.checkpoints(1);
    running.kill().expect("killed in the middle");
    assert!(next.id > last.id, "{} after {}", next.id, last.id);
    let job_directory = |path: &str| {
        path.rsplit_once("/chk-")
            .map(|(directory, _)| directory.to_owned())
    };
    assert!(
        job_directory(&next.path).is_some_and(|directory| directory.ends_with("/c38"))
            && job_directory(&next.path) == job_directory(&last.path),
        "{} and {}",
        last.path,
        next.path
    );
}

#[test]
fn c39_a_crash_before_the_first_new_checkpoint_restores_from_the_same_again() {
    let scene = much_text();
    scene.write("job.toml", jobs::word_count("c39"));
    interrupted(&scene, &["run", "job.toml"], 2);
    let mut first: Option<String> = None;
    for _ in 0..2 {
        let mut running = host::start(
            scene.path(),
            &[
                "run",
                "job.toml",
                "-s",
                "latest",
                "-D",
                "checkpoint.interval=1h",
            ],
        );
        let line = running
            .line_with("restoring from checkpoint")
            .expect("it says from what it restored");
        // One more may have been complete when it was killed.
        let from = first.get_or_insert(line.clone());
        assert_eq!(*from, line, "the same one each time");
        let ended = running.kill().expect("killed before it had a checkpoint");
        assert!(ended.completions().is_empty());
    }
    host::run(scene.path(), &["run", "job.toml", "-s", "latest"])
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    assert_totals(&scene, "output after two crashes without a new checkpoint");
}

#[test]
fn c39_a_trap_before_the_first_new_checkpoint_restores_from_the_same_again() {
    let scene = much_text();
    scene.write(
        "job.toml",
        guests::word_count_with_a_trap(&scene, "c39-trap", guests::Trap::Once),
    );
    interrupted(&scene, &["run", "job.toml"], 1);
    // The trap may have come before the kill; then it comes once more.
    guests::forget_the_trap(&scene);
    host::run(
        scene.path(),
        &[
            "run",
            "job.toml",
            "-s",
            "latest",
            "-D",
            "checkpoint.interval=1h",
        ],
    )
    .with_code(0)
    .saying(&["restart"]);
    assert!(guests::has_trapped(&scene), "the operator trapped");
    assert_totals(&scene, "output after a trap without a new checkpoint");
}

#[test]
fn c42_stateless_operators_come_and_go_and_change_places() {
    let scene = much_text();
    let (before, after) = (
        jobs::head("c42", "30ms") + jobs::VERSES,
        jobs::files("totals", "count", "out", "csv"),
    );
    let stages = [
        jobs::split() + &jobs::count("split"),
        jobs::split()
            + &jobs::pass("one", "split")
            + &jobs::pass("two", "one")
            + &jobs::count("two"),
        jobs::split()
            + &jobs::pass("two", "split")
            + &jobs::pass("one", "two")
            + &jobs::count("one"),
        jobs::split() + &jobs::pass("two", "split") + &jobs::count("two"),
    ];
    for (index, stage) in stages.iter().enumerate() {
        scene.write("job.toml", format!("{before}{stage}{after}"));
        let resume: &[&str] = if index == 0 {
            &["run", "job.toml"]
        } else {
            &["run", "job.toml", "-s", "latest"]
        };
        if index + 1 < stages.len() {
            interrupted(&scene, resume, 1);
        } else {
            let ended = host::run(scene.path(), resume).with_code(0);
            ended.saying(&["restoring from checkpoint"]);
        }
    }
    assert_totals(&scene, "output after operators came and went");
}

/// Runs word count at one parallelism after the other, killed in the middle of all but the last.
fn rescaled(parallelisms: &[&str]) {
    let scene = much_text();
    scene.write("job.toml", jobs::word_count("c43"));
    let (last, before) = parallelisms.split_last().expect("at least one");
    for (index, parallelism) in before.iter().enumerate() {
        let resume: &[&str] = if index == 0 { &[] } else { &["-s", "latest"] };
        interrupted(
            &scene,
            &[&["run", "job.toml", "-p", parallelism], resume].concat(),
            2,
        );
    }
    host::run(
        scene.path(),
        &["run", "job.toml", "-p", last, "-s", "latest"],
    )
    .with_code(0)
    .saying(&["restoring from checkpoint"]);
    // A key on two subtasks would stand in the output twice.
    assert_totals(&scene, &format!("output at parallelism {parallelisms:?}"));
}

#[test]
fn c43_keyed_state_follows_its_keys_from_1_to_2_to_4_to_2() {
    rescaled(&["1", "2", "4", "2"]);
}

#[test]
fn c43_keyed_state_follows_its_keys_from_3_to_5() {
    rescaled(&["3", "5"]);
}

/// Keys of the records that `history` gets. A multiple of the splits of a generator, so that all records of
/// a key are in one split, and come in the same order at any parallelism.
const KEYS: usize = 256;
/// How many records come for each key.
const RECORDS: usize = 200;
/// The settings of `history`: the record after this many forgets the key.
const FORGET_AFTER: usize = 150;
const RECENT: usize = 10;
const JOURNAL: usize = 5;

/// A job with value, map and list state.
fn histories(name: &str) -> String {
    let records = format!(
        "[[source]]\nid = \"records\"\nconnector = \"generator\"\nkeys = {KEYS}\n\
         distribution = \"sequential\"\ncount = {}\nrate = 60000\n\n",
        KEYS * RECORDS
    );
    let config = format!("recent = {RECENT}, journal = {JOURNAL}, forget-after = {FORGET_AFTER}");
    jobs::head(name, "30ms")
        + &records
        + &jobs::operator("history", "history", "records", &config)
        + &jobs::files("seen", "history", "out", "csv")
}

/// The values of each key in the order in which they come: what the source writes, without any operator.
fn values_by_key() -> BTreeMap<String, Vec<String>> {
    let scene = Scene::new();
    let job = histories("values");
    let (before, _) = job.split_once("[[operator]]").expect("it has an operator");
    scene.write(
        "job.toml",
        before.to_owned() + &jobs::keys("values", "records", "out"),
    );
    host::run(
        scene.path(),
        &["run", "job.toml", "-D", "source.records.rate=10000000"],
    )
    .with_code(0);
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in crate::scene::visible_files(&scene.at("out")) {
        let text = fs::read_to_string(file).expect("a readable file");
        for line in text.lines() {
            let (key, value) = line.split_once('\t').expect("a key and a value");
            values
                .entry(key.to_owned())
                .or_default()
                .push(value.to_owned());
        }
    }
    assert_eq!(values.len(), KEYS);
    values
}

/// What the states hold of each key in a checkpoint: the elements of the list, and the values of the map in
/// the order of its fields. Every entry is seen once.
fn held(export: &str) -> BTreeMap<String, [Vec<String>; 2]> {
    let mut held: BTreeMap<String, [Vec<String>; 2]> = BTreeMap::new();
    let mut seen = 0;
    for line in export.lines() {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        let text = |field: &str| entry[field].as_str().expect("text").to_owned();
        let of_key = held.entry(text("key")).or_default();
        match entry["kind"].as_str() {
            Some("list") => {
                assert_eq!(entry["index"], of_key[0].len(), "{line}");
                of_key[0].push(text("value"));
            }
            Some("map") => of_key[1].push(text("value")),
            _ => seen += 1,
        }
    }
    assert_eq!(seen, KEYS, "one value for each key");
    held
}

/// Value, map and list state through one parallelism after the other, killed in the middle of all but the
/// last, are what they are without, and what a model in a few lines says.
fn histories_rescaled(parallelisms: &[&str]) {
    let scene = Scene::new();
    scene.write("job.toml", histories("c43-kinds"));
    let keep = [
        "-D",
        "checkpoint.retain-on-finish=true",
        "-D",
        "checkpoint.inline-threshold=0B",
    ];
    let fast = ["-D", "source.records.rate=10000000"];
    let run = [&["run", "job.toml"], &keep[..]].concat();
    let export = |job: &str| {
        let place = format!("checkpoints/{job}");
        host::run(scene.path(), &["checkpoints", "export", &place])
            .with_code(0)
            .stdout
    };
    let other = [
        "-D",
        "job.id=undisturbed",
        "-D",
        "sink.seen.path=undisturbed",
    ];
    host::run(scene.path(), &[&run[..], &fast, &other].concat()).with_code(0);

    let (last, before) = parallelisms.split_last().expect("at least one");
    for (index, parallelism) in before.iter().enumerate() {
        let resume: &[&str] = if index == 0 { &[] } else { &["-s", "latest"] };
        interrupted(
            &scene,
            &[&run[..], &["-p", parallelism], resume].concat(),
            2,
        );
        let newest = scene.newest_checkpoint("c43-kinds").expect("one is kept");
        let shown = ["checkpoints", "show", &newest.path, "--json"];
        let shown = host::run(scene.path(), &shown).with_code(0);
        let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
        assert_eq!(
            shown["operators"][1]["parallelism"].to_string(),
            *parallelism
        );
    }
    let resumed = ["-p", last, "-s", "latest"];
    host::run(scene.path(), &[&run[..], &fast, &resumed].concat())
        .with_code(0)
        .saying(&["restoring from checkpoint"]);

    assert_same_lines(
        &scene.output("out"),
        &scene.output("undisturbed"),
        &format!("output at parallelism {parallelisms:?}"),
    );
    let rescaled = export("c43-kinds");
    assert!(rescaled == export("undisturbed"), "the states differ");

    // As `export` writes it: text that looks like hex digits is written as those.
    let exported = |value: &String| match value.starts_with("0x") {
        true => {
            let digits = value.bytes().map(|byte| format!("{byte:02x}"));
            "0x".to_owned() + &digits.collect::<String>()
        }
        false => value.clone(),
    };
    let seen = RECORDS - FORGET_AFTER - 1;
    for (key, [list, map]) in held(&rescaled) {
        let values = &values_by_key_once()[&key];
        let values: Vec<String> = values.iter().map(exported).collect();
        // The list begins again at each multiple; fields of the map count downwards.
        assert_eq!(list, values[RECORDS - seen % RECENT - 1..], "list of {key}");
        let newest_first: Vec<String> = values[RECORDS - JOURNAL..].iter().rev().cloned().collect();
        assert_eq!(map, newest_first, "map of {key}");
    }
    let emitted = (1..=FORGET_AFTER).chain(1..=seen);
    let mut expected: Vec<String> = emitted
        .flat_map(|count| {
            values_by_key_once()
                .keys()
                .map(move |key| format!("{key},{count}"))
        })
        .collect();
    expected.sort();
    assert_same_lines(&scene.output("out"), &expected, "numbers of each key");
}

fn values_by_key_once() -> &'static BTreeMap<String, Vec<String>> {
    static VALUES: std::sync::OnceLock<BTreeMap<String, Vec<String>>> = std::sync::OnceLock::new();
    VALUES.get_or_init(values_by_key)
}

#[test]
fn c43_value_map_and_list_state_follow_their_keys_from_1_to_2_to_4_to_2() {
    histories_rescaled(&["1", "2", "4", "2"]);
}

#[test]
fn c43_value_map_and_list_state_follow_their_keys_from_3_to_5() {
    histories_rescaled(&["3", "5"]);
}

#[test]
fn c44_parallelism_above_key_groups_is_refused() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(10));
    scene.write("job.toml", jobs::word_count("c44"));
    host::run(
        scene.path(),
        &["run", "job.toml", "-p", "41", "-D", "job.key-groups=37"],
    )
    .with_code(2)
    .saying(&["41", "37"])
    .without_panic();
}

#[test]
fn c44_key_groups_are_those_of_the_checkpoint() {
    let scene = much_text();
    scene.write("job.toml", jobs::word_count("c44"));
    interrupted(&scene, &["run", "job.toml", "-D", "job.key-groups=59"], 1);
    let refused = host::run(
        scene.path(),
        &["run", "job.toml", "-s", "latest", "-D", "job.key-groups=83"],
    );
    refused.with_code(2).saying(&["59", "83"]).without_panic();
    // Not set, the checkpoint's are adopted, and so is its limit.
    let refused = host::run(
        scene.path(),
        &["run", "job.toml", "-s", "latest", "-p", "61"],
    );
    refused.with_code(2).saying(&["59", "61"]).without_panic();
    host::run(
        scene.path(),
        &["run", "job.toml", "-s", "latest", "-p", "2"],
    )
    .with_code(0)
    .saying(&["restoring from checkpoint"]);
    assert_totals(&scene, "output with adopted key groups");
}

#[test]
fn c51_a_component_that_changed_takes_over_the_state() {
    let scene = much_text();
    let original = fs::read(plugins::component("count")).expect("a component");
    let component = scene.write("count.wasm", &original);
    let job = jobs::word_count("c51").replace(
        &plugins::component("count").display().to_string(),
        &component.display().to_string(),
    );
    scene.write("job.toml", job);
    interrupted(&scene, &["run", "job.toml"], 2);
    scene.write("count.wasm", plugins::rebuilt(&original));
    let ended = host::run(scene.path(), &["run", "job.toml", "-s", "latest"])
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    let told = ended.stderr.lines().any(|line| {
        line.contains("count") && line.contains("component") && line.contains("changed")
    });
    assert!(told, "the change is not logged:\n{}", ended.transcript());
    assert_totals(&scene, "output of the changed component");
}

#[test]
fn a_finished_job_is_not_resumed_from_what_an_earlier_run_left() {
    let scene = much_text();
    scene.write("job.toml", jobs::word_count("finished"));
    interrupted(&scene, &["run", "job.toml"], 2);
    host::run(scene.path(), &["run", "job.toml", "-s", "latest"])
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    for again in [["-s", "latest"].as_slice(), &["--resume"]] {
        host::run(scene.path(), &[&["run", "job.toml"], again].concat())
            .with_code(0)
            .saying(&["has finished already"]);
        assert_totals(&scene, "output after the end");
    }
}

#[test]
fn resume_starts_afresh_or_where_the_job_was_killed() {
    let scene = much_text();
    scene.write("job.toml", jobs::word_count("resume"));
    interrupted(&scene, &["run", "job.toml", "--resume"], 2);
    host::run(scene.path(), &["run", "job.toml", "--resume"])
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    assert_totals(&scene, "output of a resumed service");
}

#[test]
fn c38_a_start_from_the_end_of_all_input_goes_on_where_there_is_more_by_then() {
    let source = "\
[[source]]
id = \"in\"
connector = \"generator\"
count = 100
keys = 2
timestamp = { start = \"2026-01-01T00:00:00Z\", interval = \"10ms\" }
watermark = { out-of-orderness = \"0s\" }

";
    let config = "window = \"tumbling\", size = \"500ms\", aggregates = [\"count as n\"]";
    let job = jobs::head("goes-on", "30ms")
        + source
        + &jobs::count("in")
        + &jobs::operator("windows", "window", "in", config)
        + &jobs::files("totals", "count", "totals", "csv")
        + &jobs::files("counts", "windows", "counts", "csv");
    // With nothing more, nothing is emitted again; else the totals of all keys, and the windows of the second hundred.
    for (count, totals) in [(100, 100), (200, 100 + 200)] {
        let scene = Scene::new();
        scene.write("job.toml", &job);
        let keep = ["run", "job.toml", "-D", "checkpoint.retain-on-finish=true"];
        let ended = host::run(scene.path(), &keep).with_code(0);
        let last = ended.completions().pop().expect("the last checkpoint");
        let sum = |directory: &str| {
            let lines = scene.output(directory);
            let counts = lines
                .iter()
                .filter_map(|line| line.rsplit(',').find_map(|it| it.parse::<u64>().ok()));
            counts.sum::<u64>()
        };
        assert_eq!((sum("totals"), sum("counts")), (100, 100));
        let more = format!("source.in.count={count}");
        let from = ["run", "job.toml", "-s", &last.path, "-D", &more];
        host::run(scene.path(), &from).with_code(0);
        assert_eq!((sum("totals"), sum("counts")), (totals, count));
    }
}
