//! Reading a connector's table of the job file, with every problem in it at once.
//!
//! Options are plain structs that serde fills. Serde stops at the first mistake, a user wants them
//! all: so each key is tried on its own first. That asks of an options struct that every field has
//! a default; what is required is said by its `validate`.

use std::borrow::Cow;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Something wrong in a connector's table, for the user to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Path of the key within the connector's table, for example `timestamp.format`.
    pub(crate) key: String,
    /// What is wrong: lowercase, no full stop.
    pub(crate) message: String,
    /// How to mend it, where that is known.
    pub(crate) hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub(crate) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
            hint: None,
        }
    }

    /// The problem with a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.key, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// One string, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(crate) enum OneOrMany {
    /// `"a"`
    One(String),
    /// `["a", "b"]`
    Many(Vec<String>),
}

impl OneOrMany {
    /// The strings.
    pub(crate) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// Fills an options struct, in which every field must have a default. Keys that do not fit are
/// reported and left out, so that the rest can be validated as well.
pub(crate) fn read<T: DeserializeOwned + Default>(
    table: toml::Table,
    problems: &mut Vec<Problem>,
) -> T {
    let mut fitting = toml::Table::new();
    for (key, value) in table {
        let mut alone = toml::Table::new();
        alone.insert(key.clone(), value.clone());
        match T::deserialize(alone) {
            Ok(_) => {
                fitting.insert(key, value);
            }
            Err(error) => problems.push(explain(&key, &value, error.message())),
        }
    }
    T::deserialize(fitting).unwrap_or_else(|error| {
        problems.push(Problem::new("", error.message().trim()));
        T::default()
    })
}

/// Turns serde's message about `key` into one that helps.
fn explain(key: &str, value: &toml::Value, message: &str) -> Problem {
    let message = message.trim();
    // Serde puts names in backticks: the one that was written, then those that are known.
    let mut names = message.split('`').skip(1).step_by(2);
    let written = names.next().unwrap_or_default();
    let known: Vec<&str> = names.collect();
    let inner = value.get(written).is_some();
    let place = if inner {
        format!("{key}.{written}")
    } else {
        key.to_owned()
    };
    if message.starts_with("unknown field") {
        let hint = match known.is_empty() {
            true => "leave it out: this connector has no keys of its own".to_owned(),
            false => suggest(written, &known, "known keys are"),
        };
        Problem::new(place, "unknown key").hint(hint)
    } else if message.starts_with("unknown variant") {
        Problem::new(key, format!("unknown value `{written}`")).hint(suggest(
            written,
            &known,
            "use one of",
        ))
    } else if message.starts_with("missing field") {
        Problem::new(format!("{key}.{written}"), "is required")
    } else {
        Problem::new(key, message)
    }
}

/// How many names a message lists, and how many characters of each: input names its columns itself.
const LISTED: usize = 40;
const SHOWN: usize = 60;

/// A hint for a name that is not known: the nearest one that is, or all of them, unless they are many.
pub(crate) fn suggest(written: &str, known: &[&str], list: &str) -> String {
    match nearest(written, known) {
        Some(name) => format!("did you mean `{}`?", excerpt(name)),
        None => {
            let names = known.iter().take(LISTED);
            let names: Vec<String> = names.map(|name| format!("`{}`", excerpt(name))).collect();
            format!("{list} {}{}", names.join(", "), and_more(known.len()))
        }
    }
}

/// Names that input has given, as a message lists them.
pub(crate) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(LISTED).map(|name| excerpt(name));
    format!(
        "{}{}",
        shown.collect::<Vec<_>>().join(","),
        and_more(names.len())
    )
}

fn and_more(count: usize) -> String {
    match count.saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

/// The beginning of a name that may be of any length.
pub(crate) fn excerpt(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(SHOWN) {
        None => name.into(),
        Some((end, _)) => format!("{}…", &name[..end]).into(),
    }
}

/// The known name that differs least from `written`, if it is near enough for a slip of the hand.
fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let allowed = (written.chars().count() / 3).max(1);
    let distances = known.iter().map(|name| (distance(written, name), *name));
    distances
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// How many letters must be inserted, removed, replaced or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    // Names are short; a cap keeps a hostile key from costing quadratic time.
    let from: Vec<char> = from.chars().take(64).collect();
    let to: Vec<char> = to.chars().take(64).collect();
    let mut before = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, a) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in to.iter().enumerate() {
            let replaced = above[column] + usize::from(a != b);
            let mut best = replaced.min(above[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && *a == to[column - 1] && from[row - 1] == *b {
                let swapped: &Vec<usize> = &before;
                best = best.min(swapped[column - 1] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut above, current);
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
    struct Options {
        path: Option<OneOrMany>,
        roll_size: Option<String>,
        mode: Mode,
        inner: Option<Inner>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        #[default]
        Lines,
        JsonLines,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        field: String,
        format: String,
    }

    fn problems(text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let _: Options = read(text.parse().unwrap(), &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_is_reported_and_the_rest_is_read() {
        let mut found = Vec::new();
        let text = "path = [\"a\", \"b\"]\nroll-siez = \"1\"\nmode = \"json-line\"\ninner = 3\nquite-other = 1";
        let options: Options = read(text.parse().unwrap(), &mut found);
        assert_eq!(options.path.unwrap().as_slice(), ["a", "b"]);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(
            found.contains(&"`roll-siez`: unknown key; hint: did you mean `roll-size`?".to_owned()),
            "{found:#?}"
        );
        assert!(
            found.contains(
                &"`mode`: unknown value `json-line`; hint: did you mean `json-lines`?".to_owned()
            ),
            "{found:#?}"
        );
        assert!(
            found.contains(
                &"`quite-other`: unknown key; hint: known keys are `path`, `roll-size`, `mode`, `inner`".to_owned()
            ),
            "{found:#?}"
        );
    }

    #[test]
    fn a_connector_without_keys_says_so() {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct None {}
        let mut found = Vec::new();
        let _: None = read("format = \"csv\"".parse().unwrap(), &mut found);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["`format`: unknown key; hint: leave it out: this connector has no keys of its own"]
        );
    }

    #[test]
    fn places_inside_a_table_are_named() {
        assert_eq!(
            problems("inner = { field = \"a\" }"),
            ["`inner.format`: is required"]
        );
        assert_eq!(
            problems("inner = { fild = \"a\", format = \"b\" }"),
            ["`inner.fild`: unknown key; hint: did you mean `field`?"]
        );
        assert_eq!(
            problems("path = 1"),
            ["`path`: expected a string or a list of strings"]
        );
        assert_eq!(
            problems("roll-size = 1"),
            ["`roll-size`: invalid type: integer `1`, expected a string"]
        );
    }

    #[test]
    fn c164_messages_stay_short_whatever_is_named() {
        let names: Vec<String> = (0..100_000)
            .map(|n| format!("{n}{}", "x".repeat(n % 300)))
            .collect();
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        for text in [suggest("key", &known, "the columns are"), listed(&names)] {
            assert!(text.len() < 10_000, "{} bytes", text.len());
            assert!(text.ends_with(" and 99960 more"), "{text}");
        }
        assert_eq!(listed(&["a".to_owned(), "b".to_owned()]), "a,b");
        assert_eq!(excerpt(&"é".repeat(61)).chars().count(), 61);
    }

    #[test]
    fn a_swap_of_neighbours_is_one_slip() {
        assert_eq!(distance("path", "ptah"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest("fromat", &["format", "path"]), Some("format"));
        assert_eq!(nearest("xyz", &["format", "path"]), None);
    }
}
