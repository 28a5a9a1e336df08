//! Whole jobs under a seeded simulation: any interleaving, operators that fail, storage that fails,
//! processes that are killed. What is committed in the end equals a reference that knows nothing of
//! all this.
//!
//! `HIGHWATER_SEED=n` runs one seed, `HIGHWATER_SEEDS=n` runs n of them; else the first seeds and some new ones.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "tests wait, print and measure"
)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

// Beside the tests, for each of these among them would be a test of its own.
#[path = "native/baton.rs"]
mod baton;
#[path = "native/clocked.rs"]
mod clocked;
#[path = "native/drawn.rs"]
mod drawn;
#[path = "native/events.rs"]
mod events;
#[path = "native/feeds.rs"]
mod feeds;
#[path = "native/hosts.rs"]
mod hosts;
#[path = "native/judge.rs"]
mod judge;
#[path = "native/jobs.rs"]
mod native;
#[path = "native/reference.rs"]
mod reference;
#[path = "native/results.rs"]
mod results;
#[path = "native/seeds.rs"]
mod seeds;
#[path = "native/shapes.rs"]
mod shapes;
#[path = "native/sinks.rs"]
mod sinks;
#[path = "native/steps.rs"]
mod steps;
#[path = "native/stored.rs"]
mod stored;
#[path = "native/timed.rs"]
mod timed;
#[path = "native/trouble.rs"]
mod trouble;
#[path = "native/user.rs"]
mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use checkpoint::lease::Ending;
use checkpoint::savepoint::SavepointTarget;
use checkpoint::storage::faults::{Action, Extent, Fault, Step};
use checkpoint::storage::{FaultyStorage, Guard, Listing, MemoryStorage, ObjectWriter, Storage};
use checkpoint::store::{CheckpointStore, Options as StoreOptions};
use checkpoint::{Completed, Error, verify};
use dataflow::alignment::Mode;
use operator::clock::Clock;
use operator::{SinkFactory, SourceFactory};
use runtime::control::Taken;
use runtime::coordinator::Settings;
use runtime::error::Class;
use runtime::simulation::{Random, Simulation, VirtualClock};
use runtime::{Job, JobEvent, JobGraph, Options, Outcome};

use drawn::Drawn;
use events::Pulse;
use feeds::{Pace, Reading};
use judge::Promise;
use native::{Collect, Committed, fixed};
use seeds::{new_seeds, seeds, try_seeds};
use shapes::Shape;
use sinks::Fragile;
use trouble::{Place, Trouble};
use user::{Ledger, Saved, User};

/// How many seeds are tried if nobody says otherwise.
const SEEDS: u64 = 400;

/// How many new ones beside them. Every run draws others.
const NEW_SEEDS: u64 = 100;

/// And of those with several hosts, which take longer.
const HOSTS_SEEDS: u64 = 150;

/// From this process on nothing fails any more, so that every job comes to its end.
const HEALTHY_PROCESS: u32 = 4;

/// The most turns that a process takes ahead of its crash.
const TURNS: u64 = 1_500;

/// A process that has not come to its end by then never will.
const TURNS_MAX: u64 = 400_000;

/// How many savepoints of a seed are restored from, at most.
const SAVEPOINTS_TRIED: usize = 4;

/// A mistake that is planted, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// The sink commits at the barrier.
    CommitsEarly,
    /// A record after a barrier gets before it.
    LetsRecordThrough,
    /// No channel waits for the others.
    DoesNotAlign,
    /// Metadata is durable before the data it refers to.
    MetadataFirst,
    /// A session that merges with another leaves that one's timer.
    SessionLeavesTimer,
}

/// What happened in a simulation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    checkpoints: u64,
    checkpoints_failed: u64,
    restarts: u64,
    storage_faults: u64,
    stalls: u64,
    crashes: u64,
    resumed: u64,
    rescaled: u64,
    fallbacks: u64,
    afresh: u64,
    naps: u64,
    at_least_once: u64,
    /// What the user has asked for, by whether it was done.
    answers: BTreeMap<(&'static str, bool), u64>,
    savepoints_restored: u64,
    stopped: u64,
    struck: BTreeMap<Place, u64>,
    /// How often each kind of node was there.
    nodes: BTreeMap<String, u64>,
    /// What was seen in the results of operators with time.
    seen: results::Seen,
    traces: Vec<u64>,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.checkpoints += other.checkpoints;
        self.checkpoints_failed += other.checkpoints_failed;
        self.restarts += other.restarts;
        self.storage_faults += other.storage_faults;
        self.stalls += other.stalls;
        self.crashes += other.crashes;
        self.resumed += other.resumed;
        self.rescaled += other.rescaled;
        self.fallbacks += other.fallbacks;
        self.afresh += other.afresh;
        self.naps += other.naps;
        self.at_least_once += other.at_least_once;
        self.savepoints_restored += other.savepoints_restored;
        self.stopped += other.stopped;
        for (answer, times) in &other.answers {
            *self.answers.entry(*answer).or_default() += times;
        }
        for (place, times) in &other.struck {
            *self.struck.entry(*place).or_default() += times;
        }
        for (kind, times) in &other.nodes {
            *self.nodes.entry(kind.clone()).or_default() += times;
        }
        for (what, times) in &other.seen {
            *self.seen.entry(what).or_default() += times;
        }
    }
}

