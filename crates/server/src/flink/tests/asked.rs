//! What is asked for, and how far it is.

use super::*;

fn operation(operation: Operation, state: OperationState) -> OperationStatus {
    OperationStatus {
        request_id: "c22f5511a97331591ea0ea745868bafb".into(),
        job: "orders-1".into(),
        operation,
        version: 1,
        state,
    }
}

fn done(savepoint: Option<&str>, checkpoint: Option<&str>) -> OperationState {
    let taken = |path: &str| Taken {
        id: 7,
        path: Some(path.into()),
        ..Taken::default()
    };
    let report = Report {
        savepoint: savepoint.map(taken),
        checkpoint: checkpoint.map(taken),
        ..Report::default()
    };
    OperationState::Done {
        report: Box::new(report),
    }
}

fn failed() -> OperationState {
    let error = Failure::new(Code::Failed, "no space left").hint("delete something");
    OperationState::Failed { error }
}

/// Answers about operations, each with the heading of its table.
pub(super) fn answers() -> Vec<(&'static str, Value)> {
    let progress = || OperationState::InProgress {
        progress: "2 of 4".into(),
    };
    let states = || {
        [
            progress(),
            done(Some("/sp"), Some("/cp")),
            done(None, None),
            failed(),
        ]
    };
    let mut answers = vec![(
        "trigger",
        operations::triggered("c22f5511a97331591ea0ea745868bafb"),
    )];
    for state in states() {
        let status = operation(Operation::Checkpoint, state);
        answers.push(("savepoint status", operations::location(&status)));
        answers.push(("checkpoint status", operations::number(&status)));
        answers.push(("rescaling status", operations::done(&status)));
        answers.push(("disposal status", operations::done(&status)));
    }
    answers
}

#[test]
fn the_place_of_a_savepoint_is_said() {
    let location = |state| {
        let answer = operations::location(&operation(Operation::Checkpoint, state));
        assert_eq!(answer["status"]["id"], "COMPLETED");
        answer["operation"]["location"].clone()
    };
    assert_eq!(location(done(Some("/sp"), Some("/cp"))), "/sp");
    assert_eq!(location(done(None, Some("/cp"))), "/cp");
    assert_eq!(
        location(done(None, None)),
        "<checkpoint-not-externally-addressable>"
    );
    let answer = operations::number(&operation(Operation::Checkpoint, done(None, Some("/cp"))));
    assert_eq!(answer["operation"], json!({ "checkpointId": 7 }));
}

/// The bytes that Java 17 reads as a `SerializedThrowable` of Flink 2.3.
#[test]
fn a_failure_is_written_as_java_reads_it() {
    let answer = operations::done(&operation(Operation::Checkpoint, failed()));
    assert_eq!(answer["status"]["id"], "COMPLETED");
    let cause = &answer["operation"]["failure-cause"];
    let trace = "highwater.Failure: no space left\nhint: delete something\n";
    assert_eq!(cause["stack-trace"], trace);
    let bytes = cause["serialized-throwable"].as_str().unwrap();
    assert!(bytes.starts_with(
        "rO0ABXNyAClvcmcuYXBhY2hlLmZsaW5rLnV0aWwuU2VyaWFsaXplZFRocm93YWJsZWUWnfUfpxPz"
    ));
    assert_eq!(bytes.len() % 4, 0);
    let answer = operations::number(&operation(Operation::Checkpoint, failed()));
    assert_eq!(answer["operation"]["failureCause"], *cause);
}

/// A message may be of any size and have any characters.
#[test]
fn odd_messages_are_written_as_well() {
    for message in [
        "",
        "\0",
        "a\0ü€😀",
        &"😀".repeat(100_000),
        &"\0".repeat(100_000),
    ] {
        let error = Failure::new(Code::Failed, message);
        let state = OperationState::Failed { error };
        let answer = operations::done(&operation(Operation::Checkpoint, state));
        assert!(answer.to_string().len() < 1024 * 1024);
    }
}

fn ok(operation: Operation) -> Asked {
    Asked {
        operation,
        trigger_id: None,
    }
}

