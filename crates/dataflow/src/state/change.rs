//! How an access to a state altered what it holds.

/// How one change altered what a state holds for a key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    /// It holds something and did not before.
    pub(super) appeared: bool,
    /// It holds nothing any more.
    pub(super) vanished: bool,
    /// By how many bytes it grew.
    pub(super) bytes: i64,
}

/// How all changes of one access altered a state.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Slots for which the state holds something and did not before.
    pub(super) appeared: Vec<u32>,
    /// Slots for which it holds nothing any more.
    pub(super) vanished: Vec<u32>,
    /// By how many entries it grew.
    pub(super) entries: i64,
    /// By how many bytes, without keys.
    pub(super) bytes: i64,
    /// How many entries were written, and their bytes.
    pub(super) written: (u64, u64),
    /// Whether a removal was logged.
    pub(super) removed: bool,
}

impl Tally {
    /// Adds a change for the key in `slot`.
    #[inline]
    pub(super) fn add(&mut self, slot: u32, change: Change) {
        self.bytes += change.bytes;
        if change.appeared {
            self.appeared.push(slot);
        } else if change.vanished {
            self.vanished.push(slot);
        }
    }
}
