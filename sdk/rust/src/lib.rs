//! The SDK for operators in Rust: what a component that Highwater runs is written with.
//!
//! Implement [`Operator`], keep what must survive in [`ValueState`], [`MapState`] or [`ListState`],
//! emit through the [`Emitter`], and [`export!`] the type. [`Timers`] call it again at a time, and
//! [`Window`]s are ready made. Build it with `cargo build --release --target wasm32-wasip2`.
//! [`testing::Harness`] runs the same code natively under `cargo test`. The guide is `docs/operators.md`.
//!
//! ```
//! use highwater::testing::Harness;
//! # use highwater::{Emitter, OpenContext, Operator, Record, Result, ValueState};
//! # struct WordCount { count: ValueState<u64> }
//! # impl Operator for WordCount {
//! #     fn open(ctx: &mut OpenContext) -> Result<Self> { Ok(Self { count: ctx.value_state("count") }) }
//! #     fn process(&mut self, word: Record, out: &mut Emitter) -> Result<()> {
//! #         let n = self.count.get()?.unwrap_or(0) + 1;
//! #         self.count.set(&n)?;
//! #         out.emit(word.key(), &n)
//! #     }
//! # }
//! # fn main() -> Result<()> {
//! let mut count = Harness::<WordCount>::open()?;
//! count.process(&[("to", ""), ("be", ""), ("to", "")])?;
//! assert_eq!(count.take_rows(), ["to,1", "be,1", "to,2"]);
//! # Ok(()) }
//! ```
//!
//! Nothing here happens per record that can happen per batch: state is loaded and stored in bulk,
//! output leaves in columns, no record allocates.

pub mod aggregate;
pub mod codec;
pub mod emitter;
pub mod error;
pub mod fields;
pub mod log;
pub mod metrics;
pub mod open;
pub mod operator;
pub mod record;
pub mod row;
pub mod state;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
pub mod text;
pub mod timer;
pub mod ttl;
pub mod window;

#[doc(hidden)]
pub mod export;

mod bytes;
mod call;
mod cells;
mod host;
mod index;
mod instance;

#[doc(hidden)]
#[rustfmt::skip]
#[allow(
    unsafe_code,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod bindings;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod guest;

pub use aggregate::{Aggregate, Collect, Count, First, Last, Max, Mean, Min, Sum};
#[cfg(feature = "serde")]
pub use codec::Json;
pub use codec::{Codec, MapKey};
pub use emitter::Emitter;
pub use error::{Error, ErrorKind, Result};
pub use fields::{FieldRef, Fields, FromField};
pub use open::{Clock, Kind, OpenContext};
pub use operator::Operator;
pub use record::{Batch, Column, CurrentKey, Input, Key, Record};
pub use row::{Row, RowWriter};
pub use state::{
    AggregatingState, BroadcastState, ListState, MapState, OperatorList, ReducingState, ValueState,
};
pub use timer::{Fired, TimeDomain, Timer, Timers};
pub use ttl::Ttl;
pub use window::{
    Cumulative, Every, Global, Session, Sliding, Span, Tumbling, Window, WindowOperator,
};
