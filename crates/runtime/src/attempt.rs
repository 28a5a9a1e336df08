//! One attempt at a job: subtasks set up and joined by channels, driven until they finish or fail.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use checkpoint::store::{CheckpointStore, Completed};
use dataflow::state::{KeyedState, Resolved};
use dataflow::{Batch, CheckpointId};

use crate::abort::Reason;
use crate::chain::Chain;
use crate::clock::Clock;
use crate::driver::Driver;
use crate::error::{Class, Error, Position};
use crate::graph::{JobGraph, NodeKind, Partition};
use crate::inbox::Inbox;
use crate::job::{JobEvent, Options};
use crate::operator::Call;
use crate::output::Output;
use crate::phases::{Notes, Place};
use crate::plan::Plan;
use crate::restore;
use crate::router::Router;
use crate::scratch::Scratch;
use crate::source::Waker;
use crate::spares::Spares;
use crate::spawn::Threads;
use crate::subtask::{Body, Channels, Head, Member, Subtask};
use crate::writer::{self, InProgress, Task, Writers, WrittenMember, discard};
use crate::{JobIdentity, SubtaskContext};

/// How many threads write checkpoints.
pub(crate) const WRITERS: usize = 2;

/// What threads and users have to say to the driver.
#[derive(Debug)]
pub(crate) enum Event {
    /// A subtask is set up.
    Ready { subtask: usize },
    /// A subtask has processed the end of all its inputs.
    Ended { subtask: usize },
    /// A subtask's snapshot is written.
    Acknowledged {
        id: CheckpointId,
        subtask: usize,
        members: Vec<WrittenMember>,
    },
    /// A part of a checkpoint could not be taken or written.
    Declined { id: CheckpointId, reason: Reason },
    /// A checkpoint's metadata is written.
    Completed {
        id: CheckpointId,
        completed: Box<Completed>,
    },
    /// A thread has failed.
    Failed(Box<Error>),
    /// A subtask has closed and left.
    Left,
    /// Somebody has asked for something: look at the [`Requests`].
    Requested,
}

/// How a job may be asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Cancel,
    Suspend,
}

/// What has been asked of a running job. Kept beside the event queue, so that asking never waits and
/// no request is lost between two attempts.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    stop: Mutex<Option<Stop>>,
    checkpoint: AtomicBool,
}

impl Requests {
    pub(crate) fn request_stop(&self, stop: Stop) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
    }

    pub(crate) fn request_checkpoint(&self) {
        self.checkpoint.store(true, Ordering::Release);
    }

    pub(crate) fn stop(&self) -> Option<Stop> {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_checkpoint(&self) -> bool {
        self.checkpoint.swap(false, Ordering::AcqRel)
    }
}

/// Where threads report to. Events of an earlier attempt are told by their number.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    pub(crate) attempt: u32,
    pub(crate) sender: SyncSender<(u32, Event)>,
    pub(crate) counters: Arc<Counters>,
}

/// What is counted over all subtasks, since the job was started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Records of each node of the graph: those that a source has read or a sink has taken.
    nodes: Box<[AtomicU64]>,
    /// Keys that were read back from disk.
    pub(crate) recalled: AtomicU64,
}

impl Counters {
    /// For a graph of this many nodes.
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            nodes: (0..nodes).map(|_| AtomicU64::new(0)).collect(),
            recalled: AtomicU64::new(0),
        }
    }

    /// What the node at `index` has counted.
    pub(crate) fn records(&self, index: usize) -> u64 {
        let node = self.nodes.get(index);
        node.map_or(0, |node| node.load(Ordering::Relaxed))
    }
}

impl Events {
    pub(crate) fn send(&self, event: Event) {
        // The driver is gone only when the job is: nobody is left to be told.
        let _ = self.sender.send((self.attempt, event));
    }

