//! The bytes of `_metadata`.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | [`MAGIC`] |
//! | 8 | 4 | format version |
//! | 12 | 8 | length J of the body |
//! | 20 | J | the body: [`Metadata`] as JSON |
//! | 20 + J | 8 | length I of the inline bytes |
//! | 28 + J | I | the inline bytes: small segments, one after the other |
//! | 28 + J + I | 4 | CRC-32C of everything before |
//!
//! Numbers are little-endian. The body is checked for what cannot be true, both when it is written and
//! when it is read. Lengths are compared with the bytes that follow before anything is allocated
//! or sliced by them.

use bytes::{BufMut, Bytes, BytesMut};

use dataflow::state::StateKind;

use super::check::{Problem, check};
use super::{Metadata, State, kind_of};
use crate::{Error, Result};

/// The first bytes of `_metadata`. The line break shows when a transfer took it for text.
pub const MAGIC: [u8; 8] = *b"HWCKPT\r\n";

/// The newest format that this program reads and writes. Metadata is written in the oldest that can
/// say it, so that older programs read what they can read.
pub const FORMAT_VERSION: u32 = 3;

/// Knows no compressed segments.
const VERSION_PLAIN: u32 = 1;
/// Knows compressed segments, but no timers, no entries that expire and no operator state.
const VERSION_COMPRESSED: u32 = 2;

/// The largest `_metadata` that is written or read, in bytes: it is held in memory whole.
pub const METADATA_BYTES_MAX: u64 = 1 << 30;

const VERSION_AT: usize = 8;
const BODY_AT: usize = 20;
const LENGTH_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;
/// An empty body and no inline bytes.
const BYTES_MIN: usize = BODY_AT + LENGTH_BYTES + CHECKSUM_BYTES;

/// Encodes metadata and its inline bytes. Returns the whole file and, without a copy, the inline
/// bytes within it.
pub(crate) fn encode(
    metadata: &Metadata,
    inline: &[Bytes],
    object: &str,
) -> Result<(Bytes, Bytes)> {
    // What would be refused when it is read must not count as a checkpoint in the first place.
    let inline_bytes: usize = inline.iter().map(Bytes::len).sum();
    check(metadata, inline_bytes as u64).map_err(|problem| {
        let (Problem::Corrupt(what) | Problem::Incompatible(what)) = problem;
        Error::Incompatible(format!("{object} cannot be written: {what}"))
    })?;
    encode_unchecked(metadata, inline, object)
}

fn encode_unchecked(metadata: &Metadata, inline: &[Bytes], object: &str) -> Result<(Bytes, Bytes)> {
    let body = serde_json::to_vec(metadata)
        .map_err(|error| Error::Incompatible(format!("{object} cannot be written: {error}")))?;
    let inline_bytes: usize = inline.iter().map(Bytes::len).sum();
    let total = BYTES_MIN + body.len() + inline_bytes;
    if total as u64 > METADATA_BYTES_MAX {
        return Err(Error::Incompatible(format!(
            "{object} would have {total} bytes, more than {METADATA_BYTES_MAX}: lower `checkpoint.inline-threshold`"
        )));
    }
    let mut bytes = BytesMut::with_capacity(total);
    bytes.put_slice(&MAGIC);
    bytes.put_u32_le(version_of(metadata));
    bytes.put_u64_le(body.len() as u64);
    bytes.put_slice(&body);
    bytes.put_u64_le(inline_bytes as u64);
    let inline_at = bytes.len();
    for part in inline {
        bytes.put_slice(part);
    }
    let checksum = crc32c::crc32c(&bytes);
    bytes.put_u32_le(checksum);
    let bytes = bytes.freeze();
    let inline = bytes.slice(inline_at..inline_at + inline_bytes);
    Ok((bytes, inline))
}

/// The oldest format that can say this: the one place that knows what came with which.
fn version_of(metadata: &Metadata) -> u32 {
    let subtasks = || metadata.operators.iter().flat_map(|it| &it.subtasks);
    let mut segments = subtasks().flat_map(|subtask| &subtask.segments);
    let mut states = metadata.operators.iter().flat_map(|it| &it.states);
    let is_new =
        |state: &State| kind_of(&state.kind) == Some(StateKind::Timers) || state.ttl_ms.is_some();
    let has_operator_state = metadata
        .operators
        .iter()
        .any(|operator| !operator.operator_states.is_empty())
        || subtasks().any(|subtask| subtask.operator_state.is_some());
    if states.any(is_new) || has_operator_state {
        FORMAT_VERSION
    } else if segments.any(|segment| segment.compressed.is_some()) {
        VERSION_COMPRESSED
    } else {
        VERSION_PLAIN
    }
}

