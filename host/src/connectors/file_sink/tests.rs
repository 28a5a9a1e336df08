//! Goal: whatever the moment of a crash, what is visible after the restore is what was written before
//! the restored checkpoint, once each. A crash is a sink that is dropped.

use std::collections::BTreeMap;

use dataflow::batch::NO_TIMESTAMP;
use dataflow::port::{Column, ColumnKind, Format};
use tempfile::TempDir;

use super::*;
use crate::connectors::testing::{context, error_chain, through_json};

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
    let options: FileSinkOptions =
        toml::from_str(&format!("path = \"out\"\nformat = \"csv\"\n{more}")).unwrap();
    options.prepare(directory.path(), &[port()]).unwrap()
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
    sink.write(&batch(&["a", "b,c"])).unwrap();
    assert!(visible(&directory).is_empty());
    let parts = prepare(&mut *sink, 2);
    assert_eq!(
        parts,
        [serde_json::json!({
            "staging": ".highwater/job-0a1b2c3d/part-0a1b2c3d-0-000000.csv.pending",
            "file": "part-0a1b2c3d-0-000000.csv", "bytes": 14, "records": 2, "checkpoint": 2
        })]
    );
    assert!(visible(&directory).is_empty());
    sink.write(&batch(&["d"])).unwrap();
    sink.commit(CheckpointId(2)).unwrap();
    sink.commit(CheckpointId(2)).unwrap();
    let first = (
        "part-0a1b2c3d-0-000000.csv".to_owned(),
        "k,v\nk,a\nk,b,c\n".to_owned(),
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
        "part-0a1b2c3d-0-000001.csv".to_owned(),
        "k,v\nk,d\n".to_owned(),
    );
    assert_eq!(visible(&directory), BTreeMap::from([first, second]));
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
                context.job_id = job_id.to_owned();
                context.attempt = u32::from(!new_process);
            }
            let mut sinks: Vec<_> = contexts
                .iter()
                .map(|context| create(&second, context, Some(&parts)))
                .collect();
            assert_eq!(values(&directory), expected, "stage {stage}");
            assert_eq!(pending(&directory), 0, "stage {stage}");
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
        job_id: "job-ffffffff".to_owned(),
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
    let job_id = context(0, 1).job_id;
    sink.write(&batch(&["1"])).unwrap();
    prepare(&mut *sink, 1);
    sink.commit(CheckpointId(1)).unwrap();
    sink.write(&batch(&["2"])).unwrap();
    prepare(&mut *sink, 2);
    sink.write(&batch(&["3"])).unwrap();
    other.abandon(&job_id, u64::MAX).unwrap();
    assert!(pending(&directory) > 0, "a sink holds the place");
    // The job is cancelled.
    drop(sink);
    factory.abandon("another-job", u64::MAX).unwrap();
    assert!(pending(&directory) > 0, "it is not that job's");
    factory.abandon(&job_id, u64::MAX).unwrap();
    assert_eq!(pending(&directory), 0);
    assert!(!directory.path().join("out/.highwater").exists());
    assert_eq!(values(&directory), ["1"]);
    factory.abandon(&job_id, u64::MAX).unwrap();
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
    drop((zombie, first));
    sink.close().unwrap();
    assert_eq!(values(&directory), ["a", "b"]);
    let staging = directory.path().join("out/.highwater");
    assert!(!staging.exists(), "what the first one left is gone as well");
}

#[test]
fn prepared_output_that_is_missing_or_leads_elsewhere_fails_the_restore() {
    let directory = TempDir::new().unwrap();
    let factory = factory(&directory, "");
    let mut sink = create(&factory, &context(0, 1), None);
    sink.write(&batch(&["a"])).unwrap();
    let parts = prepare(&mut *sink, 1);
    drop(sink);
    let fail = |parts: &[Part]| {
        let context = SubtaskContext {
            attempt: 1,
            ..context(0, 1)
        };
        error_chain(&*factory.create(&context, Some(parts)).err().unwrap())
    };
    let taken = directory.path().join("out/part-0a1b2c3d-0-000000.csv");
    fs::write(&taken, "").unwrap();
    assert!(fail(&parts).contains("exists already"));
    fs::remove_file(&taken).unwrap();
    fs::remove_dir_all(directory.path().join("out/.highwater")).unwrap();
    let error = fail(&parts);
    assert!(
        error.contains("prepared output of checkpoint 1 is missing")
            && error.contains("part-0a1b2c3d-0-000000")
    );
    for (staging, file) in [
        ("../../x", "y"),
        (".highwater/../x", "y"),
        (".highwater/a/b", "../y"),
        ("/etc/a/b", "y"),
    ] {
        let part = serde_json::json!(
            {"staging": staging, "file": file, "bytes": 1, "records": 1, "checkpoint": 1}
        );
        assert!(
            fail(&[part]).contains("leads out of the sink's directory"),
            "{staging}"
        );
    }
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
    assert!(visible(&directory)["part-0a1b2c3d-0-000000.csv"] == expected);
}

#[test]
fn a_record_that_does_not_fit_the_format_is_named() {
    let directory = TempDir::new().unwrap();
    let options: FileSinkOptions = toml::from_str("path = \"out\"\nformat = \"lines\"").unwrap();
    let factory = options.prepare(directory.path(), &[port()]).unwrap();
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
        let options: FileSinkOptions = toml::from_str(text).unwrap();
        let problems = options.prepare(directory.path(), &[port()]).err().unwrap();
        problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(problems("path = \"file\"\nformat = \"csv\"").contains("is a file, but"));
    assert!(problems("path = \"file/below\"\nformat = \"csv\"").contains("is a file in the way"));
    assert!(
        problems("path = \"s3://bucket\"\nformat = \"csv\"").contains("s3 URLs are not supported")
    );
    let found = problems("roll-size = \"big\"");
    for key in ["`path`", "`format`", "`roll-size`"] {
        assert!(found.contains(key), "{found}");
    }
    let options: FileSinkOptions = toml::from_str("path = \"new/deep\"\nformat = \"csv\"").unwrap();
    assert!(options.prepare(directory.path(), &[port()]).is_ok());
    assert!(
        !directory.path().join("new").exists(),
        "a check makes nothing"
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn jobs_have_short_names_of_eight_digits() {
    assert_eq!(staging::short_job_id("count-words-0a1b2c3d"), "0a1b2c3d");
    let named = staging::short_job_id("my-job");
    assert!(named.len() == 8 && named.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(named, staging::short_job_id("my-jobs"));
}
