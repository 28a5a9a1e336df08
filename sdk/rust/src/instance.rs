//! An opened operator and what surrounds it: the same in a component and in a harness.

use std::fmt;
use std::rc::Rc;

use crate::bindings::exports::highwater::operator::guest::{
    Description, OpenContext as WitOpenContext,
};
use crate::bindings::highwater::operator::types as wit;
use crate::call::Call;
use crate::cells::Cells;
use crate::emitter::Emitter;
use crate::error::Result;
use crate::host::Host;
use crate::metrics::Metrics;
use crate::open::OpenContext;
use crate::operator::Operator;
use crate::record::{Batch, Input};
use crate::state::Buffered;
use crate::timer::Fired;

pub(crate) struct Instance<T> {
    operator: T,
    call: Rc<Call>,
    inputs: Vec<Input>,
    /// What stands for an input that is not among them.
    unknown: Input,
    states: Vec<String>,
    buffers: Vec<Rc<dyn Buffered>>,
    metrics: Rc<Metrics>,
    emitter: Emitter,
}

/// What the operator needs and gives, for this configuration and these inputs (none, if they are not known).
pub(crate) fn describe<T: Operator>(
    config: String,
    inputs: &[wit::Port],
    host: Host,
) -> Result<Description> {
    let mut context = OpenContext::describing(config, inputs, Rc::new(Call::new()), host);
    T::open(&mut context)?;
    let (declared, ..) = context.finish()?;
    Ok(Description {
        inputs: declared.inputs,
        outputs: declared.outputs,
        states: declared.states,
        uses_timers: declared.timers.is_some(),
    })
}

impl<T: Operator> Instance<T> {
    pub(crate) fn open(context: WitOpenContext, host: Host) -> Result<Self> {
        let call = Rc::new(Call::new());
        let states = context.states.clone();
        let mut context = OpenContext::opening(context, Rc::clone(&call), host.clone());
        let operator = T::open(&mut context)?;
        let (declared, inputs, metrics) = context.finish()?;
        let emitter = Emitter::new(Rc::clone(&call), host, &declared.outputs);
        Ok(Self {
            operator,
            call,
            inputs,
            unknown: Input::unknown(),
            states,
            buffers: declared.buffers,
            metrics,
            emitter,
        })
    }

    /// The call, to ask for the current record from outside.
    #[cfg(target_family = "wasm")]
    pub(crate) fn call(&self) -> &Rc<Call> {
        &self.call
    }

    pub(crate) fn process(&mut self, mut batch: wit::Batch) -> Result<()> {
        let keys = std::mem::take(&mut batch.keys);
        let input = self.inputs.get(batch.input as usize);
        let input = input.unwrap_or(&self.unknown);
        // Keys that were not numbered are not distinct: there is no keyed state to ask about them.
        self.call.begin(keys, input.rows);
        let call = Rc::clone(&self.call);
        let keys = call.keys();
        let result = self
            .operator
            .process_batch(Batch::new(&batch, &keys, &call, input), &mut self.emitter);
        drop(keys);
        self.end(result)
    }

    pub(crate) fn on_timers(&mut self, mut fired: wit::Fired) -> Result<()> {
        let keys = std::mem::take(&mut fired.keys);
        // A timer comes from no input. Keys of all inputs are encoded alike, unless some are rows and some are
        // texts: then nobody knows which they are here.
        let input = self.inputs.iter().find(|input| input.is_keyed());
        let input = input.unwrap_or(&self.unknown);
        self.call.begin(keys, input.rows);
        let call = Rc::clone(&self.call);
        let keys = call.keys();
        let result = self
            .operator
            .on_timers(Fired::new(&fired, &keys, &call, input), &mut self.emitter);
        drop(keys);
        self.end(result)
    }

    pub(crate) fn on_watermark(&mut self, watermark: i64) -> Result<()> {
        self.call.begin(Cells::empty(), true);
        let result = self.operator.on_watermark(watermark, &mut self.emitter);
        self.end(result)
    }

    pub(crate) fn end_of_input(&mut self, input: u32) -> Result<()> {
        self.call.begin(
            Cells::empty(),
            self.inputs
                .get(input as usize)
                .is_none_or(|input| input.rows),
        );
        let result = self.operator.end_of_input(input, &mut self.emitter);
        self.end(result)
    }

    pub(crate) fn on_checkpoint_complete(&mut self, checkpoint: u64) -> Result<()> {
        self.call.begin(Cells::empty(), true);
        let result = self.operator.on_checkpoint_complete(checkpoint);
        self.end(result)
    }

    pub(crate) fn close(&mut self) -> Result<()> {
        self.call.begin(Cells::empty(), true);
        let result = self.operator.close();
        self.end(result)
    }

    pub(crate) fn migrate(
        &mut self,
        state: u32,
        from_version: u32,
        values: &Cells,
    ) -> Result<Cells> {
        self.call.begin(Cells::empty(), true);
        let name = self.states.get(state as usize).map_or("", String::as_str);
        let mut migrated = Cells::empty();
        let result = values.iter().try_for_each(|value| {
            self.operator
                .migrate(name, from_version, value, &mut migrated.data)?;
            migrated.seal();
            Ok(())
        });
        self.end(result).map(|()| migrated)
    }

    /// Ends a call: hands its effects to the host, or forgets them.
    fn end(&mut self, result: Result<()>) -> Result<()> {
        let record = self.call.record();
        self.call.leave_record();
        if result.is_ok() {
            self.buffers.iter().for_each(|state| state.flush());
        }
        self.buffers.iter().for_each(|state| state.forget());
        match result {
            Ok(()) => {
                self.emitter.flush();
                self.metrics.flush();
                Ok(())
            }
            Err(error) => {
                self.emitter.discard();
                self.metrics.discard();
                Err(match (error.record(), record) {
                    (None, Some(record)) => error.at_record(record),
                    _ => error,
                })
            }
        }
    }
}

impl<T> fmt::Debug for Instance<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance")
            .field("states", &self.states)
            .finish_non_exhaustive()
    }
}
