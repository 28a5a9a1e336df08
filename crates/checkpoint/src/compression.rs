//! Compressed segments: blocks, each of which says how long it is and carries its own checksum.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | S, length of the payload, at most R |
//! | 4 | R, its length when it is decompressed, 1 to [`BLOCK_BYTES_MAX`] |
//! | 4 | CRC-32C of these eight bytes and the payload |
//! | S | the payload: as it is if S = R (it did not get smaller), else an LZ4 block or a Zstandard frame |
//!
//! Numbers are little-endian. Blocks, not one long stream, for three reasons: nothing is
//! decompressed before its checksum was found right; neither side holds more than a block; and the
//! length of a block is bounded before anything is allocated by it, so that a damaged file is no bomb.

use std::io::{self, Read};

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use zstd::bulk;
use zstd::zstd_safe::compress_bound;

use crate::metadata::Codec;
use crate::{Error, Result};

/// The most bytes that one block has, compressed or not.
pub(crate) const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Payload length, raw length, checksum.
const HEADER_BYTES: usize = 12;

/// The fastest regular level of Zstandard: a checkpoint is to be done soon, and the next levels gain
/// a few percent for half the speed.
const ZSTD_LEVEL: i32 = 1;

enum Compressor {
    Lz4(CompressTable),
    Zstd(bulk::Compressor<'static>),
}

/// Turns bytes into blocks. Holds one block and what it becomes.
pub(crate) struct Encoder {
    compressor: Compressor,
    raw: Vec<u8>,
    /// A header and the largest payload that a block can become.
    block: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(codec: Codec) -> io::Result<Self> {
        let (compressor, payload_bytes_max) = match codec {
            Codec::Lz4 => (
                Compressor::Lz4(CompressTable::large()),
                get_maximum_output_size(BLOCK_BYTES_MAX),
            ),
            Codec::Zstd => (
                Compressor::Zstd(bulk::Compressor::new(ZSTD_LEVEL)?),
                compress_bound(BLOCK_BYTES_MAX),
            ),
        };
        Ok(Self {
            compressor,
            raw: Vec::with_capacity(BLOCK_BYTES_MAX),
            block: vec![0; HEADER_BYTES + payload_bytes_max],
        })
    }

    /// Takes bytes; hands `store` every block that they complete.
    pub(crate) fn append(
        &mut self,
        mut bytes: &[u8],
        store: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        while !bytes.is_empty() {
            let taken = bytes.len().min(BLOCK_BYTES_MAX - self.raw.len());
            let (head, tail) = bytes.split_at(taken);
            self.raw.extend_from_slice(head);
            bytes = tail;
            if self.raw.len() == BLOCK_BYTES_MAX {
                store(self.encode()?)?;
                self.raw.clear();
            }
        }
        Ok(())
    }

    /// Hands `store` the last block.
    pub(crate) fn finish(mut self, store: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self.raw.is_empty() {
            true => Ok(()),
            false => store(self.encode()?),
        }
    }

