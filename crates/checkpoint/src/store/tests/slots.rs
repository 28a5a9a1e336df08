//! A put of metadata whose outcome is unknown: before a restart it is decided, once.

use std::sync::Arc;

use dataflow::CheckpointId;

use crate::catalog::{Status, list};
use crate::fixture::{LARGE, filed, metadata, noise, take, tree, write};
use crate::gc;
use crate::storage::faults::{Action, Extent, Fault, Step};
use crate::storage::{FaultyStorage, FileStorage};
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Completed, Result, locate};

const METADATA: &str = "job/chk-2/_metadata";

struct Scene {
    directory: tempfile::TempDir,
    storage: FaultyStorage,
    store: CheckpointStore,
}

impl Scene {
    /// With a first checkpoint, and a second one whose put of metadata has this fault.
    fn new(fault: Extent, late: bool) -> Self {
        let first = std::sync::atomic::AtomicBool::new(true);
        Self::with_plan(late, move |step| {
            let is_metadata = step.action == Action::Put && step.name == METADATA;
            match is_metadata && first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                true => Fault::Fail(fault),
                false => Fault::None,
            }
        })
    }

    fn with_plan(late: bool, plan: impl Fn(&Step) -> Fault + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = Arc::new(FileStorage::open(directory.path()).unwrap());
        let storage = FaultyStorage::new(files, plan);
        let storage = match late {
            true => storage.landing_late(),
            false => storage,
        };
        let store =
            CheckpointStore::with_storage(Arc::new(storage.clone()), "job", filed()).unwrap();
        take(&store, 1, &[(None, noise(1, LARGE))]).unwrap();
        Self {
            directory,
            storage,
            store,
        }
    }

    fn second(&self) -> Result<Completed> {
        let pending = self.store.begin(CheckpointId(2))?;
        let written = vec![(0, 0, write(&pending, 0, None, &noise(2, LARGE))?)];
        let outcome = pending.complete(metadata(2, 1), written);
        self.store.wait_for_cleaning();
        outcome
    }

    fn newest(&self) -> u64 {
        self.store.latest().unwrap().metadata().id
    }

    /// What a new process finds.
    fn found(&self) -> u64 {
        let found = locate("latest", self.directory.path().to_str(), "job").unwrap();
        assert!(verify(&found.checkpoint).is_good());
        found.checkpoint.metadata().id
    }
}

#[test]
fn c140_a_put_whose_answer_was_lost_is_found_before_a_restart() {
    for late in [false, true] {
        let scene = Scene::new(Extent::All, late);
        assert!(scene.second().is_err());
        assert_eq!(scene.newest(), 1, "the attempt goes on without it");
        assert_eq!(scene.found(), 2, "a new process goes on from it");
        scene.store.close_slots().unwrap();
        assert_eq!((scene.newest(), scene.found()), (2, 2));
    }
}

#[test]
fn c140_a_put_that_lands_after_the_look_is_shut_out() {
    let scene = Scene::new(Extent::Late, true);
    assert!(scene.second().is_err());
    assert_eq!(scene.found(), 1, "it does not exist yet");
    scene.store.close_slots().unwrap();
    assert_eq!(scene.newest(), 1);
    assert_eq!(scene.storage.land(), [""; 0], "its slot is closed");
    assert_eq!(scene.found(), 1);
    let entries = list(scene.directory.path().to_str().unwrap()).unwrap();
    let second = entries.iter().find(|it| it.name == "chk-2").unwrap();
    assert!(matches!(second.status, Status::Void), "{second:?}");
    // Its data is gone, and the marker goes with the next run or with garbage collection.
    scene.store.wait_for_cleaning();
    let left = tree(scene.directory.path());
    assert!(!left.iter().any(|it| it.contains("-c2-")), "{left:?}");
    let all = gc::Options {
        before: i64::MAX,
        dry_run: false,
    };
    let report = gc::collect(scene.directory.path().to_str().unwrap(), all, None).unwrap();
    let what: Vec<_> = report.removed.iter().map(|it| it.what).collect();
    assert!(what.contains(&gc::Kind::Void), "{report:?}");
    assert!(!tree(scene.directory.path()).contains(&METADATA.to_owned()));
}

