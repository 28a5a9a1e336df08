//! `-D KEY=VALUE`: sets a key of the job file from the command line.
//!
//! The key is a dotted path; sources, operators and sinks are found by their id, as in
//! `operator.count.parallelism`. The value is TOML, or else a plain string, so that
//! `checkpoint.interval=500ms` needs no quotes. What it sets is then checked like everything else.

use std::sync::Arc;

use super::document::{Item, KeyValue, Table, Value, parse_key, parse_value};
use super::flink;
use super::hints::did_you_mean;
use super::keys::{TOP, from_flink, value_from_flink};
use super::problem::{Place, Problems};
use super::secret::has_written_down;

/// Applies an option of the form `KEY=VALUE` to the job file's tree.
pub fn apply(option: &str, root: &mut Table, problems: &mut Problems) {
    let place = Place::Option(Arc::from(format!("-D {}", shown(option))));
    let Some((key, text)) = option.split_once('=') else {
        let hint = "options look like `-D checkpoint.interval=500ms`".to_owned();
        problems.push(place, "", "it has no `=`", Some(hint));
        return;
    };
    let (key, text) = (key.trim(), text.trim());
    let Some(mut parts) = parse_key(key) else {
        let hint = "keys look like `checkpoint.interval` or `operator.count.parallelism`";
        problems.push(
            place,
            "",
            format!("`{key}` is not a key"),
            Some(hint.into()),
        );
        return;
    };
    let mut item = parse_value(text, &place, problems).unwrap_or_else(|| Item {
        value: Value::String(text.to_owned()),
        place: place.clone(),
    });
    if let Some(flink) = from_flink(&parts.join(".")) {
        if let Value::String(value) = &mut item.value {
            *value = value_from_flink(&flink, value);
        }
        parts = vec![flink.section.to_owned(), flink.key.to_owned()];
    }
    set(root, &parts, item, problems);
}

/// An option as a message shows it: without a secret that is written down in it.
fn shown(option: &str) -> String {
    let Some((key, text)) = option.split_once('=') else {
        return option.to_owned();
    };
    let place = Place::Option(Arc::from(""));
    let item = parse_value(text.trim(), &place, &mut Problems::default());
    let value = item.map_or_else(|| Value::String(text.trim().to_owned()), |item| item.value);
    let last = parse_key(key.trim()).and_then(|mut parts| parts.pop());
    match has_written_down(last.as_deref().unwrap_or(key.trim()), &value) {
        true => format!("{key}=…"),
        false => option.to_owned(),
    }
}

/// Sets what a path of at least one key leads to.
pub fn set(root: &mut Table, parts: &[String], item: Item, problems: &mut Problems) {
    let place = item.place.clone();
    let path = parts.join(".");
    let [first, rest @ ..] = parts else { return };
    if !TOP.iter().any(|key| key.name == first) {
        match flink::instead(&path) {
            Some((message, hint)) => problems.push(place, path, message, Some(hint)),
            None => {
                let hint = did_you_mean(first, TOP.iter().map(|key| key.name));
                problems.push(place, path, "unknown key", hint);
            }
        }
        return;
    }
    let is_list = matches!(first.as_str(), "source" | "operator" | "sink");
    let (table, keys) = if is_list {
        let [id, keys @ ..] = rest else {
            let hint = format!("name one of them and its key: `{first}.ID.KEY=VALUE`");
            problems.push(place, path, "names several tables", Some(hint));
            return;
        };
        match find(root, first, id) {
            Ok(table) => (table, keys),
            Err(hint) => {
                problems.push(place, path, format!("there is no {first} `{id}`"), hint);
                return;
            }
        }
    } else {
        match root.table_mut(first, &place) {
            Some(table) => (table, rest),
            // The job file has something else there, and that is reported by itself.
            None => return,
        }
    };
    let [between @ .., last] = keys else {
        let hint = format!("name a key in it: `{path}.KEY=VALUE`");
        problems.push(place, path, "is a table", Some(hint));
        return;
    };
    let mut table = table;
    for (depth, key) in between.iter().enumerate() {
        match table.table_mut(key, &place) {
            Some(inner) => table = inner,
            None => {
                let upto = parts[..parts.len() - between.len() - 1 + depth + 1].join(".");
                problems.push(place, path, format!("`{upto}` is not a table"), None);
                return;
            }
        }
    }
    // `input` and `inputs` are one key in two forms: setting one is meant to replace the other.
    if between.is_empty() && is_list {
        match last.as_str() {
            "input" => table.remove("inputs"),
            "inputs" => table.remove("input"),
            _ => {}
        }
    }
    table.insert(
        last.as_str(),
        KeyValue {
            key_place: place,
            item,
        },
    );
}

/// The table with this id in a list of tables; otherwise a hint at those that the file has.
fn find<'t>(root: &'t mut Table, list: &str, id: &str) -> Result<&'t mut Table, Option<String>> {
    let Some(KeyValue {
        item: Item {
            value: Value::Array(items),
            ..
        },
        ..
    }) = root.get_mut(list)
    else {
        return Err(None);
    };
    let ids: Vec<Option<String>> = items.iter().map(id_of).collect();
    let Some(index) = ids.iter().position(|other| other.as_deref() == Some(id)) else {
        return Err(did_you_mean(id, ids.iter().flatten().map(String::as_str)));
    };
    match &mut items[index].value {
        Value::Table(table) => Ok(table),
        _ => Err(None),
    }
}

/// The id that a source's, operator's or sink's table has.
pub(crate) fn id_of(item: &Item) -> Option<String> {
    let Value::Table(table) = &item.value else {
        return None;
    };
    match &table.get("id")?.item.value {
        Value::String(id) => Some(id.clone()),
        _ => None,
    }
}
