//! Checkpoints while a job runs. Conformance 19, 20, 23, 28, 29.
//!
//! When checkpoints begin and end is read from what the host says of them, so no test depends on how
//! fast a machine is.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::guests;
use crate::host::{self, Ended};
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

/// A checkpoint from its trigger to its completion, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Span {
    id: u64,
    begin: u64,
    end: u64,
}

/// When the checkpoints of a run with `--json` began and ended, in order of their numbers. All of them
/// must have been kept.
fn spans(scene: &Scene, ended: &Ended) -> Vec<Span> {
    let completed = ended.events().into_iter();
    let completed = completed.filter(|event| event["event"] == "checkpoint-completed");
    let mut spans: Vec<Span> = completed
        .map(|event| {
            let path = event["path"].as_str().expect("it is in a file");
            let show = ["checkpoints", "show", path, "--json"];
            let shown = host::run(scene.path(), &show).with_code(0).stdout;
            let shown: Value = serde_json::from_str(&shown).expect("JSON");
            let number = |value: &Value| value.as_u64().expect("a number");
            let begin = number(&shown["triggered-at"]);
            Span {
                id: number(&event["id"]),
                begin,
                end: begin + number(&event["duration-ms"]),
            }
        })
        .collect();
    spans.sort_by_key(|span| span.id);
    spans
}

/// An endless job that has taken some checkpoints with these settings.
fn taken(name: &str, count: usize, settings: &[&str]) -> Vec<Span> {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting(name, "1ms"));
    let mut arguments = vec![
        "run",
        "job.toml",
        "--json",
        "-D",
        "checkpoint.retained=1000",
    ];
    arguments.extend(settings.iter().flat_map(|setting| ["-D", setting]));
    let mut running = host::start(scene.path(), &arguments);
    running.checkpoints(count);
    running.signal("TERM");
    let spans = spans(&scene, &running.wait().with_code(0));
    assert!(spans.len() >= count, "{spans:?}");
    spans
}

/// Begin and end are rounded to milliseconds, each by itself.
const ROUNDED_MS: u64 = 2;

/// How many checkpoints were in progress at once, at most.
fn most_at_once(spans: &[Span]) -> usize {
    let begins = spans.iter().map(|span| span.begin);
    let at_once = begins.map(|begin| {
        let are_there = spans.iter().filter(|span| {
            let is_older = span.begin <= begin;
            is_older && begin + ROUNDED_MS < span.end
        });
        are_there.count()
    });
    at_once.max().unwrap_or(0)
}

/// How many runs are tried until one has had enough checkpoints in progress at once.
const RUNS: usize = 20;

#[test]
fn c19_as_many_checkpoints_are_in_progress_at_once_as_is_allowed_and_never_more() {
    for most in [1, 2] {
        let run = |most: usize| {
            let setting = format!("checkpoint.max-concurrent={most}");
            taken(&format!("c19-{most}"), 30, &[&setting])
        };
        let mut runs = 0;
        loop {
            let spans = run(most);
            let seen = most_at_once(&spans);
            assert!(seen <= most, "{seen} at once instead of {most}: {spans:?}");
            runs += 1;
            if seen == most {
                break;
            }
            assert!(runs < RUNS, "no {most} are in progress at once: {spans:?}");
        }
        // That one more would be seen.
        let more = (0..RUNS).any(|_| most_at_once(&run(4)) > most);
        assert!(more, "no {} of 4 are seen at once", most + 1);
    }
}

#[test]
fn c20_the_pause_holds_from_the_end_of_a_checkpoint_to_the_next_start() {
    const PAUSE_MS: u64 = 120;
    let spans = taken("c20-pause", 5, &["checkpoint.min-pause=120ms"]);
    for pair in spans.windows(2) {
        assert!(
            pair[1].begin + ROUNDED_MS >= pair[0].end + PAUSE_MS,
            "{pair:?}"
        );
    }
}

#[test]
fn c20_a_pause_longer_than_the_job_leaves_one_checkpoint_and_the_last() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    scene.write("job.toml", jobs::word_count("c20-long"));
    let ids = |pause: &str, more: &[&str]| -> Vec<u64> {
        let pause = format!("checkpoint.min-pause={pause}");
        let arguments = [
            "run",
            "job.toml",
            "-D",
            &pause,
            "-D",
            "checkpoint.interval=5ms",
        ];
        let ended = host::run(scene.path(), &[&arguments[..], more].concat()).with_code(0);
        ended.completions().iter().map(|it| it.id).collect()
    };
    // The last checkpoint of a job waits for no pause.
    assert_eq!(ids("1h", &[]), [1, 2]);
    let other = ["-D", "job.id=other", "-D", "sink.totals.path=other"];
    let without = ids("0s", &other);
    assert!(
        without.len() > 3,
        "the job is long enough for more: {without:?}"
    );
}

/// The numbers that an operator which counts has emitted for each key, in the order of their size.
fn updates(output: &[String]) -> BTreeMap<&str, Vec<u64>> {
    let mut updates: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for line in output {
        let (key, count) = line.split_once(',').expect("a key and its count");
        let count = count.parse().expect("a count");
        updates.entry(key).or_default().push(count);
    }
    updates
        .values_mut()
        .for_each(|counts| counts.sort_unstable());
    updates
}

#[test]
fn c29_checkpoints_continue_after_a_bounded_source_and_a_restore_does_not_read_it_again() {
    let scene = Scene::new();
    let text = oracle::verses(60);
    scene.write("input/some.txt", &text);
    // Both go through the same operator, because they have to arrive in the same form.
    let count = jobs::operator("count", "count", "words", "emit = \"every-update\"")
        .replace("input = \"words\"", "inputs = [\"words\", \"others\"]");
    let job = jobs::head("c29", "30ms")
        + jobs::VERSES
        + &jobs::split()
        + &jobs::pass("words", "split")
        + jobs::ENDLESS
        + &jobs::pass("others", "numbers")
        + &count
        + &jobs::files("updates", "count", "out", "csv");
    scene.write("job.toml", job);
    let expected = oracle::count_words(&text);
    // How often each word was counted; the keys of numbers have digits.
    let words = |scene: &Scene| -> Vec<String> {
        let output = scene.output("out");
        let mut words = Vec::new();
        for (key, counts) in updates(&output) {
            let each_once: Vec<u64> = (1..=counts.len() as u64).collect();
            assert_eq!(counts, each_once, "updates of {key}");
            if !key.contains(|letter: char| letter.is_ascii_digit()) {
                words.push(format!("{key},{}", counts.len()));
            }
        }
        words
    };
    let numbers = |scene: &Scene| scene.output("out").len();

    let mut running = host::start(scene.path(), &["run", "job.toml", "-p", "2"]);
    // The bounded source has ended when everything that it has is counted and published.
    while running.while_stopped(|| words(&scene)) != expected {
        running.checkpoints(1);
    }
    let ended = running.checkpoints(1).id;
    assert!(running.checkpoints(3).id >= ended + 3, "they continue");
    let before = running.while_stopped(|| numbers(&scene));
    running.kill().expect("an endless job is still running");

    for _ in 0..2 {
        let mut running = host::start(scene.path(), &["run", "job.toml", "-p", "2", "--resume"]);
        running
            .line_with("restoring from checkpoint")
            .expect("it resumes");
        running.checkpoints(4);
        running.signal("TERM");
        running.wait().with_code(0);
        assert_same_lines(&words(&scene), &expected, "words after a restore");
    }
    assert!(numbers(&scene) > before, "the endless source goes on");
    assert!(Path::new(&scene.at("input/some.txt")).exists());
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
