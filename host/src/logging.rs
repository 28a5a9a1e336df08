//! The log: for the person who runs the host, on stderr.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// The variables that say what is logged, the first that is set counts.
const VARIABLES: [&str; 2] = ["HIGHWATER_LOG", "RUST_LOG"];

/// What is logged by default: warnings, and from operators what they find worth telling.
const DEFAULT: &str = "warn,operator=info";

/// Begins to log.
pub(crate) fn start() {
    let wanted = VARIABLES
        .iter()
        .filter_map(|variable| std::env::var(variable).ok())
        .find(|filter| !filter.is_empty());
    let mut refused = None;
    let filter = match wanted.map(|text| (EnvFilter::try_new(&text), text)) {
        None => EnvFilter::new(DEFAULT),
        Some((Ok(filter), _)) => filter,
        Some((Err(error), text)) => {
            refused = Some(format!("`{text}` is not a log filter: {error}"));
            EnvFilter::new(DEFAULT)
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_span_events(FmtSpan::NONE)
        .init();
    if let Some(message) = refused {
        tracing::warn!("{message}");
    }
}
