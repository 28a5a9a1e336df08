//! Sets timers as each record says, and reports what fires. For the tests of timers through the host.
//!
//! A record is a command with its arguments, separated by blanks:
//!
//! | command | effect |
//! |---|---|
//! | `at T TAG` | a timer of event time at T, for the record's key |
//! | `until T TAG STEP END` | the same; when it fires it registers the next one, STEP later, up to END |
//! | `cancel T TAG` | deletes a timer of event time |
//! | `in MS TAG` | a timer of processing time, MS from now |
//! | `fail T` | a timer of event time at T, at which the operator panics |
//! | `see TEXT` | reports the watermark |
//!
//! Reports are `KEY,fired,DOMAIN,TIME,TAG,WATERMARK` and `KEY,seen,,TEXT,,WATERMARK`; on the output `watermarks`
//! goes each watermark that is reached. With `config = { ticks = true }` there is a second input, of
//! records that only keep the job going.

use highwater::{
    Emitter, OpenContext, Operator, Record, Result, TimeDomain, Timer, Timers, ValueState, bail,
};
use serde::Deserialize;

/// The tag of timers at which the operator panics.
const PANIC: u32 = u32::MAX;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    ticks: bool,
}

/// The operator.
#[derive(Debug)]
pub(crate) struct Alarm {
    timers: Timers,
    /// How far apart the timers of a key are, and when they end.
    step: ValueState<(i64, i64)>,
    clock: highwater::Clock,
}

impl Alarm {
    fn watermark(&self) -> i64 {
        self.clock.watermark().unwrap_or(i64::MIN)
    }
}

impl Operator for Alarm {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        if config.ticks {
            ctx.declare_inputs(["commands", "ticks"]);
        }
        ctx.output("out");
        ctx.output("watermarks").unkeyed().text();
        Ok(Self {
            timers: ctx.timers(),
            step: ctx.value_state("step"),
            clock: ctx.clock(),
        })
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        if record.input() > 0 {
            return Ok(());
        }
        let line = record.text()?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["at", time, tag] => self.timers.register_event_time(time.parse()?, tag.parse()?),
            ["until", time, tag, step, end] => {
                self.step.set(&(step.parse()?, end.parse()?))?;
                self.timers.register_event_time(time.parse()?, tag.parse()?)
            }
            ["cancel", time, tag] => self.timers.delete_event_time(time.parse()?, tag.parse()?),
            ["in", ms, tag] => {
                let time = self.clock.processing_time() + ms.parse::<i64>()?;
                self.timers.register_processing_time(time, tag.parse()?)
            }
            ["fail", time] => self.timers.register_event_time(time.parse()?, PANIC),
            ["see", text] => out.emit(record.key(), ("seen", "", text, "", self.watermark())),
            _ => bail!("what is `{line}`?"),
        }
    }

    fn on_timer(&mut self, timer: Timer<'_>, out: &mut Emitter) -> Result<()> {
        assert!(timer.tag() != PANIC, "the alarm fails as it was asked to");
        let domain = match timer.domain() {
            TimeDomain::EventTime => "event",
            TimeDomain::ProcessingTime => "processing",
        };
        let (time, tag) = (timer.time(), timer.tag());
        if let Some((step, end)) = self.step.get()?
            && timer.domain() == TimeDomain::EventTime
            && time + step <= end
        {
            self.timers.register_event_time(time + step, tag)?;
        }
        out.emit(timer.key(), ("fired", domain, time, tag, self.watermark()))
    }

    fn on_watermark(&mut self, watermark: i64, out: &mut Emitter) -> Result<()> {
        out.to("watermarks").emit_unkeyed(watermark.to_string())
    }
}

highwater::export!(Alarm);

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    #[test]
    fn it_reports_what_fires() {
        let mut alarm = Harness::<Alarm>::setup().open().unwrap();
        let records = [("a", "at 5 1"), ("b", "until 3 2 2 7"), ("b", "cancel 9 9")];
        alarm.process(&records).unwrap();
        alarm.set_watermark(6).unwrap();
        assert_eq!(
            alarm.take_rows(),
            [
                "b,fired,event,3,2,6",
                "a,fired,event,5,1,6",
                "b,fired,event,5,2,6",
                "6"
            ]
        );
    }
}
