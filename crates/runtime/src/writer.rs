//! What subtasks seal, written in the background: snapshots to storage, then the metadata.
//!
//! A few threads take tasks from one bounded queue. A subtask that finds it full declines the
//! checkpoint rather than wait: storage that stalls must not stop the data path. Savepoints have a queue and a thread
//! of their own, because they go where their user wants: a place that hangs must hold back no checkpoint.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use checkpoint::metadata::Metadata;
use checkpoint::store::{Completed, Pending, Written};
use dataflow::{CheckpointId, SnapshotKind};

use crate::abort::{Kind, Reason};
use crate::error::causes;
use crate::events::{Event, Events};
use crate::phases::PhaseTimes;
use crate::snapshot::{Snapshot, WrittenMember};
use crate::spawn::Threads;

/// Something to write.
#[derive(Debug)]
pub(crate) enum Task {
    Snapshot(Snapshot),
    Complete {
        id: CheckpointId,
        kind: SnapshotKind,
        pending: Arc<Pending>,
        metadata: Box<Metadata>,
        written: Vec<(usize, u32, Written)>,
    },
    Discard(SnapshotKind, Arc<Pending>),
}

impl Task {
    fn kind(&self) -> SnapshotKind {
        match self {
            Self::Snapshot(snapshot) => snapshot.kind,
            Self::Complete { kind, .. } | Self::Discard(kind, _) => *kind,
        }
    }
}

/// The checkpoints in progress, for writers of a part of one.
#[derive(Debug)]
pub(crate) struct InProgress {
    entries: Mutex<HashMap<CheckpointId, PendingPart>>,
    notes: PhaseTimes,
}

#[derive(Clone, Debug)]
struct PendingPart {
    pending: Arc<Pending>,
    operators: Arc<[Arc<str>]>,
    with_state: bool,
}

impl InProgress {
    pub(crate) fn new(notes: PhaseTimes) -> Self {
        Self {
            entries: Mutex::default(),
            notes,
        }
    }

    /// How far everybody is with them.
    pub(crate) fn notes(&self) -> &PhaseTimes {
        &self.notes
    }

    pub(crate) fn insert(
        &self,
        id: CheckpointId,
        pending: Arc<Pending>,
        operators: Arc<[Arc<str>]>,
        with_state: bool,
    ) {
        self.notes.begin(id);
        self.lock().insert(
            id,
            PendingPart {
                pending,
                operators,
                with_state,
            },
        );
    }

    pub(crate) fn remove(&self, id: CheckpointId) -> Option<Arc<Pending>> {
        self.notes.end(id);
        self.lock().remove(&id).map(|entry| entry.pending)
    }

    pub(crate) fn pending(&self, id: CheckpointId) -> Option<Arc<Pending>> {
        self.lock().get(&id).map(|entry| Arc::clone(&entry.pending))
    }

    /// Gives up all of them, oldest first.
    pub(crate) fn clear(&self) -> Vec<Arc<Pending>> {
        let mut given_up: Vec<Arc<Pending>> = self
            .lock()
            .drain()
            .map(|(_, entry)| entry.pending)
            .collect();
        given_up.sort_by_key(|pending| pending.id());
        given_up
    }

    fn get(&self, id: CheckpointId) -> Option<PendingPart> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CheckpointId, PendingPart>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writers' queues. Dropping the last clone ends the threads that take from them.
#[derive(Clone, Debug)]
pub(crate) struct Writers {
    checkpoints: SyncSender<Task>,
    savepoints: SyncSender<Task>,
}

/// Where writers take their tasks from.
#[derive(Debug)]
pub(crate) struct Tasks {
    pub(crate) checkpoints: Receiver<Task>,
    pub(crate) savepoints: Receiver<Task>,
}

impl Writers {
    /// Queues that hold up to `checkpoints` and `savepoints` tasks, and where to take those from.
    pub(crate) fn queues(checkpoints: usize, savepoints: usize) -> (Self, Tasks) {
        let (checkpoints, checkpoint_tasks) = sync_channel(checkpoints);
        let (savepoints, savepoint_tasks) = sync_channel(savepoints);
        let writers = Self {
            checkpoints,
            savepoints,
        };
        let tasks = Tasks {
            checkpoints: checkpoint_tasks,
            savepoints: savepoint_tasks,
        };
        (writers, tasks)
    }

