//! Checkpoints whose files are compressed.

use std::fs;
use std::path::{Path, PathBuf};

use dataflow::CheckpointId;

use crate::fixture::{LARGE, filed, noise, read, take, tree, write};
use crate::metadata::Codec;
use crate::store::{Compression, Options};
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Completed, Error, list};

const COMPRESSIONS: [Compression; 2] = [Compression::Lz4, Compression::Zstd];

/// Half of it repeats itself.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = noise(seed, length);
    for run in bytes.chunks_mut(64) {
        let half = run.len() / 2;
        run[..half].fill(7);
    }
    bytes
}

fn open(directory: &Path, options: Options) -> CheckpointStore {
    CheckpointStore::open(directory.to_str().unwrap(), "job", options).unwrap()
}

fn reopened(directory: &Path) -> Completed {
    let entries = list(directory.to_str().unwrap()).unwrap();
    entries.last().unwrap().completed().unwrap().clone()
}

fn data_files(directory: &Path) -> Vec<PathBuf> {
    let names = tree(directory).into_iter();
    let data = names.filter(|name| name.ends_with(".state"));
    data.map(|name| directory.join(name)).collect()
}

#[test]
fn files_are_compressed_and_read_whatever_the_setting_is_then() {
    for compression in COMPRESSIONS {
        for length in [5_000, LARGE, 20 * LARGE] {
            let directory = tempfile::tempdir().unwrap();
            let options = Options {
                compression,
                ..filed()
            };
            let raw = bytes(1, length);
            let completed = take(&open(directory.path(), options), 1, &[(None, raw.clone())]);
            let completed = completed.unwrap();
            let stored: u64 = data_files(directory.path())
                .iter()
                .map(|file| fs::metadata(file).unwrap().len())
                .sum();
            assert!(
                stored < length as u64 * 3 / 4,
                "{compression:?}: {stored} of {length}"
            );
            assert_eq!(
                completed.bytes_written(),
                stored + completed.metadata_bytes()
            );
            // By another program, which knows of no setting.
            let reopened = reopened(directory.path());
            assert!(read(&reopened, 0).unwrap() == [raw]);
            let report = verify(&reopened);
            assert!(report.is_good());
            assert_eq!(report.bytes, stored);
        }
    }
}

#[test]
fn c05_the_threshold_is_the_same_with_compression_and_what_is_inline_is_not_compressed() {
    for compression in COMPRESSIONS {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            inline_threshold: 1000,
            compression,
            ..Options::default()
        };
        let store = open(directory.path(), options);
        let at = take(&store, 1, &[(None, bytes(1, 1000))]).unwrap();
        assert_eq!(data_files(directory.path()), [""; 0].map(PathBuf::from));
        let (_, _, segment) = at.segments().next().unwrap();
        assert_eq!(segment.compressed, None);
        assert!(read(&at, 0).unwrap() == [bytes(1, 1000)]);
        // It compresses to less than the threshold, and is above it all the same.
        let above = take(&store, 2, &[(None, bytes(2, 1001))]).unwrap();
        assert_eq!(data_files(directory.path()).len(), 1);
        let (_, _, segment) = above.segments().next().unwrap();
        assert!(segment.length < 1000 && segment.compressed.is_some());
        assert_eq!(segment.compressed.unwrap().raw_length, 1001);
        assert!(read(&above, 0).unwrap() == [bytes(2, 1001)]);
    }
}

