//! What the coordinator decides, done: the state machine that moves a running attempt.
//!
//! It takes one event at a time and never waits, so that it can be driven by a thread or by a
//! simulation.

use std::collections::HashMap;
use std::sync::Arc;

use checkpoint::metadata::{
    Kind, Metadata, Operator as OperatorMetadata, State, Subtask as SubtaskMetadata,
};
use dataflow::CheckpointId;
use dataflow::key::KEY_HASH_NAME;

use crate::attempt::{Attempt, End, Event};
use crate::coordinator::{Action, Coordinator, Input};
use crate::error::{Class, Error, chain};
use crate::graph::NodeKind;
use crate::inbox::{Control, Inbox};
use crate::job::JobEvent;
use crate::plan::Plan;
use crate::restore;
use crate::writer::{InProgress, Task, Writers, WrittenMember, to_rebase};

/// See the module.
pub(crate) struct Driver<'a> {
    attempt: &'a Attempt<'a>,
    plan: &'a Plan,
    inboxes: &'a [Vec<Arc<Inbox>>],
    /// Those of the source subtasks.
    sources: Vec<&'a Arc<Inbox>>,
    in_progress: &'a InProgress,
    writers: Writers,
    coordinator: Coordinator,
    progress: HashMap<CheckpointId, Progress>,
    operators: Arc<[String]>,
    started: bool,
    /// How many subtasks have left.
    left: usize,
}

/// What the driver keeps of a checkpoint in progress.
struct Progress {
    triggered_at: i64,
    last: bool,
    members: Vec<WrittenMember>,
}

impl<'a> Driver<'a> {
    /// Nothing has happened yet.
    pub(crate) fn new(
        attempt: &'a Attempt<'a>,
        plan: &'a Plan,
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
            progress: HashMap::new(),
            operators: attempt
                .graph
                .nodes
                .iter()
                .map(|node| node.id.clone())
                .collect(),
            started: false,
            left: 0,
        }
    }

    /// When it wants to be called at the latest, event or not.
    pub(crate) fn deadline(&self) -> Option<i64> {
        self.coordinator.deadline()
    }

    /// Ends it; returns the number for the next checkpoint.
    pub(crate) fn leave(self) -> u64 {
        self.coordinator.next_id()
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
        if let Some(stop) = self.attempt.requests.stop() {
            return Some(End::Stopped(stop));
        }
        let mut inputs = Vec::new();
        if self.attempt.requests.take_checkpoint() {
            inputs.push(Input::Requested);
        }
        match event {
            None => inputs.push(Input::Tick),
            Some((_, Event::Requested)) => {}
            // Of an earlier attempt.
            Some((attempt, _)) if attempt != self.attempt.number => {}
            Some((_, Event::Ready { subtask })) => inputs.push(Input::Ready(subtask)),
            Some((_, Event::Ended { subtask })) => inputs.push(Input::Ended(subtask)),
            Some((
                _,
                Event::Acknowledged {
                    id,
                    subtask,
                    members,
                },
            )) => {
                if let Some(progress) = self.progress.get_mut(&id) {
                    progress.members.extend(members);
                    inputs.push(Input::Acknowledged(id, subtask));
                }
            }
            Some((_, Event::Declined { id, reason })) => inputs.push(Input::Declined(id, reason)),
            Some((_, Event::Completed { id, completed })) => {
                let entry = self.progress.remove(&id);
                self.in_progress.remove(id);
                report(JobEvent::CheckpointCompleted {
                    id: id.0,
                    duration_ms: entry.map_or(0, |entry| now.abs_diff(entry.triggered_at)),
                    bytes: completed.bytes_written(),
                    path: completed.path(),
                });
                // Before anything else that follows: notifications must reach the subtasks ahead
                // of the next barrier, since the next delta builds on this checkpoint.
                self.everybody(Control::Complete {
                    id,
                    rebase: to_rebase(&completed),
                });
                inputs.push(Input::Completed(id));
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
            }
        }
        for action in inputs
            .into_iter()
            .flat_map(|input| self.coordinator.on(input, now))
            .collect::<Vec<_>>()
        {
            let mut follow_up = vec![action];
            while let Some(action) = follow_up.pop() {
                match action {
                    Action::Start => {
                        self.started = true;
                        report(JobEvent::Started {
                            attempt: self.attempt.number,
                        });
                        self.everybody(Control::Start);
                    }
                    Action::Trigger { id, last } => match self.attempt.store.begin(id) {
                        Ok(pending) => {
                            // Nobody can restore from memory once the process is over, and what
                            // follows the last checkpoint needs no state: only commits.
                            let with_state = !(last && self.attempt.store.is_memory());
                            self.in_progress.insert(
                                id,
                                pending,
                                Arc::clone(&self.operators),
                                with_state,
                            );
                            self.progress.insert(
                                id,
                                Progress {
                                    triggered_at: now,
                                    last,
                                    members: Vec::new(),
                                },
                            );
                            self.sources
                                .iter()
                                .for_each(|inbox| inbox.control(Control::Trigger(id)));
                        }
                        Err(error) => follow_up.extend(
                            self.coordinator
                                .on(Input::Declined(id, chain(&error)), now)
                                .into_iter()
                                .rev(),
                        ),
                    },
                    Action::Complete(id) => {
                        let Some(entry) = self.progress.get_mut(&id) else {
                            continue;
                        };
                        let (triggered_at, members) =
                            (entry.triggered_at, std::mem::take(&mut entry.members));
                        let (metadata, written) = self.metadata(id, triggered_at, members, now);
                        let Some(pending) = self.in_progress.remove(id) else {
                            continue;
                        };
                        let task = Task::Complete {
                            id,
                            pending,
                            metadata: Box::new(metadata),
                            written,
                        };
                        if self.writers.try_send(task).is_err() {
                            let reason = "writing earlier checkpoints has not caught up".to_owned();
                            follow_up.extend(
                                self.coordinator
                                    .on(Input::Declined(id, reason), now)
                                    .into_iter()
                                    .rev(),
                            );
                        }
                    }
                    Action::Notify(_) => {}
                    Action::Abort(id, reason) => {
                        let entry = self.progress.remove(&id);
                        self.everybody(Control::Abort(id));
                        if let Some(pending) = self.in_progress.remove(id) {
                            // A full queue leaves it to the drop of the last reference.
                            let _ = self.writers.try_send(Task::Discard(pending));
                        }
                        let last = entry.is_some_and(|entry| entry.last);
                        report(JobEvent::CheckpointFailed {
                            id: id.0,
                            reason,
                            last,
                        });
                    }
                    Action::Fail(id, reason) => {
                        let tolerated = self.attempt.options.checkpoint.tolerable_failures;
                        let error = Error::Checkpoints {
                            id: id.0,
                            tolerated,
                            reason,
                        };
                        return Some(End::Failed(error, Class::Retry));
                    }
                    Action::Finish => self.everybody(Control::Finish),
                }
            }
        }
        None
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
                    _ => Default::default(),
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
            generation: 0,
            id: id.0,
            previous: self
                .attempt
                .store
                .latest()
                .map(|latest| latest.metadata().id),
            kind: Kind::Checkpoint,
            triggered_at,
            duration_ms: now.abs_diff(triggered_at),
            key_groups: self.attempt.graph.key_groups.count(),
            key_hash: KEY_HASH_NAME.to_owned(),
            operators,
        };
        (metadata, written)
    }
}
