//! Writing one subtask's segment: in memory while it is small, into a file of its own from then on.

use std::io;

use bytes::Bytes;
use dataflow::CheckpointId;
use dataflow::state::SegmentStats;

use super::Options;
use crate::compression::Encoder;
use crate::metadata::{Codec, Compressed};
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
    /// What of the subtask it is.
    pub(super) what: What,
    /// The checkpoint on which it is a delta.
    pub(super) base: Option<CheckpointId>,
    pub(super) body: Body,
    pub(super) length: u64,
    pub(super) crc32c: u32,
    pub(super) compressed: Option<Compressed>,
    pub(super) stats: SegmentStats,
}

/// What of a subtask was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A segment of its keyed state.
    Keyed,
    /// Its operator state.
    OperatorState,
}

impl Written {
    /// Bytes of the segment, as they are stored.
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

/// What a segment is written for: a checkpoint that is open, and its data files.
pub(super) trait Files {
    /// The checkpoint.
    fn id(&self) -> CheckpointId;

    /// How checkpoints are written.
    fn options(&self) -> &Options;

    /// The most bytes that a segment may have.
    fn state_size_max(&self) -> Option<u64>;

    /// Whether the checkpoint is still written.
    ///
    /// # Errors
    /// It was completed or given up.
    fn check_open(&self) -> Result<()>;

    /// Starts a data file with a name of its own.
    ///
    /// # Errors
    /// The storage cannot be written.
    fn create(&self) -> Result<(String, Box<dyn ObjectWriter>)>;

    /// Makes a data file exist, and remembers it. Removes it again if the checkpoint was closed meanwhile:
    /// nobody else would.
    ///
    /// # Errors
    /// It could not be written, or the checkpoint was closed.
    fn publish(&self, name: &str, file: Box<dyn ObjectWriter>) -> Result<()>;
}

/// Takes a segment's bytes as they are encoded. Whatever goes wrong with the storage is kept aside,
/// for [`io::Error`] could not carry it through code that wraps it.
pub(super) struct SegmentWriter<'a> {
    operator: &'a str,
    subtask: u32,
    /// Bytes that were encoded.
    raw_length: u64,
    compressor: Option<Compressor>,
    stored: Stored<'a>,
    failure: Option<Error>,
}

/// What stands between the encoded bytes and those that are stored.
struct Compressor {
    codec: Codec,
    /// What may yet go into `_metadata`, where nothing is compressed: there is little to gain, and
    /// the threshold means the same whatever the setting is.
    held: Vec<u8>,
    /// There as soon as there is too much for that.
    encoder: Option<Encoder>,
}

/// The bytes as they are stored, and their length and checksum.
struct Stored<'a> {
    files: &'a dyn Files,
    /// What is in memory, until there is a stream.
    buffer: Vec<u8>,
    stream: Option<(String, Box<dyn ObjectWriter>)>,
    length: u64,
    crc32c: u32,
}

impl<'a> SegmentWriter<'a> {
    pub(super) fn new(files: &'a dyn Files, operator: &'a str, subtask: u32, hint: u64) -> Self {
        let codec = files.options().compression.codec();
        // The hint may be wrong, so it is not followed further than what fits a buffer anyway.
        let capacity = match codec {
            None => usize::try_from(hint.min(PACKED_BYTES_MAX)).unwrap_or(0),
            Some(_) => 0,
        };
        Self {
            operator,
            subtask,
            raw_length: 0,
            compressor: codec.map(|codec| Compressor {
                codec,
                held: Vec::new(),
                encoder: None,
            }),
            stored: Stored {
                files,
                buffer: Vec::with_capacity(capacity),
                stream: None,
                length: 0,
                crc32c: 0,
            },
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
        let mut stored = self.stored;
        let compressed = match self.compressor {
            None => None,
            Some(compressor) => compressor.finish(self.raw_length, &mut stored)?,
        };
        let body = match stored.stream {
            Some((name, stream)) => {
                stored.files.publish(&name, stream)?;
                Body::File(name)
            }
            None if stored.length == 0 => Body::Nothing,
            None => Body::Buffered(stored.buffer.into()),
        };
        Ok(Written {
            checkpoint: stored.files.id(),
            operator: self.operator.to_owned(),
            subtask: self.subtask,
            what: What::Keyed,
            base,
            body,
            length: stored.length,
            crc32c: stored.crc32c,
            compressed,
            stats,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let files = self.stored.files;
        files.check_open()?;
        let raw_length = self.raw_length + bytes.len() as u64;
        if let Some(limit) = files.state_size_max()
            && raw_length > limit
        {
            return Err(Error::TooLarge {
                states: String::new(),
                operator: self.operator.to_owned(),
                subtask: self.subtask,
                size: raw_length,
                limit,
            });
        }
        self.raw_length = raw_length;
        match &mut self.compressor {
            None => self.stored.append(bytes),
            Some(compressor) => compressor.append(bytes, raw_length, &mut self.stored),
        }
    }
}

impl Compressor {
    fn append(&mut self, bytes: &[u8], raw_length: u64, stored: &mut Stored<'_>) -> Result<()> {
        if raw_length <= stored.files.options().inline_threshold {
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => {
                let encoder = Encoder::new(self.codec).map_err(|source| Error::Storage {
                    action: "compressing",
                    object: "a segment".to_owned(),
                    source: source.into(),
                })?;
                let encoder = self.encoder.insert(encoder);
                let held = std::mem::take(&mut self.held);
                encoder.append(&held, &mut |block| stored.append(block))?;
                encoder
            }
        };
        encoder.append(bytes, &mut |block| stored.append(block))
    }

    /// Stores what is left, and says how it all is compressed.
    fn finish(self, raw_length: u64, stored: &mut Stored<'_>) -> Result<Option<Compressed>> {
        let Some(encoder) = self.encoder else {
            stored.append(&self.held)?;
            return Ok(None);
        };
        encoder.finish(&mut |block| stored.append(block))?;
        Ok(Some(Compressed {
            codec: self.codec,
            raw_length,
        }))
    }
}

impl Stored<'_> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.length += bytes.len() as u64;
        let buffered_max = PACKED_BYTES_MAX.max(self.files.options().inline_threshold);
        match &mut self.stream {
            Some((_, stream)) => stream.append(bytes),
            None if self.length <= buffered_max => {
                self.buffer.extend_from_slice(bytes);
                Ok(())
            }
            None => {
                let (name, mut stream) = self.files.create()?;
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
