//! Paths of the file system, to be compared.

use std::path::{Component, Path, PathBuf};

/// The path as an absolute one over no link, as far as it exists. What does not exist is taken as it is written.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                resolved.pop();
            }
            other => {
                resolved.push(other);
                resolved = resolved.canonicalize().unwrap_or(resolved);
            }
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_exists_is_looked_up_and_the_rest_appended() {
        let directory = TempDir::new().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("link")).unwrap();
        assert_eq!(resolved(&root.join("link")), root.join("real"));
        assert_eq!(resolved(&root.join("link/./out/")), root.join("real/out"));
        assert_eq!(
            resolved(&root.join("real/../link/new")),
            root.join("real/new")
        );
        assert_eq!(resolved(&root.join("new/one")), root.join("new/one"));
        assert_eq!(resolved(&root.join("new/../other/")), root.join("other"));
        assert_eq!(resolved(&root.join("new/../link/x")), root.join("real/x"));
    }
}
