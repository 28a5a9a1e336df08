//! What all kinds of windows share: how they are configured, and what they do things with.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::assign::{fraction, has_fraction};
use super::pane::Panes;
use super::span::Span;
use crate::aggregate::Aggregate;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::record::Record;
use crate::state::ValueState;
use crate::timer::{TimeDomain, Timers};

/// How records get into windows of one kind, and how those end.
pub trait Plan: fmt::Debug + Sized + 'static {
    /// Names the kind with its lengths, as part of the state's schema: panes of other lengths mean something else.
    fn schema(&self) -> String;

    /// One that is never used.
    fn unused() -> Self;

    /// Adds a record to the windows it falls into.
    fn add<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        record: Record<'_>,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<Placed>;

    /// A timer has fired that was registered for `time`.
    fn fire<G: Aggregate>(
        &self,
        cx: &Context<'_, G>,
        due: (Alarm, i64),
        panes: &mut Panes<G::Accumulator>,
        emit: &mut impl FnMut(Span, G::Result) -> Result<()>,
    ) -> Result<()>;
}

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// Into a window at least.
    Added,
    /// Nowhere: all its windows are closed.
    Late,
    /// Nowhere: it lies between windows.
    Between,
}

/// What the timers of a window are for. The order is that of timers with the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// A window ends.
    End,
    /// Windows that have ended got late records.
    Late,
    /// Panes are not needed any more.
    Clean,
    /// By the clock: an early result is due.
    Early,
}

/// Tags of windows have this bit, others not.
const WINDOWS: u32 = 1 << 31;

impl Alarm {
    /// The tag of window `window`.
    pub(super) fn tag(self, window: u32) -> u32 {
        WINDOWS | window << 2 | self as u32
    }

    /// What a timer with this tag is for, if it belongs to window `window`.
    pub(super) fn of(tag: u32, window: u32) -> Option<Self> {
        [Self::End, Self::Late, Self::Clean, Self::Early]
            .into_iter()
            .find(|alarm| alarm.tag(window) == tag)
    }
}

/// What was said about a window when it was declared.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) name: String,
    /// How long a window is kept after its end.
    pub(crate) lateness: Cell<i64>,
    /// The interval of early results by the clock, or 0.
    pub(crate) early_every: Cell<i64>,
    /// After how many records there is an early result, or 0.
    pub(crate) early_after: Cell<u32>,
    /// The output of late records.
    pub(crate) late_to: RefCell<Option<Rc<str>>>,
    /// The most results that a call gives ahead of their timers. 0 if the operator has other windows or timers of its
    /// own, which have their turn between them.
    pub(crate) ahead_max: Cell<usize>,
    /// A key with fewer panes gives none ahead.
    pub(crate) ahead_from: Cell<usize>,
    /// Mistakes, which are reported when the operator has been opened.
    pub(crate) problems: RefCell<Vec<String>>,
}

impl Settings {
    /// Reports a mistake.
    pub(super) fn problem(&self, problem: String) {
        let problem = format!("window `{}`: {problem}", self.name);
        self.problems.borrow_mut().push(problem);
    }

    /// A length in milliseconds, 0 if it is none.
    pub(super) fn milliseconds(&self, what: &str, length: Duration) -> i64 {
        if has_fraction(length) {
            self.problem(fraction(what, length));
        }
        i64::try_from(length.as_millis()).unwrap_or_else(|_| {
            self.problem(format!("{what} is too long"));
            0
        })
    }
}

/// What a plan does things with.
pub struct Context<'a, G: Aggregate> {
    pub(super) aggregate: &'a G,
    pub(super) settings: &'a Settings,
    pub(super) state: &'a ValueState<Panes<G::Accumulator>>,
    pub(super) timers: &'a Timers,
    pub(super) call: &'a Call,
    pub(super) host: &'a Host,
    pub(super) window: u32,
    pub(super) ahead: &'a Cell<Ahead>,
}

/// What the timers of a call have given ahead of their time: the results of windows whose own timers would have come
/// later.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ahead {
    /// The number of the call.
    call: u64,
    results: usize,
    /// The panes that were merged for these results.
    panes: usize,
    /// How many calls of this instance there were up to this one since one has failed. The first gives nothing ahead,
    /// each later one twice as much as the one before: a timer that is tried alone, because something has failed, does
    /// nothing but its own work, and a window that fails is found in few calls.
    calls: u32,
}

/// With fewer panes a key's state is read and written fast, and results come in the order of time over all keys.
pub(super) const AHEAD_FROM: usize = 100;

/// The most results that a call gives ahead: as many as it has timers at most, so that it emits at most twice what it
/// would.
pub(crate) const AHEAD_RESULTS_MAX: usize = 1024;

/// The most panes that are merged for them, because a call's time is limited. One window may have as many.
const AHEAD_PANES_MAX: usize = 10_000;

/// Event times are refused outside of this, so that no sum of times is too large.
const TIME_MAX: u64 = 1 << 61;

