//! A stream in which one record of a hundred is bad, beside the same one without: what is left of its speed.

use std::fmt::Write as _;
use std::fs;
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

/// Orders of a file, and the most that are read in a second.
const ORDERS: u64 = 100 * 1000;
const ORDERS_PER_SECOND: f64 = 3e6;

/// What the operator does with records that are not bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// It hands them on.
    None,
    /// It reads them: orders as JSON, of a file.
    Orders,
}

impl Work {
    const ALL: [Self; 2] = [Self::None, Self::Orders];

    fn name(self) -> &'static str {
        match self {
            Self::None => "hands on",
            Self::Orders => "reads JSON",
        }
    }

    /// The keys of the source; makes its files.
    fn source(self, seconds: f64, dir: &Path) -> Result<String> {
        if self == Self::None {
            return Ok(format!(
                "connector = \"generator\"\nkeys = {KEYS}\nvalue-size = 100\n"
            ));
        }
        let mut text = String::new();
        for number in 0..ORDERS {
            // Each customer in turn would let bad records come at equal distances.
            let customer = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            let customer = customer % KEYS;
            writeln!(
                text,
                r#"{{"number":{number},"customer":"k{customer}","article":"a-{}","amount":{}.5,"at":"2026-01-01T00:00:00Z"}}"#,
                number % 977,
                number % 101,
            )?;
        }
        let orders = dir.join("orders");
        fs::create_dir(&orders)?;
        let first = orders.join("0.json");
        fs::write(&first, text)?;
        // The same file under as many names as it takes: it must not end while it is measured.
        let files = ((1.0 + seconds) * ORDERS_PER_SECOND / ORDERS as f64).ceil() as u64;
        for file in 1..files {
            fs::hard_link(&first, orders.join(format!("{file}.json")))?;
        }
        Ok(
            "connector = \"file\"\npath = \"orders/*.json\"\nformat = \"json-lines\"\nkey = \"customer\"\n"
                .to_owned(),
        )
    }
}

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

    fn operator(self, work: Work) -> String {
        let (misdeed, more) = match self {
            Self::None => ("none", ""),
            Self::Error => ("error", ""),
            Self::ErrorTriedOnce => ("error", "retries = 1\n"),
            Self::Trap => ("trap", ""),
        };
        format!(
            "component = {:?}\nconfig = {{ misdeed = {misdeed:?}, on = \"k42\", reads-orders = {} }}\n\
             on-error = \"skip\"\n{more}",
            component("faulty"),
            work == Work::Orders
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
    pub(crate) work: Work,
    pub(crate) bad: Bad,
    pub(crate) runs: Vec<Measured>,
}

/// Measures all of them.
pub(crate) fn run(rounds: usize, seconds: f64) -> Result<Vec<BadRecordsResult>> {
    let each = |work| Bad::ALL.map(|bad| (work, bad));
    let mut results: Vec<_> = Work::ALL
        .into_iter()
        .flat_map(each)
        .map(|(work, bad)| BadRecordsResult {
            work,
            bad,
            runs: Vec::new(),
        })
        .collect();
    for round in 0..rounds {
        for BadRecordsResult { work, bad, runs } in &mut results {
            eprintln!(
                "round {}: one record of a hundred is bad, {work:?}, {bad:?}",
                round + 1
            );
            let (work, bad) = (*work, *bad);
            runs.push(measured(&Task::BadRecords { work, bad, seconds })?);
        }
    }
    Ok(results)
}

/// The graph of a job without end.
pub(crate) fn graph(work: Work, bad: Bad, seconds: f64, dir: &Path) -> Result<JobGraph> {
    let path = dir.join("job.toml");
    let text = format!(
        "[job]\nname = \"bad-records\"\nparallelism = 1\n\n\
         [[source]]\nid = \"records\"\n{}\n\
         [[operator]]\nid = \"op\"\ninput = \"records\"\n{}\n\
         [[sink]]\nid = \"nothing\"\nconnector = \"discard\"\ninput = \"op\"\n",
        work.source(seconds, dir)?,
        bad.operator(work)
    );
    fs::write(&path, text)?;
    host::graph(&path)
}

fn runs(results: &[BadRecordsResult], work: Work, bad: Bad) -> &[Measured] {
    let result = results
        .iter()
        .find(|result| (result.work, result.bad) == (work, bad));
    result.map_or(&[], |result| &result.runs)
}

/// What they cost.
pub(crate) fn write(results: &[BadRecordsResult], text: &mut String) -> Result<()> {
    if results.is_empty() {
        return Ok(());
    }
    text.push_str(
        "\nOne record of a hundred is bad and left out, records of about 100 bytes, medians of the rounds with their \
         ends.\n\n\
         | operator | bad records | records per second, M | to none | for each bad record, µs of processor time |\n\
         |---|---|---:|---:|---:|\n",
    );
    for BadRecordsResult { work, bad, runs } in results {
        let clean = self::runs(results, *work, Bad::None);
        let to_none: Vec<f64> = paired(runs, clean, Measured::per_second).collect();
        let each = runs.iter().zip(clean).map(|(run, clean)| {
            let of_record = |run: &Measured| run.cpu_s / run.records as f64;
            1e6 * KEYS as f64 * (of_record(run) - of_record(clean))
        });
        let speed: Vec<f64> = runs.iter().map(|run| run.per_second() / 1e6).collect();
        writeln!(
            text,
            "| {} | {} | {} | {} × | {} |",
            work.name(),
            bad.name(),
            spread(&speed, 2),
            spread(&to_none, 3),
            spread(&each.collect::<Vec<f64>>(), 0),
        )?;
    }
    Ok(())
}

/// What is promised of them, where the operator does something: by one that only hands records on, what a bad record
/// costs is to be seen alone.
pub(crate) fn targets(results: &[BadRecordsResult]) -> Vec<Target> {
    let to_none = |bad| {
        let runs = |bad| runs(results, Work::Orders, bad);
        paired(runs(bad), runs(Bad::None), Measured::per_second).collect()
    };
    vec![
        Target::at_least(
            "one order of a hundred is an error, to a stream without",
            0.5,
            to_none(Bad::Error),
            "×",
        ),
        Target::at_least(
            "one order of a hundred traps, to a stream without",
            0.1,
            to_none(Bad::Trap),
            "×",
        ),
    ]
}
