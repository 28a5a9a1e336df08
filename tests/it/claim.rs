//! Who owns the checkpoint that a job starts from, and what is left of runs that were killed.
//! Conformance 10, 38, 39, 45, 53.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::host::{self, Completion};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::power::{self, Until};
use crate::scene::{self, Scene, all_files};

fn scene(name: &str) -> Scene {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 16, "txt");
    scene.write("job.toml", jobs::word_count(name));
    scene
}

/// Runs the job as `id` until that many checkpoints are complete, then kills. Returns the last one.
fn killed(scene: &Scene, id: &str, more: &[&str], checkpoints: usize) -> Completion {
    let set = format!("job.id={id}");
    let run = ["run", "job.toml", "-D", &set];
    let mut running = host::start(scene.path(), &[&run, more].concat());
    running.checkpoints(checkpoints);
    running.kill().expect("killed in the middle");
    scene.newest_checkpoint(id).expect("some were completed")
}

/// The files below a directory with what is in them, but for who owns it.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut contents = scene::contents(directory);
    contents.retain(|file, _| !is_lease(file));
    contents
}

/// Whether a file says who owns a directory, which tells nothing of what is in it.
fn is_lease(file: &Path) -> bool {
    file.parent()
        .is_some_and(|parent| parent.ends_with("_lease"))
}

fn job_directories(scene: &Scene) -> Vec<PathBuf> {
    let entries = fs::read_dir(scene.at("checkpoints")).expect("the checkpoint directory");
    entries.flatten().map(|entry| entry.path()).collect()
}

/// The data files that a checkpoint references.
fn references(scene: &Scene, path: &str) -> Vec<String> {
    let shown = host::run(scene.path(), &["checkpoints", "show", path, "--json"]).with_code(0);
    let metadata: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let mut files = Vec::new();
    for operator in metadata["operators"].as_array().expect("operators") {
        for subtask in operator["subtasks"].as_array().expect("subtasks") {
            for segment in subtask["segments"].as_array().expect("segments") {
                files.extend(segment["file"].as_str().map(str::to_owned));
            }
        }
    }
    files
}

#[test]
fn c38_c45_by_default_what_a_job_starts_from_stays_as_it_is_and_may_be_started_from_again() {
    let scene = scene("no-claim");
    let from = killed(&scene, "old", &[], 3);
    let before = contents(&scene.at("checkpoints/old"));
    for (job, mode) in [("one", &[][..]), ("two", &["--claim-mode", "no-claim"])] {
        let id = format!("job.id={job}");
        let path = format!("sink.totals.path=out-{job}");
        let arguments = ["run", "job.toml", "-s", &from.path, "-D", &id, "-D", &path];
        let arguments = [&arguments[..], &KEEP, mode].concat();
        let mut running = host::start(scene.path(), &arguments);
        let first = running.checkpoints(1);
        assert_eq!(first.id, from.id + 1);
        assert!(
            first.path.contains(&format!("/{job}/chk-")),
            "{}",
            first.path
        );
        running.signal("TERM");
        let ended = running.wait().with_code(0);
        let newest = ended.completions().pop().expect("one is complete");
        for path in [&first.path, &newest.path] {
            let files = references(&scene, path);
            assert!(
                !files.is_empty() && files.iter().all(|file| !file.starts_with("../..")),
                "{path}: {files:?}"
            );
        }
        host::run(
            scene.path(),
            &[
                "run",
                "job.toml",
                "-s",
                &newest.path,
                "-D",
                &path,
                "-D",
                &id,
            ],
        )
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
        assert_same_lines(
            &scene.output(&format!("out-{job}")),
            &oracle::word_count(&scene.at("input")),
            job,
        );
        assert!(
            contents(&scene.at("checkpoints/old")) == before,
            "it is untouched"
        );
    }
}

/// All state in files, and all checkpoints kept: what each refers to can be seen afterwards.
const KEEP: [&str; 4] = [
    "-D",
    "checkpoint.inline-threshold=0B",
    "-D",
    "checkpoint.retained=1000",
];

