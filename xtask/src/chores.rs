//! Tests, lints and the benchmark: which commands, in which order.
//!
//! The host and everything that runs it are built in release mode only, and clippy and rustdoc use
//! the same profile: Wasmtime is compiled once and checked once, which is most of the time.

use std::time::Instant;

use crate::build::{self, command, run};
use crate::{Result, story};

/// The workspaces: the root, the plugins (another target), the SDK (what operator authors depend on),
/// and what makes the bindings of the SDK.
const WORKSPACES: [&str; 4] = [".", "plugins", "sdk/rust", "sdk/bindgen"];

/// The packages that know nothing of Wasm. They are tested in the dev profile, for its overflow checks
/// and debug assertions.
const PURE: [&str; 4] = ["dataflow", "checkpoint", "runtime", "xtask"];

/// Runs every test.
pub(crate) fn test() -> Result<()> {
    let started = Instant::now();

    story::step("plugins, for wasm32-wasip2");
    build::plugins()?;

    story::step("SDK: its tests, and its bindings against wit/");
    run(command("cargo", "sdk/rust", &["test"]))?;
    run(command(
        "cargo",
        "sdk/bindgen",
        &["run", "--quiet", "--", "--check"],
    ))?;

    story::step("plugins, natively");
    run(command("cargo", "plugins", &["test"]))?;

    story::step("the crates without Wasm, with debug assertions");
    let packages: Vec<&str> = PURE
        .iter()
        .flat_map(|package| ["--package", package])
        .collect();
    run(command(
        "cargo",
        ".",
        &[&["test"], packages.as_slice()].concat(),
    ))?;

    story::step("host, examples, crashes");
    build::host()?;
    run(command(
        "cargo",
        ".",
        &["test", "--release", "--package", "host"],
    ))?;

    story::done(&format!(
        "all tests passed in {}",
        story::duration(started.elapsed())
    ));
    Ok(())
}

/// Format, clippy and docs, with warnings as errors.
pub(crate) fn lint() -> Result<()> {
    let started = Instant::now();

    story::step("format");
    for workspace in WORKSPACES {
        run(command("cargo", workspace, &["fmt", "--all", "--check"]))?;
    }

    story::step("clippy");
    for workspace in WORKSPACES {
        run(command(
            "cargo",
            workspace,
            &[
                "clippy",
                "--release",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ))?;
    }

    story::step("docs");
    for workspace in WORKSPACES {
        let mut doc = command(
            "cargo",
            workspace,
            &["doc", "--release", "--workspace", "--no-deps"],
        );
        doc.env("RUSTDOCFLAGS", "-D warnings");
        run(doc)?;
    }

    story::done(&format!(
        "format, clippy and docs are clean, in {}",
        story::duration(started.elapsed())
    ));
    Ok(())
}

/// Runs the benchmark.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    build::plugins()?;
    let mut bench = command(
        "cargo",
        ".",
        &["run", "--release", "--package", "bench", "--"],
    );
    bench.args(arguments);
    run(bench)
}
