//! What `_metadata` records.
//!
//! The types here are the file format (see `docs/checkpoint-format.md`): a field may be added, for
//! readers of the same format version ignore fields that they do not know, but it must be one that
//! can be ignored. What cannot, raises [`FORMAT_VERSION`].

mod check;
mod codec;
mod void;

use std::collections::BTreeMap;

use dataflow::operator_state::Scope;
use dataflow::state::{self, StateDescriptor, StateKind};
use dataflow::watermark;
use serde::{Deserialize, Deserializer, Serialize};

pub use codec::{FORMAT_VERSION, MAGIC, METADATA_BYTES_MAX};
pub(crate) use codec::{begins_like_metadata, decode, encode};
pub(crate) use void::{is_void, void};

/// The parsed content of `_metadata`. Times are milliseconds since the epoch, UTC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Metadata {
    /// Version of the program that wrote it.
    pub writer: String,
    /// The job's name.
    pub job_name: String,
    /// The job's id.
    pub job_id: String,
    /// The token of the run that took it; `None` if a version before runs wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Fencing number of the job directory; 0 if nobody owned it.
    pub generation: u64,
    /// Who owned it: the token of the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Number of the checkpoint.
    pub id: u64,
    /// The checkpoint completed before it, if any.
    pub previous: Option<u64>,
    /// What it is and who owns it.
    pub kind: Kind,
    /// Whether all input was ended before it: every window and timer has fired, and who goes on from it
    /// goes on after the end.
    #[serde(
        default,
        deserialize_with = "false_if_null",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub drained: bool,
    /// When it was triggered.
    pub triggered_at: i64,
    /// How long it took from trigger to completion, in milliseconds.
    pub duration_ms: u64,
    /// Number of key groups.
    pub key_groups: u32,
    /// Name of the hash that deals keys to key groups.
    pub key_hash: String,
    /// The operators (and sources and sinks), in topological order.
    pub operators: Vec<Operator>,
}

/// A field that is left out when it is false may be null as well, as all that may be missing.
fn false_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(false))
}

/// What a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Taken and owned by the runtime.
    Checkpoint,
    /// Taken on demand, owned by the user.
    Savepoint,
}

/// One source, operator or sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Operator {
    /// Its id in the job file.
    pub id: String,
    /// `source`, `operator` or `sink`.
    pub role: Role,
    /// How many subtasks it had.
    pub parallelism: u32,
    /// For example the component's digest and world version.
    pub labels: BTreeMap<String, String>,
    /// Its declared keyed states.
    pub states: Vec<State>,
    /// Its declared operator states.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operator_states: Vec<State>,
    /// What each subtask had, in subtask order.
    pub subtasks: Vec<Subtask>,
}

/// What an [`Operator`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A source.
    Source,
    /// An operator.
    Operator,
    /// A sink.
    Sink,
}

/// A declared state and how much of it there is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct State {
    /// Its name.
    pub name: String,
    /// `value`, `map`, `list` or `timers`; of an operator state `operator-split`, `operator-union` or
    /// `broadcast`.
    pub kind: String,
    /// Names the encoding of its values.
    pub schema: String,
    /// Version of that encoding.
    pub schema_version: u32,
    /// Time to live of its entries, in milliseconds. With one each value begins with its expiry.
    pub ttl_ms: Option<u64>,
    /// With it: from when on they live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_refresh: Option<TtlRefresh>,
    /// With it: by which clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_time: Option<TtlTime>,
    /// Entries or elements in all subtasks.
    pub entries: u64,
    /// Bytes of their keys and values; each key counts once.
    pub bytes: u64,
}

/// From when on an entry lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TtlRefresh {
    /// From its last write.
    Write,
    /// From its last write or read.
    Read,
}

/// The clock by which entries expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TtlTime {
    /// That of the machine.
    Processing,
    /// The operator's watermark.
    Event,
}

