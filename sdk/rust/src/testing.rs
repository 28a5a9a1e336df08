//! Running an operator natively, under `cargo test`.
//!
//! A [`Harness`] stands for the host: it keeps state in memory, numbers the keys of a batch, and holds
//! to the rule that a failed call leaves no trace. What traps a component panics here.

mod time;

use std::fmt;
use std::marker::PhantomData;

use crate::bindings::exports::highwater::operator::guest::{Description, OpenContext, StateScope};
use crate::bindings::highwater::operator::types as wit;
use crate::call::NO_TIMESTAMP;
use crate::cells::Cells;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::host::{Held, Host};
use crate::instance::{Instance, describe};
use crate::operator::Operator;

pub use time::PendingTimer;

/// An operator with everything it needs around it.
///
/// ```
/// use highwater::testing::Harness;
/// use highwater::{Emitter, OpenContext, Operator, Record, Result};
///
/// struct Longest;
/// impl Operator for Longest {
///     fn open(_: &mut OpenContext) -> Result<Self> { Ok(Self) }
///     fn process(&mut self, line: Record, out: &mut Emitter) -> Result<()> {
///         let longest = line.text()?.split(' ').map(str::len).max();
///         out.emit(line.key(), longest)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let mut longest = Harness::<Longest>::open()?;
/// longest.process(&[("1", "in the beginning"), ("2", "and")])?;
/// assert_eq!(longest.take_rows(), ["1,9", "2,3"]);
/// # Ok(()) }
/// ```
pub struct Harness<T> {
    instance: Instance<T>,
    /// Which inputs have ended.
    ended: Vec<bool>,
    host: Host,
    description: Description,
    context: OpenContext,
}

/// What a [`Harness`] opens its operator with.
#[derive(Debug)]
pub struct Setup<T> {
    config: String,
    inputs: Vec<wit::Port>,
    subtask: u32,
    parallelism: u32,
    operator: PhantomData<fn() -> T>,
}

/// A record that was emitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Name of the output.
    pub output: String,
    /// The key, on outputs with keys.
    pub key: Option<String>,
    /// The value.
    pub value: String,
    /// Event time in milliseconds since 1970-01-01 UTC.
    pub timestamp: Option<i64>,
}

impl<T: Operator> Setup<T> {
    /// The operator's configuration, as JSON.
    #[must_use]
    pub fn config(mut self, json: &str) -> Self {
        json.clone_into(&mut self.config);
        self
    }

    /// Adds an input of rows with keys whose values have these columns. Without any input added there
    /// is one of rows whose columns have no names.
    #[must_use]
    pub fn rows<const N: usize>(mut self, columns: [&str; N]) -> Self {
        let column = |name: &str| wit::Column {
            name: name.to_owned(),
            kind: wit::ColumnKind::Text,
        };
        self.inputs
            .push(port(true, wit::Format::Row(columns.map(column).to_vec())));
        self
    }

    /// Adds an input of texts without keys, as a source of lines gives them.
    #[must_use]
    pub fn lines(mut self) -> Self {
        self.inputs.push(port(false, wit::Format::Text));
        self
    }

    /// Which of how many subtasks this one is.
    #[must_use]
    pub fn subtask(mut self, subtask: u32, parallelism: u32) -> Self {
        (self.subtask, self.parallelism) = (subtask, parallelism);
        self
    }

    /// Describes and opens the operator.
    pub fn open(mut self) -> Result<Harness<T>> {
        if self.inputs.is_empty() {
            self = self.rows([]);
        }
        let host = Host::default();
        let description = describe::<T>(self.config.clone(), &self.inputs, host.clone())?;
        refuse_what_hosts_refuse(&description)?;
        let context = OpenContext {
            config: self.config,
            operator: "test".to_owned(),
            subtask: self.subtask,
            parallelism: self.parallelism,
            key_groups: 128,
            inputs: self.inputs,
            states: numbered(&description),
            restored: false,
        };
        host.declare(&context.states);
        let states = description.states.iter();
        host.set_ttls(states.map(|state| state.ttl).collect());
        let ended = vec![false; context.inputs.len()];
        let instance = Instance::open(context.clone(), host.clone())?;
        Ok(Harness {
            instance,
            ended,
            host,
            description,
            context,
        })
    }
}

/// What hosts refuse, so that it is not found only when the job is started.
fn refuse_what_hosts_refuse(description: &Description) -> Result<()> {
    let mut states = description.states.iter();
    match states.find(|state| state.ttl.is_some_and(|ttl| ttl.millis == 0)) {
        Some(state) => Err(Error::config(format_args!(
            "state `{}` has a TTL of 0 ms: its entries have to live for at least 1 ms",
            state.name
        ))),
        None => Ok(()),
    }
}

