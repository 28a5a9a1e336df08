//! Killed with SIGKILL again and again and resumed each time, a job ends with the output that an
//! independent tool computes from its input. Conformance 25, 53.
//!
//! Method: each run is killed at a moment from a seed, drawn in terms of what it has reported (right after
//! its n-th event), for a part of them some milliseconds later, so that kills land before, between and
//! within checkpoints whatever the speed of the machine. Every third run may take a checkpoint before it is
//! killed, so the job gets on, and from then on every run is a resumed one. When the job gets to its end, its output is
//! compared and another one begins, until there were enough kills: 120 over word count and flight delays
//! at parallelism 1, 2 and 4; `HIGHWATER_KILLS=200` makes it that many for each of these. A kill counts
//! only if the process died of it. A failure prints the seed; `HIGHWATER_SEED=<seed>` replays the moments.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::failures;
use crate::guests;
use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::power::{self, Until};
use crate::scene::{Scene, all_files, visible_files};

/// How often a job is killed, if nothing else is asked for.
const KILLS: u64 = 20;

/// Beyond this many runs a job that is killed all the time makes no progress.
const RUNS_MAX: u64 = 1000;

/// What one killed run may leave: the metadata and the few files of the checkpoints that are retained,
/// in progress, or about to be deleted.
const FILES_PER_RUN: usize = 16;

/// Numbers for the moments: splitmix64.
pub(crate) struct Moments(u64);

impl Moments {
    /// From `HIGHWATER_SEED` if it is set, else a new seed; printed in either case.
    pub(crate) fn new() -> Self {
        let seed = match std::env::var("HIGHWATER_SEED") {
            Ok(seed) => seed.parse().expect("HIGHWATER_SEED is a whole number"),
            Err(_) => RandomState::new().hash_one("moments"),
        };
        println!("replay with HIGHWATER_SEED={seed}");
        Self(seed)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)) % bound
    }
}

/// A job to kill: its input, its job file, and what its output must be.
struct Victim {
    input: Vec<u8>,
    copies: usize,
    extension: &'static str,
    job: String,
    output: fn(&Scene) -> Vec<String>,
    /// What an independent tool finds in one copy of the input.
    expected: fn(&Path) -> Vec<String>,
    /// Which fields of it grow with the number of copies.
    counted: &'static [usize],
}

impl Victim {
    /// What its output must be: an independent tool looks at one copy, the counts are multiplied.
    fn expected(&self) -> Vec<String> {
        let one = Scene::new();
        one.input(&self.input, 1, self.extension);
        let mut lines: Vec<String> = (self.expected)(&one.at("input"))
            .iter()
            .map(|line| self.multiplied(line))
            .collect();
        lines.sort();
        lines
    }

    fn multiplied(&self, line: &str) -> String {
        let mut fields: Vec<String> = line.split(',').map(str::to_owned).collect();
        for field in self.counted {
            let count: usize = fields[*field].parse().expect("a count");
            fields[*field] = (count * self.copies).to_string();
        }
        fields.join(",")
    }
}

/// One run of this many is not killed before it has completed a checkpoint.
const RUNS_FOR_A_CHECKPOINT: u64 = 3;

/// What was done to a job.
#[derive(Default)]
pub(crate) struct Toll {
    pub(crate) kills: u64,
    /// Checkpoints that killed runs had completed.
    checkpoints: usize,
    /// Killed runs that had been resumed from a checkpoint.
    pub(crate) resumed: u64,
}

