//! The members of a subtask: sources, operators and sinks, made and restored where they will live.

use std::sync::Arc;

use checkpoint::store::Completed;
use dataflow::operator_state::OperatorState;
use dataflow::state::{KeyedState, TimeDomain};
use dataflow::{Cells, CheckpointId};
use operator::source::Waker;
use operator::{JobIdentity, OperatorInstance, Position, SubtaskContext};

use crate::delta_chain::DeltaChain;
use crate::error::Error;
use crate::events::{Event, Events};
use crate::graph::{JobGraph, Node, NodeKind, OperatorNode};
use crate::inbox::Inbox;
use crate::plan::Target;
use crate::restore;
use crate::restoring::Restoring;
use crate::scratch::Scratch;
use crate::subtask::{Body, Member, Subtask};

/// What a subtask's members are made from.
pub(crate) struct Seed {
    pub(crate) graph: JobGraph,
    /// Their nodes, and where the outputs of each go.
    pub(crate) members: Vec<(usize, Vec<Vec<Target>>)>,
    pub(crate) restore: Option<Completed>,
    /// Counts what is read of it.
    pub(crate) restoring: Arc<Restoring>,
    pub(crate) job: JobIdentity,
    pub(crate) run: String,
    pub(crate) generation: u64,
    pub(crate) attempt: u32,
}

/// A subtask before its members are made: that is done where they will live.
pub(crate) struct Unmade {
    name: String,
    pub(crate) subtask: Subtask,
    seed: Seed,
}

impl Unmade {
    /// `name` is that of its thread.
    pub(crate) fn new(name: String, subtask: Subtask, seed: Seed) -> Self {
        Self {
            name,
            subtask,
            seed,
        }
    }

    /// The name of its thread.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

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
        // The same for all: state that is restored may live from now on.
        let now = subtask.clock.now_ms();
        for (node, outputs) in &seed.members {
            let member = make_member(&seed, *node, outputs, subtask.index, &waker, now)?;
            subtask.members.push(member);
        }
        subtask.events.send(Event::Ready {
            subtask: subtask.number,
        });
        Ok(subtask)
    }

    /// Makes it and steps until its end.
    pub(crate) fn run(self) -> Result<(), Error> {
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

/// The operator state of a subtask, as the checkpoint has it.
fn operator_state(
    seed: &Seed,
    node: &Node,
    operator: &OperatorNode,
    context: &SubtaskContext,
    migrate: &mut restore::Migrate<'_>,
) -> Result<OperatorState, Error> {
    let first = operator.first_operator_state();
    let mut own = OperatorState::new(operator.operator_states.clone(), first);
    if let Some(checkpoint) = &seed.restore {
        restore::operator_state(checkpoint, &node.id, context, &mut own, migrate)?;
    }
    own.set_limit(operator.state_limit);
    Ok(own)
}

/// The keyed state of a subtask, restored if it starts from a checkpoint.
fn keyed_state(
    seed: &Seed,
    node: &Node,
    operator: &OperatorNode,
    index: u32,
    now: i64,
    migrate: &mut restore::Migrate<'_>,
) -> Result<KeyedState, Error> {
    let groups = seed.graph.key_groups;
    let range = groups.range_of(index, node.parallelism);
    let mut state = KeyedState::new(operator.states.clone(), range, groups);
    if let Some(memory) = &operator.state_memory {
        let scratch = Scratch::create(&memory.scratch_dir).map_err(|error| Error::Scratch {
            operator: node.id.clone(),
            subtask: index,
            source: error,
        })?;
        state.set_memory_budget(memory.bytes, Box::new(scratch));
    }
    state.set_now(now);
    if let Some(checkpoint) = &seed.restore {
        let from = (checkpoint, &seed.restoring);
        restore::keyed_state(from, &node.id, index, range, &mut state, migrate)?;
        if operator.skip_overdue_timers {
            skip_overdue_timers(node, index, now, &mut state)?;
        }
    }
    state.set_limit(operator.state_limit);
    Ok(state)
}

/// Removes timers of processing time that fell due while the job was down, and says how many.
fn skip_overdue_timers(
    node: &Node,
    index: u32,
    now: i64,
    state: &mut KeyedState,
) -> Result<(), Error> {
    let skipped = state.skip_timers(TimeDomain::Processing, now);
    let skipped = skipped.map_err(|source| Error::State {
        operator: node.id.clone(),
        subtask: index,
        source,
    })?;
    if skipped > 0 {
        tracing::warn!(
            operator = node.id,
            subtask = index,
            "{skipped} timers fell due while the job was down and are skipped"
        );
    }
    Ok(())
}

fn make_member(
    seed: &Seed,
    node_index: usize,
    outputs: &[Vec<Target>],
    index: u32,
    waker: &Waker,
    now: i64,
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
    // Where all input was ended before it, that was for its sake only: it goes on, and so does time.
    let undrained = seed
        .restore
        .as_ref()
        .filter(|checkpoint| !checkpoint.metadata().drained);
    let failed = |kind: &str, source| Error::Connector {
        operator: format!("{kind} `{}`", node.id),
        subtask: index,
        action: "starting",
        source,
    };
    let body = match &node.kind {
        NodeKind::Source(factory) => {
            let source = factory.create(&context, restored_parts.as_deref());
            let mut source = source.map_err(|source| failed("source", source))?;
            if node.bad_records.is_some() {
                source.leave_out_unreadable();
            }
            Body::Source(source)
        }
        NodeKind::Sink(factory) => {
            let sink = factory.create(&context, restored_parts.as_deref());
            Body::Sink(sink.map_err(|source| failed("sink", source))?)
        }
        NodeKind::Operator(operator) => {
            let keyed = !operator.states.is_empty();
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
            // It is there before its state, because it rewrites what is of an older version.
            let mut migrate = |state, from, values: &Cells| instance.migrate(state, from, values);
            let state = match keyed {
                true => keyed_state(seed, node, operator, index, now, &mut migrate)?,
                false => KeyedState::default(),
            };
            let own = operator_state(seed, node, operator, &context, &mut migrate)?;
            // A process that was killed right after the completion may not have reported it.
            if let Some(checkpoint) = seed.restore.as_ref().filter(|_| restored) {
                let id = CheckpointId(checkpoint.metadata().id);
                instance.checkpoint_complete(id).map_err(failed)?;
            }
            let instance = OperatorInstance::new(instance, state, keyed, operator.outputs);
            let mut instance = instance.with_operator_state(own);
            if let Some(checkpoint) = &undrained {
                // First, because that of the end of all input is no time by which entries expire.
                let time = restore::event_time(checkpoint, &node.id, index, node.parallelism);
                instance.set_watermark(time);
                let watermark = restore::watermark(checkpoint, &node.id, index, node.parallelism);
                instance.set_watermark(watermark);
            }
            Body::Operator(Box::new(instance))
        }
    };
    let ended_inputs = undrained
        .map(|checkpoint| restore::ended_inputs(checkpoint, &node.id, index, node.parallelism))
        .unwrap_or_default();
    Ok(Member {
        node: node_index,
        id: node.id.as_str().into(),
        parallelism: node.parallelism,
        body,
        outputs: outputs.to_vec(),
        ended_inputs,
        chain: DeltaChain::default(),
        bad_records: node.bad_records.clone(),
    })
}
