//! What is kept of a job: metadata, state files, and which of them to believe.
//!
//! This crate answers: when does a checkpoint exist, what does it consist of, what may be deleted,
//! and from which one does a job restore.
//!
//! The three types to know: [`CheckpointStore`] (a job's checkpoints), [`Pending`] (one that is being
//! written) and [`Completed`] (one to restore from). What it must never do: overwrite an object, or
//! believe bytes that are not what was written.
//!
//! ```
//! use checkpoint::metadata::{Kind, Metadata};
//! use checkpoint::store::{CheckpointStore, Options};
//! use dataflow::CheckpointId;
//!
//! # fn main() -> checkpoint::Result<()> {
//! let store = CheckpointStore::memory(Options::default());
//! let pending = store.begin(CheckpointId(1))?;
//! // Subtasks write their sealed state here, from any thread: `pending.write(…)`.
//! let metadata = Metadata {
//!     writer: "0.1.0".into(),
//!     job_name: "wordcount".into(),
//!     job_id: "wordcount-1".into(),
//!     run: None,
//!     generation: 0,
//!     holder: None,
//!     id: 1,
//!     previous: None,
//!     kind: Kind::Checkpoint,
//!     drained: false,
//!     triggered_at: 1_700_000_000_000,
//!     duration_ms: 12,
//!     key_groups: 128,
//!     key_hash: "xxh3-64".into(),
//!     operators: Vec::new(),
//! };
//! let completed = pending.complete(metadata, Vec::new())?;
//! assert!(checkpoint::verify(&completed).is_good());
//! # Ok(())
//! # }
//! ```
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

// One paragraph each, because they are sorted otherwise.
pub mod metadata;

mod names;

pub mod storage;

mod compression;

mod completed;

pub mod lease;

pub mod store;

pub mod verify;

mod location;

pub mod catalog;

pub mod history;

mod used;

pub mod start;

pub mod locate;

mod references;

pub mod gc;

pub mod forget;

pub mod savepoint;

pub mod claim;

pub mod export;

pub mod schema;

pub mod diff;

#[cfg(test)]
mod fixture;

pub use catalog::list;
pub use completed::{Changes, Completed};
pub use history::{Fallback, Rejected};
pub use locate::{Located, locate, locate_fallback};
pub use location::{is_remote, shown};
pub use metadata::Metadata;
pub use savepoint::SavepointTarget;
pub use store::{CheckpointStore, Pending};
pub use verify::verify;

/// What goes wrong with checkpoints, cut by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not what was written: try an older checkpoint, or refuse (exit code 3).
    #[error("{object} is corrupt: {what}")]
    Corrupt {
        /// The object, as the user would name it.
        object: String,
        /// What is wrong, with the offset range.
        what: String,
    },
    /// It cannot be used by this program or this job, and trying again will not help (exit code 2).
    #[error("{0}")]
    Incompatible(String),
    /// The job whose latest checkpoint was asked for has finished since: there is nothing to resume.
    #[error("job `{job_id}` has finished, there is nothing to resume")]
    Finished {
        /// The job's id.
        job_id: String,
    },
    /// There is nothing at the place that the user named (exit code 2).
    #[error("{0}")]
    NotFound(String),
    /// Something already stands where a checkpoint was to be written; it was left untouched.
    #[error("{object} already exists")]
    AlreadyExists {
        /// The object.
        object: String,
    },
    /// Another host owns the job directory (exit code 2).
    #[error("{0}")]
    Held(Box<lease::Held>),
    /// The job directory was owned, and is not any more: nothing in it may be changed (exit code 1).
    #[error("{location} is not owned by this process any more: {why}")]
    Fenced {
        /// The job directory.
        location: String,
        /// Who owns it, or what has become of it.
        why: String,
    },
    /// A state is larger than the storage takes.
    #[error(
        "state {states}of operator `{operator}` subtask {subtask} has {size} bytes or more, memory storage takes `checkpoint.max-state-size`={limit}"
    )]
    TooLarge {
        /// The names of what it consists of, each in quotes and with a space after it.
        states: String,
        /// The operator.
        operator: String,
        /// Its subtask.
        subtask: u32,
        /// Bytes when writing stopped.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Storage could not be reached or refused; trying again may help.
    #[error("{action} {object}")]
    Storage {
        /// What was being done, for example `writing`.
        action: &'static str,
        /// The object or directory.
        object: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
