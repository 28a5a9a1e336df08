//! What a job consists of: its vertices and their subtasks.

use serde_json::{Map, Value, json};

use super::summary::Numbers;
use super::{between, check_id, end, int, long, metrics};
use crate::api::JobState;
use crate::view::{JobView, Member, Subtask, Vertex};

/// The states of a subtask in Flink.
const STATES: [&str; 10] = [
    "CREATED",
    "SCHEDULED",
    "DEPLOYING",
    "RUNNING",
    "FINISHED",
    "CANCELING",
    "CANCELED",
    "FAILED",
    "RECONCILING",
    "INITIALIZING",
];

/// The states in which Flink says how long a subtask was in them.
const TIMED_STATES: [&str; 5] = [
    "CREATED",
    "SCHEDULED",
    "DEPLOYING",
    "INITIALIZING",
    "RUNNING",
];

/// The vertex with this id.
pub(super) fn find<'a>(view: &'a JobView, id: &str) -> Result<&'a Vertex, (u16, String)> {
    check_id("vertex", id)?;
    let found = view
        .vertices
        .iter()
        .find(|vertex| vertex.id.eq_ignore_ascii_case(id));
    found.ok_or_else(|| (404, format!("JobVertex {id} not found")))
}

/// How many subtasks a job has.
pub(super) fn subtask_count(view: &JobView) -> usize {
    let counts = view.vertices.iter().map(|vertex| vertex.subtasks.len());
    counts.fold(0, usize::saturating_add)
}

/// Flink's word for the state of every subtask of a job. A job's subtasks live and end together, so its state says
/// theirs; which of them failed is in its exceptions.
fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Starting => "INITIALIZING",
        JobState::Running | JobState::Stopping => "RUNNING",
        JobState::Finished | JobState::Stopped => "FINISHED",
        JobState::Restarting | JobState::Cancelled | JobState::Suspended => "CANCELED",
        JobState::Failed => "FAILED",
    }
}

/// How many of `count` subtasks are in each state of Flink's.
pub(super) fn per_state(
    state: JobState,
    count: i32,
    name: fn(&str) -> String,
) -> Map<String, Value> {
    let now = state_word(state);
    let states = STATES.iter();
    states
        .map(|word| (name(word), if *word == now { count } else { 0 }.into()))
        .collect()
}

/// How many vertices are in each state.
pub(super) fn status_counts(view: &JobView) -> Value {
    per_state(view.status.state, int(view.vertices.len()), str::to_owned).into()
}

/// A span of time in which the subtasks of a job were there.
struct Span {
    start: i64,
    end: Option<i64>,
}

impl Span {
    /// Of the job's newest attempt, as far as it is known.
    fn of(view: &JobView) -> Self {
        let start = view.running_since.unwrap_or(view.status.started_at);
        let end = match view.status.state {
            JobState::Restarting => Some(view.state_since),
            _ => end(view),
        };
        Self { start, end }
    }

    fn duration(&self, now_ms: i64) -> i64 {
        between(self.start, self.end.unwrap_or(now_ms))
    }
}

/// A vertex in `GET /jobs/:jobid`.
pub(super) fn overview(view: &JobView, vertex: &Vertex, now_ms: i64) -> Value {
    let span = Span::of(view);
    let parallelism = int(vertex.subtasks.len());
    json!({
        "id": vertex.id,
        "slotSharingGroupId": view.rest_id,
        "name": vertex.name,
        "maxParallelism": int(view.key_groups as usize),
        "parallelism": parallelism,
        "status": state_word(view.status.state),
        "start-time": span.start,
        "end-time": span.end.unwrap_or(-1),
        "duration": span.duration(now_ms),
        "tasks": per_state(view.status.state, parallelism, str::to_owned),
        "metrics": io(view, vertex, &vertex.subtasks),
    })
}

/// `GET /jobs/:jobid/vertices/:vertexid`.
pub(super) fn details(view: &JobView, vertex: &Vertex, now_ms: i64) -> Value {
    let subtasks = vertex
        .subtasks
        .iter()
        .map(|subtask| self::subtask(view, vertex, subtask, now_ms));
    json!({
        "id": vertex.id,
        "name": vertex.name,
        "parallelism": int(vertex.subtasks.len()),
        "maxParallelism": int(view.key_groups as usize),
        "now": now_ms,
        "subtasks": subtasks.collect::<Vec<_>>(),
        "aggregated": aggregated(view, vertex, now_ms),
    })
}

