//! From a job file to a job graph: connectors prepared, components loaded and asked what they are,
//! ports joined, records dealt.
//!
//! Like reading the job file, this goes on after a mistake, so that all of them are reported at once.
//! Only [`Prepared::graph`], which is to be had only if nothing is wrong, gives something to run.
//!
//! Modules in reading order.

mod bad_records;
pub(crate) mod build;
mod directories;
pub(crate) mod operator;
pub(crate) mod partition;
pub(crate) mod ports;
mod secrets;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use ::operator::Failure;
use ::operator::clock::Clock;
use connectors::{PreparedSink, PreparedSource, Registry, SinkContext, SourceContext};
use dataflow::KeyGroups;
use dataflow::port::Port;
use job_file::JobFile;
use job_file::effective::{self, Settled, SettledNode};
use job_file::problem::{Problem, Problems};
use job_file::wiring::{NodeRef, Wiring, wire};
use runtime::bad_records::BadRecords;
use runtime::graph::{Edge, JobGraph, Node, NodeKind};

use self::operator::PreparedOperator;
use self::ports::{Facts, Link, arriving};
use crate::events::OperatorMetrics;

/// A job that can be run, but for the number of its key groups, which a checkpoint may have.
pub(crate) struct Prepared {
    /// The job file.
    pub(crate) job: JobFile,
    wiring: Wiring,
    nodes: Vec<PreparedNode>,
    facts: Vec<Option<Facts>>,
    parallelism: Vec<u32>,
    edges: Vec<Vec<Edge>>,
    /// What [`Prepared::config`] has found.
    config: OnceLock<BTreeMap<String, String>>,
}

enum PreparedNode {
    Source(PreparedSource),
    Operator(Box<PreparedOperator>),
    Sink(PreparedSink),
}

/// What a job file's names stand for.
pub(crate) struct Environment<'a> {
    /// Hosts the components.
    pub(crate) wasm: &'a wasm::Host,
    /// What `connector` may name.
    pub(crate) connectors: &'a Registry,
    /// The time, for sources that make records.
    pub(crate) clock: &'a Arc<dyn Clock>,
}

/// Prepares everything that a job consists of. `None` if something is wrong with it, or was before.
pub(crate) fn prepare(
    job: JobFile,
    environment: &Environment<'_>,
    problems: &mut Problems,
) -> Option<Prepared> {
    let wiring = wire(&job, problems);
    let count = wiring.order.len();
    let mut nodes: Vec<Option<PreparedNode>> = Vec::with_capacity(count);
    let mut facts: Vec<Option<Facts>> = vec![None; count];
    for (index, node) in wiring.order.iter().enumerate() {
        let prepared = match node {
            NodeRef::Source(source) => {
                let (connectors, clock) = (environment.connectors, environment.clock);
                prepare_source(&job, *source, connectors, clock, problems).map(PreparedNode::Source)
            }
            NodeRef::Operator(operator) => {
                // Its producers come before it in the order.
                let inputs = ports::feeding(&job, &wiring, &facts, index).unwrap_or_default();
                let section = &job.operators[*operator];
                operator::prepare(&job, section, &inputs, environment.wasm, problems)
                    .map(|prepared| PreparedNode::Operator(Box::new(prepared)))
            }
            // Sinks need to know what they are fed with.
            NodeRef::Sink(_) => None,
        };
        facts[index] = prepared
            .as_ref()
            .map(|prepared| prepared.facts(*node, &job));
        nodes.push(prepared);
    }
    let links: Vec<Vec<Link>> = (0..count)
        .map(|index| ports::links(&job, &wiring, &facts, index, problems))
        .collect();
    for (index, node) in wiring.order.iter().enumerate() {
        if let NodeRef::Sink(sink) = node {
            let ports: Vec<Port> = links[index]
                .iter()
                .filter_map(|link| arriving(&job, &wiring, &facts, link.from, link.port))
                .collect();
            let from_sources = links[index]
                .iter()
                .all(|link| matches!(wiring.order[link.from], NodeRef::Source(_)));
            let connectors = environment.connectors;
            let prepared = prepare_sink(&job, *sink, &ports, from_sources, connectors, problems);
            facts[index] = prepared
                .as_ref()
                .map(|prepared| prepared.facts(*node, &job));
            nodes[index] = prepared;
        } else {
            ports::check_union(&job, &wiring, &facts, index, &links[index], problems);
        }
    }
    let known = wiring.order.iter().zip(&nodes);
    let known = known.filter_map(|(node, prepared)| Some((*node, prepared.as_ref()?)));
    directories::check(&job, known, problems);
    let parallelism: Vec<u32> = wiring
        .order
        .iter()
        .zip(&facts)
        .map(|(node, facts)| partition::parallelism(&job, *node, facts.as_ref(), problems))
        .collect();
    let edges: Vec<Vec<Edge>> = (0..count)
        .map(|index| {
            let deal = |link: &Link| Edge {
                from: link.from,
                port: link.port,
                input: link.input,
                partition: partition::partition(
                    &job,
                    &wiring,
                    &facts,
                    &parallelism,
                    index,
                    link,
                    problems,
                ),
            };
            links[index].iter().map(deal).collect()
        })
        .collect();
    // Known here already where the job file says so; a checkpoint's number is checked later.
    partition::key_groups(&job, &wiring.order, &parallelism, None, problems)?;
    let nodes: Vec<PreparedNode> = nodes.into_iter().collect::<Option<_>>()?;
    problems.is_empty().then_some(Prepared {
        job,
        wiring,
        nodes,
        facts,
        parallelism,
        edges,
        config: OnceLock::new(),
    })
}

