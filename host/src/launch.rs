//! A prepared job from its start to its end: where it starts is decided and put on record, it runs on a thread of
//! its own, and when it ends its checkpoints are kept or deleted.
//!
//! Modules in reading order.

pub(crate) mod settings;
pub(crate) mod restore;
mod orphans;
pub(crate) mod start;
pub(crate) mod standby;
mod retention;

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use checkpoint::lease::{self, Held};
use checkpoint::{CheckpointStore, Completed};
use job_file::checkpoint::Storage;
use operator::InputChanged;
use operator::clock::Clock;
use runtime::error::Class;
use runtime::{Job, JobEvent, Keeper, Outcome};

use self::retention::{Ending, keeps};
use self::standby::Taken;
use self::start::Begun;
use crate::assemble::Prepared;
use crate::cli::{JobArguments, RestoreArguments};
use crate::commands::job::Loader;
use crate::events::{Audience, Event, NodeBadRecords, NodeWork, Work};
use crate::exit::{Error, causes};
use crate::jobs::history::{History, longest_phases};
use crate::jobs::{Entry, directory_of};
use server::view::Restored;

/// As much as the main thread has.
const STACK_BYTES: usize = 8 << 20;

/// What is done with a job that is about to run; if that fails, it does not.
pub(crate) type Before<'a> = dyn FnOnce(&Arc<Entry>) -> Result<(), Error> + 'a;

/// How a job is launched.
pub(crate) struct LaunchOptions<'a> {
    /// Where it starts.
    pub(crate) restore: &'a RestoreArguments,
    /// Its directory, if this process has stood by for it and has taken it.
    pub(crate) taken: Option<Box<Taken>>,
    /// Its time.
    pub(crate) clock: Arc<dyn Clock>,
    /// When the process began with it.
    pub(crate) begun_ms: i64,
    /// Who hears what happens to it.
    pub(crate) audience: Audience,
    /// What the job was started with, for who asks for it.
    pub(crate) job: &'a JobArguments,
    /// Loads its components.
    pub(crate) loader: &'a Arc<Loader>,
    /// Called before the first record: with it a job is there that can be asked for things.
    pub(crate) before: Box<Before<'a>>,
}

/// A job that runs, on a thread of its own.
pub(crate) struct RunningJob {
    entry: Arc<Entry>,
    thread: JoinHandle<Ended>,
}

/// How a job ended.
pub(crate) struct Ended {
    /// How.
    pub(crate) outcome: Outcome,
    /// The newest checkpoint that it can go on from, if one is kept.
    pub(crate) checkpoint: Option<String>,
    /// What it did in this process.
    pub(crate) work: Work,
}

impl Ended {
    /// Whether all input was ended before the job was stopped.
    pub(crate) fn is_drained(&self) -> bool {
        matches!(self.outcome, Outcome::Stopped { drained: true })
    }
}

