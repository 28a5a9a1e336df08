//! Judges what is committed.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::{BTreeMap, BTreeSet};

use super::native::{Committed, records};
use super::reference::{Level, Record};
use super::shapes::Expected;

/// What was promised, for all that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Every record once.
    ExactlyOnce,
    /// A newer checkpoint was damaged and an older one taken: what was committed between them comes
    /// again, and nothing else does.
    Repeated,
    /// At-least-once, and there was a restore.
    AtLeastOnce,
}

/// Says what is wrong with a sink's output, if anything is.
pub(crate) fn judge(
    expected: &Expected,
    committed: &Committed,
    promise: Promise,
) -> Result<(), String> {
    let found = records(committed);
    let mut wanted = expected.records.clone();
    wanted.sort();
    let right = match (promise, expected.level) {
        (Promise::ExactlyOnce, _) => found == wanted,
        (Promise::Repeated, _) | (Promise::AtLeastOnce, Level::Same) => {
            let kinds = |records: &[Record]| records.iter().cloned().collect::<BTreeSet<_>>();
            is_within(&wanted, &found) && kinds(&found) == kinds(&wanted)
        }
        (Promise::AtLeastOnce, Level::More) => is_within(&wanted, &found),
        (Promise::AtLeastOnce, Level::Keys) => keys(&found).is_superset(&keys(&wanted)),
        (Promise::AtLeastOnce, Level::Nothing) => true,
    };
    if !right {
        return Err(difference(&expected.sink, &found, &wanted, promise));
    }
    if expected.ordered && promise != Promise::AtLeastOnce {
        check_order(committed)?;
    }
    Ok(())
}

fn keys(records: &[Record]) -> BTreeSet<&str> {
    records.iter().map(|(key, _)| key.as_str()).collect()
}

fn counts(records: &[Record]) -> BTreeMap<&Record, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record).or_default() += 1;
    }
    counts
}

/// Whether every record is there at least as often.
fn is_within(wanted: &[Record], found: &[Record]) -> bool {
    let found = counts(found);
    let there =
        |(record, times): (&Record, usize)| found.get(record).is_some_and(|found| *found >= times);
    counts(wanted).into_iter().all(there)
}

fn difference(sink: &str, found: &[Record], wanted: &[Record], promise: Promise) -> String {
    let only = |these: &[Record], those: &[Record]| {
        let those = counts(those);
        let these = counts(these).into_iter();
        let more = these.filter(|(record, times)| those.get(record).unwrap_or(&0) < times);
        more.take(3)
            .map(|(record, _)| record.clone())
            .collect::<Vec<_>>()
    };
    format!(
        "{sink}: {} records are committed, {} are expected ({promise:?}); too many: {:?}; missing: {:?}",
        found.len(),
        wanted.len(),
        only(found, wanted),
        only(wanted, found),
    )
}

/// Within an output the records of a key and split come in their order.
fn check_order(committed: &Committed) -> Result<(), String> {
    for (name, records) in &*committed.lock().unwrap() {
        let mut last: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (key, value) in records {
            let (split, index) = value.rsplit_once('.').unwrap();
            let index: u64 = index.parse().unwrap();
            if last
                .insert((key, split), index)
                .is_some_and(|last| last >= index)
            {
                return Err(format!("{name}: {value} of key {key} is out of order"));
            }
        }
    }
    Ok(())
}
