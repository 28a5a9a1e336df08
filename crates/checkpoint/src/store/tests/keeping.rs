//! Which checkpoints and files stay, and which go.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use dataflow::CheckpointId;

use crate::fixture::{LARGE, filed, metadata, noise, read, take, tree, write};
use crate::storage::faults::{Action, Extent, Fault};
use crate::storage::{FaultyStorage, FileStorage, Storage};
use crate::store::Options;
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Error};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn open(directory: &tempfile::TempDir, retained: usize) -> CheckpointStore {
    let options = Options {
        retained,
        ..filed()
    };
    CheckpointStore::open(directory.path().to_str().unwrap(), "job", options).unwrap()
}

/// The names in a directory.
fn names(directory: &tempfile::TempDir, name: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory.path().join(name)).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn c27_the_newest_three_stay_and_what_they_reference() {
    let directory = directory();
    let store = open(&directory, 3);
    let mut base = None;
    for id in 1..=10_u64 {
        // A full one now and then ends the chain; one subtask is large.
        base = base.filter(|_| id % 4 != 0);
        let segments = [(base, noise(id, 100)), (base, noise(id, LARGE))];
        let completed = take(&store, id, &segments).unwrap();
        assert!(verify(&completed).is_good());
        base = Some(id);
        store.wait_for_cleaning();
        let kept = store.completed();
        let expected: BTreeSet<String> = (id.saturating_sub(2).max(1)..=id)
            .map(|id| format!("chk-{id}"))
            .chain(["shared".to_owned(), "taskowned".to_owned()])
            .collect();
        assert_eq!(names(&directory, "job"), expected);
        let referenced: BTreeSet<String> = kept
            .iter()
            .flat_map(|kept| kept.files())
            .map(|file| crate::names::leaf(&file).to_owned())
            .collect();
        assert_eq!(names(&directory, "job/shared"), referenced, "after {id}");
        for kept in kept {
            assert!(verify(&kept).is_good(), "{} after {id}", kept.metadata().id);
        }
    }
    assert_eq!(store.take_warnings(), [""; 0]);
}

#[test]
fn a_chain_of_twenty_restores_at_every_link() {
    let directory = directory();
    let store = open(&directory, 1);
    let mut expected = Vec::new();
    for id in 1..=20_u64 {
        let bytes = noise(id, 50 + usize::try_from(id).unwrap());
        expected.push(bytes.clone());
        let base = id.checked_sub(1).filter(|base| *base > 0);
        let completed = take(&store, id, &[(base, bytes)]).unwrap();
        store.wait_for_cleaning();
        assert!(read(&completed, 0).unwrap() == expected, "{id}");
    }
    assert_eq!(
        names(&directory, "job"),
        set(["chk-20", "shared", "taskowned"])
    );
}

#[test]
fn a_base_stays_while_a_pending_checkpoint_may_refer_to_it() {
    let directory = directory();
    let store = open(&directory, 1);
    for id in 1..=3 {
        take(&store, id, &[(None, noise(id, 100))]).unwrap();
    }
    let next = store.begin(CheckpointId(4)).unwrap();
    let slow = store.begin(CheckpointId(5)).unwrap();
    let delta = write(&slow, 0, Some(2), &noise(5, 10)).unwrap();
    let full = write(&next, 0, None, &noise(4, 100)).unwrap();
    next.complete(metadata(4, 1), vec![(0, 0, full)]).unwrap();
    store.wait_for_cleaning();
    assert_eq!(
        names(&directory, "job"),
        set(["chk-4", "shared", "taskowned"])
    );
    assert_eq!(
        names(&directory, "job/shared").len(),
        3,
        "those of 2, 3 and 4, not of 1"
    );
    let completed = slow.complete(metadata(5, 1), vec![(0, 0, delta)]).unwrap();
    store.wait_for_cleaning();
    assert!(read(&completed, 0).unwrap() == [noise(2, 100), noise(5, 10)]);
    assert_eq!(
        names(&directory, "job/shared").len(),
        3,
        "those of 2, 4 and 5"
    );
}

