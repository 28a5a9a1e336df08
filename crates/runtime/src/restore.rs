//! What a job takes over from a checkpoint, decided before anything runs.
//!
//! A snapshot addresses state by operator id. Every mismatch is found at once: state whose operator is
//! gone, states that changed their kind, key groups that differ. Keyed state is dealt by key group
//! range, so any parallelism up to the number of key groups will do.
//!
//! A state that was written under an older version of its schema is migrated while it is restored, by the operator
//! itself. Whether it can is tried before anything runs, with some of the values that there are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use checkpoint::metadata::{self, Metadata, Role, State, Subtask};
use checkpoint::store::Completed;
use dataflow::key::KEY_HASH_NAME;
use dataflow::operator_state::{self, OperatorState, differing};
use dataflow::state::{KeyedState, RestoreError, StateDescriptor, Upgrade};
use dataflow::watermark::NO_WATERMARK;
use dataflow::{Cells, KeyGroupRange, KeyGroups};
use operator::source::{InputChanged, Part};
use operator::text::counted;
use operator::{BoxError, Failure, SubtaskContext};

use crate::error::Error;
use crate::graph::{JobGraph, Node, NodeKind, OperatorNode};
use crate::restoring::Restoring;

/// The label of a sink in a checkpoint that says where it publishes: see [`operator::SinkFactory::place`].
pub const PLACE: &str = "place";

/// What is going to be restored: shown to the user before the first record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Number of the checkpoint.
    pub checkpoint: u64,
    /// Where it is; `None` in memory.
    pub path: Option<String>,
    /// Entries for each node of the job, for each of its states, and for each dropped operator and its states.
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
    /// It cannot be restored: the job does not start. Why, in words.
    Refused(String),
    /// It is a sink that is not in the job any more; what became of the output that was prepared for it.
    Output(String),
    /// One of its states is as it was.
    StateSame {
        /// The state.
        state: String,
        /// Entries.
        entries: u64,
        /// Bytes.
        bytes: u64,
    },
    /// One of its states was written under an older version of its schema: the operator rewrites its values.
    StateMigrated {
        /// The state.
        state: String,
        /// The version in the checkpoint.
        from: u32,
        /// The version that is declared.
        to: u32,
        /// Entries.
        entries: u64,
        /// Bytes.
        bytes: u64,
    },
    /// One of its states is not in the checkpoint and starts empty.
    StateNew {
        /// The state.
        state: String,
    },
    /// One of its states cannot be restored: the job does not start.
    StateRefused {
        /// The state.
        state: String,
        /// Why, in words.
        why: String,
        /// Entries.
        entries: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Entries of one of its states are dropped, as allowed.
    StateDropped {
        /// The state.
        state: String,
        /// Whether it is declared all the same: then it starts empty.
        declared: bool,
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
            Self::Refused(_) => "refused",
            Self::Output(_) => "output",
            Self::StateSame { .. } => "state-same",
            Self::StateMigrated { .. } => "state-migrated",
            Self::StateNew { .. } => "state-new",
            Self::StateRefused { .. } => "state-refused",
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
            Verdict::Refused(why) => write!(f, "`{id}` is refused: it {why}"),
            Verdict::Output(fate) => write!(f, "`{id}` is not in the job: {fate}"),
            Verdict::StateSame {
                state,
                entries,
                bytes,
            } => write!(
                f,
                "`{id}` state `{state}` is the same: {}",
                Amount(*entries, *bytes)
            ),
            Verdict::StateMigrated {
                state,
                from,
                to,
                entries,
                bytes,
            } => write!(
                f,
                "`{id}` state `{state}` is migrated from version {from} to {to}: {}",
                Amount(*entries, *bytes)
            ),
            Verdict::StateNew { state } => {
                write!(f, "`{id}` state `{state}` is new and starts empty")
            }
            Verdict::StateRefused {
                state,
                why,
                entries,
                bytes,
            } => write!(
                f,
                "`{id}` state `{state}` is refused: it {why}: {}",
                Amount(*entries, *bytes)
            ),
            Verdict::StateDropped {
                state,
                declared,
                entries,
                bytes,
            } => {
                let (verb, then) = match declared {
                    true => ("is dropped as asked", ", and it starts empty"),
                    false => ("is not declared any more", ", dropped"),
                };
                let amount = Amount(*entries, *bytes);
                write!(f, "`{id}` state `{state}` {verb}: {amount}{then}")
            }
            Verdict::Changed { label, was, now } => {
                write!(f, "`{id}` changed its {label} from {was} to {now}")
            }
        }
    }
}

