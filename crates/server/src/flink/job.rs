//! What concerns one job as a whole.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Answer, EXCEPTIONS_DEFAULT, Query, duration, end, int, since, status_word, vertices};
use crate::api::JobState;
use crate::view::{JobFailure, JobView, Vertex};

/// The states of a job in Flink.
const STATES: [&str; 11] = [
    "INITIALIZING",
    "CREATED",
    "RUNNING",
    "FAILING",
    "FAILED",
    "CANCELLING",
    "CANCELED",
    "FINISHED",
    "RESTARTING",
    "SUSPENDED",
    "RECONCILING",
];

/// `GET /jobs/:jobid`.
pub(super) fn details(view: &JobView, now_ms: i64) -> Value {
    let of_job = view
        .vertices
        .iter()
        .map(|vertex| vertices::overview(view, vertex, now_ms));
    json!({
        "jid": view.rest_id,
        "application-id": view.rest_id,
        "name": view.status.name,
        "isStoppable": false,
        "state": status_word(view.status.state),
        "job-type": "STREAMING",
        "schedulerType": "Default",
        "start-time": view.status.started_at,
        "end-time": end(view).unwrap_or(-1),
        "duration": duration(view, now_ms),
        "maxParallelism": i64::from(view.key_groups),
        "now": now_ms,
        "timestamps": timestamps(view),
        "vertices": of_job.collect::<Vec<_>>(),
        "status-counts": vertices::status_counts(view),
        "plan": plan(view),
        "pending-operators": 0,
    })
}

/// When the job reached each state last; 0: never, or it is not known any more.
fn timestamps(view: &JobView) -> Value {
    let now = status_word(view.status.state);
    let restarted = view
        .failures
        .iter()
        .find(|failure| failure.restart_delay_ms.is_some());
    let at = |word: &str| match word {
        _ if word == now => since(view),
        "INITIALIZING" | "CREATED" => view.status.started_at,
        "RESTARTING" => restarted.map_or(0, |failure| failure.at),
        _ => 0,
    };
    Value::Object(
        STATES
            .iter()
            .map(|word| ((*word).to_owned(), at(word).into()))
            .collect(),
    )
}

/// The plan of a job, as in `GET /jobs/:jobid/plan`.
pub(super) fn plan(view: &JobView) -> Value {
    json!({
        "jid": view.rest_id,
        "name": view.status.name,
        "type": "STREAMING",
        "nodes": view.vertices.iter().map(node).collect::<Vec<_>>(),
    })
}

fn node(vertex: &Vertex) -> Value {
    let mut node = json!({
        "id": vertex.id,
        "parallelism": int(vertex.subtasks.len()),
        "operator": "",
        "operator_strategy": "",
        "description": description(vertex),
        "optimizer_properties": {},
    });
    // As in Flink: what has no inputs has no such field.
    if !vertex.inputs.is_empty() {
        let inputs = vertex.inputs.iter().enumerate().map(|(number, input)| {
            json!({
                "id": input.vertex,
                "num": int(number),
                "ship_strategy": input.partition.to_uppercase(),
                "exchange": "pipelined_bounded",
            })
        });
        node["inputs"] = inputs.collect();
    }
    node
}

/// The members of a vertex as Flink writes a chain: in HTML, which its web page shows.
fn description(vertex: &Vertex) -> String {
    let mut text = String::new();
    for (depth, member) in vertex.members.iter().enumerate() {
        if depth > 0 {
            text.push_str("+- ");
        }
        // Ids are letters, digits, `-` and `_`; should they ever be more, they are not HTML.
        let id = member
            .id
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        text.push_str(&id);
        text.push_str("<br/>");
    }
    text
}

/// `GET /jobs/:jobid/config`.
pub(super) fn config(view: &JobView) -> Value {
    json!({
        "jid": view.rest_id,
        "name": view.status.name,
        "execution-config": {
            "restart-strategy": restart_strategy(view),
            "job-parallelism": int(view.status.parallelism as usize),
            "object-reuse-mode": false,
            "user-config": view.config,
        },
    })
}

/// In words, as Flink has it: the strategy and its parameters.
fn restart_strategy(view: &JobView) -> String {
    let set = view.config.iter().filter_map(|(key, value)| {
        key.strip_prefix("restart.")
            .map(|key| (key, value.as_str()))
    });
    let (strategy, rest): (Vec<_>, Vec<_>) = set.partition(|(key, _)| *key == "strategy");
    let default = match view.status.interval_ms {
        Some(_) => "exponential-delay",
        None => "none",
    };
    let mut text = strategy
        .first()
        .map_or(default, |(_, value)| value)
        .to_owned();
    for (key, value) in rest {
        text.push_str(&format!(", {key} = {value}"));
    }
    text
}

/// `GET /jobs/:jobid/exceptions`.
pub(super) fn exceptions(view: &JobView, query: &Query) -> Answer {
    let max = match query.get("maxExceptions") {
        None => EXCEPTIONS_DEFAULT,
        Some(text) => text.parse().ok().filter(|max| *max > 0).ok_or_else(|| {
            let text = operator::text::name(text);
            (
                400,
                format!("maxExceptions `{text}` is not a number of at least 1"),
            )
        })?,
    };
    // No failure has a label, so none has the one that is asked for.
    let has_labels = query
        .get("failureLabelFilter")
        .is_some_and(|labels| !labels.is_empty());
    let found: &[Arc<JobFailure>] = if has_labels { &[] } else { &view.failures };
    let entries = found.iter().take(max).map(|failure| {
        json!({
            "exceptionName": "highwater.Failure",
            "stacktrace": failure.message,
            "timestamp": failure.at,
            "failureLabels": {},
            "taskName": null,
            "endpoint": null,
            "taskManagerId": null,
            "concurrentExceptions": [],
        })
    });
    Ok(json!({
        "exceptionHistory": {
            "entries": entries.collect::<Vec<_>>(),
            "truncated": found.len() > max,
        },
    }))
}

/// `GET /jobs/:jobid/accumulators`: there are none.
pub(super) fn accumulators() -> Value {
    json!({
        "job-accumulators": [],
        "user-task-accumulators": [],
        "serialized-user-task-accumulators": {},
    })
}

/// `GET /jobs/:jobid/execution-result`: what Flink's client waits for after it has started a job.
pub(super) fn execution_result(view: &JobView, now_ms: i64) -> Value {
    let state = view.status.state;
    let Some(ended_at) = end(view) else {
        return json!({ "status": { "id": "IN_PROGRESS" } });
    };
    let status = match state {
        JobState::Finished | JobState::Stopped => "SUCCEEDED",
        JobState::Cancelled => "CANCELED",
        JobState::Failed => "FAILED",
        _ => "UNKNOWN",
    };
    let mut result = Map::new();
    result.insert("id".into(), view.rest_id.clone().into());
    result.insert("application-id".into(), view.rest_id.clone().into());
    result.insert("name".into(), view.status.name.clone().into());
    result.insert("application-status".into(), status.into());
    result.insert("accumulator-results".into(), json!({}));
    result.insert("net-runtime".into(), duration(view, now_ms).into());
    result.insert("start-time".into(), view.status.started_at.into());
    result.insert("end-time".into(), ended_at.into());
    if state == JobState::Failed {
        let message = view
            .status
            .last_failure
            .as_deref()
            .unwrap_or("the job failed");
        result.insert(
            "failure-cause".into(),
            super::throwable::failure_cause(message),
        );
    }
    json!({ "status": { "id": "COMPLETED" }, "job-execution-result": result })
}
