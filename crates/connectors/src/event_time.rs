//! Watermarks of sources: `watermark` in the job file, and what becomes of it in each subtask.

use std::sync::Arc;

use dataflow::watermark::{Policy, SplitWatermarks};
use job_file::options::Options;
use job_file::problem::Problem;
use job_file::units;
use operator::{SourceStatus, SubtaskContext};
use serde::{Deserialize, Serialize};

use self::drift::{Board, Boards};
use super::connector::Clock;

mod drift;

/// `watermark = { … }` of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct WatermarkOptions {
    /// How far a record's event time may be below the highest one before it; a record below that is late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) out_of_orderness: Option<String>,
    /// How long a split is silent before the others go on without it. Unset: they wait forever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle: Option<String>,
    /// The least time between two watermarks.
    pub(crate) interval: String,
    /// How far a split may be ahead of the slowest one. Unset: any distance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_drift: Option<String>,
}

impl Default for WatermarkOptions {
    fn default() -> Self {
        Self {
            out_of_orderness: None,
            idle: None,
            interval: "200ms".to_owned(),
            max_drift: None,
        }
    }
}

/// No time of `watermark` is longer: more is a slip, and no window would close before it.
const LONGEST_MS: i64 = 3_660 * 24 * 60 * 60 * 1000;

/// What a source has to do with the keys of `watermark`.
pub(crate) struct Kind {
    /// Whether its records have event times.
    pub(crate) has_timestamps: bool,
    /// Keys that would change nothing, and why.
    pub(crate) meaningless: &'static [(&'static str, &'static str)],
}

/// Reads `watermark`; `None` if it is not given, or wrong, which has been noted.
pub(crate) fn read(
    options: Option<&Options>,
    kind: &Kind,
    problems: &mut Vec<Problem>,
) -> Option<Policy> {
    let mut found = Vec::new();
    let read: WatermarkOptions = options?.clone().read(&mut found);
    if !kind.has_timestamps {
        let hint = "set `timestamp` as well, or leave `watermark` out";
        problems.push(Problem::new("watermark", "the records have no event times").hint(hint));
    }
    let known_to_be_wrong = |key: &str| found.iter().any(|problem| problem.key == key);
    let mut wrong = Vec::new();
    let mut duration = |key: &str, text: Option<&String>, least_ms: i64| -> Option<i64> {
        if let Some((_, why)) = kind.meaningless.iter().find(|(it, _)| *it == key)
            && text.is_some()
        {
            wrong.push(
                Problem::new(key, format!("has no meaning here: {why}")).hint("leave it out"),
            );
            return None;
        }
        match milliseconds(text?, least_ms) {
            Ok(ms) => Some(ms),
            Err(message) => {
                wrong.push(Problem::new(key, message));
                None
            }
        }
    };
    let out_of_orderness_ms = duration("out-of-orderness", read.out_of_orderness.as_ref(), 0);
    let idle_ms = duration("idle", read.idle.as_ref(), 1);
    let interval_ms = duration("interval", Some(&read.interval), 1);
    let max_drift_ms = duration("max-drift", read.max_drift.as_ref(), 0);
    if read.out_of_orderness.is_none() && !known_to_be_wrong("out-of-orderness") {
        let hint = "how far records are out of order at most, for example \"5s\"; \"0s\" if they are in order";
        wrong.push(Problem::new("out-of-orderness", "is required").hint(hint));
    }
    let all_right = found.is_empty() && wrong.is_empty() && kind.has_timestamps;
    problems.extend(found.into_iter().chain(wrong).map(|problem| Problem {
        key: match problem.key.is_empty() {
            true => "watermark".to_owned(),
            false => format!("watermark.{}", problem.key),
        },
        ..problem
    }));
    Some(Policy {
        out_of_orderness_ms: out_of_orderness_ms?,
        idle_ms,
        interval_ms: interval_ms?,
        max_drift_ms,
    })
    .filter(|_| all_right)
}

