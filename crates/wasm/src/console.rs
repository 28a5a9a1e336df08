//! What a guest says: its log calls and the lines it prints become events of the host's log, with
//! the operator's id and subtask, at a bounded rate.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use operator::text::shown;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::complaint::{COMPLAINT_BYTES_MAX, one_line};
use super::secrets::Secrets;
use super::wire::Level;

/// The log of one instance. Cheap to clone; clones are the same log.
#[derive(Clone)]
pub(super) struct Console(Arc<Mutex<Inner>>);

struct Inner {
    operator: String,
    subtask: Option<u32>,
    secrets: Secrets,
    /// Bytes after the last line break, for standard output and standard error.
    partial: [Vec<u8>; 2],
    allowance: Allowance,
    /// The last thing the guest said about an error during this call.
    complaint: Option<String>,
    /// Nothing is logged: the call repeats what was logged before.
    quiet: bool,
    /// What was denied during this call, the last of it.
    denial: Option<String>,
    /// What was logged as denied.
    denials: Vec<String>,
}

/// Where something was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

/// Longer lines are cut. `docs/operators.md` has this number.
const LINE_BYTES_MAX: usize = 8 << 10;
/// How many different things that were denied are logged.
const DENIALS_MAX: usize = 16;

impl Console {
    /// The log of a subtask, or of the operator as such while it is only asked for its description.
    pub(super) fn new(operator: &str, subtask: Option<u32>, secrets: Secrets) -> Self {
        let inner = Inner {
            operator: operator.to_owned(),
            subtask,
            secrets,
            partial: Default::default(),
            allowance: Allowance::default(),
            complaint: None,
            quiet: false,
            denial: None,
            denials: Vec::new(),
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins at this processing time (milliseconds): what was said before is not about it.
    pub(super) fn begin_call(&self, now: i64) {
        let mut inner = self.inner();
        inner.complaint = None;
        inner.denial = None;
        if let Some(suppressed) = inner.allowance.refill(now) {
            inner.event(
                Level::Warn,
                None,
                &format!("{suppressed} lines of this operator's log were left out"),
            );
        }
    }

    /// Whether what the guest says from now on is left out of the log.
    pub(super) fn set_quiet(&self, quiet: bool) {
        self.inner().quiet = quiet;
    }

    /// A call has ended: what was printed without a line break is complete.
    pub(super) fn end_call(&self) {
        let mut inner = self.inner();
        for stream in [Stream::Out, Stream::Err] {
            if !inner.partial[stream as usize].is_empty() {
                inner.end_line(stream);
            }
        }
    }

    /// A call of the `log` import.
    pub(super) fn log(&self, level: Level, message: &str) {
        let mut inner = self.inner();
        let message = inner.secrets.hidden(message);
        if matches!(level, Level::Error) {
            inner.complaint = Some(one_line(&message));
        }
        inner.line(level, None, &shown(&message, LINE_BYTES_MAX));
    }

    /// Bytes that the guest printed.
    pub(super) fn print(&self, stream: Stream, bytes: &[u8]) {
        self.inner().print(stream, bytes);
    }

    /// The last error that the guest logged during this call, or the panic that it printed.
    pub(super) fn complaint(&self) -> Option<String> {
        self.inner()
            .complaint
            .clone()
            .filter(|line| !line.is_empty())
    }

    /// The guest was denied something, with the grant that would have allowed it, if one can. Each thing is
    /// logged once; most guests ask again and again.
    pub(super) fn denied(&self, what: &str, grant: Option<&str>) {
        let text = match grant {
            Some(grant) => format!("{what} is not granted; `{grant}` in the job file allows it"),
            None => format!("{what} is not possible, and no grant allows it"),
        };
        let mut inner = self.inner();
        if !inner.denials.contains(&text) && inner.denials.len() < DENIALS_MAX {
            inner.line(Level::Warn, None, &format!("denied: {text}"));
            inner.denials.push(text.clone());
        }
        inner.denial = Some(text);
    }

    /// What the guest was denied last during this call.
    pub(super) fn denial(&self) -> Option<String> {
        self.inner().denial.clone()
    }

    /// Standard output or standard error for the guest's WASI context.
    pub(super) fn stream(&self, stream: Stream) -> ConsoleStream {
        ConsoleStream {
            console: self.clone(),
            stream,
        }
    }
}

impl Inner {
    fn print(&mut self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.partial[stream as usize].len();
            let (line, ends) = match bytes.iter().take(room).position(|byte| *byte == b'\n') {
                Some(end) => (&bytes[..end], true),
                None => (&bytes[..bytes.len().min(room)], false),
            };
            self.partial[stream as usize].extend_from_slice(line);
            bytes = &bytes[line.len() + usize::from(ends)..];
            if ends || self.partial[stream as usize].len() == LINE_BYTES_MAX {
                self.end_line(stream);
            }
        }
    }

    fn end_line(&mut self, stream: Stream) {
        let mut line = std::mem::take(&mut self.partial[stream as usize]);
        let text = String::from_utf8_lossy(&line);
        let text = self.secrets.hidden(text.trim_end());
        if !text.is_empty() {
            if stream == Stream::Err {
                self.note_panic(&text);
            }
            self.line(Level::Info, Some(stream), &shown(&text, LINE_BYTES_MAX));
        }
        line.clear();
        self.partial[stream as usize] = line;
    }

    /// Recognises what Rust, Go and Python print before they give up, and what follows it.
    fn note_panic(&mut self, line: &str) {
        let begins = line.contains("panicked at")
            || line.starts_with("panic:")
            || line.starts_with("Traceback (most recent call last)");
        if begins {
            self.complaint = Some(one_line(line));
        } else if line.starts_with("note: run with") {
            // Advice that does not help here.
        } else if let Some(complaint) = &mut self.complaint
            && complaint.len() + line.len() < COMPLAINT_BYTES_MAX
        {
            complaint.push_str(" | ");
            complaint.push_str(&one_line(line));
        }
    }

    fn line(&mut self, level: Level, stream: Option<Stream>, message: &str) {
        if !self.quiet && self.allowance.take() {
            self.event(level, stream, message);
        }
    }

    fn event(&self, level: Level, stream: Option<Stream>, message: &str) {
        let (operator, subtask, stream) = (
            self.operator.as_str(),
            self.subtask,
            stream.map(Stream::name),
        );
        match level {
            Level::Trace => {
                tracing::trace!(target: "operator", operator, subtask, stream, "{message}")
            }
            Level::Debug => {
                tracing::debug!(target: "operator", operator, subtask, stream, "{message}")
            }
            Level::Info => {
                tracing::info!(target: "operator", operator, subtask, stream, "{message}")
            }
            Level::Warn => {
                tracing::warn!(target: "operator", operator, subtask, stream, "{message}")
            }
            Level::Error => {
                tracing::error!(target: "operator", operator, subtask, stream, "{message}")
            }
        }
    }
}

/// How many lines may still be logged. Counted in processing time, so that no clock is read here.
struct Allowance {
    lines: u32,
    filled_at: i64,
    suppressed: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            lines: Self::BURST,
            filled_at: i64::MIN,
            suppressed: 0,
        }
    }
}

