//! Which checkpoints of a job directory are to be believed.
//!
//! A host that was taken for dead and is not may still put `_metadata`. It finds out after that, and
//! nothing follows from its checkpoint; but it exists, whole. So each taking of the lease
//! records a fence: the newest checkpoint that stood in the directory then. What has a higher number
//! counts only if the taker wrote it, until the next taking.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::metadata::Metadata;
use crate::names;
use crate::storage::Storage;
use crate::{Completed, Error, Result};

/// How many fences are kept. What is older than all of them is believed by its number alone.
const FENCES_MAX: usize = 16;

/// One taking of the lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Fence {
    pub(super) generation: u64,
    pub(super) token: String,
    /// The newest checkpoint that was believed then; 0 if there was none.
    pub(super) through: u64,
}

/// The fences of a job directory, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fences(pub(super) Vec<Fence>);

impl Fences {
    /// Whether the checkpoint with this metadata was written by who owned the directory; else, who
    /// owned it.
    pub(crate) fn check(&self, metadata: &Metadata) -> std::result::Result<(), String> {
        let mut before = self.0.iter().rev();
        // Who took the lease when all checkpoints were older, and last of these.
        let Some(owner) = before.find(|fence| fence.through < metadata.id) else {
            return Ok(());
        };
        if owner.generation == metadata.generation && Some(&owner.token) == metadata.holder.as_ref()
        {
            return Ok(());
        }
        Err(format!(
            "its host (generation {}) had lost the job directory to another (generation {}) before it was complete",
            metadata.generation, owner.generation
        ))
    }

    /// Records that the lease of a job directory is taken: what the directory holds now is all that is
    /// believed of earlier holders.
    pub(super) fn record(
        &mut self,
        storage: &Arc<dyn Storage>,
        job: &str,
        generation: u64,
        token: &str,
    ) -> Result<()> {
        let through = self.newest(storage, job)?;
        self.push(Fence {
            generation,
            token: token.to_owned(),
            through,
        });
        Ok(())
    }

    /// Has the fence of this taking believe less than stood there: nothing above `through`.
    pub(super) fn lower(&mut self, generation: u64, token: &str, through: u64) {
        self.0
            .retain(|fence| fence.generation != generation || fence.token != token);
        self.push(Fence {
            generation,
            token: token.to_owned(),
            through,
        });
    }

    fn push(&mut self, fence: Fence) {
        // Nothing came of the takings since, or it would have been seen.
        self.0.retain(|other| other.through < fence.through);
        self.0.push(fence);
        let surplus = self.0.len().saturating_sub(FENCES_MAX);
        self.0.drain(..surplus);
    }

    /// The newest checkpoint in a job directory that is complete and believed; 0 if there is none. One
    /// that cannot be read counts: a restore is to refuse it, not to pass over it.
    fn newest(&self, storage: &Arc<dyn Storage>, job: &str) -> Result<u64> {
        let mut found: Vec<(u64, String)> = storage
            .list(job)?
            .directories
            .into_iter()
            .filter_map(|name| Some((names::checkpoint_id(names::leaf(&name))?, name)))
            .collect();
        found.sort_unstable();
        for (id, directory) in found.into_iter().rev() {
            match Completed::open(Arc::clone(storage), &directory) {
                Ok(completed) if self.check(completed.metadata()).is_err() => {}
                Ok(_) | Err(Error::Corrupt { .. } | Error::Incompatible(_)) => return Ok(id),
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn fence(generation: u64, through: u64) -> Fence {
        Fence {
            generation,
            token: format!("t{generation}"),
            through,
        }
    }

    fn believed(fences: &Fences, id: u64, generation: u64, token: &str) -> bool {
        let metadata = Metadata {
            generation,
            holder: Some(token.to_owned()),
            ..fixture::metadata(id, 1)
        };
        fences.check(&metadata).is_ok()
    }

    #[test]
    fn a_number_is_believed_of_who_owned_the_directory_when_it_came() {
        let mut fences = Fences::default();
        assert!(
            believed(&fences, 5, 0, "none"),
            "nobody ever took the lease"
        );
        fences.push(fence(1, 0));
        fences.push(fence(2, 7));
        fences.push(fence(3, 12));
        for (id, generation) in [(1, 1), (7, 1), (8, 2), (12, 2), (13, 3), (99, 3)] {
            assert!(believed(&fences, id, generation, &format!("t{generation}")));
        }
        for (id, generation) in [(8, 1), (13, 1), (13, 2), (7, 2), (8, 4), (8, 0)] {
            assert!(!believed(
                &fences,
                id,
                generation,
                &format!("t{generation}")
            ));
        }
        assert!(!believed(&fences, 13, 3, "another life of the directory"));
    }

    #[test]
    fn a_taking_of_which_nothing_came_is_forgotten() {
        let mut fences = Fences::default();
        fences.push(fence(1, 0));
        for generation in 2..100 {
            fences.push(fence(generation, 4));
        }
        assert_eq!(fences.0, [fence(1, 0), fence(99, 4)]);
        assert!(!believed(&fences, 5, 50, "t50"));
    }

    #[test]
    fn fences_are_bounded() {
        let mut fences = Fences::default();
        for generation in 1..1000 {
            fences.push(fence(generation, generation * 10));
        }
        assert_eq!(fences.0.len(), FENCES_MAX);
        assert!(believed(&fences, 9991, 999, "t999"));
        assert!(!believed(&fences, 9991, 998, "t998"));
    }
}
