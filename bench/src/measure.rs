//! One job, run and measured in a process of its own: so that its memory and its processor time are
//! its own, too.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use checkpoint::store::{CheckpointStore, Options as StoreOptions};
use dataflow::alignment::Mode;
use operator::clock::SystemClock;
use runtime::coordinator::Settings;
use runtime::restart::Strategy;
use runtime::{Job, JobEvent, JobGraph, JobHandle, Options, Outcome};
use serde::{Deserialize, Serialize};

use crate::bad_records::{self, Bad};
use crate::case::{Backend, Case, Workload};
use crate::job::{self, Generated};
use crate::measured::{Measured, Phases, Spread, Taken};
use crate::windows::{self, Work};
use crate::{limit, probe, process};

/// What a process of the benchmark is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Task {
    /// Run a job at full speed and measure it for a while once it is warm.
    Throughput {
        case: Case,
        backend: Backend,
        seconds: f64,
    },
    /// Run it at a steady rate and see how late records come out.
    Latency {
        case: Case,
        backend: Backend,
        rate: f64,
        seconds: f64,
    },
    /// Run a job with windows, or what they are compared with, over whole panes.
    Windows { work: Work },
    /// Run a job some of whose records are bad, or none.
    BadRecords {
        work: bad_records::Work,
        bad: Bad,
        seconds: f64,
    },
    /// Count the keys that change between checkpoints.
    Changed { case: Case, seconds: f64 },
    /// See how much slower the job is in a second in which a checkpoint is taken than in those beside it.
    Lost { case: Case, seconds: f64 },
    /// See how long a snapshot, and the steps after it, keep a subtask from its records.
    Pause { case: Case, seconds: f64 },
    /// Write each key once and leave a checkpoint.
    Fill { case: Case, dir: PathBuf },
    /// Start from that checkpoint.
    Restore { case: Case, dir: PathBuf },
    /// Read its files and build a bare hash table of as many keys.
    BareRestore { case: Case, dir: PathBuf },
}

/// Does `task` in this process.
pub(crate) fn run(task: &Task) -> Result<Measured> {
    let dir = tempfile::tempdir()?;
    let mut measured = match task {
        Task::Throughput {
            case,
            backend: Backend::Limit,
            seconds,
        } => limit::run(case, *seconds)?,
        Task::Throughput {
            case,
            backend,
            seconds,
        } => {
            let graph = job::graph(case, *backend, &Generated::ENDLESS, dir.path())?;
            let long = match case.workload.reads_files() {
                true => Long::ToTheEnd,
                false => Long::Seconds(*seconds),
            };
            Run::new(case, dir.path())?.window(graph, long)?
        }
        Task::Latency {
            case,
            backend,
            rate,
            seconds,
        } => {
            let generated = Generated {
                rate: Some(*rate),
                ..Generated::ENDLESS
            };
            let mut graph = job::graph(case, *backend, &generated, dir.path())?;
            let seen = probe::latencies(&mut graph, *rate);
            let mut run = Run::new(case, dir.path())?;
            run.warm_up_records = 0;
            run.warm_up = Duration::from_secs(1);
            let forget = Arc::clone(&seen);
            run.at_warm = Some(Box::new(move || drop(probe::take(&forget))));
            let mut measured = run.window(graph, Long::Seconds(*seconds))?;
            measured.latency = Spread::of(probe::take(&seen).into_iter().map(f64::from));
            measured
        }
        Task::Windows { work } => {
            let graph = windows::graph(*work, dir.path())?;
            let case = Case::new(Workload::Count, windows::KEYS);
            let mut run = Run::new(&case, dir.path())?;
            run.warm_up_records = work.warm_up();
            run.window(graph, Long::Records(windows::MEASURED))?
        }
        Task::BadRecords { work, bad, seconds } => {
            let graph = bad_records::graph(*work, *bad, *seconds, dir.path())?;
            let case = Case::new(Workload::Map, 0);
            let mut run = Run::new(&case, dir.path())?;
            // The slowest has not many records in a second.
            run.warm_up_records = 0;
            run.warm_up = Duration::from_millis(500);
            let measured = run.window(graph, Long::Seconds(*seconds))?;
            ensure!(
                (measured.left_out > 0) == (*bad != Bad::None),
                "{} records were left out",
                measured.left_out
            );
            measured
        }
        Task::Changed { case, seconds } => {
            let mut graph = job::graph(case, Backend::Wasm, &Generated::ENDLESS, dir.path())?;
            let seen = probe::changed(&mut graph, case.keys);
            let run = Run::new(case, dir.path())?;
            let mut measured = run.window(graph, Long::Seconds(*seconds))?;
            let seen = probe::take(&seen);
            for taken in &mut measured.checkpoints {
                let found = seen.iter().find(|(id, _)| *id == taken.id);
                taken.changed = found.map(|(_, changed)| *changed);
            }
            measured
        }
        Task::Lost { case, seconds } => lost(case, *seconds, dir.path())?,
        Task::Pause { case, seconds } => {
            let mut graph = job::graph(case, Backend::Wasm, &Generated::ENDLESS, dir.path())?;
            let seen = probe::steps(&mut graph);
            let mut run = Run::new(case, dir.path())?;
            let forget = Arc::clone(&seen);
            run.at_warm = Some(Box::new(move || drop(probe::take(&forget))));
            let mut measured = run.window(graph, Long::Seconds(*seconds))?;
            let seen = probe::take(&seen);
            measured.longest_steps = Spread::of(seen.iter().map(|between| between.longest()));
            let all = seen.into_iter().flat_map(|between| between.steps_us);
            measured.steps = Spread::of(all.map(f64::from));
            measured
        }
        Task::Fill { case, dir: kept } => {
            let generated = Generated {
                count: Some(case.keys),
                sequential: true,
                ..Generated::ENDLESS
            };
            let graph = job::graph(case, Backend::Wasm, &generated, dir.path())?;
            Run::new(case, kept)?.window(graph, Long::ToTheEnd)?
        }
        Task::Restore { case, dir: kept } => restore(case, kept, dir.path())?,
        Task::BareRestore { case, dir: kept } => limit::restore(case, kept)?,
    };
    measured.peak_kib = process::memory_kib("self", "VmHWM")?;
    Ok(measured)
}

