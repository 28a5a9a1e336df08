//! Operator state against a model, and bytes that were made to deceive.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::element::CheckpointId;

const SPLIT: u32 = 3;
const UNION: u32 = 4;
const RULES: u32 = 5;

fn descriptors() -> Vec<Descriptor> {
    let descriptor = |(name, scope): (&str, Scope)| Descriptor {
        name: name.to_owned(),
        scope,
        schema: "bytes".to_owned(),
        schema_version: 1,
    };
    [
        ("split", Scope::Split),
        ("union", Scope::Union),
        ("rules", Scope::Broadcast),
    ]
    .map(descriptor)
    .to_vec()
}

fn empty() -> OperatorState {
    OperatorState::new(descriptors(), SPLIT)
}

fn cells(all: &[Vec<u8>]) -> Cells {
    let mut cells = Cells::new();
    all.iter().for_each(|cell| cells.push(cell));
    cells
}

fn list(state: &OperatorState, number: u32) -> Vec<Vec<u8>> {
    let mut elements = Cells::new();
    state.list_load(number, usize::MAX, &mut elements).unwrap();
    elements.iter().map(<[u8]>::to_vec).collect()
}

fn map(state: &OperatorState) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (mut fields, mut values) = (Cells::new(), Cells::new());
    let (mut from, mut exclusive) = (Vec::new(), false);
    while state
        .map_scan(
            RULES,
            (&from, exclusive),
            None,
            (2, usize::MAX),
            (&mut fields, &mut values),
        )
        .unwrap()
    {
        from = fields.iter().last().unwrap().to_vec();
        exclusive = true;
    }
    assert!(fields.iter().is_sorted());
    let pairs = fields.iter().zip(values.iter());
    pairs
        .map(|(field, value)| (field.to_vec(), value.to_vec()))
        .collect()
}

fn author(subtask: u32, parallelism: u32) -> Author {
    Author {
        checkpoint: CheckpointId(7),
        subtask,
        parallelism,
    }
}

/// What subtasks were in a checkpoint.
fn pieces(subtasks: &[OperatorState]) -> Pieces {
    let mut pieces = Pieces::default();
    for (state, index) in subtasks.iter().zip(0..) {
        let author = author(index, subtasks.len() as u32);
        pieces.push(&state.seal().encode(author), author).unwrap();
    }
    pieces
}

fn dealt(pieces: &Pieces, parallelism: u32) -> Vec<OperatorState> {
    let restored = |index| {
        let mut state = empty();
        state.restore(pieces, index, parallelism);
        state
    };
    (0..parallelism).map(restored).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Append(u32, Vec<Vec<u8>>),
    Replace(u32, Vec<Vec<u8>>),
    Store(Vec<(Vec<u8>, Vec<u8>)>),
    Remove(Vec<Vec<u8>>),
    Commit,
    Rollback,
    Seal,
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..6)
}

fn field() -> impl Strategy<Value = Vec<u8>> {
    (0..6_u8).prop_map(|field| vec![field])
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (SPLIT..RULES, vec(bytes(), 0..4)).prop_map(|(list, all)| Op::Append(list, all)),
        2 => (SPLIT..RULES, vec(bytes(), 0..4)).prop_map(|(list, all)| Op::Replace(list, all)),
        4 => vec((field(), bytes()), 0..5).prop_map(Op::Store),
        2 => vec(field(), 0..4).prop_map(Op::Remove),
        3 => Just(Op::Commit),
        2 => Just(Op::Rollback),
        1 => Just(Op::Seal),
    ]
}

/// What the state should be.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    lists: [Vec<Vec<u8>>; 2],
    rules: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Model {
    fn of(state: &OperatorState) -> Self {
        Self {
            lists: [list(state, SPLIT), list(state, UNION)],
            rules: map(state),
        }
    }

    fn amount(&self) -> u64 {
        let lists = self
            .lists
            .iter()
            .flatten()
            .map(|it| it.len() as u64 + ENTRY_BYTES);
        let rules = self.rules.iter();
        let rules = rules.map(|(field, value)| (field.len() + value.len()) as u64 + ENTRY_BYTES);
        lists.sum::<u64>() + rules.sum::<u64>()
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(list, all) => self.lists[(list - SPLIT) as usize].extend(all.clone()),
            Op::Replace(list, all) => self.lists[(list - SPLIT) as usize].clone_from(all),
            Op::Store(all) => self.rules.extend(all.clone()),
            Op::Remove(all) => all.iter().for_each(|field| drop(self.rules.remove(field))),
            Op::Commit | Op::Rollback | Op::Seal => {}
        }
    }
}

