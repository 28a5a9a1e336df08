//! Time in a subtask: a watermark passes its members one after the other, and timers fire.
//!
//! One call of at most [`operator::TIMERS_MAX`] timers is a step of its own, so that the coordinator is heard and
//! back-pressure is felt however many timers are due. While a watermark is on its way through the members, the
//! subtask takes no further element.

use dataflow::state::TimeDomain;
use dataflow::watermark::{Change, NO_WATERMARK, Status};
use dataflow::{Barrier, CheckpointId, Element};
use operator::Position;

use crate::error::Error;
use crate::subtask::{Body, Head, Subtask};

/// Where a subtask is with its timers.
#[derive(Debug, Default)]
pub(crate) struct Timing {
    /// How many calls of timers a watermark may take beyond one for each timer that there was.
    calls_max: u64,
    /// All subtasks of the job are ready.
    pub(crate) started: bool,
    /// The job is about to stop: until it resumes nothing is begun that was not asked for.
    pub(crate) paused: bool,
    /// All inputs have ended and all that came of it has been handed on.
    pub(crate) ended: bool,
    /// The watermark that is on its way through the members.
    passing: Option<Passing>,
    /// After it none is to be expected for now.
    is_idle_after: bool,
    /// The channel that has ended, and waits for it: its input ends after the watermark that its end allows.
    ending: Option<usize>,
    /// Barriers that wait until it is through.
    barriers: Vec<Barrier>,
    /// Timers of processing time have fired in the last step. So elements have a turn in this one, however many
    /// are due.
    has_fired: bool,
}

/// A watermark on its way.
#[derive(Clone, Copy, Debug)]
struct Passing {
    watermark: i64,
    /// Which member it is at.
    member: usize,
    /// How many more calls of timers it may take at this member; `None` before the first.
    calls_left: Option<u64>,
}

impl Timing {
    /// Nothing has happened yet. For `calls_max` see [`Options::timer_calls_max`](crate::Options::timer_calls_max).
    pub(crate) fn new(calls_max: u64) -> Self {
        Self {
            calls_max,
            ..Self::default()
        }
    }

    /// Whether the subtask may begin something by itself.
    pub(crate) fn is_running(&self) -> bool {
        self.started && !self.paused
    }

    /// Keeps a barrier if a watermark is on its way; returns it otherwise.
    pub(crate) fn hold(&mut self, barrier: Barrier) -> Option<Barrier> {
        if self.passing.is_none() {
            return Some(barrier);
        }
        self.barriers.push(barrier);
        None
    }

    /// Checkpoint `id` is given up.
    pub(crate) fn forget_barrier(&mut self, id: CheckpointId) {
        self.barriers.retain(|barrier| barrier.id != id);
    }
}

impl Subtask {
    /// News of the subtask's watermark: the watermark itself, and after it whether a next one is to be expected.
    pub(crate) fn watermark_changed(&mut self, change: Change) {
        if let Some(watermark) = change.watermark {
            self.timing.is_idle_after = change.status == Some(Status::Idle);
            return self.advance_watermark(watermark);
        }
        match change.status {
            Some(Status::Idle) => self.broadcast(&Element::Idle),
            // Any watermark says so, also one that is known.
            Some(Status::Active) => {
                let current = match &self.head {
                    Head::Source { watermark, .. } => watermark.unwrap_or(NO_WATERMARK),
                    Head::Channels(channels) => channels.combined.current(),
                };
                self.broadcast(&Element::Watermark(current));
            }
            None => {}
        }
    }

    /// A channel has ended, and this is what that changes. The input ends after the watermark, if it is higher now:
    /// the highest one comes when the last input has ended, and before that input's end.
    pub(crate) fn channel_ended(&mut self, channel: usize, change: Change) -> Result<(), Error> {
        self.watermark_changed(change);
        if self.timing.passing.is_some() {
            self.timing.ending = Some(channel);
            return Ok(());
        }
        self.end_channel(channel)
    }

    /// The subtask's watermark is higher now: for its members one after the other, then for who comes next. The
    /// steps that follow see to it.
    pub(crate) fn advance_watermark(&mut self, watermark: i64) {
        // Of a source there may be one on its way already: what it has reached is not fired again.
        let passing = self.timing.passing.map_or(i64::MIN, |it| it.watermark);
        self.timing.passing = Some(Passing {
            watermark: watermark.max(passing),
            member: 0,
            calls_left: None,
        });
    }

