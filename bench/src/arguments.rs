//! The benchmark's command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::case::Workload;

const USAGE: &str = "\
usage: cargo xtask bench [--full] [--only NAME,…] [--rounds N] [--seconds S] [--json FILE] [--svg DIR]

  --full     every workload, size and interval; without it those for which there are targets
  --only     of these parts only: workloads (map filter count count-zipf read update-100 update-1k
             update-hot update-cold words flights) and start, latency, changed, lost, pause, restore,
             takeover, neighbours, windows, bad-records
  --rounds   rounds per case, each backend in turn (default 3)
  --seconds  how long each is measured once it is warm (default 4)
  --json     also write every figure to a file
  --svg      also draw the figures, in this directory
";

/// What is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    pub(crate) full: bool,
    pub(crate) only: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) json: Option<PathBuf>,
}

/// Parts that are no workloads.
pub(crate) const PARTS: [&str; 10] = [
    "start",
    "latency",
    "changed",
    "lost",
    "pause",
    "restore",
    "takeover",
    "neighbours",
    "windows",
    "bad-records",
];

impl Arguments {
    /// Reads the command line; `None` if only the usage was asked for, which is printed.
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut arguments = Self {
            full: false,
            only: Vec::new(),
            rounds: 3,
            seconds: 4.0,
            json: None,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--help" | "-h" => {
                    print!("{USAGE}");
                    return Ok(None);
                }
                "--full" => {
                    arguments.full = true;
                    continue;
                }
                _ => {}
            }
            let value = words
                .next()
                .with_context(|| format!("`{word}` needs a value\n{USAGE}"))?;
            match word.as_str() {
                "--rounds" => arguments.rounds = value.parse().context("--rounds")?,
                "--seconds" => arguments.seconds = value.parse().context("--seconds")?,
                "--json" => arguments.json = Some(value.into()),
                "--only" => arguments.only = value.split(',').map(str::to_owned).collect(),
                _ => bail!("unknown option `{word}`\n{USAGE}"),
            }
        }
        ensure!(arguments.rounds > 0, "--rounds must be at least 1");
        ensure!(
            arguments.seconds.is_finite() && arguments.seconds > 0.0,
            "--seconds must be more than 0"
        );
        for name in &arguments.only {
            let known = Workload::ALL.iter().map(|workload| workload.name());
            ensure!(
                known.chain(PARTS).any(|known| known == name),
                "--only: there is no `{name}`\n{USAGE}"
            );
        }
        Ok(Some(arguments))
    }

    /// Whether a workload or part is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}
