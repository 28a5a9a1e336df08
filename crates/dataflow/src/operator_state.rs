//! Operator state: what one subtask holds whatever the keys of its records.
//!
//! Lists, whose elements are dealt again when a job starts from a checkpoint (evenly, or all to all), and maps
//! that are the same on every subtask. All of it is in memory and every checkpoint has it in full: it is for
//! positions, rules and settings. A table is shared with the snapshots that were taken and is copied by the first
//! change after one.
//!
//! Changes are made in place at once; what was there before is logged until [`OperatorState::commit`], or put
//! back by [`OperatorState::rollback`].

mod codec;
mod deal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::cells::{Cells, CellsRef};

pub use codec::{Author, Corrupt};
pub use deal::{Pieces, differing};

/// The most bytes that the operator state of one subtask may grow to: all of it is written by every checkpoint.
pub const BYTES_MAX: u64 = 256 << 20;

/// The most bytes that the operator state of one subtask takes in a checkpoint: a restore holds all of it in memory.
/// It is more than [`BYTES_MAX`], because a list that was united may have grown beyond that.
pub const STORED_BYTES_MAX: u64 = 1 << 30;

/// What an entry takes beside its bytes, as far as the limit goes.
const ENTRY_BYTES: u64 = 48;

/// The most bytes that a page of a scan returns, unless one entry has more.
const PAGE_BYTES: usize = 1 << 20;

/// How a state is dealt to the subtasks when a job starts from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A list: its elements are cut into equal parts.
    Split,
    /// A list: everybody gets all elements.
    Union,
    /// A map that is the same everywhere.
    Broadcast,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Split, Self::Union, Self::Broadcast];

    /// Its name, which metadata and messages use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "operator-split",
            Self::Union => "operator-union",
            Self::Broadcast => "broadcast",
        }
    }

    /// Whether it is a map.
    #[must_use]
    pub fn is_map(self) -> bool {
        self == Self::Broadcast
    }
}

/// An operator state that is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Unique among all states of the operator.
    pub name: String,
    /// How it is dealt.
    pub scope: Scope,
    /// Names the encoding of its values (opaque to the host, compared at restore).
    pub schema: String,
    /// Version of that encoding.
    pub schema_version: u32,
}

/// Why an access was refused. Nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// No operator state has this number.
    #[error(
        "state {state} is none of the {count} operator states, whose numbers begin with {first}"
    )]
    NoState {
        /// The number asked for.
        state: u32,
        /// The number of the first.
        first: u32,
        /// How many there are.
        count: u32,
    },
    /// The state is a list and not a map, or the other way round.
    #[error("state `{name}` has the scope `{}`, so it is a {}", .scope.name(), if .scope.is_map() { "map" } else { "list" })]
    WrongScope {
        /// The state's name.
        name: String,
        /// What it is.
        scope: Scope,
    },
    /// Columns of different lengths.
    #[error("{fields} fields, but {values} values")]
    Uneven {
        /// Number of fields.
        fields: usize,
        /// Number of values.
        values: usize,
    },
    /// What one access returns is too large.
    #[error("one access is limited to {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The state would grow past its limit.
    #[error("operator state is limited to {limit} bytes")]
    Limit {
        /// The limit in bytes.
        limit: u64,
    },
}

type Shared = Arc<[u8]>;
type Fields = BTreeMap<Shared, Shared>;

/// What a state holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Table {
    List(Arc<Vec<Shared>>),
    Map(Arc<Fields>),
}

impl Table {
    fn new(scope: Scope) -> Self {
        match scope.is_map() {
            true => Self::Map(Arc::default()),
            false => Self::List(Arc::default()),
        }
    }

    /// How many entries there are, and how many bytes they have.
    fn amount(&self) -> (u64, u64) {
        match self {
            Self::List(list) => (
                list.len() as u64,
                list.iter().map(|element| element.len() as u64).sum(),
            ),
            Self::Map(map) => (
                map.len() as u64,
                map.iter()
                    .map(|(field, value)| (field.len() + value.len()) as u64)
                    .sum(),
            ),
        }
    }
}

