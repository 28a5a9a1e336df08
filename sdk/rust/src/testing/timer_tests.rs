//! Timers fire as a host fires them.

use super::*;
use crate::{Emitter, Fired, OpenContext, Record, TimeDomain, Timer, Timers, ValueState, bail};

/// Does what each record's value says, and reports what fires. Every key has a `count` of its firings.
struct Alarm {
    timers: Timers,
    count: ValueState<u32>,
}

fn act(alarm: &Alarm, action: &str) -> Result<()> {
    for action in action.split(';') {
        let words: Vec<&str> = action.split(' ').collect();
        match words[..] {
            ["at", time, tag] => alarm
                .timers
                .register_event_time(time.parse()?, tag.parse()?)?,
            ["clock", time, tag] => alarm
                .timers
                .register_processing_time(time.parse()?, tag.parse()?)?,
            ["not", time, tag] => alarm
                .timers
                .delete_event_time(time.parse()?, tag.parse()?)?,
            ["fail"] => bail!("failed as told"),
            _ => bail!("what is `{action}`?"),
        }
    }
    Ok(())
}

impl Operator for Alarm {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        Ok(Self {
            timers: ctx.timers(),
            count: ctx.value_state("count"),
        })
    }

    fn process(&mut self, record: Record<'_>, _out: &mut Emitter) -> Result<()> {
        act(self, &record.text()?)
    }

    fn on_timer(&mut self, timer: Timer<'_>, out: &mut Emitter) -> Result<()> {
        let count = self.count.get()?.unwrap_or(0) + 1;
        self.count.set(&count)?;
        out.emit(out.key(), (timer.time(), timer.tag(), count))?;
        // Tag 1: one that is due already. Tag 2: deletes the next one. Tag 3: fails. Tag 4: without end.
        match timer.tag() {
            1 => act(self, &format!("at {} 0", timer.time() + 1)),
            2 => act(self, &format!("not {} 0", timer.time() + 1)),
            3 => act(self, "fail"),
            4 => act(self, &format!("at {} 4", timer.time())),
            _ => Ok(()),
        }
    }

    fn on_watermark(&mut self, watermark: i64, out: &mut Emitter) -> Result<()> {
        out.emit("watermark", watermark)
    }
}

fn alarm() -> Harness<Alarm> {
    Harness::open().unwrap()
}

#[test]
fn c65_timers_fire_in_order_of_time_before_the_watermark_moves_on() {
    let mut alarm = alarm();
    let records = [
        ("b", "at 20 0"),
        ("a", "at 10 7"),
        ("c", "at 31 0"),
        ("a", "at 5 0;at 5 0;at 30 0"),
    ];
    alarm.process(&records).unwrap();
    // Registering twice is once.
    alarm.process(&[("a", "at 5 0")]).unwrap();
    alarm.set_watermark(30).unwrap();
    let emitted = alarm.take();
    let shown: Vec<_> = emitted
        .iter()
        .map(|emitted| {
            (
                emitted.key.clone().unwrap(),
                emitted.value.as_str(),
                emitted.timestamp,
            )
        })
        .collect();
    let shown: Vec<_> = shown
        .iter()
        .map(|(key, value, timestamp)| (key.as_str(), *value, *timestamp))
        .collect();
    assert_eq!(
        shown,
        [
            ("a", "5,0,1", Some(5)),
            ("a", "10,7,2", Some(10)),
            ("b", "20,0,1", Some(20)),
            ("a", "30,0,3", Some(30)),
            ("watermark", "30", None),
        ]
    );
    assert_eq!(alarm.timers().len(), 1);
    assert_eq!(alarm.entries(), 2 + 1);
}

#[test]
fn c65_timers_registered_and_deleted_while_firing_count_in_the_same_round() {
    let mut alarm = alarm();
    alarm
        .process(&[
            ("a", "at 10 1;at 20 0"),
            ("b", "at 10 2;at 11 0;at 12 0"),
            ("c", "at 10 0;not 10 0"),
            ("d", "not 10 0;at 10 0"),
        ])
        .unwrap();
    alarm.set_watermark(20).unwrap();
    assert_eq!(
        alarm.take_rows(),
        [
            "a,10,1,1",
            "b,10,2,1",
            "d,10,0,1",
            "a,11,0,2",
            "b,12,0,2",
            "a,20,0,3",
            "watermark,20"
        ]
    );
    assert!(alarm.timers().is_empty());
    // At or below the watermark, registered by a record: with the next one.
    alarm.process(&[("e", "at 3 0")]).unwrap();
    alarm.set_watermark(20).unwrap();
    assert!(alarm.take_rows().is_empty());
    alarm.set_watermark(21).unwrap();
    assert_eq!(alarm.take_rows(), ["e,3,0,1", "watermark,21"]);
}

