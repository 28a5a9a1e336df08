//! Ctrl-C cancels the job, SIGTERM suspends it; the second of a kind ends the process at once. SIGUSR1
//! takes a checkpoint now.

use std::io;
use std::thread;

use runtime::JobHandle;
use tokio::signal::unix::{SignalKind, signal};

use crate::events::Audience;

/// What a shell expects of a process that a signal ended: 128 and the signal's number.
const EXIT_SIGINT: i32 = 130;
const EXIT_SIGTERM: i32 = 143;

/// Listens to signals for as long as the process lives, on a thread of its own: the job occupies the
/// main thread, and tokio is here for signals only.
pub(crate) fn listen(job: JobHandle, audience: Audience) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    // Registered before the job starts: a signal that comes early is not lost, nor does it kill.
    let (mut interrupt, mut terminate, mut request) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::user_defined1())?,
        )
    };
    let listen = async move {
        let (mut interrupted, mut terminated) = (false, false);
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
                Some(()) = terminate.recv() => {
                    if terminated {
                        std::process::exit(EXIT_SIGTERM);
                    }
                    terminated = true;
                    audience.say("suspending");
                    job.suspend();
                }
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
