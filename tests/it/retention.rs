//! What is left of a job that ended, and how it can be ended. Conformance 27, 32 to 36.

use std::process::Command;

use serde_json::Value;

use crate::guests;
use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{Scene, all_files};

/// All that `checkpoint.retention` may be.
const POLICIES: [&str; 3] = [
    "no-externalized-checkpoints",
    "delete-on-cancellation",
    "retain-on-cancellation",
];

/// How a job comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Finish,
    Cancel,
    Failure,
    Suspend,
}

/// Runs word count under a policy to an end, with `more` options.
fn ended(scene: &Scene, policy: &str, ending: Ending, more: &[&str]) -> Ended {
    match ending {
        Ending::Finish => scene.write("input/some.txt", oracle::verses(500)),
        _ => {
            scene.input(&oracle::bible(), 12, "txt");
            scene.at("input")
        }
    };
    // It fails once, at the last word, and nobody starts it again but the test.
    let job = match ending {
        Ending::Failure => {
            let job = guests::word_count_with_a_trap(scene, "retention", guests::Trap::Once);
            job.replace(jobs::RESTART, "[restart]\nstrategy = \"none\"\n\n")
        }
        _ => jobs::word_count("retention"),
    };
    scene.write("job.toml", job);
    let retention = format!("checkpoint.retention={policy}");
    let arguments = [&["run", "job.toml", "-D", &retention], more].concat();
    let mut running = host::start(scene.path(), &arguments);
    match ending {
        Ending::Finish => running.wait().with_code(0),
        Ending::Failure => {
            running.checkpoints(2);
            let ended = running.wait().with_code(1);
            assert!(
                guests::has_trapped(scene),
                "it did fail:\n{}",
                ended.transcript()
            );
            ended
        }
        Ending::Cancel | Ending::Suspend => {
            running.checkpoints(2);
            running.signal(if ending == Ending::Cancel {
                "INT"
            } else {
                "TERM"
            });
            let ended = running.wait().with_code(0);
            assert!(
                scene.output("out").is_empty(),
                "it ended before it was stopped"
            );
            ended
        }
    }
}

/// Checks that no file is left of the job but what it was to write.
fn assert_nothing_left(scene: &Scene, what: &str) {
    let mut left = all_files(&scene.at("checkpoints"));
    // But for how the run ended, which is on record.
    left.retain(|file| !file.to_string_lossy().contains("/_lease/"));
    left.extend(hidden(scene));
    assert!(left.is_empty(), "{what}: {left:?}");
}

/// What the sink keeps in its staging place.
fn hidden(scene: &Scene) -> Vec<std::path::PathBuf> {
    all_files(&scene.at("out/.highwater"))
}

/// Runs the command that was printed, as a user would, and checks the output in the end.
fn assert_resumes_as_printed(scene: &Scene, ended: &Ended, what: &str) {
    let command = ended
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("resume with: "))
        .unwrap_or_else(|| panic!("{what}: no command is printed:\n{}", ended.transcript()));
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_host"));
    let directory = program.parent().expect("it is in a directory");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(
        std::iter::once(directory.to_owned()).chain(std::env::split_paths(&path)),
    );
    let resumed = Command::new("sh")
        .args(["-c", command])
        .current_dir(scene.path())
        .env("PATH", path.expect("a search path"))
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&resumed.stderr);
    assert!(resumed.status.success(), "{what}: `{command}`:\n{said}");
    assert!(said.contains("restoring from checkpoint"), "{what}: {said}");
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        what,
    );
}

#[test]
fn c32_by_default_nothing_is_kept_of_a_job_that_finished_was_cancelled_or_failed() {
    for ending in [Ending::Finish, Ending::Cancel, Ending::Failure] {
        let scene = Scene::new();
        let ended = ended(&scene, POLICIES[0], ending, &[]);
        assert_nothing_left(&scene, &format!("{ending:?}"));
        assert!(
            !ended.stderr.contains("resume with"),
            "{}",
            ended.transcript()
        );
    }
}

#[test]
fn c33_delete_on_cancellation_keeps_the_newest_of_a_job_that_failed() {
    let scene = Scene::new();
    ended(&scene, POLICIES[1], Ending::Cancel, &[]);
    assert_nothing_left(&scene, "cancel");
    let scene = Scene::new();
    let failed = ended(&scene, POLICIES[1], Ending::Failure, &[]);
    assert_eq!(metadata_files(&scene), 1);
    assert_resumes_as_printed(&scene, &failed, "after a failure");
}

#[test]
fn c34_retain_on_cancellation_keeps_the_newest_and_prints_how_to_resume() {
    for ending in [Ending::Cancel, Ending::Failure] {
        let scene = Scene::new();
        let more = ["-D", "checkpoint.retained=2"];
        let ended = ended(&scene, POLICIES[2], ending, &more);
        assert_eq!(metadata_files(&scene), 2, "{ending:?}");
        host::run(scene.path(), &["checkpoints", "verify", "checkpoints"]).with_code(0);
        assert_resumes_as_printed(&scene, &ended, &format!("{ending:?}"));
        // The job went on from what it owned, and has finished.
        assert_eq!(metadata_files(&scene), 0, "{ending:?}");
    }
}

#[test]
fn c35_finishing_deletes_under_every_policy_unless_asked_not_to() {
    for policy in POLICIES {
        let scene = Scene::new();
        ended(&scene, policy, Ending::Finish, &[]);
        assert_nothing_left(&scene, policy);
        let scene = Scene::new();
        let more = ["-D", "checkpoint.retain-on-finish=true"];
        ended(&scene, policy, Ending::Finish, &more);
        assert_eq!(metadata_files(&scene), 1, "{policy}");
        host::run(scene.path(), &["checkpoints", "verify", "checkpoints"]).with_code(0);
    }
}

