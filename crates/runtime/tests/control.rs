//! What is asked of a running job: savepoints, stop, drain, rescale. Native operators, on threads.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "tests wait, print and measure"
)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "native/asking.rs"]
mod asking;
#[path = "native/hooks.rs"]
mod hooks;
#[path = "native/jobs.rs"]
mod native;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use checkpoint::Completed;
use checkpoint::savepoint::SavepointTarget;
use checkpoint::storage::faults::{Action, Extent, Fault};
use checkpoint::storage::{FaultyStorage, FileStorage, MemoryStorage, Storage};
use checkpoint::store::CheckpointStore;
use dataflow::{Batch, CheckpointId};
use operator::source::Part;
use operator::{BoxError, Delivery, Sink, SinkFactory, Source, SourceFactory, SubtaskContext};
use runtime::control::{Done, NotDone, Order};
use runtime::graph::NodeKind;
use runtime::restart::Strategy;
use runtime::{JobEvent, JobGraph, Outcome};

use asking::{Held, Running, start, submit, wait_until};
use hooks::Hook;
use native::store_options;
use native::{Collect, Flow, Sum, check, fixed, graph_with, no_fault, number_in, options, records};

const COUNT: u64 = 20_000;

/// That many are read when something is asked.
const SOME: u64 = 2_000;

fn held_graph(held: &Held, parallelism: u32, sink: Arc<dyn SinkFactory>) -> JobGraph {
    let both = [parallelism, parallelism];
    held.hold(graph_with(COUNT, Flow::Trickle, both, no_fault(), sink))
}

fn memory() -> CheckpointStore {
    CheckpointStore::memory(store_options())
}

fn target(directory: &Path) -> SavepointTarget {
    let storage = FileStorage::open(directory).unwrap();
    SavepointTarget::with_storage(Arc::new(storage), "j").unwrap()
}

fn broken_target() -> SavepointTarget {
    let fail = |_: &_| Fault::Fail(Extent::Nothing);
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()), fail);
    SavepointTarget::with_storage(Arc::new(storage), "j").unwrap()
}

/// The one savepoint in a directory.
fn savepoint(directory: &Path) -> Completed {
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(directory).unwrap());
    let found = storage.list("").unwrap().directories;
    let [name] = found.as_slice() else {
        panic!("{found:?}")
    };
    Completed::open(storage, name).unwrap()
}

/// Runs to the end what goes on from a checkpoint, as another process with the same output.
fn go_on(from: Completed, parallelism: u32, sink: &Collect) {
    let sink = Collect {
        run: sink.run + 1,
        ..sink.clone()
    };
    let held = Held::default();
    held.open();
    let graph = held_graph(&held, parallelism, Arc::new(sink));
    let running = start(
        graph,
        options("k", Some(5), Strategy::None),
        &memory(),
        Some(from),
    );
    let outcome = running.end();
    assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
}

fn finish(running: Running, held: &Held, sink: &Collect) {
    held.open();
    let outcome = running.end();
    assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
    check(&sink.committed, COUNT);
}

#[test]
fn c80_a_savepoint_under_load_has_all_that_a_new_job_needs() {
    for parallelism in [1, 2] {
        let (held, sink) = (Held::default(), Collect::default());
        let (taken_in, moved_to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let graph = held_graph(&held, parallelism, Arc::new(sink.clone()));
        let running = start(
            graph,
            options("j", Some(3), Strategy::None),
            &memory(),
            None,
        );
        running.wait_for_records(SOME);
        let done = running
            .ask(Order::Savepoint(target(taken_in.path())))
            .unwrap();
        let taken = done.savepoint.unwrap();
        assert!(done.checkpoint.is_none() && taken.bytes > 0, "{taken:?}");
        // Whatever it has prepared is committed, though the job is cancelled at once.
        running.handle.cancel();
        assert!(matches!(running.end(), Outcome::Cancelled));
        let up_to_it = Collect::default();
        for (name, records) in &*sink.committed.lock().unwrap() {
            if number_in(name, 'c').unwrap() <= taken.id {
                let mut committed = up_to_it.committed.lock().unwrap();
                committed.insert(name.clone(), records.clone());
            }
        }
        let name = std::fs::read_dir(taken_in.path()).unwrap().next().unwrap();
        let name = name.unwrap().file_name();
        std::fs::rename(taken_in.path().join(&name), moved_to.path().join(&name)).unwrap();
        go_on(savepoint(moved_to.path()), 3, &up_to_it);
        check(&up_to_it.committed, COUNT);
    }
}

#[test]
fn c80_a_savepoint_without_periodic_checkpoints_is_answered_though_the_next_checkpoint_fails() {
    let (held, sink) = (Held::default(), Collect::default());
    let failed = AtomicU32::new(0);
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()), move |step| {
        let metadata = step.action == Action::Put && step.name.ends_with("_metadata");
        match metadata && failed.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Fault::Fail(Extent::Nothing),
            false => Fault::None,
        }
    });
    let store = CheckpointStore::with_storage(Arc::new(storage), "j", store_options()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut options = options("j", None, Strategy::None);
    options.checkpoint.tolerable_failures = 1;
    let graph = held_graph(&held, 1, Arc::new(sink.clone()));
    let running = start(graph, options, &store, None);
    running.wait_for_records(SOME);
    let done = running.ask(Order::Savepoint(target(directory.path())));
    assert!(done.unwrap().savepoint.is_some());
    finish(running, &held, &sink);
}

