//! Starting a job that ran before: one directory for each job, and no output lost or repeated unless
//! somebody said so. Conformance 87, 147, 155, 156, 157.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{self, Scene, all_files};

/// A job whose output appears with every checkpoint, suspended in the middle, with several checkpoints.
struct Suspended {
    scene: Scene,
    name: &'static str,
    /// The numbers of its checkpoints, oldest first.
    kept: Vec<u64>,
}

const SELF_CONTAINED: [&str; 4] = [
    "-D",
    "checkpoint.retained=6",
    "-D",
    "checkpoint.incremental=false",
];

impl Suspended {
    fn new(name: &'static str) -> Self {
        let scene = Scene::new();
        scene.input(&oracle::bible(), 16, "txt");
        scene.write("job.toml", jobs::words(name, "25ms"));
        let mut running = host::start(
            scene.path(),
            &[&["run", "job.toml"], &SELF_CONTAINED[..]].concat(),
        );
        running.checkpoints(6);
        running.signal("TERM");
        running.wait().with_code(0);
        let mut suspended = Self {
            scene,
            name,
            kept: Vec::new(),
        };
        suspended.kept = suspended.numbers();
        assert!(suspended.kept.len() >= 4, "{:?}", suspended.kept);
        assert!(
            !suspended.scene.output("out").is_empty(),
            "it has published"
        );
        suspended
    }

    fn job(&self) -> PathBuf {
        self.scene.at("checkpoints").join(self.name)
    }

    /// The numbers of the checkpoints that are there, oldest first.
    fn numbers(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.job()).expect("the job's directory");
        let mut numbers: Vec<u64> = entries
            .flatten()
            .filter(|entry| entry.path().join("_metadata").is_file())
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                name.strip_prefix("chk-")?.parse().ok()
            })
            .collect();
        numbers.sort_unstable();
        numbers
    }

    fn chk(&self, id: u64) -> String {
        self.job().join(format!("chk-{id}")).display().to_string()
    }

    /// One that is not the newest, and after which output was published.
    fn older(&self) -> u64 {
        self.kept[1]
    }

    fn run(&self, more: &[&str]) -> Ended {
        host::run(
            self.scene.path(),
            &[&["run", "job.toml"], &SELF_CONTAINED[..], more].concat(),
        )
    }

    /// All files but those that say who owns the directory.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut contents = scene::contents(self.scene.path());
        contents.retain(|path, _| !path.to_string_lossy().contains("/_lease/"));
        contents
    }

    fn assert_exactly_once(&self, what: &str) {
        assert_same_lines(
            &oracle::count_keys(&self.scene.at("out")),
            &oracle::word_count(&self.scene.at("input")),
            what,
        );
    }
}

/// Copies a directory of plain files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for file in all_files(from) {
        let target = to.join(file.file_name().expect("a file has a name"));
        fs::copy(&file, target).expect("a file can be copied");
    }
}

#[test]
fn c147_an_older_checkpoint_is_refused_with_what_is_at_stake() {
    let job = Suspended::new("c147-refused");
    let before = job.contents();
    let elsewhere = job.scene.at("backup/chk-copy");
    copy(Path::new(&job.chk(job.older())), &elsewhere);
    for way in [job.chk(job.older()), elsewhere.display().to_string()] {
        for claim in [&[][..], &["--claim-mode", "claim"]] {
            job.run(&[&["-s", way.as_str()], claim].concat())
                .with_code(2)
                .saying(&[
                    "output was published after checkpoint",
                    "of sink `words`",
                    "--rewind withdraw",
                    "--rewind repeat",
                    "--resume",
                ])
                .without_panic();
        }
    }
    fs::remove_dir_all(job.scene.at("backup")).expect("a directory can be removed");
    assert!(job.contents() == before, "nothing was changed");
    // The newest is still what the job goes on from.
    job.run(&["--resume"]).with_code(0);
    job.assert_exactly_once("resumed after refusals");
}

