//! Who owns a job directory: a lease with a generation number, taken and renewed by conditional puts.
//!
//! The lease is a log of small objects `_lease/<S>`. To take it, to renew it and to give it up all mean
//! to put the entry with the next number, and of several who try exactly one succeeds. Nothing else
//! is needed of a storage, so it works on all of them alike.
//!
//! Invariants:
//! 1. The entry with the highest number says who the holder is. The holder's next renewal has the next
//!    number; it is put only while the holder's last entry stands, unchanged.
//! 2. Entries go in ascending order, and never the newest two. So a holder that finds its own last entry in
//!    place, and the next number free before that, is the holder: a name that is free because the log
//!    went on and was cleaned is recognised by what is missing before it.
//! 3. Generations grow with every taking, also after entries that cannot be read.
//! 4. Who cannot know what follows its own entry is not the holder any more. Damage may cost an
//!    attempt, never exactly-once, and never the directory: it is stepped over, once nobody moves.
//!
//! A holder whose process is stopped, or whose storage is out of reach, does not notice that it is
//! taken for dead. So whatever must not come from two hosts is decided after
//! [`Lease::confirm`], which asks the storage; the clock alone ([`Lease::keep`]) is enough for what
//! does no harm twice.

mod contest;
mod entry;
mod fences;
mod log;
mod run;
mod watch;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::metadata::{Kind, Metadata};
use crate::storage::{Guard, Storage};
use crate::used::used;
use crate::{Error, Result, names};

pub use contest::Held;
pub use entry::Holder;
pub use run::{Ended, Ending, Rewind, RewindMode, Run, Span, Start};
pub use watch::{Sight, Vacancy, Watch};

pub(crate) use fences::Fences;

use entry::LeaseEntry;
use log::{Found, Log, read_entry};

/// How often a taking is tried again when others are faster.
const TRIES_MAX: usize = 20;

/// Time, as a lease needs it.
pub trait Time: Send + Sync + fmt::Debug {
    /// Milliseconds since 1970-01-01 UTC; never goes back in one process.
    fn now_ms(&self) -> i64;

    /// Sleeps for this many milliseconds.
    fn wait_ms(&self, ms: u64);
}

/// On which terms a lease is taken.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Who takes it.
    pub holder: Holder,
    /// After so long without a renewal others may take it. Shorter, and a slow storage costs it;
    /// longer, and a host that is gone without a trace is waited for longer.
    pub timeout_ms: u64,
    /// By which clock it is renewed.
    pub time: Arc<dyn Time>,
}

/// A lease that was taken. It is to be renewed by [`Lease::keep`], several times within its timeout,
/// and is given up when it is dropped.
pub struct Lease {
    storage: Arc<dyn Storage>,
    /// The name of the job directory.
    job: String,
    terms: Terms,
    generation: u64,
    token: String,
    /// Distinguishes the job directory from all others; see [`Lease::directory`].
    directory: Option<String>,
    state: Mutex<State>,
    /// Set once: why it is not ours any more.
    lost: OnceLock<String>,
    on_lost: Mutex<Option<Box<dyn Fn() + Send>>>,
}

#[derive(Debug)]
struct State {
    /// Number of our newest entry.
    sequence: u64,
    /// Numbers of the entries that are still there, ours the last.
    present: VecDeque<u64>,
    /// When our newest entry was put, by our clock.
    renewed_at: i64,
    fences: Fences,
    /// The highest checkpoint number that was ever used in the directory.
    highest: u64,
    /// The run that the directory belongs to.
    run: Option<Run>,
    /// Shows others of this machine that our process lives.
    guard: Option<Guard>,
    released: bool,
}

/// What became of a put.
enum Put {
    Done,
    /// Something else has the name.
    Taken,
}

impl Lease {
    /// Takes the lease of the job directory `job` of a storage. Blocks for the lease's timeout if the
    /// last holder has left neither a word nor a trace.
    ///
    /// # Errors
    /// [`Error::Held`] if another host has it: nothing was changed then. [`Error::Incompatible`] if a
    /// later version has taken it. [`Error::Storage`] otherwise.
    pub fn take(storage: Arc<dyn Storage>, job: &str, terms: Terms) -> Result<Self> {
        Self::take_watching(storage, job, terms, &mut |_| {})
    }

