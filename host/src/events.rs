//! What happens to a job, reported to a person on stderr or to a program on stdout.
//!
//! Scripts read both: the names and fields of the JSON events and the line of a completed checkpoint
//! are part of the command line's contract.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use operator::text::{counted, grouped, line, lines, name, shown, size};
use runtime::phases;
use serde::Serialize;
use server::view::Phases;
use tracing::{Level, Span};

use crate::logging;

/// Puts the cursor to the beginning of its line on a terminal and empties the line, where progress may
/// stand.
pub(crate) const CLEAR_LINE: &str = "\r\x1b[K";

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(
    tag = "event",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
pub(crate) enum Event {
    /// The job was set up and its sources begin to read.
    Started {
        /// The job's name.
        job_name: String,
        /// The job's id.
        job_id: String,
        /// How often it was started before in this process.
        attempt: u32,
        /// How long it took to set it up, with the state that it was restored from.
        set_up_ms: u64,
    },
    /// Something that the user should know before the job runs, such as a setting that makes it less safe;
    /// before `started`.
    Warning {
        /// A setting and its value, or a part of the job.
        about: String,
        /// What is to be known about it.
        message: String,
    },
    /// The REST API, the metrics and the web page are served here.
    Listening {
        /// The address, as a URL.
        url: String,
        /// Whether a token is wanted.
        token: bool,
    },
    /// Metrics are sent to a collector of OpenTelemetry.
    #[cfg(feature = "otlp")]
    Exporting {
        /// Where to, as a URL.
        url: String,
    },
    /// A standby waits for the owner of the job's directory; again whenever that is another one.
    Waiting {
        /// The job's directory.
        directory: String,
        /// The machine of the owner; null if its newest lease entry is damaged.
        host: Option<String>,
        /// Its process.
        process: Option<u32>,
        /// The number of its taking.
        generation: u64,
        /// After so long without a sign of life the standby takes over.
        lease_timeout_ms: u64,
    },
    /// A standby has taken the job's directory, and starts the job.
    TookOver {
        /// What became of the owner.
        because: Because,
        /// How long the standby has waited in all.
        waited_ms: u64,
        /// The number of the taking.
        generation: u64,
    },
    /// A standby ends, and has not run the job.
    StoodDown {
        /// Why.
        why: StoodDown,
        /// The code with which the process exits.
        exit_code: u8,
    },
    /// What the job takes over from a checkpoint; before `started`.
    Restored {
        /// Number of the checkpoint.
        checkpoint: u64,
        /// Its metadata file.
        path: Option<String>,
        /// A line per source, operator, state and sink.
        report: Vec<RestoredNode>,
    },
    /// A checkpoint is complete.
    CheckpointCompleted {
        /// Its number.
        id: u64,
        /// Whether it is a savepoint.
        #[serde(skip_serializing_if = "is_false")]
        savepoint: bool,
        /// From trigger to completion.
        duration_ms: u64,
        /// Bytes written for it.
        bytes: u64,
        /// Its metadata file; null in memory.
        path: Option<String>,
        /// Where the time went.
        phases: Phases,
    },
    /// A checkpoint was given up.
    CheckpointFailed {
        /// Its number.
        id: u64,
        /// Whether it was a savepoint.
        #[serde(skip_serializing_if = "is_false")]
        savepoint: bool,
        /// From trigger until it was given up.
        duration_ms: u64,
        /// What kind of thing happened.
        kind: &'static str,
        /// Why, in words.
        reason: String,
        /// Whether it counts against `tolerable-failures`.
        counts: bool,
        /// Whether it was the one that finishes the job. It is taken again.
        last: bool,
        /// If it expired: who kept it waiting.
        #[serde(skip_serializing_if = "Option::is_none")]
        slowest: Option<Slowest>,
    },
    /// The job failed and is going to be started again.
    Restarted {
        /// The number of the restart, from 1.
        attempt: u32,
        /// How long from now.
        delay_ms: u64,
        /// What failed.
        cause: String,
        /// Number of the checkpoint that it restarts from; null for a fresh start.
        from: Option<u64>,
    },
    /// The job is over and did not fail.
    Finished {
        /// How it ended.
        outcome: End,
        /// The newest checkpoint that was kept, if any.
        checkpoint: Option<String>,
        /// The command that resumes from it.
        resume: Option<String>,
        /// What it did; nothing if it had finished in an earlier run.
        #[serde(flatten)]
        work: Option<Work>,
        /// Whether it had finished in an earlier run, so that nothing was done now.
        #[serde(skip_serializing_if = "is_false")]
        already: bool,
        /// What the operators' metrics were at the end, by operator and name.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        metrics: OperatorMetrics,
    },
    /// A job of several did not start. (One alone says it by its exit code.)
    Refused {
        /// Everything that is wrong.
        error: String,
        /// The code with which it would exit if it were alone.
        exit_code: u8,
    },
    /// The job is over and failed.
    Failed {
        /// What failed, with its causes.
        error: String,
        /// The code with which the process exits.
        exit_code: u8,
        /// The newest checkpoint that was kept, if any.
        checkpoint: Option<String>,
        /// The command that resumes from it.
        resume: Option<String>,
        /// What it did until then.
        #[serde(flatten)]
        work: Work,
        /// What the operators' metrics were at the end, by operator and name.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        metrics: OperatorMetrics,
    },
}

/// What a run of the job did in this process: how long, what it read, and what it wrote where.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Work {
    /// From the start of the process until the end of the job.
    pub(crate) duration_ms: u64,
    /// How often the job was started again after a failure. What was done again counts again.
    pub(crate) restarts: u32,
    /// Records that all sources have read.
    pub(crate) records_read: u64,
    /// Records that all sinks have taken.
    pub(crate) records_written: u64,
    /// Each source.
    pub(crate) sources: Vec<NodeWork>,
    /// Each sink.
    pub(crate) sinks: Vec<NodeWork>,
    /// Each operator that could not process something and went on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) bad_records: Vec<NodeBadRecords>,
}