#[test]
fn c147_with_withdrawn_output_an_older_checkpoint_ends_as_if_undisturbed() {
    for from_copy in [false, true] {
        let job = Suspended::new("c147-withdraw");
        let older = job.older();
        let place = match from_copy {
            false => job.chk(older),
            true => {
                let copied = job.scene.at("backup/chk-copy");
                copy(Path::new(&job.chk(older)), &copied);
                copied.display().to_string()
            }
        };
        let files = scene::visible_files(&job.scene.at("out"));
        let ended = job
            .run(&["-s", &place, "--rewind", "withdraw"])
            .with_code(0)
            .saying(&["withdrew", "restoring from checkpoint"]);
        let gone = files.iter().filter(|file| !file.exists()).count();
        assert!(gone > 0, "nothing was withdrawn:\n{}", ended.transcript());
        job.assert_exactly_once("rewound, output withdrawn");
        let first = ended.completions().first().map(|first| first.id);
        let newest = *job.kept.last().expect("some were kept");
        assert!(first > Some(newest), "numbers never restart: {first:?}");
    }
}

#[test]
fn c147_with_repeated_output_nothing_is_lost() {
    let job = Suspended::new("c147-repeat");
    let before = job.scene.output("out").len();
    job.run(&["-s", &job.chk(job.older()), "--rewind", "repeat"])
        .with_code(0);
    let counted = |lines: &[String]| -> BTreeMap<String, u64> {
        let split = |line: &String| {
            let (word, count) = line.split_once(',').expect("a word and its count");
            (word.to_owned(), count.parse().expect("a number"))
        };
        lines.iter().map(split).collect()
    };
    let found = counted(&oracle::count_keys(&job.scene.at("out")));
    let expected = counted(&oracle::word_count(&job.scene.at("input")));
    let (mut total, mut wanted) = (0, 0);
    for (word, count) in &expected {
        let is = found.get(word).copied().unwrap_or(0);
        assert!(is >= *count, "{word} was lost: {is} of {count}");
        (total, wanted) = (total + is, wanted + count);
    }
    assert!(
        total > wanted && total <= wanted + before as u64,
        "what followed the checkpoint is there twice: {total} of {wanted}"
    );
}

