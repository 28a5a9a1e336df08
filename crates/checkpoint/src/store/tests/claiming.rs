//! Checkpoints that a job takes over: what goes, when, and what a crash at any step leaves.

use std::path::Path;
use std::sync::Arc;

use crate::claim::Extent;
use crate::fixture::{LARGE, filed, metadata, noise, read, take, tree, write};
use crate::gc;
use crate::lease::Ending;
use crate::metadata::Kind;
use crate::storage::faults::{Extent as Done, Fault};
use crate::storage::{FaultyStorage, FileStorage, Storage};
use crate::store::Options;
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Completed, locate};

use dataflow::CheckpointId;

fn files(directory: &Path) -> Arc<dyn Storage> {
    Arc::new(FileStorage::open(directory).unwrap())
}

fn store_on(storage: Arc<dyn Storage>, job: &str, retained: usize) -> CheckpointStore {
    let options = Options {
        retained,
        ..filed()
    };
    CheckpointStore::with_storage(storage, job, options).unwrap()
}

fn store(directory: &Path, job: &str, retained: usize) -> CheckpointStore {
    store_on(files(directory), job, retained)
}

fn latest(directory: &Path) -> Completed {
    let entries = crate::list(directory.to_str().unwrap()).unwrap();
    let completed = entries.iter().filter_map(|entry| entry.completed());
    completed.max_by_key(|it| it.metadata().id).unwrap().clone()
}

/// A run that is killed: checkpoints, each a delta on the one before it, then half of one more.
fn killed(directory: &Path, job: &str, ids: std::ops::RangeInclusive<u64>, retained: usize) {
    let killed = store(directory, job, retained);
    let mut base = None;
    let last = *ids.end();
    for id in ids {
        take(
            &killed,
            id,
            &[(base, noise(id, 100)), (None, noise(id, 70))],
        )
        .unwrap();
        base = Some(id);
    }
    killed.wait_for_cleaning();
    let pending = killed.begin(CheckpointId(last + 1)).unwrap();
    write(&pending, 1, None, &noise(9, LARGE)).unwrap();
    let half = directory.join(job).join(format!("chk-{}", last + 1));
    std::fs::create_dir_all(&half).unwrap();
    std::fs::write(half.join("_metadata#1"), "half").unwrap();
    std::fs::write(
        directory.join(job).join("shared/r1-c9-9.state.part-00-1#1"),
        "",
    )
    .unwrap();
    // Nothing is cleaned up any more.
    std::mem::forget((pending, killed));
}

fn has(directory: &Path, name: &str) -> bool {
    directory.join(name).exists()
}

#[test]
fn c45_a_claimed_checkpoint_goes_when_it_is_subsumed_and_unreferenced_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    killed(root, "old", 1..=2, 1);
    let next = store(root, "new", 1);
    let claimed = latest(root).files();
    next.claim(&latest(root), Extent::Checkpoint).unwrap();
    assert_eq!(next.latest().unwrap().metadata().id, 2);
    let before = tree(&root.join("old"));
    let half = next.begin(CheckpointId(3)).unwrap();
    write(&half, 0, Some(2), &noise(3, 50)).unwrap();
    half.discard().unwrap();
    assert_eq!(tree(&root.join("old")), before, "nothing is complete yet");
    // A delta on the claimed one refers to its files across job directories.
    let third = take(&next, 3, &[(Some(2), noise(3, 50)), (None, noise(3, 60))]).unwrap();
    next.wait_for_cleaning();
    assert!(!has(root, "old/chk-2/_metadata"));
    assert!(
        third
            .files()
            .iter()
            .any(|file| file.starts_with("old/shared/"))
    );
    assert!(verify(&third).is_good());
    let chain = [noise(1, 100), noise(2, 100), noise(3, 50)];
    assert!(read(&latest(root), 0).unwrap() == chain);
    // Full ones need it no more.
    for id in 4..=6 {
        take(&next, id, &[(None, noise(id, 50)), (None, noise(id, 50))]).unwrap();
    }
    next.wait_for_cleaning();
    // What the killed run never finished is not part of the checkpoint.
    let left = tree(root);
    let gone = |file: &String| !left.iter().any(|left| file.ends_with(left.as_str()));
    assert!(claimed.iter().all(gone), "{left:?}");
    assert!(
        left.iter()
            .any(|file| file.ends_with("old/chk-3/_metadata#1"))
    );
    assert_eq!(next.take_warnings(), [""; 0]);
}

