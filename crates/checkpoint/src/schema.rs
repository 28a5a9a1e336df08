//! Values of keyed state as what they are, by the names that SDKs give to their encodings.
//!
//! To the host a schema is a name and a value is bytes. But the names that `docs/checkpoint-format.md` lists
//! say enough to show a number as a number. What is not of that form, or does not fit its schema, is `None`
//! here and shown as bytes: nothing depends on it but what a person reads.
//!
//! Schemas and values come from metadata and segments, so both may hold anything. The depth of a schema and
//! the number of its parts are bounded: an array of `unit` has any number of elements in no bytes at all.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// How deep the types of a schema may be in each other.
const DEPTH_MAX: u32 = 32;

/// How many parts a value of a schema may have, all arrays taken apart.
const PARTS_MAX: u64 = 1 << 16;

/// How many parts an element of a list may have for each byte it takes at least: so that what is shown is not many
/// times as long as the value.
const LIST_PARTS_MAX: u64 = 16;

/// What begins bytes that are shown as hex digits.
const HEX: &str = "0x";

/// A value for people and programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown<'a> {
    /// Text: in JSON a string.
    Text(Cow<'a, str>),
    /// JSON that is no string.
    Json(String),
}

/// A schema that is understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// Of a map: what its fields are.
    field: Option<Type>,
    /// What its values or elements are.
    value: Type,
}

#[derive(Clone, Debug, PartialEq)]
enum Type {
    /// A whole number; how many bytes it has.
    Whole {
        size: usize,
        is_signed: bool,
    },
    /// A whole number of 64 bits in as few bytes as it needs; whether it is folded around 0.
    Varint {
        is_signed: bool,
    },
    F32,
    F64,
    Bool,
    Unit,
    /// `string`, `bytes` and `json`.
    Bytes,
    Optional(Box<Type>),
    Array(Box<Type>, u32),
    /// As many as there are until the end of the value.
    List(Box<Type>),
    Tuple(Vec<Type>),
    /// A tuple whose parts have names.
    Named(Vec<(String, Type)>),
    Struct(Vec<(String, Type)>),
}

impl Schema {
    /// The schema of a value or list state.
    #[must_use]
    pub fn of_values(text: &str) -> Option<Self> {
        let value = Parser::whole(text)?;
        Some(Self { field: None, value })
    }

    /// The schema of a map state: of its fields, `=`, and of its values.
    #[must_use]
    pub fn of_map(text: &str) -> Option<Self> {
        let (field, value) = text.split_once('=')?;
        let field = Parser::whole(field)?;
        Some(Self {
            field: field.is_ordered().then_some(field),
            value: Parser::whole(value)?,
        })
    }

    /// A value or element. `None` if it does not fit.
    #[must_use]
    pub fn value<'a>(&self, bytes: &'a [u8]) -> Option<Shown<'a>> {
        if self.value == Type::Bytes {
            return Some(Shown::Text(readable(bytes)));
        }
        let (mut rest, mut json) = (bytes, String::new());
        self.value.decode(&mut rest, &mut json)?;
        rest.is_empty().then_some(Shown::Json(json))
    }

    /// The field of a map entry. `None` if it does not fit.
    #[must_use]
    pub fn field<'a>(&self, bytes: &'a [u8]) -> Option<Shown<'a>> {
        let field = self.field.as_ref()?;
        if *field == Type::Bytes {
            return Some(Shown::Text(readable(bytes)));
        }
        let (mut rest, mut json) = (bytes, String::new());
        field.decode_ordered(&mut rest, &mut json)?;
        rest.is_empty().then_some(Shown::Json(json))
    }
}

/// Bytes as text: those that are readable as they are, all others, and text that begins like those, as `0x`
/// and hex digits. So what is shown is unambiguous and can be read back.
#[must_use]
pub fn readable(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(HEX) && !text.chars().any(char::is_control) => text.into(),
        _ => hex(bytes).into(),
    }
}

