//! Compiled components, kept between runs: an interpreter in a component takes seconds to compile
//! and a millisecond to load.
//!
//! Layout of the directory: `secret` (32 bytes, readable by its owner alone) and one file per entry,
//! named by the digest of the component, the engine's version and its settings, holding a seal and
//! the machine code. What is in it was found to be an operator and within all limits when it was compiled.
//! Whatever is wrong with the directory or an entry, the answer is to compile: the cache never makes a run
//! fail. A crash leaves at most a `.pending` file, which is removed a day later.
//!
//! It is bounded. An entry's time of modification is when it was used last; after a new one was added, those
//! that were used least recently go until the rest fits. Several hosts may do so at once: each step is one
//! call of the system on a name that only the cache gives, and a host that reads an entry while another
//! removes it has read it, or compiles.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{Hash as _, Hasher};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::file::{self, ReadError};
use super::precompiled::{self, Authentic, Secret};

/// SHA-256 of a component's file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Of what is made of it by something else: another one makes something else of the same bytes.
    pub(super) fn with(self, other: &[u8]) -> Self {
        let mut hasher = Sha256::new_with_prefix(self.0);
        hasher.update(other);
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the cache is.
pub(crate) struct CacheDir;

impl CacheDir {
    /// `$HIGHWATER_CACHE_DIR` (empty: no cache), else `highwater/components` in the user's cache
    /// directory, if there is one.
    pub(crate) fn from_environment() -> Option<PathBuf> {
        if let Some(dir) = std::env::var_os("HIGHWATER_CACHE_DIR") {
            return (!dir.is_empty()).then(|| dir.into());
        }
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let caches = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
        Some(caches.join("highwater/components"))
    }
}

/// An open cache directory.
pub(super) struct Cache {
    dir: PathBuf,
    secret: Secret,
}

impl Cache {
    /// How many entries it has at most. `docs/job-file.md` has this number.
    const ENTRIES_MAX: usize = 128;
    /// How many bytes they have at most, but for one that alone has more. `docs/job-file.md` has this number.
    const BYTES_MAX: u64 = 1 << 30;
    /// How old a file is at least that a crash has left. No component takes so long to compile.
    const PENDING_MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// Opens the directory. Makes it and its secret if they do not exist.
    ///
    /// # Errors
    /// It cannot be written, or others could have written to it.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        create_private_dir(dir).context("making the directory")?;
        let secret = Self::open_secret(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            secret,
        })
    }

    /// The component's code, if the cache has it.
    pub(super) fn load(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let name = entry_name(engine, digest);
        let path = self.dir.join(&name);
        let sealed = match read_entry(&path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), "a cached component cannot be read, compiling again: {error}");
                return None;
            }
        };
        let Some(code) = self.secret.open(name.as_bytes(), &sealed) else {
            tracing::warn!(path = %path.display(), "a cached component was changed by somebody else, compiling again");
            return None;
        };
        mark_used(&path);
        precompiled::deserialize(engine, &code)
            .inspect_err(|error| tracing::debug!(path = %path.display(), "a cached component does not fit, compiling again: {error:#}"))
            .ok()
    }

    /// Keeps the component's code. That this was not possible is only logged.
    pub(super) fn store(&self, engine: &Engine, digest: Digest, code: &Authentic<'_>) {
        if let Err(error) = self.store_inner(&entry_name(engine, digest), code.code()) {
            tracing::warn!(dir = %self.dir.display(), "a compiled component could not be cached: {error:#}");
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "compared with the times of files, which are the system's"
    )]
    fn store_inner(&self, name: &str, code: &[u8]) -> anyhow::Result<()> {
        let seal = self.secret.seal(name.as_bytes(), code);
        let pending = Pending::create(&self.dir)?;
        // No fsync: what a crash leaves has no valid seal and is compiled again.
        pending.file().write_all(&seal)?;
        pending.file().write_all(code)?;
        fs::rename(pending.path(), self.dir.join(name)).context("renaming an entry")?;
        self.remove_old(name, Self::BYTES_MAX, SystemTime::now())
    }

    /// Removes the entries that were used least recently until the rest fits, but never `keep`, which was just
    /// added.
    fn remove_old(&self, keep: &str, bytes_max: u64, now: SystemTime) -> anyhow::Result<()> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            // The user names the directory, and may keep other things in it.
            let Some(ours) = name.to_str().and_then(Ours::named) else {
                continue;
            };
            // Another host may have removed it meanwhile. A link is none of ours.
            let Some(metadata) = entry.metadata().ok().filter(fs::Metadata::is_file) else {
                continue;
            };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match ours {
                Ours::Entry if name == keep => bytes += metadata.len(),
                Ours::Entry => entries.push((used, metadata.len(), entry.path())),
                // Another host may be writing it.
                Ours::Pending => {
                    if now
                        .duration_since(used)
                        .is_ok_and(|age| age > Self::PENDING_MAX)
                    {
                        let _ = fs::remove_file(entry.path());
                    }
                }
            }
        }
        entries.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
        for (index, (_, len, path)) in entries.into_iter().enumerate() {
            bytes += len;
            if index + 1 >= Self::ENTRIES_MAX || bytes > bytes_max {
                // One that another host has removed is gone as well.
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// Reads the secret or makes one. Two hosts at once agree on the one that was first.
    fn open_secret(dir: &Path) -> anyhow::Result<Secret> {
        let path = dir.join("secret");
        let pending = Pending::create(dir).context("the directory cannot be written")?;
        check_owner(dir, &path, pending.file())?;
        if !path.exists() {
            pending.file().write_all(&Secret::random()?.bytes())?;
            pending.file().sync_all()?;
            // Appears whole or not at all, and never replaces another.
            match fs::hard_link(pending.path(), &path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).context("keeping the secret");
                }
                _ => {}
            }
        }
        let mut secret = Vec::new();
        let mut file = file::open(&path).context("opening the secret")?;
        check_secret(&file, pending.file())?;
        (&mut file)
            .take(1 + Secret::LEN as u64)
            .read_to_end(&mut secret)
            .context("reading the secret")?;
        let Ok(secret) = secret.try_into() else {
            bail!(
                "{} is not a secret of {} bytes",
                path.display(),
                Secret::LEN
            )
        };
        Ok(Secret::new(secret))
    }
}

