//! When checkpoints are triggered, completed, given up, and when the job is done: decisions only.
//!
//! A pure state machine. Whoever drives it brings what happened and the time, and carries out the
//! actions it returns, in order. Rules as in Flink's `CheckpointCoordinator`: an id is used once; at
//! most `max_concurrent` are in progress; periodic triggers keep `min_pause` from the end of one
//! checkpoint to the next, manual ones do not; failures in a row are counted and the counter starts
//! again at a success. When every subtask has seen the end of its input, one last checkpoint follows,
//! and only its completion makes the job finished.

use std::collections::{BTreeMap, BTreeSet};

use dataflow::CheckpointId;

/// How checkpoints are taken. Times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From trigger to trigger; `None`: no periodic checkpoints.
    pub interval_ms: Option<u64>,
    /// A checkpoint that takes longer is aborted.
    pub timeout_ms: u64,
    /// At least this long from the end of one checkpoint to the next periodic one.
    pub min_pause_ms: u64,
    /// The most checkpoints in progress at once.
    pub max_concurrent: u32,
    /// How many checkpoints may fail in a row without failing the job.
    pub tolerable_failures: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval_ms: None,
            timeout_ms: 600_000,
            min_pause_ms: 0,
            max_concurrent: 1,
            tolerable_failures: 0,
        }
    }
}

/// How long after a failure the last checkpoint is taken again, at the earliest.
const LAST_RETRY_MS: u64 = 1000;

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A subtask is set up.
    Ready(usize),
    /// A subtask has processed the end of all its inputs.
    Ended(usize),
    /// A subtask's snapshot for a checkpoint is written.
    Acknowledged(CheckpointId, usize),
    /// A part of a checkpoint could not be written or taken.
    Declined(CheckpointId, String),
    /// The metadata of a checkpoint is written: it exists.
    Completed(CheckpointId),
    /// Somebody asks for a checkpoint now.
    Requested,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Let the sources read.
    Start,
    /// Begin a checkpoint and have the sources emit its barrier.
    Trigger {
        id: CheckpointId,
        /// It is the last one: every input has ended.
        last: bool,
    },
    /// All parts are there: write the metadata.
    Complete(CheckpointId),
    /// Tell everybody that it is complete.
    Notify(CheckpointId),
    /// Give it up, tell everybody, clean up.
    Abort(CheckpointId, String),
    /// The job has failed, since too many checkpoints have.
    Fail(CheckpointId, String),
    /// All is committed: let everybody close.
    Finish,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Coordinator {
    settings: Settings,
    subtasks: usize,
    next_id: u64,
    ready: BTreeSet<usize>,
    ended: BTreeSet<usize>,
    running: bool,
    pending: BTreeMap<CheckpointId, Pending>,
    /// The checkpoint whose completion finishes the job.
    last: Option<CheckpointId>,
    /// After a failed one: when it may be taken again.
    last_retry: i64,
    next_trigger: Option<i64>,
    requested: bool,
    failures: u32,
    over: bool,
}

#[derive(Debug)]
struct Pending {
    triggered_at: i64,
    acknowledged: BTreeSet<usize>,
    /// All have acknowledged and the metadata is being written.
    completing: bool,
}

impl Coordinator {
    /// For so many subtasks; the first checkpoint has the number `next_id`.
    pub(crate) fn new(settings: Settings, subtasks: usize, next_id: u64) -> Self {
        Self {
            settings,
            subtasks,
            next_id,
            ready: BTreeSet::new(),
            ended: BTreeSet::new(),
            running: false,
            pending: BTreeMap::new(),
            last: None,
            last_retry: i64::MIN,
            next_trigger: None,
            requested: false,
            failures: 0,
            over: false,
        }
    }

    /// The number that the next checkpoint will have.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// When [`Input::Tick`] is due at the latest.
    pub(crate) fn deadline(&self) -> Option<i64> {
        if !self.running || self.over {
            return None;
        }
        let expiry = self
            .pending
            .values()
            .filter(|pending| !pending.completing)
            .map(|pending| {
                pending
                    .triggered_at
                    .saturating_add_unsigned(self.settings.timeout_ms)
            })
            .min();
        let trigger = self
            .next_trigger
            .filter(|_| self.may_trigger() && !self.all_ended());
        let last = self.all_ended() && self.last.is_none() && self.may_trigger();
        let last = last.then_some(self.last_retry);
        expiry.into_iter().chain(trigger).chain(last).min()
    }

    fn may_trigger(&self) -> bool {
        self.pending.len() < self.settings.max_concurrent as usize
    }

