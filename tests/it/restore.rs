//! From which checkpoint a job restores, and into what. Conformance 37–39, 42–44, 51.

use std::fs;

use crate::guests;
use crate::host::{self, Completion};
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

/// Runs a job until it has completed that many checkpoints, then kills it. Returns the last one.
fn interrupted(scene: &Scene, arguments: &[&str], checkpoints: usize) -> Completion {
    let mut running = host::start(scene.path(), arguments);
    let seen = running.checkpoints(checkpoints);
    let ended = running.kill().expect("killed in the middle");
    // Others may have been completed between the line that was waited for and the kill.
    ended.completions().pop().unwrap_or(seen)
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
        .expect("it lies in the scene")
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

#[test]
fn c37_latest_is_the_newest_of_the_job_and_never_what_a_finished_one_kept() {
    let scene = much_text();
    scene.write("job.toml", jobs::word_count("c37-latest"));
    let keep = ["-D", "checkpoint.retain-on-finish=true"];
    let last = interrupted(&scene, &["run", "job.toml"], 2);
    let latest = [&["run", "job.toml", "-s", "latest"][..], &keep].concat();
    let ended = host::run(scene.path(), &latest).with_code(0);
    let line = ended.stderr.lines();
    let mut line = line.filter(|line| line.contains("restoring from checkpoint"));
    let line = line.next().expect("it says from what it restores");
    assert!(!line.is_empty() && last.id > 0, "{line}");
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
