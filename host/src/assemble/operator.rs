//! An operator's component: found, loaded, and asked what it is for its configuration.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dataflow::KeyGroups;
use dataflow::port::Port;
use dataflow::state::StateKind;
use job_file::bad_records::DEAD_LETTER;
use job_file::operator::{OperatorSection, Overdue};
use job_file::problem::Problems;
use job_file::units::exact_size;
use job_file::{DISK_STATE_MEMORY, JobFile, StateBackend};
use operator::{Failure, FailureKind};
use runtime::graph::{OperatorNode, StateMemory};
use wasm::{
    self, Component, Description, DirGrant, Factory, Grants, Host, Limits, MetricKind,
    OperatorSpec, Secret,
};

use super::bad_records::has_dead_letters;
use super::ports::Facts;
use super::secrets;
use crate::events::Metric;
use crate::exit::causes;

/// A component with what it said about itself.
pub(crate) struct PreparedOperator {
    component: Component,
    description: Description,
    config: String,
    limits: Limits,
    grants: Grants,
    state_limit: Option<u64>,
    state_memory: Option<StateMemory>,
    /// See [`OperatorNode::skip_overdue_timers`].
    skip_overdue_timers: bool,
    /// What makes its instances, once the job has a graph: it knows their metrics.
    factory: Mutex<Option<Arc<Factory>>>,
}

fn has_output(description: &Description, name: &str) -> bool {
    description.outputs.iter().any(|output| output.name == name)
}

/// Loads and describes an operator's component. `inputs` is what feeds it, in the order of the job file; empty if
/// something of it is not known. What is wrong goes to `problems`.
pub(crate) fn prepare(
    job: &JobFile,
    section: &OperatorSection,
    inputs: &[Port],
    host: &Host,
    problems: &mut Problems,
) -> Option<PreparedOperator> {
    let path = section.component.as_deref()?;
    let configuration = secrets::configuration(section, problems);
    let mut problem = |key: &str, message: String, hint: Option<String>| {
        let place = section.node.place_of(key);
        let key = format!("operator.{}.{key}", section.node.id);
        problems.push(place, key, message, hint);
    };
    if !path.exists() {
        let message = format!("the file {} does not exist", path.display());
        let hint = section
            .build
            .as_ref()
            .map(|build| format!("`--build` runs its build command first: {build}"));
        problem("component", message, hint);
        return None;
    }
    let limits = limits(section);
    if limits
        .recycle_memory
        .is_some_and(|most| most >= limits.memory)
    {
        let message = format!(
            "must be less than limits.memory = {}, or no instance is ever recycled",
            exact_size(limits.memory)
        );
        problem("limits.recycle-memory", message, None);
        return None;
    }
    let component = match host.load(path, &limits) {
        Ok(component) => component,
        Err(error) => {
            problem("component", causes(&error), None);
            return None;
        }
    };
    let (config, secrets) = configuration?;
    let grants = grants(section, secrets);
    let grant_problems = grants.problems();
    for error in &grant_problems {
        problem("grants", error.to_string(), None);
    }
    if !grant_problems.is_empty() {
        return None;
    }
    let mut description = match component.describe(&config, inputs, &grants) {
        Ok(description) => description,
        Err(failure) => {
            let key = key_of(&failure);
            let mut message = failure.message;
            if let Some(backtrace) = &failure.backtrace {
                tracing::debug!("{}: {message}\n{backtrace}", job.file);
                message.push_str(" (while it was asked to describe itself)");
            }
            problem(key, message, None);
            // What it says without knowing its inputs is enough to look for mistakes of those that read from it.
            let apart = (failure.kind == FailureKind::Config && !inputs.is_empty())
                .then(|| component.describe(&config, &[], &grants));
            apart?.ok()?
        }
    };
    if !set_ttls(section, &mut description, &mut problem) {
        return None;
    }
    if has_dead_letters(section.bad_records.as_ref()) && has_output(&description, DEAD_LETTER) {
        let message = "the component has an output `dead-letter` of its own";
        let hint = "use `on-error = \"skip\"`, or rename that output";
        problem("on-error", message.into(), Some(hint.into()));
        return None;
    }
    let has_values = description
        .states
        .iter()
        .any(|state| state.kind == StateKind::Value);
    if section.limits.state_memory.is_some() && !has_values {
        let message = "the operator has no value state, and nothing else can leave memory";
        problem(
            "limits.state-memory",
            message.into(),
            Some("leave it out".into()),
        );
        return None;
    }
    let state_memory = |bytes| StateMemory {
        bytes,
        scratch_dir: job.job.scratch_dir(),
    };
    let on_disk = job.job.state_backend == Some(StateBackend::Disk) && has_values;
    let budget = on_disk.then_some(DISK_STATE_MEMORY);
    Some(PreparedOperator {
        component,
        description,
        config,
        limits,
        grants,
        skip_overdue_timers: section.overdue == Overdue::Skip,
        state_limit: section.limits.state,
        state_memory: section.limits.state_memory.or(budget).map(state_memory),
        factory: Mutex::default(),
    })
}

