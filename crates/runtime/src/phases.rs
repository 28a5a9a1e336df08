//! How far each subtask is with a checkpoint in progress, and how long each phase took.
//!
//! Each part that moves a checkpoint on notes when: a subtask at a barrier and around its snapshot, a writer
//! around the writing. That is a handful of notes per subtask and checkpoint, none per record. From
//! them a failed checkpoint says who kept it waiting, and a completed one where its time went.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dataflow::CheckpointId;

use operator::clock::Clock;

/// What a subtask, or the whole checkpoint, is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A source subtask has not taken up the trigger.
    Trigger,
    /// The barrier has come on no channel.
    Barrier,
    /// The barrier has come on some channels and is waited for on others.
    Alignment,
    /// The snapshot is being taken: state sealed, output prepared.
    Snapshot,
    /// The snapshot waits for a writer.
    Writer,
    /// The snapshot is being written.
    Upload,
    /// Every subtask has acknowledged, the metadata is to be written.
    Metadata,
}

impl Phase {
    /// Its name for programs, which never changes.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Trigger => "trigger",
            Self::Barrier => "barrier",
            Self::Alignment => "alignment",
            Self::Snapshot => "snapshot",
            Self::Writer => "writer",
            Self::Upload => "upload",
            Self::Metadata => "metadata",
        }
    }
}

/// Who kept a checkpoint from being complete, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slowest {
    /// The source, operator or sink; `None` where nobody in particular is waited for.
    pub operator: Option<String>,
    /// Its subtask.
    pub subtask: Option<u32>,
    /// What it was at.
    pub phase: Phase,
    /// The same in words.
    pub text: String,
    /// How many subtasks had not acknowledged.
    pub missing: usize,
}

/// The longest time that any subtask took for a phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Longest {
    /// Microseconds.
    pub us: u64,
    /// The source, operator or sink (the first of those that share a thread).
    pub operator: String,
    /// Its subtask.
    pub subtask: u32,
}

/// How long the phases of a completed checkpoint took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// From the trigger to the first barrier at a subtask.
    pub start_delay: Longest,
    /// From the first barrier at a subtask to the last.
    pub alignment: Longest,
    /// The pause of a subtask while its state was sealed and its output prepared.
    pub snapshot: Longest,
    /// From there until it was written, in the background.
    pub upload: Longest,
    /// From the last acknowledgement until the checkpoint was complete, in microseconds.
    pub metadata_us: u64,
    /// What each subtask did, in the order of the vertices and, in each, of its subtasks.
    pub subtasks: Vec<SubtaskPhases>,
}

/// What a subtask did for a checkpoint. What it did not come to, because it had ended before, is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubtaskPhases {
    /// The source, operator or sink that heads its chain.
    pub operator: String,
    /// Its number.
    pub subtask: u32,
    /// From the trigger to its first barrier, in microseconds.
    pub start_delay_us: u64,
    /// From there to its last, in microseconds.
    pub alignment_us: u64,
    /// Its pause, in microseconds.
    pub snapshot_us: u64,
    /// From there until its snapshot was written, in microseconds.
    pub upload_us: u64,
    /// From the trigger until then, in microseconds.
    pub total_us: u64,
    /// Bytes that were written of it.
    pub bytes: u64,
    /// Bytes of keys and values of all its keyed state.
    pub state_bytes: u64,
}

/// A subtask, for readers of the notes.
#[derive(Clone, Debug, Default)]
pub(crate) struct SubtaskInfo {
    /// The node that heads its chain.
    pub(crate) operator: Arc<str>,
    pub(crate) subtask: u32,
    pub(crate) parallelism: u32,
    /// Of each channel the consumer's input and the number of the producing subtask. None: a source.
    pub(crate) channels: Vec<(u32, usize)>,
}

impl fmt::Display for SubtaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.operator)?;
        if self.parallelism > 1 {
            write!(f, " subtask {} of {}", self.subtask, self.parallelism)?;
        }
        Ok(())
    }
}

/// What is noted of a subtask and a checkpoint. Times in microseconds.
#[derive(Clone, Debug, Default)]
struct SubtaskTimes {
    /// The channels whose barriers have come.
    barriers: Vec<usize>,
    first_barrier: Option<i64>,
    aligned: Option<i64>,
    /// The node at work in the phase.
    node: Option<Arc<str>>,
    sealed: Option<i64>,
    uploading: Option<i64>,
    written: Option<i64>,
    /// Bytes that were written of it.
    bytes: u64,
    /// Bytes of its keyed state.
    state_bytes: u64,
}

#[derive(Debug)]
struct Checkpoint {
    triggered: i64,
    acknowledged: Option<i64>,
    subtasks: Vec<SubtaskTimes>,
}

