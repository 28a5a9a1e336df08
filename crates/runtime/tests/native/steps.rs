//! Native operators for simulated jobs: with every kind of state, several inputs and outputs, and
//! output at the end of input.
//!
//! What each emits, as a multiset, does not depend on the order in which records of different channels
//! arrive: so a reference can tell it that knows nothing of channels (see `reference`).

use dataflow::state::{KeyedState, Resolved, StateDescriptor, StateKind};
use dataflow::{Batch, Cells, CheckpointId};
use operator::{Call, Failure, FailureKind, Operator, OperatorFactory, SubtaskContext};
use runtime::simulation::Random;

use super::trouble::{Place, Trouble};

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Passes records on.
    Pass,
    /// Drops some.
    Filter,
    /// Makes none, one or two of each.
    Fan,
    /// Gives them one of this many other keys.
    Rekey(u64),
    /// Passes records on, and says when an input has ended.
    Mark,
    /// Value state: emits each key's running count, and on a second output the records themselves.
    Count,
    /// Map state: emits each field of a key when it sees it first.
    Distinct,
    /// Two inputs, a map state for each: emits every pair of fields of a key once.
    Join,
    /// Two inputs, a value state for each: emits count and sum of every key when the input ends.
    Totals,
    /// List state: emits when a key's list has three elements, and empties it.
    Bag,
    /// Value state that is written and cleared in turn: emits when it is cleared.
    Toggle,
    /// Map state whose entries come and go: emits what it does.
    Flip,
    /// Map state: passes records on, and complains about those that come out of order.
    Watch,
}

impl Kind {
    pub(crate) fn inputs(self) -> u32 {
        match self {
            Self::Join | Self::Totals => 2,
            _ => 1,
        }
    }

    pub(crate) fn outputs(self) -> u32 {
        match self {
            Self::Count => 2,
            _ => 1,
        }
    }

    pub(crate) fn states(self) -> Vec<StateDescriptor> {
        let names: &[(&str, StateKind)] = match self {
            Self::Pass | Self::Filter | Self::Fan | Self::Rekey(_) | Self::Mark => &[],
            Self::Count => &[("count", StateKind::Value)],
            Self::Distinct => &[("fields", StateKind::Map)],
            Self::Join => &[("left", StateKind::Map), ("right", StateKind::Map)],
            Self::Totals => &[("first", StateKind::Value), ("second", StateKind::Value)],
            Self::Bag => &[("bag", StateKind::List)],
            Self::Toggle => &[("held", StateKind::Value)],
            Self::Flip => &[("flags", StateKind::Map)],
            Self::Watch => &[("positions", StateKind::Map)],
        };
        let state = |(name, kind): &(&str, StateKind)| StateDescriptor {
            name: (*name).into(),
            kind: *kind,
            schema: "text".into(),
            schema_version: 1,
            ttl: None,
        };
        names.iter().map(state).collect()
    }

    pub(crate) fn is_keyed(self) -> bool {
        !self.states().is_empty()
    }
}

/// A number for a record's value, the same in operators and in the reference.
pub(crate) fn digest(value: &[u8]) -> u64 {
    let mix = |digest: u64, byte: &u8| Random::new(digest ^ u64::from(*byte)).next_u64();
    value.iter().fold(0, mix)
}

/// One of this many fields for a record's value.
pub(crate) fn field(value: &[u8], fields: u64) -> String {
    format!("f{}", digest(value) % fields)
}

pub(crate) struct Step {
    pub(crate) kind: Kind,
    pub(crate) trouble: Trouble,
}

impl OperatorFactory for Step {
    fn create(&self, context: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        if self.trouble.strikes(Place::Create) {
            return Err(Failure::new(FailureKind::Returned, "planted at creation"));
        }
        Ok(Box::new(StepSubtask {
            kind: self.kind,
            trouble: self.trouble.clone(),
            subtask: context.subtask,
        }))
    }
}

struct StepSubtask {
    kind: Kind,
    trouble: Trouble,
    subtask: u32,
}

pub(crate) fn one(cell: &[u8]) -> Cells {
    [cell].into_iter().collect()
}

pub(crate) fn emit(call: &mut Call, port: u32, key: &[u8], value: &[u8]) {
    let (key, value) = (one(key), one(value));
    call.output
        .emit(port, key.as_ref(), value.as_ref(), &[])
        .unwrap();
}

