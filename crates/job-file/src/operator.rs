//! `[[operator]]`: a component, what it is fed with, and what it may do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dataflow::Partition;
use dataflow::state::{Refresh, Ttl, TtlTime};

use super::bad_records::BadRecords;
use super::checkpoint::absolute;
use super::document::{Item, Table, Value};
use super::keys::{GRANTED_DIR, GRANTS, LIMITS, STATE, TIMERS};
use super::node::{Inputs, Node, PARTITIONS};
use super::problem::Place;
use super::secret::{self, Secret};
use super::section::Section;

/// An operator.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatorSection {
    /// Its id and parallelism.
    pub node: Node,
    /// The component's file, absolute. `None` if that is wrong, which has been noted.
    pub component: Option<PathBuf>,
    /// The command that builds the component.
    pub build: Option<String>,
    /// Where that command runs, absolute.
    pub build_dir: PathBuf,
    /// Where its records come from. `None` if that is wrong, which has been noted.
    pub inputs: Option<Inputs>,
    /// How records are dealt to its subtasks, if it says so.
    pub partition: Option<Partition>,
    /// What the component gets when it is opened, as JSON; in the place of a secret it has where that is.
    pub config: serde_json::Value,
    /// The secrets in it.
    pub secrets: Vec<Secret>,
    /// What is said of its states.
    pub states: Vec<StateSection>,
    /// What it may use up.
    pub limits: Limits,
    /// What it may reach.
    pub grants: Grants,
    /// What becomes of timers of processing time that fell due while the job was down.
    pub overdue: Overdue,
    /// What becomes of records that it cannot process; `None`: the job fails.
    pub bad_records: Option<BadRecords>,
}

/// What becomes of timers of processing time that fell due while the job was down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overdue {
    /// Each fires once.
    #[default]
    Fire,
    /// They are removed, and the log says how many.
    Skip,
}

/// The words for it.
pub(crate) const OVERDUE: &[(&str, Overdue)] = &[("fire", Overdue::Fire), ("skip", Overdue::Skip)];

/// What the job file says of a state of an operator, instead of what its component declares.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSection {
    /// The state's name.
    pub name: String,
    /// Where that stands.
    pub place: Place,
    /// How long its entries live; `None`: until they are removed.
    pub ttl: Option<Ttl>,
}

/// `refresh` of a state.
pub(crate) const REFRESHES: &[(&str, Refresh)] =
    &[("write", Refresh::Write), ("read", Refresh::Read)];

/// `time` of a state.
pub(crate) const TIMES: &[(&str, TtlTime)] = &[
    ("processing", TtlTime::Processing),
    ("event", TtlTime::Event),
];

/// `ttl` of a state whose entries do not expire.
pub(crate) const OFF: &str = "off";

/// What an operator's component, and a subtask of it, may use up. `None`: the host's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes of the component's own memory.
    pub memory: Option<u64>,
    /// Bytes of it beyond which an instance is replaced between batches.
    pub recycle_memory: Option<u64>,
    /// How long one call may take.
    pub call_time: Option<Duration>,
    /// Bytes of state and output that one call may write.
    pub call_writes: Option<u64>,
    /// How long compiling the component may take.
    pub compile_time: Option<Duration>,
    /// Bytes of memory that compiling it may take.
    pub compile_memory: Option<u64>,
    /// Files, sockets, streams and the like that one instance may hold.
    pub resources: Option<u32>,
    /// Bytes of keyed state.
    pub state: Option<u64>,
    /// Bytes of memory for it; what does not fit goes to disk. `None`: all stays in memory.
    pub state_memory: Option<u64>,
    /// Whether it runs without interruption points, so that nothing stops an endless loop.
    pub trusted: bool,
}

/// What a component may reach. Nothing, by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grants {
    /// Variables of the environment, by name.
    pub env: Vec<String>,
    /// Directories.
    pub dirs: Vec<GrantedDir>,
    /// Servers, `host:port`, with public addresses.
    pub network: Vec<String>,
    /// Servers, `host:port`, with whatever addresses.
    pub private_network: Vec<String>,
    /// The wall clock.
    pub clock: bool,
    /// Real randomness.
    pub random: bool,
}

/// A directory that a component may reach.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantedDir {
    /// Where it is here, absolute.
    pub host: PathBuf,
    /// What the component calls it.
    pub guest: String,
    /// Whether it may change what is in there. No checkpoint knows of such changes.
    pub write: bool,
}

