//! The REST API, the metrics and the web page, on TCP: for Flink's clients, for Prometheus, and for people.
//!
//! It is served by a thread of its own, which gives way to those of the jobs: however much is asked of it, records
//! come first. See [`Access`] for who gets an answer.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use operator::clock::Clock;
use percent_encoding::percent_decode_str;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::access::{Access, Wanted, is_same};
use crate::api::{Code, Failure, JobStatus, Operation, OperationStatus, RefusedFile, Request};
use crate::flink::operations::{self, Asked};
use crate::front::{self, Front};
use crate::http::{
    Admission, OF_HOST, Poll, Refusal, Response, begin, enter, enter_as, find, find_operation,
    json, method_not_allowed, only, read, status,
};
use crate::operations::Entry;
use crate::server::{Limits, Shared};
use crate::view::{Checkpoint, JobView};
use crate::{Jobs, RecentLog, Ticket, flink, metrics, page};

/// How much the thread gives way to others: with this, a tenth of the time of one that computes all the time. (Linux has
/// it for each thread; a thread that is started by another one gets that one's, so nothing is to be started here.)
const NICE: i32 = 10;

/// Where and to whom the REST API is served.
#[derive(Clone, Debug)]
pub struct RestOptions {
    /// The address; port 0 is any that is free.
    pub address: SocketAddr,
    /// Who gets an answer.
    pub access: Access,
    /// Certificate chain and private key, in PEM; without them requests and answers are plain text.
    pub tls: Option<Tls>,
    /// Tells what time it is.
    pub clock: Arc<dyn Clock>,
    /// The newest lines of the host's log.
    pub log: &'static RecentLog,
}

/// Answers for as long as it lives.
#[derive(Debug)]
pub struct RestServer {
    close: Option<oneshot::Sender<()>>,
    /// Its other end goes with the thread.
    over: mpsc::Receiver<()>,
    patience: Duration,
    address: SocketAddr,
    is_secure: bool,
}

impl RestServer {
    /// Listens at the address, and answers there.
    ///
    /// # Errors
    /// The address is not to be had, it is not on this machine alone and there is no token, or the certificate or its
    /// key is none.
    pub fn start(jobs: Arc<dyn Jobs>, options: RestOptions) -> io::Result<Self> {
        // Flink's client asks every two seconds how far a stop is, and has no other way to learn it.
        let limits = Limits {
            close: Duration::from_secs(8),
            ..Limits::default()
        };
        Self::start_with(jobs, options, limits)
    }