/// How long the window is in which a job is measured.
#[derive(Clone, Copy)]
enum Long {
    Seconds(f64),
    /// Until this many records have come in it.
    Records(u64),
    ToTheEnd,
}

/// How a job is run.
struct Run {
    store: CheckpointStore,
    options: Options,
    restore: Option<checkpoint::Completed>,
    /// Whether words are counted, of which the source knows nothing.
    counts_written: bool,
    /// The window begins when this many records have passed, and this much time.
    warm_up_records: u64,
    warm_up: Duration,
    at_warm: Option<Box<dyn FnOnce() + Send>>,
}

/// What is seen at one moment.
#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    cpu: Duration,
    records: u64,
    recalled: u64,
}

/// Every key should be there before time is taken: most of them are after as many records as so
/// many times the keys.
fn warm_up_rounds(workload: Workload) -> u64 {
    match workload {
        // One in ten records is for the cold nine tenths.
        Workload::UpdateHot | Workload::UpdateCold => 20,
        _ => 3,
    }
}

impl Run {
    fn new(case: &Case, dir: &Path) -> Result<Self> {
        let store_options = StoreOptions::default();
        let store = match case.interval_ms {
            None => CheckpointStore::memory(store_options),
            Some(_) => CheckpointStore::open(
                &dir.join("checkpoints").to_string_lossy(),
                "bench",
                store_options,
            )?,
        };
        let options = Options {
            name: "bench".into(),
            id: "bench".into(),
            run: "bench".into(),
            checkpoint: Settings {
                interval_ms: case.interval_ms,
                ..Settings::default()
            },
            mode: Mode::ExactlyOnce,
            incremental: true,
            restart: Strategy::None,
            timer_calls_max: runtime::TIMER_CALLS_MAX,
        };
        Ok(Self {
            store,
            options,
            restore: None,
            counts_written: case.workload == Workload::Words,
            warm_up_records: (warm_up_rounds(case.workload) * case.keys).max(1_000_000),
            warm_up: Duration::ZERO,
            at_warm: None,
        })
    }

    /// Runs until the window is over, or the input.
    fn window(self, graph: JobGraph, long: Long) -> Result<Measured> {
        let clock = Arc::new(SystemClock::new());
        let job = Job::new(graph, self.options, self.store, self.restore, clock);
        let handle = job.handle();
        let counts_written = self.counts_written;
        let look = move |handle: &JobHandle| -> Result<Look> {
            let (read, written) = handle.records();
            Ok(Look {
                at: Instant::now(),
                cpu: process::cpu()?,
                records: if counts_written { written } else { read },
                recalled: handle.recalled(),
            })
        };
        let over = Arc::new(AtomicBool::new(false));
        let first = look(&handle)?;
        let watcher = {
            let (handle, over) = (handle.clone(), Arc::clone(&over));
            let (records, time) = (self.warm_up_records, self.warm_up);
            let at_warm = self.at_warm;
            thread::spawn(move || -> Result<(Look, Option<Look>)> {
                if matches!(long, Long::ToTheEnd) {
                    return Ok((first, None));
                }
                let watch = |until: &dyn Fn() -> bool| {
                    while !over.load(Ordering::Acquire) && !until() {
                        thread::sleep(Duration::from_millis(5));
                    }
                };
                watch(&|| handle.records().0 >= records && first.at.elapsed() >= time);
                at_warm.into_iter().for_each(|at_warm| at_warm());
                let start = look(&handle)?;
                watch(&|| match long {
                    Long::Seconds(seconds) => start.at.elapsed().as_secs_f64() >= seconds,
                    Long::Records(records) => handle.records().0 >= start.records + records,
                    Long::ToTheEnd => false,
                });
                let end = look(&handle)?;
                handle.cancel();
                Ok((start, Some(end)))
            })
        };
        let mut taken = Vec::new();
        let outcome = job.run(|event| {
            if let JobEvent::CheckpointCompleted {
                id,
                duration_ms,
                bytes,
                phases,
                ..
            } = event
            {
                let checkpoint = Taken {
                    id,
                    ms: duration_ms,
                    bytes,
                    phases: Phases::from(&*phases),
                    changed: None,
                };
                taken.push((Instant::now(), checkpoint));
            }
        });
        let last = look(&handle)?;
        over.store(true, Ordering::Release);
        let watched = watcher.join();
        match outcome {
            Outcome::Finished | Outcome::Cancelled => {}
            Outcome::Failed { error, .. } => {
                return Err(anyhow::Error::from(*error)).context("the job failed");
            }
            other => bail!("the job ended as {other:?}"),
        }
        let (start, end) = match watched {
            Ok(watched) => watched?,
            Err(_) => bail!("the thread that watches the job panicked"),
        };
        let end = end.unwrap_or(last);
        ensure!(end.records > start.records, "no record was read in time");
        let in_window = |(at, _): &(Instant, Taken)| *at > start.at && *at <= end.at;
        Ok(Measured {
            records: end.records - start.records,
            wall_s: (end.at - start.at).as_secs_f64(),
            cpu_s: (end.cpu - start.cpu).as_secs_f64(),
            recalled: end.recalled - start.recalled,
            left_out: handle.bad_records().iter().map(|it| it.left_out).sum(),
            checkpoints: taken
                .into_iter()
                .filter(in_window)
                .map(|(_, taken)| taken)
                .collect(),
            ..Measured::default()
        })
    }
}

