//! `host checkpoints forget`: a job's whole directory is removed.

use std::sync::Arc;

use checkpoint::shown;
use job_file::checkpoint::CheckpointSection;
use operator::clock::SystemClock;
use operator::text::{counted, size};
use serde_json::json;

use crate::cli::Target;
use crate::commands::print;
use crate::exit::{Error, Exit};
use crate::launch::settings;

/// Removes it, and says what was in it.
pub(crate) fn forget(place: &Target) -> Result<Exit, Error> {
    let clock = Arc::new(SystemClock::new());
    let terms = settings::terms(CheckpointSection::default().lease_timeout, clock);
    let report = checkpoint::forget::forget(&place.place, &terms)
        .map_err(|error| Error::checkpoint(error, format!("forgetting {}", shown(&place.place))))?;
    print(&match place.json {
        true => format!(
            "{:#}\n",
            json!({ "path": report.path, "files": report.files, "bytes": report.bytes })
        ),
        false => format!(
            "removed {}: {}, {}\n",
            report.path,
            counted(report.files, "file"),
            size(report.bytes)
        ),
    })?;
    Ok(Exit::Finished)
}