    /// As [`start`](Self::start), with other limits.
    ///
    /// # Errors
    /// As there.
    #[expect(
        clippy::disallowed_methods,
        reason = "it serves all jobs of the process, before, between and after their attempts"
    )]
    pub fn start_with(
        jobs: Arc<dyn Jobs>,
        options: RestOptions,
        limits: Limits,
    ) -> io::Result<Self> {
        let RestOptions {
            address,
            access,
            tls,
            clock,
            log,
        } = options;
        if !address.ip().is_loopback() && access.token.is_none() {
            let message =
                "others than this machine reach it, and there is no token (`http.token-file`)";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let is_secure = tls.is_some();
        let rest = Arc::new(Rest {
            shared: Shared::new(Arc::new(Aside::start(jobs)?), limits),
            access,
            tls,
            clock,
            log,
            listener,
        });
        let (close, closed) = oneshot::channel();
        let (alive, over) = mpsc::channel();
        thread::Builder::new()
            .name("rest".to_owned())
            .spawn(move || {
                let _alive = alive;
                give_way();
                serve(&runtime, &rest, closed);
            })?;
        Ok(Self {
            close: Some(close),
            over,
            patience: limits.close,
            address,
            is_secure,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Ends it. Who waits for an answer gets it, within [`Limits::close`].
    pub fn close(mut self) {
        if let Some(close) = self.close.take() {
            // The thread has ended if nobody hears it.
            let _ = close.send(());
        }
        // It gives way to others, so it may not even come to look at its own limit.
        let _ = self.over.recv_timeout(self.patience);
    }
}

/// The jobs of the process, whose operations are begun on another thread: what they start, as the threads of a storage,
/// does not give way to others.
struct Aside {
    jobs: Arc<dyn Jobs>,
    begin: mpsc::Sender<(String, Operation, Box<dyn Ticket>)>,
}

impl Aside {
    #[expect(
        clippy::disallowed_methods,
        reason = "it begins operations for as long as the server lives, and nothing waits for it"
    )]
    fn start(jobs: Arc<dyn Jobs>) -> io::Result<Self> {
        let (begin, begun) = mpsc::channel::<(String, Operation, Box<dyn Ticket>)>();
        let at_work = Arc::clone(&jobs);
        thread::Builder::new()
            .name("rest-operations".to_owned())
            .spawn(move || {
                for (job, operation, ticket) in begun {
                    at_work.begin(&job, operation, ticket);
                }
            })?;
        Ok(Self { jobs, begin })
    }
}

impl Jobs for Aside {
    fn refused(&self) -> Vec<RefusedFile> {
        self.jobs.refused()
    }

    fn jobs(&self) -> Vec<JobStatus> {
        self.jobs.jobs()
    }

    fn views(&self) -> Vec<JobView> {
        self.jobs.views()
    }

    fn begin(&self, job: &str, operation: Operation, ticket: Box<dyn Ticket>) {
        // If nobody listened, the ticket would say so.
        let _ = self.begin.send((job.to_owned(), operation, ticket));
    }
}

/// How many refused job files are listed: a directory may be full of what is none.
const REFUSED_MAX: usize = 100;

/// What answers are made from, and who gets them.
struct Rest {
    shared: Shared,
    access: Access,
    tls: Option<Tls>,
    clock: Arc<dyn Clock>,
    log: &'static RecentLog,
    listener: TcpListener,
}

/// A certificate with its key, ready to be shown to clients.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(..)")
    }
}

impl Tls {
    /// Both in PEM: the certificate with those that prove it, and its key.
    ///
    /// # Errors
    /// One of them is not what it should be, or they do not belong together, in words.
    pub fn new(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("the certificate is not PEM: {error}"))?;
        if chain.is_empty() {
            let why =
                "the file with the certificate has none in PEM (`-----BEGIN CERTIFICATE-----`)";
            return Err(why.to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                "the file with the key has none in PEM (`-----BEGIN PRIVATE KEY-----`)".to_owned()
            }
            error => format!("the key of the certificate is not PEM: {error}"),
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    "the key is not that of the certificate".to_owned()
                }
                error => format!("the certificate and its key cannot be used: {error}"),
            })?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}

/// Has this thread give way to those of the jobs. If it may not, it does its work all the same.
pub(crate) fn give_way() {
    let _ = rustix::process::setpriority_process(None, NICE);
}

impl Front for Rest {
    const NAME: &'static str = "the REST API";
    type Stream = TcpStream;

    fn shared(&self) -> &Shared {
        &self.shared
    }

    async fn accept(&self) -> io::Result<TcpStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Whom it trusts is said by requests: see [`Access`].
    fn trusts(&self, _: &TcpStream) -> bool {
        true
    }

    async fn answer(self: Arc<Self>, stream: TcpStream, admission: Admission) {
        // Answers are small and written at once.
        let _ = stream.set_nodelay(true);
        let limits = &self.shared.limits;
        let said = |request| answer(&self, admission, request);
        let Some(Tls(tls)) = &self.tls else {
            return front::exchange::<Self, _, _>(limits, stream, said).await;
        };
        match timeout(limits.request, tls.accept(stream)).await {
            Ok(Ok(stream)) => front::exchange::<Self, _, _>(limits, stream, said).await,
            Ok(Err(error)) => tracing::debug!("a connection to the REST API: {error}"),
            Err(_) => tracing::debug!("a connection to the REST API took too long"),
        }
    }
}

fn serve(runtime: &Runtime, rest: &Arc<Rest>, closed: oneshot::Receiver<()>) {
    runtime.block_on(async {
        let mut connections = JoinSet::new();
        // Also if it was dropped: it is of no use to anybody then, and ends soon.
        front::listen(rest, closed, &mut connections).await;
        front::drain(rest, &mut connections).await;
    });
}

