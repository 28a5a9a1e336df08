//! The REST API, the metrics and the web page, on TCP: for Flink's clients, for Prometheus, and for people.
//!
//! It is served by a thread of its own, which gives way to those of the jobs: however much is asked of it, records
//! come first. See [`Access`] for who gets an answer.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use operator::clock::Clock;
use percent_encoding::percent_decode_str;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use crate::access::{Access, Wanted};
use crate::api::{Code, Failure, Operation, OperationStatus, Request};
use crate::flink::operations::{self, Asked};
use crate::http::{
    Admission, Poll, Refusal, Response, begin, enter, find, find_operation, json, only, read,
    status,
};
use crate::server::{HEAD_BYTES_MAX, Limits, REFUSALS_MAX, Shared};
use crate::view::JobView;
use crate::{Jobs, flink, metrics, page};

/// How much the thread gives way to others: with this, a tenth of the time of one that computes all the time.
const NICE: i32 = 10;

/// Where and to whom the REST API is served.
#[derive(Clone, Debug)]
pub struct RestOptions {
    /// The address; port 0 is any that is free.
    pub address: SocketAddr,
    /// Who gets an answer.
    pub access: Access,
    /// Certificate chain and private key, in PEM; without them requests and answers are plain text.
    pub tls: Option<(Vec<u8>, Vec<u8>)>,
    /// Tells what time it is.
    pub clock: Arc<dyn Clock>,
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
        Self::start_with(jobs, options, Limits::default())
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
        } = options;
        if !address.ip().is_loopback() && access.token.is_none() {
            let message =
                "others than this machine reach it, and there is no token (`http.token-file`)";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let tls = tls.map(|(chain, key)| acceptor(&chain, &key)).transpose()?;
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
            shared: Shared::new(jobs, limits),
            access,
            tls,
            clock,
            room: Arc::new(Semaphore::new(limits.connections)),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        });
        let (close, closed) = oneshot::channel();
        let (alive, over) = mpsc::channel();
        thread::Builder::new()
            .name("rest".to_owned())
            .spawn(move || {
                let _alive = alive;
                // If it may not, it answers all the same.
                let _ = rustix::process::setpriority_process(None, NICE);
                serve(&runtime, &rest, &listener, closed);
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

/// What answers are made from, and who gets them.
struct Rest {
    shared: Shared,
    access: Access,
    tls: Option<TlsAcceptor>,
    clock: Arc<dyn Clock>,
    room: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

fn acceptor(chain: &[u8], key: &[u8]) -> io::Result<TlsAcceptor> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {error}"))
    };
    let chain = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong("the certificate is not PEM", &error))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| wrong("the key of the certificate is not PEM", &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| wrong("the certificate and its key cannot be used", &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn serve(
    runtime: &Runtime,
    rest: &Arc<Rest>,
    listener: &TcpListener,
    mut closed: oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                _ = &mut closed => break,
                Some(ended) = connections.join_next() => report(ended),
                accepted = listener.accept() => accept(rest, accepted, &mut connections).await,
            }
        }
        rest.shared.is_closing.store(true, Ordering::Relaxed);
        drain(rest, listener, &mut connections).await;
    });
}

/// Answers until nobody waits for an outcome any more: clients ask again and again how far an operation is, and the
/// process may end while they are between two questions.
async fn drain(rest: &Arc<Rest>, listener: &TcpListener, connections: &mut JoinSet<()>) {
    let now = Instant::now();
    let end = now + rest.shared.limits.close;
    // What has not ended by then, although all jobs have, never will.
    let give_up = now + rest.shared.limits.close / 2;
    let mut has_given_up = false;
    loop {
        let expected = rest.shared.operations.expected_until();
        let expected = expected.filter(|until| *until > Instant::now());
        if connections.is_empty() && expected.is_none() {
            return;
        }
        tokio::select! {
            biased;
            () = sleep_until(end) => return,
            () = sleep_until(give_up), if !has_given_up => {
                has_given_up = true;
                rest.shared.operations.end_all();
            }
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => accept(rest, accepted, connections).await,
            () = sleep_until(expected.unwrap_or(end)) => {}
        }
    }
}

/// A panic is ours, and ends one answer only.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("an answer of the REST API panicked: {error}");
    }
}

