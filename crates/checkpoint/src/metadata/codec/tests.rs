use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::fixture::hostile;
use crate::metadata::{
    Codec, Compressed, Kind, Operator, Role, Segment, State, Subtask, TtlRefresh, TtlTime,
};

fn sample() -> (Metadata, Vec<Bytes>) {
    let inline = vec![Bytes::from_static(b"inline"), Bytes::from_static(b"bytes")];
    let segment = |file: Option<&str>, offset, length, delta| Segment {
        file: file.map(str::to_owned),
        offset,
        length,
        crc32c: 0xdead_beef,
        compressed: None,
        written_by: if delta { 8 } else { 7 },
        delta,
    };
    let metadata = Metadata {
        writer: "0.1.0".to_owned(),
        job_name: "wordcount".to_owned(),
        job_id: "wordcount-0123abcd".to_owned(),
        run: None,
        generation: 0,
        holder: None,
        id: 8,
        previous: Some(7),
        kind: Kind::Checkpoint,
        drained: false,
        triggered_at: 1_700_000_000_000,
        duration_ms: 31,
        key_groups: 128,
        key_hash: "xxh3-64".to_owned(),
        operators: vec![Operator {
            id: "count".to_owned(),
            role: Role::Operator,
            parallelism: 2,
            labels: BTreeMap::from([("component".to_owned(), "sha256:0".to_owned())]),
            operator_states: Vec::new(),
            states: vec![State {
                name: "count".to_owned(),
                kind: "value".to_owned(),
                schema: "u64".to_owned(),
                schema_version: 1,
                ttl_ms: None,
                ttl_refresh: None,
                ttl_time: None,
                entries: 3,
                bytes: 44,
            }],
            subtasks: vec![
                Subtask {
                    operator_state: None,
                    segments: vec![
                        segment(Some("../shared/r1-c7-0.state"), 5, 100, false),
                        segment(None, 0, 6, true),
                    ],
                    parts: vec![serde_json::json!({"file": "a.txt", "line": 12})],
                    ended_inputs: vec![0],
                    event_time: None,
                    watermark: Some(i64::MAX),
                },
                Subtask {
                    segments: vec![segment(None, 6, 5, false)],
                    ..Subtask::default()
                },
            ],
        }],
    };
    (metadata, inline)
}

fn encoded() -> Bytes {
    let (metadata, inline) = sample();
    encode(&metadata, &inline, "_metadata").unwrap().0
}

/// With the first segment compressed.
fn compressed() -> (Metadata, Vec<Bytes>) {
    let (mut metadata, inline) = sample();
    metadata.operators[0].subtasks[0].segments[0].compressed = Some(Compressed {
        codec: Codec::Zstd,
        raw_length: 1000,
    });
    (metadata, inline)
}

/// As a program would that takes every version for `version`.
fn forged(metadata: &Metadata, inline: &[Bytes], version: u32) -> Bytes {
    let mut bytes = encode(metadata, inline, "_metadata").unwrap().0.to_vec();
    bytes[VERSION_AT..VERSION_AT + 4].copy_from_slice(&version.to_le_bytes());
    let end = bytes.len() - CHECKSUM_BYTES;
    let checksum = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    bytes.into()
}

fn what(bytes: &Bytes) -> String {
    match decode(bytes, "x/_metadata") {
        Err(Error::Corrupt { object, what }) => {
            assert_eq!(object, "x/_metadata");
            what
        }
        other => panic!("expected damage, got {other:?}"),
    }
}

#[test]
fn what_was_encoded_is_decoded() {
    let (metadata, inline) = sample();
    let (bytes, kept) = encode(&metadata, &inline, "_metadata").unwrap();
    assert_eq!(kept, "inlinebytes");
    let (decoded, decoded_inline) = decode(&bytes, "_metadata").unwrap();
    assert_eq!(decoded, metadata);
    assert_eq!(decoded_inline, "inlinebytes");
}

