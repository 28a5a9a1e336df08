//! Native sources, operators and sinks for whole jobs, and the oracle that judges what they commit.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use checkpoint::storage::FaultyStorage;
use checkpoint::store::{CheckpointStore, Options as StoreOptions};
use dataflow::state::{Resolved, StateDescriptor, StateKind};
use dataflow::{Batch, Cells, CheckpointId, KeyGroups};
use runtime::clock::SystemClock;
use runtime::coordinator::Settings;
use runtime::graph::{Edge, Node, NodeKind, OperatorNode};
use runtime::operator::{Call, Failure, FailureKind, Operator, OperatorFactory};
use runtime::restart::Strategy;
use runtime::source::{Part, SourceStatus};
use runtime::{
    BoxError, Job, JobEvent, JobGraph, JobHandle, Options, Outcome, Partition, Sink, SinkFactory,
    Source, SourceFactory, SubtaskContext,
};
use serde_json::json;

pub(crate) const KEYS: u64 = 100;

/// Record `i` of `count` has the key `i mod KEYS` and the value `i`. Each of four splits has every
/// fourth record.
struct Numbers {
    count: u64,
    flow: Flow,
}

/// How records come.
#[derive(Clone)]
pub(crate) enum Flow {
    /// As fast as they are taken.
    Free,
    /// A few at a time, with a pause behind them that is over at once: batches stay small, so that
    /// channels fill up.
    Trickle,
    /// With pauses for checkpoints.
    Paced(Pace),
}

/// Makes the moments of checkpoints a part of the input: after every so many records of each split
/// the source asks for a checkpoint and waits for its barrier. With one subtask every run takes as many
/// checkpoints; with several there are at least as many.
#[derive(Clone)]
pub(crate) struct Pace {
    pub(crate) records: u64,
    /// How many checkpoints each time.
    pub(crate) checkpoints: u32,
    pub(crate) handle: Arc<OnceLock<JobHandle>>,
}

impl Pace {
    pub(crate) fn every(records: u64) -> Self {
        Self {
            records,
            checkpoints: 1,
            handle: Arc::default(),
        }
    }
}

const SPLITS: u64 = 4;

struct NumbersSubtask {
    count: u64,
    /// Split and next index within it.
    splits: Vec<(u64, u64)>,
    flow: Flow,
    /// With a pace: how far each split may be read before the next checkpoint.
    until: u64,
    asked: bool,
    /// How many barriers there were since it was read so far.
    barriers: u32,
}

impl NumbersSubtask {
    fn at_pause(&self) -> bool {
        self.splits
            .iter()
            .all(|(split, next)| *next >= self.until || next * SPLITS + split >= self.count)
    }
}

impl SourceFactory for Numbers {
    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Source>, BoxError> {
        let mine =
            |split: u64| split % u64::from(context.parallelism) == u64::from(context.subtask);
        let splits: Vec<(u64, u64)> = match restored {
            None => (0..SPLITS)
                .filter(|split| mine(*split))
                .map(|split| (split, 0))
                .collect(),
            Some(parts) => parts
                .iter()
                .map(|part| {
                    (
                        part["split"].as_u64().unwrap(),
                        part["next"].as_u64().unwrap(),
                    )
                })
                .filter(|(split, _)| mine(*split))
                .collect(),
        };
        let read = splits.iter().map(|(_, next)| *next).min().unwrap_or(0);
        let until = match &self.flow {
            Flow::Free | Flow::Trickle => u64::MAX,
            Flow::Paced(pace) => (read / pace.records + 1) * pace.records,
        };
        Ok(Box::new(NumbersSubtask {
            count: self.count,
            splits,
            flow: self.flow.clone(),
            until,
            asked: false,
            barriers: 0,
        }))
    }

    fn describe_position(&self, restored: &[Part]) -> String {
        format!("at {restored:?}")
    }
}

