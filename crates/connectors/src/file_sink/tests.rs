//! Goal: whatever the moment of a crash, what is visible after the restore is what was written before
//! the restored checkpoint, once each. A crash is a sink that is dropped.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use dataflow::batch::NO_TIMESTAMP;
use dataflow::port::{Column, ColumnKind, Format};
use job_file::options::read_right;
use job_file::problem::brief;
use operator::Permanent;
use tempfile::TempDir;

use super::*;
use crate::testing::{context, error_chain, job, job_named, through_json};

fn port() -> Port {
    let column = |name: &str| Column {
        name: name.to_owned(),
        kind: ColumnKind::Text,
    };
    Port {
        name: "out".to_owned(),
        keyed: true,
        key_columns: vec![column("k")],
        format: Format::Row(vec![column("v")]),
    }
}

fn factory(directory: &TempDir, more: &str) -> FileSinkFactory {
    let options: FileSinkOptions = read_right(&format!("path = \"out\"\nformat = \"csv\"\n{more}"));
    options
        .prepare(directory.path(), &[port()], Permissions::Private)
        .unwrap()
}

fn batch(values: &[&str]) -> Batch {
    let mut batch = Batch::default();
    for value in values {
        batch.push(Some(b"k"), value.as_bytes(), NO_TIMESTAMP);
    }
    batch
}

fn create(
    factory: &FileSinkFactory,
    context: &SubtaskContext,
    restored: Option<&[Part]>,
) -> Box<dyn Sink> {
    factory.create(context, restored).unwrap()
}

/// The visible files with their text.
fn visible(directory: &TempDir) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory.path().join("out"))
        .unwrap()
        .map(Result::unwrap);
    let files = entries.filter(|entry| entry.path().is_file());
    files
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read_to_string(entry.path()).unwrap(),
            )
        })
        .collect()
}

/// The visible values in order.
fn values(directory: &TempDir) -> Vec<String> {
    let text: String = visible(directory).into_values().collect();
    let mut values: Vec<String> = text
        .lines()
        .map(|line| line.strip_prefix("k,").unwrap().to_owned())
        .collect();
    values.sort();
    values
}

fn pending(directory: &TempDir) -> usize {
    let pattern = directory.path().join("out/.highwater/*/*.pending");
    glob::glob(pattern.to_str().unwrap()).unwrap().count()
}

/// The job is over and nothing of it is kept.
fn abandon(factory: &FileSinkFactory, generation: u64) {
    factory.abandon(&job(), generation).unwrap();
}

fn origin() -> Origin {
    Origin {
        job: job(),
        run: "0a1b2c3d".to_owned(),
        through: u64::MAX,
        generation: u64::MAX,
    }
}

fn prepare(sink: &mut dyn Sink, id: u64) -> Vec<Part> {
    through_json(&sink.prepare(CheckpointId(id)).unwrap())
}

#[test]
fn files_appear_when_their_checkpoint_completes() {
    let directory = TempDir::new().unwrap();
    let factory = factory(&directory, "header = true");
    let mut sink = create(&factory, &context(0, 1), None);
    assert!(prepare(&mut *sink, 1).is_empty());
    sink.commit(CheckpointId(1)).unwrap();
    sink.write(&batch(&["a", "bc"])).unwrap();
    assert!(visible(&directory).is_empty());
    let parts = prepare(&mut *sink, 2);
    assert_eq!(
        parts,
        [serde_json::json!({
            "staging": ".highwater/job-0a1b2c3d/a0-s0000-000000.csv.pending",
            "file": "part-0a1b2c3d-c000002-g0-a0-s0000-000000.csv", "bytes": 13,
            "crc32c": crc32c::crc32c(b"k,v\nk,a\nk,bc\n"), "records": 2, "checkpoint": 2
        })]
    );
    assert!(visible(&directory).is_empty());
    sink.write(&batch(&["d"])).unwrap();
    sink.commit(CheckpointId(2)).unwrap();
    sink.commit(CheckpointId(2)).unwrap();
    let first = (
        "part-0a1b2c3d-c000002-g0-a0-s0000-000000.csv".to_owned(),
        "k,v\nk,a\nk,bc\n".to_owned(),
    );
    assert_eq!(visible(&directory), BTreeMap::from([first.clone()]));
    assert!(
        sink.close().is_err(),
        "what was never committed is no orderly end"
    );
    prepare(&mut *sink, 3);
    sink.commit(CheckpointId(3)).unwrap();
    sink.close().unwrap();
    let second = (
        "part-0a1b2c3d-c000003-g0-a0-s0000-000001.csv".to_owned(),
        "k,v\nk,d\n".to_owned(),
    );
    assert_eq!(visible(&directory), BTreeMap::from([first, second]));
    abandon(&factory, u64::MAX);
    assert!(!directory.path().join("out/.highwater").exists());
}

#[test]
fn what_an_aborted_checkpoint_prepared_goes_with_the_next() {
    let directory = TempDir::new().unwrap();
    let mut sink = create(&factory(&directory, ""), &context(0, 1), None);
    sink.write(&batch(&["a"])).unwrap();
    prepare(&mut *sink, 1);
    sink.write(&batch(&["b"])).unwrap();
    assert_eq!(prepare(&mut *sink, 2).len(), 2);
    sink.write(&batch(&["c"])).unwrap();
    assert_eq!(prepare(&mut *sink, 3).len(), 3);
    sink.commit(CheckpointId(2)).unwrap();
    assert_eq!(values(&directory), ["a", "b"]);
    assert_eq!(prepare(&mut *sink, 4).len(), 1);
}

