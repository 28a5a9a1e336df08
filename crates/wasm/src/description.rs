//! What an operator says about itself, checked before anything is built on it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread;

use dataflow::operator_state;
use dataflow::port::{Column, Format, Port};
use dataflow::state::{StateDescriptor, StateKind, TimeDomain, Ttl, timer_states};
use operator::text::shown;
use operator::{Failure, FailureKind};

use super::component::Component;
use super::grants::Grants;
use super::instance::{Blueprint, Instance};
use super::metrics::Metrics;
use super::phase::Phase;
use super::wire::v01::WireDescription01;
use super::wire::{WireDescription, WirePort, WireState};
use super::world::WorldVersion;

/// What an operator needs and gives, for one configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Names of its inputs; at least one.
    pub inputs: Vec<String>,
    /// Its outputs; the first is the default one.
    pub outputs: Vec<Port>,
    /// Its operator states, which calls number after the keyed ones.
    pub operator_states: Vec<operator_state::Descriptor>,
    /// Its keyed states, in the order by which calls number them; after them those of timers, if it uses any.
    pub states: Vec<StateDescriptor>,
}

/// Inputs, outputs, or states of one operator.
const COUNT_MAX: usize = 64;
/// Columns of one row.
const COLUMNS_MAX: usize = 4096;
/// Bytes of a name: it becomes part of file names and metadata.
const NAME_LEN_MAX: usize = 128;
/// Bytes of the name of a schema.
const SCHEMA_LEN_MAX: usize = 1024;

impl Component {
    /// Asks the operator what it needs for this configuration (JSON) and these inputs, in an instance that is
    /// thrown away, under the component's limits and without network. `inputs` is what feeds it in the order of
    /// the job file, and empty if something of it is not known; a component of 0.1 does not learn it.
    ///
    /// # Errors
    /// The operator refuses the configuration, fails, or describes what is not possible.
    pub fn describe(
        &self,
        config: &str,
        inputs: &[Port],
        grants: &Grants,
    ) -> Result<Description, Failure> {
        let blueprint = self.blueprint(grants, Grants::without_network)?;
        let name = self
            .path()
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        // On a thread of its own: callers may be in an async task, where waiting is not possible.
        let described = thread::scope(|scope| {
            let describing = thread::Builder::new()
                .name("describe".to_owned())
                .spawn_scoped(scope, || describe(&blueprint, &name, config, inputs));
            let describing = describing.map_err(|error| {
                Failure::new(
                    FailureKind::Returned,
                    format!("no thread to describe the operator on: {error}"),
                )
            })?;
            describing
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let secrets = &blueprint.granted.secrets;
        check(described).map_err(|problem| unusable(secrets.hidden(&problem).into_owned()))
    }
}

fn unusable(problem: String) -> Failure {
    Failure::new(
        FailureKind::Config,
        format!("the operator's description cannot be used: {problem}"),
    )
}

fn describe(
    blueprint: &Blueprint,
    name: &str,
    config: &str,
    inputs: &[Port],
) -> Result<WireDescription, Failure> {
    let mut instance = Instance::new(
        blueprint,
        name,
        None,
        Arc::new(Mutex::new(Metrics::default())),
    )?;
    let phase = Phase::Describe;
    match blueprint.world.speaks {
        WorldVersion::V01 => instance
            .call(phase, |functions| functions.describe, (config,))
            .and_then(|described: WireDescription01| described.upgrade().map_err(unusable)),
        WorldVersion::V02 => {
            let inputs: Vec<WirePort> = inputs.iter().map(WirePort::from).collect();
            instance.call(phase, |functions| functions.describe, (config, &inputs[..]))
        }
    }
}

fn check(described: WireDescription) -> Result<Description, String> {
    let WireDescription {
        mut inputs,
        outputs,
        states,
        uses_timers,
    } = described;
    if inputs.is_empty() {
        inputs.push("in".to_owned());
    }
    check_names("input", inputs.iter().map(String::as_str))?;
    let outputs: Vec<Port> = outputs.into_iter().map(Port::from).collect();
    check_names("output", outputs.iter().map(|port| port.name.as_str()))?;
    for port in &outputs {
        check_columns(port, &port.key_columns)?;
        if let Format::Row(columns) = &port.format {
            check_columns(port, columns)?;
        }
    }
    check_names("state", states.iter().map(|state| state.name.as_str()))?;
    for state in &states {
        let name = &state.name;
        if TimeDomain::ALL
            .iter()
            .any(|domain| domain.state_name() == name)
        {
            return Err(format!(
                "state `{name}` has the name under which timers are kept; give it another"
            ));
        }
        check_scope(state)?;
        if state.schema.len() > SCHEMA_LEN_MAX {
            return Err(format!(
                "the schema of state `{name}` has more than {SCHEMA_LEN_MAX} bytes"
            ));
        }
        if state.ttl.is_some_and(|ttl| Ttl::from(ttl).millis == 0) {
            return Err(format!(
                "state `{name}` has a TTL of 0 ms: its entries have to live for at least 1 ms"
            ));
        }
    }
    let (mut keyed, mut operator_states) = (Vec::new(), Vec::new());
    for state in states {
        match state.scope.of_operator() {
            None => keyed.push(StateDescriptor {
                name: state.name,
                kind: state.kind.into(),
                schema: state.schema,
                schema_version: state.schema_version,
                ttl: state.ttl.map(Ttl::from),
            }),
            Some(scope) => operator_states.push(operator_state::Descriptor {
                name: state.name,
                scope,
                schema: state.schema,
                schema_version: state.schema_version,
            }),
        }
    }
    let timers = uses_timers.then(timer_states).into_iter().flatten();
    Ok(Description {
        inputs,
        outputs,
        states: keyed.into_iter().chain(timers).collect(),
        operator_states,
    })
}

/// Operator state is of one kind for each scope, and does not expire.
fn check_scope(state: &WireState) -> Result<(), String> {
    let (name, scope) = (&state.name, state.scope.name());
    let Some(of_operator) = state.scope.of_operator() else {
        return Ok(());
    };
    let kind = StateKind::from(state.kind);
    let needed = match of_operator.is_map() {
        true => StateKind::Map,
        false => StateKind::List,
    };
    if kind != needed {
        return Err(format!(
            "state `{name}` has the scope `{scope}` and the kind `{}`; with this scope its kind is `{}`",
            kind.name(),
            needed.name()
        ));
    }
    if state.ttl.is_some() {
        return Err(format!(
            "state `{name}` has the scope `{scope}` and a TTL, but only keyed state expires"
        ));
    }
    Ok(())
}

fn check_names<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    check_unique(what, "", COUNT_MAX, names)
}

fn check_columns(port: &Port, columns: &[Column]) -> Result<(), String> {
    let of = format!(" of output `{}`", port.name);
    let names = columns.iter().map(|column| column.name.as_str());
    check_unique("column", &of, COLUMNS_MAX, names)
}

fn check_unique<'a>(
    what: &str,
    of: &str,
    count_max: usize,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let mut seen = HashSet::new();
    for name in names {
        // A name that would have to be escaped could be taken for another.
        if name.is_empty() || shown(name, NAME_LEN_MAX) != name {
            return Err(format!(
                "the name of {what} {}{of} must have 1 to {NAME_LEN_MAX} bytes, without control \
                 characters and marks that reorder text",
                seen.len()
            ));
        }
        if !seen.insert(name) {
            return Err(format!("there are two {what}s `{name}`{of}"));
        }
        if seen.len() > count_max {
            return Err(format!("there are more than {count_max} {what}s{of}"));
        }
    }
    Ok(())
}