/// Kills a job until it gets to its end in spite of it, or there were enough kills and it is left to end.
pub(crate) fn storm(
    scene: &Scene,
    parallelism: &str,
    moments: &mut Moments,
    wanted: u64,
    toll: &mut Toll,
) {
    let mut has_checkpoint = false;
    for run in 1..=RUNS_MAX {
        // `latest` wants a checkpoint to be there.
        let resume: &[&str] = match has_checkpoint && moments.below(2) == 0 {
            true => &["-s", "latest"],
            false => &["--resume"],
        };
        let arguments = [&["run", "job.toml", "--json", "-p", parallelism], resume].concat();
        let mut running = host::start(scene.path(), &arguments);
        if toll.kills == wanted {
            running.wait().with_code(0);
            return;
        }
        let mut events = 1 + moments.below(5);
        let mut wants_checkpoint = run.is_multiple_of(RUNS_FOR_A_CHECKPOINT);
        while events > 0 || wants_checkpoint {
            let Some(event) = running.next_event() else {
                running.wait().with_code(0);
                return;
            };
            // Said of the job, before the run says anything of itself.
            if event["event"] == "warning" {
                continue;
            }
            events = events.saturating_sub(1);
            wants_checkpoint &= event["event"] != "checkpoint-completed";
        }
        if moments.below(3) == 0 {
            thread::sleep(Duration::from_millis(moments.below(40)));
        }
        // If it ended before it could be killed, the next run says that there is nothing to resume.
        if let Some(killed) = running.kill() {
            if told(&killed, "finished") {
                // Killed after its last word, or the run before was.
                return;
            }
            toll.kills += 1;
            toll.checkpoints += killed.completions().len();
            assert!(!told(&killed, "failed"), "{}", killed.transcript());
            // It is the first that a run says, and something was said.
            let is_resumed = told(&killed, "restored");
            assert!(is_resumed || !has_checkpoint, "{}", killed.transcript());
            toll.resumed += u64::from(is_resumed);
            has_checkpoint |= !killed.completions().is_empty();
        }
    }
    panic!("the job has made no progress in {RUNS_MAX} runs");
}

fn told(ended: &Ended, name: &str) -> bool {
    ended.events().iter().any(|event| event["event"] == name)
}

/// Kills a job until there were enough kills, and compares whenever it has come to its end.
fn survives(victim: &Victim, parallelism: &str) {
    let mut moments = Moments::new();
    let wanted = match std::env::var("HIGHWATER_KILLS") {
        Ok(kills) => kills.parse().expect("HIGHWATER_KILLS is a whole number"),
        Err(_) => KILLS,
    };
    let expected = victim.expected();
    let mut toll = Toll::default();
    while toll.kills < wanted {
        let before = toll.kills;
        let scene = Scene::new();
        scene.input(&victim.input, victim.copies, victim.extension);
        scene.write("job.toml", &victim.job);
        storm(&scene, parallelism, &mut moments, wanted, &mut toll);
        let kills = toll.kills - before;
        println!("{kills} kills; the job has come to its end");
        assert_same_lines(
            &(victim.output)(&scene),
            &expected,
            "output after the kills",
        );
        assert_few_left(&scene, kills);
    }
    println!(
        "{} kills, {} of resumed runs, {} checkpoints in between",
        toll.kills, toll.resumed, toll.checkpoints
    );
}

/// What is on disk after many kills: of each killed run no more than a few files. What it had prepared
/// and no restore took over stays, because a checkpoint of it that somebody still restores may name it.
fn assert_few_left(scene: &Scene, kills: u64) {
    let output = scene.at("out");
    let hidden = all_files(&output).len() - visible_files(&output).len();
    let stored = all_files(&scene.at("checkpoints")).len();
    let most = FILES_PER_RUN * (kills as usize + 1);
    println!("left of {kills} killed runs: {stored} files of checkpoints, {hidden} of the sink");
    assert!(
        stored <= most,
        "{stored} files are left of {kills} killed runs"
    );
    assert!(
        hidden <= most,
        "{hidden} files are left in the sink's directory"
    );
    // Garbage collection takes what nobody needs, all of it at once, and nothing else.
    let collect = [
        "checkpoints",
        "gc",
        "--older-than",
        "0s",
        "--json",
        "checkpoints",
    ];
    host::run(scene.path(), &collect).with_code(0);
    let report = host::run(scene.path(), &collect).with_code(0).stdout;
    let report: Value = serde_json::from_str(&report).expect("gc tells JSON");
    assert_eq!(report["removed"], serde_json::json!([]), "{report}");
    assert_eq!(report["kept"], serde_json::json!([]), "{report}");
    let is_metadata = |file: &PathBuf| file.ends_with("_metadata");
    if all_files(&scene.at("checkpoints")).iter().any(is_metadata) {
        host::run(scene.path(), &["checkpoints", "verify", "checkpoints"]).with_code(0);
    }
}

/// Checkpoints as often as they can be had without doing nothing else.
const INTERVAL: &str = "interval = \"25ms\"";

fn word_count() -> Victim {
    Victim {
        input: oracle::bible(),
        copies: 12,
        extension: "txt",
        job: jobs::word_count("word-count").replace("interval = \"30ms\"", INTERVAL),
        output: |scene| scene.output("out"),
        expected: oracle::word_count,
        counted: &[1],
    }
}

fn flight_delays() -> Victim {
    Victim {
        input: oracle::flights(),
        copies: 40,
        extension: "csv",
        job: jobs::flight_delays("flight-delays").replace("interval = \"30ms\"", INTERVAL),
        output: |scene| scene.output("out"),
        expected: oracle::flight_delays,
        counted: &[2, 3],
    }
}

