//! The one place with `unsafe`: turning stored machine code back into a component.
//!
//! Wasmtime runs what it is given here without checking it, so a program that can change those bytes can
//! run anything in our process. Therefore [`deserialize`] takes an [`Authentic`], and the only way to
//! one is [`Secret::open`], which checks a keyed hash over the very bytes that are then used. They
//! are read into memory once: a file that changes afterwards changes nothing.
//!
//! There are two kinds of keys: the one of the cache, which only this user's hosts can read, and one for
//! each compilation, which only the process that compiles gets (see [`super::compiler`]).

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use wasmtime::Engine;
use wasmtime::component::Component;

/// The key of a hash, known only to this user's hosts.
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

    /// A new one.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(super) fn random() -> anyhow::Result<Self> {
        let mut secret = [0; Self::LEN];
        getrandom::fill(&mut secret)
            .map_err(|error| anyhow::anyhow!("no randomness for a secret: {error}"))?;
        Ok(Self(secret))
    }

    /// What it consists of, for those who may know it.
    pub(super) fn bytes(&self) -> [u8; Self::LEN] {
        self.0
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

impl Authentic<'_> {
    /// The code.
    pub(super) fn code(&self) -> &[u8] {
        self.0
    }
}

/// Machine code that was just compiled, after a seal by a secret of its own.
pub(super) struct Sealed {
    secret: Secret,
    bytes: Vec<u8>,
    /// Where the seal begins.
    at: usize,
}

impl Sealed {
    /// What such code is sealed under: it is no entry of the cache.
    const NAME: &[u8] = b"compiled";

    /// What `bytes` hold from `at` on, whatever it is.
    pub(super) fn new(secret: Secret, bytes: Vec<u8>, at: usize) -> Self {
        Self { secret, bytes, at }
    }

    /// Seals code and appends both.
    pub(super) fn append(secret: &Secret, code: &[u8], to: &mut Vec<u8>) {
        to.extend(secret.seal(Self::NAME, code));
        to.extend(code);
    }

    /// The code, if its seal is right.
    pub(super) fn open(&self) -> Option<Authentic<'_>> {
        self.secret.open(Self::NAME, self.bytes.get(self.at..)?)
    }
}

/// A component from code that [`Engine::precompile_component`] gave.
///
/// # Errors
/// The code is for another engine, version or machine.
#[expect(
    unsafe_code,
    reason = "wasmtime cannot check machine code; see the argument below"
)]
pub(super) fn deserialize(engine: &Engine, code: &Authentic<'_>) -> wasmtime::Result<Component> {
    // SAFETY: `Component::deserialize` asks for bytes that came from `Component::serialize` and were
    // not modified; `Engine::precompile_component` gives the same. An `Authentic` exists only after a
    // matching HMAC-SHA-256 under a key that only this user's hosts know, and they seal nothing but the
    // output of `precompile_component` (`compiler::answer`) and what is authentic already
    // (`Cache::store`). The slice is immutable memory of ours, so what was checked is what is used.
    // Code of another Wasmtime version or configuration is recognised and refused by Wasmtime itself.
    unsafe { Component::deserialize(engine, code.0) }
}
