//! What each subcommand does. Results go to stdout, everything for a person to stderr.

pub(crate) mod check;
pub(crate) mod checkpoints;
pub(crate) mod control;
pub(crate) mod job;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod savepoints;
pub(crate) mod serve;

use std::io::{self, Write};

use crate::cli::{Cli, Command, JobArguments};
use crate::exit::{Error, Exit};

/// Does what the command line asks for.
pub(crate) fn run(cli: &Cli) -> Result<Exit, Error> {
    match &cli.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Serve(arguments) => serve::serve(arguments),
        Command::Check(arguments) => check::check(arguments),
        Command::Replay(arguments) => replay::replay(arguments),
        Command::Checkpoints(arguments) => checkpoints::run(arguments),
        Command::Savepoints(arguments) => savepoints::run(arguments),
        Command::List(arguments) => control::list(arguments),
        Command::Status(arguments) => control::status(arguments),
        Command::Top(arguments) => control::top(arguments),
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

/// The command that resumes a job from a checkpoint.
pub(crate) fn resume(arguments: &JobArguments, path: &str, drained: bool) -> String {
    let mut words = vec![
        "host".to_owned(),
        "run".into(),
        "-s".into(),
        path.to_owned(),
    ];
    if drained {
        words.push("--allow-drained".into());
    }
    if let Some(parallelism) = arguments.parallelism {
        words.extend(["-p".into(), parallelism.to_string()]);
    }
    if let Some(address) = &arguments.http {
        words.extend(["--http".into(), address.clone()]);
    }
    // To accept changed input is for one run.
    let once = |option: &&String| option.contains(".changed=");
    for option in arguments.overrides.iter().filter(|it| !once(it)) {
        words.extend(["-D".into(), option.clone()]);
    }
    if let Some(config) = &arguments.config {
        words.extend(["--config".into(), config.display().to_string()]);
    }
    words.push(arguments.file.display().to_string());
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

/// A word as a shell wants it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("/cp/chk-1/_metadata"), "/cp/chk-1/_metadata");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
