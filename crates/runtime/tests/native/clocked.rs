//! Native operators over timers, for simulated jobs: alarms, windows, sessions, and timers of processing time.
//!
//! Each complains, as a record that nobody expects, about what must not be: a record below the watermark that was
//! not to be late, a timer before its time or out of order, a timer without its entry of state and the other way
//! round.

use std::collections::BTreeMap;

use dataflow::state::{Fired, Resolved, StateDescriptor, StateKind, TimeDomain, timer_states};
use dataflow::watermark::END;
use dataflow::{Batch, Cells};
use operator::{Call, Failure, FailureKind, Operator, OperatorFactory, SubtaskContext};

use super::events::{Event, Pulse};
use super::steps::{digest, emit, entry, one, remove_entry, set_entry, set_value, text, value};
use super::trouble::{Place, Trouble};

/// The time from one timer of an alarm to its next.
const AGAIN_MS: i64 = 13;

/// A time that is reached by the end only.
const FAR: i64 = 1 << 40;

/// The tag of the timers for which there is an entry by their time.
const PLAIN: u32 = 0;

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Passes records on, with their times.
    Relay,
    /// A timer after each record's time, which registers up to two more while firing: a record for each.
    /// `decoys`: records also register one for the end, which the next of their key and split deletes.
    Alarm {
        decoys: bool,
        /// One of its sources falls silent. When the others have ended nobody waits for the alarm, so what it emits
        /// for their records may be late, too.
        falls_silent: bool,
    },
    /// Tumbling windows of this length; on the second output what comes after they have fired.
    Tumble { length: i64 },
    /// Sessions with this gap, which merge; on the second output what is late.
    Session {
        gap: i64,
        /// A mistake: one that merges with another leaves that one's timer.
        leaves_timer: bool,
    },
    /// Each record again after some processing time, or at the end of the input if that comes first.
    Nudge {
        most_ms: u64,
        /// Timers that are overdue at a restore do not fire.
        skips_overdue: bool,
    },
}

impl Kind {
    pub(crate) fn outputs(self) -> u32 {
        match self {
            Self::Tumble { .. } | Self::Session { .. } => 2,
            _ => 1,
        }
    }

    pub(crate) fn states(self) -> Vec<StateDescriptor> {
        let own: &[(&str, StateKind)] = match self {
            Self::Relay => return Vec::new(),
            Self::Alarm { .. } => &[("armed", StateKind::Map), ("decoys", StateKind::Map)],
            Self::Tumble { .. } => &[("windows", StateKind::Map)],
            Self::Session { .. } => &[("sessions", StateKind::Map)],
            Self::Nudge { .. } => &[("waiting", StateKind::Value)],
        };
        let state = |(name, kind): &(&str, StateKind)| StateDescriptor {
            name: (*name).into(),
            kind: *kind,
            schema: "text".into(),
            schema_version: 1,
            ttl: None,
        };
        own.iter().map(state).chain(timer_states()).collect()
    }

    pub(crate) fn is_keyed(self) -> bool {
        self != Self::Relay
    }
}

/// How many times an alarm rings for a record, and first when.
pub(crate) fn alarm(event: &Event) -> (u32, i64) {
    let digest = digest(event.id.as_bytes()) >> 8;
    (
        (1 + digest % 3) as u32,
        event.time + (digest / 3 % 50) as i64,
    )
}

/// Whether it registers a decoy.
pub(crate) fn has_decoy(event: &Event) -> bool {
    digest(event.id.as_bytes()).is_multiple_of(3)
}

/// What an alarm emits for its timer number `ring` of a record, or for its decoy (0).
pub(crate) fn rings(operator: &str, event: &Event, ring: u32) -> Event {
    let time = match ring {
        0 => FAR,
        ring => alarm(event).1 + i64::from(ring - 1) * AGAIN_MS,
    };
    Event {
        id: format!("{operator}:{}.{ring}", event.id),
        time,
        ..event.clone()
    }
}

/// Distinct for the records of a key; the lowest bits are free.
fn tag_of(id: &str) -> u32 {
    (digest(id.as_bytes()) as u32) & !3
}

pub(crate) struct Clocked {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) trouble: Trouble,
    pub(crate) pulse: Pulse,
}

impl OperatorFactory for Clocked {
    fn create(&self, _: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
        if self.trouble.strikes(Place::Create) {
            return Err(Failure::new(FailureKind::Returned, "planted at creation"));
        }
        Ok(Box::new(ClockedSubtask {
            id: self.id.clone(),
            kind: self.kind,
            trouble: self.trouble.clone(),
            pulse: self.pulse.clone(),
            fired: BTreeMap::new(),
        }))
    }
}

