//! Keys, key groups, and which subtask owns them.
//!
//! A key belongs to the key group `hash(key) mod key-groups`, and key groups are dealt to subtasks
//! in contiguous ranges by Flink's rule (`KeyGroupRangeAssignment`), so that rescaling a job means
//! splitting and merging ranges. The hash is part of the checkpoint format: it must never change
//! for a given [`KEY_HASH_NAME`].

use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// Name of the hash that [`hash`] computes, as recorded in checkpoint metadata.
pub const KEY_HASH_NAME: &str = "xxh3-64";

/// The fixed 64-bit hash of a key's bytes (XXH3-64, seed 0).
///
/// One hash per record serves routing, the key group and the place in the state table.
#[inline]
#[must_use]
pub fn hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// A hash of keys that nobody outside the process can foresee (SipHash under a random key).
///
/// [`hash`] has no secret: the writer of the records can choose keys that it takes for one. So tables
/// are ordered by it only as long as few keys meet in one place, and by this one from then on. Nothing
/// that leaves the process depends on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SecretHash(RandomState);

impl SecretHash {
    /// The hash of a key's bytes.
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        self.0.hash_one(key)
    }
}

/// Number of key groups of a job: the upper bound of its parallelism, fixed for the life of its
/// state. Between 1 and [`KeyGroups::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyGroups(u16);

impl KeyGroups {
    /// The most key groups a job can have (Flink's `UPPER_BOUND_MAX_PARALLELISM`).
    pub const MAX: u32 = 1 << 15;

    /// `None` unless `1 <= count <= KeyGroups::MAX`.
    #[must_use]
    pub fn new(count: u32) -> Option<Self> {
        (1..=Self::MAX)
            .contains(&count)
            .then_some(Self(count as u16))
    }

    /// Flink's rule for jobs that do not say: one and a half times the parallelism, rounded up to a
    /// power of two, at least 128 and at most [`KeyGroups::MAX`].
    #[must_use]
    pub fn default_for(parallelism: u32) -> Self {
        let wanted = parallelism
            .saturating_add(parallelism / 2)
            .checked_next_power_of_two();
        Self(wanted.unwrap_or(Self::MAX).clamp(128, Self::MAX) as u16)
    }

    /// How many key groups there are.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.0)
    }

    /// The key group of a key with this [`hash`].
    #[inline]
    #[must_use]
    pub fn group_of(self, hash: u64) -> u32 {
        // Most jobs have a power of two of them, and then it need not be divided.
        if self.0.is_power_of_two() {
            hash as u32 & (u32::from(self.0) - 1)
        } else {
            (hash % u64::from(self.0)) as u32
        }
    }

    /// The subtask that owns `group` when an operator runs with `parallelism` subtasks.
    #[inline]
    #[must_use]
    pub fn subtask_of(self, group: u32, parallelism: u32) -> u32 {
        (u64::from(group) * u64::from(parallelism) / u64::from(self.0)) as u32
    }

    /// The key groups that `subtask` of `parallelism` owns; empty only where parallelism exceeds
    /// the number of key groups, which job validation refuses.
    #[must_use]
    pub fn range_of(self, subtask: u32, parallelism: u32) -> KeyGroupRange {
        assert!(subtask < parallelism, "subtask {subtask} of {parallelism}");
        let (count, p, i) = (
            u64::from(self.0),
            u64::from(parallelism),
            u64::from(subtask),
        );
        let start = (i * count).div_ceil(p);
        let end = ((i + 1) * count).div_ceil(p);
        KeyGroupRange {
            start: start as u32,
            end: end as u32,
        }
    }
}

impl fmt::Display for KeyGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A contiguous range of key groups, `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyGroupRange {
    /// First key group in the range.
    pub start: u32,
    /// One past the last key group in the range.
    pub end: u32,
}

impl KeyGroupRange {
    /// Whether `group` is in the range.
    #[inline]
    #[must_use]
    pub fn contains(self, group: u32) -> bool {
        (self.start..self.end).contains(&group)
    }

    /// Whether the two ranges share a key group.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_belongs_to_exactly_the_subtask_whose_range_holds_it() {
        for groups in [1, 2, 7, 128, 1000, 32768] {
            let groups = KeyGroups::new(groups).unwrap();
            for parallelism in [1, 2, 3, 4, 5, 7, 64, 128] {
                let mut next = 0;
                for subtask in 0..parallelism {
                    let range = groups.range_of(subtask, parallelism);
                    assert_eq!(range.start, next);
                    next = range.end;
                    for group in range.start..range.end {
                        assert_eq!(groups.subtask_of(group, parallelism), subtask);
                    }
                }
                assert_eq!(next, groups.count());
            }
        }
    }

    #[test]
    fn the_key_group_is_the_rest_of_the_hash() {
        for count in [1, 2, 100, 128, 1000, KeyGroups::MAX] {
            let groups = KeyGroups::new(count).unwrap();
            for hash in [0, 1, u64::MAX, 0x2d06_8005_38d3_94c2, 0xe6c6_32b6_1e96_4e1f] {
                assert_eq!(u64::from(groups.group_of(hash)), hash % u64::from(count));
            }
        }
    }

    #[test]
    fn default_follows_flinks_rule() {
        for (parallelism, groups) in [
            (1, 128),
            (85, 128),
            (86, 256),
            (200, 512),
            (u32::MAX, 32768),
        ] {
            assert_eq!(KeyGroups::default_for(parallelism).count(), groups);
        }
    }

    #[test]
    fn the_hash_is_part_of_the_format() {
        assert_eq!(hash(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(hash(b"a"), 0xe6c6_32b6_1e96_4e1f);
        // As in docs/checkpoint-format.md.
        let groups = KeyGroups::new(128).unwrap();
        for (key, group, subtask) in [(&b""[..], 66, 1), (b"a", 31, 0)] {
            assert_eq!(groups.group_of(hash(key)), group);
            assert_eq!(groups.subtask_of(group, 3), subtask);
        }
    }
}
