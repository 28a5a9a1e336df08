//! Native sources, operators and sinks for whole jobs, and the oracle that judges what they commit.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use checkpoint::storage::FaultyStorage;
use checkpoint::store::{CheckpointStore, Options as StoreOptions};
use dataflow::Partition;
use dataflow::state::{Resolved, StateDescriptor, StateKind};
use dataflow::{Batch, Cells, CheckpointId, KeyGroups};
use operator::clock::SystemClock;
use operator::source::{Part, SourceStatus};
use operator::{
    BoxError, Call, Failure, FailureKind, JobIdentity, Operator, OperatorFactory, Origin,
    Permanent, Sink, SinkFactory, Source, SourceFactory, SubtaskContext, Withdrawn,
};
use runtime::coordinator::Settings;
use runtime::graph::{Edge, Node, NodeKind, OperatorNode};
use runtime::restart::Strategy;
use runtime::{Job, JobEvent, JobGraph, JobHandle, Options, Outcome};
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
    /// A few at a time, with a pause after them that is over at once: batches stay small, so that
    /// channels fill up.
    Trickle,
    /// With pauses for checkpoints.
    Paced(Pace),
}

/// Makes the moments of checkpoints a part of the input: after every few records of each split
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
    /// Fails at this value, this many times over all instances.
    pub(crate) fail_at: Option<(u64, Arc<AtomicU32>)>,
    /// This many bytes more in each value of state.
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

/// Outputs by their names: (key, value) pairs.
pub(crate) type Committed = Arc<Mutex<BTreeMap<String, Vec<(String, String)>>>>;

/// A sink that does what the file sink does, on a disk that outlives processes: staged output is keyed
/// by its name, the first subtask of an attempt removes what no restored part names, and a commit
/// publishes only what is there and is what its part says.
///
/// A copy is the sink of another process on the same disk.
#[derive(Default)]
pub(crate) struct Collect {
    pub(crate) committed: Committed,
    /// What is prepared and not committed.
    pub(crate) staged: Committed,
    /// Commits nothing any more once this has crashed: they are one process.
    pub(crate) process: Option<FaultyStorage>,
    /// A mistake: commits at the barrier what only the completed checkpoint may commit.
    pub(crate) commits_early: bool,
    /// Tells the outputs of this process from those of others with the same job id and generation.
    pub(crate) run: u32,
    /// A mistake: what is not there to be committed counts as committed.
    pub(crate) believes_names: bool,
    /// The attempt whose first subtask has cleaned up.
    pub(crate) cleaned_for: Arc<Mutex<Option<u32>>>,
}

impl Clone for Collect {
    fn clone(&self) -> Self {
        Self {
            committed: Arc::clone(&self.committed),
            staged: Arc::clone(&self.staged),
            process: self.process.clone(),
            commits_early: self.commits_early,
            run: self.run,
            believes_names: self.believes_names,
            cleaned_for: Arc::default(),
        }
    }
}

/// What a checkpoint says of an output.
#[derive(Debug)]
struct Output {
    staged: String,
    name: String,
    records: usize,
    checksum: u64,
    checkpoint: u64,
}

impl Output {
    fn part(&self) -> Part {
        let Self {
            staged,
            name,
            records,
            checksum,
            checkpoint,
        } = self;
        json!([staged, name, records, checksum, checkpoint])
    }

    fn read(part: &Part) -> Result<Self, BoxError> {
        let (staged, name, records, checksum, checkpoint) = serde_json::from_value(part.clone())?;
        Ok(Self {
            staged,
            name,
            records,
            checksum,
            checkpoint,
        })
    }

    /// Whether these are its records.
    fn has(&self, records: &[(String, String)]) -> bool {
        (self.records, self.checksum) == (records.len(), checksum(records))
    }
}

fn checksum(records: &[(String, String)]) -> u64 {
    dataflow::key::hash(json!(records).to_string().as_bytes())
}

struct CollectSubtask {
    sink: Collect,
    /// What the names of its outputs begin with: staged, and before and after the checkpoint when
    /// published.
    staged: String,
    name: [String; 2],
    next: u64,
    written: Vec<(String, String)>,
    prepared: Vec<Output>,
}

impl Collect {
    fn check_alive(&self) -> Result<(), BoxError> {
        match self
            .process
            .as_ref()
            .is_some_and(FaultyStorage::has_crashed)
        {
            true => Err("the process is gone".into()),
            false => Ok(()),
        }
    }

    /// Idempotent, and never another output under a name that is taken.
    fn commit(&self, output: &Output) -> Result<(), BoxError> {
        self.check_alive()?;
        let (mut staged, mut committed) =
            (self.staged.lock().unwrap(), self.committed.lock().unwrap());
        let name = &output.name;
        if let Some(there) = committed.get(name) {
            assert!(output.has(there), "two outputs are called {name}");
            return Ok(());
        }
        let what = match staged.get(&output.staged) {
            Some(records) if output.has(records) => {
                let records = staged.remove(&output.staged);
                committed.insert(name.clone(), records.unwrap_or_default());
                return Ok(());
            }
            Some(_) => "is not what was prepared",
            None if self.believes_names => return Ok(()),
            None => "is lost",
        };
        Err(Permanent::new(format!("{output:?} {what}")).into())
    }
}

