//! Reading one table of the job file: each getter takes a key of a certain type, and notes a problem
//! and gives `None` when the value is something else. Keys that are not in the section's
//! list are problems from the start.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::document::{Item, Table, Value};
use super::hints::did_you_mean;
use super::keys::Key;
use super::overrides::id_of;
use super::problem::{Place, Problems};
use super::units;

/// What happens to keys that a section does not list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They are problems.
    Refused,
    /// Somebody else reads them.
    Allowed,
}

/// A table that is being read.
pub struct Section<'t, 'p> {
    path: String,
    table: &'t Table,
    place: Place,
    keys: &'static [Key],
    problems: &'p mut Problems,
}

impl<'t, 'p> Section<'t, 'p> {
    /// A table in which only `keys` may stand.
    pub fn closed(
        path: impl Into<String>,
        table: &'t Table,
        place: Place,
        keys: &'static [Key],
        problems: &'p mut Problems,
    ) -> Self {
        let mut section = Self::open(path, table, place, keys, problems);
        for (name, _) in table.iter() {
            if !keys.iter().any(|key| key.name == name) {
                let hint = did_you_mean(name, keys.iter().map(|key| key.name));
                section.problem(name, "unknown key", hint);
            }
        }
        section
    }

    /// A table whose other keys somebody else reads.
    pub fn open(
        path: impl Into<String>,
        table: &'t Table,
        place: Place,
        keys: &'static [Key],
        problems: &'p mut Problems,
    ) -> Self {
        Self {
            path: path.into(),
            table,
            place,
            keys,
            problems,
        }
    }

    /// Notes a problem with what `key` is set to, or with its absence.
    pub fn problem(&mut self, key: &str, message: impl Into<String>, hint: Option<String>) {
        let place = self.place_of(key);
        let path = self.path_of(key);
        self.problems.push(place, path, message, hint);
    }

    /// Where `key` stands; the table, if it does not.
    pub fn place_of(&self, key: &str) -> Place {
        self.table
            .place_of(key)
            .unwrap_or_else(|| self.place.clone())
    }

