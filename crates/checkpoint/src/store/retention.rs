//! Which checkpoints of a run are kept, which of their files may go, and when.
//!
//! Pure bookkeeping: it decides, the cleaner deletes.
//!
//! A delta needs its base's files. It is written while its own checkpoint is pending, and its base
//! was chosen before that, when a barrier came by; so a base may be subsumed by the time the delta on
//! it is recorded. Therefore the files of the newest two completed checkpoints, and of those that were
//! the newest two when a pending one began, are kept as *pinned*, whatever `retained` says.
//! (The second newest, because a subtask may be sealed before it hears of the newest.)

use std::collections::{BTreeMap, BTreeSet};

use super::cleaner::Deletion;
use crate::completed::Completed;
use crate::names;

#[derive(Debug)]
pub(super) struct Retained {
    count: usize,
    incremental: bool,
    completed: BTreeMap<u64, Completed>,
    /// Subsumed (their metadata is gone), but a delta may still be written on them.
    pinned: BTreeMap<u64, Completed>,
    /// Per pending checkpoint the oldest one that it may be based on.
    pending: BTreeMap<u64, u64>,
}

impl Retained {
    pub(super) fn new(count: usize, incremental: bool) -> Self {
        Self {
            count: count.max(1),
            incremental,
            completed: BTreeMap::new(),
            pinned: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    pub(super) fn latest(&self) -> Option<Completed> {
        self.completed.values().next_back().cloned()
    }

    pub(super) fn completed(&self) -> Vec<Completed> {
        self.completed.values().cloned().collect()
    }

    /// Whether a checkpoint with this id may begin; it is pending then.
    pub(super) fn begin(&mut self, id: u64) -> bool {
        let known = [&self.completed, &self.pinned]
            .iter()
            .any(|map| map.contains_key(&id));
        if known || self.pending.contains_key(&id) {
            return false;
        }
        self.pending.insert(id, self.oldest_base());
        true
    }

    /// The completed checkpoint on which a delta may be based.
    pub(super) fn base(&self, id: u64) -> Option<Completed> {
        self.completed
            .get(&id)
            .or_else(|| self.pinned.get(&id))
            .cloned()
    }

    /// A pending checkpoint was given up. Returns what may go.
    pub(super) fn end(&mut self, id: u64) -> Vec<Deletion> {
        self.pending.remove(&id);
        self.sweep()
    }

    /// A pending checkpoint is complete. Returns what may go.
    pub(super) fn complete(&mut self, checkpoint: Completed) -> Vec<Deletion> {
        let id = checkpoint.metadata().id;
        self.pending.remove(&id);
        self.completed.insert(id, checkpoint);
        self.sweep()
    }

    /// Gives up what is only pinned.
    pub(super) fn unpin_all(&mut self) -> Vec<Deletion> {
        let gone = std::mem::take(&mut self.pinned).into_values().collect();
        Vec::from_iter(self.files_of(gone))
    }

    /// Gives up everything.
    pub(super) fn delete_all(&mut self) -> Vec<Deletion> {
        let completed = std::mem::take(&mut self.completed);
        let mut deletions: Vec<_> = completed.values().map(directory_of).collect();
        let pinned = std::mem::take(&mut self.pinned);
        let gone = completed
            .into_values()
            .chain(pinned.into_values())
            .collect();
        deletions.extend(self.files_of(gone));
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
        while self.completed.len() > self.count {
            let Some((id, subsumed)) = self.completed.pop_first() else {
                break;
            };
            deletions.push(directory_of(&subsumed));
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

    /// The files that are referenced by checkpoints that are gone, and by no other. Those in their
    /// own directories went with them.
    fn files_of(&self, gone: Vec<Completed>) -> Option<Deletion> {
        if gone.is_empty() {
            return None;
        }
        let kept: BTreeSet<String> = self
            .completed
            .values()
            .chain(self.pinned.values())
            .flat_map(Completed::files)
            .collect();
        let files: BTreeSet<String> = gone
            .iter()
            .flat_map(|checkpoint| {
                let own = checkpoint.contents().directory.as_str();
                checkpoint
                    .files()
                    .into_iter()
                    .filter(move |file| names::parent(file) != own)
            })
            .filter(|file| !kept.contains(file))
            .collect();
        (!files.is_empty()).then(|| Deletion {
            objects: files.into_iter().collect(),
            directories: Vec::new(),
        })
    }
}

/// A checkpoint's directory: the metadata first, then what only it references.
fn directory_of(checkpoint: &Completed) -> Deletion {
    let directory = &checkpoint.contents().directory;
    let mut objects = vec![names::metadata(directory)];
    let files = checkpoint.files();
    objects.extend(
        files
            .into_iter()
            .filter(|file| names::parent(file) == directory),
    );
    Deletion {
        objects,
        directories: vec![directory.clone()],
    }
}
