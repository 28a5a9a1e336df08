//! What the sources must be like: rules that no compiler checks, checked by walking the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use crate::examples;
use crate::plugins::root;

/// The cases of the conformance list that are promised today. Each is held by a test with its number in
/// its name.
const CONFORMANCE: [RangeInclusive<u32>; 10] = [
    1..=53,
    55..=70,
    72..=74,
    76..=78,
    80..=95,
    100..=105,
    140..=158,
    163..=163,
    166..=166,
    168..=168,
];

/// The crates: name, place, and which of the others each may depend on.
const CRATES: [(&str, &str, &[&str]); 10] = [
    ("dataflow", "crates/dataflow", &[]),
    ("operator", "crates/operator", &["dataflow"]),
    ("checkpoint", "crates/checkpoint", &["dataflow"]),
    (
        "runtime",
        "crates/runtime",
        &["dataflow", "operator", "checkpoint"],
    ),
    ("wasm", "crates/wasm", &["dataflow", "operator"]),
    (
        "job-file",
        "crates/job-file",
        &["dataflow", "operator", "checkpoint"],
    ),
    (
        "formats",
        "crates/formats",
        &["dataflow", "operator", "job-file"],
    ),
    (
        "connectors",
        "crates/connectors",
        &["dataflow", "operator", "checkpoint", "job-file", "formats"],
    ),
    ("server", "crates/server", &["operator"]),
    (
        "host",
        "host",
        &[
            "dataflow",
            "operator",
            "checkpoint",
            "runtime",
            "wasm",
            "job-file",
            "connectors",
            "server",
        ],
    ),
];

/// What only some may depend on, with what begins so.
const HELD_BY: [(&str, &[&str]); 5] = [
    ("wasmtime", &["wasm"]),
    ("toml", &["job-file", "host"]),
    ("clap", &["host"]),
    ("hyper", &["server"]),
    ("anyhow", &["wasm", "connectors", "host"]),
];

/// What is nobody's source: built, or not ours.
const SKIPPED: [&str; 6] = [
    "target",
    ".git",
    "node_modules",
    "out",
    "checkpoints",
    "input",
];

/// Every file with one of these extensions, with its path from the root and its text.
fn sources(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    walk(root(), extensions, &mut found);
    assert!(
        !found.is_empty(),
        "nothing is found below {}",
        root().display()
    );
    found.sort();
    found
}

fn walk(directory: &Path, extensions: &[&str], found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory)
        .expect("a readable directory")
        .flatten()
    {
        let (path, name) = (
            entry.path(),
            entry.file_name().to_string_lossy().into_owned(),
        );
        let kind = entry.file_type().expect("a file has a type");
        if kind.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(&path, extensions, found);
            }
        } else if path
            .extension()
            .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
        {
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{} is not text: {error}", path.display()));
            found.push((
                path.strip_prefix(root())
                    .expect("found below the root")
                    .to_owned(),
                text,
            ));
        }
    }
}