fn apply(state: &mut OperatorState, op: &Op) {
    match op {
        Op::Append(list, all) => state.list_append(*list, cells(all).as_ref()).unwrap(),
        Op::Replace(list, all) => {
            state.list_clear(*list).unwrap();
            state.list_append(*list, cells(all).as_ref()).unwrap();
        }
        Op::Store(all) => {
            let (fields, values): (Vec<_>, Vec<_>) = all.iter().cloned().unzip();
            let (fields, values) = (cells(&fields), cells(&values));
            state
                .map_store(RULES, fields.as_ref(), values.as_ref())
                .unwrap();
        }
        Op::Remove(all) => state.map_remove(RULES, cells(all).as_ref()).unwrap(),
        Op::Commit | Op::Rollback | Op::Seal => {}
    }
}

proptest! {
    #[test]
    fn calls_are_transactions_and_snapshots_keep_what_was_sealed(ops in vec(op(), 0..60)) {
        let mut state = empty();
        let (mut now, mut committed) = (Model::default(), Model::default());
        let mut sealed = Vec::new();
        for op in &ops {
            apply(&mut state, op);
            now.apply(op);
            prop_assert_eq!(&Model::of(&state), &now);
            match op {
                Op::Commit => {
                    state.commit();
                    committed = now.clone();
                }
                Op::Rollback => {
                    state.rollback();
                    now = committed.clone();
                }
                Op::Seal => {
                    state.commit();
                    committed = now.clone();
                    sealed.push((state.seal(), now.clone()));
                }
                _ => {}
            }
            prop_assert_eq!(state.bytes, now.amount());
        }
        for (sealed, then) in sealed {
            let mut pieces = Pieces::default();
            pieces.push(&sealed.encode(author(0, 1)), author(0, 1)).unwrap();
            let restored = dealt(&pieces, 1).remove(0);
            prop_assert_eq!(Model::of(&restored), then.clone());
            prop_assert_eq!(restored.bytes, then.amount());
        }
    }

    #[test]
    fn c73_elements_are_conserved_at_any_parallelism(
        lists in vec(vec(bytes(), 0..9), 1..6),
        parallelisms in vec(1..7_u32, 1..5),
    ) {
        let mut subtasks: Vec<OperatorState> = lists.iter().map(|elements| {
            let mut state = empty();
            for number in [SPLIT, UNION] {
                state.list_append(number, cells(elements).as_ref()).unwrap();
            }
            let one = cells(&[b"rule".to_vec()]);
            state.map_store(RULES, one.as_ref(), one.as_ref()).unwrap();
            state.commit();
            state
        }).collect();
        let all: Vec<Vec<u8>> = lists.concat();
        let mut everywhere = all.clone();
        for parallelism in parallelisms {
            let old = subtasks.len();
            let own: Vec<_> = subtasks.iter().map(|state| list(state, SPLIT)).collect();
            let pieces = pieces(&subtasks);
            prop_assert!(differing(&pieces).is_empty());
            subtasks = dealt(&pieces, parallelism);
            let split: Vec<_> = subtasks.iter().map(|state| list(state, SPLIT)).collect();
            prop_assert_eq!(split.concat(), all.clone());
            if old == parallelism as usize {
                prop_assert_eq!(own, split);
            } else {
                let lengths = split.iter().map(Vec::len);
                prop_assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
            }
            for state in &mut subtasks {
                prop_assert_eq!(&list(state, UNION), &everywhere);
                prop_assert_eq!(map(state).len(), 1);
                // As operators do: one of them keeps the elements, so that they do not multiply.
                state.list_clear(UNION).unwrap();
                state.commit();
            }
            subtasks[0].list_append(UNION, cells(&everywhere).as_ref()).unwrap();
            subtasks[0].commit();
            everywhere = list(&subtasks[0], UNION);
        }
    }

    #[test]
    fn no_bytes_do_harm(
        elements in vec(bytes(), 0..5),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
        fixed in any::<bool>(),
    ) {
        let mut state = empty();
        state.list_append(SPLIT, cells(&elements).as_ref()).unwrap();
        state.commit();
        let good = state.seal().encode(author(0, 1));
        let mut bad = good.clone();
        let at = at.index(bad.len());
        bad[at] = byte;
        bad.truncate(bad.len() - cut.index(bad.len()) / 4);
        if fixed && bad.len() > 4 {
            // With the right checksum: what is inside has to be looked at.
            let end = bad.len() - 4;
            let checksum = crc32c::crc32c(&bad[..end]);
            bad[end..].copy_from_slice(&checksum.to_le_bytes());
        }
        let mut pieces = Pieces::default();
        let read = pieces.push(&bad, author(0, 1));
        prop_assert!(fixed || bad == good || read.is_err());
    }
}

