//! The watermark of an operator with several inputs and channels: some silent, some ended.
//!
//! Sources follow a script, and wait in it for what the operator has seen, so that what is to be shown does not
//! depend on who is faster. What must not happen would leave a script waiting; that fails after a minute.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests wait, print and measure"
)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

// Beside the tests, because a module among them would be a test of its own.
#[path = "native/jobs.rs"]
mod native;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use checkpoint::store::CheckpointStore;
use dataflow::state::Resolved;
use dataflow::watermark::{END, NO_WATERMARK};
use dataflow::{Batch, KeyGroups, Partition};
use operator::source::Part;
use operator::{
    BoxError, Call, Failure, Operator, OperatorFactory, Source, SourceFactory, SourceStatus,
    SubtaskContext,
};
use runtime::Outcome;
use runtime::graph::{Edge, JobGraph, Node, NodeKind, OperatorNode};
use runtime::restart::Strategy;

use native::{Collect, options, run, store_options};

/// What a source does next.
#[derive(Clone, Copy, Debug)]
enum Do {
    /// Gives a record.
    Record(&'static str),
    /// Says a watermark.
    Watermark(i64),
    /// Falls silent, until its next watermark.
    Idle,
    /// Gives records of this name until one has met this watermark.
    Probe(&'static str, i64),
    /// Waits until a record of this name has come.
    Await(&'static str),
    /// Waits until a record of this name has met this watermark.
    AwaitMet(&'static str, i64),
    /// Waits until this input has ended.
    AwaitEnd(u32),
    /// Is not idle any more, with the watermark that it has said last.
    Speak,
}

/// What the operator has seen: records with the watermark that they met, and inputs that ended.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<Noted>>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Noted {
    Record(String, i64),
    End(u32, i64),
}

impl Seen {
    fn note(&self, noted: Noted) {
        self.0.lock().unwrap().push(noted);
    }

    /// The watermarks that records of this name have met.
    fn met(&self, name: &str) -> Vec<i64> {
        let seen = self.0.lock().unwrap();
        let met = seen.iter().filter_map(|noted| match noted {
            Noted::Record(record, watermark) if record == name => Some(*watermark),
            _ => None,
        });
        met.collect()
    }

    fn ends(&self) -> Vec<(u32, i64)> {
        let seen = self.0.lock().unwrap();
        let ends = seen.iter().filter_map(|noted| match noted {
            Noted::End(input, watermark) => Some((*input, *watermark)),
            Noted::Record(..) => None,
        });
        ends.collect()
    }
}

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
            let name = String::from_utf8(value.to_vec()).unwrap();
            self.note(Noted::Record(name, call.watermark));
        }
        Ok(())
    }

    fn end_of_input(&mut self, input: u32, call: &mut Call) -> Result<(), Failure> {
        self.note(Noted::End(input, call.watermark));
        Ok(())
    }
}

/// Hands on what it gets.
struct Relay;

impl OperatorFactory for Relay {
    fn create(&self, _: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        Ok(Box::new(Self))
    }
}

impl Operator for Relay {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        _: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        let (keys, values) = (batch.keys.as_ref(), batch.values.as_ref());
        call.output
            .emit(0, keys, values, &batch.timestamps)
            .unwrap();
        Ok(())
    }
}

/// A source whose subtasks follow a script each.
struct Scripted {
    scripts: Vec<Vec<Do>>,
    seen: Seen,
}

struct ScriptedSubtask {
    script: Vec<Do>,
    next: usize,
    watermark: Option<i64>,
    idle: bool,
    seen: Seen,
    deadline: Instant,
}

impl SourceFactory for Scripted {
    fn create(
        &self,
        context: &SubtaskContext,
        _: Option<&[Part]>,
    ) -> Result<Box<dyn Source>, BoxError> {
        Ok(Box::new(ScriptedSubtask {
            script: self.scripts[context.subtask as usize].clone(),
            next: 0,
            watermark: None,
            idle: false,
            seen: self.seen.clone(),
            deadline: Instant::now() + Duration::from_secs(60),
        }))
    }

