//! A savepoint that is being written: where it is, and how it ends.
//!
//! Nothing of the job depends on it, and its directory has a random name that nobody else writes in. So it
//! ends at once and in one of two ways: it is complete, or what was written of it is removed. There is
//! nothing to be decided later, as there is with a checkpoint whose metadata may exist.

use std::sync::Arc;

use super::pending::{Outcome, Pending};
use super::slots::Slot;
use crate::catalog::describe;
use crate::completed::Completed;
use crate::lease::Lease;
use crate::metadata::void;
use crate::names;
use crate::savepoint::SavepointTarget;
use crate::storage::Storage;
use crate::{Error, Result};

/// Where a savepoint is written.
#[derive(Debug)]
pub(super) struct Savepoint {
    storage: Arc<dyn Storage>,
    directory: String,
}

impl Savepoint {
    /// A new directory in `target`.
    pub(super) fn new(target: &SavepointTarget) -> Self {
        Self {
            storage: Arc::clone(target.storage()),
            directory: names::savepoint(target.job_id(), &names::token()),
        }
    }

    pub(super) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub(super) fn directory(&self) -> &str {
        &self.directory
    }

    /// Puts on record that the number of a savepoint is used, before it exists. A checkpoint leaves a
    /// trace in the job directory, by which a later run knows its number; a savepoint leaves none,
    /// and its number must not come again: output that was prepared for it bears that number.
    pub(super) fn put_number_on_record(lease: &Lease) -> Result<()> {
        lease.record(|_| {})
    }

    /// Removes files of it, and its directory if nothing else is in it.
    pub(super) fn remove(&self, files: &[String]) -> Result<()> {
        let mut outcome = Ok(());
        for file in files {
            outcome = outcome.and(self.storage.delete(file));
        }
        outcome.and(self.storage.remove_directory(&self.directory))
    }

    /// Sees to it that the metadata does not exist and never will, after it was put.
    fn withdraw(&self, pending: &Pending) -> Result<()> {
        let name = names::metadata(&self.directory);
        if self.storage.may_land_late() {
            // A put whose answer was lost may still take effect, unless its place is taken.
            let lease = pending.store.lease.as_deref();
            let generation = lease.map_or(0, Lease::generation);
            let marker = void(pending.id.0, generation, lease.map(Lease::token));
            match self.storage.put_new(&name, vec![marker]) {
                Err(Error::AlreadyExists { .. }) => {}
                outcome => return outcome,
            }
        }
        self.storage.delete(&name)
    }
}

impl Pending {
    /// Ends a savepoint whose metadata was put, or was not. `revoked`: it was given up meanwhile.
    pub(super) fn end_savepoint(
        &self,
        savepoint: &Savepoint,
        committed: Result<Slot, Outcome>,
        revoked: bool,
    ) -> Result<Completed> {
        let (error, may_exist) = match committed {
            Ok(Slot { checkpoint, .. }) if !revoked => {
                // What was written but not passed on, such as one of two writes of a subtask.
                let used = checkpoint.files();
                self.files().retain(|file| !used.contains(file));
                self.clean_up();
                return Ok(checkpoint);
            }
            Ok(_) => (self.closed_error(), true),
            Err(Outcome::Unknown(_, error)) => (error, true),
            Err(Outcome::Failed(error)) => (error, false),
        };
        // The metadata first: as long as it may exist, what it references stays.
        if may_exist && let Err(kept) = savepoint.withdraw(self) {
            self.files().clear();
            return Err(may_still_exist(savepoint, error, &kept));
        }
        self.clean_up();
        Err(error)
    }

    /// Removes what was written of a savepoint.
    ///
    /// # Errors
    /// The first [`Error::Storage`]; the rest is removed all the same.
    pub(super) fn remove_savepoint(&self, savepoint: &Savepoint) -> Result<()> {
        let files = std::mem::take(&mut *self.files());
        savepoint.remove(&files)
    }
}

/// The error of a savepoint that failed and could not be removed.
fn may_still_exist(savepoint: &Savepoint, error: Error, kept: &Error) -> Error {
    let place = savepoint.storage.location(&savepoint.directory);
    let what = format!(
        "it counts as failed, but may exist in {place}, because it could not be removed ({})",
        describe(kept)
    );
    match error {
        Error::Fenced { location, why } => Error::Fenced {
            location,
            why: format!("{why}; of the savepoint: {what}"),
        },
        error => Error::Storage {
            action: "writing savepoint",
            object: place.clone(),
            source: format!("{}; {what}", describe(&error)).into(),
        },
    }
}
