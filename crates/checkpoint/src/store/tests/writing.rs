//! What a checkpoint writes, and where it goes.

use std::fs;
use std::sync::Arc;
use std::thread;

use dataflow::state::{KeyedState, SegmentStats, StateDescriptor, StateKind};
use dataflow::{CheckpointId, KeyGroupRange, KeyGroups};

use crate::fixture::{LARGE, OPERATOR, filed, metadata, noise, read, take, tree, write};
use crate::store::Options;
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Error};

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn store(&self, options: Options) -> CheckpointStore {
        CheckpointStore::open(self.0.path().to_str().unwrap(), "job", options).unwrap()
    }

    fn tree(&self) -> Vec<String> {
        tree(self.0.path())
    }
}

#[test]
fn c02_the_directories_are_there_after_the_first_checkpoint() {
    let directory = Directory::new();
    let store = directory.store(Options::default());
    let completed = take(&store, 1, &[(None, noise(1, 10))]).unwrap();
    assert_eq!(
        directory.tree(),
        ["job/chk-1/_metadata", "job/shared/", "job/taskowned/"]
    );
    let expected = directory.0.path().join("job/chk-1/_metadata");
    assert_eq!(completed.path().as_deref(), expected.to_str());
    assert_eq!(
        completed.bytes_written(),
        fs::metadata(expected).unwrap().len()
    );
}

#[test]
fn c04_a_path_and_a_url_are_the_same_directory() {
    let directory = Directory::new();
    let dir = directory.0.path().to_str().unwrap();
    for (dir, id) in [
        (format!("{dir}/x y"), 1),
        (format!("file://{dir}/x%20y/"), 2),
    ] {
        let store = CheckpointStore::open(&dir, "job", Options::default()).unwrap();
        take(&store, id, &[(None, noise(1, 10))]).unwrap();
    }
    let expected = [
        "chk-1/_metadata",
        "chk-2/_metadata",
        "shared/",
        "taskowned/",
    ];
    assert_eq!(
        directory.tree(),
        expected.map(|name| format!("x y/job/{name}"))
    );
    for dir in [
        "/",
        "file:///",
        "s3://user:password@bucket/x",
        "s3:///x",
        "gcs://bucket",
        "ftp://x/y",
        "",
    ] {
        let error = CheckpointStore::open(dir, "job", Options::default()).unwrap_err();
        assert!(matches!(error, Error::Incompatible(_)), "{dir}: {error:?}");
    }
}

#[test]
fn c05_exactly_the_threshold_is_inline_and_one_more_byte_is_not() {
    let options = Options {
        inline_threshold: 1000,
        ..Options::default()
    };
    let directory = Directory::new();
    let store = directory.store(options);
    let at = take(&store, 1, &[(None, noise(1, 1000))]).unwrap();
    assert_eq!(
        directory.tree(),
        ["job/chk-1/_metadata", "job/shared/", "job/taskowned/"]
    );
    assert!(read(&at, 0).unwrap() == [noise(1, 1000)]);
    let above = take(&store, 2, &[(None, noise(2, 1001))]).unwrap();
    store.wait_for_cleaning();
    assert_eq!(
        directory.tree(),
        [
            "job/chk-2/_metadata",
            "job/shared/r1-c2-1.state",
            "job/taskowned/"
        ]
    );
    assert!(read(&above, 0).unwrap() == [noise(2, 1001)]);
    let metadata = fs::metadata(directory.0.path().join("job/chk-2/_metadata")).unwrap();
    assert_eq!(above.bytes_written(), 1001 + metadata.len());
}

#[test]
fn c06_for_an_operator_without_state_nothing_is_stored() {
    let store = CheckpointStore::memory(filed());
    let completed = take(&store, 1, &[(None, Vec::new()), (None, noise(1, 10))]).unwrap();
    let operator = completed.operator(OPERATOR).unwrap();
    assert_eq!(operator.subtasks[0].segments, []);
    assert_eq!(operator.subtasks[1].segments.len(), 1);
    assert!(verify(&completed).is_good());
}

