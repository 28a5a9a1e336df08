//! Columns of cells: how keys, values and state cross the border.

pub(crate) use crate::bindings::highwater::operator::types::Cells;
use crate::bytes::Bytes;

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

impl Default for Cells {
    fn default() -> Self {
        Self::empty()
    }
}

/// A column that is being written.
#[derive(Debug)]
pub(crate) struct CellsWriter {
    /// The bytes of all cells, and of the one that is not sealed yet.
    pub(crate) bytes: Bytes,
    offsets: Vec<u32>,
}

impl CellsWriter {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Bytes::default(),
            offsets: vec![0],
        }
    }

    /// Number of cells.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is no cell.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.len() <= 1
    }

    /// Makes what was written since the last call a cell. Buffers are flushed long before they could
    /// outgrow the 32 bits of an offset, which memory has in total.
    #[inline]
    pub(crate) fn seal(&mut self) {
        self.offsets.push(self.bytes.len() as u32);
    }

    /// What was written, to be given back by [`CellsWriter::put_back`].
    pub(crate) fn take(&mut self) -> Cells {
        Cells {
            data: self.bytes.take(),
            offsets: std::mem::take(&mut self.offsets),
        }
    }

    /// Uses the memory of a column for the next.
    pub(crate) fn put_back(&mut self, cells: Cells) {
        self.bytes.put_back(cells.data);
        self.offsets = cells.offsets;
        self.offsets.truncate(1);
    }

    /// Removes all cells and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.offsets.truncate(1);
    }
}
