//! When checkpoints are triggered, completed, given up, and when the job is done: decisions only.
//!
//! A pure state machine. Its driver brings what happened and the time, and carries out the
//! actions it returns, in order. Rules as in Flink's `CheckpointCoordinator`: an id is used once; at
//! most `max_concurrent` are in progress; periodic triggers keep `min_pause` from the end of one
//! checkpoint to the next, manual ones do not; failures in a row are counted (those that
//! [count](crate::abort::Kind::counts)) and the counter starts again at a success. Metadata is written
//! for one checkpoint at a time, in the order of their numbers, so that completions are reported in that
//! order, each once, ahead of what is triggered behind them. When every subtask has seen the end of its input, one last checkpoint follows,
//! and only its completion makes the job finished.

use std::collections::{BTreeMap, BTreeSet};

use dataflow::CheckpointId;

use crate::abort::{Kind, Reason};

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
    Declined(CheckpointId, Reason),
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
    /// Its time is over. Make sure that it can never be complete any more, and decline it as expired,
    /// saying who kept it waiting. Nothing, if it is complete or has failed already: that is about to
    /// be told.
    Expire(CheckpointId),
    /// Give it up, tell everybody, clean up.
    Abort(CheckpointId, Reason),
    /// The job has failed, since too many checkpoints have.
    Fail(CheckpointId, Reason),
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
    /// Its time is over, which the thread that carries that out knows.
    expired: bool,
}

impl Coordinator {
    /// For this many subtasks; the first checkpoint has the number `next_id`.
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

    /// Whether somebody has asked for a checkpoint that is not triggered yet.
    pub(crate) fn is_requested(&self) -> bool {
        self.requested
    }

    /// When [`Input::Tick`] is due at the latest.
    pub(crate) fn deadline(&self) -> Option<i64> {
        if !self.running || self.over {
            return None;
        }
        let expiry = self
            .pending
            .values()
            .filter(|pending| !pending.expired)
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
                    self.complete_next(&mut actions);
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

    /// Has the oldest checkpoint completed that all have acknowledged, unless one is being completed:
    /// one at a time and in order, so that of two none is complete before the other is reported. One
    /// whose time is over is not begun.
    fn complete_next(&mut self, actions: &mut Vec<Action>) {
        if self.pending.values().any(|pending| pending.completing) {
            return;
        }
        let subtasks = self.subtasks;
        let next = self
            .pending
            .iter_mut()
            .find(|(_, pending)| pending.acknowledged.len() == subtasks && !pending.expired);
        if let Some((id, pending)) = next {
            pending.completing = true;
            actions.push(Action::Complete(*id));
        }
    }

    fn completed(&mut self, id: CheckpointId, now: i64, actions: &mut Vec<Action>) {
        if self.pending.remove(&id).is_none() {
            return;
        }
        // Older ones still in progress are subsumed: what they would hold is in this one. None of
        // them has begun to write its metadata, so none can be complete after all.
        let older: Vec<CheckpointId> = self.pending.range(..id).map(|(older, _)| *older).collect();
        for older in older {
            self.pending.remove(&older);
            let text = format!("subsumed by checkpoint {id}");
            actions.push(Action::Abort(older, Reason::new(Kind::Subsumed, text)));
        }
        self.failures = 0;
        self.keep_pause(now);
        actions.push(Action::Notify(id));
        if self.last == Some(id) {
            self.over = true;
            actions.push(Action::Finish);
            return;
        }
        self.complete_next(actions);
    }

    fn fail(&mut self, id: CheckpointId, reason: Reason, now: i64, actions: &mut Vec<Action>) {
        if self.pending.remove(&id).is_none() {
            return;
        }
        if self.last == Some(id) {
            // It is taken again, or the job fails: it never finishes with output uncommitted.
            // Not at once, because what hindered it (a full disk) will not be gone at once either.
            self.last = None;
            let pause = self.settings.interval_ms.unwrap_or(0).max(LAST_RETRY_MS);
            self.last_retry = now.saturating_add_unsigned(pause);
        }
        self.keep_pause(now);
        actions.push(Action::Abort(id, reason.clone()));
        if reason.kind.counts() {
            self.failures += 1;
            if self.failures > self.settings.tolerable_failures {
                self.over = true;
                actions.push(Action::Fail(id, reason));
                return;
            }
        }
        self.complete_next(actions);
    }

    fn keep_pause(&mut self, now: i64) {
        let earliest = now.saturating_add_unsigned(self.settings.min_pause_ms);
        self.next_trigger = self.next_trigger.map(|next| next.max(earliest));
    }

    fn expire(&mut self, now: i64, actions: &mut Vec<Action>) {
        let timeout = self.settings.timeout_ms;
        for (id, pending) in &mut self.pending {
            let over = now >= pending.triggered_at.saturating_add_unsigned(timeout);
            if over && !pending.expired {
                pending.expired = true;
                actions.push(Action::Expire(*id));
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
        // Everyone who has asked gets this one too.
        if std::mem::take(&mut self.requested) || due {
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
            expired: false,
        };
        self.pending.insert(id, pending);
        actions.push(Action::Trigger { id, last });
    }
}

#[cfg(test)]
mod tests;
