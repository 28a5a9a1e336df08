//! The fields of one key's map, in order.
//!
//! Holds the numbers of entries only; what an entry's field is, the caller knows. A few entries take
//! one sorted list, many take a list of such lists, none above `LEAF_MAX`: finding is a binary
//! search, and inserting moves some hundred numbers.

use std::cmp::Ordering;

const LEAF_MAX: usize = 256;

/// The numbers of a map's entries, ordered by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::box_collection,
    reason = "there is one of these per key, and so it has 16 bytes"
)]
pub(super) enum Fields {
    /// No entry.
    #[default]
    None,
    /// One entry, as most small maps have at times.
    One(u32),
    /// Sorted leaves, none of them empty, at least one.
    Many(Box<Vec<Vec<u32>>>),
}

/// A place between entries: in front of entry `at` of leaf `leaf`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    leaf: usize,
    at: usize,
}

impl Fields {
    /// Where the field is that `compare` (an entry's field with the wanted one) looks for: its entry,
    /// or none, and the place in front of it, or where it would be.
    pub(super) fn find(&self, mut compare: impl FnMut(u32) -> Ordering) -> (Option<u32>, Place) {
        match self {
            Self::None => (None, Place { leaf: 0, at: 0 }),
            Self::One(entry) => match compare(*entry) {
                Ordering::Less => (None, Place { leaf: 0, at: 1 }),
                Ordering::Equal => (Some(*entry), Place { leaf: 0, at: 0 }),
                Ordering::Greater => (None, Place { leaf: 0, at: 0 }),
            },
            Self::Many(leaves) => {
                // The last leaf that does not start behind the wanted field.
                let behind = leaves.partition_point(|leaf| compare(leaf[0]) != Ordering::Greater);
                let leaf = behind.saturating_sub(1);
                let at = leaves[leaf].partition_point(|entry| compare(*entry) == Ordering::Less);
                let entry = leaves[leaf]
                    .get(at)
                    .copied()
                    .filter(|entry| compare(*entry) == Ordering::Equal);
                (entry, Place { leaf, at })
            }
        }
    }

    /// Inserts an entry at a place that `find` gave.
    pub(super) fn insert(&mut self, place: Place, entry: u32) {
        match self {
            Self::None => *self = Self::One(entry),
            Self::One(other) => {
                let leaf = if place.at == 0 {
                    vec![entry, *other]
                } else {
                    vec![*other, entry]
                };
                *self = Self::Many(Box::new(vec![leaf]));
            }
            Self::Many(leaves) => {
                let leaf = &mut leaves[place.leaf];
                leaf.insert(place.at, entry);
                if leaf.len() > LEAF_MAX {
                    // Fields that arrive in order (times, mostly) leave full leaves behind.
                    let ascending = place.at + 1 == leaf.len();
                    let half = leaf.split_off(if ascending { LEAF_MAX } else { LEAF_MAX / 2 });
                    leaves.insert(place.leaf + 1, half);
                }
            }
        }
    }

    /// Removes the entry behind a place that `find` gave.
    pub(super) fn remove(&mut self, place: Place) {
        match self {
            Self::None => {}
            Self::One(_) => *self = Self::None,
            Self::Many(leaves) => {
                leaves[place.leaf].remove(place.at);
                if leaves[place.leaf].is_empty() {
                    leaves.remove(place.leaf);
                }
                match leaves.as_slice() {
                    [] => *self = Self::None,
                    [leaf] if leaf.len() == 1 => *self = Self::One(leaf[0]),
                    _ => {}
                }
            }
        }
    }

    /// Whether there is no entry.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The entries in order from a place on.
    pub(super) fn from(&self, place: Place) -> impl Iterator<Item = u32> {
        let (one, leaves) = match self {
            Self::None => (None, [].as_slice()),
            Self::One(entry) => (Some(*entry).filter(|_| place.at == 0), [].as_slice()),
            Self::Many(leaves) => (None, leaves.as_slice()),
        };
        let first = leaves
            .get(place.leaf)
            .map_or([].as_slice(), |leaf| &leaf[place.at..]);
        let rest = leaves.iter().skip(place.leaf + 1).flatten();
        one.into_iter().chain(first.iter().chain(rest).copied())
    }

    /// All entries in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.from(Place { leaf: 0, at: 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn fields_stay_ordered_whatever_comes_and_goes(
            ops in prop::collection::vec((any::<bool>(), 0..2000_u32), 0..3000),
            ascending in 0..3000_u32,
        ) {
            let mut fields = Fields::default();
            let mut model = BTreeSet::new();
            let all = (0..ascending).map(|entry| (true, entry)).chain(ops);
            for (insert, entry) in all {
                let (found, place) = fields.find(|other| other.cmp(&entry));
                prop_assert_eq!(found.is_some(), model.contains(&entry));
                match (insert, found) {
                    (true, None) => fields.insert(place, entry),
                    (false, Some(_)) => fields.remove(place),
                    _ => {}
                }
                if insert { model.insert(entry) } else { model.remove(&entry) };
            }
            prop_assert!(fields.iter().eq(model.iter().copied()));
            prop_assert_eq!(fields.is_empty(), model.is_empty());
            let (_, middle) = fields.find(|other| other.cmp(&700));
            prop_assert!(fields.from(middle).eq(model.range(700..).copied()));
        }
    }
}
