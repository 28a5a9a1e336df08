//! How a job is run.

use dataflow::alignment::Mode;

use crate::coordinator::Settings;
use crate::restart::Strategy;

/// How a job is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The job's name.
    pub name: String,
    /// The job's id.
    pub id: String,
    /// The run's token; see [`operator::SubtaskContext::run`].
    pub run: String,
    /// When checkpoints are taken.
    pub checkpoint: Settings,
    /// Whether records after a barrier may get into its snapshot.
    pub mode: Mode,
    /// Whether a checkpoint may build on the one before it.
    pub incremental: bool,
    /// What happens after a failure.
    pub restart: Strategy,
    /// How many calls of timers a watermark may take beyond one for each timer that there was; see
    /// [`TIMER_CALLS_MAX`].
    pub timer_calls_max: u64,
}

/// What a job has, unless it is a test: an operator that registers a timer for a time that has passed whenever one
/// fires would never come to an end. One that fires every second may be 48 days late.
pub const TIMER_CALLS_MAX: u64 = 1 << 22;
