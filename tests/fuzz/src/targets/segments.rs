//! A full segment and, if the input has it, a delta on it, with right checksums: values, maps and lists,
//! compressed and not.
//!
//! The first byte chooses how the segments are stored, the next two say how long the first one is, and which of
//! their numbers are mended as well: those of entries and blocks, those of the entries of each block, the range of
//! key groups (then that of half of them).
//!
//! The oracle is a model that reads segments from `docs/checkpoint-format.md` alone: what it finds right is
//! restored, exported and found right by `verify`, with its entries and no others, in order, within the key
//! groups of the subtask; what it finds wrong is none of the three. What was restored is changed, and written again
//! as a full segment and as a delta: the model reads the same from both, and the counts and sizes that the
//! writer gives are the model's. Memory is what the bytes warrant.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::export::{Filter, export};
use checkpoint::metadata::{
    Codec, Compressed, Kind, Metadata, Operator, Role, Segment, State, Subtask,
};
use checkpoint::storage::{MemoryStorage, Storage};
use checkpoint::{Completed, Error, verify};
use dataflow::CheckpointId;
use dataflow::cells::Cells;
use dataflow::key::KeyGroups;
use dataflow::state::{KeyedState, Resolved, StateDescriptor, StateKind};

use super::segment_model::{self, Contents, Said};
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

/// Names and kinds, as headers write them.
const WRITTEN: [(&str, u8); 3] = [("v", 0), ("m", 1), ("l", 2)];

/// Bits of the third byte: what is mended.
const TOTALS: u8 = 0x80;
const COUNTS: u8 = 0x40;
const HALF: u8 = 0x20;

fn run(input: &[u8]) {
    let Some(([choice, low, high], rest)) = input.split_first_chunk::<3>() else {
        return;
    };
    let first = usize::from(u16::from_le_bytes([*low, high & 0x1f])).min(rest.len());
    let (full, delta) = rest.split_at(first);
    let mut inline = Vec::new();
    let mut files = Vec::new();
    let mut segments = Vec::new();
    let mut raw = Vec::new();
    let mut raw_bytes = 0;
    for (bytes, written_by) in [(full, 1), (delta, 2)] {
        if bytes.is_empty() && written_by == 2 {
            continue;
        }
        let (stored, compressed) = stored(*choice, *high, bytes);
        raw_bytes += compressed.map_or(stored.len() as u64, |it| it.raw_length);
        raw.push(match compressed {
            None => Ok(stored.clone()),
            Some(it) => {
                let by = match it.codec {
                    Codec::Lz4 => {
                        |block: &[u8], size| lz4_flex::block::decompress(block, size).ok()
                    }
                    Codec::Zstd => |block: &[u8], size| zstd::bulk::decompress(block, size).ok(),
                };
                segment_model::decompressed(&stored, it.raw_length, by)
            }
        });
        // What is inline is not compressed.
        let file = compressed.map(|_| format!("r1-c{written_by}-0.state"));
        segments.push(Segment {
            offset: if file.is_some() {
                0
            } else {
                inline.len() as u64
            },
            length: stored.len() as u64,
            crc32c: crc32c::crc32c(&stored),
            compressed,
            written_by,
            delta: written_by == 2,
            file: file.clone(),
        });
        match file {
            Some(file) => files.push((file, stored)),
            None => inline.extend_from_slice(&stored),
        }
    }
    let checkpoint = segments.len() as u64;
    let parallelism = if high & HALF == 0 { 1 } else { 2 };
    let metadata = metadata(checkpoint, segments, parallelism);
    let body = serde_json::to_vec(&metadata).expect("it is plain");
    let storage = MemoryStorage::new();
    let directory = format!("job/chk-{checkpoint}");
    let file = seal::metadata(2, &body, &inline);
    for (name, bytes) in files.into_iter().chain([("_metadata".to_owned(), file)]) {
        storage
            .put_new(&format!("{directory}/{name}"), vec![bytes.into()])
            .expect("memory takes it");
    }
    // Empty segments and such are refused here.
    let Ok(opened) = Completed::open(Arc::new(storage), &directory) else {
        return;
    };
    let raw: Result<Vec<Vec<u8>>, _> = raw.into_iter().collect();
    let expected = raw.and_then(|raw| {
        let said: Vec<Said<'_>> = (1..)
            .zip(&raw)
            .map(|(written_by, bytes)| said(bytes, written_by, 128 / parallelism))
            .collect();
        segment_model::read(&said)
    });

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
    let exported: Result<u64, Error> = export(&opened, &Filter::default(), |_| Ok(()));
    let found = (report.is_good(), restored, exported);
    match (expected, found) {
        (Ok(expected), (true, Ok(mut state), Ok(exported))) => {
            assert!(
                walked(&state) == segment_model::flat(&expected),
                "it is restored as something else"
            );
            assert_eq!(state.walk().count() as u64, exported);
            written_again(&mut state, &expected);
        }
        (Err(_), (false, Err(_), Err(_))) => {}
        (expected, (good, restored, exported)) => {
            let expected = expected.map(|contents| contents.len());
            let restored = restored.map(|state| state.walk().count());
            panic!(
                "the model says {expected:?}, `verify` {good} ({:?}), the restore {restored:?}, the export {exported:?}",
                report.problems
            );
        }
    }
}

