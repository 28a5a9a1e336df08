//! The reader in `tests/reader/`, which was written from `docs/checkpoint-format.md` alone, says the same of
//! a checkpoint as the host: every entry, and whether it is good.
//!
//! Method: jobs with value, map and list state leave checkpoints of every form; each test looks into the
//! metadata whether they have the form that it is about. Then copies of one checkpoint are damaged, some
//! with every checksum right.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};

use crate::cold;
use crate::host::{self, Ended, Running};
use crate::hostile::{Envelope, crc32c};
use crate::jobs;
use crate::kills::Moments;
use crate::plugins::root;
use crate::scene::Scene;
use crate::servers;
use crate::subtask_state;

/// The reader's exit code, and what it printed.
struct Read {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn read(checkpoint: &Path) -> Read {
    let output = Command::new(servers::installed("reader/bin/python"))
        .arg(root().join("tests/reader/reader.py"))
        .arg(checkpoint)
        .output()
        .expect("Python runs");
    Read {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("it prints UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Of most of the keys seldom a record comes, so that what changes is less than what there is.
const NUMBERS: &str = "\
[[source]]
id = \"numbers\"
connector = \"generator\"
rate = 6000
keys = 1000
distribution = \"hotspot\"

";

/// A job whose state has every kind, grows, shrinks, and is forgotten again.
fn job() -> String {
    let history = "recent = 4, journal = 3, forget-after = 6";
    jobs::head("read", "30ms").replace(
        "[job]\n",
        "[job]\nid = \"read\"\nscratch-dir = \"scratch\"\n",
    ) + NUMBERS
        + &jobs::operator("history", "history", "numbers", history)
        + &jobs::count("history")
        + &jobs::discard("nowhere", "count")
}

/// Starts the job, or goes on with it.
fn start(scene: &Scene, settings: &[&str]) -> Running {
    let mut arguments = vec!["run", "job.toml", "--resume", "-D", "checkpoint.retained=3"];
    arguments.extend(settings.iter().flat_map(|setting| ["-D", setting]));
    host::start(scene.path(), &arguments)
}

/// Runs the job until it has taken some checkpoints, and suspends it.
fn take(scene: &Scene, settings: &[&str]) {
    let mut running = start(scene, settings);
    running.checkpoints(10);
    suspend(running);
}

fn suspend(running: Running) {
    running.signal("TERM");
    running.wait().with_code(0);
}

/// The completed checkpoints of the job, oldest first.
fn checkpoints(scene: &Scene) -> Vec<PathBuf> {
    let list = ["checkpoints", "list", "checkpoints", "--json"];
    let list = host::run(scene.path(), &list).with_code(0);
    let list: Value = serde_json::from_str(&list.stdout).expect("JSON");
    let mut found: Vec<(u64, PathBuf)> = list
        .as_array()
        .expect("a list")
        .iter()
        .filter(|entry| entry["status"] == "complete")
        .map(|entry| {
            let path = Path::new(entry["path"].as_str().expect("a path"));
            let directory = match path.ends_with("_metadata") {
                true => path.parent().expect("it is in a directory"),
                false => path,
            };
            (
                entry["id"].as_u64().expect("a number"),
                directory.to_owned(),
            )
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn host(scene: &Scene, command: &str, checkpoint: &Path) -> Ended {
    let path = checkpoint.to_str().expect("Unicode");
    host::run(scene.path(), &["checkpoints", command, path])
}

/// The segments of a checkpoint.
fn segments(checkpoint: &Path) -> Vec<Value> {
    let body = Envelope::read(&checkpoint.join("_metadata")).body;
    let lists = |value: &Value, field: &str| value[field].as_array().expect("a list").clone();
    lists(&body, "operators")
        .iter()
        .flat_map(|operator| lists(operator, "subtasks"))
        .flat_map(|subtask| lists(&subtask, "segments"))
        .collect()
}

/// The reader and the host print the same of a checkpoint in this directory. Returns what they print.
pub(crate) fn agree(scene: &Scene, checkpoint: &Path) -> String {
    let exported = host(scene, "export", checkpoint).with_code(0).stdout;
    let read = read(checkpoint);
    assert_eq!(read.code, Some(0), "{}", read.stderr);
    let (ours, theirs): (Vec<&str>, Vec<&str>) =
        (exported.lines().collect(), read.stdout.lines().collect());
    for (number, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "entry {number} of {}", checkpoint.display());
    }
    assert_eq!(ours.len(), theirs.len(), "{}", checkpoint.display());
    counted(checkpoint, &ours);
    exported
}

/// The reader and the host print the same of every checkpoint, and as much as `show` says there is.
/// Returns all segments.
fn compare(scene: &Scene) -> Vec<Value> {
    let checkpoints = checkpoints(scene);
    assert!(checkpoints.len() >= 2, "{checkpoints:?}");
    for checkpoint in &checkpoints {
        let exported = agree(scene, checkpoint);
        for kind in ["value", "map", "list"] {
            let kind = format!("\"kind\":\"{kind}\"");
            assert!(exported.contains(&kind), "there is no {kind}");
        }
    }
    let segments = checkpoints.iter().flat_map(|it| segments(it));
    segments.collect()
}

/// What metadata says of the states is what they hold.
fn counted(checkpoint: &Path, exported: &[&str]) {
    let body = Envelope::read(&checkpoint.join("_metadata")).body;
    for operator in body["operators"].as_array().expect("operators") {
        let states = ["states", "operator-states"].map(|it| operator[it].as_array());
        for state in states.into_iter().flatten().flatten() {
            let begin = format!(
                "{{\"operator\":{},\"state\":{},",
                operator["id"], state["name"]
            );
            let found = exported.iter().filter(|line| line.starts_with(&begin));
            assert_eq!(state["entries"], found.count(), "{begin}");
        }
    }
}

fn scene() -> Scene {
    let scene = Scene::new();
    scene.write("job.toml", job());
    scene
}

#[test]
fn the_reader_agrees_on_full_and_incremental_state_in_files() {
    let scene = scene();
    take(
        &scene,
        &["job.parallelism=3", "checkpoint.inline-threshold=0B"],
    );
    let segments = compare(&scene);
    assert!(segments.iter().any(|it| it["delta"] == true));
    assert!(segments.iter().all(|it| it["file"].is_string()));
    // What was removed is gone: some key had a value in one checkpoint and none in a later one.
    let seen = |checkpoint: &PathBuf| -> Vec<String> {
        let lines = read(checkpoint).stdout;
        let lines = lines
            .lines()
            .filter(|line| line.contains("\"state\":\"seen\""));
        let entries = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        entries.map(|entry| entry["key"].to_string()).collect()
    };
    let seen: Vec<Vec<String>> = checkpoints(&scene).iter().map(seen).collect();
    let gone = seen
        .windows(2)
        .any(|pair| pair[0].iter().any(|key| !pair[1].contains(key)));
    assert!(gone, "nothing was removed between two checkpoints");
}

#[test]
fn the_reader_agrees_on_inline_state() {
    let scene = scene();
    take(&scene, &["checkpoint.inline-threshold=1MiB"]);
    let segments = compare(&scene);
    assert!(segments.iter().any(|it| it["delta"] == true));
    assert!(segments.iter().any(|it| it["file"].is_null()));
}

#[test]
fn the_reader_agrees_on_state_that_is_always_full() {
    let scene = scene();
    let full = "checkpoint.incremental=false";
    take(&scene, &[full, "checkpoint.inline-threshold=0B"]);
    let segments = compare(&scene);
    assert!(segments.iter().all(|it| it["delta"] == false));
    let own = |it: &Value| it["file"].as_str().is_some_and(|file| !file.contains('/'));
    assert!(segments.iter().all(own));
}

#[test]
fn the_reader_agrees_on_compressed_state_that_is_rescaled() {
    for codec in ["lz4", "zstd"] {
        let scene = scene();
        let compression = format!("checkpoint.compression={codec}");
        let settings = ["checkpoint.inline-threshold=0B", &compression];
        for parallelism in ["job.parallelism=2", "job.parallelism=5"] {
            take(&scene, &[&settings[..], &[parallelism]].concat());
            let segments = compare(&scene);
            assert!(segments.iter().any(|it| it["delta"] == true));
            assert!(segments.iter().all(|it| it["compressed"]["codec"] == codec));
        }
        let newest = checkpoints(&scene).pop().expect("a checkpoint");
        let body = Envelope::read(&newest.join("_metadata")).body;
        assert_eq!(body["operators"][1]["parallelism"], 5);
    }
}

#[test]
fn the_reader_agrees_on_state_that_was_spilled() {
    let scene = scene();
    let settings = [
        "operator.count.limits.state-memory=1KiB",
        "source.numbers.keys=5000",
        "source.numbers.rate=20000",
        "source.numbers.distribution=sequential",
    ];
    let mut running = start(&scene, &settings);
    // Ends if it never happens: a job that goes on for too long is taken for hung.
    while running.while_stopped(|| cold::written(&scene).is_empty()) {
        running.checkpoints(1);
    }
    running.checkpoints(2);
    suspend(running);
    compare(&scene);
}

#[test]
fn the_reader_agrees_on_entries_larger_than_a_block() {
    let scene = scene();
    let settings = [
        "source.numbers.value-size=1048576",
        "source.numbers.keys=1",
        "source.numbers.count=3",
        "checkpoint.retain-on-finish=true",
        "checkpoint.compression=lz4",
    ];
    let settings = settings.iter().flat_map(|setting| ["-D", setting]);
    let arguments: Vec<&str> = ["run", "job.toml"].into_iter().chain(settings).collect();
    host::run(scene.path(), &arguments).with_code(0);
    let checkpoint = checkpoints(&scene).pop().expect("one is left");
    let exported = host(&scene, "export", &checkpoint).with_code(0).stdout;
    assert!(exported.lines().any(|line| line.len() > 1 << 20));
    assert!(
        read(&checkpoint).stdout == exported,
        "{}",
        checkpoint.display()
    );
}

#[test]
fn the_checkpoint_in_the_document_is_one() {
    let document =
        fs::read_to_string(root().join("docs/checkpoint-format.md")).expect("it is there");
    let (_, section) = document
        .split_once("## A checkpoint, byte by byte")
        .expect("the section");
    let mut blocks = section.split("```");
    let dump = blocks.nth(1).expect("the dump");
    let exported = blocks.nth(1).expect("what is exported");
    let mut bytes = Vec::new();
    // Offset, bytes or text of the body, remark.
    for line in dump.lines().skip(1) {
        let mut columns = line.split("  ");
        let offset = columns.next().expect("an offset");
        assert_eq!(usize::from_str_radix(offset, 16), Ok(bytes.len()), "{line}");
        let column = columns.next().expect("bytes");
        let digits = column.split(' ').map(|digits| match digits.len() {
            2 => u8::from_str_radix(digits, 16).ok(),
            _ => None,
        });
        match digits.collect::<Option<Vec<u8>>>() {
            Some(digits) => bytes.extend(digits),
            None => bytes.extend(column.bytes()),
        }
    }
    let scene = Scene::new();
    scene.write("chk-1/_metadata", bytes);
    let checkpoint = scene.at("chk-1");
    let host = host(&scene, "export", &checkpoint).with_code(0).stdout;
    assert_eq!(exported.trim_start_matches("json\n"), host);
    assert_eq!(read(&checkpoint).stdout, host);
}

/// Draws schemas, and bytes that may be values of them.
struct Draw(Moments);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.below(of.len() as u64)).expect("it is small")]
    }

    fn number(&mut self) -> &'static str {
        self.one(&[
            "u8", "u16", "u32", "u64", "u128", "i8", "i16", "i32", "i64", "i128", "f32", "f64",
        ])
    }