/// How much there is of a state.
struct Amount(u64, u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(entries, bytes) = *self;
        write!(
            f,
            "{}, {}",
            counted(entries, "entry"),
            counted(bytes, "byte")
        )
    }
}

/// Why a state cannot be read as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is of another kind, or its schema has another name.
    Other,
    /// It was written under a version that the operator does not have yet.
    Newer,
    /// The operator does not migrate it.
    NotMigrated(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other => Ok(()),
            Self::Newer => f.write_str(", which is older"),
            Self::NotMigrated(why) => write!(f, ", and the operator cannot migrate it: {why}"),
        }
    }
}

/// A job that does not fit a checkpoint: all that is wrong, and what would become of everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// What is wrong.
    pub mismatches: Vec<Mismatch>,
    /// The whole report.
    pub report: Report,
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
    #[error("state `{state}` of operator `{operator}` was {was} and is declared as {now}{why}")]
    StateChanged {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// In the checkpoint.
        was: String,
        /// In the job.
        now: String,
        /// What keeps it from being read.
        why: Unreadable,
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

/// Compares a job with a checkpoint. Where a state is to be migrated, the operator is asked to rewrite some of its
/// values, on an instance of its own.
///
/// # Errors
/// All mismatches at once; with `allow_non_restored` only those that dropping state does not heal.
pub fn check(
    graph: &JobGraph,
    checkpoint: &Completed,
    allow_non_restored: bool,
) -> Result<Report, Box<Refusal>> {
    let metadata = checkpoint.metadata();
    let mut found = Comparison {
        checkpoint,
        allow_non_restored,
        entries: Vec::new(),
        mismatches: Vec::new(),
    };
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
            None => {
                found.push(&node.id, Verdict::StartsEmpty);
                if let NodeKind::Operator(operator) = &node.kind {
                    found.new_states(&node.id, operator, |_| false);
                }
            }
        }
    }
    for old in &metadata.operators {
        if !graph.nodes.iter().any(|node| node.id == old.id) {
            found.gone(graph, metadata, old);
        }
    }
    let report = Report {
        checkpoint: metadata.id,
        path: checkpoint.path(),
        entries: found.entries,
    };
    match found.mismatches.is_empty() {
        true => Ok(report),
        false => Err(Box::new(Refusal {
            mismatches: found.mismatches,
            report,
        })),
    }
}

/// A state as the job declares it.
struct Declared<'a> {
    /// Its number in calls.
    number: u32,
    /// As metadata calls it.
    kind: &'static str,
    schema: &'a str,
    schema_version: u32,
}

impl<'a> Declared<'a> {
    fn keyed((number, state): (usize, &'a StateDescriptor)) -> Self {
        Self {
            number: number as u32,
            kind: state.kind.name(),
            schema: &state.schema,
            schema_version: state.schema_version,
        }
    }

    fn of_operator((number, state): (usize, &'a operator_state::Descriptor), first: u32) -> Self {
        Self {
            number: first + number as u32,
            kind: state.scope.name(),
            schema: &state.schema,
            schema_version: state.schema_version,
        }
    }
}

/// What comparing a job with a checkpoint has found so far.
struct Comparison<'a> {
    checkpoint: &'a Completed,
    /// Whether what does not fit may be dropped.
    allow_non_restored: bool,
    entries: Vec<ReportEntry>,
    mismatches: Vec<Mismatch>,
}

impl Comparison<'_> {
    fn push(&mut self, operator: &str, verdict: Verdict) {
        self.entries.push(ReportEntry {
            operator: operator.to_owned(),
            verdict,
        });
    }

