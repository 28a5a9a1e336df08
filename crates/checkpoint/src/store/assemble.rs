//! From what the subtasks wrote to metadata: which segments go inline, which share a file, and what
//! stands before a delta. Touches no storage.

use std::collections::HashMap;

use bytes::Bytes;
use dataflow::CheckpointId;

use super::Options;
use super::segment::{Body, What, Written};
use crate::completed::Completed;
use crate::metadata::{Metadata, Segment};
use crate::names;
use crate::{Error, Result};

/// What is to be put.
pub(super) struct Assembled {
    pub(super) metadata: Metadata,
    pub(super) inline: Vec<Bytes>,
    /// Name and parts of the file that small segments share, if there are any.
    pub(super) pack: Option<(String, Vec<Bytes>)>,
}

/// Bytes one after the other, and how many there are.
#[derive(Default)]
struct Parts {
    parts: Vec<Bytes>,
    length: u64,
}

impl Parts {
    /// Appends bytes and returns their offset.
    fn push(&mut self, bytes: Bytes) -> u64 {
        let offset = self.length;
        self.length += bytes.len() as u64;
        self.parts.push(bytes);
        offset
    }
}

/// Assembles checkpoint `id` in `directory`, with the small segments in the file `pack_name`. `base` gives
/// the completed checkpoints that deltas may stand on.
pub(super) fn assemble(
    id: CheckpointId,
    mut metadata: Metadata,
    written: Vec<(usize, u32, Written)>,
    options: &Options,
    (directory, pack_name): (&str, String),
    base: &dyn Fn(u64) -> Option<Completed>,
) -> Result<Assembled> {
    if metadata.id != id.0 {
        return Err(mismatch(
            id,
            format!("the metadata is of checkpoint {}", metadata.id),
        ));
    }
    let mut inline = Parts::default();
    let mut pack = Parts::default();
    let pack_reference = names::reference(directory, &pack_name);
    let mut totals = HashMap::new();
    for state in metadata
        .operators
        .iter_mut()
        .flat_map(|it| &mut it.operator_states)
    {
        (state.entries, state.bytes) = (0, 0);
    }
    for (index, subtask, written) in written {
        let place = metadata
            .operators
            .get_mut(index)
            .filter(|operator| operator.id == written.operator)
            .and_then(|operator| operator.subtasks.get_mut(subtask as usize))
            .filter(|_| written.subtask == subtask && written.checkpoint == id);
        let Some(place) = place else {
            return Err(mismatch(
                id,
                format!(
                    "operator {index} subtask {subtask} is not what wrote the state of `{}` subtask {}",
                    written.operator, written.subtask
                ),
            ));
        };
        let mut segments = Vec::new();
        let mut inline_bytes = 0;
        if let Some(base_id) = written.base {
            let base = usable_base(id, base_id, options, base)?;
            for segment in chain(id, &base, &written.operator, subtask)? {
                let moved = move_segment(segment, &base, directory, &mut inline)?;
                if moved.file.is_none() {
                    inline_bytes += moved.length;
                }
                segments.push(moved);
            }
        }
        // What was inline before counts: a chain of small deltas must not make `_metadata` grow
        // beyond what was asked for.
        let goes_inline = written.compressed.is_none()
            && inline_bytes + written.length <= options.inline_threshold;
        let position = match written.body {
            Body::Nothing => None,
            Body::File(name) => Some((Some(names::reference(directory, &name)), 0)),
            Body::Buffered(bytes) if goes_inline => Some((None, inline.push(bytes))),
            Body::Buffered(bytes) => Some((Some(pack_reference.clone()), pack.push(bytes))),
        };
        let stored = position.map(|(file, offset)| Segment {
            file,
            offset,
            length: written.length,
            crc32c: written.crc32c,
            compressed: written.compressed,
            written_by: id.0,
            delta: written.base.is_some(),
        });
        match written.what {
            What::Keyed => {
                segments.extend(stored);
                place.segments = segments;
                totals.insert((written.operator, subtask), written.stats.held);
            }
            What::OperatorState => {
                place.operator_state = stored;
                let states = metadata.operators[index].operator_states.iter_mut();
                for (state, (entries, bytes)) in states.zip(written.stats.held) {
                    state.entries += entries;
                    state.bytes += bytes;
                }
            }
        }
    }
    add_up(&mut metadata, &totals);
    Ok(Assembled {
        metadata,
        inline: inline.parts,
        pack: (!pack.parts.is_empty()).then_some((pack_name, pack.parts)),
    })
}

fn usable_base(
    id: CheckpointId,
    base_id: CheckpointId,
    options: &Options,
    base: &dyn Fn(u64) -> Option<Completed>,
) -> Result<Completed> {
    if !options.incremental {
        return Err(mismatch(
            id,
            format!("a delta on {base_id}, though `checkpoint.incremental` is off"),
        ));
    }
    base(base_id.0).ok_or_else(|| {
        mismatch(
            id,
            format!("a delta on checkpoint {base_id}, which is not kept"),
        )
    })
}

/// The segments of a subtask in the checkpoint that is the base of its delta.
fn chain<'a>(
    id: CheckpointId,
    base: &'a Completed,
    operator: &str,
    subtask: u32,
) -> Result<&'a [Segment]> {
    let found = base
        .operator(operator)
        .and_then(|operator| operator.subtasks.get(subtask as usize));
    match found {
        Some(found) => Ok(&found.segments),
        None => Err(mismatch(
            id,
            format!(
                "a delta of operator `{operator}` subtask {subtask} on checkpoint {}, which has no such subtask",
                base.metadata().id
            ),
        )),
    }
}

/// A segment of a base, as the new checkpoint references it. Inline bytes are copied: the base's
/// `_metadata` will go.
fn move_segment(
    segment: &Segment,
    base: &Completed,
    directory: &str,
    inline: &mut Parts,
) -> Result<Segment> {
    let mut moved = segment.clone();
    match &segment.file {
        None => moved.offset = inline.push(base.inline_range(segment)?),
        Some(file) => moved.file = Some(names::reference(directory, &base.resolve(file)?)),
    }
    Ok(moved)
}

/// Fills in how much there is of each state, in all subtasks.
fn add_up(metadata: &mut Metadata, totals: &HashMap<(String, u32), Vec<(u64, u64)>>) {
    for operator in &mut metadata.operators {
        for state in &mut operator.states {
            (state.entries, state.bytes) = (0, 0);
        }
        for subtask in 0..operator.subtasks.len() {
            let key = (
                operator.id.clone(),
                u32::try_from(subtask).unwrap_or(u32::MAX),
            );
            let total = totals.get(&key).map_or(&[][..], Vec::as_slice);
            for (state, (entries, bytes)) in operator.states.iter_mut().zip(total) {
                state.entries += entries;
                state.bytes += bytes;
            }
        }
    }
}

/// What the caller passed does not belong together.
pub(super) fn mismatch(id: CheckpointId, what: String) -> Error {
    Error::Incompatible(format!("checkpoint {id} cannot be completed: {what}"))
}
