//! Where a run starts: the job's directory is taken, what was asked for is compared with what is in
//! it, and what the run starts from is put on record before its first record is read.

use std::sync::Arc;

use anyhow::anyhow;
use checkpoint::claim::Extent;
use checkpoint::history::History;
use checkpoint::lease::{Held, Lease, Rewind, RewindMode, Run, Start, Time as _};
use checkpoint::locate::LATEST;
use checkpoint::start::{Asked, Refusal, Source, StartDecision, decide};
use checkpoint::{CheckpointStore, Completed, verify};
use job_file::JobFile;
use job_file::checkpoint::Storage;
use operator::clock::Clock;
use operator::source::Part;
use operator::text::counted;
use operator::{Delivery, JobIdentity, Origin, SinkFactory};
use runtime::clock::LeaseTime;
use runtime::graph::NodeKind;
use runtime::restore::{Report, ReportEntry};
use runtime::{JobGraph, Keeper};

use super::orphans::{self, Owed};
use super::{not_opened, not_owned, restore, settings, waiting, watching};
use crate::assemble::Prepared;
use crate::cli::{ClaimMode, RestoreArguments};
use crate::events::{Audience, Event};
use crate::exit::{Error, Exit};

/// A run that may begin.
pub(super) struct Begun {
    /// Its checkpoints.
    pub(super) store: CheckpointStore,
    /// Renews the lease of the job's directory, if there is one.
    pub(super) keeper: Option<Keeper>,
    /// The job's id.
    pub(super) job_id: String,
    /// The run's token.
    pub(super) run: String,
    /// Whether a run begins, rather than goes on.
    pub(super) is_new: bool,
    /// The checkpoint that it starts from.
    pub(super) from: Option<Completed>,
    /// The job.
    pub(super) graph: JobGraph,
    /// How the checkpoint fits the job.
    pub(super) report: Option<Report>,
    /// Whether the checkpoint was one of another owner, and is taken over.
    pub(super) claimed: bool,
}

/// A lease, and what renews it.
pub(super) type Owned = (Arc<Lease>, Keeper);

/// Decides where the job starts, and makes that durable. `owned` is the job's directory if it was taken already.
/// `None`: the job has finished.
pub(super) fn begin(
    prepared: &Prepared,
    arguments: &RestoreArguments,
    owned: Option<Owned>,
    clock: &Arc<dyn Clock>,
    audience: Audience,
) -> Result<Option<Begun>, Error> {
    restore::check_options(arguments, &prepared.job)?;
    let begun = match &prepared.job.checkpoint.storage {
        Storage::Memory => in_memory(prepared, arguments, audience).map(Some),
        Storage::Filesystem(dir) => {
            let owning = Owning {
                prepared,
                arguments,
                audience,
                dir: dir.to_string(),
                job_id: settings::job_id(&prepared.job),
            };
            owning.begin(owned, clock)
        }
    }?;
    if let Some(begun) = begun.as_ref().filter(|begun| begun.is_new) {
        for warning in output_of_earlier_runs(&begun.graph, &begun.run) {
            audience.tell(&warning);
        }
    }
    Ok(begun)
}

/// What a run that begins should say of output that is there already: it is not written over, so a reader
/// of the whole directory reads it as well.
fn output_of_earlier_runs(graph: &JobGraph, run: &str) -> Vec<Event> {
    let warning = |(id, sink): (&str, &Arc<dyn SinkFactory>)| {
        // What cannot be looked at is found when the sink is made.
        let published = sink.published_by_other_runs(run).ok()?;
        let files = match (published.files, published.more_files) {
            (0, _) => return None,
            (files, false) => counted(files, "file"),
            (files, true) => format!("{} or more", counted(files, "file")),
        };
        Some(Event::Warning {
            about: format!("sink.{id}"),
            message: format!(
                "there is output of earlier runs in {}: {files}; it stays, and the names of what this run \
                 writes have `{run}` in them",
                sink.place().unwrap_or_default()
            ),
        })
    };
    sinks(graph).filter_map(warning).collect()
}

