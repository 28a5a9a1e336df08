//! Metadata around hostile contents, with right checksums: the body is JSON up to the first zero byte, the
//! inline bytes follow it. The first byte chooses the version, what is wrong with the lengths around it all, and
//! whether the directory has a number.
//!
//! The oracle is a model of "What is refused" in `docs/checkpoint-format.md`, but for operator state. It shares no code
//! with the reader: what the model finds right is opened, and nothing else is. What was opened
//!
//! - says all that the body says, and nothing that the body does not;
//! - is the same after it is written again, by a store as well, whose bytes are those that the format has;
//! - gives each segment the bytes that the model finds at its place, and the key groups that the format gives
//!   to its subtask;
//! - is exported, if `verify` finds it right;
//! - takes memory that its size warrants.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use checkpoint::export::{Filter, export};
use checkpoint::metadata::{Kind, Operator, Role, Segment, State};
use checkpoint::storage::{MemoryStorage, Storage};
use checkpoint::store::Options;
use checkpoint::{CheckpointStore, Completed, Error, Metadata, verify};
use dataflow::CheckpointId;
use serde_json::Value;

use super::{Target, seal};
use crate::memory;

pub(super) const TARGET: Target = Target {
    name: "metadata",
    run,
    words: &[
        b"\"segments\":[",
        b"\"file\":null",
        b"\"file\":\"chk-1/data-0\"",
        b"\"offset\":",
        b"\"length\":",
        b"\"compressed\":{\"codec\":\"lz4\",\"raw-length\":10}",
        b"\"zstd\"",
        b"\"written-by\":1",
        b"\"delta\":true",
        b"\"kind\":\"map\"",
        b"\"kind\":\"list\"",
        b"\"savepoint\"",
        b"\"ttl-ms\":",
        b"\"parts\":[",
        b"{}",
        b"[",
        b"]",
        b"null",
        b"true",
        b"1e999",
        b"-1",
        b"0.1",
        b"\"ended-inputs\":[0]",
        b"\"watermark\":",
        b"\"run\":\"a\"",
        b"../",
        b"\"labels\":{\"a\":\"b\"}",
        b"\\u0000",
        b"\"previous\":",
        b"\"source\"",
        b"\"sink\"",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    ],
    bytes_max: 8 << 10,
    memory_max: 64 << 20,
};

/// The highest number of anything.
const NUMBER_MAX: u64 = i64::MAX as u64;
/// Segments that end beyond are not laid out in files.
const LAID_OUT_MAX: u64 = 64 << 10;

fn open(directory: &str, file: &[u8]) -> Result<Completed, Error> {
    let storage = MemoryStorage::new();
    storage
        .put_new(
            &format!("{directory}/_metadata"),
            vec![file.to_vec().into()],
        )
        .expect("memory takes it");
    let (most, opened) = memory::most(|| Completed::open(Arc::new(storage), directory));
    // A subtask of a few letters has a few hundred bytes in memory.
    let bytes = file.len();
    assert!(
        most <= (1 << 20) + 200 * bytes,
        "{most} bytes of memory for a file of {bytes}"
    );
    opened
}

/// Version, body and inline bytes of a file, if it is one.
fn parts(file: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    fn part(rest: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = rest.split_first_chunk()?;
        rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
    }
    let rest = file.strip_prefix(b"HWCKPT\r\n")?;
    let (version, rest) = rest.split_first_chunk()?;
    let (body, rest) = part(rest)?;
    let (inline, checksum) = part(rest)?;
    let covered = &file[..file.len() - checksum.len()];
    let is_right = checksum == crc32c::crc32c(covered).to_le_bytes();
    is_right.then_some((u32::from_le_bytes(*version), body, inline))
}

/// Breaks what is around the contents.
fn damage(file: &mut Vec<u8>, how: u8, body_bytes: usize) {
    let inline_at = 20 + body_bytes;
    let mut add = |at: usize, number: u64| {
        if let Some(length) = file.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *length = u64::from_le_bytes(*length)
                .wrapping_add(number)
                .to_le_bytes();
        }
    };
    match how {
        1 => file.push(0),
        2 => add(12, 1),
        3 => add(12, u64::MAX),
        4 => add(inline_at, 1),
        5 => add(inline_at, u64::MAX),
        6 => add(12, u64::MAX - 19),
        7 => add(inline_at, u64::MAX - 27),
        8 => file[8] = 3,
        9 => file[8] = 0,
        10 => file[7] ^= 1,
        11 => drop(file.split_off(file.len() - 5)),
        12 => {
            if let Some(last) = file.last_mut() {
                *last ^= 1;
            }
            return;
        }
        _ => return,
    }
    if how != 1 {
        seal::again(file);
    }
}

