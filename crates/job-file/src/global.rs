//! The global configuration: defaults for `job.state-backend`, `[checkpoint]` and `[restart]` that the jobs of a machine
//! share, in our words or under the names that Flink gives them.
//!
//! What the job file or `-D` sets goes before. Flink allows the parameters of several restart
//! strategies to stand side by side, and uses those of the chosen one; so do we for Flink's names.

use std::path::Path;
use std::sync::Arc;

use super::checkpoint::resolve_dir;
use super::document::{self, Item, KeyValue, Table, Value};
use super::flink;
use super::hints::{did_you_mean, nearest};
use super::keys::{
    CHECKPOINT, FromFlink, JOB, Key, RESTART, flink_names, from_flink, value_from_flink,
};
use super::problem::Problems;

/// The sections that a global configuration may have, as they would be written in a job file.
#[derive(Debug, Default)]
pub(crate) struct Global {
    /// The keys of it that a machine may have an answer to.
    job: Table,
    checkpoint: Table,
    restart: Table,
    /// Parameters by Flink's names, each with the strategy that it belongs to.
    parameters: Vec<(&'static str, &'static str, KeyValue)>,
}

impl Global {
    /// Reads the text of `file`, paths relative to `base`.
    pub(crate) fn read(file: &Arc<str>, text: &str, base: &Path, problems: &mut Problems) -> Self {
        let mut global = Self::default();
        let Some(document) = document::parse(file, text, problems) else {
            return global;
        };
        for (name, entry) in document.iter() {
            match (name, &entry.item.value) {
                ("checkpoint", Value::Table(table)) => {
                    global.section(table, name, CHECKPOINT, problems);
                }
                ("restart", Value::Table(table)) => {
                    global.section(table, name, RESTART, problems);
                }
                ("job", Value::Table(table)) => global.job(table, problems),
                _ => global.flink(name, entry, problems),
            }
        }
        for key in ["dir", "savepoint-dir"] {
            make_absolute(&mut global.checkpoint, key, base);
        }
        global
    }

    fn section(
        &mut self,
        table: &Table,
        name: &str,
        keys: &'static [Key],
        problems: &mut Problems,
    ) {
        for (key, entry) in table.iter() {
            if keys.iter().any(|known| known.name == key) {
                self.table_of(name).insert(key, entry.clone());
            } else {
                let hint = did_you_mean(key, keys.iter().map(|known| known.name));
                let path = format!("{name}.{key}");
                problems.push(entry.key_place.clone(), path, "unknown key", hint);
            }
        }
    }

    /// The keys of a job that are no matter of one job alone: those that have a name of Flink's.
    fn job(&mut self, table: &Table, problems: &mut Problems) {
        for (key, entry) in table.iter() {
            let shared = |known: &&Key| !known.flink.is_empty();
            if JOB.iter().filter(shared).any(|known| known.name == key) {
                self.job.insert(key, entry.clone());
            } else {
                self.flink(&format!("job.{key}"), entry, problems);
            }
        }
    }

    fn table_of(&mut self, section: &str) -> &mut Table {
        match section {
            "job" => &mut self.job,
            "checkpoint" => &mut self.checkpoint,
            _ => &mut self.restart,
        }
    }

    /// Walks down to one of Flink's names, which may be written with dots or as tables.
    fn flink(&mut self, path: &str, entry: &KeyValue, problems: &mut Problems) {
        if let Some(key) = from_flink(path) {
            // Flink has names that are beginnings of others: `restart-strategy` is also a table.
            if !matches!(entry.item.value, Value::Table(_)) {
                return self.flink_key(path, &key, entry, problems);
            }
        }
        if let Value::Table(table) = &entry.item.value {
            for (name, inner) in table.iter() {
                self.flink(&format!("{path}.{name}"), inner, problems);
            }
            return;
        }
        let place = entry.key_place.clone();
        let top = path.split('.').next().unwrap_or(path);
        if matches!(top, "job" | "source" | "operator" | "sink") {
            let hint = "it has `job.state-backend`, `[checkpoint]`, `[restart]` and Flink's names for their keys";
            let hint = hint.to_owned();
            problems.push(place, path, "belongs in a job file", Some(hint));
            return;
        }
        if let Some((message, hint)) = flink::instead(path) {
            problems.push(place, path, message, Some(hint));
            return;
        }
        let names = flink_names();
        let candidates = names
            .iter()
            .map(String::as_str)
            .chain(["checkpoint", "restart"]);
        let hint = nearest(path, candidates).map(|near| format!("did you mean `{near}`?"));
        problems.push(place, path, "unknown key", hint);
    }

    fn flink_key(
        &mut self,
        path: &str,
        key: &FromFlink,
        entry: &KeyValue,
        problems: &mut Problems,
    ) {
        let mut entry = entry.clone();
        if let Value::String(value) = &mut entry.item.value {
            *value = value_from_flink(key, value);
        }
        if let Some(strategy) = key.strategy {
            self.parameters.push((strategy, key.key, entry));
            return;
        }
        let into = self.table_of(key.section);
        if into.get(key.key).is_some() {
            let message = format!("`{}.{}` is set twice under two names", key.section, key.key);
            problems.push(entry.key_place, path, message, None);
            return;
        }
        into.insert(key.key, entry);
    }

    /// Adds the defaults to a job file's tree, after what is set there.
    pub(crate) fn apply(mut self, root: &mut Table) {
        // A job file without `[job]` is wrong, which is said of the job file.
        if root.get("job").is_some() {
            add_defaults(root, "job", &self.job);
        }
        add_defaults(root, "checkpoint", &self.checkpoint);
        let ours = string_at(&self.restart, "strategy");
        let theirs = match root.get("restart").map(|entry| &entry.item.value) {
            Some(Value::Table(table)) => string_at(table, "strategy"),
            _ => None,
        };
        // The parameters of one strategy are no defaults for another.
        if theirs.is_some() && theirs != ours {
            return;
        }
        for (strategy, key, entry) in std::mem::take(&mut self.parameters) {
            if ours.as_deref() == Some(strategy) && self.restart.get(key).is_none() {
                self.restart.insert(key, entry);
            }
        }
        add_defaults(root, "restart", &self.restart);
    }
}

fn add_defaults(root: &mut Table, section: &str, defaults: &Table) {
    let Some((_, first)) = defaults.iter().next() else {
        return;
    };
    let place = first.key_place.clone();
    if let Some(table) = root.table_mut(section, &place) {
        for (key, entry) in defaults.iter() {
            if table.get(key).is_none() {
                table.insert(key, entry.clone());
            }
        }
    }
}

fn string_at(table: &Table, key: &str) -> Option<String> {
    match &table.get(key)?.item.value {
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// Paths in the global configuration are relative to it, not to the job file that they end up in.
fn make_absolute(table: &mut Table, key: &str, base: &Path) {
    let Some(KeyValue {
        item: Item {
            value: Value::String(text),
            ..
        },
        ..
    }) = table.get_mut(key)
    else {
        return;
    };
    // What cannot be resolved stays as it is and is reported when the section is read.
    if let Ok(directory) = resolve_dir(text, base) {
        *text = directory.to_string();
    }
}
