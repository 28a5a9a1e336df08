//! Somebody asks a running job for this and that at random moments, and it writes what it would have written
//! alone. Conformance 30, 53, 80, 81, 84.
//!
//! Method: a job under load (numbers, each in the output at once, and counted at the end) is asked for savepoints,
//! checkpoints, other intervals and parallelisms, is stopped with and without a savepoint, killed and suspended, in an
//! order and at moments from a seed, and started again each time. 20 disturbances, or `HIGHWATER_REQUESTS=200`. Every
//! kind of disturbance comes at least once, and counts only if the answer says that it was carried out. When the job
//! ends before there were enough, its output is compared and another one begins. Every savepoint that was answered
//! must be valid when all is over, and from some of them a job goes on in other directories: what was published until
//! the savepoint, and what that job publishes, are the output. `HIGHWATER_SEED=<seed>` replays kinds and moments.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::control::{json, published_until, variables};
use crate::host::{self, Ended, Running};
use crate::jobs;
use crate::kills::Moments;
use crate::oracle::assert_same_lines;
use crate::scene::Scene;

/// How often the job is disturbed, if nothing else is asked for.
const REQUESTS: u64 = 20;

/// How many numbers a job passes on.
const NUMBERS: u64 = 60_000;

/// A job resumes elsewhere from one savepoint of this many.
const RESTORED: usize = 4;

/// What is done to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Checkpoint,
    Savepoint,
    /// Two of them at once.
    TwoSavepoints,
    /// One that nobody waits for, and whose outcome is asked for afterwards.
    DetachedSavepoint,
    Interval,
    Rescale,
    /// While a savepoint is under way.
    RescaleInSavepoint,
    Stop,
    /// With a savepoint; `--resume` goes on.
    StopWithSavepoint,
    /// With a savepoint; `-s` goes on from it.
    StopAndGoOnFromSavepoint,
    /// While a savepoint is under way.
    StopInSavepoint,
    /// SIGKILL.
    Kill,
    /// SIGKILL while a savepoint is under way.
    KillInSavepoint,
    /// SIGTERM.
    Suspend,
}

const KINDS: [Kind; 14] = [
    Kind::Checkpoint,
    Kind::Savepoint,
    Kind::TwoSavepoints,
    Kind::DetachedSavepoint,
    Kind::Interval,
    Kind::Rescale,
    Kind::RescaleInSavepoint,
    Kind::Stop,
    Kind::StopWithSavepoint,
    Kind::StopAndGoOnFromSavepoint,
    Kind::StopInSavepoint,
    Kind::Kill,
    Kind::KillInSavepoint,
    Kind::Suspend,
];

/// Numbers, each of them in `seen` at once, and counted in `totals` at the end.
fn job(rate: u64) -> String {
    let source = format!("rate = {rate}\ncount = {NUMBERS}");
    jobs::head("storm", "25ms")
        + &jobs::ENDLESS.replace("rate = 2000", &source)
        + &jobs::count("numbers")
        + &jobs::files("totals", "count", "totals", "csv")
        + &jobs::keys("seen", "numbers", "seen")
}

/// Faster than anything is disturbed.
const AT_ONCE: u64 = 1_000_000;

/// What the job writes if nobody disturbs it.
struct Undisturbed {
    totals: Vec<String>,
    seen: Vec<String>,
}

impl Undisturbed {
    fn new() -> Self {
        let scene = Scene::new();
        scene.write("job.toml", job(AT_ONCE));
        host::run(scene.path(), &["run", "job.toml"]).with_code(0);
        let (totals, seen) = (scene.output("totals"), scene.output("seen"));
        assert_eq!(seen.len() as u64, NUMBERS);
        Self { totals, seen }
    }

    fn is(&self, totals: &[String], seen: &[String], what: &str) {
        assert_same_lines(totals, &self.totals, &format!("totals {what}"));
        assert_same_lines(seen, &self.seen, &format!("numbers {what}"));
    }
}

/// A savepoint that was answered.
struct Savepoint {
    path: String,
    /// What was published until it, if a job shall go on from it.
    before: Option<Vec<String>>,
}

/// A job, and what happens to it.
struct Victim<'a> {
    scene: &'a Scene,
    moments: &'a mut Moments,
    variables: Vec<(String, String)>,
    running: Running,
    parallelism: u64,
    savepoints: Vec<Savepoint>,
    requests: u64,
}

