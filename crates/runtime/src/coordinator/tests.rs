use super::*;

fn id(number: u64) -> CheckpointId {
    CheckpointId(number)
}

fn no(text: &str) -> Reason {
    Reason::new(Kind::UploadFailed, text)
}

fn trigger(number: u64) -> Action {
    Action::Trigger {
        id: id(number),
        purpose: Purpose::Checkpoint,
    }
}

fn decline(coordinator: &mut Coordinator, number: u64, now: i64) -> Vec<Action> {
    coordinator.on(Input::Declined(id(number), no("disk full")), now)
}

fn started(settings: Settings) -> Coordinator {
    let mut coordinator = Coordinator::new(settings, 2, 1);
    assert_eq!(coordinator.on(Input::Ready(0), 0), []);
    assert_eq!(coordinator.on(Input::Ready(1), 0), [Action::Start]);
    coordinator
}

fn every(interval_ms: u64) -> Settings {
    Settings {
        interval_ms: Some(interval_ms),
        ..Settings::default()
    }
}

/// Acknowledges and completes `number`.
fn complete(coordinator: &mut Coordinator, number: u64, now: i64) -> Vec<Action> {
    assert_eq!(coordinator.on(Input::Acknowledged(id(number), 0), now), []);
    assert_eq!(
        coordinator.on(Input::Acknowledged(id(number), 1), now),
        [Action::Complete(id(number))]
    );
    coordinator.on(Input::Completed(id(number)), now)
}

#[test]
fn checkpoints_come_at_their_interval_one_at_a_time() {
    let mut coordinator = started(every(100));
    assert_eq!(coordinator.deadline(), Some(100));
    assert_eq!(coordinator.on(Input::Tick, 99), []);
    assert_eq!(
        coordinator.on(Input::Tick, 100),
        [Action::Trigger {
            id: id(1),
            purpose: Purpose::Checkpoint
        }]
    );
    // The next is due but one is in progress; it follows at once when that one completes.
    assert_eq!(coordinator.on(Input::Tick, 250), []);
    assert_eq!(
        complete(&mut coordinator, 1, 260),
        [
            Action::Notify(id(1)),
            Action::Trigger {
                id: id(2),
                purpose: Purpose::Checkpoint
            }
        ]
    );
}

#[test]
fn c20_the_pause_holds_for_periodic_checkpoints_but_not_for_requested_ones() {
    let mut coordinator = started(Settings {
        min_pause_ms: 500,
        tolerable_failures: 9,
        ..every(100)
    });
    coordinator.on(Input::Tick, 100);
    assert_eq!(complete(&mut coordinator, 1, 150), [Action::Notify(id(1))]);
    assert_eq!(coordinator.deadline(), Some(650));
    assert_eq!(coordinator.on(Input::Tick, 649), []);
    assert_eq!(coordinator.on(Input::Requested, 649), [trigger(2)]);
    assert_eq!(complete(&mut coordinator, 2, 660), [Action::Notify(id(2))]);
    assert_eq!(coordinator.on(Input::Tick, 1159), []);
    assert_eq!(coordinator.on(Input::Tick, 1160), [trigger(3)]);
    // Behind a failure too.
    assert_eq!(decline(&mut coordinator, 3, 1200).len(), 1);
    assert_eq!(coordinator.on(Input::Tick, 1699), []);
    assert_eq!(coordinator.on(Input::Tick, 1700), [trigger(4)]);
}

#[test]
fn c20_a_request_waits_for_room_and_shares_a_checkpoint_that_is_due_anyway() {
    let mut coordinator = started(every(100));
    coordinator.on(Input::Tick, 100);
    assert_eq!(coordinator.on(Input::Requested, 110), []);
    assert_eq!(coordinator.on(Input::Requested, 120), []);
    assert_eq!(
        complete(&mut coordinator, 1, 130),
        [Action::Notify(id(1)), trigger(2)]
    );
    assert_eq!(complete(&mut coordinator, 2, 140), [Action::Notify(id(2))]);
    // Due and asked for at the same time: one serves both.
    assert_eq!(coordinator.on(Input::Requested, 300), [trigger(3)]);
    assert_eq!(complete(&mut coordinator, 3, 310), [Action::Notify(id(3))]);
}

