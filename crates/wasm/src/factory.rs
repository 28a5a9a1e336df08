//! The runtime's trait `Operator`, carried out by a guest.

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use dataflow::port::Port;
use dataflow::state::{Fired, Resolved, StateKind};
use dataflow::{Batch, Cells, CheckpointId, KeyGroups};
use operator::{
    Attention, Call, Failure, FailureKind, Operator, OperatorFactory, SubtaskContext, Usage,
};

use super::component::Component;
use super::description::Description;
use super::grants::Grants;
use super::instance::{Blueprint, Functions, Instance};
use super::metrics::{Metric, Metrics, lock};
use super::phase::Phase;
use super::wire::{BatchArg, CellsArg, CellsReturned, FiredArg, OpenContext, WirePort};

/// An operator of a job: a component with its place in the job file. Not to be shown: there may be secrets in its
/// configuration.
#[derive(Clone)]
pub struct OperatorSpec {
    /// Its id in the job file.
    pub id: String,
    /// Its configuration, as JSON.
    pub config: String,
    /// What it may reach.
    pub grants: Grants,
    /// What arrives on each of its inputs.
    pub inputs: Vec<Port>,
    /// What it said for this configuration.
    pub description: Description,
    /// The job's number of key groups.
    pub key_groups: KeyGroups,
}

/// Makes an operator's instances.
pub struct Factory {
    shared: Arc<Shared>,
    /// Of each subtask, across restarts within this process.
    metrics: Mutex<BTreeMap<u32, Arc<Mutex<Metrics>>>>,
    /// How many instances were replaced because of their memory, of all subtasks.
    recycled: Arc<AtomicU64>,
}

/// The name of that among the operator's metrics.
const RECYCLED: &str = "recycled-instances";

struct Shared {
    blueprint: Blueprint,
    /// Keeps the component's engine running.
    _component: Component,
    id: String,
    config: String,
    inputs: Vec<WirePort>,
    states: Vec<String>,
    key_groups: u32,
}

impl Component {
    /// The factory for an operator. Looks up the values that its grants refer to, names of servers included.
    ///
    /// # Errors
    /// A grant cannot be given or is missing.
    pub fn factory(&self, spec: OperatorSpec) -> Result<Arc<Factory>, Failure> {
        let operator_states = spec.description.operator_states.into_iter();
        let shared = Shared {
            blueprint: self.blueprint(&spec.grants, Grants::resolve)?,
            _component: self.clone(),
            id: spec.id,
            config: spec.config,
            inputs: spec.inputs.iter().map(WirePort::from).collect(),
            states: spec
                .description
                .states
                .into_iter()
                .filter(|state| state.kind != StateKind::Timers)
                .map(|state| state.name)
                .chain(operator_states.map(|state| state.name))
                .collect(),
            key_groups: spec.key_groups.count(),
        };
        Ok(Arc::new(Factory {
            shared: Arc::new(shared),
            metrics: Mutex::default(),
            recycled: Arc::default(),
        }))
    }
}

impl Factory {
    /// The operator's metrics as they are now, by name, its subtasks taken together. Instances that were recycled
    /// are among them, unless the operator has a metric of that name.
    pub fn metrics(&self) -> BTreeMap<String, Metric> {
        let mut all: BTreeMap<String, Metric> = BTreeMap::new();
        let subtasks = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        for metric in subtasks.values().flat_map(|metrics| lock(metrics).read()) {
            match all.get_mut(&metric.name) {
                Some(sum) => sum.merge(&metric),
                None => drop(all.insert(metric.name.clone(), metric)),
            }
        }
        let recycled = self.recycled.load(Ordering::Relaxed);
        if recycled > 0 {
            let metric = Metric::counter(RECYCLED, recycled);
            all.entry(metric.name.clone()).or_insert(metric);
        }
        all
    }
}

impl Factory {
    /// Makes the first of `parallelism` instances, opens it and drops it: what an operator finds wrong with
    /// its inputs or its configuration is found without a job.
    ///
    /// # Errors
    /// As of a start: it cannot be instantiated, or does not open.
    pub fn try_open(&self, parallelism: u32) -> Result<(), Failure> {
        self.apart(parallelism, false, |operator| operator.instance().map(drop))
    }

