//! Which connectors there are: from a name and a table of the job file to something the runtime can start.
//!
//! A connector is a name and a function that checks everything that can be checked before a job starts
//! (options, input files and their headers, directories, whether a sink's format fits what its input
//! delivers) and reports all problems at once. Its table holds its own keys only: `id`, `connector`,
//! `parallelism`, `input` and the like belong to the job file.

use std::path::Path;
use std::sync::Arc;

use checkpoint::storage::Permissions;
use dataflow::port::Port;
use job_file::hints::suggest;
use job_file::options::Options;
use job_file::problem::Problem;
use operator::{SinkFactory, SourceFactory};
use serde::de::DeserializeOwned;

use super::{discard, file_sink, file_source, generator, stdin, stdout};

/// Tells the time in milliseconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A source whose options are right and whose input was found.
pub struct PreparedSource {
    /// Makes its instances.
    pub factory: Arc<dyn SourceFactory>,
    /// What its records look like.
    pub port: Port,
    /// Whether it ends by itself.
    pub bounded: bool,
    /// The most subtasks it can have, if limited.
    pub max_parallelism: Option<u32>,
    /// Its options with all defaults, for showing the effective job.
    pub options: Options,
}

/// A sink whose options are right and fit its inputs.
pub struct PreparedSink {
    /// Makes its instances.
    pub factory: Arc<dyn SinkFactory>,
    /// Its options with all defaults, for showing the effective job.
    pub options: Options,
}

/// What a source may know of its job.
pub struct SourceContext<'a> {
    /// What paths in its options are relative to.
    pub base_dir: &'a Path,
    /// The time, for sources that make records.
    pub clock: Clock,
}

/// What a sink must know of its job.
#[derive(Clone, Copy, Debug)]
pub struct SinkContext<'a> {
    /// What paths in its options are relative to.
    pub base_dir: &'a Path,
    /// What its inputs deliver.
    pub input_ports: &'a [Port],
    /// Whether the job takes checkpoints while it runs, not only at its end.
    pub has_checkpoints: bool,
    /// Who may read what the job keeps on disk and has not published.
    pub permissions: Permissions,
}

/// Where records come from: a name for the job file, and what makes such a source.
#[derive(Clone, Copy, Debug)]
pub struct SourceConnector {
    /// The name.
    pub name: &'static str,
    /// Checks the options and prepares the source, or gives everything that is wrong with it.
    pub prepare: fn(Options, &SourceContext<'_>) -> Result<PreparedSource, Vec<Problem>>,
}

/// Where records go: a name for the job file, and what makes such a sink.
#[derive(Clone, Copy, Debug)]
pub struct SinkConnector {
    /// The name.
    pub name: &'static str,
    /// Checks the options and prepares the sink, or gives everything that is wrong with it.
    pub prepare: fn(Options, &SinkContext<'_>) -> Result<PreparedSink, Vec<Problem>>,
}

/// The connectors that a host knows.
#[derive(Clone, Debug)]
pub struct Registry {
    sources: Vec<SourceConnector>,
    sinks: Vec<SinkConnector>,
}

impl Default for Registry {
    /// All connectors of this crate.
    fn default() -> Self {
        Self {
            sources: vec![
                file_source::CONNECTOR,
                generator::CONNECTOR,
                stdin::CONNECTOR,
            ],
            sinks: vec![file_sink::CONNECTOR, stdout::CONNECTOR, discard::CONNECTOR],
        }
    }
}

impl Registry {
    /// The registry with one more source; of two with one name the later one counts.
    #[must_use]
    pub fn with_source(mut self, connector: SourceConnector) -> Self {
        self.sources.retain(|known| known.name != connector.name);
        self.sources.push(connector);
        self
    }

    /// The registry with one more sink; of two with one name the later one counts.
    #[must_use]
    pub fn with_sink(mut self, connector: SinkConnector) -> Self {
        self.sinks.retain(|known| known.name != connector.name);
        self.sinks.push(connector);
        self
    }

    /// The names of all sources.
    #[must_use]
    pub fn source_names(&self) -> Vec<&'static str> {
        self.sources.iter().map(|known| known.name).collect()
    }

    /// The names of all sinks.
    #[must_use]
    pub fn sink_names(&self) -> Vec<&'static str> {
        self.sinks.iter().map(|known| known.name).collect()
    }

    /// Prepares a source.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn source(
        &self,
        connector: &str,
        options: Options,
        context: &SourceContext<'_>,
    ) -> Result<PreparedSource, Vec<Problem>> {
        match self.sources.iter().find(|known| known.name == connector) {
            Some(known) => (known.prepare)(options, context),
            None => {
                let (known, others) = (self.source_names(), self.sink_names());
                Err(vec![unknown(connector, &known, &others, "source", "sink")])
            }
        }
    }

    /// Prepares a sink.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn sink(
        &self,
        connector: &str,
        options: Options,
        context: &SinkContext<'_>,
    ) -> Result<PreparedSink, Vec<Problem>> {
        match self.sinks.iter().find(|known| known.name == connector) {
            Some(known) => (known.prepare)(options, context),
            None => {
                let (known, others) = (self.sink_names(), self.source_names());
                Err(vec![unknown(connector, &known, &others, "sink", "source")])
            }
        }
    }
}

/// Reads a connector's options and prepares it from them. Problems of reading come before those of checking,
/// and what follows from them is left out: that a key is required which is there, but wrong.
///
/// # Errors
/// Everything that is wrong.
pub fn read_and_prepare<O: DeserializeOwned + Default, T>(
    options: Options,
    prepare: impl FnOnce(&O) -> Result<T, Vec<Problem>>,
) -> Result<T, Vec<Problem>> {
    let mut problems = Vec::new();
    let read: O = options.read(&mut problems);
    match prepare(&read) {
        Ok(prepared) if problems.is_empty() => Ok(prepared),
        Ok(_) => Err(problems),
        Err(found) => {
            for problem in found {
                if !problems.iter().any(|known| known.key == problem.key)
                    || problem.message != "is required"
                {
                    problems.push(problem);
                }
            }
            Err(problems)
        }
    }
}

fn unknown(
    connector: &str,
    known: &[&str],
    others: &[&str],
    role: &str,
    other_role: &str,
) -> Problem {
    let message = match others.contains(&connector) {
        true => format!("`{connector}` is a {other_role}, not a {role}"),
        false => format!("there is no {role} `{connector}`"),
    };
    Problem::new("connector", message).hint(suggest(connector, known, "use one of"))
}
