//! Sinks that are in the checkpoint and not in the job, started with `-n`.
//!
//! `-n` gives state up. Prepared output is another thing: the checkpoint covers its records, so the job
//! does not write them again. And it is there often: a job that is suspended or killed after a checkpoint
//! leaves the checkpoint's output to be published by the next start. So that is published where it is
//! staged, and what cannot be is named in a warning, with its records.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use checkpoint::Completed;
use checkpoint::metadata::{self, Role};
use connectors::file_sink::orphans::{self, Amount, Gone, Orphans, Places};
use operator::source::Part;
use operator::text::counted;
use runtime::JobGraph;
use runtime::graph::NodeKind;
use runtime::restore::{PLACE, Report, Verdict};

use crate::events::{Audience, Event};
use crate::exit::Error;

/// What is to be published for sinks that are gone.
#[derive(Default)]
pub(super) struct Owed(Vec<Orphans>);

impl Owed {
    /// Publishes it. May be done again.
    pub(super) fn publish(&self, run: &str) -> Result<(), Error> {
        for orphans in &self.0 {
            orphans.publish(run).map_err(|error| {
                Error::refused(
                    error.context("publishing the output of a sink that is not in the job"),
                )
            })?;
        }
        Ok(())
    }
}

/// Looks for the output of all sinks that are gone, says in `report` what becomes of it, and warns of what
/// is dropped, and of what counts as published by files in another directory than the checkpoint names.
///
/// # Errors
/// Output is there, but is not what the checkpoint says, or cannot be looked at.
pub(super) fn find(
    graph: &JobGraph,
    from: &Completed,
    report: &mut Report,
    run: &str,
    audience: Audience,
) -> Result<Owed, Error> {
    let sinks = || {
        let old = from.metadata().operators.iter();
        old.filter(|old| old.role == Role::Sink)
    };
    let failed = |id: &str| {
        let doing = format!("looking for the output of sink `{id}`, which is not in the job");
        move |error: anyhow::Error| Error::refused(error.context(doing))
    };
    let mut ids: Vec<&str> = Vec::new();
    let mut gone: Vec<Gone> = Vec::new();
    let mut fates: Vec<(&str, String)> = Vec::new();
    for old in sinks().filter(|old| !graph.nodes.iter().any(|node| node.id == old.id)) {
        let parts = old.subtasks.iter().flat_map(|it| it.parts.iter().cloned());
        let parts: Vec<Part> = parts.collect();
        if parts.is_empty() {
            continue;
        }
        match Gone::read(&parts, recorded(old)) {
            None => {
                let fate = format!("{} dropped", of_another_connector(&parts));
                warn(audience, &old.id, &fate);
                fates.push((&old.id, fate));
            }
            Some(read) => {
                gone.push(read.map_err(failed(&old.id))?);
                ids.push(&old.id);
            }
        }
    }
    let places = Places {
        recorded: sinks().filter_map(recorded).map(PathBuf::from).collect(),
        ..places(graph, from)
    };
    let mut owed = Owed::default();
    for (id, found) in ids.into_iter().zip(orphans::find(&gone, &places, run)) {
        let found = found.map_err(failed(id))?;
        let fate = fate(&found);
        let is_guessed = !found.is_recorded && published(&found).files > 0;
        if is_guessed || found.missing.files + found.others.files > 0 {
            warn(audience, id, &fate);
        }
        owed.0.push(found);
        fates.push((id, fate));
    }
    for (id, fate) in fates {
        let entry = report.entries.iter_mut().find(|entry| entry.operator == id);
        if let Some(entry) = entry {
            entry.verdict = Verdict::Output(fate);
        }
    }
    Ok(owed)
}

