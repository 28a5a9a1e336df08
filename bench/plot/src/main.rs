//! Draws the benchmark's results, as `bench --json` writes them: `bench-plot RESULTS.json DIR`.
//!
//! `throughput.svg`: records per core of every case, Wasm beside its native twin and the bare loop.
//! `checkpoints.svg`: how long checkpoints took, from trigger to completion.
//! `phases.svg`: where that time went.
//! `pauses.svg`: how long snapshots keep a subtask from its records, and what follows on them.
//! `latency.svg`: how late records come out at half of the highest rate.
//! `memory.svg`: the peak of memory of every case.
//! `restore.svg`: restores, beside reading the files and building a bare hash table.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "it prints"
)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use plotters::prelude::*;
use serde_json::Value;

fn main() -> ExitCode {
    match draw() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-plot: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn draw() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, dir] = arguments.as_slice() else {
        bail!("usage: bench-plot RESULTS.json DIR");
    };
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
    let results: Value = serde_json::from_str(&text).with_context(|| format!("reading {file}"))?;
    let dir = Path::new(dir);
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let plots = [
        ("throughput.svg", throughput(&results)),
        ("checkpoints.svg", checkpoints(&results)),
        ("phases.svg", phases(&results)),
        ("pauses.svg", pauses(&results)),
        ("latency.svg", latency(&results)),
        ("memory.svg", memory(&results)),
        ("restore.svg", restore(&results)),
    ];
    let mut drawn = 0;
    for (name, plot) in plots {
        if !plot.bars.is_empty() {
            let path = dir.join(name);
            plot.draw(&path)
                .with_context(|| format!("drawing {}", path.display()))?;
            println!("{}", path.display());
            drawn += 1;
        }
    }
    ensure!(drawn > 0, "there is nothing to draw in {file}");
    Ok(())
}

/// Horizontal bars in groups.
struct Plot {
    title: &'static str,
    unit: &'static str,
    /// Names of the bars of a group.
    kinds: &'static [&'static str],
    /// A group's name, and a value for each kind that it has.
    bars: Vec<(String, Vec<Option<f64>>)>,
}

const COLOURS: [RGBColor; 5] = [
    RGBColor(0x2b, 0x6c, 0xb0),
    RGBColor(0xdd, 0x8b, 0x2b),
    RGBColor(0x9a, 0x9a, 0x9a),
    RGBColor(0x4a, 0x9a, 0x5a),
    RGBColor(0x8a, 0x5a, 0xa8),
];
const BAR: i32 = 13;
const GAP: i32 = 12;
const NAMES: i32 = 330;
const WIDTH: i32 = 1000;
const HEAD: i32 = 70;