#[test]
fn c35_suspending_keeps_under_every_policy_and_prints_how_to_resume() {
    for policy in POLICIES {
        let scene = Scene::new();
        let ended = ended(&scene, policy, Ending::Suspend, &[]);
        assert_eq!(metadata_files(&scene), 1, "{policy}");
        assert_resumes_as_printed(&scene, &ended, policy);
    }
}

#[test]
fn a_supervisor_that_asks_once_more_finds_that_the_job_has_finished() {
    let scene = Scene::new();
    ended(&scene, POLICIES[0], Ending::Finish, &["--resume"]);
    let expected = oracle::word_count(&scene.at("input"));
    assert_same_lines(&scene.output("out"), &expected, "the first run");
    assert_nothing_left(&scene, "the first run");
    host::run(scene.path(), &["run", "job.toml", "--resume"])
        .with_code(0)
        .saying(&["has finished already"]);
    assert_same_lines(&scene.output("out"), &expected, "asked once more");
    // A user who starts it again by hand means it, and is not kept from resuming it.
    std::fs::remove_dir_all(scene.at("out")).expect("output can be removed");
    scene.input(&oracle::bible(), 12, "txt");
    let running = host::start(scene.path(), &["run", "job.toml"]);
    let mut running = running;
    running.line_with("started, id").expect("it starts");
    running
        .kill()
        .expect("killed before its first checkpoint or soon after");
    host::run(scene.path(), &["run", "job.toml", "--resume"]).with_code(0);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "begun again, killed and resumed",
    );
}

/// The `_metadata` files in a scene.
fn metadata_files(scene: &Scene) -> usize {
    all_files(&scene.at("checkpoints"))
        .iter()
        .filter(|path| path.ends_with("_metadata"))
        .count()
}

fn much_text() -> Scene {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    scene
}

#[test]
fn c35_sigterm_suspends_and_leaves_everything_for_the_next_start() {
    let scene = much_text();
    scene.write("job.toml", jobs::word_count("c35-term"));
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(2);
    running.signal("TERM");
    let ended = running.wait().with_code(0).saying(&["chk-"]);
    assert!(
        scene.output("out").is_empty(),
        "it was suspended before its end:\n{}",
        ended.transcript()
    );
    assert!(metadata_files(&scene) > 0, "a checkpoint is kept");
    host::run(scene.path(), &["run", "job.toml", "-s", "latest"])
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output after a suspension",
    );
}

#[test]
fn c35_ctrl_c_cancels_and_leaves_what_the_retention_says() {
    for (retention, kept) in [
        ("no-externalized-checkpoints", false),
        ("retain-on-cancellation", true),
    ] {
        let scene = Scene::new();
        scene.write("job.toml", jobs::counting("c35-int", "30ms"));
        let mut running = host::start(
            scene.path(),
            &[
                "run",
                "job.toml",
                "-D",
                &format!("checkpoint.retention={retention}"),
            ],
        );
        running.checkpoints(1);
        running.signal("INT");
        running.wait().with_code(0);
        assert_eq!(
            metadata_files(&scene) > 0,
            kept,
            "checkpoints after a cancel under {retention}"
        );
    }
}

#[test]
fn c36_after_a_sigkill_the_last_checkpoint_is_restorable_by_its_path_under_any_retention() {
    for retention in [
        "no-externalized-checkpoints",
        "delete-on-cancellation",
        "retain-on-cancellation",
    ] {
        let scene = much_text();
        scene.write("job.toml", jobs::word_count("c36"));
        let set = format!("checkpoint.retention={retention}");
        let mut running = host::start(scene.path(), &["run", "job.toml", "-D", &set]);
        running.checkpoints(2);
        running.kill().expect("killed in the middle");
        let last = scene.newest_checkpoint("c36").expect("one is kept").path;
        host::run(scene.path(), &["run", "job.toml", "-D", &set, "-s", &last])
            .with_code(0)
            .saying(&["restoring from checkpoint"]);
        assert_same_lines(
            &scene.output("out"),
            &oracle::word_count(&scene.at("input")),
            retention,
        );
    }
}

/// After many checkpoints the newest three are there, good, and nothing in their directory that none of them needs.
#[test]
fn c27_the_newest_three_checkpoints_stay_and_what_they_need() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("newest", "20ms"));
    let retained = [
        "run",
        "job.toml",
        "-D",
        "checkpoint.retained=3",
        // State in files of their own, so that there is something to share and to remove.
        "-D",
        "checkpoint.inline-threshold=0B",
    ];
    let mut running = host::start(scene.path(), &retained);
    running.checkpoints(10);
    running.signal("TERM");
    let ended = running.wait().with_code(0);
    let completed: Vec<u64> = ended.completions().iter().map(|it| it.id).collect();
    let mut kept: Vec<u64> = std::fs::read_dir(scene.at("checkpoints/newest"))
        .expect("a directory of the job")
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("chk-")?
                .parse()
                .ok()
        })
        .collect();
    kept.sort_unstable();
    assert!(completed.len() >= 10, "{completed:?}");
    assert_eq!(kept, completed[completed.len() - 3..], "{completed:?}");
    for id in kept {
        let checkpoint = format!("checkpoints/newest/chk-{id}");
        host::run(scene.path(), &["checkpoints", "verify", &checkpoint]).with_code(0);
    }
    let gc = [
        "checkpoints",
        "gc",
        "checkpoints",
        "--older-than",
        "0s",
        "--dry-run",
        "--json",
    ];
    let told = host::run(scene.path(), &gc).with_code(0);
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!(told["removed"], Value::Array(Vec::new()), "{told}");
}
