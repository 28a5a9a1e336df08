//! Values that were written under an older version of their schema, rewritten while they are restored.
//!
//! Only what is stored for keys and fields and as elements is rewritten: keys, fields, the order of elements and
//! the times at which entries expire stay.

use std::error::Error;
use std::ops::Range;

use super::RestoreError;
use super::codec::{BlockKind, Cursor, Entry, push_string};
use super::ttl::{Conversion, Converted, PREFIX};
use crate::cells::Cells;

/// How many values, and about how many bytes of them, are rewritten by one call.
const VALUES_MAX: usize = 1024;
const BYTES_MAX: usize = 1 << 20;

/// What is done with stored states beside what their declarations say.
pub trait Upgrade {
    /// Whether the entries of a state are dropped although it is declared.
    fn drops(&self, state: &str) -> bool {
        let _ = state;
        false
    }

    /// The older version of its schema under which the values of a state were written, if they are to be
    /// rewritten.
    fn older(&self, state: &str) -> Option<u32>;

    /// Rewrites values of a declared state, by its number, that were written under this older version.
    ///
    /// # Errors
    /// Why that cannot be done.
    fn migrate(
        &mut self,
        state: u32,
        from: u32,
        values: &Cells,
    ) -> Result<Cells, Box<dyn Error + Send + Sync>>;
}

/// A state whose values are of an older version.
pub(super) struct Older<'a> {
    pub(super) name: &'a str,
    /// Its number among those that are declared.
    pub(super) table: u32,
    /// The version.
    pub(super) from: u32,
    /// Whether each value comes after its expiry, once it is converted.
    pub(super) is_dated: bool,
}

/// The values of some entries, without their expiries.
pub(super) struct Migrated {
    values: Cells,
    /// The expiry of each as it is stored; none at all if they have none.
    expiries: Vec<[u8; PREFIX]>,
    /// Which of them each entry has; `None`: it has expired.
    of: Vec<Option<Range<usize>>>,
}

impl Older<'_> {
    /// The values of entries, after their expiries were converted. `None` if one is too short to have an expiry.
    pub(super) fn values(
        &self,
        kind: BlockKind,
        entries: &[Entry<'_>],
        conversion: Option<Conversion>,
    ) -> Option<Migrated> {
        let mut all = Migrated {
            values: Cells::new(),
            expiries: Vec::new(),
            of: Vec::with_capacity(entries.len()),
        };
        let mut scratch = Vec::new();
        for entry in entries {
            let entry = match conversion {
                None => *entry,
                Some(conversion) => match conversion.entry(kind, *entry, &mut scratch)? {
                    Converted::Entry(entry) => entry,
                    Converted::Expired => {
                        all.of.push(None);
                        continue;
                    }
                },
            };
            let first = all.values.len();
            if kind == BlockKind::ListElements {
                let mut elements = entry.elements;
                for _ in 0..entry.count {
                    all.push(elements.string()?, self.is_dated)?;
                }
            } else {
                all.push(entry.value, self.is_dated)?;
            }
            all.of.push(Some(first..all.values.len()));
        }
        Some(all)
    }

    /// The same, rewritten.
    pub(super) fn migrate(
        &self,
        old: Migrated,
        upgrade: &mut dyn Upgrade,
    ) -> Result<Migrated, RestoreError> {
        let mut values = Cells::with_capacity(old.values.len(), old.values.byte_len());
        let mut some = Cells::new();
        for (number, value) in (1..).zip(old.values.iter()) {
            some.push(value);
            let is_last = number == old.values.len();
            if is_last || some.len() >= VALUES_MAX || some.byte_len() >= BYTES_MAX {
                let new = self.call(&some, upgrade)?;
                values.extend(new.as_ref());
                some.clear();
            }
        }
        Ok(Migrated { values, ..old })
    }

    fn call(&self, values: &Cells, upgrade: &mut dyn Upgrade) -> Result<Cells, RestoreError> {
        let failed = |source| RestoreError::Migrate {
            name: self.name.to_owned(),
            from: self.from,
            source,
        };
        let new = upgrade
            .migrate(self.table, self.from, values)
            .map_err(failed)?;
        match new.len() == values.len() {
            true => Ok(new),
            false => Err(failed(
                format!("{} became {}", values.len(), new.len()).into(),
            )),
        }
    }
}

impl Migrated {
    fn push(&mut self, stored: &[u8], is_dated: bool) -> Option<()> {
        let value = match is_dated {
            false => stored,
            true => {
                let (expiry, value) = stored.split_first_chunk::<PREFIX>()?;
                self.expiries.push(*expiry);
                value
            }
        };
        self.values.push(value);
        Some(())
    }

    /// The entry at a position of those that it was made of, as it is stored. Its bytes are put into `scratch`.
    pub(super) fn entry<'e>(
        &self,
        position: usize,
        kind: BlockKind,
        entry: Entry<'e>,
        scratch: &'e mut Vec<u8>,
    ) -> Converted<'e> {
        scratch.clear();
        let Some(range) = self.of.get(position).cloned().flatten() else {
            return Converted::Expired;
        };
        let expiry = |at: usize| self.expiries.get(at).map_or(&[][..], |expiry| &expiry[..]);
        if kind != BlockKind::ListElements {
            scratch.extend_from_slice(expiry(range.start));
            scratch.extend_from_slice(self.values.get(range.start));
            return Converted::Entry(Entry {
                value: scratch,
                ..entry
            });
        }
        let count = range.len() as u64;
        let mut element = Vec::new();
        for at in range {
            element.clear();
            element.extend_from_slice(expiry(at));
            element.extend_from_slice(self.values.get(at));
            push_string(scratch, &element);
        }
        Converted::Entry(Entry {
            elements: Cursor(scratch),
            count,
            ..entry
        })
    }
}
