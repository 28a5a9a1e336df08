use std::fs;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use super::*;
use crate::fixture::{filed, hand_on, noise, take, tree};
use crate::storage::faults::{Extent, Fault};
use crate::storage::{FaultyStorage, FileStorage};
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Completed};

const ALL: Options = Options {
    before: i64::MAX,
    dry_run: false,
};

fn files(directory: &Path) -> Arc<dyn Storage> {
    Arc::new(FileStorage::open(directory).unwrap())
}

/// Two jobs, the second with a delta on what it claimed of the first, and garbage of every kind.
fn littered(root: &Path) {
    let options = crate::store::Options {
        retained: 2,
        ..filed()
    };
    let store = |job: &str| CheckpointStore::open(root.to_str().unwrap(), job, options.clone());
    let old = store("old").unwrap();
    for id in 1..=2 {
        let base = (id == 2).then_some(1);
        take(&old, id, &[(base, noise(id, 100))]).unwrap();
    }
    let new = store("new").unwrap();
    new.claim(&old.latest().unwrap(), crate::claim::Extent::Checkpoint)
        .unwrap();
    take(&new, 3, &[(Some(2), noise(3, 100))]).unwrap();
    take(&new, 4, &[(None, noise(4, 100))]).unwrap();
    new.wait_for_cleaning();
    assert!(!root.join("old/chk-2").exists());
    std::mem::forget((old, new));
    for job in ["old", "new"] {
        let write = |name: &str| {
            let path = root.join(job).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "garbage").unwrap();
        };
        write("chk-9/_metadata#1");
        write("chk-9/r1-c9-7.state");
        write("shared/r1-c9-8.state");
        write("shared/r1-c9-9.state.part-0000000000000001-1#1");
        write("_finished#1");
        write("shared/somebodys");
        write("taskowned/r1-c1-1.state");
    }
}

fn complete(root: &Path) -> Vec<Completed> {
    let entries = crate::list(root.to_str().unwrap()).unwrap();
    let complete: Vec<_> = entries
        .iter()
        .filter_map(|it| it.completed().cloned())
        .collect();
    assert_eq!(
        complete.len(),
        3,
        "chk-1 of the old job, chk-3 and chk-4 of the new one"
    );
    complete
}

#[test]
fn c10_garbage_of_every_kind_goes_and_nothing_that_is_needed_from_anywhere() {
    for place in ["", "old", "new"] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        littered(root);
        let before = tree(root);
        let at = root.join(place);
        let told = collect(
            at.to_str().unwrap(),
            Options {
                dry_run: true,
                ..ALL
            },
            None,
        )
        .unwrap();
        assert_eq!(tree(root), before);
        let report = collect(at.to_str().unwrap(), ALL, None).unwrap();
        assert_eq!(report, told, "what is reported is what is done");
        let jobs = if place.is_empty() { 2 } else { 1 };
        assert_eq!(
            report.removed.len(),
            jobs * 6,
            "five files and a directory: {report:?}"
        );
        let after = tree(root);
        let gone = before.iter().filter(|name| !after.contains(name));
        assert_eq!(gone.count(), jobs * 5);
        for checkpoint in complete(root) {
            assert!(verify(&checkpoint).is_good());
        }
        assert_eq!(
            collect(at.to_str().unwrap(), ALL, None).unwrap(),
            Report::default()
        );
    }
}

#[test]
fn what_is_young_stays() {
    let directory = tempfile::tempdir().unwrap();
    littered(directory.path());
    let before = tree(directory.path());
    let options = Options {
        before: 1_000_000,
        dry_run: false,
    };
    let report = collect(directory.path().to_str().unwrap(), options, None).unwrap();
    assert_eq!((report.removed.len(), report.recent), (0, 10));
    assert_eq!(tree(directory.path()), before);
}

#[test]
fn a_checkpoint_that_cannot_be_read_keeps_what_it_may_need_and_that_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    littered(root);
    let metadata = root.join("new/chk-3/_metadata");
    let whole = fs::read(&metadata).unwrap();
    for damage in [&whole[..20], &[], &whole[..whole.len() - 1]] {
        fs::write(&metadata, damage).unwrap();
        // Garbage, if nobody could tell that chk-3 does not need it.
        fs::write(root.join("old/shared/r1-c2-77.state"), "x").unwrap();
        let report = collect(root.to_str().unwrap(), ALL, None).unwrap();
        assert!(!report.kept.is_empty(), "{report:?}");
        let named = report
            .kept
            .iter()
            .all(|kept| kept.why.contains("new/chk-3"));
        assert!(named, "{report:?}");
        assert!(
            report
                .removed
                .iter()
                .all(|it| !it.path.ends_with("r1-c2-77.state"))
        );
        fs::write(&metadata, &whole).unwrap();
        for checkpoint in complete(root) {
            assert!(verify(&checkpoint).is_good());
        }
    }
}

#[test]
fn c53_a_collection_that_crashes_at_any_step_is_finished_by_the_next() {
    let steps = {
        let directory = tempfile::tempdir().unwrap();
        littered(directory.path());
        let counting = FaultyStorage::counting(files(directory.path()));
        let storage: Arc<dyn Storage> = Arc::new(counting.clone());
        collect_jobs(&storage, &["old".to_owned(), "new".to_owned()], ALL, None).unwrap();
        counting.steps().len()
    };
    assert_eq!(steps, 12);
    for step in 0..steps {
        for extent in [Extent::Nothing, Extent::All] {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path();
            littered(root);
            let faulty = FaultyStorage::at(files(root), step, Fault::Crash(extent));
            let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
            let _crashed = collect_jobs(&storage, &["old".to_owned(), "new".to_owned()], ALL, None);
            assert!(faulty.has_crashed());
            for checkpoint in complete(root) {
                assert!(verify(&checkpoint).is_good(), "step {step} {extent:?}");
            }
            collect(root.to_str().unwrap(), ALL, None).unwrap();
            assert_eq!(
                collect(root.to_str().unwrap(), ALL, None).unwrap(),
                Report::default()
            );
            for checkpoint in complete(root) {
                assert!(verify(&checkpoint).is_good(), "step {step} {extent:?}");
            }
        }
    }
}