struct ClockedSubtask {
    id: String,
    kind: Kind,
    trouble: Trouble,
    pulse: Pulse,
    /// The last timer of each key that has fired, and at which watermark.
    fired: BTreeMap<Vec<u8>, (i64, i64)>,
}

fn emit_at(call: &mut Call, port: u32, event: &Event) {
    let (key, value) = (one(event.key.as_bytes()), one(event.value().as_bytes()));
    call.output
        .emit(port, key.as_ref(), value.as_ref(), &[event.time])
        .unwrap();
}

fn register(call: &mut Call, number: u32, time: i64, tag: u32) {
    call.state
        .register_timers(TimeDomain::Event, &[number], &[time], &[tag])
        .unwrap();
}

fn delete(call: &mut Call, number: u32, time: i64, tag: u32) {
    call.state
        .delete_timers(TimeDomain::Event, &[number], &[time], &[tag])
        .unwrap();
}

/// A session as its entry has it: the start is the field.
struct Session {
    start: i64,
    end: i64,
    ids: String,
}

fn sessions(call: &mut Call, number: u32) -> Vec<Session> {
    let (mut starts, mut rest) = (Cells::new(), Cells::new());
    let more = call
        .state
        .map_scan(0, number, b"", false, None, 10_000, &mut starts, &mut rest);
    assert!(!more.unwrap(), "no key has as many sessions");
    let read = |(start, rest): (&[u8], &[u8])| {
        let rest = text(rest);
        let (end, ids) = rest.split_once(' ').unwrap();
        Session {
            start: text(start).parse().unwrap(),
            end: end.parse().unwrap(),
            ids: ids.to_owned(),
        }
    };
    starts.iter().zip(rest.iter()).map(read).collect()
}

impl ClockedSubtask {
    /// Fails, and leaves a mess that the runtime has to take back.
    fn fail(&self, call: &mut Call, keys: &Resolved) -> Failure {
        if self.kind.is_keyed() && !keys.keys.is_empty() {
            call.state.clear(0, &[0]).unwrap();
            for domain in TimeDomain::ALL {
                let times = [call.watermark.saturating_add(5), call.processing_time];
                call.state
                    .register_timers(domain, &[0, 0], &times, &[3, 4])
                    .unwrap();
            }
        }
        emit(call, 0, b"a mess", b"a mess");
        let kind = match keys.keys.len() % 2 {
            0 => FailureKind::Trap,
            _ => FailureKind::Returned,
        };
        Failure::new(kind, "planted in a call")
    }

    fn record(&self, event: &Event, number: u32, call: &mut Call) {
        match self.kind {
            Kind::Relay => emit_at(call, 0, event),
            Kind::Alarm { decoys, .. } => {
                let (rings, first) = alarm(event);
                let tag = tag_of(&event.id) | (rings - 1);
                let armed = format!("{rings} {}", event.value());
                set_entry(&mut call.state, 0, number, &(tag >> 2).to_string(), &armed);
                register(call, number, first, tag);
                // The same one.
                register(call, number, first, tag);
                if decoys {
                    self.decoy(event, number, call);
                }
            }
            Kind::Tumble { length } => {
                let start = event.time.div_euclid(length) * length;
                let last = start + length - 1;
                if last <= call.watermark {
                    return emit_at(call, 1, event);
                }
                let field = start.to_string();
                let ids = match entry(&mut call.state, 0, number, &field) {
                    Some(ids) => format!("{ids} {}", event.id),
                    None => event.id.clone(),
                };
                set_entry(&mut call.state, 0, number, &field, &ids);
                register(call, number, last, PLAIN);
            }
            Kind::Session { gap, leaves_timer } => {
                self.session(event, number, gap, leaves_timer, call);
            }
            Kind::Nudge { most_ms, .. } => {
                let delay = digest(event.id.as_bytes()) >> 8;
                let at = call.processing_time + (delay % most_ms) as i64;
                let line = format!("{} {at} {}", tag_of(&event.id), event.id);
                let waiting = match value(&mut call.state, 0, number) {
                    Some(waiting) => format!("{waiting}\n{line}"),
                    None => line,
                };
                set_value(&mut call.state, 0, number, &waiting);
                call.state
                    .register_timers(
                        TimeDomain::Processing,
                        &[number],
                        &[at],
                        &[tag_of(&event.id)],
                    )
                    .unwrap();
            }
        }
    }

    /// What it emits for one timer of a record.
    fn ring(&self, event: &Event, number: u32, call: &mut Call) {
        let mut ring = rings(&self.id, event, number);
        if let Kind::Alarm { falls_silent, .. } = self.kind {
            ring.may_be_late |= falls_silent;
        }
        emit_at(call, 0, &ring);
    }

