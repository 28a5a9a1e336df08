//! `host run`: parse, assemble, find the checkpoint, compare, run, and leave what is to be kept.

mod orphans;
mod progress;
mod restore;
mod retention;
pub(super) mod settings;
mod signals;
mod start;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::lease::{self, Held};
use checkpoint::{CheckpointStore, Completed};
use operator::FailureKind;
use operator::clock::{Clock, SystemClock};
use operator::text::name;
use runtime::error::Class;
use runtime::{Job, JobEvent, Outcome};
use wasm::Compiler;

use self::progress::Progress;
use self::retention::{Ending, keeps};
use self::start::Begun;
use super::job;
use crate::assemble::Prepared;
use crate::cli::{JobArguments, Run};
use crate::events::{Audience, End, Event, NodeWork, OperatorMetrics, Work};
use crate::exit::{Error, Exit, chain};
use crate::job_file::JobFile;
use crate::job_file::checkpoint::CheckpointSection;
use crate::job_file::sink::SinkSection;

/// Runs a job to its end.
pub(crate) fn run(arguments: &Run) -> Result<Exit, Error> {
    let audience = if arguments.json {
        Audience::Program
    } else {
        Audience::Person
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let begun_ms = clock.now_ms();
    let prepared = job::prepare(&arguments.job, Compiler::Child, audience.notice(), &clock)?;
    let file = &prepared.job;
    if audience == Audience::Program {
        keep_stdout_for_events(file)?;
    }
    for warning in settings::warnings(file, arguments.restore.from.as_deref()) {
        audience.tell(&warning);
    }
    let Some(begun) = start::begin(&prepared, &arguments.restore, &clock, audience)? else {
        audience.tell(&Event::Finished {
            outcome: End::Finished,
            resume: None,
            checkpoint: None,
            work: None,
            already: true,
            metrics: OperatorMetrics::new(),
        });
        return Ok(Exit::Finished);
    };
    let Begun {
        store,
        _keeper,
        job_id: id,
        run,
        is_new: _,
        from,
        graph,
        report,
        claimed,
    } = begun;
    audience.say(&settings::storage_line(&file.checkpoint, &id));
    if let Some(report) = &report {
        audience.tell(&restore::event(report));
    }
    if let Some(checkpoint) = from.as_ref().filter(|_| claimed) {
        tracing::warn!(
            "{}",
            restore::claimed(checkpoint, file.checkpoint.retention)
        );
    }
    let resumed_from = from.as_ref().and_then(Completed::path);
    let options = settings::options(file, &id, &run);
    let job = Job::new(graph, options, store.clone(), from, Arc::clone(&clock));
    signals::listen(job.handle(), audience).map_err(|error| {
        Error::refused(anyhow::Error::new(error).context("listening to signals"))
    })?;
    let progress = prepared
        .is_bounded()
        .then(|| Progress::show(job.handle(), Arc::clone(&clock), audience))
        .flatten();
    let mut restarts = 0;
    let outcome = job.run(|event| {
        if let JobEvent::Restarting { attempt, .. } = &event {
            restarts = *attempt;
        }
        if let JobEvent::CheckpointCompleted { id, .. } = &event {
            log_metrics(*id, &prepared);
        }
        audience.tell(&told(event, &file.job.name, &id));
        warn(&store);
    });
    drop(progress);
    let end = EndOfJob {
        audience,
        section: &file.checkpoint,
        store: &store,
        clock: clock.as_ref(),
        resumed_from,
        arguments: &arguments.job,
        prepared: &prepared,
        job: &job,
        begun_ms,
        restarts,
    };
    end.conclude(outcome)
}

/// With `--json` every line of standard output is an event. A reader could not tell records from events.
fn keep_stdout_for_events(job: &JobFile) -> Result<(), Error> {
    let is_stdout = |sink: &&SinkSection| sink.connector.as_deref() == Some("stdout");
    let Some(sink) = job.sinks.iter().find(is_stdout) else {
        return Ok(());
    };
    let message = format!(
        "`--json` prints events on standard output, where sink `{}` writes records",
        name(&sink.node.id)
    );
    let error = Error::refused(anyhow::Error::msg(message));
    Err(error.hint("leave `--json` out, or have the sink write files (connector `file`)"))
}

fn watching(held: &Held) -> String {
    let timeout = Duration::from_millis(held.timeout_ms);
    let timeout = humantime::format_duration(timeout);
    format!("{held}; waiting {timeout} for a renewal: if none arrives, this run takes over")
}

fn waiting(held: &Held, left_ms: u64) -> String {
    let left = humantime::format_duration(Duration::from_millis(left_ms));
    format!(
        "{held}; it may have been killed since: waiting {left} to see whether it renews it again"
    )
}

/// The checkpoint storage cannot be used.
fn not_opened(error: checkpoint::Error) -> Error {
    not_owned(error, "opening the checkpoint storage")
}

/// What is to be owned may be another's.
fn not_owned(error: checkpoint::Error, doing: &'static str) -> Error {
    let hint = match &error {
        checkpoint::Error::Held(held) => {
            let timeout = humantime::format_duration(Duration::from_millis(held.timeout_ms));
            Some(format!(
                "stop it first, or give this run a `job.id` of its own; if it was killed or hangs, retry after {timeout}"
            ))
        }
        checkpoint::Error::Storage { source, .. } => {
            let source = source.downcast_ref::<io::Error>();
            source
                .and_then(|source| mend_of(source.kind()))
                .map(str::to_owned)
        }
        _ => None,
    };
    let error = Error::checkpoint(error, doing);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// What a person can do about a directory for checkpoints that cannot be used.
fn mend_of(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::PermissionDenied => {
            Some("let the user who runs the job write there, or set another `checkpoint.dir`")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("make the file system writable, or set another `checkpoint.dir`")
        }
        // A link that leads nowhere exists, too.
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Some("move the file that is in the way, or set another `checkpoint.dir`")
        }
        _ => None,
    }
}

