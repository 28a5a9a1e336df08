//! Operators that are a window and nothing else.

use super::{Assigner, Span, Window};
use crate::aggregate::Aggregate;
use crate::emitter::Emitter;
use crate::error::Result;
use crate::open::OpenContext;
use crate::record::{Batch, Record};
use crate::timer::Fired;

/// An operator that emits something for each result of a window. `R` is what its aggregate results in: `f64` unless
/// said otherwise, as in `impl WindowOperator<u64> for …`.
///
/// [`export!`](crate::export!) names the field that holds the window, and makes the type an
/// [`Operator`](crate::Operator).
///
/// ```
/// use highwater::testing::Harness;
/// use highwater::{Emitter, Mean, OpenContext, Result, Span, Tumbling, Window, WindowOperator};
///
/// struct Hourly { delays: Window<Tumbling, Mean> }
///
/// impl WindowOperator for Hourly {
///     fn open(ctx: &mut OpenContext) -> Result<Self> {
///         let delay = ctx.column("dep_delay")?;
///         Ok(Self { delays: ctx.window("delays", Tumbling::hours(1), Mean::of(delay)) })
///     }
///
///     fn emit(&mut self, window: Span, mean: f64, out: &mut Emitter) -> Result<()> {
///         out.emit(out.key(), (window.start(), mean))
///     }
/// }
///
/// highwater::export!(Hourly { delays });
///
/// # fn main() -> Result<()> {
/// let mut hourly = Harness::<Hourly>::setup().rows(["dep_delay"]).open()?;
/// hourly.process_timed(&[("UA", "4", 10), ("AA", "1", 3_600_000), ("UA", "7", 3_599_999)])?;
/// hourly.set_watermark(3_599_999)?;
/// assert_eq!(hourly.take_rows(), ["UA,0,5.5"]);
/// # Ok(()) }
/// ```
pub trait WindowOperator<R = f64>: Sized + 'static {
    /// Reads the configuration and declares the window, with what else there is; see
    /// [`Operator::open`](crate::Operator::open).
    fn open(ctx: &mut OpenContext) -> Result<Self>;

    /// A result of a window. The current key is the window's, and what is emitted has the last millisecond of the
    /// window as its event time.
    fn emit(&mut self, window: Span, result: R, out: &mut Emitter) -> Result<()>;
}

/// For [`export!`](crate::export!): adds a record.
#[doc(hidden)]
#[inline]
pub fn add<T: WindowOperator<G::Result>, A: Assigner, G: Aggregate>(
    operator: &mut T,
    window: &Window<A, G>,
    record: Record<'_>,
    out: &mut Emitter,
) -> Result<()> {
    window.add(record, out, |span, result, out| {
        operator.emit(span, result, out)
    })
}

/// For [`export!`](crate::export!): adds the records of a batch.
#[doc(hidden)]
pub fn add_batch<T: WindowOperator<G::Result>, A: Assigner, G: Aggregate>(
    operator: &mut T,
    window: &Window<A, G>,
    batch: Batch<'_>,
    out: &mut Emitter,
) -> Result<()> {
    batch
        .records()
        .try_for_each(|record| add(operator, window, record, out))
}

/// For [`export!`](crate::export!): handles timers that fired.
#[doc(hidden)]
pub fn on_timers<T: WindowOperator<G::Result>, A: Assigner, G: Aggregate>(
    operator: &mut T,
    window: &Window<A, G>,
    fired: Fired<'_>,
    out: &mut Emitter,
) -> Result<()> {
    fired.timers().try_for_each(|timer| {
        window
            .on_timer(timer, out, |span, result, out| {
                operator.emit(span, result, out)
            })
            .map(drop)
    })
}
