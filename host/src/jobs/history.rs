//! What became of a job's checkpoints and attempts in this process, as far back as is kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use runtime::abort::Kind;
use runtime::phases;
use runtime::{JobEvent, VertexReport};
use server::view::{
    Calls, Checkpoint, CheckpointSubtask, Checkpoints, Input, JobFailure, Longest, Member,
    MemberWork, Outcome, Phases, Restored, StateSize, Subtask, Vertex, rest_id,
};

use super::directory_of;
use crate::events::{Metric, OperatorMetrics};

/// How many checkpoints are kept: a chart has no room for more.
const CHECKPOINTS_MAX: usize = 100;

/// How many failures are kept. Each may have a backtrace of some KiB.
const FAILURES_MAX: usize = 32;

/// What is kept of a job's past. The newest comes first.
#[derive(Debug, Default)]
pub(crate) struct History {
    checkpoints: VecDeque<Arc<Checkpoint>>,
    /// The newest of each kind, which stay however many others follow.
    newest: Option<Arc<Checkpoint>>,
    newest_checkpoint: Option<Arc<Checkpoint>>,
    newest_savepoint: Option<Arc<Checkpoint>>,
    newest_failure: Option<Arc<Checkpoint>>,
    failures: VecDeque<Arc<JobFailure>>,
    failures_by_kind: BTreeMap<String, u64>,
    completed: u64,
    failed: u64,
    /// What the attempt that is set up goes on from.
    restoring: Option<Restored>,
    restored: Option<Restored>,
    restores: u64,
    states: Vec<StateSize>,
    /// When the job reached the state that it is in.
    pub(crate) state_since: i64,
    /// Since when its sources read.
    pub(crate) running_since: Option<i64>,
    /// When it ended.
    pub(crate) ended_at: Option<i64>,
    /// Whether its end has deleted its checkpoints. Savepoints stay.
    are_discarded: bool,
}

impl History {
    /// Of a job that starts now, from this checkpoint.
    pub(crate) fn new(restoring: Option<Restored>, now_ms: i64) -> Self {
        // At 0 as well: an increase from no sample to 1 is none.
        let none = Kind::ALL.map(|kind| (kind.code().to_owned(), 0));
        Self {
            restoring,
            state_since: now_ms,
            failures_by_kind: BTreeMap::from(none),
            ..Self::default()
        }
    }

