//! What the host says: before a restore, of a checkpoint that is damaged or cannot be read, of a place
//! that has none, and of each restart. Conformance 14, 15, 37, 40, 41, 52, 56.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{Scene, all_files};

/// A word-count job that was interrupted, with three checkpoints whose state is in files.
struct Interrupted {
    scene: Scene,
    /// Its directory.
    job: PathBuf,
    /// The numbers of its checkpoints, newest first.
    kept: Vec<u64>,
}

impl Interrupted {
    fn new(name: &str, job: &str) -> Self {
        let scene = Scene::new();
        scene.input(&oracle::bible(), 12, "txt");
        scene.write("job.toml", job.replace("c00", name));
        let options = [
            [
                "run",
                "job.toml",
                "-D",
                "job.id=j",
                "-D",
                "checkpoint.retained=3",
            ]
            .as_slice(),
            &[
                "-D",
                "checkpoint.inline-threshold=0B",
                "-D",
                "checkpoint.incremental=false",
            ],
        ]
        .concat();
        let mut running = host::start(scene.path(), &options);
        running.checkpoints(4);
        running.kill().expect("killed in the middle");
        let job = scene.at("checkpoints/j");
        let mut kept: Vec<u64> = fs::read_dir(&job)
            .expect("the job's directory")
            .flatten()
            .filter(|entry| entry.path().join("_metadata").is_file())
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .strip_prefix("chk-")?
                    .parse()
                    .ok()
            })
            .collect();
        kept.sort_by_key(|id| std::cmp::Reverse(*id));
        assert!(kept.len() >= 3, "{kept:?}");
        Self { scene, job, kept }
    }

    fn metadata(&self, id: u64) -> PathBuf {
        self.job.join(format!("chk-{id}/_metadata"))
    }

    /// A data file of this checkpoint.
    fn data(&self, id: u64) -> PathBuf {
        let files = all_files(&self.job.join(format!("chk-{id}")));
        let data = files.into_iter().find(|file| !file.ends_with("_metadata"));
        data.expect("its state is in a file")
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        host::run(
            self.scene.path(),
            &[&["run", "job.toml", "-D", "job.id=j"], arguments].concat(),
        )
    }

    fn assert_untouched(&self) {
        assert!(
            self.scene.output("out").is_empty(),
            "no record was processed"
        );
    }

    fn assert_totals(&self, what: &str) {
        let expected = oracle::word_count(&self.scene.at("input"));
        assert_same_lines(&self.scene.output("out"), &expected, what);
    }
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).expect("a readable file");
    change(&mut bytes);
    fs::write(file, bytes).expect("a file can be written");
}

fn flip_a_bit(file: &Path) {
    change(file, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
    });
}

#[test]
fn c14_a_flipped_bit_is_found_before_any_record_and_an_older_checkpoint_steps_in() {
    for in_metadata in [false, true] {
        let interrupted = Interrupted::new("c14", &jobs::word_count("c00"));
        let newest = interrupted.kept[0];
        let damaged = match in_metadata {
            true => interrupted.metadata(newest),
            false => interrupted.data(newest),
        };
        flip_a_bit(&damaged);
        let named = damaged.display().to_string();
        let told = interrupted
            .run(&["-s", "latest"])
            .with_code(3)
            .without_panic();
        let told = told.saying(&[&named, "bytes", "--fallback"]);
        assert!(!told.stderr.contains("` started"), "{}", told.transcript());
        interrupted.assert_untouched();
        // The next one back is damaged as well: the third steps in.
        flip_a_bit(&interrupted.metadata(interrupted.kept[1]));
        let from = format!("restoring from checkpoint {}", interrupted.kept[2]);
        interrupted
            .run(&["-s", "latest", "--fallback"])
            .with_code(0)
            .saying(&[
                &named,
                &format!("chk-{}", interrupted.kept[1]),
                "corrupt",
                &from,
            ]);
        interrupted.assert_totals("output after falling back twice");
    }
}

#[test]
fn c14_when_nothing_is_good_there_is_nothing_to_fall_back_to() {
    let interrupted = Interrupted::new("c14-none", &jobs::word_count("c00"));
    for id in &interrupted.kept {
        flip_a_bit(&interrupted.metadata(*id));
    }
    interrupted
        .run(&["-s", "latest", "--fallback"])
        .with_code(3)
        .without_panic();
    // A service that resumes by itself must not take damage for a fresh start.
    interrupted.run(&["--resume"]).with_code(3).without_panic();
    interrupted.assert_untouched();
}

