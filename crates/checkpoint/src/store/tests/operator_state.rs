//! Operator state in a checkpoint: stored beside the segments, in full, and covered by all that covers them.

use std::collections::BTreeMap;
use std::fs;

use dataflow::CheckpointId;
use dataflow::cells::Cells;
use dataflow::operator_state::{Descriptor, OperatorState, Scope};

use crate::export::{Filter, export};
use crate::fixture::{metadata, tree};
use crate::metadata::{Compressed, Metadata, State};
use crate::store::Options;
use crate::verify::verify;
use crate::{CheckpointStore, Completed, Error};

const STATES: [(&str, Scope); 2] = [("split", Scope::Split), ("rules", Scope::Broadcast)];

fn cells(cells: &[&str]) -> Cells {
    let mut all = Cells::new();
    cells.iter().for_each(|cell| all.push(cell.as_bytes()));
    all
}

/// The state of a subtask with these elements, and the same rules as all.
fn state(elements: &[&str]) -> OperatorState {
    let descriptors = STATES.map(|(name, scope)| Descriptor {
        name: name.into(),
        scope,
        schema: "string".into(),
        schema_version: 1,
    });
    let mut state = OperatorState::new(descriptors.into(), 0);
    state.list_append(0, cells(elements).as_ref()).unwrap();
    let (fields, values) = (cells(&["a", "b"]), cells(&["x", "y"]));
    state
        .map_store(1, fields.as_ref(), values.as_ref())
        .unwrap();
    state.commit();
    state
}

/// Metadata of a checkpoint whose operator declares them.
fn declaring(id: u64, subtasks: u32) -> Metadata {
    let mut metadata = metadata(id, subtasks);
    metadata.operators[0].states.clear();
    let declared = |(name, scope): (&str, Scope)| State {
        name: name.into(),
        kind: scope.name().into(),
        schema: "string".into(),
        schema_version: 1,
        ttl_ms: None,
        ttl_refresh: None,
        ttl_time: None,
        entries: 99,
        bytes: 99,
    };
    metadata.operators[0].operator_states = STATES.map(declared).into();
    metadata
}

/// Takes a checkpoint of two subtasks.
fn take(store: &CheckpointStore, id: u64, elements: [&[&str]; 2]) -> Result<Completed, Error> {
    let pending = store.begin(CheckpointId(id))?;
    let metadata = declaring(id, 2);
    let operator = metadata.operators[0].id.clone();
    let mut written = Vec::new();
    for (subtask, elements) in (0..).zip(elements) {
        let sealed = state(elements).seal();
        let of = (subtask, 2);
        written.push((
            0,
            subtask,
            pending.write_operator_state(&operator, of, &sealed)?,
        ));
    }
    pending.complete(metadata, written)
}

fn options(inline_threshold: u64) -> Options {
    Options {
        inline_threshold,
        retained: 1,
        // Otherwise the data of the one before is held for deltas.
        incremental: false,
        ..Options::default()
    }
}

#[test]
fn c73_operator_state_is_stored_in_full_and_read_back_wherever_it_is() {
    for (inline_threshold, files) in [(1 << 20, 0), (0, 1)] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_str().unwrap();
        let store = CheckpointStore::open(root, "job", options(inline_threshold)).unwrap();
        take(&store, 1, [&["one"], &[]]).unwrap();
        let taken = take(&store, 2, [&["one", "two"], &["three"]]).unwrap();
        store.wait_for_cleaning();
        let kept = tree(directory.path());
        let data = kept.iter().filter(|path| path.ends_with(".state"));
        assert_eq!(
            data.count(),
            files,
            "those of the newest, no others: {kept:?}"
        );
        // As somebody else finds it.
        let opened = Completed::open(
            std::sync::Arc::clone(&taken.contents().storage),
            &taken.contents().directory,
        )
        .unwrap();
        let operator = &opened.metadata().operators[0];
        let amounts: BTreeMap<&str, (u64, u64)> = operator
            .operator_states
            .iter()
            .map(|state| (state.name.as_str(), (state.entries, state.bytes)))
            .collect();
        assert_eq!(
            amounts,
            BTreeMap::from([("split", (3, 11)), ("rules", (4, 8))])
        );
        let pieces = opened.operator_state(operator).unwrap().unwrap();
        let entries: Vec<(u32, &[u8])> = pieces
            .entries("split")
            .map(|(subtask, _, value)| (subtask, value))
            .collect();
        assert_eq!(entries, [(0, &b"one"[..]), (0, b"two"), (1, b"three")]);
        let report = verify(&opened);
        assert_eq!((report.segments, report.problems.len()), (2, 0));
        let mut lines = Vec::new();
        let all = export::<Error>(&opened, &Filter::default(), |entry| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            lines.push(format!(
                "{} {} {} {:?} {:?} {}",
                entry.state,
                entry.kind,
                text(entry.key),
                entry.field.map(text),
                entry.index,
                text(entry.value)
            ));
            Ok(())
        });
        assert_eq!(all.unwrap(), 7);
        assert_eq!(lines[0], "rules broadcast 0 Some(\"a\") None x");
        assert_eq!(
            lines[4..],
            [
                "split operator-split 0 None Some(0) one",
                "split operator-split 0 None Some(1) two",
                "split operator-split 1 None Some(0) three",
            ]
        );
    }
}