/// The checkpoint that a name of a data file says it is of.
fn number_of(leaf: &str) -> Option<u64> {
    let number = |digits: &str| {
        let plain = digits == "0" || !digits.starts_with('0');
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|number| *number <= NUMBER_MAX);
        number.filter(|_| is_number && plain)
    };
    let (run, rest) = leaf
        .strip_prefix('r')?
        .strip_suffix(".state")?
        .split_once("-c")?;
    let (checkpoint, index) = rest.split_once('-')?;
    number(run)?;
    number(index)?;
    number(checkpoint)
}

/// Where a segment's file is, if it may be there.
fn place(directory: &str, file: &str, kind: Kind) -> Option<(String, u64)> {
    let (job, _) = directory.split_once('/')?;
    let (place, leaf) = match file.split('/').collect::<Vec<_>>()[..] {
        [leaf] => (format!("{directory}/{leaf}"), leaf),
        ["..", "shared", leaf] => (format!("{job}/shared/{leaf}"), leaf),
        ["..", "..", other, "shared", leaf] => {
            let inside = ["shared", "taskowned", "_lease"].contains(&other)
                || other.strip_prefix("chk-").is_some_and(|number| {
                    number
                        .parse::<u64>()
                        .is_ok_and(|it| it <= NUMBER_MAX && it.to_string() == number)
                });
            let is_job = !other.is_empty()
                && other.len() <= 200
                && !other.starts_with('.')
                && !other.contains(['\\', '#', '?'])
                && !other.contains(char::is_control)
                && !inside;
            is_job.then_some((format!("{other}/shared/{leaf}"), leaf))?
        }
        _ => return None,
    };
    let may = kind == Kind::Checkpoint || file == leaf;
    Some((place, number_of(leaf).filter(|_| may)?))
}

/// What is wrong with a body, as `docs/checkpoint-format.md` has it.
fn wrong(directory: &str, version: u32, body: &Metadata, inline: &[u8]) -> Option<&'static str> {
    let all = |right: bool, what| (!right).then_some(what);
    let segments = || {
        let subtasks = body.operators.iter().flat_map(|it| &it.subtasks);
        subtasks.flat_map(|it| &it.segments)
    };
    let states = || body.operators.iter().flat_map(|it| &it.states);
    let ids: BTreeSet<&str> = body.operators.iter().map(|it| it.id.as_str()).collect();
    let completed = i128::from(body.triggered_at) + i128::from(body.duration_ms);
    let raw = |it: &Segment| it.compressed.map_or(it.length, |it| it.raw_length);
    let sums = [
        states().map(|it| u128::from(it.entries)).sum::<u128>(),
        states().map(|it| u128::from(it.bytes)).sum(),
        segments().map(|it| u128::from(it.length)).sum(),
        segments().map(|it| u128::from(raw(it))).sum(),
    ];
    let ranges: Vec<(&Option<String>, u128, u128)> = segments()
        .map(|it| {
            let start = u128::from(it.offset);
            (&it.file, start, start + u128::from(it.length))
        })
        .collect();
    let apart = ranges.iter().enumerate().all(|(index, one)| {
        let mut others = ranges[..index].iter().filter(|other| other.0 == one.0);
        others.all(|other| other.2 <= one.1 || one.2 <= other.1)
    });
    let whole = all(body.key_hash == "xxh3-64", "key-hash")
        .or(all(body.id <= NUMBER_MAX, "id"))
        .or(all(
            !directory.ends_with("/chk-1") || body.id == 1,
            "directory",
        ))
        .or(all(
            body.previous.is_none_or(|previous| previous < body.id),
            "previous",
        ))
        .or(all(body.triggered_at >= 0, "triggered-at"))
        .or(all(completed < 253_402_300_800_000, "duration-ms"))
        .or(all((1..=32_768).contains(&body.key_groups), "key-groups"))
        .or(all(ids.len() == body.operators.len(), "operators"))
        .or(all(version >= needed(body), "version"))
        .or(all(
            sums.iter().all(|sum| *sum <= u128::from(NUMBER_MAX)),
            "sums",
        ))
        .or(all(apart, "two segments share bytes"));
    let mut operators = body.operators.iter();
    whole.or_else(|| operators.find_map(|it| wrong_operator(directory, body, it, inline)))
}

