//! Windows and timers beside a keyed count, in turn: by what part of its speed they run, over whole panes.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use runtime::JobGraph;
use serde::{Deserialize, Serialize};

use crate::figures::{middle, paired, shown, spread};
use crate::job::component;
use crate::measure::Task;
use crate::measured;
use crate::measured::Measured;
use crate::targets::Target;

pub(crate) const KEYS: u64 = 1_000_000;
/// Records of a tumbling window, or of a slide of a sliding one: ten for each key.
const PANE: u64 = 10 * KEYS;
/// Records of the measurement, with as many panes that end in its middle.
pub(crate) const MEASURED: u64 = 2 * PANE;
/// Slides of a sliding window.
const SLICES: u64 = 10;

/// What is done with each record, whose event time is a millisecond after that of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Nothing: what making it costs.
    Nothing,
    /// Its key is counted, as by anybody who has no windows.
    Count,
    /// Its key is counted by pane.
    Tumbling,
    /// The same, with the ready-made plugin.
    Plugin,
    /// Its key is counted in windows of ten slides.
    Sliding,
    /// A timer is registered, and fires a million records later.
    Timers,
}

impl Work {
    pub(crate) const ALL: [Self; 6] = [
        Self::Nothing,
        Self::Count,
        Self::Tumbling,
        Self::Plugin,
        Self::Sliding,
        Self::Timers,
    ];

    /// Time is taken in the middle between two panes: once all keys are there, and all slices of a window.
    pub(crate) fn warm_up(self) -> u64 {
        let panes = if self == Self::Sliding { SLICES } else { 1 };
        panes * PANE + PANE / 2
    }

    fn operator(self) -> String {
        let bench = |config: String| ("bench_ops", config);
        let (plugin, config) = match self {
            Self::Nothing => bench("{ op = \"nothing\" }".into()),
            Self::Count => ("count", "{}".into()),
            Self::Tumbling => bench(format!("{{ op = \"tumbling\", size = {PANE} }}")),
            Self::Plugin => (
                "window",
                format!(
                    "{{ window = \"tumbling\", size = \"{PANE}ms\", aggregates = [\"count\"] }}"
                ),
            ),
            Self::Sliding => bench(format!(
                "{{ op = \"sliding\", size = {}, slide = {PANE} }}",
                SLICES * PANE
            )),
            Self::Timers => bench(format!("{{ op = \"timers\", size = {KEYS} }}")),
        };
        format!("component = {:?}\nconfig = {config}\n", component(plugin))
    }
}

/// Each in turn, a round after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct WindowsResult {
    pub(crate) work: Work,
    pub(crate) runs: Vec<Measured>,
}

/// Measures all of them.
pub(crate) fn run(rounds: usize) -> Result<Vec<WindowsResult>> {
    let mut results = Work::ALL.map(|work| WindowsResult {
        work,
        runs: Vec::new(),
    });
    for round in 0..rounds {
        for result in &mut results {
            eprintln!("round {}: windows and timers, {:?}", round + 1, result.work);
            result
                .runs
                .push(measured(&Task::Windows { work: result.work })?);
        }
    }
    Ok(results.into())
}

/// The graph of a job without end.
pub(crate) fn graph(work: Work, dir: &Path) -> Result<JobGraph> {
    let path = dir.join("job.toml");
    let text = format!(
        "[job]\nname = \"windows\"\nparallelism = 1\n\n\
         [[source]]\nid = \"records\"\nconnector = \"generator\"\nkeys = {KEYS}\nkey-size = 16\nvalue-size = 8\n\
         timestamp = {{ start = \"2026-01-01T00:00:00Z\", interval = \"1ms\" }}\n\
         watermark = {{ out-of-orderness = \"0s\" }}\n\n\
         [[operator]]\nid = \"op\"\ninput = \"records\"\n{}\n\
         [[sink]]\nid = \"nothing\"\nconnector = \"discard\"\ninput = \"op\"\n",
        work.operator()
    );
    std::fs::write(&path, text)?;
    host::graph(&path)
}

fn runs(results: &[WindowsResult], work: Work) -> &[Measured] {
    let result = results.iter().find(|result| result.work == work);
    result.map_or(&[], |result| &result.runs)
}

/// Nanoseconds of processor time for a record.
fn ns(run: &Measured) -> f64 {
    1e9 * run.cpu_s / run.records as f64
}

/// What they cost.
pub(crate) fn write(results: &[WindowsResult], text: &mut String) -> Result<()> {
    if results.is_empty() {
        return Ok(());
    }
    text.push_str(
        "\nWindows and timers, 1 M keys, ten records per key and pane, medians of the rounds with their ends.\n\n\
         | work | ns per record | to the count | records per second, M | peak MiB |\n|---|---:|---:|---:|---:|\n",
    );
    let count = runs(results, Work::Count);
    for WindowsResult { work, runs } in results {
        let to_count: Vec<f64> = paired(runs, count, Measured::per_core).collect();
        let each = |figure: fn(&Measured) -> f64| runs.iter().map(figure).collect::<Vec<f64>>();
        writeln!(
            text,
            "| {} | {} | {} × | {} | {} |",
            format!("{work:?}").to_lowercase(),
            spread(&each(ns), 0),
            spread(&to_count, 2),
            spread(&each(|run| run.per_second() / 1e6), 2),
            shown(middle(runs, |run| run.peak_kib as f64 / 1024.0), 0),
        )?;
    }
    Ok(())
}

/// What is promised of them.
pub(crate) fn targets(results: &[WindowsResult]) -> Vec<Target> {
    let to_count = |work| {
        let (of, count) = (runs(results, work), runs(results, Work::Count));
        paired(of, count, Measured::per_core).collect()
    };
    let nothing = runs(results, Work::Nothing);
    let counts = runs(results, Work::Count);
    let timers = runs(results, Work::Timers).iter().zip(counts).zip(nothing);
    let timers = timers
        .map(|((timers, count), nothing)| (ns(timers) - ns(nothing)) / (ns(count) - ns(nothing)));
    vec![
        Target::at_least(
            "tumbling count, ten records per key and pane, to the keyed count",
            0.35,
            to_count(Work::Tumbling),
            "×",
        ),
        Target::at_least(
            "the same with the ready-made plugin",
            0.35,
            to_count(Work::Plugin),
            "×",
        ),
        Target::at_least(
            "sliding count of ten slides, to the keyed count",
            0.2,
            to_count(Work::Sliding),
            "×",
        ),
        Target::at_most(
            "a timer registered and fired, to a counted record, without what making the record costs",
            4.0,
            timers.collect(),
            "×",
        ),
    ]
}
