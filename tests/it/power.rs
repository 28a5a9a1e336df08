//! A power loss at any step loses nothing that was reported and doubles nothing. Conformance 153.
//!
//! Method: the real `host` runs on a layer that records every change of its files, every flush, and what
//! it says, in one order (`tests/power/recorder.c`). From that the model of a disk that forgets what was not
//! flushed (`model`) computes what a power loss right after any step leaves. That is written to a
//! directory of its own, and the host resumes from it, with `--resume` or `-s latest`. Then
//! - the checkpoint that it goes on from is the newest whose completion was reported before the power loss,
//!   or a newer one;
//! - the output is what an independent tool computes from the input: nothing is lost, nothing is doubled;
//! - a file that a reader could see in the output before is there, under the same name with the same bytes.
//!
//! "Nothing that was not flushed is there" is tried at every step of a small run, and at steps from a seed
//! of a larger one; "some of it is there" in choices from the seed; "all of it is there" too. Runs are
//! killed and resumed while they are recorded, so that leases change hands and left-overs are cleaned away;
//! and some recoveries lose power again. A failure prints the seed, the step, and where it keeps what the
//! power loss left; `HIGHWATER_SEED=<seed>` draws the same, though the host's threads are not the same to
//! the step. `HIGHWATER_POWER=2000` tries that many states for each job.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, thread};

use tempfile::TempDir;

pub(crate) use self::journal::Until;

use self::journal::Step;
use self::model::{Disk, Remains, Unflushed};
use crate::host::{self, Ended};
use crate::jobs;
use crate::kills::Moments;
use crate::oracle::{self, assert_same_lines};
use crate::scene::Scene;

#[path = "../power/journal.rs"]
mod journal; // what the host did
#[path = "../power/model.rs"]
mod model; // what a power loss leaves of it

/// Runs the host until it is killed at the link that `until` names.
pub(crate) fn killed_at(scene: &Scene, until: Until, arguments: &[&str]) -> Ended {
    let journals = TempDir::new().expect("a temporary directory");
    let mut command = Command::new(host::PROGRAM);
    let journal = journals.path().join("journal");
    journal::record(&mut command, scene.path(), &journal, Some(until));
    let ended = host::start_by(command, scene.path(), arguments, Stdio::null()).wait();
    assert!(
        ended.status.code().is_none(),
        "it was not killed at {until:?}:\n{}",
        ended.transcript()
    );
    ended
}

/// How many runs are tried until one has taken two checkpoints.
const TRIES: u32 = 10;
/// How many states of each job are tried by default.
const STATES: usize = 60;

/// How many failures are shown.
const SHOWN: usize = 3;

/// A job that loses power.
struct Victim {
    /// The job file, for the input in a directory.
    job: fn(&Path) -> String,
    input: fn() -> Scene,
    /// The directories of its sinks.
    outputs: &'static [&'static str],
    /// What an independent tool makes of the input.
    expected: fn(&Path) -> Vec<String>,
    /// Compares the output with that.
    judge: fn(&Scene, &[String]),
    options: &'static [&'static str],
    /// It is started with `--resume` from the beginning, as a service is.
    supervised: bool,
    /// How many runs are killed while they are recorded, and resumed.
    kills: u64,
}

/// What was promised until a step.
#[derive(Clone, Default, PartialEq)]
struct Promise {
    /// The newest checkpoint whose completion was reported.
    told: Option<u64>,
    /// It was reported that the job has finished.
    finished: bool,
    /// What readers could see, by its directory and name.
    published: BTreeMap<(String, String), Vec<u8>>,
    /// Which of that is to be seen since the last power loss; what was not flushed comes back later.
    in_view: BTreeSet<(String, String)>,
    /// What was said since the last line break.
    line: Vec<u8>,
}

/// A power loss.
struct Loss {
    /// After this many steps.
    step: usize,
    /// When, and what became of what was not flushed.
    what: String,
    remains: Remains,
    promise: Promise,
}

/// A run that was recorded, or several after each other in the same directory.
struct Recorded {
    /// What was there at first.
    before: Remains,
    /// What had been promised by then.
    promise: Promise,
    root: TempDir,
    steps: Vec<Step>,
}

