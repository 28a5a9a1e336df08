//! Whether a subtask's next snapshot of its state is a delta, and on which checkpoint.
//!
//! A chain is a full snapshot and the deltas after it. It ends, and a full snapshot begins a new
//! one, when its deltas have grown larger than what they stand on
//! ([`to_rebase`](crate::writer::to_rebase)), or when less than half is left of the state that was
//! full: old bytes would outlive the state they were of. So with `L` bytes of live state a chain
//! begins with at most `2 L`, has deltas of as much, and a last one of at most `L` and what was
//! removed (at most `L`, or 1 MiB): six times the live state and 1 MiB at the very worst, and two to
//! three times while the state does not shrink.

use std::collections::VecDeque;

use dataflow::CheckpointId;

/// Full snapshots that are remembered until they are complete. More are never in progress.
const PENDING_MAX: usize = 64;

/// The chain of one operator in one subtask.
#[derive(Debug, Default)]
pub(crate) struct DeltaChain {
    /// The newest complete checkpoint, if the next delta may build on it.
    base: Option<CheckpointId>,
    /// Live bytes when the full snapshot of the base's chain was taken.
    full: u64,
    /// Live bytes of full snapshots that are not complete.
    pending: VecDeque<(CheckpointId, u64)>,
}

impl DeltaChain {
    /// The base of snapshot `id` of a state with `live` bytes; `None` if it is to be full.
    pub(crate) fn next(&mut self, id: CheckpointId, live: u64) -> Option<CheckpointId> {
        let shrunk = live < self.full / 2;
        let base = self.base.filter(|_| !shrunk);
        if base.is_none() {
            if self.pending.len() == PENDING_MAX {
                self.pending.pop_front();
            }
            self.pending.push_back((id, live));
        }
        base
    }

    /// Checkpoint `id` is complete. `rebase`: its deltas have become too large.
    pub(crate) fn complete(&mut self, id: CheckpointId, rebase: bool) {
        while let Some((full, live)) = self.pending.pop_front_if(|(full, _)| *full <= id) {
            // Older ones were given up.
            if full == id {
                self.full = live;
            }
        }
        self.base = (!rebase).then_some(id);
    }