#[test]
fn a_checkpoint_older_than_the_newest_cannot_complete() {
    let directory = directory();
    let store = open(&directory, 3);
    let slow = store.begin(CheckpointId(1)).unwrap();
    let written = write(&slow, 0, None, &noise(1, 100)).unwrap();
    take(&store, 2, &[(None, noise(2, 100))]).unwrap();
    let before = tree(directory.path());
    let error = slow
        .complete(metadata(1, 1), vec![(0, 0, written)])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "checkpoint 1 cannot be completed: checkpoint 2 was completed before it"
    );
    store.wait_for_cleaning();
    assert_eq!(tree(directory.path()), before);
}

#[test]
fn a_base_that_is_not_kept_is_refused() {
    let directory = directory();
    let store = open(&directory, 1);
    for id in 1..=3 {
        take(&store, id, &[(None, noise(id, 100))]).unwrap();
    }
    for base in [1, 9] {
        let error = take(&store, 10 + base, &[(Some(base), noise(4, 10))]).unwrap_err();
        assert!(matches!(error, Error::Incompatible(_)), "{error:?}");
        assert!(error.to_string().contains("is not kept"), "{error}");
    }
    take(&store, 4, &[(Some(2), noise(4, 10))]).unwrap();
}

#[test]
fn what_was_pinned_only_goes_with_the_store() {
    let directory = directory();
    let store = open(&directory, 1);
    for id in 1..=2 {
        take(&store, id, &[(None, noise(id, 100))]).unwrap();
    }
    store.wait_for_cleaning();
    assert_eq!(names(&directory, "job/shared").len(), 2);
    let last = store.latest().unwrap();
    drop(store);
    assert_eq!(names(&directory, "job/shared").len(), 1);
    assert!(
        verify(&last).is_good(),
        "what is retained outlives the store"
    );
}

#[test]
fn a_discarded_checkpoint_leaves_nothing() {
    let directory = directory();
    let store = open(&directory, 1);
    let empty = tree(directory.path());
    for drop_it in [true, false] {
        let pending = store.begin(CheckpointId(1)).unwrap();
        write(&pending, 0, None, &noise(1, 3 * LARGE)).unwrap();
        write(&pending, 1, None, &noise(1, 100)).unwrap();
        assert_ne!(tree(directory.path()), empty);
        match drop_it {
            true => drop(pending),
            false => pending.discard().unwrap(),
        }
        store.wait_for_cleaning();
        assert_eq!(tree(directory.path()), empty);
    }
    take(&store, 1, &[(None, noise(1, 100))]).unwrap();
}

#[test]
fn a_write_that_ends_behind_the_discard_leaves_nothing() {
    let directory = directory();
    let store = open(&directory, 1);
    let empty = tree(directory.path());
    let pending = store.begin(CheckpointId(1)).unwrap();
    let other = Arc::clone(&pending);
    let written = pending.write_with("count", 0, None, 0, |to| {
        to.write_all(&noise(1, 2 * LARGE))?;
        other.discard().unwrap();
        to.write_all(&noise(2, LARGE))?;
        Ok(dataflow::state::SegmentStats::default())
    });
    let error = written.unwrap_err();
    assert!(matches!(error, Error::Storage { .. }), "{error:?}");
    assert!(pending.complete(metadata(1, 1), Vec::new()).is_err());
    store.wait_for_cleaning();
    assert_eq!(tree(directory.path()), empty);
    assert!(store.latest().is_none());
}