    /// A schema, seldom a wrong one; `bytes` gets a value of it.
    fn value(&mut self, depth: u32, is_part: bool, bytes: &mut Vec<u8>) -> String {
        match self.below(if depth > 3 { 8 } else { 12 }) {
            0..4 => {
                let name = self.number();
                let size = name[1..].parse::<u64>().expect("bits") / 8;
                bytes.extend((0..size).map(|_| u8::try_from(self.below(256)).expect("a byte")));
                name.to_owned()
            }
            4 => {
                bytes.push(u8::try_from(self.below(2)).expect("a byte"));
                "bool".to_owned()
            }
            5 => "unit".to_owned(),
            6 | 7 => {
                let text = self.one(&["", "word", "0x1", "a\nb", "w\u{f6}rd \"\\", "\u{85}"]);
                if is_part {
                    bytes.extend(u32::try_from(text.len()).expect("short").to_le_bytes());
                }
                bytes.extend(text.bytes());
                self.one(&["string", "bytes", "json"]).to_owned()
            }
            8 => {
                let is_some = self.below(2) == 1;
                bytes.push(u8::from(is_some));
                let mut unused = Vec::new();
                let to = if is_some { bytes } else { &mut unused };
                self.value(depth + 1, true, to) + "?"
            }
            9 => {
                let mut one = Vec::new();
                let inner = self.value(depth + 1, true, &mut one);
                let count = self.below(4);
                (0..count).for_each(|_| bytes.extend(&one));
                format!("[{inner};{count}]")
            }
            10 => {
                let parts = 1 + self.below(3);
                let parts: Vec<String> = (0..parts)
                    .map(|_| self.value(depth + 1, true, bytes))
                    .collect();
                format!("({})", parts.join(","))
            }
            _ => {
                let mut own = Vec::new();
                let fields = 1 + self.below(3);
                let fields: Vec<String> = (0..fields)
                    .map(|n| format!("f{n}:{}", self.value(depth + 1, true, &mut own)))
                    .collect();
                if is_part {
                    bytes.extend(u32::try_from(own.len()).expect("short").to_le_bytes());
                }
                bytes.extend(own);
                format!("{{{}}}", fields.join(","))
            }
        }
    }

