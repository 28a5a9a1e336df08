//! Ctrl-C cancels the job; SIGTERM suspends it, and so does SIGHUP (a terminal that was closed). The second
//! one to the same effect ends the process at once. SIGUSR1 takes a checkpoint now. A standby that waits owns
//! nothing: each of the first three ends it at once.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use runtime::JobHandle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::events::{Audience, Event, StoodDown};
use crate::exit::Exit;
use crate::jobs::Jobs;

/// What a shell expects of a process that a signal ended: 128 and the signal's number.
const EXIT_SIGHUP: i32 = 129;
const EXIT_SIGINT: i32 = 130;
const EXIT_SIGTERM: i32 = 143;

/// What signals find.
pub(crate) enum Phase {
    /// A standby that waits: it owns nothing, and simply ends.
    Waiting,
    /// A standby that is about to take the job over: what it is asked for is done when there is a job.
    Starting(Option<Asked>),
    /// A job.
    Running(JobHandle),
    /// Several jobs: they are suspended, whatever the signal.
    Serving(Arc<Jobs>),
}

/// What a job is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Cancel,
    Suspend,
}

/// Listens to signals for as long as the process lives.
pub(crate) struct Signals {
    phase: Arc<Mutex<Phase>>,
    audience: Audience,
}

impl Signals {
    /// Begins to listen, on a thread of its own: the job occupies the main thread, and tokio is here for signals
    /// only.
    #[expect(
        clippy::disallowed_methods,
        reason = "signals are heard before there is a job and after it; the second one ends the process, whatever hangs"
    )]
    pub(crate) fn listen(phase: Phase, audience: Audience) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        // Registered before the job starts: a signal that comes early is not lost, nor does it kill.
        let (mut interrupt, mut terminate, mut hang_up, mut request) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                match ignores_hang_up() {
                    true => None,
                    false => Some(signal(SignalKind::hangup())?),
                },
                signal(SignalKind::user_defined1())?,
            )
        };
        let phase = Arc::new(Mutex::new(phase));
        let heard = Self {
            phase: Arc::clone(&phase),
            audience,
        };
        let listen = async move {
            let (mut interrupted, mut suspended) = (false, false);
            let mut suspend = |exit: i32| {
                if std::mem::replace(&mut suspended, true) {
                    std::process::exit(exit);
                }
                heard.ask(Asked::Suspend);
            };
            loop {
                tokio::select! {
                    biased;
                    Some(()) = interrupt.recv() => {
                        if std::mem::replace(&mut interrupted, true) {
                            std::process::exit(EXIT_SIGINT);
                        }
                        heard.ask(Asked::Cancel);
                    }
                    Some(()) = terminate.recv() => suspend(EXIT_SIGTERM),
                    Some(()) = received(&mut hang_up) => suspend(EXIT_SIGHUP),
                    Some(()) = request.recv() => match &*heard.phase() {
                        Phase::Running(job) => job.trigger_checkpoint(),
                        Phase::Serving(jobs) => jobs.checkpoint_all(),
                        Phase::Waiting | Phase::Starting(_) => {}
                    },
                    else => return,
                }
            }
        };
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(listen))?;
        Ok(Self { phase, audience })
    }

    /// A standby is about to change something: from now on it does not simply end.
    pub(crate) fn begin(&self) {
        *self.phase() = Phase::Starting(None);
    }

    /// It has changed nothing after all.
    pub(crate) fn go_on_waiting(&self) {
        let mut phase = self.phase();
        if let Phase::Starting(Some(_)) = *phase {
            self.end_of_waiting();
        }
        *phase = Phase::Waiting;
    }

    /// There is a job: it is asked for things from now on, and for what came before.
    pub(crate) fn hand_over(&self, job: JobHandle) {
        let mut phase = self.phase();
        if let Phase::Starting(Some(asked)) = *phase {
            ask(&job, asked);
        }
        *phase = Phase::Running(job);
    }

    fn ask(&self, asked: Asked) {
        let mut phase = self.phase();
        if let Phase::Waiting = *phase {
            // The phase is held: nothing is taken meanwhile.
            self.end_of_waiting();
        }
        if let Phase::Serving(jobs) = &*phase {
            self.audience
                .say("suspending all jobs (ctrl-C again exits at once)");
            jobs.suspend_all();
            return;
        }
        self.audience.say(match asked {
            Asked::Cancel => "cancelling (ctrl-C again exits at once)",
            Asked::Suspend => "suspending",
        });
        match &mut *phase {
            Phase::Running(job) => ask(job, asked),
            Phase::Serving(_) => {}
            Phase::Waiting | Phase::Starting(_) => *phase = Phase::Starting(Some(asked)),
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a standby holds nothing, and a storage that hangs must not keep it"
    )]
    fn end_of_waiting(&self) -> ! {
        self.audience
            .say("the standby ends; it has changed nothing");
        self.audience.tell(&Event::StoodDown {
            why: StoodDown::Signal,
            exit_code: Exit::Finished as u8,
        });
        std::process::exit(Exit::Finished as i32)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ask(job: &JobHandle, asked: Asked) {
    match asked {
        Asked::Cancel => job.cancel(),
        Asked::Suspend => job.suspend(),
    }
}

/// The next signal of a kind that is listened to; never one of a kind that is not.
async fn received(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether the process was started with SIGHUP ignored, as `nohup` does: then it is to outlive its
/// terminal. To listen to the signal would undo that.
fn ignores_hang_up() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, 1))
}

/// Whether the status of a process says that it ignores the signal with this number.
fn ignores(status: &str, signal: u32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = |mask: &str| format!("Name:\thost\nSigIgn:\t{mask}\nSigCgt:\t0\n");
        assert!(ignores(&status("0000000000000001"), 1));
        assert!(ignores(&status("0000000000001001"), 1));
        assert!(!ignores(&status("0000000000001002"), 1));
        assert!(!ignores(&status("nonsense"), 1));
        assert!(!ignores("", 1));
    }
}