    /// As [`Lease::take`]; tells `watch` before it begins to watch a holder that has gone silent.
    ///
    /// # Errors
    /// As [`Lease::take`].
    pub fn take_watching(
        storage: Arc<dyn Storage>,
        job: &str,
        terms: Terms,
        watch: &mut dyn FnMut(&Held),
    ) -> Result<Self> {
        for _ in 0..TRIES_MAX {
            let log = contest::wait_for_end(&*storage, job, &terms, watch)?;
            if let Some(lease) = Self::succeed(&storage, job, &terms, &log)? {
                return Ok(lease);
            }
            // Another was faster: the log tells who.
        }
        let log = Log::read(&*storage, job)?;
        let held = contest::describe(&*storage, job, &log, &terms);
        Err(Error::Held(Box::new(held)))
    }

    /// Takes the lease after this log. `None` if another was faster.
    fn succeed(
        storage: &Arc<dyn Storage>,
        job: &str,
        terms: &Terms,
        log: &Log,
    ) -> Result<Option<Self>> {
        let token = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let sequence = log.top + 1;
        let used = used(&**storage, job)?;
        let (generation, highest) = match &log.last {
            // As if every entry that cannot be read had been a taking.
            Some(last) => (
                last.generation + (sequence - last.sequence),
                last.highest.max(used.id),
            ),
            // Data files have the generation in their names: after those that stand there.
            None => (used.generation + sequence, used.id),
        };
        let mut fences = log.last.as_ref().map_or_else(Fences::default, |last| {
            // Those of before; ours is known when nobody else can complete a checkpoint.
            Fences(last.fences.clone())
        });
        let is_first = log.top == 0;
        if is_first {
            // Nobody owns the directory, so nothing comes in between.
            fences.record(storage, job, generation, &token)?;
        }
        // Before the entry is put: an entry whose lock nobody has is that of a process that is gone, and
        // another host of this machine would take the lease at once.
        let guard = storage.lock(&names::lease_lock(job, &token))?;
        let lease = Self {
            storage: Arc::clone(storage),
            job: job.to_owned(),
            terms: terms.clone(),
            generation,
            directory: match &log.last {
                Some(last) => last.directory.clone(),
                // Nothing is known of an earlier owner, so what sinks have of one is not this one's.
                None => Some(token.clone()),
            },
            token,
            state: Mutex::new(State {
                sequence,
                present: log.numbers.iter().copied().chain([sequence]).collect(),
                renewed_at: terms.time.now_ms(),
                fences,
                highest,
                run: log.last.as_ref().and_then(|last| last.run.clone()),
                guard,
                released: false,
            }),
            lost: OnceLock::new(),
            on_lost: Mutex::default(),
        };
        let first = lease.entry(&lease.state(), sequence, false);
        let put = lease.put(&first).inspect_err(|_| {
            let found = read_entry(&**storage, job, sequence);
            if !found.is_ok_and(|found| found.is_of(&lease.token)) {
                // It was never ours, so there is nothing to give up.
                lease.lose("it could not be taken".to_owned());
            }
        })?;
        if matches!(put, Put::Taken) || !lease.is_behind(log)? {
            lease.lose("another was faster".to_owned());
            if matches!(put, Put::Done) {
                // A number that was free only because the log has gone on.
                lease.delete_entry(sequence)?;
            }
            return Ok(None);
        }
        // From here on the lease is ours, and no checkpoint of the holder before us completes.
        if !is_first {
            let mut state = lease.state();
            let fenced = state
                .fences
                .record(storage, job, generation, &lease.token)
                .and_then(|()| lease.advance(&mut state, false));
            drop(state);
            fenced?;
        }
        lease.tidy(&log.others);
        Ok(Some(lease))
    }

    /// The number of this taking: greater than that of any before it in this job directory.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What tells this lease from all others.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// What tells this job directory from all others: random, made with the first lease, and kept as long
    /// as the log of leases exists, wherever the directory is moved. Empty in a directory that an older
    /// version made. Two directories for one job id have different ones.
    #[must_use]
    pub fn directory(&self) -> &str {
        self.directory.as_deref().unwrap_or_default()
    }

