//! Running the `host` binary and watching it.
//!
//! Everything it says is kept with the stream it came from, and printed when a test fails. No wait
//! is without an end, and no test judges how long something took: [`HANG`] only tells a hang from a
//! slow machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_host");

/// After this long without the end of a run it is taken for hung.
const HANG: Duration = Duration::from_secs(300);

/// How often is looked for what no line says.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Lines that may wait to be looked at before the reader of a pipe waits, and then the host. More than the events of the
/// longest test, which may look at none of them for a while.
const LINES_WAITING: usize = 1 << 16;

/// Where a line came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

/// A host that is running.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<(Stream, String)>,
    said: Vec<(Stream, String)>,
    shown: String,
    started: Instant,
}

/// A host that has ended, and what it said.
pub(crate) struct Ended {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its results.
    pub(crate) stdout: String,
    /// What it printed for people.
    pub(crate) stderr: String,
    shown: String,
}

/// A completed checkpoint, as a line tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// Its number.
    pub(crate) id: u64,
    /// Where its metadata is; empty in memory.
    pub(crate) path: String,
}

/// Starts `host` with these arguments in a directory.
pub(crate) fn start(directory: &Path, arguments: &[&str]) -> Running {
    start_with_input(directory, arguments, Stdio::null())
}

/// Starts `host` with something to read on stdin.
pub(crate) fn start_with_input(directory: &Path, arguments: &[&str], stdin: Stdio) -> Running {
    start_by(Command::new(PROGRAM), directory, arguments, stdin)
}

/// Starts `host` with these variables in its environment, and no others that are meant for it.
pub(crate) fn start_with_variables(
    directory: &Path,
    arguments: &[&str],
    variables: &[(String, String)],
) -> Running {
    let mut command = Command::new(PROGRAM);
    command.envs(variables.iter().cloned());
    start_by(command, directory, arguments, Stdio::null())
}

/// Starts a command that becomes `host` (by `exec`, so that it is the child) when it gets these arguments.
pub(crate) fn start_by(
    mut command: Command,
    directory: &Path,
    arguments: &[&str],
    stdin: Stdio,
) -> Running {
    command.current_dir(directory).args(arguments);
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        let given = command.get_envs().any(|(given, _)| given == name);
        let text = name.to_string_lossy();
        let is_meant =
            text.starts_with("AWS_") || text.starts_with("OTEL_") || name == "HIGHWATER_CONFIG";
        if is_meant && !given {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").env("NO_COLOR", "1");
    let shown = format!("host {}", arguments.join(" "));
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start `{shown}`: {error}"));
    let (sender, lines) = mpsc::sync_channel(LINES_WAITING);
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    read_lines(Stream::Stdout, stdout, sender.clone());
    read_lines(Stream::Stderr, stderr, sender);
    Running {
        child,
        lines,
        said: Vec::new(),
        shown,
        started: Instant::now(),
    }
}

/// Runs `host` with these arguments in a directory until it ends.
pub(crate) fn run(directory: &Path, arguments: &[&str]) -> Ended {
    start(directory, arguments).wait()
}

/// Reads a pipe line by line on a thread of its own.
fn read_lines(
    stream: Stream,
    pipe: impl Read + Send + 'static,
    sender: SyncSender<(Stream, String)>,
) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches(['\r', '\n'])
                .to_owned();
            line.clear();
            if sender.send((stream, text)).is_err() {
                return;
            }
        }
    });
}

impl Running {
    /// The next line on either stream; `None` once both are closed.
    fn next(&mut self) -> Option<String> {
        let left = HANG.saturating_sub(self.started.elapsed());
        match self.lines.recv_timeout(left) {
            Ok((stream, line)) => {
                self.said.push((stream, line.clone()));
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                let said = self.transcript();
                self.end_by_force();
                panic!("`{}` hangs; it said:\n{said}", self.shown);
            }
        }
    }

    /// Waits for a line that has `text` in it. `None` if it ended without.
    pub(crate) fn line_with(&mut self, text: &str) -> Option<String> {
        while let Some(line) = self.next() {
            if line.contains(text) {
                return Some(line);
            }
        }
        None
    }

