//! A running job in full, for who looks at it from outside: the REST API, the metrics and the web page say what
//! is here, each in its own words.
//!
//! Times are milliseconds since 1970 and durations milliseconds, unless a name says otherwise. What is counted
//! begins at 0 with each attempt of the job in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::api::JobStatus;

/// The id of something in the REST API, where ids are 32 hex digits: a hash of its own id, so that it stays the same
/// from host to host.
#[must_use]
pub fn rest_id(id: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(id.as_bytes()))
}

/// A job of the host, in full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobView {
    /// What `host status` says of it.
    #[serde(flatten)]
    pub status: JobStatus,
    /// Its id in the REST API: 32 hex digits.
    pub rest_id: String,
    /// When it reached the state that it is in.
    pub state_since: i64,
    /// Since when its sources read, if they do: also while it stops.
    pub running_since: Option<i64>,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// How many key groups it has.
    pub key_groups: u32,
    /// What shares a thread, producers before consumers.
    pub vertices: Vec<Vertex>,
    /// Its checkpoints.
    pub checkpoints: Checkpoints,
    /// The directory of the checkpoint or savepoint that it was started from.
    #[serde(default)]
    pub started_from: Option<String>,
    /// How far it is with reading the state that it goes on from, while it starts or restarts.
    #[serde(default)]
    pub restoring: Option<Restoring>,
    /// Its failures, the newest first; the oldest ones are dropped.
    pub failures: Vec<Arc<JobFailure>>,
    /// The keys of the job file that are set, with what they are set to; no secrets.
    pub config: BTreeMap<String, String>,
    /// What operators count of themselves: operator, metric, value. A histogram is four of them.
    pub operator_metrics: BTreeMap<String, BTreeMap<String, f64>>,
}

/// How far a job is with reading the state that it goes on from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Restoring {
    /// When it began, in milliseconds since 1970.
    pub began_at: i64,
    /// Bytes to read, as they are stored.
    pub total_bytes: u64,
    /// Bytes that have been read.
    pub read_bytes: u64,
}

/// Sources, operators and sinks that share threads: a chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Vertex {
    /// Its id in the REST API: 32 hex digits.
    pub id: String,
    /// The ids of its members, with arrows between them.
    pub name: String,
    /// Its members, in the order in which records pass them.
    pub members: Vec<Member>,
    /// Where its records come from.
    pub inputs: Vec<Input>,
    /// Its subtasks, one thread each.
    pub subtasks: Vec<Subtask>,
}

/// A source, an operator or a sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Member {
    /// Its id in the job file.
    pub id: String,
    /// `source`, `operator` or `sink`.
    pub kind: String,
    /// The ids of the nodes that it takes records from.
    pub inputs: Vec<String>,
}

/// An edge between two vertices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Input {
    /// The id of the vertex that it comes from.
    pub vertex: String,
    /// How records are dealt: `forward`, `hash`, `rebalance` or `broadcast`.
    pub partition: String,
}

/// A subtask: what it did since the attempt began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Subtask {
    /// Its number among those of its vertex, from 0.
    pub index: u32,
    /// How long it worked.
    pub busy_ms: u64,
    /// How long it had nothing to do.
    pub idle_ms: u64,
    /// How long those after it had no room for what it had.
    pub back_pressured_ms: u64,
    /// How far its event time is; `None`: unknown yet, or its end.
    pub watermark: Option<i64>,
    /// For each member of the vertex what it did.
    pub members: Vec<MemberWork>,
}

/// What a member did in a subtask.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemberWork {
    /// Records that it has taken; of a source those that it has read.
    pub records_in: u64,
    /// Records that it has handed on.
    pub records_out: u64,
    /// Bytes of its keyed state at the last checkpoint.
    pub state_bytes: u64,
    /// Keys of its keyed state at the last checkpoint.
    pub state_keys: u64,
    /// What the calls of its operator have cost; `None` of a source, a sink and before the first call.
    pub calls: Option<Calls>,
}

/// What the calls of an operator have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Calls {
    /// How many there were.
    pub count: u64,
    /// How long they took together, in microseconds: with what they have asked the host to do.
    pub us: u64,
    /// Bytes of memory that the operator holds now, as `limits.memory` counts them.
    pub memory_bytes: u64,
}

/// What a checkpoint holds of a keyed state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StateSize {
    /// The operator's id.
    pub operator: String,
    /// The state's name.
    pub state: String,
    /// Entries: keys, fields of maps, elements of lists, timers.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// What became of a job's checkpoints in this process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Checkpoints {
    /// How many were completed, savepoints too.
    pub completed: u64,
    /// How many were given up.
    pub failed: u64,
    /// How many of those that were given up had which kind of failure.
    pub failures_by_kind: BTreeMap<String, u64>,
    /// Whether the end of the job has deleted all checkpoints. Savepoints stay.
    #[serde(default)]
    pub are_discarded: bool,
    /// How many are in progress.
    pub in_progress: u64,
    /// The one that the job went on from last.
    pub restored: Option<Restored>,
    /// How often it went on from one.
    pub restores: u64,
    /// What the newest checkpoint or savepoint holds of each keyed state.
    pub states: Vec<StateSize>,
    /// How many deletions of what is not needed any more wait for the storage.
    pub deletions_waiting: u64,
    /// The newest that was completed, savepoint or not.
    pub newest: Option<Arc<Checkpoint>>,
    /// The newest that was completed and is no savepoint.
    pub newest_checkpoint: Option<Arc<Checkpoint>>,
    /// The newest savepoint that was completed.
    pub newest_savepoint: Option<Arc<Checkpoint>>,
    /// The newest that was given up.
    pub newest_failure: Option<Arc<Checkpoint>>,
    /// All of them, the newest first; the oldest ones are dropped.
    pub history: Vec<Arc<Checkpoint>>,
}

