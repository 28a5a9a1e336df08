//! Who reads from whom: the ids of a job file resolved to a graph without cycles.

use std::collections::{BTreeMap, HashMap};

use super::JobFile;
use super::bad_records::BadRecords;
use super::hints::did_you_mean;
use super::node::{InputRef, Inputs, Node};
use super::problem::{Place, Problems};

/// One of a job file's nodes: which list it is in, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeRef {
    /// Index in [`JobFile::sources`].
    Source(usize),
    /// Index in [`JobFile::operators`].
    Operator(usize),
    /// Index in [`JobFile::sinks`].
    Sink(usize),
}

impl NodeRef {
    /// What the node is called in messages and what its list is called in the job file.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Source(_) => "source",
            Self::Operator(_) => "operator",
            Self::Sink(_) => "sink",
        }
    }

    fn kind_with_article(self) -> &'static str {
        match self {
            Self::Source(_) => "a source",
            Self::Operator(_) => "an operator",
            Self::Sink(_) => "a sink",
        }
    }

    /// What the node has in common with others.
    pub fn node(self, job: &JobFile) -> &Node {
        match self {
            Self::Source(index) => &job.sources[index].node,
            Self::Operator(index) => &job.operators[index].node,
            Self::Sink(index) => &job.sinks[index].node,
        }
    }

    /// What the node reads; `None` for a source and where it is wrong.
    pub fn inputs(self, job: &JobFile) -> Option<&Inputs> {
        match self {
            Self::Source(_) => None,
            Self::Operator(index) => job.operators[index].inputs.as_ref(),
            Self::Sink(index) => job.sinks[index].inputs.as_ref(),
        }
    }

    /// What becomes of records that it cannot process or read, if they are left out.
    pub fn bad_records(self, job: &JobFile) -> Option<&BadRecords> {
        match self {
            Self::Source(index) => job.sources[index].bad_records.as_ref(),
            Self::Operator(index) => job.operators[index].bad_records.as_ref(),
            Self::Sink(_) => None,
        }
    }

    /// The node's path for messages: `operator.count`, and `key` in it.
    pub fn path(self, job: &JobFile, key: &str) -> String {
        let path = format!("{}.{}", self.kind(), self.node(job).id);
        if key.is_empty() {
            path
        } else {
            format!("{path}.{key}")
        }
    }
}

/// The nodes in topological order, and for each of its references the place of the node that it
/// leads to. The order is that of the file wherever the graph allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// The nodes; producers stand before their consumers.
    pub order: Vec<NodeRef>,
    /// For each node of `order`, for each of its references: index in `order`. `None` where the
    /// reference leads nowhere, which has been noted.
    pub producers: Vec<Vec<Option<usize>>>,
}

/// Resolves the ids of a job file. What is wrong goes to `problems`.
pub fn wire(job: &JobFile, problems: &mut Problems) -> Wiring {
    let nodes: Vec<NodeRef> = (0..job.sources.len())
        .map(NodeRef::Source)
        .chain((0..job.operators.len()).map(NodeRef::Operator))
        .chain((0..job.sinks.len()).map(NodeRef::Sink))
        .collect();
    let by_id = index_ids(job, &nodes, problems);
    let producers: Vec<Vec<Option<usize>>> = nodes
        .iter()
        .map(|node| resolve_inputs(job, *node, &nodes, &by_id, problems))
        .collect();
    let order = sort(job, &nodes, &producers, problems);
    let mut position = vec![0; nodes.len()];
    for (at, node) in order.iter().enumerate() {
        position[*node] = at;
    }
    Wiring {
        producers: order
            .iter()
            .map(|node| {
                let producers = producers[*node].iter();
                producers
                    .map(|from| from.map(|from| position[from]))
                    .collect()
            })
            .collect(),
        order: order.into_iter().map(|node| nodes[node]).collect(),
    }
}

