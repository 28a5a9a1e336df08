use std::fs;
use std::io::ErrorKind;

use super::*;
use crate::CheckpointStore;
use crate::fixture::{LARGE, filed, noise, read, take};
use crate::storage::{FaultyStorage, MemoryStorage};
use crate::store::Options;
use crate::verify::verify_bytes as verify;

mod ahead;

struct Job {
    directory: tempfile::TempDir,
    checkpoint: Completed,
}

/// A checkpoint of two subtasks whose segments share a file, and the third has one of its own.
fn job() -> Job {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_str().unwrap();
    let store = CheckpointStore::open(dir, "job", filed()).unwrap();
    let segments = [
        (None, noise(1, 3000)),
        (None, noise(2, 500)),
        (None, noise(3, 5 * LARGE)),
    ];
    let checkpoint = take(&store, 1, &segments).unwrap();
    Job {
        directory,
        checkpoint,
    }
}

impl Job {
    fn file(&self, subtask: usize) -> std::path::PathBuf {
        let operator = &self.checkpoint.metadata().operators[0];
        let file = operator.subtasks[subtask].segments[0]
            .file
            .as_deref()
            .unwrap();
        self.directory.path().join("job/chk-1").join(file)
    }

    fn damage(&self, subtask: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.file(subtask);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    }

    /// The error of reading a subtask's segment: what object, and what about it.
    fn damage_found(&self, subtask: usize) -> (String, String) {
        let error = read(&self.checkpoint, subtask).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        match error.downcast::<Error>().unwrap() {
            Error::Corrupt { object, what } => (object, what),
            other => panic!("expected damage, got {other:?}"),
        }
    }
}

#[test]
fn segments_are_read_as_they_were_written() {
    let job = job();
    for (subtask, length) in [(0, 3000), (1, 500), (2, 5 * LARGE)] {
        let expected = noise(subtask as u64 + 1, length);
        assert!(
            read(&job.checkpoint, subtask).unwrap() == [expected],
            "{subtask}"
        );
    }
    let report = verify(&job.checkpoint);
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.segments, report.files), (3, 2));
    assert_eq!(report.bytes, 3500 + 5 * LARGE as u64);
}

#[test]
fn c14_a_flipped_bit_is_found_with_file_and_range() {
    let job = job();
    job.damage(1, |bytes| bytes[3000 + 77] ^= 4);
    let (object, what) = job.damage_found(1);
    assert_eq!(
        fs::canonicalize(object).unwrap(),
        fs::canonicalize(job.file(1)).unwrap()
    );
    assert_eq!(what, "bytes 3000..3500 do not match their checksum");
    assert!(
        read(&job.checkpoint, 0).is_ok(),
        "its neighbour in the file is well"
    );
}

#[test]
fn damage_is_known_before_the_last_byte_is_handed_out() {
    let job = job();
    job.damage(2, |bytes| bytes[10] ^= 1);
    let segment = &job.checkpoint.metadata().operators[0].subtasks[2].segments[0];
    let mut reader = job.checkpoint.read(segment).unwrap();
    let mut all = vec![0; usize::try_from(segment.length).unwrap()];
    let error = reader.read_exact(&mut all).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let again = reader.read(&mut all).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::InvalidData, "it stays so");
}

#[test]
fn a_file_that_is_too_short_or_missing_is_corrupt() {
    let job = job();
    job.damage(1, |bytes| bytes.truncate(3200));
    let (_, what) = job.damage_found(1);
    assert_eq!(
        what,
        "the file ends at byte 3200, bytes 3000..3500 are expected"
    );
    fs::remove_file(job.file(2)).unwrap();
    assert_eq!(job.damage_found(2).1, "the file is missing");
    let report = verify(&job.checkpoint);
    let found: Vec<_> = report
        .problems
        .iter()
        .map(|problem| (problem.owner.1, problem.what.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (
                1,
                "the file ends at byte 3200, bytes 3000..3500 are expected"
            ),
            (2, "the file is missing"),
        ]
    );
}

#[test]
fn what_cannot_be_read_is_not_called_corrupt() {
    let job = job();
    let storage = Arc::clone(&job.checkpoint.contents().storage);
    let unreadable =
        FaultyStorage::counting(storage).with_unreadable(|name| name.ends_with(".state"));
    let checkpoint = Completed::open(Arc::new(unreadable), "job/chk-1").unwrap();
    let error = read(&checkpoint, 0).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::InvalidData);
    let error = error.downcast::<Error>().unwrap();
    assert!(matches!(error, Error::Storage { .. }), "{error:?}");
    let report = verify(&checkpoint);
    assert_eq!(report.problems.len(), 3);
    assert!(
        report.problems[0].what.contains("injected fault"),
        "{report:?}"
    );
}

#[test]
fn c14_every_flipped_byte_of_a_small_checkpoint_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_str().unwrap();
    let options = Options {
        inline_threshold: 100,
        ..Options::default()
    };
    let store = CheckpointStore::open(dir, "job", options).unwrap();
    let segments = [
        (None, noise(1, 60)),
        (None, noise(2, 150)),
        (None, noise(3, 200)),
    ];
    let checkpoint = take(&store, 1, &segments).unwrap();
    let data = names::data("job/shared", 1, 1, 0);
    let mut flipped = 0;
    for name in ["job/chk-1/_metadata", &data] {
        let path = directory.path().join(name);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            let storage = Arc::clone(&checkpoint.contents().storage);
            match Completed::open(storage, "job/chk-1") {
                Ok(opened) => assert_eq!(verify(&opened).problems.len(), 1, "byte {at} of {name}"),
                Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{at}: {error:?}"),
            }
            flipped += 1;
        }
        fs::write(&path, &good).unwrap();
    }
    assert!(flipped > 350 + 200, "both files were there");
    assert!(verify(&checkpoint).is_good());
}

#[test]
fn a_huge_file_that_is_not_metadata_is_not_read_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("_metadata");
    let file = fs::File::create(path).unwrap();
    file.set_len(METADATA_BYTES_MAX * 64).unwrap();
    let (storage, name) = crate::location::open_directory(directory.path()).unwrap();
    let error = Completed::open(storage, &name).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
}

#[test]
fn c146_metadata_under_the_number_of_another_is_refused_and_under_a_name_of_its_own_not() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let store = CheckpointStore::with_storage(Arc::clone(&storage), "job", filed()).unwrap();
    take(&store, 2, &[(None, noise(2, 50))]).unwrap();
    let whole = storage.read("job/chk-2/_metadata", 0..1 << 20).unwrap();
    for (directory, expected) in [
        ("job/chk-2", None),
        ("job/keep-me", None),
        // A number that no checkpoint can have is just a name.
        ("job/chk-02", None),
        ("job/chk-63", Some("it is the metadata of checkpoint 2")),
        ("job/chk-1", Some("it is the metadata of checkpoint 2")),
        // Nothing is above, so what it references cannot be either.
        ("chk-2", None),
        ("", Some("that leads out of the storage")),
    ] {
        let name = names::metadata(directory);
        if directory != "job/chk-2" {
            storage.put_new(&name, vec![whole.clone()]).unwrap();
        }
        let opened = Completed::open(Arc::clone(&storage), directory);
        match (&opened, expected) {
            (Ok(_), None) => {}
            (Err(Error::Corrupt { what, .. }), Some(expected)) => {
                assert!(what.contains(expected), "{directory}: {what}");
            }
            _ => panic!("{directory}: {opened:?}"),
        }
    }
}
