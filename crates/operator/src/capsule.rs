//! Capsules: a record or timer that an operator could not process, with all that it takes to try it again.
//!
//! A capsule is one JSON document of bounded size. It is what a sink of dead letters gets, and what
//! `host replay` reads. Bytes stand in it as text where they are UTF-8, and as `{"base64": "…"}` otherwise.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use dataflow::Cells;
use dataflow::batch::NO_TIMESTAMP;
use dataflow::state::{Resolved, StateError, StateKind, TimeDomain};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::instance::OperatorInstance;
use crate::isolation::{BadRecord, BadTimer};
use crate::operator::{Failure, FailureKind};
use crate::source::Unreadable;

/// The version of the document that this host writes.
pub const VERSION: u32 = 1;
/// The most bytes of a key in a capsule.
pub const KEY_MAX: usize = 64 << 10;
/// The most bytes of a value.
pub const VALUE_MAX: usize = 1 << 20;
/// The most bytes of all states of a key, fields and values together.
pub const STATES_MAX: usize = 1 << 20;
/// The most entries of a state.
const ENTRIES_MAX: u32 = 4096;
/// The most bytes of a message.
const MESSAGE_MAX: usize = 8 << 10;
/// The most bytes of a backtrace.
const BACKTRACE_MAX: usize = 16 << 10;

/// A record, timer or line that is to blame, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Capsule {
    /// Version of the document: [`VERSION`].
    pub capsule: u32,
    /// What is to blame.
    pub kind: Kind,
    /// The job's name.
    pub job: String,
    /// Where its job file is, absolute.
    pub job_file: String,
    /// The operator or source.
    pub operator: String,
    /// Its subtask.
    pub subtask: u32,
    /// The component's digest, `sha256:…`. Of an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// What failed.
    pub error: Error,
    /// Where it was, as messages give it.
    pub position: Position,
    /// The record's key, or the timer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Bytes>,
    /// The record's value, or the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Bytes>,
    /// The record's event time, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// The timer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer: Option<Timer>,
    /// The operator's watermark, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark: Option<i64>,
    /// What the states held for the key before the call; those that held nothing are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<State>,
    /// What is not there as a whole: `key`, `value`, `states`, `error`, `backtrace`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub truncated: Vec<String>,
}

/// What a [`Capsule`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A record that an operator could not process.
    Record,
    /// A timer that could not fire.
    Timer,
    /// A line that a source could not read as a record.
    Line,
}

/// Why it is in a capsule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Error {
    /// `trap`, `returned`, `time-limit`, `memory-limit`, `protocol`, or `unreadable` for a line.
    pub kind: String,
    /// What happened.
    pub message: String,
    /// The guest's backtrace, innermost frame first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
}

/// Where a record came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Position {
    /// Where a source has read it, in words, where it came from there without a way between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The operator's input that it arrived on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<u32>,
    /// What feeds that input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstream: Vec<String>,
}

/// A timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Timer {
    /// `event-time` or `processing-time`.
    pub domain: String,
    /// When it was to fire, in milliseconds since 1970.
    pub time: i64,
    /// Its tag.
    pub tag: u32,
}

/// What a state held for a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct State {
    /// The state's name.
    pub name: String,
    /// Its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Bytes>,
    /// Fields and values of its map, in the order of the fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<(Bytes, Bytes)>,
    /// The elements of its list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elements: Vec<Bytes>,
    /// Times and tags of its timers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timers: Vec<(i64, u32)>,
}

impl State {
    fn is_empty(&self) -> bool {
        self.value.is_none()
            && self.entries.is_empty()
            && self.elements.is_empty()
            && self.timers.is_empty()
    }
}

/// Bytes: in JSON a text if they are UTF-8, else `{"base64": "…"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Base64 { base64: String },
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Written::Base64 {
                base64: BASE64_STANDARD.encode(&self.0),
            }
            .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = match Written::deserialize(deserializer)? {
            Written::Text(text) => text.into_bytes(),
            Written::Base64 { base64 } => BASE64_STANDARD
                .decode(base64)
                .map_err(serde::de::Error::custom)?,
        };
        Ok(Self(bytes))
    }
}

/// What a capsule says of the operator whose record it holds.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The job's name.
    pub job: String,
    /// Where its job file is, absolute.
    pub job_file: String,
    /// The operator's id.
    pub operator: String,
    /// The component's digest.
    pub component: Option<String>,
}

impl Capsule {
    fn new(subject: &Subject, subtask: u32, kind: Kind) -> Self {
        Self {
            capsule: VERSION,
            kind,
            job: subject.job.clone(),
            job_file: subject.job_file.clone(),
            operator: subject.operator.clone(),
            subtask,
            component: subject.component.clone(),
            error: Error {
                kind: String::new(),
                message: String::new(),
                backtrace: None,
            },
            position: Position::default(),
            key: None,
            value: None,
            timestamp: None,
            timer: None,
            watermark: None,
            states: Vec::new(),
            truncated: Vec::new(),
        }
    }

