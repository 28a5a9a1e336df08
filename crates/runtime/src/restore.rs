//! What a job takes over from a checkpoint, decided before anything runs.
//!
//! A snapshot addresses state by operator id. Every mismatch is found at once: state whose operator is
//! gone, states that changed their kind, key groups that differ. Keyed state is dealt by key group
//! range, so any parallelism up to the number of key groups will do.

use std::fmt;

use checkpoint::metadata::{self, Metadata, Role, State, Subtask};
use checkpoint::store::Completed;
use dataflow::KeyGroupRange;
use dataflow::key::KEY_HASH_NAME;
use dataflow::operator_state::{self, OperatorState, differing};
use dataflow::state::{KeyedState, StateDescriptor};
use dataflow::watermark::NO_WATERMARK;
use operator::SubtaskContext;
use operator::source::{InputChanged, Part};
use operator::text::counted;

use crate::error::Error;
use crate::graph::{JobGraph, Node, NodeKind, OperatorNode};

/// The label of a sink in a checkpoint that says where it publishes: see [`operator::SinkFactory::place`].
pub const PLACE: &str = "place";

/// What is going to be restored: shown to the user before the first record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Number of the checkpoint.
    pub checkpoint: u64,
    /// Where it is; `None` in memory.
    pub path: Option<String>,
    /// One entry per node of the job, and one per dropped operator.
    pub entries: Vec<ReportEntry>,
}

/// A line of a [`Report`].
#[derive(Clone, Debug, PartialEq)]
pub struct ReportEntry {
    /// Id of the source, operator or sink.
    pub operator: String,
    /// What happens to it.
    pub verdict: Verdict,
}

/// What a restore does with an operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It continues with its state.
    Restored {
        /// Subtasks in the snapshot.
        from_parallelism: u32,
        /// Subtasks now.
        to_parallelism: u32,
        /// Entries of keyed state.
        entries: u64,
        /// Bytes of keyed state.
        bytes: u64,
    },
    /// A source says from where it continues.
    Continues(String),
    /// A sink commits this many prepared outputs.
    Commits(usize),
    /// It was not in the snapshot and starts empty.
    StartsEmpty,
    /// It was in the snapshot and had nothing.
    Nothing,
    /// It is not in the job any more; its state is dropped, as allowed.
    Dropped {
        /// Bytes of keyed state.
        bytes: u64,
        /// Positions of a source, prepared outputs of a sink.
        parts: usize,
    },
    /// It is a sink that is not in the job any more; what became of the output that was prepared for it.
    Output(String),
    /// One of its states is not declared any more; its entries are dropped, as allowed.
    StateDropped {
        /// The state.
        state: String,
        /// Entries.
        entries: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Its labels changed (for example the digest of its component).
    Changed {
        /// Which label.
        label: String,
        /// Before.
        was: String,
        /// Now.
        now: String,
    },
}

impl Verdict {
    /// Its name for programs, which never changes.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Restored { .. } => "restored",
            Self::Continues(_) => "continues",
            Self::Commits(_) => "commits",
            Self::StartsEmpty => "starts-empty",
            Self::Nothing => "nothing",
            Self::Dropped { .. } => "dropped",
            Self::Output(_) => "output",
            Self::StateDropped { .. } => "state-dropped",
            Self::Changed { .. } => "changed",
        }
    }
}

impl fmt::Display for ReportEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = &self.operator;
        match &self.verdict {
            Verdict::Restored {
                from_parallelism,
                to_parallelism,
                entries,
                bytes,
            } => {
                write!(
                    f,
                    "`{id}` continues with {}, {}",
                    counted(*entries, "entry"),
                    counted(*bytes, "byte")
                )?;
                if from_parallelism != to_parallelism {
                    write!(
                        f,
                        ", rescaled from {from_parallelism} to {to_parallelism} subtasks"
                    )?;
                }
                Ok(())
            }
            Verdict::Continues(position) => write!(f, "`{id}`: {position}"),
            Verdict::Commits(0) => write!(f, "`{id}` has nothing to commit"),
            Verdict::Commits(count) => write!(
                f,
                "`{id}` commits {}",
                counted(*count as u64, "prepared output")
            ),
            Verdict::StartsEmpty => write!(f, "`{id}` is not in the checkpoint and starts empty"),
            Verdict::Nothing => write!(f, "`{id}` had no state"),
            Verdict::Dropped { bytes, parts: 0 } => {
                write!(
                    f,
                    "`{id}` is not in the job: its state of {} is dropped",
                    counted(*bytes, "byte")
                )
            }
            Verdict::Dropped { parts, .. } => write!(
                f,
                "`{id}` is not in the job: its {} dropped",
                match parts {
                    1 => "position or prepared output is".to_owned(),
                    parts => format!("{parts} positions or prepared outputs are"),
                }
            ),
            Verdict::Output(fate) => write!(f, "`{id}` is not in the job: {fate}"),
            Verdict::StateDropped {
                state,
                entries,
                bytes,
            } => {
                write!(
                    f,
                    "`{id}` does not declare state `{state}` any more: {}, {}, dropped",
                    counted(*entries, "entry"),
                    counted(*bytes, "byte")
                )
            }
            Verdict::Changed { label, was, now } => {
                write!(f, "`{id}` changed its {label} from {was} to {now}")
            }
        }
    }
}

