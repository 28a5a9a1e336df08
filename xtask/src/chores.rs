//! Tests, lints and the benchmark: which commands, in which order.
//!
//! The host and everything that runs it are built in release mode only, and clippy and rustdoc use
//! the same profile: Wasmtime is compiled once and checked once, which is most of the time.

use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::build::{self, cargo, command, run};
use crate::workspaces::WORKSPACES;
use crate::{Result, deny, fuzz, guests, mutants, story, tools};

/// The packages that know nothing of Wasm. They are tested in the dev profile, because of its overflow checks
/// and debug assertions.
pub(crate) const PURE: [&str; 9] = [
    "dataflow",
    "operator",
    "checkpoint",
    "runtime",
    "job-file",
    "formats",
    "connectors",
    "server",
    "xtask",
];

/// What the tests ask the benchmark for: a part of each kind that is there within seconds, and the drawing.
const SMOKE: [&str; 8] = [
    "--only",
    "map,words,start",
    "--rounds",
    "1",
    "--seconds",
    "0.1",
    "--svg",
    "target/bench-smoke",
];

/// Runs every test.
pub(crate) fn test() -> Result<()> {
    let started = Instant::now();

    // They wait for the network while all this is built.
    let others = meanwhile(|| {
        tools()?;
        guests::build()
    });
    let built = build_without_wasm();
    let installed = others.join();
    built?;
    installed.map_err(|_| "what installs for the tests has panicked")??;

    story::step("SDK: its tests, and all bindings against wit/");
    run(cargo("sdk/rust", &["test"]))?;
    run(cargo("sdk/bindgen", &["run", "--quiet", "--", "--check"]))?;

    story::step("plugins, natively");
    run(cargo("plugins", &["test"]))?;

    story::step("the crates without Wasm, with debug assertions");
    run(waiting(without_wasm(&[])))?;

    story::step("mutants of the crates without Wasm, each of which a test finds");
    mutants::quick()?;

    // Always the same choices, as far as they depend on no clock: what fails is the change that is tested.
    // `nightly` draws new ones.
    fuzz(&fuzz::TARGETS)?;

    story::step(
        "host, examples, crashes; the properties of state with as many cases as a release build tries",
    );
    build::host()?;
    let packages = ["dataflow", "wasm", "host"];
    let packages = packages.map(|package| ["--package", package]).concat();
    run(waiting(cargo(
        ".",
        &[&["test", "--release"], packages.as_slice()].concat(),
    )))?;
    // Now, because Wasmtime is built as the host has it.
    fuzz(&[fuzz::GUEST])?;

    story::step("the benchmark: its tests, and a run too short to mean anything");
    let benchmark = ["--package", "bench", "--package", "bench-plot"];
    run(cargo(
        ".",
        &[&["test", "--release"], benchmark.as_slice()].concat(),
    ))?;
    bench(&SMOKE.map(str::to_owned))?;

    story::done(&format!(
        "all tests passed in {}",
        story::duration(started.elapsed())
    ));
    Ok(())
}

/// Builds what needs nothing of others' programs.
fn build_without_wasm() -> Result<()> {
    story::step("plugins, for wasm32-wasip2");
    build::plugins()?;
    story::step("SDK, plugins natively and the crates without Wasm");
    run(cargo("sdk/rust", &["test", "--no-run"]))?;
    run(cargo("sdk/bindgen", &["build"]))?;
    run(cargo("plugins", &["test", "--no-run"]))?;
    run(without_wasm(&["--no-run"]))
}

/// The tests of [`PURE`].
fn without_wasm(more: &[&str]) -> Command {
    let packages: Vec<&str> = PURE
        .iter()
        .flat_map(|package| ["--package", package])
        .collect();
    cargo(".", &[&["test"], packages.as_slice(), more].concat())
}

/// Tests that wait for processes, leases and disks more than they compute.
fn waiting(mut tests: Command) -> Command {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    tests.env("RUST_TEST_THREADS", (2 * processors).to_string());
    tests
}

/// Does this on a thread of its own.
#[expect(
    clippy::disallowed_methods,
    reason = "what it says goes to stderr, and its panic is an error where it is waited for"
)]
fn meanwhile(work: fn() -> Result<()>) -> JoinHandle<std::result::Result<(), String>> {
    thread::spawn(move || work().map_err(|error| error.to_string()))
}

/// Changed inputs for these targets, for a short while and always the same ones.
fn fuzz(targets: &[&str]) -> Result<()> {
    let briefly = [&["--seconds", "10", "--seed", "1"], targets].concat();
    let briefly: Vec<String> = briefly.into_iter().map(str::to_owned).collect();
    fuzz::fuzz(&briefly)
}

/// Installs what the tests need of others' programs, where it is missing.
pub(crate) fn tools() -> Result<()> {
    tools::install()?;
    guests::install()
}

/// Format, clippy and docs, with warnings as errors; and what the dependencies are.
pub(crate) fn lint() -> Result<()> {
    let started = Instant::now();

    story::step("format");
    for workspace in WORKSPACES {
        run(command("cargo", workspace, &["fmt", "--all", "--check"]))?;
    }

    deny::check()?;

    story::step("clippy");
    for workspace in WORKSPACES {
        run(cargo(
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
        let mut doc = cargo(workspace, &["doc", "--release", "--workspace", "--no-deps"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        run(doc)?;
    }

    story::done(&format!(
        "format, dependencies, clippy and docs are clean, in {}",
        story::duration(started.elapsed())
    ));
    Ok(())
}

/// Runs the benchmark, and draws its results if `--svg` says where to.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    let mut arguments = arguments.to_vec();
    let svg = take_option(&mut arguments, "--svg")?;
    let json = match (&svg, value_of(&arguments, "--json")) {
        (Some(_), None) => {
            let json = crate::root().join("target/bench.json");
            arguments.extend(["--json".to_owned(), json.display().to_string()]);
            json
        }
        (_, json) => json.map(Into::into).unwrap_or_default(),
    };
    build::plugins()?;
    // Together, so that the benchmark can start the host as a user does.
    run(cargo(
        ".",
        &[
            "build",
            "--release",
            "--package",
            "host",
            "--package",
            "bench",
        ],
    ))?;
    let program =
        build::host_program().with_file_name(format!("bench{}", std::env::consts::EXE_SUFFIX));
    let mut bench = Command::new(program);
    bench.args(arguments);
    run(bench)?;
    let Some(dir) = svg else {
        return Ok(());
    };
    let mut plot = cargo(
        ".",
        &[
            "run",
            "--release",
            "--quiet",
            "--package",
            "bench-plot",
            "--",
        ],
    );
    let here =
        std::env::current_dir().map_err(|error| format!("finding the directory: {error}"))?;
    plot.arg(here.join(json)).arg(here.join(dir));
    run(plot)
}

/// The value that follows `option`.
fn value_of<'a>(arguments: &'a [String], option: &str) -> Option<&'a String> {
    let at = arguments.iter().position(|argument| argument == option)?;
    arguments.get(at + 1)
}

/// Takes `option` and its value out of the arguments.
fn take_option(arguments: &mut Vec<String>, option: &str) -> Result<Option<String>> {
    let Some(at) = arguments.iter().position(|argument| argument == option) else {
        return Ok(None);
    };
    if at + 1 == arguments.len() {
        return Err(format!("`{option}` needs a value").into());
    }
    let value = arguments.remove(at + 1);
    arguments.remove(at);
    Ok(Some(value))
}