#[test]
fn each_version_is_written_only_where_it_is_needed() {
    let (metadata, inline) = sample();
    let (bytes, _) = encode(&metadata, &inline, "_metadata").unwrap();
    assert_eq!(number_at(&bytes, VERSION_AT, 4), Some(1));
    assert!(!String::from_utf8_lossy(&bytes).contains("compressed"));
    let (metadata, inline) = compressed();
    let (bytes, _) = encode(&metadata, &inline, "_metadata").unwrap();
    assert_eq!(number_at(&bytes, VERSION_AT, 4), Some(2));
    assert_eq!(decode(&bytes, "_metadata").unwrap().0, metadata);
    let (mut metadata, inline) = sample();
    metadata.operators[0].states[0].kind = "timers".to_owned();
    let (bytes, _) = encode(&metadata, &inline, "_metadata").unwrap();
    assert_eq!(number_at(&bytes, VERSION_AT, 4), Some(3));
    assert_eq!(decode(&bytes, "_metadata").unwrap().0, metadata);
}

#[test]
fn what_is_compressed_is_refused_where_it_cannot_be() {
    let (metadata, inline) = compressed();
    assert_eq!(
        what(&forged(&metadata, &inline, 1)),
        "it has what came with format version 2, and says that it is of version 1"
    );
    let (mut metadata, inline) = compressed();
    let segments = &mut metadata.operators[0].subtasks[0].segments;
    segments[1].compressed = segments[0].compressed;
    let (bytes, _) = encode_unchecked(&metadata, &inline, "_metadata").unwrap();
    assert!(what(&bytes).ends_with("is compressed, though it is inline"));
}

#[test]
fn every_flipped_bit_is_found_as_damage() {
    let (metadata, inline) = compressed();
    let newer = encode(&metadata, &inline, "_metadata").unwrap().0;
    for bytes in [encoded(), newer] {
        every_flipped_bit_is_found(&bytes);
    }
}

fn every_flipped_bit_is_found(bytes: &Bytes) {
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1 << bit;
            let result = decode(&damaged.into(), "_metadata");
            assert!(
                matches!(result, Err(Error::Corrupt { .. })),
                "bit {bit} of byte {at}: {result:?}"
            );
        }
    }
}

#[test]
fn every_inverted_byte_is_found() {
    let bytes = encoded();
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0xff;
        assert!(decode(&damaged.into(), "_metadata").is_err(), "byte {at}");
    }
}

#[test]
fn every_truncation_is_found_and_called_so() {
    let bytes = encoded();
    for length in 0..bytes.len() {
        let what = what(&bytes.slice(..length));
        assert!(what.starts_with("truncated at byte"), "{length}: {what}");
    }
}

#[test]
fn wrong_magic_truncation_and_the_future_have_distinct_messages() {
    let mut other = encoded().to_vec();
    other[..8].copy_from_slice(b"PK\x03\x04 zip");
    assert_eq!(
        what(&other.into()),
        "bytes 0..8 are not the magic of checkpoint metadata"
    );
    let cut = encoded().slice(..100);
    assert!(what(&cut).starts_with("truncated at byte 100, "));
    let (metadata, inline) = sample();
    for version in [FORMAT_VERSION + 1, 99, u32::MAX] {
        match decode(&forged(&metadata, &inline, version), "x/_metadata") {
            Err(Error::Incompatible(message)) => assert_eq!(
                message,
                format!(
                    "x/_metadata was written in format version {version}, this program reads versions up to 3"
                )
            ),
            other => panic!("expected the future, got {other:?}"),
        }
    }
}

#[test]
fn bytes_behind_the_end_are_found() {
    let mut bytes = encoded().to_vec();
    let length = bytes.len();
    bytes.push(0);
    assert_eq!(
        what(&bytes.into()),
        format!("bytes {length}..{} do not belong to it", length + 1)
    );
}

