//! Every folder of `examples/` does what its README says: its job, run at several parallelisms, gives
//! the expected output, line for line after sorting.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host;
use crate::oracle::{self, assert_same_lines};
use crate::plugins::{self, root};
use crate::scene::Scene;

/// The folders of `examples/`.
pub(crate) fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("examples")).expect("there are examples");
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

/// A copy of an example that shares the plugins with the original and leaves it untouched.
fn copy(folder: &Path) -> Scene {
    // Brings the plugins up to date.
    plugins::component("count");
    let scene = Scene::new();
    for file in fs::read_dir(folder.join("input")).expect("an example has input") {
        let file = file.expect("a readable directory");
        scene.write(
            &format!("input/{}", file.file_name().to_string_lossy()),
            fs::read(file.path()).expect("readable input"),
        );
    }
    let job = fs::read_to_string(folder.join("job.toml")).expect("an example has a job file");
    assert!(
        job.contains("../../plugins/"),
        "components come from the plugins beside the examples"
    );
    scene.write(
        "job.toml",
        job.replace(
            "../../plugins",
            &root().join("plugins").display().to_string(),
        ),
    );
    scene
}

/// Where the expected output of a sink is: `expected.csv` is that of `out/`, `expected-late.csv` that of `late/`.
fn outputs(folder: &Path) -> Vec<(String, Vec<String>)> {
    let files = fs::read_dir(folder).expect("a readable directory");
    let names = files.map(|file| file.expect("a readable directory").file_name());
    let output = |name: &str| {
        let of = name.strip_prefix("expected")?.strip_suffix(".csv")?;
        Some(of.strip_prefix('-').unwrap_or("out").to_owned())
    };
    let outputs = names.filter_map(|name| {
        let name = name.to_str()?;
        Some((output(name)?, expected_in(&folder.join(name))))
    });
    outputs.collect()
}

fn expected(folder: &Path) -> Vec<String> {
    expected_in(&folder.join("expected.csv"))
}

fn expected_in(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("an example has its expected output");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn every_example_gives_its_expected_output_at_parallelism_1_2_and_4() {
    for folder in folders() {
        let scene = copy(&folder);
        let outputs = outputs(&folder);
        assert!(!outputs.is_empty(), "{} expects nothing", folder.display());
        for parallelism in ["1", "2", "4"] {
            for (output, _) in &outputs {
                let output = scene.at(output);
                if output.exists() {
                    fs::remove_dir_all(&output).expect("a directory can be removed");
                }
            }
            host::run(scene.path(), &["run", "job.toml", "-p", parallelism]).with_code(0);
            for (output, expected) in &outputs {
                let what = format!(
                    "`{output}` of {} at parallelism {parallelism}",
                    folder.display()
                );
                assert_same_lines(&scene.output(output), expected, &what);
            }
        }
    }
}

#[test]
fn every_example_passes_the_check() {
    for folder in folders() {
        let scene = copy(&folder);
        let ended = host::run(scene.path(), &["check", "job.toml"]).with_code(0);
        assert!(
            ended.stdout.contains("[job]"),
            "the effective job is printed:\n{}",
            ended.transcript()
        );
    }
}

#[test]
fn the_expected_outputs_are_what_awk_says() {
    let unpacked = Scene::new();
    unpacked.write("words/text", oracle::bible());
    assert_same_lines(
        &expected(&root().join("examples/word-count")),
        &oracle::word_count(&unpacked.at("words")),
        "examples/word-count/expected.csv",
    );
    for month in ["2013-01", "2013-02"] {
        let file = root().join(format!(
            "examples/flight-delays/input/flights-{month}.csv.gz"
        ));
        unpacked.write(&format!("flights/{month}"), oracle::gunzip(&file));
    }
    assert_same_lines(
        &expected(&root().join("examples/flight-delays")),
        &oracle::flight_delays(&unpacked.at("flights")),
        "examples/flight-delays/expected.csv",
    );
}

#[test]
fn awk_and_rust_count_the_same_words() {
    let unpacked = Scene::new();
    unpacked.write("words/text", oracle::verses(3000));
    assert_same_lines(
        &oracle::word_count(&unpacked.at("words")),
        &oracle::count_words(&oracle::verses(3000)),
        "awk and Rust",
    );
}