/// Two subtasks write and are cut off at every stage of checkpoint 2; the restore runs with another
/// parallelism, under the same or another job id, in the same process or a new one.
#[test]
fn a_crash_at_any_stage_leaves_every_record_once() {
    for stage in 0..5 {
        for (parallelism, job_id, new_process) in [
            (1, "job-0a1b2c3d", true),
            (2, "job-0a1b2c3d", false),
            (3, "job-ffffffff", true),
        ] {
            let directory = TempDir::new().unwrap();
            let first = factory(&directory, "");
            let mut sinks: Vec<_> = (0..2)
                .map(|subtask| create(&first, &context(subtask, 2), None))
                .collect();
            let mut parts: Vec<Part> = Vec::new();
            for (index, sink) in sinks.iter_mut().enumerate() {
                sink.write(&batch(&[&format!("one-{index}")])).unwrap();
                parts.extend(prepare(&mut **sink, 1));
            }
            sinks
                .iter_mut()
                .for_each(|sink| sink.commit(CheckpointId(1)).unwrap());
            let mut next = Vec::new();
            for (index, sink) in sinks.iter_mut().enumerate() {
                sink.write(&batch(&[&format!("two-{index}")])).unwrap();
                if stage >= 1 {
                    next.extend(prepare(&mut **sink, 2));
                }
                sink.write(&batch(&[&format!("lost-{index}")])).unwrap();
            }
            // From stage 2 on checkpoint 2 is complete and the one that is restored.
            let mut expected = vec!["one-0", "one-1"];
            if stage >= 2 {
                parts = next;
                expected.extend(["two-0", "two-1"]);
            }
            let commits = usize::saturating_sub(stage, 2);
            for sink in sinks.iter_mut().take(commits) {
                sink.commit(CheckpointId(2)).unwrap();
            }
            drop(sinks);
            let second = if new_process {
                // The lock goes with the process that held it.
                drop(first);
                factory(&directory, "")
            } else {
                first
            };
            let mut contexts: Vec<_> = (0..parallelism)
                .map(|subtask| context(subtask, parallelism))
                .collect();
            for context in &mut contexts {
                context.job = job_named(job_id);
                context.attempt = u32::from(!new_process);
            }
            let mut sinks: Vec<_> = contexts
                .iter()
                .map(|context| create(&second, context, Some(&parts)))
                .collect();
            assert_eq!(values(&directory), expected, "stage {stage}");
            // Another job leaves what may be resumed by the one that wrote it.
            let others = job_id == "job-ffffffff";
            assert!(others || pending(&directory) == 0, "stage {stage}");
            for (index, sink) in sinks.iter_mut().enumerate() {
                sink.write(&batch(&[&format!("zafter-{index}")])).unwrap();
                prepare(&mut **sink, 3);
                sink.commit(CheckpointId(3)).unwrap();
            }
            assert_eq!(
                values(&directory).len(),
                expected.len() + parallelism as usize
            );
            sinks.iter_mut().for_each(|sink| sink.close().unwrap());
            for job_id in [job_id, "job-0a1b2c3d"] {
                second.abandon(&job_named(job_id), u64::MAX).unwrap();
            }
            assert!(
                !directory.path().join("out/.highwater").exists(),
                "stage {stage}"
            );
        }
    }
}

#[test]
fn later_subtasks_do_not_remove_what_the_first_has_begun() {
    let directory = TempDir::new().unwrap();
    let factory = factory(&directory, "");
    let mut first = create(&factory, &context(0, 2), Some(&[]));
    first.write(&batch(&["a"])).unwrap();
    let mut second = create(&factory, &context(1, 2), Some(&[]));
    second.write(&batch(&["b"])).unwrap();
    for sink in [&mut first, &mut second] {
        prepare(&mut **sink, 1);
        sink.commit(CheckpointId(1)).unwrap();
        sink.close().unwrap();
    }
    assert_eq!(values(&directory), ["a", "b"]);
    abandon(&factory, 0);
    assert!(!directory.path().join("out/.highwater").exists());
}

#[test]
fn names_do_not_collide_with_parts_that_are_still_to_be_committed() {
    let directory = TempDir::new().unwrap();
    let first = factory(&directory, "");
    let mut sink = create(&first, &context(1, 2), None);
    sink.write(&batch(&["a"])).unwrap();
    let parts = prepare(&mut *sink, 1);
    drop((sink, first));
    // The part is that of subtask 0 now, whose turn comes later.
    let second = factory(&directory, "");
    let mut other = create(&second, &context(1, 2), Some(&parts));
    other.write(&batch(&["b"])).unwrap();
    let mut owner = create(&second, &context(0, 2), Some(&parts));
    prepare(&mut *other, 2);
    other.commit(CheckpointId(2)).unwrap();
    assert_eq!(values(&directory), ["a", "b"]);
    owner.close().unwrap();
}

#[test]
fn a_running_job_keeps_what_it_prepared_when_another_starts_from_its_savepoint() {
    let directory = TempDir::new().unwrap();
    let running = factory(&directory, "");
    let mut sink = create(&running, &context(0, 1), None);
    sink.write(&batch(&["a"])).unwrap();
    let savepoint = prepare(&mut *sink, 1);
    sink.write(&batch(&["b"])).unwrap();
    prepare(&mut *sink, 2);
    let forked = factory(&directory, "");
    let other = SubtaskContext {
        job: job_named("job-ffffffff"),
        run: "ffffffff".to_owned(),
        ..context(0, 1)
    };
    create(&forked, &other, Some(&savepoint));
    assert_eq!(values(&directory), ["a"]);
    sink.commit(CheckpointId(2)).unwrap();
    assert_eq!(values(&directory), ["a", "b"]);
    let same = factory(&directory, "")
        .create(&context(0, 1), None)
        .err()
        .unwrap();
    assert!(
        same.to_string()
            .contains("written by another sink or another run of job"),
        "{same}"
    );
}