#[test]
fn c15_truncated_foreign_and_future_metadata_are_told_apart() {
    let interrupted = Interrupted::new("c15", &jobs::word_count("c00"));
    let metadata = interrupted.metadata(interrupted.kept[0]);
    let whole = fs::read(&metadata).expect("a readable file");
    let mut told = Vec::new();
    type Damage = fn(&mut Vec<u8>);
    let cases: [(Damage, i32); 3] = [
        (|bytes| bytes.truncate(bytes.len() / 2), 3),
        (|bytes| bytes[0] ^= 0xff, 3),
        // The version stands after the magic of eight bytes.
        (
            |bytes| bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes()),
            2,
        ),
    ];
    for (damage, code) in cases {
        fs::write(&metadata, &whole).expect("a file can be written");
        change(&metadata, damage);
        let path = metadata.display().to_string();
        let ended = interrupted
            .run(&["-s", &path])
            .with_code(code)
            .saying(&[&path])
            .without_panic();
        told.push(ended.stderr);
    }
    told.dedup();
    assert_eq!(told.len(), 3, "three distinct messages: {told:#?}");
    interrupted.assert_untouched();
}

#[test]
fn c37_each_refusal_says_what_is_wrong_and_what_is_near() {
    let interrupted = Interrupted::new("c37-near", &jobs::word_count("c00"));
    let scene = &interrupted.scene;
    scene.write("empty/readme", "no checkpoint here");
    let near = format!("checkpoints/j/chk-{}", interrupted.kept[0]);
    let cases = [
        ("checkpoints/j/chk-9999", vec!["does not exist", &near]),
        (
            "checkpoints/j/shared",
            vec!["no completed checkpoint in", &near],
        ),
        ("nowhere", vec!["does not exist"]),
        ("empty", vec!["no completed checkpoint in"]),
        ("gopher://example.com/chk-1", vec!["gopher"]),
        ("", vec!["is empty"]),
    ];
    for (way, texts) in cases {
        interrupted
            .run(&["-s", way])
            .with_code(2)
            .saying(&texts)
            .without_panic();
    }
    interrupted.assert_untouched();
}

#[test]
fn c37_no_two_refusals_are_alike_and_each_names_the_candidates_that_exist() {
    let interrupted = Interrupted::new("c37-alike", &jobs::word_count("c00"));
    let scene = &interrupted.scene;
    scene.write("empty/readme", "no checkpoint here");
    let newest = interrupted.kept[0];
    let near = format!("checkpoints/j/chk-{newest}");
    let state = interrupted.data(newest).display().to_string();
    let missing = format!("checkpoints/j/chk-{}9", newest);
    let other = ["-D", "job.id=nobodys"];
    // What is asked for, with more options, and whether there is a checkpoint to point to.
    let cases: [(&str, &[&str], bool); 8] = [
        ("", &[], false),
        ("nowhere/at/all", &[], false),
        (&missing, &[], true),
        ("empty", &[], false),
        (&state, &[], true),
        ("gopher://example.com/chk-1", &[], false),
        ("latest", &other, true),
        ("latest", &["-D", "checkpoint.storage=memory"], false),
    ];
    let mut told = Vec::new();
    for (way, more, has_candidates) in cases {
        let ended = interrupted
            .run(&[more, &["-s", way]].concat())
            .with_code(2)
            .without_panic();
        assert!(
            !ended.stderr.contains("` started"),
            "{}",
            ended.transcript()
        );
        assert_eq!(
            ended.stderr.contains(&near)
                || ended.stderr.contains("job `j`")
                || ended.stderr.contains("`j`"),
            has_candidates,
            "{way}: {}",
            ended.stderr
        );
        println!("{way}: {}", ended.stderr);
        told.push(ended.stderr.replace(way, "WAY"));
    }
    told.sort();
    let count = told.len();
    told.dedup();
    assert_eq!(told.len(), count, "each has its own message: {told:#?}");
    interrupted.assert_untouched();
}

/// Word count in which a second operator counts as well, into nowhere.
fn with_another_count(job: &str, id: &str) -> String {
    let another = jobs::operator(id, "count", "split", "emit = \"final\"");
    format!("{job}{another}{}", jobs::discard("nowhere", id))
}

