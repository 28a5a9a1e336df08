//! Results as tables, and beside the targets.

use std::fmt::Write as _;

use anyhow::Result;

use crate::case::{Case, Workload};
use crate::measure::{Measured, Spread};
use crate::suite::{CaseResult, Results};

/// The middle one; not a number if there is none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn middle(runs: &[Measured], figure: fn(&Measured) -> f64) -> f64 {
    median(runs.iter().map(figure))
}

fn shown(figure: f64, digits: usize) -> String {
    if figure.is_nan() {
        "–".into()
    } else {
        format!("{figure:.digits$}")
    }
}

fn millions(figure: f64) -> String {
    shown(figure / 1e6, 2)
}

/// Round by round, for both were measured one after the other: drift of the machine cancels out.
fn ratios<'a>(of: &'a [Measured], to: &'a [Measured]) -> impl Iterator<Item = f64> + 'a {
    of.iter()
        .zip(to)
        .map(|(of, to)| of.per_core() / to.per_core())
}

/// All of it, for a person.
pub(crate) fn text(results: &Results) -> Result<String> {
    let mut text = String::new();
    if !results.cases.is_empty() {
        cases(results, &mut text)?;
    }
    for latency in &results.latencies {
        let spread = |figure: fn(&Spread) -> f64| {
            shown(median(latency.microseconds.iter().map(figure)) / 1e3, 2)
        };
        writeln!(
            text,
            "- Latency from end to end, {} {} keys, checkpoints {}, at {} M records/s (half of the highest rate): \
             p50 {} ms, p99 {} ms, max {} ms",
            latency.case.workload.name(),
            latency.case.size(),
            latency.case.checkpoints(),
            millions(latency.rate),
            spread(|spread| spread.p50),
            spread(|spread| spread.p99),
            spread(|spread| spread.max),
        )?;
    }
    for restore in &results.restores {
        writeln!(
            text,
            "- Restore of {} keys: {} s, {} s for reading its files and building a bare hash table; \
             at most {} MiB in memory",
            restore.case.size(),
            shown(median(restore.seconds.iter().copied()), 2),
            shown(median(restore.bare_seconds.iter().copied()), 2),
            restore.peak_kib / 1024,
        )?;
    }
    text.push('\n');
    targets(results, &mut text)?;
    Ok(text)
}

fn cases(results: &Results, text: &mut String) -> Result<()> {
    text.push_str(
        "Records in millions; per core: per second of processor time of the whole process. Medians; \
         of ratios also the ends.\n\n\
         | workload | keys | parallelism | checkpoints | Wasm, per core | native | Wasm/native | \
         limit | Wasm/limit | Wasm, per second | CPU-s per million | checkpoints, ms | MiB | peak MiB |\n\
         |---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for result in &results.cases {
        let CaseResult {
            case,
            wasm,
            native,
            limit,
        } = result;
        let to_native: Vec<f64> = ratios(wasm, native).collect();
        let ends = to_native
            .iter()
            .fold((f64::MAX, f64::MIN), |(low, high), ratio| {
                (low.min(*ratio), high.max(*ratio))
            });
        let checkpoints = || wasm.iter().flat_map(|run| &run.checkpoints);
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} ({}–{}) | {} | {} | {} | {} | {} | {} | {} |",
            case.workload.name(),
            case.size(),
            case.parallelism,
            case.checkpoints(),
            millions(middle(wasm, Measured::per_core)),
            millions(middle(native, Measured::per_core)),
            shown(median(to_native.iter().copied()), 2),
            shown(ends.0, 2),
            shown(ends.1, 2),
            millions(middle(limit, Measured::per_core)),
            shown(median(ratios(wasm, limit)), 2),
            millions(middle(wasm, Measured::per_second)),
            shown(1e6 / middle(wasm, Measured::per_core), 3),
            shown(median(checkpoints().map(|taken| taken.ms as f64)), 0),
            shown(
                median(checkpoints().map(|taken| taken.bytes as f64 / f64::from(1 << 20))),
                1
            ),
            shown(middle(wasm, |run| run.peak_kib as f64 / 1024.0), 0),
        )?;
    }
    text.push('\n');
    Ok(())
}

