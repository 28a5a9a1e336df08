//! A storage that breaks on purpose: for tests, and for drills.
//!
//! It wraps any other storage, counts the durable steps that are asked of it, and asks a
//! plan what becomes of each: whether it is done, refused, half done, or the last thing that happens
//! before everything is gone. Crash at every step in turn, and what is left must always be something
//! to restart from.
//!
//! While nothing is planned it keeps the [contract](super::contract). A torn step breaks it: that is
//! what storages do that promise more than they keep.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{Guard, Listing, ObjectWriter, Reading, Storage};
use crate::{Error, Result};

/// What a durable step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// [`ObjectWriter::append`].
    Append,
    /// [`ObjectWriter::finish`].
    Finish,
    /// [`Storage::put_new`].
    Put,
    /// [`Storage::delete`].
    Delete,
    /// [`Storage::make_directory`].
    MakeDirectory,
    /// [`Storage::remove_directory`].
    RemoveDirectory,
}

impl Action {
    /// As it is called in an error's message.
    fn name(self) -> &'static str {
        match self {
            Self::Append | Self::Finish | Self::Put => "writing",
            Self::Delete | Self::RemoveDirectory => "deleting",
            Self::MakeDirectory => "creating",
        }
    }
}

/// A step that changes what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How many steps came before it.
    pub number: usize,
    /// What it does.
    pub action: Action,
    /// The object or directory.
    pub name: String,
}

impl Step {
    /// Whether it brings bytes to the storage, so that it can be torn.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self.action, Action::Append | Action::Finish | Action::Put)
    }
}

/// How much of a broken step is done all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Nothing.
    Nothing,
    /// Half of the bytes, so that a truncated object appears. Nothing where there are no bytes.
    Half,
    /// All of it; only the answer is lost.
    All,
    /// Of a put all of it, but later: when [`FaultyStorage::land`] is called, crash or not, as if the
    /// request had been under way for long. Nothing of any other step.
    Late,
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is done.
    None,
    /// It is done to this extent, and reported as failed. What follows is well.
    Fail(Extent),
    /// It is done to this extent, and it is the last: whatever is asked from then on, reading too,
    /// fails and does nothing, as if the process were gone.
    Crash(Extent),
    /// It waits until [`FaultyStorage::release`], and is done then; or it is never done, for a crash
    /// came first.
    Stall,
}

/// A put that is to take effect later: name and parts.
type LatePut = (String, Vec<Bytes>);

type Pause = dyn Fn(&str) + Send + Sync;
type FaultPlan = dyn Fn(&Step) -> Fault + Send + Sync;
type Unreadable = dyn Fn(&str) -> bool + Send + Sync;

/// A [`Storage`] that counts durable steps and breaks those that its plan says. Clones are the same
/// storage.
#[derive(Clone)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    plan: Arc<FaultPlan>,
    unreadable: Arc<Unreadable>,
    crashed: Arc<AtomicBool>,
    record: Arc<Mutex<Record>>,
    pause: Arc<Mutex<Option<Arc<Pause>>>>,
    gate: Arc<Gate>,
    lands_late: bool,
    late: Arc<Mutex<Vec<LatePut>>>,
}

#[derive(Debug, Default)]
struct Record {
    steps: Vec<Step>,
    faults: Vec<(Step, Fault)>,
}

/// Where stalled steps wait.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    stalled: usize,
    open: bool,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, GateState> {
        // A number and a flag: whole whatever panics elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self) {
        let mut state = self.state();
        state.stalled += 1;
        self.changed.notify_all();
        let closed = |state: &mut GateState| !state.open;
        let mut state = self
            .changed
            .wait_while(state, closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.stalled -= 1;
    }

    fn open(&self) {
        self.state().open = true;
        self.changed.notify_all();
    }
}

