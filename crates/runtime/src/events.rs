//! What the threads of an attempt have to say to its driver, and what they count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use checkpoint::store::Completed;
use dataflow::CheckpointId;

use crate::abort::Reason;
use crate::error::Error;
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
    /// Keys that were read back from disk.
    pub(crate) recalled: AtomicU64,
}

impl Counters {
    /// For a graph of this many nodes.
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            nodes: (0..nodes).map(|_| AtomicU64::new(0)).collect(),
            recalled: AtomicU64::new(0),
        }
    }

    /// What the node at `index` has counted.
    pub(crate) fn records(&self, index: usize) -> u64 {
        let node = self.nodes.get(index);
        node.map_or(0, |node| node.load(Ordering::Relaxed))
    }
}

impl Events {
    pub(crate) fn send(&self, event: Event) {
        // The driver is gone only when the job is: nobody is left to notify.
        let _ = self.sender.send((self.attempt, event));
    }

    /// Counts records that the source or sink at this place of the graph has read or taken.
    pub(crate) fn count_records(&self, node: usize, records: u64) {
        if let Some(node) = self.counters.nodes.get(node) {
            node.fetch_add(records, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_recalled(&self, keys: u64) {
        if keys > 0 {
            self.counters.recalled.fetch_add(keys, Ordering::Relaxed);
        }
    }
}