/// The newest checkpoint of all processes so far. All are whole, unless something was damaged on
/// purpose: then those go that suffer from it, and the newest of the others is taken. Those up to
/// `behind` are of an earlier life of the job.
fn newest(
    disk: &Arc<dyn Storage>,
    behind: u64,
    damaged: bool,
) -> Result<Option<Completed>, String> {
    let failed = |error| format!("{error:?}");
    let mut newest = None;
    for (id, directory) in stored::completed(&**disk).map_err(failed)? {
        let problem = match Completed::open(Arc::clone(disk), &directory) {
            Ok(found) => match verify(&found).problems.into_iter().next() {
                None => {
                    newest = newest.or((id > behind).then_some(found));
                    continue;
                }
                Some(problem) => format!("{problem:?}"),
            },
            Err(error) => format!("{error:?}"),
        };
        if !damaged {
            return Err(format!("checkpoint {id} is corrupt: {problem}"));
        }
        let metadata = format!("{directory}/_metadata");
        disk.delete(&metadata).map_err(failed)?;
    }
    Ok(newest)
}

/// Damages something of the newest checkpoint, if there is an older one that does not suffer from it.
fn damage(disk: &Arc<dyn Storage>, random: &mut Random) -> Result<bool, Error> {
    let found = stored::completed(&**disk)?;
    let [(_, newest), (_, older), ..] = found.as_slice() else {
        return Ok(false);
    };
    let mut objects = vec![format!("{newest}/_metadata")];
    let open = |directory: &str| Completed::open(Arc::clone(disk), directory);
    objects.extend(stored::files(&open(newest)?, newest));
    let object = &objects[random.below(objects.len() as u64) as usize];
    let whole = disk.read(object, 0..u64::MAX >> 1)?;
    let mut bytes = whole.to_vec();
    disk.delete(object)?;
    match random.below(3) {
        0 => {}
        1 => {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
            disk.put_new(object, vec![bytes.into()])?;
        }
        _ => {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            disk.put_new(object, vec![bytes.into()])?;
        }
    }
    if verify(&open(older)?).is_good() {
        return Ok(true);
    }
    disk.delete(object)?;
    disk.put_new(object, vec![whole])?;
    Ok(false)
}

/// Fails now and then, is down for a while, and may crash.
fn storage_plan(
    random: &mut Random,
    clock: &VirtualClock,
) -> impl Fn(&Step) -> Fault + Send + Sync + use<> {
    let every = [0, 15, 40, 120][random.below(4) as usize];
    let down = match random.one_in(4) {
        true => {
            let from = clock.now_ms() + random.below(80) as i64;
            from..from + random.below(60) as i64
        }
        false => 0..0,
    };
    let random = Mutex::new(Random::new(random.next_u64()));
    let clock = clock.clone();
    move |_| {
        if down.contains(&clock.now_ms()) {
            return Fault::Fail(Extent::Nothing);
        }
        let mut random = random.lock().unwrap();
        if every == 0 || !random.one_in(every) {
            return Fault::None;
        }
        let extent = [Extent::Nothing, Extent::All][random.below(2) as usize];
        match random.one_in(4) {
            true => Fault::Crash(extent),
            false => Fault::Fail(extent),
        }
    }
}

/// A job over several processes.
struct World {
    mistake: Mistake,
    random: Random,
    shape: Drawn,
    mode: Mode,
    disk: Arc<dyn Storage>,
    clock: VirtualClock,
    committed: BTreeMap<String, Committed>,
    staged: BTreeMap<String, Committed>,
    /// All processes under one id, in one directory.
    same_id: bool,
    tally: Tally,
    /// Parallelism of each node in the last process.
    parallelism: Vec<u32>,
    /// Nothing was left undone by a storage so far.
    clean: bool,
    /// The highest number of a checkpoint when the job was last started afresh.
    behind: u64,
    /// The number of the checkpoint that was completed last.
    last_completed: u64,
    /// Savepoints that were reported to the user while all output is as it should be.
    saved: Vec<Saved>,
    /// Those whose output is known.
    kept: Vec<Saved>,
    /// How far operators have been. A restored one may not say again what it had reached.
    pulse: Pulse,
}

impl World {
    fn new(seed: u64, mistake: Mistake) -> Self {
        let mut random = Random::new(seed);
        let mode = match random.one_in(5) && mistake == Mistake::None {
            true => Mode::AtLeastOnce,
            false => Mode::ExactlyOnce,
        };
        let shape = Drawn::Plain(Shape::draw(&mut random, mode));
        Self::of(random, mistake, mode, shape)
    }

    /// One with event time and timers.
    fn timed(seed: u64, mistake: Mistake) -> Self {
        let mut random = Random::new(seed);
        let leaves_timers = mistake == Mistake::SessionLeavesTimer;
        let shape = Drawn::Timed(timed::Shape::draw(&mut random, leaves_timers));
        Self::of(random, mistake, Mode::ExactlyOnce, shape)
    }