impl<G: Aggregate> Context<'_, G> {
    /// The record's event time.
    #[inline]
    pub(super) fn time(&self, record: Record<'_>) -> Result<i64> {
        match record.timestamp() {
            Some(time) if time.unsigned_abs() <= TIME_MAX => Ok(time),
            time => Err(no_time(&self.settings.name, time)),
        }
    }

    /// The windows up to this end have fired: those whose last millisecond the watermark has reached.
    #[inline]
    pub(super) fn fired(&self) -> i64 {
        self.call.watermark(self.host).saturating_add(1)
    }

    #[inline]
    pub(super) fn lateness(&self) -> i64 {
        self.settings.lateness.get()
    }

    /// Whether there are early results.
    #[inline]
    pub(super) fn is_early(&self) -> bool {
        self.settings.early_every.get() > 0 || self.settings.early_after.get() > 0
    }

    pub(super) fn register(&self, alarm: Alarm, time: i64) -> Result<()> {
        self.timers
            .register_event_time(time, alarm.tag(self.window))
    }

    /// Until when a timer for `time` may do the work of those that follow it, where there are many `panes`: the key's
    /// state is read and written once for all of them. Other timers of the operator may be due between them, and keep
    /// their turn.
    pub(super) fn now(&self, time: i64, panes: usize) -> i64 {
        if self.settings.ahead_max.get() > 0 && panes >= self.settings.ahead_from.get() {
            self.call.watermark(self.host).max(time)
        } else {
            time
        }
    }

    fn ahead(&self) -> Ahead {
        let ahead = self.ahead.get();
        let call = self.call.id();
        if ahead.call == call {
            ahead
        } else {
            Ahead {
                call,
                calls: ahead.calls.saturating_add(1),
                ..Ahead::default()
            }
        }
    }

    /// The most results that the call may give ahead.
    fn ahead_max(&self, ahead: Ahead) -> usize {
        let most = 1_usize
            .checked_shl(ahead.calls)
            .map_or(usize::MAX, |twice| twice / 4);
        most.min(self.settings.ahead_max.get())
    }

    /// Notes that the call has failed.
    pub(super) fn failed(&self) {
        self.ahead.set(Ahead {
            call: self.call.id(),
            ..Ahead::default()
        });
    }

    /// Whether timers of the call have given so much ahead that those after them are put off until the next call.
    /// Otherwise each of them would read and write all windows of its key to give one result.
    pub(super) fn is_ahead_enough(&self) -> bool {
        let ahead = self.ahead();
        ahead.results > 0 && (ahead.results >= self.ahead_max(ahead) || self.call.has_handed_over())
    }

    /// Whether one more result, of this many panes, may be given ahead of its timer in this call. Counts it.
    ///
    /// A call whose output has grown so large that the host has some of it already gives no more ahead.
    pub(super) fn may_go_ahead(&self, panes: usize) -> bool {
        let ahead = self.ahead();
        let more = Ahead {
            results: ahead.results + 1,
            panes: ahead.panes + panes,
            ..ahead
        };
        let may = more.results <= self.ahead_max(ahead)
            && more.panes <= AHEAD_PANES_MAX
            && !self.call.has_handed_over();
        self.ahead.set(if may { more } else { ahead });
        may
    }

    /// Deletes the timer of an end that was reached without it.
    pub(super) fn skip_end(&self, end: i64) -> Result<()> {
        self.timers
            .delete_event_time(end - 1, Alarm::End.tag(self.window))
    }

    /// Registers the removal of what is kept until the windows up to `end` are closed.
    pub(super) fn clean_after(&self, end: i64) -> Result<()> {
        self.register(Alarm::Clean, closing(end, self.lateness()))
    }

    /// A record was added to the pane at this place, whose window has not ended: an early result is due some time.
    pub(super) fn changed(&self, panes: &mut Panes<G::Accumulator>, at: usize) -> Result<()> {
        let interval = self.settings.early_every.get();
        if interval == 0 {
            return Ok(());
        }
        panes.as_mut_slice()[at].changed = true;
        let now = self.call.processing_time(self.host);
        let time = match panes.early_at {
            // It is still to come.
            Some(time) if time > now => return Ok(()),
            // It fires after this call, or a host that skips what fell due while the job was down has dropped it. To
            // register it twice is the same as once, and it must not be put off.
            Some(time) => time,
            None => now.saturating_add(interval),
        };
        panes.early_at = Some(time);
        self.timers
            .register_processing_time(time, Alarm::Early.tag(self.window))
    }

    /// Removes what is left of a key without panes.
    pub(super) fn forget_if_empty(&self, held: &mut Option<Panes<G::Accumulator>>) -> Result<()> {
        if let Some(panes) = held
            && panes.is_empty()
        {
            if let Some(time) = panes.early_at {
                self.timers.delete(
                    TimeDomain::ProcessingTime,
                    time,
                    Alarm::Early.tag(self.window),
                )?;
            }
            *held = None;
        }
        Ok(())
    }
}

#[cold]
fn no_time(window: &str, time: Option<i64>) -> Error {
    match time {
        // All records of a source have one or none has: neither a restart helps nor leaving out this one.
        None => Error::config(format_args!(
            "the record has no event time, so it falls into no window of `{window}`: give its source a `timestamp`, \
             or emit it with `emit_at`"
        )),
        Some(time) => Error::new(format_args!(
            "the record's event time {time} is out of range for window `{window}`: times are milliseconds since 1970"
        )),
    }
}

/// The time of an end, or of what comes a while after it: a window is closed when the watermark has reached it.
pub(super) fn closing(end: i64, lateness: i64) -> i64 {
    (end - 1).saturating_add(lateness)
}
