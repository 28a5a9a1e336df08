//! A job that resumes notices that its input is not what it was.
//!
//! Goal: records are never lost or doubled because an input file, or the options of a generator,
//! changed while the job was down. Method: a job is suspended in the middle of a file, its input is
//! changed, and it is resumed: it must refuse, name what differs, and change nothing; with the old
//! input back, it must produce what an undisturbed run would. What changes no record must be accepted.

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::path::PathBuf;

use serde_json::Value;

use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::assert_same_lines;
use crate::scene::{Scene, all_files};

/// Lines of a file. No two in all files are equal, but for `slow`, which holds the job up.
fn lines(name: &str, count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        if number % 500 == 250 {
            text += "slow\n";
        }
        text += &format!("{name} {number:08} {}\n", "x".repeat(number % 40));
    }
    text
}

fn packed(name: &str, text: &[u8]) -> Vec<u8> {
    if !name.ends_with(".gz") {
        return text.to_vec();
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

/// A job that was suspended in the middle of `first`, of which nothing of the other files was read.
struct Suspended {
    scene: Scene,
    first: PathBuf,
    /// What is in each file.
    files: Vec<(String, Vec<u8>)>,
    /// How far it had come.
    offset: u64,
    /// All lines, sorted.
    expected: Vec<String>,
}

impl Suspended {
    fn new(files: &[(&str, usize)], options: &[&str]) -> Self {
        let scene = Scene::new();
        let mut expected = Vec::new();
        let mut written = Vec::new();
        for (name, count) in files {
            let text = lines(name, *count);
            expected.extend(text.lines().map(str::to_owned));
            let name = format!("input/{name}");
            let bytes = packed(&name, text.as_bytes());
            scene.write(&name, &bytes);
            written.push((name, bytes));
        }
        expected.sort();
        let source = "[[source]]\nid = \"lines\"\nconnector = \"file\"\npath = \"input\"\nformat = \"lines\"\nkey = \"line\"\n\n";
        let slow = "misdeed = \"sleep\", on = \"slow\", milliseconds = 20";
        let job = jobs::head("c148", "10ms")
            + source
            + &jobs::operator("slow", "faulty", "lines", slow)
            + &jobs::files("copy", "slow", "out", "lines");
        scene.write("job.toml", job);
        let arguments = [&["run", "job.toml"], options].concat();
        let mut running = host::start(scene.path(), &arguments);
        let last = running.checkpoints(3);
        running.signal("TERM");
        let ended = running.wait().with_code(0);
        let last = ended.completions().pop().unwrap_or(last);
        let shown =
            host::run(scene.path(), &["checkpoints", "show", "--json", &last.path]).with_code(0);
        let offset = offset_in(&shown.stdout, files[0].0);
        let first = scene.at(&written[0].0);
        let suspended = Self {
            scene,
            first,
            files: written,
            offset,
            expected,
        };
        assert!(
            suspended.offset > 5000,
            "suspended in the middle of a file:\n{}",
            shown.stdout
        );
        assert!(suspended.output().len() < suspended.expected.len());
        suspended
    }

    fn output(&self) -> Vec<String> {
        self.scene.output("out")
    }

    fn metadata(&self) -> Vec<PathBuf> {
        let files = all_files(&self.scene.at("checkpoints"));
        let is_metadata = |path: &PathBuf| path.ends_with("_metadata");
        files.into_iter().filter(is_metadata).collect()
    }

    fn resume(&self, options: &[&str]) -> Ended {
        let arguments = [&["run", "job.toml", "--resume"], options].concat();
        host::run(self.scene.path(), &arguments)
    }

    /// Resumes, which must be refused, say so, and change nothing.
    fn refused(&self, options: &[&str], saying: &[&str]) {
        let (output, metadata) = (self.output(), self.metadata());
        self.resume(options)
            .with_code(2)
            .saying(&["its input has changed since the checkpoint"])
            .saying(saying)
            .saying(&["-D source.lines.changed=accept", "--fresh"])
            .without_panic();
        assert_same_lines(&self.output(), &output, "output after a refusal");
        assert_eq!(self.metadata(), metadata, "checkpoints after a refusal");
    }

    fn put_back(&self) {
        for (name, bytes) in &self.files {
            self.scene.write(name, bytes);
        }
    }

    /// Resumes to the end, with the right result.
    fn finishes(&self, options: &[&str]) -> Ended {
        let ended = self.resume(options).with_code(0);
        assert_same_lines(&self.output(), &self.expected, "output after resuming");
        ended
    }

    /// The first file with other content is refused; with the old content back all goes on.
    fn refuses_first(&self, content: &[u8], saying: &[&str]) {
        fs::write(&self.first, content).expect("a writable file");
        self.refused(&[], saying);
        self.put_back();
        self.finishes(&[]);
    }

    fn bytes(&self) -> &[u8] {
        &self.files[0].1
    }
}

/// The position in a file, as `checkpoints show --json` prints it: of its first split.
fn offset_in(shown: &str, file: &str) -> u64 {
    let shown: Value = serde_json::from_str(shown).expect("JSON");
    let file = format!("input/{file}");
    let operators = shown["operators"].as_array().expect("operators");
    let subtasks = operators
        .iter()
        .flat_map(|it| it["subtasks"].as_array().expect("subtasks"));
    let parts = subtasks.flat_map(|it| it["parts"].as_array().expect("parts"));
    let of_file = parts.filter_map(|part| {
        let reading = &part["reading"];
        (reading["file"] == file.as_str()).then(|| reading["offset"].as_u64().expect("an offset"))
    });
    of_file.min().unwrap_or(0)
}

const A_AND_B: &[(&str, usize)] = &[("a.txt", 40_000), ("b.txt", 3000)];

#[test]
fn c148_bytes_before_the_first_line_are_noticed() {
    let suspended = Suspended::new(A_AND_B, &[]);
    let content = [b"xx\n", suspended.bytes()].concat();
    let saying = [
        "`input/a.txt`: bytes 0 to ",
        "were read and are not what they were (3 bytes longer, modified at 20",
        "put the files back",
    ];
    suspended.refuses_first(&content, &saying);
}

#[test]
fn c148_an_edit_of_the_same_length_is_noticed_whatever_its_time() {
    for puts_time_back in [false, true] {
        let suspended = Suspended::new(A_AND_B, &[]);
        let metadata = fs::metadata(&suspended.first).expect("the file is there");
        let mut content = suspended.bytes().to_vec();
        content[3] = b'X';
        fs::write(&suspended.first, &content).expect("a writable file");
        if puts_time_back {
            let times = FileTimes::new().set_modified(metadata.modified().expect("a time"));
            let file = File::options().write(true).open(&suspended.first);
            let set = file.and_then(|file| file.set_times(times));
            set.expect("times can be set");
        }
        suspended.refused(&[], &["`input/a.txt`: bytes 0 to "]);
        // At another parallelism the splits are dealt again.
        suspended.refused(&["-p", "3"], &["`input/a.txt`: bytes 0 to "]);
        suspended.put_back();
        suspended.finishes(&["-p", "3"]);
    }
}

#[test]
fn c148_splits_of_a_large_file_are_compared_at_every_parallelism() {
    let suspended = Suspended::new(&[("a.txt", 90_000)], &["-p", "2"]);
    assert!(suspended.bytes().len() > 3 << 20, "several splits");
    let mut content = suspended.bytes().to_vec();
    content[3] = b'X';
    fs::write(&suspended.first, &content).expect("a writable file");
    for parallelism in ["1", "2", "4"] {
        suspended.refused(&["-p", parallelism], &["`input/a.txt`: bytes 0 to "]);
    }
    suspended.put_back();
    suspended.finishes(&["-p", "4"]);
}

#[test]
fn c148_a_shorter_file_is_noticed() {
    let suspended = Suspended::new(A_AND_B, &[]);
    let len = suspended.bytes().len();
    let content = suspended.bytes()[..len - 10].to_vec();
    let saying = format!("`input/a.txt` has {} bytes, it had {len}", len - 10);
    suspended.refuses_first(&content, &[&saying]);
}

#[test]
fn c148_another_packed_file_is_noticed_whatever_its_length() {
    // Longer, shorter, and of the same length.
    for kind in 0..3 {
        let suspended = Suspended::new(&[("a.txt.gz", 40_000), ("b.txt", 300)], &[]);
        let mut content = packed(
            "a.gz",
            lines("other", [60_000, 20_000, 40_000][kind]).as_bytes(),
        );
        let len = suspended.bytes().len();
        if kind == 2 {
            // The name of the file in the header of gzip may have any length.
            content = packed("a.gz", lines("other", 30_000).as_bytes());
            assert!(content.len() < len - 11);
            let name = vec![b'n'; len - content.len() - 1];
            content[3] |= 8;
            content.splice(10..10, [name, vec![0]].concat());
            assert_eq!(content.len(), len);
        }
        suspended.refuses_first(&content, &["`input/a.txt.gz`"]);
    }
}

#[test]
fn c148_files_replaced_before_they_were_begun_are_noticed_and_all_named() {
    let files = [
        ("a.txt", 40_000),
        ("b.txt", 300),
        ("c.txt.gz", 300),
        ("d.txt", 300),
    ];
    let suspended = Suspended::new(&files, &[]);
    suspended.scene.write("input/b.txt", lines("other", 400));
    let shorter = packed("c.gz", lines("c.txt.gz", 200).as_bytes());
    suspended.scene.write("input/c.txt.gz", shorter);
    fs::remove_file(suspended.scene.at("input/d.txt")).expect("it was there");
    suspended.refused(
        &[],
        &[
            "`input/b.txt` was replaced or edited before it was read",
            "`input/c.txt.gz` has ",
            "`input/d.txt` is gone",
        ],
    );
    suspended.put_back();
    suspended.finishes(&[]);
}

#[test]
fn c148_a_file_that_is_gone_is_named() {
    let suspended = Suspended::new(A_AND_B, &[]);
    fs::remove_file(&suspended.first).expect("it was there");
    suspended.refused(&[], &["`input/a.txt` is gone"]);
    suspended.put_back();
    suspended.finishes(&[]);
}

#[test]
fn c148_what_changes_no_record_is_accepted() {
    // It grew.
    let suspended = Suspended::new(A_AND_B, &[]);
    let mut file = File::options().append(true).open(&suspended.first);
    let file = file.as_mut().expect("a writable file");
    file.write_all(b"later\n").expect("a writable file");
    suspended.finishes(&[]);
    // It was only touched, and one that is not packed and one that is copied.
    for name in ["a.txt", "a.txt.gz"] {
        let suspended = Suspended::new(&[(name, 40_000), ("b.txt", 300)], &[]);
        suspended.put_back();
        suspended.finishes(&["-p", "2"]);
    }
}

#[test]
fn c148_a_changed_file_can_be_accepted() {
    let suspended = Suspended::new(A_AND_B, &[]);
    // The last line before the position is as it was, so the rest is read without a loss.
    let mut content = suspended.bytes().to_vec();
    content[3] = b'X';
    fs::write(&suspended.first, &content).expect("a writable file");
    suspended.refused(&[], &["`input/a.txt`"]);
    suspended
        .finishes(&["-D", "source.lines.changed=accept"])
        .saying(&[
            "accepted: `input/a.txt`: bytes 0 to ",
            "may be lost, doubled or cut",
        ]);
}

#[test]
fn c148_a_file_that_changes_under_a_running_job_ends_it() {
    let scene = Scene::new();
    let text = lines("a", 40_000) + "late\n";
    scene.write("input/a.txt", &text);
    let source = "[[source]]\nid = \"lines\"\nconnector = \"file\"\npath = \"input\"\nformat = \"lines\"\nkey = \"line\"\n\n";
    let slow = "misdeed = \"sleep\", on = \"slow\", milliseconds = 20";
    let job = jobs::head("c148", "10ms")
        + source
        + &jobs::operator("slow", "faulty", "lines", slow)
        + &jobs::operator(
            "late",
            "faulty",
            "slow",
            "misdeed = \"error\", on = \"late\"",
        )
        + &jobs::files("copy", "late", "out", "lines");
    scene.write("job.toml", job);
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(3);
    running.while_stopped(|| {
        let changed = text.replacen("00000001", "00000009", 1);
        scene.write("input/a.txt", changed);
    });
    let ended = running.wait().with_code(1).saying(&[
        "its input has changed since the checkpoint: `input/a.txt`: bytes 0 to ",
        "-D source.lines.changed=accept",
    ]);
    // The error of the operator is tried again once; the changed file is not.
    let restarts = ended.stderr.matches("restart 1 from").count();
    assert_eq!(restarts, 1, "{}", ended.transcript());
}

#[test]
fn c148_a_generator_with_other_options_is_noticed() {
    let job = |rate: &str| {
        jobs::head("c148", "10ms")
            + &format!(
                "[[source]]\nid = \"lines\"\nconnector = \"generator\"\ncount = 20000\nkeys = 50\n{rate}\n"
            )
            + &jobs::pass("pass", "lines")
            + &jobs::keys("copy", "pass", "out")
    };
    let undisturbed = Scene::new();
    undisturbed.write("job.toml", job(""));
    host::run(undisturbed.path(), &["run", "job.toml"]).with_code(0);
    let expected = undisturbed.output("out");
    assert_eq!(expected.len(), 20_000);

    let scene = Scene::new();
    scene.write("job.toml", job("rate = 5000.0\n"));
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(5);
    running.signal("TERM");
    running.wait().with_code(0);
    let suspended = Suspended {
        first: scene.at("job.toml"),
        scene,
        files: Vec::new(),
        offset: 0,
        expected,
    };
    let before = suspended.output();
    assert!(
        !before.is_empty() && before.len() < 20_000,
        "{}",
        before.len()
    );
    for (option, saying) in [
        ("seed=5", "`seed` was `0` and is `5`"),
        ("keys=51", "`keys` was `50` and is `51`"),
        ("value-size=17", "`value-size` was `16` and is `17`"),
        (
            "distribution=sequential",
            "`distribution` was `\"uniform\"` and is `\"sequential\"`",
        ),
        ("key-prefix=q", "`key-prefix` was `\"k\"` and is `\"q\"`"),
        (
            "timestamp={start=\"2020-01-01T00:00:00Z\"}",
            "`timestamp.start` was not set and is `\"2020-01-01T00:00:00Z\"`",
        ),
        ("count=1", "`count` is 1, but "),
    ] {
        let option = format!("source.lines.{option}");
        suspended.refused(
            &["-D", &option],
            &[saying, "set the keys to what they were"],
        );
    }
    // How fast they come makes no difference, nor does a `count` that is not reached.
    suspended.finishes(&["-D", "source.lines.rate=1000000"]);
}

#[test]
fn c148_a_generator_with_other_options_can_be_accepted_and_goes_on_to_a_higher_count() {
    let scene = Scene::new();
    let job = jobs::head("c148", "10ms")
        + "[[source]]\nid = \"lines\"\nconnector = \"generator\"\ncount = 20000\nkeys = 50\nrate = 5000\n\n"
        + &jobs::pass("pass", "lines")
        + &jobs::files("copy", "pass", "out", "lines");
    scene.write("job.toml", job);
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(3);
    running.signal("TERM");
    running.wait().with_code(0);
    let options = [
        ["-D", "source.lines.rate=1000000"],
        ["-D", "source.lines.count=20100"],
        ["-D", "source.lines.seed=1"],
        ["-D", "source.lines.changed=accept"],
    ]
    .concat();
    let arguments = [&["run", "job.toml", "--resume"], options.as_slice()].concat();
    host::run(scene.path(), &arguments).with_code(0).saying(&[
        "accepted: `seed` was `0` and is `1`",
        "may be lost or doubled",
    ]);
    assert_eq!(scene.output("out").len(), 20_100);
}

/// Of one source of CSV with the columns `a`, `b` and `t`, suspended in the middle.
fn keyed(name: &str) -> Scene {
    let scene = Scene::new();
    let mut text = String::from("a,b,t\n");
    for number in 0..20_000 {
        let b = if number % 500 == 250 { 7 } else { number % 7 };
        text += &format!("a,{b},{number}\n");
    }
    scene.write("input/1.csv", &text);
    scene.write("input/2.csv", &text);
    let source = "[[source]]\nid = \"rows\"\nconnector = \"file\"\npath = \"input\"\nformat = \"csv\"\nkey = \"b\"\n\n";
    let slow = "misdeed = \"sleep\", on = \"7\", milliseconds = 20";
    let job = jobs::head(name, "10ms")
        + source
        + &jobs::operator("slow", "faulty", "rows", slow)
        + &jobs::count("slow")
        + &jobs::files("totals", "count", "out", "csv");
    scene.write("job.toml", job);
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(3);
    running.signal("TERM");
    running.wait().with_code(0);
    assert!(scene.output("out").is_empty(), "totals come at the end");
    scene
}

#[test]
fn another_key_format_or_timestamp_is_refused_once_records_were_read() {
    let scene = keyed("read-as");
    let resume = |options: &[&str]| {
        let arguments = [&["run", "job.toml", "--resume"], options].concat();
        host::run(scene.path(), &arguments)
    };
    for (option, saying) in [
        (
            r#"source.rows.key=["a", "b"]"#,
            r#"`key` was "b" and is ["a", "b"] after "#,
        ),
        (
            r#"source.rows.key=["b", "a"]"#,
            r#"`key` was "b" and is ["b", "a"] after "#,
        ),
        (
            r#"source.rows.timestamp={ field = "t", format = "unix-s" }"#,
            r#"`timestamp` was not set and is { field = "t", format = "unix-s" } after "#,
        ),
    ] {
        resume(&["-D", option])
            .with_code(2)
            .saying(&[
                "source `rows`",
                saying,
                "-D source.rows.changed=accept",
                "--fresh",
            ])
            .without_panic();
    }
    // What changes no meaning may change; with the old options all goes on.
    resume(&["-D", "source.rows.max-columns=17"]).with_code(0);
    let mut expected: Vec<String> = Vec::new();
    for b in 0..7 {
        let of_each = (0..20_000).filter(|n| n % 7 == b && n % 500 != 250);
        expected.push(format!("{b},{}", 2 * of_each.count()));
    }
    expected.push("7,80".to_owned());
    assert_eq!(scene.output("out"), expected);
}

#[test]
fn another_key_is_accepted_when_asked_for() {
    let scene = keyed("read-as-accepted");
    let key = [
        "-D",
        "source.rows.key=a",
        "-D",
        "source.rows.changed=accept",
    ];
    // By the new key each record is slow, so that it is stopped in the middle as well.
    let slow = [
        "-D",
        "operator.slow.config.on=a",
        "-D",
        "operator.slow.config.milliseconds=1",
    ];
    let arguments = [&["run", "job.toml", "--resume"], &key[..], &slow].concat();
    let mut running = host::start(scene.path(), &arguments);
    running.checkpoints(1);
    running.signal("TERM");
    running
        .wait()
        .with_code(0)
        .saying(&["accepted: `key` was \"b\" and is \"a\""]);
    // From then on it is the key that the position was read with.
    host::run(scene.path(), &["run", "job.toml", "--resume"])
        .with_code(2)
        .saying(&["`key` was \"a\" and is \"b\""]);
    let key = ["run", "job.toml", "--resume", "-D", "source.rows.key=a"];
    host::run(scene.path(), &key).with_code(0);
}

#[test]
fn files_that_the_path_leaves_out_now_are_named_and_still_read() {
    let narrowed = |scene: &Scene| {
        let arguments = [
            "run",
            "job.toml",
            "--resume",
            "-D",
            "source.rows.path=input/1.csv",
        ];
        let ended = host::run(scene.path(), &arguments).with_code(0);
        (ended, scene.output("out"))
    };
    let (ended, totals) = narrowed(&keyed("narrowed"));
    ended.saying(&[
        "1 file that `path` does not match any more is still read: `input/2.csv`",
        "--fresh",
    ]);
    let scene = keyed("as-it-was");
    host::run(scene.path(), &["run", "job.toml", "--resume"]).with_code(0);
    assert_same_lines(&totals, &scene.output("out"), "totals of both files");
}

#[test]
fn files_that_came_later_are_named_and_not_read() {
    let scene = keyed("later");
    for name in ["3.csv", "4.csv", "5.csv", "6.csv"] {
        scene.write(&format!("input/{name}"), "a,b,t\nx,9,9\n");
    }
    host::run(scene.path(), &["run", "job.toml", "--resume"])
        .with_code(0)
        .saying(&[
            "4 new files that `path` matches are not read",
            "input/3.csv`, `",
            " and 1 more",
            "--fresh",
        ]);
    assert_eq!(
        scene.output("out").len(),
        8,
        "the key 9 is only in new files"
    );
}

#[test]
fn what_was_appended_to_a_file_is_named_and_not_read() {
    let scene = keyed("grown");
    let text = fs::read_to_string(scene.path().join("input/2.csv")).expect("input");
    scene.write("input/2.csv", text + "x,9,9\n");
    host::run(scene.path(), &["run", "job.toml", "--resume"])
        .with_code(0)
        .saying(&[
            "1 file has grown, and what was appended is not read: `input/2.csv`",
            "--fresh",
        ]);
    assert_eq!(
        scene.output("out").len(),
        8,
        "the key 9 is only in what was appended"
    );
}