#[test]
fn c45_several_jobs_start_from_one_checkpoint_at_the_same_time() {
    let scene = scene("together");
    let from = killed(&scene, "old", &[], 2);
    let before = contents(&scene.at("checkpoints/old"));
    let jobs: Vec<(String, String)> = ["one", "two", "three"]
        .iter()
        .map(|job| {
            (
                format!("job.id={job}"),
                format!("sink.totals.path=out-{job}"),
            )
        })
        .collect();
    let running: Vec<_> = jobs
        .iter()
        .map(|(id, path)| {
            let arguments = ["run", "job.toml", "-s", &from.path, "-D", id, "-D", path];
            host::start(scene.path(), &arguments)
        })
        .collect();
    for (job, (_, path)) in running.into_iter().zip(&jobs) {
        job.wait()
            .with_code(0)
            .saying(&["restoring from checkpoint"]);
        let (_, output) = path.split_once('=').expect("a key and its value");
        assert_same_lines(
            &scene.output(output),
            &oracle::word_count(&scene.at("input")),
            output,
        );
    }
    assert!(
        contents(&scene.at("checkpoints/old")) == before,
        "it is untouched"
    );
}

#[test]
fn c45_the_newest_checkpoint_of_the_jobs_own_directory_is_owned() {
    let scene = scene("own");
    let newest = killed(&scene, "own", &[], 2).id;
    let path = format!("checkpoints/own/chk-{newest}");
    let own = ["run", "job.toml", "-s", &path];
    host::run(
        scene.path(),
        &[&own[..], &["--claim-mode", "no-claim"]].concat(),
    )
    .with_code(2)
    .saying(&["no-claim"])
    .without_panic();
    assert!(scene.at(&path).join("_metadata").exists());
    let mut running = host::start(scene.path(), &own);
    running.checkpoints(3);
    assert!(
        !scene.at(&path).join("_metadata").exists(),
        "it is subsumed"
    );
    running.wait().with_code(0);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output of a job that continued",
    );
}

#[test]
fn c45_what_others_need_of_a_claimed_checkpoint_stays_when_it_is_subsumed() {
    let scene = Scene::new();
    // Many keys come at first, and few of them change from one checkpoint to the next: each of the retained
    // ones stands on the same full state.
    let source = "[[source]]\nid = \"numbers\"\nconnector = \"generator\"\nkeys = 5000\n\
                  distribution = \"sequential\"\ncount = 100000\nrate = 4000\n\n";
    let job = jobs::head("leaning", "30ms")
        + source
        + &jobs::count("numbers")
        + &jobs::files("totals", "count", "out", "csv");
    scene.write("job.toml", job);
    let run = ["run", "job.toml", "-D", "checkpoint.inline-threshold=0B"];
    let retained = ["-D", "checkpoint.retained=3"];
    let fill = ["-D", "source.numbers.rate=200000"];
    killed(&scene, "old", &[&run[2..], &retained, &fill].concat(), 2);
    let old = [&run[..], &["-D", "job.id=old"], &retained].concat();
    let mut running = host::start(scene.path(), &[&old[..], &["--resume"]].concat());
    running.checkpoints(6);
    running.signal("TERM");
    running.wait().with_code(0);
    let claimed = scene.newest_checkpoint("old").expect("some are kept").id;
    let path = |id: u64| format!("checkpoints/old/chk-{id}");
    let files = |id: u64| -> Vec<PathBuf> {
        let names = references(&scene, &path(id)).into_iter();
        let shared = names.map(|file| file.trim_start_matches("../").to_owned());
        shared
            .map(|file| scene.at("checkpoints/old").join(file))
            .collect()
    };
    let (of_claimed, of_older) = (files(claimed), files(claimed - 1));
    let alone = |file: &&PathBuf| !of_older.contains(file);
    assert!(
        of_claimed.iter().any(|file| !alone(&file)),
        "they share nothing"
    );
    assert!(
        of_claimed.iter().filter(alone).count() > 0,
        "it has nothing of its own"
    );

    // Its claimer takes some checkpoints.
    let (from, before) = (path(claimed), path(claimed - 1));
    let fast = ["-D", "source.numbers.rate=10000000"];
    let claim = [
        "-D",
        "job.id=new",
        "--claim-mode",
        "claim",
        "-D",
        "sink.totals.path=new",
    ];
    let claim = [&run[..], &claim, &["-s", &from]].concat();
    let mut running = host::start(scene.path(), &claim);
    running.checkpoints(3);
    running.signal("TERM");
    running.wait().with_code(0);
    assert!(
        !scene.at(&path(claimed)).join("_metadata").exists(),
        "it is subsumed"
    );
    for file in &of_claimed {
        assert_eq!(file.exists(), of_older.contains(file), "{}", file.display());
    }
    host::run(scene.path(), &["checkpoints", "verify", "checkpoints"]).with_code(0);
    let expected: Vec<String> = (0..5000).map(|key| format!("k{key:04},20")).collect();
    let resume = ["-D", "job.id=new", "-D", "sink.totals.path=new", "--resume"];
    host::run(scene.path(), &[&run[..], &fast, &resume].concat()).with_code(0);
    assert_same_lines(&scene.output("new"), &expected, "output of who has claimed");
    let third = ["-D", "job.id=third", "-D", "sink.totals.path=third"];
    let third = [&run[..], &fast, &third, &["-s", &before]].concat();
    host::run(scene.path(), &third).with_code(0);
    assert_same_lines(&scene.output("third"), &expected, "output of another");
}

