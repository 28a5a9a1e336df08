//! A `.wasm` file, loaded: what it is, whether it fits, its code.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use operator::{Failure, FailureKind};
use wasmtime::component::InstancePre;

use super::adapter;
use super::binary::{self, Core, Kind, NotWasm};
use super::cache::Digest;
use super::compiler::Refusal;
use super::engine::Host;
use super::file::{self, ReadError};
use super::grant_error::GrantError;
use super::grants::{Granted, Grants};
use super::guest::Guest;
use super::instance::Blueprint;
use super::limits::Limits;
use super::world::{self, Misfit, Surface, World};

/// An operator's component, compiled and checked. Clones share it.
#[derive(Clone)]
pub struct Component {
    path: Arc<Path>,
    digest: Digest,
    size: u64,
    world: Arc<World>,
    pre: InstancePre<Guest>,
    limits: Limits,
    /// What the core instances of an instance take of the host beside memories and tables.
    instance_bytes: u64,
    /// Whether it was made of a core module.
    is_adapted: bool,
    /// Keeps the engine's ticker alive.
    host: Host,
}

/// Why a file cannot be used as an operator.
#[derive(Debug, thiserror::Error)]
#[error("component {} cannot be used", .path.display())]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub reason: LoadErrorReason,
}

/// What is wrong with a component's file.
#[derive(Debug, thiserror::Error)]
pub enum LoadErrorReason {
    /// It is not read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is not WebAssembly, or not all of it.
    #[error(transparent)]
    NotWasm(#[from] NotWasm),
    /// A core module that can become no operator.
    #[error(
        "it is a core module, not a component, and neither has a component type nor exports a function of \
         `highwater:operator/guest`; build it with bindings for the world `operator` of wit/operator.wit"
    )]
    CoreModule,
    /// It is no operator, or compiling it goes beyond a limit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is a component for something else, or wants what the host does not have.
    #[error("{}", world::join(.0))]
    World(Vec<Misfit>),
    /// Its functions have other types than this host's.
    #[error("it does not fit this host: {0}")]
    Types(String),
}

impl Host {
    /// Loads a component (or a core module that can become one): checks it against the world and
    /// compiles it, or takes the code from the cache. `limits` hold for that, and for all its instances.
    ///
    /// # Errors
    /// Why it cannot be used as an operator. Nothing of it has run.
    pub fn load(&self, path: &Path, limits: &Limits) -> Result<Component, LoadError> {
        self.load_inner(path, limits).map_err(|reason| LoadError {
            path: path.to_owned(),
            reason,
        })
    }

    fn load_inner(&self, path: &Path, limits: &Limits) -> Result<Component, LoadErrorReason> {
        use LoadErrorReason::{CoreModule, Types, World};
        let bytes = file::read(path)?;
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let (compiled, is_adapted) = match binary::kind(&bytes)? {
            Kind::Component => (digest, false),
            Kind::Core(Core::Alien) => return Err(CoreModule),
            Kind::Core(_) => (digest.with(&adapter::digested()), true),
        };
        let compiled = self.compile(path, compiled, &bytes, limits)?;
        let target = self
            .target(limits.trusted)
            .map_err(|error| Types(chain(&error)))?;
        // Once more, of what will run.
        let surface = Surface::of(&target.engine, &compiled.component_type());
        let world = world::check(&surface).map_err(World)?;
        let pre = target
            .linker
            .instantiate_pre(&compiled)
            .map_err(|error| Types(chain(&anyhow::Error::from(error))))?;
        let component = Component {
            path: path.into(),
            digest,
            size,
            world: Arc::new(world),
            pre,
            limits: limits.clone(),
            instance_bytes: binary::instance_bytes_max(&bytes),
            is_adapted,
            host: self.clone(),
        };
        tracing::debug!(
            path = %path.display(),
            digest = component.digest(),
            size = component.size(),
            world = component.world_version(),
            imports = ?component.imports(),
            "component loaded"
        );
        Ok(component)
    }
}

/// An error and its causes in one line: the texts of other crates are not cut by levels as ours are.
fn chain(error: &anyhow::Error) -> String {
    let words = format_args!("{error:#}");
    operator::text::written(&words, super::complaint::COMPLAINT_BYTES_MAX)
}

impl Component {
    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of the file, in hexadecimal digits.
    pub fn digest(&self) -> String {
        self.digest.to_string()
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The version of the world it was built for, for example `0.2.0`.
    pub fn world_version(&self) -> &str {
        &self.world.version
    }

    /// Full names of the interfaces it imports.
    pub(crate) fn imports(&self) -> &[String] {
        &self.world.imports
    }

    /// What instances with these grants are made of.
    pub(super) fn blueprint(
        &self,
        grants: &Grants,
        resolve: impl FnOnce(&Grants) -> Result<Granted, GrantError>,
    ) -> Result<Blueprint, Failure> {
        let granted = resolve(grants)
            .map_err(|error| Failure::new(FailureKind::Config, error.to_string()))?;
        Ok(Blueprint {
            pre: self.pre.clone(),
            world: Arc::clone(&self.world),
            limits: self.limits.clone(),
            granted: Arc::new(granted),
            descriptors: self.host.descriptors().clone(),
            instance_bytes: self.instance_bytes,
            is_adapted: self.is_adapted,
        })
    }
}
