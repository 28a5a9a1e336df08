//! What a job file calls a secret is nowhere but with the operator. Conformance 158.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::control;
use crate::host::{self, Ended};
use crate::jobs;
use crate::scene::{Scene, contents};

/// Neither is part of any other text.
const BY_VARIABLE: &str = "Zq7-variable-\"9fK\"";
const BY_FILE: &str = "Zq7-file-4mW-0001\nZq7-file-4mW-0002";

const CONFIG: &str = "secret = { env = \"FAULTY_SECRET\" }";

fn write_secret(scene: &Scene, name: &str, mode: u32) {
    let path = scene.write(name, format!("{BY_FILE}\r\n\n"));
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}

fn variables(scene: &Scene) -> Vec<(String, String)> {
    let more = [("FAULTY_SECRET", BY_VARIABLE), ("HIGHWATER_LOG", "trace")];
    let more = more.map(|(name, value)| (name.to_owned(), value.to_owned()));
    [control::variables(scene), more.to_vec()].concat()
}

fn run(scene: &Scene, arguments: &[&str]) -> Ended {
    host::start_with_variables(scene.path(), arguments, &variables(scene)).wait()
}

/// Looks for the secrets in what was said, and in all files but the secret's own.
fn assert_hidden(scene: &Scene, said: &[&Ended]) {
    let telling = |text: &str| text.contains("Zq7") || text.contains("9fK");
    for ended in said {
        for text in [&ended.stdout, &ended.stderr] {
            let line = text.lines().find(|line| telling(line));
            assert_eq!(line, None, "{}", ended.transcript());
        }
    }
    for (path, bytes) in contents(scene.path()) {
        if !path.ends_with("secret.txt") {
            let text = String::from_utf8_lossy(&bytes);
            assert!(!telling(&text), "a secret is in {}", path.display());
        }
    }
}

/// A job without end with two secrets, one by a variable and one by a file, both next to state.
fn job() -> String {
    jobs::head("secrets", "20ms")
        + jobs::ENDLESS
        + &jobs::operator(
            "first",
            "faulty",
            "numbers",
            &format!("misdeed = \"hold\", {CONFIG}"),
        )
        + &jobs::operator(
            "second",
            "faulty",
            "first",
            "misdeed = \"hold\", secret = { file = \"secret.txt\" }",
        )
        + &jobs::files("kept", "second", "out", "lines")
}

#[test]
fn c158_no_secret_is_in_anything_that_a_running_job_writes_or_says() {
    let scene = Scene::new();
    write_secret(&scene, "secret.txt", 0o600);
    scene.write("job.toml", job());
    let checked = run(&scene, &["check", "job.toml"]).with_code(0);
    let file = format!("secret = {{ file = {:?} }}", scene.at("secret.txt"));
    for shown in ["secret = { env = \"FAULTY_SECRET\" }", &file] {
        assert!(checked.stdout.contains(shown), "{}", checked.transcript());
    }
    // What it prints means the same.
    scene.write("effective.toml", &checked.stdout);
    let again = run(&scene, &["check", "effective.toml"]).with_code(0);
    assert_eq!(again.stdout, checked.stdout);

    let run_job = ["run", "job.toml", "--json"];
    let mut running = host::start_with_variables(scene.path(), &run_job, &variables(&scene));
    running.event("checkpoint-completed");
    let asked: Vec<Ended> = [
        ["status", "secrets", "--json"].as_slice(),
        &["status", "secrets"],
        &["list", "--json"],
        &["checkpoint", "secrets"],
        &["savepoint", "secrets", "saved"],
    ]
    .into_iter()
    .map(|arguments| run(&scene, arguments).with_code(0))
    .collect();
    let stopped = run(&scene, &["stop", "secrets"]).with_code(0);
    let ended = running.wait().with_code(0);
    let shown = run(&scene, &["checkpoints", "export", "saved"]);
    let said: Vec<&Ended> = asked
        .iter()
        .chain([&checked, &again, &stopped, &ended, &shown])
        .collect();
    assert_hidden(&scene, &said);
    assert!(!contents(&scene.at("saved")).is_empty());
}

