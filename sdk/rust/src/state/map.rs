//! A map per key.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use super::{Access, Buffered, used_inside_itself};
use crate::cells::Cells;
use crate::codec::{Codec, MapKey};
use crate::error::Result;
use crate::index::{self, Index};

/// Entries fetched at a time by [`MapState::iter`].
const PAGE: u32 = 256;

/// A map from `K` to `V` per key, ordered by `K`. Made by
/// [`OpenContext::map_state`](crate::OpenContext::map_state). All methods are about the key of the
/// current record.
///
/// An entry that the call has not seen before costs a call to the host when it is read; writes are
/// collected and cost nothing until the call ends.
pub struct MapState<K, V>(Rc<Inner<K, V>>);

struct Inner<K, V> {
    access: Access,
    cache: RefCell<Cache<V>>,
    field: PhantomData<fn(K) -> K>,
}

/// The entries that the current call has read or written.
struct Cache<V> {
    call: u64,
    index: Index,
    entries: Vec<Entry<V>>,
    /// The entries' fields, encoded, one cell for each entry.
    fields: Cells,
    dirty: Vec<u32>,
    /// Buffers for the calls to the host.
    key: Cells,
    stored: Vec<u32>,
    stored_fields: Cells,
    stored_values: Cells,
    removed: Vec<u32>,
    removed_fields: Cells,
}

struct Entry<V> {
    key: u32,
    value: Option<V>,
    /// Whether `value` is what the entry holds; it is not before the entry was read or written.
    known: bool,
    dirty: bool,
}

impl<K: MapKey, V: Codec> MapState<K, V> {
    pub(crate) fn new(access: Access) -> Self {
        let cache = Cache {
            call: 0,
            index: Index::default(),
            entries: Vec::new(),
            fields: Cells::empty(),
            dirty: Vec::new(),
            key: Cells::empty(),
            stored: Vec::new(),
            stored_fields: Cells::empty(),
            stored_values: Cells::empty(),
            removed: Vec::new(),
            removed_fields: Cells::empty(),
        };
        Self(Rc::new(Inner {
            access,
            cache: RefCell::new(cache),
            field: PhantomData,
        }))
    }

    pub(crate) fn buffered(&self) -> Rc<dyn Buffered> {
        Rc::<Inner<K, V>>::clone(&self.0)
    }

    /// The value at `field`.
    pub fn get(&self, field: &K) -> Result<Option<V>>
    where
        V: Clone,
    {
        self.with(field, |value| value.cloned())
    }

    /// Calls `read` with the value at `field`, which is not cloned.
    pub fn with<R>(&self, field: &K, read: impl FnOnce(Option<&V>) -> R) -> Result<R> {
        let key = self.0.key()?;
        let mut cache = self.0.cache()?;
        let entry = cache.read(key, field, &self.0.access)?;
        Ok(read(cache.entries[entry].value.as_ref()))
    }

    /// Whether there is a value at `field`.
    pub fn contains(&self, field: &K) -> Result<bool> {
        self.with(field, |value| value.is_some())
    }

    /// Sets the value at `field`.
    pub fn insert(&self, field: &K, value: &V) -> Result<()>
    where
        V: Clone,
    {
        self.0.change(field, Some(value.clone()))
    }

    /// Removes the value at `field`.
    pub fn remove(&self, field: &K) -> Result<()> {
        self.0.change(field, None)
    }

    /// Changes the value at `field` in place: sets it, if `update` leaves one, or removes it.
    pub fn update<R>(&self, field: &K, update: impl FnOnce(&mut Option<V>) -> R) -> Result<R> {
        let key = self.0.key()?;
        let mut cache = self.0.cache()?;
        let entry = cache.read(key, field, &self.0.access)?;
        cache.touch(entry);
        Ok(update(&mut cache.entries[entry].value))
    }

