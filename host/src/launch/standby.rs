//! A standby: a process that has a job ready, waits until nobody owns the job's directory, and takes it over.
//!
//! Invariants:
//! 1. As long as it waits it changes nothing in the storage and owns nothing, so it can end at any moment.
//! 2. Only an end that came while it waited ends the standby. What was on record before is judged as by
//!    `--resume`, once the directory is its own.
//! 3. A storage that does not answer says nothing about the owner: it is waited for.

mod read_ahead;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::anyhow;
use checkpoint::history::History;
use checkpoint::lease::{self, Held, Lease, Run, Sight, Vacancy, Watch};
use checkpoint::{CheckpointStore, is_remote};
use job_file::checkpoint::Storage;
use operator::clock::Clock;
use operator::text::{line, name};
use runtime::Keeper;

use self::read_ahead::ReadAhead;
use super::{not_opened, restore, settings};
use crate::assemble::Prepared;
use crate::cli::RestoreArguments;
use crate::events::{Audience, Because, Event, StoodDown};
use crate::exit::{Error, Exit, causes};

/// Over a network a look takes no longer than half of this, or of the lease's timeout if that is longer.
const PATIENCE: Duration = Duration::from_secs(4);

/// How a standby is to wait.
pub(crate) struct StandbyOptions<'a> {
    /// Where the job starts if it has never run.
    pub(crate) restore: &'a RestoreArguments,
    /// The time.
    pub(crate) clock: &'a Arc<dyn Clock>,
    /// Who is told.
    pub(crate) audience: Audience,
    /// Called before anything is changed: from then on the process does not simply end.
    pub(crate) before_taking: &'a dyn Fn(),
    /// Called when nothing was taken after all.
    pub(crate) after_losing: &'a dyn Fn(),
}

/// How waiting ended.
pub(crate) enum Waited {
    /// The job is over: there is nothing to wait for.
    Over,
    /// The directory is this process's.
    Taken(Box<Taken>),
}

/// A job directory that was taken, and is kept.
pub(crate) struct Taken {
    /// Its lease.
    pub(crate) lease: Arc<Lease>,
    /// Renews it.
    pub(crate) keeper: Keeper,
    /// From where the job starts.
    pub(crate) restore: RestoreArguments,
}

/// Waits until nobody owns the directory of the job, and takes it.
///
/// # Errors
/// What was asked for is not possible, or the owner's job failed while it was waited for.
pub(crate) fn wait(prepared: &Prepared, options: &StandbyOptions<'_>) -> Result<Waited, Error> {
    restore::check_options(options.restore, &prepared.job)?;
    let Storage::Filesystem(dir) = &prepared.job.checkpoint.storage else {
        unreachable!("refused: a standby needs a directory");
    };
    Standby {
        prepared,
        options,
        dir: dir.to_string(),
        job_id: settings::job_id(&prepared.job),
    }
    .wait()
}

struct Standby<'a> {
    prepared: &'a Prepared,
    options: &'a StandbyOptions<'a>,
    dir: String,
    job_id: String,
}

/// What was on record when waiting began.
type Before = Option<(String, Option<lease::Ended>)>;

