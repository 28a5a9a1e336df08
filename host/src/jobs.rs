//! The jobs of this process, as others see them over the control socket: what they do, and what is asked of them.

pub(crate) mod history;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use checkpoint::savepoint::SavepointTarget;
use checkpoint::{CheckpointStore, Completed};
use dataflow::KeyGroups;
use job_file::checkpoint::absolute;
use operator::clock::Clock;
use operator::text::line;
use runtime::control::{Command, Done, NotDone, Order, Requester};
use runtime::{JobEvent, JobHandle, Outcome};
use server::Ticket;
use server::api::{
    Code, Failure, JobState, JobStatus, Node, Operation, RefusedFile, Report, Taken,
};
use server::view::{JobView, Restoring, rest_id};

use crate::assemble::Prepared;
use crate::cli::JobArguments;
use crate::commands::job::{Loader, rescaled};
use crate::commands::resume;
use crate::exit::{Error, causes};
use crate::launch::Ended;
use crate::launch::settings::at_least_one_ms;

use self::history::History;

/// How many threads may be preparing something (a place for a savepoint, another parallelism) for one job.
const PREPARING_MAX: usize = 4;

/// The jobs of this process.
#[derive(Default)]
pub(crate) struct Jobs {
    all: Mutex<All>,
    /// How many savepoints are being deleted.
    disposing: Arc<AtomicUsize>,
}

/// The bytes of why a job file is refused that are kept.
const REFUSAL_BYTES_MAX: usize = 4096;

#[derive(Default)]
struct All {
    entries: Vec<Arc<Entry>>,
    /// Job files that are not run as they stand, with why.
    refused: BTreeMap<PathBuf, String>,
    /// The process is about to end.
    ending: bool,
}

impl Jobs {
    /// One more, in place of an earlier life of the same job. `false`: the process is about to end, and the job is not
    /// to run.
    pub(crate) fn add(&self, entry: Arc<Entry>) -> bool {
        let mut all = lock(&self.all);
        if all.ending {
            return false;
        }
        all.entries.retain(|other| other.id != entry.id);
        all.entries.push(entry);
        true
    }

    /// Suspends all of them, and lets no other begin.
    pub(crate) fn suspend_all(&self) {
        let mut all = lock(&self.all);
        all.ending = true;
        all.entries.iter().for_each(|entry| entry.handle.suspend());
    }

    /// Whether the process is about to end.
    pub(crate) fn is_ending(&self) -> bool {
        lock(&self.all).ending
    }

    /// Takes a checkpoint of each now.
    pub(crate) fn checkpoint_all(&self) {
        let all = lock(&self.all);
        let entries = all.entries.iter();
        entries.for_each(|entry| entry.handle.trigger_checkpoint());
    }

    /// A job file is not run as it stands.
    pub(crate) fn refuse(&self, file: &Path, error: &Error) {
        let mut why = error.to_string();
        why.truncate(why.floor_char_boundary(REFUSAL_BYTES_MAX));
        lock(&self.all).refused.insert(file.to_owned(), why);
    }

    /// A job file is run as it stands, or gone.
    pub(crate) fn accept(&self, file: &Path) {
        lock(&self.all).refused.remove(file);
    }

    /// The job with this id.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Entry>> {
        let all = lock(&self.all);
        all.entries.iter().find(|entry| entry.id == id).cloned()
    }
}

impl server::Jobs for Jobs {
    fn jobs(&self) -> Vec<JobStatus> {
        let entries = lock(&self.all).entries.clone();
        entries.iter().map(|entry| entry.status()).collect()
    }

    fn views(&self) -> Vec<JobView> {
        let entries = lock(&self.all).entries.clone();
        entries.iter().map(|entry| entry.view()).collect()
    }

    fn refused(&self) -> Vec<RefusedFile> {
        let refused = lock(&self.all).refused.clone().into_iter();
        let said = |(file, error): (PathBuf, String)| RefusedFile {
            file: line(&file.display().to_string()).into_owned(),
            error,
        };
        refused.map(said).collect()
    }

    fn begin(&self, job: &str, operation: Operation, ticket: Box<dyn Ticket>) {
        if let Operation::Dispose { savepoint } = operation {
            return dispose(savepoint, ticket, &self.disposing);
        }
        match self.find(job) {
            Some(entry) => entry.begin(operation, ticket),
            None => ticket.finish(Err(Failure::new(Code::NotFound, "there is no such job"))),
        }
    }
}