    fn of(mut random: Random, mistake: Mistake, mode: Mode, shape: Drawn) -> Self {
        let mut tally = Tally::default();
        shape.count_nodes(&mut tally.nodes);
        tally.at_least_once = u64::from(mode == Mode::AtLeastOnce);
        let sinks = shape.sinks().into_iter();
        let nothing = sinks.map(|sink| (sink, Committed::default()));
        let [committed, staged] = [nothing.clone(), nothing].map(Iterator::collect);
        Self {
            mistake,
            mode,
            disk: match mistake {
                Mistake::MetadataFirst => Arc::new(MetadataFirst::default()),
                _ => Arc::new(MemoryStorage::new()),
            },
            clock: VirtualClock::at(1_700_000_000_000),
            committed,
            staged,
            same_id: random.one_in(2),
            shape,
            random,
            tally,
            parallelism: Vec::new(),
            clean: true,
            behind: 0,
            last_completed: 0,
            saved: Vec::new(),
            kept: Vec::new(),
            pulse: Pulse::default(),
        }
    }

    /// The user throws away what there is of output, and starts the job from the beginning. The
    /// checkpoints stay.
    fn start_afresh(&mut self) -> Result<(), String> {
        self.keep_saved(true)?;
        let found = stored::completed(&*self.disk).map_err(|error| format!("{error:?}"))?;
        self.behind = found.first().map_or(0, |(id, _)| *id);
        for outputs in self.committed.values().chain(self.staged.values()) {
            outputs.lock().unwrap().clear();
        }
        self.pulse = Pulse::default();
        self.tally.afresh += 1;
        Ok(())
    }

    /// Numbers of completed checkpoints go up, also over processes in one directory. None comes twice.
    fn check_number(
        &mut self,
        id: u64,
        is_complete: bool,
        seen: &mut BTreeSet<u64>,
    ) -> Result<(), String> {
        let known = self.last_completed;
        // Two may be completed at once, and the older one's metadata come last: it was said to be
        // subsumed by then.
        let late = is_complete && seen.contains(&id) && id < known;
        if !late && (!seen.insert(id) || is_complete && self.same_id && id <= known) {
            return Err(format!("checkpoint {id} comes after {known} and {seen:?}"));
        }
        if is_complete {
            self.last_completed = id.max(known);
        }
        Ok(())
    }

    /// The graph as this process runs it.
    fn graph(
        &mut self,
        process: u32,
        restores: bool,
        storage: &FaultyStorage,
        trouble: &Trouble,
    ) -> JobGraph {
        let parallelism = self.shape.draw_parallelism(&mut self.random);
        let rescaled = !self.parallelism.is_empty() && self.parallelism != parallelism;
        self.tally.rescaled += u64::from(rescaled && restores);
        self.parallelism = parallelism;
        let random = &mut self.random;
        let (clock, mistake) = (&self.clock, self.mistake);
        let (committed, staged) = (&self.committed, &self.staged);
        let sink = |sink: &str| -> Arc<dyn SinkFactory> {
            let collect = Collect {
                committed: Arc::clone(&committed[sink]),
                staged: Arc::clone(&staged[sink]),
                process: Some(storage.clone()),
                commits_early: mistake == Mistake::CommitsEarly,
                run: process,
                ..Collect::default()
            };
            Arc::new(Fragile {
                sink: Arc::new(collect),
                trouble: trouble.clone(),
            })
        };
        let ends = process >= HEALTHY_PROCESS;
        match &self.shape {
            Drawn::Plain(shape) => {
                let source = |feed: &feeds::Feed| -> Arc<dyn SourceFactory> {
                    Arc::new(Reading {
                        feed: feed.clone(),
                        pace: Pace::draw(random),
                        ends,
                        clock: clock.clone(),
                        random: Random::new(random.next_u64()),
                        trouble: trouble.clone(),
                    })
                };
                shape.graph(&self.parallelism, trouble, source, sink)
            }
            Drawn::Timed(shape) => {
                let pulse = &self.pulse;
                let source = |feed: &events::Feed| -> Arc<dyn SourceFactory> {
                    Arc::new(events::Reading {
                        feed: feed.clone(),
                        pace: Pace::draw(random),
                        ends,
                        clock: clock.clone(),
                        random: Random::new(random.next_u64()),
                        trouble: trouble.clone(),
                        pulse: pulse.clone(),
                    })
                };
                shape.graph(&self.parallelism, trouble, pulse, source, sink)
            }
        }
    }

    fn options(&mut self, id: &str, endless: bool, healthy: bool) -> Options {
        let random = &mut self.random;
        let misaligned = self.mistake == Mistake::DoesNotAlign;
        Options {
            name: "simulated".into(),
            id: id.into(),
            run: "00000000".into(),
            checkpoint: Settings {
                // Without any, nothing but records moves anybody.
                interval_ms: (endless || !random.one_in(6)).then(|| 1 + random.below(12)),
                min_pause_ms: random.below(3),
                max_concurrent: 1 + random.below(3) as u32,
                // In the end what fails is taken again, and what is slow is waited for.
                tolerable_failures: if healthy {
                    u32::MAX
                } else {
                    random.below(3) as u32
                },
                timeout_ms: 5 + random.below(300) + if healthy { 3_000 } else { 0 },
            },
            mode: if misaligned {
                Mode::AtLeastOnce
            } else {
                self.mode
            },
            incremental: random.one_in(2),
            restart: fixed(3),
            timer_calls_max: runtime::TIMER_CALLS_MAX,
        }
    }

