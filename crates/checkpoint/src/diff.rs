//! What changed from one checkpoint to another.
//!
//! State is compared key by key, whatever the parallelism of either side and however it was written.
//! In memory there is the state of one subtask of the first and as many key groups of the second.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;

use dataflow::key::KeyGroupRange;
use dataflow::operator_state::Pieces;
use dataflow::state::{KeyedState, Walked};
use serde::Serialize;

use crate::export::{load, ranges};
use crate::metadata::{Operator, Role};
use crate::{Completed, Error, Result};

/// What changed, operator by operator, sorted by id.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Diff {
    /// Those that are in either.
    pub operators: Vec<OperatorDiff>,
}

/// What changed of a source, operator or sink.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OperatorDiff {
    /// Its id.
    pub id: String,
    /// Subtasks before and after; `None` where it is not.
    pub parallelism: (Option<u32>, Option<u32>),
    /// Its states, sorted by name.
    pub states: Vec<StateDiff>,
    /// Positions of a source before and after, where they differ.
    pub positions: Option<(Vec<serde_json::Value>, Vec<serde_json::Value>)>,
}

/// What changed of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StateDiff {
    /// Its name.
    pub name: String,
    /// Before.
    pub before: Amount,
    /// After.
    pub after: Amount,
    /// Keys that the earlier one does not have.
    pub added: u64,
    /// Keys that only the earlier one has.
    pub removed: u64,
    /// Keys that are on both sides, with other content.
    pub changed: u64,
}

/// How much there is of a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Amount {
    /// Keys.
    pub keys: u64,
    /// Values, map entries or list elements.
    pub entries: u64,
    /// Bytes of keys (once each), fields and values.
    pub bytes: u64,
}

impl OperatorDiff {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        let same = |state: &StateDiff| state.added + state.removed + state.changed == 0;
        self.parallelism.0 == self.parallelism.1
            && self.positions.is_none()
            && self.states.iter().all(same)
    }
}

impl Diff {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.operators.iter().all(OperatorDiff::is_equal)
    }
}

/// Compares two checkpoints.
///
/// # Errors
/// [`Error::Incompatible`] if they do not have the same key groups, [`Error::Corrupt`] if state is
/// not what was written, [`Error::Storage`] if it cannot be read.
pub fn diff(before: &Completed, after: &Completed) -> Result<Diff> {
    let groups = (before.key_groups()?, after.key_groups()?);
    if groups.0 != groups.1 {
        return Err(Error::Incompatible(format!(
            "{} has {} key groups, {} has {}: they are not of one job",
            before.metadata_location(),
            groups.0,
            after.metadata_location(),
            groups.1
        )));
    }
    let ids: BTreeSet<&str> = [before, after]
        .iter()
        .flat_map(|checkpoint| &checkpoint.metadata().operators)
        .map(|operator| operator.id.as_str())
        .collect();
    let operators = ids.into_iter().map(|id| operator(id, before, after));
    Ok(Diff {
        operators: operators.collect::<Result<_>>()?,
    })
}

fn operator(id: &str, before: &Completed, after: &Completed) -> Result<OperatorDiff> {
    let (old, new) = (before.operator(id), after.operator(id));
    let groups = before.key_groups()?;
    let mut states = BTreeMap::new();
    for declared in [old, new].into_iter().flatten().flat_map(|it| &it.states) {
        states.insert(
            declared.name.clone(),
            StateDiff {
                name: declared.name.clone(),
                ..StateDiff::default()
            },
        );
    }
    // Of the side that there is, the first one's ranges where there are both.
    let pieces: Vec<KeyGroupRange> = match old.filter(|it| !it.subtasks.is_empty()).or(new) {
        Some(operator) if !states.is_empty() => ranges(operator, groups).collect(),
        _ => Vec::new(),
    };
    for range in pieces {
        let load = |checkpoint: &Completed, operator: Option<&Operator>| {
            operator.map_or_else(
                || Ok(KeyedState::new(Vec::new(), range, groups)),
                |operator| load(checkpoint, operator, range),
            )
        };
        compare(&load(before, old)?, &load(after, new)?, &mut states);
    }
    compare_operator_state((old, before), (new, after), &mut states)?;
    let positions = |operator: Option<&Operator>| -> Vec<serde_json::Value> {
        let subtasks = operator
            .filter(|operator| operator.role == Role::Source)
            .map(|operator| operator.subtasks.as_slice());
        let parts = subtasks.unwrap_or_default().iter();
        parts
            .flat_map(|subtask| subtask.parts.iter().cloned())
            .collect()
    };
    let positions = (positions(old), positions(new));
    let parallelism = |operator: Option<&Operator>| operator.map(|it| it.parallelism);
    Ok(OperatorDiff {
        id: id.to_owned(),
        parallelism: (parallelism(old), parallelism(new)),
        states: states.into_values().collect(),
        positions: (positions.0 != positions.1).then_some(positions),
    })
}

/// A checkpoint, and the operator in it, if it has it.
type Side<'a> = (Option<&'a Operator>, &'a Completed);

