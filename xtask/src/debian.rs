//! Programs of Debian's packages: installed where they are missing and may be, or unpacked below `target/`.

use std::process::{Command, Stdio};

use crate::build::{command, run};
use crate::{Result, story};

/// A program that the tests need.
pub(crate) struct Program {
    /// Its name, and an argument with which it says its version and ends.
    pub(crate) asks: (&'static str, &'static str),
    /// The packages that have it; the first one that Debian has is taken.
    pub(crate) packages: &'static [&'static str],
    /// What it is, and for what.
    pub(crate) what: &'static str,
}

/// Unpacks a package into a directory, without what it would do to the system: a server is not started.
pub(crate) fn unpack(package: &str, directory: &str) -> Result<()> {
    let hint = |error| format!("{error}\nhint: the package `{package}` of Debian is needed");
    run(command("apt-get", ".", &["update", "--quiet"])).map_err(hint)?;
    run(command(
        "apt-get",
        directory,
        &["download", "--quiet", package],
    ))
    .map_err(hint)?;
    let archives = std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    for archive in archives {
        let archive = archive.to_str().ok_or("a path is not Unicode")?;
        run(command("dpkg-deb", ".", &["--extract", archive, directory]))?;
        std::fs::remove_file(archive)?;
    }
    Ok(())
}

/// Installs it if it is missing.
pub(crate) fn install(program: &Program) -> Result<()> {
    let is_there = |(program, argument): (&str, &str)| {
        let mut command = Command::new(program);
        command.arg(argument);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let Program {
        asks,
        packages,
        what,
    } = program;
    if is_there(*asks) {
        return Ok(());
    }
    let hint = format!("hint: `{}` is needed: {what}", asks.0);
    if !is_there(("apt-get", "--version")) {
        return Err(format!("there is no `{}`\n{hint}", asks.0).into());
    }
    story::step(what);
    run(command("apt-get", ".", &["update", "--quiet"]))?;
    for package in *packages {
        let quietly = ["install", "--yes", "--quiet", "--no-install-recommends"];
        let mut install = command("apt-get", ".", &[&quietly[..], &[package]].concat());
        install.env("DEBIAN_FRONTEND", "noninteractive");
        if run(install).is_ok() {
            return Ok(());
        }
    }
    Err(format!("`{}` could not be installed\n{hint}", asks.0).into())
}
