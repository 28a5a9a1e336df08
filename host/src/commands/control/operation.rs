//! What is asked of a running job: sent, waited for and reported.

use std::io::{self, IsTerminal, Write};
use std::path;

use operator::text::{name, shown};
use serde_json::{Value, json};
use server::Found;
use server::api::{
    Failure, JobStatus, Operation, OperationState, OperationStatus, Report, Request,
};

use super::report::describe;
use super::{failed, find, refused};
use crate::cli::{
    Asking, CheckpointInterval, Interval, PlainOperation, Rescale, RunningJob, Savepoint, Stop,
};
use crate::commands::print;
use crate::events::CLEAR_LINE;
use crate::exit::{Error, Exit};

/// How much of a host's words about its progress has room on a line.
const PROGRESS_BYTES_MAX: usize = 200;

/// `host checkpoint`.
pub(crate) fn checkpoint(arguments: &PlainOperation) -> Result<Exit, Error> {
    ask(&arguments.job, &arguments.asking, Operation::Checkpoint)
}

/// `host savepoint`.
pub(crate) fn savepoint(arguments: &Savepoint) -> Result<Exit, Error> {
    let directory = arguments.directory.as_deref().map(absolute).transpose()?;
    let operation = Operation::Savepoint { directory };
    ask(&arguments.job, &arguments.asking, operation)
}

/// `host stop`.
pub(crate) fn stop(arguments: &Stop) -> Result<Exit, Error> {
    let directory = arguments.savepoint_path.as_deref();
    let operation = Operation::Stop {
        drain: arguments.drain,
        savepoint_directory: directory.map(absolute).transpose()?,
    };
    ask(&arguments.job, &arguments.asking, operation)
}

/// `host cancel`.
pub(crate) fn cancel(arguments: &PlainOperation) -> Result<Exit, Error> {
    ask(&arguments.job, &arguments.asking, Operation::Cancel)
}

/// `host rescale`.
pub(crate) fn rescale(arguments: &Rescale) -> Result<Exit, Error> {
    let parallelism = arguments.parallelism;
    let operation = Operation::Rescale { parallelism };
    ask(&arguments.job, &arguments.asking, operation)
}

/// `host interval`.
pub(crate) fn interval(arguments: &Interval) -> Result<Exit, Error> {
    let interval_ms = match arguments.interval {
        CheckpointInterval::None => None,
        CheckpointInterval::Milliseconds(milliseconds) => Some(milliseconds),
    };
    let operation = Operation::Interval { interval_ms };
    ask(&arguments.job, &arguments.asking, operation)
}

/// What a directory of the command line is for the host, which has another working directory.
fn absolute(directory: &str) -> Result<String, Error> {
    if directory.contains("://") {
        return Ok(directory.to_owned());
    }
    let context = |error: anyhow::Error| {
        Error::refused(error.context(format!("the directory `{}`", name(directory))))
    };
    let absolute = path::absolute(directory).map_err(|error| context(error.into()))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|_| context(anyhow::anyhow!("its path is not UTF-8")))
}

/// Finds the job, has it do something, and says what was done.
fn ask(job: &RunningJob, asking: &Asking, operation: Operation) -> Result<Exit, Error> {
    let mut request = Request::new(operation).map_err(refused)?;
    if let Some(id) = &asking.request_id {
        request.request_id.clone_from(id);
    }
    request.check().map_err(refused)?;
    let found = find(job)?;
    if asking.detach {
        return begin(&found, &request, job.json);
    }
    let progress = Progress::new();
    let outcome = found
        .host
        .run(&found.job.id, &request, |text| progress.show(text));
    drop(progress);
    report(&found.job, &request, outcome, job.json)
}

/// Begins it, and does not wait. What has ended at once, because it was refused or done before under this id, is
/// reported as if it had been waited for.
fn begin(found: &Found, request: &Request, is_json: bool) -> Result<Exit, Error> {
    let begun = found.host.begin(&found.job.id, request);
    let status = match begun {
        Ok(status) => status,
        Err(failure) => return report(&found.job, request, Err(failure), is_json),
    };
    match status.state {
        OperationState::Done { report: done } => report(&found.job, request, Ok(*done), is_json),
        OperationState::Failed { error } => report(&found.job, request, Err(error), is_json),
        OperationState::InProgress { .. } => {
            print(&in_progress(&found.job, &status, is_json))?;
            Ok(Exit::Finished)
        }
    }
}

