//! A small runtime, for what is asynchronous beneath a blocking trait: one for all storages of the process, as long as
//! one of them lives.
//!
//! Futures are handed to it over a channel. It is never entered on the caller's thread (`block_on`),
//! which would panic if that thread belongs to another runtime.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// The runtime that storages share: what waits for one of them holds up no other.
static SHARED: Mutex<Weak<Runtime>> = Mutex::new(Weak::new());

/// Threads that move what waits. A call takes little of them, but one may check or sign many megabytes.
const THREADS: usize = 2;

/// An error that can also say that there was no answer.
pub(super) trait Silence {
    /// The error of a call that got no answer, and why.
    fn silence(why: String) -> Self;
}

impl Silence for object_store::Error {
    fn silence(why: String) -> Self {
        Self::Generic {
            store: "ObjectStorage",
            source: why.into(),
        }
    }
}

/// Makes calls of a storage.
#[derive(Debug)]
pub(super) struct Executor {
    /// There until the drop.
    runtime: Option<Arc<Runtime>>,
    /// How long a call may take, with all that is tried again in it.
    limit: Option<Duration>,
}

impl Executor {
    /// A runtime whose calls take `limit` at most.
    pub(super) fn new(limit: Option<Duration>) -> std::io::Result<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = match shared.upgrade() {
            Some(runtime) => runtime,
            None => {
                let runtime = Builder::new_multi_thread()
                    .worker_threads(THREADS)
                    .thread_name("checkpoint-storage")
                    .enable_all()
                    .build()?;
                let runtime = Arc::new(runtime);
                *shared = Arc::downgrade(&runtime);
                runtime
            }
        };
        Ok(Self {
            runtime: Some(runtime),
            limit,
        })
    }

    /// Starts a call.
    pub(super) fn start<T: Send + 'static, E: Silence + Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Running<T, E> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let limit = self.limit;
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                // Nobody waits any more if this fails.
                drop(sender.send(within(limit, future).await));
            });
        }
        Running(receiver)
    }

    /// Makes a call and waits for it.
    pub(super) fn run<T: Send + 'static, E: Silence + Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        self.start(future).wait()
    }

    /// The runtime, for what starts tasks of its own.
    #[cfg(feature = "hdfs")]
    pub(super) fn handle(&self) -> Option<&tokio::runtime::Handle> {
        self.runtime.as_deref().map(Runtime::handle)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // The last one ends it.
        if let Some(runtime) = self.runtime.take().and_then(Arc::into_inner) {
            // Waiting for its threads would panic where the last owner is dropped by async code.
            // At most a read that was begun is running, and nobody waits for it any more.
            runtime.shutdown_background();
        }
    }
}

async fn within<T, E: Silence>(
    limit: Option<Duration>,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(limit) = limit else {
        return future.await;
    };
    match tokio::time::timeout(limit, future).await {
        Ok(outcome) => outcome,
        Err(_) => Err(E::silence(format!("no answer within {limit:?}"))),
    }
}

/// A call that was started.
#[derive(Debug)]
pub(super) struct Running<T, E = object_store::Error>(mpsc::Receiver<Result<T, E>>);

impl<T, E: Silence> Running<T, E> {
    /// Waits for its outcome.
    pub(super) fn wait(self) -> Result<T, E> {
        self.0
            .recv()
            .unwrap_or_else(|_| Err(E::silence("the storage gave no answer".to_owned())))
    }
}