#[test]
fn what_will_never_be_committed_is_removed_unless_its_job_runs() {
    let directory = TempDir::new().unwrap();
    let (factory, other) = (factory(&directory, ""), factory(&directory, ""));
    let mut sink = create(&factory, &context(0, 1), None);
    sink.write(&batch(&["1"])).unwrap();
    prepare(&mut *sink, 1);
    sink.commit(CheckpointId(1)).unwrap();
    sink.write(&batch(&["2"])).unwrap();
    prepare(&mut *sink, 2);
    sink.write(&batch(&["3"])).unwrap();
    other.abandon(&job(), u64::MAX).unwrap();
    assert!(pending(&directory) > 0, "a sink holds the place");
    // The job is cancelled.
    drop(sink);
    factory
        .abandon(&job_named("another-job"), u64::MAX)
        .unwrap();
    assert!(pending(&directory) > 0, "it is not that job's");
    factory.abandon(&job(), u64::MAX).unwrap();
    assert_eq!(pending(&directory), 0);
    assert!(!directory.path().join("out/.highwater").exists());
    assert_eq!(values(&directory), ["1"]);
    factory.abandon(&job(), u64::MAX).unwrap();
}

#[test]
fn a_run_that_was_taken_for_dead_is_in_nobodys_way() {
    let directory = TempDir::new().unwrap();
    let owner = |generation: u64| SubtaskContext {
        generation,
        ..context(0, 1)
    };
    let first = factory(&directory, "");
    let mut zombie = create(&first, &owner(1), None);
    zombie.write(&batch(&["a"])).unwrap();
    let parts = prepare(&mut *zombie, 1);
    zombie.write(&batch(&["b"])).unwrap();
    prepare(&mut *zombie, 2);
    // Another has taken the job directory, and goes on from checkpoint 1.
    let second = factory(&directory, "");
    let mut sink = create(&second, &owner(2), Some(&parts));
    assert_eq!(values(&directory), ["a"]);
    // Both go on: the one because it does not know yet, with the names that the other has, too.
    zombie.commit(CheckpointId(1)).unwrap();
    zombie.write(&batch(&["c"])).unwrap();
    prepare(&mut *zombie, 3);
    sink.write(&batch(&["b"])).unwrap();
    prepare(&mut *sink, 2);
    sink.commit(CheckpointId(2)).unwrap();
    assert_eq!(values(&directory), ["a", "b"]);
    // Its files are numbered from 0, or one would seem to be missing.
    let named = "part-0a1b2c3d-c000002-g2-a0-s0000-000000.csv";
    assert!(visible(&directory).contains_key(named));
    drop((zombie, first));
    sink.close().unwrap();
    assert_eq!(values(&directory), ["a", "b"]);
    assert_eq!(
        pending(&directory),
        0,
        "what the first one left is gone as well"
    );
    let staging = directory.path().join("out/.highwater");
    let left: Vec<_> = durable::names_in(&staging).unwrap();
    assert_eq!(left, ["job-0a1b2c3d.published"]);
}

#[test]
fn parts_that_lead_elsewhere_fail_the_restore() {
    let directory = TempDir::new().unwrap();
    let factory = factory(&directory, "");
    let name = "part-0a1b2c3d-c000001-g0-a0-s0000-000000.csv";
    let leaf = "a0-s0000-000000.csv.pending";
    for (staging, file) in [
        ("../../x".to_owned(), name),
        (format!(".highwater/../{leaf}"), name),
        (format!(".highwater/./{leaf}"), name),
        (format!(".highwater//{leaf}"), name),
        (format!("/etc/a/{leaf}"), name),
        (format!(".highwater/a/b/{leaf}"), name),
        (".highwater/a/notes.txt".to_owned(), name),
        (format!(".highwater/a/{leaf}"), "../y"),
        (format!(".highwater/a/{leaf}"), ".bashrc"),
        (format!(".highwater/a/{leaf}"), "thesis.odt"),
    ] {
        let part = serde_json::json!(
            {"staging": staging, "file": file, "bytes": 1, "records": 1, "checkpoint": 1}
        );
        let error = factory.create(&context(0, 1), Some(&[part])).err().unwrap();
        assert!(
            error_chain(&*error).contains("leads out of the sink's directory"),
            "{staging}"
        );
    }
}

/// A part of checkpoint 1 that was prepared with `a` and not committed, and what it is about.
struct Prepared {
    directory: TempDir,
    parts: Vec<Part>,
    staged: PathBuf,
    published: PathBuf,
}

impl Prepared {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let mut sink = create(&factory(&directory, ""), &context(0, 1), None);
        sink.write(&batch(&["a"])).unwrap();
        let parts = prepare(&mut *sink, 1);
        let path = |key: &str| {
            directory
                .path()
                .join("out")
                .join(parts[0][key].as_str().unwrap())
        };
        let (staged, published) = (path("staging"), path("file"));
        Self {
            directory,
            parts,
            staged,
            published,
        }
    }

    /// Restores in another process.
    fn restore(&self) -> Result<Box<dyn Sink>, String> {
        let created = factory(&self.directory, "").create(&context(0, 1), Some(&self.parts));
        created.map_err(|error| {
            assert!(Permanent::is_in(&*error), "{error}: nothing heals that");
            error_chain(&*error)
        })
    }
}

