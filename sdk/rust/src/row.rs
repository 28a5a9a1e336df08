//! Writing keys and values: the row encoding.
//!
//! A row is one line of CSV (RFC 4180) without its line end. A field that holds a comma, a double
//! quote, a carriage return or a line feed is put in double quotes, inner quotes doubled; all other
//! fields are their own text. So a count is its digits and a word is itself. Reading rows is in
//! [`crate::fields`].

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::bytes::Bytes;

/// What can be emitted as a key or a value: a number or a text is a row of one field, a tuple is the
/// fields of its members one after the other.
///
/// ```
/// # use highwater::Row;
/// # fn row(of: impl Row) -> String { highwater::row::encode(&of) }
/// assert_eq!(row(42), "42");
/// assert_eq!(row(("UA", -3, 1.5, true)), "UA,-3,1.5,true");
/// assert_eq!(row(("so, so", None::<u8>)), "\"so, so\",");
/// ```
pub trait Row {
    /// Writes the fields, each with one call of `row`.
    fn write(&self, row: &mut RowWriter<'_>);

    /// Whether there is nothing to write: the key of a record that has none.
    #[doc(hidden)]
    #[inline]
    fn is_absent(&self) -> bool {
        false
    }

    /// The number of a key of the current batch whose bytes are what would be written; `rows` says
    /// whether to an output of rows.
    #[doc(hidden)]
    #[inline]
    fn key_number(&self, _rows: bool) -> Option<u32> {
        None
    }
}

/// Appends fields to a row, or to a text: on outputs of other formats than rows nothing is quoted.
#[derive(Debug)]
pub struct RowWriter<'a> {
    to: &'a mut Bytes,
    quote: bool,
    first: bool,
}

impl<'a> RowWriter<'a> {
    #[inline]
    pub(crate) fn new(to: &'a mut Bytes, quote: bool) -> Self {
        Self {
            to,
            quote,
            first: true,
        }
    }

    #[inline]
    fn separate(&mut self) {
        if self.first {
            self.first = false;
        } else {
            self.to.push(b',');
        }
    }

    /// Appends a field, quoted where it has to be.
    #[inline(always)]
    pub fn field(&mut self, field: &[u8]) {
        self.separate();
        if !self.to.append_unless(field, self.quote) {
            self.quoted(field);
        }
    }

    /// Appends a field whose bytes need no quotes: digits, names.
    #[inline(always)]
    pub fn plain(&mut self, field: &[u8]) {
        self.separate();
        self.to.append(field);
    }

    /// Appends bytes as they are: fields that are encoded already.
    #[inline(always)]
    pub(crate) fn encoded(&mut self, fields: &[u8]) {
        self.plain(fields);
    }

    /// Whether fields are quoted here.
    #[inline]
    pub(crate) fn quotes(&self) -> bool {
        self.quote
    }

    #[cold]
    fn quoted(&mut self, field: &[u8]) {
        self.to.push(b'"');
        for &byte in field {
            if byte == b'"' {
                self.to.push(b'"');
            }
            self.to.push(byte);
        }
        self.to.push(b'"');
    }
}

/// The row as text, for tests and messages.
#[must_use]
pub fn encode(row: &(impl Row + ?Sized)) -> String {
    let mut bytes = Bytes::default();
    row.write(&mut RowWriter::new(&mut bytes, true));
    String::from_utf8_lossy(bytes.written()).into_owned()
}

macro_rules! unsigned {
    ($($integer:ty)*) => {$(
        impl Row for $integer {
            #[inline(always)]
            fn write(&self, row: &mut RowWriter<'_>) {
                row.separate();
                row.to.append_decimal(*self as u64);
            }
        }
    )*};
}
unsigned!(u8 u16 u32 u64 usize);

macro_rules! signed {
    ($($integer:ty)*) => {$(
        impl Row for $integer {
            #[inline]
            fn write(&self, row: &mut RowWriter<'_>) {
                row.separate();
                if *self < 0 {
                    row.to.push(b'-');
                }
                row.to.append_decimal(self.unsigned_abs() as u64);
            }
        }
    )*};
}
signed!(i8 i16 i32 i64 isize);

