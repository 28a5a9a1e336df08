//! A running guest: one store, its exported functions, and what becomes of a call that goes wrong.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use operator::text::size;
use operator::{Failure, FailureKind, text};
use wasmtime::component::{ComponentNamedList, Func, InstancePre, Lift, Lower, TypedFunc};
use wasmtime::{Store, Trap, WasmBacktrace};
use wasmtime_wasi::ResourceTableError;
use wasmtime_wasi::runtime::{in_tokio, poll_noop, with_ambient_tokio_runtime};

use super::adapter;
use super::budget::Deadline;
use super::complaint::COMPLAINT_BYTES_MAX;
use super::descriptors::Descriptors;
use super::engine::TICK;
use super::grants::Granted;
use super::guest::Guest;
use super::limits::Limits;
use super::metrics::{Metrics, lock};
use super::phase::Phase;
use super::wire::WireFailure;
use super::world::World;

/// Everything that is needed to make instances of one component for one operator.
#[derive(Clone)]
pub(super) struct Blueprint {
    pub(super) pre: InstancePre<Guest>,
    pub(super) world: Arc<World>,
    pub(super) limits: Limits,
    pub(super) granted: Arc<Granted>,
    pub(super) descriptors: Descriptors,
    /// What its core instances take of the host beside memories and tables.
    pub(super) instance_bytes: u64,
    /// Whether it was made of a core module, so that it may have clocks to be set.
    pub(super) is_adapted: bool,
}

/// A guest in its store. After a call that trapped it is dead: calls fail until it is replaced.
pub(super) struct Instance {
    store: Store<Guest>,
    functions: Functions,
    /// Sets the clocks of a guest that was a core module and reads them.
    set_clock: Option<TypedFunc<(u64, u64), ()>>,
    limits: Limits,
    alive: bool,
}

/// The exported functions, looked up once.
#[derive(Clone, Copy)]
pub(super) struct Functions {
    pub(super) describe: Func,
    pub(super) open: Func,
    pub(super) process: Func,
    pub(super) on_timers: Func,
    pub(super) on_watermark: Func,
    pub(super) end_of_input: Func,
    pub(super) on_checkpoint_complete: Func,
    pub(super) migrate: Func,
    pub(super) close: Func,
}

/// What an exported function returns.
pub(super) type Outcome<T> = (Result<T, WireFailure>,);

impl Instance {
    /// Makes an instance. No function of the operator has been called yet, but the guest's own start
    /// code may have run, under the same limits.
    ///
    /// # Errors
    /// It does not fit into its limits, or its start code fails.
    pub(super) fn new(
        blueprint: &Blueprint,
        operator: &str,
        subtask: Option<u32>,
        metrics: Arc<Mutex<Metrics>>,
    ) -> Result<Self, Failure> {
        let limits = blueprint.limits.clone();
        let guest = Guest::new(
            operator,
            subtask,
            &limits,
            Arc::clone(&blueprint.granted),
            &blueprint.descriptors,
            blueprint.instance_bytes,
            metrics,
        )?;
        let mut store = Store::new(blueprint.pre.engine(), guest);
        store.limiter(|guest| &mut guest.memory);
        store.set_hostcall_fuel(handed_over_max(&limits));
        // A deadline before anything of the guest runs: a core module's start function runs while it is made.
        let deadline = begin(&mut store, &limits, Phase::Start);
        // What the instance takes of the host is known before it is made. Wasmtime allocates it without asking
        // the limiter.
        if !store.data_mut().memory.fits() {
            return Err(too_much_memory(store.data()));
        }
        let outcome = drive(deadline, blueprint.pre.instantiate_async(&mut store));
        let instance = finish(&mut store, &limits, outcome)?;
        let interface = instance.get_export_index(&mut store, None, &blueprint.world.export);
        let mut function = |name: &str| {
            let index = interface
                .as_ref()
                .and_then(|interface| instance.get_export_index(&mut store, Some(interface), name));
            let function = index.and_then(|index| instance.get_func(&mut store, index));
            function.ok_or_else(|| {
                Failure::new(
                    FailureKind::Config,
                    format!("the component lacks the function `{name}`"),
                )
            })
        };
        let functions = Functions {
            describe: function("describe")?,
            open: function("open")?,
            process: function("process")?,
            on_timers: function("on-timers")?,
            on_watermark: function("on-watermark")?,
            end_of_input: function("end-of-input")?,
            on_checkpoint_complete: function("on-checkpoint-complete")?,
            migrate: function("migrate")?,
            close: function("close")?,
        };
        let set_clock = match blueprint.is_adapted {
            true => clock_of(&mut store, &instance),
            false => None,
        };
        Ok(Self {
            store,
            functions,
            set_clock,
            limits,
            alive: true,
        })
    }

    /// The host's side of the guest.
    pub(super) fn guest(&mut self) -> &mut Guest {
        self.store.data_mut()
    }

    /// Whether it can be called.
    pub(super) fn is_alive(&self) -> bool {
        self.alive
    }