/// A figure that is promised.
struct Target {
    what: String,
    wanted: String,
    figure: f64,
    holds: bool,
    unit: &'static str,
}

impl Target {
    fn at_least(what: impl Into<String>, least: f64, figure: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            wanted: format!("≥ {least}"),
            figure,
            holds: figure >= least,
            unit,
        }
    }

    fn at_most(what: impl Into<String>, most: f64, figure: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            wanted: format!("≤ {most}"),
            figure,
            holds: figure <= most,
            unit,
        }
    }
}

fn targets(results: &Results, text: &mut String) -> Result<()> {
    text.push_str("| target | wanted | measured | |\n|---|---:|---:|---|\n");
    for target in all_targets(results) {
        if target.figure.is_nan() {
            continue;
        }
        writeln!(
            text,
            "| {} | {} {} | {} | {} |",
            target.what,
            target.wanted,
            target.unit,
            shown(target.figure, 2),
            if target.holds { "holds" } else { "short" },
        )?;
    }
    Ok(())
}

fn all_targets(results: &Results) -> Vec<Target> {
    const THOUSAND: u64 = 1000;
    const MILLION: u64 = 1_000_000;
    let find = |case: Case| results.cases.iter().find(|result| result.case == case);
    let per_core = |case: Case| {
        find(case).map_or(f64::NAN, |result| {
            middle(&result.wasm, Measured::per_core) / 1e6
        })
    };
    let to_native = |case: Case| {
        find(case).map_or(f64::NAN, |result| {
            median(ratios(&result.wasm, &result.native))
        })
    };
    let lost = |without: Case, with: Case| match (find(without), find(with)) {
        (Some(without), Some(with)) => {
            let figure = |result: &CaseResult| middle(&result.wasm, Measured::per_second);
            (1.0 - figure(with) / figure(without)) * 100.0
        }
        _ => f64::NAN,
    };
    let count = |keys| Case::new(Workload::Count, keys);
    let read = || Case::new(Workload::Read, MILLION);
    let parallel = match (find(count(MILLION)), find(count(MILLION).parallel(2))) {
        (Some(one), Some(two)) => {
            middle(&two.wasm, Measured::per_second) / middle(&one.wasm, Measured::per_second)
        }
        _ => f64::NAN,
    };
    // The first checkpoint of a window may still be that of filling the table.
    let written = results.changed.iter().map(|result| {
        let factor = median(result.checkpoints.iter().filter_map(|taken| {
            let changed = taken.changed.filter(|changed| *changed > 0)?;
            Some(taken.bytes as f64 / (changed * result.case.workload.entry_bytes()) as f64)
        }));
        let what = format!("bytes written / changed, {} keys", result.case.size());
        Target::at_most(what, 1.3, factor, "×")
    });
    let restores = results.restores.iter().flat_map(|result| {
        let seconds = median(result.seconds.iter().copied());
        let bare = median(result.bare_seconds.iter().copied());
        let what = format!("restore of {} keys", result.case.size());
        let bound = (result.case.keys == 10 * MILLION)
            .then(|| Target::at_most(what.clone(), 3.0, seconds, "s"));
        let ratio = Target::at_most(format!("{what}, to a bare one"), 2.0, seconds / bare, "×");
        bound.into_iter().chain([ratio])
    });
    let starts = [
        Target::at_most(
            "process start to first record",
            50.0,
            median(results.starts.iter().map(|(ms, _)| *ms)),
            "ms",
        ),
        Target::at_most(
            "resident then",
            60.0,
            median(results.starts.iter().map(|(_, kib)| *kib as f64 / 1024.0)),
            "MiB",
        ),
    ];
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
            lost(count(MILLION), count(MILLION).every(1000)),
            "%",
        ),
        Target::at_most(
            "the same, nothing changing",
            1.0,
            lost(read(), read().every(1000)),
            "%",
        ),
        Target::at_least("parallelism 2 to parallelism 1", 1.7, parallel, "×"),
    ]
    .into_iter()
    .chain(written)
    .chain(restores)
    .chain(starts)
    .collect()
}
