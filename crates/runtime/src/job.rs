//! A job: attempts one after the other until it finishes, is stopped, or fails and is not restarted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use checkpoint::store::{Backlog, CheckpointStore, Completed};
use operator::clock::Clock;

use crate::attempt::{Attempt, End};
use crate::control::{Command, Done, NotDone, Requester};
use crate::error::{Class, Error};
use crate::events::{Counters, Event, Events};
use crate::graph::{JobGraph, NodeKind};
use crate::meters::VertexReport;
use crate::options::Options;
use crate::report::{JobEvent, NodeBadRecords, NodeRecords, Outcome, RestoreProgress};
use crate::requests::{After, Requests, Stop};
use crate::restart::{Decision, Restarts};

/// How many events may wait for the driver.
const EVENTS: usize = 256;

/// How long to wait before a storage that did not answer is asked again, in milliseconds.
const CLOSE_AGAIN_MS: u64 = 200;

/// A job that can be run.
pub struct Job {
    graph: JobGraph,
    options: Options,
    store: CheckpointStore,
    restore: Option<Completed>,
    clock: Arc<dyn Clock>,
    sender: SyncSender<(u32, Event)>,
    receiver: Receiver<(u32, Event)>,
    counters: Arc<Counters>,
    requests: Arc<Requests>,
}

/// Asks things of a running job, from any thread.
#[derive(Clone, Debug)]
pub struct JobHandle {
    sender: SyncSender<(u32, Event)>,
    counters: Arc<Counters>,
    /// Ids of the sources and sinks, with their places in the graph.
    ends: Arc<[EndNode]>,
    /// The sources and operators.
    processing: Arc<[ProcessingNode]>,
    requests: Arc<Requests>,
    clock: Arc<dyn Clock>,
    backlog: Backlog,
}

/// A source or operator of the graph.
#[derive(Debug)]
struct ProcessingNode {
    index: usize,
    id: String,
    /// Whether it goes on after bad records.
    is_tolerant: bool,
}

/// A source or sink of the graph.
#[derive(Debug)]
struct EndNode {
    index: usize,
    id: String,
    is_source: bool,
}

impl JobHandle {
    /// Ends the job at once, without a last checkpoint.
    pub fn cancel(&self) {
        self.requests.request_stop(Stop::Cancel);
        self.wake();
    }

    /// Ends the job at once, to be resumed from its newest checkpoint.
    pub fn suspend(&self) {
        self.requests.request_stop(Stop::Suspend);
        self.wake();
    }

    /// Asks for a checkpoint now.
    pub fn trigger_checkpoint(&self) {
        self.requests.request_checkpoint();
        self.wake();
    }

    /// Asks for something that is answered. Returns at once.
    pub fn submit(&self, command: Command) {
        self.requests.submit(command);
        self.wake();
    }

    /// Records that sources have read and that sinks have taken, since the job was started.
    #[must_use]
    pub fn records(&self) -> (u64, u64) {
        let mut sums = (0_u64, 0_u64);
        for end in self.ends.iter() {
            let sum = if end.is_source {
                &mut sums.0
            } else {
                &mut sums.1
            };
            *sum = sum.saturating_add(self.counters.records(end.index));
        }
        sums
    }

    /// The same for each source and sink, in the order of the graph.
    #[must_use]
    pub fn records_of_nodes(&self) -> Vec<NodeRecords> {
        let of = |end: &EndNode| NodeRecords {
            id: end.id.clone(),
            is_source: end.is_source,
            records: self.counters.records(end.index),
        };
        self.ends.iter().map(of).collect()
    }

