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

/// A piece of text that is no record and was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Its bytes without the line end, at most [`LeftOut::BYTES_MAX`].
    pub bytes: Vec<u8>,
    /// How many bytes it had.
    pub len: u64,
}

impl LeftOut {
    /// As many bytes of a longer piece are kept.
    pub const BYTES_MAX: usize = 1 << 20;

    /// Adds what comes next.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let room = Self::BYTES_MAX - self.bytes.len();
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.len += bytes.len() as u64;
    }

    /// Takes the first half of a line end of two bytes away.
    pub(crate) fn strip_carriage_return(&mut self) {
        if self.bytes.len() as u64 == self.len && self.bytes.last() == Some(&b'\r') {
            self.bytes.pop();
            self.len -= 1;
        }
    }
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
