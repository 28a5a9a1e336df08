//! What happens to a job and how it ends, for its watcher.

use crate::abort::Kind;
use crate::error::{Class, Error};
use crate::phases::{Phases, Slowest};

/// What happens to a job, for its watcher.
#[derive(Clone, Debug, PartialEq)]
pub enum JobEvent {
    /// All subtasks are set up; sources begin to read.
    Started {
        /// How often the job was started before in this process.
        attempt: u32,
        /// How long it took to set them up, with the state that they were restored from.
        set_up_ms: u64,
    },
    /// A checkpoint is complete.
    CheckpointCompleted {
        /// Its number.
        id: u64,
        /// It is a savepoint.
        savepoint: bool,
        /// From trigger to completion.
        duration_ms: u64,
        /// Bytes written for it.
        bytes: u64,
        /// Where its metadata is; `None` in memory.
        path: Option<String>,
        /// Where the time went.
        phases: Box<Phases>,
        /// What it holds of each keyed state.
        states: Vec<StateSize>,
    },
    /// A checkpoint was given up.
    CheckpointFailed {
        /// Its number.
        id: u64,
        /// It is a savepoint.
        savepoint: bool,
        /// What kind of thing happened.
        kind: Kind,
        /// From trigger until it was given up.
        duration_ms: u64,
        /// It counts against the failures that are tolerated.
        counts: bool,
        /// Why, in words.
        reason: String,
        /// If its time was over: who kept it waiting.
        slowest: Option<Box<Slowest>>,
        /// It was the one that finishes the job; it is taken again.
        last: bool,
    },
    /// The job failed and will be started again.
    Restarting {
        /// How often it will have been started again.
        attempt: u32,
        /// How long from now.
        delay_ms: u64,
        /// What failed.
        cause: String,
        /// The checkpoint it restarts from, if there is one.
        from: Option<u64>,
    },
}

/// How far a job is with reading the keyed state that it goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreProgress {
    /// When it began, in milliseconds since 1970.
    pub began_at: i64,
    /// Bytes to read, as they are stored.
    pub total_bytes: u64,
    /// Bytes that have been read.
    pub read_bytes: u64,
}

/// What a checkpoint holds of a keyed state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateSize {
    /// The operator's id.
    pub operator: String,
    /// The state's name.
    pub state: String,
    /// Entries: keys, fields of maps, elements of lists, timers.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// How a job ended.
#[derive(Debug)]
pub enum Outcome {
    /// All input is processed and all output committed.
    Finished,
    /// It has ended at a checkpoint, with no record after it.
    Stopped {
        /// All input was ended first.
        drained: bool,
    },
    /// It was cancelled.
    Cancelled,
    /// It was suspended: nothing of it is to be deleted.
    Suspended,
    /// It failed.
    Failed {
        /// What failed last.
        error: Box<Error>,
        /// Whether that was before any record was processed, and why.
        class: Class,
        /// Why it was not started again, where a restart strategy decided so.
        gave_up: Option<String>,
    },
}

/// What an operator could not process, since the job was started in this process. What was done again after a
/// restart counts again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeBadRecords {
    /// Its id.
    pub id: String,
    /// Records and timers that were left out.
    pub left_out: u64,
    /// Batches that failed and whose records succeeded, one by one or in parts: nothing was left out.
    pub recovered_batches: u64,
}

/// What a source has read, or a sink has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecords {
    /// Its id.
    pub id: String,
    /// Whether it is a source.
    pub is_source: bool,
    /// Records since the job was started in this process. What was done again after a restart counts
    /// again.
    pub records: u64,
}