    fn describe_position(&self, _: &[Part]) -> String {
        String::new()
    }
}

impl Source for ScriptedSubtask {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        let Some(next) = self.script.get(self.next) else {
            return Ok(SourceStatus::Ended);
        };
        let done = match *next {
            Do::Record(name) => {
                batch.push(None, name.as_bytes(), 0);
                true
            }
            Do::Watermark(watermark) => {
                (self.watermark, self.idle) = (Some(watermark), false);
                true
            }
            Do::Speak => {
                self.idle = false;
                true
            }
            Do::Idle => {
                self.idle = true;
                true
            }
            Do::Probe(name, watermark) => {
                let has_met = self.seen.met(name).contains(&watermark);
                if !has_met {
                    batch.push(None, name.as_bytes(), 0);
                }
                has_met
            }
            Do::AwaitMet(name, watermark) => self.seen.met(name).contains(&watermark),
            Do::Await(name) => !self.seen.met(name).is_empty(),
            Do::AwaitEnd(input) => self.seen.ends().iter().any(|(it, _)| *it == input),
        };
        if !done && Instant::now() > self.deadline {
            return Err(format!("{next:?} has waited for a minute: {:?}", self.seen).into());
        }
        self.next += usize::from(done);
        // Each step is one element, and the source is asked again at once.
        Ok(SourceStatus::Idle { until: Some(0) })
    }

    fn watermark(&self) -> Option<i64> {
        self.watermark
    }

    fn is_idle(&self) -> bool {
        self.idle
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        Ok(Vec::new())
    }
}

/// Sources with these scripts (source by source, subtask by subtask) feed one operator, each an input of its own.
/// With `relay` an operator stands between them and that one.
fn watch(sources: Vec<Vec<Vec<Do>>>, relay: bool) -> Seen {
    let seen = Seen::default();
    let edge = |from, input, partition| Edge {
        from,
        port: 0,
        input,
        partition,
    };
    let operator = |factory: Arc<dyn OperatorFactory>| {
        NodeKind::Operator(OperatorNode {
            factory,
            states: Vec::new(),
            operator_states: Vec::new(),
            skip_overdue_timers: false,
            outputs: 1,
            state_limit: None,
            state_memory: None,
            labels: BTreeMap::new(),
        })
    };
    let mut nodes = Vec::new();
    let mut node = |id: String, parallelism: usize, inputs: Vec<Edge>, kind| {
        nodes.push(Node {
            id,
            parallelism: parallelism as u32,
            inputs,
            kind,
            bad_records: None,
        });
        nodes.len() - 1
    };
    let mut inputs = Vec::new();
    for (input, scripts) in (0..).zip(sources) {
        let parallelism = scripts.len();
        let source = Scripted {
            scripts,
            seen: seen.clone(),
        };
        let kind = NodeKind::Source(Arc::new(source));
        let mut from = node(format!("source-{input}"), parallelism, Vec::new(), kind);
        if relay {
            let inputs = vec![edge(from, 0, Partition::Rebalance)];
            from = node(
                format!("relay-{input}"),
                3,
                inputs,
                operator(Arc::new(Relay)),
            );
        }
        inputs.push(edge(from, input, Partition::Rebalance));
    }
    let watched = node(
        "seen".to_owned(),
        1,
        inputs,
        operator(Arc::new(seen.clone())),
    );
    let sink = NodeKind::Sink(Arc::new(Collect::default()));
    node(
        "sink".to_owned(),
        1,
        vec![edge(watched, 0, Partition::Forward)],
        sink,
    );
    let graph = JobGraph {
        nodes,
        key_groups: KeyGroups::new(128).unwrap(),
    };
    let (outcome, _) = run(
        graph,
        options("j", None, Strategy::None),
        CheckpointStore::memory(store_options()),
        None,
    );
    assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
    seen
}