/// The names of the states in the order of their numbers: those of keyed ones come first.
fn numbered(description: &Description) -> Vec<String> {
    let (keyed, own): (Vec<_>, Vec<_>) = description
        .states
        .iter()
        .partition(|state| state.scope == StateScope::Keyed);
    let states = keyed.into_iter().chain(own);
    states.map(|state| state.name.clone()).collect()
}

fn port(keyed: bool, format: wit::Format) -> wit::Port {
    wit::Port {
        name: "in".to_owned(),
        keyed,
        key_columns: Vec::new(),
        format,
    }
}

impl<T: Operator> Harness<T> {
    /// Opens the operator without configuration and with one input of rows with keys.
    pub fn open() -> Result<Self> {
        Self::setup().open()
    }

    /// Opens the operator otherwise.
    #[must_use]
    pub fn setup() -> Setup<T> {
        Setup {
            config: "{}".to_owned(),
            inputs: Vec::new(),
            subtask: 0,
            parallelism: 1,
            operator: PhantomData,
        }
    }

    /// Handles records with keys, as one batch on the first input.
    pub fn process<K: AsRef<[u8]>, V: AsRef<[u8]>>(&mut self, records: &[(K, V)]) -> Result<()> {
        self.process_on(0, records)
    }

    /// Handles records with keys, as one batch on an input.
    pub fn process_on<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        input: u32,
        records: &[(K, V)],
    ) -> Result<()> {
        let keys = records.iter().map(|(key, _)| Some(key.as_ref()));
        self.batch(
            input,
            keys,
            records.iter().map(|(_, value)| value.as_ref()),
            Vec::new(),
        )
    }

    /// Handles records with keys and event times, as one batch on the first input.
    pub fn process_timed<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        records: &[(K, V, i64)],
    ) -> Result<()> {
        let keys = records.iter().map(|(key, ..)| Some(key.as_ref()));
        let timestamps = records.iter().map(|(.., timestamp)| *timestamp).collect();
        self.batch(
            0,
            keys,
            records.iter().map(|(_, value, _)| value.as_ref()),
            timestamps,
        )
    }

    /// Handles records without keys, as one batch on the first input.
    pub fn process_unkeyed<V: AsRef<[u8]>>(&mut self, values: &[V]) -> Result<()> {
        self.batch(
            0,
            values.iter().map(|_| None),
            values.iter().map(V::as_ref),
            Vec::new(),
        )
    }

    fn batch<'a>(
        &mut self,
        input: u32,
        record_keys: impl Iterator<Item = Option<&'a [u8]>>,
        record_values: impl Iterator<Item = &'a [u8]>,
        timestamps: Vec<i64>,
    ) -> Result<()> {
        let (mut keys, mut values, mut key_numbers) = (Cells::empty(), Cells::empty(), Vec::new());
        record_values.for_each(|value| values.push(value));
        let mut states = self.description.states.iter();
        let is_keyed = states.any(|state| state.scope == StateScope::Keyed);
        let stateless = !is_keyed && !self.description.uses_timers;
        let mut seen = std::collections::HashMap::new();
        for key in record_keys.flatten() {
            if stateless {
                keys.push(key);
                continue;
            }
            let next = keys.count() as u32;
            let number = *seen.entry(key).or_insert(next);
            if number == next {
                keys.push(key);
            }
            key_numbers.push(number);
        }
        self.host.begin(keys.clone());
        let result = self.instance.process(wit::Batch {
            input,
            values,
            timestamps,
            keys,
            key_numbers,
        });
        self.end(result)
    }

    /// Says that no record comes on this input any more. Before that, if it is the last input, the watermark
    /// becomes the largest number, so that all timers of event time fire.
    pub fn end_of_input(&mut self, input: u32) -> Result<()> {
        if let Some(ended) = self.ended.get_mut(input as usize) {
            *ended = true;
        }
        if self.ended.iter().all(|ended| *ended) {
            self.set_watermark(i64::MAX)?;
        }
        self.host.begin(Cells::empty());
        let result = self.instance.end_of_input(input);
        self.end(result)
    }

    /// Says that a checkpoint is complete.
    pub fn complete_checkpoint(&mut self, checkpoint: u64) -> Result<()> {
        self.host.begin(Cells::empty());
        let result = self.instance.on_checkpoint_complete(checkpoint);
        self.end(result)
    }

    /// Ends the job in order.
    pub fn close(&mut self) -> Result<()> {
        self.host.begin(Cells::empty());
        let result = self.instance.close();
        self.end(result)
    }

    /// Has values of a state that were written under an older version of its schema rewritten.
    pub fn migrate(
        &mut self,
        state: &str,
        from_version: u32,
        values: &[&[u8]],
    ) -> Result<Vec<Vec<u8>>> {
        let number = self.context.states.iter().position(|name| name == state);
        let number =
            number.ok_or_else(|| Error::new(format_args!("there is no state `{state}`")))?;
        let mut cells = Cells::empty();
        values.iter().for_each(|value| cells.push(value));
        let migrated = self.instance.migrate(number as u32, from_version, &cells)?;
        Ok(migrated.iter().map(<[u8]>::to_vec).collect())
    }

    fn end(&mut self, result: Result<()>) -> Result<()> {
        if result.is_ok() {
            self.host.commit()
        } else {
            self.host.rollback()
        }
        result
    }

    /// Opens a fresh instance of the operator on the same state, as after a trap. The fields of the
    /// operator start again.
    pub fn restart(&mut self) -> Result<()> {
        self.context.restored = true;
        self.instance = Instance::open(self.context.clone(), self.host.clone())?;
        Ok(())
    }

    /// What was emitted since the last time, in order.
    pub fn take(&mut self) -> Vec<Emitted> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let emitted = self.host.take_emitted().into_iter();
        emitted
            .map(|emission| Emitted {
                output: self.description.outputs[emission.output as usize]
                    .name
                    .clone(),
                key: emission.key.map(text),
                value: text(emission.value),
                timestamp: Some(emission.timestamp).filter(|&timestamp| timestamp != NO_TIMESTAMP),
            })
            .collect()
    }

    /// What was emitted since the last time, each record as one row: the key's fields, then the
    /// value's.
    pub fn take_rows(&mut self) -> Vec<String> {
        let row = |emitted: Emitted| match emitted.key {
            Some(key) => format!("{key},{}", emitted.value),
            None => emitted.value,
        };
        self.take().into_iter().map(row).collect()
    }

    /// The value that a value state holds for a key.
    pub fn value<V: Codec>(&self, state: &str, key: &str) -> Result<Option<V>> {
        match self.host.table(state).get(key.as_bytes()) {
            None => Ok(None),
            Some(Held::Value(value)) => V::decode(value).map(Some),
            Some(_) => Err(Error::new(format_args!("`{state}` is no value state"))),
        }
    }

    /// The elements that an operator list of this subtask holds.
    pub fn operator_list<V: Codec>(&self, state: &str) -> Result<Vec<V>> {
        match self.host.table(state).get(&b""[..]) {
            None => Ok(Vec::new()),
            Some(Held::List(list)) => list.iter().map(|element| V::decode(element)).collect(),
            Some(_) => Err(Error::new(format_args!("`{state}` is no operator list"))),
        }
    }

    /// The keys for which a state of any kind holds something.
    #[must_use]
    pub fn keys(&self, state: &str) -> Vec<String> {
        self.host
            .table(state)
            .keys()
            .map(|key| String::from_utf8_lossy(key).into_owned())
            .collect()
    }

    /// What was recorded for a metric since the last time, one number for each call of a counter or
    /// gauge, and for each observation of a histogram. Forgets those of all other metrics.
    pub fn take_metric(&mut self, name: &str) -> Vec<f64> {
        let observed = self.host.take_observed().into_iter();
        observed
            .filter(|observation| observation.name == name)
            .map(|observation| observation.value)
            .collect()
    }

    /// Sets the clock, in milliseconds since 1970-01-01 UTC, and fires no timers; see
    /// [`Harness::set_time`]. The clock stands still otherwise.
    pub fn set_processing_time(&mut self, milliseconds: i64) {
        self.host.set_processing_time(milliseconds);
    }

    /// Names of the declared outputs, the default one first.
    #[must_use]
    pub fn outputs(&self) -> Vec<&str> {
        self.description
            .outputs
            .iter()
            .map(|output| output.name.as_str())
            .collect()
    }

    /// Names and schemas of the declared states.
    #[must_use]
    pub fn states(&self) -> Vec<(&str, &str)> {
        self.description
            .states
            .iter()
            .map(|state| (state.name.as_str(), state.schema.as_str()))
            .collect()
    }
}

impl<T> fmt::Debug for Harness<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness")
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod timer_tests;
