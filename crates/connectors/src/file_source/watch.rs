//! New files while the job runs: each subtask looks at what `path` stands for again and again, and takes those of the
//! new files that are its own.
//!
//! Whose a file is follows from its name alone, so the subtasks need not talk: a checkpoint names the files that they have
//! taken, all of them know these after a restore, and what it does not name is new again for whoever owns it then.
//!
//! A file is taken when two looks in a row find the same length and times, so that none is read while it is being written.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use operator::SubtaskContext;
use operator::text::{counted, line};

use super::inputs::{self, InputFile, Look, Stamp};
use super::position::Position;
use super::shown;
use crate::connector::Clock;

/// With how many files the source warns that each checkpoint names all of them.
const MANY: usize = 100_000;

/// How many things that cannot be looked at a warning names.
const TROUBLES: usize = 3;

/// What all subtasks have to do.
#[derive(Clone)]
pub(super) struct Watching {
    pub(super) paths: Vec<String>,
    pub(super) base_dir: PathBuf,
    pub(super) every_ms: i64,
    pub(super) clock: Clock,
    /// The last look of any subtask, and when it was.
    pub(super) last: Arc<Mutex<Option<LastLook>>>,
}

/// What a look has shown.
pub(super) struct LastLook {
    /// When it was, in milliseconds since the epoch.
    at_ms: i64,
    look: Arc<Look>,
}

impl Watching {
    /// What is there now, or was less than half of the time between two looks ago: one look is enough for all subtasks, and
    /// two looks of one subtask are half of that time apart at least.
    fn look(&self, now_ms: i64) -> Arc<Look> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*last
            && (0..self.every_ms / 2).contains(&now_ms.saturating_sub(last.at_ms))
        {
            return Arc::clone(&last.look);
        }
        let found = inputs::look(&self.paths, &self.base_dir);
        let look = Arc::new(found.unwrap_or_else(|unreadable| Look {
            files: Vec::new(),
            unreadable,
        }));
        *last = Some(LastLook {
            at_ms: now_ms,
            look: Arc::clone(&look),
        });
        look
    }

    /// Whether a file that was there at the start is old enough to be read at once, and to be dealt to the subtasks in
    /// pieces. The others are taken as new ones are.
    pub(super) fn is_settled(&self, file: &InputFile) -> bool {
        let age_ns = |at_ns: i64| {
            (self.clock)()
                .saturating_mul(1_000_000)
                .saturating_sub(at_ns)
        };
        let every_ns = self.every_ms.saturating_mul(1_000_000);
        file.len > 0 && age_ns(file.stamp.modified_ns) >= every_ns
    }

    /// For one subtask of a job that has these files.
    pub(super) fn of(&self, context: &SubtaskContext, position: &Position) -> Watch {
        let mut watch = Watch {
            watching: self.clone(),
            source: context.operator.clone(),
            subtask: context.subtask,
            parallelism: context.parallelism,
            due_ms: i64::MIN,
            taken: HashSet::new(),
            last: BTreeMap::new(),
            trouble: Vec::new(),
            grown: BTreeSet::new(),
            looked_at: HashMap::new(),
            has_warned: false,
        };
        let splits = position.splits.iter().map(|split| &split.file);
        let done = position.done.iter().map(|done| &done.file);
        let files = position.files.iter().map(|file| &file.name);
        for name in splits.chain(done).chain(files) {
            if watch.owns(name) {
                watch.taken.insert(name.clone());
            }
        }
        watch
    }
}

/// What one subtask does of it.
pub(super) struct Watch {
    watching: Watching,
    /// The source's id.
    source: String,
    subtask: u32,
    parallelism: u32,
    /// When to look next.
    due_ms: i64,
    /// The names that this subtask would take, and that were taken.
    taken: HashSet<String>,
    /// The new files of the last look.
    last: BTreeMap<String, InputFile>,
    /// What was wrong with the last look, so that it is said once.
    trouble: Vec<String>,
    /// The files that have grown, so that it is said once of each.
    grown: BTreeSet<String>,
    /// The times of files that have others than they had when they were taken, and were looked at since.
    looked_at: HashMap<String, Stamp>,
    has_warned: bool,
}