#[test]
fn c81_a_stopped_job_has_committed_what_it_read_and_goes_on_from_there() {
    for (parallelism, with_savepoint) in [(1, true), (2, false), (2, true)] {
        let (held, sink) = (Held::default(), Collect::default());
        let (directory, store) = (tempfile::tempdir().unwrap(), memory());
        let graph = held_graph(&held, parallelism, Arc::new(sink.clone()));
        let running = start(graph, options("j", Some(3), Strategy::None), &store, None);
        running.wait_for_records(SOME);
        let handle = running.handle.clone();
        let done = running.ask(Order::Stop {
            drain: false,
            savepoint: with_savepoint.then(|| target(directory.path())),
        });
        let outcome = running.end();
        let stopped = matches!(outcome, Outcome::Stopped { drained: false });
        assert!(stopped, "{outcome:?}");
        let done = done.unwrap();
        assert_eq!(done.savepoint.is_some(), with_savepoint, "{done:?}");
        // No record after it.
        assert_eq!(handle.records().0, records(&sink.committed).len() as u64);
        assert!(sink.staged.lock().unwrap().is_empty());
        let checkpoint = store.latest().unwrap();
        let taken = done.checkpoint.unwrap();
        assert_eq!(taken.id, checkpoint.metadata().id);
        let from = match with_savepoint {
            true => savepoint(directory.path()),
            false => checkpoint,
        };
        assert!(!from.metadata().drained);
        go_on(from, parallelism + 1, &sink);
        check(&sink.committed, COUNT);
        // Whoever comes later is answered too.
        let late = submit(&handle, Order::Checkpoint).wait();
        assert!(matches!(late, Err(NotDone::Conflict(_))), "{late:?}");
    }
}

#[test]
fn c81_savepoints_that_fail_leave_the_job_running() {
    let (held, sink) = (Held::default(), Collect::default());
    let graph = held_graph(&held, 2, Arc::new(sink.clone()));
    // Not one failure is tolerated.
    let running = start(
        graph,
        options("j", Some(3), Strategy::None),
        &memory(),
        None,
    );
    for records in [1, SOME, 2 * SOME] {
        running.wait_for_records(records);
        let failed = running.ask(Order::Savepoint(broken_target()));
        assert!(matches!(failed, Err(NotDone::Failed(_))), "{failed:?}");
        let failed = running.ask(Order::Stop {
            drain: false,
            savepoint: Some(broken_target()),
        });
        assert!(matches!(failed, Err(NotDone::Failed(_))), "{failed:?}");
    }
    finish(running, &held, &sink);
}

/// A sink that cannot commit a few times once it is to.
struct FailsToCommit {
    sink: Arc<dyn SinkFactory>,
    left: Arc<AtomicU32>,
}

struct FailsSubtask {
    sink: Box<dyn Sink>,
    left: Arc<AtomicU32>,
}

impl SinkFactory for FailsToCommit {
    fn delivery(&self) -> Delivery {
        self.sink.delivery()
    }

    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Sink>, BoxError> {
        Ok(Box::new(FailsSubtask {
            sink: self.sink.create(context, restored)?,
            left: Arc::clone(&self.left),
        }))
    }
}

impl Sink for FailsSubtask {
    fn write(&mut self, batch: &Batch) -> Result<(), BoxError> {
        self.sink.write(batch)
    }

    fn prepare(&mut self, id: CheckpointId) -> Result<Vec<Part>, BoxError> {
        self.sink.prepare(id)
    }

