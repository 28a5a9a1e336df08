//! Durations and sizes as a job file writes them: `"10s"`, `"64MiB"`.
//!
//! Both are strings with a unit, so that no reader has to guess what a bare number means. The
//! messages name what was written and show a right spelling.

use std::time::Duration;

/// Reads a duration such as `"500ms"`, `"10s"`, `"10min"`, `"1h 30m"`. `"0"` needs no unit.
///
/// # Errors
/// What is wrong with `text`, in one line.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    if !trimmed.is_empty() && trimmed != "0" && trimmed.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "`{text}` has no unit, write for example \"{trimmed}s\" or \"{trimmed}ms\""
        ));
    }
    humantime::parse_duration(trimmed).map_err(|_| {
        format!(
            "`{text}` is not a duration, write for example \"500ms\", \"10s\", \"5min\" or \"1h\""
        )
    })
}

/// Reads a size in bytes such as `"64MiB"`, `"1.5GiB"`, `"10MB"`, `"512B"` or `"4096"` (bytes).
/// `KiB`, `MiB`, `GiB`, `TiB` are powers of 1024; `kB`, `MB`, `GB`, `TB` powers of 1000. Case does
/// not matter.
///
/// # Errors
/// What is wrong with `text`, in one line.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is not a size, write for example \"20KiB\", \"64MiB\" or \"1GiB\"");
    let trimmed = text.trim();
    let digits = trimmed
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
        .count();
    let (number, unit) = trimmed.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(fraction) || number.ends_with('.') || fraction.len() > 18 {
        return Err(wrong());
    }
    let too_large = || format!("`{text}` is larger than a size can be");
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let mut bytes = whole.checked_mul(factor).ok_or_else(too_large)?;
    if !fraction.is_empty() {
        // At most 18 digits, so neither the number nor its product with the factor overflows u128.
        let part: u64 = fraction.parse().map_err(|_| wrong())?;
        let scaled = u128::from(part) * u128::from(factor) / 10u128.pow(fraction.len() as u32);
        let scaled = u64::try_from(scaled).map_err(|_| too_large())?;
        bytes = bytes.checked_add(scaled).ok_or_else(too_large)?;
    }
    Ok(bytes)
}

/// A size as the job file would have it, without rounding.
pub fn exact_size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("10min", 600_000),
            ("1h 30m", 5_400_000),
            (" 2 s ", 2_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        assert!(parse_duration("10").unwrap_err().contains("\"10s\""));
        for text in [
            "",
            "s",
            "-1s",
            "ten seconds",
            "10 parsecs",
            "99999999999999999999s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_binary_or_decimal_by_their_unit() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("20KiB", 20 << 10),
            ("20 kib", 20 << 10),
            ("10MB", 10_000_000),
            ("512B", 512),
            ("4096", 4096),
            ("0", 0),
            ("0.001kB", 1),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "-1B",
            "1.",
            ".5KiB",
            "1..5KiB",
            "64 M i B",
            "5 apples",
            "999999999TiB",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
