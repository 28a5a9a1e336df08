//! A job directory that another host has taken: what the one before it can still do, which is nothing.

use std::sync::Arc;

use dataflow::CheckpointId;

use crate::catalog::{Status, list};
use crate::claim::Extent;
use crate::fixture::{filed, metadata, segment, take, tree, write};
use crate::gc;
use crate::lease::tests::{Clock, TIMEOUT_MS, terms};
use crate::lease::{Ending, Lease, Rewind, RewindMode, Run};
use crate::storage::faults::{Extent as Done, Fault};
use crate::storage::{FaultyStorage, FileStorage, Storage};
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Error, Result, SavepointTarget, locate, locate_fallback};

fn files(directory: &tempfile::TempDir) -> Arc<dyn Storage> {
    Arc::new(FileStorage::open(directory.path()).unwrap())
}

/// Owns the directory from a machine of this name, when all others have been silent for long.
fn own(storage: &Arc<dyn Storage>, machine: &str) -> Result<CheckpointStore> {
    let clock = Clock::default();
    clock.advance(1_000_000 * TIMEOUT_MS * machine.len() as u64);
    let lease = Lease::take(Arc::clone(storage), "job", terms(machine, &clock))?;
    lease.record(|run| {
        run.get_or_insert_with(|| Run::fresh("run".to_owned(), 0));
    })?;
    CheckpointStore::with_lease(Arc::new(lease), filed())
}

fn segments(id: u64) -> Vec<(Option<u64>, Vec<u8>)> {
    vec![(None, segment(id, 0, 1))]
}

fn latest(directory: &tempfile::TempDir) -> u64 {
    let dir = directory.path().to_str().unwrap();
    let located = locate("latest", Some(dir), "job").unwrap();
    located.checkpoint.metadata().id
}

/// A host that took checkpoint 1 and puts checkpoint 2 when it is a host no more, and the one that took its
/// place meanwhile.
fn zombie_and_successor(storage: &Arc<dyn Storage>) -> (CheckpointStore, CheckpointStore) {
    let first = own(storage, "1").unwrap();
    take(&first, 1, &segments(1)).unwrap();
    let pending = first.begin(CheckpointId(2)).unwrap();
    let written = write(&pending, 0, None, &segment(2, 0, 1)).unwrap();
    let second = own(storage, "22").unwrap();
    assert_eq!(second.used_id(), 1);
    let outcome = pending.complete(metadata(2, 1), vec![(0, 0, written)]);
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
        first.end(Ending::Finished, false, 0),
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
        locate_fallback("latest", Some(dir), "job")
            .unwrap()
            .checkpoint
            .metadata()
            .id,
        1
    );

    // The second one goes on with the numbers after, also after what it did not see.
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
    let located = locate("latest", Some(dir), "job").unwrap();
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
    let second = CheckpointStore::with_lease(Arc::new(lease), filed()).unwrap();
    let claimed = second.claim(&completed, Extent::Checkpoint);
    assert!(matches!(claimed, Err(Error::Held(_))), "{claimed:?}");

    // When it is given up it can be, and goes when it is subsumed, with all but what is on record.
    drop(first);
    second.claim(&completed, Extent::Checkpoint).unwrap();
    take(&second, 2, &segments(2)).unwrap();
    take(&second, 3, &segments(3)).unwrap();
    take(&second, 4, &segments(4)).unwrap();
    second.wait_for_cleaning();
    assert_eq!(second.take_warnings(), [""; 0]);
    let left = tree(&directory.path().join("job"));
    assert!(left.iter().all(|it| it.starts_with("_lease/")), "{left:?}");
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
fn c156_an_end_in_order_leaves_nothing_but_what_is_on_record() {
    let directory = tempfile::tempdir().unwrap();
    let storage = files(&directory);
    let store = own(&storage, "1").unwrap();
    for id in 1..=3 {
        take(&store, id, &segments(id)).unwrap();
    }
    let generation = store.generation();
    store.end(Ending::Finished, false, 0).unwrap();
    drop(store);
    let left = tree(directory.path());
    assert!(
        left.iter().all(|name| name.starts_with("job/_lease/")),
        "{left:?}"
    );
    // Numbers and generations go on from there.
    let next = own(&storage, "22").unwrap();
    assert_eq!(next.used_id(), 3);
    assert!(next.generation() > generation);
    // Where no run ever began nothing is on record.
    let other = tempfile::tempdir().unwrap();
    let storage = files(&other);
    drop(Lease::take(Arc::clone(&storage), "job", terms("1", &Clock::default())).unwrap());
    assert_eq!(tree(other.path()), [""; 0]);
}

