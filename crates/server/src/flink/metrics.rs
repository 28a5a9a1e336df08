//! Numbers by name, under the names that Flink gives them.

use serde_json::{Value, json};

use super::{Answer, Query, between, duration, end};
use crate::api::JobState;
use crate::view::{Checkpoint, JobView, Outcome, Subtask, Vertex};

/// Metrics of one job or one subtask, in the order in which they are listed.
#[derive(Default)]
pub(super) struct Metrics(Vec<(String, Reading)>);

/// What a metric says. Flink sends both as strings, and aggregates numbers only.
enum Reading {
    Number(i128),
    Real(f64),
    Text(String),
}

impl Metrics {
    fn number(&mut self, name: impl Into<String>, number: impl Into<i128>) {
        self.0.push((name.into(), Reading::Number(number.into())));
    }

    fn real(&mut self, name: impl Into<String>, number: f64) {
        self.0.push((name.into(), Reading::Real(number)));
    }

    fn text(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.0.push((name.into(), Reading::Text(text.into())));
    }

    fn find(&self, name: &str) -> Option<&Reading> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, reading)| reading)
    }
}

/// The event time of a subtask that knows none yet, as in Flink.
pub(super) const NO_WATERMARK: i64 = i64::MIN;

/// How far the event time of a subtask is, as in Flink.
pub(super) fn watermark(view: &JobView, subtask: &Subtask) -> i64 {
    // `None` is the end, too, but only in a job that has finished is it that for sure.
    let unknown = match view.status.state {
        JobState::Finished => i64::MAX,
        _ => NO_WATERMARK,
    };
    subtask.watermark.unwrap_or(unknown)
}

/// The metrics of a job.
pub(super) fn of_job(view: &JobView, now_ms: i64) -> Metrics {
    let (status, checkpoints) = (&view.status, &view.checkpoints);
    let in_state = match end(view) {
        Some(_) => 0,
        None => between(view.state_since, now_ms),
    };
    let time_in = |state| if status.state == state { in_state } else { 0 };
    // A job that stops is running until it has stopped.
    let running = view.running_since.map_or(0, |since| between(since, now_ms));
    let mut metrics = Metrics::default();
    metrics.number("uptime", running);
    metrics.number("runningTime", running);
    metrics.number("restartingTime", time_in(JobState::Restarting));
    metrics.number("initializingTime", time_in(JobState::Starting));
    metrics.number("downtime", time_in(JobState::Restarting));
    metrics.number("duration", duration(view, now_ms));
    metrics.number("numRestarts", status.restarts);
    let total = checkpoints.completed.saturating_add(checkpoints.failed);
    metrics.number(
        "totalNumberOfCheckpoints",
        total.saturating_add(checkpoints.in_progress),
    );
    metrics.number("numberOfCompletedCheckpoints", checkpoints.completed);
    metrics.number("numberOfFailedCheckpoints", checkpoints.failed);
    metrics.number("numberOfInProgressCheckpoints", checkpoints.in_progress);
    if let Some(restored) = &checkpoints.restored {
        metrics.number("lastCheckpointRestoreTimestamp", restored.at);
    }
    if let Some(checkpoint) = &checkpoints.newest
        && let Outcome::Completed {
            bytes,
            full_bytes,
            path,
            ..
        } = &checkpoint.outcome
    {
        metrics.number("lastCompletedCheckpointId", checkpoint.id);
        metrics.number("lastCheckpointCompletedTimestamp", checkpoint.ended_at);
        metrics.number("lastCheckpointDuration", lasted(checkpoint));
        metrics.number("lastCheckpointSize", *bytes);
        metrics.number("lastCheckpointFullSize", *full_bytes);
        if let Some(path) = path {
            metrics.text("lastCheckpointExternalPath", path);
        }
    }
    metrics
}

fn lasted(checkpoint: &Checkpoint) -> i64 {
    between(checkpoint.triggered_at, checkpoint.ended_at)
}

/// The metrics of each subtask of a vertex.
pub(super) fn of_subtasks(view: &JobView, vertex: &Vertex) -> Vec<Metrics> {
    vertex
        .subtasks
        .iter()
        .map(|subtask| of_subtask(view, vertex, subtask))
        .collect()
}

/// The metrics of a vertex: those of its subtasks, each after the subtask's number, and what its operators count of
/// themselves, which is counted over all subtasks.
pub(super) fn of_vertex(view: &JobView, vertex: &Vertex) -> Metrics {
    let mut metrics = Metrics::default();
    for subtask in &vertex.subtasks {
        for (name, reading) in of_subtask(view, vertex, subtask).0 {
            metrics
                .0
                .push((format!("{}.{name}", subtask.index), reading));
        }
    }
    for member in &vertex.members {
        for (name, number) in view.operator_metrics.get(&member.id).into_iter().flatten() {
            metrics.real(format!("{}.{name}", member.id), *number);
        }
    }
    metrics
}