#[test]
fn c147_falling_back_behind_published_output_is_refused_unless_it_is_withdrawn() {
    let job = Suspended::new("c147-fallback");
    // All that are newer than one after which output was published for sure: that of the newest may not
    // have been when the job was suspended.
    for id in job.kept.iter().filter(|id| **id > job.older()) {
        let metadata = job.job().join(format!("chk-{id}/_metadata"));
        let mut bytes = fs::read(&metadata).expect("a readable file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(&metadata, bytes).expect("a file can be written");
    }
    job.run(&["--resume"]).with_code(3).saying(&["--fallback"]);
    let before = job.contents();
    job.run(&["--resume", "--fallback"])
        .with_code(2)
        .saying(&["output was published after checkpoint", "--rewind withdraw"]);
    assert!(job.contents() == before, "nothing was changed");
    job.run(&["--resume", "--fallback", "--rewind", "withdraw"])
        .with_code(0)
        .saying(&["falling back"]);
    job.assert_exactly_once("fallen back, output withdrawn");
}

#[test]
fn c157_a_rewind_that_was_interrupted_is_finished_by_the_next_start() {
    // Killed before the first new checkpoint, and stopped in the middle of withdrawing.
    for obstructed in [false, true] {
        let job = Suspended::new("c157-rewind");
        let older = job.older();
        let rewind = ["-s", &job.chk(older), "--rewind", "withdraw"];
        let slow = ["-D", "checkpoint.interval=1h"];
        if obstructed {
            // A run of the job seems to be at work on its output: nothing is withdrawn under its hands.
            let place = job.scene.staging_place("c157-rewind", "g1");
            fs::create_dir_all(&place).expect("a directory can be made");
            let lock = fs::File::create(place.join("lock")).expect("a file can be made");
            lock.lock().expect("a file can be locked");
            job.run(&rewind)
                .with_code(2)
                .saying(&["the next start finishes it"])
                .without_panic();
            drop(lock);
            job.run(&["--resume"])
                .with_code(0)
                .saying(&["finishing the rewind"]);
        } else {
            let arguments = [&["run", "job.toml"], &SELF_CONTAINED[..], &rewind, &slow].concat();
            let mut running = host::start(job.scene.path(), &arguments);
            running.line_with("started, id").expect("it starts");
            running.kill().expect("killed before its first checkpoint");
            let from = format!("restoring from checkpoint {older}");
            job.run(&["-s", "latest"]).with_code(0).saying(&[&from]);
        }
        job.assert_exactly_once("output after an interrupted rewind");
    }
}

fn word_count(name: &str) -> Scene {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    scene.write("job.toml", jobs::word_count(name));
    scene
}

fn assert_totals(scene: &Scene, what: &str) {
    let expected = oracle::word_count(&scene.at("input"));
    assert_same_lines(&scene.output("out"), &expected, what);
}

/// What the newest entry of the lease of a job's directory has on record.
fn on_record(scene: &Scene, name: &str) -> Value {
    let entries = all_files(&scene.at(&format!("checkpoints/{name}/_lease")));
    let number = |path: &PathBuf| -> u64 {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        name.parse().unwrap_or(0)
    };
    let newest = entries.into_iter().max_by_key(number).expect("an entry");
    let text = fs::read_to_string(newest).expect("an entry is text");
    serde_json::from_str(text.lines().next().expect("a line")).expect("JSON")
}

#[test]
fn c155_a_fresh_start_that_was_killed_at_once_goes_on_as_the_same_run() {
    let scene = word_count("c155");
    let slow = ["-D", "checkpoint.interval=1h"];
    let mut runs = Vec::new();
    for start in [&[][..], &["--resume"], &["-s", "latest"]] {
        let arguments = [&["run", "job.toml"], start, &slow].concat();
        let mut running = host::start(scene.path(), &arguments);
        running.line_with("started, id").expect("it starts");
        let ended = running.kill().expect("killed before its first checkpoint");
        assert!(ended.completions().is_empty());
        runs.push(on_record(&scene, "c155")["run"]["token"].clone());
    }
    assert!(runs[0].is_string(), "{runs:?}");
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
    host::run(scene.path(), &["run", "job.toml", "--resume"]).with_code(0);
    assert_totals(&scene, "output after three kills before a checkpoint");
}

#[test]
fn a_start_over_an_unfinished_run_is_refused_and_a_fresh_one_takes_its_place() {
    let scene = word_count("unfinished");
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(2);
    running.kill().expect("killed in the middle");
    let before = on_record(&scene, "unfinished");
    let job = scene.at("checkpoints/unfinished");
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(2)
        .saying(&["--resume", "--fresh", "chk-"])
        .without_panic();
    // Killed before its first checkpoint, a fresh start is not the old run any more.
    let slow = ["run", "job.toml", "--fresh", "-D", "checkpoint.interval=1h"];
    let mut running = host::start(scene.path(), &slow);
    running.line_with("started, id").expect("it starts");
    running.kill().expect("killed before its first checkpoint");
    let old = |job: &Path| {
        all_files(job)
            .into_iter()
            .filter(|it| it.ends_with("_metadata"))
    };
    assert!(old(&job).next().is_some(), "nothing is deleted yet");
    let after = on_record(&scene, "unfinished");
    assert_ne!(before["run"]["token"], after["run"]["token"]);
    let mut running = host::start(scene.path(), &["run", "job.toml", "--resume"]);
    let first = running.checkpoints(1);
    let highest = after["highest"].as_u64().expect("a number");
    assert!(first.id > highest, "{} after {highest}", first.id);
    let ended = running.wait().with_code(0);
    assert!(
        !ended.stderr.contains("restoring"),
        "{}",
        ended.transcript()
    );
    assert_totals(&scene, "output of the fresh run");
    assert_eq!(old(&job).count(), 0, "the old run's checkpoints are gone");
}

#[test]
fn a_checkpoint_of_another_job_needs_a_fresh_start_over_an_unfinished_run() {
    let scene = word_count("mine");
    let mut running = host::start(scene.path(), &["run", "job.toml", "-D", "job.id=other"]);
    running.checkpoints(2);
    running.signal("TERM");
    let other = running.wait().with_code(0).completions().pop();
    let other = other.expect("two were completed").path;
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(1);
    running.kill().expect("killed in the middle");
    host::run(scene.path(), &["run", "job.toml", "-s", &other])
        .with_code(2)
        .saying(&["is another job's", "--fresh", "--resume"]);
    host::run(scene.path(), &["run", "job.toml", "-s", &other, "--fresh"])
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    assert_totals(&scene, "output from another job's checkpoint");
    assert!(Path::new(&other).exists(), "it is its owner's");
}

#[test]
fn the_newest_of_the_own_directory_cannot_be_left_unclaimed() {
    let scene = word_count("owned");
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(1);
    running.kill().expect("killed in the middle");
    let no_claim = [
        "run",
        "job.toml",
        "-s",
        "latest",
        "--claim-mode",
        "no-claim",
    ];
    host::run(scene.path(), &no_claim)
        .with_code(2)
        .saying(&["the job's own directory", "job.id"]);
    host::run(scene.path(), &["run", "job.toml", "-s", "latest"]).with_code(0);
    assert_totals(&scene, "resumed");
}

#[test]
fn c156_numbers_and_generations_never_restart() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(300));
    scene.write("job.toml", jobs::word_count("c156"));
    let (mut highest, mut generation) = (0, 0);
    for more in [
        &[][..],
        &["-D", "checkpoint.retain-on-finish=true"],
        &[],
        &["--fresh"],
    ] {
        let ended = host::run(scene.path(), &[&["run", "job.toml"], more].concat()).with_code(0);
        let first = ended.completions().first().expect("one at the end").id;
        assert!(first > highest, "{first} after {highest}");
        highest = ended.completions().last().expect("one at the end").id;
        let record = on_record(&scene, "c156");
        assert_eq!(record["highest"], highest);
        assert_eq!(record["run"]["ended"]["how"], "finished");
        let next = record["generation"].as_u64().expect("a number");
        assert!(next > generation, "{next} after {generation}");
        generation = next;
    }
    // What the second run kept on purpose is left alone by those after it.
    let kept = all_files(&scene.at("checkpoints"));
    let kept = kept.iter().filter(|file| file.ends_with("_metadata"));
    assert_eq!(kept.count(), 1);
}

