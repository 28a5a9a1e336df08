//! Who does it and when: subtasks on their threads, the channels between them, the coordinator of
//! checkpoints, restarts.
//!
//! This crate answers: how does a job graph run, and what happens when something in it fails. It
//! knows nothing of Wasm, TOML or files (but for scratch files of state that does not fit in memory):
//! sources, operators and sinks come in behind the traits [`Source`], [`Operator`] and [`Sink`], so
//! that native operators run in the same runtime.
//!
//! Modules in reading order.

pub mod graph;
pub mod source;
pub mod operator;
pub mod output;
pub mod sink;
mod plan;
mod inbox;
mod router;
mod chain;
mod spares;
mod scratch;
mod subtask;
pub mod abort;
pub mod coordinator;
pub mod phases;
mod writer;
mod driver;
mod attempt;
pub mod restore;
pub mod restart;
pub mod job;
pub mod keeper;
pub mod simulation;
pub mod clock;
mod random;
pub mod error;
pub mod text;
mod spawn;

pub use error::Error;
pub use graph::{JobGraph, Partition};
pub use job::{Job, JobEvent, JobHandle, NodeRecords, Options, Outcome};
pub use keeper::Keeper;
pub use operator::{Call, Failure, FailureKind, Operator, OperatorFactory};
pub use output::Output;
pub use sink::{Delivery, Origin, Published, Sink, SinkFactory, Withdrawn};
pub use source::{InputChanged, Source, SourceFactory, SourceStatus};

/// An error from a source, a sink, a factory: what happened, with the causes behind it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
    /// Wakes the subtask from another thread; see [`source::Waker`].
    pub waker: source::Waker,
}
