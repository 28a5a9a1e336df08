//! One value per key.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;

use super::{Access, Buffered, used_inside_itself};
use crate::cells::Cells;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::record::Key;
use crate::row::Row;

/// Keys fetched at a time by [`ValueState::for_each`].
const PAGE: u32 = 1024;

/// One value per key, of the type `T`. Made by
/// [`OpenContext::value_state`](crate::OpenContext::value_state).
///
/// Methods without a key are about the key of the current record.
pub struct ValueState<T>(Rc<Inner<T>>);

struct Inner<T> {
    access: Access,
    cache: RefCell<Cache<T>>,
}

/// The values of the keys of one call.
struct Cache<T> {
    /// One slot per key of the call, or none before the call's first access.
    slots: Vec<Slot<T>>,
    /// Whether some slot is changed or removed.
    dirty: bool,
    /// Whether the host was asked for the values. It is not as long as they are only set.
    loaded: bool,
    /// The values as loaded.
    raw: Cells,
    /// Buffers for the calls to the host.
    stored: Vec<u32>,
    cleared: Vec<u32>,
    encoded: Cells,
}

enum Slot<T> {
    /// As the host has it, not decoded yet (or not even loaded).
    Raw,
    /// There is no value.
    Absent,
    /// As the host has it.
    Value(T),
    /// To be stored.
    Changed(T),
    /// To be cleared.
    Removed,
}

impl<T: Codec> ValueState<T> {
    pub(crate) fn new(access: Access) -> Self {
        let cache = Cache {
            slots: Vec::new(),
            dirty: false,
            loaded: false,
            raw: Cells::empty(),
            stored: Vec::new(),
            cleared: Vec::new(),
            encoded: Cells::empty(),
        };
        Self(Rc::new(Inner {
            access,
            cache: RefCell::new(cache),
        }))
    }

    pub(crate) fn buffered(&self) -> Rc<dyn Buffered> {
        Rc::<Inner<T>>::clone(&self.0)
    }

    /// The value, or `None` if there is none. Costs nothing beside the clone once the batch's values
    /// are loaded.
    #[inline(always)]
    pub fn get(&self) -> Result<Option<T>>
    where
        T: Clone,
    {
        self.with(|value| value.cloned())
    }

    /// Sets the value.
    #[inline(always)]
    pub fn set(&self, value: &T) -> Result<()>
    where
        T: Clone,
    {
        self.0.change(Slot::Changed(value.clone()))
    }

    /// Removes the value.
    pub fn clear(&self) -> Result<()> {
        self.0.change(Slot::Removed)
    }

    /// Calls `read` with the value, which is not cloned.
    #[inline(always)]
    pub fn with<R>(&self, read: impl FnOnce(Option<&T>) -> R) -> Result<R> {
        let Inner { access, .. } = &*self.0;
        let mut cache = self.0.cache()?;
        Ok(read(cache.read(access.call.key_number(), access)?))
    }

    /// Changes the value in place: sets it, if `update` leaves one, or removes it. Without a copy of
    /// the value, so the way to go for large ones.
    #[inline(always)]
    pub fn update<R>(&self, update: impl FnOnce(&mut Option<T>) -> R) -> Result<R> {
        let Inner { access, .. } = &*self.0;
        let key = access.call.key_number();
        let mut cache = self.0.cache()?;
        cache.read(key, access)?;
        let slot = cache.slot(key, access)?;
        let was_absent = matches!(slot, Slot::Absent);
        let mut value = match std::mem::replace(slot, Slot::Absent) {
            Slot::Value(value) | Slot::Changed(value) => Some(value),
            Slot::Removed | Slot::Absent | Slot::Raw => None,
        };
        let result = update(&mut value);
        *slot = match value {
            Some(value) => Slot::Changed(value),
            // The host has none either.
            None if was_absent => return Ok(result),
            None => Slot::Removed,
        };
        cache.dirty = true;
        Ok(result)
    }

    /// The value of any key of this subtask. A key of another subtask's traps.
    ///
    /// Keys are encoded as they are where they are emitted: `get_for("UA")`, `get_for(("UA", 7))`,
    /// `get_for(record.key())`. If no record of the batch has the key, this is a call to the host.
    pub fn get_for(&self, key: impl Row) -> Result<Option<T>>
    where
        T: Clone,
    {
        let access = &self.0.access;
        access.call.with_key(&key, |bytes, number| match number {
            Some(number) => Ok(self.0.cache()?.read(number, access)?.cloned()),
            None => access
                .host
                .get(access.number, bytes)
                .map(|value| access.decode(&value))
                .transpose(),
        })
    }

    /// Sets the value of any key of this subtask; see [`ValueState::get_for`].
    pub fn set_for(&self, key: impl Row, value: &T) -> Result<()>
    where
        T: Clone,
    {
        let access = &self.0.access;
        access.call.with_key(&key, |bytes, number| match number {
            Some(number) => self.0.change_at(number, Slot::Changed(value.clone())),
            None => {
                let mut encoded = Vec::new();
                value.encode(&mut encoded);
                access.host.put(access.number, bytes, &encoded);
                Ok(())
            }
        })
    }

    /// Removes the value of any key of this subtask; see [`ValueState::get_for`].
    pub fn clear_for(&self, key: impl Row) -> Result<()> {
        let access = &self.0.access;
        access.call.with_key(&key, |bytes, number| match number {
            Some(number) => self.0.change_at(number, Slot::Removed),
            None => {
                access.host.delete(access.number, bytes);
                Ok(())
            }
        })
    }

