//! Windows: results per key and span of time.
//!
//! [`OpenContext::window`](crate::OpenContext::window) declares a window: which spans there are (an [`Assigner`]), and
//! what becomes of their records (an [`Aggregate`]). An operator that does nothing else implements
//! [`WindowOperator`]; one that does hands its records to [`Window::add`] and its timers to [`Window::on_timer`].
//!
//! A window ends when the watermark has reached its last millisecond. Then its result is emitted, with that
//! millisecond as its event time, and all that was kept of it is removed. A record is late when every window it
//! falls into has ended: it is dropped and counted in the metric `late-records`, unless
//! [`Window::late_to`] gives it an output or [`Window::allowed_lateness`] keeps windows for longer.

mod assign;
mod counted;
mod grid;
mod operator;
mod pane;
mod plan;
mod session;
mod span;

pub use assign::{Assigner, Cumulative, Every, Global, Session, Sliding, Tumbling};
pub use operator::WindowOperator;
pub use span::{Firing, Span};

#[doc(hidden)]
pub use operator::{add, add_batch, on_timers};

pub(crate) use plan::{AHEAD_RESULTS_MAX, Settings};

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::aggregate::Aggregate;
use crate::call::Call;
use crate::codec::Codec;
use crate::emitter::Emitter;
use crate::error::Result;
use crate::host::Host;
use crate::metrics::Counter;
use crate::open::OpenContext;
use crate::record::Record;
use crate::state::ValueState;
use crate::timer::{Timer, Timers};
use pane::Panes;
use plan::{AHEAD_FROM, Ahead, Alarm, Context, Placed, Plan};

/// A declared window; see [`OpenContext::window`](crate::OpenContext::window). Clones are the same window.
///
/// ```
/// use std::time::Duration;
/// use highwater::testing::Harness;
/// use highwater::{Count, Emitter, OpenContext, Result, Session, Span, Window, WindowOperator};
///
/// /// The visits of each user: pages that were asked for at most half an hour apart.
/// struct Visits { pages: Window<Session, Count> }
///
/// impl WindowOperator<u64> for Visits {
///     fn open(ctx: &mut OpenContext) -> Result<Self> {
///         let pages = ctx
///             .window("pages", Session::minutes(30), Count)
///             .allowed_lateness(Duration::from_secs(3600))
///             .late_to("late");
///         Ok(Self { pages })
///     }
///
///     fn emit(&mut self, visit: Span, pages: u64, out: &mut Emitter) -> Result<()> {
///         out.emit(out.key(), (visit.start(), pages))
///     }
/// }
/// highwater::export!(Visits { pages });
///
/// # fn main() -> Result<()> {
/// const MINUTE: i64 = 60_000;
/// let mut visits = Harness::<Visits>::open()?;
/// visits.process_timed(&[("ann", "/a", 0), ("ann", "/c", 50 * MINUTE), ("ann", "/b", 30 * MINUTE)])?;
/// visits.set_watermark(80 * MINUTE)?;
/// assert_eq!(visits.take_rows(), ["ann,0,3"]);
/// # Ok(()) }
/// ```
pub struct Window<A: Assigner, G: Aggregate>(Rc<Inner<A::Plan, G>>);

struct Inner<P, G: Aggregate> {
    plan: P,
    aggregate: G,
    settings: Rc<Settings>,
    state: ValueState<Panes<G::Accumulator>>,
    timers: Timers,
    late_records: Counter,
    call: Rc<Call>,
    host: Host,
    number: u32,
    ahead: Cell<Ahead>,
}

impl OpenContext {
    /// Declares a window: its name, which spans there are, and what becomes of the records in each.
    ///
    /// Spans are [`Tumbling`], [`Sliding`], [`Cumulative`], [`Session`], [`Every`] and [`Global`];
    /// aggregates are [`Count`](crate::Count), [`Sum`](crate::Sum), [`Min`](crate::Min), [`Max`](crate::Max),
    /// [`Mean`](crate::Mean), [`First`](crate::First), [`Last`](crate::Last), [`Collect`](crate::Collect), tuples of
    /// them, and whatever implements [`Aggregate`].
    ///
    /// The name is that of the state that holds the window. Its timers have tags from 2^31 on.
    pub fn window<A: Assigner, G: Aggregate>(
        &mut self,
        name: &str,
        assigner: A,
        aggregate: G,
    ) -> Window<A, G> {
        let settings = Rc::new(Settings {
            name: name.to_owned(),
            ahead_from: Cell::new(AHEAD_FROM),
            ..Settings::default()
        });
        let plan = assigner.plan().unwrap_or_else(|problem| {
            settings.problem(problem);
            // An operator with a problem is not opened, so nothing gets into this window.
            A::Plan::unused()
        });
        let number = self.declare_window(Rc::clone(&settings));
        let schema = plan.schema() + &pane::schema(&aggregate.schema());
        let version = <Panes<G::Accumulator> as Codec>::VERSION;
        let state = self.value_state_as(name, schema, version);
        let (call, host) = self.surroundings();
        Window(Rc::new(Inner {
            plan,
            aggregate,
            settings,
            state,
            timers: self.window_timers(),
            ahead: Cell::default(),
            late_records: self.counter("late-records"),
            call,
            host,
            number,
        }))
    }
}

