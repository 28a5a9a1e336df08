//! What the job file lets a guest reach outside itself. Without a grant it reaches nothing.

use std::collections::HashSet;
use std::path::PathBuf;

use super::grant_error::GrantError;
use super::network::{Endpoint, Network};
use super::secrets::{Secret, Secrets};

/// The grants of an operator, as the job file gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Names of environment variables whose values the guest sees.
    pub env: Vec<String>,
    /// Directories.
    pub dirs: Vec<DirGrant>,
    /// Servers, as `host:port`, to which it may open TCP connections, at public addresses.
    pub network: Vec<String>,
    /// The same, at whatever addresses they have.
    pub private_network: Vec<String>,
    /// Real clocks instead of the processing time of the call.
    pub clock: bool,
    /// Real randomness instead of the same numbers in every run.
    pub random: bool,
    /// What it gets with all that, and with its configuration, and what the host does not show.
    pub secrets: Vec<Secret>,
}

/// A directory that a guest can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirGrant {
    /// Where it is.
    pub host: PathBuf,
    /// Where the guest sees it, an absolute path.
    pub guest: String,
    /// Whether the guest may change what is in it. Such changes are outside every checkpoint.
    pub write: bool,
}

/// Grants whose values were looked up.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) env: Vec<(String, String)>,
    pub(super) dirs: Vec<DirGrant>,
    pub(super) network: Network,
    pub(super) clock: bool,
    pub(super) random: bool,
    pub(super) secrets: Secrets,
}

impl Granted {
    /// Whether nothing that changes reaches a guest: its clocks stand still during a call, and its random numbers are
    /// the same in each instance.
    pub(super) fn is_closed(&self) -> bool {
        let Self {
            env: _,
            dirs,
            network,
            clock,
            random,
            secrets: _,
        } = self;
        dirs.is_empty() && network.is_empty() && !clock && !random
    }
}

impl Grants {
    /// Everything that is wrong with the grants and can be found without the network.
    pub fn problems(&self) -> Vec<GrantError> {
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
        problems.extend(self.endpoints().filter_map(Result::err));
        problems
    }

    fn endpoints(&self) -> impl Iterator<Item = Result<Endpoint, GrantError>> {
        let lists = [
            ("network", &self.network, false),
            ("private-network", &self.private_network, true),
        ];
        lists.into_iter().flat_map(|(key, list, private)| {
            list.iter().map(move |endpoint| {
                Endpoint::parse(endpoint, private).map_err(|problem| GrantError::Endpoint {
                    key,
                    endpoint: endpoint.clone(),
                    problem,
                })
            })
        })
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
            secrets: Secrets::new(&self.secrets),
        })
    }

    /// All grants; looks up the names of servers.
    pub(super) fn resolve(&self) -> Result<Granted, GrantError> {
        let granted = self.without_network()?;
        let endpoints = self.endpoints().collect::<Result<_, _>>()?;
        Ok(Granted {
            network: Network::resolve(endpoints)?,
            ..granted
        })
    }
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
            network: vec!["example.com".into(), "example.com:http".into()],
            private_network: vec!["exa mple:1".into()],
            ..Grants::default()
        };
        let problems: Vec<String> = grants.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "grants.env: the environment variable `HIGHWATER_NO_SUCH_VARIABLE` is not set",
                "grants.env: the environment variable `A=B` is not set",
                "grants.dirs: /no/such/directory is not a directory that can be read",
                "grants.dirs: the guest path `models` is not absolute, or is given twice",
                "grants.dirs: the guest path `/m` is not absolute, or is given twice",
                "grants.network: `example.com` is not of the form host:port",
                "grants.network: `example.com:http` has no port from 1 to 65535",
                "grants.private-network: `exa mple:1` has a host name with characters that no name has",
            ]
        );
    }
}
