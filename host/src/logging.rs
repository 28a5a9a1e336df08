//! The log: for the person who runs the host, on stderr, as text or as JSON; its newest lines also for the web page.

use std::fmt::{Debug, Display};
use std::io::{self, IsTerminal, Write as _};
use std::sync::OnceLock;
use std::time::SystemTime;

use clap::ValueEnum;
use operator::clock::{Clock, SystemClock};
use operator::text::{line, name};
use serde::Serialize;
use server::RecentLog;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Span, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FmtSpan, Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, SpanRef};
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
        .filter_map(std::env::var_os)
        .find(|filter| !filter.is_empty());
    let mut refused = None;
    let wanted = wanted.map(|wanted| match wanted.into_string() {
        Ok(wanted) => filter(&wanted),
        Err(_) => Err("the log filter is not Unicode".to_owned()),
    });
    let filter = match wanted {
        None => EnvFilter::new(DEFAULT),
        Some(Ok(filter)) => filter,
        Some(Err(why)) => {
            refused = Some(why);
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
            .map_event_format(SilentJobs)
            .boxed(),
        Format::Json => lines.json().map_event_format(SilentJobs).boxed(),
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

/// What is logged, as the words of a person say it: in place of the default if they name a level for everything, else
/// beside it.
///
/// # Errors
/// They are no filter.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let no_filter = |why: &dyn Display| {
        let why = why.to_string();
        format!("`{}` is not a log filter: {}", name(text), line(&why))
    };
    let mut of_everything = false;
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    for part in &parts {
        if part.parse::<LevelFilter>().is_ok() {
            of_everything = true;
        } else if !part.contains(['=', '[']) {
            // It would be the name of a target, of which everything is logged, and nothing of all others.
            let part = name(part);
            let why = format!("`{part}` is no level (off, error, warn, info, debug, trace)");
            return Err(no_filter(&why));
        } else if part.ends_with('=') {
            let part = name(part);
            let why = format!("`{part}` has no level (off, error, warn, info, debug, trace)");
            return Err(no_filter(&why));
        } else if let Some(hint) = misspelt(part) {
            return Err(no_filter(&hint));
        }
    }
    let text = parts.join(",");
    let all = match of_everything {
        true => text.clone(),
        false => format!("{DEFAULT},{text}"),
    };
    EnvFilter::try_new(all).map_err(|error| no_filter(&error))
}

/// What of ours logs, by the names of its crates.
const OURS: [&str; 10] = [
    "host",
    "runtime",
    "checkpoint",
    "dataflow",
    "operator",
    "wasm",
    "job_file",
    "formats",
    "connectors",
    "server",
];

/// What is wrong with the target that a part of a filter names, if one of ours was probably meant. Other names are
/// those of libraries.
fn misspelt(part: &str) -> Option<String> {
    let end = part.find(['=', '[', ':']).unwrap_or(part.len());
    let target = part.get(..end)?;
    let near = job_file::hints::nearest(target, OURS).filter(|near| *near != target)?;
    Some(format!(
        "nothing logs as `{}`; did you mean `{near}`?",
        name(target)
    ))
}

/// The name of the span of one of several jobs.
const JOB: &str = "job";

/// The span in which one of several jobs runs, so that each of its lines has its id.
pub(crate) fn span_of_job(id: &str) -> Span {
    // What is less than an error may be filtered out.
    tracing::error_span!(JOB, id)
}

/// Leaves out that the span of a job is over, which the host itself says better.
struct SilentJobs<F>(F);

impl<S, N, F> FormatEvent<S, N> for SilentJobs<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        match event.metadata().is_span() && event.metadata().name() == JOB {
            true => Ok(()),
            false => self.0.format_event(context, writer, event),
        }
    }
}

/// Keeps for the web page what is logged or said to a person, about one of several jobs if there is one.
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

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recent {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id).filter(|span| span.name() == JOB) {
            let mut job = JobId(String::new());
            attributes.record(&mut job);
            span.extensions_mut().insert(job);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let scope = context.event_scope(event).into_iter().flatten();
        let of_job = |span: SpanRef<'_, S>| span.extensions().get::<JobId>().map(|it| it.0.clone());
        let job = scope.filter_map(of_job).last();
        keep(*event.metadata().level(), job.as_deref(), &text.0);
    }
}

/// The id of the job whose span it is.
struct JobId(String);

impl Visit for JobId {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}

    fn record_str(&mut self, _: &Field, id: &str) {
        self.0 = line(id).into_owned();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_added_to_the_default_unless_it_is_for_everything() {
        let read = |text: &str| {
            filter(text).map(|filter| {
                let text = filter.to_string();
                let mut parts: Vec<String> = text.split(',').map(str::to_owned).collect();
                parts.sort_unstable();
                parts.join(",")
            })
        };
        assert_eq!(read("operator=debug").as_deref(), Ok("operator=debug,warn"));
        let runtime = read("runtime=info");
        assert_eq!(runtime.as_deref(), Ok("operator=info,runtime=info,warn"));
        assert_eq!(read("debug").as_deref(), Ok("debug"));
        assert_eq!(
            read("runtime=info, error").as_deref(),
            Ok("error,runtime=info")
        );
        for wrong in [
            "wran",
            "runtime=infoo",
            "error,operator",
            "runtime=",
            "runtme=debug",
            "chekpoint::gc=debug",
        ] {
            assert!(filter(wrong).is_err(), "{wrong}");
        }
        let of_others = read("hyper_util=debug,runtime::seats[span]=trace");
        assert!(of_others.is_ok(), "{of_others:?}");
    }
}