/// What every answer says to browsers: what it is and nothing else, for this page only, and not to be kept.
const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

async fn answer(
    rest: &Rest,
    admission: Admission,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    let is_head = request.method() == Method::HEAD;
    let is_ours = is_ours(request.uri().path());
    let answered = match admission {
        Admission::Admitted => route(rest, request).await,
        Admission::Busy | Admission::Forbidden => {
            let max = rest.shared.limits.connections;
            let message = format!("{max} connections to this host are open, and no more can be");
            Err(Refusal::from(Failure::new(Code::Busy, message)))
        }
    };
    let mut response = answered.unwrap_or_else(|refusal| refused(refusal, is_ours));
    if is_head {
        *response.body_mut() = Full::default();
    }
    for (name, value) in HEADERS {
        let name = HeaderName::from_static(name);
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Whether a path is of our own API, beside Flink's.
fn is_ours(path: &str) -> bool {
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let mut segments = path.trim_matches('/').split('/');
    match (segments.next(), segments.next(), segments.next()) {
        (Some("" | "views" | "log"), ..) => true,
        (Some("jobs"), Some(_), of_job) => of_job == Some("operations"),
        _ => false,
    }
}

/// An error, for our clients or for Flink's, which accept nothing but `errors`.
fn refused(refusal: Refusal, is_ours: bool) -> Response {
    let Failure {
        code,
        message,
        hint,
    } = &refusal.failure;
    let said = match hint {
        Some(hint) => format!("{message}; hint: {hint}"),
        None => message.clone(),
    };
    let body = match is_ours {
        true => json!({ "errors": [said], "code": code, "message": message, "hint": hint }),
        false => flink::failure(&refusal.failure),
    };
    let is_unauthorized = refusal.status == StatusCode::UNAUTHORIZED;
    let mut response = refusal.response_with(&body);
    if is_unauthorized {
        let bearer = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
    }
    response
}

async fn route(rest: &Rest, request: hyper::Request<Incoming>) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let asset = page::find(&path);
    let wanted = match asset {
        Some(_) => Wanted::Page,
        None => Wanted::Data,
    };
    let checked = rest.access.check(&parts, wanted);
    checked.map_err(|(status, failure)| Refusal::new(status, failure))?;
    if let Some(asset) = asset {
        return Ok(content(asset.kind, Bytes::from_static(asset.bytes)));
    }
    let segments = path
        .trim_start_matches('/')
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| no_such_path(&path))?;
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let request = hyper::Request::from_parts(parts, body);
    if segments == ["metrics"] {
        only(&Method::GET, &request)?;
        let metrics = metrics::now(rest.shared.jobs.as_ref(), rest.clock.now_ms());
        let text = metrics::prometheus::text(&metrics);
        return Ok(content(
            "text/plain; version=0.0.4; charset=utf-8",
            text.into(),
        ));
    }
    // Flink's clients ask below a version and without.
    let segments = segments.strip_prefix(&["v1"]).unwrap_or(&segments);
    match *segments {
        [] => {
            only(&Method::GET, &request)?;
            let refused = rest.shared.jobs.refused().into_iter().take(REFUSED_MAX);
            let said = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "process": std::process::id(),
                "read-only": rest.access.read_only,
                "refused": refused.collect::<Vec<_>>(),
            });
            Ok(json(StatusCode::OK, &said))
        }
        ["views"] => {
            only(&Method::GET, &request)?;
            let views = rest.shared.jobs.views().into_iter();
            let brief: Vec<JobView> = views.map(JobView::brief).collect();
            Ok(json(StatusCode::OK, &brief))
        }
        ["views", job, "checkpoints", number] => {
            only(&Method::GET, &request)?;
            let views = rest.shared.jobs.views();
            let checkpoint = checkpoint(&views, job, number);
            let checkpoint = checkpoint.ok_or_else(|| no_such_path(request.uri().path()))?;
            Ok(json(StatusCode::OK, checkpoint))
        }
        ["log"] => {
            only(&Method::GET, &request)?;
            let said = json!({ "lines": rest.log.lines() });
            Ok(json(StatusCode::OK, &said))
        }
        ["jobs", job, "operations"] => {
            only(&Method::POST, &request)?;
            let allowed = |operation: &Operation| {
                let job = find(&rest.shared, job)?.id;
                allow(rest, &job, operation)
            };
            begin(&rest.shared, job, request, &allowed).await
        }
        ["jobs", job, "operations", id] => {
            only(&Method::GET, &request)?;
            let poll = Poll::parse(request.uri().query(), rest.shared.limits.wait)?;
            let entry = find_operation(&rest.shared, job, id)?;
            Ok(status(&entry, poll).await)
        }
        _ => flink(rest, segments, request).await,
    }
}