/// Bytes as `0x` and hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(HEX.len() + 2 * bytes.len());
    text.push_str(HEX);
    for byte in bytes {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Type {
    /// Whether the order of its bytes is that of its values, so that it can be a field.
    fn is_ordered(&self) -> bool {
        match self {
            Self::Whole { .. } | Self::Bool | Self::Bytes => true,
            Self::Tuple(parts) => parts.iter().all(Self::is_ordered),
            _ => false,
        }
    }

    /// How many parts a value has at most, each counted with those in it.
    fn parts(&self) -> u64 {
        let inner = match self {
            Self::Optional(inner) => inner.parts(),
            Self::Array(inner, count) => inner.parts().saturating_mul(u64::from(*count)),
            Self::Tuple(parts) => sum(parts.iter()),
            Self::Struct(fields) | Self::Named(fields) => sum(fields.iter().map(|(_, part)| part)),
            _ => 0,
        };
        inner.saturating_add(1)
    }

    /// How many bytes it takes at least as a part.
    fn size_min(&self) -> u64 {
        let all = |types: &mut dyn Iterator<Item = &Self>| {
            types.map(Self::size_min).fold(0, u64::saturating_add)
        };
        match self {
            Self::Whole { size, .. } => *size as u64,
            Self::F32 | Self::Bytes | Self::List(_) => 4,
            Self::F64 => 8,
            Self::Bool | Self::Optional(_) | Self::Varint { .. } => 1,
            Self::Unit => 0,
            Self::Array(inner, count) => inner.size_min().saturating_mul(u64::from(*count)),
            Self::Tuple(parts) => all(&mut parts.iter()),
            Self::Named(fields) => all(&mut fields.iter().map(|(_, part)| part)),
            Self::Struct(fields) => all(&mut fields.iter().map(|(_, part)| part)).saturating_add(4),
        }
    }

    /// Whether there can be a list of these.
    fn is_listed(&self) -> bool {
        self.parts() <= self.size_min().saturating_mul(LIST_PARTS_MAX)
    }

    /// Takes a part off `bytes`, or all of them, and writes it as JSON. `None` if it does not fit.
    fn decode(&self, bytes: &mut &[u8], json: &mut String) -> Option<()> {
        match self {
            Self::Whole { size, is_signed } => {
                let bytes = bytes.split_off(..*size)?;
                let mut number = [0; 16];
                number[..*size].copy_from_slice(bytes);
                push_whole(u128::from_le_bytes(number), *size, *is_signed, json);
            }
            Self::Varint { is_signed } => {
                let number = varint(bytes)?;
                let _ = match is_signed {
                    true => write!(json, "{}", (number >> 1) as i64 ^ -((number & 1) as i64)),
                    false => write!(json, "{number}"),
                };
            }
            Self::F32 => {
                let number: [u8; 4] = bytes.split_off(..4)?.try_into().ok()?;
                push_float(f32::from_le_bytes(number).into(), json);
            }
            Self::F64 => {
                let number: [u8; 8] = bytes.split_off(..8)?.try_into().ok()?;
                push_float(f64::from_le_bytes(number), json);
            }
            Self::Bool => json.push_str(if flag(bytes)? { "true" } else { "false" }),
            Self::Unit => json.push_str("null"),
            Self::Bytes => push_text(prefixed(bytes)?, json),
            Self::Optional(inner) => match flag(bytes)? {
                true => inner.decode_part(bytes, json)?,
                false => json.push_str("null"),
            },
            Self::Array(inner, count) => {
                let parts = (0..*count).map(|_| inner.as_ref());
                list(parts, json, |part, json| part.decode_part(bytes, json))?;
            }
            Self::List(inner) => {
                let mut separator = '[';
                while !bytes.is_empty() {
                    json.push(separator);
                    separator = ',';
                    // It takes a byte at least, or there would be no list of it.
                    inner.decode_part(bytes, json)?;
                }
                json.push_str(if separator == '[' { "[]" } else { "]" });
            }
            Self::Tuple(parts) => {
                list(parts.iter(), json, |part, json| {
                    part.decode_part(bytes, json)
                })?;
            }
            Self::Struct(fields) | Self::Named(fields) => {
                json.push('{');
                for (index, (name, part)) in fields.iter().enumerate() {
                    if index > 0 {
                        json.push(',');
                    }
                    push_string(name, json);
                    json.push(':');
                    part.decode_part(bytes, json)?;
                }
                json.push('}');
            }
        }
        Some(())
    }

    /// As [`Type::decode`], of something that is part of another: a struct and a list have their length before them then.
    fn decode_part(&self, bytes: &mut &[u8], json: &mut String) -> Option<()> {
        if !matches!(self, Self::Struct(_) | Self::List(_)) {
            return self.decode(bytes, json);
        }
        let mut own = prefixed(bytes)?;
        self.decode(&mut own, json)?;
        own.is_empty().then_some(())
    }

    /// The same for a field, which is encoded so that the order of the bytes is that of the values.
    fn decode_ordered(&self, bytes: &mut &[u8], json: &mut String) -> Option<()> {
        match self {
            Self::Whole { size, is_signed } => {
                let bytes = bytes.split_off(..*size)?;
                let mut number = [0; 16];
                number[16 - size..].copy_from_slice(bytes);
                let mut number = u128::from_be_bytes(number);
                if *is_signed {
                    number ^= 1 << (8 * size - 1);
                }
                push_whole(number, *size, *is_signed, json);
            }
            Self::Bool => json.push_str(if flag(bytes)? { "true" } else { "false" }),
            Self::Bytes => push_text(&ended(bytes)?, json),
            Self::Tuple(parts) => {
                list(parts.iter(), json, |part, json| {
                    part.decode_ordered(bytes, json)
                })?;
            }
            _ => return None,
        }
        Some(())
    }
}

fn sum<'a>(types: impl Iterator<Item = &'a Type>) -> u64 {
    types.map(Type::parts).fold(0, u64::saturating_add)
}

