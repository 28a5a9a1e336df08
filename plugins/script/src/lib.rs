//! Does what each record says, with state of every kind. For the tests that run the same operator in the
//! SDK's harness and in the host, and compare.
//!
//! A record is a command with its arguments, separated by blanks: `add 3` adds to the number of the record's
//! key, `push 7` appends to its list, `insert 5 x` sets a field of its map. `get`, `list`, `walk` and others
//! emit what is there. `of KEY` reaches another key. What is no command is an error.

use highwater::metrics::Counter;
use highwater::{
    Emitter, ListState, MapState, OpenContext, Operator, Record, Result, ValueState, bail,
};

/// The operator.
#[derive(Debug)]
pub(crate) struct Script {
    number: ValueState<i64>,
    text: ValueState<String>,
    map: MapState<i32, String>,
    list: ListState<u16>,
    commands: Counter,
}

impl Operator for Script {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        ctx.output("out");
        ctx.output("rejected").unkeyed().text();
        Ok(Self {
            number: ctx.value_state("number"),
            text: ctx.value_state("text"),
            map: ctx.map_state("map"),
            list: ctx.list_state("list"),
            commands: ctx.counter("commands"),
        })
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        let line = record.text()?;
        let words: Vec<&str> = line.split(' ').collect();
        self.commands.add(1);
        match words[..] {
            ["add", n] => {
                let sum = self.number.get()?.unwrap_or(0) + n.parse::<i64>()?;
                self.number.set(&sum)?;
            }
            ["set", n] => self.number.set(&n.parse()?)?,
            ["clear"] => self.number.clear()?,
            ["get"] => out.emit(record.key(), self.number.get()?)?,
            ["of", key, "get"] => out.emit(key, self.number.get_for(key)?)?,
            ["of", key, "set", n] => self.number.set_for(key, &n.parse()?)?,
            ["of", key, "clear"] => self.number.clear_for(key)?,
            ["append", more] => self
                .text
                .update(|text| text.get_or_insert_default().push_str(more))?,
            ["forget"] => self.text.update(|text| *text = None)?,
            ["text"] => out.emit(record.key(), self.text.with(|text| text.cloned())?)?,
            ["insert", field, value] => self.map.insert(&field.parse()?, &value.to_owned())?,
            ["remove", field] => self.map.remove(&field.parse()?)?,
            ["look", field] => out.emit(record.key(), self.map.get(&field.parse()?)?)?,
            ["walk"] => {
                for entry in self.map.iter()? {
                    let (field, value) = entry?;
                    out.emit(record.key(), (field, value))?;
                }
            }
            ["empty"] => self.map.clear()?,
            ["push", n] => self.list.push(&n.parse()?)?,
            ["list"] => {
                for element in self.list.iter()? {
                    out.emit(record.key(), element?)?;
                }
            }
            ["drop"] => self.list.clear()?,
            ["reject", text] => out.to("rejected").emit_unkeyed(text)?,
            ["at", time, text] => out.emit_at(time.parse()?, record.key(), text)?,
            ["nowhere"] => out.to("nowhere").emit_unkeyed("")?,
            ["keyless"] => out.emit_unkeyed("")?,
            ["nest"] => self.number.with(|_| self.number.get())?.map(|_| ())?,
            _ => bail!("what is `{line}`?"),
        }
        Ok(())
    }

    fn end_of_input(&mut self, input: u32, out: &mut Emitter) -> Result<()> {
        if input > 0 {
            bail!("there is no input {input}");
        }
        self.number.for_each(|key, number| out.emit(key, number))
    }

    fn on_checkpoint_complete(&mut self, checkpoint: u64) -> Result<()> {
        if checkpoint == 13 {
            bail!("not this one");
        }
        Ok(())
    }
}

highwater::export!(Script);

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    #[test]
    fn it_does_what_records_say() {
        let mut script = Harness::<Script>::setup().open().unwrap();
        let records = [("a", "add 3"), ("b", "add 4"), ("a", "add 2"), ("a", "get")];
        script.process(&records).unwrap();
        script.restart().unwrap();
        script.process(&[("b", "get"), ("a", "of b get")]).unwrap();
        assert_eq!(script.take_rows(), ["a,5", "b,4", "b,4"]);
        let error = script.process(&[("a", "dance")]).unwrap_err();
        assert!(error.message().contains("what is `dance`?"), "{error}");
    }
}