impl State {
    /// The time to live of its entries.
    #[must_use]
    pub fn ttl(&self) -> Option<state::Ttl> {
        Some(state::Ttl {
            millis: self.ttl_ms?,
            refresh: match self.ttl_refresh? {
                TtlRefresh::Write => state::Refresh::Write,
                TtlRefresh::Read => state::Refresh::Read,
            },
            time: match self.ttl_time? {
                TtlTime::Processing => state::TtlTime::Processing,
                TtlTime::Event => state::TtlTime::Event,
            },
        })
    }

    /// One that is declared so, and holds nothing.
    #[must_use]
    pub fn declared(state: &StateDescriptor) -> Self {
        let ttl = state.ttl;
        Self {
            name: state.name.clone(),
            kind: state.kind.name().to_owned(),
            schema: state.schema.clone(),
            schema_version: state.schema_version,
            ttl_ms: ttl.map(|ttl| ttl.millis),
            ttl_refresh: ttl.map(|ttl| match ttl.refresh {
                state::Refresh::Write => TtlRefresh::Write,
                state::Refresh::Read => TtlRefresh::Read,
            }),
            ttl_time: ttl.map(|ttl| match ttl.time {
                state::TtlTime::Processing => TtlTime::Processing,
                state::TtlTime::Event => TtlTime::Event,
            }),
            entries: 0,
            bytes: 0,
        }
    }
}

impl Metadata {
    /// When it was complete.
    #[must_use]
    pub fn completed_at(&self) -> i64 {
        self.triggered_at.saturating_add_unsigned(self.duration_ms)
    }
}

/// What one subtask had.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Subtask {
    /// Segments of keyed state to be read in order: a full one, then deltas. Deltas alone stand on
    /// nothing (the full one was empty, and is not stored). Empty: no state.
    pub segments: Vec<Segment>,
    /// All of its operator state, which is written in full by every checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_state: Option<Segment>,
    /// Positions of a source, prepared output of a sink.
    pub parts: Vec<serde_json::Value>,
    /// Inputs that had ended.
    pub ended_inputs: Vec<u32>,
    /// Highest watermark seen.
    pub watermark: Option<i64>,
    /// The highest one before that of the end of all input, where `watermark` is that: entries of states expire by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time: Option<i64>,
}

impl Subtask {
    /// The time by which entries of states expire whose time is event time; `None` if there is none.
    #[must_use]
    pub fn event_time(&self) -> Option<i64> {
        match self.watermark {
            Some(watermark::END) => self.event_time,
            other => other,
        }
    }

    /// All of its state that is stored somewhere, keyed and operator state.
    pub fn stored(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().chain(&self.operator_state)
    }
}

/// A range of bytes in a file (or in `_metadata` itself) that holds a segment of keyed state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Segment {
    /// Path relative to the directory that holds `_metadata`; `None` if inline.
    pub file: Option<String>,
    /// First byte, in the file or among the inline bytes.
    pub offset: u64,
    /// Number of bytes, as they are stored.
    pub length: u64,
    /// CRC-32C of these bytes.
    pub crc32c: u32,
    /// How they are compressed; `None`: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compressed: Option<Compressed>,
    /// The checkpoint that wrote it.
    pub written_by: u64,
    /// Whether it only has what changed since the segment before it.
    pub delta: bool,
}

/// How the bytes of a [`Segment`] are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Compressed {
    /// By what.
    pub codec: Codec,
    /// Number of bytes that they decompress to.
    pub raw_length: u64,
}

/// What compresses segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// The scope of operator state that metadata calls `name`.
pub(crate) fn scope_of(name: &str) -> Option<Scope> {
    Scope::ALL.into_iter().find(|scope| scope.name() == name)
}

/// The kind of state that metadata calls `name`.
pub(crate) fn kind_of(name: &str) -> Option<StateKind> {
    StateKind::ALL.into_iter().find(|kind| kind.name() == name)
}