    /// Runs the job once. Returns whether it has finished.
    fn run_process(&mut self, process: u32, restore: Option<Completed>) -> Result<bool, String> {
        let healthy = process >= HEALTHY_PROCESS;
        let endless = self.shape.is_endless() && !healthy;
        let plan = storage_plan(&mut self.random, &self.clock);
        let storage = FaultyStorage::new(Arc::clone(&self.disk), move |step| match healthy {
            true => Fault::None,
            false => plan(step),
        });
        let most = if healthy { 0 } else { 4 };
        let trouble = Trouble::new(Random::new(self.random.next_u64()), most);
        let graph = self.graph(process, restore.is_some(), &storage, &trouble);
        let id = match self.same_id {
            true => "simulated".to_owned(),
            false => format!("simulated-{process}"),
        };
        let options = self.options(&id, endless, healthy);
        let retained = 1 + self.random.below(3) as usize;
        let store_options = StoreOptions {
            inline_threshold: [0, 200][self.random.below(2) as usize],
            retained,
            incremental: options.incremental || self.random.one_in(2),
            ..StoreOptions::default()
        };
        let turns = match (endless || self.random.one_in(2)) && !healthy {
            true => self.random.below(TURNS),
            false => TURNS_MAX,
        };
        let mut simulation = Simulation::new(
            Random::new(self.random.next_u64()),
            self.clock.clone(),
            storage.clone(),
        )
        .crash_after(turns);
        if self.random.one_in(3) {
            simulation = simulation.napping(200 + self.random.below(1_000));
        }
        if self.random.one_in(3) && !healthy {
            simulation = simulation.stalling(2 + self.random.below(30));
        }
        if self.mistake == Mistake::LetsRecordThrough {
            simulation = simulation.letting_records_through();
        }
        self.tally.resumed += u64::from(restore.is_some());
        if let Some(restore) = &restore {
            runtime::restore::check(&graph, restore, false)
                .map_err(|mismatches| format!("{mismatches:?}"))?;
        }
        let store = CheckpointStore::with_storage(Arc::new(storage.clone()), &id, store_options);
        let store = store.ok();
        let (handle, ledger) = (Arc::new(OnceLock::new()), Ledger::default());
        if let Some(mut user) = self.user(process, &id, &storage, &trouble) {
            user.handle = Arc::clone(&handle);
            user.ledger = ledger.clone();
            simulation = simulation.before_turns(move || user.look());
        }
        let deletes = self.random.one_in(2);
        let mut events = Vec::new();
        let outcome = store.as_ref().map(|store| {
            let clock = Arc::new(self.clock.clone());
            let job = Job::new(graph, options, store.clone(), restore, clock);
            let _ = handle.set(job.handle());
            simulation.run(&job, |event| events.push(event))
        });
        let entries = ledger.close()?;
        for (answer, times) in entries.answers {
            *self.tally.answers.entry(answer).or_default() += times;
        }
        if self.tally.fallbacks == 0 {
            self.saved.extend(entries.saved);
        }
        let mut seen = BTreeSet::new();
        let failed_before = self.tally.checkpoints_failed;
        for event in events {
            match event {
                JobEvent::CheckpointCompleted {
                    id,
                    savepoint: true,
                    ..
                }
                | JobEvent::CheckpointFailed {
                    id,
                    savepoint: true,
                    ..
                } => {
                    if !seen.insert(id) {
                        return Err(format!("savepoint {id} comes twice"));
                    }
                }
                JobEvent::CheckpointCompleted { id, .. } => {
                    if let Some(stopped) = entries.stopped_at.filter(|stopped| id > *stopped) {
                        return Err(format!("checkpoint {id} comes after the stop at {stopped}"));
                    }
                    self.check_number(id, true, &mut seen)?;
                    self.tally.checkpoints += 1;
                }
                JobEvent::CheckpointFailed { id, .. } => {
                    self.check_number(id, false, &mut seen)?;
                    self.tally.checkpoints_failed += 1;
                }
                JobEvent::Restarting { .. } => self.tally.restarts += 1,
                JobEvent::Started { .. } => {}
            }
        }
        if simulation.turns() >= TURNS_MAX {
            return Err(format!("process {process} does not come to its end"));
        }
        let tally = &mut self.tally;
        tally.traces.push(simulation.trace());
        tally.stalls += simulation.stalls();
        tally.naps += simulation.naps();
        tally.storage_faults += storage.faults().len() as u64;
        for (place, times) in trouble.struck() {
            *tally.struck.entry(place).or_default() += times;
        }
        let finished = match outcome {
            Some(Outcome::Finished) => true,
            Some(Outcome::Stopped { .. }) => {
                tally.stopped += 1;
                self.check_stopped(process)?;
                false
            }
            Some(Outcome::Suspended) => {
                tally.crashes += 1;
                false
            }
            None
            | Some(Outcome::Failed {
                class: Class::Retry | Class::Refused,
                ..
            }) if !healthy => false,
            other => return Err(format!("process {process} ended with {other:?}")),
        };
        if let Some(store) = &store
            && finished
            && deletes
        {
            drop(store.end(Ending::Finished, false, self.clock.now_ms()));
        }
        drop(store);
        self.clean &= storage.faults().is_empty() && !storage.has_crashed();
        // A checkpoint that could not be deleted outlives the files that it shared with others.
        for (step, fault) in storage.faults() {
            let stays = fault == Fault::Fail(Extent::Nothing) && step.name.ends_with("/_metadata");
            if step.action == Action::Delete && stays {
                self.disk
                    .delete(&step.name)
                    .map_err(|error| format!("{error:?}"))?;
            }
        }
        // One that was given up while its metadata was written may exist, until a newer one completes.
        let given_up = match finished {
            true => 0,
            false => (self.tally.checkpoints_failed - failed_before) as usize,
        };
        self.check_stored(&id, retained + given_up, finished && deletes)?;
        Ok(finished)
    }