    /// Does something with the first of `parallelism` instances, which is made for it and dropped.
    fn apart<T: Send>(
        &self,
        parallelism: u32,
        restored: bool,
        run: impl FnOnce(&mut GuestOperator) -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        let opening = || {
            let mut operator = GuestOperator {
                shared: Arc::clone(&self.shared),
                subtask: 0,
                parallelism,
                // Not the job's: nothing runs.
                metrics: Arc::default(),
                recycled: Arc::default(),
                after_recycling: false,
                instance: None,
                restored,
                spare: Some(Box::default()),
                now_ms: 0,
                usage: Usage::default(),
            };
            run(&mut operator)
        };
        // On a thread of its own, as `describe`: callers may be in an async task.
        thread::scope(|scope| {
            let opened = thread::Builder::new()
                .name("open".to_owned())
                .spawn_scoped(scope, opening)
                .map_err(|error| {
                    let message = format!("no thread to open the operator on: {error}");
                    Failure::new(FailureKind::Returned, message)
                })?;
            opened
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl OperatorFactory for Factory {
    fn create(
        &self,
        context: &SubtaskContext,
        restored: bool,
    ) -> Result<Box<dyn Operator>, Failure> {
        let metrics = {
            let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(metrics.entry(context.subtask).or_default())
        };
        let mut operator = GuestOperator {
            shared: Arc::clone(&self.shared),
            subtask: context.subtask,
            parallelism: context.parallelism,
            metrics,
            recycled: Arc::clone(&self.recycled),
            after_recycling: false,
            instance: None,
            restored,
            spare: Some(Box::default()),
            now_ms: 0,
            usage: Usage::default(),
        };
        operator.instance()?;
        Ok(Box::new(operator))
    }

    fn try_migrate(
        &self,
        parallelism: u32,
        state: u32,
        from_version: u32,
        values: &Cells,
    ) -> Result<Cells, Failure> {
        self.apart(parallelism, true, |operator| {
            operator.migrate(state, from_version, values)
        })
    }
}

/// One subtask's guest.
struct GuestOperator {
    shared: Arc<Shared>,
    subtask: u32,
    parallelism: u32,
    metrics: Arc<Mutex<Metrics>>,
    /// See [`Factory`].
    recycled: Arc<AtomicU64>,
    /// Whether the instance before was replaced because of its memory.
    after_recycling: bool,
    /// `None` after a call that did not return: made again at the next call.
    instance: Option<Instance>,
    /// Whether the next instance finds state.
    restored: bool,
    /// The box in which a call travels into the store and back.
    spare: Option<Box<Call>>,
    /// Processing time of the last call.
    now_ms: i64,
    /// What the calls of all instances have cost.
    usage: Usage,
}

impl GuestOperator {
    /// The instance, made and opened if there is none.
    fn instance(&mut self) -> Result<&mut Instance, Failure> {
        // Not `match self.instance`: the borrow checker would hold it to the end of the function.
        if self.instance.is_none() {
            let instance = self.opened().map_err(|failure| self.of_fresh(failure))?;
            // A later instance finds what this one has stored.
            self.restored = true;
            self.after_recycling = false;
            self.instance = Some(instance);
        }
        Ok(self.instance.as_mut().expect("it was just made"))
    }

    /// A new instance, opened.
    fn opened(&self) -> Result<Instance, Failure> {
        let shared = &self.shared;
        let mut instance = Instance::new(
            &shared.blueprint,
            &shared.id,
            Some(self.subtask),
            Arc::clone(&self.metrics),
        )?;
        instance.guest().clock.set(self.now_ms);
        let context = OpenContext {
            config: &shared.config,
            operator: &shared.id,
            subtask: self.subtask,
            parallelism: self.parallelism,
            key_groups: shared.key_groups,
            inputs: &shared.inputs,
            states: &shared.states,
            restored: self.restored,
        };
        instance.call::<_, ()>(Phase::Open, |functions| functions.open, (context,))?;
        let used = instance.guest().memory.used();
        match shared.blueprint.limits.recycle_memory {
            // Each batch would have one of its own.
            Some(most) if used > most => {
                let message = format!(
                    "a fresh instance takes {} KiB of memory, more than limits.recycle-memory = {} KiB",
                    used.div_ceil(1 << 10),
                    most >> 10
                );
                // The first one shows that the setting is wrong.
                let kind = match self.after_recycling {
                    true => FailureKind::MemoryLimit,
                    false => FailureKind::Config,
                };
                Err(Failure {
                    key: Some("limits.recycle-memory"),
                    ..Failure::new(kind, message)
                })
            }
            _ => Ok(instance),
        }
    }

    /// A failure to make an instance. Of one that takes the place of another nobody would expect it at a batch.
    fn of_fresh(&self, failure: Failure) -> Failure {
        match self.after_recycling {
            true => Failure {
                message: format!(
                    "`open` failed in the fresh instance after the last one was recycled: {}",
                    failure.message
                ),
                ..failure
            },
            false => failure,
        }
    }

    /// Runs `run` on the instance while the guest can reach `call`.
    fn with_call(
        &mut self,
        call: &mut Call,
        run: impl FnOnce(&mut Instance) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.now_ms = call.processing_time;
        let mut slot = self.spare.take().unwrap_or_default();
        let instance = match self.instance() {
            Ok(instance) => instance,
            Err(failure) => {
                self.spare = Some(slot);
                return Err(failure);
            }
        };
        mem::swap(call, &mut slot);
        let guest = instance.guest();
        slot.state.set_access_limit(guest.memory.limit());
        slot.output.set_limit(guest.writes.limit());
        guest
            .console
            .set_quiet(slot.probing || slot.attention != Attention::Full);
        guest.has_backtraces = !slot.probing && slot.attention != Attention::Repeated;
        guest.clock.set(slot.processing_time);
        guest.watermark = slot.watermark;
        guest.call = Some(slot);
        let result = run(instance);
        // Every import puts it back, whatever happens in it, so it exists even after a trap.
        let guest = instance.guest();
        let mut slot = guest.call.take().expect("imports put the call back");
        // The keys that it gave by number count once they are known, beside all that was counted.
        let emitted = slot.output.byte_len();
        let other = guest.writes.written().saturating_sub(emitted);
        slot.output.count_other(other);
        mem::swap(call, &mut slot);
        self.spare = Some(slot);
        self.settle();
        if let Some(most) = self.shared.blueprint.limits.recycle_memory {
            self.recycle_beyond(most);
        }
        result
    }

    fn run(
        &mut self,
        phase: Phase,
        run: impl FnOnce(&mut Instance, Phase) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let result = run(self.instance()?, phase);
        self.settle();
        result
    }

    /// Adds up what the last calls have cost, and drops the instance if it cannot be called again.
    fn settle(&mut self) {
        let Some(instance) = &mut self.instance else {
            return;
        };
        let guest = instance.guest();
        let spent = mem::take(&mut guest.usage);
        self.usage.calls += spent.calls;
        self.usage.time += spent.time;
        self.usage.memory = guest.memory.used();
        if !instance.is_alive() {
            self.instance = None;
        }
    }

    /// Linear memory never shrinks, and some guests leak. Their state is with us, so a new instance
    /// costs microseconds where a failed call would cost a restart.
    fn recycle_if_large(&mut self) {
        let limit = self.shared.blueprint.limits.memory;
        self.recycle_beyond(limit / 4 * 3);
    }

    /// Drops the instance if it has more than this many bytes. The next call makes a new one.
    fn recycle_beyond(&mut self, most: u64) {
        let Some(instance) = &mut self.instance else {
            return;
        };
        let bytes = instance.guest().memory.used();
        if bytes > most {
            tracing::debug!(
                operator = self.shared.id,
                subtask = self.subtask,
                bytes,
                "the instance is recycled because of its memory"
            );
            self.recycled.fetch_add(1, Ordering::Relaxed);
            self.after_recycling = true;
            self.instance = None;
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Operator for GuestOperator {
    fn process(
        &mut self,
        input: u32,
        batch: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        // Unresolved keys may stay where they are.
        let distinct = if keys.numbers.is_empty() && keys.keys.is_empty() {
            &batch.keys
        } else {
            &keys.keys
        };
        self.with_call(call, |instance| {
            let batch = BatchArg {
                input,
                values: (&batch.values).into(),
                timestamps: &batch.timestamps,
                keys: distinct.into(),
                key_numbers: &keys.numbers,
            };
            instance.call(Phase::Process, |functions| functions.process, (batch,))
        })
    }

    fn on_timers(&mut self, fired: &Fired, call: &mut Call) -> Result<(), Failure> {
        self.with_call(call, |instance| {
            instance.call(
                Phase::OnTimers,
                |functions| functions.on_timers,
                (FiredArg::from(fired),),
            )
        })
    }

    fn on_watermark(&mut self, call: &mut Call) -> Result<(), Failure> {
        let watermark = call.watermark;
        self.with_call(call, |instance| {
            instance.call(
                Phase::OnWatermark,
                |functions| functions.on_watermark,
                (watermark,),
            )
        })
    }

    fn end_of_input(&mut self, input: u32, call: &mut Call) -> Result<(), Failure> {
        self.with_call(call, |instance| {
            instance.call(
                Phase::EndOfInput,
                |functions| functions.end_of_input,
                (input,),
            )
        })
    }

    fn checkpoint_complete(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.run(Phase::CheckpointComplete, |instance, phase| {
            instance.call(
                phase,
                |functions: &Functions| functions.on_checkpoint_complete,
                (id.0,),
            )
        })?;
        self.recycle_if_large();
        Ok(())
    }

    fn migrate(&mut self, state: u32, from_version: u32, values: &Cells) -> Result<Cells, Failure> {
        let mut migrated = Cells::new();
        self.run(Phase::Migrate, |instance, phase| {
            let returned: CellsReturned = instance.call(
                phase,
                |functions: &Functions| functions.migrate,
                (state, from_version, CellsArg::from(values)),
            )?;
            migrated = returned.read(values.len())?;
            Ok(())
        })?;
        self.recycle_if_large();
        Ok(migrated)
    }

    fn make_ready(&mut self, fresh: bool) -> Result<(), Failure> {
        if fresh {
            self.instance = None;
        }
        self.instance().map(drop)
    }

    fn is_repeatable(&self) -> bool {
        self.shared.blueprint.granted.is_closed()
    }

    fn usage(&self) -> Option<Usage> {
        Some(self.usage)
    }

    fn close(&mut self) -> Result<(), Failure> {
        self.run(Phase::Close, |instance, phase| {
            instance.call(phase, |functions: &Functions| functions.close, ())
        })
    }
}