/// The job came to its end before it could be disturbed.
struct IsOver;

impl<'a> Victim<'a> {
    fn new(scene: &'a Scene, moments: &'a mut Moments) -> Self {
        scene.write("job.toml", job(3_000));
        let variables = variables(scene);
        let arguments = ["run", "job.toml", "--json"];
        let mut running = host::start_with_variables(scene.path(), &arguments, &variables);
        running.event("started");
        Self {
            scene,
            moments,
            variables,
            running,
            parallelism: 1,
            savepoints: Vec::new(),
            requests: 0,
        }
    }

    /// Starts the job again after it was ended; what it was before has said all it will.
    fn go_on(&mut self, from: &[&str]) {
        self.parallelism = 1 + self.moments.below(3);
        let parallelism = self.parallelism.to_string();
        let arguments = [&["run", "job.toml", "--json", "-p", &parallelism], from].concat();
        self.running = host::start_with_variables(self.scene.path(), &arguments, &self.variables);
    }

    /// Waits for a moment of the job.
    fn moment(&mut self) -> Result<(), IsOver> {
        // Whether it hangs is judged from here on, not from when it was started.
        self.running.is_at_work();
        for _ in 0..self.moments.below(4) {
            let event = self.running.next_event().ok_or(IsOver)?;
            if event["event"] == "finished" {
                return Err(IsOver);
            }
        }
        thread::sleep(Duration::from_millis(self.moments.below(40)));
        Ok(())
    }

    /// Begins to ask.
    fn begin(&mut self, arguments: &[&str]) -> Running {
        let arguments = [arguments, &["--json"]].concat();
        host::start_with_variables(self.scene.path(), &arguments, &self.variables)
    }

    /// The answer. There is none only if the job is over.
    fn answer(&mut self, asked: Running) -> Result<Value, IsOver> {
        self.answer_of(&asked.wait())
    }

    fn answer_of(&mut self, ended: &Ended) -> Result<Value, IsOver> {
        if ended.status.success() {
            return Ok(json(ended));
        }
        while let Some(event) = self.running.next_event() {
            if event["event"] == "finished" && event["outcome"] == "finished" {
                return Err(IsOver);
            }
        }
        panic!(
            "an answer while the job is not over: {}",
            ended.transcript()
        );
    }

    fn ask(&mut self, arguments: &[&str]) -> Result<Value, IsOver> {
        let asked = self.begin(arguments);
        self.answer(asked)
    }

    /// Keeps a savepoint that was answered, every so often with what was published until it.
    fn keep(&mut self, taken: &Value, next_checkpoint: bool) -> Result<(), IsOver> {
        let taken = &taken["savepoint"];
        let path = taken["path"].as_str().expect("it has a path").to_owned();
        let id = taken["id"].as_u64().expect("it has a number");
        let before = match self.savepoints.len().is_multiple_of(RESTORED) {
            false => None,
            true => {
                if next_checkpoint {
                    // Only a checkpoint publishes what came before the savepoint.
                    let next = self.ask(&["checkpoint", "storm"])?;
                    assert!(next["checkpoint"]["id"].as_u64() > Some(id), "{next}");
                }
                Some(published_until(&self.scene.at("seen"), id))
            }
        };
        self.savepoints.push(Savepoint { path, before });
        Ok(())
    }

    fn request_id(&mut self) -> String {
        self.requests += 1;
        format!("r{}-{}", self.requests, self.savepoints.len())
    }

    /// Begins a savepoint for which nobody waits.
    fn savepoint_under_way(&mut self) -> Result<String, IsOver> {
        let id = self.request_id();
        let arguments = ["savepoint", "storm", "sp", "--detach", "--request-id", &id];
        let begun = self.ask(&arguments)?;
        assert_eq!(begun["request-id"], id.as_str());
        Ok(id)
    }

    fn stop(&mut self, more: &[&str]) -> Result<Value, IsOver> {
        let stopped = self.ask(&[&["stop", "storm"], more].concat())?;
        // It may have come to its end in that moment.
        if stopped["ended"] == "finished" {
            return Err(IsOver);
        }
        assert_eq!(stopped["ended"], "stopped", "{stopped}");
        assert_eq!(self.running.event("finished")["outcome"], "stopped");
        // Until then its directory is not free.
        while self.running.next_event().is_some() {}
        Ok(stopped)
    }

