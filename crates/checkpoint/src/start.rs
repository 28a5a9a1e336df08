//! Where a job starts: what was asked for, compared with what its directory holds.
//!
//! Pure: facts in, a plan or a refusal out. Nothing is changed here. The rule of all of it: output
//! that was published is neither repeated nor lost unless somebody said so.

use std::fmt;

use crate::Completed;
use crate::history::History;
use crate::lease::{Ending, Run, Start};

/// What the user asked for.
#[derive(Debug)]
pub enum Asked<'a> {
    /// To start with nothing.
    Fresh,
    /// To go on from the newest checkpoint.
    Newest {
        /// Start with nothing if the job has never run.
        or_fresh: bool,
    },
    /// To start from this checkpoint.
    From(&'a Completed),
}

/// Where the job starts.
#[derive(Debug)]
pub enum StartDecision {
    /// Nowhere: it has finished.
    Finished,
    /// A new run begins, with nothing or from a checkpoint of another run.
    Begin {
        /// The checkpoint.
        from: Option<Completed>,
    },
    /// The run of the directory goes on.
    Continue(Source),
    /// The run goes back to a checkpoint after which output was published.
    Rewind {
        /// To this one.
        to: Source,
        /// Output may have been published up to this checkpoint.
        published_through: u64,
    },
}

/// From where a run goes on.
#[derive(Debug)]
pub enum Source {
    /// From the newest checkpoint of the job's own directory, or from an older one.
    Own(Completed),
    /// From this checkpoint elsewhere.
    Elsewhere(Completed),
    /// From where it started, and no checkpoint of its own was completed since.
    Start(Start),
}