#[test]
fn a_segment_that_is_not_passed_on_is_removed() {
    let directory = directory();
    let store = open(&directory, 1);
    let pending = store.begin(CheckpointId(1)).unwrap();
    write(&pending, 0, None, &noise(1, LARGE)).unwrap();
    let used = write(&pending, 0, None, &noise(2, LARGE)).unwrap();
    let completed = pending
        .complete(metadata(1, 1), vec![(0, 0, used)])
        .unwrap();
    store.wait_for_cleaning();
    assert_eq!(names(&directory, "job/shared").len(), 1);
    assert!(verify(&completed).is_good());
}

#[test]
fn one_number_is_one_checkpoint() {
    let directory = directory();
    let store = open(&directory, 1);
    let pending = store.begin(CheckpointId(1)).unwrap();
    let again = store.begin(CheckpointId(1)).unwrap_err();
    assert!(matches!(again, Error::AlreadyExists { .. }), "{again:?}");
    pending.complete(metadata(1, 1), Vec::new()).unwrap();
    let again = store.begin(CheckpointId(1)).unwrap_err();
    assert!(
        again
            .to_string()
            .ends_with("job/chk-1/_metadata already exists"),
        "{again}"
    );
}

#[test]
fn c09_what_stands_in_the_place_of_metadata_is_untouched() {
    let directory = directory();
    let store = open(&directory, 1);
    let path = directory.path().join("job/chk-7/_metadata");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "somebody's").unwrap();
    let before = tree(directory.path());
    let segments = [(None, noise(1, 100)), (None, noise(2, LARGE))];
    let error = take(&store, 7, &segments).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} already exists", path.display())
    );
    store.wait_for_cleaning();
    assert_eq!(tree(directory.path()), before);
    assert_eq!(fs::read(&path).unwrap(), b"somebody's");
    take(&store, 8, &segments).unwrap();
    store.delete_all().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"somebody's");
}

#[test]
fn c13_a_job_directory_that_was_moved_away_is_not_begun_anew() {
    for block in [noise(2, 100), noise(2, LARGE)] {
        let directory = directory();
        let store = open(&directory, 1);
        take(&store, 1, &[(None, noise(1, LARGE))]).unwrap();
        let (here, away) = (directory.path().join("job"), directory.path().join("away"));
        fs::rename(&here, &away).unwrap();
        let error = take(&store, 2, &[(Some(1), block.clone())]).unwrap_err();
        assert!(matches!(error, Error::Storage { .. }), "{error:?}");
        let named = error.to_string().contains(&here.display().to_string());
        assert!(named, "{error}");
        store.wait_for_cleaning();
        assert!(
            !here.exists(),
            "half a job directory in the place of the whole one"
        );
        fs::rename(&away, &here).unwrap();
        let completed = take(&store, 3, &[(Some(1), block)]).unwrap();
        assert!(verify(&completed).is_good());
    }
}

#[test]
fn a_later_run_in_the_same_directory_collides_with_nothing() {
    let directory = directory();
    let first = open(&directory, 2);
    let kept = take(&first, 1, &[(None, noise(1, 100)), (None, noise(2, LARGE))]).unwrap();
    // As after a kill: nothing is cleaned, a file of checkpoint 2 is there.
    let pending = first.begin(CheckpointId(2)).unwrap();
    write(&pending, 1, None, &noise(3, LARGE)).unwrap();
    let orphans = names(&directory, "job/shared");
    assert_eq!(orphans.len(), 3);
    let second = open(&directory, 2);
    assert!(second.latest().is_none(), "it is another run's");
    take(
        &second,
        2,
        &[(None, noise(4, 100)), (None, noise(5, LARGE))],
    )
    .unwrap();
    let new: Vec<_> = names(&directory, "job/shared")
        .difference(&orphans)
        .cloned()
        .collect();
    assert_eq!(new, ["r2-c2-0.state", "r2-c2-1.state"]);
    assert!(verify(&kept).is_good());
    second.delete_all().unwrap();
    assert_eq!(
        names(&directory, "job/shared"),
        orphans,
        "only what the run wrote"
    );
    assert!(verify(&kept).is_good());
}

