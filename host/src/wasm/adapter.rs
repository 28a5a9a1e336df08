//! Core modules become components on load.
//!
//! A guest built for `wasm32-wasip1` (C, Go, Zig) is a core module; what is missing is the component
//! around it, which `wit-component` writes in milliseconds, so users need no further tool. The
//! system interface of such modules, `wasi_snapshot_preview1`, is given by an adapter of our own
//! (`adapter.wat`), because the official one traps as soon as a Go guest collects garbage.

use anyhow::Context as _;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The interface behind the adapter, which [`super::imports`] implements.
pub(super) const INTERFACE: &str = "highwater:preview1/host@0.1.0";

/// What the adapter is made from.
pub(super) const SOURCE: &str = include_str!("adapter.wat");

const WIT: &str = "
    package highwater:preview1@0.1.0;
    interface host {
        /// Writes to standard output (1) or standard error (2).
        write: func(to: u32, bytes: list<u8>);
        /// Nanoseconds, of the wall clock (0) or a monotonic one.
        now: func(clock: u32) -> u64;
        /// Eight bytes of the operator's randomness.
        random: func() -> u64;
        /// The guest wants to end.
        exit: func(status: u32);
    }
    world adapter {
        import host;
    }
";

/// Makes a component of a core module that carries its world.
///
/// # Errors
/// What the module lacks, or what it imports that is not there.
pub(super) fn componentize(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)?
        .adapter("wasi_snapshot_preview1", &adapter()?)?
        .encode()
}

fn adapter() -> anyhow::Result<Vec<u8>> {
    let mut module = wat::parse_str(SOURCE).context("assembling the adapter")?;
    let mut resolve = Resolve::default();
    let package = resolve.push_source("adapter.wit", WIT)?;
    let world = resolve.select_world(&[package], Some("adapter"))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(module)
}
