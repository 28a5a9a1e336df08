//! The fields of one key's map, in order.
//!
//! Holds the numbers of entries only; what an entry's field is, the caller knows. Up to three entries stand in
//! place, more take one sorted list (a leaf), many take a list of leaves: finding is a binary search, and inserting
//! moves some hundred numbers. With millions of entries the leaves grow with their number, so that
//! neither the list of leaves nor a leaf is long to move.
//!
//! A restore brings entries in the order in which they were written. A long map takes them as they come
//! ([`Fields::push`]) and is sorted once ([`Fields::sort`]): looking each one up would fetch memory from
//! everywhere, twenty times for each of a million.

use std::cmp::Ordering;

/// The most entries of a leaf, unless there are more leaves than that.
const LEAF_MAX: usize = if cfg!(test) { 4 } else { 256 };

/// The most entries in place.
const FEW: usize = 3;

/// How many of the first entries are looked through for a number, before a search by field.
const NEAR_START: usize = 16;

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
    /// Some entries in place, at least one: most maps are as small, those of timers above all.
    Few { len: u8, entries: [u32; FEW] },
    /// One sorted leaf, which is not empty.
    Leaf(Box<Vec<u32>>),
    /// Sorted leaves, none of them empty, at least one.
    Many(Box<Vec<Vec<u32>>>),
    /// Entries as they came, while a restore brings them.
    Unsorted(Box<Vec<u32>>),
}

const _: () = assert!(size_of::<Fields>() == 16, "there is one of these per key");

const SORTED: &str = "a restore sorts what it has brought";

/// A place between entries: in front of entry `at` of leaf `leaf`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    leaf: usize,
    at: usize,
}

impl Fields {
    /// Where the field is that `compare` (an entry's field with the wanted one) looks for: its entry,
    /// or none, and the place in front of it, or where it would be.
    pub(super) fn find(&self, mut compare: impl FnMut(u32) -> Ordering) -> (Option<u32>, Cursor) {
        match self {
            Self::None => (None, Cursor { leaf: 0, at: 0 }),
            Self::Few { len, entries } => {
                let entries = &entries[..usize::from(*len)];
                let end = Cursor {
                    leaf: 0,
                    at: entries.len(),
                };
                // Fields that arrive in order (times, mostly) come after the last.
                if let [.., last] = entries
                    && compare(*last) == Ordering::Less
                {
                    return (None, end);
                }
                for (at, entry) in entries.iter().enumerate() {
                    match compare(*entry) {
                        Ordering::Less => {}
                        Ordering::Equal => return (Some(*entry), Cursor { leaf: 0, at }),
                        Ordering::Greater => return (None, Cursor { leaf: 0, at }),
                    }
                }
                (None, end)
            }
            Self::Many(leaves) => {
                // The last leaf that does not start after the wanted field.
                let behind = leaves.partition_point(|leaf| compare(leaf[0]) != Ordering::Greater);
                let leaf = behind.saturating_sub(1);
                let (entry, at) = find_in(&leaves[leaf], compare);
                (entry, Cursor { leaf, at })
            }
            Self::Leaf(leaf) => {
                let (entry, at) = find_in(leaf, compare);
                (entry, Cursor { leaf: 0, at })
            }
            Self::Unsorted(_) => unreachable!("{SORTED}"),
        }
    }

    /// The same for a field that probably comes after all others.
    pub(super) fn find_from_end(
        &self,
        mut compare: impl FnMut(u32) -> Ordering,
    ) -> (Option<u32>, Cursor) {
        if let Some(last) = self.last()
            && compare(last) == Ordering::Less
        {
            let (leaf, at) = match self {
                Self::None => (0, 0),
                Self::Few { len, .. } => (0, usize::from(*len)),
                Self::Leaf(leaf) => (0, leaf.len()),
                Self::Many(leaves) => {
                    let last = leaves.len() - 1;
                    (last, leaves[last].len())
                }
                Self::Unsorted(_) => unreachable!("{SORTED}"),
            };
            return (None, Cursor { leaf, at });
        }
        self.find(compare)
    }

