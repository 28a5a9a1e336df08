//! What a job learns of a checkpoint before it restores from it.

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
use std::sync::atomic::AtomicU32;

use checkpoint::Completed;
use checkpoint::store::CheckpointStore;
use dataflow::KeyGroups;
use runtime::graph::NodeKind;
use runtime::restart::Strategy;
use runtime::restore::{Mismatch, Report, Verdict, check};
use runtime::{JobGraph, Outcome};

use native::{
    Collect, Flow, Pace, Sum, graph, graph_with, no_fault, options, run_paced, store_options,
};

/// A checkpoint of `numbers → pass ═ sum → sink` in the middle of its input.
fn checkpoint() -> Completed {
    let pace = Pace::every(50);
    let sum = Sum {
        fail_at: Some((900, Arc::new(AtomicU32::new(u32::MAX)))),
        padding: 0,
    };
    let flow = Flow::Paced(pace.clone());
    let graph = graph_with(1_000, flow, [1, 2], sum, Arc::new(Collect::default()));
    let store = CheckpointStore::memory(store_options());
    let options = options("job", None, Strategy::None);
    let (outcome, _) = run_paced(graph, options, store.clone(), None, &pace);
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    store.latest().unwrap()
}

fn job() -> JobGraph {
    graph(1_000, 2, no_fault(), &Collect::default())
}

fn verdicts(report: &Report, operator: &str) -> Vec<Verdict> {
    let entries = report.entries.iter();
    let of = entries.filter(|entry| entry.operator == operator);
    of.map(|entry| entry.verdict.clone()).collect()
}

fn texts(mismatches: &[Mismatch]) -> String {
    let texts: Vec<String> = mismatches.iter().map(Mismatch::to_string).collect();
    texts.join("\n")
}

#[test]
fn the_report_has_a_verdict_for_each_and_says_from_where_sources_continue() {
    let checkpoint = checkpoint();
    let report = check(&job(), &checkpoint, false).unwrap();
    let position = verdicts(&report, "numbers");
    let [Verdict::Continues(position)] = position.as_slice() else {
        panic!("{report:?}")
    };
    assert!(position.contains("next"), "{position}");
    assert_eq!(verdicts(&report, "pass"), [Verdict::Nothing]);
    let sum = verdicts(&report, "sum");
    let [
        Verdict::Restored {
            from_parallelism: 2,
            to_parallelism: 2,
            entries,
            bytes,
        },
        Verdict::StateSame { state, .. },
    ] = sum.as_slice()
    else {
        panic!("{report:?}")
    };
    assert!(
        *entries == 100 && *bytes > 1600 && state == "sums",
        "{report:?}"
    );
    assert!(matches!(
        verdicts(&report, "sink")[..],
        [Verdict::Commits(_)]
    ));
}

#[test]
fn c40_state_of_an_operator_that_is_gone_is_refused_with_its_bytes_or_dropped_aloud() {
    let checkpoint = checkpoint();
    let mut graph = job();
    // The sink takes what `pass` emits.
    graph.nodes.remove(2);
    graph.nodes[2].inputs[0].from = 1;
    let mismatches = check(&graph, &checkpoint, false).unwrap_err().mismatches;
    let [
        Mismatch::OperatorGone {
            operator,
            bytes,
            new,
        },
    ] = mismatches.as_slice()
    else {
        panic!("{mismatches:?}")
    };
    assert!(operator == "sum" && *bytes > 1600 && new.is_empty());
    let text = texts(&mismatches);
    assert!(
        text.contains("`sum`") && text.contains(&operator::text::counted(*bytes, "byte")),
        "{text}"
    );
    let report = check(&graph, &checkpoint, true).unwrap();
    let dropped = verdicts(&report, "sum");
    assert_eq!(
        dropped[0],
        Verdict::Dropped {
            bytes: *bytes,
            parts: 0
        }
    );
    assert!(
        matches!(&dropped[1..], [Verdict::StateDropped { state, .. }] if state == "sums"),
        "{dropped:?}"
    );
}

#[test]
fn c41_a_renamed_operator_is_reported_as_gone_and_as_new() {
    let checkpoint = checkpoint();
    let mut graph = job();
    graph.nodes[0].id = "digits".into();
    graph.nodes[2].id = "total".into();
    let mismatches = check(&graph, &checkpoint, false).unwrap_err().mismatches;
    let text = texts(&mismatches);
    for part in [
        "operator `sum` is not in the job",
        "`total` is new and would start empty, was it renamed?",
        "source `numbers` is not in the job",
        "`digits` is new and would start empty, was it renamed?",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let report = check(&graph, &checkpoint, true).unwrap();
    let new = Verdict::StateNew {
        state: "sums".to_owned(),
    };
    assert_eq!(verdicts(&report, "total"), [Verdict::StartsEmpty, new]);
    assert_eq!(verdicts(&report, "digits"), [Verdict::StartsEmpty]);
    assert!(matches!(
        verdicts(&report, "sum")[..],
        [Verdict::Dropped { .. }, Verdict::StateDropped { .. }]
    ));
    assert!(matches!(
        verdicts(&report, "numbers")[..],
        [Verdict::Dropped { .. }]
    ));
}

#[test]
fn c40_every_mismatch_is_told_at_once() {
    let checkpoint = checkpoint();
    let mut graph = job();
    graph.key_groups = KeyGroups::new(64).unwrap();
    graph.nodes[0].id = "digits".into();
    let NodeKind::Operator(operator) = &mut graph.nodes[2].kind else {
        panic!("sum is an operator")
    };
    operator.states[0].schema_version = 2;
    // An id that stood for an operator stands for a sink.
    graph.nodes[1].id = "sink".into();
    graph.nodes[3].id = "pass".into();
    let mismatches = check(&graph, &checkpoint, false).unwrap_err().mismatches;
    let text = texts(&mismatches);
    for part in [
        "128 key groups",
        "asks for 64",
        "source `numbers`",
        "state `sums` of operator `sum`",
        "`sink` was a sink and is an operator",
        "`pass` was an operator and is a sink",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // Only what can be dropped is let pass.
    let mismatches = check(&graph, &checkpoint, true).unwrap_err().mismatches;
    assert!(mismatches.iter().all(|mismatch| !mismatch.may_be_dropped()));
    assert_eq!(mismatches.len(), 4, "{mismatches:?}");
}
