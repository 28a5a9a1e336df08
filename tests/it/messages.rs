//! What the host says of a job to its user: of columns that do not fit before anything starts, of output that is
//! there already, of what was done at the end, and of positions in a checkpoint.

use std::fs;

use serde_json::Value;

use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle;
use crate::scene::Scene;

/// A job that reads CSV, chooses columns twice, and writes files.
fn choosing(first: &str, second: &str) -> String {
    jobs::head("choosing", "1h")
        + "[[source]]\nid = \"table\"\nconnector = \"file\"\npath = \"input/*.csv\"\nformat = \"csv\"\n\n"
        + &jobs::operator("one", "select", "table", &format!("columns = [{first}]"))
        + &jobs::operator("two", "select", "one", &format!("columns = [{second}]"))
        + &jobs::files("out", "two", "out", "csv")
}

#[test]
fn columns_across_operators_are_checked_before_anything_starts() {
    let scene = Scene::new();
    scene.write("input/a.csv", "a,b,c\n1,2,3\n");
    for (first, second, message) in [
        (
            "\"x\"",
            "\"x\"",
            ".one.config: `table` has no column `x`; it has `a`, `b`, `c`",
        ),
        (
            "\"a\"",
            "\"b\"",
            ".two.config: `one` has no column `b`; it has `a`",
        ),
    ] {
        scene.write("job.toml", choosing(first, second));
        for command in ["check", "run"] {
            let ended = host::run(scene.path(), &[command, "job.toml"]).with_code(2);
            ended.saying(&["error: job.toml:", message]);
        }
    }
    // All of them at once, and nothing is made for it.
    let scene = Scene::new();
    scene.write("input/a.csv", "a;b\n1;2\n");
    scene.write("job.toml", choosing("\"a\"", "\"b\""));
    let ended = host::run(scene.path(), &["check", "job.toml"]).with_code(2);
    let ended = ended.saying(&[
        "`table` has no column `a`; it has `a;b` (separated by semicolons? Highwater reads commas)",
        "`one` has no column `b`; it has `a`",
    ]);
    assert!(ended.stdout.is_empty(), "{}", ended.transcript());
    assert!(!scene.at("out").exists() && !scene.at("checkpoints").exists());
}

#[test]
fn a_source_without_columns_is_named() {
    let scene = Scene::new();
    scene.write("input/a.csv", "a\n");
    let job = choosing("\"a\"", "\"a\"");
    scene.write(
        "job.toml",
        job.replacen("format = \"csv\"", "format = \"lines\"", 1),
    );
    let ended = host::run(scene.path(), &["check", "job.toml"]).with_code(2);
    ended.saying(&["one.config: `table` declares no columns, so there is no column `a` in it"]);
}

/// The last event of a run with `--json`.
fn last(ended: &Ended) -> Value {
    ended.events().pop().expect("events")
}

#[test]
fn the_end_says_what_was_done_and_a_rerun_what_is_there() {
    let scene = Scene::new();
    scene.write("input/a.csv", "a,b\n1,2\n3,4\n");
    let job = choosing("\"a\"", "\"a\"");
    let keyed = "format = \"csv\"\nkey = \"a\"\n";
    scene.write("job.toml", job.replacen("format = \"csv\"\n", keyed, 1));
    let place = fs::canonicalize(scene.path())
        .expect("a directory")
        .join("out");
    let ended = host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    assert!(
        !ended.stderr.contains("earlier runs"),
        "{}",
        ended.transcript()
    );
    let done = format!("2 records read, 2 written to {}", place.display());
    let line = ended
        .stderr
        .lines()
        .find(|line| line.starts_with("job finished in "));
    assert!(
        line.is_some_and(|line| line.contains(&done)),
        "{}",
        ended.transcript()
    );

    let ended = host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let ended = ended.saying(&[
        "warning: sink.out: there is output of earlier runs in ",
        ": 1 file; it stays",
    ]);
    drop(ended);
    let ended = host::run(scene.path(), &["run", "job.toml", "--json"]).with_code(0);
    let first = ended.events().into_iter().next().expect("events");
    assert_eq!(
        (&first["event"], &first["about"]),
        (&"warning".into(), &"sink.out".into())
    );
    assert!(
        first["message"]
            .as_str()
            .is_some_and(|it| it.contains(": 2 files; ")),
        "{first}"
    );
    let finished = last(&ended);
    for (field, expected) in [("records-read", 2), ("records-written", 2), ("restarts", 0)] {
        assert_eq!(finished[field], expected, "{finished}");
    }
    assert!(finished["duration-ms"].is_u64(), "{finished}");
    assert_eq!(finished["sources"][0]["id"], "table");
    assert_eq!(finished["sinks"][0]["records"], 2);
    let written = finished["sinks"][0]["place"].as_str().expect("a place");
    assert_eq!(written.trim_end_matches('/'), place.display().to_string());
}

