//! `cargo xtask`: set-up and chores, in Rust so that they run wherever the project builds.
//!
//! Standard library only: it is compiled before anything else, and a fresh clone should show
//! something within seconds.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "a chore prints, and starts programs"
)]

mod build;
mod chores;
mod debian;
mod demo;
mod deny;
mod flink;
mod fuzz;
mod guests;
mod hadoop;
mod mutants;
mod nightly;
mod soak;
mod story;
mod tools;
mod workspaces;

use std::path::Path;
use std::process::ExitCode;

/// What went wrong, for a person. The program says it and gives up.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "\
usage: cargo xtask <chore>

  demo           build everything, count words, kill the host in the middle, resume, compare
  test           every test: plugins, SDK, crates, host, examples, crashes
  lint           format, clippy and docs, with warnings as errors; licences and sources of dependencies
  advisories     known vulnerabilities of dependencies; needs GitHub
  ci             test, then lint
  bench [ARGS]   the benchmark; ARGS are passed on
  soak [--minutes N]
                 24 checkpoints a second for ten minutes: memory, open files, files on disk do not grow
  fuzz [--minutes N | --seconds N] [TARGET…]
                 metadata, segments, job files, CSV, JSON, answers of S3, values of guests: changed for a minute each
  mutants [--all | NAME…]
                 makes the mistakes of tests/mutants/, each of which a test must find
  nightly        seeds, hostile guests, kills, mutants and soak in full: takes some hours
  build          the plugins and the host, in release mode
  guests         the counters in Python, JavaScript, Go and C of tests/guests/, into target/guests/
  tools          installs below target/ what tests need beside the host, if it is missing
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let chore = arguments.next();
    let rest: Vec<String> = arguments.collect();
    let result = match (chore.as_deref(), rest.as_slice()) {
        (Some("demo"), []) => demo::run(),
        (Some("test"), []) => chores::test(),
        (Some("lint"), []) => chores::lint(),
        (Some("advisories"), []) => deny::advisories(),
        (Some("ci"), []) => chores::test().and_then(|()| chores::lint()),
        (Some("bench"), arguments) => chores::bench(arguments),
        (Some("soak"), arguments) => soak::soak(arguments),
        (Some("fuzz"), arguments) => fuzz::fuzz(arguments),
        (Some("mutants"), arguments) => mutants::mutants(arguments),
        (Some("nightly"), []) => nightly::nightly(),
        (Some("build"), []) => build::plugins().and_then(|()| build::host()),
        (Some("guests"), []) => guests::install().and_then(|()| guests::build()),
        (Some("tools"), []) => chores::tools(),
        (Some("help" | "-h" | "--help"), _) => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is in the repository")
}
