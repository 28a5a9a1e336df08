//! Which files a `path` stands for, and how their bytes are reached.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::blocks::TAIL;
use formats::compression::Compression;
use job_file::problem::Problem;
use nix::fcntl::OFlag;

use crate::connector::Selects;
use crate::paths::resolved;

/// A file as the job found it when it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputFile {
    /// Its path: relative to the job file's directory where it was written so, so that a project
    /// can be moved together with its checkpoints.
    pub(crate) name: String,
    /// Its length in bytes, as stored.
    pub(crate) len: u64,
    /// When it was changed.
    pub(crate) stamp: Stamp,
    /// CRC-32C of its last bytes, [`TAIL`] of them or as many as there are; see [`tail_crc`].
    /// `None` if nobody has looked.
    pub(crate) tail: Option<u32>,
}

/// The times of a file, in nanoseconds since the epoch. Every change of a file changes both; a
/// program can put the first one back, the second one only the system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// When its content was modified.
    pub(crate) modified_ns: i64,
    /// When content, name, owner or permissions were changed.
    pub(crate) changed_ns: i64,
}

impl Stamp {
    /// The times of the file that `metadata` is of.
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        Self {
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// CRC-32C of the last bytes of a file's first `len` bytes.
///
/// # Errors
/// It cannot be read, or is shorter.
pub(crate) fn tail_crc(file: &File, len: u64) -> io::Result<u32> {
    let mut tail = [0; TAIL];
    let tail = &mut tail[..len.min(TAIL as u64) as usize];
    file.read_exact_at(tail, len - tail.len() as u64)?;
    Ok(crc32c::crc32c(tail))
}

/// Opens a file that is one. What was a file when the job looked for its input may be a pipe or a device
/// by now: opening it must not wait, and reading it might never end.
///
/// # Errors
/// It cannot be opened, or is something else.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is not a file any more",
        )),
    }
}

/// Opens a file at a byte of its stored form (which makes sense only for one that is not packed)
/// and unpacks what is read.
///
/// # Errors
/// It cannot be opened.
pub(crate) fn open(
    path: &Path,
    compression: Compression,
    at: u64,
) -> io::Result<Box<dyn Read + Send>> {
    let mut file = open_file(path)?;
    let mut start = [0; 4];
    let count = file.read_at(&mut start, 0)?;
    compression.check(&start[..count])?;
    if at > 0 {
        file.seek(SeekFrom::Start(at))?;
    }
    compression.unpack(file)
}

/// What it means that a path stands for no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// It is wrong.
    Refused,
    /// There may be one later.
    Allowed,
}

/// The files that `paths` stand for, without doubles and in the order of their names. Each path is a
/// file, a directory (all files in it, but not below it) or a glob pattern; hidden files are left
/// out unless they are named.
///
/// # Errors
/// All paths that stand for no file, or for one that cannot be read.
pub(crate) fn find(paths: &[String], base_dir: &Path) -> Result<Vec<InputFile>, Vec<Problem>> {
    let mut found = Found::default();
    for path in paths {
        find_path(path, base_dir, Missing::Refused, &mut found);
    }
    let (files, unreadable) = found.files(base_dir, Missing::Refused);
    found.problems.extend(unreadable);
    match found.problems.is_empty() {
        true => Ok(files),
        false => Err(found.problems),
    }
}

/// What a look at paths shows that may match nothing yet.
pub(crate) struct Look {
    /// The files that there are, as for [`find`]; whether they can be opened shows when they are read.
    pub(crate) files: Vec<InputFile>,
    /// What could not be looked at.
    pub(crate) unreadable: Vec<Problem>,
}

/// As [`find`], but what is missing or cannot be looked at is no reason not to give the others.
///
/// # Errors
/// All paths that are none.
pub(crate) fn look(paths: &[String], base_dir: &Path) -> Result<Look, Vec<Problem>> {
    let mut found = Found::default();
    for path in paths {
        find_path(path, base_dir, Missing::Allowed, &mut found);
    }
    let (files, more) = found.files(base_dir, Missing::Allowed);
    found.unreadable.extend(more);
    match found.problems.is_empty() {
        true => Ok(Look {
            files,
            unreadable: found.unreadable,
        }),
        false => Err(found.problems),
    }
}

/// What paths stand for.
#[derive(Default)]
struct Found {
    paths: Vec<PathBuf>,
    /// What cannot be looked at, where that is allowed.
    unreadable: Vec<Problem>,
    /// What is wrong.
    problems: Vec<Problem>,
}

