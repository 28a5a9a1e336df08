//! The metrics that one subtask's operator keeps.

use crate::wasm::wire::{WireMetricKind, protocol};
use runtime::Failure;

/// A metric and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Metric {
    /// Its name, as the operator registered it.
    pub(crate) name: String,
    /// What its value means.
    pub(crate) kind: MetricKind,
    /// Sum of a counter, last value of a gauge, sum of what a histogram observed.
    pub(crate) value: f64,
    /// How many values were recorded.
    pub(crate) count: u64,
    /// The smallest value recorded; infinite while there is none.
    pub(crate) min: f64,
    /// The largest value recorded; infinite while there is none.
    pub(crate) max: f64,
}

/// What a metric's value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricKind {
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
        if name.is_empty() || name.len() > Self::NAME_LEN_MAX || name.chars().any(char::is_control)
        {
            return Err(protocol(format!(
                "the name of a metric must have 1 to {} bytes without control characters",
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