    /// The block of what is held.
    fn encode(&mut self) -> Result<&[u8]> {
        let payload = &mut self.block[HEADER_BYTES..];
        let compressed = match &mut self.compressor {
            Compressor::Lz4(table) => {
                compress_into_with_table(&self.raw, payload, table).map_err(failed)?
            }
            Compressor::Zstd(compressor) => compressor
                .compress_to_buffer(&self.raw, payload)
                .map_err(failed)?,
        };
        let length = compressed.min(self.raw.len());
        if length == self.raw.len() {
            // It did not get smaller.
            self.block[HEADER_BYTES..HEADER_BYTES + length].copy_from_slice(&self.raw);
        }
        let number = |length: usize| u32::try_from(length).map_err(failed).map(u32::to_le_bytes);
        self.block[..4].copy_from_slice(&number(length)?);
        self.block[4..8].copy_from_slice(&number(self.raw.len())?);
        let (header, payload) = self.block.split_at(HEADER_BYTES);
        let checksum = checksum(&header[..8], &payload[..length]);
        self.block[8..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        Ok(&self.block[..HEADER_BYTES + length])
    }
}

fn checksum(lengths: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(lengths), payload)
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Storage {
        action: "compressing",
        object: "a segment".to_owned(),
        source: source.into(),
    }
}

enum Decompressor {
    Lz4,
    Zstd(bulk::Decompressor<'static>),
}

/// Gives the bytes that an [`Encoder`] was given. Holds one block and what it was.
pub(crate) struct Decoder<R> {
    stored: R,
    decompressor: Decompressor,
    /// Names the file in messages.
    object: String,
    /// Where in the file the next block begins.
    next: u64,
    /// Bytes that the blocks from there on are to give.
    left: u64,
    payload: Vec<u8>,
    raw: Vec<u8>,
    /// How much of `raw` was handed out.
    given: usize,
    /// Whether an error was returned; then it is unknown where the next block begins.
    failed: bool,
}

impl<R: Read> Decoder<R> {
    /// Reads blocks from `stored`, whose first byte is byte `offset` of `object`. They give
    /// `raw_length` bytes, neither more nor fewer.
    pub(crate) fn new(
        stored: R,
        codec: Codec,
        raw_length: u64,
        object: String,
        offset: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            stored,
            decompressor: match codec {
                Codec::Lz4 => Decompressor::Lz4,
                Codec::Zstd => Decompressor::Zstd(bulk::Decompressor::new()?),
            },
            object,
            next: offset,
            left: raw_length,
            payload: Vec::new(),
            raw: Vec::new(),
            given: 0,
            failed: false,
        })
    }

    /// Reads, checks and decompresses the next block.
    fn advance(&mut self) -> io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        self.fill(&mut header, "the head of a compressed block")?;
        let number = |at: usize| {
            let bytes = header[at..at + 4].try_into().unwrap_or_default();
            u32::from_le_bytes(bytes)
        };
        let (length, raw_length) = (number(0) as usize, number(4) as usize);
        // Before anything is allocated by them.
        if length == 0
            || length > raw_length
            || raw_length > BLOCK_BYTES_MAX
            || raw_length as u64 > self.left
        {
            return Err(self.corrupt(
                HEADER_BYTES,
                format!("are not the head of a compressed block ({length} bytes for {raw_length})"),
            ));
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(length, 0);
        let filled = self.fill(&mut payload, "a compressed block");
        self.payload = payload;
        filled?;
        let block_bytes = HEADER_BYTES + length;
        if checksum(&header[..8], &self.payload) != number(8) {
            return Err(self.corrupt(block_bytes, "do not match their checksum".to_owned()));
        }
        self.raw.resize(raw_length, 0);
        if length == raw_length {
            self.raw.copy_from_slice(&self.payload);
        } else {
            let decompressed = match &mut self.decompressor {
                Decompressor::Lz4 => {
                    lz4_flex::block::decompress_into(&self.payload, &mut self.raw).ok()
                }
                Decompressor::Zstd(decompressor) => decompressor
                    .decompress_to_buffer(&self.payload, self.raw.as_mut_slice())
                    .ok(),
            };
            if decompressed != Some(raw_length) {
                return Err(self.corrupt(
                    block_bytes,
                    format!("do not decompress to {raw_length} bytes"),
                ));
            }
        }
        self.next += block_bytes as u64;
        self.left -= raw_length as u64;
        if self.left == 0 && self.stored.read(&mut [0])? > 0 {
            return Err(self.corrupt(1, "do not belong to the segment".to_owned()));
        }
        self.given = 0;
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8], what: &str) -> io::Result<()> {
        match self.stored.read_exact(buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.corrupt(buffer.len(), format!("of {what} are missing")))
            }
            read => read,
        }
    }

    /// Damage in the `length` bytes from the beginning of the block.
    fn corrupt(&self, length: usize, what: String) -> io::Error {
        let end = self.next + length as u64;
        io::Error::new(
            io::ErrorKind::InvalidData,
            Error::Corrupt {
                object: self.object.clone(),
                what: format!("bytes {}..{end} {what}", self.next),
            },
        )
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(io::Error::other("the segment could not be read"));
        }
        if self.given == self.raw.len() && self.left > 0 && !buffer.is_empty() {
            self.advance().inspect_err(|_| self.failed = true)?;
        }
        let rest = &self.raw[self.given..];
        let count = buffer.len().min(rest.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.given += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
