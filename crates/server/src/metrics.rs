//! What the jobs of a process count and measure.
//!
//! A metric that Flink has too has Flink's name, in snake case and with its unit; it is a gauge, as with Flink's own
//! reporter, because the name of a counter has to end with `_total`. `docs/metrics.md` lists all.

#[cfg(feature = "otlp")]
pub(crate) mod otlp;
pub(crate) mod prometheus;

use std::collections::BTreeMap;

use crate::Jobs;
use crate::api::JobState;
use crate::view::{
    Calls, Checkpoint, JobView, Member, MemberWork, Outcome, Phases, StateSize, Subtask,
};

/// What the process says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Process {
    /// Bytes of its memory.
    resident_bytes: Option<u64>,
    /// How many descriptors it has open.
    open_files: Option<u64>,
    /// How long it has computed, on all processors.
    cpu_seconds: Option<f64>,
    /// How many job files it does not run as they stand.
    refused_files: u64,
}

/// What a metric is to who collects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows, and begins at 0 again now and then.
    Counter,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }
}

/// A metric with its samples.
#[derive(Debug)]
pub(crate) struct Metric {
    family: Family,
    samples: Vec<Sample>,
}

/// A value of a metric.
#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: Number,
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

macro_rules! whole {
    ($($type:ty),*) => {
        $(impl From<$type> for Number {
            fn from(value: $type) -> Self {
                Self::Whole(value.into())
            }
        })*
    };
}

whole!(u8, u32, i32, u64, i64);

/// What a metric's name, kind and help are.
#[derive(Clone, Copy, Debug)]
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind: Kind::Gauge,
        help,
    }
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind: Kind::Counter,
        help,
    }
}

/// The metrics, as they are collected.
struct Metrics(Vec<Metric>);

impl Metrics {
    /// A family with a sample for each of the items that has a value.
    fn family<T>(
        &mut self,
        family: &Family,
        items: impl IntoIterator<Item = T>,
        mut sample: impl FnMut(&mut Samples, T),
    ) {
        let mut samples = Samples(Vec::new());
        for item in items {
            sample(&mut samples, item);
        }
        self.0.push(Metric {
            family: *family,
            samples: samples.0,
        });
    }
}

/// The samples of a family.
struct Samples(Vec<Sample>);

