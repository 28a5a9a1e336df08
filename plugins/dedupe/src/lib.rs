//! Passes on the first of equal records and drops the others.
//!
//! ```toml
//! config = { identity = ["id"], columns = ["id", "text"] }
//! ```
//!
//! Records are equal if they have the same key, or, with `identity`, the same key and the same fields in
//! these columns. The columns that are passed on are those of the input; `columns` names them where it declares
//! none. `format` is what the values are (`row`, which is the default, `text`, `json`). What was seen is remembered for as
//! long as the job file says (`state.seen = { ttl = "24h" }`, from the last of the equal records on), or forever if it
//! says nothing.

use highwater::{
    Column, Emitter, Error, Input, Kind, MapState, OpenContext, Operator, Record, Result,
    ValueState,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    #[serde(default)]
    identity: Vec<String>,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
enum Format {
    #[default]
    Row,
    Text,
    Json,
}

/// What was seen: the key, or identities within it.
enum Seen {
    Key(ValueState<()>),
    Identity {
        columns: Vec<Column>,
        seen: MapState<Vec<u8>, ()>,
        identity: Vec<u8>,
    },
}

struct Dedupe {
    seen: Seen,
    dropped: highwater::metrics::Counter,
}

/// Refuses names for columns that have others: who reads the output by name would get another column.
fn check_columns(inputs: &[Input], columns: &[String]) -> Result<()> {
    let mut named = inputs.iter().filter(|input| !input.columns().is_empty());
    match named.find(|input| !columns.is_empty() && input.columns() != columns) {
        Some(input) => Err(Error::config(format_args!(
            "config: `columns` are {}, but those of `{}` are {}: leave `columns` out",
            columns.join(","),
            input.name(),
            input.columns().join(",")
        ))),
        None => Ok(()),
    }
}

impl Operator for Dedupe {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        check_columns(ctx.inputs(), &config.columns)?;
        let has_rows = ctx.inputs().first().is_some_and(Input::has_rows);
        match config.format {
            Format::Row if config.columns.is_empty() && has_rows => ctx.output_like("out", 0),
            Format::Row => ctx
                .output("out")
                .columns(config.columns.iter().map(|name| (name, Kind::Text))),
            _ if !config.columns.is_empty() => {
                return Err(Error::config("config: only rows have `columns`"));
            }
            Format::Text => ctx.output("out").text(),
            Format::Json => ctx.output("out").json(),
        };
        let columns = config
            .identity
            .iter()
            .map(|name| ctx.column(name))
            .collect::<Result<Vec<_>>>()?;
        let seen = if columns.is_empty() {
            Seen::Key(ctx.value_state("seen"))
        } else {
            Seen::Identity {
                columns,
                seen: ctx.map_state("seen"),
                identity: Vec::new(),
            }
        };
        Ok(Self {
            seen,
            dropped: ctx.counter("dropped"),
        })
    }

    fn process(&mut self, record: Record, out: &mut Emitter) -> Result<()> {
        let first = match &mut self.seen {
            Seen::Key(seen) => seen.update(|seen| seen.replace(()).is_none())?,
            Seen::Identity {
                columns,
                seen,
                identity,
            } => {
                identity.clear();
                for column in columns {
                    let field = record.get(*column)?.bytes();
                    // With its length in front, so that ("a", "bc") is not ("ab", "c").
                    identity.extend_from_slice(&(field.len() as u32).to_be_bytes());
                    identity.extend_from_slice(&field);
                }
                seen.update(identity, |seen| seen.replace(()).is_none())?
            }
        };
        if first {
            return out.emit(record.key(), record.whole());
        }
        self.dropped.add(1);
        Ok(())
    }
}

highwater::export!(Dedupe);

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    #[test]
    fn the_first_record_of_a_key_is_passed_on_as_it_is() {
        let mut dedupe = Harness::<Dedupe>::open().unwrap();
        dedupe
            .process(&[("a", "1,\"x,y\""), ("b", "2"), ("a", "3")])
            .unwrap();
        dedupe.restart().unwrap();
        dedupe
            .process(&[("b", "4"), ("c", "5"), ("c", "6")])
            .unwrap();
        assert_eq!(dedupe.take_rows(), ["a,1,\"x,y\"", "b,2", "c,5"]);
        assert_eq!(dedupe.take_metric("dropped"), [1.0, 2.0]);
    }

    #[test]
    fn columns_tell_records_of_a_key_apart() {
        let setup = Harness::<Dedupe>::setup()
            .rows(["x", "y", "time"])
            .config(r#"{"identity": ["x", "y"]}"#);
        let mut dedupe = setup.open().unwrap();
        dedupe
            .process(&[
                ("k", "a,bc,1"),
                ("k", "ab,c,2"),
                ("k", "a,bc,3"),
                ("other", "a,bc,4"),
            ])
            .unwrap();
        dedupe
            .process(&[("k", "ab,c,5"), ("k", "\"ab\",d,6")])
            .unwrap();
        assert_eq!(
            dedupe.take_rows(),
            ["k,a,bc,1", "k,ab,c,2", "other,a,bc,4", "k,\"ab\",d,6"]
        );
    }

    #[test]
    fn an_unknown_column_is_refused() {
        let error = Harness::<Dedupe>::setup()
            .rows(["x"])
            .config(r#"{"identity": ["y"]}"#)
            .open()
            .unwrap_err();
        assert_eq!(error.message(), "`in` has no column `y`; it has `x`");
    }
}