/// What takes a change back.
#[derive(Debug)]
enum Undo {
    /// The list was this long.
    Length(usize, usize),
    /// The list was this one.
    List(usize, Arc<Vec<Shared>>),
    /// The field had this value.
    Field(usize, Shared, Option<Shared>),
}

/// The operator state of one subtask. The default has none.
#[derive(Debug)]
pub struct OperatorState {
    descriptors: Arc<[Descriptor]>,
    tables: Vec<Table>,
    /// The number of the first one in calls: those of keyed states come before.
    first: u32,
    undo: Vec<Undo>,
    /// Bytes of all entries, each with what it takes beside them.
    bytes: u64,
    committed: u64,
    limit: u64,
}

impl Default for OperatorState {
    fn default() -> Self {
        Self::new(Vec::new(), 0)
    }
}

/// Operator state as it was at a barrier.
#[derive(Clone, Debug)]
pub struct SealedOperatorState {
    descriptors: Arc<[Descriptor]>,
    tables: Vec<Table>,
    bytes: u64,
}

impl OperatorState {
    /// Empty state. `first` is the number of the first one in calls.
    #[must_use]
    pub fn new(states: Vec<Descriptor>, first: u32) -> Self {
        Self {
            tables: states.iter().map(|state| Table::new(state.scope)).collect(),
            descriptors: states.into(),
            first,
            undo: Vec::new(),
            bytes: 0,
            committed: 0,
            limit: BYTES_MAX,
        }
    }

    /// Limits the bytes that it may grow to, [`BYTES_MAX`] being the most.
    pub fn set_limit(&mut self, bytes: Option<u64>) {
        self.limit = bytes.unwrap_or(BYTES_MAX).min(BYTES_MAX);
    }

    /// The declared states.
    #[must_use]
    pub fn states(&self) -> &[Descriptor] {
        &self.descriptors
    }