/// Output that appears with every checkpoint, not only at the end: the words themselves. They are
/// counted here, and the counts must be those of the text.
fn words() -> Victim {
    Victim {
        job: jobs::words("words", "25ms"),
        output: |scene| oracle::count_keys(&scene.at("out")),
        ..word_count()
    }
}

#[test]
fn c53_word_count_survives_a_storm_of_kills_at_parallelism_1() {
    survives(&word_count(), "1");
}

#[test]
fn c53_word_count_survives_a_storm_of_kills_at_parallelism_2() {
    survives(&word_count(), "2");
}

#[test]
fn c53_word_count_survives_a_storm_of_kills_at_parallelism_4() {
    survives(&word_count(), "4");
}

#[test]
fn c53_flight_delays_survive_a_storm_of_kills_at_parallelism_1() {
    survives(&flight_delays(), "1");
}

#[test]
fn c53_flight_delays_survive_a_storm_of_kills_at_parallelism_2() {
    survives(&flight_delays(), "2");
}

#[test]
fn c53_flight_delays_survive_a_storm_of_kills_at_parallelism_4() {
    survives(&flight_delays(), "4");
}

#[test]
fn c53_output_as_it_comes_survives_a_storm_of_kills() {
    survives(&words(), "2");
}

/// The job directory of a checkpoint, by the path of its metadata.
fn job_directory(completed: &Value) -> PathBuf {
    let path = completed["path"].as_str().expect("it is in a file");
    let checkpoint = Path::new(path).parent().expect("it is in its directory");
    checkpoint
        .parent()
        .expect("it is in the job's directory")
        .to_owned()
}

#[test]
fn a_kill_right_behind_any_event_loses_and_doubles_nothing() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 16, "txt");
    let job = guests::word_count_with_a_trap(&scene, "any-event", guests::Trap::Once);
    scene.write("job.toml", job.replace("interval = \"30ms\"", INTERVAL));
    let options = ["-D", "checkpoint.tolerable-failures=2"];
    let start = || {
        let arguments = [
            ["run", "job.toml", "--json", "--resume"].as_slice(),
            &options,
        ]
        .concat();
        host::start(scene.path(), &arguments)
    };
    let mut killed_after = BTreeSet::new();
    let mut kill = |running: host::Running, event: &Value| {
        if running.kill().is_some() {
            killed_after.insert(event["event"].as_str().expect("a name").to_owned());
        }
    };
    for number in 1..=6 {
        let mut running = start();
        let mut last = Value::Null;
        for _ in 0..number {
            last = running.next_event().expect("there is input for longer");
        }
        kill(running, &last);
    }

    let mut running = start();
    let restored = running.event("restored");
    kill(running, &restored);

    let mut running = start();
    let job = job_directory(&running.event("checkpoint-completed"));
    let taken = failures::obstruct(&running, &job, &[0]);
    let failed = running.event("checkpoint-failed");
    kill(running, &failed);
    // It would be taken for a damaged checkpoint, which it is not.
    fs::remove_dir_all(job.join(format!("chk-{taken}"))).expect("a directory can be removed");

    guests::forget_the_trap(&scene);
    let mut running = start();
    let restarted = running.event("restarted");
    kill(running, &restarted);

    let mut running = start();
    let finished = running.event("finished");
    // Perhaps it has ended before the kill, as it wanted to.
    kill(running, &finished);
    for event in [
        "started",
        "restored",
        "checkpoint-completed",
        "checkpoint-failed",
        "restarted",
    ] {
        assert!(
            killed_after.contains(event),
            "no kill after `{event}`: {killed_after:?}"
        );
    }
    let ended = host::run(scene.path(), &["run", "job.toml", "-s", "latest"]).with_code(0);
    ended.saying(&["has finished already"]);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output after kills at every kind of event",
    );
}

/// The files that a checkpoint's sinks have prepared, by the names that they are to have.
fn prepared(scene: &Scene, path: &str) -> Vec<String> {
    let show = host::run(scene.path(), &["checkpoints", "show", path, "--json"]).with_code(0);
    let shown: Value = serde_json::from_str(&show.stdout).expect("JSON");
    let operators = shown["operators"].as_array().expect("a list").iter();
    operators
        .filter(|operator| operator["role"] == "sink")
        .flat_map(|sink| sink["subtasks"].as_array().expect("a list"))
        .flat_map(|subtask| subtask["parts"].as_array().expect("a list"))
        .map(|part| {
            part["file"]
                .as_str()
                .expect("a file sink's part")
                .to_owned()
        })
        .collect()
}

