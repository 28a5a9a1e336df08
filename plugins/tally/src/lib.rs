//! Counts the records of each key, in every kind of state, under the version of its schema that `config` names: to test
//! how a job goes on when an operator changed.
//!
//! ```toml
//! config = { version = 2 }
//! ```
//!
//! Version 1 writes its numbers as decimal digits, version 2 as eight bytes, version 3 too. Version 2 migrates what
//! version 1 has written; version 3 migrates nothing. `as-list = true` declares the value state as a list, `renamed =
//! true` its schema under another name, `more = true` one more state, and `timers = true` has a timer of event time for
//! each key, far in the future.
//!
//! Value, map and list of a key have to agree with each record, or the operator fails. At the end of the input each
//! key is emitted with its number, and `elements` with how many records the subtask has on its own list.

use highwater::{
    Codec, Emitter, Error, ListState, MapState, OpenContext, Operator, OperatorList, Record,
    Result, Timers, ValueState, bail,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    version: u32,
    #[serde(default)]
    as_list: bool,
    #[serde(default)]
    renamed: bool,
    #[serde(default)]
    more: bool,
    #[serde(default)]
    timers: bool,
}

/// A number as some version writes it.
trait Number: Codec + Copy {
    fn of(number: u64) -> Self;
    fn get(self) -> u64;
}

/// As version 1 writes it: digits.
#[derive(Clone, Copy)]
struct Digits(u64);

/// As versions 2 and 3 write it: eight bytes.
#[derive(Clone, Copy)]
struct Bytes<const VERSION: u32, const RENAMED: bool>(u64);

impl Codec for Digits {
    fn schema() -> String {
        "number".to_owned()
    }

    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.0.to_string().as_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        digits(bytes).map(Self)
    }
}

fn digits(bytes: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(bytes).ok();
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| Error::config(format_args!("{bytes:?} are no digits")))
}

impl<const VERSION: u32, const RENAMED: bool> Codec for Bytes<VERSION, RENAMED> {
    const VERSION: u32 = VERSION;

    fn schema() -> String {
        if RENAMED { "figure" } else { "number" }.to_owned()
    }

    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.0.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        match bytes.try_into() {
            Ok(bytes) => Ok(Self(u64::from_be_bytes(bytes))),
            Err(_) => Err(Error::config(format_args!("{bytes:?} are not eight bytes"))),
        }
    }
}

impl Number for Digits {
    fn of(number: u64) -> Self {
        Self(number)
    }

    fn get(self) -> u64 {
        self.0
    }
}

impl<const VERSION: u32, const RENAMED: bool> Number for Bytes<VERSION, RENAMED> {
    fn of(number: u64) -> Self {
        Self(number)
    }

    fn get(self) -> u64 {
        self.0
    }
}

/// The states under some version.
struct States<N: Number> {
    value: ValueState<N>,
    map: MapState<i32, N>,
    list: ListState<N>,
    elements: OperatorList<N>,
}

impl<N: Number> States<N> {
    fn declare(ctx: &mut OpenContext) -> Self {
        Self {
            value: ctx.value_state("value"),
            map: ctx.map_state("map"),
            list: ctx.list_state("list"),
            elements: ctx.operator_list("elements"),
        }
    }
}

/// What the operator does with its states, whatever their version.
trait Counting {
    fn count(&mut self) -> Result<()>;
    fn tell(&mut self, out: &mut Emitter) -> Result<()>;
}

impl<N: Number> Counting for States<N> {
    fn count(&mut self) -> Result<()> {
        let number = self.value.get()?.map_or(0, N::get);
        let of_map = self.map.get(&7)?.map_or(0, N::get);
        let of_list: Vec<u64> = self
            .list
            .iter()?
            .map(|element| element.map(N::get))
            .collect::<Result<_>>()?;
        let first = number.saturating_sub(2) + 1;
        if of_map != number || of_list != (first..=number).collect::<Vec<_>>() {
            bail!("the value is {number}, the map has {of_map}, the list {of_list:?}");
        }
        self.value.set(&N::of(number + 1))?;
        self.map.insert(&7, &N::of(number + 1))?;
        if of_list.len() == 2 {
            self.list.clear()?;
            self.list.push(&N::of(number))?;
        }
        self.list.push(&N::of(number + 1))?;
        self.elements.push(&N::of(number + 1))
    }

    fn tell(&mut self, out: &mut Emitter) -> Result<()> {
        self.value
            .for_each(|key, number| out.emit(key, number.get()))?;
        let elements = self.elements.get()?;
        let sum: u64 = elements.iter().map(|number| number.get()).sum();
        out.emit("elements", (elements.len() as u64, sum))
    }
}

/// The same with a list in the place of the value.
struct AsList {
    value: ListState<Digits>,
}

impl Counting for AsList {
    fn count(&mut self) -> Result<()> {
        self.value.push(&Digits(1))
    }

    fn tell(&mut self, _: &mut Emitter) -> Result<()> {
        Ok(())
    }
}

struct Tally {
    version: u32,
    counting: Box<dyn Counting>,
    more: Option<ValueState<u64>>,
    timers: Option<Timers>,
}

impl Operator for Tally {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        ctx.output("out");
        let counting: Box<dyn Counting> = match config.version {
            _ if config.as_list => Box::new(AsList {
                value: ctx.list_state("value"),
            }),
            1 => Box::new(States::<Digits>::declare(ctx)),
            2 if config.renamed => Box::new(States::<Bytes<2, true>>::declare(ctx)),
            2 => Box::new(States::<Bytes<2, false>>::declare(ctx)),
            3 => Box::new(States::<Bytes<3, false>>::declare(ctx)),
            other => return Err(Error::config(format_args!("there is no version {other}"))),
        };
        Ok(Self {
            version: config.version,
            counting,
            more: config.more.then(|| ctx.value_state("more")),
            timers: config.timers.then(|| ctx.timers()),
        })
    }

    fn process(&mut self, _record: Record, _out: &mut Emitter) -> Result<()> {
        if let Some(more) = &self.more {
            more.set(&1)?;
        }
        if let Some(timers) = &self.timers {
            timers.register_event_time(4_000_000_000_000, 0)?;
        }
        self.counting.count()
    }

    fn end_of_input(&mut self, _input: u32, out: &mut Emitter) -> Result<()> {
        self.counting.tell(out)
    }

    fn migrate(
        &mut self,
        state: &str,
        from_version: u32,
        value: &[u8],
        to: &mut Vec<u8>,
    ) -> Result<()> {
        if (self.version, from_version) != (2, 1) {
            return Err(Error::config(format_args!(
                "version {from_version} of `{state}` is not known to version {}",
                self.version
            )));
        }
        to.extend_from_slice(&digits(value)?.to_be_bytes());
        Ok(())
    }
}

highwater::export!(Tally);

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    #[test]
    fn it_counts_under_each_version_and_migrates_from_the_first() {
        for version in [1, 2, 3] {
            let mut tally = Harness::<Tally>::setup()
                .config(&format!(r#"{{"version": {version}}}"#))
                .open()
                .unwrap();
            tally
                .process(&[("a", ""), ("a", ""), ("a", ""), ("b", "")])
                .unwrap();
            tally.end_of_input(0).unwrap();
            let mut rows = tally.take_rows();
            rows.sort();
            assert_eq!(rows, ["a,3", "b,1", "elements,4,7"]);
            let migrated = tally.migrate("value", 1, &[b"258"]);
            match version {
                2 => assert_eq!(migrated.unwrap(), [[0, 0, 0, 0, 0, 0, 1, 2]]),
                _ => assert!(migrated.is_err()),
            }
        }
    }
}