impl Source for NumbersSubtask {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        for (split, next) in &mut self.splits {
            for _ in 0..7 {
                let record = *next * SPLITS + *split;
                if record >= self.count || *next >= self.until {
                    break;
                }
                *next += 1;
                let key = (record % KEYS).to_string();
                batch.push(
                    Some(key.as_bytes()),
                    record.to_string().as_bytes(),
                    dataflow::batch::NO_TIMESTAMP,
                );
            }
        }
        let done = self
            .splits
            .iter()
            .all(|(split, next)| next * SPLITS + split >= self.count);
        if done {
            return Ok(SourceStatus::Ended);
        }
        let pace = match &self.flow {
            Flow::Free => return Ok(SourceStatus::More),
            Flow::Trickle => return Ok(SourceStatus::Idle { until: Some(0) }),
            Flow::Paced(pace) => pace,
        };
        if !self.at_pause() {
            return Ok(SourceStatus::More);
        }
        if !std::mem::replace(&mut self.asked, true) {
            let handle = pace.handle.get().ok_or("the job has no handle yet")?;
            handle.trigger_checkpoint();
        }
        Ok(SourceStatus::Idle { until: None })
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        if let Flow::Paced(pace) = &self.flow
            && self.asked
        {
            self.asked = false;
            self.barriers += 1;
            if self.barriers == pace.checkpoints {
                self.until += pace.records;
                self.barriers = 0;
            }
        }
        Ok(self
            .splits
            .iter()
            .map(|(split, next)| json!({"split": split, "next": next}))
            .collect())
    }
}

/// Keeps the sum and count per key and emits `sum count` for every record.
pub(crate) struct Sum {
    /// Fails at this value, so many times over all instances.
    pub(crate) fail_at: Option<(u64, Arc<AtomicU32>)>,
    /// So many bytes more in each value of state.
    pub(crate) padding: usize,
}

impl OperatorFactory for Sum {
    fn create(&self, _: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        Ok(Box::new(Sum {
            fail_at: self.fail_at.clone(),
            padding: self.padding,
        }))
    }
}

fn decode(cell: &[u8]) -> (u64, u64) {
    if cell.is_empty() {
        return (0, 0);
    }
    (
        u64::from_le_bytes(cell[..8].try_into().unwrap()),
        u64::from_le_bytes(cell[8..16].try_into().unwrap()),
    )
}

impl Operator for Sum {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        let (mut values, mut absent) = (Cells::new(), Vec::new());
        call.state.load(0, None, &mut values, &mut absent).unwrap();
        let mut sums: Vec<(u64, u64)> = values.iter().map(decode).collect();
        let (mut out_keys, mut out_values) = (Cells::new(), Cells::new());
        for (record, number) in keys.numbers.iter().enumerate() {
            let value: u64 = std::str::from_utf8(batch.values.get(record))
                .unwrap()
                .parse()
                .unwrap();
            if let Some((at, times)) = &self.fail_at
                && *at == value
                && times
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok()
            {
                // Leave a mess that the runtime has to take back.
                call.state
                    .store(
                        0,
                        &[0],
                        [b"0123456789abcdef".as_slice()]
                            .into_iter()
                            .collect::<Cells>()
                            .as_ref(),
                    )
                    .unwrap();
                let junk: Cells = [b"junk".as_slice()].into_iter().collect();
                call.output
                    .emit(0, junk.as_ref(), junk.as_ref(), &[])
                    .unwrap();
                return Err(Failure::new(FailureKind::Trap, "planted"));
            }
            let sum = &mut sums[*number as usize];
            *sum = (sum.0 + value, sum.1 + 1);
            out_keys.push(keys.keys.get(*number as usize));
            out_values.push(format!("{} {}", sum.0, sum.1).as_bytes());
        }
        let numbers: Vec<u32> = (0..sums.len() as u32).collect();
        let mut cells = Cells::new();
        for (sum, count) in &sums {
            let mut cell = [sum.to_le_bytes(), count.to_le_bytes()].concat();
            cell.resize(16 + self.padding, 0);
            cells.push(&cell);
        }
        call.state.store(0, &numbers, cells.as_ref()).unwrap();
        // Both ways of emitting a key, as it comes.
        if keys.numbers.len().is_multiple_of(2) {
            call.output
                .emit_numbered(0, &keys.numbers, out_values.as_ref(), &[])
                .unwrap();
        } else {
            call.output
                .emit(0, out_keys.as_ref(), out_values.as_ref(), &[])
                .unwrap();
        }
        Ok(())
    }
}

/// Passes records on as they are.
pub(crate) struct Pass;

impl OperatorFactory for Pass {
    fn create(&self, _: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        Ok(Box::new(Pass))
    }
}

impl Operator for Pass {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        _: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        call.output
            .emit(
                0,
                batch.keys.as_ref(),
                batch.values.as_ref(),
                &batch.timestamps,
            )
            .unwrap();
        Ok(())
    }
}

/// What has been committed: (key, value) pairs, each output under its unique name so that committing
/// twice shows nothing twice.
pub(crate) type Committed = Arc<Mutex<BTreeMap<String, Vec<(String, String)>>>>;

