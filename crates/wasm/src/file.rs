//! A component's file, read once: what is hashed, examined and compiled are the same bytes, whatever
//! becomes of the file meanwhile.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;

use operator::text::size;

/// The largest file that is read. Components with an interpreter in them have 2 to 20 MB, and several
/// times that with large libraries.
const BYTES_MAX: u64 = 256 << 20;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system says no.
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no file with an end.
    #[error("it is a {0}, not a regular file")]
    Irregular(&'static str),
    /// It is larger than any component.
    #[error("the file has more than {}, the most that a component may have", size(*.max))]
    TooLarge {
        /// The most bytes.
        max: u64,
    },
}

/// Reads a regular file, or what a link to one leads to.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    read_at_most(path, BYTES_MAX)
}

/// Reads a regular file of at most this many bytes.
pub(super) fn read_at_most(path: &Path, max: u64) -> Result<Vec<u8>, ReadError> {
    let file = open(path)?;
    // Of what was opened: another file under the name may follow.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::Irregular(kind(metadata.file_type())));
    }
    if metadata.len() > max {
        return Err(ReadError::TooLarge { max });
    }
    // It may grow while it is read, and some file systems give no length.
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(ReadError::TooLarge { max });
    }
    Ok(bytes)
}

/// Opens what may be anything: a pipe keeps nobody waiting.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    // A pipe that nobody writes to would wait, and a terminal would become ours.
    #[cfg(unix)]
    {
        use nix::fcntl::OFlag;
        use std::os::unix::fs::OpenOptionsExt as _;
        options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    }
    options.open(path)
}

fn kind(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_char_device() || kind.is_block_device() {
            return "device";
        }
        if kind.is_fifo() {
            return "pipe";
        }
    }
    if kind.is_dir() {
        "directory"
    } else {
        "special file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c161_only_a_regular_file_of_limited_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wasm");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap(), b"12345");
        let refused = |path: &Path, max| read_at_most(path, max).unwrap_err().to_string();
        assert_eq!(
            refused(&path, 4),
            "the file has more than 4 B, the most that a component may have"
        );
        assert_eq!(
            refused(dir.path(), 5),
            "it is a directory, not a regular file"
        );
        assert!(refused(&dir.path().join("none"), 5).starts_with("the file cannot be read"));
    }

    #[cfg(unix)]
    #[test]
    fn c161_devices_and_pipes_are_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for (path, expected) in [
            (&pipe, "it is a pipe, not a regular file"),
            (&link, "it is a device, not a regular file"),
        ] {
            assert_eq!(read(path).unwrap_err().to_string(), expected);
        }
    }
}
