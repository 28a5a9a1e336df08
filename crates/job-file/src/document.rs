//! A TOML document in which every key and every value knows its place.
//!
//! The job file, the global configuration and `-D` options become one tree of these, so that
//! whatever is found wrong later can be shown where it was written.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problems};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
}

/// A TOML value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    String(String),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// A date, a time, or both.
    Datetime(toml::value::Datetime),
    /// A list.
    Array(Vec<Item>),
    /// A table.
    Table(Table),
}

/// A table: its entries by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    entries: BTreeMap<String, KeyValue>,
}

/// An entry of a [`Table`].
#[derive(Clone, Debug, PartialEq)]
pub struct KeyValue {
    /// Where the key stands.
    pub key_place: Place,
    /// What it is set to.
    pub item: Item,
}

impl Value {
    /// What to call a value of this type in a message.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Datetime(_) => "a date or time",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }

    /// The value without places.
    pub fn to_toml(&self) -> toml::Value {
        match self {
            Self::String(text) => toml::Value::String(text.clone()),
            Self::Integer(number) => toml::Value::Integer(*number),
            Self::Float(number) => toml::Value::Float(*number),
            Self::Boolean(truth) => toml::Value::Boolean(*truth),
            Self::Datetime(time) => toml::Value::Datetime(*time),
            Self::Array(items) => {
                toml::Value::Array(items.iter().map(|item| item.value.to_toml()).collect())
            }
            Self::Table(table) => toml::Value::Table(table.to_toml()),
        }
    }

    /// The value as JSON. Dates and times become strings; a number that JSON has no word for
    /// (infinity, not-a-number) becomes null.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::String(text) => text.clone().into(),
            Self::Integer(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            Self::Boolean(truth) => (*truth).into(),
            Self::Datetime(time) => time.to_string().into(),
            Self::Array(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Table(table) => table
                .iter()
                .map(|(key, entry)| (key.to_owned(), entry.item.value.to_json()))
                .collect(),
        }
    }
}

impl Table {
    /// The entry of `key`.
    pub fn get(&self, key: &str) -> Option<&KeyValue> {
        self.entries.get(key)
    }

    /// The entry of `key`, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut KeyValue> {
        self.entries.get_mut(key)
    }

    /// Sets `key`, in place of what it was set to before.
    pub fn insert(&mut self, key: impl Into<String>, entry: KeyValue) {
        self.entries.insert(key.into(), entry);
    }

    /// Forgets what `key` is set to.
    pub fn remove(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// The entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &KeyValue)> {
        self.entries
            .iter()
            .map(|(key, entry)| (key.as_str(), entry))
    }

    /// The entries in the order of their keys, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut KeyValue)> {
        self.entries
            .iter_mut()
            .map(|(key, entry)| (key.as_str(), entry))
    }

    /// The table that `key` is set to; an empty one is made if it is not set. `None` if it is set to
    /// something else.
    pub fn table_mut(&mut self, key: &str, place: &Place) -> Option<&mut Self> {
        let entry = self
            .entries
            .entry(key.to_owned())
            .or_insert_with(|| KeyValue {
                key_place: place.clone(),
                item: Item {
                    value: Value::Table(Self::default()),
                    place: place.clone(),
                },
            });
        match &mut entry.item.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The place of what a dotted path leads to, as far as it leads: `timestamp.field` without such
    /// a field is the place of `timestamp`.
    pub fn place_of(&self, path: &str) -> Option<Place> {
        let mut found = None;
        let mut table = self;
        for part in path.split('.') {
            let Some(entry) = table.get(part) else { break };
            found = Some(entry.key_place.clone());
            match &entry.item.value {
                Value::Table(inner) => table = inner,
                _ => break,
            }
        }
        found
    }

    /// The table without places.
    pub fn to_toml(&self) -> toml::Table {
        self.iter()
            .map(|(key, entry)| (key.to_owned(), entry.item.value.to_toml()))
            .collect()
    }
}