#[test]
fn c141_what_is_not_what_the_checkpoint_says_is_not_published() {
    for content in ["k,b\n", "k,a", "k,a\nk,b\n", ""] {
        let prepared = Prepared::new();
        fs::write(&prepared.staged, content).unwrap();
        let error = prepared.restore().err().unwrap();
        assert!(
            error.contains("is not what checkpoint 1 has prepared") && error.contains(".pending"),
            "{error}"
        );
        let sizes = [content.len(), 4].map(|length| format!("{length} "));
        let sums =
            [content, "k,a\n"].map(|text| format!("{:08x}", crc32c::crc32c(text.as_bytes())));
        let named = if content.len() == 4 { sums } else { sizes };
        assert!(named.iter().all(|number| error.contains(number)), "{error}");
        assert!(!prepared.published.exists());
        // The right content can be put back.
        fs::write(&prepared.staged, "k,a\n").unwrap();
        assert!(prepared.restore().is_ok());
        assert_eq!(values(&prepared.directory), ["a"]);
    }
    let prepared = Prepared::new();
    fs::remove_file(&prepared.staged).unwrap();
    symlink("/etc/passwd", &prepared.staged).unwrap();
    assert!(
        prepared
            .restore()
            .err()
            .unwrap()
            .contains("it is not a file")
    );
}

#[test]
fn c141_a_commit_compares_what_changed_since_it_was_written() {
    let directory = TempDir::new().unwrap();
    let mut sink = create(&factory(&directory, ""), &context(0, 1), None);
    sink.write(&batch(&["a"])).unwrap();
    let parts = prepare(&mut *sink, 1);
    let staged = directory
        .path()
        .join("out")
        .join(parts[0]["staging"].as_str().unwrap());
    // The same length, in the same file or in another.
    for replace in [false, true] {
        if replace {
            fs::remove_file(&staged).unwrap();
        }
        fs::write(&staged, "k,x\n").unwrap();
        let modified = File::open(&staged).unwrap();
        modified.set_modified(std::time::UNIX_EPOCH).unwrap();
        let error = error_chain(&*sink.commit(CheckpointId(1)).unwrap_err());
        assert!(error.contains("its CRC-32C is"), "{error}");
    }
    assert_eq!(visible(&directory), BTreeMap::new());
    fs::write(&staged, "k,a\n").unwrap();
    sink.commit(CheckpointId(1)).unwrap();
    assert_eq!(values(&directory), ["a"]);
}

/// Attempt 0 prepares records for checkpoint 2, whose completion it does not learn of. Attempt 1 goes
/// on from checkpoint 1 and stages other records. Then checkpoint 2 is restored after all.
#[test]
fn c141_output_of_one_attempt_is_never_that_of_another() {
    let directory = TempDir::new().unwrap();
    let process = factory(&directory, "");
    let mut sink = create(&process, &context(0, 1), None);
    sink.write(&batch(&["1"])).unwrap();
    let first = prepare(&mut *sink, 1);
    sink.commit(CheckpointId(1)).unwrap();
    sink.write(&batch(&["2"])).unwrap();
    let second = prepare(&mut *sink, 2);
    drop(sink);
    let restarted = SubtaskContext {
        attempt: 1,
        ..context(0, 1)
    };
    let mut sink = create(&process, &restarted, Some(&first));
    sink.write(&batch(&["other"])).unwrap();
    let other = prepare(&mut *sink, 3);
    assert_ne!(second[0]["staging"], other[0]["staging"]);
    assert_ne!(second[0]["file"], other[0]["file"]);
    drop((sink, process));
    let error = factory(&directory, "").create(&context(0, 1), Some(&second));
    let error = error_chain(&*error.err().unwrap());
    assert!(
        error.contains("output of checkpoint 2 is missing in") && error.contains("(1 record)"),
        "{error}"
    );
    assert_eq!(values(&directory), ["1"]);
}

#[test]
fn what_is_published_is_not_written_over() {
    let prepared = Prepared::new();
    fs::write(&prepared.published, "k,b\n").unwrap();
    let error = prepared.restore().err().unwrap();
    assert!(
        error.contains("is not what checkpoint 1 has prepared") && !error.contains(".pending"),
        "{error}"
    );
    assert_eq!(values(&prepared.directory), ["b"]);
    // Both names of one file, as after a power loss.
    fs::write(&prepared.published, "k,a\n").unwrap();
    prepared.restore().unwrap();
    assert_eq!(values(&prepared.directory), ["a"]);
    assert!(!prepared.staged.exists());
    fs::write(&prepared.staged, "x").unwrap();
    let taken = durable::rename_to_free(&prepared.staged, &prepared.published);
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(values(&prepared.directory), ["a"]);
}

#[test]
fn what_a_consumer_has_taken_does_not_fail_a_restore() {
    let prepared = Prepared::new();
    // Published, and nothing was completed since.
    prepared.restore().unwrap();
    fs::rename(
        &prepared.published,
        prepared.directory.path().join("mine.csv"),
    )
    .unwrap();
    for _ in 0..2 {
        let mut sink = prepared.restore().unwrap();
        assert_eq!(visible(&prepared.directory), BTreeMap::new());
        sink.write(&batch(&["b"])).unwrap();
    }
    // The same where it was committed by the process that wrote it.
    let directory = TempDir::new().unwrap();
    let mut sink = create(&factory(&directory, ""), &context(0, 1), None);
    sink.write(&batch(&["a"])).unwrap();
    let parts = prepare(&mut *sink, 1);
    sink.commit(CheckpointId(1)).unwrap();
    sink.write(&batch(&["b"])).unwrap();
    let unknown = prepare(&mut *sink, 2);
    drop(sink);
    for name in visible(&directory).into_keys() {
        fs::remove_file(directory.path().join("out").join(name)).unwrap();
    }
    create(&factory(&directory, ""), &context(0, 1), Some(&parts));
    // What was never published and is gone is lost, though earlier files are noted.
    let lost = factory(&directory, "").create(&context(0, 1), Some(&unknown));
    let lost = error_chain(&*lost.err().unwrap());
    assert!(
        lost.contains("output of checkpoint 2 is missing in")
            && lost.contains("put one of them back"),
        "{lost}"
    );
}