pub(crate) fn value(state: &mut KeyedState, index: u32, key: u32) -> Option<String> {
    let (mut values, mut absent) = (Cells::new(), Vec::new());
    state
        .load(index, Some(&[key]), &mut values, &mut absent)
        .unwrap();
    absent.is_empty().then(|| text(values.get(0)))
}

pub(crate) fn set_value(state: &mut KeyedState, index: u32, key: u32, value: &str) {
    state
        .store(index, &[key], one(value.as_bytes()).as_ref())
        .unwrap();
}

pub(crate) fn entry(state: &mut KeyedState, index: u32, key: u32, field: &str) -> Option<String> {
    let (mut values, mut absent) = (Cells::new(), Vec::new());
    let field = one(field.as_bytes());
    state
        .map_load(index, &[key], field.as_ref(), &mut values, &mut absent)
        .unwrap();
    absent.is_empty().then(|| text(values.get(0)))
}

pub(crate) fn set_entry(state: &mut KeyedState, index: u32, key: u32, field: &str, value: &str) {
    let (field, value) = (one(field.as_bytes()), one(value.as_bytes()));
    state
        .map_store(index, &[key], field.as_ref(), value.as_ref())
        .unwrap();
}

pub(crate) fn remove_entry(state: &mut KeyedState, index: u32, key: u32, field: &str) {
    let field = one(field.as_bytes());
    state.map_remove(index, &[key], field.as_ref()).unwrap();
}

pub(crate) fn text(cell: &[u8]) -> String {
    String::from_utf8(cell.to_vec()).unwrap()
}

impl StepSubtask {
    /// Fails, and leaves a mess that the runtime has to take back.
    fn fail(&self, call: &mut Call, keys: &Resolved) -> Failure {
        if self.kind.is_keyed() && !keys.keys.is_empty() {
            for state in 0..self.kind.states().len() as u32 {
                call.state.clear(state, &[0]).unwrap();
            }
            if self.kind.states()[0].kind == StateKind::Value {
                set_value(&mut call.state, 0, 0, "a mess");
            }
        }
        emit(call, 0, b"a mess", b"a mess");
        let kind = match keys.numbers.len() % 2 {
            0 => FailureKind::Trap,
            _ => FailureKind::Returned,
        };
        Failure::new(kind, "planted in a call")
    }