/// Parses the text of `file`. Every place where it is not TOML becomes a problem, and the rest, which
/// may not mean what was meant, is not returned then.
pub fn parse(file: &Arc<str>, text: &str, problems: &mut Problems) -> Option<Table> {
    let lines = Lines::new(file, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    let is_toml = errors.is_empty();
    for error in errors {
        let place = lines.place(error.span().map_or(0, |span| span.start));
        let message = format!("this is not TOML: {}", error.message().replace('\n', ", "));
        problems.push(place, "", message, None);
    }
    let mut convert = Convert {
        place: &|offset| lines.place(offset),
        problems,
    };
    is_toml.then(|| convert.table(document.get_ref(), ""))
}

/// Parses what follows the `=` of an option; `None` if it is not one TOML value.
pub fn parse_value(text: &str, place: &Place, problems: &mut Problems) -> Option<Item> {
    let value = DeValue::parse(text).ok()?;
    let mut convert = Convert {
        place: &|_| place.clone(),
        problems,
    };
    convert.item(&value, "")
}

/// Parses a dotted key with TOML's rules of quoting into its parts; `None` if it is none.
pub fn parse_key(key: &str) -> Option<Vec<String>> {
    if key.contains('\n') {
        return None;
    }
    let text = format!("{key} = 0");
    let document = DeTable::parse(&text).ok()?;
    let mut parts = Vec::new();
    let mut table = document.get_ref();
    loop {
        let mut entries = table.iter();
        let (key, value) = entries.next()?;
        if entries.next().is_some() {
            return None;
        }
        parts.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            DeValue::Integer(_) => return Some(parts),
            _ => return None,
        }
    }
}

/// Where the lines of a text begin.
struct Lines<'a> {
    file: &'a Arc<str>,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(file: &'a Arc<str>, text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self { file, text, starts }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts[line - 1];
        let before = self.text.get(start..offset).unwrap_or_default();
        Place::File {
            file: Arc::clone(self.file),
            line,
            column: before.chars().count() + 1,
        }
    }
}

/// From the parser's tree to ours.
struct Convert<'a> {
    place: &'a dyn Fn(usize) -> Place,
    problems: &'a mut Problems,
}

impl Convert<'_> {
    fn table(&mut self, from: &DeTable<'_>, path: &str) -> Table {
        let mut table = Table::default();
        for (key, value) in from {
            let path = if path.is_empty() {
                key.get_ref().to_string()
            } else {
                format!("{path}.{}", key.get_ref())
            };
            if let Some(item) = self.item(value, &path) {
                let key_place = (self.place)(key.span().start);
                table.insert(key.get_ref().as_ref(), KeyValue { key_place, item });
            }
        }
        table
    }

    fn item(&mut self, from: &toml::Spanned<DeValue<'_>>, path: &str) -> Option<Item> {
        let place = (self.place)(from.span().start);
        let value = match from.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Value::Integer(number),
                    Err(_) => {
                        let message = format!("{number} does not fit a 64-bit integer");
                        self.problems.push(place, path, message, None);
                        return None;
                    }
                }
            }
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => {
                    let message = format!("{number} is not a number");
                    self.problems.push(place, path, message, None);
                    return None;
                }
            },
            DeValue::Boolean(truth) => Value::Boolean(*truth),
            DeValue::Datetime(time) => Value::Datetime(*time),
            DeValue::Array(items) => Value::Array(
                items
                    .iter()
                    .filter_map(|item| self.item(item, path))
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(table, path)),
        };
        Some(Item { value, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Table, Problems) {
        let mut problems = Problems::default();
        let table = parse(&"job.toml".into(), text, &mut problems);
        (table.unwrap_or_default(), problems)
    }

    #[test]
    fn a_value_knows_its_line_and_column() {
        let (table, problems) = parsed("# grüße\n[job]\nname = \"ü\" # x\nid = 3\n");
        assert!(problems.is_empty());
        assert_eq!(
            table.place_of("job.id").unwrap().to_string(),
            "job.toml:4:1"
        );
        assert_eq!(
            table.place_of("job.id.more").unwrap().to_string(),
            "job.toml:4:1"
        );
        let Value::Table(job) = &table.get("job").unwrap().item.value else {
            panic!("job is a table")
        };
        let name = &job.get("name").unwrap().item;
        assert_eq!(name.place.to_string(), "job.toml:3:8");
    }

    #[test]
    fn every_place_that_is_not_toml_is_reported() {
        let (table, problems) = parsed("[job]\nname = oops\nid = \"x\"\n[a\n");
        assert_eq!(problems.len(), 2);
        assert!(problems.to_string().contains("job.toml:2:8"), "{problems}");
        assert!(table.place_of("job.id").is_none());
    }

    #[test]
    fn keys_are_split_by_the_rules_of_toml() {
        assert_eq!(parse_key("a.b").unwrap(), ["a", "b"]);
        assert_eq!(parse_key("a.\"b.c\"").unwrap(), ["a", "b.c"]);
        assert_eq!(parse_key("a.b = 1\nc"), None);
        assert_eq!(parse_key(""), None);
        assert_eq!(parse_key("[a]\nb"), None);
    }
}
