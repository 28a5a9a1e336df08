//! A job directory that another host has taken: what the one before it can still do, which is nothing.

use std::sync::Arc;

use crate::catalog::{Status, list};
use crate::claim::Extent;
use crate::fixture::{filed, segment, take, tree};
use crate::gc;
use crate::lease::Lease;
use crate::lease::tests::{Clock, TIMEOUT_MS, terms};
use crate::storage::faults::Fault;
use crate::storage::{FaultyStorage, FileStorage, Storage};
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Error, Result, locate, locate_fallback};

fn files(directory: &tempfile::TempDir) -> Arc<dyn Storage> {
    Arc::new(FileStorage::open(directory.path()).unwrap())
}

/// Owns the directory from a machine of this name, when all others have been silent for long.
fn own(storage: &Arc<dyn Storage>, machine: &str) -> Result<CheckpointStore> {
    let clock = Clock::default();
    clock.advance(1_000_000 * TIMEOUT_MS * machine.len() as u64);
    let lease = Lease::take(Arc::clone(storage), "job", terms(machine, &clock))?;
    CheckpointStore::with_lease(lease, filed())
}

fn segments(id: u64) -> Vec<(Option<u64>, Vec<u8>)> {
    vec![(None, segment(id, 0, 1))]
}

fn latest(directory: &tempfile::TempDir) -> u64 {
    let dir = directory.path().to_str().unwrap();
    let located = locate("latest", Some(dir), "wordcount").unwrap();
    located.checkpoint.metadata().id
}

/// A host that took checkpoint 1 and puts checkpoint 2 when it is a host no more, and the one that took its
/// place meanwhile.
fn zombie_and_successor(storage: &Arc<dyn Storage>) -> (CheckpointStore, CheckpointStore) {
    let first = own(storage, "1").unwrap();
    take(&first, 1, &segments(1)).unwrap();
    let pending = first.begin(dataflow::CheckpointId(2)).unwrap();
    let written = crate::fixture::write(&pending, 0, None, &segment(2, 0, 1)).unwrap();
    let second = own(storage, "22").unwrap();
    assert_eq!(second.used_id(), 1);
    let outcome = pending.complete(crate::fixture::metadata(2, 1), vec![(0, 0, written)]);
    assert!(matches!(outcome, Err(Error::Fenced { .. })), "{outcome:?}");
    (first, second)
}

#[test]
fn c17_what_a_zombie_completes_is_never_believed_and_it_deletes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_str().unwrap();
    let storage = files(&directory);
    // The one that is in progress, and then those that it does not know better than to begin.
    let (first, second) = zombie_and_successor(&storage);
    first.wait_for_cleaning();
    assert!(
        directory.path().join("job/chk-2/_metadata").is_file(),
        "it was put"
    );
    assert_eq!(latest(&directory), 1);
    assert!(matches!(first.check_owned(), Err(Error::Fenced { .. })));
    let before = tree(directory.path());
    assert!(matches!(
        take(&first, 3, &segments(3)),
        Err(Error::Fenced { .. })
    ));
    assert!(matches!(first.delete_all(), Err(Error::Fenced { .. })));
    assert!(matches!(
        first.finish("wordcount", 0),
        Err(Error::Fenced { .. })
    ));
    drop(first);
    let gone: Vec<String> = before
        .into_iter()
        .filter(|name| !tree(directory.path()).contains(name))
        .collect();
    assert!(gone.iter().all(|name| name.ends_with(".lock")), "{gone:?}");

    // It shows as what it is, and nobody restores from it, however it is named.
    let entries = list(dir).unwrap();
    let fenced = entries.iter().find(|entry| entry.name == "chk-2").unwrap();
    assert!(matches!(fenced.status, Status::Fenced(_)), "{fenced:?}");
    let path = fenced.path.clone();
    let named = locate(&path, None, "wordcount").unwrap_err();
    assert!(
        named.to_string().contains("not a checkpoint of its job"),
        "{named}"
    );
    assert_eq!(
        locate_fallback("latest", Some(dir), "wordcount")
            .unwrap()
            .checkpoint
            .metadata()
            .id,
        1
    );

    // The second one goes on with the numbers behind, also behind what it did not see.
    let completed = take(&second, 4, &segments(4)).unwrap();
    assert!(completed.metadata().generation > 1);
    second.wait_for_cleaning();
    assert_eq!(latest(&directory), 4);
    drop(second);
    let third = own(&storage, "333").unwrap();
    assert!(third.generation() > completed.metadata().generation);
    assert_eq!(
        latest(&directory),
        4,
        "the fence of the second one is remembered"
    );
}

