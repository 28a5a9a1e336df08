//! The checkpoint that the command line names: found, and compared with the job before anything runs.

use std::collections::BTreeSet;

use anyhow::anyhow;
use checkpoint::Fallback;
use checkpoint::locate::LATEST;
use checkpoint::metadata::Operator;
use checkpoint::{Changes, Completed, locate, locate_fallback};
use dataflow::KeyGroups;
use job_file::JobFile;
use job_file::checkpoint::{Retention, Storage};
use job_file::hints::did_you_mean;
use runtime::JobGraph;
use runtime::restore::{Mismatch, Refusal, Report, ReportEntry, Verdict};

use crate::cli::{ClaimMode, RestoreArguments, UpgradeArguments};
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
    } else if let Some(option) = upgrade_option(&arguments.upgrade) {
        option
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

/// One of the options that say what may become of state that does not fit, if one is given.
pub(crate) fn upgrade_option(upgrade: &UpgradeArguments) -> Option<&'static str> {
    if upgrade.allow_non_restored_state {
        Some("-n")
    } else if !upgrade.drop_state.is_empty() {
        Some("--drop-state")
    } else if !upgrade.map_operator.is_empty() {
        Some("--map-operator")
    } else {
        None
    }
}

/// Refuses names of what is in a checkpoint where there is none.
pub(crate) fn refuse_for_nothing(upgrade: &UpgradeArguments) -> Result<(), Error> {
    let option = match (upgrade.drop_state.first(), upgrade.map_operator.first()) {
        (Some(_), _) => "--drop-state",
        (None, Some(_)) => "--map-operator",
        (None, None) => return Ok(()),
    };
    let error = anyhow!("{option} has no effect: the job has no checkpoint to start from");
    Err(Error::refused(error).hint("leave it out"))
}

/// The changes that the options ask for.
pub(crate) fn changes(upgrade: &UpgradeArguments) -> Changes {
    Changes {
        renamed: upgrade.map_operator.clone(),
        dropped: upgrade.drop_state.clone(),
    }
}

/// The checkpoint as the job sees it, with what `--map-operator` and `--drop-state` say.
///
/// # Errors
/// All that they name and is not there, and what contradicts itself, with exit code 2.
pub(crate) fn changed(
    checkpoint: &Completed,
    graph: &JobGraph,
    upgrade: &UpgradeArguments,
) -> Result<Completed, Error> {
    let operators = &checkpoint.metadata().operators;
    let mut problems = Vec::new();
    mapping_problems(operators, graph, &upgrade.map_operator, &mut problems);
    dropping_problems(operators, upgrade, &mut problems);
    if problems.is_empty() {
        return Ok(checkpoint.changed(changes(upgrade)));
    }
    let error = anyhow!(
        "what is asked of checkpoint {} cannot be done",
        checkpoint.metadata().id
    );
    let refused = Error::refused(error);
    Err(problems.into_iter().fold(refused, Error::detail))
}

/// What something does not have, and what may have been meant.
fn unknown<'a>(what: &str, name: &str, names: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match did_you_mean(name, names) {
        Some(hint) => format!("{what}; {hint}"),
        None => what.to_owned(),
    }
}

fn mapping_problems(
    operators: &[Operator],
    graph: &JobGraph,
    mapped: &[(String, String)],
    problems: &mut Vec<String>,
) {
    let old_ids = || operators.iter().map(|operator| operator.id.as_str());
    let new_ids = || graph.nodes.iter().map(|node| node.id.as_str());
    let (mut from, mut to) = (BTreeSet::new(), BTreeSet::new());
    for (old, new) in mapped {
        let option = format!("--map-operator {old}={new}");
        if !old_ids().any(|id| id == old) {
            let what = format!("{option}: the checkpoint has no `{old}`");
            problems.push(unknown(&what, old, old_ids().collect::<Vec<_>>()));
        }
        if !new_ids().any(|id| id == new) {
            let what = format!("{option}: the job has no `{new}`");
            problems.push(unknown(&what, new, new_ids().collect::<Vec<_>>()));
        }
        if !from.insert(old) {
            problems.push(format!("{option}: `{old}` is mapped twice"));
        }
        if !to.insert(new) {
            problems.push(format!(
                "{option}: another one is mapped to `{new}`, and two cannot become one"
            ));
        }
        // Unless it makes room.
        let stays = old_ids().any(|id| id == new) && !mapped.iter().any(|(from, _)| from == new);
        if stays {
            problems.push(format!(
                "{option}: the checkpoint has a `{new}` of its own, and two cannot become one"
            ));
        }
    }
}

