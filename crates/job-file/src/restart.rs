//! `[restart]`: what happens when the job fails. Strategies, parameters and defaults are Flink's.

use std::time::Duration;

use super::keys::RESTART_PARAMETERS;
use super::section::Section;

/// When, and how often, a failed job is started again.
#[derive(Clone, Debug, PartialEq)]
pub enum RestartStrategy {
    /// Never.
    None,
    /// A number of times, always after the same delay.
    FixedDelay {
        /// How often.
        attempts: u32,
        /// The delay.
        delay: Duration,
    },
    /// For as long as failures are rare.
    FailureRate {
        /// How many failures in an interval are tolerated.
        max_failures_per_interval: u32,
        /// How long the interval is.
        failure_rate_interval: Duration,
        /// The delay before a restart.
        delay: Duration,
    },
    /// After delays that grow.
    ExponentialDelay {
        /// The first delay.
        initial_backoff: Duration,
        /// The longest one.
        max_backoff: Duration,
        /// By how much the delay grows from failure to failure.
        backoff_multiplier: f64,
        /// After this long without a failure the delay is the first one again.
        reset_backoff_threshold: Duration,
        /// By which part of itself a delay may be shorter or longer, at random.
        jitter_factor: f64,
        /// How many failures in a row are tolerated; `None`: any number.
        attempts_before_reset_backoff: Option<u32>,
    },
}

impl RestartStrategy {
    /// The strategy of a job that does not choose: with periodic checkpoints it starts again, without
    /// it would lose what it knows, so it fails.
    pub fn default_for(checkpointing: bool) -> Self {
        if checkpointing {
            Self::default_exponential_delay()
        } else {
            Self::None
        }
    }

    /// `exponential-delay` with its defaults.
    pub fn default_exponential_delay() -> Self {
        Self::ExponentialDelay {
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            backoff_multiplier: 1.5,
            reset_backoff_threshold: Duration::from_secs(3600),
            jitter_factor: 0.1,
            attempts_before_reset_backoff: None,
        }
    }

    /// The strategy's name in the job file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FixedDelay { .. } => "fixed-delay",
            Self::FailureRate { .. } => "failure-rate",
            Self::ExponentialDelay { .. } => "exponential-delay",
        }
    }

    /// Reads the section. `None` when it is wrong.
    pub fn read(mut section: Section<'_, '_>) -> Option<Self> {
        section.required("strategy", "exponential-delay")?;
        let names: Vec<(&str, &str)> = RESTART_PARAMETERS.iter().map(|(n, _)| (*n, *n)).collect();
        let strategy = section.choice("strategy", &names)?;
        refuse_parameters_of_others(&mut section, strategy);
        match strategy {
            "fixed-delay" => Some(Self::FixedDelay {
                attempts: section.integer("attempts", 0..=u32::MAX).unwrap_or(1),
                delay: delay(&mut section),
            }),
            "failure-rate" => Some(Self::FailureRate {
                max_failures_per_interval: section
                    .integer("max-failures-per-interval", 1..=u32::MAX)
                    .unwrap_or(1),
                failure_rate_interval: section
                    .positive_duration("failure-rate-interval")
                    .unwrap_or(Duration::from_secs(60)),
                delay: delay(&mut section),
            }),
            "exponential-delay" => Some(read_exponential_delay(&mut section)),
            _ => Some(Self::None),
        }
    }
}

fn delay(section: &mut Section<'_, '_>) -> Duration {
    section.duration("delay").unwrap_or(Duration::from_secs(1))
}

fn read_exponential_delay(section: &mut Section<'_, '_>) -> RestartStrategy {
    let initial_backoff = section
        .positive_duration("initial-backoff")
        .unwrap_or(Duration::from_secs(1));
    let max_backoff = section
        .positive_duration("max-backoff")
        .unwrap_or(Duration::from_secs(60));
    if max_backoff < initial_backoff {
        let key = if section.has("max-backoff") {
            "max-backoff"
        } else {
            "initial-backoff"
        };
        section.problem(
            key,
            format!(
                "max-backoff ({}) is shorter than initial-backoff ({})",
                humantime::format_duration(max_backoff),
                humantime::format_duration(initial_backoff)
            ),
            None,
        );
    }
    RestartStrategy::ExponentialDelay {
        initial_backoff,
        max_backoff,
        backoff_multiplier: section
            .number("backoff-multiplier", "a number of at least 1", |n| {
                n.is_finite() && n >= 1.0
            })
            .unwrap_or(1.5),
        reset_backoff_threshold: section
            .positive_duration("reset-backoff-threshold")
            .unwrap_or(Duration::from_secs(3600)),
        jitter_factor: section
            .number("jitter-factor", "a number from 0 to 1", |n| {
                (0.0..=1.0).contains(&n)
            })
            .unwrap_or(0.1),
        attempts_before_reset_backoff: section
            .integer("attempts-before-reset-backoff", 1..=u32::MAX),
    }
}

/// A parameter of another strategy would do nothing: its author expects something else.
fn refuse_parameters_of_others(section: &mut Section<'_, '_>, strategy: &str) {
    let own = RESTART_PARAMETERS
        .iter()
        .find(|(name, _)| *name == strategy)
        .map_or(&[][..], |(_, keys)| *keys);
    let mut seen = Vec::new();
    for key in RESTART_PARAMETERS.iter().flat_map(|(_, keys)| *keys) {
        if own.contains(key) || seen.contains(key) || !section.has(key) {
            continue;
        }
        seen.push(key);
        let owners: Vec<String> = RESTART_PARAMETERS
            .iter()
            .filter(|(_, keys)| keys.contains(key))
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        let message = format!(
            "is a parameter of {}, but the strategy is `{strategy}`",
            owners.join(" and ")
        );
        section.problem(key, message, None);
    }
}