    fn commit(&mut self, id: CheckpointId) -> Result<(), BoxError> {
        let fewer = |left: u32| left.checked_sub(1);
        let fails = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer);
        match fails {
            Ok(_) => Err("planted at the commit".into()),
            Err(_) => self.sink.commit(id),
        }
    }

    fn close(&mut self) -> Result<(), BoxError> {
        self.sink.close()
    }
}

#[test]
fn c81_a_stop_whose_commit_fails_ends_there_after_a_restart_and_repeats_nothing() {
    let (held, sink, store) = (Held::default(), Collect::default(), memory());
    let left = Arc::new(AtomicU32::new(0));
    let fails = FailsToCommit {
        sink: Arc::new(sink.clone()),
        left: Arc::clone(&left),
    };
    let graph = held_graph(&held, 2, Arc::new(fails));
    let running = start(graph, options("j", None, fixed(1)), &store, None);
    running.wait_for_records(SOME);
    left.store(1, Ordering::SeqCst);
    let done = running.ask(Order::Stop {
        drain: false,
        savepoint: None,
    });
    let outcome = running.end();
    assert!(matches!(outcome, Outcome::Stopped { .. }), "{outcome:?}");
    let id = done.unwrap().checkpoint.unwrap().id;
    let latest = store.latest().unwrap();
    assert_eq!(latest.metadata().id, id);
    go_on(latest, 2, &sink);
    check(&sink.committed, COUNT);
}

#[test]
fn c81_a_stop_that_is_never_committed_is_answered_when_the_job_has_failed() {
    let (held, sink) = (Held::default(), Collect::default());
    let left = Arc::new(AtomicU32::new(0));
    let fails = FailsToCommit {
        sink: Arc::new(sink),
        left: Arc::clone(&left),
    };
    let graph = held_graph(&held, 1, Arc::new(fails));
    let running = start(graph, options("j", None, Strategy::None), &memory(), None);
    running.wait_for_records(SOME);
    left.store(u32::MAX, Ordering::SeqCst);
    let answer = running.ask(Order::Stop {
        drain: false,
        savepoint: None,
    });
    let Err(NotDone::Ended(why)) = answer else {
        panic!("{answer:?}")
    };
    assert!(why.starts_with("checkpoint 1 was complete, but"), "{why}");
    let outcome = running.end();
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
}

/// A graph whose first operator counts how often its input ends.
fn counting_graph(held: &Held, ends: &Arc<AtomicU32>, sink: Arc<dyn SinkFactory>) -> JobGraph {
    let mut graph = held_graph(held, 1, sink);
    let ends = Arc::clone(ends);
    let NodeKind::Operator(pass) = &mut graph.nodes[1].kind else {
        panic!("it passes records on")
    };
    pass.factory = Arc::new(Hook::on_end(move |_| {
        ends.fetch_add(1, Ordering::SeqCst);
    }));
    graph
}

#[test]
fn c82_a_drained_job_has_ended_its_input_and_another_goes_on_reading() {
    for with_savepoint in [false, true] {
        let (held, sink, store) = (Held::default(), Collect::default(), memory());
        let (directory, ends) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU32::new(0)));
        let graph = counting_graph(&held, &ends, Arc::new(sink.clone()));
        let running = start(graph, options("j", Some(3), Strategy::None), &store, None);
        running.wait_for_records(SOME);
        let handle = running.handle.clone();
        let done = running.ask(Order::Stop {
            drain: true,
            savepoint: with_savepoint.then(|| target(directory.path())),
        });
        let outcome = running.end();
        let drained = matches!(outcome, Outcome::Stopped { drained: true });
        assert!(drained, "{outcome:?}");
        assert_eq!(done.unwrap().savepoint.is_some(), with_savepoint);
        assert_eq!(ends.load(Ordering::SeqCst), 1);
        assert_eq!(handle.records().0, records(&sink.committed).len() as u64);
        assert!(store.latest().unwrap().metadata().drained);
        if !with_savepoint {
            // Without state, where checkpoints are in memory: nobody goes on from it.
            continue;
        }
        let from = savepoint(directory.path());
        assert!(from.metadata().drained);
        let again = Held::default();
        again.open();
        let graph = counting_graph(
            &again,
            &ends,
            Arc::new(Collect {
                run: 1,
                ..sink.clone()
            }),
        );
        let options = options("k", Some(5), Strategy::None);
        let outcome = start(graph, options, &memory(), Some(from)).end();
        assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
        // Its end was not remembered.
        assert_eq!(ends.load(Ordering::SeqCst), 2);
        check(&sink.committed, COUNT);
    }
}

