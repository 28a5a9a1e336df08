//! The effective job: what a job file means with all defaults, overrides and the global
//! configuration applied, as a job file again. Reading it gives the same job.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use dataflow::Partition;
use toml::Value;

use super::bad_records::{BadRecords, DEAD_LETTER};
use super::checkpoint::{COMPRESSIONS, CheckpointSection, MODES, PERMISSIONS, RETENTIONS, Storage};
use super::http::HttpSection;
use super::node::{InputRef, Inputs, PARTITIONS};
use super::operator::{OFF, OVERDUE, OperatorSection, REFRESHES, StateSection, TIMES};
use super::options::Options;
use super::restart::RestartStrategy;
use super::units::exact_size;
use super::wiring::NodeRef;
use super::{JobFile, STATE_BACKENDS};

/// What is only known once the job is assembled.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// Number of key groups.
    pub key_groups: u32,
    /// Per node, in the order of the file.
    pub nodes: Vec<SettledNode>,
}

/// What is settled about a node.
#[derive(Clone, Debug)]
pub struct SettledNode {
    /// Which node.
    pub node: NodeRef,
    /// Its subtasks.
    pub parallelism: u32,
    /// How records are dealt to them; `None` for a source, or where its inputs differ.
    pub partition: Option<Partition>,
    /// A connector's options with its defaults; the limits of an operator.
    pub options: Options,
}

/// Writes the effective job.
pub fn to_toml(job: &JobFile, settled: &Settled) -> String {
    let mut out = Writer::default();
    out.section("[job]");
    out.key("name", job.job.name.as_str());
    out.key("parallelism", i64::from(job.job.parallelism));
    out.key("key-groups", i64::from(settled.key_groups));
    match &job.job.id {
        Some(id) => out.key("id", id.as_str()),
        None => out.key("id", job.job.name.as_str()),
    }
    match &job.job.scratch_dir {
        Some(path) => out.path("scratch-dir", path),
        None => out.comment("scratch-dir is not set: the system's directory for temporary files"),
    }
    match job.job.state_backend {
        Some(backend) => out.key("state-backend", word(STATE_BACKENDS, backend)),
        None => out.comment("state-backend is not set: memory"),
    }
    checkpoint(&mut out, &job.checkpoint);
    restart(&mut out, &job.restart);
    if let Some(section) = &job.http {
        http(&mut out, section);
    }
    for settled in &settled.nodes {
        node(&mut out, job, settled);
    }
    out.text
}

fn checkpoint(out: &mut Writer, section: &CheckpointSection) {
    out.section("[checkpoint]");
    match section.interval {
        Some(interval) => out.duration("interval", interval),
        None => out.comment("interval is not set: no periodic checkpoints"),
    }
    out.key("mode", word(MODES, section.mode));
    out.key(
        "storage",
        match section.storage {
            Storage::Memory => "memory",
            Storage::Filesystem(_) => "filesystem",
        },
    );
    match &section.dir {
        Some(dir) => out.key("dir", dir.to_string()),
        None => out.comment("dir is not set"),
    }
    match &section.savepoint_dir {
        Some(dir) => out.key("savepoint-dir", dir.to_string()),
        None => out.comment("savepoint-dir is not set"),
    }
    out.duration("lease-timeout", section.lease_timeout);
    out.duration("timeout", section.timeout);
    out.duration("min-pause", section.min_pause);
    out.key("max-concurrent", i64::from(section.max_concurrent));
    out.key("tolerable-failures", i64::from(section.tolerable_failures));
    out.key("retained", i64::from(section.retained));
    out.key("retention", word(RETENTIONS, section.retention));
    out.key("retain-on-finish", section.retain_on_finish);
    out.key("incremental", section.incremental);
    out.size("inline-threshold", section.inline_threshold);
    out.size("max-state-size", section.max_state_size);
    out.key("compression", word(COMPRESSIONS, section.compression));
    out.key("permissions", word(PERMISSIONS, section.permissions));
}

fn http(out: &mut Writer, section: &HttpSection) {
    out.section("[http]");
    out.key("address", section.address.to_string());
    match &section.token_file {
        Some(path) => out.path("token-file", path),
        None => out.comment("token-file is not set: no token is wanted"),
    }
    match &section.certificate {
        Some((chain, key)) => {
            out.path("certificate", chain);
            out.path("certificate-key", key);
        }
        None => out.comment("certificate is not set: no TLS"),
    }
    out.strings("hosts", &section.hosts);
    out.key("read-only", section.read_only);
    out.strings("savepoint-dirs", &section.savepoint_dirs);
}