/// With checkpoints in memory nothing is known of earlier runs.
fn in_memory(
    prepared: &Prepared,
    arguments: &RestoreArguments,
    audience: Audience,
) -> Result<Begun, Error> {
    let job = &prepared.job;
    let run = settings::new_token();
    let job_id = settings::memory_job_id(job, &run);
    let mut from = match restore::spec(arguments) {
        None => None,
        Some(spec) => Some(restore::named(spec, arguments, None, &job_id)?),
    };
    let (graph, mut report) = fitted(prepared, &mut from, arguments)?;
    check_output(&graph, from.as_ref(), &run)?;
    orphaned(&graph, from.as_ref(), report.as_mut(), &run, audience)?.publish(&run)?;
    Ok(Begun {
        store: CheckpointStore::memory(settings::store_options(&job.checkpoint)),
        keeper: None,
        job_id,
        run,
        is_new: true,
        from,
        graph,
        report,
        claimed: false,
    })
}

/// What a start from a checkpoint would do. Nothing changes by it, and nothing is written.
///
/// # Errors
/// Why there would be none.
pub(crate) fn tried(
    prepared: &Prepared,
    from: &Completed,
    arguments: &RestoreArguments,
) -> Result<Report, Error> {
    let graph = prepared.graph(Some(restore::key_groups(from)?))?;
    let from = restore::changed(from, &graph, &arguments.upgrade)?;
    let mut report = restore::check(&graph, &from, arguments)?;
    // A run that goes on keeps its token; another one has none of the output of the one that took the checkpoint.
    let run = match &prepared.job.checkpoint.storage {
        Storage::Filesystem(dir) => {
            let own = format!(
                "{}/{}/",
                dir.to_string().trim_end_matches('/'),
                settings::job_id(&prepared.job)
            );
            let is_own = from.path().is_some_and(|path| path.starts_with(&own));
            from.metadata().run.clone().filter(|_| is_own)
        }
        Storage::Memory => None,
    };
    let run = run.unwrap_or_else(settings::new_token);
    check_output(&graph, Some(&from), &run)?;
    orphans::find(&graph, &from, &mut report, &run, Audience::Person)?;
    Ok(report)
}

/// What a start from a checkpoint that is refused would do to each part of it, if that is known.
pub(crate) fn refusal(
    prepared: &Prepared,
    from: &Completed,
    arguments: &RestoreArguments,
) -> Result<Vec<ReportEntry>, Error> {
    let graph = prepared.graph(Some(restore::key_groups(from)?))?;
    let Ok(from) = restore::changed(from, &graph, &arguments.upgrade) else {
        return Ok(Vec::new());
    };
    Ok(match restore::compared(&graph, &from, &arguments.upgrade) {
        Ok(report) => report.entries,
        Err(refusal) => refusal.report.entries,
    })
}

/// The graph for a checkpoint, and how the checkpoint fits it. The checkpoint is durable then, and is seen as the job
/// sees it.
fn fitted(
    prepared: &Prepared,
    from: &mut Option<Completed>,
    arguments: &RestoreArguments,
) -> Result<(JobGraph, Option<Report>), Error> {
    let groups = from.as_ref().map(restore::key_groups).transpose()?;
    let graph = prepared.graph(groups)?;
    let Some(checkpoint) = from else {
        restore::refuse_for_nothing(&arguments.upgrade)?;
        return Ok((graph, None));
    };
    *checkpoint = restore::changed(checkpoint, &graph, &arguments.upgrade)?;
    let report = Some(restore::check(&graph, checkpoint, arguments)?);
    // Before anything is built on it: output is committed in its name.
    checkpoint
        .settle()
        .map_err(|error| Error::checkpoint(error, "making the checkpoint durable"))?;
    Ok((graph, report))
}

