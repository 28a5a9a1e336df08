//! Where in a guest a call was when it trapped, for a person.
//!
//! The names are the guest's: of any length, with anything in them. So the text is built frame by frame,
//! and no name of it is written further than it is shown. Only names of Rust's form are demangled, because
//! C++ has substitutions that make gigabytes out of a few hundred bytes.

use std::fmt::Write;

use operator::text::{self, NAME_BYTES_MAX};
use wasmtime::{FrameInfo, FrameSymbol, WasmBacktrace};

/// How many frames are shown. Wasmtime collects about as many by itself.
const FRAMES_MAX: usize = 40;
/// How many places in the sources are shown of a frame: where one function is inlined into another, it
/// has several.
const PLACES_MAX: usize = 8;
/// Longer names are not looked at by the demangler.
const MANGLED_BYTES_MAX: usize = 4 << 10;

/// The frames, innermost first, a line each, and places in the sources below it if they are known.
pub(super) fn text(backtrace: &WasmBacktrace) -> String {
    let frames = backtrace.frames();
    let mut text = String::new();
    for (index, frame) in frames.iter().take(FRAMES_MAX).enumerate() {
        write_frame(&mut text, index, frame);
    }
    let left = frames.len().saturating_sub(FRAMES_MAX);
    if left > 0 {
        // Writing into a string cannot fail, here and below.
        let _ = writeln!(text, "  and {left} more");
    }
    text
}

fn write_frame(text: &mut String, index: usize, frame: &FrameInfo) {
    let function = match frame.func_name() {
        Some(function) => readable(function),
        None => format!("<wasm function {}>", frame.func_index()),
    };
    let module = frame.module().name().map(text::name);
    let module = module.as_deref().unwrap_or("<unknown>");
    let offset = frame.module_offset().unwrap_or_default();
    let _ = writeln!(text, "  {index:>3}: {offset:#8x} - {module}!{function}");
    for symbol in frame.symbols().iter().take(PLACES_MAX) {
        write_place(text, symbol);
    }
}

fn write_place(text: &mut String, symbol: &FrameSymbol) {
    let Some(file) = symbol.file() else { return };
    let function = symbol.name().map(readable).unwrap_or_default();
    let file = text::name(file);
    let _ = write!(text, "                  {function} at {file}");
    if let Some(line) = symbol.line() {
        let _ = write!(text, ":{line}");
    }
    text.push('\n');
}

/// A function's name as its author wrote it, if it is one of Rust's, else as it is.
fn readable(name: &str) -> String {
    if name.len() <= MANGLED_BYTES_MAX
        && let Ok(demangled) = rustc_demangle::try_demangle(name)
    {
        // The short form, without the hash.
        return text::written(&format_args!("{demangled:#}"), NAME_BYTES_MAX);
    }
    text::name(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c162_names_of_rust_are_demangled_and_no_others() {
        for (name, expected) in [
            ("process", "process"),
            (
                "_ZN6faulty7misdeed7Misdeed6commit17h0123456789abcdefE",
                "faulty::misdeed::Misdeed::commit",
            ),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("main.run", "main.run"),
            ("_Z1fIiEvT_", "_Z1fIiEvT_"),
            ("a\nb", "a\\nb"),
        ] {
            assert_eq!(readable(name), expected);
        }
    }

    #[test]
    fn c162_no_name_becomes_longer_than_a_name() {
        // Rust: each tuple is a pair of the one before it, which is named by where it stands.
        let mut pairs = "_RINvC1a1f".to_owned();
        let mut last = pairs.len() - 2;
        pairs += "TmmE";
        for _ in 0..60 {
            let (at, back) = (pairs.len() - 2, base_62(last - 1));
            pairs += &format!("TB{back}_B{back}_E");
            last = at;
        }
        pairs += "E";
        assert!(rustc_demangle::try_demangle(&pairs).is_ok(), "{pairs}");
        // C++: each argument is twice the one before.
        let doubling = "_Z1f1AIiiE1BIS0_S0_E1CIS1_S1_E1DIS2_S2_E";
        let long = "x".repeat(10 << 20);
        for name in [&pairs, doubling, &long] {
            assert!(readable(name).len() < NAME_BYTES_MAX + 32);
        }
        assert_eq!(readable(doubling), doubling);
    }

    fn base_62(number: usize) -> String {
        const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut left = number;
        let mut digits = Vec::new();
        loop {
            digits.push(DIGITS[left % 62]);
            left /= 62;
            if left == 0 {
                break;
            }
        }
        digits.reverse();
        String::from_utf8(digits).unwrap()
    }
}
