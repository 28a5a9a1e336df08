//! Timers: being called again for a key at a time.
//!
//! A timer belongs to a key. It is registered while a record of that key is handled (or a timer of it),
//! and comes back to [`Operator::on_timer`](crate::Operator::on_timer) with the key's state at hand. What a
//! call registers and deletes is collected and handed to the host in bulk when the call ends.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use crate::bindings::highwater::operator::types as wit;
use crate::call::{Call, NO_TIMESTAMP};
use crate::cells::Cells;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::record::{Input, Key};
use crate::state::Buffered;

/// What the time of a timer is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeDomain {
    /// The timer fires when the watermark has reached its time. At the end of input all such timers fire.
    EventTime,
    /// The timer fires when the host's clock has passed its time. At the end of input such timers do not
    /// fire any more.
    ProcessingTime,
}

impl TimeDomain {
    pub(crate) fn from_wit(domain: wit::TimeDomain) -> Self {
        match domain {
            wit::TimeDomain::EventTime => Self::EventTime,
            wit::TimeDomain::ProcessingTime => Self::ProcessingTime,
        }
    }

    pub(crate) fn to_wit(self) -> wit::TimeDomain {
        match self {
            Self::EventTime => wit::TimeDomain::EventTime,
            Self::ProcessingTime => wit::TimeDomain::ProcessingTime,
        }
    }
}

/// Registers and deletes timers of the current key. Made by
/// [`OpenContext::timers`](crate::OpenContext::timers).
///
/// Times are milliseconds since 1970-01-01 UTC. A timer is identified by its key, domain, time and tag:
/// registering the same one twice is the same as once, and deleting one that does not exist changes nothing.
/// Timers are part of every checkpoint.
///
/// ```
/// use highwater::testing::Harness;
/// use highwater::{Emitter, OpenContext, Operator, Record, Result, Timer, Timers, ValueState};
///
/// /// Reports a device that has sent nothing for a minute of event time.
/// struct Silent { last: ValueState<i64>, timers: Timers }
///
/// impl Operator for Silent {
///     fn open(ctx: &mut OpenContext) -> Result<Self> {
///         Ok(Self { last: ctx.value_state("last"), timers: ctx.timers() })
///     }
///
///     fn process(&mut self, record: Record, _: &mut Emitter) -> Result<()> {
///         let Some(time) = record.timestamp() else { highwater::bail!("the record has no event time") };
///         if let Some(last) = self.last.get()? {
///             self.timers.delete_event_time(last + 60_000, 0)?;
///         }
///         self.last.set(&time)?;
///         self.timers.register_event_time(time + 60_000, 0)
///     }
///
///     fn on_timer(&mut self, timer: Timer, out: &mut Emitter) -> Result<()> {
///         out.emit(timer.key(), ("silent since", self.last.get()?))
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let mut silent = Harness::<Silent>::open()?;
/// silent.process_timed(&[("a", "", 0), ("b", "", 5_000), ("a", "", 30_000)])?;
/// silent.set_watermark(70_000)?;
/// assert_eq!(silent.take_rows(), ["b,silent since,5000"]);
/// # Ok(()) }
/// ```
pub struct Timers(Rc<Inner>);

struct Inner {
    call: Rc<Call>,
    host: Host,
    changes: RefCell<Changes>,
}

/// A timer's identity within a call: key number, time, tag.
type Identity = (u32, i64, u32);

#[derive(Default)]
struct Changes {
    /// By domain.
    event: Vec<Change>,
    processing: Vec<Change>,
    /// Whether some change deletes a timer: then what came last for a timer counts.
    deletes: bool,
    columns: Columns,
}

#[derive(Clone, Copy)]
struct Change {
    timer: Identity,
    registers: bool,
}

/// Buffers for the calls to the host.
#[derive(Default)]
struct Columns {
    keys: Vec<u32>,
    times: Vec<i64>,
    tags: Vec<u32>,
}

impl Timers {
    pub(crate) fn new(call: Rc<Call>, host: Host) -> Self {
        Self(Rc::new(Inner {
            call,
            host,
            changes: RefCell::default(),
        }))
    }

