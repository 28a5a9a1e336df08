//! Byte strings in cells of fixed size: short ones lie in place, longer ones on the heap.

use super::heap::{Heap, Span};

/// A byte string of which up to `N` bytes (`N >= 8`) lie in place and longer ones on the heap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<const N: usize> {
    /// 0: absent; `LONG`: `bytes` holds a span; else the length plus one.
    tag: u8,
    bytes: [u8; N],
}

const LONG: u8 = 0xff;

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

    /// A copy of `value` if it is short enough to lie in place.
    #[inline]
    pub(super) fn inline(value: &[u8]) -> Option<Self> {
        let mut bytes = [0; N];
        // The width of counters and timestamps: a copy of constant length is a single move.
        if value.len() == 8 {
            bytes[..8].copy_from_slice(&value[..8]);
        } else {
            bytes.get_mut(..value.len())?.copy_from_slice(value);
        }
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

    /// Whether it lies on the heap.
    #[inline]
    pub(super) fn is_long(&self) -> bool {
        self.tag == LONG
    }

    /// Length in bytes; 0 if absent.
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self.span() {
            Some(span) => span.len as usize,
            None => usize::from(self.tag.saturating_sub(1)),
        }
    }

    /// The bytes, unless absent.
    #[inline]
    pub(super) fn get<'a>(&'a self, heap: &'a Heap) -> Option<&'a [u8]> {
        match self.span() {
            Some(span) => Some(heap.get(span)),
            None => self.bytes.get(..usize::from(self.tag.checked_sub(1)?)),
        }
    }

    /// Gives the place on the heap up, if it has one.
    #[inline]
    pub(super) fn release(self, heap: &mut Heap) {
        if let Some(span) = self.span() {
            heap.release(span);
        }
    }

    /// Whether both lie in place and are equal.
    #[inline]
    pub(super) fn same_inline(&self, other: &Self) -> bool {
        self.tag == other.tag && self.bytes == other.bytes
    }
}
