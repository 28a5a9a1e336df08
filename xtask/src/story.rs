//! What a chore says while it works: a headline per step, plain lines below.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// When the first step began.
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A headline, with the time since the first one: so a log shows what takes how long.
pub(crate) fn step(headline: &str) {
    match STARTED.elapsed() {
        so_far if so_far < Duration::from_secs(1) => eprintln!("\n==> {headline}"),
        so_far => eprintln!("\n==> {headline} (after {})", duration(so_far)),
    }
}

/// The last line.
pub(crate) fn done(line: &str) {
    eprintln!("\n==> {line}");
}

/// A line that belongs to a step.
pub(crate) fn line(line: &str) {
    eprintln!("    {line}");
}

/// A duration for a person.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds >= 60 {
        format!("{} min {} s", seconds / 60, seconds % 60)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// A whole number with its thousands apart.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}