macro_rules! large {
    ($($integer:ty)*) => {$(
        impl Row for $integer {
            fn write(&self, row: &mut RowWriter<'_>) {
                row.plain(itoa::Buffer::new().format(*self).as_bytes());
            }
        }
    )*};
}
large!(u128 i128);

macro_rules! floats {
    ($($float:ty)*) => {$(
        /// The shortest decimal that reads back as the same number.
        impl Row for $float {
            fn write(&self, row: &mut RowWriter<'_>) {
                row.separate();
                // Bytes take every write.
                let _ = write!(row.to, "{self}");
            }
        }
    )*};
}
floats!(f32 f64);

impl Row for bool {
    #[inline]
    fn write(&self, row: &mut RowWriter<'_>) {
        row.plain(if *self { b"true" } else { b"false" });
    }
}

impl Row for str {
    #[inline(always)]
    fn write(&self, row: &mut RowWriter<'_>) {
        row.field(self.as_bytes());
    }
}

impl Row for String {
    #[inline(always)]
    fn write(&self, row: &mut RowWriter<'_>) {
        row.field(self.as_bytes());
    }
}

impl Row for [u8] {
    #[inline(always)]
    fn write(&self, row: &mut RowWriter<'_>) {
        row.field(self);
    }
}

impl Row for Vec<u8> {
    #[inline(always)]
    fn write(&self, row: &mut RowWriter<'_>) {
        row.field(self);
    }
}

impl<const N: usize> Row for [u8; N] {
    #[inline(always)]
    fn write(&self, row: &mut RowWriter<'_>) {
        row.field(self);
    }
}

impl<B: Row + ToOwned + ?Sized> Row for Cow<'_, B> {
    #[inline]
    fn write(&self, row: &mut RowWriter<'_>) {
        self.as_ref().write(row);
    }
}

/// `None` is one empty field.
impl<R: Row> Row for Option<R> {
    #[inline]
    fn write(&self, row: &mut RowWriter<'_>) {
        match self {
            Some(value) => value.write(row),
            None => row.plain(b""),
        }
    }
}

impl<R: Row + ?Sized> Row for &R {
    #[inline(always)]
    fn write(&self, row: &mut RowWriter<'_>) {
        (**self).write(row);
    }

    #[inline]
    fn is_absent(&self) -> bool {
        (**self).is_absent()
    }

    #[inline]
    fn key_number(&self, rows: bool) -> Option<u32> {
        (**self).key_number(rows)
    }
}

macro_rules! tuples {
    ($(($($name:ident $index:tt)*))*) => {$(
        impl<$($name: Row),*> Row for ($($name,)*) {
            #[inline]
            fn write(&self, row: &mut RowWriter<'_>) {
                $(self.$index.write(row);)*
            }
        }
    )*};
}
tuples! {
    (A 0)
    (A 0 B 1)
    (A 0 B 1 C 2)
    (A 0 B 1 C 2 D 3)
    (A 0 B 1 C 2 D 3 E 4)
    (A 0 B 1 C 2 D 3 E 4 F 5)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;

    #[test]
    fn fields_survive_the_row() {
        for fields in [
            vec!["a"],
            vec![""],
            vec!["a", "b"],
            vec!["", ""],
            vec!["a,b", "c\"d\"", "line\nend", ""],
            vec!["\"", ",", "\r"],
            vec!["ends", ""],
        ] {
            let mut bytes = Bytes::default();
            let mut row = RowWriter::new(&mut bytes, true);
            fields.iter().for_each(|field| field.write(&mut row));
            let written = bytes.written();
            let read: Vec<_> = Fields::new(written)
                .map(|field| field.text().unwrap().into_owned())
                .collect();
            assert_eq!(read, fields, "{:?}", String::from_utf8_lossy(written));
        }
    }

    #[test]
    fn nothing_is_quoted_outside_of_rows() {
        let mut bytes = Bytes::default();
        "a,\"b\"".write(&mut RowWriter::new(&mut bytes, false));
        assert_eq!(bytes.written(), b"a,\"b\"");
    }

    #[test]
    fn tuples_flatten() {
        assert_eq!(
            encode(&(1u8, ("a", 2.5f32), Some(&"b,c"))),
            "1,a,2.5,\"b,c\""
        );
        assert_eq!(
            encode(&(i64::MIN, u64::MAX)),
            "-9223372036854775808,18446744073709551615"
        );
    }
}
