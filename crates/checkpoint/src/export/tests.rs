use std::collections::BTreeMap;
use std::sync::Arc;

use dataflow::CheckpointId;
use dataflow::key::{KeyGroupRange, KeyGroups, hash};
use dataflow::state::{KeyedState, StateDescriptor, StateKind};
use proptest::prelude::*;

use super::{Filter, export, load};
use crate::diff::{Amount, diff};
use crate::fixture::{OPERATOR, hostile, metadata};
use crate::storage::{MemoryStorage, Storage};
use crate::store::Options;
use crate::verify::verify;
use crate::{CheckpointStore, Completed, Error};

type Flat = Vec<(Vec<u8>, Vec<u8>)>;

/// The subtasks of an operator with one state.
struct Subtasks(Vec<KeyedState>);

impl Subtasks {
    fn new(parallelism: u32) -> Self {
        let groups = KeyGroups::new(128).unwrap();
        let descriptor = StateDescriptor {
            name: "count".into(),
            kind: StateKind::Value,
            schema: "u64".into(),
            schema_version: 1,
            ttl: None,
        };
        let subtasks = (0..parallelism).map(|subtask| {
            let range: KeyGroupRange = groups.range_of(subtask, parallelism);
            KeyedState::new(vec![descriptor.clone()], range, groups)
        });
        Self(subtasks.collect())
    }

    fn set(&mut self, key: u8, value: Option<u8>) {
        let groups = KeyGroups::new(128).unwrap();
        let parallelism = u32::try_from(self.0.len()).unwrap();
        let subtask = groups.subtask_of(groups.group_of(hash(&[key])), parallelism);
        let state = &mut self.0[subtask as usize];
        match value {
            Some(value) => state.put(0, &[key], &[value]).unwrap(),
            None => state.delete(0, &[key]).unwrap(),
        }
        state.commit();
    }

    /// A checkpoint, as deltas on `base`.
    fn take(&mut self, store: &CheckpointStore, id: u64, base: Option<u64>) -> Completed {
        let pending = store.begin(CheckpointId(id)).unwrap();
        let mut written = Vec::new();
        for (subtask, state) in (0..).zip(&mut self.0) {
            let sealed = state.snapshot(CheckpointId(id), base.map(CheckpointId));
            written.push((
                0,
                subtask,
                pending.write(OPERATOR, subtask, &sealed).unwrap(),
            ));
        }
        let metadata = metadata(id, u32::try_from(self.0.len()).unwrap());
        let completed = pending.complete(metadata, written).unwrap();
        for state in &mut self.0 {
            state.checkpoint_complete(CheckpointId(id));
        }
        completed
    }
}

fn flat(checkpoint: &Completed) -> Flat {
    let mut flat = Flat::new();
    let count = export(checkpoint, &Filter::default(), |entry| {
        assert_eq!(
            (entry.operator, entry.state, entry.kind),
            (OPERATOR, "count", "value")
        );
        flat.push((entry.key.to_vec(), entry.value.to_vec()));
        Ok::<(), Error>(())
    });
    assert_eq!(count.unwrap(), flat.len() as u64);
    flat
}

fn store() -> CheckpointStore {
    CheckpointStore::memory(Options {
        retained: 100,
        ..Options::default()
    })
}

