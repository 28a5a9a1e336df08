//! One line on a terminal that says how far a bounded job is, and how far any is with its restore.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use operator::clock::Clock;
use operator::text::size;
use runtime::{JobHandle, RestoreProgress};

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
    /// Begins to show the progress of a job, if there is a person at a terminal to see it. `None` if not, or if no thread
    /// can be had for it. How many records it has read says something only of one that `is_bounded`.
    #[expect(
        clippy::disallowed_methods,
        reason = "it only writes to the terminal, and is not the job's"
    )]
    pub(crate) fn show(
        job: JobHandle,
        is_bounded: bool,
        clock: Arc<dyn Clock>,
        audience: Audience,
    ) -> Option<Self> {
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
                    let now = clock.now_ms();
                    let restoring = job.restoring().filter(|it| it.read_bytes < it.total_bytes);
                    let text = match restoring {
                        Some(restoring) => restored(&restoring, now),
                        None if is_bounded => line(read, written, now.saturating_sub(start)),
                        None => String::new(),
                    };
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

/// How far a restore is, and how long it will take at the pace so far.
fn restored(restoring: &RestoreProgress, now_ms: i64) -> String {
    let (read, total) = (restoring.read_bytes, restoring.total_bytes.max(1));
    let part = read as f64 / total as f64;
    let took = now_ms.saturating_sub(restoring.began_at).max(0) as f64 / 1000.0;
    let left = match read {
        0 => String::new(),
        _ => format!(", {:.0} s left", took * (1.0 - part) / part),
    };
    format!(
        "restoring: {} of {} read ({:.0} %){left}",
        size(read),
        size(total),
        part * 100.0
    )
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
    fn a_restore_says_how_long_it_will_take() {
        let restoring = |read_bytes| RestoreProgress {
            began_at: 1000,
            total_bytes: 4 << 20,
            read_bytes,
        };
        assert_eq!(
            restored(&restoring(0), 2000),
            "restoring: 0 B of 4.0 MiB read (0 %)"
        );
        assert_eq!(
            restored(&restoring(1 << 20), 3000),
            "restoring: 1.0 MiB of 4.0 MiB read (25 %), 6 s left"
        );
    }

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
