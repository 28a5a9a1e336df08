//! What each subcommand does. Results go to stdout, everything for a person to stderr.

pub(crate) mod check;
pub(crate) mod checkpoints;
pub(crate) mod control;
pub(crate) mod job;
pub(crate) mod run;
pub(crate) mod savepoints;

use std::io::{self, Write};

use crate::cli::{Cli, Command};
use crate::exit::{Error, Exit};

/// Does what the command line asks for.
pub(crate) fn run(cli: &Cli) -> Result<Exit, Error> {
    match &cli.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => check::check(arguments),
        Command::Checkpoints(arguments) => checkpoints::run(arguments),
        Command::Savepoints(arguments) => savepoints::run(arguments),
        Command::List(arguments) => control::list(arguments),
        Command::Status(arguments) => control::status(arguments),
        Command::Checkpoint(arguments) => control::checkpoint(arguments),
        Command::Savepoint(arguments) => control::savepoint(arguments),
        Command::Stop(arguments) => control::stop(arguments),
        Command::Cancel(arguments) => control::cancel(arguments),
        Command::Rescale(arguments) => control::rescale(arguments),
        Command::Interval(arguments) => control::interval(arguments),
        Command::CompileComponent => wasm::child()
            .map(|()| Exit::Finished)
            .map_err(Error::failed),
    }
}

/// Prints a result. A reader that has seen enough (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::failed(
            anyhow::Error::new(error).context("writing to stdout"),
        )),
        _ => Ok(()),
    }
}
