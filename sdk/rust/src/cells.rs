//! Columns of cells: how keys, values and state cross the border.

pub(crate) use crate::bindings::highwater::operator::types::Cells;

impl Cells {
    /// A column without cells.
    pub(crate) fn empty() -> Self {
        Self {
            data: Vec::new(),
            offsets: vec![0],
        }
    }

    /// Number of cells.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The cell at `index`, which must be less than the count.
    #[inline]
    pub(crate) fn cell(&self, index: usize) -> &[u8] {
        &self.data[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }

    /// All cells in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count()).map(|index| self.cell(index))
    }

    /// Makes what was appended to `data` since the last call a cell. Buffers are flushed long before
    /// they could outgrow the 32 bits of an offset, which memory has in total.
    #[inline]
    pub(crate) fn seal(&mut self) {
        self.offsets.push(self.data.len() as u32);
    }

    /// Appends a cell.
    pub(crate) fn push(&mut self, cell: &[u8]) {
        self.data.extend_from_slice(cell);
        self.seal();
    }

    /// Removes all cells and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.data.clear();
        self.offsets.truncate(1);
    }
}