    /// For a record; `instance` is as it was before the call.
    ///
    /// # Errors
    /// The states of its key cannot be read.
    pub fn of_record(
        subject: &Subject,
        subtask: u32,
        bad: &BadRecord,
        position: Position,
        instance: &mut OperatorInstance,
    ) -> Result<Self, StateError> {
        let mut capsule = Self::new(subject, subtask, Kind::Record);
        capsule.position = position;
        capsule.value = Some(capsule.shortened(bad.record.values.get(0), VALUE_MAX, "value"));
        let timestamp = bad.record.timestamps.first().copied();
        capsule.timestamp = timestamp.filter(|timestamp| *timestamp != NO_TIMESTAMP);
        let key = bad.record.is_keyed().then(|| bad.record.keys.get(0));
        capsule.fill(&bad.failure, key, instance)?;
        Ok(capsule)
    }

    /// For a piece of a source's input.
    #[must_use]
    pub fn of_line(subject: &Subject, subtask: u32, line: &Unreadable) -> Self {
        let mut capsule = Self::new(subject, subtask, Kind::Line);
        capsule.position.origin = Some(line.origin.clone());
        capsule.error = Error {
            kind: "unreadable".to_owned(),
            message: capsule.shortened_text(&line.message, MESSAGE_MAX, "error"),
            backtrace: None,
        };
        capsule.note_unless(line.is_whole && line.bytes.len() <= VALUE_MAX, "value");
        let bytes = &line.bytes[..line.bytes.len().min(VALUE_MAX)];
        capsule.value = Some(Bytes(bytes.to_vec()));
        capsule
    }

    /// For a timer; `instance` is as it was before the call, but for the timer.
    ///
    /// # Errors
    /// The states of its key cannot be read.
    pub fn of_timer(
        subject: &Subject,
        subtask: u32,
        bad: &BadTimer,
        instance: &mut OperatorInstance,
    ) -> Result<Self, StateError> {
        let mut capsule = Self::new(subject, subtask, Kind::Timer);
        let (times, tags) = (&bad.timer.times, &bad.timer.tags);
        capsule.timer = times.first().zip(tags.first()).map(|(time, tag)| Timer {
            domain: bad.timer.domain.to_string(),
            time: *time,
            tag: *tag,
        });
        capsule.fill(&bad.failure, Some(bad.timer.keys.keys.get(0)), instance)?;
        Ok(capsule)
    }

    fn fill(
        &mut self,
        failure: &Failure,
        key: Option<&[u8]>,
        instance: &mut OperatorInstance,
    ) -> Result<(), StateError> {
        self.error = Error {
            kind: kind_of(failure.kind).to_owned(),
            message: self.shortened_text(&failure.message, MESSAGE_MAX, "error"),
            backtrace: failure
                .backtrace
                .as_deref()
                .map(|text| self.shortened_text(text, BACKTRACE_MAX, "backtrace")),
        };
        let watermark = instance.watermark();
        self.watermark = Some(watermark).filter(|watermark| *watermark != i64::MIN);
        if let Some(key) = key {
            self.key = Some(self.shortened(key, KEY_MAX, "key"));
            let (states, is_whole) = states_of(instance, key)?;
            self.states = states;
            self.note_unless(is_whole, "states");
        }
        Ok(())
    }

    /// Gives an instance the states of the key, and the timer: as they were before the call. `now` is the wall-clock
    /// time.
    ///
    /// # Errors
    /// The operator has no such states, or of another kind.
    pub fn restore(
        &self,
        instance: &mut OperatorInstance,
        now: i64,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (Some(key), Some(keyed)) = (&self.key, instance.state()) else {
            return match self.states.is_empty() && self.timer.is_none() {
                true => Ok(()),
                false => Err("the operator keeps no state per key".into()),
            };
        };
        keyed.set_now(now);
        let keys: Cells = std::iter::once(key.0.as_slice()).collect();
        let mut resolved = Resolved::default();
        keyed.resolve(keys.as_ref(), &[dataflow::key::hash(&key.0)], &mut resolved)?;
        for state in &self.states {
            let mut declared = (0..).zip(keyed.states());
            let number = declared.find(|(_, descriptor)| descriptor.name == state.name);
            let number = number.map(|(number, _)| number);
            let number = number.ok_or_else(|| format!("there is no state `{}`", state.name))?;
            if let Some(value) = &state.value {
                keyed.put(number, &key.0, &value.0)?;
            }
            if !state.entries.is_empty() {
                let fields: Cells = state
                    .entries
                    .iter()
                    .map(|(field, _)| field.0.as_slice())
                    .collect();
                let values: Cells = state
                    .entries
                    .iter()
                    .map(|(_, value)| value.0.as_slice())
                    .collect();
                let numbers = vec![0; state.entries.len()];
                keyed.map_store(number, &numbers, fields.as_ref(), values.as_ref())?;
            }
            if !state.elements.is_empty() {
                let elements: Cells = state.elements.iter().map(|it| it.0.as_slice()).collect();
                let numbers = vec![0; state.elements.len()];
                keyed.list_append(number, &numbers, elements.as_ref())?;
            }
            let mut domains = TimeDomain::ALL.into_iter();
            if let Some(domain) = domains.find(|it| it.state_name() == state.name) {
                for (time, tag) in &state.timers {
                    keyed.register_timers(domain, &[0], &[*time], &[*tag])?;
                }
            }
        }
        if let Some(timer) = &self.timer {
            let mut domains = TimeDomain::ALL.into_iter();
            let domain = domains.find(|it| it.to_string() == timer.domain);
            let domain =
                domain.ok_or_else(|| format!("`{}` is no domain of time", timer.domain))?;
            keyed.register_timers(domain, &[0], &[timer.time], &[timer.tag])?;
        }
        keyed.commit();
        Ok(())
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    fn note_unless(&mut self, is_whole: bool, part: &str) {
        if !is_whole {
            self.truncated.push(part.to_owned());
        }
    }

    fn shortened(&mut self, bytes: &[u8], max: usize, part: &str) -> Bytes {
        self.note_unless(bytes.len() <= max, part);
        Bytes(bytes[..bytes.len().min(max)].to_vec())
    }

    fn shortened_text(&mut self, text: &str, max: usize, part: &str) -> String {
        self.note_unless(text.len() <= max, part);
        text[..text.floor_char_boundary(max)].to_owned()
    }
}

/// What a failure is called in a capsule.
fn kind_of(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Trap => "trap",
        FailureKind::Returned => "returned",
        FailureKind::TimeLimit => "time-limit",
        FailureKind::MemoryLimit => "memory-limit",
        FailureKind::StateLimit => "state-limit",
        FailureKind::Disk => "disk",
        FailureKind::Protocol => "protocol",
        FailureKind::Config => "config",
    }
}