/// The notes of all checkpoints in progress.
#[derive(Debug)]
pub(crate) struct PhaseTimes {
    clock: Arc<dyn Clock>,
    places: Vec<SubtaskInfo>,
    checkpoints: Mutex<BTreeMap<CheckpointId, Checkpoint>>,
}

impl PhaseTimes {
    /// For these subtasks, in the order of their numbers, producers before consumers.
    pub(crate) fn new(clock: Arc<dyn Clock>, places: Vec<SubtaskInfo>) -> Self {
        Self {
            clock,
            places,
            checkpoints: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CheckpointId, Checkpoint>> {
        // Each note is one assignment, so a panic elsewhere does not spoil them.
        self.checkpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A checkpoint is triggered.
    pub(crate) fn begin(&self, id: CheckpointId) {
        let checkpoint = Checkpoint {
            triggered: self.clock.now_us(),
            acknowledged: None,
            subtasks: vec![SubtaskTimes::default(); self.places.len()],
        };
        self.lock().insert(id, checkpoint);
    }

    /// Nothing more is noted of it.
    pub(crate) fn end(&self, id: CheckpointId) {
        self.lock().remove(&id);
    }

    /// Notes something of a subtask, if the checkpoint is in progress.
    fn note(&self, id: CheckpointId, subtask: usize, note: impl FnOnce(&mut SubtaskTimes, i64)) {
        let now = self.clock.now_us();
        if let Some(checkpoint) = self.lock().get_mut(&id) {
            note(&mut checkpoint.subtasks[subtask], now);
        }
    }

    /// A barrier has come on a channel of a subtask.
    pub(crate) fn barrier(&self, id: CheckpointId, subtask: usize, channel: usize) {
        self.note(id, subtask, |note, now| {
            note.barriers.push(channel);
            note.first_barrier.get_or_insert(now);
        });
    }

    /// A subtask begins with its snapshot: at this node first.
    pub(crate) fn aligned(&self, id: CheckpointId, subtask: usize) {
        self.note(id, subtask, |note, now| {
            note.first_barrier.get_or_insert(now);
            note.aligned = Some(now);
        });
    }

    /// It is at this node.
    pub(crate) fn at(&self, id: CheckpointId, subtask: usize, node: &Arc<str>) {
        self.note(id, subtask, |note, _| note.node = Some(Arc::clone(node)));
    }

    /// A subtask has its snapshot and goes on with records.
    pub(crate) fn sealed(&self, id: CheckpointId, subtask: usize, state_bytes: u64) {
        self.note(id, subtask, |note, now| {
            note.sealed = Some(now);
            note.state_bytes = state_bytes;
            note.node = None;
        });
    }

    /// A writer has taken up a subtask's snapshot.
    pub(crate) fn uploading(&self, id: CheckpointId, subtask: usize) {
        self.note(id, subtask, |note, now| note.uploading = Some(now));
    }

    /// It has written it.
    pub(crate) fn written(&self, id: CheckpointId, subtask: usize, bytes: u64) {
        self.note(id, subtask, |note, now| {
            note.written = Some(now);
            note.bytes = bytes;
        });
    }

    /// All subtasks have acknowledged.
    pub(crate) fn acknowledged(&self, id: CheckpointId) {
        let now = self.clock.now_us();
        if let Some(checkpoint) = self.lock().get_mut(&id) {
            checkpoint.acknowledged = Some(now);
        }
    }

    /// Where the time of a checkpoint that is complete now went.
    pub(crate) fn phases(&self, id: CheckpointId) -> Phases {
        let now = self.clock.now_us();
        let checkpoints = self.lock();
        let Some(checkpoint) = checkpoints.get(&id) else {
            return Phases::default();
        };
        let longest = |from: &dyn Fn(&SubtaskTimes) -> Option<i64>,
                       to: &dyn Fn(&SubtaskTimes) -> Option<i64>| {
            let took = |note: &SubtaskTimes| Some(to(note)?.saturating_sub(from(note)?).max(0));
            let mut longest = Longest::default();
            for (note, place) in checkpoint.subtasks.iter().zip(&self.places) {
                let Some(us) = took(note).map(i64::unsigned_abs) else {
                    continue;
                };
                if longest.operator.is_empty() || us > longest.us {
                    longest = Longest {
                        us,
                        operator: place.operator.to_string(),
                        subtask: place.subtask,
                    };
                }
            }
            longest
        };
        let of_subtask = |(note, place): (&SubtaskTimes, &SubtaskInfo)| {
            let took = |from: Option<i64>, to: Option<i64>| match (from, to) {
                (Some(from), Some(to)) => to.saturating_sub(from).max(0).unsigned_abs(),
                _ => 0,
            };
            let triggered = Some(checkpoint.triggered);
            SubtaskPhases {
                operator: place.operator.to_string(),
                subtask: place.subtask,
                start_delay_us: took(triggered, note.first_barrier),
                alignment_us: took(note.first_barrier, note.aligned),
                snapshot_us: took(note.aligned, note.sealed),
                upload_us: took(note.sealed, note.written),
                total_us: took(triggered, note.written),
                bytes: note.bytes,
                state_bytes: note.state_bytes,
            }
        };
        Phases {
            subtasks: checkpoint
                .subtasks
                .iter()
                .zip(&self.places)
                .map(of_subtask)
                .collect(),
            start_delay: longest(&|_| Some(checkpoint.triggered), &|note| note.first_barrier),
            alignment: longest(&|note| note.first_barrier, &|note| note.aligned),
            snapshot: longest(&|note| note.aligned, &|note| note.sealed),
            upload: longest(&|note| note.sealed, &|note| note.written),
            metadata_us: checkpoint
                .acknowledged
                .map_or(0, |at| now.saturating_sub(at).max(0).unsigned_abs()),
        }
    }

    /// Who keeps a checkpoint waiting now. `queued` returns how many elements wait in a channel of a
    /// subtask.
    pub(crate) fn slowest(
        &self,
        id: CheckpointId,
        queued: &dyn Fn(usize, usize) -> usize,
    ) -> Option<Slowest> {
        let now = self.clock.now_us();
        let checkpoints = self.lock();
        let checkpoint = checkpoints.get(&id)?;
        let notes = &checkpoint.subtasks;
        let missing = notes.iter().filter(|note| note.written.is_none()).count();
        // Producers have smaller numbers: those upstream of this one have passed the barrier on,
        // and those downstream wait for it.
        if let Some(number) = notes.iter().position(|note| note.sealed.is_none()) {
            let (place, note) = (&self.places[number], &notes[number]);
            let (phase, what) = self.before_the_seal(number, note, queued);
            return Some(Slowest {
                operator: Some(note.node.as_ref().unwrap_or(&place.operator).to_string()),
                subtask: Some(place.subtask),
                phase,
                text: format!("{place} {what}"),
                missing,
            });
        }
        let unwritten = || {
            let numbered = notes.iter().enumerate();
            numbered.filter(|(_, note)| note.written.is_none())
        };
        let since = |at: Option<i64>| now.saturating_sub(at.unwrap_or(now)).max(0) / 1000;
        let uploading = unwritten()
            .filter(|(_, note)| note.uploading.is_some())
            .min_by_key(|(_, note)| note.uploading);
        let (number, phase) = match uploading {
            Some((number, _)) => (number, Phase::Upload),
            None => match unwritten().min_by_key(|(_, note)| note.sealed) {
                Some((number, _)) => (number, Phase::Writer),
                None => {
                    let text = match checkpoint.acknowledged {
                        Some(at) => format!(
                            "every subtask had acknowledged, and the metadata was being written for {} ms",
                            since(Some(at))
                        ),
                        None => "every subtask had acknowledged, and the metadata waited for that of an earlier checkpoint".to_owned(),
                    };
                    return Some(Slowest {
                        operator: None,
                        subtask: None,
                        phase: Phase::Metadata,
                        text,
                        missing,
                    });
                }
            },
        };
        let (place, note) = (&self.places[number], &notes[number]);
        let what = match phase {
            Phase::Upload => format!("being written for {} ms", since(note.uploading)),
            _ => format!("waiting for a writer for {} ms", since(note.sealed)),
        };
        Some(Slowest {
            operator: Some(note.node.as_ref().unwrap_or(&place.operator).to_string()),
            subtask: Some(place.subtask),
            phase,
            text: format!("the snapshot of {place} was {what}"),
            missing,
        })
    }

    /// What a subtask without a snapshot is at.
    fn before_the_seal(
        &self,
        number: usize,
        note: &SubtaskTimes,
        queued: &dyn Fn(usize, usize) -> usize,
    ) -> (Phase, String) {
        if note.aligned.is_some() {
            let at = match &note.node {
                Some(node) => format!("was taking its snapshot, at `{node}`"),
                None => "was taking its snapshot".to_owned(),
            };
            return (Phase::Snapshot, at);
        }
        let channels = &self.places[number].channels;
        let late = (0..channels.len()).find(|channel| !note.barriers.contains(channel));
        let Some(late) = late else {
            let what = "had not taken up the trigger: its source was busy";
            return (Phase::Trigger, what.to_owned());
        };
        let (input, producer) = channels[late];
        let producer = &self.places[producer];
        let behind = match queued(number, late) {
            0 => "behind what it was working on".to_owned(),
            1 => "behind 1 element that it had not taken".to_owned(),
            count => format!("behind {count} elements that it had not taken"),
        };
        let on = format!("the barrier on input {input} from {producer}, {behind}");
        match note.barriers.len() {
            0 => (Phase::Barrier, format!("waited for {on}")),
            come => (
                Phase::Alignment,
                format!(
                    "was aligning: {come} of {} barriers had come, it waited for {on}",
                    channels.len()
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
