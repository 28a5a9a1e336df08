//! From a component's bytes to machine code, in a process of its own.
//!
//! A stranger's component is read, made from a core module, examined and compiled by parsers and a compiler
//! whose time and memory nobody has bounded for every input, and in which a mistake may be waiting. So all
//! of it happens in a child of this process, which runs the same program with a limit on its memory and its
//! processor time; this process only waits, no longer than `limits.compile-time`. If the child runs out of
//! memory, overflows its stack or hangs, the component is refused and nothing else has happened.
//!
//! What comes back is machine code that is going to run, so the child is as trusted as this process: it is
//! the same program, and the component decides no more of its answer than it would decide here. The child
//! gets no secret of the cache, no variable of the environment that matters and no file; it seals its answer
//! with a key that is used once, so that an answer that was cut short is not taken for a whole one, and
//! there is one door to code that runs ([`super::precompiled`]).
//!
//! The child ends with this process, however that ends: it sees the end of its stdin.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use operator::text::size;

use super::binary::{self, Kind};
use super::complaint;
use super::configuration::{self, Interruption};
use super::examine::examine;
use super::limits::Limits;
use super::precompiled::{Sealed, Secret};
use super::world;

/// The subcommand by which this program becomes the child. Not for users.
pub const SUBCOMMAND: &str = "compile-component";

/// The most machine code that a component may become. An interpreter becomes 30 to 40 MB.
const CODE_BYTES_MAX: u64 = 512 << 20;
/// The most that is kept of what the child says when it fails.
const COMPLAINT_BYTES_MAX: u64 = 16 << 10;
/// The stack of the child's first thread, on which components are parsed.
const STACK_BYTES: u64 = 8 << 20;
/// What the address space of the child may have beside its memory: the program, and what the allocator sets
/// aside for each thread and does not use.
const ADDRESS_SPACE_BASE: u64 = 2 << 30;
const ADDRESS_SPACE_EACH_THREAD: u64 = 256 << 20;

/// Where components are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// In a child process with limits. Only where this program is the `host` binary.
    Child,
    /// In this process, without limits: for programs that run components that they trust.
    InProcess,
}

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not a component that this host runs.
    #[error("{0}")]
    Component(String),
    /// It takes too long.
    #[error("compiling it took longer than limits.compile-time = {}", humantime::format_duration(*.0))]
    Time(Duration),
    /// It takes too much memory.
    #[error("compiling it needed more memory than limits.compile-memory = {}", size(*.0))]
    Memory(u64),
    /// It becomes too much.
    #[error("it becomes more than {} of machine code", size(CODE_BYTES_MAX))]
    Code,
    /// Something else.
    #[error("the compiler failed on it: {0}")]
    Failed(String),
}

/// Machine code for a component or a core module. Calls `slow` if it takes long enough for a person to wonder;
/// a small component takes a few milliseconds.
///
/// # Errors
/// It is refused, or compiling it goes beyond a limit.
pub(super) fn compile(
    compiler: Compiler,
    bytes: &[u8],
    limits: &Limits,
    slow: impl FnOnce(),
) -> Result<Sealed, Refusal> {
    let failed = |error: anyhow::Error| Refusal::Failed(format!("{error:#}"));
    let secret = Secret::random().map_err(failed)?;
    let request = Request {
        secret: secret.bytes(),
        trusted: limits.trusted,
        memory: limits.compile_memory,
        seconds: processor_seconds(limits.compile_time),
        bytes: bytes.len() as u64,
    };
    let answer = match compiler {
        Compiler::Child => run(&request, bytes, limits, slow)?,
        Compiler::InProcess => answer(&request, bytes),
    };
    match answer.split_first() {
        Some((&CODE, _)) => Ok(Sealed::new(secret, answer, 1)),
        Some((&REFUSED, text)) => {
            let text = String::from_utf8_lossy(text);
            Err(Refusal::Component(complaint::one_line(&text)))
        }
        _ => Err(failed(anyhow::anyhow!("it did not answer"))),
    }
}

