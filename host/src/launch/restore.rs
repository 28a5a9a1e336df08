//! The checkpoint that the command line names: found, and compared with the job before anything runs.

use anyhow::anyhow;
use checkpoint::Fallback;
use checkpoint::locate::LATEST;
use checkpoint::{Completed, locate, locate_fallback};
use dataflow::KeyGroups;
use job_file::JobFile;
use job_file::checkpoint::{Retention, Storage};
use runtime::JobGraph;
use runtime::restore::{Mismatch, Report, ReportEntry, Verdict};

use crate::cli::{ClaimMode, RestoreArguments};
use crate::events::{Event, RestoredNode};
use crate::exit::{Error, Exit};

/// What stands after `-s`.
pub(crate) fn spec(arguments: &RestoreArguments) -> Option<&str> {
    arguments.from.as_deref()
}

/// Whether it asks for the newest checkpoint of the job itself.
pub(crate) fn is_latest(spec: &str) -> bool {
    spec == LATEST
}

/// Refuses options that have no effect: the user forgot another one.
pub(crate) fn check_options(arguments: &RestoreArguments, job: &JobFile) -> Result<(), Error> {
    if job.checkpoint.storage == Storage::Memory {
        let useless = if arguments.claim_mode == Some(ClaimMode::Claim) {
            "claim mode `claim` needs"
        } else if arguments.rewind.is_some() {
            "`--rewind` needs"
        } else if arguments.fresh {
            "`--fresh` needs"
        } else if arguments.standby {
            "`--standby` needs"
        } else if arguments.resume || spec(arguments).is_some_and(is_latest) {
            "resuming from the newest checkpoint needs"
        } else {
            return Ok(());
        };
        let error = anyhow!(
            "{useless} checkpoints that outlive the process, but `checkpoint.storage` is `memory`"
        );
        return Err(Error::refused(error).hint("set `checkpoint.dir`"));
    }
    if arguments.standby && spec(arguments).is_some_and(is_latest) {
        let error = anyhow!(
            "a standby goes on from the newest checkpoint in any case, and `-s` says where the job starts if it has never run: `latest` is nothing then"
        );
        return Err(Error::refused(error).hint("leave `-s latest` out"));
    }
    if arguments.fresh && spec(arguments).is_some_and(is_latest) {
        let error = anyhow!(
            "`-s latest` is the newest checkpoint of the run that `--fresh` gives up: use only one of them"
        );
        return Err(Error::refused(error).hint(
            "leave `--fresh` out to go on, `-s latest` to start with nothing, or name a checkpoint by its path",
        ));
    }
    if spec(arguments).is_some() || arguments.resume || arguments.standby {
        return Ok(());
    }
    let option = if arguments.allow_drained {
        "--allow-drained"
    } else if arguments.allow_non_restored_state {
        "-n"
    } else if arguments.fallback {
        "--fallback"
    } else if arguments.claim_mode.is_some() {
        "--claim-mode"
    } else if arguments.rewind.is_some() {
        "--rewind"
    } else {
        return Ok(());
    };
    let error = anyhow!("{option} has an effect only on a start from a checkpoint");
    Err(Error::refused(error).hint("add `-s PATH`, `-s latest` or `--resume`"))
}

/// Finds the checkpoint that `spec` names.
pub(crate) fn named(
    spec: &str,
    arguments: &RestoreArguments,
    dir: Option<&str>,
    job_id: &str,
) -> Result<Completed, Error> {
    let found = match arguments.fallback {
        true => locate_fallback(spec, dir, job_id).map(fallen_back),
        false => locate(spec, dir, job_id).map(|found| found.checkpoint),
    };
    let doing = format!("resuming from {}", checkpoint::shown(spec));
    found.map_err(|error| not_usable(error, doing, arguments))
}

/// As [`named`], but does not read what would be read to fall back.
pub(crate) fn named_exists(
    spec: &str,
    arguments: &RestoreArguments,
    dir: &str,
    job_id: &str,
) -> Result<(), Error> {
    match locate(spec, Some(dir), job_id) {
        Err(checkpoint::Error::Corrupt { .. }) if arguments.fallback => Ok(()),
        Ok(_) => Ok(()),
        Err(error) => {
            let doing = format!("resuming from {}", checkpoint::shown(spec));
            Err(not_usable(error, doing, arguments))
        }
    }
}

/// The checkpoint that was fallen back to, after saying from what.
pub(crate) fn fallen_back(found: Fallback) -> Completed {
    for rejected in &found.rejected {
        let (path, why) = (&rejected.path, &rejected.why);
        tracing::warn!("falling back: {path} is not used, {why}");
    }
    found.checkpoint
}