#[test]
fn c07_the_limit_of_memory_storage_is_on_what_the_state_is_not_on_what_it_becomes() {
    for compression in COMPRESSIONS {
        let store = CheckpointStore::memory(Options {
            max_state_size: 500_000,
            compression,
            ..Options::default()
        });
        let at = take(&store, 1, &[(None, bytes(1, 500_000))]).unwrap();
        assert!(at.bytes_written() < 400_000);
        assert!(read(&at, 0).unwrap() == [bytes(1, 500_000)]);
        let pending = store.begin(CheckpointId(2)).unwrap();
        let error = write(&pending, 0, None, &bytes(2, 500_001)).unwrap_err();
        assert!(
            matches!(error, Error::TooLarge { size: 500_001, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_chain_may_mix_settings() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [Compression::Zstd, Compression::None, Compression::Lz4];
    let mut expected = Vec::new();
    let mut base: Option<Completed> = None;
    for (id, compression) in (1..).zip(settings) {
        let options = Options {
            compression,
            ..filed()
        };
        let raw = bytes(id, 10_000);
        // Runs do not build on each other's checkpoints: the chain is put together by hand.
        let store = open(directory.path(), options);
        let completed = take(&store, id, &[(None, raw.clone())]).unwrap();
        let mut segments: Vec<_> = base
            .iter()
            .flat_map(|base| base.segments().map(|(_, _, segment)| segment.clone()))
            .collect();
        segments.extend(completed.segments().map(|(_, _, segment)| segment.clone()));
        let mut metadata = completed.metadata().clone();
        for (index, segment) in segments.iter_mut().enumerate() {
            segment.delta = index > 0;
        }
        metadata.operators[0].subtasks[0].segments = segments;
        let location = directory.path().join(format!("job/chk-{id}/_metadata"));
        let (encoded, _) = crate::metadata::encode(&metadata, &[], "").unwrap();
        fs::write(location, encoded).unwrap();
        expected.push(raw);
        base = Some(reopened(directory.path()));
    }
    let last = base.unwrap();
    let codecs: Vec<Option<Codec>> = last
        .segments()
        .map(|(_, _, segment)| segment.compressed.map(|compressed| compressed.codec))
        .collect();
    assert_eq!(codecs, [Some(Codec::Zstd), None, Some(Codec::Lz4)]);
    assert!(read(&last, 0).unwrap() == expected);
}

#[test]
fn deltas_stand_on_compressed_segments() {
    for compression in COMPRESSIONS {
        let directory = tempfile::tempdir().unwrap();
        let store = open(
            directory.path(),
            Options {
                inline_threshold: 1000,
                compression,
                ..Options::default()
            },
        );
        let (full, small, large) = (bytes(1, 5_000), bytes(2, 900), bytes(3, 2 * LARGE));
        take(&store, 1, &[(None, full.clone())]).unwrap();
        take(&store, 2, &[(Some(1), small.clone())]).unwrap();
        take(&store, 3, &[(Some(2), large.clone())]).unwrap();
        assert!(read(&reopened(directory.path()), 0).unwrap() == [full, small, large]);
    }
}

#[test]
fn c14_every_flipped_byte_of_compressed_files_is_found() {
    for compression in COMPRESSIONS {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            inline_threshold: 50,
            compression,
            ..Options::default()
        };
        let store = open(directory.path(), options);
        // Inline, and two that share a file.
        let raw = [bytes(1, 40), bytes(2, 700), noise(3, 300)];
        let segments = raw.clone().map(|bytes| (None, bytes));
        take(&store, 1, &segments).unwrap();
        let files = data_files(directory.path());
        assert_eq!(files.len(), 1);
        for file in [&files[0], &directory.path().join("job/chk-1/_metadata")] {
            let whole = fs::read(file).unwrap();
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << (at % 8);
                fs::write(file, &damaged).unwrap();
                let entries = list(directory.path().to_str().unwrap()).unwrap();
                let Some(found) = entries[0].completed() else {
                    continue;
                };
                let report = verify(found);
                assert!(!report.is_good(), "byte {at} of {}", file.display());
                assert!(report.problems[0].what.contains("bytes "));
                // Nothing of the damaged segment is handed out, and of the others what was written.
                for (subtask, raw) in raw.iter().enumerate() {
                    match read(found, subtask) {
                        Ok(segments) => assert!(segments[0] == *raw, "byte {at}"),
                        Err(error) => assert!(error.to_string().contains("corrupt"), "{error}"),
                    }
                }
            }
            fs::write(file, whole).unwrap();
        }
        assert!(verify(&reopened(directory.path())).is_good());
    }
}
