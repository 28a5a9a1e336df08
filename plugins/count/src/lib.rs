//! Counts the records of each key.
//!
//! ```toml
//! config = { emit = "every-update" }      # or "final"
//! ```
//!
//! `every-update` emits a key's new count with each of its records, `final` all counts once, when the
//! input has ended. `key-columns = ["word"]` names the columns of the key for sinks that write names; unless given they
//! are called as in the input.

use highwater::{Emitter, Error, Kind, OpenContext, Operator, Record, Result, ValueState};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    #[serde(default)]
    emit: Emit,
    #[serde(default)]
    key_columns: Vec<String>,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Emit {
    #[default]
    EveryUpdate,
    Final,
}

struct Count {
    emit: Emit,
    count: ValueState<u64>,
}

impl Operator for Count {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        let mut key = ctx.key_columns("key-columns", &config.key_columns)?;
        if key.iter().any(|(name, _)| name == "count") {
            if !config.key_columns.is_empty() {
                return Err(Error::config(
                    "config: `key-columns` has the name `count`, which is that of the result",
                ));
            }
            key.clear();
        }
        ctx.output("out")
            .key_columns(key)
            .columns([("count", Kind::Integer)]);
        Ok(Self {
            emit: config.emit,
            count: ctx.value_state("count"),
        })
    }

    fn process(&mut self, record: Record, out: &mut Emitter) -> Result<()> {
        let n = self.count.get()?.unwrap_or(0) + 1;
        self.count.set(&n)?;
        match self.emit {
            Emit::EveryUpdate => out.emit(record.key(), n),
            Emit::Final => Ok(()),
        }
    }

    fn end_of_input(&mut self, _input: u32, out: &mut Emitter) -> Result<()> {
        match self.emit {
            Emit::EveryUpdate => Ok(()),
            Emit::Final => self.count.for_each(|key, n| out.emit(key, n)),
        }
    }
}

highwater::export!(Count);

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    const WORDS: [(&str, &str); 4] = [("to", ""), ("be", ""), ("or", ""), ("to", "")];

    #[test]
    fn every_update_is_emitted() {
        let mut count = Harness::<Count>::open().unwrap();
        count.process(&WORDS).unwrap();
        count.process(&WORDS[1..]).unwrap();
        count.end_of_input(0).unwrap();
        assert_eq!(
            count.take_rows(),
            ["to,1", "be,1", "or,1", "to,2", "be,2", "or,2", "to,3"]
        );
    }

    #[test]
    fn totals_leave_at_the_end_only() {
        let mut count = Harness::<Count>::setup()
            .config(r#"{"emit": "final"}"#)
            .open()
            .unwrap();
        count.process(&WORDS).unwrap();
        count.restart().unwrap();
        count.process(&WORDS).unwrap();
        assert!(count.take_rows().is_empty());
        count.end_of_input(0).unwrap();
        assert_eq!(count.take_rows(), ["be,2", "or,2", "to,4"]);
    }

    #[test]
    fn a_misspelt_key_is_told() {
        let error = Harness::<Count>::setup()
            .config(r#"{"emits": "final"}"#)
            .open()
            .unwrap_err();
        assert!(error.message().contains("unknown field `emits`"), "{error}");
    }
}
