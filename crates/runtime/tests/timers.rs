//! Timers in a job: in which order a watermark has its effects, and what a restore makes of timers.

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
use std::sync::{Arc, Mutex};

use checkpoint::store::CheckpointStore;
use dataflow::state::{Fired, Resolved, TimeDomain, timer_states};
use dataflow::{Batch, KeyGroups, Partition};
use operator::source::Part;
use operator::{
    BoxError, Call, Failure, FailureKind, Operator, OperatorFactory, Source, SourceFactory,
    SourceStatus, SubtaskContext,
};
use runtime::graph::{Edge, JobGraph, Node, NodeKind, OperatorNode};
use runtime::restart::Strategy;
use runtime::{Error, Outcome};

use native::{Collect, options, run, store_options};

/// What a source gives: a record with its key and event time, or a watermark.
#[derive(Clone, Copy, Debug)]
enum Given {
    Record(&'static str, i64),
    Watermark(i64),
}

use Given::{Record, Watermark};

#[derive(Clone)]
struct Scripted(Vec<Given>);

struct ScriptedSubtask {
    script: Vec<Given>,
    at: usize,
    watermark: Option<i64>,
}

impl SourceFactory for Scripted {
    fn create(&self, _: &SubtaskContext, _: Option<&[Part]>) -> Result<Box<dyn Source>, BoxError> {
        Ok(Box::new(ScriptedSubtask {
            script: self.0.clone(),
            at: 0,
            watermark: None,
        }))
    }

    fn describe_position(&self, _: &[Part]) -> String {
        String::new()
    }
}

impl Source for ScriptedSubtask {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        let Some(given) = self.script.get(self.at).copied() else {
            return Ok(SourceStatus::Ended);
        };
        self.at += 1;
        match given {
            Record(key, time) => batch.push(Some(key.as_bytes()), b"", time),
            Watermark(watermark) => self.watermark = Some(watermark),
        }
        Ok(SourceStatus::More)
    }

    fn watermark(&self) -> Option<i64> {
        self.watermark
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        Ok(Vec::new())
    }
}

/// What an operator was called for, in words.
type Log = Arc<Mutex<Vec<String>>>;

/// Registers a timer of event time for each record, at its own time, and passes on what it gets, timers as records.
/// `again`: how long after a timer it registers the next one while it fires.
#[derive(Clone)]
struct Notes {
    name: &'static str,
    log: Log,
    again: Option<i64>,
}

impl Notes {
    fn note(&self, what: &str, call: &Call) {
        let (name, watermark) = (self.name, call.watermark);
        if self.again == Some(0) {
            // Millions of times.
            return;
        }
        let mut log = self.log.lock().unwrap();
        match watermark {
            i64::MIN => log.push(format!("{name} {what}")),
            i64::MAX => log.push(format!("{name} {what} at the end")),
            _ => log.push(format!("{name} {what} at {watermark}")),
        }
    }
}

impl OperatorFactory for Notes {
    fn create(&self, _: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        Ok(Box::new(self.clone()))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn protocol(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Protocol, error.to_string())
}

impl Operator for Notes {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        for record in 0..batch.len() {
            let (key, time) = (text(batch.keys.get(record)), batch.timestamps[record]);
            self.note(&format!("gets {key} of {time}"), call);
        }
        let tags = vec![0; batch.len()];
        call.state
            .register_timers(TimeDomain::Event, &keys.numbers, &batch.timestamps, &tags)
            .map_err(protocol)
    }

    fn on_timers(&mut self, fired: &Fired, call: &mut Call) -> Result<(), Failure> {
        for (index, time) in fired.times.iter().enumerate() {
            let key = text(fired.keys.keys.get(index));
            self.note(&format!("fires {key} of {time}"), call);
        }
        if let Some(again) = self.again {
            let times: Vec<i64> = fired.times.iter().map(|time| time + again).collect();
            let numbers = &fired.keys.numbers;
            call.state
                .register_timers(TimeDomain::Event, numbers, &times, &fired.tags)
                .map_err(protocol)?;
        }
        let values = fired.keys.keys.as_ref();
        call.output
            .emit_numbered(0, &fired.keys.numbers, values, &fired.times)
            .map_err(protocol)
    }

    fn on_watermark(&mut self, call: &mut Call) -> Result<(), Failure> {
        self.note("is done", call);
        Ok(())
    }

    fn end_of_input(&mut self, _: u32, call: &mut Call) -> Result<(), Failure> {
        self.note("ends", call);
        Ok(())
    }
}