#[test]
fn lengths_from_the_file_are_not_believed() {
    for length in [u64::MAX, u64::MAX - 28, 1 << 62, 1 << 40] {
        let mut bytes = encoded().to_vec();
        bytes[12..20].copy_from_slice(&length.to_le_bytes());
        assert!(what(&bytes.into()).starts_with("truncated at byte"));
    }
}

#[test]
fn c82_that_all_input_was_ended_is_kept_and_said_only_if_it_is_so() {
    for (drained, stored) in [
        (false, serde_json::Value::Null),
        (true, serde_json::Value::Bool(true)),
    ] {
        let metadata = Metadata {
            drained,
            ..crate::fixture::metadata(7, 1)
        };
        let (bytes, _) = encode(&metadata, &[], "x").unwrap();
        assert_eq!(decode(&bytes, "x").unwrap().0, metadata);
        let value = serde_json::to_value(&metadata).unwrap();
        assert_eq!(value["drained"], stored);
    }
    let mut value = serde_json::to_value(crate::fixture::metadata(7, 1)).unwrap();
    value["drained"] = serde_json::Value::Null;
    let read: Metadata = serde_json::from_value(value).unwrap();
    assert!(!read.drained);
}

#[test]
fn unknown_fields_are_ignored_within_a_format_version() {
    let (metadata, _) = sample();
    let mut body = serde_json::to_value(&metadata).unwrap();
    body["added-later"] = serde_json::json!([1, 2]);
    body["operators"][0]["added-later"] = serde_json::json!("x");
    let decoded: Metadata = serde_json::from_value(body).unwrap();
    assert_eq!(decoded, metadata);
}

#[test]
fn a_full_segment_behind_another_is_refused() {
    let (mut metadata, inline) = sample();
    metadata.operators[0].subtasks[0].segments[1].delta = false;
    let (bytes, _) = encode_unchecked(&metadata, &inline, "_metadata").unwrap();
    assert!(what(&bytes).ends_with("is not a delta, but has others before it"));
}

#[test]
fn segments_that_cannot_be_read_are_refused() {
    let check = |change: &dyn Fn(&mut Segment)| {
        let (mut metadata, inline) = sample();
        change(&mut metadata.operators[0].subtasks[1].segments[0]);
        let (bytes, _) = encode_unchecked(&metadata, &inline, "_metadata").unwrap();
        what(&bytes)
    };
    assert!(check(&|segment| segment.length = 6).contains("ends at inline byte 12, there are 11"));
    assert!(check(&|segment| segment.offset = u64::MAX).contains("has no end"));
    assert!(
        check(&|segment| segment.file = Some("../../../etc/passwd".to_owned()))
            .contains("is in file `../../../etc/passwd`: a checkpoint's data cannot be there")
    );
}

/// What is said of a body after a change, with a right checksum.
fn said_of(change: &dyn Fn(&mut Metadata)) -> Result<(), Error> {
    let (mut metadata, inline) = sample();
    change(&mut metadata);
    assert!(
        matches!(
            encode(&metadata, &inline, "_metadata"),
            Err(Error::Incompatible(_))
        ),
        "it must not be written either"
    );
    let (bytes, _) = encode_unchecked(&metadata, &inline, "_metadata").unwrap();
    decode(&bytes, "x/_metadata").map(drop)
}

#[test]
fn c145_hostile_references_are_refused() {
    for file in [
        "",
        "_metadata",
        "../../thesis/final.odt",
        "link/id_rsa",
        "../../other-job/chk-3/_metadata",
        "../_lease/1",
        "/etc/r1-c7-0.state",
        "a#1",
        // Of another checkpoint than the one that is said to have written it.
        "../shared/r1-c6-0.state",
    ] {
        let change = |it: &mut Metadata| {
            it.operators[0].subtasks[0].segments[0].file = Some(file.to_owned());
        };
        match said_of(&change) {
            Err(Error::Corrupt { what, .. }) => assert!(
                what.contains(&format!(
                    "segment 0 of operator `count` subtask 0 is in file `{file}`"
                )),
                "{what}"
            ),
            other => panic!("{file}: {other:?}"),
        }
    }
    let savepoint = said_of(&|it| it.kind = Kind::Savepoint);
    assert!(
        matches!(&savepoint, Err(Error::Corrupt { what, .. }) if what.contains("a savepoint has all")),
        "{savepoint:?}"
    );
}

