//! Which record made a batch fail.

use std::fmt;

use dataflow::Batch;
use dataflow::state::Resolved;

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
    /// Somewhere in a batch.
    Batch {
        /// How many records the subtask had received before its first one.
        first: u64,
        /// How many records it has.
        records: usize,
    },
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
        Some(record) => Position::Record {
            number: received + record as u64,
            input,
            origin: None,
            key: batch.is_keyed().then(|| shorten(batch.keys.get(record))),
            value: shorten(batch.values.get(record)),
        },
        None => Position::Batch {
            first: received,
            records: batch.len(),
        },
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
    let mut fails = |records: usize| {
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
        call.state.rollback();
        call.output.clear();
        failed
    };
    let (mut passes, mut fails_with) = (0, batch.len());
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
