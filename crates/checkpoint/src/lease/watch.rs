//! A lease that another has, watched by who is to succeed it: without a word in the log, until nobody has
//! it any more.
//!
//! Invariants:
//! 1. A look changes nothing in the storage, not even a directory that is missing.
//! 2. The rules are those of [`super::contest`]: the lock tells where it is of this machine; otherwise the
//!    log has to stand still before our eyes for the holder's timeout. No clock of another machine is
//!    trusted.
//! 3. A time in which the holder could not renew (the storage was out of reach, or this process stood
//!    still, perhaps with the whole machine) does not count.
//!
//! A look is two small requests as a rule: whether there is an entry with the next number, and whether the
//! newest one that is known is still there. The log is listed when it has gone on, a few times within a
//! timeout in any case, and before the lease is taken.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::contest::{Held, describe, is_gone};
use super::log::{Found, Log, read_entry};
use super::run::Run;
use super::{Lease, Terms};
use crate::completed::Completed;
use crate::names::{self, JobDirectory};
use crate::storage::Storage;
use crate::{Error, Result, location};

/// How often a lock is looked at: that costs a few calls of the local system.
const LOCK_LOOKS_MS: u64 = 100;

/// A holder renews its lease a third of its timeout after the last time, or a little later. Before this
/// share of the timeout has passed, and after the other, no renewal is expected.
const RENEWAL: [f64; 2] = [0.3, 0.6];

/// How often the log is looked at while no renewal is expected, as a part of the timeout, and within
/// these limits.
const SELDOM: (u64, [u64; 2]) = (10, [50, 1_000]);

/// The same while one is. How late it is seen is added to the time that the holder is waited for.
const OFTEN: (u64, [u64; 2]) = (50, [50, 200]);

/// How many checkpoints are tried in place of one that has been subsumed.
const NEWER_MAX: usize = 4;

/// What a look has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Somebody has the lease.
    Held(Box<Held>),
    /// Nobody has it: it may be taken, by [`Watch::take`].
    Vacant(Vacancy),
}

/// Why nobody has a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacancy {
    /// There is none.
    Free,
    /// Its holder gave it up.
    Released,
    /// The process of its holder is gone, as its lock tells.
    Gone,
    /// Its holder has not renewed it for the whole of its timeout.
    Silent,
}

/// Watches the lease of a job directory.
pub struct Watch {
    place: Place,
    job: JobDirectory,
    terms: Terms,
    /// The log as it was read last.
    log: Option<Log>,
    /// Whether the holder was seen to live, by its lock.
    lives: bool,
    /// Whether it is to be read again in any case.
    is_stale: bool,
    /// When the log was read last.
    read_at: i64,
    /// Since when it has stood still before our eyes.
    still_since: i64,
    /// When the storage answered last.
    answered_at: i64,
}

/// Where the directories of jobs are.
enum Place {
    /// A directory that may not be there yet.
    Named {
        dir: String,
        patience: Duration,
    },
    Open(Arc<dyn Storage>),
}

impl Watch {
    /// Watches `<dir>/<job-id>/`, without anything being made. `dir` is named as for
    /// [`crate::CheckpointStore::take_lease`]. Over a network no look takes longer than half of `patience`.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if there cannot be such a directory.
    pub fn open(dir: &str, job_id: &str, patience: Duration, terms: Terms) -> Result<Self> {
        let place = Place::Named {
            dir: dir.to_owned(),
            patience,
        };
        Ok(Self::new(place, JobDirectory::new(job_id)?, terms))
    }

    /// As [`Watch::open`], in any storage.
    ///
    /// # Errors
    /// As [`Watch::open`].
    pub fn with_storage(storage: Arc<dyn Storage>, job_id: &str, terms: Terms) -> Result<Self> {
        let job = JobDirectory::new(job_id)?;
        Ok(Self::new(Place::Open(storage), job, terms))
    }

    fn new(place: Place, job: JobDirectory, terms: Terms) -> Self {
        Self {
            place,
            job,
            terms,
            log: None,
            lives: false,
            is_stale: false,
            read_at: 0,
            still_since: 0,
            answered_at: 0,
        }
    }

