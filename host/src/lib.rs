//! For whom: the `host` binary. It turns a command line and a job file into a job that the runtime
//! runs: components hosted, connectors made, checkpoints found.
//!
//! Modules in reading order.

mod assemble;
mod cli;
mod commands;
mod events;
mod exit;
mod jobs;
mod launch;
mod logging;
#[cfg(feature = "otlp")]
mod otlp;
mod rest;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use operator::clock::{Clock, SystemClock};
use runtime::JobGraph;

/// The `host` program: reads its command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    logging::start(cli.log_format);
    match commands::run(&cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            // The one place where an error is printed. Nobody may listen, which changes no code.
            match logging::is_json() {
                true => logging::write_json(tracing::Level::ERROR, None, &error.to_string()),
                false => drop(writeln!(std::io::stderr().lock(), "{error}")),
            }
            error.exit().into()
        }
    }
}

/// The graph that a job file describes, for programs that run it by themselves, as the benchmark does.
/// Its components are compiled in this process, without the limits that `host` has for strangers' ones.
///
/// # Errors
/// Everything that is wrong with the job file and what it names.
pub fn graph(job_file: &Path) -> anyhow::Result<JobGraph> {
    let arguments = cli::JobArguments {
        file: job_file.to_owned(),
        build: false,
        parallelism: None,
        http: None,
        overrides: Vec::new(),
        config: None,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let loader = commands::job::Loader::new(wasm::Compiler::InProcess, |_| ());
    let graph = commands::job::prepare(&arguments, &loader, &clock)
        .and_then(|prepared| Ok(prepared.graph(None)?));
    graph.map_err(|error| anyhow::anyhow!("{error}"))
}
