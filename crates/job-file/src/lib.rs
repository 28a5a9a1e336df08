//! The job file: from text to a [`JobFile`], every value of it typed and in range.
//!
//! Parsing is strict and whole: an unknown key, a wrong type, a value out of range is a problem with
//! its place and a mend, and all problems are reported at once. The order of precedence is `-D`,
//! then the job file, then the global configuration, then the defaults; the first three become one
//! tree before anything is read from it.
//!
//! Modules in reading order.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_macros,
        clippy::too_many_lines,
        reason = "tests wait, print and measure"
    )
)]

pub mod bad_records;
pub mod checkpoint;
pub mod document;
pub mod effective;
mod flink;
mod global;
pub mod hints;
pub mod http;
pub mod keys;
pub mod node;
pub mod operator;
pub mod options;
pub mod overrides;
pub mod problem;
pub mod restart;
pub mod secret;
pub mod section;
pub mod sink;
pub mod source;
pub mod units;
pub mod wiring;

#[cfg(test)]
mod docs_test;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataflow::KeyGroups;

use self::checkpoint::{CheckpointSection, absolute};
use self::document::{Item, KeyValue, Table, Value};
use self::global::Global;
use self::hints::did_you_mean;
use self::http::HttpSection;
use self::node::check_name;
use self::operator::OperatorSection;
use self::problem::{Place, Problems};
use self::restart::RestartStrategy;
use self::section::{Others, Section};
use self::sink::SinkSection;
use self::source::SourceSection;

/// A job file with everything applied that goes before and after it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobFile {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// What paths in it are relative to, absolute.
    pub base: PathBuf,
    /// `[job]`.
    pub job: JobSection,
    /// `[checkpoint]`.
    pub checkpoint: CheckpointSection,
    /// `[restart]`, or the default for the job.
    pub restart: RestartStrategy,
    /// `[http]`, if it is there.
    pub http: Option<HttpSection>,
    /// Every `[[source]]`.
    pub sources: Vec<SourceSection>,
    /// Every `[[operator]]`.
    pub operators: Vec<OperatorSection>,
    /// Every `[[sink]]`.
    pub sinks: Vec<SinkSection>,
    /// Where its parts stand, for problems that show later.
    pub places: Places,
}

/// Where the parts of a job file stand that have no node of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Places {
    /// `job.parallelism`, or the file.
    pub parallelism: Place,
    /// `job.key-groups`, or the file.
    pub key_groups: Place,
    /// `checkpoint.dir`, or the file.
    pub checkpoint_dir: Place,
}

/// `[job]`.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSection {
    /// The job's name.
    pub name: String,
    /// The parallelism of what has none of its own.
    pub parallelism: u32,
    /// Number of key groups, if it is set.
    pub key_groups: Option<KeyGroups>,
    /// The job's id, if it is set.
    pub id: Option<String>,
    /// Where state lies that does not fit in memory, absolute, if it is set.
    pub scratch_dir: Option<PathBuf>,
    /// Where the keyed state of operators is kept that do not say so themselves, if it is set.
    pub state_backend: Option<StateBackend>,
}

/// Where keyed state is kept, of operators without a `limits.state-memory` of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateBackend {
    /// All of it in memory.
    Memory,
    /// What is not used for longest in files, where an operator has state that can be there.
    Disk,
}

/// The values of `state-backend`.
pub const STATE_BACKENDS: &[(&str, StateBackend)] = &[
    ("memory", StateBackend::Memory),
    ("disk", StateBackend::Disk),
];

/// `limits.state-memory` of operators that do not set it, with `state-backend = "disk"`.
pub const DISK_STATE_MEMORY: u64 = 256 << 20;

/// A text and the name under which problems with it are reported.
#[derive(Clone, Debug)]
pub struct NamedText<'a> {
    /// The name.
    pub file: Arc<str>,
    /// What paths in the text are relative to, absolute.
    pub base: &'a Path,
    /// The text.
    pub text: &'a str,
}

/// What stands beside a job file.
#[derive(Clone, Debug, Default)]
pub struct Surroundings<'a> {
    /// `-p`.
    pub parallelism: Option<u32>,
    /// `--http`.
    pub http: Option<&'a str>,
    /// `-D`, in the order of the command line.
    pub overrides: &'a [String],
    /// `--config`.
    pub global: Option<NamedText<'a>>,
}

/// Reads a job file. What is wrong goes to `problems`; a job file is returned all the same, with
/// defaults in place of what is wrong and without nodes that have no id, so that the rest can be
/// checked further. `None` if the text is not TOML.
pub fn read(
    job: &NamedText<'_>,
    around: &Surroundings<'_>,
    problems: &mut Problems,
) -> Option<JobFile> {
    let root = document::parse(&job.file, job.text, problems);
    let global = around
        .global
        .as_ref()
        .map(|global| Global::read(&global.file, global.text, global.base, problems));
    let mut root = root?;
    if let Some(parallelism) = around.parallelism {
        let place = Place::Option(Arc::from(format!("-p {parallelism}")));
        let value = Value::Integer(i64::from(parallelism));
        let path = ["job".to_owned(), "parallelism".to_owned()];
        overrides::set(&mut root, &path, Item { value, place }, problems);
    }
    if let Some(address) = around.http {
        let place = Place::Option(Arc::from(format!("--http {address}")));
        let value = Value::String(address.to_owned());
        let path = ["http".to_owned(), "address".to_owned()];
        overrides::set(&mut root, &path, Item { value, place }, problems);
    }
    for option in around.overrides {
        overrides::apply(option, &mut root, problems);
    }
    if let Some(global) = global {
        global.apply(&mut root);
    }
    Some(read_tree(job, &root, problems))
}

