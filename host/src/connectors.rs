//! Sources and sinks by name: from a table of the job file to something the runtime can start.
//!
//! [`source`] and [`sink`] check everything that can be checked before a job starts (options, input
//! files and their headers, directories, whether a sink's format fits what its input delivers) and
//! report all problems at once. The tables hold the connector's own keys only: `id`, `connector`,
//! `parallelism`, `input` and the like belong to the job file.
//!
//! Modules in reading order: what connectors share, then the sources, then the sinks.

use std::path::Path;
use std::sync::Arc;

use checkpoint::storage::Permissions;
use dataflow::port::Port;
use operator::{SinkFactory, SourceFactory};
use serde::Serialize;

pub(crate) mod options;

pub(crate) mod blocks;
mod changed;
mod csv_rows;
pub(crate) mod decoder;
pub(crate) mod encoder;
pub(crate) mod format;
mod json_fields;
pub(crate) mod parts;
pub(crate) mod plan;
pub(crate) mod read_as;
pub(crate) mod text_limits;
pub(crate) mod timestamp;

mod file_source;
mod generator;
mod stdin;

mod discard;
pub(crate) mod file_sink;
mod stdout;

pub(crate) use self::options::Problem;

use self::discard::{DiscardFactory, DiscardOptions};
use self::file_sink::FileSinkOptions;
use self::file_source::FileSourceOptions;
use self::generator::GeneratorOptions;
use self::options::{read, suggest};
use self::stdin::StdinOptions;
use self::stdout::StdoutOptions;

/// Tells the time in milliseconds since the epoch.
pub(crate) type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Names of the connectors that can be a source.
pub(crate) const SOURCES: &[&str] = &["file", "generator", "stdin"];

/// Names of the connectors that can be a sink.
pub(crate) const SINKS: &[&str] = &["file", "stdout", "discard"];

/// A source whose options are right and whose input was found.
pub(crate) struct PreparedSource {
    /// Makes its instances.
    pub(crate) factory: Arc<dyn SourceFactory>,
    /// What its records look like.
    pub(crate) port: Port,
    /// Whether it ends by itself.
    pub(crate) bounded: bool,
    /// The most subtasks it can have, if limited.
    pub(crate) max_parallelism: Option<u32>,
    /// Its options with all defaults, for showing the effective job.
    pub(crate) options: toml::Table,
}

/// A sink whose options are right and fit its inputs.
pub(crate) struct PreparedSink {
    /// Makes its instances.
    pub(crate) factory: Arc<dyn SinkFactory>,
    /// Its options with all defaults, for showing the effective job.
    pub(crate) options: toml::Table,
}

/// What a sink must know of its job.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SinkContext {
    /// Whether the job takes checkpoints while it runs, not only at its end.
    pub(crate) has_checkpoints: bool,
    /// Who may read what the job keeps on disk and has not published.
    pub(crate) permissions: Permissions,
}

/// Prepares a source. Paths in `table` are relative to `base_dir`.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn source(
    connector: &str,
    mut table: toml::Table,
    base_dir: &Path,
    clock: Clock,
) -> Result<PreparedSource, Vec<Problem>> {
    let mut problems = Vec::new();
    if table.remove("watermark").is_some() {
        problems.push(
            Problem::new("watermark", "is not supported by this version")
                .hint("remove it: event times are passed on, watermarks are not made yet"),
        );
    }
    let prepared = match connector {
        "file" => {
            let options: FileSourceOptions = read(table, &mut problems);
            options.prepare(base_dir).map(|factory| PreparedSource {
                port: factory.plan().port(),
                factory: Arc::new(factory),
                bounded: true,
                max_parallelism: None,
                options: shown(&options.effective()),
            })
        }
        "generator" => {
            let options: GeneratorOptions = read(table, &mut problems);
            options.prepare(clock).map(|factory| PreparedSource {
                port: factory.port(),
                bounded: factory.is_bounded(),
                factory: Arc::new(factory),
                max_parallelism: None,
                options: shown(&options),
            })
        }
        "stdin" => {
            let options: StdinOptions = read(table, &mut problems);
            options.prepare().map(|factory| PreparedSource {
                port: factory.plan().port(),
                factory: Arc::new(factory),
                bounded: false,
                max_parallelism: Some(1),
                options: shown(&options.effective()),
            })
        }
        _ => Err(vec![unknown(connector, SOURCES, SINKS, "source", "sink")]),
    };
    finish(prepared, problems)
}

/// Prepares a sink for records of `input_ports`. Paths in `table` are relative to `base_dir`.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn sink(
    connector: &str,
    table: toml::Table,
    base_dir: &Path,
    input_ports: &[Port],
    context: SinkContext,
) -> Result<PreparedSink, Vec<Problem>> {
    let mut problems = Vec::new();
    let prepared = match connector {
        "file" => {
            let options: FileSinkOptions = read(table, &mut problems);
            let factory = options.prepare(base_dir, input_ports, context.permissions);
            factory.map(|factory| PreparedSink {
                factory: Arc::new(factory),
                options: shown(&options),
            })
        }
        "stdout" => {
            let options: StdoutOptions = read(table, &mut problems);
            let factory = options.prepare(input_ports, context.has_checkpoints);
            factory.map(|factory| PreparedSink {
                factory: Arc::new(factory),
                options: shown(&options),
            })
        }
        "discard" => {
            let options: DiscardOptions = read(table, &mut problems);
            Ok(PreparedSink {
                factory: Arc::new(DiscardFactory),
                options: shown(&options),
            })
        }
        _ => Err(vec![unknown(connector, SINKS, SOURCES, "sink", "source")]),
    };
    finish(prepared, problems)
}

/// Puts the problems of reading before those of checking, and leaves out what follows from them: that
/// a key is required which was there, but wrong.
fn finish<T>(
    prepared: Result<T, Vec<Problem>>,
    mut problems: Vec<Problem>,
) -> Result<T, Vec<Problem>> {
    match prepared {
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

/// Options as a table, defaults included.
fn shown(options: &impl Serialize) -> toml::Table {
    toml::Table::try_from(options).unwrap_or_default()
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
