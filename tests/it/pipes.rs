//! Records that come by standard input and go by standard output. Conformance 149.

use std::process::{Command, Stdio};

use crate::host::{self, PROGRAM, Running};
use crate::jobs;
use crate::oracle;
use crate::scene::Scene;

/// A sink on standard output.
const SCREEN: &str =
    "[[sink]]\nid = \"screen\"\nconnector = \"stdout\"\ninput = \"count\"\nformat = \"csv\"\n\n";

/// Word count of a file, on standard output.
fn told_on_stdout(interval: &str) -> Scene {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(300));
    let job = jobs::head("screen", interval) + jobs::VERSES;
    let job = job + &jobs::split() + &jobs::count("split") + SCREEN;
    scene.write("job.toml", job);
    scene
}

#[test]
fn standard_output_has_the_records_and_nothing_else() {
    for interval in ["20ms", "1h"] {
        for delivery in ["exactly-once", "immediate"] {
            let scene = told_on_stdout(interval);
            let set = format!("sink.screen.delivery={delivery}");
            let run = ["run", "job.toml", "-p", "2", "-D", &set];
            let ended = host::run(scene.path(), &run).with_code(0);
            let mut lines: Vec<String> = ended.stdout.lines().map(str::to_owned).collect();
            lines.sort();
            let expected = oracle::count_words(&oracle::verses(300));
            oracle::assert_same_lines(&lines, &expected, delivery);
        }
    }
}

#[test]
fn standard_output_is_for_records_or_for_events() {
    let scene = told_on_stdout("1h");
    host::run(scene.path(), &["run", "job.toml", "--json"])
        .with_code(2)
        .saying(&["sink `screen`", "--json", "standard output"])
        .without_panic();
}

#[test]
fn standard_output_that_cannot_be_written_fails_the_job() {
    let scene = told_on_stdout("20ms");
    // What is written to it is refused as by a full disk.
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" >/dev/full", PROGRAM]);
    let run = [
        "run",
        "job.toml",
        "-D",
        "restart.attempts=1",
        "-D",
        "restart.delay=1ms",
    ];
    host::start_by(command, scene.path(), &run, Stdio::null())
        .wait()
        .with_code(1)
        .saying(&["cannot write to standard output", "No space left on device"])
        .without_panic();
}

/// Counts the lines of standard input into files.
fn counted_from_stdin() -> Scene {
    let scene = Scene::new();
    let source =
        "[[source]]\nid = \"lines\"\nconnector = \"stdin\"\nformat = \"lines\"\nkey = \"line\"\n\n";
    let job = jobs::head("stdin", "1h") + source + &jobs::count("lines");
    scene.write(
        "job.toml",
        job + &jobs::files("totals", "count", "out", "csv"),
    );
    scene
}

fn reading(scene: &Scene, more: &[&str]) -> Running {
    let arguments = [&["run", "job.toml"], more].concat();
    host::start_with_input(scene.path(), &arguments, Stdio::piped())
}

/// Feeds lines, and takes checkpoints until one has them all.
fn feed_and_checkpoint(scene: &Scene, running: &mut Running, lines: &[&str], counted: &str) {
    for line in lines {
        running.feed(line);
    }
    loop {
        running.signal("USR1");
        let path = running.checkpoints(1).path;
        let shown = running.while_stopped(|| {
            host::run(scene.path(), &["checkpoints", "export", &path]).with_code(0)
        });
        if shown.stdout.lines().count().to_string() == counted {
            return;
        }
    }
}

#[test]
fn standard_input_goes_on_with_what_comes_in_a_new_process() {
    let scene = counted_from_stdin();
    let mut running = reading(&scene, &[]);
    running.line_with("started").expect("it starts");
    feed_and_checkpoint(&scene, &mut running, &["a", "b", "c"], "3");
    // This one is read, and in no checkpoint.
    running.feed("lost");
    running.kill().expect("its input has no end");

    let mut running = reading(&scene, &["--resume"]);
    running
        .line_with("what an earlier run read after record 3 is lost")
        .expect("it says that something may be missing");
    running.feed("a");
    running.feed("d");
    running.end_input();
    running.wait().with_code(0);
    assert_eq!(scene.output("out"), ["a,2", "b,1", "c,1", "d,1"]);
}