/// Whether all output that the checkpoint has prepared can still be committed.
fn check_output(graph: &JobGraph, from: Option<&Completed>, run: &str) -> Result<(), Error> {
    let Some(checkpoint) = from else {
        return Ok(());
    };
    orphans::check_places(graph, checkpoint)?;
    for (id, sink) in sinks(graph) {
        let parts = runtime::restore::parts(checkpoint, id).unwrap_or_default();
        sink.check_restored(run, &parts).map_err(|source| {
            let checkpoint = checkpoint.metadata().id;
            let doing = format!("looking for the output of checkpoint {checkpoint} in sink `{id}`");
            Error::refused(anyhow!(source).context(doing))
        })?;
    }
    Ok(())
}

/// What the checkpoint has prepared for sinks that the job no longer has, with words for it in `report`.
fn orphaned(
    graph: &JobGraph,
    from: Option<&Completed>,
    report: Option<&mut Report>,
    run: &str,
    audience: Audience,
) -> Result<Owed, Error> {
    let (Some(from), Some(report)) = (from, report) else {
        return Ok(Owed::default());
    };
    orphans::find(graph, from, report, run, audience)
}

/// A job with a directory of its own.
struct Owning<'a> {
    prepared: &'a Prepared,
    arguments: &'a RestoreArguments,
    audience: Audience,
    dir: String,
    job_id: String,
}

/// What is put on record.
struct Decided {
    from: Option<Completed>,
    start: Start,
    /// The token of the run that begins or goes on.
    token: String,
    /// Whether a run goes on.
    goes_on: bool,
    /// Whether the run that is on record, or one before runs were, has checkpoints in the directory.
    has_checkpoints: bool,
    rewind: Option<Rewind>,
}