impl Promise {
    /// Takes in what has changed by a step.
    fn follow(&mut self, step: &Step, disk: &Disk, outputs: &[&str]) {
        if let Step::Say { bytes } = step {
            self.line.extend(bytes);
            while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                let event: serde_json::Value =
                    serde_json::from_slice(&line).expect("stdout has events");
                match event["event"].as_str() {
                    Some("checkpoint-completed") => self.told = event["id"].as_u64(),
                    Some("finished") => self.finished = true,
                    _ => {}
                }
            }
            return;
        }
        if matches!(step, Step::Start) {
            self.line.clear();
        }
        if matches!(
            step,
            Step::Flush { .. } | Step::Close { .. } | Step::Duplicate { .. }
        ) {
            return;
        }
        for directory in outputs {
            let visible = disk.visible(directory);
            for (name, content) in &visible {
                let key = ((*directory).to_owned(), name.clone());
                self.in_view.insert(key.clone());
                let seen = self.published.entry(key);
                let seen = seen.or_insert_with(|| content.to_vec());
                assert!(
                    seen == content,
                    "{name} changed after it was published: {step:?}"
                );
            }
            let in_view = self.in_view.iter().filter(|(of, _)| of == directory);
            for (_, name) in in_view {
                assert!(
                    visible.contains_key(name),
                    "{name} was published and went: {step:?}"
                );
            }
        }
    }
}

impl Victim {
    /// Runs the job in a directory.
    fn run(&self, resume: &[&str], directory: &Path, prepare: impl Fn(&mut Command)) -> Ended {
        let options = self.options.iter().flat_map(|option| ["-D", *option]);
        let arguments = ["run", "job.toml", "--json"].into_iter();
        let arguments = arguments.chain(options).chain(resume.iter().copied());
        let arguments: Vec<&str> = arguments.collect();
        loop {
            let mut command = Command::new(host::PROGRAM);
            prepare(&mut command);
            let ended = host::start_by(command, directory, &arguments, Stdio::null()).wait();
            // A holder that nobody can tell from a living one is waited for.
            if ended.status.code() != Some(2) || !ended.stderr.contains("is held by") {
                return ended;
            }
            thread::yield_now();
        }
    }

    /// Records runs in a directory that has this in it: this many that are killed, and one that ends.
    fn record(&self, before: Remains, promise: Promise, kills: &[Until], ends: bool) -> Recorded {
        let root = TempDir::with_prefix("highwater-power-").expect("a temporary directory");
        model::write(&before, root.path());
        let journals = TempDir::new().expect("a temporary directory");
        let journal = journals.path().join("journal");
        let mut resumes = self.supervised || before.len() > 1;
        let kills = kills.iter().copied().map(Some);
        for until in kills.chain(ends.then_some(None)) {
            let resume: &[&str] = if resumes { &["--resume"] } else { &[] };
            let ended = self.run(resume, root.path(), |command| {
                journal::record(command, root.path(), &journal, until);
            });
            if ended.status.success() {
                break;
            }
            let was_killed = ended.status.code().is_none() && until.is_some();
            assert!(was_killed, "a recorded run failed:\n{}", ended.transcript());
            resumes = true;
        }
        let steps = journal::read(&journal);
        let mut disk = Disk::new(root.path(), &before);
        steps.iter().for_each(|step| disk.apply(step));
        assert!(
            disk.remains(Unflushed::Kept) == model::found(root.path()),
            "the steps lead to other files than those that are there: a call went past the recorder"
        );
        Recorded {
            before,
            promise: Promise {
                in_view: BTreeSet::new(),
                ..promise
            },
            root,
            steps,
        }
    }

