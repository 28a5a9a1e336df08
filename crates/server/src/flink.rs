//! What jobs are in the shape of the REST API of Apache Flink 2.3, so that Flink's client, its web page and what was
//! written for them can read it. `docs/rest.md` lists every field and what it means here.
//!
//! Everything here is a pure function of [`JobView`]s: nothing waits, reads a clock or keeps anything.
//!
//! - [`answer()`] answers every `GET`;
//! - [`operations`] reads what is asked for, and says how far it is;
//! - [`error`] is what a refusal looks like.
//!
//! Flink's client parses with Jackson into Java's types. So a number is bounded by Java's `long` or `int`, and what
//! cannot be said is 0 where the Java field is a primitive, and `null` only where Flink's own code allows it.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::api::{Failure, JobState};
use crate::view::JobView;

mod checkpoints;
mod cluster;
mod job;
mod metrics;
pub(crate) mod operations;
mod summary;
mod throwable;
mod vertices;

/// What a `GET` is answered with: the answer, or the status of HTTP and what is wrong.
pub(crate) type Answer = Result<Value, (u16, String)>;

/// How many failures are listed if the request does not say.
const EXCEPTIONS_DEFAULT: usize = 20;

/// The paths of all `GET`s that [`answer()`] knows. `:name` is any segment.
pub(crate) const PATHS: &[&str] = &[
    "/overview",
    "/config",
    "/jobs",
    "/jobs/overview",
    "/jobs/metrics",
    "/jobs/:jobid",
    "/jobs/:jobid/plan",
    "/jobs/:jobid/config",
    "/jobs/:jobid/status",
    "/jobs/:jobid/exceptions",
    "/jobs/:jobid/accumulators",
    "/jobs/:jobid/execution-result",
    "/jobs/:jobid/metrics",
    "/jobs/:jobid/checkpoints",
    "/jobs/:jobid/checkpoints/config",
    "/jobs/:jobid/checkpoints/details/:checkpointid",
    "/jobs/:jobid/checkpoints/details/:checkpointid/subtasks/:vertexid",
    "/jobs/:jobid/vertices/:vertexid",
    "/jobs/:jobid/vertices/:vertexid/accumulators",
    "/jobs/:jobid/vertices/:vertexid/backpressure",
    "/jobs/:jobid/vertices/:vertexid/metrics",
    "/jobs/:jobid/vertices/:vertexid/subtasks/metrics",
    "/jobs/:jobid/vertices/:vertexid/subtasktimes",
    "/jobs/:jobid/vertices/:vertexid/watermarks",
];

/// Answers a `GET`. `path` is without the leading `v1`, decoded. `None`: it is none of Flink's paths that are known
/// here. The paths of asynchronous operations are not: who keeps operations answers those (see [`operations`]).
pub(crate) fn answer(
    views: &[JobView],
    path: &[&str],
    query: Option<&str>,
    now_ms: i64,
) -> Option<Answer> {
    let version = env!("CARGO_PKG_VERSION");
    let query = Query::parse(query);
    let answer = match path {
        ["overview"] => Ok(cluster::overview(views, version)),
        ["config"] => Ok(cluster::config(version)),
        ["jobs"] => Ok(cluster::jobs(views)),
        ["jobs", "overview"] => Ok(cluster::jobs_overview(views, now_ms)),
        ["jobs", "metrics"] => cluster::jobs_metrics(views, &query, now_ms),
        ["jobs", id, rest @ ..] => match job(views, id) {
            Ok(view) => return of_job(view, rest, &query, now_ms),
            // A path that is not Flink's is none, whatever job it names.
            Err(refusal) => {
                of_job_is_known(rest).then_some(())?;
                Err(refusal)
            }
        },
        _ => return None,
    };
    Some(answer)
}

/// Answers what is asked of one job.
fn of_job(view: &JobView, path: &[&str], query: &Query, now_ms: i64) -> Option<Answer> {
    let answer = match path {
        [] => Ok(job::details(view, now_ms)),
        ["plan"] => Ok(json!({ "plan": job::plan(view) })),
        ["config"] => Ok(job::config(view)),
        ["status"] => Ok(json!({ "status": status_word(view.status.state) })),
        ["exceptions"] => job::exceptions(view, query),
        ["accumulators"] => Ok(job::accumulators()),
        ["execution-result"] => Ok(job::execution_result(view, now_ms)),
        ["metrics"] => Ok(metrics::listed(&metrics::of_job(view, now_ms), query)),
        ["checkpoints"] => Ok(checkpoints::statistics(view)),
        ["checkpoints", "config"] => Ok(checkpoints::config(view)),
        ["checkpoints", "details", number] => {
            checkpoints::find(view, number).map(|checkpoint| checkpoints::details(view, checkpoint))
        }
        ["checkpoints", "details", number, "subtasks", vertex] => checkpoints::find(view, number)
            .and_then(|checkpoint| checkpoints::subtasks(view, checkpoint, vertex)),
        ["vertices", id, rest @ ..] => match vertices::find(view, id) {
            Ok(vertex) => return of_vertex(view, vertex, rest, query, now_ms),
            Err(refusal) => of_job_is_known(path).then_some(Err(refusal))?,
        },
        _ => return None,
    };
    Some(answer)
}