    /// A handle to the same timers.
    pub(crate) fn share(&self) -> Self {
        Self(Rc::clone(&self.0))
    }

    pub(crate) fn buffered(&self) -> Rc<dyn Buffered> {
        Rc::<Inner>::clone(&self.0)
    }

    /// Registers a timer of the current key. One at or below the watermark fires with the next watermark;
    /// registered by a timer that fires, in the same round.
    #[inline]
    pub fn register(&self, domain: TimeDomain, time: i64, tag: u32) -> Result<()> {
        self.0.change(domain, time, tag, true)
    }

    /// Deletes a timer of the current key, if it exists.
    #[inline]
    pub fn delete(&self, domain: TimeDomain, time: i64, tag: u32) -> Result<()> {
        self.0.change(domain, time, tag, false)
    }

    /// Registers a timer that fires when the watermark has reached `time`.
    #[inline]
    pub fn register_event_time(&self, time: i64, tag: u32) -> Result<()> {
        self.register(TimeDomain::EventTime, time, tag)
    }

    /// Registers a timer that fires when the clock has passed `time`.
    #[inline]
    pub fn register_processing_time(&self, time: i64, tag: u32) -> Result<()> {
        self.register(TimeDomain::ProcessingTime, time, tag)
    }

    /// Deletes a timer of event time, if it exists.
    #[inline]
    pub fn delete_event_time(&self, time: i64, tag: u32) -> Result<()> {
        self.delete(TimeDomain::EventTime, time, tag)
    }

    /// Deletes a timer of processing time, if it exists.
    #[inline]
    pub fn delete_processing_time(&self, time: i64, tag: u32) -> Result<()> {
        self.delete(TimeDomain::ProcessingTime, time, tag)
    }
}

impl Inner {
    #[inline]
    fn change(&self, domain: TimeDomain, time: i64, tag: u32, registers: bool) -> Result<()> {
        let key = self.call.key_number();
        if key >= self.call.keys().count() {
            return Err(no_key(self.call.record().is_some()));
        }
        let mut changes = self.changes.borrow_mut();
        changes.deletes |= !registers;
        let of_domain = match domain {
            TimeDomain::EventTime => &mut changes.event,
            TimeDomain::ProcessingTime => &mut changes.processing,
        };
        of_domain.push(Change {
            timer: (key as u32, time, tag),
            registers,
        });
        Ok(())
    }
}

#[cold]
fn no_key(record: bool) -> Error {
    if record {
        return Error::new(
            "a timer belongs to the record's key, but the record has none: give records keys at the source or \
             in the operator before",
        );
    }
    Error::new("a timer is registered or deleted where there is no current key")
}

impl Changes {
    /// Hands one domain's changes over.
    fn flush(&mut self, domain: TimeDomain, host: &Host) {
        let changes = match domain {
            TimeDomain::EventTime => &mut self.event,
            TimeDomain::ProcessingTime => &mut self.processing,
        };
        if changes.is_empty() {
            return;
        }
        if self.deletes {
            keep_last(changes);
        }
        for registers in [true, false] {
            self.columns.clear();
            for change in changes
                .iter()
                .filter(|change| change.registers == registers)
            {
                self.columns.push(change.timer);
            }
            let Columns { keys, times, tags } = &self.columns;
            match registers {
                _ if keys.is_empty() => {}
                true => host.register_timers(domain.to_wit(), keys, times, tags),
                false => host.delete_timers(domain.to_wit(), keys, times, tags),
            }
        }
        changes.clear();
    }
}

/// Keeps the last change of each timer: it alone decides whether the timer exists after the call.
fn keep_last(changes: &mut Vec<Change>) {
    changes.reverse();
    changes.sort_by_key(|change| change.timer);
    changes.dedup_by_key(|change| change.timer);
}

impl Columns {
    fn clear(&mut self) {
        self.keys.clear();
        self.times.clear();
        self.tags.clear();
    }