/// The number that follows `before` at the start of a piece of a name, as in `c12` or `g3`.
pub(crate) fn number_in(name: &str, before: char) -> Option<u64> {
    let mut pieces = name.rsplit(['-', '/']);
    pieces.find_map(|piece| piece.strip_prefix(before)?.parse().ok())
}

/// The generation that wrote an output, by its name.
pub(crate) fn generation_of(name: &str) -> u64 {
    number_in(name, 'g').unwrap()
}

impl SinkFactory for Collect {
    fn delivery(&self) -> operator::Delivery {
        operator::Delivery::ExactlyOnce
    }

    fn withdraw(
        &self,
        origin: &Origin,
        after: u64,
        kept: Option<&[Part]>,
    ) -> Result<Withdrawn, BoxError> {
        self.check_alive()?;
        if let Some(kept) = kept {
            let kept: Vec<Output> = kept.iter().map(Output::read).collect::<Result<_, _>>()?;
            let of_job = format!("/{}/", origin.job.id);
            self.staged.lock().unwrap().retain(|name, _| {
                !name.contains(&of_job)
                    || generation_of(name) >= origin.generation
                    || kept.iter().any(|output| output.staged == *name)
            });
        }
        let of_job = format!("-{}-", origin.job.id);
        self.committed.lock().unwrap().retain(|name, _| {
            !name.contains(&of_job)
                || number_in(name, 'c').unwrap() > origin.through
                || number_in(name, 'c').unwrap() <= after
        });
        Ok(Withdrawn::default())
    }

    fn can_withdraw(&self) -> bool {
        true
    }

    fn abandon(&self, job: &JobIdentity, generation: u64) -> Result<(), BoxError> {
        self.check_alive()?;
        let of_job = format!("/{}/", job.id);
        let mut staged = self.staged.lock().unwrap();
        staged.retain(|name, _| !name.contains(&of_job) || generation_of(name) > generation);
        Ok(())
    }

    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Sink>, BoxError> {
        self.check_alive()?;
        let restored: Vec<Output> = restored
            .unwrap_or_default()
            .iter()
            .map(Output::read)
            .collect::<Result<_, _>>()?;
        let SubtaskContext {
            operator,
            job,
            generation,
            attempt,
            subtask,
            ..
        } = context;
        let mut cleaned_for = self.cleaned_for.lock().unwrap();
        if *cleaned_for != Some(*attempt) {
            // Of this job only: another's may be resumed.
            let of_job = format!("{operator}/{}/", job.id);
            let named = |name: &String| restored.iter().any(|output| output.staged == *name);
            let mut staged = self.staged.lock().unwrap();
            staged.retain(|name, _| {
                // Nothing of a successor: this process may have lost the job without knowing it.
                !name.starts_with(&of_job) || named(name) || generation_of(name) > *generation
            });
            *cleaned_for = Some(*attempt);
        }
        drop(cleaned_for);
        for (index, output) in restored.iter().enumerate() {
            if index % context.parallelism as usize == *subtask as usize {
                self.commit(output)?;
            }
        }
        let run = self.run;
        let staged = format!(
            "{operator}/{}/r{run}-g{generation}-a{attempt}-s{subtask}",
            job.id
        );
        let name = [
            format!("{operator}-{}-r{run}", job.id),
            format!("g{generation}-a{attempt}-s{subtask}"),
        ];
        Ok(Box::new(CollectSubtask {
            sink: Self {
                cleaned_for: Arc::clone(&self.cleaned_for),
                ..self.clone()
            },
            staged,
            name,
            next: 0,
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
        self.sink.check_alive()?;
        if !self.written.is_empty() {
            let records = std::mem::take(&mut self.written);
            let (number, [before, behind]) = (self.next, &self.name);
            let output = Output {
                staged: format!("{}-{number}", self.staged),
                name: format!("{before}-c{id}-{behind}-{number}", id = id.0),
                records: records.len(),
                checksum: checksum(&records),
                checkpoint: id.0,
            };
            self.next += 1;
            let mut staged = self.sink.staged.lock().unwrap();
            let taken = staged.insert(output.staged.clone(), records);
            assert!(taken.is_none(), "{output:?} is staged twice");
            self.prepared.push(output);
        }
        let parts = self.prepared.iter().map(Output::part).collect();
        if self.sink.commits_early {
            self.commit(id)?;
        }
        Ok(parts)
    }

    fn commit(&mut self, id: CheckpointId) -> Result<(), BoxError> {
        self.sink.check_alive()?;
        // What was prepared for later checkpoints waits for theirs.
        let (ready, later) = std::mem::take(&mut self.prepared)
            .into_iter()
            .partition(|output| output.checkpoint <= id.0);
        self.prepared = later;
        let ready: Vec<Output> = ready;
        ready.iter().try_for_each(|output| self.sink.commit(output))
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
        ttl: None,
    };
    let operator = |factory: Arc<dyn OperatorFactory>, states| {
        NodeKind::Operator(OperatorNode {
            factory,
            states,
            operator_states: Vec::new(),
            outputs: 1,
            state_limit: None,
            skip_overdue_timers: false,
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
        bad_records: None,
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
        timer_calls_max: 100,
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
