//! `host checkpoints gc`: what crashes left is found and removed.

use std::fmt::Write;
use std::sync::Arc;

use checkpoint::gc::{Options, Report, collect};
use job_file::checkpoint::CheckpointSection;
use operator::clock::{Clock, SystemClock};
use operator::text::{line, size};
use serde_json::json;

use crate::cli::Gc;
use crate::commands::print;
use crate::exit::{Error, Exit};
use crate::launch::settings;

/// Collects, and says what was removed and what was not.
pub(crate) fn gc(arguments: &Gc) -> Result<Exit, Error> {
    let age = i64::try_from(arguments.older_than.as_millis()).unwrap_or(i64::MAX);
    // What was made in this very millisecond is older than nothing at all.
    let before = SystemClock::new().now_ms().saturating_sub(age) + i64::from(age == 0);
    let options = Options {
        before,
        dry_run: arguments.dry_run,
    };
    let clock = Arc::new(SystemClock::new());
    let terms = settings::terms(CheckpointSection::default().lease_timeout, clock);
    let report = collect(&arguments.place, options, Some(&terms)).map_err(|error| {
        Error::checkpoint(error, format!("collecting garbage in {}", arguments.place))
    })?;
    print(&match arguments.json {
        true => format!("{:#}\n", to_json(&report, arguments.dry_run)),
        false => to_text(&report, arguments),
    })?;
    let failed = report
        .removed
        .iter()
        .filter(|removed| removed.error.is_some());
    match failed.count() {
        0 => Ok(Exit::Finished),
        count => Err(Error::failed(anyhow::anyhow!(
            "{count} could not be removed"
        ))),
    }
}

fn to_json(report: &Report, dry_run: bool) -> serde_json::Value {
    let removed = report.removed.iter().map(|removed| {
        json!({
            "path": removed.path,
            "bytes": removed.bytes,
            "what": removed.what.words(),
            "error": removed.error,
        })
    });
    let kept = report
        .kept
        .iter()
        .map(|kept| json!({ "path": kept.path, "bytes": kept.bytes, "reason": kept.why }));
    json!({
        "dry-run": dry_run,
        "removed": removed.collect::<Vec<_>>(),
        "kept": kept.collect::<Vec<_>>(),
        "recent": report.recent,
    })
}

fn to_text(report: &Report, arguments: &Gc) -> String {
    let mut text = String::new();
    let verb = if arguments.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let (mut count, mut bytes) = (0_u64, 0_u64);
    for removed in &report.removed {
        let (what, path) = (removed.what.words(), line(&removed.path));
        match &removed.error {
            Some(error) => {
                let _ = writeln!(text, "not removed: {path}: {what}: {}", line(error));
            }
            None => {
                count += 1;
                bytes = bytes.saturating_add(removed.bytes);
                let _ = writeln!(text, "{verb} {path}: {what}, {}", size(removed.bytes));
            }
        }
    }
    for kept in &report.kept {
        let _ = writeln!(text, "kept {}: {}", line(&kept.path), line(&kept.why));
    }
    if report.recent > 0 {
        let age = humantime::format_duration(arguments.older_than);
        let _ = writeln!(text, "left alone: {} younger than {age}", report.recent);
    }
    let _ = writeln!(text, "{verb} {count}, {}", size(bytes));
    text
}