/// Operator state is compared as a whole, whatever the parallelism of either side: of a broadcast state the copy
/// of the first subtask, by its fields; of a list the elements of all subtasks, whichever has them.
fn compare_operator_state(
    before: Side<'_>,
    after: Side<'_>,
    states: &mut BTreeMap<String, StateDiff>,
) -> Result<()> {
    let read = |(operator, checkpoint): Side<'_>| match operator {
        Some(operator) => checkpoint.operator_state(operator),
        None => Ok(None),
    };
    let pieces = (read(before)?, read(after)?);
    let declared = |(operator, _): Side<'_>| {
        let states = operator.map(|it| it.operator_states.as_slice());
        states
            .unwrap_or_default()
            .iter()
            .map(|it| it.name.clone())
            .collect::<Vec<_>>()
    };
    let names: BTreeSet<String> = declared(before)
        .into_iter()
        .chain(declared(after))
        .collect();
    for name in names {
        let (old, new) = (
            Entries::of(pieces.0.as_ref(), &name),
            Entries::of(pieces.1.as_ref(), &name),
        );
        let mut diff = StateDiff {
            name: name.clone(),
            before: old.amount,
            after: new.amount,
            ..StateDiff::default()
        };
        for key in old
            .held
            .keys()
            .chain(new.held.keys())
            .collect::<BTreeSet<_>>()
        {
            let nothing = Vec::new();
            let old = old.held.get(key).unwrap_or(&nothing);
            let new = new.held.get(key).unwrap_or(&nothing);
            match (old.len(), new.len()) {
                (1, 1) if old != new => diff.changed += 1,
                (old, new) if old > new => diff.removed += (old - new) as u64,
                (old, new) => diff.added += (new - old) as u64,
            }
        }
        states.insert(name, diff);
    }
    Ok(())
}

/// The entries of an operator state: the values of each field, or of each element as often as there is one.
#[derive(Default)]
struct Entries {
    held: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    amount: Amount,
}

impl Entries {
    fn of(pieces: Option<&Pieces>, name: &str) -> Self {
        let mut entries = Self::default();
        let all = pieces.into_iter().flat_map(|pieces| pieces.entries(name));
        for (subtask, field, value) in all {
            let (key, content) = match field {
                Some(_) if subtask > 0 => continue,
                Some(field) => (field, value),
                None => (value, &b""[..]),
            };
            entries.amount.keys += 1;
            entries.amount.entries += 1;
            entries.amount.bytes += (field.map_or(0, <[u8]>::len) + value.len()) as u64;
            entries
                .held
                .entry(key.to_vec())
                .or_default()
                .push(content.to_vec());
        }
        entries
    }
}

/// A key of a state, with all that it holds.
struct Held<'a> {
    group: u32,
    state: &'a str,
    key: &'a [u8],
    content: Vec<(Option<&'a [u8]>, &'a [u8])>,
}

impl Held<'_> {
    fn order(&self, other: &Self) -> Ordering {
        (self.group, self.state, self.key).cmp(&(other.group, other.state, other.key))
    }

    fn add_to(&self, amount: &mut Amount) {
        amount.keys += 1;
        amount.entries += self.content.len() as u64;
        let content = self.content.iter();
        let bytes = content.map(|(field, value)| field.unwrap_or_default().len() + value.len());
        amount.bytes += (self.key.len() + bytes.sum::<usize>()) as u64;
    }
}

/// The keys of a state, in the order of the walk.
struct Keys<'a, W: Iterator<Item = Walked<'a>>> {
    state: &'a KeyedState,
    walk: Peekable<W>,
}

impl<'a, W: Iterator<Item = Walked<'a>>> Iterator for Keys<'a, W> {
    type Item = Held<'a>;

    fn next(&mut self) -> Option<Held<'a>> {
        let first = self.walk.next()?;
        let mut content = vec![(first.field, first.value)];
        let same = |next: &Walked<'a>| (next.state, next.key) == (first.state, first.key);
        while let Some(next) = self.walk.next_if(same) {
            content.push((next.field, next.value));
        }
        Some(Held {
            group: first.group,
            state: &self.state.states()[first.state as usize].name,
            key: first.key,
            content,
        })
    }
}

/// Both sides are walked in step.
fn compare(before: &KeyedState, after: &KeyedState, states: &mut BTreeMap<String, StateDiff>) {
    let keys = |state| Keys {
        state,
        walk: state.walk().peekable(),
    };
    let (mut old, mut new) = (keys(before).peekable(), keys(after).peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.order(new),
        };
        let gone = (order != Ordering::Greater).then(|| old.next()).flatten();
        let come = (order != Ordering::Less).then(|| new.next()).flatten();
        let name = gone.as_ref().or(come.as_ref()).map(|held| held.state);
        let Some(diff) = name.and_then(|name| states.get_mut(name)) else {
            continue;
        };
        if let Some(gone) = &gone {
            gone.add_to(&mut diff.before);
        }
        if let Some(come) = &come {
            come.add_to(&mut diff.after);
        }
        match (gone, come) {
            (Some(_), None) => diff.removed += 1,
            (None, Some(_)) => diff.added += 1,
            (Some(gone), Some(come)) if gone.content != come.content => diff.changed += 1,
            _ => {}
        }
    }
}