/// A name and records.
type Output = (String, Vec<(String, String)>);

#[derive(Clone, Default)]
pub(crate) struct Collect {
    pub(crate) committed: Committed,
    /// Commits nothing any more once this has crashed: they are one process.
    pub(crate) process: Option<FaultyStorage>,
    /// A mistake: commits at the barrier what only the completed checkpoint may commit.
    pub(crate) commits_early: bool,
    /// Tells the outputs of this process from those of others with the same job id.
    pub(crate) run: u32,
}

struct CollectSubtask {
    committed: Committed,
    process: Option<FaultyStorage>,
    commits_early: bool,
    name: String,
    next: u64,
    written: Vec<(String, String)>,
    prepared: Vec<(CheckpointId, Output)>,
}

/// Idempotent, and never another output under a name that is taken.
fn commit(committed: &Committed, name: String, records: Vec<(String, String)>) {
    let mut committed = committed.lock().unwrap();
    if let Some(there) = committed.get(&name) {
        assert_eq!(*there, records, "two outputs are called {name}");
    }
    committed.insert(name, records);
}

impl SinkFactory for Collect {
    fn delivery(&self) -> runtime::Delivery {
        runtime::Delivery::ExactlyOnce
    }

    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Sink>, BoxError> {
        let mut next = 0;
        for (index, part) in restored.unwrap_or_default().iter().enumerate() {
            let (name, records): Output = serde_json::from_value(part.clone())?;
            next = next.max(name.rsplit('-').next().unwrap().parse::<u64>()? + 1);
            if index % context.parallelism as usize == context.subtask as usize {
                commit(&self.committed, name, records);
            }
        }
        let name = format!(
            "{}-{}-{}-{}",
            context.operator, context.job_id, self.run, context.subtask
        );
        Ok(Box::new(CollectSubtask {
            committed: Arc::clone(&self.committed),
            process: self.process.clone(),
            commits_early: self.commits_early,
            name,
            next: next + 1000 * u64::from(context.attempt),
            written: Vec::new(),
            prepared: Vec::new(),
        }))
    }
}

impl Sink for CollectSubtask {
    fn write(&mut self, batch: &Batch) -> Result<(), BoxError> {
        for index in 0..batch.len() {
            let text = |cell: &[u8]| String::from_utf8(cell.to_vec()).unwrap();
            self.written
                .push((text(batch.keys.get(index)), text(batch.values.get(index))));
        }
        Ok(())
    }

    fn prepare(&mut self, id: CheckpointId) -> Result<Vec<Part>, BoxError> {
        let name = format!("{}-{}", self.name, self.next);
        self.next += 1;
        let output = (name, std::mem::take(&mut self.written));
        self.prepared.push((id, output));
        let parts = self.prepared.iter().map(|(_, output)| json!(output));
        let parts = parts.collect();
        if self.commits_early {
            self.commit(id)?;
        }
        Ok(parts)
    }

