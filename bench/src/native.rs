//! The benchmark's operators written natively, for the same runtime: what Wasm is compared with.

use dataflow::state::Resolved;
use dataflow::{Batch, Cells, CheckpointId};
use runtime::operator::{Call, Failure, FailureKind, Operator, OperatorFactory};
use runtime::{BoxError, SubtaskContext};

/// Counts the records of each key and emits every new count.
#[derive(Debug, Default)]
pub(crate) struct KeyedCount {
    values: Cells,
    absent: Vec<u32>,
    counts: Vec<u64>,
    all: Vec<u32>,
    out_keys: Cells,
    out_values: Cells,
}

impl OperatorFactory for KeyedCount {
    fn create(&self, _: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        Ok(Box::<Self>::default())
    }
}

fn failed(error: impl Into<BoxError>) -> Failure {
    Failure::new(FailureKind::Protocol, error.into().to_string())
}

impl Operator for KeyedCount {
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
        self.counts.clear();
        self.counts.extend(
            self.values
                .iter()
                .map(|cell| cell.try_into().map_or(0, u64::from_le_bytes)),
        );
        self.out_keys.clear();
        self.out_values.clear();
        for number in &keys.numbers {
            let count = &mut self.counts[*number as usize];
            *count += 1;
            self.out_keys.push(keys.keys.get(*number as usize));
            push_decimal(&mut self.out_values, *count);
        }
        self.values.clear();
        for count in &self.counts {
            self.values.push(&count.to_le_bytes());
        }
        let known = self.all.len();
        self.all
            .extend(known as u32..self.counts.len().max(known) as u32);
        call.state
            .store(0, &self.all[..self.counts.len()], self.values.as_ref())
            .map_err(failed)?;
        call.output
            .emit(0, self.out_keys.as_ref(), self.out_values.as_ref(), &[])
            .map_err(failed)
    }

    fn end_of_input(&mut self, _: u32, _: &mut Call) -> Result<(), Failure> {
        Ok(())
    }

    fn checkpoint_complete(&mut self, _: CheckpointId) -> Result<(), Failure> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), Failure> {
        Ok(())
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
