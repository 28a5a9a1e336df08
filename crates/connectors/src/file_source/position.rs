//! The position of a file source as a whole: what all its subtasks recorded, put together.

use anyhow::Context as _;
use formats::read_as::ReadAs;
use operator::source::Part;
use serde::Deserialize as _;

use super::inputs::{InputFile, Stamp};
use super::split::{self, Done, PositionPart, Split};

/// How far a job has come with its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// What is not read to its end.
    pub(crate) splits: Vec<Split>,
    /// What is.
    pub(crate) done: Vec<Done>,
    /// The files as they were when the job first saw them or last compared them. A position that
    /// was written before there was such a list has none.
    pub(crate) files: Vec<InputFile>,
    /// What it was read as. A position that was written before this was recorded has none.
    pub(crate) read_as: Option<ReadAs>,
    /// How far the slowest subtask was that looked for new files, by the highest event time that it had read; the
    /// inner one is `None` if one of them had read nothing.
    pub(crate) watched: Option<Option<i64>>,
}

impl Position {
    /// How many records were read.
    pub(crate) fn records(&self) -> u64 {
        let begun = self.splits.iter().map(|split| split.records);
        let done = self.done.iter().map(|done| done.records);
        begun.chain(done).fold(0, u64::saturating_add)
    }

    /// The position in the parts of all subtasks.
    ///
    /// # Errors
    /// A part is none of a file source.
    pub(crate) fn read(parts: &[Part]) -> anyhow::Result<Self> {
        let mut position = Self::default();
        for part in parts {
            let part = PositionPart::deserialize(part).with_context(|| {
                format!("the snapshot has a position that is not a file source's: {part}")
            })?;
            position.add(part);
        }
        Ok(position)
    }

    fn add(&mut self, part: PositionPart) {
        match part {
            PositionPart::Reading(split) => self.splits.push(split),
            PositionPart::Pending(pending) => {
                let pending = pending.into_iter();
                let splits = pending.map(|(file, start, end)| Split::new(file, start, end));
                self.splits.extend(splits);
            }
            PositionPart::Done(pieces) => {
                for piece in pieces {
                    split::note_done(&mut self.done, Done::from(piece));
                }
            }
            PositionPart::Files(files) => {
                let files = files.into_iter();
                let files = files.map(|(name, len, modified_ns, changed_ns, tail)| InputFile {
                    name,
                    len,
                    stamp: Stamp {
                        modified_ns,
                        changed_ns,
                    },
                    tail,
                });
                self.files.extend(files);
            }
            PositionPart::ReadAs(read_as) => self.read_as = Some(read_as),
            PositionPart::Watched(highest) => {
                // None is less than any.
                self.watched = Some(self.watched.map_or(highest, |other| other.min(highest)));
            }
        }
    }
}

/// The parts that one subtask records.
pub(crate) fn parts(
    splits: Vec<Split>,
    done: &[Done],
    files: &[InputFile],
    read_as: Option<&ReadAs>,
    watched: Option<Option<i64>>,
) -> Vec<PositionPart> {
    let (begun, pending): (Vec<_>, Vec<_>) = splits.into_iter().partition(Split::is_begun);
    let mut parts: Vec<_> = begun.into_iter().map(PositionPart::Reading).collect();
    if !pending.is_empty() {
        let pending = pending.into_iter();
        let pending = pending.map(|split| (split.file, split.start, split.end));
        parts.push(PositionPart::Pending(pending.collect()));
    }
    if !done.is_empty() {
        let done = done.iter().map(Into::into).collect();
        parts.push(PositionPart::Done(done));
    }
    if !files.is_empty() {
        let files = files.iter().map(|file| {
            let Stamp {
                modified_ns,
                changed_ns,
            } = file.stamp;
            (
                file.name.clone(),
                file.len,
                modified_ns,
                changed_ns,
                file.tail,
            )
        });
        parts.push(PositionPart::Files(files.collect()));
    }
    parts.extend(read_as.cloned().map(PositionPart::ReadAs));
    parts.extend(watched.map(PositionPart::Watched));
    parts
}