/// The version before this one named and described its files otherwise.
#[test]
fn output_of_the_version_before_is_committed() {
    let directory = TempDir::new().unwrap();
    let place = directory.path().join("out/.highwater/job-0a1b2c3d.g1");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("part-0a1b2c3d-0-000004.csv.pending"), "k,a\n").unwrap();
    fs::write(place.join("part-0a1b2c3d-0-000005.csv.pending"), "k,lost\n").unwrap();
    let part = serde_json::json!({
        "staging": ".highwater/job-0a1b2c3d.g1/part-0a1b2c3d-0-000004.csv.pending",
        "file": "part-0a1b2c3d-0-000004.csv", "bytes": 4, "records": 1, "checkpoint": 7
    });
    let owner = SubtaskContext {
        generation: 2,
        ..context(0, 1)
    };
    let parts = [part];
    create(&factory(&directory, ""), &owner, Some(&parts));
    assert_eq!(values(&directory), ["a"]);
    assert_eq!(pending(&directory), 0);
    let published = directory.path().join("out/part-0a1b2c3d-0-000004.csv");
    fs::remove_file(&published).unwrap();
    create(&factory(&directory, ""), &owner, Some(&parts));
    // Without the note nobody knows; putting it back helps.
    abandon(&factory(&directory, ""), 2);
    let lost = factory(&directory, "").create(&owner, Some(&parts));
    assert!(error_chain(&*lost.err().unwrap()).contains("output of checkpoint 7 is missing in"));
    fs::write(&published, "k,a\n").unwrap();
    create(&factory(&directory, ""), &owner, Some(&parts));
}

fn owner(generation: u64) -> SubtaskContext {
    SubtaskContext {
        generation,
        ..context(0, 1)
    }
}

/// A run that prepares a record and is killed.
fn killed(directory: &TempDir, context: &SubtaskContext) -> Vec<Part> {
    let mut sink = create(&factory(directory, ""), context, None);
    sink.write(&batch(&["staged"])).unwrap();
    prepare(&mut *sink, 1)
}

#[test]
fn c142_what_a_successor_has_staged_survives_a_fenced_owner() {
    let directory = TempDir::new().unwrap();
    killed(&directory, &owner(1));
    let parts = killed(&directory, &owner(2));
    fs::create_dir_all(directory.path().join("out/.highwater/job-0a1b2c3d.g02")).unwrap();
    assert_eq!(
        pending(&directory),
        1,
        "the second run has cleaned up after the first"
    );
    abandon(&factory(&directory, ""), 1);
    assert_eq!(pending(&directory), 1);
    create(&factory(&directory, ""), &owner(3), Some(&parts));
    assert_eq!(values(&directory), ["staged"]);
    abandon(&factory(&directory, ""), 3);
    let left = durable::names_in(&directory.path().join("out/.highwater")).unwrap();
    assert_eq!(left, ["job-0a1b2c3d.g02"], "not a name that we write");
}

#[test]
fn c152_what_killed_runs_have_staged_goes_with_the_next_run() {
    let directory = TempDir::new().unwrap();
    for generation in [0, 1, 2] {
        killed(&directory, &owner(generation));
    }
    let other = SubtaskContext {
        job: job_named("job"),
        ..owner(1)
    };
    killed(&directory, &other);
    assert_eq!(pending(&directory), 2);
    for restored in [None, Some(&[][..])] {
        create(&factory(&directory, ""), &owner(5), restored);
        assert_eq!(pending(&directory), 1, "that of another job stays");
        killed(&directory, &owner(4));
        assert_eq!(pending(&directory), 2);
    }
}

#[test]
fn c159_links_are_refused_by_name_and_not_followed() {
    for link in [
        ".highwater",
        ".highwater/job-0a1b2c3d",
        ".highwater/job-0a1b2c3d.published",
    ] {
        let directory = TempDir::new().unwrap();
        let elsewhere = directory.path().join("elsewhere");
        fs::create_dir_all(&elsewhere).unwrap();
        fs::write(elsewhere.join("a0-s0000-000000.csv.pending"), "mine").unwrap();
        fs::write(
            elsewhere.join("0a1b2c3d-g0-a0-s0000-c000001-000001"),
            "mine",
        )
        .unwrap();
        let link = directory.path().join("out").join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&elsewhere, &link).unwrap();
        let factory = factory(&directory, "");
        let refused = |error: BoxError| {
            let error = error_chain(&*error);
            let named = format!("`{}` is a symbolic link", link.display());
            assert!(error.contains(&named), "{error}");
        };
        refused(factory.create(&context(0, 1), None).err().unwrap());
        refused(factory.abandon(&job(), 9).unwrap_err());
        refused(factory.withdraw(&origin(), 0, Some(&[])).unwrap_err());
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 2);
    }
}