fn index_ids<'j>(
    job: &'j JobFile,
    nodes: &[NodeRef],
    problems: &mut Problems,
) -> BTreeMap<&'j str, usize> {
    let mut by_id: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let id = node.node(job).id.as_str();
        let Some(first) = by_id.get(id).map(|first| nodes[*first]) else {
            by_id.insert(id, index);
            continue;
        };
        let (first_place, place) = (
            first.node(job).place_of("id"),
            node.node(job).place_of("id"),
        );
        let message = format!(
            "`{id}` is already the id of {} ({first_place})",
            first.kind_with_article()
        );
        let hint = "ids address state in checkpoints, each must be unique in its job";
        problems.push(place, node.path(job, "id"), message, Some(hint.into()));
    }
    by_id
}

fn resolve_inputs(
    job: &JobFile,
    node: NodeRef,
    nodes: &[NodeRef],
    by_id: &BTreeMap<&str, usize>,
    problems: &mut Problems,
) -> Vec<Option<usize>> {
    if let NodeRef::Source(_) = node {
        return Vec::new();
    }
    let Some(inputs) = node.inputs(job) else {
        return Vec::new();
    };
    if inputs.refs.is_empty() {
        let (place, path) = (node.node(job).place_of(inputs.key), node.path(job, ""));
        let message = match node {
            NodeRef::Sink(_) => "nothing feeds this sink",
            _ => "has no input",
        };
        let hint = "name the source or operator that it reads: `input = \"…\"`";
        problems.push(place, path, message, Some(hint.into()));
    }
    let mut resolve = |reference: &InputRef| {
        let mut problem = |message: String, hint| {
            let path = node.path(job, inputs.key);
            problems.push(reference.place.clone(), path, message, hint);
        };
        let id = reference.node.as_str();
        let Some(found) = by_id.get(id).copied() else {
            let candidates = by_id
                .iter()
                .filter(|(_, index)| !matches!(nodes[**index], NodeRef::Sink(_)))
                .map(|(id, _)| *id);
            problem(
                format!("there is no source or operator `{id}`"),
                did_you_mean(id, candidates),
            );
            return None;
        };
        if let NodeRef::Sink(_) = nodes[found] {
            problem(format!("`{id}` is a sink, it has no output"), None);
            return None;
        }
        Some(found)
    };
    inputs.refs.iter().map(&mut resolve).collect()
}

/// Kahn's algorithm, taking the first node of the file that is ready. What is left when none is
/// ready holds a cycle; it is named, and the rest is appended as it is.
fn sort(
    job: &JobFile,
    nodes: &[NodeRef],
    producers: &[Vec<Option<usize>>],
    problems: &mut Problems,
) -> Vec<usize> {
    let mut left: Vec<usize> = (0..nodes.len()).collect();
    let mut done = vec![false; nodes.len()];
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(at) = left
        .iter()
        .position(|node| producers[*node].iter().flatten().all(|from| done[*from]))
    {
        let node = left.remove(at);
        done[node] = true;
        order.push(node);
    }
    if let Some(cycle) = find_cycle(&left, producers, &done) {
        let names: Vec<&str> = cycle
            .iter()
            .chain(cycle.first())
            .map(|node| nodes[*node].node(job).id.as_str())
            .collect();
        let first = nodes[cycle[0]];
        let key = first.inputs(job).map_or("input", |inputs| inputs.key);
        let place: Place = first.node(job).place_of(key);
        let message = format!("the graph has a cycle: {}", names.join(" -> "));
        let hint = "records can only flow forward, from sources to sinks";
        problems.push(place, first.path(job, key), message, Some(hint.into()));
    }
    order.extend(left);
    order
}

/// A cycle among the nodes that are left, in the direction of the records.
fn find_cycle(
    left: &[usize],
    producers: &[Vec<Option<usize>>],
    done: &[bool],
) -> Option<Vec<usize>> {
    // Each node that is left has a producer that is left: walking up must come around.
    let mut walk = vec![*left.first()?];
    let mut seen: HashMap<usize, usize> = HashMap::from([(walk[0], 0)]);
    loop {
        let node = *walk.last()?;
        let up = *producers[node]
            .iter()
            .flatten()
            .find(|from| !done[**from])?;
        if let Some(start) = seen.get(&up) {
            let mut cycle = walk.split_off(*start);
            cycle.reverse();
            let first = cycle.iter().enumerate().min_by_key(|(_, node)| **node)?.0;
            cycle.rotate_left(first);
            return Some(cycle);
        }
        seen.insert(up, walk.len());
        walk.push(up);
    }
}