    /// A user of a process; none where a mistake is planted.
    fn user(
        &mut self,
        process: u32,
        id: &str,
        storage: &FaultyStorage,
        trouble: &Trouble,
    ) -> Option<User> {
        if self.mistake != Mistake::None {
            return None;
        }
        let parallelism = self.parallelism.clone();
        let graphs = (0..2).map(|_| self.graph(process, false, storage, trouble));
        let graphs = graphs.collect();
        self.parallelism = parallelism;
        let healthy = process >= HEALTHY_PROCESS;
        Some(User {
            random: Random::new(self.random.next_u64()),
            one_in: [50, 150, 500, u64::MAX][self.random.below(4) as usize],
            left: 30,
            handle: Arc::default(),
            ledger: Ledger::default(),
            target: SavepointTarget::with_storage(Arc::new(storage.clone()), id).unwrap(),
            graphs,
            may_stop: !healthy,
            may_drain: !self.shape.tells_end(),
            needs_interval: self.shape.is_endless(),
            committed: self.committed.clone(),
        })
    }

    /// Whoever has stopped has committed all that it had prepared.
    fn check_stopped(&self, process: u32) -> Result<(), String> {
        let of_process = format!("/r{process}-");
        for staged in self.staged.values() {
            let staged = staged.lock().unwrap();
            if let Some(name) = staged.keys().find(|name| name.contains(&of_process)) {
                return Err(format!("the job has stopped and {name} is not committed"));
            }
        }
        Ok(())
    }

    /// The savepoint that was taken.
    fn open_savepoint(&self, taken: &Taken) -> Result<Completed, String> {
        let objects = stored::objects(&*self.disk);
        let objects = objects.map_err(|error| format!("{taken:?}: {error:?}"))?;
        let directories = objects.iter().filter_map(|name| {
            let directory = name.strip_suffix("/_metadata")?;
            directory.starts_with("savepoint-").then_some(directory)
        });
        let opened = directories.map(|it| Completed::open(Arc::clone(&self.disk), it));
        let mut found = opened.filter_map(Result::ok);
        let found = found.find(|found| found.path() == taken.path);
        found.ok_or(format!("{taken:?} is gone"))
    }

    /// What was prepared in the savepoints so far is committed by now: whatever has happened to the job since, it went
    /// on from a checkpoint after them. `disturbed`: the user has seen to it that it does not.
    fn keep_saved(&mut self, disturbed: bool) -> Result<(), String> {
        for saved in std::mem::take(&mut self.saved) {
            let found = self.open_savepoint(&saved.taken)?;
            let mut missing = false;
            for (sink, committed) in &self.committed {
                let committed = committed.lock().unwrap();
                let mut own = saved.committed[sink].lock().unwrap();
                let parts = runtime::restore::parts(&found, sink);
                for part in parts.iter().flatten() {
                    let name = part[1].as_str().unwrap();
                    match committed.get(name) {
                        Some(records) => drop(own.insert(name.to_owned(), records.clone())),
                        None => missing = true,
                    }
                }
            }
            // What is missing is found to be lost when the savepoint is restored from.
            if !(missing && disturbed) {
                self.kept.push(saved);
            }
        }
        Ok(())
    }

    /// A second job goes on from a savepoint, in a directory of its own: with what was committed up to it, it comes
    /// to the same end.
    fn restore_savepoint(&mut self, number: usize, saved: Saved) -> Result<(), String> {
        let Saved { taken, committed } = saved;
        self.committed = committed;
        let nothing = self.staged.keys().cloned();
        self.staged = nothing.map(|sink| (sink, Committed::default())).collect();
        let found = self.open_savepoint(&taken)?;
        let failed = |error| format!("savepoint {}: {error:?}", taken.id);
        if let Some(problem) = verify(&found).problems.first() {
            return Err(format!("savepoint {} is corrupt: {problem:?}", taken.id));
        }
        let storage = FaultyStorage::counting(Arc::new(MemoryStorage::new()));
        let trouble = Trouble::new(Random::new(0), 0);
        let process = 1_000 + number as u32;
        let graph = self.graph(process, true, &storage, &trouble);
        let options = self.options("restored", false, true);
        runtime::restore::check(&graph, &found, false)
            .map_err(|mismatches| format!("{mismatches:?}"))?;
        let store_options = StoreOptions::default();
        let store =
            CheckpointStore::with_storage(Arc::new(storage.clone()), "restored", store_options);
        let clock = Arc::new(self.clock.clone());
        let job = Job::new(graph, options, store.map_err(failed)?, Some(found), clock);
        let random = Random::new(self.random.next_u64());
        let outcome = Simulation::new(random, self.clock.clone(), storage)
            .crash_after(TURNS_MAX)
            .run(&job, |_| {});
        if !matches!(outcome, Outcome::Finished) {
            return Err(format!("a job from {taken:?} ends with {outcome:?}"));
        }
        self.tally.savepoints_restored += 1;
        let promise = match self.mode {
            Mode::AtLeastOnce => Promise::AtLeastOnce,
            Mode::ExactlyOnce => Promise::ExactlyOnce,
        };
        self.shape
            .judge(&self.committed, promise, &mut self.tally.seen)
            .map_err(|difference| format!("from {taken:?}: {difference}"))
    }

