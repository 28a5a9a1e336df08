//! What the socket and TCP have in common: connections are accepted as far as there is room, each is answered within
//! the limits, and at the end those who wait get their answer.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::http::{Admission, Response};
use crate::server::{HEAD_BYTES_MAX, Limits, Shared};

/// Where clients connect.
pub(crate) trait Front: Send + Sync + 'static {
    /// What it is called in the log.
    const NAME: &'static str;

    /// A connection.
    type Stream: Send + 'static;

    /// What its answers are made from.
    fn shared(&self) -> &Shared;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Whether whoever is at the other end may ask for something at all.
    fn trusts(&self, stream: &Self::Stream) -> bool;

    /// Answers the one request of a connection.
    fn answer(
        self: Arc<Self>,
        stream: Self::Stream,
        admission: Admission,
    ) -> impl Future<Output = ()> + Send;
}

/// Answers until it is closed (`true`) or dropped.
pub(crate) async fn listen<F: Front>(
    front: &Arc<F>,
    mut closed: oneshot::Receiver<()>,
    connections: &mut JoinSet<()>,
) -> bool {
    loop {
        tokio::select! {
            biased;
            asked = &mut closed => return asked.is_ok(),
            Some(ended) = connections.join_next() => report::<F>(ended),
            accepted = front.accept() => admit(front, accepted, connections).await,
        }
    }
}

/// Answers until nobody waits for an outcome any more. A client asks again and again how far an operation is, and the
/// process may end while it is between two questions: so what was begun can still be asked for, and new connections
/// are accepted to the end.
pub(crate) async fn drain<F: Front>(front: &Arc<F>, connections: &mut JoinSet<()>) {
    let shared = front.shared();
    shared.is_closing.store(true, Ordering::Relaxed);
    let now = Instant::now();
    let end = now + shared.limits.close;
    // What has not ended by then, although all jobs have, never will.
    let give_up = now + shared.limits.close / 2;
    let mut has_given_up = false;
    loop {
        let expected = shared.operations.expected_until();
        let expected = expected.filter(|until| *until > Instant::now());
        if connections.is_empty() && expected.is_none() {
            return;
        }
        tokio::select! {
            biased;
            () = sleep_until(end) => return,
            () = sleep_until(give_up), if !has_given_up => {
                has_given_up = true;
                shared.operations.end_all();
            }
            Some(ended) = connections.join_next() => report::<F>(ended),
            accepted = front.accept() => admit(front, accepted, connections).await,
            () = sleep_until(expected.unwrap_or(end)) => {}
        }
    }
}

/// A panic is ours, and ends one answer only.
fn report<F: Front>(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("an answer of {} panicked: {error}", F::NAME);
    }
}

async fn admit<F: Front>(
    front: &Arc<F>,
    accepted: io::Result<F::Stream>,
    connections: &mut JoinSet<()>,
) {
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => {
            // Too many open files: it passes, and until then there is nothing to do.
            tracing::warn!("a connection to {} is not accepted: {error}", F::NAME);
            sleep(Duration::from_millis(100)).await;
            return;
        }
    };
    let shared = front.shared();
    let is_trusted = front.trusts(&stream);
    let permit = match is_trusted {
        true => Arc::clone(&shared.room).try_acquire_owned().ok(),
        false => None,
    };
    let (admission, permit) = match (permit, is_trusted) {
        (Some(permit), _) => (Admission::Admitted, permit),
        (None, is_trusted) => {
            // Not without a bound either.
            let Ok(permit) = Arc::clone(&shared.refusals).try_acquire_owned() else {
                return;
            };
            match is_trusted {
                true => (Admission::Busy, permit),
                false => (Admission::Forbidden, permit),
            }
        }
    };
    let limits = shared.limits;
    let answering = Arc::clone(front).answer(stream, admission);
    connections.spawn(async move {
        // Head, body, wait, answer.
        let longest = match admission {
            Admission::Admitted => limits.request * 3 + limits.wait,
            Admission::Busy | Admission::Forbidden => limits.request,
        };
        if timeout(longest, answering).await.is_err() {
            tracing::debug!("a connection to {} took too long", F::NAME);
        }
        drop(permit);
    });
}

/// Reads the request of a connection, and writes what `answer` makes of it.
pub(crate) async fn exchange<F, S, A>(
    limits: &Limits,
    stream: S,
    answer: impl Fn(hyper::Request<Incoming>) -> A,
) where
    F: Front,
    S: AsyncRead + AsyncWrite + Unpin,
    A: Future<Output = Result<Response, Infallible>>,
{
    // One request each: nobody holds a connection without asking for something.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    if let Err(error) = connection.await {
        tracing::debug!("a connection to {}: {error}", F::NAME);
    }
}
