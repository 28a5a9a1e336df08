//! Errors of sources and sinks.

/// An error from a source, a sink, a factory: what happened, with its causes.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Marks an error of a source or sink as one that will not heal by itself, so that the job is not
/// started again for it. It is anywhere in the chain of causes of what the connector returns.
///
/// The connector decides, because the runtime cannot: a broken pipe of standard output stays broken,
/// that of a connection to a server does not.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Permanent {
    message: String,
    #[source]
    source: Option<BoxError>,
}

impl Permanent {
    /// What happened, with the place and the mend.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
        }
    }

    /// The same, with its cause.
    #[must_use]
    pub fn because(message: impl Into<String>, cause: impl Into<BoxError>) -> Self {
        Self {
            message: message.into(),
            source: Some(cause.into()),
        }
    }

    /// Whether an error is one, or has one among its causes.
    #[must_use]
    pub fn is_in(error: &(dyn std::error::Error + 'static)) -> bool {
        std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<Self>())
    }
}