/// What a source has read, or a sink has taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct NodeWork {
    /// Its id.
    pub(crate) id: String,
    /// How many records.
    pub(crate) records: u64,
    /// Of a sink: where it publishes, if that is a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<String>,
}

/// What an operator could not process.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct NodeBadRecords {
    /// Its id.
    pub(crate) id: String,
    /// Records and timers that were left out.
    pub(crate) left_out: u64,
    /// Batches that failed and whose records succeeded in parts.
    pub(crate) recovered_batches: u64,
}

/// The metrics of all operators that have some, by operator and name.
pub(crate) type OperatorMetrics = BTreeMap<String, BTreeMap<String, Metric>>;

/// A metric of an operator, its subtasks taken together.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Metric {
    /// What was added in all.
    Counter {
        /// The sum over the subtasks.
        value: f64,
    },
    /// What was set last.
    Gauge {
        /// The sum over the subtasks.
        value: f64,
    },
    /// What was observed.
    Histogram {
        /// How often.
        count: u64,
        /// The sum of it.
        sum: f64,
        /// The smallest; null if nothing was observed.
        min: Option<f64>,
        /// The largest; null if nothing was observed.
        max: Option<f64>,
    },
}

/// What the job did, in words: one line, and one for each source and sink where there are several.
/// Unless `all_published`, some of what sinks have taken may not be seen by anybody.
fn push_work(text: &mut String, within: &str, work: &Work, all_published: bool) {
    let read = counted(work.records_read, "record");
    let written = grouped(work.records_written);
    let took = took(work.duration_ms);
    let _ = write!(text, " {within} {took}: {read} read, {written} written");
    if let [sink] = work.sinks.as_slice() {
        let _ = write!(text, " to {}", destination(sink));
    }
    let in_files = work.sinks.iter().any(|sink| sink.place.is_some());
    if !all_published && in_files && work.records_written > 0 {
        text.push_str(", of which files show those that a checkpoint covers");
    }
    if work.restarts > 0 {
        let restarts = counted(work.restarts.into(), "restart");
        let _ = write!(text, " (what was done again after {restarts} included)");
    }
    if work.sources.len() > 1 {
        for source in &work.sources {
            let records = counted(source.records, "record");
            let _ = write!(text, "\n  `{}`: {records} read", name(&source.id));
        }
    }
    if work.sinks.len() > 1 {
        for sink in &work.sinks {
            let records = counted(sink.records, "record");
            let to = sink
                .place
                .as_deref()
                .map(|place| format!(" to {}", line(place)));
            let to = to.unwrap_or_default();
            let _ = write!(text, "\n  `{}`: {records} written{to}", name(&sink.id));
        }
    }
    push_bad_records(text, &work.bad_records);
}