/// Why there is no checkpoint to start from.
pub(crate) fn not_usable(
    error: checkpoint::Error,
    doing: impl std::fmt::Display,
    arguments: &RestoreArguments,
) -> Error {
    let corrupt = matches!(error, checkpoint::Error::Corrupt { .. });
    let error = Error::checkpoint(error, doing);
    match corrupt && !arguments.fallback {
        true => error.hint("`--fallback` uses the newest good older checkpoint"),
        false => error,
    }
}

/// What the owner of a claimed checkpoint should know before it is too late.
pub(crate) fn claimed(checkpoint: &Completed, retention: Retention) -> String {
    let id = checkpoint.metadata().id;
    let path = checkpoint.path().unwrap_or_default();
    let on_cancel = match retention {
        Retention::RetainOnCancellation => {
            "a cancel (ctrl-C) keeps it, like all retained checkpoints"
        }
        Retention::DeleteOnCancellation | Retention::NoExternalized => {
            "a cancel (ctrl-C) deletes it as well"
        }
    };
    format!(
        "checkpoint {id} is claimed: {path} is deleted once newer checkpoints have taken its place and none needs it; {on_cancel}"
    )
}

/// The number of key groups of a checkpoint.
pub(crate) fn key_groups(checkpoint: &Completed) -> Result<KeyGroups, Error> {
    let count = checkpoint.metadata().key_groups;
    KeyGroups::new(count).ok_or_else(|| {
        let error = anyhow!("the checkpoint claims to have {count} key groups");
        Error::with(Exit::Corrupt, error)
    })
}

/// Compares the job with the checkpoint.
///
/// # Errors
/// Everything that does not fit, with exit code 2.
pub(crate) fn check(
    graph: &JobGraph,
    checkpoint: &Completed,
    arguments: &RestoreArguments,
) -> Result<Report, Error> {
    if checkpoint.metadata().drained && !arguments.allow_drained {
        let error = anyhow!(
            "all input was ended before checkpoint {} (`host stop --drain`): its operators have seen the end of their \
             inputs, and what they do there is done",
            checkpoint.metadata().id
        );
        return Err(Error::refused(error).hint(
            "`--allow-drained` reads on from the positions of the sources all the same; operators see the end of \
             their inputs again",
        ));
    }
    let allowed = arguments.allow_non_restored_state;
    runtime::restore::check(graph, checkpoint.metadata(), checkpoint.path(), allowed).map_err(
        |mismatches| {
            let id = checkpoint.metadata().id;
            let mut text = format!("the job does not fit checkpoint {id}");
            if let Some(path) = checkpoint.path() {
                text.push_str(&format!(" ({path})"));
            }
            let mut error = mismatches
                .iter()
                .flat_map(|mismatch| {
                    let text = mismatch.to_string();
                    text.lines().map(str::to_owned).collect::<Vec<_>>()
                })
                .fold(Error::refused(anyhow!(text)), |error, line| {
                    error.detail(line)
                });
            let is_schema = |mismatch: &Mismatch| matches!(mismatch, Mismatch::StateChanged { .. });
            if mismatches.iter().any(is_schema) {
                error = error.hint(
                    "declare the state as it was; or give the new one another name and drop the old one with `-n`; \
                     or start afresh with `--fresh`",
                );
            }
            for mismatch in &mismatches {
                if let Mismatch::InputChanged { changed, .. } = mismatch {
                    error = error.hint(&changed.choices);
                }
            }
            if mismatches.iter().all(|mismatch| mismatch.may_be_dropped()) {
                error.hint(
                    "`-n` starts the job and drops the state that does not fit; prepared output of a removed \
                     sink is published where it is staged",
                )
            } else {
                error
            }
        },
    )
}

/// The event that tells what is restored.
pub(crate) fn event(report: &Report) -> Event {
    Event::Restored {
        checkpoint: report.checkpoint,
        path: report.path.clone(),
        report: report.entries.iter().map(node).collect(),
    }
}

fn node(entry: &ReportEntry) -> RestoredNode {
    let node = RestoredNode {
        operator: entry.operator.clone(),
        verdict: entry.verdict.code(),
        what: entry.to_string(),
        ..RestoredNode::default()
    };
    match &entry.verdict {
        Verdict::Restored { entries, bytes, .. } => RestoredNode {
            entries: Some(*entries),
            bytes: Some(*bytes),
            ..node
        },
        Verdict::Continues(position) => RestoredNode {
            position: Some(position.clone()),
            ..node
        },
        Verdict::Commits(outputs) => RestoredNode {
            outputs: Some(*outputs),
            ..node
        },
        Verdict::Dropped { bytes, .. } => RestoredNode {
            bytes: Some(*bytes),
            ..node
        },
        Verdict::StateDropped {
            state,
            entries,
            bytes,
        } => RestoredNode {
            state: Some(state.clone()),
            entries: Some(*entries),
            bytes: Some(*bytes),
            ..node
        },
        Verdict::StartsEmpty | Verdict::Nothing | Verdict::Changed { .. } | Verdict::Output(_) => {
            node
        }
    }
}
