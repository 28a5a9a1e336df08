//! Which checkpoints of a run are kept, which of their files may go, and when.
//!
//! Pure bookkeeping: it decides, the cleaner deletes.
//!
//! A delta needs its base's files. It is written while its own checkpoint is pending, and its base
//! was chosen before that, when a barrier came by; so a base may be subsumed by the time the delta on
//! it is recorded. Therefore the files of the newest two completed checkpoints, and of those that
//! were the newest two when a pending one began, are kept as *pinned*, whatever `retained` says. (The
//! second newest, because a subtask may be sealed before it hears of the newest.)
//!
//! Claimed checkpoints stand before those of this run and go the same way. Who else needs their files
//! is not known here, so the cleaner asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cleaner::Deletion;
use crate::claim::{Claim, Leftovers};
use crate::completed::Completed;
use crate::names;

#[derive(Debug)]
pub(super) struct Retained {
    count: usize,
    incremental: bool,
    /// The job directory, and the number of the run: they tell what this run wrote.
    job: String,
    run: u64,
    /// Those that were claimed, by number; their files may be needed by others.
    claimed: BTreeMap<u64, Origin>,
    /// What dead runs left, to go when a checkpoint of this run is complete.
    remains: Option<Leftovers>,
    completed: BTreeMap<u64, Completed>,
    /// Subsumed (their metadata is gone), but a delta may still be written on them.
    pinned: BTreeMap<u64, Completed>,
    /// Their slots are open: nobody goes by them, but if they exist they need their files, and those of
    /// the bases that they are deltas on, which may be neither completed nor pinned any more.
    open: BTreeMap<u64, Completed>,
    /// Per pending checkpoint the oldest one that it may be based on.
    pending: BTreeMap<u64, u64>,
}

/// Where a claimed checkpoint lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// In the storage of this job's own: they may reference its files.
    Here,
    /// Elsewhere.
    Elsewhere,
}

