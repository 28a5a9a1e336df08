//! Variable-width cells in one flat buffer: the building block of every column.
//!
//! Cell `i` is `data[offsets[i]..offsets[i + 1]]`. The same shape crosses the border to a guest, so
//! a column is copied, never rebuilt. Invariant: `offsets` has one entry more than there are cells,
//! starts at 0, never decreases, and ends at `data.len()`.

use std::ops::Range;

/// An owned column of cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cells {
    data: Vec<u8>,
    offsets: Vec<u32>,
}

/// A borrowed column of cells, for example one in a guest's memory.
#[derive(Clone, Copy, Debug)]
pub struct CellsRef<'a> {
    data: &'a [u8],
    offsets: &'a [u32],
}

/// Offsets that do not describe cells of their data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCells {
    /// There is no first offset, or it is not zero.
    #[error("offsets must start with 0")]
    Start,
    /// An offset is smaller than the one before it.
    #[error("offsets decrease at cell {0}")]
    Decreasing(usize),
    /// The last offset is not the length of the data.
    #[error("offsets end at {end}, but there are {len} bytes of data")]
    End {
        /// The last offset.
        end: u32,
        /// Bytes of data there are.
        len: usize,
    },
}

impl Default for Cells {
    fn default() -> Self {
        Self::new()
    }
}

impl Cells {
    /// No cells.
    #[must_use]
    pub fn new() -> Self {
        Self {
            data: Vec::new(),
            offsets: vec![0],
        }
    }

    /// No cells yet, room for `cells` of them with `bytes` bytes in all.
    #[must_use]
    pub fn with_capacity(cells: usize, bytes: usize) -> Self {
        let mut offsets = Vec::with_capacity(cells + 1);
        offsets.push(0);
        Self {
            data: Vec::with_capacity(bytes),
            offsets,
        }
    }

    /// Takes columns over as they are, after checking the invariant.
    ///
    /// # Errors
    /// What is wrong with the offsets.
    pub fn from_parts(data: Vec<u8>, offsets: Vec<u32>) -> Result<Self, InvalidCells> {
        CellsRef::new(&data, &offsets)?;
        Ok(Self { data, offsets })
    }

