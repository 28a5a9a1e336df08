//! What a job is made of, for the code that runs it: [`Source`], [`Operator`] and [`Sink`], what a call of an
//! operator may touch, and [`OperatorInstance`], one operator with its state.
//!
//! This crate answers: what is asked of a part of a job, and what is promised to it. Who asks and when is
//! the business of `runtime`, or of another engine that runs operators.
//!
//! Modules in reading order.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_macros,
        clippy::too_many_lines,
        reason = "tests wait, print and measure"
    )
)]

mod context;
pub mod source;
mod operator;
pub mod output;
pub mod sink;
mod instance;
mod blame;
pub mod isolation;
pub mod capsule;
mod error;
pub mod clock;
pub mod text;

pub use blame::{Position, shorten};
pub use context::{JobIdentity, SubtaskContext};
pub use error::{BoxError, Permanent};
pub use instance::{OperatorInstance, TIMERS_MAX, Unprocessed};
pub use operator::{Attention, Call, Failure, FailureKind, Operator, OperatorFactory, Usage};
pub use output::Output;
pub use sink::{Delivery, Origin, Published, Sink, SinkFactory, Withdrawn};
pub use source::{InputChanged, Source, SourceFactory, SourceStatus};