#[test]
fn c39_c45_a_claimed_checkpoint_is_restored_from_until_a_newer_one_takes_its_place() {
    let scene = scene("claim");
    let from = killed(&scene, "old", &[], 2);
    let claim = [
        "run",
        "job.toml",
        "-s",
        &from.path,
        "--claim-mode",
        "claim",
        "-D",
        "job.id=new",
    ];
    let resume = ["run", "job.toml", "--resume", "-D", "job.id=new"];
    // Killed before its first checkpoint, it starts from the same one again, and claims it again.
    for start in [&claim[..], &resume] {
        let slow = [start, &["-D", "checkpoint.interval=1h"]].concat();
        let mut running = host::start(scene.path(), &slow);
        running.line_with("started, id").expect("it starts");
        let ended = running.kill().expect("killed before its first checkpoint");
        assert!(ended.completions().is_empty());
        let ended = ended.saying(&[
            "restoring from checkpoint",
            "claimed",
            "a cancel (ctrl-C) deletes it as well",
        ]);
        assert!(Path::new(&from.path).exists(), "{}", ended.transcript());
    }
    let mut running = host::start(scene.path(), &resume);
    running.checkpoints(3);
    // It is deleted some time after the completion of the one that takes its place was reported.
    running.wait_until("it is subsumed", || !Path::new(&from.path).exists());
    running.wait().with_code(0);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output after a claim",
    );
    // What the killed run had not finished is left, and is garbage. (It may also have been killed before
    // it deleted a checkpoint that was subsumed, which was not claimed.)
    let gc = ["checkpoints", "gc", "checkpoints", "--older-than", "0s"];
    host::run(scene.path(), &gc).with_code(0);
    let others = all_files(&scene.at("checkpoints/old"));
    match others.iter().any(|file| file.ends_with("_metadata")) {
        true => {
            drop(host::run(scene.path(), &["checkpoints", "verify", "checkpoints"]).with_code(0))
        }
        false => assert!(others.iter().all(|file| is_lease(file)), "{others:?}"),
    }
}

#[test]
fn c45_a_cancel_deletes_what_was_claimed_as_the_start_has_warned() {
    let scene = scene("cancelled");
    let from = killed(&scene, "old", &[], 1);
    let mut running = host::start(
        scene.path(),
        &[
            "run",
            "job.toml",
            "-s",
            &from.path,
            "--claim-mode",
            "claim",
            "-D",
            "checkpoint.interval=1h",
        ],
    );
    running.line_with("started, id").expect("it starts");
    running.signal("INT");
    running
        .wait()
        .with_code(0)
        .saying(&["a cancel (ctrl-C) deletes it as well"]);
    assert!(!Path::new(&from.path).exists(), "it went with the job");
}