/// What operators could not process, a line for each of them; each begins with a line break.
fn push_bad_records(text: &mut String, all: &[NodeBadRecords]) {
    for bad in all {
        let left_out = counted(bad.left_out, "bad record");
        let _ = write!(text, "\n  `{}`: {left_out} left out", name(&bad.id));
        if bad.recovered_batches > 0 {
            let batches = grouped(bad.recovered_batches);
            let _ = write!(text, "; {batches} failed together and succeeded apart");
        }
    }
}

/// Where a sink writes: a place, or else the sink itself.
fn destination(sink: &NodeWork) -> String {
    match &sink.place {
        Some(place) => line(place).into_owned(),
        None => format!("`{}`", name(&sink.id)),
    }
}

/// A time span for a person, with a unit that fits.
fn took(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        _ => humantime::format_duration(Duration::from_secs(ms / 1000)).to_string(),
    }
}

/// The most bytes of a line of a restore report: a source may have thousands of positions.
const REPORT_LINE_BYTES_MAX: usize = 1 << 10;

/// How many metrics of an operator a person is shown.
const METRICS_SHOWN: usize = 20;

/// The metrics for a person, a line for each operator; each line begins with a line break.
fn push_metrics(text: &mut String, metrics: &OperatorMetrics) {
    for (operator, metrics) in metrics {
        let _ = write!(text, "\n  `{}`:", name(operator));
        for (index, (metric, value)) in metrics.iter().take(METRICS_SHOWN).enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(text, "{comma} {} = {value}", name(metric));
        }
        if let Some(left) = metrics.len().checked_sub(METRICS_SHOWN + 1) {
            let _ = write!(text, ", and {} more", left + 1);
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Counter { value } | Self::Gauge { value } => write!(f, "{value}"),
            Self::Histogram {
                count,
                sum,
                min: Some(min),
                max: Some(max),
            } => {
                let mean = sum / *count as f64;
                write!(
                    f,
                    "{mean} ({min} to {max}, observed {})",
                    counted(*count, "time")
                )
            }
            Self::Histogram { .. } => write!(f, "never observed"),
        }
    }
}

/// Who kept a checkpoint waiting, and with what.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Slowest {
    operator: Option<String>,
    subtask: Option<u32>,
    phase: &'static str,
}

impl From<phases::Slowest> for Slowest {
    fn from(slowest: phases::Slowest) -> Self {
        Self {
            operator: slowest.operator,
            subtask: slowest.subtask,
            phase: slowest.phase.code(),
        }
    }
}

/// A line of a restore report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RestoredNode {
    /// Id of the source, operator or sink.
    pub(crate) operator: String,
    /// What becomes of it, in one word.
    pub(crate) verdict: &'static str,
    /// What becomes of it, in words.
    pub(crate) what: String,
    /// From where a source continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<String>,
    /// The state that this is about, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    /// The version of a state's schema in the checkpoint, if it is migrated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from_version: Option<u32>,
    /// The version that is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to_version: Option<u32>,
    /// Entries of state that are restored, dropped or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entries: Option<u64>,
    /// Their bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
    /// How many prepared outputs a sink commits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outputs: Option<usize>,
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// Why a standby could take a job over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Because {
    /// The owner's process is gone, as its lock tells.
    Gone,
    /// The owner has not renewed its lease for the whole of its timeout.
    Silent,
    /// The owner has suspended the job.
    Suspended,
    /// The owner has given the directory up, and the job has not ended: it did not even start, as a rule.
    Released,
}

/// Why a standby ends that has not run its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoodDown {
    /// The job has finished.
    Finished,
    /// It was cancelled.
    Cancelled,
    /// It was stopped, to be resumed by hand.
    Stopped,
    /// It has failed, and is not restarted.
    Failed,
    /// The standby was ended by a signal.
    Signal,
}

/// How a job ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    /// All input was processed and all output committed.
    Finished,
    /// It was stopped at a checkpoint, with no record after it.
    Stopped,
    /// All input was ended, and then it was stopped.
    Drained,
    /// It was cancelled.
    Cancelled,
    /// It was suspended.
    Suspended,
}

