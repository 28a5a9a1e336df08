//! Writing one subtask's segment: in memory while it is small, into a file of its own from then on.

use std::io;

use bytes::Bytes;
use dataflow::CheckpointId;
use dataflow::state::SegmentStats;

use super::Compression;
use super::pending::Pending;
use crate::storage::ObjectWriter;
use crate::{Error, Result};

/// Segments of up to this size wait in memory, to share a file; larger ones do not gain by it.
const PACKED_BYTES_MAX: u64 = 1 << 20;

/// A subtask's written segment, before its file is known: what `write` hands out for `complete`.
#[derive(Debug)]
pub struct Written {
    pub(super) checkpoint: CheckpointId,
    pub(super) operator: String,
    pub(super) subtask: u32,
    /// The checkpoint on which it is a delta.
    pub(super) base: Option<CheckpointId>,
    pub(super) body: Body,
    pub(super) length: u64,
    pub(super) crc32c: u32,
    pub(super) stats: SegmentStats,
}

impl Written {
    /// Bytes of the segment.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.length
    }
}

/// Where a written segment is.
#[derive(Debug)]
pub(super) enum Body {
    /// There was nothing to write.
    Nothing,
    /// In memory.
    Buffered(Bytes),
    /// In a file of its own, durable.
    File(String),
}

/// Takes a segment's bytes as they are encoded. Whatever goes wrong with the storage is kept aside,
/// for [`io::Error`] could not carry it through code that wraps it.
pub(super) struct SegmentWriter<'a> {
    pending: &'a Pending,
    operator: &'a str,
    subtask: u32,
    /// What is in memory, until there is a stream.
    buffer: Vec<u8>,
    stream: Option<(String, Box<dyn ObjectWriter>)>,
    length: u64,
    crc32c: u32,
    failure: Option<Error>,
}

impl<'a> SegmentWriter<'a> {
    pub(super) fn new(pending: &'a Pending, operator: &'a str, subtask: u32, hint: u64) -> Self {
        // The hint may be wrong, so it is not followed further than what fits a buffer anyway.
        let capacity = usize::try_from(hint.min(PACKED_BYTES_MAX)).unwrap_or(0);
        // This is where a compressing encoder would stand between the segment and its bytes, by
        // `options.compression`: length and checksum are those of the bytes as stored.
        let Compression::None = pending.options().compression;
        Self {
            pending,
            operator,
            subtask,
            buffer: Vec::with_capacity(capacity),
            stream: None,
            length: 0,
            crc32c: 0,
            failure: None,
        }
    }

    /// Ends the segment; `encoded` is what the encoder returned.
    pub(super) fn finish(
        self,
        base: Option<CheckpointId>,
        encoded: io::Result<SegmentStats>,
    ) -> Result<Written> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let stats = encoded.map_err(|source| Error::Storage {
            action: "encoding",
            object: format!(
                "the state of operator `{}` subtask {}",
                self.operator, self.subtask
            ),
            source: source.into(),
        })?;
        let body = match self.stream {
            Some((name, stream)) => {
                self.pending.publish(&name, || stream.finish())?;
                Body::File(name)
            }
            None if self.length == 0 => Body::Nothing,
            None => Body::Buffered(self.buffer.into()),
        };
        Ok(Written {
            checkpoint: self.pending.id(),
            operator: self.operator.to_owned(),
            subtask: self.subtask,
            base,
            body,
            length: self.length,
            crc32c: self.crc32c,
            stats,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.pending.check_open()?;
        let length = self.length + bytes.len() as u64;
        if let Some(limit) = self.pending.state_size_max()
            && length > limit
        {
            return Err(Error::TooLarge {
                operator: self.operator.to_owned(),
                subtask: self.subtask,
                size: length,
                limit,
            });
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.length = length;
        let buffered_max = PACKED_BYTES_MAX.max(self.pending.options().inline_threshold);
        match &mut self.stream {
            Some((_, stream)) => stream.append(bytes),
            None if length <= buffered_max => {
                self.buffer.extend_from_slice(bytes);
                Ok(())
            }
            None => {
                let (name, mut stream) = self.pending.create()?;
                stream.append(&std::mem::take(&mut self.buffer))?;
                stream.append(bytes)?;
                self.stream = Some((name, stream));
                Ok(())
            }
        }
    }
}

impl io::Write for SegmentWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failure.is_none() {
            match self.append(bytes) {
                Ok(()) => return Ok(bytes.len()),
                Err(failure) => self.failure = Some(failure),
            }
        }
        Err(io::Error::other("the segment could not be written"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
