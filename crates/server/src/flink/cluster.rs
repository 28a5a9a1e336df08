//! What concerns all jobs of the host.

use serde_json::{Value, json};

use super::{Answer, Query, check_id, duration, end, int, metrics, since, status_word, vertices};
use crate::api::JobState;
use crate::view::JobView;

/// How often a web page should ask, in milliseconds.
const REFRESH_INTERVAL_MS: i64 = 3000;

/// `GET /overview`.
pub(super) fn overview(views: &[JobView], version: &str) -> Value {
    let count =
        |is: fn(JobState) -> bool| int(views.iter().filter(|view| is(view.status.state)).count());
    // No thread is kept for a job to come, so no slot is ever free.
    let threads = views
        .iter()
        .filter(|view| !view.status.state.has_ended())
        .map(vertices::subtask_count)
        .fold(0, usize::saturating_add);
    json!({
        "taskmanagers": 1,
        "slots-total": int(threads),
        "slots-available": 0,
        "jobs-running": count(|state| !state.has_ended()),
        "jobs-finished": count(|state| matches!(state, JobState::Finished | JobState::Stopped)),
        "jobs-cancelled": count(|state| state == JobState::Cancelled),
        "jobs-failed": count(|state| state == JobState::Failed),
        "flink-version": version,
        "flink-commit": "highwater",
    })
}

/// `GET /config`.
pub(super) fn config(version: &str) -> Value {
    json!({
        "refresh-interval": REFRESH_INTERVAL_MS,
        "timezone-name": "Coordinated Universal Time",
        "timezone-offset": 0,
        "flink-version": version,
        "flink-revision": format!("highwater {version}"),
        "features": {
            "web-submit": false,
            "web-cancel": true,
            "web-rescale": false,
            "web-history": false,
        },
    })
}

/// `GET /jobs`.
pub(super) fn jobs(views: &[JobView]) -> Value {
    let jobs = views
        .iter()
        .map(|view| json!({ "id": view.rest_id, "status": status_word(view.status.state) }));
    json!({ "jobs": jobs.collect::<Vec<_>>() })
}

/// `GET /jobs/overview`.
pub(super) fn jobs_overview(views: &[JobView], now_ms: i64) -> Value {
    let jobs = views.iter().map(|view| {
        json!({
            "jid": view.rest_id,
            "name": view.status.name,
            "jobType": "STREAMING",
            "schedulerType": "Default",
            "start-time": view.status.started_at,
            "end-time": end(view).unwrap_or(-1),
            "duration": duration(view, now_ms),
            "state": status_word(view.status.state),
            "last-modification": since(view),
            "tasks": tasks(view),
            "pending-operators": 0,
        })
    });
    json!({ "jobs": jobs.collect::<Vec<_>>() })
}

/// How many subtasks are in each state, in the lower case of `GET /jobs/overview`.
fn tasks(view: &JobView) -> Value {
    let count = vertices::subtask_count(view);
    let mut tasks = vertices::per_state(view.status.state, int(count), str::to_lowercase);
    tasks.insert("total".into(), int(count).into());
    tasks.into()
}

/// `GET /jobs/metrics`.
pub(super) fn jobs_metrics(views: &[JobView], query: &Query, now_ms: i64) -> Answer {
    let chosen = query.list("jobs");
    for id in chosen.iter().flatten() {
        check_id("job", id)?;
    }
    let is_chosen = |view: &&JobView| {
        chosen
            .as_ref()
            .is_none_or(|ids| ids.iter().any(|id| view.rest_id.eq_ignore_ascii_case(id)))
    };
    let of_jobs = views
        .iter()
        .filter(is_chosen)
        .map(|view| metrics::of_job(view, now_ms));
    metrics::aggregated(&of_jobs.collect::<Vec<_>>(), query)
}