/// Where events are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// A person: lines on stderr.
    Person,
    /// A program: JSON lines on stdout.
    Program,
    /// A person who watches several jobs: each line begins with the job's id.
    PersonOf(&'static str),
    /// A program that watches several jobs: each event has the job's id.
    ProgramOf(&'static str),
}

/// An event of one of several jobs.
#[derive(Serialize)]
struct OfJob<'a> {
    #[serde(flatten)]
    event: &'a Event,
    job: &'static str,
}

impl Audience {
    /// Reports an event. If nobody listens any more, the job goes on.
    pub(crate) fn tell(self, event: &Event) {
        let text = event.to_lines();
        if !text.is_empty() {
            self.put(event.level(), &text);
        }
        let line = match self {
            Self::Person | Self::PersonOf(_) => return,
            Self::Program => serde_json::to_string(event),
            Self::ProgramOf(job) => serde_json::to_string(&OfJob { event, job }),
        };
        if let Ok(line) = line {
            let mut stdout = io::stdout().lock();
            let _ = writeln!(stdout, "{line}");
            let _ = stdout.flush();
        }
    }

    /// Whether it reads events rather than words.
    pub(crate) fn is_program(self) -> bool {
        matches!(self, Self::Program | Self::ProgramOf(_))
    }

    /// The same for one of several jobs. The id stays in memory: there are as many as jobs have been served.
    pub(crate) fn of_job(self, id: &str) -> Self {
        static IDS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        let mut ids = IDS.lock().unwrap_or_else(PoisonError::into_inner);
        let id = match ids.get(id) {
            Some(known) => *known,
            None => {
                let new: &'static str = Box::leak(id.to_owned().into_boxed_str());
                ids.insert(new);
                new
            }
        };
        match self.is_program() {
            true => Self::ProgramOf(id),
            false => Self::PersonOf(id),
        }
    }

    /// The span in which its job runs, for the log: only one of several has one.
    pub(crate) fn span(self) -> Span {
        match self {
            Self::PersonOf(job) | Self::ProgramOf(job) => logging::span_of_job(job),
            Self::Person | Self::Program => Span::none(),
        }
    }

    /// What says something that takes its time before the job has begun.
    pub(crate) fn notice(self) -> fn(&str) {
        match self {
            Self::Person | Self::PersonOf(_) => |text| Self::Person.say(text),
            Self::Program | Self::ProgramOf(_) => |_| (),
        }
    }

    /// Says something to a person that is no event. Its line breaks are ours.
    pub(crate) fn say(self, text: &str) {
        if !self.is_program() {
            self.put(Level::INFO, text);
        }
    }

    /// Says to a person what went wrong. Its line breaks are ours.
    pub(crate) fn complain(self, text: &str) {
        if !self.is_program() {
            self.put(Level::ERROR, text);
        }
    }

    /// Says something to a person, if it is one, and on the web page in any case.
    fn put(self, level: Level, text: &str) {
        let text = lines(text);
        let job = match self {
            Self::PersonOf(job) | Self::ProgramOf(job) => Some(job),
            Self::Person | Self::Program => None,
        };
        logging::keep(level, job, &text);
        if self.is_program() {
            return;
        }
        if logging::is_json() {
            return logging::write_json(level, job, &text);
        }
        let mut stderr = io::stderr().lock();
        let clear = if stderr.is_terminal() { CLEAR_LINE } else { "" };
        let _ = match job {
            Some(job) => {
                let mut all = String::new();
                for line in text.lines() {
                    let _ = writeln!(all, "[{}] {line}", name(job));
                }
                write!(stderr, "{clear}{all}")
            }
            None => writeln!(stderr, "{clear}{text}"),
        };
    }
}

impl Event {
    /// How much it matters.
    fn level(&self) -> Level {
        match self {
            Self::Warning { .. } | Self::CheckpointFailed { .. } | Self::Restarted { .. } => {
                Level::WARN
            }
            Self::Failed { .. } | Self::Refused { .. } => Level::ERROR,
            _ => Level::INFO,
        }
    }

