use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::metadata::{Codec, Compressed, Kind, Operator, Role, Segment, State, Subtask};

fn sample() -> (Metadata, Vec<Bytes>) {
    let inline = vec![Bytes::from_static(b"inline"), Bytes::from_static(b"bytes")];
    let segment = |file: Option<&str>, offset, length, delta| Segment {
        file: file.map(str::to_owned),
        offset,
        length,
        crc32c: 0xdead_beef,
        compressed: None,
        written_by: 7,
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
        triggered_at: 1_700_000_000_000,
        duration_ms: 31,
        key_groups: 128,
        key_hash: "xxh3-64".to_owned(),
        operators: vec![Operator {
            id: "count".to_owned(),
            role: Role::Operator,
            parallelism: 2,
            labels: BTreeMap::from([("component".to_owned(), "sha256:0".to_owned())]),
            states: vec![State {
                name: "count".to_owned(),
                kind: "value".to_owned(),
                schema: "u64".to_owned(),
                schema_version: 1,
                ttl_ms: None,
                entries: 3,
                bytes: 44,
            }],
            subtasks: vec![
                Subtask {
                    segments: vec![
                        segment(Some("../shared/r1-c7-0.state"), 5, 100, false),
                        segment(None, 0, 6, true),
                    ],
                    parts: vec![serde_json::json!({"file": "a.txt", "line": 12})],
                    ended_inputs: vec![0],
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
fn only_what_is_compressed_needs_the_newer_version() {
    let (metadata, inline) = sample();
    let (bytes, _) = encode(&metadata, &inline, "_metadata").unwrap();
    assert_eq!(number_at(&bytes, VERSION_AT, 4), Some(1));
    assert!(!String::from_utf8_lossy(&bytes).contains("compressed"));
    let (metadata, inline) = compressed();
    let (bytes, _) = encode(&metadata, &inline, "_metadata").unwrap();
    assert_eq!(number_at(&bytes, VERSION_AT, 4), Some(2));
    assert_eq!(decode(&bytes, "_metadata").unwrap().0, metadata);
}

#[test]
fn what_is_compressed_is_refused_where_it_cannot_be() {
    let (metadata, inline) = compressed();
    assert_eq!(
        what(&forged(&metadata, &inline, 1)),
        "format version 1 has no compressed segments"
    );
    let (mut metadata, inline) = compressed();
    let segments = &mut metadata.operators[0].subtasks[0].segments;
    segments[1].compressed = segments[0].compressed;
    let (bytes, _) = encode(&metadata, &inline, "_metadata").unwrap();
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
                    "x/_metadata was written in format version {version}, this program reads versions up to 2"
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
    let (bytes, _) = encode(&metadata, &inline, "_metadata").unwrap();
    assert!(what(&bytes).ends_with("is not a delta, but has others before it"));
}

#[test]
fn segments_that_cannot_be_read_are_refused() {
    let check = |change: &dyn Fn(&mut Segment)| {
        let (mut metadata, inline) = sample();
        change(&mut metadata.operators[0].subtasks[1].segments[0]);
        let (bytes, _) = encode(&metadata, &inline, "_metadata").unwrap();
        what(&bytes)
    };
    assert!(check(&|segment| segment.length = 6).contains("ends at inline byte 12, there are 11"));
    assert!(check(&|segment| segment.offset = u64::MAX).contains("has no end"));
    assert!(
        check(&|segment| segment.file = Some("../../../etc/passwd".to_owned()))
            .contains("leads out of the checkpoint directory")
    );
}

fn any_segment(delta: bool) -> impl Strategy<Value = Segment> {
    (any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>()).prop_map(
        move |(offset, length, crc32c, written_by)| Segment {
            file: Some(format!("../shared/r1-c{written_by}-0.state")),
            offset: offset.into(),
            length: length.into(),
            crc32c,
            compressed: (written_by % 3 > 0).then_some(Compressed {
                codec: match written_by % 3 {
                    1 => Codec::Lz4,
                    _ => Codec::Zstd,
                },
                raw_length: written_by,
            }),
            written_by,
            delta,
        },
    )
}

fn any_subtask() -> impl Strategy<Value = Subtask> {
    let segments = option::of((any_segment(false), vec(any_segment(true), 0..3)));
    (
        segments,
        vec(any::<i64>(), 0..3),
        vec(any::<u32>(), 0..3),
        any::<Option<i64>>(),
    )
        .prop_map(|(segments, parts, ended_inputs, watermark)| Subtask {
            segments: segments
                .map(|(full, deltas)| std::iter::once(full).chain(deltas).collect())
                .unwrap_or_default(),
            parts: parts
                .into_iter()
                .map(|part| serde_json::json!({"at": part}))
                .collect(),
            ended_inputs,
            watermark,
        })
}

prop_compose! {
    fn any_metadata()(
        (job_name, id, previous, triggered_at) in (".*", any::<u64>(), any::<Option<u64>>(), any::<i64>()),
        operators in vec((".*", vec(any_subtask(), 0..4), vec((".*", ".*", any::<u64>()), 0..3)), 0..4),
    ) -> Metadata {
        let (mut metadata, _) = sample();
        metadata.job_name = job_name;
        metadata.id = id;
        metadata.previous = previous;
        metadata.triggered_at = triggered_at;
        metadata.operators = operators
            .into_iter()
            .map(|(id, subtasks, states)| Operator {
                id,
                role: Role::Source,
                parallelism: 4,
                labels: BTreeMap::new(),
                states: states
                    .into_iter()
                    .map(|(name, schema, bytes)| State {
                        name,
                        kind: "map".to_owned(),
                        schema,
                        schema_version: 0,
                        ttl_ms: Some(bytes),
                        entries: bytes / 2,
                        bytes,
                    })
                    .collect(),
                subtasks,
            })
            .collect();
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

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), magic: bool, version: bool) {
        let mut bytes = bytes;
        if magic && bytes.len() >= 12 {
            bytes[..8].copy_from_slice(&MAGIC);
            if version {
                bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
            }
        }
        prop_assert!(decode(&bytes.into(), "_metadata").is_err());
    }
}
