//! Writers on threads of their own, one of which goes on at a time, and only while the simulation
//! waits for it: so what they do between two durable steps can be interleaved with everything else,
//! from a seed.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::events::Events;
use crate::on_threads::WRITERS;
use crate::spawn::Threads;
use crate::writer::{InProgress, Task, Tasks, execute};

thread_local! {
    /// Which writer this thread is.
    static WRITER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Who has the turn, and what each writer has to do.
#[derive(Debug, Default)]
struct State {
    /// The writer that goes on; `None`: the simulation.
    turn: Option<usize>,
    tasks: [Option<Task>; WRITERS],
    /// Which of them have a task, begun or not.
    busy: [bool; WRITERS],
    /// A writer has panicked with this.
    panic: Option<Box<dyn Any + Send>>,
    /// Nobody takes turns any more: writers end, those at a task once that is done.
    over: bool,
}

/// Hands the turn from the simulation to a writer and back.
#[derive(Debug, Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of the writer that this thread is; false if there are no turns any more.
    fn wait_for_turn(&self, writer: usize) -> bool {
        let other = |state: &mut State| state.turn != Some(writer) && !state.over;
        let state = self.changed.wait_while(self.state(), other);
        !state.unwrap_or_else(PoisonError::into_inner).over
    }

    fn hand_back(&self, state: &mut State) {
        state.turn = None;
        self.changed.notify_all();
    }

    /// Ahead of a durable step: a writer hands the turn back until it comes again. Others go on.
    pub(super) fn pause(&self) {
        let Some(writer) = WRITER.get() else {
            return;
        };
        let mut state = self.state();
        if state.turn == Some(writer) {
            self.hand_back(&mut state);
            drop(state);
            self.wait_for_turn(writer);
        }
    }

    fn work(&self, writer: usize, in_progress: &InProgress, events: &Events) {
        WRITER.set(Some(writer));
        while self.wait_for_turn(writer) {
            let task = self.state().tasks[writer].take();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                if let Some(task) = task {
                    execute(task, in_progress, events);
                }
            }));
            let mut state = self.state();
            state.panic = outcome.err().or(state.panic.take());
            state.busy[writer] = false;
            self.hand_back(&mut state);
        }
    }
}

/// The writers of an attempt.
pub(super) struct Crew {
    relay: Arc<Turns>,
    threads: Threads,
    tasks: Tasks,
}

impl Crew {
    /// Starts the threads; nothing moves yet. Each of them writes checkpoints and savepoints.
    pub(super) fn start(
        relay: Arc<Turns>,
        tasks: Tasks,
        in_progress: &Arc<InProgress>,
        events: &Events,
    ) -> Result<Self, Error> {
        let mut crew = Self {
            relay,
            threads: Threads::default(),
            tasks,
        };
        for writer in 0..WRITERS {
            let (relay, in_progress) = (Arc::clone(&crew.relay), Arc::clone(in_progress));
            let own = events.clone();
            let name = format!("simulated-writer-{writer}");
            crew.threads.spawn(name, events.clone(), move || {
                relay.work(writer, &in_progress, &own);
                Ok(())
            })?;
        }
        Ok(crew)
    }

    /// Which writers have something to do. Those that have nothing take from the queue first.
    pub(super) fn busy(&self) -> [bool; WRITERS] {
        let mut guard = self.relay.state();
        let state = &mut *guard;
        for (busy, task) in state.busy.iter_mut().zip(&mut state.tasks) {
            let next = || {
                let checkpoint = self.tasks.checkpoints.try_recv();
                checkpoint.or_else(|_| self.tasks.savepoints.try_recv())
            };
            if !*busy && let Ok(taken) = next() {
                (*busy, *task) = (true, Some(taken));
            }
        }
        state.busy
    }

    /// Lets a writer go on to its next durable step, or to the end of its task. Returns whether it
    /// is at a step.
    ///
    /// # Panics
    /// The writer has panicked.
    pub(super) fn go_on(&self, writer: usize) -> bool {
        let mut state = self.relay.state();
        state.turn = Some(writer);
        self.relay.changed.notify_all();
        let gone = self
            .relay
            .changed
            .wait_while(state, |state| state.turn.is_some());
        let mut state = gone.unwrap_or_else(PoisonError::into_inner);
        if let Some(panic) = state.panic.take() {
            drop(state);
            resume_unwind(panic);
        }
        state.busy[writer]
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // Where the simulation panics, a writer may be in the middle of a task: it ends that, and
        // nobody looks at what comes of it.
        self.relay.state().over = true;
        self.relay.changed.notify_all();
        std::mem::take(&mut self.threads).join();
    }
}