fn list<'t>(
    parts: impl Iterator<Item = &'t Type>,
    json: &mut String,
    mut push: impl FnMut(&Type, &mut String) -> Option<()>,
) -> Option<()> {
    json.push('[');
    for (index, part) in parts.enumerate() {
        if index > 0 {
            json.push(',');
        }
        push(part, json)?;
    }
    json.push(']');
    Some(())
}

fn flag(bytes: &mut &[u8]) -> Option<bool> {
    match bytes.split_off_first()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Seven bits in each byte, the lowest first, and the highest bit of each but the last.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Bytes that have their length before them.
fn prefixed<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length: [u8; 4] = bytes.split_off(..4)?.try_into().ok()?;
    bytes.split_off(..u32::from_le_bytes(length) as usize)
}

/// Bytes that end with two bytes 0, in which each byte 0 is followed by FF.
fn ended(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        match bytes.split_off_first()? {
            0 => match bytes.split_off_first()? {
                0 => return Some(text),
                0xff => text.push(0),
                _ => return None,
            },
            byte => text.push(*byte),
        }
    }
}

fn push_whole(number: u128, size: usize, is_signed: bool, json: &mut String) {
    // The sign bit to the top and back: a shift of signed numbers copies it.
    let unused = 8 * (16 - size);
    let _ = match is_signed {
        true => write!(json, "{}", ((number << unused) as i128) >> unused),
        false => write!(json, "{number}"),
    };
}

/// The shortest decimal that reads back as the same number, and of several the nearest, of two as near the
/// even one: the standard library takes another one of those. What is no number is none in JSON either.
fn push_float(number: f64, json: &mut String) {
    match serde_json::Number::from_f64(number) {
        Some(number) => json.push_str(&number.to_string().replace("e+", "e")),
        None => {
            let _ = write!(json, "\"{number}\"");
        }
    }
}

