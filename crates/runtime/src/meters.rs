//! What the subtasks of an attempt measure of themselves, for who looks at the running job.
//!
//! A subtask writes its own meter and nobody else's: a few stores per batch, and two looks at the clock where it
//! has to wait. Whoever reads may come at any time, from any thread.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dataflow::Partition;
use dataflow::watermark::{END, NO_WATERMARK};
use operator::Usage;
use operator::clock::Clock;

use crate::graph::{JobGraph, NodeKind};
use crate::plan::ExecutionPlan;

/// What subtasks of an attempt do, vertex by vertex, producers before consumers. Nodes that share threads are
/// one vertex.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VertexReport {
    /// Its nodes, in the order in which records pass them.
    pub members: Vec<NodeInfo>,
    /// The vertices that its records come from, by their places in the list.
    pub inputs: Vec<(usize, Partition)>,
    /// Its subtasks.
    pub subtasks: Vec<SubtaskReport>,
}

/// A node of the graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its id.
    pub id: String,
    /// `source`, `operator` or `sink`.
    pub kind: &'static str,
    /// The ids of the nodes that its records come from.
    pub inputs: Vec<String>,
}

/// What a subtask has done since its attempt began. It is always at one of the three things that are timed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubtaskReport {
    /// Microseconds in which it worked.
    pub busy_us: u64,
    /// Microseconds in which it had nothing to do.
    pub idle_us: u64,
    /// Microseconds in which there was no room for its output.
    pub back_pressured_us: u64,
    /// Its watermark; `None` before the first and after the last.
    pub watermark: Option<i64>,
    /// What its members have done, in their order.
    pub members: Vec<MemberReport>,
}

/// What a member of a subtask has done since its attempt began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberReport {
    /// Records that it has taken; of a source those that it has read.
    pub records_in: u64,
    /// Records that it has handed on, to however many consumers. Dead letters count too.
    pub records_out: u64,
    /// Bytes of keys and values in its keyed state at its last snapshot.
    pub state_bytes: u64,
    /// Keys in its keyed state at its last snapshot.
    pub state_keys: u64,
    /// What the calls of its operator have cost; of a source or a sink nothing is known.
    pub usage: Option<Usage>,
}

/// What a subtask does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It works.
    Work,
    /// It waits for input.
    Idle,
    /// It waits until there is room for its output.
    BackPressure,
    /// It is over.
    Nothing,
}

/// How long a subtask was at what. Behind one lock: who reads has to see the sums and what is done at present together.
/// The subtask takes it only where it begins to do something else.
#[derive(Debug)]
struct Times {
    doing: Doing,
    since_us: i64,
    busy_us: u64,
    idle_us: u64,
    back_pressured_us: u64,
}

impl Times {
    /// Adds the time until now to what is done at present.
    fn settle(&mut self, now_us: i64) {
        // Whoever reads has looked at the clock before the subtask has, and came second.
        let Ok(took) = u64::try_from(now_us.saturating_sub(self.since_us)) else {
            return;
        };
        let sum = match self.doing {
            Doing::Work => &mut self.busy_us,
            Doing::Idle => &mut self.idle_us,
            Doing::BackPressure => &mut self.back_pressured_us,
            Doing::Nothing => return,
        };
        *sum += took;
        self.since_us = now_us;
    }
}

/// The meter of a subtask.
#[derive(Debug)]
pub(crate) struct SubtaskMeter {
    times: Mutex<Times>,
    watermark: AtomicI64,
    members: Box<[MemberMeter]>,
}

#[derive(Debug, Default)]
struct MemberMeter {
    records_in: AtomicU64,
    records_out: AtomicU64,
    state_bytes: AtomicU64,
    state_keys: AtomicU64,
    calls: AtomicU64,
    call_ns: AtomicU64,
    memory: AtomicU64,
}

impl MemberMeter {
    fn usage(&self) -> Option<Usage> {
        let calls = self.calls.load(Ordering::Relaxed);
        (calls > 0).then(|| Usage {
            calls,
            time: Duration::from_nanos(self.call_ns.load(Ordering::Relaxed)),
            memory: self.memory.load(Ordering::Relaxed),
        })
    }
}

