//! Checkpoints while a job runs. Conformance 19, 23, 28.

use crate::guests;
use crate::host;
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{Scene, all_files};

#[test]
fn c19_checkpoints_have_the_ids_1_2_3_one_after_the_other() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("c19", "200ms"));
    let mut running = host::start(scene.path(), &["run", "job.toml", "-p", "2"]);
    for expected in 1..=10 {
        assert_eq!(running.checkpoints(1).id, expected);
    }
    running.kill().expect("an endless job is still running");
}

#[test]
fn c23_a_trap_in_process_restarts_the_job_from_the_last_checkpoint() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    scene.write(
        "job.toml",
        guests::word_count_with_a_trap(&scene, "c23", guests::Trap::Once),
    );
    let ended = host::run(scene.path(), &["run", "job.toml", "-p", "2"])
        .with_code(0)
        .saying(&["restart", "faulty"]);
    assert!(guests::has_trapped(&scene), "the operator trapped");
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output after a trap",
    );
    let before = ended.stderr.split("restart 1 ").next().unwrap_or_default();
    assert!(
        before.contains("completed in"),
        "there was a checkpoint before the trap:\n{}",
        ended.transcript()
    );
    let ids: Vec<u64> = ended
        .completions()
        .iter()
        .map(|completion| completion.id)
        .collect();
    assert!(
        ids.is_sorted_by(|one, next| one < next),
        "no id is used twice: {ids:?}"
    );
}

#[test]
fn c28_a_bounded_job_ends_with_one_checkpoint_that_commits_everything() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(2000));
    // No periodic checkpoint falls into such a short run.
    scene.write(
        "job.toml",
        jobs::word_count("c28").replace("\"30ms\"", "\"1h\""),
    );
    let ended = host::run(scene.path(), &["run", "job.toml", "-p", "2"])
        .with_code(0)
        .saying(&["finished"]);
    let ids: Vec<u64> = ended
        .completions()
        .iter()
        .map(|completion| completion.id)
        .collect();
    assert_eq!(ids, [1], "the final checkpoint and no other");
    assert_same_lines(
        &scene.output("out"),
        &oracle::count_words(&oracle::verses(2000)),
        "committed output",
    );
    let hidden: Vec<_> = all_files(&scene.at("out"))
        .into_iter()
        .filter(|file| !crate::scene::visible_files(&scene.at("out")).contains(file))
        .collect();
    assert!(hidden.is_empty(), "uncommitted files are left: {hidden:?}");
}

#[test]
fn c28_a_bounded_job_without_periodic_checkpoints_commits_its_output() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(200));
    let job = jobs::word_count("c28-without")
        .replace("interval = \"30ms\"\n", "")
        .replace("dir = \"checkpoints\"\n", "");
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    assert_same_lines(
        &scene.output("out"),
        &oracle::count_words(&oracle::verses(200)),
        "committed output",
    );
}
