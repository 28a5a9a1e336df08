//! Savepoints beside checkpoints: complete in any order, in any storage, each step broken in turn.

use std::path::Path;
use std::sync::Arc;

use dataflow::CheckpointId;

use crate::fixture::{LARGE, filed, metadata, noise, read, take, tree, write};
use crate::metadata::Kind;
use crate::storage::faults::{Action, Extent, Fault, Step};
use crate::storage::{FaultyStorage, FileStorage, MemoryStorage, Permissions, Storage};
use crate::store::{Options, Pending};
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Completed, Error, Result, SavepointTarget, locate};

const JOB: &str = "job";

fn in_directory(directory: &Path) -> SavepointTarget {
    let dir = directory.to_str().unwrap();
    let options = Options::default();
    SavepointTarget::open(dir, JOB, options.timeout, options.permissions).unwrap()
}

fn in_storage(storage: Arc<dyn Storage>) -> SavepointTarget {
    SavepointTarget::with_storage(storage, JOB).unwrap()
}

/// One large, one small and one empty segment.
fn segments(id: u64) -> [Vec<u8>; 3] {
    [noise(id, LARGE), noise(id, 100), Vec::new()]
}

fn fill(pending: Arc<Pending>, segments: &[Vec<u8>]) -> Result<Completed> {
    let id = pending.id().0;
    let mut written = Vec::new();
    for (subtask, bytes) in (0..).zip(segments) {
        written.push((0, subtask, write(&pending, subtask, None, bytes)?));
    }
    let metadata = metadata(id, u32::try_from(segments.len()).unwrap());
    pending.complete(metadata, written)
}

fn save(store: &CheckpointStore, id: u64, target: &SavepointTarget) -> Result<Completed> {
    fill(
        store.begin_savepoint(CheckpointId(id), target)?,
        &segments(id),
    )
}

/// Whether it is all there, read through a storage that has seen nothing of it.
#[track_caller]
fn assert_whole(path: &str, id: u64) {
    let found = locate(path, None, "").unwrap().checkpoint;
    let metadata = found.metadata();
    assert_eq!((metadata.kind, metadata.id), (Kind::Savepoint, id));
    assert!(verify(&found).is_good(), "{path}");
    for (subtask, bytes) in segments(id).iter().enumerate() {
        assert_eq!(read(&found, subtask).unwrap().concat(), *bytes);
    }
}

#[test]
fn c80_a_savepoint_is_whole_without_its_job_and_wherever_it_is_moved() {
    for options in [Options::default(), filed()] {
        let (jobs, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = CheckpointStore::open(jobs.path().to_str().unwrap(), JOB, options).unwrap();
        take(&store, 1, &[(None, noise(1, 100))]).unwrap();
        let savepoint = save(&store, 2, &in_directory(saved.path())).unwrap();
        let path = savepoint.path().unwrap();
        assert!(path.starts_with(saved.path().to_str().unwrap()), "{path}");
        assert!(path.contains("/savepoint-job-") && path.ends_with("/_metadata"));
        assert!(savepoint.bytes_written() > LARGE as u64);
        assert_eq!(store.latest().unwrap().metadata().id, 1);
        drop(store);
        drop(jobs);
        assert_whole(&path, 2);
        let moved = tempfile::tempdir().unwrap();
        let to = moved.path().join("elsewhere");
        std::fs::rename(Path::new(&path).parent().unwrap(), &to).unwrap();
        assert_whole(to.to_str().unwrap(), 2);
        assert_eq!(tree(saved.path()), [""; 0], "nothing else was written");
    }
}

#[cfg(unix)]
#[test]
fn c80_a_savepoint_is_its_owners_alone_like_the_jobs_checkpoints() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    for (permissions, directory, file) in [
        (Permissions::Private, 0o700, 0o600),
        (Permissions::Umask, 0o755, 0o644),
    ] {
        let saved = tempfile::tempdir().unwrap();
        let dir = saved.path().join("new/one");
        let timeout = Options::default().timeout;
        let target = SavepointTarget::open(dir.to_str().unwrap(), JOB, timeout, permissions);
        let store = CheckpointStore::memory(filed());
        let path = save(&store, 1, &target.unwrap()).unwrap().path().unwrap();
        let metadata = Path::new(&path);
        assert_eq!(mode(metadata) & !0o022, file & !0o022);
        assert_eq!(
            mode(metadata.parent().unwrap()) & !0o022,
            directory & !0o022
        );
    }
}