    /// How many cells there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no cell.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.len() == 1
    }

    /// Bytes of all cells together.
    #[inline]
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.data.len()
    }

    /// Bytes of memory for cells, used or not.
    #[inline]
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.data.capacity()
    }

    /// Cell `index`; panics when there is none.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> &[u8] {
        &self.data[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }

    /// Appends one cell.
    #[inline]
    pub fn push(&mut self, cell: &[u8]) {
        // Counters, timestamps and short keys: a copy of constant length is no call.
        if let Ok(cell) = cell.try_into() {
            let word = u64::from_le_bytes(cell);
            self.data.extend_from_slice(&word.to_le_bytes());
        } else if let Ok(cell) = cell.try_into() {
            let word = u128::from_le_bytes(cell);
            self.data.extend_from_slice(&word.to_le_bytes());
        } else {
            self.data.extend_from_slice(cell);
        }
        self.finish_cell();
    }

    /// Appends the cell that `write` adds to the buffer it is given. `write` may only append.
    #[inline]
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.data);
        self.finish_cell();
    }

    /// Appends `count` cells of `size` bytes each, which `write` adds to the buffer it is given. `write`
    /// may only append.
    #[inline]
    pub fn push_uniform(&mut self, count: usize, size: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.data.len();
        write(&mut self.data);
        assert_eq!(self.data.len(), start + count * size, "only whole cells");
        u32::try_from(self.data.len()).expect("a column holds less than 4 GiB");
        self.offsets
            .extend((1..=count).map(|cells| (start + cells * size) as u32));
    }

    /// Appends cells of which each is the first bytes of `N`: a copy of constant length is no
    /// call, and room is made once for all.
    #[inline]
    pub fn extend_short<const N: usize>(
        &mut self,
        cells: impl ExactSizeIterator<Item = ([u8; N], usize)>,
    ) {
        let (mut end, first) = (self.data.len(), self.offsets.len());
        // What is too much of a cell the next one overwrites.
        self.data.resize(end + cells.len() * N, 0);
        u32::try_from(self.data.len()).expect("a column holds less than 4 GiB");
        self.offsets.resize(first + cells.len(), 0);
        for (offset, (bytes, len)) in self.offsets[first..].iter_mut().zip(cells) {
            self.data[end..end + N].copy_from_slice(&bytes);
            end += len.min(N);
            *offset = end as u32;
        }
        self.data.truncate(end);
    }

    #[inline]
    fn finish_cell(&mut self) {
        // Batches are cut by bytes long before this; reaching it is a mistake of ours.
        let end = u32::try_from(self.data.len()).expect("a column holds less than 4 GiB");
        self.offsets.push(end);
    }

    /// Appends all cells of `other`.
    pub fn extend(&mut self, other: CellsRef<'_>) {
        let base = self.data.len();
        u32::try_from(base + other.data.len()).expect("a column holds less than 4 GiB");
        self.data.extend_from_slice(other.data);
        let base = base as u32;
        self.offsets
            .extend(other.offsets[1..].iter().map(|offset| base + offset));
    }

    /// Appends cells `range` of `other`.
    pub fn extend_range(&mut self, other: &Cells, range: Range<usize>) {
        let (from, to) = (other.offsets[range.start], other.offsets[range.end]);
        let base = self.data.len();
        self.data
            .extend_from_slice(&other.data[from as usize..to as usize]);
        u32::try_from(self.data.len()).expect("a column holds less than 4 GiB");
        let base = base as u32;
        self.offsets.extend(
            other.offsets[range.start + 1..=range.end]
                .iter()
                .map(|offset| base + (offset - from)),
        );
    }

    /// Appends the cells of `other` at `indices`, in their order.
    pub fn extend_picked(&mut self, other: CellsRef<'_>, indices: &[u32]) {
        // Asking all cells for their size is worth it only if not too few of them are picked.
        let size = (16 * indices.len() >= other.len()).then(|| other.cell_size());
        match size.flatten() {
            Some(8) => return self.extend_chunks::<8>(other, indices),
            Some(16) => return self.extend_chunks::<16>(other, indices),
            _ => {}
        }
        self.offsets.reserve(indices.len());
        for index in indices {
            other.append_to(*index as usize, &mut self.data);
            self.offsets.push(self.data.len() as u32);
        }
        u32::try_from(self.data.len()).expect("a column holds less than 4 GiB");
    }

    /// Appends the cells of `other`, which all have `N` bytes, at `indices`.
    fn extend_chunks<const N: usize>(&mut self, other: CellsRef<'_>, indices: &[u32]) {
        let (from, _) = other.data.as_chunks::<N>();
        self.push_uniform(indices.len(), N, |data| {
            let start = data.len();
            data.resize(start + indices.len() * N, 0);
            let (to, _) = data[start..].as_chunks_mut::<N>();
            for (to, index) in to.iter_mut().zip(indices) {
                *to = from[*index as usize];
            }
        });
    }

    /// Keeps the first `len` cells.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.offsets.truncate(len + 1);
            self.data.truncate(self.offsets[len] as usize);
        }
    }

    /// Removes all cells and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.data.clear();
        self.offsets.truncate(1);
    }

    /// The cells in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.as_ref().into_cells()
    }

    /// The bytes of all cells, one after the other.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Where each cell starts, and where the last one ends.
    #[inline]
    #[must_use]
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// The bytes and the offsets.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Vec<u32>) {
        (self.data, self.offsets)
    }

    /// The column, borrowed.
    #[inline]
    #[must_use]
    pub fn as_ref(&self) -> CellsRef<'_> {
        CellsRef {
            data: &self.data,
            offsets: &self.offsets,
        }
    }
}

/// Cells up to this length are short.
const SHORT: usize = 16;

/// Out of line, or the compiler makes one copy of unknown length of it and of the one for short cells.
#[inline(never)]
fn append_long(to: &mut Vec<u8>, cell: &[u8]) {
    to.extend_from_slice(cell);
}

impl<'a> FromIterator<&'a [u8]> for Cells {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(cells: I) -> Self {
        let mut column = Self::new();
        for cell in cells {
            column.push(cell);
        }
        column
    }
}

