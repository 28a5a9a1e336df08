//! Nine good jobs beside one whose operator misbehaves all the time, each in a process of its own: what
//! the good ones lose, and whether their output is right.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::job::component;
use crate::process;
use crate::start::{Running, host};

/// What is done wrong, at every record, and after each restart again: by the names that the plugin
/// `faulty` has for it.
pub(crate) const MISDEEDS: [&str; 7] = [
    "loop",
    "memory",
    "fill-keys",
    "fill-map",
    "fill-output",
    "log",
    "trap",
];

const GOOD: usize = 9;
/// Records of a good job for each second that a round should take, on two processors.
const RECORDS_PER_SECOND: f64 = 2.5e6;
const KEYS: u64 = 1000;
/// Records per second of a good job that does not fill the machine with the others: together they take
/// about a quarter of two processors.
const PACE: f64 = 500_000.0;

/// Good jobs beside a bad one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct NeighbourResult {
    pub(crate) misdeed: String,
    /// Of each round: the speed of the good jobs beside the bad one, to their speed alone, as fast as they
    /// can.
    pub(crate) speed: Vec<f64>,
    /// The same, with records that come at a pace of [`PACE`].
    pub(crate) paced: Vec<f64>,
    /// The most memory that the bad one ever had.
    pub(crate) bad_peak_kib: u64,
}

/// Measures one misdeed, in turn with nobody's.
pub(crate) fn run(misdeed: &str, rounds: usize, seconds: f64) -> Result<NeighbourResult> {
    let mut result = NeighbourResult {
        misdeed: misdeed.to_owned(),
        speed: Vec::new(),
        paced: Vec::new(),
        bad_peak_kib: 0,
    };
    let count = (seconds * RECORDS_PER_SECOND) as u64;
    let paced = (seconds * PACE) as u64;
    for _ in 0..rounds {
        let alone = good_jobs(count, None)?;
        let paced_alone = good_jobs(paced, Some(PACE))?;
        let dir = tempfile::tempdir()?;
        let bad = start(dir.path(), "bad", &bad_job(misdeed))?;
        let beside = good_jobs(count, None)?;
        let paced_beside = good_jobs(paced, Some(PACE))?;
        let pid = bad.0.id().to_string();
        let peak = process::memory_kib(&pid, "VmHWM");
        let peak = peak.with_context(|| format!("the job that does `{misdeed}` has ended"))?;
        result.bad_peak_kib = result.bad_peak_kib.max(peak);
        result.speed.push(alone / beside);
        result.paced.push(paced_alone / paced_beside);
    }
    Ok(result)
}

/// Runs the good jobs at once, and checks what each has counted. Returns the seconds until the last was
/// done.
fn good_jobs(count: u64, pace: Option<f64>) -> Result<f64> {
    let dirs: Vec<_> = (0..GOOD)
        .map(|_| tempfile::tempdir())
        .collect::<Result<_, _>>()?;
    let started = Instant::now();
    let mut jobs: Vec<Running> = Vec::new();
    for dir in &dirs {
        jobs.push(start(dir.path(), "good", &good_job(count, pace))?);
    }
    for job in &mut jobs {
        let status = job.0.wait().context("waiting for a good job")?;
        ensure!(status.success(), "a good job has failed: {status}");
    }
    let seconds = started.elapsed().as_secs_f64();
    for dir in &dirs {
        let counted = counted(&dir.path().join("out"))?;
        ensure!(
            counted == count,
            "a good job has counted {counted} of {count} records"
        );
    }
    Ok(seconds)
}

/// The sum of all counts in the output.
fn counted(out: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(out).context("reading the output of a good job")? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            let number = line.rsplit(',').next().unwrap_or_default();
            sum += number
                .parse::<u64>()
                .with_context(|| format!("`{line}` has no count"))?;
        }
    }
    Ok(sum)
}

fn good_job(count: u64, pace: Option<f64>) -> String {
    let rate = pace.map_or_else(String::new, |rate| format!("rate = {rate:.1}\n"));
    format!(
        "[job]\nname = \"good\"\nparallelism = 1\n\n\
         [checkpoint]\ninterval = \"1s\"\ndir = \"checkpoints\"\n\n\
         [[source]]\nid = \"records\"\nconnector = \"generator\"\ncount = {count}\n{rate}keys = {KEYS}\n\n\
         [[operator]]\nid = \"count\"\ncomponent = {:?}\ninput = \"records\"\nconfig = {{ emit = \"final\" }}\n\n\
         [[sink]]\nid = \"counts\"\nconnector = \"file\"\npath = \"out\"\nformat = \"csv\"\ninput = \"count\"\n",
        component("count")
    )
}

fn bad_job(misdeed: &str) -> String {
    format!(
        "[job]\nname = \"bad\"\nparallelism = 1\n\n[checkpoint]\ninterval = \"1s\"\n\n\
         [restart]\nstrategy = \"fixed-delay\"\nattempts = 1000000\ndelay = \"0s\"\n\n\
         [[source]]\nid = \"records\"\nconnector = \"generator\"\nkeys = {KEYS}\n\n\
         [[operator]]\nid = \"faulty\"\ncomponent = {:?}\ninput = \"records\"\nconfig = {{ misdeed = \"{misdeed}\" }}\n\n\
         [[sink]]\nid = \"nothing\"\nconnector = \"discard\"\ninput = \"faulty\"\n",
        component("faulty")
    )
}

fn start(dir: &Path, name: &str, text: &str) -> Result<Running> {
    let path: PathBuf = dir.join(format!("{name}.toml"));
    std::fs::write(&path, text)?;
    let child: Child = Command::new(host()?)
        .arg("run")
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the host")?;
    Ok(Running(child))
}