impl RunningJob {
    /// What is known of the job while it runs.
    pub(crate) fn entry(&self) -> Arc<Entry> {
        Arc::clone(&self.entry)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The thread that moves the job panicked: a mistake of ours, and the job can be resumed.
    pub(crate) fn wait(self) -> Result<Ended, Error> {
        let panicked = |_| Error::failed(anyhow!("the thread that moves the job panicked"));
        self.thread.join().map_err(panicked)
    }
}

/// Decides where a job starts, makes that durable, and starts it. `None`: it has finished already.
///
/// # Errors
/// It cannot start from there: nothing of it has run.
pub(crate) fn launch(
    prepared: &Arc<Prepared>,
    options: LaunchOptions<'_>,
) -> Result<Option<RunningJob>, Error> {
    let LaunchOptions {
        restore: arguments,
        taken,
        clock,
        begun_ms,
        audience,
        job: job_arguments,
        loader,
        before,
    } = options;
    let file = &prepared.job;
    for warning in settings::warnings(prepared, arguments.from.as_deref()) {
        audience.tell(&warning);
    }
    let (restore, owned) = match taken.map(|taken| *taken) {
        Some(taken) => (Some(taken.restore), Some((taken.lease, taken.keeper))),
        None => (None, None),
    };
    let arguments = restore.as_ref().unwrap_or(arguments);
    let Some(begun) = start::begin(prepared, arguments, owned, &clock, audience)? else {
        return Ok(None);
    };
    let Begun {
        store,
        keeper,
        job_id: id,
        run,
        is_new: _,
        from,
        graph,
        report,
        claimed,
    } = begun;
    audience.say(&settings::storage_line(&file.checkpoint, &id));
    if let Some(line) = settings::state_line(&file.job, &prepared.state_memory()) {
        audience.say(&line);
    }
    if let Some(report) = &report {
        audience.tell(&restore::event(report));
    }
    if let Some(checkpoint) = from.as_ref().filter(|_| claimed) {
        tracing::warn!(
            "{}",
            restore::claimed(checkpoint, file.checkpoint.retention)
        );
    }
    let resumed_from = from.as_ref().and_then(Completed::path);
    let restored = from.as_ref().map(|checkpoint| Restored {
        id: checkpoint.metadata().id,
        at: 0,
        took_ms: 0,
        savepoint: checkpoint.metadata().kind == checkpoint::metadata::Kind::Savepoint,
        path: checkpoint.path().as_deref().map(directory_of),
    });
    let options = settings::options(file, &id, &run);
    let key_groups = graph.key_groups;
    let job = Job::new(graph, options, store.clone(), from, Arc::clone(&clock));
    let directory = match &file.checkpoint.storage {
        Storage::Memory => None,
        Storage::Filesystem(directory) => Some(directory.join(&id)),
    };
    let entry = Arc::new(Entry {
        id: id.clone(),
        arguments: job_arguments.clone(),
        loader: Arc::clone(loader),
        store: Mutex::new(Some(store.clone())),
        directory,
        key_groups,
        started_from: resumed_from.as_deref().map(directory_of),
        started_at: begun_ms,
        clock: Arc::clone(&clock),
        handle: job.handle(),
        prepared: Mutex::new(Arc::clone(prepared)),
        board: Mutex::default(),
        history: Mutex::new(History::new(restored, clock.now_ms())),
    });
    before(&entry)?;
    let moved = JobThread {
        entry: Arc::clone(&entry),
        job,
        id,
        store,
        _keeper: keeper,
        clock,
        begun_ms,
        resumed_from,
        audience,
    };
    let thread = moved.start().context("starting a thread for the job");
    Ok(Some(RunningJob {
        entry,
        thread: thread.map_err(Error::refused)?,
    }))
}

/// Whether a job, changed, fits its newest checkpoint: so that it is not suspended in vain.
pub(crate) fn fits(prepared: &Prepared, checkpoint: &Completed) -> Result<(), Error> {
    let groups = restore::key_groups(checkpoint)?;
    let graph = prepared.graph(Some(groups))?;
    restore::check(&graph, checkpoint, &RestoreArguments::default()).map(drop)
}

/// A job with all that its thread needs.
struct JobThread {
    entry: Arc<Entry>,
    job: Job,
    id: String,
    store: CheckpointStore,
    /// Renews the lease of the job's directory, if there is one.
    _keeper: Option<Keeper>,
    clock: Arc<dyn Clock>,
    begun_ms: i64,
    /// What the job was started from.
    resumed_from: Option<String>,
    audience: Audience,
}

impl JobThread {
    #[expect(
        clippy::disallowed_methods,
        reason = "a job is a thread of the process, and `wait` reports its panic"
    )]
    fn start(self) -> io::Result<JoinHandle<Ended>> {
        thread::Builder::new()
            .name("job".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let span = self.audience.span();
                span.in_scope(|| self.run())
            })
    }

    fn run(self) -> Ended {
        let mut restarts = 0;
        let outcome = self.job.run(|event| {
            if let JobEvent::Restarting { attempt, .. } = &event {
                restarts = *attempt;
            }
            let prepared = self.entry.prepared();
            if let JobEvent::CheckpointCompleted { id, .. } = &event {
                log_metrics(*id, &prepared);
            }
            self.entry.note(&event);
            self.audience
                .tell(&told(event, &prepared.job.job.name, &self.id));
            warn(&self.store);
        });
        let checkpoint = match &outcome {
            Outcome::Finished => self.settle(Ending::Finished),
            Outcome::Stopped { .. } => self.settle(Ending::Stopped),
            Outcome::Cancelled => self.settle(Ending::Cancelled),
            // What the job was started from is not its own and is still there.
            Outcome::Suspended => self
                .settle(Ending::Suspended)
                .or_else(|| self.resumed_from.clone()),
            // There is something to choose, for which the checkpoints are needed.
            Outcome::Failed { error, .. } if InputChanged::find(error.as_ref()).is_some() => {
                self.settle_and(Ending::Failed, true)
            }
            Outcome::Failed { class, .. } => match class {
                Class::Retry | Class::Permanent => self.settle(Ending::Failed),
                // What did not begin, or could not be restored, is to be tried again.
                Class::Refused | Class::Corrupt => self.settle(Ending::Suspended),
                // Nothing in the directory is this process's any more: the host that has it now goes on from what is
                // there.
                Class::Fenced => {
                    warn(&self.store);
                    None
                }
            },
        };
        let ended = Ended {
            work: self.work(restarts),
            outcome,
            checkpoint,
        };
        self.entry.end(&ended);
        ended
    }

    /// What the job did.
    fn work(&self, restarts: u32) -> Work {
        let mut work = Work {
            duration_ms: self.clock.now_ms().abs_diff(self.begun_ms),
            restarts,
            ..Work::default()
        };
        for node in self.job.handle().records_of_nodes() {
            let (nodes, sum) = match node.is_source {
                true => (&mut work.sources, &mut work.records_read),
                false => (&mut work.sinks, &mut work.records_written),
            };
            *sum = sum.saturating_add(node.records);
            nodes.push(NodeWork {
                place: self.job.place_of_sink(&node.id),
                id: node.id,
                records: node.records,
            });
        }
        let bad = self.job.handle().bad_records().into_iter();
        work.bad_records = bad
            .filter(|bad| bad.left_out > 0 || bad.recovered_batches > 0)
            .map(|bad| NodeBadRecords {
                id: bad.id,
                left_out: bad.left_out,
                recovered_batches: bad.recovered_batches,
            })
            .collect();
        work
    }

    /// Deletes or keeps, and gives the newest checkpoint that there is to go on from.
    fn settle(&self, ending: Ending) -> Option<String> {
        let keeps = keeps(&self.entry.prepared().job.checkpoint, ending);
        self.settle_and(ending, keeps)
    }

    fn settle_and(&self, ending: Ending, keeps: bool) -> Option<String> {
        let how = match ending {
            Ending::Finished => lease::Ending::Finished,
            Ending::Cancelled => lease::Ending::Cancelled,
            Ending::Failed => lease::Ending::Failed,
            Ending::Suspended => lease::Ending::Suspended,
            Ending::Stopped => lease::Ending::Stopped,
        };
        match self.store.end(how, keeps, self.clock.now_ms()) {
            // What a successor may resume from stays, and what it may commit.
            Err(error) => tracing::warn!("at the end of the job: {}", causes(&error)),
            Ok(()) if !keeps => abandon(&self.job, &self.store),
            Ok(()) => {}
        }
        let kept = keeps
            .then(|| self.store.latest().and_then(|checkpoint| checkpoint.path()))
            .flatten();
        self.store.wait_for_cleaning();
        warn(&self.store);
        kept
    }
}

