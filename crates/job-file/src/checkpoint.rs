//! `[checkpoint]`: when checkpoints are taken, where they are kept, and for how long.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use checkpoint::storage::{Permissions, Remote, Scheme};
use checkpoint::store::Compression;

use super::section::Section;

/// The section, every key with its meaning. What `docs/job-file.md` calls default is
/// [`CheckpointSection::default`].
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointSection {
    /// Time from the start of one periodic checkpoint to the next; `None`: none are taken.
    pub interval: Option<Duration>,
    /// What a record may do to the output after a crash.
    pub mode: Mode,
    /// Where checkpoints are kept.
    pub storage: Storage,
    /// Where `storage` would be on a file system, even if checkpoints are kept in memory: what
    /// `-s latest` looks in.
    pub dir: Option<Directory>,
    /// Where savepoints go that are asked for without a directory.
    pub savepoint_dir: Option<Directory>,
    /// After this long without a word from it a host is taken for dead by others.
    pub lease_timeout: Duration,
    /// After this long a checkpoint in progress is aborted.
    pub timeout: Duration,
    /// The least time from the end of a checkpoint to the start of the next.
    pub min_pause: Duration,
    /// How many may be in progress at once.
    pub max_concurrent: u32,
    /// How many in a row may fail before the job does.
    pub tolerable_failures: u32,
    /// How many completed ones are kept while the job runs.
    pub retained: u32,
    /// Which are kept when it ends.
    pub retention: Retention,
    /// Whether finishing keeps what the other ends of a job keep.
    pub retain_on_finish: bool,
    /// Whether a checkpoint only writes what changed.
    pub incremental: bool,
    /// State of at most this many bytes goes into `_metadata`.
    pub inline_threshold: u64,
    /// In memory: the most bytes of one subtask's state.
    pub max_state_size: u64,
    /// How files of state are compressed.
    pub compression: Compression,
    /// Who may read and write the files.
    pub permissions: Permissions,
}

/// What a checkpoint guarantees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every record counts once: barriers are aligned.
    ExactlyOnce,
    /// No record is lost, some may count twice after a crash: nothing waits for a barrier.
    AtLeastOnce,
}

/// Where checkpoints are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In this process: they survive a failing operator, not the process.
    Memory,
    /// Under this directory.
    Filesystem(Directory),
}

/// A directory for checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directory {
    /// An absolute path.
    Path(PathBuf),
    /// A place in a bucket, or in HDFS.
    Remote(Remote),
}

impl Directory {
    /// Something in it, as it is shown.
    pub fn join(&self, leaf: &str) -> String {
        match self {
            Self::Path(path) => path.join(leaf).display().to_string(),
            Self::Remote(remote) => format!("{remote}/{leaf}"),
        }
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Remote(remote) => remote.fmt(f),
        }
    }
}

/// Which checkpoints are kept when the job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// None, however it ends.
    NoExternalized,
    /// The newest ones, unless it was cancelled or finished.
    DeleteOnCancellation,
    /// The newest ones, unless it finished.
    RetainOnCancellation,
}

impl Default for CheckpointSection {
    fn default() -> Self {
        Self {
            interval: None,
            mode: Mode::ExactlyOnce,
            storage: Storage::Memory,
            dir: None,
            savepoint_dir: None,
            lease_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(600),
            min_pause: Duration::ZERO,
            max_concurrent: 1,
            tolerable_failures: 0,
            retained: 1,
            retention: Retention::NoExternalized,
            retain_on_finish: false,
            incremental: true,
            inline_threshold: 20 << 10,
            max_state_size: 5 << 20,
            compression: Compression::None,
            permissions: Permissions::Private,
        }
    }
}

/// The values of `mode`.
pub const MODES: &[(&str, Mode)] = &[
    ("exactly-once", Mode::ExactlyOnce),
    ("at-least-once", Mode::AtLeastOnce),
];

/// The values of `retention`.
pub const RETENTIONS: &[(&str, Retention)] = &[
    ("no-externalized-checkpoints", Retention::NoExternalized),
    ("delete-on-cancellation", Retention::DeleteOnCancellation),
    ("retain-on-cancellation", Retention::RetainOnCancellation),
];

/// The values of `compression`.
pub const COMPRESSIONS: &[(&str, Compression)] = &[
    ("none", Compression::None),
    ("lz4", Compression::Lz4),
    ("zstd", Compression::Zstd),
];

