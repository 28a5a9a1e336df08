//! Windows whose bounds do not depend on the records: tumbling, sliding and cumulative ones.
//!
//! Time is cut into slices, so that every window is made of whole ones. A record is added once, to its slice, and a
//! window's result is merged from its slices when it ends.
//!
//! Each end of a window that has records of a key has a timer of its own, which the first slice of the window to come
//! registers: so a timer that fails, and is left out because the job says so, takes no other window along.
//!
//! If the key has many slices and the watermark has reached further ends, a timer does the work of those that follow it,
//! and deletes them, because each call reads and writes all slices of the key. A timer of an end without slices does
//! nothing.
//!
//! With an allowed lateness it has one more, at or before the time when its first slice is removed. The end of a
//! window registers it, and so does a slice that only windows that have ended have: never sooner, because the
//! operator may allow another lateness after a restart. For the same reason it registers the next one for what it
//! does not remove.

use std::cell::Cell;

use super::pane::{Pane, Panes};
use super::plan::{Alarm, Context, Placed, Plan, closing};
use super::span::{Firing, Span};
use crate::aggregate::Aggregate;
use crate::error::Result;
use crate::record::Record;

/// The most slices of a window.
const SLICES_MAX: i64 = 10_000;

/// Where windows and slices begin and end.
#[derive(Clone, Debug)]
pub struct Grid {
    slice: i64,
    size: i64,
    /// Windows end at `offset` and at multiples of this from there. With cumulative windows it is the step.
    slide: i64,
    offset: i64,
    cumulative: bool,
    /// The slice of the last record, with the end of the last window that it is in: mostly that of the next one, which
    /// so needs no division.
    recent: Cell<(i64, Option<i64>)>,
}

/// A slice that no time falls into.
const NO_SLICE: (i64, Option<i64>) = (i64::MAX, None);

impl Grid {
    pub(super) fn sliding(size: i64, slide: i64, offset: i64) -> Result<Self, String> {
        let slice = greatest_common_divisor(size, slide);
        check_slices(size, slice, slide)?;
        Ok(Self {
            slice,
            size,
            slide,
            offset: (offset.rem_euclid(slide) + size).rem_euclid(slide),
            cumulative: false,
            recent: Cell::new(NO_SLICE),
        })
    }

    pub(super) fn cumulative(size: i64, step: i64, offset: i64) -> Result<Self, String> {
        if size % step != 0 {
            return Err(format!(
                "the window's length of {size} ms is not a multiple of the step of {step} ms"
            ));
        }
        check_slices(size, step, step)?;
        Ok(Self {
            slice: step,
            size,
            slide: step,
            offset: offset.rem_euclid(size),
            cumulative: true,
            recent: Cell::new(NO_SLICE),
        })
    }

    /// The slice that a time falls into, by its first millisecond, and the end of the last window with this slice, if
    /// it is in any.
    #[inline]
    fn slice_of(&self, time: i64) -> (i64, Option<i64>) {
        let recent = self.recent.get();
        if time >= recent.0 && time - recent.0 < self.slice {
            return recent;
        }
        let slice = time - (time - self.offset).rem_euclid(self.slice);
        let found = (slice, self.last_end(slice));
        self.recent.set(found);
        found
    }

    /// The end up to which there are windows with this slice.
    #[inline]
    fn reach(&self, slice: i64) -> i64 {
        if self.cumulative {
            slice - (slice - self.offset).rem_euclid(self.size) + self.size
        } else {
            slice + self.size
        }
    }

    /// The first end after `after` of a window with this slice.
    #[inline]
    fn next_end(&self, slice: i64, after: i64) -> Option<i64> {
        let (from, reach) = (
            (slice + self.slice).max(after.saturating_add(1)),
            self.reach(slice),
        );
        if from > reach {
            return None;
        }
        let end = from + (self.offset - from).rem_euclid(self.slide);
        Some(end).filter(|&end| end <= reach)
    }

    /// The end of the last window with this slice, if it is in any.
    #[inline]
    fn last_end(&self, slice: i64) -> Option<i64> {
        let reach = self.reach(slice);
        let end = reach - (reach - self.offset).rem_euclid(self.slide);
        Some(end).filter(|&end| end >= slice + self.slice)
    }

    /// The start of the window with this end.
    fn start_of(&self, end: i64) -> i64 {
        if self.cumulative {
            self.reach(end - self.slice) - self.size
        } else {
            end - self.size
        }
    }