/// The format version that what the body says came with.
fn needed(body: &Metadata) -> u32 {
    let subtasks = body.operators.iter().flat_map(|it| &it.subtasks);
    let mut segments = subtasks.flat_map(|it| &it.segments);
    let mut states = body.operators.iter().flat_map(|it| &it.states);
    let has_third = states.any(|it| it.kind == "timers" || it.ttl_ms.is_some());
    match has_third {
        true => 3,
        false if segments.any(|it| it.compressed.is_some()) => 2,
        false => 1,
    }
}

fn wrong_operator(
    directory: &str,
    body: &Metadata,
    operator: &Operator,
    inline: &[u8],
) -> Option<&'static str> {
    let all = |right: bool, what| (!right).then_some(what);
    let names: BTreeSet<&str> = operator.states.iter().map(|it| it.name.as_str()).collect();
    let has_segments = operator.subtasks.iter().any(|it| !it.segments.is_empty());
    let has_state = has_segments || !operator.states.is_empty();
    let most = if has_state { body.key_groups } else { 32_768 };
    let parallelism = operator.parallelism;
    let kinds = ["value", "map", "list", "timers"];
    let ended = operator.subtasks.iter().all(|it| {
        let once: BTreeSet<u32> = it.ended_inputs.iter().copied().collect();
        let may = operator.role != Role::Source || once.is_empty();
        once.len() == it.ended_inputs.len() && may
    });
    let whole = all(operator.subtasks.len() == parallelism as usize, "subtasks")
        .or(all((1..=most).contains(&parallelism), "parallelism"))
        .or(all(!has_state || operator.role == Role::Operator, "role"))
        .or(all(
            !has_segments || !operator.states.is_empty(),
            "segments without states",
        ))
        .or(all(names.len() == operator.states.len(), "states"))
        .or(all(
            operator
                .states
                .iter()
                .all(|it| kinds.contains(&it.kind.as_str())),
            "kind",
        ))
        .or(all(operator.states.iter().all(has_whole_ttl), "ttl"))
        .or(all(ended, "ended-inputs"));
    whole.or_else(|| {
        operator.subtasks.iter().find_map(|subtask| {
            let mut before: Option<&Segment> = None;
            subtask.segments.iter().find_map(|segment| {
                let end = u128::from(segment.offset) + u128::from(segment.length);
                let found = match &segment.file {
                    None => segment.compressed.is_none() && end <= inline.len() as u128,
                    Some(file) => {
                        let place = place(directory, file, body.kind);
                        place.is_some_and(|(_, number)| number == segment.written_by)
                    }
                };
                let follows = before
                    .replace(segment)
                    .is_none_or(|before| segment.delta && before.written_by < segment.written_by);
                all(segment.length > 0 && end <= u128::from(NUMBER_MAX), "range")
                    .or(all(segment.written_by <= body.id, "written-by"))
                    .or(all(found, "file"))
                    .or(all(follows, "order"))
            })
        })
    })
}

/// A time to live is there as a whole or not at all, and timers have none.
fn has_whole_ttl(state: &State) -> bool {
    let parts = [
        state.ttl_ms.is_some(),
        state.ttl_refresh.is_some(),
        state.ttl_time.is_some(),
    ];
    parts == [parts[0]; 3] && !(parts[0] && state.kind == "timers")
}

/// Whether it has operator state, which the model does not know.
fn has_operator_state(body: &Metadata) -> bool {
    let mut operators = body.operators.iter();
    operators.any(|it| {
        !it.operator_states.is_empty() || it.subtasks.iter().any(|it| it.operator_state.is_some())
    })
}

