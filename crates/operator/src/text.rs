//! Text that others wrote, as a person may see it.
//!
//! What a guest logs or returns, what metadata holds and what files are called may hold anything: line
//! breaks that forge a line of ours, escape sequences that steer a terminal, marks that turn the order of
//! what is read. [`line()`] and [`name`] are what stands between such text and a terminal or a log. Escaping
//! is for reading, not for reading back: a backslash stays as it is, so to escape twice does no harm.

use std::borrow::Cow;
use std::fmt::{Display, Write};

/// The most bytes that [`line()`] shows.
pub const LINE_BYTES_MAX: usize = 8 << 10;

/// The most bytes that [`name`] shows.
pub const NAME_BYTES_MAX: usize = 512;

/// A text of any kind as one line: what could steer a terminal is escaped, line breaks too, and what is
/// beyond [`LINE_BYTES_MAX`] bytes is left out.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    shown(text, LINE_BYTES_MAX)
}

/// As [`line()`], for a name, a label or a position: at most [`NAME_BYTES_MAX`] bytes.
#[must_use]
pub fn name(text: &str) -> Cow<'_, str> {
    shown(text, NAME_BYTES_MAX)
}

/// A text whose line breaks are ours: each of its lines as by [`line()`].
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    if text.split('\n').all(|part| is_plain(part, LINE_BYTES_MAX)) {
        return text.into();
    }
    text.split('\n')
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
        .into()
}

/// At most `max` bytes of a text as one line, escaped.
#[must_use]
pub fn shown(text: &str, max: usize) -> Cow<'_, str> {
    if is_plain(text, max) {
        return text.into();
    }
    let mut shown = String::new();
    for c in text.chars() {
        let before = shown.len();
        push(&mut shown, c);
        if shown.len() > max {
            shown.truncate(before);
            // Writing into a string cannot fail.
            let _ = write!(shown, "… ({} bytes)", text.len());
            break;
        }
    }
    shown.into()
}

/// What a value says of itself, as by [`shown`], and no more of it is made than is shown. A few bytes from
/// outside can stand for gigabytes of text (a mangled name does), so to write all of it first and to cut
/// it then would be too late.
#[must_use]
pub fn written(value: &dyn Display, max: usize) -> String {
    let mut room = Room {
        text: String::new(),
        left: max,
    };
    // Fails where the room ends, which is what it is for.
    let is_whole = write!(room, "{value}").is_ok();
    let text = shown(&room.text, max);
    if is_whole {
        text.into_owned()
    } else {
        format!("{text}…")
    }
}

/// How many there are of something, for a person: `1 entry`, `12,345 entries`. `one` is the word for one of
/// them, with a regular plural.
#[must_use]
pub fn counted(count: u64, one: &str) -> String {
    let count_of = grouped(count);
    if count == 1 {
        return format!("{count_of} {one}");
    }
    match one.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{count_of} {stem}ies"),
        _ => format!("{count_of} {one}s"),
    }
}

/// A number with its digits in groups of three: `12,345`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes for a person: `512 B`, `1.2 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded to 1024.0 belongs to the next unit already.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A text that takes no more than there is room for, and fails then: who writes into it stops.
struct Room {
    text: String,
    left: usize,
}

impl Write for Room {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        if part.len() <= self.left {
            self.left -= part.len();
            self.text.push_str(part);
            return Ok(());
        }
        self.text
            .push_str(&part[..part.floor_char_boundary(self.left)]);
        self.left = 0;
        Err(std::fmt::Error)
    }
}

fn push(shown: &mut String, c: char) {
    match c {
        '\n' => shown.push_str("\\n"),
        '\r' => shown.push_str("\\r"),
        '\t' => shown.push_str("\\t"),
        c if is_unsafe(c) => shown.extend(c.escape_unicode()),
        c => shown.push(c),
    }
}

fn is_plain(text: &str, max: usize) -> bool {
    text.len() <= max
        && (text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) || !text.chars().any(is_unsafe))
}

/// Controls (C0, DEL, C1), separators of lines and paragraphs, marks that reorder what is read, and what
/// is invisible but carries text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_digit_and_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_258_291, "1.2 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (1 << 40, "1.0 TiB"),
            (1 << 60, "1048576.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn one_is_singular_and_long_numbers_are_grouped() {
        for (count, one, text) in [
            (0, "entry", "0 entries"),
            (1, "entry", "1 entry"),
            (2, "byte", "2 bytes"),
            (999, "key", "999 keys"),
            (1000, "record", "1,000 records"),
            (12_345_678, "prepared output", "12,345,678 prepared outputs"),
        ] {
            assert_eq!(counted(count, one), text);
        }
    }

    #[test]
    fn c151_nothing_that_steers_a_terminal_passes() {
        for (text, expected) in [
            ("plain text, 100 %", "plain text, 100 %"),
            ("grüße 日本 👩‍🚀", "grüße 日本 👩‍🚀"),
            ("x\njob finished", "x\\njob finished"),
            ("a\r\tb\\n", "a\\r\\tb\\n"),
            ("\u{1b}[2J\u{7f}\u{9b}1m", "\\u{1b}[2J\\u{7f}\\u{9b}1m"),
            (
                "a\u{202e}b\u{2066}c\u{2069}",
                "a\\u{202e}b\\u{2066}c\\u{2069}",
            ),
            ("a\u{2028}b\u{feff}", "a\\u{2028}b\\u{feff}"),
        ] {
            assert_eq!(line(text), expected);
            assert_eq!(line(expected), expected, "to escape twice does no harm");
        }
    }

    #[test]
    fn c151_text_is_cut_between_characters_and_says_how_long_it_was() {
        assert_eq!(shown("abcdef", 6), "abcdef");
        assert_eq!(shown("abcdefg", 6), "abcdef… (7 bytes)");
        assert_eq!(shown("aüüü", 4), "aü… (7 bytes)");
        assert_eq!(shown("ab\n", 3), "ab… (3 bytes)");
        assert!(name(&"\u{1b}".repeat(1 << 20)).len() < NAME_BYTES_MAX + 32);
    }

    #[test]
    fn c162_a_value_that_never_ends_is_written_as_far_as_it_is_shown() {
        struct Endless;
        impl Display for Endless {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                loop {
                    f.write_str("aü\n")?;
                }
            }
        }
        assert_eq!(written(&Endless, 3), "aü…");
        assert_eq!(written(&Endless, 2), "a…");
        let cut = written(&Endless, 8);
        assert_eq!(cut, "aü\\naü… (8 bytes)…");
        assert_eq!(written(&"a\nb", 8), "a\\nb");
        assert_eq!(written(&"", 0), "");
    }

    #[test]
    fn our_own_line_breaks_stay() {
        assert_eq!(lines("a\n  b\u{1b}\n"), "a\n  b\\u{1b}\n");
        assert_eq!(lines("a\nb"), "a\nb");
    }
}