    /// When the next timer of processing time is due, or a time before that; `None` if none may fire now.
    pub(crate) fn next_due(&mut self) -> Option<i64> {
        if !self.timing.is_running() || self.timing.ended {
            return None;
        }
        let members = self.members.iter_mut();
        let due = members.filter_map(|member| match &mut member.body {
            Body::Operator(instance) => instance.next_due(),
            Body::Source(_) | Body::Sink(_) => None,
        });
        due.min()
    }

    /// Whether a watermark is on its way, or timers are due: then [`Subtask::fire`] comes before elements.
    pub(crate) fn timers_first(&mut self) -> bool {
        if self.timing.passing.is_some() {
            return true;
        }
        if std::mem::take(&mut self.timing.has_fired) {
            return false;
        }
        self.next_due()
            .is_some_and(|due| due <= self.clock.now_ms())
    }

    /// A call of timers, or what follows the last of them.
    pub(crate) fn fire(&mut self) -> Result<(), Error> {
        match self.timing.passing {
            Some(passing) => self.pass(passing),
            None => self.fire_processing_time(),
        }
    }

    fn fire_processing_time(&mut self) -> Result<(), Error> {
        self.timing.has_fired = true;
        let now = self.clock.now_ms();
        for index in 0..self.members.len() {
            let Body::Operator(instance) = &mut self.members[index].body else {
                continue;
            };
            if instance.next_due().is_some_and(|due| due <= now) {
                self.fire_some(index, TimeDomain::Processing, now, now)?;
                self.emit_output(index)?;
            }
        }
        Ok(())
    }

    /// Brings a watermark one step further.
    fn pass(&mut self, passing: Passing) -> Result<(), Error> {
        let Passing {
            watermark,
            member,
            calls_left,
        } = passing;
        let now = self.clock.now_ms();
        let Some(entry) = self.members.get_mut(member) else {
            self.timing.passing = None;
            self.meter.watermark(watermark);
            self.broadcast(&Element::Watermark(watermark));
            if std::mem::take(&mut self.timing.is_idle_after) {
                self.broadcast(&Element::Idle);
            }
            self.after_last_watermark()?;
            let barriers = std::mem::take(&mut self.timing.barriers);
            return barriers
                .into_iter()
                .try_for_each(|barrier| self.snapshot(barrier));
        };
        let next = Passing {
            watermark,
            member: member + 1,
            calls_left: None,
        };
        self.timing.passing = Some(next);
        let Body::Operator(instance) = &mut entry.body else {
            return Ok(());
        };
        if calls_left.is_none() {
            // Reached before the snapshot that it was restored from.
            if watermark <= instance.watermark() {
                return Ok(());
            }
            instance.set_watermark(watermark);
        }
        if instance.has_timers() {
            let left = calls_left.unwrap_or_else(|| instance.timers() + self.timing.calls_max);
            let Some(left) = left.checked_sub(1) else {
                return Err(Error::EndlessTimers {
                    operator: entry.id.to_string(),
                    subtask: self.index,
                    watermark,
                });
            };
            if self.fire_some(member, TimeDomain::Event, watermark, now)? > 0 {
                self.timing.passing = Some(Passing {
                    calls_left: Some(left),
                    ..passing
                });
                return self.emit_output(member);
            }
        }
        let Body::Operator(instance) = &mut self.members[member].body else {
            unreachable!("it was one before")
        };
        instance
            .on_watermark(now)
            .map_err(|failure| self.operator_failed(member, failure, Position::None))?;
        self.emit_output(member)
    }

    /// A source that has ended ends its outputs after its last watermark, and a channel its input.
    fn after_last_watermark(&mut self) -> Result<(), Error> {
        if let Head::Source { ended: true, .. } = &self.head
            && !self.timing.ended
        {
            self.end_outputs(0)?;
            self.all_ended();
        }
        match self.timing.ending.take() {
            Some(channel) => self.end_channel(channel),
            None => Ok(()),
        }
    }
}