/// Seconds with and without a checkpoint in turn: the machine drifts more from one run to the next than
/// a checkpoint costs, and less from one second to the next.
fn lost(case: &Case, seconds: f64, dir: &Path) -> Result<Measured> {
    const SECOND: Duration = Duration::from_secs(1);
    let graph = job::graph(case, Backend::Wasm, &Generated::ENDLESS, dir)?;
    let run = Run::new(case, dir)?;
    let warm_up = run.warm_up_records;
    let clock = Arc::new(SystemClock::new());
    let job = Job::new(graph, run.options, run.store, run.restore, clock);
    let handle = job.handle();
    let over = Arc::new(AtomicBool::new(false));
    let watcher = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            let is_over = || over.load(Ordering::Acquire);
            while handle.records().0 < warm_up && !is_over() {
                thread::sleep(Duration::from_millis(5));
            }
            // Not the first one, because it writes everything.
            handle.trigger_checkpoint();
            thread::sleep(SECOND);
            let with = seconds.max(4.0) as usize;
            let mut rates = Vec::new();
            for second in 0..=2 * with {
                let (start, (read, _)) = (Instant::now(), handle.records());
                if second % 2 == 1 {
                    handle.trigger_checkpoint();
                }
                while start.elapsed() < SECOND && !is_over() {
                    thread::sleep(Duration::from_millis(5));
                }
                rates.push((handle.records().0 - read) as f64 / start.elapsed().as_secs_f64());
            }
            handle.cancel();
            rates
        })
    };
    let mut taken = 0;
    let outcome = job.run(|event| {
        taken += usize::from(matches!(event, JobEvent::CheckpointCompleted { .. }));
    });
    over.store(true, Ordering::Release);
    let Ok(rates) = watcher.join() else {
        bail!("the thread that watches the job panicked")
    };
    ensure!(
        matches!(outcome, Outcome::Cancelled),
        "the job ended as {outcome:?}"
    );
    // Before, with and after a checkpoint.
    let lost: Vec<f64> = rates
        .windows(3)
        .step_by(2)
        .map(|rates| (1.0 - 2.0 * rates[1] / (rates[0] + rates[2])) * 100.0)
        .collect();
    ensure!(
        taken > lost.len(),
        "only {taken} checkpoints were completed in {} seconds",
        rates.len()
    );
    Ok(Measured {
        lost,
        ..Measured::default()
    })
}

/// From the call to the first record that a source has read.
fn restore(case: &Case, kept: &Path, dir: &Path) -> Result<Measured> {
    let graph = job::graph(case, Backend::Wasm, &Generated::ENDLESS, dir)?;
    let spec = kept.join("checkpoints").join("bench");
    let (start, cpu) = (Instant::now(), process::cpu()?);
    let located = checkpoint::locate(&spec.to_string_lossy(), None, "bench")?;
    let mut run = Run::new(case, dir)?;
    run.restore = Some(located.checkpoint);
    run.warm_up_records = u64::MAX;
    let job = Job::new(
        graph,
        run.options,
        run.store,
        run.restore,
        Arc::new(SystemClock::new()),
    );
    let handle = job.handle();
    let mut restored = None;
    let outcome = job.run(|event| {
        if matches!(event, JobEvent::Started { .. }) {
            restored = Some((start.elapsed(), process::cpu()));
            handle.cancel();
        }
    });
    let Some((wall, cpu_after)) = restored else {
        bail!("the job did not start: {outcome:?}");
    };
    Ok(Measured {
        wall_s: wall.as_secs_f64(),
        restore_s: wall.as_secs_f64(),
        cpu_s: (cpu_after? - cpu).as_secs_f64(),
        ..Measured::default()
    })
}