/// Words through an operator that writes down which checkpoints are reported to it.
fn listening(name: &str) -> Scene {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 8, "txt");
    let directory = scene.at("told");
    fs::create_dir_all(&directory).expect("a directory can be made");
    let grants = format!(
        "grants = {{ dirs = [{{ host = {directory:?}, guest = \"/told\", write = true }}] }}"
    );
    let config = "misdeed = \"none\", completions = \"/told/completions\"";
    let job = jobs::head(name, "25ms")
        + jobs::VERSES
        + &jobs::split()
        + &jobs::operator_with("listens", "faulty", "split", config, &grants)
        + &jobs::count("listens")
        + &jobs::files("totals", "count", "out", "csv");
    scene.write("job.toml", job);
    scene
}

/// The checkpoints that were reported to the operator, in order.
fn heard(scene: &Scene) -> Vec<u64> {
    let text = fs::read_to_string(scene.at("told/completions")).unwrap_or_default();
    let numbers = text.lines().map(|line| line.parse().expect("a number"));
    numbers.collect()
}

#[test]
fn c25_an_operator_is_told_of_each_completion_once_and_in_order() {
    let scene = listening("c25-order");
    let ended = host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let completed: Vec<u64> = ended.completions().iter().map(|it| it.id).collect();
    assert!(completed.len() > 3, "{}", ended.transcript());
    assert!(completed.is_sorted_by(|one, next| one < next));
    assert_eq!(heard(&scene), completed);
}

#[test]
fn c25_an_operator_is_told_of_the_checkpoint_that_it_is_restored_from_before_any_other() {
    // Killed when 3 is complete and nobody knows, and when it was reported to the operator.
    for (until, before) in [
        (Until::After("chk-3/_metadata"), &[1, 2][..]),
        (Until::Before("chk-4/_metadata"), &[1, 2, 3]),
    ] {
        let scene = listening("c25-restore");
        power::killed_at(&scene, until, &["run", "job.toml"]);
        assert_eq!(heard(&scene), before, "{until:?}");
        let ended = host::run(scene.path(), &["run", "job.toml", "--resume"])
            .with_code(0)
            .saying(&["restoring from checkpoint 3"]);
        let mut expected = vec![3];
        expected.extend(ended.completions().iter().map(|it| it.id));
        assert_eq!(heard(&scene)[before.len()..], expected, "{until:?}");
        assert_same_lines(
            &scene.output("out"),
            &oracle::word_count(&scene.at("input")),
            "output after a completion that was reported again",
        );
    }
}

/// A checkpoint that has output to commit, in a job that runs for longer.
const WITH_OUTPUT: (u64, &str) = (3, "chk-3/_metadata");

#[test]
fn c25_a_completion_that_nobody_could_be_told_of_is_told_at_the_restore() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 16, "txt");
    scene.write("job.toml", jobs::words("c25", "25ms"));
    // Killed right after its metadata got its name: it is complete, and its output is not committed.
    let (id, name) = WITH_OUTPUT;
    let run = ["run", "job.toml", "-p", "2"];
    let killed = power::killed_at(&scene, Until::After(name), &run);
    let newest = scene.newest_checkpoint("c25").expect("it is complete");
    assert_eq!(newest.id, id);
    let told = killed.completions().pop().map_or(0, |told| told.id);
    assert!(told < id, "{}", killed.transcript());
    let prepared = prepared(&scene, &newest.path);
    let missing = |file: &&String| !scene.at("out").join(file).exists();
    assert!(prepared.iter().any(|file| missing(&file)), "{prepared:?}");

    // Nothing but the restore can commit it: this run is killed before it has a checkpoint.
    let latest = ["run", "job.toml", "-p", "2", "-s", "latest"];
    let never = ["-D", "checkpoint.interval=1h", "--json"];
    let mut running = host::start(scene.path(), &[latest.as_slice(), &never].concat());
    running.event("started");
    running.kill().expect("there is input for longer");
    let left: Vec<&String> = prepared.iter().filter(missing).collect();
    assert!(left.is_empty(), "not committed at the restore: {left:?}");

    host::run(scene.path(), &latest).with_code(0);
    assert_same_lines(
        &oracle::count_keys(&scene.at("out")),
        &oracle::word_count(&scene.at("input")),
        "output after a completion that was reported to nobody",
    );
}
