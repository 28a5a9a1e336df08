//! What is left of a job that ended, and how it can be ended. Conformance 35, 36.

use crate::host;
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{Scene, all_files};

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
        scene.write(
            "job.toml",
            jobs::head("c35-int", "100ms")
                + jobs::ENDLESS
                + &jobs::count("numbers")
                + &jobs::discard("nowhere", "count"),
        );
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
        let ended = running.kill().expect("killed in the middle");
        let last = ended.completions().pop().expect("two were completed");
        host::run(
            scene.path(),
            &["run", "job.toml", "-D", &set, "-s", &last.path],
        )
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
        assert_same_lines(
            &scene.output("out"),
            &oracle::word_count(&scene.at("input")),
            retention,
        );
    }
}