impl Found {
    fn cannot_be_looked_at(&mut self, problem: Problem, missing: Missing) {
        match missing {
            Missing::Refused => self.problems.push(problem),
            Missing::Allowed => self.unreadable.push(problem),
        }
    }

    /// The files, and those that are none.
    fn files(&mut self, base_dir: &Path, missing: Missing) -> (Vec<InputFile>, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut files = Vec::new();
        for path in std::mem::take(&mut self.paths) {
            match input_file(&path, base_dir, missing) {
                Ok(file) => files.extend(file),
                Err(problem) => problems.push(problem),
            }
        }
        files.sort_by(|a: &InputFile, b| a.name.cmp(&b.name));
        files.dedup_by(|a, b| a.name == b.name);
        (files, problems)
    }
}

/// Says of the path of a file whether `paths` stand for it. The path is absolute and leads over no link.
pub(crate) fn selects(paths: &[String], base_dir: &Path) -> Selects {
    let paths = paths.to_vec();
    let base_dir = resolved(base_dir);
    Arc::new(move |file| {
        paths.iter().any(|written| {
            let Ok(local) = local(written) else {
                return false;
            };
            let path = resolved(&base_dir.join(local));
            if path.is_dir() {
                return file.parent() == Some(&path);
            }
            let written = resolved_pattern(local, &base_dir);
            let pattern = glob::Pattern::new(&written);
            pattern.is_ok_and(|pattern| pattern.matches_path_with(file, MATCHING))
                || is_over_a_link(&written, file)
        })
    })
}

/// Whether a pattern matches the file in a directory that it reaches over a link.
fn is_over_a_link(pattern: &str, file: &Path) -> bool {
    let Some((directories, name)) = pattern.rsplit_once('/') else {
        return false;
    };
    let name = glob::Pattern::new(name);
    let matches = name.is_ok_and(|name| {
        let file = file.file_name().unwrap_or_default().to_string_lossy();
        name.matches_with(&file, MATCHING)
    });
    matches
        && self::matches(directories).is_ok_and(|found| {
            found
                .iter()
                .flatten()
                .any(|found| Some(resolved(found).as_path()) == file.parent())
        })
}

/// A pattern that matches paths without links: what stands before its first special character is one.
fn resolved_pattern(local: &str, base_dir: &Path) -> String {
    let parts: Vec<&str> = local.split('/').collect();
    let mut each = parts.iter();
    let special = each.position(|part| part.contains(['*', '?', '[']));
    let (plain, special) = parts.split_at(special.unwrap_or(parts.len()));
    // An absolute path begins with an empty part.
    let plain = match plain {
        [""] => "/".to_owned(),
        plain => plain.join("/"),
    };
    let directory = resolved(&base_dir.join(plain));
    let directory = glob::Pattern::escape(&directory.to_string_lossy());
    let special: Vec<&str> = special
        .iter()
        .copied()
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    format!("{}/{}", directory.trim_end_matches('/'), special.join("/"))
}

/// How patterns match.
const MATCHING: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// What a pattern matches, in any order, with what could not be looked at. Hidden names only where the pattern has one, too.
///
/// # Errors
/// It is no pattern.
fn matches(pattern: &str) -> Result<Vec<Result<PathBuf, glob::GlobError>>, glob::PatternError> {
    // The library panics at a name that is not Unicode if it is to look for dots itself.
    let lenient = glob::MatchOptions {
        require_literal_leading_dot: false,
        ..MATCHING
    };
    let hidden = pattern.split('/').filter(|part| part.starts_with('.'));
    let hidden: Vec<glob::Pattern> = hidden.map(glob::Pattern::new).collect::<Result<_, _>>()?;
    let is_wanted = |path: &Path| {
        path.components().all(|part| {
            let part = part.as_os_str().to_string_lossy();
            !part.starts_with('.') || hidden.iter().any(|it| it.matches_with(&part, MATCHING))
        })
    };
    let found = glob::glob_with(pattern, lenient)?;
    let found = found.filter(|path| match path {
        Ok(path) => is_wanted(path),
        Err(error) => is_wanted(error.path()),
    });
    Ok(found.collect())
}

/// A path as the pattern that it is. Only what the user wrote is one, not the place of the job file.
fn pattern(local: &str, base_dir: &Path) -> String {
    if Path::new(local).is_absolute() {
        return local.to_owned();
    }
    let base_dir = glob::Pattern::escape(&base_dir.to_string_lossy());
    format!("{base_dir}/{local}")
}

/// The path of the file system that was written, perhaps as a URL.
fn local(written: &str) -> Result<&str, Problem> {
    match written.split_once("://") {
        Some(("file", rest)) => Ok(rest.strip_prefix("localhost").unwrap_or(rest)),
        Some((scheme, _)) => {
            let message = format!("`{written}`: {scheme} URLs are not supported by this version");
            Err(Problem::new("path", message).hint("use a path of the file system"))
        }
        None => Ok(written),
    }
}

