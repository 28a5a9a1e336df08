//! What is put around the nodes of a job to see more of it: sources that stamp, operators that note when
//! they begin, sinks that look.

mod steps;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dataflow::{Batch, CheckpointId};
use operator::source::Part;
use operator::{BoxError, Sink, SinkFactory, Source, SourceFactory, SourceStatus, SubtaskContext};
use runtime::JobGraph;
use runtime::graph::NodeKind;

pub(crate) use steps::steps;

/// What sinks have seen, for all of them.
type Seen<T> = Arc<Mutex<Vec<T>>>;

fn add<T>(seen: &Seen<T>, more: impl IntoIterator<Item = T>) {
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(more);
}

/// Takes what was seen.
pub(crate) fn take<T>(seen: &Seen<T>) -> Vec<T> {
    std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Stamps every record with the time at which it was due at a steady `rate`, not with that at which
/// it left: what waits because the job does not keep up is late, and is measured as such. Returns the
/// latencies that the sinks see, in microseconds.
pub(crate) fn latencies(graph: &mut JobGraph, rate: f64) -> Seen<u32> {
    let origin = Instant::now();
    let seen = Seen::default();
    for node in &mut graph.nodes {
        match &mut node.kind {
            NodeKind::Source(factory) => {
                *factory = Arc::new(Stamping {
                    inner: Arc::clone(factory),
                    origin,
                    rate,
                });
            }
            NodeKind::Sink(factory) => {
                let seen = Arc::clone(&seen);
                *factory = Arc::new(Sinks(Box::new(move || {
                    Box::new(Latency {
                        origin,
                        seen: Arc::clone(&seen),
                    })
                })));
            }
            NodeKind::Operator(_) => {}
        }
    }
    seen
}

struct Stamping {
    inner: Arc<dyn SourceFactory>,
    origin: Instant,
    rate: f64,
}

impl SourceFactory for Stamping {
    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Source>, BoxError> {
        Ok(Box::new(StampingSource {
            inner: self.inner.create(context, restored)?,
            origin: self.origin,
            start_us: None,
            step_us: 1e6 / (self.rate / f64::from(context.parallelism)),
            count: 0,
        }))
    }

    fn describe_position(&self, restored: &[Part]) -> String {
        self.inner.describe_position(restored)
    }
}

struct StampingSource {
    inner: Box<dyn Source>,
    origin: Instant,
    start_us: Option<f64>,
    step_us: f64,
    count: u64,
}

impl Source for StampingSource {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        let before = batch.len();
        let status = self.inner.poll(batch)?;
        let now = self.origin.elapsed().as_secs_f64() * 1e6;
        let due = self.count..self.count + (batch.len() - before) as u64;
        self.count = due.end;
        // The generator counts in whole milliseconds, so it may be up to one ahead of us: nothing is
        // made before it is due.
        let latest = now - due.end.saturating_sub(1) as f64 * self.step_us;
        let start = self.start_us.map_or(latest, |start| start.min(latest));
        self.start_us = Some(start);
        batch.timestamps.truncate(before);
        batch
            .timestamps
            .extend(due.map(|index| (start + index as f64 * self.step_us) as i64));
        Ok(status)
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        self.inner.snapshot()
    }
}

/// Makes the sinks that take the place of the job's own.
struct Sinks(Box<dyn Fn() -> Box<dyn Sink> + Send + Sync>);

impl SinkFactory for Sinks {
    fn delivery(&self) -> operator::Delivery {
        operator::Delivery::Nothing
    }

    fn create(&self, _: &SubtaskContext, _: Option<&[Part]>) -> Result<Box<dyn Sink>, BoxError> {
        Ok((self.0)())
    }
}

struct Latency {
    origin: Instant,
    seen: Seen<u32>,
}

impl Sink for Latency {
    fn write(&mut self, batch: &Batch) -> Result<(), BoxError> {
        let now = self.origin.elapsed().as_micros() as i64;
        let late = |due: &i64| u32::try_from(now - due).unwrap_or(0);
        add(&self.seen, batch.timestamps.iter().map(late));
        Ok(())
    }

    fn prepare(&mut self, _: CheckpointId) -> Result<Vec<Part>, BoxError> {
        Ok(Vec::new())
    }

    fn commit(&mut self, _: CheckpointId) -> Result<(), BoxError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Counts the distinct keys between barriers, as the sinks see them: those that a checkpoint has to
/// write. Keys end in their number, below `keys`.
pub(crate) fn changed(graph: &mut JobGraph, keys: u64) -> Seen<(u64, u64)> {
    let seen = Seen::default();
    for node in &mut graph.nodes {
        if let NodeKind::Sink(factory) = &mut node.kind {
            let seen = Arc::clone(&seen);
            *factory = Arc::new(Sinks(Box::new(move || {
                Box::new(Changed {
                    bits: vec![0; keys.div_ceil(64) as usize],
                    seen: Arc::clone(&seen),
                })
            })));
        }
    }
    seen
}

struct Changed {
    bits: Vec<u64>,
    seen: Seen<(u64, u64)>,
}

impl Sink for Changed {
    fn write(&mut self, batch: &Batch) -> Result<(), BoxError> {
        for key in batch.keys.iter() {
            let digits = key.iter().filter(|byte| byte.is_ascii_digit());
            let number = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
            let word = self
                .bits
                .get_mut(number / 64)
                .ok_or("a key has a higher number than there are keys")?;
            *word |= 1 << (number % 64);
        }
        Ok(())
    }

    fn prepare(&mut self, id: CheckpointId) -> Result<Vec<Part>, BoxError> {
        let changed = self
            .bits
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum();
        add(&self.seen, [(id.0, changed)]);
        self.bits.fill(0);
        Ok(Vec::new())
    }

    fn commit(&mut self, _: CheckpointId) -> Result<(), BoxError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}