    /// Something has happened to the job.
    pub(crate) fn note(&mut self, event: &JobEvent, now_ms: i64) {
        match event {
            JobEvent::Started { set_up_ms, .. } => {
                self.state_since = now_ms;
                self.running_since = Some(now_ms);
                if let Some(restored) = self.restoring.take() {
                    self.restores += 1;
                    self.restored = Some(Restored {
                        at: now_ms,
                        took_ms: *set_up_ms,
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
                self.running_since = None;
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
                states,
            } => {
                self.completed += 1;
                self.states = states.iter().map(state_size).collect();
                let triggered_at = before(now_ms, *duration_ms);
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
                duration_ms,
                ..
            } => {
                self.failed += 1;
                let kind = kind.code();
                *self.failures_by_kind.entry(kind.to_owned()).or_default() += 1;
                self.keep(Checkpoint {
                    id: *id,
                    savepoint: *savepoint,
                    triggered_at: before(now_ms, *duration_ms),
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

    /// The job has ended, and failed if there is a reason. `keeps_checkpoint`: there is one to go on from.
    pub(crate) fn end(&mut self, failure: Option<String>, keeps_checkpoint: bool, now_ms: i64) {
        self.are_discarded = !keeps_checkpoint;
        self.state_since = now_ms;
        self.running_since = None;
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
        let kept = self.checkpoints.iter().chain(&self.newest_checkpoint);
        let known = kept
            .chain(&self.newest_savepoint)
            .find_map(|it| match &it.outcome {
                Outcome::Completed { path, .. } if it.id == id => {
                    Some((it.savepoint, path.clone()))
                }
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
            took_ms: 0,
            savepoint,
            path,
        }
    }

    fn keep(&mut self, checkpoint: Checkpoint) {
        let checkpoint = Arc::new(checkpoint);
        let newest = Some(Arc::clone(&checkpoint));
        match (&checkpoint.outcome, checkpoint.savepoint) {
            (Outcome::Completed { .. }, is_savepoint) => {
                self.newest.clone_from(&newest);
                match is_savepoint {
                    true => self.newest_savepoint = newest,
                    false => self.newest_checkpoint = newest,
                }
            }
            (Outcome::Failed { .. }, _) => self.newest_failure = newest,
        }
        self.checkpoints.push_front(checkpoint);
        self.checkpoints.truncate(CHECKPOINTS_MAX);
    }

    fn failed_at(&mut self, failure: JobFailure) {
        self.failures.push_front(Arc::new(failure));
        self.failures.truncate(FAILURES_MAX);
    }

    /// The checkpoints, of which this many are in progress, while so many deletions wait.
    pub(crate) fn checkpoints(&self, in_progress: u64, deletions_waiting: u64) -> Checkpoints {
        Checkpoints {
            completed: self.completed,
            failed: self.failed,
            failures_by_kind: self.failures_by_kind.clone(),
            in_progress,
            restored: self.restored.clone(),
            restores: self.restores,
            states: self.states.clone(),
            deletions_waiting,
            are_discarded: self.are_discarded,
            newest: self.newest.clone(),
            newest_checkpoint: self.newest_checkpoint.clone(),
            newest_savepoint: self.newest_savepoint.clone(),
            newest_failure: self.newest_failure.clone(),
            history: self.checkpoints.iter().cloned().collect(),
        }
    }

    /// The failures.
    pub(crate) fn failures(&self) -> Vec<Arc<JobFailure>> {
        self.failures.iter().cloned().collect()
    }
}

/// A time before another one.
fn before(at: i64, by_ms: u64) -> i64 {
    at.saturating_sub(i64::try_from(by_ms).unwrap_or(i64::MAX))
}

fn state_size(size: &runtime::StateSize) -> StateSize {
    StateSize {
        operator: size.operator.clone(),
        state: size.state.clone(),
        entries: size.entries,
        bytes: size.bytes,
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
        calls: member.usage.map(|usage| Calls {
            count: usage.calls,
            us: u64::try_from(usage.time.as_micros()).unwrap_or(u64::MAX),
            memory_bytes: usage.memory,
        }),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(id: u64, savepoint: bool) -> JobEvent {
        JobEvent::CheckpointCompleted {
            id,
            savepoint,
            duration_ms: 5,
            bytes: 10,
            path: None,
            phases: Box::default(),
            states: Vec::new(),
        }
    }

    #[test]
    fn the_newest_of_each_kind_stays_however_many_follow() {
        let mut history = History::new(None, 0);
        history.note(&completed(1, true), 100);
        let failed = JobEvent::CheckpointFailed {
            id: 2,
            savepoint: false,
            kind: Kind::Expired,
            duration_ms: 600,
            counts: true,
            reason: "it took too long".to_owned(),
            slowest: None,
            last: false,
        };
        history.note(&failed, 1000);
        for id in 3..=200 {
            history.note(&completed(id, false), 1000);
        }
        let kept = history.checkpoints(0, 0);
        assert_eq!(kept.history.len(), CHECKPOINTS_MAX);
        let id = |checkpoint: &Option<Arc<Checkpoint>>| checkpoint.as_ref().map(|it| it.id);
        assert_eq!(id(&kept.newest), Some(200));
        assert_eq!(id(&kept.newest_checkpoint), Some(200));
        assert_eq!(id(&kept.newest_savepoint), Some(1));
        let failure = kept.newest_failure.expect("one has failed");
        assert_eq!(
            (failure.id, failure.triggered_at, failure.ended_at),
            (2, 400, 1000)
        );
        assert_eq!((kept.completed, kept.failed), (199, 1));
        assert_eq!(kept.history[0].triggered_at, 995);
    }
}
