//! `host replay`: tries the records of capsules again, each alone, with the states that its key had.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use dataflow::state::{KeyedState, TimeDomain};
use dataflow::{Batch, KeyGroupRange, KeyGroups};
use job_file::checkpoint::absolute;
use operator::capsule::{Capsule, Kind, VERSION};
use operator::clock::{Clock, SystemClock};
use operator::source::Waker;
use operator::text::{counted, line, lines, shown};
use operator::{Failure, JobIdentity, OperatorInstance, SubtaskContext, Unprocessed};
use runtime::graph::{NodeKind, OperatorNode};
use wasm::Compiler;

use super::job::{self, Loader};
use super::print;
use crate::cli::{JobArguments, Replay};
use crate::events::Audience;
use crate::exit::{Error, Exit};

/// The most bytes of a file of capsules.
const FILE_MAX: u64 = 1 << 30;
/// How many characters of a record are shown.
const SHOWN: usize = 1000;

/// Tries all capsules of a file, or one of them, again.
pub(crate) fn replay(arguments: &Replay) -> Result<Exit, Error> {
    // All are read before one is tried.
    let files = arguments.files.iter();
    let files: Vec<_> = files
        .map(|file| Ok((file, read(file, arguments.line)?)))
        .collect::<Result<_, Error>>()?;
    let capsules = files.iter().flat_map(|(file, capsules)| {
        let of_file = capsules.iter();
        of_file.map(move |(number, capsule)| (*file, number, capsule))
    });
    let loader = Loader::new(Compiler::Child, Audience::Person.notice());
    let mut exit = Exit::Finished;
    for (file, number, capsule) in capsules {
        let place = format!("{}:{number}", file.display());
        if let Some(reason) = untried(capsule) {
            print(&format!("{}: not tried: {reason}\n", line(&place)))?;
            exit = Exit::Refused;
            continue;
        }
        let outcome = one(capsule, arguments, &loader);
        let outcome =
            outcome.map_err(|error| error.detail(format!("in the capsule at {place}")))?;
        print(&format!(
            "{}: {}",
            line(&place),
            described(capsule, &outcome)
        ))?;
        if outcome.is_err() && exit == Exit::Finished {
            exit = Exit::Failed;
        }
    }
    Ok(exit)
}

/// The capsules that are asked for, with the numbers of their lines.
fn read(path: &Path, only: Option<usize>) -> Result<Vec<(usize, Capsule)>, Error> {
    let file = std::fs::File::open(path)
        .with_context(|| format!("cannot open {}", path.display()))
        .map_err(Error::refused)?;
    let mut text = String::new();
    file.take(FILE_MAX)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))
        .map_err(Error::refused)?;
    let mut capsules = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || only.is_some_and(|wanted| wanted != number) {
            continue;
        }
        let capsule: Capsule = serde_json::from_str(line)
            .with_context(|| format!("{}:{number} is not a capsule", path.display()))
            .map_err(Error::refused)?;
        if capsule.capsule != VERSION {
            return Err(Error::refused(anyhow!(
                "{}:{number} has version {} of the document, but this host reads version {VERSION}",
                path.display(),
                capsule.capsule
            )));
        }
        capsules.push((number, capsule));
    }
    if capsules.is_empty() {
        return Err(Error::refused(match only {
            Some(line) => anyhow!("{} has no line {line}", path.display()),
            None => anyhow!("{} has no capsule", path.display()),
        }));
    }
    Ok(capsules)
}

/// What the operator has emitted, in lines for a person; or why it has failed.
type Outcome = Result<Vec<String>, Box<Failure>>;

/// Why a capsule cannot be tried, if it cannot.
fn untried(capsule: &Capsule) -> Option<String> {
    if capsule.kind == Kind::Line {
        let id = line(&capsule.operator);
        return Some(format!(
            "it is a line that source `{id}` could not read: no operator has seen it"
        ));
    }
    let missing = capsule.truncated.iter().map(String::as_str);
    let missing: Vec<&str> = missing
        .filter(|part| ["key", "value", "states"].contains(part))
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "the capsule does not have the whole {}, so that what fails may be another thing",
            missing.join(" and ")
        )
    })
}