    fn rescale(&mut self) -> Result<(), IsOver> {
        let now = 1 + (self.parallelism + self.moments.below(3)) % 4;
        let parallelism = now.to_string();
        let report = self.ask(&["rescale", "storm", "-p", &parallelism])?;
        assert_eq!(report["now"], parallelism.as_str(), "{report}");
        self.parallelism = now;
        Ok(())
    }

    fn kill(&mut self) -> Result<(), IsOver> {
        self.running.signal("KILL");
        while let Some(event) = self.running.next_event() {
            if event["event"] == "finished" {
                return Err(IsOver);
            }
        }
        self.go_on(&["--resume"]);
        Ok(())
    }

    /// Does something to the job at some moment, and has it go on.
    fn disturb(&mut self, kind: Kind) -> Result<(), IsOver> {
        self.moment()?;
        match kind {
            Kind::Checkpoint => _ = self.ask(&["checkpoint", "storm"])?,
            Kind::Savepoint => {
                let taken = self.ask(&["savepoint", "storm", "sp"])?;
                self.keep(&taken, true)?;
            }
            Kind::TwoSavepoints => {
                let both = [(); 2].map(|()| self.begin(&["savepoint", "storm", "sp"]));
                let both = both.map(Running::wait);
                for ended in &both {
                    let taken = self.answer_of(ended)?;
                    self.keep(&taken, true)?;
                }
            }
            Kind::DetachedSavepoint => {
                let id = self.savepoint_under_way()?;
                let taken = self.ask(&["savepoint", "storm", "sp", "--request-id", &id])?;
                self.keep(&taken, true)?;
            }
            Kind::Interval => {
                let interval = format!("{}ms", 5 + self.moments.below(60));
                let changed = self.ask(&["interval", "storm", &interval])?;
                assert_eq!(changed["now"], interval.as_str(), "{changed}");
            }
            Kind::Rescale => self.rescale()?,
            Kind::RescaleInSavepoint => {
                let id = self.savepoint_under_way()?;
                self.rescale()?;
                // It may have had to make way.
                let arguments = ["savepoint", "storm", "sp", "--request-id", &id];
                let taken = self.begin(&arguments).wait();
                if taken.status.success() {
                    self.keep(&json(&taken), true)?;
                }
            }
            Kind::Stop => {
                self.stop(&[])?;
                self.go_on(&["--resume"]);
            }
            Kind::StopWithSavepoint | Kind::StopAndGoOnFromSavepoint => {
                let stopped = self.stop(&["--savepoint-path", "sp"])?;
                self.keep(&stopped, false)?;
                let path = stopped["savepoint"]["path"].as_str().expect("a path");
                match kind {
                    Kind::StopWithSavepoint => self.go_on(&["--resume"]),
                    _ => self.go_on(&["-s", path]),
                }
            }
            Kind::StopInSavepoint => {
                self.savepoint_under_way()?;
                self.stop(&[])?;
                self.go_on(&["--resume"]);
            }
            Kind::Kill => self.kill()?,
            Kind::KillInSavepoint => {
                self.savepoint_under_way()?;
                self.kill()?;
            }
            Kind::Suspend => {
                self.running.signal("TERM");
                while let Some(event) = self.running.next_event() {
                    if event["event"] == "finished" {
                        match event["outcome"].as_str() {
                            Some("suspended") => {}
                            Some("finished") => return Err(IsOver),
                            _ => panic!("after SIGTERM: {event}"),
                        }
                    }
                }
                self.go_on(&["--resume"]);
            }
        }
        Ok(())
    }

    /// Waits until it can be asked, if it was started again; not always, because it is a moment like any other.
    fn is_up(&mut self, next: Kind) -> Result<(), IsOver> {
        let needs_no_answer = matches!(next, Kind::Kill | Kind::Suspend);
        if needs_no_answer && self.moments.below(3) == 0 {
            return Ok(());
        }
        loop {
            let event = self.running.next_event().ok_or(IsOver)?;
            match event["event"].as_str() {
                Some("started") => return Ok(()),
                Some("finished") => return Err(IsOver),
                _ => {}
            }
        }
    }
}

