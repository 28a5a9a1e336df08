//! The README keeps its word: its job file runs, its commands exist. The tutorial can be followed.

use std::collections::BTreeMap;
use std::fs;

use crate::host;
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::plugins::{self, root};
use crate::scene::Scene;

/// The text of a document at the root.
fn document(name: &str) -> String {
    fs::read_to_string(root().join(name))
        .unwrap_or_else(|error| panic!("cannot read {name}: {error}"))
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    blocks
        .filter_map(|rest| rest.split_once("```"))
        .map(|(block, _)| block.to_owned())
        .collect()
}

#[test]
fn the_job_file_of_the_readme_counts_words() {
    let job = blocks(&document("README.md"), "toml")
        .pop()
        .expect("the README shows a job file");
    let scene = Scene::new();
    for name in ["split", "count"] {
        scene.write(
            &format!("{name}.wasm"),
            fs::read(plugins::component(name)).expect("a component"),
        );
    }
    let text = root().join("examples/word-count/input/kjv-old-testament.txt.gz");
    scene.write(
        "input/text.txt.gz",
        fs::read(text).expect("the example's input"),
    );
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let expected = Scene::new();
    expected.write("words/text", oracle::bible());
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&expected.at("words")),
        "output of the README's job",
    );
}

/// Whole job files only: other blocks of TOML show a part of one, or something else.
#[test]
fn every_job_file_in_the_documents_runs() {
    let mut jobs = 0;
    let documents = fs::read_dir(root().join("docs")).expect("the directory of documents");
    for document in documents.flatten() {
        let name = document.file_name().to_string_lossy().into_owned();
        // The job of the tutorial has a component of its own, and a test.
        if !name.ends_with(".md") || name == "tutorial.md" {
            continue;
        }
        let text = fs::read_to_string(document.path()).expect("a document");
        for job in blocks(&text, "toml") {
            if !job.contains("[[source]]") || !job.contains("[[sink]]") {
                continue;
            }
            println!("a job file of docs/{name}:\n{job}");
            let scene = Scene::new();
            scene.write("input/some.txt", oracle::verses(20));
            for rest in job.split("component = \"").skip(1) {
                let file = rest.split('"').next().expect("a file");
                let plugin = file.strip_suffix(".wasm").expect("a component");
                let component = fs::read(plugins::component(plugin)).expect("a component");
                scene.write(file, component);
            }
            scene.write("job.toml", &job);
            host::run(scene.path(), &["check", "job.toml"]).with_code(0);
            host::run(scene.path(), &["run", "job.toml"]).with_code(0);
            assert!(
                !scene.output("out").is_empty(),
                "docs/{name}: it has output"
            );
            jobs += 1;
        }
    }
    assert!(jobs > 0, "there are job files in the documents");
}

#[test]
fn the_operator_of_the_readme_counts_words() {
    let source = blocks(&document("README.md"), "rust")
        .pop()
        .expect("the README shows an operator");
    let scene = Scene::new();
    scene.write("word-count/src/lib.rs", source);
    let sdk = root().join("sdk/rust");
    let manifest = format!(
        "[package]\nname = \"word-count\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"cdylib\"]\n\n\
         [dependencies]\nhighwater = {{ path = {sdk:?} }}\n\n[workspace]\n"
    );
    scene.write("word-count/Cargo.toml", manifest);
    plugins::build(&scene.at("word-count"), &["--offline"]);
    let component = scene.at("word-count/target/wasm32-wasip2/release/word_count.wasm");

    scene.write("input/some.txt", oracle::verses(200));
    // It emits every new count: the highest of each word is its total.
    let job = jobs::word_count("readme")
        .replace("config = { emit = \"final\" }\n", "")
        .replace(
            &plugins::component("count").display().to_string(),
            &component.display().to_string(),
        );
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let mut highest: BTreeMap<String, u64> = BTreeMap::new();
    for line in scene.output("out") {
        let (word, count) = line.split_once(',').expect("a word and its count");
        let count: u64 = count.parse().expect("a count");
        highest
            .entry(word.to_owned())
            .and_modify(|known| *known = count.max(*known))
            .or_insert(count);
    }
    let mut totals: Vec<String> = highest
        .into_iter()
        .map(|(word, count)| format!("{word},{count}"))
        .collect();
    totals.sort();
    assert_same_lines(
        &totals,
        &oracle::count_words(&oracle::verses(200)),
        "highest counts",
    );
}