fn one(capsule: &Capsule, arguments: &Replay, loader: &Loader) -> Result<Outcome, Error> {
    let id = &capsule.operator;
    let job_file = match &arguments.job {
        Some(path) => path.clone(),
        None => PathBuf::from(&capsule.job_file),
    };
    let prepared = {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        job::prepare(&job_arguments(arguments, &job_file, id)?, loader, &clock)?
    };
    let graph = prepared.graph(None)?;
    let node = graph.nodes.iter().find(|node| node.id == *id);
    let Some((node, NodeKind::Operator(operator))) = node.map(|node| (node, &node.kind)) else {
        return Err(Error::refused(anyhow!(
            "{} has no operator `{id}`",
            job_file.display()
        )));
    };
    let context = SubtaskContext {
        operator: id.clone(),
        subtask: capsule.subtask,
        parallelism: node.parallelism.max(capsule.subtask.saturating_add(1)),
        job: JobIdentity::default(),
        run: String::new(),
        generation: 0,
        attempt: 0,
        waker: Waker::new(|| {}),
    };
    let made = operator
        .factory
        .create(&context, !capsule.states.is_empty());
    let made = match made {
        Ok(made) => made,
        Err(failure) => return Ok(Err(Box::new(failure))),
    };
    let state = keyed_state(operator, graph.key_groups);
    let keyed = !operator.states.is_empty();
    let mut instance = OperatorInstance::new(made, state, keyed, operator.outputs);
    if let Some(watermark) = capsule.watermark {
        instance.set_watermark(watermark);
    }
    let now = SystemClock::new().now_ms();
    let restored = capsule.restore(&mut instance, now);
    restored.map_err(|error| Error::refused(anyhow!("its states cannot be restored: {error}")))?;
    Ok(match run(capsule, &mut instance, now) {
        Ok(()) => Ok(emitted(operator, &mut instance)),
        Err(Unprocessed::Failed { failure, .. }) => Err(failure),
        Err(Unprocessed::State(error)) => return Err(Error::refused(error)),
        Err(Unprocessed::Unkeyed) => {
            return Err(Error::refused(anyhow!(
                "the record has no key, but `{id}` keeps state per key now"
            )));
        }
    })
}

fn keyed_state(operator: &OperatorNode, groups: KeyGroups) -> KeyedState {
    let all = KeyGroupRange {
        start: 0,
        end: groups.count(),
    };
    match operator.states.is_empty() {
        true => KeyedState::default(),
        false => KeyedState::new(operator.states.clone(), all, groups),
    }
}

fn job_arguments(arguments: &Replay, file: &Path, id: &str) -> Result<JobArguments, Error> {
    let mut overrides = arguments.overrides.clone();
    if let Some(component) = &arguments.component {
        let path = std::env::current_dir()
            .map(|directory| absolute(&directory.join(component)))
            .context("the current directory is unknown")
            .map_err(Error::refused)?;
        overrides.push(format!(
            "operator.{id}.component={}",
            toml::Value::String(path.display().to_string())
        ));
    }
    Ok(JobArguments {
        file: file.to_owned(),
        build: false,
        parallelism: None,
        http: None,
        overrides,
        config: arguments.config.clone(),
    })
}

/// Processes the record, or lets the timer fire.
fn run(capsule: &Capsule, instance: &mut OperatorInstance, now: i64) -> Result<(), Unprocessed> {
    if let Some(timer) = &capsule.timer {
        let domain = match timer.domain == TimeDomain::Processing.to_string() {
            true => TimeDomain::Processing,
            false => TimeDomain::Event,
        };
        return instance.try_fire(domain, timer.time, 1, now).map(drop);
    }
    let mut batch = Batch::default();
    let value = capsule.value.as_ref().map(|value| value.0.as_slice());
    let key = capsule.key.as_ref().map(|key| key.0.as_slice());
    let timestamp = capsule.timestamp.unwrap_or(dataflow::batch::NO_TIMESTAMP);
    batch.push(key, value.unwrap_or_default(), timestamp);
    let input = capsule.position.input.unwrap_or_default();
    instance.try_process(input, &mut batch, now)
}

fn emitted(operator: &OperatorNode, instance: &mut OperatorInstance) -> Vec<String> {
    let mut all = Vec::new();
    for port in 0..operator.outputs {
        let Some(batch) = instance.take_output(port as usize, Batch::default) else {
            continue;
        };
        for record in 0..batch.len() {
            let mut text = format!("output {port}:");
            if batch.is_keyed() {
                let _ = write!(text, " key {},", bytes(batch.keys.get(record)));
            }
            let _ = write!(text, " value {}", bytes(batch.values.get(record)));
            all.push(text);
        }
    }
    all
}

fn bytes(bytes: &[u8]) -> String {
    let text = format!("{:?}", String::from_utf8_lossy(bytes));
    shown(&text, SHOWN).into_owned()
}

fn described(capsule: &Capsule, outcome: &Outcome) -> String {
    let what = match capsule.kind {
        Kind::Timer => "the timer",
        Kind::Record | Kind::Line => "the record",
    };
    let id = line(&capsule.operator);
    let mut text = match outcome {
        Ok(emitted) => {
            let records = counted(emitted.len() as u64, "record");
            let mut text = format!("{what} does not fail any more: `{id}` emitted {records}\n");
            for record in emitted {
                let _ = writeln!(text, "  {record}");
            }
            text
        }
        Err(failure) if failure.message == capsule.error.message => {
            format!(
                "{what} fails with the same error: {}\n",
                line(&failure.message)
            )
        }
        Err(failure) => format!(
            "{what} fails with another error: {}\n  in the capsule: {}\n",
            line(&failure.message),
            line(&capsule.error.message)
        ),
    };
    if let Err(failure) = outcome
        && let Some(backtrace) = &failure.backtrace
    {
        let _ = writeln!(text, "guest backtrace:\n{}", lines(backtrace.trim_end()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_record_is_escaped() {
        assert_eq!(bytes(b"a\x1b\xff"), "\"a\\u{1b}\u{fffd}\"");
    }
}