#[test]
fn c146_contradictions_are_refused() {
    fn operator(it: &mut Metadata) -> &mut Operator {
        &mut it.operators[0]
    }
    fn segments(it: &mut Metadata) -> &mut Vec<Segment> {
        &mut it.operators[0].subtasks[0].segments
    }
    type Change = fn(&mut Metadata);
    let cases: [(Change, &str); 32] = [
        (
            |it| it.id = 1 << 63,
            "its number 9223372036854775808 is too large",
        ),
        (
            |it| it.previous = Some(8),
            "says that number 8 comes before it",
        ),
        (
            |it| it.previous = Some(9),
            "says that number 9 comes before it",
        ),
        (|it| it.id = 6, "says that number 7 comes before it"),
        (
            |it| it.triggered_at = -1,
            "cannot have been triggered at -1 ms",
        ),
        (
            |it| it.triggered_at = i64::MAX,
            "cannot have been triggered at",
        ),
        (
            |it| it.duration_ms = u64::MAX,
            "have taken 18446744073709551615 ms",
        ),
        (|it| it.key_groups = 0, "claims to have 0 key groups"),
        (
            |it| it.key_groups = 1 << 16,
            "claims to have 65536 key groups",
        ),
        (
            |it| it.key_groups = 1,
            "has parallelism 2, more than 1 key groups",
        ),
        (
            |it| operator(it).parallelism = 0,
            "parallelism 0, but 2 subtasks",
        ),
        (
            |it| operator(it).parallelism = 1,
            "parallelism 1, but 2 subtasks",
        ),
        (
            |it| operator(it).parallelism = u32::MAX,
            "parallelism 4294967295, but 2",
        ),
        (
            |it| drop(operator(it).subtasks.pop()),
            "parallelism 2, but 1 subtasks",
        ),
        (
            |it| operator(it).subtasks.clear(),
            "parallelism 2, but 0 subtasks",
        ),
        (
            |it| operator(it).subtasks.push(Subtask::default()),
            "parallelism 2, but 3 subtasks",
        ),
        (
            |it| {
                let copy = operator(it).clone();
                it.operators.push(copy);
            },
            "it has operator `count` twice",
        ),
        (
            |it| operator(it).role = Role::Sink,
            "`count` has keyed state, but is no operator",
        ),
        (
            |it| {
                let copy = operator(it).states[0].clone();
                operator(it).states.push(copy);
            },
            "has state `count` twice",
        ),
        (
            |it| operator(it).states[0].kind = "queue".into(),
            "has the unknown kind `queue`",
        ),
        (
            |it| operator(it).states.clear(),
            "has segments, but no states",
        ),
        (
            |it| operator(it).states[0].entries = u64::MAX,
            "more entries than can be",
        ),
        (
            |it| operator(it).states[0].bytes = 1 << 63,
            "more bytes of state than can be",
        ),
        (
            |it| operator(it).subtasks[0].ended_inputs = vec![0, 1, 0],
            "lists ended inputs that it does not have",
        ),
        (
            |it| segments(it).swap(0, 1),
            "is not a delta, but has others before it",
        ),
        (
            |it| segments(it)[1].written_by = 9,
            "written by checkpoint 9, after this one",
        ),
        (
            |it| segments(it)[1].written_by = 7,
            "written by checkpoint 7, the one before it by 7",
        ),
        (|it| segments(it)[1].length = 0, "has no bytes"),
        (
            |it| {
                let again = Segment {
                    written_by: 8,
                    ..segments(it)[0].clone()
                };
                segments(it)[1] = Segment {
                    delta: true,
                    ..again
                };
            },
            "is in file `../shared/r1-c7-0.state`, but was written by checkpoint 8",
        ),
        (
            |it| {
                it.operators[0].subtasks[1].segments = it.operators[0].subtasks[0].segments.clone()
            },
            "two segments have bytes 0..6 inline",
        ),
        (
            |it| it.operators[0].subtasks[1].segments[0].offset = 5,
            "two segments have bytes 5..6 inline",
        ),
        (
            |it| {
                let mut other = segments(it)[0].clone();
                other.offset = 104;
                it.operators[0].subtasks[1].segments = vec![other];
            },
            "two segments have bytes 104..105 of `../shared/r1-c7-0.state`",
        ),
    ];
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        match said_of(&change) {
            Err(Error::Corrupt { what, .. }) => {
                assert!(what.contains(expected), "{what} is not `{expected}`");
            }
            other => panic!("case {number}, {expected}: {other:?}"),
        }
    }
}

