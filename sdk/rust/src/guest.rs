//! What a component exports: the border on the guest's side, behind [`export!`](crate::export!).

use std::cell::RefCell;
use std::panic;
use std::rc::Rc;
use std::sync::Once;

use crate::bindings::exports::highwater::operator::guest::{Description, OpenContext};
use crate::bindings::highwater::operator::types::{
    Batch, Cells, Failure, FailureKind, Fired, Port,
};
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::instance::{self, Instance};
use crate::operator::Operator;

thread_local! {
    /// The call of the one operator in this component, for the panic hook.
    static CALL: RefCell<Option<Rc<Call>>> = const { RefCell::new(None) };
}

/// Where a component keeps its operator.
#[derive(Debug)]
pub struct Slot<T>(RefCell<Option<Instance<T>>>);

impl<T: Operator> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Operator> Slot<T> {
    /// Nothing opened yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// The export `describe`.
    pub fn describe(&self, config: String, inputs: &[Port]) -> Result<Description, Failure> {
        log_panics();
        instance::describe::<T>(config, inputs, Host).map_err(|error| failure(&error))
    }

    /// The export `open`.
    pub fn open(&self, context: OpenContext) -> Result<(), Failure> {
        log_panics();
        let instance = Instance::open(context, Host).map_err(|error| failure(&error))?;
        CALL.set(Some(Rc::clone(instance.call())));
        self.0.replace(Some(instance));
        Ok(())
    }

    /// The export `process`.
    pub fn process(&self, batch: Batch) -> Result<(), Failure> {
        self.call(|instance| instance.process(batch))
    }

    /// The export `on-timers`.
    pub fn on_timers(&self, fired: Fired) -> Result<(), Failure> {
        self.call(|instance| instance.on_timers(fired))
    }

    /// The export `on-watermark`.
    pub fn on_watermark(&self, watermark: i64) -> Result<(), Failure> {
        self.call(|instance| instance.on_watermark(watermark))
    }

    /// The export `end-of-input`.
    pub fn end_of_input(&self, input: u32) -> Result<(), Failure> {
        self.call(|instance| instance.end_of_input(input))
    }

    /// The export `on-checkpoint-complete`.
    pub fn on_checkpoint_complete(&self, checkpoint: u64) -> Result<(), Failure> {
        self.call(|instance| instance.on_checkpoint_complete(checkpoint))
    }

    /// The export `migrate`.
    pub fn migrate(&self, state: u32, from_version: u32, values: &Cells) -> Result<Cells, Failure> {
        self.call(|instance| instance.migrate(state, from_version, values))
    }

    /// The export `close`.
    pub fn close(&self) -> Result<(), Failure> {
        self.call(Instance::close)
    }

    fn call<R>(&self, call: impl FnOnce(&mut Instance<T>) -> Result<R>) -> Result<R, Failure> {
        let result = match &mut *self.0.borrow_mut() {
            Some(instance) => call(instance),
            None => Err(Error::new("the operator was not opened")),
        };
        result.map_err(|error| failure(&error))
    }
}

/// An error as the host gets it.
fn failure(error: &Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::Failed => FailureKind::Failed,
        ErrorKind::Config => FailureKind::Config,
    };
    Failure {
        kind,
        message: error.message().to_owned(),
        record: error.record(),
    }
}

/// Has panics logged before they trap, with the place and the record: all the host sees of the trap
/// itself is that there was one.
fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|panic| {
            let message = panic.payload_as_str().unwrap_or("no message");
            let place = panic
                .location()
                .map(|place| format!(" at {place}"))
                .unwrap_or_default();
            let record = CALL.with_borrow(|call| call.as_ref().and_then(|call| call.record()));
            let record = record
                .map(|record| format!(", record {record} of the batch"))
                .unwrap_or_default();
            crate::error!("panicked{place}{record}: {message}");
        }));
    });
}
