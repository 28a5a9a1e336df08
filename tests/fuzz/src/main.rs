//! Bytes from outside, drawn at random and guided by coverage, to what reads them: metadata, segments, job
//! files, CSV, JSON lines, answers of S3.
//!
//! `fuzz TARGET…` first replays the target's corpus (`corpus/TARGET/`), then changes its inputs for a
//! minute each and keeps in mind those that reach something new. An input for which a promise breaks is
//! written into the corpus, so that it is replayed by every run from then on.
//!
//! A target is a function from bytes to nothing that panics when a promise is broken ([`targets`]). It runs in
//! a process of its own, which may also die or hang: the input is at hand in a file. What a guest passes needs
//! Wasmtime: that target is a test of the crate `wasm` (`crates/wasm/src/tests/calls.rs`), whose corpus is here as
//! well.
//!
//! Modules in reading order.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "it prints, and watches the time"
)]

mod targets;

mod engine;
mod mutate;

mod coverage;
mod memory;

use std::process::ExitCode;
use std::time::Duration;

use engine::Settings;

const USAGE: &str = "\
usage: fuzz [--seconds N] [--seed N] [--keep] TARGET…
       fuzz --replay TARGET FILE…

  --seconds N   how long each target is tried after its corpus is replayed (60)
  --seed N      repeats the choices of a run
  --keep        adds to the corpus the inputs that reach something new, as far as they are small
  --replay      runs the target with each file
";

fn main() -> ExitCode {
    let mut settings = Settings::default();
    let mut names = Vec::new();
    let mut replay = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            arguments
                .next()
                .and_then(|number| number.parse::<u64>().ok())
        };
        match argument.as_str() {
            "--seconds" => match number() {
                Some(seconds) => settings.time = Duration::from_secs(seconds),
                None => return usage(),
            },
            "--seed" => match number() {
                Some(seed) => settings.seed = seed,
                None => return usage(),
            },
            "--keep" => settings.keep = true,
            "--worker" => settings.worker = true,
            "--replay" => replay = true,
            other if other.starts_with('-') => return usage(),
            _ => names.push(argument),
        }
    }
    if replay {
        return match names.split_first() {
            Some((name, files)) if !files.is_empty() => match targets::find(name) {
                Some(target) => engine::replay(target, files),
                None => unknown(name),
            },
            _ => usage(),
        };
    }
    if names.is_empty() {
        return usage();
    }
    for name in &names {
        let Some(target) = targets::find(name) else {
            return unknown(name);
        };
        let outcome = if settings.worker {
            engine::work(target, &settings)
        } else {
            engine::watch(target, &settings)
        };
        if outcome != ExitCode::SUCCESS {
            return outcome;
        }
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprint!("{USAGE}");
    ExitCode::from(2)
}

fn unknown(name: &str) -> ExitCode {
    let known: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
    eprintln!(
        "there is no target `{name}`, the targets are {}",
        known.join(", ")
    );
    ExitCode::from(2)
}