/// A checkpoint that is remembered of the job with this rest-id.
fn checkpoint<'a>(views: &'a [JobView], job: &str, number: &str) -> Option<&'a Checkpoint> {
    let number: u64 = number.parse().ok()?;
    let view = views.iter().find(|view| view.rest_id == job)?;
    let mut history = view.checkpoints.history.iter();
    history.find(|it| it.id == number).map(AsRef::as_ref)
}

/// Answers as Flink does, whose paths are without the version here.
async fn flink(
    rest: &Rest,
    path: &[&str],
    request: hyper::Request<Incoming>,
) -> Result<Response, Refusal> {
    let method = request.method().clone();
    let query = request.uri().query().map(str::to_owned);
    let query = query.as_deref();
    // Flink's client sends a body with each of its requests.
    match (method.as_str(), path) {
        ("GET" | "HEAD", ["jobs", job, "savepoints", id]) => {
            operation(rest, job, id, operations::location)
        }
        ("GET" | "HEAD", ["jobs", job, "rescaling", id]) => {
            operation(rest, job, id, operations::done)
        }
        ("GET" | "HEAD", ["jobs", job, "checkpoints", id]) if *id != "config" => {
            operation(rest, job, id, operations::number)
        }
        ("GET" | "HEAD", ["savepoint-disposal", id]) => {
            let entry = rest.shared.operations.find(OF_HOST, id);
            let entry = entry.ok_or_else(|| no_such_path(request.uri().path()))?;
            Ok(json(StatusCode::OK, &operations::done(&entry.now())))
        }
        ("GET" | "HEAD", _) if flink::is_known(path) || allowed_methods(path).is_none() => {
            let views = rest.shared.jobs.views();
            match flink::answer(&views, path, query, rest.clock.now_ms()) {
                Some(Ok(answer)) => Ok(json(StatusCode::OK, &answer)),
                Some(Err((status, message))) => Err(Refusal::new(
                    StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
                    Failure::bad_request(message),
                )),
                None => Err(no_such_path(request.uri().path())),
            }
        }
        ("POST", ["jobs", job, what @ ("savepoints" | "checkpoints" | "stop")]) => {
            let body = read(&rest.shared, request.into_body()).await?;
            let asked = match *what {
                "savepoints" => operations::savepoint(&body),
                "checkpoints" => operations::checkpoint(&body),
                _ => operations::stop(&body),
            };
            let request_id = trigger(rest, job, asked?)?;
            Ok(json(
                StatusCode::ACCEPTED,
                &operations::triggered(&request_id),
            ))
        }
        ("PATCH", ["jobs", job, "rescaling"]) => {
            let request_id = trigger(rest, job, operations::rescaling(query)?)?;
            Ok(json(StatusCode::OK, &operations::triggered(&request_id)))
        }
        ("PATCH", ["jobs", job]) => {
            // Nobody asks how far it is: Flink's client gets no id.
            enter_operation(rest, job, operations::cancel(query)?)?;
            Ok(json(StatusCode::ACCEPTED, &json!({})))
        }
        ("POST", ["savepoint-disposal"]) => {
            let body = read(&rest.shared, request.into_body()).await?;
            let asked = operations::disposal(&body)?;
            let request_id = dispose(rest, asked)?;
            Ok(json(
                StatusCode::ACCEPTED,
                &operations::triggered(&request_id),
            ))
        }
        _ => Err(match allowed_methods(path) {
            Some(methods) => method_not_allowed(&request, methods),
            None => no_such_path(request.uri().path()),
        }),
    }
}