#[test]
fn c140_a_put_that_lands_before_the_slot_is_closed_counts() {
    let scene = Scene::new(Extent::Late, true);
    assert!(scene.second().is_err());
    assert_eq!(scene.storage.land(), [METADATA]);
    scene.store.close_slots().unwrap();
    assert_eq!((scene.newest(), scene.found()), (2, 2));
}

#[test]
fn c140_nothing_is_decided_while_the_storage_is_silent() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let silent = Arc::new(AtomicBool::new(false));
    let of_plan = Arc::clone(&silent);
    let scene = Scene::with_plan(true, move |step| {
        let is_metadata = step.action == Action::Put && step.name == METADATA;
        match is_metadata && of_plan.load(Ordering::SeqCst) {
            true => Fault::Fail(Extent::Nothing),
            false => Fault::None,
        }
    });
    silent.store(true, Ordering::SeqCst);
    assert!(scene.second().is_err());
    for _ in 0..3 {
        assert!(scene.store.close_slots().is_err());
        assert_eq!(scene.newest(), 1);
    }
    silent.store(false, Ordering::SeqCst);
    scene.store.close_slots().unwrap();
    assert_eq!((scene.newest(), scene.found()), (1, 1));
}

#[test]
fn a_newer_checkpoint_takes_the_place_of_one_that_may_exist() {
    for extent in [Extent::All, Extent::Late, Extent::Nothing] {
        let scene = Scene::new(extent, true);
        assert!(scene.second().is_err());
        take(&scene.store, 3, &[(None, noise(3, LARGE))]).unwrap();
        scene.store.wait_for_cleaning();
        assert_eq!((scene.newest(), scene.found()), (3, 3));
        let left = tree(scene.directory.path());
        assert!(!left.iter().any(|it| it.contains("-c2-")), "{left:?}");
        scene.store.close_slots().unwrap();
        assert_eq!(scene.newest(), 3);
        // Landing now, it is older than what there is.
        scene.storage.land();
        assert_eq!(scene.found(), 3);
    }
}

#[test]
fn where_a_put_that_failed_is_over_a_look_is_enough() {
    let scene = Scene::new(Extent::Nothing, false);
    assert!(scene.second().is_err());
    let steps = scene.storage.steps().len();
    scene.store.close_slots().unwrap();
    assert_eq!(scene.storage.steps().len(), steps, "nothing is put");
    assert_eq!((scene.newest(), scene.found()), (1, 1));
}

#[test]
fn c140_the_base_of_a_checkpoint_that_may_exist_is_kept() {
    for restarts in [true, false] {
        let scene = Scene::with_plan(true, |step| {
            let is_metadata = step.action == Action::Put && step.name == "job/chk-4/_metadata";
            match is_metadata {
                true => Fault::Fail(Extent::All),
                false => Fault::None,
            }
        });
        let store = &scene.store;
        // A delta on checkpoint 1, which is only pinned for it by the time that it is put.
        let pending = store.begin(CheckpointId(4)).unwrap();
        for id in [2, 3] {
            take(store, id, &[(None, noise(id, LARGE))]).unwrap();
        }
        let delta = write(&pending, 0, Some(1), &noise(4, LARGE)).unwrap();
        assert!(
            pending
                .complete(metadata(4, 1), vec![(0, 0, delta)])
                .is_err()
        );
        if restarts {
            store.close_slots().unwrap();
            store.wait_for_cleaning();
            assert_eq!(scene.newest(), 4);
        }
        let Scene {
            directory, store, ..
        } = scene;
        drop(store);
        let found = locate("latest", directory.path().to_str(), "job").unwrap();
        assert_eq!(found.checkpoint.metadata().id, 4);
        let report = verify(&found.checkpoint);
        assert!(report.is_good(), "{:?}", report.problems);
    }
}