fn restart(out: &mut Writer, strategy: &RestartStrategy) {
    out.section("[restart]");
    out.key("strategy", strategy.name());
    match strategy {
        RestartStrategy::None => {}
        RestartStrategy::FixedDelay { attempts, delay } => {
            out.key("attempts", i64::from(*attempts));
            out.duration("delay", *delay);
        }
        RestartStrategy::FailureRate {
            max_failures_per_interval,
            failure_rate_interval,
            delay,
        } => {
            out.key(
                "max-failures-per-interval",
                i64::from(*max_failures_per_interval),
            );
            out.duration("failure-rate-interval", *failure_rate_interval);
            out.duration("delay", *delay);
        }
        RestartStrategy::ExponentialDelay {
            initial_backoff,
            max_backoff,
            backoff_multiplier,
            reset_backoff_threshold,
            jitter_factor,
            attempts_before_reset_backoff,
        } => {
            out.duration("initial-backoff", *initial_backoff);
            out.duration("max-backoff", *max_backoff);
            out.key("backoff-multiplier", *backoff_multiplier);
            out.duration("reset-backoff-threshold", *reset_backoff_threshold);
            out.key("jitter-factor", *jitter_factor);
            match attempts_before_reset_backoff {
                Some(attempts) => {
                    out.key("attempts-before-reset-backoff", i64::from(*attempts));
                }
                None => {
                    out.comment("attempts-before-reset-backoff is not set: any number");
                }
            }
        }
    }
}

fn node(out: &mut Writer, job: &JobFile, settled: &SettledNode) {
    out.section(&format!("[[{}]]", settled.node.kind()));
    let node = settled.node.node(job);
    out.key("id", node.id.as_str());
    let connector = match settled.node {
        NodeRef::Operator(index) => {
            operator(out, &job.operators[index]);
            None
        }
        NodeRef::Source(index) => job.sources[index].connector.as_deref(),
        NodeRef::Sink(index) => job.sinks[index].connector.as_deref(),
    };
    if let Some(connector) = connector {
        out.key("connector", connector);
    }
    if let Some(inputs) = settled.node.inputs(job) {
        self::inputs(out, job, &node.id, inputs);
    }
    if let Some(partition) = settled.partition {
        out.key("partition", word(PARTITIONS, partition));
    }
    out.key("parallelism", i64::from(settled.parallelism));
    if connector.is_some() {
        for (key, value) in &settled.options.table {
            out.key(key, value.clone());
        }
    }
    if let NodeRef::Source(index) = settled.node {
        on_error(out, job.sources[index].bad_records.as_ref(), false);
    }
    if let NodeRef::Operator(index) = settled.node {
        let operator = &job.operators[index];
        if let Some(config) = operator_config(operator) {
            out.key("config", config);
        }
        out.key("limits", settled.options.table.clone());
        out.key("grants", operator_grants(operator));
        if !operator.states.is_empty() {
            out.key("state", operator_states(operator));
        }
        on_error(out, operator.bad_records.as_ref(), true);
        let overdue: toml::Table = [("overdue".to_owned(), word(OVERDUE, operator.overdue).into())]
            .into_iter()
            .collect();
        out.key("timers", overdue);
    }
}

fn operator(out: &mut Writer, operator: &OperatorSection) {
    if let Some(component) = &operator.component {
        out.path("component", component);
    }
    if let Some(build) = &operator.build {
        out.key("build", build.as_str());
        out.path("build-dir", &operator.build_dir);
    }
}

/// `has_retries`: what fails once may succeed the next time.
fn on_error(out: &mut Writer, bad_records: Option<&BadRecords>, has_retries: bool) {
    let Some(bad_records) = bad_records else {
        out.key("on-error", "fail");
        return;
    };
    match &bad_records.dead_letter {
        None => out.key("on-error", "skip"),
        Some((sink, _)) => {
            out.key("on-error", DEAD_LETTER);
            out.key(DEAD_LETTER, sink.as_str());
        }
    }
    if has_retries {
        out.key("retries", i64::from(bad_records.retries));
    }
    match &bad_records.limit {
        Some(limit) => out.key("on-error-limit", limit.text.as_str()),
        None => out.comment("on-error-limit is not set: any number"),
    }
}

