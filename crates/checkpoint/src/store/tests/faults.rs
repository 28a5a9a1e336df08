//! Every durable step of a checkpoint fails, or is the last one before a crash, in turn. Steps are
//! counted, not guessed.

use std::sync::Arc;

use crate::catalog::{Status, list};
use crate::fixture::{LARGE, filed, hand_on, noise, take, tree};
use crate::storage::faults::{Action, Extent, Fault, Step};
use crate::storage::{FaultyStorage, FileStorage, MemoryStorage, Storage};
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Error, locate};

type Segments = Vec<(Option<u64>, Vec<u8>)>;

/// Two checkpoints, the second a delta on the first, with shared and large files.
fn segments(id: u64) -> Segments {
    let base = Some(id - 1).filter(|base| *base > 0);
    vec![
        (base, noise(id, 100)),
        (None, noise(id, LARGE)),
        (base, noise(id, 7)),
    ]
}

fn files(directory: &tempfile::TempDir) -> Arc<dyn Storage> {
    Arc::new(FileStorage::open(directory.path()).unwrap())
}

/// The steps of the third checkpoint in an undisturbed run, clean-up included.
fn steps() -> Vec<Step> {
    let faulty = FaultyStorage::counting(Arc::new(MemoryStorage::new()));
    let store = CheckpointStore::with_storage(Arc::new(faulty.clone()), "job", filed()).unwrap();
    for id in 1..=2 {
        take(&store, id, &segments(id)).unwrap();
        store.wait_for_cleaning();
    }
    let before = faulty.steps().len();
    take(&store, 3, &segments(3)).unwrap();
    store.wait_for_cleaning();
    faulty.steps().split_off(before)
}

#[test]
fn metadata_is_the_last_thing_put_and_the_first_deleted() {
    let steps = steps();
    let told: Vec<(Action, &str)> = steps
        .iter()
        .map(|step| (step.action, step.name.as_str()))
        .collect();
    let puts = [
        (Action::Append, "job/shared/r1-c3-4.state"),
        (Action::Append, "job/shared/r1-c3-4.state"),
        (Action::Finish, "job/shared/r1-c3-4.state"),
        (Action::Put, "job/shared/r1-c3-5.state"),
        (Action::Put, "job/chk-3/_metadata"),
    ];
    let deletions = [
        (Action::Delete, "job/chk-2/_metadata"),
        (Action::RemoveDirectory, "job/chk-2"),
        (Action::Delete, "job/shared/r1-c1-0.state"),
    ];
    assert_eq!(told[..told.len() - deletions.len()].last(), puts.last());
    assert!(told.starts_with(&puts[..1]), "{told:?}");
    assert!(told.ends_with(&deletions), "{told:?}");
}

#[test]
fn c10_c11_a_crash_at_any_step_leaves_the_newest_completed_whole() {
    let steps = steps();
    assert!(steps.len() >= 8, "{steps:?}");
    let (first, last) = (steps[0].number, steps[steps.len() - 1].number);
    let (mut found_old, mut found_new) = (0, 0);
    for at in first..=last + 1 {
        for extent in [Extent::Nothing, Extent::All] {
            let directory = tempfile::tempdir().unwrap();
            // The crash: this step is done or not, and none after it is.
            let faulty = FaultyStorage::at(files(&directory), at, Fault::Crash(extent));
            let store = CheckpointStore::with_storage(Arc::new(faulty), "job", filed()).unwrap();
            for id in 1..=2 {
                take(&store, id, &segments(id)).unwrap();
                store.wait_for_cleaning();
            }
            let reported = take(&store, 3, &segments(3)).is_ok();
            store.wait_for_cleaning();
            let dir = directory.path().to_str().unwrap();
            let found = locate("latest", Some(dir), "job").unwrap().checkpoint;
            assert!(verify(&found).is_good(), "step {at} {extent:?}");
            match found.metadata().id {
                2 => found_old += 1,
                3 => found_new += 1,
                other => panic!("step {at} {extent:?}: found {other}"),
            }
            assert!(
                !reported || found.metadata().id == 3,
                "step {at} {extent:?}: it was lost"
            );
            for entry in list(dir).unwrap() {
                let accepted = matches!(entry.status, Status::Complete(_) | Status::Incomplete);
                assert!(accepted, "step {at} {extent:?}: {entry:?}");
            }
            // The next run takes up where it stopped, in the same directory.
            let next = found.metadata().id + 1;
            let store = CheckpointStore::open(dir, "job", filed()).unwrap();
            let taken = take(&store, next, &[(None, noise(next, 100))]).unwrap();
            assert!(verify(&taken).is_good());
        }
    }
    assert!(found_old >= 6 && found_new >= 6, "{found_old} {found_new}");
}

