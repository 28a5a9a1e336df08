//! The log: for the person who runs the host, on stderr, as text or as JSON; its newest lines also for the web page.

use std::fmt::Debug;
use std::io::{self, IsTerminal, Write as _};
use std::sync::OnceLock;
use std::time::SystemTime;

use clap::ValueEnum;
use operator::clock::{Clock, SystemClock};
use operator::text::line;
use serde::Serialize;
use server::RecentLog;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{FmtSpan, Writer, debug_fn};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// The variables that say what is logged, the first that is set counts.
const VARIABLES: [&str; 2] = ["HIGHWATER_LOG", "RUST_LOG"];

/// What is logged by default: warnings, and from operators what they find worth telling.
const DEFAULT: &str = "warn,operator=info";

/// The newest lines of the log, and of what was said to a person.
pub(crate) static RECENT: RecentLog = RecentLog::new();

/// How lines are written.
static FORMAT: OnceLock<Format> = OnceLock::new();

/// How the lines of the log are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For a person.
    #[default]
    Text,
    /// A JSON object on each line, for a program that collects logs
    Json,
}

/// Whether stderr is for a program.
pub(crate) fn is_json() -> bool {
    FORMAT.get() == Some(&Format::Json)
}

/// Begins to log.
pub(crate) fn start(format: Format) {
    // Nobody has set it before.
    let _ = FORMAT.set(format);
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
    // A span is logged once, when it is over: what a checkpoint or a restore has come to is in it then.
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_span_events(FmtSpan::CLOSE);
    let lines = match format {
        Format::Text => lines
            .with_ansi(io::stderr().is_terminal())
            .fmt_fields(debug_fn(field).delimited(" "))
            .boxed(),
        Format::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(Recent)
        .init();
    if let Some(message) = refused {
        tracing::warn!("{message}");
    }
}

/// Keeps for the web page what is said to a person, about one of several jobs if there is one.
pub(crate) fn keep(level: Level, job: Option<&str>, text: &str) {
    let at = SystemClock::new().now_ms();
    match job {
        Some(job) => RECENT.push(at, level.as_str(), &format!("[{job}] {text}")),
        None => RECENT.push(at, level.as_str(), text),
    }
}

/// Writes what is said to a person as the log's own lines are written, where stderr [is JSON](is_json).
#[expect(
    clippy::disallowed_methods,
    reason = "the log has the time of the machine, as all of its lines"
)]
pub(crate) fn write_json(level: Level, job: Option<&str>, text: &str) {
    /// As the subscriber writes an event.
    #[derive(Serialize)]
    struct Line<'a> {
        timestamp: String,
        level: &'a str,
        fields: Fields<'a>,
        target: &'a str,
    }
    #[derive(Serialize)]
    struct Fields<'a> {
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        job: Option<&'a str>,
    }
    let line = Line {
        timestamp: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
        level: level.as_str(),
        fields: Fields { message: text, job },
        target: "host",
    };
    if let Ok(line) = serde_json::to_string(&line) {
        // Nobody may listen.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}

/// Keeps the lines of the log for the web page.
struct Recent;

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let metadata = event.metadata();
        let at = SystemClock::new().now_ms();
        RECENT.push(at, metadata.level().as_str(), &text.0);
    }
}

/// The fields of an event in words.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, name: &Field, value: &dyn Debug) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        // Writing to a string does not fail.
        let _ = field(&mut Writer::new(&mut self.0), name, value);
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
