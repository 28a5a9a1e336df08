//! What an operator declares and learns when it is opened.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::aggregate::Aggregate;
use crate::bindings::exports::highwater::operator::guest::{
    self as wit_guest, StateKind, StateScope,
};
use crate::bindings::highwater::operator::metrics::Kind as MetricKind;
use crate::bindings::highwater::operator::types as wit;
use crate::call::{Call, NO_TIMESTAMP};
use crate::codec::{Codec, MapKey};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::metrics::{Counter, Gauge, Histogram, Metrics};
use crate::record::{Column, Input};
use crate::state::{
    Access, AggregatingState, BroadcastState, Buffered, ListState, MapState, OperatorList,
    ReducingState, ValueState,
};
use crate::timer::Timers;
use crate::ttl::Ttl;
use crate::window::{AHEAD_RESULTS_MAX, Settings};

/// Where an operator declares its states, inputs, outputs and metrics, and reads its configuration.
///
/// Declarations are made here and nowhere else: `describe` is answered by running
/// [`Operator::open`](crate::Operator::open) too.
#[derive(Debug)]
pub struct OpenContext {
    config: String,
    /// What the host said; `None` while the operator is only described.
    opened: Option<wit_guest::OpenContext>,
    inputs: Vec<Input>,
    declared: Declared,
    /// The columns that the operator reads by name, with their inputs.
    read: RefCell<BTreeSet<(u32, String)>>,
    call: Rc<Call>,
    host: Host,
    metrics: Rc<Metrics>,
}

/// What the operator has declared so far.
#[derive(Default)]
pub(crate) struct Declared {
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<wit::Port>,
    pub(crate) states: Vec<wit_guest::StateDescriptor>,
    pub(crate) buffers: Vec<Rc<dyn Buffered>>,
    /// The one handle that collects timers, once asked for.
    pub(crate) timers: Option<Timers>,
    /// Whether the operator has asked for it, and not only its windows.
    has_own_timers: bool,
    pub(crate) windows: Vec<Rc<Settings>>,
    /// Mistakes in the declarations, reported when `open` has returned.
    pub(crate) problems: Vec<String>,
}

impl std::fmt::Debug for Declared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Declared")
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .field("states", &self.states)
            .finish_non_exhaustive()
    }
}

/// What the text of a field stands for, for sinks that tell numbers from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// A number with a fraction.
    Float,
    /// `true` or `false`.
    Boolean,
}

impl OpenContext {
    pub(crate) fn describing(
        config: String,
        inputs: &[wit::Port],
        call: Rc<Call>,
        host: Host,
    ) -> Self {
        let metrics = Rc::new(Metrics::new(host.clone(), false));
        Self {
            config,
            opened: None,
            inputs: inputs.iter().map(Input::of).collect(),
            declared: Declared::default(),
            read: RefCell::default(),
            call,
            host,
            metrics,
        }
    }

    pub(crate) fn opening(context: wit_guest::OpenContext, call: Rc<Call>, host: Host) -> Self {
        let metrics = Rc::new(Metrics::new(host.clone(), true));
        let inputs = context.inputs.iter().map(Input::of).collect();
        let config = context.config.clone();
        Self {
            config,
            opened: Some(context),
            inputs,
            declared: Declared::default(),
            read: RefCell::default(),
            call,
            host,
            metrics,
        }
    }

    /// What was declared, with the inputs known. Fails if a declaration is wrong.
    pub(crate) fn finish(mut self) -> Result<(Declared, Vec<Input>, Rc<Metrics>)> {
        if self.declared.outputs.is_empty() {
            self.output("out");
        }
        let windows = std::mem::take(&mut self.declared.windows);
        let is_alone = windows.len() == 1 && !self.declared.has_own_timers;
        let ahead_max = if is_alone { AHEAD_RESULTS_MAX } else { 0 };
        for window in windows {
            window.ahead_max.set(ahead_max);
            if let Some(late) = &*window.late_to.borrow() {
                self.late_output(late);
            }
            self.declared
                .problems
                .append(&mut window.problems.borrow_mut());
        }
        for (input, column) in self.read.take() {
            if let Err(error) = self.check_joined(input, &column) {
                self.declared.problems.push(error.to_string());
            }
        }
        if self.declared.problems.is_empty() {
            return Ok((self.declared, self.inputs, self.metrics));
        }
        Err(Error::config(self.declared.problems.join("; ")))
    }

