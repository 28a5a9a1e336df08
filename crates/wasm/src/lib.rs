//! Hosting guests: everything between a `.wasm` file and the runtime's trait `Operator`.
//!
//! A [`Host`] is made once per process, loads components and checks them against the world in
//! `wit/operator.wit` (0.2) or `wit/0.1/operator.wit`; what differs between the two is in `world`, `wire::v01`
//! and where imports are linked. A [`Component`] describes itself for a configuration and makes the factory
//! that the runtime asks for instances. One subtask has one instance (a [`wasmtime::Store`]); state
//! stays with the runtime, so an instance that trapped is dropped and made again at the next call.
//!
//! What a guest may import, and what it finds there without a grant:
//!
//! | import | without a grant | grant |
//! |---|---|---|
//! | `highwater:operator/*@0.1.x`, `@0.2.x` | always there | |
//! | `wasi:io/*`, `wasi:cli/*` | stdout and stderr go to the operator's log; stdin is at its end; no arguments; no environment | `env` |
//! | `wasi:clocks/*` | stands at the processing time of the current call; a sleep really waits, within `call-time` | `clock` |
//! | `wasi:random/*` | the same numbers in every run, seeded by operator and subtask | `random` |
//! | `wasi:filesystem/*` | no directory is open | `dirs` |
//! | `wasi:sockets/*` | no socket can be opened, no name looked up | `network`, `private-network` |
//! | anything else | refused before the start | |
//!
//! The rule: what tools import whether a program uses it or not links and finds nothing, so that no
//! build flags are needed; what is denied is logged with the grant that would allow it. Core modules of
//! the `wasm32-wasip1` kind see the same (see `adapter.rs`), but cannot be granted directories,
//! environment or network.
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

mod adapter;
mod backtrace;
mod binary;
mod budget;
mod cache;
mod call_clock;
mod compiler;
mod complaint;
mod component;
mod configuration;
mod console;
mod description;
mod descriptors;
mod engine;
mod examine;
mod file;
mod grant_error;
mod grants;
mod ambient;
mod guest;
mod imports;
mod instance;
mod limits;
mod metrics;
mod network;
mod factory;
mod phase;
mod precompiled;
mod secrets;
mod wasi;
mod wire;
mod world;

#[cfg(test)]
mod tests;

pub use compiler::{Compiler, SUBCOMMAND, child};
pub use component::Component;
pub use description::Description;
pub use engine::{Host, Options};
pub use factory::{Factory, OperatorSpec};
pub use grants::{DirGrant, Grants};
pub use limits::Limits;
pub use metrics::{Metric, MetricKind};
pub use secrets::Secret;
