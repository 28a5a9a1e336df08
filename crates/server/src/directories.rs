//! Where control sockets are: a private directory of the user, in which every host has one.
//!
//! - **Invariant:** a socket is never reachable for others, not even for a moment: its directory is checked to be
//!   private before the socket is made. (The umask is the whole process's, so it is not touched.)
//! - **Invariant:** a socket that has its final name is listened to, or its process is gone: it is made under
//!   another name and renamed. So one that refuses a connection can be removed, and a living one never is.
//! - **Invariant:** nothing is removed but sockets of this user with a name that this module gives.
//!
//! The runtime's scratch files have a place with the same rule. The few lines of it are there twice: a crate that
//! both can use and that may touch files does not exist, and the two have different markers and different mends.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{env, process};

use operator::text::line;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How the name of a socket ends.
const FINAL: &str = ".sock";

/// How it ends while nobody listens yet.
const UNFINISHED: &str = ".new";

/// An unfinished socket that is older is a killed process's: a bind takes microseconds.
const UNFINISHED_MAX: Duration = Duration::from_secs(60);

/// How long a connection may take. The system accepts it whatever the process does, unless its queue is full.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Where the sockets of a user may be. A host that a service manager has started may lack the variable that a
/// user's shell has, so a client looks into all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// The first one is where a host makes its socket.
    places: Vec<PathBuf>,
    user: u32,
}

/// A socket that is listened to. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
}

impl Directories {
    /// Those of the user of this process: `$XDG_RUNTIME_DIR/highwater`, if the variable names a directory of the
    /// user's, and `highwater-<user>` in the directory for temporary files.
    #[must_use]
    pub fn of_user() -> Self {
        let user = nix::unistd::geteuid().as_raw();
        Self::from(env::var_os("XDG_RUNTIME_DIR"), &env::temp_dir(), user)
    }

    /// Only this one.
    #[must_use]
    pub fn at(place: PathBuf) -> Self {
        let user = nix::unistd::geteuid().as_raw();
        let places = vec![place];
        Self { places, user }
    }

    fn from(runtime: Option<OsString>, temporary: &Path, user: u32) -> Self {
        // `sudo` may leave another user's in place.
        let is_ours = |path: &PathBuf| {
            path.is_absolute()
                && fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == user)
        };
        let runtime = runtime.map(PathBuf::from).filter(is_ours);
        let places = runtime.map(|runtime| runtime.join("highwater"));
        let temporary = temporary.join(format!("highwater-{user}"));
        let places = places.into_iter().chain([temporary]).collect();
        Self { places, user }
    }

    /// Whether a process of this user may ask, and answer. Root may do everything anyway.
    pub(crate) fn trusts(&self, user: u32) -> bool {
        user == self.user || user == 0
    }

    /// Makes a socket of this process and listens to it.
    ///
    /// # Errors
    /// The directory is not private, the path is too long, or the system refuses.
    pub(crate) fn bind(&self) -> io::Result<(Socket, net::UnixListener)> {
        let place = self.places.first().ok_or(ErrorKind::NotFound)?;
        match DirBuilder::new().mode(0o700).create(place) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(failed("making", place, &error));
            }
            _ => {}
        }
        if !is_private(place, self.user)? {
            return Err(failed("making", place, &ErrorKind::NotFound.into()));
        }
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let name = format!("{}-{:016x}", process::id(), u64::from_be_bytes(bytes));
        let path = place.join(format!("{name}{FINAL}"));
        if net::SocketAddr::from_pathname(&path).is_err() {
            let length = path.as_os_str().len();
            let error =
                format!("its path of {length} bytes is longer than that of a socket can be");
            return Err(failed("making", &path, &io::Error::other(error)));
        }
        let unfinished = place.join(format!("{name}{UNFINISHED}"));
        let bound = net::UnixListener::bind(&unfinished);
        let listener = bound.map_err(|error| failed("making", &unfinished, &error))?;
        // From here on it is removed when something fails.
        let mut socket = Socket { path: unfinished };
        fs::set_permissions(&socket.path, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&socket.path, &path))
            .map_err(|error| failed("making", &path, &error))?;
        socket.path = path;
        listener.set_nonblocking(true)?;
        Ok((socket, listener))
    }

    /// The sockets that are listened to, each with what came of connecting to it. Those that nobody listens to any
    /// more are removed.
    ///
    /// # Errors
    /// The directory in which a host of this environment has its socket is not private, or cannot be read.
    pub(crate) async fn connect_all(&self) -> io::Result<Vec<(PathBuf, io::Result<()>)>> {
        let mut found = Vec::new();
        for (index, place) in self.places.iter().enumerate() {
            match is_private(place, self.user) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) if index == 0 => return Err(error),
                // No host would have its socket there either.
                Err(error) => {
                    tracing::debug!("{error}");
                    continue;
                }
            }
            for path in self.sockets(place)? {
                match self.connect(&path).await {
                    Err(error) if is_gone(&error) => {}
                    connected => found.push((path, connected.map(drop))),
                }
            }
        }
        Ok(found)
    }

    /// A connection to a socket. One that nobody listens to any more is removed.
    pub(crate) async fn connect(&self, path: &Path) -> io::Result<UnixStream> {
        let connected = timeout(CONNECT_MAX, UnixStream::connect(path)).await;
        let stream = connected.map_err(|_| io::Error::from(ErrorKind::TimedOut))?;
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                if error.kind() == ErrorKind::ConnectionRefused {
                    self.remove_stale(path);
                }
                return Err(error);
            }
        };
        let peer = stream.peer_cred()?.uid();
        match self.trusts(peer) {
            true => Ok(stream),
            false => Err(io::Error::other(format!("it belongs to user {peer}"))),
        }
    }

    /// What looks like a socket of ours in a private directory.
    fn sockets(&self, place: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(place).map_err(|error| failed("reading", place, &error))?;
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| self.is_our_socket(path));
        paths.sort();
        for path in paths.extract_if(.., |path| has_ending(path, UNFINISHED)) {
            if is_old(&path) {
                self.remove_stale(&path);
            }
        }
        Ok(paths)
    }

    fn is_our_socket(&self, path: &Path) -> bool {
        is_our_name(path)
            && fs::symlink_metadata(path)
                .is_ok_and(|found| found.file_type().is_socket() && found.uid() == self.user)
    }

    fn remove_stale(&self, path: &Path) {
        if self.is_our_socket(path) && fs::remove_file(path).is_ok() {
            let path = path.to_string_lossy();
            tracing::debug!("removed {}, left by a killed host", line(&path));
        }
    }
}