impl FaultyStorage {
    /// In front of `inner`. The plan is asked once for every step, in the order of their numbers.
    pub fn new(
        inner: Arc<dyn Storage>,
        plan: impl Fn(&Step) -> Fault + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            plan: Arc::new(plan),
            unreadable: Arc::new(|_| false),
            crashed: Arc::default(),
            record: Arc::default(),
            pause: Arc::default(),
            gate: Arc::default(),
            lands_late: false,
            late: Arc::default(),
        }
    }

    /// Breaks nothing: for counting the steps.
    #[must_use]
    pub fn counting(inner: Arc<dyn Storage>) -> Self {
        Self::new(inner, |_| Fault::None)
    }

    /// Breaks one step.
    #[must_use]
    pub fn at(inner: Arc<dyn Storage>, number: usize, fault: Fault) -> Self {
        Self::new(inner, move |step| match step.number == number {
            true => fault,
            false => Fault::None,
        })
    }

    /// Breaks all these steps in the same way: a storage that is down for a while.
    #[must_use]
    pub fn during(inner: Arc<dyn Storage>, numbers: Range<usize>, fault: Fault) -> Self {
        Self::new(inner, move |step| match numbers.contains(&step.number) {
            true => fault,
            false => Fault::None,
        })
    }

    /// Calls `pause` ahead of every step, with the object's name, in the thread that asks for it:
    /// the scheduler of these threads may hold them there. Takes the place of an earlier one.
    pub fn pause_before_steps(&self, pause: impl Fn(&str) + Send + Sync + 'static) {
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pause));
    }

    /// Lets go on what is stalled. Nothing stalls from then on.
    pub fn release(&self) {
        self.gate.open();
    }

    /// Waits until a step is stalled; false if none is after so long.
    #[must_use]
    pub fn wait_for_stall(&self, at_most: Duration) -> bool {
        let gate = self.gate.state();
        let waited = self
            .gate
            .changed
            .wait_timeout_while(gate, at_most, |gate| gate.stalled == 0);
        let (gate, _) = waited.unwrap_or_else(PoisonError::into_inner);
        gate.stalled > 0
    }

    /// The same, but objects whose names are `unreadable` cannot be read.
    #[must_use]
    pub fn with_unreadable(
        self,
        unreadable: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            unreadable: Arc::new(unreadable),
            ..self
        }
    }

    /// The same, and it says that a put which has failed may still take effect: see [`Extent::Late`].
    #[must_use]
    pub fn landing_late(self) -> Self {
        Self {
            lands_late: true,
            ..self
        }
    }

    /// Lets the puts take effect that were late, each unless its name is taken by now. Returns the names
    /// of those that did.
    pub fn land(&self) -> Vec<String> {
        let late = std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner));
        let landed = late
            .into_iter()
            .filter(|(name, parts)| self.inner.put_new(name, parts.clone()).is_ok());
        landed.map(|(name, _)| name).collect()
    }

    /// Every step that was asked for so far, done or not. What is asked after a crash is none.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        self.record().steps.clone()
    }

    /// The steps that were broken, and how.
    #[must_use]
    pub fn faults(&self) -> Vec<(Step, Fault)> {
        self.record().faults.clone()
    }

    /// Crashes now, between two steps.
    pub fn crash(&self) {
        self.crashed.store(true, Ordering::SeqCst);
        // What is stalled finds that it never happened.
        self.gate.open();
    }

    /// Whether it has crashed.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.crashed.load(Ordering::SeqCst)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // Only ever appended to, so a panic elsewhere does not spoil it.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step: `perform` does it to an extent.
    fn step(
        &self,
        action: Action,
        name: &str,
        perform: impl FnOnce(Extent) -> Result<()>,
    ) -> Result<()> {
        self.pause(name);
        let extent = {
            // Numbers and the plan's answers are in one order; nothing follows a crash.
            let mut record = self.record();
            self.check(action.name(), name)?;
            let step = Step {
                number: record.steps.len(),
                action,
                name: name.to_owned(),
            };
            let fault = (self.plan)(&step);
            record.steps.push(step.clone());
            let extent = match fault {
                Fault::None => {
                    drop(record);
                    return perform(Extent::All);
                }
                Fault::Fail(extent) => extent,
                Fault::Crash(extent) => {
                    self.crash();
                    extent
                }
                Fault::Stall => {
                    record.faults.push((step, fault));
                    drop(record);
                    self.gate.pass();
                    self.check(action.name(), name)?;
                    return perform(Extent::All);
                }
            };
            record.faults.push((step, fault));
            extent
        };
        // What it would have answered is lost.
        drop(perform(extent));
        Err(self.failure(action.name(), name))
    }

    fn pause(&self, name: &str) {
        // Cloned, because nobody else could pause while it is held.
        let pause = self
            .pause
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(pause) = pause {
            pause(name);
        }
    }

    fn check(&self, action: &'static str, name: &str) -> Result<()> {
        match self.has_crashed() {
            true => Err(self.failure(action, name)),
            false => Ok(()),
        }
    }

    fn failure(&self, action: &'static str, name: &str) -> Error {
        Error::Storage {
            action,
            object: self.inner.location(name),
            source: "injected fault".into(),
        }
    }
}