    /// What sources and operators could not read or process, at first or at all, in the order of the graph: those that go on
    /// after bad records, and others that had something such.
    #[must_use]
    pub fn bad_records(&self) -> Vec<NodeBadRecords> {
        let of = |node: &ProcessingNode| {
            let bad = NodeBadRecords {
                id: node.id.clone(),
                left_out: self.counters.blamed(node.index),
                recovered_batches: self.counters.recovered(node.index),
            };
            // Batches are tried in parts by all of them, where they were too much together.
            let is_shown = node.is_tolerant || bad.left_out > 0 || bad.recovered_batches > 0;
            is_shown.then_some(bad)
        };
        self.processing.iter().filter_map(of).collect()
    }

    /// What each subtask of the newest attempt has done; empty before the first one.
    #[must_use]
    pub fn vertices(&self) -> Vec<VertexReport> {
        self.counters.meters().report(self.clock.now_us())
    }

    /// How far the newest attempt is with reading the state that it goes on from; `None`: it had none to read.
    #[must_use]
    pub fn restoring(&self) -> Option<RestoreProgress> {
        self.counters.restoring().progress()
    }

    /// How many checkpoints and savepoints are in progress.
    #[must_use]
    pub fn checkpoints_in_progress(&self) -> u64 {
        self.counters.in_progress.load(Ordering::Relaxed)
    }

    /// How many deletions of what is not needed any more wait for the storage.
    #[must_use]
    pub fn deletions_waiting(&self) -> u64 {
        self.backlog.deletions()
    }

    /// Keys whose state had left memory and was read back, since the job was started.
    #[must_use]
    pub fn recalled(&self) -> u64 {
        self.counters.recalled.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        // A driver that is not waiting looks at the requests anyway.
        let _ = self.sender.try_send((0, Event::Requested));
    }
}

