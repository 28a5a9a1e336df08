//! Which record made a batch fail.

use std::fmt;

use dataflow::Batch;
use dataflow::state::{Fired, Resolved, TimeDomain};

use crate::operator::{Call, Failure, FailureKind, Operator};

/// Where among the records of a subtask something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Position {
    /// Not at a record.
    #[default]
    None,
    /// At this record.
    Record {
        /// How many records the subtask had received before it, since it was started or restored.
        number: u64,
        /// The operator's input.
        input: u32,
        /// Where a source read it, in words, if it came from there without a way between.
        origin: Option<String>,
        /// The record's key, shortened.
        key: Option<String>,
        /// The record's value, shortened.
        value: String,
    },
    /// At this timer.
    Timer {
        /// What its time is measured in.
        domain: TimeDomain,
        /// When it was due, in milliseconds since 1970.
        time: i64,
        /// Its tag.
        tag: u32,
        /// Its key, shortened.
        key: String,
    },
    /// At some of these timers.
    Timers {
        /// What their times are measured in.
        domain: TimeDomain,
        /// When the first was due.
        first: i64,
        /// When the last was due.
        last: i64,
        /// How many there are.
        count: usize,
    },
    /// Somewhere in a batch.
    Batch {
        /// How many records the subtask had received before its first one.
        first: u64,
        /// How many records it has.
        records: usize,
    },
}

impl Position {
    /// The record at `index` of a batch.
    pub(crate) fn record(number: u64, input: u32, batch: &Batch, index: usize) -> Self {
        Self::Record {
            number,
            input,
            origin: None,
            key: batch.is_keyed().then(|| shorten(batch.keys.get(index))),
            value: shorten(batch.values.get(index)),
        }
    }

    /// The timer at `index`.
    pub(crate) fn timer(fired: &Fired, index: usize) -> Self {
        Self::Timer {
            domain: fired.domain,
            time: fired.times[index],
            tag: fired.tags[index],
            key: shorten(fired.keys.keys.get(index)),
        }
    }

    /// Somewhere in timers.
    pub(crate) fn timers(fired: &Fired) -> Self {
        Self::Timers {
            domain: fired.domain,
            first: fired.times.first().copied().unwrap_or_default(),
            last: fired.times.last().copied().unwrap_or_default(),
            count: fired.len(),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Record {
                number,
                input,
                origin,
                key,
                value,
            } => {
                write!(f, ", at record {number} of input {input}")?;
                if let Some(origin) = origin {
                    write!(f, ", {origin}")?;
                }
                if let Some(key) = key {
                    write!(f, " (key {key}, value {value})")
                } else {
                    write!(f, " (value {value})")
                }
            }
            Self::Timer {
                domain,
                time,
                tag,
                key,
            } => {
                write!(
                    f,
                    ", at the {domain} timer of {time} ms (key {key}, tag {tag})"
                )
            }
            Self::Timers {
                domain,
                first,
                last,
                count,
            } => {
                write!(f, ", in {count} {domain} timers of {first} to {last} ms")
            }
            Self::Batch { first, records } => {
                write!(f, ", in records {first} to {}", first + *records as u64 - 1)
            }
        }
    }
}

/// Finds the record that made a batch fail: the one the operator names, or else the last one of the
/// shortest run of records that fails again. Every probe is taken back.
pub(crate) fn locate(
    operator: &mut dyn Operator,
    call: &mut Call,
    failure: &Failure,
    input: u32,
    batch: &Batch,
    received: u64,
) -> Position {
    let record = failure
        .record
        .filter(|record| *record < batch.len())
        .or_else(|| {
            // A limit takes its time to be reached; probing for it would take that time again and again.
            (failure.kind == FailureKind::Trap)
                .then(|| find(operator, call, input, batch))
                .flatten()
        });
    match record {
        Some(record) => Position::record(received + record as u64, input, batch, record),
        None => Position::Batch {
            first: received,
            records: batch.len(),
        },
    }
}

/// Finds the timer that made a call fail, as [`locate`] finds the record. `fired` are those of the call, which
/// was taken back.
pub(crate) fn locate_timer(
    operator: &mut dyn Operator,
    call: &mut Call,
    failure: &Failure,
    until: i64,
    fired: &Fired,
) -> Position {
    let named = failure.record.filter(|index| *index < fired.len());
    let alone = (fired.len() == 1).then_some(0);
    let index = named.or(alone).or_else(|| {
        if failure.kind != FailureKind::Trap {
            return None;
        }
        call.probing = true;
        let mut part = Fired::default();
        let found = shortest(fired.len(), |timers| {
            // The same ones come again, in the same order, because they were put back.
            let taken = call
                .state
                .take_timers(fired.domain, until, timers, &mut part);
            let failed = taken.is_ok() && operator.on_timers(&part, call).is_err();
            call.take_back();
            failed
        });
        call.probing = false;
        found
    });
    match index {
        Some(index) => Position::timer(fired, index),
        None => Position::timers(fired),
    }
}

fn find(operator: &mut dyn Operator, call: &mut Call, input: u32, batch: &Batch) -> Option<usize> {
    call.probing = true;
    let found = probe(operator, call, input, batch);
    call.probing = false;
    found
}

fn probe(operator: &mut dyn Operator, call: &mut Call, input: u32, batch: &Batch) -> Option<usize> {
    let keyed = !call.state.states().is_empty();
    let fails = |records: usize| {
        let part = batch.slice(0..records);
        let mut resolved = Resolved::default();
        if keyed
            && call
                .state
                .resolve(part.keys.as_ref(), &part.hashes, &mut resolved)
                .is_err()
        {
            return false;
        }
        let failed = operator.process(input, &part, &resolved, call).is_err();
        call.take_back();
        failed
    };
    shortest(batch.len(), fails)
}

/// The last of the shortest run from the first on that fails again.
fn shortest(count: usize, mut fails: impl FnMut(usize) -> bool) -> Option<usize> {
    let (mut passes, mut fails_with) = (0, count);
    // It may have been chance, or something outside: then no record is to blame.
    if !fails(fails_with) {
        return None;
    }
    while fails_with - passes > 1 {
        let middle = passes + (fails_with - passes) / 2;
        if fails(middle) {
            fails_with = middle;
        } else {
            passes = middle;
        }
    }
    Some(fails_with - 1)
}

/// A key or value for a person: quoted, escaped, at most some dozen characters.
#[must_use]
pub fn shorten(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    if bytes.len() > SHOWN {
        format!("{text:?}… ({} bytes)", bytes.len())
    } else {
        format!("{text:?}")
    }
}
