//! What is asked of a job in Flink's words, and how far it is.
//!
//! | request | read by | status of HTTP | then `GET` | answered by |
//! |---|---|---|---|---|
//! | `POST /jobs/:jobid/savepoints` | [`savepoint()`] | 202 | `/jobs/:jobid/savepoints/:triggerid` | [`location()`] |
//! | `POST /jobs/:jobid/stop` | [`stop()`] | 202 | `/jobs/:jobid/savepoints/:triggerid` | [`location()`] |
//! | `POST /jobs/:jobid/checkpoints` | [`checkpoint()`] | 202 | `/jobs/:jobid/checkpoints/:triggerid` | [`number()`] |
//! | `PATCH /jobs/:jobid/rescaling` | [`rescaling()`] | 200 | `/jobs/:jobid/rescaling/:triggerid` | [`done()`] |
//! | `PATCH /jobs/:jobid` | [`cancel()`] | 202, `{}` | | |
//! | `POST /savepoint-disposal` | [`disposal()`] | 202 | `/savepoint-disposal/:triggerid` | [`done()`] |
//!
//! All but `PATCH /jobs/:jobid` are answered with [`triggered()`]. Its id must have 32 hexadecimal digits: Flink's client
//! reads no other.
//!
//! Flink passes over keys that it does not know. Here they are refused: a `drain` with a typing mistake would stop a
//! job in another way than it was asked for.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Query, check_id, in_words, throwable};
use crate::api::{Failure, Operation, OperationState, OperationStatus, Report};

/// What Flink says in place of the path of what is in memory. Its client needs a text.
const NOT_ADDRESSABLE: &str = "<checkpoint-not-externally-addressable>";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What is to be done.
    pub(crate) operation: Operation,
    /// Under which id; `None`: under a fresh one. The same id again is the same operation.
    pub(crate) trigger_id: Option<String>,
}

impl Asked {
    fn new(operation: Operation, trigger_id: Option<String>) -> Result<Self, Failure> {
        if let Some(id) = &trigger_id {
            check_id("trigger", id).map_err(|(_, message)| Failure::bad_request(message))?;
        }
        operation.check()?;
        let trigger_id = trigger_id.map(|id| id.to_ascii_lowercase());
        Ok(Self {
            operation,
            trigger_id,
        })
    }
}

