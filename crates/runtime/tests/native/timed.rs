//! Job graphs with event time drawn from a seed, and what they commit: computed from the events alone, without
//! timers, watermarks, channels or state.
//!
//! Which records are late depends on who is faster, as far as they may be late at all: those that were drawn to be
//! too far out of order, and those of sources that fall silent, for which nobody waits. So:
//!
//! - What passes records on, alarms and nudges commit exactly what is expected, whatever is late.
//! - Every record is once in a window, a session, or what came too late. Only what may be late is there.
//! - A window has all records that are in time, and fires once with them. Nothing is between two records of a
//!   session that are in time and less than the gap apart, and sessions in time do not overlap.
//! - Without records that may be late this leaves one result, and that is what has to be committed.
//!
//! What an operator sees at any moment it checks itself: see `clocked`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dataflow::{KeyGroups, Partition};
use operator::{SinkFactory, SourceFactory};
use runtime::JobGraph;
use runtime::graph::{Edge, Node, NodeKind, OperatorNode, StateMemory};
use runtime::simulation::Random;

use super::clocked::{Clocked, Kind, alarm, has_decoy, rings};
use super::events::{Event, Feed, Pulse};
use super::judge::Promise;
use super::results::{Results, Seen, judge_exactly, judge_nudges};
use super::trouble::Trouble;
use super::user::Outputs;

/// The most subtasks of a node.
const PARALLELISM: u64 = 3;

#[derive(Clone, Debug)]
enum Role {
    Source(Feed),
    Step(Kind),
    Sink,
}

#[derive(Clone, Debug)]
struct ShapeNode {
    id: String,
    role: Role,
    inputs: Vec<Edge>,
}

/// A job graph, whatever the parallelism of its nodes.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    nodes: Vec<ShapeNode>,
    key_groups: u32,
    /// Everything is in one subtask.
    single: bool,
}

/// An output that others may read.
#[derive(Clone, Debug)]
struct Stream {
    from: usize,
    /// Whose records it has: nobody gets one twice.
    origins: BTreeSet<usize>,
    /// Records of one key and split come in order.
    ordered: bool,
    /// A source of it falls silent.
    falls_silent: bool,
    taken: bool,
}

impl Shape {
    /// Draws sources, what passes records on, operators with timers, and a sink for each that nobody reads.
    pub(crate) fn draw(random: &mut Random, sessions_leave_timers: bool) -> Self {
        let mut shape = Self {
            nodes: Vec::new(),
            key_groups: [4, 7, 128][random.below(3) as usize],
            single: random.one_in(8),
        };
        let mut streams: Vec<Stream> = Vec::new();
        for source in 0..1 + random.below(3) {
            let id = format!("s{source}");
            let feed = Feed::draw(id.clone(), random);
            shape.add(id, Role::Source(feed), Vec::new(), true, &mut streams);
        }
        for relay in 0..random.below(3) {
            let from = random.below(streams.len() as u64) as usize;
            let role = Role::Step(Kind::Relay);
            let mut inputs = vec![from];
            if random.one_in(3) {
                inputs.push(random.below(streams.len() as u64) as usize);
            }
            let inputs = shape.connect(&inputs, false, random, &mut streams);
            shape.add(
                format!("relay{relay}"),
                role,
                inputs.0,
                inputs.1,
                &mut streams,
            );
        }
        for number in 0..1 + random.below(3) {
            let chosen = 1 + random.below(3);
            let chosen: Vec<usize> = (0..chosen)
                .map(|_| random.below(streams.len() as u64) as usize)
                .collect();
            let (inputs, ordered) = shape.connect(&chosen, true, random, &mut streams);
            let kind = match random.below(4) {
                0 => Kind::Alarm {
                    decoys: ordered,
                    falls_silent: falls_silent(&inputs, &streams),
                },
                1 => Kind::Tumble {
                    length: [1, 20, 100, 500][random.below(4) as usize],
                },
                2 => Kind::Session {
                    gap: [1, 15, 40, 150][random.below(4) as usize],
                    leaves_timer: sessions_leave_timers,
                },
                _ => Kind::Nudge {
                    most_ms: [1, 30, 400][random.below(3) as usize],
                    skips_overdue: random.one_in(4),
                },
            };
            let role = Role::Step(kind);
            shape.add(format!("step{number}"), role, inputs, false, &mut streams);
        }
        shape.add_sinks(random, streams);
        shape.let_wait(random);
        shape
    }