#[test]
fn a_claim_needs_checkpoints_that_outlive_the_process() {
    let scene = scene("memory");
    let arguments = [
        "run",
        "job.toml",
        "-s",
        "latest",
        "--claim-mode",
        "claim",
        "-D",
        "checkpoint.storage=memory",
    ];
    host::run(scene.path(), &arguments)
        .with_code(2)
        .saying(&["claim", "memory"])
        .without_panic();
}

#[test]
fn c53_a_service_that_is_killed_again_and_again_leaves_one_directory_and_no_file_of_state() {
    let scene = scene("service");
    let resume = ["run", "job.toml", "--resume"];
    // Killed before the first checkpoint, and then after some.
    for checkpoints in [0, 0, 1, 0, 2, 1] {
        let mut running = host::start(scene.path(), &resume);
        running.line_with("started, id").expect("it starts");
        if checkpoints > 0 {
            running.checkpoints(checkpoints);
        }
        running.kill().expect("killed in the middle");
        assert_eq!(
            job_directories(&scene).len(),
            1,
            "{:?}",
            job_directories(&scene)
        );
        let entries = fs::read_dir(scene.at("out/.highwater"))
            .into_iter()
            .flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        let places = names.filter(|name| !name.to_string_lossy().ends_with(".published"));
        assert!(places.count() <= 1, "one staging place");
    }
    // The run that goes on keeps nothing of those before.
    let mut running = host::start(scene.path(), &resume);
    running.checkpoints(3);
    running.signal("TERM");
    let newest = running
        .wait()
        .with_code(0)
        .completions()
        .pop()
        .expect("some are complete");
    let needed = references(&scene, &newest.path).len();
    let files = all_files(&job_directories(&scene)[0]);
    let files = files.iter().filter(|file| !is_lease(file));
    assert!(files.clone().count() <= needed + 1, "{files:?}");
    host::run(scene.path(), &resume)
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output of a service",
    );
    let left = all_files(&scene.at("checkpoints"));
    assert!(left.iter().all(|file| is_lease(file)), "{left:?}");
    assert_eq!(
        all_files(&scene.at("out/.highwater")),
        [""; 0].map(PathBuf::from)
    );
}

#[test]
fn c10_a_checkpoint_without_its_metadata_is_never_accepted_and_is_collected() {
    for is_collected in [true, false] {
        let scene = scene("half");
        let run = ["run", "job.toml", "-D", "checkpoint.inline-threshold=0B"];
        power::killed_at(&scene, Until::Before("chk-3/_metadata"), &run);
        let job = scene.at("checkpoints/half");
        // Everything that belongs to it is written, and only the name of its metadata is missing.
        let of_3 = |file: &PathBuf| file.to_string_lossy().contains("-c3-");
        let mut half = all_files(&job);
        half.retain(|file| of_3(file) || file.starts_with(job.join("chk-3")));
        assert!(half.iter().any(of_3), "no state is written: {half:?}");
        assert!(half.contains(&job.join("chk-3/_metadata#1")), "{half:?}");
        assert!(job.join("chk-2/_metadata").exists());

        let by_path = [&run[..], &["-s", "checkpoints/half/chk-3"]].concat();
        host::run(scene.path(), &by_path)
            .with_code(2)
            .saying(&["no completed checkpoint in", "checkpoints/half/chk-3"])
            .without_panic();
        if is_collected {
            let gc = ["checkpoints", "gc", "checkpoints", "--older-than", "0s"];
            host::run(scene.path(), &gc).with_code(0);
            for file in &half {
                assert!(!file.exists(), "{} is left", file.display());
            }
            assert!(!job.join("chk-3").exists());
            host::run(scene.path(), &["checkpoints", "verify", "checkpoints"]).with_code(0);
        }
        let resumed = host::run(scene.path(), &[&run[..], &["-s", "latest"]].concat())
            .with_code(0)
            .saying(&["restoring from checkpoint 2"]);
        let ids: Vec<u64> = resumed.completions().iter().map(|it| it.id).collect();
        assert!(!ids.contains(&3), "its number is not used again: {ids:?}");
        assert_same_lines(
            &scene.output("out"),
            &oracle::word_count(&scene.at("input")),
            "output after a kill before the metadata",
        );
    }
}