impl Allowance {
    /// Lines at once.
    const BURST: u32 = 500;
    /// After this many milliseconds the allowance is full again.
    const PERIOD_MS: i64 = 5_000;

    fn take(&mut self) -> bool {
        match self.lines.checked_sub(1) {
            Some(left) => self.lines = left,
            None => {
                self.suppressed += 1;
                return false;
            }
        }
        true
    }

    /// Fills up if it is time. Returns how many lines were left out since the last time.
    fn refill(&mut self, now: i64) -> Option<u64> {
        if now.saturating_sub(self.filled_at) < Self::PERIOD_MS {
            return None;
        }
        self.filled_at = now;
        self.lines = Self::BURST;
        Some(std::mem::take(&mut self.suppressed)).filter(|suppressed| *suppressed > 0)
    }
}

/// A stream that never makes the guest wait: every write is in the log when it returns, so that the
/// last words before a trap are not lost.
#[derive(Clone)]
pub(super) struct ConsoleStream {
    console: Console,
    stream: Stream,
}

impl IsTerminal for ConsoleStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for ConsoleStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for ConsoleStream {
    async fn ready(&mut self) {}
}

impl OutputStream for ConsoleStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.console.print(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

impl AsyncWrite for ConsoleStream {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.console.print(self.stream, bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_panic_is_remembered_for_the_failure() {
        let console = Console::new("count", Some(0), Secrets::default());
        console.begin_call(0);
        console.print(
            Stream::Err,
            b"\nthread 'main' panicked at src/lib.rs:3:5:\nb",
        );
        console.print(
            Stream::Err,
            b"oom\nnote: run with `RUST_BACKTRACE=1` environment variable\n",
        );
        assert_eq!(
            console.complaint().as_deref(),
            Some("thread 'main' panicked at src/lib.rs:3:5: | boom")
        );
        console.begin_call(1);
        assert_eq!(console.complaint(), None);
    }

    #[test]
    fn lines_without_end_are_cut_and_bounded() {
        let console = Console::new("count", Some(0), Secrets::default());
        console.print(Stream::Out, &vec![b'x'; 3 * LINE_BYTES_MAX + 5]);
        assert_eq!(console.inner().partial[0].len(), 5);
        console.end_call();
        assert_eq!(console.inner().partial[0].len(), 0);
    }

    #[test]
    fn the_rate_is_limited_and_the_rest_counted() {
        let mut allowance = Allowance::default();
        assert_eq!(allowance.refill(0), None);
        assert_eq!((0..1000).filter(|_| allowance.take()).count(), 500);
        assert_eq!(allowance.refill(4_999), None);
        assert_eq!(allowance.refill(5_000), Some(500));
        assert!(allowance.take());
    }
}