/// Whether these first bytes of a file (8 or more of them) can be those of `_metadata`.
pub(crate) fn begins_like_metadata(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Decodes what [`encode`] wrote. `object` is named in errors.
pub(crate) fn decode(bytes: &Bytes, object: &str) -> Result<(Metadata, Bytes)> {
    let corrupt = |what: String| Error::Corrupt {
        object: object.to_owned(),
        what,
    };
    let truncated = |needed: u64| {
        corrupt(format!(
            "truncated at byte {}, {needed} bytes are expected",
            bytes.len()
        ))
    };
    if !MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]) {
        return Err(corrupt(
            "bytes 0..8 are not the magic of checkpoint metadata".to_owned(),
        ));
    }
    let Some(version) = number_at(bytes, VERSION_AT, 4) else {
        return Err(truncated(BYTES_MIN as u64));
    };
    if !(VERSION_PLAIN..=FORMAT_VERSION).any(|known| version == u64::from(known)) {
        return Err(other_version(bytes, version, object));
    }
    let body = section(bytes, VERSION_AT + 4).map_err(truncated)?;
    let inline = section(bytes, body.end).map_err(truncated)?;
    let end = inline.end + CHECKSUM_BYTES;
    let Some(stored) = number_at(bytes, inline.end, CHECKSUM_BYTES) else {
        return Err(truncated(end as u64));
    };
    if bytes.len() > end {
        let length = bytes.len();
        return Err(corrupt(format!(
            "bytes {end}..{length} do not belong to it"
        )));
    }
    let computed = crc32c::crc32c(&bytes[..inline.end]);
    if stored != u64::from(computed) {
        return Err(corrupt(format!(
            "bytes 0..{} do not match their checksum",
            inline.end
        )));
    }
    let metadata: Metadata = serde_json::from_slice(&bytes[body.clone()]).map_err(|error| {
        corrupt(format!(
            "bytes {}..{} are not a valid body: {error}",
            body.start, body.end
        ))
    })?;
    let inline = bytes.slice(inline);
    check(&metadata, inline.len() as u64).map_err(|problem| match problem {
        Problem::Corrupt(what) => corrupt(what),
        Problem::Incompatible(what) => Error::Incompatible(format!("{object} {what}")),
    })?;
    let needed = version_of(&metadata);
    if version < u64::from(needed) {
        return Err(corrupt(format!(
            "it has what came with format version {needed}, and says that it is of version {version}"
        )));
    }
    Ok((metadata, inline))
}

/// Why a file of another version cannot be read. One flipped bit in the version is damage, not the
/// future: with that bit restored, the checksum fits. (Where it makes one known version of
/// another, the checksum does not fit.)
fn other_version(bytes: &Bytes, version: u64, object: &str) -> Error {
    let was = |known: u32| {
        (version ^ u64::from(known)).is_power_of_two() && fits_as_version(bytes, known)
    };
    if version == 0 || (VERSION_PLAIN..=FORMAT_VERSION).any(was) {
        return Error::Corrupt {
            object: object.to_owned(),
            what: format!("bytes 8..12 are damaged: there is no format version {version}"),
        };
    }
    Error::Incompatible(format!(
        "{object} was written in format version {version}, this program reads versions up to {FORMAT_VERSION}"
    ))
}

fn fits_as_version(bytes: &Bytes, version: u32) -> bool {
    let Some(checksum_at) = bytes.len().checked_sub(CHECKSUM_BYTES) else {
        return false;
    };
    let mut checksum = crc32c::crc32c(&MAGIC);
    checksum = crc32c::crc32c_append(checksum, &version.to_le_bytes());
    let rest = bytes.get(VERSION_AT + 4..checksum_at).unwrap_or_default();
    checksum = crc32c::crc32c_append(checksum, rest);
    number_at(bytes, checksum_at, CHECKSUM_BYTES) == Some(u64::from(checksum))
}

/// The little-endian number of `width` bytes at an offset, if it is all there.
fn number_at(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let found = bytes.get(at..at.checked_add(width)?)?;
    let mut number = [0; 8];
    number[..width].copy_from_slice(found);
    Some(u64::from_le_bytes(number))
}

/// The range of the bytes after the length that is at `at`; or how many bytes the file would
/// need to have.
fn section(bytes: &[u8], at: usize) -> Result<std::ops::Range<usize>, u64> {
    let start = at + LENGTH_BYTES;
    let length = number_at(bytes, at, LENGTH_BYTES).ok_or(start as u64)?;
    let needed = (start as u64).saturating_add(length);
    match usize::try_from(needed) {
        Ok(end) if end <= bytes.len() => Ok(start..end),
        _ => Err(needed),
    }
}

#[cfg(test)]
mod tests;
