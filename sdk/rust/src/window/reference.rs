//! Windows against a reference.
//!
//! Goal: every window gives the results it should, once, in spite of records out of order, late ones, restarts and
//! early results; and nothing of a closed window stays in state. Method: random batches, watermarks, times of the
//! clock and restarts; a model that keeps all records and looks at every window there can be, without slices, panes or
//! timers, says after each step what has to be emitted.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{
    AHEAD_RESULTS_MAX, Assigner, Cumulative, Every, Firing, Global, Session, Sliding, Span,
    Tumbling, Window,
};
use crate::aggregate::{Collect, Collected, Count, Sum};
use crate::testing::Harness;
use crate::{Column, Emitter, OpenContext, Operator, Record, Result, Timer, Ttl};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Sliding { size: i64, slide: i64, offset: i64 },
    Cumulative { step: i64, steps: i64, offset: i64 },
    Session { gap: i64 },
    Every { records: u32 },
    Global,
}

#[derive(Clone, Copy, Debug)]
struct Setup {
    kind: Kind,
    lateness: i64,
    early_after: u32,
    early_every: i64,
    /// The most results that a call gives ahead of their timers. With 0 the operator asks for timers of its own, so that
    /// each end of a window has its turn.
    ahead_max: usize,
    ttl: Option<(i64, bool)>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Keys, and event times as seen from the watermark.
    Batch(Vec<(u8, i64)>),
    /// By how much it advances.
    Watermark(i64),
    Clock(i64),
    /// By how much more lateness the operator allows after it.
    Restart(i64),
}

thread_local! {
    /// What the operator of this test's thread is opened with.
    static SETUP: Cell<Option<Setup>> = const { Cell::new(None) };
}

fn ms(milliseconds: i64) -> Duration {
    Duration::from_millis(milliseconds as u64)
}

/// Makes an assigner from the setup.
trait Made: Assigner + Sized {
    fn made(kind: Kind) -> Self;
}

macro_rules! made {
    ($($assigner:ty: $kind:pat => $made:expr;)*) => {$(
        impl Made for $assigner {
            fn made(kind: Kind) -> Self {
                match kind {
                    $kind => $made,
                    other => panic!("{other:?} is of another kind"),
                }
            }
        }
    )*};
}
made! {
    Tumbling: Kind::Sliding { size, offset, .. } => Self::of(ms(size)).offset(ms(offset));
    Sliding: Kind::Sliding { size, slide, offset } => Self::of(ms(size), ms(slide)).offset(ms(offset));
    Cumulative: Kind::Cumulative { step, steps, offset } => Self::of(ms(step * steps), ms(step)).offset(ms(offset));
    Session: Kind::Session { gap } => Self::gap(ms(gap));
    Every: Kind::Every { records } => Self::records(records);
    Global: Kind::Global => Self;
}

/// Keeps the records of each window, which are numbers.
struct Kept<A: Assigner>(Window<A, (Collect, Count, Sum<i64>)>);

fn show(span: Span, (kept, count, sum): (Collected, u64, i64), out: &mut Emitter) -> Result<()> {
    let numbers: Vec<&str> = kept
        .values()
        .map(|value| std::str::from_utf8(value).unwrap())
        .collect();
    assert_eq!(numbers.len() as u64, count);
    let total: i64 = numbers
        .iter()
        .map(|number| number.parse::<i64>().unwrap())
        .sum();
    assert_eq!(total, sum);
    out.emit(
        out.key(),
        (span, format!("{:?}", span.firing()), numbers.join(" ")),
    )
}

impl<A: Made> Operator for Kept<A> {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let setup = SETUP.get().unwrap();
        if setup.ahead_max == 0 {
            ctx.timers();
        }
        let aggregate = (Collect, Count, Sum::of(Column::at(0)));
        let mut window = ctx
            .window("kept", A::made(setup.kind), aggregate)
            .allowed_lateness(ms(setup.lateness))
            .late_to("late");
        if let Some((length, event_time)) = setup.ttl {
            let ttl = Ttl::of(ms(length));
            ctx.ttl("kept", if event_time { ttl.in_event_time() } else { ttl });
        }
        if setup.early_after > 0 {
            window = window.early_after(setup.early_after);
        }
        if setup.early_every > 0 {
            window = window.early_every(ms(setup.early_every));
        }
        Ok(Self(window))
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        self.0.add(record, out, show)
    }

    fn on_timer(&mut self, timer: Timer<'_>, out: &mut Emitter) -> Result<()> {
        let ahead_max = SETUP.get().unwrap().ahead_max;
        self.0.0.settings.ahead_max.set(ahead_max);
        self.0.0.settings.ahead_from.set(ahead_max % 3);
        assert!(self.0.on_timer(timer, out, show)?);
        Ok(())
    }
}