/// The bodies are those that the client of Flink 2.3.0 sends.
#[test]
fn what_the_flink_client_sends_is_understood() {
    let directory = || Some("/sp".to_owned());
    let body = br#"{"target-directory":"/sp","cancel-job":false,"formatType":"CANONICAL","triggerId":null}"#;
    let expected = ok(Operation::Savepoint {
        directory: directory(),
    });
    assert_eq!(operations::savepoint(body), Ok(expected));
    let body =
        br#"{"target-directory":null,"cancel-job":false,"formatType":"NATIVE","triggerId":null}"#;
    assert_eq!(
        operations::savepoint(body),
        Ok(ok(Operation::Savepoint { directory: None }))
    );
    let body = br#"{"target-directory":"/sp","cancel-job":true,"formatType":"CANONICAL","triggerId":null}"#;
    let stop = |drain| {
        ok(Operation::Stop {
            drain,
            savepoint_directory: directory(),
        })
    };
    assert_eq!(operations::savepoint(body), Ok(stop(false)));
    let body =
        br#"{"targetDirectory":"/sp","drain":true,"formatType":"CANONICAL","triggerId":null}"#;
    assert_eq!(operations::stop(body), Ok(stop(true)));
    let body =
        br#"{"targetDirectory":"/sp","drain":false,"formatType":"CANONICAL","triggerId":null}"#;
    assert_eq!(operations::stop(body), Ok(stop(false)));
    let body = br#"{"checkpointType":"CONFIGURED","triggerId":null}"#;
    assert_eq!(operations::checkpoint(body), Ok(ok(Operation::Checkpoint)));
    assert_eq!(
        operations::cancel(Some("mode=cancel")),
        Ok(ok(Operation::Cancel))
    );
    assert_eq!(operations::cancel(None), Ok(ok(Operation::Cancel)));
    let rescale = ok(Operation::Rescale { parallelism: 3 });
    assert_eq!(operations::rescaling(Some("parallelism=3")), Ok(rescale));
}

#[test]
fn empty_bodies_paths_of_flink_and_ids_are_understood() {
    assert_eq!(operations::checkpoint(b""), Ok(ok(Operation::Checkpoint)));
    assert_eq!(
        operations::savepoint(b" {} "),
        Ok(ok(Operation::Savepoint { directory: None }))
    );
    let path = |sent: &str| {
        let asked = operations::stop(json!({ "targetDirectory": sent }).to_string().as_bytes());
        match asked.unwrap().operation {
            Operation::Stop {
                savepoint_directory,
                ..
            } => savepoint_directory.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(path("file:/a/b"), "file:///a/b");
    assert_eq!(path("file:///a/b"), "file:///a/b");
    assert_eq!(path("s3://a/b"), "s3://a/b");
    let asked = operations::checkpoint(br#"{"triggerId":"C22F5511A97331591EA0EA745868BAFB"}"#);
    let id = asked.unwrap().trigger_id;
    assert_eq!(id.as_deref(), Some("c22f5511a97331591ea0ea745868bafb"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let savepoints: [&[u8]; 7] = [
        b"[]",
        b"{",
        br#"{"target_directory":"/sp"}"#,
        br#"{"target-directory":"sp"}"#,
        br#"{"triggerId":"abc"}"#,
        br#"{"formatType":"OTHER"}"#,
        br#"{"cancel-job":"yes"}"#,
    ];
    for body in savepoints {
        let refusal = operations::savepoint(body).unwrap_err();
        assert_eq!(refusal.code, Code::BadRequest);
    }
    for body in [
        br#"{"drian":true}"#,
        br#"{"drain":null,"drain":1}"#.as_slice(),
    ] {
        operations::stop(body).unwrap_err();
    }
    operations::checkpoint(br#"{"checkpointType":"FULL"}"#).unwrap_err();
    for query in [
        None,
        Some(""),
        Some("parallelism=0"),
        Some("parallelism=-1"),
        Some("p=1"),
    ] {
        operations::rescaling(query).unwrap_err();
    }
    operations::cancel(Some("mode=stop")).unwrap_err();
    for body in [&b""[..], b"{}", br#"{"savepoint-path":"relative"}"#] {
        operations::disposal(body).unwrap_err();
    }
    let asked =
        operations::disposal(br#"{"savepoint-path":"file:/s/savepoint-1/_metadata"}"#).unwrap();
    let savepoint = "file:///s/savepoint-1".to_owned();
    assert_eq!(asked.operation, Operation::Dispose { savepoint });
}
