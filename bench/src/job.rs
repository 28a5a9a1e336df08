//! The jobs that are measured, as any user would write them down.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use runtime::JobGraph;
use runtime::graph::NodeKind;

use crate::case::{Backend, Case, Workload};
use crate::native;

/// How often the inputs from files are repeated.
const REPEATED: usize = 24;

/// Bytes of memory that a key of 16 and a value of 100 bytes take: a row, a block, and their place in
/// the index.
const ENTRY_MEMORY: u64 = 32 + 112 + 8;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Where a plugin's component is.
pub(crate) fn component(name: &str) -> PathBuf {
    repository(&format!("plugins/target/wasm32-wasip2/release/{name}.wasm"))
}

/// How the generator makes its records.
pub(crate) struct Generated {
    /// How many; `None`: without end.
    pub(crate) count: Option<u64>,
    /// Records per second; `None`: as fast as they are taken.
    pub(crate) rate: Option<f64>,
    /// One key after the other.
    pub(crate) sequential: bool,
}

impl Generated {
    pub(crate) const ENDLESS: Self = Self {
        count: None,
        rate: None,
        sequential: false,
    };
}

/// The text of the job file of `case`.
pub(crate) fn text(case: &Case, generated: &Generated, input: Option<&Path>) -> String {
    let source = match case.workload {
        Workload::Words => format!(
            "connector = \"file\"\npath = {:?}\nformat = \"lines\"\n",
            input.unwrap_or(Path::new(""))
        ),
        Workload::Flights => format!(
            "connector = \"file\"\npath = {:?}\nformat = \"csv\"\nkey = [\"carrier\", \"origin\"]\n",
            input.unwrap_or(Path::new(""))
        ),
        Workload::Map | Workload::Filter => {
            format!("{}value-size = 100\n", generator(generated))
        }
        _ => {
            let distribution = match (generated.sequential, case.workload) {
                (true, _) => "distribution = \"sequential\"\n",
                (false, Workload::CountZipf) => "distribution = \"zipf\"\nexponent = 1.0\n",
                (false, Workload::UpdateHot | Workload::UpdateCold) => {
                    "distribution = \"hotspot\"\n"
                }
                (false, _) => "",
            };
            format!(
                "{}keys = {}\nkey-size = 16\nvalue-size = 8\n{distribution}",
                generator(generated),
                case.keys,
            )
        }
    };
    let operator = |id: &str, name: &str, input: &str, config: &str| {
        format!(
            "[[operator]]\nid = \"{id}\"\ncomponent = {:?}\ninput = \"{input}\"\nconfig = {config}\n",
            component(name)
        )
    };
    let bench = |op: &str| {
        operator(
            "op",
            "bench_ops",
            "records",
            &format!("{{ op = \"{op}\" }}"),
        )
    };
    let operators = match case.workload {
        Workload::Map => bench("map"),
        Workload::Filter => bench("filter"),
        Workload::Count | Workload::CountZipf => operator("op", "count", "records", "{}"),
        Workload::Read => bench("read"),
        Workload::Update100 | Workload::UpdateHot => operator(
            "op",
            "bench_ops",
            "records",
            "{ op = \"update\", size = 100 }",
        ),
        Workload::UpdateCold => operator(
            "op",
            "bench_ops",
            "records",
            &format!(
                "{{ op = \"update\", size = 100 }}\nlimits = {{ state-memory = \"{}B\" }}",
                case.keys * ENTRY_MEMORY / 4
            ),
        ),
        Workload::Update1k => operator(
            "op",
            "bench_ops",
            "records",
            "{ op = \"update\", size = 1024 }",
        ),
        Workload::Words => format!(
            "{}{}",
            operator("split", "split", "records", "{ skip-fields = 1 }"),
            operator("op", "count", "split", "{}"),
        ),
        Workload::Flights => operator("op", "flight_delays", "records", "{}"),
    };
    format!(
        "[job]\nname = \"bench\"\nparallelism = {}\nscratch-dir = \"scratch\"\n\n[[source]]\nid = \"records\"\n{source}\n{operators}\n\
         [[sink]]\nid = \"nothing\"\nconnector = \"discard\"\ninput = \"op\"\n",
        case.parallelism,
    )
}

fn generator(generated: &Generated) -> String {
    let mut text = String::from("connector = \"generator\"\n");
    if let Some(count) = generated.count {
        text.push_str(&format!("count = {count}\n"));
    }
    if let Some(rate) = generated.rate {
        text.push_str(&format!("rate = {rate:.1}\n"));
    }
    text
}

/// The graph of `case`, with native twins in the place of its components if so wanted.
pub(crate) fn graph(
    case: &Case,
    backend: Backend,
    generated: &Generated,
    dir: &Path,
) -> Result<JobGraph> {
    let input = case
        .workload
        .reads_files()
        .then(|| input(case.workload, case.parallelism, dir))
        .transpose()?;
    let path = dir.join("job.toml");
    std::fs::write(&path, text(case, generated, input.as_deref()))?;
    let mut graph = host::graph(&path)?;
    if backend == Backend::Native {
        for node in &mut graph.nodes {
            if let NodeKind::Operator(operator) = &mut node.kind {
                operator.factory = native::twin(case.workload, &node.id);
            }
        }
    }
    Ok(graph)
}

/// The input of a workload that reads files, repeated and unpacked, one file for each subtask.
fn input(workload: Workload, parallelism: u32, dir: &Path) -> Result<PathBuf> {
    let (from, header) = match workload {
        Workload::Words => ("examples/word-count/input/kjv-old-testament.txt.gz", false),
        _ => ("examples/flight-delays/input/flights-2013-01.csv.gz", true),
    };
    let to = dir.join("input");
    if to.exists() {
        return Ok(to);
    }
    std::fs::create_dir(&to)?;
    let from = repository(from);
    let file = File::open(&from).with_context(|| format!("opening {}", from.display()))?;
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(file)
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading {}", from.display()))?;
    let body = match header {
        false => 0,
        true => bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1),
    };
    for index in 0..parallelism {
        let mut file = BufWriter::new(File::create(to.join(format!("{index}.txt")))?);
        file.write_all(&bytes[..body])?;
        for _ in 0..REPEATED * if header { 4 } else { 1 } {
            file.write_all(&bytes[body..])?;
        }
        file.flush()?;
    }
    Ok(to)
}