/// The values of `permissions`.
pub const PERMISSIONS: &[(&str, Permissions)] = &[
    ("private", Permissions::Private),
    ("group", Permissions::Group),
    ("umask", Permissions::Umask),
];

impl CheckpointSection {
    /// Reads the section; paths are relative to `base`.
    pub fn read(mut section: Section<'_, '_>, base: &Path) -> Self {
        let default = Self::default();
        let savepoint_dir = read_dir(&mut section, "savepoint-dir", base);
        let dir = read_dir(&mut section, "dir", base);
        let storage = read_storage(&mut section, dir.as_ref());
        Self {
            interval: section.positive_duration("interval"),
            mode: section.choice("mode", MODES).unwrap_or(default.mode),
            storage,
            dir,
            savepoint_dir,
            lease_timeout: section
                .positive_duration("lease-timeout")
                .unwrap_or(default.lease_timeout),
            timeout: section
                .positive_duration("timeout")
                .unwrap_or(default.timeout),
            min_pause: section.duration("min-pause").unwrap_or(default.min_pause),
            max_concurrent: section
                .integer("max-concurrent", 1..=u32::MAX)
                .unwrap_or(default.max_concurrent),
            tolerable_failures: section
                .integer("tolerable-failures", 0..=u32::MAX)
                .unwrap_or(default.tolerable_failures),
            retained: section
                .integer("retained", 1..=u32::MAX)
                .unwrap_or(default.retained),
            retention: section
                .choice("retention", RETENTIONS)
                .unwrap_or(default.retention),
            retain_on_finish: section
                .boolean("retain-on-finish")
                .unwrap_or(default.retain_on_finish),
            incremental: section
                .boolean("incremental")
                .unwrap_or(default.incremental),
            inline_threshold: section
                .size("inline-threshold")
                .unwrap_or(default.inline_threshold),
            max_state_size: section
                .positive_size("max-state-size")
                .unwrap_or(default.max_state_size),
            compression: section
                .choice("compression", COMPRESSIONS)
                .unwrap_or(default.compression),
            permissions: section
                .choice("permissions", PERMISSIONS)
                .unwrap_or(default.permissions),
        }
    }
}

fn read_storage(section: &mut Section<'_, '_>, dir: Option<&Directory>) -> Storage {
    let names = [("filesystem", true), ("memory", false)];
    match (section.choice("storage", &names), dir) {
        (Some(false), _) | (None, None) => Storage::Memory,
        (Some(true) | None, Some(dir)) => Storage::Filesystem(dir.clone()),
        (Some(true), None) => {
            // A `dir` that is set but wrong has been reported itself.
            if !section.has("dir") {
                section.problem(
                    "dir",
                    "is missing: `storage = \"filesystem\"` needs `checkpoint.dir`",
                    Some("for example `dir = \"checkpoints\"`, relative to the job file".into()),
                );
            }
            Storage::Memory
        }
    }
}

fn read_dir(section: &mut Section<'_, '_>, key: &str, base: &Path) -> Option<Directory> {
    let text = section.string(key)?;
    match resolve_dir(&text, base) {
        Ok(Directory::Path(path)) if path.exists() && !path.is_dir() => {
            let message = format!("`{}` is not a directory", path.display());
            let hint = "name a directory, which is made if it does not exist".to_owned();
            section.problem(key, message, Some(hint));
            None
        }
        Ok(dir) => Some(dir),
        Err((message, hint)) => {
            section.problem(key, message, hint);
            None
        }
    }
}

