//! Aggregates of the values in a column, whatever their order.

use super::{Aggregate, Input, of_column};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::fields::FromField;
use crate::record::Record;

/// A number that can be summed up.
pub trait Number: Codec + FromField + Copy {
    /// 0.
    const ZERO: Self;

    /// The sum, or `None` if it is too large.
    fn plus(self, other: Self) -> Option<Self>;
}

macro_rules! integers {
    ($($kind:ty)*) => {$(
        impl Number for $kind {
            const ZERO: Self = 0;

            #[inline]
            fn plus(self, other: Self) -> Option<Self> {
                self.checked_add(other)
            }
        }
    )*};
}
integers!(u32 u64 u128 i32 i64 i128);

macro_rules! floats {
    ($($kind:ty)*) => {$(
        impl Number for $kind {
            const ZERO: Self = 0.0;

            #[inline]
            fn plus(self, other: Self) -> Option<Self> {
                Some(self + other)
            }
        }
    )*};
}
floats!(f32 f64);

#[inline]
fn add<T: Number>(to: &mut T, value: T) -> Result<()> {
    match to.plus(value) {
        Some(sum) => {
            *to = sum;
            Ok(())
        }
        None => Err(too_large::<T>()),
    }
}

#[cold]
fn too_large<T: Codec>() -> Error {
    Error::new(format_args!(
        "a sum does not fit `{}` any more: choose a larger type for it",
        T::schema()
    ))
}

/// The sum of a column, 0 if it has no value: `Sum::<i64>::of(column)`, of `f64` unless said otherwise.
///
/// A sum that does not fit the type fails the call. Those of floating-point numbers depend on the order of their
/// records in the last digits; those of integers do not.
pub struct Sum<T = f64>(Input<T>);

impl<T: Number> Aggregate for Sum<T> {
    type Accumulator = T;
    type Result = T;

    #[inline]
    fn create(&self) -> T {
        T::ZERO
    }

    #[inline]
    fn add(&self, to: &mut T, record: Record<'_>) -> Result<()> {
        match self.0.read(record)? {
            Some(value) => add(to, value),
            None => Ok(()),
        }
    }

    #[inline]
    fn merge(&self, into: &mut T, from: &T) -> Result<()> {
        add(into, *from)
    }

    #[inline]
    fn result(&self, of: &T) -> Result<T> {
        Ok(*of)
    }
}

/// The arithmetic mean of a column, not a number (`NaN`) if it has no value.
pub struct Mean(Input<f64>);

impl Aggregate for Mean {
    type Accumulator = (f64, u64);
    type Result = f64;

    #[inline]
    fn create(&self) -> (f64, u64) {
        (0.0, 0)
    }

    #[inline]
    fn add(&self, to: &mut (f64, u64), record: Record<'_>) -> Result<()> {
        if let Some(value) = self.0.read(record)? {
            to.0 += value;
            to.1 += 1;
        }
        Ok(())
    }

    #[inline]
    fn merge(&self, into: &mut (f64, u64), from: &(f64, u64)) -> Result<()> {
        into.0 += from.0;
        into.1 += from.1;
        Ok(())
    }

    #[inline]
    fn result(&self, of: &(f64, u64)) -> Result<f64> {
        Ok(of.0 / of.1 as f64)
    }
}

macro_rules! extremes {
    ($(#[$about:meta] $name:ident, $better:tt;)*) => {$(
        #[$about]
        /// `None` if it has no value.
        pub struct $name<T = f64>(Input<T>);

        impl<T: FromField + Codec + PartialOrd + Clone> Aggregate for $name<T> {
            type Accumulator = Option<T>;
            type Result = Option<T>;

            #[inline]
            fn create(&self) -> Option<T> {
                None
            }

            #[inline]
            fn add(&self, to: &mut Option<T>, record: Record<'_>) -> Result<()> {
                if let Some(value) = self.0.read(record)? {
                    // What is not a number is no value: what it is compared with would decide.
                    let comparable = value.partial_cmp(&value).is_some();
                    if comparable && to.as_ref().is_none_or(|held| value $better *held) {
                        *to = Some(value);
                    }
                }
                Ok(())
            }

            #[inline]
            fn merge(&self, into: &mut Option<T>, from: &Option<T>) -> Result<()> {
                if let Some(value) = from
                    && into.as_ref().is_none_or(|held| value $better held)
                {
                    *into = Some(value.clone());
                }
                Ok(())
            }

            #[inline]
            fn result(&self, of: &Option<T>) -> Result<Option<T>> {
                Ok(of.clone())
            }
        }
    )*};
}
extremes! {
    /// The smallest value of a column: `Min::<i64>::of(column)`, of `f64` unless said otherwise.
    Min, <;
    /// The largest value of a column: `Max::<i64>::of(column)`, of `f64` unless said otherwise.
    Max, >;
}

of_column! {
    Sum [T] Sum<T>;
    Mean [] Mean;
    Min [T] Min<T>;
    Max [T] Max<T>;
}
