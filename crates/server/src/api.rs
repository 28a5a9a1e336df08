//! What goes over the wire, as JSON.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1` | [`HostStatus`] |
//! | `GET /v1/jobs` | a list of [`JobStatus`] |
//! | `GET /v1/views` | a list of [`JobView`](crate::view::JobView), but for what subtasks did for each checkpoint |
//! | `GET /v1/jobs/{job}` | [`JobStatus`] |
//! | `POST /v1/jobs/{job}/operations`, a [`Request`] | [`OperationStatus`] |
//! | `GET /v1/jobs/{job}/operations/{request-id}` | [`OperationStatus`] |
//!
//! `{job}` is an id or a name. The last two take `?wait=MILLISECONDS&seen=N`: they answer when the operation's
//! `version` is no longer `N` or it has ended, at the latest after `wait` (unset: at once). The same request id is
//! the same operation, however often it is sent. An error is a [`Failure`].

use std::path::Path;

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
        /// Below which directory: an absolute path, a `file://`, `s3://`, `az://`, `gs://` or `hdfs://` URL. Unset: the job's
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
        /// In milliseconds; `None`: no periodic checkpoints. Never left out: a request that forgot it would switch
        /// them off.
        #[serde(deserialize_with = "required")]
        interval_ms: Option<u64>,
    },
    /// Delete a savepoint. It is of no job, so no client can ask a job for it.
    #[serde(skip_deserializing)]
    Dispose {
        /// Its directory.
        savepoint: String,
    },
}

/// The bytes that the path or URL of a directory may have: the system's bound for paths.
const DIRECTORY_BYTES_MAX: usize = 4096;

/// The bytes that a request id may have.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Reads an `Option` that must be there, if only as `null`.
fn required<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)
}

impl Request {
    /// A request under a fresh random id.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn new(operation: Operation) -> Result<Self, Failure> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| {
            Failure::new(Code::Failed, format!("no request id can be made: {error}"))
        })?;
        Ok(Self {
            request_id: format!("{:032x}", u128::from_be_bytes(bytes)),
            operation,
        })
    }

    /// Reads and checks what a client has sent. Keys that mean nothing are refused: a `drain` with a typing mistake
    /// would stop a job in another way than it was asked for.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Failure> {
        let bad = |error: serde_json::Error| {
            Failure::bad_request(format!("the request is not understood: {error}"))
        };
        let sent: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(json).map_err(bad)?;
        let request: Self = serde_json::from_value(sent.clone().into()).map_err(bad)?;
        let known = serde_json::to_value(&request).map_err(bad)?;
        if let Some(key) = sent.keys().find(|key| known.get(key).is_none()) {
            let key = operator::text::name(key);
            let message = format!("the operation has no key `{key}`");
            return Err(Failure::bad_request(message));
        }
        request.check()?;
        Ok(request)
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// It does not, in words.
    pub fn check(&self) -> Result<(), Failure> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let id = &self.request_id;
        if id.is_empty() || id.len() > REQUEST_ID_BYTES_MAX || !id.bytes().all(is_word) {
            let message = format!(
                "the request id `{}` is not 1 to {REQUEST_ID_BYTES_MAX} letters, digits, `-` and `_`",
                operator::text::name(id)
            );
            return Err(Failure::bad_request(message));
        }
        self.operation.check()
    }
}

impl Operation {
    /// Whether it makes sense, whatever job it is asked of.
    ///
    /// # Errors
    /// It does not, in words.
    pub fn check(&self) -> Result<(), Failure> {
        let refuse = |message: &str| Err(Failure::bad_request(message));
        match self {
            Self::Checkpoint | Self::Cancel => Ok(()),
            Self::Savepoint { directory } => directory.as_deref().map_or(Ok(()), check_directory),
            Self::Stop {
                savepoint_directory,
                ..
            } => savepoint_directory
                .as_deref()
                .map_or(Ok(()), check_directory),
            Self::Rescale { parallelism: 0 } => refuse("the parallelism must be at least 1"),
            Self::Rescale { .. } => Ok(()),
            Self::Interval {
                interval_ms: Some(0),
            } => refuse("the interval must be at least 1 ms; `null` means no periodic checkpoints"),
            Self::Interval { .. } => Ok(()),
            Self::Dispose { savepoint } => check_directory(savepoint),
        }
    }

    /// What it is called.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Savepoint { .. } => "savepoint",
            Self::Stop { .. } => "stop",
            Self::Cancel => "cancel",
            Self::Rescale { .. } => "rescale",
            Self::Interval { .. } => "interval",
            Self::Dispose { .. } => "savepoint-disposal",
        }
    }
}

/// A directory means the same to the client and to the host, which have other working directories.
fn check_directory(directory: &str) -> Result<(), Failure> {
    let schemes = ["file://", "s3://", "az://", "gs://", "hdfs://"];
    let is_url = schemes.iter().any(|scheme| directory.starts_with(scheme));
    // What reads a URL drops such characters, and so would open another directory than the one that was checked.
    let is_plain = !directory.contains(char::is_control) && directory.trim() == directory;
    let fits = directory.len() <= DIRECTORY_BYTES_MAX && is_plain;
    if fits && (is_url || Path::new(directory).is_absolute()) {
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "the directory `{}` is neither an absolute path nor a file://, s3://, az://, gs:// or hdfs:// URL of at most {DIRECTORY_BYTES_MAX} bytes, without control characters and blanks at its ends",
        operator::text::name(directory)
    )))
}

/// A process that runs jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostStatus {
    /// Highwater's version.
    pub version: String,
    /// The process.
    pub process: u32,
}

/// An operation, and how far it is.
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
    /// Grows with every change of what follows; 0 at first.
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

impl OperationState {
    /// Whether it will not change any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        !matches!(self, Self::InProgress { .. })
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
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

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
        }
    }

    /// It with what may mend it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }
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
    /// The job ended first, or its host is about to.
    Ended,
    /// The host has too much to do: later it may do it.
    Busy,
    /// The client is another user's.
    Forbidden,
    /// Only a client says this: the host ended or did not answer, so what became of the request is unknown.
    Lost,
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

impl JobState {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Cancelled => "cancelled",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
        }
    }

    /// Whether it will not change any more in this process.
    #[must_use]
    pub fn has_ended(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Restarting | Self::Stopping => false,
            Self::Finished | Self::Stopped | Self::Cancelled | Self::Suspended | Self::Failed => {
                true
            }
        }
    }
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
    /// What sources and operators that go on after bad records could not process.
    #[serde(default)]
    pub bad_records: Vec<BadRecords>,
}

/// A job file that the process does not run as it stands. If it was changed, its job goes on as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedFile {
    /// The file.
    pub file: String,
    /// Why, in words.
    pub error: String,
}

/// What an operator could not process, since the host started the job. What was done again after a restart counts
/// again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BadRecords {
    /// Its id.
    pub id: String,
    /// Records and timers that were left out.
    pub left_out: u64,
    /// Batches that failed and whose records succeeded in parts.
    pub recovered_batches: u64,
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
