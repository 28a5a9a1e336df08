//! Operators in other languages than Rust: the counters of `tests/guests/`, built by the tools that users have,
//! from the published WIT. Conformance 25, 51, 57.
//!
//! Method: each counts the words of a text, is killed with SIGKILL in the middle and resumed, and the output
//! is compared with what awk counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use crate::host::{self, Running};
use crate::jobs;
use crate::modules;
use crate::oracle::{self, assert_same_lines};
use crate::plugins;
use crate::scene::Scene;

/// A counter that is not in Rust.
struct Counter {
    /// The directory of its sources, and what is built from them.
    name: &'static str,
    /// What it prints, or logs, when it is opened.
    greeting: &'static str,
    /// How often it gets the text, so that it takes a while.
    copies: usize,
}

const PYTHON: Counter = Counter {
    name: "python",
    greeting: "counting in Python, subtask 0",
    copies: 2,
};
const JAVASCRIPT: Counter = Counter {
    name: "javascript",
    greeting: "counting in JavaScript, subtask 0",
    copies: 2,
};
const GO: Counter = Counter {
    name: "go",
    greeting: "counting in Go, subtask 0",
    copies: 4,
};
const C: Counter = Counter {
    name: "c",
    greeting: "counting in C, subtask 0",
    copies: 8,
};

impl Counter {
    /// What is built. Brings all of them up to date first, once.
    fn component(&self) -> PathBuf {
        static BUILT: OnceLock<()> = OnceLock::new();
        BUILT.get_or_init(|| {
            let mut cargo = Command::new("cargo");
            cargo.current_dir(plugins::root()).args(["xtask", "guests"]);
            let output = cargo.output().expect("cargo runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "the counters do not build:\n{said}"
            );
        });
        plugins::root()
            .join("target/guests")
            .join(self.name)
            .with_extension("wasm")
    }

    /// The job of `jobs::word_count`, with this counter.
    fn job(&self) -> String {
        word_count(&self.component(), "")
    }
}

/// Words of `input/*.txt` counted by a component that emits its counts at the end.
fn word_count(component: &Path, config: &str) -> String {
    let count = format!(
        "[[operator]]\nid = \"count\"\ncomponent = {component:?}\ninput = \"split\"\n{config}\n"
    );
    jobs::head("languages", "30ms")
        + jobs::VERSES
        + &jobs::split()
        + &count
        + &jobs::files("totals", "count", "out", "csv")
}

/// What awk counts in this many copies of the text.
fn counted(copies: usize) -> Vec<String> {
    let one = Scene::new();
    one.input(&oracle::bible(), 1, "txt");
    let mut lines: Vec<String> = oracle::word_count(&one.at("input"))
        .iter()
        .map(|line| {
            let (word, count) = line.split_once(',').expect("a word and its count");
            let count: usize = count.parse().expect("a number");
            format!("{word},{}", count * copies)
        })
        .collect();
    lines.sort();
    lines
}

/// Starts the host with a cache of its own, so that what is compiled when is known.
fn start(scene: &Scene, more: &[&str]) -> Running {
    let cache = scene.at("cache").display().to_string();
    let variables = [("HIGHWATER_CACHE_DIR".to_owned(), cache)];
    let arguments = [&["run", "job.toml"], more].concat();
    host::start_with_variables(scene.path(), &arguments, &variables)
}

/// Kills a run after its second checkpoint, in the middle.
fn kill(mut running: Running) -> host::Ended {
    running.checkpoints(2);
    let killed = running
        .kill()
        .expect("it died of the signal and did not end before");
    assert!(
        !killed.stderr.contains("job finished"),
        "{}",
        killed.transcript()
    );
    killed
}

fn counts_exactly_after_a_kill(counter: &Counter) {
    let scene = Scene::new();
    scene.input(&oracle::bible(), counter.copies, "txt");
    scene.write("job.toml", counter.job());
    let killed = kill(start(&scene, &[])).saying(&[counter.greeting]);
    assert!(scene.output("out").is_empty(), "nothing is counted yet");
    let resumed = start(&scene, &["--resume"]).wait().with_code(0);
    let resumed = resumed.saying(&[counter.greeting, "restoring from checkpoint"]);
    assert_same_lines(&scene.output("out"), &counted(counter.copies), counter.name);
    // A small one is compiled before anybody notices; a large one says so, once.
    let compiling = format!("compiling {}.wasm (once; ", counter.name);
    let size = fs::metadata(counter.component())
        .expect("a component")
        .len();
    assert!(
        size < 10 << 20 || killed.stderr.contains(&compiling),
        "{}",
        killed.transcript()
    );
    assert!(
        !resumed.stderr.contains("compiling"),
        "{}",
        resumed.transcript()
    );
}

#[test]
fn c25_a_counter_in_python_is_exact_after_a_kill() {
    counts_exactly_after_a_kill(&PYTHON);
}

#[test]
fn c25_a_counter_in_javascript_is_exact_after_a_kill() {
    counts_exactly_after_a_kill(&JAVASCRIPT);
}

#[test]
fn c25_a_counter_in_go_is_exact_after_a_kill() {
    counts_exactly_after_a_kill(&GO);
}

