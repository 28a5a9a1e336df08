//! Whole jobs whose storage breaks at every durable step in turn. The steps are counted, not guessed.
//!
//! Whatever breaks, and however, the job is started again from what is found in its directory, and
//! what is committed in the end equals what an undisturbed run commits.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

// Beside the tests, for a `native.rs` among them would be a test of its own.
#[path = "native/jobs.rs"]
mod native;

use std::path::Path;
use std::sync::Arc;

use checkpoint::storage::faults::{Action, Extent, Fault, Step};
use checkpoint::storage::{FaultyStorage, FileStorage};
use checkpoint::store::{CheckpointStore, Options as StoreOptions};
use checkpoint::{Completed, Error, locate, locate_fallback};
use runtime::clock::{Clock, SystemClock};
use runtime::restart::Strategy;
use runtime::{Job, Outcome};

use native::{Collect, Flow, Pace, check, fixed, graph_with, no_fault, options, records};

const COUNT: u64 = 400;

/// Of each of four splits: three checkpoints on the way and a last one.
const RECORDS_PER_CHECKPOINT: u64 = 25;

/// Runs the job once, in a directory, to whatever end; `None` if it could not even open its storage.
fn run_once(
    storage: &FaultyStorage,
    id: &str,
    restart: Strategy,
    sink: &Collect,
    restore: Option<Completed>,
) -> Option<Outcome> {
    let sink = Collect {
        process: Some(storage.clone()),
        ..sink.clone()
    };
    let store_options = StoreOptions {
        inline_threshold: 0,
        ..StoreOptions::default()
    };
    let store = CheckpointStore::with_storage(Arc::new(storage.clone()), id, store_options).ok()?;
    let pace = Pace::every(RECORDS_PER_CHECKPOINT);
    let graph = graph_with(
        COUNT,
        Flow::Paced(pace.clone()),
        [1, 2],
        no_fault(),
        Arc::new(sink),
    );
    let clock = Arc::new(SystemClock::new());
    let job = Job::new(
        graph,
        options(id, None, restart),
        store.clone(),
        restore,
        Arc::clone(&clock) as Arc<dyn Clock>,
    );
    assert!(pace.handle.set(job.handle()).is_ok());
    let outcome = job.run(|_| {});
    store.wait_for_cleaning();
    if matches!(outcome, Outcome::Finished) && store.finish("sums", clock.now_ms()).is_ok() {
        // What cannot be deleted stays behind a mark that says that nobody needs it.
        let _ = store.delete_all();
    }
    Some(outcome)
}

fn files(directory: &Path) -> Arc<FileStorage> {
    Arc::new(FileStorage::open(directory).unwrap())
}

/// What a restart finds.
enum Found {
    Nothing,
    Checkpoint(Completed),
    /// The job is done.
    Finished,
}

fn find(directory: &Path, torn: bool) -> Found {
    let dir = directory.to_str();
    match locate("latest", dir, "sums") {
        Ok(located) => Found::Checkpoint(located.checkpoint),
        Err(Error::Finished { .. }) => Found::Finished,
        Err(Error::NotFound(_)) => Found::Nothing,
        // Refused, as it should be; the user would ask for the one before it, or begin anew.
        Err(Error::Corrupt { .. }) if torn => match locate_fallback("latest", dir, "sums") {
            Ok(fallback) => Found::Checkpoint(fallback.checkpoint),
            Err(Error::Corrupt { .. }) => Found::Nothing,
            Err(other) => panic!("{other:?}"),
        },
        Err(other) => panic!("{other:?}"),
    }
}

/// The undisturbed run: its steps and what it commits.
fn undisturbed() -> (Vec<Step>, Vec<(String, String)>) {
    let directory = tempfile::tempdir().unwrap();
    let storage = FaultyStorage::counting(files(directory.path()));
    let sink = Collect::default();
    let outcome = run_once(&storage, "sums-1", Strategy::None, &sink, None);
    assert!(matches!(outcome, Some(Outcome::Finished)), "{outcome:?}");
    check(&sink.committed, COUNT);
    assert!(matches!(find(directory.path(), false), Found::Nothing));
    (storage.steps(), records(&sink.committed))
}

/// What the disturbed runs of a test came to.
#[derive(Debug, Default)]
struct Tally {
    resumed: usize,
    started_anew: usize,
    finished: usize,
}

