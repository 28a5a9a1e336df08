//! State larger than memory: what does not fit its budget is in scratch files, and nobody can tell
//! from output or checkpoints.

use std::fs::File;
use std::path::PathBuf;

use crate::failures;
use crate::host;
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{Scene, all_files};

/// Word count with next to no memory for its state: after each batch nearly all words are on disk.
fn word_count(name: &str) -> String {
    let job = jobs::word_count(name).replace("\"30ms\"", "\"25ms\"");
    let job = job.replace("[job]\n", "[job]\nscratch-dir = \"scratch\"\n");
    let config = "config = { emit = \"final\" }";
    assert!(job.contains(config), "{job}");
    job.replace(
        config,
        &format!("{config}\nlimits = {{ state-memory = \"1KiB\" }}"),
    )
}

/// Scratch files that something was written to.
pub(crate) fn written(scene: &Scene) -> Vec<PathBuf> {
    let has_bytes = |path: &PathBuf| path.metadata().is_ok_and(|found| found.len() > 0);
    let files = all_files(&scene.at("scratch"));
    files.into_iter().filter(has_bytes).collect()
}

fn directories(scene: &Scene) -> usize {
    let places = std::fs::read_dir(scene.at("scratch")).into_iter().flatten();
    let inside = places
        .flatten()
        .flat_map(|place| std::fs::read_dir(place.path()));
    // But for the marker of the place.
    inside
        .flatten()
        .flatten()
        .filter(|it| it.path().is_dir())
        .count()
}

#[test]
fn a_job_whose_state_is_on_disk_gives_the_same_output_killed_and_rescaled() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 6, "txt");
    scene.write("job.toml", word_count("cold"));
    let mut on_disk = 0;
    for parallelism in ["1", "3", "2", "1"] {
        let mut running = host::start(
            scene.path(),
            &["run", "job.toml", "--resume", "-p", parallelism],
        );
        running.checkpoints(2);
        running.while_stopped(|| {
            on_disk += written(&scene).len();
            let subtasks: usize = parallelism.parse().expect("a number");
            assert_eq!(directories(&scene), subtasks, "of this run and no other");
        });
        running.kill().expect("there is input for longer");
    }
    assert!(on_disk >= 4, "{on_disk} files were written to");
    assert!(directories(&scene) > 0, "the last run was killed");
    host::run(scene.path(), &["run", "job.toml", "--resume", "-p", "2"]).with_code(0);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output with state on disk",
    );
    assert_eq!(directories(&scene), 0, "nothing is left behind");
}

#[test]
fn a_damaged_scratch_file_ends_the_attempt_and_the_next_one_restores() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 6, "txt");
    scene.write("job.toml", word_count("damaged"));
    let mut running = host::start(scene.path(), &["run", "job.toml", "--json"]);
    let mut damaged = 0;
    while damaged == 0 {
        running.event("checkpoint-completed");
        running.while_stopped(|| {
            for path in written(&scene) {
                let file = File::options().write(true).open(&path).expect("a file");
                file.set_len(0).expect("a file can be cut");
                damaged += 1;
            }
        });
    }
    let restarted = running.event("restarted");
    let cause = restarted["cause"].as_str().expect("words");
    for expected in ["operator `count`", "reading", "scratch/highwater-"] {
        assert!(cause.contains(expected), "{cause}");
    }
    assert!(restarted["from"].is_number(), "{restarted}");
    running.wait().with_code(0);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output after scratch files were damaged",
    );
    assert_eq!(directories(&scene), 0, "nothing is left behind");
}

#[test]
fn a_full_scratch_disk_ends_the_job_and_is_named() {
    let scene = Scene::new();
    // Some 20 MB of keys and counts on a disk of 4 MiB.
    let job = jobs::counting("full", "1h").replace("[job]\n", "[job]\nscratch-dir = \"scratch\"\n");
    let config = "config = { emit = \"final\" }";
    let limits = format!("{config}\nlimits = {{ state-memory = \"64KiB\" }}");
    scene.write("job.toml", job.replace(config, &limits));
    let arguments = [
        ["run", "job.toml", "-D", "source.numbers.keys=300000"].as_slice(),
        &["-D", "source.numbers.rate=1000000"],
        &["-D", "source.numbers.distribution=sequential"],
    ]
    .concat();
    let running = failures::on_a_small_disk(&scene, "scratch", &arguments);
    running.wait().with_code(1).without_panic().saying(&[
        "operator `count` subtask 0",
        "No space left on device",
        "scratch/highwater-",
        "`job.scratch-dir`",
    ]);
}

#[test]
fn the_budget_and_the_scratch_directory_are_part_of_the_effective_job() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(10));
    scene.write("job.toml", word_count("effective"));
    let shown = host::run(scene.path(), &["check", "job.toml"]).with_code(0);
    let scratch = format!("scratch-dir = {:?}", scene.at("scratch"));
    for expected in [scratch.as_str(), "state-memory = \"1KiB\""] {
        assert!(shown.stdout.contains(expected), "{}", shown.transcript());
    }
    scene.write("scratch", b"no directory");
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(2)
        .without_panic()
        .saying(&["no place for cold state", "scratch", "`job.scratch-dir`"]);
}
