//! What is used up in a job directory, as far as its files tell.
//!
//! The lease knows better: it has the highest number on record. But its newest entry may be a renewal
//! old, or damaged, or missing from a directory that was copied.

use std::collections::BTreeSet;

use crate::Result;
use crate::names;
use crate::storage::Storage;

/// What is used up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// The newest generation that left a data file, finished or not; 0 if none did.
    pub(crate) generation: u64,
    /// The highest checkpoint number that has a directory or a data file, complete or not.
    pub(crate) id: u64,
    /// Whether the directories that were made are seen: object storages have none.
    pub(crate) has_directories: bool,
}

/// Numbers above this are no program's: they would leave no room for what follows.
const NUMBER_MAX: u64 = 1 << 62;

/// Looks at the job directory of this name.
pub(crate) fn used(storage: &dyn Storage, job: &str) -> Result<Used> {
    let mut directories = BTreeSet::from([names::shared(job)]);
    directories.extend(storage.list(job)?.directories);
    let mut used = Used {
        has_directories: directories.contains(&names::taskowned(job)),
        ..Used::default()
    };
    let number = |found: Option<u64>| found.filter(|number| *number <= NUMBER_MAX).unwrap_or(0);
    for directory in directories {
        let id = number(names::checkpoint_id(names::leaf(&directory)));
        used.id = used.id.max(id);
        for object in storage.list(&directory)?.objects {
            let generation = number(names::data_run(&object.name));
            used.generation = used.generation.max(generation);
            used.id = used.id.max(number(names::data_checkpoint(&object.name)));
        }
    }
    Ok(used)
}
