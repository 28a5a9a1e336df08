//! Why a job, or an attempt at it, came to an end.

use std::fmt;

use dataflow::state::RestoreError;

use crate::BoxError;
use crate::operator::{Failure, FailureKind};
use crate::source::InputChanged;

/// What goes wrong with a running job. Names operator and subtask; the causes are behind it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call of an operator failed.
    #[error("operator `{operator}` subtask {subtask}: {failure}{position}{backtrace}", backtrace = Backtrace(failure))]
    Operator {
        /// The operator.
        operator: String,
        /// Its subtask.
        subtask: u32,
        /// What failed.
        failure: Box<Failure>,
        /// The record that was to blame, if it could be told.
        position: Position,
    },
    /// A source or sink failed.
    #[error("{operator} subtask {subtask}: {action}")]
    Connector {
        /// The source or sink.
        operator: String,
        /// Its subtask.
        subtask: u32,
        /// What it was doing, for example `reading`.
        action: &'static str,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// Records without a key on an edge that deals records by key.
    #[error(
        "`{operator}` emitted records without a key, but what consumes them is partitioned by key"
    )]
    Unkeyed {
        /// The producer.
        operator: String,
    },
    /// Keyed state does not belong where it arrived.
    #[error("operator `{operator}` subtask {subtask}: {source}")]
    State {
        /// The operator.
        operator: String,
        /// Its subtask.
        subtask: u32,
        /// What is wrong.
        #[source]
        source: dataflow::state::StateError,
    },
    /// There is no place for cold state.
    #[error("operator `{operator}` subtask {subtask} has no place for cold state")]
    Scratch {
        /// The operator.
        operator: String,
        /// Its subtask.
        subtask: u32,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
    /// State could not be restored.
    #[error("restoring the state of operator `{operator}` subtask {subtask}")]
    Restore {
        /// The operator.
        operator: String,
        /// Its subtask.
        subtask: u32,
        /// Why.
        #[source]
        source: RestoreError,
    },
    /// State could not be read.
    #[error("reading the state of operator `{operator}` subtask {subtask}")]
    ReadState {
        /// The operator.
        operator: String,
        /// Its subtask.
        subtask: u32,
        /// Why.
        #[source]
        source: checkpoint::Error,
    },
    /// A thread of ours panicked.
    #[error("{place} panicked: {message}")]
    Panic {
        /// Which thread.
        place: String,
        /// What it said.
        message: String,
    },
    /// More checkpoints failed in a row than are tolerated.
    #[error(
        "checkpoint {id} failed, and `checkpoint.tolerable-failures`={tolerated} allows no more: {reason}"
    )]
    Checkpoints {
        /// The last one.
        id: u64,
        /// How many are tolerated.
        tolerated: u32,
        /// Why the last one failed.
        reason: String,
    },
    /// Another host owns the job directory now.
    #[error("this run of the job is over: another has taken its place")]
    Fenced(#[source] checkpoint::Error),
    /// A thread could not be started.
    #[error("starting a thread")]
    Spawn(#[source] std::io::Error),
}

/// What is to be done about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may heal: restart, if the strategy allows. Exit code 1 otherwise.
    Retry,
    /// It will not heal by itself, so it is not restarted: exit code 1.
    Permanent,
    /// It will not heal, and nothing was processed: exit code 2.
    Refused,
    /// The checkpoint to restore from is corrupt: exit code 3.
    Corrupt,
    /// The job directory is another's: exit code 1, and nothing in it may be touched.
    Fenced,
}

impl Error {
    /// What is to be done. `initial`: it happened while the first attempt was set up, before any
    /// record was processed.
    #[must_use]
    pub fn class(&self, initial: bool) -> Class {
        match self {
            Self::Restore { source, .. } => restore_class(source),
            Self::ReadState { source, .. } => checkpoint_class(source),
            Self::Fenced(_) => Class::Fenced,
            Self::Operator { failure, .. } if failure.kind == FailureKind::Config => Class::Refused,
            _ if initial => Class::Refused,
            Self::Connector { .. } if InputChanged::find(self).is_some() => Class::Permanent,
            _ => Class::Retry,
        }
    }
}

fn restore_class(error: &RestoreError) -> Class {
    match error {
        RestoreError::Corrupt { .. } => Class::Corrupt,
        RestoreError::KindChanged { .. } => Class::Refused,
        RestoreError::Cold(_) => Class::Retry,
        RestoreError::Io(error) => error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<checkpoint::Error>())
            .map_or(Class::Retry, checkpoint_class),
    }
}

fn checkpoint_class(error: &checkpoint::Error) -> Class {
    match error {
        checkpoint::Error::Corrupt { .. } => Class::Corrupt,
        checkpoint::Error::Incompatible(_) | checkpoint::Error::NotFound(_) => Class::Refused,
        _ => Class::Retry,
    }
}

/// Where among the records of a subtask something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Position {
    /// Not at a record.
    #[default]
    None,
    /// At this record.
    Record {
        /// How many records the subtask had received before it, since it was started or restored.
        number: u64,
        /// The operator's input.
        input: u32,
        /// The record's key, shortened.
        key: Option<String>,
        /// The record's value, shortened.
        value: String,
    },
    /// Somewhere in a batch.
    Batch {
        /// How many records the subtask had received before its first one.
        first: u64,
        /// How many records it has.
        records: usize,
    },
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Record {
                number,
                input,
                key,
                value,
            } => {
                write!(f, ", at record {number} of input {input}")?;
                if let Some(key) = key {
                    write!(f, " (key {key}, value {value})")
                } else {
                    write!(f, " (value {value})")
                }
            }
            Self::Batch { first, records } => {
                write!(f, ", in records {first} to {}", first + *records as u64 - 1)
            }
        }
    }
}

/// An error and its causes, each once: some errors repeat their cause's words in their own.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

struct Backtrace<'a>(&'a Failure);

impl fmt::Display for Backtrace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.backtrace {
            Some(backtrace) => write!(f, "\nguest backtrace:\n{}", backtrace.trim_end()),
            None => Ok(()),
        }
    }
}

/// A key or value for a person: quoted, escaped, at most some dozen characters.
#[must_use]
pub fn shorten(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    if bytes.len() > SHOWN {
        format!("{text:?}… ({} bytes)", bytes.len())
    } else {
        format!("{text:?}")
    }
}
