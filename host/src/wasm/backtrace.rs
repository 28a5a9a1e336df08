//! Where in a guest a call was when it trapped, for a person.
//!
//! The names are the guest's: of any length, with anything in them. Demangling can make a few hundred
//! bytes of C++ into gigabytes, so only names of Rust's form are demangled, and none that is long.

use std::fmt::Write;

use runtime::text::name;
use wasmtime::{FrameInfo, WasmBacktrace};

/// Longer names are shown as they are.
const DEMANGLED_LEN_MAX: usize = 256;
/// How many frames are shown.
const FRAMES_MAX: usize = 40;

/// The frames, innermost first, a line each.
pub(super) fn text(backtrace: &WasmBacktrace) -> String {
    let frames = backtrace.frames();
    if frames.len() <= FRAMES_MAX && frames.iter().all(is_harmless) {
        let text = backtrace.to_string();
        // The first line is a heading.
        let lines = text.lines().skip(1);
        return lines.map(name).collect::<Vec<_>>().join("\n");
    }
    let mut text = String::new();
    for (index, frame) in frames.iter().take(FRAMES_MAX).enumerate() {
        let function = match frame.func_name() {
            Some(function) => name(function).into_owned(),
            None => format!("<wasm function {}>", frame.func_index()),
        };
        let module = name(frame.module().name().unwrap_or("<unknown>"));
        let offset = frame.module_offset().unwrap_or_default();
        // Writing into a string cannot fail.
        let _ = writeln!(text, "  {index:>3}: {offset:#8x} - {module}!{function}");
    }
    if let Some(left) = frames
        .len()
        .checked_sub(FRAMES_MAX)
        .filter(|left| *left > 0)
    {
        let _ = writeln!(text, "  and {left} more");
    }
    text
}

fn is_harmless(frame: &FrameInfo) -> bool {
    let symbols = frame
        .symbols()
        .iter()
        .filter_map(wasmtime::FrameSymbol::name);
    symbols.chain(frame.func_name()).all(may_be_demangled)
}

/// Whether a name is short and is either not mangled or mangled as Rust does it.
fn may_be_demangled(name: &str) -> bool {
    if name.len() > DEMANGLED_LEN_MAX || name.contains('\n') {
        return false;
    }
    let bare = name.trim_start_matches('_');
    if !(bare.starts_with('Z') || bare.starts_with("GLOBAL")) {
        return true;
    }
    // `_ZN`, names with their lengths in front, `E`: nothing in it that could refer to itself.
    let Some(mut rest) = bare.strip_prefix("ZN") else {
        return false;
    };
    loop {
        if rest == "E" {
            return true;
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let length = rest[..digits].parse::<usize>().ok();
        match length.and_then(|length| rest.get(digits.checked_add(length)?..)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_cannot_explode_are_demangled() {
        for name in [
            "process",
            "_ZN6faulty7misdeed7Misdeed6commit17h0123456789abcdefE",
            "_RNvCs1234_7mycrate3foo",
            "main.run",
        ] {
            assert!(may_be_demangled(name), "{name}");
        }
        let long = "x".repeat(DEMANGLED_LEN_MAX + 1);
        for name in [
            "_Z1fIiEvT_",
            "_ZN1aIS_EE",
            "__Z1fv",
            "_ZN9999999999999999999999aE",
            "_ZN3ab",
            "a\nb",
            long.as_str(),
        ] {
            assert!(!may_be_demangled(name), "{name}");
        }
    }
}