    fn decoy(&self, event: &Event, number: u32, call: &mut Call) {
        if let Some(before) = entry(&mut call.state, 1, number, event.split()) {
            let (tag, _) = before.split_once(' ').unwrap();
            delete(call, number, FAR, tag.parse().unwrap());
            remove_entry(&mut call.state, 1, number, event.split());
        }
        if has_decoy(event) {
            let tag = tag_of(&event.id) | 3;
            let armed = format!("{tag} {}", event.value());
            set_entry(&mut call.state, 1, number, event.split(), &armed);
            register(call, number, FAR, tag);
        }
    }

    fn session(&self, event: &Event, number: u32, gap: i64, leaves_timer: bool, call: &mut Call) {
        let (mut start, mut end) = (event.time, event.time + gap);
        let mut merged = sessions(call, number);
        merged.retain(|it| it.start < event.time + gap && event.time < it.end);
        let mut ids = Vec::new();
        for session in &merged {
            start = start.min(session.start);
            end = end.max(session.end);
            ids.push(session.ids.as_str());
        }
        ids.push(&event.id);
        if end - 1 <= call.watermark {
            return emit_at(call, 1, event);
        }
        for session in &merged {
            remove_entry(&mut call.state, 0, number, &session.start.to_string());
            if !leaves_timer {
                delete(call, number, session.end - 1, PLAIN);
            }
        }
        let entry = format!("{end} {}", ids.join(" "));
        set_entry(&mut call.state, 0, number, &start.to_string(), &entry);
        if !leaves_timer || merged.is_empty() {
            register(call, number, end - 1, PLAIN);
        }
    }

    /// A timer. Returns a complaint, if there is one.
    fn timer(
        &self,
        key: &[u8],
        number: u32,
        time: i64,
        tag: u32,
        call: &mut Call,
    ) -> Option<String> {
        match self.kind {
            Kind::Relay => return Some("has no timers".to_owned()),
            Kind::Alarm { .. } if tag & 3 == 3 => {
                let (mut splits, mut armed) = (Cells::new(), Cells::new());
                let state = &mut call.state;
                let more =
                    state.map_scan(1, number, b"", false, None, 1_000, &mut splits, &mut armed);
                assert!(!more.unwrap(), "no key has as many splits");
                let own = format!("{tag} ");
                let mut both = splits.iter().zip(armed.iter());
                let Some((split, armed)) = both.find(|it| text(it.1).starts_with(&own)) else {
                    return Some("is a decoy without an entry".to_owned());
                };
                let armed = text(armed);
                let event = Event::read(key, &armed.as_bytes()[own.len()..]);
                remove_entry(&mut call.state, 1, number, &text(split));
                self.ring(&event, 0, call);
            }
            Kind::Alarm { .. } => {
                let field = (tag >> 2).to_string();
                let Some(armed) = entry(&mut call.state, 0, number, &field) else {
                    return Some("has no entry".to_owned());
                };
                let (all, event) = armed.split_once(' ').unwrap();
                let event = Event::read(key, event.as_bytes());
                let left = tag & 3;
                let number_of_ring = all.parse::<u32>().unwrap() - left;
                let expected = rings(&self.id, &event, number_of_ring).time;
                if expected != time {
                    return Some(format!("is one of {expected}"));
                }
                match left {
                    0 => remove_entry(&mut call.state, 0, number, &field),
                    _ => register(call, number, time + AGAIN_MS, tag - 1),
                }
                self.ring(&event, number_of_ring, call);
            }
            Kind::Tumble { length } => {
                let start = time + 1 - length;
                let field = start.to_string();
                let Some(ids) = entry(&mut call.state, 0, number, &field) else {
                    return Some("has no window".to_owned());
                };
                remove_entry(&mut call.state, 0, number, &field);
                emit(call, 0, key, format!("window {start} {ids}").as_bytes());
            }
            Kind::Session { .. } => {
                let all = sessions(call, number);
                let Some(session) = all.into_iter().find(|it| it.end - 1 == time) else {
                    return Some("has no session".to_owned());
                };
                let Session { start, end, ids } = session;
                remove_entry(&mut call.state, 0, number, &start.to_string());
                emit(
                    call,
                    0,
                    key,
                    format!("session {start} {end} {ids}").as_bytes(),
                );
            }
            Kind::Nudge { .. } => return self.nudge(key, number, time, tag, call),
        }
        None
    }

