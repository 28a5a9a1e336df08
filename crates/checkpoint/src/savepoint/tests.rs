use std::fs;
use std::path::{Path, PathBuf};

use dataflow::CheckpointId;

use super::*;
use crate::CheckpointStore;
use crate::fixture::{LARGE, filed, metadata, noise, take, tree, write};
use crate::store::Options;

fn open(dir: &Path) -> Result<SavepointTarget> {
    let Options {
        timeout,
        permissions,
        ..
    } = Options::default();
    SavepointTarget::open(dir.to_str().unwrap(), "job", timeout, permissions)
}

/// A savepoint in a directory, with a file of its own and one that small segments share.
fn saved(root: &Path) -> PathBuf {
    let store = CheckpointStore::memory(filed());
    let target = open(root).unwrap();
    let pending = store.begin_savepoint(CheckpointId(7), &target).unwrap();
    let written = vec![
        (0, 0, write(&pending, 0, None, &noise(7, LARGE)).unwrap()),
        (0, 1, write(&pending, 1, None, &noise(7, 100)).unwrap()),
    ];
    let savepoint = pending.complete(metadata(7, 2), written).unwrap();
    let path = PathBuf::from(savepoint.path().unwrap());
    path.parent().unwrap().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn refused(spec: &str, root: &Path, why: &str) {
    let before = tree(root);
    let error = dispose(spec).unwrap_err();
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(tree(root), before, "{spec}");
}

#[test]
fn c80_disposing_removes_what_the_savepoint_lists_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    for by_metadata in [false, true] {
        let directory = saved(root.path());
        let spec = match by_metadata {
            false => format!("file://{}/", text(&directory)),
            true => text(&directory.join("_metadata")).to_owned(),
        };
        let disposed = dispose(&spec).unwrap();
        assert_eq!(
            disposed.path,
            text(&directory.canonicalize().unwrap_or(directory))
        );
        assert_eq!((disposed.id, disposed.files), (7, 3));
        assert_eq!(disposed.job_id, "wordcount-1");
        assert!(disposed.bytes > LARGE as u64);
        assert_eq!(disposed.left, [""; 0]);
        assert_eq!(tree(root.path()), [""; 0]);
    }
    let directory = saved(root.path());
    for name in ["notes.txt", "r1-c7-99.state", "inside/x"] {
        fs::create_dir_all(directory.join(name).parent().unwrap()).unwrap();
        fs::write(directory.join(name), "somebody's").unwrap();
    }
    let disposed = dispose(text(&directory)).unwrap();
    let left: Vec<&str> = disposed
        .left
        .iter()
        .map(|path| path.rsplit_once('/').unwrap().1)
        .collect();
    assert_eq!(left, ["notes.txt", "r1-c7-99.state", "inside"]);
    assert_eq!(
        tree(&directory),
        ["inside/x", "notes.txt", "r1-c7-99.state"]
    );
    // It is none any more.
    refused(text(&directory), root.path(), "is no savepoint");
}

#[test]
fn c80_what_is_no_savepoint_is_refused_and_stays_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let jobs = root.path().join("jobs");
    let store = CheckpointStore::open(text(&jobs), "job", filed()).unwrap();
    take(&store, 1, &[(None, noise(1, 100))]).unwrap();
    std::mem::forget(store);
    let checkpoint = jobs.join("job/chk-1");
    let belongs = "a checkpoint belongs to its job";
    refused(text(&checkpoint), root.path(), belongs);
    refused(text(&checkpoint.join("_metadata")), root.path(), belongs);
    // Also if it was copied to where savepoints are.
    let copy = root.path().join("savepoint-job-0");
    fs::create_dir(&copy).unwrap();
    fs::copy(checkpoint.join("_metadata"), copy.join("_metadata")).unwrap();
    refused(text(&copy), root.path(), belongs);
    refused(text(&jobs.join("job")), root.path(), "is no savepoint");
    refused(text(&jobs), root.path(), "is no savepoint");

    let directory = saved(root.path());
    refused(
        text(&root.path().join("nothing")),
        root.path(),
        "does not exist",
    );
    let data = fs::read_dir(&directory)
        .unwrap()
        .map(|it| it.unwrap().path());
    let data = data.filter(|it| it.extension().is_some()).max().unwrap();
    refused(text(&data), root.path(), "its directory is expected");

    let link = root.path().join("link");
    std::os::unix::fs::symlink(&directory, &link).unwrap();
    let is_link = "is a symbolic link";
    refused(text(&link), root.path(), is_link);
    refused(&format!("{}/", text(&link)), root.path(), is_link);
    refused(text(&link.join("_metadata")), root.path(), is_link);

    // In the place of a checkpoint it may be all that its job has.
    let misplaced = jobs.join("job/chk-7");
    fs::rename(&directory, &misplaced).unwrap();
    refused(text(&misplaced), root.path(), "called like a checkpoint");
    fs::rename(&misplaced, &directory).unwrap();

    let metadata = directory.join("_metadata");
    let good = fs::read(&metadata).unwrap();
    let mut bad = good.clone();
    let at = bad.len() / 2;
    bad[at] ^= 1;
    fs::write(&metadata, &bad).unwrap();
    refused(text(&directory), root.path(), "host checkpoints verify");
    assert!(matches!(
        dispose(text(&directory)),
        Err(Error::Corrupt { .. })
    ));
    fs::write(&metadata, good).unwrap();
    // A data file that is a link leads nowhere of the savepoint's.
    let elsewhere = root.path().join("elsewhere");
    fs::rename(&data, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &data).unwrap();
    dispose(text(&directory)).unwrap_err();
    assert!(elsewhere.is_file());
}

#[test]
fn c80_a_target_that_cannot_be_used_is_found_before_anything_begins() {
    let root = tempfile::tempdir().unwrap();
    let said = |dir: &Path| crate::catalog::describe(&open(dir).unwrap_err());
    // It is made, and nothing of the trial stays.
    open(&root.path().join("a/b")).unwrap();
    assert_eq!(tree(root.path()), ["a/b/"]);
    let file = root.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(said(&file).contains(text(&file)));
    assert!(said(Path::new("/")).contains("savepoint directory `/` is the root"));
    let bad = SavepointTarget::with_storage(Arc::new(crate::storage::MemoryStorage::new()), "a/b");
    assert!(bad.is_err());

    let store = CheckpointStore::take_lease(
        text(&root.path().join("jobs")),
        "job",
        Options::default().timeout,
        Permissions::Private,
        crate::lease::tests::terms("m", &crate::lease::tests::Clock::default()),
        &mut |_| {},
    );
    let store = CheckpointStore::with_lease(store.unwrap(), filed()).unwrap();
    let job = root.path().join("jobs/job");
    for inside in ["", "shared", "savepoints", "chk-1/x"] {
        let error = said(&job.join(inside));
        assert!(error.contains("is in the directory of a job"), "{error}");
    }
    // Beside the jobs is as good as anywhere.
    open(&root.path().join("jobs")).unwrap();
    drop(store);
}

#[test]
fn c80_a_directory_in_which_nothing_can_be_written_is_refused() {
    let storage =
        crate::storage::FaultyStorage::new(Arc::new(crate::storage::MemoryStorage::new()), |_| {
            crate::storage::faults::Fault::Fail(crate::storage::faults::Extent::Nothing)
        });
    let target = SavepointTarget::with_storage(Arc::new(storage), "job").unwrap();
    assert!(matches!(target.probe(), Err(Error::Storage { .. })));
}
