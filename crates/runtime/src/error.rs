//! Why a job, or an attempt at it, came to an end.

use dataflow::state::RestoreError;
use std::any::Any;

use operator::text::{line, lines};
use operator::{BoxError, Failure, FailureKind, InputChanged, Permanent, Position};

/// What goes wrong with a running job. Names operator and subtask; the causes are its sources.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call of an operator failed.
    #[error("operator `{operator}` subtask {subtask}: {failure}{position}")]
    Operator {
        /// The operator.
        operator: String,
        /// Its subtask.
        subtask: u32,
        /// What failed.
        failure: Box<Failure>,
        /// The record that was to blame, if it is known.
        position: Position,
    },
    /// More records than `on-error-limit` allows were to blame.
    #[error("more bad records than on-error-limit = \"{limit}\" allows")]
    TooManyBadRecords {
        /// The limit.
        limit: String,
        /// What the last one made fail.
        #[source]
        last: Box<Error>,
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
    /// An operator's timers never come to an end.
    #[error(
        "operator `{operator}` subtask {subtask}: its timers do not come to an end at watermark {watermark}: \
         whenever one fires it registers another that is due already"
    )]
    EndlessTimers {
        /// The operator.
        operator: String,
        /// Its subtask.
        subtask: u32,
        /// The watermark that they have reached.
        watermark: i64,
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
    /// It is not known whether a checkpoint exists.
    #[error("the checkpoint to restart from is unknown, because the storage does not answer")]
    Unsettled(#[source] checkpoint::Error),
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
            Self::TooManyBadRecords { .. } => Class::Permanent,
            _ if initial => Class::Refused,
            Self::Connector { source, .. } if Permanent::is_in(source.as_ref()) => Class::Permanent,
            Self::Connector { .. } if InputChanged::find(self).is_some() => Class::Permanent,
            _ => Class::Retry,
        }
    }
}

fn restore_class(error: &RestoreError) -> Class {
    match error {
        RestoreError::Corrupt { .. } => Class::Corrupt,
        RestoreError::KindChanged { .. } | RestoreError::Migrate { .. } => Class::Refused,
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

/// What a panic said.
#[must_use]
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

/// An error and its causes for a person, each once: some errors repeat their cause's words in their own.
/// One line, whatever is in the texts (see [`operator::text`]), and after it the backtrace of a guest if
/// there is one.
#[must_use]
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut backtrace = None;
    let mut next = Some(error);
    while let Some(error) = next {
        let words = error.to_string();
        let words = line(&words);
        if text.is_empty() {
            text.push_str(&words);
        } else if !text.contains(words.as_ref()) {
            text.push_str(": ");
            text.push_str(&words);
        }
        if let Some(Error::Operator { failure, .. }) = error.downcast_ref() {
            backtrace = failure.backtrace.as_deref().or(backtrace);
        }
        next = error.source();
    }
    if let Some(backtrace) = backtrace {
        text.push_str("\nguest backtrace:\n");
        text.push_str(&lines(backtrace.trim_end()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c149_a_connector_says_what_will_not_heal() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] BoxError);
        let class = |source: BoxError, initial: bool| {
            let error = Error::Connector {
                operator: "sink `s`".into(),
                subtask: 0,
                action: "writing",
                source,
            };
            error.class(initial)
        };
        let pipe = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let permanent = || BoxError::from(Permanent::because("the pipe is broken", pipe()));
        assert_eq!(class(pipe().into(), false), Class::Retry);
        assert_eq!(class(permanent(), false), Class::Permanent);
        assert_eq!(class(Outer(permanent()).into(), false), Class::Permanent);
        assert_eq!(class(permanent(), true), Class::Refused);
        assert_eq!(
            causes(&Outer(permanent())),
            format!("outer: the pipe is broken: {}", pipe())
        );
    }
}
