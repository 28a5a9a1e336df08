//! One job on several hosts, one after the other and side by side: each takes the job directory by a
//! lease, decides where to start, records it, claims, runs, and ends as `host run` does. Storage is
//! late, silent or away, processes are killed, and processes are stopped that wake when their
//! successors have been at work for long.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use checkpoint::claim::Extent as Claimed;
use checkpoint::history::History;
use checkpoint::lease::{Ending, Holder, Lease, Rewind, RewindMode, Run, Start, Terms};
use checkpoint::start::{Asked, Refusal, Source, StartDecision, decide};
use checkpoint::storage::faults::{Action, Extent, Fault, Step};
use checkpoint::storage::{
    FaultyStorage, Guard, Listing, MemoryStorage, ObjectWriter, Reading as Read, Storage,
};
use checkpoint::store::{CheckpointStore, Options as StoreOptions};
use checkpoint::{Completed, Error, verify};
use dataflow::alignment::Mode;
use operator::clock::Clock;
use operator::source::Part;
use operator::{
    BoxError, Delivery, JobIdentity, Origin, Published, Sink, SinkFactory, SubtaskContext,
    Withdrawn,
};
use runtime::coordinator::Settings;
use runtime::error::Class;
use runtime::simulation::{Random, Simulation, VirtualClock};
use runtime::{Job, JobEvent, JobGraph, Options, Outcome};

use super::baton::{Baton, Held};
use super::feeds::{Pace, Reading};
use super::judge::{Promise, judge};
use super::native::{Collect, Committed, fixed, generation_of};
use super::shapes::{Role, Shape};
use super::sinks::Fragile;
use super::stored;
use super::trouble::Trouble;

/// From this process on nothing fails any more, so that every job comes to its end.
const HEALTHY_PROCESS: u32 = 6;

/// The most turns that a process takes ahead of its crash.
const TURNS: u64 = 2_500;

/// A process that has not come to its end by then never will.
const TURNS_MAX: u64 = 400_000;

/// How long a lease lasts.
const LEASE_MS: u64 = 600;

/// At most this many processes are stopped at once.
const STOPPED: usize = 2;

/// A mistake that is planted, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    /// Storage says that what has failed cannot come later, and it does.
    TrustsTheLook,
    /// A restart in the same process does not close the slots of what may come later.
    LeavesSlotsOpen,
    /// A process starts without taking the lease.
    TakesNoLease,
    /// The end of a process deletes its checkpoints though it could not put its end on record.
    DeletesWithoutRecord,
    /// The end of a process removes what its successors have staged.
    AbandonsSuccessors,
    /// What is staged is named without the attempt.
    NamesWithoutAttempt,
    /// What is not there any more counts as committed; and as [`Mistake::TrustsTheLook`].
    CommitsByExistence,
    /// Where to start is decided by what was there before the lease was taken.
    DecidesTooEarly,
    /// A rewind withdraws nothing.
    DoesNotWithdraw,
    /// What a run starts from is not put on record: as if it had started with nothing.
    ForgetsItsStart,
}

/// Where the sinks of a job put their output. It outlives processes.
pub(crate) trait Outputs: Send + Sync {
    /// The sink of this node, as a process has it.
    fn sink(&self, id: &str, process: &FaultyStorage) -> Arc<dyn SinkFactory>;

    /// What is visible of a sink.
    fn committed(&self, id: &str) -> Committed;

    /// Everything that is staged, with the generation that has done it.
    fn staged(&self) -> BTreeMap<String, u64>;

    /// The user throws everything away.
    fn clear(&self);
}

/// Outputs in memory.
pub(crate) struct InMemory {
    sinks: BTreeMap<String, (Committed, Committed)>,
    believes_names: bool,
}

impl InMemory {
    pub(crate) fn new(sinks: &[String], mistake: Mistake) -> Self {
        let sinks = sinks.iter().map(|id| (id.clone(), Default::default()));
        Self {
            sinks: sinks.collect(),
            believes_names: mistake == Mistake::CommitsByExistence,
        }
    }
}

impl Outputs for InMemory {
    fn sink(&self, id: &str, process: &FaultyStorage) -> Arc<dyn SinkFactory> {
        let (committed, staged) = &self.sinks[id];
        Arc::new(Collect {
            committed: Arc::clone(committed),
            staged: Arc::clone(staged),
            process: Some(process.clone()),
            believes_names: self.believes_names,
            ..Collect::default()
        })
    }

    fn committed(&self, id: &str) -> Committed {
        Arc::clone(&self.sinks[id].0)
    }

    fn staged(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (_, staged) in self.sinks.values() {
            let staged = staged.lock().unwrap();
            all.extend(
                staged
                    .keys()
                    .map(|name| (name.clone(), generation_of(name))),
            );
        }
        all
    }

    fn clear(&self) {
        for (committed, staged) in self.sinks.values() {
            committed.lock().unwrap().clear();
            staged.lock().unwrap().clear();
        }
    }
}

/// A sink for which every attempt is the first.
struct FirstAttempt(Arc<dyn SinkFactory>);

impl SinkFactory for FirstAttempt {
    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Sink>, BoxError> {
        let context = SubtaskContext {
            attempt: 0,
            ..context.clone()
        };
        self.0.create(&context, restored)
    }

    fn delivery(&self) -> Delivery {
        self.0.delivery()
    }

    fn published_after(&self, origin: &Origin, after: u64) -> Result<Published, BoxError> {
        self.0.published_after(origin, after)
    }

    fn withdraw(
        &self,
        origin: &Origin,
        after: u64,
        kept: Option<&[Part]>,
    ) -> Result<Withdrawn, BoxError> {
        self.0.withdraw(origin, after, kept)
    }

    fn can_withdraw(&self) -> bool {
        self.0.can_withdraw()
    }

    fn abandon(&self, job: &JobIdentity, generation: u64) -> Result<(), BoxError> {
        self.0.abandon(job, generation)
    }
}

