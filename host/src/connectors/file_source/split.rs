//! Splits: how files are shared by the subtasks of a source, and how far each has been read.
//!
//! A split is a file, or of a large file that is neither packed nor CSV the lines that begin in a
//! range of bytes. Splits are dealt to subtasks at the start and at every restore, so that each has
//! about the same number of bytes to read; what is not yet read is cut smaller where that helps.

use serde::{Deserialize, Serialize};

use super::inputs::{Compression, InputFile};
use crate::connectors::format::RecordFormat;

/// No split is made smaller than this.
const MIN_SPLIT: u64 = 1 << 20;

/// About so many splits a subtask gets, so that they can be dealt evenly.
const SPLITS_PER_SUBTASK: u64 = 4;

/// About how much larger text is than its packed form.
const PACKED_FACTOR: u64 = 4;

/// A split that is not finished, with the position in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Split {
    /// Name of the file.
    pub(crate) file: String,
    /// The split has the lines that begin at this byte or behind it …
    pub(crate) start: u64,
    /// … and before this one. `None` for all of a packed file.
    pub(crate) end: Option<u64>,
    /// The byte (of the unpacked text) at which the record that comes next begins. Equal to `start`
    /// while nothing was read: then that record begins there or behind it.
    pub(crate) offset: u64,
    /// Records read.
    pub(crate) records: u64,
    /// Lines read, with headers and empty ones.
    pub(crate) lines: u64,
}

/// A piece of a file that has been read to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Name of the file.
    pub(crate) file: String,
    /// First byte.
    pub(crate) start: u64,
    /// One past the last byte; `None` for all of a packed file.
    pub(crate) end: Option<u64>,
    /// Records in it.
    pub(crate) records: u64,
}

/// What a checkpoint records of the source's position. Splits that are not begun and those that are
/// done are many: they are written as lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PositionPart {
    /// A split in the middle.
    Reading(Split),
    /// Splits not begun: file, start, end.
    Pending(Vec<(String, u64, Option<u64>)>),
    /// Splits done: file, start, end, records.
    Done(Vec<(String, u64, Option<u64>, u64)>),
}

impl Split {
    /// A split at its start.
    pub(crate) fn new(file: String, start: u64, end: Option<u64>) -> Self {
        Self {
            file,
            start,
            end,
            offset: start,
            records: 0,
            lines: 0,
        }
    }

    /// All of a file.
    pub(crate) fn whole(file: &InputFile) -> Self {
        let end = (Compression::of(&file.name) == Compression::None).then_some(file.len);
        Self::new(file.name.clone(), 0, end)
    }

    /// Whether anything of it was read.
    pub(crate) fn is_begun(&self) -> bool {
        self.offset > self.start || self.records > 0 || self.lines > 0
    }

    fn weight(&self, packed_len: u64) -> u64 {
        match self.end {
            Some(end) => end.saturating_sub(self.offset),
            None => packed_len
                .saturating_mul(PACKED_FACTOR)
                .saturating_sub(self.offset),
        }
    }
}

/// Deals splits to `parallelism` subtasks. The same for every subtask that asks, and in each share
/// in the order of names. `packed_len` tells how long a packed file is.
pub(crate) fn deal(
    splits: Vec<Split>,
    format: RecordFormat,
    parallelism: u32,
    packed_len: impl Fn(&str) -> u64,
) -> Vec<Vec<Split>> {
    let weight = |split: &Split| {
        let packed_len = if split.end.is_none() {
            packed_len(&split.file)
        } else {
            0
        };
        split.weight(packed_len)
    };
    let total: u64 = splits.iter().map(&weight).fold(0, u64::saturating_add);
    let target = (total / (u64::from(parallelism) * SPLITS_PER_SUBTASK)).max(MIN_SPLIT);
    let mut pieces = Vec::new();
    for split in splits {
        match format {
            RecordFormat::Lines | RecordFormat::JsonLines if parallelism > 1 => {
                cut(split, target, &mut pieces)
            }
            // A quoted field may hold line ends, so CSV cannot be entered in the middle.
            _ => pieces.push(split),
        }
    }
    pieces.sort_by(|a, b| (&a.file, a.start).cmp(&(&b.file, b.start)));
    let mut by_weight: Vec<(u64, usize)> = pieces
        .iter()
        .enumerate()
        .map(|(index, split)| (weight(split), index))
        .collect();
    // The heaviest first to whoever has least; the sort is stable, so equal ones go in turn.
    by_weight.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let mut loads = vec![(0_u64, 0_usize); parallelism as usize];
    let mut owners = vec![0; pieces.len()];
    for (weight, index) in by_weight {
        let least = loads.iter_mut().enumerate().min_by_key(|(_, load)| **load);
        if let Some((subtask, load)) = least {
            // Empty files have no weight, but should not all go to one subtask.
            *load = (load.0.saturating_add(weight), load.1 + 1);
            owners[index] = subtask;
        }
    }
    let mut shares = vec![Vec::new(); parallelism as usize];
    for (split, owner) in pieces.into_iter().zip(owners) {
        shares[owner].push(split);
    }
    shares
}