#[test]
fn a_hang_up_suspends_and_is_ignored_under_nohup() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("hangup", "30ms"));
    // Not as these tests were started themselves: under `nohup` they pass on that it is ignored.
    let mut command = std::process::Command::new("env");
    command.args(["--default-signal=HUP", host::PROGRAM]);
    let mut running = host::start_by(
        command,
        scene.path(),
        &["run", "job.toml"],
        std::process::Stdio::null(),
    );
    let before = running.checkpoints(2);
    running.signal("HUP");
    let ended = running.wait().with_code(0);
    let ended = ended.saying(&[
        "suspending",
        "job suspended after ",
        "resume with: host run -s ",
    ]);
    drop(ended);
    // What `nohup` does: the signal is ignored from the start, and stays so.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", host::PROGRAM]);
    let arguments = ["run", "--resume", "job.toml"];
    let mut running = host::start_by(
        command,
        scene.path(),
        &arguments,
        std::process::Stdio::null(),
    );
    let first = running.checkpoints(1);
    assert!(first.id > before.id);
    running.signal("HUP");
    running.checkpoints(2);
    running.signal("TERM");
    let ended = running.wait().with_code(0);
    assert_eq!(
        ended.stderr.matches("suspending").count(),
        1,
        "{}",
        ended.transcript()
    );
}

#[test]
fn positions_are_shown_in_words_and_whole_only_as_json() {
    let scene = Scene::new();
    scene.input(oracle::verses(200).as_bytes(), 40, "txt");
    let job = jobs::word_count("shown");
    scene.write("job.toml", job);
    let arguments = ["run", "job.toml", "-D", "checkpoint.retain-on-finish=true"];
    let last = host::run(scene.path(), &arguments)
        .with_code(0)
        .completions()
        .pop();
    let last = last.expect("a checkpoint at the end").path;
    let show = host::run(scene.path(), &["checkpoints", "show", &last]).with_code(0);
    let line = "  position: 8,000 records read, 40 of 40 files done\n";
    assert!(show.stdout.contains(line), "{}", show.transcript());
    assert!(!show.stdout.contains("{\""), "{}", show.transcript());
    let json = host::run(scene.path(), &["checkpoints", "show", "--json", &last]).with_code(0);
    assert!(json.stdout.contains("\"done\""), "{}", json.transcript());
    let diff = host::run(scene.path(), &["checkpoints", "diff", &last, &last]).with_code(0);
    assert!(
        diff.stdout.contains("nothing changed"),
        "{}",
        diff.transcript()
    );
}

/// A job that copies the files of `path` to `out`.
fn copying(path: &str, out: &str) -> String {
    let source = format!(
        "[[source]]\nid = \"lines\"\nconnector = \"file\"\npath = \"{path}\"\nformat = \"lines\"\n\n"
    );
    jobs::head("copying", "1h") + &source + &jobs::files("out", "lines", out, "lines")
}

#[test]
fn a_text_named_as_a_compressed_file_is_refused_by_name_and_with_the_mend() {
    for (name, program) in [("input/a.txt.gz", "gzip"), ("input/a.txt.zst", "zstd")] {
        let scene = Scene::new();
        scene.write(name, "a text that nobody has compressed\n");
        scene.write("job.toml", copying(name, "out"));
        let ended = host::run(scene.path(), &["run", "job.toml"]).with_code(1);
        ended.saying(&[
            &format!("cannot read file `{name}`: its name ends in"),
            &format!("but it is not compressed with {program}: rename it, or compress it"),
        ]);
        assert!(scene.output("out").is_empty(), "nothing was published");
    }
}

#[test]
fn a_directory_for_output_or_checkpoints_that_cannot_be_made_is_named_once_with_the_mend() {
    let scene = Scene::new();
    scene.write("input/a.txt", "a text\n");
    scene.write("file", "no directory");
    std::os::unix::fs::symlink("nowhere", scene.at("link")).expect("a link");
    for (out, message) in [
        (
            "file",
            "file` is a file, but the sink writes a directory of files",
        ),
        ("file/below", "file` is a file, so `"),
        (
            "link",
            "link` is a symbolic link to something that does not exist",
        ),
    ] {
        scene.write("job.toml", copying("input/a.txt", out));
        for command in ["check", "run"] {
            let ended = host::run(scene.path(), &[command, "job.toml"]).with_code(2);
            let ended = ended.saying(&[".out.path: `", message, "hint: "]);
            let times = ended.stderr.matches(message).count();
            assert_eq!(times, 1, "{}", ended.transcript());
        }
    }
    scene.write("out/.highwater", "a file where output is to be staged");
    scene.write("job.toml", copying("input/a.txt", "out"));
    let ended = host::run(scene.path(), &["run", "job.toml"]).with_code(2);
    ended.saying(&[".highwater` is not a directory", "move it away, and resume"]);
    // The same for checkpoints.
    let directory = "checkpoint.dir=file/below";
    scene.write("job.toml", copying("input/a.txt", "other"));
    let ended = host::run(scene.path(), &["run", "job.toml", "-D", directory]).with_code(2);
    ended.saying(&["file/below: ", "hint: move the file that is in the way"]);
    assert!(!scene.at("other").exists(), "nothing was begun");
}