#[test]
fn c82_a_job_that_fails_after_it_has_drained_reads_nothing_more() {
    let (held, sink, store) = (Held::default(), Collect::default(), memory());
    let (ends, left) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let fails = FailsToCommit {
        sink: Arc::new(sink.clone()),
        left: Arc::clone(&left),
    };
    let graph = counting_graph(&held, &ends, Arc::new(fails));
    let running = start(graph, options("j", None, fixed(1)), &store, None);
    running.wait_for_records(SOME);
    left.store(1, Ordering::SeqCst);
    let handle = running.handle.clone();
    // Its savepoint never comes to its end.
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()), |_| Fault::Stall);
    let stalled = storage.clone();
    let target = SavepointTarget::with_storage(Arc::new(storage), "j").unwrap();
    let pending = running.submit(Order::Stop {
        drain: true,
        savepoint: Some(target),
    });
    wait_until(|| left.load(Ordering::SeqCst) == 0);
    stalled.release();
    let done = pending.wait().unwrap();
    assert!(done.checkpoint.is_some(), "{done:?}");
    let outcome = running.end();
    let drained = matches!(outcome, Outcome::Stopped { drained: true });
    assert!(drained, "{outcome:?}");
    assert_eq!(ends.load(Ordering::SeqCst), 1);
    assert_eq!(handle.records().0, records(&sink.committed).len() as u64);
}

#[test]
fn c84_a_job_is_rescaled_under_load() {
    let (held, sink) = (Held::default(), Collect::default());
    let graph = |parallelism| held_graph(&held, parallelism, Arc::new(sink.clone()));
    let options = options("j", Some(3), Strategy::None);
    let running = start(graph(1), options, &memory(), None);
    for (parallelism, records) in [(3, SOME), (2, 2 * SOME)] {
        running.wait_for_records(records);
        let done = running.ask(Order::Rescale(Box::new(graph(parallelism))));
        let Ok(Done {
            checkpoint: Some(_),
            savepoint: None,
            savepoint_failed: None,
        }) = done
        else {
            panic!("{done:?}")
        };
    }
    finish(running, &held, &sink);
}

/// A source that cannot be made.
struct Refuses;

impl SourceFactory for Refuses {
    fn create(&self, _: &SubtaskContext, _: Option<&[Part]>) -> Result<Box<dyn Source>, BoxError> {
        Err("planted at creation".into())
    }

    fn describe_position(&self, _: &[Part]) -> String {
        String::new()
    }
}

#[test]
fn c84_a_job_that_does_not_start_at_another_parallelism_goes_on_as_it_was() {
    let (held, sink) = (Held::default(), Collect::default());
    let graph = |parallelism| held_graph(&held, parallelism, Arc::new(sink.clone()));
    let options = options("j", Some(3), Strategy::None);
    let running = start(graph(2), options, &memory(), None);
    running.wait_for_records(SOME);
    let mut broken = graph(3);
    broken.nodes[0].kind = NodeKind::Source(Arc::new(Refuses));
    let answer = running.ask(Order::Rescale(Box::new(broken)));
    let Err(NotDone::Failed(why)) = answer else {
        panic!("{answer:?}")
    };
    assert!(why.contains("planted at creation"), "{why}");
    running.wait_for_records(2 * SOME);
    assert!(running.ask(Order::Rescale(Box::new(graph(1)))).is_ok());
    finish(running, &held, &sink);
}

#[test]
fn c83_nothing_is_taken_on_while_the_job_waits_for_its_restart() {
    let (held, sink) = (Held::default(), Collect::default());
    let sum = Sum {
        fail_at: Some((SOME, Arc::new(AtomicU32::new(1)))),
        padding: 0,
    };
    let graph = graph_with(COUNT, Flow::Trickle, [1, 1], sum, Arc::new(sink));
    let graph = held.hold(graph);
    let restart = Strategy::FixedDelay {
        attempts: 1,
        delay_ms: 3_600_000,
    };
    let running = start(graph, options("j", Some(3), restart), &memory(), None);
    running.wait_for(|event| matches!(event, JobEvent::Restarting { .. }));
    let stop = Order::Stop {
        drain: false,
        savepoint: None,
    };
    for order in [Order::Checkpoint, stop, Order::Interval(None)] {
        let answer = running.ask(order);
        assert!(matches!(answer, Err(NotDone::Conflict(_))), "{answer:?}");
    }
    running.handle.cancel();
    assert!(matches!(running.end(), Outcome::Cancelled));
}
