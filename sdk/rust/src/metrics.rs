//! An operator's metrics: counted in the guest, reported to the host once per call.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use crate::bindings::highwater::operator::metrics::Kind;
use crate::host::Host;

/// What the current call has recorded, for all of an operator's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    host: Host,
    /// Whether metrics can be registered: not while an operator is only described.
    registers: bool,
    recorded: RefCell<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    /// Where a metric's value stands in `values`, for counters and gauges.
    position: Vec<Option<usize>>,
    metrics: Vec<u32>,
    values: Vec<f64>,
}

impl Metrics {
    pub(crate) fn new(host: Host, registers: bool) -> Self {
        Self {
            host,
            registers,
            recorded: RefCell::default(),
        }
    }

    pub(crate) fn register(self: &Rc<Self>, kind: Kind, name: &str) -> Metric {
        let number = if self.registers {
            self.host.register_metric(kind, name)
        } else {
            0
        };
        let positions = &mut self.recorded.borrow_mut().position;
        if positions.len() <= number as usize {
            positions.resize(number as usize + 1, None);
        }
        Metric {
            metrics: Rc::clone(self),
            number,
        }
    }

    /// The call succeeds: tells the host.
    pub(crate) fn flush(&self) {
        let mut recorded = self.recorded.borrow_mut();
        if !recorded.metrics.is_empty() {
            self.host
                .record_metrics(&recorded.metrics, &recorded.values);
            recorded.reset();
        }
    }

    /// The call failed: forgets what it recorded.
    pub(crate) fn discard(&self) {
        self.recorded.borrow_mut().reset();
    }
}

impl Recorded {
    fn reset(&mut self) {
        for metric in self.metrics.drain(..) {
            self.position[metric as usize] = None;
        }
        self.values.clear();
    }

    fn push(&mut self, metric: u32, value: f64) -> usize {
        self.metrics.push(metric);
        self.values.push(value);
        self.values.len() - 1
    }

    /// The metric's one value in this call.
    fn value(&mut self, metric: u32) -> &mut f64 {
        let position = match self.position[metric as usize] {
            Some(position) => position,
            None => {
                let position = self.push(metric, 0.0);
                self.position[metric as usize] = Some(position);
                position
            }
        };
        &mut self.values[position]
    }
}

pub(crate) struct Metric {
    metrics: Rc<Metrics>,
    number: u32,
}

/// Counts up; see [`OpenContext::counter`](crate::OpenContext::counter).
#[derive(Debug)]
pub struct Counter(pub(crate) Metric);

impl Counter {
    /// Adds to the count.
    pub fn add(&self, count: u64) {
        *self.0.metrics.recorded.borrow_mut().value(self.0.number) += count as f64;
    }
}

/// Shows the last value set; see [`OpenContext::gauge`](crate::OpenContext::gauge).
#[derive(Debug)]
pub struct Gauge(pub(crate) Metric);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        *self.0.metrics.recorded.borrow_mut().value(self.0.number) = value;
    }
}

/// Shows how values are distributed; see [`OpenContext::histogram`](crate::OpenContext::histogram).
#[derive(Debug)]
pub struct Histogram(pub(crate) Metric);

impl Histogram {
    /// Adds a value.
    pub fn observe(&self, value: f64) {
        self.0
            .metrics
            .recorded
            .borrow_mut()
            .push(self.0.number, value);
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}