#[test]
fn c146_an_unknown_key_hash_is_of_another_version() {
    match said_of(&|it| it.key_hash = "murmur3-32".to_owned()) {
        Err(Error::Incompatible(what)) => assert_eq!(
            what,
            "x/_metadata deals keys by `murmur3-32`, this version by `xxh3-64`"
        ),
        other => panic!("{other:?}"),
    }
}

fn any_segment(delta: bool) -> impl Strategy<Value = Segment> {
    (any::<u32>(), any::<u32>(), any::<u32>(), 0..3_u8).prop_map(
        move |(length, raw, crc32c, codec)| Segment {
            file: None,
            offset: 0,
            length: u64::from(length) + 1,
            crc32c,
            compressed: [None, Some(Codec::Lz4), Some(Codec::Zstd)][usize::from(codec)].map(
                |codec| Compressed {
                    codec,
                    raw_length: raw.into(),
                },
            ),
            written_by: 0,
            delta,
        },
    )
}

fn any_subtask() -> impl Strategy<Value = Subtask> {
    let segments = option::of((any_segment(false), vec(any_segment(true), 0..3)));
    (
        segments,
        vec(any::<i64>(), 0..3),
        prop::collection::btree_set(any::<u32>(), 0..3),
        any::<Option<i64>>(),
    )
        .prop_map(|(segments, parts, ended_inputs, watermark)| Subtask {
            event_time: watermark.filter(|time| time % 2 == 0),
            operator_state: None,
            segments: segments
                .map(|(full, deltas)| std::iter::once(full).chain(deltas).collect())
                .unwrap_or_default(),
            parts: parts
                .into_iter()
                .map(|part| serde_json::json!({"at": part}))
                .collect(),
            ended_inputs: ended_inputs.into_iter().collect(),
            watermark,
        })
}