/// The first byte of an answer with a seal and machine code.
const CODE: u8 = b'C';
/// The first byte of an answer that says why there is none.
const REFUSED: u8 = b'R';

/// What the child is asked, sent before the component's bytes.
struct Request {
    /// The key of the seal on the answer.
    secret: [u8; Secret::LEN],
    trusted: bool,
    /// Bytes of memory that the child may have.
    memory: u64,
    /// Seconds of processor time, of all its threads.
    seconds: u64,
    /// Bytes of the component.
    bytes: u64,
}

impl Request {
    const LEN: usize = Secret::LEN + 1 + 3 * 8;

    fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (secret, rest) = bytes.split_at_mut(Secret::LEN);
        secret.copy_from_slice(&self.secret);
        rest[0] = u8::from(self.trusted);
        for (at, number) in [self.memory, self.seconds, self.bytes].iter().enumerate() {
            rest[1 + 8 * at..9 + 8 * at].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let (secret, rest) = bytes
            .split_first_chunk()
            .expect("a request is longer than its secret");
        let number = |at: usize| {
            let bytes = rest[1 + 8 * at..].first_chunk();
            u64::from_le_bytes(*bytes.expect("a request has three numbers"))
        };
        Self {
            secret: *secret,
            trusted: rest[0] != 0,
            memory: number(0),
            seconds: number(1),
            bytes: number(2),
        }
    }
}

/// Compiles, in whatever process this is.
fn answer(request: &Request, bytes: &[u8]) -> Vec<u8> {
    match machine_code(bytes, request.trusted) {
        Ok(code) => {
            let mut answer = vec![CODE];
            Sealed::append(&Secret::new(request.secret), &code, &mut answer);
            answer
        }
        Err(reason) => {
            let mut answer = vec![REFUSED];
            answer.extend(reason.bytes());
            answer
        }
    }
}

/// Everything that happens to bytes of unknown origin, the cheap and certain first.
fn machine_code(bytes: &[u8], trusted: bool) -> Result<Vec<u8>, String> {
    let surface = examine(bytes).map_err(|objection| objection.to_string())?;
    let made;
    let (bytes, surface) = match binary::kind(bytes).map_err(|error| error.to_string())? {
        Kind::Component => (bytes, surface),
        Kind::Core(core) => {
            made = super::adapter::componentize(bytes, core).map_err(|error| {
                let error = written(&error);
                format!("it is a core module that cannot be made a component: {error}")
            })?;
            let surface = examine(&made).map_err(|objection| objection.to_string())?;
            (&*made, surface)
        }
    };
    world::check(&surface).map_err(|misfits| world::join(&misfits))?;
    let interruption = if trusted {
        Interruption::None
    } else {
        Interruption::Epochs
    };
    let engine = configuration::engine(interruption).map_err(|error| written(&error))?;
    let code = engine.precompile_component(bytes).map_err(|error| {
        let error = written(&anyhow::Error::from(error));
        format!("it is not valid WebAssembly: {error}")
    })?;
    Ok(code)
}

/// An error and its causes, which may quote the component at any length.
fn written(error: &anyhow::Error) -> String {
    operator::text::written(&format_args!("{error:#}"), complaint::COMPLAINT_BYTES_MAX)
}

/// Processor time for a compilation that may take `time` by the clock: as much for each thread.
fn processor_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(1).saturating_mul(threads())
}

/// How many threads compile. Each takes some memory, so that on a machine with very many a large component
/// would not fit into its limit.
fn threads() -> u64 {
    const MAX: u64 = 16;
    thread::available_parallelism().map_or(1, |count| MAX.min(count.get() as u64))
}