#[test]
fn c40_state_of_an_operator_that_is_gone_is_refused_unless_it_may_be_dropped() {
    let job = jobs::word_count("c00");
    let interrupted = Interrupted::new("c40", &with_another_count(&job, "gone"));
    interrupted
        .scene
        .write("job.toml", job.replace("c00", "c40"));
    let refused = interrupted
        .run(&["-s", "latest"])
        .with_code(2)
        .saying(&["`gone`", " bytes", "`-n`"])
        .without_panic();
    let bytes = refused
        .stderr
        .lines()
        .find(|line| line.contains("`gone`"))
        .expect("it is named");
    let size = bytes
        .split(' ')
        .filter_map(|word| word.replace(',', "").parse::<u64>().ok())
        .max();
    assert!(size > Some(1000), "its bytes are not reported: {bytes}");
    interrupted.assert_untouched();
    interrupted
        .run(&["-s", "latest", "-n"])
        .with_code(0)
        .saying(&["`gone`", "dropped"]);
    interrupted.assert_totals("output without the operator that is gone");
}

/// The report of a restore, with numbers as `#`, which differ from run to run.
fn report(ended: &Ended) -> String {
    let lines = ended.stderr.lines();
    let report = lines.skip_while(|line| !line.starts_with("restoring from checkpoint"));
    let report = report.skip(1).take_while(|line| line.starts_with("  "));
    let mut text = String::new();
    for line in report {
        let mut in_number = false;
        let mut letters = line.chars().peekable();
        while let Some(letter) = letters.next() {
            // The comma between groups of digits.
            if letter == ',' && in_number && letters.peek().is_some_and(char::is_ascii_digit) {
                continue;
            }
            if letter.is_ascii_digit() {
                if !in_number {
                    text.push('#');
                }
            } else {
                text.push(letter);
            }
            in_number = letter.is_ascii_digit();
        }
        text.push('\n');
    }
    text
}

#[test]
fn c41_the_report_says_what_becomes_of_every_operator() {
    let job = jobs::word_count("c00");
    let interrupted = Interrupted::new("c41", &with_another_count(&job, "old"));
    let renamed = with_another_count(&job, "new").replace("c00", "c41");
    interrupted.scene.write("job.toml", renamed);
    // Renamed: what is gone and what is new are both told, first as a refusal.
    interrupted
        .run(&["-s", "latest"])
        .with_code(2)
        .saying(&["`old`"])
        .without_panic();
    interrupted.assert_untouched();
    let ended = interrupted
        .run(&["-s", "latest", "-n", "-p", "2"])
        .with_code(0);
    assert_eq!(
        report(&ended),
        "  `verses`: # records read, # of # files done, continues in input/#.txt at byte #
  `split` had no state
  `count` continues with # entries, # bytes, rescaled from # to # subtasks
  `count` state `count` is the same: # entries, # bytes
  `new` is not in the checkpoint and starts empty
  `new` state `count` is new and starts empty
  `totals` has nothing to commit
  `nowhere` has nothing to commit
  `old` is not in the job: its state of # bytes is dropped
  `old` state `count` is not declared any more: # entries, # bytes, dropped
",
        "{}",
        ended.transcript()
    );
    interrupted.assert_totals("output after an operator was renamed");
}

/// The restarts of a job that always traps: the delay before each, in milliseconds.
fn delays(strategy: &str) -> Vec<u64> {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(5));
    let job = jobs::head("c52", "1h")
        + jobs::VERSES
        + &jobs::operator("faulty", "faulty", "verses", "misdeed = \"trap\"")
        + &jobs::discard("nowhere", "faulty");
    let restart = format!("[restart]\n{strategy}\n\n");
    scene.write("job.toml", job.replace(jobs::RESTART, &restart));
    let ended = host::run(scene.path(), &["run", "job.toml", "--json"]).with_code(1);
    let events = ended.events();
    let last = events.last().expect("it says how it ended");
    assert_eq!(
        (&last["event"], &last["exit-code"]),
        (&"failed".into(), &1.into())
    );
    let restarts = events.iter().filter(|event| event["event"] == "restarted");
    restarts
        .filter_map(|event| event["delay-ms"].as_u64())
        .collect()
}

