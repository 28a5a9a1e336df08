//! From what a user writes for a directory to a storage: plain paths and URLs.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::names;
use crate::storage::{FileStorage, Permissions, Remote, Scheme, Storage, environment};
use crate::{Error, Result};

/// How long looking around may take, in a storage that is reached over a network.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file or directory that a user names.
#[derive(Clone, Debug)]
pub(crate) enum Location {
    /// An absolute path.
    Path(PathBuf),
    /// A key in a bucket, and how its bucket is reached.
    Remote {
        bucket: Remote,
        storage: Arc<dyn Storage>,
        key: String,
    },
}

/// What is at a [`Location`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    File,
    Directory,
}

impl Location {
    /// The place that a path or URL means. `what` is named in messages.
    pub(crate) fn parse(spec: &str, what: &str) -> Result<Self> {
        if !is_remote(spec) {
            return Ok(Self::Path(path(spec, what)?));
        }
        let bucket = Remote::parse(spec, what)?;
        // The whole bucket, for references lead up.
        let root = bucket.root();
        Ok(Self::Remote {
            storage: root.open(PATIENCE, &environment())?,
            key: bucket.key().to_owned(),
            bucket: root,
        })
    }

    /// What is there.
    ///
    /// # Errors
    /// [`Error::Storage`] if the storage cannot be asked.
    pub(crate) fn look(&self) -> Result<Found> {
        match self {
            Self::Path(path) if path.is_file() => Ok(Found::File),
            Self::Path(path) if path.exists() => Ok(Found::Directory),
            Self::Path(_) => Ok(Found::Nothing),
            Self::Remote { storage, key, .. } => {
                if !key.is_empty() {
                    match storage.read(key, 0..0) {
                        Ok(_) => return Ok(Found::File),
                        Err(Error::NotFound(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                let listing = storage.list(key)?;
                let empty = listing.directories.is_empty() && listing.objects.is_empty();
                match empty {
                    true => Ok(Found::Nothing),
                    false => Ok(Found::Directory),
                }
            }
        }
    }

    /// The directory of the checkpoint whose metadata this file is.
    ///
    /// # Errors
    /// The name of the file is not that of metadata, in one line.
    pub(crate) fn directory_of_metadata(&self) -> std::result::Result<Self, String> {
        let directory = self
            .parent()
            .filter(|_| self.leaf() == Some(names::METADATA));
        directory.ok_or_else(|| {
            format!(
                "{self} is not checkpoint metadata (a file called {} is expected, or a directory)",
                names::METADATA
            )
        })
    }

    /// A storage that reaches this existing directory and what its checkpoints may reference, and the
    /// directory's name in it.
    pub(crate) fn open_directory(&self) -> Result<(Arc<dyn Storage>, String)> {
        match self {
            Self::Path(path) => open_directory(path),
            Self::Remote { storage, key, .. } => Ok((Arc::clone(storage), key.clone())),
        }
    }

    /// Something in this directory.
    pub(crate) fn join(&self, leaf: &str) -> Self {
        match self {
            Self::Path(path) => Self::Path(path.join(leaf)),
            Self::Remote {
                bucket,
                storage,
                key,
            } => Self::Remote {
                bucket: bucket.clone(),
                storage: Arc::clone(storage),
                key: names::join(key, leaf),
            },
        }
    }

    /// The directory that it is in, as it is written.
    pub(crate) fn parent(&self) -> Option<Self> {
        match self {
            Self::Path(path) => path.parent().map(|parent| Self::Path(parent.to_owned())),
            Self::Remote { key, .. } if key.is_empty() => None,
            Self::Remote {
                bucket,
                storage,
                key,
            } => Some(Self::Remote {
                bucket: bucket.clone(),
                storage: Arc::clone(storage),
                key: names::parent(key).to_owned(),
            }),
        }
    }

    /// The same place without links on the way, if it exists.
    pub(crate) fn real(&self) -> Option<Self> {
        match self {
            Self::Path(path) => path.canonicalize().ok().map(Self::Path),
            Self::Remote { .. } => Some(self.clone()),
        }
    }

    /// Its last component.
    pub(crate) fn leaf(&self) -> Option<&str> {
        match self {
            Self::Path(path) => path.file_name()?.to_str(),
            Self::Remote { key, .. } => Some(names::leaf(key)),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Remote { bucket, key, .. } if key.is_empty() => write!(f, "{bucket}"),
            Self::Remote { bucket, key, .. } => write!(f, "{bucket}/{key}"),
        }
    }
}

/// A path or URL as it may be shown: without a user's name and password, should it have them.
#[must_use]
pub fn shown(spec: &str) -> String {
    let Some((scheme, rest)) = spec.split_once("://") else {
        return spec.to_owned();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}{path}"),
        None => spec.to_owned(),
    }
}

/// Whether what a user names is reached over a network: in a bucket, or in HDFS.
#[must_use]
pub fn is_remote(spec: &str) -> bool {
    scheme(spec).is_some_and(|scheme| Scheme::of(&scheme).is_some())
}

/// The absolute path that a path or `file:` URL means. `what` is named in messages.
pub(crate) fn path(spec: &str, what: &str) -> Result<PathBuf> {
    let refuse = |why: String| Error::Incompatible(format!("{what} `{}` {why}", shown(spec)));
    if spec.trim().is_empty() {
        return Err(Error::Incompatible(format!("{what} is empty")));
    }
    let Some(scheme) = scheme(spec) else {
        return std::path::absolute(spec)
            .map_err(|error| refuse(format!("is not a path: {error}")));
    };
    if let Some(meant) = Scheme::meant(&scheme) {
        return Err(refuse(format!("is written {} here", meant.example())));
    }
    if scheme != "file" {
        return Err(refuse(format!(
            "has the unknown scheme `{scheme}` (a path, or a file://, s3://, az://, gs:// or hdfs:// URL is expected)"
        )));
    }
    let url = Url::parse(spec).map_err(|error| refuse(format!("is not a valid URL: {error}")))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse(
            "has a `?` or `#` in it, which a URL writes as %3F or %23".to_owned(),
        ));
    }
    url.to_file_path().map_err(|()| {
        refuse("is not a path on this machine (three slashes are expected: file:///…)".to_owned())
    })
}

/// The scheme of a URL. A single letter is a drive, and a colon after a slash is part of a name.
fn scheme(spec: &str) -> Option<String> {
    let (scheme, rest) = spec.split_once(':')?;
    let valid = scheme.len() > 1
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    // `file:/path` is how some Java programs write it; other names with a colon are just names.
    let known = rest.starts_with("//") || scheme.eq_ignore_ascii_case("file");
    (valid && known).then(|| scheme.to_ascii_lowercase())
}

/// The directory of all jobs' checkpoints, or of savepoints, made if need be; `what` is named in messages.
/// On a file system and in HDFS what is made in it has these permissions; over a network no call takes longer than
/// half of `patience`.
pub(crate) fn create_root(
    dir: &str,
    what: &str,
    patience: Duration,
    permissions: Permissions,
) -> Result<Arc<dyn Storage>> {
    if is_remote(dir) {
        return Remote::parse(dir, what)?.create(patience, &environment(), permissions);
    }
    let path = path(dir, what)?;
    refuse_file_system_root(dir, what, &path)?;
    let storage = FileStorage::create(&path, permissions)?;
    // Again, for links are followed now that it exists.
    let real = path.canonicalize().unwrap_or(path);
    refuse_file_system_root(dir, what, &real)?;
    Ok(Arc::new(storage))
}

/// As [`create_root`], to be looked at only: nothing is made, and nothing is sent yet. `None` if there is no
/// such directory.
pub(crate) fn existing_root(dir: &str, patience: Duration) -> Result<Option<Arc<dyn Storage>>> {
    if is_remote(dir) {
        let remote = Remote::parse(dir, "checkpoint directory")?;
        return Ok(Some(remote.open(patience, &environment())?));
    }
    let path = path(dir, "checkpoint directory")?;
    refuse_file_system_root(dir, "checkpoint directory", &path)?;
    match path.try_exists() {
        Ok(false) => Ok(None),
        // If it cannot be looked at, the first look says why.
        _ => Ok(Some(Arc::new(FileStorage::open(&path)?))),
    }
}

fn refuse_file_system_root(dir: &str, what: &str, path: &Path) -> Result<()> {
    let mut depth = 0_usize;
    for part in path.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth = depth.saturating_sub(1),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    if depth == 0 {
        return Err(Error::Incompatible(format!(
            "{what} `{dir}` is the root of the file system, name a directory in it"
        )));
    }
    Ok(())
}

/// A storage that reaches an existing directory and what its checkpoints may reference, and the
/// directory's name in it. Links are followed first, for references lead up from the real place.
pub(crate) fn open_directory(path: &Path) -> Result<(Arc<dyn Storage>, String)> {
    let unusable = |why: &str| Error::Incompatible(format!("{} {why}", path.display()));
    let real = path.canonicalize().map_err(|source| Error::Storage {
        action: "opening",
        object: path.display().to_string(),
        source: source.into(),
    })?;
    // References lead two directories up at most.
    let root = real.ancestors().nth(2).or(real.ancestors().last());
    let root = root.ok_or_else(|| unusable("is not a directory"))?;
    let relative = real
        .strip_prefix(root)
        .map_err(|_| unusable("is not a directory"))?;
    let parts: Option<Vec<&str>> = relative.iter().map(std::ffi::OsStr::to_str).collect();
    let parts = parts.ok_or_else(|| unusable("has a name that is not Unicode"))?;
    Ok((Arc::new(FileStorage::open(root)?), parts.join("/")))
}

/// A place as it is really called, links followed, without a slash at its end.
pub(crate) fn real(location: &str) -> String {
    let path = Path::new(location).canonicalize();
    let real = path
        .ok()
        .and_then(|path| path.to_str().map(str::to_owned))
        .unwrap_or_else(|| location.to_owned());
    real.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spec: &str) -> String {
        match path(spec, "directory") {
            Err(Error::Incompatible(message)) => message,
            other => panic!("{spec}: {other:?}"),
        }
    }

