//! From the last record of an owner that is gone to the first of the standby that has taken its place.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::job::component;
use crate::start::{Running, host};

/// The lease time where nothing else tells.
const LEASE: Duration = Duration::from_secs(2);
/// After this long something hangs.
const HANG: Duration = Duration::from_secs(60);
/// How much later than the round before an owner goes: so that it is at another moment of its lease.
const LATER: Duration = Duration::from_millis(170);
const KEYS: u64 = 100_000;
const RATE: f64 = 5_000.0;

/// Milliseconds without a record, of each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct TakeoverResult {
    /// The owner was killed, and its lock tells.
    pub(crate) killed_ms: Vec<f64>,
    /// The owner hangs: what is seen of it is what another machine sees of one that is gone.
    pub(crate) silent_ms: Vec<f64>,
    /// The lease time.
    pub(crate) lease_ms: f64,
}

/// Measures both, in turn.
pub(crate) fn run(rounds: usize) -> Result<TakeoverResult> {
    let mut result = TakeoverResult {
        killed_ms: Vec::new(),
        silent_ms: Vec::new(),
        lease_ms: LEASE.as_secs_f64() * 1e3,
    };
    for round in 0..rounds {
        let later = LATER * u32::try_from(round).unwrap_or(u32::MAX);
        result.killed_ms.push(gap("KILL", later)?);
        result.silent_ms.push(gap("STOP", later)?);
    }
    Ok(result)
}

/// An owner gets a signal while a standby waits. Returns the milliseconds without a record.
fn gap(signal: &str, later: Duration) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("job.toml");
    std::fs::write(&path, job(dir.path()))?;
    let owner = Watched::start(&path)?;
    owner.first()?;
    let standby = Watched::start(&path)?;
    standby
        .waits
        .recv_timeout(HANG)
        .context("the standby does not wait")?;
    // Some checkpoints, and a renewal or two.
    thread::sleep(Duration::from_secs(2) + later);
    let sent = Command::new("kill")
        .args([format!("-{signal}"), owner.running.0.id().to_string()])
        .status()
        .context("sending a signal")?;
    if !sent.success() {
        bail!("the owner has ended by itself");
    }
    let first = standby.first()?;
    // What the pipe held when it went was written before.
    let last = *owner.last.lock().unwrap_or_else(PoisonError::into_inner);
    let last = last.context("the owner wrote nothing")?;
    Ok(first.duration_since(last).as_secs_f64() * 1e3)
}

/// A host of which is noted when it wrote its first record and its last.
struct Watched {
    running: Running,
    first: mpsc::Receiver<Instant>,
    last: Arc<Mutex<Option<Instant>>>,
    waits: mpsc::Receiver<()>,
}

impl Watched {
    fn start(job: &Path) -> Result<Self> {
        let child = Command::new(host()?)
            .args(["run", "--standby"])
            .arg(job)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting the host")?;
        let mut running = Running(child);
        let stdout = running.0.stdout.take().context("reading its output")?;
        let stderr = running.0.stderr.take().context("reading what it says")?;
        let last = Arc::new(Mutex::new(None));
        let newest = Arc::clone(&last);
        let (send, first) = mpsc::sync_channel(1);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if line.is_err() {
                    return;
                }
                let now = Instant::now();
                *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
                // Only the first is waited for.
                let _ = send.try_send(now);
            }
        });
        let (send, waits) = mpsc::sync_channel(1);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains("standing by") {
                    let _ = send.try_send(());
                }
            }
        });
        Ok(Self {
            running,
            first,
            last,
            waits,
        })
    }

    fn first(&self) -> Result<Instant> {
        self.first.recv_timeout(HANG).context("no record comes")
    }
}

fn job(dir: &Path) -> String {
    format!(
        "[job]\nname = \"takeover\"\nparallelism = 1\n\n\
         [checkpoint]\ninterval = \"200ms\"\ndir = {:?}\nlease-timeout = \"{}ms\"\n\n\
         [[source]]\nid = \"records\"\nconnector = \"generator\"\nrate = {RATE:.1}\nkeys = {KEYS}\n\n\
         [[operator]]\nid = \"count\"\ncomponent = {:?}\ninput = \"records\"\nconfig = {{}}\n\n\
         [[sink]]\nid = \"seen\"\nconnector = \"stdout\"\nformat = \"lines\"\ndelivery = \"immediate\"\n\
         input = \"count\"\n",
        dir.join("checkpoints"),
        LEASE.as_millis(),
        component("count")
    )
}