/// What can be done with a path of Flink's; `None`: there is none.
fn allowed_methods(path: &[&str]) -> Option<&'static str> {
    Some(match path {
        ["jobs", _] => "GET, HEAD, PATCH",
        ["jobs", _, "checkpoints"] => "GET, HEAD, POST",
        ["jobs", _, "savepoints" | "stop"] | ["savepoint-disposal"] => "POST",
        ["jobs", _, "rescaling"] => "PATCH",
        ["jobs", _, "savepoints" | "rescaling" | "checkpoints", _] | ["savepoint-disposal", _] => {
            "GET, HEAD"
        }
        _ if flink::is_known(path) => "GET, HEAD",
        _ => return None,
    })
}

/// How far an operation is, as Flink says it.
fn operation(
    rest: &Rest,
    job: &str,
    id: &str,
    said: fn(&OperationStatus) -> serde_json::Value,
) -> Result<Response, Refusal> {
    let entry = find_operation(&rest.shared, job, id)?;
    Ok(json(StatusCode::OK, &said(&entry.now())))
}

/// Begins what is asked for. Returns the id under which it can be asked how far it is.
fn trigger(rest: &Rest, job: &str, asked: Asked) -> Result<String, Refusal> {
    let entry = enter_operation(rest, job, asked)?;
    entry.expect_client();
    Ok(entry.now().request_id)
}

/// Begins to delete a savepoint that may be deleted from here. Returns the id under which it can be asked how far it is.
fn dispose(rest: &Rest, asked: Asked) -> Result<String, Refusal> {
    if let Operation::Dispose { savepoint } = &asked.operation {
        let views = rest.shared.jobs.views();
        let is_needed = |view: &&JobView| {
            let from = view.started_from.as_deref();
            !view.status.state.has_ended() && from.is_some_and(|from| is_same(from, savepoint))
        };
        if let Some(view) = views.iter().find(is_needed) {
            let message = format!(
                "job `{}` was started from this savepoint, and may need it until it has ended",
                operator::text::name(&view.status.id)
            );
            return Err(Failure::new(Code::Conflict, message).into());
        }
        let own = views.iter().filter_map(own_savepoints);
        rest.access.check_disposal(savepoint, own)?;
    }
    let mut request = Request::new(asked.operation)?;
    if let Some(id) = asked.trigger_id {
        request.request_id = id;
    }
    let entry = enter_as(&rest.shared, OF_HOST, request)?;
    entry.expect_client();
    Ok(entry.now().request_id)
}

fn enter_operation(rest: &Rest, job: &str, asked: Asked) -> Result<Arc<Entry>, Refusal> {
    let job = find(&rest.shared, job)?.id;
    allow(rest, &job, &asked.operation)?;
    let mut request = Request::new(asked.operation)?;
    if let Some(id) = asked.trigger_id {
        request.request_id = id;
    }
    Ok(enter(&rest.shared, &job, request)?)
}

/// Whether an operation on the job with this id may be asked for from here.
fn allow(rest: &Rest, job: &str, operation: &Operation) -> Result<(), Failure> {
    let directory = match operation {
        Operation::Savepoint { directory } => directory,
        Operation::Stop {
            savepoint_directory,
            ..
        } => savepoint_directory,
        Operation::Dispose { .. } => {
            let message = "a savepoint is deleted by `POST /savepoint-disposal`";
            return Err(Failure::bad_request(message));
        }
        _ => return Ok(()),
    };
    let Some(directory) = directory else {
        return Ok(());
    };
    let views = rest.shared.jobs.views();
    let view = views.iter().find(|view| view.status.id == job);
    let own = view.and_then(own_savepoints);
    rest.access.check_savepoint(directory, own)
}

/// The directory that a job has its savepoints in.
fn own_savepoints(view: &JobView) -> Option<&str> {
    let directory = view.config.get("checkpoint.savepoint-dir");
    directory.map(String::as_str)
}

fn no_such_path(path: &str) -> Refusal {
    let message = format!("there is no path `{}`", operator::text::name(path));
    let failure = Failure::new(Code::NotFound, message);
    failure
        .hint("see docs/rest.md for those that there are")
        .into()
}

fn content(kind: &'static str, bytes: Bytes) -> Response {
    let mut response = Response::new(Full::new(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
