//! Windows that time does not end: of a number of records, or of all.

use super::pane::{Pane, Panes};
use super::plan::{Alarm, Context, Placed, Plan};
use super::span::{Firing, Span};
use crate::aggregate::Aggregate;
use crate::call::NO_TIMESTAMP;
use crate::error::Result;
use crate::record::Record;

/// A window ends with this many records, or with the input.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    records: Option<u32>,
}

/// The watermark at the end of input.
const END_OF_INPUT: i64 = i64::MAX;

impl Counted {
    pub(super) fn new(records: Option<u32>) -> Self {
        Self { records }
    }

    fn emit<G: Aggregate>(
        cx: &Context<'_, G>,
        pane: &Pane<G::Accumulator>,
        firing: Firing,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<()> {
        let span = Span::of_records(pane.first, pane.last, firing);
        emit(span, cx.aggregate.result(&pane.accumulator)?)
    }
}

impl Plan for Counted {
    fn unused() -> Self {
        Self::new(None)
    }

    fn schema(&self) -> String {
        match self.records {
            Some(records) => format!("every_{records}"),
            None => "global".to_owned(),
        }
    }

    fn add<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        record: Record<'_>,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<Placed> {
        let time = record.timestamp().unwrap_or(NO_TIMESTAMP);
        cx.state.update(|held| {
            let panes = held.get_or_insert_default();
            if panes.is_empty() {
                panes.insert(0, Pane::new(time, cx.aggregate.create()));
                if self.records.is_none() {
                    cx.register(Alarm::End, END_OF_INPUT)?;
                }
            }
            let pane = &mut panes.as_mut_slice()[0];
            if time != NO_TIMESTAMP {
                // The smallest number says that no record so far had a time.
                let first = Some(pane.first).filter(|&first| first != NO_TIMESTAMP);
                pane.first = first.map_or(time, |first| first.min(time));
                pane.last = pane.last.max(time);
            }
            cx.aggregate.add(&mut pane.accumulator, record)?;
            pane.records = pane.records.saturating_add(1);
            let records = pane.records;
            if self.records == Some(records) {
                Self::emit(cx, pane, Firing::OnTime, emit)?;
                panes.remove(0);
                cx.forget_if_empty(held)?;
                return Ok(Placed::Added);
            }
            let after = cx.settings.early_after.get();
            if after > 0 && records.is_multiple_of(after) {
                Self::emit(cx, pane, Firing::Early, emit)?;
                if self.records.is_none() {
                    // So that it never gets too large.
                    pane.records = 0;
                }
            }
            cx.changed(panes, 0)?;
            Ok(Placed::Added)
        })?
    }

    fn fire<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        (alarm, _): (Alarm, i64),
        panes: &mut Panes<G::Accumulator>,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<()> {
        match (alarm, panes.as_mut_slice().first_mut()) {
            (Alarm::End, Some(pane)) => {
                Self::emit(cx, pane, Firing::OnTime, emit)?;
                panes.remove(0);
            }
            (Alarm::Early, Some(pane)) if pane.changed => {
                pane.changed = false;
                Self::emit(cx, pane, Firing::Early, emit)?;
            }
            _ => {}
        }
        Ok(())
    }
}