    /// The event in words, without a line end. All line breaks are ours: what others wrote goes through
    /// [`operator::text`].
    #[expect(clippy::too_many_lines, reason = "a table: one entry for each event")]
    fn to_lines(&self) -> String {
        match self {
            Self::Started {
                job_name,
                job_id,
                attempt,
                ..
            } => match (attempt, name(job_name)) {
                (0, job) => format!("job `{job}` started, id {}", name(job_id)),
                (_, job) => format!("job `{job}` started again, attempt {attempt}"),
            },
            Self::Warning { about, message } => {
                format!("warning: {}: {}", line(about), line(message))
            }
            #[cfg(feature = "otlp")]
            Self::Exporting { url } => format!("metrics are sent to {url}"),
            Self::Listening { url, token: true } => {
                format!("REST API, metrics and web page on {url}, with the token")
            }
            Self::Listening { url, token: false } => format!(
                "REST API, metrics and web page on {url}, for every user of this machine: no token is set"
            ),
            // Said with more words than an event has.
            Self::Waiting { .. } | Self::StoodDown { .. } => String::new(),
            Self::TookOver {
                because, waited_ms, ..
            } => {
                let why = match because {
                    Because::Gone => "its owner's process is gone",
                    Because::Silent => {
                        "its owner has not renewed its lease for the whole of its timeout"
                    }
                    Because::Suspended => "its owner has suspended it",
                    Because::Released => "its owner has given its directory up",
                };
                format!("taking over the job after {}: {why}", took(*waited_ms))
            }
            Self::Restored {
                checkpoint,
                path,
                report,
            } => {
                let mut text = format!("restoring from checkpoint {checkpoint}");
                if let Some(path) = path {
                    text.push_str(": ");
                    text.push_str(&line(path));
                }
                for node in report {
                    text.push_str("\n  ");
                    text.push_str(&shown(&node.what, REPORT_LINE_BYTES_MAX));
                }
                text
            }
            Self::CheckpointCompleted {
                id,
                savepoint,
                duration_ms,
                bytes,
                path,
                ..
            } => {
                let what = word(*savepoint);
                let place = line(path.as_deref().unwrap_or("in memory"));
                let size = size(*bytes);
                format!("{what} {id} completed in {duration_ms} ms, {size}: {place}")
            }
            Self::CheckpointFailed {
                id,
                savepoint,
                reason,
                last,
                ..
            } => {
                let what = word(*savepoint);
                let again = match last {
                    true => " (it finishes the job, and is taken again)",
                    false => "",
                };
                format!("{what} {id} failed: {}{again}", line(reason))
            }
            Self::Restarted {
                attempt,
                delay_ms,
                cause,
                from,
            } => {
                let from = match from {
                    Some(id) => format!("from checkpoint {id}"),
                    None => "from the beginning".to_owned(),
                };
                // It may end with a backtrace, and has been made safe by `chain`.
                let cause = lines(cause);
                format!("the job failed: {cause}\nrestart {attempt} {from} in {delay_ms} ms")
            }
            Self::Finished {
                outcome,
                checkpoint,
                resume,
                work,
                metrics,
                already: _,
            } => {
                let mut text = match outcome {
                    End::Finished => "job finished",
                    End::Stopped => "job stopped",
                    End::Drained => "job drained and stopped",
                    End::Cancelled => "job cancelled",
                    End::Suspended => "job suspended",
                }
                .to_owned();
                if let Some(work) = work {
                    let within = match outcome {
                        End::Finished => "in",
                        _ => "after",
                    };
                    let all_published =
                        matches!(outcome, End::Finished | End::Stopped | End::Drained);
                    push_work(&mut text, within, work, all_published);
                }
                match checkpoint {
                    Some(path) => push_checkpoint(&mut text, path, resume.as_deref()),
                    None if *outcome == End::Suspended => {
                        text.push_str("\nthere is no checkpoint to resume from");
                    }
                    None if *outcome == End::Cancelled => {
                        text.push_str(
                            "\nno checkpoint was kept, as `checkpoint.retention` says: the job can only be \
                             started from the beginning, without `--resume`, and then writes its output again; to \
                             keep checkpoints set it to `retain-on-cancellation`, or suspend the job with SIGTERM",
                        );
                    }
                    None => {}
                }
                push_metrics(&mut text, metrics);
                text
            }
            // Printed as every error is.
            Self::Refused { .. } => String::new(),
            // The error itself is printed once, when the process ends.
            Self::Failed {
                checkpoint,
                resume,
                work,
                metrics,
                ..
            } => {
                let mut text = String::new();
                if work.records_read > 0 || checkpoint.is_some() || !metrics.is_empty() {
                    text.push_str("job failed");
                    push_work(&mut text, "after", work, false);
                }
                if let Some(path) = checkpoint {
                    push_checkpoint(&mut text, path, resume.as_deref());
                }
                push_metrics(&mut text, metrics);
                text
            }
        }
    }
}

