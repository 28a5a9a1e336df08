//! The process-wide part: engines, the clock tick that stops endless loops, compiled code.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use operator::text;
use operator::text::size;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use super::cache::{Cache, CacheDir, Digest};
use super::compiler::{self, Compiler, Refusal};
use super::configuration::{Interruption, engine};
use super::descriptors::Descriptors;
use super::guest::Guest;
use super::limits::Limits;
use super::{imports, precompiled, wasi};

/// How a [`Host`] is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where compiled code is kept between runs; `None` compiles in every run.
    pub(crate) cache_dir: Option<PathBuf>,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// Where it is said that compiling takes its time.
    pub notice: fn(&str),
}

impl Options {
    /// With the cache that the environment names.
    pub fn from_environment(compiler: Compiler, notice: fn(&str)) -> Self {
        Self {
            cache_dir: CacheDir::from_environment(),
            compiler,
            notice,
        }
    }
}

/// Loads and runs guests. One per process; clones share everything.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    /// For operators with a time limit: their code has interruption points.
    limited: Target,
    /// For trusted operators, made when the first is loaded.
    trusted: OnceLock<Target>,
    cache: Option<Cache>,
    compiler: Compiler,
    notice: fn(&str),
    /// What was compiled in this process; a job often uses one component several times.
    compiled: Mutex<HashMap<(Digest, bool), Component>>,
    descriptors: Descriptors,
    _ticker: Ticker,
}

/// An engine and what guests on it can import.
pub(super) struct Target {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Guest>,
}

impl Host {
    /// Sets the engine up and starts its ticker.
    ///
    /// A cache directory that cannot be used is reported and done without.
    ///
    /// # Errors
    /// The engine does not support this machine, or no thread can be started.
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        let limited =
            Target::new(Interruption::Epochs).context("setting up the WebAssembly engine")?;
        let ticker = Ticker::start(&limited.engine).context("starting the engine's ticker")?;
        let cache = options.cache_dir.as_ref().and_then(|dir| {
            Cache::open(dir)
                .inspect_err(|error| tracing::warn!(dir = %dir.display(), "compiled components are not cached: {error:#}"))
                .ok()
        });
        let inner = Inner {
            limited,
            trusted: OnceLock::new(),
            cache,
            compiler: options.compiler,
            notice: options.notice,
            compiled: Mutex::default(),
            descriptors: Descriptors::of_this_process(),
            _ticker: ticker,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The descriptors that guests may hold.
    pub(super) fn descriptors(&self) -> &Descriptors {
        &self.inner.descriptors
    }

    /// The engine for trusted operators, or for all others.
    pub(super) fn target(&self, trusted: bool) -> anyhow::Result<&Target> {
        if !trusted {
            return Ok(&self.inner.limited);
        }
        if let Some(target) = self.inner.trusted.get() {
            return Ok(target);
        }
        let target =
            Target::new(Interruption::None).context("setting up the WebAssembly engine")?;
        Ok(self.inner.trusted.get_or_init(|| target))
    }

    /// Compiled code for a component or core module: from this process, from the cache, or compiled now.
    /// `digest` is of everything that decides what is compiled, `path` is what it is called if that takes
    /// long.
    ///
    /// # Errors
    /// It is not an operator that this host runs, or compiling it goes beyond a limit.
    pub(super) fn compile(
        &self,
        path: &Path,
        digest: Digest,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Component, Refusal> {
        let compiled = || {
            self.inner
                .compiled
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let trusted = limits.trusted;
        // The lock is not held while something is compiled, so that other operators need not wait. Two that load
        // the same file at the same time compile it twice, with the same result.
        if let Some(component) = compiled().get(&(digest, trusted)) {
            return Ok(component.clone());
        }
        let target = self.target(trusted);
        let engine = &target
            .map_err(|error| Refusal::Failed(format!("{error:#}")))?
            .engine;
        let cache = self.inner.cache.as_ref();
        let component = match cache.and_then(|cache| cache.load(engine, digest)) {
            Some(component) => component,
            None => {
                let slow = || (self.inner.notice)(&compiling(path, bytes, cache.is_some()));
                let sealed = compiler::compile(self.inner.compiler, bytes, limits, slow)?;
                let failed = |error: &str| Refusal::Failed(error.to_owned());
                let code = sealed
                    .open()
                    .ok_or_else(|| failed("its answer is not whole"))?;
                if let Some(cache) = cache {
                    cache.store(engine, digest, &code);
                }
                precompiled::deserialize(engine, &code).map_err(|error| {
                    failed(&text::written(
                        &format_args!("{error:#}"),
                        text::NAME_BYTES_MAX,
                    ))
                })?
            }
        };
        compiled().insert((digest, trusted), component.clone());
        Ok(component)
    }
}

/// What is said when compiling takes long enough to be noticed.
fn compiling(path: &Path, bytes: &[u8], is_kept: bool) -> String {
    let once = match is_kept {
        true => "once",
        false => "in every run, because there is no cache",
    };
    let name = path.file_name().unwrap_or(path.as_os_str());
    format!(
        "compiling {} ({once}; {}) …",
        text::name(&name.to_string_lossy()),
        size(bytes.len() as u64)
    )
}

impl Target {
    fn new(interruption: Interruption) -> anyhow::Result<Self> {
        let engine = engine(interruption)?;
        let mut linker = Linker::new(&engine);
        wasi::link(&mut linker)?;
        imports::link(&mut linker)?;
        Ok(Self { engine, linker })
    }
}

/// How long a tick is; time limits are rounded up to ticks.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// A thread that advances the engine's epoch every [`TICK`], for as long as it is owned.
struct Ticker {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Ticker {
    #[expect(
        clippy::disallowed_methods,
        reason = "it ticks for all jobs of the process, and cannot fail"
    )]
    fn start(engine: &Engine) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let engine = engine.clone();
        let thread = thread::Builder::new()
            .name("epoch-ticker".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    engine.increment_epoch();
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only ticks; if it panicked there is nothing to save.
            let _ = thread.join();
        }
    }
}