impl Standby<'_> {
    fn wait(&self) -> Result<Waited, Error> {
        let clock = self.options.clock;
        let begun = clock.now_ms();
        let mut watch = self.watch()?;
        // What cannot be looked at now is taken for a mistake, and refused.
        let mut sight = watch.look().map_err(not_opened)?;
        let before = record(watch.run());
        if before.is_none()
            && let Some(spec) = restore::spec(self.options.restore)
        {
            restore::named_exists(spec, self.options.restore, &self.dir, &self.job_id)?;
        }
        let mut ahead = None;
        let mut awaited: Option<Held> = None;
        let mut quiet = false;
        loop {
            match sight {
                Sight::Held(held) => {
                    if is_another(awaited.as_ref(), &held) {
                        self.tell_waiting(&held, awaited.is_none());
                    }
                    awaited = Some(*held);
                    let ahead = ahead.get_or_insert_with(|| self.read_ahead(&watch));
                    if let (Some(ahead), Some(run)) = (ahead, watch.run()) {
                        ahead.newest(run.completed);
                    }
                }
                Sight::Vacant(vacancy) => {
                    if awaited.is_some()
                        && let Some(ended) = ended_meanwhile(&before, watch.run())
                        && let Some(over) = self.over(ended, watch.last().as_ref())
                    {
                        return over;
                    }
                    match self.take(&mut watch) {
                        Ok(Some(lease)) => {
                            drop(ahead);
                            if awaited.is_some() {
                                let because = because(vacancy, &before, watch.run());
                                let waited = clock.now_ms().abs_diff(begun);
                                self.tell_taken(because, waited, &lease);
                            }
                            return self.taken(lease).map(|it| Waited::Taken(Box::new(it)));
                        }
                        Ok(None) => (self.options.after_losing)(),
                        Err(error @ checkpoint::Error::Storage { .. }) if awaited.is_some() => {
                            (self.options.after_losing)();
                            self.warn_once(&mut quiet, &error);
                        }
                        Err(error) => return Err(not_opened(error)),
                    }
                }
            }
            sight = loop {
                watch.wait();
                match watch.look() {
                    Ok(sight) => {
                        if std::mem::take(&mut quiet) {
                            self.options
                                .audience
                                .say("the checkpoint storage answers again");
                        }
                        break sight;
                    }
                    Err(error @ checkpoint::Error::Storage { .. }) => {
                        self.warn_once(&mut quiet, &error);
                    }
                    Err(error) => return Err(not_opened(error)),
                }
            };
        }
    }

    fn watch(&self) -> Result<Watch, Error> {
        let timeout = self.prepared.job.checkpoint.lease_timeout;
        let terms = settings::terms(timeout, Arc::clone(self.options.clock));
        let patience = timeout.max(PATIENCE);
        Watch::open(&self.dir, &self.job_id, patience, terms).map_err(not_opened)
    }

    /// Takes the lease in the state in which it was seen. `None`: another was faster.
    fn take(&self, watch: &mut Watch) -> checkpoint::Result<Option<Lease>> {
        (self.options.before_taking)();
        let section = &self.prepared.job.checkpoint;
        let storage = CheckpointStore::storage(&self.dir, section.timeout, section.permissions)?;
        watch.take(storage)
    }

    fn taken(&self, lease: Lease) -> Result<Taken, Error> {
        let lease = Arc::new(lease);
        let keeper = Keeper::start(Arc::clone(&lease)).map_err(Error::refused)?;
        let mut restore = self.options.restore.clone();
        let has_run = lease.run().is_some() || !History::of(&lease).map_err(not_opened)?.is_empty();
        if has_run || restore.from.is_none() {
            (restore.from, restore.resume) = (None, true);
        }
        Ok(Taken {
            lease,
            keeper,
            restore,
        })
    }

    /// What follows from an end of the job. `None`: it is to go on.
    fn over(&self, ended: lease::Ended, last: Option<&Held>) -> Option<Result<Waited, Error>> {
        let job = name(&self.prepared.job.job.name);
        let by = last.and_then(|last| last.holder.as_ref()).map_or_else(
            || "by its owner".to_owned(),
            |holder| format!("by process {} on {}", holder.process, line(&holder.host)),
        );
        let stood_down = |why, exit| {
            let event = Event::StoodDown {
                why,
                exit_code: exit as u8,
            };
            self.options.audience.tell(&event);
        };
        let done = |word, why| {
            self.say(&format!(
                "job `{job}` was {word} {by}: there is nothing to take over"
            ));
            stood_down(why, Exit::Finished);
            Ok(Waited::Over)
        };
        match ended.how {
            lease::Ending::Suspended => None,
            lease::Ending::Finished => Some(done("finished", StoodDown::Finished)),
            lease::Ending::Cancelled => Some(done("cancelled", StoodDown::Cancelled)),
            // Somebody wanted it to rest: it is there to be resumed.
            lease::Ending::Stopped => Some(done("stopped", StoodDown::Stopped)),
            lease::Ending::Failed => {
                stood_down(StoodDown::Failed, Exit::Failed);
                let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(ended.at).unwrap_or(0));
                let at = humantime::format_rfc3339_seconds(at);
                let error = anyhow!(
                    "job `{job}`, run {by}, failed at {at} and is not restarted: this standby does not take it over"
                );
                let error = Error::failed(error).hint(
                    "the owner's log says why; `host run --resume` goes on once that is mended",
                );
                Some(Err(error))
            }
        }
    }

    fn read_ahead(&self, watch: &Watch) -> Option<ReadAhead> {
        let reader = watch.reader()?;
        // What is read over a network is kept by nobody.
        ReadAhead::start(Box::new(reader), !is_remote(&self.dir))
    }

    fn tell_waiting(&self, held: &Held, first: bool) {
        let Held {
            location,
            holder,
            generation,
            timeout_ms,
            ..
        } = held;
        let shared = match first {
            true => {
                "; the checkpoint directory, the inputs and the outputs of the job must be shared by all processes that may run it"
            }
            false => "",
        };
        self.say(&format!(
            "standing by for job `{}`: {}{shared}",
            name(&self.prepared.job.job.name),
            line(&held.to_string())
        ));
        self.options.audience.tell(&Event::Waiting {
            directory: location.clone(),
            host: holder.as_ref().map(|holder| holder.host.clone()),
            process: holder.as_ref().map(|holder| holder.process),
            generation: *generation,
            lease_timeout_ms: *timeout_ms,
        });
    }

    fn tell_taken(&self, because: Because, waited_ms: u64, lease: &Lease) {
        self.options.audience.tell(&Event::TookOver {
            because,
            waited_ms,
            generation: lease.generation(),
        });
    }

    /// A trouble is reported once, until it is over.
    fn warn_once(&self, quiet: &mut bool, error: &checkpoint::Error) {
        if !std::mem::replace(quiet, true) {
            tracing::warn!(
                "the checkpoint storage does not answer, and the standby goes on waiting: {}",
                causes(error)
            );
        }
    }

    fn say(&self, text: &str) {
        self.options.audience.say(text);
    }
}

