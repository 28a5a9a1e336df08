//! `host run`: parse, assemble, find the checkpoint, compare, run, and leave what is to be kept.

mod progress;
mod restore;
mod retention;
pub(super) mod settings;
mod signals;

use std::sync::Arc;
use std::time::Duration;

use checkpoint::claim::Extent;
use checkpoint::lease::Held;
use checkpoint::{CheckpointStore, Completed};
use runtime::clock::{Clock, SystemClock};
use runtime::error::Class;
use runtime::{Job, JobEvent, Keeper, Outcome};

use self::progress::Progress;
use self::restore::Start;
use self::retention::{Ending, keeps};
use super::job;
use crate::assemble::Prepared;
use crate::cli::{JobArguments, RestoreArguments, Run};
use crate::events::{Audience, End, Event, OperatorMetrics};
use crate::exit::{Error, Exit, chain};
use crate::job_file::JobFile;
use crate::job_file::checkpoint::CheckpointSection;

/// Runs a job to its end.
pub(crate) fn run(arguments: &Run) -> Result<Exit, Error> {
    let audience = if arguments.json {
        Audience::Program
    } else {
        Audience::Person
    };
    let system_clock = Arc::new(SystemClock::new());
    let clock: Arc<dyn Clock> = Arc::<SystemClock>::clone(&system_clock);
    let prepared = job::prepare(&arguments.job, &clock)?;
    let file = &prepared.job;
    // Looked for twice: first to know in which directory the run is to go on, and again when that is
    // ours, for whoever had it until then may have got further.
    let Found::Start(from) = look(&arguments.restore, file, audience)? else {
        return Ok(Exit::Finished);
    };
    let inherited = restore::inherited_id(&arguments.restore, file, from.as_ref());
    let id = inherited.unwrap_or_else(|| settings::job_id(file));
    let mut watch = |held: &Held| audience.say(&watching(held));
    let store =
        settings::store(&file.checkpoint, &id, system_clock, &mut watch).map_err(not_opened)?;
    let keeper = store.lease().map(|lease| Keeper::start(Arc::clone(lease)));
    let _keeper = keeper.transpose().map_err(Error::refused)?;
    let from = match from {
        None => None,
        Some(_) => match look(&arguments.restore, file, audience)? {
            Found::Start(from) => from,
            Found::Finished => return Ok(Exit::Finished),
        },
    };
    let groups = from.as_ref().map(restore::key_groups).transpose()?;
    let graph = prepared.graph(groups)?;
    let report = from
        .as_ref()
        .map(|checkpoint| restore::check(&graph, checkpoint, &arguments.restore))
        .transpose()?;

    let claim = restore::claim(&arguments.restore).filter(|_| !store.is_memory());
    match (&from, claim) {
        (Some(checkpoint), Some(extent)) => store
            .claim(checkpoint, extent)
            .map_err(|error| not_owned(error, "claiming the checkpoint"))?,
        // What a run left in the directory that was killed before its first checkpoint.
        (None, Some(_)) => store.take_over(),
        (_, None) => {}
    }
    // It begins again: that it finished once must not keep it from being resumed.
    if let Err(error) = store.forget_finish(&file.job.name) {
        return Err(Error::checkpoint(
            error,
            "removing the mark of a run that finished",
        ));
    }
    audience.say(&settings::storage_line(&file.checkpoint, &id));
    if let Some(report) = &report {
        audience.tell(&restore::event(report));
    }
    if let (Some(checkpoint), Some(Extent::Checkpoint)) = (&from, claim) {
        tracing::warn!(
            "{}",
            restore::claimed(checkpoint, file.checkpoint.retention)
        );
    }
    let resumed_from = from.as_ref().and_then(Completed::path);
    let earlier = from
        .as_ref()
        .map(|checkpoint| checkpoint.metadata().job_id.clone());
    // What sinks of a job prepared that this one takes the place of, and never committed.
    let mut replaced = earlier
        .clone()
        .filter(|earlier| *earlier != id && claim == Some(Extent::JobDirectory));
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
        if matches!(event, JobEvent::CheckpointCompleted { .. })
            && let Some(replaced) = replaced.take()
        {
            let _ = replaced;
            abandon(&job, store.generation());
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
        job_name: &file.job.name,
        resumed_from,
        arguments: &arguments.job,
        prepared: &prepared,
        job: &job,
        job_id: &id,
        // Of a checkpoint that stays, output of the same job id may be waiting to be committed.
        owns_output: claim.is_some() || earlier.is_none_or(|earlier| earlier != id),
        supervised: arguments.restore.resume,
    };
    end.conclude(outcome)
}