/// Adds to a number that only this thread changes.
fn add(number: &AtomicU64, more: u64) {
    let sum = number.load(Ordering::Relaxed).wrapping_add(more);
    number.store(sum, Ordering::Relaxed);
}

impl SubtaskMeter {
    fn new(members: usize, now_us: i64) -> Self {
        Self {
            times: Mutex::new(Times {
                doing: Doing::Idle,
                since_us: now_us,
                busy_us: 0,
                idle_us: 0,
                back_pressured_us: 0,
            }),
            watermark: AtomicI64::new(NO_WATERMARK),
            members: (0..members).map(|_| MemberMeter::default()).collect(),
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        // Nothing in there can panic.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the subtask does this.
    pub(crate) fn begin(&self, doing: Doing, now_us: i64) {
        let mut times = self.times();
        times.settle(now_us);
        times.doing = doing;
    }

    /// A member has taken records.
    pub(crate) fn taken(&self, member: usize, records: usize) {
        if let Some(member) = self.members.get(member) {
            add(&member.records_in, records as u64);
        }
    }

    /// A member has handed on records.
    pub(crate) fn handed_on(&self, member: usize, records: usize) {
        if let Some(member) = self.members.get(member) {
            add(&member.records_out, records as u64);
        }
    }

    /// The subtask's watermark is this now.
    pub(crate) fn watermark(&self, watermark: i64) {
        self.watermark.store(watermark, Ordering::Relaxed);
    }

    /// What a member's keyed state holds.
    pub(crate) fn state(&self, member: usize, bytes: u64, keys: u64) {
        if let Some(member) = self.members.get(member) {
            member.state_bytes.store(bytes, Ordering::Relaxed);
            member.state_keys.store(keys, Ordering::Relaxed);
        }
    }

    /// What the calls of a member's operator have cost so far.
    pub(crate) fn usage(&self, member: usize, usage: Usage) {
        if let Some(member) = self.members.get(member) {
            let ns = u64::try_from(usage.time.as_nanos()).unwrap_or(u64::MAX);
            member.calls.store(usage.calls, Ordering::Relaxed);
            member.call_ns.store(ns, Ordering::Relaxed);
            member.memory.store(usage.memory, Ordering::Relaxed);
        }
    }

    /// Bytes of keyed state of all members at the last snapshot.
    pub(crate) fn state_bytes(&self) -> u64 {
        let bytes = |member: &MemberMeter| member.state_bytes.load(Ordering::Relaxed);
        self.members.iter().map(bytes).sum()
    }

    fn report(&self, now_us: i64) -> SubtaskReport {
        let (busy_us, idle_us, back_pressured_us) = {
            let mut times = self.times();
            times.settle(now_us);
            (times.busy_us, times.idle_us, times.back_pressured_us)
        };
        let watermark = self.watermark.load(Ordering::Relaxed);
        let of_member = |member: &MemberMeter| MemberReport {
            records_in: member.records_in.load(Ordering::Relaxed),
            records_out: member.records_out.load(Ordering::Relaxed),
            state_bytes: member.state_bytes.load(Ordering::Relaxed),
            state_keys: member.state_keys.load(Ordering::Relaxed),
            usage: member.usage(),
        };
        SubtaskReport {
            busy_us,
            idle_us,
            back_pressured_us,
            watermark: Some(watermark).filter(|it| *it != NO_WATERMARK && *it != END),
            members: self.members.iter().map(of_member).collect(),
        }
    }
}

/// The meters of an attempt.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    vertices: Vec<VertexMeters>,
}

#[derive(Debug)]
struct VertexMeters {
    members: Vec<NodeInfo>,
    inputs: Vec<(usize, Partition)>,
    subtasks: Vec<Arc<SubtaskMeter>>,
}

fn node_info(graph: &JobGraph, index: usize) -> NodeInfo {
    let node = &graph.nodes[index];
    let mut inputs: Vec<String> = Vec::new();
    for edge in &node.inputs {
        let from = &graph.nodes[edge.from].id;
        if !inputs.contains(from) {
            inputs.push(from.clone());
        }
    }
    NodeInfo {
        id: node.id.clone(),
        kind: match node.kind {
            NodeKind::Source(_) => "source",
            NodeKind::Operator(_) => "operator",
            NodeKind::Sink(_) => "sink",
        },
        inputs,
    }
}

impl Meters {
    /// Of an attempt that begins now.
    pub(crate) fn new(plan: &ExecutionPlan, graph: &JobGraph, clock: &dyn Clock) -> Self {
        let now_us = clock.now_us();
        let vertices = plan.vertices.iter().map(|vertex| VertexMeters {
            members: vertex
                .members
                .iter()
                .map(|member| node_info(graph, member.node))
                .collect(),
            inputs: vertex
                .inputs
                .iter()
                .map(|input| (input.vertex, input.partition))
                .collect(),
            subtasks: (0..vertex.parallelism)
                .map(|_| Arc::new(SubtaskMeter::new(vertex.members.len(), now_us)))
                .collect(),
        });
        Self {
            vertices: vertices.collect(),
        }
    }