fn subtask(view: &JobView, vertex: &Vertex, subtask: &Subtask, now_ms: i64) -> Value {
    let span = Span::of(view);
    let durations = TIMED_STATES.map(|word| (word.to_owned(), time_in(view, word, now_ms).into()));
    json!({
        "subtask": int(subtask.index as usize),
        "status": state_word(view.status.state),
        "attempt": int(view.status.restarts as usize),
        "endpoint": "localhost",
        "start-time": span.start,
        "start_time": span.start,
        "end-time": span.end.unwrap_or(-1),
        "duration": span.duration(now_ms),
        "metrics": io(view, vertex, std::slice::from_ref(subtask)),
        "taskmanager-id": task_manager(view),
        "status-duration": Map::from_iter(durations),
    })
}

/// What Flink would call the process.
fn task_manager(view: &JobView) -> String {
    format!("process-{}", view.status.process)
}

/// How long a subtask has been in a state. Only of the one that it is in, or that it ended from, is that known.
fn time_in(view: &JobView, word: &str, now_ms: i64) -> i64 {
    let was_running = view.status.state != JobState::Starting;
    let known = if was_running {
        "RUNNING"
    } else {
        "INITIALIZING"
    };
    match word == known {
        true => Span::of(view).duration(now_ms),
        false => 0,
    }
}

/// What subtasks have done.
fn io(view: &JobView, vertex: &Vertex, subtasks: &[Subtask]) -> Value {
    let sum = |number: &dyn Fn(&Subtask) -> u64| Numbers::new(subtasks.iter().map(number)).sum();
    json!({
        "read-bytes": 0,
        "read-bytes-complete": false,
        "write-bytes": 0,
        "write-bytes-complete": false,
        "read-records": long(sum(&|subtask| records_in(vertex, subtask))),
        "read-records-complete": true,
        "write-records": long(sum(&|subtask| records_out(view, vertex, subtask))),
        "write-records-complete": true,
        "accumulated-backpressured-time": long(sum(&|subtask| subtask.back_pressured_ms)),
        "accumulated-idle-time": long(sum(&|subtask| subtask.idle_ms)),
        "accumulated-busy-time": long(sum(&|subtask| subtask.busy_ms)) as f64,
    })
}

/// How what subtasks have done is spread over them.
fn aggregated(view: &JobView, vertex: &Vertex, now_ms: i64) -> Value {
    let spread = |number: &dyn Fn(&Subtask) -> u64| {
        Numbers::new(vertex.subtasks.iter().map(number)).aggregate()
    };
    let durations = TIMED_STATES.map(|word| {
        let time = time_in(view, word, now_ms).unsigned_abs();
        (word.to_owned(), spread(&|_| time))
    });
    json!({
        "metrics": {
            "read-bytes": spread(&|_| 0),
            "write-bytes": spread(&|_| 0),
            "read-records": spread(&|subtask| records_in(vertex, subtask)),
            "write-records": spread(&|subtask| records_out(view, vertex, subtask)),
            "accumulated-backpressured-time": spread(&|subtask| subtask.back_pressured_ms),
            "accumulated-idle-time": spread(&|subtask| subtask.idle_ms),
            "accumulated-busy-time": spread(&|subtask| subtask.busy_ms),
        },
        "status-duration": Map::from_iter(durations),
    })
}

/// Records that a subtask has taken from other vertices, and those that its sources have read.
pub(super) fn records_in(vertex: &Vertex, subtask: &Subtask) -> u64 {
    let is_member = |id: &String| vertex.members.iter().any(|member| member.id == *id);
    // A member that takes from inside and from outside counts as a whole: its inputs are not counted apart.
    let is_entry = |member: &Member| {
        member.inputs.is_empty() || member.inputs.iter().any(|input| !is_member(input))
    };
    let members = vertex.members.iter().zip(&subtask.members);
    let entries = members.filter(|(member, _)| is_entry(member));
    Numbers::new(entries.map(|(_, work)| work.records_in)).sum()
}