    /// Calls `each` with every key of this subtask that has a value, in no particular order.
    ///
    /// It walks the whole state: right for totals at the end of input, wrong for every batch. A key
    /// whose value `each` changes may come twice or be missed.
    pub fn for_each(&self, mut each: impl FnMut(Key<'_>, T) -> Result<()>) -> Result<()> {
        let access = &self.0.access;
        self.0.flush();
        let mut cursor = Vec::new();
        loop {
            let page = access.host.scan(access.number, &cursor, PAGE);
            for (key, value) in page.keys.iter().zip(page.values.iter()) {
                each(Key::new(key, access.call.key_rows()), access.decode(value)?)?;
            }
            if !page.more {
                return Ok(());
            }
            cursor = page.cursor;
        }
    }
}

impl Access {
    #[inline]
    pub(super) fn decode<T: Codec>(&self, bytes: &[u8]) -> Result<T> {
        T::decode(bytes).map_err(|error| self.undecodable(error))
    }

    #[cold]
    fn undecodable(&self, error: Error) -> Error {
        error.context(format_args!("state `{}`", self.name))
    }
}

impl<T: Codec> Inner<T> {
    #[inline(always)]
    fn cache(&self) -> Result<RefMut<'_, Cache<T>>> {
        match self.cache.try_borrow_mut() {
            Ok(cache) => Ok(cache),
            Err(_) => Err(used_inside_itself(&self.access.name)),
        }
    }

    #[inline(always)]
    fn change(&self, to: Slot<T>) -> Result<()> {
        self.change_at(self.access.call.key_number(), to)
    }

    #[inline(always)]
    fn change_at(&self, key: usize, to: Slot<T>) -> Result<()> {
        let mut cache = self.cache()?;
        *cache.slot(key, &self.access)? = to;
        cache.dirty = true;
        Ok(())
    }
}

impl<T: Codec> Cache<T> {
    /// The slot of a key.
    #[inline(always)]
    fn slot(&mut self, key: usize, access: &Access) -> Result<&mut Slot<T>> {
        if key >= self.slots.len() {
            self.begin(key, access)?;
        }
        Ok(&mut self.slots[key])
    }

    /// The value of a key.
    #[inline(always)]
    fn read(&mut self, key: usize, access: &Access) -> Result<Option<&T>> {
        if !self.loaded || key >= self.slots.len() {
            self.load(key, access)?;
        }
        let slot = &mut self.slots[key];
        if let Slot::Raw = slot {
            *slot = Slot::Value(access.decode(self.raw.cell(key))?);
        }
        match slot {
            Slot::Value(value) | Slot::Changed(value) => Ok(Some(value)),
            Slot::Raw | Slot::Absent | Slot::Removed => Ok(None),
        }
    }

    /// Makes the slots for the keys of the current call, of which `key` is one.
    #[cold]
    #[inline(never)]
    fn begin(&mut self, key: usize, access: &Access) -> Result<()> {
        access.call.check_key(key, &access.name)?;
        self.slots
            .resize_with(access.call.keys().count(), || Slot::Raw);
        Ok(())
    }

    /// Fetches the values of all keys of the call, of which `key` is one. Slots that were set before
    /// stay.
    #[cold]
    #[inline(never)]
    fn load(&mut self, key: usize, access: &Access) -> Result<()> {
        if key >= self.slots.len() {
            self.begin(key, access)?;
        }
        let loaded = access.host.load(access.number);
        if loaded.values.count() != self.slots.len() {
            let (got, want) = (loaded.values.count(), self.slots.len());
            return Err(Error::new(format_args!(
                "the host answered with {got} values for {want} keys"
            )));
        }
        self.raw = loaded.values;
        self.loaded = true;
        for position in loaded.absent {
            if let Some(slot @ Slot::Raw) = self.slots.get_mut(position as usize) {
                *slot = Slot::Absent;
            }
        }
        if T::QUICK {
            self.decode_all();
        }
        Ok(())
    }

    /// Decodes what was loaded. What cannot be decoded stays as it is: reading it returns the error.
    fn decode_all(&mut self) {
        for (slot, bytes) in self.slots.iter_mut().zip(self.raw.iter()) {
            if let Slot::Raw = slot
                && let Ok(value) = T::decode(bytes)
            {
                *slot = Slot::Value(value);
            }
        }
    }
}

impl<T: Codec> Buffered for Inner<T> {
    fn flush(&self) {
        let cache = &mut *self.cache.borrow_mut();
        if !std::mem::take(&mut cache.dirty) {
            return;
        }
        cache.encoded.clear();
        cache.stored.clear();
        cache.cleared.clear();
        for (key, slot) in (0..).zip(&mut cache.slots) {
            match slot {
                Slot::Changed(value) => {
                    value.encode(&mut cache.encoded.data);
                    cache.encoded.seal();
                    cache.stored.push(key);
                }
                Slot::Removed => cache.cleared.push(key),
                Slot::Raw | Slot::Absent | Slot::Value(_) => continue,
            }
            *slot = match std::mem::replace(slot, Slot::Absent) {
                Slot::Changed(value) => Slot::Value(value),
                _ => Slot::Absent,
            };
        }
        let Access { host, number, .. } = &self.access;
        if !cache.stored.is_empty() {
            host.store(*number, &cache.stored, &cache.encoded);
        }
        if !cache.cleared.is_empty() {
            host.clear(*number, &cache.cleared);
        }
    }

    fn forget(&self) {
        let mut cache = self.cache.borrow_mut();
        cache.slots.clear();
        cache.dirty = false;
        cache.loaded = false;
    }
}

impl<T> fmt::Debug for ValueState<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueState")
            .field(&self.0.access.name)
            .finish()
    }
}