impl Job {
    /// A job that starts fresh, or from `restore`, whose compatibility was
    /// [checked](crate::restore::check).
    #[must_use]
    pub fn new(
        graph: JobGraph,
        options: Options,
        store: CheckpointStore,
        restore: Option<Completed>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (sender, receiver) = sync_channel(EVENTS);
        let counters = Arc::new(Counters::new(graph.nodes.len()));
        Self {
            graph,
            options,
            store,
            restore,
            clock,
            sender,
            receiver,
            counters,
            requests: Arc::default(),
        }
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> JobHandle {
        let ends = self.graph.nodes.iter().enumerate();
        let ends = ends.filter_map(|(index, node)| {
            let is_source = match &node.kind {
                NodeKind::Source(_) => true,
                NodeKind::Sink(_) => false,
                NodeKind::Operator(_) => return None,
            };
            Some(EndNode {
                index,
                id: node.id.clone(),
                is_source,
            })
        });
        let nodes = self.graph.nodes.iter().enumerate();
        let processing = nodes.filter(|(_, node)| !matches!(node.kind, NodeKind::Sink(_)));
        let processing = processing.map(|(index, node)| ProcessingNode {
            index,
            id: node.id.clone(),
            is_tolerant: node.bad_records.is_some(),
        });
        JobHandle {
            sender: self.sender.clone(),
            counters: Arc::clone(&self.counters),
            ends: ends.collect(),
            processing: processing.collect(),
            requests: Arc::clone(&self.requests),
            clock: Arc::clone(&self.clock),
            backlog: self.store.backlog(),
        }
    }

    /// The job's checkpoints.
    #[must_use]
    pub fn store(&self) -> &CheckpointStore {
        &self.store
    }

    /// Where the sink with this id publishes; see [`SinkFactory::place`](operator::SinkFactory::place).
    #[must_use]
    pub fn place_of_sink(&self, id: &str) -> Option<String> {
        let node = self.graph.nodes.iter().find(|node| node.id == id)?;
        match &node.kind {
            NodeKind::Sink(factory) => factory.place(),
            _ => None,
        }
    }

    /// Has the sinks remove what the job prepared, up to this generation, and can never commit: see
    /// [`SinkFactory::abandon`](operator::SinkFactory::abandon). Returns what could not be removed.
    pub fn abandon_output(&self, generation: u64) -> Vec<String> {
        let sinks = self.graph.nodes.iter().filter_map(|node| match &node.kind {
            NodeKind::Sink(factory) => Some((&node.id, factory)),
            _ => None,
        });
        let identity = operator::JobIdentity {
            id: self.options.id.clone(),
            directory: self.store.directory().to_owned(),
        };
        let failed = |(id, factory): (&String, &Arc<dyn operator::SinkFactory>)| {
            let error = factory.abandon(&identity, generation).err()?;
            Some(format!(
                "sink `{id}`: {}",
                crate::error::causes(error.as_ref())
            ))
        };
        sinks.filter_map(failed).collect()
    }

    /// Runs the job to its end, telling `report` what happens. Blocks.
    pub fn run(&self, mut report: impl FnMut(JobEvent)) -> Outcome {
        self.run_on(&mut OnThreads, &mut report)
    }

    pub(crate) fn run_on(
        &self,
        mover: &mut dyn Mover,
        report: &mut dyn FnMut(JobEvent),
    ) -> Outcome {
        let mut graphs = Graphs::new(&self.graph);
        let outcome = self.run_attempts(&mut graphs, mover, report);
        // Whoever still waits is answered, however the job has ended.
        let why = match &outcome {
            Outcome::Cancelled => "the job was cancelled first".to_owned(),
            Outcome::Suspended => "the job was suspended first".to_owned(),
            Outcome::Failed { error, .. } => {
                format!(
                    "the job failed first: {}",
                    crate::error::causes(error.as_ref())
                )
            }
            Outcome::Finished | Outcome::Stopped { .. } => "the job ended first".to_owned(),
        };
        graphs.give_up(&why);
        if let Some(reached) = self.requests.take_reached() {
            let why = match reached.done.checkpoint {
                Some(taken) => format!("checkpoint {} was complete, but {why}", taken.id),
                None => why,
            };
            reached.requester.answer(Err(NotDone::Ended(why)));
        }
        self.requests
            .refuse_commands_from_now_on("the job has ended");
        outcome
    }

    fn run_attempts(
        &self,
        graphs: &mut Graphs<'_>,
        mover: &mut dyn Mover,
        report: &mut dyn FnMut(JobEvent),
    ) -> Outcome {
        let mut restarts = Restarts::new(
            self.options.restart.clone(),
            self.clock.now_ms().unsigned_abs(),
        );
        // After what was restored, and after what stands in the directory already: a job with an id
        // of its own may be started afresh where an earlier run was.
        let mut next_id = self
            .restore
            .as_ref()
            .map_or(0, |checkpoint| checkpoint.metadata().id)
            .max(self.store.used_id())
            + 1;
        let mut number = 0;
        if let Some(lease) = self.store.lease() {
            let handle = self.handle();
            lease.on_lost(move || handle.wake());
        }
        loop {
            // Sinks publish as soon as they are made what the checkpoint has prepared.
            if let Err(error) = self.store.confirm_owned() {
                return Outcome::Failed {
                    error: Box::new(Error::Fenced(error)),
                    class: Class::Fenced,
                    gave_up: None,
                };
            }
            let latest = self.store.latest();
            let graph = graphs.current();
            let attempt = Attempt {
                graph: &graph,
                options: &self.options,
                store: &self.store,
                clock: &self.clock,
                // A checkpoint of this run, else the one it was started from, again.
                restore: latest.as_ref().or(self.restore.as_ref()),
                drained: self.is_drained(),
                number,
                begun_at: self.clock.now_ms(),
                next_id,
                events: Events {
                    attempt: number,
                    sender: self.sender.clone(),
                    counters: Arc::clone(&self.counters),
                },
                receiver: &self.receiver,
                requests: &self.requests,
            };
            let mut restoring = attempt.span_of_restore();
            let mut has_started = false;
            let (end, next) = mover.run(&attempt, &mut |event| {
                has_started |= matches!(event, JobEvent::Started { .. });
                if has_started {
                    restoring = None;
                    graphs.confirm();
                }
                report(event);
            });
            next_id = next;
            let (error, class) = match end {
                End::Finished => match self.requests.take_reached() {
                    None if self.is_drained() => return Outcome::Stopped { drained: true },
                    None => return Outcome::Finished,
                    Some(reached) => match reached.what {
                        After::Stopped { drained } => {
                            reached.requester.answer(Ok(reached.done));
                            return Outcome::Stopped { drained };
                        }
                        After::Rescale(graph) => {
                            graphs.change(*graph, reached.done, reached.requester);
                            number += 1;
                            continue;
                        }
                    },
                },
                End::Stopped(stop) => return stopped(stop),
                End::Failed(error, class) => (Box::new(error), class),
            };
            if class != Class::Fenced && graphs.take_back(&error) {
                number += 1;
                continue;
            }
            if class != Class::Retry {
                return Outcome::Failed {
                    error,
                    class,
                    gave_up: None,
                };
            }
            let delay_ms = match restarts.on_failure(self.clock.now_ms()) {
                Decision::After(delay_ms) => delay_ms,
                Decision::GiveUp(reason) => {
                    return Outcome::Failed {
                        error,
                        class,
                        gave_up: Some(reason),
                    };
                }
            };
            number += 1;
            if let Some(ended) = self.wait_for_restart(number, delay_ms, &error, mover, report) {
                return ended;
            }
        }
    }

    /// Settles what the failed attempt has left, and waits. Returns how the job ends, if it is not started again.
    fn wait_for_restart(
        &self,
        attempt: u32,
        delay_ms: u64,
        error: &Error,
        mover: &mut dyn Mover,
        report: &mut dyn FnMut(JobEvent),
    ) -> Option<Outcome> {
        // Where it restarts depends on what exists.
        match self.close_slots(mover) {
            Ok(None) => {}
            Ok(Some(stop)) => return Some(stopped(stop)),
            Err(error) => {
                return Some(Outcome::Failed {
                    class: error.class(false),
                    error: Box::new(error),
                    gave_up: None,
                });
            }
        }
        let from = self.store.latest().or_else(|| self.restore.clone());
        report(JobEvent::Restarting {
            attempt,
            delay_ms,
            cause: crate::error::causes(error),
            from: from.map(|from| from.metadata().id),
        });
        mover.wait(self, delay_ms).map(stopped)
    }
}

impl Job {
    /// While it waits for its restart there is nobody who could see to a command.
    pub(crate) fn refuse_commands(&self) {
        self.requests
            .refuse_commands("the job has failed and waits for its restart");
    }

