//! Sinks that are in the checkpoint and not in the job, started with `-n`.
//!
//! `-n` gives state up. Prepared output is another thing: the checkpoint covers its records, so the job
//! does not write them again. And it is there often: a job that is suspended or killed after a checkpoint
//! leaves the checkpoint's output to be published by the next start. So that is published where it is
//! staged, and what cannot be is named in a warning, with its records.

use std::path::{Path, PathBuf};

use checkpoint::Completed;
use checkpoint::metadata::Role;
use connectors::file_sink::orphans::{self, Amount, Orphans};
use operator::SinkFactory;
use operator::source::Part;
use operator::text::counted;
use runtime::JobGraph;
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
/// is dropped.
///
/// # Errors
/// Output is there, but is not what the checkpoint says, or cannot be looked at.
pub(super) fn find<'a>(
    sinks: impl Iterator<Item = &'a dyn SinkFactory>,
    graph: &JobGraph,
    from: &Completed,
    report: &mut Report,
    run: &str,
    audience: Audience,
) -> Result<Owed, Error> {
    let own: Vec<PathBuf> = sinks
        .filter_map(SinkFactory::place)
        .map(PathBuf::from)
        .collect();
    let mut owed = Owed::default();
    let gone =
        from.metadata().operators.iter().filter(|old| {
            old.role == Role::Sink && !graph.nodes.iter().any(|node| node.id == old.id)
        });
    for old in gone {
        let parts = runtime::restore::parts(from, &old.id).unwrap_or_default();
        if parts.is_empty() {
            continue;
        }
        let recorded = old.labels.get(PLACE).map(Path::new);
        let id = &old.id;
        let fate = match orphans::find(&parts, &own, recorded, run) {
            None => {
                let fate = format!("{} dropped", of_another_connector(&parts));
                warn(audience, id, &fate);
                fate
            }
            Some(found) => {
                let found = found.map_err(|error| {
                    Error::refused(error.context(format!(
                        "looking for the output of sink `{id}`, which is not in the job"
                    )))
                })?;
                let fate = fate(&found);
                if found.missing.files + found.others.files > 0 {
                    warn(audience, id, &fate);
                }
                owed.0.push(found);
                fate
            }
        };
        let entry = report
            .entries
            .iter_mut()
            .find(|entry| entry.operator == *id);
        if let Some(entry) = entry {
            entry.verdict = Verdict::Output(fate);
        }
    }
    Ok(owed)
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
    let published = orphans
        .all
        .minus(orphans.staged)
        .minus(orphans.others)
        .minus(orphans.missing);
    [
        (published, format!("published in {place}")),
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