/// Records that a subtask has handed to other vertices.
pub(super) fn records_out(view: &JobView, vertex: &Vertex, subtask: &Subtask) -> u64 {
    let others = view.vertices.iter().filter(|other| other.id != vertex.id);
    let inputs = others
        .flat_map(|other| &other.members)
        .flat_map(|member| &member.inputs);
    let taken: std::collections::BTreeSet<&str> = inputs.map(String::as_str).collect();
    let members = vertex.members.iter().zip(&subtask.members);
    let exits = members.filter(|(member, _)| taken.contains(member.id.as_str()));
    Numbers::new(exits.map(|(_, work)| work.records_out)).sum()
}

/// What a subtask did with its time, in parts of 1.
pub(super) struct Shares {
    pub(super) busy: f64,
    pub(super) idle: f64,
    pub(super) back_pressured: f64,
}

impl Shares {
    /// Since the attempt began. All are 0 if it has just begun.
    pub(super) fn of(subtask: &Subtask) -> Self {
        let times = [subtask.busy_ms, subtask.idle_ms, subtask.back_pressured_ms];
        let total: f64 = times.iter().map(|time| *time as f64).sum();
        let [busy, idle, back_pressured] = times.map(|time| time as f64 / total.max(1.0));
        Self {
            busy,
            idle,
            back_pressured,
        }
    }

    /// Flink's word for how much others keep the subtask waiting.
    fn level(&self) -> &'static str {
        match self.back_pressured {
            share if share <= 0.1 => "ok",
            share if share <= 0.5 => "low",
            _ => "high",
        }
    }
}

/// `GET /jobs/:jobid/vertices/:vertexid/backpressure`.
pub(super) fn back_pressure(vertex: &Vertex, now_ms: i64) -> Value {
    let of_each = vertex
        .subtasks
        .iter()
        .map(|subtask| (subtask, Shares::of(subtask)));
    let of_each: Vec<_> = of_each.collect();
    let shares = of_each.iter().map(|(_, shares)| shares);
    let worst = shares.max_by(|a, b| a.back_pressured.total_cmp(&b.back_pressured));
    let level = worst.map_or("ok", Shares::level);
    let subtasks = of_each.iter().map(|(subtask, shares)| {
        json!({
            "subtask": int(subtask.index as usize),
            "backpressureLevel": shares.level(),
            "backpressure-level": shares.level(),
            "ratio": shares.back_pressured,
            "idleRatio": shares.idle,
            "busyRatio": shares.busy,
        })
    });
    json!({
        "status": "ok",
        "backpressureLevel": level,
        "backpressure-level": level,
        "end-timestamp": now_ms,
        "subtasks": subtasks.collect::<Vec<_>>(),
    })
}

/// `GET /jobs/:jobid/vertices/:vertexid/subtasktimes`.
pub(super) fn subtask_times(view: &JobView, vertex: &Vertex, now_ms: i64) -> Value {
    let span = Span::of(view);
    let now = state_word(view.status.state);
    let timestamps = STATES.map(|word| {
        let at = match word {
            "CREATED" => view.status.started_at,
            _ if word == now => super::since(view),
            _ => 0,
        };
        (word.to_owned(), Value::from(at))
    });
    let timestamps = Value::from(Map::from_iter(timestamps));
    let subtasks = vertex.subtasks.iter().map(|subtask| {
        json!({
            "subtask": int(subtask.index as usize),
            "endpoint": "localhost",
            "duration": span.duration(now_ms),
            "timestamps": timestamps,
        })
    });
    json!({
        "id": vertex.id,
        "name": vertex.name,
        "now": now_ms,
        "subtasks": subtasks.collect::<Vec<_>>(),
    })
}

/// `GET /jobs/:jobid/vertices/:vertexid/watermarks`.
pub(super) fn watermarks(view: &JobView, vertex: &Vertex) -> Value {
    let watermark = |subtask: &Subtask| {
        json!({
            "id": format!("{}.currentInputWatermark", subtask.index),
            "value": metrics::watermark(view, subtask).to_string(),
        })
    };
    vertex.subtasks.iter().map(watermark).collect()
}
