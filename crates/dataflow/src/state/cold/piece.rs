//! A piece of the log, as it is known in memory: which records in it are live.

use super::record::{RECORD_MAX, UNIT};

/// Bytes of a piece.
pub(super) const PIECE: usize = if cfg!(test) { 16 << 10 } else { 256 << 10 };
/// Units of a piece.
pub(super) const PIECE_UNITS: usize = PIECE / UNIT;

const _: () = assert!(RECORD_MAX <= PIECE, "a record fits into a piece");

/// A piece of a file.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Per unit, whether a live record begins there.
    live: [u64; PIECE_UNITS / 64],
    /// The newest version in it.
    pub(super) newest: u32,
}

impl Piece {
    /// One without live records.
    pub(super) fn new() -> Self {
        Self {
            live: [0; PIECE_UNITS / 64],
            newest: 0,
        }
    }

    /// Where live records begin, in bytes.
    pub(super) fn live(&self) -> impl Iterator<Item = usize> {
        self.live.iter().enumerate().flat_map(|(at, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros() as usize;
                word &= word.wrapping_sub(1);
                (bit < 64).then_some((at * 64 + bit) * UNIT)
            })
        })
    }

    /// A live record begins at this unit.
    pub(super) fn set(&mut self, unit: usize) {
        self.live[unit / 64] |= 1 << (unit % 64);
    }

    /// None begins there any more.
    pub(super) fn unset(&mut self, unit: usize) {
        self.live[unit / 64] &= !(1 << (unit % 64));
    }

    /// Whether any is live.
    pub(super) fn has_live(&self) -> bool {
        self.live.iter().any(|word| *word != 0)
    }
}
