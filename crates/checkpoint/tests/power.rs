//! What the storage in files says is done is done after a power loss. Conformance 153.
//!
//! Method: a child process, which is this test binary, uses the storage on a layer that records what it
//! does to the file system (`tests/power/recorder.c`) and says what was done. The model of a disk that
//! forgets what was not flushed (`tests/power/model.rs`) tells what a power loss leaves right then.
//! `tests/it/power.rs` does the same with the whole host.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "tests wait, print and measure"
)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../tests/power/journal.rs"]
#[allow(dead_code, reason = "other tests take other parts of it")]
mod journal;
#[path = "../../../tests/power/model.rs"]
#[allow(dead_code, reason = "other tests take other parts of it")]
mod model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use checkpoint::storage::{FileStorage, Permissions, Storage};
use tempfile::TempDir;

use journal::{Step, Until};
use model::{Disk, Remains, Unflushed};

/// Tells the child where its storage is.
const DIRECTORY: &str = "HIGHWATER_POWER_CHILD";

/// Tells the child how long its objects are to be.
const LENGTH: &str = "HIGHWATER_POWER_LENGTH";

/// Where the storage is, below the directory that is recorded.
const PLACE: &str = "new/deep";

/// Not a test: what the child does.
#[test]
#[ignore = "the other tests run it, in a process of its own"]
fn child() {
    let directory = PathBuf::from(std::env::var(DIRECTORY).unwrap());
    let storage = FileStorage::create(&directory, Permissions::Private).unwrap();
    // A line of its own, whatever the test harness has printed.
    storage.make_directory("job/shared").unwrap();
    println!("\nmade job/shared /");
    let lock = format!("job/_lease/{}.lock", std::process::id());
    let _guard = storage.lock(&lock).unwrap();
    for (name, content) in [
        ("job/_lease/1", "first"),
        ("job/_lease/2", "second"),
        ("job/chk-1/_metadata", "third"),
    ] {
        // It may be there already, of a child that was killed.
        if storage.put_new(name, vec![Bytes::from(content)]).is_ok() {
            println!("\nmade {name} {content}");
        }
    }
    // More than a part of an upload, once.
    let length = std::env::var(LENGTH).map_or(1, |length| length.parse().unwrap());
    let large = vec![b'x'; length];
    for name in ["job/shared/large", "job/chk-2/own"] {
        let mut writer = storage.create(name).unwrap();
        writer.append(&large).unwrap();
        if writer.finish().is_ok() {
            println!("\nmade {name} x");
        }
    }
    for name in ["job/_lease/1", "job/chk-1/_metadata", "job/shared/large"] {
        storage.delete(name).unwrap();
        println!("\ngone {name} -");
    }
}

/// Runs the child on a directory; `until`: it is killed after this many changes.
fn run(root: &Path, journal: &Path, until: Option<Until>, length: usize) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(DIRECTORY, root.join(PLACE))
        .env(LENGTH, length.to_string())
        .stdout(Stdio::null());
    journal::record(&mut command, root, journal, until);
    let status = command.status().unwrap();
    assert!(status.success() || until.is_some(), "{status}");
}

/// Checks everything that was said in a journal. Returns how many things that were.
fn check(root: &Path, journal: &Path) -> usize {
    let steps = journal::read(journal);
    let mut disk = Disk::new(root, &Remains::new());
    let (mut line, mut said) = (Vec::new(), 0);
    // What is there, and what is gone.
    let mut told: BTreeMap<String, Option<String>> = BTreeMap::new();
    for step in &steps {
        disk.apply(step);
        let Step::Say { bytes } = step else {
            continue;
        };
        line.extend(bytes);
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let text = String::from_utf8(line.drain(..=end).collect()).unwrap();
            match text.split_whitespace().collect::<Vec<_>>()[..] {
                ["made", name, content] => told.insert(name.to_owned(), Some(content.to_owned())),
                ["gone", name, "-"] => told.insert(name.to_owned(), None),
                _ => continue,
            };
            said += 1;
            let left = disk.remains(Unflushed::Lost);
            for (name, content) in &told {
                let found = left.get(&Path::new(PLACE).join(name));
                match (found, content.as_deref()) {
                    (None, None) | (Some(None), Some("/")) => {}
                    (Some(Some(found)), Some(content)) if found.starts_with(content.as_bytes()) => {
                    }
                    (found, content) => panic!(
                        "{name} should be {content:?} after a power loss at `{}`, and is {:?}",
                        text.trim(),
                        found.map(|found| found.as_ref().map(Vec::len))
                    ),
                }
            }
        }
    }
    assert!(
        disk.remains(Unflushed::Kept) == model::found(root),
        "the steps lead to other files than those that are there: a call went past the recorder"
    );
    said
}

#[test]
fn c153_what_the_storage_says_is_done_survives_a_power_loss() {
    let root = TempDir::new().unwrap();
    let journals = TempDir::new().unwrap();
    let journal = journals.path().join("journal");
    run(root.path(), &journal, None, 9 << 20);
    let said = check(root.path(), &journal);
    assert_eq!(said, 9);
}

#[test]
fn c153_what_a_killed_process_has_left_survives_a_power_loss_once_it_is_used() {
    // The directories and the lock; each time a new one is killed a step later, and another goes on.
    for until in 1..30 {
        let root = TempDir::new().unwrap();
        let journals = TempDir::new().unwrap();
        let journal = journals.path().join("journal");
        println!("killed after {until} changes");
        run(root.path(), &journal, Some(Until::Change(until)), 100);
        run(root.path(), &journal, None, 100);
        check(root.path(), &journal);
    }
}