#[test]
fn c21_a_stalled_checkpoint_expires_and_what_comes_late_is_ignored() {
    let mut coordinator = started(Settings {
        timeout_ms: 50,
        tolerable_failures: 1,
        ..every(100)
    });
    coordinator.on(Input::Tick, 100);
    coordinator.on(Input::Acknowledged(id(1), 0), 120);
    assert_eq!(coordinator.deadline(), Some(150));
    assert_eq!(coordinator.on(Input::Tick, 150), [Action::Expire(id(1))]);
    // Once.
    assert_eq!(coordinator.on(Input::Tick, 151), []);
    let expired = Reason::new(Kind::Expired, "too late");
    assert_eq!(
        coordinator.on(Input::Declined(id(1), expired.clone()), 151),
        [Action::Abort(id(1), expired)]
    );
    assert_eq!(coordinator.on(Input::Acknowledged(id(1), 1), 160), []);
    assert_eq!(coordinator.on(Input::Completed(id(1)), 170), []);
    assert_eq!(coordinator.on(Input::Tick, 200), [trigger(2)]);
}

#[test]
fn c21_the_time_of_a_checkpoint_runs_until_its_metadata_is_written() {
    let settings = || Settings {
        timeout_ms: 50,
        tolerable_failures: 1,
        ..every(100)
    };
    let completing = |coordinator: &mut Coordinator| {
        coordinator.on(Input::Tick, 100);
        coordinator.on(Input::Acknowledged(id(1), 0), 120);
        assert_eq!(
            coordinator.on(Input::Acknowledged(id(1), 1), 120),
            [Action::Complete(id(1))]
        );
        assert_eq!(coordinator.deadline(), Some(150));
        assert_eq!(coordinator.on(Input::Tick, 150), [Action::Expire(id(1))]);
    };
    // It can still be given up: then it fails.
    let mut coordinator = started(settings());
    completing(&mut coordinator);
    let expired = Reason::new(Kind::Expired, "too late");
    let actions = coordinator.on(Input::Declined(id(1), expired.clone()), 150);
    assert_eq!(actions, [Action::Abort(id(1), expired)]);
    assert_eq!(coordinator.failures, 1);
    // It is complete already: then it counts as that.
    let mut coordinator = started(settings());
    completing(&mut coordinator);
    assert_eq!(
        coordinator.on(Input::Completed(id(1)), 150),
        [Action::Notify(id(1))]
    );
    assert_eq!(coordinator.failures, 0);
}

#[test]
fn c24_failures_in_a_row_are_counted_and_a_success_starts_again() {
    let mut coordinator = started(Settings {
        tolerable_failures: 1,
        ..every(100)
    });
    coordinator.on(Input::Tick, 100);
    assert_eq!(
        decline(&mut coordinator, 1, 110),
        [Action::Abort(id(1), no("disk full"))]
    );
    coordinator.on(Input::Tick, 200);
    complete(&mut coordinator, 2, 210);
    coordinator.on(Input::Tick, 300);
    assert_eq!(decline(&mut coordinator, 3, 310).len(), 1);
    coordinator.on(Input::Tick, 400);
    assert_eq!(
        decline(&mut coordinator, 4, 410),
        [
            Action::Abort(id(4), no("disk full")),
            Action::Fail(id(4), no("disk full"))
        ]
    );
    assert_eq!(coordinator.on(Input::Tick, 500), []);
}

#[test]
fn c24_what_does_not_count_fails_no_job() {
    let mut coordinator = started(every(100));
    for round in 1..=5 {
        let now = round as i64 * 100;
        assert_eq!(coordinator.on(Input::Tick, now), [trigger(round)]);
        let declined = Reason::new(Kind::Declined, "the sink is gone");
        let actions = coordinator.on(Input::Declined(id(round), declined.clone()), now);
        assert_eq!(actions, [Action::Abort(id(round), declined)]);
    }
}

