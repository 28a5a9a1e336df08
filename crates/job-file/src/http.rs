//! `[http]`: where the REST API, the metrics and the web page are served, and to whom.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::checkpoint::absolute;
use super::section::Section;

/// Where the REST API is served, and to whom.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpSection {
    /// The address; port 0 is any that is free.
    pub address: SocketAddr,
    /// The file with the token that clients have to show, absolute.
    pub token_file: Option<PathBuf>,
    /// The files with the certificate chain and its private key, absolute.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Names by which the host is reached, beside addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Below which directories clients may have savepoints written: absolute paths and URLs.
    pub savepoint_dirs: Vec<String>,
}

/// Reads an address: one with a port, or `localhost` with a port.
///
/// # Errors
/// It is none, in words.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let local = text
        .strip_prefix("localhost:")
        .and_then(|port| port.parse().ok())
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    match local {
        Some(address) => Ok(address),
        None => text.parse().map_err(|_| {
            format!("`{text}` is no address and port, such as `127.0.0.1:8081` or `[::1]:8081`")
        }),
    }
}

/// Checks a directory below which clients may have savepoints written.
///
/// # Errors
/// It is everything, or nothing, in words.
pub fn check_savepoint_dir(dir: &str) -> Result<(), String> {
    let below = dir.split_once("://").map_or(dir, |(_, rest)| rest);
    match below.trim_matches(['/', '.', ' ']).is_empty() {
        true => Err(format!(
            "`{dir}` is not a directory below which savepoints may be written: name one, such as `/var/savepoints`"
        )),
        false => Ok(()),
    }
}

/// What is wrong with an address that others than this machine reach, where no token is wanted.
pub const NO_TOKEN: &str =
    "others than this machine reach this address, so a token is wanted of them";

/// How it is mended.
pub const NO_TOKEN_HINT: &str = "set `http.token-file` to a file with a token of at least 16 characters, or listen on `127.0.0.1`";

impl HttpSection {
    /// Reads the section. `None` when it is wrong.
    pub fn read(mut section: Section<'_, '_>, base: &Path) -> Option<Self> {
        let path = |section: &mut Section<'_, '_>, key| {
            let path = section.string(key);
            path.map(|path| absolute(&base.join(path)))
        };
        let token_file = path(&mut section, "token-file");
        let chain = path(&mut section, "certificate");
        let key = path(&mut section, "certificate-key");
        let certificate = match (chain, key) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) => None,
            (chain, _) => {
                let (there, missing) = match chain {
                    Some(_) => ("certificate", "certificate-key"),
                    None => ("certificate-key", "certificate"),
                };
                let message = format!("there is no `{missing}`");
                let hint = "TLS needs both: a certificate chain and its private key, in PEM";
                section.problem(there, message, Some(hint.to_owned()));
                None
            }
        };
        let hosts = section.strings("hosts").unwrap_or_default();
        let read_only = section.boolean("read-only").unwrap_or(false);
        let savepoint_dirs = section.strings("savepoint-dirs").unwrap_or_default();
        for dir in &savepoint_dirs {
            if let Err(message) = check_savepoint_dir(dir) {
                section.problem("savepoint-dirs", message, None);
            }
        }
        let place = |dir: String| match dir.contains("://") {
            true => dir,
            false => absolute(&base.join(dir)).display().to_string(),
        };
        let address = match parse_address(&section.required("address", "127.0.0.1:8081")?) {
            Ok(address) => address,
            Err(message) => {
                section.problem("address", message, None);
                return None;
            }
        };
        if !address.ip().is_loopback() && token_file.is_none() {
            section.problem("address", NO_TOKEN, Some(NO_TOKEN_HINT.to_owned()));
        }
        Some(Self {
            address,
            token_file,
            certificate,
            hosts,
            read_only,
            savepoint_dirs: savepoint_dirs.into_iter().map(place).collect(),
        })
    }
}
