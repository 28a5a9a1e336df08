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
    // After a failure too.
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

fn begin(number: u64, purpose: Purpose) -> Action {
    Action::Trigger {
        id: id(number),
        purpose,
    }
}

fn stop(drain: bool, savepoint: bool) -> Input {
    Input::StopRequested(StopPlan { drain, savepoint })
}

#[test]
fn c80_a_savepoint_begins_at_once_beside_checkpoints_and_is_complete_in_any_order() {
    let mut coordinator = started(every(100));
    assert_eq!(coordinator.on(Input::Tick, 100), [trigger(1)]);
    // As many checkpoints as may be are in progress.
    for number in 2..=3 {
        let actions = coordinator.on(Input::SavepointRequested, 110);
        assert_eq!(actions, [begin(number, Purpose::Savepoint)]);
    }
    for number in [3, 1] {
        for subtask in 0..2 {
            coordinator.on(Input::Acknowledged(id(number), subtask), 120);
        }
    }
    // The metadata of the checkpoint and that of a savepoint are written at the same time, and
    // neither takes an older one along.
    assert_eq!(
        coordinator.on(Input::Completed(id(3)), 130),
        [Action::Notify(id(3))]
    );
    assert_eq!(
        coordinator.on(Input::Completed(id(1)), 140),
        [Action::Notify(id(1))]
    );
    assert_eq!(coordinator.on(Input::Tick, 200), [trigger(4)]);
    assert_eq!(
        complete(&mut coordinator, 4, 210),
        [Action::Notify(id(4))],
        "a checkpoint does not subsume a savepoint"
    );
    assert_eq!(complete(&mut coordinator, 2, 220), [Action::Notify(id(2))]);
}

#[test]
fn c80_savepoints_that_fail_do_not_count_and_move_no_checkpoint() {
    let mut coordinator = started(Settings {
        min_pause_ms: 500,
        ..every(100)
    });
    for number in 1..=3 {
        coordinator.on(Input::SavepointRequested, 10);
        assert_eq!(
            decline(&mut coordinator, number, 20),
            [Action::Abort(id(number), no("disk full"))]
        );
    }
    assert_eq!(coordinator.deadline(), Some(100));
    assert_eq!(coordinator.on(Input::Tick, 100), [trigger(4)]);
}

#[test]
fn c80_output_of_a_savepoint_is_committed_by_a_checkpoint_that_is_tried_until_it_is_complete() {
    let mut coordinator = started(Settings {
        tolerable_failures: 9,
        ..Settings::default()
    });
    coordinator.on(Input::SavepointRequested, 10);
    assert_eq!(complete(&mut coordinator, 1, 20), [Action::Notify(id(1))]);
    assert_eq!(coordinator.on(Input::Uncommitted(id(1)), 20), [trigger(2)]);
    assert_eq!(decline(&mut coordinator, 2, 30).len(), 1);
    // There is no interval, and nobody asks again.
    assert_eq!(coordinator.deadline(), Some(1030));
    assert_eq!(coordinator.on(Input::Tick, 1029), []);
    assert_eq!(coordinator.on(Input::Tick, 1030), [trigger(3)]);
    assert_eq!(complete(&mut coordinator, 3, 1040), [Action::Notify(id(3))]);
    assert_eq!(coordinator.deadline(), None);
}

#[test]
fn c80_a_checkpoint_that_began_before_the_savepoint_does_not_commit_its_output() {
    let mut coordinator = started(Settings::default());
    coordinator.on(Input::Requested, 10);
    coordinator.on(Input::SavepointRequested, 10);
    assert_eq!(complete(&mut coordinator, 2, 20), [Action::Notify(id(2))]);
    assert_eq!(coordinator.on(Input::Uncommitted(id(2)), 20), []);
    assert_eq!(
        complete(&mut coordinator, 1, 30),
        [Action::Notify(id(1)), trigger(3)]
    );
    assert_eq!(complete(&mut coordinator, 3, 40), [Action::Notify(id(3))]);
}

#[test]
fn c81_a_stop_pauses_at_a_checkpoint_and_takes_its_savepoint_after_it() {
    let mut coordinator = started(every(100));
    coordinator.on(Input::Tick, 100);
    assert_eq!(coordinator.may_stop(), Ok(()));
    assert_eq!(
        coordinator.on(stop(false, true), 110),
        [begin(2, Purpose::Stop)],
        "it does not wait for the one in progress"
    );
    assert!(coordinator.may_request().is_err() && coordinator.may_stop().is_err());
    // No other begins.
    assert_eq!(coordinator.on(Input::Requested, 500), []);
    let actions = complete(&mut coordinator, 2, 510);
    assert!(
        matches!(actions.as_slice(), [Action::Abort(older, _), notify, savepoint]
            if *older == id(1) && *notify == Action::Notify(id(2))
                && *savepoint == begin(3, Purpose::StopSavepoint)),
        "{actions:?}"
    );
    assert_eq!(coordinator.on(Input::Tick, 900), []);
    assert_eq!(
        complete(&mut coordinator, 3, 910),
        [Action::Notify(id(3)), Action::Finish]
    );
    assert!(coordinator.may_request().is_err());
}