    /// Removes all entries.
    pub fn clear(&self) -> Result<()> {
        let key = self.0.key()?;
        self.0.flush();
        let mut cache = self.0.cache()?;
        for entry in cache.entries.iter_mut().filter(|entry| entry.key == key) {
            entry.value = None;
            entry.known = true;
        }
        self.0.access.host.clear(self.0.access.number, &[key]);
        Ok(())
    }

    /// The entries in the order of their fields, fetched in pages. Entries written while iterating
    /// are met if they lie ahead.
    pub fn iter(&self) -> Result<MapIter<K, V>> {
        self.iter_from(None)
    }

    /// The entries from `first` on, which need not be there.
    pub fn range(&self, first: &K) -> Result<MapIter<K, V>> {
        self.iter_from(Some(first))
    }

    /// The entries from `first` on and before `end`; neither need be there. The host ends the scan, so entries
    /// beyond `end` cost nothing.
    pub fn range_before(&self, first: &K, end: &K) -> Result<MapIter<K, V>> {
        let mut bytes = Vec::new();
        end.encode_key(&mut bytes);
        let mut entries = self.iter_from(Some(first))?;
        entries.end = Some(bytes);
        Ok(entries)
    }

    fn iter_from(&self, first: Option<&K>) -> Result<MapIter<K, V>> {
        let mut start = Vec::new();
        if let Some(first) = first {
            first.encode_key(&mut start);
        }
        Ok(MapIter {
            state: Rc::clone(&self.0),
            key: self.0.key()?,
            call: self.0.access.call.id(),
            fields: Cells::empty(),
            values: Cells::empty(),
            next: 0,
            start,
            exclusive: false,
            end: None,
            more: true,
        })
    }
}

impl<K: MapKey, V: Codec> Inner<K, V> {
    fn key(&self) -> Result<u32> {
        self.access
            .call
            .key(&self.access.name)
            .map(|key| key as u32)
    }

    /// The cache, made ready for the current call.
    fn cache(&self) -> Result<RefMut<'_, Cache<V>>> {
        let Ok(mut cache) = self.cache.try_borrow_mut() else {
            return Err(used_inside_itself(&self.access.name));
        };
        if cache.call != self.access.call.id() {
            cache.begin(self.access.call.id());
        }
        Ok(cache)
    }

    fn change(&self, field: &K, value: Option<V>) -> Result<()> {
        let key = self.key()?;
        let mut cache = self.cache()?;
        let entry = cache.find_or_add(key, field);
        cache.entries[entry].value = value;
        cache.entries[entry].known = true;
        cache.touch(entry);
        Ok(())
    }
}

impl<V: Codec> Cache<V> {
    fn begin(&mut self, call: u64) {
        self.call = call;
        self.index.clear();
        self.entries.clear();
        self.fields.clear();
        self.dirty.clear();
    }

    /// The entry of a field; a new one is not known yet.
    fn find_or_add(&mut self, key: u32, field: &impl MapKey) -> usize {
        // The field is encoded after the others, where it stays if it is new.
        let start = self.fields.data.len();
        field.encode_key(&mut self.fields.data);
        let bytes = &self.fields.data[start..];
        let hash = index::hash(key, bytes);
        let same = |entry: u32| {
            self.entries[entry as usize].key == key && self.fields.cell(entry as usize) == bytes
        };
        if let Some(entry) = self.index.find(hash, same) {
            self.fields.data.truncate(start);
            return entry as usize;
        }
        self.fields.seal();
        let entry = self.entries.len();
        self.entries.push(Entry {
            key,
            value: None,
            known: false,
            dirty: false,
        });
        self.index.insert(hash, entry as u32);
        entry
    }

    /// The entry of a field with its value, fetched if it is not known.
    fn read(&mut self, key: u32, field: &impl MapKey, access: &Access) -> Result<usize> {
        let entry = self.find_or_add(key, field);
        if !self.entries[entry].known {
            self.key.clear();
            self.key.push(self.fields.cell(entry));
            let loaded = access.host.map_load(access.number, &[key], &self.key);
            let found = loaded.absent.is_empty() && loaded.values.count() == 1;
            self.entries[entry].value = if found {
                Some(access.decode(loaded.values.cell(0))?)
            } else {
                None
            };
            self.entries[entry].known = true;
        }
        Ok(entry)
    }