#[test]
fn c73_differences_of_operator_state_are_told_by_entry() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let kept = Options {
        retained: 2,
        ..options(1 << 20)
    };
    let store = CheckpointStore::open(root, "job", kept).unwrap();
    let one = take(&store, 1, [&["one", "two", "two"], &["three"]]).unwrap();
    let two = take(&store, 2, [&["two"], &["three", "four", "one"]]).unwrap();
    let diff = crate::diff::diff(&one, &two).unwrap();
    let states = &diff.operators[0].states;
    let of = |name: &str| states.iter().find(|state| state.name == name).unwrap();
    let split = of("split");
    assert_eq!((split.added, split.removed, split.changed), (1, 1, 0));
    let rules = of("rules");
    assert_eq!((rules.added, rules.removed, rules.changed), (0, 0, 0));
    assert_eq!(rules.before.keys, 2, "the copy of one subtask");
}

#[test]
fn c73_operator_state_that_was_damaged_or_swapped_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let store = CheckpointStore::open(root, "job", options(0)).unwrap();
    let taken = take(&store, 1, [&["one"], &["two"]]).unwrap();
    let file = tree(directory.path())
        .into_iter()
        .find(|path| path.ends_with(".state"))
        .unwrap();
    let path = directory.path().join(file);
    let good = fs::read(&path).unwrap();
    let problems = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let report = verify(&taken);
        report
            .problems
            .into_iter()
            .map(|it| it.what)
            .collect::<Vec<_>>()
    };
    assert!(problems(&good).is_empty());
    let mut bad = good.clone();
    bad[20] ^= 1;
    assert_eq!(problems(&bad).len(), 1);
    assert_eq!(problems(&good[..good.len() - 1]).len(), 1);
    fs::write(&path, &good).unwrap();
    // The subtasks' places are exchanged: each is whole, and another's.
    let mut swapped = taken.metadata().clone();
    let subtasks = &mut swapped.operators[0].subtasks;
    let first = subtasks[0].operator_state.take();
    subtasks[0].operator_state = subtasks[1].operator_state.take();
    subtasks[1].operator_state = first;
    let (bytes, _) = crate::metadata::encode(&swapped, &[], "x").unwrap();
    fs::write(directory.path().join("job/chk-1/_metadata"), &bytes).unwrap();
    let contents = taken.contents();
    let storage = std::sync::Arc::clone(&contents.storage);
    let opened = Completed::open(storage, &contents.directory).unwrap();
    let report = verify(&opened);
    assert_eq!(report.problems.len(), 2);
    let what = &report.problems[0].what;
    assert!(
        what.contains("it is that of subtask 1 of 2 in checkpoint 1"),
        "{what}"
    );
}

#[test]
fn c146_metadata_that_contradicts_itself_about_operator_state_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let store = CheckpointStore::open(root, "job", options(0)).unwrap();
    let taken = take(&store, 3, [&["one"], &["two"]]).unwrap();
    type Change = fn(&mut Metadata);
    let cases: [(Change, &str); 8] = [
        (
            |it| it.operators[0].operator_states.clear(),
            "is none that is declared",
        ),
        (
            |it| it.operators[0].operator_states[0].kind = "list".into(),
            "has the unknown scope `list`",
        ),
        (
            |it| it.operators[0].operator_states[1].name = "split".into(),
            "has state `split` twice",
        ),
        (
            |it| it.operators[0].operator_states[0].ttl_ms = Some(1),
            "has a TTL",
        ),
        (|it| stored(it).delta = true, "is a delta"),
        (
            |it| stored(it).written_by = 2,
            "was written by checkpoint 2, not by this one",
        ),
        (
            |it| stored(it).file = Some("../../../etc/passwd".into()),
            "is in file `../../../etc/passwd`",
        ),
        (
            |it| {
                stored(it).compressed = Some(Compressed {
                    codec: crate::metadata::Codec::Zstd,
                    raw_length: u64::MAX,
                });
            },
            "more than the 1073741824 that it may have",
        ),
    ];
    for (change, expected) in cases {
        let mut metadata = taken.metadata().clone();
        change(&mut metadata);
        let error = crate::metadata::encode(&metadata, &[], "x").unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    // Two that have the same bytes.
    let mut metadata = taken.metadata().clone();
    let first = metadata.operators[0].subtasks[0].operator_state.clone();
    metadata.operators[0].subtasks[1].operator_state = first;
    let error = crate::metadata::encode(&metadata, &[], "x").unwrap_err();
    assert!(
        error.to_string().contains("two segments have bytes"),
        "{error}"
    );
}

fn stored(metadata: &mut Metadata) -> &mut crate::metadata::Segment {
    let subtask = &mut metadata.operators[0].subtasks[0];
    subtask.operator_state.as_mut().expect("it has some")
}
