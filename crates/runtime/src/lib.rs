//! Who does it and when: subtasks on their threads, the channels between them, the coordinator of
//! checkpoints, restarts.
//!
//! This crate answers: how does a job graph run, and what happens when something in it fails. It
//! knows nothing of Wasm, TOML or files (but for scratch files of state that does not fit in memory):
//! sources, operators and sinks come in by the traits of the crate `operator`, so
//! that native operators run in the same runtime.
//!
//! Modules in reading order.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_macros,
        clippy::too_many_lines,
        reason = "tests wait, print and measure"
    )
)]

pub mod graph;
mod plan;
mod inbox;
mod router;
mod delta_chain;
mod spares;
mod scratch;
mod subtask;
mod timing;
pub mod bad_records;
pub mod abort;
pub mod coordinator;
pub mod phases;
pub mod meters;
mod snapshot;
mod writer;
mod events;
pub mod control;
mod requests;
mod options;
mod report;
mod attempt;
mod driver;
mod members;
mod assembly;
mod on_threads;
pub mod restore;
mod restoring;
pub mod restart;
pub mod job;
pub mod keeper;
#[cfg(feature = "testing")]
pub mod simulation;
pub mod clock;
pub mod random;
pub mod error;
mod spawn;

pub use error::Error;
pub use graph::JobGraph;
pub use job::{Job, JobHandle};
pub use keeper::Keeper;
pub use meters::{MemberReport, NodeInfo, SubtaskReport, VertexReport};
pub use options::{Options, TIMER_CALLS_MAX};
pub use report::{JobEvent, NodeBadRecords, NodeRecords, Outcome, RestoreProgress, StateSize};