/// Breaks step `number`, starts again as often as it takes, and compares what is committed.
fn disturb(number: usize, fault: Fault, expected: &[(String, String)], tally: &mut Tally) {
    let torn = matches!(
        fault,
        Fault::Fail(Extent::Half) | Fault::Crash(Extent::Half)
    );
    let restart = match fault {
        Fault::Fail(_) => fixed(2),
        Fault::None | Fault::Stall | Fault::Crash(_) => Strategy::None,
    };
    let directory = tempfile::tempdir().unwrap();
    let sink = Collect::default();
    let storage = FaultyStorage::at(files(directory.path()), number, fault);
    let first = run_once(&storage, "sums-1", restart, &sink, None);
    let faults = storage.faults();
    assert_eq!(faults.len(), 1, "step {number} {fault:?} did not happen");
    let place = format!("{:?}", faults[0]);
    let finished = matches!(first, Some(Outcome::Finished));
    if matches!(fault, Fault::Crash(_)) || !finished {
        let restore = match find(directory.path(), torn) {
            // It went while the job's checkpoints were removed. `latest` finds nothing to go back to.
            Found::Finished | Found::Nothing if finished => {
                tally.finished += 1;
                assert_eq!(records(&sink.committed), expected, "{place}");
                return;
            }
            Found::Finished => panic!("{place}: it says that it has finished"),
            Found::Nothing => {
                assert_eq!(records(&sink.committed), [], "{place}: output is orphaned");
                tally.started_anew += 1;
                None
            }
            Found::Checkpoint(checkpoint) => {
                tally.resumed += 1;
                Some(checkpoint)
            }
        };
        let healthy = FaultyStorage::counting(files(directory.path()));
        // Under the same id, or under another.
        let id = ["sums-1", "sums-2"][number % 2];
        let second = run_once(&healthy, id, Strategy::None, &sink, restore);
        assert!(
            matches!(second, Some(Outcome::Finished)),
            "{place}: {second:?}"
        );
    }
    // The job is done. Who asks for its latest checkpoint now is told so, or comes to the same end.
    if let Found::Checkpoint(checkpoint) = find(directory.path(), torn) {
        let healthy = FaultyStorage::counting(files(directory.path()));
        let third = run_once(&healthy, "sums-3", Strategy::None, &sink, Some(checkpoint));
        assert!(
            matches!(third, Some(Outcome::Finished)),
            "{place}: {third:?}"
        );
    }
    assert_eq!(records(&sink.committed), expected, "{place}");
}

#[test]
fn the_number_of_durable_steps_is_the_same_in_every_run() {
    let (steps, _) = undisturbed();
    let metadata = steps
        .iter()
        .filter(|step| step.action == Action::Put && step.name.ends_with("_metadata"))
        .count();
    assert_eq!(metadata, 4, "{steps:?}");
    assert_eq!(undisturbed().0.len(), steps.len());
}

#[test]
fn c10_c11_a_crash_at_any_durable_step_loses_and_doubles_nothing() {
    let (steps, expected) = undisturbed();
    let mut tally = Tally::default();
    for number in 0..steps.len() {
        for extent in [Extent::Nothing, Extent::All] {
            disturb(number, Fault::Crash(extent), &expected, &mut tally);
        }
    }
    assert!(
        tally.resumed > 0 && tally.started_anew > 0 && tally.finished > 0,
        "{tally:?}"
    );
}

#[test]
fn c12_a_failure_of_any_durable_step_loses_and_doubles_nothing() {
    let (steps, expected) = undisturbed();
    let mut tally = Tally::default();
    for number in 0..steps.len() {
        for extent in [Extent::Nothing, Extent::All] {
            disturb(number, Fault::Fail(extent), &expected, &mut tally);
        }
    }
}

#[test]
fn a_torn_write_is_refused_and_loses_and_doubles_nothing() {
    let (steps, expected) = undisturbed();
    let mut tally = Tally::default();
    for step in steps.iter().filter(|step| step.is_write()) {
        for fault in [Fault::Crash(Extent::Half), Fault::Fail(Extent::Half)] {
            disturb(step.number, fault, &expected, &mut tally);
        }
    }
    assert!(tally.resumed > 0, "{tally:?}");
}
