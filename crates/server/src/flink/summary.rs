//! The least, the largest and what is between.

use serde_json::{Value, json};

use super::long;

/// The numbers of a summary, sorted.
pub(super) struct Numbers(Vec<u64>);

impl Numbers {
    /// Those that are given.
    pub(super) fn new(numbers: impl IntoIterator<Item = u64>) -> Self {
        let mut numbers: Vec<u64> = numbers.into_iter().collect();
        numbers.sort_unstable();
        Self(numbers)
    }

    /// All of them; at most what fits.
    pub(super) fn sum(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, number| sum.saturating_add(*number))
    }

    fn least(&self) -> u64 {
        self.0.first().copied().unwrap_or_default()
    }

    fn largest(&self) -> u64 {
        self.0.last().copied().unwrap_or_default()
    }

    /// The mean, rounded down.
    fn mean(&self) -> u64 {
        let sum: u128 = self.0.iter().map(|number| u128::from(*number)).sum();
        let count = self.0.len().max(1) as u128;
        u64::try_from(sum / count).unwrap_or(u64::MAX)
    }

    /// A percentile as Flink estimates it: with `n` numbers the rank is `percent / 100 × (n + 1)`, and between two
    /// ranks it is interpolated. A rank below the first number is the first, one above the last is the last. 0 if
    /// there are no numbers.
    pub(super) fn percentile(&self, percent: f64) -> f64 {
        let rank = percent / 100.0 * (self.0.len() as f64 + 1.0);
        let whole = rank.floor();
        if whole < 1.0 {
            return self.least() as f64;
        }
        // `whole` is at least 1 and at most the count plus one.
        let below = self.0.get(whole as usize - 1);
        let above = self.0.get(whole as usize);
        match (below, above) {
            (Some(below), Some(above)) => {
                let (below, above) = (*below as f64, *above as f64);
                below + (rank - whole) * (above - below)
            }
            _ => self.largest() as f64,
        }
    }

    /// As Flink summarises checkpoints.
    pub(super) fn statistics(&self) -> Value {
        json!({
            "min": long(self.least()),
            "max": long(self.largest()),
            "avg": long(self.mean()),
            "p50": self.percentile(50.0),
            "p90": self.percentile(90.0),
            "p95": self.percentile(95.0),
            "p99": self.percentile(99.0),
            "p999": self.percentile(99.9),
        })
    }

    /// As Flink summarises the subtasks of a vertex: whole numbers.
    pub(super) fn aggregate(&self) -> Value {
        // A float that is too large becomes the largest integer.
        let percentile = |percent| self.percentile(percent) as i64;
        json!({
            "min": long(self.least()),
            "max": long(self.largest()),
            "avg": long(self.mean()),
            "sum": long(self.sum()),
            "median": percentile(50.0),
            "p25": percentile(25.0),
            "p75": percentile(75.0),
            "p95": percentile(95.0),
        })
    }
}
