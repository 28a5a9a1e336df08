//! Keys and whole values, which go out as they came in.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use super::Input;
use crate::call::Call;
use crate::cells::Cells;
use crate::error::Result;
use crate::fields::{FieldRef, Fields, unquote};
use crate::row::{Row, RowWriter};

/// The key of a record. Emitted it stays the same key, byte for byte.
#[derive(Clone, Copy)]
pub struct Key<'a> {
    bytes: KeyBytes<'a>,
    form: Form,
}

/// Where the bytes of a key are.
#[derive(Clone, Copy)]
enum KeyBytes<'a> {
    /// There are none.
    None,
    /// In the batch, in the cell with this number: often they are not needed, because the host has them too.
    Numbered(&'a Cells, u32),
    /// Elsewhere.
    Given(&'a [u8]),
}

/// How the bytes of a key or value are to be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    /// A row.
    Row,
    /// One text.
    Text,
    /// One text that needs no quotes to be a row.
    PlainText,
}

impl Form {
    #[inline(always)]
    pub(super) fn of(rows: bool, plain: impl FnOnce() -> bool) -> Self {
        if rows {
            Self::Row
        } else if plain() {
            Self::PlainText
        } else {
            Self::Text
        }
    }

    /// Whether bytes are the same on an output of rows, or of texts if not `rows`.
    #[inline(always)]
    fn is_written_as_it_is(self, rows: bool) -> bool {
        // Not a `match` of three: guests' compilers make that a jump to an address from a table.
        self == Self::PlainText || (self == Self::Row) == rows
    }
}

impl<'a> Key<'a> {
    /// The key with this number, if there is one.
    #[inline(always)]
    pub(crate) fn numbered(keys: &'a Cells, number: u32, input: &Input, call: &Call) -> Self {
        Self {
            bytes: if (number as usize) < keys.count() {
                KeyBytes::Numbered(keys, number)
            } else {
                KeyBytes::None
            },
            form: Form::of(input.rows, || call.plain_keys(keys)),
        }
    }

    pub(crate) fn new(bytes: &'a [u8], row: bool) -> Self {
        Self {
            bytes: KeyBytes::Given(bytes),
            form: if row { Form::Row } else { Form::Text },
        }
    }

    /// Whether the record has no key.
    #[must_use]
    #[inline]
    pub fn is_none(self) -> bool {
        matches!(self.bytes, KeyBytes::None)
    }

    /// The key as it came: a row on an input of rows.
    #[must_use]
    #[inline]
    pub fn bytes(self) -> &'a [u8] {
        match self.bytes {
            KeyBytes::None => &[],
            KeyBytes::Numbered(keys, number) => keys.cell(number as usize),
            KeyBytes::Given(bytes) => bytes,
        }
    }

    /// The key as one text; see [`Record::text`](crate::Record::text).
    pub fn text(self) -> Result<Cow<'a, str>> {
        text(self.bytes(), self.form == Form::Row)
    }

    /// The fields of the key, read as a row.
    #[must_use]
    pub fn fields(self) -> Fields<'a> {
        Fields::new(self.bytes())
    }

    /// The field of the key with this number (the first is 0), if there is one.
    #[must_use]
    pub fn field(self, index: usize) -> Option<FieldRef<'a>> {
        self.fields().nth(index)
    }
}

impl Row for Key<'_> {
    #[inline(always)]
    fn write(&self, row: &mut RowWriter<'_>) {
        pass_on(self.bytes(), self.form, row);
    }

    #[inline(always)]
    fn is_absent(&self) -> bool {
        self.is_none()
    }

    #[inline(always)]
    fn key_number(&self, rows: bool) -> Option<u32> {
        match self.bytes {
            KeyBytes::Numbered(_, number) if self.form.is_written_as_it_is(rows) => Some(number),
            _ => None,
        }
    }
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = (!self.is_none()).then(|| String::from_utf8_lossy(self.bytes()));
        bytes.fmt(f)
    }
}

/// The key that a call is about at the moment, in a form that does not borrow from the call; see
/// [`Emitter::key`](crate::Emitter::key). Emitted it is the same key, byte for byte.
#[derive(Clone)]
pub struct CurrentKey {
    call: Rc<Call>,
    cell: u32,
}

impl CurrentKey {
    #[inline]
    pub(crate) fn of(call: &Rc<Call>) -> Self {
        Self {
            call: Rc::clone(call),
            cell: call.current_cell(),
        }
    }

    #[inline(always)]
    fn form(&self) -> Form {
        let keys = self.call.keys();
        Form::of(self.call.key_rows(), || self.call.plain_keys(&keys))
    }

    /// Whether there is no key.
    #[must_use]
    #[inline]
    pub fn is_none(&self) -> bool {
        self.cell as usize >= self.call.keys().count()
    }

    /// The key as one text; see [`Record::text`](crate::Record::text).
    pub fn text(&self) -> Result<String> {
        if self.is_none() {
            return Ok(String::new());
        }
        let keys = self.call.keys();
        text(keys.cell(self.cell as usize), self.call.key_rows()).map(Cow::into_owned)
    }
}

impl Row for CurrentKey {
    #[inline(always)]
    fn write(&self, row: &mut RowWriter<'_>) {
        if !self.is_none() {
            let form = self.form();
            pass_on(self.call.keys().cell(self.cell as usize), form, row);
        }
    }

    #[inline(always)]
    fn is_absent(&self) -> bool {
        self.is_none()
    }

    #[inline(always)]
    fn key_number(&self, rows: bool) -> Option<u32> {
        self.form().is_written_as_it_is(rows).then_some(self.cell)
    }
}

impl fmt::Debug for CurrentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.call.keys();
        let bytes =
            (!self.is_none()).then(|| String::from_utf8_lossy(keys.cell(self.cell as usize)));
        bytes.fmt(f)
    }
}

/// A whole value, to be passed on; see [`Record::whole`](crate::Record::whole).
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) form: Form,
}

impl Row for Whole<'_> {
    #[inline(always)]
    fn write(&self, row: &mut RowWriter<'_>) {
        pass_on(self.bytes, self.form, row);
    }
}

/// Writes bytes that came as a row, or as one text, to an output of the same or the other kind.
#[inline(always)]
fn pass_on(bytes: &[u8], form: Form, to: &mut RowWriter<'_>) {
    if form.is_written_as_it_is(to.quotes()) {
        to.encoded(bytes);
    } else {
        rewrite(bytes, to);
    }
}

/// Writes a row to an output of texts, or a text to one of rows.
#[inline(never)]
fn rewrite(bytes: &[u8], to: &mut RowWriter<'_>) {
    if to.quotes() {
        to.field(bytes);
    } else {
        to.field(&lone_field(bytes));
    }
}

/// A row of one quoted field without its quotes; any other row as it is.
pub(super) fn lone_field(row: &[u8]) -> Cow<'_, [u8]> {
    if row.first() == Some(&b'"') && Fields::new(row).nth(1).is_none() {
        Cow::Owned(unquote(row))
    } else {
        Cow::Borrowed(row)
    }
}

pub(super) fn text(bytes: &[u8], is_row: bool) -> Result<Cow<'_, str>> {
    match if is_row {
        lone_field(bytes)
    } else {
        Cow::Borrowed(bytes)
    } {
        Cow::Borrowed(bytes) => Ok(Cow::Borrowed(std::str::from_utf8(bytes)?)),
        Cow::Owned(bytes) => Ok(Cow::Owned(String::from_utf8(bytes)?)),
    }
}
