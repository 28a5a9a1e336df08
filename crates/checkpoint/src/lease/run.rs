//! What is on record of the run that a job directory belongs to.
//!
//! A *run* is one life of a job: it begins with a fresh start and goes on through every resume and
//! rewind, whichever processes work on it. The newest entry of the lease carries this record, and is
//! never deleted once there is a record. So numbers never restart, what a run started from survives a
//! crash before its first checkpoint, and how it ended is known when nothing else is left of it.

use serde::{Deserialize, Serialize};

use crate::metadata::Metadata;

/// How many spans of discarded checkpoints are on record. Each is removed from it once its files are
/// deleted, so there are more only if deleting fails again and again.
const DISCARDED_MAX: usize = 32;

/// A run, as the lease records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Run {
    /// Distinguishes this run from all others: random, new at a fresh start. Published output and the
    /// metadata of checkpoints carry it.
    pub token: String,
    /// The highest checkpoint number that had been used when the run began: higher ones are its own.
    pub since: u64,
    /// Where the run starts as long as it has no later checkpoint.
    pub start: Start,
    /// The highest checkpoint that is known to be complete; 0 if none is. One that completed shortly
    /// before a crash may be higher: then the directory has it.
    pub completed: u64,
    /// How it ended. `None`: it is at work, or its process is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// Checkpoints that were given up: they are never believed, and are deleted when they are not
    /// needed for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discarded: Vec<Span>,
    /// The numbers that rewinds went back over, the lowest first. A savepoint of one of them is of a past that
    /// did not happen; else a savepoint counts, whatever becomes of checkpoints with numbers like its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewound: Vec<Span>,
    /// A rewind that has begun. The next start of the job finishes it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewind: Option<Rewind>,
}

/// Where a run starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// With nothing.
    Fresh,
    /// From a checkpoint in the job's own directory.
    Own {
        /// Its number.
        id: u64,
    },
    /// From a checkpoint or savepoint elsewhere.
    Elsewhere {
        /// The path or URL of its metadata.
        path: String,
        /// Its number.
        id: u64,
        /// Whether the job takes it over.
        claim: bool,
    },
}

impl Start {
    /// The number of the checkpoint; 0 for a fresh start.
    #[must_use]
    pub fn id(&self) -> u64 {
        match self {
            Self::Fresh => 0,
            Self::Own { id } | Self::Elsewhere { id, .. } => *id,
        }
    }
}

/// The end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Recorded", into = "Recorded")]
pub struct Ended {
    /// How it ended.
    pub how: Ending,
    /// When, in milliseconds since the epoch.
    pub at: i64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All input was processed and all output committed.
    Finished,
    /// It was cancelled.
    Cancelled,
    /// It failed, and was not restarted.
    Failed,
    /// It was suspended, to be resumed.
    Suspended,
    /// It was stopped with its newest checkpoint, after which no record was processed. It can be resumed.
    Stopped,
}

/// How an [`Ended`] is stored. A version that does not know a word cannot read the entry at all. So a run
/// that was stopped is on record as a suspended one, which it is to who resumes it, and a field that such
/// a version ignores tells the two apart.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Recorded {
    how: Word,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stopped: bool,
    at: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    Finished,
    Cancelled,
    Failed,
    Suspended,
}

impl From<Recorded> for Ended {
    fn from(recorded: Recorded) -> Self {
        let how = match recorded.how {
            Word::Finished => Ending::Finished,
            Word::Cancelled => Ending::Cancelled,
            Word::Failed => Ending::Failed,
            Word::Suspended if recorded.stopped => Ending::Stopped,
            Word::Suspended => Ending::Suspended,
        };
        let at = recorded.at;
        Self { how, at }
    }
}

impl From<Ended> for Recorded {
    fn from(ended: Ended) -> Self {
        Self {
            how: match ended.how {
                Ending::Finished => Word::Finished,
                Ending::Cancelled => Word::Cancelled,
                Ending::Failed => Word::Failed,
                Ending::Suspended | Ending::Stopped => Word::Suspended,
            },
            stopped: ended.how == Ending::Stopped,
            at: ended.at,
        }
    }
}

impl Ending {
    /// Whether the run is to go on: nothing of it was given up.
    #[must_use]
    pub fn goes_on(self) -> bool {
        matches!(self, Self::Suspended | Self::Stopped)
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Cancelled => "was cancelled",
            Self::Failed => "failed",
            Self::Suspended => "was suspended",
            Self::Stopped => "was stopped",
        }
    }
}

/// A span of checkpoint numbers: above `after`, up to and including `through`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Span {
    /// The number before the first one.
    pub after: u64,
    /// The last number.
    pub through: u64,
}

impl Span {
    fn contains(self, id: u64) -> bool {
        self.after < id && id <= self.through
    }
}

/// Going back to a checkpoint after which output was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rewind {
    /// The checkpoint to go back to; 0 for the start of the run.
    pub to: u64,
    /// The highest number that was used before: what is published for higher ones is what follows.
    pub through: u64,
    /// What becomes of the output that was published after it.
    pub mode: RewindMode,
    /// Where output is to be withdrawn, as the sinks name it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owed: Vec<String>,
}

/// What becomes of the output that was published after the checkpoint that a job is rewound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RewindMode {
    /// It stays, and is written again.
    Repeat,
    /// Each sink removes it.
    Withdraw,
}

impl Run {
    /// A run that begins with nothing, in a directory where `since` is the highest number that was
    /// used.
    #[must_use]
    pub fn fresh(token: String, since: u64) -> Self {
        Self {
            token,
            since,
            start: Start::Fresh,
            completed: 0,
            ended: None,
            discarded: Vec::new(),
            rewound: Vec::new(),
            rewind: None,
        }
    }