    /// Declares an output of late records, which are those of the input, unless it is declared.
    fn late_output(&mut self, name: &str) {
        let mut outputs = self.declared.outputs.iter();
        if outputs.any(|output| output.name == name) {
            return;
        }
        // They may come from each of several inputs.
        match self.declared.inputs.len() {
            0 | 1 => self.output_like(name, 0),
            _ => self.output(name),
        };
    }

    /// The operator's `config` from the job file, as JSON.
    #[must_use]
    pub fn config_json(&self) -> &str {
        if self.config.is_empty() {
            "{}"
        } else {
            &self.config
        }
    }

    /// The operator's `config` from the job file. Fails as a mistake in the configuration where it does
    /// not fit `T`; derive `T` with `#[serde(deny_unknown_fields, rename_all = "kebab-case")]`, so that
    /// misspelt keys are reported.
    #[cfg(feature = "serde")]
    pub fn config<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.config_json()).map_err(|error| {
            // The place is one in the JSON, which the user has never seen.
            let message = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            Error::config(format_args!(
                "config: {}",
                message.strip_suffix(&place).unwrap_or(&message)
            ))
        })
    }

    /// Whether the operator is only being described: nothing will be processed. What feeds it is known, unless
    /// the job file has other mistakes.
    #[must_use]
    pub fn is_described(&self) -> bool {
        self.opened.is_none()
    }

    /// The operator's id in the job file; empty while it is only described.
    #[must_use]
    pub fn operator(&self) -> &str {
        self.opened.as_ref().map_or("", |context| &context.operator)
    }

    /// Number of this subtask, below [`OpenContext::parallelism`].
    #[must_use]
    pub fn subtask(&self) -> u32 {
        self.opened.as_ref().map_or(0, |context| context.subtask)
    }

    /// How many subtasks the operator has.
    #[must_use]
    pub fn parallelism(&self) -> u32 {
        self.opened
            .as_ref()
            .map_or(1, |context| context.parallelism)
    }

    /// How many key groups the job has.
    #[must_use]
    pub fn key_groups(&self) -> u32 {
        self.opened
            .as_ref()
            .map_or(128, |context| context.key_groups)
    }

    /// Whether state was restored from a checkpoint.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.opened.as_ref().is_some_and(|context| context.restored)
    }

    /// Declares the operator's inputs by name, in the order of their numbers. Without it there is one.
    pub fn declare_inputs<const N: usize>(&mut self, names: [&str; N]) {
        self.declared.inputs = names.map(str::to_owned).to_vec();
    }

    /// What is known about the records that arrive on each input. While the operator is only described there
    /// is one for each name in the job file's `inputs`, also if all of them are joined on one input, and none if
    /// the job file has mistakes because of which they are not known.
    #[must_use]
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// The column with this name on the first input. Fails as a mistake in the configuration if there
    /// is none. While the operator is only described and its inputs are not known, every name is accepted.
    pub fn column(&self, name: &str) -> Result<Column> {
        self.column_of(0, name)
    }

    /// The column with this name on an input; see [`OpenContext::column`].
    pub fn column_of(&self, input: u32, name: &str) -> Result<Column> {
        match self.inputs.get(input as usize) {
            Some(found) => {
                let column = found.column(name)?;
                // What is joined is known then; an instance that is opened need not look again.
                if self.is_described() {
                    self.read.borrow_mut().insert((input, name.to_owned()));
                }
                Ok(column)
            }
            None if self.is_described() => Ok(Column::at(0)),
            None => Err(Error::config(format_args!(
                "there is no input {input}, the operator has {}",
                self.inputs.len()
            ))),
        }
    }

    /// Declares an output. The first one declared is where [`Emitter::emit`](crate::Emitter::emit)
    /// goes; without any there is one called `out`. Unless said otherwise it carries keys, and keys and
    /// values are rows whose columns have no names.
    pub fn output(&mut self, name: &str) -> OutputBuilder<'_> {
        let outputs = &mut self.declared.outputs;
        let position = outputs
            .iter()
            .position(|output| output.name == name)
            .unwrap_or(outputs.len());
        if position == outputs.len() {
            let format = wit::Format::Row(Vec::new());
            outputs.push(wit::Port {
                name: name.to_owned(),
                keyed: true,
                key_columns: Vec::new(),
                format,
            });
        }
        OutputBuilder {
            port: &mut outputs[position],
        }
    }

    /// Declares an output of records that are passed on as they came: with the keys, the format and the columns of
    /// the input with this number. Where several outputs are joined on that input, it has the columns that all of
    /// them agree on, or none; where the input is not known, none either. Call
    /// [`OpenContext::declare_inputs`] first, if there are several inputs.
    pub fn output_like(&mut self, name: &str, input: u32) -> OutputBuilder<'_> {
        // Several ports of one input are known only while the operator is described.
        let joined = self.joined(input);
        let like = joined.first().map(|first| {
            let mut like = first.port.clone();
            like.key_columns = agreed(joined, |port| &port.key_columns);
            if let wit::Format::Row(columns) = &mut like.format {
                *columns = agreed(joined, |port| match &port.format {
                    wit::Format::Row(columns) => columns,
                    _ => &[],
                });
            }
            like
        });
        let output = self.output(name);
        if let Some(like) = like {
            output.port.keyed = like.keyed;
            output.port.key_columns = like.key_columns;
            output.port.format = like.format;
        }
        output
    }

    /// What is joined on an input, as far as it is known.
    fn joined(&self, input: u32) -> &[Input] {
        match self.declared.inputs.len() {
            0 | 1 => &self.inputs[..],
            _ => self
                .inputs
                .get(input as usize)
                .map_or(&[][..], std::slice::from_ref),
        }
    }

    /// Checks that a column has one place in all rows that are joined on an input.
    fn check_joined(&self, input: u32, name: &str) -> Result<()> {
        let Some((first, others)) = self.joined(input).split_first() else {
            return Ok(());
        };
        let column = first.column(name)?;
        for other in others {
            if other.column(name)? != column {
                return Err(Error::config(format_args!(
                    "column `{name}` has another place in `{}` than in `{}`, which are joined on one input: give their \
                     rows the same columns in the same order",
                    other.name(),
                    first.name()
                )));
            }
        }
        Ok(())
    }

    /// The columns of the key, for an operator that hands on the keys of its input: called `names`, or if there are none
    /// as the input calls them. `option` is the key of the configuration that has the names. Fails as a mistake in the
    /// configuration if it is known that the key has more or fewer columns.
    pub fn key_columns(&self, option: &str, names: &[String]) -> Result<Vec<(String, Kind)>> {
        let joined = self.joined(0);
        // A key that is no row becomes one field of the key that is handed on, whatever its source made it of.
        let fields = |input: &Input| match input.has_rows() {
            true => input.port.key_columns.len(),
            false => 1,
        };
        let mut agreed = agreed(joined, |port| &port.key_columns);
        if joined.iter().any(|input| fields(input) != agreed.len()) {
            agreed.clear();
        }
        if names.is_empty() {
            let columns = agreed.into_iter();
            return Ok(columns.map(|it| (it.name, it.kind.into())).collect());
        }
        for input in joined {
            let known = &input.port.key_columns;
            if !known.is_empty() && fields(input) != names.len() {
                let counted = |count: usize, what| match count {
                    1 => format!("1 {what}"),
                    _ => format!("{count} {what}s"),
                };
                let known: Vec<&str> = known.iter().map(|it| it.name.as_str()).collect();
                return Err(Error::config(format_args!(
                    "config: `{option}` has {} ({}), but the key has {} ({})",
                    counted(names.len(), "name"),
                    names.join(", "),
                    counted(fields(input), "field"),
                    known.join(", ")
                )));
            }
        }
        let kind = |at: usize| agreed.get(at).map_or(Kind::Text, |it| it.kind.into());
        let named = names.iter().enumerate();
        Ok(named.map(|(at, name)| (name.clone(), kind(at))).collect())
    }

    /// Declares one value per key.
    pub fn value_state<T: Codec>(&mut self, name: &str) -> ValueState<T> {
        self.value_state_as(name, T::schema(), T::VERSION)
    }

    /// Declares a map per key.
    pub fn map_state<K: MapKey, V: Codec>(&mut self, name: &str) -> MapState<K, V> {
        let schema = (map_schema::<K, V>(), V::VERSION);
        let access = self.declare(name, StateKind::Map, StateScope::Keyed, schema);
        let state = MapState::new(access);
        self.declared.buffers.push(state.buffered());
        state
    }

    /// Declares a list per key.
    pub fn list_state<T: Codec>(&mut self, name: &str) -> ListState<T> {
        let schema = (T::schema(), T::VERSION);
        let access = self.declare(name, StateKind::List, StateScope::Keyed, schema);
        let state = ListState::new(access);
        self.declared.buffers.push(state.buffered());
        state
    }

    /// Says how long the entries of a declared state live: values, the entries of a map, and the elements of a
    /// list, each by itself. The job file may say otherwise (`state.<name>`). Without it entries are kept until
    /// they are removed.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use highwater::{MapState, OpenContext, Ttl, ValueState};
    /// # fn open(ctx: &mut OpenContext) {
    /// let seen: ValueState<u64> = ctx.value_state("seen");
    /// ctx.ttl("seen", Duration::from_secs(3600));
    /// let visits: MapState<String, u64> = ctx.map_state("visits");
    /// ctx.ttl("visits", Ttl::of(Duration::from_secs(60)).refreshed_by_reads().in_event_time());
    /// # }
    /// ```
    pub fn ttl(&mut self, state: &str, ttl: impl Into<Ttl>) {
        match self
            .declared
            .states
            .iter_mut()
            .find(|descriptor| descriptor.name == state)
        {
            Some(descriptor) => descriptor.ttl = Some(ttl.into().to_wit()),
            None => self.declared.problems.push(format!(
                "there is no state `{state}` to give a time to live"
            )),
        }
    }

    /// Declares a list of this subtask, whatever the keys of its records. When the job starts at another
    /// parallelism the elements of all subtasks, one after the other, are cut into equal parts.
    pub fn operator_list<T: Codec>(&mut self, name: &str) -> OperatorList<T> {
        self.own_list(name, StateScope::OperatorSplit)
    }

    /// Declares a list of this subtask of which, when the job starts from a checkpoint, every subtask gets all
    /// elements of all subtasks. Then each should keep only what is its own, or the elements multiply.
    pub fn union_list<T: Codec>(&mut self, name: &str) -> OperatorList<T> {
        self.own_list(name, StateScope::OperatorUnion)
    }

    fn own_list<T: Codec>(&mut self, name: &str, scope: StateScope) -> OperatorList<T> {
        let schema = (T::schema(), T::VERSION);
        OperatorList::new(self.declare(name, StateKind::List, scope, schema))
    }

    /// Declares a map that is the same on every subtask; see [`BroadcastState`].
    pub fn broadcast<K: MapKey, V: Codec>(&mut self, name: &str) -> BroadcastState<K, V> {
        let schema = (map_schema::<K, V>(), V::VERSION);
        BroadcastState::new(self.declare(name, StateKind::Map, StateScope::Broadcast, schema))
    }

    fn declare(
        &mut self,
        name: &str,
        kind: StateKind,
        scope: StateScope,
        (schema, schema_version): (String, u32),
    ) -> Access {
        let Declared {
            states, problems, ..
        } = &mut self.declared;
        if states.iter().any(|state| state.name == name) {
            problems.push(format!("state `{name}` is declared twice"));
        }
        let mut number = states.len();
        if let Some(context) = &self.opened {
            number = context
                .states
                .iter()
                .position(|state| state == name)
                .unwrap_or_else(|| {
                    problems.push(format!(
                        "state `{name}` was not declared when the operator was described"
                    ));
                    number
                });
        }
        let name: Rc<str> = name.into();
        states.push(wit_guest::StateDescriptor {
            name: name.to_string(),
            kind,
            scope,
            schema,
            schema_version,
            ttl: None,
        });
        Access {
            call: Rc::clone(&self.call),
            host: self.host.clone(),
            number: number as u32,
            name,
        }
    }

    /// Where timers are registered and deleted. An operator that does not ask for it gets none.
    pub fn timers(&mut self) -> Timers {
        self.declared.has_own_timers = true;
        self.window_timers()
    }

    /// The same for a window.
    pub(crate) fn window_timers(&mut self) -> Timers {
        let Self {
            declared,
            call,
            host,
            ..
        } = self;
        let timers = declared.timers.get_or_insert_with(|| {
            let timers = Timers::new(Rc::clone(call), host.clone());
            declared.buffers.push(timers.buffered());
            timers
        });
        timers.share()
    }

    /// Declares one accumulator per key, to which records are added.
    pub fn aggregating_state<G: Aggregate>(
        &mut self,
        name: &str,
        aggregate: G,
    ) -> AggregatingState<G> {
        let version = <G::Accumulator as Codec>::VERSION;
        let accumulators = self.value_state_as(name, aggregate.schema(), version);
        AggregatingState::new(aggregate, accumulators)
    }

    /// Declares one value per key, with which those that are added are combined: `combine` changes the value that is
    /// held.
    pub fn reducing_state<T: Codec>(
        &mut self,
        name: &str,
        combine: impl Fn(&mut T, T) + 'static,
    ) -> ReducingState<T> {
        let values = self.value_state(name);
        ReducingState::new(combine, values)
    }

    /// Declares one value per key under a schema that says more than its type does.
    pub(crate) fn value_state_as<T: Codec>(
        &mut self,
        name: &str,
        schema: String,
        version: u32,
    ) -> ValueState<T> {
        let schema = (schema, version);
        let access = self.declare(name, StateKind::Value, StateScope::Keyed, schema);
        let state = ValueState::new(access);
        self.declared.buffers.push(state.buffered());
        state
    }

    /// The number of a window that is declared.
    pub(crate) fn declare_window(&mut self, settings: Rc<Settings>) -> u32 {
        self.declared.windows.push(settings);
        self.declared.windows.len() as u32 - 1
    }

    /// What calls go through.
    pub(crate) fn surroundings(&self) -> (Rc<Call>, Host) {
        (Rc::clone(&self.call), self.host.clone())
    }

    /// A metric that counts up. Metrics of all subtasks are added up and reported when the job ends; see
    /// `docs/operators.md`.
    pub fn counter(&mut self, name: &str) -> Counter {
        Counter(self.metrics.register(MetricKind::Counter, name))
    }

    /// A metric that shows the last value set.
    pub fn gauge(&mut self, name: &str) -> Gauge {
        Gauge(self.metrics.register(MetricKind::Gauge, name))
    }

    /// A metric that shows how values are distributed.
    pub fn histogram(&mut self, name: &str) -> Histogram {
        Histogram(self.metrics.register(MetricKind::Histogram, name))
    }

    /// The clocks that an operator should use.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock {
            call: Rc::clone(&self.call),
            host: self.host.clone(),
        }
    }
}