    /// What power losses leave of recorded runs: at the end of each stretch without a flush without
    /// anything that was not flushed, and at `others` steps with some of it or all.
    fn losses(
        &self,
        recorded: &Recorded,
        others: usize,
        moments: &mut Moments,
    ) -> (Vec<Loss>, Vec<Loss>) {
        let count = recorded.steps.len();
        let mut drawn = BTreeMap::<usize, u64>::new();
        for _ in 0..others {
            *drawn
                .entry(moments.below(count as u64) as usize)
                .or_default() += 1;
        }
        let mut disk = Disk::new(recorded.root.path(), &recorded.before);
        let mut promise = recorded.promise.clone();
        let (mut plain, mut others): (Vec<Loss>, Vec<Loss>) = (Vec::new(), Vec::new());
        let loss = |number: usize, how: &str, promise: &Promise, remains| Loss {
            step: number,
            what: format!("after step {number} of {count}, {how}"),
            remains,
            promise: promise.clone(),
        };
        for (number, step) in recorded.steps.iter().enumerate() {
            // Until the next flush the same is left, and more is promised.
            if matches!(step, Step::Flush { .. }) {
                let remains = disk.remains(Unflushed::Lost);
                let is_new = plain
                    .last()
                    .is_none_or(|last| last.remains != remains || last.promise != promise);
                if is_new {
                    plain.push(loss(
                        number,
                        "with nothing that was not flushed",
                        &promise,
                        remains,
                    ));
                }
            }
            disk.apply(step);
            promise.follow(step, &disk, self.outputs);
            for _ in 0..drawn.get(&number).copied().unwrap_or(0) {
                let (how, remains) = match moments.below(5) {
                    0 => ("with all", disk.remains(Unflushed::Kept)),
                    _ => (
                        "with some",
                        disk.remains(Unflushed::Drawn(&mut |bound| moments.below(bound))),
                    ),
                };
                others.push(loss(
                    number + 1,
                    &format!("{how} that was not flushed"),
                    &promise,
                    remains,
                ));
            }
        }
        for _ in 0..3 {
            let remains = disk.remains(Unflushed::Drawn(&mut |bound| moments.below(bound)));
            others.push(loss(
                count,
                "with some that was not flushed",
                &promise,
                remains,
            ));
        }
        let remains = disk.remains(Unflushed::Lost);
        plain.push(loss(
            count,
            "with nothing that was not flushed",
            &promise,
            remains,
        ));
        (plain, others)
    }

    /// Resumes from what a power loss left, and judges the end.
    fn recover(&self, loss: &Loss, expected: &[String], resume: &str) {
        let scene = Scene::new();
        model::write(&loss.remains, scene.path());
        let resume: &[&str] = match resume {
            "latest" => &["-s", "latest"],
            _ => &["--resume"],
        };
        let ended = self.run(resume, scene.path(), |_| {});
        let nothing_left = loss.promise.finished && ended.status.code() == Some(2);
        if !nothing_left {
            assert_eq!(ended.status.code(), Some(0), "{}", ended.transcript());
            self.assert_from(&ended, &loss.promise);
        }
        (self.judge)(&scene, expected);
        for ((directory, name), content) in &loss.promise.published {
            let found = fs::read(scene.at(directory).join(name));
            assert!(
                found.is_ok_and(|found| found == *content),
                "{directory}/{name} was published before and is not what it was"
            );
        }
    }

    /// Resumes from each of these, and shows the first that fail.
    fn assert_recovers(&self, losses: &[Loss], input: &Scene, moments: &mut Moments) {
        let expected = (self.expected)(&input.at("input"));
        let mut failures = 0;
        for loss in losses {
            let promise = &loss.promise;
            // A job that was not started as a service leaves no trace of its end.
            let by_latest = match promise.finished {
                true => !self.supervised,
                false => promise.told.is_some() && moments.below(2) == 0,
            };
            let resume = if by_latest { "latest" } else { "resume" };
            let recover = || self.recover(loss, &expected, resume);
            if panic::catch_unwind(AssertUnwindSafe(recover)).is_err() {
                failures += 1;
                let kept = TempDir::with_prefix("highwater-power-");
                let kept = kept.expect("a temporary directory").keep();
                model::write(&loss.remains, &kept);
                println!(
                    "power lost {}: no recovery by {resume} from {}",
                    loss.what,
                    kept.display()
                );
                if failures == SHOWN {
                    break;
                }
            }
        }
        assert_eq!(
            failures,
            0,
            "power losses without recovery, of {}",
            losses.len()
        );
    }

    /// What there is at first: the job file.
    fn before(&self, input: &Scene) -> Remains {
        let job = (self.job)(&input.at("input")).into_bytes();
        Remains::from([(PathBuf::from("job.toml"), Some(job))])
    }

