//! The job graph: what runs, and how records go from one to the next.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dataflow::state::{StateDescriptor, StateKind};
use dataflow::{KeyGroups, Partition, operator_state};
use operator::{OperatorFactory, SinkFactory, SourceFactory};

use crate::bad_records::BadRecords;

/// A validated job, ready to run. Node ids are unique, edges lead from earlier nodes to later ones
/// (so there is no cycle), forward edges join equal parallelisms, no parallelism exceeds
/// `key_groups`, only sources have no input and only sinks have no output.
#[derive(Clone)]
pub struct JobGraph {
    /// The nodes in topological order.
    pub nodes: Vec<Node>,
    /// Number of key groups.
    pub key_groups: KeyGroups,
}

/// A source, an operator or a sink.
#[derive(Clone)]
pub struct Node {
    /// The id that the user gave it; addresses its state in checkpoints.
    pub id: String,
    /// How many subtasks run it.
    pub parallelism: u32,
    /// Where its records come from, input by input. Empty for a source.
    pub inputs: Vec<Edge>,
    /// What it is.
    pub kind: NodeKind,
    /// What becomes of records that it cannot process or, of a source, read; `None`: the job fails. A sink has none.
    pub bad_records: Option<Arc<BadRecords>>,
}

impl Node {
    /// How many ports edges may lead from: its outputs, and after them that for dead letters.
    #[must_use]
    pub fn ports(&self) -> usize {
        let outputs = match &self.kind {
            NodeKind::Source(_) => 1,
            NodeKind::Operator(operator) => operator.outputs as usize,
            NodeKind::Sink(_) => 0,
        };
        let has_dead_letters = |bad: &Arc<BadRecords>| bad.has_dead_letters;
        outputs + usize::from(self.bad_records.as_ref().is_some_and(has_dead_letters))
    }
}

/// One input of a node. Several edges may stand for one input of an operator (a union): then their
/// `input` numbers are equal.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Index of the producing node in [`JobGraph::nodes`].
    pub from: usize,
    /// The producer's output port.
    pub port: u32,
    /// Number of the consumer's input.
    pub input: u32,
    /// How records are dealt.
    pub partition: Partition,
}

/// What a [`Node`] is.
#[derive(Clone)]
pub enum NodeKind {
    /// A source.
    Source(Arc<dyn SourceFactory>),
    /// An operator.
    Operator(OperatorNode),
    /// A sink.
    Sink(Arc<dyn SinkFactory>),
}

/// What the runtime knows of an operator.
#[derive(Clone)]
pub struct OperatorNode {
    /// Makes the instances.
    pub factory: Arc<dyn OperatorFactory>,
    /// Its keyed states, in the order by which calls number them. Empty: keys are not resolved.
    pub states: Vec<StateDescriptor>,
    /// Its operator states. Calls number them after its keyed states (those of timers are not numbered).
    pub operator_states: Vec<operator_state::Descriptor>,
    /// Whether timers of processing time that fell due while the job was down are removed without firing.
    pub skip_overdue_timers: bool,
    /// How many outputs it has, without that for dead letters.
    pub outputs: u32,
    /// The most bytes of state that one subtask may hold, if limited.
    pub state_limit: Option<u64>,
    /// How much memory the state of one subtask may take, if limited.
    pub state_memory: Option<StateMemory>,
    /// What metadata records about it: component digest, world version.
    pub labels: BTreeMap<String, String>,
}

impl OperatorNode {
    /// The number that calls have for the first of its operator states.
    pub(crate) fn first_operator_state(&self) -> u32 {
        let declared = self.states.iter();
        let numbered = declared.filter(|state| state.kind != StateKind::Timers);
        numbered.count() as u32
    }
}

/// A budget of memory for the state of a subtask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateMemory {
    /// How many bytes it is.
    pub bytes: u64,
    /// The directory, on a local disk, below which scratch files hold what does not fit.
    pub scratch_dir: PathBuf,
}
