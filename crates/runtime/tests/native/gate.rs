//! A storage that does not answer, until somebody opens it.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use checkpoint::Result;
use checkpoint::storage::{Guard, Listing, ObjectWriter, Reading, Storage};

/// After this long a wait is taken for a hang.
const HANG: Duration = Duration::from_secs(120);

/// In front of another storage: holds up objects whose name `holds` before they are begun or put, until it is opened.
/// Clones are the same gate.
#[derive(Clone)]
pub(crate) struct Gate {
    inner: Arc<dyn Storage>,
    holds: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    open: bool,
    /// How many objects were held up, and how many of these were put later.
    held: usize,
    passed: usize,
}

impl Gate {
    pub(crate) fn new(
        inner: Arc<dyn Storage>,
        holds: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            holds: Arc::new(holds),
            state: Arc::default(),
        }
    }

    /// Lets everything through from now on.
    pub(crate) fn open(&self) {
        self.state.0.lock().unwrap().open = true;
        self.state.1.notify_all();
    }

    /// Waits for the gate to be opened, if it holds this object; returns whether it did.
    fn wait(&self, name: &str) -> bool {
        let (state, changed) = &*self.state;
        let mut state = state.lock().unwrap();
        if state.open || !(self.holds)(name) {
            return false;
        }
        state.held += 1;
        let (_unlocked, timeout) = changed
            .wait_timeout_while(state, HANG, |state| !state.open)
            .unwrap();
        assert!(!timeout.timed_out(), "nobody opens the gate for {name}");
        true
    }

    /// How many puts were held up and then done.
    pub(crate) fn passed(&self) -> usize {
        self.state.0.lock().unwrap().passed
    }

    /// How many objects were held up.
    pub(crate) fn held(&self) -> usize {
        self.state.0.lock().unwrap().held
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

#[deny(clippy::missing_trait_methods)]
impl Storage for Gate {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        self.wait(name);
        self.inner.create(name)
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        let was_held = self.wait(name);
        let outcome = self.inner.put_new(name, parts);
        if was_held && outcome.is_ok() {
            self.state.0.lock().unwrap().passed += 1;
        }
        outcome
    }

    fn read(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.inner.read(name, range)
    }

    fn begin_read(&self, name: &str, range: Range<u64>) -> Result<Option<Reading>> {
        self.inner.begin_read(name, range)
    }

    fn list(&self, directory: &str) -> Result<Listing> {
        self.inner.list(directory)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    fn make_directory(&self, name: &str) -> Result<()> {
        self.inner.make_directory(name)
    }

    fn remove_directory(&self, name: &str) -> Result<()> {
        self.inner.remove_directory(name)
    }

    fn lock(&self, name: &str) -> Result<Option<Guard>> {
        self.inner.lock(name)
    }

    fn may_land_late(&self) -> bool {
        self.inner.may_land_late()
    }

    fn settle(&self, directory: &str) -> Result<()> {
        self.inner.settle(directory)
    }

    fn is_locked(&self, name: &str) -> Result<Option<bool>> {
        self.inner.is_locked(name)
    }

    fn location(&self, name: &str) -> String {
        self.inner.location(name)
    }
}