#[test]
fn c63_a_silent_source_holds_nobody_and_does_not_lead_back() {
    for relay in [false, true] {
        let silent = vec![
            Do::Watermark(100),
            Do::Idle,
            Do::AwaitMet("went on", 500),
            // Again, of what is late by now.
            Do::Watermark(200),
            Do::Probe("late", 500),
            Do::Record("spoke"),
            Do::Await("waited"),
            Do::Watermark(550),
            Do::AwaitMet("caught up", 550),
        ];
        let other = vec![
            Do::Watermark(500),
            Do::Probe("went on", 500),
            Do::Await("spoke"),
            Do::Watermark(600),
            Do::Record("waited"),
            Do::Probe("caught up", 550),
        ];
        let seen = watch(vec![vec![silent, other]], relay);
        assert_eq!(seen.met("waited"), [500], "{seen:?}");
        assert!(seen.met("late").iter().all(|it| *it == 500), "{seen:?}");
        let all = seen.0.lock().unwrap();
        let watermarks = all.iter().map(|noted| match noted {
            Noted::Record(_, watermark) | Noted::End(_, watermark) => *watermark,
        });
        assert!(watermarks.is_sorted(), "{all:?}");
    }
}

#[test]
fn c63_when_all_are_silent_what_follows_is_silent_too() {
    // Two sources with two subtasks each: the first is silent as a whole, after operators that hand that on. The
    // highest that it has said counts, whichever of its subtasks was silent first.
    let silent = |watermark| {
        vec![
            Do::Watermark(watermark),
            Do::Idle,
            Do::AwaitMet("went on", 400),
            Do::Speak,
            Do::Await("end"),
        ]
    };
    let other = |own: i64| {
        vec![
            Do::Watermark(own),
            Do::Probe("went on", 400),
            Do::Record("end"),
        ]
    };
    let seen = watch(
        vec![vec![silent(100), silent(300)], vec![other(400), other(700)]],
        true,
    );
    assert!(seen.met("went on").contains(&400), "{seen:?}");
    // The slower one may have ended before the other has seen that.
    assert!(
        seen.met("went on")
            .iter()
            .all(|it| *it <= 400 || *it == 700),
        "{seen:?}"
    );
}

#[test]
fn c64_an_ended_input_holds_nobody_and_is_not_the_minimum_of_the_rest() {
    let ended = vec![Do::Watermark(50), Do::Record("first")];
    let silent = vec![
        Do::Watermark(100),
        Do::AwaitEnd(0),
        Do::Idle,
        Do::AwaitMet("last of the other", 400),
        Do::Watermark(450),
        Do::Probe("alone", 450),
        Do::AwaitEnd(2),
    ];
    let other = vec![
        Do::Watermark(400),
        Do::AwaitEnd(0),
        Do::Probe("last of the other", 400),
    ];
    let seen = watch(vec![vec![ended], vec![silent], vec![other]], false);
    let watermarks = |name| seen.met(name);
    // The sources after it may have said theirs already.
    assert!(matches!(watermarks("first")[..], [NO_WATERMARK | 50]));
    // Never the end's, while one of them may speak again.
    assert!(watermarks("last of the other").iter().all(|it| *it <= 400));
    assert!(watermarks("alone").iter().all(|it| *it <= 450));
    let ends = seen.ends();
    assert_eq!(ends[0].0, 0);
    assert!(ends[0].1 <= 100, "{ends:?}");
    // The other input ends with what the last one has reached, and only the last one with the highest.
    assert_eq!(ends[1].0, 2);
    assert!(ends[1].1 <= 450, "{ends:?}");
    assert_eq!(ends[2], (1, END));
}

#[test]
fn c64_each_input_ends_when_all_of_its_channels_have() {
    let first = |name| {
        vec![
            Do::Record(name),
            Do::Await("second a"),
            Do::Await("second b"),
        ]
    };
    let last = |name| vec![Do::Record(name), Do::AwaitEnd(0), Do::Record("after")];
    let seen = watch(
        vec![
            vec![first("first a"), first("first b")],
            vec![last("second a"), last("second b")],
        ],
        false,
    );
    // No source has said a watermark: the end is one all the same, and for all at once.
    assert_eq!(seen.ends(), [(0, NO_WATERMARK), (1, END)]);
    assert_eq!(seen.met("after"), [NO_WATERMARK; 2]);
}