impl Prepared {
    /// The graph, with the job's own key groups or else those of the checkpoint that it starts from.
    ///
    /// # Errors
    /// A parallelism is above the number of key groups, or a grant cannot be given.
    pub(crate) fn graph(&self, of_checkpoint: Option<KeyGroups>) -> Result<JobGraph, Problems> {
        let mut problems = Problems::default();
        let groups = partition::key_groups(
            &self.job,
            &self.wiring.order,
            &self.parallelism,
            of_checkpoint,
            &mut problems,
        );
        let Some(key_groups) = groups else {
            return Err(problems);
        };
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for (index, prepared) in self.nodes.iter().enumerate() {
            let node = self.wiring.order[index];
            let kind = match prepared {
                PreparedNode::Source(source) => NodeKind::Source(Arc::clone(&source.factory)),
                PreparedNode::Sink(sink) => NodeKind::Sink(Arc::clone(&sink.factory)),
                PreparedNode::Operator(operator) => {
                    let inputs = self.input_ports(index);
                    let place = (node.node(&self.job), node.path(&self.job, "grants"));
                    match operator.node(&place.0.id, inputs, key_groups) {
                        Ok(operator) => NodeKind::Operator(operator),
                        Err(failure) => {
                            let at = place.0.place_of("grants");
                            problems.push(at, place.1, failure.message, None);
                            continue;
                        }
                    }
                }
            };
            nodes.push(Node {
                id: node.node(&self.job).id.clone(),
                parallelism: self.parallelism[index],
                inputs: self.edges[index].clone(),
                kind,
                bad_records: self.bad_records(index),
            });
        }
        problems.or(JobGraph { nodes, key_groups })
    }

    /// Has every source look again for what there is to read: that may have changed since the job was
    /// prepared. Returns whether the sources declare what they declared then; otherwise the job has to be
    /// prepared from the beginning.
    ///
    /// # Errors
    /// What the sources find wrong now.
    pub(crate) fn look_for_inputs(
        &mut self,
        connectors: &Registry,
        clock: &Arc<dyn Clock>,
    ) -> Result<bool, Problems> {
        let mut problems = Problems::default();
        let mut is_same = true;
        for (index, node) in self.wiring.order.iter().enumerate() {
            let NodeRef::Source(source) = node else {
                continue;
            };
            let found = prepare_source(&self.job, *source, connectors, clock, &mut problems);
            if let Some(found) = found.map(PreparedNode::Source) {
                is_same &= self.facts[index].as_ref() == Some(&found.facts(*node, &self.job));
                self.nodes[index] = found;
            }
        }
        let nodes = self.wiring.order.iter().copied().zip(&self.nodes);
        directories::check(&self.job, nodes, &mut problems);
        problems.or(is_same)
    }

    /// Opens every operator of the newest graph once, as a run does: what they find wrong with their
    /// inputs, such as a column that they do not have.
    ///
    /// # Errors
    /// Those that do not open.
    pub(crate) fn try_open(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for (index, node) in self.nodes.iter().enumerate() {
            if let PreparedNode::Operator(operator) = node
                && let Err(failure) = operator.try_open(self.parallelism[index])
            {
                let id = &self.wiring.order[index].node(&self.job).id;
                operator::push_failure(&self.job, id, &failure, &mut problems);
            }
        }
        problems.or(())
    }

    /// The same for one that a run could not open: with its place in the job file.
    pub(crate) fn not_opened(&self, id: &str, failure: &Failure) -> Problems {
        let mut problems = Problems::default();
        operator::push_failure(&self.job, id, failure, &mut problems);
        problems
    }

    /// The keys of the job with what they are set to, as `host check` prints them.
    pub(crate) fn config(&self, groups: KeyGroups) -> &BTreeMap<String, String> {
        self.config.get_or_init(|| {
            let text = effective::to_toml(&self.job, &self.settled(groups));
            let mut config = BTreeMap::new();
            // It is ours, and TOML.
            for (name, value) in text.parse::<toml::Table>().unwrap_or_default() {
                flatten(&name, value, &mut config);
            }
            config
        })
    }

