//! A small runtime, for what is asynchronous beneath a blocking trait.
//!
//! Futures are handed to it over a channel. It is never entered on the caller's thread (`block_on`),
//! which would panic if that thread belongs to another runtime.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// The runtime of a storage.
#[derive(Debug)]
pub(super) struct Executor {
    /// There until the drop.
    runtime: Option<Runtime>,
    /// How long a call may take, with all that is tried again in it.
    limit: Option<Duration>,
}

impl Executor {
    /// A runtime whose calls take `limit` at most.
    pub(super) fn new(limit: Option<Duration>) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("checkpoint-storage")
            .enable_all()
            .build()?;
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
        if let Some(runtime) = self.runtime.take() {
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