fn record(run: Option<&Run>) -> Before {
    run.map(|run| (run.token.clone(), run.ended))
}

/// How the job ended, if that was not on record before.
fn ended_meanwhile(before: &Before, run: Option<&Run>) -> Option<lease::Ended> {
    let ended = run?.ended?;
    (record(run) != *before).then_some(ended)
}

/// Whether another process has the lease than the one that was awaited.
fn is_another(awaited: Option<&Held>, held: &Held) -> bool {
    awaited.is_none_or(|awaited| {
        (awaited.generation, &awaited.holder) != (held.generation, &held.holder)
    })
}

/// Why the owner's place is free.
fn because(vacancy: Vacancy, before: &Before, run: Option<&Run>) -> Because {
    match vacancy {
        Vacancy::Gone => Because::Gone,
        Vacancy::Silent => Because::Silent,
        Vacancy::Released if ended_meanwhile(before, run).is_some() => Because::Suspended,
        Vacancy::Released | Vacancy::Free => Because::Released,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c85_only_an_end_that_came_while_it_waited_ends_a_standby() {
        let run = |token: &str, ended: Option<(lease::Ending, i64)>| Run {
            ended: ended.map(|(how, at)| lease::Ended { how, at }),
            ..Run::fresh(token.to_owned(), 0)
        };
        let failed = Some((lease::Ending::Failed, 1));
        let again = Some((lease::Ending::Failed, 2));
        let finished = Some((lease::Ending::Finished, 2));
        for (before, now, counts) in [
            (None, None, false),
            (None, Some(run("a", None)), false),
            (None, Some(run("a", failed)), true),
            // Yesterday's, while today's owner has not begun, or was refused.
            (Some(run("a", failed)), Some(run("a", failed)), false),
            (Some(run("a", failed)), Some(run("a", None)), false),
            (Some(run("a", failed)), Some(run("a", again)), true),
            (Some(run("a", finished)), Some(run("b", finished)), true),
            (Some(run("a", None)), Some(run("a", finished)), true),
        ] {
            let found = ended_meanwhile(&record(before.as_ref()), now.as_ref());
            assert_eq!(found.is_some(), counts, "{before:?}, {now:?}");
        }
    }
}