#[test]
fn the_job_finishes_with_a_last_checkpoint_behind_the_end_of_all_inputs() {
    let mut coordinator = started(every(100));
    coordinator.on(Input::Tick, 100);
    assert_eq!(coordinator.on(Input::Ended(0), 110), []);
    // One is in progress: the last one has to wait for it.
    assert_eq!(coordinator.on(Input::Ended(1), 110), []);
    assert_eq!(
        complete(&mut coordinator, 1, 120),
        [
            Action::Notify(id(1)),
            Action::Trigger {
                id: id(2),
                purpose: Purpose::Last
            }
        ]
    );
    assert_eq!(
        complete(&mut coordinator, 2, 130),
        [Action::Notify(id(2)), Action::Finish]
    );
}

#[test]
fn c31_a_last_checkpoint_that_fails_is_taken_again_or_fails_the_job() {
    let mut coordinator = started(Settings {
        tolerable_failures: 1,
        ..Settings::default()
    });
    coordinator.on(Input::Ended(0), 10);
    assert_eq!(
        coordinator.on(Input::Ended(1), 10),
        [Action::Trigger {
            id: id(1),
            purpose: Purpose::Last
        }]
    );
    assert_eq!(
        coordinator.on(Input::Declined(id(1), no("no")), 20),
        [Action::Abort(id(1), no("no"))]
    );
    assert_eq!(coordinator.deadline(), Some(1020));
    assert_eq!(coordinator.on(Input::Tick, 1019), []);
    assert_eq!(
        coordinator.on(Input::Tick, 1020),
        [Action::Trigger {
            id: id(2),
            purpose: Purpose::Last
        }]
    );
    let actions = coordinator.on(Input::Declined(id(2), no("no")), 1030);
    assert_eq!(actions.last(), Some(&Action::Fail(id(2), no("no"))));
}

#[test]
fn c19_a_completed_checkpoint_subsumes_older_ones_in_progress() {
    let mut coordinator = started(Settings {
        max_concurrent: 2,
        ..every(100)
    });
    coordinator.on(Input::Tick, 100);
    coordinator.on(Input::Tick, 200);
    let actions = complete(&mut coordinator, 2, 210);
    assert!(
        matches!(actions.as_slice(), [Action::Abort(older, _), Action::Notify(newer)]
        if *older == id(1) && *newer == id(2)),
        "{actions:?}"
    );
}

#[test]
fn c25_with_several_in_progress_each_completion_is_told_in_order_ahead_of_what_follows() {
    let mut coordinator = started(Settings {
        max_concurrent: 3,
        ..every(100)
    });
    coordinator.on(Input::Tick, 100);
    coordinator.on(Input::Tick, 200);
    for subtask in 0..2 {
        coordinator.on(Input::Acknowledged(id(1), subtask), 210);
    }
    // The second has to wait until the first is decided.
    assert_eq!(coordinator.on(Input::Acknowledged(id(2), 0), 220), []);
    assert_eq!(coordinator.on(Input::Acknowledged(id(2), 1), 220), []);
    assert_eq!(coordinator.on(Input::Requested, 230), [trigger(3)]);
    assert_eq!(coordinator.on(Input::Requested, 240), []);
    assert_eq!(
        coordinator.on(Input::Completed(id(1)), 250),
        [Action::Notify(id(1)), Action::Complete(id(2)), trigger(4)]
    );
    assert_eq!(
        coordinator.on(Input::Completed(id(2)), 260),
        [Action::Notify(id(2))]
    );
}

#[test]
fn metadata_that_fails_lets_the_next_one_go_on() {
    let mut coordinator = started(Settings {
        max_concurrent: 2,
        tolerable_failures: 1,
        ..every(100)
    });
    coordinator.on(Input::Tick, 100);
    coordinator.on(Input::Tick, 200);
    for number in [1, 2] {
        for subtask in 0..2 {
            coordinator.on(Input::Acknowledged(id(number), subtask), 210);
        }
    }
    assert_eq!(
        decline(&mut coordinator, 1, 220),
        [
            Action::Abort(id(1), no("disk full")),
            Action::Complete(id(2))
        ]
    );
}

#[test]
fn c29_checkpoints_go_on_when_some_inputs_have_ended() {
    let mut coordinator = started(every(100));
    assert_eq!(coordinator.on(Input::Ended(0), 10), []);
    for round in 1..=3 {
        let now = round as i64 * 100;
        assert_eq!(coordinator.on(Input::Tick, now), [trigger(round)]);
        complete(&mut coordinator, round, now);
    }
}
