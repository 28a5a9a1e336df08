//! Results as tables.

use std::fmt::Write as _;

use anyhow::Result;

use crate::case::{Case, Workload};
use crate::figures::{median, middle, millions, ratios, shown, spread};
use crate::measured::{Measured, Phases, Spread, Taken};
use crate::suite::{CaseResult, PauseResult, Results};
use crate::targets;
use crate::{bad_records, windows};

/// Bytes of memory for each key, beyond what a job with few keys takes; not a number where that was not
/// measured, or not every key has come.
fn bytes_per_entry(results: &Results, result: &CaseResult) -> f64 {
    const FEW: u64 = 1000;
    let case = &result.case;
    let counted = case.workload.entry_bytes() > 0 && case.workload != Workload::CountZipf;
    let few = Case::new(Workload::Count, FEW).parallel(case.parallelism);
    let few = results.cases.iter().find(|result| result.case == few);
    match few.filter(|_| counted && case.keys >= 100 * FEW) {
        Some(few) => {
            let peak_kib = |run: &Measured| run.peak_kib as f64;
            let more = middle(&result.wasm, peak_kib) - middle(&few.wasm, peak_kib);
            more * 1024.0 / case.keys as f64
        }
        None => f64::NAN,
    }
}

/// All of it, for a person.
pub(crate) fn text(results: &Results) -> Result<String> {
    let mut text = String::new();
    if !results.cases.is_empty() {
        cases(results, &mut text)?;
        checkpoints(results, &mut text)?;
    }
    for result in &results.pauses {
        pauses(result, &mut text)?;
    }
    for result in results
        .cases
        .iter()
        .filter(|result| result.case.workload == Workload::UpdateCold)
    {
        writeln!(
            text,
            "- {}: {} keys read back per record (their files in the page cache as far as memory goes), \
             at most {} MiB in memory",
            result.case.workload.name(),
            shown(
                middle(&result.wasm, |run| run.recalled as f64 / run.records as f64),
                3
            ),
            shown(middle(&result.wasm, |run| run.peak_kib as f64 / 1024.0), 0),
        )?;
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
            spread(&restore.seconds, 2),
            spread(&restore.bare_seconds, 2),
            restore.peak_kib / 1024,
        )?;
    }
    if let Some(takeover) = &results.takeover {
        writeln!(
            text,
            "- Takeover by a standby, from the last record before to the first after: {} ms from an owner that was \
             killed, {} ms from one that hangs, with a lease of {} ms",
            spread(&takeover.killed_ms, 0),
            spread(&takeover.silent_ms, 0),
            takeover.lease_ms,
        )?;
    }
    for result in &results.neighbours {
        writeln!(
            text,
            "- Nine good jobs beside one that does `{}`: {} × their speed alone, {} × at a quarter of the \
             machine, their output is right; the bad one had at most {} MiB in memory",
            result.misdeed,
            spread(&result.speed, 2),
            spread(&result.paced, 2),
            result.bad_peak_kib / 1024,
        )?;
    }
    windows::write(&results.windows, &mut text)?;
    bad_records::write(&results.bad_records, &mut text)?;
    text.push('\n');
    targets::write(results, &mut text)?;
    Ok(text)
}

fn cases(results: &Results, text: &mut String) -> Result<()> {
    text.push_str(
        "Records in millions; per core: per second of processor time of the whole process. Medians of \
         the rounds, with their ends. Bytes per entry: the peak of memory beyond that of a job with a \
         thousand keys, over the keys; after it key + value + 16.\n\n\
         | workload | keys | parallelism | checkpoints | Wasm, per core | native | Wasm/native | \
         limit | Wasm/limit | Wasm, per second | CPU-s per million | peak MiB | MiB per million keys | \
         bytes per entry |\n\
         |---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for result in &results.cases {
        let CaseResult {
            case,
            wasm,
            native,
            limit,
        } = result;
        let per_core: Vec<f64> = wasm.iter().map(|run| run.per_core() / 1e6).collect();
        let to_native: Vec<f64> = ratios(wasm, native).collect();
        let bytes = bytes_per_entry(results, result);
        let aim = match bytes.is_nan() {
            true => String::new(),
            false => format!(" ({})", case.workload.entry_bytes() + 16),
        };
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {}{aim} |",
            case.workload.name(),
            case.size(),
            case.parallelism,
            case.checkpoints(),
            spread(&per_core, 2),
            millions(middle(native, Measured::per_core)),
            spread(&to_native, 2),
            millions(middle(limit, Measured::per_core)),
            shown(median(ratios(wasm, limit)), 2),
            millions(middle(wasm, Measured::per_second)),
            shown(1e6 / middle(wasm, Measured::per_core), 3),
            shown(middle(wasm, |run| run.peak_kib as f64 / 1024.0), 0),
            shown(bytes * 1e6 / f64::from(1 << 20), 0),
            shown(bytes, 0),
        )?;
    }
    text.push('\n');
    Ok(())
}

