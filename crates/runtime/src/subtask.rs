//! One subtask: a chain of nodes on a thread of its own, fed by a source or by channels.
//!
//! A subtask moves in steps and never waits inside one. A step takes one thing: a message of the
//! coordinator, an element of a channel, or a batch of the source; carries it through the chain; and
//! hands the output to the channels. While a channel has no room for what was handed to it the
//! subtask takes no further element, so that back-pressure reaches the source.

use std::sync::Arc;
use std::time::Duration;

use dataflow::alignment::{Alignment, Arrival, Mode};
use dataflow::operator_state::OperatorState;
use dataflow::watermark::{self, Change, CombinedWatermark, NO_WATERMARK};
use dataflow::{Barrier, Batch, CheckpointId, Element, SnapshotKind};
use operator::clock::Clock;
use operator::{Failure, OperatorInstance, Position, Sink, Source, SourceStatus, Unprocessed};

use crate::abort::{Kind, Reason};
use crate::bad_records::BadRecords;
use crate::delta_chain::DeltaChain;
use crate::error::{Error, causes};
use crate::events::{Event, Events};
use crate::inbox::{Control, Inbox, Next};
use crate::meters::{Doing, SubtaskMeter};
use crate::plan;
use crate::router::{LINGER_MS, Parts, Router};
use crate::snapshot::{MemberSnapshot, SmallState, Snapshot};
use crate::spares::Spares;
use crate::timing::Timing;
use crate::writer::{InProgress, Task, Writers};

/// A subtask, ready to run.
pub(crate) struct Subtask {
    /// Number in the attempt.
    pub(crate) number: usize,
    /// Index among the subtasks of its vertex.
    pub(crate) index: u32,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) head: Head,
    pub(crate) members: Vec<Member>,
    pub(crate) routers: Vec<Router>,
    pub(crate) events: Events,
    pub(crate) writers: Writers,
    /// Where it notes how far it is with a checkpoint.
    pub(crate) in_progress: Arc<InProgress>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Whether snapshots may be deltas.
    pub(crate) incremental: bool,
    /// Batches to be filled.
    pub(crate) spares: Spares,
    /// Since when records wait in a router.
    pub(crate) waiting_since: Option<i64>,
    /// Where it is with its timers.
    pub(crate) timing: Timing,
    /// Where it notes what it does.
    pub(crate) meter: Arc<SubtaskMeter>,
    /// What it has noted last.
    pub(crate) doing: Doing,
}

/// Where a subtask's input comes from.
pub(crate) enum Head {
    Source {
        ended: bool,
        /// Records that were handed on.
        delivered: u64,
        /// The watermark that was handed on last.
        watermark: Option<i64>,
        /// Whether it was handed on that none is to be expected.
        idle: bool,
        batch: Batch,
    },
    Channels(Channels),
}

pub(crate) struct Channels {
    alignment: Alignment,
    pub(crate) combined: CombinedWatermark,
    /// For each channel the input of the first member that it feeds.
    inputs: Vec<u32>,
    /// Which channels have ended.
    ended: Vec<bool>,
}

impl Channels {
    pub(crate) fn new(inputs: Vec<u32>, mode: Mode) -> Self {
        Self {
            alignment: Alignment::new(inputs.len(), mode),
            combined: CombinedWatermark::new(inputs.len()),
            ended: vec![false; inputs.len()],
            inputs,
        }
    }
}

/// A node within a subtask.
pub(crate) struct Member {
    pub(crate) node: usize,
    pub(crate) id: Arc<str>,
    /// How many subtasks its node has.
    pub(crate) parallelism: u32,
    pub(crate) body: Body,
    pub(crate) outputs: Vec<Vec<plan::Target>>,
    /// Inputs that have ended, now or before the snapshot that was restored.
    pub(crate) ended_inputs: Vec<u32>,
    /// What becomes of records that an operator cannot process; `None`: the job fails.
    pub(crate) bad_records: Option<Arc<BadRecords>>,
    /// What the next delta of its state may build on.
    pub(crate) chain: DeltaChain,
}

pub(crate) enum Body {
    Source(Box<dyn Source>),
    Operator(Box<OperatorInstance>),
    Sink(Box<dyn Sink>),
}

