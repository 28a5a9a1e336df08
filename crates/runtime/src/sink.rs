//! What the runtime asks of a sink: output in two phases.
//!
//! `write` … `prepare(n)` … `commit(n)`. What was written before the barrier of checkpoint `n` is made
//! durable but invisible by `prepare(n)`, recorded in the checkpoint, and made visible by
//! `commit(n)` once the checkpoint is complete. A crash before completion leaves prepared output that
//! nobody knows of, which the next start removes; a crash behind it leaves output that the restore
//! commits, again and idempotently.

use dataflow::{Batch, CheckpointId};

use crate::source::Part;
use crate::{BoxError, SubtaskContext};

/// One subtask's instance of a sink. Lives on one thread.
pub trait Sink: Send {
    /// Takes a batch.
    ///
    /// # Errors
    /// It cannot be written; names the place.
    fn write(&mut self, batch: &Batch) -> Result<(), BoxError>;

    /// Makes all that was written durable. Returns everything that is prepared and not committed,
    /// from this checkpoint and from earlier ones that never completed.
    ///
    /// # Errors
    /// It cannot be made durable; the checkpoint fails then, and the job with it.
    fn prepare(&mut self, id: CheckpointId) -> Result<Vec<Part>, BoxError>;

    /// Makes visible all that was prepared for checkpoint `id` and earlier ones. Idempotent.
    ///
    /// # Errors
    /// It cannot be made visible.
    fn commit(&mut self, id: CheckpointId) -> Result<(), BoxError>;

    /// The job ends in order: everything is committed, staging places can go.
    ///
    /// # Errors
    /// Something could not be cleaned up.
    fn close(&mut self) -> Result<(), BoxError>;
}

/// Makes a sink's instances, one per subtask, at the start and again at every restart.
pub trait SinkFactory: Send + Sync {
    /// Makes the instance for a subtask. `restored` has the parts of *all* subtasks of the restored
    /// checkpoint: the instances commit them between them (part `i` is subtask `i mod parallelism`'s)
    /// before they take a record, and remove what an earlier attempt of this job left unrecorded.
    ///
    /// # Errors
    /// The sink cannot start; names the place and the mend.
    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Sink>, BoxError>;

    /// Removes what sinks of the job with this id prepared and never committed: the job is over and
    /// nothing of it is kept to be resumed, or another one has taken its place. None of its sinks
    /// lives.
    ///
    /// # Errors
    /// Something could not be removed; names the place.
    fn abandon(&self, job_id: &str) -> Result<(), BoxError> {
        let _nothing_is_prepared_outside = job_id;
        Ok(())
    }
}