    /// What is believed is whole. Where nothing was broken, nothing is left over.
    fn check_stored(&self, id: &str, retained: usize, deleted: bool) -> Result<(), String> {
        let failed = |error| format!("{error:?}");
        let mut of_this_run = 0;
        for (number, directory) in stored::completed(&*self.disk).map_err(failed)? {
            let checkpoint = Completed::open(Arc::clone(&self.disk), &directory);
            let report = verify(&checkpoint.map_err(failed)?);
            if let Some(problem) = report.problems.first() {
                return Err(format!("checkpoint {number} is corrupt: {problem:?}"));
            }
            of_this_run += usize::from(directory.starts_with(&format!("{id}/")));
        }
        if !self.clean {
            return Ok(());
        }
        let mut orphans = stored::orphans(&self.disk).map_err(failed)?;
        orphans.retain(|name| !name.starts_with("savepoint-"));
        if !orphans.is_empty() {
            return Err(format!("files are left behind: {orphans:?}"));
        }
        let most = if deleted { 0 } else { retained };
        if of_this_run > most && !self.same_id {
            return Err(format!("{of_this_run} checkpoints are left, not {most}"));
        }
        Ok(())
    }
}

fn simulate(seed: u64, mistake: Mistake) -> Result<Tally, String> {
    run_world(World::new(seed, mistake))
}

/// One with event time and timers.
fn simulate_time(seed: u64, mistake: Mistake) -> Result<Tally, String> {
    run_world(World::timed(seed, mistake))
}

/// Runs a job to its end, process after process. An error is a difference.
fn run_world(mut world: World) -> Result<Tally, String> {
    for process in 0.. {
        let may_damage = process > 0 && world.random.one_in(4);
        let damaged = may_damage
            && damage(&world.disk, &mut world.random).map_err(|error| format!("{error:?}"))?;
        if damaged {
            // After this output comes again.
            world.keep_saved(true)?;
            world.tally.fallbacks += 1;
            // What is damaged is thrown away below, and its number forgotten.
            world.clean = false;
            world.last_completed = 0;
        }
        if world.same_id && process > 0 && world.random.one_in(8) {
            world.start_afresh()?;
        }
        if process > 0 && matches!(world.shape, Drawn::Timed(_)) {
            // Timers fall due while nobody is there.
            let down = world.random.below(1_000);
            let now = world.clock.now_ms();
            world.clock.advance_to(now.saturating_add_unsigned(down));
        }
        let restore = newest(&world.disk, world.behind, damaged)?;
        if world.run_process(process, restore)? {
            break;
        }
    }
    world.keep_saved(false)?;
    let mut savepoints = std::mem::take(&mut world.kept);
    let (tally, world_mode) = (world.tally.clone(), world.mode);
    let restored = tally.resumed + tally.restarts + tally.crashes > 0;
    let rescaled = tally.answers.contains_key(&("rescale", true));
    let promise = match world_mode {
        Mode::AtLeastOnce if restored || rescaled => Promise::AtLeastOnce,
        _ if tally.fallbacks > 0 => Promise::Repeated,
        _ => Promise::ExactlyOnce,
    };
    world
        .shape
        .judge(&world.committed, promise, &mut world.tally.seen)
        .map_err(|difference| format!("{difference}; {tally:?}"))?;
    // All of them would take too long: some are drawn.
    while savepoints.len() > SAVEPOINTS_TRIED {
        let index = world.random.below(savepoints.len() as u64) as usize;
        savepoints.swap_remove(index);
    }
    for (number, saved) in savepoints.into_iter().enumerate() {
        world.restore_savepoint(number, saved)?;
    }
    Ok(world.tally)
}

fn try_all(seeds: Range<u64>, mistake: Mistake) -> Result<Tally, (u64, String)> {
    try_seeds(seeds, |seed| simulate(seed, mistake), Tally::add)
}

/// No seed finds a difference; `filter` is that of the test which tries one again.
fn none_differs<T: Debug>(tried: Result<T, (u64, String)>, filter: &str) -> T {
    let all = tried.unwrap_or_else(|(seed, difference)| {
        panic!(
            "{difference}\nseed {seed}: replay with\n    \
             HIGHWATER_SEED={seed} cargo test -p runtime --test simulation {filter}"
        )
    });
    println!("{all:?}");
    all
}

/// No seed of the plain jobs finds a difference.
fn none_differs_plain(seeds: Range<u64>) -> Tally {
    none_differs(try_all(seeds, Mistake::None), "every_seed")
}

#[test]
fn every_seed_commits_what_the_reference_says() {
    none_differs_plain(new_seeds(NEW_SEEDS));
    let seeds = seeds(SEEDS);
    let all = none_differs_plain(seeds.clone());
    // All this has really happened, many times.
    let seeds = seeds.end - seeds.start;
    if seeds >= SEEDS {
        let done = |word| all.answers.get(&(word, true)).copied().unwrap_or_default();
        let happened = [
            ("checkpoints", all.checkpoints / 2),
            ("failed checkpoints", all.checkpoints_failed),
            ("restarts", all.restarts),
            ("storage faults", all.storage_faults),
            ("stalls", all.stalls),
            ("crashes", all.crashes),
            ("resumed processes", all.resumed),
            ("rescaled processes", all.rescaled),
            ("fallbacks", 5 * all.fallbacks),
            ("fresh starts", 2 * all.afresh),
            ("naps", all.naps),
            ("at-least-once", all.at_least_once),
            ("savepoints restored from", all.savepoints_restored / 4),
            ("checkpoints asked for", done("checkpoint")),
            ("savepoints", done("savepoint")),
            ("stops", done("stop")),
            ("drains", 3 * done("drain")),
            ("rescales", done("rescale")),
            ("intervals", done("interval")),
        ];
        for (what, times) in happened {
            assert!(times > seeds / 10, "{what}: {all:?}");
        }
        let places = all.struck.keys().collect::<BTreeSet<_>>().len();
        assert_eq!(places, 9, "{all:?}");
        assert!(
            all.nodes.values().all(|times| *times > seeds / 10),
            "{all:?}"
        );
        assert_eq!(all.nodes.len(), 13 + 2 + 4, "{all:?}");
    }
}

