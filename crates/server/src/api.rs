//! What goes over the wire, as JSON.
//!
//! `GET /v1/jobs` answers with a list of [`JobStatus`], `GET /v1/jobs/{job}` with one, where `{job}` is an id or a name.
//! `POST /v1/jobs/{job}/operations` takes a [`Request`] and answers with an [`OperationStatus`] once the operation has
//! begun; `GET /v1/jobs/{job}/operations/{request-id}?wait=MILLISECONDS&seen=N` answers when its `version` is no longer
//! `N`, at the latest after `wait`. The same request id is the same operation, however often it is sent. An error is
//! a [`Failure`].

use serde::{Deserialize, Serialize};

/// What is asked of a job, under an id that the client has chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Request {
    /// At most 64 letters, digits, `-` and `_`. The same id again is the same operation.
    pub request_id: String,
    /// What is to be done.
    #[serde(flatten)]
    pub operation: Operation,
}

/// What can be asked of a running job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "operation",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
pub enum Operation {
    /// Take a checkpoint now.
    Checkpoint,
    /// Take a savepoint.
    Savepoint {
        /// Below which directory: an absolute path, a `file://` or `s3://` URL. Unset: the job's
        /// `checkpoint.savepoint-dir`.
        directory: Option<String>,
    },
    /// End the job at a checkpoint, with no record after it.
    Stop {
        /// End all input first.
        #[serde(default)]
        drain: bool,
        /// Below which directory a savepoint is taken too. Unset: the job's `checkpoint.savepoint-dir`, or none.
        savepoint_directory: Option<String>,
    },
    /// End the job at once.
    Cancel,
    /// Go on at another parallelism.
    Rescale {
        /// The job's `parallelism`.
        parallelism: u32,
    },
    /// Change how often checkpoints are taken.
    Interval {
        /// In milliseconds; `None`: no periodic checkpoints.
        interval_ms: Option<u64>,
    },
}

/// How far an operation is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OperationStatus {
    /// The request's id.
    pub request_id: String,
    /// The job's id.
    pub job: String,
    /// What was asked for.
    #[serde(flatten)]
    pub operation: Operation,
    /// Grows with every change of what follows.
    pub version: u64,
    /// How far it is.
    #[serde(flatten)]
    pub state: OperationState,
}

/// How far an operation is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum OperationState {
    /// It has begun.
    InProgress {
        /// How far it is, in words for a person.
        progress: String,
    },
    /// It is done.
    Done {
        /// What was done.
        report: Box<Report>,
    },
    /// It was not done.
    Failed {
        /// Why.
        error: Failure,
    },
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Failure {
    /// For programs.
    pub code: Code,
    /// What happened, in one sentence.
    pub message: String,
    /// What may mend it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Why something was not done, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request makes no sense.
    BadRequest,
    /// There is no such job, operation or path.
    NotFound,
    /// The job's state does not allow it: it restarts, stops or has ended.
    Conflict,
    /// It was tried, and failed. The job goes on.
    Failed,
    /// The job ended first.
    Ended,
}

/// What an operation has done. What does not apply is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Report {
    /// From the request to the end, in milliseconds.
    pub duration_ms: u64,
    /// The savepoint that was taken.
    pub savepoint: Option<Taken>,
    /// The checkpoint that was taken, or that the job ended at.
    pub checkpoint: Option<Taken>,
    /// How the job ended: `stopped`, `drained`, `cancelled`, `finished`.
    pub ended: Option<String>,
    /// The command that resumes the job.
    pub resume: Option<String>,
    /// The parallelism or interval before, in words.
    pub before: Option<String>,
    /// The parallelism or interval now, in words.
    pub now: Option<String>,
}

/// A checkpoint or savepoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Taken {
    /// Its number.
    pub id: u64,
    /// Its directory; `None` in memory.
    pub path: Option<String>,
    /// Bytes written for it.
    pub bytes: u64,
    /// From trigger to completion, in milliseconds.
    pub duration_ms: u64,
    /// When it was complete, in milliseconds since 1970.
    pub completed_at: i64,
}

/// A job of the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobStatus {
    /// `job.name`.
    pub name: String,
    /// What tells it from the others of the host: its directory's name.
    pub id: String,
    /// What it does.
    pub state: JobState,
    /// The host's process.
    pub process: u32,
    /// The job file.
    pub job_file: String,
    /// `job.parallelism` as it is now.
    pub parallelism: u32,
    /// When the host started it, in milliseconds since 1970.
    pub started_at: i64,
    /// How often it was restarted in this process.
    pub restarts: u32,
    /// Why it was restarted last, or failed.
    pub last_failure: Option<String>,
    /// How often checkpoints are taken, in milliseconds; `None`: none periodically.
    pub interval_ms: Option<u64>,
    /// Where its checkpoints are: a directory, or `None` in memory.
    pub directory: Option<String>,
    /// The newest one that is complete.
    pub checkpoint: Option<Taken>,
    /// How many checkpoints were completed in this process.
    pub completed_checkpoints: u64,
    /// How many were given up.
    pub failed_checkpoints: u64,
    /// Why the last one was given up, if no other has completed since.
    pub checkpoint_failure: Option<String>,
    /// What each source has read.
    pub sources: Vec<Node>,
    /// What each sink has written.
    pub sinks: Vec<Node>,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// It is set up or restored.
    Starting,
    /// Records flow.
    Running,
    /// It failed and waits for its restart.
    Restarting,
    /// It is asked to end.
    Stopping,
    /// All input is processed.
    Finished,
    /// It was stopped at a checkpoint.
    Stopped,
    /// It was cancelled.
    Cancelled,
    /// It was suspended.
    Suspended,
    /// It failed and is not restarted.
    Failed,
}

/// A source or sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Records since the host started the job. What was done again after a restart counts again.
    pub records: u64,
}
