//! Runs a target: replays its corpus, then changes inputs until the time is over or a promise is broken.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::coverage::Seen;
use crate::memory;
use crate::mutate::{self, Random};
use crate::targets::Target;

/// An input that takes longer hangs: the slowest takes seconds where its target waits for a server.
const HANGS_AFTER: Duration = Duration::from_secs(60);
/// The most bytes of a target's corpus that `--keep` adds to.
const CORPUS_BYTES_MAX: u64 = 40_000;
/// For so long a broken input is made smaller.
const SHRINK: Duration = Duration::from_secs(10);

/// How a target is run.
pub(crate) struct Settings {
    /// After the corpus was replayed.
    pub(crate) time: Duration,
    /// Decides what is drawn.
    pub(crate) seed: u64,
    /// Whether new inputs are added to the corpus.
    pub(crate) keep: bool,
    /// Whether this is the process that does it.
    pub(crate) worker: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(60),
            seed: RandomState::new().hash_one("fuzz") % (1 << 40),
            keep: false,
            worker: false,
        }
    }
}

fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name)
}

/// Where the input stands that runs at the moment, for when the process dies of it.
fn current(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target")
        .join(format!("{}.running", target.name))
}

/// Runs a target in a process of its own, and keeps the input that it dies of.
pub(crate) fn watch(target: &Target, settings: &Settings) -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("fuzz: finding this program: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut worker = Command::new(program);
    worker
        .arg("--worker")
        .args(["--seconds", &settings.time.as_secs().to_string()]);
    worker.args(["--seed", &settings.seed.to_string()]);
    if settings.keep {
        worker.arg("--keep");
    }
    drop(fs::remove_file(current(target)));
    match worker.arg(target.name).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        // It has said everything.
        Ok(status) if status.code() == Some(1) => ExitCode::FAILURE,
        Ok(status) => {
            let running = fs::read(current(target)).unwrap_or_default();
            let length = running
                .first_chunk()
                .map_or(0, |length| u64::from_le_bytes(*length));
            let input = running.get(8..).unwrap_or_default();
            let input = &input[..input.len().min(length as usize)];
            report(target, input, &format!("the process ended ({status})"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("fuzz: starting the target: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a broken input into the corpus and says how to see it again.
fn report(target: &Target, input: &[u8], what: &str) {
    let directory = corpus(target);
    let path = directory.join(format!("found-{:08x}", crc32c::crc32c(input)));
    let written = fs::create_dir_all(&directory).and_then(|()| fs::write(&path, input));
    eprintln!("fuzz: {}: {what}", target.name);
    match written {
        Ok(()) => eprintln!(
            "fuzz: the input has {} bytes; to see it again: (cd tests/fuzz && cargo run --release -- --replay {} {})",
            input.len(),
            target.name,
            path.display()
        ),
        Err(error) => eprintln!("fuzz: {} cannot be written: {error}", path.display()),
    }
}

static PANIC: Mutex<Option<String>> = Mutex::new(None);
static STARTED: AtomicU64 = AtomicU64::new(0);

/// Panics of every thread are noted, not printed: while a broken input is made smaller there are many.
fn note_panics() {
    panic::set_hook(Box::new(|panic| {
        let mut note = PANIC
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        note.get_or_insert(panic.to_string());
    }));
}

/// Runs the target once; what broke, if something did.
fn run(target: &Target, input: &[u8]) -> Option<String> {
    let (most, result) =
        memory::most(|| panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    let mut note = PANIC
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    match (note.take(), result) {
        (Some(note), _) => Some(note),
        (None, Err(_)) => Some("it panicked".to_owned()),
        (None, Ok(())) if most > target.memory_max => Some(format!(
            "it took {most} bytes of memory, more than {}",
            target.memory_max
        )),
        (None, Ok(())) => None,
    }
}

/// Runs the target with each file. Prints what breaks.
pub(crate) fn replay(target: &Target, files: &[String]) -> ExitCode {
    let mut outcome = ExitCode::SUCCESS;
    note_panics();
    for file in files {
        let broken = fs::read(file)
            .map_err(|error| error.to_string())
            .map(|input| run(target, &input));
        match broken {
            Ok(None) => println!("{file}: right"),
            Ok(Some(what)) | Err(what) => {
                println!("{file}: {what}");
                outcome = ExitCode::FAILURE;
            }
        }
    }
    outcome
}

/// Does the work of [`watch`].
pub(crate) fn work(target: &'static Target, settings: &Settings) -> ExitCode {
    note_panics();
    let begun = Instant::now();
    let running = fs::create_dir_all(Path::new(env!("CARGO_MANIFEST_DIR")).join("target"))
        .and_then(|()| File::create(current(target)));
    let running = match running {
        Ok(running) => running,
        Err(error) => {
            eprintln!(
                "fuzz: {} cannot be written: {error}",
                current(target).display()
            );
            return ExitCode::FAILURE;
        }
    };
    end_if_it_hangs(begun);
    let mut seen = Seen::new();
    let count = AtomicU64::new(0);
    let tried = |input: &[u8], seen: &mut Seen| -> Result<bool, String> {
        let mut record = (input.len() as u64).to_le_bytes().to_vec();
        record.extend_from_slice(input);
        running
            .write_all_at(&record, 0)
            .map_err(|error| format!("writing the input down: {error}"))?;
        STARTED.store(begun.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
        seen.reset();
        let broken = run(target, input);
        STARTED.store(0, Ordering::Relaxed);
        count.fetch_add(1, Ordering::Relaxed);
        match broken {
            Some(what) => Err(what),
            None => Ok(seen.note()),
        }
    };

    let mut inputs: Vec<Vec<u8>> = Vec::new();
    let mut corpus_bytes = 0;
    let mut files: Vec<PathBuf> = fs::read_dir(corpus(target))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    for file in &files {
        let Ok(input) = fs::read(file) else { continue };
        corpus_bytes += input.len() as u64;
        if let Err(what) = tried(&input, &mut seen) {
            eprintln!("fuzz: {}: {}: {what}", target.name, file.display());
            return ExitCode::FAILURE;
        }
        inputs.push(input);
    }
    let of_corpus = inputs.len();
    if inputs.is_empty() {
        inputs.push(Vec::new());
    }

    let mut random = Random::new(settings.seed);
    let end = Instant::now() + settings.time;
    let mut found = None;
    while Instant::now() < end {
        // Half of the time one of the latest, and a quarter of it one of the corpus: those were chosen.
        let some = match random.below(4) {
            0 | 1 => inputs.len() - inputs.len().min(32)..inputs.len(),
            2 => 0..of_corpus.max(1),
            _ => 0..inputs.len(),
        };
        let mut input = inputs[some.start + random.below(some.len())].clone();
        let other = &inputs[random.below(inputs.len())];
        mutate::mutate(
            &mut input,
            other,
            target.words,
            target.bytes_max,
            &mut random,
        );
        match tried(&input, &mut seen) {
            Ok(true) => {
                if settings.keep && corpus_bytes + input.len() as u64 <= CORPUS_BYTES_MAX {
                    corpus_bytes += input.len() as u64;
                    let path = corpus(target).join(format!("{:08x}", crc32c::crc32c(&input)));
                    drop(fs::write(path, &input));
                }
                inputs.push(input);
            }
            Ok(false) => {}
            Err(what) => {
                found = Some((input, what));
                break;
            }
        }
    }
    let (edges, of) = seen.edges();
    let mut said = format!(
        "fuzz: {}: {} inputs in {} s (seed {}), {} of the corpus, {} new ones; {edges} of {of} edges\n",
        target.name,
        count.load(Ordering::Relaxed),
        begun.elapsed().as_secs(),
        settings.seed,
        of_corpus,
        inputs.len().saturating_sub(of_corpus),
    );
    let Some((input, what)) = found else {
        drop(std::io::stderr().write_all(said.as_bytes()));
        return ExitCode::SUCCESS;
    };
    said.push_str("fuzz: a promise is broken; making the input smaller\n");
    drop(std::io::stderr().write_all(said.as_bytes()));
    let (input, what) = shrink(input, what, &mut |input| tried(input, &mut seen).err());
    report(target, &input, &what);
    ExitCode::FAILURE
}

/// Leaves out of a broken input what it stays broken without.
fn shrink(
    mut input: Vec<u8>,
    mut what: String,
    broken: &mut dyn FnMut(&[u8]) -> Option<String>,
) -> (Vec<u8>, String) {
    let end = Instant::now() + SHRINK;
    let mut step = input.len().div_ceil(2);
    while step > 0 {
        let mut at = 0;
        while at < input.len() {
            if Instant::now() > end {
                return (input, what);
            }
            let mut shorter = input.clone();
            drop(shorter.drain(at..(at + step).min(input.len())));
            match broken(&shorter) {
                Some(still) => (input, what) = (shorter, still),
                None => at += step,
            }
        }
        step /= 2;
    }
    (input, what)
}

/// Ends the process if an input hangs; [`watch`] reports it.
fn end_if_it_hangs(begun: Instant) {
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            let started = STARTED.load(Ordering::Relaxed);
            if started > 0 && begun.elapsed() > Duration::from_millis(started) + HANGS_AFTER {
                eprintln!(
                    "fuzz: an input takes longer than {} s",
                    HANGS_AFTER.as_secs()
                );
                std::process::abort();
            }
        }
    });
}
