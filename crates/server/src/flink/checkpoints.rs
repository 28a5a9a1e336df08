//! What became of a job's checkpoints.

use std::sync::Arc;

use serde_json::{Value, json};

use super::summary::Numbers;
use super::{Answer, between, check_id, int, long, vertices};
use crate::view::{Checkpoint, CheckpointSubtask, JobView, Outcome, Restored};

/// `GET /jobs/:jobid/checkpoints`.
pub(super) fn statistics(view: &JobView) -> Value {
    let checkpoints = &view.checkpoints;
    let ended = checkpoints.completed.saturating_add(checkpoints.failed);
    let newest = |newest: &Option<Arc<Checkpoint>>| {
        let newest = newest.as_ref();
        newest.map(|checkpoint| overview(view, checkpoint))
    };
    let history = checkpoints
        .history
        .iter()
        .map(|checkpoint| overview(view, checkpoint));
    json!({
        "counts": {
            "restored": long(checkpoints.restores),
            "total": long(ended.saturating_add(checkpoints.in_progress)),
            "in_progress": int(usize::try_from(checkpoints.in_progress).unwrap_or(usize::MAX)),
            "completed": long(checkpoints.completed),
            "failed": long(checkpoints.failed),
        },
        "summary": summary(&checkpoints.history),
        "latest": {
            "completed": newest(&checkpoints.newest_checkpoint),
            "savepoint": newest(&checkpoints.newest_savepoint),
            "failed": newest(&checkpoints.newest_failure),
            "restored": checkpoints.restored.as_ref().map(restored),
        },
        "history": history.collect::<Vec<_>>(),
    })
}

fn is_completed(checkpoint: &Checkpoint) -> bool {
    matches!(checkpoint.outcome, Outcome::Completed { .. })
}

fn restored(restored: &Restored) -> Value {
    json!({
        "id": long(restored.id),
        "restore_timestamp": restored.at,
        "is_savepoint": restored.savepoint,
        "external_path": restored.path,
    })
}

/// Over the completed ones that are remembered.
fn summary(history: &[Arc<Checkpoint>]) -> Value {
    let of_each = |number: &dyn Fn(&Figures) -> u64| {
        let completed = history.iter().filter(|checkpoint| is_completed(checkpoint));
        let figures = completed.map(|checkpoint| number(&Figures::of_all(checkpoint)));
        Numbers::new(figures).statistics()
    };
    json!({
        "checkpointed_size": of_each(&|figures| figures.bytes),
        "state_size": of_each(&|figures| figures.full_bytes),
        "end_to_end_duration": of_each(&Figures::duration),
        "alignment_buffered": of_each(&|_| 0),
        "processed_data": of_each(&|_| 0),
        "persisted_data": of_each(&|_| 0),
    })
}

/// What is said of a whole checkpoint and of a vertex's part in one alike.
#[derive(Default)]
struct Figures {
    triggered_at: i64,
    last_acknowledged_at: Option<i64>,
    bytes: u64,
    full_bytes: u64,
    acknowledged: usize,
}

impl Figures {
    /// Of a whole checkpoint.
    fn of_all(checkpoint: &Checkpoint) -> Self {
        let Outcome::Completed {
            bytes,
            full_bytes,
            subtasks,
            ..
        } = &checkpoint.outcome
        else {
            // Who had acknowledged one that was given up is not remembered.
            return Self {
                triggered_at: checkpoint.triggered_at,
                ..Self::default()
            };
        };
        let all = subtasks.values().flatten();
        Self {
            triggered_at: checkpoint.triggered_at,
            last_acknowledged_at: all.map(|subtask| subtask.acknowledged_at).max(),
            bytes: *bytes,
            full_bytes: *full_bytes,
            acknowledged: subtasks
                .values()
                .map(Vec::len)
                .fold(0, usize::saturating_add),
        }
        .or_ended(checkpoint)
    }

    /// Of a vertex's part in a checkpoint.
    fn of_vertex(checkpoint: &Checkpoint, subtasks: &[CheckpointSubtask]) -> Self {
        Self {
            triggered_at: checkpoint.triggered_at,
            last_acknowledged_at: subtasks.iter().map(|subtask| subtask.acknowledged_at).max(),
            bytes: Numbers::new(subtasks.iter().map(|subtask| subtask.bytes)).sum(),
            full_bytes: Numbers::new(subtasks.iter().map(|subtask| subtask.full_bytes)).sum(),
            acknowledged: subtasks.len(),
        }
        .or_ended(checkpoint)
    }

    /// A checkpoint without subtasks took until it ended.
    fn or_ended(mut self, checkpoint: &Checkpoint) -> Self {
        self.last_acknowledged_at.get_or_insert(checkpoint.ended_at);
        self
    }

    /// From the trigger to the last acknowledgement.
    fn duration(&self) -> u64 {
        let end = self.last_acknowledged_at.unwrap_or(self.triggered_at);
        between(self.triggered_at, end).unsigned_abs()
    }
}