#[test]
fn a_seed_does_the_same_each_time() {
    for seed in 0..30 {
        let first = simulate(seed, Mistake::None).unwrap();
        assert_eq!(simulate(seed, Mistake::None).unwrap(), first, "seed {seed}");
    }
}

/// What the first seed that finds a mistake says about it.
fn found(mistake: Mistake) -> String {
    let outcome = try_all(0..SEEDS, mistake);
    let Err((seed, what)) = outcome else {
        panic!("no seed finds {mistake:?}")
    };
    println!("{mistake:?} is found by seed {seed}: {what}");
    what
}

#[test]
fn a_sink_that_commits_on_the_barrier_is_found() {
    let what = found(Mistake::CommitsEarly);
    assert!(what.contains("records are committed"), "{what}");
}

#[test]
fn an_alignment_that_lets_one_record_through_is_found() {
    let what = found(Mistake::LetsRecordThrough);
    assert!(what.contains("records are committed"), "{what}");
}

#[test]
fn channels_that_do_not_wait_for_each_other_are_found() {
    let what = found(Mistake::DoesNotAlign);
    assert!(what.contains("records are committed"), "{what}");
}

#[test]
fn metadata_that_is_durable_before_its_data_is_found() {
    let what = found(Mistake::MetadataFirst);
    assert!(what.contains("is corrupt"), "{what}");
}

/// Jobs with event time and timers: see [`timed`].
fn none_differs_in_time(seeds: Range<u64>) -> Tally {
    let simulate = |seed| simulate_time(seed, Mistake::None);
    none_differs(
        try_seeds(seeds, simulate, Tally::add),
        "every_seed_with_time",
    )
}

#[test]
fn every_seed_with_time_commits_what_the_reference_says() {
    none_differs_in_time(new_seeds(NEW_SEEDS));
    let seeds = seeds(SEEDS);
    let all = none_differs_in_time(seeds.clone());
    let seeds = seeds.end - seeds.start;
    if seeds >= SEEDS {
        let happened = [
            ("checkpoints", all.checkpoints / 2),
            ("restarts", all.restarts),
            ("crashes", all.crashes),
            ("resumed processes", all.resumed),
            ("rescaled processes", all.rescaled),
            ("fallbacks", 5 * all.fallbacks),
            ("savepoints restored from", all.savepoints_restored / 4),
            ("stops", all.stopped),
        ];
        let happened = happened
            .into_iter()
            .map(|(what, times)| (what.to_owned(), times));
        let seen = all
            .seen
            .iter()
            .map(|(what, times)| ((*what).to_owned(), *times));
        for (what, times) in happened.chain(seen).chain(all.nodes.clone()) {
            assert!(times > seeds / 10, "{what}: {all:?}");
        }
        assert_eq!(all.struck.len(), 10, "{all:?}");
        assert_eq!(all.seen.len(), 7, "{all:?}");
        assert_eq!(all.nodes.len(), 5 + 5, "{all:?}");
    }
}

#[test]
fn a_seed_with_time_does_the_same_each_time() {
    for seed in 0..30 {
        let first = simulate_time(seed, Mistake::None).unwrap();
        let again = simulate_time(seed, Mistake::None).unwrap();
        assert_eq!(again, first, "seed {seed}");
    }
}

#[test]
fn a_session_that_merges_without_moving_its_timer_is_found() {
    let simulate = |seed| simulate_time(seed, Mistake::SessionLeavesTimer);
    let Err((seed, what)) = try_seeds(0..SEEDS, simulate, Tally::add) else {
        panic!("no seed finds it")
    };
    println!("it is found by seed {seed}: {what}");
    assert!(what.contains("complaint: timer"), "{what}");
}

/// One job on several hosts: see [`hosts`].
fn on_hosts(seeds: Range<u64>, mistake: hosts::Mistake) -> Result<hosts::Tally, (u64, String)> {
    let in_memory = |sinks: &[String]| -> Arc<dyn hosts::Outputs> {
        Arc::new(hosts::InMemory::new(sinks, mistake))
    };
    let simulate = |seed| hosts::simulate(seed, mistake, in_memory);
    try_seeds(seeds, simulate, hosts::Tally::add)
}

/// No seed on several hosts finds a difference.
fn none_differs_on_hosts(seeds: Range<u64>) -> hosts::Tally {
    none_differs(on_hosts(seeds, hosts::Mistake::None), "several_hosts")
}

