//! `host check`: everything that is wrong with a job, or what it means with all defaults.

use std::sync::Arc;

use job_file::effective;
use operator::clock::{Clock, SystemClock};
use wasm::Compiler;

use super::job::{self, Loader};
use super::print;
use crate::cli::JobArguments;
use crate::events::Audience;
use crate::exit::{Error, Exit};

/// Prints the effective job.
pub(crate) fn check(arguments: &JobArguments) -> Result<Exit, Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let loader = Loader::new(Compiler::Child, Audience::Person.notice());
    let prepared = job::prepare(arguments, &loader, &clock)?;
    let graph = prepared.graph(None)?;
    prepared.try_open()?;
    let settled = prepared.settled(graph.key_groups);
    print(&effective::to_toml(&prepared.job, &settled))?;
    Ok(Exit::Finished)
}
