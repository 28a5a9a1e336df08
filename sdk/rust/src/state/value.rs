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
    /// The call they belong to.
    call: u64,
    /// Whether the host was asked for them. It is not as long as values are only set.
    loaded: bool,
    /// The values as loaded.
    raw: Cells,
    /// One slot per key of the call.
    slots: Vec<Slot<T>>,
    /// The keys whose slots are changed or removed.
    dirty: Vec<u32>,
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

impl<T> Slot<T> {
    fn is_dirty(&self) -> bool {
        matches!(self, Slot::Changed(_) | Slot::Removed)
    }
}

impl<T: Codec> ValueState<T> {
    pub(crate) fn new(access: Access) -> Self {
        let cache = Cache {
            call: 0,
            loaded: false,
            raw: Cells::empty(),
            slots: Vec::new(),
            dirty: Vec::new(),
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
    #[inline]
    pub fn get(&self) -> Result<Option<T>>
    where
        T: Clone,
    {
        self.with(|value| value.cloned())
    }

    /// Sets the value.
    #[inline]
    pub fn set(&self, value: &T) -> Result<()>
    where
        T: Clone,
    {
        let key = self.0.access.call.key(&self.0.access.name)?;
        self.0.cache()?.change(key, Slot::Changed(value.clone()))
    }

    /// Removes the value.
    pub fn clear(&self) -> Result<()> {
        let key = self.0.access.call.key(&self.0.access.name)?;
        self.0.cache()?.change(key, Slot::Removed)
    }

    /// Calls `read` with the value, which is not cloned.
    #[inline]
    pub fn with<R>(&self, read: impl FnOnce(Option<&T>) -> R) -> Result<R> {
        let key = self.0.access.call.key(&self.0.access.name)?;
        let mut cache = self.0.cache()?;
        Ok(read(cache.read(key, &self.0.access)?))
    }

    /// Changes the value in place: sets it, if `update` leaves one, or removes it. Without a copy of
    /// the value, so the way to go for large ones.
    #[inline]
    pub fn update<R>(&self, update: impl FnOnce(&mut Option<T>) -> R) -> Result<R> {
        let key = self.0.access.call.key(&self.0.access.name)?;
        let mut cache = self.0.cache()?;
        cache.read(key, &self.0.access)?;
        let mut value = match std::mem::replace(&mut cache.slots[key], Slot::Absent) {
            Slot::Value(value) => {
                cache.dirty.push(key as u32);
                Some(value)
            }
            Slot::Changed(value) => Some(value),
            Slot::Removed => None,
            Slot::Absent | Slot::Raw => {
                cache.dirty.push(key as u32);
                None
            }
        };
        let result = update(&mut value);
        cache.slots[key] = match value {
            Some(value) => Slot::Changed(value),
            None => Slot::Removed,
        };
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
            Some(number) => self.0.cache()?.change(number, Slot::Changed(value.clone())),
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
            Some(number) => self.0.cache()?.change(number, Slot::Removed),
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
                each(
                    Key::new(Some(key), access.call.key_rows()),
                    access.decode(value)?,
                )?;
            }
            if !page.more {
                return Ok(());
            }
            cursor = page.cursor;
        }
    }
}

impl Access {
    pub(super) fn decode<T: Codec>(&self, bytes: &[u8]) -> Result<T> {
        T::decode(bytes).map_err(|error| error.context(format_args!("state `{}`", self.name)))
    }
}

impl<T: Codec> Inner<T> {
    /// The cache, made ready for the current call.
    #[inline]
    fn cache(&self) -> Result<RefMut<'_, Cache<T>>> {
        let Ok(mut cache) = self.cache.try_borrow_mut() else {
            return Err(used_inside_itself(&self.access.name));
        };
        if cache.call != self.access.call.id() {
            cache.begin(&self.access);
        }
        Ok(cache)
    }
}

impl<T: Codec> Cache<T> {
    #[cold]
    fn begin(&mut self, access: &Access) {
        self.call = access.call.id();
        self.loaded = false;
        self.dirty.clear();
        self.slots.clear();
        self.slots
            .resize_with(access.call.keys().count(), || Slot::Raw);
    }

    #[inline]
    fn read(&mut self, key: usize, access: &Access) -> Result<Option<&T>> {
        if let Some(Slot::Raw) = self.slots.get(key) {
            self.decode(key, access)?;
        }
        match self.slots.get(key) {
            Some(Slot::Value(value) | Slot::Changed(value)) => Ok(Some(value)),
            Some(_) => Ok(None),
            None => Err(no_such_key(key)),
        }
    }

    #[inline]
    fn change(&mut self, key: usize, to: Slot<T>) -> Result<()> {
        let Some(slot) = self.slots.get_mut(key) else {
            return Err(no_such_key(key));
        };
        if !slot.is_dirty() {
            self.dirty.push(key as u32);
        }
        *slot = to;
        Ok(())
    }

    /// Fills a raw slot.
    #[inline]
    fn decode(&mut self, key: usize, access: &Access) -> Result<()> {
        if !self.loaded {
            self.load(access)?;
            if !matches!(self.slots[key], Slot::Raw) {
                return Ok(());
            }
        }
        self.slots[key] = Slot::Value(access.decode(self.raw.cell(key))?);
        Ok(())
    }

    /// Fetches the values of all keys of the call. Slots that were set before stay.
    #[cold]
    fn load(&mut self, access: &Access) -> Result<()> {
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
        Ok(())
    }
}

#[cold]
fn no_such_key(key: usize) -> Error {
    Error::new(format_args!(
        "the host numbered a key {key} that it did not send"
    ))
}

impl<T: Codec> Buffered for Inner<T> {
    fn flush(&self) {
        let cache = &mut *self.cache.borrow_mut();
        if cache.call != self.access.call.id() || cache.dirty.is_empty() {
            return;
        }
        cache.encoded.clear();
        cache.stored.clear();
        cache.cleared.clear();
        for &key in &cache.dirty {
            let slot = &mut cache.slots[key as usize];
            match std::mem::replace(slot, Slot::Absent) {
                Slot::Changed(value) => {
                    value.encode(&mut cache.encoded.data);
                    cache.encoded.seal();
                    cache.stored.push(key);
                    *slot = Slot::Value(value);
                }
                _ => cache.cleared.push(key),
            }
        }
        cache.dirty.clear();
        let Access { host, number, .. } = &self.access;
        if !cache.stored.is_empty() {
            host.store(*number, &cache.stored, &cache.encoded);
        }
        if !cache.cleared.is_empty() {
            host.clear(*number, &cache.cleared);
        }
    }

    fn discard(&self) {
        // Belongs to no call, so the next one begins anew.
        self.cache.borrow_mut().call = 0;
    }
}

impl<T> fmt::Debug for ValueState<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueState")
            .field(&self.0.access.name)
            .finish()
    }
}