fn push_text(bytes: &[u8], json: &mut String) {
    push_string(&readable(bytes), json);
}

fn push_string(text: &str, json: &mut String) {
    // A string has no reason to fail.
    json.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// Reads a schema: what is left of its text.
struct Parser<'a>(&'a str);

impl Parser<'_> {
    fn whole(text: &str) -> Option<Type> {
        let mut parser = Parser(text);
        let parsed = parser.value(0)?;
        (parser.0.is_empty() && parsed.parts() <= PARTS_MAX).then_some(parsed)
    }

    fn value(&mut self, depth: u32) -> Option<Type> {
        if depth == DEPTH_MAX {
            return None;
        }
        let mut value = if self.take("(") {
            match self.names_first() {
                true => Type::Named(self.fields(")", depth)?),
                false => Type::Tuple(self.some(")", |parser| parser.value(depth + 1))?),
            }
        } else if self.take("{") {
            Type::Struct(self.fields("}", depth)?)
        } else if self.take("[") {
            let inner = Box::new(self.value(depth + 1)?);
            if self.take("]") {
                inner.is_listed().then_some(Type::List(inner))?
            } else {
                let count = self.take(";").then(|| self.word().parse().ok())??;
                self.take("]").then_some(Type::Array(inner, count))?
            }
        } else {
            let word = self.word().to_owned();
            if !word.is_empty() && self.0.starts_with(['(', '[']) {
                // What it is called says nothing of how it is encoded.
                return self.value(depth);
            }
            named(&word)?
        };
        let mut depth = depth;
        while self.take("?") {
            depth += 1;
            if depth == DEPTH_MAX {
                return None;
            }
            value = Type::Optional(Box::new(value));
        }
        Some(value)
    }

    /// Whether a name and a colon come next.
    fn names_first(&self) -> bool {
        let mut ahead = Parser(self.0);
        !ahead.word().is_empty() && ahead.take(":")
    }

    /// Types with names, no two alike.
    fn fields(&mut self, end: &str, depth: u32) -> Option<Vec<(String, Type)>> {
        let fields = self.some(end, |parser| {
            let name = parser.word().to_owned();
            let is_named = !name.is_empty() && parser.take(":");
            is_named.then_some((name, parser.value(depth + 1)?))
        })?;
        let names: BTreeSet<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        (names.len() == fields.len()).then_some(fields)
    }

    /// One or more, with commas between them and `end` after them.
    fn some<T>(
        &mut self,
        end: &str,
        mut one: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut all = vec![one(self)?];
        while self.take(",") {
            all.push(one(self)?);
        }
        self.take(end).then_some(all)
    }

    fn take(&mut self, text: &str) -> bool {
        match self.0.strip_prefix(text) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// Letters, digits, `_` and `#`; may be empty.
    fn word(&mut self) -> &str {
        let is_in = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '#');
        let end = self.0.find(|c| !is_in(c)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }
}