/// Gives the states of a component the times to live that the job file says. Returns whether it has all of
/// them.
fn set_ttls(
    section: &OperatorSection,
    description: &mut Description,
    problem: &mut impl FnMut(&str, String, Option<String>),
) -> bool {
    let mut all = true;
    for stated in &section.states {
        // Timers are no state that a component declares.
        let mut declared = description
            .states
            .iter_mut()
            .filter(|state| state.kind != StateKind::Timers);
        match declared.find(|state| state.name == stated.name) {
            Some(state) => state.ttl = stated.ttl,
            None => {
                all = false;
                let states = description.states.iter();
                let names: Vec<String> = states
                    .filter(|state| state.kind != StateKind::Timers)
                    .map(|state| format!("`{}`", state.name))
                    .collect();
                let hint = match names.is_empty() {
                    true => "leave `state` out: it declares none".to_owned(),
                    false => format!("it declares {}", names.join(", ")),
                };
                let message = "the component has no keyed state of this name".to_owned();
                problem(&format!("state.{}", stated.name), message, Some(hint));
            }
        }
    }
    all
}

/// The key of the job file that a failure is about, before anything runs.
fn key_of(failure: &Failure) -> &'static str {
    failure.key.unwrap_or(match failure.kind {
        FailureKind::Config => "config",
        FailureKind::MemoryLimit => "limits.memory",
        _ => "component",
    })
}

/// Notes what an operator found wrong when it was opened, at the key that it is about.
pub(super) fn push_failure(job: &JobFile, id: &str, failure: &Failure, problems: &mut Problems) {
    let Some(section) = job.operators.iter().find(|section| section.node.id == id) else {
        return;
    };
    let key = key_of(failure);
    if let Some(backtrace) = &failure.backtrace {
        tracing::debug!("{}: {}\n{backtrace}", job.file, failure.message);
    }
    let place = section.node.place_of(key);
    let message = failure.message.clone();
    problems.push(place, format!("operator.{id}.{key}"), message, None);
}

impl PreparedOperator {
    /// The component's digest.
    pub(crate) fn digest(&self) -> String {
        format!("sha256:{}", self.component.digest())
    }

    /// Whether it uses timers, of whichever domain.
    pub(crate) fn has_timers(&self) -> bool {
        let mut states = self.description.states.iter();
        states.any(|state| state.kind == StateKind::Timers)
    }