    /// Changes a text or bytes a little, one time of four.
    fn spoil(&mut self, bytes: &mut Vec<u8>, with: &[u8]) {
        if self.below(4) > 0 {
            return;
        }
        let at = usize::try_from(self.below(bytes.len() as u64 + 1)).expect("it is small");
        let byte = with[usize::try_from(self.below(with.len() as u64)).expect("it is small")];
        match self.below(3) {
            0 => bytes.insert(at, byte),
            1 if at < bytes.len() => bytes[at] = byte,
            _ => bytes.truncate(at),
        }
    }
}

/// What the host prints of some bytes by a schema.
fn printed_by_host(kind: &str, schema: &str, bytes: &[u8]) -> String {
    use checkpoint::schema::{Schema, Shown, hex, readable};
    let shown = match kind {
        "map" => Schema::of_map(schema).map(|schema| schema.field(bytes)),
        _ => Schema::of_values(schema).map(|schema| schema.value(bytes)),
    };
    let text = match shown {
        None => readable(bytes),
        Some(None) => hex(bytes).into(),
        Some(Some(Shown::Json(json))) => return json,
        Some(Some(Shown::Text(text))) => text,
    };
    serde_json::to_string(&text).expect("a string")
}

#[test]
fn the_reader_and_the_host_print_values_alike() {
    const PRINT: &str = "\
import sys
from reader import Schema, to_json
for line in sys.stdin:
    kind, schema, data = line.rstrip('\\n').split('\\t')
    schema = Schema(kind, schema)
    show = schema.show_field if kind == 'map' else schema.show_value
    print(to_json(show(bytes.fromhex(data))))
";
    let mut draw = Draw(Moments::new());
    let mut cases: Vec<(&str, String, Vec<u8>)> = Vec::new();
    for case in 0..20_000 {
        let mut bytes = Vec::new();
        // What is drawn as a value is now and then a field: of numbers the bytes fit all the same.
        let mut schema = draw.value(0, false, &mut bytes).into_bytes();
        draw.spoil(&mut schema, b"u8()[];:,?=x");
        draw.spoil(&mut bytes, &[0, 1, 2, 255]);
        let schema = String::from_utf8(schema).expect("ASCII");
        match case % 4 {
            0 => cases.push(("map", format!("{schema}=unit"), bytes)),
            _ => cases.push(("value", schema, bytes)),
        }
    }
    for float in [
        1e16,
        123_456_789_012_345_680.0,
        1e15,
        0.000_1,
        0.000_01,
        -1.5e-7,
        5e-324,
        0.1,
    ] {
        let bytes = f64::to_le_bytes(float).to_vec();
        cases.push(("value", "f64".to_owned(), bytes));
    }
    let mut python = Command::new(servers::installed("reader/bin/python"))
        .args(["-c", PRINT])
        .env("PYTHONPATH", root().join("tests/reader"))
        .env("PYTHONIOENCODING", "utf-8")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut stdin = python.stdin.take().expect("stdin is piped");
    let mut input = String::new();
    for (kind, schema, bytes) in &cases {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        input += &format!("{kind}\t{schema}\t{hex}\n");
    }
    // Both pipes are full otherwise before either side reads.
    let writing = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = python.wait_with_output().expect("Python ends");
    writing.join().expect("no panic").expect("Python reads");
    assert!(output.status.success());
    let theirs = String::from_utf8(output.stdout).expect("it prints UTF-8");
    let theirs: Vec<&str> = theirs.lines().collect();
    assert_eq!(theirs.len(), cases.len());
    let mut typed = 0;
    for ((kind, schema, bytes), theirs) in cases.iter().zip(theirs) {
        let ours = printed_by_host(kind, schema, bytes);
        assert_eq!(ours, theirs, "{kind} `{schema}` {bytes:02x?}");
        typed += u32::from(!ours.starts_with('"'));
    }
    assert!(typed > 5_000, "only {typed} values fitted their schemas");
}

/// A checkpoint that is damaged in one way after the other.
struct Victim {
    scene: Scene,
    checkpoint: PathBuf,
}

impl Victim {
    fn new(settings: &[&str]) -> Self {
        let scene = scene();
        take(&scene, settings);
        let checkpoint = checkpoints(&scene).pop().expect("a checkpoint");
        Self { scene, checkpoint }
    }

