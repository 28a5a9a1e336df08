//! What is said on standard error: as JSON if that is wanted, with a span for each checkpoint and each restore.

use serde_json::Value;

use crate::control;
use crate::host;
use crate::jobs;
use crate::oracle;
use crate::scene::Scene;

/// A bounded job that has ended, with some checkpoints.
fn words(name: &str) -> Scene {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 4, "txt");
    scene.write("job.toml", jobs::word_count(name));
    scene
}

/// Each line of standard error as JSON.
fn json_lines(stderr: &str) -> Vec<Value> {
    let parse = |line: &str| {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["timestamp", "level", "fields", "target"] {
            assert!(!value[key].is_null(), "no {key}: {line}");
        }
        value
    };
    stderr.lines().map(parse).collect()
}

#[test]
fn the_log_is_json_lines_if_that_is_wanted() {
    let scene = words("log");
    let ended = host::run(scene.path(), &["run", "job.toml", "--log-format", "json"]).with_code(0);
    let lines = json_lines(&ended.stderr);
    let said = |text: &str| {
        lines.iter().find(|line| {
            let message = line["fields"]["message"].as_str();
            message.is_some_and(|message| message.contains(text))
        })
    };
    let started = said("job `log` started").expect("a line");
    assert_eq!(
        (&started["level"], &started["target"]),
        (&"INFO".into(), &"host".into())
    );
    assert!(said("completed in").is_some(), "{}", ended.stderr);
    // An error is one line as well, with its hint.
    let wrong = ["run", "job.toml", "-p", "0", "--log-format", "json"];
    let refused = host::run(scene.path(), &wrong).with_code(2);
    let lines = json_lines(&refused.stderr);
    let error = lines.iter().find(|line| line["level"] == "ERROR");
    assert!(error.is_some(), "{}", refused.stderr);
}

#[test]
fn each_checkpoint_and_each_restore_is_a_span_of_the_log() {
    let scene = words("spans");
    let variables = [("HIGHWATER_LOG".to_owned(), "runtime=info".to_owned())];
    let arguments = ["run", "job.toml", "--log-format", "json"];
    let running = host::start_with_variables(scene.path(), &arguments, &variables);
    let ended = running.wait().with_code(0);
    let spans = |ended: &host::Ended, name: &str| {
        let lines = json_lines(&ended.stderr).into_iter();
        let spans = lines.filter(|line| line["target"] != "host" && line["span"]["name"] == name);
        spans.map(|line| line["span"].clone()).collect::<Vec<_>>()
    };
    let checkpoints = spans(&ended, "checkpoint");
    let last = checkpoints.last().expect("a checkpoint");
    assert_eq!(last["outcome"], "completed", "{last}");
    assert!(last["bytes"].as_u64() > Some(0), "{last}");
    let ids: Vec<u64> = checkpoints
        .iter()
        .map(|span| span["id"].as_u64().expect("an id"))
        .collect();
    assert!(
        ids.is_sorted_by(|one, next| one < next),
        "each once: {ids:?}"
    );
    assert!(spans(&ended, "restore").is_empty());

    let scene = control::scene("restored");
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    let first = running.checkpoints(2);
    running.signal("TERM");
    running.wait().with_code(0);
    let again = [&arguments[..], &["--resume"]].concat();
    let resumed = host::start_with_variables(scene.path(), &again, &variables);
    let resumed = resumed.wait().with_code(0);
    let restores = spans(&resumed, "restore");
    assert_eq!(restores.len(), 1, "{}", resumed.stderr);
    assert!(restores[0]["checkpoint"].as_u64() >= Some(first.id));
}
