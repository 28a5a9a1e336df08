//! What is promised, and whether it holds.

use std::fmt::Write as _;

use anyhow::Result;

use crate::case::{Case, Workload};
use crate::figures::{ends, median, paired, ratios, shown};
use crate::measured::{Measured, Spread};
use crate::suite::Results;
use crate::{bad_records, windows};

/// A figure that is promised.
pub(crate) struct Target {
    pub(crate) what: String,
    wanted: String,
    pub(crate) figure: f64,
    /// Of the rounds, where there are several.
    pub(crate) ends: Option<(f64, f64)>,
    pub(crate) holds: bool,
    unit: &'static str,
}

impl Target {
    pub(crate) fn at_least(
        what: impl Into<String>,
        least: f64,
        rounds: Vec<f64>,
        unit: &'static str,
    ) -> Self {
        let holds = move |figure| figure >= least;
        Self::new(what.into(), format!("≥ {least}"), holds, rounds, unit)
    }

    pub(crate) fn at_most(
        what: impl Into<String>,
        most: f64,
        rounds: Vec<f64>,
        unit: &'static str,
    ) -> Self {
        let holds = move |figure| figure <= most;
        Self::new(what.into(), format!("≤ {most}"), holds, rounds, unit)
    }

    fn new(
        what: String,
        wanted: String,
        holds: impl Fn(f64) -> bool,
        rounds: Vec<f64>,
        unit: &'static str,
    ) -> Self {
        let ends = ends(&rounds);
        let figure = median(rounds);
        Self {
            what,
            wanted,
            figure,
            ends,
            holds: holds(figure),
            unit,
        }
    }
}

/// The table of all of them for which there are figures.
pub(crate) fn write(results: &Results, text: &mut String) -> Result<()> {
    text.push_str("| target | wanted | measured | |\n|---|---:|---:|---|\n");
    for target in all(results) {
        if target.figure.is_nan() {
            continue;
        }
        let of_rounds = match target.ends {
            Some((low, high)) => format!(" ({low:.2}–{high:.2})"),
            None => String::new(),
        };
        writeln!(
            text,
            "| {} | {} {} | {}{of_rounds} | {} |",
            target.what,
            target.wanted,
            target.unit,
            shown(target.figure, 2),
            if target.holds { "holds" } else { "short" },
        )?;
    }
    Ok(())
}