fn find_path(written: &str, base_dir: &Path, missing: Missing, found: &mut Found) {
    let problem = |message: String| Problem::new("path", message);
    let there = format!("it is looked for in `{}`", base_dir.display());
    let local = match local(written) {
        Ok("") => return found.problems.push(problem("is empty".to_owned())),
        Ok(local) => local,
        Err(wrong) => return found.problems.push(wrong),
    };
    let path = base_dir.join(local);
    let is_pattern = local.contains(['*', '?', '[']);
    let before = found.paths.len();
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => {
            let entries =
                fs::read_dir(&path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
            let entries = match entries {
                Ok(entries) => entries,
                Err(error) => {
                    let message = format!("cannot list the directory `{written}`: {error}");
                    return found.cannot_be_looked_at(problem(message), missing);
                }
            };
            let hidden =
                |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
            let files = entries
                .into_iter()
                .filter(|entry| !hidden(entry))
                .map(|entry| entry.path());
            // What cannot be looked at is kept, for opening it tells what is wrong.
            found.paths.extend(files.filter(|path| !path.is_dir()));
            if found.paths.len() == before && missing == Missing::Refused {
                let hint = format!(
                    "for the files below it write \"{}/**/*\"",
                    written.trim_end_matches('/')
                );
                let nothing = problem(format!("the directory `{written}` holds no files"));
                found.problems.push(nothing.hint(hint));
            }
        }
        Ok(_) => {
            found.paths.push(path);
            // Other files may come that it matches as a pattern.
            if is_pattern && missing == Missing::Allowed {
                find_matches(written, local, base_dir, missing, found);
            }
        }
        Err(_) if is_pattern => {
            let wrong = found.problems.len();
            find_matches(written, local, base_dir, missing, found);
            let has_none = found.paths.len() == before && found.problems.len() == wrong;
            if has_none && missing == Missing::Refused {
                let nothing = problem(format!("no file matches `{written}`"));
                found.problems.push(nothing.hint(there));
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound && missing == Missing::Allowed => {}
        Err(error) => {
            let nothing = problem(format!("cannot read `{written}`: {error}")).hint(there);
            found.cannot_be_looked_at(nothing, missing);
        }
    }
}

fn find_matches(written: &str, local: &str, base_dir: &Path, missing: Missing, found: &mut Found) {
    let problem = |message: String| Problem::new("path", message);
    let matches = match matches(&pattern(local, base_dir)) {
        Ok(matches) => matches,
        Err(error) => {
            let message = format!("`{written}` is not a pattern: {}", error.msg);
            return found.problems.push(problem(message));
        }
    };
    for path in matches {
        match path {
            Ok(path) if path.is_dir() => {}
            Ok(path) => found.paths.push(path),
            Err(error) => {
                let shown = error.path().display();
                let message = format!("cannot list `{shown}`: {}", error.error());
                found.cannot_be_looked_at(problem(message), missing);
            }
        }
    }
}

/// What is to be known of a file; `None` if it is gone again and may be.
fn input_file(
    path: &Path,
    base_dir: &Path,
    missing: Missing,
) -> Result<Option<InputFile>, Problem> {
    let problem = |message: String| Problem::new("path", message);
    let shown = path.display();
    let name = path.strip_prefix(base_dir).unwrap_or(path).to_str();
    let name = name.ok_or_else(|| problem(format!("the name of `{shown}` is not UTF-8")))?;
    // A pipe would block when it is opened, and cannot be read again.
    let is_gone =
        |error: &io::Error| error.kind() == ErrorKind::NotFound && missing == Missing::Allowed;
    let metadata = match fs::metadata(path) {
        Err(error) if is_gone(&error) => return Ok(None),
        metadata => metadata.map_err(|error| problem(format!("cannot read `{shown}`: {error}")))?,
    };
    if !metadata.is_file() {
        return Err(
            problem(format!("`{shown}` is neither a file nor a directory"))
                .hint("for a pipe use the connector `stdin`"),
        );
    }
    let metadata = match open_file(path).and_then(|file| file.metadata()) {
        Err(error) if is_gone(&error) => return Ok(None),
        metadata => metadata.map_err(|error| problem(format!("cannot read `{shown}`: {error}")))?,
    };
    Ok(Some(InputFile {
        name: name.to_owned(),
        len: metadata.len(),
        stamp: Stamp::of(&metadata),
        tail: None,
    }))
}
