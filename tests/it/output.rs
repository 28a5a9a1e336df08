//! What becomes of a file sink's files when others take, change or remove them, and of a sink that
//! cannot write any more. Conformance 141, 149, 152.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::host::{self, Completion, PROGRAM, Running};
use crate::jobs;
use crate::oracle::assert_same_lines;
use crate::scene::{Scene, all_files, visible_files};

/// Never while a test runs: checkpoints are taken when they are asked for.
const NEVER: &str = "1h";

/// Some seconds of records into files, with checkpoints when they are asked for.
fn scene() -> Scene {
    let scene = Scene::new();
    let job = jobs::head("output", NEVER)
        + jobs::ENDLESS
        + &jobs::files("numbers-out", "numbers", "out", "csv");
    let job = job.replace("[job]\n", "[job]\nid = \"job\"\n");
    scene.write(
        "job.toml",
        job.replace("rate = 2000", "rate = 2000\ncount = 6000"),
    );
    scene
}

/// What an undisturbed run writes.
fn expected(scene: &Scene) -> Vec<String> {
    let arguments = ["run", "job.toml", "-D", "job.id=undisturbed"];
    let more = [
        "-D",
        "sink.numbers-out.path=expected",
        "-D",
        "source.numbers.rate=1000000",
    ];
    host::run(scene.path(), &[&arguments[..], &more].concat()).with_code(0);
    scene.output("expected")
}

/// Has a checkpoint taken and waits until its output is published. Returns it with its files.
fn checkpoint(scene: &Scene, running: &mut Running) -> (Completion, Vec<PathBuf>) {
    // It is to hold some records.
    while staged_files(scene).is_empty() {
        thread::yield_now();
    }
    running.signal("USR1");
    let completion = running.checkpoints(1);
    let of_it = format!("-c{:06}-", completion.id);
    loop {
        let mut files = visible_files(&scene.at("out"));
        files.retain(|file| file.to_string_lossy().contains(&of_it));
        if !files.is_empty() {
            return (completion, files);
        }
        thread::yield_now();
    }
}

fn staged_files(scene: &Scene) -> Vec<PathBuf> {
    let mut files = all_files(&scene.at("out/.highwater"));
    files.retain(|file| file.to_string_lossy().ends_with(".pending"));
    files
}

/// A run that published the output of one checkpoint and was killed.
fn killed(scene: &Scene) -> Vec<PathBuf> {
    let mut running = host::start(scene.path(), &["run", "job.toml", "--resume"]);
    running.line_with("started, id").expect("it starts");
    let (_, files) = checkpoint(scene, &mut running);
    running.kill().expect("killed in the middle");
    files
}

/// Where a published file was staged.
fn staged(scene: &Scene, file: &Path) -> PathBuf {
    let name = file.file_name().expect("a name").to_string_lossy();
    let fields: Vec<&str> = name.split('-').collect();
    let [_, _, _, generation, attempt, subtask, rest] = fields[..] else {
        panic!("{name}");
    };
    let place = scene.staging_place("job", generation);
    place.join(format!("{attempt}-{subtask}-{rest}.pending"))
}

#[test]
fn c141_a_restore_publishes_nothing_but_what_the_checkpoint_has_prepared() {
    let scene = scene();
    let expected = expected(&scene);
    let published = killed(&scene).pop().expect("a file");
    let staged = staged(&scene, &published);
    let content = fs::read(&published).expect("a published file");
    // As if it had been killed before the commit, and something had changed the file.
    fs::remove_file(&published).expect("it can be removed");
    let mut changed = content.clone();
    changed[10] ^= 1;
    let short = &content[..content.len() - 1];
    for (changed, named) in [(&changed[..], "its CRC-32C is"), (short, "bytes, ")] {
        fs::write(&staged, changed).expect("it can be changed");
        let name = staged.file_name().expect("a name").to_string_lossy();
        host::run(scene.path(), &["run", "job.toml", "--resume"])
            .with_code(2)
            .saying(&["is not what checkpoint", &name, named])
            .without_panic();
        assert!(!published.exists());
        assert_eq!(
            fs::read(&staged).ok().as_deref(),
            Some(changed),
            "it is left as it is"
        );
    }
    // The same where it was published.
    fs::write(&published, &changed).expect("it can be changed");
    fs::remove_file(&staged).expect("it can be removed");
    let name = published.file_name().expect("a name").to_string_lossy();
    host::run(scene.path(), &["run", "job.toml", "--resume"])
        .with_code(2)
        .saying(&["is not what checkpoint", &name]);
    fs::write(&published, &content).expect("it can be put back");
    host::run(scene.path(), &["run", "job.toml", "--resume"]).with_code(0);
    assert_same_lines(&scene.output("out"), &expected, "output of a mended run");
}