/// A record as the model keeps it.
#[derive(Clone, Debug)]
struct Item {
    key: u8,
    time: i64,
    number: usize,
    /// Since the last watermark; since the last early result.
    new: bool,
    changed: bool,
}

struct Model {
    setup: Setup,
    watermark: i64,
    clock: i64,
    records: Vec<Item>,
    /// By key, when an early result is due.
    early_at: BTreeMap<u8, i64>,
    emitted: Vec<String>,
}

impl Model {
    /// The windows that a time falls into, as (start, end), whatever is in them.
    fn windows(&self, time: i64) -> Vec<(i64, i64)> {
        let starts = |length: i64, step: i64, offset: i64| {
            (time - length + 1..=time).filter(move |start| (start - offset).rem_euclid(step) == 0)
        };
        match self.setup.kind {
            Kind::Sliding {
                size,
                slide,
                offset,
            } => starts(size, slide, offset)
                .map(|start| (start, start + size))
                .collect(),
            Kind::Cumulative {
                step,
                steps,
                offset,
            } => starts(step * steps, step * steps, offset)
                .flat_map(|start| (1..=steps).map(move |n| (start, start + n * step)))
                .filter(|(_, end)| *end > time)
                .collect(),
            _ => Vec::new(),
        }
    }

    fn is_session(&self) -> bool {
        matches!(self.setup.kind, Kind::Session { .. })
    }

    /// The sessions of a key: each its records, by time.
    fn sessions(&self, key: u8) -> Vec<Vec<Item>> {
        let Kind::Session { gap } = self.setup.kind else {
            return Vec::new();
        };
        let mut records: Vec<Item> = self
            .records
            .iter()
            .filter(|record| record.key == key)
            .cloned()
            .collect();
        records.sort_by_key(|record| record.time);
        let mut sessions: Vec<Vec<Item>> = Vec::new();
        for record in records {
            match sessions.last_mut() {
                Some(last) if last[last.len() - 1].time + gap >= record.time => last.push(record),
                _ => sessions.push(vec![record]),
            }
        }
        sessions
    }

    fn span(&self, session: &[Item]) -> (i64, i64) {
        let Kind::Session { gap } = self.setup.kind else {
            panic!()
        };
        (session[0].time, session[session.len() - 1].time + gap)
    }

    /// Every window of a key that has records: its span and its records, by end.
    fn filled(&self, key: u8) -> Vec<((i64, i64), Vec<Item>)> {
        let mut filled: BTreeMap<(i64, i64), Vec<Item>> = BTreeMap::new();
        for session in self.sessions(key) {
            filled.insert(self.span(&session), session);
        }
        for record in self.records.iter().filter(|record| record.key == key) {
            for window in self.windows(record.time) {
                filled.entry(window).or_default().push(record.clone());
            }
        }
        filled.into_iter().collect()
    }

    fn emit(&mut self, key: u8, (start, end): (i64, i64), firing: Firing, records: &[Item]) {
        let mut records = records.to_vec();
        records.sort_by_key(|record| record.time);
        let numbers: Vec<String> = records
            .iter()
            .map(|record| record.number.to_string())
            .collect();
        self.emitted.push(format!(
            "{key},{start},{end},{firing:?},{}",
            numbers.join(" ")
        ));
    }

    fn emit_all(&mut self, key: u8, firing: Firing) {
        let records: Vec<Item> = self
            .records
            .iter()
            .filter(|record| record.key == key)
            .cloned()
            .collect();
        let times = || records.iter().map(|record| record.time);
        let span = (times().min().unwrap(), times().max().unwrap() + 1);
        self.emit(key, span, firing, &records);
    }

    fn is_closed(&self, end: i64) -> bool {
        (end - 1).saturating_add(self.setup.lateness) <= self.watermark
    }