#[test]
fn a_job_that_failed_with_its_checkpoints_deleted_is_not_begun_anew_by_a_supervisor() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    scene.write("job.toml", jobs::words("over", "25ms"));
    let mut running = host::start(scene.path(), &["run", "job.toml", "--resume"]);
    running.checkpoints(3);
    running.signal("INT");
    running.wait().with_code(0);
    let published = scene.output("out");
    assert!(!published.is_empty());
    host::run(scene.path(), &["run", "job.toml", "--resume"])
        .with_code(2)
        .saying(&["was cancelled", "--fresh"]);
    assert!(scene.output("out") == published, "nothing was repeated");
}

#[test]
fn a_job_is_forgotten_wholly_and_not_while_it_runs() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("forgotten", "30ms"));
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.checkpoints(1);
    let forget = ["checkpoints", "forget", "checkpoints/forgotten"];
    host::run(scene.path(), &forget)
        .with_code(2)
        .saying(&["is held by process"]);
    running.kill().expect("killed in the middle");
    let notes = scene.write("checkpoints/forgotten/shared/notes.txt", "somebody's");
    host::run(scene.path(), &forget)
        .with_code(2)
        .saying(&["notes.txt", "not part of a checkpoint"]);
    assert!(!all_files(&scene.at("checkpoints/forgotten")).is_empty());
    fs::remove_file(notes).expect("a file can be removed");
    host::run(scene.path(), &forget).with_code(0);
    assert!(!scene.at("checkpoints/forgotten").exists());
    host::run(scene.path(), &forget)
        .with_code(2)
        .without_panic();
}

#[test]
fn c147_output_that_a_consumer_has_moved_away_counts_as_published() {
    let job = Suspended::new("c147-moved");
    let older = ["-s", &job.chk(job.older())];
    fs::create_dir(job.scene.at("moved")).expect("a directory can be made");
    let published = scene::visible_files(&job.scene.at("out"));
    for file in &published {
        let target = job
            .scene
            .at("moved")
            .join(file.file_name().expect("a name"));
        fs::rename(file, target).expect("a file can be moved");
    }
    let before = job.contents();
    job.run(&older)
        .with_code(2)
        .saying(&["output was published after checkpoint", "--rewind"]);
    assert!(job.contents() == before, "nothing was changed");
    // What cannot be withdrawn is named.
    job.run(&[&older[..], &["--rewind", "withdraw"]].concat())
        .with_code(0)
        .saying(&["which no longer exists and cannot be withdrawn"]);
}

#[test]
fn c157_a_checkpoint_whose_output_is_lost_is_refused_before_anything_is_given_up() {
    let job = Suspended::new("c157-lost");
    fs::rename(job.scene.at("out"), job.scene.at("trash")).expect("a directory can be moved");
    let before = job.contents();
    for start in [&["--resume"][..], &["-s", &job.chk(job.older())]] {
        job.run(start)
            .with_code(2)
            .saying(&[
                "sink `words`",
                "no note says that it was published",
                "`path`",
            ])
            .without_panic();
    }
    assert!(job.contents() == before, "nothing was changed");
    fs::rename(job.scene.at("trash"), job.scene.at("out")).expect("a directory can be moved");
    job.run(&["--resume"]).with_code(0);
    job.assert_exactly_once("output that was put back");
}

