//! The web page in a real browser. Conformance 105.
//!
//! `tests/page/walk.mjs` drives Chromium; here the host runs, is killed and started again, and what the job has written
//! is compared. Pictures of the page are left in `target/page/`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::host::{self, Running};
use crate::jobs;
use crate::oracle::assert_same_lines;
use crate::plugins::root;
use crate::scene::Scene;
use crate::servers;

/// How many records the job has: more than it reads while it is looked at.
const RECORDS: u64 = 600_000;

const MARKER: &str = "markers/trapped";

/// Someone who looks at the page.
struct Visitor {
    child: Child,
    steps: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Visitor {
    fn open(url: &str) -> Self {
        let script = root().join("tests/page/walk.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .arg(url)
            .arg(servers::installed("page"))
            .arg(servers::installed("page/node_modules/playwright-core"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node runs");
        let steps = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut visitor = Self {
            child,
            steps,
            answers,
        };
        visitor.expect("ready");
        visitor
    }

    fn expect(&mut self, wanted: &str) {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        assert_eq!(line.trim_end(), wanted, "see what node has said above");
    }

    /// Does what `walk.mjs` has under that name.
    fn step(&mut self, name: &str) {
        let steps = self.steps.as_mut().expect("it listens");
        writeln!(steps, "{name}").expect("it listens");
        self.expect(&format!("done {name}"));
    }

    /// Closes the page.
    fn leave(mut self) {
        drop(self.steps.take());
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        // It has ended already unless the test fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_job(scene: &Scene) {
    fs::create_dir_all(scene.at("markers")).expect("a directory");
    // Nothing is to fail yet.
    scene.write(MARKER, "");
    let head = jobs::head("c105", "200ms");
    let source = jobs::ENDLESS.trim_end().to_owned() + &format!("\ncount = {RECORDS}\n\n");
    let grants = format!(
        "grants = {{ dirs = [{{ host = {:?}, guest = \"/markers\", write = true }}] }}",
        scene.at("markers")
    );
    let config = "misdeed = \"trap\", once = \"/markers/trapped\"";
    scene.write(
        "job.toml",
        head.replace(
            "dir = \"checkpoints\"\n",
            "dir = \"checkpoints\"\nsavepoint-dir = \"savepoints\"\n",
        ) + &source
            + &jobs::operator_with("faulty", "faulty", "numbers", config, &grants)
            + &jobs::count("faulty")
            + &jobs::files("totals", "count", "out", "csv"),
    );
}

fn start(scene: &Scene, address: &str, more: &[&str]) -> Running {
    let arguments = ["run", "job.toml", "--json", "--http", address];
    let mut running = host::start(scene.path(), &[&arguments[..], more].concat());
    running.event("started");
    running
}

const FAST: &str = "source.numbers.rate=10000000";

#[test]
fn c105_the_page_shows_charts_takes_checkpoints_and_survives_restarts_and_kills() {
    let scene = Scene::new();
    write_job(&scene);
    // A port that is free stays so for as long as nobody else asks for one by name.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let running = start(&scene, &address, &[]);
    let mut visitor = Visitor::open(&format!("http://{address}/"));
    visitor.step("look");
    visitor.step("fold");
    visitor.step("phone");
    visitor.step("checkpoint");
    visitor.step("savepoint");
    visitor.step("rescale");

    fs::remove_file(scene.at(MARKER)).expect("a marker");
    visitor.step("failure");
    assert!(scene.at(MARKER).exists(), "the operator trapped");

    running.kill().expect("it was still running");
    visitor.step("gone");
    let running = start(&scene, &address, &["--resume"]);
    visitor.step("back");
    visitor.step("stop");
    let ended = running.wait().with_code(0);
    let last = ended.events().pop().expect("an event");
    assert_eq!(last["outcome"], "stopped", "{last}");
    visitor.leave();

    // Nothing of it has cost the job a record.
    host::run(scene.path(), &["run", "job.toml", "--resume", "-D", FAST]).with_code(0);
    let undisturbed = Scene::new();
    write_job(&undisturbed);
    host::run(undisturbed.path(), &["run", "job.toml", "-D", FAST]).with_code(0);
    let counted = undisturbed.output("out");
    assert!(!counted.is_empty());
    assert_same_lines(
        &scene.output("out"),
        &counted,
        "what the page did meanwhile",
    );
}