    #[test]
    fn paths_and_file_urls_mean_the_same() {
        for spec in [
            "/a/b c",
            "file:///a/b%20c",
            "file:/a/b%20c",
            "FILE:///a/b c",
            "file://localhost/a/b c",
        ] {
            assert_eq!(
                path(spec, "directory").unwrap(),
                Path::new("/a/b c"),
                "{spec}"
            );
        }
        let relative = path("a/b", "directory").unwrap();
        assert!(relative.is_absolute() && relative.ends_with("a/b"));
        assert!(path("a:b/c", "directory").unwrap().ends_with("a:b/c"));
    }

    #[test]
    fn a_password_is_not_shown() {
        for (spec, expected) in [
            ("s3://key:password@b/x@y", "s3://…@b/x@y"),
            ("gs://key@b", "gs://…@b"),
            ("s3://b/x@y", "s3://b/x@y"),
            ("/a@b", "/a@b"),
        ] {
            assert_eq!(shown(spec), expected);
        }
        assert!(!refused("ftp://key:password@b/x").contains("password"));
    }

    #[test]
    fn what_is_not_reachable_says_why() {
        assert_eq!(refused(" "), "directory is empty");
        for (spec, expected) in [
            ("s3a://bucket/x", "is written s3://bucket/directory here"),
            (
                "abfss://c@a.dfs.core.windows.net/x",
                "is written az://container/directory here",
            ),
            ("gcs://bucket/x", "is written gs://bucket/directory here"),
        ] {
            assert!(refused(spec).ends_with(expected), "{spec}");
        }
        assert!(refused("ftp://x/y").contains("unknown scheme `ftp`"));
        assert!(refused("file://host/x").contains("not a path on this machine"));
        assert!(refused("file:///x#1").contains("%23"));
    }

    #[test]
    fn the_root_of_the_file_system_is_refused() {
        for dir in ["/", "file:///", "///", "/x/.."] {
            let error = create_root(dir, "directory", PATIENCE, Permissions::Private)
                .unwrap_err()
                .to_string();
            assert!(error.contains("root of the file system"), "{dir}: {error}");
        }
    }
}
