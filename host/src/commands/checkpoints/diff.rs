//! `host checkpoints diff`: what changed from one checkpoint to another.

use std::fmt::Write;

use checkpoint::diff::{Amount, Diff as Report, OperatorDiff, StateDiff};
use connectors::parts;
use operator::text::{counted, grouped, name, size};
use serde_json::json;

use super::open;
use crate::cli::Diff;
use crate::commands::print;
use crate::exit::{Error, Exit};

/// Compares two checkpoints.
pub(crate) fn diff(arguments: &Diff) -> Result<Exit, Error> {
    let (before, after) = (open(&arguments.before)?, open(&arguments.after)?);
    let report = checkpoint::diff::diff(&before, &after)
        .map_err(|error| Error::checkpoint(error, "comparing the checkpoints"))?;
    print(&match arguments.json {
        true => {
            let mut value = serde_json::to_value(&report).map_err(Error::failed)?;
            if let Some(object) = value.as_object_mut() {
                object.insert("before".into(), json!(before.path()));
                object.insert("after".into(), json!(after.path()));
                object.insert("equal".into(), json!(report.is_equal()));
            }
            format!("{value:#}\n")
        }
        false => to_text(&report, (before.metadata().id, after.metadata().id)),
    })?;
    Ok(Exit::Finished)
}

fn to_text(report: &Report, (before, after): (u64, u64)) -> String {
    let mut text = format!("from checkpoint {before} to {after}");
    text.push_str(if report.is_equal() {
        ": nothing changed\n"
    } else {
        "\n"
    });
    for operator in report
        .operators
        .iter()
        .filter(|operator| !operator.is_equal())
    {
        describe(operator, &mut text);
    }
    text
}

fn describe(operator: &OperatorDiff, text: &mut String) {
    let id = name(&operator.id);
    let _ = match operator.parallelism {
        (None, Some(now)) => writeln!(text, "`{id}` is new, parallelism {now}"),
        (Some(was), None) => writeln!(text, "`{id}` was removed, parallelism {was}"),
        (Some(was), Some(now)) if was != now => {
            writeln!(text, "`{id}`, parallelism {was} to {now}")
        }
        _ => writeln!(text, "`{id}`"),
    };
    for states in &operator.states {
        let StateDiff {
            name: state,
            before,
            after,
            added,
            removed,
            changed,
        } = states;
        let state = name(state);
        let _ = writeln!(
            text,
            "  state `{state}`: {} added, {} removed, {} changed; {} to {}",
            counted(*added, "key"),
            grouped(*removed),
            grouped(*changed),
            amount(before),
            amount(after)
        );
    }
    if let Some((was, now)) = &operator.positions {
        // As a whole: the parts of subtasks mean nothing to a person.
        for (sign, parts) in [("-", was), ("+", now)] {
            for position in parts::positions(parts) {
                let _ = writeln!(text, "  {sign} position: {position}");
            }
        }
    }
}

fn amount(amount: &Amount) -> String {
    format!(
        "{} ({})",
        counted(amount.entries, "entry"),
        size(amount.bytes)
    )
}
