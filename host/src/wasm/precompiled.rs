//! The one place with `unsafe`: turning stored machine code back into a component.
//!
//! Wasmtime runs what it is given here without checking it, so whoever can change those bytes can
//! run anything in our process. Therefore [`deserialize`] takes an [`Authentic`], and the only way to
//! one is [`Secret::open`], which checks a keyed hash over the very bytes that are then used. They
//! are read into memory once: a file that changes afterwards changes nothing.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use wasmtime::Engine;
use wasmtime::component::Component;

/// The key of the hash, known only to this user.
pub(super) struct Secret([u8; Secret::LEN]);

/// Machine code that this user's host has written and nobody has changed.
pub(super) struct Authentic<'a>(&'a [u8]);

impl Secret {
    /// Bytes of a secret.
    pub(super) const LEN: usize = 32;
    /// Bytes that a seal adds.
    pub(super) const SEAL_LEN: usize = 32;

    pub(super) fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The seal for `code` under `name`: the same code under another name has another seal.
    pub(super) fn seal(&self, name: &[u8], code: &[u8]) -> [u8; Self::SEAL_LEN] {
        self.mac(name, code).finalize().into_bytes().into()
    }

    /// Takes code whose seal is right.
    pub(super) fn open<'a>(&self, name: &[u8], sealed: &'a [u8]) -> Option<Authentic<'a>> {
        let (seal, code) = sealed.split_at_checked(Self::SEAL_LEN)?;
        self.mac(name, code).verify_slice(seal).ok()?;
        Some(Authentic(code))
    }

    fn mac(&self, name: &[u8], code: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length will do");
        mac.chain_update((name.len() as u64).to_le_bytes())
            .chain_update(name)
            .chain_update(code)
    }
}

/// A component from code that [`Component::serialize`] gave.
///
/// # Errors
/// The code is for another engine, version or machine.
#[expect(
    unsafe_code,
    reason = "wasmtime cannot check machine code; see the argument below"
)]
pub(super) fn deserialize(engine: &Engine, code: &Authentic<'_>) -> wasmtime::Result<Component> {
    // SAFETY: `Component::deserialize` asks for bytes that came from `Component::serialize` and were
    // not modified. An `Authentic` exists only behind a matching HMAC-SHA-256 under a key that only
    // this user's hosts can read, and they seal nothing but the output of `Component::serialize`
    // (`Cache::store`). The slice is immutable memory of ours, so what was checked is what is used.
    // Code of another Wasmtime version or configuration is recognised and refused by Wasmtime itself.
    unsafe { Component::deserialize(engine, code.0) }
}