/// What the states of an operator hold for a key, and whether that is all.
fn states_of(
    instance: &mut OperatorInstance,
    key: &[u8],
) -> Result<(Vec<State>, bool), StateError> {
    let Some(keyed) = instance.state() else {
        return Ok((Vec::new(), true));
    };
    let keys: Cells = std::iter::once(key).collect();
    let mut resolved = Resolved::default();
    let hashes = [dataflow::key::hash(key)];
    keyed.resolve(keys.as_ref(), &hashes, &mut resolved)?;
    let (mut states, mut left, mut is_whole) = (Vec::new(), STATES_MAX, true);
    let declared = keyed.states().to_vec();
    for (number, descriptor) in (0..).zip(&declared) {
        let mut state = State {
            name: descriptor.name.clone(),
            value: None,
            entries: Vec::new(),
            elements: Vec::new(),
            timers: Vec::new(),
        };
        let (mut fields, mut values) = (Cells::new(), Cells::new());
        match descriptor.kind {
            StateKind::Value => {
                let mut absent = Vec::new();
                keyed.load(number, Some(&[0]), &mut values, &mut absent)?;
                if absent.is_empty() {
                    state.value = Some(Bytes(values.get(0).to_vec()));
                }
            }
            StateKind::Map => {
                let more = keyed.map_scan(
                    number,
                    0,
                    &[],
                    false,
                    None,
                    ENTRIES_MAX,
                    &mut fields,
                    &mut values,
                )?;
                is_whole &= !more;
                let entries = fields.iter().zip(values.iter());
                let entries = entries.map(|(field, value)| (field.to_vec(), value.to_vec()));
                state.entries = entries
                    .map(|(field, value)| (Bytes(field), Bytes(value)))
                    .collect();
            }
            StateKind::List => {
                keyed.list_load(number, 0, &mut values)?;
                is_whole &= values.len() <= ENTRIES_MAX as usize;
                let elements = values.iter().take(ENTRIES_MAX as usize);
                state.elements = elements.map(|element| Bytes(element.to_vec())).collect();
            }
            StateKind::Timers => {
                let domains = TimeDomain::ALL.into_iter();
                let domain = domains.filter(|domain| domain.state_name() == descriptor.name);
                for domain in domain {
                    state.timers = keyed.timers_of(domain, 0)?;
                }
                is_whole &= state.timers.len() <= ENTRIES_MAX as usize;
                state.timers.truncate(ENTRIES_MAX as usize);
            }
        }
        if state.is_empty() {
            continue;
        }
        let bytes = fields.byte_len() + values.byte_len();
        match left.checked_sub(bytes) {
            Some(rest) => {
                left = rest;
                states.push(state);
            }
            None => is_whole = false,
        }
    }
    // Reading may have extended the life of what was read.
    keyed.rollback();
    Ok((states, is_whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_where_they_are_utf8_and_come_back_as_they_were() {
        for (bytes, json) in [
            (b"a \"b\"".as_slice(), r#""a \"b\"""#),
            (b"", r#""""#),
            (b"\xff\x00", r#"{"base64":"/wA="}"#),
        ] {
            let bytes = Bytes(bytes.to_vec());
            assert_eq!(serde_json::to_string(&bytes).unwrap(), json);
            assert_eq!(serde_json::from_str::<Bytes>(json).unwrap(), bytes);
        }
    }
}