/// A Rust source without its line comments.
fn without_comments(source: &str) -> String {
    source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Fails with all offences.
fn assert_none(offences: &[String], rule: &str) {
    assert!(offences.is_empty(), "{rule}:\n{}", offences.join("\n"));
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not offend.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("SKELE", "TON"),
    ];
    let mut offences = Vec::new();
    for (path, text) in sources(&["rs", "toml", "md", "wit"]) {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                offences.push(format!(
                    "{}:{}: {}",
                    path.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    assert_none(&offences, "these are not finished");
}

#[test]
fn no_module_is_a_drawer() {
    let drawers = [
        "util", "utils", "common", "helper", "helpers", "misc", "types", "shared",
    ];
    let mut offences = Vec::new();
    for (path, _) in sources(&["rs"]) {
        let names = path.components().map(|part| {
            part.as_os_str()
                .to_string_lossy()
                .trim_end_matches(".rs")
                .to_owned()
        });
        if names
            .into_iter()
            .any(|name| drawers.contains(&name.as_str()))
        {
            offences.push(path.display().to_string());
        }
        if path.ends_with("mod.rs") {
            offences.push(format!("{}: `foo.rs` beside `foo/`", path.display()));
        }
    }
    assert_none(
        &offences,
        "a module is named after the concept that it holds",
    );
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let mut offences = Vec::new();
    for (path, text) in sources(&["rs"]) {
        let first = text.lines().find(|line| !line.trim().is_empty());
        // What is beside a module in `tests.rs` belongs to that module; bindings are generated.
        let exempt = path.ends_with("tests.rs") || path.ends_with("bindings.rs");
        if !exempt && !first.is_some_and(|line| line.starts_with("//!")) {
            offences.push(path.display().to_string());
        }
    }
    assert_none(&offences, "a file begins with module docs");
}

/// The `Cargo.toml` of a package.
fn manifest(package: &str) -> toml::Table {
    let path = root().join(package).join("Cargo.toml");
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    text.parse()
        .unwrap_or_else(|error| panic!("{} is not TOML: {error}", path.display()))
}

/// The names that a `Cargo.toml` has under `[dependencies]`.
fn dependencies(package: &str) -> BTreeSet<String> {
    let manifest = manifest(package);
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table
        .map(|table| table.keys().cloned().collect())
        .unwrap_or_default()
}

#[test]
fn a_crate_depends_on_what_it_may_and_on_nothing_else_of_ours() {
    let mut offences = Vec::new();
    for (name, place, allowed) in CRATES {
        for dependency in dependencies(place) {
            let is_ours = CRATES.iter().any(|(other, ..)| *other == dependency);
            let is_held = HELD_BY.iter().any(|(held, by)| {
                let is_it = dependency == *held || dependency.starts_with(&format!("{held}-"));
                is_it && !by.contains(&name)
            });
            if is_held || (is_ours && !allowed.contains(&dependency.as_str())) {
                offences.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    assert_none(&offences, "see `CRATES` and `HELD_BY`, and ARCHITECTURE.md");
}

/// Faults, contracts and simulations are for tests: nothing that is released asks for them.
#[test]
fn what_is_for_tests_is_in_no_release() {
    let mut offences = Vec::new();
    for (name, place, _) in CRATES {
        let manifest = manifest(place);
        let table = |key: &str| manifest.get(key).and_then(toml::Value::as_table);
        let asks = |value: &toml::Value| value.to_string().contains("testing");
        for (dependency, value) in table("dependencies").into_iter().flatten() {
            if asks(value) {
                offences.push(format!("{name} depends on {dependency} with `testing`"));
            }
        }
        for (feature, value) in table("features").into_iter().flatten() {
            if feature != "testing" && asks(value) {
                offences.push(format!(
                    "the feature `{feature}` of {name} has `testing` in it"
                ));
            }
        }
    }
    assert_none(&offences, "`testing` is for `[dev-dependencies]`");
}

#[test]
fn the_architecture_draws_the_crates_as_they_are() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("it can be read");
    for (name, place, allowed) in CRATES {
        let depends: BTreeSet<String> = dependencies(place)
            .into_iter()
            .filter(|dependency| allowed.contains(&dependency.as_str()))
            .collect();
        let depends: Vec<String> = depends.iter().map(|name| format!("`{name}`")).collect();
        let depends = match depends.is_empty() {
            true => "–".to_owned(),
            false => depends.join(", "),
        };
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| `{place}` |")));
        let row = row.unwrap_or_else(|| panic!("ARCHITECTURE.md has no row of `{place}`"));
        assert!(
            row.contains(&format!("| {depends} |")),
            "the row of {name} should say that it depends on {depends}: {row}"
        );
    }
}

#[test]
fn dataflow_is_pure() {
    let impure = [
        "async fn",
        "std::fs",
        "std::net",
        "std::time",
        "tokio",
        "Instant::now",
        "SystemTime",
    ];
    let mut offences = Vec::new();
    for (path, text) in sources(&["rs"])
        .iter()
        .filter(|(path, _)| path.starts_with("crates/dataflow/src"))
    {
        let text = without_comments(text);
        offences.extend(
            impure
                .iter()
                .filter(|word| text.contains(*word))
                .map(|word| format!("{}: {word}", path.display())),
        );
    }
    let dependencies = dependencies("crates/dataflow");
    offences.extend(
        ["tokio", "futures", "rand", "tracing"]
            .iter()
            .filter(|name| dependencies.contains(**name))
            .map(|name| format!("depends on {name}")),
    );
    assert_none(
        &offences,
        "dataflow has no async, no input or output, no clock",
    );
}

#[test]
fn unsafe_code_is_in_one_place_at_most() {
    let mut places = Vec::new();
    for (path, text) in sources(&["rs"])
        .iter()
        .filter(|(path, _)| path.starts_with("crates") || path.starts_with("host"))
    {
        let text = without_comments(text);
        if text.contains("unsafe {") || text.contains("unsafe fn") || text.contains("unsafe impl") {
            places.push(path.display().to_string());
        }
    }
    assert!(places.len() <= 1, "unsafe code in {places:?}");
}

#[test]
fn every_plugin_has_a_test() {
    let mut offences = Vec::new();
    let mut plugin_count = 0;
    for entry in fs::read_dir(root().join("plugins"))
        .expect("there are plugins")
        .flatten()
    {
        if !entry.path().join("Cargo.toml").is_file() {
            continue;
        }
        plugin_count += 1;
        let mut files = Vec::new();
        walk(&entry.path(), &["rs"], &mut files);
        if files.iter().all(|(_, text)| tests_of(text).is_empty()) {
            offences.push(entry.path().display().to_string());
        }
    }
    assert!(plugin_count > 0, "no plugin found");
    assert_none(&offences, "a plugin has a test");
}

#[test]
fn every_example_is_complete() {
    let mut offences = Vec::new();
    for folder in examples::folders() {
        for file in ["README.md", "job.toml", "input", "expected.csv"] {
            if !folder.join(file).exists() {
                offences.push(folder.join(file).display().to_string());
            }
        }
        let name = folder
            .file_name()
            .expect("a folder has a name")
            .to_string_lossy()
            .into_owned();
        let mentioned = fs::read_to_string(root().join("README.md"))
            .expect("there is a README")
            .contains(&format!("examples/{name}"));
        if !mentioned {
            offences.push(format!("README.md does not mention examples/{name}"));
        }
    }
    assert_none(&offences, "these are missing");
}

/// The names of the functions of a source that a test run calls: marked `#[test]`, not `#[ignore]`, and not in
/// a comment. So neither a helper nor a text that is named like a test counts as one.
fn tests_of(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut is_test, mut is_ignored) = (false, false);
    for line in without_comments(source).lines().map(str::trim) {
        match line {
            "#[test]" => is_test = true,
            _ if line.starts_with("#[tokio::test") => is_test = true,
            _ if line.starts_with("#[ignore") => is_ignored = true,
            // Another attribute, or its further lines.
            _ if line.starts_with("#[") || line.is_empty() => {}
            _ => {
                let rest = line.strip_prefix("async ").unwrap_or(line);
                let Some(rest) = rest.strip_prefix("fn ") else {
                    continue;
                };
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                if is_test && !is_ignored {
                    names.push(rest[..end.unwrap_or(rest.len())].to_owned());
                }
                (is_test, is_ignored) = (false, false);
            }
        }
    }
    names
}

/// The names of all tests of all sources.
fn tests() -> Vec<String> {
    let sources = sources(&["rs"]);
    let tests = sources.iter().flat_map(|(_, text)| tests_of(text));
    tests.collect()
}

#[test]
fn tests_are_functions_that_are_run() {
    let source = "\
// #[test] fn c01_in_a_comment() {}
#[test]
#[allow(dead_code, reason = \"x\")]
fn c02_a_test() { let text = \"fn c03_in_a_text()\"; }
fn c04_a_helper() {}
#[test]
#[ignore = \"later\"]
fn c05_ignored() {}
    #[tokio::test(start_paused = true)]
    async fn c06_c07_in_a_module() {}
#[cfg(test)]
mod c08_a_module {}
";
    assert_eq!(tests_of(source), ["c02_a_test", "c06_c07_in_a_module"]);
}

/// Whether one of these tests holds a case. One test may hold two that say the same of different moments.
fn is_held(tests: &[String], case: u32) -> bool {
    let (first, further) = (format!("c{case:02}_"), format!("_c{case:02}_"));
    tests
        .iter()
        .any(|name| name.starts_with(&first) || name.contains(&further))
}

#[test]
fn every_promised_conformance_case_has_a_test() {
    let tests = tests();
    let held = |number: &u32| is_held(&tests, *number);
    let missing: Vec<String> = CONFORMANCE
        .into_iter()
        .flatten()
        .filter(|number| !held(number))
        .map(|number| number.to_string())
        .collect();
    assert_none(&missing, "no test has this name");
}

/// The rows of the table in `docs/security.md` that say who is not trusted, without its heading.
fn threats() -> Vec<Vec<String>> {
    let text =
        fs::read_to_string(root().join("docs/security.md")).expect("there is docs/security.md");
    let (_, section) = text
        .split_once("## What is not trusted\n")
        .expect("it says who is not trusted");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    });
    cells.collect()
}

#[test]
fn c168_every_line_of_what_is_not_trusted_has_a_test() {
    let tests = tests();
    let mut offences = Vec::new();
    let threats = threats();
    assert!(threats.len() > 10, "the table is not found: {threats:?}");
    for threat in threats {
        let [_, tries, _, cases] = threat.as_slice() else {
            offences.push(format!("{threat:?}: four cells are expected"));
            continue;
        };
        // Who can try nothing needs no test.
        if cases.is_empty() && tries != "–" {
            offences.push(format!("{threat:?}: no case"));
        }
        for case in cases.split(", ").filter(|case| !case.is_empty()) {
            let held = case.parse().is_ok_and(|case| is_held(&tests, case));
            if !held {
                offences.push(format!("{threat:?}: no test holds case {case}"));
            }
        }
    }
    assert_none(
        &offences,
        "docs/security.md: what is not trusted is attacked",
    );
}

#[test]
fn documents_name_files_that_exist() {
    let mut offences = Vec::new();
    for (path, text) in sources(&["md"]) {
        let directory = root().join(path.parent().expect("a file has a directory"));
        for (link, _) in links(&text) {
            if !directory.join(&link).exists() {
                offences.push(format!("{}: link to {link}", path.display()));
            }
        }
        for name in names_in_code(&text) {
            if !root().join(&name).exists() && !directory.join(&name).exists() {
                offences.push(format!("{}: `{name}`", path.display()));
            }
        }
    }
    assert_none(&offences, "these files are gone");
}

/// The targets of links into this repository: a file and what follows `#`, each perhaps empty.
fn links(text: &str) -> Vec<(String, String)> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target);
    let relative =
        targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    relative
        .map(|target| target.split_once('#').unwrap_or((target, "")))
        .map(|(file, anchor)| (file.to_owned(), anchor.to_owned()))
        .collect()
}

/// Places in documents that a source names, in a message or a comment: `docs/a.md#part` as file and part.
fn named_places(text: &str) -> Vec<(String, String)> {
    let is_part = |c: char| c.is_alphanumeric() || "-_".contains(c);
    let is_path = |c: char| is_part(c) || "./".contains(c);
    let places = text.match_indices(".md#").filter_map(|(at, mark)| {
        let path = text[..at].rsplit(|c| !is_path(c)).next()?;
        let part = text[at + mark.len()..].split(|c| !is_part(c)).next()?;
        (!path.is_empty() && !part.is_empty()).then(|| (format!("{path}.md"), part.to_owned()))
    });
    places.collect()
}

/// What the headings of a document can be linked by: lower case, without punctuation, `-` for a space, and
/// a number after one that is there already.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut in_block = false;
    for line in text.lines() {
        in_block ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if in_block || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let anchor: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut numbers = 1..;
        let mut wanted = anchor.clone();
        while !anchors.insert(wanted) {
            wanted = format!("{anchor}-{}", numbers.next().unwrap_or_default());
        }
    }
    anchors
}

