//! Processes on threads of their own, one of which goes on at a time: so one can be stopped in the
//! middle of anything, and go on when its successor has been at work for long.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use checkpoint::storage::FaultyStorage;

use super::seeds::caught;

/// What a process says when it hands the baton back.
enum Told<T> {
    Paused,
    Over(Result<T, String>),
}

/// A process's side: asked ahead of every turn.
pub(crate) struct Baton {
    go: Receiver<u64>,
    paused: Box<dyn Fn() + Send>,
    storage: FaultyStorage,
    /// How many turns it may still take.
    left: u64,
}

impl Baton {
    /// Takes a turn, if need be once it is let go on.
    pub(crate) fn turn(&mut self) {
        if self.left == 0 {
            (self.paused)();
            self.wait();
        }
        self.left = self.left.saturating_sub(1);
    }

    /// Stops here, however many turns are left.
    pub(crate) fn stop(&mut self) {
        self.left = 0;
        self.turn();
    }

    fn wait(&mut self) {
        self.left = match self.go.recv() {
            Ok(turns) => turns,
            Err(_) => {
                // Nobody waits for it any more.
                self.storage.crash();
                u64::MAX
            }
        };
    }
}

/// A process, seen from outside.
pub(crate) struct Held<T> {
    go: Option<Sender<u64>>,
    told: Receiver<Told<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Held<T> {
    /// A process that has not begun to do this.
    pub(crate) fn new(
        storage: FaultyStorage,
        live: impl FnOnce(Baton) -> Result<T, String> + Send + 'static,
    ) -> Self {
        let (go, gone) = channel();
        let (tell, told) = channel();
        let paused = tell.clone();
        let thread = std::thread::spawn(move || {
            let mut baton = Baton {
                go: gone,
                paused: Box::new(move || drop(paused.send(Told::Paused))),
                storage,
                left: 0,
            };
            baton.wait();
            let outcome = caught(|| live(baton));
            drop(tell.send(Told::Over(outcome)));
        });
        Self {
            go: Some(go),
            told,
            thread: Some(thread),
        }
    }

    /// Lets it take this many turns. Returns what comes of it, if it is over.
    pub(crate) fn go(&mut self, turns: u64) -> Option<Result<T, String>> {
        self.go.as_ref().unwrap().send(turns).unwrap();
        match self.told.recv().unwrap() {
            Told::Paused => None,
            Told::Over(outcome) => {
                // What it holds is gone with it.
                self.thread.take().unwrap().join().unwrap();
                Some(outcome)
            }
        }
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        drop(self.go.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
