//! What is stored in the log of cold state: a key with all that its states hold.
//!
//! A record is its CRC-32C (of all that follows), its length (all of it), the key after its length as
//! a varint, and per value its state as a varint, its version, and the value after its length. It
//! begins on a unit, and ends with zeros up to the next one. No other process reads it, and no other
//! attempt: there are no versions of it.

use super::super::varint;

/// Records begin at multiples of this.
pub(super) const UNIT: usize = 32;
/// The most bytes of a record; keys that hold more stay in memory.
pub(super) const RECORD_MAX: usize = if cfg!(test) { 12 << 10 } else { 64 << 10 };
const HEAD: usize = 8;

/// How many units a number of bytes takes.
pub(super) fn units(bytes: usize) -> u32 {
    bytes.div_ceil(UNIT) as u32
}

/// Writes a record.
#[derive(Debug)]
pub(super) struct Writer<'a>(&'a mut Vec<u8>);

impl<'a> Writer<'a> {
    /// Begins a record in `to`, which is emptied.
    pub(super) fn begin(to: &'a mut Vec<u8>, key: &[u8]) -> Self {
        to.clear();
        to.resize(HEAD, 0);
        let mut writer = Self(to);
        writer.string(key);
        writer
    }

    /// Adds what a state holds.
    pub(super) fn value(&mut self, state: u32, version: [u8; 4], value: &[u8]) {
        self.varint(u64::from(state));
        self.0.extend_from_slice(&version);
        self.string(value);
    }

    /// Ends the record and fills its last unit.
    pub(super) fn finish(self) {
        let len = self.0.len() as u32;
        self.0[4..HEAD].copy_from_slice(&len.to_le_bytes());
        let checksum = crc32c::crc32c(&self.0[4..]);
        self.0[..4].copy_from_slice(&checksum.to_le_bytes());
        self.0.resize(units(self.0.len()) as usize * UNIT, 0);
    }

    fn varint(&mut self, value: u64) {
        let (bytes, len) = varint::encode(value);
        self.0.extend_from_slice(&bytes[..len]);
    }

    fn string(&mut self, string: &[u8]) {
        self.varint(string.len() as u64);
        self.0.extend_from_slice(string);
    }
}

/// A record that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) key: &'a [u8],
    rest: &'a [u8],
    /// Bytes of the record, without what fills its last unit.
    pub(super) len: usize,
}

/// What a state holds, in a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    pub(super) state: u32,
    pub(super) version: [u8; 4],
    pub(super) value: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record at the start of `bytes`; `None` if there is none, or it does not match its checksum.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (checksum, behind) = bytes.split_first_chunk()?;
        let (len, _) = behind.split_first_chunk()?;
        let len = u32::from_le_bytes(*len) as usize;
        let record = bytes.get(4..len)?;
        if crc32c::crc32c(record) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let (key, rest) = string(record.get(4..)?)?;
        Some(Self { key, rest, len })
    }

    /// What its states hold.
    pub(super) fn held(self) -> impl Iterator<Item = Held<'a>> {
        let mut rest = self.rest;
        std::iter::from_fn(move || {
            let (state, behind) = varint::read(rest)?;
            let (version, behind) = behind.split_first_chunk()?;
            let value;
            (value, rest) = string(behind)?;
            Some(Held {
                state: u32::try_from(state).ok()?,
                version: *version,
                value,
            })
        })
    }
}

fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, behind) = varint::read(bytes)?;
    behind.split_at_checked(usize::try_from(len).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_flipped_bits_are_found() {
        let mut bytes = Vec::new();
        let mut writer = Writer::begin(&mut bytes, b"key");
        writer.value(0, [1, 0, 0, 0], b"");
        writer.value(300, [0, 2, 0, 0], &[7; 200]);
        writer.finish();
        assert_eq!(bytes.len() % UNIT, 0);
        let record = Record::read(&bytes).unwrap();
        assert_eq!(record.key, b"key");
        let held: Vec<_> = record.held().collect();
        assert_eq!(held.len(), 2);
        assert_eq!((held[0].state, held[0].version), (0, [1, 0, 0, 0]));
        assert_eq!((held[1].state, held[1].version), (300, [0, 2, 0, 0]));
        assert_eq!((held[0].value, held[1].value), (&[][..], &[7; 200][..]));
        for at in 0..record.len {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                assert!(Record::read(&bytes).is_none(), "bit {bit} of byte {at}");
            }
        }
        assert!((0..record.len).all(|len| Record::read(&bytes[..len]).is_none()));
        assert!(Record::read(&[0; 64]).is_none());
    }
}
