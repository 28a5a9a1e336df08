//! What the coordinator decides, done: the state machine that moves a running attempt.
//!
//! It takes one event at a time and never waits, so that it can be driven by a thread or by a
//! simulation.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use checkpoint::metadata::{
    Kind, Metadata, Operator as OperatorMetadata, Role, State, Subtask as SubtaskMetadata,
};
use checkpoint::savepoint::{SavepointTarget, dispose};
use checkpoint::store::Completed;
use dataflow::key::KEY_HASH_NAME;
use dataflow::operator_state;
use dataflow::{Barrier, CheckpointId, SnapshotKind};
use tracing::Span;
use tracing::field::Empty;

use crate::abort::{Kind as AbortKind, Reason};
use crate::attempt::{Attempt, End};
use crate::control::{Command, Done, NotDone, Order, Requester, Taken};
use crate::coordinator::{Action, Coordinator, Input, Purpose, StopPlan};
use crate::error::{Class, Error, causes};
use crate::events::Event;
use crate::graph::NodeKind;
use crate::inbox::{Control, Inbox};
use crate::phases::{Phases, Slowest};
use crate::plan::ExecutionPlan;
use crate::report::{JobEvent, StateSize};
use crate::requests::{After, Reached, Requests, Stop};
use crate::restore;
use crate::snapshot::WrittenMember;
use crate::writer::{InProgress, Task, Writers, to_rebase};

/// How many savepoints may be in progress at once: each keeps what the state was at its barrier.
pub(crate) const SAVEPOINTS_MAX: usize = 4;

/// See the module.
pub(crate) struct Driver<'a> {
    attempt: &'a Attempt<'a>,
    plan: &'a ExecutionPlan,
    inboxes: &'a [Vec<Arc<Inbox>>],
    /// Those of the source subtasks.
    sources: Vec<&'a Arc<Inbox>>,
    in_progress: &'a InProgress,
    writers: Writers,
    coordinator: Coordinator,
    progress: BTreeMap<CheckpointId, Progress>,
    operators: Arc<[Arc<str>]>,
    started: bool,
    /// How many subtasks have left.
    left: usize,
    /// The newest checkpoint that this attempt has completed.
    newest: Option<CheckpointId>,
    /// The newest one whose completion every subtask has acted on: all output up to it is committed.
    committed: Option<CheckpointId>,
    /// How many subtasks have acted on those after it.
    commits: BTreeMap<CheckpointId, usize>,
    commands: Commands,
    /// Checkpoints that were given up and for which the writers had no room.
    discards: Vec<Task>,
}

/// Commands that are being carried out, beside those whose checkpoint is in progress.
#[derive(Default)]
struct Commands {
    /// Who waits for the next checkpoint to be triggered.
    checkpoints: Vec<Box<dyn Requester>>,
    /// Savepoints that are to be triggered.
    savepoints: VecDeque<(SavepointTarget, Box<dyn Requester>)>,
    /// Savepoints that are complete, while output that they have prepared is not committed.
    uncommitted: Vec<(Taken, Box<dyn Requester>)>,
    /// The job is to end at a checkpoint.
    stop: Option<StopCommand>,
}

/// The job is to end at a checkpoint.
struct StopCommand {
    after: After,
    target: Option<SavepointTarget>,
    done: Done,
    requester: Box<dyn Requester>,
}

impl StopCommand {
    fn drains(&self) -> bool {
        matches!(self.after, After::Stopped { drained: true })
    }

    /// Whether all input was ended and that is in a complete checkpoint: there is no way back.
    fn has_drained(&self) -> bool {
        self.drains() && self.done.checkpoint.is_some()
    }

    /// Notes what was taken for it.
    fn note(&mut self, purpose: Purpose, taken: &Taken) {
        match purpose {
            Purpose::Stop | Purpose::Last => self.done.checkpoint = Some(taken.clone()),
            Purpose::StopSavepoint => self.done.savepoint = Some(taken.clone()),
            Purpose::Checkpoint | Purpose::Savepoint => {}
        }
    }

    /// It ends here. `why`: what became of a savepoint that is wanted and not there.
    fn reached(mut self, why: &str) -> Reached {
        let failed = &mut self.done.savepoint_failed;
        if self.target.is_some() && self.done.savepoint.is_none() && failed.is_none() {
            *failed = Some(why.to_owned());
        }
        Reached {
            what: self.after,
            done: self.done,
            requester: self.requester,
        }
    }
}