    fn metadata(&self) -> PathBuf {
        self.checkpoint.join("_metadata")
    }

    /// The newest segment's file.
    fn data(&self) -> PathBuf {
        let newest = segments(&self.checkpoint).pop().expect("it has state");
        self.checkpoint
            .join(newest["file"].as_str().expect("it is in a file"))
    }

    /// All say this of a file with other content. `code`: what reads everything; `opens`: whether the
    /// metadata alone is nothing to complain about.
    fn judged(&self, case: &str, file: &Path, content: Option<&[u8]>, code: i32, opens: bool) {
        self.judged_by_all(case, file, content, (code, code), opens);
    }

    /// As [`Victim::judged`]; `codes`: what reads everything, and a run that restores it.
    fn judged_by_all(
        &self,
        case: &str,
        file: &Path,
        content: Option<&[u8]>,
        (code, of_run): (i32, i32),
        opens: bool,
    ) {
        let good = fs::read(file).expect("a readable file");
        match content {
            Some(content) => fs::write(file, content).expect("it can be written"),
            None => fs::remove_file(file).expect("it can be removed"),
        }
        let read = read(&self.checkpoint);
        assert_eq!(read.code, Some(code), "{case}: the reader\n{}", read.stderr);
        assert!(code == 0 || read.stdout.is_empty(), "{case}");
        let path = self.checkpoint.to_str().expect("Unicode");
        let restore = ["run", "job.toml", "-D", "job.id=other", "-s", path];
        for (command, code) in [
            (&["checkpoints", "verify", path][..], code),
            (&["checkpoints", "export", path], code),
            (&["checkpoints", "diff", path, path], code),
            (&["checkpoints", "show", path], if opens { 0 } else { code }),
            (&restore, of_run),
        ] {
            if code == 0 && command == restore {
                continue;
            }
            let ended = host::run(self.scene.path(), command);
            assert_eq!(
                ended.status.code(),
                Some(code),
                "{case}: {command:?}\n{}",
                ended.transcript()
            );
        }
        fs::write(file, good).expect("it can be written");
    }