/// The options with all defaults, as far as they can be read.
pub(crate) fn effective(options: Option<&Options>) -> Option<Options> {
    let read: WatermarkOptions = options?.clone().read(&mut Vec::new());
    Some(Options::effective(&read))
}

/// A duration that is written in a job file, in milliseconds.
///
/// # Errors
/// It is none, or too short or too long.
pub(crate) fn milliseconds(text: &str, least_ms: i64) -> Result<i64, String> {
    let duration = units::parse_duration(text)?;
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return Err(format!("`{text}` is not a whole number of milliseconds"));
    }
    let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    if ms < least_ms {
        return Err(format!("must be at least {least_ms}ms"));
    }
    if ms > LONGEST_MS {
        return Err(format!("`{text}` is too long: at most 3660 days"));
    }
    Ok(ms)
}

/// Makes what the subtasks of a source keep of event time.
pub(crate) struct EventTimes {
    policy: Policy,
    clock: Clock,
    boards: Boards,
}

impl EventTimes {
    pub(crate) fn new(policy: Policy, clock: Clock) -> Self {
        Self {
            policy,
            clock,
            boards: Boards::default(),
        }
    }

    /// For one subtask. Its splits are to be added, and then [`EventTime::begin`] is to be called.
    pub(crate) fn of(&self, context: &SubtaskContext) -> EventTime {
        let max_drift = self.policy.max_drift_ms;
        EventTime {
            marks: SplitWatermarks::new(self.policy),
            clock: Clock::clone(&self.clock),
            board: max_drift.map(|_| self.boards.join(context)),
            subtask: context.subtask as usize,
        }
    }
}

/// What a source's subtask keeps of event time.
pub(crate) struct EventTime {
    pub(crate) marks: SplitWatermarks,
    clock: Clock,
    /// Where it sees how far the other subtasks are, if any has to wait for others.
    board: Option<Arc<Board>>,
    subtask: usize,
}

impl EventTime {
    /// All splits are added.
    pub(crate) fn begin(&mut self) {
        self.show();
    }

    /// Whether a split that runs ahead has to wait.
    pub(crate) fn is_aligned(&self) -> bool {
        self.board.is_some()
    }

    pub(crate) fn now(&self) -> i64 {
        (self.clock)()
    }

    /// The highest of the timestamps that were read of a split.
    pub(crate) fn read(&mut self, split: usize, timestamps: &[i64]) -> Option<i64> {
        let highest = *timestamps.iter().max()?;
        self.marks.read(split, highest);
        Some(highest)
    }

    /// How far the slowest split of the source is, as far as it is known: of this subtask now, of the others after
    /// their last polls.
    pub(crate) fn slowest(&self) -> i64 {
        let own = self.marks.lowest().unwrap_or(i64::MAX);
        let others = self.board.as_ref();
        own.min(others.map_or(i64::MAX, |board| board.lowest_but(self.subtask)))
    }

    /// Whether a split is not ahead of the slowest one by too much.
    pub(crate) fn may_read(&self, split: usize) -> bool {
        let wanted = self.marks.waits_for(split);
        wanted.is_none_or(|wanted| wanted <= self.slowest())
    }

    /// The subtask is to be woken when this split may be read.
    pub(crate) fn wait_for(&self, split: usize) {
        if let (Some(board), Some(wanted)) = (&self.board, self.marks.waits_for(split)) {
            board.wait_for(self.subtask, wanted);
        }
    }

    /// A poll is over. Returns when the next one is to come.
    pub(crate) fn polled(&mut self, status: SourceStatus) -> SourceStatus {
        self.marks.tick(self.now());
        self.show();
        match status {
            SourceStatus::Idle { until } => {
                let next = self.marks.next_tick();
                SourceStatus::Idle {
                    until: until.into_iter().chain(next).min(),
                }
            }
            status => status,
        }
    }