fn dropping_problems(
    operators: &[Operator],
    upgrade: &UpgradeArguments,
    problems: &mut Vec<String>,
) {
    for (id, state) in &upgrade.drop_state {
        let option = format!("--drop-state {id}/{state}");
        let Some(operator) = operators.iter().find(|operator| operator.id == *id) else {
            let what = format!("{option}: the checkpoint has no operator `{id}`");
            let mut renamed = upgrade.map_operator.iter();
            problems.push(match renamed.find(|(_, new)| new == id) {
                Some((old, _)) => format!("{what}; it is `{old}` there"),
                None => {
                    let ids: Vec<&str> = operators
                        .iter()
                        .filter(|it| !it.states.is_empty() || !it.operator_states.is_empty())
                        .map(|it| it.id.as_str())
                        .collect();
                    unknown(&what, id, ids)
                }
            });
            continue;
        };
        let states = operator.states.iter().chain(&operator.operator_states);
        let names: Vec<&str> = states.map(|state| state.name.as_str()).collect();
        if names.is_empty() {
            problems.push(format!("{option}: `{id}` has no state in the checkpoint"));
        } else if !names.contains(&state.as_str()) {
            let what = format!("{option}: `{id}` has no state `{state}` in the checkpoint");
            problems.push(unknown(&what, state, names));
        }
    }
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
    compared(graph, checkpoint, &arguments.upgrade).map_err(|refusal| refused(checkpoint, &refusal))
}

/// The same without words for what does not fit.
pub(crate) fn compared(
    graph: &JobGraph,
    checkpoint: &Completed,
    upgrade: &UpgradeArguments,
) -> Result<Report, Box<Refusal>> {
    runtime::restore::check(graph, checkpoint, upgrade.allow_non_restored_state)
}

/// In words: what does not fit, and then what would become of the rest.
fn refused(checkpoint: &Completed, refusal: &Refusal) -> Error {
    let mismatches = &refusal.mismatches;
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
    for entry in &refusal.report.entries {
        // What was named above is not said again. Of an operator that is gone, its states were not.
        let is_said = match &entry.verdict {
            Verdict::Refused(_) => true,
            Verdict::StateRefused { .. } => !mismatches.iter().any(|mismatch| {
                matches!(mismatch, Mismatch::OperatorGone { operator, .. } if *operator == entry.operator)
            }),
            _ => false,
        };
        if !is_said {
            error = error.detail(entry.to_string());
        }
    }
    let is_schema = |mismatch: &Mismatch| matches!(mismatch, Mismatch::StateChanged { .. });
    if mismatches.iter().any(is_schema) {
        error = error.hint(
            "declare the state as it was; or raise the version of its schema and let the operator migrate \
             it; or let it start empty with `--drop-state`; or start afresh with `--fresh`",
        );
    }
    for mismatch in mismatches {
        if let Mismatch::InputChanged { changed, .. } = mismatch {
            error = error.hint(&changed.choices);
        }
    }
    for mismatch in mismatches {
        if let Mismatch::OperatorGone { operator, new, .. }
        | Mismatch::ConnectorGone { operator, new, .. } = mismatch
            && let [new] = new.as_slice()
        {
            error = error.hint(format!(
                "if it was renamed: `--map-operator {operator}={new}`"
            ));
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
}

/// The event that tells what is restored.
pub(crate) fn event(report: &Report) -> Event {
    Event::Restored {
        checkpoint: report.checkpoint,
        path: report.path.clone(),
        report: report.entries.iter().map(node).collect(),
    }
}

pub(crate) fn node(entry: &ReportEntry) -> RestoredNode {
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
        Verdict::StateMigrated {
            state,
            from,
            to,
            entries,
            bytes,
        } => RestoredNode {
            state: Some(state.clone()),
            from_version: Some(*from),
            to_version: Some(*to),
            entries: Some(*entries),
            bytes: Some(*bytes),
            ..node
        },
        Verdict::StateNew { state } => RestoredNode {
            state: Some(state.clone()),
            ..node
        },
        Verdict::StateSame {
            state,
            entries,
            bytes,
        }
        | Verdict::StateRefused {
            state,
            entries,
            bytes,
            ..
        }
        | Verdict::StateDropped {
            state,
            entries,
            bytes,
            ..
        } => RestoredNode {
            state: Some(state.clone()),
            entries: Some(*entries),
            bytes: Some(*bytes),
            ..node
        },
        Verdict::StartsEmpty
        | Verdict::Nothing
        | Verdict::Changed { .. }
        | Verdict::Refused(_)
        | Verdict::Output(_) => node,
    }
}