/// What an ended attempt leaves to be settled: its checkpoints in progress, and commands.
pub(crate) struct Unsettled<'a> {
    requests: &'a Requests,
    attempt: u32,
    next_id: u64,
    progress: BTreeMap<CheckpointId, Progress>,
    reason: Reason,
    commands: Commands,
    /// The job goes on from its newest checkpoint, here or in another process.
    goes_on: bool,
    /// All output up to this checkpoint is committed, or is before anything else once the job goes on.
    committed: Option<CheckpointId>,
    /// The answer to those who wait.
    why: String,
}

impl Unsettled<'_> {
    /// Tells what has become of each: nobody writes any more, and `rest` are the last events. One
    /// whose metadata was written after all is complete, and the next attempt restores from it; all
    /// others are given up. Returns the number for the next checkpoint.
    pub(crate) fn settle(
        mut self,
        rest: impl IntoIterator<Item = (u32, Event)>,
        now: i64,
        report: &mut dyn FnMut(JobEvent),
    ) -> u64 {
        for (attempt, event) in rest {
            if let Event::Completed { id, completed } = event
                && attempt == self.attempt
                && let Some(entry) = self.progress.get_mut(&id)
            {
                entry.completed = Some(completed);
            }
        }
        let why = self.why;
        let checkpoints = self.progress.iter().filter(|(_, entry)| {
            entry.completed.is_some() && entry.purpose.kind() == SnapshotKind::Checkpoint
        });
        // What is complete is restored from, and its output committed by that.
        let newest = checkpoints.map(|(id, _)| *id).max();
        let newest = newest.filter(|_| self.goes_on);
        let committed = self.committed.max(newest);
        for (id, mut entry) in self.progress {
            let requesters = std::mem::take(&mut entry.requesters);
            let completed = entry.completed.take();
            let taken = completed
                .as_ref()
                .map(|completed| taken(completed, &entry, now));
            if let (Some(stop), Some(taken)) = (self.commands.stop.as_mut(), &taken) {
                stop.note(entry.purpose, taken);
            }
            report(match &completed {
                Some(completed) => complete(id, completed, &entry, now, Phases::default()),
                None => failed(id, self.reason.clone(), Some(entry), now),
            });
            for requester in requesters {
                match (&completed, &taken) {
                    (Some(completed), Some(taken))
                        if has_prepared(completed) && committed <= Some(id) =>
                    {
                        self.commands.uncommitted.push((taken.clone(), requester));
                    }
                    (Some(completed), Some(taken)) => {
                        requester.answer(Ok(done(completed.metadata().kind, taken.clone())));
                    }
                    _ => requester.answer(Err(NotDone::Ended(why.clone()))),
                }
            }
        }
        let Commands {
            checkpoints,
            savepoints,
            uncommitted,
            stop,
        } = self.commands;
        let savepoints = savepoints.into_iter().map(|(_, requester)| requester);
        let stop = stop.and_then(|stop| match stop.has_drained() {
            // No attempt takes a record any more.
            true => {
                self.requests.set_reached(stop.reached(&why));
                None
            }
            false => Some(stop.requester),
        });
        for requester in checkpoints.into_iter().chain(savepoints).chain(stop) {
            requester.answer(Err(NotDone::Ended(why.clone())));
        }
        for (savepoint, requester) in uncommitted {
            match committed > Some(CheckpointId(savepoint.id)) {
                true => requester.answer(Ok(done(Kind::Savepoint, savepoint))),
                false => requester.answer(Err(NotDone::Ended(lose(&savepoint, &why)))),
            }
        }
        self.next_id
    }
}

/// Removes a savepoint whose prepared output will never be committed, since the next attempt of the job prepares it
/// again. Returns the answer to its requester.
fn lose(savepoint: &Taken, why: &str) -> String {
    let id = savepoint.id;
    let removed = match savepoint.path.as_deref().map(dispose) {
        Some(Err(error)) => format!("it could not be removed ({})", causes(&error)),
        _ => "it was removed".to_owned(),
    };
    format!(
        "savepoint {id} was complete, but {why}, and output that it had prepared was not committed yet: {removed}"
    )
}

/// Whether sinks have prepared output in a savepoint; what they have in a checkpoint is committed with it.
fn has_prepared(completed: &Completed) -> bool {
    let metadata = completed.metadata();
    let sinks = metadata.operators.iter();
    let mut sinks = sinks.filter(|operator| operator.role == Role::Sink);
    metadata.kind == Kind::Savepoint
        && sinks.any(|sink| sink.subtasks.iter().any(|it| !it.parts.is_empty()))
}

