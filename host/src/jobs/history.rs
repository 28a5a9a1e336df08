//! What became of a job's checkpoints and attempts in this process, as far back as is kept.

use std::collections::{BTreeMap, VecDeque};

use runtime::phases;
use runtime::{JobEvent, VertexReport};
use server::view::{
    Checkpoint, CheckpointSubtask, Checkpoints, Input, JobFailure, Longest, Member, MemberWork,
    Outcome, Phases, Restored, Subtask, Vertex, rest_id,
};

use super::directory_of;
use crate::events::{Metric, OperatorMetrics};

/// How many checkpoints are kept.
const CHECKPOINTS_MAX: usize = 100;

/// How many failures are kept.
const FAILURES_MAX: usize = 32;

/// What is kept of a job's past. The newest comes first.
#[derive(Debug, Default)]
pub(crate) struct History {
    checkpoints: VecDeque<Checkpoint>,
    failures: VecDeque<JobFailure>,
    failures_by_kind: BTreeMap<String, u64>,
    completed: u64,
    failed: u64,
    /// What the attempt that is set up goes on from.
    restoring: Option<Restored>,
    restored: Option<Restored>,
    restores: u64,
    /// When the job reached the state that it is in.
    pub(crate) state_since: i64,
    /// When it ended.
    pub(crate) ended_at: Option<i64>,
}

impl History {
    /// Of a job that starts now, from this checkpoint.
    pub(crate) fn new(restoring: Option<Restored>, now_ms: i64) -> Self {
        Self {
            restoring,
            state_since: now_ms,
            ..Self::default()
        }
    }

    /// Something has happened to the job.
    pub(crate) fn note(&mut self, event: &JobEvent, now_ms: i64) {
        match event {
            JobEvent::Started { .. } => {
                self.state_since = now_ms;
                if let Some(restored) = self.restoring.take() {
                    self.restores += 1;
                    self.restored = Some(Restored {
                        at: now_ms,
                        ..restored
                    });
                }
            }
            JobEvent::Restarting {
                delay_ms,
                cause,
                from,
                ..
            } => {
                self.state_since = now_ms;
                self.restoring = from.map(|id| self.restored_from(id));
                self.failed_at(JobFailure {
                    at: now_ms,
                    message: cause.clone(),
                    restarted_from: *from,
                    restart_delay_ms: Some(*delay_ms),
                });
            }
            JobEvent::CheckpointCompleted {
                id,
                savepoint,
                duration_ms,
                bytes,
                path,
                phases,
            } => {
                self.completed += 1;
                let took = i64::try_from(*duration_ms).unwrap_or(i64::MAX);
                let triggered_at = now_ms.saturating_sub(took);
                self.keep(Checkpoint {
                    id: *id,
                    savepoint: *savepoint,
                    triggered_at,
                    ended_at: now_ms,
                    outcome: Outcome::Completed {
                        bytes: *bytes,
                        full_bytes: phases.subtasks.iter().map(|it| it.state_bytes).sum(),
                        path: path.as_deref().map(directory_of),
                        phases: longest_phases(phases),
                        subtasks: subtasks(phases, triggered_at),
                    },
                });
            }
            JobEvent::CheckpointFailed {
                id,
                savepoint,
                kind,
                reason,
                slowest,
                ..
            } => {
                self.failed += 1;
                let kind = kind.code();
                *self.failures_by_kind.entry(kind.to_owned()).or_default() += 1;
                self.keep(Checkpoint {
                    id: *id,
                    savepoint: *savepoint,
                    triggered_at: now_ms,
                    ended_at: now_ms,
                    outcome: Outcome::Failed {
                        kind: kind.to_owned(),
                        reason: reason.clone(),
                        slowest: slowest.as_ref().map(|slowest| slowest.text.clone()),
                    },
                });
            }
        }
    }

    /// The job has ended, and failed if there is a reason.
    pub(crate) fn end(&mut self, failure: Option<String>, now_ms: i64) {
        self.state_since = now_ms;
        self.ended_at = Some(now_ms);
        if let Some(message) = failure {
            self.failed_at(JobFailure {
                at: now_ms,
                message,
                ..JobFailure::default()
            });
        }
    }

    /// What is known of the checkpoint that an attempt goes on from.
    fn restored_from(&self, id: u64) -> Restored {
        let known = self.checkpoints.iter().find_map(|it| match &it.outcome {
            Outcome::Completed { path, .. } if it.id == id => Some((it.savepoint, path.clone())),
            _ => None,
        });
        // It may be what the job was started from.
        let earlier = self.restored.as_ref().filter(|it| it.id == id);
        let (savepoint, path) = known
            .or_else(|| earlier.map(|it| (it.savepoint, it.path.clone())))
            .unwrap_or_default();
        Restored {
            id,
            at: 0,
            savepoint,
            path,
        }
    }

    fn keep(&mut self, checkpoint: Checkpoint) {
        self.checkpoints.push_front(checkpoint);
        self.checkpoints.truncate(CHECKPOINTS_MAX);
    }

