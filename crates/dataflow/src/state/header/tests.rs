use proptest::prelude::*;

use super::super::codec::BlockWriter;
use super::super::{KeyedState, StateDescriptor};
use super::*;

const STATES: [(&str, StateKind); 3] = [
    ("value", StateKind::Value),
    ("map", StateKind::Map),
    ("list", StateKind::List),
];

fn groups() -> KeyGroups {
    KeyGroups::new(8).unwrap()
}

fn empty(subtask: u32, parallelism: u32) -> KeyedState {
    let descriptor = |(name, kind): &(&str, StateKind)| StateDescriptor {
        name: (*name).into(),
        kind: *kind,
        schema: "bytes".into(),
        schema_version: 1,
        ttl: None,
    };
    let descriptors = STATES.iter().map(descriptor).collect();
    KeyedState::new(
        descriptors,
        groups().range_of(subtask, parallelism),
        groups(),
    )
}

fn keys_of(subtask: u32, parallelism: u32) -> impl Iterator<Item = Vec<u8>> {
    let range = groups().range_of(subtask, parallelism);
    (0..400_u32)
        .map(|number| number.to_be_bytes().to_vec())
        .filter(move |key| range.contains(groups().group_of(key::hash(key))))
}

/// What subtask 0 of 2 has at checkpoint 3, and what changed until checkpoint 5.
fn segments() -> [Vec<u8>; 2] {
    let mut state = empty(0, 2);
    for key in keys_of(0, 2) {
        state.put(0, &key, b"value").unwrap();
        state.commit();
    }
    let full = written(&mut state, 3, None);
    state.checkpoint_complete(CheckpointId(3));
    for key in keys_of(0, 2).step_by(3) {
        state.delete(0, &key).unwrap();
        state.commit();
    }
    for key in keys_of(0, 2).skip(1).step_by(3) {
        state.put(0, &key, b"other").unwrap();
        state.commit();
    }
    [full, written(&mut state, 5, Some(3))]
}

fn written(state: &mut KeyedState, id: u64, base: Option<u64>) -> Vec<u8> {
    let mut segment = Vec::new();
    let sealed = state.snapshot(CheckpointId(id), base.map(CheckpointId));
    sealed.write(&mut segment).unwrap();
    segment
}

fn origins() -> [Origin; 2] {
    let full = Origin {
        checkpoint: CheckpointId(3),
        after: None,
        delta: false,
        key_groups: groups(),
        range: groups().range_of(0, 2),
        states: STATES
            .iter()
            .map(|(name, kind)| OriginState {
                name: (*name).to_owned(),
                kind: *kind,
                expires_by: None,
            })
            .collect(),
        bytes: 1 << 20,
        taken: Times::default(),
    };
    let delta = Origin {
        checkpoint: CheckpointId(5),
        after: Some(CheckpointId(3)),
        delta: true,
        ..full.clone()
    };
    [full, delta]
}

/// What is wrong with a segment: found alike by who looks and by who restores.
fn what(segment: &[u8], origin: &Origin) -> Option<String> {
    let mut restored = empty(0, 2);
    let results = [
        check_segment(&mut &*segment, origin),
        restored.restore_as(&mut &*segment, origin).map(drop),
    ];
    let [checked, restored] = results.map(|result| match result {
        Ok(()) => None,
        Err(RestoreError::Corrupt { what, .. }) => Some(what),
        Err(other) => panic!("expected damage, got {other}"),
    });
    assert_eq!(checked, restored);
    checked
}

#[test]
fn a_segment_that_is_what_it_is_said_to_be_is_good() {
    for (segment, origin) in segments().iter().zip(&origins()) {
        assert_eq!(what(segment, origin), None);
    }
    // An empty delta of checkpoint 4 is not stored, so one on 4 may come right after 3.
    let [full, mut delta] = origins();
    delta.after = Some(CheckpointId(2));
    assert_eq!(what(&segments()[1], &delta), None);
    assert_eq!(what(&segments()[0], &full), None);
}