impl Samples {
    /// Adds one. What of a label's value could do something to a terminal is left out of it.
    fn add(&mut self, labels: &[(&'static str, &str)], value: impl Into<Number>) {
        let plain = |(label, value): &(&'static str, &str)| {
            (*label, operator::text::name(value).into_owned())
        };
        self.0.push(Sample {
            labels: labels.iter().map(plain).collect(),
            value: value.into(),
        });
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// Of all jobs and the process, as they are now.
pub(crate) fn now(jobs: &dyn Jobs, now_ms: i64) -> Vec<Metric> {
    collect(&jobs.views(), &of_this_process(jobs), now_ms)
}

fn collect(views: &[JobView], process: &Process, now_ms: i64) -> Vec<Metric> {
    let version = env!("CARGO_PKG_VERSION");
    let mut metrics = Metrics(Vec::new());
    of_process(&mut metrics, process, version);
    of_jobs(&mut metrics, views, now_ms);
    of_checkpoints(&mut metrics, views, now_ms);
    of_subtasks(&mut metrics, views, now_ms);
    of_members(&mut metrics, views);
    of_calls(&mut metrics, views);
    of_states(&mut metrics, views);
    metrics.0
}

fn of_process(metrics: &mut Metrics, process: &Process, version: &str) {
    let info = gauge("highwater_info", "Always 1; the version is a label.");
    metrics.family(&info, [version], |samples, version| {
        samples.add(&[("version", version)], 1);
    });
    let refused = gauge(
        "job_files_refused",
        "Job files that the host does not run as they stand.",
    );
    metrics.family(&refused, [process.refused_files], |samples, count| {
        samples.add(&[], count)
    });
    let resident = gauge("process_resident_memory_bytes", "Memory of the process.");
    metrics.family(&resident, process.resident_bytes, |samples, bytes| {
        samples.add(&[], bytes)
    });
    let files = gauge("process_open_fds", "Open descriptors of the process.");
    metrics.family(&files, process.open_files, |samples, count| {
        samples.add(&[], count)
    });
    let cpu = counter(
        "process_cpu_seconds_total",
        "Processor time of the process.",
    );
    metrics.family(&cpu, process.cpu_seconds, |samples, seconds| {
        samples.add(&[], seconds)
    });
}

fn of_jobs(metrics: &mut Metrics, views: &[JobView], now_ms: i64) {
    let states = [
        JobState::Starting,
        JobState::Running,
        JobState::Restarting,
        JobState::Stopping,
        JobState::Finished,
        JobState::Stopped,
        JobState::Cancelled,
        JobState::Suspended,
        JobState::Failed,
    ];
    let state = gauge(
        "job_state",
        "1 for the state that the job is in, 0 for the others.",
    );
    metrics.family(&state, views, |samples, view| {
        for state in states {
            let is_state = u8::from(view.status.state == state);
            samples.add(
                &[("job", &view.status.id), ("state", state.word())],
                is_state,
            );
        }
    });
    let uptime = gauge(
        "job_uptime_seconds",
        "Since the host started the job, until it ended.",
    );
    metrics.family(&uptime, views, |samples, view| {
        let until = view.ended_at.unwrap_or(now_ms);
        let uptime = until.saturating_sub(view.status.started_at).max(0);
        samples.add(&[("job", &view.status.id)], seconds(uptime));
    });
    let restarts = gauge(
        "num_restarts",
        "How often the job was restarted in this process.",
    );
    metrics.family(&restarts, views, |samples, view| {
        samples.add(&[("job", &view.status.id)], view.status.restarts);
    });
    let left_out = counter(
        "bad_records_total",
        "Records and timers that were left out.",
    );
    metrics.family(&left_out, bad_records(views), |samples, (job, bad)| {
        samples.add(&[("job", job), ("operator", &bad.id)], bad.left_out);
    });
    let recovered = counter(
        "recovered_batches_total",
        "Batches that failed and whose records succeeded in parts.",
    );
    metrics.family(&recovered, bad_records(views), |samples, (job, bad)| {
        samples.add(
            &[("job", job), ("operator", &bad.id)],
            bad.recovered_batches,
        );
    });
    let own = gauge(
        "operator_metric",
        "What operators count of themselves, by its name.",
    );
    metrics.family(&own, views, |samples, view| {
        for (operator, metrics) in &view.operator_metrics {
            for (metric, value) in metrics {
                let labels = [
                    ("job", view.status.id.as_str()),
                    ("operator", operator),
                    ("metric", metric),
                ];
                samples.add(&labels, *value);
            }
        }
    });
}

fn bad_records(views: &[JobView]) -> impl Iterator<Item = (&str, &crate::api::BadRecords)> {
    views.iter().flat_map(|view| {
        let bad = view.status.bad_records.iter();
        bad.map(|bad| (view.status.id.as_str(), bad))
    })
}

fn of_checkpoints(metrics: &mut Metrics, views: &[JobView], now_ms: i64) {
    type Count = (Family, fn(&JobView) -> u64);
    let counts: [Count; 4] = [
        (
            gauge(
                "number_of_completed_checkpoints",
                "Checkpoints and savepoints that were completed.",
            ),
            |view| view.checkpoints.completed,
        ),
        (
            gauge(
                "number_of_failed_checkpoints",
                "Checkpoints and savepoints that were given up.",
            ),
            |view| view.checkpoints.failed,
        ),
        (
            gauge(
                "number_of_in_progress_checkpoints",
                "Checkpoints and savepoints in progress.",
            ),
            |view| view.checkpoints.in_progress,
        ),
        (
            counter(
                "restores_total",
                "How often the job went on from a checkpoint in this process.",
            ),
            |view| view.checkpoints.restores,
        ),
    ];
    for (family, count) in &counts {
        metrics.family(family, views, |samples, view| {
            samples.add(&[("job", &view.status.id)], count(view));
        });
    }
    let reasons = counter(
        "checkpoint_failures_total",
        "Checkpoints that were given up, by what happened.",
    );
    metrics.family(&reasons, views, |samples, view| {
        for (reason, count) in &view.checkpoints.failures_by_kind {
            samples.add(&[("job", &view.status.id), ("reason", reason)], *count);
        }
    });
    let age = gauge(
        "checkpoint_age_seconds",
        "Since the newest checkpoint was complete, or the start before the first; of a job with periodic ones that has not ended.",
    );
    metrics.family(&age, views, |samples, view| {
        // Without periodic ones nobody expects it to be young.
        if !view.status.state.has_ended() && view.status.interval_ms.is_some() {
            let newest = view.status.checkpoint.as_ref();
            let since = newest.map_or(view.status.started_at, |it| it.completed_at);
            let age = seconds(now_ms.saturating_sub(since).max(0));
            samples.add(&[("job", &view.status.id)], age);
        }
    });
    let id = gauge(
        "last_completed_checkpoint_id",
        "The number of the newest checkpoint.",
    );
    metrics.family(&id, views, |samples, view| {
        if let Some(newest) = &view.checkpoints.newest {
            samples.add(&[("job", &view.status.id)], newest.id);
        }
    });
    let restored = gauge(
        "last_checkpoint_restore_timestamp_ms",
        "When the job went on from a checkpoint last, in milliseconds since 1970.",
    );
    metrics.family(&restored, views, |samples, view| {
        if let Some(restored) = &view.checkpoints.restored {
            samples.add(&[("job", &view.status.id)], restored.at);
        }
    });
    let took = gauge(
        "restore_seconds",
        "How long it took when the job went on from a checkpoint last, until its sources read.",
    );
    metrics.family(&took, views, |samples, view| {
        if let Some(restored) = &view.checkpoints.restored {
            let took = restored.took_ms as f64 / 1000.0;
            samples.add(&[("job", &view.status.id)], took);
        }
    });
    let deletions = gauge(
        "checkpoint_deletions_waiting",
        "Deletions of what no checkpoint needs any more that wait for the storage.",
    );
    metrics.family(&deletions, views, |samples, view| {
        let waiting = view.checkpoints.deletions_waiting;
        samples.add(&[("job", &view.status.id)], waiting);
    });
    of_last_checkpoint(metrics, views);
}

/// The newest of a job that is complete. Savepoints count, as in Flink.
fn last_completed(view: &JobView) -> Option<(&Checkpoint, u64, u64, &Phases)> {
    let newest = view.checkpoints.newest.as_ref()?;
    match &newest.outcome {
        Outcome::Completed {
            bytes,
            full_bytes,
            phases,
            ..
        } => Some((newest, *bytes, *full_bytes, phases)),
        Outcome::Failed { .. } => None,
    }
}

fn of_last_checkpoint(metrics: &mut Metrics, views: &[JobView]) {
    let last = || {
        let with_last = |view| Some((view, last_completed(view)?));
        views.iter().filter_map(with_last)
    };
    let duration = gauge(
        "last_checkpoint_duration_ms",
        "From trigger to completion of the newest checkpoint.",
    );
    metrics.family(&duration, last(), |samples, (view, (checkpoint, ..))| {
        let took = checkpoint.ended_at.abs_diff(checkpoint.triggered_at);
        samples.add(&[("job", &view.status.id)], took);
    });
    let size = gauge(
        "last_checkpoint_size_bytes",
        "Bytes written for the newest checkpoint.",
    );
    metrics.family(&size, last(), |samples, (view, (_, bytes, ..))| {
        samples.add(&[("job", &view.status.id)], bytes);
    });
    let full = gauge(
        "last_checkpoint_full_size_bytes",
        "Bytes of all keyed state in the newest checkpoint.",
    );
    metrics.family(&full, last(), |samples, (view, (_, _, bytes, _))| {
        samples.add(&[("job", &view.status.id)], bytes);
    });
    let phase = gauge(
        "last_checkpoint_phase_seconds",
        "The longest time of a subtask for each phase of the newest checkpoint.",
    );
    metrics.family(&phase, last(), |samples, (view, (.., phases))| {
        for (name, us) in [
            ("start-delay", phases.start_delay.us),
            ("alignment", phases.alignment.us),
            ("snapshot", phases.snapshot.us),
            ("upload", phases.upload.us),
            ("metadata", phases.metadata_us),
        ] {
            let labels = [("job", view.status.id.as_str()), ("phase", name)];
            samples.add(&labels, us as f64 / 1e6);
        }
    });
}

fn of_subtasks(metrics: &mut Metrics, views: &[JobView], now_ms: i64) {
    type Value = (Family, fn(&Subtask, i64) -> Option<f64>);
    let values: [Value; 5] = [
        (
            gauge(
                "accumulate_busy_time_ms",
                "How long a thread has worked, in milliseconds; labelled with the first operator of the thread.",
            ),
            |subtask, _| Some(subtask.busy_ms as f64),
        ),
        (
            gauge(
                "accumulate_idle_time_ms",
                "How long a thread has had nothing to do, in milliseconds.",
            ),
            |subtask, _| Some(subtask.idle_ms as f64),
        ),
        (
            gauge(
                "accumulate_back_pressured_time_ms",
                "How long a thread has waited for room for its output, in milliseconds.",
            ),
            |subtask, _| Some(subtask.back_pressured_ms as f64),
        ),
        (
            gauge(
                "current_output_watermark_ms",
                "The watermark, in milliseconds since 1970.",
            ),
            |subtask, _| subtask.watermark.map(|watermark| watermark as f64),
        ),
        (
            gauge(
                "watermark_lag_seconds",
                "How far the watermark is behind the clock.",
            ),
            |subtask, now_ms| {
                subtask
                    .watermark
                    .map(|it| seconds(now_ms.saturating_sub(it)))
            },
        ),
    ];
    for (family, value) in &values {
        metrics.family(
            family,
            subtasks(views),
            |samples, (job, operator, subtask)| {
                if let Some(value) = value(subtask, now_ms) {
                    let index = subtask.index.to_string();
                    let labels = [
                        ("job", job),
                        ("operator", operator),
                        ("subtask", index.as_str()),
                    ];
                    samples.add(&labels, value);
                }
            },
        );
    }
}

/// Job, first member and subtask.
fn subtasks(views: &[JobView]) -> impl Iterator<Item = (&str, &str, &Subtask)> {
    views.iter().flat_map(|view| {
        view.vertices.iter().flat_map(move |vertex| {
            let head = vertex
                .members
                .first()
                .map_or("", |member| member.id.as_str());
            let subtasks = vertex.subtasks.iter();
            subtasks.map(move |subtask| (view.status.id.as_str(), head, subtask))
        })
    })
}

/// What SDKs call the metric of an operator that counts records which came too late.
const LATE_RECORDS: &str = "late-records";

/// Who a member of a subtask is.
struct MemberLabels<'a> {
    job: &'a str,
    member: &'a Member,
    subtask: String,
}

impl MemberLabels<'_> {
    fn each(&self) -> [(&'static str, &str); 3] {
        [
            ("job", self.job),
            ("operator", &self.member.id),
            ("subtask", &self.subtask),
        ]
    }
}

/// The members of all subtasks, with what they have done.
fn members(views: &[JobView]) -> impl Iterator<Item = (MemberLabels<'_>, &MemberWork)> {
    views.iter().flat_map(move |view| {
        view.vertices.iter().flat_map(move |vertex| {
            vertex.subtasks.iter().flat_map(move |subtask| {
                let of_member = move |(member, work)| {
                    let labels = MemberLabels {
                        job: &view.status.id,
                        member,
                        subtask: subtask.index.to_string(),
                    };
                    (labels, work)
                };
                vertex.members.iter().zip(&subtask.members).map(of_member)
            })
        })
    })
}

fn of_members(metrics: &mut Metrics, views: &[JobView]) {
    type Value = (Family, &'static [&'static str], fn(&MemberWork) -> u64);
    let values: [Value; 4] = [
        (
            gauge(
                "num_records_in",
                "Records taken since the attempt began; of a source those read.",
            ),
            &["source", "operator", "sink"],
            |work| work.records_in,
        ),
        (
            gauge(
                "num_records_out",
                "Records handed on since the attempt began.",
            ),
            &["source", "operator"],
            |work| work.records_out,
        ),
        (
            gauge(
                "state_bytes",
                "Bytes of keys and values of keyed state at the last checkpoint.",
            ),
            &["operator"],
            |work| work.state_bytes,
        ),
        (
            gauge("state_keys", "Keys of keyed state at the last checkpoint."),
            &["operator"],
            |work| work.state_keys,
        ),
    ];
    for (family, kinds, value) in &values {
        metrics.family(family, members(views), |samples, (labels, work)| {
            if kinds.contains(&labels.member.kind.as_str()) {
                samples.add(&labels.each(), value(work));
            }
        });
    }
    // How evenly work is dealt is seen by the keys of subtasks; of what has no state there is nothing to see.
    let kinds = gauge(
        "operator_info",
        "Always 1; the kind of each source, operator and sink is a label.",
    );
    metrics.family(&kinds, views, |samples, view| {
        let mut seen = BTreeMap::new();
        for member in view.vertices.iter().flat_map(|vertex| &vertex.members) {
            seen.insert(member.id.as_str(), member.kind.as_str());
        }
        for (operator, kind) in seen {
            let labels = [
                ("job", view.status.id.as_str()),
                ("operator", operator),
                ("kind", kind),
            ];
            samples.add(&labels, 1);
        }
    });
}

/// What the calls of operators have cost.
fn of_calls(metrics: &mut Metrics, views: &[JobView]) {
    let calls = counter("operator_calls_total", "Calls of a component.");
    let seconds = counter(
        "operator_call_seconds_total",
        "How long the calls of a component took, with what it asked the host to do.",
    );
    let memory = gauge(
        "operator_memory_bytes",
        "Memory of a component's instance, as `limits.memory` counts it.",
    );
    type Value = fn(&Calls) -> f64;
    let values: [(Family, Value); 3] = [
        (calls, |calls| calls.count as f64),
        (seconds, |calls| calls.us as f64 / 1e6),
        (memory, |calls| calls.memory_bytes as f64),
    ];
    for (family, value) in &values {
        metrics.family(family, members(views), |samples, (labels, work)| {
            if let Some(calls) = &work.calls {
                samples.add(&labels.each(), value(calls));
            }
        });
    }
    let late = gauge(
        "num_late_records_dropped",
        "Records that came too late for their window and went to no output.",
    );
    metrics.family(&late, views, |samples, view| {
        for (operator, metrics) in &view.operator_metrics {
            if let Some(count) = metrics.get(LATE_RECORDS) {
                let labels = [("job", view.status.id.as_str()), ("operator", operator)];
                samples.add(&labels, *count);
            }
        }
    });
}

/// What the newest checkpoint holds of each keyed state.
fn of_states(metrics: &mut Metrics, views: &[JobView]) {
    type Value = fn(&StateSize) -> u64;
    let values: [(Family, Value); 2] = [
        (
            gauge(
                "named_state_entries",
                "Entries of a keyed state in the newest checkpoint.",
            ),
            |state| state.entries,
        ),
        (
            gauge(
                "named_state_bytes",
                "Bytes of keys and values of a keyed state in the newest checkpoint.",
            ),
            |state| state.bytes,
        ),
    ];
    for (family, value) in &values {
        metrics.family(family, views, |samples, view| {
            for state in &view.checkpoints.states {
                let labels = [
                    ("job", view.status.id.as_str()),
                    ("operator", state.operator.as_str()),
                    ("state", state.state.as_str()),
                ];
                samples.add(&labels, value(state));
            }
        });
    }
}

/// What the system says of this process.
fn of_this_process(jobs: &dyn Jobs) -> Process {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let resident_bytes = read("/proc/self/status").and_then(|status| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    });
    let open_files = std::fs::read_dir("/proc/self/fd").ok();
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok();
    let cpu_seconds = usage.map(|usage| {
        let seconds =
            |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    });
    Process {
        refused_files: jobs.refused().len() as u64,
        resident_bytes,
        // Without the one by which they are read.
        open_files: open_files.map(|files| (files.count() as u64).saturating_sub(1)),
        cpu_seconds,
    }
}