impl fmt::Debug for FaultyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStorage")
            .field("inner", &self.inner)
            .field("crashed", &self.has_crashed())
            .finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
impl Storage for FaultyStorage {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        // No step: nothing is durable yet.
        self.check("creating", name)?;
        Ok(Box::new(FaultyWriter {
            inner: Some(self.inner.create(name)?),
            held: Vec::new(),
            name: name.to_owned(),
            storage: self.clone(),
        }))
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        self.step(Action::Put, name, |extent| match extent {
            Extent::Nothing => Ok(()),
            Extent::Half => {
                let mut whole = BytesMut::new();
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                whole.truncate(whole.len() / 2);
                self.inner.put_new(name, vec![whole.freeze()])
            }
            Extent::All => self.inner.put_new(name, parts),
            Extent::Late => {
                let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
                late.push((name.to_owned(), parts));
                Ok(())
            }
        })
    }

    fn may_land_late(&self) -> bool {
        self.lands_late || self.inner.may_land_late()
    }

    fn read(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.check("reading", name)?;
        match (self.unreadable)(name) {
            true => Err(self.failure("reading", name)),
            false => self.inner.read(name, range),
        }
    }

    fn begin_read(&self, name: &str, range: Range<u64>) -> Result<Option<Reading>> {
        self.check("reading", name)?;
        match (self.unreadable)(name) {
            true => Err(self.failure("reading", name)),
            false => self.inner.begin_read(name, range),
        }
    }

    fn list(&self, directory: &str) -> Result<Listing> {
        self.check("listing", directory)?;
        self.inner.list(directory)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.step(Action::Delete, name, |extent| match extent {
            Extent::Nothing | Extent::Half | Extent::Late => Ok(()),
            Extent::All => self.inner.delete(name),
        })
    }

    fn make_directory(&self, name: &str) -> Result<()> {
        self.step(Action::MakeDirectory, name, |extent| match extent {
            Extent::Nothing | Extent::Half | Extent::Late => Ok(()),
            Extent::All => self.inner.make_directory(name),
        })
    }

    fn settle(&self, directory: &str) -> Result<()> {
        // No step: nothing is other than before.
        self.check("flushing", directory)?;
        self.inner.settle(directory)
    }

    fn remove_directory(&self, name: &str) -> Result<()> {
        self.step(Action::RemoveDirectory, name, |extent| match extent {
            Extent::Nothing | Extent::Half | Extent::Late => Ok(()),
            Extent::All => self.inner.remove_directory(name),
        })
    }

    fn lock(&self, name: &str) -> Result<Option<Guard>> {
        // No step: it is over with the process anyway.
        self.check("locking", name)?;
        self.inner.lock(name)
    }

    fn is_locked(&self, name: &str) -> Result<Option<bool>> {
        self.check("looking at", name)?;
        self.inner.is_locked(name)
    }

    fn location(&self, name: &str) -> String {
        self.inner.location(name)
    }
}

#[derive(Debug)]
struct FaultyWriter {
    /// There until it is finished.
    inner: Option<Box<dyn ObjectWriter>>,
    /// The last piece, held back so that the end can be torn off.
    held: Vec<u8>,
    name: String,
    storage: FaultyStorage,
}

