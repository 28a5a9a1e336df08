//! Every answer to "where does the job start", on real directories. What is asked for stands first in a
//! test's name, what is there second.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::fixture::{filed, noise, take_as};
use crate::lease::tests::{Clock, terms};
use crate::lease::{Lease, Rewind, RewindMode};
use crate::storage::{FileStorage, Storage};
use crate::store::{CheckpointStore, Options};
use crate::{Error, Result};

/// A directory of jobs. Every start is by a new holder, on a machine where the one before it is gone.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn lease(&self, job: &str) -> Arc<Lease> {
        let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(self.path()).unwrap());
        Arc::new(Lease::take(storage, job, terms("a", &Clock::default())).unwrap())
    }

    /// A run of a job that takes these checkpoints and ends like this, or is killed.
    fn run(&self, job: &str, token: &str, ids: &[u64], end: Option<(Ending, bool)>) {
        let lease = self.lease(job);
        let highest = lease.highest();
        lease
            .record(|run| {
                if run.as_ref().is_none_or(|run| run.token != token) {
                    *run = Some(Run::fresh(token.to_owned(), highest));
                }
            })
            .unwrap();
        let options = Options {
            retained: 20,
            ..filed()
        };
        let store = CheckpointStore::with_lease(lease, options).unwrap();
        for id in ids {
            let mut metadata = crate::fixture::metadata(*id, 1);
            metadata.run = Some(token.to_owned());
            take_as(&store, metadata, &[(None, noise(*id, 50))]).unwrap();
        }
        if let Some((how, keep)) = end {
            store.end(how, keep, 0).unwrap();
        }
    }

    fn checkpoint(&self, job: &str, id: u64) -> Completed {
        let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(self.path()).unwrap());
        Completed::open(storage, &format!("{job}/chk-{id}")).unwrap()
    }

    fn decide(
        &self,
        job: &str,
        asked: &Asked<'_>,
        fresh: bool,
    ) -> Result<Result<StartDecision, Refusal>> {
        let lease = self.lease(job);
        let history = History::of(&lease)?;
        let counts = |it: &Completed| lease.counts(it.metadata());
        decide(asked, fresh, &history, &counts, &|| history.newest())
    }

    /// The plan in a few words.
    fn plan(&self, job: &str, asked: &Asked<'_>, fresh: bool) -> String {
        match self.decide(job, asked, fresh).unwrap() {
            Ok(StartDecision::Finished) => "finished".to_owned(),
            Ok(StartDecision::Begin { from: None }) => "begins".to_owned(),
            Ok(StartDecision::Begin { from: Some(from) }) => {
                format!("begins from {}", from.metadata().id)
            }
            Ok(StartDecision::Continue(source)) => format!("goes on {}", words(&source)),
            Ok(StartDecision::Rewind {
                to,
                published_through,
            }) => format!("rewinds from {published_through} {}", words(&to)),
            Err(Refusal::Unfinished { from_elsewhere, .. }) => {
                format!("unfinished {from_elsewhere}")
            }
            Err(Refusal::Over { .. }) => "over".to_owned(),
            Err(Refusal::Nothing) => "nothing".to_owned(),
            Err(Refusal::FreshFromOwn { id }) => format!("fresh from own {id}"),
            Err(Refusal::GivenUp { id, .. }) => format!("given up {id}"),
        }
    }
}

fn words(source: &Source) -> String {
    match source {
        Source::Own(it) => format!("from own {}", it.metadata().id),
        Source::Elsewhere(it) => format!("from elsewhere {}", it.metadata().id),
        Source::Start(start) => format!("as it started {}", start.id()),
    }
}

const NEWEST: Asked<'static> = Asked::Newest { or_fresh: false };
const RESUME: Asked<'static> = Asked::Newest { or_fresh: true };

#[test]
fn anything_in_a_directory_where_nothing_ran() {
    let root = Root::new();
    assert_eq!(root.plan("job", &Asked::Fresh, false), "begins");
    assert_eq!(root.plan("job", &Asked::Fresh, true), "begins");
    assert_eq!(root.plan("job", &RESUME, false), "begins");
    assert_eq!(root.plan("job", &NEWEST, false), "nothing");
    root.run("other", "o", &[1, 2], None);
    let other = root.checkpoint("other", 2);
    assert_eq!(
        root.plan("job", &Asked::From(&other), false),
        "begins from 2"
    );
}

#[test]
fn c147_anything_over_a_run_that_was_killed() {
    let root = Root::new();
    root.run("other", "o", &[1, 2], None);
    root.run("job", "r", &[1, 2, 3], None);
    assert_eq!(root.plan("job", &Asked::Fresh, false), "unfinished false");
    assert_eq!(root.plan("job", &Asked::Fresh, true), "begins");
    for newest in [NEWEST, RESUME] {
        assert_eq!(root.plan("job", &newest, false), "goes on from own 3");
    }
    let from =
        |id: u64, fresh: bool| root.plan("job", &Asked::From(&root.checkpoint("job", id)), fresh);
    assert_eq!(from(3, false), "goes on from own 3");
    assert_eq!(from(2, false), "rewinds from 3 from own 2");
    assert_eq!(from(2, true), "fresh from own 2");
    let other = root.checkpoint("other", 2);
    let other = Asked::From(&other);
    assert_eq!(root.plan("job", &other, false), "unfinished true");
    assert_eq!(root.plan("job", &other, true), "begins from 2");
}