#[test]
fn c158_what_an_operator_says_of_its_secret_is_hidden() {
    let scene = Scene::new();
    scene.write("input/a.txt", "one\ntwo\n");
    let start = |config: &str| {
        let job = jobs::head("tells", "20ms").replace("attempts = 3", "attempts = 1")
            + jobs::VERSES
            + &jobs::operator("tells", "faulty", "verses", config)
            + &jobs::files("kept", "tells", "out", "lines");
        scene.write("job.toml", job);
        run(&scene, &["run", "job.toml", "--fresh"])
    };
    let told = start(&format!("misdeed = \"tell\", {CONFIG}")).with_code(1);
    let place = "{ env = \"FAULTY_SECRET\" }";
    let told = told.saying(&[
        &format!("logged {place}"),
        &format!("printed {place}"),
        &format!("complained \"{place}\""),
        &format!("returned {place}"),
    ]);
    let trapped = start(&format!("misdeed = \"tell-and-trap\", {CONFIG}")).with_code(1);
    let trapped = trapped.saying(&[&format!("trapped with {place}")]);
    // The reader of its configuration quotes what it does not know.
    let quoted = start("misdeed = { env = \"FAULTY_SECRET\" }").with_code(2);
    let quoted = quoted.saying(&["operator.tells.config", place]);
    write_secret(&scene, "secret.txt", 0o640);
    let by_line = start("misdeed = \"tell\", secret = { file = \"secret.txt\" }").with_code(1);
    let by_line = by_line.saying(&["logged { file = ", "secret.txt"]);
    // A capsule has the error.
    let job = jobs::head("letters", "20ms")
        + jobs::VERSES
        + &jobs::operator_with(
            "tells",
            "faulty",
            "verses",
            &format!("misdeed = \"tell\", {CONFIG}"),
            "on-error = \"dead-letter\"\ndead-letter = \"letters\"",
        )
        + &jobs::discard("kept", "tells")
        + "[[sink]]\nid = \"letters\"\nconnector = \"file\"\npath = \"letters\"\nformat = \"json-lines\"\n";
    scene.write("job.toml", job);
    let sent = run(&scene, &["run", "job.toml"]).with_code(0);
    let letters = scene.output("letters");
    assert_eq!(letters.len(), 2, "{}", sent.transcript());
    assert!(letters[0].contains("FAULTY_SECRET"), "{letters:?}");
    assert_hidden(&scene, &[&told, &trapped, &quoted, &by_line, &sent]);
}

#[test]
fn c158_a_secret_that_is_written_down_or_not_there_is_refused() {
    let scene = Scene::new();
    scene.write("input/a.txt", "one\n");
    write_secret(&scene, "open.txt", 0o644);
    write_secret(&scene, "writable.txt", 0o602);
    scene.write("large.txt", vec![b'x'; (64 << 10) + 1]);
    scene.write("bytes.txt", b"\xff\xfe");
    scene.write("empty.txt", "\r\n\n");
    for name in ["large.txt", "bytes.txt", "empty.txt"] {
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(scene.at(name), private).expect("our own file");
    }
    let written = "a secret does not belong in a job file";
    let head = jobs::head("refused", "20ms");
    for (config, says) in [
        (
            "password = \"hunter2\"",
            [written, "config.password", "{ env = \"NAME\" }"],
        ),
        (
            "db = { accessKey = \"hunter2\" }",
            [written, "config.db.accessKey", "{ file = \"path\" }"],
        ),
        (
            "tokens = [], api-token = [\"hunter2\"]",
            [written, "config.api-token", "{ env = \"NAME\" }"],
        ),
        (
            "secret = { env = \"NOT_SET_ANYWHERE\" }",
            [
                "`NOT_SET_ANYWHERE` is not set",
                "config.secret",
                "where the host is started",
            ],
        ),
        (
            "secret = { env = \"A\", file = \"b\" }",
            ["both `env` and `file`", "config.secret", "one place"],
        ),
        (
            "secret = { env = \"\" }",
            ["without a place", "config.secret", "names a variable"],
        ),
        (
            "secret = { file = 5 }",
            [
                "whose place is no text",
                "config.secret",
                "names a variable",
            ],
        ),
        (
            "token = { env = \"A\", default = \"b\" }",
            ["more than its place", "config.token", "nothing else"],
        ),
        (
            "secret = { file = \"missing.txt\" }",
            [
                "missing.txt cannot be read",
                "config.secret",
                "No such file",
            ],
        ),
        (
            "secret = { file = \"input\" }",
            ["is not a file", "config.secret", "holds the secret"],
        ),
        (
            "secret = { file = \"open.txt\" }",
            ["may be read by every user", "mode 644", "chmod 600"],
        ),
        (
            "secret = { file = \"writable.txt\" }",
            ["may be written by every user", "mode 602", "chmod 600"],
        ),
        (
            "secret = { file = \"large.txt\" }",
            [
                "large.txt has more than 64.0 KiB",
                "config.secret",
                "no secret",
            ],
        ),
        (
            "secret = { file = \"bytes.txt\" }",
            ["bytes.txt is not UTF-8", "config.secret", "job.toml"],
        ),
        (
            "secret = { file = \"empty.txt\" }",
            ["empty.txt is empty", "config.secret", "job.toml"],
        ),
    ] {
        let job = head.clone()
            + jobs::VERSES
            + &jobs::operator(
                "o",
                "faulty",
                "verses",
                &format!("misdeed = \"none\", {config}"),
            )
            + &jobs::discard("nowhere", "o");
        scene.write("job.toml", job);
        for command in ["check", "run"] {
            let ended = host::run(scene.path(), &[command, "job.toml"]);
            let ended = ended.with_code(2).saying(&says).without_panic();
            assert!(!ended.stderr.contains("hunter2"), "{}", ended.transcript());
        }
    }
    // On the command line, and of a connector.
    let plain = head + jobs::VERSES + &jobs::pass("o", "verses") + &jobs::discard("nowhere", "o");
    scene.write("job.toml", plain);
    for option in [
        "operator.o.config.secret=hunter2",
        "operator.o.config.deep={ password = \"hunter2\" }",
        "source.verses.password=hunter2",
        "sink.nowhere.access-key=\"hunter2\"",
    ] {
        let ended = host::run(scene.path(), &["check", "job.toml", "-D", option]);
        let key = option.split_once('=').expect("a key").0;
        let ended = ended
            .with_code(2)
            .saying(&[written, &format!("-D {key}=…")]);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.transcript());
    }
}
