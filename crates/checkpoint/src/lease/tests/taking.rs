//! Taking, renewing, giving up, and what is found after crashes and damage.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::lease::{Holder, Lease, Terms, Time};
use crate::storage::faults::{Extent, Fault};
use crate::storage::{FaultyStorage, FileStorage, MemoryStorage, Storage};
use crate::{Error, Result};

pub(crate) const TIMEOUT_MS: u64 = 1_000;

type Meanwhile = Box<dyn FnMut() + Send>;

/// Stands still but for who waits. What happens meanwhile is done while somebody waits.
#[derive(Clone, Default)]
pub(crate) struct Clock {
    now: Arc<AtomicI64>,
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clock").field(&self.now).finish()
    }
}

impl Clock {
    pub(crate) fn advance(&self, ms: u64) {
        self.now.fetch_add(ms as i64, Ordering::SeqCst);
    }
}

impl Time for Clock {
    fn now_ms(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }

    fn wait_ms(&self, ms: u64) {
        self.advance(ms);
        if let Some(meanwhile) = &mut *self.meanwhile.lock().unwrap() {
            meanwhile();
        }
    }
}

pub(crate) fn terms(machine: &str, clock: &Clock) -> Terms {
    Terms {
        holder: Holder {
            host: format!("{machine}.example"),
            machine: machine.to_owned(),
            process: 42,
        },
        timeout_ms: TIMEOUT_MS,
        time: Arc::new(clock.clone()),
    }
}

pub(super) fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new())
}

pub(super) fn take(storage: &Arc<dyn Storage>, machine: &str, clock: &Clock) -> Result<Lease> {
    Lease::take(Arc::clone(storage), "job", terms(machine, clock))
}

/// All that is stored.
pub(super) fn contents(storage: &Arc<dyn Storage>) -> Vec<(String, Bytes)> {
    let mut found = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        let listing = storage.list(&directory).unwrap();
        directories.extend(listing.directories);
        for object in listing.objects {
            let bytes = storage.read(&object.name, 0..1 << 20).unwrap();
            found.push((object.name, bytes));
        }
    }
    found.sort();
    found
}

fn held(outcome: Result<Lease>) -> String {
    match outcome {
        Err(Error::Held(held)) => held.to_string(),
        other => panic!("{other:?}"),
    }
}

fn assert_fenced(outcome: Result<()>) {
    assert!(matches!(outcome, Err(Error::Fenced { .. })), "{outcome:?}");
}

#[test]
fn a_second_holder_is_refused_and_changes_nothing() {
    let (storage, clock) = (memory(), Clock::default());
    let first = take(&storage, "a", &clock).unwrap();
    clock.advance(TIMEOUT_MS);
    let before = contents(&storage);
    let told = held(take(&storage, "b", &clock));
    assert!(told.contains("process 42 on a.example"), "{told}");
    assert!(told.contains("1.0 s ago"), "{told}");
    assert_eq!(contents(&storage), before);
    first.confirm().unwrap();
}

#[test]
fn who_gives_it_up_leaves_it_to_the_next_at_once_and_no_trace() {
    let (storage, clock) = (memory(), Clock::default());
    drop(take(&storage, "a", &clock).unwrap());
    assert_eq!(contents(&storage), []);
    storage
        .put_new("job/chk-1/r1-c1-0.state", Vec::new())
        .unwrap();
    let first = take(&storage, "a", &clock).unwrap();
    let generation = first.generation();
    first.release();
    assert_fenced(first.confirm());
    assert_fenced(first.keep());
    let second = take(&storage, "b", &clock).unwrap();
    assert!(second.generation() > generation);
    drop((first, second));
    assert!(!contents(&storage).is_empty(), "there is data to be owned");
}

#[test]
fn a_holder_that_renews_is_never_taken_for_gone() {
    let (storage, clock) = (memory(), Clock::default());
    let first = take(&storage, "a", &clock).unwrap();
    for _ in 0..20 {
        clock.advance(TIMEOUT_MS / 2);
        first.keep().unwrap();
        held(take(&storage, "b", &clock));
    }
    let entries = contents(&storage).len();
    assert_eq!(entries, 2, "older ones are deleted");
}

