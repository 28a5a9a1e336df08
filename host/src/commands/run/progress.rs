//! One line on a terminal that says how far a bounded job is.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use operator::clock::Clock;
use runtime::JobHandle;

use crate::events::{Audience, CLEAR_LINE};
use crate::logging;

/// How often the line is written.
const PERIOD: Duration = Duration::from_millis(500);

/// Shows the line for as long as it is owned.
pub(crate) struct Progress {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins to show the progress of a job, if there is a person at a terminal to see it. `None` if
    /// not, or if no thread can be had for it.
    #[expect(
        clippy::disallowed_methods,
        reason = "it only writes to the terminal, and is not the job's"
    )]
    pub(crate) fn show(job: JobHandle, clock: Arc<dyn Clock>, audience: Audience) -> Option<Self> {
        if audience.is_program() || logging::is_json() || !io::stderr().is_terminal() {
            return None;
        }
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("progress".into())
            .spawn(move || {
                let start = clock.now_ms();
                while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                    let (read, written) = job.records();
                    let text = line(read, written, clock.now_ms().saturating_sub(start));
                    let _ = write!(io::stderr().lock(), "{CLEAR_LINE}{text}");
                }
                let _ = write!(io::stderr().lock(), "{CLEAR_LINE}");
            })
            .ok()?;
        Some(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only writes to the terminal; if it panicked there is nothing to save.
            let _ = thread.join();
        }
    }
}

fn line(read: u64, written: u64, elapsed_ms: i64) -> String {
    let seconds = elapsed_ms.max(1) as f64 / 1000.0;
    let rate = read as f64 / seconds;
    let rate = if rate >= 1e6 {
        format!("{:.1} M/s", rate / 1e6)
    } else if rate >= 1e3 {
        format!("{:.1} k/s", rate / 1e3)
    } else {
        format!("{rate:.0} /s")
    };
    format!("{read} records read ({rate}), {written} written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_unit() {
        assert_eq!(line(500, 3, 1000), "500 records read (500 /s), 3 written");
        assert_eq!(
            line(2500, 3, 1000),
            "2500 records read (2.5 k/s), 3 written"
        );
        assert_eq!(line(9, 0, 0), "9 records read (9.0 k/s), 0 written");
    }
}
