//! The benchmark anyone can run: `cargo xtask bench`.
//!
//! Jobs as any user would write them down, at full speed, each with its operators as components and
//! beside it, in the same run and in turn, written natively for the same runtime, and beside a bare
//! loop over the same state table. Only ratios of figures from one run mean anything on another
//! machine. Records per core are per second of processor time of the whole process: generator, sink
//! and the writing of checkpoints included.
//!
//! Every measurement has a process of its own, which is this program with `--task` and what to do.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "it measures and prints"
)]

mod arguments;
mod bad_records;
mod case;
mod job;
mod limit;
mod figures;
mod measure;
mod measured;
mod native;
mod neighbours;
mod probe;
mod process;
mod report;
mod start;
mod suite;
mod takeover;
mod targets;
mod windows;

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use self::arguments::Arguments;
use self::measure::Task;
use self::measured::Measured;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let result = match words.next() {
        Some(word) if word == "--task" => do_task(&words.next().unwrap_or_default()),
        word => {
            Arguments::read(word.into_iter().chain(words)).and_then(|arguments| match arguments {
                Some(arguments) => bench(&arguments),
                None => Ok(()),
            })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    let results = suite::run(arguments)?;
    println!("{}", report::text(&results)?);
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&results)?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// In the process that measures: does what its input says and prints what it has seen.
fn do_task(task: &str) -> Result<()> {
    let task: Task = serde_json::from_str(task).context("reading the task")?;
    println!("{}", serde_json::to_string(&measure::run(&task)?)?);
    Ok(())
}

/// Has a process of its own measure.
fn measured(task: &Task) -> Result<Measured> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = Command::new(program)
        .arg("--task")
        .arg(serde_json::to_string(task)?)
        .stderr(Stdio::inherit())
        .output()
        .context("starting a process to measure in")?;
    ensure!(output.status.success(), "{task:?} failed");
    serde_json::from_slice(&output.stdout).context("reading what was measured")
}