    /// Whether this run has ended all input, and has that in its newest checkpoint: nothing is left but to be there
    /// once more. (What it was started from may be drained too; from that it goes on.)
    fn is_drained(&self) -> bool {
        let from = self.restore.as_ref().map_or(0, |it| it.metadata().id);
        self.store
            .latest()
            .is_some_and(|latest| latest.metadata().drained && latest.metadata().id > from)
    }

    /// Closes the slots of checkpoints that may or may not exist: to restart without knowing would lose
    /// or repeat output. Waits for a silent storage until the lease expires, or for as long as a
    /// checkpoint may take. Returns early if the job is stopped.
    ///
    /// # Errors
    /// The job directory is another's, or it is unknown what exists: the next start of the job
    /// can, because it has a lease of its own.
    fn close_slots(&self, mover: &mut dyn Mover) -> Result<Option<Stop>, Error> {
        let mut warned = false;
        let since = self.clock.now_ms();
        loop {
            match self.store.close_slots() {
                Ok(()) => return Ok(None),
                Err(error @ checkpoint::Error::Fenced { .. }) => return Err(Error::Fenced(error)),
                Err(error) => {
                    let expired = self.store.lease().is_some_and(|lease| lease.has_expired());
                    let waited = self.clock.now_ms().abs_diff(since);
                    if expired || waited >= self.options.checkpoint.timeout_ms {
                        return Err(Error::Unsettled(error));
                    }
                    if !std::mem::replace(&mut warned, true) {
                        let error = crate::error::causes(&error);
                        tracing::warn!(
                            "waiting for the checkpoint storage before the job is restarted: {error}"
                        );
                    }
                    if let Some(stop) = mover.wait(self, CLOSE_AGAIN_MS) {
                        return Ok(Some(stop));
                    }
                    self.store.check_owned().map_err(Error::Fenced)?;
                }
            }
        }
    }
}

/// The graph that a job runs with: its own, or one that it was given while it ran.
struct Graphs<'a> {
    own: &'a JobGraph,
    given: Option<Box<JobGraph>>,
    /// One that was given has not started yet: what was before it, and who waits.
    change: Option<Change>,
}