    /// The panes of the window with this end.
    fn within<'a, A>(&self, panes: &'a [Pane<A>], end: i64) -> &'a [Pane<A>] {
        let start = self.start_of(end);
        let first = panes.partition_point(|pane| pane.first < start);
        let end = panes.partition_point(|pane| pane.first < end);
        &panes[first..end]
    }

    /// The result of a window with these panes.
    fn result<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        panes: &[Pane<G::Accumulator>],
    ) -> Result<G::Result> {
        if let [one] = panes {
            return cx.aggregate.result(&one.accumulator);
        }
        let mut all = cx.aggregate.create();
        for pane in panes {
            cx.aggregate.merge(&mut all, &pane.accumulator)?;
        }
        cx.aggregate.result(&all)
    }

    /// The window with this end.
    fn span(&self, end: i64, firing: Firing) -> Span {
        Span::new(self.start_of(end), end, firing)
    }

    /// Emits the result of the window with this end, which has panes.
    fn emit<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        panes: &Panes<G::Accumulator>,
        (end, firing): (i64, Firing),
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<()> {
        let result = self.result(cx, self.within(panes.as_slice(), end))?;
        emit(self.span(end, firing), result)
    }

    /// Emits the window with this end and those after it that the watermark has reached. Returns the last end that it
    /// has come to; nothing if there is no such window.
    fn emit_ended<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        panes: &Panes<G::Accumulator>,
        end: i64,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<Option<i64>> {
        let within = self.within(panes.as_slice(), end);
        if within.is_empty() {
            return Ok(None);
        }
        let now = cx.now(end - 1, panes.as_slice().len());
        let mut reached = end;
        emit(self.span(end, Firing::OnTime), self.result(cx, within)?)?;
        // The next end of a pane is never before that of a pane before it. A pane without one never has one again, and
        // is not looked at twice.
        for pane in panes.as_slice() {
            while let Some(next) = self.next_end(pane.first, reached) {
                if next - 1 > now {
                    return Ok(Some(reached));
                }
                let within = self.within(panes.as_slice(), next);
                if !cx.may_go_ahead(within.len()) {
                    return Ok(Some(reached));
                }
                // A window that has no result fails when its own timer fires, and takes no other along.
                let Ok(result) = self.result(cx, within) else {
                    return Ok(Some(reached));
                };
                emit(self.span(next, Firing::OnTime), result)?;
                cx.skip_end(next)?;
                reached = next;
            }
        }
        Ok(Some(reached))
    }

    /// Emits the windows that end after `after` and no later than `until`, and that have a pane that `is_due`.
    fn emit_due<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        panes: &Panes<G::Accumulator>,
        (mut after, until, firing): (i64, i64, Firing),
        is_due: impl Fn(&Pane<G::Accumulator>) -> bool,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<()> {
        // As above, the next end of a pane is never before that of a pane before it.
        for pane in panes.as_slice().iter().filter(|pane| is_due(pane)) {
            while let Some(end) = self.next_end(pane.first, after) {
                if end > until {
                    return Ok(());
                }
                self.emit(cx, panes, (end, firing), emit)?;
                after = end;
            }
        }
        Ok(())
    }

    /// Registers the timers of a pane that is new, those that no other pane has already.
    #[inline(never)]
    fn register<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        panes: &[Pane<G::Accumulator>],
        at: usize,
        (last_end, fired): (i64, i64),
    ) -> Result<()> {
        let slice = panes[at].first;
        let Some(first) = self.next_end(slice, fired) else {
            return cx.clean_after(last_end);
        };
        // Ends that it shares with the slice before it, or the one after it, have their timers.
        let before = at
            .checked_sub(1)
            .and_then(|before| self.last_end(panes[before].first));
        let mut next = match before {
            Some(end) if end >= first => self.next_end(slice, end),
            _ => Some(first),
        };
        let after = panes
            .get(at + 1)
            .and_then(|pane| self.next_end(pane.first, fired));
        while let Some(end) = next
            && after.is_none_or(|after| end < after)
        {
            cx.register(Alarm::End, end - 1)?;
            next = self.next_end(slice, end);
        }
        Ok(())
    }

    /// Registers the removal of the first slice.
    fn register_clean<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        panes: &Panes<G::Accumulator>,
    ) -> Result<()> {
        let first = panes.as_slice().first();
        match first.and_then(|pane| self.last_end(pane.first)) {
            Some(end) => cx.clean_after(end),
            None => Ok(()),
        }
    }

    /// What a record in a window that has not ended means for early results.
    fn early<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        panes: &mut Panes<G::Accumulator>,
        (at, fired): (usize, i64),
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<()> {
        let slice = panes.as_slice()[at].first;
        let Some(mut end) = self.next_end(slice, fired) else {
            return Ok(());
        };
        cx.changed(panes, at)?;
        let after = cx.settings.early_after.get();
        if after == 0 {
            return Ok(());
        }
        let records = &mut panes.as_mut_slice()[at].records;
        *records = records.saturating_add(1);
        loop {
            let within = self.within(panes.as_slice(), end);
            let records: u64 = within.iter().map(|pane| u64::from(pane.records)).sum();
            if records.is_multiple_of(u64::from(after)) {
                self.emit(cx, panes, (end, Firing::Early), emit)?;
            }
            match self.next_end(slice, end) {
                Some(next) => end = next,
                None => return Ok(()),
            }
        }
    }
}