#[test]
fn what_differs_from_copy_to_copy_is_noticed() {
    let with = |value: &[u8]| {
        let mut state = empty();
        let (field, value) = (cells(&[b"rule".to_vec()]), cells(&[value.to_vec()]));
        state
            .map_store(RULES, field.as_ref(), value.as_ref())
            .unwrap();
        state.commit();
        state
    };
    let same = [with(b"1"), with(b"1"), with(b"1")];
    assert!(differing(&pieces(&same)).is_empty());
    let other = [with(b"1"), with(b"1"), with(b"2")];
    assert_eq!(differing(&pieces(&other)), [("rules", 0, 2)]);
    // A subtask without it differs too.
    let mut none = pieces(&same[..1]);
    none.push_none();
    assert_eq!(differing(&none), [("rules", 0, 1)]);
}

#[test]
fn what_is_anothers_is_refused() {
    let bytes = empty().seal().encode(author(1, 2));
    for other in [author(0, 2), author(1, 3)] {
        let error = Pieces::default().push(&bytes, other).unwrap_err();
        assert!(
            error
                .0
                .contains("it is that of subtask 1 of 2 in checkpoint 7"),
            "{error}"
        );
    }
}

#[test]
fn accesses_that_do_not_fit_are_refused_by_name_and_change_nothing() {
    let mut state = empty();
    let one = cells(&[b"x".to_vec()]);
    let two = cells(&[b"x".to_vec(), b"y".to_vec()]);
    let said = |result: Result<(), AccessError>| result.unwrap_err().to_string();
    assert_eq!(
        said(state.list_append(RULES, one.as_ref())),
        "state `rules` has the scope `broadcast`, so it is a map"
    );
    assert_eq!(
        said(state.map_remove(UNION, one.as_ref())),
        "state `union` has the scope `operator-union`, so it is a list"
    );
    for number in [0, 6, u32::MAX] {
        assert_eq!(
            said(state.list_clear(number)),
            format!("state {number} is none of the 3 operator states, whose numbers begin with 3")
        );
    }
    assert_eq!(
        said(state.map_store(RULES, two.as_ref(), one.as_ref())),
        "2 fields, but 1 values"
    );
    state.set_limit(Some(2 * ENTRY_BYTES + 3));
    state.list_append(SPLIT, two.as_ref()).unwrap();
    let error = state.list_append(UNION, one.as_ref()).unwrap_err();
    assert_eq!(
        error,
        AccessError::Limit {
            limit: 2 * ENTRY_BYTES + 3
        }
    );
    // Replacing it takes no more.
    state.list_clear(SPLIT).unwrap();
    state.list_append(SPLIT, two.as_ref()).unwrap();
    state.rollback();
    assert_eq!(state.bytes, 0);
    let mut elements = Cells::new();
    state.list_append(SPLIT, two.as_ref()).unwrap();
    let error = state.list_load(SPLIT, 9, &mut elements).unwrap_err();
    assert_eq!(error, AccessError::TooLarge { limit: 9 });
}
