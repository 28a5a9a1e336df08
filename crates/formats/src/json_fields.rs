//! The top-level fields of a JSON text, as they are written.
//!
//! Runs after serde_json's check that the text is valid, and so only has to find where things end:
//! numbers keep their digits, nothing is built. On invalid text it finds nonsense but never fails.

use std::borrow::Cow;
use std::ops::Range;

/// Calls `each` with the name (without its quotes, still escaped) of every field of `text` and with
/// the place of its value. `false` if `text` is not an object.
pub(crate) fn for_each_field<'a>(
    text: &'a [u8],
    mut each: impl FnMut(&'a [u8], Range<usize>),
) -> bool {
    let mut at = skip_space(text, 0);
    if text.get(at) != Some(&b'{') {
        return false;
    }
    loop {
        // After the opening brace or a comma.
        at = skip_space(text, at + 1);
        if text.get(at) != Some(&b'"') {
            return true;
        }
        let name_end = string_end(text, at);
        let name = text
            .get(at + 1..name_end.saturating_sub(1))
            .unwrap_or_default();
        at = skip_space(text, name_end);
        if text.get(at) != Some(&b':') {
            return true;
        }
        at = skip_space(text, at + 1);
        let end = value_end(text, at);
        each(name, at..end);
        at = skip_space(text, end);
        if text.get(at) != Some(&b',') {
            return true;
        }
    }
}

/// Where a valid text is nested deeper than `depth`, if it is: the place of the bracket that is too
/// many.
pub(crate) fn too_deep(text: &[u8], depth: usize) -> Option<usize> {
    // What is opened is closed in a valid text, so a short one needs no look, and one with few brackets,
    // wherever they are, no second one.
    if text.len() / 2 <= depth || count_openings(text) <= depth {
        return None;
    }
    let (mut open, mut at) = (0_usize, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                at = string_end(text, at);
                continue;
            }
            b'{' | b'[' if open == depth => return Some(at),
            b'{' | b'[' => open += 1,
            b'}' | b']' => open = open.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// How many `{` and `[` there are. They differ in one bit, and a byte counts as far as a chunk goes, so
/// that many bytes are compared at once.
fn count_openings(text: &[u8]) -> usize {
    let is_opening = |byte: &u8| u8::from(byte & 0xdf == b'[');
    let count = |chunk: &[u8]| usize::from(chunk.iter().map(is_opening).sum::<u8>());
    text.chunks(usize::from(u8::MAX)).map(count).sum()
}

/// Whether a field's name as written is `name`.
pub(crate) fn is_named(written: &[u8], name: &str) -> bool {
    written == name.as_bytes()
        || (written.contains(&b'\\') && unescape(written).is_ok_and(|text| text == name))
}

/// The text that a value stands for as a key or an event time: a string's text, a number or boolean
/// as written.
///
/// # Errors
/// The value is null, an object or a list, or a string that is not text.
pub(crate) fn scalar_text(value: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    match value {
        [b'"', inner @ .., b'"'] if inner.contains(&b'\\') => {
            unescape(inner).map(|text| Cow::Owned(text.into_bytes()))
        }
        [b'"', inner @ .., b'"'] => Ok(Cow::Borrowed(inner)),
        [b'{', ..] => Err("is an object, not a text or a number"),
        [b'[', ..] => Err("is a list, not a text or a number"),
        b"null" => Err("is null"),
        other => Ok(Cow::Borrowed(other)),
    }
}

fn unescape(inner: &[u8]) -> Result<String, &'static str> {
    let quoted = [b"\"", inner, b"\""].concat();
    serde_json::from_slice(&quoted).map_err(|_| "has an escape that is not a character")
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The index after the closing quote of the string that opens at `at`. Strings are short: looking at
/// each byte beats a search that has to be set up.
fn string_end(text: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// The index after the value that begins at `at`.
fn value_end(text: &[u8], at: usize) -> usize {
    match text.get(at) {
        Some(b'"') => string_end(text, at),
        Some(b'{' | b'[') => {
            let mut depth = 0_usize;
            let mut at = at;
            while let Some(byte) = text.get(at) {
                match byte {
                    b'"' => {
                        at = string_end(text, at);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return at;
                }
            }
            text.len()
        }
        _ => {
            let rest = text.get(at..).unwrap_or_default();
            let ends =
                |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
            at + rest.iter().position(ends).unwrap_or(rest.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Option<Vec<(String, String)>> {
        let mut found = Vec::new();
        let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        for_each_field(text.as_bytes(), |name, value| {
            found.push((string(name), string(&text.as_bytes()[value])));
        })
        .then_some(found)
    }

    #[test]
    fn fields_are_found_as_they_are_written() {
        let text = r#" { "a" : 1.50 ,"b":"x\"y,}","c":{"d":[1,"]",{}]},"e":[], "f":true,"":null} "#;
        let expected = [
            ("a", "1.50"),
            ("b", r#""x\"y,}""#),
            ("c", r#"{"d":[1,"]",{}]}"#),
            ("e", "[]"),
            ("f", "true"),
            ("", "null"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields(text), Some(expected.to_vec()));
        assert_eq!(fields("{}"), Some(Vec::new()));
        assert_eq!(fields("[1]"), None);
    }

    #[test]
    fn c164_depth_is_that_of_brackets_outside_of_strings() {
        for depth in [1, 2, 3, 127, 128, 1000] {
            for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
                let nested = |levels: usize| {
                    let value = format!("{}1{}", open.repeat(levels), close.repeat(levels));
                    format!("[\"{{[\\\"[[\",{value}]")
                };
                assert_eq!(too_deep(nested(depth - 1).as_bytes(), depth), None);
                let text = nested(depth);
                assert_eq!(too_deep(text.as_bytes(), depth), text.rfind(&open[..1]));
            }
        }
        let wide = format!("[{}1]", "[],{},".repeat(1000));
        assert_eq!(too_deep(wide.as_bytes(), 2), None);
        assert!(too_deep(wide.as_bytes(), 1).is_some());
    }

    #[test]
    fn broken_text_does_no_harm() {
        let text = r#"{"a":{"b":["c\"",1]},"d":"e\\"}"#;
        for end in 0..text.len() {
            fields(&text[..end]);
        }
        for text in [
            "{\"a\":",
            "{\"",
            "{\"a\":}]",
            "{\"a\":\"\\",
            "{\"a\\",
            "{,",
            "{\"a\":]]",
        ] {
            fields(text);
        }
    }

    #[test]
    fn names_and_values_are_unescaped() {
        assert!(is_named(br"caf\u00e9", "café"));
        assert!(!is_named(br"caf\u00e9", "cafe"));
        assert_eq!(scalar_text(br#""a\nb""#).unwrap().as_ref(), b"a\nb");
        assert_eq!(scalar_text(b"1.0").unwrap().as_ref(), b"1.0");
        assert!(scalar_text(b"null").is_err());
        assert!(scalar_text(br#""\ud800""#).is_err());
    }
}
