//! A full segment and, if the input has it, a delta on it, with right checksums: values, maps and lists,
//! compressed and not.
//!
//! The first byte chooses how the segments are stored, the next two say how long the first one is.
//! Promises: what `verify` finds right is restored and exported, what it finds wrong is neither; what is
//! restored is the same after a snapshot; memory is what the bytes warrant.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::export::{Filter, export};
use checkpoint::metadata::{
    Codec, Compressed, Kind, Metadata, Operator, Role, Segment, State, Subtask,
};
use checkpoint::storage::{MemoryStorage, Storage};
use checkpoint::{Completed, Error, verify};
use dataflow::CheckpointId;
use dataflow::key::KeyGroups;
use dataflow::state::{KeyedState, Origin, StateDescriptor, StateKind};

use super::{Target, seal};
use crate::memory;

pub(super) const TARGET: Target = Target {
    name: "segments",
    run,
    words: &[
        b"\x89HWSEG\r\n",
        b"xxh3-64",
        b"\x02values",
        b"\x01\x00\x00\x00",
        b"\x02\x00\x00\x00",
        b"\x80\x01",
        b"\xff\xff\xff\xff\x0f",
        b"\x80\x00",
        b"\x05",
        b"\x06",
        b"\x07",
    ],
    bytes_max: 8 << 10,
    memory_max: 256 << 20,
};

/// The states of the operator: one of each kind.
const STATES: [(&str, &str, StateKind); 3] = [
    ("v", "value", StateKind::Value),
    ("m", "map", StateKind::Map),
    ("l", "list", StateKind::List),
];

fn run(input: &[u8]) {
    let Some(([choice, low, high], rest)) = input.split_first_chunk::<3>() else {
        return;
    };
    let first = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (full, delta) = rest.split_at(first);
    let mut inline = Vec::new();
    let mut segments = Vec::new();
    let mut raw_bytes = 0;
    for (bytes, written_by) in [(full, 1), (delta, 2)] {
        if bytes.is_empty() && written_by == 2 {
            continue;
        }
        let (stored, compressed) = stored(*choice, bytes);
        raw_bytes += compressed.map_or(stored.len() as u64, |it| it.raw_length);
        segments.push(Segment {
            file: None,
            offset: inline.len() as u64,
            length: stored.len() as u64,
            crc32c: crc32c::crc32c(&stored),
            compressed,
            written_by,
            delta: written_by == 2,
        });
        inline.extend_from_slice(&stored);
    }
    let checkpoint = segments.len() as u64;
    let metadata = metadata(checkpoint, segments);
    let body = serde_json::to_vec(&metadata).expect("it is plain");
    let storage = MemoryStorage::new();
    let directory = format!("job/chk-{checkpoint}");
    let file = seal::metadata(2, &body, &inline);
    storage
        .put_new(&format!("{directory}/_metadata"), vec![file.into()])
        .expect("memory takes it");
    // Empty segments and such are refused here.
    let Ok(opened) = Completed::open(Arc::new(storage), &directory) else {
        return;
    };

    // Buffers of a block each, and tables: a thousand bytes for an entry of a few.
    let warranted = (24 << 20) + 1000 * raw_bytes as usize;
    let (most, report) = memory::most(|| verify(&opened));
    assert!(
        most <= warranted,
        "`verify` took {most} bytes for {raw_bytes}"
    );
    let (most, restored) = memory::most(|| restored(&opened));
    assert!(
        most <= warranted,
        "the restore took {most} bytes for {raw_bytes}"
    );
    match (report.is_good(), restored) {
        (true, Ok(mut state)) => {
            let exported: Result<u64, Error> = export(&opened, &Filter::default(), |_| Ok(()));
            let exported = exported.unwrap_or_else(|error| {
                panic!("`verify` finds it right, but it is not exported: {error}")
            });
            same_after_a_snapshot(&mut state, exported);
        }
        (false, Err(_)) => {
            let exported: Result<u64, Error> = export(&opened, &Filter::default(), |_| Ok(()));
            assert!(
                exported.is_err(),
                "it is exported, but `verify` finds: {:?}",
                report.problems
            );
        }
        (true, Err(error)) => panic!("`verify` finds it right, but it is not restored: {error}"),
        (false, Ok(_)) => panic!("it is restored, but `verify` finds: {:?}", report.problems),
    }
}

