//! Checkpoints that fail, and what is reported to users and programs. Conformance 20, 21, 26, 31, 40, 41, 52.

use std::fs;

use serde_json::Value;

use crate::guests;
use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{Scene, visible_files};

/// The events with this name that a run with `--json` told.
fn events(ended: &Ended, name: &str) -> Vec<Value> {
    let lines = ended.stdout.lines();
    lines
        .map(|line| serde_json::from_str::<Value>(line).expect("every line is JSON"))
        .filter(|event| event["event"] == name)
        .collect()
}

/// An endless job that counts into files.
fn endless(name: &str) -> String {
    jobs::head(name, "30ms")
        + jobs::ENDLESS
        + &jobs::operator("count", "count", "numbers", "emit = \"every-update\"")
        + &jobs::files("updates", "count", "out", "csv")
}

#[test]
fn c20_a_signal_takes_a_checkpoint_at_once_whatever_interval_and_pause() {
    let scene = Scene::new();
    scene.write("job.toml", endless("c20"));
    let mut running = host::start(
        scene.path(),
        &[
            "run",
            "job.toml",
            "-D",
            "checkpoint.interval=1h",
            "-D",
            "checkpoint.min-pause=1h",
        ],
    );
    running.line_with("started").expect("the job starts");
    for id in 1..=3 {
        running.signal("USR1");
        assert_eq!(running.checkpoints(1).id, id);
    }
    running.kill().expect("an endless job is still running");
}

#[test]
fn c20_what_a_signal_asks_for_does_not_wait_for_the_pause_after_another() {
    let scene = Scene::new();
    scene.write("job.toml", endless("c20-signal"));
    let settings = [
        "-D",
        "checkpoint.interval=20ms",
        "-D",
        "checkpoint.min-pause=1h",
    ];
    let mut running = host::start(
        scene.path(),
        &[&["run", "job.toml"], &settings[..]].concat(),
    );
    // The first comes by itself, and every other one would have to wait for an hour.
    assert_eq!(running.checkpoints(1).id, 1);
    for id in 2..=4 {
        running.signal("USR1");
        assert_eq!(running.checkpoints(1).id, id);
    }
    running.signal("TERM");
    let ended = running.wait().with_code(0);
    assert_eq!(ended.completions().len(), 4, "{}", ended.transcript());
}

#[test]
fn c26_output_of_a_checkpoint_that_failed_is_committed_with_the_next() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    let job = jobs::head("c26", "30ms")
        + jobs::VERSES
        + &jobs::split()
        + &jobs::keys("words", "split", "out");
    scene.write("job.toml", job);
    let mut running = host::start(
        scene.path(),
        &[
            "run",
            "job.toml",
            "--json",
            "-D",
            "job.id=c26-job",
            "-D",
            "checkpoint.tolerable-failures=1",
        ],
    );
    let first = running.checkpoints(1);
    // Something stands where a later one wants to be complete.
    let taken = first.id + 2;
    scene.write(
        &format!("checkpoints/c26-job/chk-{taken}/_metadata"),
        "somebody else's",
    );
    let ended = running.wait().with_code(0);
    let failed = events(&ended, "checkpoint-failed");
    assert_eq!(failed.len(), 1, "{}", ended.transcript());
    assert_eq!(failed[0]["id"], taken);
    assert_eq!(failed[0]["kind"], "metadata-failed");
    assert_eq!(failed[0]["counts"], true);
    assert!(events(&ended, "restarted").is_empty());
    let completed = ended.completions();
    assert!(completed.iter().all(|completion| completion.id != taken));
    assert!(completed.iter().any(|completion| completion.id > taken));
    assert_same_lines(
        &oracle::count_keys(&scene.at("out")),
        &oracle::word_count(&scene.at("input")),
        "words, each once",
    );
}

#[test]
fn c31_a_job_whose_last_checkpoint_cannot_be_taken_fails_and_commits_nothing() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(500));
    // No periodic checkpoint falls into such a short run.
    let job = jobs::word_count("c31").replace("\"30ms\"", "\"1h\"");
    scene.write("job.toml", job.replace("attempts = 3", "attempts = 1"));
    // Nobody can write into a directory that is a file.
    fs::create_dir_all(scene.at("checkpoints/c31-job")).expect("directories can be made");
    fs::write(scene.at("checkpoints/c31-job/chk-1"), "in the way").expect("a file");
    fs::write(scene.at("checkpoints/c31-job/chk-2"), "in the way").expect("a file");
    let ended = host::run(scene.path(), &["run", "job.toml", "-D", "job.id=c31-job"])
        .with_code(1)
        .saying(&[
            "it finishes the job, and is taken again",
            "restart 1 ",
            "chk-2",
        ]);
    assert!(ended.completions().is_empty());
    assert!(visible_files(&scene.at("out")).is_empty());
}