fn watching(held: &Held) -> String {
    let timeout = Duration::from_millis(held.timeout_ms);
    let timeout = humantime::format_duration(timeout);
    format!("{held}; it is watched for {timeout}, and succeeded if it gives no sign of life")
}

/// Where a job is to start.
enum Found {
    /// From a checkpoint, or with nothing.
    Start(Option<Completed>),
    /// Nowhere: it has finished, and this was told.
    Finished,
}

fn look(arguments: &RestoreArguments, file: &JobFile, audience: Audience) -> Result<Found, Error> {
    Ok(match restore::choose(arguments, file, audience)? {
        Start::Fresh => Found::Start(None),
        Start::From(checkpoint) => Found::Start(Some(*checkpoint)),
        Start::Finished => {
            let name = &file.job.name;
            audience.say(&format!(
                "job `{name}` has finished already, there is nothing to resume"
            ));
            audience.tell(&Event::Finished {
                outcome: End::Finished,
                resume: None,
                checkpoint: None,
                metrics: OperatorMetrics::new(),
            });
            Found::Finished
        }
    })
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
                "stop it first, or give this run a `job.id` of its own; if it is gone or hangs, \
                 start this again when {timeout} have passed since"
            ))
        }
        _ => None,
    };
    let error = Error::checkpoint(error, doing);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
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

/// The operators' metrics as they are after a checkpoint, for whoever wants to see them (`debug`).
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

/// Removes what sinks of a job prepared and will never commit.
fn abandon(job: &Job, generation: u64) {
    for failed in job.abandon_output(generation) {
        tracing::warn!("output that was never committed is left: {failed}");
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
    prepared: &'a Prepared,
    job: &'a Job,
    job_id: &'a str,
    /// Whether nothing but this run's own checkpoints refers to output that its sinks prepared.
    owns_output: bool,
    /// Whether somebody starts it again and again until it has finished.
    supervised: bool,
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
                    // Whoever has the directory now goes on from what is there.
                    Class::Fenced => (Exit::Failed, Ending::Suspended),
                };
                let checkpoint = self.settle(ending).filter(|_| class != Class::Fenced);
                self.audience.tell(&Event::Failed {
                    error: chain(error.as_ref()),
                    exit_code: exit as u8,
                    resume: checkpoint.as_deref().map(|path| self.resume(path)),
                    checkpoint,
                    metrics: self.prepared.metrics(),
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
            metrics: self.prepared.metrics(),
        });
        // The very last step, for whoever finds neither mark nor checkpoint begins anew. A supervisor
        // that learns only that the process is gone asks again, and finds the mark.
        if outcome == End::Finished
            && !self.supervised
            && let Err(error) = self.store.forget_finish(self.job_name)
        {
            tracing::warn!("removing the mark of the finished job: {}", chain(&error));
        }
        Ok(Exit::Finished)
    }

    /// Deletes or keeps, and gives the newest checkpoint that there is to go on from.
    fn settle(&self, ending: Ending) -> Option<String> {
        let keeps = keeps(self.section, ending);
        let finished = ending == Ending::Finished;
        let now = self.clock.now_ms();
        let settled = match (finished, keeps) {
            (true, true) => self.store.finish(self.job_name, now),
            (true, false) => self.store.finish_and_delete(self.job_name, now),
            (false, true) => Ok(()),
            (false, false) => self.store.delete_all(),
        };
        if let Err(error) = settled {
            tracing::warn!("at the end of the job: {}", chain(&error));
        }
        if !keeps && !finished && self.owns_output {
            abandon(self.job, self.store.generation());
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