/// Columns that all of these inputs have, in one order; none, if they differ. One of several kinds is text.
fn agreed(inputs: &[Input], columns: impl Fn(&wit::Port) -> &[wit::Column]) -> Vec<wit::Column> {
    let Some((first, others)) = inputs.split_first() else {
        return Vec::new();
    };
    let mut agreed = columns(&first.port).to_vec();
    for other in others {
        let other = columns(&other.port);
        let names = |columns: &[wit::Column]| -> Vec<String> {
            columns.iter().map(|column| column.name.clone()).collect()
        };
        if names(&agreed) != names(other) {
            return Vec::new();
        }
        for (column, other) in agreed.iter_mut().zip(other) {
            if column.kind != other.kind {
                column.kind = wit::ColumnKind::Text;
            }
        }
    }
    agreed
}

fn map_schema<K: MapKey, V: Codec>() -> String {
    format!("{}={}", K::key_schema(), V::schema())
}

/// The host's clocks. Reading one for the first time in a call is a call to the host.
#[derive(Clone, Debug)]
pub struct Clock {
    call: Rc<Call>,
    host: Host,
}

impl Clock {
    /// Milliseconds since 1970-01-01 UTC, the same throughout a call.
    #[must_use]
    pub fn processing_time(&self) -> i64 {
        self.call.processing_time(&self.host)
    }

