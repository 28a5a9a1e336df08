//! Operator state of a checkpoint, dealt to the subtasks of another run.
//!
//! The elements of a list come from all old subtasks, one after the other. Of a split list each new subtask gets a
//! part: the i-th of n gets the elements from i·T/n to (i+1)·T/n of T, so that parts differ by one at most and the
//! order is kept. At the same parallelism each subtask has its own. Of a union list everybody gets all. A broadcast
//! map comes from old subtask i mod (old parallelism).

use std::sync::Arc;

use super::codec::{Author, Corrupt, Decoded, decode};
use super::{ENTRY_BYTES, OperatorState, Scope, Shared, Table};
use crate::cells::Cells;

/// The operator state of all subtasks of one operator in a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Pieces(Vec<Vec<Decoded>>);

impl Pieces {
    /// Removes a state, as if no subtask had had it.
    pub fn drop_state(&mut self, name: &str) {
        for states in &mut self.0 {
            states.retain(|state| state.name != name);
        }
    }

    /// Adds the state of the next subtask, as it was written.
    ///
    /// # Errors
    /// The bytes are not that subtask's operator state.
    pub fn push(&mut self, bytes: &[u8], author: Author) -> Result<(), Corrupt> {
        self.0.push(decode(bytes, author)?);
        Ok(())
    }

    /// The next subtask had none.
    pub fn push_none(&mut self) {
        self.0.push(Vec::new());
    }

    /// Names and scopes of all states in it, each once.
    #[must_use]
    pub fn states(&self) -> Vec<(&str, Scope)> {
        let mut states: Vec<(&str, Scope)> = Vec::new();
        for state in self.0.iter().flatten() {
            if !states.iter().any(|(name, _)| *name == state.name) {
                states.push((&state.name, state.scope));
            }
        }
        states
    }

    /// What each subtask has of a state: the entries in their order, of a map with their fields.
    pub fn entries<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (u32, Option<&'a [u8]>, &'a [u8])> {
        (0..).zip(&self.0).flat_map(move |(subtask, states)| {
            let state = states.iter().find(move |state| state.name == name);
            let (list, map) = match state.map(|state| &state.table) {
                Some(Table::List(list)) => (&list[..], None),
                Some(Table::Map(map)) => (&[][..], Some(map)),
                None => (&[][..], None),
            };
            let elements = list.iter().map(move |it| (subtask, None, &it[..]));
            let fields = map.into_iter().flat_map(|map| map.iter());
            elements
                .chain(fields.map(move |(field, value)| (subtask, Some(&field[..]), &value[..])))
        })
    }

    fn of<'a>(&'a self, name: &'a str, scope: Scope) -> impl Iterator<Item = Option<&'a Table>> {
        self.0.iter().map(move |states| {
            let state = states.iter().find(|state| state.name == name)?;
            (state.scope == scope).then_some(&state.table)
        })
    }
}

/// The states whose copies differ from subtask to subtask, though they are broadcast: each with the first two
/// subtasks that do.
#[must_use]
pub fn differing(pieces: &Pieces) -> Vec<(&str, u32, u32)> {
    let broadcast = pieces.states().into_iter();
    let broadcast = broadcast.filter(|(_, scope)| *scope == Scope::Broadcast);
    let empty = Table::new(Scope::Broadcast);
    let found = broadcast.filter_map(|(name, scope)| {
        let mut copies = (0..).zip(pieces.of(name, scope));
        let (first, copy) = copies.next()?;
        let copy = copy.unwrap_or(&empty).clone();
        let (other, _) = copies.find(|(_, other)| other.unwrap_or(&empty) != &copy)?;
        Some((name, first, other))
    });
    found.collect()
}

impl OperatorState {
    /// Takes over what `pieces` have for subtask `index` of `parallelism`. States that are not declared are left
    /// out.
    pub fn restore(&mut self, pieces: &Pieces, index: u32, parallelism: u32) {
        let old = pieces.0.len();
        for at in 0..self.tables.len() {
            let state = &self.descriptors[at];
            let mut tables = pieces.of(&state.name, state.scope);
            self.tables[at] = match state.scope {
                Scope::Split if old == parallelism as usize => {
                    let own = tables.nth(index as usize).flatten();
                    own.cloned().unwrap_or(Table::new(state.scope))
                }
                Scope::Split => part(all(tables), index, parallelism),
                Scope::Union => Table::List(Arc::new(all(tables))),
                Scope::Broadcast => {
                    let from = index as usize % old.max(1);
                    let table = tables.nth(from).flatten();
                    table.cloned().unwrap_or(Table::new(state.scope))
                }
            };
        }
        self.count();
    }

    /// Has the values of the state at `at`, counted from the first one, rewritten by `migrate`: elements of lists
    /// and what fields of maps have. Their order and the fields stay. Only after [`OperatorState::restore`].
    ///
    /// # Errors
    /// That of `migrate`, also if it returns another number of values; the state must not be used then.
    pub fn migrate<E: From<String>>(
        &mut self,
        at: usize,
        mut migrate: impl FnMut(&Cells) -> Result<Cells, E>,
    ) -> Result<(), E> {
        /// How many values, and about how many bytes of them, are rewritten at a time.
        const VALUES_MAX: usize = 1024;
        const BYTES_MAX: usize = 1 << 20;
        let Some(table) = self.tables.get_mut(at) else {
            return Ok(());
        };
        let mut values: Vec<&mut Shared> = match table {
            Table::List(list) => Arc::make_mut(list).iter_mut().collect(),
            Table::Map(map) => Arc::make_mut(map).values_mut().collect(),
        };
        let mut rest = &mut values[..];
        while !rest.is_empty() {
            let mut old = Cells::new();
            for value in rest.iter().take(VALUES_MAX) {
                old.push(value);
                if old.byte_len() >= BYTES_MAX {
                    break;
                }
            }
            let new = migrate(&old)?;
            if new.len() != old.len() {
                return Err(format!("{} values became {}", old.len(), new.len()).into());
            }
            let (some, left) = rest.split_at_mut(old.len());
            for (value, new) in some.iter_mut().zip(new.iter()) {
                **value = Shared::from(new);
            }
            rest = left;
        }
        self.count();
        Ok(())
    }

    /// Counts what it holds.
    fn count(&mut self) {
        let held = self.tables.iter().map(Table::amount);
        self.bytes = held
            .map(|(entries, bytes)| entries * ENTRY_BYTES + bytes)
            .sum();
        self.committed = self.bytes;
    }
}

/// The elements of all lists, one after the other.
fn all<'a>(tables: impl Iterator<Item = Option<&'a Table>>) -> Vec<Shared> {
    let lists = tables.flatten().filter_map(|table| match table {
        Table::List(list) => Some(list),
        Table::Map(_) => None,
    });
    lists.flat_map(|list| list.iter().cloned()).collect()
}

fn part(elements: Vec<Shared>, index: u32, parallelism: u32) -> Table {
    // In 128 bits nothing overflows.
    let bound = |index: u32| {
        let bound = elements.len() as u128 * u128::from(index) / u128::from(parallelism.max(1));
        usize::try_from(bound)
            .unwrap_or(elements.len())
            .min(elements.len())
    };
    let range = bound(index)..bound(index + 1);
    Table::List(Arc::new(elements[range].to_vec()))
}
