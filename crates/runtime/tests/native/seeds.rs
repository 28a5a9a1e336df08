//! Which seeds are tried, and on how many processors.
//!
//! Most are the same in every run, so that a test can ask what they have met. A tenth as many are new in every
//! run, so that what was tried grows with the runs.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// New seeds are below this, so that one is easy to read and to write down.
const NEW_SEEDS_MAX: u64 = 1 << 40;

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

/// `HIGHWATER_SEED` alone, or `HIGHWATER_SEEDS` from `HIGHWATER_FIRST_SEED` on; this many by default.
pub(crate) fn seeds(unless_said: u64) -> Range<u64> {
    match number("HIGHWATER_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("HIGHWATER_FIRST_SEED").unwrap_or(0);
            first..first + number("HIGHWATER_SEEDS").unwrap_or(unless_said)
        }
    }
}

/// A tenth as many from a place that differs from run to run; none if the variables say which seeds to try. Prints
/// the first.
pub(crate) fn new_seeds(usual: u64) -> Range<u64> {
    let variables = ["HIGHWATER_SEED", "HIGHWATER_FIRST_SEED", "HIGHWATER_SEEDS"];
    if variables.iter().any(|variable| number(variable).is_some()) {
        return 0..0;
    }
    let first = RandomState::new().hash_one("seeds") % NEW_SEEDS_MAX;
    let count = (usual / 10).max(1);
    // The thread of a test has the test's name.
    let thread = thread::current();
    let text = format!(
        "{}: HIGHWATER_FIRST_SEED={first} HIGHWATER_SEEDS={count} tries its new seeds again\n",
        thread.name().unwrap_or("simulation")
    );
    // Past the capture of tests that pass: what a process that dies or hangs has tried must be known too.
    let _ = io::stderr().write_all(text.as_bytes());
    first..first + count
}

/// What a simulation says; a panic is a difference too.
pub(crate) fn caught<T>(simulate: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let outcome = catch_unwind(AssertUnwindSafe(simulate));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref().map(|text: &&str| (*text).to_owned()));
        Err(text.unwrap_or_else(|| "a panic".to_owned()))
    })
}

/// Tries seeds in order on all processors until one finds a difference. Returns the lowest that does.
pub(crate) fn try_seeds<T: Default + Send>(
    seeds: Range<u64>,
    simulate: impl Fn(u64) -> Result<T, String> + Sync,
    add: impl Fn(&mut T, &T) + Sync,
) -> Result<T, (u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let end = AtomicU64::new(seeds.end);
    let all = Mutex::new((T::default(), None));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= end.load(Ordering::SeqCst) {
                        return;
                    }
                    let outcome = caught(|| simulate(seed));
                    let (tally, found) = &mut *all.lock().unwrap();
                    match outcome {
                        Ok(of_seed) => add(tally, &of_seed),
                        Err(what) => {
                            // Those before it are tried to their end, those after it are not begun.
                            end.fetch_min(seed, Ordering::SeqCst);
                            let lower = found.as_ref().is_none_or(|(first, _)| seed < *first);
                            if lower {
                                *found = Some((seed, what));
                            }
                        }
                    }
                }
            });
        }
    });
    let (tally, found) = all.into_inner().unwrap();
    match found {
        None => Ok(tally),
        Some(found) => Err(found),
    }
}
