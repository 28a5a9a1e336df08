//! Checkpoints of every format version that was ever written are read and restored. Conformance 55.
//!
//! Method: `tests/fixtures/` has the directory of a suspended job for each version, with what its newest
//! checkpoint was exported as at the time.

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::metadata::FORMAT_VERSION;

use crate::host;
use crate::oracle::assert_same_lines;
use crate::plugins::{component, root};
use crate::scene::{Scene, all_files};

/// The fixture of a version.
fn fixture(version: u32) -> PathBuf {
    root().join(format!("tests/fixtures/format-{version}"))
}

/// A copy of the job of a fixture, with `parts` of its directory, and the components that it names.
fn copied(version: u32, parts: &[&str]) -> Scene {
    let scene = Scene::new();
    for file in all_files(&fixture(version)) {
        let name = file.strip_prefix(fixture(version)).expect("it is below");
        if parts.iter().any(|part| name.starts_with(part)) {
            let name = name.to_str().expect("our names are Unicode");
            scene.write(name, fs::read(&file).expect("a readable file"));
        }
    }
    for plugin in ["history", "count"] {
        let bytes = fs::read(component(plugin)).expect("a component");
        scene.write(&format!("{plugin}.wasm"), bytes);
    }
    scene
}

/// The newest checkpoint of a fixture.
fn newest(directory: &Path) -> PathBuf {
    directory.join("checkpoints/fixture/chk-2")
}

#[test]
fn c55_a_checkpoint_of_every_format_version_is_exported_as_it_was_then() {
    for version in 1..=FORMAT_VERSION {
        let scene = Scene::new();
        let checkpoint = newest(&fixture(version));
        let metadata = fs::read(checkpoint.join("_metadata"))
            .unwrap_or_else(|error| panic!("format version {version} has no fixture: {error}"));
        assert_eq!(
            metadata[8..12],
            version.to_le_bytes(),
            "it is of this version"
        );
        let checkpoint = checkpoint.display().to_string();
        host::run(scene.path(), &["checkpoints", "verify", &checkpoint]).with_code(0);
        let exported = host::run(scene.path(), &["checkpoints", "export", &checkpoint]);
        let exported = exported.with_code(0).stdout;
        let then = fixture(version).join("exported.jsonl");
        let then = fs::read_to_string(then).expect("it was exported");
        for kind in ["value", "map", "list"] {
            assert!(then.contains(&format!("\"kind\":\"{kind}\"")), "{kind}");
        }
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let what = format!("export of format version {version}");
        assert_same_lines(&lines(&exported), &lines(&then), &what);
    }
}

#[test]
fn c55_a_job_goes_on_from_a_checkpoint_of_every_format_version() {
    for version in 1..=FORMAT_VERSION {
        let undisturbed = copied(version, &["job.toml"]);
        host::run(undisturbed.path(), &["run", "job.toml"]).with_code(0);
        for parallelism in ["2", "3"] {
            let scene = copied(version, &["job.toml", "checkpoints", "seen", "totals"]);
            assert!(!scene.output("seen").is_empty(), "it had output");
            let resume = ["run", "job.toml", "--resume", "-p", parallelism];
            host::run(scene.path(), &resume)
                .with_code(0)
                .saying(&["restoring from checkpoint 2"]);
            for sink in ["seen", "totals"] {
                let expected = undisturbed.output(sink);
                assert!(!expected.is_empty());
                let what = format!("`{sink}` from format version {version}");
                assert_same_lines(&scene.output(sink), &expected, &what);
            }
        }
    }
}