#[test]
fn every_seed_on_several_hosts_commits_what_the_reference_says() {
    none_differs_on_hosts(new_seeds(NEW_SEEDS));
    let seeds = seeds(HOSTS_SEEDS);
    let all = none_differs_on_hosts(seeds.clone());
    let seeds = seeds.end - seeds.start;
    if seeds >= HOSTS_SEEDS {
        let rare = all.rarer_than(1);
        assert!(rare.is_empty(), "numbers {rare:?} of {all:?}");
    }
}

#[test]
fn a_seed_does_the_same_on_several_hosts_each_time() {
    let in_memory = |sinks: &[String]| -> Arc<dyn hosts::Outputs> {
        Arc::new(hosts::InMemory::new(sinks, hosts::Mistake::None))
    };
    for seed in 0..30 {
        let once = || hosts::simulate(seed, hosts::Mistake::None, in_memory).unwrap();
        assert_eq!(once(), once(), "seed {seed}");
    }
}

/// Some seed of the normal run finds a mistake; says what it says.
fn is_found_on_hosts(mistake: hosts::Mistake) {
    let Err((seed, what)) = on_hosts(0..HOSTS_SEEDS, mistake) else {
        panic!("no seed finds {mistake:?}")
    };
    println!("{mistake:?} is found by seed {seed}: {what}");
}

#[test]
fn a_look_where_storage_is_late_is_found() {
    is_found_on_hosts(hosts::Mistake::TrustsTheLook);
}

#[test]
fn a_restart_that_leaves_slots_open_is_found() {
    is_found_on_hosts(hosts::Mistake::LeavesSlotsOpen);
}

#[test]
fn a_start_without_the_lease_is_found() {
    is_found_on_hosts(hosts::Mistake::TakesNoLease);
}

#[test]
fn an_end_that_deletes_without_its_record_is_found() {
    is_found_on_hosts(hosts::Mistake::DeletesWithoutRecord);
}

#[test]
fn an_end_that_abandons_what_successors_have_staged_is_found() {
    is_found_on_hosts(hosts::Mistake::AbandonsSuccessors);
}

#[test]
fn staged_names_without_the_attempt_are_found() {
    is_found_on_hosts(hosts::Mistake::NamesWithoutAttempt);
}

#[test]
fn a_commit_that_asks_for_existence_only_is_found() {
    is_found_on_hosts(hosts::Mistake::CommitsByExistence);
}

#[test]
fn a_start_decided_before_the_lease_was_taken_is_found() {
    is_found_on_hosts(hosts::Mistake::DecidesTooEarly);
}

#[test]
fn a_rewind_that_withdraws_nothing_is_found() {
    is_found_on_hosts(hosts::Mistake::DoesNotWithdraw);
}

#[test]
fn a_start_that_is_not_on_record_is_found() {
    is_found_on_hosts(hosts::Mistake::ForgetsItsStart);
}

/// Keeps data to itself until the next object is put: what is put first is durable last, as if
/// metadata were written before data. A new process that lists the top finds what is durable.
#[derive(Debug, Default)]
struct MetadataFirst {
    durable: MemoryStorage,
    late: Mutex<Option<(String, Bytes)>>,
}

#[deny(clippy::missing_trait_methods)]
impl Storage for MetadataFirst {
    fn create(&self, name: &str) -> checkpoint::Result<Box<dyn ObjectWriter>> {
        self.durable.create(name)
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> checkpoint::Result<()> {
        let is_data = name.ends_with(".state");
        let late = match is_data {
            true => Some((name.to_owned(), Bytes::from(parts.concat()))),
            false => None,
        };
        if !is_data {
            self.durable.put_new(name, parts)?;
            // Still late: a crash between the two.
            return Ok(());
        }
        let earlier = std::mem::replace(&mut *self.late.lock().unwrap(), late);
        match earlier {
            Some((name, bytes)) => self.durable.put_new(&name, vec![bytes]),
            None => Ok(()),
        }
    }

    fn read(&self, name: &str, range: Range<u64>) -> checkpoint::Result<Bytes> {
        let late = self.late.lock().unwrap();
        match &*late {
            Some((at, bytes)) if at == name => {
                let end = (range.end as usize).min(bytes.len());
                Ok(bytes.slice((range.start as usize).min(end)..end))
            }
            _ => self.durable.read(name, range),
        }
    }

    fn begin_read(
        &self,
        _name: &str,
        _range: Range<u64>,
    ) -> checkpoint::Result<Option<checkpoint::storage::Reading>> {
        Ok(None)
    }

    fn list(&self, directory: &str) -> checkpoint::Result<Listing> {
        if directory.is_empty() {
            self.late.lock().unwrap().take();
        }
        self.durable.list(directory)
    }

    fn delete(&self, name: &str) -> checkpoint::Result<()> {
        self.durable.delete(name)
    }

    fn make_directory(&self, name: &str) -> checkpoint::Result<()> {
        self.durable.make_directory(name)
    }

    fn remove_directory(&self, name: &str) -> checkpoint::Result<()> {
        self.durable.remove_directory(name)
    }

    fn lock(&self, name: &str) -> checkpoint::Result<Option<Guard>> {
        self.durable.lock(name)
    }

    fn may_land_late(&self) -> bool {
        self.durable.may_land_late()
    }

    fn settle(&self, directory: &str) -> checkpoint::Result<()> {
        self.durable.settle(directory)
    }

    fn is_locked(&self, name: &str) -> checkpoint::Result<Option<bool>> {
        self.durable.is_locked(name)
    }

    fn location(&self, name: &str) -> String {
        self.durable.location(name)
    }
}
