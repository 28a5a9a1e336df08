//! Whole jobs with native sources, operators and sinks: what a job promises, without Wasm.
//!
//! Every case is judged on committed output: the sums per key that a disturbed run commits last equal
//! those of the input, and every update was committed exactly once.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "tests wait, print and measure"
)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

// Beside the tests, because a `native.rs` among them would be a test of its own.
#[path = "native/jobs.rs"]
mod native;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use checkpoint::store::CheckpointStore;
use dataflow::state::Resolved;
use dataflow::{Batch, Cells};
use operator::clock::SystemClock;
use operator::{Call, Failure, Operator, OperatorFactory, SubtaskContext};
use runtime::error::Class;
use runtime::graph::NodeKind;
use runtime::restart::Strategy;
use runtime::{Job, JobEvent, Outcome};

use native::{
    Collect, Flow, Pace, Sum, check, fixed, graph, graph_with, no_fault, options, run, run_paced,
    store_options,
};

#[test]
fn a_bounded_job_finishes_with_one_last_checkpoint_and_all_output_committed() {
    for parallelism in [1, 2, 4] {
        let sink = Collect::default();
        let graph = graph(10_000, parallelism, no_fault(), &sink);
        let (outcome, events) = run(
            graph,
            options("j", None, Strategy::None),
            CheckpointStore::memory(store_options()),
            None,
        );
        assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
        check(&sink.committed, 10_000);
        let completed = events
            .iter()
            .filter(|event| matches!(event, JobEvent::CheckpointCompleted { .. }))
            .count();
        assert_eq!(completed, 1, "{events:?}");
    }
}

#[test]
fn a_failure_takes_the_job_back_to_its_checkpoint_and_nothing_is_lost_or_doubled() {
    for parallelism in [1, 2, 4] {
        let sink = Collect::default();
        let left = Arc::new(AtomicU32::new(1));
        let sum = Sum {
            fail_at: Some((45_000, Arc::clone(&left))),
            padding: 0,
        };
        let graph = graph(60_000, parallelism, sum, &sink);
        let store = CheckpointStore::memory(store_options());
        let (outcome, events) = run(graph, options("j", Some(5), fixed(1)), store, None);
        assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
        assert_eq!(left.load(Ordering::SeqCst), 0, "the fault happened");
        assert!(
            events
                .iter()
                .any(|event| matches!(event, JobEvent::Restarting { attempt: 1, .. })),
            "{events:?}"
        );
        check(&sink.committed, 60_000);
    }
}

#[test]
fn a_fault_that_stays_fails_the_job_by_its_strategy_and_names_the_record() {
    let sink = Collect::default();
    let sum = Sum {
        fail_at: Some((1234, Arc::new(AtomicU32::new(u32::MAX)))),
        padding: 0,
    };
    let store = CheckpointStore::memory(store_options());
    let (outcome, events) = run(
        graph(10_000, 2, sum, &sink),
        options("j", Some(5), fixed(2)),
        store,
        None,
    );
    let Outcome::Failed {
        error,
        class: Class::Retry,
        gave_up: Some(_),
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    let text = error.to_string();
    for part in [
        "operator `sum`",
        "subtask",
        "planted",
        "key \"34\"",
        "value \"1234\"",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, JobEvent::Restarting { .. }))
            .count(),
        2
    );
}

#[test]
fn a_checkpoint_between_two_of_which_nothing_changed_keeps_all_state() {
    let sink = Collect::default();
    let left = Arc::new(AtomicU32::new(1));
    let sum = Sum {
        fail_at: Some((900, Arc::clone(&left))),
        padding: 0,
    };
    // A few keys change, then nothing, then a few others.
    let pace = Pace {
        checkpoints: 2,
        ..Pace::every(5)
    };
    let graph = graph_with(
        1_000,
        Flow::Paced(pace.clone()),
        [1, 2],
        sum,
        Arc::new(sink.clone()),
    );
    let (outcome, _) = run_paced(
        graph,
        options("j", None, fixed(1)),
        CheckpointStore::memory(store_options()),
        None,
        &pace,
    );
    assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
    assert_eq!(left.load(Ordering::SeqCst), 0, "the fault happened");
    check(&sink.committed, 1_000);
}

