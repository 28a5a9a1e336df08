//! `host savepoints`: what a user does with savepoints, without the job that took them.

use std::fmt::Write;

use checkpoint::savepoint::{Disposed, dispose};
use checkpoint::shown;
use operator::text::{counted, line, name, size};
use serde_json::json;

use super::print;
use crate::cli::{Dispose, Savepoints};
use crate::commands::checkpoints::warn_of_weakened;
use crate::exit::{Error, Exit, causes};

/// Does what `host savepoints …` asks for.
pub(crate) fn run(command: &Savepoints) -> Result<Exit, Error> {
    match command {
        Savepoints::Dispose(arguments) => dispose_all(arguments),
    }
}

/// Removes each of them, and says what was removed. One that is refused keeps none of the others.
fn dispose_all(arguments: &Dispose) -> Result<Exit, Error> {
    warn_of_weakened(arguments.places.iter().map(String::as_str));
    let (mut text, mut reports, mut failed) = (String::new(), Vec::new(), None);
    for place in &arguments.places {
        match dispose(place) {
            Ok(disposed) => {
                reports.push(to_json(&disposed));
                text.push_str(&to_text(&disposed));
            }
            Err(error) => {
                let why = causes(&error);
                reports.push(json!({ "path": shown(place), "error": why }));
                let error = Error::checkpoint(error, format!("disposing of {}", shown(place)));
                failed = Some(match failed {
                    None => error,
                    Some(first) => worse(first, error, &why),
                });
            }
        }
    }
    print(&match arguments.json {
        true => format!("{:#}\n", json!(reports)),
        false => text,
    })?;
    failed.map_or(Ok(Exit::Finished), Err)
}

/// The error of the worse of two, which names both.
fn worse(first: Error, second: Error, why: &str) -> Error {
    if second.exit() > first.exit() {
        return second.detail(first.to_string());
    }
    first.detail(why)
}

fn to_json(disposed: &Disposed) -> serde_json::Value {
    json!({
        "path": disposed.path,
        "id": disposed.id,
        "job-id": disposed.job_id,
        "files": disposed.files,
        "bytes": disposed.bytes,
        "left": disposed.left,
    })
}

fn to_text(disposed: &Disposed) -> String {
    let mut text = format!(
        "removed {}: savepoint {} of job `{}`, {}, {}\n",
        line(&disposed.path),
        disposed.id,
        name(&disposed.job_id),
        counted(disposed.files, "file"),
        size(disposed.bytes)
    );
    for left in &disposed.left {
        let _ = writeln!(text, "left, because it is not part of it: {}", line(left));
    }
    text
}
