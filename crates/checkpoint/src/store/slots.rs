//! Checkpoints of which it is not known whether they exist.
//!
//! A put of `_metadata` may take effect though its answer was lost, at once or later, and the lease may
//! be out of reach after it. The attempt that wrote it goes on all the same: its next checkpoint takes
//! the place of this one, whether it exists or not. A *restart* must know: it goes on from the newest
//! checkpoint, and what it does differs by which one that is. So before a restart every such *slot* is
//! closed: a void marker is put in the place of the metadata if that does not exist, or the checkpoint is
//! found there and counts.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::completed::Completed;
use crate::metadata::{METADATA_BYTES_MAX, void};
use crate::names;
use crate::{Error, Result};

use super::Inner;
use super::cleaner::Deletion;

/// A checkpoint whose metadata was put, with an unknown outcome.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// What was put.
    pub(super) encoded: Bytes,
    /// The checkpoint, should it exist.
    pub(super) checkpoint: Completed,
}

/// The slots of a run that are not closed, by checkpoint number.
#[derive(Debug, Default)]
pub(super) struct Slots(BTreeMap<u64, Slot>);

impl Slots {
    pub(super) fn insert(&mut self, slot: Slot) {
        self.0.insert(slot.checkpoint.metadata().id, slot);
    }

    fn first(&self) -> Option<Slot> {
        self.0.values().next().cloned()
    }

    fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// Takes those before checkpoint `id`, which has completed.
    pub(super) fn take_before(&mut self, id: u64) -> Vec<Slot> {
        let later = self.0.split_off(&id);
        std::mem::replace(&mut self.0, later)
            .into_values()
            .collect()
    }

    /// Takes all.
    pub(super) fn take_all(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.0).into_values().collect()
    }
}

impl Inner {
    /// Closes every slot; see the module. No put of this process may be under way.
    ///
    /// # Errors
    /// [`Error::Storage`] if the storage does not answer: nothing is decided about the slots that are
    /// left, and this is to be called again. [`Error::Fenced`] if the job directory is another's.
    pub(super) fn close_slots(&self) -> Result<()> {
        let mut deletions = Vec::new();
        let closed = self.close_each(&mut deletions);
        // Once all is known, so that the cleaner does nothing beside it, and a simulation does the same each time.
        self.clean(deletions);
        closed
    }

    fn close_each(&self, deletions: &mut Vec<Deletion>) -> Result<()> {
        loop {
            let Some(slot) = self.slots().first() else {
                return Ok(());
            };
            let id = slot.checkpoint.metadata().id;
            let deletable = match self.close(id, &slot)? {
                true => {
                    // What goes on from it must not outlive it.
                    self.confirm()?;
                    self.note_completed(id);
                    self.retained().complete(slot.checkpoint)
                }
                false => self.retained().give_up(slot.checkpoint),
            };
            self.slots().remove(id);
            deletions.extend(deletable);
        }
    }

    /// Deletes what there is of a checkpoint that a newer one has taken the place of, whether it exists
    /// or not; its metadata first.
    pub(super) fn drop_slot(&self, slot: Slot) {
        let metadata = Deletion::Checkpoint(slot.checkpoint.clone());
        let deletions = self.retained().give_up(slot.checkpoint);
        self.clean([metadata]);
        self.clean(deletions);
    }

    /// Closes a slot; returns whether the checkpoint exists.
    fn close(&self, id: u64, slot: &Slot) -> Result<bool> {
        let storage = &*self.storage;
        let name = names::metadata(&self.job.checkpoint(id));
        if storage.may_land_late() {
            let lease = self.lease.as_deref();
            let generation = lease.map_or(0, |lease| lease.generation());
            let marker = void(id, generation, lease.map(|lease| lease.token()));
            match storage.put_new(&name, vec![marker]) {
                Ok(()) => return Ok(false),
                // Whatever has the name says what has happened.
                Err(Error::AlreadyExists { .. }) => {}
                // It may exist all the same.
                Err(error) => return self.stands(&name, slot)?.ok_or(error),
            }
        }
        match self.stands(&name, slot)? {
            Some(exists) => Ok(exists),
            // Nothing can come any more.
            None if !storage.may_land_late() => Ok(false),
            None => Err(Error::Storage {
                action: "closing",
                object: storage.location(&name),
                source: "it was there a moment ago and is not any more".into(),
            }),
        }
    }

    /// Whether a slot holds the checkpoint; `None` if it holds nothing.
    fn stands(&self, name: &str, slot: &Slot) -> Result<Option<bool>> {
        match self.storage.read(name, 0..METADATA_BYTES_MAX) {
            Ok(found) if found == slot.encoded => {
                self.storage.settle(names::parent(name))?;
                Ok(Some(true))
            }
            // A marker, or another's: in either case ours cannot come.
            Ok(_) => Ok(Some(false)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