    fn failed_at(&mut self, failure: JobFailure) {
        self.failures.push_front(failure);
        self.failures.truncate(FAILURES_MAX);
    }

    /// The checkpoints, of which this many are in progress.
    pub(crate) fn checkpoints(&self, in_progress: u64) -> Checkpoints {
        Checkpoints {
            completed: self.completed,
            failed: self.failed,
            failures_by_kind: self.failures_by_kind.clone(),
            in_progress,
            restored: self.restored.clone(),
            restores: self.restores,
            history: self.checkpoints.iter().cloned().collect(),
        }
    }

    /// The failures.
    pub(crate) fn failures(&self) -> Vec<JobFailure> {
        self.failures.iter().cloned().collect()
    }
}

/// Where the time of a checkpoint went, as events and views say it; see `docs/checkpoints.md`.
pub(crate) fn longest_phases(phases: &phases::Phases) -> Phases {
    let longest = |longest: &phases::Longest| Longest {
        us: longest.us,
        operator: longest.operator.clone(),
        subtask: longest.subtask,
    };
    Phases {
        start_delay: longest(&phases.start_delay),
        alignment: longest(&phases.alignment),
        snapshot: longest(&phases.snapshot),
        upload: longest(&phases.upload),
        metadata_us: phases.metadata_us,
    }
}

/// What the subtasks did, by the REST id of their vertex: that of the first that shares their thread.
fn subtasks(
    phases: &phases::Phases,
    triggered_at: i64,
) -> BTreeMap<String, Vec<CheckpointSubtask>> {
    let mut vertices: BTreeMap<String, Vec<CheckpointSubtask>> = BTreeMap::new();
    for subtask in &phases.subtasks {
        let took = i64::try_from(subtask.total_us / 1000).unwrap_or(i64::MAX);
        vertices
            .entry(rest_id(&subtask.operator))
            .or_default()
            .push(CheckpointSubtask {
                index: subtask.subtask,
                acknowledged_at: triggered_at.saturating_add(took),
                start_delay_us: subtask.start_delay_us,
                alignment_us: subtask.alignment_us,
                snapshot_us: subtask.snapshot_us,
                upload_us: subtask.upload_us,
                bytes: subtask.bytes,
                full_bytes: subtask.state_bytes,
            });
    }
    vertices
}

/// What the subtasks of the newest attempt do.
pub(crate) fn vertices(reports: Vec<VertexReport>) -> Vec<Vertex> {
    let ids: Vec<String> = reports
        .iter()
        .map(|report| {
            rest_id(
                report
                    .members
                    .first()
                    .map_or("", |member| member.id.as_str()),
            )
        })
        .collect();
    let vertex = |(index, report): (usize, VertexReport)| {
        let names: Vec<&str> = report.members.iter().map(|it| it.id.as_str()).collect();
        Vertex {
            id: ids[index].clone(),
            name: names.join(" -> "),
            inputs: report
                .inputs
                .iter()
                .map(|(from, partition)| Input {
                    vertex: ids[*from].clone(),
                    partition: partition.to_string(),
                })
                .collect(),
            subtasks: (0_u32..).zip(&report.subtasks).map(subtask).collect(),
            members: report.members.into_iter().map(member).collect(),
        }
    };
    reports.into_iter().enumerate().map(vertex).collect()
}

fn member(node: runtime::NodeInfo) -> Member {
    Member {
        id: node.id,
        kind: node.kind.to_owned(),
        inputs: node.inputs,
    }
}

fn subtask((index, report): (u32, &runtime::SubtaskReport)) -> Subtask {
    let work = |member: &runtime::MemberReport| MemberWork {
        records_in: member.records_in,
        records_out: member.records_out,
        state_bytes: member.state_bytes,
        state_keys: member.state_keys,
    };
    Subtask {
        index,
        busy_ms: report.busy_us / 1000,
        idle_ms: report.idle_us / 1000,
        back_pressured_ms: report.back_pressured_us / 1000,
        watermark: report.watermark,
        members: report.members.iter().map(work).collect(),
    }
}

/// What operators count of themselves, as numbers. What is no number is left out.
pub(crate) fn operator_metrics(
    metrics: OperatorMetrics,
) -> BTreeMap<String, BTreeMap<String, f64>> {
    let numbers = |(name, metric): (String, Metric)| {
        let part = |part: &str, value| (format!("{name}.{part}"), value);
        match metric {
            Metric::Counter { value } | Metric::Gauge { value } => vec![(name, value)],
            Metric::Histogram {
                count,
                sum,
                min,
                max,
            } => {
                let ends = [("min", min), ("max", max)];
                let ends = ends
                    .into_iter()
                    .filter_map(|(end, value)| Some(part(end, value?)));
                [part("count", count as f64), part("sum", sum)]
                    .into_iter()
                    .chain(ends)
                    .collect()
            }
        }
    };
    let of_operator = |(operator, metrics): (String, BTreeMap<String, Metric>)| {
        let numbers = metrics.into_iter().flat_map(numbers);
        (
            operator,
            numbers.filter(|(_, value)| value.is_finite()).collect(),
        )
    };
    metrics.into_iter().map(of_operator).collect()
}