/// What a look has found.
pub(super) struct Seen {
    /// The files that are to be read now, in the order of their names.
    pub(super) new: Vec<InputFile>,
    /// All that are there.
    pub(super) all: Arc<Look>,
}

impl Watch {
    /// When to look next, in milliseconds since the epoch.
    pub(super) fn due_ms(&self) -> i64 {
        self.due_ms
    }

    /// Looks, if it is time to.
    pub(super) fn look(&mut self) -> Option<Seen> {
        let now = (self.watching.clock)();
        if now < self.due_ms {
            return None;
        }
        self.due_ms = now.saturating_add(self.watching.every_ms);
        let all = self.watching.look(now);
        if self.subtask == 0 {
            let trouble = all.unreadable.iter();
            let trouble = trouble.map(|it| line(&it.message).into_owned());
            self.complain(trouble.collect());
        }
        let new: Vec<InputFile> = all
            .files
            .iter()
            .filter(|file| self.is_new(file))
            .cloned()
            .collect();
        let before = std::mem::take(&mut self.last);
        let (settled, open): (Vec<InputFile>, Vec<InputFile>) = new
            .into_iter()
            .partition(|file| before.get(&file.name) == Some(file));
        self.last = open
            .into_iter()
            .map(|file| (file.name.clone(), file))
            .collect();
        self.taken
            .extend(settled.iter().map(|file| file.name.clone()));
        if self.taken.len() >= MANY && !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                source = self.source,
                "the source has read {}, and every checkpoint names all of them: begin another job, with other files, \
                 before checkpoints become slow",
                counted(self.taken.len() as u64, "file")
            );
        }
        Some(Seen { new: settled, all })
    }

    /// Whether a file is this subtask's and was not taken. One without content may be one that is about to get some.
    fn is_new(&self, file: &InputFile) -> bool {
        file.len > 0 && self.owns(&file.name) && !self.taken.contains(&file.name)
    }

    fn owns(&self, name: &str) -> bool {
        crc32c::crc32c(name.as_bytes()) % self.parallelism == self.subtask
    }

    /// Says what it could not look at. The job goes on: a directory that cannot be read has no new files yet.
    fn complain(&mut self, trouble: Vec<String>) {
        if !trouble.is_empty() && self.trouble != trouble {
            let more = trouble.len().saturating_sub(TROUBLES);
            let more = match more {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            let first: Vec<&str> = trouble.iter().take(TROUBLES).map(String::as_str).collect();
            tracing::warn!(
                source = self.source,
                "looking for new files: {}{more}",
                first.join("; ")
            );
        }
        self.trouble = trouble;
    }

    /// Whether a file has other times than when it was taken, and than when this was asked last.
    pub(super) fn is_touched(&mut self, recorded: &InputFile, now: &InputFile) -> bool {
        let known = self.looked_at.get(&now.name).unwrap_or(&recorded.stamp);
        let is_touched = *known != now.stamp;
        if is_touched {
            self.looked_at.insert(now.name.clone(), now.stamp);
        }
        is_touched
    }

    /// The source's id.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Says that files have grown which are not read to their new ends; once of each.
    pub(super) fn warn_of_grown(&mut self, files: Vec<String>) {
        let files = files.into_iter();
        let new: Vec<String> = files
            .filter(|name| self.grown.insert(name.clone()))
            .collect();
        if !new.is_empty() {
            let names: Vec<&str> = new.iter().map(String::as_str).collect();
            let verb = if new.len() == 1 { "has" } else { "have" };
            tracing::warn!(
                source = self.source,
                "{} {verb} grown, and what was appended is not read: {}; write a file under a name that `path` does not \
                 match, and rename it when it is complete",
                counted(new.len() as u64, "file"),
                shown(&names)
            );
        }
    }
}