fn taken(completed: &Completed, entry: &Progress, now: i64) -> Taken {
    Taken {
        id: completed.metadata().id,
        path: completed.path(),
        bytes: completed.bytes_written(),
        duration_ms: now.abs_diff(entry.triggered_at),
        completed_at: now,
    }
}

fn done(kind: Kind, taken: Taken) -> Done {
    let mut done = Done::default();
    match kind {
        Kind::Checkpoint => done.checkpoint = Some(taken),
        Kind::Savepoint => done.savepoint = Some(taken),
    }
    done
}

/// The event of a checkpoint that is complete.
fn complete(
    id: CheckpointId,
    completed: &Completed,
    entry: &Progress,
    now: i64,
    phases: Phases,
) -> JobEvent {
    let duration_ms = now.abs_diff(entry.triggered_at);
    entry.span.record("outcome", "completed");
    entry.span.record("duration_ms", duration_ms);
    entry.span.record("bytes", completed.bytes_written());
    JobEvent::CheckpointCompleted {
        id: id.0,
        savepoint: entry.purpose.kind() == SnapshotKind::Savepoint,
        duration_ms,
        bytes: completed.bytes_written(),
        path: completed.path(),
        phases: Box::new(phases),
        states: state_sizes(completed),
    }
}

fn state_sizes(completed: &Completed) -> Vec<StateSize> {
    let operators = completed.metadata().operators.iter();
    let sizes = operators.flat_map(|operator| {
        operator.states.iter().map(|state| StateSize {
            operator: operator.id.clone(),
            state: state.name.clone(),
            entries: state.entries,
            bytes: state.bytes,
        })
    });
    sizes.collect()
}

/// The event of a checkpoint that was given up.
fn failed(id: CheckpointId, reason: Reason, entry: Option<Progress>, now: i64) -> JobEvent {
    let mut duration_ms = 0;
    let (purpose, slowest) = entry.map_or((Purpose::Checkpoint, None), |entry| {
        duration_ms = now.abs_diff(entry.triggered_at);
        entry.span.record("outcome", "failed");
        entry.span.record("duration_ms", duration_ms);
        entry.span.record("reason", reason.text.as_str());
        (entry.purpose, entry.slowest)
    });
    JobEvent::CheckpointFailed {
        id: id.0,
        savepoint: purpose.kind() == SnapshotKind::Savepoint,
        duration_ms,
        counts: reason.kind.counts() && purpose.counts(),
        kind: reason.kind,
        reason: reason.text,
        slowest: slowest.map(Box::new),
        last: purpose == Purpose::Last,
    }
}

/// The span of a checkpoint or savepoint, for the log.
fn span(id: CheckpointId, purpose: Purpose, attempt: u32) -> Span {
    let kind = match purpose.kind() {
        SnapshotKind::Checkpoint => "checkpoint",
        SnapshotKind::Savepoint => "savepoint",
    };
    tracing::info_span!(
        "checkpoint",
        id = id.0,
        kind,
        attempt,
        outcome = Empty,
        duration_ms = Empty,
        bytes = Empty,
        reason = Empty
    )
}

/// What the driver keeps of a checkpoint in progress.
struct Progress {
    triggered_at: i64,
    purpose: Purpose,
    /// Who waits for it.
    requesters: Vec<Box<dyn Requester>>,
    /// How many subtasks have acknowledged it.
    acknowledged: usize,
    members: Vec<WrittenMember>,
    /// Its metadata is written.
    completed: Option<Box<Completed>>,
    /// Who kept it waiting until its time was over.
    slowest: Option<Slowest>,
    /// From its trigger to its end.
    span: Span,
}

impl<'a> Driver<'a> {
    /// Nothing has happened yet.
    pub(crate) fn new(
        attempt: &'a Attempt<'a>,
        plan: &'a ExecutionPlan,
        inboxes: &'a [Vec<Arc<Inbox>>],
        in_progress: &'a InProgress,
        writers: Writers,
    ) -> Self {
        let mut settings = attempt.options.checkpoint.clone();
        if let Some(interval_ms) = attempt.requests.interval() {
            settings.interval_ms = interval_ms;
        }
        let mut coordinator = Coordinator::new(settings, plan.subtasks(), attempt.next_id);
        if attempt.requests.has_reached() || attempt.drained {
            coordinator.hold();
        }
        let sources = plan
            .vertices
            .iter()
            .zip(inboxes)
            .filter(|(vertex, _)| vertex.inputs.is_empty())
            .flat_map(|(_, inboxes)| inboxes)
            .collect();
        Self {
            attempt,
            plan,
            inboxes,
            sources,
            in_progress,
            writers,
            coordinator,
            progress: BTreeMap::new(),
            operators: attempt
                .graph
                .nodes
                .iter()
                .map(|node| node.id.as_str().into())
                .collect(),
            started: false,
            left: 0,
            newest: None,
            committed: None,
            commits: BTreeMap::new(),
            commands: Commands::default(),
            discards: Vec::new(),
        }
    }

