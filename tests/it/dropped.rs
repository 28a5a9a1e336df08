//! Output of a sink that the job no longer has: `-n` gives up state, but no record in silence.
//!
//! Method: a job is suspended, and the last of its output is moved back to where it was staged, with its
//! notes removed: what a process leaves that is killed between the completion of a checkpoint and the
//! publication of its output. Then the sink gets another name.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::Scene;

struct Unpublished {
    scene: Scene,
    /// Of each file where it is staged, and where it will be published.
    files: Vec<(PathBuf, PathBuf)>,
    records: u64,
}

impl Unpublished {
    fn new(name: &str) -> Self {
        let scene = Scene::new();
        scene.input(&oracle::bible(), 8, "txt");
        scene.write("job.toml", jobs::words(name, "25ms"));
        let mut running = host::start(scene.path(), &["run", "job.toml"]);
        running.checkpoints(2);
        running.signal("TERM");
        let last = running.wait().with_code(0).completions().pop();
        let last = last.expect("a checkpoint").path;
        let shown = host::run(scene.path(), &["checkpoints", "show", "--json", &last]).with_code(0);
        let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
        let operators = shown["operators"].as_array().expect("operators");
        let sink = operators
            .iter()
            .find(|it| it["id"] == "words")
            .expect("the sink");
        let subtasks = sink["subtasks"].as_array().expect("subtasks");
        let parts = subtasks
            .iter()
            .filter_map(|it| it["parts"].as_array())
            .flatten();
        let mut files = Vec::new();
        let mut records = 0;
        for part in parts {
            let place = |key: &str| scene.at("out").join(part[key].as_str().expect("a path"));
            files.push((place("staging"), place("file")));
            records += part["records"].as_u64().expect("a number");
        }
        assert!(!files.is_empty(), "the last checkpoint has prepared output");
        for (staged, published) in &files {
            // A job that is suspended may leave what its last checkpoint has prepared to the next start.
            if published.is_file() {
                let place = staged.parent().expect("a place");
                fs::create_dir_all(place).expect("a directory can be made");
                fs::rename(published, staged).expect("a file can be moved");
            }
            assert!(staged.is_file(), "{} is staged", staged.display());
        }
        let notes = fs::read_dir(scene.at("out/.highwater"))
            .expect("it is there")
            .flatten();
        for notes in notes.filter(|it| it.file_name().to_string_lossy().ends_with(".published")) {
            fs::remove_dir_all(notes.path()).expect("a directory can be removed");
        }
        Self {
            scene,
            files,
            records,
        }
    }

    /// The job with another sink in its place.
    fn with_sink(&self, name: &str, sink: &str, path: &str) {
        let job = jobs::head(name, "25ms") + jobs::VERSES + &jobs::split();
        self.scene
            .write("job.toml", job + &jobs::keys(sink, "split", path));
    }

    fn resume(&self, options: &[&str]) -> Ended {
        host::run(
            self.scene.path(),
            &[&["run", "job.toml", "-s", "latest"], options].concat(),
        )
    }

    fn staged(&self) -> usize {
        self.files
            .iter()
            .filter(|(staged, _)| staged.is_file())
            .count()
    }
}

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[test]
fn a_renamed_sink_publishes_what_was_prepared_under_its_old_name() {
    let job = Unpublished::new("renamed-here");
    job.with_sink("renamed-here", "renamed", "out");
    job.resume(&[]).with_code(2).saying(&[
        "sink `words` is not in the job",
        "`renamed` is new",
        "`-n`",
    ]);
    assert_eq!(job.staged(), job.files.len(), "a refusal changes nothing");
    let records = format!("with {} record", grouped(job.records));
    job.resume(&["-n"]).with_code(0).saying(&[
        "`words` is not in the job",
        &records,
        "published in",
    ]);
    assert_same_lines(
        &oracle::count_keys(&job.scene.at("out")),
        &oracle::word_count(&job.scene.at("input")),
        "output of a job whose sink was renamed",
    );
}

#[test]
fn a_sink_with_another_name_and_place_leaves_no_output_behind() {
    let job = Unpublished::new("moved");
    job.with_sink("moved", "renamed", "elsewhere");
    let records = format!("with {} record", grouped(job.records));
    let out = format!("published in {}", job.scene.at("out").display());
    job.resume(&["-n"])
        .with_code(0)
        .saying(&["`words` is not in the job", &records, &out]);
    assert_eq!(job.staged(), 0, "nothing is left");
    let published = job.scene.at("published");
    fs::create_dir(&published).expect("a directory can be made");
    for directory in ["out", "elsewhere"] {
        for file in crate::scene::visible_files(&job.scene.at(directory)) {
            let name = format!(
                "{directory}-{}",
                file.file_name().expect("a name").to_string_lossy()
            );
            fs::copy(&file, published.join(name)).expect("a file can be copied");
        }
    }
    assert_same_lines(
        &oracle::count_keys(&published),
        &oracle::word_count(&job.scene.at("input")),
        "output in both directories",
    );
}

#[test]
fn output_that_is_lost_is_named_when_its_sink_is_dropped() {
    let job = Unpublished::new("lost");
    fs::remove_dir_all(job.scene.at("out/.highwater")).expect("a directory can be removed");
    job.with_sink("lost", "renamed", "out");
    let ended = job.resume(&["-n", "--json"]).with_code(0);
    let warning = ended
        .events()
        .into_iter()
        .find(|event| event["event"] == "warning");
    let warning = warning.expect("a warning");
    assert_eq!(warning["about"], "sink.words");
    let message = warning["message"].as_str().expect("a message");
    let count = format!("with {} record", grouped(job.records));
    for part in [count.as_str(), "dropped", "neither published nor staged"] {
        assert!(message.contains(part), "{message}");
    }
}
