//! What each request is answered with.

use std::convert::Infallible;
use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use operator::text::name;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::time::timeout;

use crate::api::{Code, Failure, HostStatus, JobStatus, Operation, OperationStatus, Request};
use crate::operations::{Entered, Entry};
use crate::server::Shared;
use crate::view::{JobView, rest_id};

/// How many names a message lists.
const NAMES_MAX: usize = 10;

/// Whether a connection gets an answer to what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It does.
    Admitted,
    /// There are too many.
    Busy,
    /// It is another user's.
    Forbidden,
}

pub(crate) type Response = hyper::Response<Full<Bytes>>;

/// Answers a request.
pub(crate) async fn answer(
    serving: &Shared,
    admission: Admission,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    let answered = match admission {
        Admission::Admitted => route(serving, request).await,
        Admission::Busy => {
            let max = serving.limits.connections;
            let message = format!("{max} connections to this host are open, and no more can be");
            Err(Refusal::from(Failure::new(Code::Busy, message)))
        }
        Admission::Forbidden => {
            let message = "only the user that runs this host, and root, may ask it";
            Err(Refusal::from(Failure::new(Code::Forbidden, message)))
        }
    };
    Ok(answered.unwrap_or_else(Refusal::response))
}

async fn route(serving: &Shared, request: hyper::Request<Incoming>) -> Result<Response, Refusal> {
    let path = request.uri().path().to_owned();
    let Some(path) = path.strip_prefix('/') else {
        return Err(no_such_path(&path));
    };
    let segments = path
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| no_such_path(path))?;
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    match segments.as_slice() {
        ["v1"] => {
            only(&Method::GET, &request)?;
            Ok(json(
                StatusCode::OK,
                &HostStatus {
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    process: process::id(),
                },
            ))
        }
        ["v1", "views"] => {
            only(&Method::GET, &request)?;
            let views = serving.jobs.views().into_iter();
            let brief: Vec<JobView> = views.map(JobView::brief).collect();
            Ok(json(StatusCode::OK, &brief))
        }
        ["v1", "jobs"] => {
            only(&Method::GET, &request)?;
            Ok(json(StatusCode::OK, &serving.jobs.jobs()))
        }
        ["v1", "jobs", job] => {
            only(&Method::GET, &request)?;
            Ok(json(StatusCode::OK, &find(serving, job)?))
        }
        ["v1", "jobs", job, "operations"] => {
            only(&Method::POST, &request)?;
            begin(serving, job, request, &|_| Ok(())).await
        }
        ["v1", "jobs", job, "operations", id] => {
            only(&Method::GET, &request)?;
            let poll = Poll::parse(request.uri().query(), serving.limits.wait)?;
            let entry = find_operation(serving, job, id)?;
            Ok(status(&entry, poll).await)
        }
        _ => Err(no_such_path(path)),
    }
}

/// Begins the operation that is asked for, if it is allowed.
pub(crate) async fn begin(
    serving: &Shared,
    job: &str,
    request: hyper::Request<Incoming>,
    allowed: &(dyn Fn(&Operation) -> Result<(), Failure> + Sync),
) -> Result<Response, Refusal> {
    let poll = Poll::parse(request.uri().query(), serving.limits.wait)?;
    let body = read(serving, request.into_body()).await?;
    let request = Request::parse(&body)?;
    allowed(&request.operation)?;
    let entry = enter(serving, job, request)?;
    let seen = poll.seen.or(Some(0));
    Ok(status(&entry, Poll { seen, ..poll }).await)
}

/// Begins an operation on a job, or finds it, if it was begun before.
pub(crate) fn enter(serving: &Shared, job: &str, request: Request) -> Result<Arc<Entry>, Failure> {
    let job = match serving.operations.find(job, &request.request_id) {
        // Of a job that may be gone.
        Some(_) => job.to_owned(),
        None => find(serving, job)?.id,
    };
    enter_as(serving, &job, request)
}

/// What stands in place of a job's id for what is of none.
pub(crate) const OF_HOST: &str = "";

/// As [`enter`], for a job that is known to be there, or [for none](OF_HOST).
pub(crate) fn enter_as(
    serving: &Shared,
    job: &str,
    request: Request,
) -> Result<Arc<Entry>, Failure> {
    let is_closing = serving.is_closing.load(Ordering::Relaxed);
    if is_closing && serving.operations.find(job, &request.request_id).is_none() {
        let message = "the host is about to end and begins no operation";
        return Err(Failure::new(Code::Ended, message));
    }
    let operation = request.operation.clone();
    match serving.operations.enter(job, request)? {
        Entered::Known(entry) => Ok(entry),
        Entered::New(entry, ticket) => {
            serving.jobs.begin(job, operation, ticket);
            Ok(entry)
        }
    }
}

pub(crate) async fn status(entry: &Entry, poll: Poll) -> Response {
    let status: OperationStatus = entry.wait(poll.seen, poll.wait).await;
    let code = match status.state.has_ended() {
        true => StatusCode::OK,
        false => StatusCode::ACCEPTED,
    };
    json(code, &status)
}

/// The body of a request, of which no more than allowed is ever in memory.
pub(crate) async fn read(serving: &Shared, body: Incoming) -> Result<Bytes, Refusal> {
    let max = serving.limits.body;
    let too_large = || Refusal {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        failure: Failure::bad_request(format!("the request has more than {max} bytes")),
        allow: None,
    };
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    match timeout(serving.limits.request, Limited::new(body, max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let message = format!("the request could not be read: {error}");
            Err(Failure::bad_request(message).into())
        }
        Err(_) => Err(Refusal {
            status: StatusCode::REQUEST_TIMEOUT,
            failure: Failure::bad_request("the request took too long to arrive"),
            allow: None,
        }),
    }
}