    fn record(&self, input: u32, key: &[u8], number: u32, record: &[u8], call: &mut Call) {
        match self.kind {
            Kind::Pass | Kind::Mark => emit(call, 0, key, record),
            Kind::Filter => {
                if !digest(record).is_multiple_of(4) {
                    emit(call, 0, key, record);
                }
            }
            Kind::Fan => {
                for copy in 0..digest(record) % 3 {
                    let copied = format!("{}+{copy}", text(record));
                    emit(call, 0, key, copied.as_bytes());
                }
            }
            Kind::Rekey(keys) => {
                let key = format!("r{}", digest(record) % keys);
                emit(call, 0, key.as_bytes(), record);
            }
            Kind::Count => {
                let before = value(&mut call.state, 0, number);
                let count = 1 + before.map_or(0, |count| count.parse::<u64>().unwrap());
                set_value(&mut call.state, 0, number, &count.to_string());
                emit(call, 0, key, count.to_string().as_bytes());
                emit(call, 1, key, record);
            }
            Kind::Distinct => {
                let field = field(record, 8);
                if entry(&mut call.state, 0, number, &field).is_none() {
                    set_entry(&mut call.state, 0, number, &field, "seen");
                    emit(call, 0, key, field.as_bytes());
                }
            }
            Kind::Join => self.join(input, key, number, &field(record, 6), call),
            Kind::Totals => {
                let before = value(&mut call.state, input, number).unwrap_or_else(|| "0 0".into());
                let (count, sum) = before.split_once(' ').unwrap();
                let (count, sum) = (count.parse::<u64>().unwrap(), sum.parse::<u64>().unwrap());
                let after = format!("{} {}", count + 1, sum.wrapping_add(digest(record)));
                set_value(&mut call.state, input, number, &after);
            }
            Kind::Bag => {
                let element = one(key);
                call.state
                    .list_append(0, &[number], element.as_ref())
                    .unwrap();
                let mut elements = Cells::new();
                call.state.list_load(0, number, &mut elements).unwrap();
                let own = elements.iter().all(|element| element == key);
                if !own {
                    emit(call, 0, key, b"elements of another key");
                } else if elements.len() >= 3 {
                    call.state.clear(0, &[number]).unwrap();
                    emit(call, 0, key, elements.len().to_string().as_bytes());
                }
            }
            Kind::Toggle => {
                let held = format!("held for {}", text(key));
                match value(&mut call.state, 0, number) {
                    None => set_value(&mut call.state, 0, number, &held),
                    Some(found) => {
                        call.state.clear(0, &[number]).unwrap();
                        let right = found == held;
                        emit(call, 0, key, if right { b"pair" } else { b"strange" });
                    }
                }
            }
            Kind::Flip => {
                let field = field(record, 5);
                let sign = match entry(&mut call.state, 0, number, &field) {
                    None => {
                        set_entry(&mut call.state, 0, number, &field, "set");
                        '+'
                    }
                    Some(_) => {
                        remove_entry(&mut call.state, 0, number, &field);
                        '-'
                    }
                };
                emit(call, 0, key, format!("{sign}{field}").as_bytes());
            }
            Kind::Watch => {
                let record = text(record);
                let (split, index) = record.rsplit_once('.').unwrap();
                let last = entry(&mut call.state, 0, number, split);
                let index: u64 = index.parse().unwrap();
                if last.is_some_and(|last| last.parse::<u64>().unwrap() >= index) {
                    let complaint = format!("{record} is out of order");
                    emit(call, 0, key, complaint.as_bytes());
                }
                set_entry(&mut call.state, 0, number, split, &index.to_string());
                emit(call, 0, key, record.as_bytes());
            }
        }
    }

    fn join(&self, input: u32, key: &[u8], number: u32, field: &str, call: &mut Call) {
        if entry(&mut call.state, input, number, field).is_some() {
            return;
        }
        set_entry(&mut call.state, input, number, field, "there");
        let (mut others, mut values) = (Cells::new(), Cells::new());
        let more = call
            .state
            .map_scan(
                1 - input,
                number,
                b"",
                false,
                None,
                100,
                &mut others,
                &mut values,
            )
            .unwrap();
        assert!(!more, "there are six fields");
        for other in others.iter() {
            let other = text(other);
            let pair = match input {
                0 => format!("{field}|{other}"),
                _ => format!("{other}|{field}"),
            };
            emit(call, 0, key, pair.as_bytes());
        }
    }
}

impl Operator for StepSubtask {
    fn process(
        &mut self,
        input: u32,
        batch: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        let strikes = !call.probing && self.trouble.strikes(Place::Process);
        for record in 0..batch.len() {
            let key = batch.keys.get(record);
            let number = keys.numbers.get(record).copied().unwrap_or_default();
            self.record(input, key, number, batch.values.get(record), call);
        }
        match strikes {
            true => Err(self.fail(call, keys)),
            false => Ok(()),
        }
    }

    fn end_of_input(&mut self, input: u32, call: &mut Call) -> Result<(), Failure> {
        if self.kind == Kind::Mark {
            let key = format!("subtask {}", self.subtask);
            emit(call, 0, key.as_bytes(), format!("end {input}").as_bytes());
        }
        if self.kind == Kind::Totals {
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                let (mut keys, mut values) = (Cells::new(), Cells::new());
                cursor = call
                    .state
                    .scan(input, at, 7, &mut keys, &mut values)
                    .unwrap();
                for (key, value) in keys.iter().zip(values.iter()) {
                    emit(call, 0, key, format!("{input}: {}", text(value)).as_bytes());
                }
            }
        }
        match self.trouble.strikes(Place::EndOfInput) {
            true => Err(self.fail(call, &Resolved::default())),
            false => Ok(()),
        }
    }

    fn checkpoint_complete(&mut self, _: CheckpointId) -> Result<(), Failure> {
        match self.trouble.strikes(Place::Complete) {
            true => Err(Failure::new(FailureKind::Returned, "planted at completion")),
            false => Ok(()),
        }
    }
}