    /// The terms on which it was taken.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The storage and the name of the job directory in it.
    #[must_use]
    pub fn place(&self) -> (&Arc<dyn Storage>, &str) {
        (&self.storage, &self.job)
    }

    /// The run that the directory belongs to; `None` if none has begun.
    #[must_use]
    pub fn run(&self) -> Option<Run> {
        self.state().run.clone()
    }

    /// Why a checkpoint that was taken in this directory does not count, wherever its files are now.
    ///
    /// # Errors
    /// The reason.
    pub fn counts(&self, metadata: &Metadata) -> std::result::Result<(), String> {
        let state = self.state();
        let standing = Standing {
            fences: state.fences.clone(),
            run: state.run.clone(),
        };
        standing.check(metadata)
    }

    /// The highest checkpoint number that was ever used in the directory; 0 if there was none.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.state().highest
    }

    /// Puts a change of the run on record, durably. Of several hosts that try, one succeeds: so
    /// whatever follows from the change is decided here.
    ///
    /// # Errors
    /// As [`Lease::confirm`]; the change is not on record then, as far as this process can tell.
    pub fn record(&self, change: impl FnOnce(&mut Option<Run>)) -> Result<()> {
        self.record_with(change, None)
    }

    /// As [`Lease::record`], and with the same entry believes no checkpoint of earlier takings that has
    /// a higher number than `through`. To be called before the first checkpoint of this taking.
    ///
    /// # Errors
    /// As [`Lease::record`].
    pub fn record_rewind(&self, change: impl FnOnce(&mut Option<Run>), through: u64) -> Result<()> {
        self.record_with(change, Some(through))
    }

    fn record_with(
        &self,
        change: impl FnOnce(&mut Option<Run>),
        through: Option<u64>,
    ) -> Result<()> {
        let mut state = self.state();
        self.check_owned(&state)?;
        let before = (state.run.clone(), state.fences.clone());
        change(&mut state.run);
        if let Some(through) = through {
            state.fences.lower(self.generation, &self.token, through);
        }
        self.advance(&mut state, false).inspect_err(|_| {
            // It may have been put all the same; then the next entry takes it back.
            (state.run, state.fences) = before;
        })?;
        // Once more, so that no damage of one entry brings back what was on record before. The first one
        // has decided; that the second fails is no more than a renewal that fails.
        match self.advance(&mut state, false) {
            Err(error @ Error::Fenced { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// Notes that the number of a checkpoint is used. It is on record with the next renewal; until then
    /// what the checkpoint leaves in the directory tells.
    pub(crate) fn note_begun(&self, id: u64) {
        let mut state = self.state();
        state.highest = state.highest.max(id);
    }

    /// Notes that a checkpoint is complete. It is on record with the next renewal; until then the
    /// checkpoint itself tells.
    pub(crate) fn note_completed(&self, id: u64) {
        if let Some(run) = &mut self.state().run {
            run.completed = run.completed.max(id);
        }
    }

    /// Renews the lease if a third of its timeout has passed, to be called often. A storage that
    /// fails is tolerated until the lease is stale.
    ///
    /// # Errors
    /// [`Error::Fenced`] if it is another's now. [`Error::Storage`] if it is stale and cannot be
    /// renewed: nothing may be done in the directory then, but if it is renewed later all is well.
    pub fn keep(&self) -> Result<()> {
        let mut state = self.state();
        self.check_owned(&state)?;
        if self.age(&state) < self.terms.timeout_ms / 3 {
            return Ok(());
        }
        match self.advance(&mut state, false) {
            Err(Error::Storage { .. }) if self.age(&state) < self.terms.timeout_ms => Ok(()),
            outcome => outcome,
        }
    }

    /// Asks the storage whether the lease is still ours. What was put before this was called was put
    /// by the owner if it returns ok, whatever happens later: who takes the lease then finds it.
    ///
    /// # Errors
    /// [`Error::Fenced`] if it is another's now. [`Error::Storage`] if that is unknown.
    pub fn confirm(&self) -> Result<()> {
        let mut state = self.state();
        self.check_owned(&state)?;
        if self.age(&state) >= self.terms.timeout_ms {
            return self.advance(&mut state, false);
        }
        // In this order: our entry exists only as long as the one after it cannot have been
        // deleted.
        let next = read_entry(&*self.storage, &self.job, state.sequence + 1)?;
        if next.is_of(&self.token) {
            // A renewal that was put, though the storage said that it failed.
            return self.advance(&mut state, false);
        }
        let own = read_entry(&*self.storage, &self.job, state.sequence)?;
        match matches!(next, Found::Absent) && own.is_of(&self.token) {
            true => Ok(()),
            false => Err(self.lose_to(&next)),
        }
    }

    /// Whether it was not renewed for as long as it lasts: others may have taken it.
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.age(&self.state()) >= self.terms.timeout_ms
    }

    /// Why the lease is not ours any more, if it was found out.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub fn check(&self) -> Result<()> {
        match self.lost.get() {
            None => Ok(()),
            Some(why) => Err(self.fenced(why)),
        }
    }

    /// Has `notify` called when it is found out that the lease is another's. It must not use the
    /// lease.
    pub fn on_lost(&self, notify: impl Fn() + Send + 'static) {
        let mut on_lost = self.on_lost.lock().unwrap_or_else(PoisonError::into_inner);
        *on_lost = Some(Box::new(notify));
        drop(on_lost);
        if self.lost.get().is_some() {
            self.notify();
        }
    }

    /// Gives the lease up, so that the next host need not wait. If no run ever began in the job
    /// directory, and nothing else is in it, the lease goes without a trace, and the directory with
    /// it. What fails is left to the next holder.
    pub fn release(&self) {
        let mut state = self.state();
        if std::mem::replace(&mut state.released, true) {
            return;
        }
        // After an error others find the lease as a crash would leave it.
        if self.lost.get().is_some()
            || self.give_up(&mut state).is_ok()
            || self.lost.get().is_some()
        {
            let _ = self.withdraw(&mut state);
        }
    }

    /// Removes the lease with all that is on record, and the job directory if nothing else is in it. The
    /// newest entry goes last.
    ///
    /// # Errors
    /// [`Error::Fenced`] if it is not ours any more, [`Error::Storage`].
    pub fn forget(self) -> Result<()> {
        self.confirm()?;
        let mut state = self.state();
        state.released = true;
        let log = Log::list(&*self.storage, &self.job)?;
        if let Some(strange) = log.others.iter().find(|it| !names::is_of_lease(it)) {
            return Err(Error::Incompatible(format!(
                "{} is not part of a lease: move it away first",
                self.storage.location(strange)
            )));
        }
        for number in &log.numbers {
            self.delete_entry(*number)?;
        }
        let own = names::lease_lock(&self.job, &self.token);
        for other in log.others.iter().filter(|other| **other != own) {
            self.storage.delete(other)?;
        }
        self.withdraw(&mut state)
    }

    fn give_up(&self, state: &mut State) -> Result<()> {
        // Once a run has begun here the newest entry stays: it says what must never be forgotten.
        let leaves_no_trace = state.run.is_none() && self.is_alone()?;
        self.advance(state, true)?;
        if !leaves_no_trace {
            return Ok(());
        }
        // The next holder of the lease has a higher number than ours.
        for number in &state.present {
            self.delete_entry(*number)?;
        }
        let log = Log::list(&*self.storage, &self.job)?;
        if log.numbers.is_empty() {
            for other in &log.others {
                self.storage.delete(other)?;
            }
        }
        for directory in [names::shared(&self.job), names::taskowned(&self.job)] {
            self.storage.remove_directory(&directory)?;
        }
        Ok(())
    }

    /// Removes what tells that we live, and what is empty without it.
    fn withdraw(&self, state: &mut State) -> Result<()> {
        if state.guard.take().is_some() {
            let lock = names::lease_lock(&self.job, &self.token);
            self.storage.delete(&lock)?;
        }
        self.storage.remove_directory(&names::lease(&self.job))?;
        match self.job.is_empty() {
            true => Ok(()),
            false => self.storage.remove_directory(&self.job),
        }
    }

    /// Whether nothing but the lease is in the job directory.
    fn is_alone(&self) -> Result<bool> {
        let listing = self.storage.list(&self.job)?;
        let mut empty = listing.objects.is_empty();
        for directory in listing.directories {
            if directory != names::lease(&self.job) {
                let inside = self.storage.list(&directory)?;
                let is_ours =
                    [names::shared(&self.job), names::taskowned(&self.job)].contains(&directory);
                empty &= is_ours && inside.objects.is_empty() && inside.directories.is_empty();
            }
        }
        Ok(empty)
    }

    fn gone(&self) -> Error {
        Error::Storage {
            action: "looking for our lease in",
            object: self.storage.location(&self.job),
            source: "the job's directory was moved or deleted while the job is running".into(),
        }
    }

    /// Puts our next entry. Of one that was put earlier, though the storage said otherwise, is made
    /// the best.
    fn advance(&self, state: &mut State, released: bool) -> Result<()> {
        loop {
            let now = self.terms.time.now_ms();
            let sequence = state.sequence + 1;
            self.check_last(state)?;
            let put = self.put(&self.entry(state, sequence, released))?;
            let mine = match put {
                Put::Done => None,
                Put::Taken => match read_entry(&*self.storage, &self.job, sequence)? {
                    Found::LeaseEntry(entry) if entry.token == self.token => Some(entry),
                    other => return Err(self.lose_to(&other)),
                },
            };
            // Again: who was stopped in between may have met a log that is another's.
            match self.check_last(state) {
                Err(error @ Error::Fenced { .. }) => {
                    self.delete_entry(sequence)?;
                    return Err(error);
                }
                outcome => outcome?,
            }
            state.sequence = sequence;
            state.present.push_back(sequence);
            state.renewed_at = mine.as_ref().map_or(now, |mine| mine.renewed_at);
            if mine.is_none() {
                break;
            }
        }
        // In ascending order: one that cannot be deleted keeps those after it.
        while state.present.len() > 2 && self.delete_entry(state.present[0]).is_ok() {
            state.present.pop_front();
        }
        Ok(())
    }

    /// Whether our last entry is in its place.
    fn check_last(&self, state: &State) -> Result<()> {
        let last = read_entry(&*self.storage, &self.job, state.sequence)?;
        match last.is_of(&self.token) {
            true => Ok(()),
            false => Err(self.lose_to(&last)),
        }
    }

    fn entry(&self, state: &State, sequence: u64, released: bool) -> LeaseEntry {
        LeaseEntry {
            format: LeaseEntry::FORMAT,
            sequence,
            generation: self.generation,
            holder: self.terms.holder.clone(),
            token: self.token.clone(),
            renewed_at: self.terms.time.now_ms(),
            timeout_ms: self.terms.timeout_ms,
            released,
            directory: self.directory.clone(),
            fences: state.fences.0.clone(),
            highest: state.highest,
            run: state.run.clone(),
        }
    }

    fn put(&self, entry: &LeaseEntry) -> Result<Put> {
        let name = names::lease_entry(&self.job, entry.sequence);
        let bytes = entry.encode();
        let Err(error) = self.storage.put_new(&name, vec![bytes.clone()]) else {
            return Ok(Put::Done);
        };
        // It may be there all the same: the answer was lost, or a client tried twice by itself.
        match self.storage.read(&name, 0..entry::BYTES_MAX) {
            Ok(found) if found == bytes => Ok(Put::Done),
            Ok(_) => Ok(Put::Taken),
            Err(Error::NotFound(_)) if matches!(error, Error::AlreadyExists { .. }) => {
                // Taken, and cleaned away since.
                Ok(Put::Taken)
            }
            Err(_) => Err(error),
        }
    }

    /// Whether our first entry, which was put, continues this log.
    fn is_behind(&self, log: &Log) -> Result<bool> {
        let now = Log::list(&*self.storage, &self.job)?;
        let continues = log.top == 0 && now.numbers.len() == 1 || now.numbers.contains(&log.top);
        Ok(continues && now.top == log.top + 1)
    }

    /// Removes what is left of earlier holders. What cannot be removed stays for the next one.
    fn tidy(&self, others: &[String]) {
        let own = names::lease_lock(&self.job, &self.token);
        // What is called otherwise is somebody's.
        let ours = |other: &&String| **other != own && names::is_of_lease(other);
        for other in others.iter().filter(ours) {
            let lives = names::is_lease_lock(other)
                && !matches!(self.storage.is_locked(other), Ok(Some(false)));
            if !lives {
                let _ = self.storage.delete(other);
            }
        }
    }

    fn delete_entry(&self, sequence: u64) -> Result<()> {
        let name = names::lease_entry(&self.job, sequence);
        self.storage.delete(&name)
    }

    fn age(&self, state: &State) -> u64 {
        self.terms.time.now_ms().abs_diff(state.renewed_at)
    }

    fn check_owned(&self, state: &State) -> Result<()> {
        self.check()?;
        match state.released {
            false => Ok(()),
            true => Err(self.fenced("it was given up")),
        }
    }

    /// The lease is another's, whose entry was found where our next one belongs; unless the whole of
    /// it is gone, because the directory was moved, or is not mounted any more: nobody has taken it
    /// then, and it is ours again when it comes back.
    fn lose_to(&self, found: &Found) -> Error {
        if matches!(found, Found::Absent) {
            match Log::list(&*self.storage, &self.job) {
                Err(error) => return error,
                Ok(log) if log.numbers.is_empty() => return self.gone(),
                Ok(_) => {}
            }
        }
        let newest = || Log::read(&*self.storage, &self.job).ok()?.last;
        let owner = match found {
            Found::LeaseEntry(entry) => Some((**entry).clone()),
            _ => newest().filter(|entry| entry.token != self.token),
        };
        let why = match (owner, found) {
            (Some(entry), _) => format!(
                "process {} on {} has taken it over (generation {})",
                entry.holder.process, entry.holder.host, entry.generation
            ),
            (None, Found::Damaged) => "its lease is damaged".to_owned(),
            (None, _) => "its lease is gone".to_owned(),
        };
        self.lose(why.clone());
        self.fenced(&why)
    }

    fn lose(&self, why: String) {
        // What was found first stays.
        let _ = self.lost.set(why);
        self.notify();
    }

    fn notify(&self) {
        let on_lost = self.on_lost.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = &*on_lost {
            notify();
        }
    }

    fn fenced(&self, why: &str) -> Error {
        Error::Fenced {
            location: self.storage.location(&self.job),
            why: why.to_owned(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It says what was put; a panic in a storage leaves at most an entry more than it says, which
        // is found.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("job", &self.job)
            .field("generation", &self.generation)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// What the lease of a job directory says about the checkpoints in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    fences: Fences,
    /// The run that the directory belongs to.
    pub(crate) run: Option<Run>,
}

impl Standing {
    /// Whether the checkpoint with this metadata, in this directory, is to be believed; else, why not.
    pub(crate) fn check(&self, metadata: &Metadata) -> std::result::Result<(), String> {
        if metadata.kind == Kind::Savepoint {
            // Its user owns it, not the run, which may have ended and given all its checkpoints up; and its
            // host had not lost the directory when it was complete, or it would have removed it.
            let rewound = self
                .run
                .as_ref()
                .is_some_and(|it| it.has_rewound(metadata.id));
            return match rewound {
                true => Err("its job was rewound to an older checkpoint".to_owned()),
                false => Ok(()),
            };
        }
        match &self.run {
            Some(run) if run.has_discarded(metadata.id) => Err(format!(
                "it was given up: {}",
                match run.ended {
                    Some(ended) => format!("its job {}", ended.how.word()),
                    None => "its job was started afresh, or rewound to an older one".to_owned(),
                }
            )),
            _ => self.fences.check(metadata),
        }
    }
}

/// Reads what the lease of a job directory says about the checkpoints in it.
///
/// # Errors
/// [`Error::Storage`], [`Error::Incompatible`] if it cannot be read.
pub(crate) fn standing(storage: &dyn Storage, job: &str) -> Result<Standing> {
    let last = Log::read(storage, job)?.last;
    Ok(last.map_or_else(Standing::default, |last| Standing {
        fences: Fences(last.fences),
        run: last.run,
    }))
}