#[test]
fn c21_programs_read_where_the_time_of_a_checkpoint_went() {
    let scene = Scene::new();
    scene.write("job.toml", endless("c21"));
    let mut running = host::start(scene.path(), &["run", "job.toml", "--json", "-p", "2"]);
    running.checkpoints(3);
    let ended = running.kill().expect("an endless job is still running");
    for event in events(&ended, "checkpoint-completed") {
        let phases = &event["phases"];
        for phase in ["start-delay", "alignment", "snapshot", "upload"] {
            assert!(phases[phase]["us"].is_u64(), "{event}");
            let operator = phases[phase]["operator"].as_str();
            assert!(matches!(operator, Some("numbers" | "count")), "{event}");
        }
        assert!(phases["metadata-us"].as_u64() > Some(0), "{event}");
        assert!(event["bytes"].as_u64() > Some(0), "{event}");
    }
}

/// A job killed in the middle; the next run is from its latest checkpoint.
fn killed(name: &str) -> Scene {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    scene.write("job.toml", jobs::word_count(name));
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(2);
    running.kill().expect("killed in the middle");
    scene
}

#[test]
fn c40_state_without_an_operator_is_refused_and_dropped_with_a_word() {
    let scene = killed("c40");
    let job = jobs::head("c40", "30ms")
        + jobs::VERSES
        + &jobs::split()
        + &jobs::files("totals", "split", "out", "lines");
    scene.write("job.toml", job);
    let output = scene.output("out");
    host::run(scene.path(), &["run", "job.toml", "-s", "latest"])
        .with_code(2)
        .saying(&[
            "operator `count` is not in the job",
            "bytes of its state",
            "`-n`",
        ])
        .without_panic();
    assert_eq!(scene.output("out"), output, "nothing was processed");
    let ended = host::run(
        scene.path(),
        &["run", "job.toml", "-s", "latest", "-n", "--json"],
    )
    .with_code(0);
    let restored = events(&ended, "restored");
    let [restored] = restored.as_slice() else {
        panic!("one report: {}", ended.transcript())
    };
    let report = restored["report"].as_array().expect("a list");
    let of = |operator: &str| {
        let entry = report.iter().find(|entry| entry["operator"] == operator);
        entry.unwrap_or_else(|| panic!("{operator} in {restored}"))
    };
    assert_eq!(of("count")["verdict"], "dropped");
    assert!(of("count")["bytes"].as_u64() > Some(0), "{restored}");
    assert_eq!(of("verses")["verdict"], "continues");
    assert!(of("verses")["position"].is_string(), "{restored}");
    assert_eq!(of("totals")["verdict"], "commits");
    let first = ended.stdout.lines().next().unwrap_or_default();
    assert!(
        first.contains("restored"),
        "the report comes first: {first}"
    );
}

#[test]
fn c41_a_new_operator_starts_empty_and_a_renamed_one_is_told_twice() {
    let scene = killed("c41");
    let job = fs::read_to_string(scene.at("job.toml")).expect("a job");
    let renamed = job
        .replace("id = \"count\"", "id = \"tally\"")
        .replace("input = \"count\"", "input = \"tally\"");
    scene.write("job.toml", renamed);
    host::run(scene.path(), &["run", "job.toml", "-s", "latest"])
        .with_code(2)
        .saying(&[
            "operator `count` is not in the job",
            "`tally` is new and would start empty, was it renamed?",
        ])
        .without_panic();
    host::run(scene.path(), &["run", "job.toml", "-s", "latest", "-n"])
        .with_code(0)
        .saying(&[
            "`tally` is not in the checkpoint and starts empty",
            "`count` is not in the job: its",
        ]);
}

#[test]
fn c52_each_strategy_restarts_as_often_as_it_says() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(200));
    let job = guests::word_count_with_a_trap(&scene, "c52", guests::Trap::Always);
    for (strategy, restarts, reason) in [
        ("strategy = \"none\"\n", 0, "restart strategy is none"),
        (
            "strategy = \"fixed-delay\"\nattempts = 2\ndelay = \"1ms\"\n",
            2,
            "fixed-delay allows 2 attempts",
        ),
        (
            "strategy = \"exponential-delay\"\ninitial-backoff = \"1ms\"\nmax-backoff = \"4ms\"\nattempts-before-reset-backoff = 4\n",
            4,
            "exponential-delay allows 4 attempts",
        ),
        (
            "strategy = \"failure-rate\"\nmax-failures-per-interval = 3\nfailure-rate-interval = \"1h\"\ndelay = \"1ms\"\n",
            3,
            "failure-rate allows 3 failures",
        ),
    ] {
        let section = format!("[restart]\n{strategy}\n");
        scene.write("job.toml", job.replace(jobs::RESTART, &section));
        let ended = host::run(scene.path(), &["run", "job.toml", "--json"])
            .with_code(1)
            .saying(&[reason]);
        let told = events(&ended, "restarted");
        assert_eq!(told.len(), restarts, "{strategy}");
        assert_eq!(events(&ended, "failed").len(), 1, "{strategy}");
    }
}