#[test]
fn c45_what_others_reference_of_a_claimed_directory_stays() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    killed(root, "old", 1..=2, 2);
    let first = Completed::open(files(root), "old/chk-1").unwrap();
    let next = store(root, "new", 1);
    next.claim(&latest(root), Extent::Checkpoint).unwrap();
    for id in 3..=5 {
        take(&next, id, &[(None, noise(id, 50)), (None, noise(id, 50))]).unwrap();
    }
    next.wait_for_cleaning();
    assert!(!has(root, "old/chk-2"));
    assert!(
        verify(&first).is_good(),
        "the delta that was claimed stood on it"
    );
}

#[test]
fn c45_a_damaged_neighbour_keeps_what_it_may_need() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    killed(root, "old", 1..=3, 3);
    let metadata = root.join("old/chk-2/_metadata");
    let whole = std::fs::read(&metadata).unwrap();
    let claimed = latest(root);
    std::fs::write(&metadata, &whole[..whole.len() - 1]).unwrap();
    let next = store(root, "new", 1);
    next.claim(&claimed, Extent::JobDirectory).unwrap();
    for id in 4..=7 {
        take(&next, id, &[(None, noise(id, 50)), (None, noise(id, 50))]).unwrap();
    }
    next.wait_for_cleaning();
    assert!(!has(root, "old/chk-1") && !has(root, "old/chk-3") && has(root, "old/chk-2"));
    std::fs::write(&metadata, &whole).unwrap();
    let mended = Completed::open(files(root), "old/chk-2").unwrap();
    assert!(verify(&mended).is_good());
}

#[test]
fn c45_a_savepoint_elsewhere_is_only_read_and_goes_when_it_is_subsumed() {
    let elsewhere = tempfile::tempdir().unwrap();
    let directory = tempfile::tempdir().unwrap();
    // Self-contained: data in its own directory.
    let options = Options {
        incremental: false,
        ..filed()
    };
    let maker = CheckpointStore::with_storage(files(elsewhere.path()), "job", options).unwrap();
    let pending = maker.begin(CheckpointId(7)).unwrap();
    let written = write(&pending, 0, None, &noise(7, 100)).unwrap();
    let mut savepoint = metadata(7, 1);
    savepoint.kind = Kind::Savepoint;
    pending.complete(savepoint, vec![(0, 0, written)]).unwrap();
    drop(maker);
    let own = elsewhere.path().join("savepoint-x");
    std::fs::rename(elsewhere.path().join("job/chk-7"), &own).unwrap();
    std::fs::remove_dir_all(elsewhere.path().join("job")).unwrap();
    let claimed = locate(own.to_str().unwrap(), None, "").unwrap().checkpoint;

    let next = store(directory.path(), "new", 1);
    next.claim(&claimed, Extent::Checkpoint).unwrap();
    assert!(read(&next.latest().unwrap(), 0).unwrap() == [noise(7, 100)]);
    let refused = take(&next, 8, &[(Some(7), noise(8, 10))]).unwrap_err();
    assert!(refused.to_string().contains("is not kept"), "{refused}");
    assert!(verify(&claimed).is_good());
    take(&next, 9, &[(None, noise(9, 10))]).unwrap();
    next.wait_for_cleaning();
    assert_eq!(tree(elsewhere.path()), [""; 0], "the savepoint is gone");
    assert!(elsewhere.path().is_dir(), "what it lay in is not ours");
    next.delete_all().unwrap();
    assert_eq!(tree(directory.path()), [""; 0]);
}

#[test]
fn a_run_that_goes_on_in_its_directory_leaves_nothing_of_dead_runs() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    killed(root, "job", 1..=3, 3);
    let next = store(root, "job", 2);
    next.claim(&latest(root), Extent::JobDirectory).unwrap();
    assert_eq!(next.completed().len(), 3, "all that were retained");
    let before = tree(root);
    let id = next.used_id() + 1;
    assert_eq!(id, 10, "after the half-written ones");
    let pending = next.begin(CheckpointId(id)).unwrap();
    pending.discard().unwrap();
    next.wait_for_cleaning();
    assert_eq!(tree(root), before, "not before something newer is complete");
    let segments = [(None, noise(5, 100)), (None, noise(5, 70))];
    take(&next, id, &segments).unwrap();
    next.wait_for_cleaning();
    let kept = next.completed();
    assert_eq!(kept.len(), 2);
    let needed: std::collections::BTreeSet<String> =
        kept.iter().flat_map(Completed::files).collect();
    let mut expected: Vec<String> = needed.into_iter().collect();
    expected.extend(
        [
            "job/chk-3/_metadata",
            "job/chk-10/_metadata",
            "job/taskowned/",
        ]
        .map(Into::into),
    );
    expected.sort();
    let mut found = tree(root);
    found.sort();
    assert_eq!(found, expected, "{:?}", next.take_warnings());
    next.delete_all().unwrap();
    assert_eq!(tree(root), [""; 0]);
}