/// A disk with places as a file system has them.
#[derive(Debug)]
struct Disk {
    objects: MemoryStorage,
    /// A mistake: says that void markers are put, and puts none.
    loses_markers: bool,
}

#[deny(clippy::missing_trait_methods)]
impl Storage for Disk {
    fn create(&self, name: &str) -> checkpoint::Result<Box<dyn ObjectWriter>> {
        self.objects.create(name)
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> checkpoint::Result<()> {
        let is_marker = parts
            .first()
            .is_some_and(|part| part.starts_with(b"HWVOID"));
        match is_marker && self.loses_markers {
            true => Ok(()),
            false => self.objects.put_new(name, parts),
        }
    }

    fn may_land_late(&self) -> bool {
        self.objects.may_land_late()
    }

    fn settle(&self, directory: &str) -> checkpoint::Result<()> {
        self.objects.settle(directory)
    }

    fn read(&self, name: &str, range: Range<u64>) -> checkpoint::Result<Bytes> {
        self.objects.read(name, range)
    }

    fn begin_read(&self, name: &str, range: Range<u64>) -> checkpoint::Result<Option<Read>> {
        self.objects.begin_read(name, range)
    }

    fn list(&self, directory: &str) -> checkpoint::Result<Listing> {
        self.objects.list(directory)
    }

    fn delete(&self, name: &str) -> checkpoint::Result<()> {
        self.objects.delete(name)
    }

    fn make_directory(&self, name: &str) -> checkpoint::Result<()> {
        self.objects.make_directory(name)
    }

    fn remove_directory(&self, name: &str) -> checkpoint::Result<()> {
        self.objects.remove_directory(name)
    }

    fn lock(&self, name: &str) -> checkpoint::Result<Option<Guard>> {
        self.objects.lock(name)
    }

    fn is_locked(&self, name: &str) -> checkpoint::Result<Option<bool>> {
        self.objects.is_locked(name)
    }

    fn location(&self, name: &str) -> String {
        format!("/simulated/{name}")
    }
}

/// What happened in a simulation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) processes: u64,
    pub(crate) not_started: u64,
    pub(crate) checkpoints: u64,
    pub(crate) restarts: u64,
    pub(crate) storage_faults: u64,
    /// Puts that came late, and found their name free.
    pub(crate) landed: u64,
    pub(crate) crashes: u64,
    pub(crate) resumed: u64,
    pub(crate) resumed_from_elsewhere: u64,
    pub(crate) moved: u64,
    pub(crate) rewinds: u64,
    /// Rewinds that a later process has finished.
    pub(crate) rewinds_finished: u64,
    /// Processes that were stopped and woke after a successor.
    pub(crate) woken: u64,
    /// Those of them that found that out by the storage.
    pub(crate) fenced: u64,
    /// Those that came to the end of their run first, and could not put it on record.
    pub(crate) ends_refused: u64,
    pub(crate) cancelled: u64,
    pub(crate) failed: u64,
    pub(crate) unsettled: u64,
    pub(crate) afresh: u64,
    pub(crate) traces: Vec<u64>,
}

impl Tally {
    /// Its numbers, but for the traces.
    fn numbers(&mut self) -> [&mut u64; 19] {
        [
            &mut self.processes,
            &mut self.not_started,
            &mut self.checkpoints,
            &mut self.restarts,
            &mut self.storage_faults,
            &mut self.landed,
            &mut self.crashes,
            &mut self.resumed,
            &mut self.resumed_from_elsewhere,
            &mut self.moved,
            &mut self.rewinds,
            &mut self.rewinds_finished,
            &mut self.woken,
            &mut self.fenced,
            &mut self.ends_refused,
            &mut self.cancelled,
            &mut self.failed,
            &mut self.unsettled,
            &mut self.afresh,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        for (sum, number) in self.numbers().into_iter().zip(other.numbers()) {
            *sum += *number;
        }
    }

    /// What happened less than so often.
    pub(crate) fn rarer_than(&self, times: u64) -> Vec<usize> {
        let mut tally = self.clone();
        let numbers = tally.numbers().into_iter().enumerate();
        let rare = numbers.filter(|(_, number)| **number < times);
        rare.map(|(index, _)| index).collect()
    }
}

/// What the user asks of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ask {
    /// `--resume`.
    Newest,
    /// `--fresh`.
    Fresh,
    /// `-s PATH --fresh` with a checkpoint of another job, by its directory.
    Elsewhere(String),
    /// `-s PATH --rewind withdraw` with an older checkpoint of the run, if there is one.
    Older,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// It could not begin.
    NotStarted,
    /// The job had finished before.
    FinishedBefore,
    /// The run is over, unfinished and with its checkpoints deleted.
    Over,
    /// Killed.
    Crashed,
    Finished,
    Cancelled,
    Failed,
    /// It has found that the directory is another's.
    Fenced,
    /// It wants to be tried again: nothing was processed, or it is not known what exists.
    Again,
}

/// What a process leaves.
struct Left {
    how: How,
    /// Whether what its run starts from is on record.
    recorded: Arc<AtomicBool>,
    /// Whether its end is on record.
    ended: bool,
    tally: Tally,
}

impl Left {
    fn recorded(&self) -> bool {
        self.recorded.load(Ordering::SeqCst)
    }
}

/// What all processes of a job have in common: the world outside of them.
#[derive(Clone)]
struct Outside {
    mistake: Mistake,
    clock: VirtualClock,
    disk: Arc<dyn Storage>,
    outputs: Arc<dyn Outputs>,
    shape: Arc<Shape>,
    /// The newest generation of the job that is at work: who has a smaller one has lost it.
    newest: Arc<AtomicU64>,
}

/// A process: what `host run` does.
struct Process {
    outside: Outside,
    number: u32,
    job: String,
    ask: Ask,
    incremental: bool,
    random: Random,
    storage: FaultyStorage,
    trouble: Trouble,
    baton: Option<Baton>,
    /// Its generation; for others to see.
    generation: Arc<AtomicU64>,
    /// Whether the job runs.
    begun: bool,
    left: Left,
}