    /// The metrics of all operators that have some.
    pub(crate) fn metrics(&self) -> OperatorMetrics {
        let mut all = OperatorMetrics::new();
        for (index, prepared) in self.nodes.iter().enumerate() {
            if let PreparedNode::Operator(operator) = prepared {
                let metrics = operator.metrics();
                if !metrics.is_empty() {
                    all.insert(self.wiring.order[index].node(&self.job).id.clone(), metrics);
                }
            }
        }
        all
    }

    /// The operators that keep state by key: id, and the memory for it, if what does not fit goes to disk.
    pub(crate) fn state_memory(&self) -> Vec<(&str, Option<u64>)> {
        let prepared = self.nodes.iter().enumerate();
        let operators = prepared.filter_map(|(index, node)| match node {
            PreparedNode::Operator(operator) => {
                let id = &self.wiring.order[index].node(&self.job).id;
                Some((id.as_str(), operator.state_memory()?))
            }
            _ => None,
        });
        operators.collect()
    }

    /// Whether all sources end.
    pub(crate) fn is_bounded(&self) -> bool {
        self.nodes.iter().all(|node| match node {
            PreparedNode::Source(source) => source.bounded,
            _ => true,
        })
    }

    /// What is settled beyond the job file's text.
    pub(crate) fn settled(&self, key_groups: KeyGroups) -> Settled {
        let mut nodes: Vec<SettledNode> = (0..self.nodes.len())
            .map(|index| {
                let mut partitions = self.edges[index].iter().map(|edge| edge.partition);
                let first = partitions.next();
                SettledNode {
                    node: self.wiring.order[index],
                    parallelism: self.parallelism[index],
                    partition: first.filter(|first| partitions.all(|other| other == *first)),
                    options: match &self.nodes[index] {
                        PreparedNode::Source(source) => source.options.clone(),
                        PreparedNode::Operator(operator) => operator.limits().into(),
                        PreparedNode::Sink(sink) => sink.options.clone(),
                    },
                }
            })
            .collect();
        nodes.sort_by_key(|settled| settled.node);
        Settled {
            key_groups: key_groups.count(),
            nodes,
        }
    }

    /// The outputs of operators that nothing reads: id and output.
    pub(crate) fn unread_outputs(&self) -> Vec<(&str, &str)> {
        let mut unread = Vec::new();
        for (index, facts) in self.facts.iter().enumerate() {
            let NodeRef::Operator(_) = self.wiring.order[index] else {
                continue;
            };
            let id = &self.wiring.order[index].node(&self.job).id;
            let outputs = facts.iter().flat_map(|facts| &facts.outputs);
            for (port, output) in (0..).zip(outputs) {
                let mut edges = self.edges.iter().flatten();
                if !edges.any(|edge| (edge.from, edge.port) == (index, port)) {
                    unread.push((id.as_str(), output.name.as_str()));
                }
            }
        }
        unread
    }

    /// Operators with timers, each with a source that feeds them and never ends, and whose records have event times
    /// without watermarks: ids.
    pub(crate) fn timers_without_watermark(&self) -> Vec<(&str, &str)> {
        let id = |index: usize| self.wiring.order[index].node(&self.job).id.as_str();
        let mut found = Vec::new();
        let has_timers = |node: &PreparedNode| match node {
            PreparedNode::Operator(operator) => operator.has_timers(),
            PreparedNode::Source(_) | PreparedNode::Sink(_) => false,
        };
        let lacks_watermarks = |at: usize| match &self.nodes[at] {
            PreparedNode::Source(source) => {
                let table = &self.wiring.order[at].node(&self.job).table;
                let has = |key| table.get(key).is_some();
                !source.bounded && has("timestamp") && !has("watermark")
            }
            PreparedNode::Operator(_) | PreparedNode::Sink(_) => false,
        };
        for index in (0..self.nodes.len()).filter(|index| has_timers(&self.nodes[*index])) {
            let mut above = vec![index];
            let mut seen = BTreeSet::new();
            while let Some(at) = above.pop() {
                if !seen.insert(at) {
                    continue;
                }
                above.extend(self.edges[at].iter().map(|edge| edge.from));
                if lacks_watermarks(at) {
                    found.push((id(index), id(at)));
                }
            }
        }
        found
    }

    /// What becomes of bad records of the node at `index`, if they are left out.
    fn bad_records(&self, index: usize) -> Option<Arc<BadRecords>> {
        let node = self.wiring.order[index];
        let bad = node.bad_records(&self.job)?;
        let component = match &self.nodes[index] {
            PreparedNode::Operator(operator) => Some(operator.digest()),
            PreparedNode::Source(_) | PreparedNode::Sink(_) => None,
        };
        let (job, id) = (&self.job, &node.node(&self.job).id);
        let upstream = self.upstream(index);
        Some(bad_records::policy(job, id, bad, component, upstream))
    }

