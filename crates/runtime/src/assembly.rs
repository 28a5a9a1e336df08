//! An attempt put together: subtasks, and the channels between them.

use std::collections::HashMap;
use std::sync::Arc;

use dataflow::Batch;
use dataflow::Partition;
use operator::JobIdentity;

use crate::attempt::Attempt;
use crate::driver::SAVEPOINTS_MAX;
use crate::graph::NodeKind;
use crate::inbox::Inbox;
use crate::members::{Seed, Unmade};
use crate::meters::{Doing, Meters};
use crate::phases::{PhaseTimes, SubtaskInfo};
use crate::plan::ExecutionPlan;
use crate::restoring::Restoring;
use crate::router::Router;
use crate::spares::Spares;
use crate::subtask::{Channels, Head, Subtask};
use crate::timing::Timing;
use crate::writer::{InProgress, Tasks, Writers};

/// An attempt as it is put together, before anything in it moves.
pub(crate) struct Assembly {
    pub(crate) plan: ExecutionPlan,
    /// Of each vertex, of each of its subtasks.
    pub(crate) inboxes: Vec<Vec<Arc<Inbox>>>,
    pub(crate) in_progress: Arc<InProgress>,
    pub(crate) writers: Writers,
    pub(crate) tasks: Tasks,
    pub(crate) subtasks: Vec<Unmade>,
}

/// The channels of an attempt, per vertex and subtask.
struct Connections {
    /// Where a subtask's output goes, by the number of the edge.
    routes: Vec<Vec<HashMap<usize, Router>>>,
    /// The input that each channel of a subtask belongs to.
    channel_inputs: Vec<Vec<Vec<u32>>>,
}

