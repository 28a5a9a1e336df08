//! `host checkpoints`: what is in a checkpoint directory, without the job that wrote it.
//!
//! A damaged entry is shown as such and hides nothing else. Whatever a checkpoint holds, a person gets
//! it through [`operator::text`]; JSON has it as it is.

mod diff;
mod export;
mod forget;
mod gc;

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use checkpoint::catalog::{CatalogEntry, Status};
use checkpoint::metadata::{Kind, Metadata, Operator, Role};
use checkpoint::storage::{environment, weakened};
use checkpoint::verify::{self, verify};
use checkpoint::{Completed, shown};
use connectors::parts;
use dataflow::state::{Refresh, StateKind, TtlTime};
use operator::text::{counted, line, name, size};
use serde_json::json;

use super::print;
use crate::cli::{Checkpoints, Target};
use crate::exit::{Error, Exit};

/// Does what `host checkpoints …` asks for.
pub(crate) fn run(command: &Checkpoints) -> Result<Exit, Error> {
    warn_of_weakened(places(command));
    match command {
        Checkpoints::List(place) => list(place),
        Checkpoints::Show(place) => show(place),
        Checkpoints::Verify(place) => verify_all(place),
        Checkpoints::Diff(arguments) => diff::diff(arguments),
        Checkpoints::Export(arguments) => export::export(arguments),
        Checkpoints::Gc(arguments) => gc::gc(arguments),
        Checkpoints::Forget(place) => forget::forget(place),
    }
}

/// Says which checks of a bucket the environment has switched off, if one of these is in a bucket.
pub(super) fn warn_of_weakened<'a>(places: impl IntoIterator<Item = &'a str>) {
    if places.into_iter().any(checkpoint::is_remote) {
        for weakened in weakened(&environment()) {
            tracing::warn!("{}=true: {}", weakened.variable, weakened.what);
        }
    }
}

/// What the command looks at.
fn places(command: &Checkpoints) -> Vec<&str> {
    match command {
        Checkpoints::List(it)
        | Checkpoints::Show(it)
        | Checkpoints::Verify(it)
        | Checkpoints::Forget(it) => vec![&it.place],
        Checkpoints::Diff(it) => vec![&it.before, &it.after],
        Checkpoints::Export(it) => vec![&it.place],
        Checkpoints::Gc(it) => vec![&it.place],
    }
}

fn entries(place: &str) -> Result<Vec<CatalogEntry>, Error> {
    checkpoint::list(place).map_err(|error| {
        Error::checkpoint(error, format!("listing checkpoints in {}", shown(place)))
    })
}

/// The checkpoint that a path names.
fn open(place: &str) -> Result<Completed, Error> {
    let located = checkpoint::locate(place, None, "")
        .map_err(|error| Error::checkpoint(error, format!("reading {}", shown(place))))?;
    Ok(located.checkpoint)
}

fn list(place: &Target) -> Result<Exit, Error> {
    let entries = entries(&place.place)?;
    if place.json {
        let shown: Vec<_> = entries.iter().map(entry_json).collect();
        print(&format!("{:#}\n", json!(shown)))?;
        return Ok(exit_of_list(&entries));
    }
    let mut rows =
        vec![["JOB", "CHECKPOINT", "STATUS", "COMPLETED", "STATE", "PATH"].map(str::to_owned)];
    for entry in &entries {
        let metadata = entry.completed().map(Completed::metadata);
        rows.push([
            name(job(entry)).into_owned(),
            name(&entry.name).into_owned(),
            status(entry),
            metadata.map_or_else(|| "-".into(), |m| time(completed_at(m))),
            metadata.map_or_else(|| "-".into(), |m| size(state_bytes(&m.operators))),
            line(&entry.path).into_owned(),
        ]);
    }
    let mut text = match entries.is_empty() {
        false => table(&rows),
        true => format!(
            "no checkpoints in {}; a job that has finished or was cancelled keeps its own only if \
             `checkpoint.retain-on-finish` or `checkpoint.retention` says so\n",
            shown(&place.place)
        ),
    };
    for entry in &entries {
        if let Some(reason) = entry.status.reason() {
            let _ = writeln!(text, "{}: {}", line(&entry.path), line(reason));
        }
    }
    print(&text)?;
    Ok(exit_of_list(&entries))
}

/// The code of a listing: what could not be looked into is missing in it. Damage is only shown.
fn exit_of_list(entries: &[CatalogEntry]) -> Exit {
    let unreadable = |entry: &CatalogEntry| matches!(entry.status, Status::Unreadable(_));
    match entries.iter().any(unreadable) {
        true => Exit::Refused,
        false => Exit::Finished,
    }
}

/// The job that it is of: that of a savepoint is in its metadata, because it may be anywhere.
fn job(entry: &CatalogEntry) -> &str {
    match entry.completed().map(Completed::metadata) {
        Some(metadata) if metadata.kind == Kind::Savepoint => &metadata.job_id,
        _ => &entry.job,
    }
}