    /// What the next delta would build on does not exist any more.
    pub(crate) fn forget(&mut self) {
        self.base = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use checkpoint::metadata::{Kind, Metadata, Operator, Role, State, Subtask};
    use checkpoint::store::{CheckpointStore, Options};
    use dataflow::key::{KEY_HASH_NAME, KeyGroupRange, KeyGroups};
    use dataflow::state::{KeyedState, StateDescriptor, StateKind};

    use super::*;
    use crate::random::Random;
    use crate::writer::to_rebase;

    const SLACK: u64 = 1 << 20;

    fn metadata(id: u64) -> Metadata {
        let state = State {
            name: "s".into(),
            kind: "value".into(),
            schema: "bytes".into(),
            schema_version: 1,
            ttl_ms: None,
            ttl_refresh: None,
            ttl_time: None,
            entries: 0,
            bytes: 0,
        };
        Metadata {
            writer: "test".into(),
            job_name: "chain".into(),
            job_id: "chain-1".into(),
            run: None,
            generation: 0,
            holder: None,
            id,
            previous: None,
            kind: Kind::Checkpoint,
            drained: false,
            triggered_at: 0,
            duration_ms: 0,
            key_groups: 128,
            key_hash: KEY_HASH_NAME.into(),
            operators: vec![Operator {
                id: "o".into(),
                role: Role::Operator,
                parallelism: 1,
                labels: BTreeMap::new(),
                operator_states: Vec::new(),
                states: vec![state],
                subtasks: vec![Subtask::default()],
            }],
        }
    }

    fn keyed_state() -> KeyedState {
        let descriptor = StateDescriptor {
            name: "s".into(),
            kind: StateKind::Value,
            schema: "bytes".into(),
            schema_version: 1,
            ttl: None,
        };
        let range = KeyGroupRange { start: 0, end: 128 };
        KeyedState::new(vec![descriptor], range, KeyGroups::new(128).unwrap())
    }

    /// Bytes of all files beneath a directory.
    fn stored(directory: &std::path::Path) -> u64 {
        let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
        entries
            .map(|entry| match entry.file_type().unwrap().is_dir() {
                true => stored(&entry.path()),
                false => entry.metadata().unwrap().len(),
            })
            .sum()
    }

    /// What is done between two checkpoints.
    #[derive(Clone, Debug)]
    enum Change {
        /// These keys get a value of this size.
        Put(std::ops::Range<u32>, usize),
        /// These keys go.
        Delete(std::ops::Range<u32>),
        /// The checkpoint after it is given up.
        GiveUp,
    }

    fn check(changes: impl IntoIterator<Item = Change>) {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            inline_threshold: 0,
            ..Options::default()
        };
        let store =
            CheckpointStore::open(directory.path().to_str().unwrap(), "job", options).unwrap();
        let (mut state, mut chain, mut live_before) = (keyed_state(), DeltaChain::default(), 0);
        for (id, change) in (1..).zip(changes) {
            let given_up = matches!(change, Change::GiveUp);
            match change {
                Change::Put(keys, size) => {
                    keys.for_each(|key| state.put(0, &key.to_le_bytes(), &vec![7; size]).unwrap());
                }
                Change::Delete(keys) => {
                    keys.for_each(|key| state.delete(0, &key.to_le_bytes()).unwrap());
                }
                Change::GiveUp => {}
            }
            state.commit();
            let live = state.stats().bytes;
            let number = CheckpointId(id);
            let base = chain.next(number, live);
            let sealed = state.snapshot(number, base);
            let pending = store.begin(number).unwrap();
            let written = pending.write("o", 0, &sealed).unwrap();
            if given_up {
                pending.discard().unwrap();
                continue;
            }
            let completed = pending
                .complete(metadata(id), vec![(0, 0, written)])
                .unwrap();
            chain.complete(number, to_rebase(&completed).contains(&0));
            state.checkpoint_complete(number);
            store.wait_for_cleaning();
            let referenced: u64 = completed.segments().map(|(_, _, it)| it.length).sum();
            assert!(
                referenced <= 6 * live + SLACK,
                "checkpoint {id} references {referenced} bytes for {live}"
            );
            // The one before it is still the base of a delta that is being written.
            let all = stored(directory.path());
            assert!(
                all <= 6 * (live + live_before) + 2 * SLACK,
                "{all} bytes are stored for {live} and {live_before}"
            );
            live_before = live;
        }
    }

    #[test]
    fn c46_what_shrinks_is_not_outlived_by_what_it_was() {
        let mut changes = vec![Change::Put(0..900, 10_000)];
        changes.extend((0..10).map(|step| Change::Delete(step * 90..step * 90 + 90)));
        changes.push(Change::GiveUp);
        changes.push(Change::Put(0..1, 1));
        check(changes);
    }

    #[test]
    fn c46_a_chain_of_rewrites_stays_in_its_bounds() {
        check((0..24).map(|step| Change::Put(step % 7..200 + step % 5, 9000)));
    }

    #[test]
    fn c46_stored_bytes_stay_within_a_factor_of_the_live_state() {
        for seed in 0..12 {
            println!("seed {seed}");
            let mut random = Random::new(seed);
            let changes = (0..16).map(|_| {
                let start = random.below(500) as u32;
                let keys = start..start + 1 + random.below(500) as u32;
                match random.below(8) {
                    0..4 => Change::Put(keys, 1 + random.below(9000) as usize),
                    4..7 => Change::Delete(keys),
                    _ => Change::GiveUp,
                }
            });
            check(changes.collect::<Vec<_>>());
        }
    }
}