impl Attempt<'_> {
    /// Puts everything together.
    pub(crate) fn assemble(&self) -> Assembly {
        let plan = ExecutionPlan::of(self.graph);
        let inboxes: Vec<Vec<Arc<Inbox>>> = plan
            .vertices
            .iter()
            .map(|vertex| (0..vertex.parallelism).map(|_| Inbox::new()).collect())
            .collect();
        let queue = |at_once: usize| plan.subtasks() * (at_once + 1) + 1;
        let max_concurrent = self.options.checkpoint.max_concurrent as usize;
        let (writers, tasks) = Writers::queues(queue(max_concurrent), queue(SAVEPOINTS_MAX));
        // Channels first: a producer must know its consumers' inboxes.
        let Connections {
            mut routes,
            mut channel_inputs,
        } = self.connect(&plan, &inboxes);
        let notes = PhaseTimes::new(Arc::clone(self.clock), self.places(&plan));
        let in_progress = Arc::new(InProgress::new(notes));
        let meters = Meters::new(&plan, self.graph, self.clock.as_ref());
        let now_ms = self.clock.now_ms();
        let restoring = Arc::new(Restoring::new(self.graph, self.restore, now_ms));
        let mut subtasks = Vec::new();
        for (vertex_index, vertex) in plan.vertices.iter().enumerate() {
            for index in 0..vertex.parallelism {
                let mut edges: Vec<(usize, Router)> =
                    routes[vertex_index][index as usize].drain().collect();
                edges.sort_by_key(|(edge, _)| *edge);
                let head = match &self.graph.nodes[vertex.members[0].node].kind {
                    NodeKind::Source(_) => Head::Source {
                        ended: false,
                        delivered: 0,
                        watermark: None,
                        idle: false,
                        batch: Batch::default(),
                    },
                    _ => Head::Channels(Channels::new(
                        std::mem::take(&mut channel_inputs[vertex_index][index as usize]),
                        self.options.mode,
                    )),
                };
                let seed = Seed {
                    graph: self.graph.clone(),
                    members: vertex
                        .members
                        .iter()
                        .map(|member| (member.node, member.outputs.clone()))
                        .collect(),
                    restore: self.restore.cloned(),
                    restoring: Arc::clone(&restoring),
                    job: JobIdentity {
                        id: self.options.id.clone(),
                        directory: self.store.directory().to_owned(),
                    },
                    run: self.options.run.clone(),
                    generation: self.store.generation(),
                    attempt: self.number,
                };
                let subtask = Subtask {
                    number: subtasks.len(),
                    index,
                    inbox: Arc::clone(&inboxes[vertex_index][index as usize]),
                    head,
                    members: Vec::new(),
                    routers: edges.into_iter().map(|(_, router)| router).collect(),
                    events: self.events.clone(),
                    writers: writers.clone(),
                    in_progress: Arc::clone(&in_progress),
                    clock: Arc::clone(self.clock),
                    incremental: self.options.incremental,
                    spares: Spares::default(),
                    waiting_since: None,
                    timing: Timing::new(self.options.timer_calls_max),
                    meter: meters.subtask(vertex_index, index),
                    doing: Doing::Idle,
                };
                let name = format!("{}-{index}", self.graph.nodes[vertex.members[0].node].id);
                subtasks.push(Unmade::new(name, subtask, seed));
            }
        }
        self.events.counters.set_meters(meters);
        self.events.counters.set_restoring(restoring);
        Assembly {
            plan,
            inboxes,
            in_progress,
            writers,
            tasks,
            subtasks,
        }
    }

    /// Makes the channels between subtasks.
    fn connect(&self, plan: &ExecutionPlan, inboxes: &[Vec<Arc<Inbox>>]) -> Connections {
        let mut routes: Vec<Vec<HashMap<usize, Router>>> = plan
            .vertices
            .iter()
            .map(|vertex| (0..vertex.parallelism).map(|_| HashMap::new()).collect())
            .collect();
        let mut channel_inputs: Vec<Vec<Vec<u32>>> = plan
            .vertices
            .iter()
            .map(|vertex| vec![Vec::new(); vertex.parallelism as usize])
            .collect();
        for (consumer, vertex) in plan.vertices.iter().enumerate() {
            for input in &vertex.inputs {
                for from in 0..plan.vertices[input.vertex].parallelism as usize {
                    let producer = &inboxes[input.vertex][from];
                    let to: Vec<usize> = match input.partition {
                        Partition::Forward => vec![from],
                        _ => (0..vertex.parallelism as usize).collect(),
                    };
                    let targets = to
                        .into_iter()
                        .map(|index| {
                            let inbox = &inboxes[consumer][index];
                            channel_inputs[consumer][index].push(input.input);
                            (Arc::clone(inbox), inbox.add_channel(producer))
                        })
                        .collect();
                    let router = Router::new(input.partition, self.graph.key_groups, targets);
                    routes[input.vertex][from].insert(input.edge, router);
                }
            }
        }
        Connections {
            routes,
            channel_inputs,
        }
    }

    /// Who the subtasks are and whom their channels come from, by their numbers.
    fn places(&self, plan: &ExecutionPlan) -> Vec<SubtaskInfo> {
        let first_of: Vec<usize> = plan
            .vertices
            .iter()
            .scan(0, |next, vertex| {
                let first = *next;
                *next += vertex.parallelism as usize;
                Some(first)
            })
            .collect();
        let mut places = Vec::new();
        for vertex in &plan.vertices {
            let operator: Arc<str> = self.graph.nodes[vertex.members[0].node].id.as_str().into();
            for subtask in 0..vertex.parallelism {
                // In the order in which `assemble` adds the channels.
                let mut channels = Vec::new();
                for input in &vertex.inputs {
                    let producers = 0..plan.vertices[input.vertex].parallelism;
                    let mine = producers
                        .filter(|from| input.partition != Partition::Forward || *from == subtask)
                        .map(|from| (input.input, first_of[input.vertex] + from as usize));
                    channels.extend(mine);
                }
                places.push(SubtaskInfo {
                    operator: Arc::clone(&operator),
                    subtask,
                    parallelism: vertex.parallelism,
                    channels,
                });
            }
        }
        places
    }
}