impl<A: Assigner, G: Aggregate> Window<A, G> {
    /// Keeps windows for this long after their end. A record that comes within this time is added to its windows.
    /// Those that have ended emit their results again with the next watermark, as [`Firing::Late`]. A session that
    /// such a record moves the end of beyond the watermark is open again: it emits its result at its new end, as
    /// [`Firing::OnTime`].
    ///
    /// It may change when the job restarts. If it is longer then, a record may come for a window that was removed
    /// before: it begins the window again, and the late result lacks what the window had.
    #[must_use]
    pub fn allowed_lateness(self, lateness: Duration) -> Self {
        let settings = &self.0.settings;
        settings
            .lateness
            .set(settings.milliseconds("the allowed lateness", lateness));
        self
    }

    /// Emits late records on this output, with their keys, values and event times unchanged. They are not counted in
    /// `late-records` then. This declares the output, with the columns of the operator's input if it has one, unless
    /// `ctx.output` has declared it before.
    #[must_use]
    pub fn late_to(self, output: &str) -> Self {
        *self.0.settings.late_to.borrow_mut() = Some(output.into());
        self
    }

    /// Emits the results of windows that have not ended, as [`Firing::Early`], this long by the host's clock after a
    /// record has changed them.
    #[must_use]
    pub fn early_every(self, interval: Duration) -> Self {
        let settings = &self.0.settings;
        let interval = settings.milliseconds("the interval of early results", interval);
        if interval == 0 {
            settings.problem("the interval of early results is less than a millisecond".to_owned());
        }
        settings.early_every.set(interval);
        self
    }

    /// Emits the result of a window that has not ended, as [`Firing::Early`], with each `records` records of it.
    #[must_use]
    pub fn early_after(self, records: u32) -> Self {
        let settings = &self.0.settings;
        if records == 0 {
            settings.problem("early results come after 1 record at least, not 0".to_owned());
        }
        settings.early_after.set(records);
        self
    }

    fn context(&self) -> Context<'_, G> {
        let inner = &*self.0;
        Context {
            aggregate: &inner.aggregate,
            settings: &inner.settings,
            state: &inner.state,
            timers: &inner.timers,
            call: &inner.call,
            host: &inner.host,
            window: inner.number,
            ahead: &inner.ahead,
        }
    }

    /// Adds a record, the current one. Calls `emit` with the results that are due at once: of windows of a number of
    /// records, and early ones.
    #[inline]
    pub fn add(
        &self,
        record: Record<'_>,
        out: &mut Emitter,
        mut emit: impl FnMut(Span, G::Result, &mut Emitter) -> Result<()>,
    ) -> Result<()> {
        let inner = &*self.0;
        let placed = inner
            .plan
            .add(&self.context(), record, &mut |span, result| {
                inner.emitting(span, || emit(span, result, out))
            })?;
        if placed == Placed::Late {
            self.late(record, out)?;
        }
        Ok(())
    }

    #[cold]
    fn late(&self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        match &*self.0.settings.late_to.borrow() {
            Some(output) => out.to(output).emit(record.key(), record.whole()),
            None => {
                self.0.late_records.add(1);
                Ok(())
            }
        }
    }

    /// Handles a timer that fired, the current one, if it belongs to this window: calls `emit` with the results that
    /// are due. Returns whether it does.
    ///
    /// If a hundred windows of the key or more are open, and the operator has no other window and no timers of its own, a
    /// timer also gives the results of windows that end after it, as far as the watermark has come, in order of their ends. So the times of a result are
    /// those of its [`Span`], not that of the timer. If `emit` fails for one of them, the call gives none; the next one
    /// gives no more than the window of its timer.
    pub fn on_timer(
        &self,
        timer: Timer<'_>,
        out: &mut Emitter,
        mut emit: impl FnMut(Span, G::Result, &mut Emitter) -> Result<()>,
    ) -> Result<bool> {
        let inner = &*self.0;
        let Some(alarm) = Alarm::of(timer.tag(), inner.number) else {
            return Ok(false);
        };
        let cx = self.context();
        if alarm == Alarm::End && cx.is_ahead_enough() {
            cx.register(alarm, timer.time())?;
            return Ok(true);
        }
        let done = inner.state.update(|held| {
            let Some(panes) = held else {
                return Ok(());
            };
            panes.unpack()?;
            if alarm == Alarm::Early {
                if panes.early_at != Some(timer.time()) {
                    return Ok(());
                }
                panes.early_at = None;
            }
            inner
                .plan
                .fire(&cx, (alarm, timer.time()), panes, &mut |span, result| {
                    inner.emitting(span, || emit(span, result, out))
                })?;
            cx.forget_if_empty(held)
        });
        match done {
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) | Err(error) => {
                cx.failed();
                Err(error)
            }
        }
    }
}

impl<P, G: Aggregate> Inner<P, G> {
    /// Calls `emit` with the event time of the window's results. Afterwards the call has its own again, that of
    /// its record or timer.
    #[inline]
    fn emitting(&self, span: Span, emit: impl FnOnce() -> Result<()>) -> Result<()> {
        let timestamp = self.call.timestamp();
        self.call.set_timestamp(span.timestamp());
        let emitted = emit();
        self.call.set_timestamp(timestamp);
        emitted
    }
}

impl<A: Assigner, G: Aggregate> Clone for Window<A, G> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<A: Assigner, G: Aggregate> fmt::Debug for Window<A, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("name", &self.0.settings.name)
            .field("plan", &self.0.plan)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
