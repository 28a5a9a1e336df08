//! Records as columns.
//!
//! Nothing on the data path is per record: not a channel send, not an allocation, not a guest call.

use std::ops::Range;

use crate::cells::{Cells, CellsRef};
use crate::key;

/// Timestamp of a record that has no event time.
pub const NO_TIMESTAMP: i64 = i64::MIN;

/// Some records, column by column.
///
/// Invariants, for `n = values.len()`: `keys` has `n` cells or none (an unkeyed batch); `timestamps`
/// has `n` entries or none (no record has an event time); `hashes` has as many entries as `keys`, or
/// none while they are not computed yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// One key per record, or none at all.
    pub keys: Cells,
    /// [`key::hash`] of each key, once computed.
    pub hashes: Vec<u64>,
    /// One value per record.
    pub values: Cells,
    /// Event time in milliseconds since the epoch per record, [`NO_TIMESTAMP`] for none; or empty.
    pub timestamps: Vec<i64>,
}

impl Batch {
    /// How many records a batch should have when nothing forces it out earlier: measured, smaller
    /// pays more per call, larger leaves the cache.
    pub const TARGET_RECORDS: usize = 1024;

    /// How many bytes of keys and values a batch should have at most before it is cut.
    pub const TARGET_BYTES: usize = 256 << 10;

    /// Number of records.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no record.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether the records carry keys.
    #[inline]
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether the batch has reached the size at which it is handed on.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= Self::TARGET_RECORDS || self.byte_len() >= Self::TARGET_BYTES
    }

    /// Bytes of keys and values.
    #[inline]
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.keys.byte_len() + self.values.byte_len()
    }

    /// Bytes of memory for keys and values, used or not.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.keys.capacity_bytes() + self.values.capacity_bytes()
    }

    /// Removes all records and keeps the memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.hashes.clear();
        self.values.clear();
        self.timestamps.clear();
    }

    /// Appends one record. All records of a batch are keyed, or none is.
    #[inline]
    pub fn push(&mut self, key: Option<&[u8]>, value: &[u8], timestamp: i64) {
        if timestamp != NO_TIMESTAMP || !self.timestamps.is_empty() {
            self.timestamps.resize(self.len(), NO_TIMESTAMP);
            self.timestamps.push(timestamp);
        }
        if let Some(key) = key {
            debug_assert_eq!(
                self.keys.len(),
                self.values.len(),
                "all records are keyed or none"
            );
            self.keys.push(key);
        }
        self.values.push(value);
    }

    /// Appends columns. `keys` and `timestamps` may be empty; whether they fit is the caller's to
    /// check when they come from outside.
    pub fn extend(&mut self, keys: CellsRef<'_>, values: CellsRef<'_>, timestamps: &[i64]) {
        debug_assert!(keys.is_empty() || keys.len() == values.len());
        debug_assert!(timestamps.is_empty() || timestamps.len() == values.len());
        let before = self.len();
        if !timestamps.is_empty() || !self.timestamps.is_empty() {
            self.timestamps.resize(before, NO_TIMESTAMP);
            self.timestamps.extend_from_slice(timestamps);
            self.timestamps.resize(before + values.len(), NO_TIMESTAMP);
        }
        self.keys.extend(keys);
        self.values.extend(values);
    }

    /// Appends the records of `from` at `indices`, in their order, column by column. Either both batches
    /// have keys, and their hashes, or neither has; but an empty one takes what comes.
    pub fn extend_picked(&mut self, from: &Batch, indices: &[u32]) {
        let before = self.len();
        self.assert_fits(from);
        let picked = indices.iter().map(|index| *index as usize);
        if from.is_keyed() {
            self.keys.extend_picked(from.keys.as_ref(), indices);
        }
        if !from.hashes.is_empty() {
            self.hashes
                .extend(picked.clone().map(|index| from.hashes[index]));
        }
        self.values.extend_picked(from.values.as_ref(), indices);
        if !from.timestamps.is_empty() || !self.timestamps.is_empty() {
            self.timestamps.resize(before, NO_TIMESTAMP);
            self.timestamps
                .extend(picked.map(|index| from.timestamps.get(index).unwrap_or(&NO_TIMESTAMP)));
        }
    }

    fn assert_fits(&self, from: &Batch) {
        if !self.is_empty() {
            debug_assert_eq!(self.is_keyed(), from.is_keyed());
            debug_assert_eq!(self.hashes.is_empty(), from.hashes.is_empty());
        }
    }

    /// Appends records `range` of `from`; see [`Batch::extend_picked`].
    pub fn extend_range(&mut self, from: &Batch, range: Range<usize>) {
        let before = self.len();
        self.assert_fits(from);
        if from.is_keyed() {
            self.keys.extend_range(&from.keys, range.clone());
        }
        if !from.hashes.is_empty() {
            self.hashes.extend_from_slice(&from.hashes[range.clone()]);
        }
        self.values.extend_range(&from.values, range.clone());
        if !from.timestamps.is_empty() {
            self.timestamps.resize(before, NO_TIMESTAMP);
            self.timestamps.extend_from_slice(&from.timestamps[range]);
        } else if !self.timestamps.is_empty() {
            self.timestamps.resize(self.len(), NO_TIMESTAMP);
        }
    }

    /// A batch of records `range` of this one.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Batch {
        let mut part = Batch::default();
        part.extend_range(self, range);
        part
    }

    /// Computes the key hashes that are missing.
    pub fn compute_hashes(&mut self) {
        let done = self.hashes.len();
        self.hashes
            .extend((done..self.keys.len()).map(|index| key::hash(self.keys.get(index))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_appear_with_the_first_record_that_has_one() {
        let mut batch = Batch::default();
        batch.push(Some(b"a"), b"1", NO_TIMESTAMP);
        assert!(batch.timestamps.is_empty());
        batch.push(Some(b"b"), b"2", 7);
        batch.push(Some(b"c"), b"3", NO_TIMESTAMP);
        assert_eq!(batch.timestamps, [NO_TIMESTAMP, 7, NO_TIMESTAMP]);
    }

    #[test]
    fn a_slice_keeps_every_column() {
        let mut batch = Batch::default();
        for index in 0..10 {
            batch.push(
                Some(format!("k{index}").as_bytes()),
                format!("v{index}").as_bytes(),
                index,
            );
        }
        batch.compute_hashes();
        let slice = batch.slice(3..5);
        let mut expected = Batch::default();
        expected.extend_picked(&batch, &[3, 4]);
        assert_eq!(slice, expected);
        assert_eq!(slice.len(), 2);
        assert_eq!((slice.keys.get(1), slice.timestamps[1]), (&b"k4"[..], 4));
        assert_eq!(slice.hashes[1], key::hash(b"k4"));
    }

    #[test]
    fn timestamps_of_picked_records_stay_theirs() {
        let (mut plain, mut timed, mut joined) =
            (Batch::default(), Batch::default(), Batch::default());
        plain.push(None, b"a", NO_TIMESTAMP);
        timed.push(None, b"b", 7);
        joined.extend_picked(&plain, &[0]);
        assert!(joined.timestamps.is_empty());
        joined.extend_picked(&timed, &[0]);
        joined.extend_picked(&plain, &[0, 0]);
        assert_eq!(
            joined.timestamps,
            [NO_TIMESTAMP, 7, NO_TIMESTAMP, NO_TIMESTAMP]
        );
    }
}
