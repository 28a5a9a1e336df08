//! From the start of a process to its first record, and what it has in memory then.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, Workload};
use crate::job::{self, Generated};
use crate::process;

/// What a start costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started {
    pub(crate) ms: f64,
    pub(crate) resident_kib: u64,
}

/// The `host` program that was built beside this one.
pub(crate) fn host() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding this program")?;
    let host = program.with_file_name("host");
    ensure!(
        host.is_file(),
        "{} is not there: cargo build --release -p host",
        host.display()
    );
    Ok(host)
}

/// Ends the process however this ends.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, and nothing can be done if not.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a small job, whose output leaves at once, and waits for its first record.
pub(crate) fn run(dir: &Path) -> Result<Started> {
    let generated = Generated {
        rate: Some(1000.0),
        ..Generated::ENDLESS
    };
    let text = job::text(&Case::new(Workload::Count, 1000), &generated, None);
    let text = text.replace(
        "connector = \"discard\"",
        "connector = \"stdout\"\nformat = \"lines\"\ndelivery = \"immediate\"",
    );
    let path = dir.join("job.toml");
    std::fs::write(&path, text)?;
    let start = Instant::now();
    let child = Command::new(host()?)
        .arg("run")
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the host")?;
    let mut running = Running(child);
    let stdout = running.0.stdout.take().context("reading its output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    ensure!(!line.is_empty(), "the host ended without a record");
    Ok(Started {
        ms,
        resident_kib: process::memory_kib(&running.0.id().to_string(), "VmRSS")?,
    })
}