/// Why a process goes no further: its end, or a difference.
type Stop = Result<How, String>;

/// What may fail because storage does.
fn stop(error: Error) -> Stop {
    match error {
        Error::Storage { .. } | Error::Held(_) | Error::Fenced { .. } => Ok(How::NotStarted),
        other => Err(format!("a process does not start: {other:?}")),
    }
}

impl Process {
    fn is_healthy(&self) -> bool {
        self.number >= HEALTHY_PROCESS
    }

    /// Whether it was taken for dead.
    fn is_superseded(&self) -> bool {
        let own = self.generation.load(Ordering::SeqCst);
        self.outside.newest.load(Ordering::SeqCst) > own || self.generation_on_disk() > own
    }

    /// Who has taken the lease last, though it may not have begun.
    fn generation_on_disk(&self) -> u64 {
        let disk = &*self.outside.disk;
        let listing = disk.list(&format!("{}/_lease", self.job)).unwrap();
        let entries = listing.objects.into_iter().filter_map(|object| {
            let _is_entry: u64 = object.name.rsplit('/').next()?.parse().ok()?;
            let bytes = disk.read(&object.name, 0..u64::MAX >> 1).ok()?;
            let text = String::from_utf8(bytes.to_vec()).ok()?;
            let entry: serde_json::Value = serde_json::from_str(text.lines().next()?).ok()?;
            entry["generation"].as_u64()
        });
        entries.max().unwrap_or(0)
    }

    /// Stops at a place that is worth it, now and then.
    fn stop_here(&mut self, one_in: u64) {
        if self.random.one_in(one_in)
            && let Some(baton) = &mut self.baton
        {
            baton.stop();
        }
    }

    fn live(mut self) -> Result<Left, String> {
        let outcome = self.run();
        self.left.tally.storage_faults += self.storage.faults().len() as u64;
        self.left.how = match outcome {
            Ok(how) | Err(Ok(how)) if self.storage.has_crashed() => {
                let _gone = how;
                How::Crashed
            }
            Ok(how) | Err(Ok(how)) => how,
            // What it has looked at was its successor's, and it cannot put anything on record.
            Err(Err(_)) if !self.begun && self.is_superseded() => How::NotStarted,
            Err(Err(difference)) => return Err(difference),
        };
        Ok(self.left)
    }

    fn run(&mut self) -> Result<How, Stop> {
        let early = match self.outside.mistake {
            Mistake::DecidesTooEarly => Some(self.newest_of_all().map_err(stop)?),
            _ => None,
        };
        if self.ask == Ask::Newest {
            // What somebody says once is not to be done when others have begun since.
            self.stop_here(4);
        }
        let takes_lease = self.outside.mistake != Mistake::TakesNoLease || self.number == 0;
        if !takes_lease {
            let newest = self.newest_of_all().map_err(stop)?;
            let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
            let generation = self.outside.newest.fetch_add(1, Ordering::SeqCst) + 1;
            self.generation.store(generation, Ordering::SeqCst);
            let options = self.store_options();
            let store = CheckpointStore::with_storage(storage, &self.job, options).map_err(stop)?;
            return self.run_job(&store, "00000000".to_owned(), newest);
        }
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let terms = Terms {
            holder: Holder {
                host: format!("host-{}", self.number),
                machine: format!("machine-{}", self.number),
                process: self.number,
            },
            timeout_ms: LEASE_MS,
            time: Arc::new(self.outside.clock.clone()),
        };
        let lease = Arc::new(Lease::take(storage, &self.job, terms).map_err(stop)?);
        let generation = lease.generation();
        self.generation.store(generation, Ordering::SeqCst);
        let newest = &self.outside.newest;
        match self.generation_on_disk() == generation {
            // Also a lower one: a lease under which no run began goes without a trace, and generations
            // start again.
            true => newest.store(generation, Ordering::SeqCst),
            false => _ = newest.fetch_max(generation, Ordering::SeqCst),
        }
        self.stop_here(6);
        let begun = self.begin(&lease, early)?;
        let (store, run, from) = begun;
        drop(lease);
        self.stop_here(6);
        self.begun = true;
        self.run_job(&store, run, from)
    }

    fn store_options(&mut self) -> StoreOptions {
        let random = &mut self.random;
        StoreOptions {
            inline_threshold: [0, 200][random.below(2) as usize],
            retained: 1 + random.below(3) as usize,
            incremental: self.incremental || random.one_in(2),
            ..StoreOptions::default()
        }
    }