prop_compose! {
    /// Any that could be written.
    fn any_metadata()(
        (job_name, id, previous, triggered_at) in (".*", 10..1_u64 << 63, option::of(0..9_u64), 0..1_i64 << 40),
        operators in vec((".*", vec(any_subtask(), 1..4), prop::collection::btree_map(".*", (".*", any::<u32>()), 1..3)), 0..4),
    ) -> Metadata {
        let (mut metadata, _) = sample();
        metadata.job_name = job_name;
        metadata.id = id;
        metadata.previous = previous;
        metadata.triggered_at = triggered_at;
        metadata.operators = (0..)
            .zip(operators)
            .map(|(number, (id, subtasks, states)): (u32, _)| Operator {
                id: format!("{number} {id}"),
                role: Role::Operator,
                parallelism: u32::try_from(subtasks.len()).unwrap(),
                labels: BTreeMap::new(),
                operator_states: Vec::new(),
                states: states
                    .into_iter()
                    .map(|(name, (schema, bytes))| State {
                        name,
                        kind: "map".to_owned(),
                        schema,
                        schema_version: 0,
                        ttl_ms: Some(bytes.into()),
                        ttl_refresh: Some(TtlRefresh::Read),
                        ttl_time: Some(TtlTime::Event),
                        entries: u64::from(bytes) / 2,
                        bytes: bytes.into(),
                    })
                    .collect(),
                subtasks,
            })
            .collect();
        // Each in a file of its own, and each of a chain by a later checkpoint.
        let mut file = 0;
        let subtasks = metadata.operators.iter_mut().flat_map(|it| &mut it.subtasks);
        for subtask in subtasks {
            for (written_by, segment) in (id - 3..).zip(&mut subtask.segments) {
                segment.written_by = written_by.min(id);
                segment.file = Some(format!("../shared/r1-c{written_by}-{file}.state"));
                file += 1;
            }
        }
        metadata
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_metadata_survives_the_round_trip(
        metadata in any_metadata(),
        inline in vec(vec(any::<u8>(), 0..50), 0..4),
    ) {
        let inline: Vec<Bytes> = inline.into_iter().map(Bytes::from).collect();
        let (bytes, kept) = encode(&metadata, &inline, "_metadata").unwrap();
        prop_assert_eq!(&kept, &Bytes::from(inline.concat()));
        let (decoded, decoded_inline) = decode(&bytes, "_metadata").unwrap();
        prop_assert_eq!(decoded, metadata);
        prop_assert_eq!(decoded_inline, kept);
    }

    /// Half of them with a right checksum, so that what comes after it is reached.
    #[test]
    fn arbitrary_bytes_never_panic(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        tail in vec(any::<u8>(), 0..20),
        is_sealed: bool,
    ) {
        let (metadata, inline) = sample();
        let right = encode(&metadata, &inline, "_metadata").unwrap().0;
        let mut bytes = right[..right.len() - CHECKSUM_BYTES].to_vec();
        // Of the lengths nothing is changed where all is sealed: they have their own tests, and nothing would pass.
        let from = if is_sealed { BODY_AT } else { 0 };
        for (at, byte) in &changes {
            let at = from + at.index(bytes.len() - from);
            bytes[at] = *byte;
        }
        if is_sealed {
            bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        } else {
            bytes.extend_from_slice(&tail);
        }
        match decode(&bytes.into(), "_metadata") {
            Ok((decoded, inline)) => {
                // What is believed is the same after it is written again.
                let (again, _) = encode(&decoded, &[inline], "_metadata").unwrap();
                prop_assert_eq!(decode(&again, "_metadata").unwrap().0, decoded);
            }
            Err(Error::Corrupt { what, .. }) => {
                let checksum_failed = what.ends_with("do not match their checksum");
                prop_assert!(!(is_sealed && checksum_failed), "the checksum is passed: {what}");
            }
            Err(Error::Incompatible(_)) => {}
            Err(other) => prop_assert!(false, "neither corrupt nor incompatible: {other}"),
        }
    }

    #[test]
    fn c146_a_body_changed_anywhere_is_refused_or_says_nothing_impossible(
        changes in hostile::changes(),
    ) {
        let (metadata, inline) = sample();
        let mut body = serde_json::to_value(&metadata).unwrap();
        hostile::change(&mut body, changes);
        let bytes = hostile::encode(FORMAT_VERSION, &body, &inline.concat());
        if let Ok((decoded, inline)) = decode(&bytes, "_metadata") {
            // What is believed could have been written.
            prop_assert!(encode(&decoded, &[inline], "_metadata").is_ok());
            for operator in &decoded.operators {
                prop_assert_eq!(operator.parallelism as usize, operator.subtasks.len());
                for segment in operator.subtasks.iter().flat_map(|it| &it.segments) {
                    let file = segment.file.as_deref();
                    prop_assert!(file.is_none_or(|it| crate::names::resolve("jobs/job/chk-8", it).is_ok()));
                }
            }
        }
    }
}