#[test]
fn c142_an_end_that_comes_after_the_directory_was_lost_deletes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let storage = files(&directory);
    for how in [Ending::Cancelled, Ending::Failed, Ending::Finished] {
        let first = own(&storage, "1").unwrap();
        let id = first.used_id() + 1;
        take(&first, id, &segments(id)).unwrap();
        let second = own(&storage, "22").unwrap();
        assert_eq!(latest(&directory), id);
        let outcome = first.end(how, false, 0);
        assert!(matches!(outcome, Err(Error::Fenced { .. })), "{outcome:?}");
        drop(first);
        assert_eq!(latest(&directory), id, "{how:?}");
        take(&second, id + 1, &segments(id + 1)).unwrap();
    }
}

#[test]
fn c156_what_was_to_be_deleted_is_not_resumed_though_the_process_died_first() {
    let directory = tempfile::tempdir().unwrap();
    let counting = FaultyStorage::counting(files(&directory));
    let store = own(&(Arc::new(counting.clone()) as Arc<dyn Storage>), "1").unwrap();
    take(&store, 1, &segments(1)).unwrap();
    let before = counting.steps().len();
    store.end(Ending::Cancelled, false, 0).unwrap();
    let steps = before..counting.steps().len();
    drop(store);
    let (mut resumed, mut given_up) = (0, 0);
    for step in steps {
        let directory = tempfile::tempdir().unwrap();
        let faulty = FaultyStorage::at(files(&directory), step, Fault::Crash(Done::All));
        let store = own(&(Arc::new(faulty.clone()) as Arc<dyn Storage>), "1").unwrap();
        take(&store, 1, &segments(1)).unwrap();
        let _crashed = store.end(Ending::Cancelled, false, 0);
        assert!(faulty.has_crashed());
        drop(store);
        match locate("latest", directory.path().to_str(), "job") {
            Ok(found) => {
                assert!(verify(&found.checkpoint).is_good());
                resumed += 1;
            }
            Err(Error::NotFound(_)) => {
                given_up += 1;
                // Who goes on in the directory removes what is left.
                let next = own(&files(&directory), "22").unwrap();
                next.take_over();
                take(&next, 5, &segments(5)).unwrap();
                next.wait_for_cleaning();
                let left = tree(directory.path());
                assert!(!left.iter().any(|name| name.contains("chk-1/")), "{left:?}");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(resumed, 0, "the record comes first");
    assert!(given_up > 2);
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
    let found = locate("latest", directory.path().to_str(), "job").unwrap();
    assert!(verify(&found.checkpoint).is_good());
    store.check_owned().unwrap();
    take(&store, 3, &segments(3)).unwrap();
    assert_eq!(latest(&directory), 3);
}

/// Whether anything is in a directory of savepoints.
fn is_empty(directory: &tempfile::TempDir) -> bool {
    tree(directory.path()).is_empty()
}

#[test]
fn c80_a_savepoint_of_a_zombie_is_removed_and_says_why() {
    let (directory, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = files(&directory);
    let target = SavepointTarget::with_storage(files(&saved), "job").unwrap();
    let first = own(&storage, "1").unwrap();
    // Taken from it while it writes, and after its metadata was put.
    let pending = first.begin_savepoint(CheckpointId(1), &target).unwrap();
    let written = write(&pending, 0, None, &segment(1, 0, 1)).unwrap();
    let second = own(&storage, "22").unwrap();
    let outcome = pending.complete(metadata(1, 1), vec![(0, 0, written)]);
    assert!(matches!(outcome, Err(Error::Fenced { .. })), "{outcome:?}");
    assert!(is_empty(&saved));

    let before_metadata = Arc::new(std::sync::Mutex::new(Some(Arc::clone(&storage))));
    let faulty = FaultyStorage::counting(files(&saved));
    faulty.pause_before_steps(move |name| {
        if name.ends_with("/_metadata")
            && let Some(storage) = before_metadata.lock().unwrap().take()
        {
            std::mem::forget(own(&storage, "333").unwrap());
        }
    });
    let target = SavepointTarget::with_storage(Arc::new(faulty), "job").unwrap();
    let pending = second.begin_savepoint(CheckpointId(2), &target).unwrap();
    let written = write(&pending, 0, None, &segment(2, 0, 1)).unwrap();
    let outcome = pending.complete(metadata(2, 1), vec![(0, 0, written)]);
    assert!(matches!(outcome, Err(Error::Fenced { .. })), "{outcome:?}");
    assert!(is_empty(&saved));
    assert_eq!(second.take_warnings(), [""; 0]);
}

#[test]
fn c80_the_number_of_a_savepoint_is_on_record_and_it_is_no_checkpoint_of_its_run() {
    let (directory, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = files(&directory);
    let target = SavepointTarget::with_storage(files(&saved), "job").unwrap();
    let first = own(&storage, "1").unwrap();
    take(&first, 1, &segments(1)).unwrap();
    let pending = first.begin_savepoint(CheckpointId(2), &target).unwrap();
    let written = write(&pending, 0, None, &segment(2, 0, 1)).unwrap();
    let savepoint = pending.complete(metadata(2, 1), vec![(0, 0, written)]);
    let savepoint = savepoint.unwrap();
    assert_eq!(savepoint.metadata().generation, first.generation());
    assert!(savepoint.metadata().holder.is_some());
    // Killed: the lease is neither renewed nor released.
    std::mem::forget(first);
    let second = own(&storage, "22").unwrap();
    assert_eq!(second.used_id(), 2);
    let run = second.lease().unwrap().run().unwrap();
    assert_eq!(run.completed, 1);
    assert_eq!(latest(&directory), 1);
}

#[test]
fn c80_a_savepoint_that_was_moved_into_a_job_directory_is_neither_fenced_nor_collected() {
    let (directory, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = directory.path().to_str().unwrap();
    let storage = files(&directory);
    let target = SavepointTarget::with_storage(files(&saved), "job").unwrap();
    let first = own(&storage, "1").unwrap();
    let pending = first.begin_savepoint(CheckpointId(5), &target).unwrap();
    let written = write(&pending, 0, None, &segment(5, 0, 1)).unwrap();
    let path = pending.complete(metadata(5, 1), vec![(0, 0, written)]);
    let path = path.unwrap().path().unwrap();
    // Of all that the run took nothing is to be believed, and another host owns the directory.
    first.end(Ending::Cancelled, false, 0).unwrap();
    drop(first);
    let second = own(&storage, "22").unwrap();
    take(&second, 6, &segments(6)).unwrap();
    second.wait_for_cleaning();
    drop(second);
    let own_directory = std::path::Path::new(&path).parent().unwrap();
    let moved = directory.path().join("job/savepoint-moved");
    std::fs::rename(own_directory, &moved).unwrap();
    let all = gc::Options {
        before: i64::MAX,
        dry_run: false,
    };
    gc::collect(dir, all, None).unwrap();
    let found = locate(moved.to_str().unwrap(), None, "").unwrap();
    assert!(verify(&found.checkpoint).is_good());
    assert_eq!(latest(&directory), 6);
}

#[test]
fn c81_a_run_that_was_stopped_goes_on_as_a_suspended_one_does() {
    let directory = tempfile::tempdir().unwrap();
    let storage = files(&directory);
    let first = own(&storage, "1").unwrap();
    take(&first, 1, &segments(1)).unwrap();
    first.end(Ending::Stopped, true, 7).unwrap();
    drop(first);
    let second = own(&storage, "22").unwrap();
    let run = second.lease().unwrap().run().unwrap();
    assert_eq!(run.ended.unwrap().how, Ending::Stopped);
    assert_eq!(latest(&directory), 1);
}

#[test]
fn c80_a_savepoint_counts_for_its_run_unless_that_was_rewound_past_it() {
    let (directory, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = files(&directory);
    let target = SavepointTarget::with_storage(files(&saved), "job").unwrap();
    let first = own(&storage, "1").unwrap();
    take(&first, 1, &segments(1)).unwrap();
    let pending = first.begin_savepoint(CheckpointId(2), &target).unwrap();
    let written = write(&pending, 0, None, &segment(2, 0, 1)).unwrap();
    let savepoint = pending.complete(metadata(2, 1), vec![(0, 0, written)]);
    let savepoint = savepoint.unwrap().metadata().clone();
    std::mem::forget(first);
    // Killed and resumed, from the checkpoint before it: the directory has another owner since.
    let second = own(&storage, "22").unwrap();
    let checkpoint = take(&second, 3, &segments(3)).unwrap().metadata().clone();
    let lease = Arc::clone(second.lease().unwrap());
    assert_eq!(lease.counts(&savepoint), Ok(()));
    assert_eq!(lease.counts(&checkpoint), Ok(()));
    // Cancelled: its checkpoints are given up, a savepoint is not the job's to give up.
    second.end(Ending::Cancelled, false, 0).unwrap();
    drop(second);
    let third = own(&storage, "333").unwrap();
    let lease = Arc::clone(third.lease().unwrap());
    assert!(lease.counts(&checkpoint).is_err());
    assert_eq!(lease.counts(&savepoint), Ok(()));
    // What it says did not happen.
    let rewind = |run: &mut Option<Run>| {
        run.as_mut().unwrap().discard_for(&Rewind {
            to: 1,
            through: 3,
            mode: RewindMode::Withdraw,
            owed: Vec::new(),
        });
    };
    lease.record_rewind(rewind, 1).unwrap();
    assert!(lease.counts(&savepoint).unwrap_err().contains("rewound"));
}
