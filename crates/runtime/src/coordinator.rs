//! When checkpoints are triggered, completed, given up, and when the job is done: decisions only.
//!
//! A pure state machine. Its driver brings what happened and the time, and carries out the
//! actions it returns, in order. Rules as in Flink's `CheckpointCoordinator`: an id is used once; at
//! most `max_concurrent` are in progress; periodic triggers keep `min_pause` from the end of one
//! checkpoint to the next, manual ones do not; failures in a row are counted (those that
//! [count](crate::abort::Kind::counts)) and the counter starts again at a success. Metadata is written
//! for one checkpoint at a time, in the order of their numbers, so that completions are reported in that
//! order, each once, ahead of what is triggered after them. When every subtask has seen the end of its input, one
//! last checkpoint follows, and only its completion makes the job finished.
//!
//! Savepoints take numbers of the same sequence and nothing else: they are triggered at once, beside what is in
//! progress, complete when they are written, subsume nothing and fail nothing.
//!
//! A job that is to *stop* takes one more checkpoint, at whose barrier the sources pause, so that no record comes
//! after it; or, to *drain*, ends all input and takes the last one. A savepoint that is wanted too follows that
//! checkpoint: what it would have prepared is committed then. If anything fails before the end, the sources go on,
//! and the job as if nothing had been asked. (After all input was ended there is no way back: then it ends.)

use std::collections::{BTreeMap, BTreeSet};

use dataflow::{CheckpointId, SnapshotKind};

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

/// How long after a failure a checkpoint that is needed is taken again, at the earliest.
const RETRY_MS: u64 = 1000;

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
    /// Somebody waits for the output to be committed that was prepared in this savepoint.
    Uncommitted(CheckpointId),
    /// Somebody asks for a savepoint now.
    SavepointRequested,
    /// The job is to end at a checkpoint; see [`Coordinator::may_stop`].
    StopRequested(StopPlan),
    /// Periodic checkpoints are taken this often from now on.
    IntervalChanged(Option<u64>),
    /// Time has passed.
    Tick,
}

/// How a job is to end at a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StopPlan {
    /// All input is ended first.
    pub(crate) drain: bool,
    /// A savepoint follows.
    pub(crate) savepoint: bool,
}

/// What a checkpoint or savepoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The job goes on from it after a failure.
    Checkpoint,
    /// Every input has ended: its completion finishes the job.
    Last,
    /// The job ends at it: sources pause after its barrier.
    Stop,
    /// It is a savepoint.
    Savepoint,
    /// It is the savepoint that follows the checkpoint at which the job ends.
    StopSavepoint,
}

impl Purpose {
    /// Whether its failure may count against the job. One that was asked for only to end the job, or is the user's,
    /// leaves it as it was.
    pub(crate) fn counts(self) -> bool {
        matches!(self, Self::Checkpoint | Self::Last)
    }

