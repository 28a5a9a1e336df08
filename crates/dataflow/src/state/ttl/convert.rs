//! What becomes of stored values when they are restored.
//!
//! | written | declared | becomes |
//! |---|---|---|
//! | without TTL | with one | lives for the TTL from the restore on |
//! | with a TTL | without | stays, its expiry is forgotten |
//! | with a TTL | with another | keeps its expiry |
//! | by one clock | by the other | lives for the TTL from the restore on |
//!
//! What had expired when the checkpoint was taken is not restored in any case.

use super::super::codec::{BlockKind, Cursor, Entry, push_string};
use super::{KeyedState, Times, Ttl, TtlTime, push_dated, split};

/// A value that has no expiry where it must have one.
pub(in super::super) const TOO_SHORT: &str = "a value is too short to have an expiry";

/// How stored values of a state are to be altered.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Conversion {
    /// They have an expiry; the time by their clock when they were written.
    written: Option<i64>,
    becomes: Becomes,
}

#[derive(Clone, Copy, Debug)]
enum Becomes {
    /// They stay as they are.
    Same,
    /// They lose their expiry.
    Bare,
    /// They get this one.
    Dated(i64),
}

/// What became of an entry.
pub(in super::super) enum Converted<'e> {
    Entry(Entry<'e>),
    /// It has expired: whatever is there in its place is older.
    Expired,
}

impl KeyedState {
    /// How what was written with expiries by a clock, if it has some, is altered for a declared state.
    /// `taken` is when it was written.
    pub(in super::super) fn conversion(
        &self,
        table: usize,
        written: Option<TtlTime>,
        taken: Times,
    ) -> Option<Conversion> {
        let declared = self.tables[table].ttl;
        let becomes = match (written, declared) {
            (None, None) => return None,
            (Some(_), None) => Becomes::Bare,
            (Some(time), Some(ttl)) if ttl.time == time => Becomes::Same,
            (_, Some(ttl)) => Becomes::Dated(self.expiry_restored(ttl, taken)),
        };
        Some(Conversion {
            written: written.map(|time| taken.of(time)),
            becomes,
        })
    }

    /// When what is restored expires, if it lives from the restore on.
    fn expiry_restored(&self, ttl: Ttl, taken: Times) -> i64 {
        // The watermark goes on from where it was.
        match ttl.time {
            TtlTime::Processing => ttl.expiry(self.times.processing),
            TtlTime::Event => ttl.expiry(taken.of(TtlTime::Event)),
        }
    }
}

impl Conversion {
    /// Appends what becomes of a value. Returns whether it has not expired; `None` if it is too short.
    fn value(&self, stored: &[u8], to: &mut Vec<u8>) -> Option<bool> {
        let value = match self.written {
            None => stored,
            Some(taken) => {
                let (expiry, value) = split(stored)?;
                if expiry <= taken {
                    return Some(false);
                }
                value
            }
        };
        match self.becomes {
            Becomes::Same => to.extend_from_slice(stored),
            Becomes::Bare => to.extend_from_slice(value),
            Becomes::Dated(expiry) => push_dated(to, expiry, value),
        }
        Some(true)
    }

    /// What becomes of an entry, whose bytes may be put into `scratch`. `None` if one of its values is too
    /// short.
    pub(in super::super) fn entry<'e>(
        &self,
        kind: BlockKind,
        entry: Entry<'e>,
        scratch: &'e mut Vec<u8>,
    ) -> Option<Converted<'e>> {
        scratch.clear();
        match kind {
            BlockKind::Values | BlockKind::MapEntries => {
                if !self.value(entry.value, scratch)? {
                    return Some(Converted::Expired);
                }
                Some(Converted::Entry(Entry {
                    value: scratch,
                    ..entry
                }))
            }
            BlockKind::ListElements => {
                let (mut elements, mut count) = (entry.elements, 0);
                let mut one = Vec::new();
                for _ in 0..entry.count {
                    one.clear();
                    if self.value(elements.string()?, &mut one)? {
                        push_string(scratch, &one);
                        count += 1;
                    }
                }
                Some(Converted::Entry(Entry {
                    elements: Cursor(scratch),
                    count,
                    ..entry
                }))
            }
            _ => Some(Converted::Entry(entry)),
        }
    }
}

/// Whether each value of an entry is long enough to have an expiry.
pub(in super::super) fn has_expiries(kind: BlockKind, entry: &Entry<'_>) -> bool {
    match kind {
        BlockKind::Values | BlockKind::MapEntries => split(entry.value).is_some(),
        BlockKind::ListElements => {
            let mut elements = entry.elements;
            (0..entry.count).all(|_| elements.string().and_then(split).is_some())
        }
        _ => true,
    }
}