pub(crate) fn all(results: &Results) -> Vec<Target> {
    const THOUSAND: u64 = 1000;
    const MILLION: u64 = 1_000_000;
    let find = |case: Case| results.cases.iter().find(|result| result.case == case);
    let per_core = |case: Case| {
        let runs = find(case).map(|result| result.wasm.as_slice());
        let runs = runs.unwrap_or_default().iter();
        runs.map(|run| run.per_core() / 1e6).collect()
    };
    let to_native = |case: Case| {
        find(case).map_or_else(Vec::new, |result| {
            ratios(&result.wasm, &result.native).collect()
        })
    };
    // Round by round too: the cases of one workload and size are measured in turn.
    let to = |of: Case, to: Case| match (find(of), find(to)) {
        (Some(of), Some(to)) => paired(&of.wasm, &to.wasm, Measured::per_second).collect(),
        _ => Vec::new(),
    };
    // Round by round the middle of its checkpoints.
    let lost = |workload| -> Vec<f64> {
        let all = results.lost.iter();
        let of = all.filter(|result| result.case.workload == workload);
        let rounds = of.flat_map(|result| &result.rounds);
        rounds.map(|round| median(round.iter().copied())).collect()
    };
    let count = |keys| Case::new(Workload::Count, keys);
    // The first checkpoint of a window may still be that of filling the table.
    let written = results.changed.iter().map(|result| {
        let factors = result.checkpoints.iter().filter_map(|taken| {
            let changed = taken.changed.filter(|changed| *changed > 0)?;
            Some(taken.bytes as f64 / (changed * result.case.workload.entry_bytes()) as f64)
        });
        let what = format!("bytes written / changed, {} keys", result.case.size());
        Target::at_most(what, 1.3, vec![median(factors)], "×")
    });
    let pauses = results.pauses.iter().map(|result| {
        // Of all rounds together: one has few.
        let p99 = Spread::of(result.pauses()).map(|pause| pause.p99 / 1e3);
        let what = format!("snapshot pause, {} keys, p99", result.case.size());
        Target::at_most(what, 1.0, p99.into_iter().collect(), "ms")
    });
    let restores = results.restores.iter().flat_map(|result| {
        let to_bare = result.seconds.iter().zip(&result.bare_seconds);
        let to_bare = to_bare.map(|(seconds, bare)| seconds / bare).collect();
        let what = format!("restore of {} keys", result.case.size());
        let bound = (result.case.keys == 10 * MILLION)
            .then(|| Target::at_most(what.clone(), 3.0, result.seconds.clone(), "s"));
        let ratio = Target::at_most(format!("{what}, to a bare one"), 2.0, to_bare, "×");
        bound.into_iter().chain([ratio])
    });
    let starts = [
        Target::at_most(
            "process start to first record",
            50.0,
            results.starts.iter().map(|(ms, _)| *ms).collect(),
            "ms",
        ),
        Target::at_most(
            "resident then",
            60.0,
            results
                .starts
                .iter()
                .map(|(_, kib)| *kib as f64 / 1024.0)
                .collect(),
            "MiB",
        ),
    ];
    let takeovers = results.takeover.iter().flat_map(|result| {
        let lease = result.lease_ms;
        let beyond = result.silent_ms.iter().map(|gap| gap - lease).collect();
        [
            // Each of them: a service is judged by its worst.
            Target::at_most(
                "takeover of a killed owner whose lock tells, the longest",
                500.0,
                longest(result.killed_ms.clone()),
                "ms",
            ),
            Target::at_most(
                "takeover of one that is silent, beyond its lease time, the longest",
                500.0,
                longest(beyond),
                "ms",
            ),
        ]
    });
    let per = "M/s per core";
    [
        Target::at_least(
            "count, 1 M keys, a checkpoint every second",
            8.0,
            per_core(count(MILLION).every(1000)),
            per,
        ),
        Target::at_least(
            "the same, to its native twin",
            0.6,
            to_native(count(MILLION).every(1000)),
            "×",
        ),
        Target::at_least("count, 1 k keys", 15.0, per_core(count(THOUSAND)), per),
        Target::at_least(
            "the same, to its native twin",
            0.5,
            to_native(count(THOUSAND)),
            "×",
        ),
        Target::at_least(
            "count, 10 M keys, a checkpoint every second",
            5.0,
            per_core(count(10 * MILLION).every(1000)),
            per,
        ),
        Target::at_least(
            "stateless map, 100-byte records",
            20.0,
            per_core(Case::new(Workload::Map, 0)),
            per,
        ),
        Target::at_least(
            "word count on real text, words",
            8.0,
            per_core(Case::new(Workload::Words, 0)),
            per,
        ),
        Target::at_most(
            "throughput lost to a checkpoint every second, all of 1 M keys changing",
            10.0,
            lost(Workload::Count),
            "%",
        ),
        Target::at_most("the same, nothing changing", 1.0, lost(Workload::Read), "%"),
        Target::at_least(
            "state of 4 × the budget, 90 % of accesses to 10 % of keys, to all in memory",
            0.3,
            to(
                Case::new(Workload::UpdateCold, MILLION),
                Case::new(Workload::UpdateHot, MILLION),
            ),
            "×",
        ),
        Target::at_least(
            "parallelism 2 to parallelism 1",
            1.7,
            to(count(MILLION).parallel(2), count(MILLION)),
            "×",
        ),
    ]
    .into_iter()
    .chain(written)
    .chain(pauses)
    .chain(restores)
    .chain(starts)
    .chain(takeovers)
    .chain(windows::targets(&results.windows))
    .chain(bad_records::targets(&results.bad_records))
    .collect()
}

fn longest(rounds: Vec<f64>) -> Vec<f64> {
    rounds
        .into_iter()
        .max_by(f64::total_cmp)
        .into_iter()
        .collect()
}
