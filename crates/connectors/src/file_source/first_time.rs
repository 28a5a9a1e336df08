//! The event time that a split begins with: it holds the watermark there until its turn comes. Otherwise all
//! records of a file would be late that is read after one of a later time.

use std::path::Path;
use std::sync::Arc;

use dataflow::Batch;
use formats::outcome::DecodeError;
use formats::plan::Plan;

use super::split::Split;
use super::{EventTime, Reading};

/// Adds a split to those of a subtask, at the highest event time that was read of it, or at its first one.
pub(super) fn add(
    event_time: &mut EventTime,
    split: &Split,
    base_dir: &Path,
    plan: &Arc<Plan>,
) -> usize {
    if split.highest.is_some() {
        return event_time.marks.add(split.highest);
    }
    // A split that cannot be read fails the job when its turn comes, with the place. Until then nothing is known
    // of its times.
    let first = find(split, base_dir, plan);
    let mark = event_time.marks.add(*first.as_ref().unwrap_or(&None));
    if let Ok(None) = first {
        event_time.marks.end(mark);
    }
    mark
}

/// As many lines that are no records are passed over. There may be nothing else in a file.
const UNREADABLE_MAX: u32 = 1000;

/// The event time of the record that is next in a split; `None` if there is none. What is no record is passed over: either
/// it is left out when its turn comes, or it fails the job then.
fn find(split: &Split, base_dir: &Path, plan: &Arc<Plan>) -> anyhow::Result<Option<i64>> {
    let mut reading = Reading::open(split.clone(), 0, base_dir, plan)?;
    let end = split.end.unwrap_or(u64::MAX);
    let mut batch = Batch::default();
    let mut unreadable = 0;
    loop {
        let before = reading.blocks.offset();
        if before >= end {
            return Ok(None);
        }
        let Reading {
            blocks,
            decoder,
            counts,
            ..
        } = &mut reading;
        // What begins at the next byte, and nothing after it: a record, or a line without one.
        match decoder.decode(blocks, before + 1, &mut batch, counts) {
            Ok(_) => {}
            Err(DecodeError::Record(_)) if unreadable < UNREADABLE_MAX => {
                unreadable += 1;
                decoder.leave_out(blocks, counts)?;
            }
            Err(error) => return Err(reading.locate(error)),
        }
        match batch.timestamps.first() {
            Some(time) => return Ok(Some(*time)),
            None if reading.blocks.offset() == before => return Ok(None),
            None => {}
        }
    }
}