    /// Reads these streams, and those of them that bring the same records once.
    fn connect(
        &self,
        chosen: &[usize],
        keyed: bool,
        random: &mut Random,
        streams: &mut [Stream],
    ) -> (Vec<Edge>, bool) {
        let mut origins = BTreeSet::new();
        let mut edges = Vec::new();
        let mut ordered = true;
        for chosen in chosen {
            let stream = &mut streams[*chosen];
            if !origins.is_disjoint(&stream.origins) {
                continue;
            }
            origins.extend(stream.origins.iter().copied());
            stream.taken = true;
            let may_forward = edges.is_empty() && (self.single || !keyed);
            let partition = match random.below(3) {
                0 if may_forward => Partition::Forward,
                1 if !keyed => Partition::Rebalance,
                _ => Partition::Hash,
            };
            ordered &= stream.ordered && partition != Partition::Rebalance;
            edges.push(Edge {
                from: stream.from,
                port: 0,
                input: 0,
                partition,
            });
        }
        (edges, ordered)
    }

    fn add(
        &mut self,
        id: String,
        role: Role,
        inputs: Vec<Edge>,
        ordered: bool,
        streams: &mut Vec<Stream>,
    ) {
        let from = self.nodes.len();
        let origins = match role {
            Role::Step(Kind::Relay) => {
                let read = inputs.iter().flat_map(|edge| of(edge, streams));
                read.flat_map(|stream| stream.origins.clone()).collect()
            }
            _ => [from].into(),
        };
        // Others have no events to read.
        if matches!(
            role,
            Role::Source(_) | Role::Step(Kind::Relay | Kind::Alarm { .. })
        ) {
            let falls_silent = match &role {
                Role::Source(feed) => feed.falls_silent(),
                _ => falls_silent(&inputs, streams),
            };
            streams.push(Stream {
                from,
                origins,
                ordered,
                falls_silent,
                taken: false,
            });
        }
        self.nodes.push(ShapeNode { id, role, inputs });
    }

    /// A sink for each output that nobody reads, for some that somebody does, and for all results.
    fn add_sinks(&mut self, random: &mut Random, streams: Vec<Stream>) {
        let read = streams.into_iter();
        let mut read: Vec<(usize, u32)> = read
            .filter(|stream| !stream.taken || random.one_in(3))
            .map(|stream| (stream.from, 1))
            .collect();
        for (index, node) in self.nodes.iter().enumerate() {
            if let Role::Step(kind) = node.role
                && !matches!(kind, Kind::Relay | Kind::Alarm { .. })
            {
                read.push((index, kind.outputs()));
            }
        }
        for (number, (from, ports)) in read.into_iter().enumerate() {
            let edge = |port| Edge {
                from,
                port,
                input: 0,
                partition: match random.below(3) {
                    0 if ports == 1 => Partition::Forward,
                    1 => Partition::Rebalance,
                    _ => Partition::Hash,
                },
            };
            let inputs = (0..ports).map(edge).collect();
            self.nodes.push(ShapeNode {
                id: format!("sink{number}"),
                role: Role::Sink,
                inputs,
            });
        }
    }

