//! The components of `plugins/`, and bytes that are none.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    // Several packages have this file among their tests.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|above| above.join("Cargo.lock").is_file())
        .expect("the package is part of a workspace")
}

/// The component that the plugin `name` ships. Brings all of them up to date first, once.
pub(crate) fn component(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| build(&root().join("plugins"), &["--locked"]));
    let path = root()
        .join("plugins/target/wasm32-wasip2/release")
        .join(format!("{}.wasm", name.replace('-', "_")));
    assert!(path.is_file(), "no plugin makes {}", path.display());
    path
}

/// Builds the packages of a workspace into components.
pub(crate) fn build(workspace: &Path, arguments: &[&str]) {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(workspace)
        .args(["build", "--release", "--target", "wasm32-wasip2"])
        .args(arguments);
    // The tests' own settings must not reach another workspace.
    for variable in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        cargo.env_remove(variable);
    }
    let output = cargo.output().expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{} does not build:\n{said}",
        workspace.display()
    );
}

/// The same component with other bytes, and so another digest: a custom section more at its end.
pub(crate) fn rebuilt(component: &[u8]) -> Vec<u8> {
    let (name, content) = (b"rebuilt", b"once more");
    let mut bytes = component.to_vec();
    bytes.push(0);
    bytes.push((1 + name.len() + content.len()) as u8);
    bytes.push(name.len() as u8);
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(content);
    bytes
}