    /// Looks who has the lease.
    ///
    /// # Errors
    /// [`Error::Storage`] if that is unknown: look again. [`Error::Incompatible`] if a later version has
    /// taken it.
    pub fn look(&mut self) -> Result<Sight> {
        let Some(storage) = self.storage()? else {
            return match self.has_run() {
                true => Err(self.vanished()),
                false => Ok(Sight::Vacant(Vacancy::Free)),
            };
        };
        let first = self.log.is_none();
        if first || self.is_due(&*storage)? {
            let log = Log::read(&*storage, self.job.name())?;
            if log.top == 0 && self.has_run() {
                return Err(self.vanished());
            }
            self.read_at = self.now();
            self.is_stale = false;
            if self.log.as_ref().is_none_or(|known| known.top != log.top) {
                self.still_since = self.read_at;
            }
            self.log = Some(log);
        }
        let now = self.now();
        let away = now.saturating_sub(self.answered_at);
        if !first && away >= ms(self.timeout_ms() / 2) {
            self.still_since = now;
        }
        self.answered_at = now;
        let sight = self.judge(&*storage)?;
        self.lives = matches!(&sight, Sight::Held(held) if held.lives);
        Ok(sight)
    }

    fn judge(&mut self, storage: &dyn Storage) -> Result<Sight> {
        let (job, terms) = (self.job.name(), &self.terms);
        let log = self.log.as_ref().expect("it was read");
        if log.top == 0 {
            return Ok(Sight::Vacant(Vacancy::Free));
        }
        if let Some(newest) = log.newest() {
            if newest.released {
                return Ok(Sight::Vacant(Vacancy::Released));
            }
            if is_gone(storage, job, newest, terms)? {
                return Ok(Sight::Vacant(Vacancy::Gone));
            }
        }
        let still = terms.time.now_ms().saturating_sub(self.still_since);
        if still >= ms(self.timeout_ms()) {
            return Ok(Sight::Vacant(Vacancy::Silent));
        }
        let held = describe(storage, job, log, terms);
        Ok(Sight::Held(Box::new(held)))
    }

    /// Whether the log is to be read again.
    fn is_due(&self, storage: &dyn Storage) -> Result<bool> {
        let Some(log) = &self.log else {
            return Ok(true);
        };
        let since_read = self.now().saturating_sub(self.read_at);
        if self.is_stale
            || log.top == 0
            || since_read >= ms(self.timeout_ms() / 3)
            || self.lock_has_changed()
        {
            return Ok(true);
        }
        let is_absent = |sequence| {
            let found = read_entry(storage, self.job.name(), sequence)?;
            Ok(matches!(found, Found::Absent))
        };
        // Several entries at once have removed the first of them, and the one that we know as well.
        Ok(!is_absent(log.top + 1)? || is_absent(log.top)?)
    }

    /// Waits until the next look is worth its while.
    pub fn wait(&self) {
        let until = self.now().saturating_add(ms(self.pause_ms()));
        loop {
            let left = until.saturating_sub(self.now());
            let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else {
                return;
            };
            match self.lives {
                false => self.terms.time.wait_ms(left),
                true if self.lock_has_changed() => return,
                true => self.terms.time.wait_ms(left.min(LOCK_LOOKS_MS)),
            }
        }
    }

    /// How long until the next look, if the lock does not tell earlier.
    fn pause_ms(&self) -> u64 {
        let timeout = self.timeout_ms();
        let still = self.now().saturating_sub(self.still_since);
        let still = u64::try_from(still).unwrap_or(0);
        let pause = |(part, [least, most]): (u64, [u64; 2])| (timeout / part).clamp(least, most);
        let [from, to] = RENEWAL.map(|share| (timeout as f64 * share) as u64);
        let pause = match still {
            still if still < from => pause(SELDOM).min(from - still),
            still if still < to => pause(OFTEN),
            _ => pause(SELDOM),
        };
        // Not later than it is silent.
        pause.min(timeout.saturating_sub(still)).max(1)
    }