    /// Counts records that the source or sink at this place of the graph has read or taken.
    pub(crate) fn count_records(&self, node: usize, records: u64) {
        if let Some(node) = self.counters.nodes.get(node) {
            node.fetch_add(records, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_recalled(&self, keys: u64) {
        if keys > 0 {
            self.counters.recalled.fetch_add(keys, Ordering::Relaxed);
        }
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum End {
    Finished,
    Stopped(Stop),
    Failed(Error, Class),
}

/// What an attempt works with.
pub(crate) struct Attempt<'a> {
    pub(crate) graph: &'a JobGraph,
    pub(crate) options: &'a Options,
    pub(crate) store: &'a CheckpointStore,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) restore: Option<&'a Completed>,
    pub(crate) number: u32,
    pub(crate) next_id: u64,
    pub(crate) events: Events,
    pub(crate) receiver: &'a Receiver<(u32, Event)>,
    pub(crate) requests: &'a Requests,
}

/// An attempt as it is put together, before anything in it moves.
pub(crate) struct Assembly {
    pub(crate) plan: Plan,
    /// Of each vertex, of each of its subtasks.
    pub(crate) inboxes: Vec<Vec<Arc<Inbox>>>,
    pub(crate) in_progress: Arc<InProgress>,
    pub(crate) writers: Writers,
    pub(crate) tasks: Receiver<Task>,
    pub(crate) subtasks: Vec<Unmade>,
}

impl Attempt<'_> {
    /// Runs to the end, on threads. Returns it with the number for the next checkpoint.
    pub(crate) fn run(&self, report: &mut dyn FnMut(JobEvent)) -> (End, u64) {
        let Assembly {
            plan,
            inboxes,
            in_progress,
            writers,
            tasks,
            subtasks,
        } = self.assemble();
        let mut threads = Threads::default();
        let mut driver = Driver::new(self, &plan, &inboxes, &in_progress, writers);
        let end = match self.start(tasks, subtasks, &in_progress, &mut threads) {
            Ok(()) => self.drive(&mut driver, report),
            Err(error) => {
                let class = error.class(self.number == 0);
                End::Failed(error, class)
            }
        };
        // The driver goes, and with it the last writers' queue that is not a subtask's.
        let unsettled = driver.leave(&end);
        // First of all everybody stops: a guest that runs on is stopped by its time limit.
        for inbox in inboxes.iter().flatten() {
            inbox.close();
        }
        let given_up = in_progress.clear();
        let rest = self.join(threads);
        given_up.into_iter().for_each(discard);
        let next_id = unsettled.settle(rest, self.clock.now_ms(), report);
        (end, next_id)
    }

    fn start(
        &self,
        tasks: Receiver<Task>,
        subtasks: Vec<Unmade>,
        in_progress: &Arc<InProgress>,
        threads: &mut Threads,
    ) -> Result<(), Error> {
        writer::start(threads, WRITERS, tasks, in_progress, &self.events)?;
        for subtask in subtasks {
            threads.spawn(subtask.name.clone(), self.events.clone(), move || {
                subtask.run()
            })?;
        }
        Ok(())
    }

    /// Takes events as they come, and deadlines, until the end.
    fn drive(&self, driver: &mut Driver<'_>, report: &mut dyn FnMut(JobEvent)) -> End {
        loop {
            let event = match driver.deadline() {
                None => self
                    .receiver
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    let wait = deadline
                        .saturating_sub(self.clock.now_ms())
                        .max(0)
                        .unsigned_abs();
                    self.receiver.recv_timeout(Duration::from_millis(wait))
                }
            };
            let event = match event {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("the attempt holds a sender of its own")
                }
            };
            if let Some(end) = driver.on(event, self.clock.now_ms(), report) {
                return end;
            }
        }
    }

    /// Joins the threads while taking their last events, so that none waits for room to report.
    /// Returns those of completed checkpoints, of which there are few.
    fn join(&self, threads: Threads) -> Vec<(u32, Event)> {
        let mut completed = Vec::new();
        let mut take = |event: (u32, Event)| {
            if matches!(event.1, Event::Completed { .. }) {
                completed.push(event);
            }
        };
        let joined = AtomicBool::new(false);
        let (joined, events) = (&joined, &self.events);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                threads.join();
                joined.store(true, Ordering::Release);
                // Only to end a wait below: where the queue is full there is none.
                let _ = events.sender.try_send((events.attempt, Event::Left));
            });
            while !joined.load(Ordering::Acquire) {
                match self.receiver.recv() {
                    Ok(event) => take(event),
                    Err(_) => break,
                }
            }
        });
        self.receiver.try_iter().for_each(&mut take);
        completed
    }

    /// Puts everything together.
    pub(crate) fn assemble(&self) -> Assembly {
        let plan = Plan::of(self.graph);
        let inboxes: Vec<Vec<Arc<Inbox>>> = plan
            .vertices
            .iter()
            .map(|vertex| (0..vertex.parallelism).map(|_| Inbox::new()).collect())
            .collect();
        let queue = plan.subtasks() * (self.options.checkpoint.max_concurrent as usize + 1) + 1;
        let (writers, tasks) = Writers::queue(queue);
        // Channels first: a producer must know its consumers' inboxes.
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
        let notes = Notes::new(Arc::clone(self.clock), self.places(&plan));
        let in_progress = Arc::new(InProgress::new(notes));
        let mut subtasks = Vec::new();
        for (vertex_index, vertex) in plan.vertices.iter().enumerate() {
            for index in 0..vertex.parallelism {
                let mut edges: Vec<(usize, Router)> =
                    routes[vertex_index][index as usize].drain().collect();
                edges.sort_by_key(|(edge, _)| *edge);
                let head = match &self.graph.nodes[vertex.members[0].node].kind {
                    NodeKind::Source(_) => Head::Source {
                        started: false,
                        ended: false,
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
                };
                let name = format!("{}-{index}", self.graph.nodes[vertex.members[0].node].id);
                subtasks.push(Unmade {
                    name,
                    subtask,
                    seed,
                });
            }
        }
        Assembly {
            plan,
            inboxes,
            in_progress,
            writers,
            tasks,
            subtasks,
        }
    }
}