/// Deletes a savepoint on a thread of its own: a storage may take its time.
#[expect(
    clippy::disallowed_methods,
    reason = "it is of no job, and a panic in it ends nothing else"
)]
fn dispose(savepoint: String, ticket: Box<dyn Ticket>, running: &Arc<AtomicUsize>) {
    if running.fetch_add(1, Ordering::Relaxed) >= PREPARING_MAX {
        running.fetch_sub(1, Ordering::Relaxed);
        let why = "as many savepoints as possible are being deleted: try again in a moment";
        return ticket.finish(Err(Failure::new(Code::Busy, why)));
    }
    let ended = Arc::clone(running);
    let spawned = thread::Builder::new()
        .name("savepoint-disposal".to_owned())
        .spawn(move || {
            let outcome = match checkpoint::savepoint::dispose(&savepoint) {
                Ok(_) => Ok(Report::default()),
                Err(error) => Err(Failure::new(Code::Failed, causes(&error))),
            };
            ticket.finish(outcome);
            ended.fetch_sub(1, Ordering::Relaxed);
        });
    if spawned.is_err() {
        // The ticket went with the closure, which answers.
        running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A job of this process.
pub(crate) struct Entry {
    /// Its id.
    pub(crate) id: String,
    /// What it was started with.
    pub(crate) arguments: JobArguments,
    /// Loads its components.
    pub(crate) loader: Arc<Loader>,
    /// Its checkpoints, as long as it lives: who has them owns the job's directory.
    pub(crate) store: Mutex<Option<CheckpointStore>>,
    /// Where its checkpoints are.
    pub(crate) directory: Option<String>,
    /// How many key groups it has.
    pub(crate) key_groups: KeyGroups,
    /// The directory of what it was started from.
    pub(crate) started_from: Option<String>,
    /// When it was started.
    pub(crate) started_at: i64,
    /// Its time.
    pub(crate) clock: Arc<dyn Clock>,
    /// Asks things of it.
    pub(crate) handle: JobHandle,
    /// The job at its parallelism.
    pub(crate) prepared: Mutex<Arc<Prepared>>,
    /// What it does.
    pub(crate) board: Mutex<Board>,
    /// What became of it so far.
    pub(crate) history: Mutex<History>,
}

/// What a job does, as far as its events have told.
#[derive(Default)]
pub(crate) struct Board {
    state: State,
    /// How many requests to end it are on their way.
    stopping: usize,
    /// Since when there is one.
    stopping_since: Option<i64>,
    /// Requests for which something is being prepared.
    preparing: usize,
    restarts: u32,
    /// Whether it runs at another parallelism than it was started with.
    is_rescaled: bool,
    last_failure: Option<String>,
    /// How often checkpoints are taken, where it was changed.
    interval_ms: Option<Option<u64>>,
    checkpoint: Option<Taken>,
    completed: u64,
    failed: u64,
    checkpoint_failure: Option<String>,
    /// Who waits for its end, with what is to be reported.
    ending: Vec<Ending>,
}

impl Board {
    /// Somebody asks the job to end.
    fn begin_stop(&mut self, now_ms: i64) {
        self.stopping += 1;
        self.stopping_since.get_or_insert(now_ms);
    }

    /// It goes on instead.
    fn give_up_stop(&mut self) {
        self.stopping = self.stopping.saturating_sub(1);
        if self.stopping == 0 {
            self.stopping_since = None;
        }
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Starting,
    Running,
    Restarting,
    Over(JobState),
}

/// Somebody has asked the job to end.
struct Ending {
    asked: Asked,
    report: Report,
    /// What was not done beside it.
    missing: Option<String>,
}

/// A request that is being carried out.
struct Asked {
    ticket: Box<dyn Ticket>,
    begun_ms: i64,
}

impl Asked {
    fn done(self, mut report: Report, now_ms: i64) {
        report.duration_ms = now_ms.abs_diff(self.begun_ms);
        self.ticket.finish(Ok(report));
    }

    fn refuse(self, code: Code, why: impl Into<String>) {
        self.ticket.finish(Err(Failure::new(code, why)));
    }
}

impl Entry {
    /// The job at its present parallelism.
    pub(crate) fn prepared(&self) -> Arc<Prepared> {
        Arc::clone(&lock(&self.prepared))
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        lock(&self.board)
    }

    /// Something has happened to the job.
    pub(crate) fn note(&self, event: &JobEvent) {
        lock(&self.history).note(event, self.clock.now_ms());
        let mut board = self.board();
        match event {
            JobEvent::Started { .. } => board.state = State::Running,
            JobEvent::Restarting { attempt, cause, .. } => {
                board.state = State::Restarting;
                board.restarts = *attempt;
                board.last_failure = Some(cause.clone());
            }
            JobEvent::CheckpointCompleted {
                id,
                savepoint: false,
                duration_ms,
                bytes,
                path,
                ..
            } => {
                board.completed += 1;
                board.checkpoint_failure = None;
                board.checkpoint = Some(Taken {
                    id: *id,
                    path: path.as_deref().map(directory_of),
                    bytes: *bytes,
                    duration_ms: *duration_ms,
                    completed_at: self.clock.now_ms(),
                });
            }
            JobEvent::CheckpointFailed {
                savepoint: false,
                reason,
                ..
            } => {
                board.failed += 1;
                board.checkpoint_failure = Some(reason.clone());
            }
            JobEvent::CheckpointCompleted { .. } | JobEvent::CheckpointFailed { .. } => {}
        }
    }

    /// Its newest checkpoint, if it lives and has one.
    pub(crate) fn newest_checkpoint(&self) -> Option<Completed> {
        lock(&self.store).as_ref().and_then(CheckpointStore::latest)
    }

    /// The job has ended, and what was to be kept is kept: who waits for that is answered.
    pub(crate) fn end(&self, ended: &Ended) {
        drop(lock(&self.store).take());
        let (state, word) = match &ended.outcome {
            Outcome::Finished => (JobState::Finished, "finished"),
            Outcome::Stopped { drained: true } => (JobState::Stopped, "drained"),
            Outcome::Stopped { drained: false } => (JobState::Stopped, "stopped"),
            Outcome::Cancelled => (JobState::Cancelled, "cancelled"),
            Outcome::Suspended => (JobState::Suspended, "suspended"),
            Outcome::Failed { .. } => (JobState::Failed, "failed"),
        };
        let failure = match &ended.outcome {
            Outcome::Failed { error, .. } => Some(causes(error.as_ref())),
            _ => None,
        };
        let keeps_checkpoint = ended.checkpoint.is_some();
        lock(&self.history).end(failure.clone(), keeps_checkpoint, self.clock.now_ms());
        let waiting = {
            let mut board = self.board();
            if !keeps_checkpoint {
                board.checkpoint = None;
            }
            board.state = State::Over(state);
            if failure.is_some() {
                board.last_failure.clone_from(&failure);
            }
            std::mem::take(&mut board.ending)
        };
        let now_ms = self.clock.now_ms();
        let may_resume = state != JobState::Finished;
        for Ending {
            asked,
            mut report,
            missing,
        } in waiting
        {
            if let Some(why) = &failure {
                asked.refuse(Code::Ended, format!("the job failed first: {why}"));
                continue;
            }
            if let Some(missing) = missing {
                asked.refuse(Code::Failed, missing);
                continue;
            }
            report.ended = Some(word.to_owned());
            let from = report.savepoint.as_ref().and_then(|it| it.path.clone());
            let from = from.or_else(|| ended.checkpoint.clone());
            report.resume = from
                .filter(|_| may_resume)
                .map(|from| self.resume(&from, ended.is_drained()));
            asked.done(report, now_ms);
        }
    }

    /// The command that resumes it, at its present parallelism.
    pub(crate) fn resume(&self, from: &str, drained: bool) -> String {
        let mut arguments = self.arguments.clone();
        if lock(&self.board).is_rescaled {
            arguments.parallelism = Some(self.prepared().job.job.parallelism);
        }
        resume(&arguments, from, drained)
    }

    fn status(&self) -> JobStatus {
        let prepared = self.prepared();
        let job = &prepared.job;
        let (mut sources, mut sinks) = (Vec::new(), Vec::new());
        for node in self.handle.records_of_nodes() {
            let nodes = match node.is_source {
                true => &mut sources,
                false => &mut sinks,
            };
            nodes.push(Node {
                id: node.id,
                records: node.records,
            });
        }
        let bad = self.handle.bad_records().into_iter();
        let of_operator = |bad: runtime::NodeBadRecords| server::api::BadRecords {
            id: bad.id,
            left_out: bad.left_out,
            recovered_batches: bad.recovered_batches,
        };
        let bad_records = bad.map(of_operator).collect();
        let (process, job_file) = (std::process::id(), absolute(&self.arguments.file));
        // The thread that moves the job waits for it.
        let board = self.board();
        let state = match board.state {
            State::Over(state) => state,
            _ if board.stopping > 0 => JobState::Stopping,
            State::Starting => JobState::Starting,
            State::Running => JobState::Running,
            State::Restarting => JobState::Restarting,
        };
        JobStatus {
            name: job.job.name.clone(),
            id: self.id.clone(),
            state,
            process,
            job_file: job_file.display().to_string(),
            parallelism: job.job.parallelism,
            started_at: self.started_at,
            restarts: board.restarts,
            last_failure: board.last_failure.clone(),
            interval_ms: board
                .interval_ms
                .unwrap_or_else(|| job.checkpoint.interval.map(at_least_one_ms)),
            directory: self.directory.clone(),
            checkpoint: board.checkpoint.clone(),
            completed_checkpoints: board.completed,
            failed_checkpoints: board.failed,
            checkpoint_failure: board.checkpoint_failure.clone(),
            sources,
            sinks,
            bad_records,
        }
    }

    fn view(&self) -> JobView {
        let prepared = self.prepared();
        let (status, vertices) = (self.status(), history::vertices(self.handle.vertices()));
        let config = prepared.config(self.key_groups).clone();
        let operator_metrics = history::operator_metrics(prepared.metrics());
        let stopping_since = self.board().stopping_since;
        let is_set_up = matches!(status.state, JobState::Starting | JobState::Restarting);
        let restoring = self.handle.restoring().filter(|_| is_set_up);
        let restoring = restoring.map(|it| Restoring {
            began_at: it.began_at,
            total_bytes: it.total_bytes,
            read_bytes: it.read_bytes,
        });
        // The thread that moves the job waits for it.
        let history = lock(&self.history);
        let since = match status.state {
            JobState::Stopping => stopping_since,
            _ => None,
        };
        JobView {
            status,
            rest_id: rest_id(&self.id),
            state_since: since.unwrap_or(history.state_since),
            running_since: history.running_since,
            ended_at: history.ended_at,
            key_groups: self.key_groups.count(),
            vertices,
            checkpoints: history.checkpoints(
                self.handle.checkpoints_in_progress(),
                self.handle.deletions_waiting(),
            ),
            started_from: self.started_from.clone(),
            restoring,
            failures: history.failures(),
            config,
            operator_metrics,
        }
    }

    fn begin(self: Arc<Self>, operation: Operation, ticket: Box<dyn Ticket>) {
        let asked = Asked {
            ticket,
            begun_ms: self.clock.now_ms(),
        };
        if let State::Over(state) = self.board().state {
            asked.refuse(Code::Conflict, format!("the job is {}", state.word()));
            return;
        }
        match operation {
            Operation::Checkpoint => self.submit(Order::Checkpoint, asked, Then::Report),
            Operation::Savepoint { directory } => self.savepoint(directory, asked),
            Operation::Stop {
                drain,
                savepoint_directory,
            } => self.stop(drain, savepoint_directory, asked),
            Operation::Cancel => {
                asked.ticket.progress("cancelling");
                let mut board = self.board();
                if let State::Over(state) = board.state {
                    // It has ended since: nobody would answer who waits for that.
                    drop(board);
                    asked.refuse(Code::Conflict, format!("the job is {}", state.word()));
                    return;
                }
                board.begin_stop(self.clock.now_ms());
                board.ending.push(Ending {
                    asked,
                    report: Report::default(),
                    missing: None,
                });
                drop(board);
                self.handle.cancel();
            }
            Operation::Rescale { parallelism } => self.rescale(parallelism, asked),
            Operation::Dispose { .. } => {
                asked.refuse(Code::BadRequest, "a savepoint is deleted without a job");
            }
            Operation::Interval { interval_ms } => {
                let then = Then::Interval { interval_ms };
                self.submit(Order::Interval(interval_ms), asked, then);
            }
        }
    }

    /// Below which directory a savepoint goes.
    fn savepoint_directory(&self, asked: Option<String>) -> Option<String> {
        let own = || {
            let prepared = self.prepared();
            let directory = prepared.job.checkpoint.savepoint_dir.as_ref();
            directory.map(ToString::to_string)
        };
        asked.or_else(own)
    }

    fn savepoint(self: Arc<Self>, directory: Option<String>, asked: Asked) {
        let Some(directory) = self.savepoint_directory(directory) else {
            let why = "no directory for the savepoint is given, and the job has no `checkpoint.savepoint-dir`";
            let failure = Failure::new(Code::BadRequest, why);
            let hint = "`host savepoint JOB DIR`, or set the key in the job file";
            asked.ticket.finish(Err(failure.hint(hint)));
            return;
        };
        self.prepare_for(asked, move |entry, asked| {
            if let Some((target, asked)) = entry.target(&directory, asked) {
                entry.submit(Order::Savepoint(target), asked, Then::Report);
            }
        });
    }

    fn stop(self: Arc<Self>, drain: bool, directory: Option<String>, asked: Asked) {
        match self.savepoint_directory(directory) {
            Some(directory) => self.prepare_for(asked, move |entry, asked| {
                if let Some((target, asked)) = entry.target(&directory, asked) {
                    let savepoint = Some(target);
                    entry.submit(Order::Stop { drain, savepoint }, asked, Then::End);
                }
            }),
            None if self.directory.is_none() => {
                let why = "the job keeps its checkpoints in memory, where they end with it";
                let failure = Failure::new(Code::Conflict, why);
                let hint = "give a directory for a savepoint by `--savepoint-path`, or end the job with `host cancel`";
                asked.ticket.finish(Err(failure.hint(hint)));
            }
            None => {
                let savepoint = None;
                self.submit(Order::Stop { drain, savepoint }, asked, Then::End);
            }
        }
    }

    /// Opens a place for a savepoint. If that fails, who has asked is told.
    fn target(&self, directory: &str, asked: Asked) -> Option<(SavepointTarget, Asked)> {
        asked
            .ticket
            .progress("looking at the directory for the savepoint");
        let (patience, permissions) = {
            let prepared = self.prepared();
            let section = &prepared.job.checkpoint;
            (section.timeout, section.permissions)
        };
        match SavepointTarget::open(directory, &self.id, patience, permissions) {
            Ok(target) => Some((target, asked)),
            Err(error) => {
                let code = match error {
                    checkpoint::Error::Incompatible(_) => Code::BadRequest,
                    _ => Code::Failed,
                };
                let why = causes(&error);
                asked.refuse(code, format!("no savepoint can be written there: {why}"));
                None
            }
        }
    }

    fn rescale(self: Arc<Self>, parallelism: u32, asked: Asked) {
        self.prepare_for(asked, move |entry, asked| {
            asked
                .ticket
                .progress("preparing the job at the new parallelism");
            let before = entry.prepared();
            if before.job.job.parallelism == parallelism {
                let word = Some(parallelism.to_string());
                let report = Report {
                    before: word.clone(),
                    now: word,
                    ..Report::default()
                };
                asked.done(report, entry.clock.now_ms());
                return;
            }
            let prepared = rescaled(&before, parallelism, &entry.loader, &entry.clock)
                .map_err(|error| error.to_string())
                .and_then(|prepared| {
                    let graph = prepared.graph(Some(entry.key_groups));
                    let graph = graph.map_err(|problems| problems.to_string())?;
                    Ok((prepared, graph))
                });
            match prepared {
                Ok((prepared, graph)) => {
                    let then = Then::Rescale(Arc::new(prepared));
                    entry.submit(Order::Rescale(Box::new(graph)), asked, then);
                }
                Err(problems) => {
                    let problems = problems.trim_start_matches("error: ").lines();
                    let problems: Vec<&str> = problems.map(str::trim).collect();
                    let problems = problems.join("; ");
                    let why =
                        format!("the job cannot run at parallelism {parallelism}: {problems}");
                    asked.refuse(Code::BadRequest, why);
                }
            }
        });
    }

    /// Does something that may have to wait, on a thread of its own.
    #[expect(
        clippy::disallowed_methods,
        reason = "a storage may hang, and neither the socket nor the job may wait for it; there are few at once"
    )]
    fn prepare_for(
        self: Arc<Self>,
        asked: Asked,
        work: impl FnOnce(&Arc<Self>, Asked) + Send + 'static,
    ) {
        {
            let mut board = self.board();
            if board.preparing >= PREPARING_MAX {
                drop(board);
                let why = "as many requests as possible are being prepared: try again in a moment";
                asked.refuse(Code::Busy, why);
                return;
            }
            board.preparing += 1;
        }
        let entry = Arc::clone(&self);
        let spawned = thread::Builder::new()
            .name("control-request".to_owned())
            .spawn(move || {
                work(&entry, asked);
                entry.board().preparing -= 1;
            });
        if spawned.is_err() {
            // The ticket went with the closure, which answers.
            self.board().preparing -= 1;
        }
    }

    fn submit(self: &Arc<Self>, order: Order, asked: Asked, then: Then) {
        if let Then::End = then {
            self.board().begin_stop(self.clock.now_ms());
        }
        let requester = Box::new(Answering {
            asked,
            entry: Arc::clone(self),
            then,
        });
        self.handle.submit(Command { order, requester });
    }
}

/// What follows when the job has done what was asked.
enum Then {
    Report,
    /// The job ends, and the answer waits for that.
    End,
    /// It is another job from now on.
    Rescale(Arc<Prepared>),
    Interval {
        interval_ms: Option<u64>,
    },
}

struct Answering {
    asked: Asked,
    entry: Arc<Entry>,
    then: Then,
}

impl Requester for Answering {
    fn progress(&self, text: &str) {
        self.asked.ticket.progress(text);
    }

    fn answer(self: Box<Self>, answer: Result<Done, NotDone>) {
        let Self { asked, entry, then } = *self;
        let done = match answer {
            Ok(done) => done,
            Err(not_done) => {
                if let Then::End = then {
                    entry.board().give_up_stop();
                }
                let code = match not_done {
                    NotDone::Conflict(_) => Code::Conflict,
                    NotDone::Failed(_) => Code::Failed,
                    NotDone::Ended(_) => Code::Ended,
                };
                asked.refuse(code, not_done.to_string());
                return;
            }
        };
        let mut report = Report {
            savepoint: done.savepoint.map(taken),
            checkpoint: done.checkpoint.map(taken),
            ..Report::default()
        };
        match then {
            Then::Report => {}
            Then::End => {
                let missing = done.savepoint_failed.map(|why| {
                    let place = report.checkpoint.as_ref().and_then(|it| it.path.as_deref());
                    let place = place.unwrap_or("memory");
                    format!("the job is drained and has ended, with its newest checkpoint in {place}, but the savepoint failed: {why}")
                });
                entry.board().ending.push(Ending {
                    asked,
                    report,
                    missing,
                });
                return;
            }
            Then::Rescale(prepared) => {
                let now = prepared.job.job.parallelism;
                let before = std::mem::replace(&mut *lock(&entry.prepared), prepared);
                entry.board().is_rescaled = true;
                report.before = Some(before.job.job.parallelism.to_string());
                report.now = Some(now.to_string());
            }
            Then::Interval { interval_ms } => {
                let own = || {
                    entry
                        .prepared()
                        .job
                        .checkpoint
                        .interval
                        .map(at_least_one_ms)
                };
                let before = entry.board().interval_ms.replace(interval_ms);
                report.before = Some(interval(before.unwrap_or_else(own)));
                report.now = Some(interval(interval_ms));
            }
        }
        asked.done(report, entry.clock.now_ms());
    }
}

fn taken(taken: runtime::control::Taken) -> Taken {
    Taken {
        id: taken.id,
        path: taken.path.as_deref().map(directory_of),
        bytes: taken.bytes,
        duration_ms: taken.duration_ms,
        completed_at: taken.completed_at,
    }
}

/// The directory of a checkpoint, from the place of its metadata.
pub(crate) fn directory_of(metadata: &str) -> String {
    metadata
        .strip_suffix("/_metadata")
        .unwrap_or(metadata)
        .to_owned()
}

fn interval(interval_ms: Option<u64>) -> String {
    match interval_ms {
        None => "none".to_owned(),
        Some(ms) => humantime::format_duration(std::time::Duration::from_millis(ms)).to_string(),
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is a few statements that cannot panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