    /// As [`Victim::judged`], with metadata whose checksum is right.
    fn resealed(&self, case: &str, code: i32, opens: bool, change: &dyn Fn(&mut Envelope)) {
        let mut envelope = Envelope::read(&self.metadata());
        change(&mut envelope);
        self.judged(case, &self.metadata(), Some(&envelope.bytes()), code, opens);
    }
}

#[test]
fn the_reader_and_the_host_judge_damage_alike() {
    let lz4 = "checkpoint.compression=lz4";
    let victim = Victim::new(&["checkpoint.inline-threshold=0B", lz4]);
    let (metadata, data) = (victim.metadata(), victim.data());
    victim.judged(
        "good",
        &metadata,
        Some(&fs::read(&metadata).expect("metadata")),
        0,
        true,
    );
    for (file, opens) in [(&metadata, false), (&data, true)] {
        let good = fs::read(file).expect("a readable file");
        let name = file.display();
        // Metadata: magic, version, length of the body, body, checksum.
        for at in [0, 8, 9, 12, 19, 40, good.len() / 2, good.len() - 1] {
            let mut flipped = good.clone();
            flipped[at] ^= 2;
            victim.judged(
                &format!("{name}, byte {at}"),
                file,
                Some(&flipped),
                3,
                opens,
            );
        }
        for length in [0, 3, 10, 25, good.len() / 2, good.len() - 1] {
            let cut = Some(&good[..length]);
            victim.judged(&format!("{name}, {length} bytes"), file, cut, 3, opens);
        }
        let more = [&good[..], b"x"].concat();
        let code = if opens { 0 } else { 3 };
        victim.judged(
            &format!("{name}, a byte more"),
            file,
            Some(&more),
            code,
            opens,
        );
    }
    victim.judged("no data", &data, None, 3, true);
    victim.judged("no metadata", &metadata, None, 2, false);
    let void = [b"HWVOID\r\n", &b"{}"[..]].concat();
    victim.judged("void", &metadata, Some(&void), 2, false);
}

/// The operator of a body that has operator state.
fn with_operator_state(body: &mut Value) -> &mut Value {
    let operators = body["operators"].as_array_mut().expect("operators");
    let has_some = |it: &&mut Value| it["operator-states"].is_array();
    operators.iter_mut().find(has_some).expect("it has some")
}

/// What its first subtask has of it.
fn stored(operator: &mut Value) -> &mut Value {
    &mut operator["subtasks"][0]["operator-state"]
}

#[test]
fn c43_the_reader_and_the_host_agree_on_operator_state_and_judge_its_damage_alike() {
    let scene = Scene::new();
    scene.write("job.toml", subtask_state::job());
    for (parallelism, more) in [
        (1, "checkpoint.inline-threshold=1MiB"),
        (3, "checkpoint.inline-threshold=0B"),
        (2, "checkpoint.compression=lz4"),
    ] {
        let parallelism = format!("job.parallelism={parallelism}");
        let mut running = start(&scene, &[&parallelism, more]);
        running.checkpoints(4);
        suspend(running);
        for checkpoint in checkpoints(&scene) {
            let exported = agree(&scene, &checkpoint);
            for scope in ["operator-split", "operator-union", "broadcast"] {
                let kind = format!("\"kind\":\"{scope}\"");
                assert!(exported.contains(&kind), "there is no {kind}");
            }
        }
    }
    let checkpoint = checkpoints(&scene).pop().expect("a checkpoint");
    let victim = Victim { scene, checkpoint };
    let mut body = Envelope::read(&victim.metadata()).body;
    let file = &stored(with_operator_state(&mut body))["file"];
    let data = victim.checkpoint.join(file.as_str().expect("in a file"));
    let good = fs::read(&data).expect("a readable file");
    for at in [0, 20, good.len() / 2] {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        victim.judged(&format!("byte {at}"), &data, Some(&flipped), 3, true);
    }
    victim.judged("cut", &data, Some(&good[..good.len() / 2]), 3, true);
    victim.judged("gone", &data, None, 3, true);
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 7] = [
        ("a delta", |it| stored(it)["delta"] = json!(true)),
        ("of another checkpoint", |it| {
            stored(it)["written-by"] = json!(1)
        }),
        ("a scope", |it| {
            it["operator-states"][0]["kind"] = json!("list")
        }),
        ("not declared", |it| it["operator-states"] = json!([])),
        ("a time to live", |it| {
            it["operator-states"][0]["ttl-ms"] = json!(1000);
        }),
        ("a name twice", |it| {
            it["operator-states"][0]["name"] = it["operator-states"][1]["name"].clone();
        }),
        ("too much", |it| {
            stored(it)["compressed"]["raw-length"] = json!((1_u64 << 30) + 1);
        }),
    ];
    for (case, change) in changes {
        victim.resealed(case, 3, false, &|it| {
            change(with_operator_state(&mut it.body))
        });
    }
    // What the metadata declares, but not what is there.
    let metadata = victim.metadata();
    let mut another = Envelope::read(&metadata);
    with_operator_state(&mut another.body)["operator-states"][0]["kind"] = json!("broadcast");
    // The job does not fit it, which is found before anything is read.
    victim.judged_by_all("scope", &metadata, Some(&another.bytes()), (3, 2), true);
    victim.resealed("version 2", 3, false, &|it| it.start[8] = 2);
}

