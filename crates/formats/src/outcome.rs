//! How decoding a stream goes: how far it has come, why it stopped, what kept it from going on.

use std::io::{self, ErrorKind};

/// How far a decoder has come in its stream, beside the stream's offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records decoded.
    pub records: u64,
    /// Lines consumed, with the header and those that are no records.
    pub lines: u64,
}

/// Why a decoder stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The batch is full, or what comes next is an error that the next call reports.
    Full,
    /// There is nothing more before the end.
    Ended,
    /// The input has nothing yet.
    Blocked,
}

/// Why no record can be decoded.
#[derive(Debug)]
pub enum DecodeError {
    /// The stream cannot be read.
    Read(io::Error),
    /// The record that comes next is broken.
    Record(String),
}

impl From<io::Error> for DecodeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // This is how `Blocks` says that a record is too long.
            ErrorKind::InvalidData if error.get_ref().is_some() => Self::Record(error.to_string()),
            _ => Self::Read(error),
        }
    }
}
