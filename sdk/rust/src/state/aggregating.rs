//! Values that are folded from what is added to them.

use std::fmt;
use std::rc::Rc;

use super::ValueState;
use crate::aggregate::Aggregate;
use crate::codec::Codec;
use crate::error::Result;
use crate::record::Record;

/// One accumulator of an [`Aggregate`] per key: records are added, and the result is read. Made by
/// [`OpenContext::aggregating_state`](crate::OpenContext::aggregating_state).
///
/// It is a [`ValueState`] of the accumulator, and costs as much.
///
/// ```
/// use highwater::testing::Harness;
/// use highwater::{AggregatingState, Emitter, Mean, OpenContext, Operator, Record, Result};
///
/// struct MeanSoFar { mean: AggregatingState<Mean> }
///
/// impl Operator for MeanSoFar {
///     fn open(ctx: &mut OpenContext) -> Result<Self> {
///         let delay = ctx.column("delay")?;
///         Ok(Self { mean: ctx.aggregating_state("mean", Mean::of(delay)) })
///     }
///
///     fn process(&mut self, flight: Record, out: &mut Emitter) -> Result<()> {
///         self.mean.add(flight)?;
///         out.emit(flight.key(), self.mean.get()?)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let mut mean = Harness::<MeanSoFar>::setup().rows(["delay"]).open()?;
/// mean.process(&[("UA", "3"), ("AA", "1"), ("UA", "4")])?;
/// assert_eq!(mean.take_rows(), ["UA,3", "AA,1", "UA,3.5"]);
/// # Ok(()) }
/// ```
pub struct AggregatingState<G: Aggregate> {
    aggregate: Rc<G>,
    accumulators: ValueState<G::Accumulator>,
}

impl<G: Aggregate> AggregatingState<G> {
    pub(crate) fn new(aggregate: G, accumulators: ValueState<G::Accumulator>) -> Self {
        Self {
            aggregate: Rc::new(aggregate),
            accumulators,
        }
    }

    /// Adds a record, the current one.
    #[inline]
    pub fn add(&self, record: Record<'_>) -> Result<()> {
        let aggregate = &*self.aggregate;
        self.accumulators.update(|accumulator| {
            let to = accumulator.get_or_insert_with(|| aggregate.create());
            aggregate.add(to, record)
        })?
    }

    /// The result of what was added for the current key, `None` if nothing was.
    pub fn get(&self) -> Result<Option<G::Result>> {
        self.accumulators
            .with(|accumulator| accumulator.map(|of| self.aggregate.result(of)).transpose())?
    }

    /// Forgets what was added for the current key.
    pub fn clear(&self) -> Result<()> {
        self.accumulators.clear()
    }
}

/// One value per key, with which what is added is combined. Made by
/// [`OpenContext::reducing_state`](crate::OpenContext::reducing_state).
///
/// It is a [`ValueState`], and costs as much.
///
/// ```
/// use highwater::testing::Harness;
/// use highwater::{Emitter, OpenContext, Operator, Record, ReducingState, Result};
///
/// struct Highest { bid: ReducingState<u64> }
///
/// impl Operator for Highest {
///     fn open(ctx: &mut OpenContext) -> Result<Self> {
///         Ok(Self { bid: ctx.reducing_state("bid", |highest: &mut u64, bid| *highest = bid.max(*highest)) })
///     }
///
///     fn process(&mut self, bid: Record, out: &mut Emitter) -> Result<()> {
///         self.bid.add(bid.text()?.parse()?)?;
///         out.emit(bid.key(), self.bid.get()?)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let mut highest = Harness::<Highest>::open()?;
/// highest.process(&[("vase", "3"), ("vase", "9"), ("vase", "5")])?;
/// assert_eq!(highest.take_rows(), ["vase,3", "vase,9", "vase,9"]);
/// # Ok(()) }
/// ```
pub struct ReducingState<T> {
    combine: Rc<Combine<T>>,
    values: ValueState<T>,
}

/// Changes the value that is held by one that is added.
type Combine<T> = dyn Fn(&mut T, T);

impl<T: Codec> ReducingState<T> {
    pub(crate) fn new(combine: impl Fn(&mut T, T) + 'static, values: ValueState<T>) -> Self {
        Self {
            combine: Rc::new(combine),
            values,
        }
    }

    /// Combines the current key's value with this one, which is the value if it is the first.
    #[inline]
    pub fn add(&self, value: T) -> Result<()> {
        self.values.update(|held| match held {
            Some(held) => (self.combine)(held, value),
            None => *held = Some(value),
        })
    }

    /// The current key's value, `None` if nothing was added.
    pub fn get(&self) -> Result<Option<T>>
    where
        T: Clone,
    {
        self.values.get()
    }

    /// Forgets the current key's value.
    pub fn clear(&self) -> Result<()> {
        self.values.clear()
    }
}

impl<G: Aggregate> fmt::Debug for AggregatingState<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AggregatingState")
            .field(&self.accumulators)
            .finish()
    }
}

impl<T> fmt::Debug for ReducingState<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReducingState").field(&self.values).finish()
    }
}