/// What a checkpoint is called.
fn word(savepoint: bool) -> &'static str {
    match savepoint {
        true => "savepoint",
        false => "checkpoint",
    }
}

fn push_checkpoint(text: &mut String, path: &str, resume: Option<&str>) {
    text.push_str("\nnewest checkpoint: ");
    text.push_str(&line(path));
    if let Some(command) = resume {
        text.push_str("\nresume with: ");
        text.push_str(&line(command));
    }
}

#[cfg(test)]
mod tests {
    use server::view::Longest;

    use super::*;

    #[test]
    fn a_completed_checkpoint_is_the_promised_line() {
        let event = Event::CheckpointCompleted {
            id: 12,
            savepoint: false,
            duration_ms: 31,
            bytes: 1_258_291,
            path: Some("/cp/wc-01234567/chk-12/_metadata".into()),
            phases: Phases {
                alignment: Longest {
                    us: 1500,
                    operator: "count".into(),
                    subtask: 1,
                },
                ..Phases::default()
            },
        };
        assert_eq!(
            event.to_lines(),
            "checkpoint 12 completed in 31 ms, 1.2 MiB: /cp/wc-01234567/chk-12/_metadata"
        );
        let json = serde_json::to_string(&event).unwrap();
        let begin = r#"{"event":"checkpoint-completed","id":12,"duration-ms":31,"bytes":1258291,"path":"/cp/wc-01234567/chk-12/_metadata","#;
        assert!(json.starts_with(begin), "{json}");
        let alignment = r#""alignment":{"us":1500,"operator":"count","subtask":1}"#;
        assert!(json.contains(alignment), "{json}");
    }