    /// What is taken.
    pub(crate) fn kind(self) -> SnapshotKind {
        match self {
            Self::Savepoint | Self::StopSavepoint => SnapshotKind::Savepoint,
            Self::Checkpoint | Self::Last | Self::Stop => SnapshotKind::Checkpoint,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Let the sources read.
    Start,
    /// Begin a checkpoint and have the sources emit its barrier.
    Trigger {
        id: CheckpointId,
        /// What it is for.
        purpose: Purpose,
    },
    /// Have the sources end, wherever they are.
    EndInput,
    /// The job does not stop after all: let the sources read on.
    Resume,
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
    /// No periodic checkpoint before: the pause after the one that ended last.
    paused_until: i64,
    requested: bool,
    /// The newest savepoint whose output somebody waits for. A checkpoint after it commits that.
    uncommitted: Option<CheckpointId>,
    /// After one that failed: when that may be tried again.
    commit_retry: i64,
    /// How many savepoints were asked for and are not triggered yet.
    savepoints: usize,
    stopping: Option<Stopping>,
    /// The job has reached its end before: it only has to be there once more.
    hold: bool,
    failures: u32,
    over: bool,
}

/// How far a job that is to end at a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    /// Asked for.
    Requested(StopPlan),
    /// Sources have paused, or are about to; the checkpoint is in progress.
    Checkpoint(CheckpointId, StopPlan),
    /// Sources have ended, or are about to; the last checkpoint follows or is in progress.
    Draining(StopPlan),
    /// The checkpoint is complete, the savepoint is in progress.
    Savepoint(CheckpointId, StopPlan),
}

#[derive(Debug)]
struct Pending {
    purpose: Purpose,
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
            paused_until: i64::MIN,
            requested: false,
            uncommitted: None,
            commit_retry: i64::MIN,
            savepoints: 0,
            stopping: None,
            hold: false,
            failures: 0,
            over: false,
        }
    }

    /// Has it finish as soon as all subtasks are ready, before they take a record: an earlier attempt has
    /// reached the checkpoint that the job ends at, and failed in committing it.
    pub(crate) fn hold(&mut self) {
        self.hold = true;
    }

    /// Whether anything can be asked for.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_request(&self) -> Result<(), &'static str> {
        match self.stopping {
            _ if self.over || self.hold => Err("the job is ending"),
            Some(_) => Err("the job is being stopped or rescaled"),
            None => Ok(()),
        }
    }

    /// Whether the job can be asked to end at a checkpoint.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_stop(&self) -> Result<(), &'static str> {
        self.may_request()?;
        match self.running && self.all_ended() {
            true => Err("all input has ended, and the job is about to finish"),
            false => Ok(()),
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
            .filter(|_| self.may_trigger() && !self.all_ended() && self.stopping.is_none());
        let last = self.all_ended() && self.last.is_none() && self.may_trigger();
        let last = last.then_some(self.last_retry);
        let commit = self.wants_commit().then_some(self.commit_retry);
        let triggers = trigger.into_iter().chain(last).chain(commit);
        expiry.into_iter().chain(triggers).min()
    }

    /// Whether a checkpoint is to be taken for the sake of a savepoint before it.
    fn wants_commit(&self) -> bool {
        let Some(savepoint) = self.uncommitted else {
            return false;
        };
        let mut after = self.pending.range(savepoint..);
        after.all(|(_, pending)| pending.is_savepoint())
            && self.stopping.is_none()
            && !self.all_ended()
            && self.may_trigger()
    }

    fn may_trigger(&self) -> bool {
        let checkpoints = self.pending.values().filter(|it| !it.is_savepoint());
        checkpoints.count() < self.settings.max_concurrent as usize
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
                if self.ready.len() < self.subtasks || self.running {
                    // Not the last one.
                } else if self.hold {
                    self.running = true;
                    self.finish(&mut actions);
                } else {
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
            Input::Uncommitted(id) => self.uncommitted = self.uncommitted.max(Some(id)),
            Input::SavepointRequested => self.savepoints += 1,
            Input::StopRequested(plan) => self.stopping = Some(Stopping::Requested(plan)),
            Input::IntervalChanged(interval_ms) => {
                self.settings.interval_ms = interval_ms;
                self.next_trigger = self.after_interval(now).filter(|_| self.running);
            }
            Input::Tick => {}
        }
        self.expire(now, &mut actions);
        self.trigger(now, &mut actions);
        actions
    }

    fn after_interval(&self, now: i64) -> Option<i64> {
        let next = |interval| now.saturating_add_unsigned(interval);
        let next = self.settings.interval_ms.map(next);
        next.map(|next| next.max(self.paused_until))
    }

    /// Has the oldest checkpoint completed that all have acknowledged, unless one is being completed:
    /// one at a time and in order, so that of two none is complete before the other is reported. One
    /// whose time is over is not begun. Savepoints wait for nobody.
    fn complete_next(&mut self, actions: &mut Vec<Action>) {
        let mut busy = self
            .pending
            .values()
            .any(|pending| pending.completing && !pending.is_savepoint());
        for (id, pending) in &mut self.pending {
            let written = pending.acknowledged.len() == self.subtasks;
            if !written || pending.expired || pending.completing {
                continue;
            }
            if !pending.is_savepoint() && std::mem::replace(&mut busy, true) {
                continue;
            }
            pending.completing = true;
            actions.push(Action::Complete(*id));
        }
    }

    fn completed(&mut self, id: CheckpointId, now: i64, actions: &mut Vec<Action>) {
        let Some(completed) = self.pending.remove(&id) else {
            return;
        };
        if completed.is_savepoint() {
            actions.push(Action::Notify(id));
            if matches!(self.stopping, Some(Stopping::Savepoint(own, _)) if own == id) {
                self.finish(actions);
            }
            return;
        }
        // Older ones still in progress are subsumed: what they would hold is in this one. None of
        // them has begun to write its metadata, so none can be complete after all.
        let older = self.pending.range(..id);
        let older = older.filter(|(_, pending)| !pending.is_savepoint());
        let older: Vec<CheckpointId> = older.map(|(older, _)| *older).collect();
        for older in older {
            self.pending.remove(&older);
            let text = format!("subsumed by checkpoint {id}");
            actions.push(Action::Abort(older, Reason::new(Kind::Subsumed, text)));
        }
        self.failures = 0;
        self.uncommitted = self.uncommitted.filter(|savepoint| *savepoint > id);
        self.keep_pause(now);
        actions.push(Action::Notify(id));
        let plan = match self.stopping {
            Some(Stopping::Checkpoint(own, plan)) if own == id => Some(plan),
            Some(Stopping::Draining(plan)) if self.last == Some(id) => Some(plan),
            _ => None,
        };
        match plan {
            Some(plan) if plan.savepoint => {
                let savepoint = self.begin(Purpose::StopSavepoint, now, actions);
                self.stopping = Some(Stopping::Savepoint(savepoint, plan));
            }
            Some(_) => self.finish(actions),
            None if self.last == Some(id) => self.finish(actions),
            None => self.complete_next(actions),
        }
    }

    fn finish(&mut self, actions: &mut Vec<Action>) {
        self.over = true;
        actions.push(Action::Finish);
    }

    fn fail(&mut self, id: CheckpointId, reason: Reason, now: i64, actions: &mut Vec<Action>) {
        let Some(failed) = self.pending.remove(&id) else {
            return;
        };
        if failed.is_savepoint() {
            actions.push(Action::Abort(id, reason));
            match self.stopping {
                // There is nothing left to go on with.
                Some(Stopping::Savepoint(own, plan)) if own == id && plan.drain => {
                    self.finish(actions);
                }
                Some(Stopping::Savepoint(own, _)) if own == id => self.resume(now, actions),
                _ => {}
            }
            return;
        }
        if self.last == Some(id) {
            // It is taken again, or the job fails: it never finishes with output uncommitted.
            // Not at once, because what hindered it (a full disk) will not be gone at once either.
            self.last = None;
            self.last_retry = self.after_failure(now);
        }
        self.commit_retry = self.after_failure(now);
        self.keep_pause(now);
        actions.push(Action::Abort(id, reason.clone()));
        if matches!(self.stopping, Some(Stopping::Checkpoint(own, _)) if own == id) {
            self.resume(now, actions);
        }
        if reason.kind.counts() && failed.purpose.counts() {
            self.failures += 1;
            if self.failures > self.settings.tolerable_failures {
                self.over = true;
                actions.push(Action::Fail(id, reason));
                return;
            }
        }
        self.complete_next(actions);
    }

    /// The job does not stop after all.
    fn resume(&mut self, now: i64, actions: &mut Vec<Action>) {
        self.stopping = None;
        self.next_trigger = self.after_interval(now);
        actions.push(Action::Resume);
    }

    fn keep_pause(&mut self, now: i64) {
        self.paused_until = now.saturating_add_unsigned(self.settings.min_pause_ms);
        self.next_trigger = self.next_trigger.map(|next| next.max(self.paused_until));
    }

    /// When one that is needed may be taken again.
    fn after_failure(&self, now: i64) -> i64 {
        let pause = self.settings.interval_ms.unwrap_or(0).max(RETRY_MS);
        now.saturating_add_unsigned(pause)
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
        if !self.running || self.over {
            return;
        }
        match self.stopping {
            None => {
                for _ in 0..std::mem::take(&mut self.savepoints) {
                    self.begin(Purpose::Savepoint, now, actions);
                }
            }
            Some(Stopping::Requested(plan)) if plan.drain => {
                self.stopping = Some(Stopping::Draining(plan));
                actions.push(Action::EndInput);
            }
            Some(Stopping::Requested(plan)) => {
                // What is in progress is about to be subsumed, so it does not wait for it.
                let id = self.begin(Purpose::Stop, now, actions);
                self.stopping = Some(Stopping::Checkpoint(id, plan));
                return;
            }
            // Once input was ended for one operator and not for another, nothing may be restored but the end.
            Some(Stopping::Draining(_)) => {}
            Some(Stopping::Checkpoint(..) | Stopping::Savepoint(..)) => return,
        }
        if !self.may_trigger() {
            return;
        }
        if self.all_ended() {
            if self.last.is_none() && now >= self.last_retry {
                self.last = Some(self.begin(Purpose::Last, now, actions));
            }
            return;
        }
        if self.stopping.is_some() {
            return;
        }
        let due = self.next_trigger.is_some_and(|next| now >= next);
        if due {
            self.next_trigger = self.after_interval(now);
        }
        let commit = self.wants_commit() && now >= self.commit_retry;
        if self.requested || due || commit {
            self.begin(Purpose::Checkpoint, now, actions);
        }
    }

    fn begin(&mut self, purpose: Purpose, now: i64, actions: &mut Vec<Action>) -> CheckpointId {
        let id = CheckpointId(self.next_id);
        self.next_id += 1;
        if purpose.kind() == SnapshotKind::Checkpoint {
            // Everyone who has asked gets this one.
            self.requested = false;
        }
        let pending = Pending {
            purpose,
            triggered_at: now,
            acknowledged: BTreeSet::new(),
            completing: false,
            expired: false,
        };
        self.pending.insert(id, pending);
        actions.push(Action::Trigger { id, purpose });
        id
    }
}

impl Pending {
    fn is_savepoint(&self) -> bool {
        self.purpose.kind() == SnapshotKind::Savepoint
    }
}

#[cfg(test)]
mod tests;
