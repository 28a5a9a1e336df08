//! Timers in the order of time.
//!
//! Times that differ in their last bits only are in one bucket: what is registered for about the same time is written
//! to the end of one list, and sorted once, when the first of it is due. So registering and taking read memory
//! from one place to the next, however many timers there are.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map;

/// How many bits of a time do not tell buckets apart: 64 ms. More of them make fewer and longer lists, but more to
/// sort again if timers are registered for times that are nearly reached.
const SPAN_BITS: u32 = 6;

/// A timer that is to fire, if it is still registered by then.
#[derive(Clone, Copy, Debug)]
pub(in crate::state) struct Due {
    pub(super) time: i64,
    pub(super) slot: u32,
    pub(super) tag: u32,
    /// Number of its entry in the map, if it is still registered.
    pub(super) entry: u32,
}

impl Due {
    pub(super) fn new(time: i64, slot: u32, tag: u32, entry: u32) -> Self {
        Self {
            time,
            slot,
            tag,
            entry,
        }
    }

    /// Those of one time and tag come as they were registered.
    fn order(&self) -> (i64, u32) {
        (self.time, self.tag)
    }
}

/// Timers in the order of time.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By the first bits of their times.
    buckets: BTreeMap<i64, Bucket>,
    /// How many entries there are, with those that have no timer any more.
    pub(super) len: usize,
    /// Whether it has what the map has. Not after a restore.
    pub(super) is_built: bool,
    /// What was taken in the current call.
    taken: Vec<Due>,
}

/// The timers of some times.
#[derive(Debug)]
enum Bucket {
    /// In place: where timers are few, most are alone.
    One(Due),
    Many(Box<Many>),
}

#[derive(Debug)]
struct Many {
    /// In the reverse of the order in which they are taken.
    sorted: Vec<Due>,
    /// Those that came since, as they came.
    unsorted: Vec<Due>,
    /// The lowest time of those; the highest that there is without any.
    lowest: i64,
}

impl Default for Many {
    fn default() -> Self {
        Self {
            sorted: Vec::new(),
            unsorted: Vec::new(),
            lowest: i64::MAX,
        }
    }
}

impl Many {
    fn push(&mut self, due: Due) {
        self.lowest = self.lowest.min(due.time);
        self.unsorted.push(due);
    }

    /// The next one, if its time is not after `until`.
    fn pop(&mut self, until: i64) -> Option<Due> {
        let next = self.sorted.last().map(|due| due.time);
        if !self.unsorted.is_empty() && next.is_none_or(|time| self.lowest <= time) {
            if self.lowest > until {
                return None;
            }
            self.sort();
        }
        self.sorted.pop_if(|due| due.time <= until)
    }

    /// Brings what has come to what is sorted.
    fn sort(&mut self) {
        // In reverse, as all: of equal ones the first to come stands last.
        self.unsorted.reverse();
        self.unsorted.append(&mut self.sorted);
        std::mem::swap(&mut self.sorted, &mut self.unsorted);
        self.sorted.sort_by_key(|due| Reverse(due.order()));
        self.lowest = i64::MAX;
    }

    fn lowest(&self) -> i64 {
        let sorted = self.sorted.last().map_or(i64::MAX, |due| due.time);
        sorted.min(self.lowest)
    }

    fn is_empty(&self) -> bool {
        self.sorted.is_empty() && self.unsorted.is_empty()
    }

    /// Those that are taken next, in about this order.
    fn next(&self) -> impl Iterator<Item = Due> {
        self.sorted.iter().rev().chain(&self.unsorted).copied()
    }
}

impl Bucket {
    /// This bucket with room for more.
    fn many(&mut self) -> &mut Many {
        if let Self::One(due) = *self {
            let mut many = Many::default();
            many.push(due);
            *self = Self::Many(Box::new(many));
        }
        match self {
            Self::Many(many) => many,
            Self::One(_) => unreachable!("it was replaced"),
        }
    }
}