#[test]
fn c45_a_job_may_start_from_another_jobs_checkpoint_with_an_output_of_its_own() {
    let job = Suspended::new("c45-fork");
    let newest = job.chk(*job.kept.last().expect("some were kept"));
    let fork = ["-D", "job.id=fork", "-D", "sink.words.path=fork-out"];
    job.run(&[&["-s", newest.as_str()][..], &fork].concat())
        .with_code(0);
    assert!(!job.scene.output("fork-out").is_empty());
    // Its owner goes on as if nothing had happened.
    job.run(&["--resume"]).with_code(0);
    job.assert_exactly_once("output of the job that was forked");
}

/// The entries of the lease of a job's directory, newest last.
fn entries(job: &Path) -> Vec<PathBuf> {
    let number = |path: &PathBuf| -> Option<u64> {
        let name = path.file_name()?.to_string_lossy().into_owned();
        name.parse().ok()
    };
    let mut entries = all_files(&job.join("_lease"));
    entries.retain(|path| number(path).is_some());
    entries.sort_by_key(number);
    entries
}

#[test]
fn c147_output_of_checkpoints_that_are_gone_is_not_repeated_in_silence() {
    // All checkpoints are gone, or the newest of a run that was killed before its record said so, or the
    // lease with the record.
    for what in ["all", "newest", "lease"] {
        let job = Suspended::new("c147-gone");
        let start = match what {
            "all" => {
                for id in &job.kept {
                    fs::remove_dir_all(job.chk(*id)).expect("a directory can be removed");
                }
                vec!["--resume".to_owned()]
            }
            "newest" => {
                let newer = job.kept.iter().filter(|id| **id > job.older());
                for id in newer {
                    fs::remove_dir_all(job.chk(*id)).expect("a directory can be removed");
                }
                vec!["--resume".to_owned()]
            }
            _ => {
                fs::remove_dir_all(job.job().join("_lease")).expect("a directory can be removed");
                vec!["-s".to_owned(), job.chk(job.older())]
            }
        };
        let start: Vec<&str> = start.iter().map(String::as_str).collect();
        let out = job.scene.output("out");
        job.run(&start)
            .with_code(2)
            .saying(&["output was published", "--rewind withdraw"])
            .without_panic();
        assert!(
            job.scene.output("out") == out,
            "{what}: nothing was changed"
        );
        job.run(&[&start[..], &["--rewind", "withdraw"]].concat())
            .with_code(0)
            .saying(&["withdrew"]);
        job.assert_exactly_once(what);
    }
}

#[test]
fn c157_a_damaged_entry_of_the_lease_does_not_bring_a_finished_rewind_back() {
    let job = Suspended::new("c157-damage");
    let rewind = ["-s", &job.chk(job.older()), "--rewind", "withdraw"];
    let arguments = [&["run", "job.toml"], &SELF_CONTAINED[..], &rewind].concat();
    let mut running = host::start(job.scene.path(), &arguments);
    running.checkpoints(2);
    running.kill().expect("killed in the middle");
    let newest = entries(&job.job()).pop().expect("an entry");
    let mut bytes = fs::read(&newest).expect("a readable file");
    bytes[10] ^= 1;
    fs::write(&newest, bytes).expect("a file can be written");
    // Who cannot read the newest entry waits for its owner to be silent.
    let soon = ["--resume", "-D", "checkpoint.lease-timeout=300ms"];
    let ended = job.run(&soon).with_code(0);
    assert!(
        !ended.stderr.contains("finishing the rewind"),
        "{}",
        ended.transcript()
    );
    job.assert_exactly_once("output after a damaged entry");
}

#[test]
fn c157_a_rewind_that_owes_output_elsewhere_says_so() {
    let job = Suspended::new("c157-owed");
    let rewind = ["-s", &job.chk(job.older()), "--rewind", "withdraw"];
    let place = job.scene.staging_place("c157-owed", "g1");
    fs::create_dir_all(&place).expect("a directory can be made");
    let lock = fs::File::create(place.join("lock")).expect("a file can be made");
    lock.lock().expect("a file can be locked");
    job.run(&rewind)
        .with_code(2)
        .saying(&["the next start finishes it"]);
    drop(lock);
    job.run(&["--resume", "-D", "sink.words.path=out2"])
        .with_code(2)
        .saying(&["is not withdrawn yet", "`path`"]);
    job.run(&["--resume"]).with_code(0);
    job.assert_exactly_once("output after the path was set back");
}