    fn touch(&mut self, entry: usize) {
        if !self.entries[entry].dirty {
            self.entries[entry].dirty = true;
            self.dirty.push(entry as u32);
        }
    }
}

impl<K: MapKey, V: Codec> Buffered for Inner<K, V> {
    fn flush(&self) {
        let cache = &mut *self.cache.borrow_mut();
        if cache.call != self.access.call.id() || cache.dirty.is_empty() {
            return;
        }
        cache.stored.clear();
        cache.stored_fields.clear();
        cache.stored_values.clear();
        cache.removed.clear();
        cache.removed_fields.clear();
        for number in cache.dirty.drain(..) {
            let entry = &mut cache.entries[number as usize];
            entry.dirty = false;
            let field = cache.fields.cell(number as usize);
            if let Some(value) = &entry.value {
                cache.stored.push(entry.key);
                cache.stored_fields.push(field);
                value.encode(&mut cache.stored_values.data);
                cache.stored_values.seal();
            } else {
                cache.removed.push(entry.key);
                cache.removed_fields.push(field);
            }
        }
        let Access { host, number, .. } = &self.access;
        if !cache.stored.is_empty() {
            host.map_store(
                *number,
                &cache.stored,
                &cache.stored_fields,
                &cache.stored_values,
            );
        }
        if !cache.removed.is_empty() {
            host.map_remove(*number, &cache.removed, &cache.removed_fields);
        }
    }

    fn forget(&self) {
        self.cache.borrow_mut().call = 0;
    }
}

/// The entries of a [`MapState`], decoded one by one.
pub struct MapIter<K, V> {
    state: Rc<Inner<K, V>>,
    key: u32,
    call: u64,
    fields: Cells,
    values: Cells,
    next: usize,
    start: Vec<u8>,
    exclusive: bool,
    /// Encoded; the first field that is not met any more.
    end: Option<Vec<u8>>,
    more: bool,
}

impl<K: MapKey, V: Codec> MapIter<K, V> {
    /// Fetches the next page. What was written so far is handed over first, so that the host has it all.
    fn fetch(&mut self) {
        self.state.flush();
        let access = &self.state.access;
        let page = access.host.map_scan(
            access.number,
            self.key,
            &self.start,
            self.exclusive,
            self.end.as_deref(),
            PAGE,
        );
        self.more = page.more && page.fields.count() > 0;
        if let Some(last) = page.fields.count().checked_sub(1) {
            self.start = page.fields.cell(last).to_vec();
            self.exclusive = true;
        }
        self.fields = page.fields;
        self.values = page.values;
        self.next = 0;
    }

    fn entry(&self, index: usize) -> Result<(K, V)> {
        let access = &self.state.access;
        let field = K::decode_key(self.fields.cell(index))
            .map_err(|error| error.context(format_args!("state `{}`", access.name)))?;
        Ok((field, access.decode(self.values.cell(index))?))
    }
}

impl<K: MapKey, V: Codec> Iterator for MapIter<K, V> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Result<(K, V)>> {
        // Key numbers mean something else in another call.
        if self.call != self.state.access.call.id() {
            return None;
        }
        if self.next == self.fields.count() && self.more {
            self.fetch();
        }
        if self.next == self.fields.count() {
            return None;
        }
        self.next += 1;
        Some(self.entry(self.next - 1))
    }
}

impl<K, V> fmt::Debug for MapState<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MapState")
            .field(&self.0.access.name)
            .finish()
    }
}

impl<K, V> fmt::Debug for MapIter<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapIter")
            .field("state", &self.state.access.name)
            .field("next", &self.next)
            .finish()
    }
}