/// Runs a child and takes its answer.
fn run(
    request: &Request,
    bytes: &[u8],
    limits: &Limits,
    slow: impl FnOnce(),
) -> Result<Vec<u8>, Refusal> {
    let failed = |error: anyhow::Error| Refusal::Failed(format!("{error:#}"));
    let mut child = Running::start().map_err(failed)?;
    let (stdin, stdout, stderr) = child.pipes().map_err(failed)?;
    // A thread for each pipe, because reading and writing one has no time limit, and a child that is stuck must
    // not keep this thread. What `asking` returns is the child's stdin, which stays open as long as its handle:
    // the end of stdin would end the child before it has answered.
    let (answered, answers) = mpsc::channel();
    thread::scope(|scope| {
        let thread = |name: &str| thread::Builder::new().name(format!("compile-{name}"));
        let asking = thread("request")
            .spawn_scoped(scope, || ask(stdin, request, bytes))
            .context("starting a thread");
        let listening = thread("answer")
            .spawn_scoped(scope, move || {
                let mut answer = Vec::new();
                // An answer that is not whole is recognised. Nobody listens after the time limit.
                let _ = stdout.take(CODE_BYTES_MAX + 1).read_to_end(&mut answer);
                let _ = answered.send(answer);
            })
            .context("starting a thread");
        let complaining = thread("complaint")
            .spawn_scoped(scope, || complaint(stderr))
            .context("starting a thread");
        // By the clock as well as by the child's own limit of processor time, which a child that sleeps or
        // waits for a lock never reaches.
        let (soon, later) = split(limits.compile_time);
        let answer = answers.recv_timeout(soon).or_else(|error| match error {
            RecvTimeoutError::Timeout if !later.is_zero() => {
                slow();
                answers.recv_timeout(later)
            }
            error => Err(error),
        });
        let answer = match answer {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                child.kill();
                return Err(Refusal::Time(limits.compile_time));
            }
            Err(RecvTimeoutError::Disconnected) => {
                child.kill();
                Vec::new()
            }
        };
        if answer.len() as u64 > CODE_BYTES_MAX {
            child.kill();
            return Err(Refusal::Code);
        }
        let status = child.wait().map_err(failed)?;
        if status.success() {
            return Ok(answer);
        }
        // A thread that could not start is why the child failed, so it is reported first.
        for started in [asking.map(|_| ()), listening.map(|_| ())] {
            started.map_err(failed)?;
        }
        let complaint = complaining.map_err(failed)?.join().unwrap_or_default();
        Err(why(status, &String::from_utf8_lossy(&complaint), limits))
    })
}

/// The part of a time limit that nobody notices, and the rest.
fn split(limit: Duration) -> (Duration, Duration) {
    const UNNOTICED: Duration = Duration::from_millis(300);
    let soon = limit.min(UNNOTICED);
    (soon, limit - soon)
}

/// Sends the request. The pipe stays open as long as what is returned: its end ends the child.
fn ask(mut stdin: ChildStdin, request: &Request, bytes: &[u8]) -> ChildStdin {
    // A child that ended early says by its end why.
    let _ = stdin
        .write_all(&request.encode())
        .and_then(|()| stdin.write_all(bytes))
        .and_then(|()| stdin.flush());
    stdin
}

/// What the child says when it fails. What is too much is let go, so that it does not wait.
fn complaint(mut stderr: ChildStderr) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = (&mut stderr)
        .take(COMPLAINT_BYTES_MAX)
        .read_to_end(&mut bytes);
    let _ = io::copy(&mut stderr, &mut io::sink());
    bytes
}