    /// A node that is in both.
    fn node(&mut self, node: &Node, old: &metadata::Operator) {
        if old.role != role(&node.kind) {
            let (was, now) = (name(old.role), name(role(&node.kind)));
            let why = format!("was {} and is {}", with_article(was), with_article(now));
            self.push(&node.id, Verdict::Refused(why));
            self.mismatches.push(Mismatch::RoleChanged {
                operator: node.id.clone(),
                was,
                now,
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
                let position = source.describe_position(&parts);
                let verdict = match source.compare(&node.id, &parts) {
                    Ok(()) => Verdict::Continues(position),
                    Err(changed) => {
                        self.mismatches.push(Mismatch::InputChanged {
                            operator: node.id.clone(),
                            changed,
                        });
                        let why = format!("has other input than in the checkpoint ({position})");
                        Verdict::Refused(why)
                    }
                };
                self.push(&node.id, verdict);
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
        // The operator comes first, then its states.
        let at = self.entries.len();
        let declared = |state: &State| {
            let mut states = operator.states.iter().enumerate();
            states.find(|(_, it)| it.name == state.name)
        };
        let of_operator = |state: &State| {
            let mut states = operator.operator_states.iter().enumerate();
            states.find(|(_, it)| it.name == state.name)
        };
        let first = operator.first_operator_state();
        let keyed = old.states.iter();
        let keyed = keyed.map(|state| (state, declared(state).map(Declared::keyed)));
        let own = old.operator_states.iter().map(|state| {
            let declared = of_operator(state);
            let declared = declared.map(|declared| Declared::of_operator(declared, first));
            (state, declared)
        });
        let (mut entries, mut bytes) = (0, 0);
        for (state, declared) in keyed.chain(own) {
            let is_dropped = self.checkpoint.drops(&node.id, &state.name);
            match declared {
                Some(declared) if !is_dropped => {
                    self.state(node, operator, old, state, &declared);
                    entries += state.entries;
                    bytes += state.bytes;
                }
                declared => {
                    let is_declared = declared.is_some();
                    self.state_gone(&node.id, old, state, is_dropped, is_declared);
                }
            }
        }
        self.new_states(&node.id, operator, |name| {
            let mut states = old.states.iter().chain(&old.operator_states);
            states.any(|state| state.name == name)
        });
        let verdict = match has_state(old) {
            true => Verdict::Restored {
                from_parallelism: old.parallelism,
                to_parallelism: node.parallelism,
                entries,
                bytes,
            },
            false => Verdict::Nothing,
        };
        let operator = node.id.clone();
        self.entries.insert(at, ReportEntry { operator, verdict });
    }

    /// The states that an operator declares and the checkpoint does not have.
    fn new_states(&mut self, id: &str, operator: &OperatorNode, is_old: impl Fn(&str) -> bool) {
        let keyed = operator.states.iter().map(|state| &state.name);
        let own = operator.operator_states.iter().map(|state| &state.name);
        for name in keyed.chain(own).filter(|name| !is_old(name)) {
            let state = name.clone();
            self.push(id, Verdict::StateNew { state });
        }
    }

    /// A state that is in both.
    fn state(
        &mut self,
        node: &Node,
        operator: &OperatorNode,
        old: &metadata::Operator,
        was: &State,
        now: &Declared<'_>,
    ) {
        let (state, entries, bytes) = (was.name.clone(), was.entries, was.bytes);
        let (from, to) = (was.schema_version, now.schema_version);
        let why = if was.kind != now.kind || was.schema != now.schema {
            Unreadable::Other
        } else if from > to {
            Unreadable::Newer
        } else if from == to {
            let verdict = Verdict::StateSame {
                state,
                entries,
                bytes,
            };
            return self.push(&node.id, verdict);
        } else {
            match try_migration(self.checkpoint, node, operator, old, was, now.number) {
                Ok(()) => {
                    let verdict = Verdict::StateMigrated {
                        state,
                        from,
                        to,
                        entries,
                        bytes,
                    };
                    return self.push(&node.id, verdict);
                }
                Err(failure) => Unreadable::NotMigrated(failure.message),
            }
        };
        let described = |kind: &str, schema: &str, version: u32| {
            format!("{kind} state of `{schema}` version {version}")
        };
        let mismatch = Mismatch::StateChanged {
            operator: node.id.clone(),
            state: state.clone(),
            was: described(&was.kind, &was.schema, from),
            now: described(now.kind, now.schema, to),
            why,
        };
        if let Mismatch::StateChanged { was, now, why, .. } = &mismatch {
            let verdict = Verdict::StateRefused {
                state,
                why: format!("was {was} and is declared as {now}{why}"),
                entries,
                bytes,
            };
            self.push(&node.id, verdict);
        }
        self.mismatches.push(mismatch);
    }

    /// A state that the operator no longer declares, or that is dropped as asked.
    fn state_gone(
        &mut self,
        id: &str,
        old: &metadata::Operator,
        state: &State,
        as_asked: bool,
        declared: bool,
    ) {
        // Of what deltas hold of it, nothing is known before they are read.
        let mut segments = old.subtasks.iter().flat_map(|subtask| &subtask.segments);
        if !as_asked && state.entries == 0 && !segments.any(|segment| segment.delta) {
            return;
        }
        if !as_asked && !self.allow_non_restored {
            self.mismatches.push(Mismatch::StateGone {
                operator: id.to_owned(),
                state: state.name.clone(),
                bytes: state.bytes,
            });
            return self.state_refused(id, state, "is not declared any more");
        }
        self.push(
            id,
            Verdict::StateDropped {
                state: state.name.clone(),
                declared,
                entries: state.entries,
                bytes: state.bytes,
            },
        );
    }

    fn state_refused(&mut self, id: &str, state: &State, why: &str) {
        let verdict = Verdict::StateRefused {
            state: state.name.clone(),
            why: why.to_owned(),
            entries: state.entries,
            bytes: state.bytes,
        };
        self.push(id, verdict);
    }

    /// A node of the checkpoint that the job does not have.
    fn gone(&mut self, graph: &JobGraph, metadata: &Metadata, old: &metadata::Operator) {
        let states = || old.states.iter().chain(&old.operator_states);
        let bytes = states().map(|state| state.bytes).sum();
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
        let checkpoint = self.checkpoint;
        let is_dropped = |state: &State| checkpoint.drops(&old.id, &state.name);
        // Each of its states may be dropped by its name.
        let is_allowed = self.allow_non_restored || (has_state(old) && states().all(is_dropped));
        let mut refused = None;
        if has_state(old) {
            let left = states().filter(|state| !is_dropped(state));
            refused = Some(Mismatch::OperatorGone {
                operator: old.id.clone(),
                bytes: left.map(|state| state.bytes).sum(),
                new: new(),
            });
        } else if parts > 0 {
            refused = Some(Mismatch::ConnectorGone {
                role: name(old.role),
                operator: old.id.clone(),
                parts,
                new: new(),
            });
        } else if states().all(|state| !is_dropped(state)) {
            return;
        }
        let refused = refused.filter(|_| !is_allowed);
        let verdict = match &refused {
            Some(_) => Verdict::Refused("is not in the job".to_owned()),
            None => Verdict::Dropped { bytes, parts },
        };
        self.push(&old.id, verdict);
        for state in states() {
            match refused.is_some() && !is_dropped(state) {
                true => {
                    self.state_refused(&old.id, state, "is of an operator that is not in the job")
                }
                false => {
                    let verdict = Verdict::StateDropped {
                        state: state.name.clone(),
                        declared: false,
                        entries: state.entries,
                        bytes: state.bytes,
                    };
                    self.push(&old.id, verdict);
                }
            }
        }
        self.mismatches.extend(refused);
    }
}

/// Rewrites values that were written under an older version of their schema: the number of the state, the version,
/// the values.
pub(crate) type Migrate<'a> = dyn FnMut(u32, u32, &Cells) -> Result<Cells, Failure> + 'a;

/// Has an operator rewrite some values of a state, to find out whether it can. What cannot be read is found when
/// all is restored.
fn try_migration(
    checkpoint: &Completed,
    node: &Node,
    operator: &OperatorNode,
    old: &metadata::Operator,
    state: &State,
    number: u32,
) -> Result<(), Failure> {
    let Some(values) = some_values(checkpoint, old, state) else {
        return Ok(());
    };
    let factory = &operator.factory;
    let tried = factory.try_migrate(node.parallelism, number, state.schema_version, &values);
    tried.map(drop)
}

/// Some values of a state, as many as are read at once; `None` if it has none, or they cannot be read.
fn some_values(checkpoint: &Completed, old: &metadata::Operator, state: &State) -> Option<Cells> {
    if old.operator_states.iter().any(|it| it.name == state.name) {
        let pieces = checkpoint.operator_state(old).ok().flatten()?;
        let values = pieces.entries(&state.name).map(|(_, _, value)| value);
        let values: Cells = values.take(SOME_VALUES).collect();
        return (!values.is_empty()).then_some(values);
    }
    let groups = KeyGroups::new(checkpoint.metadata().key_groups)?;
    for subtask in (0..).take(old.subtasks.len()) {
        for (segment, origin) in checkpoint.keyed(old, subtask).ok()? {
            let mut first = FirstValues {
                state,
                values: None,
            };
            let mut states = origin.states.iter();
            let descriptor = StateDescriptor {
                name: state.name.clone(),
                kind: states.find(|it| it.name == state.name)?.kind,
                schema: state.schema.clone(),
                schema_version: state.schema_version,
                ttl: None,
            };
            let mut read = checkpoint.read(segment).ok()?;
            let mut keyed = KeyedState::new(vec![descriptor], groups.range_of(0, 1), groups);
            // It ends with the first values that it finds.
            let ended = keyed.restore_upgraded(&mut read, &origin, &mut first);
            if first.values.is_some() {
                return first.values;
            }
            ended.ok()?;
        }
    }
    None
}

/// How many values of operator state are rewritten to find out whether that can be done.
const SOME_VALUES: usize = 256;

/// Takes the first values of a state and no more.
struct FirstValues<'a> {
    state: &'a State,
    values: Option<Cells>,
}

impl Upgrade for FirstValues<'_> {
    fn older(&self, state: &str) -> Option<u32> {
        (state == self.state.name).then_some(self.state.schema_version)
    }

    fn migrate(&mut self, _: u32, _: u32, values: &Cells) -> Result<Cells, BoxError> {
        self.values = Some(values.clone());
        Err("these are enough".into())
    }
}

/// What is done with the states of an operator while they are restored.
struct Upgrading<'a, 'm> {
    checkpoint: &'a Completed,
    operator: &'a str,
    /// The states of older versions.
    older: BTreeMap<&'a str, u32>,
    migrate: &'a mut Migrate<'m>,
}

impl Upgrade for Upgrading<'_, '_> {
    fn drops(&self, state: &str) -> bool {
        self.checkpoint.drops(self.operator, state)
    }

