//! The operators that the benchmark runs, written as any operator is.
//!
//! ```toml
//! config = { op = "count" }
//! ```
//!
//! `count` keeps a number of eight bytes per key and emits it with each record; `count-quiet` emits
//! nothing. `map` adds a field to each value, `filter` passes on the records whose value's last byte is
//! even; neither has state, so the host need not resolve keys.

use highwater::{Emitter, OpenContext, Operator, Record, Result, ValueState};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    op: Op,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Op {
    Count,
    CountQuiet,
    Map,
    Filter,
}

enum Bench {
    Count(ValueState<u64>),
    CountQuiet(ValueState<u64>),
    Map,
    Filter,
}

impl Operator for Bench {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        Ok(match config.op {
            Op::Count => Bench::Count(ctx.value_state("count")),
            Op::CountQuiet => Bench::CountQuiet(ctx.value_state("count")),
            Op::Map => Bench::Map,
            Op::Filter => Bench::Filter,
        })
    }

    fn process(&mut self, record: Record, out: &mut Emitter) -> Result<()> {
        match self {
            Bench::Count(count) => {
                let n = count.get()?.unwrap_or(0) + 1;
                count.set(&n)?;
                out.emit(record.key(), n)
            }
            Bench::CountQuiet(count) => {
                let n = count.get()?.unwrap_or(0) + 1;
                count.set(&n)
            }
            Bench::Map => out.emit(record.key(), (record.whole(), 1)),
            Bench::Filter => match record.value().last() {
                Some(byte) if byte % 2 == 0 => out.emit(record.key(), record.whole()),
                _ => Ok(()),
            },
        }
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
        check("count", &["a,1", "b,1", "a,2"]);
        check("count-quiet", &[]);
        check("map", &["a,10,1", "b,11,1", "a,12,1"]);
        check("filter", &["a,10", "a,12"]);
    }
}
