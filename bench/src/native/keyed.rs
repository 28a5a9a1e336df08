//! Operators that keep a value per key.

use dataflow::state::{KeyedState, Resolved};
use dataflow::{Batch, Cells};
use operator::{Call, Failure, Operator};

use super::failed;

/// The numbers of a batch's keys, from 0.
#[derive(Debug, Default)]
struct Numbers(Vec<u32>);

impl Numbers {
    fn first(&mut self, count: usize) -> &[u32] {
        let known = self.0.len();
        self.0.extend(known as u32..count.max(known) as u32);
        &self.0[..count]
    }
}

/// The values of a batch's keys as numbers; 0 where there is none.
#[derive(Debug, Default)]
struct Loaded {
    values: Cells,
    absent: Vec<u32>,
    counts: Vec<u64>,
}

impl Loaded {
    fn load(&mut self, state: &mut KeyedState) -> Result<(), Failure> {
        self.values.clear();
        self.absent.clear();
        state
            .load(0, None, &mut self.values, &mut self.absent)
            .map_err(failed)?;
        self.counts.clear();
        self.counts.extend(
            self.values
                .iter()
                .map(|cell| cell.try_into().map_or(0, u64::from_le_bytes)),
        );
        Ok(())
    }
}

/// Counts the records of each key and emits every new count.
#[derive(Debug, Default)]
pub(super) struct Count {
    loaded: Loaded,
    numbers: Numbers,
    values: Cells,
    out_values: Cells,
}

impl Operator for Count {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        self.loaded.load(&mut call.state)?;
        let counts = &mut self.loaded.counts;
        self.out_values.clear();
        for number in &keys.numbers {
            let count = &mut counts[*number as usize];
            *count += 1;
            push_decimal(&mut self.out_values, *count);
        }
        self.values.clear();
        for count in counts.iter() {
            self.values.push(&count.to_le_bytes());
        }
        let numbers = self.numbers.first(counts.len());
        call.state
            .store(0, numbers, self.values.as_ref())
            .map_err(failed)?;
        call.output
            .emit_numbered(
                0,
                &keys.numbers,
                self.out_values.as_ref(),
                &batch.timestamps,
            )
            .map_err(failed)
    }
}

/// Emits the number of each record's key.
#[derive(Debug, Default)]
pub(super) struct Read {
    loaded: Loaded,
    out_values: Cells,
    /// Numbers are kept for keys that have none, so that there is something to read.
    count: Count,
}

impl Operator for Read {
    fn process(
        &mut self,
        input: u32,
        batch: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        self.loaded.load(&mut call.state)?;
        if !self.loaded.absent.is_empty() {
            return self.count.process(input, batch, keys, call);
        }
        self.out_values.clear();
        for number in &keys.numbers {
            push_decimal(&mut self.out_values, self.loaded.counts[*number as usize]);
        }
        call.output
            .emit_numbered(
                0,
                &keys.numbers,
                self.out_values.as_ref(),
                &batch.timestamps,
            )
            .map_err(failed)
    }
}

/// Replaces a value per key by one of which the first byte is one higher; emits nothing.
#[derive(Debug)]
pub(super) struct Update {
    size: usize,
    values: Cells,
    absent: Vec<u32>,
    numbers: Numbers,
    updated: Cells,
    first: Vec<u8>,
}

impl Update {
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            values: Cells::new(),
            absent: Vec::new(),
            numbers: Numbers::default(),
            updated: Cells::new(),
            first: Vec::new(),
        }
    }
}

impl Operator for Update {
    fn process(
        &mut self,
        _: u32,
        _: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        self.values.clear();
        self.absent.clear();
        call.state
            .load(0, None, &mut self.values, &mut self.absent)
            .map_err(failed)?;
        self.first.clear();
        self.first.extend(
            self.values
                .iter()
                .map(|cell| cell.first().copied().unwrap_or(0)),
        );
        for number in &keys.numbers {
            let first = &mut self.first[*number as usize];
            *first = first.wrapping_add(1);
        }
        self.updated.clear();
        for (value, first) in self.values.iter().zip(&self.first) {
            self.updated.push_with(|bytes| {
                let start = bytes.len();
                bytes.extend_from_slice(value);
                bytes.resize(start + self.size, b'x');
                bytes[start] = *first;
            });
        }
        let numbers = self.numbers.first(self.first.len());
        call.state
            .store(0, numbers, self.updated.as_ref())
            .map_err(failed)
    }
}

fn push_decimal(cells: &mut Cells, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    cells.push(&digits[at..]);
}