/// Why a child ended without an answer.
fn why(status: ExitStatus, complaint: &str, limits: &Limits) -> Refusal {
    let says = |texts: &[&str]| texts.iter().any(|text| complaint.contains(text));
    let no_memory = match (status.code(), status.signal()) {
        (Some(NO_MEMORY), _) => true,
        // The compiler panics where the system has no room for its threads; only its words say so.
        (Some(PANICKED), _) => says(&["(os error 11)", "(os error 12)", "code: 11,", "code: 12,"]),
        // An allocation that fails ends a program of Rust by this, as some other things do.
        (_, Some(SIGABRT)) => says(&["memory allocation of"]),
        _ => false,
    };
    if no_memory {
        return Refusal::Memory(limits.compile_memory);
    }
    if status.signal() == Some(SIGXCPU) {
        return Refusal::Time(limits.compile_time);
    }
    let complaint = complaint
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(3)
        .collect::<Vec<_>>()
        .join(" | ");
    let status = if complaint.is_empty() {
        status.to_string()
    } else {
        format!("{status}: {complaint}")
    };
    Refusal::Failed(complaint::one_line(&status))
}

/// What a process gets that has used up its processor time.
const SIGXCPU: i32 = 24;

/// What a process gets that ends itself.
const SIGABRT: i32 = 6;

/// With what a program of Rust exits that has panicked.
const PANICKED: i32 = 101;

/// With what the child exits when the system refuses it memory or a thread.
const NO_MEMORY: i32 = 12;

/// The system's numbers for these refusals.
const EAGAIN: i32 = nix::errno::Errno::EAGAIN as i32;
const ENOMEM: i32 = nix::errno::Errno::ENOMEM as i32;

/// Whether the system has refused memory, or a thread, for which it has no room.
fn is_no_memory(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    causes.any(|cause: &io::Error| {
        cause.kind() == io::ErrorKind::OutOfMemory
            || matches!(cause.raw_os_error(), Some(EAGAIN | ENOMEM))
    })
}

/// A child that ends at the latest when this is dropped.
struct Running(Child);

impl Running {
    fn start() -> anyhow::Result<Self> {
        // Where libraries are is all of the environment that it needs.
        const LIBRARIES: &str = "LD_LIBRARY_PATH";
        let libraries = std::env::var_os(LIBRARIES).map(|value| (LIBRARIES, value));
        let child = Command::new(program()?)
            .arg0("host")
            .arg(SUBCOMMAND)
            .env_clear()
            .envs(libraries)
            .env("RAYON_NUM_THREADS", threads().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting it in a process of its own")?;
        Ok(Self(child))
    }

    fn pipes(&mut self) -> anyhow::Result<(ChildStdin, ChildStdout, ChildStderr)> {
        let child = &mut self.0;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            anyhow::bail!("it has no pipes");
        };
        Ok((stdin, stdout, stderr))
    }

    fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
    }

    fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.0.wait().context("waiting for it")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

/// This program. Where the system has a name for the running file itself that is taken: another one may lie
/// under its path by now.
fn program() -> anyhow::Result<PathBuf> {
    let this = PathBuf::from("/proc/self/exe");
    if cfg!(target_os = "linux") && this.exists() {
        return Ok(this);
    }
    std::env::current_exe().context("finding this program")
}

/// The child: takes a request from stdin, gives an answer on stdout.
///
/// # Errors
/// It was not asked, or cannot answer. What it lacks memory for ends the process, with a code of its own.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no memory to return with"
)]
pub fn child() -> anyhow::Result<()> {
    match serve() {
        Err(error) if is_no_memory(&error) => std::process::exit(NO_MEMORY),
        served => served,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the process is one compilation, and this thread ends it"
)]
fn serve() -> anyhow::Result<()> {
    let mut stdin = io::stdin().lock();
    let mut header = [0; Request::LEN];
    stdin
        .read_exact(&mut header)
        .context("only `host run` and `host check` use this command")?;
    let request = Request::decode(&header);
    limit(&request).context("setting limits")?;
    let mut bytes = Vec::new();
    (&mut stdin)
        .take(request.bytes)
        .read_to_end(&mut bytes)
        .context("reading the component")?;
    anyhow::ensure!(
        bytes.len() as u64 == request.bytes,
        "the component is cut short"
    );
    drop(stdin);
    thread::Builder::new()
        .name("end-with-parent".to_owned())
        .spawn(end_with_parent)
        .context("starting a thread")?;
    let answer = answer(&request, &bytes);
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(&answer)
        .and_then(|()| stdout.flush())
        .context("answering")
}

