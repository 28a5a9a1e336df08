//! Every entry of a checkpoint's keyed state, one after the other.
//!
//! The order is that of operator ids, key groups, state names, keys, and fields or places in a list:
//! it depends neither on parallelism nor on how the state came to be, so a full and an incremental
//! checkpoint of one state are exported alike. In memory there is the state of one subtask at a time.

use std::collections::BTreeSet;

use dataflow::KeyGroups;
use dataflow::key::KeyGroupRange;
use dataflow::state::{KeyedState, RestoreError, StateDescriptor};

use crate::metadata::{Operator, State, kind_of};
use crate::{Completed, Error, Result};

/// What is exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of the operator with this id.
    pub operator: Option<String>,
    /// Only of states with this name.
    pub state: Option<String>,
}

/// An entry of keyed state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportedEntry<'a> {
    /// Id of the operator.
    pub operator: &'a str,
    /// Name of the state.
    pub state: &'a str,
    /// `value`, `map`, `list` or `timers`; of operator state its scope.
    pub kind: &'a str,
    /// The schema that the operator has declared; see [`crate::schema`].
    pub schema: &'a str,
    /// The key. Of operator state, which has none, the number of the subtask in decimal digits.
    pub key: &'a [u8],
    /// Map state and broadcast state: the field. Timers: time and tag, as a field of their schema.
    pub field: Option<&'a [u8]>,
    /// List state: the place of the element in its list, from 0.
    pub index: Option<u64>,
    /// The value or element.
    pub value: &'a [u8],
}

