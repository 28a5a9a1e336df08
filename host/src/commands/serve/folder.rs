//! A directory with job files, looked at again and again.
//!
//! It is polled, because that works on every file system, shared and mounted ones too, and however a file comes: written
//! in place, renamed into it, or behind a link that is turned (as Kubernetes does). A change counts when two looks in a
//! row find the same, so that no file is read while it is being written.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use operator::text::line;

use crate::events::Audience;

/// Larger files are no job files.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// How many job files a directory may have.
const FILES_MAX: usize = 1000;

/// What has become of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    New,
    Changed,
    Gone,
}

/// A directory that is looked at.
pub(super) struct Folder {
    path: PathBuf,
    /// What counts of each file.
    known: BTreeMap<PathBuf, u64>,
    /// What the last look has found.
    last: BTreeMap<PathBuf, u64>,
    /// What was said of it last, so that it is said once.
    trouble: Option<String>,
    /// Makes a number of what is in a file.
    hasher: RandomState,
}

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            known: BTreeMap::new(),
            last: BTreeMap::new(),
            trouble: None,
            hasher: RandomState::new(),
        }
    }

    /// Looks, and tells what has changed. A directory that cannot be read changes nothing: jobs go on.
    pub(super) fn changes(&mut self, audience: Audience) -> Vec<(PathBuf, Content)> {
        match self.look() {
            Ok(found) => {
                self.trouble = None;
                self.compare(found)
            }
            Err(trouble) => {
                if self.trouble.as_ref() != Some(&trouble) {
                    let path = self.path.display().to_string();
                    audience.say(&format!("warning: {}: {}", line(&path), line(&trouble)));
                    self.trouble = Some(trouble);
                }
                Vec::new()
            }
        }
    }

    fn look(&self) -> Result<BTreeMap<PathBuf, u64>, String> {
        let entries = fs::read_dir(&self.path).map_err(|error| error.to_string())?;
        let mut found = BTreeMap::new();
        for entry in entries {
            let path = entry.map_err(|error| error.to_string())?.path();
            let is_hidden = path
                .file_name()
                .is_none_or(|name| name.to_string_lossy().starts_with('.'));
            if is_hidden || path.extension().is_none_or(|it| it != "toml") {
                continue;
            }
            // A link is followed: that is how mounted configuration comes.
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
                continue;
            }
            let Ok(content) = fs::read(&path) else {
                return Err(format!("{} cannot be read", path.display()));
            };
            found.insert(path, self.hasher.hash_one(&content));
            if found.len() > FILES_MAX {
                return Err(format!("more than {FILES_MAX} job files"));
            }
        }
        Ok(found)
    }

    fn compare(&mut self, found: BTreeMap<PathBuf, u64>) -> Vec<(PathBuf, Content)> {
        let mut changes = Vec::new();
        for (path, content) in &found {
            if self.last.get(path) != Some(content) {
                continue;
            }
            match self.known.insert(path.clone(), *content) {
                None => changes.push((path.clone(), Content::New)),
                Some(before) if before != *content => {
                    changes.push((path.clone(), Content::Changed));
                }
                Some(_) => {}
            }
        }
        let is_gone = |path: &PathBuf| !found.contains_key(path) && !self.last.contains_key(path);
        let gone: Vec<PathBuf> = self
            .known
            .keys()
            .filter(|path| is_gone(path))
            .cloned()
            .collect();
        for path in gone {
            self.known.remove(&path);
            changes.push((path, Content::Gone));
        }
        self.last = found;
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(folder: &mut Folder) -> Vec<(String, Content)> {
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let changes = folder.changes(Audience::Program).into_iter();
        changes
            .map(|(path, content)| (name(path), content))
            .collect()
    }

    #[test]
    fn a_change_counts_when_two_looks_find_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let mut folder = Folder::new(directory.path());
        write("a.toml", "1");
        write("b.txt", "1");
        write(".c.toml", "1");
        assert_eq!(look(&mut folder), []);
        assert_eq!(look(&mut folder), [("a.toml".to_owned(), Content::New)]);
        assert_eq!(look(&mut folder), []);
        // Still being written.
        write("a.toml", "12");
        assert_eq!(look(&mut folder), []);
        write("a.toml", "123");
        assert_eq!(look(&mut folder), []);
        assert_eq!(look(&mut folder), [("a.toml".to_owned(), Content::Changed)]);
        fs::remove_file(directory.path().join("a.toml")).unwrap();
        assert_eq!(look(&mut folder), []);
        assert_eq!(look(&mut folder), [("a.toml".to_owned(), Content::Gone)]);
        // Replaced within one look: it has changed, and is not gone.
        write("a.toml", "1");
        look(&mut folder);
        look(&mut folder);
        write("a.toml", "2");
        assert_eq!(look(&mut folder), []);
        assert_eq!(look(&mut folder), [("a.toml".to_owned(), Content::Changed)]);
        // The directory cannot be read for a while: nothing changes.
        let away = directory.path().with_extension("away");
        fs::rename(directory.path(), &away).unwrap();
        assert_eq!(look(&mut folder), []);
        assert_eq!(look(&mut folder), []);
        fs::rename(&away, directory.path()).unwrap();
        assert_eq!(look(&mut folder), []);
    }
}