fn told(event: JobEvent, name: &str, id: &str) -> Event {
    match event {
        JobEvent::Started { attempt, set_up_ms } => Event::Started {
            job_name: name.to_owned(),
            job_id: id.to_owned(),
            attempt,
            set_up_ms,
        },
        JobEvent::CheckpointCompleted {
            id,
            savepoint,
            duration_ms,
            bytes,
            path,
            phases,
            states: _,
        } => Event::CheckpointCompleted {
            id,
            savepoint,
            duration_ms,
            bytes,
            path,
            phases: longest_phases(&phases),
        },
        JobEvent::CheckpointFailed {
            id,
            savepoint,
            kind,
            duration_ms,
            counts,
            reason,
            slowest,
            last,
        } => Event::CheckpointFailed {
            id,
            savepoint,
            duration_ms,
            kind: kind.code(),
            reason,
            counts,
            last,
            slowest: slowest.map(|slowest| (*slowest).into()),
        },
        JobEvent::Restarting {
            attempt,
            delay_ms,
            cause,
            from,
        } => Event::Restarted {
            attempt,
            delay_ms,
            cause,
            from,
        },
    }
}

/// The operators' metrics as they are after a checkpoint, for the log at level `debug`.
fn log_metrics(checkpoint: u64, prepared: &Prepared) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    for (operator, metrics) in prepared.metrics() {
        for (name, metric) in metrics {
            tracing::debug!(operator, checkpoint, "{name} = {metric}");
        }
    }
}

/// What the store could not delete is no failure, but somebody should look at it.
fn warn(store: &CheckpointStore) {
    for warning in store.take_warnings() {
        tracing::warn!("{warning}");
    }
}

/// Removes what sinks of the job prepared and will never commit.
fn abandon(job: &Job, store: &CheckpointStore) {
    for failed in job.abandon_output(store.generation()) {
        tracing::warn!("output that was never committed is left: {failed}");
    }
}

fn watching(held: &Held) -> String {
    let timeout = Duration::from_millis(held.timeout_ms);
    let timeout = humantime::format_duration(timeout);
    format!("{held}; waiting {timeout} for a renewal: if none arrives, this run takes over")
}

fn waiting(held: &Held, left_ms: u64) -> String {
    let left = humantime::format_duration(Duration::from_millis(left_ms));
    format!(
        "{held}; it may have been killed since: waiting {left} to see whether it renews it again"
    )
}

/// The checkpoint storage cannot be used.
fn not_opened(error: checkpoint::Error) -> Error {
    not_owned(error, "opening the checkpoint storage")
}

/// What is to be owned may be another's.
fn not_owned(error: checkpoint::Error, doing: &'static str) -> Error {
    let hint = match &error {
        checkpoint::Error::Held(held) => {
            let timeout = humantime::format_duration(Duration::from_millis(held.timeout_ms));
            Some(format!(
                "stop it first, or give this run a `job.id` of its own; if it was killed or hangs, retry after {timeout}"
            ))
        }
        checkpoint::Error::Storage { source, .. } => {
            let source = source.downcast_ref::<io::Error>();
            source
                .and_then(|source| mend_of(source.kind()))
                .map(str::to_owned)
        }
        _ => None,
    };
    let error = Error::checkpoint(error, doing);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// What a person can do about a directory for checkpoints that cannot be used.
fn mend_of(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::PermissionDenied => {
            Some("let the user who runs the job write there, or set another `checkpoint.dir`")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("make the file system writable, or set another `checkpoint.dir`")
        }
        // A link that leads nowhere exists, too.
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Some("move the file that is in the way, or set another `checkpoint.dir`")
        }
        _ => None,
    }
}
