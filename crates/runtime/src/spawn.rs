//! The one place that starts threads. A panic in one is an error like any other, and what it logs is of the span in which it
//! was started: that of its job, if there are several.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use tracing::Span;

use crate::error::{Error, panic_message};
use crate::events::{Event, Events};

/// Starts a thread that belongs to no attempt. A panic in it ends it, and nothing else.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place that starts threads"
)]
pub(crate) fn background(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let name = name.to_owned();
    let span = Span::current();
    let body = move || {
        let _of_job = span.entered();
        drop(catch_unwind(AssertUnwindSafe(body)));
    };
    Builder::new().name(name).spawn(body).map_err(Error::Spawn)
}

/// The threads of an attempt.
#[derive(Debug, Default)]
pub(crate) struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    /// Starts a thread. What it fails with, or panics with, is reported once as [`Event::Failed`].
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place that starts threads"
    )]
    pub(crate) fn spawn(
        &mut self,
        name: String,
        events: Events,
        body: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let place = name.clone();
        let span = Span::current();
        let run = move || {
            let _of_job = span.entered();
            match catch_unwind(AssertUnwindSafe(body)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => events.send(Event::Failed(Box::new(error))),
                Err(panic) => {
                    let message = panic_message(&*panic);
                    events.send(Event::Failed(Box::new(Error::Panic { place, message })));
                }
            }
        };
        let handle = Builder::new().name(name).spawn(run).map_err(Error::Spawn)?;
        self.0.push(handle);
        Ok(())
    }

    /// Waits for all of them on a thread of its own, which calls `done` then, and does something meanwhile.
    pub(crate) fn join_while(self, done: impl FnOnce() + Send, meanwhile: impl FnOnce()) {
        std::thread::scope(|scope| {
            scope.spawn(move || {
                self.join();
                done();
            });
            meanwhile();
        });
    }

    /// Waits for all of them.
    pub(crate) fn join(self) {
        for handle in self.0 {
            // A panic was caught inside and reported.
            let _ = handle.join();
        }
    }
}
