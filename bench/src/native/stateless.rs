//! Operators without state.

use dataflow::state::Resolved;
use dataflow::{Batch, Cells, CellsRef};
use operator::{Call, Failure, Operator};

use super::failed;

/// Adds a field to each value.
#[derive(Debug, Default)]
pub(super) struct Map {
    values: Cells,
}

impl Operator for Map {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        _: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        self.values.clear();
        for value in batch.values.iter() {
            self.values.push_with(|bytes| {
                bytes.extend_from_slice(value);
                bytes.extend_from_slice(b",1");
            });
        }
        call.output
            .emit(0, CellsRef::EMPTY, self.values.as_ref(), &batch.timestamps)
            .map_err(failed)
    }
}

/// Lets pass the records whose value's last byte is even.
#[derive(Debug, Default)]
pub(super) struct Filter {
    values: Cells,
    timestamps: Vec<i64>,
}

impl Operator for Filter {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        _: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        self.values.clear();
        self.timestamps.clear();
        for (index, value) in batch.values.iter().enumerate() {
            if value.last().is_some_and(|byte| byte % 2 == 0) {
                self.values.push(value);
                self.timestamps.extend(batch.timestamps.get(index));
            }
        }
        call.output
            .emit(0, CellsRef::EMPTY, self.values.as_ref(), &self.timestamps)
            .map_err(failed)
    }
}