    /// Queues a task; gives it back if the queue is full or the writers are gone.
    pub(crate) fn try_send(&self, task: Task) -> Result<(), Box<Task>> {
        let queue = match task.kind() {
            SnapshotKind::Checkpoint => &self.checkpoints,
            SnapshotKind::Savepoint => &self.savepoints,
        };
        queue.try_send(task).map_err(|error| match error {
            TrySendError::Full(task) | TrySendError::Disconnected(task) => Box::new(task),
        })
    }
}

/// Starts `count` threads that write what is queued of checkpoints, and one for savepoints.
pub(crate) fn start(
    threads: &mut Threads,
    count: usize,
    tasks: Tasks,
    in_progress: &Arc<InProgress>,
    events: &Events,
) -> Result<(), crate::Error> {
    let checkpoints = Arc::new(Mutex::new(tasks.checkpoints));
    let savepoints = Arc::new(Mutex::new(tasks.savepoints));
    let names = (0..count).map(|index| (format!("checkpoint-writer-{index}"), &checkpoints));
    for (name, tasks) in names.chain([("savepoint-writer".to_owned(), &savepoints)]) {
        let (tasks, in_progress, own) =
            (Arc::clone(tasks), Arc::clone(in_progress), events.clone());
        threads.spawn(name, events.clone(), move || {
            run(&tasks, &in_progress, &own);
            Ok(())
        })?;
    }
    Ok(())
}

fn run(tasks: &Mutex<Receiver<Task>>, in_progress: &InProgress, events: &Events) {
    loop {
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match task {
            Err(_) => return,
            Ok(task) => execute(task, in_progress, events),
        }
    }
}

/// Writes what a task says, and tells the driver what came of it.
pub(crate) fn execute(task: Task, in_progress: &InProgress, events: &Events) {
    match task {
        Task::Snapshot(snapshot) => {
            let (id, subtask) = (snapshot.id, snapshot.subtask);
            // Aborted meanwhile: nothing to write, nobody to tell.
            let Some(entry) = in_progress.get(id) else {
                return;
            };
            let notes = in_progress.notes();
            notes.uploading(id, subtask);
            match write(snapshot, &entry, notes) {
                Ok(members) => {
                    let written = members.iter().flat_map(|member| &member.written);
                    notes.written(id, subtask, written.map(Written::bytes).sum());
                    events.send(Event::Acknowledged {
                        id,
                        subtask,
                        members,
                    });
                }
                Err(error) => {
                    let kind = match error {
                        checkpoint::Error::TooLarge { .. } => Kind::StateTooLarge,
                        _ => Kind::UploadFailed,
                    };
                    let reason = Reason::new(kind, causes(&error));
                    events.send(Event::Declined { id, reason });
                }
            }
        }
        Task::Complete {
            id,
            pending,
            metadata,
            written,
            kind: _,
        } => match pending.complete(*metadata, written) {
            Ok(completed) => events.send(Event::Completed {
                id,
                completed: Box::new(completed),
            }),
            Err(error) => {
                let kind = match error {
                    checkpoint::Error::NotFound(_) => Kind::BaseLost,
                    _ => Kind::MetadataFailed,
                };
                let reason = Reason::new(kind, causes(&error));
                events.send(Event::Declined { id, reason });
            }
        },
        Task::Discard(_, pending) => discard(pending),
    }
}

/// Removes what was written of a checkpoint that was given up.
pub(crate) fn discard(pending: Arc<Pending>) {
    if let Err(error) = pending.discard() {
        tracing::warn!(
            "an aborted checkpoint left files behind: {}",
            causes(&error)
        );
    }
}

fn write(
    snapshot: Snapshot,
    entry: &PendingPart,
    notes: &PhaseTimes,
) -> checkpoint::Result<Vec<WrittenMember>> {
    let (id, subtask) = (snapshot.id, snapshot.subtask);
    snapshot
        .members
        .into_iter()
        .map(|member| {
            // Also a delta without a change is written: it refers to what it builds on.
            let operator = &entry.operators[member.node];
            let mut written = Vec::new();
            if let Some(state) = member.state.filter(|_| entry.with_state) {
                notes.at(id, subtask, operator);
                written.push(entry.pending.write(operator, member.index, &state)?);
            }
            if let Some(state) = member.operator_state.filter(|_| entry.with_state) {
                notes.at(id, subtask, operator);
                let of = (member.index, member.parallelism);
                let pending = &entry.pending;
                written.push(pending.write_operator_state(operator, of, &state)?);
            }
            Ok(WrittenMember {
                node: member.node,
                index: member.index,
                written,
                rest: member.rest,
            })
        })
        .collect()
}

/// A completed checkpoint whose chains of deltas have grown larger than what they build on: the nodes
/// whose next snapshot should be full again. What follows from it is described in [`crate::delta_chain`].
pub(crate) fn to_rebase(completed: &Completed) -> Arc<[usize]> {
    let operators = &completed.metadata().operators;
    (0..operators.len())
        .filter(|index| {
            operators[*index].subtasks.iter().any(|subtask| {
                let bytes = |delta| {
                    subtask
                        .segments
                        .iter()
                        .filter(|segment| segment.delta == delta)
                        .map(|s| s.length)
                        .sum::<u64>()
                };
                bytes(true) > bytes(false)
            })
        })
        .collect()
}