    /// Lets one of the sources wait, at its last record, for all operators that read it: nobody else holds them by
    /// then, for all others have ended or are silent.
    fn let_wait(&mut self, random: &mut Random) {
        let feeds: Vec<(usize, &Feed)> = self.feeds().collect();
        let some = random.below(feeds.len() as u64) as usize;
        let (source, feed) = feeds[some];
        if !feed.can_wait() || feeds.iter().any(|(_, feed)| feed.endless) {
            return;
        }
        let mut readers = BTreeSet::from([source]);
        let mut operators = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let reads = node.inputs.iter().any(|edge| readers.contains(&edge.from));
            if let (true, Role::Step(_)) = (reads, &node.role) {
                readers.insert(index);
                operators.push(node.id.clone());
            }
        }
        if let Role::Source(feed) = &mut self.nodes[source].role {
            feed.waits_for = operators;
        }
    }

    fn feeds(&self) -> impl Iterator<Item = (usize, &Feed)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter_map(|(index, node)| match &node.role {
            Role::Source(feed) => Some((index, feed)),
            Role::Step(_) | Role::Sink => None,
        })
    }

    /// What it is made of, in words.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for node in &self.nodes {
            match &node.role {
                Role::Source(feed) => words.extend(feed.words().into_iter().map(str::to_owned)),
                Role::Step(kind) => {
                    let kind = format!("{kind:?}");
                    words.push(kind.split(' ').next().unwrap().to_owned());
                }
                Role::Sink => {}
            }
        }
        words
    }

    /// The ids of its sinks.
    pub(crate) fn sinks(&self) -> Vec<String> {
        let sinks = self.nodes.iter();
        let sinks = sinks.filter(|node| matches!(node.role, Role::Sink));
        sinks.map(|node| node.id.clone()).collect()
    }

    /// How many subtasks each node has this time.
    pub(crate) fn draw_parallelism(&self, random: &mut Random) -> Vec<u32> {
        let mut drawn: Vec<u32> = Vec::new();
        for node in &self.nodes {
            let forward = |edge: &&Edge| edge.partition == Partition::Forward;
            drawn.push(match node.inputs.iter().find(forward) {
                Some(edge) => drawn[edge.from],
                None if self.single => 1,
                None => 1 + random.below(PARALLELISM) as u32,
            });
        }
        drawn
    }

    /// The graph to run.
    pub(crate) fn graph(
        &self,
        parallelism: &[u32],
        trouble: &Trouble,
        pulse: &Pulse,
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
                    factory: Arc::new(Clocked {
                        id: node.id.clone(),
                        kind: *kind,
                        trouble: trouble.clone(),
                        pulse: pulse.clone(),
                    }),
                    states: kind.states(),
                    operator_states: Vec::new(),
                    outputs: kind.outputs(),
                    state_limit: None,
                    skip_overdue_timers: matches!(
                        kind,
                        Kind::Nudge {
                            skips_overdue: true,
                            ..
                        }
                    ),
                    // In one of three nothing stays in memory for longer than a batch.
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
        self.feeds().any(|(_, feed)| feed.endless)
    }

    /// The events that a node gives, or gets if it gives none.
    fn events(&self, index: usize) -> Vec<Event> {
        let node = &self.nodes[index];
        let inputs = node.inputs.iter();
        let inputs = inputs.flat_map(|edge| self.events(edge.from)).collect();
        match &node.role {
            Role::Source(feed) => feed.events(),
            Role::Step(Kind::Alarm {
                decoys,
                falls_silent,
            }) => {
                let mut rung = all_rings(&node.id, inputs, *decoys);
                let may_be_late = |event: &mut Event| event.may_be_late |= *falls_silent;
                rung.iter_mut().for_each(may_be_late);
                rung
            }
            Role::Step(_) | Role::Sink => inputs,
        }
    }

    /// Says what is wrong with what sinks have committed, if anything is.
    pub(crate) fn judge(
        &self,
        outputs: &Outputs,
        promise: Promise,
        seen: &mut Seen,
    ) -> Result<(), String> {
        for sink in &self.nodes {
            let Role::Sink = sink.role else { continue };
            let committed = &outputs[&sink.id];
            let from = sink.inputs[0].from;
            let events = self.events(from);
            let judged = match self.nodes[from].role {
                Role::Step(Kind::Tumble { length }) => {
                    Results::read(committed, &events, "window", promise)
                        .and_then(|results| results.judge_windows(length, promise, seen))
                }
                Role::Step(Kind::Session { gap, .. }) => {
                    Results::read(committed, &events, "session", promise)
                        .and_then(|results| results.judge_sessions(gap, promise, seen))
                }
                Role::Step(Kind::Nudge { .. }) => judge_nudges(committed, &events, promise, seen),
                _ => {
                    let records = events.iter().map(|it| (it.key.clone(), it.value()));
                    judge_exactly(&sink.id, records.collect(), committed, promise)
                }
            };
            judged.map_err(|difference| format!("{}: {difference}", sink.id))?;
        }
        Ok(())
    }
}

/// The stream that an edge reads.
fn of<'a>(edge: &Edge, streams: &'a [Stream]) -> Option<&'a Stream> {
    streams.iter().find(|stream| stream.from == edge.from)
}

/// Whether a source falls silent that is read by these.
fn falls_silent(inputs: &[Edge], streams: &[Stream]) -> bool {
    let mut read = inputs.iter().flat_map(|edge| of(edge, streams));
    read.any(|stream| stream.falls_silent)
}

/// What an alarm emits.
fn all_rings(operator: &str, events: Vec<Event>, decoys: bool) -> Vec<Event> {
    let mut rung = Vec::new();
    let mut last: BTreeMap<(String, String), Event> = BTreeMap::new();
    for event in events {
        let (times, _) = alarm(&event);
        rung.extend((1..=times).map(|ring| rings(operator, &event, ring)));
        // The events of a split are in order.
        last.insert((event.key.clone(), event.split().to_owned()), event);
    }
    let decoys = last.values().filter(|event| decoys && has_decoy(event));
    rung.extend(decoys.map(|event| rings(operator, event, 0)));
    rung
}