async fn accept(
    rest: &Arc<Rest>,
    accepted: io::Result<(TcpStream, SocketAddr)>,
    connections: &mut JoinSet<()>,
) {
    let stream = match accepted {
        Ok((stream, _)) => stream,
        Err(error) => {
            // Too many open files: it passes, and until then there is nothing to do.
            tracing::warn!("a connection to the REST API is not accepted: {error}");
            sleep(Duration::from_millis(100)).await;
            return;
        }
    };
    let room = Arc::clone(&rest.room).try_acquire_owned();
    let (admission, permit) = match room {
        Ok(permit) => (Admission::Admitted, permit),
        Err(_) => match Arc::clone(&rest.refusals).try_acquire_owned() {
            Ok(permit) => (Admission::Busy, permit),
            // Not without a bound either.
            Err(_) => return,
        },
    };
    connections.spawn(connection(Arc::clone(rest), stream, admission, permit));
}

async fn connection(
    rest: Arc<Rest>,
    stream: TcpStream,
    admission: Admission,
    permit: OwnedSemaphorePermit,
) {
    let limits = rest.shared.limits;
    // Answers are small and written at once.
    let _ = stream.set_nodelay(true);
    let answering = async {
        match &rest.tls {
            None => exchange(&rest, stream, admission).await,
            Some(tls) => match timeout(limits.request, tls.accept(stream)).await {
                Ok(Ok(stream)) => exchange(&rest, stream, admission).await,
                Ok(Err(error)) => tracing::debug!("a connection to the REST API: {error}"),
                Err(_) => tracing::debug!("a connection to the REST API took too long"),
            },
        }
    };
    // Head, body, wait, answer.
    let longest = match admission {
        Admission::Admitted => limits.request * 3 + limits.wait,
        Admission::Busy | Admission::Forbidden => limits.request,
    };
    if timeout(longest, answering).await.is_err() {
        tracing::debug!("a connection to the REST API took too long");
    }
    drop(permit);
}

async fn exchange<S>(rest: &Rest, stream: S, admission: Admission)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let service = service_fn(|request| answer(rest, admission, request));
    // One request each: nobody holds a connection without asking for something.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(rest.shared.limits.request)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("a connection to the REST API: {error}");
    }
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
    path == "/views" || path.contains("/operations")
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
        false => flink::failure(&refusal.failure).1,
    };
    let mut response = json(refusal.status, &body);
    if refusal.status == StatusCode::UNAUTHORIZED {
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
    if segments == ["metrics"] {
        let views = rest.shared.jobs.views();
        let process = metrics::of_this_process();
        let text = metrics::text(
            &views,
            &process,
            env!("CARGO_PKG_VERSION"),
            rest.clock.now_ms(),
        );
        return Ok(content(
            "text/plain; version=0.0.4; charset=utf-8",
            text.into(),
        ));
    }
    // Flink's clients ask below a version and without.
    let segments = segments.strip_prefix(&["v1"]).unwrap_or(&segments);
    let request = hyper::Request::from_parts(parts, body);
    match *segments {
        [] => {
            only(&Method::GET, &request)?;
            let said = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "process": std::process::id(),
                "read-only": rest.access.read_only,
            });
            Ok(json(StatusCode::OK, &said))
        }
        ["views"] => {
            only(&Method::GET, &request)?;
            Ok(json(StatusCode::OK, &rest.shared.jobs.views()))
        }
        ["jobs", job, "operations"] => {
            only(&Method::POST, &request)?;
            let allowed = |operation: &Operation| allow(rest, job, operation);
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
        ("GET" | "HEAD", _) => {
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
            trigger(rest, job, operations::cancel(query)?)?;
            Ok(json(StatusCode::ACCEPTED, &json!({})))
        }
        ("POST", ["savepoint-disposal"]) => Err(operations::disposal().into()),
        _ => Err(no_such_path(request.uri().path())),
    }
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
    let job = find(&rest.shared, job)?.id;
    allow(rest, &job, &asked.operation)?;
    let mut request = Request::new(asked.operation)?;
    if let Some(id) = asked.trigger_id {
        request.request_id = id;
    }
    let request_id = request.request_id.clone();
    enter(&rest.shared, &job, request)?.expect_client();
    Ok(request_id)
}

/// Whether an operation may be asked for from here.
fn allow(rest: &Rest, job: &str, operation: &Operation) -> Result<(), Failure> {
    let directory = match operation {
        Operation::Savepoint { directory } => directory,
        Operation::Stop {
            savepoint_directory,
            ..
        } => savepoint_directory,
        _ => return Ok(()),
    };
    let Some(directory) = directory else {
        return Ok(());
    };
    let own = own_savepoints(&rest.shared.jobs.views(), job);
    rest.access.check_savepoint(directory, own.as_deref())
}

/// The directory that a job has its savepoints in.
fn own_savepoints(views: &[JobView], job: &str) -> Option<String> {
    let view = views
        .iter()
        .find(|view| view.rest_id == job || view.status.id == job || view.status.name == job)?;
    view.config.get("checkpoint.savepoint-dir").cloned()
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