fn latest(directory: &tempfile::TempDir) -> u64 {
    let found = locate("latest", directory.path().to_str(), "job").unwrap();
    assert!(verify(&found.checkpoint).is_good());
    found.checkpoint.metadata().id
}

#[test]
fn c12_a_failure_at_any_step_leaves_no_files_and_the_next_checkpoint_succeeds() {
    let steps = steps();
    let metadata = steps
        .iter()
        .position(|step| step.name.ends_with("chk-3/_metadata"))
        .unwrap();
    for step in &steps[..=metadata] {
        for extent in [Extent::Nothing, Extent::All] {
            let directory = tempfile::tempdir().unwrap();
            let faulty = FaultyStorage::at(files(&directory), step.number, Fault::Fail(extent));
            let store = CheckpointStore::with_storage(Arc::new(faulty), "job", filed()).unwrap();
            for id in 1..=2 {
                take(&store, id, &segments(id)).unwrap();
                store.wait_for_cleaning();
            }
            let before = tree(directory.path());
            let error = take(&store, 3, &segments(3)).unwrap_err();
            assert!(
                error.to_string().contains(&step.name),
                "{error} at {step:?}"
            );
            store.wait_for_cleaning();
            // Metadata that exists stays, whole, until a newer one takes its place.
            let exists = step.name.ends_with("chk-3/_metadata") && extent == Extent::All;
            match exists {
                true => assert_eq!(latest(&directory), 3),
                false => assert_eq!(tree(directory.path()), before, "{step:?} {extent:?}"),
            }
            assert_eq!(store.latest().unwrap().metadata().id, 2);
            let fourth = take(
                &store,
                4,
                &[
                    (Some(2), noise(4, 10)),
                    (None, noise(4, 10)),
                    (None, Vec::new()),
                ],
            );
            assert!(verify(&fourth.unwrap()).is_good());
            store.wait_for_cleaning();
            assert_eq!(latest(&directory), 4);
            let left = tree(directory.path());
            assert!(!left.iter().any(|it| it.contains("-c3-")), "{left:?}");
            assert_eq!(store.take_warnings(), [""; 0]);
        }
    }
}

#[test]
fn when_nobody_can_tell_whether_metadata_exists_its_data_stays() {
    let memory = Arc::new(MemoryStorage::new());
    let is_metadata = |name: &str| name.ends_with("chk-1/_metadata");
    let inner = Arc::clone(&memory) as Arc<dyn Storage>;
    let faulty = FaultyStorage::new(inner, move |step| match step.action {
        Action::Put if is_metadata(&step.name) => Fault::Fail(Extent::All),
        _ => Fault::None,
    })
    .with_unreadable(is_metadata);
    let store = CheckpointStore::with_storage(Arc::new(faulty), "job", filed()).unwrap();
    let error = take(&store, 1, &segments(1)).unwrap_err();
    assert!(matches!(error, Error::Storage { .. }), "{error:?}");
    store.wait_for_cleaning();
    let found = crate::Completed::open(memory, "job/chk-1").unwrap();
    assert!(
        verify(&found).is_good(),
        "a checkpoint that is believed is whole"
    );
}

#[test]
fn a_put_that_met_its_own_first_try_has_succeeded() {
    #[derive(Debug)]
    struct TriesTwice(MemoryStorage);
    impl Storage for TriesTwice {
        fn put_new(&self, name: &str, parts: Vec<bytes::Bytes>) -> crate::Result<()> {
            self.0.put_new(name, parts.clone())?;
            match name.ends_with("_metadata") {
                true => self.0.put_new(name, parts),
                false => Ok(()),
            }
        }

        hand_on!(0: create read list delete make_directory remove_directory location);
    }
    let storage = Arc::new(TriesTwice(MemoryStorage::new()));
    let store = CheckpointStore::with_storage(storage, "job", filed()).unwrap();
    let completed = take(&store, 1, &segments(1)).unwrap();
    assert!(verify(&completed).is_good());
}
