//! Splits: how files are shared by the subtasks of a source, and how far each has been read.
//!
//! A split is a file, or of a large file that is neither packed nor CSV the lines that begin in a
//! range of bytes. Splits are dealt to subtasks at the start and at every restore, so that each has
//! about the same number of bytes to read; what is not yet read is cut smaller where that helps.

use formats::RecordFormat;
use formats::blocks::Checksum;
use formats::compression::Compression;
use formats::read_as::ReadAs;
use serde::{Deserialize, Serialize};

use super::inputs::InputFile;

/// No split is made smaller than this.
const MIN_SPLIT: u64 = 1 << 20;

/// About how many splits a subtask gets, so that they can be dealt evenly.
const SPLITS_PER_SUBTASK: u64 = 4;

/// About how much larger text is than its packed form.
const PACKED_FACTOR: u64 = 4;

/// A split that is not finished, with the position in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Split {
    /// Name of the file.
    pub(crate) file: String,
    /// The split has the lines that begin at this byte or after it …
    pub(crate) start: u64,
    /// … and before this one. `None` for all of a packed file.
    pub(crate) end: Option<u64>,
    /// The byte (of the unpacked text) at which the record that comes next begins. Equal to `start`
    /// while nothing was read: then that record begins there or later.
    pub(crate) offset: u64,
    /// Records read.
    pub(crate) records: u64,
    /// Lines read, with headers and empty ones.
    pub(crate) lines: u64,
    /// What was read. `None` if nothing was, or by a version that kept no checksums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) read: Option<Read>,
    /// The highest event time of what was read, so that a source that goes on says no lower watermark. `None` if
    /// nothing was, or no watermarks were made.
    #[serde(
        default,
        rename = "highest-timestamp",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) highest: Option<i64>,
}

/// What of a split was read, so that a change of it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Read {
    /// The first byte that `crc` covers; the last is the one before the position.
    pub(crate) from: u64,
    /// CRC-32C of these bytes (of the unpacked text).
    pub(crate) crc: u32,
    /// How many bytes before the position `tail-crc` covers: it is checked by one read, at every
    /// restore. Of packed files none.
    pub(crate) tail: u32,
    /// CRC-32C of these.
    pub(crate) tail_crc: u32,
}

/// A piece of a file that has been read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// Name of the file.
    pub(crate) file: String,
    /// First byte.
    pub(crate) start: u64,
    /// One past the last byte; `None` for all of a packed file.
    pub(crate) end: Option<u64>,
    /// Records in it.
    pub(crate) records: u64,
    /// The bytes that were read and their checksum, if one was kept. A split is read to the end of
    /// the line that its last byte is in, so they are not quite those of the split.
    pub(crate) read: Option<Checksum>,
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
    /// Splits done.
    Done(Vec<DoneEntry>),
    /// The files: name, length, modification time, change time, and the checksum of their last
    /// bytes. Once per file, so the first subtask has them.
    Files(Vec<(String, u64, i64, i64, Option<u32>)>),
    /// The options that all of it was read with; the first subtask has them.
    ReadAs(ReadAs),
    /// Of each subtask of a source that looks for new files: the highest event time that it has read, if any.
    Watched(Option<i64>),
}

/// A split that is done, as it is written: file, start, end, records, and the first byte, end and
/// CRC-32C of what was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum DoneEntry {
    /// With a checksum.
    Checked(String, u64, Option<u64>, u64, u64, u64, u32),
    /// As versions wrote it that kept none.
    Plain(String, u64, Option<u64>, u64),
}

impl From<&Done> for DoneEntry {
    fn from(done: &Done) -> Self {
        let file = done.file.clone();
        match done.read {
            Some(Checksum { from, to, crc }) => {
                Self::Checked(file, done.start, done.end, done.records, from, to, crc)
            }
            None => Self::Plain(file, done.start, done.end, done.records),
        }
    }
}

impl From<DoneEntry> for Done {
    fn from(entry: DoneEntry) -> Self {
        let (file, start, end, records, read) = match entry {
            DoneEntry::Checked(file, start, end, records, from, to, crc) => {
                let read = Checksum { from, to, crc };
                (file, start, end, records, Some(read))
            }
            DoneEntry::Plain(file, start, end, records) => (file, start, end, records, None),
        };
        Self {
            file,
            start,
            end,
            records,
            read,
        }
    }
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
            read: None,
            highest: None,
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
    // The heaviest first to the subtask that has least; the sort is stable, so equal ones go in turn.
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
    if place + 1 < done.len() && join(done, place) {
        done.remove(place + 1);
    }
    if place > 0 && join(done, place - 1) {
        done.remove(place);
    }
}

/// Joins the piece at `place` with the next one, if they are neighbours. The caller removes that.
fn join(done: &mut [Done], place: usize) -> bool {
    let [left, right] = &mut done[place..place + 2] else {
        return false;
    };
    if left.file != right.file || left.end != Some(right.start) {
        return false;
    }
    let read = match (left.read, right.read) {
        (None, None) => None,
        (Some(first), Some(second)) if first.to == second.from => {
            let len = (second.to - second.from) as usize;
            Some(Checksum {
                from: first.from,
                to: second.to,
                crc: crc32c::crc32c_combine(first.crc, second.crc, len),
            })
        }
        // Apart each keeps what is known of it.
        _ => return false,
    };
    left.read = read;
    left.end = right.end;
    left.records += right.records;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_source::inputs::Stamp;

    fn file(name: &str, len: u64) -> InputFile {
        InputFile {
            name: name.to_owned(),
            len,
            stamp: Stamp {
                modified_ns: 0,
                changed_ns: 0,
            },
            tail: None,
        }
    }

    #[test]
    fn checksums_of_neighbours_are_joined_in_any_order() {
        let text = b"one\ntwo\nthree\nfour\n";
        let piece = |start: usize, end: usize, from: usize, to: usize| Done {
            file: "f".to_owned(),
            start: start as u64,
            end: Some(end as u64),
            records: 1,
            read: Some(Checksum {
                from: from as u64,
                to: to as u64,
                crc: crc32c::crc32c(&text[from..to]),
            }),
        };
        // Cut at bytes 5 and 9: a piece has the lines that begin in it. The last but one is in one
        // line wholly.
        let pieces = [
            piece(0, 5, 0, 8),
            piece(5, 9, 8, 14),
            piece(9, 12, 14, 14),
            piece(12, 19, 14, 19),
        ];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            let mut done = Vec::new();
            for index in order {
                note_done(&mut done, pieces[index].clone());
            }
            let expected = Done {
                records: 4,
                ..piece(0, 19, 0, 19)
            };
            assert_eq!(done, [expected], "{order:?}");
        }
        let mut done = Vec::new();
        let plain = Done {
            read: None,
            ..pieces[0].clone()
        };
        note_done(&mut done, plain);
        note_done(&mut done, pieces[1].clone());
        assert_eq!(done.len(), 2, "a checksum is not lost by joining");
    }

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
                .map(|(name, len)| Split::whole(&file(name, len)))
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
                        read: None,
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
        let split = Split::whole(&file("big.csv", 1 << 30));
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
