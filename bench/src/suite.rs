//! What is measured, in which order, and what comes of it.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::arguments::Arguments;
use crate::bad_records::{self, BadRecordsResult};
use crate::case::{Backend, Case, Workload};
use crate::measure::Task;
use crate::measured::{Measured, Spread, Taken};
use crate::neighbours::{self, NeighbourResult};
use crate::takeover::{self, TakeoverResult};
use crate::windows::{self, WindowsResult};
use crate::{measured, start};

/// Everything that was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Results {
    pub(crate) cases: Vec<CaseResult>,
    pub(crate) latencies: Vec<LatencyResult>,
    pub(crate) changed: Vec<ChangedResult>,
    #[serde(default)]
    pub(crate) lost: Vec<LostResult>,
    pub(crate) pauses: Vec<PauseResult>,
    pub(crate) restores: Vec<RestoreResult>,
    /// Milliseconds from start to first record, and KiB resident then.
    pub(crate) starts: Vec<(f64, u64)>,
    #[serde(default)]
    pub(crate) takeover: Option<TakeoverResult>,
    #[serde(default)]
    pub(crate) neighbours: Vec<NeighbourResult>,
    #[serde(default)]
    pub(crate) windows: Vec<WindowsResult>,
    #[serde(default)]
    pub(crate) bad_records: Vec<BadRecordsResult>,
}

/// One case on every backend, a round after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CaseResult {
    pub(crate) case: Case,
    pub(crate) wasm: Vec<Measured>,
    pub(crate) native: Vec<Measured>,
    pub(crate) limit: Vec<Measured>,
}

impl CaseResult {
    fn new(case: Case) -> Self {
        Self {
            case,
            wasm: Vec::new(),
            native: Vec::new(),
            limit: Vec::new(),
        }
    }
}

/// How late records come out at half of the highest rate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LatencyResult {
    pub(crate) case: Case,
    pub(crate) rate: f64,
    pub(crate) microseconds: Vec<Spread>,
}

/// What checkpoints wrote, and what had changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ChangedResult {
    pub(crate) case: Case,
    pub(crate) checkpoints: Vec<Taken>,
}

/// By how many percent a second with a checkpoint has fewer records than those beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LostResult {
    pub(crate) case: Case,
    /// Of each round, one for each checkpoint.
    pub(crate) rounds: Vec<Vec<f64>>,
}

/// How long snapshots, and the steps after them, keep a subtask from its records.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct PauseResult {
    pub(crate) case: Case,
    pub(crate) rounds: Vec<Measured>,
}

impl PauseResult {
    /// The pauses of all checkpoints, in microseconds.
    pub(crate) fn pauses(&self) -> impl Iterator<Item = f64> {
        let checkpoints = self.rounds.iter().flat_map(|round| &round.checkpoints);
        checkpoints.map(|taken| taken.phases.pause as f64)
    }
}

/// Restores beside bare ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RestoreResult {
    pub(crate) case: Case,
    pub(crate) seconds: Vec<f64>,
    pub(crate) bare_seconds: Vec<f64>,
    pub(crate) peak_kib: u64,
}

const THOUSAND: u64 = 1000;
const MILLION: u64 = 1_000_000;

