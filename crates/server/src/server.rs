//! The server: one thread, one socket.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::Jobs;
use crate::directories::{Directories, Socket};
use crate::http::{Admission, answer};
use crate::operations::Operations;

/// The bytes that the head of a request may have.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;

/// How many clients may wait for the answer that there are too many. One more is not answered.
pub(crate) const REFUSALS_MAX: usize = 64;

/// What clients may ask for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Bytes of a request.
    pub body: usize,
    /// How long a request may take to arrive, and an answer to be read.
    pub request: Duration,
    /// How long an answer may wait for an operation.
    pub wait: Duration,
    /// Operations that are remembered.
    pub operations: usize,
    /// How long clients get for their answers when the process ends.
    pub close: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            body: 64 << 10,
            request: Duration::from_secs(10),
            wait: Duration::from_secs(60),
            operations: 1000,
            close: Duration::from_secs(2),
        }
    }
}

/// Answers clients for as long as it lives.
#[derive(Debug)]
pub struct Server {
    /// Dropped or used, it ends the thread.
    close: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    socket: Socket,
}

impl Server {
    /// Makes a socket of this process in the directory of the user, and answers on it.
    ///
    /// # Errors
    /// The directory is not private, or there is no socket or thread to be had.
    pub fn start(jobs: Arc<dyn Jobs>) -> io::Result<Self> {
        Self::start_with(jobs, Directories::of_user(), Limits::default())
    }

    /// As [`start`](Self::start), in another place and with other limits.
    ///
    /// # Errors
    /// As there.
    #[expect(
        clippy::disallowed_methods,
        reason = "it serves all jobs of the process, before, between and after their attempts"
    )]
    pub fn start_with(
        jobs: Arc<dyn Jobs>,
        directories: Directories,
        limits: Limits,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (socket, listener) = directories.bind()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::from_std(listener)?
        };
        let serving = Arc::new(Serving {
            shared: Shared::new(jobs, limits),
            directories,
            room: Arc::new(Semaphore::new(limits.connections)),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        });
        let (close, closed) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || serve(&runtime, serving, listener, closed))?;
        Ok(Self {
            close: Some(close),
            thread: Some(thread),
            socket,
        })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.socket.path()
    }

    /// Ends it: no new operation is begun, those who wait for one get their answer, and the socket is removed. Takes
    /// at most [`Limits::close`]. It is called when all jobs have ended, so that every ticket was used or dropped;
    /// an operation whose ticket was not fails.
    pub fn close(mut self) {
        if let Some(close) = self.close.take() {
            // The thread has ended if nobody hears it.
            let _ = close.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that answers on the control socket panicked");
        }
    }
}

/// What answers are made from.
pub(crate) struct Shared {
    pub(crate) jobs: Arc<dyn Jobs>,
    pub(crate) operations: Operations,
    pub(crate) limits: Limits,
    pub(crate) is_closing: AtomicBool,
}

impl Shared {
    pub(crate) fn new(jobs: Arc<dyn Jobs>, limits: Limits) -> Self {
        Self {
            jobs,
            operations: Operations::new(limits.operations),
            limits,
            is_closing: AtomicBool::new(false),
        }
    }
}

/// What the server has at hand.
struct Serving {
    shared: Shared,
    directories: Directories,
    room: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

fn serve(
    runtime: &Runtime,
    serving: Arc<Serving>,
    listener: UnixListener,
    closed: oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        let mut connections = JoinSet::new();
        let sweeping = Arc::clone(&serving);
        connections.spawn(async move {
            // What killed hosts have left. Whatever is wrong here was reported when the socket was made.
            let _ = sweeping.directories.connect_all().await;
        });
        let is_asked = listen(&serving, &listener, closed, &mut connections).await;
        if is_asked {
            serving.shared.is_closing.store(true, Ordering::Relaxed);
            drain(&serving, &listener, &mut connections).await;
        }
    });
}

/// Answers until the server is closed (`true`) or dropped.
async fn listen(
    serving: &Arc<Serving>,
    listener: &UnixListener,
    mut closed: oneshot::Receiver<()>,
    connections: &mut JoinSet<()>,
) -> bool {
    loop {
        tokio::select! {
            biased;
            asked = &mut closed => return asked.is_ok(),
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => accept(serving, accepted.map(|(stream, _)| stream), connections).await,
        }
    }
}

/// Answers until nobody waits for an outcome any more. A client asks again and again how far an operation is, and the
/// process may end while it is between two questions: so what was begun can still be asked for, and new connections
/// are accepted to the end.
async fn drain(serving: &Arc<Serving>, listener: &UnixListener, connections: &mut JoinSet<()>) {
    let now = Instant::now();
    let end = now + serving.shared.limits.close;
    // What has not ended by then, although all jobs have, never will.
    let give_up = now + serving.shared.limits.close / 2;
    let mut has_given_up = false;
    loop {
        let expected = serving.shared.operations.expected_until();
        let expected = expected.filter(|until| *until > Instant::now());
        if connections.is_empty() && expected.is_none() {
            return;
        }
        tokio::select! {
            biased;
            () = sleep_until(end) => return,
            () = sleep_until(give_up), if !has_given_up => {
                has_given_up = true;
                serving.shared.operations.end_all();
            }
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => accept(serving, accepted.map(|(stream, _)| stream), connections).await,
            () = sleep_until(expected.unwrap_or(end)) => {}
        }
    }
}

async fn accept(
    serving: &Arc<Serving>,
    accepted: io::Result<UnixStream>,
    connections: &mut JoinSet<()>,
) {
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => {
            // Too many open files: it passes, and until then there is nothing to do.
            tracing::warn!("a connection to the control socket is not accepted: {error}");
            sleep(Duration::from_millis(100)).await;
            return;
        }
    };
    let peer = stream.peer_cred().map(|peer| peer.uid());
    let is_ours = peer.is_ok_and(|user| serving.directories.trusts(user));
    let permit = match is_ours {
        true => Arc::clone(&serving.room).try_acquire_owned().ok(),
        false => None,
    };
    let (admission, permit) = match (permit, is_ours) {
        (Some(permit), _) => (Admission::Admitted, permit),
        (None, is_ours) => {
            // Not without a bound either.
            let Ok(permit) = Arc::clone(&serving.refusals).try_acquire_owned() else {
                return;
            };
            match is_ours {
                true => (Admission::Busy, permit),
                false => (Admission::Forbidden, permit),
            }
        }
    };
    let limits = serving.shared.limits;
    let serving = Arc::clone(serving);
    connections.spawn(async move {
        let service = service_fn(|request| answer(&serving.shared, admission, request));
        // One request each: nobody holds a connection without asking for something.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request)
            .keep_alive(false)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        // Head, body, wait, answer.
        let longest = limits.request * 3 + limits.wait;
        match timeout(longest, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("a connection to the control socket: {error}"),
            Err(_) => tracing::debug!("a connection to the control socket took too long"),
        }
        drop(permit);
    });
}

/// A panic is ours, and ends one answer only.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("an answer on the control socket panicked: {error}");
    }
}