    fn all_ended(&self) -> bool {
        self.ended.len() == self.subtasks
    }

    /// Takes notice of `input` at time `now` and says what to do about it.
    pub(crate) fn on(&mut self, input: Input, now: i64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.over {
            return actions;
        }
        match input {
            Input::Ready(subtask) => {
                self.ready.insert(subtask);
                if self.ready.len() == self.subtasks && !self.running {
                    self.running = true;
                    self.next_trigger = self.after_interval(now);
                    actions.push(Action::Start);
                }
            }
            Input::Ended(subtask) => {
                self.ended.insert(subtask);
            }
            Input::Acknowledged(id, subtask) => {
                // Of an aborted checkpoint acknowledgements may still arrive: of no interest.
                if let Some(pending) = self.pending.get_mut(&id) {
                    pending.acknowledged.insert(subtask);
                    if pending.acknowledged.len() == self.subtasks && !pending.completing {
                        pending.completing = true;
                        actions.push(Action::Complete(id));
                    }
                }
            }
            Input::Declined(id, reason) => self.fail(id, reason, now, &mut actions),
            Input::Completed(id) => self.completed(id, now, &mut actions),
            Input::Requested => self.requested = true,
            Input::Tick => {}
        }
        self.expire(now, &mut actions);
        self.trigger(now, &mut actions);
        actions
    }

    fn after_interval(&self, now: i64) -> Option<i64> {
        self.settings
            .interval_ms
            .map(|interval| now.saturating_add_unsigned(interval))
    }

    fn completed(&mut self, id: CheckpointId, now: i64, actions: &mut Vec<Action>) {
        if self.pending.remove(&id).is_none() {
            return;
        }
        // Older ones still in progress are subsumed: what they would hold is in this one.
        let older: Vec<CheckpointId> = self.pending.range(..id).map(|(older, _)| *older).collect();
        for older in older {
            self.pending.remove(&older);
            actions.push(Action::Abort(older, format!("subsumed by checkpoint {id}")));
        }
        self.failures = 0;
        self.keep_pause(now);
        actions.push(Action::Notify(id));
        if self.last == Some(id) {
            self.over = true;
            actions.push(Action::Finish);
        }
    }

    fn fail(&mut self, id: CheckpointId, reason: String, now: i64, actions: &mut Vec<Action>) {
        if self.pending.remove(&id).is_none() {
            return;
        }
        if self.last == Some(id) {
            // It is taken again, or the job fails: it never finishes with output uncommitted.
            // Not at once, for what hindered it (a full disk) will not be gone at once either.
            self.last = None;
            let pause = self.settings.interval_ms.unwrap_or(0).max(LAST_RETRY_MS);
            self.last_retry = now.saturating_add_unsigned(pause);
        }
        self.failures += 1;
        self.keep_pause(now);
        actions.push(Action::Abort(id, reason.clone()));
        if self.failures > self.settings.tolerable_failures {
            self.over = true;
            actions.push(Action::Fail(id, reason));
        }
    }

    fn keep_pause(&mut self, now: i64) {
        let earliest = now.saturating_add_unsigned(self.settings.min_pause_ms);
        self.next_trigger = self.next_trigger.map(|next| next.max(earliest));
    }

