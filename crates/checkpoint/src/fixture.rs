//! What the tests of this crate share: a small job, and segments that are just bytes.

pub(crate) mod hostile;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use dataflow::CheckpointId;
use dataflow::key::{KeyGroups, hash};
use dataflow::state::{KeyedState, SegmentStats, StateDescriptor, StateKind};

use crate::metadata::{Kind, Metadata, Operator, Role, State, Subtask};
use crate::store::{Options, Pending, Written};
use crate::{CheckpointStore, Completed, Result};

/// Methods of a storage that do no more than those of the one in a field: `hand_on!(inner: read delete);`.
macro_rules! hand_on {
    ($inner:tt: $($method:ident)+) => {
        $($crate::fixture::hand_on!(@$method $inner);)+
    };
    (@create $inner:tt) => {
        fn create(&self, name: &str) -> $crate::Result<Box<dyn $crate::storage::ObjectWriter>> {
            self.$inner.create(name)
        }
    };
    (@put_new $inner:tt) => {
        fn put_new(&self, name: &str, parts: Vec<bytes::Bytes>) -> $crate::Result<()> {
            self.$inner.put_new(name, parts)
        }
    };
    (@read $inner:tt) => {
        fn read(&self, name: &str, range: std::ops::Range<u64>) -> $crate::Result<bytes::Bytes> {
            self.$inner.read(name, range)
        }
    };
    (@list $inner:tt) => {
        fn list(&self, directory: &str) -> $crate::Result<$crate::storage::Listing> {
            self.$inner.list(directory)
        }
    };
    (@delete $inner:tt) => {
        fn delete(&self, name: &str) -> $crate::Result<()> {
            self.$inner.delete(name)
        }
    };
    (@make_directory $inner:tt) => {
        fn make_directory(&self, name: &str) -> $crate::Result<()> {
            self.$inner.make_directory(name)
        }
    };
    (@remove_directory $inner:tt) => {
        fn remove_directory(&self, name: &str) -> $crate::Result<()> {
            self.$inner.remove_directory(name)
        }
    };
    (@location $inner:tt) => {
        fn location(&self, name: &str) -> String {
            self.$inner.location(name)
        }
    };
}
pub(crate) use hand_on;

pub(crate) const OPERATOR: &str = "count";

/// Larger than what shares a file with others.
pub(crate) const LARGE: usize = (1 << 20) + 1;

/// Metadata of checkpoint `id` of job `wordcount`, which completed at second `id`, with one
/// operator.
pub(crate) fn metadata(id: u64, subtasks: u32) -> Metadata {
    let state = State {
        name: "count".to_owned(),
        kind: "value".to_owned(),
        schema: "u64".to_owned(),
        schema_version: 1,
        ttl_ms: None,
        ttl_refresh: None,
        ttl_time: None,
        entries: 0,
        bytes: 0,
    };
    Metadata {
        writer: "0.1.0".to_owned(),
        job_name: "wordcount".to_owned(),
        job_id: "wordcount-1".to_owned(),
        run: None,
        generation: 0,
        holder: None,
        id,
        previous: id.checked_sub(1).filter(|previous| *previous > 0),
        kind: Kind::Checkpoint,
        drained: false,
        triggered_at: 1_700_000_000_000 + i64::try_from(id).unwrap() * 1000,
        duration_ms: 10,
        key_groups: subtasks.max(128),
        key_hash: "xxh3-64".to_owned(),
        operators: vec![Operator {
            id: OPERATOR.to_owned(),
            role: Role::Operator,
            parallelism: subtasks.max(1),
            labels: BTreeMap::new(),
            operator_states: Vec::new(),
            states: vec![state],
            subtasks: vec![Subtask::default(); subtasks.max(1) as usize],
        }],
    }
}

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; length];
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    bytes
}

/// A full segment of some keys of a subtask, as an operator would have it.
pub(crate) fn segment(id: u64, subtask: u32, parallelism: u32) -> Vec<u8> {
    let groups = KeyGroups::new(128).unwrap();
    let declared = &metadata(id, parallelism).operators[0].states[0];
    let descriptor = StateDescriptor {
        name: declared.name.clone(),
        kind: StateKind::Value,
        schema: declared.schema.clone(),
        schema_version: declared.schema_version,
        ttl: None,
    };
    let range = groups.range_of(subtask, parallelism);
    let mut state = KeyedState::new(vec![descriptor], range, groups);
    for key in (0..100_u64).map(u64::to_le_bytes) {
        if range.contains(groups.group_of(hash(&key))) {
            state.put(0, &key, &id.to_le_bytes()).unwrap();
            state.commit();
        }
    }
    let mut segment = Vec::new();
    let sealed = state.snapshot(CheckpointId(id), None);
    sealed.write(&mut segment).unwrap();
    segment
}

/// Writes bytes as the segment of a subtask, in pieces.
pub(crate) fn write(
    pending: &Pending,
    subtask: u32,
    base: Option<u64>,
    bytes: &[u8],
) -> Result<Written> {
    let base = base.map(CheckpointId);
    pending.write_with(OPERATOR, subtask, base, bytes.len() as u64, |to| {
        for piece in bytes.chunks(100_003) {
            to.write_all(piece)?;
        }
        Ok(SegmentStats {
            bytes: bytes.len() as u64,
            states: vec![(1, bytes.len() as u64)],
            held: vec![(1, bytes.len() as u64)],
        })
    })
}

/// Takes a checkpoint: for each subtask the base and the bytes of its segment.
pub(crate) fn take(
    store: &CheckpointStore,
    id: u64,
    segments: &[(Option<u64>, Vec<u8>)],
) -> Result<Completed> {
    take_as(
        store,
        metadata(id, u32::try_from(segments.len()).unwrap()),
        segments,
    )
}

/// As [`take`], with other metadata.
pub(crate) fn take_as(
    store: &CheckpointStore,
    metadata: Metadata,
    segments: &[(Option<u64>, Vec<u8>)],
) -> Result<Completed> {
    let pending = store.begin(CheckpointId(metadata.id))?;
    let mut written = Vec::new();
    for (subtask, (base, bytes)) in (0..).zip(segments) {
        written.push((0, subtask, write(&pending, subtask, *base, bytes)?));
    }
    pending.complete(metadata, written)
}

/// Each segment of a subtask.
pub(crate) fn read(checkpoint: &Completed, subtask: usize) -> io::Result<Vec<Vec<u8>>> {
    let operator = checkpoint.operator(OPERATOR).unwrap();
    let segments = operator.subtasks[subtask].segments.iter();
    segments
        .map(|segment| {
            let mut bytes = Vec::new();
            checkpoint
                .read(segment)
                .map_err(io::Error::other)?
                .read_to_end(&mut bytes)?;
            Ok(bytes)
        })
        .collect()
}

/// Options for tests that want files: nothing goes inline.
pub(crate) fn filed() -> Options {
    Options {
        inline_threshold: 0,
        ..Options::default()
    }
}

/// All files and empty directories beneath a directory, sorted, relative.
pub(crate) fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, directory: &Path, found: &mut Vec<String>) {
        let mut entries: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        entries.sort();
        for path in entries {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            if !path.is_dir() {
                found.push(name.to_owned());
            } else if std::fs::read_dir(&path).unwrap().next().is_none() {
                found.push(format!("{name}/"));
            } else {
                walk(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found
}
