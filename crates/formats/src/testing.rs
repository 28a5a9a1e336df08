//! What tests of texts share.

/// A small generator of test data, the same for the same seed.
pub struct Random(
    /// The state: anything but zero.
    pub u64,
);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