fn read_tree(job: &NamedText<'_>, root: &Table, problems: &mut Problems) -> JobFile {
    let start = Place::start_of(&job.file);
    report_unknown_tables(root, problems);
    let mut top = Section::open("", root, start.clone(), keys::TOP, problems);
    let empty = Table::default();
    let job_section = JobSection::read(top.table_or(&empty, "job", keys::JOB), job.base);
    let checkpoint = top
        .table("checkpoint", keys::CHECKPOINT)
        .map(|section| CheckpointSection::read(section, job.base))
        .unwrap_or_default();
    let restart = top
        .table("restart", keys::RESTART)
        .and_then(RestartStrategy::read)
        .unwrap_or_else(|| RestartStrategy::default_for(checkpoint.interval.is_some()));
    let http = top
        .table("http", keys::HTTP)
        .and_then(|section| HttpSection::read(section, job.base));
    let sources = top.nodes("source", keys::SOURCE, Others::Allowed, SourceSection::read);
    let operators = top.nodes(
        "operator",
        keys::OPERATOR,
        Others::Refused,
        |section, table| OperatorSection::read(section, table, job.base),
    );
    let sinks = top.nodes("sink", keys::SINK, Others::Allowed, SinkSection::read);
    for list in ["source", "sink"] {
        if !top.has(list) {
            let hint = format!("begin one with `[[{list}]]`");
            top.problem(list, format!("a job needs at least one {list}"), Some(hint));
        }
    }
    let place = |path: &str| root.place_of(path).unwrap_or_else(|| start.clone());
    let mut read = JobFile {
        file: Arc::clone(&job.file),
        base: job.base.to_owned(),
        job: job_section,
        checkpoint,
        restart,
        http,
        sources,
        operators,
        sinks,
        places: Places {
            parallelism: place("job.parallelism"),
            key_groups: place("job.key-groups"),
            checkpoint_dir: place("checkpoint.dir"),
        },
    };
    bad_records::feed_sinks(&mut read, problems);
    read
}

impl JobSection {
    fn read(mut section: Section<'_, '_>, base: &Path) -> Self {
        let name = section.required("name", "word-count");
        let id = section.string("id");
        for (key, text) in [("name", &name), ("id", &id)] {
            if let Some(Err(message)) = text.as_deref().map(check_name) {
                let hint = "letters, digits, `-` and `_` may stand in it";
                section.problem(key, message, Some(hint.into()));
            }
        }
        let key_groups = section.integer("key-groups", 1..=KeyGroups::MAX);
        Self {
            name: name.unwrap_or_default(),
            parallelism: section
                .integer("parallelism", 1..=KeyGroups::MAX)
                .unwrap_or(1),
            key_groups: key_groups.and_then(KeyGroups::new),
            id,
            scratch_dir: section
                .string("scratch-dir")
                .map(|path| absolute(&base.join(path))),
            state_backend: read_state_backend(&mut section),
        }
    }

    /// Where state lies that does not fit in memory.
    pub fn scratch_dir(&self) -> PathBuf {
        self.scratch_dir.clone().unwrap_or_else(std::env::temp_dir)
    }
}

fn read_state_backend(section: &mut Section<'_, '_>) -> Option<StateBackend> {
    let text = section.string("state-backend")?;
    let known = STATE_BACKENDS.iter().find(|(word, _)| *word == text);
    if known.is_none() {
        let message = format!("`{text}` is not one of its values");
        let hint = "write `memory` (Flink's `hashmap`) or `disk` (Flink's `rocksdb`)";
        section.problem("state-backend", message, Some(hint.into()));
    }
    known.map(|(_, backend)| *backend)
}

/// Reports tables that a job file does not have. Flink's names get a word on where they belong.
fn report_unknown_tables(root: &Table, problems: &mut Problems) {
    for (name, entry) in root.iter() {
        if keys::TOP.iter().any(|key| key.name == name) {
            continue;
        }
        let before = problems.len();
        report_flink_names(name, entry, problems);
        if problems.len() == before {
            let hint = did_you_mean(name, keys::TOP.iter().map(|key| key.name));
            problems.push(entry.key_place.clone(), name, "unknown key", hint);
        }
    }
}

fn report_flink_names(path: &str, entry: &KeyValue, problems: &mut Problems) {
    if let Value::Table(table) = &entry.item.value {
        for (name, inner) in table.iter() {
            report_flink_names(&format!("{path}.{name}"), inner, problems);
        }
    } else if let Some(key) = keys::from_flink(path) {
        let hint = format!("it is called `{}.{}` in a job file", key.section, key.key);
        let message = "is Flink's name, which only the global configuration and -D take";
        problems.push(entry.key_place.clone(), path, message, Some(hint));
    } else if let Some((message, hint)) = flink::instead(path) {
        problems.push(entry.key_place.clone(), path, message, Some(hint));
    }
}
