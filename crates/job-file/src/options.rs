//! Reading a connector's table of the job file, with every problem in it at once.
//!
//! Options are plain structs that serde fills. Serde stops at the first mistake, a user wants them
//! all: so each key is tried on its own first. That asks of an options struct that every field has
//! a default; what is required is said by its `validate`.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::hints::{nearest, suggest};
use super::problem::Problem;

/// The keys of a source's or sink's table that are its connector's, or those of a table within it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Options {
    pub(crate) table: toml::Table,
    /// What else may stand in the table, for a hint.
    #[serde(skip)]
    pub(crate) common: Vec<&'static str>,
}

/// One string, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum OneOrMany {
    /// `"a"`
    One(String),
    /// `["a", "b"]`
    Many(Vec<String>),
}

impl OneOrMany {
    /// The strings.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl Options {
    /// What a connector has read, its defaults included: for showing the effective job.
    #[must_use]
    pub fn effective(read: &impl Serialize) -> Self {
        toml::Table::try_from(read).unwrap_or_default().into()
    }

    /// Fills a struct, in which every field must have a default. Keys that do not fit are reported and left
    /// out, so that the rest can be validated as well.
    pub fn read<T: DeserializeOwned + Default>(self, problems: &mut Vec<Problem>) -> T {
        let mut fitting = toml::Table::new();
        for (key, value) in self.table {
            let mut alone = toml::Table::new();
            alone.insert(key.clone(), value.clone());
            match T::deserialize(alone) {
                Ok(_) => {
                    fitting.insert(key, value);
                }
                Err(error) => {
                    problems.push(explain(&key, &value, error.message(), &self.common));
                }
            }
        }
        T::deserialize(fitting).unwrap_or_else(|error| {
            problems.push(Problem::new("", error.message().trim()));
            T::default()
        })
    }
}

impl From<toml::Table> for Options {
    fn from(table: toml::Table) -> Self {
        Self {
            table,
            common: Vec::new(),
        }
    }
}

impl FromStr for Options {
    type Err = String;

    /// Reads TOML.
    fn from_str(text: &str) -> Result<Self, String> {
        let table = text.parse().map(|table: toml::Table| table.into());
        table.map_err(|error: toml::de::Error| error.message().to_owned())
    }
}

/// Options that are right, as tests have them.
///
/// # Panics
/// They are not.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn read_right<T: DeserializeOwned + Default>(text: &str) -> T {
    let mut problems = Vec::new();
    let options: Options = text.parse().unwrap_or_else(|error| panic!("{error}"));
    let read = options.read(&mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    read
}

/// A value as a job file writes it: `"csv"`, with the quotes. Empty if TOML cannot hold it.
pub fn written(value: &(impl Serialize + ?Sized)) -> String {
    toml::Value::try_from(value).map_or(String::new(), |value| value.to_string())
}

/// Turns serde's message about `key` into one that helps. `common` may stand beside `key`, too.
fn explain(key: &str, value: &toml::Value, message: &str, common: &[&str]) -> Problem {
    let message = message.trim();
    // Serde puts names in backticks: the one that was written, then those that are known.
    let mut names = message.split('`').skip(1).step_by(2);
    let written = names.next().unwrap_or_default();
    let mut known: Vec<&str> = names.collect();
    let inner = value.get(written).is_some();
    let place = if inner {
        format!("{key}.{written}")
    } else {
        key.to_owned()
    };
    if message.starts_with("unknown field") {
        let has_none = known.is_empty();
        if !inner {
            known.extend(common);
        }
        let hint = match nearest(written, known.iter().copied()) {
            None if has_none => "leave it out: this connector has no keys of its own".to_owned(),
            _ => suggest(written, &known, "known keys are"),
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
    } else if message.starts_with("invalid type: integer") && message.ends_with("expected a string")
    {
        Problem::new(key, message).hint(format!(
            "write it in quotes; a time or a size has its unit: `\"{written}s\"`, `\"{written}MiB\"`"
        ))
    } else if let Some(found) = message.strip_suffix("expected a map") {
        Problem::new(key, format!("{found}expected a table"))
            .hint(format!("write `{key} = {{ … }}` with its keys"))
    } else {
        Problem::new(key, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::brief;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
    struct Example {
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
        let _: Example = text.parse::<Options>().unwrap().read(&mut problems);
        problems.iter().map(brief).collect()
    }

    #[test]
    fn every_problem_is_reported_and_the_rest_is_read() {
        let mut found = Vec::new();
        let text = "path = [\"a\", \"b\"]\nroll-siez = \"1\"\nmode = \"json-line\"\ninner = 3\nquite-other = 1";
        let options: Example = text.parse::<Options>().unwrap().read(&mut found);
        assert_eq!(options.path.unwrap().as_slice(), ["a", "b"]);
        let found: Vec<String> = found.iter().map(brief).collect();
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
        let _: None = "format = \"csv\""
            .parse::<Options>()
            .unwrap()
            .read(&mut found);
        let found: Vec<String> = found.iter().map(brief).collect();
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
            [concat!(
                "`roll-size`: invalid type: integer `1`, expected a string; hint: write it in quotes; a time or a size has its ",
                "unit: `\"1s\"`, `\"1MiB\"`"
            )]
        );
    }
}