/// The state files of a chain at parallelism 2, its metadata's body and inline bytes.
fn chain() -> (Arc<dyn Storage>, serde_json::Value, Vec<u8>) {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let options = Options {
        // The full ones in a file, the deltas inline.
        inline_threshold: 700,
        ..Options::default()
    };
    let store = CheckpointStore::with_storage(Arc::clone(&storage), "job", options).unwrap();
    let mut subtasks = Subtasks::new(2);
    let mut last = None;
    for id in 1..=3 {
        for key in 0..=if id == 1 { 255 } else { 20 } {
            subtasks.set(key, (key % 7 != 3).then_some(id as u8));
        }
        last = Some(subtasks.take(&store, id, id.checked_sub(1).filter(|base| *base > 0)));
    }
    let last = last.unwrap();
    let contents = last.contents();
    let body = serde_json::to_value(&contents.metadata).unwrap();
    let segments = last
        .segments()
        .map(|(_, _, segment)| segment.file.is_some());
    let segments: Vec<bool> = segments.collect();
    assert!(
        segments.contains(&true) && segments.contains(&false),
        "{segments:?}"
    );
    (storage, body, contents.inline.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn c47_a_full_and_an_incremental_checkpoint_of_one_state_are_exported_alike(
        rounds in prop::collection::vec(
            prop::collection::vec((any::<u8>(), prop::option::of(any::<u8>())), 0..40),
            1..8,
        ),
    ) {
        let (deltas, full, wide) = (store(), store(), store());
        let mut subtasks = [Subtasks::new(2), Subtasks::new(2), Subtasks::new(5)];
        let mut expected = BTreeMap::new();
        let mut before: Option<(Completed, BTreeMap<u8, u8>)> = None;
        for (id, round) in (1..).zip(rounds) {
            for (key, value) in round {
                subtasks.iter_mut().for_each(|subtasks| subtasks.set(key, value));
                match value {
                    Some(value) => expected.insert(key, value),
                    None => expected.remove(&key),
                };
            }
            let base = (id > 1).then(|| id - 1);
            let incremental = subtasks[0].take(&deltas, id, base);
            let entries = flat(&incremental);
            let sorted: BTreeMap<u8, u8> = entries.iter().map(|(k, v)| (k[0], v[0])).collect();
            prop_assert_eq!(&sorted, &expected);
            let others = [
                subtasks[1].take(&full, id, None),
                subtasks[2].take(&wide, id, None),
            ];
            for other in others {
                prop_assert_eq!(&flat(&other), &entries);
                let diff = diff(&incremental, &other).unwrap();
                let states = &diff.operators[0].states[0];
                prop_assert_eq!((states.added, states.removed, states.changed), (0, 0, 0));
            }
            if let Some((before, was)) = &before {
                let diff = diff(before, &incremental).unwrap();
                let state = &diff.operators[0].states[0];
                let amount = |map: &BTreeMap<u8, u8>| {
                    let keys = map.len() as u64;
                    Amount { keys, entries: keys, bytes: 2 * keys }
                };
                let count = |of: &BTreeMap<u8, u8>, test: &dyn Fn(&u8, &u8) -> bool| {
                    of.iter().filter(|(key, value)| test(key, value)).count() as u64
                };
                prop_assert_eq!((state.before, state.after), (amount(was), amount(&expected)));
                prop_assert_eq!(state.added, count(&expected, &|key, _| !was.contains_key(key)));
                prop_assert_eq!(state.removed, count(was, &|key, _| !expected.contains_key(key)));
                let changed = |key: &u8, value: &u8| was.get(key).is_some_and(|was| was != value);
                prop_assert_eq!(state.changed, count(&expected, &changed));
            }
            before = Some((incremental, expected.clone()));
        }
    }
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let store = store();
    let mut subtasks = Subtasks::new(1);
    subtasks.set(1, Some(2));
    let checkpoint = subtasks.take(&store, 1, None);
    for (operator, state, expected) in [
        (
            Some("x"),
            None,
            "no operator `x`, those with state are: `count`",
        ),
        (
            None,
            Some("y"),
            "no state `y` there, those it has are: `count`",
        ),
    ] {
        let filter = Filter {
            operator: operator.map(str::to_owned),
            state: state.map(str::to_owned),
        };
        let error = export(&checkpoint, &filter, |_| Ok::<(), Error>(())).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn c146_whatever_a_body_says_what_is_called_good_is_exported_and_restored(
        changes in hostile::changes(),
    ) {
        let (storage, mut body, inline) = chain();
        let whole = body.clone();
        hostile::change(&mut body, changes);
        let bytes = hostile::encode(2, &body, &inline);
        // Under a name that says nothing of its number.
        storage.put_new("job/changed/_metadata", vec![bytes]).unwrap();
        let Ok(opened) = Completed::open(Arc::clone(&storage), "job/changed") else {
            prop_assert!(body != whole);
            return Ok(());
        };
        let report = verify(&opened);
        let mut entries = 0;
        let exported = export(&opened, &Filter::default(), |_| {
            entries += 1;
            Ok::<(), Error>(())
        });
        prop_assert_eq!(report.is_good(), exported.is_ok(), "{:?} {:?}", report, exported);
        for operator in opened.metadata().operators.iter().filter(|_| report.is_good()) {
            let groups = opened.key_groups().unwrap();
            // As it is at another parallelism.
            for subtask in 0..3.min(groups.count()) {
                let range = groups.range_of(subtask, 3.min(groups.count()));
                prop_assert!(load(&opened, operator, range).is_ok());
            }
        }
    }
}
