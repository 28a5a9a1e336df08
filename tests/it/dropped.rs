//! Output of a sink that the job no longer has: `-n` gives up state, but no record in silence.
//!
//! Method: a job is suspended, and the last of its output is moved back to where it was staged, with its
//! notes removed: what a process leaves that is killed between the completion of a checkpoint and the
//! publication of its output. Then the sink gets another name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// What the newest checkpoint has prepared for a sink: of each file where it is staged and where it is
/// published, below the sink's directory, and the records of all of them.
struct Prepared {
    files: Vec<(String, String)>,
    records: u64,
}

impl Prepared {
    fn of(scene: &Scene, checkpoint: &str, id: &str) -> Self {
        let shown =
            host::run(scene.path(), &["checkpoints", "show", "--json", checkpoint]).with_code(0);
        let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
        let operators = shown["operators"].as_array().expect("operators");
        let sink = operators
            .iter()
            .find(|it| it["id"] == id)
            .expect("the sink");
        let subtasks = sink["subtasks"].as_array().expect("subtasks");
        let parts = subtasks
            .iter()
            .filter_map(|it| it["parts"].as_array())
            .flatten();
        let mut files = Vec::new();
        let mut records = 0;
        for part in parts {
            let place = |key: &str| part[key].as_str().expect("a path").to_owned();
            files.push((place("staging"), place("file")));
            records += part["records"].as_u64().expect("a number");
        }
        assert!(!files.is_empty(), "the last checkpoint has prepared output");
        Self { files, records }
    }

    fn below(&self, root: &Path) -> Vec<(PathBuf, PathBuf)> {
        let places = |(staged, published): &(String, String)| {
            let (staged, published) = (root.join(staged), root.join(published));
            (staged, published)
        };
        self.files.iter().map(places).collect()
    }

    /// As a process leaves it that was killed before it published. A job that is suspended may do so as well.
    fn unpublish(&self, root: &Path) {
        for (staged, published) in self.below(root) {
            if published.is_file() {
                let place = staged.parent().expect("a place");
                fs::create_dir_all(place).expect("a directory can be made");
                fs::rename(&published, &staged).expect("a file can be moved");
            }
            assert!(staged.is_file(), "{} is staged", staged.display());
        }
        let notes = fs::read_dir(root.join(".highwater"))
            .expect("it is there")
            .flatten();
        for notes in notes.filter(|it| it.file_name().to_string_lossy().ends_with(".published")) {
            fs::remove_dir_all(notes.path()).expect("a directory can be removed");
        }
    }

    /// As a process leaves it that has published it.
    fn publish(&self, root: &Path) {
        for (staged, published) in self.below(root) {
            if staged.is_file() {
                fs::rename(&staged, &published).expect("a file can be moved");
            }
            assert!(published.is_file(), "{} is there", published.display());
        }
    }
}

/// Suspends the job of `job.toml` after two checkpoints, and returns the path of its last one.
fn suspend(scene: &Scene) -> String {
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(2);
    running.signal("TERM");
    let last = running.wait().with_code(0).completions().pop();
    last.expect("a checkpoint").path
}

