//! Which channels may be read while barriers arrive, and when a snapshot is due.
//!
//! A pure state machine, one per subtask with input channels. Exactly-once: a channel whose barrier
//! has come is not read until the barrier has come on all of them, so no record from after the
//! barrier gets into the snapshot. At-least-once: no channel ever waits, and records from after the
//! barrier may get in; a restore then sees them twice.
//!
//! Barriers of one channel arrive in increasing order. A checkpoint that is aborted lets its channels
//! go; its barriers that are still on their way are dropped. Others in progress, older ones too, go on: a
//! checkpoint that fails takes no savepoint before it along. Ended inputs need no rule of their own: barriers
//! keep coming on them.

use std::collections::{BTreeMap, BTreeSet};

use crate::element::CheckpointId;

/// Whether records after a barrier may get into the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They may not: channels wait for each other.
    #[default]
    ExactlyOnce,
    /// They may: no channel waits.
    AtLeastOnce,
}

/// The barriers that have arrived on a subtask's channels.
#[derive(Clone, Debug)]
pub struct Alignment {
    mode: Mode,
    /// Channels that must not be read now.
    blocked: Vec<bool>,
    /// Checkpoints some of whose barriers have arrived, with the channels they came on. More than
    /// one only at-least-once, where a fast channel may be a checkpoint ahead of a slow one.
    begun: BTreeMap<CheckpointId, Vec<bool>>,
    /// The newest one that has aligned: barriers up to it are of no interest any more.
    settled: Option<CheckpointId>,
    /// Those after it that were aborted. There are as many as fail until one aligns.
    aborted: BTreeSet<CheckpointId>,
}

/// What a barrier brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was the last one: take the snapshot and pass the barrier on. All channels are free again.
    Complete,
    /// Others are still to come.
    Waiting,
    /// The checkpoint was aborted or overtaken: the barrier means nothing and is not passed on.
    Stale,
}

impl Alignment {
    /// No barrier has arrived on any of `channels` channels.
    #[must_use]
    pub fn new(channels: usize, mode: Mode) -> Self {
        Self {
            mode,
            blocked: vec![false; channels],
            begun: BTreeMap::new(),
            settled: None,
            aborted: BTreeSet::new(),
        }
    }

    /// For each channel whether it must not be read now.
    #[must_use]
    pub fn blocked(&self) -> &[bool] {
        &self.blocked
    }

    /// Barrier `id` has arrived on `channel`, which is not blocked.
    pub fn barrier(&mut self, channel: usize, id: CheckpointId) -> Arrival {
        assert!(
            !self.blocked[channel],
            "channel {channel} was read while it was blocked"
        );
        if self.is_settled(id) || self.aborted.contains(&id) {
            return Arrival::Stale;
        }
        if self.mode == Mode::ExactlyOnce {
            // An older barrier will never come on this channel, since barriers keep their order: its
            // checkpoint was aborted upstream, and waiting on would be for ever.
            let older: Vec<CheckpointId> =
                self.begun.range(..id).map(|(older, _)| *older).collect();
            older.into_iter().for_each(|older| self.abort(older));
        }
        let channels = self.blocked.len();
        let arrived = self
            .begun
            .entry(id)
            .or_insert_with(|| vec![false; channels]);
        arrived[channel] = true;
        if arrived.iter().all(|arrived| *arrived) {
            self.settled = Some(id);
            let next = CheckpointId(id.0 + 1);
            self.begun = self.begun.split_off(&next);
            self.aborted = self.aborted.split_off(&next);
            // No channel waits for a newer one: each of them has waited for this one until now.
            self.blocked.fill(false);
            return Arrival::Complete;
        }
        if self.mode == Mode::ExactlyOnce {
            self.blocked[channel] = true;
        }
        Arrival::Waiting
    }

    /// Checkpoint `id` is aborted.
    pub fn abort(&mut self, id: CheckpointId) {
        if self.is_settled(id) {
            return;
        }
        self.aborted.insert(id);
        // At-least-once no channel is blocked anyway.
        for (channel, arrived) in self.begun.remove(&id).into_iter().flatten().enumerate() {
            self.blocked[channel] &= !arrived;
        }
    }