    fn add(&mut self, key: u8, time: i64, number: usize) {
        let record = Item {
            key,
            time,
            number,
            new: true,
            changed: false,
        };
        let mut ends: Vec<i64> = self.windows(time).into_iter().map(|(_, end)| end).collect();
        match self.setup.kind {
            Kind::Every { .. } | Kind::Global => return self.add_counted(record),
            Kind::Session { .. } => {
                self.records.push(record);
                let session = self
                    .sessions(key)
                    .into_iter()
                    .find(|session| session.iter().any(|other| other.number == number));
                ends = vec![self.span(&session.unwrap()).1];
                self.records.pop();
            }
            _ => {}
        }
        if !ends.is_empty() && ends.iter().all(|&end| self.is_closed(end)) {
            return self.emitted.push(format!("late {key},{number}"));
        }
        if ends.is_empty() {
            return;
        }
        self.records.push(Item {
            key,
            time,
            number,
            new: true,
            changed: true,
        });
        ends.retain(|end| end - 1 > self.watermark);
        if ends.is_empty() {
            return;
        }
        self.change(key);
        let after = u64::from(self.setup.early_after);
        if after > 0 && !self.is_session() {
            for (span, records) in self.filled(key) {
                if ends.contains(&span.1) && (records.len() as u64).is_multiple_of(after) {
                    self.emit(key, span, Firing::Early, &records);
                }
            }
        }
    }

    fn add_counted(&mut self, record: Item) {
        let key = record.key;
        self.records.push(Item {
            changed: true,
            ..record
        });
        let count = self
            .records
            .iter()
            .filter(|record| record.key == key)
            .count() as u64;
        if let Kind::Every { records } = self.setup.kind
            && count == u64::from(records)
        {
            self.emit_all(key, Firing::OnTime);
            self.records.retain(|record| record.key != key);
            self.early_at.remove(&key);
            return;
        }
        let after = u64::from(self.setup.early_after);
        if after > 0 && count.is_multiple_of(after) {
            self.emit_all(key, Firing::Early);
        }
        self.change(key);
    }

    fn change(&mut self, key: u8) {
        if self.setup.early_every > 0 {
            let due = self.clock + self.setup.early_every;
            self.early_at.entry(key).or_insert(due);
        }
    }

    fn keys(&self) -> Vec<u8> {
        (0..4).collect()
    }

    fn advance(&mut self, watermark: i64) {
        if watermark <= self.watermark {
            return;
        }
        let before = std::mem::replace(&mut self.watermark, watermark);
        for key in self.keys() {
            for (span, records) in self.filled(key) {
                // The record may have come when this window was closed.
                let was_closed = (span.1 - 1).saturating_add(self.setup.lateness) <= before;
                if span.1 - 1 > before && span.1 - 1 <= watermark {
                    self.emit(key, span, Firing::OnTime, &records);
                } else if span.1 - 1 <= before
                    && !was_closed
                    && records.iter().any(|record| record.new)
                {
                    self.emit(key, span, Firing::Late, &records);
                }
            }
            if matches!(self.setup.kind, Kind::Global)
                && watermark == i64::MAX
                && self.records.iter().any(|record| record.key == key)
            {
                self.emit_all(key, Firing::OnTime);
                self.records.retain(|record| record.key != key);
            }
        }
        self.records
            .iter_mut()
            .for_each(|record| record.new = false);
        let kept = |record: &Item| match self.setup.kind {
            Kind::Every { .. } | Kind::Global => true,
            Kind::Session { .. } => {
                let sessions = self.sessions(record.key);
                let session = sessions
                    .iter()
                    .find(|session| session.iter().any(|other| other.number == record.number));
                !self.is_closed(self.span(session.unwrap()).1)
            }
            _ => self
                .windows(record.time)
                .iter()
                .any(|(_, end)| !self.is_closed(*end)),
        };
        self.records = self
            .records
            .iter()
            .filter(|record| kept(record))
            .cloned()
            .collect();
        let records = &self.records;
        self.early_at
            .retain(|key, _| records.iter().any(|record| record.key == *key));
    }

    fn set_clock(&mut self, clock: i64) {
        self.clock = clock;
        for key in self.keys() {
            if self.early_at.get(&key).is_none_or(|due| *due > clock) {
                continue;
            }
            self.early_at.remove(&key);
            for (span, records) in self.filled(key) {
                if span.1 - 1 > self.watermark && records.iter().any(|record| record.changed) {
                    self.emit(key, span, Firing::Early, &records);
                }
            }
            if matches!(self.setup.kind, Kind::Every { .. } | Kind::Global)
                && self
                    .records
                    .iter()
                    .any(|record| record.key == key && record.changed)
            {
                self.emit_all(key, Firing::Early);
            }
            self.records
                .iter_mut()
                .filter(|record| record.key == key)
                .for_each(|record| record.changed = false);
        }
    }
}