    /// Whether the lock of a holder that was seen to live says otherwise now, or is gone.
    fn lock_has_changed(&self) -> bool {
        let (Some(newest), Place::Open(storage)) = (self.newest(), &self.place) else {
            return false;
        };
        let lock = names::lease_lock(self.job.name(), &newest.token);
        self.lives && !matches!(storage.is_locked(&lock), Ok(Some(true)))
    }

    /// Takes the lease in the state in which [`Watch::look`] has found it vacant. `storage` is that of the
    /// same directory, to be written. `None` if another was faster: then look again.
    ///
    /// # Errors
    /// As [`Lease::take`].
    pub fn take(&mut self, storage: Arc<dyn Storage>) -> Result<Option<Lease>> {
        // Whatever comes of it, what is known is old.
        self.is_stale = true;
        let log = Log::read(&*storage, self.job.name())?;
        if log.top != self.log.as_ref().map_or(0, |known| known.top) {
            return Ok(None);
        }
        Lease::succeed(&storage, self.job.name(), &self.terms, &log)
    }

    /// The run that the directory belongs to, as the last look has found it.
    #[must_use]
    pub fn run(&self) -> Option<&Run> {
        self.log.as_ref()?.last.as_ref()?.run.as_ref()
    }

    /// The lease's holder, or the last one, as the last look has found it.
    #[must_use]
    pub fn last(&self) -> Option<Held> {
        let (log, Place::Open(storage)) = (self.log.as_ref()?, &self.place) else {
            return None;
        };
        Some(describe(&**storage, self.job.name(), log, &self.terms))
    }

    /// Reads the metadata of the checkpoint with a number, or of a newer one if that has been subsumed; from
    /// any thread. For looking ahead only: whether it counts is decided when the lease was taken.
    #[must_use]
    pub fn reader(&self) -> Option<impl Fn(u64) -> Result<Completed> + Send + 'static> {
        let Place::Open(storage) = &self.place else {
            return None;
        };
        let (storage, job) = (Arc::clone(storage), self.job.clone());
        Some(move |id| {
            let open = |id| Completed::open(Arc::clone(&storage), &job.checkpoint(id));
            let mut found = open(id);
            if matches!(found, Err(Error::NotFound(_))) {
                let directories = storage.list(job.name())?.directories;
                let numbers = directories.iter();
                let numbers = numbers.filter_map(|it| names::checkpoint_id(names::leaf(it)));
                let mut newer: Vec<u64> = numbers.filter(|number| *number > id).collect();
                newer.sort_unstable_by(|one, next| next.cmp(one));
                // The newest few may be in progress.
                let mut newer = newer.into_iter().take(NEWER_MAX).map(open);
                if let Some(newest) = newer.find(Result::is_ok) {
                    found = newest;
                }
            }
            found
        })
    }

    fn newest(&self) -> Option<&super::entry::LeaseEntry> {
        self.log.as_ref()?.newest()
    }

    fn has_run(&self) -> bool {
        self.run().is_some()
    }

    /// By this the holder judges itself.
    fn timeout_ms(&self) -> u64 {
        let last = self.log.as_ref().and_then(|log| log.last.as_ref());
        last.map_or(self.terms.timeout_ms, |last| last.timeout_ms)
    }

    fn now(&self) -> i64 {
        self.terms.time.now_ms()
    }

    fn storage(&mut self) -> Result<Option<Arc<dyn Storage>>> {
        let opened = match &self.place {
            Place::Open(storage) => return Ok(Some(Arc::clone(storage))),
            Place::Named { dir, patience } => location::existing_root(dir, *patience)?,
        };
        if let Some(storage) = &opened {
            self.place = Place::Open(Arc::clone(storage));
        }
        Ok(opened)
    }

    /// What is on record of a run is never deleted while somebody owns the directory.
    fn vanished(&self) -> Error {
        let object = match &self.place {
            Place::Named { dir, .. } => format!("{dir}/{}", self.job.name()),
            Place::Open(storage) => storage.location(self.job.name()),
        };
        Error::Storage {
            action: "looking for the lease in",
            object,
            source: "the job's directory was moved or deleted, or is not mounted any more".into(),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("job", &self.job)
            .field("still_since", &self.still_since)
            .finish_non_exhaustive()
    }
}

fn ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