/// A checkpoint that a job went on from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Restored {
    /// Its number.
    pub id: u64,
    /// When.
    pub at: i64,
    /// How long it took until the sources read, in milliseconds.
    pub took_ms: u64,
    /// It is a savepoint.
    pub savepoint: bool,
    /// Where it is; `None` in memory.
    pub path: Option<String>,
}

/// A checkpoint or savepoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Checkpoint {
    /// Its number.
    pub id: u64,
    /// It is a savepoint.
    pub savepoint: bool,
    /// When it was triggered.
    pub triggered_at: i64,
    /// When it was complete or given up.
    pub ended_at: i64,
    /// What became of it.
    pub outcome: Outcome,
}

impl Checkpoint {
    /// The same, but for what each subtask did: there may be many.
    pub(crate) fn brief(&self) -> Self {
        let outcome = match &self.outcome {
            Outcome::Completed {
                bytes,
                full_bytes,
                path,
                phases,
                subtasks: _,
            } => Outcome::Completed {
                bytes: *bytes,
                full_bytes: *full_bytes,
                path: path.clone(),
                phases: phases.clone(),
                subtasks: BTreeMap::new(),
            },
            failed @ Outcome::Failed { .. } => failed.clone(),
        };
        Self { outcome, ..*self }
    }
}

impl JobView {
    /// The same, but for what each subtask did for each checkpoint.
    pub(crate) fn brief(mut self) -> Self {
        let brief = |checkpoint: &mut Arc<Checkpoint>| *checkpoint = Arc::new(checkpoint.brief());
        let checkpoints = &mut self.checkpoints;
        checkpoints.history.iter_mut().for_each(brief);
        let newest = [
            &mut checkpoints.newest,
            &mut checkpoints.newest_checkpoint,
            &mut checkpoints.newest_savepoint,
            &mut checkpoints.newest_failure,
        ];
        newest.into_iter().flatten().for_each(brief);
        self
    }
}

/// What became of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "outcome",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
pub enum Outcome {
    /// It is complete.
    Completed {
        /// Bytes written for it.
        bytes: u64,
        /// Bytes of keys and values of all keyed state at it, whatever of that was written before.
        full_bytes: u64,
        /// Its directory; `None` in memory.
        path: Option<String>,
        /// Where the time went.
        phases: Phases,
        /// What each subtask did, by the id of its vertex. The list of a job's checkpoints leaves it out.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        subtasks: BTreeMap<String, Vec<CheckpointSubtask>>,
    },
    /// It was given up.
    Failed {
        /// What kind of thing happened, for programs.
        kind: String,
        /// Why, in words.
        reason: String,
        /// Who kept it waiting, in words, if its time was over.
        slowest: Option<String>,
    },
}

/// The longest time that any subtask took for each phase of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Phases {
    /// From the trigger to the first barrier at a subtask.
    pub start_delay: Longest,
    /// From the first barrier at a subtask to the last.
    pub alignment: Longest,
    /// The pause of a subtask while its state was sealed and its output prepared.
    pub snapshot: Longest,
    /// From there until it was written, in the background.
    pub upload: Longest,
    /// From the last acknowledgement until the checkpoint was complete.
    pub metadata_us: u64,
}

/// A time, and who took it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Longest {
    /// Microseconds.
    pub us: u64,
    /// The source, operator or sink (the first of those that share a thread).
    pub operator: String,
    /// Its subtask.
    pub subtask: u32,
}

/// What a subtask did for a checkpoint. Times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckpointSubtask {
    /// Its number, from 0.
    pub index: u32,
    /// When it had acknowledged.
    pub acknowledged_at: i64,
    /// From the trigger to its first barrier.
    pub start_delay_us: u64,
    /// From there to its last.
    pub alignment_us: u64,
    /// Its pause.
    pub snapshot_us: u64,
    /// From there until its snapshot was written.
    pub upload_us: u64,
    /// Bytes of its state that were written for it.
    pub bytes: u64,
    /// Bytes of all of its state in it.
    pub full_bytes: u64,
}

/// A failure of a job, or the end of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobFailure {
    /// When.
    pub at: i64,
    /// What failed, in words; a guest's backtrace is in it.
    pub message: String,
    /// The checkpoint that the job went on from; `None`: from the start, or not at all.
    pub restarted_from: Option<u64>,
    /// After how long it was restarted; `None`: it was not.
    pub restart_delay_ms: Option<u64>,
}
