//! What one call of a guest may still use of its limits: time, and bytes that it writes.
//!
//! A guest's own code is stopped by interruption points. While the host works for it nothing interrupts,
//! so every access whose length the guest chooses is cut into portions, and the clock is read between them.

use std::ops::Range;
use std::time::{Duration, Instant};

use dataflow::CellsRef;
use operator::text::size;
use operator::{Failure, FailureKind};

use super::phase::Phase;

/// How many entries of an access pass between two looks at the clock: a hundredth of a second in state that
/// is slow, and more than a batch has keys.
pub(super) const PORTION_ENTRIES: usize = 4096;
/// How many bytes of a column pass between two looks at the clock, unless one cell has more.
const PORTION_BYTES: usize = 8 << 20;

/// When a call has to be over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    begun: Instant,
    limit: Duration,
    at: Option<Instant>,
}

impl Deadline {
    /// The deadline of a call that begins now. Nothing stops one without a `limit`.
    #[expect(
        clippy::disallowed_methods,
        reason = "the time of a guest's call is real whatever clock a job has"
    )]
    pub(super) fn begin(limit: Option<Duration>) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            limit: limit.unwrap_or(Duration::MAX),
            at: limit.and_then(|limit| begun.checked_add(limit)),
        }
    }

    /// How long ago the call has begun.
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The moment, if there is one.
    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// # Errors
    /// The call has taken longer than its limit.
    #[expect(
        clippy::disallowed_methods,
        reason = "the time of a guest's call is real whatever clock a job has"
    )]
    pub(super) fn check(&self, phase: Phase) -> Result<(), Failure> {
        match self.at {
            Some(at) if Instant::now() >= at => Err(self.passed(phase)),
            _ => Ok(()),
        }
    }

    /// What is said of a call that has taken longer.
    pub(super) fn passed(&self, phase: Phase) -> Failure {
        let limit = humantime::format_duration(self.limit);
        Failure::new(
            FailureKind::TimeLimit,
            format!(
                "`{}` took longer than limits.call-time = {limit}",
                phase.name()
            ),
        )
    }
}