    /// Whether the run has finished.
    #[must_use]
    pub fn has_finished(&self) -> bool {
        self.ended
            .is_some_and(|ended| ended.how == Ending::Finished)
    }

    /// Gives up all of the run's checkpoints up to `through`.
    pub fn discard_through(&mut self, through: u64) {
        self.discard(Span {
            after: self.since,
            through,
        });
    }

    /// Gives up the checkpoints between the two numbers of a rewind.
    pub fn discard_for(&mut self, rewind: &Rewind) {
        let span = Span {
            after: rewind.to.max(self.since),
            through: rewind.through,
        };
        self.discard(span);
        self.rewind_over(span);
    }

    /// Notes that the run went back over these numbers.
    fn rewind_over(&mut self, span: Span) {
        if span.after >= span.through {
            return;
        }
        self.rewound.push(span);
        self.rewound.sort_unstable_by_key(|span| span.after);
        let joined = |spans: &mut Vec<Span>, at: usize| {
            let next = spans.remove(at + 1);
            spans[at].through = spans[at].through.max(next.through);
        };
        let mut at = 0;
        while at + 1 < self.rewound.len() {
            match self.rewound[at + 1].after <= self.rewound[at].through {
                true => joined(&mut self.rewound, at),
                false => at += 1,
            }
        }
        // Too many: what is between the oldest two is refused as well, rather than one of them forgotten.
        while self.rewound.len() > DISCARDED_MAX {
            joined(&mut self.rewound, 0);
        }
    }

    /// Whether the run went back over this number.
    #[must_use]
    pub fn has_rewound(&self, id: u64) -> bool {
        self.rewound.iter().any(|span| span.contains(id))
    }

    fn discard(&mut self, span: Span) {
        // Two that overlap are one: a smaller one says nothing new.
        self.discarded
            .retain(|other| other.after < span.after || other.through > span.through);
        if span.after < span.through {
            self.discarded.push(span);
        }
        let surplus = self.discarded.len().saturating_sub(DISCARDED_MAX);
        self.discarded.drain(..surplus);
    }

    /// Whether the checkpoint with this number was given up.
    #[must_use]
    pub fn has_discarded(&self, id: u64) -> bool {
        self.discarded.iter().any(|span| span.contains(id))
    }

    /// Whether a checkpoint was taken by this run, as far as its metadata tells.
    #[must_use]
    pub fn took(&self, metadata: &Metadata) -> bool {
        metadata.run.as_deref() == Some(self.token.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c81_an_older_version_reads_a_stopped_run_as_a_suspended_one() {
        for (how, stored) in [
            (Ending::Finished, r#"{"how":"finished","at":7}"#),
            (Ending::Cancelled, r#"{"how":"cancelled","at":7}"#),
            (Ending::Failed, r#"{"how":"failed","at":7}"#),
            (Ending::Suspended, r#"{"how":"suspended","at":7}"#),
            (
                Ending::Stopped,
                r#"{"how":"suspended","stopped":true,"at":7}"#,
            ),
        ] {
            let ended = Ended { how, at: 7 };
            assert_eq!(serde_json::to_string(&ended).unwrap(), stored);
            assert_eq!(serde_json::from_str::<Ended>(stored).unwrap(), ended);
            assert_eq!(how.goes_on(), stored.contains("suspended"), "{how:?}");
        }
    }

    #[test]
    fn what_is_discarded_is_a_set_of_spans() {
        let mut run = Run::fresh("a".to_owned(), 5);
        run.discard_through(5);
        assert!(run.discarded.is_empty(), "there was nothing to discard");
        run.discard_through(9);
        run.discard_through(9);
        assert_eq!(run.discarded.len(), 1);
        for (id, discarded) in [(5, false), (6, true), (9, true), (10, false)] {
            assert_eq!(run.has_discarded(id), discarded, "{id}");
        }
        assert!(!run.has_rewound(6), "nothing was gone back over");
        // What an earlier run kept stays out of it.
        run.since = 12;
        run.discard_through(15);
        assert!(!run.has_discarded(11) && run.has_discarded(13) && run.has_discarded(7));
    }

    #[test]
    fn c80_what_a_run_went_back_over_stays_on_record_in_a_bounded_list() {
        let mut run = Run::fresh("a".to_owned(), 0);
        let mut rewind = |to, through| {
            run.discard_for(&Rewind {
                to,
                through,
                mode: RewindMode::Repeat,
                owed: Vec::new(),
            });
            run.rewound.clone()
        };
        let span = |after, through| Span { after, through };
        assert_eq!(rewind(5, 9), [span(5, 9)]);
        assert_eq!(rewind(11, 14), [span(5, 9), span(11, 14)]);
        assert_eq!(rewind(3, 9), [span(3, 9), span(11, 14)]);
        assert_eq!(rewind(8, 20), [span(3, 20)]);
        assert_eq!(rewind(20, 20), [span(3, 20)]);
        for at in 10..100 {
            let spans = rewind(at * 10, at * 10 + 5);
            assert!(spans.len() <= DISCARDED_MAX);
        }
        // Never too little of it.
        let all = [4, 20, 101, 105, 555, 995];
        assert!(all.iter().all(|id| run.has_rewound(*id)));
        assert!(!run.has_rewound(3) && !run.has_rewound(990) && !run.has_rewound(996));
        // It outlives the end of the run, which gives all of its checkpoints up.
        run.discard_through(2000);
        assert!(run.has_discarded(999) && !run.has_rewound(999));
    }
}