fn in_progress(job: &JobStatus, status: &OperationStatus, is_json: bool) -> String {
    if is_json {
        let value = json!({
            "job": job.name,
            "job-id": job.id,
            "process": job.process,
            "request-id": status.request_id,
            "state": "in-progress",
        });
        return format!("{value:#}\n");
    }
    format!(
        "{}\n  {} of job `{}` has begun; the same command with --request-id {} and without --detach waits for it\n",
        status.request_id,
        status.operation.word(),
        name(&job.name),
        status.request_id,
    )
}

fn report(
    job: &JobStatus,
    request: &Request,
    outcome: Result<Report, Failure>,
    is_json: bool,
) -> Result<Exit, Error> {
    if is_json {
        print(&format!("{:#}\n", in_json(job, request, &outcome)?))?;
    }
    let done = outcome.map_err(failed)?;
    if !is_json {
        print(&describe(job, &request.operation, &done))?;
    }
    Ok(Exit::Finished)
}

/// One object for whatever came of it: the report, or `error`.
fn in_json(
    job: &JobStatus,
    request: &Request,
    outcome: &Result<Report, Failure>,
) -> Result<Value, Error> {
    let mut value = match outcome {
        Ok(report) => serde_json::to_value(report).map_err(Error::failed)?,
        Err(failure) => json!({ "error": failure }),
    };
    if let Some(object) = value.as_object_mut() {
        object.insert("job".into(), json!(job.name));
        object.insert("job-id".into(), json!(job.id));
        object.insert("process".into(), json!(job.process));
        object.insert("request-id".into(), json!(request.request_id));
        object.insert("operation".into(), json!(request.operation.word()));
        let state = if outcome.is_ok() { "done" } else { "failed" };
        object.insert("state".into(), json!(state));
    }
    Ok(value)
}

/// A line on the terminal that says how far it is, as long as it is owned. A pipe gets none.
struct Progress {
    is_terminal: bool,
}

impl Progress {
    fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self { is_terminal }
    }

    fn show(&self, text: &str) {
        if self.is_terminal {
            let text = shown(text, PROGRESS_BYTES_MAX);
            // Nobody may look, which changes nothing.
            let _ = write!(io::stderr().lock(), "{CLEAR_LINE}{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = write!(io::stderr().lock(), "{CLEAR_LINE}");
        }
    }
}

#[cfg(test)]
mod tests {
    use server::api::Code;

    use super::*;
    use crate::commands::control::report::tests::job;

    #[test]
    fn a_relative_directory_is_that_of_the_client_and_a_url_stays() {
        let here = std::env::current_dir().unwrap();
        let below = here.join("sp").into_os_string().into_string().unwrap();
        assert_eq!(absolute("sp").unwrap(), below);
        for same in [
            "/sp",
            "s3://bucket/sp",
            "az://container/sp",
            "hdfs://nn:8020/sp",
            "file:///sp",
        ] {
            assert_eq!(absolute(same).unwrap(), same);
        }
        assert_eq!(absolute("").unwrap_err().exit(), Exit::Refused);
    }

    #[test]
    fn json_has_names_as_they_are_and_says_what_came_of_it() {
        let request = Request {
            request_id: "r-1".to_owned(),
            operation: Operation::Checkpoint,
        };
        let done = in_json(&job(), &request, &Ok(Report::default())).unwrap();
        assert_eq!(done["state"], "done");
        assert_eq!(done["job"], "or\u{1b}ders");
        assert_eq!(done["request-id"], "r-1");
        assert!(done["duration-ms"].is_u64() && done["savepoint"].is_null());
        let failure = Failure::new(Code::Conflict, "it restarts");
        let failed = in_json(&job(), &request, &Err(failure)).unwrap();
        assert_eq!(failed["state"], "failed");
        assert_eq!(failed["error"]["code"], "conflict");
    }

    #[test]
    fn a_detached_request_prints_its_id_first() {
        let status = OperationStatus {
            request_id: "r-1".to_owned(),
            job: "orders".to_owned(),
            operation: Operation::Checkpoint,
            version: 0,
            state: OperationState::InProgress {
                progress: "begun".to_owned(),
            },
        };
        let text = in_progress(&job(), &status, false);
        assert_eq!(text.lines().next(), Some("r-1"));
        assert!(!text.contains('\u{1b}'), "{text}");
        let value: Value = serde_json::from_str(&in_progress(&job(), &status, true)).unwrap();
        assert_eq!(value["request-id"], "r-1");
    }
}
