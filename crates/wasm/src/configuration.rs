//! How Wasmtime is set up, where code is compiled and where it runs.

use wasmtime::{Config, Engine, WasmBacktraceDetails};

use super::limits::STACK_BYTES;

/// Whether code has points at which it can be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    /// It has, and its calls have a time limit.
    Epochs,
    /// It has none: the operator is trusted.
    None,
}

/// An engine, to compile for or to run on: code of one runs on another of the same kind, in another process
/// too.
pub(super) fn engine(interruption: Interruption) -> anyhow::Result<Engine> {
    let mut config = Config::new();
    // Debug information is a program for those who read it: it can nest until a reader's stack overflows,
    // and name so much for one place that the names fill the memory. Names of functions suffice.
    let details = match interruption {
        Interruption::Epochs => WasmBacktraceDetails::Disable,
        Interruption::None => WasmBacktraceDetails::Enable,
    };
    config
        // Calls cost a quarter without it, and nothing here is concurrent within a store.
        .concurrency_support(false)
        .epoch_interruption(interruption == Interruption::Epochs)
        .wasm_backtrace_details(details)
        .max_wasm_stack(1 << 20)
        // Room for host functions on top of the guest's own stack.
        .async_stack_size(STACK_BYTES);
    Ok(Engine::new(&config)?)
}
