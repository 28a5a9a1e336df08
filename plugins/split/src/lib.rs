//! Lines to words. A word is a run of letters; it leaves in lower case, as the key of a record with an
//! empty value, so that what comes next gets equal words together.
//!
//! ```toml
//! config = { min-length = 1, skip-fields = 0 }
//! ```
//!
//! `skip-fields` leaves out the first fields of each line, separated by white space: the reference of
//! a verse, the time of a log line. `min-length` leaves out shorter words.

use highwater::text::{Words, lower_case};
use highwater::{Emitter, Kind, OpenContext, Operator, Record, Result};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    min_length: usize,
    skip_fields: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_length: 1,
            skip_fields: 0,
        }
    }
}

struct Split {
    config: Config,
    line: String,
}

impl Operator for Split {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        ctx.output("out").key_columns([("word", Kind::Text)]);
        Ok(Self {
            config: ctx.config()?,
            line: String::new(),
        })
    }

    fn process(&mut self, line: Record, out: &mut Emitter) -> Result<()> {
        let text = line.text()?;
        lower_case(&text, &mut self.line);
        let mut rest = self.line.as_str();
        for _ in 0..self.config.skip_fields {
            rest = rest.trim_start();
            rest = rest
                .split_once(char::is_whitespace)
                .map_or("", |split| split.1);
        }
        for word in Words::of(rest) {
            if word.len() >= self.config.min_length {
                out.emit(word, "")?;
            }
        }
        Ok(())
    }
}

highwater::export!(Split);

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    fn check(config: &str, line: &str, expect: &[&str]) {
        let mut split = Harness::<Split>::setup()
            .lines()
            .config(config)
            .open()
            .unwrap();
        split.process_unkeyed(&[line]).unwrap();
        let words: Vec<_> = split
            .take()
            .into_iter()
            .filter_map(|record| record.key)
            .collect();
        assert_eq!(words, expect, "{config} {line:?}");
    }

    #[test]
    fn lines_become_words_in_lower_case() {
        check(
            "{}",
            "And God said, Let there be light:",
            &["and", "god", "said", "let", "there", "be", "light"],
        );
        check("{}", "  Élan -- ÉTÉ's ", &["élan", "été", "s"]);
        check("{}", "", &[]);
        check("{}", "1 2,3", &[]);
    }

    #[test]
    fn fields_and_short_words_are_left_out() {
        check(
            r#"{"skip-fields": 1}"#,
            "Ge1:1 In the beginning",
            &["in", "the", "beginning"],
        );
        check(r#"{"skip-fields": 2}"#, "  Ge1:1 \t In the", &["the"]);
        check(r#"{"skip-fields": 9}"#, "In the", &[]);
        check(
            r#"{"min-length": 3}"#,
            "In the beginning",
            &["the", "beginning"],
        );
    }
}
