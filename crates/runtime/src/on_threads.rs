//! An attempt moved by threads: one for each subtask, some that write checkpoints, and the one that waits here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use crate::assembly::Assembly;
use crate::attempt::{Attempt, End};
use crate::driver::Driver;
use crate::error::Error;
use crate::events::Event;
use crate::members::Unmade;
use crate::report::JobEvent;
use crate::spawn::Threads;
use crate::writer::{self, InProgress, Tasks, discard};

/// How many threads write checkpoints.
pub(crate) const WRITERS: usize = 2;

impl Attempt<'_> {
    /// Runs to the end, on threads. Returns it with the number for the next checkpoint.
    pub(crate) fn run(&self, report: &mut dyn FnMut(JobEvent)) -> (End, u64) {
        let Assembly {
            plan,
            inboxes,
            in_progress,
            writers,
            tasks,
            subtasks,
        } = self.assemble();
        let mut threads = Threads::default();
        let mut driver = Driver::new(self, &plan, &inboxes, &in_progress, writers);
        let end = match self.start(tasks, subtasks, &in_progress, &mut threads) {
            Ok(()) => self.drive(&mut driver, report),
            Err(error) => {
                let class = error.class(self.number == 0);
                End::Failed(error, class)
            }
        };
        // The driver goes, and with it the last writers' queue that is not a subtask's.
        let unsettled = driver.leave(&end);
        // First of all everybody stops: a guest that runs on is stopped by its time limit.
        for inbox in inboxes.iter().flatten() {
            inbox.close();
        }
        let given_up = in_progress.clear();
        let rest = self.join(threads);
        self.events.counters.meters().end(self.clock.now_us());
        given_up.into_iter().for_each(discard);
        let next_id = unsettled.settle(rest, self.clock.now_ms(), report);
        (end, next_id)
    }

    fn start(
        &self,
        tasks: Tasks,
        subtasks: Vec<Unmade>,
        in_progress: &Arc<InProgress>,
        threads: &mut Threads,
    ) -> Result<(), Error> {
        writer::start(threads, WRITERS, tasks, in_progress, &self.events)?;
        for subtask in subtasks {
            threads.spawn(subtask.name().to_owned(), self.events.clone(), move || {
                subtask.run()
            })?;
        }
        Ok(())
    }

    /// Takes events as they come, and deadlines, until the end.
    fn drive(&self, driver: &mut Driver<'_>, report: &mut dyn FnMut(JobEvent)) -> End {
        loop {
            let event = match driver.deadline() {
                None => self
                    .receiver
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    let wait = deadline
                        .saturating_sub(self.clock.now_ms())
                        .max(0)
                        .unsigned_abs();
                    self.receiver.recv_timeout(Duration::from_millis(wait))
                }
            };
            let event = match event {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("the attempt holds a sender of its own")
                }
            };
            let end = driver.on(event, self.clock.now_ms(), report);
            let in_progress = match end {
                None => driver.in_progress() as u64,
                Some(_) => 0,
            };
            let counters = &self.events.counters;
            counters.in_progress.store(in_progress, Ordering::Relaxed);
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Joins the threads while taking their last events, so that none waits for room to report.
    /// Returns those of completed checkpoints, of which there are few.
    fn join(&self, threads: Threads) -> Vec<(u32, Event)> {
        let mut completed = Vec::new();
        let mut take = |event: (u32, Event)| {
            if matches!(event.1, Event::Completed { .. }) {
                completed.push(event);
            }
        };
        let joined = AtomicBool::new(false);
        let (joined, events) = (&joined, &self.events);
        let done = move || {
            joined.store(true, Ordering::Release);
            // Only to end a wait below: where the queue is full there is none.
            let _ = events.sender.try_send((events.attempt, Event::Left));
        };
        threads.join_while(done, || {
            while !joined.load(Ordering::Acquire) {
                match self.receiver.recv() {
                    Ok(event) => take(event),
                    Err(_) => break,
                }
            }
        });
        self.receiver.try_iter().for_each(&mut take);
        completed
    }
}
