//! Sessions: windows that grow with their records and join.
//!
//! Each session that has not ended has a timer at or before its end: so a timer that fails, and is left out because the
//! job says so, takes no other session along. A session that grows leaves its timer where it is: when it fires too
//! early, it is registered for what is then the end. So a record costs no timer, and none has to be deleted. A timer of
//! a session that has joined another one finds nothing. What is registered then is the first end after the timer: that of
//! the session that has grown, or of one that has a timer there already.
//!
//! If a key has many sessions, the watermark has reached the ends of more of them, and they are not kept after their
//! ends, a timer does the work of those that follow it, because each call reads and writes all sessions of the key. A
//! timer of an end that a session has outgrown finds nothing afterwards. Sessions that are kept would give their
//! results twice.

use super::pane::{Pane, Panes};
use super::plan::{Alarm, Context, Placed, Plan, closing};
use super::span::{Firing, Span};
use crate::aggregate::Aggregate;
use crate::error::Result;
use crate::record::Record;

/// Sessions of one gap.
#[derive(Clone, Copy, Debug)]
pub struct Sessions {
    gap: i64,
}

impl Sessions {
    pub(super) fn new(gap: i64) -> Self {
        Self { gap }
    }

    /// The first millisecond after a session.
    #[inline]
    fn end<A>(&self, pane: &Pane<A>) -> i64 {
        pane.last + self.gap
    }

    /// The first end after `after`.
    fn next_end<A>(&self, panes: &[Pane<A>], after: i64) -> Option<i64> {
        // Sessions are apart, so the order of their starts is that of their ends.
        let at = panes.partition_point(|pane| self.end(pane) <= after);
        panes.get(at).map(|pane| self.end(pane))
    }

    /// Puts a time into the session it touches, joins all that it touches, or begins one. Returns its place.
    fn place<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        panes: &mut Panes<G::Accumulator>,
        time: i64,
    ) -> Result<usize> {
        let all = panes.as_slice();
        let at = all.partition_point(|pane| self.end(pane) < time);
        let touched = all[at..]
            .iter()
            .take_while(|pane| pane.first <= time + self.gap)
            .count();
        if touched == 0 {
            panes.insert(at, Pane::new(time, cx.aggregate.create()));
            return Ok(at);
        }
        for _ in 1..touched {
            let other = panes.remove(at + 1);
            let pane = &mut panes.as_mut_slice()[at];
            cx.aggregate
                .merge(&mut pane.accumulator, &other.accumulator)?;
            pane.last = other.last;
            pane.records = pane.records.saturating_add(other.records);
        }
        let pane = &mut panes.as_mut_slice()[at];
        pane.first = pane.first.min(time);
        pane.last = pane.last.max(time);
        Ok(at)
    }

    fn emit<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        pane: &Pane<G::Accumulator>,
        firing: Firing,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<()> {
        emit(
            self.span(pane, firing),
            cx.aggregate.result(&pane.accumulator)?,
        )
    }

    fn span<A>(&self, pane: &Pane<A>, firing: Firing) -> Span {
        Span::new(pane.first, self.end(pane), firing)
    }

    /// Emits the session with this end, if there is one, and those after it that the watermark has reached unless they
    /// are kept. Returns the end up to which it has.
    fn emit_ended<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        panes: &Panes<G::Accumulator>,
        end: i64,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<i64> {
        let now = match cx.lateness() {
            0 => cx.now(end - 1, panes.as_slice().len()),
            _ => end - 1,
        };
        let all = panes.as_slice();
        let from = all.partition_point(|pane| self.end(pane) < end);
        let mut until = end;
        for pane in &all[from..] {
            let next = self.end(pane);
            if next > end && (next - 1 > now || !cx.may_go_ahead(1)) {
                break;
            }
            let result = match cx.aggregate.result(&pane.accumulator) {
                // A session that has no result fails when its own timer fires, and takes no other along.
                Err(_) if next > end => break,
                result => result?,
            };
            emit(self.span(pane, Firing::OnTime), result)?;
            self.emitted(cx, next)?;
            if next > end {
                cx.skip_end(next)?;
            }
            until = next;
        }
        Ok(until)
    }

    /// A session has given its result: it is removed when it is closed.
    fn emitted<G: Aggregate>(&self, cx: &Context<'_, G>, end: i64) -> Result<()> {
        match cx.lateness() {
            0 => Ok(()),
            _ => cx.clean_after(end),
        }
    }
}