#[test]
fn a_run_without_a_checkpoint_removes_what_one_left_that_had_none() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let dead = store(root, "job", 1);
    let pending = dead.begin(CheckpointId(1)).unwrap();
    write(&pending, 0, None, &noise(9, LARGE)).unwrap();
    std::mem::forget((pending, dead));
    let next = store(root, "job", 1);
    next.take_over();
    take(&next, 2, &[(None, noise(1, 10))]).unwrap();
    next.wait_for_cleaning();
    assert_eq!(
        std::fs::read_dir(root.join("job/shared")).unwrap().count(),
        1
    );
}

/// Three runs: one is killed, the second claims and crashes at a step, the third claims and finishes.
/// At each moment the newest checkpoint is whole, and in the end nothing is left.
fn crash_at_every_step(second_job: &str, extent: Extent) {
    let run_second = |storage: Arc<dyn Storage>, root: &Path| -> crate::Result<()> {
        let options = Options {
            retained: 2,
            ..filed()
        };
        let second = CheckpointStore::with_storage(storage, second_job, options)?;
        second.claim(&latest(root), extent)?;
        let mut base = Some(3);
        for id in 5..=8 {
            // On the claimed one, then on each other, then full.
            base = base.filter(|_| id != 7);
            take(&second, id, &[(base, noise(id, 40)), (None, noise(id, 70))])?;
            second.wait_for_cleaning();
            base = Some(id);
        }
        std::mem::forget(second);
        Ok(())
    };
    let steps = {
        let directory = tempfile::tempdir().unwrap();
        killed(directory.path(), "old", 1..=3, 3);
        let counting = FaultyStorage::counting(files(directory.path()));
        run_second(Arc::new(counting.clone()), directory.path()).unwrap();
        counting.steps().len()
    };
    assert!(steps > 18, "{steps}");
    let (mut old, mut new) = (0, 0);
    for step in 0..steps {
        for done in [Done::Nothing, Done::All] {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path();
            killed(root, "old", 1..=3, 3);
            let faulty = FaultyStorage::at(files(root), step, Fault::Crash(done));
            let _crashed = run_second(Arc::new(faulty.clone()), root);
            assert!(faulty.has_crashed(), "step {step}");
            let place = format!("{extent:?} step {step} {done:?} {:?}", faulty.faults());
            let found = latest(root);
            assert!(verify(&found).is_good(), "{place}");
            match found.metadata().id {
                3 => old += 1,
                _ => new += 1,
            }
            // Whatever is complete is whole.
            for entry in crate::list(root.to_str().unwrap()).unwrap() {
                if let Some(completed) = entry.completed() {
                    let report = verify(completed);
                    assert!(report.is_good(), "{place}: {} {report:?}", entry.path);
                }
            }
            // Garbage collection finds nothing that is needed.
            let all = gc::Options {
                before: i64::MAX,
                dry_run: false,
            };
            if step % 2 == 0 {
                gc::collect(root.to_str().unwrap(), all, None).unwrap();
                assert!(verify(&latest(root)).is_good(), "{place}");
            }
            let contents = found.contents();
            let job = crate::names::parent(&contents.directory);
            let third = store(root, crate::names::leaf(job), 1);
            third.claim(&latest(root), Extent::JobDirectory).unwrap();
            let id = third.used_id().max(found.metadata().id) + 1;
            let last = take(&third, id, &[(None, noise(id, 10)), (None, noise(id, 10))]).unwrap();
            third.wait_for_cleaning();
            assert!(verify(&last).is_good(), "{place}");
            assert_eq!(third.take_warnings(), [""; 0], "{place}");
            third.end(Ending::Finished, false, 0).unwrap();
            drop(third);
            gc::collect(root.to_str().unwrap(), all, None).unwrap();
            // What was claimed and not yet deleted by a run that is gone is a checkpoint as any other, if
            // only it was claimed; it is not to be gone back to.
            let left = tree(root);
            let unclaimed = left.iter().any(|file| file.ends_with("_metadata"));
            let allowed = |file: &String| file.starts_with("old/");
            assert!(
                left.is_empty()
                    || extent == Extent::Checkpoint && unclaimed && left.iter().all(allowed),
                "{place}: {left:?}"
            );
        }
    }
    assert!(old > 0 && new > 0, "{old} {new}");
}

#[test]
fn c45_a_crash_at_any_step_of_a_claim_leaves_a_whole_checkpoint_and_no_orphans() {
    crash_at_every_step("new", Extent::Checkpoint);
}

#[test]
fn c39_c53_a_crash_at_any_step_of_going_on_leaves_a_whole_checkpoint_and_no_orphans() {
    crash_at_every_step("old", Extent::JobDirectory);
}
