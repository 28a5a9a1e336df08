//! `host run`: prepare, launch, wait, and say how it ended.

mod progress;
mod signals;

use std::sync::Arc;

use job_file::JobFile;
use job_file::sink::SinkSection;
use operator::FailureKind;
use operator::clock::{Clock, SystemClock};
use operator::text::name;
use runtime::Outcome;
use runtime::error::Class;
use wasm::Compiler;

use self::progress::Progress;
use super::job;
use crate::assemble::Prepared;
use crate::cli::{JobArguments, Run};
use crate::events::{Audience, End, Event, OperatorMetrics};
use crate::exit::{Error, Exit, causes};
use crate::launch::{Ended, LaunchOptions, launch};

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
    let prepared = Arc::new(prepared);
    if audience == Audience::Program {
        keep_stdout_for_events(&prepared.job)?;
    }
    let options = LaunchOptions {
        restore: &arguments.restore,
        clock: Arc::clone(&clock),
        begun_ms,
        audience,
        before: Box::new(|job| signals::listen(job, audience).map_err(not_listening)),
    };
    let Some(running) = launch(&prepared, options)? else {
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
    let progress = prepared
        .is_bounded()
        .then(|| Progress::show(running.handle(), Arc::clone(&clock), audience))
        .flatten();
    let ended = running.wait();
    drop(progress);
    let end = EndOfJob {
        audience,
        arguments: &arguments.job,
        prepared: &prepared,
    };
    end.conclude(ended?)
}

fn not_listening(error: std::io::Error) -> Error {
    Error::refused(anyhow::Error::new(error).context("listening to signals"))
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

/// Says how a job ended.
struct EndOfJob<'a> {
    audience: Audience,
    arguments: &'a JobArguments,
    prepared: &'a Prepared,
}

impl EndOfJob<'_> {
    fn conclude(self, ended: Ended) -> Result<Exit, Error> {
        let Ended {
            outcome,
            checkpoint,
            work,
        } = ended;
        let resume = checkpoint.as_deref().map(|path| self.resume(path));
        let (error, class, gave_up) = match outcome {
            Outcome::Failed {
                error,
                class,
                gave_up,
            } => (error, class, gave_up),
            ended => {
                let outcome = match ended {
                    Outcome::Cancelled => End::Cancelled,
                    Outcome::Suspended => End::Suspended,
                    _ => End::Finished,
                };
                self.audience.tell(&Event::Finished {
                    outcome,
                    // A finished job is not resumed, though its checkpoint may be looked at.
                    resume: resume.filter(|_| outcome != End::Finished),
                    checkpoint,
                    work: Some(work),
                    already: false,
                    metrics: self.prepared.metrics(),
                });
                return Ok(Exit::Finished);
            }
        };
        let exit = match class {
            Class::Retry | Class::Permanent | Class::Fenced => Exit::Failed,
            Class::Refused => Exit::Refused,
            Class::Corrupt => Exit::Corrupt,
        };
        self.audience.tell(&Event::Failed {
            error: causes(error.as_ref()),
            exit_code: exit as u8,
            resume,
            checkpoint,
            work,
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