impl Unpublished {
    fn new(name: &str) -> Self {
        let scene = Scene::new();
        scene.input(&oracle::bible(), 8, "txt");
        scene.write("job.toml", jobs::words(name, "25ms"));
        let prepared = Prepared::of(&scene, &suspend(&scene), "words");
        let root = scene.at("out");
        prepared.unpublish(&root);
        Self {
            files: prepared.below(&root),
            records: prepared.records,
            scene,
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

/// A job that was suspended, with two sinks whose files have the same names, as the names say nothing of
/// the sink. `b` may have other content in them.
struct Two {
    scene: Scene,
    name: &'static str,
    a: Prepared,
    b: Prepared,
    content: Content,
}

/// What `b` has in its files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// What `a` has.
    Same,
    /// The records of `a` in another form.
    Other,
}

impl Content {
    fn sink(self, id: &str, path: &str) -> String {
        match self {
            Self::Same => jobs::keys(id, "split", path),
            Self::Other => jobs::files(id, "split", path, "lines"),
        }
    }
}

impl Two {
    fn new(name: &'static str, content: Content) -> Self {
        let scene = Scene::new();
        scene.input(&oracle::bible(), 8, "txt");
        let job = jobs::head(name, "25ms") + jobs::VERSES + &jobs::split();
        scene.write(
            "job.toml",
            job + &jobs::keys("a", "split", "out-a") + &content.sink("b", "out-b"),
        );
        let last = suspend(&scene);
        let (a, b) = (
            Prepared::of(&scene, &last, "a"),
            Prepared::of(&scene, &last, "b"),
        );
        assert_eq!(a.files, b.files, "the names are the same");
        a.unpublish(&scene.at("out-a"));
        Self {
            scene,
            name,
            a,
            b,
            content,
        }
    }

    /// Puts the directories elsewhere, so that the checkpoint names none that is there.
    fn move_away(&self) {
        for directory in ["a", "b"] {
            let (from, to) = (format!("out-{directory}"), format!("moved-{directory}"));
            fs::rename(self.scene.at(&from), self.scene.at(&to)).expect("a directory can be moved");
        }
    }

    /// Resumes with sinks of these ids that write to these directories, and looks at what is in them then.
    fn resumes(&self, (a, path_a): (&str, &str), (b, path_b): (&str, &str)) {
        let job = jobs::head(self.name, "25ms") + jobs::VERSES + &jobs::split();
        let job = job + &jobs::keys(a, "split", path_a) + &self.content.sink(b, path_b);
        self.scene.write("job.toml", job);
        host::run(self.scene.path(), &["run", "job.toml", "--resume", "-n"])
            .with_code(0)
            .saying(&["`a` is not in the job", "published in"]);
        for (staged, published) in self.a.below(&self.scene.at(path_a)) {
            assert!(!staged.exists(), "{} is left", staged.display());
            assert!(published.is_file(), "{} is there", published.display());
        }
        let words = oracle::word_count(&self.scene.at("input"));
        assert_same_lines(&oracle::count_keys(&self.scene.at(path_a)), &words, path_a);
        if self.content == Content::Same {
            assert_same_lines(&oracle::count_keys(&self.scene.at(path_b)), &words, path_b);
        }
    }
}

#[test]
fn published_files_of_another_sink_do_not_count_for_one_that_was_renamed() {
    let job = Two::new("same-names", Content::Same);
    job.b.publish(&job.scene.at("out-b"));
    job.move_away();
    job.resumes(("a2", "moved-a"), ("b", "moved-b"));
}

#[test]
fn published_files_of_a_renamed_sink_count_for_one_sink_only() {
    let job = Two::new("two-renamed", Content::Same);
    job.b.publish(&job.scene.at("out-b"));
    job.move_away();
    job.resumes(("a2", "moved-a"), ("b2", "moved-b"));
}

#[test]
fn two_renamed_sinks_with_staged_files_of_the_same_names_are_told_apart() {
    let job = Two::new("told-apart", Content::Other);
    job.b.unpublish(&job.scene.at("out-b"));
    job.move_away();
    job.resumes(("a2", "moved-a"), ("b2", "moved-b"));
    for (_, published) in job.b.below(&job.scene.at("moved-b")) {
        assert!(published.is_file(), "{} is there", published.display());
    }
}

#[test]
fn a_sink_that_does_not_take_part_keeps_no_other_from_its_output() {
    // `b` stays, and what it has staged under the same names has another content.
    let job = Two::new("unlike", Content::Other);
    job.b.unpublish(&job.scene.at("out-b"));
    job.resumes(("a2", "out-a"), ("b", "out-b"));
}

#[test]
fn a_renamed_sink_publishes_in_the_copy_that_it_writes_to() {
    let job = Unpublished::new("copied");
    let (out, copy) = (job.scene.at("out"), job.scene.at("out2"));
    let copied = Command::new("cp").arg("-a").args([&out, &copy]).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp works");
    job.with_sink("copied", "renamed", "out2");
    let place = format!("published in {} now", copy.display());
    job.resume(&["-n"]).with_code(0).saying(&[&place]);
    assert_eq!(job.staged(), job.files.len(), "the original is as it was");
    assert_same_lines(
        &oracle::count_keys(&copy),
        &oracle::word_count(&job.scene.at("input")),
        "output in the copy",
    );
}

#[test]
fn a_sink_that_gets_another_connector_keeps_what_was_prepared() {
    let job = Unpublished::new("reused");
    let discard = jobs::discard("words", "split");
    let stdout = discard.replace("discard", "stdout") + "format = \"lines\"\n";
    let operator = jobs::pass("words", "split") + &jobs::discard("end", "words");
    for (rest, said) in [
        (discard, "another connector"),
        (stdout, "another connector"),
        (operator, "`words` was a sink and is an operator"),
    ] {
        let head = jobs::head("reused", "25ms") + jobs::VERSES + &jobs::split();
        job.scene.write("job.toml", head + rest.trim_end() + "\n");
        for options in [&[][..], &["-n"]] {
            job.resume(options).with_code(2).saying(&[said]);
            assert_eq!(job.staged(), job.files.len(), "a refusal changes nothing");
        }
    }
    // The way out that the refusal names.
    let head = jobs::head("reused", "25ms") + jobs::VERSES + &jobs::split();
    job.scene
        .write("job.toml", head + &jobs::discard("nowhere", "split"));
    let records = format!("with {} record", grouped(job.records));
    job.resume(&["-n"]).with_code(0).saying(&[
        "`words` is not in the job",
        &records,
        "published in",
    ]);
    assert_eq!(job.staged(), 0, "nothing is left");
}

#[test]
fn output_that_another_run_publishes_first_is_not_published_twice() {
    let job = Unpublished::new("original");
    let newest = job.scene.newest_checkpoint("original").expect("one").path;
    let original = fs::read(job.scene.at("job.toml")).expect("a job file");
    job.with_sink("another", "renamed", "out");
    let arguments = ["run", "job.toml", "-n", "-s", &newest];
    let arguments = [&arguments[..], &["--claim-mode", "no-claim"]].concat();
    host::run(job.scene.path(), &arguments)
        .with_code(0)
        .saying(&["`words` is not in the job", "published in"]);
    assert_eq!(job.staged(), 0, "as a sink that was not renamed does");
    let of_other = job.files.iter().map(|(_, published)| fs::read(published));
    let of_other: Vec<_> = of_other.map(|it| it.expect("a file")).collect();
    // Both runs write what comes after the checkpoint, so that is there twice.
    job.scene.write("job.toml", original);
    job.resume(&[]).with_code(0);
    for ((_, published), content) in job.files.iter().zip(of_other) {
        assert_eq!(fs::read(published).expect("a file"), content);
    }
    let names = crate::scene::visible_files(&job.scene.at("out"));
    let names: Vec<String> = names
        .iter()
        .map(|it| {
            it.file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    for (_, published) in &job.files {
        let name = published.file_name().expect("a name").to_string_lossy();
        assert_eq!(names.iter().filter(|it| **it == name).count(), 1, "{name}");
    }
}

/// The directories stay, and the ids move on by one: `b` gets the directory of `a`, which has the same file names,
/// and what `b` itself has prepared is in that of a new sink.
#[test]
fn a_sink_that_gets_the_directory_of_another_is_refused() {
    let job = Two::new("moved-on", Content::Same);
    job.b.unpublish(&job.scene.at("out-b"));
    let resume = |(first, path_a): (&str, &str), second: Option<(&str, &str)>, options: &[&str]| {
        let text = jobs::head(job.name, "25ms") + jobs::VERSES + &jobs::split();
        let second = second.map_or(String::new(), |(id, path)| jobs::keys(id, "split", path));
        let text = text + &jobs::keys(first, "split", path_a) + &second;
        job.scene.write("job.toml", text);
        let arguments = [&["run", "job.toml", "--resume"], options].concat();
        host::run(job.scene.path(), &arguments)
    };
    let refused = |ended: Ended| {
        ended.with_code(2).saying(&[
            "sink `b` publishes in ",
            "out-a now, where checkpoint ",
            "output of sink `a`",
            "set `path` of sink `b` back",
        ]);
        for (root, prepared) in [("out-a", &job.a), ("out-b", &job.b)] {
            for (staged, _) in prepared.below(&job.scene.at(root)) {
                assert!(staged.is_file(), "{} is still staged", staged.display());
            }
        }
    };
    refused(resume(("b", "out-a"), Some(("c", "out-b")), &["-n"]));
    refused(resume(("b", "out-a"), None, &["-n"]));
    // Two that change places are refused as well.
    refused(resume(("b", "out-a"), Some(("a", "out-b")), &[]));
    resume(("a", "out-a"), Some(("b", "out-b")), &[]).with_code(0);
    let words = oracle::word_count(&job.scene.at("input"));
    for root in ["out-a", "out-b"] {
        assert_same_lines(&oracle::count_keys(&job.scene.at(root)), &words, root);
    }
}
