//! The benchmark anyone can run: `cargo xtask bench`.
//!
//! Keyed count: the generator through an operator that keeps a number per key to a sink that
//! discards, at parallelism 1. Each case runs with the operator as a component and beside it, in the
//! same run and in turn, written natively in the same runtime: only the ratio of the two means
//! anything on another machine. Records per core are per second of processor time of the whole
//! process, generator, sink and checkpoint writing included.

mod measure;
mod native;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use runtime::JobGraph;
use runtime::graph::NodeKind;
use serde_json::json;

use self::measure::{Run, median};

const USAGE: &str = "\
usage: cargo xtask bench [--rounds N] [--records N] [--keys N,N] [--json FILE]

  --rounds   rounds per case, each in turn with its native twin (default 3)
  --records  records per round (default 20000000)
  --keys     numbers of distinct keys (default 1000,1000000)
  --json     also write the results to a file
";

struct Arguments {
    rounds: usize,
    records: u64,
    keys: Vec<u64>,
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = Arguments::read().and_then(|arguments| match arguments {
        Some(arguments) => bench(&arguments),
        None => {
            print!("{USAGE}");
            Ok(())
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn read() -> Result<Option<Self>> {
        let mut arguments = Self {
            rounds: 3,
            records: 20_000_000,
            keys: vec![1000, 1_000_000],
            json: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--help" || word == "-h" {
                return Ok(None);
            }
            let value = words
                .next()
                .with_context(|| format!("`{word}` needs a value\n{USAGE}"))?;
            match word.as_str() {
                "--rounds" => arguments.rounds = value.parse().context("--rounds")?,
                "--records" => arguments.records = value.parse().context("--records")?,
                "--keys" => {
                    arguments.keys = value
                        .split(',')
                        .map(str::parse)
                        .collect::<Result<_, _>>()
                        .context("--keys")?;
                }
                "--json" => arguments.json = Some(value.into()),
                _ => bail!("unknown option `{word}`\n{USAGE}"),
            }
        }
        ensure!(arguments.rounds > 0, "--rounds must be at least 1");
        Ok(Some(arguments))
    }
}

struct Case {
    keys: u64,
    interval: Option<Duration>,
}

fn bench(arguments: &Arguments) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut table = String::from(
        "| keyed count | Wasm, records/s per core | native | Wasm/native | Wasm, records/s | checkpoints | ms, median | MiB, median |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut results = Vec::new();
    for keys in &arguments.keys {
        for interval in [None, Some(Duration::from_secs(1))] {
            let case = Case {
                keys: *keys,
                interval,
            };
            let (mut wasm, mut native) = (Vec::new(), Vec::new());
            // One round that does not count: caches, page tables, the component's compilation.
            run(&case, arguments.records / 10, false, dir.path())?;
            for round in 0..arguments.rounds {
                eprintln!(
                    "{} keys, checkpoints {}: round {}",
                    case.keys,
                    case.checkpoints(),
                    round + 1
                );
                wasm.push(run(&case, arguments.records, false, dir.path())?);
                native.push(run(&case, arguments.records, true, dir.path())?);
            }
            report(&case, &wasm, &native, &mut table, &mut results)?;
        }
    }
    println!("{table}");
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&results)?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

impl Case {
    fn checkpoints(&self) -> String {
        self.interval.map_or_else(
            || "off".into(),
            |interval| format!("every {} s", interval.as_secs()),
        )
    }
}

fn report(
    case: &Case,
    wasm: &[Run],
    native: &[Run],
    table: &mut String,
    results: &mut Vec<serde_json::Value>,
) -> Result<()> {
    let middle = |runs: &[Run], figure: fn(&Run) -> f64| median(runs.iter().map(figure).collect());
    let ratios: Vec<f64> = wasm
        .iter()
        .zip(native)
        .map(|(wasm, native)| wasm.per_core() / native.per_core())
        .collect();
    let spread = ratios
        .iter()
        .fold((f64::MAX, f64::MIN), |(low, high), ratio| {
            (low.min(*ratio), high.max(*ratio))
        });
    let checkpoints: Vec<(u64, u64)> = wasm
        .iter()
        .flat_map(|run| run.checkpoints.iter().copied())
        .collect();
    let durations = checkpoints.iter().map(|(ms, _)| *ms as f64).collect();
    let bytes = checkpoints
        .iter()
        .map(|(_, bytes)| *bytes as f64 / f64::from(1 << 20))
        .collect();
    let (duration, mebibytes) = (median(durations), median(bytes));
    let shown = |figure: f64| {
        if figure.is_nan() {
            "–".to_owned()
        } else {
            format!("{figure:.1}")
        }
    };
    writeln!(
        table,
        "| {} keys, checkpoints {} | {:.2} M | {:.2} M | {:.2} ({:.2}–{:.2}) | {:.2} M | {} | {} | {} |",
        case.keys,
        case.checkpoints(),
        middle(wasm, Run::per_core) / 1e6,
        middle(native, Run::per_core) / 1e6,
        median(ratios.clone()),
        spread.0,
        spread.1,
        middle(wasm, Run::per_second) / 1e6,
        checkpoints.len(),
        shown(duration),
        shown(mebibytes),
    )?;
    results.push(json!({
        "workload": "keyed-count",
        "keys": case.keys,
        "checkpoint-interval-ms": case.interval.map(|interval| interval.as_millis() as u64),
        "wasm-records-per-core-second": wasm.iter().map(Run::per_core).collect::<Vec<_>>(),
        "native-records-per-core-second": native.iter().map(Run::per_core).collect::<Vec<_>>(),
        "wasm-records-per-second": wasm.iter().map(Run::per_second).collect::<Vec<_>>(),
        "wasm-to-native": ratios,
        "checkpoint-ms": checkpoints.iter().map(|(ms, _)| ms).collect::<Vec<_>>(),
        "checkpoint-bytes": checkpoints.iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(),
    }));
    Ok(())
}

/// Runs a case once: the graph is that of a job file, as any user's.
fn run(case: &Case, records: u64, native: bool, dir: &Path) -> Result<Run> {
    let component = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../plugins/target/wasm32-wasip2/release/bench_ops.wasm");
    let text = format!(
        r#"
        [job]
        name = "keyed-count"

        [[source]]
        id = "records"
        connector = "generator"
        count = {records}
        keys = {keys}
        key-size = 16
        value-size = 8

        [[operator]]
        id = "count"
        component = {component:?}
        input = "records"
        config = {{ op = "count" }}

        [[sink]]
        id = "nothing"
        connector = "discard"
        input = "count"
        "#,
        keys = case.keys,
    );
    let path = dir.join("job.toml");
    std::fs::write(&path, text)?;
    let mut graph = host::graph(&path)?;
    if native {
        replace_operator(&mut graph);
    }
    let run = measure::run(graph, case.interval)?;
    ensure!(
        run.records == records,
        "{} records were read, not {records}",
        run.records
    );
    Ok(run)
}

/// Puts the native twin in the component's place; all else stays.
fn replace_operator(graph: &mut JobGraph) {
    for node in &mut graph.nodes {
        if let NodeKind::Operator(operator) = &mut node.kind {
            operator.factory = Arc::new(native::KeyedCount::default());
        }
    }
}