/// Why a job cannot be restored from a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Another number of key groups.
    #[error("the checkpoint has {checkpoint} key groups, the job asks for {job}")]
    KeyGroups {
        /// In the checkpoint.
        checkpoint: u32,
        /// In the job.
        job: u32,
    },
    /// Another hash.
    #[error(
        "the checkpoint deals keys by `{checkpoint}`, this version by `{}`",
        KEY_HASH_NAME
    )]
    KeyHash {
        /// In the checkpoint.
        checkpoint: String,
    },
    /// State of an operator that is gone.
    #[error(
        "operator `{operator}` is not in the job, the checkpoint holds {} of its state{renamed}",
        counted(*bytes, "byte"),
        renamed = Renamed(new)
    )]
    OperatorGone {
        /// The operator.
        operator: String,
        /// Bytes of keyed state.
        bytes: u64,
        /// Operators of the job that are not in the checkpoint: it may have been renamed.
        new: Vec<String>,
    },
    /// A source or sink with a position that is gone.
    #[error(
        "{role} `{operator}` is not in the job, the checkpoint holds {} of it{renamed}",
        held_parts(role, *parts),
        renamed = Renamed(new)
    )]
    ConnectorGone {
        /// `source` or `sink`.
        role: &'static str,
        /// Its id.
        operator: String,
        /// How many parts there are.
        parts: usize,
        /// Those of the job that are not in the checkpoint: it may have been renamed.
        new: Vec<String>,
    },
    /// A state that is gone.
    #[error(
        "operator `{operator}` does not declare state `{state}` any more, the checkpoint holds {} of it",
        counted(*bytes, "byte")
    )]
    StateGone {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// Its bytes.
        bytes: u64,
    },
    /// A state that cannot be read as it is declared now.
    #[error("state `{state}` of operator `{operator}` was {was} and is declared as {now}")]
    StateChanged {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// In the checkpoint.
        was: String,
        /// In the job.
        now: String,
    },
    /// The input of a source is not what it was.
    #[error("source `{operator}`: its input has changed since the checkpoint{}", listed(&changed.differences))]
    InputChanged {
        /// The source.
        operator: String,
        /// What differs.
        changed: InputChanged,
    },
    /// An id that stands for something else now.
    #[error("`{operator}` was {} and is {}", with_article(was), with_article(now))]
    RoleChanged {
        /// The id.
        operator: String,
        /// In the checkpoint.
        was: &'static str,
        /// In the job.
        now: &'static str,
    },
}

impl Mismatch {
    /// Whether `--allow-non-restored-state` lets it pass.
    #[must_use]
    pub fn may_be_dropped(&self) -> bool {
        matches!(
            self,
            Self::OperatorGone { .. } | Self::ConnectorGone { .. } | Self::StateGone { .. }
        )
    }
}

/// What would start empty where something is gone: most likely the same under another name.
struct Renamed<'a>(&'a [String]);

impl fmt::Display for Renamed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.0.iter().map(|id| format!("`{id}`")).collect();
        match quoted.as_slice() {
            [] => Ok(()),
            [one] => write!(f, "; {one} is new and would start empty, was it renamed?"),
            many => write!(
                f,
                "; {} are new and would start empty, was it renamed?",
                many.join(", ")
            ),
        }
    }
}

/// The parts that a source or sink has in a checkpoint.
fn held_parts(role: &str, parts: usize) -> String {
    let one = match role {
        "sink" => "prepared output",
        _ => "position",
    };
    counted(parts as u64, one)
}

