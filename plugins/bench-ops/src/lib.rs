//! The operators that the benchmark runs, written as any operator is.
//!
//! ```toml
//! config = { op = "read" }
//! ```
//!
//! `read` emits a number of eight bytes per key and does not change it, once there is one. `update`
//! replaces a value of `size` bytes per key. `map` adds a field to each value, `filter` passes on the records whose value's last byte is
//! even; neither has state nor looks at keys, so the host need not resolve them. `tumbling`, `sliding` and `session`
//! count the records of each key in windows: of `size` milliseconds, each `slide` milliseconds, with a gap of `size`.
//! `timers` registers a timer for each record, `size` milliseconds after it, and emits when it fires. `nothing` drops all
//! records.

use std::time::Duration;

use highwater::{
    Count, Emitter, Fired, OpenContext, Operator, Record, Result, Session, Sliding, Span, Timers,
    Tumbling, ValueState, Window,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    op: Op,
    /// Bytes of a value that is replaced, or milliseconds.
    #[serde(default)]
    size: usize,
    #[serde(default)]
    slide: u64,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Op {
    Read,
    Update,
    Map,
    Filter,
    Tumbling,
    Sliding,
    Session,
    Timers,
    Nothing,
}

enum Bench {
    Read(ValueState<u64>),
    Update {
        value: ValueState<Vec<u8>>,
        size: usize,
    },
    Map,
    Filter,
    Tumbling(Window<Tumbling, Count>),
    Sliding(Window<Sliding, Count>),
    Session(Window<Session, Count>),
    Timers {
        timers: Timers,
        delay: i64,
    },
    Nothing,
}

fn emit(window: Span, count: u64, out: &mut Emitter) -> Result<()> {
    out.emit(out.key(), (window.start(), count))
}

impl Operator for Bench {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        let size = Duration::from_millis(config.size as u64);
        let slide = Duration::from_millis(config.slide);
        Ok(match config.op {
            Op::Tumbling => Bench::Tumbling(ctx.window("count", Tumbling::of(size), Count)),
            Op::Sliding => Bench::Sliding(ctx.window("count", Sliding::of(size, slide), Count)),
            Op::Session => Bench::Session(ctx.window("count", Session::gap(size), Count)),
            Op::Timers => Bench::Timers {
                timers: ctx.timers(),
                delay: config.size as i64,
            },
            Op::Nothing => {
                ctx.output("out").unkeyed();
                Bench::Nothing
            }
            Op::Read => Bench::Read(ctx.value_state("count")),
            Op::Update => Bench::Update {
                value: ctx.value_state("value"),
                size: config.size.max(1),
            },
            Op::Map => {
                ctx.output("out").unkeyed();
                Bench::Map
            }
            Op::Filter => {
                ctx.output("out").unkeyed();
                Bench::Filter
            }
        })
    }

    fn process(&mut self, record: Record, out: &mut Emitter) -> Result<()> {
        match self {
            Bench::Read(count) => match count.get()? {
                Some(n) => out.emit(record.key(), n),
                None => count.set(&1),
            },
            Bench::Update { value, size } => value.update(|value| {
                let bytes = value.get_or_insert_default();
                bytes.resize(*size, b'x');
                bytes[0] = bytes[0].wrapping_add(1);
            }),
            Bench::Map => out.emit_unkeyed((record.whole(), 1)),
            Bench::Filter => match record.value().last() {
                Some(byte) if byte % 2 == 0 => out.emit_unkeyed(record.whole()),
                _ => Ok(()),
            },
            Bench::Tumbling(window) => window.add(record, out, emit),
            Bench::Sliding(window) => window.add(record, out, emit),
            Bench::Session(window) => window.add(record, out, emit),
            Bench::Timers { timers, delay } => match record.timestamp() {
                Some(time) => timers.register_event_time(time + *delay, 0),
                None => highwater::bail!("the record has no event time"),
            },
            Bench::Nothing => Ok(()),
        }
    }

    fn on_timers(&mut self, fired: Fired<'_>, out: &mut Emitter) -> Result<()> {
        fired.timers().try_for_each(|timer| {
            match self {
                Bench::Tumbling(window) => window.on_timer(timer, out, emit)?,
                Bench::Sliding(window) => window.on_timer(timer, out, emit)?,
                Bench::Session(window) => window.on_timer(timer, out, emit)?,
                Bench::Timers { .. } => {
                    out.emit(timer.key(), timer.time() as u64)?;
                    true
                }
                Bench::Read(_)
                | Bench::Update { .. }
                | Bench::Map
                | Bench::Filter
                | Bench::Nothing => false,
            };
            Ok(())
        })
    }
}

highwater::export!(Bench);

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    fn check(op: &str, expect: &[&str]) {
        let config = format!(r#"{{"op": "{op}"}}"#);
        let mut bench = Harness::<Bench>::setup().config(&config).open().unwrap();
        bench
            .process(&[("a", "10"), ("b", "11"), ("a", "12")])
            .unwrap();
        assert_eq!(bench.take_rows(), expect, "{op}");
    }

    #[test]
    fn operators_do_what_they_are_measured_for() {
        check("map", &["10,1", "11,1", "12,1"]);
        check("filter", &["10", "12"]);
        check("read", &["a,1"]);
        check("nothing", &[]);
        check_windows("tumbling", &["a,0,2", "b,10,1"]);
        check_windows("sliding", &["a,-5,1", "a,0,2", "b,5,1", "a,5,1", "b,10,1"]);
        check_windows("session", &["b,14,1", "a,3,2"]);
        check_windows("timers", &["a,13", "a,18", "b,24"]);
    }

    fn check_windows(op: &str, expect: &[&str]) {
        let config = format!(r#"{{"op": "{op}", "size": 10, "slide": 5}}"#);
        let mut bench = Harness::<Bench>::setup().config(&config).open().unwrap();
        bench
            .process_timed(&[("a", "", 3), ("b", "", 14), ("a", "", 8)])
            .unwrap();
        bench.end_of_input(0).unwrap();
        assert_eq!(bench.take_rows(), expect, "{op}");
    }
}