#[test]
fn c17_garbage_of_a_live_host_is_not_collected_and_that_of_a_zombie_is() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_str().unwrap();
    let storage = files(&directory);
    let (first, second) = zombie_and_successor(&storage);
    take(&second, 3, &segments(3)).unwrap();
    second.wait_for_cleaning();

    let all = gc::Options {
        before: i64::MAX,
        dry_run: false,
    };
    // By the clock by which the second one took it.
    let collector = |machine: &str, later: u64| {
        let clock = Clock::default();
        clock.advance(1_000_000 * TIMEOUT_MS * 2 + later);
        gc::collect(dir, all, Some(&terms(machine, &clock))).unwrap()
    };
    let before = tree(directory.path());
    let refused = collector("collector", 0);
    assert!(refused.removed.is_empty(), "{refused:?}");
    assert_eq!(refused.kept.len(), 1, "{refused:?}");
    assert_eq!(tree(directory.path()), before, "a host is at work there");

    drop((first, second));
    let report = collector("collector", 10 * TIMEOUT_MS);
    assert!(
        report.removed.iter().any(|it| it.what == gc::Kind::Fenced),
        "{report:?}"
    );
    assert!(!directory.path().join("job/chk-2").exists());
    assert_eq!(latest(&directory), 3);
    let located = locate("latest", Some(dir), "wordcount").unwrap();
    assert!(verify(&located.checkpoint).is_good());
    let again = collector("collector", 20 * TIMEOUT_MS);
    assert!(
        again.removed.is_empty() && again.kept.is_empty(),
        "{again:?}"
    );
}

#[test]
fn c45_what_another_host_works_on_cannot_be_claimed() {
    let directory = tempfile::tempdir().unwrap();
    let storage = files(&directory);
    let first = own(&storage, "1").unwrap();
    let completed = take(&first, 1, &segments(1)).unwrap();
    let clock = Clock::default();
    clock.advance(1_000_000 * TIMEOUT_MS);
    let lease = Lease::take(Arc::clone(&storage), "new", terms("22", &clock)).unwrap();
    let second = CheckpointStore::with_lease(lease, filed()).unwrap();
    let claimed = second.claim(&completed, Extent::Checkpoint);
    assert!(matches!(claimed, Err(Error::Held(_))), "{claimed:?}");

    // When it is given up it can be, and goes when it is subsumed, directory and all.
    drop(first);
    second.claim(&completed, Extent::Checkpoint).unwrap();
    take(&second, 2, &segments(2)).unwrap();
    take(&second, 3, &segments(3)).unwrap();
    take(&second, 4, &segments(4)).unwrap();
    second.wait_for_cleaning();
    assert_eq!(second.take_warnings(), [""; 0]);
    assert!(
        !directory.path().join("job").exists(),
        "{:?}",
        tree(directory.path())
    );
}

#[test]
fn what_was_put_before_the_directory_was_taken_is_found_by_who_takes_it() {
    let directory = tempfile::tempdir().unwrap();
    let storage = files(&directory);
    let first = own(&storage, "1").unwrap();
    take(&first, 1, &segments(1)).unwrap();
    let second = own(&storage, "22").unwrap();
    assert_eq!((second.used_id(), latest(&directory)), (1, 1));
    drop((first, second));
}

#[test]
fn an_end_in_order_leaves_neither_lease_nor_directory() {
    let directory = tempfile::tempdir().unwrap();
    let storage = files(&directory);
    let store = own(&storage, "1").unwrap();
    for id in 1..=3 {
        take(&store, id, &segments(id)).unwrap();
    }
    store.finish("wordcount", 0).unwrap();
    store.delete_all().unwrap();
    drop(store);
    assert_eq!(tree(directory.path()), [""; 0]);
    // Also when there never was a checkpoint.
    drop(own(&storage, "1").unwrap());
    assert_eq!(tree(directory.path()), [""; 0]);
}

#[test]
fn a_run_that_finishes_removes_marks_of_earlier_ones_with_their_directories() {
    let directory = tempfile::tempdir().unwrap();
    let storage = files(&directory);
    let clock = Clock::default();
    for (job, keeps) in [("killed", true), ("first", false), ("second", false)] {
        let lease = Lease::take(Arc::clone(&storage), job, terms("a", &clock)).unwrap();
        let store = CheckpointStore::with_lease(lease, filed()).unwrap();
        take(&store, 1, &segments(1)).unwrap();
        if !keeps {
            store.finish("wordcount", 1_800_000_000_000).unwrap();
            store.delete_all().unwrap();
        }
    }
    let names = storage.list("").unwrap().directories;
    assert_eq!(names, ["killed", "second"]);
    assert!(directory.path().join("second/_finished").is_file());
}

#[test]
fn a_checkpoint_whose_owner_cannot_be_told_does_not_count_and_stays_whole() {
    let directory = tempfile::tempdir().unwrap();
    let away = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let unreadable = Arc::clone(&away);
    let faulty =
        FaultyStorage::new(files(&directory), |_| Fault::None).with_unreadable(move |name| {
            name.contains("/_lease/") && unreadable.load(std::sync::atomic::Ordering::SeqCst)
        });
    let storage: Arc<dyn Storage> = Arc::new(faulty);
    let store = own(&storage, "1").unwrap();
    take(&store, 1, &segments(1)).unwrap();
    away.store(true, std::sync::atomic::Ordering::SeqCst);
    let outcome = take(&store, 2, &segments(2));
    assert!(matches!(outcome, Err(Error::Storage { .. })), "{outcome:?}");
    away.store(false, std::sync::atomic::Ordering::SeqCst);
    store.wait_for_cleaning();
    let found = locate("latest", directory.path().to_str(), "wordcount").unwrap();
    assert!(verify(&found.checkpoint).is_good());
    store.check_owned().unwrap();
    take(&store, 3, &segments(3)).unwrap();
    assert_eq!(latest(&directory), 3);
}
