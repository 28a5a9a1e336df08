//! What the job file lets a guest reach outside itself. Without a grant it reaches nothing.

use std::collections::HashSet;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The grants of an operator, as the job file gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants {
    /// Names of environment variables whose values the guest sees.
    pub(crate) env: Vec<String>,
    /// Directories.
    pub(crate) dirs: Vec<DirGrant>,
    /// Servers, as `host:port`, to which it may open TCP connections.
    pub(crate) network: Vec<String>,
    /// Real clocks instead of the processing time of the call.
    pub(crate) clock: bool,
    /// Real randomness instead of the same numbers in every run.
    pub(crate) random: bool,
}

/// A directory that a guest can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirGrant {
    /// Where it is.
    pub(crate) host: PathBuf,
    /// Where the guest sees it, an absolute path.
    pub(crate) guest: String,
    /// Whether the guest may change what is in it. Such changes are outside every checkpoint.
    pub(crate) write: bool,
}

/// A grant that cannot be given, or one that is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GrantError {
    /// No such variable, so the operator would run with something other than what was meant.
    #[error("grants.env: the environment variable `{0}` is not set")]
    NoVariable(String),
    /// The variable cannot be handed on.
    #[error("grants.env: the environment variable `{0}` is not valid UTF-8")]
    NotText(String),
    /// Not a directory.
    #[error("grants.dirs: {} is not a directory that can be read", .0.display())]
    NoDirectory(PathBuf),
    /// The guest's path is not usable.
    #[error("grants.dirs: the guest path `{0}` is not absolute, or stands twice")]
    GuestPath(String),
    /// Not `host:port`.
    #[error("grants.network: `{0}` is not of the form host:port")]
    Endpoint(String),
    /// The name of a server is not known.
    #[error("grants.network: the address of `{name}` cannot be found: {reason}")]
    Unresolved {
        /// The name.
        name: String,
        /// What the resolver said.
        reason: String,
    },
    /// The component imports what was not granted.
    #[error("the component imports `{import}`, which is not granted; grant it with `{hint}`")]
    Missing {
        /// What it imports.
        import: String,
        /// What to write in the job file.
        hint: &'static str,
    },
}

/// Grants whose values were looked up.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) env: Vec<(String, String)>,
    pub(super) dirs: Vec<DirGrant>,
    pub(super) network: Network,
    pub(super) clock: bool,
    pub(super) random: bool,
}

/// The servers that may be reached.
#[derive(Debug, Default)]
pub(super) struct Network {
    endpoints: Vec<(String, u16)>,
    /// Names change their addresses; what they have had since the start stays allowed.
    addresses: Mutex<HashSet<SocketAddr>>,
}

impl Grants {
    /// Everything that is wrong with the grants and can be told without the network.
    pub(crate) fn problems(&self) -> Vec<GrantError> {
        let mut problems: Vec<GrantError> = self
            .env
            .iter()
            .filter_map(|name| variable(name).err())
            .collect();
        let mut paths = HashSet::new();
        for dir in &self.dirs {
            if std::fs::read_dir(&dir.host).is_err() {
                problems.push(GrantError::NoDirectory(dir.host.clone()));
            }
            if !dir.guest.starts_with('/') || !paths.insert(&dir.guest) {
                problems.push(GrantError::GuestPath(dir.guest.clone()));
            }
        }
        problems.extend(
            self.network
                .iter()
                .filter_map(|endpoint| parse_endpoint(endpoint).err()),
        );
        problems
    }

    /// The grants for a throw-away instance: all but the network.
    pub(super) fn without_network(&self) -> Result<Granted, GrantError> {
        if let Some(problem) = self.problems().into_iter().next() {
            return Err(problem);
        }
        let env = self
            .env
            .iter()
            .map(|name| Ok((name.clone(), variable(name)?)))
            .collect::<Result<_, _>>()?;
        Ok(Granted {
            env,
            dirs: self.dirs.clone(),
            network: Network::default(),
            clock: self.clock,
            random: self.random,
        })
    }