/// What it is, and whether all input was ended before it.
fn status(entry: &CatalogEntry) -> String {
    let word = entry.status.word();
    match entry.completed() {
        Some(checkpoint) if checkpoint.metadata().drained => format!("{word}, drained"),
        _ => word.to_owned(),
    }
}

fn entry_json(entry: &CatalogEntry) -> serde_json::Value {
    let metadata = entry.completed().map(Completed::metadata);
    json!({
        "job": job(entry),
        "name": entry.name,
        "path": entry.path,
        "status": entry.status.word(),
        "reason": entry.status.reason(),
        "id": entry.id(),
        "kind": metadata.map(|m| m.kind),
        "drained": metadata.map(|m| m.drained),
        "job-name": metadata.map(|m| &m.job_name),
        "completed-at": metadata.map(completed_at),
        "state-bytes": metadata.map(|m| state_bytes(&m.operators)),
    })
}

fn show(place: &Target) -> Result<Exit, Error> {
    let checkpoint = open(&place.place)?;
    let metadata = checkpoint.metadata();
    let path = checkpoint.path();
    if place.json {
        let mut value = serde_json::to_value(metadata).map_err(Error::failed)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("path".into(), json!(path));
        }
        print(&format!("{value:#}\n"))?;
        return Ok(Exit::Finished);
    }
    print(&describe(metadata, path.as_deref()))?;
    Ok(Exit::Finished)
}

fn describe(metadata: &Metadata, path: Option<&str>) -> String {
    let mut text = String::new();
    let kind = match metadata.kind {
        Kind::Checkpoint => "checkpoint",
        Kind::Savepoint => "savepoint",
    };
    // The one way in: each of the lines is one, whatever it holds.
    let mut add = |text_line: String| {
        text.push_str(&line(&text_line));
        text.push('\n');
    };
    add(format!(
        "{kind} {} of job `{}`, id {}",
        metadata.id,
        name(&metadata.job_name),
        name(&metadata.job_id)
    ));
    add(format!("  path        {}", path.unwrap_or("-")));
    add(format!(
        "  completed   {}, after {} ms",
        time(completed_at(metadata)),
        metadata.duration_ms
    ));
    if metadata.drained {
        add("  drained     all input was ended before it".to_owned());
    }
    if let Some(previous) = metadata.previous {
        add(format!("  previous    {previous}"));
    }
    add(format!(
        "  key groups  {}, by {}",
        metadata.key_groups,
        name(&metadata.key_hash)
    ));
    add(format!("  written by  {}", name(&metadata.writer)));
    add(format!(
        "  state       {}",
        size(state_bytes(&metadata.operators))
    ));
    for operator in &metadata.operators {
        add(String::new());
        for text_line in describe_operator(operator) {
            add(text_line);
        }
    }
    text
}

fn describe_operator(operator: &Operator) -> Vec<String> {
    let role = match operator.role {
        Role::Source => "source",
        Role::Operator => "operator",
        Role::Sink => "sink",
    };
    let mut lines = vec![format!(
        "{role} `{}`, parallelism {}",
        name(&operator.id),
        operator.parallelism
    )];
    for (label, value) in &operator.labels {
        lines.push(format!("  {}: {}", name(label), name(value)));
    }
    // Of all subtasks together, as an operator with several inputs sees the lowest of them.
    let reached = operator.subtasks.iter().map(|subtask| subtask.watermark);
    match reached.min().flatten() {
        Some(i64::MAX) => lines.push("  watermark: the end of all input".to_owned()),
        Some(watermark) => lines.push(format!("  watermark: {}", time(watermark))),
        None => {}
    }
    for state in operator.states.iter().chain(&operator.operator_states) {
        if state.kind == StateKind::Timers.name() {
            lines.push(format!(
                "  {}: {}, {}",
                name(&state.name),
                counted(state.entries, "timer"),
                size(state.bytes)
            ));
            continue;
        }
        let ttl = state.ttl().map_or_else(String::new, |ttl| {
            let lives = humantime::format_duration(Duration::from_millis(ttl.millis));
            let refresh = match ttl.refresh {
                Refresh::Write => "write",
                Refresh::Read => "write or read",
            };
            let time = match ttl.time {
                TtlTime::Processing => "",
                TtlTime::Event => " by the watermark",
            };
            format!(", entries live {lives} from the last {refresh}{time}")
        });
        lines.push(format!(
            "  state `{}` ({}, {} version {}{ttl}): {}, {}",
            name(&state.name),
            name(&state.kind),
            name(&state.schema),
            state.schema_version,
            counted(state.entries, "entry"),
            size(state.bytes)
        ));
    }
    for (index, subtask) in operator.subtasks.iter().enumerate() {
        let stored: u64 = subtask.stored().map(|segment| segment.length).sum();
        if stored > 0 {
            let segments = counted(subtask.stored().count() as u64, "segment");
            lines.push(format!("  subtask {index}: {} in {segments}", size(stored)));
        }
    }
    // All subtasks together: a source that is rescaled deals them again, and a person asks how far it is.
    let parts = operator.subtasks.iter().flat_map(|subtask| &subtask.parts);
    let parts: Vec<_> = parts.cloned().collect();
    let (what, parts) = match operator.role {
        Role::Source => ("position", parts::positions(&parts)),
        Role::Operator => ("part", parts::positions(&parts)),
        Role::Sink => ("prepared output", parts::prepared(&parts)),
    };
    lines.extend(parts.into_iter().map(|part| format!("  {what}: {part}")));
    lines
}

