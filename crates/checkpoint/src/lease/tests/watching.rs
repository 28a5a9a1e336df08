//! A lease that is looked at by who is to succeed its holder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::taking::{Clock, TIMEOUT_MS, contents, memory, take, terms};
use crate::lease::{Lease, Run, Sight, Time as _, Vacancy, Watch};
use crate::storage::{FaultyStorage, FileStorage, Permissions, Storage};
use crate::{Error, Result};

fn watch(storage: &Arc<dyn Storage>, machine: &str, clock: &Clock) -> Watch {
    Watch::with_storage(Arc::clone(storage), "job", terms(machine, clock)).unwrap()
}

fn is_held(sight: Result<Sight>) -> bool {
    matches!(sight.unwrap(), Sight::Held(_))
}

fn vacancy(sight: Result<Sight>) -> Vacancy {
    match sight.unwrap() {
        Sight::Vacant(vacancy) => vacancy,
        held => panic!("{held:?}"),
    }
}

/// Looks until nobody has the lease.
fn wait(watch: &mut Watch) -> Vacancy {
    loop {
        if let Sight::Vacant(vacancy) = watch.look().unwrap() {
            return vacancy;
        }
        watch.wait();
    }
}

#[test]
fn a_holder_that_renews_is_waited_for_and_looks_change_nothing() {
    let (storage, clock) = (memory(), Clock::default());
    let first = Arc::new(take(&storage, "a", &clock).unwrap());
    let mut watch = watch(&storage, "b", &clock);
    for _ in 0..100 {
        let before = contents(&storage);
        assert!(is_held(watch.look()));
        watch.wait();
        assert_eq!(contents(&storage), before);
        first.keep().unwrap();
    }
    first.confirm().unwrap();
}

#[test]
fn a_silent_holder_is_succeeded_when_its_timeout_is_over_and_not_before() {
    let (storage, clock) = (memory(), Clock::default());
    let first = take(&storage, "a", &clock).unwrap();
    let mut watch = watch(&storage, "b", &clock);
    assert!(is_held(watch.look()));
    clock.advance(TIMEOUT_MS / 3);
    first.keep().unwrap();
    let renewed = clock.now_ms();
    assert_eq!(wait(&mut watch), Vacancy::Silent);
    let waited = clock.now_ms() - renewed;
    let timeout = TIMEOUT_MS as i64;
    assert!((timeout..=timeout + 20).contains(&waited), "{waited}");
    let second = watch
        .take(Arc::clone(&storage))
        .unwrap()
        .expect("it is free");
    assert!(second.generation() > first.generation());
    assert!(matches!(first.confirm(), Err(Error::Fenced { .. })));
    second.confirm().unwrap();
}

#[test]
fn of_two_that_see_the_same_one_takes_it_and_the_other_sees_who_did() {
    let (storage, clock) = (memory(), Clock::default());
    let first = take(&storage, "a", &clock).unwrap();
    let mut watches = ["b", "c"].map(|machine| watch(&storage, machine, &clock));
    for watch in &mut watches {
        assert!(is_held(watch.look()));
    }
    for _ in 0..4 {
        clock.advance(TIMEOUT_MS / 4);
        for watch in &mut watches {
            let _ = watch.look().unwrap();
        }
    }
    let [mut faster, mut slower] = watches;
    for watch in [&mut faster, &mut slower] {
        assert_eq!(vacancy(watch.look()), Vacancy::Silent);
    }
    let second = faster
        .take(Arc::clone(&storage))
        .unwrap()
        .expect("it is free");
    assert!(slower.take(Arc::clone(&storage)).unwrap().is_none());
    // Many entries later, of which the first are gone.
    for _ in 0..3 {
        second
            .record(|run| *run = Some(Run::fresh("r".to_owned(), 0)))
            .unwrap();
    }
    let Sight::Held(held) = slower.look().unwrap() else {
        panic!("another has it");
    };
    assert_eq!(held.generation, second.generation());
    drop(first);
}

#[test]
fn an_end_is_seen_however_many_entries_it_puts() {
    let (storage, clock) = (memory(), Clock::default());
    for entries in 0..4 {
        let first = take(&storage, "a", &clock).unwrap();
        let mut watch = watch(&storage, "b", &clock);
        assert!(is_held(watch.look()));
        for _ in 0..entries {
            first
                .record(|run| *run = Some(Run::fresh("r".to_owned(), 0)))
                .unwrap();
        }
        first.release();
        let seen = vacancy(watch.look());
        let expected = match entries {
            // Then nothing is left of it.
            0 => Vacancy::Free,
            _ => Vacancy::Released,
        };
        assert_eq!(seen, expected, "{entries}");
    }
}