#[test]
fn c07_memory_storage_takes_up_to_the_limit_and_stops_writing_beyond() {
    let options = Options {
        max_state_size: 500_000,
        ..Options::default()
    };
    let store = CheckpointStore::memory(options);
    let at = take(&store, 1, &[(None, noise(1, 500_000))]).unwrap();
    assert!(read(&at, 0).unwrap() == [noise(1, 500_000)]);
    assert_eq!(at.path(), None);
    assert!(store.is_memory());
    let pending = store.begin(CheckpointId(2)).unwrap();
    let error = write(&pending, 0, None, &noise(2, 500_001)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "state of operator `count` subtask 0 has 500001 bytes or more, memory storage takes `checkpoint.max-state-size`=500000"
    );
    let mut offered = 0_u64;
    let endless = pending.write_with(OPERATOR, 1, None, 0, |to| {
        loop {
            to.write_all(&[0; 1000])?;
            offered += 1000;
        }
    });
    assert!(matches!(
        endless,
        Err(Error::TooLarge {
            subtask: 1,
            size: 501_000,
            ..
        })
    ));
    assert_eq!(offered, 500_000, "it was not buffered first");
    assert_eq!(store.latest().unwrap().metadata().id, 1);
}

#[test]
fn c18_many_subtasks_with_little_state_make_two_objects() {
    let directory = Directory::new();
    let store = directory.store(Options::default());
    let segments: Vec<_> = (0..200)
        .map(|seed| (None, noise(seed, 500 * seed as usize)))
        .collect();
    let completed = take(&store, 1, &segments).unwrap();
    assert_eq!(
        directory.tree(),
        [
            "job/chk-1/_metadata",
            "job/shared/r1-c1-0.state",
            "job/taskowned/"
        ]
    );
    for (subtask, (_, bytes)) in segments.iter().enumerate().skip(1) {
        assert!(
            read(&completed, subtask).unwrap() == [bytes.clone()],
            "{subtask}"
        );
    }
}

#[test]
fn a_large_segment_has_a_file_of_its_own_in_bounded_memory() {
    let directory = Directory::new();
    let store = directory.store(Options::default());
    let segments = [
        (None, noise(1, 20 * LARGE)),
        (None, noise(2, 30_000)),
        (None, noise(3, 9)),
    ];
    let completed = take(&store, 1, &segments).unwrap();
    assert_eq!(
        directory.tree(),
        [
            "job/chk-1/_metadata",
            "job/shared/r1-c1-0.state",
            "job/shared/r1-c1-1.state",
            "job/taskowned/",
        ]
    );
    for (subtask, (_, bytes)) in segments.into_iter().enumerate() {
        assert!(read(&completed, subtask).unwrap() == [bytes], "{subtask}");
    }
    assert!(verify(&completed).is_good());
    assert!(completed.bytes_written() > 20 * LARGE as u64 + 30_000);
}

#[test]
fn without_deltas_data_is_in_the_checkpoint_directory() {
    let options = Options {
        incremental: false,
        ..filed()
    };
    let directory = Directory::new();
    let store = directory.store(options);
    take(&store, 1, &[(None, noise(1, 10)), (None, noise(2, LARGE))]).unwrap();
    take(&store, 2, &[(None, noise(3, 10)), (None, noise(4, LARGE))]).unwrap();
    store.wait_for_cleaning();
    assert_eq!(
        directory.tree(),
        [
            "job/chk-2/_metadata",
            "job/chk-2/r1-c2-2.state",
            "job/chk-2/r1-c2-3.state",
            "job/shared/",
            "job/taskowned/",
        ]
    );
    let error = take(&store, 3, &[(Some(2), noise(5, 10)), (None, noise(6, 10))]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`checkpoint.incremental` is off"),
        "{error}"
    );
}

