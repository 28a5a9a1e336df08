//! State whose entries expire.

/// How long the entries of a state live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// For how many milliseconds.
    pub millis: u64,
    /// From when on.
    pub refresh: Refresh,
    /// By which clock.
    pub time: TtlTime,
}

/// What an entry's time to live counts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refresh {
    /// Its last write.
    #[default]
    Write,
    /// Its last write or read.
    Read,
}

/// The clock by which entries expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TtlTime {
    /// That of the machine.
    #[default]
    Processing,
    /// The operator's watermark.
    Event,
}