impl Retained {
    pub(super) fn new(count: usize, incremental: bool, job: &str, run: u64) -> Self {
        Self {
            count: count.max(1),
            incremental,
            job: job.to_owned(),
            run,
            claimed: BTreeMap::new(),
            remains: None,
            completed: BTreeMap::new(),
            pinned: BTreeMap::new(),
            open: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    pub(super) fn latest(&self) -> Option<Completed> {
        self.completed.values().next_back().cloned()
    }

    pub(super) fn completed(&self) -> Vec<Completed> {
        self.completed.values().cloned().collect()
    }

    /// Whether there is a checkpoint with this id, or one is pending.
    pub(super) fn knows(&self, id: u64) -> bool {
        [&self.completed, &self.pinned]
            .iter()
            .any(|map| map.contains_key(&id))
            || self.pending.contains_key(&id)
    }

    /// Whether a checkpoint with this id may begin; it is pending then.
    pub(super) fn begin(&mut self, id: u64) -> bool {
        if self.knows(id) {
            return false;
        }
        self.pending.insert(id, self.oldest_base());
        true
    }

    /// Takes over what was claimed: it stands before all of this run.
    pub(super) fn claim(&mut self, claim: Claim) {
        let origin = match claim.same_storage {
            true => Origin::Here,
            false => Origin::Elsewhere,
        };
        for checkpoint in claim.checkpoints {
            let id = checkpoint.metadata().id;
            self.claimed.insert(id, origin);
            self.completed.insert(id, checkpoint);
        }
        self.remains = claim.remains;
    }

    /// Takes over what dead runs left in the job directory.
    pub(super) fn take_over(&mut self, remains: Leftovers) {
        self.remains = Some(remains);
    }

    /// The completed checkpoint on which a delta may be based.
    pub(super) fn base(&self, id: u64) -> Option<Completed> {
        let found = self.completed.get(&id).or_else(|| self.pinned.get(&id))?;
        let outlives_its_directory = |checkpoint: &Completed| {
            let own = checkpoint.contents().directory.as_str();
            !checkpoint
                .files()
                .iter()
                .any(|file| names::parent(file) == own)
        };
        let usable = match self.claimed.get(&id) {
            None => true,
            // What is in the directory of a claimed checkpoint goes with it.
            Some(Origin::Here) => outlives_its_directory(found),
            Some(Origin::Elsewhere) => false,
        };
        usable.then(|| found.clone())
    }

    /// A pending checkpoint was given up. Returns what may go.
    pub(super) fn end(&mut self, id: u64) -> Vec<Deletion> {
        self.pending.remove(&id);
        self.sweep()
    }

    /// A pending checkpoint has ended, and it is not known whether it exists. Returns what may go.
    pub(super) fn leave_open(&mut self, checkpoint: Completed) -> Vec<Deletion> {
        let id = checkpoint.metadata().id;
        self.open.insert(id, checkpoint);
        self.end(id)
    }

    /// A pending checkpoint, or one whose slot was open, is complete. Returns what may go.
    pub(super) fn complete(&mut self, checkpoint: Completed) -> Vec<Deletion> {
        let id = checkpoint.metadata().id;
        self.pending.remove(&id);
        self.open.remove(&id);
        self.completed.insert(id, checkpoint);
        let mut deletions = self.sweep();
        if let Some(mut remains) = self.remains.take() {
            // From now on there is something newer to restore from than all that dead runs left.
            remains.protected = self.needed();
            deletions.push(Deletion::Leftovers(remains));
        }
        deletions
    }

    /// A checkpoint whose slot is closed, or that a newer one has taken the place of: if its metadata
    /// exists it goes, and what only it references.
    pub(super) fn give_up(&mut self, checkpoint: Completed) -> Vec<Deletion> {
        // No delta is ever written on it.
        self.open.remove(&checkpoint.metadata().id);
        self.files_of(vec![checkpoint])
    }

    /// Gives up what is only pinned.
    pub(super) fn unpin_all(&mut self) -> Vec<Deletion> {
        let gone = std::mem::take(&mut self.pinned).into_values().collect();
        self.files_of(gone)
    }

    /// Gives up everything.
    pub(super) fn delete_all(&mut self) -> Vec<Deletion> {
        let completed = std::mem::take(&mut self.completed);
        let mut deletions: Vec<_> = completed
            .values()
            .cloned()
            .map(Deletion::Checkpoint)
            .collect();
        let pinned = std::mem::take(&mut self.pinned);
        let gone = completed
            .into_values()
            .chain(pinned.into_values())
            .collect();
        deletions.extend(self.files_of(gone));
        // Nothing new was completed, but the job is over.
        deletions.extend(self.remains.take().map(Deletion::Leftovers));
        deletions
    }

    /// The second newest completed checkpoint, or the newest if there is one only.
    fn oldest_base(&self) -> u64 {
        let ids: BTreeSet<u64> = self
            .completed
            .keys()
            .chain(self.pinned.keys())
            .copied()
            .collect();
        ids.iter().rev().take(2).next_back().copied().unwrap_or(0)
    }

    fn sweep(&mut self) -> Vec<Deletion> {
        let oldest_base = self.pending.values().copied().min().unwrap_or(u64::MAX);
        let oldest_base = oldest_base.min(self.oldest_base());
        let mut deletions = Vec::new();
        let mut gone = Vec::new();
        // As long as none of this run is complete, what was claimed stays.
        let newest = self.completed.keys().next_back();
        let has_own = newest.is_some_and(|id| !self.claimed.contains_key(id));
        while has_own && self.completed.len() > self.count {
            let Some((id, subsumed)) = self.completed.pop_first() else {
                break;
            };
            deletions.push(Deletion::Checkpoint(subsumed.clone()));
            self.pinned.insert(id, subsumed);
        }
        while let Some(oldest) = self.pinned.first_entry() {
            if self.incremental && *oldest.key() >= oldest_base {
                break;
            }
            gone.push(oldest.remove());
        }
        deletions.extend(self.files_of(gone));
        deletions
    }

    /// All files that a checkpoint of this run references or may yet reference.
    fn needed(&self) -> BTreeSet<String> {
        let elsewhere = |id: &u64| self.claimed.get(id) == Some(&Origin::Elsewhere);
        self.completed
            .iter()
            .chain(&self.pinned)
            .chain(&self.open)
            .filter(|(id, _)| !elsewhere(id))
            .flat_map(|(_, checkpoint)| checkpoint.files())
            .collect()
    }

    /// The files that are referenced by checkpoints that are gone, and by no other. Those in their
    /// own directories went with them.
    fn files_of(&mut self, gone: Vec<Completed>) -> Vec<Deletion> {
        if gone.is_empty() {
            return Vec::new();
        }
        let needed = self.needed();
        let mut own = BTreeSet::new();
        // Files that this run did not write, in this storage, and the job directories they are in.
        let (mut here, mut here_jobs) = (BTreeSet::new(), BTreeSet::new());
        let mut here_storage = None;
        let mut deletions = Vec::new();
        for checkpoint in gone {
            let contents = checkpoint.contents();
            let claimed = self.claimed.remove(&checkpoint.metadata().id);
            let job_of = |file: &str| names::parent(names::parent(file)).to_owned();
            let files = checkpoint
                .files()
                .into_iter()
                .filter(|file| names::parent(file) != contents.directory);
            if claimed == Some(Origin::Elsewhere) {
                let files: Vec<String> = files.collect();
                let mut jobs: BTreeSet<String> = files.iter().map(|file| job_of(file)).collect();
                // The directory of a savepoint is no job directory.
                if names::checkpoint_id(names::leaf(&contents.directory)).is_some() {
                    jobs.insert(names::parent(&contents.directory).to_owned());
                }
                deletions.push(Deletion::Claimed {
                    storage: Arc::clone(&contents.storage),
                    files,
                    jobs,
                });
                continue;
            }
            here_storage = Some(Arc::clone(&contents.storage));
            if claimed.is_some() {
                here_jobs.insert(names::parent(&contents.directory).to_owned());
            }
            for file in files.filter(|file| !needed.contains(file)) {
                let is_own = job_of(&file) == self.job && names::data_run(&file) == Some(self.run);
                if is_own {
                    own.insert(file);
                } else {
                    here_jobs.insert(job_of(&file));
                    here.insert(file);
                }
            }
        }
        if !own.is_empty() {
            deletions.push(Deletion::Files {
                objects: own.into_iter().collect(),
                directories: Vec::new(),
            });
        }
        // Its own directory stays as long as it runs.
        here_jobs.remove(&self.job);
        if let Some(storage) = here_storage.filter(|_| !here.is_empty() || !here_jobs.is_empty()) {
            deletions.push(Deletion::Claimed {
                storage,
                files: here.into_iter().collect(),
                jobs: here_jobs,
            });
        }
        deletions
    }
}