/// Whether this is a result that comes in the order of the windows' ends.
fn is_ordered(value: &str, kind: Kind) -> bool {
    value.contains("OnTime") && !matches!(kind, Kind::Every { .. } | Kind::Global)
}

fn compare<A: Made>(harness: &mut Harness<Kept<A>>, model: &mut Model, step: &str) {
    let mut last_ends = BTreeMap::new();
    let mut emitted: Vec<String> = harness
        .take()
        .into_iter()
        .map(|record| {
            let key = record.key.clone().unwrap();
            if record.output == "late" {
                return format!("late {key},{}", record.value);
            }
            let end: i64 = record.value.split(',').nth(1).unwrap().parse().unwrap();
            assert_eq!(record.timestamp, Some(end - 1), "{record:?}");
            if is_ordered(&record.value, model.setup.kind) {
                let before = last_ends.insert(key.clone(), end);
                assert!(before < Some(end), "{record:?} comes after {before:?}");
            }
            format!("{key},{}", record.value)
        })
        .collect();
    let mut expected = std::mem::take(&mut model.emitted);
    emitted.sort();
    expected.sort();
    assert_eq!(emitted, expected, "after {step} with {:?}", model.setup);
    if model.records.is_empty() {
        assert_eq!(harness.entries(), 0, "after {step}: {:?}", harness.timers());
    }
}

fn run<A: Made>(setup: Setup, steps: &[Step]) {
    SETUP.set(Some(setup));
    let mut harness = Harness::<Kept<A>>::open().unwrap();
    let mut model = Model {
        setup,
        watermark: i64::MIN,
        clock: 0,
        records: Vec::new(),
        early_at: BTreeMap::new(),
        emitted: Vec::new(),
    };
    let mut number = 0;
    for step in steps {
        match step {
            Step::Batch(records) => {
                let base = model.watermark.max(-50);
                let records: Vec<_> = records
                    .iter()
                    .map(|(key, time)| (*key, base + time))
                    .collect();
                let batch: Vec<_> = records
                    .iter()
                    .enumerate()
                    .map(|(index, (key, time))| {
                        (key.to_string(), (number + index).to_string(), *time)
                    })
                    .collect();
                harness.process_timed(&batch).unwrap();
                for (key, time) in records {
                    model.add(key, time, number);
                    number += 1;
                }
            }
            Step::Watermark(by) => {
                let watermark = model.watermark.max(-50) + by;
                harness.set_watermark(watermark).unwrap();
                model.advance(watermark);
            }
            Step::Clock(by) => {
                let clock = model.clock + by;
                harness.set_time(clock).unwrap();
                model.set_clock(clock);
            }
            Step::Restart(by) => {
                if *by > 0 {
                    // Late results that are due may be of windows that were closed when their records came, and are
                    // not any more: the model does not know which.
                    let watermark = model.watermark.max(-50) + 1;
                    harness.set_watermark(watermark).unwrap();
                    model.advance(watermark);
                }
                model.setup.lateness = model.setup.lateness.saturating_add(*by);
                SETUP.set(Some(model.setup));
                harness.restart().unwrap();
            }
        }
        compare(&mut harness, &mut model, &format!("{step:?}"));
    }
    harness.end_of_input(0).unwrap();
    model.advance(i64::MAX);
    compare(&mut harness, &mut model, "the end of input");
}

/// What was emitted for each key, in order.
fn by_key<A: Made>(harness: &mut Harness<Kept<A>>) -> BTreeMap<Option<String>, Vec<String>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in harness.take() {
        let key = record.key.clone();
        all.entry(key).or_default().push(format!("{record:?}"));
    }
    all
}

/// Runs the same with and without results ahead of their timers.
fn run_both<A: Made>(setup: Setup, steps: &[Step]) {
    let setups = [
        setup,
        Setup {
            ahead_max: 0,
            ..setup
        },
    ];
    let mut both = setups.map(|setup| {
        SETUP.set(Some(setup));
        Harness::<Kept<A>>::open().unwrap()
    });
    let (mut watermark, mut clock, mut number) = (-50, 0, 0);
    for step in steps.iter().map(Some).chain([None]) {
        let (since, first) = (watermark, number);
        match step {
            Some(Step::Batch(records)) => number += records.len(),
            Some(Step::Watermark(by)) => watermark += by,
            Some(Step::Clock(by)) => clock += by,
            Some(Step::Restart(_)) | None => {}
        }
        let [ahead, one_by_one] = [0, 1].map(|index| {
            let harness = &mut both[index];
            SETUP.set(Some(setups[index]));
            match step {
                Some(Step::Batch(records)) => {
                    let records = records.iter().zip(first..);
                    let batch: Vec<_> = records
                        .map(|((key, time), number)| {
                            (key.to_string(), number.to_string(), since + time)
                        })
                        .collect();
                    harness.process_timed(&batch)
                }
                Some(Step::Watermark(_)) => harness.set_watermark(watermark),
                Some(Step::Clock(_)) => harness.set_time(clock),
                Some(Step::Restart(_)) => harness.restart(),
                None => harness.end_of_input(0),
            }
            .unwrap();
            by_key(harness)
        });
        assert_eq!(ahead, one_by_one, "after {step:?} with {setup:?}");
    }
}