#[test]
fn c52_each_strategy_restarts_as_often_and_as_late_as_it_says() {
    assert_eq!(delays("strategy = \"none\""), [0; 0]);
    assert_eq!(
        delays("strategy = \"fixed-delay\"\nattempts = 3\ndelay = \"7ms\""),
        [7, 7, 7],
        "the failure after the third restart is the last"
    );
    assert_eq!(
        delays(
            "strategy = \"failure-rate\"\nmax-failures-per-interval = 2\nfailure-rate-interval = \"1h\"\ndelay = \"3ms\""
        ),
        [3, 3]
    );
    let exponential = |jitter: &str| {
        delays(&format!(
            "strategy = \"exponential-delay\"\ninitial-backoff = \"10ms\"\nmax-backoff = \"60ms\"\nbackoff-multiplier = 2.0\njitter-factor = {jitter}\nattempts-before-reset-backoff = 5"
        ))
    };
    assert_eq!(
        exponential("0.0"),
        [10, 20, 40, 60, 60],
        "twice as long each time, up to the cap"
    );
    // By chance one of them may have each delay as it is without jitter, but not both.
    let jittered = [exponential("0.5"), exponential("0.5")];
    assert_ne!(jittered, [[10, 20, 40, 60, 60]; 2], "no jitter");
    for delays in &jittered {
        for (delay, middle) in delays.iter().zip([10, 20, 40, 60, 60]) {
            assert!(
                (middle / 2..=middle * 3 / 2).contains(delay),
                "{jittered:?}"
            );
        }
        assert_eq!(delays.len(), 5);
    }
}

/// The delays before the first restarts of a job that runs for 400 ms each time before it traps, if it is
/// restarted that often; fewer if it fails before.
fn delays_of_a_job_that_runs(strategy: &str, most: usize) -> Vec<u64> {
    let scene = Scene::new();
    // Without checkpoints each attempt begins at the first record, and traps at the fifth.
    let numbers = jobs::ENDLESS.replace("rate = 2000", "rate = 10\ndistribution = \"sequential\"");
    let config = "misdeed = \"trap\", on = \"k04\"";
    let job = jobs::head("c52-runs", "1h")
        + &numbers
        + &jobs::operator("faulty", "faulty", "numbers", config)
        + &jobs::discard("nowhere", "faulty");
    let restart = format!("[restart]\n{strategy}\n\n");
    scene.write("job.toml", job.replace(jobs::RESTART, &restart));
    let mut running = host::start(scene.path(), &["run", "job.toml", "--json"]);
    let mut delays = Vec::new();
    while delays.len() < most {
        let Some(event) = running.next_event() else {
            break;
        };
        if event["event"] == "restarted" {
            delays.push(event["delay-ms"].as_u64().expect("a number"));
        }
    }
    delays
}

#[test]
fn c52_a_job_that_ran_for_long_enough_begins_again_with_short_delays() {
    let exponential = |threshold: &str| {
        let strategy = format!(
            "strategy = \"exponential-delay\"\ninitial-backoff = \"10ms\"\nmax-backoff = \"1s\"\n\
             backoff-multiplier = 2.0\njitter-factor = 0.0\nreset-backoff-threshold = \"{threshold}\""
        );
        delays_of_a_job_that_runs(&strategy, 3)
    };
    assert_eq!(exponential("100ms"), [10, 10, 10]);
    assert_eq!(exponential("1h"), [10, 20, 40]);
}

#[test]
fn c52_failures_count_only_within_their_interval() {
    let rate = |interval: &str| {
        let strategy = format!(
            "strategy = \"failure-rate\"\nmax-failures-per-interval = 1\n\
             failure-rate-interval = \"{interval}\"\ndelay = \"1ms\""
        );
        delays_of_a_job_that_runs(&strategy, 3)
    };
    // Each failure comes when the one before it is forgotten.
    assert_eq!(rate("100ms"), [1, 1, 1]);
    assert_eq!(rate("1h"), [1]);
}

#[test]
fn c52_an_error_that_cannot_heal_is_not_tried_again() {
    let interrupted = Interrupted::new("c52-heal", &jobs::word_count("c00"));
    flip_a_bit(&interrupted.data(interrupted.kept[0]));
    let ended = interrupted.run(&["-s", "latest", "--json"]).with_code(3);
    let names: Vec<_> = ended
        .events()
        .iter()
        .map(|event| event["event"].clone())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| name != "restarted" && name != "started"),
        "{}",
        ended.transcript()
    );
    // Neither is a checkpoint that the job does not fit.
    let job = jobs::word_count("c52-heal").replace("id = \"count\"", "id = \"tally\"");
    let job = job.replace("input = \"count\"", "input = \"tally\"");
    interrupted.scene.write("job.toml", job);
    let older = interrupted
        .metadata(interrupted.kept[1])
        .display()
        .to_string();
    let ended = interrupted
        .run(&["-s", &older, "--rewind", "repeat", "--json"])
        .with_code(2);
    for event in ended.events() {
        let name = event["event"].as_str().expect("a name");
        assert!(
            !["restarted", "started"].contains(&name),
            "{}",
            ended.transcript()
        );
    }
    interrupted.assert_untouched();
}