fn inputs(out: &mut Writer, job: &JobFile, id: &str, inputs: &Inputs) {
    // What a sink of dead letters reads is said where they come from.
    let is_said_there = |input: &&InputRef| {
        let sources = job.sources.iter().map(|it| (&it.node, &it.bad_records));
        let operators = job.operators.iter().map(|it| (&it.node, &it.bad_records));
        let mut from = sources
            .chain(operators)
            .filter(|(node, _)| node.id == input.node);
        let letters = from.find_map(|(_, bad_records)| bad_records.as_ref()?.dead_letter.as_ref());
        input.port.as_deref() == Some(DEAD_LETTER) && letters.is_some_and(|(sink, _)| sink == id)
    };
    let refs = inputs.refs.iter();
    let names: Vec<Value> = refs
        .filter(|input| !is_said_there(input))
        .map(|input| match &input.port {
            Some(port) => format!("{}.{port}", input.node).into(),
            None => input.node.as_str().into(),
        })
        .collect();
    match names.as_slice() {
        [] => {}
        [one] => out.key("input", one.clone()),
        _ => out.key("inputs", names),
    }
}

fn operator_config(operator: &OperatorSection) -> Option<Value> {
    operator
        .node
        .table
        .get("config")
        .map(|entry| entry.item.value.to_toml())
}

fn operator_grants(operator: &OperatorSection) -> toml::Table {
    let grants = &operator.grants;
    let mut table = toml::Table::new();
    table.insert("env".into(), grants.env.clone().into());
    let dirs = grants.dirs.iter().map(|dir| {
        let mut entry = toml::Table::new();
        entry.insert("host".into(), dir.host.display().to_string().into());
        entry.insert("guest".into(), dir.guest.clone().into());
        entry.insert("write".into(), dir.write.into());
        Value::Table(entry)
    });
    table.insert("dirs".into(), Value::Array(dirs.collect()));
    table.insert("network".into(), grants.network.clone().into());
    let private = grants.private_network.clone();
    table.insert("private-network".into(), private.into());
    table.insert("clock".into(), grants.clock.into());
    table.insert("random".into(), grants.random.into());
    table
}

fn operator_states(operator: &OperatorSection) -> toml::Table {
    let state = |state: &StateSection| {
        let mut table = toml::Table::new();
        match state.ttl {
            None => table.insert("ttl".into(), OFF.into()),
            Some(ttl) => {
                let lives = humantime::format_duration(Duration::from_millis(ttl.millis));
                table.insert("ttl".into(), lives.to_string().into());
                table.insert("refresh".into(), word(REFRESHES, ttl.refresh).into());
                table.insert("time".into(), word(TIMES, ttl.time).into())
            }
        };
        (state.name.clone(), Value::Table(table))
    };
    operator.states.iter().map(state).collect()
}

fn word<T: PartialEq + Copy>(words: &[(&'static str, T)], value: T) -> &'static str {
    words
        .iter()
        .find(|(_, known)| *known == value)
        .map_or("", |(word, _)| word)
}

#[derive(Default)]
struct Writer {
    text: String,
}

impl Writer {
    fn section(&mut self, header: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(header);
        self.text.push('\n');
    }

    /// Tables are written inline, so that what follows still belongs to the section.
    fn key(&mut self, key: &str, value: impl Into<Value>) {
        let key = Value::String(key.to_owned()).to_string();
        let plain = key.trim_matches('"');
        let bare = !plain.is_empty()
            && plain
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        let key = if bare { plain } else { key.as_str() };
        // Writing into a string cannot fail.
        let _ = writeln!(self.text, "{key} = {}", value.into());
    }

    fn comment(&mut self, text: &str) {
        let _ = writeln!(self.text, "# {text}");
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        let text = humantime::format_duration(duration).to_string();
        self.key(key, text);
    }

    fn size(&mut self, key: &str, bytes: u64) {
        self.key(key, exact_size(bytes));
    }

    fn strings(&mut self, key: &str, texts: &[String]) {
        let texts = texts.iter().map(|text| Value::String(text.clone()));
        self.key(key, texts.collect::<Vec<Value>>());
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.key(key, path.display().to_string());
    }
}
