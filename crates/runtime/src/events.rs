//! What the threads of an attempt have to say to its driver, and what they count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use checkpoint::store::Completed;
use dataflow::CheckpointId;

use crate::abort::Reason;
use crate::error::Error;
use crate::meters::Meters;
use crate::restoring::Restoring;
use crate::snapshot::WrittenMember;

/// What threads and users have to say to the driver.
#[derive(Debug)]
pub(crate) enum Event {
    /// A subtask is set up.
    Ready { subtask: usize },
    /// A subtask has processed the end of all its inputs.
    Ended { subtask: usize },
    /// A subtask's snapshot is written.
    Acknowledged {
        id: CheckpointId,
        subtask: usize,
        members: Vec<WrittenMember>,
    },
    /// A part of a checkpoint could not be taken or written.
    Declined { id: CheckpointId, reason: Reason },
    /// A checkpoint's metadata is written.
    Completed {
        id: CheckpointId,
        completed: Box<Completed>,
    },
    /// A subtask has acted on the completion of a checkpoint: its sinks have committed what they had prepared.
    Committed { id: CheckpointId },
    /// A thread has failed.
    Failed(Box<Error>),
    /// A subtask has closed and left.
    Left,
    /// Somebody has asked for something: look at the [`Requests`](crate::requests::Requests).
    Requested,
}

/// Where threads report to. Their number shows which events are of an earlier attempt.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    pub(crate) attempt: u32,
    pub(crate) sender: SyncSender<(u32, Event)>,
    pub(crate) counters: Arc<Counters>,
}

/// What is counted over all subtasks, since the job was started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Records of each node of the graph: those that a source has read or a sink has taken.
    nodes: Box<[AtomicU64]>,
    /// Records and timers of each node that were left out because they were to blame for a failure.
    blamed: Box<[AtomicU64]>,
    /// Batches of each node that failed and whose parts all succeeded.
    recovered: Box<[AtomicU64]>,
    /// Keys that were read back from disk.
    pub(crate) recalled: AtomicU64,
    /// Checkpoints and savepoints in progress.
    pub(crate) in_progress: AtomicU64,
    /// Those of the newest attempt.
    meters: Mutex<Arc<Meters>>,
    /// What the newest attempt restores.
    restoring: Mutex<Arc<Restoring>>,
}

fn zeros(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

fn read(counters: &[AtomicU64], index: usize) -> u64 {
    let counter = counters.get(index);
    counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
}

fn count(counters: &[AtomicU64], index: usize, count: u64) {
    if let Some(counter) = counters.get(index) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

impl Counters {
    /// For a graph of this many nodes.
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            nodes: zeros(nodes),
            blamed: zeros(nodes),
            recovered: zeros(nodes),
            recalled: AtomicU64::new(0),
            in_progress: AtomicU64::new(0),
            meters: Mutex::default(),
            restoring: Mutex::default(),
        }
    }

    /// An attempt has begun, with these.
    pub(crate) fn set_meters(&self, meters: Meters) {
        *self.meters.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(meters);
    }

    /// An attempt has begun, which restores this.
    pub(crate) fn set_restoring(&self, restoring: Arc<Restoring>) {
        *self
            .restoring
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = restoring;
    }

    /// What the newest attempt restores.
    pub(crate) fn restoring(&self) -> Arc<Restoring> {
        Arc::clone(
            &self
                .restoring
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Those of the newest attempt.
    pub(crate) fn meters(&self) -> Arc<Meters> {
        Arc::clone(&self.meters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the node at `index` has counted.
    pub(crate) fn records(&self, index: usize) -> u64 {
        read(&self.nodes, index)
    }

    /// How many records and timers of the node at `index` were to blame.
    pub(crate) fn blamed(&self, index: usize) -> u64 {
        read(&self.blamed, index)
    }

    /// How many batches of the node at `index` failed and blame nobody.
    pub(crate) fn recovered(&self, index: usize) -> u64 {
        read(&self.recovered, index)
    }
}

impl Events {
    pub(crate) fn send(&self, event: Event) {
        // The driver is gone only when the job is: nobody is left to notify.
        let _ = self.sender.send((self.attempt, event));
    }

    /// Counts records that the source or sink at this place of the graph has read or taken.
    pub(crate) fn count_records(&self, node: usize, records: u64) {
        count(&self.counters.nodes, node, records);
    }

    /// Counts a record or timer that was to blame. Returns how many there were before.
    pub(crate) fn count_blamed(&self, node: usize) -> u64 {
        let before = self.counters.blamed(node);
        count(&self.counters.blamed, node, 1);
        before
    }

    /// Counts a batch that failed and blames nobody.
    pub(crate) fn count_recovered(&self, node: usize) {
        count(&self.counters.recovered, node, 1);
    }

    pub(crate) fn count_recalled(&self, keys: u64) {
        if keys > 0 {
            self.counters.recalled.fetch_add(keys, Ordering::Relaxed);
        }
    }
}
