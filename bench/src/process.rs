//! What the kernel accounts to this process.

use std::time::Duration;

use anyhow::{Context, Result};

const LINUX: &str = "this benchmark needs Linux";

/// Processor time, user and system, of all threads; in steps of 10 ms.
pub(crate) fn cpu() -> Result<Duration> {
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").context(LINUX)?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("reading /proc/self/stat")?
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// A line of the status of a process, in KiB: `VmRSS` is what it has in memory, `VmHWM` the most that
/// it ever had.
pub(crate) fn memory_kib(process: &str, line: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context(LINUX)?;
    status
        .lines()
        .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("there is no {line} in the status of process {process}"))
}
