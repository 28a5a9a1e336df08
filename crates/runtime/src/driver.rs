//! What the coordinator decides, done: the state machine that moves a running attempt.
//!
//! It takes one event at a time and never waits, so that it can be driven by a thread or by a
//! simulation.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use checkpoint::metadata::{
    Kind, Metadata, Operator as OperatorMetadata, State, Subtask as SubtaskMetadata,
};
use checkpoint::store::Completed;
use dataflow::CheckpointId;
use dataflow::key::KEY_HASH_NAME;

use crate::abort::{Kind as AbortKind, Reason};
use crate::attempt::{Attempt, End};
use crate::coordinator::{Action, Coordinator, Input};
use crate::error::{Class, Error, causes};
use crate::events::Event;
use crate::graph::NodeKind;
use crate::inbox::{Control, Inbox};
use crate::phases::{Phases, Slowest};
use crate::plan::ExecutionPlan;
use crate::report::JobEvent;
use crate::restore;
use crate::snapshot::WrittenMember;
use crate::writer::{InProgress, Task, Writers, to_rebase};

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
}

/// What an ended attempt leaves to be settled: its checkpoints in progress.
pub(crate) struct Unsettled {
    attempt: u32,
    next_id: u64,
    progress: BTreeMap<CheckpointId, Progress>,
    reason: Reason,
}

impl Unsettled {
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
        for (id, mut entry) in self.progress {
            report(match entry.completed.take() {
                Some(completed) => complete(id, &completed, &entry, now, Phases::default()),
                None => failed(id, self.reason.clone(), Some(entry)),
            });
        }
        self.next_id
    }
}

/// The event of a checkpoint that is complete.
fn complete(
    id: CheckpointId,
    completed: &Completed,
    entry: &Progress,
    now: i64,
    phases: Phases,
) -> JobEvent {
    JobEvent::CheckpointCompleted {
        id: id.0,
        duration_ms: now.abs_diff(entry.triggered_at),
        bytes: completed.bytes_written(),
        path: completed.path(),
        phases: Box::new(phases),
    }
}

/// The event of a checkpoint that was given up.
fn failed(id: CheckpointId, reason: Reason, entry: Option<Progress>) -> JobEvent {
    let (last, slowest) = entry.map_or((false, None), |entry| (entry.last, entry.slowest));
    JobEvent::CheckpointFailed {
        id: id.0,
        kind: reason.kind,
        reason: reason.text,
        slowest: slowest.map(Box::new),
        last,
    }
}