impl Socket {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be gone already: the directory is for temporary files. Nobody listens to it, so what is left is
        // removed by whoever finds it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether nobody listens any more.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::NotFound
    )
}

/// Whether a directory exists, and is this user's alone.
///
/// # Errors
/// Something else has its name, or others may use it.
fn is_private(place: &Path, user: u32) -> io::Result<bool> {
    let found = match fs::symlink_metadata(place) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("looking at", place, &error)),
    };
    let why = if found.is_symlink() {
        "it is a link".to_owned()
    } else if !found.is_dir() {
        "it is not a directory".to_owned()
    } else if found.uid() != user {
        format!("it belongs to user {}", found.uid())
    } else if found.mode() & 0o077 != 0 {
        format!("others may use it: mode {:04o}", found.mode() & 0o7777)
    } else {
        return Ok(true);
    };
    Err(failed("using", place, &io::Error::other(why)))
}

/// An error with what was done where, and what to do about it.
fn failed(action: &str, path: &Path, error: &io::Error) -> io::Error {
    let message = format!(
        "{action} {} failed ({error}); control sockets need a directory that only this user can use: remove what is there or `chmod 700` it, or set XDG_RUNTIME_DIR or TMPDIR to another directory of yours with a short path",
        line(&path.to_string_lossy())
    );
    io::Error::new(error.kind(), message)
}

/// Whether a name is one that [`Directories::bind`] gives.
fn is_our_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let stem = name.and_then(|name| {
        name.strip_suffix(FINAL)
            .or_else(|| name.strip_suffix(UNFINISHED))
    });
    stem.and_then(|stem| stem.split_once('-'))
        .is_some_and(|(process, random)| {
            let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            !process.is_empty()
                && process.bytes().all(|byte| byte.is_ascii_digit())
                && random.len() == 16
                && random.bytes().all(is_hex)
        })
}

/// The process that a socket was made by, as its name says.
pub(crate) fn process_of(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    name.split_once('-')?.0.parse().ok()
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.to_string_lossy().ends_with(ending)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file's age is of the file system's clock, whatever clock a job has"
)]
fn is_old(path: &Path) -> bool {
    let made = fs::symlink_metadata(path).and_then(|found| found.modified());
    made.is_ok_and(|made| {
        let age = SystemTime::now().duration_since(made);
        age.is_ok_and(|age| age > UNFINISHED_MAX)
    })
}

#[cfg(test)]
mod tests;