/// What a step has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There may be more to do.
    Again,
    /// Nothing to do until the inbox signals, or until this time.
    Wait(Option<i64>),
    /// The subtask is over.
    Over,
}

impl Subtask {
    /// Steps until the end.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        loop {
            match self.step()? {
                Step::Again => {}
                Step::Over => return Ok(()),
                Step::Wait(until) => {
                    let timeout = until.map(|until| {
                        Duration::from_millis(
                            until
                                .saturating_sub(self.clock.now_ms())
                                .max(0)
                                .unsigned_abs(),
                        )
                    });
                    self.inbox.wait(timeout);
                }
            }
        }
    }

    /// One step.
    pub(crate) fn step(&mut self) -> Result<Step, Error> {
        self.begin(Doing::Work);
        let clear = self
            .routers
            .iter_mut()
            .fold(true, |clear, router| router.retry(&mut self.spares) & clear);
        let timers = clear && self.timers_first();
        let blocked = match &self.head {
            Head::Channels(channels) if clear && !timers => Some(channels.alignment.blocked()),
            _ => None,
        };
        match self.inbox.next(blocked, &mut self.spares) {
            Next::Closed => {
                self.begin(Doing::Nothing);
                return Ok(Step::Over);
            }
            Next::Control(Control::Finish) => {
                self.close()?;
                self.begin(Doing::Nothing);
                return Ok(Step::Over);
            }
            Next::Control(control) => self.on_control(control)?,
            Next::Element(channel, element) => self.on_element(channel, element)?,
            Next::Nothing if !clear => {
                self.begin(Doing::BackPressure);
                return Ok(Step::Wait(None));
            }
            Next::Nothing if timers => self.fire()?,
            Next::Nothing => return self.idle(),
        }
        self.flush_if_lingering();
        Ok(Step::Again)
    }

    /// Measures what was restored: the next snapshot may be far.
    fn measure_state(&mut self) {
        for (index, member) in self.members.iter_mut().enumerate() {
            if let Body::Operator(instance) = &mut member.body
                && let Some(keyed) = instance.state()
            {
                let stats = keyed.stats();
                self.meter.state(index, stats.bytes, stats.keys);
            }
        }
    }

    /// Notes what it does from now on.
    fn begin(&mut self, doing: Doing) {
        if self.doing != doing {
            self.doing = doing;
            self.meter.begin(doing, self.clock.now_us());
        }
    }

    /// Nothing in the inbox: a source reads, others send what they have and wait.
    fn idle(&mut self) -> Result<Step, Error> {
        let (
            Head::Source {
                ended: false,
                batch,
                watermark,
                idle,
                ..
            },
            true,
        ) = (&mut self.head, self.timing.is_running())
        else {
            self.flush();
            self.begin(Doing::Idle);
            return Ok(Step::Wait(self.next_due()));
        };
        let mut batch = std::mem::take(batch);
        let (before, was_idle) = (*watermark, *idle);
        let Body::Source(source) = &mut self.members[0].body else {
            unreachable!("a source heads its chain")
        };
        let polled = source.poll(&mut batch);
        let (told, is_idle) = (source.watermark(), source.is_idle());
        let status = polled.map_err(|error| self.connector(0, "reading", error))?;
        // What it covers has to go before it.
        let advanced = told.filter(|it| Some(*it) > before);
        let change = Change::of(advanced, was_idle, is_idle);
        let hand_on =
            batch.is_full() || status != SourceStatus::More || change != Change::default();
        if !batch.is_empty() && hand_on {
            self.emit_polled(batch)?;
            batch = self.spares.take();
        }
        if let Head::Source {
            batch: slot,
            watermark,
            idle,
            ..
        } = &mut self.head
        {
            *slot = batch;
            *watermark = advanced.or(before);
            *idle = is_idle;
        }
        self.leave_out_unreadable()?;
        self.watermark_changed(change);
        match status {
            SourceStatus::More => {
                self.flush_if_lingering();
                Ok(Step::Again)
            }
            SourceStatus::Idle { until } => {
                self.flush();
                self.begin(Doing::Idle);
                let due = self.next_due();
                Ok(Step::Wait(until.into_iter().chain(due).min()))
            }
            SourceStatus::Ended => {
                self.end_source();
                Ok(Step::Again)
            }
        }
    }

    fn on_control(&mut self, control: Control) -> Result<(), Error> {
        match control {
            Control::Start => {
                self.timing.started = true;
                self.measure_state();
            }
            Control::Trigger(barrier) => self.trigger(barrier)?,
            Control::Resume => self.timing.paused = false,
            Control::EndInput => {
                if let Head::Source { ended: false, .. } = &self.head {
                    self.emit_waiting()?;
                    self.end_source();
                }
            }
            Control::Complete { id, rebase } => self.complete(id, &rebase)?,
            Control::Abort { id, full } => {
                if let Head::Channels(channels) = &mut self.head {
                    channels.alignment.abort(id);
                }
                self.timing.forget_barrier(id);
                if full {
                    self.members
                        .iter_mut()
                        .for_each(|member| member.chain.forget());
                }
            }
            Control::Finish => unreachable!("handled by step"),
        }
        Ok(())
    }

    fn on_element(&mut self, channel: usize, element: Element) -> Result<(), Error> {
        let Head::Channels(channels) = &mut self.head else {
            unreachable!("a source has no channels")
        };
        match element {
            Element::Batch(batch) => {
                let input = channels.inputs[channel];
                self.deliver(0, input, batch)
            }
            Element::Watermark(watermark) => {
                let change = channels.combined.advance(channel, watermark);
                self.watermark_changed(change);
                Ok(())
            }
            Element::Idle => {
                let change = channels.combined.idle(channel);
                self.watermark_changed(change);
                Ok(())
            }
            Element::Barrier(barrier) => {
                let id = barrier.id;
                self.in_progress.notes().barrier(id, self.number, channel);
                match channels.alignment.barrier(channel, id) {
                    Arrival::Complete => self.snapshot(barrier),
                    Arrival::Waiting | Arrival::Stale => Ok(()),
                }
            }
            Element::EndOfInput => {
                let change = channels.combined.end(channel);
                self.channel_ended(channel, change)
            }
        }
    }

    /// A channel has ended, and with the last one of an input the input.
    pub(crate) fn end_channel(&mut self, channel: usize) -> Result<(), Error> {
        let Head::Channels(channels) = &mut self.head else {
            unreachable!("a source has no channels")
        };
        channels.ended[channel] = true;
        let input = channels.inputs[channel];
        let mut same = channels.inputs.iter().zip(&channels.ended);
        if !same.all(|(other, ended)| *ended || *other != input) {
            return Ok(());
        }
        let all = channels.ended.iter().all(|ended| *ended);
        self.end_input(0, input)?;
        if all {
            self.end_outputs(0)?;
            self.all_ended();
        }
        Ok(())
    }

    /// Gives a batch to a member.
    fn deliver(&mut self, member: usize, input: u32, mut batch: Batch) -> Result<(), Error> {
        self.meter.taken(member, batch.len());
        let entry = &mut self.members[member];
        match &mut entry.body {
            Body::Source(_) => unreachable!("a source has no input"),
            Body::Sink(sink) => {
                sink.write(&batch)
                    .map_err(|error| self.connector(member, "writing", error))?;
                let records = batch.len() as u64;
                self.events
                    .count_records(self.members[member].node, records);
                self.spares.give(batch);
                return Ok(());
            }
            Body::Operator(instance) => {
                if !entry.ended_inputs.is_empty() {
                    reopen(instance, &mut entry.ended_inputs, input);
                }
                let now = self.clock.now_ms();
                let done = match entry.bad_records {
                    None => instance.process(input, &mut batch, now),
                    Some(_) => instance.try_process(input, &mut batch, now),
                };
                if let Some(state) = instance.state() {
                    self.events.count_recalled(state.take_recalled());
                }
                if let Err(error) = done {
                    return self.isolate(member, input, batch, error);
                }
            }
        }
        self.spares.give(batch);
        self.emit_output(member)
    }

    /// Hands on what an operator's call has emitted.
    pub(crate) fn emit_output(&mut self, member: usize) -> Result<(), Error> {
        if let Body::Operator(instance) = &self.members[member].body
            && let Some(usage) = instance.usage()
        {
            self.meter.usage(member, usage);
        }
        for port in 0..self.members[member].outputs.len() {
            let Body::Operator(instance) = &mut self.members[member].body else {
                return Ok(());
            };
            if let Some(batch) = instance.take_output(port, || self.spares.take()) {
                self.emit(member, port, batch)?;
            }
        }
        Ok(())
    }

    /// Hands on what the source has polled. All of it is in the batch or was handed on before.
    fn emit_polled(&mut self, batch: Batch) -> Result<(), Error> {
        let records = batch.len() as u64;
        self.events.count_records(self.members[0].node, records);
        self.meter.taken(0, batch.len());
        if let Head::Source { delivered, .. } = &mut self.head {
            *delivered += records;
        }
        self.emit(0, 0, batch)
            .map_err(|error| self.with_origin(error))
    }

    /// The error of an operator that takes its records from the source in this subtask, with the place where the
    /// source has read the record to blame.
    fn with_origin(&self, mut error: Error) -> Error {
        let inner = match &mut error {
            Error::TooManyBadRecords { last, .. } => last.as_mut(),
            other => other,
        };
        if let Error::Operator {
            operator,
            position: Position::Record { number, origin, .. },
            ..
        } = inner
        {
            *origin = self.origin(operator, *number);
        }
        error
    }

    /// Where the source has read a record, if the operator takes its records from the source in this subtask;
    /// `number` is how many records the operator had received before it.
    pub(crate) fn origin(&self, operator: &str, number: u64) -> Option<String> {
        let takes_from_source = |target: &plan::Target| match target {
            plan::Target::Member { member, .. } => self.members[*member].id.as_ref() == operator,
            plan::Target::Edge { .. } => false,
        };
        let mut targets = self.members[0].outputs.iter().flatten();
        match (&self.head, &self.members[0].body) {
            (Head::Source { delivered, .. }, Body::Source(source))
                if targets.any(takes_from_source) =>
            {
                // Both count from the start of the attempt.
                source.origin(delivered.checked_sub(number + 1)?)
            }
            _ => None,
        }
    }

    /// Hands a batch to everything that consumes a port.
    pub(crate) fn emit(&mut self, member: usize, port: usize, batch: Batch) -> Result<(), Error> {
        let targets = self.members[member].outputs[port].len();
        self.meter.handed_on(member, batch.len());
        let mut batch = Some(batch);
        for index in 0..targets {
            let target = self.members[member].outputs[port][index];
            // The last consumer gets the batch itself, the others a copy.
            let batch = if index + 1 == targets {
                batch.take()
            } else {
                batch.clone()
            };
            let Some(batch) = batch else {
                unreachable!("taken by the last consumer only")
            };
            match target {
                plan::Target::Edge { edge } => self.routers[edge]
                    .route(batch, &mut self.spares)
                    .map_err(|_| Error::Unkeyed {
                        operator: self.members[member].id.to_string(),
                    })?,
                plan::Target::Member { member, input } => {
                    let mut parts = Parts::of(batch);
                    while let Some(part) = parts.next(&mut self.spares) {
                        self.deliver(member, input, part)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// An input of a member has ended.
    fn end_input(&mut self, member: usize, input: u32) -> Result<(), Error> {
        let entry = &mut self.members[member];
        // Ended before the snapshot that this subtask was restored from: it knows already.
        if entry.ended_inputs.contains(&input) {
            return Ok(());
        }
        entry.ended_inputs.push(input);
        if let Body::Operator(instance) = &mut entry.body {
            instance
                .end_of_input(input, self.clock.now_ms())
                .map_err(|failure| self.operator_failed(member, failure, Position::None))?;
            self.emit_output(member)?;
        }
        Ok(())
    }

    /// No record leaves a member any more: its consumers' inputs end. Members of a chain have one
    /// input edge, so theirs end as a whole.
    pub(crate) fn end_outputs(&mut self, member: usize) -> Result<(), Error> {
        for port in 0..self.members[member].outputs.len() {
            for index in 0..self.members[member].outputs[port].len() {
                if let plan::Target::Member { member, input } =
                    self.members[member].outputs[port][index]
                {
                    self.end_input(member, input)?;
                    self.end_outputs(member)?;
                }
            }
        }
        Ok(())
    }

    /// Every input of the subtask has ended and all that came of it has been handed on.
    pub(crate) fn all_ended(&mut self) {
        self.timing.ended = true;
        self.broadcast(&Element::EndOfInput);
        self.events.send(Event::Ended {
            subtask: self.number,
        });
    }

    /// The source has nothing more to give, or is not asked any more.
    fn end_source(&mut self) {
        if let Head::Source {
            ended, watermark, ..
        } = &mut self.head
        {
            *ended = true;
            *watermark = Some(watermark::END);
        }
        // No record comes any more, not even a late one.
        self.watermark_changed(Change::of(Some(watermark::END), false, false));
    }

    /// Hands on records that the source has given and that wait for their batch to fill: they come before a
    /// barrier, because its position is after them.
    fn emit_waiting(&mut self) -> Result<(), Error> {
        match &mut self.head {
            Head::Source { batch, .. } if !batch.is_empty() => {
                let batch = std::mem::take(batch);
                self.emit_polled(batch)
            }
            _ => Ok(()),
        }
    }

    /// The coordinator wants a barrier from this source.
    fn trigger(&mut self, barrier: Barrier) -> Result<(), Error> {
        // As a barrier in a channel does, it comes after all that follows from a watermark.
        let Some(barrier) = self.timing.hold(barrier) else {
            return Ok(());
        };
        self.emit_waiting()?;
        self.snapshot(barrier)
    }

    /// Takes the subtask's snapshot at a barrier and passes the barrier on.
    pub(crate) fn snapshot(&mut self, barrier: Barrier) -> Result<(), Error> {
        let Barrier { id, kind, pause } = barrier;
        self.timing.paused |= pause;
        self.in_progress.notes().aligned(id, self.number);
        // The barrier first: what is downstream may align while we seal.
        self.broadcast(&Element::Barrier(barrier));
        let members = match self.seal(barrier) {
            Ok(members) => members,
            Err(error) => {
                // The job fails of it, and the checkpoint first: that tells who declined it.
                let reason = Reason::new(Kind::Declined, causes(&error));
                self.events.send(Event::Declined { id, reason });
                return Err(error);
            }
        };
        let state_bytes = self.meter.state_bytes();
        self.in_progress
            .notes()
            .sealed(id, self.number, state_bytes);
        let snapshot = Snapshot {
            id,
            kind,
            subtask: self.number,
            members,
        };
        if self.writers.try_send(Task::Snapshot(snapshot)).is_err() {
            let reason = Reason::writers_busy();
            self.events.send(Event::Declined { id, reason });
        }
        Ok(())
    }

    /// What each member has at the barrier.
    fn seal(&mut self, barrier: Barrier) -> Result<Vec<MemberSnapshot>, Error> {
        let Barrier { id, kind, .. } = barrier;
        let mut members = Vec::with_capacity(self.members.len());
        for index in 0..self.members.len() {
            let incremental = self.incremental;
            let member = &mut self.members[index];
            self.in_progress.notes().at(id, self.number, &member.id);
            let mut rest = SmallState {
                ended_inputs: member.ended_inputs.clone(),
                ..SmallState::default()
            };
            let (mut state, mut operator_state) = (None, None);
            match &mut member.body {
                Body::Source(source) => {
                    rest.parts = source
                        .snapshot()
                        .map_err(|error| self.connector(index, "telling its position", error))?;
                }
                Body::Operator(instance) => {
                    operator_state = instance.operator_state().map(OperatorState::seal);
                    rest.watermark = Some(instance.watermark()).filter(|it| *it != NO_WATERMARK);
                    let has_ended = instance.watermark() == watermark::END;
                    let now = self.clock.now_ms();
                    state = instance.state().map(|keyed| {
                        rest.event_time = keyed.event_time().filter(|_| has_ended);
                        // What has expired since the last call is not in it.
                        keyed.set_now(now);
                        let stats = keyed.stats();
                        self.meter.state(index, stats.bytes, stats.keys);
                        match kind {
                            SnapshotKind::Checkpoint => {
                                let base = member.chain.next(id, stats.bytes);
                                keyed.snapshot(id, base.filter(|_| incremental))
                            }
                            SnapshotKind::Savepoint => keyed.savepoint(id),
                        }
                    });
                }
                Body::Sink(sink) => {
                    rest.parts = sink
                        .prepare(id)
                        .map_err(|error| self.connector(index, "preparing output", error))?;
                }
            }
            members.push(MemberSnapshot {
                node: self.members[index].node,
                index: self.index,
                state,
                operator_state,
                parallelism: self.members[index].parallelism,
                rest,
            });
        }
        Ok(members)
    }

    fn complete(&mut self, id: CheckpointId, rebase: &[usize]) -> Result<(), Error> {
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            member.chain.complete(id, rebase.contains(&member.node));
            let failed = match &mut member.body {
                Body::Source(source) => source
                    .checkpoint_complete(id)
                    .err()
                    .map(|error| self.connector(index, "hearing of a checkpoint", error)),
                Body::Operator(instance) => instance
                    .checkpoint_complete(id)
                    .err()
                    .map(|failure| self.operator_failed(index, failure, Position::None)),
                Body::Sink(sink) => sink
                    .commit(id)
                    .err()
                    .map(|error| self.connector(index, "committing output", error)),
            };
            if let Some(error) = failed {
                return Err(error);
            }
        }
        self.events.send(Event::Committed { id });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        for index in 0..self.members.len() {
            let failed = match &mut self.members[index].body {
                Body::Source(_) => None,
                Body::Operator(instance) => instance
                    .close()
                    .err()
                    .map(|failure| self.operator_failed(index, failure, Position::None)),
                Body::Sink(sink) => sink
                    .close()
                    .err()
                    .map(|error| self.connector(index, "closing", error)),
            };
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }

    pub(crate) fn broadcast(&mut self, element: &Element) {
        self.waiting_since = None;
        self.routers
            .iter_mut()
            .for_each(|router| router.broadcast(element, &mut self.spares));
    }

    fn flush(&mut self) {
        self.waiting_since = None;
        self.routers
            .iter_mut()
            .for_each(|router| router.flush(&mut self.spares));
    }

    fn flush_if_lingering(&mut self) {
        if !self.routers.iter().any(Router::has_pending) {
            self.waiting_since = None;
            return;
        }
        let now = self.clock.now_ms();
        match self.waiting_since {
            None => self.waiting_since = Some(now),
            Some(since) if now - since >= LINGER_MS => self.flush(),
            Some(_) => {}
        }
    }

    pub(crate) fn connector(
        &self,
        member: usize,
        action: &'static str,
        source: operator::BoxError,
    ) -> Error {
        let member = &self.members[member];
        let kind = if matches!(member.body, Body::Source(_)) {
            "source"
        } else {
            "sink"
        };
        Error::Connector {
            operator: format!("{kind} `{}`", member.id),
            subtask: self.index,
            action,
            source,
        }
    }

    pub(crate) fn unprocessed(&self, member: usize, error: Unprocessed) -> Error {
        match error {
            Unprocessed::Unkeyed => Error::Unkeyed {
                operator: self.members[member].id.to_string(),
            },
            Unprocessed::State(source) => Error::State {
                operator: self.members[member].id.to_string(),
                subtask: self.index,
                source,
            },
            Unprocessed::Failed { failure, position } => {
                self.operator_failed(member, *failure, position)
            }
        }
    }

    pub(crate) fn operator_failed(
        &self,
        member: usize,
        failure: Failure,
        position: Position,
    ) -> Error {
        Error::Operator {
            operator: self.members[member].id.to_string(),
            subtask: self.index,
            failure: Box::new(failure),
            position,
        }
    }
}

/// A record has come on an input that had ended before the snapshot that was restored: there is more to read than
/// there was then. The input ends again, and time goes on from where the records say.
#[cold]
fn reopen(instance: &mut OperatorInstance, ended_inputs: &mut Vec<u32>, input: u32) {
    ended_inputs.retain(|ended| *ended != input);
    if instance.watermark() == watermark::END {
        instance.set_watermark(NO_WATERMARK);
    }
}