#[test]
fn c141_files_that_a_consumer_moves_away_fail_no_restore() {
    let scene = scene();
    let expected = expected(&scene);
    fs::create_dir(scene.at("taken")).expect("a directory");
    for _ in 0..3 {
        for file in killed(&scene) {
            let name = file.file_name().expect("a name");
            fs::rename(&file, scene.at("taken").join(name)).expect("it can be moved");
        }
    }
    host::run(scene.path(), &["run", "job.toml", "--resume"])
        .with_code(0)
        .saying(&["so it was moved away or deleted: `part-"]);
    let mut lines = scene.output("out");
    lines.extend(scene.output("taken"));
    lines.sort();
    assert_same_lines(&lines, &expected, "output that was moved away and the rest");
}

#[test]
fn c152_what_killed_runs_have_staged_goes_with_the_next() {
    let scene = scene();
    for _ in 0..3 {
        killed(&scene);
        // What is open when it is killed.
        let staged = staged_files(&scene);
        assert!(staged.len() <= 1, "{staged:?}");
    }
    host::run(scene.path(), &["run", "job.toml", "--resume"]).with_code(0);
    assert_eq!(
        all_files(&scene.at("out/.highwater")),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn c152_two_directories_of_one_job_leave_the_output_of_each_other_alone() {
    let scene = scene();
    let expected = expected(&scene);
    let published = killed(&scene).pop().expect("a file");
    // As if it had been killed before the commit: the checkpoint has output that is staged.
    fs::rename(&published, staged(&scene, &published)).expect("it can be put back");
    let elsewhere = ["run", "job.toml", "-D", "checkpoint.dir=elsewhere"];
    let mut running = host::start(scene.path(), &elsewhere);
    running.line_with("started, id").expect("it starts");
    running.kill().expect("killed in the middle");
    // In a later generation, which would remove what an earlier one of its directory has staged.
    let resumed = [&elsewhere[..], &["--resume"]].concat();
    host::run(scene.path(), &resumed).with_code(0);
    assert_same_lines(
        &scene.output("out"),
        &expected,
        "output of the other directory",
    );
    host::run(scene.path(), &["run", "job.toml", "--resume"]).with_code(0);
    let mut twice = [&expected[..], &expected[..]].concat();
    twice.sort();
    assert_same_lines(&scene.output("out"), &twice, "output of both");
}

#[test]
fn c149_a_removed_output_directory_ends_the_job_once() {
    let scene = scene();
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.line_with("started, id").expect("it starts");
    checkpoint(&scene, &mut running);
    fs::rename(scene.at("out"), scene.at("gone")).expect("it can be moved");
    running.signal("USR1");
    let ended = running.wait().with_code(1);
    let ended = ended.saying(&["the output directory", "was removed or moved away"]);
    let ended = ended.without_panic();
    assert!(!ended.stderr.contains("restart 1"), "{}", ended.stderr);
    assert!(!scene.at("out").exists(), "it is not made again");
}

#[test]
fn c149_a_reader_that_has_seen_enough_ends_the_job_once() {
    for delivery in ["exactly-once", "immediate"] {
        let scene = Scene::new();
        let sink = format!(
            "[[sink]]\nid = \"screen\"\nconnector = \"stdout\"\ninput = \"numbers\"\nformat = \"csv\"\ndelivery = \"{delivery}\"\n"
        );
        scene.write(
            "job.toml",
            jobs::head("pipe", "20ms") + jobs::ENDLESS + &sink,
        );
        let mut host = Command::new(PROGRAM)
            .args(["run", "job.toml"])
            .current_dir(scene.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the host starts");
        let mut stdout = BufReader::new(host.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        assert!(line.starts_with('k'), "{line}");
        drop(stdout);
        let mut stderr = String::new();
        let mut pipe = host.stderr.take().expect("a pipe");
        pipe.read_to_string(&mut stderr).expect("text");
        let status = host.wait().expect("it ends");
        assert_eq!(status.code(), Some(1), "{delivery}: {stderr}");
        let told = stderr.matches("the program that read standard output has ended");
        assert_eq!(told.count(), 1, "{delivery}: {stderr}");
        assert!(!stderr.contains("restart 1"), "{delivery}: {stderr}");
    }
}
