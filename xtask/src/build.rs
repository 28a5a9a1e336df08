//! Building what runs: the wasm target, the plugins, the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, root};

/// The target that plugins are built for.
const WASM: &str = "wasm32-wasip2";

/// A command that runs in a directory of the repository.
///
/// `CARGO_TARGET_DIR` is not passed on: job files name components by their place below
/// `plugins/target`, so that is where they have to be.
pub(crate) fn command(program: &str, directory: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(root().join(directory))
        .args(arguments)
        .env_remove("CARGO_TARGET_DIR");
    command
}

/// `cargo` in a workspace, with the versions of its `Cargo.lock` and no others: what is tested is what is
/// committed. The first argument is cargo's command.
pub(crate) fn cargo(workspace: &str, arguments: &[&str]) -> Command {
    let (chore, rest) = arguments.split_at(1);
    command("cargo", workspace, &[chore, &["--locked"], rest].concat())
}

/// Runs a command and fails with its name if it fails.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let shown = shown(&command);
    eprintln!("    $ {shown}");
    let status = command
        .status()
        .map_err(|error| format!("cannot run `{shown}`: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{shown}` failed ({status})").into())
    }
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let mut shown = String::new();
    if let Some(place) = command
        .get_current_dir()
        .and_then(|place| place.strip_prefix(root()).ok())
        && place != Path::new("")
    {
        shown = format!("(in {}) ", place.display());
    }
    shown.push_str(&command.get_program().to_string_lossy());
    for argument in command.get_args() {
        shown.push(' ');
        shown.push_str(&argument.to_string_lossy());
    }
    shown
}

/// Adds the wasm target to the toolchain if it is missing.
pub(crate) fn wasm_target() -> Result<()> {
    let output = command("rustc", ".", &["--print", "sysroot"])
        .output()
        .map_err(|error| format!("cannot run `rustc`: {error}"))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if sysroot.join("lib/rustlib").join(WASM).is_dir() {
        return Ok(());
    }
    run(command("rustup", ".", &["target", "add", WASM]))
        .map_err(|error| format!("{error}\nhint: the Rust toolchain needs the target {WASM}; rustup from https://rustup.rs adds it").into())
}

/// Builds every plugin into a component.
pub(crate) fn plugins() -> Result<()> {
    wasm_target()?;
    run(cargo("plugins", &["build", "--release", "--target", WASM]))
}

/// Builds the host.
pub(crate) fn host() -> Result<()> {
    run(cargo(".", &["build", "--release", "--package", "host"]))
}

/// Where [`host`] puts the program.
pub(crate) fn host_program() -> PathBuf {
    root()
        .join("target/release")
        .join(format!("host{}", std::env::consts::EXE_SUFFIX))
}
