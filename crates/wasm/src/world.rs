//! Whether a component fits this host: what it exports and imports, checked before it is compiled.

use std::fmt;

use operator::text::name;
use wasmtime::Engine;
use wasmtime::component::types::{Component, ComponentItem};

use super::imports::interfaces;

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
/// What this host has of WASI 0.2: each package with its interfaces. It is all that there is, but for
/// `wasi:http`.
pub(super) const WASI: &[(&str, &[&str])] = &[
    ("io", &["error", "poll", "streams"]),
    (
        "cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("clocks", &["monotonic-clock", "wall-clock"]),
    ("random", &["random", "insecure", "insecure-seed"]),
    ("filesystem", &["types", "preopens"]),
    (
        "sockets",
        &[
            "network",
            "instance-network",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
            "ip-name-lookup",
        ],
    ),
];

/// A version of the world that this host speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorldVersion {
    /// `wit/0.1/operator.wit`.
    V01,
    /// `wit/operator.wit`.
    V02,
}

impl WorldVersion {
    /// All of them, the oldest first.
    pub(super) const ALL: [Self; 2] = [Self::V01, Self::V02];

    /// The part that decides whether two sides understand each other.
    fn track(self) -> Version {
        match self {
            Self::V01 => Version { major: 0, minor: 1 },
            Self::V02 => Version { major: 0, minor: 2 },
        }
    }

    /// The version of which `text` is: that of a component or of an interface that it imports.
    pub(super) fn of(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.track().serves(text))
    }

    /// The full name of an interface of this version, as the host gives it.
    pub(super) fn interface(self, short: &str) -> String {
        format!("highwater:operator/{short}@{}.0", self.track())
    }
}

/// What a component that fits exports and imports.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// Full name of the exported interface.
    pub(super) export: String,
    /// Version of the world it was built for, as the component says it.
    pub(super) version: String,
    /// The version by which the host speaks with it.
    pub(super) speaks: WorldVersion,
    /// Full names of everything it imports.
    pub(super) imports: Vec<String>,
}

/// One reason why a component does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It is a component for something else.
    #[error(
        "it exports neither {}, so it is not an operator; it exports {exports}",
        guests()
    )]
    NotAnOperator {
        /// What it exports.
        exports: String,
    },
    /// It is an operator for another generation of hosts.
    #[error(
        "it is built for version {version} of the interface `{interface}`; this host supports {}",
        tracks()
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
    /// Nothing here provides them, and no grant would.
    #[error("it imports {}, which this host does not provide", list(.0, UNKNOWN_SHOWN))]
    UnknownImports(Vec<String>),
}

/// What a component exports and imports, as far as the world asks for it. It is found twice: in the bytes,
/// before they are compiled, and by the code that will run.
#[derive(Debug, Default)]
pub(super) struct Surface {
    /// What it exports, in its order.
    pub(super) exports: Vec<Item>,
    /// What it imports, in its order.
    pub(super) imports: Vec<Item>,
}

/// Something that is exported or imported.
#[derive(Debug)]
pub(super) struct Item {
    /// Its full name.
    pub(super) name: String,
    /// Of an interface the names of its functions; `None` if it is no interface.
    pub(super) functions: Option<Vec<String>>,
}

impl Surface {
    /// What compiled code exports and imports.
    pub(super) fn of(engine: &Engine, component: &Component) -> Self {
        let item = |(name, item): (&str, &ComponentItem)| {
            let functions = match item {
                ComponentItem::ComponentInstance(instance) => Some(
                    instance
                        .exports(engine)
                        .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)))
                        .map(|(function, _)| function.to_owned())
                        .collect(),
                ),
                _ => None,
            };
            Item {
                name: name.to_owned(),
                functions,
            }
        };
        Self {
            exports: component
                .exports(engine)
                .map(|(name, export)| item((name, &export.ty)))
                .collect(),
            imports: component
                .imports(engine)
                .map(|(name, import)| item((name, &import.ty)))
                .collect(),
        }
    }
}

/// Checks a component against the world `highwater:operator/operator`.
///
/// # Errors
/// Everything that does not fit.
pub(super) fn check(surface: &Surface) -> Result<World, Vec<Misfit>> {
    let mut misfits = Vec::new();
    let guest = find_guest(&surface.exports, &mut misfits);
    let mut unknown = Vec::new();
    for import in &surface.imports {
        match check_import(import) {
            Ok(()) => {}
            Err(Some(misfit)) => misfits.push(misfit),
            Err(None) => unknown.push(name(&import.name).into_owned()),
        }
    }
    if !unknown.is_empty() {
        misfits.push(Misfit::UnknownImports(unknown));
    }
    match guest {
        Some((export, version, speaks)) if misfits.is_empty() => Ok(World {
            export,
            version,
            speaks,
            imports: surface
                .imports
                .iter()
                .map(|import| import.name.clone())
                .collect(),
        }),
        _ => Err(misfits),
    }
}