    fn is_settled(&self, id: CheckpointId) -> bool {
        self.settled.is_some_and(|settled| id <= settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARRIERS: u64 = 2;

    /// Walks every order in which `channels` channels can deliver `per_channel` records and barriers
    /// (a record before each barrier and one after the last), and checks each snapshot.
    fn every_interleaving(channels: usize, mode: Mode) -> (usize, usize) {
        // A channel's script: record 0, barrier 1, record 1, barrier 2, record 2, …
        fn walk(
            positions: &mut Vec<u64>,
            alignment: &Alignment,
            seen: &mut Vec<Vec<u64>>,
            last: u64,
            mode: Mode,
            counts: &mut (usize, usize),
        ) {
            let end = 2 * BARRIERS + 1;
            let readable: Vec<usize> = (0..positions.len())
                .filter(|c| !alignment.blocked()[*c] && positions[*c] < end)
                .collect();
            if readable.is_empty() {
                assert!(
                    positions.iter().all(|p| *p == end),
                    "stuck at {positions:?}"
                );
                assert_eq!(last, BARRIERS, "every checkpoint completes");
                counts.0 += 1;
                return;
            }
            for channel in readable {
                let position = positions[channel];
                let mut next = alignment.clone();
                positions[channel] += 1;
                if position.is_multiple_of(2) {
                    seen[channel].push(position / 2);
                    walk(positions, &next, seen, last, mode, counts);
                    seen[channel].pop();
                } else {
                    let id = position / 2 + 1;
                    let mut completed = last;
                    if next.barrier(channel, CheckpointId(id)) == Arrival::Complete {
                        assert_eq!(id, last + 1, "checkpoints complete in order");
                        completed = id;
                        for records in seen.iter() {
                            // Records 0..id-1 lie before barrier id.
                            assert!(
                                records.len() as u64 >= id,
                                "a record before the barrier is missing"
                            );
                            if records.len() as u64 > id {
                                assert_eq!(
                                    mode,
                                    Mode::AtLeastOnce,
                                    "a record from after the barrier got in"
                                );
                                counts.1 += 1;
                            }
                        }
                    }
                    walk(positions, &next, seen, completed, mode, counts);
                }
                positions[channel] -= 1;
            }
        }
        let mut counts = (0, 0);
        walk(
            &mut vec![0; channels],
            &Alignment::new(channels, mode),
            &mut vec![Vec::new(); channels],
            0,
            mode,
            &mut counts,
        );
        counts
    }

    #[test]
    fn no_interleaving_lets_a_record_past_its_barrier() {
        for channels in 1..=3 {
            let (walks, early) = every_interleaving(channels, Mode::ExactlyOnce);
            assert!(walks > 0);
            assert_eq!(early, 0);
        }
    }

    #[test]
    fn at_least_once_never_blocks_and_lets_records_through() {
        let (walks, early) = every_interleaving(2, Mode::AtLeastOnce);
        assert!(walks > 0 && early > 0);
    }

    #[test]
    fn an_aborted_checkpoint_lets_its_channels_go_and_its_late_barriers_are_stale() {
        let mut alignment = Alignment::new(2, Mode::ExactlyOnce);
        assert_eq!(alignment.barrier(0, CheckpointId(1)), Arrival::Waiting);
        assert_eq!(alignment.blocked(), [true, false]);
        alignment.abort(CheckpointId(1));
        assert_eq!(alignment.blocked(), [false, false]);
        assert_eq!(alignment.barrier(1, CheckpointId(1)), Arrival::Stale);
        assert_eq!(alignment.barrier(1, CheckpointId(2)), Arrival::Waiting);
        assert_eq!(alignment.barrier(0, CheckpointId(2)), Arrival::Complete);
    }

    #[test]
    fn a_newer_barrier_ends_an_alignment_that_can_never_complete() {
        let mut alignment = Alignment::new(3, Mode::ExactlyOnce);
        assert_eq!(alignment.barrier(0, CheckpointId(1)), Arrival::Waiting);
        assert_eq!(alignment.barrier(1, CheckpointId(2)), Arrival::Waiting);
        assert_eq!(alignment.blocked(), [false, true, false]);
        assert_eq!(alignment.barrier(0, CheckpointId(2)), Arrival::Waiting);
        // One of the older barriers was sent before its sender heard of the abort.
        assert_eq!(alignment.barrier(2, CheckpointId(1)), Arrival::Stale);
        assert_eq!(alignment.barrier(2, CheckpointId(2)), Arrival::Complete);
        assert_eq!(alignment.blocked(), [false, false, false]);
    }

    #[test]
    fn an_abort_of_a_newer_checkpoint_leaves_older_ones_in_progress() {
        for mode in [Mode::ExactlyOnce, Mode::AtLeastOnce] {
            let mut alignment = Alignment::new(2, mode);
            assert_eq!(alignment.barrier(0, CheckpointId(1)), Arrival::Waiting);
            alignment.abort(CheckpointId(2));
            assert_eq!(alignment.blocked(), [mode == Mode::ExactlyOnce, false]);
            assert_eq!(alignment.barrier(1, CheckpointId(1)), Arrival::Complete);
            assert_eq!(alignment.barrier(1, CheckpointId(2)), Arrival::Stale);
            assert_eq!(alignment.barrier(1, CheckpointId(3)), Arrival::Waiting);
            assert_eq!(alignment.barrier(0, CheckpointId(2)), Arrival::Stale);
            assert_eq!(alignment.barrier(0, CheckpointId(3)), Arrival::Complete);
        }
    }

    #[test]
    fn an_abort_of_an_older_checkpoint_changes_nothing() {
        let mut alignment = Alignment::new(2, Mode::ExactlyOnce);
        assert_eq!(alignment.barrier(0, CheckpointId(5)), Arrival::Waiting);
        alignment.abort(CheckpointId(4));
        assert_eq!(alignment.blocked(), [true, false]);
        assert_eq!(alignment.barrier(1, CheckpointId(5)), Arrival::Complete);
    }
}