#[test]
fn a_silent_holder_is_watched_before_it_is_succeeded() {
    let (storage, clock) = (memory(), Clock::default());
    let first = take(&storage, "a", &clock).unwrap();
    let since = clock.now_ms();
    clock.advance(TIMEOUT_MS + 1);
    let mut watched = Vec::new();
    let second = Lease::take_watching(
        Arc::clone(&storage),
        "job",
        terms("b", &clock),
        &mut |held| watched.push(held.to_string()),
    );
    let second = second.unwrap();
    assert_eq!(watched.len(), 1, "{watched:?}");
    assert!(clock.now_ms() - since > 2 * TIMEOUT_MS as i64);
    assert!(second.generation() > first.generation());
    let lost = Arc::new(AtomicI64::new(0));
    let counted = Arc::clone(&lost);
    first.on_lost(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let Err(Error::Fenced { why, .. }) = first.confirm() else {
        panic!("two hosts may complete checkpoints")
    };
    assert!(why.contains("process 42 on b.example"), "{why}");
    assert_eq!(lost.load(Ordering::SeqCst), 1);
    assert_fenced(first.check());
    assert_fenced(first.keep());
    drop(first);
    second.confirm().unwrap();
}

#[test]
fn a_holder_whose_clock_is_wrong_is_not_succeeded_while_it_renews() {
    for wrong in [-3_600_000, 3_600_000] {
        let (storage, clock) = (memory(), Clock::default());
        let other = Clock::default();
        other.now.store(wrong, Ordering::SeqCst);
        let first = Arc::new(take(&storage, "a", &other).unwrap());
        let renewing = Arc::clone(&first);
        *clock.meanwhile.lock().unwrap() = Some(Box::new(move || {
            other.advance(TIMEOUT_MS / 20);
            renewing.keep().unwrap();
        }));
        held(take(&storage, "b", &clock));
        first.confirm().unwrap();
    }
}

#[test]
fn a_zombie_that_meets_a_cleaned_log_knows_that_it_is_not_its_own() {
    for renewals in 0..6 {
        let (storage, clock) = (memory(), Clock::default());
        let first = take(&storage, "a", &clock).unwrap();
        clock.advance(2 * TIMEOUT_MS);
        let second = take(&storage, "b", &clock).unwrap();
        for _ in 0..renewals {
            clock.advance(TIMEOUT_MS / 2);
            second.keep().unwrap();
        }
        // The name that it renews by may be free again.
        assert_fenced(first.keep());
        second.confirm().unwrap();
        clock.advance(TIMEOUT_MS / 2);
        second.keep().unwrap();
        drop(first);
        second.confirm().unwrap();
    }
}

#[test]
fn a_zombie_of_a_former_life_of_the_directory_is_fenced() {
    let (storage, clock) = (memory(), Clock::default());
    let first = take(&storage, "a", &clock).unwrap();
    clock.advance(2 * TIMEOUT_MS);
    drop(take(&storage, "b", &clock).unwrap());
    assert_eq!(contents(&storage), [], "the directory is deleted");
    let zombie_wakes_later = take(&storage, "c", &clock).unwrap();
    assert_eq!(zombie_wakes_later.generation(), first.generation());
    assert_fenced(first.confirm());
    drop(first);
    zombie_wakes_later.confirm().unwrap();
}

#[test]
fn a_storage_that_is_away_costs_the_lease_only_if_another_takes_it() {
    for taken in [false, true] {
        let memory = memory();
        // Something that stays, so that the lease stays too.
        let left = vec![Bytes::from_static(b"left")];
        memory.put_new("job/shared/left", left).unwrap();
        let away = Arc::new(Mutex::new(false));
        let failing = Arc::clone(&away);
        let storage = FaultyStorage::new(Arc::clone(&memory), move |_| {
            match *failing.lock().unwrap() {
                true => Fault::Fail(Extent::Nothing),
                false => Fault::None,
            }
        });
        let storage: Arc<dyn Storage> = Arc::new(storage);
        let clock = Clock::default();
        let first = take(&storage, "a", &clock).unwrap();
        *away.lock().unwrap() = true;
        clock.advance(TIMEOUT_MS / 2);
        first.keep().expect("it is not stale yet");
        first.confirm().unwrap();
        clock.advance(TIMEOUT_MS);
        assert!(matches!(first.keep(), Err(Error::Storage { .. })));
        assert!(matches!(first.confirm(), Err(Error::Storage { .. })));
        first.check().expect("nobody has taken it");
        if taken {
            take(&memory, "b", &clock).unwrap().release();
        }
        *away.lock().unwrap() = false;
        match taken {
            false => {
                first.confirm().unwrap();
                first.keep().unwrap();
            }
            true => assert_fenced(first.confirm()),
        }
    }
}

#[test]
fn a_lease_that_is_gone_as_a_whole_is_missed_and_not_lost() {
    let (storage, clock) = (memory(), Clock::default());
    let first = take(&storage, "a", &clock).unwrap();
    let before = contents(&storage);
    for (name, _) in &before {
        storage.delete(name).unwrap();
    }
    for missed in [first.confirm(), {
        clock.advance(2 * TIMEOUT_MS);
        first.keep()
    }] {
        let error = missed.unwrap_err();
        assert!(matches!(error, Error::Storage { .. }), "{error:?}");
    }
    assert!(contents(&storage).is_empty(), "nothing is begun again");
    // The directory is back.
    for (name, bytes) in before {
        storage.put_new(&name, vec![bytes]).unwrap();
    }
    first.keep().unwrap();
    first.confirm().unwrap();
}

#[test]
fn whatever_step_fails_or_is_the_last_the_lease_can_be_taken_again() {
    let steps = {
        let storage = FaultyStorage::counting(memory());
        life(
            &(Arc::new(storage.clone()) as Arc<dyn Storage>),
            &Clock::default(),
        );
        storage.steps()
    };
    assert!(steps.len() >= 10, "{steps:?}");
    for step in &steps {
        for extent in [Extent::Nothing, Extent::Half, Extent::All] {
            for fault in [Fault::Fail(extent), Fault::Crash(extent)] {
                let memory = memory();
                let faulty = FaultyStorage::at(Arc::clone(&memory), step.number, fault);
                let clock = Clock::default();
                life(&(Arc::new(faulty.clone()) as Arc<dyn Storage>), &clock);
                assert_eq!(faulty.faults().len(), 1, "{step:?} {fault:?}");
                clock.advance(2 * TIMEOUT_MS);
                let next = take(&memory, "b", &clock)
                    .unwrap_or_else(|error| panic!("{step:?} {fault:?}: {error:?}"));
                next.confirm().unwrap();
                clock.advance(TIMEOUT_MS / 2);
                next.keep().unwrap();
            }
        }
    }
}

/// Two holders, one after the other, as far as they get.
fn life(storage: &Arc<dyn Storage>, clock: &Clock) {
    let _ = storage.put_new("job/chk-1/r1-c1-0.state", Vec::new());
    for machine in ["a", "b"] {
        let Ok(lease) = take(storage, machine, clock) else {
            clock.advance(2 * TIMEOUT_MS);
            continue;
        };
        for _ in 0..3 {
            clock.advance(TIMEOUT_MS / 2);
            let _ = lease.keep();
        }
    }
}

#[test]
fn a_damaged_entry_fences_its_holder_and_is_stepped_over() {
    for at in [0, 1] {
        let (storage, clock) = (memory(), Clock::default());
        let first = take(&storage, "a", &clock).unwrap();
        let generation = first.generation();
        let torn = format!("job/_lease/{}", 1 + at);
        storage.delete(&torn).unwrap();
        storage
            .put_new(&torn, vec![Bytes::from_static(b"{\"fo")])
            .unwrap();
        assert_fenced(first.confirm());
        drop(first);
        let before = clock.now_ms();
        let second = take(&storage, "b", &clock).unwrap();
        assert!(
            clock.now_ms() - before >= TIMEOUT_MS as i64,
            "it was watched"
        );
        assert!(second.generation() > generation + at);
        second.confirm().unwrap();
        clock.advance(TIMEOUT_MS / 2);
        second.keep().unwrap();
        held(take(&storage, "c", &clock));
    }
}

#[test]
fn an_entry_of_a_later_format_is_refused_not_stepped_over() {
    let (storage, clock) = (memory(), Clock::default());
    let text = "{\"format\":3,\"what\":\"else\"}\n";
    let entry = format!("{text}{:08x}\n", crc32c::crc32c(text.as_bytes()));
    storage.put_new("job/_lease/1", vec![entry.into()]).unwrap();
    let before = contents(&storage);
    let refused = take(&storage, "a", &clock);
    assert!(
        matches!(refused, Err(Error::Incompatible(_))),
        "{refused:?}"
    );
    assert_eq!(contents(&storage), before);
}

#[test]
fn on_one_machine_a_lock_tells_at_once_that_the_holder_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let files: Arc<dyn Storage> = Arc::new(FileStorage::open(directory.path()).unwrap());
    let clock = Clock::default();
    let process = FaultyStorage::counting(Arc::clone(&files));
    let first = take(
        &(Arc::new(process.clone()) as Arc<dyn Storage>),
        "a",
        &clock,
    )
    .unwrap();
    held(take(&files, "a", &clock));
    // As a killed process ends: nothing more is written, and what it had open is closed.
    process.crash();
    drop(first);
    held(take(&files, "other", &clock));
    let before = clock.now_ms();
    let second = take(&files, "a", &clock).unwrap();
    assert_eq!(clock.now_ms(), before, "nobody waited");
    assert_eq!(files.list("job/_lease").unwrap().objects.len(), 3);
    drop(second);
    assert_eq!(files.list("").unwrap().directories, [""; 0]);
}

#[test]
fn on_one_machine_a_holder_that_lives_and_is_silent_is_watched() {
    let directory = tempfile::tempdir().unwrap();
    let files: Arc<dyn Storage> = Arc::new(FileStorage::open(directory.path()).unwrap());
    let clock = Clock::default();
    let first = take(&files, "a", &clock).unwrap();
    clock.advance(TIMEOUT_MS + 1);
    let before = clock.now_ms();
    let second = take(&files, "a", &clock).unwrap();
    assert!(clock.now_ms() - before >= TIMEOUT_MS as i64);
    assert_fenced(first.confirm());
    drop(second);
    drop(first);
    assert_eq!(files.list("").unwrap().directories, [""; 0]);
}

#[test]
fn data_files_of_before_there_was_a_lease_are_not_named_again() {
    let (storage, clock) = (memory(), Clock::default());
    storage
        .put_new("job/shared/r7-c1-0.state", Vec::new())
        .unwrap();
    assert_eq!(take(&storage, "a", &clock).unwrap().generation(), 8);
}
