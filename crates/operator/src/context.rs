//! Who is asked: which job, which subtask of it.

use crate::source::Waker;

/// Which job something belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobIdentity {
    /// The job's id.
    pub id: String,
    /// What tells its directory from others: two jobs that have one id and directories of their own are
    /// two jobs. Empty if there is no directory to own, or an older version made it. Otherwise at most 32
    /// characters, each a lowercase letter or a digit.
    pub directory: String,
}

/// Which subtask something belongs to, and whom it may tell that there is something to do.
#[derive(Clone, Debug)]
pub struct SubtaskContext {
    /// Id of the source, operator or sink, as the job file gives it.
    pub operator: String,
    /// This subtask's index, from 0.
    pub subtask: u32,
    /// How many subtasks the operator has.
    pub parallelism: u32,
    /// Which job it belongs to, part of the names of whatever the job stages.
    pub job: JobIdentity,
    /// The run's token, part of the names of published output: new when the job starts afresh, kept
    /// when it resumes or is rewound. At most 32 characters, each a lowercase letter or a digit.
    pub run: String,
    /// Number of this run's taking of the job directory: a run with a smaller one is over, though it
    /// may not know it yet. 0 if there is no directory to own.
    pub generation: u64,
    /// How often this job was started again within this process, from 0.
    pub attempt: u32,
    /// Wakes the subtask from another thread; see [`Waker`].
    pub waker: Waker,
}
