//! Chooses columns of a row, in any order, and which of them are the key.
//!
//! ```toml
//! config = { key = ["carrier", "origin"], columns = ["dep_delay"] }
//! ```
//!
//! Columns keep the kind that the input declares. Without `key` records keep the key they have; with `key = []` they have none. Without state, so it
//! costs next to nothing; what is left out need not be carried along.

use highwater::{
    Batch, Column, Emitter, FieldRef, Kind, OpenContext, Operator, Record, Result, Row, RowWriter,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    key: Option<Vec<String>>,
    columns: Vec<String>,
}

struct Select {
    key: Option<Vec<Column>>,
    columns: Vec<Column>,
    /// The rightmost of them all: a row that reaches it is long enough.
    last: Column,
}

/// The chosen fields of a row, emitted as they stand there.
struct Chosen<'a>(&'a [Column], &'a [FieldRef<'a>]);

impl Row for Chosen<'_> {
    fn write(&self, row: &mut RowWriter<'_>) {
        let Self(columns, fields) = self;
        columns
            .iter()
            .filter_map(|column| fields.get(column.index()))
            .for_each(|field| field.write(row));
    }
}

/// Columns of the input with their kinds.
fn kinds(ctx: &OpenContext, names: &[String]) -> Vec<(String, Kind)> {
    let input = ctx.inputs().first();
    let kind = |name: &String| input.and_then(|input| input.kind(name));
    names
        .iter()
        .map(|name| (name.clone(), kind(name).unwrap_or(Kind::Text)))
        .collect()
}

impl Operator for Select {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        let columns = kinds(ctx, &config.columns);
        match &config.key {
            Some(key) if key.is_empty() => ctx.output("out").unkeyed(),
            Some(key) => {
                let key = kinds(ctx, key);
                ctx.output("out").key_columns(key)
            }
            // The key is that of the input, with its columns.
            None => ctx.output_like("out", 0),
        }
        .columns(columns);
        let find = |names: &Vec<String>| {
            names
                .iter()
                .map(|name| ctx.column(name))
                .collect::<Result<Vec<_>>>()
        };
        let (key, columns) = (
            config.key.as_ref().map(find).transpose()?,
            find(&config.columns)?,
        );
        let last = key
            .iter()
            .flatten()
            .chain(&columns)
            .map(|column| column.index())
            .max();
        Ok(Self {
            last: Column::at(last.unwrap_or(0)),
            key,
            columns,
        })
    }

    fn process_batch(&mut self, batch: Batch, out: &mut Emitter) -> Result<()> {
        // Fields point into the batch, so they can share one list that grows once.
        let mut fields = Vec::new();
        for record in batch.records() {
            fields.clear();
            fields.extend(record.fields());
            self.choose(record, &fields, out)?;
        }
        Ok(())
    }

    fn process(&mut self, record: Record, out: &mut Emitter) -> Result<()> {
        self.choose(record, &record.fields().collect::<Vec<_>>(), out)
    }
}

impl Select {
    fn choose(&self, record: Record, fields: &[FieldRef], out: &mut Emitter) -> Result<()> {
        if fields.len() <= self.last.index() {
            record.get(self.last)?;
        }
        let value = Chosen(&self.columns, fields);
        match &self.key {
            Some(key) if key.is_empty() => out.emit_unkeyed(value),
            Some(key) => out.emit(Chosen(key, fields), value),
            None => out.emit(record.key(), value),
        }
    }
}

highwater::export!(Select);

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    fn check(config: &str, expect: &[&str]) {
        let setup = Harness::<Select>::setup()
            .rows(["a", "b", "c"])
            .config(config);
        let mut select = setup.open().unwrap();
        select.process(&[("k", "1,\"x,y\",3")]).unwrap();
        assert_eq!(select.take_rows(), expect, "{config}");
        let error = select.process(&[("k", "1,2")]).unwrap_err();
        assert_eq!(
            error.message(),
            "the row ends after 2 fields: column `c` is missing"
        );
    }

    #[test]
    fn columns_and_key_are_chosen() {
        check(r#"{"columns": ["c", "b"]}"#, &["k,3,\"x,y\""]);
        check(r#"{"columns": ["a"], "key": ["c", "b"]}"#, &["3,\"x,y\",1"]);
        check(r#"{"columns": ["c"], "key": []}"#, &["3"]);
    }
}
