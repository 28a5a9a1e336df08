//! `host checkpoints`: any directory can be looked at, without its job.

use crate::host;
use crate::jobs;
use crate::oracle;
use crate::scene::{Scene, all_files};

#[test]
fn checkpoints_are_listed_shown_and_verified() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(300));
    scene.write("job.toml", jobs::word_count("inspected"));
    let arguments = [
        "run",
        "job.toml",
        "-D",
        "job.id=inspected-job",
        "-D",
        "checkpoint.retain-on-finish=true",
        "-D",
        "checkpoint.inline-threshold=0B",
    ];
    let last = host::run(scene.path(), &arguments)
        .with_code(0)
        .completions()
        .pop()
        .expect("a checkpoint at the end");

    let list = host::run(scene.path(), &["checkpoints", "list", "checkpoints"]).with_code(0);
    assert!(list.stdout.contains("inspected"), "{}", list.transcript());
    let show = host::run(scene.path(), &["checkpoints", "show", &last.path]).with_code(0);
    for id in ["verses", "split", "count", "totals"] {
        assert!(
            show.stdout.contains(id),
            "`{id}` is not shown:\n{}",
            show.transcript()
        );
    }
    host::run(scene.path(), &["checkpoints", "verify", "checkpoints"]).with_code(0);

    // One flipped bit in the state, and it is found.
    let files = all_files(&scene.at("checkpoints/inspected-job"));
    let state = files
        .iter()
        .find(|file| {
            file.extension()
                .is_some_and(|extension| extension == "state")
        })
        .expect("state in a file of its own");
    let mut bytes = std::fs::read(state).expect("a readable file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(state, bytes).expect("a file can be written");
    let name = state
        .file_name()
        .expect("a file has a name")
        .to_string_lossy()
        .into_owned();
    let verify = host::run(scene.path(), &["checkpoints", "verify", "checkpoints"]).with_code(3);
    assert!(
        verify.transcript().contains(&name),
        "{name} is not named:\n{}",
        verify.transcript()
    );
}

/// Emptiness has a reason.
#[test]
fn a_list_without_checkpoints_says_why() {
    let scene = Scene::new();
    scene.write("jobs/somebody/notes.txt", "");
    let told = host::run(scene.path(), &["checkpoints", "list", "jobs"]).with_code(0);
    assert!(
        told.stdout
            .starts_with("no checkpoints in jobs; a job that has finished"),
        "{}",
        told.transcript()
    );
}