    #[test]
    fn c21_a_failed_checkpoint_tells_people_and_programs_why() {
        let event = Event::CheckpointFailed {
            id: 3,
            savepoint: false,
            duration_ms: 600,
            kind: "expired",
            reason: "expired after 500 ms: the snapshot of `sum` was being written for 400 ms"
                .into(),
            counts: true,
            last: true,
            slowest: Some(Slowest {
                operator: Some("sum".into()),
                subtask: Some(0),
                phase: "upload",
            }),
        };
        assert_eq!(
            event.to_lines(),
            "checkpoint 3 failed: expired after 500 ms: the snapshot of `sum` was being written \
             for 400 ms (it finishes the job, and is taken again)"
        );
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"checkpoint-failed","id":3,"duration-ms":600,"kind":"expired","reason":"expired after 500 ms: the snapshot of `sum` was being written for 400 ms","counts":true,"last":true,"slowest":{"operator":"sum","subtask":0,"phase":"upload"}}"#
        );
    }

    type Node<'a> = (&'a str, u64, Option<&'a str>);

    fn work(sources: &[Node<'_>], sinks: &[Node<'_>]) -> Work {
        let nodes = |nodes: &[Node<'_>]| {
            let node = |(id, records, place): &Node<'_>| NodeWork {
                id: (*id).to_owned(),
                records: *records,
                place: place.map(str::to_owned),
            };
            nodes.iter().map(node).collect::<Vec<_>>()
        };
        Work {
            duration_ms: 1_260,
            restarts: 0,
            records_read: sources.iter().map(|node| node.1).sum(),
            records_written: sinks.iter().map(|node| node.1).sum(),
            sources: nodes(sources),
            sinks: nodes(sinks),
            bad_records: Vec::new(),
        }
    }

    #[test]
    fn the_end_says_what_was_read_and_what_was_written_where() {
        let work = Work {
            restarts: 1,
            ..work(
                &[("a", 1000, None), ("b", 1, None)],
                &[("files", 5, Some("/out\n")), ("seen", 1, None)],
            )
        };
        let event = Event::Finished {
            outcome: End::Finished,
            checkpoint: None,
            resume: None,
            work: Some(work),
            already: false,
            metrics: BTreeMap::new(),
        };
        assert_eq!(
            event.to_lines(),
            "job finished in 1.3 s: 1,001 records read, 6 written (what was done again after \
             1 restart included)\n  \
             `a`: 1,000 records read\n  `b`: 1 record read\n  \
             `files`: 5 records written to /out\\n\n  `seen`: 1 record written"
        );
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            concat!(
                r#"{"event":"finished","outcome":"finished","checkpoint":null,"resume":null,"#,
                r#""duration-ms":1260,"restarts":1,"records-read":1001,"records-written":6,"#,
                r#""sources":[{"id":"a","records":1000},{"id":"b","records":1}],"#,
                r#""sinks":[{"id":"files","records":5,"place":"/out\n"},{"id":"seen","records":1}]}"#
            )
        );
        assert_eq!(took(999), "999 ms");
        assert_eq!(took(1000), "1.0 s");
        assert_eq!(took(61_500), "1m 1s");
    }

    #[test]
    fn a_suspended_job_says_how_to_go_on() {
        let event = Event::Finished {
            outcome: End::Suspended,
            checkpoint: Some("/cp/j/chk-3/_metadata".into()),
            resume: Some("host run -s /cp/j/chk-3/_metadata job.toml".into()),
            work: Some(work(&[("s", 1, None)], &[("k", 10_619, Some("/data/out"))])),
            already: false,
            metrics: BTreeMap::new(),
        };
        assert_eq!(
            event.to_lines(),
            "job suspended after 1.3 s: 1 record read, 10,619 written to /data/out, of which files \
             show those that a checkpoint covers\n\
             newest checkpoint: /cp/j/chk-3/_metadata\n\
             resume with: host run -s /cp/j/chk-3/_metadata job.toml"
        );
    }

    #[test]
    fn c154_metrics_are_in_the_last_lines_and_in_the_last_event() {
        let histogram = |count| Metric::Histogram {
            count,
            sum: 9.0,
            min: (count > 0).then_some(1.5),
            max: (count > 0).then_some(6.0),
        };
        let dedupe = [
            ("dropped", Metric::Counter { value: 3.0 }),
            ("level", Metric::Gauge { value: 0.25 }),
            ("size", histogram(3)),
            ("unused", histogram(0)),
        ];
        let dedupe = dedupe.map(|(name, metric)| (name.to_owned(), metric));
        let many = (0..25).map(|n| (format!("m{n:02}"), Metric::Counter { value: 1.0 }));
        let event = Event::Finished {
            outcome: End::Finished,
            checkpoint: None,
            resume: None,
            work: None,
            already: false,
            metrics: BTreeMap::from([
                ("dedupe".to_owned(), BTreeMap::from(dedupe)),
                ("many".to_owned(), many.collect()),
            ]),
        };
        let text = event.to_lines();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..2],
            [
                "job finished",
                "  `dedupe`: dropped = 3, level = 0.25, size = 3 (1.5 to 6, observed 3 times), unused = never observed",
            ]
        );
        assert!(lines[2].ends_with(", m19 = 1, and 5 more"), "{}", lines[2]);
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(
            json["metrics"]["dedupe"]["dropped"],
            serde_json::json!({"kind": "counter", "value": 3.0})
        );
    }

    #[test]
    fn c151_events_have_no_line_breaks_of_others() {
        let event = Event::Restored {
            checkpoint: 1,
            path: Some("/a\n/b".into()),
            report: vec![RestoredNode {
                what: format!("`x\ny\u{1b}[2J`: {}", "p".repeat(1 << 20)),
                ..RestoredNode::default()
            }],
        };
        let text = event.to_lines();
        assert!(
            text.starts_with("restoring from checkpoint 1: /a\\n/b\n  `x\\ny\\u{1b}[2J`: ppp"),
            "{}",
            &text[..200]
        );
        assert!(text.len() < 2 * REPORT_LINE_BYTES_MAX);
        let event = Event::Started {
            job_name: "j\njob finished\u{202e}".into(),
            job_id: "i".into(),
            attempt: 0,
            set_up_ms: 3,
        };
        assert_eq!(
            event.to_lines(),
            "job `j\\njob finished\\u{202e}` started, id i"
        );
    }
}