/// A fenced block that starts here, and what follows it.
fn block_after<'a>(text: &'a str, opening: &str) -> (&'a str, &'a str) {
    let (_, rest) = text
        .split_once(opening)
        .unwrap_or_else(|| panic!("the tutorial has no more {opening:?}"));
    rest.split_once("```").expect("a block has an end")
}

/// Every command of the tutorial in its order, each as written. What differs: the repository is where it is and not
/// beside the project, the kill comes after checkpoints and not after seconds, and the resumed job does not wait
/// between records.
#[test]
fn the_tutorial_can_be_followed() {
    let tutorial = document("docs/tutorial.md");
    let (manifest, _) = block_after(&tutorial, "```toml\n[package]");
    let (operator, _) = block_after(&tutorial, "```rust\n");
    let (job, _) = block_after(&tutorial, "```toml\n[job]");
    let scene = Scene::new();
    let sdk = root().join("sdk/rust").display().to_string();
    let manifest = format!("[package]{manifest}\n[workspace]\n");
    assert!(manifest.contains("\"../highwater/sdk/rust\""), "{manifest}");
    scene.write(
        "Cargo.toml",
        manifest.replace("../highwater/sdk/rust", &sdk),
    );
    scene.write("src/lib.rs", operator);
    scene.write("job.toml", format!("[job]{job}"));

    let mut running = None;
    let mut followed = Vec::new();
    let mut rest = tutorial.as_str();
    while let Some((_, after)) = rest.split_once("```sh\n") {
        let (commands, after) = after.split_once("```").expect("a block has an end");
        rest = after;
        for command in commands.lines() {
            let words: Vec<&str> = command.split_whitespace().collect();
            followed.push(words.first().copied().unwrap_or_default());
            match words.as_slice() {
                // How the program and the project come to be, which the test has done in its own way.
                ["git" | "cd" | "export", ..] | ["cargo", "new" | "xtask", ..] => {}
                ["cargo", "build", "--release", "--target", "wasm32-wasip2"] => {
                    plugins::build(scene.path(), &["--offline"]);
                }
                ["host", arguments @ .., "&"] => {
                    let mut host = host::start(scene.path(), arguments);
                    host.checkpoints(2);
                    running = Some(host);
                }
                ["sleep", _] => {}
                ["kill", "-9", "$!"] => {
                    let host = running
                        .take()
                        .expect("a host was started in the background");
                    host.kill();
                    assert!(scene.output("out").is_empty(), "killed in the middle");
                }
                ["host", arguments @ ..] => {
                    let mut arguments = arguments.to_vec();
                    if arguments.contains(&"--resume") {
                        arguments.extend(["-D", "source.sensors.rate=100000000"]);
                    }
                    let ended = host::run(scene.path(), &arguments).with_code(0);
                    if arguments.contains(&"--resume") && followed.contains(&"kill") {
                        let said = format!("{}{}", ended.stdout, ended.stderr);
                        let resumed = said.contains("restoring from checkpoint");
                        let finished = said.contains("has finished already");
                        assert!(resumed || finished, "{}", ended.transcript());
                    }
                }
                ["cat", "out/*"] => {
                    let (shown, _) = block_after(rest, "```text\n");
                    let mut shown: Vec<String> = shown.lines().map(str::to_owned).collect();
                    shown.sort();
                    assert_same_lines(&scene.output("out"), &shown, "output of the tutorial");
                }
                _ => panic!("the tutorial has a step that its test does not know: {command}"),
            }
        }
    }
    assert!(running.is_none(), "every job of the tutorial has ended");
    for step in ["cargo", "host", "kill", "cat"] {
        assert!(followed.contains(&step), "`{step}` is a step: {followed:?}");
    }
}

#[test]
fn every_chore_that_a_document_names_exists() {
    let chores = document("xtask/src/main.rs");
    for name in ["README.md", "CONTRIBUTING.md"] {
        let text = document(name);
        for rest in text.split("cargo xtask ").skip(1) {
            let chore: String = rest.chars().take_while(char::is_ascii_alphabetic).collect();
            assert!(
                chores.contains(&format!("Some(\"{chore}\")")),
                "{name}: `cargo xtask {chore}`"
            );
        }
    }
}
