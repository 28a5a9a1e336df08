//! A put of metadata whose answer is lost, a restart in the process, and the end of the process: no record
//! is lost or doubled, whenever the put takes effect. Conformance 140.
//!
//! The job and its sink are those of the other tests; the storage fails the put of the second checkpoint's
//! metadata, and lets it take effect at once, later, or never. The third checkpoint is the end of the
//! process, so that a second one goes on from whatever stands there.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "tests wait, print and measure"
)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "native/jobs.rs"]
mod native;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use checkpoint::storage::faults::{Action, Extent, Fault, Step};
use checkpoint::storage::{FaultyStorage, FileStorage};
use checkpoint::store::{CheckpointStore, Options as StoreOptions};
use checkpoint::{locate, verify};
use operator::clock::SystemClock;
use runtime::{Job, JobEvent, Outcome};

use native::{Collect, Flow, Pace, Sum, check, fixed, graph_with, options};

const COUNT: u64 = 1_000;

const SUM: Sum = Sum {
    fail_at: None,
    padding: 0,
};
const METADATA: &str = "job/chk-2/_metadata";

/// When the put takes effect.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lands {
    AtOnce,
    BeforeTheRestart,
    AfterTheRestart,
    AfterTheProcess,
    Never,
}

/// Runs the first process; returns the numbers of the checkpoints that its restarts went on from.
fn first_process(directory: &std::path::Path, lands: Lands, sink: &Collect) -> Vec<Option<u64>> {
    let files = FileStorage::open(directory).unwrap();
    let first = AtomicBool::new(true);
    let storage = FaultyStorage::new(Arc::new(files), move |step: &Step| {
        let put = step.action == Action::Put;
        if put && step.name == METADATA && first.swap(false, Ordering::SeqCst) {
            return Fault::Fail(match lands {
                Lands::AtOnce => Extent::All,
                Lands::Never => Extent::Nothing,
                _ => Extent::Late,
            });
        }
        match put && step.name == "job/chk-3/_metadata" {
            true => Fault::Crash(Extent::Nothing),
            false => Fault::None,
        }
    })
    .landing_late();
    let sink = Collect {
        process: Some(storage.clone()),
        ..sink.clone()
    };
    let store_options = StoreOptions {
        inline_threshold: 0,
        ..StoreOptions::default()
    };
    let store =
        CheckpointStore::with_storage(Arc::new(storage.clone()), "job", store_options).unwrap();
    let pace = Pace::every(50);
    let flow = Flow::Paced(pace.clone());
    let graph = graph_with(COUNT, flow, [1, 2], SUM, Arc::new(sink));
    let clock = Arc::new(SystemClock::new());
    let job = Job::new(graph, options("job", None, fixed(3)), store, None, clock);
    let handle = job.handle();
    assert!(pace.handle.set(handle.clone()).is_ok());
    let mut restarts = Vec::new();
    job.run(|event| {
        let land = match &event {
            // The attempt is over, and the slot is not closed yet.
            JobEvent::CheckpointFailed { id: 2, .. } => lands == Lands::BeforeTheRestart,
            JobEvent::Restarting { from, .. } => {
                restarts.push(*from);
                false
            }
            JobEvent::Started { attempt: 1, .. } => lands == Lands::AfterTheRestart,
            _ => false,
        };
        if land {
            let landed = storage.land();
            let shut_out = lands == Lands::AfterTheRestart;
            assert_eq!(landed.is_empty(), shut_out, "{lands:?}: {landed:?}");
        }
        if storage.has_crashed() {
            handle.suspend();
        }
    });
    assert!(storage.has_crashed(), "{lands:?}: the process goes on");
    if lands == Lands::AfterTheProcess {
        assert!(storage.land().is_empty(), "its slot was closed");
    }
    restarts
}

#[test]
fn c140_an_unknown_put_then_a_restart_then_a_crash_lose_and_double_nothing() {
    for lands in [
        Lands::AtOnce,
        Lands::BeforeTheRestart,
        Lands::AfterTheRestart,
        Lands::AfterTheProcess,
        Lands::Never,
    ] {
        let directory = tempfile::tempdir().unwrap();
        let sink = Collect::default();
        let restarts = first_process(directory.path(), lands, &sink);
        let exists = matches!(lands, Lands::AtOnce | Lands::BeforeTheRestart);
        let from = if exists { Some(2) } else { Some(1) };
        assert_eq!(restarts.first(), Some(&from), "{lands:?}: {restarts:?}");
        let found = locate("latest", directory.path().to_str(), "job").unwrap();
        let found = found.checkpoint;
        assert_eq!(Some(found.metadata().id), from, "{lands:?}");
        assert!(verify(&found).is_good());

        let files = FileStorage::open(directory.path()).unwrap();
        let store =
            CheckpointStore::with_storage(Arc::new(files), "job", StoreOptions::default()).unwrap();
        let graph = graph_with(COUNT, Flow::Free, [1, 2], SUM, Arc::new(sink.clone()));
        let clock = Arc::new(SystemClock::new());
        let options = options("job", None, fixed(0));
        let job = Job::new(graph, options, store, Some(found), clock);
        let outcome = job.run(|_| {});
        assert!(
            matches!(outcome, Outcome::Finished),
            "{lands:?}: {outcome:?}"
        );
        check(&sink.committed, COUNT);
    }
}
