//! Taking over a checkpoint that a job starts from: the job owns it then, as if it had taken it.
//!
//! A claimed checkpoint counts among the retained ones, and goes when it is subsumed: its metadata at
//! once, its data when no checkpoint needs it any more, whosever that is. If it is in the storage
//! of the job's own checkpoints, later ones may be deltas on it and reference its files (`../../<old
//! job>/shared/x`); a savepoint, or what lies elsewhere, is only read.
//!
//! A job that goes on after its process died takes over the whole job directory: older checkpoints,
//! and what its dead runs left half written. The latter goes when the first checkpoint of the new run
//! is complete, not before.
//!
//! Nothing is written when a claim is made: until the first new checkpoint is complete everything is
//! as it was, and a crash leaves the claimed checkpoint to be claimed again.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::Status;
use crate::gc::Search;
use crate::history::History;
use crate::lease::Lease;
use crate::location::real;
use crate::metadata::Kind;
use crate::names;
use crate::storage::{Object, Storage};
use crate::{Completed, Error, Result};

/// What of a claimed checkpoint's surroundings is taken over with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Nothing: only the checkpoint itself.
    Checkpoint,
    /// Its job directory: the checkpoints before it, and what dead runs left.
    JobDirectory,
}

/// A claimed checkpoint with what is taken over with it.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// The checkpoint and older ones of its job directory.
    pub(crate) checkpoints: Vec<Completed>,
    /// Whether they are in the storage of the claiming job.
    pub(crate) same_storage: bool,
    /// What goes when the first new checkpoint is complete.
    pub(crate) remains: Option<Leftovers>,
}

/// What dead runs left in a job directory.
#[derive(Clone, Debug)]
pub(crate) struct Leftovers {
    storage: Arc<dyn Storage>,
    job: String,
    /// In the claiming job's own directory: its run, and the highest checkpoint number of those
    /// before.
    own: Option<(u64, u64)>,
    /// What is needed though no metadata says so.
    pub(crate) protected: BTreeSet<String>,
}

impl Claim {
    /// Looks at what is claimed from the point of view of a job in `own` of `storage`, whose run has
    /// this number and was preceded by checkpoints up to `used_id`.
    ///
    /// # Errors
    /// [`crate::Error::Storage`] if the job directory cannot be listed, [`crate::Error::Held`] if
    /// another host works in it.
    pub(crate) fn new(
        checkpoint: &Completed,
        extent: Extent,
        storage: &Arc<dyn Storage>,
        own: &str,
        lease: Option<&Lease>,
        (run, used_id): (u64, u64),
    ) -> Result<Self> {
        let in_storage = name_beneath(&storage.location(""), checkpoint);
        let same_storage = in_storage.is_some();
        let checkpoint = match in_storage {
            // Opened again for where it is, but seen as it was.
            Some(name) => {
                Completed::open(Arc::clone(storage), &name)?.changed(checkpoint.changes().clone())
            }
            None => checkpoint.clone(),
        };
        let contents = checkpoint.contents();
        let job = names::parent(&contents.directory).to_owned();
        let in_job_directory = checkpoint.metadata().kind == Kind::Checkpoint
            && names::checkpoint_id(names::leaf(&contents.directory)).is_some();
        // Another's directory is taken to see that nobody is at work in it, and given back at once:
        // a host that begins to work there meanwhile is asked again when something is to be deleted.
        if let Some(lease) = lease
            && in_job_directory
            && !(same_storage && job == own)
        {
            drop(Lease::take(
                Arc::clone(&contents.storage),
                &job,
                lease.terms().clone(),
            )?);
        }
        let mut claim = Self {
            checkpoints: Vec::new(),
            same_storage,
            remains: None,
        };
        if extent == Extent::JobDirectory && in_job_directory {
            let storage = &contents.storage;
            // Those of the same run: what a run before it kept is none of this job's business.
            for entry in History::read(storage, &job)?.into_entries() {
                if let Status::Complete(older) = entry.status
                    && older.metadata().id < checkpoint.metadata().id
                {
                    claim.checkpoints.push(older);
                }
            }
            claim.remains = Some(Leftovers {
                storage: Arc::clone(storage),
                own: (same_storage && job == own).then_some((run, used_id)),
                job,
                protected: BTreeSet::new(),
            });
        }
        claim.checkpoints.push(checkpoint);
        Ok(claim)
    }
}

/// The name of a checkpoint's directory beneath `root`, if it is in a job directory there.
fn name_beneath(root: &str, checkpoint: &Completed) -> Option<String> {
    let contents = checkpoint.contents();
    let root = real(root);
    let directory = real(&contents.storage.location(&contents.directory));
    let name = directory.strip_prefix(&root)?.strip_prefix('/')?;
    let (job, leaf) = name.split_once('/')?;
    let is_checkpoint = !job.is_empty() && names::checkpoint_id(leaf).is_some();
    is_checkpoint.then(|| name.to_owned())
}

impl Leftovers {
    /// Removes what nobody needs. What is left over is an orphan for garbage collection.
    ///
    /// # Errors
    /// [`crate::Error::Storage`] if it is unknown what exists.
    pub(crate) fn remove(&self) -> Result<()> {
        let may_go = |object: &Object| match self.own {
            None => true,
            Some((run, used_id)) => self.is_of_a_dead_run(&object.name, run, used_id),
        };
        let search = Search {
            storage: &self.storage,
            job: &self.job,
            may_go: &may_go,
            protected: &self.protected,
        };
        let mut garbage = search.garbage()?;
        if self.own.is_some() {
            // A run is at work here, and looks for them.
            garbage.keep_frame();
        }
        let removed = garbage.remove(&self.storage, None);
        let failed = removed.into_iter().find(|removed| removed.error.is_some());
        failed.map_or(Ok(()), |failed| {
            Err(Error::Storage {
                action: "deleting",
                object: failed.path,
                source: failed.error.unwrap_or_default().into(),
            })
        })
    }

    /// What dead runs left in the directory of a job that goes on in it.
    pub(crate) fn of_own(
        storage: &Arc<dyn Storage>,
        job: &str,
        (run, used_id): (u64, u64),
    ) -> Self {
        Self {
            storage: Arc::clone(storage),
            job: job.to_owned(),
            own: Some((run, used_id)),
            protected: BTreeSet::new(),
        }
    }

    /// Whether an object in the job directory was there before this run began.
    fn is_of_a_dead_run(&self, name: &str, run: u64, used_id: u64) -> bool {
        let checkpoint = names::checkpoint_id(names::leaf(names::parent(name)));
        match (names::data_run(name), checkpoint) {
            (Some(of_run), _) => of_run < run,
            (None, Some(id)) => id <= used_id,
            (None, None) => names::parent(name) == self.job && names::is_left_over(name),
        }
    }
}

/// Removes a job directory in which nothing is left but the directories that each of them has.
///
/// # Errors
/// [`crate::Error::Storage`] if it cannot be listed, or is empty and cannot be removed.
pub(crate) fn remove_if_empty(storage: &dyn Storage, job: &str) -> Result<()> {
    let listing = storage.list(job)?;
    let is_frame = |name: &String| names::is_frame(names::leaf(name));
    if !listing.objects.is_empty() || !listing.directories.iter().all(is_frame) {
        return Ok(());
    }
    for directory in &listing.directories {
        storage.remove_directory(directory)?;
    }
    // Only if there was something of a job directory in it: others are not ours to remove.
    match listing.directories.is_empty() {
        true => Ok(()),
        false => storage.remove_directory(job),
    }
}