#[test]
fn a_job_continues_from_a_checkpoint_at_another_parallelism() {
    for (from, to) in [(1, 2), (2, 4), (4, 2), (3, 5), (2, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().to_str().unwrap();
        let sink = Collect::default();
        let fault = Sum {
            fail_at: Some((45_000, Arc::new(AtomicU32::new(u32::MAX)))),
            padding: 0,
        };
        let store = CheckpointStore::open(dir, "first", store_options()).unwrap();
        // So that there is a checkpoint ahead of the fault, however fast or slow the machine is.
        let pace = Pace::every(5_000);
        let (outcome, events) = run_paced(
            graph_with(
                60_000,
                Flow::Paced(pace.clone()),
                [from, from],
                fault,
                Arc::new(sink.clone()),
            ),
            options("first", None, Strategy::None),
            store.clone(),
            None,
            &pace,
        );
        assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
        let latest = store
            .latest()
            .unwrap_or_else(|| panic!("no checkpoint in {events:?}"));
        let id = latest.metadata().id;
        let store = CheckpointStore::open(dir, "second", store_options()).unwrap();
        let graph = graph(60_000, to, no_fault(), &sink);
        runtime::restore::check(&graph, &latest, false).unwrap();
        let (outcome, events) = run(
            graph,
            options("second", Some(5), Strategy::None),
            store,
            Some(latest),
        );
        assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
        let first = events.iter().find_map(|event| match event {
            JobEvent::CheckpointCompleted { id, .. } => Some(*id),
            _ => None,
        });
        assert_eq!(first, Some(id + 1), "numbers continue");
        check(&sink.committed, 60_000);
    }
}

#[test]
fn cancelling_ends_an_endless_job() {
    let sink = Collect::default();
    let store = CheckpointStore::memory(store_options());
    let job = Job::new(
        graph(u64::MAX, 2, no_fault(), &sink),
        options("j", Some(5), Strategy::None),
        store,
        None,
        Arc::new(SystemClock::new()),
    );
    let handle = job.handle();
    let mut completed = 0;
    let outcome = job.run(|event| {
        if matches!(event, JobEvent::CheckpointCompleted { .. }) {
            completed += 1;
            if completed == 3 {
                handle.cancel();
            }
        }
    });
    assert!(matches!(outcome, Outcome::Cancelled), "{outcome:?}");
}

#[test]
fn a_fresh_start_where_an_earlier_run_was_touches_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let run_once = || {
        let sink = Collect::default();
        let store = CheckpointStore::open(dir, "fixed", store_options()).unwrap();
        let options = options("fixed", Some(5), Strategy::None);
        let (outcome, _) = run(
            graph(10_000, 1, no_fault(), &sink),
            options,
            store.clone(),
            None,
        );
        assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
        store.latest().unwrap()
    };
    let first = run_once();
    let second = run_once();
    assert!(second.metadata().id > first.metadata().id);
    assert!(checkpoint::verify(&first).is_good());
}

/// Emits a record with the number of a key that there is not.
struct Misnumber;

impl OperatorFactory for Misnumber {
    fn create(&self, _: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        Ok(Box::new(Misnumber))
    }
}

impl Operator for Misnumber {
    fn process(
        &mut self,
        _: u32,
        _: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        let one: Cells = [b"1".as_slice()].into_iter().collect();
        let number = keys.keys.len() as u32;
        call.output
            .emit_numbered(0, &[number], one.as_ref(), &[])
            .map_err(|error| panic!("{error}"))
    }
}

#[test]
fn an_emitted_number_that_no_key_has_fails_the_call_that_emitted_it() {
    let sink = Collect::default();
    let mut graph = graph(100, 1, no_fault(), &sink);
    for node in &mut graph.nodes {
        if let NodeKind::Operator(operator) = &mut node.kind {
            operator.factory = Arc::new(Misnumber);
        }
    }
    let (outcome, _) = run(
        graph,
        options("j", None, Strategy::None),
        CheckpointStore::memory(store_options()),
        None,
    );
    let Outcome::Failed { error, .. } = outcome else {
        panic!("{outcome:?}")
    };
    let text = error.to_string();
    assert!(text.contains("operator `sum`"), "{text}");
    assert!(text.contains("there is no key"), "{text}");
    assert!(sink.committed.lock().unwrap().is_empty());
}