fn listed(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n    {line}")).collect()
}

fn with_article(role: &str) -> String {
    let article = if role == name(Role::Operator) {
        "an"
    } else {
        "a"
    };
    format!("{article} {role}")
}

fn name(role: Role) -> &'static str {
    match role {
        Role::Source => "source",
        Role::Operator => "operator",
        Role::Sink => "sink",
    }
}

pub(crate) fn role(kind: &NodeKind) -> Role {
    match kind {
        NodeKind::Source(_) => Role::Source,
        NodeKind::Operator(_) => Role::Operator,
        NodeKind::Sink(_) => Role::Sink,
    }
}

/// Compares a job with a checkpoint.
///
/// # Errors
/// All mismatches at once; with `allow_non_restored` only those that dropping state does not heal.
pub fn check(
    graph: &JobGraph,
    metadata: &Metadata,
    path: Option<String>,
    allow_non_restored: bool,
) -> Result<Report, Vec<Mismatch>> {
    let mut found = Comparison::default();
    if metadata.key_groups != graph.key_groups.count() {
        found.mismatches.push(Mismatch::KeyGroups {
            checkpoint: metadata.key_groups,
            job: graph.key_groups.count(),
        });
    }
    if metadata.key_hash != KEY_HASH_NAME {
        found.mismatches.push(Mismatch::KeyHash {
            checkpoint: metadata.key_hash.clone(),
        });
    }
    for node in &graph.nodes {
        match metadata.operators.iter().find(|old| old.id == node.id) {
            Some(old) => found.node(node, old),
            None => found.push(&node.id, Verdict::StartsEmpty),
        }
    }
    for old in &metadata.operators {
        if !graph.nodes.iter().any(|node| node.id == old.id) {
            found.gone(graph, metadata, old);
        }
    }
    if allow_non_restored {
        found
            .mismatches
            .retain(|mismatch| !mismatch.may_be_dropped());
    }
    match found.mismatches.is_empty() {
        true => Ok(Report {
            checkpoint: metadata.id,
            path,
            entries: found.entries,
        }),
        false => Err(found.mismatches),
    }
}

/// A state as the job declares it.
struct Declared<'a> {
    /// As metadata calls it.
    kind: &'static str,
    schema: &'a str,
    schema_version: u32,
}

impl<'a> Declared<'a> {
    fn keyed(state: &'a StateDescriptor) -> Self {
        Self {
            kind: state.kind.name(),
            schema: &state.schema,
            schema_version: state.schema_version,
        }
    }

    fn of_operator(state: &'a operator_state::Descriptor) -> Self {
        Self {
            kind: state.scope.name(),
            schema: &state.schema,
            schema_version: state.schema_version,
        }
    }
}

/// What comparing a job with a checkpoint has found so far.
#[derive(Default)]
struct Comparison {
    entries: Vec<ReportEntry>,
    mismatches: Vec<Mismatch>,
}

impl Comparison {
    fn push(&mut self, operator: &str, verdict: Verdict) {
        self.entries.push(ReportEntry {
            operator: operator.to_owned(),
            verdict,
        });
    }

    /// A node that is in both.
    fn node(&mut self, node: &Node, old: &metadata::Operator) {
        if old.role != role(&node.kind) {
            self.mismatches.push(Mismatch::RoleChanged {
                operator: node.id.clone(),
                was: name(old.role),
                now: name(role(&node.kind)),
            });
            return;
        }
        let parts: Vec<Part> = old
            .subtasks
            .iter()
            .flat_map(|subtask| subtask.parts.iter().cloned())
            .collect();
        match &node.kind {
            NodeKind::Source(source) => {
                self.push(
                    &node.id,
                    Verdict::Continues(source.describe_position(&parts)),
                );
                if let Err(changed) = source.compare(&node.id, &parts) {
                    self.mismatches.push(Mismatch::InputChanged {
                        operator: node.id.clone(),
                        changed,
                    });
                }
            }
            NodeKind::Sink(_) => self.push(&node.id, Verdict::Commits(parts.len())),
            NodeKind::Operator(operator) => self.operator(node, operator, old),
        }
    }