/// What of `found` the body does not say, or says otherwise: fields that may be missing aside.
fn unsaid(found: &Value, body: Option<&Value>, any: bool) -> Option<String> {
    const MAY_LACK: [&str; 3] = ["previous", "ttl-ms", "watermark"];
    match (found, body) {
        (Value::Object(found), Some(Value::Object(body))) => {
            if any && found.len() != body.len() {
                return Some("a field is lost".to_owned());
            }
            found.iter().find_map(|(name, value)| match body.get(name) {
                None if value.is_null()
                    && (MAY_LACK.contains(&name.as_str()) || name == "file") =>
                {
                    None
                }
                None => Some(format!("`{name}` is made up")),
                said => unsaid(value, said, any || name == "parts" || name == "labels"),
            })
        }
        (Value::Array(found), Some(Value::Array(body))) if found.len() == body.len() => {
            let mut pairs = found.iter().zip(body);
            pairs.find_map(|(found, body)| unsaid(found, Some(body), any))
        }
        (found, Some(body)) if found == body => None,
        (found, _) => Some(format!("{found} is not what the body says")),
    }
}

fn run(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    let end = rest
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(rest.len());
    let (body, inline) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    let directory = if choice & 128 == 0 {
        "job/chk-1"
    } else {
        "job/mine"
    };
    let mut file = seal::metadata(1 + u32::from(choice % 2), body, inline);
    damage(&mut file, choice >> 1 & 15, body.len());
    let opened = open(directory, &file);

    let expected = parts(&file)
        .filter(|(version, ..)| (1..=3).contains(version))
        .ok_or("the file")
        .and_then(|(version, body, inline)| {
            let read: Metadata = serde_json::from_slice(body).map_err(|_| "the body")?;
            if has_operator_state(&read) {
                return Ok(None);
            }
            match wrong(directory, version, &read, inline) {
                None => Ok(Some((body, inline))),
                Some(what) => Err(what),
            }
        });
    let (opened, (body, inline)) = match (opened, expected) {
        (_, Ok(None)) => return,
        (Ok(opened), Ok(Some(expected))) => (opened, expected),
        (Err(Error::Corrupt { .. } | Error::Incompatible(_)), Err(_)) => return,
        (Err(error), Err(_)) => panic!("a wrong file is another error: {error}"),
        (Ok(_), Err(what)) => panic!("it is opened, though this is wrong: {what}"),
        (Err(error), Ok(Some(_))) => panic!("it is refused, though nothing is wrong: {error}"),
    };
    let metadata = opened.metadata();
    assert_eq!(opened.metadata_bytes(), file.len() as u64);
    let found = serde_json::to_value(metadata).expect("what was read is written");
    // Not where a field that is ignored has a string that is no text.
    if let Ok(said) = serde_json::from_slice(body) {
        assert_eq!(unsaid(&found, Some(&said), false), None, "{said}");
    }

    let again = serde_json::to_vec(metadata).expect("what was read is written");
    let second = open(
        directory,
        &seal::metadata(needed(metadata).max(2), &again, inline),
    )
    .expect("what was read and written is read again");
    assert_eq!(
        second.metadata(),
        metadata,
        "it changes when it is written again"
    );
    key_groups(&opened);
    laid_out(directory, metadata, inline);
    if choice & 64 != 0 {
        stored(metadata);
    }
    let report = verify(&opened);
    if report.is_good() {
        let exported: Result<u64, Error> = export(&opened, &Filter::default(), |_| Ok(()));
        if let Err(error) = exported {
            panic!("`verify` finds it right, but it is not exported: {error}");
        }
    }
}

/// What each segment is compared with is what the body says.
fn key_groups(opened: &Completed) {
    let groups = u64::from(opened.metadata().key_groups);
    for operator in &opened.metadata().operators {
        let parallelism = u64::from(operator.parallelism);
        for (index, subtask) in (0..).zip(&operator.subtasks) {
            let keyed = opened.keyed(operator, index).expect("it was opened");
            assert_eq!(keyed.len(), subtask.segments.len());
            let bounds =
                [index, index + 1].map(|it| (u64::from(it) * groups).div_ceil(parallelism));
            let mut before = None;
            for ((segment, origin), said) in keyed.into_iter().zip(&subtask.segments) {
                assert_eq!(segment, said);
                let raw = said.compressed.map_or(said.length, |it| it.raw_length);
                let range = [origin.range.start, origin.range.end].map(u64::from);
                let numbers = (
                    origin.checkpoint.0,
                    origin.after.map(|it| it.0),
                    origin.bytes,
                );
                assert_eq!(numbers, (said.written_by, before, raw));
                assert_eq!((range, origin.delta), (bounds, said.delta));
                assert_eq!(origin.states.len(), operator.states.len());
                before = Some(said.written_by);
            }
        }
    }
}

