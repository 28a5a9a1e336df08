//! What every step makes of its whole input: without the runtime, channels, batches or state.

use std::collections::{BTreeMap, BTreeSet};

use super::feeds::Feed;
use super::steps::{Kind, digest, field};

/// Key and value.
pub(crate) type Record = (String, String);

/// What is left of a stream's promise where records may come twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing but what is expected, and each at least as often.
    Same,
    /// What is expected at least as often, and more.
    More,
    /// The keys.
    Keys,
    /// Not even these.
    Nothing,
}

/// What is left after a step, given what is left before it: what counts repeats is another one where
/// records come twice.
pub(crate) fn level(kind: Kind, before: Level) -> Level {
    let own = match kind {
        Kind::Totals => Level::Keys,
        // Keys stay; what is made of values that are not known is not known.
        Kind::Pass | Kind::Mark | Kind::Watch | Kind::Count if before == Level::Keys => Level::Keys,
        _ if before == Level::Keys => Level::Nothing,
        Kind::Count | Kind::Bag | Kind::Toggle | Kind::Flip => Level::More,
        _ => Level::Same,
    };
    own.max(before)
}

/// All records of a feed.
pub(crate) fn read(feed: &Feed) -> Vec<Record> {
    let splits = feed.splits.iter().enumerate();
    splits
        .flat_map(|(split, count)| (0..*count).map(move |index| feed.record(split, index)))
        .collect()
}

fn by_key(records: &[Record]) -> BTreeMap<&str, Vec<&str>> {
    let mut by_key: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in records {
        by_key.entry(key).or_default().push(value);
    }
    by_key
}

fn fields(records: &[Record], of: u64) -> BTreeMap<&str, BTreeMap<String, u64>> {
    let mut fields: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
    for (key, value) in records {
        let counts = fields.entry(key).or_default();
        *counts.entry(field(value.as_bytes(), of)).or_default() += 1;
    }
    fields
}

/// What comes out of each output, in any order.
pub(crate) fn outputs(kind: Kind, inputs: &[Vec<Record>], subtasks: u32) -> Vec<Vec<Record>> {
    let input = &inputs[0];
    let hash = |value: &str| digest(value.as_bytes());
    let to = |key: &str, value: String| (key.to_owned(), value);
    let out: Vec<Record> = match kind {
        Kind::Pass | Kind::Watch => input.clone(),
        Kind::Filter => {
            let kept = input.iter().filter(|(_, value)| hash(value) % 4 != 0);
            kept.cloned().collect()
        }
        Kind::Fan => input
            .iter()
            .flat_map(|(key, value)| {
                (0..hash(value) % 3).map(move |copy| (key.clone(), format!("{value}+{copy}")))
            })
            .collect(),
        Kind::Rekey(keys) => input
            .iter()
            .map(|(_, value)| (format!("r{}", hash(value) % keys), value.clone()))
            .collect(),
        Kind::Mark => {
            let ends = (0..subtasks).map(|subtask| (format!("subtask {subtask}"), "end 0".into()));
            input.iter().cloned().chain(ends).collect()
        }
        Kind::Count => {
            let counts = by_key(input);
            let counts = counts.iter().flat_map(|(key, values)| {
                (1..=values.len()).map(move |count| to(key, count.to_string()))
            });
            return vec![counts.collect(), input.clone()];
        }
        Kind::Distinct => {
            let seen: BTreeSet<Record> = input
                .iter()
                .map(|(key, value)| (key.clone(), field(value.as_bytes(), 8)))
                .collect();
            seen.into_iter().collect()
        }
        Kind::Join => {
            let (left, right) = (fields(input, 6), fields(&inputs[1], 6));
            let mut pairs = Vec::new();
            for (key, lefts) in &left {
                for right in right.get(key).into_iter().flat_map(BTreeMap::keys) {
                    pairs.extend(lefts.keys().map(|left| to(key, format!("{left}|{right}"))));
                }
            }
            pairs
        }
        Kind::Totals => {
            let mut totals = Vec::new();
            for (number, input) in inputs.iter().enumerate() {
                for (key, values) in by_key(input) {
                    let sum = values.iter().map(|value| hash(value));
                    let sum = sum.fold(0, u64::wrapping_add);
                    totals.push(to(key, format!("{number}: {} {sum}", values.len())));
                }
            }
            totals
        }
        Kind::Bag => repeated(input, 3, "3"),
        Kind::Toggle => repeated(input, 2, "pair"),
        Kind::Flip => {
            let mut flips = Vec::new();
            for (key, counts) in fields(input, 5) {
                for (field, count) in counts {
                    for turn in 0..count {
                        let sign = if turn % 2 == 0 { '+' } else { '-' };
                        flips.push(to(key, format!("{sign}{field}")));
                    }
                }
            }
            flips
        }
    };
    vec![out]
}

/// For each key once in this many records the same value.
fn repeated(input: &[Record], every: usize, value: &str) -> Vec<Record> {
    let mut out = Vec::new();
    for (key, values) in by_key(input) {
        let times = values.len() / every;
        out.extend((0..times).map(|_| (key.to_owned(), value.to_owned())));
    }
    out
}
