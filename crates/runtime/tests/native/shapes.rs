//! Job graphs drawn from a seed, and what they commit, computed without the runtime.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataflow::KeyGroups;
use dataflow::Partition;
use dataflow::alignment::Mode;
use operator::{SinkFactory, SourceFactory};
use runtime::JobGraph;
use runtime::graph::{Edge, Node, NodeKind, OperatorNode, StateMemory};
use runtime::simulation::Random;

use super::feeds::Feed;
use super::reference::{self, Level, Record};
use super::steps::{Kind, Step};
use super::trouble::Trouble;

/// The most subtasks of a node.
const PARALLELISM: u64 = 4;

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    Source(Feed),
    Step(Kind),
    Sink,
}

#[derive(Clone, Debug)]
pub(crate) struct ShapeNode {
    pub(crate) id: String,
    pub(crate) role: Role,
    pub(crate) inputs: Vec<Edge>,
    /// Where the number of subtasks shows in the output it stays the same.
    fixed: Option<u32>,
}

/// A job graph, whatever the parallelism of its nodes.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) nodes: Vec<ShapeNode>,
    key_groups: u32,
}

/// An output of a node that others may read.
#[derive(Clone, Copy)]
struct Stream {
    from: usize,
    port: u32,
    /// Records of one key and split come in order.
    ordered: bool,
    taken: bool,
}

/// What a sink is to have committed.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) sink: String,
    pub(crate) records: Vec<Record>,
    /// What at-least-once leaves of that.
    pub(crate) level: Level,
    pub(crate) ordered: bool,
}

impl Shape {
    /// Draws a graph: sources, then steps that read what there is so far, then sinks for what nobody
    /// has read.
    pub(crate) fn draw(random: &mut Random, mode: Mode) -> Self {
        // In some of them everything is one chain in one subtask.
        let single = random.one_in(8);
        let mut nodes = Vec::new();
        let mut streams: Vec<Stream> = Vec::new();
        for source in 0..1 + random.below(3) {
            let id = format!("s{source}");
            streams.push(Stream {
                from: nodes.len(),
                port: 0,
                ordered: true,
                taken: false,
            });
            nodes.push(ShapeNode {
                role: Role::Source(Feed::draw(id.clone(), random)),
                id,
                inputs: Vec::new(),
                fixed: single.then_some(1),
            });
        }
        let steps = 1 + random.below(5);
        let sinks = 1 + random.below(2);
        for number in 0..steps + sinks {
            let is_sink = number >= steps;
            let role = match is_sink {
                true => Role::Sink,
                false => Role::Step(draw_kind(random)),
            };
            let kind = match role {
                Role::Step(kind) => Some(kind),
                _ => None,
            };
            let wanted = kind.map_or(1, Kind::inputs);
            // The last sink takes all that nobody has read.
            let last = number + 1 == steps + sinks;
            let mut chosen: Vec<(usize, u32)> = Vec::new();
            if last {
                let free = (0..streams.len()).filter(|stream| !streams[*stream].taken);
                chosen.extend(free.map(|stream| (stream, 0)));
            }
            for input in 0..if chosen.is_empty() { wanted } else { 0 } {
                // Several edges may feed one input.
                for _ in 0..1 + u64::from(random.one_in(4)) {
                    chosen.push((random.below(streams.len() as u64) as usize, input));
                }
            }
            let keyed = kind.is_some_and(Kind::is_keyed);
            let mut fixed = single.then_some(1);
            let may_broadcast = !keyed && !is_sink && chosen.len() == 1;
            let mut forward = false;
            let mut ordered = chosen.len() == 1 && streams[chosen[0].0].ordered;
            let mut inputs = Vec::new();
            for (stream, input) in chosen {
                let partition = match random.below(4) {
                    0 if !forward && (single || !keyed && kind != Some(Kind::Mark)) => {
                        Partition::Forward
                    }
                    1 if !keyed => Partition::Rebalance,
                    2 if may_broadcast => Partition::Broadcast,
                    _ => Partition::Hash,
                };
                forward |= partition == Partition::Forward;
                if partition == Partition::Broadcast || kind == Some(Kind::Mark) {
                    fixed = fixed.or(Some(1 + random.below(PARALLELISM) as u32));
                }
                ordered &= matches!(partition, Partition::Forward | Partition::Hash);
                streams[stream].taken = true;
                inputs.push(Edge {
                    from: streams[stream].from,
                    port: streams[stream].port,
                    input,
                    partition,
                });
            }
            let mut role = role;
            if let Role::Step(kind) = &mut role {
                // Nothing is out of order where there is no order; at-least-once there is none.
                if *kind == Kind::Watch && (!ordered || mode == Mode::AtLeastOnce) {
                    *kind = Kind::Count;
                }
                ordered &= matches!(*kind, Kind::Pass | Kind::Filter | Kind::Watch | Kind::Count);
                for port in 0..kind.outputs() {
                    streams.push(Stream {
                        from: nodes.len(),
                        port,
                        // Counts themselves carry no position.
                        ordered: ordered && port + 1 == kind.outputs(),
                        taken: false,
                    });
                }
            }
            let name = if is_sink { "sink" } else { "step" };
            nodes.push(ShapeNode {
                id: format!("{name}{number}"),
                role,
                inputs,
                fixed,
            });
        }
        Self {
            nodes,
            key_groups: [4, 7, 128][random.below(3) as usize],
        }
    }

