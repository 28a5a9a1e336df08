//! What a connector is: a name, and a function that checks everything that can be checked before a job starts
//! (options, input files and their headers, directories, whether a sink's format fits what its input
//! delivers) and reports all problems at once. Its table holds its own keys only: `id`, `connector`,
//! `parallelism`, `input` and the like belong to the job file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::storage::Permissions;
use dataflow::port::Port;
use job_file::options::Options;
use job_file::problem::Problem;
use operator::{SinkFactory, SourceFactory};
use serde::de::DeserializeOwned;

/// Says of the path of a file whether a source would read the file if it were there when the job starts.
pub type Selects = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// The time in milliseconds since the epoch.
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
    /// Whether it reads what may be no record, and can leave that out.
    pub reads_text: bool,
    /// Which files it reads; `None` if it reads none.
    pub selects: Option<Selects>,
    /// Its options with all defaults, for showing the effective job.
    pub options: Options,
}

/// A sink whose options are right and fit its inputs.
pub struct PreparedSink {
    /// Makes its instances.
    pub factory: Arc<dyn SinkFactory>,
    /// A file as it will write them: in its directory, whose path is absolute and leads over no link, with a name such
    /// as they have. `None` if it writes none.
    pub writes: Option<PathBuf>,
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
    /// Whether sources alone feed it. They hold each row to its columns while they read it, which an
    /// operator does not have to.
    pub has_rows_of_sources: bool,
}

/// Where records come from: a name for the job file, and what makes such a source. Each row that it delivers has
/// as many fields as its port has columns.
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

/// Reads a connector's options and prepares it from them. Problems of reading come before those of checking,
/// and what follows from them is left out: that a key is required which is given, but wrong.
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
                let follows = |known: &Problem| match problem.key.as_str() {
                    "watermark" => known.key.starts_with("timestamp"),
                    key => known.key == key && problem.message == "is required",
                };
                if !problems.iter().any(follows) {
                    problems.push(problem);
                }
            }
            Err(problems)
        }
    }
}