fn run_kind(setup: Setup, steps: &[Step]) {
    match setup.kind {
        Kind::Sliding { size, slide, .. } if size == slide => {
            run::<Tumbling>(setup, steps);
            run::<Sliding>(setup, steps);
        }
        Kind::Sliding { .. } => run::<Sliding>(setup, steps),
        Kind::Cumulative { .. } => run::<Cumulative>(setup, steps),
        Kind::Session { .. } => run::<Session>(setup, steps),
        Kind::Every { .. } => run::<Every>(setup, steps),
        Kind::Global => run::<Global>(setup, steps),
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (1..20i64, 0..25i64).prop_map(|(size, offset)| Kind::Sliding {
            size,
            slide: size,
            offset
        }),
        (1..30i64, 1..12i64, 0..25i64).prop_map(|(size, slide, offset)| Kind::Sliding {
            size,
            slide,
            offset
        }),
        (1..6i64, 1..6i64, 0..25i64).prop_map(|(step, steps, offset)| Kind::Cumulative {
            step,
            steps,
            offset
        }),
        (1..12i64).prop_map(|gap| Kind::Session { gap }),
        (1..5u32).prop_map(|records| Kind::Every { records }),
        Just(Kind::Global),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let time = prop_oneof![8 => -25..30i64, 1 => -60..100i64];
    let step = prop_oneof![
        5 => vec((0..3u8, time), 1..8).prop_map(Step::Batch),
        3 => (0..25i64).prop_map(Step::Watermark),
        1 => (0..15i64).prop_map(Step::Clock),
        1 => prop_oneof![Just(0), 0..40i64].prop_map(Step::Restart),
    ];
    vec(step, 0..30)
}

fn setups() -> impl Strategy<Value = Setup> {
    let lateness = prop_oneof![Just(0), 0..40i64, Just(i64::MAX)];
    let early_after = prop_oneof![2 => Just(0), 1 => 1..4u32];
    let early_every = prop_oneof![2 => Just(0), 1 => 1..20i64];
    let ahead_max = prop_oneof![0..5usize, Just(AHEAD_RESULTS_MAX)];
    (kinds(), lateness, early_after, early_every, ahead_max).prop_map(
        |(kind, lateness, early_after, early_every, ahead_max)| Setup {
            kind,
            lateness,
            // With sessions the model does not know how the counts of two add up.
            early_after: if matches!(kind, Kind::Session { .. }) {
                0
            } else {
                early_after
            },
            early_every,
            ahead_max,
            ttl: None,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Sessions once more, and close to each other: they have the most to go wrong.
    #[test]
    fn c67_c69_sessions_join_as_those_of_the_reference(
        gap in 4..12i64,
        lateness in 10..40i64,
        setup in setups(),
        steps in steps(),
    ) {
        run_kind(Setup { kind: Kind::Session { gap }, lateness, early_after: 0, ..setup }, &steps);
    }

    /// Also for windows that a TTL removes before they end, of which only timers are left.
    #[test]
    fn what_is_given_ahead_is_what_comes_one_by_one(
        setup in setups(),
        steps in steps(),
        ahead_max in prop_oneof![1..5usize, Just(AHEAD_RESULTS_MAX)],
        ttl in prop_oneof![Just(None), (1..40i64, any::<bool>()).prop_map(Some)],
    ) {
        let setup = Setup { ahead_max, ttl, ..setup };
        match setup.kind {
            Kind::Session { .. } => run_both::<Session>(setup, &steps),
            Kind::Cumulative { .. } => run_both::<Cumulative>(setup, &steps),
            Kind::Sliding { .. } => run_both::<Sliding>(setup, &steps),
            Kind::Every { .. } | Kind::Global => {}
        }
    }

    #[test]
    fn c67_c69_windows_give_the_results_of_the_reference(setup in setups(), steps in steps()) {
        run_kind(setup, &steps);
    }
}