    /// The number that calls have for the first one.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Whether none is declared.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.descriptors.is_empty()
    }

    /// Makes the changes since the last commit or rollback final.
    #[inline]
    pub fn commit(&mut self) {
        if !self.undo.is_empty() {
            self.undo.clear();
            self.committed = self.bytes;
        }
    }

    /// Takes the changes since the last commit or rollback back.
    pub fn rollback(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Length(at, length) => {
                    if let Table::List(list) = &mut self.tables[at] {
                        Arc::make_mut(list).truncate(length);
                    }
                }
                Undo::List(at, list) => self.tables[at] = Table::List(list),
                Undo::Field(at, field, value) => {
                    if let Table::Map(map) = &mut self.tables[at] {
                        let map = Arc::make_mut(map);
                        match value {
                            Some(value) => map.insert(field, value),
                            None => map.remove(&field),
                        };
                    }
                }
            }
        }
        self.bytes = self.committed;
    }

    /// All of it as it is. Only between calls (everything committed).
    #[must_use]
    pub fn seal(&self) -> SealedOperatorState {
        assert!(self.undo.is_empty(), "a snapshot is taken between calls");
        SealedOperatorState {
            descriptors: Arc::clone(&self.descriptors),
            tables: self.tables.clone(),
            bytes: self.bytes,
        }
    }

    fn at(&self, state: u32) -> Result<usize, AccessError> {
        let at = state.checked_sub(self.first).map(|at| at as usize);
        at.filter(|at| *at < self.tables.len())
            .ok_or(AccessError::NoState {
                state,
                first: self.first,
                count: self.tables.len() as u32,
            })
    }

    fn wrong_scope(&self, at: usize) -> AccessError {
        let Descriptor { name, scope, .. } = &self.descriptors[at];
        AccessError::WrongScope {
            name: name.clone(),
            scope: *scope,
        }
    }

    fn list(&self, state: u32) -> Result<(usize, &Arc<Vec<Shared>>), AccessError> {
        let at = self.at(state)?;
        match &self.tables[at] {
            Table::List(list) => Ok((at, list)),
            Table::Map(_) => Err(self.wrong_scope(at)),
        }
    }

    fn map(&self, state: u32) -> Result<(usize, &Arc<Fields>), AccessError> {
        let at = self.at(state)?;
        match &self.tables[at] {
            Table::Map(map) => Ok((at, map)),
            Table::List(_) => Err(self.wrong_scope(at)),
        }
    }

    /// Whether there is room for that many entries with that many bytes, once `freed` bytes are gone.
    fn check_room(&self, entries: usize, bytes: usize, freed: u64) -> Result<(), AccessError> {
        let more = (entries as u64)
            .saturating_mul(ENTRY_BYTES)
            .saturating_add(bytes as u64);
        let total = self.bytes.saturating_sub(freed).saturating_add(more);
        if total > self.limit && total > self.bytes {
            return Err(AccessError::Limit { limit: self.limit });
        }
        Ok(())
    }

    /// Lists: appends all elements to `elements`, in the order of appending.
    ///
    /// # Errors
    /// No such list, or its elements have more bytes than `access_max`; nothing is appended then.
    pub fn list_load(
        &self,
        state: u32,
        access_max: usize,
        elements: &mut Cells,
    ) -> Result<(), AccessError> {
        let (_, list) = self.list(state)?;
        let bytes: usize = list
            .iter()
            .map(|element| element.len() + size_of::<u32>())
            .sum();
        if bytes > access_max {
            return Err(AccessError::TooLarge { limit: access_max });
        }
        list.iter().for_each(|element| elements.push(element));
        Ok(())
    }

    /// Lists: appends elements.
    ///
    /// # Errors
    /// No such list, or too many bytes.
    pub fn list_append(&mut self, state: u32, elements: CellsRef<'_>) -> Result<(), AccessError> {
        let (at, list) = self.list(state)?;
        // Nothing to take back: a call may do this without end.
        if elements.is_empty() {
            return Ok(());
        }
        self.check_room(elements.len(), elements.byte_len(), 0)?;
        self.undo.push(Undo::Length(at, list.len()));
        self.bytes += elements.len() as u64 * ENTRY_BYTES + elements.byte_len() as u64;
        if let Table::List(list) = &mut self.tables[at] {
            let list = Arc::make_mut(list);
            list.extend(elements.into_cells().map(Shared::from));
        }
        Ok(())
    }

    /// Lists: removes all elements. What comes in their place is appended.
    ///
    /// # Errors
    /// No such list.
    pub fn list_clear(&mut self, state: u32) -> Result<(), AccessError> {
        let (at, list) = self.list(state)?;
        if list.is_empty() {
            return Ok(());
        }
        let old = Arc::clone(list);
        let (entries, bytes) = self.tables[at].amount();
        self.bytes -= entries * ENTRY_BYTES + bytes;
        self.tables[at] = Table::List(Arc::default());
        self.undo.push(Undo::List(at, old));
        Ok(())
    }

    /// Maps: appends one cell for each of `fields` to `values`, and the positions without a value to `absent`.
    ///
    /// # Errors
    /// No such map, or the values have more bytes than `access_max`.
    pub fn map_load(
        &self,
        state: u32,
        fields: CellsRef<'_>,
        access_max: usize,
        values: &mut Cells,
        absent: &mut Vec<u32>,
    ) -> Result<(), AccessError> {
        let (_, map) = self.map(state)?;
        for (position, field) in (0..).zip(fields.into_cells()) {
            match map.get(field) {
                Some(value) if values.byte_len() + value.len() > access_max => {
                    return Err(AccessError::TooLarge { limit: access_max });
                }
                Some(value) => values.push(value),
                None => {
                    values.push(b"");
                    absent.push(position);
                }
            }
        }
        Ok(())
    }

    /// Maps: sets the values of fields. The last one counts where a field stands twice.
    ///
    /// # Errors
    /// No such map, columns that differ in length, or too many bytes.
    pub fn map_store(
        &mut self,
        state: u32,
        fields: CellsRef<'_>,
        values: CellsRef<'_>,
    ) -> Result<(), AccessError> {
        let (at, map) = self.map(state)?;
        if fields.len() != values.len() {
            return Err(AccessError::Uneven {
                fields: fields.len(),
                values: values.len(),
            });
        }
        // What is replaced makes room. A field that stands twice is counted twice, which errs on the safe side.
        let replaced = fields.into_cells().filter_map(|field| {
            let value = map.get(field)?;
            Some((field.len() + value.len()) as u64 + ENTRY_BYTES)
        });
        let freed = replaced.sum::<u64>().min(self.bytes);
        let bytes = fields.byte_len() + values.byte_len();
        self.check_room(fields.len(), bytes, freed)?;
        let Table::Map(map) = &mut self.tables[at] else {
            unreachable!("it was found to be a map")
        };
        let map = Arc::make_mut(map);
        for (field, value) in fields.into_cells().zip(values.into_cells()) {
            let field = Shared::from(field);
            let old = map.insert(Arc::clone(&field), value.into());
            self.bytes += value.len() as u64;
            match &old {
                Some(old) => self.bytes -= old.len() as u64,
                None => self.bytes += field.len() as u64 + ENTRY_BYTES,
            }
            self.undo.push(Undo::Field(at, field, old));
        }
        Ok(())
    }

    /// Maps: removes fields.
    ///
    /// # Errors
    /// No such map.
    pub fn map_remove(&mut self, state: u32, fields: CellsRef<'_>) -> Result<(), AccessError> {
        let (at, map) = self.map(state)?;
        if !fields.into_cells().any(|field| map.contains_key(field)) {
            return Ok(());
        }
        let Table::Map(map) = &mut self.tables[at] else {
            unreachable!("it was found to be a map")
        };
        let map = Arc::make_mut(map);
        for field in fields.into_cells() {
            if let Some((field, old)) = map.remove_entry(field) {
                self.bytes -= (field.len() + old.len()) as u64 + ENTRY_BYTES;
                self.undo.push(Undo::Field(at, field, Some(old)));
            }
        }
        Ok(())
    }

    /// Maps: appends at most `limit` entries in the order of their fields, from `from` on (after it, if
    /// `exclusive`), up to `end` and without it. Returns whether there are more. A page of very large entries
    /// ends early.
    ///
    /// # Errors
    /// No such map, or its next entry has more bytes than `access_max`.
    pub fn map_scan(
        &self,
        state: u32,
        (from, exclusive): (&[u8], bool),
        end: Option<&[u8]>,
        (limit, access_max): (u32, usize),
        (fields, values): (&mut Cells, &mut Cells),
    ) -> Result<bool, AccessError> {
        let (_, map) = self.map(state)?;
        let start = match exclusive {
            true => Bound::Excluded(from),
            false => Bound::Included(from),
        };
        let mut entries = map
            .range::<[u8], _>((start, Bound::Unbounded))
            .take_while(|(field, _)| end.is_none_or(|end| &field[..] < end))
            .peekable();
        let (mut count, mut bytes) = (0, 0);
        while count < limit
            && bytes < PAGE_BYTES
            && let Some((field, value)) = entries.peek()
        {
            if field.len().max(value.len()) + bytes > access_max {
                return match count {
                    0 => Err(AccessError::TooLarge { limit: access_max }),
                    _ => Ok(true),
                };
            }
            fields.push(field);
            values.push(value);
            count += 1;
            bytes += field.len() + value.len();
            entries.next();
        }
        Ok(entries.peek().is_some())
    }
}

impl SealedOperatorState {
    /// The declared states.
    #[must_use]
    pub fn states(&self) -> &[Descriptor] {
        &self.descriptors
    }

    /// About how many bytes it takes when it is written.
    #[must_use]
    pub fn size_hint(&self) -> u64 {
        self.bytes
    }

    /// Of each state, in the order of declaration, how many entries it has and their bytes.
    #[must_use]
    pub fn held(&self) -> Vec<(u64, u64)> {
        self.tables.iter().map(Table::amount).collect()
    }
}
