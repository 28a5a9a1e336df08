//! A stream in which one record of a hundred is bad, beside the same one without: what is left of its speed.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use runtime::JobGraph;
use serde::{Deserialize, Serialize};

use crate::figures::{paired, spread};
use crate::job::component;
use crate::measure::Task;
use crate::measured;
use crate::measured::Measured;
use crate::targets::Target;

/// Keys of the records; those of one of them are bad.
const KEYS: u64 = 100;

/// What the operator does at a bad record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bad {
    /// Nothing: it hands it on as all others.
    None,
    /// It returns an error, which names the record.
    Error,
    /// The same, and a record is tried alone only once.
    ErrorTriedOnce,
    /// It traps.
    Trap,
}

impl Bad {
    pub(crate) const ALL: [Self; 4] = [Self::None, Self::Error, Self::ErrorTriedOnce, Self::Trap];

    fn operator(self) -> String {
        let (misdeed, more) = match self {
            Self::None => ("none", ""),
            Self::Error => ("error", ""),
            Self::ErrorTriedOnce => ("error", "retries = 1\n"),
            Self::Trap => ("trap", ""),
        };
        format!(
            "component = {:?}\nconfig = {{ misdeed = {misdeed:?}, on = \"k42\" }}\non-error = \"skip\"\n{more}",
            component("faulty")
        )
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "no bad records",
            Self::Error => "errors",
            Self::ErrorTriedOnce => "errors, `retries = 1`",
            Self::Trap => "traps",
        }
    }
}

/// Each in turn, a round after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct BadRecordsResult {
    pub(crate) bad: Bad,
    pub(crate) runs: Vec<Measured>,
}

/// Measures all of them.
pub(crate) fn run(rounds: usize, seconds: f64) -> Result<Vec<BadRecordsResult>> {
    let mut results = Bad::ALL.map(|bad| BadRecordsResult {
        bad,
        runs: Vec::new(),
    });
    for round in 0..rounds {
        for result in &mut results {
            let bad = result.bad;
            eprintln!(
                "round {}: one record of a hundred is bad, {bad:?}",
                round + 1
            );
            let task = Task::BadRecords { bad, seconds };
            result.runs.push(measured(&task)?);
        }
    }
    Ok(results.into())
}

/// The graph of a job without end.
pub(crate) fn graph(bad: Bad, dir: &Path) -> Result<JobGraph> {
    let path = dir.join("job.toml");
    let text = format!(
        "[job]\nname = \"bad-records\"\nparallelism = 1\n\n\
         [[source]]\nid = \"records\"\nconnector = \"generator\"\nkeys = {KEYS}\nvalue-size = 100\n\n\
         [[operator]]\nid = \"op\"\ninput = \"records\"\n{}\n\
         [[sink]]\nid = \"nothing\"\nconnector = \"discard\"\ninput = \"op\"\n",
        bad.operator()
    );
    std::fs::write(&path, text)?;
    host::graph(&path)
}

fn runs(results: &[BadRecordsResult], bad: Bad) -> &[Measured] {
    let result = results.iter().find(|result| result.bad == bad);
    result.map_or(&[], |result| &result.runs)
}

/// What they cost.
pub(crate) fn write(results: &[BadRecordsResult], text: &mut String) -> Result<()> {
    if results.is_empty() {
        return Ok(());
    }
    text.push_str(
        "\nOne record of a hundred is bad and left out, records of 100 bytes, an operator that only hands them on, \
         medians of the rounds with their ends.\n\n\
         | bad records | records per second, M | to none | for each bad record, µs of processor time |\n\
         |---|---:|---:|---:|\n",
    );
    let clean = runs(results, Bad::None);
    for BadRecordsResult { bad, runs } in results {
        let to_none: Vec<f64> = paired(runs, clean, Measured::per_second).collect();
        let each = runs.iter().zip(clean).map(|(run, clean)| {
            let of_record = |run: &Measured| run.cpu_s / run.records as f64;
            1e6 * KEYS as f64 * (of_record(run) - of_record(clean))
        });
        let speed: Vec<f64> = runs.iter().map(|run| run.per_second() / 1e6).collect();
        writeln!(
            text,
            "| {} | {} | {} × | {} |",
            bad.name(),
            spread(&speed, 2),
            spread(&to_none, 3),
            spread(&each.collect::<Vec<f64>>(), 0),
        )?;
    }
    Ok(())
}

/// What is promised of them.
pub(crate) fn targets(results: &[BadRecordsResult]) -> Vec<Target> {
    let to_none = |bad| {
        let (of, clean) = (runs(results, bad), runs(results, Bad::None));
        paired(of, clean, Measured::per_second).collect()
    };
    vec![
        Target::at_least(
            "one record of a hundred is an error, to a stream without",
            0.5,
            to_none(Bad::Error),
            "×",
        ),
        Target::at_least(
            "one record of a hundred traps, to a stream without",
            0.1,
            to_none(Bad::Trap),
            "×",
        ),
    ]
}
