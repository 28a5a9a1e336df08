//! The functions that the host gives: the imported ones in a component, a stand-in in memory where an
//! operator is run natively. Both are a `Host` with the same methods, chosen by the target, so that a
//! component imports only what its operator uses.

#[cfg(target_family = "wasm")]
mod imports;
#[cfg(not(target_family = "wasm"))]
mod memory;

#[cfg(target_family = "wasm")]
pub(crate) use imports::Host;
#[cfg(not(target_family = "wasm"))]
pub(crate) use memory::{Held, Host};