fn verify_all(place: &Target) -> Result<Exit, Error> {
    let entries = entries(&place.place)?;
    // The worst of what was found; none if there was nothing to verify.
    let mut worst = None;
    let mut reports = Vec::new();
    let mut text = String::new();
    for entry in &entries {
        let Some(checkpoint) = entry.completed() else {
            worst = worst.max(exit_of(&entry.status));
            let problems: Vec<&str> = entry.status.reason().into_iter().collect();
            reports.push(json!({
                "path": entry.path,
                "status": entry.status.word(),
                "problems": problems,
            }));
            let _ = write!(text, "{}: {}", line(&entry.path), entry.status.word());
            if let Some(reason) = entry.status.reason() {
                let _ = write!(text, ": {}", line(reason));
            }
            text.push('\n');
            continue;
        };
        let report = verify(checkpoint);
        let (status, exit) = verdict(&report);
        worst = worst.max(Some(exit));
        let problems: Vec<String> = report
            .problems
            .iter()
            .map(|problem| {
                let (operator, subtask) = &problem.owner;
                format!(
                    "{}: {} (state of operator `{operator}` subtask {subtask})",
                    problem.object, problem.what
                )
            })
            .collect();
        let _ = writeln!(
            text,
            "{}: {status}, {} in {} and {}",
            line(&entry.path),
            size(report.bytes),
            counted(report.segments, "segment"),
            counted(report.files, "file")
        );
        for problem in &problems {
            let _ = writeln!(text, "  {}", line(problem));
        }
        reports.push(json!({
            "path": entry.path,
            "status": status,
            "segments": report.segments,
            "files": report.files,
            "bytes": report.bytes,
            "problems": problems,
        }));
    }
    if place.json {
        text = format!("{:#}\n", json!(reports));
    }
    print(&text)?;
    worst.ok_or_else(|| {
        let message = format!("no completed checkpoint in {}", place.place);
        Error::refused(anyhow::anyhow!(message))
    })
}

/// The code that says this of a checkpoint that is not complete, as it is when it is to be restored.
fn exit_of(status: &Status) -> Option<Exit> {
    match status {
        // What never completed is no checkpoint, nor is what is not believed.
        Status::Incomplete | Status::Void | Status::Fenced(_) => None,
        Status::Complete(_) => Some(Exit::Finished),
        Status::FutureFormat(_) | Status::Unreadable(_) => Some(Exit::Refused),
        Status::Corrupt(_) => Some(Exit::Corrupt),
    }
}

/// A word for what verifying a checkpoint found, and the code that says it.
fn verdict(report: &verify::Report) -> (&'static str, Exit) {
    match report.problems.as_slice() {
        [] => ("good", Exit::Finished),
        problems if problems.iter().any(|problem| problem.is_corrupt) => ("corrupt", Exit::Corrupt),
        _ => ("unreadable", Exit::Refused),
    }
}

fn state_bytes(operators: &[Operator]) -> u64 {
    let states = operators.iter().flat_map(|operator| &operator.states);
    states.fold(0, |sum, state| sum.saturating_add(state.bytes))
}

fn completed_at(metadata: &Metadata) -> i64 {
    metadata
        .triggered_at
        .saturating_add_unsigned(metadata.duration_ms)
}

/// Milliseconds since the epoch as a date; what a damaged file may hold is no date and is shown as it
/// is.
pub(super) fn time(ms: i64) -> String {
    // The last second of the year 9999: later times have no such form.
    const LAST_MS: i64 = 253_402_300_799_000;
    match u64::try_from(ms) {
        Ok(since) if ms <= LAST_MS => {
            let time = UNIX_EPOCH + Duration::from_millis(since);
            humantime::format_rfc3339_seconds(time).to_string()
        }
        _ => format!("{ms} ms"),
    }
}

/// Columns as wide as their widest cell; the last one as it is.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_any_calendar_do_not_panic() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(-1), "-1 ms");
        assert_eq!(time(i64::MAX), format!("{} ms", i64::MAX));
        assert_eq!(time(253_402_300_799_000), "9999-12-31T23:59:59Z");
    }
}