#[test]
fn a_delta_stands_behind_the_segments_of_its_base() {
    let options = Options {
        inline_threshold: 100,
        ..Options::default()
    };
    let directory = Directory::new();
    let store = directory.store(options);
    take(
        &store,
        1,
        &[
            (None, noise(1, 60)),
            (None, noise(2, 500)),
            (None, Vec::new()),
        ],
    )
    .unwrap();
    let second = [
        (Some(1), noise(3, 40)),
        (Some(1), Vec::new()),
        (Some(1), noise(4, 30)),
    ];
    take(&store, 2, &second).unwrap();
    let third = [
        (Some(2), noise(5, 1)),
        (Some(2), noise(6, 2 * LARGE)),
        (None, noise(7, 20)),
    ];
    let completed = take(&store, 3, &third).unwrap();
    assert!(read(&completed, 0).unwrap() == [noise(1, 60), noise(3, 40), noise(5, 1)]);
    assert!(read(&completed, 1).unwrap() == [noise(2, 500), noise(6, 2 * LARGE)]);
    assert!(read(&completed, 2).unwrap() == [noise(7, 20)]);
    let operator = completed.operator(OPERATOR).unwrap();
    let told: Vec<Vec<_>> = operator
        .subtasks
        .iter()
        .map(|subtask| {
            let segments = subtask.segments.iter();
            segments
                .map(|segment| (segment.written_by, segment.delta, segment.file.is_some()))
                .collect()
        })
        .collect();
    assert_eq!(
        told,
        [
            // One byte more than may be inline goes to a file, what is inline stays.
            vec![(1, false, false), (2, true, false), (3, true, true)],
            vec![(1, false, true), (3, true, true)],
            vec![(3, false, false)],
        ]
    );
    let state = &operator.states[0];
    assert_eq!(
        (state.entries, state.bytes),
        (3, 1 + 2 * LARGE as u64 + 20),
        "what was held at the last barrier, whichever segments have it"
    );
    assert!(verify(&completed).is_good());
    drop(store);
    let located = crate::locate(&completed.path().unwrap(), None, "wordcount").unwrap();
    assert_eq!(located.checkpoint.metadata(), completed.metadata());
    assert!(verify(&located.checkpoint).is_good());
}

#[test]
fn a_delta_on_nothing_stands_alone() {
    let store = CheckpointStore::memory(filed());
    take(&store, 1, &[(None, Vec::new())]).unwrap();
    let completed = take(&store, 2, &[(Some(1), noise(1, 10))]).unwrap();
    let operator = completed.operator(OPERATOR).unwrap();
    assert!(operator.subtasks[0].segments[0].delta);
    assert_eq!(
        (operator.states[0].entries, operator.states[0].bytes),
        (1, 10)
    );
}

fn keyed_state() -> KeyedState {
    let count = StateDescriptor {
        name: "count".to_owned(),
        kind: StateKind::Value,
        schema: "u64".to_owned(),
        schema_version: 1,
        ttl: None,
    };
    let key_groups = KeyGroups::new(128).unwrap();
    let range = KeyGroupRange { start: 0, end: 128 };
    KeyedState::new(vec![count], range, key_groups)
}

