//! What a subtask has at a barrier, before and after it is written.

use checkpoint::store::Written;
use dataflow::operator_state::SealedOperatorState;
use dataflow::state::SealedState;
use dataflow::{CheckpointId, SnapshotKind};
use operator::source::Part;

/// What one subtask had at a barrier.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: CheckpointId,
    pub(crate) kind: SnapshotKind,
    /// The subtask's number in the attempt.
    pub(crate) subtask: usize,
    pub(crate) members: Vec<MemberSnapshot>,
}

/// What one node of a subtask had at a barrier.
#[derive(Debug)]
pub(crate) struct MemberSnapshot {
    pub(crate) node: usize,
    pub(crate) index: u32,
    pub(crate) state: Option<SealedState>,
    pub(crate) operator_state: Option<SealedOperatorState>,
    /// How many subtasks the node has.
    pub(crate) parallelism: u32,
    pub(crate) rest: SmallState,
}

/// What goes into the metadata itself.
#[derive(Debug, Default)]
pub(crate) struct SmallState {
    pub(crate) parts: Vec<Part>,
    pub(crate) ended_inputs: Vec<u32>,
    pub(crate) watermark: Option<i64>,
    /// See [`checkpoint::metadata::Subtask::event_time`].
    pub(crate) event_time: Option<i64>,
}

/// What has become of a subtask's snapshot.
#[derive(Debug)]
pub(crate) struct WrittenMember {
    pub(crate) node: usize,
    pub(crate) index: u32,
    /// Of its keyed state and its operator state what was written.
    pub(crate) written: Vec<Written>,
    pub(crate) rest: SmallState,
}
