//! What `docs/rest.md` lists is what is sent, and what Flink's client sends is understood.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::operations::{self, Asked};
use super::{PATHS, answer};
use crate::api::{
    Code, Failure, JobState, JobStatus, Operation, OperationState, OperationStatus, Report, Taken,
};
use crate::view::{
    Checkpoint, CheckpointSubtask, Checkpoints, Input, JobFailure, JobView, Member, MemberWork,
    Outcome, Phases, Restored, Subtask, Vertex,
};

mod asked;
mod described;
mod odd;

const JOB: &str = "00000000000000000000000000000abc";
const COUNT: &str = "0000000000000000000000000000c0de";
const WORDS: &str = "00000000000000000000000000005eed";

/// A job without checkpoints: a chain of a source and a split, then a count with a sink.
fn job(state: JobState) -> JobView {
    let subtask = |index| Subtask {
        index,
        busy_ms: 250,
        idle_ms: 500,
        back_pressured_ms: 250,
        watermark: (index == 0).then_some(1234),
        members: vec![
            MemberWork {
                records_in: 10,
                records_out: 30,
                state_bytes: 5,
                state_keys: 2,
                ..MemberWork::default()
            },
            MemberWork {
                records_in: 30,
                records_out: 60,
                ..MemberWork::default()
            },
        ],
    };
    let member = |id: &str, kind: &str, inputs: &[&str]| Member {
        id: id.into(),
        kind: kind.into(),
        inputs: inputs.iter().map(|id| (*id).into()).collect(),
    };
    let words = Vertex {
        id: WORDS.into(),
        name: "words -> split".into(),
        members: vec![
            member("words", "source", &[]),
            member("split", "operator", &["words"]),
        ],
        inputs: vec![],
        subtasks: vec![subtask(0), subtask(1)],
    };
    let count = Vertex {
        id: COUNT.into(),
        name: "count -> out".into(),
        members: vec![
            member("count", "operator", &["split"]),
            member("out", "sink", &["count"]),
        ],
        inputs: vec![Input {
            vertex: WORDS.into(),
            partition: "hash".into(),
        }],
        subtasks: vec![subtask(0), subtask(1)],
    };
    JobView {
        status: status(state),
        rest_id: JOB.into(),
        state_since: 2_000,
        running_since: matches!(state, JobState::Running | JobState::Stopping).then_some(2_000),
        ended_at: state.has_ended().then_some(9_000),
        key_groups: 128,
        vertices: vec![words, count],
        checkpoints: Checkpoints::default(),
        restoring: None,
        started_from: None,
        failures: vec![],
        config: BTreeMap::from([
            ("checkpoint.timeout".into(), "1h 30m".into()),
            ("restart.strategy".into(), "fixed-delay".into()),
            ("restart.attempts".into(), "3".into()),
        ]),
        operator_metrics: BTreeMap::from([(
            "count".into(),
            BTreeMap::from([("late".into(), 7.0)]),
        )]),
    }
}

fn status(state: JobState) -> JobStatus {
    JobStatus {
        name: "orders".into(),
        id: "orders-1".into(),
        state,
        process: 42,
        job_file: "/jobs/orders.toml".into(),
        parallelism: 2,
        started_at: 1_000,
        restarts: 0,
        last_failure: None,
        interval_ms: None,
        directory: None,
        checkpoint: None,
        completed_checkpoints: 0,
        failed_checkpoints: 0,
        checkpoint_failure: None,
        sources: vec![],
        sinks: vec![],
        bad_records: vec![],
    }
}

fn checkpoint(id: u64, savepoint: bool, bytes: u64) -> Checkpoint {
    let at = i64::try_from(id).unwrap() * 1_000;
    let part = |index| CheckpointSubtask {
        index,
        acknowledged_at: at + 40 + i64::from(index),
        start_delay_us: 1_500,
        alignment_us: 2_500,
        snapshot_us: 3_500,
        upload_us: 4_500,
        bytes,
        full_bytes: bytes * 2,
    };
    let parts = || vec![part(0), part(1)];
    Checkpoint {
        id,
        savepoint,
        triggered_at: at,
        ended_at: at + 50,
        outcome: Outcome::Completed {
            bytes: bytes * 4,
            full_bytes: bytes * 8,
            path: Some(format!("/cp/chk-{id}")),
            phases: Phases::default(),
            subtasks: BTreeMap::from([(WORDS.into(), parts()), (COUNT.into(), parts())]),
        },
    }
}

fn failed_checkpoint(id: u64) -> Checkpoint {
    Checkpoint {
        outcome: Outcome::Failed {
            kind: "expired".into(),
            reason: "it expired after 10 min".into(),
            slowest: Some("count, subtask 1".into()),
        },
        ..checkpoint(id, false, 0)
    }
}

/// A job with several checkpoints, after a restart.
fn with_checkpoints(state: JobState) -> JobView {
    let mut view = job(state);
    view.status.interval_ms = Some(1_000);
    view.status.directory = Some("s3://bucket/cp".into());
    view.status.restarts = 1;
    view.status.last_failure = Some("the component trapped".into());
    view.checkpoints = Checkpoints {
        completed: 4,
        failed: 1,
        in_progress: 1,
        restored: Some(Restored {
            id: 3,
            at: 3_500,
            took_ms: 12,
            savepoint: false,
            path: Some("/cp/chk-3".into()),
        }),
        restores: 1,
        history: vec![
            Arc::new(failed_checkpoint(5)),
            Arc::new(checkpoint(4, true, 400)),
            Arc::new(checkpoint(3, false, 300)),
            Arc::new(checkpoint(2, false, 200)),
            Arc::new(checkpoint(1, false, 100)),
        ],
        newest: Some(Arc::new(checkpoint(4, true, 400))),
        newest_savepoint: Some(Arc::new(checkpoint(4, true, 400))),
        newest_checkpoint: Some(Arc::new(checkpoint(3, false, 300))),
        newest_failure: Some(Arc::new(failed_checkpoint(5))),
        ..Checkpoints::default()
    };
    let failure = JobFailure {
        at: 3_400,
        message: "the component trapped".into(),
        restarted_from: Some(3),
        restart_delay_ms: Some(100),
    };
    view.failures = vec![Arc::new(failure)];
    view
}

/// What a `GET` of this path and query is answered with.
fn get(views: &[JobView], request: &str) -> Result<Value, (u16, String)> {
    let (path, query) = match request.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (request, None),
    };
    let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    answer(views, &path, query, 10_000).unwrap_or_else(|| panic!("{request} is not known"))
}
