//! One entry of a lease's log: a line of JSON, and a line with its checksum.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::fences::Fence;
use super::run::Run;

/// The format that is written. Later ones are refused: nobody knows what they mean. Format 1 had no
/// `highest` and no `run`.
const FORMAT: u32 = 2;

/// The longest entry that is read: nobody writes a longer one.
pub(super) const BYTES_MAX: u64 = 64 << 10;

/// The most characters of a job directory's token.
const TOKEN_LENGTH_MAX: usize = 32;

/// Who takes a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holder {
    /// The machine's name, for people.
    pub host: String,
    /// What is the same for two processes exactly if a lock of one is seen by the other: an id of the
    /// running kernel, for example.
    pub machine: String,
    /// The number of the process.
    pub process: u32,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct LeaseEntry {
    pub(super) format: u32,
    /// As in its name.
    pub(super) sequence: u64,
    /// Fencing number: grows with every change of the holder.
    pub(super) generation: u64,
    pub(super) holder: Holder,
    /// Distinguishes this lease from all others, also those of the same process.
    pub(super) token: String,
    /// By the holder's clock, in milliseconds since the epoch.
    pub(super) renewed_at: i64,
    /// After so long without a renewal the lease is stale.
    pub(super) timeout_ms: u64,
    /// The holder has given it up.
    pub(super) released: bool,
    /// Distinguishes the job directory from all others. Missing if a version before this field began the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) directory: Option<String>,
    /// Which checkpoints of the directory are to be believed.
    pub(super) fences: Vec<Fence>,
    /// The highest checkpoint number that was used when this was put.
    #[serde(default)]
    pub(super) highest: u64,
    /// The run that the directory belongs to; `None` if none has begun.
    #[serde(default)]
    pub(super) run: Option<Run>,
}

/// Why an entry cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is not what was written.
    Damaged,
    /// A later version wrote it.
    Later(u32),
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl LeaseEntry {
    pub(super) const FORMAT: u32 = FORMAT;

    pub(super) fn encode(&self) -> Bytes {
        let mut text = serde_json::to_string(self).expect("an entry is plain fields");
        text.push('\n');
        let checksum = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("{checksum:08x}\n"));
        text.into()
    }

    /// Reads the entry that has this number in its name.
    pub(super) fn decode(bytes: &[u8], sequence: u64) -> Result<Self, Unreadable> {
        let body = body(bytes).ok_or(Unreadable::Damaged)?;
        let Format { format } = serde_json::from_slice(body).map_err(|_| Unreadable::Damaged)?;
        if format > FORMAT {
            return Err(Unreadable::Later(format));
        }
        let entry: Self = serde_json::from_slice(body).map_err(|_| Unreadable::Damaged)?;
        let is_token = |text: &String| {
            // Names in other places have it in them.
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            (1..=TOKEN_LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_plain)
        };
        match entry.sequence == sequence && entry.directory.as_ref().is_none_or(is_token) {
            true => Ok(entry),
            // Copied to another name, or made up.
            false => Err(Unreadable::Damaged),
        }
    }
}

/// The first line, if the second one is its checksum and nothing follows.
fn body(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let (body, rest) = bytes.split_at(end);
    let checksum = format!("{:08x}\n", crc32c::crc32c(body));
    (rest == checksum.as_bytes()).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> LeaseEntry {
        LeaseEntry {
            format: FORMAT,
            sequence: 7,
            generation: 3,
            holder: Holder {
                host: "line\nbreak".to_owned(),
                machine: "m".to_owned(),
                process: 42,
            },
            token: "0123456789abcdef".to_owned(),
            renewed_at: 1_700_000_000_000,
            timeout_ms: 10_000,
            released: false,
            directory: Some("fedcba9876543210".to_owned()),
            fences: vec![Fence {
                generation: 3,
                token: "0123456789abcdef".to_owned(),
                through: 12,
            }],
            highest: 15,
            run: Some(Run::fresh("r".to_owned(), 3)),
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        assert_eq!(LeaseEntry::decode(&entry().encode(), 7), Ok(entry()));
        assert_eq!(
            LeaseEntry::decode(&entry().encode(), 8),
            Err(Unreadable::Damaged)
        );
    }

    #[test]
    fn no_bit_of_an_entry_changes_unseen_and_no_part_of_it_is_one() {
        let whole = entry().encode();
        for at in 0..whole.len() {
            assert!(LeaseEntry::decode(&whole[..at], 7).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut flipped = whole.to_vec();
                flipped[at] ^= 1 << bit;
                assert_eq!(
                    LeaseEntry::decode(&flipped, 7),
                    Err(Unreadable::Damaged),
                    "byte {at} bit {bit}"
                );
            }
        }
        for directory in ["", "../x", "A", &"a".repeat(TOKEN_LENGTH_MAX + 1)] {
            let entry = LeaseEntry {
                directory: Some(directory.to_owned()),
                ..entry()
            };
            let read = LeaseEntry::decode(&entry.encode(), 7);
            assert_eq!(read, Err(Unreadable::Damaged), "{directory}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert!(LeaseEntry::decode(&longer, 7).is_err());
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let later = LeaseEntry {
            format: FORMAT + 1,
            ..entry()
        };
        assert_eq!(
            LeaseEntry::decode(&later.encode(), 7),
            Err(Unreadable::Later(FORMAT + 1))
        );
    }
}
