//! Folding many records into one result: what windows and [`AggregatingState`](crate::AggregatingState) do with them.
//!
//! An [`Aggregate`] keeps an accumulator, which is state: so it is small, and two of them can be merged. Ready-made
//! ones read a column of the record's row; tuples of aggregates are aggregates.

mod collect;
mod column;
mod order;

pub use collect::{Collect, Collected};
pub use column::{Max, Mean, Min, Number, Sum};
pub use order::{First, Last};

use std::marker::PhantomData;

use crate::codec::{Codec, Varint};
use crate::error::Result;
use crate::fields::FromField;
use crate::record::{Column, Record};

/// Folds records into a result.
///
/// `merge` joins two accumulators, of which `from` holds records that `into` does not: windows that overlap
/// share what they have in common, and sessions grow together.
///
/// ```
/// use highwater::{Aggregate, Record, Result};
///
/// /// The longest value, by bytes.
/// struct Longest;
///
/// impl Aggregate for Longest {
///     type Accumulator = String;
///     type Result = String;
///
///     fn create(&self) -> String {
///         String::new()
///     }
///
///     fn add(&self, to: &mut String, record: Record) -> Result<()> {
///         let text = record.text()?;
///         if text.len() > to.len() {
///             *to = text.into_owned();
///         }
///         Ok(())
///     }
///
///     fn merge(&self, into: &mut String, from: &String) -> Result<()> {
///         if from.len() > into.len() {
///             into.clone_from(from);
///         }
///         Ok(())
///     }
///
///     fn result(&self, of: &String) -> Result<String> {
///         Ok(of.clone())
///     }
/// }
/// ```
pub trait Aggregate: 'static {
    /// What is kept while records come.
    type Accumulator: Codec;
    /// What comes out.
    type Result;

    /// The accumulator of no records.
    fn create(&self) -> Self::Accumulator;

    /// Adds a record.
    fn add(&self, to: &mut Self::Accumulator, record: Record<'_>) -> Result<()>;

    /// Adds the records of another accumulator.
    fn merge(&self, into: &mut Self::Accumulator, from: &Self::Accumulator) -> Result<()>;

    /// The result of what was added so far.
    fn result(&self, of: &Self::Accumulator) -> Result<Self::Result>;

    /// Names the encoding of the accumulator; see [`Codec::schema`]. An aggregate whose accumulator means something
    /// else under another configuration says so here: then state written under the other one is refused.
    fn schema(&self) -> String {
        Self::Accumulator::schema()
    }
}

/// How many records there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count;

impl Aggregate for Count {
    type Accumulator = Varint;
    type Result = u64;

    #[inline]
    fn create(&self) -> Varint {
        Varint(0)
    }

    #[inline]
    fn add(&self, to: &mut Varint, _record: Record<'_>) -> Result<()> {
        to.0 += 1;
        Ok(())
    }

    #[inline]
    fn merge(&self, into: &mut Varint, from: &Varint) -> Result<()> {
        into.0 += from.0;
        Ok(())
    }

    #[inline]
    fn result(&self, of: &Varint) -> Result<u64> {
        Ok(of.0)
    }
}

/// A column that is read as a `T`. An empty field is no value, and neither is one that says `missing`.
struct Input<T> {
    column: Column,
    missing: Option<String>,
    kind: PhantomData<fn() -> T>,
}

impl<T: FromField> Input<T> {
    fn of(column: Column) -> Self {
        Self {
            column,
            missing: None,
            kind: PhantomData,
        }
    }

    #[inline]
    fn read(&self, record: Record<'_>) -> Result<Option<T>> {
        let field = record.get(self.column)?;
        let missing = self.missing.as_deref();
        if field.is_empty() || missing.is_some_and(|missing| field == missing) {
            return Ok(None);
        }
        record.parse_field(self.column, field).map(Some)
    }
}

impl<T> Clone for Input<T> {
    fn clone(&self) -> Self {
        Self {
            column: self.column,
            missing: self.missing.clone(),
            kind: PhantomData,
        }
    }
}

/// What the aggregates of a column have in common.
macro_rules! of_column {
    ($($name:ident [$($generic:ident)?] $of:ty;)*) => {$(
        impl$(<$generic: crate::fields::FromField>)? $of {
            /// Of the values in this column. An empty field is no value.
            #[must_use]
            pub fn of(column: crate::record::Column) -> Self {
                Self(super::Input::of(column))
            }

            /// A field that says `text`, like `NA`, is no value either.
            #[must_use]
            pub fn missing(mut self, text: &str) -> Self {
                self.0.missing = Some(text.to_owned());
                self
            }
        }

        impl$(<$generic>)? Clone for $of {
            fn clone(&self) -> Self {
                Self(self.0.clone())
            }
        }

        impl$(<$generic>)? std::fmt::Debug for $of {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.0.column).finish()
            }
        }
    )*};
}
use of_column;

macro_rules! tuples {
    ($(($($name:ident $index:tt)*))*) => {$(
        impl<$($name: Aggregate),*> Aggregate for ($($name,)*) {
            type Accumulator = ($($name::Accumulator,)*);
            type Result = ($($name::Result,)*);

            #[inline]
            fn create(&self) -> Self::Accumulator {
                ($(self.$index.create(),)*)
            }

            #[inline]
            fn add(&self, to: &mut Self::Accumulator, record: Record<'_>) -> Result<()> {
                $(self.$index.add(&mut to.$index, record)?;)*
                Ok(())
            }

            #[inline]
            fn merge(&self, into: &mut Self::Accumulator, from: &Self::Accumulator) -> Result<()> {
                $(self.$index.merge(&mut into.$index, &from.$index)?;)*
                Ok(())
            }

            #[inline]
            fn result(&self, of: &Self::Accumulator) -> Result<Self::Result> {
                Ok(($(self.$index.result(&of.$index)?,)*))
            }

            fn schema(&self) -> String {
                format!("({})", [$(self.$index.schema()),*].join(","))
            }
        }
    )*};
}
tuples! {
    (A 0)
    (A 0 B 1)
    (A 0 B 1 C 2)
    (A 0 B 1 C 2 D 3)
    (A 0 B 1 C 2 D 3 E 4)
    (A 0 B 1 C 2 D 3 E 4 F 5)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7)
}