    /// Puts the time of a call where the guest can read it without calling the host.
    ///
    /// The function is that of our adapter. Should a guest have put another in its place, it is limited as
    /// the call that follows.
    fn set_clock(&mut self, deadline: Deadline) -> Result<(), Failure> {
        let Some(set_clock) = self.set_clock else {
            return Ok(());
        };
        let ambient = &self.store.data().ambient;
        let times = (ambient.now(0), ambient.now(1));
        self.alive = false;
        let outcome = drive(deadline, set_clock.call_async(&mut self.store, times));
        finish(&mut self.store, &self.limits, outcome)?;
        self.alive = true;
        Ok(())
    }

    /// Calls an exported function and waits for it within the time limit.
    ///
    /// # Errors
    /// What the guest returned, or why it did not return; after the latter it is dead.
    pub(super) fn call<P, T>(
        &mut self,
        phase: Phase,
        function: impl FnOnce(&Functions) -> Func,
        params: P,
    ) -> Result<T, Failure>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        T: Send + Sync + 'static,
        Outcome<T>: ComponentNamedList + Lift,
    {
        let deadline = begin(&mut self.store, &self.limits, phase);
        self.set_clock(deadline)?;
        // The parameters borrow, so the typed function cannot be kept; comparing the types again
        // costs a fraction of a microsecond per batch.
        let outcome = match function(&self.functions).typed::<P, Outcome<T>>(&self.store) {
            Ok(typed) => {
                self.alive = false;
                let outcome = drive(deadline, typed.call_async(&mut self.store, params));
                finish(&mut self.store, &self.limits, outcome)
            }
            Err(error) => {
                let words = format_args!("{error:#}");
                let reason = text::written(&words, COMPLAINT_BYTES_MAX);
                Err(Failure::new(
                    FailureKind::Config,
                    format!(
                        "`{}` does not have the type that this host expects: {reason}",
                        phase.name()
                    ),
                ))
            }
        };
        let ended = outcome.and_then(|(returned,)| {
            self.alive = true;
            returned.map_err(|failure| {
                let guest = self.store.data();
                // Before it is cut: nobody would find the beginning of a secret.
                let failure = failure.without(&guest.granted.secrets);
                with_denial(guest, named(phase, failure.into()))
            })
        });
        let guest = self.store.data_mut();
        guest.usage.calls += 1;
        guest.usage.time += deadline.elapsed();
        // What was recorded counts as everything else that a call does: if it returns ok.
        let mut metrics = lock(&self.store.data().metrics);
        match ended {
            Ok(_) => metrics.commit(),
            Err(_) => metrics.rollback(),
        }
        drop(metrics);
        ended
    }
}

/// The function that sets the clocks, if the guest reads any.
fn clock_of(
    store: &mut Store<Guest>,
    instance: &wasmtime::component::Instance,
) -> Option<TypedFunc<(u64, u64), ()>> {
    let interface = instance.get_export_index(&mut *store, None, adapter::CLOCK)?;
    let set = instance.get_export_index(&mut *store, Some(&interface), adapter::SET_CLOCK)?;
    instance.get_typed_func(store, set).ok()
}

/// A failure that the guest returned, with the name of its call. A failure of `process` has none, because
/// it names the record.
fn named(phase: Phase, failure: Failure) -> Failure {
    match phase {
        Phase::OnTimers
        | Phase::OnWatermark
        | Phase::EndOfInput
        | Phase::CheckpointComplete
        | Phase::Close => Failure {
            message: format!("`{}` failed: {}", phase.name(), failure.message),
            ..failure
        },
        Phase::Start | Phase::Describe | Phase::Open | Phase::Process | Phase::Migrate => failure,
    }
}

/// The most bytes of the host that what a guest hands over in one call may take: lists and texts take more
/// of ours than of a guest's memory.
fn handed_over_max(limits: &Limits) -> usize {
    const BYTES_MAX: usize = 128 << 20;
    usize::try_from(limits.memory)
        .unwrap_or(BYTES_MAX)
        .min(BYTES_MAX)
}

fn begin(store: &mut Store<Guest>, limits: &Limits, phase: Phase) -> Deadline {
    let deadline = Deadline::begin((!limits.trusted).then_some(limits.call_time));
    // The current tick is already partly over.
    let ticks = limits
        .call_time
        .as_nanos()
        .div_ceil(TICK.as_nanos())
        .saturating_add(1);
    store.set_epoch_deadline(
        u64::try_from(ticks)
            .unwrap_or(u64::MAX / 2)
            .min(u64::MAX / 2),
    );
    let guest = store.data_mut();
    guest.phase = phase;
    guest.calls += 1;
    guest.memory.begin_call();
    guest.writes.begin_call();
    guest.deadline = deadline;
    guest.console.begin_call(guest.clock.now_ms());
    deadline
}

/// A call that has neither returned nor trapped in time, because it waits in the host.
struct Waited;

