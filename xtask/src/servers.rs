//! The S3 servers that tests talk to, installed below `target/`: moto's, which honours conditional
//! writes, and s3rver, which does not.
//!
//! Pinned, so that a test means the same tomorrow. A mark with the versions is left when all is
//! there; without it everything is installed anew, so that an interrupted install is no half server.

use std::fs;
use std::path::Path;

use crate::build::{command, run};
use crate::{Result, root, story};

const MOTO: &str = "moto[server]==5.2.5";
const S3RVER: &str = "s3rver@3.7.1";

/// Installs them if they are missing.
pub(crate) fn install() -> Result<()> {
    let directory = root().join("target/s3");
    install_one(&directory.join("moto"), MOTO, moto)?;
    install_one(&directory.join("s3rver"), S3RVER, s3rver)
}

fn install_one(directory: &Path, version: &str, install: fn(&str) -> Result<()>) -> Result<()> {
    let mark = directory.join("installed");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == version) {
        return Ok(());
    }
    story::step(&format!("{version}, an S3 server for the tests"));
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    let place = directory
        .to_str()
        .ok_or("the repository's path is not Unicode")?;
    install(place)?;
    fs::write(mark, version)?;
    Ok(())
}

fn moto(place: &str) -> Result<()> {
    run(command("python3", ".", &["-m", "venv", place]))
        .map_err(|error| format!("{error}\nhint: python3 with pip and venv is needed"))?;
    let python = Path::new(place).join("bin/python");
    let python = python.to_string_lossy();
    run(command(
        &python,
        ".",
        &["-m", "pip", "install", "--quiet", MOTO],
    ))
}

fn s3rver(place: &str) -> Result<()> {
    // Without the scripts of packages: none is needed.
    let install = ["install", "--prefix", place, "--no-audit", "--no-fund"];
    let quietly = ["--ignore-scripts", "--loglevel=error", S3RVER];
    run(command(
        "npm",
        ".",
        &[install.as_slice(), &quietly].concat(),
    ))
    .map_err(|error| format!("{error}\nhint: node with npm is needed").into())
}