/// The format of a savepoint. There is one here, which does for what either of Flink's is for.
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Format {
    Canonical,
    Native,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct SavepointBody {
    #[serde(rename = "target-directory")]
    target_directory: Option<String>,
    #[serde(rename = "cancel-job")]
    cancel_job: Option<bool>,
    #[serde(rename = "formatType")]
    _format: Option<Format>,
    #[serde(rename = "triggerId")]
    trigger_id: Option<String>,
}

/// The body of `POST /jobs/:jobid/savepoints`.
///
/// With `cancel-job` the job is stopped: its last checkpoint is complete and its output committed before it ends,
/// so no record is between the savepoint and the end.
pub(crate) fn savepoint(body: &[u8]) -> Result<Asked, Failure> {
    let body: SavepointBody = read(body)?;
    let directory = body.target_directory.map(url);
    let operation = match body.cancel_job.unwrap_or_default() {
        true => Operation::Stop {
            drain: false,
            savepoint_directory: directory,
        },
        false => Operation::Savepoint { directory },
    };
    Asked::new(operation, body.trigger_id)
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct StopBody {
    target_directory: Option<String>,
    drain: Option<bool>,
    #[serde(rename = "formatType")]
    _format: Option<Format>,
    trigger_id: Option<String>,
}

/// The body of `POST /jobs/:jobid/stop`.
pub(crate) fn stop(body: &[u8]) -> Result<Asked, Failure> {
    let body: StopBody = read(body)?;
    let operation = Operation::Stop {
        drain: body.drain.unwrap_or_default(),
        savepoint_directory: body.target_directory.map(url),
    };
    Asked::new(operation, body.trigger_id)
}

/// What kind of checkpoint is taken.
#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum CheckpointType {
    Configured,
    Full,
    Incremental,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct CheckpointBody {
    checkpoint_type: Option<CheckpointType>,
    trigger_id: Option<String>,
}

/// The body of `POST /jobs/:jobid/checkpoints`.
pub(crate) fn checkpoint(body: &[u8]) -> Result<Asked, Failure> {
    let body: CheckpointBody = read(body)?;
    if body
        .checkpoint_type
        .is_some_and(|kind| kind != CheckpointType::Configured)
    {
        let message = "checkpointType can only be CONFIGURED: the job file says whether checkpoints are incremental";
        return Err(Failure::bad_request(message));
    }
    Asked::new(Operation::Checkpoint, body.trigger_id)
}

/// The parameters of `PATCH /jobs/:jobid/rescaling`.
pub(crate) fn rescaling(query: Option<&str>) -> Result<Asked, Failure> {
    let query = Query::parse(query);
    let parallelism = query.get("parallelism").and_then(|text| text.parse().ok());
    let parallelism = parallelism.ok_or_else(|| {
        Failure::bad_request("the query parameter `parallelism` must be a number of at least 1")
    })?;
    Asked::new(Operation::Rescale { parallelism }, None)
}

/// The parameters of `PATCH /jobs/:jobid`.
pub(crate) fn cancel(query: Option<&str>) -> Result<Asked, Failure> {
    let query = Query::parse(query);
    match query.get("mode") {
        None => Asked::new(Operation::Cancel, None),
        Some(mode) if mode.eq_ignore_ascii_case("cancel") => Asked::new(Operation::Cancel, None),
        Some(mode) => {
            let mode = operator::text::name(mode);
            let message = format!("the mode `{mode}` is not `cancel`");
            Err(Failure::bad_request(message).hint("`POST /jobs/:jobid/stop` stops a job"))
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct DisposalBody {
    #[serde(rename = "savepoint-path")]
    savepoint_path: Option<String>,
    #[serde(rename = "triggerId")]
    trigger_id: Option<String>,
}

/// The body of `POST /savepoint-disposal`.
pub(crate) fn disposal(body: &[u8]) -> Result<Asked, Failure> {
    let body: DisposalBody = read(body)?;
    let savepoint = body.savepoint_path.map(url).ok_or_else(|| {
        Failure::bad_request("`savepoint-path` is missing: the directory of the savepoint")
    })?;
    // What a savepoint is known by elsewhere may be its metadata.
    let savepoint = match savepoint.strip_suffix("/_metadata") {
        Some(directory) => directory.to_owned(),
        None => savepoint,
    };
    Asked::new(Operation::Dispose { savepoint }, body.trigger_id)
}

/// Reads a body. An empty one is one without keys, as in Flink.
fn read<'a, T: Deserialize<'a> + Default>(body: &'a [u8]) -> Result<T, Failure> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    // Without the first a list would be read as the values of the keys in their order.
    serde_json::from_slice::<Map<String, Value>>(body)
        .and_then(|_| serde_json::from_slice(body))
        .map_err(|error| Failure::bad_request(format!("the request is not understood: {error}")))
}

/// A directory as it is written here: Flink prints `file:/directory`, and what it prints is passed on.
fn url(directory: String) -> String {
    match directory.strip_prefix("file:/") {
        Some(path) if !path.starts_with('/') => format!("file:///{path}"),
        _ => directory,
    }
}

/// The answer to who asks for something that takes its time.
pub(crate) fn triggered(request_id: &str) -> Value {
    json!({ "request-id": request_id })
}

/// How far a savepoint or a stop is: its `operation` says where the savepoint is, or where a stop without one ended.
pub(crate) fn location(status: &OperationStatus) -> Value {
    answer(status, "failure-cause", |report| {
        let savepoint = report
            .savepoint
            .as_ref()
            .and_then(|taken| taken.path.as_deref());
        let checkpoint = report
            .checkpoint
            .as_ref()
            .and_then(|taken| taken.path.as_deref());
        json!({ "location": savepoint.or(checkpoint).unwrap_or(NOT_ADDRESSABLE) })
    })
}

/// How far a checkpoint is: its `operation` says which number it has. Flink has another name for the cause of a
/// failure here than elsewhere, and its client looks for no other.
pub(crate) fn number(status: &OperationStatus) -> Value {
    answer(status, "failureCause", |report| {
        let id = report.checkpoint.as_ref().map_or(0, |taken| taken.id);
        json!({ "checkpointId": super::long(id) })
    })
}

/// How far a rescaling or a disposal is: there is nothing to say once it is done.
pub(crate) fn done(status: &OperationStatus) -> Value {
    answer(status, "failure-cause", |_| json!({}))
}

fn answer(status: &OperationStatus, cause_key: &str, done: impl FnOnce(&Report) -> Value) -> Value {
    let (id, operation) = match &status.state {
        OperationState::InProgress { .. } => ("IN_PROGRESS", Value::Null),
        OperationState::Done { report } => ("COMPLETED", done(report)),
        OperationState::Failed { error } => {
            let cause = throwable::failure_cause(&in_words(error));
            ("COMPLETED", json!({ cause_key: cause }))
        }
    };
    json!({ "status": { "id": id }, "operation": operation })
}