fn of_subtask(view: &JobView, vertex: &Vertex, subtask: &Subtask) -> Metrics {
    let mut metrics = Metrics::default();
    metrics.number("numRecordsIn", super::vertices::records_in(vertex, subtask));
    metrics.number(
        "numRecordsOut",
        super::vertices::records_out(view, vertex, subtask),
    );
    metrics.number("accumulateBusyTimeMs", subtask.busy_ms);
    metrics.number("accumulateIdleTimeMs", subtask.idle_ms);
    metrics.number("accumulateBackPressuredTimeMs", subtask.back_pressured_ms);
    let shares = super::vertices::Shares::of(subtask);
    // A share is between 0 and 1.
    let per_second = |share: f64| (share * 1000.0).round() as i64;
    metrics.number("busyTimeMsPerSecond", per_second(shares.busy));
    metrics.number("idleTimeMsPerSecond", per_second(shares.idle));
    metrics.number(
        "backPressuredTimeMsPerSecond",
        per_second(shares.back_pressured),
    );
    metrics.number("currentInputWatermark", watermark(view, subtask));
    for (member, work) in vertex.members.iter().zip(&subtask.members) {
        metrics.number(format!("{}.numRecordsIn", member.id), work.records_in);
        metrics.number(format!("{}.numRecordsOut", member.id), work.records_out);
        metrics.number(format!("{}.stateBytes", member.id), work.state_bytes);
        metrics.number(format!("{}.stateKeys", member.id), work.state_keys);
    }
    metrics
}

/// Without `get` the names that there are, else the values of those that are asked for and exist.
pub(super) fn listed(metrics: &Metrics, query: &Query) -> Value {
    let Some(asked) = query.list("get") else {
        return metrics
            .0
            .iter()
            .map(|(name, _)| json!({ "id": name }))
            .collect();
    };
    // What exists is gone through, not what is asked for: a name that is asked for often is sent once.
    let found = metrics
        .0
        .iter()
        .filter(|(name, _)| asked.contains(&name.as_str()));
    found
        .map(|(name, reading)| {
            let value = match reading {
                Reading::Number(number) => number.to_string(),
                Reading::Real(number) => number.to_string(),
                Reading::Text(text) => text.clone(),
            };
            json!({ "id": name, "value": value })
        })
        .collect()
}

/// What can be said of a metric over several jobs or subtasks.
const AGGREGATIONS: [&str; 5] = ["min", "max", "avg", "sum", "skew"];

/// Without `get` the names that there are, else what `agg` asks for of those that are asked for and exist; without
/// `agg` all of it.
pub(super) fn aggregated(of_each: &[Metrics], query: &Query) -> Answer {
    let chosen = query.list("agg").filter(|chosen| !chosen.is_empty());
    let unknown = chosen
        .iter()
        .flatten()
        .find(|word| aggregation(word).is_none());
    if let Some(word) = unknown {
        let word = operator::text::name(word);
        let message =
            format!("there is no aggregation `{word}`: there are min, max, avg, sum, skew");
        return Err((400, message));
    }
    let is_chosen = |name: &str| {
        let chosen = chosen.as_ref();
        chosen.is_none_or(|words| words.iter().any(|word| aggregation(word) == Some(name)))
    };
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in of_each.iter().flat_map(|metrics| &metrics.0) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let Some(asked) = query.list("get") else {
        return Ok(names.iter().map(|name| json!({ "id": name })).collect());
    };
    let answers = names
        .iter()
        .filter(|name| asked.contains(*name))
        .filter_map(|name| {
            let readings = of_each.iter().filter_map(|metrics| metrics.find(name));
            let numbers: Vec<f64> = readings
                .filter_map(|reading| match reading {
                    Reading::Number(number) => Some(*number as f64),
                    Reading::Real(number) => Some(*number),
                    Reading::Text(_) => None,
                })
                .collect();
            let mut answer = over(&numbers)?;
            answer.retain(|key, _| key == "id" || is_chosen(key));
            answer.insert("id".into(), (*name).into());
            Some(Value::from(answer))
        });
    Ok(answers.collect())
}

/// The name of an aggregation, in whatever case it is asked for.
fn aggregation(word: &str) -> Option<&'static str> {
    AGGREGATIONS
        .into_iter()
        .find(|name| name.eq_ignore_ascii_case(word.trim()))
}

/// All that can be said of numbers; `None`: there are none.
fn over(numbers: &[f64]) -> Option<serde_json::Map<String, Value>> {
    let (first, count) = (numbers.first()?, numbers.len() as f64);
    let sum: f64 = numbers.iter().sum();
    let mean = sum / count;
    // As in Flink: the mean distance from the mean, in percent of the mean.
    let distance = numbers
        .iter()
        .map(|number| (number - mean).abs())
        .sum::<f64>()
        / count;
    let skew = match mean == 0.0 {
        true => 0.0,
        false => (distance / mean * 100.0).abs(),
    };
    let values = [
        ("min", numbers.iter().copied().fold(*first, f64::min)),
        ("max", numbers.iter().copied().fold(*first, f64::max)),
        ("avg", mean),
        ("sum", sum),
        ("skew", skew),
    ];
    Some(
        values
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect(),
    )
}
