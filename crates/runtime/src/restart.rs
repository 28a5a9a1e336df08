//! Whether and when a failed job is started again: Flink's strategies with Flink's parameters.

use std::collections::VecDeque;

use crate::random::Random;

/// A restart strategy. Times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Strategy {
    /// Never.
    #[default]
    None,
    /// This many times, each after the same delay.
    FixedDelay {
        /// How many restarts.
        attempts: u32,
        /// How long to wait before each.
        delay_ms: u64,
    },
    /// For ever (or this many times), waiting longer after each failure.
    ExponentialDelay {
        /// The first wait.
        initial_backoff_ms: u64,
        /// The longest wait.
        max_backoff_ms: u64,
        /// Each wait is this much longer than the one before.
        backoff_multiplier: f64,
        /// After running for this long without a failure waiting starts at the beginning again.
        reset_backoff_threshold_ms: u64,
        /// Each wait is longer or shorter by at most this fraction, at random.
        jitter_factor: f64,
        /// How many restarts without a reset; `None`: no limit.
        attempts_before_reset: Option<u32>,
    },
    /// As long as failures are not too frequent.
    FailureRate {
        /// This many failures within the interval are allowed.
        max_failures_per_interval: u32,
        /// The interval.
        interval_ms: u64,
        /// How long to wait before each restart.
        delay_ms: u64,
    },
}

/// What a [`Strategy`] has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start again after this many milliseconds.
    After(u64),
    /// Do not start again; says which limit was reached.
    GiveUp(String),
}

/// Keeps count of failures.
#[derive(Debug)]
pub(crate) struct Restarts {
    strategy: Strategy,
    failures: u32,
    last_failure: Option<i64>,
    /// How long the restart after the last failure was waited for.
    last_delay_ms: u64,
    recent: VecDeque<i64>,
    random: Random,
}

impl Restarts {
    /// No failure yet. `seed` is for jitter.
    pub(crate) fn new(strategy: Strategy, seed: u64) -> Self {
        Self {
            strategy,
            failures: 0,
            last_failure: None,
            last_delay_ms: 0,
            recent: VecDeque::new(),
            random: Random::new(seed),
        }
    }

    /// A failure has happened.
    pub(crate) fn on_failure(&mut self, now: i64) -> Decision {
        let decision = self.decide(now);
        self.last_failure = Some(now);
        if let Decision::After(delay_ms) = decision {
            self.last_delay_ms = delay_ms;
        }
        decision
    }

