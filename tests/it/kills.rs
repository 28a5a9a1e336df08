//! Killed with SIGKILL at ten random moments and resumed each time, a job ends with the output that an
//! independent tool computes from its input.
//!
//! Method: a seeded number of completed checkpoints and a seeded delay behind the last of them decide
//! each moment, so that kills land before, between and within checkpoints. A kill counts only if the
//! process died of it in the middle of its work; when the job got to its end before the tenth, everything
//! is done again with twice the input. A failure prints the seed; `HIGHWATER_SEED=<seed>` replays the moments.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::Duration;

use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{Scene, all_files};

/// How often each job is killed.
const KILLS: usize = 10;

/// How often the input may be doubled: more would say that the job is not being killed at all.
const DOUBLINGS_MAX: u32 = 5;

/// Numbers for the moments: splitmix64.
struct Moments(u64);

impl Moments {
    /// From `HIGHWATER_SEED` if it is set, else a new seed; printed in either case.
    fn new() -> Self {
        let seed = match std::env::var("HIGHWATER_SEED") {
            Ok(seed) => seed.parse().expect("HIGHWATER_SEED is a whole number"),
            Err(_) => RandomState::new().hash_one("moments"),
        };
        println!("replay with HIGHWATER_SEED={seed}");
        Self(seed)
    }

    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
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
    /// Copies of the input at first; doubled as long as the job ends too soon.
    copies: usize,
    extension: &'static str,
    job: String,
    output: fn(&Scene) -> Vec<String>,
    expected: fn(&Scene) -> Vec<String>,
}

/// Kills the job [`KILLS`] times. `false` if it got to its end before.
fn storm(scene: &Scene, parallelism: &str, moments: &mut Moments) -> bool {
    for kill in 0..KILLS {
        let resume: &[&str] = if kill == 0 { &[] } else { &["-s", "latest"] };
        let mut running = host::start(
            scene.path(),
            &[&["run", "job.toml", "-p", parallelism], resume].concat(),
        );
        // The first run must leave a checkpoint; later ones may be killed before they have done anything.
        let checkpoints = if kill == 0 {
            1 + moments.below(2)
        } else {
            moments.below(3)
        };
        for _ in 0..checkpoints {
            if running.checkpoint().is_none() {
                running.wait().with_code(0);
                return false;
            }
        }
        thread::sleep(Duration::from_millis(moments.below(150)));
        match running.kill() {
            Some(killed) if !was_over(scene, &killed) => {}
            _ => return false,
        }
    }
    true
}

/// Whether a killed job had come to its end, though its process was still there to be killed: it had left
/// its mark, or deleted the checkpoints that it completed.
fn was_over(scene: &Scene, killed: &Ended) -> bool {
    let Some(last) = killed.completions().pop() else {
        return false;
    };
    let job = last
        .path
        .rsplit_once("/chk-")
        .expect("it lies in its job's directory")
        .0;
    let files = all_files(&scene.at(job));
    let has = |name: &str| files.iter().any(|file| file.ends_with(name));
    has("_finished") || !has("_metadata")
}

/// Kills a job, lets it come to its end, and compares.
fn survives(victim: &Victim, parallelism: &str) {
    let mut moments = Moments::new();
    let mut copies = victim.copies;
    let scene = loop {
        let scene = Scene::new();
        scene.input(&victim.input, copies, victim.extension);
        scene.write("job.toml", &victim.job);
        if storm(&scene, parallelism, &mut moments) {
            break scene;
        }
        copies *= 2;
        assert!(
            copies <= victim.copies << DOUBLINGS_MAX,
            "the job always came to its end before it was killed {KILLS} times"
        );
    };
    let expected = (victim.expected)(&scene);
    let arguments = ["run", "job.toml", "-p", parallelism, "-s", "latest"];
    host::run(scene.path(), &arguments)
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    assert_same_lines(
        &(victim.output)(&scene),
        &expected,
        "output after ten kills",
    );
}

fn word_count() -> Victim {
    Victim {
        input: oracle::bible(),
        copies: 24,
        extension: "txt",
        job: jobs::word_count("word-count"),
        output: |scene| scene.output("out"),
        expected: |scene| oracle::word_count(&scene.at("input")),
    }
}

fn flight_delays() -> Victim {
    Victim {
        input: oracle::flights(),
        copies: 80,
        extension: "csv",
        job: jobs::flight_delays("flight-delays"),
        output: |scene| scene.output("out"),
        expected: |scene| oracle::flight_delays(&scene.at("input")),
    }
}

/// Output that appears with every checkpoint, not only at the end: the words themselves. They are
/// counted here, and the counts must be those of the text.
fn words() -> Victim {
    Victim {
        input: oracle::bible(),
        copies: 24,
        extension: "txt",
        job: jobs::head("words", "100ms")
            + jobs::VERSES
            + &jobs::split()
            + &jobs::keys("words", "split", "out"),
        output: |scene| oracle::count_keys(&scene.at("out")),
        expected: |scene| oracle::word_count(&scene.at("input")),
    }
}

#[test]
fn word_count_survives_ten_kills_at_parallelism_1() {
    survives(&word_count(), "1");
}

#[test]
fn word_count_survives_ten_kills_at_parallelism_2() {
    survives(&word_count(), "2");
}

#[test]
fn word_count_survives_ten_kills_at_parallelism_4() {
    survives(&word_count(), "4");
}

#[test]
fn flight_delays_survive_ten_kills_at_parallelism_1() {
    survives(&flight_delays(), "1");
}

#[test]
fn flight_delays_survive_ten_kills_at_parallelism_2() {
    survives(&flight_delays(), "2");
}

#[test]
fn flight_delays_survive_ten_kills_at_parallelism_4() {
    survives(&flight_delays(), "4");
}

#[test]
fn output_as_it_comes_survives_ten_kills() {
    survives(&words(), "2");
}
