//! A checkpoint is given up while the storage still works on it.

use std::sync::{Arc, Mutex, Weak};

use dataflow::CheckpointId;

use crate::fixture::{LARGE, filed, metadata, noise, take, write};
use crate::storage::faults::{Action, Extent, Fault, Step};
use crate::storage::{FaultyStorage, MemoryStorage, Storage};
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Completed, Error, Pending, Result};

/// A store with a first checkpoint, on a storage at whose step `Put chk-2/_metadata` the second one is
/// given up; other steps are broken by `plan`.
struct Scene {
    disk: Arc<MemoryStorage>,
    storage: FaultyStorage,
    store: CheckpointStore,
    pending: Arc<Mutex<Weak<Pending>>>,
}

const METADATA: &str = "job/chk-2/_metadata";

impl Scene {
    fn new(plan: impl Fn(&Step) -> Fault + Send + Sync + 'static) -> Self {
        let disk = Arc::new(MemoryStorage::new());
        let pending: Arc<Mutex<Weak<Pending>>> = Arc::default();
        let to_give_up = Arc::clone(&pending);
        let inner = Arc::clone(&disk) as Arc<dyn Storage>;
        let storage = FaultyStorage::new(inner, move |step| {
            if step.action == Action::Put && step.name == METADATA {
                let pending = to_give_up.lock().unwrap().upgrade().unwrap();
                assert!(pending.give_up(), "nothing is decided yet");
                assert!(pending.give_up(), "it stays given up");
            }
            plan(step)
        });
        let store =
            CheckpointStore::with_storage(Arc::new(storage.clone()), "job", filed()).unwrap();
        take(&store, 1, &[(None, noise(1, 100)), (None, noise(1, LARGE))]).unwrap();
        Self {
            disk,
            storage,
            store,
            pending,
        }
    }

    /// Has the second checkpoint completed.
    fn complete(&self) -> Result<Completed> {
        let pending = self.store.begin(CheckpointId(2))?;
        let written = vec![
            (0, 0, write(&pending, 0, Some(1), &noise(2, 100))?),
            (0, 1, write(&pending, 1, None, &noise(2, LARGE))?),
        ];
        *self.pending.lock().unwrap() = Arc::downgrade(&pending);
        let outcome = pending.complete(metadata(2, 2), written);
        self.store.wait_for_cleaning();
        outcome
    }

    /// What a new process would find: the numbers of whole checkpoints. None may be broken.
    fn whole(&self) -> Vec<u64> {
        let disk: Arc<dyn Storage> = Arc::clone(&self.disk) as _;
        let mut whole = Vec::new();
        for directory in disk.list("job").unwrap().directories {
            match Completed::open(Arc::clone(&disk), &directory) {
                Ok(completed) => {
                    assert!(verify(&completed).is_good(), "{:?}", completed.path());
                    whole.push(completed.metadata().id);
                }
                Err(Error::NotFound(_)) => {}
                Err(error) => panic!("{directory}: {error:?}"),
            }
        }
        whole.sort_unstable();
        whole
    }
}

#[test]
fn c143_metadata_that_comes_too_late_stays_whole_until_a_newer_one_takes_its_place() {
    let scene = Scene::new(|_| Fault::None);
    assert!(scene.complete().is_err());
    let of_metadata = || -> Vec<Action> {
        let steps = scene.storage.steps();
        let of_it = steps.iter().filter(|step| step.name == METADATA);
        of_it.map(|step| step.action).collect()
    };
    assert_eq!(of_metadata(), [Action::Put], "it came late, and stays");
    assert_eq!(scene.store.latest().unwrap().metadata().id, 1);
    assert_eq!(scene.whole(), [1, 2]);
    // The next one builds on the first, and is whole.
    take(
        &scene.store,
        3,
        &[(Some(1), noise(3, 100)), (Some(1), noise(3, 5))],
    )
    .unwrap();
    scene.store.wait_for_cleaning();
    assert_eq!(of_metadata(), [Action::Put, Action::Delete]);
    assert_eq!(scene.whole(), [3]);
    let directory = scene.disk.list("job/shared").unwrap();
    assert!(
        directory.objects.iter().all(|it| !it.name.contains("-c2-")),
        "{directory:?}"
    );
}