    /// Lets the other subtasks know how far this one is.
    fn show(&self) {
        if let Some(board) = &self.board {
            board.show(self.subtask, self.marks.lowest().unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use job_file::problem::brief;

    use super::*;

    fn read_text(text: &str, kind: &Kind) -> Result<Policy, Vec<String>> {
        let mut problems = Vec::new();
        let policy = read(Some(&text.parse().unwrap()), kind, &mut problems);
        policy.ok_or_else(|| problems.iter().map(brief).collect())
    }

    const FILE: Kind = Kind {
        has_timestamps: true,
        meaningless: &[],
    };

    #[test]
    fn only_the_bound_is_required() {
        let policy = Policy {
            out_of_orderness_ms: 5_000,
            idle_ms: None,
            interval_ms: 200,
            max_drift_ms: None,
        };
        assert_eq!(read_text("out-of-orderness = \"5s\"", &FILE), Ok(policy));
        let all =
            "out-of-orderness = \"0s\"\nidle = \"30s\"\ninterval = \"1s\"\nmax-drift = \"1min\"";
        let policy = Policy {
            out_of_orderness_ms: 0,
            idle_ms: Some(30_000),
            interval_ms: 1_000,
            max_drift_ms: Some(60_000),
        };
        assert_eq!(read_text(all, &FILE), Ok(policy));
        let mut problems = Vec::new();
        assert_eq!(read(None, &FILE, &mut problems), None);
        assert!(problems.is_empty());
        let shown = effective(Some(&"out-of-orderness = \"5s\"".parse().unwrap())).unwrap();
        let again: WatermarkOptions = shown.read(&mut problems);
        assert_eq!(again.interval, "200ms");
    }

    #[test]
    fn every_key_is_documented_with_its_default() {
        const DOCS: &str = include_str!("../../../docs/job-file.md");
        let (_, section) = DOCS.split_once("\n### `watermark`\n").unwrap();
        let (section, _) = section.split_once("\n### ").unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let documented: Vec<(&str, &str)> = rows
            .map(|row| row.split_once("` | ").unwrap())
            .map(|(key, rest)| (key, rest.split(" | ").next().unwrap()))
            .collect();
        let default = format!("`\"{}\"`", WatermarkOptions::default().interval);
        let expected = [
            ("out-of-orderness", "required"),
            ("idle", "not set"),
            ("interval", default.as_str()),
            ("max-drift", "not set"),
        ];
        assert_eq!(documented, expected);
    }

    #[test]
    fn every_mistake_is_named_with_its_key() {
        let text = "idle = \"0s\"\ninterval = \"-1s\"\nmax-drift = \"100years\"\nidel = \"1s\"";
        let kind = Kind {
            has_timestamps: false,
            meaningless: &[("idle", "it is never silent")],
        };
        let expected = [
            "`watermark`: the records have no event times; hint: set `timestamp` as well, or leave `watermark` out",
            "`watermark.idel`: unknown key; hint: did you mean `idle`?",
            "`watermark.idle`: has no meaning here: it is never silent; hint: leave it out",
            "`watermark.interval`: `-1s` is not a duration, write for example \"500ms\", \"10s\", \"5min\" or \"1h\"",
            "`watermark.max-drift`: `100years` is too long: at most 3660 days",
            "`watermark.out-of-orderness`: is required; hint: how far records are out of order at most, for example \
             \"5s\"; \"0s\" if they are in order",
        ];
        assert_eq!(read_text(text, &kind).unwrap_err(), expected);
        let problems = |text| read_text(text, &FILE).unwrap_err();
        assert_eq!(
            problems("out-of-orderness = 5"),
            [concat!(
                "`watermark.out-of-orderness`: invalid type: integer `5`, expected a string; hint: write it in quotes; a time or ",
                "a size has its unit: `\"5s\"`, `\"5MiB\"`"
            )]
        );
        assert_eq!(
            problems("out-of-orderness = \"5\""),
            ["`watermark.out-of-orderness`: `5` has no unit, write for example \"5s\" or \"5ms\""]
        );
        assert_eq!(
            problems("out-of-orderness = \"1us\"\nidle = \"0\""),
            [
                "`watermark.out-of-orderness`: `1us` is not a whole number of milliseconds",
                "`watermark.idle`: must be at least 1ms"
            ]
        );
    }
}
