//! The server: one thread, one socket.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::Jobs;
use crate::directories::{Directories, Socket};
use crate::front::{self, Front};
use crate::http::{self, Admission};
use crate::operations::Operations;

/// The bytes that the head of a request may have.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;

/// How many clients may wait for the answer that there are too many. One more is not answered.
const REFUSALS_MAX: usize = 64;

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
            listener,
        });
        let (close, closed) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || serve(&runtime, &serving, closed))?;
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
    /// For those who get an answer.
    pub(crate) room: Arc<Semaphore>,
    /// For those who are told that they get none.
    pub(crate) refusals: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(jobs: Arc<dyn Jobs>, limits: Limits) -> Self {
        Self {
            jobs,
            operations: Operations::new(limits.operations),
            limits,
            is_closing: AtomicBool::new(false),
            room: Arc::new(Semaphore::new(limits.connections)),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        }
    }
}

/// What the server has at hand.
struct Serving {
    shared: Shared,
    directories: Directories,
    listener: UnixListener,
}

impl Front for Serving {
    const NAME: &'static str = "the control socket";
    type Stream = UnixStream;

    fn shared(&self) -> &Shared {
        &self.shared
    }

    async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    fn trusts(&self, stream: &UnixStream) -> bool {
        let peer = stream.peer_cred().map(|peer| peer.uid());
        peer.is_ok_and(|user| self.directories.trusts(user))
    }

    async fn answer(self: Arc<Self>, stream: UnixStream, admission: Admission) {
        let shared = &self.shared;
        let answer = |request| http::answer(shared, admission, request);
        front::exchange::<Self, _, _>(&shared.limits, stream, answer).await;
    }
}

fn serve(runtime: &Runtime, serving: &Arc<Serving>, closed: oneshot::Receiver<()>) {
    runtime.block_on(async {
        let mut connections = JoinSet::new();
        let sweeping = Arc::clone(serving);
        connections.spawn(async move {
            // What killed hosts have left. Whatever is wrong here was reported when the socket was made.
            let _ = sweeping.directories.connect_all().await;
        });
        if front::listen(serving, closed, &mut connections).await {
            front::drain(serving, &mut connections).await;
        }
    });
}