/// Runs a call to its end on this thread.
///
/// Most calls never wait, so one poll is the whole cost. A guest that sleeps or waits for a socket is
/// waited for, within the limit; then the call is dropped where it stands, and the store with it.
fn drive<T>(deadline: Deadline, call: impl Future<Output = T>) -> Result<T, Waited> {
    with_ambient_tokio_runtime(|| {
        let mut call = pin!(call);
        if let Some(outcome) = poll_noop(call.as_mut()) {
            return Ok(outcome);
        }
        let Some(at) = deadline.at() else {
            return Ok(in_tokio(call));
        };
        in_tokio(async { tokio::time::timeout_at(at.into(), call).await }).map_err(|_| Waited)
    })
}

fn finish<T>(
    store: &mut Store<Guest>,
    limits: &Limits,
    outcome: Result<wasmtime::Result<T>, Waited>,
) -> Result<T, Failure> {
    store.data().console.end_call();
    let guest = store.data();
    let failure = match outcome {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => explain(guest, limits, &error),
        Err(Waited) => guest.deadline.passed(guest.phase),
    };
    Err(with_denial(guest, failure))
}

/// A failure, with what the guest was denied during the call: often the one is the reason of the other.
fn with_denial(guest: &Guest, failure: Failure) -> Failure {
    match guest.console.denial() {
        Some(denial) => Failure {
            message: format!("{} (in this call {denial})", failure.message),
            ..failure
        },
        None => failure,
    }
}

fn too_much_memory(guest: &Guest) -> Failure {
    let message = format!(
        "`{}` wanted {} of memory, more than limits.memory = {}",
        guest.phase.name(),
        size(guest.memory.refused().unwrap_or_default()),
        size(guest.memory.limit())
    );
    Failure::new(FailureKind::MemoryLimit, message)
}

/// Why a call did not return.
fn explain(guest: &Guest, limits: &Limits, error: &wasmtime::Error) -> Failure {
    let backtrace = error
        .downcast_ref::<WasmBacktrace>()
        .filter(|trace| guest.has_backtraces && !trace.frames().is_empty())
        .map(super::backtrace::text);
    let trap = error.downcast_ref::<Trap>();
    // The order matters: one cause often brings about another, and the first in this list is the one to name.
    // A failure of a host function ends as an error of Wasmtime; a call that is over its time is interrupted
    // anywhere; a guest that gets no memory answers with a trap that says nothing of memory.
    let failure = if let Some(failure) = error.downcast_ref::<Failure>() {
        failure.clone()
    } else if trap == Some(&Trap::Interrupt) {
        guest.deadline.passed(guest.phase)
    } else if guest.memory.refused().is_some() {
        too_much_memory(guest)
    } else if let Some(ResourceTableError::Full) = error.downcast_ref() {
        let message = format!(
            "`{}` held more than limits.resources = {} files, directories, sockets, streams and other things \
             of the host at once; if it has to, raise that limit in the job file",
            guest.phase.name(),
            guest.resources
        );
        Failure::new(FailureKind::MemoryLimit, message)
    } else if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        Failure::new(
            FailureKind::Trap,
            format!("the operator ended itself with exit status {}", exit.0),
        )
    } else if let Some(trap) = trap {
        let reason = trap.to_string();
        let reason = reason.strip_prefix("wasm trap: ").unwrap_or(&reason);
        let message = match guest.console.complaint() {
            Some(complaint) => format!("`{}` trapped: {complaint} ({reason})", guest.phase.name()),
            // A stack that grows down runs out of its memory before anything else notices.
            None if *trap == Trap::MemoryOutOfBounds => format!(
                "`{}` trapped: {reason}; a stack that overflowed, by deep recursion or large \
                 variables, traps like this too",
                guest.phase.name()
            ),
            None => format!("`{}` trapped: {reason}", guest.phase.name()),
        };
        Failure::new(FailureKind::Trap, message)
    } else {
        // Not a trap of the guest's code. Wasmtime has no types for these, so its words decide; if it changes
        // them, the last text is shown, with what Wasmtime says.
        let reason = text::written(&error.root_cause(), COMPLAINT_BYTES_MAX);
        let phase = guest.phase.name();
        let message = if reason.contains("fuel allocated for hostcalls") {
            format!(
                "`{phase}` passed too much to the host at once: what it hands over in one call may take {} of \
                 the host (limits.memory, at most 128 MiB); pass it in smaller portions",
                size(handed_over_max(limits) as u64)
            )
        } else if reason.contains("annot allocate memory") {
            format!("the host could not allocate what `{phase}` needs: {reason}")
        } else if reason.starts_with("resource limit exceeded") {
            format!("`{phase}` needs more than a component may have: {reason}")
        } else {
            format!("`{phase}` passed something unreadable: {reason}")
        };
        Failure::new(FailureKind::Protocol, message)
    };
    Failure {
        backtrace: failure.backtrace.or(backtrace),
        ..failure
    }
}