    /// How many subtasks each node has this time.
    pub(crate) fn draw_parallelism(&self, random: &mut Random) -> Vec<u32> {
        let mut drawn: Vec<u32> = Vec::new();
        for node in &self.nodes {
            let forward = |edge: &&Edge| edge.partition == Partition::Forward;
            drawn.push(match node.inputs.iter().find(forward) {
                Some(edge) => drawn[edge.from],
                None => node
                    .fixed
                    .unwrap_or_else(|| 1 + random.below(PARALLELISM) as u32),
            });
        }
        drawn
    }

    /// The graph to run.
    pub(crate) fn graph(
        &self,
        parallelism: &[u32],
        trouble: &Trouble,
        mut source: impl FnMut(&Feed) -> Arc<dyn SourceFactory>,
        mut sink: impl FnMut(&str) -> Arc<dyn SinkFactory>,
    ) -> JobGraph {
        let nodes = self.nodes.iter().zip(parallelism);
        let nodes = nodes.map(|(node, parallelism)| Node {
            id: node.id.clone(),
            parallelism: *parallelism,
            inputs: node.inputs.clone(),
            bad_records: None,
            kind: match &node.role {
                Role::Source(feed) => NodeKind::Source(source(feed)),
                Role::Sink => NodeKind::Sink(sink(&node.id)),
                Role::Step(kind) => NodeKind::Operator(OperatorNode {
                    factory: Arc::new(Step {
                        kind: *kind,
                        trouble: trouble.clone(),
                    }),
                    states: kind.states(),
                    operator_states: Vec::new(),
                    outputs: kind.outputs(),
                    state_limit: None,
                    // In one of three nothing stays in memory for longer than a batch.
                    skip_overdue_timers: false,
                    state_memory: (self.key_groups == 7).then(|| StateMemory {
                        bytes: 0,
                        scratch_dir: std::env::temp_dir(),
                    }),
                    labels: BTreeMap::new(),
                }),
            },
        });
        JobGraph {
            nodes: nodes.collect(),
            key_groups: KeyGroups::new(self.key_groups).unwrap(),
        }
    }

    /// Whether a source ends only once processes are healthy.
    pub(crate) fn is_endless(&self) -> bool {
        self.nodes
            .iter()
            .any(|node| matches!(&node.role, Role::Source(feed) if feed.endless))
    }

    /// What every sink is to have committed in the end.
    pub(crate) fn expected(&self) -> Vec<Expected> {
        let mut streams: BTreeMap<(usize, u32), (Vec<Record>, Level, bool)> = BTreeMap::new();
        let mut expected = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let mut inputs = vec![Vec::new(); 2];
            let mut level = Level::Same;
            let mut ordered = node.inputs.len() == 1;
            for edge in &node.inputs {
                let (records, of_stream, in_order) = &streams[&(edge.from, edge.port)];
                let copies = match edge.partition {
                    Partition::Broadcast => node.fixed.unwrap(),
                    _ => 1,
                };
                for _ in 0..copies {
                    inputs[edge.input as usize].extend(records.iter().cloned());
                }
                level = level.max(*of_stream);
                let keeps = matches!(edge.partition, Partition::Forward | Partition::Hash);
                ordered &= *in_order && keeps;
            }
            match &node.role {
                Role::Source(feed) => {
                    let records = reference::read(feed);
                    streams.insert((index, 0), (records, Level::Same, true));
                }
                Role::Sink => expected.push(Expected {
                    sink: node.id.clone(),
                    records: std::mem::take(&mut inputs[0]),
                    level,
                    ordered,
                }),
                Role::Step(kind) => {
                    let level = reference::level(*kind, level);
                    let subtasks = node.fixed.unwrap_or(0);
                    let outputs = reference::outputs(*kind, &inputs, subtasks);
                    let keeps =
                        matches!(*kind, Kind::Pass | Kind::Filter | Kind::Watch | Kind::Count);
                    let count = outputs.len();
                    for (port, records) in outputs.into_iter().enumerate() {
                        let in_order = ordered && keeps && port + 1 == count;
                        streams.insert((index, port as u32), (records, level, in_order));
                    }
                }
            }
        }
        expected
    }
}

fn draw_kind(random: &mut Random) -> Kind {
    let kinds = [
        Kind::Pass,
        Kind::Filter,
        Kind::Fan,
        Kind::Rekey(1 + random.below(20)),
        Kind::Mark,
        Kind::Count,
        Kind::Count,
        Kind::Distinct,
        Kind::Join,
        Kind::Totals,
        Kind::Bag,
        Kind::Toggle,
        Kind::Flip,
        Kind::Watch,
        Kind::Watch,
    ];
    kinds[random.below(kinds.len() as u64) as usize]
}