#[test]
fn c146_a_segment_that_says_something_else_of_itself_is_refused() {
    type Change = fn(&mut Origin);
    let cases: [(usize, Change, &str); 12] = [
        (0, |it| it.checkpoint.0 = 4, "written by checkpoint 3, not"),
        (1, |it| it.checkpoint.0 = 6, "written by checkpoint 5, not"),
        (0, |it| it.delta = true, "is full, where a delta one"),
        (1, |it| it.delta = false, "is a delta, where a full one"),
        (
            1,
            |it| it.after = Some(CheckpointId(4)),
            "does not build on what comes before it, but on 3",
        ),
        (
            0,
            |it| it.range = groups().range_of(1, 2),
            "has key groups 0..4, those of its subtask are 4..8",
        ),
        (
            0,
            |it| it.range = groups().range_of(0, 1),
            "has key groups 0..4, those of its subtask are 0..8",
        ),
        (
            0,
            |it| it.range = groups().range_of(0, 3),
            "has key groups 0..4, those of its subtask are 0..3",
        ),
        (
            0,
            |it| it.key_groups = KeyGroups::new(16).unwrap(),
            "has 8 key groups, 16 are expected",
        ),
        (
            0,
            |it| drop(it.states.remove(1)),
            "the metadata has no state `map`",
        ),
        (
            0,
            |it| it.states[1].kind = StateKind::List,
            "state `map` is a Map state in the segment and a List state in the metadata",
        ),
        (
            0,
            |it| it.states[0].name = "other".into(),
            "the metadata has no state `value`",
        ),
    ];
    for (index, change, expected) in cases {
        let mut origin = origins()[index].clone();
        change(&mut origin);
        let found = what(&segments()[index], &origin);
        assert!(
            found.as_ref().is_some_and(|it| it.contains(expected)),
            "{found:?} is not `{expected}`"
        );
    }
}

/// A segment with this header and blocks of these entries.
fn made(header: &[u8], blocks: &[(BlockKind, u32, Vec<&[u8]>)]) -> Vec<u8> {
    let mut segment = Vec::new();
    let mut writer = BlockWriter::new(&mut segment).unwrap();
    writer.block(BlockKind::Header, header).unwrap();
    for (kind, state, strings) in blocks {
        let len = strings.iter().map(|it| codec::string_len(it)).sum();
        writer.entry(*kind, *state, len).unwrap();
        for string in strings {
            writer.string(string).unwrap();
        }
    }
    writer.finish().unwrap();
    segment
}

/// The header of a segment.
fn header_of(segment: &[u8]) -> Vec<u8> {
    let mut bytes = segment;
    let mut reader = BlockReader::new(&mut bytes).unwrap();
    reader.next().unwrap();
    reader.rest().0.to_vec()
}

