//! Reading rows: the fields of a key or value, without copying them.
//!
//! A row is walked once, eight bytes at a time; a field without quotes is a slice of it. What is not
//! quite CSV is still read: bytes after a closing quote belong to the field, an open quote ends with the row.

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::row::{Row, RowWriter};

/// The fields of a row, from left to right. An empty row is one empty field.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    row: &'a [u8],
    /// Where the next field starts; after the row once all were given.
    start: usize,
    /// Where the eight bytes begin that `commas` is about.
    window: usize,
    /// The high bit of byte i is set if `row[window + i]` is a comma that was not passed yet.
    commas: u64,
}

impl<'a> Fields<'a> {
    /// The fields of `row`.
    #[must_use]
    #[inline]
    pub fn new(row: &'a [u8]) -> Self {
        Self {
            row,
            start: 0,
            window: 0,
            commas: commas(row, 0),
        }
    }

    /// The position of the next comma that was not passed yet, or the end of the row.
    #[inline]
    fn next_comma(&mut self) -> usize {
        while self.commas == 0 {
            self.window += 8;
            if self.window >= self.row.len() {
                return self.row.len();
            }
            self.commas = commas(self.row, self.window);
        }
        let at = self.window + (self.commas.trailing_zeros() / 8) as usize;
        self.commas &= self.commas - 1;
        at
    }

    /// The end of the quoted field that begins at `start`; the window moves after it.
    #[cold]
    fn end_of_quoted(&mut self) -> usize {
        let mut at = self.start + 1;
        while let Some(&byte) = self.row.get(at) {
            at += 1;
            if byte == b'"' {
                if self.row.get(at) != Some(&b'"') {
                    break;
                }
                at += 1;
            }
        }
        self.window = at;
        self.commas = commas(self.row, at);
        self.next_comma()
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = FieldRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<FieldRef<'a>> {
        if self.start > self.row.len() {
            return None;
        }
        let end = if self.row.get(self.start) == Some(&b'"') {
            self.end_of_quoted()
        } else {
            self.next_comma()
        };
        let raw = &self.row[self.start..end];
        self.start = end + 1;
        Some(FieldRef { raw })
    }
}

/// Which of the eight bytes from `at` on are commas (high bit of each; bytes after the end are none).
#[inline]
fn commas(row: &[u8], at: usize) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    const COMMAS: u64 = 0x2c2c_2c2c_2c2c_2c2c;
    let word = match row.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) => u64::from_le_bytes(bytes),
        None => row
            .get(at..)
            .unwrap_or_default()
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    let differs = word ^ COMMAS;
    !(((differs & LOW) + LOW) | differs | LOW)
}

/// One field, as it stands in its row. Emitted as it is, it costs a copy.
#[derive(Clone, Copy, Debug)]
pub struct FieldRef<'a> {
    raw: &'a [u8],
}

impl<'a> FieldRef<'a> {
    pub(crate) const EMPTY: FieldRef<'static> = FieldRef { raw: b"" };

    /// The field's bytes without its quotes.
    #[must_use]
    #[inline]
    pub fn bytes(self) -> Cow<'a, [u8]> {
        if self.raw.first() == Some(&b'"') {
            Cow::Owned(unquote(self.raw))
        } else {
            Cow::Borrowed(self.raw)
        }
    }

    /// The field as text. Fails if it is not UTF-8.
    pub fn text(self) -> Result<Cow<'a, str>> {
        match self.bytes() {
            Cow::Borrowed(bytes) => Ok(Cow::Borrowed(std::str::from_utf8(bytes)?)),
            Cow::Owned(bytes) => Ok(Cow::Owned(String::from_utf8(bytes)?)),
        }
    }

    /// The field read as a `T`. Fails if it is none.
    #[inline]
    pub fn parse<T: FromField>(self) -> Result<T> {
        match T::from_field(&self.bytes()) {
            Some(value) => Ok(value),
            None => Err(self.unreadable::<T>()),
        }
    }

    #[cold]
    fn unreadable<T: FromField>(self) -> Error {
        Error::new(format_args!(
            "`{}` is not {}",
            String::from_utf8_lossy(&self.bytes()),
            T::WHAT
        ))
    }

    /// Whether the field has no text.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.bytes().is_empty()
    }
}

impl PartialEq<str> for FieldRef<'_> {
    #[inline]
    fn eq(&self, other: &str) -> bool {
        *self.bytes() == *other.as_bytes()
    }
}

impl PartialEq<&str> for FieldRef<'_> {
    #[inline]
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl Row for FieldRef<'_> {
    #[inline]
    fn write(&self, row: &mut RowWriter<'_>) {
        if row.quotes() && self.raw.first() != Some(&b'"') {
            row.encoded(self.raw)
        } else {
            row.field(&self.bytes())
        }
    }
}

/// Removes the quotes of a field that begins with one.
#[cold]
pub(crate) fn unquote(raw: &[u8]) -> Vec<u8> {
    let mut field = Vec::with_capacity(raw.len());
    let mut rest = raw.get(1..).unwrap_or_default();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'"' {
            field.push(byte);
        } else if rest.first() == Some(&b'"') {
            field.push(b'"');
            rest = &rest[1..];
        } else {
            break;
        }
    }
    field.extend_from_slice(rest);
    field
}

/// What a field can be read as.
pub trait FromField: Sized {
    /// What was expected, for messages: "a whole number".
    const WHAT: &'static str;

