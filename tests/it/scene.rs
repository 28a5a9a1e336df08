//! A directory for a test alone: job files, input, output.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::metadata::MAGIC;
use serde_json::Value;
use tempfile::TempDir;

use crate::host::Completion;

/// A directory that goes away with the test, and stays when the test fails.
pub(crate) struct Scene {
    directory: Option<TempDir>,
}

impl Scene {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            directory: Some(
                TempDir::with_prefix("highwater-test-").expect("a temporary directory"),
            ),
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory
            .as_ref()
            .expect("present until it is dropped")
            .path()
    }

    /// A place in it.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file, and the directories above it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().expect("a file has a directory"))
            .expect("directories can be made");
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }

    /// Puts a file into `input/` under `copies` names.
    pub(crate) fn input(&self, content: &[u8], copies: usize, extension: &str) {
        let first = self.write(&format!("input/0000.{extension}"), content);
        for copy in 1..copies {
            let name = self.at(&format!("input/{copy:04}.{extension}"));
            fs::hard_link(&first, &name)
                .unwrap_or_else(|error| panic!("cannot make {}: {error}", name.display()));
        }
    }

    /// Where the job `job`, whose checkpoints are in `checkpoints`, stages what it writes to `out` in this
    /// generation of its directory.
    pub(crate) fn staging_place(&self, job: &str, generation: &str) -> PathBuf {
        let mut entries = all_files(&self.at(&format!("checkpoints/{job}/_lease")));
        entries.retain(|path| path.extension().is_none());
        let entry = fs::read_to_string(entries.first().expect("an entry of the lease"));
        let entry = entry.expect("an entry can be read");
        let line = entry.lines().next().unwrap_or_default();
        let entry: Value = serde_json::from_str(line).expect("an entry is JSON");
        let directory = match entry["directory"].as_str() {
            Some(directory) => format!(".{directory}"),
            None => String::new(),
        };
        self.at(&format!("out/.highwater/{job}{directory}.{generation}"))
    }

    /// The newest checkpoint on disk of the job in `checkpoints/<id>`, if it has completed one. After a kill this is
    /// what counts: a newer one than the last that was printed may have been completed, and have taken its place.
    pub(crate) fn newest_checkpoint(&self, id: &str) -> Option<Completion> {
        let entries = fs::read_dir(self.at("checkpoints").join(id)).ok()?;
        let checkpoints = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path().join("_metadata");
            // A void marker is no checkpoint.
            let is_complete = fs::read(&path).is_ok_and(|bytes| bytes.starts_with(&MAGIC));
            let id = name.strip_prefix("chk-")?.parse().ok()?;
            let path = path.display().to_string();
            is_complete.then_some(Completion { id, path })
        });
        checkpoints.max_by_key(|checkpoint| checkpoint.id)
    }

    /// The lines of all visible files of a sink's directory, sorted. A file that a sink has not made
    /// visible has a name that begins with a dot, or is in a directory that has.
    pub(crate) fn output(&self, directory: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for file in visible_files(&self.at(directory)) {
            let text = fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
            lines.extend(text.lines().map(str::to_owned));
        }
        lines.sort();
        lines
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            println!(
                "the test's directory is kept: {}",
                directory.keep().display()
            );
        }
    }
}

/// All files below a directory whose path from there has no name with a leading dot, in the order of
/// their names. None if there is no directory.
pub(crate) fn visible_files(directory: &Path) -> Vec<PathBuf> {
    files(directory, &|name| !name.starts_with('.'))
}

/// All files below a directory, in the order of their names. None if there is no directory.
pub(crate) fn all_files(directory: &Path) -> Vec<PathBuf> {
    files(directory, &|_| true)
}

/// All files below a directory, with what is in them.
pub(crate) fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("a readable file");
        (path, bytes)
    };
    all_files(directory).into_iter().map(read).collect()
}

fn files(directory: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return found;
    };
    for entry in entries.flatten() {
        if !wanted(&entry.file_name().to_string_lossy()) {
            continue;
        }
        // A file may go away between the listing and the look, as a running job writes and deletes.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path(), wanted)),
            Ok(_) => found.push(entry.path()),
            Err(_) => {}
        }
    }
    found.sort();
    found
}
