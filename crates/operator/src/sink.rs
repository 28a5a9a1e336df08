//! What the runtime asks of a sink: output in two phases.
//!
//! `write` … `prepare(n)` … `commit(n)`. What was written before the barrier of checkpoint `n` is made
//! durable but invisible by `prepare(n)`, recorded in the checkpoint, and made visible by
//! `commit(n)` once the checkpoint is complete. A crash before completion leaves prepared output that
//! nobody knows of, which the next start removes; a crash after it leaves output that the restore
//! commits, again and idempotently.

use dataflow::{Batch, CheckpointId};

use crate::source::Part;
use crate::{BoxError, JobIdentity, SubtaskContext};

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

    /// Whether what a checkpoint has prepared can be committed by this run, or was: asked before anything
    /// is changed. `parts` are those of all subtasks.
    ///
    /// # Errors
    /// Something is lost or is not what the checkpoint says; names the place and the mend.
    fn check_restored(&self, run: &str, parts: &[Part]) -> Result<(), BoxError> {
        let _is_found_when_it_is_committed = (run, parts);
        Ok(())
    }

    /// What a reader of this sink's output may count on.
    fn delivery(&self) -> Delivery;

    /// Where it publishes, so that output that is owed is looked for in the same place again. `None`: it
    /// publishes nowhere that could change.
    fn place(&self) -> Option<String> {
        None
    }

    /// How many files (or other visible units) of other runs than this one are where the sink publishes: a
    /// reader of all that is there reads them, too. Nothing is changed.
    ///
    /// # Errors
    /// It cannot be looked at; names the place.
    fn published_by_other_runs(&self, run: &str) -> Result<Published, BoxError> {
        let _nothing_is_published_where_it_can_be_seen = run;
        Ok(Published::default())
    }

    /// What the sink has published for checkpoints after `after` of this run, as far as it can be
    /// seen. Nothing is changed.
    ///
    /// # Errors
    /// It cannot be looked at; names the place.
    fn published_after(&self, origin: &Origin, after: u64) -> Result<Published, BoxError> {
        let _nothing_is_published_where_it_can_be_seen = (origin, after);
        Ok(Published::default())
    }

    /// Removes what the sink has published for checkpoints after `after` of this run, because the job
    /// goes on from checkpoint `after` and writes that output again. Idempotent: a crash in the middle
    /// is followed by another call. None of the job's sinks lives, as far as this host can see: one that
    /// was taken for dead and is paused may be about to publish. So all that earlier generations have
    /// prepared is removed first, except `kept`: what checkpoint `after` has prepared. `None` if that
    /// checkpoint cannot be read; then everything that is prepared stays.
    ///
    /// # Errors
    /// Something could not be removed, a sink of the job still lives, or this sink cannot take back what
    /// it has published (the default of a sink that is exactly-once).
    fn withdraw(
        &self,
        origin: &Origin,
        after: u64,
        kept: Option<&[Part]>,
    ) -> Result<Withdrawn, BoxError> {
        let _ = (origin, after, kept);
        match self.delivery() {
            Delivery::ExactlyOnce => Err("this sink cannot withdraw what it has published".into()),
            Delivery::AtLeastOnce | Delivery::Nothing => Ok(Withdrawn::default()),
        }
    }

    /// Whether [`SinkFactory::withdraw`] can do what it promises: asked before anything is changed.
    fn can_withdraw(&self) -> bool {
        self.delivery() != Delivery::ExactlyOnce
    }

    /// Removes what runs of the job up to this generation prepared and never committed: the job is
    /// over and nothing of it is kept to be resumed. What a later generation has prepared is not
    /// touched. None of this process's sinks of the job lives.
    ///
    /// # Errors
    /// Something could not be removed; names the place.
    fn abandon(&self, job: &JobIdentity, generation: u64) -> Result<(), BoxError> {
        let _nothing_is_prepared_outside = (job, generation);
        Ok(())
    }
}

/// What a reader of a sink's output may count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Each record exactly once, whatever fails.
    ExactlyOnce,
    /// Each record at least once: after a failure some are repeated.
    AtLeastOnce,
    /// It publishes nothing.
    Nothing,
}

/// Whose output something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The job.
    pub job: JobIdentity,
    /// The run's token: see [`SubtaskContext::run`]. Empty for output of a version that had none.
    pub run: String,
    /// Only what was published for checkpoints up to this one: the highest number that was used when
    /// the question came up. What is published later is the output of what goes on from there.
    pub through: u64,
    /// The generation of the process that asks. What is prepared by it and by later ones is not meant.
    pub generation: u64,
}

/// What a sink has published; see [`SinkFactory::published_after`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// How many files (or other visible units).
    pub files: u64,
    /// How many records are in them, as far as they were counted.
    pub records: u64,
    /// Whether counting stopped early: there are more records than `records`.
    pub more_records: bool,
    /// Whether counting stopped early: there may be more files than `files`.
    pub more_files: bool,
}

/// What a sink has withdrawn; see [`SinkFactory::withdraw`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withdrawn {
    /// How many files (or other visible units) were removed.
    pub files: u64,
    /// Those that were published and do not exist any more, such as files that a consumer has moved
    /// away: its copy cannot be withdrawn. For people.
    pub missing: Vec<String>,
}
