//! What a guest's store holds on the host's side.

use std::sync::{Arc, Mutex};

use operator::{Call, Failure, FailureKind, Usage};
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxView, WasiView};

use super::ambient::{self, Ambient};
use super::budget::{Deadline, Writes};
use super::call_clock::CallClock;
use super::console::Console;
use super::descriptors::{Descriptors, Share};
use super::grants::Granted;
use super::limits::{Limits, Memory};
use super::metrics::Metrics;
use super::phase::Phase;

/// The host's side of one instance.
pub(super) struct Guest {
    /// State and output, while records are processed. Boxed, so that an import takes it out and
    /// puts it back for the price of a pointer; the guest's memory is borrowed in between.
    pub(super) call: Option<Box<Call>>,
    /// Which exported function is running.
    pub(super) phase: Phase,
    /// How many exported functions were called so far: what belongs to one call means nothing in another.
    pub(super) calls: u64,
    /// What its calls have cost since somebody has asked.
    pub(super) usage: Usage,
    /// The highest watermark, as of the current call.
    pub(super) watermark: i64,
    /// The time that an ungranted guest sees.
    pub(super) clock: Arc<CallClock>,
    /// Limits memory, and remembers refusals.
    pub(super) memory: Memory,
    /// Limits what a call writes.
    pub(super) writes: Writes,
    /// Limits how long a call takes.
    pub(super) deadline: Deadline,
    /// How many things of the host it may hold.
    pub(super) resources: u32,
    /// The directories that it has listed, each by the number of its list in `table`: a list holds all names
    /// at once.
    pub(super) lists: Vec<u32>,
    /// Whether anybody reads where in its code a call fails.
    pub(super) has_backtraces: bool,
    /// Where log lines and printed text go.
    pub(super) console: Console,
    /// The subtask's metrics.
    pub(super) metrics: Arc<Mutex<Metrics>>,
    /// What the grants hold.
    pub(super) granted: Arc<Granted>,
    /// Clocks and randomness for the preview1 adapter.
    pub(super) ambient: Ambient,
    wasi: WasiCtx,
    table: ResourceTable,
    /// Its part of the process's descriptors, if it can have any.
    _descriptors: Option<Share>,
}

impl Guest {
    /// # Errors
    /// A granted directory cannot be opened, or no descriptors are left for it.
    pub(super) fn new(
        operator: &str,
        subtask: Option<u32>,
        limits: &Limits,
        granted: Arc<Granted>,
        descriptors: &Descriptors,
        instance_bytes: u64,
        metrics: Arc<Mutex<Metrics>>,
    ) -> Result<Self, Failure> {
        let can_open = !granted.dirs.is_empty() || !granted.network.is_empty();
        let share = can_open
            .then(|| descriptors.take(u64::from(limits.resources)))
            .transpose()?;
        let console = Console::new(operator, subtask, granted.secrets.clone());
        let clock = Arc::new(CallClock::default());
        let ambient = Ambient::new(operator, subtask, &granted, &clock);
        let wasi = ambient::context(operator, subtask, &granted, &clock, &console);
        let wasi = wasi.map_err(|error| {
            let message = format!("preparing the sandbox: {error:#}");
            Failure::new(FailureKind::Config, message)
        })?;
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.resources as usize);
        Ok(Self {
            call: None,
            phase: Phase::Start,
            calls: 0,
            usage: Usage::default(),
            watermark: i64::MIN,
            clock,
            memory: Memory::new(limits.memory, instance_bytes),
            writes: Writes::new(limits.call_writes),
            deadline: Deadline::begin(None),
            resources: limits.resources,
            lists: Vec::new(),
            has_backtraces: true,
            console,
            metrics,
            granted,
            ambient,
            wasi,
            table,
            _descriptors: share,
        })
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}
