//! Byte strings in cells of fixed size: short ones are stored in place, longer ones on the heap.

use super::heap::{BLOCK_MAX, Heap, Span, block_size};

/// A byte string of which up to `N` bytes (`N >= 8`) are stored in place and longer ones on the heap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<const N: usize> {
    /// 0: absent; `LONG`: `bytes` holds a span; else the length plus one.
    tag: u8,
    bytes: [u8; N],
}

const LONG: u8 = 0xff;

/// Up to 16 bytes with zeros after them, without a copy of variable length, which would be a call:
/// the first and the last half, which overlap where they have the same bytes.
#[inline]
fn padded(value: &[u8]) -> [u8; 16] {
    // The usual lengths of keys and of counters.
    if let Ok(all) = value.try_into() {
        return all;
    }
    if let Ok(all) = value.try_into() {
        return u128::from(u64::from_le_bytes(all)).to_le_bytes();
    }
    let len = value.len();
    let bits = if let (Some(first), Some(last)) = (value.first_chunk(), value.last_chunk()) {
        let last = u128::from(u64::from_le_bytes(*last));
        u128::from(u64::from_le_bytes(*first)) | last << (8 * (len - 8))
    } else if let (Some(first), Some(last)) = (value.first_chunk(), value.last_chunk()) {
        let last = u64::from(u32::from_le_bytes(*last));
        u128::from(u64::from(u32::from_le_bytes(*first)) | last << (8 * (len - 4)))
    } else if let (Some(first), Some(last)) = (value.first(), value.last()) {
        let middle = u32::from(value[len / 2]) << (8 * (len / 2));
        u128::from(u32::from(*first) | middle | u32::from(*last) << (8 * (len - 1)))
    } else {
        0
    };
    bits.to_le_bytes()
}

impl<const N: usize> Bytes<N> {
    /// Nothing, which is not the empty string.
    pub(super) const ABSENT: Self = Self {
        tag: 0,
        bytes: [0; N],
    };

    /// A copy of `value`.
    #[inline]
    pub(super) fn new(value: &[u8], heap: &mut Heap) -> Self {
        Self::inline(value).unwrap_or_else(|| Self::long(heap.insert(value)))
    }

    /// A copy of `value` if it is short enough to be stored in place.
    #[inline]
    pub(super) fn inline(value: &[u8]) -> Option<Self> {
        if value.len() > N {
            return None;
        }
        let mut bytes = [0; N];
        bytes.copy_from_slice(&padded(value)[..N]);
        Some(Self {
            tag: value.len() as u8 + 1,
            bytes,
        })
    }

    fn long(span: Span) -> Self {
        let mut bytes = [0; N];
        bytes[..4].copy_from_slice(&span.len.to_le_bytes());
        bytes[4..8].copy_from_slice(&span.block.to_le_bytes());
        Self { tag: LONG, bytes }
    }

    fn span(&self) -> Option<Span> {
        let word = |at: usize| {
            u32::from_le_bytes([
                self.bytes[at],
                self.bytes[at + 1],
                self.bytes[at + 2],
                self.bytes[at + 3],
            ])
        };
        (self.tag == LONG).then(|| Span {
            len: word(0),
            block: word(4),
        })
    }

    #[inline]
    pub(super) fn is_absent(&self) -> bool {
        self.tag == 0
    }

    /// How many bytes of the heap it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        match self.span() {
            Some(span) if span.len as usize <= BLOCK_MAX => block_size(span.len as usize),
            Some(span) => span.len as usize,
            None => 0,
        }
    }

    /// Whether it lies on the heap.
    #[inline]
    pub(super) fn is_long(&self) -> bool {
        self.tag == LONG
    }

    /// Length in bytes; 0 if absent.
    #[inline]
    pub(super) fn len(&self) -> usize {
        if self.tag == LONG {
            self.span().map_or(0, |span| span.len as usize)
        } else {
            usize::from(self.tag.saturating_sub(1))
        }
    }

    /// The bytes with others after them, and how many they are: of a string that is not on the
    /// heap. None if absent.
    #[inline]
    pub(super) fn in_place(&self) -> ([u8; N], usize) {
        (self.bytes, usize::from(self.tag.saturating_sub(1)))
    }

    /// The bytes, unless absent.
    #[inline]
    pub(super) fn get<'a>(&'a self, heap: &'a Heap) -> Option<&'a [u8]> {
        let len = usize::from(self.tag.wrapping_sub(1));
        if len <= N {
            return Some(&self.bytes[..len]);
        }
        Some(heap.get(self.span()?))
    }

    /// Gives the place on the heap up, if it has one.
    #[inline]
    pub(super) fn release(self, heap: &mut Heap) {
        if let Some(span) = self.span() {
            heap.release(span);
        }
    }

    /// Whether both are stored in place and are equal.
    #[inline]
    pub(super) fn same_inline(&self, other: &Self) -> bool {
        self.tag == other.tag && self.bytes == other.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_strings_are_padded_with_zeros() {
        let string: Vec<u8> = (1..=16).collect();
        for len in 0..=16 {
            let mut expected = [0; 16];
            expected[..len].copy_from_slice(&string[..len]);
            assert_eq!(padded(&string[..len]), expected, "{len}");
        }
    }
}