struct Change {
    before: Option<Box<JobGraph>>,
    done: Done,
    requester: Box<dyn Requester>,
}

impl<'a> Graphs<'a> {
    fn new(own: &'a JobGraph) -> Self {
        Self {
            own,
            given: None,
            change: None,
        }
    }

    fn current(&self) -> JobGraph {
        // Nodes are shared, so this copies pointers.
        self.given.as_deref().unwrap_or(self.own).clone()
    }

    fn change(&mut self, graph: JobGraph, done: Done, requester: Box<dyn Requester>) {
        requester.progress("starting again");
        let before = self.given.replace(Box::new(graph));
        self.change = Some(Change {
            before,
            done,
            requester,
        });
    }

    /// The attempt has started.
    fn confirm(&mut self) {
        if let Some(change) = self.change.take() {
            change.requester.answer(Ok(change.done));
        }
    }

    /// The job has ended: a graph that was given and has not started never will.
    fn give_up(&mut self, why: &str) {
        if let Some(change) = self.change.take() {
            change.requester.answer(Err(NotDone::Ended(why.to_owned())));
        }
    }

    /// The attempt has failed: if it was the first one of a graph that was given and has not started, the one before
    /// it counts again.
    fn take_back(&mut self, error: &Error) -> bool {
        let Some(change) = self.change.take() else {
            return false;
        };
        self.given = change.before;
        let why = format!(
            "the job did not start ({}); it goes on as it was",
            crate::error::causes(error)
        );
        change.requester.answer(Err(NotDone::Failed(why)));
        true
    }
}

/// Who moves the attempts of a job, and lets the time between them pass.
pub(crate) trait Mover {
    /// Runs an attempt to its end. Returns it with the number for the next checkpoint.
    fn run(&mut self, attempt: &Attempt<'_>, report: &mut dyn FnMut(JobEvent)) -> (End, u64);

    /// Waits for a restart, unless the job is stopped meanwhile.
    fn wait(&mut self, job: &Job, delay_ms: u64) -> Option<Stop>;
}

/// Each subtask on a thread of its own.
struct OnThreads;

impl Mover for OnThreads {
    fn run(&mut self, attempt: &Attempt<'_>, report: &mut dyn FnMut(JobEvent)) -> (End, u64) {
        attempt.run(report)
    }

    fn wait(&mut self, job: &Job, delay_ms: u64) -> Option<Stop> {
        let until = job.clock.now_ms().saturating_add_unsigned(delay_ms);
        loop {
            if let Some(stop) = job.requests.stop() {
                return Some(stop);
            }
            job.refuse_commands();
            // There is nothing to be started again.
            if job.store.check_owned().is_err() {
                return None;
            }
            let left = until
                .saturating_sub(job.clock.now_ms())
                .max(0)
                .unsigned_abs();
            match job.receiver.recv_timeout(Duration::from_millis(left)) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}

fn stopped(stop: Stop) -> Outcome {
    match stop {
        Stop::Cancel => Outcome::Cancelled,
        Stop::Suspend => Outcome::Suspended,
    }
}