    /// The job went on from the newest checkpoint that was reported, or a newer one.
    fn assert_from(&self, ended: &Ended, promise: &Promise) {
        let events = ended.events();
        let restored = events.iter().find(|event| event["event"] == "restored");
        let restored = restored.and_then(|event| event["checkpoint"].as_u64());
        let is_told = |name: &str| events.iter().any(|event| event["event"] == name);
        // That it has finished already is reported, too, and nothing is started then.
        let has_finished = is_told("finished") && !is_told("started");
        if let Some(told) = promise.told
            && !has_finished
        {
            assert!(
                restored.is_some_and(|restored| restored >= told),
                "checkpoint {told} was reported, and the job went on from {restored:?}:\n{}",
                ended.transcript()
            );
        }
    }
}

/// The job loses power again and again.
fn survives(victim: &Victim) {
    let mut moments = Moments::new();
    let states = match std::env::var("HIGHWATER_POWER") {
        Ok(states) => states.parse().expect("HIGHWATER_POWER is a whole number"),
        Err(_) => STATES,
    };
    let input = (victim.input)();
    // A run on a busy machine may be over, or killed, before its second checkpoint: that shows too little.
    let (recorded, kills, mut plain, mut losses, told) = (0..TRIES)
        .find_map(|_| {
            let kills: Vec<Until> = (0..victim.kills)
                .map(|_| Until::Change(20 + moments.below(80) as usize))
                .collect();
            let before = victim.before(&input);
            let recorded = victim.record(before, Promise::default(), &kills, true);
            let (plain, losses) = victim.losses(&recorded, states / 2, &mut moments);
            let told = plain.last().and_then(|last| last.promise.told);
            told.is_some_and(|told| told >= 2)
                .then_some((recorded, kills, plain, losses, told))
        })
        .expect("a run with two checkpoints");
    let all = plain.len();
    while plain.len() > states {
        // The last one stays.
        plain.remove(moments.below(plain.len() as u64 - 1) as usize);
    }
    println!(
        "{} steps, checkpoint {told:?} is the last; {} of {all} states without what was not flushed, {} others",
        recorded.steps.len(),
        plain.len(),
        losses.len()
    );
    let starts = recorded.steps.iter();
    let starts = starts.filter(|step| matches!(step, Step::Start)).count();
    assert!(starts > 1 || kills.is_empty(), "it was killed and resumed");
    losses.extend(plain);
    // Power is lost again while the job recovers.
    let mut again_lost = Vec::new();
    for _ in 0..states / 10 {
        let first = &losses[moments.below(losses.len() as u64) as usize];
        if first.promise.finished {
            continue;
        }
        let until = Until::Change(1 + moments.below(200) as usize);
        let again = victim.record(
            first.remains.clone(),
            first.promise.clone(),
            &[until],
            false,
        );
        let (mut last, mut others) = victim.losses(&again, 0, &mut moments);
        for mut second in last.pop().into_iter().chain(others.pop()) {
            second.what = format!("{}; resumed, and {}", first.what, second.what);
            again_lost.push(second);
        }
    }
    losses.extend(again_lost);
    victim.assert_recovers(&losses, &input, &mut moments);
}

/// A start that was killed leaves directories that nobody has flushed; the next one uses them.
fn survives_after_killed_starts(victim: &Victim, starts: usize) {
    let mut moments = Moments::new();
    let input = (victim.input)();
    let before = victim.before(&input);
    let mut losses = Vec::new();
    for _ in 0..starts {
        let until = Until::Change(1 + moments.below(30) as usize);
        let recorded = victim.record(before.clone(), Promise::default(), &[until], true);
        let (plain, _) = victim.losses(&recorded, 0, &mut moments);
        let told = plain
            .into_iter()
            .filter(|loss| loss.promise.told.is_some() && !loss.promise.finished);
        // As soon as something was promised.
        losses.extend(told.take(1).map(|loss| Loss {
            what: format!("{}, after a start that was killed at {until:?}", loss.what),
            ..loss
        }));
    }
    assert!(losses.len() * 2 > starts, "there were checkpoints");
    victim.assert_recovers(&losses, &input, &mut moments);
}

