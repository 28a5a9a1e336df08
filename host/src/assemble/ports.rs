//! Which output feeds which input: references such as `split.rejected` resolved to the ports that
//! sources and operators declare.

use dataflow::port::{Column, ColumnKind, Format, Port};
use job_file::JobFile;
use job_file::hints::did_you_mean;
use job_file::node::InputRef;
use job_file::problem::Problems;
use job_file::wiring::{NodeRef, Wiring};

/// What a node declares, as far as its place in the graph goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    /// Names of its inputs, in their order; a node with at most one takes any number of outputs on it.
    pub(crate) inputs: Vec<String>,
    /// Its outputs; the first is the default one.
    pub(crate) outputs: Vec<Port>,
    /// Whether it keeps state per key.
    pub(crate) keyed_state: bool,
    /// The most subtasks that it can use, where it knows.
    pub(crate) max_parallelism: Option<u32>,
}

/// A reference that was resolved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Link {
    /// Index of the producer in [`Wiring::order`].
    pub(crate) from: usize,
    /// The producer's output.
    pub(crate) port: u32,
    /// The consumer's input.
    pub(crate) input: u32,
    /// Which of the consumer's references it was.
    pub(crate) reference: usize,
}

/// The links into the node at `index` of the order. What is wrong goes to `problems`; references to
/// nodes whose facts are not known are left out silently, for something was said about those.
pub(crate) fn links(
    job: &JobFile,
    wiring: &Wiring,
    facts: &[Option<Facts>],
    index: usize,
    problems: &mut Problems,
) -> Vec<Link> {
    let node = wiring.order[index];
    let Some(inputs) = node.inputs(job) else {
        return Vec::new();
    };
    let declared = match &facts[index] {
        Some(facts) => facts.inputs.len(),
        None => 1,
    };
    if declared > 1 && inputs.refs.len() != declared {
        let names = facts[index].iter().flat_map(|facts| &facts.inputs);
        let names: Vec<String> = names.map(|name| format!("\"<{name}>\"")).collect();
        problems.push(
            node.node(job).place_of(inputs.key),
            node.path(job, inputs.key),
            format!(
                "the component has {declared} inputs, {} given",
                match inputs.refs.len() {
                    1 => "1 is".to_owned(),
                    count => format!("{count} are"),
                }
            ),
            Some(format!("write `inputs = [{}]`", names.join(", "))),
        );
        return Vec::new();
    }
    let mut links = Vec::with_capacity(inputs.refs.len());
    for (reference, (input, from)) in inputs.refs.iter().zip(&wiring.producers[index]).enumerate() {
        let Some(from) = *from else { continue };
        let Some(producer) = &facts[from] else {
            continue;
        };
        match find_port(input, &producer.outputs) {
            Ok(port) => {
                let link = Link {
                    from,
                    port,
                    input: if declared > 1 { reference as u32 } else { 0 },
                    reference,
                };
                let same = |other: &Link| {
                    (other.from, other.port, other.input) == (link.from, link.port, link.input)
                };
                if links.iter().any(same) {
                    problems.push(
                        input.place.clone(),
                        node.path(job, inputs.key),
                        format!(
                            "`{}` is given twice: each of its records would count twice",
                            input.node
                        ),
                        Some("leave one of them out".to_owned()),
                    );
                    continue;
                }
                links.push(link);
            }
            Err((message, hint)) => {
                let path = node.path(job, inputs.key);
                problems.push(input.place.clone(), path, message, hint);
            }
        }
    }
    links
}

/// What feeds the node at `index` of the order, one port for each of its references; `None` if one of them is not
/// known, about which something was or will be said.
pub(crate) fn feeding(
    job: &JobFile,
    wiring: &Wiring,
    facts: &[Option<Facts>],
    index: usize,
) -> Option<Vec<Port>> {
    let inputs = wiring.order[index].inputs(job)?;
    let references = inputs.refs.iter().zip(&wiring.producers[index]);
    references
        .map(|(input, from)| {
            let from = (*from)?;
            let port = find_port(input, &facts[from].as_ref()?.outputs).ok()?;
            arriving(job, wiring, facts, from, port)
        })
        .collect()
}