/// Whether each sink of the job looks for its prepared output where it is its own. Files of two sinks have the same
/// names, and with the same records in them they are the same: so a sink whose `path` is that of another one now
/// would take the other's output for its own, and its own would be lost.
///
/// # Errors
/// A sink looks into the directory of another one.
pub(super) fn check_places(graph: &JobGraph, from: &Completed) -> Result<(), Error> {
    let metadata = from.metadata();
    let with_output = || {
        let sinks = metadata.operators.iter();
        sinks.filter(|old| {
            old.role == Role::Sink && old.subtasks.iter().any(|it| !it.parts.is_empty())
        })
    };
    for node in &graph.nodes {
        let NodeKind::Sink(sink) = &node.kind else {
            continue;
        };
        let own = with_output()
            .find(|old| old.id == node.id)
            .and_then(recorded);
        let (Some(place), Some(own)) = (sink.place(), own) else {
            continue;
        };
        let others = with_output().filter(|old| old.id != node.id);
        let mut others = others.filter_map(|old| Some((&old.id, recorded(old)?)));
        let Some((other, _)) =
            others.find(|(_, other)| orphans::is_of_another(Path::new(&place), own, other))
        else {
            continue;
        };
        let shown = |place: &Path| checkpoint::shown(&place.display().to_string());
        let (id, at, own) = (&node.id, shown(Path::new(&place)), shown(own));
        let error = anyhow!(
            "sink `{id}` publishes in {at} now, where checkpoint {} has output of sink `{other}`; what it has of \
             `{id}` is in {own} and would be lost",
            metadata.id
        );
        return Err(Error::refused(error).hint(format!(
            "set `path` of sink `{id}` back, and give a sink that is to write in {at} an `id` of its own"
        )));
    }
    Ok(())
}

/// Where the checkpoint says that a sink published.
fn recorded(sink: &metadata::Operator) -> Option<&Path> {
    sink.labels.get(PLACE).map(Path::new)
}

/// The directories of the job's sinks: of those that are new, and of those that the checkpoint has.
fn places(graph: &JobGraph, from: &Completed) -> Places {
    let mut places = Places::default();
    for node in &graph.nodes {
        let NodeKind::Sink(sink) = &node.kind else {
            continue;
        };
        let operators = &from.metadata().operators;
        let of_its_kind = match operators.iter().any(|old| old.id == node.id) {
            true => &mut places.kept,
            false => &mut places.new,
        };
        of_its_kind.extend(sink.place().map(PathBuf::from));
    }
    places
}

/// What was published before.
fn published(orphans: &Orphans) -> Amount {
    let rest = orphans.all.minus(orphans.staged).minus(orphans.others);
    rest.minus(orphans.missing)
}

fn warn(audience: Audience, id: &str, fate: &str) {
    audience.tell(&Event::Warning {
        about: format!("sink.{id}"),
        message: format!("is not in the job: {fate}"),
    });
}

/// What is known of prepared output that is in no files.
fn of_another_connector(parts: &[Part]) -> String {
    let records = parts
        .iter()
        .filter_map(|part| part.get("records")?.as_u64());
    let records = records.fold(0, u64::saturating_add);
    let (verb, it) = if records == 1 {
        ("is", "it was")
    } else {
        ("are", "they were")
    };
    format!(
        "{} that the checkpoint has prepared for it (unless {it} written when the checkpoint completed) {verb}",
        counted(records, "record")
    )
}

/// In words.
fn fate(orphans: &Orphans) -> String {
    let Some(root) = &orphans.root else {
        return format!(
            "{} dropped unless published before: the checkpoint does not say where",
            with_verb(orphans.missing)
        );
    };
    let place = checkpoint::shown(&root.display().to_string());
    [
        (
            published(orphans),
            match orphans.is_recorded {
                true => format!("published in {place}"),
                false => format!(
                    "published in {place}, as the files there say: the checkpoint does not name this directory"
                ),
            },
        ),
        (
            orphans.staged,
            format!("published in {place} now, where the checkpoint had prepared them"),
        ),
        (
            orphans.others,
            "not published by this run: they are the output of the run that took the checkpoint"
                .to_owned(),
        ),
        (
            orphans.missing,
            format!("dropped: neither published nor staged in {place}"),
        ),
    ]
    .into_iter()
    .filter(|(amount, _)| amount.files > 0)
    .map(|(amount, what)| format!("{} {what}", with_verb(amount)))
    .collect::<Vec<_>>()
    .join("; ")
}

fn with_verb(amount: Amount) -> String {
    let verb = if amount.files == 1 { "is" } else { "are" };
    format!(
        "{} with {} {verb}",
        counted(amount.files, "file"),
        counted(amount.records, "record")
    )
}
