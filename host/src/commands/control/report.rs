//! What was done, for a person and for a script: the path of what was taken is the whole first line.

use std::time::Duration;

use operator::text::{line, name, size};
use server::api::{JobStatus, Operation, Report, Taken};

use crate::commands::checkpoints::time;

/// The report of an operation, in lines.
pub(super) fn describe(job: &JobStatus, operation: &Operation, report: &Report) -> String {
    let taken = [
        ("savepoint", report.savepoint.as_ref()),
        ("checkpoint", report.checkpoint.as_ref()),
    ];
    let path = taken
        .iter()
        .find_map(|(_, taken)| taken.as_ref()?.path.as_deref());
    let mut lines = Vec::new();
    // The one that the first line does not name follows with its path.
    lines.extend(path.map(str::to_owned));
    let took = duration(report.duration_ms);
    let what = match &report.ended {
        Some(ended) => name(ended).into_owned(),
        None => format!("{} done", operation.word()),
    };
    lines.push(format!("job `{}`: {what}, after {took}", name(&job.name)));
    for (kind, taken) in taken {
        let Some(taken) = taken else { continue };
        lines.push(format!("  {kind:<12}{}", describe_taken(taken)));
        match taken.path.as_deref() {
            Some(other) if Some(other) != path => lines.push(format!("  {:<12}{other}", "")),
            _ => {}
        }
    }
    for (label, text) in [
        ("before", &report.before),
        ("now", &report.now),
        ("resume", &report.resume),
    ] {
        lines.extend(text.iter().map(|text| format!("  {label:<12}{text}")));
    }
    let lines = lines.iter().map(|text| line(text) + "\n");
    lines.collect()
}

/// A checkpoint or savepoint, without its path.
pub(super) fn describe_taken(taken: &Taken) -> String {
    format!(
        "{}: {}, in {}, completed {}",
        taken.id,
        size(taken.bytes),
        duration(taken.duration_ms),
        time(taken.completed_at)
    )
}

/// Milliseconds for a person.
pub(super) fn duration(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use server::api::{JobState, Node};

    use super::*;

    /// A job with a name that could steer a terminal.
    pub(in crate::commands::control) fn job() -> JobStatus {
        JobStatus {
            name: "or\u{1b}ders".to_owned(),
            id: "orders".to_owned(),
            state: JobState::Running,
            process: 7,
            job_file: "/jobs/orders.toml".to_owned(),
            parallelism: 2,
            started_at: 0,
            restarts: 1,
            last_failure: Some("it\nfell".to_owned()),
            interval_ms: Some(5000),
            directory: Some("/cp/orders".to_owned()),
            checkpoint: Some(taken(7)),
            completed_checkpoints: 7,
            failed_checkpoints: 1,
            checkpoint_failure: None,
            sources: vec![Node {
                id: "in".to_owned(),
                records: 1,
            }],
            sinks: vec![Node {
                id: "out".to_owned(),
                records: 1200,
            }],
            bad_records: vec![server::api::BadRecords {
                id: "sum".into(),
                left_out: 2,
                recovered_batches: 0,
            }],
        }
    }

    fn taken(id: u64) -> Taken {
        Taken {
            id,
            path: Some(format!("/cp/orders/chk-{id}")),
            bytes: 2048,
            duration_ms: 34,
            completed_at: 0,
        }
    }

    #[test]
    fn the_first_line_is_the_path_alone() {
        let mut savepoint = taken(9);
        savepoint.path = Some("/sp/savepoint-orders-ab".to_owned());
        let report = Report {
            duration_ms: 1040,
            savepoint: Some(savepoint),
            checkpoint: Some(taken(9)),
            ended: Some("stopped".to_owned()),
            resume: Some("host run --resume job.toml".to_owned()),
            ..Report::default()
        };
        let stop = Operation::Stop {
            drain: false,
            savepoint_directory: None,
        };
        assert_eq!(
            describe(&job(), &stop, &report),
            "/sp/savepoint-orders-ab\n\
             job `or\\u{1b}ders`: stopped, after 1s 40ms\n  \
             savepoint   9: 2.0 KiB, in 34ms, completed 1970-01-01T00:00:00Z\n  \
             checkpoint  9: 2.0 KiB, in 34ms, completed 1970-01-01T00:00:00Z\n              \
             /cp/orders/chk-9\n  \
             resume      host run --resume job.toml\n"
        );
        let report = Report {
            checkpoint: Some(taken(8)),
            ..Report::default()
        };
        let text = describe(&job(), &Operation::Checkpoint, &report);
        assert_eq!(text.lines().next(), Some("/cp/orders/chk-8"));
    }

    #[test]
    fn c151_what_comes_from_outside_is_one_line() {
        let hostile = "a\nb\u{1b}[2J";
        let report = Report {
            checkpoint: Some(Taken {
                path: Some(hostile.to_owned()),
                ..Taken::default()
            }),
            ended: Some(hostile.to_owned()),
            resume: Some(hostile.to_owned()),
            before: Some(hostile.to_owned()),
            now: Some(hostile.to_owned()),
            ..Report::default()
        };
        let text = describe(&job(), &Operation::Cancel, &report);
        assert!(!text.contains('\u{1b}'), "{text}");
        assert_eq!(text.lines().count(), 6, "{text}");
    }
}
