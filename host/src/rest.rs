//! The REST API, the metrics and the web page of this process, where a job file or the command line asks for them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use job_file::http::HttpSection;
use operator::clock::{Clock, SystemClock};
use operator::text::name;
use server::{Access, RestOptions, RestServer, Tls, Token};

use crate::events::{Audience, Event};
use crate::exit::Error;
use crate::jobs::Jobs;
use crate::logging;

/// The bytes that a file with a token, a certificate or a key may have.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Whether the files that the section names are there and are what they should be.
///
/// # Errors
/// One is not.
pub(crate) fn check(section: &HttpSection) -> Result<(), Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    match options(section, &clock) {
        Ok(_) => Ok(()),
        Err(error) => Err(not_served(error)),
    }
}

fn not_served(error: anyhow::Error) -> Error {
    Error::refused(error.context("the REST API cannot be served"))
}

/// Serves the jobs of this process there, and says where that is.
///
/// # Errors
/// A file cannot be read or is not what it should be, or the address is not to be had.
pub(crate) fn start(
    section: &HttpSection,
    jobs: &Arc<Jobs>,
    clock: &Arc<dyn Clock>,
    audience: Audience,
) -> Result<RestServer, Error> {
    let options = options(section, clock).map_err(not_served)?;
    warn_of_readers(section);
    let served = Arc::clone(jobs) as Arc<dyn server::Jobs>;
    let server = RestServer::start(served, options).map_err(|error| {
        let is_taken = error.kind() == io::ErrorKind::AddrInUse;
        let error = anyhow!(error).context(format!("listening on {}", section.address));
        match is_taken {
            true => not_served(error).hint(
                "give it another port, or 0 for any that is free; `ss -ltnp` shows who has this one",
            ),
            false => not_served(error),
        }
    })?;
    audience.tell(&Event::Listening {
        url: server.url(),
        token: section.token_file.is_some(),
    });
    Ok(server)
}

fn options(section: &HttpSection, clock: &Arc<dyn Clock>) -> anyhow::Result<RestOptions> {
    let token = section.token_file.as_deref().map(|path| {
        let bytes = read(path, "http.token-file")?;
        let text = String::from_utf8_lossy(&bytes);
        Token::new(&text).map_err(|error| anyhow!("`http.token-file` {}: {error}", shown(path)))
    });
    let certificate = section.certificate.as_ref().map(|(chain, key)| {
        let read_both = (
            read(chain, "http.certificate")?,
            read(key, "http.certificate-key")?,
        );
        Tls::new(&read_both.0, &read_both.1).map_err(|why| {
            let (chain, key) = (shown(chain), shown(key));
            anyhow!("`http.certificate` {chain} with `http.certificate-key` {key}: {why}")
        })
    });
    Ok(RestOptions {
        address: section.address,
        access: Access {
            token: token.transpose()?,
            hosts: section.hosts.clone(),
            read_only: section.read_only,
            savepoint_directories: section.savepoint_dirs.clone(),
        },
        tls: certificate.transpose()?,
        clock: Arc::clone(clock),
        log: &logging::RECENT,
    })
}

/// A small file. A pipe could keep the start waiting for ever.
fn read(path: &Path, key: &str) -> anyhow::Result<Vec<u8>> {
    let read = || {
        if !path.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let message = format!("it has more than {FILE_BYTES_MAX} bytes");
            return Err(io::Error::other(message));
        }
        Ok(bytes)
    };
    read().with_context(|| format!("`{key}` {} cannot be read", shown(path)))
}

/// Warns of a token that others can read: they can end the jobs.
pub(crate) fn warn_of_readers(section: &HttpSection) {
    let Some(path) = section.token_file.as_deref() else {
        return;
    };
    let file = path.metadata();
    if file.is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
        tracing::warn!(
            "`http.token-file` {} is open to other users of this machine: `chmod 600` it",
            shown(path)
        );
    }
}

fn shown(path: &Path) -> String {
    format!("`{}`", name(&path.display().to_string()))
}