    /// The last entry; `None` also while a restore brings them.
    #[inline]
    pub(super) fn last(&self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Few { len, entries } => entries[..usize::from(*len)].last().copied(),
            Self::Leaf(leaf) => leaf.last().copied(),
            Self::Many(leaves) => leaves.last()?.last().copied(),
            Self::Unsorted(_) => None,
        }
    }

    /// Inserts an entry at a place that `find` gave.
    pub(super) fn insert(&mut self, place: Cursor, entry: u32) {
        match self {
            Self::None => *self = Self::few(&[entry]),
            Self::Few { len, entries } => {
                let held = usize::from(*len);
                if held < FEW {
                    entries.copy_within(place.at..held, place.at + 1);
                    entries[place.at] = entry;
                    *len += 1;
                } else {
                    let mut leaf = Vec::with_capacity(2 * FEW);
                    leaf.extend_from_slice(entries);
                    leaf.insert(place.at, entry);
                    *self = Self::Leaf(Box::new(leaf));
                }
            }
            Self::Leaf(leaf) => {
                if let Some(half) = insert_in(leaf, place.at, entry, LEAF_MAX) {
                    *self = Self::Many(Box::new(vec![std::mem::take(leaf), half]));
                }
            }
            Self::Many(leaves) => {
                let max = LEAF_MAX.max(leaves.len());
                if let Some(half) = insert_in(&mut leaves[place.leaf], place.at, entry, max) {
                    leaves.insert(place.leaf + 1, half);
                }
            }
            Self::Unsorted(_) => unreachable!("{SORTED}"),
        }
    }

    /// Whether there are enough entries that sorting those of a restore once pays.
    pub(super) fn is_long(&self) -> bool {
        match self {
            Self::None | Self::Few { .. } | Self::Leaf(_) => false,
            Self::Many(leaves) => leaves.len() > 1,
            Self::Unsorted(_) => true,
        }
    }

    /// Adds an entry after the others, whatever its field is. Returns whether the entries were sorted
    /// before; [`Fields::sort`] has to follow.
    pub(super) fn push(&mut self, entry: u32) -> bool {
        if let Self::Unsorted(entries) = self {
            entries.push(entry);
            return false;
        }
        let entries = self.iter().chain([entry]).collect();
        *self = Self::Unsorted(Box::new(entries));
        true
    }

    /// Sorts the entries that were pushed: `prefix` gives the beginning of an entry's field as a number of
    /// the same order, `compare` compares the fields of two entries. Returns whether all fields differ.
    pub(super) fn sort(
        &mut self,
        prefix: impl Fn(u32) -> u64,
        compare: impl Fn(u32, u32) -> Ordering,
    ) -> bool {
        let Self::Unsorted(entries) = self else {
            return true;
        };
        let mut sorted: Vec<(u64, u32)> = std::mem::take(&mut **entries)
            .into_iter()
            .map(|entry| (prefix(entry), entry))
            .collect();
        let compare = |one: &(u64, u32), other: &(u64, u32)| {
            (one.0.cmp(&other.0)).then_with(|| compare(one.1, other.1))
        };
        sorted.sort_unstable_by(compare);
        let distinct = sorted
            .windows(2)
            .all(|pair| compare(&pair[0], &pair[1]) == Ordering::Less);
        // Three quarters of what a leaf may hold in a map of this size.
        let len = LEAF_MAX.max(sorted.len().isqrt()) / 4 * 3;
        let leaves = sorted
            .chunks(len)
            .map(|leaf| leaf.iter().map(|(_, entry)| *entry).collect());
        *self = Self::Many(Box::new(leaves.collect()));
        distinct
    }

    /// Takes entries from the end, at least one leaf and no more than it takes to have `at_least`. All
    /// that are taken stand after those that stay.
    pub(super) fn split_end(&mut self, at_least: usize) -> Self {
        if let Self::Many(leaves) = self {
            let (mut first, mut taken) = (leaves.len(), 0);
            while first > 0 && taken < at_least {
                first -= 1;
                taken += leaves[first].len();
            }
            if first > 0 {
                let end = leaves.split_off(first);
                self.shrink();
                return Self::Many(Box::new(end));
            }
        }
        std::mem::take(self)
    }

    /// Puts back what [`Fields::split_end`] has taken, when all is as it was then.
    pub(super) fn join_end(&mut self, end: Self) {
        if self.is_empty() {
            *self = end;
            return;
        }
        let leaves = |fields: Self| match fields {
            Self::None => Vec::new(),
            Self::Few { len, entries } => vec![entries[..usize::from(len)].to_vec()],
            Self::Leaf(leaf) => vec![*leaf],
            Self::Many(leaves) => *leaves,
            Self::Unsorted(_) => unreachable!("{SORTED}"),
        };
        let mut all = leaves(std::mem::take(self));
        all.append(&mut leaves(end));
        *self = Self::Many(Box::new(all));
    }

    /// Removes the entry at a place that `find` gave.
    pub(super) fn remove(&mut self, place: Cursor) {
        match self {
            Self::None => {}
            Self::Few { len: 1, .. } => *self = Self::None,
            Self::Few { len, entries } => {
                entries.copy_within(place.at + 1..usize::from(*len), place.at);
                *len -= 1;
            }
            Self::Leaf(leaf) => {
                leaf.remove(place.at);
                self.shrink();
            }
            Self::Many(leaves) => {
                leaves[place.leaf].remove(place.at);
                if leaves[place.leaf].is_empty() {
                    leaves.remove(place.leaf);
                }
                self.shrink();
            }
            Self::Unsorted(_) => unreachable!("{SORTED}"),
        }
    }

    /// Entries in place, at most [`FEW`].
    fn few(entries: &[u32]) -> Self {
        let mut held = [0; FEW];
        held[..entries.len()].copy_from_slice(entries);
        Self::Few {
            len: entries.len() as u8,
            entries: held,
        }
    }

    /// Puts entries in place if they are few: one less than fit there, so that a map that has as many again and
    /// again does not move each time.
    fn shrink(&mut self) {
        match self {
            Self::Leaf(leaf) if leaf.is_empty() => *self = Self::None,
            Self::Leaf(leaf) if leaf.len() < FEW => *self = Self::few(leaf),
            Self::Many(leaves) => match leaves.as_mut_slice() {
                [] => *self = Self::None,
                [leaf] if leaf.len() < FEW => *self = Self::few(leaf),
                [leaf] => *self = Self::Leaf(Box::new(std::mem::take(leaf))),
                _ => {}
            },
            _ => {}
        }
    }

    /// The entries that stand first, in one piece of memory: all, unless there are very many.
    #[inline]
    pub(super) fn first_piece(&self) -> &[u32] {
        match self {
            Self::Few { len, entries } => &entries[..usize::from(*len)],
            Self::Leaf(leaf) => leaf,
            Self::Many(leaves) => leaves.first().map_or(&[], Vec::as_slice),
            Self::None | Self::Unsorted(_) => &[],
        }
    }

    /// The place in front of an entry that is one of the first; `None` if it is not one of those. Looks at no field.
    #[inline]
    pub(super) fn place_near_start(&self, entry: u32) -> Option<Cursor> {
        let mut first = self.first_piece().iter().take(NEAR_START);
        let at = first.position(|other| *other == entry)?;
        Some(Cursor { leaf: 0, at })
    }

    /// Whether there is no entry.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The entries in order from a place on.
    pub(super) fn from(&self, place: Cursor) -> impl Iterator<Item = u32> {
        let (few, leaves) = match self {
            Self::None => ([].as_slice(), [].as_slice()),
            Self::Few { len, entries } => (&entries[place.at..usize::from(*len)], [].as_slice()),
            Self::Leaf(leaf) => (&leaf[place.at..], [].as_slice()),
            Self::Many(leaves) => ([].as_slice(), leaves.as_slice()),
            Self::Unsorted(_) => unreachable!("{SORTED}"),
        };
        let first = leaves
            .get(place.leaf)
            .map_or([].as_slice(), |leaf| &leaf[place.at..]);
        let rest = leaves.iter().skip(place.leaf + 1).flatten();
        few.iter().chain(first).chain(rest).copied()
    }

    /// All entries in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.from(Cursor { leaf: 0, at: 0 })
    }
}