    fn operator(&mut self, node: &Node, operator: &OperatorNode, old: &metadata::Operator) {
        for (label, now) in &operator.labels {
            match old.labels.get(label) {
                Some(was) if was != now => {
                    let (label, was, now) = (label.clone(), was.clone(), now.clone());
                    self.push(&node.id, Verdict::Changed { label, was, now });
                }
                _ => {}
            }
        }
        let declared = |state: &State| operator.states.iter().find(|it| it.name == state.name);
        for state in &old.states {
            match declared(state) {
                Some(declared) => self.state(node, state, Declared::keyed(declared)),
                None => self.state_gone(node, old, state),
            }
        }
        let of_operator = |state: &State| {
            let mut states = operator.operator_states.iter();
            states.find(|it| it.name == state.name)
        };
        for state in &old.operator_states {
            match of_operator(state) {
                Some(declared) => self.state(node, state, Declared::of_operator(declared)),
                None => self.state_gone(node, old, state),
            }
        }
        let verdict = match has_state(old) {
            true => {
                // What is dropped has an entry of its own.
                let keyed = || old.states.iter().filter(|state| declared(state).is_some());
                let own = || {
                    old.operator_states
                        .iter()
                        .filter(|it| of_operator(it).is_some())
                };
                let kept = || keyed().chain(own());
                Verdict::Restored {
                    from_parallelism: old.parallelism,
                    to_parallelism: node.parallelism,
                    entries: kept().map(|state| state.entries).sum(),
                    bytes: kept().map(|state| state.bytes).sum(),
                }
            }
            false => Verdict::Nothing,
        };
        self.push(&node.id, verdict);
    }

    fn state(&mut self, node: &Node, was: &State, now: Declared<'_>) {
        let old = format!(
            "{} state of `{}` version {}",
            was.kind, was.schema, was.schema_version
        );
        let new = format!(
            "{} state of `{}` version {}",
            now.kind, now.schema, now.schema_version
        );
        if old != new {
            self.mismatches.push(Mismatch::StateChanged {
                operator: node.id.clone(),
                state: was.name.clone(),
                was: old,
                now: new,
            });
        }
    }

    /// A state that the operator no longer declares.
    fn state_gone(&mut self, node: &Node, old: &metadata::Operator, state: &State) {
        // Of what deltas hold of it, nothing is known before they are read.
        let mut segments = old.subtasks.iter().flat_map(|subtask| &subtask.segments);
        if state.entries == 0 && !segments.any(|segment| segment.delta) {
            return;
        }
        self.mismatches.push(Mismatch::StateGone {
            operator: node.id.clone(),
            state: state.name.clone(),
            bytes: state.bytes,
        });
        self.push(
            &node.id,
            Verdict::StateDropped {
                state: state.name.clone(),
                entries: state.entries,
                bytes: state.bytes,
            },
        );
    }

    /// A node of the checkpoint that the job does not have.
    fn gone(&mut self, graph: &JobGraph, metadata: &Metadata, old: &metadata::Operator) {
        let states = old.states.iter().chain(&old.operator_states);
        let bytes = states.map(|state| state.bytes).sum();
        let parts = old.subtasks.iter().map(|subtask| subtask.parts.len()).sum();
        let new = || {
            let of_its_kind = graph
                .nodes
                .iter()
                .filter(|node| role(&node.kind) == old.role)
                .map(|node| node.id.clone());
            let known = |id: &String| metadata.operators.iter().any(|old| old.id == *id);
            of_its_kind.filter(|id| !known(id)).collect()
        };
        if has_state(old) {
            self.mismatches.push(Mismatch::OperatorGone {
                operator: old.id.clone(),
                bytes,
                new: new(),
            });
        } else if parts > 0 {
            self.mismatches.push(Mismatch::ConnectorGone {
                role: name(old.role),
                operator: old.id.clone(),
                parts,
                new: new(),
            });
        } else {
            return;
        }
        self.push(&old.id, Verdict::Dropped { bytes, parts });
    }
}

fn has_state(old: &metadata::Operator) -> bool {
    let mut subtasks = old.subtasks.iter();
    subtasks.any(|subtask| subtask.stored().next().is_some())
}

/// The checkpoint's parts for a source or sink, of all its subtasks; `None` if it is not in the checkpoint.
pub fn parts(checkpoint: &Completed, id: &str) -> Option<Vec<Part>> {
    let operator = checkpoint.operator(id)?;
    Some(
        operator
            .subtasks
            .iter()
            .flat_map(|subtask| subtask.parts.iter().cloned())
            .collect(),
    )
}