    /// The highest watermark that all inputs have reached, in milliseconds since 1970-01-01 UTC. `None` before
    /// the first one, which is always so if no source has a `watermark` in the job file.
    #[must_use]
    pub fn watermark(&self) -> Option<i64> {
        Some(self.call.watermark(&self.host)).filter(|&watermark| watermark != NO_TIMESTAMP)
    }
}

/// Says more about an output; see [`OpenContext::output`].
#[derive(Debug)]
pub struct OutputBuilder<'a> {
    port: &'a mut wit::Port,
}

impl OutputBuilder<'_> {
    /// Names the columns of the value.
    pub fn columns<N: AsRef<str>>(self, columns: impl IntoIterator<Item = (N, Kind)>) -> Self {
        self.port.format = wit::Format::Row(to_wit(columns));
        self
    }

    /// Names the columns of the key.
    pub fn key_columns<N: AsRef<str>>(self, columns: impl IntoIterator<Item = (N, Kind)>) -> Self {
        self.port.key_columns = to_wit(columns);
        self
    }

    /// Its records have no keys.
    pub fn unkeyed(self) -> Self {
        self.port.keyed = false;
        self
    }

    /// Each value is one text, not a row.
    pub fn text(self) -> Self {
        self.port.format = wit::Format::Text;
        self
    }

    /// Each value is one JSON document.
    pub fn json(self) -> Self {
        self.port.format = wit::Format::Json;
        self
    }

    /// Values are bytes that only operators understand.
    pub fn bytes(self) -> Self {
        self.port.format = wit::Format::Bytes;
        self
    }
}

impl From<wit::ColumnKind> for Kind {
    fn from(kind: wit::ColumnKind) -> Self {
        match kind {
            wit::ColumnKind::Text => Self::Text,
            wit::ColumnKind::Integer => Self::Integer,
            wit::ColumnKind::Float => Self::Float,
            wit::ColumnKind::Boolean => Self::Boolean,
        }
    }
}

fn to_wit<N: AsRef<str>>(columns: impl IntoIterator<Item = (N, Kind)>) -> Vec<wit::Column> {
    let column = |(name, kind): (N, Kind)| wit::Column {
        name: name.as_ref().to_owned(),
        kind: match kind {
            Kind::Text => wit::ColumnKind::Text,
            Kind::Integer => wit::ColumnKind::Integer,
            Kind::Float => wit::ColumnKind::Float,
            Kind::Boolean => wit::ColumnKind::Boolean,
        },
    };
    columns.into_iter().map(column).collect()
}