impl Queue {
    /// An empty one that is given all that the map has.
    pub(super) fn to_build() -> Self {
        Self {
            is_built: true,
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, due: Due) {
        self.len += 1;
        match self.buckets.entry(due.time >> SPAN_BITS) {
            btree_map::Entry::Vacant(place) => {
                place.insert(Bucket::One(due));
            }
            btree_map::Entry::Occupied(bucket) => bucket.into_mut().many().push(due),
        }
    }

    /// Takes the next one, if its time is not after `until`. It is back after a rollback.
    pub(super) fn pop(&mut self, until: i64) -> Option<Due> {
        let mut first = self.buckets.first_entry()?;
        let (due, is_empty) = match first.get_mut() {
            Bucket::One(due) if due.time > until => return None,
            Bucket::One(due) => (*due, true),
            Bucket::Many(many) => (many.pop(until)?, many.is_empty()),
        };
        if is_empty {
            first.remove();
        }
        self.len -= 1;
        Some(due)
    }

    /// Puts back what was popped last of all that is not put back yet: it is the next again.
    pub(super) fn put_back(&mut self, due: Due) {
        let empty = || Bucket::Many(Box::default());
        let bucket = self.buckets.entry(due.time >> SPAN_BITS);
        bucket.or_insert_with(empty).many().sorted.push(due);
        self.len += 1;
    }

    /// What was popped was a timer, and is taken.
    pub(super) fn take(&mut self, due: Due) {
        self.taken.push(due);
    }

    /// What is taken has fired.
    pub(super) fn commit(&mut self) {
        self.taken.clear();
    }

    /// What is taken has not fired.
    pub(super) fn rollback(&mut self) {
        while let Some(due) = self.taken.pop() {
            self.put_back(due);
        }
    }

    /// The lowest time.
    pub(super) fn next_time(&self) -> Option<i64> {
        let (_, first) = self.buckets.first_key_value()?;
        Some(match first {
            Bucket::One(due) => due.time,
            Bucket::Many(many) => many.lowest(),
        })
    }

    /// What is taken next until a time, in about this order, at most `count` of it.
    pub(super) fn next(&self, until: i64, count: usize, next: &mut Vec<Due>) {
        next.clear();
        for bucket in self.buckets.range(..=until >> SPAN_BITS) {
            let room = count - next.len();
            match bucket.1 {
                _ if room == 0 => break,
                Bucket::One(due) => next.push(*due),
                Bucket::Many(many) => next.extend(many.next().take(room)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Time, tag and number of registration: the order that is promised.
    type Model = BTreeSet<(i64, u32, u32)>;

    #[derive(Clone, Debug)]
    enum Op {
        Push(i64, u32),
        Pop(i64),
        /// Takes this many, and puts them back.
        PutBack(i64, usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        // Half of the times in one bucket: from -64 on, from 0 on.
        let time = || prop_oneof![0..4_i64, -70..-60_i64, -200..200_i64, Just(i64::MAX)];
        prop_oneof![
            3 => (time(), 0..3_u32).prop_map(|(time, tag)| Op::Push(time, tag)),
            3 => time().prop_map(Op::Pop),
            1 => (time(), 0..4_usize).prop_map(|(until, count)| Op::PutBack(until, count)),
        ]
    }

    proptest! {
        #[test]
        fn timers_are_taken_in_the_order_that_is_promised(
            ops in prop::collection::vec(op(), 1..200),
        ) {
            let (mut queue, mut model) = (Queue::default(), Model::default());
            for (number, op) in (0..).zip(ops) {
                match op {
                    Op::Push(time, tag) => {
                        queue.push(Due::new(time, 0, tag, number));
                        model.insert((time, tag, number));
                    }
                    Op::Pop(until) => {
                        let next = model.first().copied().filter(|next| next.0 <= until);
                        let taken = queue.pop(until);
                        prop_assert_eq!(taken.map(|due| (due.time, due.tag, due.entry)), next);
                        next.map(|next| model.remove(&next));
                    }
                    Op::PutBack(until, count) => {
                        let taken = (0..count).map_while(|_| queue.pop(until));
                        taken.collect::<Vec<_>>().into_iter().for_each(|due| queue.take(due));
                        queue.rollback();
                    }
                }
                prop_assert_eq!(queue.len, model.len());
                prop_assert_eq!(queue.next_time(), model.first().map(|next| next.0));
            }
        }
    }
}
