//! Why an operator's call failed.

use std::fmt;

/// A call's result. An `Err` undoes all that the call did.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed: one line for a person, and whether trying again may help.
///
/// Like other catch-all errors it does not implement [`std::error::Error`] itself, so that `?` turns
/// every error that does into one. It is one pointer wide: results of calls made per record stay in a
/// register.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    record: Option<u32>,
}

/// What the host should do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Start again from the last checkpoint.
    Failed,
    /// Give up: the configuration or the restored state cannot be used, and trying again won't help.
    Config,
}

impl Error {
    /// A failure that may pass when the call is tried again.
    #[cold]
    pub fn new(message: impl fmt::Display) -> Self {
        Self::of(ErrorKind::Failed, message.to_string())
    }

    /// A failure in the configuration or in the restored state.
    #[cold]
    pub fn config(message: impl fmt::Display) -> Self {
        Self::of(ErrorKind::Config, message.to_string())
    }

    fn of(kind: ErrorKind, message: String) -> Self {
        Self(Box::new(Inner {
            kind,
            message,
            record: None,
        }))
    }

    /// Says what was being done: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// Says which record of the batch could not be handled. The SDK adds the current one by itself.
    #[must_use]
    pub fn at_record(mut self, index: u32) -> Self {
        self.0.record = Some(index);
        self
    }

    /// What the host should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Index in the batch of the record that could not be handled, if it was a record.
    #[must_use]
    pub fn record(&self) -> Option<u32> {
        self.0.record
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("record", &self.0.record)
            .finish()
    }
}

impl<E: std::error::Error> From<E> for Error {
    #[cold]
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::of(ErrorKind::Failed, message)
    }
}

/// Returns an [`Error`] of kind [`ErrorKind::Failed`] with a formatted message.
#[macro_export]
macro_rules! bail {
    ($($message:tt)*) => {
        return ::std::result::Result::Err($crate::Error::new(::std::format_args!($($message)*)))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_errors_come_with_their_causes_and_context() {
        let error: Error = "x".parse::<u32>().unwrap_err().into();
        let error = error.context("reading the limit");
        assert_eq!(
            error.to_string(),
            "reading the limit: invalid digit found in string"
        );
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }
}