/// Misfits in one line, the first of them if there are many.
pub(super) fn join(misfits: &[Misfit]) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = misfits
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    let more = misfits.len().saturating_sub(SHOWN);
    if more > 0 {
        shown.push(format!("and {more} more of the kind"));
    }
    shown.join("; ")
}

/// How many imports are listed that the host does not have: more than the interfaces of any system interface.
const UNKNOWN_SHOWN: usize = 40;

/// Names in quotes, the first of them if there are many.
fn list(names: &[String], shown: usize) -> String {
    let more = names.len().saturating_sub(shown);
    let mut text = names[..names.len() - more]
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// The interfaces by which a component is an operator.
fn guests() -> String {
    WorldVersion::ALL
        .map(|version| format!("`{}`", version.interface("guest")))
        .join(" nor ")
}

/// The versions that this host supports.
fn tracks() -> String {
    WorldVersion::ALL
        .map(|version| format!("{}.x", version.track()))
        .join(" and ")
}

/// The exported interface by which a component is an operator, with its version. Of two that the host
/// supports the newer one counts.
fn find_guest(items: &[Item], misfits: &mut Vec<Misfit>) -> Option<(String, String, WorldVersion)> {
    let mut found: Option<(&Item, &str, WorldVersion)> = None;
    let mut other = None;
    let mut exports = Vec::new();
    for item in items {
        let Some((interface, version)) =
            split(&item.name).filter(|(interface, _)| *interface == GUEST)
        else {
            exports.push(name(&item.name).into_owned());
            continue;
        };
        match WorldVersion::of(version) {
            None => {
                other.get_or_insert_with(|| Misfit::Version {
                    interface: interface.to_owned(),
                    version: name(version).into_owned(),
                });
            }
            Some(speaks) if item.functions.is_some() => {
                if found.is_none_or(|(.., older)| older.track().minor < speaks.track().minor) {
                    found = Some((item, version, speaks));
                }
            }
            Some(_) => {}
        }
    }
    if let Some((item, version, speaks)) = found {
        let functions = item.functions.iter().flatten().collect::<Vec<_>>();
        let lacking = EXPORTS
            .iter()
            .filter(|function| !functions.iter().any(|found| found == *function));
        misfits.extend(lacking.map(|function| Misfit::LacksFunction {
            interface: name(&item.name).into_owned(),
            function,
        }));
        return Some((item.name.clone(), version.to_owned(), speaks));
    }
    if let Some(other) = other {
        misfits.push(other);
        return None;
    }
    const SHOWN: usize = 8;
    let exports = match exports.is_empty() {
        true => "nothing".to_owned(),
        false => list(&exports, SHOWN),
    };
    misfits.push(Misfit::NotAnOperator { exports });
    None
}

/// Whether the host has what is imported; if not, why, unless all that can be said is that it has not.
fn check_import(item: &Item) -> Result<(), Option<Misfit>> {
    let Some((interface, version)) = split(&item.name) else {
        return Err(None);
    };
    if item.name == super::adapter::INTERFACE {
        return Ok(());
    }
    if let Some(short) = interface.strip_prefix("highwater:operator/") {
        let Some(version) = WorldVersion::of(version) else {
            return Err(Some(Misfit::Version {
                interface: name(interface).into_owned(),
                version: name(version).into_owned(),
            }));
        };
        let mut interfaces = interfaces(version);
        let known = interfaces.find(|(known, _)| *known == short);
        let (Some((_, known)), Some(functions)) = (known, &item.functions) else {
            return Err(None);
        };
        let newer = functions
            .iter()
            .find(|function| !known.contains(&function.as_str()));
        return newer.map_or(Ok(()), |function| {
            Err(Some(Misfit::UnknownFunction {
                interface: name(&item.name).into_owned(),
                function: name(function).into_owned(),
            }))
        });
    }
    let is_wasi = interface
        .strip_prefix("wasi:")
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(package, interface)| {
            WASI.iter()
                .any(|(known, interfaces)| *known == package && interfaces.contains(&interface))
        });
    if is_wasi && (Version { major: 0, minor: 2 }).serves(version) {
        Ok(())
    } else {
        Err(None)
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
            ("0.1.0", Some(WorldVersion::V01)),
            ("0.1.17", Some(WorldVersion::V01)),
            ("0.2.0", Some(WorldVersion::V02)),
            ("0.3.0", None),
            ("1.1.0", None),
            ("1.2.0", None),
            ("0.1.0-draft", None),
            ("0.2.0-draft", None),
            ("0.1", None),
            ("", None),
        ] {
            assert_eq!(WorldVersion::of(version), served, "{version}");
        }
    }
}