impl Plot {
    fn draw(&self, path: &Path) -> Result<()> {
        let group = self.kinds.len() as i32 * BAR + GAP;
        let height = HEAD + self.bars.len() as i32 * group + GAP;
        let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
        area.draw(&Text::new(
            format!("{} ({})", self.title, self.unit),
            (10, 12),
            text(20),
        ))?;
        for (index, kind) in self.kinds.iter().enumerate() {
            let x = NAMES + index as i32 * 130;
            area.draw(&Rectangle::new(
                [(x, 44), (x + 12, 56)],
                COLOURS[index].filled(),
            ))?;
            area.draw(&Text::new(*kind, (x + 18, 44), text(13)))?;
        }
        let values = self.bars.iter().flat_map(|(_, values)| values).flatten();
        let highest = values.copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let room = f64::from(WIDTH - NAMES - 80);
        for (index, (name, values)) in self.bars.iter().enumerate() {
            let top = HEAD + index as i32 * group;
            area.draw(&Text::new(name.clone(), (10, top + 2), text(13)))?;
            for (kind, value) in values.iter().enumerate() {
                let Some(value) = value else { continue };
                let y = top + kind as i32 * BAR;
                let end = NAMES + (value / highest * room) as i32;
                area.draw(&Rectangle::new(
                    [(NAMES, y), (end, y + BAR - 2)],
                    COLOURS[kind].filled(),
                ))?;
                let label = format!("{value:.2}");
                area.draw(&Text::new(label, (end + 5, y), text(11)))?;
            }
        }
        area.present()?;
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied();
    let last = values.len().checked_sub(1)?;
    Some((at(last / 2)? + at(last.div_ceil(2))?) / 2.0)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// A case as a person would call it.
fn name(case: &Value) -> String {
    let mut name = name_without_interval(case);
    if let Some(interval) = case["interval-ms"].as_u64() {
        name.push_str(&format!(", checkpoint every {} s", interval as f64 / 1e3));
    }
    name
}

fn name_without_interval(case: &Value) -> String {
    let mut name = case["workload"].as_str().unwrap_or("?").to_owned();
    match case["keys"].as_u64() {
        Some(keys) if keys >= 1_000_000 => name.push_str(&format!(", {} M keys", keys / 1_000_000)),
        Some(keys) if keys > 0 => name.push_str(&format!(", {} k keys", keys / 1000)),
        _ => {}
    }
    if let Some(parallelism) = case["parallelism"].as_u64().filter(|&count| count > 1) {
        name.push_str(&format!(", parallelism {parallelism}"));
    }
    name
}

fn throughput(results: &Value) -> Plot {
    let per_core = |result: &Value, backend: &str| {
        let rounds = list(result, backend).iter();
        median(
            rounds
                .filter_map(|run| Some(run["records"].as_f64()? / run["cpu-s"].as_f64()? / 1e6))
                .collect(),
        )
    };
    Plot {
        title: "Throughput per core, whole process",
        unit: "million records per second of processor time",
        kinds: &["Wasm", "native twin", "bare loop"],
        bars: list(results, "cases")
            .iter()
            .map(|result| {
                let values = ["wasm", "native", "limit"].map(|backend| per_core(result, backend));
                (name(&result["case"]), values.to_vec())
            })
            .collect(),
    }
}

/// The cases that take checkpoints at an interval.
fn with_checkpoints(results: &Value) -> impl Iterator<Item = &Value> {
    let cases = list(results, "cases").iter();
    cases.filter(|result| !result["case"]["interval-ms"].is_null())
}

fn checkpoints(results: &Value) -> Plot {
    let bars = with_checkpoints(results).filter_map(|result| {
        let ms = of_checkpoints(list(result, "wasm"), |taken| taken["ms"].as_f64());
        let longest = ms.iter().copied().reduce(f64::max);
        median(ms).map(|middle| (name(&result["case"]), vec![Some(middle), longest]))
    });
    Plot {
        title: "Checkpoints, from trigger to completion",
        unit: "ms",
        kinds: &["median", "longest"],
        bars: bars.collect(),
    }
}

/// What `figure` says of the checkpoints of a case's rounds.
fn of_checkpoints(rounds: &[Value], figure: impl Fn(&Value) -> Option<f64>) -> Vec<f64> {
    let taken = rounds.iter().flat_map(|run| list(run, "checkpoints"));
    taken.filter_map(figure).collect()
}

fn phases(results: &Value) -> Plot {
    const PHASES: [&str; 5] = ["start-delay", "alignment", "pause", "upload", "metadata"];
    let bars = with_checkpoints(results).filter_map(|result| {
        let values = PHASES.map(|phase| {
            median(of_checkpoints(list(result, "wasm"), |taken| {
                Some(taken["phases"][phase].as_f64()? / 1e3)
            }))
        });
        let any = values.iter().any(Option::is_some);
        any.then(|| (name(&result["case"]), values.to_vec()))
    });
    Plot {
        title: "Phases of checkpoints, medians",
        unit: "ms, each of the subtask that took longest",
        kinds: &["start delay", "alignment", "pause", "upload", "metadata"],
        bars: bars.collect(),
    }
}

fn pauses(results: &Value) -> Plot {
    let bars = list(results, "pauses").iter().map(|result| {
        let rounds = list(result, "rounds");
        let mut pauses = of_checkpoints(rounds, |taken| {
            Some(taken["phases"]["pause"].as_f64()? / 1e3)
        });
        pauses.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let index = (pauses.len() as f64 * part) as usize;
            pauses.get(index.min(pauses.len().saturating_sub(1)))
        };
        let figure = |which: &str, end: &str| {
            let rounds = rounds.iter();
            median(
                rounds
                    .filter_map(|run| Some(run[which][end].as_f64()? / 1e3))
                    .collect(),
            )
        };
        let values = vec![
            at(0.5).copied(),
            at(0.99).copied(),
            figure("longest-steps", "p50"),
            figure("steps", "p99"),
            figure("steps", "p50"),
        ];
        (name(&result["case"]), values)
    });
    Plot {
        title: "Pauses of snapshots, and steps of the operator",
        unit: "ms",
        kinds: &[
            "pause, p50",
            "pause, p99",
            "longest step after it",
            "steps, p99",
            "steps, p50",
        ],
        bars: bars.collect(),
    }
}

fn memory(results: &Value) -> Plot {
    let peak = |result: &Value, backend: &str| {
        let rounds = list(result, backend).iter();
        median(
            rounds
                .filter_map(|run| Some(run["peak-kib"].as_f64()? / 1024.0))
                .collect(),
        )
    };
    let bars = list(results, "cases").iter().map(|result| {
        let values = ["wasm", "native", "limit"].map(|backend| peak(result, backend));
        (name(&result["case"]), values.to_vec())
    });
    Plot {
        title: "Memory at its peak, whole process",
        unit: "MiB",
        kinds: &["Wasm", "native twin", "bare loop"],
        bars: bars.collect(),
    }
}

fn restore(results: &Value) -> Plot {
    let bars = list(results, "restores").iter().map(|result| {
        let values = ["seconds", "bare-seconds"].map(|which| {
            let rounds = list(result, which).iter();
            median(rounds.filter_map(Value::as_f64).collect())
        });
        (name_without_interval(&result["case"]), values.to_vec())
    });
    Plot {
        title: "Restores",
        unit: "s",
        kinds: &["restore", "files and a bare hash table"],
        bars: bars.collect(),
    }
}

fn latency(results: &Value) -> Plot {
    let bars = list(results, "latencies").iter().map(|result| {
        let figure = |which: &str| {
            let rounds = list(result, "microseconds").iter();
            median(
                rounds
                    .filter_map(|spread| Some(spread[which].as_f64()? / 1e3))
                    .collect(),
            )
        };
        let values = ["p50", "p99", "max"].map(figure).to_vec();
        (name(&result["case"]), values)
    });
    Plot {
        title: "Latency from end to end at half of the highest rate",
        unit: "ms",
        kinds: &["p50", "p99", "max"],
        bars: bars.collect(),
    }
}