fn named(name: &str) -> Option<Type> {
    let whole = |size, is_signed| Type::Whole { size, is_signed };
    Some(match name {
        "u8" => whole(1, false),
        "u16" => whole(2, false),
        "u32" => whole(4, false),
        "u64" => whole(8, false),
        "u128" => whole(16, false),
        "i8" => whole(1, true),
        "i16" => whole(2, true),
        "i32" => whole(4, true),
        "i64" => whole(8, true),
        "i128" => whole(16, true),
        "varint" => Type::Varint { is_signed: false },
        "svarint" => Type::Varint { is_signed: true },
        "f32" => Type::F32,
        "f64" => Type::F64,
        "bool" => Type::Bool,
        "unit" => Type::Unit,
        "string" | "bytes" | "json" => Type::Bytes,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(schema: &str, bytes: &[u8]) -> Option<String> {
        text_of(Schema::of_values(schema)?.value(bytes)?)
    }

    fn field(schema: &str, bytes: &[u8]) -> Option<String> {
        text_of(Schema::of_map(&format!("{schema}=unit"))?.field(bytes)?)
    }

    fn text_of(shown: Shown<'_>) -> Option<String> {
        Some(match shown {
            Shown::Text(text) => format!("{text:?}"),
            Shown::Json(json) => json,
        })
    }

    #[test]
    fn values_are_shown_as_what_they_are() {
        for (schema, bytes, expected) in [
            ("u8", &[200][..], "200"),
            ("i8", &[200], "-56"),
            ("u64", &[255; 8], "18446744073709551615"),
            ("i64", &[254, 255, 255, 255, 255, 255, 255, 255], "-2"),
            (
                "u128",
                &[255; 16],
                "340282366920938463463374607431768211455",
            ),
            ("i128", &[255; 16], "-1"),
            ("f64", &0.1_f64.to_le_bytes(), "0.1"),
            ("f64", &1e16_f64.to_le_bytes(), "1e16"),
            ("f64", &f64::NAN.to_le_bytes(), "\"NaN\""),
            ("f64", &f64::NEG_INFINITY.to_le_bytes(), "\"-inf\""),
            ("f32", &0.1_f32.to_le_bytes(), "0.10000000149011612"),
            ("f32", &[0xc2, 0xc8, 0x4b, 0x43], "203.78421020507812"),
            ("f64", &0.000_01_f64.to_le_bytes(), "0.00001"),
            ("f64", &0.000_001_5_f64.to_le_bytes(), "1.5e-6"),
            ("f64", &1e15_f64.to_le_bytes(), "1000000000000000.0"),
            ("f32", &(-0.0_f32).to_le_bytes(), "-0.0"),
            ("bool", &[1], "true"),
            ("unit", &[], "null"),
            ("string", b"w\xc3\xb6rd", "\"wörd\""),
            ("string", b"a\nb", "\"0x610a62\""),
            ("bytes", &[0, 255], "\"0x00ff\""),
            ("json", b"{\"a\":1}", "\"{\\\"a\\\":1}\""),
            ("u16?", &[0], "null"),
            ("u16?", &[1, 2, 1], "258"),
            ("string?", b"\x01\x02\0\0\0hi", "\"hi\""),
            ("[u8;3]", &[1, 2, 3], "[1,2,3]"),
            ("[unit;2]", &[], "[null,null]"),
            ("(u8,string?)", b"\x07\x01\x01\0\0\0\"", "[7,\"\\\"\"]"),
            (
                "{flights:u64,worst:i64?}",
                &[3, 0, 0, 0, 0, 0, 0, 0, 0],
                "{\"flights\":3,\"worst\":null}",
            ),
            (
                "({a:u8},{r#type:bool})",
                &[1, 0, 0, 0, 9, 1, 0, 0, 0, 0],
                "[{\"a\":9},{\"r#type\":false}]",
            ),
            ("[u16]", &[], "[]"),
            ("varint", &[0xac, 2], "300"),
            ("(svarint,varint)", &[3, 127], "[-2,127]"),
            (
                "svarint",
                &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
                "-9223372036854775808",
            ),
            ("[u16]", &[1, 0, 2, 0], "[1,2]"),
            ("[[u8]]", &[0, 0, 0, 0, 1, 0, 0, 0, 7], "[[],[7]]"),
            (
                "(first:u8,last:u8?)",
                &[1, 0],
                "{\"first\":1,\"last\":null}",
            ),
            ("hourly_1[(i8,[u8],bool?)?]", &[0, 0], "[null,null]"),
            (
                "session_5[(at:i8,all:[u8])]",
                &[255, 2, 0, 0, 0, 7, 8],
                "[{\"at\":-1,\"all\":[7,8]}]",
            ),
        ] {
            assert_eq!(value(schema, bytes).as_deref(), Some(expected), "{schema}");
        }
    }

    #[test]
    fn fields_are_shown_as_what_they_are() {
        for (schema, bytes, expected) in [
            ("i32", &[0x7f, 255, 255, 254][..], "-2"),
            ("u16", &[1, 2], "258"),
            (
                "i128",
                &[128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5],
                "5",
            ),
            ("bool", &[0], "false"),
            ("string", b"a", "\"a\""),
            ("(string,u8)", b"a\0\xffb\0\0\x05", "[\"0x610062\",5]"),
        ] {
            assert_eq!(field(schema, bytes).as_deref(), Some(expected), "{schema}");
        }
        assert_eq!(field("f64", &[0; 8]), None);
    }

    #[test]
    fn what_does_not_fit_is_not_understood() {
        for (schema, bytes) in [
            ("u64", &[1][..]),
            ("u8", &[1, 2]),
            ("bool", &[2]),
            ("unit", &[0]),
            ("u8?", &[2, 1]),
            ("(string,u8)", &[255, 255, 255, 255, 1]),
            ("{a:u8}", &[]),
            ("[u16]", &[1, 0, 2]),
            ("varint", &[0x80]),
            ("varint", &[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]),
            (
                "varint",
                &[128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 0],
            ),
            ("[[u8]]", &[2, 0, 0, 0, 1]),
        ] {
            assert_eq!(value(schema, bytes), None, "{schema}");
        }
        for schema in [
            "",
            "u65",
            "U64",
            " u64",
            "u64 ",
            "(u8",
            "(u8,)",
            "()",
            "{}",
            "{a}",
            "{:u8}",
            "[u8;]",
            "[u8;-1]",
            "[]",
            "[unit]",
            "[u8",
            "(a:u8,u8)",
            "(u8,a:u8)",
            "(a:u8,a:u8)",
            "a(",
            "a[u8",
            "a u8",
            "{a:u8,a:u8}",
            "u8=u8",
            "vec<u8>",
        ] {
            assert_eq!(Schema::of_values(schema), None, "{schema}");
        }
        assert_eq!(Schema::of_map("u8"), None);
    }

    #[test]
    fn c161_no_schema_makes_more_of_a_value_than_it_may() {
        assert_eq!(Schema::of_values("[unit;65536]"), None);
        assert_eq!(
            Schema::of_values("[[[unit;4294967295];4294967295];4294967295]"),
            None
        );
        assert!(Schema::of_values("[unit;65535]").is_some());
        assert!(Schema::of_values("[(u8,[unit;13])]").is_some());
        assert_eq!(Schema::of_values("[(u8,[unit;14])]"), None);
        assert_eq!(Schema::of_values("[[unit;0]]"), None);
        let deep = format!("{}u8{}", "(".repeat(31), ")".repeat(31));
        assert!(Schema::of_values(&deep).is_some());
        for open in ["(", "[", "{a:", "a(", "a["] {
            assert_eq!(Schema::of_values(&open.repeat(1 << 20)), None);
        }
        assert_eq!(
            Schema::of_values(&format!("u8{}", "?".repeat(1 << 20))),
            None
        );
    }

    proptest! {
        #[test]
        fn c161_anything_may_be_a_schema_or_a_value(
            schema in "[a-z0-9(){}\\[\\];:,?=]{0,40}|(u8|i32|string|unit|bool|f64)[?]{0,2}",
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            for schema in [Schema::of_values(&schema), Schema::of_map(&schema)].iter().flatten() {
                for shown in [schema.value(&bytes), schema.field(&bytes)].into_iter().flatten() {
                    if let Shown::Json(json) = shown {
                        let read: Result<serde_json::Value, _> = serde_json::from_str(&json);
                        prop_assert!(read.is_ok(), "{json}");
                    }
                }
            }
        }
    }
}