    fn push(&mut self, (key, time, tag): Identity) {
        self.keys.push(key);
        self.times.push(time);
        self.tags.push(tag);
    }
}

impl Buffered for Inner {
    fn flush(&self) {
        let mut changes = self.changes.borrow_mut();
        changes.flush(TimeDomain::EventTime, &self.host);
        changes.flush(TimeDomain::ProcessingTime, &self.host);
        changes.deletes = false;
    }

    fn forget(&self) {
        let mut changes = self.changes.borrow_mut();
        changes.event.clear();
        changes.processing.clear();
        changes.deletes = false;
    }
}

/// Timers that fired together, at most one for each key.
#[derive(Clone, Copy)]
pub struct Fired<'a> {
    columns: &'a wit::Fired,
    /// The keys, which the call holds while it lasts.
    keys: &'a Cells,
    call: &'a Call,
    input: &'a Input,
}

impl<'a> Fired<'a> {
    pub(crate) fn new(
        columns: &'a wit::Fired,
        keys: &'a Cells,
        call: &'a Call,
        input: &'a Input,
    ) -> Self {
        Self {
            columns,
            keys,
            call,
            input,
        }
    }

    /// Number of timers.
    #[must_use]
    pub fn len(self) -> usize {
        self.columns.times.len()
    }

    /// Whether there is no timer.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// What their times are measured in.
    #[must_use]
    pub fn domain(self) -> TimeDomain {
        TimeDomain::from_wit(self.columns.domain)
    }

    /// The timers in order. As it goes it makes the key of each timer the current one, the one that states,
    /// timers and the emitter are about.
    #[must_use]
    pub fn timers(self) -> FiredTimers<'a> {
        FiredTimers {
            fired: self,
            next: 0,
        }
    }
}

/// The timers of a [`Fired`].
#[derive(Debug)]
pub struct FiredTimers<'a> {
    fired: Fired<'a>,
    next: usize,
}

impl<'a> Iterator for FiredTimers<'a> {
    type Item = Timer<'a>;

    #[inline]
    fn next(&mut self) -> Option<Timer<'a>> {
        let Fired { columns, call, .. } = self.fired;
        let index = self.next;
        let timer = columns.times.get(index).zip(columns.tags.get(index));
        let Some(((&time, &tag), &key)) = timer.zip(columns.key_numbers.get(index)) else {
            call.leave_record();
            return None;
        };
        self.next += 1;
        // What a timer emits has its time; that of the clock says nothing about the event.
        let timestamp = match self.fired.domain() {
            TimeDomain::EventTime => time,
            TimeDomain::ProcessingTime => NO_TIMESTAMP,
        };
        call.enter_timer(key, timestamp);
        Some(Timer {
            fired: self.fired,
            key,
            time,
            tag,
        })
    }
}

/// A timer that fired.
#[derive(Clone, Copy)]
pub struct Timer<'a> {
    fired: Fired<'a>,
    key: u32,
    time: i64,
    tag: u32,
}

impl<'a> Timer<'a> {
    /// The key that was the current one when the timer was registered.
    #[must_use]
    #[inline]
    pub fn key(self) -> Key<'a> {
        let Fired {
            keys, input, call, ..
        } = self.fired;
        Key::numbered(keys, self.key, input, call)
    }

    /// What its time is measured in.
    #[must_use]
    pub fn domain(self) -> TimeDomain {
        self.fired.domain()
    }

    /// The time it was registered for, in milliseconds since 1970-01-01 UTC.
    #[must_use]
    #[inline]
    pub fn time(self) -> i64 {
        self.time
    }

    /// The number it was registered with, to tell timers of one key from each other.
    #[must_use]
    #[inline]
    pub fn tag(self) -> u32 {
        self.tag
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timers")
    }
}

impl fmt::Debug for Fired<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fired")
            .field("domain", &self.domain())
            .field("len", &self.len())
            .finish()
    }
}

impl fmt::Debug for Timer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("key", &self.key())
            .field("domain", &self.domain())
            .field("time", &self.time)
            .field("tag", &self.tag)
            .finish()
    }
}