#[test]
fn c147_a_copy_is_judged_by_its_run_and_number() {
    let root = Root::new();
    root.run("job", "r", &[1, 2, 3], None);
    for id in [2, 3] {
        let copy = root.path().join(format!("copies/kept-{id}"));
        std::fs::create_dir_all(&copy).unwrap();
        let metadata = root.path().join(format!("job/chk-{id}/_metadata"));
        std::fs::copy(metadata, copy.join("_metadata")).unwrap();
    }
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(root.path()).unwrap());
    let copy =
        |id: u64| Completed::open(Arc::clone(&storage), &format!("copies/kept-{id}")).unwrap();
    let plan = |id: u64| root.plan("job", &Asked::From(&copy(id)), false);
    assert_eq!(plan(2), "rewinds from 3 from elsewhere 2");
    assert_eq!(plan(3), "goes on from elsewhere 3");
}

#[test]
fn c147_what_a_rewind_has_left_counts_no_more() {
    let root = Root::new();
    root.run("job", "r", &[1, 2, 3, 4], None);
    let left = root.checkpoint("job", 3);
    let lease = root.lease("job");
    let to_two = |run: &mut Option<Run>| {
        let run = run.as_mut().unwrap();
        run.start = Start::Own { id: 2 };
        run.completed = 2;
        let rewind = Rewind {
            to: 2,
            through: 4,
            mode: RewindMode::Repeat,
            owed: Vec::new(),
        };
        run.discard_for(&rewind);
        run.rewind = Some(rewind);
    };
    lease.record_rewind(to_two, 2).unwrap();
    drop(lease);
    assert_eq!(root.plan("job", &RESUME, false), "goes on from own 2");
    assert_eq!(root.plan("job", &Asked::From(&left), false), "given up 3");
}

#[test]
fn anything_over_a_run_that_finished() {
    for keep in [false, true] {
        let root = Root::new();
        root.run("job", "r", &[1, 2], Some((Ending::Finished, keep)));
        assert_eq!(root.plan("job", &Asked::Fresh, false), "begins");
        for newest in [NEWEST, RESUME] {
            assert_eq!(root.plan("job", &newest, false), "finished");
        }
        if keep {
            let kept = root.checkpoint("job", 2);
            let kept = Asked::From(&kept);
            assert_eq!(root.plan("job", &kept, false), "goes on from own 2");
            // After the next run it is of another one, and is left alone.
            root.run("job", "s", &[3], None);
            assert_eq!(root.plan("job", &NEWEST, false), "goes on from own 3");
            assert_eq!(root.plan("job", &kept, false), "unfinished true");
            assert_eq!(root.plan("job", &kept, true), "begins from 2");
        }
    }
}

#[test]
fn c156_a_run_that_ended_without_checkpoints_is_not_begun_again_in_silence() {
    for how in [Ending::Cancelled, Ending::Failed] {
        let root = Root::new();
        root.run("job", "r", &[1, 2], Some((how, false)));
        assert_eq!(root.plan("job", &RESUME, false), "over");
        assert_eq!(root.plan("job", &NEWEST, false), "over");
        assert_eq!(root.plan("job", &Asked::Fresh, false), "begins");
        // Where nothing was published nothing is repeated.
        let root = Root::new();
        root.run("job", "r", &[], Some((how, false)));
        assert_eq!(root.plan("job", &RESUME, false), "goes on as it started 0");
    }
}

#[test]
fn c155_what_a_run_started_from_is_where_it_starts_again() {
    let root = Root::new();
    root.run("other", "o", &[7], None);
    root.run("job", "r", &[], None);
    assert_eq!(root.plan("job", &RESUME, false), "goes on as it started 0");
    assert_eq!(root.plan("job", &NEWEST, false), "goes on as it started 0");
    let lease = root.lease("job");
    let path = root.checkpoint("other", 7).path().unwrap();
    let elsewhere = Start::Elsewhere {
        path,
        id: 7,
        claim: false,
    };
    lease
        .record(|run| run.as_mut().unwrap().start = elsewhere)
        .unwrap();
    drop(lease);
    assert_eq!(root.plan("job", &RESUME, false), "goes on as it started 7");
    // To start with nothing would forget it in silence; to name another says so.
    assert_eq!(root.plan("job", &Asked::Fresh, false), "unfinished false");
    let other = root.checkpoint("other", 7);
    assert_eq!(
        root.plan("job", &Asked::From(&other), false),
        "begins from 7"
    );
}

#[test]
fn a_directory_without_its_lease_is_gone_on_with() {
    let root = Root::new();
    root.run("job", "r", &[1, 2, 3], None);
    std::fs::remove_dir_all(root.path().join("job/_lease")).unwrap();
    assert_eq!(root.plan("job", &Asked::Fresh, false), "unfinished false");
    assert_eq!(root.plan("job", &RESUME, false), "goes on from own 3");
    let older = root.checkpoint("job", 2);
    let older = Asked::From(&older);
    assert_eq!(root.plan("job", &older, false), "rewinds from 3 from own 2");
}

#[test]
fn c14_a_damaged_newest_is_not_stepped_over() {
    let root = Root::new();
    root.run("job", "r", &[1, 2], None);
    std::fs::write(root.path().join("job/chk-2/_metadata"), "torn").unwrap();
    let damaged = root.decide("job", &RESUME, false);
    assert!(matches!(damaged, Err(Error::Corrupt { .. })), "{damaged:?}");
    assert_eq!(root.plan("job", &Asked::Fresh, false), "unfinished false");
    let older = root.checkpoint("job", 1);
    let older = Asked::From(&older);
    assert_eq!(root.plan("job", &older, false), "rewinds from 2 from own 1");
}