    /// All grants; looks up the names of servers.
    pub(super) fn resolve(&self) -> Result<Granted, GrantError> {
        let granted = self.without_network()?;
        let endpoints = self
            .network
            .iter()
            .map(|endpoint| parse_endpoint(endpoint))
            .collect::<Result<Vec<_>, _>>()?;
        let mut addresses = HashSet::new();
        for (name, port) in &endpoints {
            let unresolved = |reason| GrantError::Unresolved {
                name: name.clone(),
                reason,
            };
            addresses.extend(
                (name.as_str(), *port)
                    .to_socket_addrs()
                    .map_err(|error| unresolved(error.to_string()))?,
            );
        }
        Ok(Granted {
            network: Network {
                endpoints,
                addresses: Mutex::new(addresses),
            },
            ..granted
        })
    }
}

impl Network {
    /// Whether anything may be reached.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The granted ports of the server with this name (or address).
    pub(super) fn ports_of(&self, name: &str) -> Vec<u16> {
        self.endpoints
            .iter()
            .filter(|(host, _)| host.eq_ignore_ascii_case(name))
            .map(|(_, port)| *port)
            .collect()
    }

    /// Allows an address that a granted name has now.
    pub(super) fn allow(&self, address: SocketAddr) {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(canonical(address));
    }

    /// Whether a connection to this address is granted.
    pub(super) fn allows(&self, address: SocketAddr) -> bool {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&canonical(address))
    }
}

/// An address without what does not belong to it: IPv4 in IPv6 clothes, scopes, flow labels.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn variable(name: &str) -> Result<String, GrantError> {
    // `var_os` panics on no name at all, but there is no variable with such a name.
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(GrantError::NoVariable(name.to_owned()));
    }
    let value = std::env::var_os(name).ok_or_else(|| GrantError::NoVariable(name.to_owned()))?;
    value
        .into_string()
        .map_err(|_| GrantError::NotText(name.to_owned()))
}

fn parse_endpoint(endpoint: &str) -> Result<(String, u16), GrantError> {
    let invalid = || GrantError::Endpoint(endpoint.to_owned());
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(invalid)?;
    let port = port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(invalid)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .filter(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
            .ok_or_else(invalid)?,
        None => host,
    };
    let is_bare = !endpoint.starts_with('[');
    if host.is_empty()
        || (is_bare && host.contains(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c)))
    {
        return Err(invalid());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        let grants = Grants {
            env: vec!["HIGHWATER_NO_SUCH_VARIABLE".into(), "A=B".into()],
            dirs: vec![
                DirGrant {
                    host: "/no/such/directory".into(),
                    guest: "models".into(),
                    write: false,
                },
                DirGrant {
                    host: "/".into(),
                    guest: "/m".into(),
                    write: false,
                },
                DirGrant {
                    host: "/".into(),
                    guest: "/m".into(),
                    write: false,
                },
            ],
            network: vec![
                "example.com".into(),
                "example.com:http".into(),
                "exa mple:1".into(),
            ],
            ..Grants::default()
        };
        let problems: Vec<String> = grants.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "grants.env: the environment variable `HIGHWATER_NO_SUCH_VARIABLE` is not set",
                "grants.env: the environment variable `A=B` is not set",
                "grants.dirs: /no/such/directory is not a directory that can be read",
                "grants.dirs: the guest path `models` is not absolute, or stands twice",
                "grants.dirs: the guest path `/m` is not absolute, or stands twice",
                "grants.network: `example.com` is not of the form host:port",
                "grants.network: `example.com:http` is not of the form host:port",
                "grants.network: `exa mple:1` is not of the form host:port",
            ]
        );
    }

    #[test]
    fn only_granted_servers_are_reachable() {
        let grants = Grants {
            network: vec!["127.0.0.1:80".into(), "[::1]:443".into()],
            ..Grants::default()
        };
        let network = grants.resolve().unwrap().network;
        assert!(network.allows("127.0.0.1:80".parse().unwrap()));
        assert!(network.allows("[::ffff:127.0.0.1]:80".parse().unwrap()));
        assert!(network.allows("[::1]:443".parse().unwrap()));
        assert!(!network.allows("127.0.0.1:443".parse().unwrap()));
        assert!(!network.allows("10.0.0.1:80".parse().unwrap()));
        assert_eq!(network.ports_of("127.0.0.1"), [80]);
        assert!(network.ports_of("example.com").is_empty());
    }
}
