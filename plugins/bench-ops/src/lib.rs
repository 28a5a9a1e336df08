//! The operators that the benchmark runs, written as any operator is.
//!
//! ```toml
//! config = { op = "read" }
//! ```
//!
//! `read` emits a number of eight bytes per key and does not change it, once there is one. `update`
//! replaces a value of `size` bytes per key. `map` adds a field to each value, `filter` passes on the records whose value's last byte is
//! even; neither has state nor looks at keys, so the host need not resolve them.

use highwater::{Emitter, OpenContext, Operator, Record, Result, ValueState};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    op: Op,
    /// Bytes of a value that is replaced.
    #[serde(default)]
    size: usize,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Op {
    Read,
    Update,
    Map,
    Filter,
}

enum Bench {
    Read(ValueState<u64>),
    Update {
        value: ValueState<Vec<u8>>,
        size: usize,
    },
    Map,
    Filter,
}

impl Operator for Bench {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        Ok(match config.op {
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
        check("map", &["10,1", "11,1", "12,1"]);
        check("filter", &["10", "12"]);
        check("read", &["a,1"]);
    }
}
