//! Whether what metadata says can be true.
//!
//! A checksum tells that the bytes are those that were written, not that our program wrote them, nor
//! for this place: a checkpoint may come from elsewhere, be put together by hand, or be copied over
//! another. So what contradicts itself, or leads to where no data of a checkpoint can be, is found
//! here, once, before anything is read, written or deleted because of it. What the segments say about
//! themselves is compared when they are read.

use std::collections::BTreeSet;

use dataflow::KeyGroups;
use dataflow::key::KEY_HASH_NAME;
use dataflow::operator_state::STORED_BYTES_MAX;
use dataflow::state::StateKind;

use super::{Kind, Metadata, Operator, Role, Segment, Subtask, kind_of, scope_of};
use crate::names::{NUMBER_MAX, Reference};

/// The last millisecond of the year 9999. No clock shows more, and what is said to have completed
/// later would be the newest of its job for ever.
const TIME_MAX_MS: i64 = 253_402_300_799_999;

/// Why metadata cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It contradicts itself, or says what this format cannot mean.
    Corrupt(String),
    /// It may be right, but this program cannot read the state.
    Incompatible(String),
}

/// Checks metadata that has this many inline bytes.
pub(super) fn check(metadata: &Metadata, inline_bytes: u64) -> Result<(), Problem> {
    // First: all else may mean something different under another hash.
    if metadata.key_hash != KEY_HASH_NAME {
        return Err(Problem::Incompatible(format!(
            "deals keys by `{}`, this version by `{KEY_HASH_NAME}`",
            metadata.key_hash
        )));
    }
    contradiction(metadata, inline_bytes).map_err(Problem::Corrupt)
}

fn contradiction(metadata: &Metadata, inline_bytes: u64) -> Result<(), String> {
    if metadata.id > NUMBER_MAX {
        return Err(format!("its number {} is too large", metadata.id));
    }
    if let Some(previous) = metadata.previous.filter(|id| *id >= metadata.id) {
        return Err(format!(
            "its number is {}, but it says that number {previous} comes before it",
            metadata.id
        ));
    }
    check_times(metadata)?;
    let groups = KeyGroups::new(metadata.key_groups)
        .ok_or_else(|| format!("it claims to have {} key groups", metadata.key_groups))?;
    let mut ids = BTreeSet::new();
    let mut ranges = Vec::new();
    for operator in &metadata.operators {
        if !ids.insert(&operator.id) {
            return Err(format!("it has operator `{}` twice", operator.id));
        }
        check_operator(operator, groups)?;
        for (subtask, state) in operator.subtasks.iter().enumerate() {
            let mut before: Option<&Segment> = None;
            for (index, segment) in state.segments.iter().enumerate() {
                let place = || {
                    format!(
                        "segment {index} of operator `{}` subtask {subtask}",
                        operator.id
                    )
                };
                check_segment(metadata, segment, before, inline_bytes)
                    .map_err(|what| format!("{} {what}", place()))?;
                let end = segment.offset + segment.length;
                ranges.push((segment.file.as_deref(), segment.offset, end));
                before = Some(segment);
            }
            if let Some(stored) = &state.operator_state {
                check_operator_state(metadata, operator, stored, inline_bytes).map_err(|what| {
                    format!(
                        "the operator state of `{}` subtask {subtask} {what}",
                        operator.id
                    )
                })?;
                let end = stored.offset + stored.length;
                ranges.push((stored.file.as_deref(), stored.offset, end));
            }
        }
    }
    check_sums(metadata)?;
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let ((file, _, end), (next, start, _)) = (pair[0], pair[1]);
        if file == next && start < end {
            let file = file.map_or_else(|| "inline".to_owned(), |file| format!("of `{file}`"));
            return Err(format!("two segments have bytes {start}..{end} {file}"));
        }
    }
    Ok(())
}

fn check_times(metadata: &Metadata) -> Result<(), String> {
    let completed = metadata
        .triggered_at
        .checked_add_unsigned(metadata.duration_ms);
    match completed {
        Some(at) if metadata.triggered_at >= 0 && at <= TIME_MAX_MS => Ok(()),
        _ => Err(format!(
            "it cannot have been triggered at {} ms and have taken {} ms",
            metadata.triggered_at, metadata.duration_ms
        )),
    }
}

