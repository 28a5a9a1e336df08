//! Reading every byte of a checkpoint, and saying all that is wrong with it.

use std::collections::BTreeSet;

use dataflow::operator_state::Pieces;
use dataflow::state::{Origin, check_segment};

use crate::catalog::describe;
use crate::export::restore_error;
use crate::metadata::Segment;
use crate::{Completed, Error};

/// What verifying a checkpoint found. Its metadata was verified when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments that were read.
    pub segments: u64,
    /// Data files that they are in.
    pub files: u64,
    /// Stored bytes of segments that were read and found right.
    pub bytes: u64,
    /// Everything that is wrong, in the order of the metadata.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

/// One thing that is wrong with a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub object: String,
    /// What is wrong with it, with the offset range.
    pub what: String,
    /// Whose state it is: operator id and subtask.
    pub owner: (String, u32),
    /// Whether it is not what was written; otherwise it could not be read, which may pass.
    pub is_corrupt: bool,
}

/// Reads all state of a checkpoint, and decodes all of it: what is good can be restored and exported.
/// Never fails: what is wrong is a problem in the report. Takes little memory, however much there is.
#[must_use]
pub fn verify(checkpoint: &Completed) -> Report {
    let decode = |segment: &Segment, origin: &Origin| {
        let mut reader = checkpoint.read(segment)?;
        check_segment(&mut reader, origin).map_err(|error| {
            restore_error(error, checkpoint.segment_location(segment), segment.offset)
        })
    };
    verify_by(checkpoint, &decode)
}

/// As [`verify`], for tests whose segments are just bytes.
#[cfg(test)]
pub(crate) fn verify_bytes(checkpoint: &Completed) -> Report {
    let read = |segment: &Segment, _: &Origin| {
        let mut reader = checkpoint.read(segment)?;
        let read = std::io::copy(&mut reader, &mut std::io::sink()).map(drop);
        read.map_err(|error| restore_error(error.into(), String::new(), 0))
    };
    verify_by(checkpoint, &read)
}

fn verify_by(
    checkpoint: &Completed,
    check: &dyn Fn(&Segment, &Origin) -> Result<(), Error>,
) -> Report {
    let mut report = Report::default();
    let mut files = BTreeSet::new();
    for operator in &checkpoint.metadata().operators {
        for subtask in (0..).take(operator.subtasks.len()) {
            let owner = (operator.id.clone(), subtask);
            let segments = match checkpoint.keyed(operator, subtask) {
                Ok(segments) => segments,
                Err(error) => {
                    let place = checkpoint.metadata_location();
                    report.problems.push(Problem::new(error, place, owner));
                    continue;
                }
            };
            if let Some(stored) = &operator.subtasks[subtask as usize].operator_state {
                report.segments += 1;
                files.extend(&stored.file);
                let mut pieces = Pieces::default();
                match checkpoint.subtask_operator_state(operator, subtask, &mut pieces) {
                    Ok(()) => report.bytes += stored.length,
                    Err(error) => {
                        let place = checkpoint.segment_location(stored);
                        let problem = Problem::new(error, place, owner.clone());
                        report.problems.push(problem);
                    }
                }
            }
            for (segment, origin) in segments {
                report.segments += 1;
                files.extend(&segment.file);
                match check(segment, &origin) {
                    Ok(()) => report.bytes += segment.length,
                    Err(error) => {
                        let place = checkpoint.segment_location(segment);
                        let problem = Problem::new(error, place, owner.clone());
                        report.problems.push(problem);
                    }
                }
            }
        }
    }
    report.files = files.len() as u64;
    report
}

impl Problem {
    fn new(error: Error, place: String, owner: (String, u32)) -> Self {
        let is_corrupt = matches!(error, Error::Corrupt { .. });
        let (object, what) = match error {
            Error::Corrupt { object, what } => (object, what),
            error => (place, describe(&error)),
        };
        Self {
            object,
            what,
            owner,
            is_corrupt,
        }
    }
}
