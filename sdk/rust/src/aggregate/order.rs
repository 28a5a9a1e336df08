//! The first and the last value of a column.

use super::{Aggregate, Input, of_column};
use crate::call::NO_TIMESTAMP;
use crate::codec::Codec;
use crate::error::Result;
use crate::fields::FromField;
use crate::record::Record;

/// The value of a column in the record with the lowest event time, or the one that arrived first of several such;
/// a text unless said otherwise. `None` if there is no value.
pub struct First<T = String>(Input<T>);

/// The value of a column in the record with the highest event time, or the one that arrived last of several such;
/// a text unless said otherwise. `None` if there is no value.
pub struct Last<T = String>(Input<T>);

macro_rules! by_time {
    ($($name:ident, $better:tt;)*) => {$(
        impl<T: FromField + Codec + Clone> Aggregate for $name<T> {
            type Accumulator = Option<(i64, T)>;
            type Result = Option<T>;

            #[inline]
            fn create(&self) -> Self::Accumulator {
                None
            }

            #[inline]
            fn add(&self, to: &mut Self::Accumulator, record: Record<'_>) -> Result<()> {
                let time = record.timestamp().unwrap_or(NO_TIMESTAMP);
                if to.as_ref().is_none_or(|held| time $better held.0)
                    && let Some(value) = self.0.read(record)?
                {
                    *to = Some((time, value));
                }
                Ok(())
            }

            #[inline]
            fn merge(&self, into: &mut Self::Accumulator, from: &Self::Accumulator) -> Result<()> {
                if let Some(value) = from
                    && into.as_ref().is_none_or(|held| value.0 $better held.0)
                {
                    *into = Some(value.clone());
                }
                Ok(())
            }

            #[inline]
            fn result(&self, of: &Self::Accumulator) -> Result<Option<T>> {
                Ok(of.as_ref().map(|held| held.1.clone()))
            }
        }
    )*};
}
by_time! {
    First, <;
    Last, >=;
}

of_column! {
    First [T] First<T>;
    Last [T] Last<T>;
}
