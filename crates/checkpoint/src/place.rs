//! From what a user writes for a directory to a path: plain paths and URLs.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use url::Url;

use crate::storage::{FileStorage, Storage};
use crate::{Error, Result};

/// URL schemes that have a storage in some build of this program.
const REMOTE_SCHEMES: [&str; 12] = [
    "s3", "s3a", "s3n", "gs", "gcs", "az", "azure", "adl", "abfs", "abfss", "wasb", "wasbs",
];

/// The absolute path that a path or `file:` URL means. `what` is named in messages.
pub(crate) fn path(spec: &str, what: &str) -> Result<PathBuf> {
    let refuse = |why: String| Error::Incompatible(format!("{what} `{spec}` {why}"));
    if spec.trim().is_empty() {
        return Err(Error::Incompatible(format!("{what} is empty")));
    }
    let Some(scheme) = scheme(spec) else {
        return std::path::absolute(spec).map_err(|error| refuse(format!("is no path: {error}")));
    };
    if REMOTE_SCHEMES.contains(&scheme.as_str()) {
        return Err(refuse(format!(
            "is in `{scheme}` storage, which is not built into this version yet"
        )));
    }
    if scheme != "file" {
        return Err(refuse(format!(
            "has the unknown scheme `{scheme}` (a path or a file:// URL is expected)"
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

/// The scheme of a URL. A single letter is a drive, and a colon behind a slash is part of a name.
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

/// The directory of all jobs' checkpoints, made if need be.
pub(crate) fn create_root(dir: &str) -> Result<FileStorage> {
    let path = path(dir, "checkpoint directory")?;
    refuse_file_system_root(dir, &path)?;
    let storage = FileStorage::create(&path)?;
    // Again, for links are followed now that it exists.
    let real = path.canonicalize().unwrap_or(path);
    refuse_file_system_root(dir, &real)?;
    Ok(storage)
}

fn refuse_file_system_root(dir: &str, path: &Path) -> Result<()> {
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
            "checkpoint directory `{dir}` is the root of the file system, name a directory in it"
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
    let root = root.ok_or_else(|| unusable("is no directory"))?;
    let relative = real
        .strip_prefix(root)
        .map_err(|_| unusable("is no directory"))?;
    let parts: Option<Vec<&str>> = relative.iter().map(std::ffi::OsStr::to_str).collect();
    let parts = parts.ok_or_else(|| unusable("has a name that is not Unicode"))?;
    Ok((Arc::new(FileStorage::open(root)?), parts.join("/")))
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
    fn what_is_not_reachable_says_why() {
        assert_eq!(refused(" "), "directory is empty");
        assert_eq!(
            refused("s3://bucket/x"),
            "directory `s3://bucket/x` is in `s3` storage, which is not built into this version yet"
        );
        assert!(refused("ftp://x/y").contains("unknown scheme `ftp`"));
        assert!(refused("file://host/x").contains("not a path on this machine"));
        assert!(refused("file:///x#1").contains("%23"));
    }

    #[test]
    fn the_root_of_the_file_system_is_refused() {
        for dir in ["/", "file:///", "///", "/x/.."] {
            let error = create_root(dir).unwrap_err().to_string();
            assert!(error.contains("root of the file system"), "{dir}: {error}");
        }
    }
}