/// Lays bytes out where the model says that segments are, and reads them.
fn laid_out(directory: &str, metadata: &Metadata, inline: &[u8]) {
    let byte =
        |name: &str, at: u64| (at as u8).wrapping_mul(7) ^ crc32c::crc32c(name.as_bytes()) as u8;
    let mut metadata = metadata.clone();
    let mut files = std::collections::BTreeMap::new();
    let mut expected = Vec::new();
    let kind = metadata.kind;
    let subtasks = metadata
        .operators
        .iter_mut()
        .flat_map(|it| &mut it.subtasks);
    for segment in subtasks.flat_map(|it| &mut it.segments) {
        let end = segment.offset + segment.length;
        if end > LAID_OUT_MAX {
            return;
        }
        let bytes: Vec<u8> = match &segment.file {
            None => inline[segment.offset as usize..end as usize].to_vec(),
            Some(file) => {
                let (place, _) = place(directory, file, kind).expect("it was opened");
                let bytes = (segment.offset..end).map(|at| byte(&place, at)).collect();
                let most = files.entry(place).or_insert(0);
                *most = end.max(*most);
                bytes
            }
        };
        segment.compressed = None;
        segment.crc32c = crc32c::crc32c(&bytes);
        expected.push(bytes);
    }
    if expected.is_empty() || expected.len() > 8 {
        return;
    }
    // Of what is not compressed, the sum of the bytes is another.
    let body = serde_json::to_vec(&metadata).expect("it is plain");
    let storage = MemoryStorage::new();
    let file = seal::metadata(2, &body, inline);
    let put = |name: &str, bytes: Vec<u8>| {
        storage
            .put_new(name, vec![bytes.into()])
            .expect("memory takes it");
    };
    put(&format!("{directory}/_metadata"), file);
    for (place, end) in files {
        put(&place, (0..end).map(|at| byte(&place, at)).collect());
    }
    let opened = Completed::open(Arc::new(storage), directory)
        .expect("it has another checksum and is not compressed");
    let found: Vec<Vec<u8>> = opened
        .segments()
        .map(|(_, _, segment)| {
            let mut bytes = Vec::new();
            let mut reader = opened.read(segment).expect("it was opened");
            reader.read_to_end(&mut bytes).expect("it is there");
            bytes
        })
        .collect();
    assert!(found == expected, "a segment has bytes of another place");
}

/// A store writes it, without what is inline: as the format has it.
fn stored(metadata: &Metadata) {
    let mut metadata = metadata.clone();
    let subtasks = metadata
        .operators
        .iter_mut()
        .flat_map(|it| &mut it.subtasks);
    for subtask in subtasks {
        let inline = subtask.segments.iter().any(|it| it.file.is_none());
        if inline {
            subtask.segments.clear();
        }
    }
    let id = metadata.id;
    let storage = Arc::new(MemoryStorage::new());
    let shared: Arc<dyn Storage> = storage.clone();
    let store =
        CheckpointStore::with_storage(shared, "job", Options::default()).expect("memory is there");
    let Ok(pending) = store.begin(CheckpointId(id)) else {
        return;
    };
    let completed = pending
        .complete(metadata, Vec::new())
        .expect("what was opened is written");
    let name = format!("job/chk-{id}/_metadata");
    let bytes = storage
        .read(&name, 0..1 << 20)
        .expect("what completed is there");
    let metadata = completed.metadata();
    let mut segments = completed.segments();
    let version = if segments.any(|(_, _, it)| it.compressed.is_some()) {
        2
    } else {
        1
    };
    let body = serde_json::to_vec(metadata).expect("it is plain");
    assert!(
        bytes == seal::metadata(version, &body, b""),
        "it is not written as the format has it"
    );
    let opened = Completed::open(storage, &format!("job/chk-{id}")).expect("it was written");
    assert_eq!(opened.metadata(), metadata, "it changes when it is written");
}
