//! `host run`: parse, assemble, find the checkpoint, compare, run, and leave what is to be kept.

mod progress;
mod restore;
mod retention;
mod settings;
mod signals;

use std::sync::Arc;

use checkpoint::CheckpointStore;
use runtime::clock::{Clock, SystemClock};
use runtime::error::Class;
use runtime::{Job, JobEvent, Outcome};

use self::progress::Progress;
use self::restore::Start;
use self::retention::{Ending, keeps};
use super::job;
use crate::cli::{JobArguments, Run};
use crate::events::{Audience, End, Event};
use crate::exit::{Error, Exit, chain};
use crate::job_file::checkpoint::CheckpointSection;

/// Runs a job to its end.
pub(crate) fn run(arguments: &Run) -> Result<Exit, Error> {
    let audience = if arguments.json {
        Audience::Program
    } else {
        Audience::Person
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let prepared = job::prepare(&arguments.job, &clock)?;
    let file = &prepared.job;
    let from = match restore::choose(&arguments.restore, file, audience)? {
        Start::Fresh => None,
        Start::From(checkpoint) => Some(*checkpoint),
        Start::Finished => {
            let name = &file.job.name;
            audience.say(&format!(
                "job `{name}` has finished already, there is nothing to resume"
            ));
            audience.tell(&Event::Finished {
                outcome: End::Finished,
                resume: None,
                checkpoint: None,
            });
            return Ok(Exit::Finished);
        }
    };
    let groups = from.as_ref().map(restore::key_groups).transpose()?;
    let graph = prepared.graph(groups)?;
    let report = from
        .as_ref()
        .map(|checkpoint| restore::check(&graph, checkpoint, &arguments.restore))
        .transpose()?;

    let id = settings::job_id(file);
    let store = settings::store(&file.checkpoint, &id)
        .map_err(|error| Error::checkpoint(error, "opening the checkpoint storage"))?;
    audience.say(&settings::storage_line(&file.checkpoint, &id));
    if let Some(report) = &report {
        audience.tell(&restore::event(report));
    }
    let resumed_from = from.as_ref().and_then(checkpoint::Completed::path);
    let options = settings::options(file, &id);
    let job = Job::new(graph, options, store.clone(), from, Arc::clone(&clock));
    signals::listen(job.handle(), audience).map_err(|error| {
        Error::refused(anyhow::Error::new(error).context("listening to signals"))
    })?;
    let progress = prepared
        .is_bounded()
        .then(|| Progress::show(job.handle(), Arc::clone(&clock), audience))
        .flatten();
    let outcome = job.run(|event| {
        audience.tell(&told(event, &file.job.name, &id));
        warn(&store);
    });
    drop(progress);
    let end = EndOfJob {
        audience,
        section: &file.checkpoint,
        store: &store,
        clock: clock.as_ref(),
        job_name: &file.job.name,
        resumed_from,
        arguments: &arguments.job,
    };
    end.conclude(outcome)
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

/// What the store could not delete is no failure, but somebody should look at it.
fn warn(store: &CheckpointStore) {
    for warning in store.take_warnings() {
        tracing::warn!("{warning}");
    }
}

struct EndOfJob<'a> {
    audience: Audience,
    section: &'a CheckpointSection,
    store: &'a CheckpointStore,
    clock: &'a dyn Clock,
    job_name: &'a str,
    resumed_from: Option<String>,
    arguments: &'a JobArguments,
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
                    Class::Retry => (Exit::Failed, Ending::Failed),
                    Class::Refused => (Exit::Refused, Ending::Suspended),
                    Class::Corrupt => (Exit::Corrupt, Ending::Suspended),
                };
                let checkpoint = self.settle(ending);
                self.audience.tell(&Event::Failed {
                    error: chain(error.as_ref()),
                    exit_code: exit as u8,
                    resume: checkpoint.as_deref().map(|path| self.resume(path)),
                    checkpoint,
                });
                let mut told = Error::with(exit, *error);
                if let Some(reason) = gave_up {
                    told = told.hint(format!("it is not started again: {reason}"));
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
        });
        Ok(Exit::Finished)
    }

    /// Deletes or keeps, and gives the newest checkpoint that there is to go on from.
    fn settle(&self, ending: Ending) -> Option<String> {
        if matches!(ending, Ending::Finished)
            && let Err(error) = self.store.finish(self.job_name, self.clock.now_ms())
        {
            tracing::warn!("noting that the job has finished: {}", chain(&error));
        }
        let kept = if keeps(self.section, ending) {
            self.store.latest().and_then(|checkpoint| checkpoint.path())
        } else {
            if let Err(error) = self.store.delete_all() {
                tracing::warn!("deleting the job's checkpoints: {}", chain(&error));
            }
            None
        };
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
        for option in &self.arguments.overrides {
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
