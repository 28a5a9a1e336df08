//! What a program did to its files, step by step: the journal that `recorder.c` writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The layer that records, in C: what is loaded into a program may not be more than that.
const RECORDER: &str = include_str!("recorder.c");

/// Something that the host did, with its effect.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A process began; descriptors of the one before it are gone.
    Start,
    /// Something below the root was opened, and perhaps created or cut to nothing by it.
    Open {
        fd: i32,
        path: PathBuf,
        created: bool,
        cut: bool,
    },
    /// A descriptor was closed.
    Close { fd: i32 },
    /// `fd` is another descriptor of the same file as `of`.
    Duplicate { fd: i32, of: i32 },
    /// These bytes were written at this place.
    Write { fd: i32, at: usize, bytes: Vec<u8> },
    /// The file was given this length.
    Truncate { fd: i32, length: usize },
    /// A file or a directory was flushed.
    Flush { fd: i32 },
    /// A file got a second name.
    Link { from: PathBuf, to: PathBuf },
    /// An entry got another name.
    Rename { from: PathBuf, to: PathBuf },
    /// The name of a file was removed.
    Unlink { path: PathBuf },
    /// A directory was made.
    MakeDirectory { path: PathBuf },
    /// A directory was removed.
    RemoveDirectory { path: PathBuf },
    /// The host wrote this to stdout.
    Say { bytes: Vec<u8> },
    /// A call that the model does not know.
    Unknown { call: String },
}

/// When a program that is recorded is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// Right after this many changes and flushes.
    Change(usize),
    /// Right after this many links, each of which is to be flushed next.
    Link(usize),
    /// Right before a file gets a name that ends like this.
    Before(&'static str),
    /// Right after a file got a name that ends like this.
    After(&'static str),
}

/// Has a command record what it does below `below`; `until`: when it is
/// killed.
pub(crate) fn record(command: &mut Command, below: &Path, journal: &Path, until: Option<Until>) {
    command
        .env("LD_PRELOAD", recorder())
        .env("HIGHWATER_RECORD_BELOW", below)
        .env("HIGHWATER_RECORD_TO", journal);
    match until {
        None => command,
        Some(Until::Change(count)) => command.env("HIGHWATER_RECORD_UNTIL", count.to_string()),
        Some(Until::Link(count)) => command.env("HIGHWATER_RECORD_UNTIL_LINK", count.to_string()),
        Some(Until::Before(name)) => command.env("HIGHWATER_RECORD_BEFORE", name),
        Some(Until::After(name)) => command.env("HIGHWATER_RECORD_AFTER", name),
    };
}

/// The recorder as a library, built once with the C compiler that Rust links with.
fn recorder() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // Of this process alone: another run of the tests may be using its own.
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let name = format!("recorder-{}", std::process::id());
        let (source, built) = (name.clone() + ".c", directory.join(name + ".so"));
        let source = directory.join(source);
        fs::write(&source, RECORDER).expect("the target directory can be written");
        let output = Command::new("cc")
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"])
            .args(["-pthread", "-o"])
            .arg(&built)
            .arg(&source)
            .arg("-ldl")
            .output()
            .expect("there is a C compiler, `cc`: Rust links with it");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "the recorder does not build:\n{said}"
        );
        built
    })
}

/// Reads a journal. A last record that was cut off by a kill is none.
pub(crate) fn read(journal: &Path) -> Vec<Step> {
    let bytes = fs::read(journal)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", journal.display()));
    let mut rest = bytes.as_slice();
    let mut steps = Vec::new();
    while let Some(step) = next(&mut rest) {
        steps.push(step);
    }
    assert!(rest.is_empty(), "the journal ends within a record");
    steps
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let bytes = take(rest, 8)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(bytes)).ok()
}

fn next(rest: &mut &[u8]) -> Option<Step> {
    let what = *take(rest, 1)?.first()?;
    let fd = i32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
    let value = number(rest)?;
    let (first, second) = (number(rest)?, number(rest)?);
    let first = take(rest, first)?;
    let second = take(rest, second)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("our names are Unicode");
    let path = || PathBuf::from(text(first));
    let both = || (PathBuf::from(text(first)), PathBuf::from(text(second)));
    Some(match what {
        1 => Step::Start,
        2 => Step::Open {
            fd,
            path: path(),
            created: value == 1,
            cut: value == 2,
        },
        3 => Step::Close { fd },
        4 => Step::Duplicate {
            fd,
            of: i32::try_from(value).expect("a descriptor"),
        },
        5 => Step::Write {
            fd,
            at: value,
            bytes: first.to_vec(),
        },
        6 => Step::Truncate { fd, length: value },
        7 => Step::Flush { fd },
        8 => {
            let (from, to) = both();
            Step::Link { from, to }
        }
        9 => {
            let (from, to) = both();
            Step::Rename { from, to }
        }
        10 => Step::Unlink { path: path() },
        11 => Step::MakeDirectory { path: path() },
        12 => Step::RemoveDirectory { path: path() },
        13 => Step::Say {
            bytes: first.to_vec(),
        },
        14 => Step::Unknown { call: text(first) },
        other => panic!("the journal has a record of kind {other}"),
    })
}
