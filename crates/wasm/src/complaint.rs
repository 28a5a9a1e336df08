//! What a guest says of a failure, as the failure shows it.

use operator::text::shown;

/// How much of a complaint a failure quotes.
pub(super) const COMPLAINT_BYTES_MAX: usize = 2 << 10;

/// A text from a guest as the one line that a failure shows; see [`operator::text`].
pub(super) fn one_line(text: &str) -> String {
    shown(text.trim(), COMPLAINT_BYTES_MAX).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_guests_become_one_line() {
        assert_eq!(one_line("a\n\n b\tc\x1b[31m\n"), "a\\n\\n b\\tc\\u{1b}[31m");
    }
}