fn told(event: JobEvent, name: &str, id: &str) -> Event {
    match event {
        JobEvent::Started { attempt } => Event::Started {
            job_name: name.to_owned(),
            job_id: id.to_owned(),
            attempt,
        },
        JobEvent::CheckpointCompleted {
            id,
            duration_ms,
            bytes,
            path,
            phases,
        } => Event::CheckpointCompleted {
            id,
            duration_ms,
            bytes,
            path,
            phases: (*phases).into(),
        },
        JobEvent::CheckpointFailed {
            id,
            kind,
            reason,
            slowest,
            last,
        } => Event::CheckpointFailed {
            id,
            kind: kind.code(),
            reason,
            counts: kind.counts(),
            last,
            slowest: slowest.map(|slowest| (*slowest).into()),
        },
        JobEvent::Restarting {
            attempt,
            delay_ms,
            cause,
            from,
        } => Event::Restarted {
            attempt,
            delay_ms,
            cause,
            from,
        },
    }
}

/// The operators' metrics as they are after a checkpoint, for the log at level `debug`.
fn log_metrics(checkpoint: u64, prepared: &Prepared) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    for (operator, metrics) in prepared.metrics() {
        for (name, metric) in metrics {
            tracing::debug!(operator, checkpoint, "{name} = {metric}");
        }
    }
}

/// What the store could not delete is no failure, but somebody should look at it.
fn warn(store: &CheckpointStore) {
    for warning in store.take_warnings() {
        tracing::warn!("{warning}");
    }
}

/// Removes what sinks of the job prepared and will never commit.
fn abandon(job: &Job, store: &CheckpointStore) {
    for failed in job.abandon_output(store.generation()) {
        tracing::warn!("output that was never committed is left: {failed}");
    }
}

struct EndOfJob<'a> {
    audience: Audience,
    section: &'a CheckpointSection,
    store: &'a CheckpointStore,
    clock: &'a dyn Clock,
    resumed_from: Option<String>,
    arguments: &'a JobArguments,
    prepared: &'a Prepared,
    job: &'a Job,
    /// When the process began with it.
    begun_ms: i64,
    restarts: u32,
}