    fn decide(&mut self, now: i64) -> Decision {
        // Without the wait: how long the job has run.
        let ran_for = self.last_failure.map(|last| {
            now.saturating_sub(last)
                .saturating_sub_unsigned(self.last_delay_ms)
        });
        self.failures = self.failures.saturating_add(1);
        match self.strategy.clone() {
            Strategy::None => Decision::GiveUp("restart strategy is none".into()),
            Strategy::FixedDelay { attempts, delay_ms } => {
                if self.failures > attempts {
                    Decision::GiveUp(format!(
                        "restart strategy fixed-delay allows {attempts} attempts"
                    ))
                } else {
                    Decision::After(delay_ms)
                }
            }
            Strategy::ExponentialDelay {
                initial_backoff_ms,
                max_backoff_ms,
                backoff_multiplier,
                reset_backoff_threshold_ms,
                jitter_factor,
                attempts_before_reset,
            } => {
                let reset = i64::try_from(reset_backoff_threshold_ms).unwrap_or(i64::MAX);
                if ran_for.is_some_and(|ran_for| ran_for >= reset) {
                    self.failures = 1;
                }
                if let Some(attempts) = attempts_before_reset
                    && self.failures > attempts
                {
                    return Decision::GiveUp(format!(
                        "restart strategy exponential-delay allows {attempts} attempts"
                    ));
                }
                let power = (self.failures - 1).min(1 << 10) as i32;
                let backoff = (initial_backoff_ms as f64 * backoff_multiplier.powi(power))
                    .min(max_backoff_ms as f64);
                let jitter = 1.0 + jitter_factor * (2.0 * self.random.fraction() - 1.0);
                Decision::After((backoff * jitter).min(max_backoff_ms as f64) as u64)
            }
            Strategy::FailureRate {
                max_failures_per_interval,
                interval_ms,
                delay_ms,
            } => {
                self.recent.push_back(now);
                while self
                    .recent
                    .front()
                    .is_some_and(|first| now.abs_diff(*first) > interval_ms)
                {
                    self.recent.pop_front();
                }
                if self.recent.len() > max_failures_per_interval as usize {
                    Decision::GiveUp(format!(
                        "restart strategy failure-rate allows {max_failures_per_interval} failures in {interval_ms} ms"
                    ))
                } else {
                    Decision::After(delay_ms)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions(strategy: Strategy, failures_at: &[i64]) -> Vec<Option<u64>> {
        let mut restarts = Restarts::new(strategy, 7);
        failures_at
            .iter()
            .map(|at| match restarts.on_failure(*at) {
                Decision::After(delay) => Some(delay),
                Decision::GiveUp(_) => None,
            })
            .collect()
    }

    #[test]
    fn c52_none_gives_up_at_once() {
        assert_eq!(decisions(Strategy::None, &[0]), [None]);
    }

    #[test]
    fn c52_fixed_delay_gives_up_behind_its_last_attempt() {
        for attempts in 0..4 {
            let strategy = Strategy::FixedDelay {
                attempts,
                delay_ms: 10,
            };
            let times: Vec<i64> = (0..=i64::from(attempts)).map(|n| n * 1_000_000).collect();
            let decisions = decisions(strategy, &times);
            let (last, restarts) = decisions.split_last().unwrap();
            assert_eq!(restarts, vec![Some(10); attempts as usize]);
            assert_eq!(*last, None);
        }
    }

    fn exponential(attempts_before_reset: Option<u32>) -> Strategy {
        Strategy::ExponentialDelay {
            initial_backoff_ms: 100,
            max_backoff_ms: 500,
            backoff_multiplier: 2.0,
            reset_backoff_threshold_ms: 10_000,
            jitter_factor: 0.0,
            attempts_before_reset,
        }
    }

    #[test]
    fn c52_exponential_delay_grows_to_its_cap() {
        assert_eq!(
            decisions(exponential(None), &[0, 1, 2, 3, 4]),
            [Some(100), Some(200), Some(400), Some(500), Some(500)]
        );
        // Nor does it overflow.
        let many = decisions(exponential(None), &(0..5000).collect::<Vec<_>>());
        assert_eq!(many.last(), Some(&Some(500)));
    }

    #[test]
    fn c52_exponential_delay_starts_small_again_when_the_job_has_run_for_its_threshold() {
        // The second failure's delay is 200: until 1_200 nothing runs.
        assert_eq!(
            decisions(exponential(None), &[0, 1_000, 11_199]),
            [Some(100), Some(200), Some(400)]
        );
        assert_eq!(
            decisions(exponential(None), &[0, 1_000, 11_200, 11_300]),
            [Some(100), Some(200), Some(100), Some(200)]
        );
    }

    #[test]
    fn c52_exponential_delay_with_attempts_gives_up_unless_it_was_reset() {
        let strategy = || exponential(Some(2));
        assert_eq!(
            decisions(strategy(), &[0, 1, 2]),
            [Some(100), Some(200), None]
        );
        assert_eq!(
            decisions(strategy(), &[0, 1, 20_000, 20_001, 20_002]),
            [Some(100), Some(200), Some(100), Some(200), None]
        );
    }

    #[test]
    fn c52_jitter_stays_within_its_factor_and_its_cap() {
        let delays = |max_backoff_ms| {
            let strategy = Strategy::ExponentialDelay {
                initial_backoff_ms: 1000,
                max_backoff_ms,
                backoff_multiplier: 1.0,
                reset_backoff_threshold_ms: 1_000_000,
                jitter_factor: 0.1,
                attempts_before_reset: None,
            };
            let delays = decisions(strategy, &(0..1000).collect::<Vec<_>>());
            delays.into_iter().map(Option::unwrap).collect::<Vec<_>>()
        };
        let free = delays(10_000);
        assert!(free.iter().all(|delay| (900..=1100).contains(delay)));
        assert!(free.iter().any(|delay| *delay < 950) && free.iter().any(|delay| *delay > 1050));
        assert!(
            delays(1000)
                .iter()
                .all(|delay| (900..=1000).contains(delay))
        );
        // Another seed, other delays: jobs that fail together do not come back together.
        let mut other = Restarts::new(exponential(None), 8);
        if let Strategy::ExponentialDelay { jitter_factor, .. } = &mut other.strategy {
            *jitter_factor = 0.5;
        }
        let mut one = Restarts::new(other.strategy.clone(), 7);
        let differ = (0..10).any(|now| one.on_failure(now) != other.on_failure(now));
        assert!(differ);
    }

    #[test]
    fn c52_failure_rate_forgets_old_failures() {
        let strategy = || Strategy::FailureRate {
            max_failures_per_interval: 2,
            interval_ms: 100,
            delay_ms: 5,
        };
        assert_eq!(
            decisions(strategy(), &[0, 10, 200, 210, 220]),
            [Some(5), Some(5), Some(5), Some(5), None]
        );
        // Within the interval, and just after it.
        assert_eq!(decisions(strategy(), &[0, 10, 100]).last(), Some(&None));
        assert_eq!(decisions(strategy(), &[0, 10, 101]).last(), Some(&Some(5)));
    }
}
