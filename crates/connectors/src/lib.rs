//! For whom: jobs whose records come from somewhere and go somewhere. Sources and sinks by name.
//!
//! This crate answers: what `connector = "…"` means, which keys it takes, where its source begins and
//! goes on after a failure, and how its sink makes output appear once.
//!
//! Modules in reading order: what connectors share, then the sources, then the sinks, then what there is.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_macros,
        clippy::too_many_lines,
        reason = "tests wait, print and measure"
    )
)]

mod connector;
mod changed;
mod paths;
mod text_options;
mod event_time;

mod file_source;
mod generator;
mod stdin;

mod discard;
pub mod file_sink;
mod stdout;

pub mod parts;
mod registry;

pub use connector::{
    Clock, PreparedSink, PreparedSource, Selects, SinkConnector, SinkContext, SourceConnector,
    SourceContext, read_and_prepare,
};
pub use registry::Registry;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