impl Plan for Sessions {
    fn unused() -> Self {
        Self::new(1)
    }

    fn schema(&self) -> String {
        format!("session_{}_newest_first", self.gap)
    }

    #[inline]
    fn add<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        record: Record<'_>,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<Placed> {
        let time = cx.time(record)?;
        let (fired, lateness) = (cx.fired(), cx.lateness());
        let closed = fired.saturating_sub(lateness);
        cx.state.update(|held| {
            if let Some(panes) = held {
                panes.unpack()?;
            }
            let all = held.as_ref().map_or(&[][..], Panes::as_slice);
            let at = all.partition_point(|pane| self.end(pane) < time);
            let touched = all[at..]
                .iter()
                .take_while(|pane| pane.first <= time + self.gap);
            let (mut is_alone, mut has_timer) = (true, false);
            for pane in touched {
                is_alone = false;
                has_timer |= self.end(pane) > fired;
            }
            if is_alone && time + self.gap <= closed {
                return Ok(Placed::Late);
            }
            let panes = held.get_or_insert_default();
            let at = self.place(cx, panes, time)?;
            let pane = &mut panes.as_mut_slice()[at];
            cx.aggregate.add(&mut pane.accumulator, record)?;
            let end = self.end(pane);
            if end <= fired {
                // It has ended: with the next watermark it gives its result again.
                pane.late = true;
                // Each time, because the one before may have failed and been left out.
                cx.register(Alarm::Late, fired - 1)?;
                return Ok(Placed::Added);
            }
            pane.late = false;
            if !has_timer {
                cx.register(Alarm::End, end - 1)?;
            }
            cx.changed(panes, at)?;
            let after = cx.settings.early_after.get();
            if after > 0 {
                let pane = &mut panes.as_mut_slice()[at];
                pane.records = pane.records.saturating_add(1);
                if pane.records >= after {
                    pane.records = 0;
                    self.emit(cx, pane, Firing::Early, emit)?;
                }
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
        match alarm {
            Alarm::End => {
                let end = time.saturating_add(1);
                let until = self.emit_ended(cx, panes, end, emit)?;
                if cx.lateness() == 0 {
                    // Also those before, whose timers were left out.
                    panes.retain(|pane| self.end(pane) > until);
                }
                match self.next_end(panes.as_slice(), until) {
                    Some(next) => cx.register(Alarm::End, next - 1),
                    None => Ok(()),
                }
            }
            Alarm::Late => {
                for pane in panes.as_mut_slice().iter_mut().filter(|pane| pane.late) {
                    pane.late = false;
                    self.emit(cx, pane, Firing::Late, emit)?;
                    self.emitted(cx, self.end(pane))?;
                }
                Ok(())
            }
            Alarm::Clean => {
                panes.retain(|pane| closing(self.end(pane), cx.lateness()) > time);
                // Since the timer was registered, the session may have grown, and the lateness with a restart.
                match panes.as_slice().first() {
                    Some(pane) => cx.clean_after(self.end(pane)),
                    None => Ok(()),
                }
            }
            Alarm::Early => {
                let fired = cx.fired();
                for pane in panes.as_mut_slice().iter_mut().filter(|pane| pane.changed) {
                    pane.changed = false;
                    if self.end(pane) > fired {
                        self.emit(cx, pane, Firing::Early, emit)?;
                    }
                }
                Ok(())
            }
        }
    }
}
