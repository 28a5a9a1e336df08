//! A list per key.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use super::{Access, Buffered};
use crate::cells::Cells;
use crate::codec::Codec;
use crate::error::Result;

/// A list of `T` per key, in the order of appending. Made by
/// [`OpenContext::list_state`](crate::OpenContext::list_state). All methods are about the key of the
/// current record.
pub struct ListState<T>(Rc<Inner>, PhantomData<fn(T) -> T>);

struct Inner {
    access: Access,
    appended: RefCell<Appended>,
}

/// What a call has appended and the host has not yet got.
struct Appended {
    keys: Vec<u32>,
    elements: Cells,
}

impl<T: Codec> ListState<T> {
    pub(crate) fn new(access: Access) -> Self {
        let appended = Appended {
            keys: Vec::new(),
            elements: Cells::empty(),
        };
        Self(
            Rc::new(Inner {
                access,
                appended: RefCell::new(appended),
            }),
            PhantomData,
        )
    }

    pub(crate) fn buffered(&self) -> Rc<dyn Buffered> {
        Rc::<Inner>::clone(&self.0)
    }

    /// Appends an element.
    #[inline]
    pub fn push(&self, element: &T) -> Result<()> {
        let key = self.0.access.call.key(&self.0.access.name)?;
        let mut appended = self.0.appended.borrow_mut();
        let Appended { keys, elements } = &mut *appended;
        keys.push(key as u32);
        element.encode(&mut elements.data);
        elements.seal();
        Ok(())
    }

    /// The elements, oldest first: a call to the host that fetches the whole list.
    pub fn iter(&self) -> Result<ListIter<T>> {
        let access = &self.0.access;
        let key = access.call.key(&access.name)?;
        self.0.flush();
        let elements = access.host.list_load(access.number, key as u32);
        Ok(ListIter {
            access: access.clone(),
            elements,
            next: 0,
            element: PhantomData,
        })
    }

    /// Removes all elements.
    pub fn clear(&self) -> Result<()> {
        let access = &self.0.access;
        let key = access.call.key(&access.name)?;
        // What other keys appended comes before as well as after; what this key did, before.
        self.0.flush();
        access.host.clear(access.number, &[key as u32]);
        Ok(())
    }
}

impl Buffered for Inner {
    fn flush(&self) {
        let Appended { keys, elements } = &mut *self.appended.borrow_mut();
        if !keys.is_empty() {
            self.access
                .host
                .list_append(self.access.number, keys, elements);
            keys.clear();
            elements.clear();
        }
    }

    fn forget(&self) {
        let Appended { keys, elements } = &mut *self.appended.borrow_mut();
        keys.clear();
        elements.clear();
    }
}

/// The elements of a [`ListState`], decoded one by one.
pub struct ListIter<T> {
    access: Access,
    elements: Cells,
    next: usize,
    element: PhantomData<fn() -> T>,
}

impl<T: Codec> Iterator for ListIter<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        if self.next == self.elements.count() {
            return None;
        }
        self.next += 1;
        Some(self.access.decode(self.elements.cell(self.next - 1)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.elements.count() - self.next;
        (left, Some(left))
    }
}

impl<T: Codec> ExactSizeIterator for ListIter<T> {}

impl<T> fmt::Debug for ListState<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListState")
            .field(&self.0.access.name)
            .finish()
    }
}

impl<T> fmt::Debug for ListIter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListIter")
            .field("state", &self.access.name)
            .field("next", &self.next)
            .finish()
    }
}