/// Waits until nobody holds the other end of stdin, which the parent does for as long as it waits for the
/// answer.
#[expect(
    clippy::disallowed_methods,
    reason = "nobody waits for the answer any more"
)]
fn end_with_parent() {
    let mut byte = [0];
    while io::stdin()
        .lock()
        .read(&mut byte)
        .is_ok_and(|read| read > 0)
    {}
    std::process::exit(1);
}

/// Limits this process, before it has seen a byte of the component.
fn limit(request: &Request) -> anyhow::Result<()> {
    let set = |resource, most: u64| {
        // What was limited more strictly by somebody else stays so.
        let (soft, hard) = getrlimit(resource)?;
        setrlimit(resource, most.min(soft), hard)
    };
    set(Resource::RLIMIT_CORE, 0)?;
    // Where it has no limit, a parser that calls itself for ever takes all memory before it ends.
    set(Resource::RLIMIT_STACK, STACK_BYTES)?;
    set(Resource::RLIMIT_CPU, request.seconds)?;
    // Memory that is written to, which is what is used up. Not every system counts all of it here, so the
    // address space is limited as well; that has to be far larger, for much of it is never used.
    set(Resource::RLIMIT_DATA, request.memory)?;
    let address_space = request
        .memory
        .saturating_add(ADDRESS_SPACE_BASE)
        .saturating_add(ADDRESS_SPACE_EACH_THREAD.saturating_mul(threads()));
    set(Resource::RLIMIT_AS, address_space)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let request = Request {
            secret: [7; Secret::LEN],
            trusted: true,
            memory: u64::MAX,
            seconds: 1,
            bytes: 1 << 40,
        };
        let read = Request::decode(&request.encode());
        assert_eq!(read.encode(), request.encode());
        assert_eq!(
            (read.memory, read.seconds, read.bytes),
            (u64::MAX, 1, 1 << 40)
        );
    }

    #[test]
    fn c161_the_end_of_a_child_is_named_by_its_limit() {
        let limits = Limits::default();
        let reported =
            |raw, complaint| why(ExitStatus::from_raw(raw), complaint, &limits).to_string();
        assert_eq!(
            reported(6, "memory allocation of 8388608 bytes failed\n"),
            "compiling it needed more memory than limits.compile-memory = 2.0 GiB"
        );
        for (raw, complaint) in [
            (12 << 8, "error: starting a thread"),
            (
                101 << 8,
                "panicked: IOError(Os { code: 11, kind: WouldBlock, message: \"…\" })",
            ),
        ] {
            let reported = reported(raw, complaint);
            assert!(
                reported.starts_with("compiling it needed more memory"),
                "{reported}"
            );
        }
        // Words alone prove nothing.
        let named = reported(1 << 8, "error: function `(os error 12)`");
        assert!(named.starts_with("the compiler failed on it"), "{named}");
        let no_room = |raw| {
            let error = io::Error::from_raw_os_error(raw);
            is_no_memory(&anyhow::Error::from(error).context("starting a thread"))
        };
        assert!(no_room(11) && no_room(12) && !no_room(13));
        assert_eq!(
            reported(24, ""),
            "compiling it took longer than limits.compile-time = 1m"
        );
        assert_eq!(
            reported(11, ""),
            "the compiler failed on it: signal: 11 (SIGSEGV)"
        );
        assert_eq!(
            reported(
                101 << 8,
                "\nthread 'main' panicked at a.rs:1:2:\nb\u{1b}[2J\n"
            ),
            "the compiler failed on it: exit status: 101: thread 'main' panicked at a.rs:1:2: | b\\u{1b}[2J"
        );
    }
}
