//! What sources, operators and sinks have in common: an id, a parallelism, where input comes from.

use dataflow::KeyGroups;
use dataflow::Partition;

use super::document::{Table, Value};
use super::problem::Place;
use super::section::Section;

/// The most characters of an id. It becomes part of file names.
pub const MAX_ID: usize = 64;

/// What every node has.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its id, which addresses its state in checkpoints.
    pub id: String,
    /// Where the id stands.
    pub place: Place,
    /// Its parallelism, if it has one of its own.
    pub parallelism: Option<u32>,
    /// The whole table, for the places of its keys.
    pub table: Table,
}

/// A reference to an output: `count`, or `split.rejected` for a named one.
#[derive(Clone, Debug, PartialEq)]
pub struct InputRef {
    /// The node.
    pub node: String,
    /// Its output, if it is not the first.
    pub port: Option<String>,
    /// Where the reference stands.
    pub place: Place,
}

/// Where a node's records come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The outputs, in the order of the inputs.
    pub refs: Vec<InputRef>,
    /// The key that they are the value of: `input` or `inputs`.
    pub key: &'static str,
}

/// The values of `partition`.
pub const PARTITIONS: &[(&str, Partition)] = &[
    ("hash", Partition::Hash),
    ("forward", Partition::Forward),
    ("rebalance", Partition::Rebalance),
    ("broadcast", Partition::Broadcast),
];

impl Node {
    /// Reads what every node has. `None` without an id.
    pub fn read(section: &mut Section<'_, '_>, table: &Table, example: &str) -> Option<Self> {
        let parallelism = section.integer("parallelism", 1..=KeyGroups::MAX);
        let id = section.required("id", example)?;
        if let Err(message) = check_name(&id) {
            let hint = "ids are made of letters, digits, `-` and `_`".to_owned();
            section.problem("id", message, Some(hint));
        }
        Some(Self {
            id,
            place: section.place_of("id"),
            parallelism,
            table: table.clone(),
        })
    }

    /// Where `key` (or a dotted path) is in the node's table; the node itself, if the table has no such key.
    pub fn place_of(&self, key: &str) -> Place {
        self.table
            .place_of(key)
            .unwrap_or_else(|| self.place.clone())
    }
}

impl Inputs {
    /// Reads `input` or `inputs`. Empty if neither is given; `None` if what is given is wrong.
    pub fn read(section: &mut Section<'_, '_>) -> Option<Self> {
        if section.has("input") && section.has("inputs") {
            let message = "`input` and `inputs` are both set";
            let hint = "put all inputs into `inputs = [\"…\", \"…\"]`".to_owned();
            section.problem("inputs", message, Some(hint));
            return None;
        }
        let (key, texts) = if section.has("inputs") {
            ("inputs", section.strings("inputs")?)
        } else if let Some(Value::Array(_)) = section.item("input").map(|item| &item.value) {
            let hint = "several inputs are `inputs = [\"…\", \"…\"]`".to_owned();
            section.problem("input", "expected a string, found an array", Some(hint));
            return None;
        } else if section.has("input") {
            ("input", vec![section.string("input")?])
        } else {
            ("input", Vec::new())
        };
        let place = section.place_of(key);
        let refs = texts
            .into_iter()
            .map(|text| {
                let (node, port) = match text.split_once('.') {
                    Some((node, port)) => (node.to_owned(), Some(port.to_owned())),
                    None => (text, None),
                };
                InputRef {
                    node,
                    port,
                    place: place.clone(),
                }
            })
            .collect();
        Some(Self { refs, key })
    }
}

/// Whether `name` may be an id: it becomes part of file names and of dotted references.
pub fn check_name(name: &str) -> Result<(), String> {
    let illegal = |c: &char| !c.is_ascii_alphanumeric() && *c != '-' && *c != '_';
    if let Some(c) = name.chars().find(illegal) {
        return Err(format!("`{name}` holds the character {c:?}"));
    }
    if name.starts_with('-') {
        return Err(format!("`{name}` begins with `-`"));
    }
    if name.len() > MAX_ID {
        return Err(format!(
            "has {} characters, {MAX_ID} are allowed",
            name.len()
        ));
    }
    Ok(())
}
