//! Where checkpoints are kept, and what they consist of. Conformance 1–4, 6, 16, 18.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::host;
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{Scene, all_files};

/// A scene with some verses, small enough to be counted at once.
fn few_verses() -> Scene {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(500));
    scene
}

/// The job directories below a checkpoint directory.
fn job_directories(checkpoints: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(checkpoints)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", checkpoints.display()));
    entries
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.is_dir())
        .collect()
}

#[test]
fn c01_without_storage_and_dir_checkpoints_are_in_memory() {
    let scene = few_verses();
    let job = jobs::word_count("c01").replace("dir = \"checkpoints\"\n", "");
    scene.write("job.toml", job);
    let ended = host::run(scene.path(), &["run", "job.toml"])
        .with_code(0)
        .saying(&["memory"]);
    assert!(
        !ended.completions().is_empty(),
        "the checkpoint at the end is taken all the same"
    );
    let names: Vec<String> = all_files(scene.path())
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name.contains("_metadata") || name.contains("chk-")),
        "checkpoint files in {names:#?}"
    );
}

#[test]
fn c02_with_a_dir_checkpoints_are_in_its_filesystem() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("c02", "30ms"));
    let mut running = host::start(
        scene.path(),
        &[
            "run",
            "job.toml",
            "-D",
            "job.id=c02-job",
            "-D",
            "checkpoint.retained=100",
        ],
    );
    let first = running.checkpoints(1);
    assert_eq!(first.id, 1);
    let directory = scene.at("checkpoints/c02-job");
    assert!(directory.join("chk-1/_metadata").is_file());
    assert!(directory.join("shared").is_dir());
    assert!(directory.join("taskowned").is_dir());
    assert!(
        first.path.contains("checkpoints/c02-job/chk-1"),
        "the line tells the path: {first:?}"
    );
    running.kill().expect("an endless job is still running");
}

#[test]
fn c03_filesystem_storage_without_a_dir_is_refused() {
    let scene = few_verses();
    let job = jobs::word_count("c03").replace("dir = \"checkpoints\"", "storage = \"filesystem\"");
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(2)
        .saying(&["checkpoint.dir"])
        .without_panic();
}

#[test]
fn c04_dir_is_an_absolute_or_relative_path_or_a_file_url() {
    let scene = few_verses();
    let elsewhere = Scene::new();
    let absolute = scene.at("absolute").display().to_string();
    let url = format!("file://{}", scene.at("by-url").display());
    for (dir, place) in [
        (absolute.as_str(), "absolute"),
        ("below/the/job-file", "below/the/job-file"),
        (url.as_str(), "by-url"),
    ] {
        scene.write(
            "job.toml",
            jobs::word_count("c04").replace("\"checkpoints\"", &format!("{dir:?}")),
        );
        // From another directory, so that a relative path can only be relative to the job file.
        let job = scene.at("job.toml").display().to_string();
        let ended = host::run(
            elsewhere.path(),
            &["run", &job, "-D", "checkpoint.retain-on-finish=true"],
        )
        .with_code(0);
        let last = ended.completions().pop().expect("a checkpoint at the end");
        let metadata: Vec<_> = all_files(&scene.at(place))
            .into_iter()
            .filter(|path| path.ends_with("_metadata"))
            .collect();
        assert!(
            !metadata.is_empty(),
            "no checkpoint in {place}, the host said {}",
            last.path
        );
    }
    assert!(
        all_files(elsewhere.path()).is_empty(),
        "nothing is written into the current directory"
    );
}

#[test]
fn c04_an_unknown_scheme_or_the_root_of_a_file_system_is_refused() {
    for dir in ["ftp://example.com/checkpoints", "/", "file:///"] {
        let scene = few_verses();
        scene.write(
            "job.toml",
            jobs::word_count("c04").replace("\"checkpoints\"", &format!("{dir:?}")),
        );
        host::run(scene.path(), &["run", "job.toml"])
            .with_code(2)
            .saying(&["checkpoint.dir"])
            .without_panic();
    }
}

#[test]
fn c06_an_operator_that_never_wrote_state_is_not_missed() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    let job = jobs::word_count("c06");
    // No word is that long: `idle` never gets a record.
    let idle = jobs::operator("barren", "split", "verses", "min-length = 1000")
        + &jobs::operator("idle", "count", "barren", "emit = \"final\"")
        + &jobs::discard("nowhere", "idle");
    scene.write("with.toml", job.clone() + &idle);
    scene.write("without.toml", job);
    let mut running = host::start(scene.path(), &["run", "with.toml"]);
    running.checkpoints(2);
    running.kill().expect("killed in the middle");
    host::run(scene.path(), &["run", "without.toml", "-s", "latest"])
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output without the idle operator",
    );
}