#[test]
fn c146_entries_that_cannot_be_in_a_segment_are_found_and_not_dropped() {
    let [full, delta] = segments().map(|segment| header_of(&segment));
    let own: Vec<Vec<u8>> = keys_of(0, 2).take(2).collect();
    let foreign = keys_of(1, 2).next().unwrap();
    let (a, b) = (own[0].as_slice(), own[1].as_slice());
    use BlockKind::{MapEntries, RemovedFields, RemovedKeys, Values};
    type Blocks<'a> = Vec<(BlockKind, u32, Vec<&'a [u8]>)>;
    let cases: [(&[u8], Blocks<'_>, Option<&str>); 12] = [
        (
            &full,
            vec![(Values, 0, vec![a, b"1"]), (Values, 0, vec![b, b"1"])],
            None,
        ),
        (
            &delta,
            vec![(RemovedKeys, 0, vec![a]), (Values, 0, vec![b, b"1"])],
            None,
        ),
        (
            &full,
            vec![(Values, 0, vec![&foreign, b"1"])],
            Some("a key of key group"),
        ),
        (
            &delta,
            vec![(Values, 0, vec![&foreign, b"1"])],
            Some("a key of key group"),
        ),
        (
            &delta,
            vec![(RemovedKeys, 0, vec![&foreign])],
            Some("a key of key group"),
        ),
        (
            &full,
            vec![(Values, 0, vec![a, b"1"]), (Values, 0, vec![a, b"1"])],
            Some("a key comes twice"),
        ),
        (
            &full,
            vec![
                (MapEntries, 1, vec![a, b"f", b"1"]),
                (MapEntries, 1, vec![a, b"f", b"2"]),
            ],
            Some("a field of a key's map comes twice"),
        ),
        (
            &full,
            vec![(RemovedKeys, 0, vec![a])],
            Some("a full segment removes"),
        ),
        (
            &delta,
            vec![(Values, 0, vec![b, b"1"]), (RemovedKeys, 0, vec![a])],
            Some("removals after its entries"),
        ),
        (
            &delta,
            vec![
                (MapEntries, 1, vec![b, b"f", b"1"]),
                (RemovedFields, 1, vec![a, b"f"]),
            ],
            Some("removals after its entries"),
        ),
        (
            &full,
            vec![(Values, 1, vec![a, b"1"])],
            Some("of another kind than its state"),
        ),
        (
            &full,
            vec![(Values, 3, vec![a, b"1"])],
            Some("a state that the header does not have"),
        ),
    ];
    for (number, (header, blocks, expected)) in cases.into_iter().enumerate() {
        let origin = &origins()[usize::from(header == delta)];
        let found = what(&made(header, &blocks), origin);
        let fits = match (&found, expected) {
            (Some(found), Some(expected)) => found.contains(expected),
            (found, expected) => found.is_none() && expected.is_none(),
        };
        assert!(fits, "case {number}: {found:?} is not {expected:?}");
    }
}

#[test]
fn c146_state_of_the_wrong_key_groups_is_found_whatever_the_parallelism_is_now() {
    let header = header_of(&segments()[0]);
    let foreign = keys_of(1, 2).next().unwrap();
    let segment = made(&header, &[(BlockKind::Values, 0, vec![&foreign, b"1"])]);
    for (subtask, parallelism) in [(0, 1), (0, 2), (1, 2), (0, 3), (2, 3), (7, 8)] {
        let mut state = empty(subtask, parallelism);
        let restored = state.restore_as(&mut segment.as_slice(), &origins()[0]);
        assert!(
            matches!(restored, Err(RestoreError::Corrupt { .. })),
            "subtask {subtask} of {parallelism}: {restored:?}"
        );
    }
}

#[test]
fn the_segment_in_the_format_document_is_what_is_written() {
    let document = include_str!("../../../../../docs/checkpoint-format.md");
    let (_, section) = document
        .split_once("## A checkpoint, byte by byte")
        .unwrap();
    let dump = section.split("```").nth(1).unwrap();
    // Offset, bytes, remark, two spaces between them. Before the segment there are a line with how long
    // it is and those of the body, after it a checksum.
    let (_, dump) = dump
        .split_once("length of the inline bytes: 133\n")
        .unwrap();
    let bytes = dump.lines().filter_map(|line| line.split("  ").nth(1));
    let digits: String = bytes.collect::<String>().replace(' ', "");
    let digits = &digits[..2 * 133];
    let descriptor = StateDescriptor {
        name: "count".into(),
        kind: StateKind::Value,
        schema: "u64".into(),
        schema_version: 1,
        ttl: None,
    };
    let groups = KeyGroups::new(128).unwrap();
    let mut state = KeyedState::new(vec![descriptor], groups.range_of(0, 1), groups);
    state.put(0, b"to", &2_u64.to_le_bytes()).unwrap();
    state.put(0, b"be", &1_u64.to_le_bytes()).unwrap();
    state.commit();
    let segment = written(&mut state, 1, None);
    let expected: String = segment.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digits, expected);
}