    fn nudge(
        &self,
        key: &[u8],
        number: u32,
        time: i64,
        tag: u32,
        call: &mut Call,
    ) -> Option<String> {
        let waiting = value(&mut call.state, 0, number).unwrap_or_default();
        if waiting == ENDED {
            return None;
        }
        let own = format!("{tag} {time} ");
        let (fired, waits): (Vec<&str>, Vec<&str>) =
            waiting.lines().partition(|line| line.starts_with(&own));
        match waits.is_empty() {
            true => call.state.clear(0, &[number]).unwrap(),
            false => set_value(&mut call.state, 0, number, &waits.join("\n")),
        }
        let [line] = fired[..] else {
            return Some("has no entry".to_owned());
        };
        emit(
            call,
            0,
            key,
            format!("nudge {}", &line[own.len()..]).as_bytes(),
        );
        None
    }

    /// Emits what waits for its timer still: those do not fire any more. There is one for each.
    fn end_nudges(&self, skips_overdue: bool, call: &mut Call) {
        let (mut keys, mut values) = (Cells::new(), Cells::new());
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            cursor = call.state.scan(0, at, 5, &mut keys, &mut values).unwrap();
        }
        let mut waiting = 0;
        let mut has_ended = false;
        for (key, lines) in keys.iter().zip(values.iter()) {
            let lines = text(lines);
            if lines == ENDED {
                has_ended = true;
                continue;
            }
            for line in lines.lines() {
                let id = line.rsplit_once(' ').unwrap().1;
                emit(call, 0, key, format!("left {id}").as_bytes());
                waiting += 1;
            }
            call.state.put(0, key, ENDED.as_bytes()).unwrap();
        }
        let held = call.state.timers_held();
        if held != waiting && !skips_overdue && !has_ended {
            let complaint = format!("complaint: {held} timers for {waiting} entries");
            emit(call, 0, b"", complaint.as_bytes());
        }
    }
}

/// What a key of [`Kind::Nudge`] has when its input has ended.
const ENDED: &str = "ended";

impl Operator for ClockedSubtask {
    fn process(
        &mut self,
        _: u32,
        batch: &Batch,
        keys: &Resolved,
        call: &mut Call,
    ) -> Result<(), Failure> {
        let strikes = !call.probing && self.trouble.strikes(Place::Process);
        for record in 0..batch.len() {
            let event = Event::read(batch.keys.get(record), batch.values.get(record));
            let time = batch.timestamps.get(record).copied();
            let is_late = event.time <= call.watermark && call.watermark < END;
            if time != Some(event.time) || is_late && !event.may_be_late {
                let watermark = call.watermark;
                let complaint = format!("complaint: {event:?} of {time:?} after {watermark}");
                emit(call, 0, event.key.as_bytes(), complaint.as_bytes());
            }
            let number = keys.numbers.get(record).copied().unwrap_or_default();
            self.record(&event, number, call);
        }
        match strikes {
            true => Err(self.fail(call, keys)),
            false => Ok(()),
        }
    }

    fn on_timers(&mut self, fired: &Fired, call: &mut Call) -> Result<(), Failure> {
        let strikes = !call.probing && self.trouble.strikes(Place::Timers);
        let is_event = fired.domain == TimeDomain::Event;
        for index in 0..fired.len() {
            let (time, tag) = (fired.times[index], fired.tags[index]);
            let number = fired.keys.numbers[index];
            let key = fired.keys.keys.get(number as usize);
            let now = if is_event {
                call.watermark
            } else {
                call.processing_time
            };
            let mut complaint = (time > now).then(|| format!("fires too early, at {now}"));
            if is_event && !call.probing {
                let before = self.fired.insert(key.to_vec(), (now, time));
                if before.is_some_and(|(at, before)| at == now && before > time) {
                    complaint = Some(format!("comes after {before:?}"));
                }
            }
            let complaint = self.timer(key, number, time, tag, call).or(complaint);
            if let Some(complaint) = complaint {
                let complaint = format!("complaint: timer {time} {tag} {complaint}");
                emit(call, 0, key, complaint.as_bytes());
            }
        }
        match strikes {
            true => Err(self.fail(call, &fired.keys)),
            false => Ok(()),
        }
    }

    fn on_watermark(&mut self, call: &mut Call) -> Result<(), Failure> {
        self.pulse.note(&self.id, call.watermark);
        match self.trouble.strikes(Place::Watermark) {
            true => Err(self.fail(call, &Resolved::default())),
            false => Ok(()),
        }
    }

    fn end_of_input(&mut self, _: u32, call: &mut Call) -> Result<(), Failure> {
        if let Kind::Nudge { skips_overdue, .. } = self.kind {
            self.end_nudges(skips_overdue, call);
        }
        let held = call.state.timers_held();
        if held > 0 && !matches!(self.kind, Kind::Nudge { .. }) {
            let complaint = format!("complaint: {held} timers are left at the end");
            emit(call, 0, b"", complaint.as_bytes());
        }
        match self.trouble.strikes(Place::EndOfInput) {
            true => Err(self.fail(call, &Resolved::default())),
            false => Ok(()),
        }
    }
}
