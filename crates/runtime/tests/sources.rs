//! What sources say beside records, and what they hear: watermarks, and which checkpoints are complete.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "tests wait, print and measure"
)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

// Beside the tests, because a module among them would be a test of its own.
#[path = "native/jobs.rs"]
mod native;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use checkpoint::store::CheckpointStore;
use dataflow::state::Resolved;
use dataflow::{Batch, CheckpointId, KeyGroups, Partition};
use operator::source::Part;
use operator::{
    BoxError, Call, Failure, Operator, OperatorFactory, Source, SourceFactory, SourceStatus,
    SubtaskContext,
};
use runtime::graph::{Edge, JobGraph, Node, NodeKind, OperatorNode};
use runtime::restart::Strategy;
use runtime::{JobEvent, Outcome};

use native::{Collect, options, run, store_options};

/// Watermarks of the subtasks, one after the other.
const WATERMARKS: [[i64; 2]; 2] = [[100, 200], [50, 300]];

/// Each subtask gives a record and a watermark, twice, and one more record when it has heard of a checkpoint that
/// was taken after the second one.
#[derive(Clone, Default)]
struct Waiting {
    /// The checkpoints that the subtasks have heard of.
    heard: Arc<Mutex<Vec<(u32, u64)>>>,
    /// How many subtasks have given both watermarks.
    ready: Arc<AtomicU32>,
}

struct WaitingSubtask {
    subtask: u32,
    parallelism: u32,
    given: usize,
    /// Barriers since all subtasks were ready.
    barriers: u32,
    may_end: bool,
    shared: Waiting,
}

impl SourceFactory for Waiting {
    fn create(
        &self,
        context: &SubtaskContext,
        _: Option<&[Part]>,
    ) -> Result<Box<dyn Source>, BoxError> {
        Ok(Box::new(WaitingSubtask {
            subtask: context.subtask,
            parallelism: context.parallelism,
            given: 0,
            barriers: 0,
            may_end: false,
            shared: self.clone(),
        }))
    }

    fn describe_position(&self, _: &[Part]) -> String {
        String::new()
    }
}

impl Source for WaitingSubtask {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        if self.given < 2 {
            batch.push(None, b"early", 1);
            self.given += 1;
            if self.given == 2 {
                self.shared.ready.fetch_add(1, Ordering::SeqCst);
            }
            return Ok(SourceStatus::More);
        }
        if !self.may_end {
            return Ok(SourceStatus::Idle { until: Some(0) });
        }
        batch.push(None, b"last", 1);
        Ok(SourceStatus::Ended)
    }

    fn watermark(&self) -> Option<i64> {
        let of_subtask = &WATERMARKS[self.subtask as usize];
        self.given.checked_sub(1).map(|last| of_subtask[last])
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        if self.shared.ready.load(Ordering::SeqCst) == self.parallelism {
            self.barriers += 1;
        }
        Ok(Vec::new())
    }

    fn checkpoint_complete(&mut self, id: CheckpointId) -> Result<(), BoxError> {
        let mut heard = self.shared.heard.lock().unwrap();
        heard.push((self.subtask, id.0));
        // The first barrier since then may have passed the other subtask before it was ready; the second one, of a
        // later checkpoint, has not. So all watermarks went before it.
        self.may_end = self.barriers >= 2;
        Ok(())
    }
}

/// A record's value, and the watermark when it came.
type Noted = (Vec<u8>, i64);

/// Notes the watermark at each record.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Noted>>>);

impl OperatorFactory for Seen {
    fn create(&self, _: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        Ok(Box::new(self.clone()))
    }
}

impl Operator for Seen {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        _: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        for value in batch.values.iter() {
            let mut seen = self.0.lock().unwrap();
            seen.push((value.to_vec(), call.watermark));
        }
        Ok(())
    }
}

fn job(partition: Partition, sources: u32, operators: u32) -> (Seen, Waiting, Vec<JobEvent>) {
    let (seen, source) = (Seen::default(), Waiting::default());
    let edge = |from| Edge {
        from,
        port: 0,
        input: 0,
        partition,
    };
    let node = |id: &str, parallelism, inputs, kind| Node {
        id: id.to_owned(),
        parallelism,
        inputs,
        kind,
        bad_records: None,
    };
    let operator = OperatorNode {
        factory: Arc::new(seen.clone()),
        states: Vec::new(),
        operator_states: Vec::new(),
        outputs: 1,
        state_limit: None,
        skip_overdue_timers: false,
        state_memory: None,
        labels: BTreeMap::new(),
    };
    let graph = JobGraph {
        nodes: vec![
            node(
                "source",
                sources,
                Vec::new(),
                NodeKind::Source(Arc::new(source.clone())),
            ),
            node(
                "seen",
                operators,
                vec![edge(0)],
                NodeKind::Operator(operator),
            ),
            node(
                "sink",
                operators,
                vec![Edge {
                    partition: Partition::Forward,
                    ..edge(1)
                }],
                NodeKind::Sink(Arc::new(Collect::default())),
            ),
        ],
        key_groups: KeyGroups::new(128).unwrap(),
    };
    let (outcome, events) = run(
        graph,
        options("j", Some(5), Strategy::None),
        CheckpointStore::memory(store_options()),
        None,
    );
    assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
    (seen, source, events)
}

#[test]
fn the_watermark_of_an_operator_is_the_lowest_of_its_sources() {
    let (seen, source, events) = job(Partition::Rebalance, 2, 1);
    let seen = seen.0.lock().unwrap();
    let last: Vec<i64> = seen
        .iter()
        .filter(|(value, _)| value == b"last")
        .map(|(_, watermark)| *watermark)
        .collect();
    // The one that has ended holds nothing back any more.
    assert!(matches!(last[..], [200, 200 | 300]), "{seen:?}");
    let watermarks: Vec<i64> = seen.iter().map(|(_, watermark)| *watermark).collect();
    assert!(watermarks.is_sorted(), "{seen:?}");
    assert_eq!(
        watermarks[0],
        i64::MIN,
        "a record goes before its own watermark"
    );
    // Both heard of each completed checkpoint, but for the last one of the job perhaps.
    let completed: Vec<u64> = events
        .iter()
        .filter_map(|event| match event {
            JobEvent::CheckpointCompleted { id, .. } => Some(*id),
            _ => None,
        })
        .collect();
    let heard = source.heard.lock().unwrap();
    for subtask in 0..2 {
        let of_subtask = heard.iter().filter(|(it, _)| *it == subtask);
        let ids: Vec<u64> = of_subtask.map(|(_, id)| *id).collect();
        assert!(
            ids.len() >= 2 && completed.starts_with(&ids),
            "{completed:?} {heard:?}"
        );
    }
}

#[test]
fn a_watermark_passes_through_a_chain() {
    let (seen, _, _) = job(Partition::Forward, 1, 1);
    let seen = seen.0.lock().unwrap();
    let early = || b"early".to_vec();
    let expected = [(early(), i64::MIN), (early(), 100), (b"last".to_vec(), 200)];
    assert_eq!(*seen, expected);
}
