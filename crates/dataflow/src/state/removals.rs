//! What was removed from a state, in the order of its removal, encoded as in a segment.

use super::varint;

/// The removals of one state in one interval between snapshots.
#[derive(Clone, Debug, Default)]
pub(super) struct Removals {
    /// Keys for which everything was removed.
    pub(super) keys: Encoded,
    /// Keys and fields of map entries that were removed.
    pub(super) fields: Encoded,
}

/// Byte strings, each after its length as a varint.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
}

impl Encoded {
    pub(super) fn push(&mut self, string: &[u8]) {
        let (prefix, len) = varint::encode(string.len() as u64);
        self.bytes.extend_from_slice(&prefix[..len]);
        self.bytes.extend_from_slice(string);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (len, behind) = varint::read(rest)?;
            let (string, behind) = behind.split_at_checked(len as usize)?;
            rest = behind;
            Some(string)
        })
    }
}

/// How much of the removals there was at some time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    keys: usize,
    fields: usize,
}

impl Removals {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.bytes.is_empty() && self.fields.bytes.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.keys.bytes.len() + self.fields.bytes.len()) as u64
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            keys: self.keys.bytes.len(),
            fields: self.fields.bytes.len(),
        }
    }

    /// Forgets what came after `mark`.
    pub(super) fn truncate(&mut self, mark: Mark) {
        self.keys.bytes.truncate(mark.keys);
        self.fields.bytes.truncate(mark.fields);
    }
}