    fn path_of(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{key}", self.path),
        }
    }

    /// What `key` is set to.
    pub fn item(&self, key: &str) -> Option<&'t Item> {
        debug_assert!(
            self.keys.iter().any(|known| known.name == key),
            "`{key}` is read but not listed among the keys of {}",
            self.path
        );
        self.table.get(key).map(|entry| &entry.item)
    }

    /// Whether `key` is set.
    pub fn has(&self, key: &str) -> bool {
        self.item(key).is_some()
    }

    fn wrong_type(&mut self, key: &str, expected: &str, found: &Item) {
        let message = format!("expected {expected}, found {}", found.value.type_name());
        self.problem(key, message, None);
    }

    /// A text. What was typed after `-D` is a text even where it looks like a number.
    pub fn string(&mut self, key: &str) -> Option<String> {
        self.text(key, "a string")
    }

    fn text(&mut self, key: &str, expected: &str) -> Option<String> {
        let item = self.item(key)?;
        match (&item.value, &item.place) {
            (Value::String(text), _) if text.is_empty() => {
                self.problem(key, "must not be empty", None);
                None
            }
            (Value::String(text), _) => Some(text.clone()),
            (Value::Integer(_) | Value::Float(_) | Value::Boolean(_), Place::Option(option)) => {
                option.split_once('=').map(|(_, typed)| typed.to_owned())
            }
            _ => {
                self.wrong_type(key, expected, item);
                None
            }
        }
    }

    /// A text that has to be there.
    pub fn required(&mut self, key: &str, example: &str) -> Option<String> {
        if !self.has(key) {
            let hint = Some(format!("for example `{key} = \"{example}\"`"));
            self.problem(key, "is missing", hint);
        }
        self.string(key)
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        let item = self.item(key)?;
        if let Value::Boolean(truth) = item.value {
            return Some(truth);
        }
        self.wrong_type(key, "`true` or `false`", item);
        None
    }

    /// A whole number in a range.
    pub fn integer<T>(&mut self, key: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + PartialOrd + Display + TryFrom<i64> + Into<u64>,
    {
        let item = self.item(key)?;
        let Value::Integer(number) = item.value else {
            self.wrong_type(key, "an integer", item);
            return None;
        };
        match T::try_from(number) {
            Ok(value) if range.contains(&value) => Some(value),
            _ => {
                let (low, high) = (*range.start(), *range.end());
                let message = if high.into() >= u64::from(u32::MAX) {
                    format!("must be at least {low}, not {number}")
                } else {
                    format!("must be from {low} to {high}, not {number}")
                };
                self.problem(key, message, None);
                None
            }
        }
    }

    /// A number for which `holds`; `demand` says what it has to be.
    pub fn number(&mut self, key: &str, demand: &str, holds: impl Fn(f64) -> bool) -> Option<f64> {
        let item = self.item(key)?;
        let number = match item.value {
            Value::Float(number) => number,
            Value::Integer(number) => number as f64,
            _ => {
                self.wrong_type(key, "a number", item);
                return None;
            }
        };
        if holds(number) {
            return Some(number);
        }
        self.problem(key, format!("must be {demand}, not {number}"), None);
        None
    }

    /// A duration such as `"10s"`.
    pub fn duration(&mut self, key: &str) -> Option<Duration> {
        let text = self.text(key, "a duration such as \"10s\"")?;
        match units::parse_duration(&text) {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.problem(key, error, None);
                None
            }
        }
    }

    /// A duration that is not zero.
    pub fn positive_duration(&mut self, key: &str) -> Option<Duration> {
        let duration = self.duration(key)?;
        if duration.is_zero() {
            self.problem(key, "must be longer than zero", None);
            return None;
        }
        Some(duration)
    }

    /// A size in bytes such as `"64MiB"`.
    pub fn size(&mut self, key: &str) -> Option<u64> {
        let text = self.text(key, "a size such as \"64MiB\"")?;
        match units::parse_size(&text) {
            Ok(size) => Some(size),
            Err(error) => {
                self.problem(key, error, None);
                None
            }
        }
    }

    /// A size that is not zero.
    pub fn positive_size(&mut self, key: &str) -> Option<u64> {
        let size = self.size(key)?;
        if size == 0 {
            self.problem(key, "must be more than zero", None);
            return None;
        }
        Some(size)
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let hint = did_you_mean(&text, words.iter().map(|(word, _)| *word));
        self.problem(key, format!("`{text}` is not one of its values"), hint);
        None
    }

    /// A list of texts.
    pub fn strings(&mut self, key: &str) -> Option<Vec<String>> {
        let item = self.item(key)?;
        let Value::Array(items) = &item.value else {
            self.wrong_type(key, "an array of strings", item);
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::String(text) if !text.is_empty() => texts.push(text.clone()),
                Value::String(_) => {
                    self.problem(key, "must not hold empty strings", None);
                    return None;
                }
                other => {
                    let message = format!(
                        "expected an array of strings, {} is in it",
                        other.type_name()
                    );
                    self.problem(key, message, None);
                    return None;
                }
            }
        }
        Some(texts)
    }

    /// A table in which only `keys` may stand.
    pub fn table(&mut self, key: &str, keys: &'static [Key]) -> Option<Section<'t, '_>> {
        let (table, place) = self.any_table(key)?;
        let path = self.path_of(key);
        Some(Section::closed(path, table, place, keys, self.problems))
    }

    /// As [`Section::table`], an empty one if there is none.
    pub fn table_or<'s>(
        &'s mut self,
        empty: &'s Table,
        key: &str,
        keys: &'static [Key],
    ) -> Section<'s, 's> {
        let (table, place) = self
            .any_table(key)
            .unwrap_or_else(|| (empty, self.place.clone()));
        let path = self.path_of(key);
        Section::closed(path, table, place, keys, self.problems)
    }

    /// A table with whatever in it.
    pub fn any_table(&mut self, key: &str) -> Option<(&'t Table, Place)> {
        let item = self.item(key)?;
        if let Value::Table(table) = &item.value {
            return Some((table, self.place_of(key)));
        }
        self.wrong_type(key, "a table", item);
        None
    }

    /// The sources, operators or sinks: each is called by its id, or else by its number, and read.
    /// `others` says whether keys that are not in `keys` are allowed in them.
    pub fn nodes<T>(
        &mut self,
        list: &str,
        keys: &'static [Key],
        others: Others,
        mut read: impl FnMut(Section<'t, '_>, &'t Table) -> Option<T>,
    ) -> Vec<T> {
        let Some(item) = self.item(list) else {
            return Vec::new();
        };
        let items = if let Value::Array(items) = &item.value {
            items.as_slice()
        } else {
            let message = format!(
                "expected a list of tables, found {}",
                item.value.type_name()
            );
            let hint = format!("write `[[{list}]]` with two brackets");
            self.problem(list, message, Some(hint));
            match &item.value {
                Value::Table(_) => std::slice::from_ref(item),
                _ => return Vec::new(),
            }
        };
        let mut nodes = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let name = id_of(item).unwrap_or_else(|| format!("#{}", index + 1));
            let path = format!("{list}.{name}");
            let place = item.place.clone();
            let Value::Table(table) = &item.value else {
                let message = format!("expected a table, found {}", item.value.type_name());
                self.problems.push(place, path, message, None);
                continue;
            };
            let section = match others {
                Others::Refused => Section::closed(path, table, place, keys, self.problems),
                Others::Allowed => Section::open(path, table, place, keys, self.problems),
            };
            nodes.extend(read(section, table));
        }
        nodes
    }

    /// A table of tables in which only `keys` may stand, read one by one with their names. `example` shows
    /// one of them.
    pub fn named_tables<T>(
        &mut self,
        key: &str,
        keys: &'static [Key],
        example: &str,
        mut read: impl FnMut(&str, Section<'t, '_>) -> Option<T>,
    ) -> Vec<T> {
        let Some((tables, _)) = self.any_table(key) else {
            return Vec::new();
        };
        let mut read_all = Vec::new();
        for (name, entry) in tables.iter() {
            let path = format!("{key}.{name}");
            let Value::Table(table) = &entry.item.value else {
                let message = format!("expected a table, found {}", entry.item.value.type_name());
                let hint = format!("keys of it look like `{path}.{example}`");
                self.problem(&path, message, Some(hint));
                continue;
            };
            let place = tables.place_of(name).unwrap_or_else(|| self.place.clone());
            let path = self.path_of(&path);
            let section = Section::closed(path, table, place, keys, self.problems);
            read_all.extend(read(name, section));
        }
        read_all
    }

    /// A list of tables in which only `keys` may stand, read one by one.
    pub fn tables<T>(
        &mut self,
        key: &str,
        keys: &'static [Key],
        mut read: impl FnMut(Section<'t, '_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let item = self.item(key)?;
        let Value::Array(items) = &item.value else {
            self.wrong_type(key, "an array of tables", item);
            return None;
        };
        let mut read_all = Vec::with_capacity(items.len());
        for item in items {
            let Value::Table(table) = &item.value else {
                self.wrong_type(key, "an array of tables", item);
                continue;
            };
            let path = self.path_of(key);
            let section = Section::closed(path, table, item.place.clone(), keys, self.problems);
            read_all.extend(read(section));
        }
        Some(read_all)
    }
}