#[test]
fn the_reader_and_the_host_judge_what_cannot_be_true_alike() {
    let victim = Victim::new(&["checkpoint.inline-threshold=1MiB"]);
    // The future: with a right checksum, with one that this version does not know.
    victim.resealed("version 4", 2, false, &|it| it.start[8] = 4);
    victim.resealed("version 1000", 2, false, &|it| {
        it.start[8..10].copy_from_slice(&[0xe8, 3])
    });
    let mut later = fs::read(victim.metadata()).expect("metadata");
    later[8] = 6;
    victim.judged("version 6", &victim.metadata(), Some(&later), 2, false);
    victim.resealed("version 0", 3, false, &|it| it.start[8] = 0);
    victim.resealed("a hash", 2, false, &|it| {
        it.body["key-hash"] = json!("murmur")
    });

    let body = |field: &'static str, value: Value| {
        let case = format!("{field}: {value}");
        victim.resealed(&case, 3, false, &|it| it.body[field] = value.clone());
    };
    body("id", json!(1_000_000));
    body("previous", json!(1_000_000));
    body("kind", json!("backup"));
    body("triggered-at", json!(-1));
    body("duration-ms", json!(u64::MAX));
    body("key-groups", json!(0));
    body("operators", json!({}));
    let history = |field: &'static str, value: Value| {
        let case = format!("operator, {field}: {value}");
        victim.resealed(&case, 3, false, &|it| {
            it.body["operators"][1][field] = value.clone()
        });
    };
    history("role", json!("sink"));
    history("parallelism", json!(2));
    history("id", json!("numbers"));
    history("states", json!([]));
    for kind in ["set", ""] {
        victim.resealed(&format!("state kind: `{kind}`"), 3, false, &|it| {
            it.body["operators"][1]["states"][0]["kind"] = json!(kind);
        });
    }
    // A state of another kind than in the segment: for a run it is first of all another than the job's.
    for kind in ["value", "map", "list"] {
        let mut envelope = Envelope::read(&victim.metadata());
        let declared = &mut envelope.body["operators"][1]["states"][0]["kind"];
        if *declared == kind {
            continue;
        }
        *declared = json!(kind);
        let (case, bytes) = (format!("state kind: {kind}"), envelope.bytes());
        victim.judged_by_all(&case, &victim.metadata(), Some(&bytes), (3, 2), true);
    }
    history("labels", json!({ "a": 1 }));
    let segment = |field: &'static str, value: Value, opens: bool| {
        let case = format!("segment, {field}: {value}");
        victim.resealed(&case, 3, opens, &|it| {
            it.body["operators"][1]["subtasks"][0]["segments"][0][field] = value.clone();
        });
    };
    segment("length", json!(0), false);
    segment("offset", json!(1_u64 << 40), false);
    for file in [
        "../../../etc/passwd",
        "a#1",
        "",
        ".",
        "shared/../x",
        "r1-c1-0.state/",
        "/x",
    ] {
        segment("file", json!(file), false);
    }
    segment(
        "compressed",
        json!({ "codec": "lz4", "raw-length": 1 }),
        false,
    );
    segment("written-by", json!(1_000_000), false);
    segment("crc32c", json!(1), true);
    segment("crc32c", json!(-1), false);

    // What the first segment says of itself, under right checksums: the form, the checkpoint, its base,
    // the key groups, the range.
    for (at, byte) in [
        (0x15, 1),
        (0x16, 0xee),
        (0x1e, 1),
        (0x26, 64),
        (0x2a, 1),
        (0x33, b'X'),
    ] {
        victim.resealed(&format!("header, byte {at:#x}: {byte}"), 3, true, &|it| {
            let segment = it.body["operators"][1]["subtasks"][0]["segments"][0].clone();
            let number = |value: &Value| {
                usize::try_from(value.as_u64().expect("a number")).expect("it is small")
            };
            let start = number(&segment["offset"]);
            let end = start + number(&segment["length"]);
            let bytes = &mut it.inline[start..end];
            assert_ne!(bytes[at], byte);
            bytes[at] = byte;
            let length = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes"));
            let payload = &bytes[0x14..0x14 + length as usize];
            let checksum = crc32c(&[&[0; 4], payload].concat());
            bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
            let checksum = crc32c(bytes);
            it.body["operators"][1]["subtasks"][0]["segments"][0]["crc32c"] = json!(checksum);
        });
    }
}
