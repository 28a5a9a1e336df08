//! Where a job starts from: the checkpoint that the command line names, found and compared with the
//! job before anything runs.

use anyhow::anyhow;
use checkpoint::claim::Extent;
use checkpoint::{Completed, locate, locate_fallback};
use dataflow::KeyGroups;
use runtime::JobGraph;
use runtime::restore::{Entry, Report, Verdict};

use crate::cli::{ClaimMode, RestoreArguments};
use crate::events::{Audience, Event, RestoredNode};
use crate::exit::{Error, Exit};
use crate::job_file::JobFile;
use crate::job_file::checkpoint::{Retention, Storage};

/// Where a job starts.
pub(crate) enum Start {
    /// With nothing.
    Fresh,
    /// From a checkpoint.
    From(Box<Completed>),
    /// Nowhere: it has finished since its latest checkpoint.
    Finished,
}

/// Finds the checkpoint to start from.
pub(crate) fn choose(
    arguments: &RestoreArguments,
    job: &JobFile,
    audience: Audience,
) -> Result<Start, Error> {
    if arguments.claim_mode == Some(ClaimMode::Claim) && job.checkpoint.storage == Storage::Memory {
        let error = anyhow!(
            "claim mode `claim` needs checkpoints that outlive the process, but `checkpoint.storage` is `memory`"
        );
        return Err(Error::refused(error).hint(
            "set `checkpoint.dir`, or leave `--claim-mode` out: the checkpoint stays as it is",
        ));
    }
    let spec = match (&arguments.from, arguments.resume) {
        (Some(spec), _) => spec.as_str(),
        (None, true) => "latest",
        (None, false) => return refuse_useless_options(arguments).map(|()| Start::Fresh),
    };
    let dir = job.checkpoint.dir.as_ref().map(ToString::to_string);
    let found = if arguments.fallback {
        locate_fallback(spec, dir.as_deref(), &job.job.name).map(|found| {
            for rejected in &found.rejected {
                let (path, why) = (&rejected.path, &rejected.why);
                tracing::warn!("falling back: {path} is not used, {why}");
            }
            found.checkpoint
        })
    } else {
        locate(spec, dir.as_deref(), &job.job.name).map(|found| found.checkpoint)
    };
    match found {
        Ok(checkpoint) => Ok(Start::From(Box::new(checkpoint))),
        Err(checkpoint::Error::Finished { .. }) => Ok(Start::Finished),
        Err(checkpoint::Error::NotFound(_)) if arguments.resume => {
            let name = &job.job.name;
            audience.say(&format!(
                "no checkpoint of job `{name}` yet, starting fresh"
            ));
            Ok(Start::Fresh)
        }
        Err(error) => {
            let corrupt = matches!(error, checkpoint::Error::Corrupt { .. });
            let error =
                Error::checkpoint(error, format!("resuming from {}", checkpoint::shown(spec)));
            Err(if corrupt && !arguments.fallback {
                error.hint("`--fallback` uses the newest good older checkpoint")
            } else {
                error
            })
        }
    }
}

/// What of the checkpoint's surroundings the job takes over with it; `None` if it stays its owner's.
pub(crate) fn claim(arguments: &RestoreArguments) -> Option<Extent> {
    match (arguments.resume, arguments.claim_mode) {
        (true, None | Some(ClaimMode::Claim)) => Some(Extent::JobDirectory),
        (false, Some(ClaimMode::Claim)) => Some(Extent::Checkpoint),
        (_, Some(ClaimMode::NoClaim)) | (false, None) => None,
    }
}

/// The job id under which a run goes on that takes over what earlier runs left: theirs, so that job
/// directories and staging places of runs that were killed do not pile up. `None`: it has one of its
/// own.
pub(crate) fn inherited_id(
    arguments: &RestoreArguments,
    job: &JobFile,
    from: Option<&Completed>,
) -> Option<String> {
    let Storage::Filesystem(dir) = &job.checkpoint.storage else {
        return None;
    };
    if !arguments.resume || job.job.id.is_some() || claim(arguments).is_none() {
        return None;
    }
    let dir = dir.to_string();
    match from {
        Some(checkpoint) => checkpoint::claim::job_id_in(&dir, checkpoint),
        None => checkpoint::claim::unused_job_id(&dir, &job.job.name),
    }
}

/// What the owner of a claimed checkpoint should know before it is too late.
pub(crate) fn claimed(checkpoint: &Completed, retention: Retention) -> String {
    let id = checkpoint.metadata().id;
    let path = checkpoint.path().unwrap_or_default();
    let on_cancel = match retention {
        Retention::RetainOnCancellation => "a cancel keeps it, as all that are retained then",
        Retention::DeleteOnCancellation | Retention::NoExternalized => {
            "a cancel (ctrl-C) deletes it as well"
        }
    };
    format!(
        "checkpoint {id} is claimed: {path} is deleted once newer checkpoints have taken its place and none needs it; {on_cancel}"
    )
}

/// Without a checkpoint these options say nothing; whoever gives them forgot it.
fn refuse_useless_options(arguments: &RestoreArguments) -> Result<(), Error> {
    let option = if arguments.allow_non_restored_state {
        "-n"
    } else if arguments.fallback {
        "--fallback"
    } else if arguments.claim_mode.is_some() {
        "--claim-mode"
    } else {
        return Ok(());
    };
    let error = anyhow!("{option} says how to resume, but not from where");
    Err(Error::refused(error).hint("add `-s PATH`, `-s latest` or `--resume`"))
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
    let allowed = arguments.allow_non_restored_state;
    runtime::restore::check(graph, checkpoint.metadata(), checkpoint.path(), allowed).map_err(
        |mismatches| {
            let id = checkpoint.metadata().id;
            let mut text = format!("the job does not fit checkpoint {id}");
            if let Some(path) = checkpoint.path() {
                text.push_str(&format!(" ({path})"));
            }
            let error = mismatches
                .iter()
                .fold(Error::refused(anyhow!(text)), |error, mismatch| {
                    error.detail(mismatch.to_string())
                });
            if mismatches.iter().all(|mismatch| mismatch.may_be_dropped()) {
                error.hint("`-n` starts the job all the same and drops what it has no place for")
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

fn node(entry: &Entry) -> RestoredNode {
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
        Verdict::StartsEmpty | Verdict::Nothing | Verdict::Changed { .. } => node,
    }
}