impl<'a> CellsRef<'a> {
    /// No cells.
    pub const EMPTY: CellsRef<'static> = CellsRef {
        data: &[],
        offsets: &[0],
    };

    /// Checks that `offsets` describe cells of `data`: nothing from outside is trusted.
    ///
    /// # Errors
    /// What is wrong with the offsets.
    pub fn new(data: &'a [u8], offsets: &'a [u32]) -> Result<Self, InvalidCells> {
        if offsets.first() != Some(&0) {
            return Err(InvalidCells::Start);
        }
        // One pass without branches that the compiler vectorises; the place is looked up on failure.
        let ordered = offsets
            .windows(2)
            .fold(true, |ordered, pair| ordered & (pair[0] <= pair[1]));
        if !ordered {
            let cell = offsets
                .windows(2)
                .position(|pair| pair[0] > pair[1])
                .unwrap_or_default();
            return Err(InvalidCells::Decreasing(cell));
        }
        let end = offsets[offsets.len() - 1];
        if end as usize != data.len() {
            return Err(InvalidCells::End {
                end,
                len: data.len(),
            });
        }
        Ok(Self { data, offsets })
    }

    /// How many cells there are.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no cell.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.offsets.len() == 1
    }

    /// All cells, one after the other.
    #[inline]
    #[must_use]
    pub fn data(self) -> &'a [u8] {
        self.data
    }

    /// Where each cell begins in [`CellsRef::data`], and where the last one ends.
    #[inline]
    #[must_use]
    pub fn offsets(self) -> &'a [u32] {
        self.offsets
    }

    /// Bytes of all cells together.
    #[inline]
    #[must_use]
    pub fn byte_len(self) -> usize {
        self.data.len()
    }

    /// Cell `index`; panics when there is none.
    #[inline]
    #[must_use]
    pub fn get(self, index: usize) -> &'a [u8] {
        &self.data[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }

    /// Appends the bytes of cell `index` to `buffer`. Those of a short one with what follows them,
    /// which is cut off again: a copy of constant length is no call.
    #[inline]
    pub fn append_to(self, index: usize, buffer: &mut Vec<u8>) {
        let start = self.offsets[index] as usize;
        let len = self.offsets[index + 1] as usize - start;
        match self.data[start..].first_chunk::<SHORT>() {
            Some(chunk) if len <= SHORT => {
                buffer.extend_from_slice(chunk);
                buffer.truncate(buffer.len() - (SHORT - len));
            }
            _ => append_long(buffer, &self.data[start..start + len]),
        }
    }

    /// The size of the cells, if all have the same.
    fn cell_size(self) -> Option<usize> {
        let size = *self.offsets.get(1)?;
        let differs = |(offset, cell): (&u32, u32)| offset ^ size.wrapping_mul(cell);
        // Other columns mostly show it by their end. Else one pass without branches.
        let ends = size as usize * self.len() == self.data.len();
        let same = ends
            && self
                .offsets
                .iter()
                .zip(0..)
                .map(differs)
                .fold(0, |all, some| all | some)
                == 0;
        same.then_some(size as usize)
    }

    /// Whether cells `left` and `right` are equal. Short ones are compared without a call, and without
    /// a branch for their length: with what follows them, which is left out of the answer.
    #[inline]
    #[must_use]
    pub fn same(self, left: usize, right: usize) -> bool {
        let (from, len) = (self.offsets[left] as usize, self.get(left).len());
        let (other_from, other_len) = (self.offsets[right] as usize, self.get(right).len());
        if len != other_len {
            return false;
        }
        match (
            self.data[from..].first_chunk::<SHORT>(),
            self.data[other_from..].first_chunk::<SHORT>(),
        ) {
            (Some(chunk), Some(other)) if len <= SHORT => {
                let differ = u128::from_le_bytes(*chunk) ^ u128::from_le_bytes(*other);
                let behind = 8 * (SHORT - len) as u32;
                differ.checked_shl(behind).unwrap_or(0) == 0
            }
            _ => self.get(left) == self.get(right),
        }
    }

    /// The cells in order.
    pub fn into_cells(self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        self.offsets
            .windows(2)
            .map(move |pair| &self.data[pair[0] as usize..pair[1] as usize])
    }

    /// How many cells from `start` on have at most `bytes` bytes together; one, if the first alone has
    /// more.
    #[must_use]
    pub fn count_within(self, start: usize, bytes: usize) -> usize {
        let from = self.offsets[start] as usize;
        let ends = &self.offsets[start + 1..];
        let count = ends.partition_point(|end| *end as usize - from <= bytes);
        count.max(1).min(ends.len())
    }

    /// Cells `range`, as a column of their own; its offsets are put into `offsets`.
    #[must_use]
    pub fn part<'b>(self, range: Range<usize>, offsets: &'b mut Vec<u32>) -> CellsRef<'b>
    where
        'a: 'b,
    {
        let (from, to) = (self.offsets[range.start], self.offsets[range.end]);
        offsets.clear();
        offsets.extend(
            self.offsets[range.start..=range.end]
                .iter()
                .map(|offset| offset - from),
        );
        CellsRef {
            data: &self.data[from as usize..to as usize],
            offsets,
        }
    }

    /// A copy that owns its bytes.
    #[must_use]
    pub fn to_cells(self) -> Cells {
        Cells {
            data: self.data.to_vec(),
            offsets: self.offsets.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(cells: &[&str]) -> Cells {
        cells.iter().map(|cell| cell.as_bytes()).collect()
    }

    #[test]
    fn extending_appends_cells_and_truncating_takes_them_back() {
        let mut cells = column(&["a", "", "bcd"]);
        cells.extend(column(&["x", "yz"]).as_ref());
        cells.extend_range(&column(&["no", "yes", "also", "no"]), 1..3);
        assert_eq!(cells, column(&["a", "", "bcd", "x", "yz", "yes", "also"]));
        cells.truncate(3);
        assert_eq!(cells, column(&["a", "", "bcd"]));
    }

    #[test]
    fn picked_cells_of_one_size_are_like_any_other() {
        for size in [0, 1, 8, 16, 17] {
            let mut all = Cells::new();
            (0..100).for_each(|byte| all.push(&vec![byte; size]));
            // The second time two cells differ, which the end of the column does not show.
            for _ in 0..2 {
                let indices = [99, 0, 51, 50, 50, 1, 98];
                let mut picked = column(&["first"]);
                picked.extend_picked(all.as_ref(), &indices);
                let expected = indices.iter().map(|index| all.get(*index as usize));
                assert_eq!(
                    picked,
                    std::iter::once(&b"first"[..]).chain(expected).collect()
                );
                all = all
                    .iter()
                    .enumerate()
                    .map(|(cell, bytes)| match cell {
                        50 => &b"many more bytes than there are in others"[..size + 1],
                        51 => &bytes[..size.saturating_sub(1)],
                        _ => bytes,
                    })
                    .collect();
            }
        }
    }

    #[test]
    fn cells_are_the_same_if_their_bytes_are_whatever_stands_behind_them() {
        let digits = b"0123456789".repeat(4);
        let mut cells = Cells::new();
        for len in 0..=digits.len() {
            let mut other = digits[..len].to_vec();
            cells.push(&other);
            cells.push(&other);
            if let Some(last) = other.last_mut() {
                *last = b'x';
                cells.push(&other);
            }
        }
        for left in 0..cells.len() {
            for right in 0..cells.len() {
                let same = cells.get(left) == cells.get(right);
                assert_eq!(cells.as_ref().same(left, right), same, "{left} {right}");
            }
        }
    }

    #[test]
    fn picked_cells_are_copied_whatever_their_length_and_place() {
        let digits = b"0123456789".repeat(4);
        let all: Cells = (0..=digits.len()).map(|len| &digits[..len]).collect();
        let indices = [40, 0, 16, 17, 15, 1, 40, 39, 2, 0];
        let mut picked = column(&["first"]);
        picked.extend_picked(all.as_ref(), &indices);
        picked.extend_picked(all.as_ref(), &[]);
        let expected = indices.iter().map(|index| all.get(*index as usize));
        assert_eq!(
            picked,
            std::iter::once(&b"first"[..]).chain(expected).collect()
        );
    }

    #[test]
    fn cells_of_one_size_are_cells_like_any_other() {
        let mut cells = column(&["a"]);
        cells.push_uniform(2, 2, |data| data.extend_from_slice(b"bcde"));
        cells.push_uniform(0, 3, |_| {});
        cells.push_uniform(1, 0, |_| {});
        cells.push(b"f");
        assert_eq!(cells, column(&["a", "bc", "de", "", "f"]));
    }

    #[test]
    fn short_cells_are_cells_like_any_other() {
        let mut cells = column(&["a"]);
        let short = [(*b"bcd", 2), (*b"efg", 0), (*b"hij", 3), (*b"klm", 1)];
        cells.extend_short(short.into_iter());
        cells.extend_short(short[..0].iter().copied());
        cells.push(b"n");
        assert_eq!(cells, column(&["a", "bc", "", "hij", "k", "n"]));
    }

    #[test]
    fn parts_of_a_column_are_columns_that_make_up_the_whole() {
        let all = column(&["ab", "", "cdefgh", "i", "jk", ""]);
        for bytes in [0, 1, 3, 6, 100] {
            let (mut parts, mut at, mut offsets) = (Cells::new(), 0, Vec::new());
            while at < all.len() {
                let count = all.as_ref().count_within(at, bytes);
                let part = all.as_ref().part(at..at + count, &mut offsets);
                assert!(part.byte_len() <= bytes || count == 1, "{bytes} {at}");
                assert!(CellsRef::new(part.data, part.offsets).is_ok());
                parts.extend(part);
                at += count;
            }
            assert_eq!(parts, all);
        }
        assert_eq!(CellsRef::EMPTY.part(0..0, &mut Vec::new()).len(), 0);
    }

    #[test]
    fn offsets_from_outside_are_checked() {
        let check = |offsets: &[u32]| CellsRef::new(b"abc", offsets).map(CellsRef::len);
        assert_eq!(check(&[0, 1, 1, 3]), Ok(3));
        assert_eq!(check(&[]), Err(InvalidCells::Start));
        assert_eq!(check(&[1, 3]), Err(InvalidCells::Start));
        assert_eq!(check(&[0, 2, 1, 3]), Err(InvalidCells::Decreasing(1)));
        assert_eq!(check(&[0, 4]), Err(InvalidCells::End { end: 4, len: 3 }));
        assert_eq!(check(&[0, 2]), Err(InvalidCells::End { end: 2, len: 3 }));
    }
}
