//! What the host says to a user who does something that cannot work, or that has a consequence: the message says what
//! to do.

use serde_json::Value;

use crate::host;
use crate::jobs;
use crate::oracle;
use crate::scene::Scene;

fn verses(job: String) -> Scene {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(300));
    scene.write("job.toml", job);
    scene
}

#[test]
fn latest_and_fresh_contradict_each_other() {
    let scene = verses(jobs::word_count("both"));
    host::run(
        scene.path(),
        &["run", "job.toml", "-s", "latest", "--fresh"],
    )
    .with_code(2)
    .saying(&["`-s latest`", "`--fresh`", "name a checkpoint by its path"]);
}

#[test]
fn a_name_of_flinks_that_is_not_taken_says_what_to_write() {
    let scene = verses(jobs::word_count("flink"));
    for (option, saying) in [
        (
            "parallelism.default=4",
            "write `job.parallelism` in the job file, or start with `-p`",
        ),
        (
            "taskmanager.numberOfTaskSlots=4",
            "write `job.parallelism` in the job file: each subtask is a thread of the one process",
        ),
    ] {
        host::run(scene.path(), &["check", "job.toml", "-D", option])
            .with_code(2)
            .saying(&["not taken here", saying]);
    }
}

#[test]
fn a_limit_of_state_is_named_and_little_memory_for_it_is_warned_of() {
    let scene = verses(jobs::word_count("limits"));
    host::run(
        scene.path(),
        &["run", "job.toml", "-D", "operator.count.limits.state=2KiB"],
    )
    .with_code(1)
    .saying(&["state is limited to 2.0 KiB for each subtask by `limits.state`"]);
    let little = [
        "run",
        "job.toml",
        "--fresh",
        "-D",
        "operator.count.limits.state-memory=64KiB",
    ];
    host::run(scene.path(), &little).with_code(0).saying(&[
        "warning: operator.count.limits.state-memory",
        "1.0 MiB or more",
    ]);
}

#[test]
fn a_cancelled_job_says_what_became_of_its_checkpoints() {
    for (retention, saying) in [
        (
            "no-externalized-checkpoints",
            "no checkpoint was kept, as `checkpoint.retention` says",
        ),
        ("retain-on-cancellation", "resume with: host run"),
    ] {
        let scene = Scene::new();
        scene.write("job.toml", jobs::counting("cancelled", "20ms"));
        let retention = format!("checkpoint.retention={retention}");
        let mut running = host::start(scene.path(), &["run", "job.toml", "-D", &retention]);
        running.checkpoints(1);
        running.signal("INT");
        running
            .wait()
            .with_code(0)
            .saying(&["job cancelled", saying]);
    }
}

#[test]
fn a_job_that_had_finished_says_so_to_programs() {
    let scene = verses(jobs::word_count("already"));
    for already in [Value::Null, Value::from(true)] {
        let ended =
            host::run(scene.path(), &["run", "job.toml", "--resume", "--json"]).with_code(0);
        let events = ended.events();
        let last = events.last().expect("a last event");
        assert_eq!(last["event"], "finished");
        assert_eq!(last["already"], already);
    }
}
