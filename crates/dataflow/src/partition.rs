//! How records are dealt to the subtasks that take them.

use std::fmt;

/// How the records of an edge are dealt to the consumer's subtasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Partition {
    /// Subtask `i` to subtask `i`; only between equal parallelisms.
    Forward,
    /// By key group: every record of a key reaches the same subtask.
    Hash,
    /// Batch by batch in turn.
    Rebalance,
    /// Every record to every subtask.
    Broadcast,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Hash => "hash",
            Self::Rebalance => "rebalance",
            Self::Broadcast => "broadcast",
        })
    }
}