/// The cases of a run. Those for which there is a target come in every run.
pub(crate) fn cases(full: bool) -> Vec<Case> {
    use Workload::{Count, CountZipf, Filter, Flights, Map, Read, Words};
    use Workload::{Update1k, Update100, UpdateCold, UpdateHot};
    let mut cases = vec![
        Case::new(Map, 0),
        Case::new(Count, THOUSAND),
        Case::new(Count, MILLION),
        Case::new(Count, MILLION).every(1000),
        Case::new(Count, MILLION).parallel(2),
        Case::new(Count, 10 * MILLION).every(1000),
        Case::new(UpdateHot, MILLION),
        Case::new(UpdateCold, MILLION),
        Case::new(Words, 0),
    ];
    if full {
        cases.extend([
            Case::new(Filter, 0),
            Case::new(Read, MILLION),
            Case::new(Read, MILLION).every(1000),
            Case::new(Count, THOUSAND).every(1000),
            Case::new(Count, THOUSAND).parallel(2),
            Case::new(Count, MILLION).every(100),
            Case::new(Count, MILLION).every(10_000),
            Case::new(Count, 10 * MILLION),
            Case::new(Count, 10 * MILLION).every(10_000),
            Case::new(CountZipf, MILLION),
            Case::new(CountZipf, MILLION).every(1000),
            Case::new(Update100, MILLION),
            Case::new(Update100, MILLION).every(1000),
            Case::new(Update1k, 100 * THOUSAND),
            Case::new(Update1k, 100 * THOUSAND).every(1000),
            Case::new(Words, 0).every(1000),
            Case::new(Words, 0).parallel(2),
            Case::new(Flights, 0),
            Case::new(Flights, 0).every(1000),
        ]);
    }
    cases
}

/// Measures what `arguments` ask for.
pub(crate) fn run(arguments: &Arguments) -> Result<Results> {
    let mut results = Results::default();
    let mut wanted = cases(arguments.full);
    wanted.retain(|case| arguments.wants(case.workload.name()));
    for group in groups(wanted) {
        results.cases.extend(compare(group, arguments)?);
    }
    if arguments.wants("latency") {
        for case in [
            Case::new(Workload::Count, MILLION),
            Case::new(Workload::Count, MILLION).every(1000),
        ] {
            results.latencies.push(latency(&case, arguments)?);
        }
    }
    if arguments.wants("changed") {
        for keys in [MILLION, 10 * MILLION] {
            let case = Case::new(Workload::Count, keys).every(1000);
            tell("bytes written and changed", &case);
            let seconds = arguments.seconds.max(5.0);
            let seen = measured(&Task::Changed {
                case: case.clone(),
                seconds,
            })?;
            results.changed.push(ChangedResult {
                case,
                checkpoints: seen.checkpoints,
            });
        }
    }
    if arguments.wants("lost") {
        for workload in [Workload::Count, Workload::Read] {
            // None but those that are asked for.
            let case = Case::new(workload, MILLION).every(600_000);
            tell("records lost to a checkpoint a second", &case);
            let task = Task::Lost {
                case: case.clone(),
                seconds: 2.0 * arguments.seconds,
            };
            let rounds = (0..arguments.rounds).map(|_| Ok(measured(&task)?.lost));
            let rounds = rounds.collect::<Result<_>>()?;
            results.lost.push(LostResult { case, rounds });
        }
    }
    if arguments.wants("pause") {
        for keys in [MILLION, 10 * MILLION] {
            let case = Case::new(Workload::Count, keys).every(100);
            results.pauses.push(pause(&case, arguments)?);
        }
    }
    if arguments.wants("restore") {
        for keys in [MILLION, 10 * MILLION] {
            let case = Case::new(Workload::Count, keys).every(600_000);
            results.restores.push(restore(&case, arguments)?);
        }
    }
    if arguments.wants("start") {
        let dir = tempfile::tempdir()?;
        // The first one fills the cache of compiled components.
        start::run(dir.path())?;
        for _ in 0..arguments.rounds.max(5) {
            let started = start::run(dir.path())?;
            results.starts.push((started.ms, started.resident_kib));
        }
    }
    if arguments.wants("takeover") {
        eprintln!("a standby takes over from an owner that is killed, and from one that hangs");
        results.takeover = Some(takeover::run(arguments.rounds.max(5))?);
    }
    if arguments.wants("neighbours") {
        for misdeed in neighbours::MISDEEDS {
            eprintln!("nine good jobs beside one that does `{misdeed}`");
            let result = neighbours::run(misdeed, arguments.rounds, arguments.seconds)?;
            results.neighbours.push(result);
        }
    }
    if arguments.wants("windows") {
        results.windows = windows::run(arguments.rounds)?;
    }
    if arguments.wants("bad-records") {
        results.bad_records = bad_records::run(arguments.rounds, arguments.seconds)?;
    }
    Ok(results)
}