/// The content of an entry, if it is a file of no more than one can have.
fn read_entry(path: &Path) -> io::Result<Vec<u8>> {
    file::read_at_most(path, Cache::BYTES_MAX).map_err(|error| match error {
        ReadError::Io(error) => error,
        error => io::Error::other(error),
    })
}

/// Notes that an entry was used. One that another host has removed meanwhile was used for the last time.
#[expect(
    clippy::disallowed_methods,
    reason = "written as the time of a file, which is the system's"
)]
fn mark_used(path: &Path) {
    let marked = file::open(path).and_then(|entry| entry.set_modified(SystemTime::now()));
    if let Err(error) = marked {
        tracing::debug!(path = %path.display(), "the use of a cached component cannot be noted: {error}");
    }
}

/// A new file that goes away unless it was renamed.
struct Pending {
    path: PathBuf,
    file: File,
}

impl Pending {
    fn create(dir: &Path) -> anyhow::Result<Self> {
        let mut name = [0; 8];
        getrandom::fill(&mut name)
            .map_err(|error| anyhow::anyhow!("no randomness for a file name: {error}"))?;
        let path = dir.join(format!("{:016x}.pending", u64::from_le_bytes(name)));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        Ok(Self { path, file })
    }

    fn file(&self) -> &File {
        &self.file
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Goes up when more is refused before a component is compiled, so that what was compiled before is looked at
/// once more.
const EXAMINATION: u32 = 1;

/// What a file is that has a name of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ours {
    /// Machine code.
    Entry,
    /// What becomes an entry.
    Pending,
}

impl Ours {
    /// What a name is for, if it is one that the cache gives.
    fn named(name: &str) -> Option<Self> {
        let is_hex = |text: &str, len: usize| {
            let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            text.len() == len && text.bytes().all(digit)
        };
        match name.split_once('.') {
            Some((digest, "cwasm")) if is_hex(digest, 64) => Some(Self::Entry),
            Some((number, "pending")) if is_hex(number, 16) => Some(Self::Pending),
            _ => None,
        }
    }
}

/// The name of an entry: code fits one component, one Wasmtime and one configuration only.
fn entry_name(engine: &Engine, digest: Digest) -> String {
    struct Sha256Hasher(Sha256);
    impl Hasher for Sha256Hasher {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let digest: [u8; 32] = self.0.clone().finalize().into();
            u64::from_le_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
        }
    }
    let mut hasher = Sha256Hasher(Sha256::new_with_prefix(digest.0));
    EXAMINATION.hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{}.cwasm", Digest(hasher.0.finalize().into()))
}

fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Checks that nobody else can have put a secret or entries there. `ours` is a file that was just
/// made, so its owner is who we are.
#[cfg(unix)]
fn check_owner(dir: &Path, secret: &Path, ours: &File) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(dir)?;
    ensure!(
        metadata.uid() == ours.metadata()?.uid(),
        "the directory belongs to another user"
    );
    ensure!(
        metadata.mode() & 0o022 == 0,
        "other users can write to the directory (its mode should be 0700)"
    );
    let is_link =
        fs::symlink_metadata(secret).is_ok_and(|metadata| metadata.file_type().is_symlink());
    ensure!(!is_link, "the secret is a symbolic link");
    Ok(())
}

/// Checks that the secret is ours alone.
#[cfg(unix)]
fn check_secret(secret: &File, ours: &File) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = secret.metadata()?;
    ensure!(metadata.is_file(), "the secret is not a file");
    ensure!(
        metadata.uid() == ours.metadata()?.uid(),
        "the secret belongs to another user"
    );
    ensure!(
        metadata.mode() & 0o077 == 0,
        "other users can read the secret (its mode should be 0600)"
    );
    Ok(())
}

#[cfg(not(unix))]
fn check_owner(_dir: &Path, _secret: &Path, _ours: &File) -> anyhow::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn check_secret(_secret: &File, _ours: &File) -> anyhow::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