#[test]
fn c140_a_restart_goes_on_from_what_came_too_late() {
    let scene = Scene::new(|_| Fault::None);
    assert!(scene.complete().is_err());
    scene.store.close_slots().unwrap();
    assert_eq!(scene.store.latest().unwrap().metadata().id, 2);
    scene.store.wait_for_cleaning();
    assert_eq!(scene.whole(), [2]);
    scene.store.close_slots().unwrap();
    take(
        &scene.store,
        3,
        &[(Some(2), noise(3, 100)), (None, noise(3, 5))],
    )
    .unwrap();
    scene.store.wait_for_cleaning();
    assert_eq!(scene.whole(), [3]);
}

#[test]
fn c21_what_is_given_up_ahead_of_its_metadata_never_gets_any() {
    let scene = Scene::new(|_| Fault::None);
    let before = scene.disk.list("job/shared").unwrap();
    let pending = scene.store.begin(CheckpointId(2)).unwrap();
    let written = write(&pending, 0, Some(1), &noise(2, LARGE)).unwrap();
    assert!(pending.give_up());
    assert!(write(&pending, 1, None, &noise(2, 5)).is_err());
    assert!(
        pending
            .complete(metadata(2, 2), vec![(0, 0, written)])
            .is_err()
    );
    scene.store.wait_for_cleaning();
    assert!(
        scene
            .storage
            .steps()
            .iter()
            .all(|step| step.name != METADATA)
    );
    assert_eq!(scene.disk.list("job/shared").unwrap(), before);
}

#[test]
fn c21_what_is_complete_cannot_be_given_up() {
    let store = CheckpointStore::memory(filed());
    let pending = store.begin(CheckpointId(1)).unwrap();
    Arc::clone(&pending)
        .complete(metadata(1, 1), vec![])
        .unwrap();
    assert!(!pending.give_up());
    assert_eq!(store.latest().unwrap().metadata().id, 1);
}

#[test]
fn c21_a_crash_at_any_step_of_a_late_completion_leaves_what_is_whole() {
    let undisturbed = Scene::new(|_| Fault::None);
    let before = undisturbed.storage.steps().len();
    assert!(undisturbed.complete().is_err());
    let after = undisturbed.storage.steps().len();
    let mut found = Vec::new();
    for number in before..after {
        for extent in [Extent::Nothing, Extent::All] {
            let scene = Scene::new(move |step| match step.number == number {
                true => Fault::Crash(extent),
                false => Fault::None,
            });
            assert!(scene.complete().is_err());
            assert!(scene.storage.has_crashed(), "step {number}");
            found.push(scene.whole());
        }
    }
    // Some crash left the late one.
    assert!(
        found.contains(&vec![1, 2]) && found.contains(&vec![1]),
        "{found:?}"
    );
    assert!(
        found.iter().all(|whole| whole.first() == Some(&1)),
        "{found:?}"
    );
}

#[test]
fn c13_a_delta_on_a_checkpoint_that_is_gone_is_refused_and_a_full_one_is_not() {
    let disk = Arc::new(MemoryStorage::new());
    let store =
        CheckpointStore::with_storage(Arc::clone(&disk) as Arc<dyn Storage>, "job", filed())
            .unwrap();
    take(&store, 1, &[(None, noise(1, 100))]).unwrap();
    for directory in ["job/chk-1", "job/shared"] {
        for object in disk.list(directory).unwrap().objects {
            disk.delete(&object.name).unwrap();
        }
    }
    let error = take(&store, 2, &[(Some(1), noise(2, 10))]).unwrap_err();
    let Error::NotFound(text) = error else {
        panic!("{error:?}")
    };
    assert!(text.contains("job/chk-1/_metadata"), "{text}");
    let full = take(&store, 3, &[(None, noise(3, 110))]).unwrap();
    assert!(verify(&full).is_good());
}