#[test]
fn c81_a_stop_that_fails_leaves_the_job_as_it_was() {
    // Not even one failure is tolerated: the checkpoint of a stop does not count.
    let mut coordinator = started(Settings {
        min_pause_ms: 300,
        ..every(100)
    });
    coordinator.on(stop(false, false), 10);
    assert_eq!(
        decline(&mut coordinator, 1, 20),
        [Action::Abort(id(1), no("disk full")), Action::Resume]
    );
    assert_eq!(coordinator.may_stop(), Ok(()));
    // The pause holds.
    assert_eq!(coordinator.deadline(), Some(320));
    assert_eq!(coordinator.on(Input::Tick, 320), [trigger(2)]);
    complete(&mut coordinator, 2, 330);
    coordinator.on(stop(false, true), 340);
    complete(&mut coordinator, 3, 350);
    assert_eq!(
        decline(&mut coordinator, 4, 360),
        [Action::Abort(id(4), no("disk full")), Action::Resume]
    );
    assert_eq!(coordinator.on(Input::Tick, 650), [trigger(5)]);
}

#[test]
fn c82_a_drain_ends_input_and_takes_nothing_but_the_last_checkpoint_and_its_savepoint() {
    for savepoint_fails in [false, true] {
        let mut coordinator = started(Settings {
            max_concurrent: 3,
            tolerable_failures: 9,
            ..every(100)
        });
        assert_eq!(coordinator.on(stop(true, true), 10), [Action::EndInput]);
        assert_eq!(coordinator.deadline(), None);
        coordinator.on(Input::Ended(0), 20);
        coordinator.on(Input::Uncommitted(id(1)), 20);
        assert_eq!(coordinator.on(Input::Requested, 500), []);
        assert_eq!(
            coordinator.on(Input::Ended(1), 510),
            [begin(1, Purpose::Last)]
        );
        // There is no way back: it is taken again.
        assert_eq!(decline(&mut coordinator, 1, 520).len(), 1);
        assert_eq!(coordinator.on(Input::Tick, 1520), [begin(2, Purpose::Last)]);
        assert_eq!(
            complete(&mut coordinator, 2, 1530),
            [Action::Notify(id(2)), begin(3, Purpose::StopSavepoint)]
        );
        let actions = match savepoint_fails {
            false => complete(&mut coordinator, 3, 1540),
            true => decline(&mut coordinator, 3, 1540),
        };
        assert_eq!(actions.last(), Some(&Action::Finish));
    }
}

#[test]
fn an_attempt_that_only_has_to_be_there_once_more_takes_nothing_on() {
    let mut coordinator = Coordinator::new(every(100), 2, 1);
    coordinator.hold();
    assert!(coordinator.may_request().is_err() && coordinator.may_stop().is_err());
    coordinator.on(Input::Ready(0), 0);
    assert_eq!(coordinator.on(Input::Ready(1), 0), [Action::Finish]);
}

#[test]
fn c81_a_job_whose_input_has_all_ended_is_not_stopped() {
    let mut coordinator = started(every(100));
    coordinator.on(Input::Ended(0), 10);
    assert_eq!(coordinator.may_stop(), Ok(()));
    coordinator.on(Input::Ended(1), 10);
    assert!(coordinator.may_stop().is_err());
    assert_eq!(coordinator.may_request(), Ok(()));
}

#[test]
fn c83_another_interval_counts_from_now_and_keeps_the_pause() {
    let mut coordinator = started(Settings {
        min_pause_ms: 500,
        ..every(10_000)
    });
    coordinator.on(Input::Requested, 10);
    complete(&mut coordinator, 1, 20);
    coordinator.on(Input::IntervalChanged(Some(100)), 30);
    assert_eq!(coordinator.deadline(), Some(520));
    coordinator.on(Input::IntervalChanged(None), 40);
    assert_eq!(coordinator.deadline(), None);
    coordinator.on(Input::IntervalChanged(Some(700)), 50);
    assert_eq!(coordinator.on(Input::Tick, 750), [trigger(2)]);
}

#[test]
fn what_is_asked_for_before_the_start_begins_with_it() {
    let mut coordinator = Coordinator::new(Settings::default(), 1, 1);
    assert_eq!(coordinator.on(Input::SavepointRequested, 0), []);
    assert_eq!(coordinator.on(stop(false, false), 0), []);
    assert_eq!(
        coordinator.on(Input::Ready(0), 10),
        [Action::Start, begin(1, Purpose::Stop)]
    );
    // It waits until it is known whether the job goes on.
    assert_eq!(
        decline(&mut coordinator, 1, 20),
        [
            Action::Abort(id(1), no("disk full")),
            Action::Resume,
            begin(2, Purpose::Savepoint)
        ]
    );
}