fn said(bytes: &[u8], written_by: u64, groups: u32) -> Said<'_> {
    Said {
        bytes,
        written_by,
        after: written_by - 1,
        delta: written_by > 1,
        key_groups: 128,
        range: (0, groups),
        states: &WRITTEN,
    }
}

/// The bytes as they are stored, with right checksums.
fn stored(choice: u8, high: u8, bytes: &[u8]) -> (Vec<u8>, Option<Compressed>) {
    let lz4 = |block: &[u8]| lz4_flex::block::compress(block);
    let zstd = |block: &[u8]| zstd::bulk::compress(block, 1).unwrap_or_default();
    let codec = if choice & 1 == 0 {
        Codec::Lz4
    } else {
        Codec::Zstd
    };
    let mut bytes = bytes.to_vec();
    let mend = |bytes: &mut Vec<u8>| {
        if high & HALF != 0 {
            seal::range(bytes, 64);
        }
        if high & COUNTS != 0 {
            seal::counts(bytes);
        }
        if high & TOTALS != 0 {
            seal::totals(bytes);
        }
        seal::segment(bytes);
    };
    match choice / 2 % 3 {
        0 => {
            mend(&mut bytes);
            (bytes, None)
        }
        1 => {
            mend(&mut bytes);
            let raw_length = bytes.len() as u64;
            let block_bytes = 1 + usize::from(choice / 6) * 100;
            let mut packed = match codec {
                Codec::Lz4 => seal::compress(&bytes, lz4, block_bytes),
                Codec::Zstd => seal::compress(&bytes, zstd, block_bytes),
            };
            // More bytes than blocks, or than there should be.
            let raw_length = match choice {
                240.. => raw_length.saturating_sub(1),
                _ => raw_length,
            };
            if (220..240).contains(&choice) {
                packed.push(0);
            }
            (packed, Some(Compressed { codec, raw_length }))
        }
        _ => {
            // The bytes are the blocks.
            let raw_length = seal::compressed(&mut bytes).min(64 << 20);
            (bytes, Some(Compressed { codec, raw_length }))
        }
    }
}