/// The job that has this id, or else this name.
pub(crate) fn find(serving: &Shared, wanted: &str) -> Result<JobStatus, Failure> {
    let mut jobs = serving.jobs.jobs();
    let is_wanted = |job: &JobStatus| job.id == wanted || rest_id(&job.id) == wanted;
    if let Some(index) = jobs.iter().position(is_wanted) {
        return Ok(jobs.swap_remove(index));
    }
    let mut named: Vec<usize> = (0..jobs.len())
        .filter(|index| jobs[*index].name == wanted)
        .collect();
    if let (Some(index), true) = (named.pop(), named.is_empty()) {
        return Ok(jobs.swap_remove(index));
    }
    let are_several = jobs.iter().any(|job| job.name == wanted);
    let wanted_shown = name(wanted);
    if are_several {
        let ids = listed(
            jobs.iter()
                .filter(|job| job.name == wanted)
                .map(|job| &job.id),
        );
        let message = format!("several jobs are named `{wanted_shown}`, with the ids {ids}");
        return Err(Failure::new(Code::Conflict, message).hint("name one of them by its id"));
    }
    let message = match jobs.is_empty() {
        true => format!("there is no job `{wanted_shown}`: this host has no job"),
        false => {
            let names = listed(jobs.iter().map(|job| &job.name));
            format!("there is no job `{wanted_shown}`: this host has {names}")
        }
    };
    Err(Failure::new(Code::NotFound, message))
}

/// The operation of a job that was begun by this request. A job that is gone may have left its operations.
pub(crate) fn find_operation(serving: &Shared, job: &str, id: &str) -> Result<Arc<Entry>, Failure> {
    if let Some(entry) = serving.operations.find(job, id) {
        return Ok(entry);
    }
    let job = find(serving, job)?;
    let entry = serving.operations.find(&job.id, id);
    entry.ok_or_else(|| no_such_operation(&job, id))
}

/// The first few names for a message.
pub(crate) fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut names: Vec<_> = names.map(|it| format!("`{}`", name(it))).collect();
    if let Some(more) = names.len().checked_sub(NAMES_MAX + 1) {
        names.truncate(NAMES_MAX);
        names.push(format!("{} more", more + 1));
    }
    names.join(", ")
}

/// How long an answer may wait, and for what.
pub(crate) struct Poll {
    wait: Duration,
    seen: Option<u64>,
}

impl Poll {
    pub(crate) fn parse(query: Option<&str>, wait_max: Duration) -> Result<Self, Failure> {
        let mut poll = Self {
            wait: Duration::ZERO,
            seen: None,
        };
        let pairs = query.unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = value.parse::<u64>().map_err(|_| {
                let message = format!("`{}` is not a whole number", name(pair));
                Failure::bad_request(message)
            });
            match key {
                "wait" => poll.wait = Duration::from_millis(number?).min(wait_max),
                "seen" => poll.seen = Some(number?),
                _ => {
                    let message = format!("there is no parameter `{}`", name(key));
                    return Err(Failure::bad_request(message).hint("there are `wait` and `seen`"));
                }
            }
        }
        Ok(poll)
    }
}

pub(crate) fn only(method: &Method, request: &hyper::Request<Incoming>) -> Result<(), Refusal> {
    // Of an answer to `HEAD` the body is left out.
    let is_read = method == Method::GET && request.method() == Method::HEAD;
    if request.method() == method || is_read {
        return Ok(());
    }
    Err(match *method == Method::GET {
        true => method_not_allowed(request, "GET, HEAD"),
        false => method_not_allowed(request, method.as_str()),
    })
}

/// A path takes these methods only.
pub(crate) fn method_not_allowed(request: &hyper::Request<Incoming>, methods: &str) -> Refusal {
    let message = format!(
        "`{}` takes {methods}, not {}",
        name(request.uri().path()),
        name(request.method().as_str())
    );
    Refusal {
        status: StatusCode::METHOD_NOT_ALLOWED,
        failure: Failure::bad_request(message),
        allow: HeaderValue::from_str(methods).ok(),
    }
}

pub(crate) fn no_such_path(path: &str) -> Refusal {
    let message = format!("there is no path `{}`", name(path));
    let failure = Failure::new(Code::NotFound, message);
    failure
        .hint("see docs/control.md for those that there are")
        .into()
}

fn no_such_operation(job: &JobStatus, id: &str) -> Failure {
    let message = format!(
        "job `{}` knows no operation with request id `{}`",
        name(&job.name),
        name(id)
    );
    Failure::new(Code::NotFound, message)
}

/// A failure, with its place in HTTP.
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) failure: Failure,
    allow: Option<HeaderValue>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, failure: Failure) -> Self {
        Self {
            status,
            failure,
            allow: None,
        }
    }

    pub(crate) fn response(self) -> Response {
        let failure = self.failure.clone();
        self.response_with(&failure)
    }

    /// With another body than the failure.
    pub(crate) fn response_with<T: Serialize>(self, body: &T) -> Response {
        let mut response = json(self.status, body);
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let status = match failure.code {
            Code::BadRequest => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Conflict => StatusCode::CONFLICT,
            Code::Failed | Code::Lost => StatusCode::INTERNAL_SERVER_ERROR,
            Code::Ended | Code::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Code::Forbidden => StatusCode::FORBIDDEN,
        };
        Self {
            status,
            failure,
            allow: None,
        }
    }
}

pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    // Strings, numbers and lists of them: that always succeeds.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
