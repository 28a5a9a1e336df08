//! What has been asked of a running job.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::control::{Command, Done, NotDone, Requester};
use crate::graph::JobGraph;

/// How many commands may wait for the driver.
const COMMANDS_MAX: usize = 64;

/// How a job may be asked to end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Cancel,
    Suspend,
}

/// What has been asked of a running job. Kept beside the event queue, so that asking never waits and
/// no request is lost between two attempts.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    stop: Mutex<Option<Stop>>,
    checkpoint: AtomicBool,
    commands: Mutex<Waiting>,
    /// How often checkpoints are taken, where it was changed.
    interval: Mutex<Option<Option<u64>>>,
    /// The job has reached the checkpoint at which it was to end: no attempt takes a record any more.
    reached: Mutex<Option<Reached>>,
}

/// Commands that nobody has seen to.
#[derive(Debug, Default)]
struct Waiting {
    commands: VecDeque<Command>,
    /// The job has ended: nobody will see to any.
    over: Option<String>,
}

/// A job that has reached the checkpoint at which it was to end.
pub(crate) struct Reached {
    pub(crate) what: After,
    pub(crate) done: Done,
    pub(crate) requester: Box<dyn Requester>,
}

impl std::fmt::Debug for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reached").field("done", &self.done).finish()
    }
}

/// What follows when a job has ended at a checkpoint.
pub(crate) enum After {
    /// Nothing. `drained`: all input was ended before.
    Stopped { drained: bool },
    /// It goes on with this graph.
    Rescale(Box<JobGraph>),
}

impl Requests {
    pub(crate) fn request_stop(&self, stop: Stop) {
        *lock(&self.stop) = Some(stop);
    }

    pub(crate) fn request_checkpoint(&self) {
        self.checkpoint.store(true, Ordering::Release);
    }

    pub(crate) fn stop(&self) -> Option<Stop> {
        *lock(&self.stop)
    }

    pub(crate) fn take_checkpoint(&self) -> bool {
        self.checkpoint.swap(false, Ordering::AcqRel)
    }

    /// Queues a command, or answers that there are too many.
    pub(crate) fn submit(&self, command: Command) {
        let mut waiting = lock(&self.commands);
        if let Some(why) = waiting.over.clone() {
            drop(waiting);
            refuse(command, &why);
            return;
        }
        if waiting.commands.len() < COMMANDS_MAX {
            waiting.commands.push_back(command);
            return;
        }
        drop(waiting);
        let why = "too many requests wait for the job: try again in a moment";
        command
            .requester
            .answer(Err(NotDone::Conflict(why.to_owned())));
    }

    pub(crate) fn take_command(&self) -> Option<Command> {
        lock(&self.commands).commands.pop_front()
    }

    /// Answers to all that wait that the job is in no state for it.
    pub(crate) fn refuse_commands(&self, why: &str) {
        let commands = std::mem::take(&mut lock(&self.commands).commands);
        commands
            .into_iter()
            .for_each(|command| refuse(command, why));
    }

    /// The same, also to all that come later.
    pub(crate) fn refuse_commands_from_now_on(&self, why: &str) {
        // First: what comes after this is refused at once, what came before it is among those that wait.
        lock(&self.commands).over = Some(why.to_owned());
        self.refuse_commands(why);
    }

    pub(crate) fn set_interval(&self, interval_ms: Option<u64>) {
        *lock(&self.interval) = Some(interval_ms);
    }

    /// How often checkpoints are taken, if that was changed.
    pub(crate) fn interval(&self) -> Option<Option<u64>> {
        *lock(&self.interval)
    }

    pub(crate) fn set_reached(&self, reached: Reached) {
        *lock(&self.reached) = Some(reached);
    }

    pub(crate) fn has_reached(&self) -> bool {
        lock(&self.reached).is_some()
    }

    pub(crate) fn take_reached(&self) -> Option<Reached> {
        lock(&self.reached).take()
    }
}

fn refuse(command: Command, why: &str) {
    let why = format!("{} is not possible now: {why}", command.order.word());
    command.requester.answer(Err(NotDone::Conflict(why)));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept is replaced as a whole, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