#[test]
fn keyed_state_comes_back_from_a_full_segment_and_a_delta() {
    let directory = Directory::new();
    let store = directory.store(Options {
        retained: 5,
        ..filed()
    });
    let mut state = keyed_state();
    let checkpoint = |state: &mut KeyedState, id: u64, base: Option<u64>| {
        let sealed = state.snapshot(CheckpointId(id), base.map(CheckpointId));
        let pending = store.begin(CheckpointId(id)).unwrap();
        let written = pending.write(OPERATOR, 0, &sealed).unwrap();
        let completed = pending
            .complete(metadata(id, 1), vec![(0, 0, written)])
            .unwrap();
        state.checkpoint_complete(CheckpointId(id));
        completed
    };
    let empty = checkpoint(&mut state, 1, None);
    assert_eq!(
        empty.segments().count(),
        0,
        "c06: nothing is stored for no state"
    );
    for key in 0..5000_u32 {
        state.put(0, &key.to_le_bytes(), b"old").unwrap();
    }
    state.commit();
    checkpoint(&mut state, 2, None);
    for key in 0..50_u32 {
        state.put(0, &key.to_le_bytes(), b"new").unwrap();
        state.delete(0, &(key + 4000).to_le_bytes()).unwrap();
    }
    state.commit();
    let completed = checkpoint(&mut state, 3, Some(2));
    let unchanged = checkpoint(&mut state, 4, Some(3));
    assert_eq!(
        unchanged.segments().count(),
        2,
        "nothing is written for no change"
    );
    drop(store);
    for path in [completed.path(), unchanged.path()] {
        let located = crate::locate(&path.unwrap(), None, "wordcount").unwrap();
        let mut restored = keyed_state();
        for (_, _, segment) in located.checkpoint.segments() {
            restored
                .restore(&mut located.checkpoint.read(segment).unwrap())
                .unwrap();
        }
        assert_eq!(restored.stats(), state.stats());
        for key in 0..5000_u32 {
            let key = key.to_le_bytes();
            assert_eq!(restored.get(0, &key).unwrap(), state.get(0, &key).unwrap());
        }
    }
}

#[test]
fn many_threads_write_one_checkpoint() {
    let directory = Directory::new();
    let store = directory.store(filed());
    let pending = store.begin(CheckpointId(1)).unwrap();
    let size = |subtask: u32| {
        if subtask.is_multiple_of(3) {
            3 * LARGE
        } else {
            1000 * subtask as usize
        }
    };
    let threads: Vec<_> = (0..8)
        .map(|subtask| {
            let pending = Arc::clone(&pending);
            thread::spawn(move || {
                let bytes = noise(subtask.into(), size(subtask));
                (0, subtask, write(&pending, subtask, None, &bytes).unwrap())
            })
        })
        .collect();
    let written = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let completed = pending.complete(metadata(1, 8), written).unwrap();
    for subtask in 0..8 {
        let expected = noise(subtask.into(), size(subtask));
        assert!(
            read(&completed, subtask as usize).unwrap() == [expected],
            "{subtask}"
        );
    }
    assert!(verify(&completed).is_good());
}

#[test]
fn what_was_not_written_for_a_place_is_not_put_there() {
    let store = CheckpointStore::memory(filed());
    let first = store.begin(CheckpointId(1)).unwrap();
    let second = store.begin(CheckpointId(2)).unwrap();
    let of_first = write(&first, 0, None, b"x").unwrap();
    let error = second
        .complete(metadata(2, 1), vec![(0, 0, of_first)])
        .unwrap_err();
    assert!(matches!(error, Error::Incompatible(_)), "{error:?}");
    let other_subtask = write(&first, 1, None, b"x").unwrap();
    let error = first
        .complete(metadata(1, 2), vec![(0, 0, other_subtask)])
        .unwrap_err();
    assert!(
        error.to_string().contains("subtask 0 is not what wrote"),
        "{error}"
    );
    let third = store.begin(CheckpointId(3)).unwrap();
    let error = third.complete(metadata(4, 1), Vec::new()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the metadata is of checkpoint 4"),
        "{error}"
    );
    assert!(store.latest().is_none());
}

#[test]
fn an_encoder_that_fails_is_named() {
    let store = CheckpointStore::memory(filed());
    let pending = store.begin(CheckpointId(1)).unwrap();
    let error = pending
        .write_with(OPERATOR, 3, None, u64::MAX, |_| {
            Err::<SegmentStats, _>(std::io::Error::other("broken"))
        })
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "encoding the state of operator `count` subtask 3"
    );
}