/// A directory for checkpoints, given as a path relative to `base`, an absolute path, a `file://` URL, or one with
/// a [`Scheme`]; or what is wrong with it, and a hint.
pub fn resolve_dir(text: &str, base: &Path) -> Result<Directory, (String, Option<String>)> {
    let path = match scheme_of(text) {
        None => match slashes_lacking(text) {
            Some(meant) => {
                let hint = Some(format!("did you mean `{meant}`?"));
                return Err((format!("`{text}` is neither a URL nor a plain path"), hint));
            }
            None => base.join(text),
        },
        Some("file") => url::Url::parse(text)
            .ok()
            .filter(|url| url.query().is_none() && url.fragment().is_none())
            .and_then(|url| url.to_file_path().ok())
            .ok_or_else(|| {
                let hint = "file URLs look like `file:///var/lib/highwater`".to_owned();
                (format!("`{text}` is not a usable file URL"), Some(hint))
            })?,
        Some(scheme) if Scheme::of(scheme).is_some() => {
            return Remote::parse(text, "directory")
                .map(Directory::Remote)
                .map_err(|error| (error.to_string(), None));
        }
        Some(scheme) => {
            let Some(meant) = Scheme::meant(scheme) else {
                let hint = "use a path, or a `file://`, `s3://`, `az://`, `gs://` or `hdfs://` URL";
                let message = format!("unknown scheme `{scheme}://`");
                return Err((message, Some(hint.to_owned())));
            };
            let message = format!("`{scheme}://` is written `{}://` here", meant.word());
            return Err((message, Some(format!("write `{}`", meant.example()))));
        }
    };
    let path = absolute(&path);
    if path.parent().is_none() {
        let message = format!("`{text}` is the root of the file system");
        let hint = "name a directory of its own for checkpoints".to_owned();
        return Err((message, Some(hint)));
    }
    Ok(Directory::Path(path))
}

/// What was meant by a URL that lacks slashes after its scheme, such as `s3:/bucket`: as a path it would
/// make a directory `s3:`, where nobody looks for it.
fn slashes_lacking(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once(':')?;
    let meant = Scheme::of(scheme).or_else(|| Scheme::meant(scheme))?;
    Some(format!(
        "{}://{}",
        meant.word(),
        rest.trim_start_matches('/')
    ))
}

fn scheme_of(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.len() > 1
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    (is_scheme && (rest.starts_with("//") || scheme == "file")).then_some(scheme)
}

/// The path from the root, without `.` and `..`. What does not exist yet can be named as well, so
/// links are not followed.
pub fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Result<String, String> {
        resolve_dir(text, Path::new("/jobs/wc"))
            .map(|directory| directory.to_string())
            .map_err(|(message, _)| message)
    }

    #[test]
    fn c04_a_directory_may_be_a_path_or_a_file_url() {
        assert_eq!(resolved("/var/cp").unwrap(), "/var/cp");
        assert_eq!(resolved("cp").unwrap(), "/jobs/wc/cp");
        assert_eq!(resolved("../cp/").unwrap(), "/jobs/cp");
        assert_eq!(resolved("file:///var/a%20b/").unwrap(), "/var/a b");
        assert_eq!(resolved("file:/var/cp").unwrap(), "/var/cp");
        assert_eq!(resolved("a:b").unwrap(), "/jobs/wc/a:b");
        assert_eq!(resolved("s3://b/p/q/").unwrap(), "s3://b/p/q");
        assert_eq!(resolved("s3://b").unwrap(), "s3://b");
        for url in [
            "az://container/flink",
            "gs://bucket/flink",
            "hdfs://namenode:40010/flink/checkpoints",
        ] {
            assert_eq!(resolved(url).unwrap(), url);
        }
    }

    #[test]
    fn c04_a_root_or_an_unknown_scheme_is_refused() {
        for root in ["/", "file:///", "../..", "/a/.."] {
            assert!(resolved(root).unwrap_err().contains("root"), "{root}");
        }
        assert_eq!(
            resolved("ftp://x/y").unwrap_err(),
            "unknown scheme `ftp://`"
        );
        for (text, meant) in [
            ("s3:/b/p", "s3://b/p"),
            ("S3:b", "s3://b"),
            ("s3a:/b", "s3://b"),
            ("hdfs:/namenode:9000/x", "hdfs://namenode:9000/x"),
        ] {
            let (_, hint) = resolve_dir(text, Path::new("/jobs/wc")).unwrap_err();
            assert_eq!(hint, Some(format!("did you mean `{meant}`?")));
        }
        for (text, meant) in [
            ("s3a://b/p", "written `s3://`"),
            ("wasbs://c@a.blob.core.windows.net/p", "written `az://`"),
            ("gcs://b/p", "written `gs://`"),
        ] {
            assert!(resolved(text).unwrap_err().contains(meant), "{text}");
        }
        let with_password = resolved("s3://key:password@b/p").unwrap_err();
        assert!(!with_password.contains("password"), "{with_password}");
        assert!(resolved("file://host/x").unwrap_err().contains("file URL"));
    }
}