#[test]
fn c65_a_call_has_at_most_1024_timers_and_each_key_once() {
    struct Calls(Timers);
    impl Operator for Calls {
        fn open(ctx: &mut OpenContext) -> Result<Self> {
            Ok(Self(ctx.timers()))
        }
        fn process(&mut self, record: Record<'_>, _out: &mut Emitter) -> Result<()> {
            self.0.register_event_time(1, 0)?;
            self.0.register_event_time(1, record.text()?.parse()?)
        }
        fn on_timers(&mut self, fired: Fired<'_>, out: &mut Emitter) -> Result<()> {
            let keys: std::collections::BTreeSet<_> = fired
                .timers()
                .map(|timer| timer.key().bytes().to_vec())
                .collect();
            assert_eq!(keys.len(), fired.len());
            assert_eq!(fired.domain(), TimeDomain::EventTime);
            out.emit("timers", fired.len())
        }
    }
    let mut calls = Harness::<Calls>::open().unwrap();
    let records: Vec<_> = (0..1500)
        .map(|key| (format!("{key:04}"), if key < 10 { "1" } else { "0" }))
        .collect();
    calls.process(&records).unwrap();
    calls.set_watermark(1).unwrap();
    assert_eq!(
        calls.take_rows(),
        ["timers,1024", "timers,486"],
        "1510 timers, those of the keys in the first call wait"
    );
}

#[test]
fn timers_of_the_clock_fire_when_it_has_passed_them_and_not_at_the_end() {
    let mut alarm = alarm();
    alarm.set_time(100).unwrap();
    let records = [
        ("a", "clock 150 0"),
        ("b", "clock 120 0;clock 900 0;at 5 0"),
    ];
    alarm.process(&records).unwrap();
    alarm.set_time(119).unwrap();
    assert!(alarm.take().is_empty());
    alarm.set_time(150).unwrap();
    let emitted = alarm.take();
    assert!(emitted.iter().all(|emitted| emitted.timestamp.is_none()));
    assert_eq!(emitted.len(), 2);
    alarm.end_of_input(0).unwrap();
    assert_eq!(
        alarm.take_rows(),
        ["b,5,0,2", &format!("watermark,{}", i64::MAX)]
    );
    assert_eq!(alarm.timers()[0].time, 900);
}

#[test]
fn a_call_that_fails_leaves_no_trace_in_timers() {
    let mut alarm = alarm();
    alarm.process(&[("a", "at 10 3")]).unwrap();
    let error = alarm.process(&[("b", "at 10 0;fail")]).unwrap_err();
    assert_eq!(error.record(), Some(0));
    let error = alarm.set_watermark(50).unwrap_err();
    assert_eq!((error.message(), error.record()), ("failed as told", None));
    assert_eq!(alarm.timers().len(), 1);
    assert!(alarm.take().is_empty());
    assert!(alarm.keys("count").is_empty());
}

#[test]
fn timers_survive_a_restart_and_need_a_key() {
    let mut alarm = alarm();
    alarm.process(&[("a", "at 10 0")]).unwrap();
    alarm.restart().unwrap();
    alarm.set_watermark(10).unwrap();
    assert_eq!(alarm.take_rows(), ["a,10,0,1", "watermark,10"]);
    let error = alarm.process_unkeyed(&["at 5 0"]).unwrap_err();
    assert!(
        error
            .message()
            .starts_with("a timer belongs to the record's key"),
        "{error}"
    );
}

#[test]
fn timers_that_register_each_other_without_end_are_reported() {
    let mut alarm = alarm();
    alarm.process(&[("a", "at 10 4")]).unwrap();
    let error = alarm.set_watermark(10).unwrap_err();
    assert!(error.message().contains("registers another one"), "{error}");
}

#[test]
fn only_operators_that_ask_for_timers_use_them() {
    struct Nothing;
    impl Operator for Nothing {
        fn open(_: &mut OpenContext) -> Result<Self> {
            Ok(Self)
        }
        fn process(&mut self, _: Record<'_>, _: &mut Emitter) -> Result<()> {
            Ok(())
        }
    }
    assert!(alarm().description.uses_timers);
    assert!(!Harness::<Nothing>::open().unwrap().description.uses_timers);
}
