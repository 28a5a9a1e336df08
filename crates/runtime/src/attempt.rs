//! What an attempt at a job works with, and how it ends.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use checkpoint::store::{CheckpointStore, Completed};
use operator::clock::Clock;
use tracing::Span;

use crate::error::{Class, Error};
use crate::events::{Event, Events};
use crate::graph::JobGraph;
use crate::options::Options;
use crate::requests::{Requests, Stop};

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum End {
    Finished,
    Stopped(Stop),
    Failed(Error, Class),
}

/// What an attempt works with.
pub(crate) struct Attempt<'a> {
    pub(crate) graph: &'a JobGraph,
    pub(crate) options: &'a Options,
    pub(crate) store: &'a CheckpointStore,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) restore: Option<&'a Completed>,
    /// The job has drained before: this attempt only has to be there once more.
    pub(crate) drained: bool,
    pub(crate) number: u32,
    /// When it began, in milliseconds since 1970.
    pub(crate) begun_at: i64,
    pub(crate) next_id: u64,
    pub(crate) events: Events,
    pub(crate) receiver: &'a Receiver<(u32, Event)>,
    pub(crate) requests: &'a Requests,
}

impl Attempt<'_> {
    /// The span of its restore, for the log; `None`: it starts fresh.
    pub(crate) fn span_of_restore(&self) -> Option<Span> {
        let checkpoint = self.restore?.metadata().id;
        let attempt = self.number;
        Some(tracing::info_span!("restore", checkpoint, attempt))
    }
}