impl Owning<'_> {
    fn job(&self) -> &JobFile {
        &self.prepared.job
    }

    fn begin(&self, owned: Option<Owned>, clock: &Arc<dyn Clock>) -> Result<Option<Begun>, Error> {
        // What was named is looked at first: a wrong path is refused before anybody is waited for.
        let spec = restore::spec(self.arguments).filter(|spec| !restore::is_latest(spec));
        if let Some(spec) = spec {
            restore::named_exists(spec, self.arguments, &self.dir, &self.job_id)?;
        }
        let (lease, keeper) = match owned {
            Some(owned) => owned,
            None => {
                let lease = self.take_lease(clock)?;
                let keeper = Keeper::start(Arc::clone(&lease)).map_err(Error::refused)?;
                (lease, keeper)
            }
        };
        if lease.run().is_some_and(|run| run.rewind.is_some()) {
            self.audience
                .say("finishing the rewind that an earlier start began");
            let graph = self.prepared.graph(None)?;
            let store = self.store(&lease)?;
            let base = self.base_of_rewind(&lease);
            self.finish_rewind(&lease, &store, &graph, base.as_ref())?;
        }
        let Some(mut decided) = self.decide(&lease, spec)? else {
            return Ok(None);
        };
        let (graph, mut report) = fitted(self.prepared, &mut decided.from, self.arguments)?;
        check_output(&graph, decided.from.as_ref(), &decided.token)?;
        let owed = orphaned(
            &graph,
            decided.from.as_ref(),
            report.as_mut(),
            &decided.token,
            self.audience,
        )?;
        let decided = self.settle_rewind(decided, &lease, &graph)?;
        let run = self.record(&lease, &decided)?;
        // A crash before this leaves the output where it is: the next start finds it again.
        owed.publish(&run)?;
        let store = self.store(&lease)?;
        if decided.rewind.is_some() {
            let base = Base(decided.from.clone());
            self.finish_rewind(&lease, &store, &graph, Some(&base))?;
        }
        let claimed = self.claim(&store, &decided)?;
        Ok(Some(Begun {
            store,
            keeper: Some(keeper),
            job_id: self.job_id.clone(),
            run,
            is_new: !decided.goes_on,
            from: decided.from,
            graph,
            report,
            claimed,
        }))
    }

    /// Takes the lease of the job's directory. An owner that seems to be alive, but is not seen to be, may
    /// have been killed a moment ago (a service that is restarted, with its checkpoints in a bucket): it
    /// is waited for until its lease is stale, once. If it has renewed it by then, it lives.
    fn take_lease(&self, clock: &Arc<dyn Clock>) -> Result<Arc<Lease>, Error> {
        let audience = self.audience;
        let take = || {
            let mut watch = |held: &Held| audience.say(&watching(held));
            let timeout = self.job().checkpoint.lease_timeout;
            let terms = settings::terms(timeout, Arc::clone(clock));
            let section = &self.job().checkpoint;
            let (patience, permissions) = (section.timeout, section.permissions);
            CheckpointStore::take_lease(
                &self.dir,
                &self.job_id,
                patience,
                permissions,
                terms,
                &mut watch,
            )
        };
        match take() {
            Err(checkpoint::Error::Held(held)) if !held.lives && held.holder.is_some() => {
                let age = u64::try_from(held.renewed_ms_ago).unwrap_or(0);
                let left = held.timeout_ms.saturating_sub(age).saturating_add(1);
                audience.say(&waiting(&held, left));
                LeaseTime(Arc::clone(clock)).wait_ms(left);
                take().map_err(not_opened)
            }
            taken => taken.map_err(not_opened),
        }
    }

    fn store(&self, lease: &Arc<Lease>) -> Result<CheckpointStore, Error> {
        let options = settings::store_options(&self.job().checkpoint);
        CheckpointStore::with_lease(Arc::clone(lease), options).map_err(not_opened)
    }

    /// Compares what was asked for with what is there. `None`: the job has finished.
    fn decide(&self, lease: &Lease, spec: Option<&str>) -> Result<Option<Decided>, Error> {
        let history = History::of(lease).map_err(not_opened)?;
        let arguments = self.arguments;
        // Again, because the owner of the directory until now may have changed what is there.
        let named = spec
            .map(|spec| restore::named(spec, arguments, Some(&self.dir), &self.job_id))
            .transpose()?;
        let asked = match (&named, restore::spec(arguments)) {
            (Some(named), _) => Asked::From(named),
            (None, Some(_latest)) => Asked::Newest { or_fresh: false },
            (None, None) if arguments.resume => Asked::Newest { or_fresh: true },
            (None, None) => Asked::Fresh,
        };
        let newest = || match arguments.fallback {
            true => history.newest_good().map(restore::fallen_back),
            false => history.newest(),
        };
        let counts = |checkpoint: &Completed| lease.counts(checkpoint.metadata());
        let plan = decide(&asked, arguments.fresh, &history, &counts, &newest);
        let plan = plan.map_err(|error| restore::not_usable(error, "resuming", arguments))?;
        let plan = plan.map_err(|refusal| self.refused(&refusal))?;
        let elsewhere = |checkpoint: &Completed| Start::Elsewhere {
            path: checkpoint.path().unwrap_or_default(),
            id: checkpoint.metadata().id,
            claim: arguments.claim_mode == Some(ClaimMode::Claim),
        };
        let placed = |source: Source| -> Result<(Option<Completed>, Start), Error> {
            Ok(match source {
                Source::Own(checkpoint) => {
                    self.refuse_no_claim(&checkpoint)?;
                    let id = checkpoint.metadata().id;
                    (Some(checkpoint), Start::Own { id })
                }
                Source::Elsewhere(checkpoint) => {
                    let start = elsewhere(&checkpoint);
                    (Some(checkpoint), start)
                }
                Source::Start(start) => (self.started_from(&start)?, start),
            })
        };
        // Of the run that goes on; in a directory whose lease was lost, or that a version before runs
        // wrote, the checkpoint knows it.
        let known = |from: Option<&Completed>| {
            let on_record = lease.run().map(|run| run.token);
            on_record
                .or_else(|| from?.metadata().run.clone())
                .unwrap_or_else(settings::new_token)
        };
        Ok(match plan {
            StartDecision::Finished => {
                self.audience.say(&format!(
                    "job `{}` has finished already, there is nothing to resume (without `--resume` or `-s` it runs again)",
                    self.job().job.name
                ));
                None
            }
            StartDecision::Begin { from } => {
                if from.is_none() && arguments.resume {
                    self.say_fresh();
                }
                let start = from.as_ref().map_or(Start::Fresh, elsewhere);
                Some(Decided {
                    from,
                    start,
                    token: settings::new_token(),
                    goes_on: false,
                    has_checkpoints: !history.is_empty(),
                    rewind: None,
                })
            }
            StartDecision::Continue(source) => {
                let (from, start) = placed(source)?;
                if from.is_none() {
                    self.say_fresh();
                }
                Some(Decided {
                    token: known(from.as_ref()),
                    from,
                    start,
                    goes_on: true,
                    has_checkpoints: !history.is_empty(),
                    rewind: None,
                })
            }
            StartDecision::Rewind {
                to,
                published_through,
            } => {
                let (from, start) = placed(to)?;
                self.say_rewind(&history, start.id(), published_through);
                Some(Decided {
                    rewind: Some(self.rewind_to(&start, lease)),
                    token: known(from.as_ref()),
                    from,
                    start,
                    goes_on: true,
                    has_checkpoints: !history.is_empty(),
                })
            }
        })
    }

    fn say_fresh(&self) {
        self.audience.say(&format!(
            "no checkpoint of job `{}` yet, starting fresh",
            self.job().job.name
        ));
    }

    fn say_rewind(&self, history: &History, to: u64, published_through: u64) {
        let newer = history.newer_than(to);
        let standing = match newer {
            0 => String::new(),
            newer => format!(
                "; to go back to it deletes {}",
                counted(newer as u64, "newer one")
            ),
        };
        self.audience.say(&match to {
            0 => format!("checkpoint {published_through} was completed, but no longer exists{standing}"),
            to => format!(
                "checkpoint {to} is not the newest: checkpoint {published_through} was completed{standing}"
            ),
        });
    }

    /// What the run started from, when it has no checkpoint of its own yet.
    fn started_from(&self, start: &Start) -> Result<Option<Completed>, Error> {
        match start {
            Start::Fresh => Ok(None),
            Start::Elsewhere { path, .. } => {
                restore::named(path, self.arguments, Some(&self.dir), &self.job_id).map(Some)
            }
            Start::Own { id } => Err(Error::refused(anyhow!(
                "the run continued from checkpoint {id} in its directory, which no longer exists"
            ))
            .hint("put it back, or start from another checkpoint with `-s PATH --fresh`")),
        }
    }

    fn refuse_no_claim(&self, checkpoint: &Completed) -> Result<(), Error> {
        if self.arguments.claim_mode != Some(ClaimMode::NoClaim) {
            return Ok(());
        }
        let id = checkpoint.metadata().id;
        Err(Error::refused(anyhow!(
            "checkpoint {id} is in the job's own directory, where the job goes on and owns what is there: `--claim-mode no-claim` is not possible"
        ))
        .hint("leave `--claim-mode` out, or give this run a `job.id` of its own"))
    }

    fn refused(&self, refusal: &Refusal) -> Error {
        let dir = format!("{}/{}", self.dir.trim_end_matches('/'), self.job_id);
        let error = Error::refused(anyhow!("{refusal} (in {dir})"));
        match refusal {
            Refusal::Unfinished { from_elsewhere, .. } => {
                let fresh = match from_elsewhere {
                    true => "add `--fresh` to give up the run and start from the named checkpoint",
                    false => "`--fresh` starts with nothing, and gives up the earlier run with its checkpoints: output is written again",
                };
                error
                    .hint("`--resume` goes on from its newest checkpoint")
                    .hint(fresh)
            }
            Refusal::Over { .. } => error.hint(
                "`host run --fresh` starts again with nothing: the output that was published is written once more",
            ),
            Refusal::Nothing => {
                // Says what else there is.
                let named = checkpoint::locate(LATEST, Some(&self.dir), &self.job_id);
                let error = match named {
                    Err(nothing) => Error::checkpoint(nothing, "resuming from latest"),
                    Ok(_) => error,
                };
                error.hint("run the job without `-s`, or with `--resume`, to start with nothing")
            }
            Refusal::FreshFromOwn { .. } => error.hint(
                "leave `--fresh` out; `--rewind repeat` or `--rewind withdraw` says what happens to output that was published after it",
            ),
            Refusal::GivenUp { .. } => {
                error.hint("`--resume` goes on from the newest checkpoint that counts")
            }
        }
    }

    /// A rewind whose mode is to be settled when the sinks are known.
    fn rewind_to(&self, start: &Start, lease: &Lease) -> Rewind {
        Rewind {
            to: start.id(),
            through: lease.highest(),
            mode: RewindMode::Repeat,
            owed: Vec::new(),
        }
    }

    /// Decides what happens to output that was published after the checkpoint that the run goes back
    /// to, or refuses. Also where it seems to go on from the newest: that a newer one was completed may
    /// show in nothing but what was published for it.
    fn settle_rewind(
        &self,
        mut decided: Decided,
        lease: &Lease,
        graph: &JobGraph,
    ) -> Result<Decided, Error> {
        if decided.rewind.is_none() && decided.goes_on {
            let rewind = self.rewind_to(&decided.start, lease);
            let origin = self.origin(&decided.token, rewind.through, lease);
            for (id, sink) in sinks(graph).filter(|(_, sink)| sink.can_withdraw()) {
                if stake(id, &**sink, &origin, rewind.to)?.is_some() {
                    decided.rewind = Some(rewind);
                    break;
                }
            }
        }
        let Some(rewind) = &mut decided.rewind else {
            if self.arguments.rewind.is_some() {
                self.audience
                    .say("there is nothing to rewind: no checkpoint is newer");
            }
            return Ok(decided);
        };
        if let Some(checkpoint) = &decided.from {
            // What is newer is given up for it, so it has to be good to its last byte.
            if let Some(problem) = verify(checkpoint).problems.into_iter().next() {
                let exit = match problem.is_corrupt {
                    true => Exit::Corrupt,
                    false => Exit::Refused,
                };
                let error = anyhow!("{} cannot be used: {}", problem.object, problem.what);
                return Err(Error::with(exit, error));
            }
        }
        let after = rewind.to;
        let origin = self.origin(&decided.token, rewind.through, lease);
        let mut at_stake = Vec::new();
        for (id, sink) in sinks(graph) {
            match sink.delivery() {
                Delivery::Nothing => {}
                Delivery::AtLeastOnce => self.audience.say(&format!(
                    "sink `{id}` writes again what it wrote after checkpoint {after}"
                )),
                Delivery::ExactlyOnce => {
                    if let Some(stake) = stake(id, &**sink, &origin, after)? {
                        at_stake.push((id, sink, stake));
                    }
                }
            }
        }
        if at_stake.is_empty() {
            // So it stays: a paused host may be about to publish what it had completed, and sinks do not
            // withdraw anything while one holds their output.
            rewind.mode = RewindMode::Withdraw;
            rewind.owed = owed(graph);
            return Ok(decided);
        }
        let Some(mode) = self.arguments.rewind.map(RewindMode::from) else {
            let stakes: Vec<String> = at_stake.into_iter().map(|(_, _, stake)| stake).collect();
            let since = match after {
                0 => "since the run began".to_owned(),
                after => format!("after checkpoint {after}"),
            };
            let error = anyhow!(
                "output was published {since}, and would be written again: {}",
                stakes.join(", ")
            );
            let error = Error::refused(error)
                .hint("`--rewind withdraw` removes that output first, and deletes the newer checkpoints")
                .hint("`--rewind repeat` leaves it, writes it again, and deletes the newer checkpoints");
            return Err(match restore::spec(self.arguments) {
                Some(spec) if !restore::is_latest(spec) => {
                    error.hint("`--resume` goes on from the newest checkpoint instead")
                }
                _ => error,
            });
        };
        rewind.mode = mode;
        if mode == RewindMode::Withdraw
            && let Some((id, _, _)) = at_stake.iter().find(|(_, sink, _)| !sink.can_withdraw())
        {
            return Err(Error::refused(anyhow!(
                "sink `{id}` cannot withdraw what it has published"
            ))
            .hint("`--rewind repeat` leaves it, and writes it again"));
        }
        if mode == RewindMode::Withdraw {
            rewind.owed = owed(graph);
        }
        Ok(decided)
    }

    fn origin(&self, run: &str, through: u64, lease: &Lease) -> Origin {
        Origin {
            job: JobIdentity {
                id: self.job_id.clone(),
                directory: lease.directory().to_owned(),
            },
            run: run.to_owned(),
            through,
            generation: lease.generation(),
        }
    }

    /// Puts on record what the run starts from. Returns the run's token.
    fn record(&self, lease: &Lease, decided: &Decided) -> Result<String, Error> {
        let highest = lease.highest();
        let before = lease.run();
        let mut run = match before {
            Some(run) if decided.goes_on => run,
            None if decided.goes_on => Run::fresh(decided.token.clone(), 0),
            before => {
                let mut run = Run::fresh(decided.token.clone(), highest);
                if let Some(mut before) = before {
                    // What a run kept that finished stays; what did not finish is given up.
                    if !before.has_finished() && decided.has_checkpoints {
                        before.discard_through(highest);
                    }
                    run.discarded = before.discarded;
                } else if decided.has_checkpoints {
                    let mut unknown = Run::fresh(String::new(), 0);
                    unknown.discard_through(highest);
                    run.discarded = unknown.discarded;
                }
                run
            }
        };
        run.start = decided.start.clone();
        run.ended = None;
        if let Some(rewind) = &decided.rewind {
            run.discard_for(rewind);
        }
        run.rewind.clone_from(&decided.rewind);
        run.completed = match &decided.rewind {
            Some(rewind) => rewind.to,
            None if decided.goes_on => run.completed.max(run.start.id()),
            None => 0,
        };
        let token = run.token.clone();
        let put = |slot: &mut Option<Run>| *slot = Some(run);
        let recorded = match &decided.rewind {
            Some(rewind) => lease.record_rewind(put, rewind.to),
            None => lease.record(put),
        };
        recorded.map_err(|error| Error::checkpoint(error, "recording what the run starts from"))?;
        Ok(token)
    }

    /// Does what is left of a rewind: withdraws output if that was asked for, and removes the
    /// checkpoints that were given up. Every step may be done again. `base` is what the run goes back to,
    /// `None` if it cannot be read.
    fn finish_rewind(
        &self,
        lease: &Lease,
        store: &CheckpointStore,
        graph: &JobGraph,
        base: Option<&Base>,
    ) -> Result<(), Error> {
        let Some(run) = lease.run() else {
            return Ok(());
        };
        let Some(rewind) = run.rewind else {
            return Ok(());
        };
        if rewind.mode == RewindMode::Withdraw {
            let places = owed(graph);
            if let Some(place) = rewind.owed.iter().find(|it| !places.contains(it)) {
                let error = anyhow!(
                    "a rewind to checkpoint {} has begun, but output in {place} is not withdrawn yet, and no sink of \
                     the job writes there now",
                    rewind.to
                );
                return Err(Error::refused(error)
                    .hint("set the sink's `path` to its earlier value for this start"));
            }
            let origin = self.origin(&run.token, rewind.through, lease);
            for (id, sink) in sinks(graph).filter(|(_, sink)| sink.can_withdraw()) {
                // Who was stopped for long may have lost the directory to one that has published since.
                lease.confirm().map_err(not_opened)?;
                let kept = base.map(|base| base.parts(id));
                let withdrawn = sink.withdraw(&origin, rewind.to, kept.as_deref());
                let withdrawn = withdrawn.map_err(|source| {
                    Error::refused(anyhow!(source).context(format!(
                        "withdrawing what sink `{id}` published after checkpoint {}",
                        rewind.to
                    )))
                    .hint("the rewind has begun: the next start finishes it")
                })?;
                if withdrawn.files > 0 {
                    self.audience.say(&format!(
                        "sink `{id}` withdrew {} of checkpoints after {}",
                        counted(withdrawn.files, "published file"),
                        rewind.to
                    ));
                }
                for missing in withdrawn.missing {
                    tracing::warn!(
                        "sink `{id}` published {missing}, which no longer exists and cannot be withdrawn"
                    );
                }
            }
        }
        let done = store.remove_remains().and_then(|()| {
            lease.record(|run| {
                if let Some(run) = run {
                    run.rewind = None;
                }
            })
        });
        done.map_err(|error| {
            Error::checkpoint(
                error,
                "removing the checkpoints after the one that was chosen",
            )
            .hint("the rewind has begun: the next start finishes it")
        })
    }

    /// What a rewind goes back to that an earlier process began. `None` if it cannot be read: then the
    /// start that follows says why, and what it has prepared must not be removed.
    fn base_of_rewind(&self, lease: &Lease) -> Option<Base> {
        let start = lease.run()?.start;
        let from = match start {
            Start::Own { id } => History::of(lease).ok()?.checkpoint(id).ok().map(Some),
            start => self.started_from(&start).ok(),
        };
        let changes = restore::changes(&self.arguments.upgrade);
        from.map(|from| Base(from.map(|from| from.changed(changes))))
    }

    /// Takes over what the run starts from, and what earlier processes left. Returns whether that is a
    /// checkpoint of another owner.
    fn claim(&self, store: &CheckpointStore, decided: &Decided) -> Result<bool, Error> {
        let extent = match &decided.start {
            Start::Own { .. } => Some(Extent::JobDirectory),
            Start::Elsewhere { claim: true, .. } => Some(Extent::Checkpoint),
            Start::Elsewhere { claim: false, .. } | Start::Fresh => None,
        };
        if let (Some(checkpoint), Some(extent)) = (&decided.from, extent) {
            store
                .claim(checkpoint, extent)
                .map_err(|error| not_owned(error, "claiming the checkpoint"))?;
        }
        store.take_over();
        Ok(extent == Some(Extent::Checkpoint))
    }
}

