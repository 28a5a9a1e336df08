//! What the runtime asks of a source.

use std::fmt;
use std::sync::Arc;

use dataflow::{Batch, CheckpointId};

use crate::{BoxError, SubtaskContext};

/// One piece of a source's or sink's position, readable JSON. A subtask has any number of them; at a
/// restore all of an operator's parts are shown to every new subtask, which takes those that are its
/// own. So a restore at another parallelism is the connector's to arrange, because it alone knows what a
/// part means.
pub type Part = serde_json::Value;

/// One subtask's instance of a source. Lives on one thread.
pub trait Source: Send {
    /// Appends records to `batch` (which may hold some already) until [`Batch::is_full`] or no more
    /// are at hand. Must not wait for input that may never come: a source that waits does so on a
    /// thread of its own and calls its [`Waker`], or says when to ask again.
    ///
    /// # Errors
    /// The input cannot be read; names the place.
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError>;

    /// The position after the last record that was polled.
    ///
    /// # Errors
    /// The position is unknown.
    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError>;

    /// The watermark of all that was polled: no record with an event time at or below it follows, except late
    /// ones. Milliseconds since 1970; asked after each poll, and a lower one than before changes nothing.
    /// `None` as long as there is none. At the end of its input every source has the highest one, whatever it says.
    fn watermark(&self) -> Option<i64> {
        None
    }

    /// Whether nothing has come for so long that nobody is to wait for this source's watermark. Asked after each
    /// poll, like the watermark.
    fn is_idle(&self) -> bool {
        false
    }

    /// Checkpoint `id` is complete, which has a position of this source in it. Whatever fails from now on, the
    /// job goes back to this checkpoint at most: what was read before it may be acknowledged where it came from.
    /// Not called for a checkpoint that is complete when the job has ended already, nor for certain after a crash.
    ///
    /// # Errors
    /// The other side refuses, which fails the job.
    fn checkpoint_complete(&mut self, id: CheckpointId) -> Result<(), BoxError> {
        let _ = id;
        Ok(())
    }

    /// From now on a piece of its input that it cannot read as a record is left out and is to be had from
    /// [`Source::take_unreadable`], where it made [`Source::poll`] fail before. What cannot be read at all still does.
    /// Called before the first poll, and only for sources of connectors that know of it.
    fn leave_out_unreadable(&mut self) {}

    /// What the last poll has left out, which was at most one: it follows the records of that poll. The position
    /// is after it.
    fn take_unreadable(&mut self) -> Option<Unreadable> {
        None
    }

    /// Where a record was read, in words for a person: ``line 7 of `in/a.csv` ``. `back` counts backwards from
    /// the record that was polled last, which is 0. `None` if that is not known any more, or records are in no
    /// place that can be looked at.
    fn origin(&self, back: u64) -> Option<String> {
        let _ = back;
        None
    }
}

/// A piece of a source's input that is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Why.
    pub message: String,
    /// Where it is, in words as of [`Source::origin`].
    pub origin: String,
    /// Its bytes, or as many as are kept.
    pub bytes: Vec<u8>,
    /// Whether these are all.
    pub is_whole: bool,
}

/// What a [`Source`] has to say after a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// There is more at once.
    More,
    /// Nothing more now. Ask again when the waker was called, or at this time (milliseconds since
    /// the epoch, the runtime's clock) if one is given.
    Idle {
        /// When to ask again.
        until: Option<i64>,
    },
    /// There will never be more.
    Ended,
}

/// Makes a source's instances, one per subtask, at the start and again at every restart.
pub trait SourceFactory: Send + Sync {
    /// Makes the instance for a subtask. `restored` has the parts of *all* subtasks of the snapshot,
    /// in subtask order, or is `None` on a fresh start.
    ///
    /// # Errors
    /// The source cannot start; names the place and the mend.
    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Source>, BoxError>;

    /// Compares the input with what it was when the position was recorded, before anything of the
    /// job is started or changed. `source` is the source's id. [`SourceFactory::create`] compares as
    /// well, because the input may change while the job runs, and fails with the same error.
    ///
    /// # Errors
    /// The input has changed such that records would be lost or doubled.
    fn compare(&self, source: &str, restored: &[Part]) -> Result<(), InputChanged> {
        let _ = (source, restored);
        Ok(())
    }

    /// For the restore report, after the source's id: `continues after …`.
    fn describe_position(&self, restored: &[Part]) -> String;
}

/// The input of a source is not what it was when the position was recorded. Trying again does not
/// help: the job is refused, or fails and is not restarted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its input has changed since the checkpoint: {}", differences.join("; "))]
pub struct InputChanged {
    /// What differs, a line for each; not more than a person reads.
    pub differences: Vec<String>,
    /// What the user can do.
    pub choices: String,
}

impl InputChanged {
    /// Finds it among an error and its causes.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

/// Wakes a subtask from another thread.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Makes the runtime poll the source again.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}