    /// What feeds each input of the operator at `index`.
    fn upstream(&self, index: usize) -> Vec<Vec<String>> {
        let mut upstream = Vec::new();
        for edge in &self.edges[index] {
            let input = edge.input as usize;
            if upstream.len() <= input {
                upstream.resize(input + 1, Vec::new());
            }
            let port = arriving(&self.job, &self.wiring, &self.facts, edge.from, edge.port);
            upstream[input].extend(port.map(|port| port.name));
        }
        upstream
    }

    /// What arrives on each input of the operator at `index`; of a union, what its outputs have in common.
    fn input_ports(&self, index: usize) -> Vec<Port> {
        let edges = &self.edges[index];
        let port =
            |edge: &Edge| arriving(&self.job, &self.wiring, &self.facts, edge.from, edge.port);
        let inputs = edges.iter().map(|edge| edge.input + 1);
        (0..inputs.max().unwrap_or(0))
            .filter_map(|input| {
                let joined = edges.iter().filter(|edge| edge.input == input);
                ports::joined(joined.filter_map(port))
            })
            .collect()
    }
}

impl PreparedNode {
    fn facts(&self, node: NodeRef, job: &JobFile) -> Facts {
        let mut facts = match self {
            Self::Source(source) => Facts {
                outputs: vec![source.port.clone()],
                max_parallelism: source.max_parallelism,
                ..Facts::default()
            },
            Self::Operator(operator) => operator.facts(),
            Self::Sink(_) => Facts::default(),
        };
        if bad_records::has_dead_letters(node.bad_records(job)) {
            facts.outputs.push(bad_records::port());
        }
        facts
    }
}

fn prepare_source(
    job: &JobFile,
    index: usize,
    connectors: &Registry,
    clock: &Arc<dyn Clock>,
    problems: &mut Problems,
) -> Option<PreparedSource> {
    let source = &job.sources[index];
    let connector = source.connector.as_deref()?;
    let clock = Arc::clone(clock);
    let context = SourceContext {
        base_dir: &job.base,
        clock: Arc::new(move || clock.now_ms()),
    };
    match connectors.source(connector, source.options.clone(), &context) {
        Ok(prepared) => {
            if source.bad_records.is_some() && !prepared.reads_text {
                let message = format!("`{connector}` makes no records that it cannot read");
                let problem = Problem::new("on-error", message).hint("leave it out");
                problems.extend(placed(job, NodeRef::Source(index), vec![problem]));
                return None;
            }
            Some(prepared)
        }
        Err(found) => {
            problems.extend(placed(job, NodeRef::Source(index), found));
            None
        }
    }
}

/// `ports` are those of its inputs that are known; `has_rows_of_sources` says whether sources alone feed it.
fn prepare_sink(
    job: &JobFile,
    index: usize,
    ports: &[Port],
    has_rows_of_sources: bool,
    connectors: &Registry,
    problems: &mut Problems,
) -> Option<PreparedNode> {
    let sink = &job.sinks[index];
    let connector = sink.connector.as_deref()?;
    let context = SinkContext {
        base_dir: &job.base,
        input_ports: ports,
        has_checkpoints: job.checkpoint.interval.is_some(),
        permissions: job.checkpoint.permissions,
        has_rows_of_sources,
    };
    match connectors.sink(connector, sink.options.clone(), &context) {
        Ok(sink) => Some(PreparedNode::Sink(sink)),
        Err(mut found) => {
            // That an input is not known follows from what was said about its producer.
            let references = sink.inputs.as_ref().map_or(0, |inputs| inputs.refs.len());
            if ports.len() < references || references == 0 {
                found.retain(|problem| problem.key != "input");
            }
            problems.extend(placed(job, NodeRef::Sink(index), found));
            None
        }
    }
}

/// A connector's problems with their places in the job file.
fn placed(job: &JobFile, node: NodeRef, found: Vec<Problem>) -> impl Iterator<Item = Problem> {
    found.into_iter().map(move |problem| {
        let place = node.node(job).place_of(&problem.key);
        let path = node.path(job, &problem.key);
        problem.at(place, path)
    })
}

/// Notes what stands below a path.
fn flatten(path: &str, value: toml::Value, config: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                flatten(&format!("{path}.{name}"), value, config);
            }
        }
        toml::Value::Array(values) if values.iter().all(toml::Value::is_table) => {
            for value in values {
                let id = value.get("id").and_then(toml::Value::as_str);
                let path = format!("{path}.{}", id.unwrap_or_default());
                flatten(&path, value, config);
            }
        }
        toml::Value::String(text) => drop(config.insert(path.to_owned(), text)),
        other => drop(config.insert(path.to_owned(), other.to_string())),
    }
}