    /// The value, or `None` if the bytes are no such value.
    fn from_field(field: &[u8]) -> Option<Self>;
}

macro_rules! integers {
    ($($kind:ty)*) => {$(
        impl FromField for $kind {
            const WHAT: &'static str = "a whole number in range";

            #[inline]
            fn from_field(field: &[u8]) -> Option<Self> {
                let (digits, negative) = match field {
                    [b'-', digits @ ..] if <$kind>::MIN != 0 => (digits, true),
                    digits => (digits, false),
                };
                match short_decimal(digits) {
                    Some(number) => {
                        let number = i64::from(number);
                        <$kind>::try_from(if negative { -number } else { number }).ok()
                    }
                    // Long, or with a plus, or no number.
                    None => parse(field),
                }
            }
        }
    )*};
}
integers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);

/// The number that one to nine digits make; `None` for everything else.
#[inline]
fn short_decimal(digits: &[u8]) -> Option<u32> {
    if !(1..=9).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |number: u32, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit <= 9).then(|| number * 10 + u32::from(digit))
    })
}

#[inline(never)]
fn parse<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

macro_rules! parsed {
    ($what:literal: $($kind:ty)*) => {$(
        impl FromField for $kind {
            const WHAT: &'static str = $what;

            #[inline]
            fn from_field(field: &[u8]) -> Option<Self> {
                parse(field)
            }
        }
    )*};
}
parsed!("a number": f32 f64);
parsed!("`true` or `false`": bool);

impl FromField for String {
    const WHAT: &'static str = "text in UTF-8";

    fn from_field(field: &[u8]) -> Option<Self> {
        String::from_utf8(field.to_vec()).ok()
    }
}

impl FromField for Vec<u8> {
    const WHAT: &'static str = "bytes";

    fn from_field(field: &[u8]) -> Option<Self> {
        Some(field.to_vec())
    }
}

/// An empty field is `None`.
impl<T: FromField> FromField for Option<T> {
    const WHAT: &'static str = T::WHAT;

    #[inline]
    fn from_field(field: &[u8]) -> Option<Self> {
        if field.is_empty() {
            Some(None)
        } else {
            T::from_field(field).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(row: &str, expect: &[&str]) {
        let read: Vec<_> = Fields::new(row.as_bytes())
            .map(|field| field.text().unwrap().into_owned())
            .collect();
        assert_eq!(read, expect, "{row:?}");
    }

    #[test]
    fn rows_are_read_as_the_host_reads_them() {
        check("", &[""]);
        check(",", &["", ""]);
        check("one", &["one"]);
        check(
            "2013,1,1,517,515,2,830,UA,,",
            &["2013", "1", "1", "517", "515", "2", "830", "UA", "", ""],
        );
        check("12345678,abcdefgh,x", &["12345678", "abcdefgh", "x"]);
        check("\"a,b\",c", &["a,b", "c"]);
        check("c,\"say \"\"so\"\"\"", &["c", "say \"so\""]);
        check("\"closed\"late,x", &["closedlate", "x"]);
        check("\"open, to the end", &["open, to the end"]);
        check("in\"ner,x", &["in\"ner", "x"]);
        check("\"\",\"\"\"\"", &["", "\""]);
    }

    #[test]
    fn commas_are_found_wherever_they_stand() {
        for length in 0..40 {
            for comma in 0..=length {
                let row = format!(
                    "{}{}{}",
                    "a".repeat(comma),
                    ",",
                    "\u{ac}".repeat(length - comma)
                );
                check(
                    &row,
                    &[&"a".repeat(comma), &"\u{ac}".repeat(length - comma)],
                );
            }
        }
    }

    #[test]
    fn whole_numbers_are_those_of_the_library() {
        fn same<T: FromField + std::str::FromStr + PartialEq + std::fmt::Debug>(text: &str) {
            assert_eq!(
                T::from_field(text.as_bytes()),
                text.parse().ok(),
                "{text:?}"
            );
        }
        let mut texts: Vec<String> = [
            "", "-", "+", "+7", "-0", "00", "--1", "1-", " 1", "1_0", "é", "0x1",
        ]
        .map(String::from)
        .to_vec();
        for digits in 1..42 {
            for digit in ["0", "1", "2", "9"] {
                texts.push(digit.repeat(digits));
                texts.push(format!("-{}", digit.repeat(digits)));
            }
        }
        for power in [7, 8, 15, 16, 31, 32, 63, 64] {
            let limit = 1_i128 << power;
            for number in [limit - 1, limit, limit + 1, -limit, -limit - 1] {
                texts.push(number.to_string());
            }
        }
        for text in texts {
            same::<u8>(&text);
            same::<u32>(&text);
            same::<u64>(&text);
            same::<u128>(&text);
            same::<i8>(&text);
            same::<i32>(&text);
            same::<i64>(&text);
            same::<i128>(&text);
        }
    }

    #[test]
    fn fields_are_read_as_values() {
        let field = |text: &'static str| FieldRef {
            raw: text.as_bytes(),
        };
        assert_eq!(field("-12").parse::<i64>().unwrap(), -12);
        assert_eq!(field("").parse::<Option<i64>>().unwrap(), None);
        assert_eq!(field("\"1.5\"").parse::<f64>().unwrap(), 1.5);
        assert_eq!(
            field("NA").parse::<u8>().unwrap_err().message(),
            "`NA` is not a whole number in range"
        );
        assert!(field("\"NA\"") == "NA");
    }
}