/// A pipe keeps the one who opens it waiting until somebody else does; so a test of one hangs where it fails.
fn pipe(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

#[test]
fn c159_a_lock_or_published_file_that_is_none_is_not_followed_and_keeps_nobody_waiting() {
    let directory = TempDir::new().unwrap();
    let elsewhere = directory.path().join("elsewhere");
    let lock = directory.path().join("out/.highwater/job-0a1b2c3d/lock");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    for put in [
        &|lock: &Path| symlink(&elsewhere, lock).unwrap(),
        &pipe as &dyn Fn(&Path),
    ] {
        put(&lock);
        let error = factory(&directory, "").create(&context(0, 1), None).err();
        let error = error_chain(&*error.unwrap());
        assert!(error.contains(&*lock.to_string_lossy()), "{error}");
        assert!(!elsewhere.exists(), "nothing came to be through the link");
        fs::remove_file(&lock).unwrap();
    }
    three_checkpoints(&directory, |subtask| context(subtask, 2));
    let factory = factory(&directory, "header = true");
    let out = directory.path().join("out");
    let count = |published: Published| (published.files, published.more_records);
    assert_eq!(
        count(factory.published_after(&origin(), 0).unwrap()),
        (6, false)
    );
    let names = durable::names_in(&out).unwrap();
    let mut names: Vec<_> = names
        .iter()
        .filter(|name| PartName::parse(name).is_some())
        .collect();
    names.sort();
    fs::write(&elsewhere, "precious").unwrap();
    for (name, put) in names.into_iter().zip([
        &|path: &Path| symlink(&elsewhere, path).unwrap(),
        &pipe as &dyn Fn(&Path),
    ]) {
        fs::remove_file(out.join(name)).unwrap();
        put(&out.join(name));
    }
    assert_eq!(
        count(factory.published_after(&origin(), 0).unwrap()),
        (6, true)
    );
    let withdrawn = factory.withdraw(&origin(), 0, Some(&[])).unwrap();
    assert_eq!((withdrawn.files, withdrawn.missing.len()), (4, 2));
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
}

#[test]
fn c165_output_is_private_while_it_is_staged_and_as_the_umask_says_when_it_is_published() {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for existed in [false, true] {
        let directory = TempDir::new().unwrap();
        let staging = directory.path().join("out/.highwater");
        if existed {
            // By a version before, for everybody.
            fs::create_dir_all(staging.join("job-0a1b2c3d")).unwrap();
            fs::set_permissions(&staging, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let plain = directory.path().join("plain");
        fs::write(&plain, "").unwrap();
        let factory = factory(&directory, "");
        let mut sink = create(&factory, &context(0, 1), None);
        sink.write(&batch(&["a"])).unwrap();
        prepare(&mut *sink, 1);
        assert_eq!(mode(&staging), 0o700);
        if !existed {
            assert_eq!(mode(&staging.join("job-0a1b2c3d")), 0o700);
        }
        sink.commit(CheckpointId(1)).unwrap();
        let names = durable::names_in(&directory.path().join("out")).unwrap();
        let part = names
            .iter()
            .find(|name| PartName::parse(name).is_some())
            .unwrap();
        assert_eq!(mode(&directory.path().join("out").join(part)), mode(&plain));
    }
}

/// Publishes a file for each of checkpoints 1 to 3 and of two subtasks.
fn three_checkpoints(directory: &TempDir, context_of: impl Fn(u32) -> SubtaskContext) {
    let factory = factory(directory, "header = true");
    let mut sinks: Vec<_> = (0..2)
        .map(|s| create(&factory, &context_of(s), None))
        .collect();
    for id in 1..=3 {
        for sink in &mut sinks {
            sink.write(&batch(&["a", "\"two\nlines\"", "\"a \"\"b\"\"\""]))
                .unwrap();
            prepare(&mut **sink, id);
            sink.commit(CheckpointId(id)).unwrap();
        }
    }
}

#[test]
fn c147_what_was_published_after_a_checkpoint_is_counted_and_withdrawn() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("out");
    three_checkpoints(&directory, |subtask| SubtaskContext {
        generation: 4,
        ..context(subtask, 2)
    });
    // Neither of this run, nor a name that we write.
    let others = [
        "part-ffffffff-c000003-g4-a0-s0000-000002.csv",
        "part-0a1b2c3d-c000003-g4-a0-s0000-000002.csv.gz",
        "part-0a1b2c3d-c3-g4-a0-s0000-000002.csv",
        "copy of part-0a1b2c3d-c000003-g4-a0-s0000-000002.csv",
    ];
    for name in others {
        fs::write(out.join(name), "mine").unwrap();
    }
    let factory = factory(&directory, "header = true");
    let published = |after| factory.published_after(&origin(), after).unwrap();
    for (after, files) in [(0, 6), (1, 4), (2, 2), (3, 0)] {
        let expected = Published {
            files,
            records: 3 * files,
            more_records: false,
            more_files: false,
        };
        assert_eq!(published(after), expected);
    }
    assert!(factory.can_withdraw());
    let withdrawn = factory.withdraw(&origin(), 1, Some(&[])).unwrap();
    let expected = Withdrawn {
        files: 4,
        missing: Vec::new(),
    };
    assert_eq!(withdrawn, expected);
    assert_eq!(published(0).files, 2);
    assert_eq!(published(1), Published::default());
    assert!(others.iter().all(|name| out.join(name).exists()));
    assert_eq!(
        factory.withdraw(&origin(), 1, Some(&[])).unwrap(),
        Withdrawn::default()
    );
    // Nothing is there at all.
    fs::remove_dir_all(&out).unwrap();
    assert_eq!(published(0), Published::default());
    assert_eq!(
        factory.withdraw(&origin(), 0, Some(&[])).unwrap(),
        Withdrawn::default()
    );
}

#[test]
fn c147_what_a_consumer_has_taken_is_named_when_it_should_be_withdrawn() {
    let name = |checkpoint: u64, counter: u64| {
        format!("part-0a1b2c3d-c00000{checkpoint}-g0-a0-s0001-00000{counter}.csv")
    };
    let pattern = |counter: u64| format!("part-0a1b2c3d-c*-g0-a0-s0001-00000{counter}.*");
    // Those taken, and those named when checkpoint 1 is gone back to.
    for (taken, missing) in [
        (vec![name(1, 0)], vec![]),
        (vec![name(2, 1)], vec![pattern(1)]),
        (vec![name(3, 2)], vec![pattern(2)]),
        (
            vec![name(1, 0), name(2, 1), name(3, 2)],
            vec![format!("{} to {}", pattern(1), pattern(2))],
        ),
    ] {
        let directory = TempDir::new().unwrap();
        three_checkpoints(&directory, |subtask| context(subtask, 2));
        for name in &taken {
            fs::remove_file(directory.path().join("out").join(name)).unwrap();
        }
        let factory = factory(&directory, "header = true");
        let withdrawn = factory.withdraw(&origin(), 1, Some(&[])).unwrap();
        assert_eq!(withdrawn.missing, missing, "{taken:?}");
        assert_eq!(
            factory.withdraw(&origin(), 1, Some(&[])).unwrap(),
            Withdrawn::default()
        );
    }
}

#[test]
fn c147_checkpoint_that_is_gone_back_to_finds_its_staged_output() {
    let directory = TempDir::new().unwrap();
    let mut sink = create(&factory(&directory, ""), &owner(1), None);
    sink.write(&batch(&["a"])).unwrap();
    let parts = prepare(&mut *sink, 1);
    sink.write(&batch(&["b"])).unwrap();
    prepare(&mut *sink, 2);
    let lives = factory(&directory, "")
        .withdraw(&origin(), 1, Some(&parts))
        .unwrap_err();
    assert!(
        lives
            .to_string()
            .contains("another run of job `job-0a1b2c3d` still writes"),
        "{lives}"
    );
    drop(sink);
    // Killed before it committed either.
    let origin = Origin {
        generation: 2,
        ..origin()
    };
    factory(&directory, "").withdraw(&origin, 1, None).unwrap();
    assert_eq!(pending(&directory), 2, "nobody knows which are needed");
    let withdraw = || factory(&directory, "").withdraw(&origin, 1, Some(&parts));
    withdraw().unwrap();
    assert_eq!(pending(&directory), 1);
    create(&factory(&directory, ""), &owner(2), Some(&parts));
    assert_eq!(values(&directory), ["a"]);
    assert_eq!(pending(&directory), 0);
}

#[test]
fn c147_output_of_the_version_before_is_left_to_people() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("out");
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("part-0a1b2c3d-0-000004.csv"), "k,a\n").unwrap();
    let factory = factory(&directory, "");
    let origin = Origin {
        run: String::new(),
        ..origin()
    };
    let published = factory.published_after(&origin, 3).unwrap();
    assert_eq!((published.files, published.more_records), (1, true));
    let error = factory
        .withdraw(&origin, 3, Some(&[]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("part-0a1b2c3d-0-000004.csv") && error.contains("after checkpoint 3"),
        "{error}"
    );
    assert!(out.join("part-0a1b2c3d-0-000004.csv").exists());
}

#[test]
fn c149_a_directory_that_is_gone_ends_the_job() {
    let directory = TempDir::new().unwrap();
    let factory = factory(&directory, "");
    let out = directory.path().join("out");
    let mut sink = create(&factory, &context(0, 1), None);
    sink.write(&batch(&["a"])).unwrap();
    let parts = prepare(&mut *sink, 1);
    sink.commit(CheckpointId(1)).unwrap();
    sink.write(&batch(&["b"])).unwrap();
    fs::rename(&out, directory.path().join("moved")).unwrap();
    let restarted = SubtaskContext {
        attempt: 1,
        ..context(0, 1)
    };
    for error in [
        sink.prepare(CheckpointId(2)).unwrap_err(),
        factory.create(&restarted, Some(&parts)).err().unwrap(),
    ] {
        assert!(Permanent::is_in(&*error), "{error}");
        let named = format!("the output directory `{}` was removed", out.display());
        assert!(error.to_string().contains(&named), "{error}");
    }
    assert!(!out.exists(), "it is not made again");
    // Only the staging place is gone: the next attempt makes it again.
    fs::rename(directory.path().join("moved"), &out).unwrap();
    fs::remove_dir_all(out.join(".highwater")).unwrap();
    let mut sink = create(&factory, &restarted, Some(&[]));
    sink.write(&batch(&["b"])).unwrap();
    prepare(&mut *sink, 2);
    sink.commit(CheckpointId(2)).unwrap();
    assert_eq!(values(&directory), ["a", "b"]);
}

#[test]
fn c149_only_what_cannot_heal_is_marked() {
    let root = TempDir::new().unwrap();
    for (kind, permanent) in [
        (ErrorKind::PermissionDenied, true),
        (ErrorKind::ReadOnlyFilesystem, true),
        (ErrorKind::NotADirectory, true),
        (ErrorKind::StorageFull, false),
        (ErrorKind::Other, false),
        (ErrorKind::NotFound, false),
    ] {
        let cause = anyhow::Error::new(io::Error::from(kind)).context("cannot write `x`");
        let error = trouble::classify(cause, root.path());
        assert_eq!(Permanent::is_in(&*error), permanent, "{error}");
        assert!(error_chain(&*error).contains("cannot write `x`: "));
    }
    let cause = anyhow::Error::new(io::Error::from(ErrorKind::NotFound));
    let error = trouble::classify(cause, &root.path().join("gone"));
    assert!(Permanent::is_in(&*error), "{error}");
}

#[test]
fn a_file_that_reached_its_size_is_ended() {
    let directory = TempDir::new().unwrap();
    let mut sink = create(
        &factory(&directory, "roll-size = \"10B\"\nheader = true"),
        &context(0, 1),
        None,
    );
    sink.write(&batch(&["a", "b", "c", "d", "e"])).unwrap();
    assert_eq!(prepare(&mut *sink, 1).len(), 3);
    sink.commit(CheckpointId(1)).unwrap();
    let texts: Vec<_> = visible(&directory).into_values().collect();
    assert_eq!(texts, ["k,v\nk,a\nk,b\n", "k,v\nk,c\nk,d\n", "k,v\nk,e\n"]);
}

#[test]
fn much_output_is_written_whole() {
    let directory = TempDir::new().unwrap();
    let mut sink = create(&factory(&directory, ""), &context(0, 1), None);
    let long = "x".repeat(1000);
    let mut expected = String::new();
    for _ in 0..50 {
        sink.write(&batch(&[long.as_str(); 100])).unwrap();
        (0..100).for_each(|_| expected += &format!("k,{long}\n"));
    }
    let parts = prepare(&mut *sink, 1);
    sink.commit(CheckpointId(1)).unwrap();
    assert_eq!(parts[0]["bytes"], expected.len());
    assert_eq!(parts[0]["records"], 5000);
    assert_eq!(parts[0]["crc32c"], crc32c::crc32c(expected.as_bytes()));
    assert!(visible(&directory)["part-0a1b2c3d-c000001-g0-a0-s0000-000000.csv"] == expected);
}

#[test]
fn a_record_that_does_not_fit_the_format_is_named() {
    let directory = TempDir::new().unwrap();
    let options: FileSinkOptions = read_right("path = \"out\"\nformat = \"lines\"");
    let factory = options
        .prepare(directory.path(), &[port()], Permissions::Private)
        .unwrap();
    let mut sink = create(&factory, &context(0, 1), None);
    sink.write(&batch(&["a"])).unwrap();
    let error = sink.write(&batch(&["b", "c\nd"])).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot write record 3 of this attempt: record with key \"k\""),
        "{error}"
    );
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_the_start() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let problems = |text: &str| {
        let options: FileSinkOptions = read_right(text);
        let problems = options
            .prepare(directory.path(), &[port()], Permissions::Private)
            .err()
            .unwrap();
        problems.iter().map(brief).collect::<Vec<_>>().join("\n")
    };
    assert!(problems("path = \"file\"\nformat = \"csv\"").contains("is a file, but"));
    assert!(problems("path = \"file/below\"\nformat = \"csv\"").contains("file` is a file, so `"));
    assert!(
        problems("path = \"s3://bucket\"\nformat = \"csv\"").contains("s3 URLs are not supported")
    );
    let found = problems("roll-size = \"big\"");
    for key in ["`path`", "`format`", "`roll-size`"] {
        assert!(found.contains(key), "{found}");
    }
    let options: FileSinkOptions = read_right("path = \"new/deep\"\nformat = \"csv\"");
    assert!(
        options
            .prepare(directory.path(), &[port()], Permissions::Private)
            .is_ok()
    );
    assert!(
        !directory.path().join("new").exists(),
        "a check makes nothing"
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// A rewind was stopped for long, and the job has gone on without it.
#[test]
fn c147_what_a_successor_has_published_is_not_withdrawn() {
    let directory = TempDir::new().unwrap();
    for generation in [3, 5] {
        let mut sink = create(&factory(&directory, ""), &owner(generation), None);
        sink.write(&batch(&[&format!("by {generation}")])).unwrap();
        prepare(&mut *sink, generation);
        sink.commit(CheckpointId(generation)).unwrap();
        sink.close().unwrap();
    }
    let woken = Origin {
        through: 4,
        generation: 4,
        ..origin()
    };
    let factory = factory(&directory, "");
    assert_eq!(factory.published_after(&woken, 0).unwrap().files, 1);
    let withdrawn = factory.withdraw(&woken, 0, Some(&[])).unwrap();
    assert_eq!((withdrawn.files, withdrawn.missing), (1, Vec::new()));
    assert_eq!(values(&directory), ["by 5"]);
}

/// A host is stopped between the note and the rename. Another host, which does not see its lock,
/// withdraws the output of its checkpoint meanwhile.
#[test]
fn c147_a_host_that_wakes_in_a_commit_publishes_nothing_that_was_withdrawn() {
    let directory = TempDir::new().unwrap();
    let mut sink = create(&factory(&directory, ""), &owner(1), None);
    sink.write(&batch(&["a"])).unwrap();
    let parts = prepare(&mut *sink, 1);
    sink.commit(CheckpointId(1)).unwrap();
    sink.write(&batch(&["b"])).unwrap();
    prepare(&mut *sink, 2);
    // The other host's file system makes this file again for it: the lock is on another one.
    let places = directory.path().join("out/.highwater");
    fs::remove_file(places.join("job-0a1b2c3d.g1/lock")).unwrap();
    let successor = Origin {
        generation: 2,
        ..origin()
    };
    factory(&directory, "")
        .withdraw(&successor, 1, Some(&parts))
        .unwrap();
    let error = sink.commit(CheckpointId(2)).unwrap_err();
    let error = error_chain(&*error);
    assert!(error.contains("output of checkpoint 2"), "{error}");
    assert_eq!(values(&directory), ["a"]);
    drop(sink);
    let mut sink = create(&factory(&directory, ""), &owner(2), Some(&parts));
    sink.write(&batch(&["c"])).unwrap();
    prepare(&mut *sink, 2);
    sink.commit(CheckpointId(2)).unwrap();
    assert_eq!(values(&directory), ["a", "c"]);
}