    fn older(&self, state: &str) -> Option<u32> {
        self.older.get(state).copied()
    }

    fn migrate(&mut self, state: u32, from: u32, values: &Cells) -> Result<Cells, BoxError> {
        Ok((self.migrate)(state, from, values)?)
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
    lowest(operator, index, parallelism, |subtask| subtask.watermark)
}

/// The time by which entries expired whose time is event time, in the same way.
pub(crate) fn event_time(checkpoint: &Completed, id: &str, index: u32, parallelism: u32) -> i64 {
    let Some(operator) = checkpoint.operator(id) else {
        return NO_WATERMARK;
    };
    lowest(operator, index, parallelism, Subtask::event_time)
}

fn lowest(
    operator: &metadata::Operator,
    index: u32,
    parallelism: u32,
    of: impl Fn(&Subtask) -> Option<i64>,
) -> i64 {
    let reached = |subtask: &Subtask| of(subtask).unwrap_or(NO_WATERMARK);
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
    migrate: &mut Migrate<'_>,
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
    let Some(mut pieces) = pieces else {
        return Ok(());
    };
    let dropped = operator.operator_states.iter();
    for dropped in dropped.filter(|it| checkpoint.drops(id, &it.name)) {
        pieces.drop_state(&dropped.name);
    }
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
    for (at, declared) in state.states().to_vec().iter().enumerate() {
        let mut old = operator.operator_states.iter();
        let Some(old) = old
            .find(|old| old.name == declared.name && old.schema_version < declared.schema_version)
        else {
            continue;
        };
        let (number, from) = (state.first() + at as u32, old.schema_version);
        let migrated: Result<(), BoxError> =
            state.migrate(at, |values| Ok(migrate(number, from, values)?));
        migrated.map_err(|source| Error::Restore {
            operator: id.to_owned(),
            subtask: context.subtask,
            source: RestoreError::Migrate {
                name: declared.name.clone(),
                from,
                source,
            },
        })?;
    }
    Ok(())
}

/// Reads the keyed state of a node's subtask: every segment of old subtasks whose key groups are (also)
/// in `range`. What is read is counted.
pub(crate) fn keyed_state(
    (checkpoint, restoring): (&Completed, &Arc<Restoring>),
    id: &str,
    subtask: u32,
    range: KeyGroupRange,
    state: &mut KeyedState,
    migrate: &mut Migrate<'_>,
) -> Result<(), Error> {
    let Some(operator) = checkpoint.operator(id) else {
        return Ok(());
    };
    let unreadable = |source| Error::ReadState {
        operator: id.to_owned(),
        subtask,
        source,
    };
    let declared = state.states().to_vec();
    let older = operator.states.iter().filter_map(|old| {
        let declared = declared.iter().find(|declared| declared.name == old.name)?;
        let is_older = old.schema_version < declared.schema_version;
        is_older.then_some((&*old.name, old.schema_version))
    });
    let mut upgrading = Upgrading {
        checkpoint,
        operator: id,
        older: older.collect(),
        migrate,
    };
    let groups = checkpoint.key_groups().map_err(unreadable)?;
    let parallelism = u32::try_from(operator.subtasks.len()).unwrap_or(u32::MAX);
    for old in 0..parallelism {
        if !groups.range_of(old, parallelism).overlaps(range) {
            continue;
        }
        for (segment, origin) in checkpoint.keyed(operator, old).map_err(unreadable)? {
            let read = checkpoint.read(segment).map_err(unreadable)?;
            let mut read = restoring.counted(segment.length, read);
            let restored = state.restore_upgraded(&mut read, &origin, &mut upgrading);
            let stats = restored.map_err(|source| Error::Restore {
                operator: id.to_owned(),
                subtask,
                source,
            })?;
            for (name, entries) in stats.dropped {
                let why = match checkpoint.drops(id, &name) {
                    true => "as asked",
                    false => "which is not declared any more",
                };
                tracing::warn!(
                    operator = id,
                    subtask,
                    "dropped {} of state `{name}`, {why}",
                    counted(entries, "entry")
                );
            }
        }
    }
    Ok(())
}