/// Answers what is asked of one vertex.
fn of_vertex(
    view: &JobView,
    vertex: &crate::view::Vertex,
    path: &[&str],
    query: &Query,
    now_ms: i64,
) -> Option<Answer> {
    Some(match path {
        [] => Ok(vertices::details(view, vertex, now_ms)),
        ["accumulators"] => Ok(json!({ "id": vertex.id, "user-accumulators": [] })),
        ["backpressure"] => Ok(vertices::back_pressure(vertex, now_ms)),
        ["metrics"] => Ok(metrics::listed(&metrics::of_vertex(view, vertex), query)),
        ["subtasks", "metrics"] => metrics::aggregated(&metrics::of_subtasks(view, vertex), query),
        ["subtasktimes"] => Ok(vertices::subtask_times(view, vertex, now_ms)),
        ["watermarks"] => Ok(vertices::watermarks(view, vertex)),
        _ => return None,
    })
}

/// Whether a path below a job is known, whatever its job and vertex are called.
fn of_job_is_known(rest: &[&str]) -> bool {
    is_known(&[&["jobs", ""], rest].concat())
}

/// The job with this id in the REST API.
pub(crate) fn job<'a>(views: &'a [JobView], id: &str) -> Result<&'a JobView, (u16, String)> {
    check_id("job", id)?;
    views
        .iter()
        .find(|view| view.rest_id.eq_ignore_ascii_case(id))
        .ok_or_else(|| (404, format!("Job {id} not found")))
}

/// Whether an id is one of Flink's: 32 hex digits.
fn check_id(what: &str, id: &str) -> Result<(), (u16, String)> {
    if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let id = operator::text::name(id);
    Err((
        400,
        format!("the {what} id `{id}` is not 32 hexadecimal digits"),
    ))
}

/// The body of a refusal.
pub(crate) fn error(message: &str) -> Value {
    json!({ "errors": [message] })
}

/// The same of a failure, with its hint.
pub(crate) fn failure(failure: &Failure) -> Value {
    error(&in_words(failure))
}

/// Whether a path of Flink's API is known here, for requests that only read.
pub(crate) fn is_known(path: &[&str]) -> bool {
    PATHS.iter().any(|known| {
        let known = known.split('/').skip(1);
        known.clone().count() == path.len()
            && known
                .zip(path)
                .all(|(known, segment)| known.starts_with(':') || known == *segment)
    })
}

/// A failure with its hint.
fn in_words(failure: &Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("{}\nhint: {hint}", failure.message),
        None => failure.message.clone(),
    }
}

/// Flink's word for what a job does.
///
/// A job that is stopping is `RUNNING`, as in Flink during a stop with savepoint: if that fails, the job goes on, and
/// in Flink no way leads back from `CANCELLING`.
pub(crate) fn status_word(state: JobState) -> &'static str {
    match state {
        JobState::Starting => "INITIALIZING",
        JobState::Running | JobState::Stopping => "RUNNING",
        JobState::Restarting => "RESTARTING",
        JobState::Finished | JobState::Stopped => "FINISHED",
        JobState::Cancelled => "CANCELED",
        JobState::Suspended => "SUSPENDED",
        JobState::Failed => "FAILED",
    }
}

/// A count as Java's `long`.
fn long(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A count as Java's `int`.
fn int(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The time from one to another; 0 if the clock was put back.
fn between(from: i64, to: i64) -> i64 {
    to.saturating_sub(from).max(0)
}

/// How long a job has been running, or ran.
fn duration(view: &JobView, now_ms: i64) -> i64 {
    between(view.status.started_at, end(view).unwrap_or(now_ms))
}

/// Since when a job is in the state that it has in Flink's words.
fn since(view: &JobView) -> i64 {
    end(view).or(view.running_since).unwrap_or(view.state_since)
}

/// When a job ended; `None`: it has not.
fn end(view: &JobView) -> Option<i64> {
    let has_ended = view.status.state.has_ended();
    has_ended.then(|| view.ended_at.unwrap_or(view.state_since))
}

/// The parameters of a request. Those that mean nothing to an endpoint are passed over, as Flink does.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what follows the `?`. What is not UTF-8 is replaced.
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let decode = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        let pairs = query.unwrap_or_default().split('&');
        let pairs = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The values of a parameter, which are separated by commas or given one by one; `None`: it is not there.
    fn list(&self, key: &str) -> Option<Vec<&str>> {
        self.get(key)?;
        let given = self.0.iter().filter(|(name, _)| name == key);
        let values = given.flat_map(|(_, value)| value.split(','));
        Some(values.filter(|value| !value.is_empty()).collect())
    }
}

#[cfg(test)]
mod tests;