/// What a rewind goes back to; `None` inside is the beginning.
struct Base(Option<Completed>);

impl Base {
    /// What it has prepared for a sink.
    fn parts(&self, sink: &str) -> Vec<Part> {
        let parts = self
            .0
            .as_ref()
            .and_then(|from| runtime::restore::parts(from, sink));
        parts.unwrap_or_default()
    }
}

/// The sinks of a job with their ids.
fn sinks(graph: &JobGraph) -> impl Iterator<Item = (&str, &Arc<dyn SinkFactory>)> {
    graph.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Sink(factory) => Some((node.id.as_str(), factory)),
        _ => None,
    })
}

/// Where output would be withdrawn.
fn owed(graph: &JobGraph) -> Vec<String> {
    let withdrawing = sinks(graph).filter(|(_, sink)| sink.can_withdraw());
    withdrawing.filter_map(|(_, sink)| sink.place()).collect()
}

/// What a sink has published that would be repeated, in words; `None` if nothing.
fn stake(
    id: &str,
    sink: &dyn SinkFactory,
    origin: &Origin,
    after: u64,
) -> Result<Option<String>, Error> {
    if !sink.can_withdraw() {
        return Ok(Some(format!("what sink `{id}` has published")));
    }
    let published = sink.published_after(origin, after).map_err(|source| {
        Error::refused(
            anyhow!(source).context(format!("looking at what sink `{id}` has published")),
        )
    })?;
    if published.files == 0 {
        return Ok(None);
    }
    let more = if published.more_records {
        "more than "
    } else {
        ""
    };
    Ok(Some(format!(
        "{} with {more}{} of sink `{id}`",
        counted(published.files, "file"),
        counted(published.records, "record")
    )))
}