#[test]
fn no_flipped_byte_makes_looking_at_a_directory_fail_or_collecting_lose_data() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    littered(root);
    let metadata = root.join("new/chk-3/_metadata");
    let whole = fs::read(&metadata).unwrap();
    let place = root.to_str().unwrap();
    let mut noticed = 0;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&metadata, &damaged).unwrap();
        let entries = crate::list(place).unwrap();
        let third = entries.iter().find(|entry| entry.name == "chk-3").unwrap();
        assert!(third.completed().is_none(), "byte {at}");
        noticed += usize::from(third.status.reason().is_some());
        assert!(crate::locate(metadata.to_str().unwrap(), None, "").is_err());
        if at % 16 == 0 {
            collect(place, ALL, None).unwrap();
        }
    }
    assert_eq!(noticed, whole.len());
    fs::write(&metadata, &whole).unwrap();
    for checkpoint in complete(root) {
        assert!(verify(&checkpoint).is_good());
    }
}

/// A storage whose deletes wait until they are let go.
#[derive(Debug)]
struct Stalling {
    inner: Arc<dyn Storage>,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Storage for Stalling {
    fn delete(&self, name: &str) -> Result<()> {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
        self.inner.delete(name)
    }

    hand_on!(inner: create put_new read list make_directory remove_directory location);
}

#[test]
fn c27_a_storage_whose_deletes_hang_delays_no_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let stalling = Arc::new(Stalling {
        inner: files(directory.path()),
        open: Mutex::new(false),
        opened: Condvar::new(),
    });
    let storage = Arc::clone(&stalling) as Arc<dyn Storage>;
    let store = CheckpointStore::with_storage(storage, "job", filed()).unwrap();
    // More than the queue takes: what is given up stands, and is tried again.
    for id in 1..=600 {
        take(&store, id, &[(None, noise(id, 10))]).unwrap();
    }
    let count = |what: &str| {
        tree(directory.path())
            .iter()
            .filter(|it| it.contains(what))
            .count()
    };
    assert_eq!(
        (count("_metadata"), count(".state")),
        (600, 600),
        "nothing is deleted yet"
    );
    *stalling.open.lock().unwrap() = true;
    stalling.opened.notify_all();
    store.wait_for_cleaning();
    take(&store, 601, &[(None, noise(601, 10))]).unwrap();
    store.wait_for_cleaning();
    assert!(!store.take_warnings().is_empty(), "the queue was full");
    assert_eq!(count("_metadata"), 1);
    for entry in crate::list(directory.path().to_str().unwrap()).unwrap() {
        assert!(verify(entry.completed().unwrap()).is_good());
    }
    drop(store);
    collect(directory.path().to_str().unwrap(), ALL, None).unwrap();
    assert_eq!(count(".state"), 1);
}

#[test]
fn c80_what_a_crash_left_of_a_savepoint_goes_and_a_savepoint_never_does() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let write = |name: &str, bytes: &[u8]| {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), bytes).unwrap();
    };
    let store = CheckpointStore::memory(filed());
    let target = crate::SavepointTarget::with_storage(files(root.path()), "job").unwrap();
    let pending = store.begin_savepoint(dataflow::CheckpointId(1), &target);
    let pending = pending.unwrap();
    let written = crate::fixture::write(&pending, 0, None, &noise(1, 100)).unwrap();
    let metadata = crate::fixture::metadata(1, 1);
    pending.complete(metadata, vec![(0, 0, written)]).unwrap();
    let complete = tree(root.path());
    assert_eq!(complete.len(), 2, "{complete:?}");

    write("savepoint-damaged-1/_metadata", b"HIGHWATE damaged");
    write("savepoint-damaged-1/r1-c1-0.state", b"x");
    write("savepoint-foreign-1/notes.txt", b"x");
    write("savepoint-mixed-1/notes.txt", b"x");
    let stays = tree(root.path());
    write("savepoint-mixed-1/r1-c1-0.state", b"x");
    write("savepoint-half-1/r1-c1-0.state", b"x");
    write("savepoint-half-1/_metadata#1", b"x");
    write(
        "savepoint-void-1/_metadata",
        &crate::metadata::void(1, 0, None),
    );
    write("somebodys/r1-c1-0.state", b"x");
    let before = tree(root.path());

    let place = root.path().to_str().unwrap();
    let recent = Options { before: 0, ..ALL };
    let report = collect(place, recent, None).unwrap();
    assert_eq!((report.removed, report.recent), (vec![], 4));
    let dry = Options {
        dry_run: true,
        ..ALL
    };
    let told = collect(place, dry, None).unwrap();
    assert_eq!(tree(root.path()), before);
    let report = collect(place, ALL, None).unwrap();
    assert_eq!(report, told);
    assert!(report.removed.iter().all(|removed| removed.error.is_none()));
    let mut expected = stays;
    expected.push("somebodys/r1-c1-0.state".to_owned());
    assert_eq!(tree(root.path()), expected);
    // Named by itself it goes, too, or stays.
    write("savepoint-half-1/r1-c1-0.state", b"x");
    collect(path("savepoint-half-1").to_str().unwrap(), ALL, None).unwrap();
    let whole = path(complete[0].split_once('/').unwrap().0);
    collect(whole.to_str().unwrap(), ALL, None).unwrap();
    assert_eq!(tree(root.path()), expected);
}
