//! Operators on real text: words of lines, flights of CSV.

use dataflow::state::Resolved;
use dataflow::{Batch, Cells};
use operator::{Call, Failure, Operator};

use super::failed;

/// Lines to words in lower case, as the plugin `split` with `skip-fields = 1`.
#[derive(Debug, Default)]
pub(super) struct Split {
    line: String,
    words: Cells,
    values: Cells,
    timestamps: Vec<i64>,
}

impl Operator for Split {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        _: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        self.words.clear();
        self.values.clear();
        self.timestamps.clear();
        for (index, line) in batch.values.iter().enumerate() {
            let text = std::str::from_utf8(line).map_err(|error| failed(error.to_string()))?;
            self.line.clear();
            if text.is_ascii() {
                self.line.push_str(text);
                self.line.make_ascii_lowercase();
            } else {
                self.line.extend(text.chars().flat_map(char::to_lowercase));
            }
            let rest = self.line.trim_start();
            let rest = rest
                .split_once(char::is_whitespace)
                .map_or("", |split| split.1);
            for word in rest.split(|c: char| !c.is_alphabetic()) {
                if !word.is_empty() {
                    self.words.push(word.as_bytes());
                    self.values.push(b"");
                    self.timestamps.extend(batch.timestamps.get(index));
                }
            }
        }
        call.output
            .emit(
                0,
                self.words.as_ref(),
                self.values.as_ref(),
                &self.timestamps,
            )
            .map_err(failed)
    }
}

/// What is known about the flights of a key.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    count: u64,
    cancelled: u64,
    delay_sum: i64,
    delay_worst: Option<i64>,
}

/// Sums up flights per key, as the plugin `flight-delays`, but without emitting anything at the end:
/// there are only some dozens of keys.
#[derive(Debug, Default)]
pub(super) struct Flights {
    values: Cells,
    absent: Vec<u32>,
    known: Vec<Known>,
    numbers: Vec<u32>,
}

/// The column `dep_delay`.
const DELAY: usize = 5;

impl Operator for Flights {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        self.values.clear();
        self.absent.clear();
        call.state
            .load(0, None, &mut self.values, &mut self.absent)
            .map_err(failed)?;
        self.known.clear();
        self.known.extend(self.values.iter().map(decode));
        for (number, row) in keys.numbers.iter().zip(batch.values.iter()) {
            let known = &mut self.known[*number as usize];
            known.count += 1;
            // The input has no quotes in it.
            let delay = row.split(|byte| *byte == b',').nth(DELAY).unwrap_or(b"NA");
            if delay == b"NA" {
                known.cancelled += 1;
                continue;
            }
            let delay: i64 = std::str::from_utf8(delay)
                .ok()
                .and_then(|delay| delay.parse().ok())
                .ok_or_else(|| failed("a delay is no number"))?;
            known.delay_sum += delay;
            known.delay_worst = known.delay_worst.max(Some(delay));
        }
        self.values.clear();
        for known in &self.known {
            self.values.push_with(|bytes| encode(known, bytes));
        }
        self.numbers.clear();
        self.numbers.extend(0..self.known.len() as u32);
        call.state
            .store(0, &self.numbers, self.values.as_ref())
            .map_err(failed)
    }
}

fn encode(known: &Known, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&known.count.to_le_bytes());
    bytes.extend_from_slice(&known.cancelled.to_le_bytes());
    bytes.extend_from_slice(&known.delay_sum.to_le_bytes());
    bytes.extend_from_slice(&known.delay_worst.unwrap_or(i64::MIN).to_le_bytes());
}

fn decode(bytes: &[u8]) -> Known {
    let number = |index: usize| {
        bytes
            .get(index * 8..index * 8 + 8)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, i64::from_le_bytes)
    };
    if bytes.is_empty() {
        return Known::default();
    }
    Known {
        count: number(0) as u64,
        cancelled: number(1) as u64,
        delay_sum: number(2),
        delay_worst: Some(number(3)).filter(|worst| *worst != i64::MIN),
    }
}
