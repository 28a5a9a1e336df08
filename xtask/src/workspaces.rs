//! The workspaces of the project.

/// The workspaces: the root, the plugins (another target), the SDK (what operator authors depend on), what
/// makes the bindings of the SDK, what makes components at random, and what fuzzes.
pub(crate) const WORKSPACES: [&str; 6] = [
    ".",
    "plugins",
    "sdk/rust",
    "sdk/bindgen",
    "tests/smith",
    "tests/fuzz",
];
