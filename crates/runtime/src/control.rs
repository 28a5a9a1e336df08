//! What can be asked of a running job beside to end it at once, and what is answered.
//!
//! A [`Command`] is queued by [`JobHandle::submit`](crate::JobHandle::submit) from any thread and carried out by the
//! driver of the running attempt. Its [`Requester`] hears how far it is and, once, what came of it. Whatever
//! happens to the job, no command is left without an answer; one that fails leaves the job as it was.

use std::fmt;

use checkpoint::savepoint::SavepointTarget;

use crate::graph::JobGraph;

/// Something asked of a running job.
pub struct Command {
    /// What is to be done.
    pub order: Order,
    /// Who is answered.
    pub requester: Box<dyn Requester>,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({})", self.order.word())
    }
}

/// What is to be done.
pub enum Order {
    /// Take a checkpoint now, whatever interval and pause.
    Checkpoint,
    /// Take a savepoint. It is answered when no failure of the job can take from it what its sinks have prepared: at
    /// once if that is nothing, else when the checkpoint after it has committed that output.
    Savepoint(SavepointTarget),
    /// End the job at a checkpoint, with no record after it.
    Stop {
        /// End all input first.
        drain: bool,
        /// Where a savepoint is taken as well, after the checkpoint: no output is prepared in it.
        savepoint: Option<SavepointTarget>,
    },
    /// End the job's subtasks at a checkpoint and go on from it with this graph, which has the same nodes. If it does
    /// not start, the job goes on as it was.
    Rescale(Box<JobGraph>),
    /// Take periodic checkpoints this often from now on, in milliseconds; `None`: none.
    Interval(Option<u64>),
}

impl Order {
    /// A word for it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Savepoint(_) => "savepoint",
            Self::Stop { .. } => "stop",
            Self::Rescale(_) => "rescale",
            Self::Interval(_) => "interval",
        }
    }
}

/// Who has asked.
pub trait Requester: Send {
    /// Hears how far it is, in words for a person. Called on the thread that moves the job: must not wait.
    fn progress(&self, text: &str);

    /// Hears what came of it. Called on the thread that moves the job: must not wait.
    fn answer(self: Box<Self>, answer: Result<Done, NotDone>);
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The checkpoint that was taken.
    pub checkpoint: Option<Taken>,
    /// The savepoint that was taken.
    pub savepoint: Option<Taken>,
    /// A savepoint was asked for as well and failed, after all else was done: why.
    pub savepoint_failed: Option<String>,
}

/// A checkpoint or savepoint that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its number.
    pub id: u64,
    /// Its metadata; `None` in memory.
    pub path: Option<String>,
    /// Bytes written for it.
    pub bytes: u64,
    /// From trigger to completion, in milliseconds.
    pub duration_ms: u64,
    /// When it was complete, in milliseconds since 1970.
    pub completed_at: i64,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotDone {
    /// The job is in no state for it: nothing was tried.
    Conflict(String),
    /// It was tried and failed. The job goes on.
    Failed(String),
    /// The job failed or ended before it was done.
    Ended(String),
}

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(why) | Self::Failed(why) | Self::Ended(why) => f.write_str(why),
        }
    }
}
