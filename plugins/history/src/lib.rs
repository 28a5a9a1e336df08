//! Remembers what came for each key, in every kind of state, and removes from each.
//!
//! ```toml
//! config = { recent = 3, journal = 10, forget-after = 100 }
//! ```
//!
//! Per key: a value, how many records came; a list, the values since their number was last a multiple of
//! `recent`; a map, the last `journal` values by their places, counted downwards from -1. The record after
//! the first `forget-after` ones (default: none does) removes everything of its key. Every other record
//! emits the number.

use std::num::NonZero;

use highwater::{
    Emitter, Kind, ListState, MapState, OpenContext, Operator, Record, Result, ValueState,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    recent: NonZero<u16>,
    journal: u16,
    #[serde(default)]
    forget_after: Option<i32>,
}

struct History {
    config: Config,
    seen: ValueState<i32>,
    recent: ListState<String>,
    journal: MapState<i32, String>,
}

impl Operator for History {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        ctx.output("out").columns([("seen", Kind::Integer)]);
        Ok(Self {
            config: ctx.config()?,
            seen: ctx.value_state("seen"),
            recent: ctx.list_state("recent"),
            journal: ctx.map_state("journal"),
        })
    }

    fn process(&mut self, record: Record, out: &mut Emitter) -> Result<()> {
        let value = record.text()?.into_owned();
        let seen = self.seen.get()?.unwrap_or(0) + 1;
        if self.config.forget_after.is_some_and(|most| seen > most) {
            self.recent.clear()?;
            self.journal.clear()?;
            return self.seen.clear();
        }
        self.seen.set(&seen)?;
        if seen % i32::from(self.config.recent.get()) == 0 {
            self.recent.clear()?;
        }
        self.recent.push(&value)?;
        self.journal.insert(&-seen, &value)?;
        self.journal
            .remove(&(i32::from(self.config.journal) - seen))?;
        out.emit(record.key(), seen)
    }
}

highwater::export!(History);

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    #[test]
    fn records_are_counted_until_they_are_forgotten() {
        let mut history = Harness::<History>::setup()
            .config(r#"{"recent": 2, "journal": 2, "forget-after": 3}"#)
            .open()
            .unwrap();
        let records = [("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")];
        history.process(&records).unwrap();
        history.restart().unwrap();
        history.process(&[("a", "5"), ("a", "6")]).unwrap();
        assert_eq!(history.take_rows(), ["a,1", "a,2", "b,1", "a,3", "a,1"]);
    }
}