/// Carries an access out, portion by portion while there is time: `access` gets the number of its first
/// entry, the keys, and the columns beside them.
///
/// # Errors
/// Those of `access`, or the call has taken too long. What was done then stays done until the call is rolled
/// back.
pub(super) fn in_portions<const N: usize>(
    deadline: Deadline,
    phase: Phase,
    keys: &[u32],
    columns: [CellsRef<'_>; N],
    mut access: impl FnMut(usize, &[u32], [CellsRef<'_>; N]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    in_ranges(deadline, phase, keys.len(), columns, |range, columns| {
        access(range.start, &keys[range], columns)
    })
}

/// The same without keys: `access` gets the range of its entries.
///
/// # Errors
/// As [`in_portions`].
pub(super) fn in_ranges<const N: usize>(
    deadline: Deadline,
    phase: Phase,
    entries: usize,
    columns: [CellsRef<'_>; N],
    mut access: impl FnMut(Range<usize>, [CellsRef<'_>; N]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let uneven = columns.iter().any(|column| column.len() != entries);
    let is_small = entries <= PORTION_ENTRIES
        && columns
            .iter()
            .all(|column| column.byte_len() <= PORTION_BYTES);
    // Columns that do not fit each other are refused before anything is done.
    if is_small || uneven {
        return access(0..entries, columns);
    }
    let mut offsets: [Vec<u32>; N] = std::array::from_fn(|_| Vec::new());
    let mut at = 0;
    while at < entries {
        let counts = columns
            .iter()
            .map(|column| column.count_within(at, PORTION_BYTES));
        let left = entries - at;
        let count = counts.fold(PORTION_ENTRIES.min(left), usize::min);
        let mut offsets = offsets.iter_mut();
        let parts = columns.map(|column| {
            let offsets = offsets.next().expect("there are as many as columns");
            column.part(at..at + count, offsets)
        });
        access(at..at + count, parts)?;
        deadline.check(phase)?;
        at += count;
    }
    Ok(())
}

/// Carries an access out for which `portion` has to be called until it returns that all is done, while there
/// is time: one key's map may have millions of entries.
///
/// # Errors
/// As [`in_portions`].
pub(super) fn until_done(
    deadline: Deadline,
    phase: Phase,
    mut portion: impl FnMut() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    while !portion()? {
        deadline.check(phase)?;
    }
    Ok(())
}

/// Counts what one call writes into keyed state and as output. The host holds all of it until the call
/// returns, so it is counted before it is copied.
#[derive(Debug)]
pub(super) struct Writes {
    limit: u64,
    written: u64,
}

impl Writes {
    /// What an entry of state costs beside its bytes: its row, its place in the index, and what takes it
    /// back.
    pub(super) const ENTRY_BYTES: u64 = 64;
    /// What a record costs beside its bytes: its places in the columns.
    pub(super) const RECORD_BYTES: u64 = 16;

    pub(super) fn new(limit: u64) -> Self {
        Self { limit, written: 0 }
    }

    /// Nothing was written yet.
    pub(super) fn begin_call(&mut self) {
        self.written = 0;
    }

    /// How many bytes were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The most bytes that may be.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Counts this many entries or records, each with what it costs beside its bytes, and the bytes of all.
    ///
    /// # Errors
    /// The call has written more than its limit; the entries must not be taken.
    pub(super) fn count(
        &mut self,
        phase: Phase,
        count: usize,
        each: u64,
        bytes: usize,
    ) -> Result<(), Failure> {
        let entries = (count as u64).saturating_mul(each);
        self.written = self
            .written
            .saturating_add(entries)
            .saturating_add(bytes as u64);
        if self.written > self.limit {
            return Err(self.too_much(phase));
        }
        Ok(())
    }

    fn too_much(&self, phase: Phase) -> Failure {
        Failure::new(
            FailureKind::MemoryLimit,
            format!(
                "`{}` wrote more into state and output than limits.call-writes = {} allows one call; if it \
                 has to, raise that limit in the job file",
                phase.name(),
                size(self.limit)
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use dataflow::Cells;

    use super::*;

    #[test]
    fn c150_what_one_call_writes_is_counted_with_its_entries() {
        let mut writes = Writes::new(100);
        let mut fits = |count, each, bytes| {
            writes
                .count(Phase::Process, count, each, bytes)
                .map_err(|failure| assert!(failure.message.contains("call-writes = 100")))
                .is_ok()
        };
        assert!(fits(2, 16, 60));
        assert!(fits(0, 16, 8));
        assert!(!fits(1, 64, 0));
        assert!(!fits(0, 64, 0));
        writes.begin_call();
        assert!(writes.count(Phase::Process, 1, 64, 36).is_ok());
        writes.begin_call();
        let all = writes.count(Phase::Process, usize::MAX, 64, usize::MAX);
        assert!(all.is_err());
    }

    #[test]
    fn c160_portions_make_up_the_whole_until_the_time_is_over() {
        let keys: Vec<u32> = (0..3 * PORTION_ENTRIES as u32 + 7).collect();
        let column: Cells = keys.iter().map(|_| &b"field"[..]).collect();
        let large: Cells = (0..3).map(|_| &[0; PORTION_BYTES][..]).collect();
        let run = |deadline, keys: &[u32], column: &Cells| {
            let mut seen: Vec<(usize, Vec<u32>, usize)> = Vec::new();
            let columns = [column.as_ref()];
            let done = in_portions(
                deadline,
                Phase::Process,
                keys,
                columns,
                |at, keys, [cells]| {
                    seen.push((at, keys.to_vec(), cells.len()));
                    Ok(())
                },
            );
            (done, seen)
        };
        let (done, seen) = run(Deadline::begin(None), &keys, &column);
        done.unwrap();
        assert_eq!(seen.len(), 4);
        let all: Vec<u32> = seen.iter().flat_map(|(_, keys, _)| keys.clone()).collect();
        assert_eq!(all, keys);
        assert!(
            seen.iter()
                .all(|(at, keys, cells)| *cells == keys.len() && keys[0] as usize == *at)
        );
        let (done, seen) = run(Deadline::begin(None), &[0, 1, 2], &large);
        done.unwrap();
        assert_eq!(seen.len(), 3);
        // Time that is over stops what is left.
        let (done, seen) = run(Deadline::begin(Some(Duration::ZERO)), &keys, &column);
        assert_eq!(done.unwrap_err().kind, FailureKind::TimeLimit);
        assert_eq!(seen.len(), 1);
        let mut portions = 0;
        let mut clear = |deadline| {
            portions = 0;
            let done = until_done(deadline, Phase::Process, || {
                portions += 1;
                Ok(portions == 3)
            });
            (done, portions)
        };
        assert!(matches!(clear(Deadline::begin(None)), (Ok(()), 3)));
        let (done, portions) = clear(Deadline::begin(Some(Duration::ZERO)));
        assert_eq!(
            (done.unwrap_err().kind, portions),
            (FailureKind::TimeLimit, 1)
        );
        // What does not fit is handed on as it is.
        let (done, seen) = run(Deadline::begin(None), &keys[1..], &column);
        done.unwrap();
        assert_eq!(seen.len(), 1);
    }
}