    /// Waits for the next completed checkpoint. `None` if it ended without.
    pub(crate) fn checkpoint(&mut self) -> Option<Completion> {
        while let Some(line) = self.next() {
            if let Some(completion) = completion(&line) {
                return Some(completion);
            }
        }
        None
    }

    /// Waits for `count` more completed checkpoints and returns the last of them.
    ///
    /// # Panics
    /// It ended before.
    pub(crate) fn checkpoints(&mut self, count: usize) -> Completion {
        let mut last = None;
        for _ in 0..count {
            last = self.checkpoint();
            assert!(
                last.is_some(),
                "`{}` ended before {count} checkpoints; it said:\n{}",
                self.shown,
                self.transcript()
            );
        }
        last.expect("at least one checkpoint was asked for")
    }

    /// The next event of a run with `--json`. `None` if it ended without.
    pub(crate) fn next_event(&mut self) -> Option<Value> {
        loop {
            let line = self.next()?;
            if self
                .said
                .last()
                .is_some_and(|(from, _)| *from == Stream::Stdout)
            {
                return Some(event(&line));
            }
        }
    }

    /// Waits for an event of this name.
    ///
    /// # Panics
    /// It ended before.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        loop {
            let Some(event) = self.next_event() else {
                panic!(
                    "`{}` ended without `{name}`:\n{}",
                    self.shown,
                    self.transcript()
                );
            };
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Waits until something is so that no line says. What it says meanwhile is kept.
    ///
    /// # Panics
    /// It ended before.
    pub(crate) fn wait_until(&mut self, what: &str, is_so: impl Fn() -> bool) {
        while !is_so() {
            match self.lines.recv_timeout(LOOK_AGAIN) {
                Ok(said) => self.said.push(said),
                Err(RecvTimeoutError::Timeout) if self.started.elapsed() < HANG => {}
                Err(_) if is_so() => return,
                Err(_) => {
                    let said = self.transcript();
                    self.end_by_force();
                    panic!("`{}` comes to no `{what}`; it said:\n{said}", self.shown);
                }
            }
        }
    }

    /// How many such lines it has said by now.
    pub(crate) fn said(&self, is_such: impl Fn(&str) -> bool) -> usize {
        self.said.iter().filter(|(_, line)| is_such(line)).count()
    }

    /// Takes it for alive: whether it hangs is judged from now on.
    pub(crate) fn is_at_work(&mut self) {
        self.started = Instant::now();
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Gives it a line to read. Its stdin must be a pipe.
    pub(crate) fn feed(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{line}").expect("it reads its input");
    }

    /// Gives it a piece of a line to read.
    pub(crate) fn feed_text(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        stdin
            .write_all(text.as_bytes())
            .expect("it reads its input");
    }

    /// Lets it see the end of its input.
    pub(crate) fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Stops it (`SIGSTOP`), whatever it was doing, and returns when it does nothing any more: the signal is
    /// delivered to one thread after the other.
    pub(crate) fn stand_still(&self) {
        self.signal("STOP");
        let begun = Instant::now();
        while !self.threads_stand_still() {
            assert!(begun.elapsed() < HANG, "`{}` does not stop", self.shown);
            thread::yield_now();
        }
    }

    /// Does something while the process stands still, whatever it was doing.
    pub(crate) fn while_stopped<T>(&self, action: impl FnOnce() -> T) -> T {
        self.stand_still();
        let result = action();
        self.signal("CONT");
        result
    }

    fn threads_stand_still(&self) -> bool {
        let threads = format!("/proc/{}/task", self.id());
        let threads = std::fs::read_dir(threads).expect("the process is there");
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // After the name, which is in brackets and may hold anything.
            let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            state.starts_with('T')
        })
    }

    /// Kills it with SIGKILL. `None` if it had ended before and so did not die of it.
    pub(crate) fn kill(mut self) -> Option<Ended> {
        self.child.kill().expect("a child can be killed");
        let ended = self.wait();
        (ended.status.signal() == Some(SIGKILL)).then_some(ended)
    }

    /// Sends it a signal by name (`TERM`, `INT`).
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "cannot send SIG{name}"
        );
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        while self.next().is_some() {}
        let status = self.child.wait().expect("a child can be waited for");
        let stream = |wanted| {
            self.said
                .iter()
                .filter(|(stream, _)| *stream == wanted)
                .fold(String::new(), |text, (_, line)| text + line + "\n")
        };
        Ended {
            status,
            stdout: stream(Stream::Stdout),
            stderr: stream(Stream::Stderr),
            shown: std::mem::take(&mut self.shown),
        }
    }

    fn transcript(&self) -> String {
        self.said
            .iter()
            .fold(String::new(), |text, (_, line)| text + line + "\n")
    }

    fn end_by_force(&mut self) {
        // It may have ended in between, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end_by_force();
    }
}