fn check_operator(operator: &Operator, groups: KeyGroups) -> Result<(), String> {
    let id = &operator.id;
    if operator.subtasks.len() as u64 != u64::from(operator.parallelism)
        || operator.parallelism == 0
    {
        return Err(format!(
            "operator `{id}` has parallelism {}, but {} subtasks",
            operator.parallelism,
            operator.subtasks.len()
        ));
    }
    let has_segments = operator.subtasks.iter().any(|it| !it.segments.is_empty());
    let is_keyed = has_segments || !operator.states.is_empty();
    if is_keyed && operator.role != Role::Operator {
        return Err(format!("`{id}` has keyed state, but is no operator"));
    }
    if !operator.operator_states.is_empty() && operator.role != Role::Operator {
        return Err(format!("`{id}` has operator state, but is no operator"));
    }
    let most = match is_keyed {
        true => groups.count(),
        false => KeyGroups::MAX,
    };
    if operator.parallelism > most {
        return Err(format!(
            "operator `{id}` has parallelism {}, more than {most} key groups",
            operator.parallelism
        ));
    }
    let mut names = BTreeSet::new();
    for state in &operator.states {
        if !names.insert(&state.name) {
            return Err(format!("operator `{id}` has state `{}` twice", state.name));
        }
        let parts = [
            state.ttl_ms.is_some(),
            state.ttl_refresh.is_some(),
            state.ttl_time.is_some(),
        ];
        if parts != [parts[0]; 3] {
            return Err(format!(
                "state `{}` of operator `{id}` has only a part of a time to live",
                state.name
            ));
        }
        let kind = kind_of(&state.kind);
        if kind == Some(StateKind::Timers) && state.ttl_ms.is_some() {
            return Err(format!(
                "timers `{}` of operator `{id}` have a time to live",
                state.name
            ));
        }
        if kind.is_none() {
            return Err(format!(
                "state `{}` of operator `{id}` has the unknown kind `{}`",
                state.name, state.kind
            ));
        }
    }
    for state in &operator.operator_states {
        if !names.insert(&state.name) {
            return Err(format!("operator `{id}` has state `{}` twice", state.name));
        }
        if state.ttl_ms.is_some() || state.ttl_refresh.is_some() || state.ttl_time.is_some() {
            return Err(format!(
                "operator state `{}` of operator `{id}` has a TTL",
                state.name
            ));
        }
        if scope_of(&state.kind).is_none() {
            return Err(format!(
                "operator state `{}` of operator `{id}` has the unknown scope `{}`",
                state.name, state.kind
            ));
        }
    }
    if has_segments && operator.states.is_empty() {
        return Err(format!("operator `{id}` has segments, but no states"));
    }
    for (subtask, state) in operator.subtasks.iter().enumerate() {
        let ended: BTreeSet<&u32> = state.ended_inputs.iter().collect();
        let too_many = operator.role == Role::Source && !ended.is_empty();
        if ended.len() < state.ended_inputs.len() || too_many {
            return Err(format!(
                "`{id}` subtask {subtask} lists ended inputs that it does not have"
            ));
        }
    }
    Ok(())
}

/// Checks a segment, and that it can stand after the one before it.
fn check_segment(
    metadata: &Metadata,
    segment: &Segment,
    before: Option<&Segment>,
    inline_bytes: u64,
) -> Result<(), String> {
    let Segment { offset, length, .. } = segment;
    let end = offset
        .checked_add(*length)
        .filter(|end| *end <= NUMBER_MAX)
        .ok_or("has no end")?;
    if *length == 0 {
        return Err("has no bytes".to_owned());
    }
    if segment.written_by > metadata.id {
        return Err(format!(
            "was written by checkpoint {}, after this one",
            segment.written_by
        ));
    }
    match &segment.file {
        None if segment.compressed.is_some() => {
            return Err("is compressed, though it is inline".to_owned());
        }
        None if end > inline_bytes => {
            return Err(format!(
                "ends at inline byte {end}, there are {inline_bytes}"
            ));
        }
        None => {}
        Some(file) => check_file(metadata, segment, file)?,
    }
    match before {
        Some(_) if !segment.delta => Err("is not a delta, but has others before it".to_owned()),
        Some(before) if before.written_by >= segment.written_by => Err(format!(
            "was written by checkpoint {}, the one before it by {}",
            segment.written_by, before.written_by
        )),
        _ => Ok(()),
    }
}

/// Checks where operator state is stored: it is always all of it, written by this checkpoint.
fn check_operator_state(
    metadata: &Metadata,
    operator: &Operator,
    stored: &Segment,
    inline_bytes: u64,
) -> Result<(), String> {
    if operator.operator_states.is_empty() {
        return Err("is none that is declared".to_owned());
    }
    if stored.delta {
        return Err("is a delta".to_owned());
    }
    if stored.written_by != metadata.id {
        return Err(format!(
            "was written by checkpoint {}, not by this one",
            stored.written_by
        ));
    }
    let compressed = stored.compressed;
    let bytes = compressed.map_or(stored.length, |it| it.raw_length);
    if bytes > STORED_BYTES_MAX {
        return Err(format!(
            "has {bytes} bytes, more than the {STORED_BYTES_MAX} that it may have"
        ));
    }
    check_segment(metadata, stored, None, inline_bytes)
}

fn check_file(metadata: &Metadata, segment: &Segment, file: &str) -> Result<(), String> {
    let reference =
        Reference::parse(file).map_err(|what| format!("is in file `{file}`: {what}"))?;
    if metadata.kind == Kind::Savepoint && !matches!(reference, Reference::Own(_)) {
        return Err(format!(
            "is in file `{file}`: a savepoint has all its data in its own directory"
        ));
    }
    match reference.checkpoint() == Some(segment.written_by) {
        true => Ok(()),
        false => Err(format!(
            "is in file `{file}`, but was written by checkpoint {}",
            segment.written_by
        )),
    }
}

/// Amounts that are added up by those who show or restore them.
fn check_sums(metadata: &Metadata) -> Result<(), String> {
    let operators = metadata.operators.iter();
    let states = || {
        let operators = operators.clone();
        operators.flat_map(|it| it.states.iter().chain(&it.operator_states))
    };
    let subtasks = metadata.operators.iter().flat_map(|it| &it.subtasks);
    let segments: Vec<&Segment> = subtasks.flat_map(Subtask::stored).collect();
    let raw = |segment: &&Segment| {
        segment
            .compressed
            .map_or(segment.length, |it| it.raw_length)
    };
    for (what, sum) in [
        ("entries", sum(states().map(|state| state.entries))),
        ("bytes of state", sum(states().map(|state| state.bytes))),
        ("bytes", sum(segments.iter().map(|segment| segment.length))),
        ("bytes", sum(segments.iter().map(raw))),
    ] {
        if sum.is_none_or(|sum| sum > NUMBER_MAX) {
            return Err(format!("it claims to have more {what} than can be"));
        }
    }
    Ok(())
}

fn sum(mut numbers: impl Iterator<Item = u64>) -> Option<u64> {
    numbers.try_fold(0_u64, u64::checked_add)
}