    fn expire(&mut self, now: i64, actions: &mut Vec<Action>) {
        let timeout = self.settings.timeout_ms;
        let expired: Vec<CheckpointId> = self
            .pending
            .iter()
            .filter(|(_, pending)| !pending.completing)
            .filter(|(_, pending)| now >= pending.triggered_at.saturating_add_unsigned(timeout))
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            let missing = self.subtasks - self.pending[&id].acknowledged.len();
            let reason = format!(
                "expired after {timeout} ms, {missing} of {} subtasks had not acknowledged",
                self.subtasks
            );
            self.fail(id, reason, now, actions);
            if self.over {
                return;
            }
        }
    }

    fn trigger(&mut self, now: i64, actions: &mut Vec<Action>) {
        if !self.running || self.over || !self.may_trigger() {
            return;
        }
        if self.all_ended() {
            if self.last.is_none() && now >= self.last_retry {
                self.last = Some(CheckpointId(self.next_id));
                self.begin(true, now, actions);
            }
            return;
        }
        let due = self.next_trigger.is_some_and(|next| now >= next);
        if due {
            self.next_trigger = self.after_interval(now);
        }
        if due || std::mem::take(&mut self.requested) {
            self.begin(false, now, actions);
        }
    }

    fn begin(&mut self, last: bool, now: i64, actions: &mut Vec<Action>) {
        let id = CheckpointId(self.next_id);
        self.next_id += 1;
        let pending = Pending {
            triggered_at: now,
            acknowledged: BTreeSet::new(),
            completing: false,
        };
        self.pending.insert(id, pending);
        actions.push(Action::Trigger { id, last });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> CheckpointId {
        CheckpointId(number)
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
                last: false
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
                    last: false
                }
            ]
        );
    }

    #[test]
    fn the_pause_holds_for_periodic_checkpoints_but_not_for_requested_ones() {
        let mut coordinator = started(Settings {
            min_pause_ms: 500,
            ..every(100)
        });
        coordinator.on(Input::Tick, 100);
        assert_eq!(complete(&mut coordinator, 1, 150), [Action::Notify(id(1))]);
        assert_eq!(coordinator.on(Input::Tick, 649), []);
        assert_eq!(
            coordinator.on(Input::Requested, 649),
            [Action::Trigger {
                id: id(2),
                last: false
            }]
        );
        assert_eq!(complete(&mut coordinator, 2, 660), [Action::Notify(id(2))]);
        assert_eq!(coordinator.on(Input::Tick, 1159), []);
        assert_eq!(
            coordinator.on(Input::Tick, 1160),
            [Action::Trigger {
                id: id(3),
                last: false
            }]
        );
    }

    #[test]
    fn a_stalled_checkpoint_expires_and_what_comes_late_is_ignored() {
        let mut coordinator = started(Settings {
            timeout_ms: 50,
            tolerable_failures: 1,
            ..every(100)
        });
        coordinator.on(Input::Tick, 100);
        coordinator.on(Input::Acknowledged(id(1), 0), 120);
        let actions = coordinator.on(Input::Tick, 150);
        assert!(
            matches!(actions.as_slice(), [Action::Abort(aborted, _)] if *aborted == id(1)),
            "{actions:?}"
        );
        assert_eq!(coordinator.on(Input::Acknowledged(id(1), 1), 160), []);
        assert_eq!(
            coordinator.on(Input::Tick, 200),
            [Action::Trigger {
                id: id(2),
                last: false
            }]
        );
    }

    #[test]
    fn failures_in_a_row_are_counted_and_a_success_starts_again() {
        let mut coordinator = started(Settings {
            tolerable_failures: 1,
            ..every(100)
        });
        let decline = |number| Input::Declined(id(number), "disk full".into());
        coordinator.on(Input::Tick, 100);
        assert_eq!(
            coordinator.on(decline(1), 110),
            [Action::Abort(id(1), "disk full".into())]
        );
        coordinator.on(Input::Tick, 200);
        complete(&mut coordinator, 2, 210);
        coordinator.on(Input::Tick, 300);
        assert_eq!(coordinator.on(decline(3), 310).len(), 1);
        coordinator.on(Input::Tick, 400);
        assert_eq!(
            coordinator.on(decline(4), 410),
            [
                Action::Abort(id(4), "disk full".into()),
                Action::Fail(id(4), "disk full".into())
            ]
        );
        assert_eq!(coordinator.on(Input::Tick, 500), []);
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
                    last: true
                }
            ]
        );
        assert_eq!(
            complete(&mut coordinator, 2, 130),
            [Action::Notify(id(2)), Action::Finish]
        );
    }

    #[test]
    fn a_last_checkpoint_that_fails_is_taken_again_or_fails_the_job() {
        let mut coordinator = started(Settings {
            tolerable_failures: 1,
            ..Settings::default()
        });
        coordinator.on(Input::Ended(0), 10);
        assert_eq!(
            coordinator.on(Input::Ended(1), 10),
            [Action::Trigger {
                id: id(1),
                last: true
            }]
        );
        assert_eq!(
            coordinator.on(Input::Declined(id(1), "no".into()), 20),
            [Action::Abort(id(1), "no".into())]
        );
        assert_eq!(coordinator.deadline(), Some(1020));
        assert_eq!(coordinator.on(Input::Tick, 1019), []);
        assert_eq!(
            coordinator.on(Input::Tick, 1020),
            [Action::Trigger {
                id: id(2),
                last: true
            }]
        );
        let actions = coordinator.on(Input::Declined(id(2), "no".into()), 1030);
        assert_eq!(actions.last(), Some(&Action::Fail(id(2), "no".into())));
    }

    #[test]
    fn a_completed_checkpoint_subsumes_older_ones_in_progress() {
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
}
