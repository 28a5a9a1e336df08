//! Whole jobs whose storage breaks at every durable step in turn. The steps are counted, not guessed.
//!
//! Whatever breaks, and however, the job is started again from what is found in its directory, and
//! what is committed in the end equals what an undisturbed run commits.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "tests wait, print and measure"
)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

// Beside the tests, because a `native.rs` among them would be a test of its own.
#[path = "native/asking.rs"]
mod asking;
#[path = "native/jobs.rs"]
mod native;
#[path = "native/stored.rs"]
mod stored;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use checkpoint::lease::{Ending, Holder, Lease, Run, Start, Terms};
use checkpoint::savepoint::SavepointTarget;
use checkpoint::storage::faults::{Action, Extent, Fault, Step};
use checkpoint::storage::{FaultyStorage, FileStorage, Storage};
use checkpoint::store::{CheckpointStore, Options as StoreOptions};
use checkpoint::{Completed, Error, gc, locate, locate_fallback, verify};
use operator::clock::{Clock, SystemClock};
use runtime::control::Order;
use runtime::restart::Strategy;
use runtime::simulation::VirtualClock;
use runtime::{Job, JobEvent, JobHandle, Options, Outcome};

use native::{Collect, Flow, Pace, Sum, check, fixed, graph_with, options, records};

const COUNT: u64 = 400;

/// Of each of four splits: three checkpoints on the way and a last one.
const RECORDS_PER_CHECKPOINT: u64 = 25;

/// How many checkpoints that makes.
const CHECKPOINTS: usize = 4;

/// Runs the job once, in a directory, to whatever end; `None` if it could not even open its storage.
fn run_once(
    storage: &FaultyStorage,
    id: &str,
    restart: Strategy,
    sink: &Collect,
    restore: Option<Completed>,
) -> Option<Outcome> {
    run_with(
        storage,
        options(id, None, restart),
        0,
        sink,
        restore,
        |_| {},
    )
}

/// The same, with any options, and this many bytes of padding in each value of state.
fn run_with(
    storage: &FaultyStorage,
    options: Options,
    padding: usize,
    sink: &Collect,
    restore: Option<Completed>,
    mut report: impl FnMut(JobEvent),
) -> Option<Outcome> {
    run_asking(storage, options, padding, sink, restore, |_, event| {
        report(event);
    })
}

/// The same, by somebody who may ask the job something at every event.
fn run_asking(
    storage: &FaultyStorage,
    options: Options,
    padding: usize,
    sink: &Collect,
    restore: Option<Completed>,
    mut report: impl FnMut(&JobHandle, JobEvent),
) -> Option<Outcome> {
    let sink = Collect {
        process: Some(storage.clone()),
        ..sink.clone()
    };
    let store_options = StoreOptions {
        inline_threshold: 0,
        ..StoreOptions::default()
    };
    // Long enough to be renewed by nobody, so that the steps are always the same. What has to be
    // waited for takes no time.
    let terms = Terms {
        holder: Holder {
            host: "test".into(),
            machine: "test".into(),
            process: std::process::id(),
        },
        timeout_ms: 3_600_000,
        time: Arc::new(VirtualClock::at(SystemClock::new().now_ms())),
    };
    let lease = Lease::take(Arc::new(storage.clone()), &options.id, terms).ok()?;
    // As the host does: what the run starts from is on record before its first record.
    let start = restore.as_ref().map_or(Start::Fresh, |it| Start::Own {
        id: it.metadata().id,
    });
    let begin = |run: &mut Option<Run>| {
        let run = run.get_or_insert_with(|| Run::fresh("00000000".into(), 0));
        run.start = start;
        run.ended = None;
    };
    lease.record(begin).ok()?;
    let store = CheckpointStore::with_lease(Arc::new(lease), store_options).ok()?;
    let pace = Pace::every(RECORDS_PER_CHECKPOINT);
    let graph = graph_with(
        COUNT,
        Flow::Paced(pace.clone()),
        [1, 2],
        Sum {
            fail_at: None,
            padding,
        },
        Arc::new(sink),
    );
    let clock = Arc::new(SystemClock::new());
    let job = Job::new(
        graph,
        options,
        store.clone(),
        restore,
        Arc::clone(&clock) as Arc<dyn Clock>,
    );
    assert!(pace.handle.set(job.handle()).is_ok());
    let handle = job.handle();
    let outcome = job.run(|event| {
        // A process that is gone does not wait for its storage.
        if storage.has_crashed() {
            handle.suspend();
        }
        report(&handle, event);
    });
    store.wait_for_cleaning();
    if matches!(outcome, Outcome::Finished) {
        // What cannot be deleted stays, and is on record as given up.
        let _ = store.end(Ending::Finished, false, clock.now_ms());
    }
    Some(outcome)
}