    fn commit(&mut self, id: CheckpointId) -> Result<(), BoxError> {
        if self
            .process
            .as_ref()
            .is_some_and(FaultyStorage::has_crashed)
        {
            return Err("the process is gone".into());
        }
        // What was prepared for later checkpoints waits for theirs.
        let later = self
            .prepared
            .iter()
            .position(|(prepared, _)| *prepared > id)
            .unwrap_or(self.prepared.len());
        for (_, (name, records)) in self.prepared.drain(..later) {
            commit(&self.committed, name, records);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), BoxError> {
        assert!(
            self.written.is_empty() && self.prepared.is_empty(),
            "the job finished with output uncommitted"
        );
        Ok(())
    }
}

pub(crate) fn graph(count: u64, parallelism: u32, sum: Sum, sink: &Collect) -> JobGraph {
    graph_with(
        count,
        Flow::Free,
        [parallelism, parallelism],
        sum,
        Arc::new(sink.clone()),
    )
}

/// `numbers → pass ═ sum → sink`, the first two with one parallelism and the last two with another.
pub(crate) fn graph_with(
    count: u64,
    flow: Flow,
    [upstream, downstream]: [u32; 2],
    sum: Sum,
    sink: Arc<dyn SinkFactory>,
) -> JobGraph {
    let sums = StateDescriptor {
        name: "sums".into(),
        kind: StateKind::Value,
        schema: "u64,u64".into(),
        schema_version: 1,
        ttl_ms: None,
    };
    let operator = |factory: Arc<dyn OperatorFactory>, states| {
        NodeKind::Operator(OperatorNode {
            factory,
            states,
            outputs: 1,
            state_limit: None,
            state_memory: None,
            labels: BTreeMap::new(),
        })
    };
    let node = |id: &str, parallelism, kind, from: Option<usize>, partition| Node {
        id: id.into(),
        parallelism,
        inputs: from
            .map(|from| Edge {
                from,
                port: 0,
                input: 0,
                partition,
            })
            .into_iter()
            .collect(),
        kind,
    };
    JobGraph {
        nodes: vec![
            node(
                "numbers",
                upstream,
                NodeKind::Source(Arc::new(Numbers { count, flow })),
                None,
                Partition::Forward,
            ),
            node(
                "pass",
                upstream,
                operator(Arc::new(Pass), vec![]),
                Some(0),
                Partition::Forward,
            ),
            node(
                "sum",
                downstream,
                operator(Arc::new(sum), vec![sums]),
                Some(1),
                Partition::Hash,
            ),
            node(
                "sink",
                downstream,
                NodeKind::Sink(sink),
                Some(2),
                Partition::Forward,
            ),
        ],
        key_groups: KeyGroups::new(128).unwrap(),
    }
}

pub(crate) fn store_options() -> StoreOptions {
    StoreOptions {
        inline_threshold: 1024,
        retained: 2,
        ..StoreOptions::default()
    }
}

pub(crate) fn options(id: &str, interval_ms: Option<u64>, restart: Strategy) -> Options {
    Options {
        name: "sums".into(),
        id: id.into(),
        run: "00000000".into(),
        checkpoint: Settings {
            interval_ms,
            ..Settings::default()
        },
        mode: dataflow::alignment::Mode::ExactlyOnce,
        incremental: true,
        restart,
    }
}

pub(crate) fn fixed(attempts: u32) -> Strategy {
    Strategy::FixedDelay {
        attempts,
        delay_ms: 1,
    }
}

pub(crate) fn run(
    graph: JobGraph,
    options: Options,
    store: CheckpointStore,
    restore: Option<checkpoint::Completed>,
) -> (Outcome, Vec<JobEvent>) {
    run_paced(graph, options, store, restore, &Pace::every(1))
}

/// Runs a job whose source has this pace.
pub(crate) fn run_paced(
    graph: JobGraph,
    options: Options,
    store: CheckpointStore,
    restore: Option<checkpoint::Completed>,
    pace: &Pace,
) -> (Outcome, Vec<JobEvent>) {
    let job = Job::new(graph, options, store, restore, Arc::new(SystemClock::new()));
    assert!(pace.handle.set(job.handle()).is_ok(), "a pace is one job's");
    let mut events = Vec::new();
    let outcome = job.run(|event| events.push(event));
    (outcome, events)
}

/// All records that are committed, sorted.
pub(crate) fn records(committed: &Committed) -> Vec<(String, String)> {
    let committed = committed.lock().unwrap();
    let mut records: Vec<_> = committed.values().flatten().cloned().collect();
    records.sort();
    records
}

/// Checks the oracle: every (key, running count) was committed exactly once, with the right last sum.
pub(crate) fn check(committed: &Committed, count: u64) {
    let committed = committed.lock().unwrap();
    let mut counts: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut last: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (key, value) in committed.values().flatten() {
        let (sum, number) = value.split_once(' ').unwrap();
        let (key, sum, number): (u64, u64, u64) = (
            key.parse().unwrap(),
            sum.parse().unwrap(),
            number.parse().unwrap(),
        );
        counts.entry(key).or_default().push(number);
        let entry = last.entry(key).or_default();
        *entry = (*entry).max((number, sum));
    }
    for key in 0..KEYS.min(count) {
        let values: Vec<u64> = (0..count).filter(|value| value % KEYS == key).collect();
        let mut numbers = counts.remove(&key).unwrap_or_default();
        numbers.sort_unstable();
        assert_eq!(
            numbers,
            (1..=values.len() as u64).collect::<Vec<_>>(),
            "updates of key {key}"
        );
        assert_eq!(
            last[&key],
            (values.len() as u64, values.iter().sum()),
            "sum of key {key}"
        );
    }
    assert!(counts.is_empty(), "keys from nowhere: {counts:?}");
}

pub(crate) fn no_fault() -> Sum {
    Sum {
        fail_at: None,
        padding: 0,
    }
}