    /// What its place in the graph depends on.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            inputs: self.description.inputs.clone(),
            outputs: self.description.outputs.clone(),
            keyed_state: !self.description.states.is_empty(),
            max_parallelism: None,
        }
    }

    /// The limits as the job file would have them.
    pub(crate) fn limits(&self) -> toml::Table {
        let mut table = toml::Table::new();
        table.insert("memory".into(), exact_size(self.limits.memory).into());
        if let Some(bytes) = self.limits.recycle_memory {
            table.insert("recycle-memory".into(), exact_size(bytes).into());
        }
        let call_time = humantime::format_duration(self.limits.call_time);
        table.insert("call-time".into(), call_time.to_string().into());
        let call_writes = exact_size(self.limits.call_writes);
        table.insert("call-writes".into(), call_writes.into());
        let compile_time = humantime::format_duration(self.limits.compile_time);
        table.insert("compile-time".into(), compile_time.to_string().into());
        let compile_memory = exact_size(self.limits.compile_memory);
        table.insert("compile-memory".into(), compile_memory.into());
        table.insert("resources".into(), self.limits.resources.into());
        if let Some(bytes) = self.state_limit {
            table.insert("state".into(), exact_size(bytes).into());
        }
        if let Some(memory) = &self.state_memory {
            table.insert("state-memory".into(), exact_size(memory.bytes).into());
        }
        table.insert("trusted".into(), self.limits.trusted.into());
        table
    }

    /// Whether it keeps state by key, and the memory for it, if what does not fit goes to disk.
    pub(crate) fn state_memory(&self) -> Option<Option<u64>> {
        let states = self.description.states.iter();
        let keyed = states
            .filter(|state| state.kind != StateKind::Timers)
            .count()
            > 0;
        keyed.then(|| self.state_memory.as_ref().map(|memory| memory.bytes))
    }

    /// Opens it once as a subtask does, and drops it again: its inputs are known only in a graph, so what
    /// it finds wrong with their columns it can say only here.
    ///
    /// # Errors
    /// It does not open.
    pub(crate) fn try_open(&self, parallelism: u32) -> Result<(), Failure> {
        let factory = self.factory.lock().unwrap_or_else(PoisonError::into_inner);
        match factory.as_ref() {
            Some(factory) => factory.try_open(parallelism),
            None => Ok(()),
        }
    }

    /// The metrics of the instances that the newest graph has made, by name.
    pub(crate) fn metrics(&self) -> BTreeMap<String, Metric> {
        let factory = self.factory.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = factory.as_ref().map(|factory| factory.metrics());
        let reported = |(name, metric): (String, wasm::Metric)| (name, reported(&metric));
        metrics
            .unwrap_or_default()
            .into_iter()
            .map(reported)
            .collect()
    }

    /// What the runtime needs of it. `upstream`: what feeds each of its inputs.
    ///
    /// # Errors
    /// A grant cannot be given now.
    pub(crate) fn node(
        &self,
        id: &str,
        inputs: Vec<Port>,
        key_groups: KeyGroups,
    ) -> Result<OperatorNode, Failure> {
        let factory = self.component.factory(OperatorSpec {
            id: id.to_owned(),
            config: self.config.clone(),
            grants: self.grants.clone(),
            inputs,
            description: self.description.clone(),
            key_groups,
        })?;
        *self.factory.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&factory));
        let labels = [
            ("component", self.digest()),
            ("world", self.component.world_version().to_owned()),
        ];
        Ok(OperatorNode {
            factory,
            states: self.description.states.clone(),
            operator_states: self.description.operator_states.clone(),
            skip_overdue_timers: self.skip_overdue_timers,
            outputs: self.description.outputs.len() as u32,
            state_limit: self.state_limit,
            state_memory: self.state_memory.clone(),
            labels: labels
                .into_iter()
                .map(|(label, value)| (label.to_owned(), value))
                .collect::<BTreeMap<_, _>>(),
        })
    }
}

fn reported(metric: &wasm::Metric) -> Metric {
    let some = |value: f64| (metric.count > 0).then_some(value);
    match metric.kind {
        MetricKind::Counter => Metric::Counter {
            value: metric.value,
        },
        MetricKind::Gauge => Metric::Gauge {
            value: metric.value,
        },
        MetricKind::Histogram => Metric::Histogram {
            count: metric.count,
            sum: metric.value,
            min: some(metric.min),
            max: some(metric.max),
        },
    }
}

fn limits(section: &OperatorSection) -> Limits {
    let default = Limits::default();
    let limits = &section.limits;
    Limits {
        memory: limits.memory.unwrap_or(default.memory),
        recycle_memory: limits.recycle_memory,
        call_time: limits.call_time.unwrap_or(default.call_time),
        call_writes: limits.call_writes.unwrap_or(default.call_writes),
        compile_time: limits.compile_time.unwrap_or(default.compile_time),
        compile_memory: limits.compile_memory.unwrap_or(default.compile_memory),
        resources: limits.resources.unwrap_or(default.resources),
        trusted: limits.trusted,
    }
}

fn grants(section: &OperatorSection, secrets: Vec<Secret>) -> Grants {
    let grants = &section.grants;
    let dirs = grants.dirs.iter().map(|dir| DirGrant {
        host: dir.host.clone(),
        guest: dir.guest.clone(),
        write: dir.write,
    });
    Grants {
        env: grants.env.clone(),
        dirs: dirs.collect(),
        network: grants.network.clone(),
        private_network: grants.private_network.clone(),
        clock: grants.clock,
        random: grants.random,
        secrets,
    }
}