#[test]
fn c16_a_job_directory_restores_from_wherever_it_was_moved() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    scene.write("job.toml", jobs::word_count("c16"));
    let files = ["-D", "checkpoint.inline-threshold=0B"];
    let run = [&["run", "job.toml", "-D", "job.id=c16-job"], &files[..]].concat();
    let mut running = host::start(scene.path(), &run);
    let last = running.checkpoints(2);
    running.kill().expect("killed in the middle");

    let shared = all_files(&scene.at("checkpoints/c16-job/shared"));
    assert!(!shared.is_empty(), "it refers to files outside of itself");
    let moved = scene.at("moved/elsewhere");
    fs::create_dir_all(moved.parent().expect("it has one")).expect("directories can be made");
    fs::rename(scene.at("checkpoints/c16-job"), &moved).expect("a directory can be moved");
    assert!(!Path::new(&last.path).exists(), "the old place is gone");
    let moved = moved.display().to_string();
    host::run(scene.path(), &["run", "job.toml", "-s", &moved])
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output after the move",
    );
}

/// The files that a checkpoint refers to, by the names that it has for them.
fn references(scene: &Scene, path: &str) -> Vec<String> {
    let shown = host::run(scene.path(), &["checkpoints", "show", path, "--json"]).with_code(0);
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let list = |value: &Value, field: &str| value[field].as_array().expect("a list").clone();
    list(&shown, "operators")
        .iter()
        .flat_map(|operator| list(operator, "subtasks"))
        .flat_map(|subtask| list(&subtask, "segments"))
        .filter_map(|segment| segment["file"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn c16_the_directory_of_a_full_checkpoint_restores_alone_and_one_that_leans_on_others_says_what_it_lacks()
 {
    for (incremental, alone) in [("false", true), ("true", false)] {
        let scene = Scene::new();
        scene.input(&oracle::bible(), 12, "txt");
        scene.write("job.toml", jobs::word_count("c16-alone"));
        let setting = format!("checkpoint.incremental={incremental}");
        let run = [
            "run",
            "job.toml",
            "-D",
            "checkpoint.inline-threshold=0B",
            "-D",
            &setting,
        ];
        let mut running = host::start(scene.path(), &run);
        running.checkpoints(3);
        running.signal("TERM");
        let last = running.wait().with_code(0).completions().pop();
        let last = last.expect("three are complete");
        let files = references(&scene, &last.path);
        assert!(
            !files.is_empty() && files.iter().all(|file| !file.starts_with('/')),
            "{files:?}"
        );
        assert_eq!(
            files.iter().all(|file| !file.contains('/')),
            alone,
            "{files:?}"
        );

        // Nothing is left but the checkpoint's own directory, at another place and under another name.
        let moved = scene.at("backup/of-today");
        fs::create_dir_all(moved.parent().expect("it has one")).expect("directories can be made");
        let chk = Path::new(&last.path)
            .parent()
            .expect("it is in its directory");
        fs::rename(chk, &moved).expect("a directory can be moved");
        fs::remove_dir_all(scene.at("checkpoints")).expect("a directory can be removed");
        let from = [
            "run",
            "job.toml",
            "-D",
            "checkpoint.dir=fresh",
            "-s",
            "backup/of-today",
        ];
        let ended = host::run(scene.path(), &from);
        if alone {
            ended
                .with_code(0)
                .saying(&["restoring from checkpoint", "of-today"]);
            assert_same_lines(
                &scene.output("out"),
                &oracle::word_count(&scene.at("input")),
                "output of a checkpoint that was moved alone",
            );
        } else {
            let lacking = files.iter().find_map(|file| file.rsplit_once('/'));
            let (_, lacking) = lacking.expect("a file of others");
            ended.with_code(3).saying(&[lacking]).without_panic();
            assert!(scene.output("out").is_empty(), "nothing was processed");
        }
    }
}

#[test]
fn c18_a_checkpoint_of_a_small_job_is_at_most_three_objects() {
    let scene = few_verses();
    scene.write("job.toml", jobs::word_count("c18"));
    host::run(
        scene.path(),
        &[
            "run",
            "job.toml",
            "-p",
            "4",
            "-D",
            "job.id=c18-job",
            "-D",
            "checkpoint.retain-on-finish=true",
        ],
    )
    .with_code(0);
    let directories = job_directories(&scene.at("checkpoints"));
    assert_eq!(
        directories.len(),
        1,
        "one job, one directory: {directories:?}"
    );
    let directory = &directories[0];
    let mut checkpoint_count = 0;
    for entry in fs::read_dir(directory)
        .expect("a readable directory")
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with("chk-") {
            checkpoint_count += 1;
        }
    }
    assert_eq!(checkpoint_count, 1, "`retained` is 1");
    let objects: Vec<_> = all_files(directory)
        .into_iter()
        .filter(|path| is_of_a_checkpoint(directory, path))
        .collect();
    assert!((1..=3).contains(&objects.len()), "{objects:#?}");
}

/// Whether a file belongs to a checkpoint: it is in `chk-N` or in `shared`.
fn is_of_a_checkpoint(job: &Path, file: &Path) -> bool {
    let within = file.strip_prefix(job).expect("it was found there");
    let first = within
        .components()
        .next()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .unwrap_or_default();
    first == "shared" || first.starts_with("chk-")
}