fn metadata(id: u64, segments: Vec<Segment>, parallelism: u32) -> Metadata {
    let state = |(name, kind, _): (&str, &str, StateKind)| State {
        name: name.to_owned(),
        kind: kind.to_owned(),
        schema: "bytes".to_owned(),
        schema_version: 1,
        ttl_ms: None,
        ttl_refresh: None,
        ttl_time: None,
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
        drained: false,
        triggered_at: 0,
        duration_ms: 0,
        key_groups: 128,
        key_hash: "xxh3-64".to_owned(),
        operators: vec![Operator {
            id: "o".to_owned(),
            role: Role::Operator,
            parallelism,
            labels: BTreeMap::new(),
            operator_states: Vec::new(),
            states: STATES.map(state).to_vec(),
            subtasks: {
                let mut subtasks = vec![Subtask::default(); parallelism as usize];
                subtasks[0].segments = segments;
                subtasks
            },
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
        ttl: None,
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

fn walked(state: &KeyedState) -> Vec<segment_model::Flat> {
    let own = |bytes: &[u8]| bytes.to_vec();
    let walked = state.walk();
    walked
        .map(|it| {
            let field = it.field.map(own);
            (
                it.group,
                it.state,
                own(it.key),
                field,
                it.index,
                own(it.value),
            )
        })
        .collect()
}

/// Writes the state, changes it, and writes what changed: the model reads what is there.
fn written_again(state: &mut KeyedState, expected: &Contents) {
    let write = |state: &mut KeyedState, id, base| {
        let sealed = state.snapshot(CheckpointId(id), base);
        let (mut segment, held) = (Vec::new(), sealed.held());
        let stats = sealed.write(&mut segment).expect("memory takes it");
        assert_eq!(stats.bytes, segment.len() as u64);
        assert_eq!(stats.held, held);
        (segment, held)
    };
    let (full, held) = write(state, 1, None);
    let segments = [said(&full, 1, 128)];
    let read = segment_model::read(&segments).expect("what is written is right");
    assert!(read == *expected, "it is written as something else");
    assert_eq!(held, segment_model::amounts(expected, STATES.len()));

    change(state);
    let (delta, held) = write(state, 2, Some(CheckpointId(1)));
    let segments = [said(&full, 1, 128), said(&delta, 2, 128)];
    let read = segment_model::read(&segments).expect("what is written is right");
    assert!(
        segment_model::flat(&read) == walked(state),
        "a delta is written as something else"
    );
    assert_eq!(held, segment_model::amounts(&read, STATES.len()));
}

/// Changes something of some of the keys that are there, and adds one.
fn change(state: &mut KeyedState) {
    let mut known: Vec<(Vec<u8>, Vec<u8>)> = state
        .walk()
        .map(|it| (it.key.to_vec(), it.field.unwrap_or(b"f").to_vec()))
        .collect();
    // Fields first: only what is removed of a map is removed one by one.
    known.sort_by_key(|(_, field)| *field == b"f");
    known.truncate(6);
    known.push((b"new".to_vec(), b"f".to_vec()));
    let cells = |cell: &[u8]| {
        let mut cells = Cells::new();
        cells.push(cell);
        cells
    };
    for (turn, (key, field)) in known.iter().enumerate() {
        let mut resolved = Resolved::default();
        let (keys, field) = (cells(key), cells(field));
        let hash = dataflow::key::hash(key);
        let step = |it: Result<(), dataflow::state::StateError>| it.expect("it is one of its keys");
        step(state.resolve(keys.as_ref(), &[hash], &mut resolved));
        match turn % 3 {
            0 => {
                step(state.delete(0, key));
                step(state.map_remove(1, &[0], field.as_ref()));
                step(state.list_append(2, &[0], keys.as_ref()));
            }
            1 => {
                step(state.put(0, key, b"changed"));
                step(state.map_remove(1, &[0], field.as_ref()));
                step(state.map_store(1, &[0], keys.as_ref(), field.as_ref()));
                step(state.clear(2, &[0]));
            }
            _ => {
                step(state.map_store(1, &[0], field.as_ref(), keys.as_ref()));
                step(state.clear(2, &[0]));
                step(state.list_append(2, &[0], field.as_ref()));
            }
        }
        state.commit();
    }
}
