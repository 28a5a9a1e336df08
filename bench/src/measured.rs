//! What a process of the benchmark has seen.

use serde::{Deserialize, Serialize};

/// What a process of the benchmark has seen. What a task does not measure stays at nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Measured {
    pub(crate) records: u64,
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) peak_kib: u64,
    pub(crate) checkpoints: Vec<Taken>,
    /// Records that were left out, of the whole run.
    #[serde(default)]
    pub(crate) left_out: u64,
    /// In microseconds.
    pub(crate) latency: Option<Spread>,
    /// Of all steps of the operator's subtask, in microseconds.
    pub(crate) steps: Option<Spread>,
    /// Of the longest step between two snapshots each, in microseconds.
    pub(crate) longest_steps: Option<Spread>,
    /// Of each second with a checkpoint, by how many percent fewer records came in it than in those
    /// beside it.
    pub(crate) lost: Vec<f64>,
    /// Until the first record was read, in seconds.
    pub(crate) restore_s: f64,
    /// Keys that were read back from disk.
    pub(crate) recalled: u64,
}

/// A checkpoint that was completed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Taken {
    pub(crate) id: u64,
    pub(crate) ms: u64,
    pub(crate) bytes: u64,
    /// Where its time went.
    pub(crate) phases: Phases,
    /// Distinct keys that had changed since the one before, where they were counted.
    pub(crate) changed: Option<u64>,
}

/// How long the phases of a checkpoint took, each the longest of any subtask, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Phases {
    /// From the trigger to the first barrier at a subtask.
    pub(crate) start_delay: u64,
    /// From the first barrier at a subtask to the last.
    pub(crate) alignment: u64,
    /// From there until the subtask goes on with records.
    pub(crate) pause: u64,
    /// Until its state was written, in the background.
    pub(crate) upload: u64,
    /// From the last acknowledgement until the checkpoint was complete.
    pub(crate) metadata: u64,
}

impl From<&runtime::phases::Phases> for Phases {
    fn from(phases: &runtime::phases::Phases) -> Self {
        Self {
            start_delay: phases.start_delay.us,
            alignment: phases.alignment.us,
            pause: phases.snapshot.us,
            upload: phases.upload.us,
            metadata: phases.metadata_us,
        }
    }
}

/// The middle and the ends of many values.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |part: f64| {
            let index = ((values.len() as f64 * part) as usize).min(values.len() - 1);
            values[index]
        };
        (!values.is_empty()).then(|| Self {
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        })
    }
}

impl Measured {
    /// Records per second of processor time: what one core handles, source and sink included.
    pub(crate) fn per_core(&self) -> f64 {
        self.records as f64 / self.cpu_s
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.records as f64 / self.wall_s
    }
}