#[test]
fn links_lead_to_headings_that_exist() {
    let documents: BTreeMap<PathBuf, String> = sources(&["md"]).into_iter().collect();
    let has = |path: &Path, anchor: &str| {
        let text = documents.get(path);
        text.is_some_and(|text| anchors(text).contains(anchor))
    };
    let mut offences = Vec::new();
    for (path, text) in &documents {
        for (file, anchor) in links(text).into_iter().filter(|(_, part)| !part.is_empty()) {
            let target = match file.as_str() {
                "" => path.clone(),
                file => normal(&path.with_file_name(file)),
            };
            if !has(&target, &anchor) {
                offences.push(format!("{}: {file}#{anchor}", path.display()));
            }
        }
    }
    for (path, text) in sources(&["rs", "toml", "wit", "json", "py"]) {
        for (file, anchor) in named_places(&text) {
            // This file has some that are made up.
            if !has(&normal(Path::new(&file)), &anchor) && !path.ends_with("tidy.rs") {
                offences.push(format!("{}: {file}#{anchor}", path.display()));
            }
        }
    }
    assert_none(&offences, "no heading of that document is called so");
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

#[test]
fn every_file_of_these_tests_is_one_of_its_modules() {
    let main = fs::read_to_string(root().join("tests/it/main.rs")).expect("there is main.rs");
    let mut files = Vec::new();
    walk(&root().join("tests/it"), &["rs"], &mut files);
    let mut offences = Vec::new();
    for (path, _) in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_module = main
            .lines()
            .any(|line| line.starts_with(&format!("mod {name};")));
        if name != "main" && !is_module {
            offences.push(path.display().to_string());
        }
    }
    assert_none(&offences, "nobody runs the tests of these files");
}

