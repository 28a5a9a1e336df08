//! Whether a lease may be taken: from nobody, from who gave it up, from who is gone.
//!
//! A holder that is gone must not be confused with one that is slow. Where the storage has locks, and the
//! holder is of this machine, the lock tells at once. Otherwise the log itself does: who has not
//! renewed for as long as the lease lasts does not take itself for its holder any more. No clock of
//! another machine is trusted for that: the log has to stand still before our eyes.

use std::fmt;

use super::Terms;
use super::entry::{Holder, LeaseEntry};
use super::log::Log;
use crate::storage::Storage;
use crate::{Error, Result, names};

/// How often the log is looked at while it should stand still.
const LOOKS: u64 = 20;

/// Somebody who has, or may have, the lease of a job directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The job directory.
    pub location: String,
    /// Who it is; `None` if the newest entry is damaged.
    pub holder: Option<Holder>,
    /// The number of the holder's taking.
    pub generation: u64,
    /// How long ago the lease was renewed, if the clocks of both agree.
    pub renewed_ms_ago: i64,
    /// After how long without a renewal it is stale.
    pub timeout_ms: u64,
    /// Whether its process is seen to live, by a lock. Otherwise it may have been killed a moment ago.
    pub lives: bool,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = &self.location;
        let Some(holder) = &self.holder else {
            return write!(
                f,
                "job directory {location} is held by an unknown process: its newest lease entry is damaged"
            );
        };
        let seconds = self.renewed_ms_ago.max(0) as f64 / 1000.0;
        write!(
            f,
            "job directory {location} is held by process {} on {} (generation {}), which renewed its lease {seconds:.1} s ago",
            holder.process, holder.host, self.generation
        )
    }
}

/// What the log says about its holder.
enum Standing {
    /// There is none.
    Free,
    /// It is at work, to all appearance.
    Alive,
    /// It has to be watched.
    Silent,
}

/// Returns the log once there is no holder.
///
/// # Errors
/// [`Error::Held`] if there is one. [`Error::Storage`], [`Error::Incompatible`] if that is unknown.
pub(super) fn wait_for_end(
    storage: &dyn Storage,
    job: &str,
    terms: &Terms,
    watch: &mut dyn FnMut(&Held),
) -> Result<Log> {
    let log = Log::read(storage, job)?;
    match standing(storage, job, &log, terms)? {
        Standing::Free => return Ok(log),
        Standing::Alive => return Err(held(storage, job, &log, terms)),
        Standing::Silent => watch(&describe(storage, job, &log, terms)),
    }
    let timeout_ms = log.last.as_ref().map_or(terms.timeout_ms, |last| {
        // By this it judges itself.
        last.timeout_ms
    });
    let step = (timeout_ms / LOOKS).max(1);
    let until = terms.time.now_ms().saturating_add_unsigned(timeout_ms);
    while terms.time.now_ms() < until {
        terms.time.wait_ms(step);
        let next = Log::read(storage, job)?;
        if matches!(standing(storage, job, &next, terms)?, Standing::Free) {
            return Ok(next);
        }
        if next.top != log.top {
            return Err(held(storage, job, &next, terms));
        }
    }
    // Nobody has moved it. Who does from now on contends for the number that we contend for.
    Ok(log)
}

fn standing(storage: &dyn Storage, job: &str, log: &Log, terms: &Terms) -> Result<Standing> {
    if log.top == 0 {
        return Ok(Standing::Free);
    }
    // Damaged: its holder will not renew it, but may not know that yet.
    let Some(newest) = log.newest() else {
        return Ok(Standing::Silent);
    };
    if newest.released || is_gone(storage, job, newest, terms)? {
        return Ok(Standing::Free);
    }
    // Far in the future is as little to be trusted as long ago.
    let timeout = i64::try_from(newest.timeout_ms).unwrap_or(i64::MAX);
    let age = terms.time.now_ms().saturating_sub(newest.renewed_at);
    Ok(match age.saturating_abs() <= timeout {
        true => Standing::Alive,
        false => Standing::Silent,
    })
}

/// Whether the holder's process is surely gone: nobody has its lock, which ends with it.
pub(super) fn is_gone(
    storage: &dyn Storage,
    job: &str,
    entry: &LeaseEntry,
    terms: &Terms,
) -> Result<bool> {
    // Not every shared file system shows one machine the locks of another.
    if entry.holder.machine != terms.holder.machine {
        return Ok(false);
    }
    let lock = names::lease_lock(job, &entry.token);
    Ok(storage.is_locked(&lock)? == Some(false))
}

fn held(storage: &dyn Storage, job: &str, log: &Log, terms: &Terms) -> Error {
    Error::Held(Box::new(describe(storage, job, log, terms)))
}

pub(super) fn describe(storage: &dyn Storage, job: &str, log: &Log, terms: &Terms) -> Held {
    let last = log.last.as_ref();
    Held {
        location: storage.location(job),
        holder: log.newest().map(|newest| newest.holder.clone()),
        generation: last.map_or(0, |last| last.generation),
        renewed_ms_ago: last.map_or(0, |last| {
            terms.time.now_ms().saturating_sub(last.renewed_at)
        }),
        timeout_ms: last.map_or(terms.timeout_ms, |last| last.timeout_ms),
        lives: log
            .newest()
            .is_some_and(|newest| lives(storage, job, newest, terms)),
    }
}

/// Whether the holder's process is surely there: somebody of this machine has its lock.
fn lives(storage: &dyn Storage, job: &str, entry: &LeaseEntry, terms: &Terms) -> bool {
    let lock = names::lease_lock(job, &entry.token);
    entry.holder.machine == terms.holder.machine
        && matches!(storage.is_locked(&lock), Ok(Some(true)))
}