/// Where the time of checkpoints went.
fn checkpoints(results: &Results, text: &mut String) -> Result<()> {
    let taken = |result: &CaseResult| -> Vec<Taken> {
        // Of one without an interval it is the last one, after the end of input.
        let runs = result
            .wasm
            .iter()
            .filter(|_| result.case.interval_ms.is_some());
        runs.flat_map(|run| run.checkpoints.iter().copied())
            .collect()
    };
    if results.cases.iter().all(|result| taken(result).is_empty()) {
        return Ok(());
    }
    text.push_str(
        "Checkpoints in milliseconds, each phase as long as the subtask took that took longest; upload \
         is in the background.\n\n\
         | workload | keys | parallelism | checkpoints | how many | all, p50 | max | start delay | \
         alignment | pause, p50 | p99 | max | upload | metadata | MiB |\n\
         |---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for result in &results.cases {
        let (case, taken) = (&result.case, taken(result));
        let all = Spread::of(taken.iter().map(|taken| taken.ms as f64));
        let phase = |phase: fn(&Phases) -> u64| {
            let values = taken.iter().map(|taken| phase(&taken.phases) as f64 / 1e3);
            Spread::of(values)
        };
        let (Some(all), Some(pause)) = (all, phase(|phases| phases.pause)) else {
            continue;
        };
        let middle = |of: fn(&Phases) -> u64| shown(phase(of).map_or(f64::NAN, |it| it.p50), 2);
        let mib = taken.iter().map(|it| it.bytes as f64 / f64::from(1 << 20));
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            case.workload.name(),
            case.size(),
            case.parallelism,
            case.checkpoints(),
            taken.len(),
            shown(all.p50, 0),
            shown(all.max, 0),
            middle(|phases| phases.start_delay),
            middle(|phases| phases.alignment),
            shown(pause.p50, 3),
            shown(pause.p99, 3),
            shown(pause.max, 3),
            middle(|phases| phases.upload),
            middle(|phases| phases.metadata),
            shown(median(mib), 1),
        )?;
    }
    text.push('\n');
    Ok(())
}

fn pauses(result: &PauseResult, text: &mut String) -> Result<()> {
    let Some(pause) = Spread::of(result.pauses().map(|us| us / 1e3)) else {
        return Ok(());
    };
    let ms = |of: fn(&Measured) -> Option<Spread>, figure: fn(&Spread) -> f64| {
        let rounds = result.rounds.iter().filter_map(of);
        median(rounds.map(|spread| figure(&spread) / 1e3))
    };
    let longest = |figure| shown(ms(|round| round.longest_steps, figure), 2);
    let steps = |figure| shown(ms(|round| round.steps, figure), 2);
    writeln!(
        text,
        "- Snapshots of {} keys, {} of them: pause p50 {} ms, p99 {} ms, max {} ms; longest step of the \
         operator between two of them p50 {} ms, max {} ms, where it copies what was sealed; of all steps \
         p50 {} ms, p99 {} ms",
        result.case.size(),
        result.pauses().count(),
        shown(pause.p50, 3),
        shown(pause.p99, 3),
        shown(pause.max, 3),
        longest(|spread| spread.p50),
        longest(|spread| spread.max),
        steps(|spread| spread.p50),
        steps(|spread| spread.p99),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests;