#[test]
fn c25_a_counter_in_c_is_exact_after_a_kill() {
    counts_exactly_after_a_kill(&C);
}

#[test]
fn c51_state_goes_from_one_language_to_the_next() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), C.copies, "txt");
    let rust = word_count(
        &plugins::component("count"),
        "config = { emit = \"final\" }",
    );
    scene.write("job.toml", rust);
    kill(start(&scene, &[]));
    scene.write("job.toml", GO.job());
    kill(start(&scene, &["--resume"])).saying(&[GO.greeting]);
    scene.write("job.toml", C.job());
    let ended = start(&scene, &["--resume"]).wait().with_code(0);
    ended.saying(&[C.greeting, "restoring from checkpoint"]);
    assert_same_lines(&scene.output("out"), &counted(C.copies), "three languages");
}

#[test]
fn what_a_guest_of_any_language_refuses_is_told_in_its_words() {
    for counter in [&PYTHON, &JAVASCRIPT, &GO, &C] {
        let scene = Scene::new();
        scene.write("input/some.txt", oracle::verses(10));
        let config = "config = { emit = \"final\" }";
        scene.write("job.toml", word_count(&counter.component(), config));
        host::run(scene.path(), &["run", "job.toml"])
            .with_code(2)
            .saying(&["operator.count.config", "this counter has no configuration"])
            .without_panic();
    }
}

/// A job with an operator of these bytes.
fn scene_of(bytes: &[u8]) -> Scene {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(10));
    let component = scene.write("odd.wasm", bytes);
    let job = jobs::head("odd", "30ms")
        + jobs::VERSES
        + &format!("[[operator]]\nid = \"odd\"\ncomponent = {component:?}\ninput = \"verses\"\n\n")
        + &jobs::discard("nowhere", "odd");
    scene.write(
        "job.toml",
        job.replace(jobs::RESTART, crate::guests::NO_RESTART),
    );
    scene
}

/// The import of `register`.
const REGISTER: &str = "(import \"highwater:operator/timers@0.2.0\" \"register\" \
    (func $register (param i32 i32 i32 i32 i32 i32 i32)))";

#[test]
fn c57_timers_that_are_only_imported_do_no_harm_and_those_that_are_not_declared_fail() {
    // Without a state, because the input has no keys.
    let describe = "(i32.store (i32.const 152) (i32.const 0)) (i32.const 128)";
    let guest = |process: &str| {
        modules::operator(&[
            ("imports", REGISTER),
            ("describe", describe),
            ("process", process),
        ])
    };
    let scene = scene_of(&guest("(global.get $ok)"));
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let zeros = "(i32.const 0) ".repeat(7);
    let scene = scene_of(&guest(&format!(
        "(call $register {zeros}) (global.get $ok)"
    )));
    let ended = host::run(scene.path(), &["run", "job.toml"]);
    assert!(!ended.status.success(), "{}", ended.transcript());
    ended
        .saying(&[
            "`odd`",
            "the operator does not declare that it uses timers (`uses-timers` of its description)",
        ])
        .without_panic();
}

#[test]
fn c57_all_imports_that_are_not_there_are_named_at_once() {
    let names = [
        "wasi:http/types@0.2.6",
        "wasi:http/outgoing-handler@0.2.6",
        "wasi:cli/stdout@0.3.0",
        "acme:models/predict@1.0.0",
    ];
    let imports: String = names
        .iter()
        .map(|name| format!("(import \"{name}\" (instance (export \"f\" (func))))"))
        .collect();
    let component = wat::parse_str(format!("(component {imports})")).expect("a component");
    let ended = host::run(scene_of(&component).path(), &["check", "job.toml"]).with_code(2);
    let ended = ended
        .saying(&names)
        .saying(&["which this host does not provide"]);
    ended.without_panic();
}

#[test]
#[ignore = "measures, judges nothing"]
fn records_per_second_in_each_language() {
    let copies = 2;
    let scene = Scene::new();
    scene.input(&oracle::bible(), copies, "txt");
    let records: usize = counted(copies)
        .iter()
        .filter_map(|line| line.split_once(',')?.1.parse::<usize>().ok())
        .sum();
    let rust = word_count(
        &plugins::component("count"),
        "config = { emit = \"final\" }",
    );
    let counters = [&C, &GO, &JAVASCRIPT, &PYTHON].map(|counter| (counter.name, counter.job()));
    let mut of_rust = None;
    for (name, job) in [("rust", rust)].into_iter().chain(counters) {
        let job = job.replace("\"30ms\"", "\"1s\"");
        scene.write("job.toml", job);
        // Compiled before, and the better of two.
        start(&scene, &["--fresh"]).wait().with_code(0);
        let seconds = (0..2)
            .map(|_| {
                let begun = Instant::now();
                start(&scene, &["--fresh"]).wait().with_code(0);
                begun.elapsed().as_secs_f64()
            })
            .fold(f64::INFINITY, f64::min);
        let rate = records as f64 / seconds;
        let of_rust = of_rust.get_or_insert(rate);
        println!(
            "{name}: {records} records in {seconds:.2} s, {rate:.0} a second, {:.2} of Rust",
            rate / *of_rust
        );
    }
}