    /// When it wants to be called at the latest, event or not.
    pub(crate) fn deadline(&self) -> Option<i64> {
        self.coordinator.deadline()
    }

    /// Ends it: nothing is begun any more, and its place in the writers' queue is free. What it knew of
    /// checkpoints in progress is to be settled when nobody writes any more.
    pub(crate) fn leave(self, end: &End) -> Unsettled<'a> {
        if self.coordinator.is_requested() {
            // Nobody has seen to it yet. The next attempt will.
            self.attempt.requests.request_checkpoint();
        }
        let stopped = || Reason::new(AbortKind::JobStopped, "the job was stopped");
        let (reason, why) = match end {
            End::Stopped(Stop::Cancel) => (stopped(), "the job was cancelled first".to_owned()),
            End::Stopped(Stop::Suspend) => (stopped(), "the job was suspended first".to_owned()),
            End::Finished => (stopped(), "the job ended first".to_owned()),
            End::Failed(error, _) => {
                let reason = Reason::new(AbortKind::JobFailed, "the job failed meanwhile");
                (reason, format!("the job failed first: {}", causes(error)))
            }
        };
        let committed = match end {
            End::Finished => Some(CheckpointId(u64::MAX)),
            // Whoever goes on commits first what the newest checkpoint has.
            End::Failed(..) | End::Stopped(Stop::Suspend) => self.newest,
            // What is not committed now never will be.
            End::Stopped(Stop::Cancel) => self.committed,
        };
        let goes_on = !matches!(end, End::Stopped(Stop::Cancel));
        Unsettled {
            requests: self.attempt.requests,
            goes_on,
            committed,
            attempt: self.attempt.number,
            next_id: self.coordinator.next_id(),
            progress: self.progress,
            reason,
            commands: self.commands,
            why,
        }
    }

    fn everybody(&self, control: Control) {
        self.inboxes
            .iter()
            .flatten()
            .for_each(|inbox| inbox.control(control.clone()));
    }

    /// How many checkpoints and savepoints are in progress.
    pub(crate) fn in_progress(&self) -> usize {
        self.progress.len()
    }

    /// Takes notice of an event, or of the deadline, and does what follows from it. Returns how the
    /// attempt ends, if it does.
    pub(crate) fn on(
        &mut self,
        event: Option<(u32, Event)>,
        now: i64,
        report: &mut dyn FnMut(JobEvent),
    ) -> Option<End> {
        // First of all: nothing that has happened counts any more, a completed checkpoint neither.
        if let Err(error) = self.attempt.store.check_owned() {
            return Some(End::Failed(Error::Fenced(error), Class::Fenced));
        }
        if let Some(stop) = self.attempt.requests.stop() {
            // What is complete is, also now.
            if let Some((attempt, Event::Completed { id, completed })) = event
                && attempt == self.attempt.number
                && let Some(progress) = self.progress.get_mut(&id)
            {
                progress.completed = Some(completed);
            }
            return Some(End::Stopped(stop));
        }
        let input = match event {
            None => Some(Input::Tick),
            Some((_, Event::Requested)) => None,
            // Of an earlier attempt.
            Some((attempt, _)) if attempt != self.attempt.number => None,
            Some((_, Event::Ready { subtask })) => Some(Input::Ready(subtask)),
            Some((_, Event::Ended { subtask })) => Some(Input::Ended(subtask)),
            Some((
                _,
                Event::Acknowledged {
                    id,
                    subtask,
                    members,
                },
            )) => self.progress.get_mut(&id).map(|progress| {
                progress.members.extend(members);
                progress.acknowledged += 1;
                if !progress.requesters.is_empty() || self.commands.stop.is_some() {
                    let all = self.plan.subtasks();
                    let text = format!("{} of {all} subtasks written", progress.acknowledged);
                    let stop = self.commands.stop.as_ref().map(|stop| &stop.requester);
                    let requesters = progress.requesters.iter().chain(stop);
                    requesters.for_each(|requester| requester.progress(&text));
                }
                Input::Acknowledged(id, subtask)
            }),
            Some((_, Event::Declined { id, reason })) => Some(Input::Declined(id, reason)),
            Some((_, Event::Completed { id, completed })) => {
                self.progress.get_mut(&id).map(|progress| {
                    progress.completed = Some(completed);
                    Input::Completed(id)
                })
            }
            Some((_, Event::Committed { id })) => {
                self.commit(id);
                None
            }
            Some((_, Event::Failed(error))) => {
                let class = error.class(self.attempt.number == 0 && !self.started);
                return Some(End::Failed(*error, class));
            }
            Some((_, Event::Left)) => {
                self.left += 1;
                if self.left == self.plan.subtasks() {
                    return Some(End::Finished);
                }
                None
            }
        };
        // Requests last: what has happened is reported before what is triggered after it.
        let requested = self.attempt.requests.take_checkpoint();
        let inputs = input
            .into_iter()
            .chain(requested.then_some(Input::Requested));
        for input in inputs {
            let actions = self.coordinator.on(input, now);
            if let Some(end) = self.carry_out(actions, now, report) {
                return Some(end);
            }
        }
        while let Some(command) = self.attempt.requests.take_command() {
            let Some(input) = self.accept(command) else {
                continue;
            };
            let actions = self.coordinator.on(input, now);
            if let Some(end) = self.carry_out(actions, now, report) {
                return Some(end);
            }
        }
        let discards = std::mem::take(&mut self.discards);
        discards.into_iter().for_each(|task| self.discard(task));
        None
    }

    /// Savepoints that are asked for, in progress, or given up and not removed yet.
    fn savepoints(&self) -> usize {
        let purposes = self.progress.values().map(|entry| entry.purpose);
        let in_progress = purposes.filter(|it| it.kind() == SnapshotKind::Savepoint);
        in_progress.count() + self.commands.savepoints.len() + self.discards.len()
    }

    /// Takes a command on, or answers that it is not possible. Returns the input for the coordinator.
    fn accept(&mut self, command: Command) -> Option<Input> {
        let Command { order, requester } = command;
        let allowed = match &order {
            Order::Checkpoint => self.coordinator.may_request(),
            Order::Savepoint(_) if self.savepoints() >= SAVEPOINTS_MAX => {
                Err("as many savepoints as possible are in progress")
            }
            Order::Savepoint(_) => self.coordinator.may_request(),
            Order::Stop { .. } | Order::Rescale(_) => self.coordinator.may_stop(),
            Order::Interval(_) => Ok(()),
        };
        if let Err(why) = allowed {
            let why = format!("{} is not possible now: {why}", order.word());
            requester.answer(Err(NotDone::Conflict(why)));
            return None;
        }
        if !self.started {
            requester.progress("waiting until the job has started");
        }
        let (after, target) = match order {
            Order::Checkpoint => {
                self.commands.checkpoints.push(requester);
                return Some(Input::Requested);
            }
            Order::Savepoint(target) => {
                self.commands.savepoints.push_back((target, requester));
                return Some(Input::SavepointRequested);
            }
            Order::Interval(interval_ms) => {
                self.attempt.requests.set_interval(interval_ms);
                requester.answer(Ok(Done::default()));
                return Some(Input::IntervalChanged(interval_ms));
            }
            Order::Stop { drain, savepoint } => (After::Stopped { drained: drain }, savepoint),
            Order::Rescale(graph) => (After::Rescale(graph), None),
        };
        let stop = StopCommand {
            after,
            target,
            done: Done::default(),
            requester,
        };
        let plan = StopPlan {
            drain: stop.drains(),
            savepoint: stop.target.is_some(),
        };
        self.commands.stop = Some(stop);
        Some(Input::StopRequested(plan))
    }

    /// Does what the coordinator says, in order; what follows from an action comes ahead of the rest.
    fn carry_out(
        &mut self,
        actions: Vec<Action>,
        now: i64,
        report: &mut dyn FnMut(JobEvent),
    ) -> Option<End> {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            let declined = match action {
                Action::Start => {
                    self.started = true;
                    report(JobEvent::Started {
                        attempt: self.attempt.number,
                        set_up_ms: now.abs_diff(self.attempt.begun_at),
                    });
                    self.everybody(Control::Start);
                    None
                }
                Action::Trigger { id, purpose } => self.trigger(id, purpose, now),
                Action::EndInput => {
                    self.to_sources(&Control::EndInput);
                    None
                }
                Action::Resume => {
                    self.everybody(Control::Resume);
                    None
                }
                Action::Complete(id) => self.complete(id, now),
                Action::Expire(id) => self.expire(id),
                Action::Notify(id) => {
                    if self.notify(id, now, report) {
                        actions.extend(self.coordinator.on(Input::Uncommitted(id), now));
                    }
                    None
                }
                Action::Abort(id, reason) => {
                    self.abort(id, reason, now, report);
                    None
                }
                Action::Fail(id, reason) => {
                    let tolerated = self.attempt.options.checkpoint.tolerable_failures;
                    let error = Error::Checkpoints {
                        id: id.0,
                        tolerated,
                        reason: reason.text,
                    };
                    return Some(End::Failed(error, Class::Retry));
                }
                Action::Finish => {
                    if let Some(stop) = self.commands.stop.take() {
                        // On record before anybody closes: should that fail, the next attempt ends there too.
                        self.attempt
                            .requests
                            .set_reached(stop.reached("the job ended first"));
                    }
                    self.everybody(Control::Finish);
                    None
                }
            };
            if let Some((id, reason)) = declined {
                let follow = self.coordinator.on(Input::Declined(id, reason), now);
                follow
                    .into_iter()
                    .rev()
                    .for_each(|action| actions.push_front(action));
            }
        }
        None
    }

    fn to_sources(&self, control: &Control) {
        let sources = self.sources.iter();
        sources.for_each(|inbox| inbox.control(control.clone()));
    }

    fn trigger(
        &mut self,
        id: CheckpointId,
        purpose: Purpose,
        now: i64,
    ) -> Option<(CheckpointId, Reason)> {
        let mut target = None;
        let requesters = match purpose {
            Purpose::Savepoint => {
                let asked = self.commands.savepoints.pop_front();
                let (asked, requester) = asked.unzip();
                target = asked;
                requester.into_iter().collect()
            }
            Purpose::StopSavepoint => {
                let stop = self.commands.stop.as_ref();
                target = stop.and_then(|stop| stop.target.clone());
                Vec::new()
            }
            Purpose::Checkpoint | Purpose::Last | Purpose::Stop => {
                std::mem::take(&mut self.commands.checkpoints)
            }
        };
        let text = match purpose {
            Purpose::Savepoint | Purpose::StopSavepoint => format!("savepoint {id} has begun"),
            _ => format!("checkpoint {id} has begun"),
        };
        let stop = self.commands.stop.as_ref().map(|stop| &stop.requester);
        let waiting = requesters.iter().chain(stop);
        waiting.for_each(|requester| requester.progress(&text));
        let progress = Progress {
            triggered_at: now,
            purpose,
            requesters,
            acknowledged: 0,
            members: Vec::new(),
            completed: None,
            slowest: None,
            span: span(id, purpose, self.attempt.number),
        };
        self.progress.insert(id, progress);
        let store = self.attempt.store;
        let pending = match &target {
            Some(target) => store.begin_savepoint(id, target),
            None => store.begin(id),
        };
        let pending = match pending {
            Ok(pending) => pending,
            Err(error) => return Some((id, Reason::new(AbortKind::BeginFailed, causes(&error)))),
        };
        // Nobody can restore from memory once the process is over, and what follows the last
        // checkpoint needs no state: only commits.
        let with_state = !(purpose == Purpose::Last && store.is_memory());
        self.in_progress
            .insert(id, pending, Arc::clone(&self.operators), with_state);
        self.to_sources(&Control::Trigger(Barrier {
            id,
            kind: purpose.kind(),
            pause: purpose == Purpose::Stop,
        }));
        None
    }

    fn complete(&mut self, id: CheckpointId, now: i64) -> Option<(CheckpointId, Reason)> {
        let (entry, pending) = (self.progress.get_mut(&id)?, self.in_progress.pending(id)?);
        let (triggered_at, purpose) = (entry.triggered_at, entry.purpose);
        let members = std::mem::take(&mut entry.members);
        self.in_progress.notes().acknowledged(id);
        let (mut metadata, written) = self.metadata(id, triggered_at, members, now);
        if purpose.kind() == SnapshotKind::Savepoint {
            metadata.kind = Kind::Savepoint;
        }
        let stop = self.commands.stop.as_ref();
        metadata.drained = stop.is_some_and(StopCommand::drains)
            && matches!(purpose, Purpose::Last | Purpose::StopSavepoint);
        let task = Task::Complete {
            id,
            kind: purpose.kind(),
            pending,
            metadata: Box::new(metadata),
            written,
        };
        let refused = self.writers.try_send(task).is_err();
        refused.then(|| (id, Reason::writers_busy()))
    }

    /// From here on the checkpoint can never be believed, or it is complete already.
    fn expire(&mut self, id: CheckpointId) -> Option<(CheckpointId, Reason)> {
        let pending = self.in_progress.pending(id)?;
        if !pending.give_up() {
            // Its metadata is written, or has failed: the event is on its way.
            return None;
        }
        let queued = |subtask: usize, channel: usize| {
            let mut inboxes = self.inboxes.iter().flatten();
            inboxes
                .nth(subtask)
                .map_or(0, |inbox| inbox.queued(channel))
        };
        let timeout = self.attempt.options.checkpoint.timeout_ms;
        let mut text = format!("expired after {timeout} ms");
        let slowest = self.in_progress.notes().slowest(id, &queued);
        if let Some(slowest) = &slowest {
            text.push_str(&format!(": {}", slowest.text));
            if slowest.missing > 0 {
                let (missing, all) = (slowest.missing, self.plan.subtasks());
                text.push_str(&format!(
                    " ({missing} of {all} subtasks had not acknowledged)"
                ));
            }
        }
        if let Some(entry) = self.progress.get_mut(&id) {
            entry.slowest = slowest;
        }
        Some((id, Reason::new(AbortKind::Expired, text)))
    }

    /// Tells everybody who has to know that it is complete. Returns whether a checkpoint is wanted that commits the
    /// output that was prepared in it.
    fn notify(&mut self, id: CheckpointId, now: i64, report: &mut dyn FnMut(JobEvent)) -> bool {
        let phases = self.in_progress.notes().phases(id);
        self.in_progress.remove(id);
        let Some((mut entry, completed)) = self
            .progress
            .remove(&id)
            .and_then(|mut entry| entry.completed.take().map(|completed| (entry, completed)))
        else {
            return false;
        };
        report(complete(id, &completed, &entry, now, phases));
        let taken = taken(&completed, &entry, now);
        let kind = completed.metadata().kind;
        let requesters = std::mem::take(&mut entry.requesters);
        if kind == Kind::Checkpoint {
            self.newest = Some(id);
            self.everybody(Control::Complete {
                id,
                rebase: to_rebase(&completed),
            });
            self.commits.insert(id, 0);
        }
        if let Some(stop) = self.commands.stop.as_mut() {
            stop.note(entry.purpose, &taken);
        }
        let is_committed = self.committed > Some(id);
        if !has_prepared(&completed) || is_committed || requesters.is_empty() {
            for requester in requesters {
                requester.answer(Ok(done(kind, taken.clone())));
            }
            return false;
        }
        for requester in requesters {
            requester.progress("written; a checkpoint commits the output that is prepared in it");
            self.commands.uncommitted.push((taken.clone(), requester));
        }
        self.newest < Some(id)
    }

    /// A subtask has acted on the completion of a checkpoint. Answers those who wait for its output to be committed.
    fn commit(&mut self, id: CheckpointId) {
        let Some(subtasks) = self.commits.get_mut(&id) else {
            return;
        };
        *subtasks += 1;
        if *subtasks < self.plan.subtasks() {
            return;
        }
        // Each of them takes completions in order.
        self.commits.retain(|later, _| *later > id);
        self.committed = Some(id);
        for (savepoint, requester) in std::mem::take(&mut self.commands.uncommitted) {
            match savepoint.id < id.0 {
                true => requester.answer(Ok(done(Kind::Savepoint, savepoint))),
                false => self.commands.uncommitted.push((savepoint, requester)),
            }
        }
    }

    fn abort(
        &mut self,
        id: CheckpointId,
        reason: Reason,
        now: i64,
        report: &mut dyn FnMut(JobEvent),
    ) {
        let full = reason.kind == AbortKind::BaseLost;
        self.everybody(Control::Abort { id, full });
        let kind = self.progress.get(&id).map(|entry| entry.purpose.kind());
        if let Some(pending) = self.in_progress.remove(id) {
            // Nobody writes to it any more, from here on.
            pending.give_up();
            self.discard(Task::Discard(kind.unwrap_or_default(), pending));
        }
        let mut entry = self.progress.remove(&id);
        let requesters = entry
            .as_mut()
            .map(|entry| std::mem::take(&mut entry.requesters));
        let mut requesters = requesters.unwrap_or_default();
        if reason.kind == AbortKind::Subsumed
            && let Some(newer) = self.newer(id)
        {
            // What they have asked for is there.
            newer.requesters.append(&mut requesters);
        }
        for requester in requesters {
            requester.answer(Err(NotDone::Failed(reason.text.clone())));
        }
        if let Some(entry) = &entry {
            self.abort_stop(entry.purpose, &reason);
        }
        report(failed(id, reason, entry, now));
    }

    /// The checkpoint after this one that is complete and not reported yet.
    fn newer(&mut self, id: CheckpointId) -> Option<&mut Progress> {
        let after = self.progress.range_mut(id..).map(|(_, entry)| entry);
        let is_checkpoint =
            |entry: &&mut Progress| entry.purpose.kind() == SnapshotKind::Checkpoint;
        after
            .filter(is_checkpoint)
            .find(|entry| entry.completed.is_some())
    }

    /// A checkpoint at which the job was to end, or the savepoint after it, has failed.
    fn abort_stop(&mut self, purpose: Purpose, reason: &Reason) {
        if !matches!(purpose, Purpose::Stop | Purpose::StopSavepoint) {
            return;
        }
        match &mut self.commands.stop {
            // It ends all the same.
            Some(stop) if stop.drains() => stop.done.savepoint_failed = Some(reason.text.clone()),
            _ => {
                if let Some(stop) = self.commands.stop.take() {
                    let why = format!("{}; the job runs on", reason.text);
                    stop.requester.answer(Err(NotDone::Failed(why)));
                }
            }
        }
    }

    /// Has the writers remove what was written of a checkpoint that was given up. The driver must not wait for a
    /// storage: where the writers have no room, it tries again.
    fn discard(&mut self, task: Task) {
        if let Err(task) = self.writers.try_send(task) {
            self.discards.push(*task);
        }
    }

    /// What goes into `_metadata`, and what the store still has to place.
    fn metadata(
        &self,
        id: CheckpointId,
        triggered_at: i64,
        members: Vec<WrittenMember>,
        now: i64,
    ) -> (Metadata, Vec<(usize, u32, checkpoint::store::Written)>) {
        let mut operators: Vec<OperatorMetadata> = self
            .attempt
            .graph
            .nodes
            .iter()
            .map(|node| OperatorMetadata {
                id: node.id.clone(),
                role: restore::role(&node.kind),
                parallelism: node.parallelism,
                labels: match &node.kind {
                    NodeKind::Operator(operator) => operator.labels.clone(),
                    // Where its prepared output is, once the job has no such sink any more.
                    NodeKind::Sink(sink) => sink
                        .place()
                        .map(|place| (restore::PLACE.to_owned(), place))
                        .into_iter()
                        .collect(),
                    NodeKind::Source(_) => Default::default(),
                },
                states: match &node.kind {
                    NodeKind::Operator(operator) => {
                        operator.states.iter().map(State::declared).collect()
                    }
                    _ => Vec::new(),
                },
                operator_states: match &node.kind {
                    NodeKind::Operator(operator) => {
                        let states = operator.operator_states.iter();
                        states.map(declared).collect()
                    }
                    _ => Vec::new(),
                },
                subtasks: vec![SubtaskMetadata::default(); node.parallelism as usize],
            })
            .collect();
        let mut written = Vec::new();
        for member in members {
            let subtask = &mut operators[member.node].subtasks[member.index as usize];
            subtask.parts = member.rest.parts;
            subtask.ended_inputs = member.rest.ended_inputs;
            subtask.watermark = member.rest.watermark;
            subtask.event_time = member.rest.event_time;
            let of_member = member.written.into_iter();
            written.extend(of_member.map(|it| (member.node, member.index, it)));
        }
        let metadata = Metadata {
            writer: format!("highwater {}", env!("CARGO_PKG_VERSION")),
            job_name: self.attempt.options.name.clone(),
            job_id: self.attempt.options.id.clone(),
            run: Some(self.attempt.options.run.clone()),
            // The store knows who owns the job directory.
            generation: 0,
            holder: None,
            id: id.0,
            previous: self
                .attempt
                .store
                .latest()
                .map(|latest| latest.metadata().id)
                // A savepoint may take longer than the checkpoint after it.
                .filter(|latest| *latest < id.0),
            kind: Kind::Checkpoint,
            drained: false,
            triggered_at,
            duration_ms: now.abs_diff(triggered_at),
            key_groups: self.attempt.graph.key_groups.count(),
            key_hash: KEY_HASH_NAME.to_owned(),
            operators,
        };
        (metadata, written)
    }
}

/// An operator state as metadata declares it; the store fills in how much there is of it.
fn declared(state: &operator_state::Descriptor) -> State {
    State {
        name: state.name.clone(),
        kind: state.scope.name().to_owned(),
        schema: state.schema.clone(),
        schema_version: state.schema_version,
        ttl_ms: None,
        ttl_refresh: None,
        ttl_time: None,
        entries: 0,
        bytes: 0,
    }
}

#[cfg(test)]
mod tests;
