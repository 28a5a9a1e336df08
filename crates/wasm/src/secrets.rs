//! Keeps secrets that a guest was given out of what it says: of its log, of its failures.
//!
//! A guest does not have to mean it: who cannot read a configuration often quotes it. One that wants to give a secret
//! away can, to whatever it may reach; nothing here prevents that.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A text that a guest gets and that is not to be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// What the guest gets.
    pub value: String,
    /// What is shown in its place.
    pub shown: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Texts that are too short to be distinguished from others.
const BYTES_MIN: usize = 4;
/// Of a secret of several lines each that is long enough to be one is hidden.
const LINE_BYTES_MIN: usize = 8;

/// What is looked for, and what takes its place. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Secrets(Arc<[(String, String)]>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    pub(super) fn new(secrets: &[Secret]) -> Self {
        let mut sought = Vec::new();
        for secret in secrets {
            let mut add = |text: &str, least: usize| {
                if text.len() < least {
                    return;
                }
                sought.push((text.to_owned(), secret.shown.clone()));
                // As it looks in quotation marks: these escape the one kind, or both.
                let quoted = format!("{text:?}");
                let quoted = quoted[1..quoted.len() - 1].to_owned();
                for escaped in [quoted, text.escape_debug().to_string()] {
                    if escaped != text {
                        sought.push((escaped, secret.shown.clone()));
                    }
                }
            };
            add(secret.value.trim(), BYTES_MIN);
            if secret.value.trim().contains('\n') {
                for line in secret.value.lines() {
                    add(line.trim(), LINE_BYTES_MIN);
                }
            }
        }
        // One may be a part of another.
        sought.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Self(sought.into())
    }

    /// The text without them.
    pub(super) fn hidden<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut hidden = Cow::Borrowed(text);
        for (secret, shown) in self.0.iter() {
            if hidden.contains(secret.as_str()) {
                hidden = hidden.replace(secret.as_str(), shown).into();
            }
        }
        hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c158_a_secret_is_hidden_whole_quoted_and_line_by_line() {
        let secret = |value: &str, shown: &str| Secret {
            value: value.to_owned(),
            shown: shown.to_owned(),
        };
        let secrets = [
            secret("hunter", "<short>"),
            secret("hunter2\"", "<long>"),
            secret("-----BEGIN KEY-----\nMIIEvQIBADAN\nx\n", "<key>"),
            secret("abc", "<never>"),
            secret("pa'ss\"word9", "<both>"),
        ];
        let hidden = Secrets::new(&secrets);
        for (text, shown) in [
            ("it is hunter2\" and hunter", "it is <long> and <short>"),
            ("\"hunter2\\\"\"", "\"<long>\""),
            ("MIIEvQIBADAN", "<key>"),
            ("abc x", "abc x"),
            ("\"pa'ss\\\"word9\"", "\"<both>\""),
            (r#"pa\'ss\"word9"#, "<both>"),
        ] {
            assert_eq!(hidden.hidden(text), shown);
        }
        assert!(!format!("{secrets:?}{hidden:?}").contains("hunter"));
    }
}
