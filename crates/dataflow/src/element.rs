//! What a channel carries.

use std::fmt;

use crate::batch::Batch;

/// Number of a checkpoint within its job: 1, 2, 3 …, never used twice, continued by a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckpointId(pub u64);

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Separates the records that belong to checkpoint `id` from those that do not (Chandy and Lamport's
/// marker, Flink's barrier).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The checkpoint that the barrier belongs to.
    pub id: CheckpointId,
    /// What is taken at it.
    pub kind: SnapshotKind,
    /// The job is about to stop. After its snapshot at this barrier a subtask starts nothing by itself: it reads no
    /// source and fires no timer of processing time until the job resumes.
    pub pause: bool,
}

/// What a snapshot belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotKind {
    /// A checkpoint: the next one may build on it, and it commits output.
    #[default]
    Checkpoint,
    /// A savepoint: full, and without effect on the job.
    Savepoint,
}

/// What a channel carries, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    /// Records.
    Batch(Batch),
    /// No record with an event time at or before this one (milliseconds) comes after it, except late ones. The
    /// channel is active.
    Watermark(i64),
    /// No watermark is to be expected for now: the channel is idle until its next watermark, and nobody waits for
    /// it. Records may come.
    Idle,
    /// A checkpoint barrier.
    Barrier(Barrier),
    /// No record comes after it. Barriers still do: a checkpoint covers ended inputs as well.
    EndOfInput,
}