impl EndOfJob<'_> {
    fn conclude(self, outcome: Outcome) -> Result<Exit, Error> {
        match outcome {
            Outcome::Finished => self.finished(Ending::Finished, End::Finished),
            Outcome::Cancelled => self.finished(Ending::Cancelled, End::Cancelled),
            Outcome::Suspended => self.finished(Ending::Suspended, End::Suspended),
            Outcome::Failed {
                error,
                class,
                gave_up,
            } => {
                // What did not begin, or could not be restored, is to be tried again.
                let (exit, ending) = match class {
                    Class::Retry | Class::Permanent => (Exit::Failed, Ending::Failed),
                    Class::Refused => (Exit::Refused, Ending::Suspended),
                    Class::Corrupt => (Exit::Corrupt, Ending::Suspended),
                    // The host that has the directory now goes on from what is there.
                    Class::Fenced => (Exit::Failed, Ending::Suspended),
                };
                let checkpoint = match class {
                    // Nothing in the directory is this process's any more.
                    Class::Fenced => {
                        warn(self.store);
                        None
                    }
                    _ => self.settle(ending),
                };
                self.audience.tell(&Event::Failed {
                    error: chain(error.as_ref()),
                    exit_code: exit as u8,
                    resume: checkpoint.as_deref().map(|path| self.resume(path)),
                    checkpoint,
                    work: self.work(),
                    metrics: self.prepared.metrics(),
                });
                // What an operator finds wrong with its configuration has a place in the job file.
                if let runtime::Error::Operator {
                    operator, failure, ..
                } = error.as_ref()
                    && failure.kind == FailureKind::Config
                {
                    return Err(self.prepared.not_opened(operator, failure).into());
                }
                let changed = operator::InputChanged::find(error.as_ref());
                let choices = changed.map(|changed| changed.choices.clone());
                let mut told = Error::with(exit, *error);
                if let Some(choices) = choices {
                    told = told.hint(choices);
                }
                if let Some(reason) = gave_up {
                    told = told.hint(format!("the job is not restarted: {reason}"));
                }
                if class == Class::Corrupt {
                    told = told.hint("`--fallback` uses the newest good older checkpoint");
                }
                Err(told)
            }
        }
    }

    fn finished(&self, ending: Ending, outcome: End) -> Result<Exit, Error> {
        let mut checkpoint = self.settle(ending);
        if outcome == End::Suspended {
            // What the job was started from is not its own and is still there.
            checkpoint = checkpoint.or_else(|| self.resumed_from.clone());
        }
        // A finished job is not resumed, though its checkpoint may be looked at.
        let resume = checkpoint.as_deref().map(|path| self.resume(path));
        self.audience.tell(&Event::Finished {
            outcome,
            resume: resume.filter(|_| outcome != End::Finished),
            checkpoint,
            work: Some(self.work()),
            already: false,
            metrics: self.prepared.metrics(),
        });
        Ok(Exit::Finished)
    }

    /// What the job did.
    fn work(&self) -> Work {
        let mut work = Work {
            duration_ms: self.clock.now_ms().abs_diff(self.begun_ms),
            restarts: self.restarts,
            ..Work::default()
        };
        for node in self.job.handle().records_of_nodes() {
            let (nodes, sum) = match node.is_source {
                true => (&mut work.sources, &mut work.records_read),
                false => (&mut work.sinks, &mut work.records_written),
            };
            *sum = sum.saturating_add(node.records);
            nodes.push(NodeWork {
                place: self.job.place_of_sink(&node.id),
                id: node.id,
                records: node.records,
            });
        }
        work
    }

    /// Deletes or keeps, and gives the newest checkpoint that there is to go on from.
    fn settle(&self, ending: Ending) -> Option<String> {
        let keeps = keeps(self.section, ending);
        let how = match ending {
            Ending::Finished => lease::Ending::Finished,
            Ending::Cancelled => lease::Ending::Cancelled,
            Ending::Failed => lease::Ending::Failed,
            Ending::Suspended => lease::Ending::Suspended,
        };
        match self.store.end(how, keeps, self.clock.now_ms()) {
            // What a successor may resume from stays, and what it may commit.
            Err(error) => tracing::warn!("at the end of the job: {}", chain(&error)),
            Ok(()) if !keeps => abandon(self.job, self.store),
            Ok(()) => {}
        }
        let kept = keeps
            .then(|| self.store.latest().and_then(|checkpoint| checkpoint.path()))
            .flatten();
        self.store.wait_for_cleaning();
        warn(self.store);
        kept
    }

    /// The command that resumes from a checkpoint.
    fn resume(&self, path: &str) -> String {
        let mut words = vec![
            "host".to_owned(),
            "run".into(),
            "-s".into(),
            path.to_owned(),
        ];
        if let Some(parallelism) = self.arguments.parallelism {
            words.extend(["-p".into(), parallelism.to_string()]);
        }
        // To accept changed input is for one run.
        let once = |option: &&String| option.contains(".changed=");
        for option in self.arguments.overrides.iter().filter(|it| !once(it)) {
            words.extend(["-D".into(), option.clone()]);
        }
        if let Some(config) = &self.arguments.config {
            words.extend(["--config".into(), config.display().to_string()]);
        }
        words.push(self.arguments.file.display().to_string());
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        words.join(" ")
    }
}

/// A word as a shell wants it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("/cp/chk-1/_metadata"), "/cp/chk-1/_metadata");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