/// A checkpoint in a list: without its vertices.
fn overview(view: &JobView, checkpoint: &Checkpoint) -> Value {
    let figures = Figures::of_all(checkpoint);
    let (class, status) = words(checkpoint);
    let count = match figures.acknowledged {
        0 => vertices::subtask_count(view),
        count => count,
    };
    let is_discarded = view.checkpoints.are_discarded && !checkpoint.savepoint;
    let duration = match &checkpoint.outcome {
        Outcome::Completed { .. } => long(figures.duration()),
        Outcome::Failed { .. } => between(checkpoint.triggered_at, checkpoint.ended_at),
    };
    let mut answer = json!({
        "className": class,
        "id": long(checkpoint.id),
        "status": status,
        "is_savepoint": checkpoint.savepoint,
        "savepointFormat": checkpoint.savepoint.then_some("CANONICAL"),
        "trigger_timestamp": checkpoint.triggered_at,
        "latest_ack_timestamp": figures.last_acknowledged_at.unwrap_or(-1),
        "checkpointed_size": long(figures.bytes),
        "state_size": long(figures.full_bytes),
        "end_to_end_duration": duration,
        "alignment_buffered": 0,
        "processed_data": 0,
        "persisted_data": 0,
        "num_subtasks": int(count),
        "num_acknowledged_subtasks": int(figures.acknowledged),
        "checkpoint_type": if checkpoint.savepoint { "SAVEPOINT" } else { "CHECKPOINT" },
        "tasks": {},
    });
    match &checkpoint.outcome {
        Outcome::Completed { path, .. } => {
            answer["external_path"] = json!(path);
            answer["discarded"] = is_discarded.into();
        }
        Outcome::Failed {
            reason, slowest, ..
        } => {
            let slowest = slowest.iter().map(|slowest| format!(" ({slowest})"));
            answer["failure_timestamp"] = checkpoint.ended_at.into();
            answer["failure_message"] = format!("{reason}{}", slowest.collect::<String>()).into();
        }
    }
    answer
}

/// What Flink calls a kind of checkpoint, and its status.
fn words(checkpoint: &Checkpoint) -> (&'static str, &'static str) {
    match is_completed(checkpoint) {
        true => ("completed", "COMPLETED"),
        false => ("failed", "FAILED"),
    }
}

/// The checkpoint with this number.
pub(super) fn find<'a>(view: &'a JobView, number: &str) -> Result<&'a Checkpoint, (u16, String)> {
    let id: u64 = number.parse().map_err(|_| {
        let number = operator::text::name(number);
        (400, format!("the checkpoint id `{number}` is not a number"))
    })?;
    let found = view
        .checkpoints
        .history
        .iter()
        .find(|checkpoint| checkpoint.id == id);
    found.map(AsRef::as_ref).ok_or_else(|| {
        let message = format!("Could not find checkpointing statistics for checkpoint {id}.");
        (404, message)
    })
}

/// `GET /jobs/:jobid/checkpoints/details/:checkpointid`.
pub(super) fn details(view: &JobView, checkpoint: &Checkpoint) -> Value {
    let mut answer = overview(view, checkpoint);
    if let Outcome::Completed { subtasks, .. } = &checkpoint.outcome {
        let tasks = subtasks
            .iter()
            .map(|(vertex, subtasks)| (vertex.clone(), task(checkpoint, subtasks)));
        answer["tasks"] = Value::Object(tasks.collect());
    }
    answer
}

/// A vertex's part in a completed checkpoint.
fn task(checkpoint: &Checkpoint, subtasks: &[CheckpointSubtask]) -> Value {
    let figures = Figures::of_vertex(checkpoint, subtasks);
    json!({
        "id": long(checkpoint.id),
        "status": "COMPLETED",
        "latest_ack_timestamp": figures.last_acknowledged_at.unwrap_or(-1),
        "checkpointed_size": long(figures.bytes),
        "state_size": long(figures.full_bytes),
        "end_to_end_duration": long(figures.duration()),
        "alignment_buffered": 0,
        "processed_data": 0,
        "persisted_data": 0,
        "num_subtasks": int(subtasks.len()),
        "num_acknowledged_subtasks": int(figures.acknowledged),
    })
}

