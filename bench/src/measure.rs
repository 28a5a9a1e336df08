//! One job, run and measured as a whole process sees it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use checkpoint::store::{CheckpointStore, Options as StoreOptions};
use dataflow::alignment::Mode;
use runtime::clock::SystemClock;
use runtime::coordinator::Settings;
use runtime::restart::Strategy;
use runtime::{Job, JobEvent, JobGraph, Options, Outcome};

/// What a run has shown.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) records: u64,
    pub(crate) wall: Duration,
    /// Of all threads of the process.
    pub(crate) cpu: Duration,
    /// Duration and bytes of each checkpoint but the last.
    pub(crate) checkpoints: Vec<(u64, u64)>,
}

impl Run {
    /// Records per second of processor time: what one core handles, source and sink included.
    pub(crate) fn per_core(&self) -> f64 {
        self.records as f64 / self.cpu.as_secs_f64()
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.records as f64 / self.wall.as_secs_f64()
    }
}

/// Runs a bounded job, with a checkpoint every `interval` into a directory that is removed afterwards.
pub(crate) fn run(graph: JobGraph, interval: Option<Duration>) -> Result<Run> {
    let dir = tempfile::tempdir()?;
    let store_options = StoreOptions::default();
    let store = match interval {
        None => CheckpointStore::memory(store_options),
        Some(_) => CheckpointStore::open(&dir.path().to_string_lossy(), "bench", store_options)?,
    };
    let options = Options {
        name: "bench".into(),
        id: "bench".into(),
        checkpoint: Settings {
            interval_ms: interval.map(|interval| interval.as_millis() as u64),
            ..Settings::default()
        },
        mode: Mode::ExactlyOnce,
        incremental: true,
        restart: Strategy::None,
    };
    let job = Job::new(graph, options, store, None, Arc::new(SystemClock::new()));
    let handle = job.handle();
    let (start, cpu_before) = (Instant::now(), process_cpu()?);
    let mut checkpoints = Vec::new();
    let outcome = job.run(|event| {
        if let JobEvent::CheckpointCompleted {
            duration_ms, bytes, ..
        } = event
        {
            checkpoints.push((duration_ms, bytes));
        }
    });
    let (wall, cpu) = (start.elapsed(), process_cpu()?.saturating_sub(cpu_before));
    match outcome {
        Outcome::Finished => {}
        Outcome::Failed { error, .. } => {
            return Err(anyhow::Error::from(*error)).context("the job failed");
        }
        other => bail!("the job ended as {other:?}"),
    }
    checkpoints.pop();
    Ok(Run {
        records: handle.records().0,
        wall,
        cpu,
        checkpoints,
    })
}

/// Processor time of this process, user and system, from the kernel's account (in steps of 10 ms).
fn process_cpu() -> Result<Duration> {
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").context("this benchmark needs Linux")?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("reading /proc/self/stat")?
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
