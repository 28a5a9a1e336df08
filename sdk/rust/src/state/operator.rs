//! State of a subtask, whatever the keys of its records.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;

use super::Access;
use crate::cells::Cells;
use crate::codec::{Codec, MapKey};
use crate::error::Result;

/// Entries fetched at a time by [`BroadcastState::iter`].
const PAGE: u32 = 256;

/// A list of `T` of this subtask. Made by [`OpenContext::operator_list`](crate::OpenContext::operator_list), whose
/// elements are cut into equal parts when the job starts at another parallelism, or by
/// [`OpenContext::union_list`](crate::OpenContext::union_list), of which every subtask gets all elements of all
/// subtasks whenever the job starts from a checkpoint.
///
/// Every method is a call to the host, and every checkpoint has the whole list: it is for what does not grow with
/// the number of records.
pub struct OperatorList<T>(Access, PhantomData<fn(T) -> T>);

impl<T: Codec> OperatorList<T> {
    pub(crate) fn new(access: Access) -> Self {
        Self(access, PhantomData)
    }

    /// Appends an element.
    pub fn push(&self, element: &T) -> Result<()> {
        self.0
            .host
            .operator_list_append(self.0.number, &encoded([element]));
        Ok(())
    }

    /// The elements, in the order of appending.
    pub fn get(&self) -> Result<Vec<T>> {
        let elements = self.0.host.operator_list_load(self.0.number);
        elements.iter().map(|cell| self.0.decode(cell)).collect()
    }

    /// Has the list consist of these elements.
    pub fn set<'e>(&self, elements: impl IntoIterator<Item = &'e T>) -> Result<()>
    where
        T: 'e,
    {
        self.0
            .host
            .operator_list_replace(self.0.number, &encoded(elements));
        Ok(())
    }

    /// Removes all elements.
    pub fn clear(&self) -> Result<()> {
        self.set([])
    }
}

fn encoded<'e, T: Codec + 'e>(elements: impl IntoIterator<Item = &'e T>) -> Cells {
    let mut cells = Cells::empty();
    for element in elements {
        element.encode(&mut cells.data);
        cells.seal();
    }
    cells
}

/// A map that is the same on every subtask, because each makes the same changes. Made by
/// [`OpenContext::broadcast`](crate::OpenContext::broadcast).
///
/// Change it only when handling records that every subtask gets: those of an input with `partition = "broadcast"`.
/// When the job starts from a checkpoint every subtask goes on with the copy of one subtask, and the host warns if
/// the copies differ. Every method is a call to the host.
pub struct BroadcastState<K, V>(Access, PhantomData<fn() -> Entry<K, V>>);

/// A field and its value.
type Entry<K, V> = (K, V);

impl<K: MapKey, V: Codec> BroadcastState<K, V> {
    pub(crate) fn new(access: Access) -> Self {
        Self(access, PhantomData)
    }

    /// The value at `field`.
    pub fn get(&self, field: &K) -> Result<Option<V>> {
        let loaded = self
            .0
            .host
            .operator_map_load(self.0.number, &field_cell(field));
        match loaded.absent.is_empty() && loaded.values.count() == 1 {
            true => self.0.decode(loaded.values.cell(0)).map(Some),
            false => Ok(None),
        }
    }

    /// Whether there is a value at `field`.
    pub fn contains(&self, field: &K) -> Result<bool> {
        self.get(field).map(|value| value.is_some())
    }

    /// Sets the value at `field`.
    pub fn insert(&self, field: &K, value: &V) -> Result<()> {
        let host = &self.0.host;
        host.operator_map_store(self.0.number, &field_cell(field), &encoded([value]));
        Ok(())
    }

    /// Removes the value at `field`.
    pub fn remove(&self, field: &K) -> Result<()> {
        self.0
            .host
            .operator_map_remove(self.0.number, &field_cell(field));
        Ok(())
    }

    /// The entries in the order of their fields, fetched in pages.
    pub fn iter(&self) -> BroadcastIter<K, V> {
        self.iter_from(Vec::new(), None)
    }

    /// The entries from `first` on and before `end`; neither need be there.
    pub fn range(&self, first: &K, end: &K) -> BroadcastIter<K, V> {
        let (mut start, mut bytes) = (Vec::new(), Vec::new());
        first.encode_key(&mut start);
        end.encode_key(&mut bytes);
        self.iter_from(start, Some(bytes))
    }

    fn iter_from(&self, start: Vec<u8>, end: Option<Vec<u8>>) -> BroadcastIter<K, V> {
        BroadcastIter {
            access: self.0.clone(),
            page: VecDeque::new(),
            start,
            exclusive: false,
            end,
            more: true,
            entry: PhantomData,
        }
    }
}

fn field_cell(field: &impl MapKey) -> Cells {
    let mut cells = Cells::empty();
    field.encode_key(&mut cells.data);
    cells.seal();
    cells
}

/// The entries of a [`BroadcastState`], decoded one by one.
pub struct BroadcastIter<K, V> {
    access: Access,
    page: VecDeque<(Vec<u8>, Vec<u8>)>,
    start: Vec<u8>,
    exclusive: bool,
    end: Option<Vec<u8>>,
    more: bool,
    entry: PhantomData<fn() -> (K, V)>,
}

impl<K: MapKey, V: Codec> Iterator for BroadcastIter<K, V> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Result<(K, V)>> {
        if self.page.is_empty() && self.more {
            let (number, start) = (self.access.number, &self.start);
            let (exclusive, end) = (self.exclusive, self.end.as_deref());
            let host = &self.access.host;
            let page = host.operator_map_scan(number, start, exclusive, end, PAGE);
            let entries = page.fields.iter().zip(page.values.iter());
            self.page = entries
                .map(|(field, value)| (field.to_vec(), value.to_vec()))
                .collect();
            self.more = page.more && !self.page.is_empty();
            if let Some((last, _)) = self.page.back() {
                self.start.clone_from(last);
                self.exclusive = true;
            }
        }
        let (field, value) = self.page.pop_front()?;
        let field = K::decode_key(&field)
            .map_err(|error| error.context(format_args!("state `{}`", self.access.name)));
        Some(field.and_then(|field| Ok((field, self.access.decode(&value)?))))
    }
}

impl<T> fmt::Debug for OperatorList<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OperatorList").field(&self.0.name).finish()
    }
}

impl<K, V> fmt::Debug for BroadcastState<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BroadcastState").field(&self.0.name).finish()
    }
}

impl<K, V> fmt::Debug for BroadcastIter<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BroadcastIter")
            .field("state", &self.access.name)
            .finish_non_exhaustive()
    }
}