/// The objects that nobody refers to. They belong to the checkpoint that was being written, to the
/// newest one that was subsumed (a delta might have built on it), or to one that was being deleted:
/// never to more than these, however often and wherever the storage broke. Where the last one was
/// being deleted, because the job was done, they are what it referred to: of all before it, perhaps.
fn check_orphans(directory: &Path, place: &str) -> BTreeSet<String> {
    let storage: Arc<dyn Storage> = files(directory);
    let orphans = stored::orphans(&storage).unwrap();
    let checkpoint = |name: &String| {
        let leaf = name.rsplit('/').next().unwrap();
        let (run, rest) = leaf.strip_prefix('r')?.split_once("-c")?;
        let (id, _) = rest.split_once('-')?;
        Some((run.parse::<u64>().ok()?, id.parse::<u64>().ok()?))
    };
    // Metadata that never got its name is a file beside its place.
    let (metadata, data): (BTreeSet<&String>, _) = orphans
        .iter()
        .partition(|name| name.contains("/_metadata#"));
    let owners: Option<BTreeSet<(u64, u64)>> = data.into_iter().map(checkpoint).collect();
    let owners = owners.unwrap_or_else(|| panic!("{place}: files of no kind: {orphans:?}"));
    let last_is_gone = stored::completed(&*storage).unwrap().is_empty();
    let most = if last_is_gone { CHECKPOINTS } else { 3 };
    assert!(
        metadata.len() <= 1 && owners.len() <= most,
        "{place}: more than may be left behind: {orphans:?}"
    );
    orphans
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
    match locate("latest", dir, "sums-1") {
        Ok(located) => Found::Checkpoint(located.checkpoint),
        Err(Error::Finished { .. }) => Found::Finished,
        Err(Error::NotFound(_)) => Found::Nothing,
        // Refused, as it should be; the user would ask for the one before it, or start again.
        Err(Error::Corrupt { .. }) if torn => match locate_fallback("latest", dir, "sums-1") {
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
    assert!(matches!(find(directory.path(), false), Found::Finished));
    (storage.steps(), records(&sink.committed))
}

/// What the disturbed runs of a test came to.
#[derive(Debug, Default)]
struct Tally {
    resumed: usize,
    started_anew: usize,
    finished: usize,
    /// Runs that left something behind that nobody refers to.
    orphans: usize,
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
    let orphans = check_orphans(directory.path(), &place);
    tally.orphans += usize::from(!orphans.is_empty());
    let finished = matches!(first, Some(Outcome::Finished));
    if matches!(fault, Fault::Crash(_)) || !finished {
        let found = find(directory.path(), torn);
        let nothing = matches!(found, Found::Nothing);
        let restore = match found {
            // It went while the job's checkpoints were removed. That it has finished is on record.
            Found::Finished | Found::Nothing if finished => {
                assert!(!nothing, "{place}");
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
        let second = run_once(&healthy, "sums-1", Strategy::None, &sink, restore);
        assert!(
            matches!(second, Some(Outcome::Finished)),
            "{place}: {second:?}"
        );
    }
    // The job is done. A start from its latest checkpoint now reports that, or comes to the same end.
    if let Found::Checkpoint(checkpoint) = find(directory.path(), torn) {
        let healthy = FaultyStorage::counting(files(directory.path()));
        let third = run_once(&healthy, "sums-1", Strategy::None, &sink, Some(checkpoint));
        assert!(
            matches!(third, Some(Outcome::Finished)),
            "{place}: {third:?}"
        );
    }
    assert_eq!(records(&sink.committed), expected, "{place}");
    // Who comes after a crash leaves nothing of its own behind.
    let left = check_orphans(directory.path(), &place);
    assert!(left.is_subset(&orphans), "{place}: {left:?} of {orphans:?}");
    collect_garbage(directory.path(), &place);
}

/// Garbage collection leaves nothing that nobody refers to, unless a damaged checkpoint may need it, which
/// it tells; and takes nothing that somebody needs.
fn collect_garbage(directory: &Path, place: &str) {
    let storage: Arc<dyn Storage> = files(directory);
    // What was given up is garbage.
    let completed = || -> Vec<String> {
        let entries = checkpoint::list(directory.to_str().unwrap()).unwrap();
        let completed = entries.iter().filter(|entry| entry.completed().is_some());
        completed.map(|entry| entry.path.clone()).collect()
    };
    let before = completed();
    let all = gc::Options {
        before: i64::MAX,
        dry_run: false,
    };
    let report = gc::collect(directory.to_str().unwrap(), all, None).unwrap();
    let kept: BTreeSet<String> = report.kept.into_iter().map(|kept| kept.path).collect();
    let left = stored::orphans(&storage).unwrap();
    let left: BTreeSet<String> = left.iter().map(|name| storage.location(name)).collect();
    assert_eq!(left, kept, "{place}");
    assert_eq!(completed(), before, "{place}");
    let mut damaged = 0;
    for entry in checkpoint::list(directory.to_str().unwrap()).unwrap() {
        match entry.completed() {
            Some(completed) => assert!(verify(completed).is_good(), "{place}: {}", entry.path),
            None => damaged += 1,
        }
    }
    assert!(damaged > 0 || kept.is_empty(), "{place}: {kept:?}");
}

#[test]
fn the_number_of_durable_steps_is_the_same_in_every_run() {
    let (steps, _) = undisturbed();
    let metadata = steps
        .iter()
        .filter(|step| step.action == Action::Put && step.name.ends_with("_metadata"))
        .count();
    assert_eq!(metadata, CHECKPOINTS, "{steps:?}");
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
    // A crash does leave something behind, or the search for it would prove nothing.
    assert!(tally.orphans > 0, "{tally:?}");
    // Deletions too were interrupted, of checkpoints that were subsumed and at the job's end.
    let deletes = |step: &&Step| step.action == Action::Delete;
    assert!(steps.iter().filter(deletes).count() > 4, "{steps:?}");
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

/// What one subtask has is more than is held back to be put in one piece.
const PADDING: usize = 24 << 10;

#[test]
fn a_stream_that_breaks_at_any_step_loses_and_doubles_nothing() {
    let options = |restart| options("sums-1", None, restart);
    let run = |storage: &FaultyStorage, restart, sink: &Collect, restore| {
        run_with(storage, options(restart), PADDING, sink, restore, |_| {})
    };
    let directory = tempfile::tempdir().unwrap();
    let counting = FaultyStorage::counting(files(directory.path()));
    let sink = Collect::default();
    let outcome = run(&counting, Strategy::None, &sink, None);
    assert!(matches!(outcome, Some(Outcome::Finished)), "{outcome:?}");
    let expected = records(&sink.committed);
    let steps = counting.steps();
    // The first and last piece of each stream, and where it gets its name.
    let of_streams = steps.iter().enumerate().filter(|(at, step)| {
        let begins = step.action == Action::Append
            && !steps[..*at].iter().any(|before| before.name == step.name);
        begins || step.action == Action::Finish
    });
    let of_streams: Vec<usize> = of_streams.map(|(at, _)| at).collect();
    assert!(of_streams.len() >= 6, "{steps:?}");
    for number in of_streams {
        for fault in [
            Fault::Crash(Extent::Nothing),
            Fault::Crash(Extent::All),
            Fault::Fail(Extent::Nothing),
            Fault::Fail(Extent::All),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let sink = Collect::default();
            let storage = FaultyStorage::at(files(directory.path()), number, fault);
            let first = run(&storage, fixed(2), &sink, None);
            assert_eq!(storage.faults().len(), 1, "step {number} did not happen");
            let place = format!("{:?}", storage.faults());
            let orphans = check_orphans(directory.path(), &place);
            if !matches!(first, Some(Outcome::Finished)) {
                let restore = match find(directory.path(), false) {
                    Found::Checkpoint(checkpoint) => Some(checkpoint),
                    Found::Nothing => None,
                    Found::Finished => panic!("{place}: it says that it has finished"),
                };
                let healthy = FaultyStorage::counting(files(directory.path()));
                let second = run(&healthy, Strategy::None, &sink, restore);
                assert!(matches!(second, Some(Outcome::Finished)), "{place}");
            }
            assert_eq!(records(&sink.committed), expected, "{place}");
            let left = check_orphans(directory.path(), &place);
            assert!(left.is_subset(&orphans), "{place}: {left:?}");
            collect_garbage(directory.path(), &place);
        }
    }
}

#[test]
fn a_storage_that_is_down_for_a_while_costs_nothing_but_checkpoints() {
    let (steps, expected) = undisturbed();
    // From the first step of a checkpoint on: what fails before keeps the job from starting.
    let of_checkpoint =
        |step: &Step| step.name.contains("/shared/r") || step.name.contains("/chk-");
    let begun = steps.iter().position(of_checkpoint).unwrap();
    for number in (begun..steps.len()).step_by(4) {
        let directory = tempfile::tempdir().unwrap();
        let sink = Collect::default();
        let down = number..number + 6;
        let fault = Fault::Fail(Extent::Nothing);
        let storage = FaultyStorage::during(files(directory.path()), down, fault);
        let mut options = options("sums-1", None, fixed(10));
        options.checkpoint.tolerable_failures = 2;
        let outcome = run_with(&storage, options, 0, &sink, None, |_| {});
        let place = format!("{:?}", storage.faults());
        assert!(!storage.faults().is_empty(), "it was never down");
        assert!(matches!(outcome, Some(Outcome::Finished)), "{place}");
        assert_eq!(records(&sink.committed), expected, "{place}");
        check_orphans(directory.path(), &place);
    }
}

/// So long nothing takes that is not broken.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_stall_of_any_durable_step_loses_and_doubles_nothing() {
    let (steps, expected) = undisturbed();
    let stalls = |step: &&Step| matches!(step.action, Action::Put | Action::Delete);
    for step in steps.iter().filter(stalls) {
        let directory = tempfile::tempdir().unwrap();
        let sink = Collect::default();
        let storage = FaultyStorage::at(files(directory.path()), step.number, Fault::Stall);
        let place = format!("{step:?}");
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(storage.wait_for_stall(LONG), "{place}: it did not stall");
                storage.release();
            });
            let options = options("sums-1", None, Strategy::None);
            run_with(&storage, options, 0, &sink, None, |_| {})
        });
        assert!(matches!(outcome, Some(Outcome::Finished)), "{place}");
        assert_eq!(records(&sink.committed), expected, "{place}");
        assert_eq!(check_orphans(directory.path(), &place), BTreeSet::new());
    }
}