fn tell(what: &str, case: &Case) {
    eprintln!(
        "{what}: {}, {} keys, parallelism {}, checkpoints {}",
        case.workload.name(),
        case.size(),
        case.parallelism,
        case.checkpoints(),
    );
}

/// The cases of the same records and keys together: what differs is their interval, parallelism or memory,
/// and they are compared with each other.
fn groups(cases: Vec<Case>) -> Vec<Vec<Case>> {
    let mut groups: Vec<Vec<Case>> = Vec::new();
    for case in cases {
        let same = |group: &&mut Vec<Case>| {
            (group[0].workload.records(), group[0].keys) == (case.workload.records(), case.keys)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(case),
            None => groups.push(vec![case]),
        }
    }
    groups
}

/// Measures cases in turn, round after round.
fn compare(cases: Vec<Case>, arguments: &Arguments) -> Result<Vec<CaseResult>> {
    let mut results: Vec<CaseResult> = cases.into_iter().map(CaseResult::new).collect();
    for round in 0..arguments.rounds {
        for result in &mut results {
            let case = &result.case;
            tell(&format!("round {}", round + 1), case);
            let throughput = |backend| {
                measured(&Task::Throughput {
                    case: case.clone(),
                    backend,
                    seconds: arguments.seconds,
                })
            };
            result.wasm.push(throughput(Backend::Wasm)?);
            result.native.push(throughput(Backend::Native)?);
            // There is no bare loop for text, nor for what it would not do: checkpoints, several
            // threads, a budget of memory.
            let limited = !case.workload.reads_files()
                && case.workload != Workload::UpdateCold
                && case.interval_ms.is_none()
                && case.parallelism == 1;
            if limited {
                result.limit.push(throughput(Backend::Limit)?);
            }
        }
    }
    Ok(results)
}

fn pause(case: &Case, arguments: &Arguments) -> Result<PauseResult> {
    tell("pauses of snapshots", case);
    // Long enough for many of them.
    let task = Task::Pause {
        case: case.clone(),
        seconds: arguments.seconds.max(5.0),
    };
    let rounds = (0..arguments.rounds).map(|_| measured(&task));
    Ok(PauseResult {
        case: case.clone(),
        rounds: rounds.collect::<Result<_>>()?,
    })
}

fn latency(case: &Case, arguments: &Arguments) -> Result<LatencyResult> {
    tell("latency at half of the highest rate", case);
    let highest = measured(&Task::Throughput {
        case: case.clone(),
        backend: Backend::Wasm,
        seconds: arguments.seconds,
    })?;
    let rate = highest.per_second() / 2.0;
    let mut microseconds = Vec::new();
    for _ in 0..arguments.rounds {
        let seen = measured(&Task::Latency {
            case: case.clone(),
            backend: Backend::Wasm,
            rate,
            seconds: arguments.seconds,
        })?;
        microseconds.extend(seen.latency);
    }
    Ok(LatencyResult {
        case: case.clone(),
        rate,
        microseconds,
    })
}

fn restore(case: &Case, arguments: &Arguments) -> Result<RestoreResult> {
    tell("restore", case);
    let dir = tempfile::tempdir()?;
    measured(&Task::Fill {
        case: case.clone(),
        dir: dir.path().to_owned(),
    })?;
    let task = |dir: &Path| Task::Restore {
        case: case.clone(),
        dir: dir.to_owned(),
    };
    let mut result = RestoreResult {
        case: case.clone(),
        seconds: Vec::new(),
        bare_seconds: Vec::new(),
        peak_kib: 0,
    };
    for _ in 0..arguments.rounds {
        let seen = measured(&task(dir.path()))?;
        result.seconds.push(seen.restore_s);
        result.peak_kib = result.peak_kib.max(seen.peak_kib);
        let bare = measured(&Task::BareRestore {
            case: case.clone(),
            dir: dir.path().to_owned(),
        })?;
        result.bare_seconds.push(bare.restore_s);
    }
    Ok(result)
}
