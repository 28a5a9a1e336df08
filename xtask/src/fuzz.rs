//! `cargo xtask fuzz`: changed inputs for what reads bytes from outside. The targets are in `tests/fuzz/`, but for
//! that of guests, which needs Wasmtime and is a test of the crate `wasm`.

use std::process::Command;
use std::sync::Mutex;
use std::thread;

use crate::build::{cargo, run};
use crate::{Result, story};

/// The targets of `tests/fuzz/`. The slowest first: what is left at the end is short.
pub(crate) const TARGETS: [&str; 6] = ["s3", "segments", "metadata", "job-file", "csv", "json"];
/// The one that is a test of the crate `wasm`.
pub(crate) const GUEST: &str = "guest";
/// That test, chosen together with the host: alone its dependencies would have other features, and Wasmtime would be
/// compiled once more.
const GUEST_TEST: [&str; 7] = [
    "test",
    "--release",
    "--package",
    "wasm",
    "--package",
    "host",
    "--lib",
];

/// Runs the targets that are named, or all, side by side as far as there are processors.
pub(crate) fn fuzz(arguments: &[String]) -> Result<()> {
    let mut seconds = 60;
    let mut seed = None;
    let mut names: Vec<&str> = Vec::new();
    let mut rest = arguments.iter().map(String::as_str);
    while let Some(argument) = rest.next() {
        match argument {
            "--minutes" => {
                let given = rest.next().and_then(|number| number.parse::<u64>().ok());
                let minutes = given.ok_or("`--minutes` needs a whole number")?;
                seconds = minutes.saturating_mul(60);
            }
            "--seconds" => {
                let given = rest.next().and_then(|number| number.parse::<u64>().ok());
                seconds = given.ok_or("`--seconds` needs a whole number")?;
            }
            "--seed" => {
                let given = rest.next().and_then(|number| number.parse::<u64>().ok());
                seed = Some(given.ok_or("`--seed` needs a whole number")?);
            }
            name if TARGETS.contains(&name) || name == GUEST => names.push(name),
            other => {
                let known = TARGETS.join(", ");
                return Err(format!(
                    "there is no target `{other}`, the targets are {known}, {GUEST}"
                )
                .into());
            }
        }
    }
    if names.is_empty() {
        names = TARGETS.into_iter().chain([GUEST]).collect();
    }
    story::step(&format!("fuzz, {seconds} s each: {}", names.join(", ")));
    let seconds = seconds.to_string();
    if names.iter().any(|name| *name != GUEST) {
        run(cargo("tests/fuzz", &["build", "--release"]))?;
    }
    if names.contains(&GUEST) {
        run(cargo(".", &[&GUEST_TEST[..], &["--no-run"]].concat()))?;
    }
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let (left, broken) = (Mutex::new(names.into_iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                let next = || left.lock().ok().and_then(|mut left| left.next());
                while let Some(name) = next() {
                    if let Err(error) = run(target(name, &seconds, seed))
                        && let Ok(mut broken) = broken.lock()
                    {
                        broken.push(error.to_string());
                    }
                }
            });
        }
    });
    let broken = broken
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    match broken.is_empty() {
        true => Ok(()),
        false => Err(broken.join("; ").into()),
    }
}

fn target(name: &str, seconds: &str, seed: Option<u64>) -> Command {
    let seed = seed.map(|seed| seed.to_string());
    if name != GUEST {
        let arguments = [
            "run",
            "--quiet",
            "--release",
            "--",
            "--seconds",
            seconds,
            name,
        ];
        let mut target = cargo("tests/fuzz", &arguments);
        if let Some(seed) = seed {
            target.args(["--seed", &seed]);
        }
        return target;
    }
    let mut guest = cargo(".", &[&GUEST_TEST[..], &["c61_changed_calls"]].concat());
    guest.env("HIGHWATER_FUZZ_SECONDS", seconds);
    if let Some(seed) = seed {
        guest.env("HIGHWATER_SEED", seed);
    }
    guest
}