/// What the driver keeps of a checkpoint in progress.
struct Progress {
    triggered_at: i64,
    last: bool,
    members: Vec<WrittenMember>,
    /// Its metadata is written.
    completed: Option<Box<Completed>>,
    /// Who kept it waiting until its time was over.
    slowest: Option<Slowest>,
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
        let coordinator = Coordinator::new(
            attempt.options.checkpoint.clone(),
            plan.subtasks(),
            attempt.next_id,
        );
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
        }
    }

    /// When it wants to be called at the latest, event or not.
    pub(crate) fn deadline(&self) -> Option<i64> {
        self.coordinator.deadline()
    }

    /// Ends it: nothing is begun any more, and its place in the writers' queue is free. What it knew of
    /// checkpoints in progress is to be settled when nobody writes any more.
    pub(crate) fn leave(self, end: &End) -> Unsettled {
        if self.coordinator.is_requested() {
            // Nobody has seen to it yet. The next attempt will.
            self.attempt.requests.request_checkpoint();
        }
        Unsettled {
            attempt: self.attempt.number,
            next_id: self.coordinator.next_id(),
            progress: self.progress,
            reason: match end {
                End::Stopped(_) => Reason::new(AbortKind::JobStopped, "the job was stopped"),
                End::Failed(..) | End::Finished => {
                    Reason::new(AbortKind::JobFailed, "the job failed meanwhile")
                }
            },
        }
    }

    fn everybody(&self, control: Control) {
        self.inboxes
            .iter()
            .flatten()
            .for_each(|inbox| inbox.control(control.clone()));
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
                Input::Acknowledged(id, subtask)
            }),
            Some((_, Event::Declined { id, reason })) => Some(Input::Declined(id, reason)),
            Some((_, Event::Completed { id, completed })) => {
                self.progress.get_mut(&id).map(|progress| {
                    progress.completed = Some(completed);
                    Input::Completed(id)
                })
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
        None
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
                    });
                    self.everybody(Control::Start);
                    None
                }
                Action::Trigger { id, last } => self.trigger(id, last, now),
                Action::Complete(id) => self.complete(id, now),
                Action::Expire(id) => self.expire(id),
                Action::Notify(id) => {
                    self.notify(id, now, report);
                    None
                }
                Action::Abort(id, reason) => {
                    self.abort(id, reason, report);
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

    fn trigger(
        &mut self,
        id: CheckpointId,
        last: bool,
        now: i64,
    ) -> Option<(CheckpointId, Reason)> {
        let progress = Progress {
            triggered_at: now,
            last,
            members: Vec::new(),
            completed: None,
            slowest: None,
        };
        self.progress.insert(id, progress);
        let pending = match self.attempt.store.begin(id) {
            Ok(pending) => pending,
            Err(error) => return Some((id, Reason::new(AbortKind::BeginFailed, causes(&error)))),
        };
        // Nobody can restore from memory once the process is over, and what follows the last
        // checkpoint needs no state: only commits.
        let with_state = !(last && self.attempt.store.is_memory());
        self.in_progress
            .insert(id, pending, Arc::clone(&self.operators), with_state);
        self.sources
            .iter()
            .for_each(|inbox| inbox.control(Control::Trigger(id)));
        None
    }

    fn complete(&mut self, id: CheckpointId, now: i64) -> Option<(CheckpointId, Reason)> {
        let (entry, pending) = (self.progress.get_mut(&id)?, self.in_progress.pending(id)?);
        let (triggered_at, members) = (entry.triggered_at, std::mem::take(&mut entry.members));
        self.in_progress.notes().acknowledged(id);
        let (metadata, written) = self.metadata(id, triggered_at, members, now);
        let task = Task::Complete {
            id,
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

    fn notify(&mut self, id: CheckpointId, now: i64, report: &mut dyn FnMut(JobEvent)) {
        let phases = self.in_progress.notes().phases(id);
        self.in_progress.remove(id);
        let Some((entry, completed)) = self
            .progress
            .remove(&id)
            .and_then(|mut entry| entry.completed.take().map(|completed| (entry, completed)))
        else {
            return;
        };
        report(complete(id, &completed, &entry, now, phases));
        self.everybody(Control::Complete {
            id,
            rebase: to_rebase(&completed),
        });
    }

    fn abort(&mut self, id: CheckpointId, reason: Reason, report: &mut dyn FnMut(JobEvent)) {
        let full = reason.kind == AbortKind::BaseLost;
        self.everybody(Control::Abort { id, full });
        if let Some(pending) = self.in_progress.remove(id) {
            // A full queue leaves it to the drop of the last reference.
            let _ = self.writers.try_send(Task::Discard(pending));
        }
        report(failed(id, reason, self.progress.remove(&id)));
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
                    NodeKind::Operator(operator) => operator
                        .states
                        .iter()
                        .map(|state| State {
                            name: state.name.clone(),
                            kind: restore::kind_name(state.kind).to_owned(),
                            schema: state.schema.clone(),
                            schema_version: state.schema_version,
                            ttl_ms: state.ttl_ms,
                            entries: 0,
                            bytes: 0,
                        })
                        .collect(),
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
            if let Some(segment) = member.written {
                written.push((member.node, member.index, segment));
            }
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
                .map(|latest| latest.metadata().id),
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

#[cfg(test)]
mod tests;