#[test]
fn c80_savepoints_and_checkpoints_complete_in_any_order() {
    let (jobs, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = jobs.path().to_str().unwrap();
    let store = CheckpointStore::open(dir, JOB, filed()).unwrap();
    let target = in_directory(saved.path());
    let small = |id| [(None, noise(id, 100))];
    take(&store, 1, &small(1)).unwrap();
    let second = store.begin_savepoint(CheckpointId(2), &target).unwrap();
    let third = store.begin_savepoint(CheckpointId(3), &target).unwrap();
    let fourth = store.begin(CheckpointId(4)).unwrap();
    assert!(store.begin_savepoint(CheckpointId(4), &target).is_err());
    // A savepoint after a newer checkpoint, and the other way round.
    take(&store, 5, &[(Some(1), noise(5, 10))]).unwrap();
    let third = fill(third, &segments(3)).unwrap();
    let second = fill(second, &segments(2)).unwrap();
    let sixth = save(&store, 6, &target).unwrap();
    // What a pending savepoint began on holds nothing back, and a delta may skip it.
    take(&store, 7, &[(Some(5), noise(7, 10))]).unwrap();
    fourth.discard().unwrap();
    store.wait_for_cleaning();
    let latest = store.latest().unwrap();
    assert_eq!(latest.metadata().id, 7);
    assert_eq!(
        read(&latest, 0).unwrap(),
        [noise(1, 100), noise(5, 10), noise(7, 10)]
    );
    assert_eq!(store.completed().len(), 1);
    for (savepoint, id) in [(second, 2), (third, 3), (sixth, 6)] {
        assert_whole(&savepoint.path().unwrap(), id);
    }
    assert_eq!(store.take_warnings(), [""; 0]);
    // All that the store may delete is the job's.
    store.delete_all().unwrap();
    assert_eq!(tree(jobs.path()), [""; 0]);
    assert_eq!(std::fs::read_dir(saved.path()).unwrap().count(), 3);
}

#[test]
fn c80_a_pending_savepoint_holds_back_nothing_that_checkpoints_no_longer_need() {
    let (jobs, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lives_through = |with_savepoint: bool| {
        let root = jobs.path().join(with_savepoint.to_string());
        let store = CheckpointStore::open(root.to_str().unwrap(), JOB, filed()).unwrap();
        take(&store, 1, &[(None, noise(1, 100))]).unwrap();
        let target = in_directory(saved.path());
        let pending = with_savepoint.then(|| store.begin_savepoint(CheckpointId(2), &target));
        for id in [3, 4, 5, 6] {
            take(&store, id, &[(None, noise(id, 100))]).unwrap();
        }
        store.wait_for_cleaning();
        let left = tree(&root);
        drop(pending);
        assert_eq!(tree(&root), left);
        left
    };
    assert_eq!(lives_through(true), lives_through(false));
    assert_eq!(tree(saved.path()), [""; 0]);
}

#[test]
fn c80_a_delta_is_no_part_of_a_savepoint() {
    let store = CheckpointStore::memory(filed());
    take(&store, 1, &[(None, noise(1, 100))]).unwrap();
    let target = in_storage(Arc::new(MemoryStorage::new()));
    let pending = store.begin_savepoint(CheckpointId(2), &target).unwrap();
    let error = write(&pending, 0, Some(1), &noise(2, 10)).unwrap_err();
    assert!(matches!(error, Error::Incompatible(_)), "{error}");
}

#[test]
fn c80_state_of_a_job_in_memory_is_saved_whatever_its_checkpoints_may_hold() {
    let options = Options {
        max_state_size: 1000,
        ..Options::default()
    };
    let store = CheckpointStore::memory(options);
    let refused = take(&store, 1, &[(None, noise(1, 2000))]);
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
    let saved = tempfile::tempdir().unwrap();
    let savepoint = save(&store, 2, &in_directory(saved.path())).unwrap();
    assert_whole(&savepoint.path().unwrap(), 2);
}

/// The steps of a savepoint, from its first to the one by which it exists.
fn steps() -> Vec<Step> {
    let faulty = FaultyStorage::counting(Arc::new(MemoryStorage::new()));
    let store = CheckpointStore::memory(filed());
    save(&store, 1, &in_storage(Arc::new(faulty.clone()))).unwrap();
    let steps = faulty.steps();
    let last = steps.iter().rposition(|step| step.action == Action::Put);
    assert!(steps[last.unwrap()].name.ends_with("/_metadata"));
    steps[..=last.unwrap()].to_vec()
}

#[test]
fn c80_a_savepoint_that_fails_at_any_step_leaves_nothing_and_harms_no_checkpoint() {
    let steps = steps();
    assert!(steps.len() >= 4, "{steps:?}");
    for step in &steps {
        for extent in [Extent::Nothing, Extent::All] {
            let (jobs, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let dir = jobs.path().to_str().unwrap();
            let store = CheckpointStore::open(dir, JOB, filed()).unwrap();
            take(&store, 1, &[(None, noise(1, 100))]).unwrap();
            let before = tree(jobs.path());
            let inner = Arc::new(FileStorage::open(saved.path()).unwrap());
            let faulty = FaultyStorage::at(inner, step.number, Fault::Fail(extent));
            let error = save(&store, 2, &in_storage(Arc::new(faulty))).unwrap_err();
            assert!(matches!(error, Error::Storage { .. }), "{error:?}");
            assert_eq!(tree(saved.path()), [""; 0], "{step:?} {extent:?}");
            assert_eq!(tree(jobs.path()), before, "{step:?} {extent:?}");
            take(&store, 3, &[(Some(1), noise(3, 100))]).unwrap();
            save(&store, 4, &in_directory(saved.path())).unwrap();
            store.wait_for_cleaning();
            assert!(verify(&store.latest().unwrap()).is_good());
            assert_eq!(store.take_warnings(), [""; 0]);
        }
    }
}

#[test]
fn c80_a_crash_at_any_step_of_a_savepoint_leaves_it_whole_or_no_savepoint() {
    let steps = steps();
    let (mut whole, mut none) = (0, 0);
    for at in steps[0].number..=steps[steps.len() - 1].number + 1 {
        for extent in [Extent::Nothing, Extent::All] {
            let (jobs, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let dir = jobs.path().to_str().unwrap();
            let store = CheckpointStore::open(dir, JOB, filed()).unwrap();
            take(&store, 1, &[(None, noise(1, 100))]).unwrap();
            let before = tree(jobs.path());
            let inner = Arc::new(FileStorage::open(saved.path()).unwrap());
            let faulty = FaultyStorage::at(inner, at, Fault::Crash(extent));
            let reported = save(&store, 2, &in_storage(Arc::new(faulty)));
            assert_eq!(tree(jobs.path()), before);
            let place = saved.path().to_str().unwrap();
            let entries = crate::list(place).unwrap();
            match entries.iter().find_map(|entry| entry.completed()) {
                Some(savepoint) => {
                    assert_whole(&savepoint.path().unwrap(), 2);
                    whole += 1;
                }
                None => {
                    assert!(reported.is_err(), "step {at} {extent:?}");
                    none += 1;
                }
            }
            // What it left goes, and a whole one stays.
            let options = crate::gc::Options {
                before: i64::MAX,
                dry_run: false,
            };
            crate::gc::collect(place, options, None).unwrap();
            let left = crate::list(place).unwrap();
            assert!(left.iter().all(|entry| entry.completed().is_some()));
        }
    }
    assert!(whole >= 2 && none >= 6, "{whole} {none}");
}

#[test]
fn c80_metadata_of_which_nobody_knows_whether_it_exists_never_comes_or_is_whole() {
    let is_metadata = |name: &str| name.ends_with("/_metadata");
    // The put may take effect later, or has: its place is taken by a marker, or it is removed.
    for extent in [Extent::Nothing, Extent::All] {
        let memory = Arc::new(MemoryStorage::new());
        let metadata_put = steps().pop().unwrap().number;
        let inner = Arc::clone(&memory) as Arc<dyn Storage>;
        let faulty = FaultyStorage::at(inner, metadata_put, Fault::Fail(extent)).landing_late();
        let store = CheckpointStore::memory(filed());
        save(&store, 1, &in_storage(Arc::new(faulty.clone()))).unwrap_err();
        faulty.land();
        let directory = memory.list("").unwrap().directories.pop();
        let objects = directory.map_or_else(Vec::new, |it| memory.list(&it).unwrap().objects);
        for object in &objects {
            assert!(is_metadata(&object.name), "{object:?}");
            let found = memory.read(&object.name, 0..100).unwrap();
            assert!(crate::metadata::is_void(&found));
        }
        assert!(objects.len() <= 1);
    }
    // It can neither be read nor removed: what it references stays, and the error says where.
    let memory = Arc::new(MemoryStorage::new());
    let inner = Arc::clone(&memory) as Arc<dyn Storage>;
    let faulty = FaultyStorage::new(inner, move |step| match step.action {
        Action::Put if is_metadata(&step.name) => Fault::Fail(Extent::All),
        Action::Delete if is_metadata(&step.name) => Fault::Fail(Extent::Nothing),
        _ => Fault::None,
    })
    .with_unreadable(is_metadata);
    let store = CheckpointStore::memory(filed());
    let error = save(&store, 1, &in_storage(Arc::new(faulty))).unwrap_err();
    let said = crate::catalog::describe(&error);
    let directory = memory.list("").unwrap().directories.pop().unwrap();
    assert!(
        said.contains(&format!("may exist in {}", memory.location(&directory))),
        "{said}"
    );
    assert!(verify(&Completed::open(memory, &directory).unwrap()).is_good());
}

#[test]
fn c80_a_savepoint_that_is_given_up_at_any_moment_is_gone() {
    let store = CheckpointStore::memory(filed());
    let saved = tempfile::tempdir().unwrap();
    let target = in_directory(saved.path());
    let begin = |id| store.begin_savepoint(CheckpointId(id), &target).unwrap();
    let large = noise(1, LARGE);

    let pending = begin(1);
    write(&pending, 0, None, &large).unwrap();
    pending.discard().unwrap();
    assert_eq!(tree(saved.path()), [""; 0], "discarded");

    let pending = begin(2);
    write(&pending, 0, None, &large).unwrap();
    drop(pending);
    assert_eq!(tree(saved.path()), [""; 0], "dropped");

    let pending = begin(3);
    let written = write(&pending, 0, None, &large).unwrap();
    assert!(pending.give_up());
    let error = pending.complete(metadata(3, 1), vec![(0, 0, written)]);
    assert!(error.unwrap_err().to_string().contains("savepoint-job-"));
    assert_eq!(tree(saved.path()), [""; 0], "given up before it completed");

    // While the metadata is put.
    let faulty = FaultyStorage::counting(Arc::new(FileStorage::open(saved.path()).unwrap()));
    let revoked = in_storage(Arc::new(faulty.clone()));
    let pending = store.begin_savepoint(CheckpointId(4), &revoked).unwrap();
    let weak = Arc::downgrade(&pending);
    faulty.pause_before_steps(move |name| {
        if name.ends_with("/_metadata") {
            weak.upgrade().map(|pending| pending.give_up());
        }
    });
    fill(pending, &segments(4)).unwrap_err();
    assert_eq!(tree(saved.path()), [""; 0], "given up while it completed");
    assert!(store.latest().is_none());
}
