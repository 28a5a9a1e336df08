//! Core modules become components on load.
//!
//! A guest built for `wasm32-wasip1` (C, Go, Zig) is a core module; what is missing is the component
//! around it, which `wit-component` writes in milliseconds, so users need no further tool. A module that
//! does not say which world it is for (Go's do not) gets the one whose version it exports.
//!
//! The system interface of such modules, `wasi_snapshot_preview1`, is given by an adapter of our own
//! (`adapter.wat`), because the official one traps as soon as a Go guest collects garbage: its collector
//! may run while the host puts a list into the guest's memory, and calls of the host are forbidden then. So
//! the clock, which the collector reads, has to be in the guest. The host sets it before each call.

use std::borrow::Cow;

use anyhow::Context as _;
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::binary::{Core, GUEST_EXPORTS};
use super::world::WorldVersion;

/// The interface that the adapter imports, which [`super::imports`] implements.
pub(super) const INTERFACE: &str = "highwater:preview1/host@0.1.0";
/// The interface that the adapter exports, in components made of a module that reads a clock.
pub(super) const CLOCK: &str = "highwater:preview1/clock@0.1.0";
/// Its function. Takes the wall clock and the monotonic one in nanoseconds.
pub(super) const SET_CLOCK: &str = "set";

/// What the adapter is made from.
const SOURCE: &str = include_str!("adapter.wat");

/// The world of a version, for modules that do not say theirs.
fn operator(version: WorldVersion) -> &'static str {
    match version {
        WorldVersion::V01 => include_str!("../../../wit/0.1/operator.wit"),
        WorldVersion::V02 => include_str!("../../../wit/operator.wit"),
    }
}

const WIT: &str = "
    package highwater:preview1@0.1.0;
    interface host {
        /// Writes to standard output (1) or standard error (2).
        write: func(to: u32, bytes: list<u8>);
        /// Nanoseconds, of the wall clock (0) or a monotonic one. Asked while no call has set them.
        now: func(clock: u32) -> u64;
        /// Eight bytes of the operator's randomness.
        random: func() -> u64;
        /// The guest wants to end.
        exit: func(status: u32);
    }
    interface clock {
        /// What the clocks show during the call that follows, in nanoseconds.
        set: func(wall: u64, monotonic: u64);
    }
    world adapter {
        import host;
    }
    world adapter-with-clock {
        import host;
        export clock;
    }
";

/// Everything besides a module that decides which component becomes of it.
pub(super) fn digested() -> Vec<u8> {
    let worlds = WorldVersion::ALL.map(operator).concat();
    [SOURCE, WIT, &worlds].concat().into_bytes()
}

/// Makes a component of a core module.
///
/// # Errors
/// What the module lacks, or what it imports that the host does not have.
pub(super) fn componentize(module: &[u8], core: Core) -> anyhow::Result<Vec<u8>> {
    let mut module = Cow::Borrowed(module);
    if core == Core::Exporting {
        let wit = operator(exported_version(&module)?);
        describe(module.to_mut(), wit, "operator").context("giving it its world")?;
    }
    let world = match reads_clock(&module)? {
        true => "adapter-with-clock",
        false => "adapter",
    };
    let mut adapter = wat::parse_str(SOURCE).context("assembling the adapter")?;
    describe(&mut adapter, WIT, world).context("giving the adapter its world")?;
    ComponentEncoder::default()
        .validate(true)
        .module(&module)?
        .adapter(PREVIEW1, &adapter)?
        .encode()
}

/// The module that such modules import.
const PREVIEW1: &str = "wasi_snapshot_preview1";

/// Adds the section that says which world a module is for.
fn describe(module: &mut Vec<u8>, wit: &str, world: &str) -> anyhow::Result<()> {
    let mut resolve = Resolve::default();
    let package = resolve.push_source("world.wit", wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)
}

/// The version of the interface `guest` that a module exports; the newest if it is none that the host has, which
/// is then found to be missing.
fn exported_version(module: &[u8]) -> anyhow::Result<WorldVersion> {
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ExportSection(section) = payload? {
            for export in section {
                let name = export?.name;
                let version = name
                    .strip_prefix(GUEST_EXPORTS)
                    .and_then(|rest| rest.split_once('#'))
                    .and_then(|(version, _)| WorldVersion::of(version));
                if let Some(version) = version {
                    return Ok(version);
                }
            }
        }
    }
    Ok(WorldVersion::V02)
}

/// Whether a module reads a clock. Others are spared the call that sets it.
fn reads_clock(module: &[u8]) -> anyhow::Result<bool> {
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ImportSection(section) = payload? {
            for import in section.into_imports() {
                let import = import?;
                if (import.module, import.name) == (PREVIEW1, "clock_time_get") {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}