#[test]
fn c10_garbage_is_told_then_removed_and_nothing_that_is_needed() {
    let scene = scene("garbage");
    let from = killed(&scene, "job", &[], 2);
    let next = from.id + 1;
    scene.write(&format!("checkpoints/job/chk-{next}/_metadata#1"), "half");
    scene.write("checkpoints/job/shared/r1-c1-9999.state", "orphan");
    scene.write(
        "checkpoints/job/shared/r1-c1-9998.state.part-0000000000000001-1#1",
        "torn",
    );
    scene.write("checkpoints/job/shared/notes.txt", "somebody's");
    let before = contents(&scene.at("checkpoints"));
    let gc = |more: &[&str]| {
        let arguments = [&["checkpoints", "gc", "checkpoints"], more].concat();
        host::run(scene.path(), &arguments).with_code(0)
    };
    gc(&[]);
    assert!(
        contents(&scene.at("checkpoints")) == before,
        "it is too young"
    );
    let told = gc(&["--older-than", "0s", "--dry-run", "--json"]);
    assert!(
        contents(&scene.at("checkpoints")) == before,
        "it is only reported"
    );
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    let told: Vec<&str> = told["removed"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|removed| removed["path"].as_str())
        .collect();
    assert!(told.len() >= 4, "{told:?}");
    gc(&["--older-than", "0s"]);
    for path in &told {
        assert!(!Path::new(path).exists(), "{path}");
    }
    assert!(scene.at("checkpoints/job/shared/notes.txt").exists());
    let again = gc(&["--older-than", "0s"]);
    assert!(
        again.stdout.starts_with("removed 0"),
        "{}",
        again.transcript()
    );
    host::run(scene.path(), &["checkpoints", "verify", "checkpoints"]).with_code(0);
    let again = ["run", "job.toml", "--resume", "-D", "job.id=job"];
    host::run(scene.path(), &again).with_code(0);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output after a collection",
    );
}

#[test]
fn c47_two_checkpoints_are_compared_and_exported() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(2000));
    let job = jobs::word_count("compared");
    scene.write("job.toml", &job);
    // The same state, full at parallelism 1 and as deltas at parallelism 3.
    for (id, parallelism, incremental) in [("full", "1", "false"), ("deltas", "3", "true")] {
        let set = [
            format!("job.id={id}"),
            format!("checkpoint.incremental={incremental}"),
            format!("sink.totals.path=out-{id}"),
        ];
        let arguments = [
            "run",
            "job.toml",
            "-p",
            parallelism,
            "-D",
            &set[0],
            "-D",
            &set[1],
            "-D",
            &set[2],
            "-D",
            "checkpoint.retain-on-finish=true",
            "-D",
            "checkpoint.interval=20ms",
        ];
        host::run(scene.path(), &arguments).with_code(0);
    }
    let export = |id: &str, more: &[&str]| {
        let place = format!("checkpoints/{id}");
        let arguments = [&["checkpoints", "export", &place], more].concat();
        host::run(scene.path(), &arguments).with_code(0).stdout
    };
    let lines = export("full", &[]);
    assert!(lines == export("deltas", &[]), "the exports differ");
    let expected = oracle::count_words(&oracle::verses(2000));
    assert_eq!(lines.lines().count(), expected.len());
    for line in lines.lines() {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(entry["operator"], "count");
    }
    let csv = export("full", &["--format", "csv", "--operator", "count"]);
    assert_eq!(csv.lines().count(), expected.len() + 1);
    let diff = |a: &str, b: &str, more: &[&str]| {
        let (a, b) = (format!("checkpoints/{a}"), format!("checkpoints/{b}"));
        let arguments = [&["checkpoints", "diff", &a, &b], more].concat();
        host::run(scene.path(), &arguments).with_code(0).stdout
    };
    assert!(diff("full", "full", &[]).contains("nothing changed"));
    let told = diff("full", "deltas", &[]);
    assert!(
        told.contains("0 keys added, 0 removed, 0 changed"),
        "{told}"
    );
    let told: Value = serde_json::from_str(&diff("full", "deltas", &["--json"])).expect("JSON");
    let count = told["operators"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|it| it["id"] == "count");
    assert_eq!(
        count.expect("it is there")["states"][0]["after"]["keys"],
        expected.len()
    );
}