    /// That of a subtask of the plan.
    pub(crate) fn subtask(&self, vertex: usize, index: u32) -> Arc<SubtaskMeter> {
        Arc::clone(&self.vertices[vertex].subtasks[index as usize])
    }

    /// The attempt is over: from now on no time passes for its subtasks.
    pub(crate) fn end(&self, now_us: i64) {
        let subtasks = self.vertices.iter().flat_map(|vertex| &vertex.subtasks);
        subtasks.for_each(|subtask| subtask.begin(Doing::Nothing, now_us));
    }

    /// What they say now.
    pub(crate) fn report(&self, now_us: i64) -> Vec<VertexReport> {
        let of_vertex = |vertex: &VertexMeters| VertexReport {
            members: vertex.members.clone(),
            inputs: vertex.inputs.clone(),
            subtasks: vertex.subtasks.iter().map(|it| it.report(now_us)).collect(),
        };
        self.vertices.iter().map(of_vertex).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_goes_to_what_was_done_in_it() {
        let meter = SubtaskMeter::new(1, 1_000);
        meter.begin(Doing::Work, 1_010);
        meter.begin(Doing::BackPressure, 1_300);
        let report = meter.report(1_350);
        assert_eq!(
            (report.idle_us, report.busy_us, report.back_pressured_us),
            (10, 290, 50)
        );
        meter.begin(Doing::Idle, 1_400);
        let report = meter.report(1_401);
        assert_eq!(
            (report.idle_us, report.busy_us, report.back_pressured_us),
            (11, 290, 100),
            "what was read before is not counted again"
        );
    }

    #[test]
    fn no_time_passes_once_the_attempt_is_over() {
        let meter = SubtaskMeter::new(0, 0);
        meter.begin(Doing::Work, 10);
        meter.begin(Doing::Nothing, 30);
        let report = meter.report(1_000);
        assert_eq!((report.idle_us, report.busy_us), (10, 20));
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_adds_nothing() {
        let meter = SubtaskMeter::new(0, 1_000);
        meter.begin(Doing::Work, 1_000);
        assert_eq!(meter.report(900).busy_us, 0);
        assert_eq!(meter.report(1_001).busy_us, 1, "no time counts twice");
    }

    #[test]
    fn there_is_no_watermark_before_the_first_and_after_the_last() {
        let meter = SubtaskMeter::new(0, 0);
        assert_eq!(meter.report(0).watermark, None);
        meter.watermark(7);
        assert_eq!(meter.report(0).watermark, Some(7));
        meter.watermark(END);
        assert_eq!(meter.report(0).watermark, None);
    }

    #[test]
    fn members_count_for_themselves() {
        let meter = SubtaskMeter::new(2, 0);
        meter.taken(0, 3);
        meter.taken(0, 4);
        meter.handed_on(1, 5);
        meter.state(1, 100, 10);
        let usage = Usage {
            calls: 3,
            time: Duration::from_micros(20),
            memory: 4096,
        };
        meter.usage(1, usage);
        let report = meter.report(0);
        assert_eq!(report.members[0].records_in, 7);
        assert_eq!(report.members[0].records_out, 0);
        assert_eq!(report.members[1].records_out, 5);
        assert_eq!(
            (report.members[1].state_bytes, report.members[1].state_keys),
            (100, 10)
        );
        assert_eq!(
            (report.members[0].usage, report.members[1].usage),
            (None, Some(usage))
        );
        assert_eq!(meter.state_bytes(), 100);
    }
}
