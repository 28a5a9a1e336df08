use std::fs;

use super::*;
use crate::CheckpointStore;
use crate::fixture::{filed, noise, take};
use crate::store::Options;

fn root() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_str().unwrap();
    let options = Options {
        retained: 20,
        ..filed()
    };
    for job in ["b", "a"] {
        let store = CheckpointStore::open(dir, job, options.clone()).unwrap();
        for id in [2, 10, 11] {
            take(&store, id, &[(None, noise(id, 100))]).unwrap();
        }
    }
    directory
}

fn summary(entries: &[CatalogEntry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| format!("{}/{} {}", entry.job, entry.name, entry.status.word()))
        .collect()
}

#[test]
fn everything_is_listed_in_order_however_bad() {
    let root = root();
    let path = |name: &str| root.path().join(name);
    // A crash before the metadata, a torn one, one that is not, one from the future.
    fs::create_dir(path("a/chk-12")).unwrap();
    fs::write(path("a/chk-12/_metadata#1"), "torn").unwrap();
    let good = fs::read(path("a/chk-10/_metadata")).unwrap();
    fs::write(path("a/chk-2/_metadata"), &good[..100]).unwrap();
    fs::write(path("a/chk-11/_metadata"), "something else").unwrap();
    let mut future = good;
    future[8] = 99;
    fs::write(path("b/chk-10/_metadata"), &future).unwrap();
    fs::create_dir(path("savepoint-x-0123")).unwrap();
    fs::create_dir(path("unrelated")).unwrap();
    fs::write(path("unrelated/file"), "").unwrap();
    fs::write(path("file"), "").unwrap();
    let entries = list(root.path().to_str().unwrap()).unwrap();
    let parent = root.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(
        summary(&entries),
        [
            format!("{parent}/savepoint-x-0123 incomplete").as_str(),
            "a/chk-2 corrupt",
            "a/chk-10 complete",
            "a/chk-11 corrupt",
            "a/chk-12 incomplete",
            "b/chk-2 complete",
            "b/chk-10 future format",
            "b/chk-11 complete",
        ]
        .map(str::to_owned)
        .into_iter()
        .collect::<Vec<_>>()
    );
    let reasons: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.status.reason())
        .collect();
    assert!(
        reasons[0].starts_with("truncated at byte 100"),
        "{reasons:?}"
    );
    assert!(reasons[1].contains("magic"), "{reasons:?}");
    assert!(reasons[2].contains("format version 99"), "{reasons:?}");
}

#[test]
fn a_job_directory_a_checkpoint_and_its_metadata_can_be_listed() {
    let root = root();
    let of = |name: &str| summary(&list(root.path().join(name).to_str().unwrap()).unwrap());
    assert_eq!(
        of("a"),
        ["a/chk-2 complete", "a/chk-10 complete", "a/chk-11 complete"]
    );
    assert_eq!(of("a/"), of("a"));
    assert_eq!(of("a/chk-10"), ["a/chk-10 complete"]);
    assert_eq!(of("a/chk-10/_metadata"), ["a/chk-10 complete"]);
    assert_eq!(of("a/shared"), [""; 0]);
    let url = format!("file://{}/a", root.path().display());
    assert_eq!(list(&url).unwrap().len(), 3);
}

#[test]
fn what_does_not_exist_cannot_be_listed() {
    let root = root();
    let error = list(root.path().join("none").to_str().unwrap()).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    // The metadata of a checkpoint stands for its directory, another file for nothing.
    fs::write(root.path().join("a/notes"), "").unwrap();
    let error = list(root.path().join("a/notes").to_str().unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("is not checkpoint metadata"),
        "{error}"
    );
    let error = list("gcs://bucket/x").unwrap_err();
    assert!(matches!(error, Error::Incompatible(_)), "{error:?}");
}

#[test]
fn a_link_in_the_place_of_a_job_directory_does_not_hide_that_there_is_one() {
    let root = root();
    let elsewhere = root.path().join("b");
    std::os::unix::fs::symlink(&elsewhere, root.path().join("c")).unwrap();
    let entries = list(root.path().to_str().unwrap()).unwrap();
    let link = entries.iter().find(|entry| entry.name == "c").unwrap();
    assert!(matches!(link.status, Status::Unreadable(_)), "{link:?}");
    let why = link.status.reason().unwrap();
    assert!(why.contains("symbolic link"), "{why}");
}