/// The bytes as they are stored, with right checksums.
fn stored(choice: u8, bytes: &[u8]) -> (Vec<u8>, Option<Compressed>) {
    let lz4 = |block: &[u8]| lz4_flex::block::compress(block);
    let zstd = |block: &[u8]| zstd::bulk::compress(block, 1).unwrap_or_default();
    let codec = if choice & 1 == 0 {
        Codec::Lz4
    } else {
        Codec::Zstd
    };
    let mut bytes = bytes.to_vec();
    match choice / 2 % 3 {
        0 => {
            seal::segment(&mut bytes);
            (bytes, None)
        }
        1 => {
            seal::segment(&mut bytes);
            let raw_length = bytes.len() as u64;
            let block_bytes = 1 + usize::from(choice / 6) * 100;
            let packed = match codec {
                Codec::Lz4 => seal::compress(&bytes, lz4, block_bytes),
                Codec::Zstd => seal::compress(&bytes, zstd, block_bytes),
            };
            (packed, Some(Compressed { codec, raw_length }))
        }
        _ => {
            // The bytes are the blocks.
            let raw_length = seal::compressed(&mut bytes).min(64 << 20);
            (bytes, Some(Compressed { codec, raw_length }))
        }
    }
}

fn metadata(id: u64, segments: Vec<Segment>) -> Metadata {
    let state = |(name, kind, _): (&str, &str, StateKind)| State {
        name: name.to_owned(),
        kind: kind.to_owned(),
        schema: "bytes".to_owned(),
        schema_version: 1,
        ttl_ms: None,
        entries: 0,
        bytes: 0,
    };
    Metadata {
        writer: "0.1.0".to_owned(),
        job_name: "job".to_owned(),
        job_id: "job".to_owned(),
        run: None,
        generation: 0,
        holder: None,
        id,
        previous: (id > 1).then_some(id - 1),
        kind: Kind::Checkpoint,
        triggered_at: 0,
        duration_ms: 0,
        key_groups: 128,
        key_hash: "xxh3-64".to_owned(),
        operators: vec![Operator {
            id: "o".to_owned(),
            role: Role::Operator,
            parallelism: 1,
            labels: BTreeMap::new(),
            states: STATES.map(state).to_vec(),
            subtasks: vec![Subtask {
                segments,
                ..Subtask::default()
            }],
        }],
    }
}

fn empty() -> KeyedState {
    let groups = KeyGroups::new(128).expect("there may be 128");
    let states = STATES.map(|(name, _, kind)| StateDescriptor {
        name: name.to_owned(),
        kind,
        schema: "bytes".to_owned(),
        schema_version: 1,
        ttl_ms: None,
    });
    KeyedState::new(states.to_vec(), groups.range_of(0, 1), groups)
}

/// As a job that resumes does it.
fn restored(checkpoint: &Completed) -> Result<KeyedState, String> {
    let mut state = empty();
    let operator = &checkpoint.metadata().operators[0];
    for (segment, origin) in checkpoint
        .keyed(operator, 0)
        .map_err(|error| error.to_string())?
    {
        let mut reader = checkpoint
            .read(segment)
            .map_err(|error| error.to_string())?;
        state
            .restore_as(&mut reader, &origin)
            .map_err(|error| error.to_string())?;
    }
    Ok(state)
}

fn same_after_a_snapshot(state: &mut KeyedState, exported: u64) {
    let id = CheckpointId(9);
    let mut segment = Vec::new();
    state
        .snapshot(id, None)
        .write(&mut segment)
        .expect("memory takes it");
    let mut again = empty();
    let origin = Origin {
        checkpoint: id,
        after: None,
        delta: false,
        key_groups: KeyGroups::new(128).expect("there may be 128"),
        range: KeyGroups::new(128)
            .expect("there may be 128")
            .range_of(0, 1),
        states: STATES
            .map(|(name, _, kind)| (name.to_owned(), kind))
            .to_vec(),
        bytes: segment.len() as u64,
    };
    again
        .restore_as(&mut segment.as_slice(), &origin)
        .expect("what was written is restored");
    assert!(state.walk().eq(again.walk()), "it changes by a snapshot");
    assert_eq!(state.walk().count() as u64, exported);
}