/// Hands every entry that `filter` lets pass to `each`, which ends the export by an error. Returns
/// how many there were.
///
/// # Errors
/// [`Error::NotFound`] if the operator or state that is asked for is not in the checkpoint,
/// [`Error::Corrupt`] if state is not what was written, [`Error::Incompatible`] if this version
/// cannot read it, or that of `each`.
pub fn export<E: From<Error>>(
    checkpoint: &Completed,
    filter: &Filter,
    mut each: impl FnMut(ExportedEntry<'_>) -> Result<(), E>,
) -> Result<u64, E> {
    check(checkpoint, filter)?;
    let mut operators: Vec<&Operator> = checkpoint
        .metadata()
        .operators
        .iter()
        .filter(|operator| filter.operator.as_ref().is_none_or(|id| *id == operator.id))
        .collect();
    operators.sort_by(|a, b| a.id.cmp(&b.id));
    let mut count = 0;
    for operator in operators {
        let groups = checkpoint.key_groups()?;
        for range in ranges(operator, groups) {
            let state = load(checkpoint, operator, range)?;
            let states = state.states();
            for walked in state.walk() {
                let declared = &states[walked.state as usize];
                if filter
                    .state
                    .as_ref()
                    .is_some_and(|name| *name != declared.name)
                {
                    continue;
                }
                count += 1;
                each(ExportedEntry {
                    operator: &operator.id,
                    state: &declared.name,
                    kind: declared.kind.name(),
                    schema: &declared.schema,
                    key: walked.key,
                    field: walked.field,
                    index: walked.index,
                    value: walked.value,
                })?;
            }
        }
        count += export_operator_state(checkpoint, operator, filter, &mut each)?;
    }
    Ok(count)
}

/// Hands every entry of an operator's operator state to `each`; returns how many there were.
fn export_operator_state<E: From<Error>>(
    checkpoint: &Completed,
    operator: &Operator,
    filter: &Filter,
    each: &mut impl FnMut(ExportedEntry<'_>) -> Result<(), E>,
) -> Result<u64, E> {
    let Some(pieces) = checkpoint.operator_state(operator)? else {
        return Ok(0);
    };
    let mut states: Vec<&State> = operator.operator_states.iter().collect();
    states.sort_by(|a, b| a.name.cmp(&b.name));
    let is_asked_for = |state: &&State| {
        let name = filter.state.as_ref();
        name.is_none_or(|name| *name == state.name)
    };
    let mut count = 0;
    for state in states.into_iter().filter(is_asked_for) {
        // The place of an element is that in the list of its own subtask.
        let (mut of, mut index) = (0, 0);
        for (subtask, field, value) in pieces.entries(&state.name) {
            if subtask != of {
                (of, index) = (subtask, 0);
            }
            let key = subtask.to_string();
            each(ExportedEntry {
                operator: &operator.id,
                state: &state.name,
                kind: &state.kind,
                schema: &state.schema,
                key: key.as_bytes(),
                field,
                index: field.is_none().then_some(index),
                value,
            })?;
            index += 1;
            count += 1;
        }
    }
    Ok(count)
}

/// Whether there is what is asked for.
fn check(checkpoint: &Completed, filter: &Filter) -> Result<()> {
    let operators = &checkpoint.metadata().operators;
    let place = checkpoint.metadata_location();
    let quoted = |names: BTreeSet<&str>| {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    };
    let with_states = operators
        .iter()
        .filter(|operator| !operator.states.is_empty() || !operator.operator_states.is_empty());
    if let Some(id) = &filter.operator
        && !operators.iter().any(|operator| operator.id == *id)
    {
        let known = quoted(with_states.map(|operator| operator.id.as_str()).collect());
        let message = format!("{place} has no operator `{id}`, those with state are: {known}");
        return Err(Error::NotFound(message));
    }
    let states: BTreeSet<&str> = operators
        .iter()
        .filter(|operator| filter.operator.as_ref().is_none_or(|id| *id == operator.id))
        .flat_map(|operator| operator.states.iter().chain(&operator.operator_states))
        .map(|state| state.name.as_str())
        .collect();
    match &filter.state {
        Some(name) if !states.contains(name.as_str()) => Err(Error::NotFound(format!(
            "{place} has no state `{name}` there, those it has are: {}",
            quoted(states)
        ))),
        _ => Ok(()),
    }
}

/// The key group ranges of an operator's subtasks, in their order.
pub(crate) fn ranges(
    operator: &Operator,
    groups: KeyGroups,
) -> impl Iterator<Item = KeyGroupRange> + use<> {
    let parallelism = u32::try_from(operator.subtasks.len()).unwrap_or(u32::MAX);
    (0..parallelism).map(move |subtask| groups.range_of(subtask, parallelism))
}

/// An operator's state in a range of key groups, with its states sorted by name. What had expired when the
/// checkpoint was taken is not in it.
pub(crate) fn load(
    checkpoint: &Completed,
    operator: &Operator,
    range: KeyGroupRange,
) -> Result<KeyedState> {
    let groups = checkpoint.key_groups()?;
    let mut descriptors = Vec::new();
    for state in &operator.states {
        let kind = kind_of(&state.kind).ok_or_else(|| {
            Error::Incompatible(format!(
                "state `{}` of operator `{}` is of kind `{}`, which this version does not know",
                state.name, operator.id, state.kind
            ))
        })?;
        descriptors.push(StateDescriptor {
            name: state.name.clone(),
            kind,
            schema: state.schema.clone(),
            schema_version: state.schema_version,
            ttl: state.ttl(),
        });
    }
    descriptors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut state = KeyedState::new(descriptors, range, groups);
    for (own, subtask) in ranges(operator, groups).zip(0..) {
        if !own.overlaps(range) {
            continue;
        }
        for (segment, origin) in checkpoint.keyed(operator, subtask)? {
            let mut reader = checkpoint.read(segment)?;
            state.restore_as(&mut reader, &origin).map_err(|error| {
                restore_error(error, checkpoint.segment_location(segment), segment.offset)
            })?;
        }
    }
    Ok(state)
}

/// What went wrong with a segment in an object, which it begins at an offset of.
pub(crate) fn restore_error(error: RestoreError, object: String, start: u64) -> Error {
    match error {
        RestoreError::Corrupt { what, offset } => Error::Corrupt {
            object,
            what: format!("{what}, in the segment at byte {start}, at its byte {offset}"),
        },
        error @ (RestoreError::KindChanged { .. }
        | RestoreError::Cold(_)
        | RestoreError::Migrate { .. }) => Error::Corrupt {
            object,
            what: error.to_string(),
        },
        RestoreError::Io(error) => match error.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => Error::Storage {
                action: "reading",
                object,
                source: source.into(),
            },
        },
    }
}

#[cfg(test)]
mod tests;