/// A job with a misdeed that is done once, in the middle; it goes on from a checkpoint.
fn recovers(name: &str, misdeed: &str, limit: &str, texts: &[&str]) {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 4, "txt");
    scene.write("input/last.txt", "Zz1:1 abracadabra\n");
    let markers = scene.at("markers");
    fs::create_dir_all(&markers).expect("directories can be made");
    let config = format!("misdeed = \"{misdeed}\", on = \"abracadabra\", once = \"/markers/done\"");
    let more = format!(
        "limits = {{ {limit} }}\ngrants = {{ dirs = [{{ host = {markers:?}, guest = \"/markers\", write = true }}] }}"
    );
    let job = jobs::head(name, "50ms")
        + jobs::VERSES
        + &jobs::split()
        + &jobs::operator_with("faulty", "faulty", "split", &config, &more)
        + &jobs::count("faulty")
        + &jobs::files("totals", "count", "out", "csv")
        // Published with every checkpoint: a job that began again would publish them twice.
        + &jobs::keys("words", "faulty", "words");
    scene.write("job.toml", job);
    let ended = host::run(scene.path(), &["run", "job.toml", "--json"]).with_code(0);
    assert!(markers.join("done").is_file(), "the misdeed was done");
    let events = ended.events();
    let restarted = events.iter().find(|event| event["event"] == "restarted");
    let restarted = restarted.expect("it was restarted");
    assert!(restarted["from"].is_number(), "{restarted}");
    let cause = restarted["cause"].as_str().expect("a cause");
    for text in [&["`faulty`"], texts].concat() {
        assert!(cause.contains(text), "`{text}` is not named: {cause}");
    }
    let expected = oracle::word_count(&scene.at("input"));
    let words = oracle::count_keys(&scene.at("words"));
    for output in [scene.output("out"), words] {
        assert_same_lines(
            &output,
            &expected,
            "output after a call went beyond its limit",
        );
    }
}

#[test]
fn c56_a_call_beyond_its_time_restarts_the_job_from_its_checkpoint() {
    recovers(
        "c56-time",
        "loop",
        "call-time = \"1s\"",
        &["call-time", "1"],
    );
}

#[test]
fn c56_memory_beyond_its_limit_restarts_the_job_from_its_checkpoint() {
    recovers(
        "c56-memory",
        "memory",
        "memory = \"16MiB\"",
        &["memory", "16"],
    );
}

#[test]
fn c14_c23_state_that_is_damaged_when_a_running_job_needs_it_ends_the_job() {
    let scene = Scene::new();
    let lines =
        "[[source]]\nid = \"lines\"\nconnector = \"stdin\"\nformat = \"lines\"\nkey = \"line\"\n\n";
    let trap = "misdeed = \"trap\", on = \"abracadabra\"";
    let job = jobs::head("mid-run", "1h").replace("[job]\n", "[job]\nid = \"mid-run\"\n")
        + lines
        + &jobs::operator("faulty", "faulty", "lines", trap)
        + &jobs::count("faulty")
        + &jobs::files("totals", "count", "out", "csv");
    scene.write("job.toml", job);
    // What is in the metadata is remembered, and not read again by a restart.
    let in_files = "checkpoint.inline-threshold=0B";
    let run = ["run", "job.toml", "--json", "-D", in_files];
    let mut running = host::start_with_input(scene.path(), &run, Stdio::piped());
    running.event("started");
    running.feed("one");
    // The line may come after a barrier; then the next checkpoint has it.
    let stored = || all_files(&scene.at("checkpoints/mid-run/shared")).pop();
    let (newest, damaged) = loop {
        running.signal("USR1");
        let newest = running.event("checkpoint-completed");
        if let Some(file) = running.while_stopped(stored) {
            break (newest, file);
        }
    };
    running.while_stopped(|| flip_a_bit(&damaged));
    running.feed("abracadabra");
    let restarted = running.event("restarted");
    assert_eq!(restarted["from"], newest["id"]);
    let failed = running.event("failed");
    assert_eq!(failed["exit-code"], 3);
    let ended = running.wait().with_code(3).without_panic();
    let name = damaged.file_name().expect("a file").to_string_lossy();
    let ended = ended.saying(&[&name, "--fallback"]);
    // It is not tried again, though more restarts are allowed.
    let restarts = ended.stdout.matches("\"restarted\"").count();
    assert_eq!(restarts, 1, "{}", ended.transcript());
    assert!(damaged.exists(), "what is damaged can be looked into");
    assert!(scene.output("out").is_empty(), "nothing is committed");
}
