//! What must happen to records and state, and in which order.
//!
//! This crate answers: what is a batch, which subtask owns a key, what may pass a barrier, and what
//! is in an operator's keyed state at that moment. It is pure: no async, no input or output, no
//! clock, no randomness. Its caller decides when.
//!
//! The three types to know: [`Batch`] (records as columns), [`Element`] (what a channel carries) and
//! [`state::KeyedState`] (an operator's state for a range of key groups).
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

pub mod cells;
pub mod key;
pub mod batch;
pub mod element;
pub mod alignment;
pub mod watermark;
pub mod port;
mod partition;
pub mod row;
pub mod state;
pub mod operator_state;

pub use batch::Batch;
pub use cells::{Cells, CellsRef};
pub use element::{Barrier, CheckpointId, Element, SnapshotKind};
pub use key::{KeyGroupRange, KeyGroups};
pub use partition::Partition;
