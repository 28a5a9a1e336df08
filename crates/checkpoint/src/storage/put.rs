//! What putting an object on the condition that there is none has in common, whatever the storage.

use crate::{Error, Result};

/// What became of an object that was put if there is none of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It is there.
    Done,
    /// Another one has the name.
    Taken,
}

impl Put {
    /// `object` is where it was to go.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if it is taken.
    pub(super) fn done(self, object: impl FnOnce() -> String) -> Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Taken => Err(Error::AlreadyExists { object: object() }),
        }
    }
}

/// The part of an object that is filled next.
#[derive(Debug)]
pub(super) struct Part {
    size: usize,
    bytes: Vec<u8>,
}

impl Part {
    /// Empty, for at most `size` bytes. They are allocated when the first one comes, and after each
    /// [`take`](Self::take) again.
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            bytes: Vec::new(),
        }
    }

    /// Takes as many bytes from the front of `bytes` as fit.
    pub(super) fn fill(&mut self, bytes: &mut &[u8]) {
        if self.bytes.capacity() < self.size {
            self.bytes.reserve_exact(self.size - self.bytes.len());
        }
        let fits = bytes.len().min(self.size - self.bytes.len());
        let (head, tail) = bytes.split_at(fits);
        self.bytes.extend_from_slice(head);
        *bytes = tail;
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() == self.size
    }

    /// What was filled in; it is empty again.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}
