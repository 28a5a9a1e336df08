//! What is measured: a workload at a size, with checkpoints at an interval, on a backend.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the records are and what is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// A field is added to records of 100 bytes; no state.
    Map,
    /// Half of the records of 100 bytes pass; no state.
    Filter,
    /// A number of 8 bytes per key of 16 bytes is counted up and emitted.
    Count,
    /// The same, with keys of which few come often (zipf, exponent 1).
    CountZipf,
    /// The number is looked up and emitted: nothing changes.
    Read,
    /// A value of 100 bytes per key is replaced.
    #[serde(rename = "update-100")]
    Update100,
    /// A value of 1 KiB per key is replaced.
    #[serde(rename = "update-1k")]
    Update1k,
    /// A value of 100 bytes per key is replaced; nine of ten records have one of a tenth of the keys.
    UpdateHot,
    /// The same, with memory for a quarter of the state.
    UpdateCold,
    /// Lines of the Old Testament are split into words, which are counted and emitted.
    Words,
    /// Flights from CSV are summed up per carrier and airport.
    Flights,
}

impl Workload {
    pub(crate) const ALL: [Self; 11] = [
        Self::Map,
        Self::Filter,
        Self::Count,
        Self::CountZipf,
        Self::Read,
        Self::Update100,
        Self::Update1k,
        Self::UpdateHot,
        Self::UpdateCold,
        Self::Words,
        Self::Flights,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Filter => "filter",
            Self::Count => "count",
            Self::CountZipf => "count-zipf",
            Self::Read => "read",
            Self::Update100 => "update-100",
            Self::Update1k => "update-1k",
            Self::UpdateHot => "update-hot",
            Self::UpdateCold => "update-cold",
            Self::Words => "words",
            Self::Flights => "flights",
        }
    }

    /// Bytes of keys and values that change with each key.
    pub(crate) fn entry_bytes(self) -> u64 {
        match self {
            Self::Count | Self::CountZipf | Self::Read => 16 + 8,
            Self::Update100 | Self::UpdateHot | Self::UpdateCold => 16 + 100,
            Self::Update1k => 16 + 1024,
            Self::Map | Self::Filter | Self::Words | Self::Flights => 0,
        }
    }

    /// The workload whose records these are too: they are compared with each other.
    pub(crate) fn records(self) -> Self {
        match self {
            Self::UpdateCold => Self::UpdateHot,
            other => other,
        }
    }

    /// Whether records come from files, which end, and not from a generator.
    pub(crate) fn reads_files(self) -> bool {
        matches!(self, Self::Words | Self::Flights)
    }
}

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Backend {
    /// A component, as any user's.
    Wasm,
    /// Its twin, written in Rust for the same runtime.
    Native,
    /// A bare loop on one thread over the same state table, with batches made beforehand.
    Limit,
}

/// One job to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Case {
    pub(crate) workload: Workload,
    /// Distinct keys; 0 where the input decides.
    pub(crate) keys: u64,
    pub(crate) parallelism: u32,
    /// From checkpoint to checkpoint; `None`: none are taken.
    pub(crate) interval_ms: Option<u64>,
}

impl Case {
    pub(crate) fn new(workload: Workload, keys: u64) -> Self {
        Self {
            workload,
            keys,
            parallelism: 1,
            interval_ms: None,
        }
    }

    pub(crate) fn every(mut self, interval_ms: u64) -> Self {
        self.interval_ms = Some(interval_ms);
        self
    }

    pub(crate) fn parallel(mut self, parallelism: u32) -> Self {
        self.parallelism = parallelism;
        self
    }

    pub(crate) fn checkpoints(&self) -> String {
        self.interval_ms.map_or_else(
            || "off".into(),
            |ms| {
                let interval = Duration::from_millis(ms);
                match ms % 1000 {
                    0 => format!("every {} s", interval.as_secs()),
                    _ => format!("every {ms} ms"),
                }
            },
        )
    }

    /// The keys as a person writes them.
    pub(crate) fn size(&self) -> String {
        match self.keys {
            0 => "–".into(),
            keys if keys % 1_000_000 == 0 => format!("{} M", keys / 1_000_000),
            keys if keys % 1000 == 0 => format!("{} k", keys / 1000),
            keys => keys.to_string(),
        }
    }
}
