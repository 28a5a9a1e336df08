//! The trait that an operator implements.

use crate::emitter::Emitter;
use crate::error::{Error, Result};
use crate::open::OpenContext;
use crate::record::{Batch, Record};
use crate::timer::{Fired, Timer};

/// A stream operator.
///
/// Two methods are needed; all others do nothing by default. Each call is a transaction: what it
/// emits and writes to state takes effect when it returns ok and leaves no trace when it fails or
/// panics. Fields of the operator itself are not part of that, nor of any checkpoint: whatever must
/// survive belongs into state.
///
/// ```
/// use highwater::{Emitter, OpenContext, Operator, Record, Result, ValueState};
///
/// struct WordCount {
///     count: ValueState<u64>,
/// }
///
/// impl Operator for WordCount {
///     fn open(ctx: &mut OpenContext) -> Result<Self> {
///         Ok(Self { count: ctx.value_state("count") })
///     }
///
///     fn process(&mut self, word: Record, out: &mut Emitter) -> Result<()> {
///         let n = self.count.get()?.unwrap_or(0) + 1;
///         self.count.set(&n)?;
///         out.emit(word.key(), &n)
///     }
/// }
///
/// highwater::export!(WordCount);
/// # fn main() {}
/// ```
pub trait Operator: Sized + 'static {
    /// Reads the configuration and declares states, inputs and outputs.
    ///
    /// It also answers the question what the operator needs and gives, which is asked before the job
    /// starts and by checks ([`OpenContext::is_described`]): then there is a configuration, and the inputs are
    /// known unless the job file has other mistakes, but state cannot be read.
    fn open(ctx: &mut OpenContext) -> Result<Self>;

    /// Handles a record.
    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()>;

    /// Handles a batch: by default each record in turn. An operator that gains by seeing many records
    /// at once overrides this, and usually walks [`Batch::records`] itself.
    fn process_batch(&mut self, batch: Batch<'_>, out: &mut Emitter) -> Result<()> {
        batch
            .records()
            .try_for_each(|record| self.process(record, out))
    }

    /// A timer fired. The current key is the timer's; see [`Timers`](crate::Timers).
    fn on_timer(&mut self, _timer: Timer<'_>, _out: &mut Emitter) -> Result<()> {
        Ok(())
    }

    /// Timers fired, at most one for each key: by default each is handled in turn. An operator that gains by
    /// seeing many at once overrides this, and usually walks [`Fired::timers`] itself.
    fn on_timers(&mut self, fired: Fired<'_>, out: &mut Emitter) -> Result<()> {
        fired
            .timers()
            .try_for_each(|timer| self.on_timer(timer, out))
    }

    /// The watermark has advanced: all records with event times up to it have arrived but for late ones, and
    /// all timers up to it have fired. There is no current key here. At the end of input it is the largest
    /// number.
    fn on_watermark(&mut self, _watermark: i64, _out: &mut Emitter) -> Result<()> {
        Ok(())
    }

    /// No record comes on this input any more.
    fn end_of_input(&mut self, _input: u32, _out: &mut Emitter) -> Result<()> {
        Ok(())
    }

    /// The checkpoint with this number, which holds this operator's state, is complete.
    fn on_checkpoint_complete(&mut self, _checkpoint: u64) -> Result<()> {
        Ok(())
    }

    /// Rewrites a value of the state `state` that was written under an older version of its schema:
    /// appends it to `to` as it is written now.
    fn migrate(
        &mut self,
        state: &str,
        from_version: u32,
        _value: &[u8],
        _to: &mut Vec<u8>,
    ) -> Result<()> {
        Err(Error::config(format_args!(
            "state `{state}` was written under version {from_version} of its schema, which this operator cannot read"
        )))
    }

    /// The job ends in order.
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
