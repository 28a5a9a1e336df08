//! The log: for the person who runs the host, on stderr.

use std::fmt::Debug;
use std::io::{self, IsTerminal};

use operator::text::line;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{FmtSpan, Writer, debug_fn};

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
        .fmt_fields(debug_fn(field).delimited(" "))
        .init();
    if let Some(message) = refused {
        tracing::warn!("{message}");
    }
}

/// Writes a field of an event so that the event stays one line, whatever a guest, a file name or another
/// library puts into it. What the subscriber would do by itself leaves line breaks and marks that reorder
/// text.
fn field(to: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let text = format!("{value:?}");
    let text = line(&text);
    match field.name() {
        "message" => write!(to, "{text}"),
        name => write!(to, "{name}={text}"),
    }
}
