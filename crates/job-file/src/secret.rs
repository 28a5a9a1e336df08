//! Secrets: a job file says where one is, `{ env = "NAME" }` or `{ file = "path" }`, and never what it is. So it
//! can be shown, kept and handed around, with all that is derived from it.

use std::fmt;
use std::path::{Path, PathBuf};

use super::checkpoint::absolute;
use super::document::{Item, Table, Value};
use super::problem::Place;
use super::section::Section;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a variable of the host's environment.
    Env(String),
    /// In a file of its own, by its absolute path.
    File(PathBuf),
}

impl fmt::Display for SecretSource {
    /// As a job file has it, which is what is shown in the place of the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, text) = match self {
            Self::Env(name) => ("env", name.clone()),
            Self::File(path) => ("file", path.display().to_string()),
        };
        write!(f, "{{ {key} = {} }}", toml::Value::String(text))
    }
}

/// A value of an operator's `config` that is a secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Secret {
    /// The path of its key within the operator: `config.database.password`.
    pub key: String,
    /// Where it goes in the configuration, as a JSON pointer.
    pub pointer: String,
    /// Where the job file says it.
    pub place: Place,
    /// Where it is.
    pub source: SecretSource,
}

/// Words at whose end a name says that its value is a secret, without what separates its words.
const SECRET: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "secretkey",
    "accesskey",
    "apikey",
    "privatekey",
    "token",
    "credential",
    "credentials",
];

/// Those whose value may be a number.
const NUMBERS: &[&str] = &["password", "passwd", "passphrase", "pwd", "secret"];

fn ends_with_one(name: &str, words: &[&str]) -> bool {
    let plain: String = name
        .chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    words.iter().any(|word| plain.ends_with(word))
}

/// Whether a key of this name says that its value is a secret: `password`, `accessKey`, `db_token`.
pub fn is_secret_name(name: &str) -> bool {
    ends_with_one(name, SECRET)
}

/// Whether this is a secret that is written down, as the value of a key of this name.
fn is_written_down(name: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_empty() && is_secret_name(name),
        Value::Integer(_) => ends_with_one(name, NUMBERS),
        _ => false,
    }
}

/// Whether a secret is written down in this value, or anywhere in it.
pub(crate) fn has_written_down(name: &str, value: &Value) -> bool {
    match value {
        Value::Table(table) => table
            .iter()
            .any(|(name, entry)| has_written_down(name, &entry.item.value)),
        Value::Array(items) => items.iter().any(|item| has_written_down(name, &item.value)),
        value => is_written_down(name, value),
    }
}

/// Finds the secrets in the `config` of an operator's table, and makes the paths of their files absolute there.
pub(crate) fn of_config(
    table: &mut Table,
    base: &Path,
    section: &mut Section<'_, '_>,
) -> Vec<Secret> {
    let mut walk = Walk {
        base,
        section,
        found: Vec::new(),
    };
    if let Some(entry) = table.get_mut("config")
        && let Value::Table(config) = &mut entry.item.value
    {
        walk.table(config, "config", "");
    }
    walk.found
}

/// Refuses secrets that are written down among the keys of a connector.
pub(crate) fn refuse_in_connector(table: &Table, section: &mut Section<'_, '_>) {
    for (name, entry) in table.iter() {
        if has_written_down(name, &entry.item.value) {
            refuse(section, name);
        }
    }
}

fn refuse(section: &mut Section<'_, '_>, key: &str) {
    let message = "a secret does not belong in a job file, which others read";
    let hint =
        "say where it is: `{ env = \"NAME\" }` for a variable, `{ file = \"path\" }` for a file";
    section.problem(key, message, Some(hint.to_owned()));
}

struct Walk<'s, 't, 'p> {
    base: &'s Path,
    section: &'s mut Section<'t, 'p>,
    found: Vec<Secret>,
}

impl Walk<'_, '_, '_> {
    fn table(&mut self, table: &mut Table, key: &str, pointer: &str) {
        for (name, entry) in table.iter_mut() {
            let escaped = name.replace('~', "~0").replace('/', "~1");
            let (key, pointer) = (format!("{key}.{name}"), format!("{pointer}/{escaped}"));
            self.item(&mut entry.item, name, &key, &pointer);
        }
    }

    fn item(&mut self, item: &mut Item, name: &str, key: &str, pointer: &str) {
        let place = item.place.clone();
        match &mut item.value {
            Value::Table(table) => match self.reference(table, name, key) {
                Some(Ok(source)) => self.found.push(Secret {
                    key: key.to_owned(),
                    pointer: pointer.to_owned(),
                    place,
                    source,
                }),
                Some(Err(message)) => self.section.problem(key, message, None),
                None => self.table(table, key, pointer),
            },
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.item(item, name, key, &format!("{pointer}/{index}"));
                }
            }
            value if is_written_down(name, value) => refuse(self.section, key),
            _ => {}
        }
    }

    /// What a table refers to, if it has nothing in it but `env` or `file`.
    fn reference(
        &self,
        table: &mut Table,
        name: &str,
        key: &str,
    ) -> Option<Result<SecretSource, &'static str>> {
        debug_assert!(key.starts_with("config."), "{key}");
        let is_place = |name: &str| matches!(name, "env" | "file");
        if !table.iter().any(|(name, _)| is_place(name)) {
            return None;
        }
        if !table.iter().all(|(name, _)| is_place(name)) {
            return is_secret_name(name).then_some(Err(
                "is a secret with more than its place: it has `env` or `file`, and nothing else",
            ));
        }
        let mut texts = table.iter_mut().map(|(name, entry)| {
            let is_env = name == "env";
            match &mut entry.item.value {
                Value::String(text) => (is_env, Some(text)),
                _ => (is_env, None),
            }
        });
        let (is_env, text) = texts.next()?;
        let Some(text) = text else {
            return Some(Err(
                "is a secret whose place is no text: `env` names a variable, `file` a file",
            ));
        };
        if texts.next().is_some() {
            return Some(Err(
                "is a secret with both `env` and `file`: it has one place",
            ));
        }
        if text.is_empty() || is_env && text.contains(['=', '\0']) {
            return Some(Err(
                "is a secret without a place: `env` names a variable, `file` a file",
            ));
        }
        if is_env {
            return Some(Ok(SecretSource::Env(text.clone())));
        }
        let path = absolute(&self.base.join(&*text));
        *text = path.display().to_string();
        Some(Ok(SecretSource::File(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_that_they_are_secrets() {
        for name in [
            "password",
            "DB_PASSWORD",
            "accessKey",
            "access-key",
            "api.key",
            "github_token",
            "clientSecret",
            "aws-secret-access-key",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "key",
            "keys",
            "tokens",
            "token-size",
            "pass",
            "secretary",
            "",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn a_place_is_shown_as_it_is_written() {
        let shown = SecretSource::Env("A\"B".to_owned()).to_string();
        assert_eq!(
            shown.parse::<toml::Value>().unwrap()["env"].as_str(),
            Some("A\"B")
        );
        assert_eq!(
            SecretSource::File("/run/secrets/db".into()).to_string(),
            "{ file = \"/run/secrets/db\" }"
        );
    }
}