/// Where the field is in a leaf that `compare` looks for: its entry, or none, and the place in front of it.
fn find_in(leaf: &[u32], mut compare: impl FnMut(u32) -> Ordering) -> (Option<u32>, usize) {
    let at = leaf.partition_point(|entry| compare(*entry) == Ordering::Less);
    let entry = leaf.get(at).copied();
    (entry.filter(|entry| compare(*entry) == Ordering::Equal), at)
}

/// Inserts an entry into a leaf. If there are more than `max` then, it keeps some of them and the others are returned.
fn insert_in(leaf: &mut Vec<u32>, at: usize, entry: u32, max: usize) -> Option<Vec<u32>> {
    leaf.insert(at, entry);
    // Fields that arrive in order (times, mostly) leave full leaves.
    let keep = if at + 1 == leaf.len() { max } else { max / 2 };
    (leaf.len() > max).then(|| leaf.split_off(keep))
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
                let from_end = fields.find_from_end(|other| other.cmp(&entry));
                prop_assert_eq!((from_end.0, from_end.1.leaf, from_end.1.at), (found, place.leaf, place.at));
                if let Some(near) = fields.place_near_start(entry) {
                    prop_assert_eq!((near.leaf, near.at), (place.leaf, place.at));
                }
                prop_assert_eq!(fields.last(), model.last().copied());
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

            // What is taken from the end comes after what stays, and goes back to where it was.
            let (before, mut taken) = (fields.clone(), Vec::new());
            while !fields.is_empty() {
                let end = fields.split_end(5);
                let left = model.len() - taken.iter().map(|end: &Fields| end.iter().count()).sum::<usize>();
                let (count, stay) = (end.iter().count(), fields.iter().count());
                prop_assert_eq!(count + stay, left);
                prop_assert!(stay == 0 || count >= 5);
                prop_assert!(fields.iter().chain(end.iter()).eq(model.iter().copied().take(left)));
                taken.push(end);
            }
            taken.into_iter().rev().for_each(|end| fields.join_end(end));
            prop_assert!(fields.iter().eq(before.iter()));
        }

        #[test]
        fn entries_that_are_sorted_once_are_as_if_each_was_inserted(
            mut entries in prop::collection::vec(any::<u32>(), 1..3000),
            twice in any::<bool>(),
        ) {
            let model: BTreeSet<u32> = entries.iter().copied().collect();
            let distinct = model.len() == entries.len() && !twice;
            if twice {
                entries.push(entries[0]);
            }
            let mut fields = Fields::default();
            let first = entries.iter().map(|entry| fields.push(*entry));
            prop_assert_eq!(first.filter(|was_sorted| *was_sorted).count(), 1);
            // Most entries have a prefix in common with others.
            let found = fields.sort(|entry| u64::from(entry >> 24), |one, other| one.cmp(&other));
            prop_assert_eq!(found, distinct);
            if distinct {
                prop_assert!(fields.iter().eq(model.iter().copied()));
                for entry in &model {
                    prop_assert_eq!(fields.find(|other| other.cmp(entry)).0, Some(*entry));
                }
            }
        }
    }
}