/// The inputs of a node's subtask that had ended. At the same parallelism each subtask has its own; at
/// another one an input counts as ended if it had on every subtask, which differs only for operators
/// after forward edges.
pub(crate) fn ended_inputs(
    checkpoint: &Completed,
    id: &str,
    index: u32,
    parallelism: u32,
) -> Vec<u32> {
    let Some(operator) = checkpoint.operator(id) else {
        return Vec::new();
    };
    if operator.parallelism == parallelism {
        return operator
            .subtasks
            .get(index as usize)
            .map(|subtask| subtask.ended_inputs.clone())
            .unwrap_or_default();
    }
    let mut subtasks = operator.subtasks.iter();
    let Some(first) = subtasks.next() else {
        return Vec::new();
    };
    let rest: Vec<&Subtask> = subtasks.collect();
    let everywhere = |input: &&u32| {
        rest.iter()
            .all(|subtask| subtask.ended_inputs.contains(input))
    };
    first
        .ended_inputs
        .iter()
        .filter(everywhere)
        .copied()
        .collect()
}

/// The watermark that a node's subtask had reached; `NO_WATERMARK` for none. At another parallelism it is the
/// lowest of all subtasks, because each of the new ones has state of several.
pub(crate) fn watermark(checkpoint: &Completed, id: &str, index: u32, parallelism: u32) -> i64 {
    let Some(operator) = checkpoint.operator(id) else {
        return NO_WATERMARK;
    };
    let reached = |subtask: &Subtask| subtask.watermark.unwrap_or(NO_WATERMARK);
    if operator.parallelism == parallelism {
        let subtask = operator.subtasks.get(index as usize);
        return subtask.map_or(NO_WATERMARK, reached);
    }
    let lowest = operator.subtasks.iter().map(reached).min();
    lowest.unwrap_or(NO_WATERMARK)
}

/// Reads the operator state of all subtasks that a node had, and deals it to one of those that it has.
pub(crate) fn operator_state(
    checkpoint: &Completed,
    id: &str,
    context: &SubtaskContext,
    state: &mut OperatorState,
) -> Result<(), Error> {
    if state.is_none() {
        return Ok(());
    }
    let Some(operator) = checkpoint.operator(id) else {
        return Ok(());
    };
    let pieces = checkpoint.operator_state(operator);
    let pieces = pieces.map_err(|source| Error::ReadState {
        operator: id.to_owned(),
        subtask: context.subtask,
        source,
    })?;
    let Some(pieces) = pieces else {
        return Ok(());
    };
    // Every subtask finds the same; one of them says it. The job goes on: its copies were as they are before the
    // checkpoint too, and refusing it would leave no way to continue.
    if context.subtask == 0 {
        for (name, one, other) in differing(&pieces) {
            tracing::warn!(
                operator = id,
                "the copies of broadcast state `{name}` differ, for example those of subtasks {one} and {other}: not \
                 every subtask has made the same changes; feed what changes it by an input with `partition = \
                 \"broadcast\"`. Each subtask goes on with the copy of one subtask of the checkpoint"
            );
        }
    }
    state.restore(&pieces, context.subtask, context.parallelism);
    Ok(())
}

/// Reads the keyed state of a node's subtask: every segment of old subtasks whose key groups are (also)
/// in `range`.
pub(crate) fn keyed_state(
    checkpoint: &Completed,
    id: &str,
    subtask: u32,
    range: KeyGroupRange,
    state: &mut KeyedState,
) -> Result<(), Error> {
    let Some(operator) = checkpoint.operator(id) else {
        return Ok(());
    };
    let unreadable = |source| Error::ReadState {
        operator: id.to_owned(),
        subtask,
        source,
    };
    let groups = checkpoint.key_groups().map_err(unreadable)?;
    let parallelism = u32::try_from(operator.subtasks.len()).unwrap_or(u32::MAX);
    for old in 0..parallelism {
        if !groups.range_of(old, parallelism).overlaps(range) {
            continue;
        }
        for (segment, origin) in checkpoint.keyed(operator, old).map_err(unreadable)? {
            let mut read = checkpoint.read(segment).map_err(unreadable)?;
            let restored = state.restore_as(&mut read, &origin);
            let stats = restored.map_err(|source| Error::Restore {
                operator: id.to_owned(),
                subtask,
                source,
            })?;
            for (name, entries) in stats.dropped {
                tracing::warn!(
                    operator = id,
                    subtask,
                    "dropped {} of state `{name}`, which is not declared any more",
                    counted(entries, "entry")
                );
            }
        }
    }
    Ok(())
}