#[test]
fn keys_with_one_hash_are_not_taken_for_one() {
    use BlockKind::{MapEntries, Values};
    let mut seen = Seen::new();
    let block = |kind, state| Block {
        kind,
        state,
        count: 1,
    };
    assert!(seen.begin(block(Values, 0)).is_none());
    seen.push(7, (b"a", b""));
    seen.push(7, (b"b", b""));
    assert!(seen.twice().is_none());
    seen.push(7, (b"a", b""));
    assert_eq!(seen.begin(block(MapEntries, 1)), Some(KEY_TWICE));
    seen.push(7, (b"a", b"f"));
    seen.push(7, (b"a", b"g"));
    assert!(seen.twice().is_none());
    seen.push(7, (b"a", b"f"));
    assert_eq!(seen.begin(block(Values, 1)), Some(FIELD_TWICE));
    // Of too many it is not known, so nothing is said.
    for number in 0..=REMEMBERED_MAX {
        seen.push(number as u64, (b"a", b""));
    }
    seen.push(1, (b"a", b""));
    assert!(seen.twice().is_none());
}

#[test]
fn headers_that_cannot_be_are_refused() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str); 7] = [
        (|it| it[0] = 2, "there is no form 2"),
        (
            |it| it[17..21].copy_from_slice(&[0; 4]),
            "have 0 key groups",
        ),
        (
            |it| it[17..21].copy_from_slice(&[255; 4]),
            "have 4294967295 key groups",
        ),
        (|it| it[21] = 4, "have key groups 4..4 of 8"),
        (|it| it[25] = 9, "have key groups 0..9 of 8"),
        (|it| it[30] = b'y', "deals keys by `yxh3-64`"),
        (|it| it.push(0), "bytes follow the header"),
    ];
    for (change, expected) in cases {
        let mut header = header_of(&segments()[0]);
        change(&mut header);
        let found = what(&made(&header, &[]), &origins()[0]).unwrap();
        assert!(found.contains(expected), "{found}");
    }
    let mut twice = header_of(&segments()[0]);
    let at = twice.len() - "list".len() - 2;
    twice[at..at + 4].copy_from_slice(b"list");
    let name = twice.windows(4).position(|it| it == b"\x03map").unwrap();
    twice.splice(name..name + 4, *b"\x04list");
    let found = what(&made(&twice, &[]), &origins()[0]).unwrap();
    assert!(found.contains("has state `list` twice"), "{found}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// With right checksums, so that it is the content that is judged.
    #[test]
    fn c146_what_is_called_good_is_restored_whatever_a_block_holds(
        mut payload in prop::collection::vec(any::<u8>(), 0..60),
        kind in 1_u8..8,
        state in 0_u32..4,
        count in 0_u32..4,
        delta: bool,
        of_ours: bool,
    ) {
        let header = header_of(&segments()[usize::from(delta)]);
        if of_ours && payload.len() > 5 {
            // So that it comes further than to the length of a key.
            let key = keys_of(0, 2).nth(payload[0] as usize % 50).unwrap();
            payload[0] = 4;
            payload[1..5].copy_from_slice(&key);
        }
        let mut segment = Vec::new();
        let mut writer = BlockWriter::new(&mut segment).unwrap();
        writer.block(BlockKind::Header, &header).unwrap();
        let kinds = [
            BlockKind::Header, BlockKind::Values, BlockKind::MapEntries, BlockKind::ListElements,
            BlockKind::RemovedKeys, BlockKind::RemovedFields, BlockKind::Continuation,
        ];
        let mut block = state.to_le_bytes().to_vec();
        block.extend(count.to_le_bytes());
        block.extend(&payload);
        writer.block(kinds[usize::from(kind) - 1], &block).unwrap();
        writer.finish().unwrap();
        // The writer has counted no entries; a forger would.
        let end = segment.len() - 16;
        segment[end..end + 8].copy_from_slice(&u64::from(count).to_le_bytes());
        let checksum = {
            let number = 2_u32.to_le_bytes();
            crc32c::crc32c_append(crc32c::crc32c(&number), &segment[end - 1..])
        };
        segment[end - 5..end - 1].copy_from_slice(&checksum.to_le_bytes());
        what(&segment, &origins()[usize::from(delta)]);
    }
}