    /// The newest checkpoint that stands in the job directory, by its number alone.
    fn newest_of_all(&self) -> Result<Option<Completed>, Error> {
        let disk = &self.outside.disk;
        for (_, directory) in stored::completed(&**disk)? {
            if directory.starts_with(&format!("{}/", self.job))
                && let Ok(found) = Completed::open(Arc::clone(disk), &directory)
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// An older checkpoint of the run, if there is one.
    fn older(&mut self, history: &History) -> Result<Option<Completed>, Error> {
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let mut found = Vec::new();
        for (_, directory) in stored::completed(&*storage)? {
            match Completed::open(Arc::clone(&storage), &directory) {
                Ok(checkpoint) if history.contains(&checkpoint) => found.push(checkpoint),
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        match found.len() {
            0 | 1 => Ok(None),
            more => Ok(Some(
                found.swap_remove(1 + self.random.below(more as u64 - 1) as usize),
            )),
        }
    }

    /// As the host begins: decides, records, finishes a rewind, claims.
    fn begin(
        &mut self,
        lease: &Arc<Lease>,
        early: Option<Option<Completed>>,
    ) -> Result<(CheckpointStore, String, Option<Completed>), Stop> {
        if lease.run().is_some_and(|run| run.rewind.is_some()) {
            self.left.tally.rewinds_finished += 1;
            let store = self.store(lease)?;
            self.finish_rewind(lease, &store)?;
        }
        let history = History::of(lease).map_err(stop)?;
        let named = match &self.ask {
            Ask::Newest | Ask::Fresh => None,
            Ask::Elsewhere(directory) => Some(self.open(&directory.clone())?),
            Ask::Older => self.older(&history).map_err(stop)?,
        };
        let asked = match (&named, &self.ask) {
            (Some(named), _) => Asked::From(named),
            (None, Ask::Fresh) => Asked::Fresh,
            (None, _) => Asked::Newest { or_fresh: true },
        };
        let forced = matches!(self.ask, Ask::Fresh | Ask::Elsewhere(_));
        let counts = |checkpoint: &Completed| lease.counts(checkpoint.metadata());
        let plan = decide(&asked, forced, &history, &counts, &|| history.newest());
        let plan = match plan.map_err(stop)? {
            Ok(plan) => plan,
            Err(Refusal::Over { .. }) => return Err(Ok(How::Over)),
            Err(refusal) => return Err(Err(format!("a start is refused: {refusal}"))),
        };
        let placed = |source: Source| match source {
            Source::Own(checkpoint) => {
                let id = checkpoint.metadata().id;
                Ok((Some(checkpoint), Start::Own { id }))
            }
            Source::Start(Start::Fresh) => Ok((None, Start::Fresh)),
            Source::Start(Start::Elsewhere { path, id, claim }) => Ok((
                Some(self.open(&path)?),
                Start::Elsewhere { path, id, claim },
            )),
            other => Err(Err(format!(
                "nothing to start from: {other:?}, {:?}, {:?}",
                lease.run(),
                stored::completed(&*self.outside.disk)
            ))),
        };
        let (mut from, mut start, mut goes_on, mut rewind) = match plan {
            StartDecision::Finished => return Err(Ok(How::FinishedBefore)),
            StartDecision::Begin { from: None } => (None, Start::Fresh, false, None),
            StartDecision::Begin { from: Some(from) } => {
                let Ask::Elsewhere(path) = &self.ask else {
                    return Err(Err("a run begins from what nobody named".to_owned()));
                };
                let (path, id) = (path.clone(), from.metadata().id);
                let start = Start::Elsewhere {
                    path,
                    id,
                    claim: false,
                };
                (Some(from), start, false, None)
            }
            StartDecision::Continue(source) => {
                let (from, start) = placed(source)?;
                (from, start, true, None)
            }
            StartDecision::Rewind { to, .. } => {
                let (from, start) = placed(to)?;
                let mode = match self.outside.mistake {
                    Mistake::DoesNotWithdraw => RewindMode::Repeat,
                    _ => RewindMode::Withdraw,
                };
                let to = start.id();
                let rewind = Rewind {
                    to,
                    through: lease.highest(),
                    mode,
                    owed: Vec::new(),
                };
                (from, start, true, Some(rewind))
            }
        };
        if let Some(early) = early {
            (goes_on, rewind) = (early.is_some(), None);
            start = early.as_ref().map_or(Start::Fresh, |early| Start::Own {
                id: early.metadata().id,
            });
            from = early;
        }
        let tally = &mut self.left.tally;
        tally.rewinds += u64::from(rewind.is_some());
        tally.resumed += u64::from(from.is_some());
        let elsewhere = matches!(start, Start::Elsewhere { .. });
        tally.resumed_from_elsewhere += u64::from(elsewhere && goes_on);
        self.check_whole(&start)?;
        self.stop_here(6);
        let on_record = match self.outside.mistake {
            Mistake::ForgetsItsStart => &Start::Fresh,
            _ => &start,
        };
        let rewinds = rewind.is_some();
        let run = self.record(lease, &history, on_record, goes_on, rewind)?;
        self.left.recorded.store(true, Ordering::SeqCst);
        self.stop_here(6);
        let store = self.store(lease)?;
        if rewinds {
            self.finish_rewind(lease, &store)?;
        }
        if let (Some(checkpoint), Start::Own { .. }) = (&from, &start) {
            store
                .claim(checkpoint, Claimed::JobDirectory)
                .map_err(stop)?;
        }
        store.take_over();
        Ok((store, run, from))
    }

    /// What is started from is good to its last byte.
    fn check_whole(&self, start: &Start) -> Result<(), Stop> {
        let directory = match start {
            Start::Fresh => return Ok(()),
            Start::Own { id } => format!("{}/chk-{id}", self.job),
            Start::Elsewhere { path, .. } => path.clone(),
        };
        let checkpoint = Completed::open(Arc::clone(&self.outside.disk), &directory);
        let checkpoint = checkpoint.map_err(|error| Err(format!("{error:?}")))?;
        match verify(&checkpoint).problems.first() {
            None => Ok(()),
            // Its metadata came after a newer one had taken its place, and its files. A start that asks for it
            // by name is refused; nobody else may be given it.
            Some(problem) if self.ask == Ask::Older && problem.what == "the file is missing" => {
                Err(Ok(How::NotStarted))
            }
            Some(problem) => Err(Err(format!("{directory} is corrupt: {problem:?}"))),
        }
    }

    fn open(&self, directory: &str) -> Result<Completed, Stop> {
        Completed::open(Arc::new(self.storage.clone()), directory).map_err(stop)
    }

    fn store(&mut self, lease: &Arc<Lease>) -> Result<CheckpointStore, Stop> {
        let options = self.store_options();
        CheckpointStore::with_lease(Arc::clone(lease), options).map_err(stop)
    }

    /// As the host does.
    fn record(
        &mut self,
        lease: &Lease,
        history: &History,
        start: &Start,
        goes_on: bool,
        rewind: Option<Rewind>,
    ) -> Result<String, Stop> {
        let highest = lease.highest();
        let token = format!("{:08x}", self.random.next_u64() as u32);
        let mut run = match lease.run() {
            Some(run) if goes_on => run,
            None if goes_on => Run::fresh(token, 0),
            before => {
                let mut run = Run::fresh(token, highest);
                if let Some(mut before) = before {
                    if !before.has_finished() && !history.is_empty() {
                        before.discard_through(highest);
                    }
                    run.discarded = before.discarded;
                }
                run
            }
        };
        run.start = start.clone();
        run.ended = None;
        run.rewind = rewind.clone();
        run.completed = match &rewind {
            Some(rewind) => rewind.to,
            None if goes_on => run.completed.max(run.start.id()),
            None => 0,
        };
        let token = run.token.clone();
        let put = |slot: &mut Option<Run>| *slot = Some(run);
        match rewind {
            Some(rewind) => lease.record_rewind(put, rewind.to),
            None => lease.record(put),
        }
        .map_err(stop)?;
        Ok(token)
    }

    /// As the host does.
    fn finish_rewind(&mut self, lease: &Lease, store: &CheckpointStore) -> Result<(), Stop> {
        let Some(rewind) = lease.run().and_then(|run| run.rewind) else {
            return Ok(());
        };
        self.stop_here(3);
        if rewind.mode == RewindMode::Withdraw {
            let origin = Origin {
                job: JobIdentity {
                    id: self.job.clone(),
                    directory: lease.directory().to_owned(),
                },
                run: lease.run().map(|run| run.token).unwrap_or_default(),
                through: rewind.through,
                generation: lease.generation(),
            };
            let base = self.base_of_rewind(lease);
            for node in &self.outside.shape.nodes {
                if matches!(node.role, Role::Sink) {
                    let sink = self.outside.outputs.sink(&node.id, &self.storage);
                    let kept = base.as_ref().map(|base| match base {
                        Some(base) => runtime::restore::parts(base, &node.id).unwrap_or_default(),
                        None => Vec::new(),
                    });
                    if sink.withdraw(&origin, rewind.to, kept.as_deref()).is_err() {
                        // Somebody still writes there.
                        return Err(Ok(How::NotStarted));
                    }
                }
            }
        }
        self.stop_here(3);
        let done = store.remove_remains().and_then(|()| {
            lease.record(|run| {
                if let Some(run) = run {
                    run.rewind = None;
                }
            })
        });
        done.map_err(stop)
    }

    /// What a rewind goes back to, as the host finds it. `None`: it cannot be read.
    fn base_of_rewind(&self, lease: &Lease) -> Option<Option<Completed>> {
        match lease.run()?.start {
            Start::Fresh => Some(None),
            Start::Own { id } => History::of(lease).ok()?.checkpoint(id).ok().map(Some),
            Start::Elsewhere { path, .. } => self.open(&path).ok().map(Some),
        }
    }

    /// The graph as this process runs it.
    fn graph(&mut self) -> JobGraph {
        let healthy = self.is_healthy();
        let (outside, random) = (&self.outside, &mut self.random);
        let (storage, trouble) = (&self.storage, &self.trouble);
        let parallelism = outside.shape.draw_parallelism(random);
        outside.shape.graph(
            &parallelism,
            trouble,
            |feed| {
                Arc::new(Reading {
                    feed: feed.clone(),
                    pace: Pace::draw(random),
                    ends: healthy,
                    clock: outside.clock.clone(),
                    random: Random::new(random.next_u64()),
                    trouble: trouble.clone(),
                })
            },
            |sink| {
                let sink = outside.outputs.sink(sink, storage);
                Arc::new(Fragile {
                    sink: match outside.mistake {
                        Mistake::NamesWithoutAttempt => Arc::new(FirstAttempt(sink)),
                        _ => sink,
                    },
                    trouble: trouble.clone(),
                })
            },
        )
    }

    fn options(&mut self, run: String) -> Options {
        let healthy = self.is_healthy();
        let endless = self.outside.shape.is_endless() && !healthy;
        let random = &mut self.random;
        Options {
            name: "simulated".into(),
            id: self.job.clone(),
            run,
            checkpoint: Settings {
                interval_ms: (endless || !random.one_in(6)).then(|| 1 + random.below(12)),
                min_pause_ms: random.below(3),
                max_concurrent: 1 + random.below(3) as u32,
                tolerable_failures: match healthy {
                    true => u32::MAX,
                    false => random.below(4) as u32,
                },
                timeout_ms: 5 + random.below(300) + if healthy { 3_000 } else { 0 },
            },
            mode: Mode::ExactlyOnce,
            incremental: self.incremental,
            restart: fixed(1 + random.below(4) as u32),
            timer_calls_max: runtime::TIMER_CALLS_MAX,
        }
    }

    /// Runs the job and ends it.
    fn run_job(
        &mut self,
        store: &CheckpointStore,
        run: String,
        from: Option<Completed>,
    ) -> Result<How, Stop> {
        let healthy = self.is_healthy();
        let graph = self.graph();
        let options = self.options(run);
        if let Some(from) = &from {
            runtime::restore::check(&graph, from, false)
                .map_err(|mismatches| Err(format!("{mismatches:?}")))?;
        }
        let ends_early = !healthy && (self.outside.shape.is_endless() || self.random.one_in(2));
        let turns = match ends_early {
            true => self.random.below(TURNS),
            false => TURNS_MAX,
        };
        let cancel_after = match self.random.one_in(8) && !healthy {
            true => self.random.below(TURNS),
            false => u64::MAX,
        };
        let clock = Arc::new(self.outside.clock.clone());
        let job = Job::new(graph, options, store.clone(), from, clock);
        let mut simulation = Simulation::new(
            Random::new(self.random.next_u64()),
            self.outside.clock.clone(),
            self.storage.clone(),
        )
        .crash_after(turns);
        if self.random.one_in(3) {
            simulation = simulation.napping(200 + self.random.below(1_000));
        }
        if self.random.one_in(3) && !healthy {
            simulation = simulation.stalling(2 + self.random.below(30));
        }
        // The baton goes with the job and comes back.
        let baton = Arc::new(Mutex::new(self.baton.take().unwrap()));
        let landed = Arc::new(AtomicU64::new(0));
        let in_turns = {
            let (baton, landed) = (Arc::clone(&baton), Arc::clone(&landed));
            let (storage, handle) = (self.storage.clone(), job.handle());
            let lease = store.lease().cloned().map(|lease| Arc::downgrade(&lease));
            let keeps_one_in = [1, 16, 100, 10_000][self.random.below(4) as usize];
            let mut random = Random::new(self.random.next_u64());
            let mut turn = 0;
            move || {
                baton.lock().unwrap().turn();
                turn += 1;
                if turn == cancel_after {
                    handle.cancel();
                }
                if random.one_in(keeps_one_in)
                    && let Some(lease) = lease.as_ref().and_then(std::sync::Weak::upgrade)
                {
                    // As the keeper does; the lease notifies those whom it concerns.
                    drop(lease.keep());
                }
                if random.one_in(40) {
                    landed.fetch_add(storage.land().len() as u64, Ordering::SeqCst);
                }
            }
        };
        simulation = simulation.before_turns(in_turns);
        let tally = &mut self.left.tally;
        let outcome = simulation.run(&job, |event| match event {
            JobEvent::CheckpointCompleted { .. } => tally.checkpoints += 1,
            JobEvent::Restarting { .. } => tally.restarts += 1,
            JobEvent::CheckpointFailed { .. } | JobEvent::Started { .. } => {}
        });
        tally.landed += landed.load(Ordering::SeqCst);
        tally.traces.push(simulation.trace());
        if simulation.turns() >= TURNS_MAX {
            return Err(Err(format!("process {} does not end", self.number)));
        }
        drop(simulation);
        self.baton = Arc::into_inner(baton).map(|baton| baton.into_inner().unwrap());
        self.stop_here(2);
        self.conclude(&job, store, outcome)
    }

    /// As the host ends.
    fn conclude(
        &mut self,
        job: &Job,
        store: &CheckpointStore,
        outcome: Outcome,
    ) -> Result<How, Stop> {
        let keeps = self.random.one_in(2);
        let describe = format!("{outcome:?}");
        let (how, ending, keeps) = match &outcome {
            Outcome::Finished => (How::Finished, Ending::Finished, keeps),
            Outcome::Cancelled => (How::Cancelled, Ending::Cancelled, keeps),
            Outcome::Stopped { .. } => return Err(Err(format!("nobody asked for it: {describe}"))),
            // Killed: nothing follows.
            Outcome::Suspended => return Ok(How::Crashed),
            Outcome::Failed { class, error, .. } => match class {
                Class::Fenced if !self.is_superseded() => {
                    return Err(Err(format!("fenced by nobody: {describe}")));
                }
                Class::Fenced => {
                    self.end_of_a_fenced(job, store)?;
                    return Ok(How::Fenced);
                }
                Class::Retry => {
                    let unsettled = matches!(**error, runtime::Error::Unsettled(_));
                    self.left.tally.unsettled += u64::from(unsettled);
                    (How::Failed, Ending::Failed, keeps || unsettled)
                }
                Class::Refused => (How::Again, Ending::Suspended, true),
                // Its checkpoints may be its successor's by now, and gone.
                Class::Corrupt if self.is_superseded() => (How::Again, Ending::Suspended, true),
                Class::Permanent | Class::Corrupt => {
                    return Err(Err(format!("process {}: {describe}", self.number)));
                }
            },
        };
        if self.is_healthy() && how != How::Finished && !self.is_superseded() {
            return Err(Err(format!("process {}: {describe}", self.number)));
        }
        match store.end(ending, keeps, self.outside.clock.now_ms()) {
            Ok(()) if self.is_superseded() => {
                return Err(Err(format!(
                    "process {} has lost the job directory, and ends the run: {describe}",
                    self.number
                )));
            }
            Ok(()) => {
                self.left.ended = true;
                if !keeps {
                    self.abandon(job, store.generation());
                }
            }
            Err(error) => {
                let refused = matches!(error, Error::Fenced { .. });
                if refused && !self.is_superseded() {
                    return Err(Err(format!("fenced by nobody at the end: {error:?}")));
                }
                self.left.tally.ends_refused += u64::from(refused);
                self.end_of_a_fenced(job, store)?;
            }
        }
        Ok(how)
    }

    fn abandon(&self, job: &Job, generation: u64) {
        // What cannot be removed stays.
        drop(job.abandon_output(generation));
    }

    /// What must not happen: only mistakes do it.
    fn end_of_a_fenced(&mut self, job: &Job, store: &CheckpointStore) -> Result<(), Stop> {
        if !self.is_superseded() {
            return Ok(());
        }
        match self.outside.mistake {
            Mistake::DeletesWithoutRecord => {
                for checkpoint in store.completed() {
                    let id = checkpoint.metadata().id;
                    let metadata = format!("{}/chk-{id}/_metadata", self.job);
                    self.outside.disk.delete(&metadata).map_err(stop)?;
                }
            }
            Mistake::AbandonsSuccessors => self.abandon(job, u64::MAX),
            _ => {}
        }
        Ok(())
    }
}

/// A number below one of these.
fn one_of(random: &mut Random, ends: [u64; 3]) -> u64 {
    let end = ends[random.below(3) as usize];
    random.below(end)
}

/// Fails now and then, is silent for a while, and may crash.
fn storage(random: &mut Random, outside: &Outside, late: bool, healthy: bool) -> FaultyStorage {
    let clock = &outside.clock;
    let every = [0, 15, 40, 120][random.below(4) as usize];
    let down = match random.one_in(3) {
        true => {
            let from = clock.now_ms() + random.below(80) as i64;
            from..from + one_of(random, [60, 60, 2_000]) as i64
        }
        false => 0..0,
    };
    let down = if healthy { 0..0 } else { down };
    let random = Mutex::new(Random::new(random.next_u64()));
    let (clock, silent, until) = (clock.clone(), clock.clone(), down.clone());
    let storage = FaultyStorage::new(Arc::clone(&outside.disk), move |step: &Step| {
        if healthy {
            return Fault::None;
        }
        if down.contains(&clock.now_ms()) {
            return Fault::Fail(Extent::Nothing);
        }
        let mut random = random.lock().unwrap();
        let is_commit = step.action == Action::Put && step.name.ends_with("/_metadata");
        if late && is_commit && random.one_in(6) {
            return match random.one_in(3) {
                true => Fault::Crash(Extent::Late),
                false => Fault::Fail(Extent::Late),
            };
        }
        if every == 0 || !random.one_in(every) {
            return Fault::None;
        }
        let extents = [Extent::Nothing, Extent::All, Extent::Late];
        let extent = extents[random.below(if late { 3 } else { 2 }) as usize];
        match random.one_in(4) {
            true => Fault::Crash(extent),
            false => Fault::Fail(extent),
        }
    })
    .with_unreadable(move |_| until.contains(&silent.now_ms()));
    let says_so = !matches!(
        outside.mistake,
        Mistake::TrustsTheLook | Mistake::CommitsByExistence
    );
    match late && says_so {
        true => storage.landing_late(),
        false => storage,
    }
}

/// A process as the world sees it.
struct Running {
    held: Held<Left>,
    storage: FaultyStorage,
    healthy: bool,
    generation: Arc<AtomicU64>,
    recorded: Arc<AtomicBool>,
}

struct World {
    random: Random,
    outside: Outside,
    late: bool,
    number: u32,
    job: String,
    ask: Ask,
    current: Option<Running>,
    stopped: Vec<Running>,
    gone: Vec<FaultyStorage>,
    tally: Tally,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("tally", &self.tally).finish()
    }
}

impl World {
    /// Late puts of all processes, dead or alive, take effect.
    fn land(&mut self) {
        let alive = self.stopped.iter().map(|process| &process.storage);
        for storage in self.gone.iter().chain(alive) {
            self.tally.landed += storage.land().len() as u64;
        }
    }

    /// Every process that was stopped goes on to its end.
    fn wake_all(&mut self) -> Result<(), String> {
        while !self.stopped.is_empty() {
            self.wake(0, u64::MAX)?;
        }
        Ok(())
    }

    /// A process that was stopped goes on for a while. It must not touch what is its successors'.
    fn wake(&mut self, index: usize, turns: u64) -> Result<(), String> {
        let outside = self.outside.clone();
        let objects = || stored::objects(&*outside.disk).map_err(|error| format!("{error:?}"));
        // Who was stopped and has no successor yet is the owner, and who has not begun may become it.
        let newest = outside.newest.load(Ordering::SeqCst);
        let own = self.stopped[index].generation.load(Ordering::SeqCst);
        let is_superseded = (1..newest).contains(&own);
        let (before, staged) = (objects()?, outside.outputs.staged());
        let over = self.stopped[index].held.go(turns);
        if is_superseded {
            let after = objects()?;
            let gone: Vec<&String> = before.difference(&after).collect();
            let metadata = gone.iter().find(|name| name.ends_with("/_metadata"));
            if let Some(metadata) = metadata {
                return Err(format!("{metadata} was deleted by who had lost it"));
            }
            let newest_data = format!("/r{newest}-c");
            if let Some(data) = gone.iter().find(|name| name.contains(&newest_data)) {
                return Err(format!("{data} was deleted by a predecessor"));
            }
            let left = outside.outputs.staged();
            let lost = |(name, generation): &(&String, &u64)| {
                **generation == newest && !left.contains_key(*name)
            };
            if let Some((name, _)) = staged.iter().find(lost) {
                return Err(format!(
                    "{name}, which is staged, was removed by a predecessor"
                ));
            }
        }
        if let Some(left) = over {
            let process = self.stopped.remove(index);
            self.gone.push(process.storage.clone());
            drop(process);
            let left = left?;
            self.tally.add(&left.tally);
            self.tally.traces.extend(&left.tally.traces);
            self.tally.woken += u64::from(is_superseded);
            self.tally.fenced += u64::from(left.how == How::Fenced);
        }
        Ok(())
    }

    fn start(&mut self) {
        // Who was killed is watched for as long as the lease lasts.
        let now = self.outside.clock.now_ms();
        self.outside.clock.advance_to(now + 2 * LEASE_MS as i64 + 1);
        self.land_at_random();
        let number = self.number;
        self.number += 1;
        self.tally.processes += 1;
        let healthy = number >= HEALTHY_PROCESS;
        let storage = storage(&mut self.random, &self.outside, self.late, healthy);
        let most = if healthy { 0 } else { 4 };
        let generation = Arc::<AtomicU64>::default();
        let recorded = Arc::<AtomicBool>::default();
        let process = Process {
            outside: self.outside.clone(),
            number,
            job: self.job.clone(),
            ask: self.ask.clone(),
            incremental: self.random.one_in(2),
            trouble: Trouble::new(Random::new(self.random.next_u64()), most),
            random: Random::new(self.random.next_u64()),
            storage: storage.clone(),
            baton: None,
            generation: Arc::clone(&generation),
            begun: false,
            left: Left {
                how: How::NotStarted,
                recorded: Arc::clone(&recorded),
                ended: false,
                tally: Tally::default(),
            },
        };
        // Once: what comes of it is on record, or nothing has come of it.
        if self.ask == Ask::Older {
            self.ask = Ask::Newest;
        }
        let held = Held::new(storage.clone(), move |baton| {
            Process {
                baton: Some(baton),
                ..process
            }
            .live()
        });
        self.current = Some(Running {
            held,
            storage,
            healthy,
            generation,
            recorded,
        });
    }

    fn land_at_random(&mut self) {
        if self.random.one_in(3) {
            self.land();
        }
    }

    /// Takes a step of somebody. Returns whether the job is done.
    fn step(&mut self) -> Result<bool, String> {
        if self.random.one_in(8) {
            self.land();
        }
        if !self.stopped.is_empty() && self.random.one_in(3) {
            let index = self.random.below(self.stopped.len() as u64) as usize;
            let turns = one_of(&mut self.random, [5, 60, 600]);
            self.wake(index, turns)?;
            return Ok(false);
        }
        let turns = 1 + one_of(&mut self.random, [10, 100, 600]);
        let Some(current) = &mut self.current else {
            self.start();
            return Ok(false);
        };
        let Some(left) = current.held.go(turns) else {
            // What somebody says once is done once: it is on record before a successor starts.
            let done = self.ask == Ask::Newest || current.recorded.load(Ordering::SeqCst);
            let room = self.stopped.len() < STOPPED;
            if done && room && !current.healthy && self.random.one_in(6) {
                self.ask = Ask::Newest;
                self.stopped.extend(self.current.take());
            }
            return Ok(false);
        };
        if let Some(current) = self.current.take() {
            self.gone.push(current.storage.clone());
        }
        self.after(left?)
    }

    /// What follows from the end of the newest process. Returns whether the job is done.
    fn after(&mut self, left: Left) -> Result<bool, String> {
        self.tally.add(&left.tally);
        self.tally.traces.extend(&left.tally.traces);
        if left.recorded() {
            self.ask = Ask::Newest;
        }
        match left.how {
            How::FinishedBefore => return Ok(true),
            How::Finished if left.ended => return Ok(true),
            // One that was stopped before it took the lease has woken.
            How::Fenced => self.tally.fenced += 1,
            How::NotStarted => self.tally.not_started += 1,
            How::Crashed => self.tally.crashes += 1,
            How::Cancelled => self.tally.cancelled += 1,
            How::Failed => self.tally.failed += 1,
            How::Again | How::Finished => {}
            How::Over => {
                // The user begins again, once nobody is left of the run before.
                self.wake_all()?;
                self.land();
                self.outside.outputs.clear();
                self.tally.afresh += 1;
                self.ask = Ask::Fresh;
            }
        }
        if self.number >= HEALTHY_PROCESS || self.ask != Ask::Newest {
            return Ok(false);
        }
        match self.random.below(8) {
            0 | 1 => {
                // Nobody's output is taken back while its sink may still publish.
                self.wake_all()?;
                self.ask = Ask::Older;
            }
            2 if self.job == "job" && left.recorded() => self.move_on()?,
            _ => {}
        }
        Ok(false)
    }

    /// The user gives the job another name, and starts it from where it is.
    fn move_on(&mut self) -> Result<(), String> {
        self.wake_all()?;
        self.land();
        let failed = |error| format!("{error:?}");
        let disk = &self.outside.disk;
        let clock = Arc::new(self.outside.clock.clone());
        let now = self.outside.clock.now_ms();
        self.outside.clock.advance_to(now + 2 * LEASE_MS as i64 + 1);
        let terms = Terms {
            holder: Holder {
                host: "user".to_owned(),
                machine: "user".to_owned(),
                process: 1,
            },
            timeout_ms: LEASE_MS,
            time: clock,
        };
        let lease = Lease::take(Arc::clone(disk), "job", terms).map_err(failed)?;
        let ready = lease.run().is_some_and(|run| {
            let over = run.ended.is_some_and(|ended| ended.how != Ending::Failed);
            run.rewind.is_none() && !over
        });
        let history = History::of(&lease).map_err(failed)?;
        let fits = ready && history.published_through() == history.newest_id();
        if let (true, Ok(newest)) = (fits, history.newest()) {
            let id = newest.metadata().id;
            self.job = "moved".to_owned();
            self.ask = Ask::Elsewhere(format!("job/chk-{id}"));
            self.outside.newest.store(0, Ordering::SeqCst);
            self.tally.moved += 1;
        }
        Ok(())
    }
}

/// Runs a job to its end. An error is a difference.
pub(crate) fn simulate(
    seed: u64,
    mistake: Mistake,
    outputs: impl FnOnce(&[String]) -> Arc<dyn Outputs>,
) -> Result<Tally, String> {
    let mut random = Random::new(seed);
    let shape = Shape::draw(&mut random, Mode::ExactlyOnce);
    let sinks = shape.nodes.iter();
    let sinks: Vec<String> = sinks
        .filter(|node| matches!(node.role, Role::Sink))
        .map(|node| node.id.clone())
        .collect();
    let late = random.one_in(2);
    let mut world = World {
        late: late || mistake != Mistake::None,
        random,
        outside: Outside {
            mistake,
            clock: VirtualClock::at(1_700_000_000_000),
            disk: Arc::new(Disk {
                objects: MemoryStorage::new(),
                loses_markers: mistake == Mistake::LeavesSlotsOpen,
            }),
            outputs: outputs(&sinks),
            shape: Arc::new(shape),
            newest: Arc::default(),
        },
        number: 0,
        job: "job".to_owned(),
        ask: Ask::Newest,
        current: None,
        stopped: Vec::new(),
        gone: Vec::new(),
        tally: Tally::default(),
    };
    let mut outcome = Ok(false);
    while matches!(outcome, Ok(false)) {
        outcome = match world.number > 40 {
            true => Err("the job does not come to its end".to_owned()),
            false => world.step(),
        };
    }
    outcome?;
    world.wake_all()?;
    world.land();
    for expected in world.outside.shape.expected() {
        let committed = world.outside.outputs.committed(&expected.sink);
        judge(&expected, &committed, Promise::ExactlyOnce)
            .map_err(|difference| format!("{difference}; {:?}", world.tally))?;
    }
    Ok(world.tally)
}
