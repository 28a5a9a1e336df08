//! `host run`: prepare, launch, wait, and say how it ended.

mod progress;
pub(super) mod signals;

use std::sync::Arc;

use job_file::JobFile;
use job_file::sink::SinkSection;
use operator::FailureKind;
use operator::clock::{Clock, SystemClock};
use operator::text::name;
use runtime::Outcome;
use runtime::error::Class;
use server::Server;
use wasm::Compiler;

use self::progress::Progress;
use self::signals::{Phase, Signals};
use super::job::{self, Loader};
use crate::cli::Run;
use crate::events::{Audience, End, Event, OperatorMetrics};
use crate::exit::{Error, Exit, causes};
use crate::jobs::{Entry, Jobs};
use crate::launch::standby::{self, StandbyOptions, Waited};
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
    let loader = Arc::new(Loader::new(Compiler::Child, audience.notice()));
    let mut prepared = job::prepare(&arguments.job, &loader, &clock)?;
    if audience.is_program() {
        keep_stdout_for_events(&prepared.job)?;
    }
    if let Some(section) = &prepared.job.http {
        // Before the directory of the job is taken.
        crate::rest::check(section)?;
    }
    let (mut taken, mut signals) = (None, None);
    if arguments.restore.standby {
        let heard = Signals::listen(Phase::Waiting, audience).map_err(not_listening)?;
        let options = StandbyOptions {
            restore: &arguments.restore,
            clock: &clock,
            audience,
            before_taking: &|| heard.begin(),
            after_losing: &|| heard.go_on_waiting(),
        };
        match standby::wait(&prepared, &options)? {
            Waited::Over => return Ok(Exit::Finished),
            Waited::Taken(directory) => taken = Some(directory),
        }
        prepared = job::with_present_inputs(prepared, &loader, &clock)?;
        signals = Some(heard);
    }
    let prepared = Arc::new(prepared);
    let jobs = Arc::new(Jobs::default());
    let (mut server, mut rest) = (None, None);
    #[cfg(feature = "otlp")]
    let mut exporter = None;
    let options = LaunchOptions {
        job: &arguments.job,
        loader: &loader,
        restore: &arguments.restore,
        taken,
        clock: Arc::clone(&clock),
        begun_ms,
        audience,
        before: Box::new(|entry| {
            let job = entry.handle.clone();
            match signals {
                Some(signals) => signals.hand_over(job),
                None => Signals::listen(Phase::Running(job), audience)
                    .map(drop)
                    .map_err(not_listening)?,
            }
            // Nobody can have asked the process to end its jobs yet.
            jobs.add(Arc::clone(entry));
            server = serve(&jobs);
            let section = prepared.job.http.as_ref();
            rest = section
                .map(|section| crate::rest::start(section, &jobs, &clock, audience))
                .transpose()?;
            #[cfg(feature = "otlp")]
            {
                exporter = crate::otlp::start(&jobs, &clock, audience)?;
            }
            Ok(())
        }),
    };
    let Some(running) = launch(&prepared, options)? else {
        return Ok(finished_already(audience));
    };
    let handle = running.entry().handle.clone();
    let is_bounded = prepared.is_bounded();
    let progress = Progress::show(handle, is_bounded, Arc::clone(&clock), audience);
    let entry = running.entry();
    let ended = running.wait();
    drop(progress);
    if let Some(server) = server {
        server.close();
    }
    if let Some(rest) = rest {
        rest.close();
    }
    #[cfg(feature = "otlp")]
    if let Some(exporter) = exporter {
        exporter.close();
    }
    conclude(ended?, &entry, audience)
}

/// There was nothing to be done.
pub(super) fn finished_already(audience: Audience) -> Exit {
    audience.tell(&Event::Finished {
        outcome: End::Finished,
        resume: None,
        checkpoint: None,
        work: None,
        already: true,
        metrics: OperatorMetrics::new(),
    });
    Exit::Finished
}

/// Answers who asks about the jobs of this process. A job runs all the same if nobody can.
pub(super) fn serve(jobs: &Arc<Jobs>) -> Option<Server> {
    let server = Server::start(Arc::clone(jobs) as Arc<dyn server::Jobs>);
    server
        .inspect_err(|error| {
            let error = causes(error);
            tracing::warn!("the job runs, but cannot be asked for anything (`host list`): {error}");
        })
        .ok()
}

pub(super) fn not_listening(error: std::io::Error) -> Error {
    Error::refused(anyhow::Error::new(error).context("listening to signals"))
}

/// With `--json` every line of standard output is an event. A reader could not tell records from events.
pub(super) fn keep_stdout_for_events(job: &JobFile) -> Result<(), Error> {
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
pub(super) fn conclude(ended: Ended, entry: &Entry, audience: Audience) -> Result<Exit, Error> {
    let is_drained = ended.is_drained();
    let Ended {
        outcome,
        checkpoint,
        work,
    } = ended;
    let prepared = entry.prepared();
    let resume = checkpoint
        .as_deref()
        .map(|path| entry.resume(path, is_drained));
    let (error, class, gave_up) = match outcome {
        Outcome::Failed {
            error,
            class,
            gave_up,
        } => (error, class, gave_up),
        ended => {
            let outcome = match ended {
                Outcome::Stopped { drained: false } => End::Stopped,
                Outcome::Stopped { drained: true } => End::Drained,
                Outcome::Cancelled => End::Cancelled,
                Outcome::Suspended => End::Suspended,
                _ => End::Finished,
            };
            audience.tell(&Event::Finished {
                outcome,
                // A finished job is not resumed, though its checkpoint may be looked at.
                resume: resume.filter(|_| outcome != End::Finished),
                checkpoint,
                work: Some(work),
                already: false,
                metrics: prepared.metrics(),
            });
            return Ok(Exit::Finished);
        }
    };
    let exit = match class {
        Class::Retry | Class::Permanent | Class::Fenced => Exit::Failed,
        // What an operator says of its configuration may need a record to show.
        Class::Refused if work.records_read > 0 => Exit::Failed,
        Class::Refused => Exit::Refused,
        Class::Corrupt => Exit::Corrupt,
    };
    audience.tell(&Event::Failed {
        error: causes(error.as_ref()),
        exit_code: exit as u8,
        resume,
        checkpoint,
        work,
        metrics: prepared.metrics(),
    });
    // What an operator finds wrong with its configuration has a place in the job file.
    if let runtime::Error::Operator {
        operator, failure, ..
    } = error.as_ref()
        && failure.kind == FailureKind::Config
    {
        let problems = prepared.not_opened(operator, failure);
        return Err(Error::Problems { exit, problems });
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