/// From this savepoint a job goes on in directories of its own.
fn restores(scene: &Scene, savepoint: &Savepoint, number: usize, undisturbed: &Undisturbed) {
    let Some(before) = &savepoint.before else {
        return;
    };
    let at = |what: &str| format!("{what}-{number}");
    let settings = [
        format!("checkpoint.dir={}", at("checkpoints")),
        format!("sink.totals.path={}", at("totals")),
        format!("sink.seen.path={}", at("seen")),
        format!("source.numbers.rate={AT_ONCE}"),
    ];
    let mut arguments = vec!["run", "job.toml", "-s", &savepoint.path];
    arguments.extend(settings.iter().flat_map(|it| ["-D", it.as_str()]));
    host::run(scene.path(), &arguments).with_code(0);
    let mut seen = [before.clone(), scene.output(&at("seen"))].concat();
    seen.sort();
    let what = format!("before and after {}", savepoint.path);
    undisturbed.is(&scene.output(&at("totals")), &seen, &what);
    for directory in ["checkpoints", "totals", "seen"] {
        fs::remove_dir_all(scene.at(&at(directory))).expect("it can be removed");
    }
}

fn requests() -> u64 {
    match std::env::var("HIGHWATER_REQUESTS") {
        Ok(requests) => requests
            .parse()
            .expect("HIGHWATER_REQUESTS is a whole number"),
        Err(_) => REQUESTS,
    }
}

/// The kinds in a new order.
fn shuffled(moments: &mut Moments) -> Vec<Kind> {
    let mut kinds = KINDS.to_vec();
    for at in (1..kinds.len()).rev() {
        kinds.swap(at, moments.below(at as u64 + 1) as usize);
    }
    kinds
}

#[test]
fn c53_c80_c81_c84_a_job_that_is_asked_for_everything_writes_what_it_would_have_written() {
    let undisturbed = Undisturbed::new();
    let mut moments = Moments::new();
    let wanted = requests();
    let mut done: BTreeMap<Kind, u64> = BTreeMap::new();
    let mut waiting: Vec<Kind> = Vec::new();
    let (mut count, mut jobs, mut valid, mut restored) = (0, 0, 0, 0);
    while count < wanted {
        let scene = Scene::new();
        let mut victim = Victim::new(&scene, &mut moments);
        let mut is_up = true;
        let end = loop {
            if count == wanted {
                break Ok(());
            }
            if waiting.is_empty() {
                waiting = shuffled(victim.moments);
            }
            let kind = *waiting.last().expect("one is waiting");
            let process = victim.running.id();
            let disturbed = match is_up {
                true => Ok(()),
                false => victim.is_up(kind),
            };
            if disturbed.and_then(|()| victim.disturb(kind)).is_err() {
                break Err(IsOver);
            }
            is_up = victim.running.id() == process;
            waiting.pop();
            *done.entry(kind).or_default() += 1;
            count += 1;
        };
        let Victim {
            running,
            savepoints,
            ..
        } = victim;
        match end {
            Ok(()) => _ = running.wait().with_code(0),
            // It is at its end, or was killed after it.
            Err(IsOver) => {
                let ended = running.wait();
                if ended.status.code().is_some() {
                    ended.with_code(0);
                }
                host::run(scene.path(), &["run", "job.toml", "--resume"]).with_code(0);
            }
        }
        jobs += 1;
        undisturbed.is(
            &scene.output("totals"),
            &scene.output("seen"),
            "after all that was asked",
        );
        for (number, savepoint) in savepoints.iter().enumerate() {
            assert_valid(scene.path(), &savepoint.path);
            restores(&scene, savepoint, number, &undisturbed);
            restored += usize::from(savepoint.before.is_some());
        }
        valid += savepoints.len();
    }
    println!(
        "{count} disturbances of {jobs} jobs: {done:?}; {valid} savepoints are valid, {restored} of them restored"
    );
    if wanted >= KINDS.len() as u64 {
        assert_eq!(done.len(), KINDS.len(), "a kind is missing: {done:?}");
        assert!(restored > 0);
    }
}

fn assert_valid(directory: &Path, savepoint: &str) {
    host::run(directory, &["checkpoints", "verify", savepoint]).with_code(0);
}
