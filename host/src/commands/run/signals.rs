//! Ctrl-C cancels the job; SIGTERM suspends it, and so does SIGHUP (a terminal that was closed). The second
//! one to the same effect ends the process at once. SIGUSR1 takes a checkpoint now.

use std::io;
use std::thread;

use runtime::JobHandle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::events::Audience;

/// What a shell expects of a process that a signal ended: 128 and the signal's number.
const EXIT_SIGHUP: i32 = 129;
const EXIT_SIGINT: i32 = 130;
const EXIT_SIGTERM: i32 = 143;

/// Listens to signals for as long as the process lives, on a thread of its own: the job occupies the
/// main thread, and tokio is here for signals only.
#[expect(
    clippy::disallowed_methods,
    reason = "signals are heard before there is a job and after it; the second one ends the process, whatever hangs"
)]
pub(crate) fn listen(job: JobHandle, audience: Audience) -> io::Result<()> {
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
    let listen = async move {
        let (mut interrupted, mut suspended) = (false, false);
        let mut suspend = |exit: i32| {
            if suspended {
                std::process::exit(exit);
            }
            suspended = true;
            audience.say("suspending");
            job.suspend();
        };
        loop {
            tokio::select! {
                biased;
                Some(()) = interrupt.recv() => {
                    if interrupted {
                        std::process::exit(EXIT_SIGINT);
                    }
                    interrupted = true;
                    audience.say("cancelling (ctrl-C again exits at once)");
                    job.cancel();
                }
                Some(()) = terminate.recv() => suspend(EXIT_SIGTERM),
                Some(()) = received(&mut hang_up) => suspend(EXIT_SIGHUP),
                Some(()) = request.recv() => job.trigger_checkpoint(),
                else => return,
            }
        }
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || runtime.block_on(listen))?;
    Ok(())
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