/// The place of a slice's pane, or the one where it belongs. Most records are in the last one.
#[inline]
fn find<A>(panes: &[Pane<A>], slice: i64) -> Result<usize, usize> {
    match panes.last() {
        Some(last) if last.first == slice => Ok(panes.len() - 1),
        Some(last) if last.first > slice => panes.binary_search_by_key(&slice, |pane| pane.first),
        _ => Err(panes.len()),
    }
}

impl Plan for Grid {
    fn unused() -> Self {
        Self {
            slice: 1,
            size: 1,
            slide: 1,
            offset: 0,
            cumulative: false,
            recent: Cell::new(NO_SLICE),
        }
    }

    fn schema(&self) -> String {
        let kind = if self.cumulative {
            "cumulative"
        } else {
            "sliding"
        };
        let Self {
            size,
            slide,
            offset,
            ..
        } = self;
        format!("{kind}_{size}_{slide}_{offset}_newest_first")
    }

    #[inline]
    fn add<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        record: Record<'_>,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<Placed> {
        let (slice, last_end) = self.slice_of(cx.time(record)?);
        let (fired, lateness) = (cx.fired(), cx.lateness());
        // Windows up to here are closed.
        let closed = fired.saturating_sub(lateness);
        let Some(last_end) = last_end else {
            return Ok(Placed::Between);
        };
        if last_end <= closed {
            return Ok(Placed::Late);
        }
        cx.state.update(|held| {
            let panes = held.get_or_insert_default();
            // A result with each so many records is of all slices of a window. Otherwise those before the newest may stay as
            // they are stored.
            let is_newest = panes
                .as_slice()
                .last()
                .is_none_or(|newest| newest.first <= slice);
            if !is_newest || cx.settings.early_after.get() > 0 {
                panes.unpack()?;
            }
            let at = match find(panes.as_slice(), slice) {
                Ok(at) => at,
                Err(at) => {
                    panes.insert(at, Pane::new(slice, cx.aggregate.create()));
                    self.register(cx, panes.as_slice(), at, (last_end, fired))?;
                    at
                }
            };
            let pane = &mut panes.as_mut_slice()[at];
            cx.aggregate.add(&mut pane.accumulator, record)?;
            // With the next watermark, windows that have ended give their results again.
            let is_late = |end| end <= fired;
            if lateness > 0 && self.next_end(slice, closed).is_some_and(is_late) {
                pane.late = true;
                // Each time, because the one before may have failed and been left out.
                cx.register(Alarm::Late, fired - 1)?;
            }
            if cx.is_early() {
                self.early(cx, panes, (at, fired), emit)?;
            }
            Ok(Placed::Added)
        })?
    }

    fn fire<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        (alarm, time): (Alarm, i64),
        panes: &mut Panes<G::Accumulator>,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<()> {
        let end = time.saturating_add(1);
        let lateness = cx.lateness();
        match alarm {
            Alarm::End => {
                let Some(reached) = self.emit_ended(cx, panes, end, emit)? else {
                    // A time to live has removed what the timer was registered for. The slices that came afterwards have
                    // a timer of their own, which may have given their results already.
                    return Ok(());
                };
                panes.retain(|pane| {
                    self.last_end(pane.first)
                        .is_some_and(|last| closing(last, lateness) >= reached)
                });
                if lateness > 0 {
                    self.register_clean(cx, panes)?;
                }
                Ok(())
            }
            Alarm::Late => {
                let bounds = (end.saturating_sub(lateness), end, Firing::Late);
                self.emit_due(cx, panes, bounds, |pane| pane.late, emit)?;
                let all = panes.as_mut_slice().iter_mut();
                all.for_each(|pane| pane.late = false);
                Ok(())
            }
            Alarm::Clean => {
                // A window that ends later may not have given its result yet.
                let now = cx.now(time, panes.as_slice().len());
                panes.retain(|pane| {
                    self.last_end(pane.first)
                        .is_some_and(|last| last > end || closing(last, lateness) > now)
                });
                self.register_clean(cx, panes)
            }
            Alarm::Early => {
                let bounds = (cx.fired(), i64::MAX, Firing::Early);
                self.emit_due(cx, panes, bounds, |pane| pane.changed, emit)?;
                let all = panes.as_mut_slice().iter_mut();
                all.for_each(|pane| pane.changed = false);
                Ok(())
            }
        }
    }
}

fn check_slices(size: i64, slice: i64, slide: i64) -> Result<(), String> {
    let slices = size / slice;
    if slices > SLICES_MAX {
        return Err(format!(
            "a window of {size} ms is made of {slices} slices of {slice} ms, because it moves by {slide} ms; more than \
             {SLICES_MAX} are not kept: choose lengths with a larger common divisor"
        ));
    }
    Ok(())
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}