/// `GET /jobs/:jobid/checkpoints/details/:checkpointid/subtasks/:vertexid`.
pub(super) fn subtasks(view: &JobView, checkpoint: &Checkpoint, vertex: &str) -> Answer {
    check_id("vertex", vertex)?;
    let id = long(checkpoint.id);
    let Outcome::Completed { subtasks, .. } = &checkpoint.outcome else {
        let message = format!(
            "checkpoint {id} failed, and what each subtask did for a failed one is not kept"
        );
        return Err((404, message));
    };
    let found = subtasks
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(vertex));
    let Some((_, subtasks)) = found else {
        // It may be of another run of the job, with other vertices.
        let known = if vertices::find(view, vertex).is_ok() {
            "took no part"
        } else {
            "is unknown"
        };
        return Err((
            404,
            format!("the vertex {vertex} {known} in checkpoint {id}"),
        ));
    };
    let mut answer = task(checkpoint, subtasks);
    answer["summary"] = subtasks_summary(checkpoint, subtasks);
    answer["subtasks"] = subtasks
        .iter()
        .map(|part| subtask(checkpoint, part))
        .collect();
    Ok(answer)
}

/// Microseconds as Flink's milliseconds.
fn ms(us: u64) -> u64 {
    us / 1000
}

fn subtasks_summary(checkpoint: &Checkpoint, subtasks: &[CheckpointSubtask]) -> Value {
    let of_each = |number: &dyn Fn(&CheckpointSubtask) -> u64| {
        Numbers::new(subtasks.iter().map(number)).statistics()
    };
    let duration = |subtask: &CheckpointSubtask| {
        between(checkpoint.triggered_at, subtask.acknowledged_at).unsigned_abs()
    };
    json!({
        "checkpointed_size": of_each(&|subtask| subtask.bytes),
        "state_size": of_each(&|subtask| subtask.full_bytes),
        "end_to_end_duration": of_each(&duration),
        "checkpoint_duration": {
            "sync": of_each(&|subtask| ms(subtask.snapshot_us)),
            "async": of_each(&|subtask| ms(subtask.upload_us)),
        },
        "alignment": {
            "buffered": of_each(&|_| 0),
            "processed": of_each(&|_| 0),
            "persisted": of_each(&|_| 0),
            "duration": of_each(&|subtask| ms(subtask.alignment_us)),
        },
        "start_delay": of_each(&|subtask| ms(subtask.start_delay_us)),
    })
}

fn subtask(checkpoint: &Checkpoint, subtask: &CheckpointSubtask) -> Value {
    json!({
        "className": "completed",
        "status": "completed",
        "index": int(subtask.index as usize),
        "ack_timestamp": subtask.acknowledged_at,
        "end_to_end_duration": between(checkpoint.triggered_at, subtask.acknowledged_at),
        "checkpointed_size": long(subtask.bytes),
        "state_size": long(subtask.full_bytes),
        "checkpoint": {
            "sync": long(ms(subtask.snapshot_us)),
            "async": long(ms(subtask.upload_us)),
        },
        "alignment": {
            "buffered": 0,
            "processed": 0,
            "persisted": 0,
            "duration": long(ms(subtask.alignment_us)),
        },
        "start_delay": long(ms(subtask.start_delay_us)),
        "unaligned_checkpoint": false,
        "aborted": false,
    })
}

/// `GET /jobs/:jobid/checkpoints/config`.
pub(super) fn config(view: &JobView) -> Value {
    let key = |key: &str| view.config.get(key).map(String::as_str);
    let number = |name, default| {
        let number = key(name).and_then(|text| text.parse::<i32>().ok());
        number.unwrap_or(default)
    };
    let duration = |name, default| key(name).and_then(duration_ms).unwrap_or(default);
    let retention = key("checkpoint.retention");
    let is_kept = matches!(
        retention,
        Some("retain-on-cancellation" | "delete-on-cancellation")
    );
    let scheme = view.status.directory.as_deref().map(|directory| {
        directory
            .split_once("://")
            .map_or("filesystem", |(scheme, _)| scheme)
    });
    json!({
        "mode": key("checkpoint.mode").unwrap_or("exactly-once").replace('-', "_"),
        // Flink's own number for no periodic checkpoints, which its web page knows.
        "interval": view.status.interval_ms.map_or(i64::MAX, long),
        "timeout": duration("checkpoint.timeout", 600_000),
        "min_pause": duration("checkpoint.min-pause", 0),
        "max_concurrent": number("checkpoint.max-concurrent", 1),
        "externalization": {
            "enabled": is_kept,
            "delete_on_cancellation": retention != Some("retain-on-cancellation"),
        },
        "state_backend": key("job.state-backend").unwrap_or("memory"),
        "checkpoint_storage": scheme.unwrap_or("memory"),
        "unaligned_checkpoints": false,
        "tolerable_failed_checkpoints": number("checkpoint.tolerable-failures", 0),
        "aligned_checkpoint_timeout": 0,
        "checkpoints_after_tasks_finish": true,
        "state_changelog_enabled": false,
        "changelog_periodic_materialization_interval": 0,
        "changelog_storage": "",
    })
}

/// A duration of a job file, as in `1h 30m`, in milliseconds; `None`: it is none.
fn duration_ms(text: &str) -> Option<i64> {
    let duration = humantime::parse_duration(text).ok()?;
    i64::try_from(duration.as_millis()).ok()
}
