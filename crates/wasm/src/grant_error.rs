//! What is wrong with a grant.

use std::net::IpAddr;
use std::path::PathBuf;

/// A grant that cannot be given, or one that is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
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
    #[error("grants.dirs: the guest path `{0}` is not absolute, or is given twice")]
    GuestPath(String),
    /// Not `host:port`.
    #[error("grants.{key}: `{endpoint}` {problem}")]
    Endpoint {
        /// The key that has it.
        key: &'static str,
        /// What it has.
        endpoint: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The name has an address that it may not stand for: a resolver must not choose a machine inside the
    /// firewall.
    #[error("grants.{key}: `{name}` has the address {address}, which is {kind}; {mend}")]
    NotPublic {
        /// The key that has it.
        key: &'static str,
        /// The name.
        name: String,
        /// An address that it has.
        address: IpAddr,
        /// What that is.
        kind: &'static str,
        /// What to do.
        mend: String,
    },
    /// The name of a server is not known.
    #[error("grants.{key}: the address of `{name}` cannot be found: {reason}")]
    Unresolved {
        /// The key that has it.
        key: &'static str,
        /// The name.
        name: String,
        /// What the resolver said.
        reason: String,
    },
}