/// Two operators after each other, in one subtask or two.
fn job(script: &[Given], partition: Partition, again: Option<i64>) -> (Vec<String>, Outcome) {
    let log = Log::default();
    let edge = |from, partition| Edge {
        from,
        port: 0,
        input: 0,
        partition,
    };
    let node = |id: &str, inputs, kind| Node {
        id: id.to_owned(),
        parallelism: 1,
        inputs,
        kind,
        bad_records: None,
    };
    let notes = |name, again| {
        NodeKind::Operator(OperatorNode {
            factory: Arc::new(Notes {
                name,
                log: Arc::clone(&log),
                again,
            }),
            states: timer_states().into(),
            skip_overdue_timers: false,
            operator_states: Vec::new(),
            outputs: 1,
            state_limit: None,
            state_memory: None,
            labels: BTreeMap::new(),
        })
    };
    let graph = JobGraph {
        nodes: vec![
            node(
                "source",
                Vec::new(),
                NodeKind::Source(Arc::new(Scripted(script.to_vec()))),
            ),
            node("one", vec![edge(0, partition)], notes("one", again)),
            node("two", vec![edge(1, partition)], notes("two", None)),
            node(
                "sink",
                vec![edge(2, Partition::Forward)],
                NodeKind::Sink(Arc::new(Collect::default())),
            ),
        ],
        key_groups: KeyGroups::new(8).unwrap(),
    };
    let (outcome, _) = run(
        graph,
        options("j", None, Strategy::None),
        CheckpointStore::memory(store_options()),
        None,
    );
    let log = log.lock().unwrap().clone();
    (log, outcome)
}

fn of<'a>(log: &'a [String], name: &str) -> Vec<&'a str> {
    let own = log.iter().filter_map(|line| line.strip_prefix(name));
    own.map(str::trim_start).collect()
}

const SCRIPT: [Given; 8] = [
    Record("a", 30),
    Record("b", 10),
    Watermark(20),
    // Late: its timer fires with the next watermark.
    Record("c", 5),
    Record("d", 40),
    Watermark(30),
    Record("e", 35),
    Watermark(35),
];

const ONE: [&str; 15] = [
    "gets a of 30",
    "gets b of 10",
    "fires b of 10 at 20",
    "is done at 20",
    "gets c of 5 at 20",
    "gets d of 40 at 20",
    "fires c of 5 at 30",
    "fires a of 30 at 30",
    "is done at 30",
    "gets e of 35 at 30",
    "fires e of 35 at 35",
    "is done at 35",
    "fires d of 40 at the end",
    "is done at the end",
    "ends at the end",
];

/// What the second one sees: the timers of the first as records, before the watermark at which they fired.
const TWO: [&str; 14] = [
    "gets b of 10",
    "fires b of 10 at 20",
    "is done at 20",
    "gets c of 5 at 20",
    "gets a of 30 at 20",
    "fires c of 5 at 30",
    "fires a of 30 at 30",
    "is done at 30",
    "gets e of 35 at 30",
    "fires e of 35 at 35",
    "is done at 35",
    "gets d of 40 at 35",
    "fires d of 40 at the end",
    "is done at the end",
];

#[test]
fn a_watermark_has_its_effects_in_order_within_a_chain_and_between_subtasks() {
    for partition in [Partition::Forward, Partition::Hash] {
        let (log, outcome) = job(&SCRIPT, partition, None);
        assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
        assert_eq!(of(&log, "one"), ONE, "{partition}");
        let two = of(&log, "two");
        assert_eq!(two[..14], TWO, "{partition}");
        assert_eq!(two[14..], ["ends at the end"]);
    }
}

#[test]
fn one_registered_while_firing_fires_in_the_same_round_if_it_is_due() {
    let script = [Record("a", 10), Record("b", 25), Watermark(30)];
    let (log, _) = job(&script, Partition::Forward, Some(7));
    let fired: Vec<&str> = of(&log, "one")
        .into_iter()
        .filter(|line| line.contains("fires") && !line.contains("at the end"))
        .collect();
    // The two are one call, and what it registers comes after it.
    let expected = [
        "fires a of 10 at 30",
        "fires b of 25 at 30",
        "fires a of 17 at 30",
        "fires a of 24 at 30",
    ];
    assert_eq!(fired, expected);
}

#[test]
fn timers_that_never_come_to_an_end_fail_the_job_by_name() {
    let (_, outcome) = job(&[Record("a", 10)], Partition::Hash, Some(0));
    let Outcome::Failed { error, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert!(matches!(*error, Error::EndlessTimers { .. }), "{error}");
    assert!(error.to_string().contains("operator `one`"), "{error}");
}