/// A process that is killed right after it has given an object its name has not flushed that name, and the
/// next one finds the object. What it builds on that must not be taken away by a power loss.
fn survives_after_kills_at_links(victim: &Victim, links: usize) {
    let mut moments = Moments::new();
    let input = (victim.input)();
    let before = victim.before(&input);
    let mut losses = Vec::new();
    for link in 1..=links {
        let until = Until::Link(link);
        let recorded = victim.record(before.clone(), Promise::default(), &[until], true);
        let resumed = recorded
            .steps
            .iter()
            .rposition(|step| matches!(step, Step::Start));
        let Some(resumed) = resumed.filter(|at| *at > 0) else {
            // It has fewer links than that, and came to its end.
            break;
        };
        let (plain, _) = victim.losses(&recorded, 0, &mut moments);
        // Until the next checkpoint is reported there is nothing else to go on from.
        let told = plain.iter().rfind(|loss| loss.step < resumed);
        let told = told.and_then(|loss| loss.promise.told);
        let mut resumed = plain
            .into_iter()
            .filter(|loss| loss.step >= resumed && loss.promise.told == told);
        // The last of these has published all that the restore commits.
        losses.extend(resumed.next_back().map(|loss| Loss {
            what: format!("{}, resumed from a kill at {until:?}", loss.what),
            ..loss
        }));
    }
    assert!(losses.len() > 4, "power was lost after the restore");
    victim.assert_recovers(&losses, &input, &mut moments);
}

/// The words and their counts: output that appears with every checkpoint, and state.
fn words(input: &Path) -> String {
    jobs::head("power-words", "4ms")
        + &jobs::VERSES.replace("input/*", &format!("{}/*", input.display()))
        + &jobs::split()
        + &jobs::keys("words", "split", "out")
        + &jobs::count("split")
        + &jobs::files("totals", "count", "totals", "csv")
}

fn flights(input: &Path) -> String {
    jobs::flight_delays("power-flights")
        .replace("input/*", &format!("{}/*", input.display()))
        .replace("interval = \"30ms\"", "interval = \"4ms\"")
}

fn word_count() -> Victim {
    Victim {
        job: words,
        input: || {
            let scene = Scene::new();
            scene.input(oracle::verses(3000).as_bytes(), 4, "txt");
            scene
        },
        outputs: &["out", "totals"],
        expected: oracle::word_count,
        judge: |scene, expected| {
            assert_same_lines(&oracle::count_keys(&scene.at("out")), expected, "words");
            assert_same_lines(&scene.output("totals"), expected, "totals");
        },
        options: &[],
        supervised: false,
        kills: 0,
    }
}

fn flight_delays() -> Victim {
    Victim {
        job: flights,
        input: || {
            let scene = Scene::new();
            scene.input(&oracle::flights(), 1, "csv");
            scene
        },
        outputs: &["out"],
        expected: oracle::flight_delays,
        judge: |scene, expected| {
            assert_same_lines(&scene.output("out"), expected, "delays");
        },
        options: &[],
        supervised: false,
        kills: 0,
    }
}

#[test]
fn c153_word_count_survives_power_losses_at_parallelism_1() {
    survives(&Victim {
        options: &["job.parallelism=1", "checkpoint.incremental=false"],
        ..word_count()
    });
}

#[test]
fn c153_word_count_survives_power_losses_between_kills_at_parallelism_2() {
    survives(&Victim {
        options: &[
            "job.parallelism=2",
            "checkpoint.retained=3",
            "checkpoint.inline-threshold=0B",
        ],
        supervised: true,
        kills: 2,
        ..word_count()
    });
}

#[test]
fn c153_flight_delays_survive_power_losses_between_kills_at_parallelism_1() {
    survives(&Victim {
        options: &["job.parallelism=1", "checkpoint.inline-threshold=0B"],
        kills: 1,
        ..flight_delays()
    });
}

#[test]
fn c153_flight_delays_survive_power_losses_at_parallelism_2() {
    survives(&Victim {
        options: &[
            "job.parallelism=2",
            "checkpoint.retained=3",
            "checkpoint.incremental=false",
            "checkpoint.inline-threshold=0B",
        ],
        supervised: true,
        ..flight_delays()
    });
}

#[test]
fn c153_what_a_killed_start_has_made_survives_power_losses() {
    let victim = Victim {
        options: &["job.parallelism=2"],
        supervised: true,
        ..flight_delays()
    };
    survives_after_killed_starts(&victim, 12);
}

#[test]
fn c153_what_is_built_on_a_checkpoint_of_a_killed_run_survives_power_losses() {
    let victim = Victim {
        options: &["job.parallelism=1"],
        supervised: true,
        ..word_count()
    };
    survives_after_kills_at_links(&victim, 12);
}