#[test]
fn a_snapshot_that_stalls_is_given_up_and_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let sink = Collect::default();
    let stalled = std::sync::atomic::AtomicBool::new(false);
    let storage = FaultyStorage::new(files(directory.path()), move |step| {
        let first = step.action == Action::Append && !stalled.swap(true, Ordering::SeqCst);
        if first { Fault::Stall } else { Fault::None }
    });
    let mut options = options("sums-1", None, Strategy::None);
    options.checkpoint.timeout_ms = 500;
    options.checkpoint.tolerable_failures = u32::MAX;
    let (release, mut expired) = (storage.clone(), false);
    let outcome = run_with(&storage, options, PADDING, &sink, None, |event| {
        if let JobEvent::CheckpointFailed { .. } = event {
            expired = true;
            release.release();
        }
    });
    assert!(matches!(outcome, Some(Outcome::Finished)), "{outcome:?}");
    assert_eq!(storage.faults().len(), 1, "it did not stall");
    assert!(expired, "the stalled checkpoint was not given up");
    check(&sink.committed, COUNT);
    // What was written once it was let go belongs to no checkpoint any more.
    assert_eq!(check_orphans(directory.path(), "a stall"), BTreeSet::new());
}

/// Who asks for something once the second checkpoint is complete, in the middle of the input. Breaks every durable step
/// in turn; then the job goes on as long as it takes, and what is committed in the end is right.
fn disturb_control(fault: Fault, ask: impl Fn(SavepointTarget) -> Order) {
    let (_, expected) = undisturbed();
    let (mut done, mut not_done) = (0, 0);
    for number in 0.. {
        let directory = tempfile::tempdir().unwrap();
        let sink = Collect::default();
        let storage = FaultyStorage::at(files(directory.path()), number, fault);
        let target = SavepointTarget::with_storage(Arc::new(storage.clone()), "sums-1").unwrap();
        let restart = match fault {
            Fault::Fail(_) => fixed(3),
            Fault::None | Fault::Stall | Fault::Crash(_) => Strategy::None,
        };
        let options = |restart| options("sums-1", None, restart);
        let mut pending = None;
        let first = run_asking(
            &storage,
            options(restart),
            0,
            &sink,
            None,
            |handle, event| {
                let second = matches!(event, JobEvent::CheckpointCompleted { id: 2, .. });
                if second && pending.is_none() {
                    pending = Some(asking::submit(handle, ask(target.clone())));
                }
            },
        );
        let place = format!("{:?}", storage.faults());
        let answer = pending.map(asking::Pending::wait);
        match answer {
            Some(Ok(answer)) => {
                done += 1;
                assert!(
                    answer.savepoint_failed.is_none() || !storage.faults().is_empty(),
                    "{answer:?}"
                );
            }
            Some(Err(_)) => not_done += 1,
            None => {}
        }
        if !matches!(first, Some(Outcome::Finished)) {
            let restore = match find(directory.path(), false) {
                Found::Checkpoint(checkpoint) => Some(checkpoint),
                Found::Nothing => None,
                Found::Finished => panic!("{place}: it says that it has finished"),
            };
            let healthy = FaultyStorage::counting(files(directory.path()));
            let second = run_once(&healthy, "sums-1", Strategy::None, &sink, restore);
            assert!(
                matches!(second, Some(Outcome::Finished)),
                "{place}: {second:?}"
            );
        }
        assert_eq!(records(&sink.committed), expected, "{place}");
        // All steps have had their turn.
        if storage.faults().is_empty() {
            break;
        }
    }
    // The last run, which nothing breaks, is done in any case.
    assert!(done > 1 && not_done > 0, "{done} {not_done}");
}

const FAULTS: [Fault; 4] = [
    Fault::Crash(Extent::Nothing),
    Fault::Crash(Extent::All),
    Fault::Fail(Extent::Nothing),
    Fault::Fail(Extent::All),
];

#[test]
fn c80_a_savepoint_during_which_any_durable_step_breaks_loses_and_doubles_nothing() {
    for fault in FAULTS {
        disturb_control(fault, Order::Savepoint);
    }
}

#[test]
fn c81_a_stop_during_which_any_durable_step_breaks_loses_and_doubles_nothing() {
    for fault in FAULTS {
        disturb_control(fault, |target| Order::Stop {
            drain: false,
            savepoint: Some(target),
        });
    }
}