#[deny(clippy::missing_trait_methods)]
impl ObjectWriter for FaultyWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let Self {
            inner,
            held,
            name,
            storage,
        } = self;
        storage.step(Action::Append, name, |extent| {
            let Some(inner) = inner else {
                unreachable!("a finished writer is gone")
            };
            let done = match extent {
                Extent::Nothing | Extent::Late => return Ok(()),
                Extent::Half => &bytes[..bytes.len() / 2],
                Extent::All => bytes,
            };
            inner.append(held)?;
            *held = done.to_vec();
            Ok(())
        })
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let Some(mut inner) = self.inner.take() else {
            unreachable!("a finished writer is gone")
        };
        let mut held = std::mem::take(&mut self.held);
        let storage = self.storage.clone();
        storage.step(Action::Finish, &self.name, |extent| {
            match extent {
                Extent::Nothing | Extent::Late => {
                    self.inner = Some(inner);
                    return Ok(());
                }
                Extent::Half => held.truncate(held.len() / 2),
                Extent::All => {}
            }
            inner.append(&held)?;
            inner.finish()
        })
    }
}

impl Drop for FaultyWriter {
    fn drop(&mut self) {
        // A process that is gone cleans nothing up: what is staged stays, at the price of what the
        // writer holds in memory.
        if self.storage.has_crashed() {
            std::mem::forget(self.inner.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MemoryStorage, contract};

    fn memory() -> (Arc<MemoryStorage>, Arc<dyn Storage>) {
        let memory = Arc::new(MemoryStorage::new());
        (Arc::clone(&memory), memory)
    }

    fn bytes(text: &'static str) -> Vec<Bytes> {
        vec![Bytes::from_static(text.as_bytes())]
    }

    #[test]
    fn a_storage_without_a_planned_fault_keeps_the_contract() {
        contract::check(&|| Arc::new(FaultyStorage::counting(memory().1)));
    }

    #[test]
    fn every_durable_step_is_counted_and_nothing_else() {
        let storage = FaultyStorage::counting(memory().1);
        storage.make_directory("d").unwrap();
        storage.put_new("d/a", bytes("a")).unwrap();
        let mut writer = storage.create("d/b").unwrap();
        writer.append(b"b").unwrap();
        writer.finish().unwrap();
        storage.read("d/b", 0..1).unwrap();
        storage.list("d").unwrap();
        storage.delete("d/a").unwrap();
        storage.remove_directory("d").unwrap();
        let steps = storage.steps();
        let actions: Vec<Action> = steps.iter().map(|step| step.action).collect();
        assert_eq!(
            actions,
            [
                Action::MakeDirectory,
                Action::Put,
                Action::Append,
                Action::Finish,
                Action::Delete,
                Action::RemoveDirectory
            ]
        );
        assert!(steps.iter().enumerate().all(|(at, step)| step.number == at));
        assert_eq!(storage.faults(), []);
    }

    #[test]
    fn a_put_is_broken_before_in_the_middle_or_after() {
        for (extent, found) in [
            (Extent::Nothing, None),
            (Extent::Half, Some("whole"[..2].to_owned())),
            (Extent::All, Some("whole".to_owned())),
        ] {
            for fault in [Fault::Fail(extent), Fault::Crash(extent)] {
                let (under, inner) = memory();
                let storage = FaultyStorage::at(inner, 1, fault);
                storage.put_new("before", bytes("x")).unwrap();
                let error = storage.put_new("a", bytes("whole")).unwrap_err();
                assert!(matches!(error, Error::Storage { .. }), "{error:?}");
                let read = under.read("a", 0..9).ok();
                assert_eq!(read.as_deref(), found.as_deref().map(str::as_bytes));
                assert_eq!(storage.faults().len(), 1);
                let crashed = matches!(fault, Fault::Crash(_));
                assert_eq!(storage.has_crashed(), crashed);
                assert_eq!(storage.put_new("behind", bytes("y")).is_err(), crashed);
                assert_eq!(storage.read("before", 0..1).is_err(), crashed);
                assert_eq!(under.read("behind", 0..1).is_err(), crashed);
            }
        }
    }

    #[test]
    fn a_stream_that_is_torn_at_its_end_appears_truncated() {
        for (at, extent, found) in [
            (2, Extent::Half, Some("aaaabb".to_owned())),
            (2, Extent::All, Some("aaaabbbb".to_owned())),
            (2, Extent::Nothing, None),
            (1, Extent::Half, None),
        ] {
            let (under, inner) = memory();
            let storage = FaultyStorage::at(inner, at, Fault::Fail(extent));
            let mut writer = storage.create("s").unwrap();
            let done = writer.append(b"aaaa").and_then(|()| writer.append(b"bbbb"));
            let done = done.and_then(|()| writer.finish());
            assert!(done.is_err());
            let read = under.read("s", 0..99).ok();
            assert_eq!(read.as_deref(), found.as_deref().map(str::as_bytes));
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_stalled_step_is_done_once_it_is_let_go() {
        let (under, inner) = memory();
        let storage = FaultyStorage::at(inner, 1, Fault::Stall);
        storage.put_new("before", bytes("x")).unwrap();
        std::thread::scope(|scope| {
            let put = scope.spawn(|| storage.put_new("a", bytes("whole")));
            assert!(storage.wait_for_stall(LONG), "it stalls");
            assert!(under.read("a", 0..9).is_err(), "it is not done yet");
            storage.put_new("beside", bytes("y")).unwrap();
            storage.release();
            put.join().unwrap().unwrap();
        });
        assert_eq!(under.read("a", 0..9).unwrap(), "whole");
        assert_eq!(storage.faults().len(), 1);
        assert!(
            !storage.wait_for_stall(Duration::ZERO),
            "nothing is stalled"
        );
    }

    #[test]
    fn what_is_stalled_at_a_crash_never_happens() {
        let (under, inner) = memory();
        let storage = FaultyStorage::at(inner, 0, Fault::Stall);
        std::thread::scope(|scope| {
            let put = scope.spawn(|| storage.put_new("a", bytes("whole")));
            assert!(storage.wait_for_stall(LONG), "it stalls");
            storage.crash();
            assert!(put.join().unwrap().is_err());
        });
        assert_eq!(under.list("").unwrap(), Listing::default());
    }

    #[test]
    fn a_storage_that_was_down_for_a_while_is_well_again() {
        let (under, inner) = memory();
        let storage = FaultyStorage::during(inner, 1..3, Fault::Fail(Extent::Nothing));
        let outcomes = ["a", "b", "c", "d"].map(|name| storage.put_new(name, bytes("x")).is_ok());
        assert_eq!(outcomes, [true, false, false, true]);
        assert_eq!(storage.faults().len(), 2);
        assert_eq!(under.list("").unwrap().objects.len(), 2);
    }

    #[test]
    fn whoever_pauses_is_asked_ahead_of_every_step() {
        let (under, inner) = memory();
        let storage = FaultyStorage::counting(inner);
        let (asked, seen) = (Arc::new(Mutex::new(Vec::new())), under);
        let asked_by_pause = Arc::clone(&asked);
        storage.pause_before_steps(move |_| {
            let there = seen.list("").unwrap().objects.len();
            asked_by_pause.lock().unwrap().push(there);
        });
        storage.put_new("a", bytes("x")).unwrap();
        storage.read("a", 0..1).unwrap();
        storage.put_new("b", bytes("x")).unwrap();
        assert_eq!(*asked.lock().unwrap(), [0, 1]);
    }

    #[test]
    fn nothing_happens_behind_a_crash() {
        let (under, inner) = memory();
        let storage = FaultyStorage::counting(inner);
        let mut writer = storage.create("s").unwrap();
        writer.append(b"aaaa").unwrap();
        storage.crash();
        let steps = storage.steps().len();
        assert!(writer.finish().is_err());
        assert!(storage.create("t").is_err());
        assert!(storage.list("").is_err());
        assert!(storage.make_directory("d").is_err());
        assert_eq!(storage.steps().len(), steps, "what never happened");
        assert_eq!(under.list("").unwrap(), Listing::default());
    }
}