#[test]
fn a_storage_that_was_away_leaves_the_holder_the_whole_of_its_timeout() {
    let (inner, clock) = (memory(), Clock::default());
    let away = Arc::new(AtomicBool::new(false));
    let is_away = Arc::clone(&away);
    let storage: Arc<dyn Storage> = Arc::new(
        FaultyStorage::counting(Arc::clone(&inner))
            .with_unreadable(move |_| is_away.load(Ordering::SeqCst)),
    );
    let first = take(&inner, "a", &clock).unwrap();
    let mut watch = watch(&storage, "b", &clock);
    assert!(is_held(watch.look()));
    away.store(true, Ordering::SeqCst);
    for _ in 0..40 {
        clock.advance(TIMEOUT_MS / 10);
        assert!(watch.look().is_err());
    }
    away.store(false, Ordering::SeqCst);
    assert!(is_held(watch.look()), "it could not renew");
    first.keep().unwrap();
    assert!(is_held(watch.look()));
    drop(first);
    assert_eq!(vacancy(watch.look()), Vacancy::Free);
}

#[test]
fn a_directory_that_is_gone_is_nobodys_to_take() {
    let (storage, clock) = (memory(), Clock::default());
    let first = take(&storage, "a", &clock).unwrap();
    first
        .record(|run| *run = Some(Run::fresh("r".to_owned(), 0)))
        .unwrap();
    let mut watch = watch(&storage, "b", &clock);
    assert!(is_held(watch.look()));
    for (name, _) in contents(&storage) {
        storage.delete(&name).unwrap();
    }
    for _ in 0..10 {
        clock.advance(TIMEOUT_MS);
        let Err(Error::Storage { source, .. }) = watch.look() else {
            panic!("its record cannot be gone");
        };
        assert!(source.to_string().contains("not mounted"), "{source}");
    }
}

#[test]
fn a_lock_tells_at_once_and_nothing_is_made_where_nothing_is() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("checkpoints");
    let clock = Clock::default();
    let dir = root.to_str().unwrap();
    let patience = std::time::Duration::from_secs(1);
    let mut watch = Watch::open(dir, "job", patience, terms("a", &clock)).unwrap();
    assert_eq!(vacancy(watch.look()), Vacancy::Free);
    assert!(!root.exists());
    let storage: Arc<dyn Storage> =
        Arc::new(FileStorage::create(&root, Permissions::Private).unwrap());
    let first = take(&storage, "a", &clock).unwrap();
    let Sight::Held(held) = watch.look().unwrap() else {
        panic!("it is taken");
    };
    assert!(held.lives);
    // Killed: its lock is free, and its entries stay.
    kill(first);
    let before = clock.now_ms();
    watch.wait();
    assert_eq!(vacancy(watch.look()), Vacancy::Gone);
    assert_eq!(clock.now_ms(), before, "without a wait");
    assert!(watch.take(storage).unwrap().is_some());
}

/// What a kill does to a lease.
fn kill(lease: Lease) {
    lease.state().guard = None;
    std::mem::forget(lease);
}

#[test]
fn waiting_costs_few_requests() {
    for (timeout_ms, reads_max) in [(10_000, 260), (5_000, 520)] {
        let (inner, clock) = (memory(), Clock::default());
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let counting = FaultyStorage::counting(Arc::clone(&inner)).with_unreadable(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            false
        });
        let with_timeout = |machine: &str| {
            let mut terms = terms(machine, &clock);
            terms.timeout_ms = timeout_ms;
            terms
        };
        let first = Lease::take(Arc::clone(&inner), "job", with_timeout("a")).unwrap();
        let mut watch = Watch::with_storage(Arc::new(counting), "job", with_timeout("b")).unwrap();
        let began = clock.now_ms();
        while clock.now_ms() - began < 60_000 {
            assert!(is_held(watch.look()));
            watch.wait();
            first.keep().unwrap();
        }
        let reads = reads.load(Ordering::SeqCst);
        println!("a lease of {timeout_ms} ms: {reads} reads a minute");
        assert!((60..=reads_max).contains(&reads), "{reads} reads a minute");
    }
}