#[test]
fn deleting_all_removes_the_job_directory() {
    let directory = directory();
    let store = open(&directory, 3);
    for id in 1..=5 {
        take(
            &store,
            id,
            &[(Some(id - 1).filter(|base| *base > 0), noise(id, 100))],
        )
        .unwrap();
    }
    store.delete_all().unwrap();
    assert!(store.latest().is_none());
    assert_eq!(tree(directory.path()), [""; 0]);
    store.delete_all().unwrap();
}

#[test]
fn deleting_all_leaves_what_others_left() {
    let directory = directory();
    let store = open(&directory, 3);
    take(&store, 1, &[(None, noise(1, 100))]).unwrap();
    fs::write(directory.path().join("job/taskowned/file"), "").unwrap();
    store.delete_all().unwrap();
    assert_eq!(tree(directory.path()), ["job/taskowned/file"]);
}

#[test]
fn what_cannot_be_deleted_is_a_warning_and_no_more() {
    let directory = directory();
    let files: Arc<dyn Storage> = Arc::new(FileStorage::open(directory.path()).unwrap());
    let faulty = FaultyStorage::new(files, |step| match step.action {
        Action::Delete => Fault::Fail(Extent::Nothing),
        _ => Fault::None,
    });
    let store = CheckpointStore::with_storage(Arc::new(faulty), "job", filed()).unwrap();
    for id in 1..=3 {
        take(&store, id, &[(None, noise(id, 100))]).unwrap();
    }
    store.wait_for_cleaning();
    let warnings = store.take_warnings();
    assert_eq!(
        warnings.len(),
        2,
        "two checkpoints; what they share stays with them: {warnings:?}"
    );
    assert!(
        warnings[0].ends_with("job/chk-1/_metadata: injected fault"),
        "{warnings:?}"
    );
    assert_eq!(store.take_warnings(), [""; 0]);
    assert_eq!(store.completed().len(), 1);
}

#[test]
fn data_stays_as_long_as_metadata_that_references_it_may_stand() {
    let directory = directory();
    let files: Arc<dyn Storage> = Arc::new(FileStorage::open(directory.path()).unwrap());
    // The metadata of the first cannot be deleted for a while, whatever is tried.
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let faulty = FaultyStorage::new(files, move |step| {
        let first = step.action == Action::Delete && step.name.ends_with("chk-1/_metadata");
        let failing = first && tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 4;
        match failing {
            true => Fault::Fail(Extent::Nothing),
            false => Fault::None,
        }
    });
    let failed = faulty.clone();
    let store = CheckpointStore::with_storage(Arc::new(faulty), "job", filed()).unwrap();
    let mut stood = 0;
    for id in 1..=12 {
        take(&store, id, &[(None, noise(id, 100))]).unwrap();
        store.wait_for_cleaning();
        for entry in crate::list(directory.path().to_str().unwrap()).unwrap() {
            let completed = entry.completed().unwrap();
            assert!(verify(completed).is_good(), "{} after {id}", entry.path);
            stood += usize::from(id > 2 && completed.metadata().id == 1);
        }
    }
    assert_eq!(failed.faults().len(), 4);
    assert!(stood > 0, "it was there when its data would have gone");
    assert_eq!(store.take_warnings().len(), 1, "reported once");
    // In the end it went, and its data with it.
    assert_eq!(
        names(&directory, "job"),
        set(["chk-12", "shared", "taskowned"])
    );
    assert_eq!(
        names(&directory, "job/shared").len(),
        2,
        "of 11, pinned, and of 12"
    );
}

#[test]
fn many_checkpoints_in_a_row_leave_no_growth() {
    let directory = directory();
    let store = open(&directory, 2);
    for id in 1..=100 {
        let base = Some(id - 1).filter(|base| base % 10 != 0);
        take(&store, id, &[(base, noise(id, 10))]).unwrap();
    }
    store.wait_for_cleaning();
    assert!(tree(directory.path()).len() <= 2 + 1 + 11);
}