/// The signal that cannot be caught.
const SIGKILL: i32 = 9;

impl Ended {
    /// Checks the exit code; 0 finished, 1 failed, 2 refused, 3 corrupt.
    pub(crate) fn with_code(self, code: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "exit code of `{}`; {}\n{}",
            self.shown,
            self.status,
            self.transcript()
        );
        self
    }

    /// Checks that stderr has each of these texts.
    pub(crate) fn saying(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(
                self.stderr.contains(text),
                "`{}` does not say `{text}`:\n{}",
                self.shown,
                self.transcript()
            );
        }
        self
    }

    /// Checks that stderr is a message for people: something, but no panic of the host itself.
    pub(crate) fn without_panic(self) -> Self {
        let panicked = self.stderr.lines().any(|line| line.starts_with("thread '"));
        assert!(!panicked, "the host panicked:\n{}", self.transcript());
        assert!(
            !self.stderr.trim().is_empty(),
            "`{}` said nothing",
            self.shown
        );
        self
    }

    /// The events of a run with `--json`. Every line of stdout must be one.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.stdout.lines().map(event).collect()
    }

    /// The checkpoints that it completed.
    pub(crate) fn completions(&self) -> Vec<Completion> {
        self.stderr
            .lines()
            .chain(self.stdout.lines())
            .filter_map(completion)
            .collect()
    }

    /// All that it said.
    pub(crate) fn transcript(&self) -> String {
        format!("--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// Reads an event of `--json`.
fn event(line: &str) -> Value {
    let event: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("`{line}` is not JSON: {error}"));
    assert!(
        event["event"].is_string(),
        "`{line}` does not name its event"
    );
    event
}

/// Reads `checkpoint 12 completed in 31 ms, 1.2 MiB: <path>`, or the event of `--json`.
fn completion(line: &str) -> Option<Completion> {
    if line.starts_with('{') {
        let event: Value = serde_json::from_str(line).ok()?;
        let path = event["path"].as_str().unwrap_or_default().to_owned();
        let id = event["id"].as_u64()?;
        return (event["event"] == "checkpoint-completed").then_some(Completion { id, path });
    }
    let line = &line[line.find("checkpoint ")?..];
    let (id, rest) = line.strip_prefix("checkpoint ")?.split_once(' ')?;
    let rest = rest.strip_prefix("completed in ")?;
    let path = rest.split_once(": ").map_or("", |(_, path)| path.trim());
    Some(Completion {
        id: id.parse().ok()?,
        path: path.to_owned(),
    })
}

#[test]
fn a_completion_is_read_from_its_line() {
    let read = completion("checkpoint 12 completed in 31 ms, 1.2 MiB: /a b/chk-12/_metadata")
        .expect("a completion");
    assert_eq!(
        read,
        Completion {
            id: 12,
            path: "/a b/chk-12/_metadata".to_owned()
        }
    );
    assert_eq!(
        completion("checkpoint 3 completed in 2 ms, 120 B").map(|read| read.path),
        Some(String::new())
    );
    assert_eq!(completion("checkpoint 3 failed: disk full"), None);
    let event = r#"{"event":"checkpoint-completed","id":12,"path":"/a b/chk-12/_metadata"}"#;
    assert_eq!(completion(event), Some(read));
    assert_eq!(completion(r#"{"event":"checkpoint-failed","id":12}"#), None);
}
