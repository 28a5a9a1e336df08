//! The metrics that one subtask's operator keeps.
//!
//! They are about the work that this process has done: they are in no checkpoint, and records that are
//! processed again after a failure count again. A call that fails records nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use operator::Failure;
use operator::text::shown;

use super::wire::{WireMetricKind, protocol};

/// A metric and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name, as the operator registered it.
    pub name: String,
    /// What its value means.
    pub kind: MetricKind,
    /// Sum of a counter, last value of a gauge, sum of what a histogram observed.
    pub value: f64,
    /// How many values were recorded.
    pub count: u64,
    /// The smallest value recorded; infinite while there is none.
    pub min: f64,
    /// The largest value recorded; infinite while there is none.
    pub max: f64,
}

/// What a metric's value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It observes.
    Histogram,
}

/// The metrics of a subtask. They outlive an instance that trapped: the next one registers the same
/// names and continues.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    metrics: Vec<Metric>,
    /// What they were before the current call, if it has recorded something.
    before: Option<Vec<Values>>,
}

/// What a call changes of a metric.
#[derive(Clone, Copy, Debug)]
struct Values {
    value: f64,
    count: u64,
    min: f64,
    max: f64,
}

/// The metrics of a subtask; nothing that panics is done while they are held.
pub(super) fn lock(metrics: &Mutex<Metrics>) -> MutexGuard<'_, Metrics> {
    metrics.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metric {
    /// A counter of the host's own about an operator.
    pub(crate) fn counter(name: &str, count: u64) -> Self {
        Self {
            name: name.to_owned(),
            kind: MetricKind::Counter,
            value: count as f64,
            count,
            min: 1.0,
            max: 1.0,
        }
    }

    /// Adds what another subtask has under the same name.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.value += other.value;
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    fn values(&self) -> Values {
        Values {
            value: self.value,
            count: self.count,
            min: self.min,
            max: self.max,
        }
    }
}

impl Metrics {
    const COUNT_MAX: usize = 256;
    const NAME_LEN_MAX: usize = 128;

    /// The number of the metric with this name.
    pub(super) fn register(&mut self, kind: WireMetricKind, name: &str) -> Result<u32, Failure> {
        let kind = match kind {
            WireMetricKind::Counter => MetricKind::Counter,
            WireMetricKind::Gauge => MetricKind::Gauge,
            WireMetricKind::Histogram => MetricKind::Histogram,
        };
        if let Some(number) = self.metrics.iter().position(|metric| metric.name == name) {
            if self.metrics[number].kind != kind {
                return Err(protocol(format!(
                    "metric `{name}` is registered as another kind"
                )));
            }
            return Ok(number as u32);
        }
        if name.is_empty() || shown(name, Self::NAME_LEN_MAX) != name {
            return Err(protocol(format!(
                "the name of a metric must have 1 to {} bytes, without control characters and marks \
                 that reorder text",
                Self::NAME_LEN_MAX
            )));
        }
        if self.metrics.len() == Self::COUNT_MAX {
            return Err(protocol(format!(
                "an operator can have at most {} metrics",
                Self::COUNT_MAX
            )));
        }
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        self.metrics.push(Metric {
            name: name.to_owned(),
            kind,
            value: 0.0,
            count: 0,
            min,
            max,
        });
        Ok(self.metrics.len() as u32 - 1)
    }

    /// Records value `i` in metric `numbers[i]`.
    pub(super) fn record(
        &mut self,
        numbers: &[u32],
        values: impl ExactSizeIterator<Item = f64>,
    ) -> Result<(), Failure> {
        if numbers.len() != values.len() {
            return Err(protocol(format!(
                "{} metrics, but {} values",
                numbers.len(),
                values.len()
            )));
        }
        if self.before.is_none() && !numbers.is_empty() {
            self.before = Some(self.metrics.iter().map(Metric::values).collect());
        }
        for (number, value) in numbers.iter().zip(values) {
            let count = self.metrics.len();
            let metric = self.metrics.get_mut(*number as usize).ok_or_else(|| {
                protocol(format!(
                    "there is no metric {number}, the operator has {count}"
                ))
            })?;
            match metric.kind {
                MetricKind::Counter | MetricKind::Histogram => metric.value += value,
                MetricKind::Gauge => metric.value = value,
            }
            metric.count += 1;
            metric.min = metric.min.min(value);
            metric.max = metric.max.max(value);
        }
        Ok(())
    }

    /// The call has returned ok.
    pub(super) fn commit(&mut self) {
        self.before = None;
    }

    /// The call has failed, or was only a try.
    pub(super) fn rollback(&mut self) {
        let before = self.before.take().unwrap_or_default();
        for (metric, before) in self.metrics.iter_mut().zip(before) {
            let Values {
                value,
                count,
                min,
                max,
            } = before;
            (metric.value, metric.count) = (value, count);
            (metric.min, metric.max) = (min, max);
        }
    }

    /// A copy of all metrics.
    pub(super) fn read(&self) -> Vec<Metric> {
        self.metrics.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_and_gauges_replace() {
        let mut metrics = Metrics::default();
        let counter = metrics.register(WireMetricKind::Counter, "seen").unwrap();
        let gauge = metrics.register(WireMetricKind::Gauge, "level").unwrap();
        assert_eq!(
            metrics.register(WireMetricKind::Counter, "seen").unwrap(),
            counter
        );
        metrics
            .record(
                &[counter, gauge, counter, gauge],
                [1.0, 7.0, 2.0, 5.0].into_iter(),
            )
            .unwrap();
        let values: Vec<f64> = metrics.read().iter().map(|metric| metric.value).collect();
        assert_eq!(values, [3.0, 5.0]);
    }

    #[test]
    fn c154_a_call_that_fails_records_nothing() {
        let mut metrics = Metrics::default();
        let counter = metrics.register(WireMetricKind::Counter, "seen").unwrap();
        let gauge = metrics.register(WireMetricKind::Gauge, "level").unwrap();
        let record = |metrics: &mut Metrics| {
            metrics
                .record(&[counter, gauge], [1.0, 7.0].into_iter())
                .unwrap();
        };
        record(&mut metrics);
        metrics.commit();
        let kept = metrics.read();
        record(&mut metrics);
        record(&mut metrics);
        metrics.rollback();
        assert_eq!(metrics.read(), kept);
        metrics.rollback();
        assert_eq!(metrics.read(), kept);
    }

    #[test]
    fn c154_subtasks_are_taken_together() {
        let metric = |value, count, min, max| Metric {
            name: "m".into(),
            kind: MetricKind::Histogram,
            value,
            count,
            min,
            max,
        };
        let mut sum = metric(0.0, 0, f64::INFINITY, f64::NEG_INFINITY);
        sum.merge(&metric(3.0, 2, 1.0, 2.0));
        sum.merge(&metric(-1.0, 1, -1.0, -1.0));
        assert_eq!(sum, metric(2.0, 3, -1.0, 2.0));
    }

    #[test]
    fn the_table_does_not_grow_without_bound() {
        let mut metrics = Metrics::default();
        for number in 0..Metrics::COUNT_MAX {
            metrics
                .register(WireMetricKind::Counter, &number.to_string())
                .unwrap();
        }
        assert!(
            metrics
                .register(WireMetricKind::Counter, "one more")
                .is_err()
        );
        assert!(metrics.record(&[9999], [1.0].into_iter()).is_err());
        assert!(metrics.record(&[0], [].into_iter()).is_err());
    }
}
