//! Whether a component fits this host: what it exports and imports, told before anything runs.

use std::fmt;

use wasmtime::Engine;
use wasmtime::component::types::{Component, ComponentItem};

use super::imports::INTERFACES;

/// The version of the world that this host speaks.
const VERSION: Version = Version { major: 0, minor: 1 };
/// The interface that an operator exports.
const GUEST: &str = "highwater:operator/guest";
/// Its functions.
const EXPORTS: &[&str] = &[
    "describe",
    "open",
    "process",
    "on-timers",
    "on-watermark",
    "end-of-input",
    "on-checkpoint-complete",
    "migrate",
    "close",
];
/// The packages of WASI 0.2 that this host has.
const WASI: &[&str] = &["io", "cli", "clocks", "random", "filesystem", "sockets"];

/// What a component that fits exports and imports.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// Full name of the exported interface.
    pub(super) export: String,
    /// Version of the world it was built for.
    pub(super) version: String,
    /// Full names of everything it imports.
    pub(super) imports: Vec<String>,
}

/// One reason why a component does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    /// It is a component for something else.
    #[error(
        "it does not export `{GUEST}@{VERSION}.0`, so it is not an operator; it exports {exports}"
    )]
    NotAnOperator {
        /// What it exports.
        exports: String,
    },
    /// It is an operator for another generation of hosts.
    #[error(
        "it is built for version {version} of the interface `{interface}`; this host supports {VERSION}.x"
    )]
    Version {
        /// The interface, without version.
        interface: String,
        /// The version it wants.
        version: String,
    },
    /// An exported function is missing.
    #[error("its `{interface}` lacks the function `{function}`")]
    LacksFunction {
        /// The exported interface.
        interface: String,
        /// The function.
        function: &'static str,
    },
    /// Timers come later.
    #[error("it imports `{0}`, and timers are not supported by this version of the host")]
    Timers(String),
    /// It was built for a newer host.
    #[error(
        "it imports the function `{function}` of `{interface}`, which this version of the host does not have"
    )]
    UnknownFunction {
        /// The imported interface.
        interface: String,
        /// The function.
        function: String,
    },
    /// Nothing here provides it, and no grant would.
    #[error("it imports `{0}`, which this host does not provide")]
    UnknownImport(String),
}

/// Checks a component against the world `highwater:operator/operator`.
///
/// # Errors
/// Everything that does not fit.
pub(super) fn check(engine: &Engine, component: &Component) -> Result<World, Vec<Misfit>> {
    let mut misfits = Vec::new();
    let guest = find_guest(engine, component, &mut misfits);
    let mut imports = Vec::new();
    for (name, item) in component.imports(engine) {
        imports.push(name.to_owned());
        misfits.extend(check_import(engine, name, &item.ty));
    }
    match guest {
        Some((export, version)) if misfits.is_empty() => Ok(World {
            export,
            version,
            imports,
        }),
        _ => Err(misfits),
    }
}

/// The import that needs a network grant, if there is one.
pub(super) fn network_import(imports: &[String]) -> Option<&String> {
    imports
        .iter()
        .find(|import| import.starts_with("wasi:sockets/"))
}

fn find_guest(
    engine: &Engine,
    component: &Component,
    misfits: &mut Vec<Misfit>,
) -> Option<(String, String)> {
    let mut exports = Vec::new();
    for (name, item) in component.exports(engine) {
        let Some((interface, version)) = split(name).filter(|(interface, _)| *interface == GUEST)
        else {
            exports.push(format!("`{name}`"));
            continue;
        };
        if !VERSION.serves(version) {
            misfits.push(Misfit::Version {
                interface: interface.to_owned(),
                version: version.to_owned(),
            });
            return None;
        }
        let ComponentItem::ComponentInstance(instance) = &item.ty else {
            continue;
        };
        let lacking = EXPORTS.iter().filter(|function| !matches!(instance.get_export(engine, function), Some(item) if matches!(item.ty, ComponentItem::ComponentFunc(_))));
        misfits.extend(lacking.map(|function| Misfit::LacksFunction {
            interface: name.to_owned(),
            function,
        }));
        return Some((name.to_owned(), version.to_owned()));
    }
    const SHOWN: usize = 8;
    let more = exports.len().saturating_sub(SHOWN);
    exports.truncate(SHOWN);
    let exports = match (exports.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => exports.join(", "),
        (false, more) => format!("{} and {more} more", exports.join(", ")),
    };
    misfits.push(Misfit::NotAnOperator { exports });
    None
}

fn check_import(engine: &Engine, name: &str, item: &ComponentItem) -> Option<Misfit> {
    let unknown = || Some(Misfit::UnknownImport(name.to_owned()));
    let Some((interface, version)) = split(name) else {
        return unknown();
    };
    if name == super::adapter::INTERFACE {
        return None;
    }
    if let Some(short) = interface.strip_prefix("highwater:operator/") {
        if !VERSION.serves(version) {
            return Some(Misfit::Version {
                interface: interface.to_owned(),
                version: version.to_owned(),
            });
        }
        if short == "timers" {
            return Some(Misfit::Timers(name.to_owned()));
        }
        let Some((_, functions)) = INTERFACES.iter().find(|(known, _)| *known == short) else {
            return unknown();
        };
        let ComponentItem::ComponentInstance(instance) = item else {
            return unknown();
        };
        let newer = instance.exports(engine).find(|(function, item)| {
            matches!(item.ty, ComponentItem::ComponentFunc(_)) && !functions.contains(function)
        });
        return newer.map(|(function, _)| Misfit::UnknownFunction {
            interface: name.to_owned(),
            function: function.to_owned(),
        });
    }
    let is_wasi = interface
        .strip_prefix("wasi:")
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(package, _)| WASI.contains(&package));
    if is_wasi && (Version { major: 0, minor: 2 }).serves(version) {
        None
    } else {
        unknown()
    }
}

/// `package:name/interface@version` in two parts.
fn split(name: &str) -> Option<(&str, &str)> {
    name.split_once('@')
        .filter(|(interface, _)| interface.contains('/'))
}

/// The part of a version that decides whether two sides understand each other.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    major: u64,
    minor: u64,
}

impl Version {
    /// Whether a guest for `version` runs here: versions 0.x differ from each other, drafts as well.
    fn serves(&self, version: &str) -> bool {
        let mut parts = version.splitn(3, '.');
        let number = |part: Option<&str>| part.and_then(|part| part.parse::<u64>().ok());
        let same =
            number(parts.next()) == Some(self.major) && number(parts.next()) == Some(self.minor);
        same && parts
            .next()
            .is_some_and(|patch| patch.parse::<u64>().is_ok())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_of_the_same_track_are_served() {
        for (version, served) in [
            ("0.1.0", true),
            ("0.1.17", true),
            ("0.2.0", false),
            ("1.1.0", false),
            ("0.1.0-draft", false),
            ("0.1", false),
            ("", false),
        ] {
            assert_eq!(VERSION.serves(version), served, "{version}");
        }
    }
}