fn find_port(input: &InputRef, outputs: &[Port]) -> Result<u32, (String, Option<String>)> {
    let id = &input.node;
    if outputs.is_empty() {
        return Err((format!("`{id}` has no output"), None));
    }
    let Some(name) = &input.port else {
        return Ok(0);
    };
    let names = || outputs.iter().map(|port| port.name.as_str());
    match names().position(|known| known == name) {
        Some(port) => Ok(port as u32),
        None => Err((
            format!("`{id}` has no output `{name}`"),
            did_you_mean(name, names()),
        )),
    }
}

/// Outputs that are joined on one input must be of one kind: an operator reads all of an input's
/// records alike.
pub(crate) fn check_union(
    job: &JobFile,
    wiring: &Wiring,
    facts: &[Option<Facts>],
    index: usize,
    links: &[Link],
    problems: &mut Problems,
) {
    let consumer = wiring.order[index];
    for (at, link) in links.iter().enumerate() {
        let Some(first) = links[..at].iter().find(|other| other.input == link.input) else {
            continue;
        };
        let (Some(a), Some(b)) = (port_of(first, facts), port_of(link, facts)) else {
            continue;
        };
        let differ = if a.keyed != b.keyed {
            "only one of them gives records a key"
        } else if std::mem::discriminant(&a.format) != std::mem::discriminant(&b.format) {
            "their records are encoded differently"
        } else {
            continue;
        };
        let id = |link: &Link| wiring.order[link.from].node(job).id.clone();
        let key = consumer.inputs(job).map_or("inputs", |inputs| inputs.key);
        problems.push(
            consumer.node(job).place_of(key),
            consumer.path(job, key),
            format!(
                "`{}` and `{}` cannot be joined: {differ}",
                id(first),
                id(link)
            ),
            None,
        );
    }
}

/// What outputs that are joined on one input have in common, under the name of the first. A column that not all of them
/// have in its place has no name; a key whose columns differ has none.
pub(crate) fn joined(mut ports: impl Iterator<Item = Port>) -> Option<Port> {
    let mut all = ports.next()?;
    for port in ports {
        let names = |columns: &[Column]| -> Vec<String> {
            columns.iter().map(|column| column.name.clone()).collect()
        };
        if names(&all.key_columns) != names(&port.key_columns) {
            all.key_columns.clear();
        }
        join_columns(&mut all.key_columns, &port.key_columns);
        // Rows are joined with rows only.
        if let (Format::Row(all), Format::Row(columns)) = (&mut all.format, &port.format) {
            all.truncate(columns.len());
            join_columns(all, columns);
        }
    }
    Some(all)
}

fn join_columns(all: &mut [Column], others: &[Column]) {
    for (column, other) in all.iter_mut().zip(others) {
        if column.name != other.name {
            column.name.clear();
        }
        if column.kind != other.kind {
            column.kind = ColumnKind::Text;
        }
    }
}

/// The port that a link comes from, under the name that the job file has for it, by which people know what
/// feeds a consumer: the producer's id, and after a dot the output, unless it is the first one.
pub(crate) fn arriving(
    job: &JobFile,
    wiring: &Wiring,
    facts: &[Option<Facts>],
    from: usize,
    port: u32,
) -> Option<Port> {
    let output = facts[from].as_ref()?.outputs.get(port as usize)?;
    let id = &wiring.order[from].node(job).id;
    let name = match port {
        0 => id.clone(),
        _ => format!("{id}.{}", output.name),
    };
    Some(Port {
        name,
        ..output.clone()
    })
}

/// The port that a link comes from.
pub(crate) fn port_of<'f>(link: &Link, facts: &'f [Option<Facts>]) -> Option<&'f Port> {
    facts[link.from].as_ref()?.outputs.get(link.port as usize)
}

/// The node that a link comes from.
pub(crate) fn producer_of(link: &Link, wiring: &Wiring) -> NodeRef {
    wiring.order[link.from]
}