impl OperatorSection {
    /// Reads an operator, paths relative to `base`; `None` if it has no id.
    pub fn read(mut section: Section<'_, '_>, table: &Table, base: &Path) -> Option<Self> {
        let component = section.required("component", "word_count.wasm");
        let build = section.string("build");
        let build_dir = section.string("build-dir");
        if build_dir.is_some() && build.is_none() {
            section.problem("build-dir", "is set, but `build` is not", None);
        }
        let bad_records = BadRecords::of_operator(&mut section);
        let example = "ttl = \"24h\"";
        let states = section.named_tables("state", STATE, example, StateSection::read);
        let inputs = Inputs::read(&mut section);
        let partition = section.choice("partition", PARTITIONS);
        let limits = section.table("limits", LIMITS).map(Limits::read);
        let grants = section
            .table("grants", GRANTS)
            .map(|grants| Grants::read(grants, base));
        let overdue = section
            .table("timers", TIMERS)
            .and_then(|mut timers| timers.choice("overdue", OVERDUE));
        let mut node = Node::read(&mut section, table, "count")?;
        let secrets = secret::of_config(&mut node.table, base, &mut section);
        let config = node
            .table
            .get("config")
            .map_or_else(|| serde_json::json!({}), |entry| entry.item.value.to_json());
        Some(Self {
            node,
            component: component.map(|path| absolute(&base.join(path))),
            build,
            build_dir: absolute(&base.join(build_dir.as_deref().unwrap_or("."))),
            inputs,
            partition,
            config,
            secrets,
            states,
            limits: limits.unwrap_or_default(),
            grants: grants.unwrap_or_default(),
            overdue: overdue.unwrap_or_default(),
            bad_records,
        })
    }
}

impl Limits {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            memory: section.positive_size("memory"),
            recycle_memory: section.positive_size("recycle-memory"),
            call_time: section.positive_duration("call-time"),
            call_writes: section.positive_size("call-writes"),
            compile_time: section.positive_duration("compile-time"),
            compile_memory: section.positive_size("compile-memory"),
            resources: section.integer("resources", 16..=65_536),
            state: section.positive_size("state"),
            state_memory: section.positive_size("state-memory"),
            trusted: section.boolean("trusted").unwrap_or_default(),
        }
    }
}

impl Grants {
    fn read(mut section: Section<'_, '_>, base: &Path) -> Self {
        Self {
            env: section.strings("env").unwrap_or_default(),
            dirs: section
                .tables("dirs", GRANTED_DIR, |mut dir| {
                    let host = dir.required("host", "models");
                    let guest = dir.required("guest", "/models");
                    let write = dir.boolean("write").unwrap_or_default();
                    Some(GrantedDir {
                        host: absolute(&base.join(host?)),
                        guest: guest?,
                        write,
                    })
                })
                .unwrap_or_default(),
            network: section.strings("network").unwrap_or_default(),
            private_network: section.strings("private-network").unwrap_or_default(),
            clock: section.boolean("clock").unwrap_or_default(),
            random: section.boolean("random").unwrap_or_default(),
        }
    }
}

impl StateSection {
    /// `None` if something is wrong with it, which has been noted.
    fn read(name: &str, mut section: Section<'_, '_>) -> Option<Self> {
        let refresh = section.choice("refresh", REFRESHES);
        let time = section.choice("time", TIMES);
        let off = |item: &Item| matches!(&item.value, Value::String(text) if text == OFF);
        if section.item("ttl").is_some_and(off) {
            for key in ["refresh", "time"] {
                if section.has(key) {
                    section.problem(key, "nothing expires with `ttl = \"off\"`", None);
                }
            }
            return Some(Self {
                name: name.to_owned(),
                place: section.place_of("ttl"),
                ttl: None,
            });
        }
        if !section.has("ttl") {
            let hint = "for how long entries live, as in `ttl = \"24h\"`, or `ttl = \"off\"`";
            section.problem("ttl", "is missing", Some(hint.into()));
            return None;
        }
        let lives = section.duration("ttl")?;
        let millis = u64::try_from(lives.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            section.problem("ttl", "must be at least 1ms", None);
            return None;
        }
        Some(Self {
            name: name.to_owned(),
            place: section.place_of("ttl"),
            ttl: Some(Ttl {
                millis,
                refresh: refresh.unwrap_or_default(),
                time: time.unwrap_or_default(),
            }),
        })
    }
}