/// Cuts what is not read of a split into pieces of about `target` bytes.
fn cut(split: Split, target: u64, pieces: &mut Vec<Split>) {
    let rest = split.end.map_or(0, |end| end.saturating_sub(split.offset));
    let count = rest.div_ceil(target.saturating_add(target / 2)).max(1);
    let step = rest / count;
    let Some(end) = split.end.filter(|_| count > 1) else {
        pieces.push(split);
        return;
    };
    let cuts: Vec<u64> = (1..count)
        .map(|index| split.offset + index * step)
        .collect();
    let file = split.file.clone();
    pieces.push(Split {
        end: cuts.first().copied(),
        ..split
    });
    for (index, start) in cuts.iter().enumerate() {
        let end = cuts.get(index + 1).copied().unwrap_or(end);
        pieces.push(Split::new(file.clone(), *start, Some(end)));
    }
}

/// Notes that a split is done, joined with its neighbours in the same file.
pub(crate) fn note_done(done: &mut Vec<Done>, piece: Done) {
    let place =
        done.partition_point(|other| (&other.file, other.start) < (&piece.file, piece.start));
    done.insert(place, piece);
    let joins =
        |left: &Done, right: &Done| left.file == right.file && left.end == Some(right.start);
    if place + 1 < done.len() && joins(&done[place], &done[place + 1]) {
        let right = done.remove(place + 1);
        done[place].end = right.end;
        done[place].records += right.records;
    }
    if place > 0 && joins(&done[place - 1], &done[place]) {
        let right = done.remove(place);
        done[place - 1].end = right.end;
        done[place - 1].records += right.records;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_dealt_once_and_evenly() {
        let files = [
            ("a", 100),
            ("big", 64 << 20),
            ("c", 0),
            ("d", 3 << 20),
            ("e.gz", 1 << 20),
        ];
        let len = |name: &str| files.iter().find(|(file, _)| *file == name).unwrap().1;
        for parallelism in 1..=7 {
            let splits: Vec<Split> = files
                .map(|(name, len)| {
                    Split::whole(&InputFile {
                        name: name.to_owned(),
                        len,
                    })
                })
                .to_vec();
            let shares = deal(splits.clone(), RecordFormat::Lines, parallelism, len);
            assert_eq!(shares.len(), parallelism as usize);
            let loads: Vec<u64> = shares
                .iter()
                .map(|share| {
                    share
                        .iter()
                        .map(|split| split.weight(len(&split.file)))
                        .sum()
                })
                .collect();
            assert!(
                loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 6 << 20,
                "{loads:?}"
            );
            let mut all: Vec<Split> = shares.into_iter().flatten().collect();
            all.sort_by(|a, b| (&a.file, a.start).cmp(&(&b.file, b.start)));
            let mut done = Vec::new();
            for split in all {
                note_done(
                    &mut done,
                    Done {
                        file: split.file,
                        start: split.start,
                        end: split.end,
                        records: 1,
                    },
                );
            }
            let whole: Vec<_> = splits
                .into_iter()
                .map(|split| (split.file, split.start, split.end))
                .collect();
            let done: Vec<_> = done
                .into_iter()
                .map(|done| (done.file, done.start, done.end))
                .collect();
            assert_eq!(done, whole);
        }
    }

    #[test]
    fn csv_is_never_entered_in_the_middle() {
        let split = Split::whole(&InputFile {
            name: "big.csv".to_owned(),
            len: 1 << 30,
        });
        let shares = deal(vec![split.clone()], RecordFormat::Csv, 4, |_| 0);
        assert_eq!(shares[0], [split]);
    }

    #[test]
    fn what_is_left_of_a_split_is_cut_at_a_restore() {
        let split = Split {
            offset: 10 << 20,
            records: 7,
            lines: 8,
            ..Split::new("f".to_owned(), 0, Some(50 << 20))
        };
        let shares = deal(vec![split], RecordFormat::JsonLines, 2, |_| 0);
        let first = shares
            .iter()
            .flatten()
            .find(|split| split.start == 0)
            .unwrap();
        assert_eq!(
            (first.start, first.offset, first.records, first.lines),
            (0, 10 << 20, 7, 8)
        );
        assert!(shares.iter().all(|share| share.len() >= 2), "{shares:?}");
    }
}