/// What stands in backticks and looks like a path of this repository.
fn names_in_code(text: &str) -> Vec<String> {
    let places = [
        "crates/",
        "host/",
        "sdk/",
        "plugins/",
        "examples/",
        "tests/",
        "xtask/",
        "docs/",
        "wit/",
        "bench/",
        ".ci/",
    ];
    let mut names = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        let code = line.split('`').skip(1).step_by(2);
        let paths = code.filter(|code| places.iter().any(|place| code.starts_with(place)));
        names.extend(
            paths
                .filter(|path| {
                    !path.contains(['*', '<', '…', ' ', '{', ':']) && !path.contains("target/")
                })
                .map(str::to_owned),
        );
    }
    names
}

#[test]
fn links_and_names_are_found_in_a_text() {
    let pair = |file: &str, part: &str| (file.to_owned(), part.to_owned());
    assert_eq!(
        links("see [a](docs/a.md#part), [b](https://b.example), [c](#c) and [d](d.md)"),
        [pair("docs/a.md", "part"), pair("", "c"), pair("d.md", "")]
    );
    assert_eq!(
        named_places("hint: see docs/a.md#the-part; and (`../b.md#c`), not x.md# nor y.md"),
        [pair("docs/a.md", "the-part"), pair("../b.md", "c")]
    );
    let text = "# `_metadata`, once\n## One\n```\n# no heading\n```\n### One\n#no\n";
    let found: Vec<String> = anchors(text).into_iter().collect();
    assert_eq!(found, ["_metadata-once", "one", "one-1"]);
    assert_eq!(
        names_in_code("`docs/a.md` and `crates/*/src`\n```\n`docs/b.md`\n```\n"),
        ["docs/a.md"]
    );
}