/// Why a job does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An unfinished run left checkpoints, or started from one.
    Unfinished {
        /// How it ended, if that is on record.
        how: Option<Ending>,
        /// Its newest checkpoint, or the one that it started from.
        newest: String,
        /// Whether a checkpoint of another run was asked for.
        from_elsewhere: bool,
    },
    /// The run ended, its checkpoints were deleted, and output was published.
    Over {
        /// How it ended.
        how: Ending,
    },
    /// There is nothing to go on from.
    Nothing,
    /// `--fresh` with a checkpoint of the run itself.
    FreshFromOwn {
        /// The checkpoint's number.
        id: u64,
    },
    /// The checkpoint was given up.
    GivenUp {
        /// The checkpoint's number.
        id: u64,
        /// Why.
        why: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished {
                how,
                newest,
                from_elsewhere,
            } => {
                let how = match how {
                    None => "did not finish",
                    Some(how) => how.word(),
                };
                write!(
                    f,
                    "an earlier run of the job {how}; its newest checkpoint is {newest}"
                )?;
                match from_elsewhere {
                    true => f.write_str(
                        "; the checkpoint that was named is another job's, and to start from it gives that run up",
                    ),
                    false => Ok(()),
                }
            }
            Self::Over { how } => write!(
                f,
                "the run of the job {}, its checkpoints were deleted as `checkpoint.retention` says, and it had published output",
                how.word()
            ),
            Self::Nothing => f.write_str("the job has no checkpoint"),
            Self::FreshFromOwn { id } => write!(
                f,
                "checkpoint {id} is one of this run of the job, which --fresh would give up"
            ),
            Self::GivenUp { id, why } => {
                write!(f, "checkpoint {id} does not count any more: {why}")
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// Decides where a job starts. `newest` gives the newest usable checkpoint of the directory, or the
/// newest good one where the user lets it fall back; `standing` says why a checkpoint of this run does
/// not count, if it does not.
///
/// # Errors
/// What is refused, or `newest`'s error.
pub fn decide(
    asked: &Asked<'_>,
    forced_fresh: bool,
    history: &History,
    standing: &dyn Fn(&Completed) -> Result<(), String>,
    newest: &dyn Fn() -> crate::Result<Completed>,
) -> crate::Result<Result<StartDecision, Refusal>> {
    match asked {
        Asked::Fresh => Ok(match unfinished(history, false) {
            Some(refusal) if !forced_fresh => Err(refusal),
            _ => Ok(StartDecision::Begin { from: None }),
        }),
        Asked::Newest { or_fresh } => go_on(*or_fresh, history, newest),
        Asked::From(checkpoint) => Ok(from(checkpoint, forced_fresh, history, standing)),
    }
}

/// Why a fresh start would lose something. With a checkpoint from elsewhere, only checkpoints of its own
/// are lost: what a run started from that has none is replaced by what was named.
fn unfinished(history: &History, from_elsewhere: bool) -> Option<Refusal> {
    let run = history.run.as_ref();
    if run.is_some_and(Run::has_finished) {
        return None;
    }
    let goes_on = |run: &Run| {
        let ended = run.ended.map(|ended| ended.how);
        ended.is_none_or(Ending::goes_on)
    };
    let newest = match (history.newest_path(), run) {
        (Some(newest), _) => newest.to_owned(),
        (None, Some(run)) if goes_on(run) && !from_elsewhere => match &run.start {
            Start::Elsewhere { path, .. } => path.clone(),
            Start::Fresh | Start::Own { .. } => return None,
        },
        _ => return None,
    };
    Some(Refusal::Unfinished {
        how: run.and_then(|run| run.ended).map(|ended| ended.how),
        newest,
        from_elsewhere,
    })
}

fn go_on(
    or_fresh: bool,
    history: &History,
    newest: &dyn Fn() -> crate::Result<Completed>,
) -> crate::Result<Result<StartDecision, Refusal>> {
    let Some(run) = &history.run else {
        if !history.is_empty() {
            // Of a directory whose lease is lost, or that was copied without it.
            return own_or_rewind(history, newest()?);
        }
        return Ok(match or_fresh {
            true => Ok(StartDecision::Begin { from: None }),
            false => Err(Refusal::Nothing),
        });
    };
    if run.has_finished() {
        return Ok(Ok(StartDecision::Finished));
    }
    // A run that was rewound to a checkpoint elsewhere may have older ones of its own.
    if history.newest_id() >= run.start.id().max(1) {
        return own_or_rewind(history, newest()?);
    }
    match run.ended {
        Some(ended) if !ended.how.goes_on() && run.completed > 0 => {
            Ok(Err(Refusal::Over { how: ended.how }))
        }
        // What it completed does not exist any more.
        _ if run.completed > run.start.id() => Ok(Ok(StartDecision::Rewind {
            to: Source::Start(run.start.clone()),
            published_through: run.completed,
        })),
        _ => Ok(Ok(StartDecision::Continue(Source::Start(
            run.start.clone(),
        )))),
    }
}

/// The newest checkpoint, or an older one that a fallback has chosen.
fn own_or_rewind(
    history: &History,
    chosen: Completed,
) -> crate::Result<Result<StartDecision, Refusal>> {
    let published_through = history.published_through();
    Ok(Ok(match chosen.metadata().id < published_through {
        false => StartDecision::Continue(Source::Own(chosen)),
        true => StartDecision::Rewind {
            to: Source::Own(chosen),
            published_through,
        },
    }))
}

fn from(
    checkpoint: &Completed,
    forced_fresh: bool,
    history: &History,
    standing: &dyn Fn(&Completed) -> Result<(), String>,
) -> Result<StartDecision, Refusal> {
    let id = checkpoint.metadata().id;
    let in_directory = history.contains(checkpoint);
    let is_own = in_directory
        || history
            .run
            .as_ref()
            .is_some_and(|run| run.took(checkpoint.metadata()));
    if !is_own {
        return match unfinished(history, true) {
            Some(refusal) if !forced_fresh => Err(refusal),
            _ => Ok(StartDecision::Begin {
                from: Some(checkpoint.clone()),
            }),
        };
    }
    if forced_fresh {
        return Err(Refusal::FreshFromOwn { id });
    }
    // A copy of one that the run has rewound past says nothing that is true any more.
    standing(checkpoint).map_err(|why| Refusal::GivenUp { id, why })?;
    let source = match in_directory {
        true => Source::Own(checkpoint.clone()),
        false => Source::Elsewhere(checkpoint.clone()),
    };
    let published_through = history.published_through();
    Ok(match id < published_through {
        false => StartDecision::Continue(source),
        true => StartDecision::Rewind {
            to: source,
            published_through,
        },
    })
}

#[cfg(test)]
mod tests;
