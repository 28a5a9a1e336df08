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
    pub(super) fn start<T: Send + 'static>(
        &self,
        future: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Running<T> {
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
    pub(super) fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> object_store::Result<T> {
        self.start(future).wait()
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

async fn within<T>(
    limit: Option<Duration>,
    future: impl Future<Output = object_store::Result<T>>,
) -> object_store::Result<T> {
    let Some(limit) = limit else {
        return future.await;
    };
    match tokio::time::timeout(limit, future).await {
        Ok(outcome) => outcome,
        Err(_) => Err(object_store::Error::Generic {
            store: "ObjectStorage",
            source: format!("no answer within {limit:?}").into(),
        }),
    }
}

/// A call that was started.
#[derive(Debug)]
pub(super) struct Running<T>(mpsc::Receiver<object_store::Result<T>>);

impl<T> Running<T> {
    /// Waits for its outcome.
    pub(super) fn wait(self) -> object_store::Result<T> {
        self.0.recv().unwrap_or_else(|_| {
            Err(object_store::Error::Generic {
                store: "ObjectStorage",
                source: "the storage gave no answer".into(),
            })
        })
    }
}