impl Attempt<'_> {
    /// Who the subtasks are and whom their channels come from, by their numbers.
    fn places(&self, plan: &Plan) -> Vec<Place> {
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
                places.push(Place {
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

/// What a subtask's members are made from.
struct Seed {
    graph: JobGraph,
    members: Vec<(usize, Vec<Vec<crate::plan::Target>>)>,
    restore: Option<Completed>,
    job: JobIdentity,
    run: String,
    generation: u64,
    attempt: u32,
}

/// A subtask before its members are made: that is done where they will live.
pub(crate) struct Unmade {
    name: String,
    pub(crate) subtask: Subtask,
    seed: Seed,
}

impl Unmade {
    /// Makes it ready to step, and says so.
    pub(crate) fn make(self) -> Result<Subtask, Error> {
        let Self {
            mut subtask, seed, ..
        } = self;
        let inbox = Arc::downgrade(&subtask.inbox);
        let waker = Waker::new(move || {
            if let Some(inbox) = inbox.upgrade() {
                inbox.wake();
            }
        });
        for (node, outputs) in &seed.members {
            let member = make_member(&seed, *node, outputs, subtask.index, &waker)?;
            subtask.members.push(member);
        }
        subtask.events.send(Event::Ready {
            subtask: subtask.number,
        });
        Ok(subtask)
    }

    /// Makes it and steps until its end.
    fn run(self) -> Result<(), Error> {
        let subtask = self.make()?;
        let (events, inbox) = (subtask.events.clone(), Arc::clone(&subtask.inbox));
        subtask.run()?;
        leave(&events, &inbox);
        Ok(())
    }
}

/// Says that a subtask has left, if it has by itself.
pub(crate) fn leave(events: &Events, inbox: &Inbox) {
    if !inbox.is_closed() {
        events.send(Event::Left);
    }
}

fn make_member(
    seed: &Seed,
    node_index: usize,
    outputs: &[Vec<crate::plan::Target>],
    index: u32,
    waker: &Waker,
) -> Result<Member, Error> {
    let node = &seed.graph.nodes[node_index];
    let context = SubtaskContext {
        operator: node.id.clone(),
        subtask: index,
        parallelism: node.parallelism,
        job: seed.job.clone(),
        run: seed.run.clone(),
        generation: seed.generation,
        attempt: seed.attempt,
        waker: waker.clone(),
    };
    let restored_parts = seed
        .restore
        .as_ref()
        .and_then(|checkpoint| restore::parts(checkpoint, &node.id));
    let failed = |kind: &str, source| Error::Connector {
        operator: format!("{kind} `{}`", node.id),
        subtask: index,
        action: "starting",
        source,
    };
    let body = match &node.kind {
        NodeKind::Source(factory) => {
            let source = factory.create(&context, restored_parts.as_deref());
            Body::Source(source.map_err(|source| failed("source", source))?)
        }
        NodeKind::Sink(factory) => {
            let sink = factory.create(&context, restored_parts.as_deref());
            Body::Sink(sink.map_err(|source| failed("sink", source))?)
        }
        NodeKind::Operator(operator) => {
            let range = seed.graph.key_groups.range_of(index, node.parallelism);
            let keyed = !operator.states.is_empty();
            let mut state = if keyed {
                KeyedState::new(operator.states.clone(), range, seed.graph.key_groups)
            } else {
                KeyedState::default()
            };
            if keyed {
                if let Some(memory) = &operator.state_memory {
                    let scratch = Scratch::create(&memory.scratch_dir);
                    let scratch = scratch.map_err(|error| Error::Scratch {
                        operator: node.id.clone(),
                        subtask: index,
                        source: error,
                    })?;
                    state.set_memory_budget(memory.bytes, Box::new(scratch));
                }
                if let Some(checkpoint) = &seed.restore {
                    restore::keyed_state(checkpoint, &node.id, index, range, &mut state)?;
                }
                state.set_limit(operator.state_limit);
            }
            let restored = restored_parts.is_some();
            let failed = |failure| Error::Operator {
                operator: node.id.clone(),
                subtask: index,
                failure: Box::new(failure),
                position: Position::None,
            };
            let mut instance = operator
                .factory
                .create(&context, restored)
                .map_err(failed)?;
            // Whoever was killed right behind the completion may not have told it.
            if let Some(checkpoint) = seed.restore.as_ref().filter(|_| restored) {
                let id = CheckpointId(checkpoint.metadata().id);
                instance.checkpoint_complete(id).map_err(failed)?;
            }
            let call = Call {
                state,
                output: Output::new(operator.outputs),
                watermark: i64::MIN,
                ..Call::default()
            };
            Body::Operator {
                operator: instance,
                call: Box::new(call),
                resolved: Resolved::default(),
                keyed,
            }
        }
    };
    let ended_inputs = seed
        .restore
        .as_ref()
        .map(|checkpoint| restore::ended_inputs(checkpoint, &node.id, index, node.parallelism))
        .unwrap_or_default();
    Ok(Member {
        node: node_index,
        id: node.id.as_str().into(),
        body,
        outputs: outputs.to_vec(),
        received: 0,
        ended_inputs,
        chain: Chain::default(),
    })
}
